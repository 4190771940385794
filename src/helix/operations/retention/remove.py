"""Taking rows out of a table, by each kind of rule; the archive has a package of its own."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from helix.core.db import Connection
from helix.operations.months import Month, Removed, month_start, next_month, past
from helix.operations.retention.store import QUERIES
from helix.operations.retention.types import Rule
from helix.operations.steps import Steps, count_of

__all__ = ["drop_months", "held_by", "remove_aged"]

BATCH_ROWS = 5_000
_DROPS = {"llm_token_usage": "drop_usage_month", "error_log": "drop_error_month"}
"""Tables whose months are summed up in the transaction that drops them."""
_HELD = {
    "background_tasks": "{found} tasks of {month} have not ended",
    "clickhouse_analytics": "{found} events of {month} are not exported",
}
"""Tables with rows that must not go by age alone; the statement is held_<table>."""


async def held_by(conn: Connection, month: Month) -> str | None:
    """Return why a month that is past its age must stay, or None."""
    if month.table not in _HELD:
        return None
    start = month_start(month.start)
    end = month_start(next_month(month.start))
    row = await QUERIES.row(conn, f"held_{month.table}", from_time=start, to_time=end)
    found = count_of(row, "found")
    if not found:
        return None
    return _HELD[month.table].format(found=found, month=f"{month.start:%Y-%m}")


async def drop_months(
    steps: Steps, rule: Rule, months: Sequence[Month], cutoff: datetime | None
) -> Removed:
    """Drop the partitions of a table that lie wholly before `cutoff`, one transaction each.

    Usage and errors are summed up in the same transaction. Of a month with tasks that have not
    ended, the ended ones go row by row. Raises LocksBusy; what was dropped stays dropped.
    """
    rows = size = dropped = 0
    held: list[str] = []
    for month in past(months, cutoff):
        reason = await held_by(steps.conn, month)
        if reason is not None:
            held.append(reason)
            if rule.table == "background_tasks" and cutoff is not None:
                rows += await _delete_ended(steps.conn, month, cutoff)
            continue
        gone = await steps.run(f"dropping {month.name}", _drop, month)
        rows += count_of(gone, "row_count")
        size += count_of(gone, "byte_count")
        dropped += 1
    return Removed(rows, size, dropped, tuple(held))


async def _drop(conn: Connection, month: Month) -> Any:
    if month.table in _DROPS:
        return await QUERIES.row(conn, _DROPS[month.table], month=month.start)
    if month.table == "background_tasks":
        await QUERIES.run(
            conn,
            "lock_month_background_tasks",
            from_time=month_start(month.start),
            to_time=month_start(next_month(month.start)),
        )
    return await QUERIES.row(conn, "drop_month", name=month.name)


async def _delete_ended(conn: Connection, month: Month, cutoff: datetime) -> int:
    gone = 0
    while True:
        row = await QUERIES.row(
            conn,
            "delete_background_tasks",
            from_time=month_start(month.start),
            to_time=month_start(next_month(month.start)),
            cutoff=cutoff,
            max_count=BATCH_ROWS,
        )
        count = count_of(row, "gone")
        gone += count
        if count < BATCH_ROWS:
            return gone


async def remove_aged(conn: Connection, rule: Rule, cutoff: datetime | None) -> Removed:
    """Delete the rows of a table that are older than `cutoff`, in batches of 5,000."""
    gone = 0
    while cutoff is not None:
        row = await QUERIES.row(conn, f"delete_{rule.table}", cutoff=cutoff, max_count=BATCH_ROWS)
        count = count_of(row, "gone")
        gone += count
        if count < BATCH_ROWS:
            break
    return Removed(row_count=gone)
