"""No data is destroyed without a backup that was tested (docs/adr/0056).

Asked before a revision whose script says `-- helix: destructive` meets a table with rows, and
before a downgrade that drops any.
"""

import asyncpg

from helix.core.db import Connection, Queries
from helix.core.log import get_log
from helix.operations.errors import BackupNeeded
from helix.operations.types import Guard, Report

__all__ = ["BACKUP_AGE_MAX_S", "require_backup", "without_backup"]

_LOG = get_log(__name__)
_QUERIES = Queries("helix.operations")
BACKUP_AGE_MAX_S = 24 * 3_600.0


async def require_backup(conn: Connection, what: str) -> None:
    """Return if a backup of the last 24 hours was restored and compared; raises BackupNeeded."""
    try:
        rows = await _QUERIES.rows(conn, "tested_backup")
    except asyncpg.UndefinedTableError as exc:
        raise BackupNeeded(what, "a schema this old keeps no record of backups") from exc
    if not rows:
        raise BackupNeeded(what, "there is no backup on record")
    tested = [row for row in rows if row["tested_at"] is not None]
    if not tested:
        raise BackupNeeded(what, f"{rows[0]['backup_name']} was never restored to test it")
    if tested[0]["age_s"] > BACKUP_AGE_MAX_S:
        name, hours = tested[0]["backup_name"], tested[0]["age_s"] / 3_600
        raise BackupNeeded(what, f"{name}, the last that was tested, is {hours:.0f} hours old")


def without_backup(report: Report) -> Guard:
    """Return a guard that lets everything pass, and says so in the log and to `report`."""

    async def pass_(_: Connection, what: str) -> None:
        _LOG.warning("migrated_without_backup", what=what)
        report(f"{what}; there is no backup to go back to, as you asked")

    return pass_
