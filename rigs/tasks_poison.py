"""The worker process of rigs/tasks_queue.py's poison: some of its tasks kill it.

python -m rigs.tasks_poison URL
"""

import asyncio
import os
import signal
import sys

import uvloop

from helix.core.db import Database, PoolLimits, Role
from helix.core.log import configure, get_log
from helix.tasks import TaskContext, TaskRegistry, Worker, WorkerOptions, run_worker


async def main(url: str) -> None:
    """Work until SIGTERM, or until a poisoned task is met."""
    configure("error")
    db = Database(url, {role: PoolLimits(kept=0, maximum=4) for role in Role})
    registry = TaskRegistry()

    @registry.task("plain")
    async def plain(ctx: TaskContext, payload: dict[str, float]) -> None:
        await asyncio.sleep(payload["s"])

    @registry.task("poison")
    async def poison(ctx: TaskContext, payload: dict[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    options = WorkerOptions(lease_s=2.0, control_s=0.2, poll_s=0.2)
    worker = Worker(db, registry, options, log=get_log("rig"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await run_worker(worker)
    await db.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
