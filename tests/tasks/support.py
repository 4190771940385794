"""What the tests of the task queue share: workers that end by themselves, and short ways to SQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database, Role
from helix.core.log import get_log
from helix.tasks import Keeper, NewTask, Outcome, Status, TaskRegistry, Worker, WorkerOptions
from helix.tasks.store import QUERIES, claim, finish
from helix.tasks.types import ClaimedTask, WorkerId

PATIENCE_S = 30.0
QUICK = WorkerOptions(concurrency=10, control_s=0.01, poll_s=0.05, drain_s=0.2, lease_s=30.0)


class ShiftedClock(SystemClock):
    """The machine's clock, which a test can put forward; its calendar may be wrong by `wrong`."""

    def __init__(self, wrong: timedelta = timedelta(0)) -> None:
        self.ahead_s = 0.0
        self.wrong = wrong

    def now(self) -> datetime:
        return super().now() + self.wrong

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


def make_worker(db: Database, registry: TaskRegistry, **options: Any) -> Worker:
    clock, metrics = options.pop("clock", None), options.pop("metrics", None)
    values = {name: getattr(QUICK, name) for name in QUICK.__slots__} | options
    return Worker(
        db, registry, WorkerOptions(**values), log=get_log("test"), clock=clock, metrics=metrics
    )


@asynccontextmanager
async def working(worker: Worker, *, keep: bool = False, **kept: Any) -> AsyncIterator[Worker]:
    """Run a worker (and its keeper) for the time of the block; afterwards all is recorded."""
    run = asyncio.create_task(worker.run())
    keeper = asyncio.create_task(Keeper(worker, **kept).run()) if keep else None
    try:
        async with asyncio.timeout(PATIENCE_S):
            await worker.ready.wait()
            yield worker
    finally:
        worker.stop()
        await run
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)


async def register(conn: Connection, *, lease_s: float = 3600.0) -> WorkerId:
    """Register a worker that exists only as a row."""
    worker_id = WorkerId(f"w-{uuid4().hex}")
    await QUERIES.run(
        conn, "register_worker", id=worker_id, host="test", pid=1, queues=[], concurrency=10,
        lease_s=lease_s,
    )  # fmt: skip
    return worker_id


async def take(
    conn: Connection, worker_id: WorkerId, task_type: str, *, count: int = 100, suspects: int = 100
) -> list[ClaimedTask]:
    return await claim(
        conn, worker_id=worker_id, queues=None, types=[task_type], max_count=count,
        begin_count=count, suspects=suspects,
    )  # fmt: skip


async def end(
    conn: Connection, worker_id: WorkerId, task: ClaimedTask, status: Status, **values: Any
) -> bool:
    """End an attempt; whether it was still held."""
    outcome = Outcome(task.id, task.fencing_token, task.attempt, status, **values)
    return bool(await finish(conn, worker_id=worker_id, outcomes=[outcome]))


async def kill(conn: Connection, worker_id: WorkerId) -> None:
    """Let a worker's lease run out and have its tasks taken back, as a survivor would.

    What then waits, because its workers died twice, is brought forward.
    """
    await conn.execute(
        "UPDATE task_workers SET lease_until = now() - interval '1 second' WHERE id = $1", worker_id
    )
    await QUERIES.run(conn, "reclaim_tasks")
    await conn.execute(
        "UPDATE background_tasks SET scheduled_at = clock_timestamp()"
        " WHERE status = 'pending' AND lost_count = 2 AND scheduled_at > clock_timestamp()"
    )


async def status_of(conn: Connection, task_id: UUID) -> str:
    found: str = await conn.fetchval("SELECT status FROM background_tasks WHERE id = $1", task_id)
    return found


async def events(conn: Connection, task_id: UUID) -> list[str]:
    rows = await conn.fetch(
        "SELECT event_type FROM task_events WHERE task_id = $1 ORDER BY id", task_id
    )
    return [row[0].removeprefix("task.") for row in rows]


def new_type() -> str:
    return f"t-{uuid4().hex[:12]}"


def operator(db: Database) -> Any:
    return db.transaction(Role.OPERATOR)


def plain(task_type: str, **options: Any) -> NewTask:
    return NewTask(task_type, **options)
