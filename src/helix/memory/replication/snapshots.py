"""Snapshots bound the replay; the replay shows that events and state agree."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection
from helix.memory.replication.merge import State, empty, fold, join, members, visible
from helix.memory.replication.policy import joined_clock
from helix.memory.replication.store import (
    QUERIES,
    events_by_memory,
    grouped,
    snapshot_states,
    states_kept,
)

__all__ = ["Difference", "Rebuilt", "current_states", "rebuild_user", "snapshot_user"]

PAGE = 500
SNAPSHOT_MEMORIES_MAX = 5_000
DIFFERENCES_MAX = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """A memory whose state is not what its events say, and in what."""

    memory_id: UUID
    where: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a replay found: memories, events read, differences (at most 100 of each user)."""

    memories: int
    events: int
    differences: list[Difference] = field(default_factory=list)


async def _pages(conn: Connection, user_id: UUID, size: int) -> AsyncIterator[list[UUID]]:
    after_id = None
    while True:
        rows = await QUERIES.rows(
            conn, "memories_of_user", user_id=user_id, after_id=after_id, max_count=size
        )
        if not rows:
            return
        yield [row["id"] for row in rows]
        after_id = rows[-1]["id"]


async def current_states(
    conn: Connection, *, node_id: str, user_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, State]:
    """Return the merge states of memories: what is kept of them and all their events."""
    kept = await states_kept(conn, node_id=node_id, ids=ids)
    shots = await snapshot_states(conn, node_id=node_id, user_id=user_id, ids=ids)
    told = await events_by_memory(conn, ids=ids)
    return {
        i: fold(told[i], fold_states(i, [s for s in (kept.get(i), shots.get(i)) if s])) for i in ids
    }


def fold_states(memory_id: UUID, states: Sequence[State]) -> State:
    """Return what some states of one memory say together."""
    return reduce(join, states, empty(memory_id))


async def snapshot_user(conn: Connection, *, node_id: str, user_id: UUID) -> int:
    """Keep the states of all of a user's memories; return of how many.

    Replaces the user's older snapshots and moves the checkpoint, in this transaction. Events that
    commit meanwhile lie after the checkpoint.
    """
    row = await QUERIES.row(conn, "snapshot_watermark")
    xact = str(row["xact"]) if row is not None else "0"
    last = await QUERIES.row(conn, "last_event_of", user_id=user_id, xact=xact)
    event_id = None if last is None else last["id"]
    kept: list[UUID] = []
    count, clocks = 0, []
    waiting: list[State] = []
    async for ids in _pages(conn, user_id, PAGE):
        states = await current_states(conn, node_id=node_id, user_id=user_id, ids=ids)
        waiting += states.values()
        clocks.append(joined_clock(s.clock for s in states.values()))
        count += len(states)
        if len(waiting) >= SNAPSHOT_MEMORIES_MAX:
            kept.append(
                await _put(
                    conn,
                    node_id=node_id,
                    user_id=user_id,
                    states=waiting,
                    event_id=event_id,
                    kind="incremental",
                )
            )
            waiting = []
    if waiting or not kept:
        kind = "incremental" if kept else "full"
        kept.append(
            await _put(
                conn,
                node_id=node_id,
                user_id=user_id,
                states=waiting,
                event_id=event_id,
                kind=kind,
            )
        )
    await QUERIES.run(conn, "drop_older_snapshots", node_id=node_id, user_id=user_id, kept=kept)
    await QUERIES.run(
        conn,
        "put_checkpoint",
        node_id=node_id,
        user_id=user_id,
        event_id=event_id,
        timestamp=None if last is None else last["timestamp"],
        xact=xact,
        vector_clock=joined_clock(clocks),
        event_count=count,
    )
    return count


async def _put(
    conn: Connection,
    *,
    node_id: str,
    user_id: UUID,
    states: Sequence[State],
    event_id: UUID | None,
    kind: str,
) -> UUID:
    row = await QUERIES.row(
        conn,
        "insert_snapshot",
        node_id=node_id,
        user_id=user_id,
        snapshot_type=kind,
        memories=[msgspec.to_builtins(state) for state in states],
        vector_clock=joined_clock(state.clock for state in states),
        memory_count=len(states),
        entity_count=sum(len(members(state, "entities")) for state in states),
        relationship_count=sum(len(members(state, "relationships")) for state in states),
        last_event_id=event_id,
    )
    if row is None:
        raise RuntimeError("the snapshot was not written")
    return UUID(str(row["id"]))


async def rebuild_user(
    conn: Connection, *, node_id: str, user_id: UUID, from_start: bool = False
) -> Rebuilt:
    """Replay a user's events from the last snapshot on (`from_start`: from the first) and compare
    with the state that is kept and with what is served. Changes nothing."""
    row = await QUERIES.row(conn, "checkpoint", node_id=node_id, user_id=user_id)
    since = "0" if row is None or from_start else str(row["xact"])
    memories = events = 0
    differences: list[Difference] = []
    async for ids in _pages(conn, user_id, PAGE):
        base: dict[UUID, State] = {}
        if since != "0":
            base = await snapshot_states(conn, node_id=node_id, user_id=user_id, ids=ids)
        told = grouped(await QUERIES.rows(conn, "events_since", ids=ids, xact=since), ids)
        memories += len(ids)
        events += sum(len(some) for some in told.values())
        states = {i: fold(told[i], base.get(i, empty(i))) for i in ids}
        rows = await QUERIES.rows(conn, "states", ids=ids)
        differences += _differences(rows, states)
    return Rebuilt(memories, events, differences[:DIFFERENCES_MAX])


def _differences(rows: Sequence[Any], states: dict[UUID, State]) -> Iterator[Difference]:
    for row in rows:
        where = tuple(_unlike(row, states[row["id"]]))
        if where:
            yield Difference(row["id"], where)


def _unlike(row: Any, state: State) -> Iterator[str]:
    """Name what differs between a kept row and a replayed state."""
    if (row["deleted_at"] is not None) != state.deleted:
        yield "deleted"
        return
    shown = visible(state)
    if shown is None:
        if row["served_id"] is not None:
            yield "served"
        return
    for key in ("content", "access_count"):
        if row[key] != shown[key]:
            yield key
    if str(row["importance"]) != shown["importance"]:
        yield "importance"
    for key in ("tags", "entities", "relationships"):
        if _as_set(row[key]) != _as_set(shown[key]):
            yield key
    for key in ("metadata", "fields"):
        kept = {name: value for name, value in row[key].items() if value is not None}
        if kept != shown[key]:
            yield key
    if row["served_id"] is not None and row["served_content"] != shown["content"]:
        yield "served"


def _as_set(values: Sequence[Any]) -> set[bytes]:
    return {msgspec.json.encode(value, order="deterministic") for value in values}
