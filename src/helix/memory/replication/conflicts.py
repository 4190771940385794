"""Conflicts: what did not know of each other, seen and settled."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from helix.core.errors import BadInput
from helix.core.errors import Conflict as WrongState
from helix.memory import service
from helix.memory.replication.errors import ConflictNotFound
from helix.memory.replication.store import QUERIES, events_by_memory
from helix.memory.replication.types import Conflict, Event
from helix.memory.types import MemoryId, Patch

__all__ = ["conflict_shown", "conflict_stats", "list_conflicts", "resolve_conflict"]

PAGE_MAX = 500


async def list_conflicts(
    conn: Connection,
    *,
    open_only: bool = False,
    user_id: UUID | None = None,
    after_id: UUID | None = None,
    max_count: int = 100,
) -> list[Conflict]:
    """Return conflicts, newest first, at most 500."""
    rows = await QUERIES.rows(
        conn,
        "conflicts",
        open=open_only,
        user_id=user_id,
        after_id=after_id,
        max_count=min(max_count, PAGE_MAX),
    )
    return [Conflict(**dict(row)) for row in rows]


async def _conflict(conn: Connection, conflict_id: UUID) -> Conflict:
    row = await QUERIES.row(conn, "conflict", id=conflict_id)
    if row is None:
        raise ConflictNotFound(conflict_id)
    return Conflict(**dict(row))


async def _both(conn: Connection, found: Conflict) -> dict[str, Event | None]:
    events = await events_by_memory(conn, ids=[found.memory_id])
    by_id = {event.id: event for event in events[found.memory_id]}
    return {
        "local": by_id.get(found.local_event_id),
        "remote": by_id.get(found.remote_event_id),
    }


async def conflict_shown(conn: Connection, *, conflict_id: UUID) -> dict[str, Any]:
    """Return a conflict with what each side said and what holds now. Raises ConflictNotFound.

    A side whose memory was forgotten, or whose month was dropped, has nothing to say.
    """
    found = await _conflict(conn, conflict_id)
    sides = await _both(conn, found)
    kept = await QUERIES.rows(conn, "served", ids=[found.memory_id])
    return {
        **asdict(found),
        **{
            side: None
            if event is None or event.redacted
            else {
                name: value
                for name in (
                    "node_id", "version", "timestamp", "content", "importance", "tags",
                    "entities", "relationships", "removed", "metadata", "fields",
                )
                if (value := getattr(event, name)) not in (None, [], {})
            }
            for side, event in sides.items()
        },
        "holds": kept[0]["content"] if kept else None,
    }  # fmt: skip


async def resolve_conflict(
    conn: Connection,
    *,
    conflict_id: UUID,
    keep: str | None,
    content: str | None,
    resolved_by: str,
    now: datetime,
) -> Conflict:
    """Settle a conflict: `keep` the wording of `local` or `remote`, or write `content`; with
    neither, accept what the merge made of it.

    A wording that is not what holds becomes a change of this node, which has seen both sides and
    so wins everywhere. Raises ConflictNotFound, BadInput, or what changing a memory raises.
    """
    found = await _conflict(conn, conflict_id)
    if keep is not None and content is not None:
        raise BadInput("keep one side or give a text, not both", param="keep")
    if keep is not None:
        event = (await _both(conn, found)).get(keep)
        if event is None or event.content is None:
            raise WrongState(f"the {keep} side of conflict {conflict_id} has no text to keep")
        content = event.content
    served = await QUERIES.rows(conn, "served", ids=[found.memory_id])
    if content is not None:
        if not served:
            raise WrongState(f"memory {found.memory_id} is not served: it was forgotten")
        if served[0]["content"] != content:
            await service.change_memory(
                conn,
                user_id=found.user_id,
                memory_id=MemoryId(found.memory_id),
                patch=Patch(content=content),
            )
    strategy = "custom" if content is not None else "last_write_wins"
    if content is None and found.conflict_type == "concurrent_update":
        strategy = "merge_all"
    await QUERIES.run(
        conn,
        "settle_conflict",
        id=conflict_id,
        strategy=strategy,
        resolved_by=resolved_by,
        now=now,
    )
    return await _conflict(conn, conflict_id)


async def conflict_stats(conn: Connection) -> list[dict[str, Any]]:
    """Return how often nodes disagreed, by kind, and how it ended."""
    return [dict(row) for row in await QUERIES.rows(conn, "conflict_stats")]
