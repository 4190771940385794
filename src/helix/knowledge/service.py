"""The verbs of knowledge: prepare (pure), then add, change, remove within a transaction.

Each but `prepare` is given a connection inside one transaction and never commits. A document is
searchable by its words at that commit; its vectors follow (`vectors.py`).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from helix.core.db import Connection
from helix.knowledge import store
from helix.knowledge.chunking import cut
from helix.knowledge.errors import (
    BadDocument,
    DocumentNotFound,
    DocumentTooLarge,
    UnreadableDocument,
)
from helix.knowledge.policy import TITLE_CHARS_MAX, check_filters, check_patch, quality_of
from helix.knowledge.store import Cut, Writing
from helix.knowledge.types import (
    Added,
    ChunkId,
    Chunking,
    Document,
    DocumentId,
    Filters,
    NewDocument,
    Patch,
    Piece,
    Reading,
    Source,
)
from helix.retrieval import Analysis, analyse

__all__ = [
    "Prepared",
    "add_document",
    "analysed",
    "change_document",
    "cut_document",
    "get_document",
    "list_documents",
    "prepare",
    "reanalyse",
    "remove_documents",
]

PAGE_MAX = 500
UNTITLED = "untitled"
_QUALITY_CHARS = 200_000


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document that has been read, cut and analysed, ready to be kept."""

    document: NewDocument
    title: str
    source_hash: bytes
    reading: Reading
    chunking: Chunking
    pieces: tuple[tuple[Piece, Analysis], ...]


def analysed(title: str, headings: Sequence[str], content: str) -> Analysis:
    """Return what search keeps of a chunk: its words, and those of what it stands under."""
    above = [name for name in dict.fromkeys((title, *headings)) if name not in content]
    return analyse("\n".join([*above, content]))


def prepare(
    document: NewDocument, reading: Reading, chunking: Chunking, *, chunks_max: int
) -> Prepared:
    """Cut and analyse a text that was read. Takes a while: about a second for a million characters.

    Raises UnreadableDocument for a text without any word, DocumentTooLarge for too many chunks.
    """
    title = document.title or reading.title or _first_line(reading.text) or UNTITLED
    title = title[:TITLE_CHARS_MAX]
    pieces = cut(reading, chunking)
    if not pieces:
        raise UnreadableDocument("there is no text in it")
    if len(pieces) > chunks_max:
        raise DocumentTooLarge(f"{len(pieces)} chunks", f"knowledge_chunks_max ({chunks_max})")
    text = reading.text
    return Prepared(
        document,
        title,
        hashlib.sha256(document.content).digest(),
        reading,
        chunking,
        tuple((p, analysed(title, p.headings, text[p.start : p.end])) for p in pieces),
    )


def _first_line(text: str) -> str | None:
    for line in text[:10_000].splitlines():
        if line.strip():
            return " ".join(line.split())
    return None


async def add_document(
    conn: Connection,
    *,
    user_id: UUID,
    prepared: Prepared,
    new_id: Callable[[], UUID],
    now: datetime,
) -> Added:
    """Keep a document, its chunks and their terms, all or nothing.

    The very bytes again, cut the same way: nothing is added. Another text under the same key: it
    replaces the old one and its chunks, and `version` is one more; a quality somebody set stays.
    Additions of one user wait for each other. Raises BadDocument.
    """
    document = prepared.document
    await store.lock_user(conn, user_id=user_id)
    known = await store.find_same(
        conn,
        user_id=user_id,
        source_hash=prepared.source_hash,
        key=document.key,
        now=now,
    )
    same = next((k for k in known if k.source_hash == prepared.source_hash), None)
    named = next((k for k in known if document.key is not None and k.key == document.key), None)
    replaced = named is not None and named is not same
    if same is not None and named is not None and replaced:
        await store.remove_documents(conn, user_id=user_id, ids=[named.id])
    if (
        same is not None
        and not same.expired
        and same.chunking == prepared.chunking
        and same.media_type == document.media_type
    ):
        return Added(same.id, same.version, len(prepared.pieces), duplicate=True, replaced=replaced)
    target = same or named
    document_id = DocumentId(new_id()) if target is None else target.id
    quality, quality_by = document.quality, "manual"
    if quality is None and target is not None and target.quality_by == "manual":
        quality = target.quality
    if quality is None:
        quality, quality_by = quality_of(prepared.reading.text, document.source), "rule"
    writing = Writing(
        id=document_id,
        user_id=user_id,
        project_id=document.project_id,
        knowledge_type=document.knowledge_type,
        title=prepared.title,
        content=prepared.reading.text,
        source=document.source,
        quality=quality,
        quality_by=quality_by,
        tags=document.tags,
        metadata=document.metadata,
        expires_at=document.expires_at,
        key=document.key,
        media_type=document.media_type,
        source_hash=prepared.source_hash,
        page_starts=prepared.reading.page_starts,
        chunk_tokens=prepared.chunking.tokens,
        overlap_tokens=prepared.chunking.overlap,
    )
    try:
        if target is None:
            await store.insert_document(conn, writing=writing, now=now)
        else:
            await store.replace_document(conn, writing=writing)
            await store.drop_chunks(conn, user_id=user_id, document_id=document_id)
    except (asyncpg.ForeignKeyViolationError, asyncpg.InsufficientPrivilegeError) as exc:
        raise BadDocument("project_id: there is no such project of yours") from exc
    await store.insert_chunks(
        conn,
        user_id=user_id,
        document_id=document_id,
        project_id=document.project_id,
        title=prepared.title,
        chunks=_cuts(prepared.reading.text, prepared.pieces, new_id),
    )
    version = 1 if target is None else target.version + 1
    return Added(document_id, version, len(prepared.pieces), replaced=target is not None)


def _cuts(
    text: str, pieces: Sequence[tuple[Piece, Analysis]], new_id: Callable[[], UUID]
) -> list[Cut]:
    """Return the chunks with ids in their order: search sorts them by id."""
    return [
        Cut(ChunkId(new_id()), number, text[piece.start : piece.end], piece, analysis)
        for number, (piece, analysis) in enumerate(pieces)
    ]


async def cut_document(
    conn: Connection,
    *,
    user_id: UUID,
    document_id: DocumentId,
    prepared: Prepared,
    new_id: Callable[[], UUID],
) -> bool:
    """Give a document that was written by other ways its chunks; say whether it still wants them.

    Nothing is done when it is gone, was cut meanwhile, or its text is not the one prepared.
    """
    await store.lock_user(conn, user_id=user_id)
    text = prepared.reading.text
    if not await store.set_chunking(
        conn,
        user_id=user_id,
        document_id=document_id,
        content=text,
        chunking=prepared.chunking,
        quality=quality_of(text, prepared.document.source),
    ):
        return False
    document = await get_document(conn, user_id=user_id, document_id=document_id)
    await store.insert_chunks(
        conn,
        user_id=user_id,
        document_id=document_id,
        project_id=document.project_id,
        title=prepared.title,
        chunks=_cuts(text, prepared.pieces, new_id),
    )
    return True


async def get_document(conn: Connection, *, user_id: UUID, document_id: DocumentId) -> Document:
    """Return one of the user's documents. Raises DocumentNotFound."""
    found = await store.documents_by_id(conn, user_id=user_id, ids=[document_id])
    if document_id not in found:
        raise DocumentNotFound(document_id)
    return found[document_id]


async def list_documents(
    conn: Connection,
    *,
    user_id: UUID,
    filters: Filters,
    now: datetime,
    expired: bool = False,
    after_id: UUID | None = None,
    max_count: int = 100,
) -> list[Document]:
    """Return the user's documents, newest first, from after `after_id` on; at most 500."""
    check_filters(filters)
    return await store.documents_page(
        conn,
        user_id=user_id,
        filters=filters,
        expired=expired,
        after_id=after_id,
        max_count=min(max_count, PAGE_MAX),
        now=now,
    )


async def change_document(
    conn: Connection, *, user_id: UUID, document_id: DocumentId, patch: Patch
) -> Document:
    """Change what is said about a document; its text changes by adding it again.

    Raises DocumentNotFound or BadDocument.
    """
    check_patch(patch)
    before = await get_document(conn, user_id=user_id, document_id=document_id)
    quality, quality_by = patch.quality, None if patch.quality is None else "manual"
    if patch.rule_quality:
        text = await store.text_of(
            conn, user_id=user_id, document_id=document_id, start=0, length=_QUALITY_CHARS
        )
        source = patch.source or Source(before.source or Source.MANUAL)
        quality, quality_by = quality_of(text or "", source), "rule"
    await store.change_document(
        conn,
        user_id=user_id,
        document_id=document_id,
        patch=patch,
        quality=quality,
        quality_by=quality_by,
    )
    return await get_document(conn, user_id=user_id, document_id=document_id)


async def remove_documents(
    conn: Connection, *, user_id: UUID, ids: Sequence[DocumentId]
) -> list[DocumentId]:
    """Remove documents for good: text, chunks, terms, vectors.

    Returns the ids removed; those that are not the user's are passed over.
    """
    return await store.remove_documents(conn, user_id=user_id, ids=ids)


async def reanalyse(
    conn: Connection, *, after_id: UUID | None, max_count: int
) -> tuple[int, UUID | None]:
    """Analyse chunks anew that an older analysis knows, as the operator.

    Returns how many, and the id to go on from, None at the end.
    """
    rows = await store.old_analyses(conn, after_id=after_id, max_count=max_count)
    by_user: dict[UUID, list[tuple[ChunkId, Analysis]]] = {}
    for row in rows:
        known = analysed(row["title"], row["headings"], row["content"])
        by_user.setdefault(row["user_id"], []).append((row["id"], known))
    for user_id, analyses in by_user.items():
        await store.put_analyses(conn, user_id=user_id, analyses=analyses)
    return len(rows), rows[-1]["id"] if len(rows) == max_count else None
