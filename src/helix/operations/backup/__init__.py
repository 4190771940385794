"""Backups: made, listed, tested by restoring them, brought back, and thrown away when old.

What serves them is not here but in `jobs` and `routes`: every command that starts the embedded
PostgreSQL comes through this door, and should not pay for the queue and for FastAPI.
"""

from helix.operations.backup.base import create_physical
from helix.operations.backup.create import create_logical
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.prune import Keeping, prune
from helix.operations.backup.state import BackupHealth, backup_health, release
from helix.operations.backup.verify import verify

__all__ = [
    "BackupDirectory",
    "BackupHealth",
    "Keeping",
    "backup_health",
    "create_logical",
    "create_physical",
    "prune",
    "release",
    "verify",
]
