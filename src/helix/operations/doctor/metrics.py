"""What the doctor saw last, for Prometheus."""

import math

from prometheus_client import CollectorRegistry, Gauge

from helix.operations.doctor.examine import CODES
from helix.operations.doctor.types import Examination

__all__ = ["METRICS", "DoctorMetrics"]

METRICS: dict[str, tuple[str, str | None]] = {
    "helix_page_checksum_failures": ("Pages whose checksum was wrong.", None),
    "helix_connections_used": ("Client connections of the whole PostgreSQL server.", None),
    "helix_connections_limit": ("Connections it allows beside those reserved.", None),
    "helix_connections_claimed": ("What all processes of Helix may open between them.", None),
    "helix_statement_slowest_seconds": ("Mean time of the slowest statement.", None),
    "helix_transaction_oldest_seconds": ("Age of the oldest open transaction.", None),
    "helix_transaction_idle_seconds": ("Longest idling within a transaction.", None),
    "helix_replication_slot_kept_bytes": ("WAL that the worst slot keeps.", None),
    "helix_replica_behind_seconds": ("How far the last replica is behind.", None),
    "helix_wal_archive_failing": ("1 while the newest WAL file could not be archived.", None),
    "helix_wal_archive_age_seconds": ("Since the last WAL file was archived.", None),
    "helix_clock_skew_seconds": ("The database's clock minus this process's.", None),
    "helix_disk_used_ratio": ("Share of a volume that is used.", "volume"),
    "helix_disk_free_bytes": ("What PostgreSQL may still write to a volume.", "volume"),
    "helix_disk_days_to_full": ("Days to full at the pace of the sampled days.", "volume"),
    "helix_migrations_pending": ("Revisions that this release has and the database lacks.", None),
    "helix_schema_faults": ("Things that are not as the schema says.", None),
    "helix_database_bytes": ("Size of the database.", None),
    "helix_database_growth_bytes_per_day": ("Its growth over the sampled days.", None),
    "helix_table_bytes": ("Size of the ten largest tables.", "table"),
    "helix_bloat_bytes": ("About what tables hold that is nothing.", None),
    "helix_dead_rows": ("Rows that wait for vacuum.", None),
    "helix_unused_index_bytes": ("Indexes nothing has used since statistics began.", None),
    "helix_duplicate_index_bytes": ("Indexes that another one answers for.", None),
    "helix_frozen_age_transactions": ("Transactions since every row was frozen.", None),
    "helix_partition_months_ahead": ("Months made ahead; -1: not even this one.", None),
    "helix_default_partition_rows": ("Rows whose month was not there.", None),
    "helix_quarantined": ("1 in a restored copy that nobody has released.", None),
    "helix_queue_oldest_seconds": ("How long the oldest due task waits.", None),
    "helix_queue_waiting": ("Tasks that wait.", None),
    "helix_workers_alive": ("Workers that hold a lease.", None),
    "helix_dead_letters": ("Tasks that failed for good and were not redriven.", None),
    "helix_backups": ("Backups that can be used.", None),
    "helix_backup_age_seconds": ("Age of the newest backup.", None),
    "helix_restore_test_age_seconds": ("Since a backup was restored and compared.", None),
    "helix_retention_age_seconds": ("Since retention ran to its end.", None),
    "helix_archive_files": ("Files of old requests.", None),
    "helix_archive_bytes": ("Bytes of them.", None),
    "helix_archive_files_faulty": ("Those that are missing or cannot be used.", None),
    "helix_archive_failing": ("1 while old requests cannot be archived.", None),
    "helix_providers_troubled": ("Enabled providers that cannot be used or fail.", None),
    "helix_secrets_unreadable": ("Secrets sealed with keys that are not here.", None),
    "helix_api_keys_expiring": ("API keys that stop working within 14 days.", None),
    "helix_spool_bytes": ("Answered calls that wait on disk for the database.", None),
    "helix_doctor_check_failed": ("1 for a check that failed or took too long.", "code"),
}
"""Every metric that a check measures: its help, and its label if it has one."""


class DoctorMetrics:
    """Gauges of the last examination; NaN, or no sample, for what is not known."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._gauges = {
            name: Gauge(name, text, [label] if label else [], registry=registry)
            for name, (text, label) in METRICS.items()
        }
        self._severity = Gauge(
            "helix_doctor_severity",
            "What each check found: 0 ok, 1 notice, 2 warning, 3 critical.",
            ["code"],
            registry=registry,
        )
        self._at = Gauge(
            "helix_doctor_examined_timestamp_seconds",
            "When the doctor last looked, since 1970.",
            registry=registry,
        )
        self._took = Gauge(
            "helix_doctor_examination_seconds", "How long it looked.", registry=registry
        )
        self.forget()

    def forget(self) -> None:
        """Know nothing of the numbers any more."""
        for name, (_, label) in METRICS.items():
            if label is None:
                self._gauges[name].set(math.nan)
            else:
                self._gauges[name].clear()
        for code in CODES:
            self._severity.labels(code).set(math.nan)

    def take(self, found: Examination) -> None:
        """Take over what was found; what was not measured this time is no longer told."""
        self.forget()
        for finding in found.findings:
            self._severity.labels(finding.code).set(finding.severity.rank)
            for measure in finding.measures:
                gauge = self._gauges[measure.name]
                (gauge if measure.label is None else gauge.labels(measure.label)).set(measure.value)
        self._at.set(found.at.timestamp())
        self._took.set(found.duration_s)
