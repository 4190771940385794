"""Workers when PostgreSQL has no room: none claims, and all go on by themselves."""

import asyncio
from typing import Any

from helix.core.db import Connection, Database, Role
from helix.tasks import NewTask, TaskContext, TaskRegistry, enqueue
from tests.fakes import full_disk
from tests.tasks.support import make_worker, working

TABLES = ["task_execution_history"]


async def test_worker_claims_nothing_until_there_is_room(db: Database, owner: Connection) -> None:
    registry = TaskRegistry()
    begun: list[int] = []

    @registry.task("count")
    async def count(_: TaskContext, payload: dict[str, Any]) -> None:
        begun.append(payload["n"])

    async def put(n: int) -> None:
        async with db.transaction(Role.OPERATOR) as conn:
            await enqueue(conn, NewTask("count", {"n": n}))

    async with working(make_worker(db, registry, concurrency=1, poll_s=0.02), keep=True) as worker:
        await full_disk.fill(owner, TABLES)  # an outcome cannot be written down
        await put(0)
        async with asyncio.timeout(10):
            while not worker._full:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        held = len(begun)
        for n in range(1, 6):
            await put(n)
        worker.wake()
        for _ in range(20):
            await asyncio.sleep(0.02)
            assert len(begun) == held
        assert worker._full
        await full_disk.empty(owner, TABLES)
        async with asyncio.timeout(20):
            while set(begun) != set(range(6)):  # noqa: ASYNC110 - a list tells nobody
                await asyncio.sleep(0.02)
    left = "SELECT count(*) FROM background_tasks WHERE status <> 'completed'"
    assert await owner.fetchval(left) == 0
