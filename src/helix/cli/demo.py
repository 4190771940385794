"""`helix demo`: see it work in seconds, without a key.

`helix demo debate` holds a debate of three mock models that read their lines, through everything a
real one goes through: the gateway, the ledger, the queue. It uses the Helix that runs on this home,
or else one of its own, on a throwaway directory that is gone afterwards.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from helix import debates
from helix.cli.own import runs, throwaway
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.db import Role, connect
from helix.core.errors import Unavailable
from helix.core.instance import locate
from helix.core.log import configure

__all__ = ["SCRIPT", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
LIMIT_S = 60.0


def main(args: list[str]) -> None:
    """Run `helix demo …`."""
    app(args, prog_name="helix demo")


@app.callback()
def _group() -> None:
    """See Helix work, without any key."""


def _lines(
    alone: tuple[str, str, float], *rounds: tuple[str, str, float, list[str], str]
) -> dict[str, str]:
    """Return what a participant says: alone, and in each round its argument and its ballot."""
    told = {"baseline": _argument(*alone)}
    for number, (answer, argument, confidence, ranking, reason) in enumerate(rounds, 1):
        told[f"argue/{number}"] = _argument(answer, argument, confidence)
        told[f"vote/{number}"] = json.dumps(
            {"ranking": ranking, "confidence": confidence, "reason": reason}
        )
    return told


def _argument(answer: str, argument: str, confidence: float) -> str:
    return json.dumps({"answer": answer, "argument": argument, "confidence": confidence})


_PG, _REDIS, _KAFKA = "a table in PostgreSQL", "a Redis list", "a Kafka topic"
SCRIPT: dict[str, Any] = {
    "topic": (
        "Five people run one PostgreSQL and 40 background jobs a second. "
        "Where should the queue live?"
    ),
    "description": "A lost job is a support ticket. Nobody is on call at night.",
    "positions": [_REDIS, _KAFKA, _PG],
    "rounds": 2,
    "protocol": "all_see_all",
    "voting": {"method": "weighted"},
    "stop": {"agreement": "1", "convergence": "0.95", "rounds_min": 2},
    "metadata": {"demo": True},
    "participants": [
        {
            "name": "Ada",
            "model": "mock/large",
            "lines": _lines(
                (_REDIS, "Queues belong in Redis: it is fast and everyone knows it.", 0.7),
                (
                    _REDIS,
                    "40 jobs a second is nothing for Redis, and BRPOP is one line of code.",
                    0.6,
                    [_REDIS, _PG, _KAFKA],
                    "Fast and familiar.",
                ),
                (
                    _PG,
                    (
                        "Cyd is right about the two commits: enqueue in Redis, crash before the "
                        "database commits, and a job runs for an order that never was. At 40/s "
                        "I was solving for speed we do not need."
                    ),
                    0.8,
                    [_PG, _REDIS, _KAFKA],
                    "One commit beats a fast queue.",
                ),
            )
            | {
                "conclude": json.dumps(
                    {
                        "conclusion": (
                            "Put the queue into a table of the PostgreSQL you already "
                            "have. A job and the data it is about commit together: none is lost "
                            "and none runs for nothing; 40 a second is far below what SKIP LOCKED "
                            "carries; and the backup you test is the backup of your queue."
                        ),
                        "minority_opinion": (
                            "Bob expects the load to grow a hundredfold and would "
                            "rather learn Redis now than migrate under pressure."
                        ),
                    }
                )
            },
        },
        {
            "name": "Bob",
            "model": "mock/small",
            "lines": _lines(
                (_REDIS, "Use Redis. Databases are not queues.", 0.8),
                (
                    _REDIS,
                    "A database as a queue bloats and polls. Redis was made for this.",
                    0.8,
                    [_REDIS, _KAFKA, _PG],
                    "The right tool.",
                ),
                (
                    _REDIS,
                    (
                        "Granted, two commits need care. But we will not stay at 40 a second, and "
                        "moving a live queue is worse than an outbox today."
                    ),
                    0.5,
                    [_REDIS, _PG, _KAFKA],
                    "Room to grow.",
                ),
            ),
        },
        {
            "name": "Cyd",
            "model": "mock/echo",
            "lines": _lines(
                (_PG, "One database, one commit, one backup.", 0.7),
                (
                    _PG,
                    (
                        "With Redis a job and its data are two commits; a crash between them loses "
                        "one. A lost job is a ticket; that is the whole question. SKIP LOCKED does "
                        "thousands a second."
                    ),
                    0.8,
                    [_PG, _REDIS, _KAFKA],
                    "Nothing is lost.",
                ),
                (
                    _PG,
                    (
                        "Bob's bloat is real above thousands a second, and seen months ahead. "
                        "Five people should not run a second stateful system for a load they lack."
                    ),
                    0.9,
                    [_PG, _REDIS, _KAFKA],
                    "Nothing is lost, nothing new to run.",
                ),
            ),
        },
    ],
}
"""The debate of the demo: what is asked, and what the three mock models say."""


@app.command("debate")
def debate(
    home: Annotated[Path | None, typer.Option(help="HELIX_HOME of a running Helix.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines.")] = False,
) -> None:
    """Watch three mock models debate, vote, and account for what it cost."""
    began = time.monotonic()
    settings = load_settings(os.environ, home=home)
    configure(settings.log_level)
    try:
        asyncio.run(_held(settings, as_json=as_json))
    except TimeoutError as exc:
        raise Unavailable(
            f"the debate was not over after {LIMIT_S:.0f} s: `helix tasks stats` shows what else "
            "the worker has to do, `helix debates list` how far it is"
        ) from exc
    print(f"1 debate; {time.monotonic() - began:.1f} s", file=sys.stderr)


async def _held(settings: Settings, *, as_json: bool) -> None:
    async with _helix(settings) as url, asyncio.timeout(LIMIT_S):
        conn = await connect(url, role=Role.OPERATOR, application_name="helix demo")
        try:
            async with conn.transaction():
                user_id = await debates.payer(conn, None)
                made = await debates.start(
                    conn,
                    spec=debates.read_spec(SCRIPT),
                    debate_id=debates.DebateId(uuid4()),
                    created_by=user_id,
                    now=SystemClock().now(),
                )
            if not as_json:
                print("A rehearsal: the three are mock models and read their lines.\n")
            await debates.follow(conn, made.id, as_json=as_json)
        finally:
            await conn.close()
    print(f"helix debates transcript {made.id}", file=sys.stderr) if runs(settings) else None


@asynccontextmanager
async def _helix(settings: Settings) -> AsyncIterator[str]:
    """Give the database of the Helix that runs here, or of one made for this block."""
    if runs(settings):
        yield locate(settings).database_url
        return
    print("no Helix runs here: starting one that is gone afterwards", file=sys.stderr)
    async with throwaway(settings) as url:
        yield url
