"""Nouns of backups."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

__all__ = [
    "Backup",
    "BackupFile",
    "Contents",
    "Manifest",
    "Method",
    "SequenceState",
    "TableState",
]


class Method(StrEnum):
    """How a backup was made: a dump of the database, or a copy of the server's files."""

    LOGICAL = "logical"
    PHYSICAL = "physical"


class BackupFile(msgspec.Struct, frozen=True):
    """One encrypted file of a backup: its name, what it is, its length and SHA-256 on the disk."""

    name: str
    purpose: str
    size_bytes: int
    sha256: str


class TableState(msgspec.Struct, frozen=True):
    """How many rows a table (a leaf, if partitioned) has, and the sum of their hashes."""

    rows: int
    checksum: str


class SequenceState(msgspec.Struct, frozen=True):
    """The values between which a sequence stood while the dump was made; None: never used."""

    least: int | None
    most: int | None


class Contents(msgspec.Struct, frozen=True):
    """All that is compared after a restore: data, sequences, roles, and the whole catalogue."""

    tables: dict[str, TableState]
    sequences: dict[str, SequenceState]
    roles: dict[str, dict[str, Any]]
    extensions: dict[str, str]
    things: dict[str, dict[str, Any]]
    roots: dict[str, str]
    heads: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is and holds. `next_xid` lies above every transaction the data names.

    In a physical backup `contents` has the tables that did not change while it was made, and the
    rest if that did not change either; its files PostgreSQL's own manifest describes. What was
    committed before `ended_at`, a moment after `end_lsn`, is in it.
    """

    name: str
    method: Method
    created_at: datetime
    duration_ms: int
    helix_version: str
    schema_version: str | None
    server_version: str
    database: str
    database_bytes: int
    next_xid: int
    files: list[BackupFile]
    contents: Contents | None = None
    system_identifier: str | None = None
    start_lsn: str | None = None
    end_lsn: str | None = None
    first_wal: str | None = None
    timeline: int | None = None
    ended_at: datetime | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of its files on the disk."""
        return sum(file.size_bytes for file in self.files)

    @property
    def rows(self) -> int:
        """Rows in all tables; 0 when the manifest does not count them."""
        tables = self.contents.tables.values() if self.contents else ()
        return sum(table.rows for table in tables)


class Backup(msgspec.Struct, frozen=True):
    """A finished backup: where it lies, and its manifest, which is authentic."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its name, such as helix_backup_20261122_023000."""
        return self.manifest.name
