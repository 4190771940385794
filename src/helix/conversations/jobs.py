"""Background work of conversations: compressing, and recording what a dead process left."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from helix.conversations.domain import Conversations
from helix.conversations.errors import ConversationNotFound, NothingToCompress
from helix.conversations.types import CompressionType
from helix.core.db import Connection
from helix.tasks import (
    GiveUp,
    NewTask,
    Priority,
    Schedule,
    TaskContext,
    TaskRegistry,
    Unique,
    enqueue,
)

__all__ = ["COMPRESS", "SWEEP", "Compress", "enqueue_compression", "register_jobs"]

COMPRESS = "conversations.compress"
SWEEP = "conversations.sweep"


@dataclass(frozen=True, slots=True)
class Compress:
    """What to compress, whose it is, and how."""

    conversation_id: UUID
    user_id: UUID
    strategy: CompressionType = CompressionType.HYBRID
    target_tokens: int | None = None


async def enqueue_compression(
    conn: Connection, conversation_id: UUID, user_id: UUID, *, payload: Compress | None = None
) -> UUID:
    """Have a conversation compressed in the background, once at a time; returns the task."""
    made = await enqueue(
        conn,
        NewTask(
            task_type=COMPRESS,
            payload=payload or Compress(conversation_id, user_id),
            user_id=user_id,
            priority=Priority.LOW,
            unique=Unique(f"{COMPRESS}:{conversation_id}"),
        ),
    )
    return made.id


def register_jobs(registry: TaskRegistry, conversations: Conversations) -> None:
    """Register the tasks of this domain and the minute's look for what was left unrecorded."""

    async def compress(_: TaskContext, payload: Compress) -> dict[str, Any]:
        try:
            done = await conversations.compress(
                conversation_id=payload.conversation_id,
                user_id=payload.user_id,
                strategy=payload.strategy,
                target_tokens=payload.target_tokens,
                with_model=True,
            )
        except (ConversationNotFound, NothingToCompress) as exc:
            raise GiveUp(exc.message) from exc
        return {
            "compression_id": str(done.id),
            "original_tokens": done.original_tokens,
            "compressed_tokens": done.compressed_tokens,
            "quality_score": done.quality_score,
        }

    async def sweep(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        return await conversations.sweep()

    registry.add(COMPRESS, compress, priority=Priority.LOW, timeout_s=600.0)
    registry.add(SWEEP, sweep, queue="system", priority=Priority.LOW, timeout_s=300.0)
    registry.schedule(
        Schedule(SWEEP, SWEEP, cron="* * * * *", queue="system", priority=Priority.LOW)
    )
