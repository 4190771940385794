"""How long a conversation of many events takes to fold, by where the fold begins.

    python -m bench.conversations [--events 10000] [--rounds 5]

Starts a throwaway PostgreSQL, writes one conversation, and replays it in full, from its newest
snapshot and from the cache, in turns; then begins, records and assembles calls within it.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

from bench.machine import facts
from helix.conversations import CompressionType, ContextOptions, build, replay, service
from helix.conversations.types import ReplayType, SnapshotType
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.db import Connection, Database, PoolLimits, Role, connect
from helix.core.ids import IdSource
from helix.core.instance import make_home
from helix.operations import EmbeddedPostgres, upgrade

MADE: dict[str, Any] = {"ids": IdSource(), "clock": SystemClock()}
BATCH = 500


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="helix-bench-"))
    make_home(home)
    postgres = EmbeddedPostgres(load_settings({}, home=home), durable=False)
    try:
        url = await postgres.start()
        await upgrade(url)
        db = Database(url, {role: PoolLimits(kept=0, maximum=4) for role in Role})
        await measure(db, url, events=given.events, rounds=given.rounds)
        await db.close()
    finally:
        await postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


async def measure(db: Database, url: str, *, events: int, rounds: int) -> None:
    """Write a conversation and time what is done with it."""
    user_id = await a_user(url)
    talk_id, write_s = await a_talk(db, user_id, events)
    print(facts())
    print(f"{events} messages written at {events / write_s:,.0f}/s in batches of {BATCH}\n")
    print(f"{'replay':<34}{'events':>8}{'ms':>9}")
    for label, kind, ttl_s in (
        ("full", ReplayType.FULL, 0),
        ("from a snapshot", ReplayType.SNAPSHOT, 0),
        ("from the cache", ReplayType.SNAPSHOT, 600),
    ):
        if label == "from a snapshot":
            async with db.transaction(Role.APP, tenant=user_id) as conn:
                await service.take_snapshot(
                    conn, conversation_id=talk_id, user_id=user_id,
                    kind=SnapshotType.ON_DEMAND, **MADE,
                )  # fmt: skip
        if label == "from the cache":
            async with db.transaction(Role.OPERATOR) as conn:
                await conn.execute("DELETE FROM conversation_snapshots")
        times, folded = [], 0
        for _ in range(rounds + 1):
            began_s = time.perf_counter()
            async with db.transaction(Role.APP, tenant=user_id) as conn:
                talk = await service.get(conn, conversation_id=talk_id, user_id=user_id)
                done = await replay.replay(
                    conn, conversation=talk, kind=kind, cache_ttl_s=ttl_s, **MADE
                )
            folded = done.events_replayed
            times.append((time.perf_counter() - began_s) * 1_000)
        print(f"{label:<34}{folded:>8}{median(times[1:]):>9.1f}")
    conversations = build(db, Settings())
    for label, work in calls(conversations, user_id, talk_id):
        times = []
        for _ in range(20):
            began_s = time.perf_counter()
            await work()
            times.append((time.perf_counter() - began_s) * 1_000)
        print(f"{label:<34}{'':>8}{median(times):>9.1f}")
    began_s = time.perf_counter()
    done_ = await conversations.compress(
        conversation_id=talk_id, user_id=user_id, strategy=CompressionType.HYBRID
    )
    took_ms = (time.perf_counter() - began_s) * 1_000
    print(f"{'compress, hybrid':<34}{'':>8}{took_ms:>9.1f}"
          f"   ratio {done_.compression_ratio}, quality {done_.quality_score}")  # fmt: skip


def calls(
    conversations: Any, user_id: UUID, talk_id: UUID
) -> list[tuple[str, Callable[[], Awaitable[Any]]]]:
    """Return what the gateway does before a call: without and with a context."""

    async def before(options: ContextOptions | None) -> None:
        await conversations.before(
            request_id=MADE["ids"].next(MADE["clock"].now()),
            user_id=user_id,
            session=str(talk_id),
            messages=[{"role": "user", "content": "and now?"}],
            options=options,
        )

    return [
        ("before a call, no context", lambda: before(None)),
        ("before a call, context of 8,000", lambda: before(ContextOptions())),
    ]


async def a_user(url: str) -> UUID:
    """Return a new user."""
    conn: Connection = await connect(url)
    user_id = uuid4()
    await conn.execute(
        "INSERT INTO users (id, email, password_hash) VALUES ($1, $2, '!')",
        user_id, f"{user_id}@example.org",
    )  # fmt: skip
    await conn.close()
    return user_id


async def a_talk(db: Database, user_id: UUID, events: int) -> tuple[UUID, float]:
    """Return a conversation of so many messages, and the seconds it took to write it."""
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        talk = await service.create(conn, user_id=user_id)
    began_s = time.perf_counter()
    for start in range(0, events, BATCH):
        told = [
            ("message.added",
             {"role": "user" if i % 2 == 0 else "assistant",
              "content": f"the order number {i} was sent to the harbour and {i % 97} crates came"},
             None)
            for i in range(start, min(start + BATCH, events))
        ]  # fmt: skip
        async with db.transaction(Role.APP, tenant=user_id) as conn:
            await service.append_events(
                conn, conversation_id=talk.id, user_id=user_id, events=told, **MADE
            )
    return talk.id, time.perf_counter() - began_s


if __name__ == "__main__":
    asyncio.run(main())
