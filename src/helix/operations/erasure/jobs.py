"""What was erased in the database goes to the file beside the backups, every five minutes."""

from typing import Any

from helix.core.config import Settings
from helix.core.db import Database, Role
from helix.operations.erasure.ledger import export, file_of
from helix.tasks import Priority, RetryPolicy, Schedule, TaskContext, TaskRegistry

__all__ = ["ERASURES_EXPORT", "register_erasures"]

ERASURES_EXPORT = "helix.erasures.export"


def register_erasures(registry: TaskRegistry, db: Database, settings: Settings) -> None:
    """Register the export of erasures, every five minutes, one at a time."""

    @registry.task(
        ERASURES_EXPORT,
        queue="system",
        priority=Priority.LOW,
        retry=RetryPolicy(max_retries=0),
        stuck_after_s=None,
        concurrency_max=1,
    )
    async def run(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        async with db.transaction(Role.OPERATOR) as conn:
            return {"added": await export(conn, file_of(settings.backup_path))}

    registry.schedule(
        Schedule(
            ERASURES_EXPORT,
            ERASURES_EXPORT,
            cron="2-59/5 * * * *",
            queue="system",
            priority=Priority.LOW,
        )
    )
