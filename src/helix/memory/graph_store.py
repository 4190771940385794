"""Runs the statements of graph.sql: entities, relations, audits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from helix.core.db import Connection, Queries
from helix.memory.policy import SINGLE_VALUED, Candidate, Statement
from helix.memory.types import Entity, MemoryId, Relation
from helix.retrieval import Fact

__all__ = ["QUERIES"]

QUERIES = Queries("helix.memory", "graph.sql")
STATEMENTS_MAX = 10_000


def entity_from(row: Any) -> Entity:
    """Return the entity a row describes."""
    return Entity(row["id"], row["name"], row["type"], tuple(row["aliases"]), row["mention_count"])


async def put_entities(
    conn: Connection, *, user_id: UUID, entities: Sequence[tuple[str, str]], ends: Sequence[str]
) -> dict[str, UUID]:
    """Make entities (name, type) known; return ids by their names and those of `ends`, as given.

    Of several by one name the most spoken of counts.
    """
    names = [name for name, _ in entities]
    await QUERIES.run(
        conn, "put_entities", user_id=user_id, names=names, types=[kind for _, kind in entities]
    )
    rows = await QUERIES.rows(
        conn, "entities_by_name", user_id=user_id, names=list({*names, *ends})
    )
    return {row["asked"]: row["id"] for row in reversed(rows)}


async def entities_by_name(conn: Connection, *, user_id: UUID, name: str) -> list[Entity]:
    """Return the user's entities with this name, in any case, most spoken of first."""
    rows = await QUERIES.rows(conn, "entities_by_name", user_id=user_id, names=[name])
    return [entity_from(row) for row in rows]


async def entities_by_id(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, Entity]:
    """Return those of the entities that exist."""
    rows = await QUERIES.rows(conn, "entities_by_id", user_id=user_id, ids=list(ids))
    return {row["id"]: entity_from(row) for row in rows}


async def put_mentions(
    conn: Connection, *, user_id: UUID, mentions: Sequence[tuple[MemoryId, UUID]]
) -> None:
    """Tie memories to entities."""
    await QUERIES.run(
        conn,
        "put_mentions",
        user_id=user_id,
        memory_ids=[memory for memory, _ in mentions],
        entity_ids=[entity for _, entity in mentions],
    )


async def put_relations(
    conn: Connection, *, user_id: UUID, relations: Sequence[tuple[UUID, str, UUID, MemoryId]]
) -> None:
    """Keep statements: subject, predicate, object, memory."""
    await QUERIES.run(
        conn,
        "put_relations",
        user_id=user_id,
        subject_ids=[r[0] for r in relations],
        predicates=[r[1] for r in relations],
        object_ids=[r[2] for r in relations],
        memory_ids=[r[3] for r in relations],
    )


async def drop_ties(conn: Connection, *, user_id: UUID, memory_id: MemoryId) -> None:
    """Take away what a memory says of entities, and entities nothing speaks of any more."""
    spoken_of = await entities_of_memory(conn, user_id=user_id, memory_id=memory_id)
    await QUERIES.run(conn, "drop_relations", user_id=user_id, memory_id=memory_id)
    await QUERIES.run(conn, "drop_ties", user_id=user_id, memory_id=memory_id)
    await QUERIES.run(conn, "drop_unspoken", user_id=user_id, ids=[e.id for e in spoken_of])


async def entities_of_memory(
    conn: Connection, *, user_id: UUID, memory_id: MemoryId
) -> list[Entity]:
    """Return the entities a memory speaks of, by name."""
    rows = await QUERIES.rows(conn, "entities_of_memory", user_id=user_id, memory_id=memory_id)
    return [entity_from(row) for row in rows]


async def entities_page(
    conn: Connection, *, user_id: UUID, kind: str | None, max_count: int
) -> list[Entity]:
    """Return the user's entities, most spoken of first."""
    rows = await QUERIES.rows(
        conn, "entities_page", user_id=user_id, type=kind, max_count=max_count
    )
    return [entity_from(row) for row in rows]


async def relations_of(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID], at: datetime | None, max_count: int
) -> list[Relation]:
    """Return relations that touch entities, oldest first; those true at `at`, or all."""
    rows = await QUERIES.rows(
        conn, "relations_of", user_id=user_id, ids=list(ids), at=at, max_count=max_count
    )
    return [Relation(**dict(row)) for row in rows]


async def edges_of(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID], at: datetime | None, max_count: int
) -> list[tuple[UUID, UUID, str]]:
    """Return relations that touch entities as (subject, object, text), strongest first."""
    rows = await QUERIES.rows(
        conn, "edges_of", user_id=user_id, ids=list(ids), at=at, max_count=max_count
    )
    return [(row["subject_id"], row["object_id"], row["told"]) for row in rows]


async def audit_candidates(conn: Connection, *, user_id: UUID, max_count: int) -> list[Candidate]:
    """Return the user's newest searchable memories as an audit weighs them."""
    rows = await QUERIES.rows(conn, "audit_candidates", user_id=user_id, max_count=max_count)
    return [
        Candidate(
            id=row["memory_id"],
            terms=tuple(row["terms"]),
            speaker=row["speaker"],
            facts=Fact(row["facts"]),
            valid_from=row["valid_from"],
            access_count=row["access_count"],
            use_count=row["use_count"],
            confidence=float(row["confidence"]),
            entity_count=row["entity_count"],
        )
        for row in rows
    ]


async def statements(conn: Connection, *, user_id: UUID) -> list[Statement]:
    """Return what live memories state of properties with one value at a time."""
    rows = await QUERIES.rows(
        conn,
        "statements",
        user_id=user_id,
        predicates=sorted(SINGLE_VALUED),
        max_count=STATEMENTS_MAX,
    )
    return [Statement(**dict(row)) for row in rows]


async def merge(
    conn: Connection, *, user_id: UUID, batch_id: UUID, memory_id: MemoryId, into_id: MemoryId
) -> bool:
    """Let `into_id` take a memory in; say whether it was still there to be taken."""
    values = {"user_id": user_id, "batch_id": batch_id}
    row = await QUERIES.row(conn, "merge", memory_id=memory_id, into_id=into_id, **values)
    return row is not None


async def end_validity(
    conn: Connection, *, user_id: UUID, batch_id: UUID, memory_id: MemoryId, ends_at: datetime
) -> bool:
    """Say until when a memory was true; say whether it had no end before."""
    values = {"user_id": user_id, "batch_id": batch_id}
    row = await QUERIES.row(conn, "end_validity", memory_id=memory_id, ends_at=ends_at, **values)
    return row is not None


async def last_batch(conn: Connection, *, user_id: UUID) -> UUID | None:
    """Return the newest batch that is not taken back."""
    row = await QUERIES.row(conn, "last_batch", user_id=user_id)
    return None if row is None else UUID(str(row["batch_id"]))


async def take_back(
    conn: Connection, *, user_id: UUID, batch_id: UUID, now: datetime
) -> list[tuple[MemoryId, str, datetime | None]]:
    """Mark a batch as undone; return what it had done: memory, change, former end."""
    rows = await QUERIES.rows(conn, "take_back", user_id=user_id, batch_id=batch_id, now=now)
    return [(row["memory_id"], row["change"], row["old_valid_to"]) for row in rows]


async def unmerge(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID]
) -> list[tuple[MemoryId, str, str | None]]:
    """Let merged memories stand for themselves again; return id, content and speaker."""
    rows = await QUERIES.rows(conn, "unmerge", user_id=user_id, ids=list(ids))
    return [(row["id"], row["content"], row["speaker"]) for row in rows]


async def unend(
    conn: Connection, *, user_id: UUID, memory_id: MemoryId, valid_to: datetime | None
) -> None:
    """Give a memory its former end back."""
    await QUERIES.run(conn, "unend", user_id=user_id, memory_id=memory_id, valid_to=valid_to)
