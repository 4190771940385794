"""Throwing away: backups that are too old, and the archived log that no base needs any more."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from helix.core.config import Settings
from helix.operations.backup.archive import WalArchive, clusters
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.ranges import bases_of, needed_from
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.wal import number_of

__all__ = ["Keeping", "Pruned", "expired", "prune"]


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept: logical backups for `days`, and the newest `keep_min` however old they are.

    Of physical ones those from which any moment of the last `window_days` can be recovered.
    """

    days: int
    keep_min: int
    window_days: int

    @classmethod
    def of(cls, settings: Settings) -> "Keeping":
        """Return what these settings want kept."""
        return cls(settings.backup_days, settings.backup_keep_min, settings.backup_window_days)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went, or would go: backups, and how many files of the log; bytes of both."""

    backups: tuple[Backup, ...]
    segments: int
    size_bytes: int


def expired(backups: Sequence[Backup], keeping: Keeping, *, now: datetime) -> list[Backup]:
    """Return the backups to delete. The last physical one of the newest cluster never goes."""
    logical = [backup for backup in backups if backup.manifest.method is Method.LOGICAL]
    newest_first = sorted(logical, key=lambda backup: backup.manifest.created_at, reverse=True)
    limit = now - timedelta(days=keeping.days)
    going = [b for b in newest_first[keeping.keep_min :] if b.manifest.created_at < limit]
    return going + _expired_bases(backups, keeping, now=now)


def _expired_bases(backups: Sequence[Backup], keeping: Keeping, *, now: datetime) -> list[Backup]:
    physical = [backup for backup in backups if backup.manifest.method is Method.PHYSICAL]
    if not physical:
        return []
    window_begins = now - timedelta(days=keeping.window_days)
    forgotten = now - timedelta(days=max(keeping.days, keeping.window_days))
    present = max(physical, key=lambda backup: backup.manifest.created_at)
    going: list[Backup] = []
    for identifier in {backup.manifest.system_identifier or "" for backup in physical}:
        bases = bases_of(physical, identifier)
        before = [base for base in bases if base.manifest.created_at < window_begins]
        past = identifier != present.manifest.system_identifier
        if past and bases[0].manifest.created_at < forgotten:  # a cluster that is gone
            going += bases
        else:
            going += before[1:]  # the first of them carries the beginning of the window
    return going


def prune(
    directory: BackupDirectory, keeping: Keeping, *, now: datetime, dry_run: bool = False
) -> Pruned:
    """Delete what is not kept; return what goes.

    Only whole, authentic backups count as kept; one that cannot be read is left for a person, and
    while there is one no log goes either: that backup may need it. Raises BackupsBusy.
    """
    if dry_run:
        return _prune(directory, keeping, now=now, delete=False)
    with directory.locked():
        return _prune(directory, keeping, now=now, delete=True)


def _prune(directory: BackupDirectory, keeping: Keeping, *, now: datetime, delete: bool) -> Pruned:
    backups, unusable = directory.list()
    going = expired(backups, keeping, now=now)
    gone = {backup.name for backup in going}
    kept = [backup for backup in backups if backup.name not in gone]
    size_bytes = sum(backup.manifest.size_bytes for backup in going)
    if delete:
        for backup in going:
            directory.remove(backup)
    segments = 0
    for archive in [] if unusable else clusters(directory.path, directory.keys):
        names = _unneeded(archive, bases_of(kept, archive.identifier), keeping)
        segments += len(names)
        size_bytes += sum(archive.file(name).stat().st_size for name in names)
        if delete:
            archive.remove(names)
    return Pruned(tuple(going), segments, size_bytes)


def _unneeded(archive: WalArchive, bases: Sequence[Backup], keeping: Keeping) -> list[str]:
    """Return the files of the log before the oldest base; histories of timelines stay."""
    names = [name for name in archive.names() if not name.endswith(".history")]
    first = needed_from(bases)
    if first is not None:
        return [name for name in names if number_of(name) < first]
    old = time.time() - keeping.window_days * 86_400  # a base may be on its way
    return [name for name in names if archive.file(name).stat().st_mtime < old]
