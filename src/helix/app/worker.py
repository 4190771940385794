"""A worker in a process of its own: all of Helix but its port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helix import tasks
from helix.app.wiring import build, started
from helix.core.clock import SystemClock
from helix.core.config import Settings
from helix.core.db import Database
from helix.core.instance import load_keyring

__all__ = ["worker_tasks"]


@asynccontextmanager
async def worker_tasks(db: Database, settings: Settings) -> AsyncIterator[tasks.WorkerTasks]:
    """Give what a worker of its own can do, while the block runs.

    It is the same as what a server's can: tasks that call models, such as debates, call them
    through a gateway of this process, with its own record, limits and prices. Nothing starts in a
    restored copy before it is released. Raises Misuse when there are no encryption keys.
    """
    alone = settings.model_copy(update={"worker_concurrency": 0})
    application = build(alone, db, load_keyring(settings), SystemClock(), seated=False)
    async with started(application):
        yield tasks.WorkerTasks(application.registry, spend=application.spend)
