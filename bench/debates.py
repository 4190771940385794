"""Debates against the clock: how near to the critical path, and how many at once.

    python -m bench.debates [--debates 200] [--delay-ms 50]

Starts Helix without a port on an embedded database that is durable, holds debates of mock models
that answer after a delay, and prints wall time beside the critical path: the calls that must come
after one another, times the delay. While 200 debates run on one worker it counts, ten times a
second, the connections that Helix holds. A first debate, not counted, warms what is lazy.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from bench.machine import facts
from helix import debates
from helix.accounts import bootstrap_admin
from helix.app import build, started
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Connection, Database, Role, connect
from helix.core.instance import load_keyring, make_home
from helix.operations import EmbeddedPostgres, upgrade

PARTICIPANTS, ROUNDS = 5, 4


def spec(participants: int, rounds: int, delay_ms: int) -> debates.DebateSpec:
    """Participants who never agree and never repeat themselves, so that all rounds are held."""
    members: list[dict[str, Any]] = []
    for n in range(participants):
        held = "ab"[n % 2]
        lines = {"baseline": _said(held, "alone")}
        for number in range(1, rounds + 1):
            lines[f"argue/{number}"] = _said(held, f"reason {number} of {n}: {uuid4().hex}")
            lines[f"vote/{number}"] = json.dumps({"ranking": [held]})
        lines["conclude"] = json.dumps({"conclusion": "a", "minority_opinion": "b"})
        members.append({
            "name": f"m{n}", "model": "mock/small", "lines": lines,
            "fields": {"helix": {"mock": {"delay_ms": delay_ms}}},
        })  # fmt: skip
    return debates.read_spec({
        "topic": "a or b?", "positions": ["a", "b"], "rounds": rounds, "participants": members,
    })  # fmt: skip


def _said(answer: str, argument: str) -> str:
    return json.dumps({"answer": answer, "argument": argument, "confidence": 0.5})


async def hold(conn: Connection, user_id: UUID, specs: list[debates.DebateSpec]) -> float:
    """Start debates together and return the seconds until the last has ended."""
    began, ids = time.perf_counter(), []
    async with conn.transaction():
        for one in specs:
            debate_id = debates.DebateId(uuid4())
            ids.append(debate_id)
            await debates.start(
                conn, spec=one, debate_id=debate_id, created_by=user_id, now=SystemClock().now()
            )
    while await conn.fetchval(  # noqa: ASYNC110 - another process could hold them as well
        "SELECT count(*) FROM debates WHERE id = ANY ($1) AND completed_at IS NULL", ids
    ):
        await asyncio.sleep(0.01)
    wall_s = time.perf_counter() - began
    bad = await conn.fetchval(
        "SELECT count(*) FROM debates WHERE id = ANY ($1) AND status <> 'completed'", ids
    )
    if bad:
        raise SystemExit(f"{bad} debates did not complete")
    return wall_s


async def most_connections(url: str, done: asyncio.Event) -> int:
    """Return the most connections seen, this one not counted, until `done`."""
    conn, most = await connect(url), 0
    while not done.is_set():
        seen = await conn.fetchval(
            "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
        )
        most = max(most, seen)
        await asyncio.sleep(0.1)
    await conn.close()
    return most


async def measure(many: int, delay_ms: int) -> None:
    """Start Helix, measure, print."""
    with tempfile.TemporaryDirectory(prefix="helix-bench-") as place:
        settings = load_settings(
            {"HELIX_WORKER_CONCURRENCY": "200", "HELIX_LOG_LEVEL": "error"},
            home=Path(place) / "home",
        )
        make_home(settings.home_dir)
        postgres = EmbeddedPostgres(settings)
        try:
            url = await postgres.start()
            await upgrade(url)
            db = Database(url, settings.pool_limits())
            await bootstrap_admin(db)
            keyring = load_keyring(settings, create=True)
            async with started(build(settings, db, keyring, SystemClock())):
                await _measured(url, many, delay_ms)
            await db.close()
        finally:
            await postgres.stop()


async def _measured(url: str, many: int, delay_ms: int) -> None:
    print(facts())
    conn = await connect(url, role=Role.OPERATOR)
    user_id = await debates.payer(conn, None)
    await hold(conn, user_id, [spec(2, 1, 0)])
    path_s = (2 * ROUNDS + 1) * delay_ms / 1_000
    print(f"{'':34}{'wall s':>8}{'critical path s':>17}{'ratio':>7}")
    for number in (1, 2):
        wall_s = await hold(conn, user_id, [spec(PARTICIPANTS, ROUNDS, delay_ms)] * number)
        name = f"{number} debate(s), {PARTICIPANTS} x {ROUNDS} rounds"
        print(f"{name:<34}{wall_s:>8.2f}{path_s:>17.2f}{wall_s / path_s:>7.2f}")
    done = asyncio.Event()
    counting = asyncio.create_task(most_connections(url, done))
    wall_s = await hold(conn, user_id, [spec(3, 2, delay_ms)] * many)
    done.set()
    calls = many * (3 + 2 * 6 + 1)
    print(
        f"{many} debates of 3 x 2 rounds at once: {wall_s:.1f} s, {calls / wall_s:.0f} calls/s, "
        f"at most {await counting} connections"
    )
    await conn.close()


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description="debates against the clock")
    parser.add_argument("--debates", type=int, default=200)
    parser.add_argument("--delay-ms", type=int, default=50)
    given = parser.parse_args()
    asyncio.run(measure(given.debates, given.delay_ms))


if __name__ == "__main__":
    main()
