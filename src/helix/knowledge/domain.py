"""Knowledge put together: what the server, the commands and the floors above hold of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Connection, Database, Role
from helix.core.errors import Misuse
from helix.core.ids import IdSource
from helix.knowledge import service, store, vectors
from helix.knowledge.errors import DocumentNotFound
from helix.knowledge.jobs import enqueue_embedding
from helix.knowledge.policy import check_document
from helix.knowledge.reading import Reader, ReadLimits
from helix.knowledge.search import Searcher
from helix.knowledge.types import (
    Added,
    Chunk,
    Chunking,
    Document,
    DocumentId,
    Filters,
    Found,
    NewDocument,
    Patch,
    Stats,
)
from helix.retrieval import Embedder, why_no_embedder

__all__ = ["Knowledge", "build", "chunking_of", "limits_of"]

PREPARING_MAX = 2
CHUNKS_PAGE_MAX = 500
TEXT_CHARS_MAX = 1_000_000


class Knowledge:
    """Adds documents, finds chunks of them, removes them.

    Every verb is one unit of work of its own; `role` is `app` (a tenant's rights) unless a command
    of the operator says otherwise.
    """

    def __init__(
        self,
        db: Database,
        embedder: Embedder | None,
        clock: Clock,
        *,
        limits: ReadLimits | None = None,
        chunking: Chunking | None = None,
        chunks_max: int = 20_000,
        role: Role = Role.APP,
        without: str = "no embedder is set up",
    ) -> None:
        """`without` is why there is no embedder, for the answers of searches."""
        self._db = db
        self._embedder = embedder
        self._clock = clock
        self._chunking = chunking or Chunking()
        self._chunks_max = chunks_max
        self._role = role
        self._ids = IdSource()
        self._reader = Reader(limits or ReadLimits())
        self._preparing = asyncio.Semaphore(PREPARING_MAX)
        self._searcher = Searcher(db, embedder, clock, without=without)

    @property
    def limits(self) -> ReadLimits:
        """What may be read."""
        return self._reader.limits

    @asynccontextmanager
    async def _unit(self, user_id: UUID) -> AsyncIterator[Connection]:
        async with self._db.transaction(self._role, tenant=user_id) as conn:
            yield conn

    async def add(self, *, user_id: UUID, document: NewDocument) -> Added:
        """Read, cut and keep a document; searchable by words when this returns, by vector soon.

        No connection is held while it is read. Raises BadDocument, UnreadableDocument,
        DocumentTooLarge or ReadersBusy, and then nothing is kept.
        """
        check_document(document, self._clock.now())
        reading = await self._reader.read(document.content, document.media_type)
        async with self._preparing:
            prepared = await asyncio.to_thread(
                service.prepare, document, reading, self._chunking, chunks_max=self._chunks_max
            )
        async with self._unit(user_id) as conn:
            now = self._clock.now()
            added = await service.add_document(
                conn,
                user_id=user_id,
                prepared=prepared,
                new_id=lambda: self._ids.next(now),
                now=now,
            )
            if self._embedder is not None and not added.duplicate:
                await enqueue_embedding(conn, user_id=user_id)
        return added

    async def known(self, *, user_id: UUID, hashes: Sequence[bytes]) -> set[bytes]:
        """Return those SHA-256 of bytes that the user has and that need not be added again."""
        async with self._unit(user_id) as conn:
            return await store.known_hashes(
                conn,
                user_id=user_id,
                hashes=hashes,
                chunking=self._chunking,
                now=self._clock.now(),
            )

    async def search(
        self,
        *,
        user_id: UUID,
        query: str,
        filters: Filters | None = None,
        max_count: int = 10,
        neighbours: int = 0,
    ) -> Found:
        """Return the user's chunks that answer `query`, best first, each with its reasons.

        Their text is data: it was written by others, and is never an instruction to a model.
        """
        return await self._searcher.search(
            user_id=user_id,
            query=query,
            filters=filters or Filters(),
            max_count=max_count,
            neighbours=neighbours,
            role=self._role,
        )

    async def get(self, *, user_id: UUID, document_id: DocumentId) -> Document:
        """Return one of the user's documents, without its text. Raises DocumentNotFound."""
        async with self._unit(user_id) as conn:
            return await service.get_document(conn, user_id=user_id, document_id=document_id)

    async def text(
        self,
        *,
        user_id: UUID,
        document_id: DocumentId,
        start: int = 0,
        length: int = TEXT_CHARS_MAX,
    ) -> str:
        """Return a stretch of a document's text, at most a million characters.

        Raises DocumentNotFound.
        """
        async with self._unit(user_id) as conn:
            found = await store.text_of(
                conn,
                user_id=user_id,
                document_id=document_id,
                start=start,
                length=min(length, TEXT_CHARS_MAX),
            )
        if found is None:
            raise DocumentNotFound(document_id)
        return found

    async def chunks(
        self,
        *,
        user_id: UUID,
        document_id: DocumentId,
        from_number: int = 0,
        max_count: int = 100,
    ) -> Sequence[Chunk]:
        """Return chunks of a document in order, at most 500. Raises DocumentNotFound."""
        async with self._unit(user_id) as conn:
            await service.get_document(conn, user_id=user_id, document_id=document_id)
            return await store.chunks_page(
                conn,
                user_id=user_id,
                document_id=document_id,
                from_number=from_number,
                max_count=min(max_count, CHUNKS_PAGE_MAX),
            )

    async def list(
        self,
        *,
        user_id: UUID,
        filters: Filters | None = None,
        expired: bool = False,
        after_id: UUID | None = None,
        max_count: int = 100,
    ) -> Sequence[Document]:
        """Return the user's documents, newest first; those whose time is over with `expired`."""
        async with self._unit(user_id) as conn:
            return await service.list_documents(
                conn,
                user_id=user_id,
                filters=filters or Filters(),
                now=self._clock.now(),
                expired=expired,
                after_id=after_id,
                max_count=max_count,
            )

    async def change(self, *, user_id: UUID, document_id: DocumentId, patch: Patch) -> Document:
        """Change what is said about a document."""
        async with self._unit(user_id) as conn:
            return await service.change_document(
                conn, user_id=user_id, document_id=document_id, patch=patch
            )

    async def remove(self, *, user_id: UUID, ids: Sequence[DocumentId]) -> Sequence[DocumentId]:
        """Remove documents for good, with their chunks and vectors; return the ids removed."""
        async with self._unit(user_id) as conn:
            return await service.remove_documents(conn, user_id=user_id, ids=ids)

    async def stats(self, *, user_id: UUID) -> Stats:
        """Return what the user has."""
        async with self._unit(user_id) as conn:
            return await store.stats(conn, user_id=user_id, now=self._clock.now())

    async def count_missing(self, *, user_id: UUID) -> int:
        """Return how many of the user's chunks wait for a vector. 0 without an embedder."""
        if self._embedder is None:
            return 0
        return await vectors.count_missing(self._db, self._embedder, user_id=user_id)

    async def embed_missing(
        self, *, user_id: UUID, tell: Callable[[int], None] | None = None
    ) -> int:
        """Give the user's chunks their vectors now; return how many. 0 without an embedder."""
        if self._embedder is None:
            return 0
        return await vectors.embed_missing(self._db, self._embedder, user_id=user_id, tell=tell)


def chunking_of(settings: Settings) -> Chunking:
    """Return how documents are cut. Raises Misuse when chunks would be all overlap."""
    if settings.knowledge_overlap_tokens * 2 > settings.knowledge_chunk_tokens:
        raise Misuse("HELIX_KNOWLEDGE_OVERLAP_TOKENS: at most half of HELIX_KNOWLEDGE_CHUNK_TOKENS")
    return Chunking(settings.knowledge_chunk_tokens, settings.knowledge_overlap_tokens)


def limits_of(settings: Settings) -> ReadLimits:
    """Return what may be read."""
    return ReadLimits(
        bytes_max=settings.knowledge_file_bytes_max,
        pages_max=settings.knowledge_pages_max,
        chars_max=settings.knowledge_chars_max,
        seconds=settings.knowledge_read_s,
    )


def build(
    db: Database, settings: Settings, clock: Clock, *, embedder: Embedder | None
) -> Knowledge:
    """Return knowledge as the server runs it."""
    return Knowledge(
        db,
        embedder,
        clock,
        limits=limits_of(settings),
        chunking=chunking_of(settings),
        chunks_max=settings.knowledge_chunks_max,
        without=why_no_embedder(settings),
    )
