"""`helix debates`: list, show, watch, transcript, cancel, value, strategies, code."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from helix.core.clock import SystemClock
from helix.core.db import Connection
from helix.debates import service
from helix.debates.code import Repositories
from helix.debates.command import (
    Home,
    Json,
    a_debate,
    connected,
    counted,
    line,
    one_transaction,
    say,
    table,
)
from helix.debates.show import Teller, closing
from helix.debates.testing import TIMEOUT_S, run_tests
from helix.debates.transcript import as_json as debate_json
from helix.debates.transcript import as_markdown, paid
from helix.debates.types import Code, Debate, DebateId, Status

__all__ = ["app", "follow", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

WATCH_S = 0.2
Limit = Annotated[int, typer.Option(min=1, max=service.PAGE_MAX, help="Most rows shown.")]
Which = Annotated[str, typer.Argument(metavar="DEBATE", help="Id of the debate.")]
_LIST = (
    "id", "status", "topic", "protocol", "voting_method", "rounds", "final_winner",
    "consensus_reached", "changed", "created_at",
)  # fmt: skip
_VALUE = (
    "debate_id", "topic", "baseline_answer", "final_winner", "changed", "baseline_right",
    "debate_right", "calls", "baseline_cost_usd", "debate_cost_usd", "times_the_baseline", "wall_s",
)  # fmt: skip


def main(args: list[str]) -> None:
    """Run `helix debates …`."""
    app(args, prog_name="helix debates")


async def follow(conn: Connection, debate_id: DebateId, *, as_json: bool) -> None:
    """Tell a debate as it happens, from its beginning, until it ends."""
    at, teller = 0, Teller(await service.get(conn, debate_id=debate_id))
    while True:
        told = await service.events_of(conn, debate_id=debate_id, after=at)
        if told and not as_json:
            teller.debate = await service.get(conn, debate_id=debate_id)
        for event in told:
            at = event.sequence
            if as_json:
                line(event)
                continue
            for text in teller.lines(event):
                print(text, flush=True)
        if not told:
            now = await service.get(conn, debate_id=debate_id)
            if now.completed_at is not None and now.event_count == at:
                break
            await asyncio.sleep(WATCH_S)
    rows = await service.value(conn, debate_id=debate_id)
    if not as_json:
        for text in closing(now, rows[0] if rows else None):
            print(text)
    if now.status is not Status.COMPLETED:
        raise typer.Exit(1)


# ---- helix debates -------------------------------------------------------------------------------


@app.command("list")
def list_(
    status: Annotated[Status | None, typer.Option(help="Only those in this state.")] = None,
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List debates, newest first."""
    _listed(
        home,
        lambda conn: service.list_debates(conn, status=status, max_count=limit),
        _LIST,
        "debate",
        as_json=as_json,
    )


def _listed(
    home: Path | None,
    read: Callable[[Connection], Awaitable[Any]],
    columns: tuple[str, ...],
    noun: str,
    *,
    as_json: bool,
) -> None:
    began = time.monotonic()
    found = one_transaction(home, read)
    plain = [r if isinstance(r, dict) else _fields(r) for r in found]
    if as_json:
        for record in plain:
            line(record)
    else:
        table(columns, [{**r, "topic": _cut(r.get("topic"))} for r in plain])
    counted(len(plain), noun, time.monotonic() - began)


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


def _cut(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return flat if len(flat) <= 60 else f"{flat[:59]}…"


def _read(home: Path | None, which: str) -> tuple[Debate, dict[str, Any] | None]:
    debate_id = a_debate(which)

    async def work(conn: Connection) -> tuple[Debate, dict[str, Any] | None]:
        found = await service.get(conn, debate_id=debate_id)
        rows = await service.value(conn, debate_id=debate_id)
        return found, rows[0] if rows else None

    return one_transaction(home, work)


@app.command("show")
def show(which: Which, home: Home = None, as_json: Json = False) -> None:
    """Show a debate: state, outcome, votes, and whether it paid."""
    found, value = _read(home, which)
    if as_json:
        line({**debate_json(found), "value": value})
        return
    print(f"{found.spec.topic}\n{found.status.value}, {len(found.rounds)} of at most "
          f"{found.spec.rounds} rounds, {found.spec.protocol.value}")  # fmt: skip
    rows = [
        {
            "round": r.number, "phase": r.phase, "agreement": r.agreement,
            "convergence": r.convergence, "winner": r.winner,
        }
        for r in found.rounds
    ]  # fmt: skip
    table(("round", "phase", "agreement", "convergence", "winner"), rows)
    for text in closing(found, value):
        print(text)
    if found.error:
        print(f"error: {found.error}")


@app.command("watch")
def watch_(which: Which, home: Home = None, as_json: Json = False) -> None:
    """Watch a debate from its beginning until it ends; exits 1 when it does not complete."""
    debate_id = a_debate(which)
    connected(home, lambda conn: follow(conn, debate_id, as_json=as_json))


@app.command("transcript")
def transcript(which: Which, home: Home = None, as_json: Json = False) -> None:
    """Print a debate as a Markdown page, or as JSON, at any time."""
    found, value = _read(home, which)
    if as_json:
        line(debate_json(found))
    else:
        print(as_markdown(found, value), end="")


@app.command("cancel")
def cancel(
    which: Which,
    home: Home = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it only the plan.")] = False,
) -> None:
    """Call a debate off, also while it runs. What it has paid for stays recorded."""
    debate_id = a_debate(which)
    if not yes:
        found, _ = _read(home, which)
        say(f"would cancel the {found.status.value} debate {_cut(found.spec.topic)!r}; --yes does")
        return
    now = SystemClock().now()
    done = one_transaction(home, lambda conn: service.cancel(conn, debate_id=debate_id, now=now))
    say(f"debate {done.id} is {done.status.value}")


@app.command("value")
def value_(
    which: Annotated[str | None, typer.Argument(metavar="[DEBATE]", help="Only this one.")] = None,
    limit: Limit = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Say what debates changed, for how much (the view debate_value)."""
    if which is not None and not as_json:
        _, value = _read(home, which)
        print(paid(value) if value is not None else "")
        return
    debate_id = None if which is None else a_debate(which)
    _listed(
        home,
        lambda conn: service.value(conn, debate_id=debate_id, max_count=limit),
        _VALUE,
        "debate",
        as_json=as_json,
    )


@app.command("strategies")
def strategies(
    role: Annotated[str | None, typer.Option(help="Only this role.")] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Least debates to count.")] = 3,
    limit: Limit = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Say what wins debates, by strategy, model and role."""
    columns = (
        "strategy_name", "provider", "model", "position", "success_count", "total_attempts",
        "success_rate", "avg_confidence", "avg_response_time_ms",
    )  # fmt: skip

    async def read(conn: Connection) -> Any:
        return await service.best_strategies(
            conn, position=role, attempts_min=attempts, max_count=limit
        )

    _listed(home, read, columns, "strateg(ies)", as_json=as_json)


@app.command("code")
def code(  # noqa: PLR0917 - options, given by name
    which: Which,
    repository: Annotated[Path, typer.Option(help="Git repository on this machine.")],
    revision: Annotated[str, typer.Option(help="The commit to tie to the debate.")] = "HEAD",
    base: Annotated[str | None, typer.Option(help="Revision to hold it against.")] = None,
    test: Annotated[
        str | None, typer.Option(help="Command to run in the repository; its exit tells.")
    ] = None,
    test_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds after which the tests are ended.")
    ] = TIMEOUT_S,
    home: Home = None,
) -> None:
    """Tie a commit of a repository to a debate, with the result of its tests if you run them."""
    began, debate_id = time.monotonic(), a_debate(which)
    path = repository.expanduser().resolve()
    found = asyncio.run(Repositories((path,)).read(Code(str(path), revision, base)))
    if test is not None:
        found = run_tests(found, path, test, timeout_s=test_s)

    async def work(conn: Connection) -> int:
        debate = await service.get(conn, debate_id=debate_id)
        return await service.record_code(
            conn,
            debate_id=debate_id,
            version=found,
            now=datetime.now(UTC),
            round_number=len(debate.rounds),
        )

    number = one_transaction(home, work)
    say(
        f"version {number}: {found.version_hash[:12]} on {found.branch}, "
        f"tests {found.validation_status}; {time.monotonic() - began:.2f} s"
    )
