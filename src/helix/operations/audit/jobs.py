"""The seal of every five minutes, as a task."""

from typing import Any

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database, Role
from helix.core.instance import load_keyring
from helix.operations.audit.seal import seal_tables, write_anchors
from helix.tasks import Priority, RetryPolicy, Schedule, TaskContext, TaskRegistry

__all__ = ["AUDIT_SEAL", "register_audit"]

AUDIT_SEAL = "helix.audit.seal"


def register_audit(
    registry: TaskRegistry, db: Database, settings: Settings, *, clock: Clock
) -> None:
    """Register the sealing of the audit tables, every five minutes, one at a time."""

    @registry.task(
        AUDIT_SEAL,
        queue="system",
        priority=Priority.LOW,
        retry=RetryPolicy(max_retries=0),
        stuck_after_s=None,
        concurrency_max=1,
    )
    async def seal(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        keyring = load_keyring(settings)
        async with db.connection(Role.OPERATOR) as conn:
            done = await seal_tables(conn, keyring, now=clock.now())
            await write_anchors(conn, settings.home_dir)
        return done

    registry.schedule(
        Schedule(AUDIT_SEAL, AUDIT_SEAL, cron="*/5 * * * *", queue="system", priority=Priority.LOW)
    )
