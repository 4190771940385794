"""What the database remembers of backups, and what the doctor makes of it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Queries, connect
from helix.core.instance import HomePaths
from helix.core.log import get_log
from helix.operations.backup.archive import WalArchive, clusters, system_identifier
from helix.operations.backup.keeper import read_trouble
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.prune import Pruned
from helix.operations.backup.ranges import Recoverable, bases_of, needed_from, recoverable
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.wal import number_of, segment_of
from helix.operations.erasure.ledger import Erasure, apply
from helix.operations.postgres_programs import find_programs

__all__ = [
    "Archiving",
    "BackupHealth",
    "backup_health",
    "quarantine",
    "record_pruned",
    "record_run",
    "release",
    "verified_at",
]

_LOG = get_log(__name__)
_QUERIES = Queries("helix.operations.backup")
_OPERATIONS = {"create": "backup.created", "verify": "backup.verified"}
BACKUP_AGE_MAX = timedelta(hours=36)
RESTORE_TEST_AGE_MAX = timedelta(days=35)
LAG_S_MAX = 240.0
"""How long a finished segment may wait to be archived."""


@dataclass(frozen=True, slots=True)
class Archiving:
    """The archive of the log: what is in it, and what waits in pg_wal to be archived.

    `waiting` segments are finished and not archived, the oldest for `lag_s` seconds. `trouble` is
    why, as far as Helix knows; `failed_count` is PostgreSQL's own count of attempts that failed.
    """

    segments: int
    size_bytes: int
    last_archived: str | None
    waiting: int
    lag_s: float
    failed_count: int
    trouble: str | None


@dataclass(frozen=True, slots=True)
class BackupHealth:
    """How old the last good backup and the last restore test are; `alarms` say what to do.

    `recoverable` are the stretches of time any moment of which can be brought back. `archiving` is
    None where Helix does not archive the log.
    """

    backups: int
    last_backup_at: datetime | None
    last_restore_test_at: datetime | None
    unusable: tuple[str, ...]
    alarms: tuple[str, ...]
    last_physical_at: datetime | None = None
    archiving: Archiving | None = None
    recoverable: tuple[Recoverable, ...] = ()


async def record_run(
    url: str,
    *,
    action: str,
    backup: str,
    method: Method,
    duration_s: float,
    size_bytes: int | None = None,
    error: str | None = None,
    actor: Actor = audit.SYSTEM,
) -> None:
    """Record what was done in `backup_runs` and `audit_log`, in one transaction.

    A database that cannot take it is only logged: the backup counts all the same.
    """
    try:
        conn = await connect(url, application_name="helix backup")
        try:
            async with conn.transaction():
                await _QUERIES.run(
                    conn,
                    "record_run",
                    action=action,
                    status="succeeded" if error is None else "failed",
                    backup_name=backup,
                    method=method.value,
                    size_bytes=size_bytes,
                    duration_ms=round(duration_s * 1_000),
                    error_message=None if error is None else error[:2_000],
                )
                await _audit(
                    conn,
                    _OPERATIONS[action],
                    actor=actor,
                    backup=backup,
                    details={"method": method.value, "size_bytes": size_bytes},
                    failed=error is not None,
                )
        finally:
            await conn.close()
    except (*OUTAGES, asyncpg.PostgresError) as exc:
        _LOG.error("backup_run_not_recorded", action=action, backup=backup, reason=str(exc)[:200])


async def record_pruned(url: str, pruned: Pruned, *, actor: Actor = audit.SYSTEM) -> None:
    """Record in `audit_log` which backups went; nothing when none did, nor segments of the log.

    A database that cannot take it is only logged.
    """
    if not pruned.backups and not pruned.segments:
        return
    try:
        conn = await connect(url, application_name="helix backup")
        try:
            await _audit(
                conn,
                "backup.pruned",
                actor=actor,
                details={
                    "backups": [backup.name for backup in pruned.backups],
                    "segments": pruned.segments,
                    "size_bytes": pruned.size_bytes,
                },
            )
        finally:
            await conn.close()
    except (*OUTAGES, asyncpg.PostgresError) as exc:
        _LOG.error("prune_not_recorded", backups=len(pruned.backups), reason=str(exc)[:200])


async def quarantine(conn: Connection, *, backup: str, reason: str, actor: Actor) -> None:
    """Quarantine this restored database, and record in its own `audit_log` who restored it."""
    async with conn.transaction():
        await _QUERIES.run(conn, "quarantine", backup_name=backup, reason=reason)
        await _audit(
            conn, "backup.restored", actor=actor, backup=backup, details={"reason": reason}
        )


async def _audit(
    conn: Connection,
    operation: str,
    *,
    actor: Actor,
    details: Mapping[str, Any],
    backup: str | None = None,
    failed: bool = False,
) -> None:
    """Write a row of `audit_log` where there is one: backups are made of older schemas as well."""
    if (await _QUERIES.rows(conn, "find_audit"))[0]["found"]:
        await audit.record(
            conn,
            operation,
            actor=actor,
            subject="backup",
            subject_name=backup,
            details=details,
            outcome="failed" if failed else "done",
        )


async def verified_at(url: str) -> dict[str, datetime]:
    """Return when each backup last passed its restore test, by name."""
    conn = await connect(url, application_name="helix backup")
    try:
        rows = await _QUERIES.rows(conn, "list_runs")
    finally:
        await conn.close()
    return {row["backup_name"]: row["verified_at"] for row in rows if row["verified_at"]}


async def backup_health(
    url: str, directory: BackupDirectory, *, now: datetime, settings: Settings | None = None
) -> BackupHealth:
    """Look at the directory and at `backup_runs`; an alarm for each thing that is overdue.

    A backup counts when it is listed now, whatever the table says of it; a restore test counts
    for 35 days. With `settings`, those of the instance, physical backups and the archive of the
    log are looked at too.
    """
    backups, unusable = await asyncio.to_thread(directory.list)
    archiving, worries, stretches = None, list[str](), list[Recoverable]()
    conn = await connect(url, application_name="helix backup")
    try:
        runs = {row["action"]: row for row in await _QUERIES.rows(conn, "last_runs")}
        if settings is not None and settings.external_url() is None:
            archiving, worries = await _look_at_archive(conn, settings, directory, backups, now)
    finally:
        await conn.close()
    if settings is not None and (archives := clusters(directory.path, directory.keys)):
        programs = await asyncio.to_thread(find_programs, settings)
        stretches = await asyncio.to_thread(recoverable, backups, archives, programs)
    last = backups[0].manifest.created_at if backups else None
    tested = runs["verify"]["succeeded_at"]
    alarms: list[str] = []
    if last is None:
        alarms.append(f"there is no backup in {directory.path}: `helix backup create`")
    elif now - last > BACKUP_AGE_MAX:
        alarms.append(f"the last backup is {_age(now - last)} old: `helix backup create`")
    if tested is None:
        alarms.append("no backup was ever restored to test it: `helix backup verify`")
    elif now - tested > RESTORE_TEST_AGE_MAX:
        alarms.append(f"the last restore test was {_age(now - tested)} ago: `helix backup verify`")
    for action, row in sorted(runs.items()):
        if row["failed_at"] and (not row["succeeded_at"] or row["failed_at"] > row["succeeded_at"]):
            alarms.append(f"the last `helix backup {action}` failed: {row['error_message']}")
    alarms += [f"{name} cannot be used: {reason}" for name, reason in sorted(unusable.items())]
    alarms += worries + sorted({one.fault for one in stretches if one.fault})
    physical = [b.manifest.created_at for b in backups if b.manifest.method is Method.PHYSICAL]
    return BackupHealth(
        backups=len(backups),
        last_backup_at=last,
        last_restore_test_at=tested,
        unusable=tuple(sorted(unusable)),
        alarms=tuple(alarms),
        last_physical_at=max(physical, default=None),
        archiving=archiving,
        recoverable=tuple(stretches),
    )


async def _look_at_archive(
    conn: Connection,
    settings: Settings,
    directory: BackupDirectory,
    backups: Sequence[Backup],
    now: datetime,
) -> tuple[Archiving | None, list[str]]:
    """Return the state of the archive of this home's cluster, and what is wrong with it."""
    if not settings.wal_archive or not (HomePaths(settings.home_dir).data / "PG_VERSION").exists():
        return None, []
    identifier = system_identifier(HomePaths(settings.home_dir).data)
    archive = WalArchive(directory.path, identifier, directory.keys)
    names = await asyncio.to_thread(archive.names)
    row = (await _QUERIES.rows(conn, "read_archiver"))[0]
    trouble = read_trouble(settings.home_dir)
    found = Archiving(
        segments=len(names),
        size_bytes=sum(archive.file(name).stat().st_size for name in names),
        last_archived=row["last_archived_wal"],
        waiting=row["waiting"],
        lag_s=float(row["lag_s"]),
        failed_count=row["failed_count"],
        trouble=trouble.reason if trouble else None,
    )
    bases = bases_of(backups, identifier)
    alarms: list[str] = []
    if row["archive_mode"] == "off":
        alarms.append("the log is not archived: restart Helix, and look into local.conf")
    if trouble is not None:
        alarms.append(
            f"since {trouble.since:%Y-%m-%d %H:%M} UTC {trouble.wal} cannot be archived, and the "
            f"log grows in pg_wal: {trouble.reason}"
        )
    elif found.lag_s > LAG_S_MAX:
        alarms.append(
            f"{found.waiting} segments of the log wait to be archived, for {found.lag_s:.0f} s: "
            f"see {HomePaths(settings.home_dir).postgres_log}"
        )
    told = found.last_archived or ""
    first = needed_from(bases)
    if segment_of(told) and told not in names and first is not None and number_of(told) >= first:
        alarms.append(f"{told} was archived and is not in {archive.path} any more")
    return found, alarms + _base_alarms(settings, bases, archive, names, now)


def _base_alarms(
    settings: Settings,
    bases: Sequence[Backup],
    archive: WalArchive,
    names: Sequence[str],
    now: datetime,
) -> list[str]:
    if not settings.backup_physical_days:
        return []
    due = timedelta(days=settings.backup_physical_days) + BACKUP_AGE_MAX
    if bases and now - bases[0].manifest.created_at > due:
        age = _age(now - bases[0].manifest.created_at)
        return [f"the last physical backup is {age} old: `helix backup create --physical`"]
    oldest = archive.file(names[0]).stat().st_mtime if names else now.timestamp()
    if not bases and now.timestamp() - oldest > BACKUP_AGE_MAX.total_seconds():
        return ["no physical backup carries the archived log: `helix backup create --physical`"]
    return []


def _age(age: timedelta) -> str:
    return f"{age.days} days" if age.days > 1 else f"{age.total_seconds() / 3_600:.0f} hours"


async def release(
    url: str, *, erasures: Sequence[Erasure] = (), actor: Actor | None = None
) -> list[str]:
    """End the quarantine of the database at `url`; return what it was for, or nothing.

    Before that, in the same transaction, all of `erasures` is erased again: what was erased since
    the backup was made.
    """
    conn = await connect(url, application_name="helix backup")
    try:
        async with conn.transaction():
            again = await apply(conn, erasures)
            reasons = [row["reason"] for row in await _QUERIES.rows(conn, "release")]
            for reason in reasons:
                await audit.record(
                    conn,
                    "backup.released",
                    actor=actor or audit.SYSTEM,
                    subject="database",
                    details={"reason": reason, "erased_again": again},
                )
    finally:
        await conn.close()
    return reasons
