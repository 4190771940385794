"""The recurring work of providers: the weekly verification, the daily look at the catalogue."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from helix.core.clock import Clock
from helix.core.db import Database, Role
from helix.core.errors import HelixError
from helix.providers.domain import Providers
from helix.providers.models_store import ModelStore
from helix.providers.modelsdev import ProposePrice, bundled, sync
from helix.providers.types import Wire
from helix.tasks import Priority, Schedule, TaskContext, TaskRegistry

__all__ = ["SYNC", "VERIFY", "register_jobs"]

VERIFY = "providers.verify"
SYNC = "providers.sync_models"
_TIMEOUT_S = 3_600.0

Opened = Callable[[], AbstractAsyncContextManager[Providers]]


def register_jobs(
    registry: TaskRegistry,
    *,
    db: Database,
    clock: Clock,
    opened: Opened,
    propose_price: ProposePrice | None = None,
) -> None:
    """Register them: verification Sundays at 03:00, the catalogue daily at 03:30, UTC.

    `opened` gives Providers ready to call. The catalogue is the one that Helix carries, so that
    nothing is fetched unasked; `helix models sync --url` fetches.
    """

    @registry.task(VERIFY, queue="system", priority=Priority.LOW, timeout_s=_TIMEOUT_S)
    async def verify(ctx: TaskContext, _: dict[str, Any]) -> Any:
        scores: dict[str, str] = {}
        async with opened() as providers:
            usable = [
                p
                for p in providers.registry.providers.values()
                if p.problem is None and p.wire is not Wire.MOCK and (p.models or p.default_model)
            ]
            for number, provider in enumerate(usable, start=1):
                try:
                    scores[provider.name] = str((await providers.verify(provider.name)).score)
                except HelixError as exc:
                    scores[provider.name] = exc.code
                ctx.progress(100 * number / len(usable))
        return scores

    @registry.task(SYNC, queue="system", priority=Priority.LOW, timeout_s=_TIMEOUT_S)
    async def sync_models(_: TaskContext, __: dict[str, Any]) -> Any:
        catalog = bundled()
        async with db.transaction(Role.OPERATOR) as conn:
            done = await sync(
                conn,
                ModelStore(),
                catalog,
                now=clock.now(),
                kind="snapshot",
                propose_price=propose_price,
            )
        return {one.provider: one.models for one in done}

    registry.schedule(
        Schedule(VERIFY, VERIFY, cron="0 3 * * 0", queue="system", priority=Priority.LOW)
    )
    registry.schedule(
        Schedule(SYNC, SYNC, cron="30 3 * * *", queue="system", priority=Priority.LOW)
    )
