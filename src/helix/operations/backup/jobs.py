"""The backup of every day and the restore test of every month, as tasks."""

from typing import Any

import msgspec

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database
from helix.core.instance import load_keyring
from helix.core.log import get_log
from helix.operations.backup.create import create_logical, prune
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.verify import verify
from helix.tasks import Priority, RetryPolicy, Schedule, TaskContext, TaskRegistry

__all__ = ["BACKUP_CREATE", "BACKUP_VERIFY", "register_backups"]

BACKUP_CREATE = "helix.backup.create"
BACKUP_VERIFY = "helix.backup.verify"
_LOG = get_log(__name__)
_TIMEOUT_S = 6 * 3_600.0


class BackupMade(msgspec.Struct, frozen=True):
    """The result of the task of every day."""

    name: str
    size_bytes: int
    rows: int
    deleted: list[str]


class BackupTested(msgspec.Struct, frozen=True):
    """The result of the task of every month."""

    name: str
    duration_s: float


def register_backups(
    registry: TaskRegistry, db: Database, settings: Settings, *, clock: Clock
) -> None:
    """Register the backup at 02:30 UTC every day, and its restore test on the first, at 03:30.

    One runs at a time. After a backup, and only after a good one, old ones go.
    """
    rules: dict[str, Any] = {
        "queue": "system",
        "priority": Priority.LOW,
        "retry": RetryPolicy(max_retries=2, delay_s=900),
        "timeout_s": _TIMEOUT_S,
        "stuck_after_s": None,
        "concurrency_max": 1,
    }

    def directory() -> BackupDirectory:
        keys = load_keyring(settings).derived(BACKUP_PURPOSE)
        return BackupDirectory(settings.backup_path, keys)

    def report(line: str) -> None:
        _LOG.info("backup_progress", line=line)

    @registry.task(BACKUP_CREATE, **rules)
    async def create(_: TaskContext, __: dict[str, Any]) -> BackupMade:
        place = directory()
        backup = await create_logical(db.url, settings, place, now=clock.now(), report=report)
        gone = prune(
            place,
            now=clock.now(),
            days=settings.backup_days,
            keep_min=settings.backup_keep_min,
        )
        return BackupMade(
            backup.name,
            backup.manifest.size_bytes,
            backup.manifest.rows,
            [old.name for old in gone],
        )

    @registry.task(BACKUP_VERIFY, **rules)
    async def test(_: TaskContext, __: dict[str, Any]) -> BackupTested:
        place = directory()
        backup = place.newest()
        took_s = await verify(db.url, settings, place, backup, report=report)
        return BackupTested(backup.name, took_s)

    for name, cron in ((BACKUP_CREATE, "30 2 * * *"), (BACKUP_VERIFY, "30 3 1 * *")):
        registry.schedule(Schedule(name, name, cron=cron, queue="system", priority=Priority.LOW))
