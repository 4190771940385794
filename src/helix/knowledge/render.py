"""Knowledge as people and programs see it."""

from dataclasses import asdict
from typing import Any

from helix.knowledge.types import Added, Chunk, Document, Found, Hit
from helix.retrieval import SIGNALS

__all__ = ["shown_added", "shown_chunk", "shown_document", "shown_found"]


def shown_document(document: Document) -> dict[str, Any]:
    """Return a document for JSON; its quality is a number."""
    quality = None if document.quality is None else float(document.quality)
    return {**asdict(document), "quality": quality}


def shown_added(added: Added, document: Document) -> dict[str, Any]:
    """Return a document that was added, and what became of it."""
    return {
        **shown_document(document),
        "duplicate": added.duplicate,
        "replaced": added.replaced,
    }


def shown_chunk(chunk: Chunk) -> dict[str, Any]:
    """Return a chunk for JSON."""
    return asdict(chunk)


def _citation(hit: Hit) -> dict[str, Any]:
    chunk, document = hit.chunk, hit.document
    return {
        "document_id": document.id,
        "version": document.version,
        "title": document.title,
        "key": document.key,
        "chunk_id": chunk.id,
        "chunk": chunk.number,
        "start": chunk.start,
        "end": chunk.end,
        "first_page": chunk.first_page,
        "last_page": chunk.last_page,
        "headings": chunk.headings,
    }


def shown_found(found: Found, *, explain: bool) -> dict[str, Any]:
    """Return the answer of a search; with `explain` each hit says what each signal added."""
    hits = []
    for hit in found.hits:
        shown: dict[str, Any] = {
            "score": hit.score,
            "content": hit.chunk.content,
            "tainted": hit.tainted,
            "citation": _citation(hit),
            "document": shown_document(hit.document),
            "before": [shown_chunk(chunk) for chunk in hit.before],
            "after": [shown_chunk(chunk) for chunk in hit.after],
        }
        if explain:
            shown["signals"] = hit.parts
        hits.append(shown)
    told = sorted({name for hit in found.hits for name in hit.parts})
    return {
        "data": hits,
        "vectors": found.vectors,
        "considered": found.considered,
        "unembedded": found.unembedded,
        "exact": found.exact,
        "took_ms": found.took_ms,
        "embedding_ms": found.embedding_ms,
        **({"meanings": {name: SIGNALS[name] for name in told}} if explain else {}),
    }
