"""Errors of operations: migrations and the database they run in."""

from collections.abc import Sequence
from typing import ClassVar

from helix.core.errors import HelixError, Misuse, Unavailable
from helix.operations.types import Deletion

__all__ = [
    "BackupNeeded",
    "ConnectionsShort",
    "DatabaseUnsuitable",
    "DeletionsNotConfirmed",
    "LocksBusy",
    "MigrationBusy",
    "MigrationFailed",
    "NamesTaken",
    "RetentionBusy",
    "RevisionUnknown",
    "SchemaUnknown",
]


class DatabaseUnsuitable(Misuse):
    """The server or login cannot hold Helix: too old, no pgvector, no right to create."""

    code: ClassVar[str] = "operations.database_unsuitable"


class ConnectionsShort(Misuse):
    """The server has no room for the connections of one more process."""

    code: ClassVar[str] = "operations.connections_short"


class BackupNeeded(Misuse):
    """A migration would destroy data and no backup of it is new enough, or tested."""

    code: ClassVar[str] = "operations.backup_needed"

    def __init__(self, what: str, lacking: str) -> None:
        super().__init__(
            f"{what}, and {lacking}: run `helix backup create` and `helix backup verify` first, "
            "or run `helix db` with --without-backup"
        )


class SchemaUnknown(Misuse):
    """The database's schema is not the one this Helix works with."""

    code: ClassVar[str] = "operations.schema_unknown"


class RevisionUnknown(Misuse):
    """No revision answers to that name, or it lies in the other direction."""

    code: ClassVar[str] = "operations.revision_unknown"


class NamesTaken(Misuse):
    """Something that is not Helix's has a name that Helix needs; nothing was made."""

    code: ClassVar[str] = "operations.names_taken"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"not Helix's, but in its way in schema public: {', '.join(names)}; nothing was made: "
            "give Helix a database of its own"
        )
        self.names = tuple(names)


class DeletionsNotConfirmed(Misuse):
    """A downgrade would drop tables or columns and nobody has said yes."""

    code: ClassVar[str] = "operations.deletions_not_confirmed"

    def __init__(self, deletions: Sequence[Deletion]) -> None:
        super().__init__(
            f"this drops {len(deletions)} tables or columns with "
            f"{sum(deletion.rows for deletion in deletions)} rows: repeat it with --yes to do it"
        )
        self.deletions = tuple(deletions)


class MigrationFailed(HelixError):
    """A statement of a revision failed; its step was rolled back."""

    code: ClassVar[str] = "operations.migration_failed"

    def __init__(self, file: str, number: int, statement: str, reason: str) -> None:
        super().__init__(f"{file}, statement {number + 1} ({statement}): {reason}")
        self.file = file
        self.number = number


class MigrationBusy(Unavailable):
    """Another migrator, or the queries on a table, did not make way in time."""

    code: ClassVar[str] = "operations.migration_busy"


class RetentionBusy(Unavailable):
    """Another process retains, archives or restores."""

    code: ClassVar[str] = "operations.retention_busy"

    def __init__(self) -> None:
        super().__init__(
            "another process runs retention, or restores from the archive: try again when it is"
            " done",
            retry_after_s=60,
        )


class LocksBusy(Unavailable):
    """A lock that a partition needs for a moment was never free."""

    code: ClassVar[str] = "operations.locks_busy"

    def __init__(self, what: str, tries: int) -> None:
        super().__init__(
            f"{what}: others held their locks in {tries} tries; look for long transactions, or"
            " raise HELIX_PARTITION_LOCK_MS",
            retry_after_s=60,
        )
