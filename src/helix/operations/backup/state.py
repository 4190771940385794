"""What the database remembers of backups, and what the doctor makes of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from helix.core.db import OUTAGES, Queries, connect
from helix.core.log import get_log
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.types import Method

__all__ = ["BackupHealth", "backup_health", "record_run", "release", "verified_at"]

_LOG = get_log(__name__)
_QUERIES = Queries("helix.operations.backup")
BACKUP_AGE_MAX = timedelta(hours=36)
RESTORE_TEST_AGE_MAX = timedelta(days=35)


@dataclass(frozen=True, slots=True)
class BackupHealth:
    """How old the last good backup and the last restore test are; `alarms` say what to do."""

    backups: int
    last_backup_at: datetime | None
    last_restore_test_at: datetime | None
    unusable: tuple[str, ...]
    alarms: tuple[str, ...]


async def record_run(
    url: str,
    *,
    action: str,
    backup: str,
    method: Method,
    duration_s: float,
    size_bytes: int | None = None,
    error: str | None = None,
) -> None:
    """Record what was done in `backup_runs`; a database that cannot take it is only logged."""
    try:
        conn = await connect(url, application_name="helix backup")
        try:
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
        finally:
            await conn.close()
    except (*OUTAGES, asyncpg.PostgresError) as exc:
        _LOG.error("backup_run_not_recorded", action=action, backup=backup, reason=str(exc)[:200])


async def verified_at(url: str) -> dict[str, datetime]:
    """Return when each backup last passed its restore test, by name."""
    conn = await connect(url, application_name="helix backup")
    try:
        rows = await _QUERIES.rows(conn, "list_runs")
    finally:
        await conn.close()
    return {row["backup_name"]: row["verified_at"] for row in rows if row["verified_at"]}


async def backup_health(url: str, directory: BackupDirectory, *, now: datetime) -> BackupHealth:
    """Look at the directory and at `backup_runs`; an alarm for each thing that is overdue.

    A backup counts when it is listed now, whatever the table says of it; a restore test counts
    for 35 days.
    """
    backups, unusable = directory.list()
    conn = await connect(url, application_name="helix backup")
    try:
        runs = {row["action"]: row for row in await _QUERIES.rows(conn, "last_runs")}
    finally:
        await conn.close()
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
    return BackupHealth(len(backups), last, tested, tuple(sorted(unusable)), tuple(alarms))


def _age(age: timedelta) -> str:
    return f"{age.days} days" if age.days > 1 else f"{age.total_seconds() / 3_600:.0f} hours"


async def release(url: str) -> list[str]:
    """End the quarantine of the database at `url`; return what it was for, or nothing."""
    conn = await connect(url, application_name="helix backup")
    try:
        async with conn.transaction():
            rows = await _QUERIES.rows(conn, "release")
    finally:
        await conn.close()
    return [row["reason"] for row in rows]
