"""Background work of knowledge: vectors, what is over, what came by other ways."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.core.db import Connection, Database, Role
from helix.core.ids import IdSource
from helix.core.log import get_log
from helix.knowledge import service, store, vectors
from helix.knowledge.errors import DocumentTooLarge, UnreadableDocument
from helix.knowledge.types import Chunking, DocumentId, NewDocument, Reading, Source
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
    "REINDEX",
    "SWEEP",
    "cut_uncut",
    "enqueue_embedding",
    "register_jobs",
    "sweep",
]

_log = get_log(__name__)

EMBED = "knowledge.embed"
REINDEX = "knowledge.reindex"
SWEEP = "knowledge.sweep"
QUEUE = "knowledge"
EMBEDDING_MAX = 2
"""Tasks that embed at once, over all workers: more would embed the same texts of one user again,
and leave no place for anybody else's work."""
BATCH = 500
UNCUT_BATCH = 20
UNCUT_CHARS_MAX = 5_000_000


class _User(msgspec.Struct, forbid_unknown_fields=True):
    user_id: UUID


async def enqueue_embedding(conn: Connection, *, user_id: UUID) -> None:
    """See to it, in this transaction, that the user's new chunks get vectors.

    One task waits at a time for a user, however many documents are added meanwhile.
    """
    await enqueue(
        conn,
        NewTask(
            EMBED,
            {"user_id": user_id},
            queue=QUEUE,
            user_id=user_id,
            unique=Unique(f"knowledge {user_id}", HeldWhile.WAITING),
        ),
    )


async def sweep(db: Database, clock: Clock) -> int:
    """Delete every document whose time is over, in batches of 500; return how many."""
    total = 0
    while True:
        async with db.transaction(Role.OPERATOR) as conn:
            gone = await store.sweep_expired(conn, now=clock.now(), max_count=BATCH)
        total += gone
        if gone < BATCH:
            return total


async def cut_uncut(db: Database, clock: Clock, *, chunking: Chunking, chunks_max: int) -> int:
    """Cut documents that were written by other ways, such as SQL; return how many.

    What cannot be cut (no text in it, too much) is left as it is. No transaction is held while a
    text is cut.
    """
    count, after_id, ids = 0, None, IdSource()
    while True:
        async with db.transaction(Role.OPERATOR) as conn:
            rows = await store.uncut_documents(
                conn, after_id=after_id, max_count=UNCUT_BATCH, now=clock.now()
            )
        for row in rows:
            text: str = row["content"]
            if not text.strip() or len(text) > UNCUT_CHARS_MAX:
                continue
            document = NewDocument(b"", title=row["title"], source=Source(row["source"]))
            reading = Reading(text, page_starts=tuple(row["page_starts"]))
            try:
                prepared = await asyncio.to_thread(
                    service.prepare, document, reading, chunking, chunks_max=chunks_max
                )
            except (DocumentTooLarge, UnreadableDocument) as exc:
                _log.warning("knowledge_not_cut", document_id=str(row["id"]), reason=exc.code)
                continue
            async with db.transaction(Role.OPERATOR) as conn:
                count += await service.cut_document(
                    conn,
                    user_id=row["user_id"],
                    document_id=DocumentId(row["id"]),
                    prepared=prepared,
                    new_id=lambda: ids.next(clock.now()),
                )
        if len(rows) < UNCUT_BATCH:
            return count
        after_id = rows[-1]["id"]


def register_jobs(
    registry: TaskRegistry,
    db: Database,
    embedder: Embedder | None,
    clock: Clock,
    *,
    chunking: Chunking,
    chunks_max: int,
) -> None:
    """Register knowledge's tasks: vectors on demand, an hourly sweep, a nightly look.

    The nightly look cuts what came by other ways, renews old analyses, and embeds everything anew
    after a change of the model; meanwhile search goes on, by words for what is not yet embedded.
    """

    @registry.task(SWEEP, queue=QUEUE, priority=Priority.BACKGROUND, stuck_after_s=None)
    async def sweep_now(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        return {"deleted": await sweep(db, clock)}

    registry.schedule(
        Schedule(SWEEP, SWEEP, cron="5 * * * *", queue=QUEUE, priority=Priority.BACKGROUND)
    )

    @registry.task(
        EMBED, queue=QUEUE, priority=Priority.LOW, stuck_after_s=None, concurrency_max=EMBEDDING_MAX
    )
    async def embed(task: TaskContext, payload: _User) -> dict[str, int]:
        if embedder is None:
            return {"embedded": 0}
        wanted = await vectors.count_missing(db, embedder, user_id=payload.user_id)

        def tell(done: int) -> None:
            task.progress(100 * done / max(wanted, 1), f"{done} of {wanted} chunks embedded")

        count = await vectors.embed_missing(db, embedder, user_id=payload.user_id, tell=tell)
        return {"embedded": count}

    @registry.task(REINDEX, queue=QUEUE, priority=Priority.BACKGROUND, stuck_after_s=None)
    async def reindex(_: TaskContext, __: dict[str, Any]) -> dict[str, int]:
        count = await cut_uncut(db, clock, chunking=chunking, chunks_max=chunks_max)
        renewed, after_id = 0, None
        while True:
            async with db.transaction(Role.OPERATOR) as conn:
                done, after_id = await service.reanalyse(conn, after_id=after_id, max_count=BATCH)
            renewed += done
            if after_id is None:
                break
        told = 0
        if embedder is not None:
            async for users in vectors.users_without_vectors(db, embedder):
                async with db.transaction(Role.OPERATOR) as conn:
                    for user_id in users:
                        await enqueue_embedding(conn, user_id=user_id)
                told += len(users)
        return {"cut": count, "reanalysed": renewed, "users": told}

    registry.schedule(
        Schedule(REINDEX, REINDEX, cron="45 2 * * *", queue=QUEUE, priority=Priority.BACKGROUND)
    )
