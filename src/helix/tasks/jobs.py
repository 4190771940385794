"""The queue's own recurring work. Everything else registers its jobs from its own domain."""

from collections.abc import Awaitable, Callable
from typing import Any

from helix.tasks.attempt import TaskContext
from helix.tasks.registry import TaskRegistry
from helix.tasks.types import Priority, Schedule

__all__ = ["CLEANUP", "register_jobs"]

CLEANUP = "helix.cleanup"
_TIMEOUT_S = 6 * 3_600.0


def register_jobs(
    registry: TaskRegistry, *, clean: Callable[[], Awaitable[Any]], cron: str = "0 2 * * *"
) -> None:
    """Register the daily clean-up, at 02:00 UTC if `cron` does not say otherwise.

    `clean` is what the floors above do then: make partitions ahead, drop expired months.
    """

    @registry.task(
        CLEANUP,
        queue="system",
        priority=Priority.LOW,
        stuck_after_s=None,
        timeout_s=_TIMEOUT_S,
        concurrency_max=1,
    )
    async def cleanup(_: TaskContext, __: dict[str, Any]) -> Any:
        return await clean()

    registry.schedule(Schedule(CLEANUP, CLEANUP, cron=cron, queue="system", priority=Priority.LOW))
