"""Claims at a backlog, without and with an old transaction held open, and beside finished tasks.

    python -m bench.tasks_backlog URL [--backlog 1000000] [--claims 500] [--finished 0]

URL is an empty database with Helix's schema. One worker claims 50 tasks at a time and ends them.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Any

from helix.core.db import Role, connect
from helix.tasks import Outcome, Status, WorkerId
from helix.tasks.store import QUERIES, claim, finish

BATCH = 50
WORKER = WorkerId("bench")

FILL = """
    INSERT INTO background_tasks (task_type, payload)
    SELECT 'noop', '{"n":1}' FROM generate_series(1, $1)
"""
SILENCE = "ALTER TABLE background_tasks {} TRIGGER background_tasks_inserted"
FINISHED = """
    INSERT INTO background_tasks (task_type, payload, status, completed_at)
    SELECT 'noop', '{"n":1}', 'completed', now() FROM generate_series(1, $1)
"""


@dataclass(frozen=True)
class Claims:
    """What `count` claims took."""

    p50_ms: float
    p99_ms: float
    tasks_per_s: float

    def __str__(self) -> str:
        return (
            f"claim p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, "
            f"{self.tasks_per_s:,.0f} tasks/s"
        )


async def fill(url: str, count: int, statement: str) -> float:
    """Insert tasks, 50,000 a transaction; return the seconds it took."""
    conn = await connect(url)
    started = time.perf_counter()
    for start in range(0, count, 50_000):
        await conn.execute(statement, min(50_000, count - start))
    await conn.close()
    return time.perf_counter() - started


async def measure(url: str, claims: int) -> Claims:
    """Claim and end tasks, one batch after the other, on two connections as a worker does."""
    taker = await connect(url, role=Role.OPERATOR)
    ender = await connect(url, role=Role.OPERATOR)
    await taker.execute("DELETE FROM task_workers")
    await QUERIES.run(
        taker, "register_worker", id=WORKER, host="bench", pid=1, queues=[], concurrency=BATCH,
        lease_s=3_600.0,
    )  # fmt: skip
    took: list[float] = []
    ending: asyncio.Task[Any] | None = None
    tasks = 0
    started = time.perf_counter()
    for _ in range(claims):
        at = time.perf_counter()
        found = await claim(
            taker, worker_id=WORKER, queues=None, types=["noop"], max_count=BATCH,
            begin_count=BATCH, suspects=1,
        )  # fmt: skip
        took.append(time.perf_counter() - at)
        tasks += len(found)
        if ending is not None:
            await ending
        outcomes = [Outcome(t.id, t.fencing_token, t.attempt, Status.COMPLETED) for t in found]
        ending = asyncio.create_task(finish(ender, worker_id=WORKER, outcomes=outcomes))
    if ending is not None:
        await ending
    elapsed = time.perf_counter() - started
    await taker.close()
    await ender.close()
    took.sort()
    return Claims(took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, tasks / elapsed)


async def run(url: str, *, backlog: int, claims: int, finished: int) -> None:
    """Print the figures."""
    owner = await connect(url)
    if finished:
        # Their events are not what is measured here, and would double the time to make them.
        await owner.execute(SILENCE.format("DISABLE"))
        took = await fill(url, finished, FINISHED)
        print(f"{finished:,} finished tasks made in {took:.0f} s", flush=True)
        await owner.execute(SILENCE.format("ENABLE"))
    took = await fill(url, backlog, FILL)
    await owner.execute("ANALYZE background_tasks")
    print(f"{backlog:,} tasks enqueued in {took:.1f} s ({took / backlog * 1e6:.0f} us each)")
    print(f"backlog {backlog:,}, {finished:,} finished: {await measure(url, claims)}", flush=True)
    holder = await connect(url)
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await holder.fetchval("SELECT count(*) FROM task_workers")
    await measure(url, claims)  # what the held transaction keeps from being cleared away
    print(f"the same, an old transaction held open: {await measure(url, claims)}", flush=True)
    await holder.close()
    await owner.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--claims", type=int, default=500)
    parser.add_argument("--finished", type=int, default=0)
    given = parser.parse_args()
    asyncio.run(run(given.url, backlog=given.backlog, claims=given.claims, finished=given.finished))


if __name__ == "__main__":
    main()
