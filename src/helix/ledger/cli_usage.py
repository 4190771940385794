"""`helix usage`: what was used, and what it cost."""

import sys
import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import typer

from helix.accounts import find_user
from helix.core.clock import SystemClock
from helix.core.command import Home, Json, say, show, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.ledger.cli import read_time
from helix.ledger.errors import UsageUnreadable
from helix.ledger.policy import read_grouping
from helix.ledger.routes import as_csv
from helix.ledger.store import Store
from helix.ledger.types import UsageQuestion

__all__ = ["main"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(args: list[str]) -> None:
    """Run `helix usage` with these arguments."""
    app(args=args, prog_name="helix usage")


@app.command()
def usage(  # noqa: PLR0917 - options, given by name
    since: Annotated[
        str | None, typer.Option("--from", help="An ISO time; UTC unless it says. [30 days ago]")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="An ISO time. [now]")] = None,
    by: Annotated[
        str,
        typer.Option(help="hour, day or month; model, provider, key, user, project, agent."),
    ] = "model",
    user: Annotated[str | None, typer.Option(help="Only of this email, user name or id.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only of this provider.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    as_csv_text: Annotated[bool, typer.Option("--csv", help="CSV instead of a table.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Sum up calls, tokens and cost, exactly and up to this moment."""
    started_s, now = time.monotonic(), SystemClock().now()
    question = UsageQuestion(
        from_time=now - timedelta(days=30) if since is None else read_time("--from", since),
        to_time=now if until is None else read_time("--to", until),
        by=_grouping(by),
        model=model,
        provider=provider,
        agent_id=agent,
    )

    async def work(conn: Connection, _: Settings) -> tuple[list[dict[str, Any]], datetime | None]:
        user_id = None if user is None else (await find_user(conn, user)).id
        found = await Store().report_usage(conn, question, user_id=user_id)
        return found, await Store().summed_until(conn, question)

    rows, summed = with_operator(home, work)
    if as_csv_text:
        sys.stdout.write(as_csv(question.columns(), rows))
    else:
        show(question.columns(), rows, as_json=as_json)
    if summed is not None:
        say(f"before {summed:%Y-%m-%d %H:%M} UTC whole hours and days are summed up")
    total = sum((row["cost_usd"] for row in rows), Decimal(0))
    calls = sum(row["call_count"] for row in rows)
    say(f"{calls} calls, {total.normalize():f} USD; {time.monotonic() - started_s:.1f} s")


def _grouping(text: str) -> tuple[str, ...]:
    try:
        return read_grouping(text)
    except UsageUnreadable as exc:
        raise Misuse(f"--by: {exc.message}") from None
