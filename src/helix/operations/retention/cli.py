"""`helix retention …`: what would leave the database, what does, and what did."""

import asyncio
import time
from datetime import timedelta
from typing import Annotated

import msgspec
import typer

from helix.core.audit import by_command
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show_json, show_table
from helix.core.errors import Misuse
from helix.core.ids import IdSource
from helix.core.instance import load_keyring
from helix.operations.command import database
from helix.operations.retention.errors import RetentionFailed
from helix.operations.retention.maintain import maintain
from helix.operations.retention.measure import Forecast, measure
from helix.operations.retention.routes import forecast_for
from helix.operations.retention.run import chosen, run
from helix.operations.retention.store import QUERIES
from helix.operations.retention.types import Kind, TablePlan
from helix.operations.steps import connected, opened

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="What leaves the database: the plan, a run, what earlier runs did, upkeep.",
)

Table = Annotated[str | None, typer.Option(help="Only this table.", metavar="NAME")]
_COLUMNS = (
    "table", "rule", "days", "rows", "size", "a day", "oldest", "going", "freed", "why",
)  # fmt: skip
_RUN_COLUMNS = (
    "completed_at", "table_name", "rule", "row_count", "partition_count", "byte_count",
    "wal_bytes", "duration_ms", "error_message",
)  # fmt: skip


def main(args: list[str]) -> None:
    """Run `helix retention` with these arguments."""
    app(args, prog_name="helix retention")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 10_000:
            return f"{count:.0f} {unit}"
        count /= 1_000
    return f"{count:.0f} TB"


def _row(line: TablePlan) -> dict[str, object]:
    rule = line.kind.value
    if line.by is not None:
        rule += f" {'' if line.kind is Kind.FOLLOWS else 'by '}{line.by}"
    going = "?" if line.due_rows is None else str(line.due_rows or "")
    months = [f"{month:%Y-%m}" for month in line.due_months]
    if months:
        span = months[0] if len(months) == 1 else f"{months[0]}…{months[-1]}"
        going = f"{going} in {span}"
    grows = line.growth_bytes_per_day
    return {
        "table": line.table,
        "rule": rule,
        "days": line.days or "",
        "rows": line.row_count,
        "size": _size(line.byte_count),
        "a day": "" if grows is None else _size(grows),
        "oldest": "" if line.oldest_at is None else f"{line.oldest_at:%Y-%m-%d}",
        "going": "; ".join([part for part in (going, *line.held) if part]),
        "freed": _size(line.due_bytes) if line.due_bytes else "",
        "why": line.why,
    }


def _tell(disk: Forecast) -> None:
    say(f"the tables have {_size(disk.database_bytes)}")
    if disk.growth_bytes_per_day is not None:
        say(f"they grow by {_size(disk.growth_bytes_per_day)} a day")
    else:
        say("growth is known from the second day on that `helix.doctor.sample` ran")
    if disk.days_to_full is not None and disk.free_bytes is not None:
        say(f"{_size(disk.free_bytes)} are free: full in {disk.days_to_full:.0f} days at that rate")


@app.command("plan")
def plan_command(table: Table = None, home: Home = None, as_json: Json = False) -> None:
    """Show every table's rule, size and growth, and what a run would remove now."""

    async def work() -> None:
        began = time.monotonic()
        async with (
            database(home, "helix retention plan") as (settings, url),
            connected(url, opened) as conn,
        ):
            chosen(table)
            lines = await measure(conn, settings, now=SystemClock().now(), only=table)
        if as_json:
            for line in lines:
                show_json(line)
        else:
            show_table(_COLUMNS, [_row(line) for line in lines])
        if table is None:
            _tell(forecast_for(settings, lines))
        rows = sum(line.due_rows or 0 for line in lines)
        freed = sum(line.due_bytes for line in lines)
        say(
            f"{len(lines)} tables; a run would remove about {rows} rows and give back "
            f"{_size(freed)}; {time.monotonic() - began:.1f} s"
        )

    asyncio.run(work())


@app.command("run")
def run_command(
    table: Table = None,
    home: Home = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it.")] = False,
) -> None:
    """Remove what is past its age: sums made, requests archived, months dropped.

    Without --yes it only shows what would go.
    """
    if dry_run or not yes:
        plan_command(table, home, as_json)
        if not dry_run:
            raise Misuse("repeat it with --yes to remove what is shown as going")
        return

    async def work() -> None:
        now = SystemClock().now()
        async with database(home, "helix retention run") as (settings, url):
            done = await run(
                url,
                settings,
                load_keyring(settings),
                now=now,
                run_id=IdSource().next(now),
                only=table,
                actor=by_command(),
                report=say,
            )
        for outcome in done.outcomes:
            for reason in outcome.held:
                say(f"{outcome.table}: {reason}")
            if as_json:
                show_json(outcome)
        rows = sum(one.row_count for one in done.outcomes)
        freed = sum(one.byte_count for one in done.outcomes)
        parts = sum(one.partition_count for one in done.outcomes)
        say(
            f"{rows} rows removed, {parts} partitions dropped, {_size(freed)} given back, "
            f"{done.partitions_made} partitions made; {done.duration_ms / 1_000:.1f} s"
        )
        if done.errors:
            raise RetentionFailed("; ".join(done.errors))

    asyncio.run(work())


@app.command("runs")
def runs_command(
    home: Home = None,
    as_json: Json = False,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="Of the last so many days.")] = 30,
) -> None:
    """List what earlier runs removed or could not, newest first."""

    async def work() -> None:
        async with (
            database(home, "helix retention runs") as (_, url),
            connected(url, opened) as conn,
        ):
            since = SystemClock().now() - timedelta(days=days)
            rows = await QUERIES.rows(conn, "list_runs", since=since, max_count=1_000)
        records = [dict(row) for row in rows]
        if as_json:
            for record in records:
                show_json(record)
        else:
            show_table(_RUN_COLUMNS, records)
        say(f"{len(records)} steps in {days} days")

    asyncio.run(work())


@app.command("maintain")
def maintain_command(home: Home = None, as_json: Json = False) -> None:
    """Vacuum and analyze every table; make indexes anew that are estimated to be bloated."""

    async def work() -> None:
        began = time.monotonic()
        async with database(home, "helix retention maintain") as (settings, url):
            done = await maintain(url, settings)
        if as_json:
            print(msgspec.json.encode(done).decode())
        else:
            for one in done.reindexed:
                print(
                    f"{one.index}  {_size(one.bytes_before)} -> {_size(one.bytes_after)}  "
                    f"{one.bloat_ratio:.0%} empty by estimate"
                )
        for name in done.dropped:
            say(f"dropped {name}, which a killed rebuild had left")
        say(f"{len(done.reindexed)} indexes made anew; {time.monotonic() - began:.1f} s")
        if done.failed:
            raise RetentionFailed("; ".join(done.failed))

    asyncio.run(work())
