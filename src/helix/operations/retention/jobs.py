"""Retention of every night, sums of every hour, views when due, and the upkeep, as tasks."""

from dataclasses import asdict
from typing import Any

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database
from helix.core.ids import IdSource
from helix.core.instance import load_keyring
from helix.operations.retention.errors import RetentionFailed
from helix.operations.retention.maintain import maintain, refresh_views
from helix.operations.retention.run import roll_up, run
from helix.tasks import Priority, RetryPolicy, Schedule, TaskContext, TaskRegistry

__all__ = ["MAINTAIN", "ROLL_UP", "VIEWS", "nightly", "register_retention"]

VIEWS = "helix.views.refresh"
ROLL_UP = "helix.usage.roll_up"
MAINTAIN = "helix.database.maintain"
_TIMEOUT_S = 6 * 3_600.0


async def nightly(db: Database, settings: Settings, *, clock: Clock) -> dict[str, Any]:
    """Run retention and refresh every materialized view; return what was done, in numbers.

    Raises RetentionFailed when a table could not be worked on, after all the others were.
    """
    now = clock.now()
    done = await run(db.url, settings, load_keyring(settings), now=now, run_id=IdSource().next(now))
    refreshed = await refresh_views(db.url, everything=True)
    if done.errors:
        raise RetentionFailed("; ".join(done.errors)[:2_000])
    return {
        "views_refreshed": refreshed,
        "partitions_made": done.partitions_made,
        "partitions_dropped": sum(one.partition_count for one in done.outcomes),
        "rows_removed": sum(one.row_count for one in done.outcomes),
        "bytes_freed": sum(one.byte_count for one in done.outcomes),
        "held": [reason for one in done.outcomes for reason in one.held],
        "duration_ms": done.duration_ms,
    }


def register_retention(
    registry: TaskRegistry, db: Database, settings: Settings, *, clock: Clock
) -> None:
    """Register what keeps the database in shape besides the night's retention (helix.cleanup)."""
    rules: dict[str, Any] = {
        "queue": "system",
        "priority": Priority.LOW,
        "stuck_after_s": None,
        "concurrency_max": 1,
    }

    @registry.task(VIEWS, retry=RetryPolicy(max_retries=0), timeout_s=600.0, **rules)
    async def views(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        return {"views_refreshed": await refresh_views(db.url, everything=False)}

    @registry.task(ROLL_UP, retry=RetryPolicy(max_retries=1), timeout_s=3_000.0, **rules)
    async def sums(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        return {"rows_written": await roll_up(db.url, now=clock.now())}

    @registry.task(MAINTAIN, retry=RetryPolicy(max_retries=1), timeout_s=_TIMEOUT_S, **rules)
    async def upkeep(_: TaskContext, __: dict[str, Any]) -> dict[str, Any]:
        return asdict(await maintain(db.url, settings))

    every = settings.views_refresh_minutes
    for name, cron, enabled in (
        (VIEWS, f"*/{every or 59} * * * *", every > 0),
        (ROLL_UP, "7 * * * *", True),
        (MAINTAIN, f"0 {settings.maintenance_hour} * * *", True),
    ):
        registry.schedule(
            Schedule(name, name, cron=cron, queue="system", priority=Priority.LOW, enabled=enabled)
        )
