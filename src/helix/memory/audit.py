"""Looking over a user's memories: what says the same, what contradicts, what was never of use."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from helix.core.db import Connection
from helix.memory import graph_store, store
from helix.memory.errors import NothingToUndo
from helix.memory.policy import contradictions, junk_score, near_duplicates
from helix.memory.types import AuditReport, Change, MemoryId
from helix.retrieval import analyse

__all__ = ["apply_audit", "audit", "undo"]

LOOKED_AT_MAX = 10_000
LISTED_MAX = 1_000
JUNK_FROM = 0.5


async def audit(conn: Connection, *, user_id: UUID) -> AuditReport:
    """Return what is worth mending among the user's newest 10,000 memories. Changes nothing."""
    candidates = await graph_store.audit_candidates(
        conn, user_id=user_id, max_count=LOOKED_AT_MAX + 1
    )
    complete = len(candidates) <= LOOKED_AT_MAX
    candidates = candidates[:LOOKED_AT_MAX]
    duplicates = near_duplicates(candidates)
    dropped = {pair.drop for pair in duplicates}
    told = [
        s for s in await graph_store.statements(conn, user_id=user_id) if s.memory_id not in dropped
    ]
    scores = [(c.id, junk_score(c)) for c in candidates]
    return AuditReport(
        looked_at=len(candidates),
        complete=complete,
        duplicates=duplicates[:LISTED_MAX],
        contradictions=contradictions(told)[:LISTED_MAX],
        never_used=[c.id for c in candidates if c.access_count + c.use_count == 0][:LISTED_MAX],
        junk=sorted((s for s in scores if s[1] >= JUNK_FROM), key=lambda s: (-s[1], s[0].int))[
            :LISTED_MAX
        ],
    )


async def apply_audit(
    conn: Connection, *, user_id: UUID, report: AuditReport, batch_id: UUID
) -> AuditReport:
    """Merge the near-duplicates and end what a newer memory contradicts, as one batch.

    Nothing is erased, and `undo` takes all of it back. What has changed since the report was made
    is passed over. Returns the report with the batch and its counts.
    """
    merged: list[MemoryId] = []
    for pair in report.duplicates:
        taken = await graph_store.merge(
            conn, user_id=user_id, batch_id=batch_id, memory_id=pair.drop, into_id=pair.keep
        )
        if taken:
            merged.append(pair.drop)
    ended: list[MemoryId] = []
    for one in report.contradictions:
        done = await graph_store.end_validity(
            conn, user_id=user_id, batch_id=batch_id, memory_id=one.older, ends_at=one.ends_at
        )
        if done:
            ended.append(one.older)
    await store.drop_search_rows(conn, user_id=user_id, ids=merged)
    await store.sync_search_ends(conn, user_id=user_id, ids=ended)
    return replace(
        report,
        batch_id=batch_id if merged or ended else None,
        merged=len(merged),
        ended=len(ended),
    )


async def undo(
    conn: Connection, *, user_id: UUID, batch_id: UUID | None = None, now: datetime
) -> Sequence[MemoryId]:
    """Take back a batch, the newest without `batch_id`; return the memories that are as before.

    Raises NothingToUndo.
    """
    chosen = batch_id or await graph_store.last_batch(conn, user_id=user_id)
    if chosen is None:
        raise NothingToUndo
    changes = await graph_store.take_back(conn, user_id=user_id, batch_id=chosen, now=now)
    if not changes:
        raise NothingToUndo
    merged = [i for i, change, _ in changes if change == Change.MERGED]
    alive = await graph_store.unmerge(conn, user_id=user_id, ids=merged)
    analyses = {i: analyse(content, speaker=speaker) for i, content, speaker in alive}
    await store.put_search_rows(conn, user_id=user_id, analyses=analyses)
    ended = [(i, valid_to) for i, change, valid_to in changes if change == Change.ENDED]
    for memory_id, valid_to in ended:
        await graph_store.unend(conn, user_id=user_id, memory_id=memory_id, valid_to=valid_to)
    await store.sync_search_ends(conn, user_id=user_id, ids=[i for i, _ in ended])
    return [i for i, _, _ in changes]
