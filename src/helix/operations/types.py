"""Nouns of the migrations: revisions, the scripts they hold, what a database has of them."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from helix.core.db import Connection
from helix.core.sql import strip

__all__ = [
    "AppliedRevision",
    "Deletion",
    "Guard",
    "LockTaken",
    "MigrationLimits",
    "PlannedStatement",
    "Report",
    "Revision",
    "SchemaVersion",
    "Script",
    "Step",
    "Watch",
]

Report: TypeAlias = Callable[[str], None]
"""Takes a line that tells a person what goes on."""

Guard: TypeAlias = Callable[[Connection, str], Awaitable[None]]
"""Called before data is destroyed, with what would be; raises to prevent it."""

Watch: TypeAlias = Callable[[str, int], Awaitable[None]]
"""Called before each statement with the revision's id and the statement's number from 0."""


@dataclass(frozen=True, slots=True)
class Step:
    """Statements that run together: in one transaction, or one that no transaction may hold."""

    statements: tuple[str, ...]
    transactional: bool = True


@dataclass(frozen=True, slots=True)
class Script:
    """One direction of a revision: a file of plain SQL, cut into steps."""

    file: str
    steps: tuple[Step, ...]
    destructive: tuple[str, ...] = ()
    """Statements that say of themselves that they destroy data."""

    @property
    def statements(self) -> tuple[str, ...]:
        """All statements in order, with the comments before each."""
        return tuple(statement for step in self.steps for statement in step.statements)

    @property
    def checksum(self) -> str:
        """SHA-256, in hex, of what the statements say; comments and white space do not count."""
        plain = ";\n".join(strip(statement) for statement in self.statements)
        return hashlib.sha256(plain.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of the schema and the two scripts that come and go."""

    id: str
    title: str
    up: Script
    down: Script


@dataclass(frozen=True, slots=True)
class AppliedRevision:
    """A row of helix_migrations.

    `state` is applied, or, when the migrator died between two steps, applying or reverting with
    `steps_done` steps behind it.
    """

    id: str
    title: str
    checksum: str
    state: str
    steps_done: int
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """Where a database stands: its newest whole revision, one left half done, those to come."""

    revision: str | None
    interrupted: str | None
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MigrationLimits:
    """Bounds of a migration.

    A statement that waits longer than `lock_timeout_ms` for a lock gives up, so that the queries
    queueing behind it go on; the step is tried again up to `attempts` times. `peer_wait_s` is
    how long to wait for another migrator of the same database.
    """

    lock_timeout_ms: int = 2_000
    statement_timeout_ms: int = 900_000
    attempts: int = 30
    pause_s: float = 1.0
    peer_wait_s: float = 600.0


@dataclass(frozen=True, slots=True)
class LockTaken:
    """A lock on a relation that was there before the migration, in PostgreSQL's words."""

    relation: str
    mode: str


@dataclass(frozen=True, slots=True)
class PlannedStatement:
    """A pending statement: what it would do.

    `rows` is the command tag, such as `UPDATE 12`; `locks` are those it adds to what earlier
    statements of the plan hold. Both are as measured, unless `measured` is False: then `locks` is
    what the documentation says of a statement that cannot be tried in a transaction.
    """

    revision: str
    number: int
    sql: str
    locks: tuple[LockTaken, ...]
    rows: str
    measured: bool


@dataclass(frozen=True, slots=True)
class Deletion:
    """A table or column that a downgrade drops, and how many rows or values go with it."""

    kind: str
    name: str
    rows: int
