"""Runs the statements of queries.sql: documents, their chunks, vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.db import Connection, Queries
from helix.knowledge.types import (
    Chunk,
    ChunkId,
    Chunking,
    Document,
    DocumentId,
    Filters,
    Patch,
    Piece,
    Stats,
)
from helix.retrieval import ANALYSIS_VERSION, Analysis, Packed, Vectors

__all__ = ["QUERIES", "Cut", "Known", "Writing"]

Array = np.ndarray[Any, np.dtype[Any]]
QUERIES = Queries("helix.knowledge")
INSERT_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A chunk ready to be kept."""

    id: ChunkId
    number: int
    content: str
    piece: Piece
    analysis: Analysis


@dataclass(frozen=True, slots=True)
class Known:
    """A document that is there already, as an addition sees it."""

    id: DocumentId
    source_hash: bytes | None
    key: str | None
    media_type: str
    version: int
    chunking: Chunking | None
    quality: Decimal | None
    quality_by: str
    expired: bool


@dataclass(frozen=True, slots=True)
class Writing:
    """Everything of a document that is written when it is added or replaced."""

    id: DocumentId
    user_id: UUID
    project_id: UUID | None
    knowledge_type: str
    title: str
    content: str
    source: str
    quality: Decimal
    quality_by: str
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    expires_at: datetime | None
    key: str | None
    media_type: str
    source_hash: bytes
    page_starts: tuple[int, ...]
    chunk_tokens: int
    overlap_tokens: int

    def values(self) -> dict[str, Any]:
        """Return it as the statements take it."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "tags": list(self.tags), "page_starts": list(self.page_starts)}


def signed(number: int) -> int:
    """Return a 32-bit number as PostgreSQL's integer holds it."""
    return number - (1 << 32) if number >= 1 << 31 else number


def vector_text(vector: Array) -> str:
    """Return a vector as pgvector reads it."""
    return f"[{','.join(f'{x:.6g}' for x in vector.tolist())}]"


async def lock_user(conn: Connection, *, user_id: UUID) -> None:
    """Let no other addition of this user go on until this transaction ends."""
    await QUERIES.row(conn, "lock_user", user_id=user_id)


async def find_same(
    conn: Connection, *, user_id: UUID, source_hash: bytes, key: str | None, now: datetime
) -> list[Known]:
    """Return the user's documents of these bytes or this key: none, one or two."""
    rows = await QUERIES.rows(
        conn, "find_same", user_id=user_id, source_hash=source_hash, key=key, now=now
    )
    return [
        Known(
            row["id"],
            row["source_hash"],
            row["document_key"],
            row["media_type"],
            row["version"],
            None
            if row["chunk_tokens"] is None
            else Chunking(row["chunk_tokens"], row["overlap_tokens"]),
            row["quality_score"],
            row["quality_by"],
            bool(row["expired"]),
        )
        for row in rows
    ]


async def known_hashes(
    conn: Connection, *, user_id: UUID, hashes: Sequence[bytes], chunking: Chunking, now: datetime
) -> set[bytes]:
    """Return those SHA-256 of which the user has a document, cut this way and not expired."""
    rows = await QUERIES.rows(
        conn,
        "known_hashes",
        user_id=user_id,
        hashes=list(hashes),
        chunk_tokens=chunking.tokens,
        overlap_tokens=chunking.overlap,
        now=now,
    )
    return {row["source_hash"] for row in rows}


async def insert_document(conn: Connection, *, writing: Writing, now: datetime) -> None:
    """Add a document."""
    await QUERIES.run(conn, "insert_document", now=now, **writing.values())


async def replace_document(conn: Connection, *, writing: Writing) -> None:
    """Give a document a new text; its chunks are the caller's matter."""
    await QUERIES.run(conn, "replace_document", **writing.values())


async def set_chunking(
    conn: Connection,
    *,
    user_id: UUID,
    document_id: DocumentId,
    content: str,
    chunking: Chunking,
    quality: Decimal,
) -> bool:
    """Say how a document with this text was cut, unless it was; its quality where it has none."""
    row = await QUERIES.row(
        conn,
        "set_chunking",
        id=document_id,
        user_id=user_id,
        content=content,
        chunk_tokens=chunking.tokens,
        overlap_tokens=chunking.overlap,
        quality=quality,
    )
    return row is not None


async def insert_chunks(
    conn: Connection,
    *,
    user_id: UUID,
    document_id: DocumentId,
    project_id: UUID | None,
    title: str,
    chunks: Sequence[Cut],
) -> None:
    """Add the chunks of a document."""
    for at in range(0, len(chunks), INSERT_BATCH):
        await QUERIES.run(
            conn,
            "insert_chunks",
            user_id=user_id,
            document_id=document_id,
            project_id=project_id,
            title=title,
            version=ANALYSIS_VERSION,
            chunks=[
                {
                    "id": cut.id,
                    "number": cut.number,
                    "content": cut.content,
                    "start_char": cut.piece.start,
                    "end_char": cut.piece.end,
                    "first_page": cut.piece.first_page,
                    "last_page": cut.piece.last_page,
                    "headings": cut.piece.headings,
                    "tokens": cut.piece.tokens,
                    "terms": [signed(term) for term in cut.analysis.terms],
                    "facts": int(cut.analysis.facts),
                }
                for cut in chunks[at : at + INSERT_BATCH]
            ],
        )


async def drop_chunks(conn: Connection, *, user_id: UUID, document_id: DocumentId) -> None:
    """Take all chunks of a document away."""
    await QUERIES.run(conn, "drop_chunks", user_id=user_id, document_id=document_id)


async def put_analyses(
    conn: Connection, *, user_id: UUID, analyses: Iterable[tuple[ChunkId, Analysis]]
) -> None:
    """Write newer analyses of chunks."""
    await QUERIES.run(
        conn,
        "put_analyses",
        user_id=user_id,
        version=ANALYSIS_VERSION,
        chunks=[
            {"id": i, "terms": [signed(term) for term in a.terms], "facts": int(a.facts)}
            for i, a in analyses
        ],
    )


async def uncut_documents(
    conn: Connection, *, after_id: UUID | None, max_count: int, now: datetime
) -> list[Any]:
    """Return documents that were written by other ways and never cut."""
    return await QUERIES.rows(
        conn, "uncut_documents", after_id=after_id, max_count=max_count, now=now
    )


async def old_analyses(conn: Connection, *, after_id: UUID | None, max_count: int) -> list[Any]:
    """Return chunks of an older analysis."""
    return await QUERIES.rows(
        conn, "old_analyses", version=ANALYSIS_VERSION, after_id=after_id, max_count=max_count
    )


def _document(row: Any) -> Document:
    return Document(
        id=row["id"],
        user_id=row["user_id"],
        project_id=row["project_id"],
        knowledge_type=row["knowledge_type"],
        title=row["title"],
        key=row["document_key"],
        media_type=row["media_type"],
        source=row["source"],
        quality=row["quality_score"],
        quality_by=row["quality_by"],
        tags=tuple(row["tags"]),
        metadata=row["metadata"],
        version=row["version"],
        chars=row["chars"],
        pages=row["pages"],
        chunks=row["chunks"],
        embedded=row["embedded"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
    )


def _chunk(row: Any) -> Chunk:
    return Chunk(
        id=row["id"],
        document_id=row["knowledge_id"],
        number=row["chunk_number"],
        content=row["content"],
        start=row["start_char"],
        end=row["end_char"],
        first_page=row["first_page"],
        last_page=row["last_page"],
        headings=tuple(row["headings"]),
        tokens=row["token_count"],
    )


async def documents_by_id(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID]
) -> dict[DocumentId, Document]:
    """Return those of the user's documents that exist."""
    rows = await QUERIES.rows(conn, "documents_by_id", user_id=user_id, ids=list(ids))
    return {row["id"]: _document(row) for row in rows}


def _filter_values(filters: Filters, now: datetime) -> dict[str, Any]:
    return {
        "knowledge_type": filters.knowledge_type,
        "source": filters.source,
        "document_ids": None if filters.document_ids is None else list(filters.document_ids),
        "project_id": filters.project_id,
        "tags": list(filters.tags),
        "quality_min": filters.quality_min,
        "now": now,
    }


async def documents_page(
    conn: Connection,
    *,
    user_id: UUID,
    filters: Filters,
    expired: bool,
    after_id: UUID | None,
    max_count: int,
    now: datetime,
) -> list[Document]:
    """Return documents, newest first; those whose time is over only with `expired`."""
    rows = await QUERIES.rows(
        conn,
        "documents_page",
        user_id=user_id,
        expired=expired,
        after_id=after_id,
        max_count=max_count,
        **_filter_values(filters, now),
    )
    return [_document(row) for row in rows]


async def text_of(
    conn: Connection, *, user_id: UUID, document_id: DocumentId, start: int, length: int
) -> str | None:
    """Return a stretch of a document's text, or None when there is no such document."""
    row = await QUERIES.row(
        conn, "text_of", user_id=user_id, document_id=document_id, start=start, length=length
    )
    return None if row is None else str(row["text"])


async def change_document(
    conn: Connection,
    *,
    user_id: UUID,
    document_id: DocumentId,
    patch: Patch,
    quality: Decimal | None,
    quality_by: str | None,
) -> None:
    """Change what is given of a document."""
    await QUERIES.run(
        conn,
        "change_document",
        user_id=user_id,
        document_id=document_id,
        title=patch.title,
        knowledge_type=patch.knowledge_type,
        source=patch.source,
        quality=quality,
        quality_by=quality_by,
        expires_at=patch.expires_at,
        forget_expiry=patch.forget_expiry,
        tags=None if patch.tags is None else list(patch.tags),
        metadata=patch.metadata,
    )


async def remove_documents(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID]
) -> list[DocumentId]:
    """Remove documents with their chunks; return the ids removed."""
    rows = await QUERIES.rows(conn, "remove_documents", user_id=user_id, ids=list(ids))
    return [row["id"] for row in rows]


async def sweep_expired(conn: Connection, *, now: datetime, max_count: int) -> int:
    """Remove some documents of all users whose time is over; return how many."""
    rows = await QUERIES.rows(conn, "sweep_expired", now=now, max_count=max_count)
    return len(rows)


async def stats(conn: Connection, *, user_id: UUID, now: datetime) -> Stats:
    """Return what a user has."""
    rows = await QUERIES.rows(conn, "stats", user_id=user_id, now=now)
    by_type: dict[str, int] = {}
    by_source: dict[str, int] = {}
    for row in rows:
        kind, source, count = row["knowledge_type"], row["source"], row["documents"]
        by_type[kind] = by_type.get(kind, 0) + count
        by_source[source] = by_source.get(source, 0) + count
    total = {
        name: sum(row[name] for row in rows)
        for name in ("documents", "expired", "chunks", "embedded", "chars")
    }
    return Stats(**total, by_type=by_type, by_source=by_source)


async def count_scope(conn: Connection, *, user_id: UUID, most: int) -> int:
    """Return how many chunks the user has, at most `most`."""
    row = await QUERIES.row(conn, "count_scope", user_id=user_id, most=most)
    return 0 if row is None else int(row["count"])


def _packed(row: Any) -> Packed:
    return Packed(row["rows"], row["lengths"], row["at"])


async def whole_scope(
    conn: Connection, *, user_id: UUID, filters: Filters, now: datetime
) -> Packed:
    """Return every chunk the user may find under the filters."""
    values = _filter_values(filters, now)
    return _packed(await QUERIES.row(conn, "whole_scope", user_id=user_id, **values))


async def part_scope(
    conn: Connection,
    *,
    user_id: UUID,
    ids: Sequence[UUID],
    middle: Sequence[UUID],
    filters: Filters,
    now: datetime,
) -> Packed:
    """Return some chunks and, of those in the `middle`, the two before and after each."""
    return _packed(
        await QUERIES.row(
            conn,
            "part_scope",
            user_id=user_id,
            ids=list(ids),
            middle=list(middle),
            **_filter_values(filters, now),
        )
    )


async def word_candidates(
    conn: Connection,
    *,
    user_id: UUID,
    terms: Sequence[int],
    total: int,
    per_term: int,
    most: int,
    filters: Filters,
    now: datetime,
) -> tuple[list[UUID], dict[int, int]]:
    """Return chunks of a user of `total` that hold most of the terms, and the rarest, first.

    And, by term, in how many it is, as far as was looked: `per_term`. `conn` is an operator's.
    """
    row = await QUERIES.row(
        conn,
        "word_candidates",
        user_id=user_id,
        terms=[signed(term) for term in terms],
        total=total,
        per_term=per_term,
        most=most,
        **_filter_values(filters, now),
    )
    if row is None:
        raise RuntimeError("a statement of one row has given none")
    found = zip(row["terms"], row["found"], strict=True)
    return row["ids"], {term % (1 << 32): count for term, count in found}


async def nearest(
    conn: Connection,
    *,
    user_id: UUID,
    model: Vectors,
    vector: Array,
    max_count: int,
    filters: Filters,
    now: datetime,
) -> list[UUID]:
    """Return the user's chunks nearest to `vector`, nearest first. Exact."""
    rows = await QUERIES.rows(
        conn,
        "nearest",
        user_id=user_id,
        config_id=model.config_id,
        vector=vector_text(vector),
        max_count=max_count,
        **_filter_values(filters, now),
    )
    return [row["id"] for row in rows]


async def cosines(
    conn: Connection,
    *,
    user_id: UUID,
    model: Vectors,
    vector: Array,
    ids: Sequence[UUID] | None = None,
) -> tuple[bytes, bytes]:
    """Return ids and cosines, packed, of all the user's vectors of a model or of some chunks."""
    values: dict[str, object] = {
        "user_id": user_id,
        "config_id": model.config_id,
        "vector": vector_text(vector),
    }
    if ids is None:
        row = await QUERIES.row(conn, "cosines", **values)
    else:
        row = await QUERIES.row(conn, "cosines_of_ids", ids=list(ids), **values)
    return (b"", b"") if row is None else (row["ids"], row["cosines"])


async def chunks_by_id(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID]
) -> dict[ChunkId, Chunk]:
    """Return those of the user's chunks that exist."""
    rows = await QUERIES.rows(conn, "chunks_by_id", user_id=user_id, ids=list(ids))
    return {row["id"]: _chunk(row) for row in rows}


async def chunks_around(
    conn: Connection, *, user_id: UUID, places: Iterable[tuple[DocumentId, int]]
) -> dict[tuple[DocumentId, int], Chunk]:
    """Return chunks by document and number."""
    wanted = list(places)
    rows = await QUERIES.rows(
        conn,
        "chunks_around",
        user_id=user_id,
        document_ids=[document_id for document_id, _ in wanted],
        numbers=[number for _, number in wanted],
    )
    return {(row["knowledge_id"], row["chunk_number"]): _chunk(row) for row in rows}


async def chunks_page(
    conn: Connection, *, user_id: UUID, document_id: DocumentId, from_number: int, max_count: int
) -> list[Chunk]:
    """Return chunks of a document in order."""
    rows = await QUERIES.rows(
        conn,
        "chunks_page",
        user_id=user_id,
        document_id=document_id,
        from_number=from_number,
        max_count=max_count,
    )
    return [_chunk(row) for row in rows]


async def without_vector(
    conn: Connection, *, user_id: UUID, model: Vectors, after_id: UUID | None, max_count: int
) -> list[tuple[ChunkId, Sequence[str], str]]:
    """Return id, headings and text of chunks that have no vector of the model."""
    rows = await QUERIES.rows(
        conn,
        "without_vector",
        user_id=user_id,
        config_id=model.config_id,
        after_id=after_id,
        max_count=max_count,
    )
    return [(row["id"], row["headings"], row["content"]) for row in rows]


async def count_without_vector(conn: Connection, *, user_id: UUID, model: Vectors) -> int:
    """Return how many chunks have no vector of the model."""
    row = await QUERIES.row(
        conn, "count_without_vector", user_id=user_id, config_id=model.config_id
    )
    return 0 if row is None else int(row["count"])


async def users_without_vectors(
    conn: Connection, *, model: Vectors | None, after_id: UUID | None, max_count: int
) -> list[UUID]:
    """Return users of whose chunks some have no vector of the model, in the order of ids.

    Without a model those are all who have chunks.
    """
    rows = await QUERIES.rows(
        conn,
        "users_without_vectors",
        config_id=None if model is None else model.config_id,
        after_id=after_id,
        max_count=max_count,
    )
    return [row["user_id"] for row in rows]


async def put_vectors(
    conn: Connection, *, user_id: UUID, model: Vectors, vectors: Sequence[tuple[ChunkId, Array]]
) -> int:
    """Keep the vectors of chunks that still exist; return how many."""
    tag = await QUERIES.run(
        conn,
        "put_vectors",
        user_id=user_id,
        config_id=model.config_id,
        ids=[i for i, _ in vectors],
        vectors=[vector_text(vector) for _, vector in vectors],
    )
    return int(tag.rsplit(" ", 1)[-1])


async def user_by_name(conn: Connection, *, name: str, user_id: UUID | None) -> UUID | None:
    """Return the id of the account with this address, user name or id."""
    row = await QUERIES.row(conn, "user_by_name", user_id=user_id, name=name)
    return None if row is None else UUID(str(row["id"]))
