"""A worker with everything it needs, from one call: for `helix worker` and inside `helix up`."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from helix.core.clock import Clock
from helix.core.crypto import Keyring
from helix.core.db import Database
from helix.core.log import get_log
from helix.core.quarantine import until_released
from helix.tasks.keeper import Keeper, SpendReader
from helix.tasks.metrics import WorkerMetrics
from helix.tasks.policy import webhook_secret
from helix.tasks.registry import TaskRegistry
from helix.tasks.webhooks import WebhookSender
from helix.tasks.worker import Worker, WorkerOptions

__all__ = ["WorkerTasks", "build_worker", "run_worker", "webhook_secrets", "webhook_sender"]

WEBHOOK_PURPOSE = "helix webhook signatures"


@dataclass(frozen=True, slots=True)
class WorkerTasks:
    """What a worker can do; `spend` tells its keeper what tasks have cost in model calls."""

    registry: TaskRegistry
    spend: SpendReader | None = None


def webhook_secrets(keyring: Keyring) -> Callable[[UUID | None], Sequence[bytes]]:
    """Return what tells a tenant's signing keys (None: Helix's own), newest first.

    There is one for each encryption key: while those are rotated, messages carry a signature for
    the old one as well, so that receivers can change over at leisure.
    """
    return lambda user_id: [
        webhook_secret(master, user_id) for _, master in keyring.derived(WEBHOOK_PURPOSE)
    ]


def webhook_sender(keyring: Keyring, *, allowed_hosts: Collection[str] = ()) -> WebhookSender:
    """Return a sender that signs with `webhook_secrets`."""
    return WebhookSender(webhook_secrets(keyring), allowed_hosts=allowed_hosts)


def build_worker(
    db: Database,
    registry: TaskRegistry,
    options: WorkerOptions | None = None,
    *,
    clock: Clock | None = None,
    metrics: WorkerMetrics | None = None,
) -> Worker:
    """Return a worker that has not begun."""
    return Worker(
        db, registry, options, log=get_log("helix.tasks.worker"), clock=clock, metrics=metrics
    )


async def run_worker(
    worker: Worker, *, spend: SpendReader | None = None, webhooks: WebhookSender | None = None
) -> None:
    """Run a worker and its keeper until `worker.stop()`; the keeper goes on while it drains.

    In a restored copy it waits for `helix backup release` before anything else. Should one of the
    two end through a bug, so does the other, and the error is raised.
    """
    if not await _released(worker):
        return
    keeper = asyncio.create_task(Keeper(worker, spend=spend, webhooks=webhooks).run())
    work = asyncio.create_task(worker.run())
    try:
        await asyncio.wait((keeper, work), return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        await work
    finally:
        work.cancel()
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


async def _released(worker: Worker) -> bool:
    """Wait until the database may be worked on; False when the worker was stopped before."""
    released = asyncio.create_task(until_released(worker.db.url))
    stopped = asyncio.create_task(worker.stopped())
    try:
        await asyncio.wait((released, stopped), return_when=asyncio.FIRST_COMPLETED)
        return released.done() and not stopped.done()
    finally:
        for waiting in (released, stopped):
            waiting.cancel()
        await asyncio.gather(released, stopped, return_exceptions=True)
