"""Helix: enqueue and drain, history and events kept; prints one line of JSON."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from helix.core.db import Database, PoolLimits, Role, connect
from helix.core.log import configure, get_log
from helix.tasks import NewTask, TaskContext, TaskRegistry, Worker, WorkerOptions, enqueue
from helix.tasks import enqueue_many as many

BATCH = 1_000
PICKUPS = 30


class Bench:
    """One database, its registry of three handlers, and the moments they ran."""

    def __init__(self, url: str, concurrency: int) -> None:
        self.db = Database(url, {role: PoolLimits() for role in Role})
        self.options = WorkerOptions(concurrency=concurrency)
        self.registry = TaskRegistry()
        self.seen: list[float] = []
        self.latency: list[float] = []
        self.left = 0
        self.done = asyncio.Event()
        for name, handler in (("noop", self.noop), ("slow", self.slow), ("stamp", self.stamp)):
            self.registry.add(name, handler)

    def mark(self) -> None:
        self.seen.append(time.perf_counter())
        self.left -= 1
        if self.left == 0:
            self.done.set()

    async def noop(self, _: TaskContext, __: dict[str, Any]) -> None:
        self.mark()

    async def slow(self, _: TaskContext, __: dict[str, Any]) -> None:
        await asyncio.sleep(0.005)
        self.mark()

    async def stamp(self, _: TaskContext, payload: dict[str, Any]) -> None:
        self.latency.append(time.time() - payload["at"])
        self.done.set()

    async def enqueue(self, tasks: Sequence[NewTask]) -> None:
        async with self.db.transaction(Role.OPERATOR) as conn:
            await many(conn, tasks)

    async def fill(self, name: str, jobs: int) -> float:
        """Enqueue in batches; return the seconds it took."""
        started = time.perf_counter()
        for start in range(0, jobs, BATCH):
            await self.enqueue([NewTask(name, {"n": n}) for n in range(min(BATCH, jobs - start))])
        return time.perf_counter() - started

    async def work(self) -> tuple[Worker, "asyncio.Task[None]"]:
        worker = Worker(self.db, self.registry, self.options, log=get_log("bench"))
        run = asyncio.create_task(worker.run())
        await worker.ready.wait()
        return worker, run

    async def drain(self, jobs: int) -> float:
        """Run what was enqueued and return tasks a second, from the first to the last handler."""
        self.left = jobs
        self.seen.clear()
        self.done.clear()
        worker, run = await self.work()
        await asyncio.wait_for(self.done.wait(), 600)
        worker.stop()
        await run
        return (len(self.seen) - 1) / (self.seen[-1] - self.seen[0])

    async def pickup_ms(self) -> float:
        """Return the median time from enqueueing to the handler, with an idle worker."""
        worker, run = await self.work()
        await asyncio.sleep(1)
        for _ in range(PICKUPS):
            self.done.clear()
            async with self.db.transaction(Role.OPERATOR) as conn:
                await enqueue(conn, NewTask("stamp", {"at": time.time()}))
            await asyncio.wait_for(self.done.wait(), 30)
        worker.stop()
        await run
        return sorted(self.latency)[len(self.latency) // 2] * 1e3


async def main(url: str, jobs: int, slow: int, ones: int, concurrency: int) -> None:
    configure("error")
    bench = Bench(url, concurrency)
    out: dict[str, float] = {}
    started = time.perf_counter()
    for n in range(ones):
        async with bench.db.transaction(Role.OPERATOR) as conn:
            await enqueue(conn, NewTask("other", {"n": n}))
    if ones:
        out["enqueue_one_us"] = (time.perf_counter() - started) / ones * 1e6
    out["enqueue_many_us"] = await bench.fill("noop", jobs) / jobs * 1e6
    owner = await connect(url)
    await owner.execute("ANALYZE")
    before = await owner.fetchval("SELECT pg_current_wal_lsn()")
    cpu = time.process_time()
    out["noop_per_s"] = await bench.drain(jobs)
    out["worker_cpu_us"] = (time.process_time() - cpu) / jobs * 1e6
    wal = await owner.fetchval(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1::pg_lsn)::float8", before
    )
    out["wal_bytes"] = wal / jobs
    if slow:
        await bench.fill("slow", slow)
        out["slow_per_s"] = await bench.drain(slow)
        out["pickup_ms"] = await bench.pickup_ms()
    out["history_rows"] = await owner.fetchval("SELECT count(*) FROM task_execution_history")
    out["event_rows"] = await owner.fetchval("SELECT count(*) FROM task_events")
    await owner.close()
    await bench.db.close()
    print(json.dumps(out))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:6])))
