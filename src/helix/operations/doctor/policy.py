"""What is too much: pure decisions, numbers in, severities and words out."""

from collections.abc import Iterable
from dataclasses import dataclass

from helix.operations.doctor.types import Finding, Measure, Severity

__all__ = [
    "LIMITS",
    "Limits",
    "Volume",
    "above",
    "age_text",
    "bytes_text",
    "days_to_full",
    "examine_volume",
    "worst",
]

_STEP = 1_024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
VOLUME_LABELS = {
    "data": "the volume of PostgreSQL's data",
    "wal": "the volume of the WAL",
    "backups": "the volume of the backups",
    "archive": "the volume of the archive of requests",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a number is worth telling. Seconds, bytes, shares of one, rows, days."""

    connections_warning: float = 0.80
    connections_critical: float = 0.95
    transaction_warning_s: float = 300.0
    transaction_critical_s: float = 3_600.0
    idle_warning_s: float = 60.0
    idle_critical_s: float = 900.0
    statement_notice_ms: float = 500.0
    index_notice_bytes: int = 50_000_000
    bloat_share: float = 0.5
    bloat_bytes: int = 100_000_000
    slot_warning_bytes: int = 1_000_000_000
    slot_critical_bytes: int = 10_000_000_000
    replica_warning_s: float = 60.0
    queue_warning_s: float = 300.0
    queue_critical_s: float = 3_600.0
    dead_letters_warning: int = 100
    retention_age_s: float = 36 * 3_600.0
    clock_warning_s: float = 1.0
    clock_critical_s: float = 30.0
    disk_warning: float = 0.80
    disk_critical: float = 0.90
    days_to_full_warning: float = 14.0
    days_to_full_critical: float = 2.0
    frozen_age_warning: int = 1_000_000_000
    frozen_age_critical: int = 1_800_000_000
    expiry_days: int = 14


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system as df counts it: bytes used, and bytes PostgreSQL may still write."""

    name: str
    path: str
    used_bytes: int
    free_bytes: int

    @property
    def share(self) -> float:
        """Used, of what can be used: 0 to 1."""
        return self.used_bytes / max(1, self.used_bytes + self.free_bytes)


def above(value: float, *, warning: float, critical: float) -> Severity:
    """Return how bad a value is that should stay low."""
    if value >= critical:
        return Severity.CRITICAL
    return Severity.WARNING if value >= warning else Severity.OK


def worst(severities: Iterable[Severity]) -> Severity:
    """Return the worst, ok when there is none."""
    return max(severities, key=lambda one: one.rank, default=Severity.OK)


def age_text(seconds: float) -> str:
    """Return a span of time for people: `40 s`, `12 min`, `5.0 h`, `3.2 days`."""
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.1f} days"


def bytes_text(count: float) -> str:
    """Return a number of bytes for people, in powers of 1,024: `512 B`, `1.5 GiB`."""
    size = float(count)
    for unit in _UNITS:
        if abs(size) < _STEP or unit == _UNITS[-1]:
            break
        size /= _STEP
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def days_to_full(free_bytes: int, bytes_per_day: float | None) -> float | None:
    """Return in how many days a volume is full at this pace; None when it does not grow."""
    if bytes_per_day is None or bytes_per_day <= 0:
        return None
    return free_bytes / bytes_per_day


def examine_volume(
    volume: Volume, *, bytes_per_day: float | None, limits: Limits = LIMITS
) -> Finding:
    """Return what to say of a file system that is so full and fills at this pace."""
    left = days_to_full(volume.free_bytes, bytes_per_day)
    severity = above(volume.share, warning=limits.disk_warning, critical=limits.disk_critical)
    forecast = "; growth is not known yet" if bytes_per_day is None else "; it does not grow"
    if left is not None:
        forecast = f"; full in {left:.0f} days at {bytes_text(bytes_per_day or 0)} a day"
        soon = severity
        if left < limits.days_to_full_critical:
            soon = Severity.CRITICAL
        elif left < limits.days_to_full_warning:
            soon = Severity.WARNING
        severity = worst((severity, soon))
    measures = [
        Measure("helix_disk_used_ratio", volume.share, volume.name),
        Measure("helix_disk_free_bytes", volume.free_bytes, volume.name),
    ]
    if left is not None:
        measures.append(Measure("helix_disk_days_to_full", left, volume.name))
    return Finding(
        f"disk_{volume.name}",
        severity,
        f"{VOLUME_LABELS[volume.name]} is {volume.share:.0%} full, "
        f"{bytes_text(volume.free_bytes)} free{forecast}",
        None if severity is Severity.OK else _DISK_TODO[volume.name].format(path=volume.path),
        round(volume.share, 4),
        "of the volume",
        ({"path": volume.path, "used_bytes": volume.used_bytes, "free_bytes": volume.free_bytes},),
        tuple(measures),
    )


_DISK_TODO = {
    "data": "make the volume of {path} larger, or let retention drop months earlier; "
    "`helix doctor --only sizes` names the largest tables",
    "wal": "make the volume of {path} larger; a slot or a failing archive may keep the WAL: "
    "`helix doctor --only replication_slots,wal_archive`",
    "backups": "make the volume of {path} larger, or keep fewer days: HELIX_BACKUP_DAYS",
    "archive": "make the volume of {path} larger, or move it to another and set HELIX_ARCHIVE_DIR",
}
