"""The tasks of debates: holding one, and clearing up after those whose task ended without them."""

from collections.abc import Callable
from datetime import datetime

from helix.core.db import Connection, Database, Role
from helix.debates import store
from helix.debates.engine import Engine, RunPayload
from helix.debates.service import TASK_TYPE
from helix.debates.store import QUERIES
from helix.debates.types import DebateId, EventType, Status
from helix.tasks import Schedule, TaskContext, TaskRegistry

__all__ = ["TIDY_TYPE", "register", "tidy"]

TIDY_TYPE = "debates.tidy"
TIDY_CRON = "* * * * *"
TIDY_MAX = 1_000


def register(
    registry: TaskRegistry, *, engine: Engine, db: Database, now: Callable[[], datetime]
) -> None:
    """Register the handler that holds debates, and the schedule that tidies up after them.

    A debate has limits of its own, so the task has none, and is never called stuck: a slow model
    is no reason to ask it again.
    """

    async def run(ctx: TaskContext, payload: RunPayload) -> dict[str, object]:
        return await engine.run(ctx, payload)

    registry.add(TASK_TYPE, run, timeout_s=None, stuck_after_s=None, dead_letter=False)

    async def sweep(ctx: TaskContext, payload: dict[str, object]) -> dict[str, int]:
        async with db.transaction(Role.OPERATOR) as conn:
            return {"debates": await tidy(conn, now=now())}

    registry.add(TIDY_TYPE, sweep, timeout_s=60.0)
    registry.schedule(Schedule("debates.tidy", TIDY_TYPE, TIDY_CRON))


async def tidy(conn: Connection, *, now: datetime) -> int:
    """End debates whose task has ended without them; return how many.

    A task that was cancelled by itself cancels its debate; one that failed for good, or is gone,
    fails it. Needs the operator's role.
    """
    rows = await QUERIES.rows(conn, "orphaned_debates", max_count=TIDY_MAX)
    for row in rows:
        debate_id = DebateId(row["id"])
        cancelled = row["task_status"] == "cancelled"
        await store.append_event(
            conn,
            debate_id=debate_id,
            event_type=EventType.CANCELLED if cancelled else EventType.FAILED,
            now=now,
            data={"task": row["task_status"] or "gone"},
        )
        if cancelled:
            await QUERIES.row(conn, "cancel_debate", id=debate_id, now=now)
        else:
            error = row["task_error"] or f"its task ended as {row['task_status'] or 'gone'}"
            await QUERIES.row(conn, "fail_debate", id=debate_id, error=error[:2_000], now=now)
        await QUERIES.run(
            conn,
            "break_off_rounds",
            debate_id=debate_id,
            status=Status.CANCELLED.value if cancelled else Status.FAILED.value,
            now=now,
        )
    return len(rows)
