"""`helix reprice`: what a month would cost by the prices that are in the book now."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer

from helix.core.command import Home, Json, say, show, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.ledger.store import Store

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_COLUMNS = (
    "model",
    "provider",
    "call_count",
    "changed_count",
    "cost_usd",
    "new_cost_usd",
    "difference_usd",
)


def main(args: list[str]) -> None:
    """Run `helix reprice` with these arguments."""
    app(args=args, prog_name="helix reprice")


@app.command()
def reprice(
    month: Annotated[str, typer.Option(help="Which month, YYYY-MM, in UTC.")],
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show it. Needed: the ledger is never rewritten.")
    ] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what a month would cost by the prices in the book now, beside what it did cost."""
    started_s = time.monotonic()
    if not dry_run:
        raise Misuse(
            "what a call cost stays what its price was when it was made, so nothing is rewritten:"
            " say --dry-run to see what the month would cost by today's prices"
        )
    try:
        first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise Misuse(f"--month: {month!r} is no month like 2026-11") from None
    after = (first + timedelta(days=32)).replace(day=1)

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        return await Store().reprice_month(conn, from_time=first, to_time=after, model=model)

    rows = with_operator(home, work)
    show(_COLUMNS, rows, as_json=as_json)
    difference = sum((row["difference_usd"] for row in rows), Decimal(0))
    changed = sum(row["changed_count"] for row in rows)
    say(
        f"{changed} calls would change, {difference.normalize():+f} USD; "
        f"{time.monotonic() - started_s:.1f} s"
    )
