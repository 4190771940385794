"""Backups: made, listed, tested by restoring them, brought back, and thrown away when old."""

from helix.operations.backup.create import create_logical, prune
from helix.operations.backup.jobs import register_backups
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.state import BackupHealth, backup_health, release
from helix.operations.backup.verify import verify

__all__ = [
    "BackupDirectory",
    "BackupHealth",
    "backup_health",
    "create_logical",
    "prune",
    "register_backups",
    "release",
    "verify",
]
