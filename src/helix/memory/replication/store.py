"""Runs the statements of queries.sql that need shaping: events and merge states."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection, Queries
from helix.memory.replication.merge import State, digest, join
from helix.memory.replication.types import Event

__all__ = ["QUERIES", "event_from", "events_by_memory", "own_node", "put_versions", "states_kept"]

QUERIES = Queries("helix.memory.replication")


def event_from(row: Any) -> Event:
    """Return the event a row describes."""
    return Event(
        id=row["id"],
        event_type=row["event_type"],
        node_id=row["node_id"],
        memory_id=row["memory_id"],
        user_id=row["user_id"],
        version=row["version"],
        vector_clock=row["vector_clock"],
        hlc=row["hlc"],
        timestamp=row["timestamp"],
        content=row["content"],
        importance=None if row["importance"] is None else str(row["importance"]),
        tags=row["tags"],
        entities=row["entities"],
        relationships=row["relationships"],
        removed=row["removed"],
        metadata=row["metadata"],
        fields=row["fields"],
        access_delta=row["access_delta"],
        access_total=row["access_total"],
        merged_from=row["merged_from"],
        redacted=row["redacted_at"] is not None,
    )


def grouped(rows: Iterable[Any], ids: Sequence[UUID]) -> dict[UUID, list[Event]]:
    """Return events by memory, in the order of the rows; every id is there."""
    found: dict[UUID, list[Event]] = {memory_id: [] for memory_id in ids}
    for row in rows:
        found[row["memory_id"]].append(event_from(row))
    return found


async def events_by_memory(conn: Connection, *, ids: Sequence[UUID]) -> dict[UUID, list[Event]]:
    """Return all events of some memories, in the order of the fold."""
    return grouped(await QUERIES.rows(conn, "events_of", ids=list(ids)), ids)


async def own_node(conn: Connection) -> str | None:
    """Return what this node calls itself, None before a server has said so."""
    row = await QUERIES.row(conn, "own_node")
    return None if row is None else str(row["node_id"])


async def states_kept(
    conn: Connection, *, node_id: str, ids: Sequence[UUID], statement: str = "versions"
) -> dict[UUID, State]:
    """Return the merge states that are kept of memories."""
    rows = await QUERIES.rows(conn, statement, ids=list(ids), node_id=node_id)
    return {row["memory_id"]: msgspec.convert(row["crdt_state"], State) for row in rows}


async def snapshot_states(
    conn: Connection, *, node_id: str, user_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, State]:
    """Return the merge states that a user's snapshots hold of some memories."""
    rows = await QUERIES.rows(conn, "snapshots_of", node_id=node_id, user_id=user_id, ids=list(ids))
    found: dict[UUID, State] = {}
    for row in rows:
        state = msgspec.convert(row["state"], State)
        key = UUID(state.id)
        found[key] = join(found[key], state) if key in found else state
    return found


async def put_versions(conn: Connection, *, node_id: str, states: Iterable[State]) -> None:
    """Keep merge states, one a memory."""
    await QUERIES.run(
        conn,
        "put_versions",
        node_id=node_id,
        states=[
            {
                "id": state.id,
                "version": sum(state.clock.values()),
                "vector_clock": state.clock,
                "state": msgspec.to_builtins(state),
                "hash": digest(state).hex(),
            }
            for state in states
        ],
    )
