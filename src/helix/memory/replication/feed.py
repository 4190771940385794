"""The feed of a node's events, and what other nodes have read of it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from helix.memory.replication.policy import BATCH_MAX
from helix.memory.replication.store import QUERIES, event_from
from helix.memory.replication.types import Account, Batch, Mark

__all__ = ["acknowledge", "kept_position", "position", "read_feed"]

BATCH_CHARS_MAX = 4_000_000
_FIRST = UUID(int=0)


async def beginning(conn: Connection) -> tuple[Mark, int]:
    """Return the mark before every event of this database, and its next transaction's number."""
    row = await QUERIES.row(conn, "feed_name")
    if row is None:
        raise RuntimeError("PostgreSQL tells nothing of itself")
    return Mark(row["feed"], 0, _FIRST), row["ends"]


async def position(conn: Connection, *, after: Mark | None) -> Mark:
    """Return where to read on. A mark of another database, or of a future that a restore undid,
    begins anew: what is known already is told again and passed over."""
    start, ends = await beginning(conn)
    if after is None or after.feed != start.feed or after.xact >= ends:
        return start
    return after


async def read_feed(
    conn: Connection,
    *,
    node_id: str,
    reader: str,
    after: Mark | None,
    max_count: int,
    now: datetime,
) -> Batch:
    """Return what `reader` has not read yet, oldest first, at most `max_count` events, but not its
    own. An event appears once no earlier one can appear any more, so none is skipped."""
    mark = await position(conn, after=after)
    most = min(max_count, BATCH_MAX)
    rows = await QUERIES.rows(
        conn, "feed", xact=str(mark.xact), event_id=mark.event_id, not_from=reader, max_count=most
    )
    fetched, rows = len(rows), _bounded(rows)
    accounts = {str(row["user_id"]): Account(row["email"], row["name"]) for row in rows}
    if rows:
        mark = Mark(mark.feed, rows[-1]["xact"], rows[-1]["id"])
    lag = (now - rows[0]["timestamp"]).total_seconds() * 1000 if rows else 0
    return Batch(
        node_id=node_id,
        mark=str(mark),
        events=[event_from(row) for row in rows],
        accounts=accounts,
        more=fetched == most or len(rows) < fetched,
        lag_ms=max(0, round(lag)),
    )


def _bounded(rows: list[Any]) -> list[Any]:
    """Return as many of the first rows as hold BATCH_CHARS_MAX of text, at least one."""
    held = 0
    for at, row in enumerate(rows):
        held += len(row["content"] or "")
        if held > BATCH_CHARS_MAX and at > 0:
            return rows[:at]
    return rows


async def kept_position(conn: Connection, *, source: str, target: str) -> Mark | None:
    """Return how far `target` has read what `source` wrote."""
    row = await QUERIES.row(conn, "position", source=source, target=target)
    if row is None or row["feed"] is None or row["last_event_id"] is None:
        return None
    return Mark(row["feed"], row["xact"], row["last_event_id"])


async def acknowledge(
    conn: Connection, *, node_id: str, reader: str, mark: Mark, now: datetime
) -> None:
    """Note that `reader` holds everything of this node's feed up to `mark`.

    Memories of which it has the newest event are marked as replicated to it.
    """
    start, ends = await beginning(conn)
    if mark.feed != start.feed or mark.xact >= ends:
        return
    before = await kept_position(conn, source=node_id, target=reader)
    if before is None or before.feed != start.feed:
        before = start
    if (mark.xact, mark.event_id) > (before.xact, before.event_id):
        await QUERIES.run(
            conn,
            "mark_replicated",
            from_xact=str(before.xact),
            from_id=before.event_id,
            xact=str(mark.xact),
            event_id=mark.event_id,
            node_id=reader,
        )
    else:
        mark = before
    pending = await QUERIES.row(
        conn, "pending", xact=str(mark.xact), event_id=mark.event_id, node_id=reader
    )
    waiting = 0 if pending is None else int(pending["pending"])
    await QUERIES.run(
        conn,
        "put_position",
        source=node_id,
        target=reader,
        status="synced" if waiting == 0 else "syncing",
        feed=mark.feed,
        xact=str(mark.xact),
        event_id=mark.event_id,
        pending=waiting,
        lag_ms=0,
        now=now,
    )
