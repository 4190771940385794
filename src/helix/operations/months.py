"""Monthly partitions: which there are, making those ahead, and which are past an age."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from helix.core.config import Settings
from helix.core.db import Connection, Queries
from helix.operations.steps import Opener, Pause, Steps, connected, opened

__all__ = [
    "Month",
    "Removed",
    "list_months",
    "make_month",
    "make_months",
    "missing_months",
    "month_start",
    "next_month",
    "past",
]

_QUERIES = Queries("helix.operations")


@dataclass(frozen=True, slots=True)
class Month:
    """One monthly partition: the first day of its month, its rows (estimated) and bytes."""

    table: str
    name: str
    start: date
    row_count: int | None
    byte_count: int
    heap_bytes: int


@dataclass(frozen=True, slots=True)
class Removed:
    """What left a table: rows, bytes given back, partitions; and what was held."""

    row_count: int = 0
    byte_count: int = 0
    partition_count: int = 0
    held: tuple[str, ...] = ()


async def list_months(conn: Connection) -> dict[str, list[Month]]:
    """Return the monthly partitions of every table that has them, oldest first."""
    found: dict[str, list[Month]] = {}
    for row in await _QUERIES.rows(conn, "list_months"):
        month = Month(
            row["table_name"],
            row["name"],
            row["start"],
            row["row_count"],
            row["byte_count"],
            row["heap_bytes"],
        )
        found.setdefault(month.table, []).append(month)
    return found


def next_month(start: date) -> date:
    """Return the first day of the month after that of `start`."""
    return date(start.year + start.month // 12, start.month % 12 + 1, 1)


def month_start(start: date) -> datetime:
    """Return midnight UTC of a day."""
    return datetime(start.year, start.month, start.day, tzinfo=UTC)


async def make_months(
    url: str, settings: Settings, *, opener: Opener = opened, pause: Pause = asyncio.sleep
) -> int:
    """Make every partition that is missing, one short transaction each; return how many.

    Rows that fell into a default partition get their month. Repeating it is harmless. Raises
    LocksBusy when others never let go of a table; what was made stays.
    """
    async with connected(url, opener) as conn:
        return await missing_months(conn, settings, pause=pause)


async def missing_months(
    conn: Connection, settings: Settings, *, pause: Pause = asyncio.sleep
) -> int:
    """The same on a connection of the owner's, outside a transaction."""
    steps = Steps(conn, settings, pause)
    made = 0
    missing = await _QUERIES.rows(
        conn, "missing_months", months_ahead=settings.partition_months_ahead
    )
    for row in missing:
        table, month = row["table_name"], row["month"]
        made += await steps.run(
            f"making {month:%Y-%m} of {table}",
            make_month,
            table,
            month,
        )
    return made


async def make_month(conn: Connection, table: str, month: date) -> bool:
    """Make the partition of a table and month unless it is there; the caller's transaction."""
    row = await _QUERIES.row(conn, "make_month", table_name=table, month=month)
    return bool(row and row["made"])


def past(months: Sequence[Month], cutoff: datetime | None) -> list[Month]:
    """Return the months that lie wholly before `cutoff`, oldest first."""
    if cutoff is None:
        return []
    return [month for month in months if month_start(next_month(month.start)) <= cutoff]
