"""Background work of memory: vectors for new memories, and what is left of an older analysis."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection, Database, Role
from helix.memory import service, vectors
from helix.memory.extraction import Extracted, FoundEntity, FoundRelation
from helix.memory.types import MemoryId
from helix.retrieval import Embedder
from helix.tasks import (
    HeldWhile,
    NewTask,
    Priority,
    Schedule,
    TaskContext,
    TaskRegistry,
    Unique,
    enqueue,
)

__all__ = ["EMBED", "EXTRACT", "REINDEX", "Extractor", "enqueue_embedding", "register_jobs"]

EMBED = "memory.embed"
EXTRACT = "memory.extract"
REINDEX = "memory.reindex"
QUEUE = "memory"
REINDEX_BATCH = 500
EXTRACTED_MAX = 100

Extractor = Callable[[str], Awaitable[dict[str, Any]]]
"""Asks a model for what a text speaks of:

{"entities": [{"name", "type"}], "relations": [{"subject", "predicate", "object"}]}.
"""


class _User(msgspec.Struct, forbid_unknown_fields=True):
    user_id: UUID


class _Some(msgspec.Struct, forbid_unknown_fields=True):
    user_id: UUID
    ids: list[UUID]


class _Answer(msgspec.Struct):
    entities: list[dict[str, str]] = []
    relations: list[dict[str, str]] = []


async def enqueue_embedding(conn: Connection, *, user_id: UUID) -> None:
    """See to it, in this transaction, that the user's new memories get vectors.

    One task waits at a time for a user, however many memories are added meanwhile.
    """
    await enqueue(
        conn,
        NewTask(
            EMBED,
            {"user_id": user_id},
            queue=QUEUE,
            user_id=user_id,
            unique=Unique(str(user_id), HeldWhile.WAITING),
        ),
    )


def register_jobs(
    registry: TaskRegistry,
    db: Database,
    embedder: Embedder | None,
    extractor: Extractor | None = None,
) -> None:
    """Register memory's tasks, and a look every night at what has no vector or an old analysis.

    The nightly look is what embeds everything anew after a change of the model; meanwhile search
    goes on, by words for what is not yet embedded.
    """

    @registry.task(EMBED, queue=QUEUE, priority=Priority.LOW, stuck_after_s=None)
    async def embed(_: TaskContext, payload: _User) -> dict[str, int]:
        if embedder is None:
            return {"embedded": 0}
        return {"embedded": await vectors.embed_missing(db, embedder, user_id=payload.user_id)}

    @registry.task(REINDEX, queue=QUEUE, priority=Priority.BACKGROUND, stuck_after_s=None)
    async def reindex(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        count, after_id = 0, None
        while True:
            async with db.transaction(Role.OPERATOR) as conn:
                done, after_id = await service.reindex(
                    conn, user_id=None, after_id=after_id, max_count=REINDEX_BATCH
                )
            count += done
            if after_id is None:
                break
        users: list[UUID] = []
        if embedder is not None:
            users = await vectors.users_without_vectors(db, embedder)
            async with db.transaction(Role.OPERATOR) as conn:
                for user_id in users:
                    await enqueue_embedding(conn, user_id=user_id)
        return {"reindexed": count, "users": len(users)}

    registry.schedule(
        Schedule(REINDEX, REINDEX, cron="30 2 * * *", queue=QUEUE, priority=Priority.BACKGROUND)
    )
    if extractor is None:
        return

    @registry.task(EXTRACT, queue=QUEUE, priority=Priority.LOW, stuck_after_s=None)
    async def extract(_: TaskContext, payload: _Some) -> dict[str, int]:
        return {"extracted": await extract_some(db, extractor, payload.user_id, payload.ids)}


async def extract_some(db: Database, extractor: Extractor, user_id: UUID, ids: list[UUID]) -> int:
    """Lay a model's entities and relations beside those of the rules; return how many memories.

    No connection is held while the model is asked. What it names but does not find in the text's
    memory any more (forgotten meanwhile) is dropped.
    """
    count = 0
    for given in ids[:EXTRACTED_MAX]:
        memory_id = MemoryId(given)
        async with db.transaction(Role.OPERATOR) as conn:
            memory = await service.get_memory(conn, user_id=user_id, memory_id=memory_id)
        answer = msgspec.convert(await extractor(memory.content), _Answer)
        found = Extracted(
            tuple(
                FoundEntity(e["name"][:255], e.get("type", "thing")[:100])
                for e in answer.entities
                if e.get("name")
            ),
            tuple(
                FoundRelation(r["subject"][:255], r["predicate"][:255], r["object"][:255])
                for r in answer.relations
                if r.get("subject") and r.get("predicate") and r.get("object")
            ),
        )
        async with db.transaction(Role.OPERATOR) as conn:
            await service.add_extracted(conn, user_id=user_id, memory_id=memory_id, found=found)
        count += 1
    return count
