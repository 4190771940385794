"""What retention would do now: the plan beside the tables, and when the disk will be full."""

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from helix.core.config import Settings
from helix.core.db import Connection
from helix.operations.archive import archive_due
from helix.operations.months import Month, list_months, month_start, past
from helix.operations.retention.plan import PLAN, rule_of
from helix.operations.retention.remove import held_by
from helix.operations.retention.store import QUERIES
from helix.operations.retention.types import Due, Kind, Rule, TablePlan

__all__ = ["Forecast", "forecast", "measure"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """When the disk will be full at the growth of the last weeks.

    `free_bytes` is of the disk of the embedded database; None for an outside one, whose disk is
    not seen from here. `days_to_full` is None without growth.
    """

    database_bytes: int
    growth_bytes_per_day: float | None
    free_bytes: int | None
    days_to_full: float | None


async def measure(
    conn: Connection, settings: Settings, *, now: datetime, only: str | None = None
) -> list[TablePlan]:
    """Return the plan of every table there is, in the plan's order; changes nothing."""
    tables = {row["table_name"]: row for row in await QUERIES.rows(conn, "list_tables")}
    months = await list_months(conn)
    lines = []
    for rule in (*PLAN, *_undecided(tables)):
        if rule.table not in tables or only not in {None, rule.table}:
            continue
        due = await _due(conn, settings, rule, months.get(rule.table, []), now=now)
        row = tables[rule.table]
        lines.append(
            TablePlan(
                rule.table,
                rule.kind,
                rule.days(settings),
                rule.why,
                rule.by,
                row["row_count"],
                row["byte_count"],
                due.oldest_at,
                due.row_count,
                due.byte_count,
                due.months,
                due.held,
                row["bytes_per_day"],
            )
        )
    return lines


def _undecided(tables: dict[str, Any]) -> list[Rule]:
    """Return a rule for each table that somebody else put into the schema: it is left alone."""
    return [
        Rule(table, Kind.KEPT, "no rule of Helix's names it: left alone")
        for table in tables
        if rule_of(table) is None
    ]


async def _due(
    conn: Connection, settings: Settings, rule: Rule, months: list[Month], *, now: datetime
) -> Due:
    cutoff = rule.cutoff(settings, now)
    if rule.kind is Kind.AGE and cutoff is not None:
        row = await QUERIES.row(conn, f"due_{rule.table}", cutoff=cutoff)
        return Due(
            row_count=row["found"] if row else 0, oldest_at=row["oldest_at"] if row else None
        )
    if rule.kind not in {Kind.MONTHS, Kind.ARCHIVED}:
        return Due()
    oldest = next((month_start(month.start) for month in months if month.heap_bytes), None)
    going = past(months, cutoff)
    held: list[str] = []
    if rule.kind is Kind.ARCHIVED:
        going = await archive_due(conn, going, now=now)
    else:
        reasons = [(month, await held_by(conn, month)) for month in going]
        held = [reason for _, reason in reasons if reason is not None]
        going = [month for month, reason in reasons if reason is None]
    counts = [month.row_count for month in going]
    return Due(
        row_count=None if None in counts else sum(count for count in counts if count is not None),
        byte_count=sum(month.byte_count for month in going),
        months=tuple(month.start for month in going),
        oldest_at=oldest,
        held=tuple(held),
    )


def forecast(lines: list[TablePlan], data: Path | None) -> Forecast:
    """Sum up what tables grow by, and compare it with what is free where `data` lies.

    What retention gave back is part of the balance, so tables as old as their rule stand still;
    before that the forecast is too dark, never too bright.
    """
    grows = [line.growth_bytes_per_day for line in lines if line.growth_bytes_per_day is not None]
    growth = sum(grows) if grows else None
    free = shutil.disk_usage(data).free if data is not None and data.exists() else None
    days = free / growth if free is not None and growth is not None and growth > 0 else None
    return Forecast(sum(line.byte_count for line in lines), growth, free, days)
