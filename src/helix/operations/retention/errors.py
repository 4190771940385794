"""Errors of retention: each says what stays as it was, and what to do."""

from typing import ClassVar

from helix.core.errors import HelixError, Misuse

__all__ = ["RetentionFailed", "UnknownTable"]


class RetentionFailed(HelixError):
    """Some tables could not be worked on; the others were, and the next run tries again."""

    code: ClassVar[str] = "operations.retention_failed"


class UnknownTable(Misuse):
    """No rule names that table."""

    code: ClassVar[str] = "operations.unknown_table"
