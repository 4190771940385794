# ruff: noqa: PLW0603 - a script of one run
"""pgqueuer: enqueue and drain; prints one line of JSON. Runs in the peers' environment."""

import asyncio
import json
import sys
import time
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

URL, JOBS, SLOW, ONES = sys.argv[1], *map(int, sys.argv[2:5])
seen: list[float] = []
latency: list[float] = []
done = asyncio.Event()
left = 0


def mark() -> None:
    global left
    seen.append(time.perf_counter())
    left -= 1
    if left == 0:
        done.set()


def make(driver: AsyncpgDriver) -> PgQueuer:
    pgq = PgQueuer(driver)

    @pgq.entrypoint("noop")
    async def noop(job: object) -> None:
        mark()

    @pgq.entrypoint("slow")
    async def slow(job: object) -> None:
        await asyncio.sleep(0.005)
        mark()

    @pgq.entrypoint("stamp")
    async def stamp(job: object) -> None:
        latency.append(time.time() - float(job.payload))
        done.set()

    return pgq


async def drain(queries: Queries, name: str, jobs: int) -> float:
    global left
    left = jobs
    seen.clear()
    done.clear()
    for start in range(0, jobs, 1000):
        count = min(1000, jobs - start)
        await queries.enqueue([name] * count, [b"1"] * count, [0] * count)
    conn = await asyncpg.connect(URL)
    pgq = make(AsyncpgDriver(conn))
    worker = asyncio.create_task(pgq.run(dequeue_timeout=timedelta(seconds=1), batch_size=200))
    await asyncio.wait_for(done.wait(), 300)
    pgq.shutdown.set()
    await asyncio.gather(worker, return_exceptions=True)
    await conn.close()
    return (len(seen) - 1) / (seen[-1] - seen[0])


async def main() -> None:
    conn = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(conn))
    await queries.install()
    out = {}
    started = time.perf_counter()
    for _ in range(ONES):
        await queries.enqueue("noop", b"1")
    out["enqueue_one_us"] = (time.perf_counter() - started) / ONES * 1e6
    started = time.perf_counter()
    await queries.enqueue(["noop"] * 1000, [b"1"] * 1000, [0] * 1000)
    out["enqueue_many_us"] = (time.perf_counter() - started) / 1000 * 1e6
    await queries.clear_queue()
    out["noop_per_s"] = await drain(queries, "noop", JOBS)
    if SLOW:
        out["slow_per_s"] = await drain(queries, "slow", SLOW)
        other = await asyncpg.connect(URL)
        pgq = make(AsyncpgDriver(other))
        worker = asyncio.create_task(pgq.run(dequeue_timeout=timedelta(seconds=30), batch_size=10))
        await asyncio.sleep(1)
        for _ in range(30):
            done.clear()
            await queries.enqueue("stamp", str(time.time()).encode())
            await asyncio.wait_for(done.wait(), 60)
        pgq.shutdown.set()
        await asyncio.gather(worker, return_exceptions=True)
        out["pickup_ms"] = sorted(latency)[len(latency) // 2] * 1e3
    print(json.dumps(out))


uvloop.run(main())
