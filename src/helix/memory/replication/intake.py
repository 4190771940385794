"""Taking in events of other nodes: keep them, merge, and bring what is served into line."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection
from helix.memory.replication.merge import State, empty, fold, visible
from helix.memory.replication.policy import (
    check_event,
    concurrent_with,
    conflict_type,
    conflicting,
)
from helix.memory.replication.serve import serve
from helix.memory.replication.store import QUERIES, events_by_memory, put_versions, states_kept
from helix.memory.replication.types import Account, Event, Taken

__all__ = ["take"]

CONFLICTS_OF_EVENT_MAX = 20
DELETED = "deleted"


async def take(
    conn: Connection,
    *,
    node_id: str,
    events: Sequence[Event],
    accounts: Mapping[str, Account],
    settle: bool,
    embed: bool,
    now: datetime,
) -> Taken:
    """Take events in, in this transaction (of an operator), and merge the memories they speak of.

    Taking the same events again, or in another order, changes nothing. Refused are events of
    accounts that were deleted here, and of memories that another account holds. With `settle`
    conflicts count as settled by the merge, else lost wordings wait for a person. Raises BadInput.
    """
    for event in events:
        check_event(event, now=now)
    users = await _accounts_here(conn, events=events, accounts=accounts)
    known = {
        row["id"]
        for row in await QUERIES.rows(conn, "known_events", ids=[event.id for event in events])
    }
    fresh: dict[UUID, Event] = {}
    for event in events:
        if event.id not in known and event.user_id in users:
            # Also this node's own, which it lacks when it was restored from an older backup.
            fresh[event.id] = msgspec.structs.replace(event, user_id=users[event.user_id])
    if not fresh:
        refused = sum(1 for event in events if event.user_id not in users)
        return Taken(known=len(events) - refused, refused=refused)
    await QUERIES.run(conn, "replicating")
    owners = {event.memory_id: event.user_id for event in fresh.values()}
    ids = sorted(owners)
    await QUERIES.run(conn, "lock_memories", ids=ids)
    await QUERIES.run(
        conn, "put_states", ids=ids, user_ids=[owners[i] for i in ids], node_id=node_id
    )
    before = {row["id"]: row for row in await QUERIES.rows(conn, "lock_states", ids=ids)}
    applied = [e for e in fresh.values() if before[e.memory_id]["user_id"] == e.user_id]
    dead_before = {i for i, row in before.items() if row["deleted_at"] is not None}
    dead_before |= {row["memory_id"] for row in await QUERIES.rows(conn, "tombstoned", ids=ids)}
    known_events = await events_by_memory(conn, ids=ids)
    kept = [_emptied(e) if e.memory_id in dead_before else e for e in applied]
    await QUERIES.run(conn, "insert_events", events=[msgspec.to_builtins(e) for e in kept], now=now)
    bases = await states_kept(conn, node_id=node_id, ids=ids)
    arrived: dict[UUID, list[Event]] = {i: [] for i in ids}
    for event in kept:
        arrived[event.memory_id].append(event)
    states = {
        i: fold([*known_events[i], *arrived[i]], bases.get(i, empty(i)))
        for i in ids
        if arrived[i] or i in dead_before
    }
    dead = {i: s for i, s in states.items() if s.deleted or i in dead_before}
    alive = {i: s for i, s in states.items() if i not in dead}
    if dead:
        await _bury(conn, node_id=node_id, dead=dead, before=before)
    await _write(conn, node_id=node_id, states=alive)
    await serve(conn, states=alive, before=before, embed=embed)
    conflicts = await _record_conflicts(
        conn, node_id=node_id, arrived=arrived, known=known_events, states=alive,
        settle=settle, now=now,
    )  # fmt: skip
    await QUERIES.run(conn, "count_own", consumed=len(kept), resolved=conflicts if settle else 0)
    refused = len(fresh) - len(applied) + sum(1 for e in events if e.user_id not in users)
    return Taken(len(kept), len(events) - len(kept) - refused, refused, conflicts)


def _emptied(event: Event) -> Event:
    """Return the event without its text: its memory was forgotten."""
    if event.event_type == DELETED:
        return event
    return msgspec.structs.replace(
        event, content=None, tags=[], entities=[], relationships=[], removed={}, metadata={},
        fields={}, redacted=True,
    )  # fmt: skip


async def _accounts_here(
    conn: Connection, *, events: Sequence[Event], accounts: Mapping[str, Account]
) -> dict[UUID, UUID]:
    """Return the account here for each account the events name: by id, else by address, else a new
    one without a password. Accounts that were deleted here are left out."""
    wanted = sorted({event.user_id for event in events})
    emails = {i: accounts[str(i)].email for i in wanted if str(i) in accounts}
    found = await _look_up(conn, wanted, emails)
    for user_id in wanted:
        if user_id not in found and user_id in emails:
            await QUERIES.run(
                conn,
                "insert_user",
                id=user_id,
                email=emails[user_id],
                name=accounts[str(user_id)].name,
            )
    if len(found) < len(wanted):
        found = await _look_up(conn, wanted, emails)
    return {i: here for i, here in found.items() if here is not None}


async def _look_up(
    conn: Connection, ids: Sequence[UUID], emails: Mapping[UUID, str]
) -> dict[UUID, UUID | None]:
    rows = await QUERIES.rows(conn, "local_users", ids=list(ids), emails=list(emails.values()))
    alive = {row["id"]: row["id"] if row["status"] != DELETED else None for row in rows}
    by_email = {row["email"]: alive[row["id"]] for row in rows}
    found: dict[UUID, UUID | None] = {}
    for user_id in ids:
        if user_id in alive:
            found[user_id] = alive[user_id]
        elif emails.get(user_id) in by_email:
            found[user_id] = by_email[emails[user_id]]
    return found


async def _bury(
    conn: Connection, *, node_id: str, dead: Mapping[UUID, State], before: Mapping[UUID, Any]
) -> None:
    """Erase forgotten memories here too.

    What was merged into them on this node goes with them, which the other node could not know:
    that is a change of this node, told as such.
    """
    ids = sorted(dead)
    family = [row["id"] for row in await QUERIES.rows(conn, "merged_into_these", ids=ids)]
    if family:
        await QUERIES.run(conn, "bury", ids=family, node_id=node_id)
    await QUERIES.run(conn, "bury", ids=ids, node_id=None)
    await QUERIES.run(conn, "put_tombstones", ids=ids)
    by_user: dict[UUID, list[UUID]] = {}
    for memory_id in ids:
        by_user.setdefault(before[memory_id]["user_id"], []).append(memory_id)
    for user_id, some in by_user.items():
        await QUERIES.run(conn, "erase", user_id=user_id, ids=some)
    clocks = [
        {"id": i, "vector_clock": s.clock, "version": max(1, sum(s.clock.values())),
         "hlc_seen": s.hlc_seen} for i, s in dead.items()
    ]  # fmt: skip
    await QUERIES.run(conn, "update_clocks", clocks=clocks)


def state_row(memory_id: UUID, state: State) -> dict[str, Any]:
    """Return a living state as distributed_memory keeps it; without a text yet it is empty."""
    shown = visible(state)
    if shown is None:
        shown = {"content": "", "importance": "0.5000", "fields": {}, "metadata": {}, "tags": [],
                 "entities": [], "relationships": [], "access_count": 0}  # fmt: skip
    return {
        **shown,
        "id": memory_id,
        "version": sum(state.clock.values()),
        "vector_clock": state.clock,
        "hlc": 0 if state.content is None else state.content.stamp[0],
        "hlc_seen": state.hlc_seen,
        "node_id": min(state.clock) if state.content is None else state.content.stamp[1],
    }


async def _write(conn: Connection, *, node_id: str, states: Mapping[UUID, State]) -> None:
    if not states:
        return
    rows = [state_row(i, state) for i, state in states.items()]
    await QUERIES.run(conn, "update_states", states=rows)
    await put_versions(conn, node_id=node_id, states=states.values())


async def _record_conflicts(
    conn: Connection,
    *,
    node_id: str,
    arrived: Mapping[UUID, Sequence[Event]],
    known: Mapping[UUID, Sequence[Event]],
    states: Mapping[UUID, State],
    settle: bool,
    now: datetime,
) -> int:
    """Write down which of the arrived changes did not know of another; return how many."""
    count = 0
    for memory_id, state in states.items():
        here = [event for event in known[memory_id] if conflicting(event)]
        for event in arrived[memory_id]:
            if not conflicting(event):
                continue
            for other in concurrent_with(event, here)[:CONFLICTS_OF_EVENT_MAX]:
                kind = conflict_type(other, event)
                lost = kind == "version_conflict"
                settled = None
                if settle or not lost:
                    settled = "last_write_wins" if lost else "merge_all"
                row = await QUERIES.row(
                    conn,
                    "insert_conflict",
                    memory_id=memory_id,
                    user_id=event.user_id,
                    conflict_type=kind,
                    local_event_id=other.id,
                    remote_event_id=event.id,
                    node1_id=other.node_id,
                    node1_version=other.version,
                    node1_timestamp=other.timestamp,
                    node2_id=event.node_id,
                    node2_version=event.version,
                    node2_timestamp=event.timestamp,
                    strategy=settled,
                    resolved_version=None if settled is None else sum(state.clock.values()),
                    resolved_by=None if settled is None else node_id,
                    now=now,
                )
                count += row is not None
            here.append(event)
    return count
