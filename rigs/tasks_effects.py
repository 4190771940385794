"""The worker process of rigs/tasks_kill.py: runs tasks whose effects are written to two ledgers.

    python -m rigs.tasks_effects URL LEDGER CONTROL

The effect of a task is a row in the database, in the transaction that completes the task; and, as
it would be in the world outside, a line in LEDGER with the attempt's fencing token. With CONTROL 1
the effect row is written without holding the attempt, and apart from its end: the planted fault
the rig must notice.
"""

import asyncio
import os
import signal
import sys
from typing import Any
from uuid import UUID

import uvloop

from helix.core.db import Database, PoolLimits, Role
from helix.core.log import configure, get_log
from helix.tasks import TaskContext, TaskRegistry, Worker, WorkerOptions, run_worker

LEASE_S = 3.0
OPTIONS = WorkerOptions(concurrency=20, lease_s=LEASE_S, control_s=0.2, poll_s=0.2, drain_s=2.0)
APART_S = 0.2
"""How long after its effect an attempt of the control ends: a fault between the two is noticed, and
where the end is recorded within milliseconds a few faults would hit none by chance."""
SQL = "INSERT INTO rig_effects (task_id, token) VALUES ($1, $2)"


async def main(url: str, ledger: str, *, control: bool) -> None:
    """Work until SIGTERM."""
    configure("error")
    db = Database(
        url, {role: PoolLimits(kept=0, maximum=25, acquire_timeout_s=10.0) for role in Role}
    )
    out = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    registry = TaskRegistry()

    def note(task_id: UUID, token: int, what: str) -> None:
        os.write(out, f"{task_id} {token} {what}\n".encode())

    @registry.task("effect")
    async def effect(ctx: TaskContext, payload: dict[str, Any]) -> None:
        note(ctx.task_id, ctx.fencing_token, "begun")
        await asyncio.sleep(payload["s"])
        if control:
            async with db.transaction(Role.OPERATOR) as conn:
                await conn.execute(SQL, ctx.task_id, ctx.fencing_token)
            await asyncio.sleep(APART_S)
            return
        async with ctx.transaction(Role.OPERATOR) as conn:
            await conn.execute(SQL, ctx.task_id, ctx.fencing_token)
            await ctx.complete(conn, {"token": ctx.fencing_token})
        note(ctx.task_id, ctx.fencing_token, "done")

    worker = Worker(db, registry, OPTIONS, log=get_log("rig"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await run_worker(worker)
    await db.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], control=sys.argv[3] == "1"))
