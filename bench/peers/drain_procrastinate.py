# ruff: noqa: PLW0603 - a script of one run
"""procrastinate: enqueue and drain; prints one line of JSON. Runs in the peers' environment."""

import asyncio
import json
import sys
import time

from procrastinate import App, PsycopgConnector

URL, JOBS, SLOW, ONES = sys.argv[1], *map(int, sys.argv[2:5])
app = App(connector=PsycopgConnector(conninfo=URL, min_size=4, max_size=12))
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


@app.task(name="noop")
async def noop(n: int) -> None:
    mark()


@app.task(name="slow")
async def slow(n: int) -> None:
    await asyncio.sleep(0.005)
    mark()


@app.task(name="stamp")
async def stamp(at: float) -> None:
    latency.append(time.time() - at)
    done.set()


async def drain(task: object, jobs: int) -> float:
    global left
    left = jobs
    seen.clear()
    done.clear()
    for start in range(0, jobs, 1000):
        rows = [{"n": i} for i in range(start, min(jobs, start + 1000))]
        await task.batch_defer_async(*rows)
    worker = asyncio.create_task(
        app.run_worker_async(concurrency=50, wait=True, install_signal_handlers=False)
    )
    await asyncio.wait_for(done.wait(), 300)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    return (len(seen) - 1) / (seen[-1] - seen[0])


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        out = {}
        started = time.perf_counter()
        for n in range(ONES):
            await noop.defer_async(n=n)
        out["enqueue_one_us"] = (time.perf_counter() - started) / ONES * 1e6
        await app.connector.execute_query_async("DELETE FROM procrastinate_jobs")
        started = time.perf_counter()
        await noop.batch_defer_async(*({"n": i} for i in range(1000)))
        out["enqueue_many_us"] = (time.perf_counter() - started) / 1000 * 1e6
        await app.connector.execute_query_async("DELETE FROM procrastinate_jobs")
        out["noop_per_s"] = await drain(noop, JOBS)
        if SLOW:
            out["slow_per_s"] = await drain(slow, SLOW)
            worker = asyncio.create_task(
                app.run_worker_async(concurrency=50, wait=True, install_signal_handlers=False)
            )
            await asyncio.sleep(1)
            for _ in range(30):
                done.clear()
                await stamp.defer_async(at=time.time())
                await asyncio.wait_for(done.wait(), 30)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            out["pickup_ms"] = sorted(latency)[len(latency) // 2] * 1e3
        print(json.dumps(out))


asyncio.run(main())  # as its own command does
