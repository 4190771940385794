"""`helix calls`: the record of calls."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import typer

from helix.accounts import Home, Json, show, show_json, show_table, with_operator
from helix.core.clock import SystemClock
from helix.core.config import Settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.core.ids import uuid7
from helix.gateway.store import Store

__all__ = ["main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

FOLLOW_EVERY_S = 0.5
FOLLOW_BATCH = 1_000
_OVERLAP = timedelta(seconds=5)  # commits become visible a little after the times they carry
_LONGEST_CALL = timedelta(days=1)
_COLUMNS = (
    "time",
    "request_id",
    "user",
    "model",
    "status",
    "in",
    "out",
    "cost_usd",
    "ms",
)


def main(args: list[str]) -> None:
    """Run `helix calls` with these arguments."""
    app(args=args, prog_name="helix calls")


@app.callback()
def _group() -> None:
    """Recorded calls: tail, show."""


@app.command("tail")
def tail(
    count: Annotated[int, typer.Option("-n", "--lines", min=1, max=10_000, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the calls that ended last, the newest at the bottom."""

    async def work(conn: Connection, _: Settings) -> list[dict[str, Any]]:
        return await Store().tail(conn, max_count=count)

    calls = with_operator(home, work)
    show(_COLUMNS, _lines(calls, as_json=as_json), as_json=as_json)
    if follow:
        for call in _new_calls(home, calls):
            if as_json:
                show_json(call)
            else:
                print("  ".join(str(value) for value in _line(call).values()), flush=True)


def _new_calls(home: Path | None, seen: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield calls as they end, until interrupted. Times may overlap, so ids are remembered."""
    known = {call["response_id"]: call["ended_at"] for call in seen}
    newest = max(known.values(), default=SystemClock().now())
    while True:
        since = newest - _OVERLAP
        floor = uuid7(int((newest - _LONGEST_CALL).timestamp() * 1_000))

        async def work(
            conn: Connection, _: Settings, since: datetime = since, floor: UUID = floor
        ) -> list[dict[str, Any]]:
            return await Store().tail(conn, max_count=FOLLOW_BATCH, since=since, floor=floor)

        for call in with_operator(home, work):
            if call["response_id"] not in known:
                yield call
            known[call["response_id"]] = call["ended_at"]
            newest = max(newest, call["ended_at"])
        known = {key: ended for key, ended in known.items() if ended > newest - 2 * _OVERLAP}
        time.sleep(FOLLOW_EVERY_S)


def _lines(calls: list[dict[str, Any]], *, as_json: bool) -> list[dict[str, Any]]:
    return calls if as_json else [_line(call) for call in calls]


def _line(call: dict[str, Any]) -> dict[str, Any]:
    estimated = "~" if call["usage_estimated"] else ""
    return {
        "time": call["ended_at"].strftime("%m-%d %H:%M:%S"),
        "request_id": call["request_id"],
        "user": call["user_email"] or "(erased)",
        "model": call["requested_model"],
        "status": call["error_code"] or call["status"],
        "in": f"{estimated}{call['tokens_prompt']}",
        "out": f"{estimated}{call['tokens_completion']}",
        "cost_usd": f"{call['cost_usd']:f}".rstrip("0").rstrip(".") or "0",
        "ms": call["latency_ms"],
    }


@app.command("show")
def show_call(
    call_id: Annotated[
        str, typer.Argument(help="Id of a request (x-helix-request-id) or an answer.", metavar="ID")
    ],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show all that is recorded of a call: key, texts, tokens, price, cost, latency."""
    try:
        wanted = UUID(call_id)
    except ValueError:
        raise Misuse(f"{call_id!r} is no id of a call") from None

    async def work(conn: Connection, _: Settings) -> dict[str, Any]:
        return await Store().show(conn, call_id=wanted)

    call = with_operator(home, work)
    if as_json:
        show_json(call)
        return
    _print_parts(call, skip={"responses", "request_body"})
    _print_json("request", call["request_body"])
    for answer in call["responses"]:
        print()
        _print_parts(answer, skip={"raw_response", "content"})
        _print_json("response", answer["raw_response"])


def _print_parts(record: dict[str, Any], skip: set[str]) -> None:
    rows = [
        {"what": key, "value": value}
        for key, value in record.items()
        if key not in skip and value is not None
    ]
    show_table(("what", "value"), rows)


def _print_json(title: str, raw: msgspec.Raw | None) -> None:
    print(f"\n{title}:")
    print("(no text)" if raw is None else msgspec.json.format(bytes(raw).decode(), indent=2))
