"""Errors of backups: each says what is wrong with which backup, and what to do."""

from typing import ClassVar

from helix.core.errors import Conflict, HelixError, Misuse, NotFound, Unavailable

__all__ = [
    "BackupDamaged",
    "BackupDiffers",
    "BackupFailed",
    "BackupKeyMissing",
    "BackupNotFound",
    "BackupsBusy",
    "RestoreTargetTaken",
    "TargetOutOfRange",
    "WalConflict",
    "WalMissing",
]


class BackupNotFound(NotFound):
    """No finished backup has that name."""

    code: ClassVar[str] = "operations.backup_not_found"


class BackupDamaged(HelixError):
    """Bytes of a backup are missing, changed or in another order; nothing of it is used."""

    code: ClassVar[str] = "operations.backup_damaged"


class BackupKeyMissing(Misuse):
    """A backup was encrypted with a key that this instance does not have."""

    code: ClassVar[str] = "operations.backup_key_missing"


class BackupFailed(HelixError):
    """A backup or restore did not come to its end; nothing of it is kept."""

    code: ClassVar[str] = "operations.backup_failed"


class BackupDiffers(HelixError):
    """What was restored is not what the manifest says was backed up."""

    code: ClassVar[str] = "operations.backup_differs"


class BackupsBusy(Unavailable):
    """Another command is writing to the directory of backups."""

    code: ClassVar[str] = "operations.backups_busy"


class RestoreTargetTaken(Conflict):
    """There is something where the restore would go."""

    code: ClassVar[str] = "operations.restore_target_taken"


class TargetOutOfRange(Misuse):
    """No archived log leads to the moment asked for; the message names the range there is."""

    code: ClassVar[str] = "operations.target_out_of_range"


class WalMissing(HelixError):
    """A segment of the write-ahead log that is needed is not in the archive."""

    code: ClassVar[str] = "operations.wal_missing"


class WalConflict(Conflict):
    """The archive holds other content under the name of a segment; it is never overwritten."""

    code: ClassVar[str] = "operations.wal_conflict"
