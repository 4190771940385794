"""`helix prices`: what models cost, and from when."""

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from getpass import getuser
from typing import Annotated, Any

import typer

from helix.accounts import Home, Json, say, show, with_operator
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.ledger.store import Store

__all__ = ["main", "read_time", "read_usd"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_COLUMNS = (
    "model",
    "input_cost_per_million",
    "output_cost_per_million",
    "effective_date",
    "updated_by",
    "notes",
)
_DECIMALS_MAX = 6
_PRICE_MAX = Decimal(1_000_000)


def main(args: list[str]) -> None:
    """Run `helix prices` with these arguments."""
    app(args=args, prog_name="helix prices")


@app.callback()
def _group() -> None:
    """Dated prices: list, set. A price that holds is never changed, a new one follows it."""


@app.command("list")
def list_prices(
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    history: Annotated[bool, typer.Option("--all", help="Past prices too.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the prices that hold now or will; in US dollars per million tokens."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        return await Store().list_prices(conn, model=model, whole_history=history)

    prices = with_operator(home, work)
    show(_COLUMNS, prices, as_json=as_json)
    say(f"{len(prices)} prices")


@app.command("set")
def set_price(  # noqa: PLR0917 - options, given by name
    model: Annotated[str, typer.Argument(help="Model, as called, or provider/model.")],
    input_usd: Annotated[str, typer.Option("--input", help="USD per million input tokens.")],
    output_usd: Annotated[str, typer.Option("--output", help="USD per million output tokens.")],
    cached_input: Annotated[
        str | None, typer.Option(help="USD per million input tokens out of a cache. [as input]")
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(help="USD per million reasoning tokens. [as output]")
    ] = None,
    per_request: Annotated[str | None, typer.Option(help="USD per request, on top.")] = None,
    effective: Annotated[
        str | None, typer.Option(help="From when, an ISO time; UTC unless it says. [now]")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who sets it. [the login name]")] = None,
    notes: Annotated[str | None, typer.Option(help="Why.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Set a price from now, or from a moment to come; calls before it keep theirs."""
    if not model.isprintable() or not 0 < len(model) <= 255:
        raise Misuse(f"{model!r} is no name of a model")
    moment = None if effective is None else read_time("--effective", effective)
    prices = {
        "input_usd": read_usd("--input", input_usd),
        "output_usd": read_usd("--output", output_usd),
    }

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return await Store().insert_price(
            conn,
            model=model,
            cached_input_usd=_optional_usd("--cached-input", cached_input),
            reasoning_usd=_optional_usd("--reasoning", reasoning),
            per_request_usd=_optional_usd("--per-request", per_request),
            effective_date=moment,
            updated_by=by or getuser(),
            notes=notes,
            **prices,
        )

    show(_COLUMNS, [with_operator(home, work)], as_json=as_json)


def _optional_usd(option: str, text: str | None) -> Decimal | None:
    return None if text is None else read_usd(option, text)


def read_usd(option: str, text: str) -> Decimal:
    """Return an amount of dollars given on the command line; raises Misuse."""
    try:
        usd = Decimal(text)
    except InvalidOperation:
        raise Misuse(f"{option}: {text!r} is no amount of dollars") from None
    exponent = usd.as_tuple().exponent
    if not usd.is_finite() or not 0 <= usd < _PRICE_MAX:
        raise Misuse(f"{option}: a price lies from 0 to under {_PRICE_MAX:,} dollars")
    if not isinstance(exponent, int) or exponent < -_DECIMALS_MAX:
        raise Misuse(f"{option}: a price has at most {_DECIMALS_MAX} decimals, {text} has more")
    return usd


def read_time(option: str, text: str) -> datetime:
    """Return a moment given on the command line, in UTC unless it says; raises Misuse."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse(f"{option}: {text!r} is no time like 2027-01-31T00:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
