"""Background work of memory: vectors for new memories, and what is left of an older analysis."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection, Database, Role
from helix.core.log import get_log
from helix.memory import service, vectors
from helix.memory.errors import MemoryNotFound
from helix.memory.extraction import Extracted
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

__all__ = [
    "EMBED",
    "EXTRACT",
    "REINDEX",
    "Extractor",
    "enqueue_embedding",
    "enqueue_extraction",
    "enqueue_reindexing",
    "register_jobs",
]

_log = get_log(__name__)

EMBED = "memory.embed"
EXTRACT = "memory.extract"
REINDEX = "memory.reindex"
QUEUE = "memory"
EMBEDDING_MAX = 2
"""Tasks that embed at once, over all workers: more would embed the same texts of one user again,
and leave no place for anybody else's work."""
REINDEX_BATCH = 500
EXTRACTED_MAX = 100

Extractor = Callable[[UUID, str], Awaitable[Extracted | None]]
"""Asks a model, on behalf of a user, for what a text speaks of; None: nothing usable."""


class _User(msgspec.Struct, forbid_unknown_fields=True):
    user_id: UUID


class _Some(msgspec.Struct, forbid_unknown_fields=True):
    user_id: UUID
    ids: list[UUID]


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


async def enqueue_extraction(conn: Connection, *, user_id: UUID, ids: Sequence[MemoryId]) -> None:
    """Have a model asked for what memories speak of, a hundred a task."""
    for at in range(0, len(ids), EXTRACTED_MAX):
        some = list(ids[at : at + EXTRACTED_MAX])
        await enqueue(
            conn,
            NewTask(EXTRACT, {"user_id": user_id, "ids": some}, queue=QUEUE, user_id=user_id),
        )


async def enqueue_reindexing(conn: Connection) -> None:
    """Have everything that search derives looked over now; one such task waits at a time."""
    await enqueue(
        conn, NewTask(REINDEX, {}, queue=QUEUE, unique=Unique(REINDEX, HeldWhile.WAITING))
    )


def register_jobs(
    registry: TaskRegistry,
    db: Database,
    embedder: Embedder | None,
    extractor: Extractor | None = None,
) -> None:
    """Register memory's tasks, and a look every night at what has no vector or an old analysis.

    That look, which also begins when a server starts with a model that is new, is what embeds
    everything anew after a change of the model; meanwhile search goes on, by words for what is not
    yet embedded.
    """
    if extractor is not None:
        _register_extraction(registry, db, extractor)

    @registry.task(
        EMBED, queue=QUEUE, priority=Priority.LOW, stuck_after_s=None, concurrency_max=EMBEDDING_MAX
    )
    async def embed(task: TaskContext, payload: _User) -> dict[str, int]:
        if embedder is None:
            return {"embedded": 0}

        def tell(done: int, of: int) -> None:
            task.progress(100 * done / max(of, 1), f"{done} of {of} memories embedded")

        count = await vectors.embed_missing(db, embedder, user_id=payload.user_id, tell=tell)
        return {"embedded": count}

    @registry.task(REINDEX, queue=QUEUE, priority=Priority.BACKGROUND, stuck_after_s=None)
    async def reindex(task: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        count, after_id = 0, None
        while True:
            async with db.transaction(Role.OPERATOR) as conn:
                done, after_id = await service.reindex(
                    conn, user_id=None, after_id=after_id, max_count=REINDEX_BATCH
                )
            count += done
            task.progress(0, f"{count} memories analysed")
            if after_id is None:
                break
        told = 0
        if embedder is not None:
            async for users in vectors.users_without_vectors(db, embedder):
                async with db.transaction(Role.OPERATOR) as conn:
                    for user_id in users:
                        await enqueue_embedding(conn, user_id=user_id)
                told += len(users)
                task.progress(50, f"{told} users have memories to embed")
        return {"reindexed": count, "users": told}

    registry.schedule(
        Schedule(REINDEX, REINDEX, cron="30 2 * * *", queue=QUEUE, priority=Priority.BACKGROUND)
    )


def _register_extraction(registry: TaskRegistry, db: Database, extractor: Extractor) -> None:
    @registry.task(EXTRACT, queue=QUEUE, priority=Priority.LOW, stuck_after_s=None)
    async def extract(task: TaskContext, payload: _Some) -> dict[str, int]:
        done = task.checkpoint() or 0
        count = await extract_some(
            db, extractor, payload.user_id, payload.ids[done:], tell=task.save_checkpoint, done=done
        )
        return {"extracted": count}


async def extract_some(
    db: Database,
    extractor: Extractor,
    user_id: UUID,
    ids: Sequence[UUID],
    *,
    tell: Callable[[int], Awaitable[None]] | None = None,
    done: int = 0,
) -> int:
    """Lay a model's entities and relations beside those of the rules; return of how many memories.

    No connection is held while the model is asked. A memory that was forgotten meanwhile is passed
    over, as is an answer that is nothing usable: the rules' stay. `tell` is given how many of the
    task's ids are done, `done` before these, so that one that is stopped goes on there.
    """
    count = 0
    for at, given in enumerate(ids[:EXTRACTED_MAX], start=done + 1):
        memory_id = MemoryId(given)
        try:
            async with db.transaction(Role.OPERATOR) as conn:
                memory = await service.get_memory(conn, user_id=user_id, memory_id=memory_id)
            found = await extractor(user_id, memory.content)
            if found is not None:
                async with db.transaction(Role.OPERATOR) as conn:
                    await service.add_extracted(
                        conn, user_id=user_id, memory_id=memory_id, found=found
                    )
                count += 1
        except MemoryNotFound:
            _log.info("extraction_of_forgotten_memory")
        if tell is not None:
            await tell(at)
    return count
