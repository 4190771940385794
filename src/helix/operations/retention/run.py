"""One run of retention: months ahead, sums, then every rule in the order of the plan."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.operations.archive import archive_months
from helix.operations.months import Removed, list_months, missing_months
from helix.operations.retention.errors import UnknownTable
from helix.operations.retention.plan import PLAN, rule_of
from helix.operations.retention.remove import drop_months, remove_aged
from helix.operations.retention.store import QUERIES
from helix.operations.retention.types import Kind, Outcome, Report, Rule, RunReport
from helix.operations.steps import Opener, Pause, Steps, connected, count_of, locked, opened

__all__ = ["ARCHIVED", "chosen", "roll_up", "run"]

_LOG = get_log(__name__)
ARCHIVED = "llm_requests"
"""The table whose rule archives it, together with its answers and texts."""
_LATE = timedelta(days=8)
"""How far back a night's run makes sums again, for answers that were recorded late."""


def _quiet(_: str) -> None:
    """Say nothing."""


def chosen(only: str | None) -> Sequence[Rule]:
    """Return the rules that remove anything, or that of one table; raises UnknownTable."""
    if only is None:
        return [rule for rule in PLAN if rule.kind in {Kind.MONTHS, Kind.AGE, Kind.ARCHIVED}]
    rule = rule_of(only)
    if rule is None:
        raise UnknownTable(f"no rule names the table {only[:63]!r}; see `helix retention plan`")
    if rule.kind is Kind.ARCHIVED:
        return [one for one in PLAN if one.table == ARCHIVED]
    return [rule] if rule.kind in {Kind.MONTHS, Kind.AGE} else []


async def run(
    url: str,
    settings: Settings,
    keyring: Keyring,
    *,
    now: datetime,
    run_id: UUID,
    only: str | None = None,
    actor: Actor = audit.SYSTEM,
    report: Report = _quiet,
    opener: Opener = opened,
    pause: Pause = asyncio.sleep,
) -> RunReport:
    """Do what the plan says, table by table; return what was done.

    Every step is a transaction of its own that leaves nothing half done, so a run that is killed
    anywhere is finished by the next. A step that fails is recorded, and the others are done all
    the same: `errors` says which. Raises RetentionBusy when another run is under way, Unavailable
    when the database goes away.
    """
    began = time.monotonic()
    rules = chosen(only)
    outcomes: list[Outcome] = []
    async with connected(url, opener) as conn:
        await locked(conn)
        made, errors = await _make_ahead(conn, settings, pause)
        if only in {None, "llm_token_usage", "llm_usage_hourly"}:
            await _roll_up(conn, now=now, back=_LATE)
        sizes = await _sizes(conn)
        for rule in rules:
            if rule.table not in sizes or (rule.kind is Kind.ARCHIVED and rule.table != ARCHIVED):
                continue
            outcome = await _one(conn, settings, keyring, rule, now=now, pause=pause)
            outcomes.append(outcome)
            if outcome.error is not None:
                errors.append(f"{rule.table}: {outcome.error}")
                _LOG.error("retention_failed", table=rule.table, reason=outcome.error)
            elif outcome.row_count or outcome.partition_count:
                report(
                    f"{rule.table}: {outcome.row_count} rows, "
                    f"{outcome.partition_count} partitions, {outcome.duration_ms} ms"
                )
        await _record(conn, outcomes, run_id=run_id, now=now, actor=actor)
    return RunReport(
        run_id, tuple(outcomes), made, round((time.monotonic() - began) * 1_000), tuple(errors)
    )


async def _make_ahead(conn: Connection, settings: Settings, pause: Pause) -> tuple[int, list[str]]:
    """Make months ahead; without them nothing is lost, so a failure does not stop the run."""
    try:
        return await missing_months(conn, settings, pause=pause), []
    except HelixError as exc:
        return 0, [exc.message]


async def _one(
    conn: Connection,
    settings: Settings,
    keyring: Keyring,
    rule: Rule,
    *,
    now: datetime,
    pause: Pause,
) -> Outcome:
    began = time.monotonic()
    before = await QUERIES.row(conn, "wal_position")
    removed, error = Removed(), None
    try:
        removed = await _apply(conn, settings, keyring, rule, now=now, pause=pause)
    except (HelixError, asyncpg.PostgresError, OSError) as exc:
        if conn.is_closed():
            raise
        error = (exc.message if isinstance(exc, HelixError) else str(exc))[:2_000]
    wal = await QUERIES.row(conn, "wal_since", position=before["position"] if before else "0/0")
    return Outcome(
        rule.table,
        rule.kind,
        removed.row_count,
        removed.byte_count,
        removed.partition_count,
        count_of(wal, "bytes"),
        round((time.monotonic() - began) * 1_000),
        removed.held,
        error,
    )


async def _apply(
    conn: Connection,
    settings: Settings,
    keyring: Keyring,
    rule: Rule,
    *,
    now: datetime,
    pause: Pause,
) -> Removed:
    cutoff = rule.cutoff(settings, now)
    if rule.kind is Kind.AGE:
        return await remove_aged(conn, rule, cutoff)
    months = await list_months(conn)
    steps = Steps(conn, settings, pause)
    if rule.kind is Kind.ARCHIVED:
        return await archive_months(
            steps, settings, keyring, months.get(rule.table, []), now=now, cutoff=cutoff
        )
    return await drop_months(steps, rule, months.get(rule.table, []), cutoff)


async def _sizes(conn: Connection) -> dict[str, int]:
    rows = await QUERIES.rows(conn, "list_tables")
    return {row["table_name"]: row["byte_count"] for row in rows}


async def _record(
    conn: Connection,
    outcomes: Sequence[Outcome],
    *,
    run_id: UUID,
    now: datetime,
    actor: Actor,
) -> None:
    """Write down what was done, by whom, and how big each table is since."""
    sizes = await _sizes(conn)
    failed = [one.table for one in outcomes if one.error is not None]
    async with conn.transaction():
        await QUERIES.run(
            conn,
            "record_outcomes",
            run_id=run_id,
            table_name=[one.table for one in outcomes],
            rule=[one.kind.value for one in outcomes],
            row_count=[one.row_count for one in outcomes],
            byte_count=[one.byte_count for one in outcomes],
            partition_count=[one.partition_count for one in outcomes],
            wal_bytes=[one.wal_bytes for one in outcomes],
            duration_ms=[one.duration_ms for one in outcomes],
            table_bytes=[sizes.get(one.table) for one in outcomes],
            error_message=[one.error for one in outcomes],
            completed_at=now,
        )
        await audit.record(
            conn,
            "retention.run",
            actor=actor,
            subject="database",
            details={
                "run_id": str(run_id),
                "rows": sum(one.row_count for one in outcomes),
                "partitions": sum(one.partition_count for one in outcomes),
                "failed": failed,
            },
            outcome="failed" if failed else "done",
        )


async def roll_up(url: str, *, now: datetime, opener: Opener = opened) -> int:
    """Sum up usage since the newest hour there is; return how many rows were written.

    Repeating it changes nothing; what was missed while nobody summed up is made up for.
    """
    async with connected(url, opener) as conn:
        return await _roll_up(conn, now=now, back=timedelta(0))


async def _roll_up(conn: Connection, *, now: datetime, back: timedelta) -> int:
    row = await QUERIES.row(conn, "rollup_from")
    if row is None or row["from_time"] is None:
        return 0
    start = min(row["from_time"], now - back)
    if start >= now:
        return 0
    async with conn.transaction():
        written = await QUERIES.row(conn, "roll_up", from_time=start, to_time=now)
    return count_of(written, "written")
