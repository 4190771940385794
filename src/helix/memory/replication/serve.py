"""Bringing what memory serves into line with merged states: rows, search, graph, vectors."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from helix.memory import graph_store, service, store
from helix.memory.extraction import Extracted, FoundEntity, FoundRelation
from helix.memory.jobs import enqueue_embedding
from helix.memory.replication.merge import State, visible
from helix.memory.replication.store import QUERIES
from helix.memory.types import MemoryId
from helix.retrieval import analyse

__all__ = ["serve", "serve_waiting"]

WAITING_PAGE = 200


async def serve(
    conn: Connection, *, states: Mapping[UUID, State], before: Mapping[UUID, Any], embed: bool
) -> None:
    """Make living memories findable as they are now. `before` holds their states before the merge.

    Of memories of a user that say exactly the same (two nodes were told the same thing) the one
    with the lowest id is served; the others wait behind it, on every node alike.
    """
    shown = {i: seen for i, state in states.items() if (seen := visible(state)) is not None}
    owners = {i: before[i]["user_id"] for i in shown}
    chosen = await _choose(conn, shown=shown, owners=owners)
    if not chosen:
        return
    was = {row["id"]: row for row in await QUERIES.rows(conn, "served", ids=chosen)}
    await QUERIES.run(conn, "serve", ids=chosen)
    more = {i: shown[i]["access_count"] - before[i]["access_count"] for i in chosen if i in was}
    more = {i: delta for i, delta in more.items() if delta}
    if more:
        await QUERIES.run(conn, "add_uses", ids=list(more), deltas=list(more.values()))
    linked = {row["id"] for row in await QUERIES.rows(conn, "link_merged", ids=chosen)}
    await _derive(conn, ids=sorted({*chosen, *linked}), was=was, embed=embed)


async def _choose(
    conn: Connection, *, shown: Mapping[UUID, dict[str, Any]], owners: Mapping[UUID, UUID]
) -> list[UUID]:
    """Return which of the memories are to be served; those they push aside stand back."""
    ids = sorted(shown)
    rows = await QUERIES.rows(
        conn,
        "twins",
        ids=ids,
        user_ids=[owners[i] for i in ids],
        contents=[shown[i]["content"] for i in ids],
    )
    says: dict[tuple[UUID, str], UUID] = {}
    for i in ids:  # of the batch's own twins the lowest
        says.setdefault((owners[i], shown[i]["content"]), i)
    first = set(says.values())
    behind, aside = set(ids) - first, set()
    for row in rows:
        if row["twin"] in shown and shown[row["twin"]]["content"] != shown[row["id"]]["content"]:
            aside.add(row["twin"])  # about to say something else; served again below
        elif row["id"] in first and row["id"] < row["twin"]:
            aside.add(row["twin"])
        elif row["id"] in first and row["twin"] not in shown:
            behind.add(row["id"])
    gone = sorted(behind | aside)
    if gone:
        for memory_id in gone:
            await _drop_derived(conn, memory_id)
        await QUERIES.run(conn, "unserve", ids=gone)
    return [i for i in ids if i in first and i not in behind]


async def _drop_derived(conn: Connection, memory_id: UUID) -> None:
    """Take a memory's part out of the graph before its row goes."""
    for row in await QUERIES.rows(conn, "served", ids=[memory_id]):
        await graph_store.drop_ties(conn, user_id=row["user_id"], memory_id=MemoryId(memory_id))


async def _derive(
    conn: Connection, *, ids: Sequence[UUID], was: Mapping[UUID, Any], embed: bool
) -> None:
    """Make search rows, graph and vectors anew where what they come from has changed."""
    rows = await QUERIES.rows(conn, "served", ids=list(ids))
    retold = [row["id"] for row in rows if row["id"] in was and _told(was[row["id"]], row)[0]]
    if retold:
        await QUERIES.run(conn, "drop_vectors_of", ids=retold)
    for user_id in dict.fromkeys(row["user_id"] for row in rows):
        own = [row for row in rows if row["user_id"] == user_id]
        merged = [row["id"] for row in own if row["merged_into"] is not None]
        await store.drop_search_rows(conn, user_id=user_id, ids=merged)
        await store.put_search_rows(
            conn,
            user_id=user_id,
            analyses={
                row["id"]: analyse(row["content"], speaker=row["speaker"])
                for row in own
                if row["merged_into"] is None
            },
        )
        for row in own:
            if row["id"] in was and not any(_told(was[row["id"]], row)):
                continue
            if row["id"] in was:
                await graph_store.drop_ties(conn, user_id=user_id, memory_id=row["id"])
            found = _extracted(row)
            if found.entities or found.relations:
                await service.add_extracted(conn, user_id=user_id, memory_id=row["id"], found=found)
        if embed:
            await enqueue_embedding(conn, user_id=user_id)


def _told(was: Any, now_is: Any) -> tuple[bool, bool]:
    """Say whether the text changed, and whether what it speaks of did."""
    about = ("entities", "relationships")
    return was["content"] != now_is["content"], any(was[k] != now_is[k] for k in about)


def _extracted(row: Any) -> Extracted:
    entities = [e for e in row["entities"] if isinstance(e, dict) and e.get("name")]
    relations = [
        r
        for r in row["relationships"]
        if isinstance(r, dict) and r.get("subject") and r.get("predicate") and r.get("object")
    ]
    return Extracted(
        tuple(
            FoundEntity(str(e["name"])[:255], str(e.get("type", "thing"))[:100]) for e in entities
        ),
        tuple(
            FoundRelation(
                str(r["subject"])[:255], str(r["predicate"])[:255], str(r["object"])[:255]
            )
            for r in relations
        ),
    )


async def serve_waiting(
    conn: Connection, *, states: Mapping[UUID, State], owners: Mapping[UUID, UUID], embed: bool
) -> None:
    """Serve memories that waited behind another which says the same no more."""
    await QUERIES.run(conn, "replicating")
    await QUERIES.run(conn, "lock_states", ids=sorted(states))
    shown = {i: visible(state) for i, state in states.items()}
    before = {
        i: {"user_id": owners[i], "access_count": seen["access_count"]}
        for i, seen in shown.items()
        if seen is not None
    }
    await serve(conn, states={i: states[i] for i in before}, before=before, embed=embed)
