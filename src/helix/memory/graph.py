"""The graph in a user's memories: who is spoken of, what is said, how they hang together."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from helix.core.db import Connection
from helix.memory import graph_store
from helix.memory.errors import BadMemory, EntityNotFound
from helix.memory.policy import as_uuid, check_text
from helix.memory.types import Entity, Relation, Step

__all__ = ["entities", "find_entities", "neighbours", "path_between", "relations"]

DEPTH_MAX = 4
PATH_MAX = 6
NODES_MAX = 1_000
EDGES_MAX = 5_000
PAGE_MAX = 500


async def entities(
    conn: Connection, *, user_id: UUID, kind: str | None = None, max_count: int = 100
) -> list[Entity]:
    """Return what the user's memories speak of, most spoken of first; at most 500."""
    check_text("type", kind)
    return await graph_store.entities_page(
        conn, user_id=user_id, kind=kind, max_count=min(max_count, PAGE_MAX)
    )


async def find_entities(conn: Connection, *, user_id: UUID, name: str) -> list[Entity]:
    """Return the entities meant by a name, in any case, or an id. Raises EntityNotFound."""
    check_text("entity", name)
    known = as_uuid(name)
    if known is not None:
        found = list(
            (await graph_store.entities_by_id(conn, user_id=user_id, ids=[known])).values()
        )
    else:
        found = await graph_store.entities_by_name(conn, user_id=user_id, name=name)
    if not found:
        raise EntityNotFound(name)
    return found


async def relations(
    conn: Connection, *, user_id: UUID, name: str, at: datetime | None = None, max_count: int = 100
) -> list[Relation]:
    """Return what is said of an entity and by it, oldest first; at a moment, or ever."""
    found = await find_entities(conn, user_id=user_id, name=name)
    return await graph_store.relations_of(
        conn,
        user_id=user_id,
        ids=[entity.id for entity in found],
        at=at,
        max_count=min(max_count, PAGE_MAX),
    )


async def neighbours(
    conn: Connection, *, user_id: UUID, name: str, depth: int = 1, at: datetime | None = None
) -> list[Step]:
    """Return entities within 1 to 4 relations, each once at its nearest, nearest first.

    At most 1,000; of an entity with very many relations the strongest 5,000 are followed.
    """
    if not 1 <= depth <= DEPTH_MAX:
        raise BadMemory(f"depth: 1 to {DEPTH_MAX}, not {depth}", param="depth")
    start = await find_entities(conn, user_id=user_id, name=name)
    reached = await _spread(
        conn, user_id=user_id, start=[e.id for e in start], depth=depth, at=at, goal=None
    )
    return await _steps(conn, user_id, reached)


async def path_between(
    conn: Connection, *, user_id: UUID, name: str, other: str, at: datetime | None = None
) -> Step | None:
    """Return the shortest way from one entity to another, up to 6 relations, or None."""
    start = await find_entities(conn, user_id=user_id, name=name)
    goal = {e.id for e in await find_entities(conn, user_id=user_id, name=other)}
    reached = await _spread(
        conn, user_id=user_id, start=[e.id for e in start], depth=PATH_MAX, at=at, goal=goal
    )
    arrived = {i: way for i, way in reached.items() if i in goal}
    steps = await _steps(conn, user_id, arrived)
    return steps[0] if steps else None


async def _spread(
    conn: Connection,
    *,
    user_id: UUID,
    start: Sequence[UUID],
    depth: int,
    at: datetime | None,
    goal: set[UUID] | None,
) -> dict[UUID, tuple[str, ...]]:
    """Go out level by level; return the relations on the way to each entity reached."""
    ways: dict[UUID, tuple[str, ...]] = dict.fromkeys(start, ())
    edge = list(ways)
    for _ in range(depth):
        if not edge or (goal is not None and goal & ways.keys()):
            break
        found = await graph_store.edges_of(
            conn, user_id=user_id, ids=edge, at=at, max_count=EDGES_MAX
        )
        here, edge = set(edge), []
        for subject, target, told in found:
            for a, b in ((subject, target), (target, subject)):
                if a in here and b not in ways and len(ways) <= NODES_MAX:
                    ways[b] = (*ways[a], told)
                    edge.append(b)
    return {i: way for i, way in ways.items() if way}


async def _steps(conn: Connection, user_id: UUID, ways: dict[UUID, tuple[str, ...]]) -> list[Step]:
    known = await graph_store.entities_by_id(conn, user_id=user_id, ids=list(ways))
    steps = [Step(known[i], len(way), way) for i, way in ways.items() if i in known]
    return sorted(steps, key=lambda step: (step.depth, step.entity.name, step.entity.id))
