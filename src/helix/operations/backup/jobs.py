"""The backup of every day and the restore test of every month, as tasks."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database
from helix.core.instance import HomePaths, load_keyring
from helix.core.log import get_log
from helix.operations.backup.archive import system_identifier
from helix.operations.backup.base import create_physical
from helix.operations.backup.create import create_logical
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.prune import Keeping, prune
from helix.operations.backup.ranges import bases_of
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import record_pruned
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.verify import verify
from helix.tasks import Priority, RetryPolicy, Schedule, TaskContext, TaskRegistry

__all__ = [
    "BACKUP_CREATE",
    "BACKUP_VERIFY",
    "BackupOrder",
    "VerifyOrder",
    "register_backups",
]

BACKUP_CREATE = "helix.backup.create"
BACKUP_VERIFY = "helix.backup.verify"
_LOG = get_log(__name__)
_TIMEOUT_S = 6 * 3_600.0
_EARLY = timedelta(hours=1)
"""A backup due at this time of the day a week ago may have ended a little later."""


class BackupOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which backup to make; None: a logical one, and a physical one when that is due."""

    method: Method | None = None


class VerifyOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which backup to restore to test it; None: the newest of each kind."""

    name: str | None = None


class BackupMade(msgspec.Struct, frozen=True):
    """A backup that was made."""

    name: str
    method: Method
    size_bytes: int


class BackupsMade(msgspec.Struct, frozen=True):
    """The result of the task of every day; `segments_deleted` are files of the archived log."""

    made: list[BackupMade]
    deleted: list[str]
    segments_deleted: int


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
    async def create(_: TaskContext, order: BackupOrder) -> BackupsMade:
        place, now = directory(), clock.now()
        made: list[Backup] = []
        if order.method is not Method.PHYSICAL:
            made.append(await create_logical(db.url, settings, place, now=now, report=report))
        if order.method is Method.PHYSICAL or (
            order.method is None and _physical_is_due(settings, place, now)
        ):
            made.append(
                await create_physical(db.url, settings, place, now=clock.now(), report=report)
            )
        gone = prune(place, Keeping.of(settings), now=clock.now())
        await record_pruned(db.url, gone)
        return BackupsMade(
            [BackupMade(one.name, one.manifest.method, one.manifest.size_bytes) for one in made],
            [old.name for old in gone.backups],
            gone.segments,
        )

    @registry.task(BACKUP_VERIFY, **rules)
    async def test(_: TaskContext, order: VerifyOrder) -> list[BackupTested]:
        place = directory()
        tested: list[BackupTested] = []
        for backup in [place.get(order.name)] if order.name else _newest_of_each(place):
            took_s = await verify(db.url, settings, place, backup, report=report)
            tested.append(BackupTested(backup.name, took_s))
        return tested

    for name, cron in ((BACKUP_CREATE, "30 2 * * *"), (BACKUP_VERIFY, "30 3 1 * *")):
        registry.schedule(Schedule(name, name, cron=cron, queue="system", priority=Priority.LOW))


def _physical_is_due(settings: Settings, place: BackupDirectory, now: datetime) -> bool:
    """Whether the last physical backup of this cluster is as old as it may become, or none is."""
    data = HomePaths(settings.home_dir).data
    wanted = settings.wal_archive and settings.backup_physical_days
    if not wanted or settings.external_url() is not None or not (data / "PG_VERSION").exists():
        return False
    bases = bases_of(place.list()[0], system_identifier(data))
    due = timedelta(days=settings.backup_physical_days) - _EARLY
    return not bases or now - bases[0].manifest.created_at >= due


def _newest_of_each(place: BackupDirectory) -> list[Backup]:
    """Return the newest backup, and the newest made in the other way. Raises BackupNotFound."""
    newest = place.newest()
    backups, _ = place.list()
    other = [one for one in backups if one.manifest.method is not newest.manifest.method]
    return [newest, *other[:1]]
