"""The queue's own recurring work. Everything else registers its jobs from its own domain."""

from collections.abc import Awaitable, Callable
from typing import Any

from helix.tasks.attempt import TaskContext
from helix.tasks.registry import TaskRegistry
from helix.tasks.types import Priority, Schedule

__all__ = ["CLEANUP", "register_jobs"]

CLEANUP = "helix.cleanup"


def register_jobs(registry: TaskRegistry, *, clean: Callable[[], Awaitable[Any]]) -> None:
    """Register the daily clean-up, at 02:00 UTC.

    `clean` is what the floors above do then: make partitions ahead, drop expired months.
    """

    @registry.task(CLEANUP, queue="system", priority=Priority.LOW, stuck_after_s=None)
    async def cleanup(_: TaskContext, __: dict[str, Any]) -> Any:
        return await clean()

    registry.schedule(
        Schedule(CLEANUP, CLEANUP, cron="0 2 * * *", queue="system", priority=Priority.LOW)
    )
