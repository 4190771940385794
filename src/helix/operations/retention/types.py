"""What retention is made of: rules, what they would do, what they did."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from helix.core.config import Settings

__all__ = [
    "Due",
    "Kind",
    "Outcome",
    "Report",
    "Rule",
    "RunReport",
    "TablePlan",
]

Report = Callable[[str], None]
"""Is told what is being done."""


class Kind(StrEnum):
    """How rows leave a table, if they do."""

    KEPT = "kept"
    """Never."""
    MONTHS = "months"
    """A month at a time: its partition is dropped once it lies wholly past its age."""
    ARCHIVED = "archived"
    """As months, after their rows are in a file that was read again."""
    AGE = "age"
    """Row by row, in batches."""
    FOLLOWS = "follows"
    """With the row of another table that they belong to, by foreign key or in its transaction."""
    SWEPT = "swept"
    """By another task, which knows when they are over."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the rows of one table, and why.

    `setting` is the field of Settings that holds the age in days (0: never), `fixed_days` an age
    that is nobody's to choose; `by` is the table that is followed, or the task that sweeps.
    """

    table: str
    kind: Kind
    why: str
    setting: str | None = None
    by: str | None = None
    fixed_days: int | None = None

    def days(self, settings: Settings) -> int:
        """Return the age at which rows go, in days; for rules that rows go by."""
        if self.fixed_days is not None:
            return self.fixed_days
        return 0 if self.setting is None else int(getattr(settings, self.setting))

    def cutoff(self, settings: Settings, now: datetime) -> datetime | None:
        """Return the moment before which rows go; None is never."""
        if self.fixed_days is None and not self.days(settings):
            return None
        return now - timedelta(days=self.days(settings))


@dataclass(frozen=True, slots=True)
class Due:
    """What would leave a table now: rows, bytes given back at once, months, and what is held."""

    row_count: int | None = 0
    byte_count: int = 0
    months: tuple[date, ...] = ()
    oldest_at: datetime | None = None
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TablePlan:
    """One line of the plan: the rule, how the table stands, and what would go.

    `row_count` is the server's estimate; `growth_bytes_per_day` is what the doctor's samples of
    the last 30 days say, and None before there are two.
    """

    table: str
    kind: Kind
    days: int
    why: str
    by: str | None
    row_count: int
    byte_count: int
    oldest_at: datetime | None
    due_rows: int | None
    due_bytes: int
    due_months: tuple[date, ...]
    held: tuple[str, ...]
    growth_bytes_per_day: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step did to one table."""

    table: str
    kind: Kind
    row_count: int = 0
    byte_count: int = 0
    partition_count: int = 0
    wal_bytes: int = 0
    duration_ms: int = 0
    held: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did: per table with an effect or an error, and the partitions made ahead."""

    run_id: UUID
    outcomes: tuple[Outcome, ...]
    partitions_made: int
    duration_ms: int
    errors: tuple[str, ...] = field(default=())
