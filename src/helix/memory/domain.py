"""Memory put together: what the server, the commands and the floors above hold of this domain."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Database, Role
from helix.core.errors import HelixError
from helix.core.ids import IdSource
from helix.core.log import get_log
from helix.memory import audit as audits
from helix.memory import service, store, vectors
from helix.memory.jobs import enqueue_embedding, enqueue_extraction, enqueue_reindexing
from helix.memory.search import EXACT_MAX, Searcher
from helix.memory.types import (
    Added,
    AuditReport,
    Filters,
    Forgotten,
    Found,
    Memory,
    MemoryId,
    NewMemory,
    Patch,
    Sources,
    Use,
)
from helix.retrieval import Embedder, Kind, find_model, why_no_embedder

__all__ = ["ContentEraser", "Memories", "build"]

_log = get_log(__name__)

ContentEraser = Callable[[UUID, Sources | None], Awaitable[Sequence[UUID]]]
"""Erases the conversations of a user that memories were drawn from, or all with None.

Returns which it erased.
"""

FLUSH_EVERY_S = 1.0
USES_SHOWN = 100
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)


class Memories:
    """Remembers, finds, forgets. `start` and `stop` it with the server.

    Every verb is one unit of work of its own; `role` is `app` (a tenant's rights) unless a command
    of the operator says otherwise.
    """

    def __init__(
        self,
        db: Database,
        embedder: Embedder | None,
        clock: Clock,
        *,
        role: Role = Role.APP,
        erase_content: ContentEraser | None = None,
        extracts: bool = False,
        without: str = "no embedder is set up",
        exact_max: int = EXACT_MAX,
    ) -> None:
        """`extracts`: a task asks a model for what new memories speak of (see `register_jobs`).

        `without` is why there is no embedder, for the answers of searches. Up to `exact_max`
        memories of a user each is scored.
        """
        self._db = db
        self._extracts = extracts
        self._embedder = embedder
        self._clock = clock
        self._role = role
        self._erase_content = erase_content
        self._ids = IdSource()
        self._searcher = Searcher(db, embedder, clock, without=without, exact_max=exact_max)
        self._handed_out: dict[UUID, Counter[MemoryId]] = {}
        self._flusher: asyncio.Task[None] | None = None

    @property
    def embedder(self) -> Embedder | None:
        """What makes vectors, if anything does."""
        return self._embedder

    async def start(self) -> None:
        """Begin to write down now and then which memories were handed out.

        With an embedder whose model is new here, everything is embedded anew in the background.
        """
        if self._embedder is not None:
            try:
                async with self._db.transaction(Role.OPERATOR) as conn:
                    if await find_model(conn, self._embedder) is None:
                        await enqueue_reindexing(conn)
            except _TROUBLE as exc:  # the nightly look does it
                _log.warning("reindexing_not_begun", reason=type(exc).__name__)
        self._flusher = asyncio.create_task(self._flush_for_ever(), name="helix-memory-access")

    async def stop(self) -> None:
        """Write down what is left."""
        if self._flusher is not None:
            self._flusher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flusher
            self._flusher = None
        with contextlib.suppress(*_TROUBLE):
            await self.flush()

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self.flush()
            except _TROUBLE as exc:
                _log.warning("memory_access_not_counted", reason=type(exc).__name__)

    async def flush(self) -> None:
        """Add what was handed out since the last time to access_count and last_accessed."""
        waiting, self._handed_out = self._handed_out, {}
        for user_id, times in waiting.items():
            async with self._db.transaction(self._role, tenant=user_id) as conn:
                now = self._clock.now()
                await store.count_access(conn, user_id=user_id, times=times, now=now)

    @asynccontextmanager
    async def unit(self, user_id: UUID) -> AsyncIterator[Connection]:
        """One unit of work over the user's memories, for verbs that take a connection."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            yield conn

    async def add(self, *, user_id: UUID, memories: Sequence[NewMemory]) -> list[Added]:
        """Remember things; searchable by words when this returns, by vector soon after."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            now = self._clock.now()
            added = await service.add_memories(
                conn,
                user_id=user_id,
                memories=memories,
                new_id=lambda: self._ids.next(now),
                now=now,
            )
            fresh = [one.id for one in added if not one.duplicate]
            if self._embedder is not None and fresh:
                await enqueue_embedding(conn, user_id=user_id)
            if self._extracts and fresh:
                await enqueue_extraction(conn, user_id=user_id, ids=fresh)
        return added

    async def search(
        self,
        *,
        user_id: UUID,
        query: str,
        filters: Filters | None = None,
        max_count: int = 10,
        kind: Kind | None = None,
    ) -> Found:
        """Return the user's memories that answer `query`, best first, each with its reasons."""
        found = await self._searcher.search(
            user_id=user_id,
            query=query,
            filters=filters or Filters(),
            max_count=max_count,
            kind=kind,
            role=self._role,
        )
        handed = self._handed_out.setdefault(user_id, Counter())
        handed.update(hit.memory.id for hit in found.hits)
        return found

    async def used(self, *, user_id: UUID, request_id: UUID, uses: Sequence[Use]) -> list[MemoryId]:
        """Record which memories were put into a request, first come first."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            return await service.record_uses(
                conn, user_id=user_id, request_id=request_id, uses=uses, now=self._clock.now()
            )

    async def uses_of(self, *, user_id: UUID, memory_id: MemoryId) -> Sequence[dict[str, Any]]:
        """Return the requests that used a memory, newest first, at most 100."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            return await store.uses_of_memory(
                conn, user_id=user_id, memory_id=memory_id, max_count=USES_SHOWN
            )

    async def uses_by(self, *, user_id: UUID, request_id: UUID) -> Sequence[dict[str, Any]]:
        """Return the memories a request used, in order."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            return await store.uses_of_request(conn, user_id=user_id, request_id=request_id)

    async def get(self, *, user_id: UUID, memory_id: MemoryId) -> Memory:
        """Return one of the user's memories. Raises MemoryNotFound."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            return await service.get_memory(conn, user_id=user_id, memory_id=memory_id)

    async def list(
        self,
        *,
        user_id: UUID,
        filters: Filters | None = None,
        merged: bool = False,
        after_id: UUID | None = None,
        max_count: int = 100,
    ) -> Sequence[Memory]:
        """Return the user's memories, newest first."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            return await service.list_memories(
                conn,
                user_id=user_id,
                filters=filters or Filters(),
                merged=merged,
                after_id=after_id,
                max_count=max_count,
            )

    async def change(self, *, user_id: UUID, memory_id: MemoryId, patch: Patch) -> Memory:
        """Change a memory."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            changed = await service.change_memory(
                conn, user_id=user_id, memory_id=memory_id, patch=patch
            )
            if self._embedder is not None and patch.content is not None:
                await enqueue_embedding(conn, user_id=user_id)
            if self._extracts and patch.content is not None:
                await enqueue_extraction(conn, user_id=user_id, ids=[memory_id])
        return changed

    async def forget(
        self, *, user_id: UUID, ids: Sequence[MemoryId], sources: bool = False
    ) -> Forgotten:
        """Erase memories for good with everything derived from them; say what was erased.

        With `sources` the conversations they were drawn from are erased first, whole, so that
        stopping half-way can be mended by forgetting again. Without, those are named: they still
        have the words.
        """
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            drawn_from = await store.sources_of(conn, user_id=user_id, ids=ids)
        erased: Sequence[UUID] = ()
        if sources and self._erase_content is not None:
            erased = await self._erase_content(user_id, drawn_from)
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            gone = await service.forget_memories(conn, user_id=user_id, ids=ids)
        kept = set(drawn_from.conversation_ids) - set(erased)
        return Forgotten(tuple(gone), tuple(erased), tuple(sorted(kept)))

    async def forget_all(self, *, user_id: UUID, sources: bool = False) -> tuple[int, int]:
        """Erase every memory of exactly this user; return how many memories and conversations.

        With `sources` every conversation of the user is erased first; without none is touched.
        Documents (helix.knowledge) are never touched.
        """
        erased: Sequence[UUID] = ()
        if sources and self._erase_content is not None:
            erased = await self._erase_content(user_id, None)
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            return await service.forget_all(conn, user_id=user_id), len(erased)

    async def audit(self, *, user_id: UUID, apply: bool = False) -> AuditReport:
        """Look over the user's memories; with `apply` mend what can be undone."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            report = await audits.audit(conn, user_id=user_id)
            if apply:
                report = await audits.apply_audit(
                    conn, user_id=user_id, report=report, batch_id=uuid4()
                )
        return report

    async def undo(self, *, user_id: UUID, batch_id: UUID | None = None) -> Sequence[MemoryId]:
        """Take an audit's changes back, the newest batch without `batch_id`."""
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            restored = await audits.undo(
                conn, user_id=user_id, batch_id=batch_id, now=self._clock.now()
            )
            if self._embedder is not None:
                await enqueue_embedding(conn, user_id=user_id)
        return restored

    async def embed_missing(self, *, user_id: UUID) -> int:
        """Give the user's memories their vectors now; return how many. 0 without an embedder."""
        if self._embedder is None:
            return 0
        return await vectors.embed_missing(self._db, self._embedder, user_id=user_id)

    async def tombstones(
        self, *, since: datetime, max_count: int = 10_000
    ) -> Sequence[tuple[MemoryId, UUID, datetime]]:
        """Return what was forgotten from a moment on, of all users: memory, user, when."""
        async with self._db.transaction(Role.OPERATOR) as conn:
            return await store.tombstones_since(conn, since=since, max_count=max_count)


def build(
    db: Database,
    settings: Settings,
    clock: Clock,
    *,
    embedder: Embedder | None,
    erase_content: ContentEraser | None = None,
) -> Memories:
    """Return memory as the server runs it."""
    return Memories(
        db,
        embedder,
        clock,
        erase_content=erase_content,
        extracts=settings.memory_extraction_model is not None,
        without=why_no_embedder(settings),
    )
