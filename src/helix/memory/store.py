"""Runs the statements of queries.sql: memories, what search knows of them, vectors, uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.db import Connection, Queries
from helix.memory.extraction import Extracted
from helix.memory.types import Filters, Memory, MemoryId, NewMemory, Patch, Sources, Use
from helix.retrieval import ANALYSIS_VERSION, Analysis, Packed, Vectors

__all__ = ["QUERIES"]

Array = np.ndarray[Any, np.dtype[Any]]
QUERIES = Queries("helix.memory")


def signed(number: int) -> int:
    """Return a 32-bit number as PostgreSQL's integer holds it."""
    return number - (1 << 32) if number >= 1 << 31 else number


def vector_text(vector: Array) -> str:
    """Return a vector as pgvector reads it."""
    return f"[{','.join(f'{x:.6g}' for x in vector.tolist())}]"


def memory_from(row: Any) -> Memory:
    """Return the memory a row describes."""
    values = dict(row)
    values["tags"] = tuple(values["tags"])
    return Memory(**values)


def _recorded(memory: NewMemory, memory_id: MemoryId, found: Extracted) -> dict[str, Any]:
    return {
        "id": memory_id,
        "session_id": memory.session_id,
        "project_id": memory.project_id,
        "agent_id": memory.agent_id,
        "content": memory.content,
        "memory_type": memory.memory_type,
        "entities": entities_json(found),
        "relationships": relations_json(found),
        "speaker": memory.speaker,
        "confidence": memory.confidence,
        "importance": memory.importance,
        "source_response_id": memory.source_response_id,
        "conversation_id": memory.conversation_id,
        "valid_from": memory.valid_from,
        "valid_to": memory.valid_to,
        "tags": memory.tags,
        "metadata": memory.metadata,
    }


def entities_json(found: Extracted) -> list[dict[str, str]]:
    """Return entities as memories.entities holds them."""
    return [{"name": e.name, "type": e.type} for e in found.entities]


def relations_json(found: Extracted) -> list[dict[str, str]]:
    """Return relations as memories.relationships holds them."""
    return [
        {"subject": r.subject, "predicate": r.predicate, "object": r.object}
        for r in found.relations
    ]


async def insert_memories(
    conn: Connection,
    *,
    user_id: UUID,
    memories: Sequence[tuple[MemoryId, NewMemory, Extracted]],
    now: datetime,
) -> set[MemoryId]:
    """Add memories; return the ids of those that no live memory said already."""
    rows = await QUERIES.rows(
        conn,
        "insert_memories",
        user_id=user_id,
        memories=[_recorded(memory, i, found) for i, memory, found in memories],
        now=now,
    )
    return {row["id"] for row in rows}


async def ids_by_content(
    conn: Connection, *, user_id: UUID, contents: Sequence[str]
) -> dict[int, MemoryId]:
    """Return, by place in `contents`, the live memory that says exactly this."""
    rows = await QUERIES.rows(conn, "ids_by_content", user_id=user_id, contents=list(contents))
    return {row["place"] - 1: MemoryId(row["merged_into"] or row["id"]) for row in rows}


async def put_search_rows(
    conn: Connection, *, user_id: UUID, analyses: Mapping[MemoryId, Analysis]
) -> None:
    """Make memories findable, in this transaction."""
    if analyses:
        await QUERIES.run(
            conn,
            "put_search_rows",
            user_id=user_id,
            version=ANALYSIS_VERSION,
            rows=[
                {
                    "id": memory_id,
                    "terms": [signed(term) for term in known.terms],
                    "facts": int(known.facts),
                    "speaker": signed(known.speaker),
                }
                for memory_id, known in analyses.items()
            ],
        )


async def drop_search_rows(conn: Connection, *, user_id: UUID, ids: Sequence[UUID]) -> None:
    """Take memories out of search."""
    await QUERIES.run(conn, "drop_search_rows", user_id=user_id, ids=list(ids))


async def sync_search_ends(conn: Connection, *, user_id: UUID, ids: Sequence[UUID]) -> None:
    """Bring the ends of validity of memories over to search."""
    await QUERIES.run(conn, "sync_search_ends", user_id=user_id, ids=list(ids))


async def unsearchable(
    conn: Connection, *, user_id: UUID | None, after_id: UUID | None, max_count: int
) -> list[tuple[MemoryId, UUID, str, str | None]]:
    """Return id, user, content and speaker of memories whose search row is missing or old."""
    rows = await QUERIES.rows(
        conn,
        "unsearchable",
        user_id=user_id,
        version=ANALYSIS_VERSION,
        after_id=after_id,
        max_count=max_count,
    )
    return [(row["id"], row["user_id"], row["content"], row["speaker"]) for row in rows]


async def count_scope(conn: Connection, *, user_id: UUID, most: int) -> int:
    """Return how many memories the user may find, at most `most`."""
    row = await QUERIES.row(conn, "count_scope", user_id=user_id, most=most)
    return 0 if row is None else int(row["count"])


def _filter_values(filters: Filters, now: datetime) -> dict[str, Any]:
    return {
        "session_id": filters.session_id,
        "conversation_id": filters.conversation_id,
        "project_id": filters.project_id,
        "agent_id": filters.agent_id,
        "memory_type": filters.memory_type,
        "at": filters.at or now,
        "past": filters.at is not None,
    }


@dataclass(frozen=True, slots=True)
class Compared:
    """What a scope is compared with: the question's vector, and the model that made it."""

    model: Vectors
    vector: Array


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of a scope, packed, and the cosines of those that have vectors: ids and values."""

    packed: Packed
    ids: bytes
    cosines: bytes


def _vector_values(compared: Compared | None) -> dict[str, object]:
    if compared is None:
        return {"vector": None, "config_id": None, "dimension": None}
    return {
        "vector": vector_text(compared.vector),
        "config_id": compared.model.config_id,
        "dimension": compared.model.dimension,
    }


def _texts(row: Any) -> Texts:
    return Texts(Packed(row["rows"], row["lengths"]), row["ids"], row["cosines"])


async def whole_scope(
    conn: Connection,
    *,
    user_id: UUID,
    filters: Filters,
    now: datetime,
    most: int,
    compared: Compared | None,
) -> tuple[Texts, int]:
    """Return every memory the user may find under the filters, and how many there are without.

    No text if those are more than `most`; then they are counted no further.
    """
    values = _filter_values(filters, now) | _vector_values(compared)
    row = await QUERIES.row(conn, "whole_scope", user_id=user_id, most=most, **values)
    if row is None:
        raise RuntimeError("a statement of one row has given none")
    return _texts(row), row["size"]


async def part_scope(
    conn: Connection,
    *,
    user_id: UUID,
    ids: Sequence[UUID],
    middle: Sequence[UUID] = (),
    heart: Sequence[UUID] = (),
    most_beside: int = 0,
    filters: Filters,
    now: datetime,
    compared: Compared | None = None,
) -> Texts:
    """Return some memories and, of those in the `middle`, those beside them.

    Two each way, and `most_beside` of those that are in the `heart` as well.
    """
    return _texts(
        await QUERIES.row(
            conn,
            "part_scope",
            user_id=user_id,
            ids=list(ids),
            middle=list(middle),
            heart=list(heart),
            most_beside=most_beside,
            **_filter_values(filters, now),
            **_vector_values(compared),
        )
    )


async def filtered_ids(
    conn: Connection, *, user_id: UUID, filters: Filters, now: datetime, most: int
) -> list[UUID]:
    """Return the memories that the user may find under the filters, at most `most`."""
    values = _filter_values(filters, now)
    rows = await QUERIES.rows(conn, "filtered_ids", user_id=user_id, most=most, **values)
    return [row["memory_id"] for row in rows]


@dataclass(frozen=True, slots=True)
class WordCandidates:
    """Memories that hold words of a question, best first, and who speaks in them.

    Of all the user's memories: how many, and in how many each term is, as far as was looked.
    """

    ids: list[UUID]
    speakers: frozenset[int]
    total: int
    found: dict[int, int]


async def word_candidates(
    conn: Connection,
    *,
    user_id: UUID,
    terms: Sequence[int],
    total: int,
    per_term: int,
    common_max: int,
    per_pair: int,
    most: int,
) -> WordCandidates:
    """Return the memories of a user of `total` that hold most of the terms, and the rarest.

    Of a term at most `per_term` memories are looked at; of the first `common_max` that are in as
    many, `per_pair` memories for every two of them. `conn` is an operator's: under a tenant's
    policy no index of terms is used.
    """
    row = await QUERIES.row(
        conn,
        "word_candidates",
        user_id=user_id,
        terms=[signed(term) for term in terms],
        total=total,
        per_term=per_term,
        common_max=common_max,
        per_pair=per_pair,
        most=most,
    )
    if row is None:
        raise RuntimeError("a statement of one row has given none")
    found = zip(row["terms"], row["found"], strict=True)
    return WordCandidates(
        row["ids"],
        frozenset(number % (1 << 32) for number in row["speakers"]) - {0},
        total,
        {term % (1 << 32): count for term, count in found},
    )


async def cosines(conn: Connection, *, user_id: UUID, compared: Compared) -> tuple[bytes, bytes]:
    """Return ids and cosines, packed, of all the user's vectors of a model."""
    row = await QUERIES.row(conn, "cosines", user_id=user_id, **_vector_values(compared))
    return (b"", b"") if row is None else (row["ids"], row["cosines"])


async def without_vector(
    conn: Connection, *, user_id: UUID, model: Vectors, after_id: UUID | None, max_count: int
) -> list[tuple[MemoryId, str]]:
    """Return searchable memories that have no vector of the model, in the order of ids."""
    rows = await QUERIES.rows(
        conn,
        "without_vector",
        user_id=user_id,
        after_id=after_id,
        config_id=model.config_id,
        dimension=model.dimension,
        max_count=max_count,
    )
    return [(row["id"], row["content"]) for row in rows]


async def users_without_vectors(
    conn: Connection, *, model: Vectors | None, after_id: UUID | None, max_count: int
) -> list[UUID]:
    """Return users of whose memories some have no vector of the model, in the order of ids.

    Without a model those are all who have memories.
    """
    rows = await QUERIES.rows(
        conn,
        "users_without_vectors",
        after_id=after_id,
        config_id=None if model is None else model.config_id,
        dimension=0 if model is None else model.dimension,
        max_count=max_count,
    )
    return [row["user_id"] for row in rows]


async def count_without_vector(conn: Connection, *, user_id: UUID, model: Vectors) -> int:
    """Return how many searchable memories of a user have no vector of the model."""
    row = await QUERIES.row(
        conn,
        "count_without_vector",
        user_id=user_id,
        config_id=model.config_id,
        dimension=model.dimension,
    )
    return 0 if row is None else int(row["count"])


async def put_vectors(
    conn: Connection,
    *,
    user_id: UUID,
    model: Vectors,
    vectors: Sequence[tuple[MemoryId, bytes, int, Array]],
) -> int:
    """Keep vectors: of which memory, the SHA-256 its text must still have, which part, the vector.

    Return how many memories got theirs.
    """
    rows = await QUERIES.rows(
        conn,
        "put_vectors",
        user_id=user_id,
        config_id=model.config_id,
        dimension=model.dimension,
        ids=[i for i, _, _, _ in vectors],
        hashes=[digest for _, digest, _, _ in vectors],
        parts=[part for _, _, part, _ in vectors],
        vectors=[vector_text(vector) for _, _, _, vector in vectors],
    )
    return sum(row["part"] == 0 for row in rows)


async def drop_vectors(conn: Connection, *, user_id: UUID, memory_id: MemoryId) -> None:
    """Take the vectors of a memory away."""
    await QUERIES.run(conn, "drop_vectors", user_id=user_id, memory_id=memory_id)


async def memories_by_id(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID]
) -> dict[MemoryId, Memory]:
    """Return those of the user's memories that exist."""
    rows = await QUERIES.rows(conn, "memories_by_id", user_id=user_id, ids=list(ids))
    return {row["id"]: memory_from(row) for row in rows}


async def memories_page(
    conn: Connection,
    *,
    user_id: UUID,
    filters: Filters,
    merged: bool,
    after_id: UUID | None,
    max_count: int,
) -> list[Memory]:
    """Return memories, newest first."""
    rows = await QUERIES.rows(
        conn,
        "memories_page",
        user_id=user_id,
        merged=merged,
        session_id=filters.session_id,
        conversation_id=filters.conversation_id,
        project_id=filters.project_id,
        agent_id=filters.agent_id,
        memory_type=filters.memory_type,
        at=filters.at,
        after_id=after_id,
        max_count=max_count,
    )
    return [memory_from(row) for row in rows]


async def change_memory(
    conn: Connection,
    *,
    user_id: UUID,
    memory_id: MemoryId,
    patch: Patch,
    found: Extracted | None,
) -> bool:
    """Change what is given; say whether there was such a memory."""
    row = await QUERIES.row(
        conn,
        "change_memory",
        user_id=user_id,
        memory_id=memory_id,
        content=patch.content,
        memory_type=patch.memory_type,
        speaker=patch.speaker,
        confidence=patch.confidence,
        importance=patch.importance,
        valid_from=patch.valid_from,
        valid_to=patch.valid_to,
        tags=None if patch.tags is None else list(patch.tags),
        metadata=patch.metadata,
        entities=None if found is None else entities_json(found),
        relationships=None if found is None else relations_json(found),
    )
    return row is not None


async def count_access(
    conn: Connection, *, user_id: UUID, times: Mapping[MemoryId, int], now: datetime
) -> None:
    """Count that memories were handed out."""
    await QUERIES.run(
        conn,
        "count_access",
        user_id=user_id,
        ids=list(times),
        times=list(times.values()),
        now=now,
    )


async def forget(conn: Connection, *, user_id: UUID, ids: Sequence[UUID]) -> list[MemoryId]:
    """Erase memories with all that is derived from them; return the ids erased."""
    rows = await QUERIES.rows(conn, "forget", user_id=user_id, ids=list(ids))
    return [row["id"] for row in rows]


async def sources_of(conn: Connection, *, user_id: UUID, ids: Sequence[UUID]) -> Sources:
    """Return what memories were drawn from, and those that were merged into them."""
    rows = await QUERIES.rows(conn, "sources_of", user_id=user_id, ids=list(ids))
    return Sources(
        tuple({row["conversation_id"] for row in rows} - {None}),
        tuple({row["source_response_id"] for row in rows} - {None}),
    )


async def ids_of_user(conn: Connection, *, user_id: UUID, max_count: int) -> list[MemoryId]:
    """Return ids of the user's memories, merged ones too."""
    rows = await QUERIES.rows(conn, "ids_of_user", user_id=user_id, max_count=max_count)
    return [row["id"] for row in rows]


async def drop_graph_of_user(conn: Connection, *, user_id: UUID) -> None:
    """Take away what is left of the user's graph."""
    await QUERIES.run(conn, "drop_graph_of_user", user_id=user_id)


async def tombstones_since(
    conn: Connection, *, since: datetime, max_count: int
) -> list[tuple[MemoryId, UUID, datetime]]:
    """Return what was forgotten from a moment on: memory, user, when."""
    rows = await QUERIES.rows(conn, "tombstones_since", since=since, max_count=max_count)
    return [(row["memory_id"], row["user_id"], row["forgotten_at"]) for row in rows]


async def apply_tombstones(conn: Connection, *, tombstones: Sequence[tuple[MemoryId, UUID]]) -> int:
    """Erase again what a restored backup brought back; return how many memories there were."""
    listed = [{"memory_id": i, "user_id": user} for i, user in tombstones]
    row = await QUERIES.row(conn, "apply_tombstones", tombstones=listed)
    return 0 if row is None else int(row["erased"])


async def insert_uses(
    conn: Connection, *, user_id: UUID, request_id: UUID, uses: Sequence[Use], now: datetime
) -> list[MemoryId]:
    """Record which memories a request used; return those recorded now."""
    rows = await QUERIES.rows(
        conn,
        "insert_uses",
        user_id=user_id,
        request_id=request_id,
        ids=[use.memory_id for use in uses],
        scores=[use.score for use in uses],
        now=now,
    )
    return [row["memory_id"] for row in rows]


async def uses_of_memory(
    conn: Connection, *, user_id: UUID, memory_id: MemoryId, max_count: int
) -> list[dict[str, Any]]:
    """Return the requests that used a memory, newest first."""
    rows = await QUERIES.rows(
        conn, "uses_of_memory", user_id=user_id, memory_id=memory_id, max_count=max_count
    )
    return [dict(row) for row in rows]


async def uses_of_request(
    conn: Connection, *, user_id: UUID, request_id: UUID
) -> list[dict[str, Any]]:
    """Return the memories a request used, in order."""
    rows = await QUERIES.rows(conn, "uses_of_request", user_id=user_id, request_id=request_id)
    return [dict(row) for row in rows]
