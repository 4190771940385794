"""Errors of the archive: each says which file, what of it cannot be used, and what to do."""

from typing import ClassVar

from helix.core.errors import HelixError, Misuse, NotFound

__all__ = ["ArchiveDamaged", "ArchiveFailed", "ArchiveNotFound", "ArchivePlaceUnusable"]


class ArchiveDamaged(HelixError):
    """Bytes of a file of the archive are missing or changed; nothing of it is used."""

    code: ClassVar[str] = "operations.archive_damaged"


class ArchiveFailed(HelixError):
    """Requests could not be archived; they stay in the database, and the next run tries again."""

    code: ClassVar[str] = "operations.archive_failed"


class ArchiveNotFound(NotFound):
    """Nothing in the archive is of that time or has that id."""

    code: ClassVar[str] = "operations.archive_not_found"


class ArchivePlaceUnusable(Misuse):
    """The directory of the archive cannot be made or written to."""

    code: ClassVar[str] = "operations.archive_place_unusable"
