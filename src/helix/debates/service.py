"""The verbs of debates for everyone but the engine: start, look, watch, cancel; and panels.

Each takes a connection in the caller's transaction and never commits. As `helix_app` it sees and
touches the tenant's debates only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from helix.core.db import Connection
from helix.debates import store
from helix.debates.errors import DebateEnded, DebateNotFound, PanelNotFound
from helix.debates.store import QUERIES
from helix.debates.types import (
    CodeVersion,
    Debate,
    DebateId,
    DebateSpec,
    Event,
    EventType,
    Status,
    Summary,
)
from helix.tasks import NewTask, TaskId, Unique, WrongState, enqueue
from helix.tasks import cancel as cancel_task

__all__ = [
    "EVENTS_MAX",
    "PAGE_MAX",
    "TASK_TYPE",
    "Kind",
    "Panel",
    "best_strategies",
    "cancel",
    "events_of",
    "find_for_request",
    "get",
    "get_panel",
    "list_debates",
    "list_panels",
    "put_panel",
    "record_code",
    "remove_panel",
    "start",
    "value",
]

PAGE_MAX = 1_000
EVENTS_MAX = 1_000
TASK_TYPE = "debates.run"
RETRIES_MAX = 100
"""A debate goes on after a worker's death, a drain or an outage; its own limits end it."""
RETRY_DELAY_S = 2

Kind = Literal["ensemble", "debate"]


@dataclass(frozen=True, slots=True)
class Panel:
    """A named set of models that answer together; `user_id` None is for everybody."""

    id: UUID
    user_id: UUID | None
    kind: str
    name: str
    config: dict[str, Any]
    created_at: datetime
    updated_at: datetime


async def start(
    conn: Connection,
    *,
    spec: DebateSpec,
    debate_id: DebateId,
    created_by: UUID,
    now: datetime,
    request_id: UUID | None = None,
    panel: str | None = None,
) -> Debate:
    """Write a debate and enqueue the task that holds it, in one transaction.

    `spec` has been checked (`read_spec`). It runs as soon as the transaction commits and a worker
    is free. Raises whatever the schema refuses as BadInput (a project that is not the caller's).
    """
    await store.insert_debate(
        conn,
        debate_id=debate_id,
        created_by=created_by,
        spec=spec,
        request_id=request_id,
        panel=panel,
        now=now,
    )
    made = await enqueue(
        conn,
        NewTask(
            task_type=TASK_TYPE,
            payload={"debate_id": str(debate_id)},
            user_id=created_by,
            project_id=spec.project_id,
            session_id=spec.session_id,
            unique=Unique(str(debate_id)),
            correlation_id=str(debate_id),
            task_name=spec.topic[:100],
            max_retries=RETRIES_MAX,
            retry_delay_s=RETRY_DELAY_S,
        ),
    )
    await QUERIES.run(conn, "set_task", id=debate_id, task_id=made.id)
    return await get(conn, debate_id=debate_id)


async def get(conn: Connection, *, debate_id: DebateId) -> Debate:
    """Return a debate with all that was said; raises DebateNotFound."""
    debate = await store.load(conn, debate_id=debate_id)
    if debate is None:
        raise DebateNotFound(debate_id)
    return debate


async def find_for_request(conn: Connection, *, request_id: UUID) -> DebateId | None:
    """Return the debate that answers a request, or None."""
    row = await QUERIES.row(conn, "debate_for_request", request_id=request_id)
    return None if row is None else DebateId(row["id"])


async def list_debates(
    conn: Connection,
    *,
    status: Status | None = None,
    before: DebateId | None = None,
    max_count: int = 50,
) -> list[Summary]:
    """Return debates, newest first; the last one's id is `before` of the next page."""
    rows = await QUERIES.rows(
        conn,
        "debates_page",
        status=status.value if status else None,
        before=before,
        max_count=min(max_count, PAGE_MAX),
    )
    return [store.summary_from(row) for row in rows]


async def events_of(
    conn: Connection, *, debate_id: DebateId, after: int = 0, max_count: int = EVENTS_MAX
) -> list[Event]:
    """Return the course of a debate in order, the events after `after` only."""
    rows = await QUERIES.rows(
        conn,
        "events_of_debate",
        debate_id=debate_id,
        after=after,
        max_count=min(max_count, EVENTS_MAX),
    )
    return [store.event_from(row) for row in rows]


async def positions_of(
    conn: Connection, *, debate_ids: Sequence[UUID]
) -> dict[UUID, tuple[Status, int]]:
    """Return the status and the newest event of each of these debates that can be seen."""
    rows = await QUERIES.rows(conn, "positions_of_debates", ids=list(debate_ids))
    return {row["id"]: (Status(row["status"]), row["event_count"]) for row in rows}


async def cancel(conn: Connection, *, debate_id: DebateId, now: datetime) -> Debate:
    """Call a debate off, also while it runs; what it has paid for stays recorded.

    Its task is cancelled in the same transaction, so nothing more is written and, within a second,
    no more is asked. Raises DebateNotFound, DebateEnded.
    """
    debate = await get(conn, debate_id=debate_id)
    # The task first: its row is what a turn that is being committed holds.
    if debate.task_id is not None:
        try:
            await cancel_task(
                conn, task_id=TaskId(debate.task_id), reason="the debate is cancelled"
            )
        except WrongState as exc:
            debate = await get(conn, debate_id=debate_id)
            if debate.status in {Status.COMPLETED, Status.FAILED, Status.CANCELLED}:
                raise DebateEnded(debate_id, debate.status.value) from exc
    await store.append_event(conn, debate_id=debate_id, event_type=EventType.CANCELLED, now=now)
    row = await QUERIES.row(conn, "cancel_debate", id=debate_id, now=now)
    if row is None:
        debate = await get(conn, debate_id=debate_id)
        raise DebateEnded(debate_id, debate.status.value)
    await QUERIES.run(
        conn, "break_off_rounds", debate_id=debate_id, status=Status.CANCELLED.value, now=now
    )
    return await get(conn, debate_id=debate_id)


async def record_code(
    conn: Connection,
    *,
    debate_id: DebateId,
    version: CodeVersion,
    now: datetime,
    round_number: int | None = None,
) -> int:
    """Tie a commit to a debate; return its number in it. Its tests count when they were run."""
    results = version.test_results
    rate = None
    if results.get("total"):
        rate = round(results["passed"] / results["total"], 4)
    row = await QUERIES.row(
        conn,
        "insert_code_version",
        debate_id=debate_id,
        round_number=round_number,
        version_hash=version.version_hash,
        branch=version.branch,
        commit_message=version.commit_message,
        files_changed=list(version.files_changed),
        diff_summary=version.diff_summary,
        validation_status=version.validation_status,
        test_results=results,
        test_pass_rate=rate,
        now=now,
    )
    if row is None:
        raise DebateNotFound(debate_id)
    return int(row["version_number"])


async def value(
    conn: Connection, *, debate_id: DebateId | None = None, max_count: int = 50
) -> list[dict[str, Any]]:
    """Return what debates changed and cost (the view debate_value), the newest completed first."""
    rows = await QUERIES.rows(
        conn, "value_of_debates", debate_id=debate_id, max_count=min(max_count, PAGE_MAX)
    )
    return [dict(row) for row in rows]


async def best_strategies(
    conn: Connection,
    *,
    position: str | None = None,
    attempts_min: int = 3,
    max_count: int = 20,
) -> list[dict[str, Any]]:
    """Return what wins debates, by success rate, where at least `attempts_min` were held."""
    rows = await QUERIES.rows(
        conn,
        "best_strategies",
        position=position,
        attempts_min=attempts_min,
        max_count=min(max_count, PAGE_MAX),
    )
    return [dict(row) for row in rows]


# ---- panels --------------------------------------------------------------------------------------


async def put_panel(
    conn: Connection, *, user_id: UUID | None, kind: Kind, name: str, config: Mapping[str, Any]
) -> Panel:
    """Store a panel, replacing one of the same owner, kind and name. `config` has been checked."""
    row = await QUERIES.row(
        conn, "put_panel", user_id=user_id, kind=kind, name=name, config=dict(config)
    )
    if row is None:
        raise PanelNotFound(kind, name)
    return Panel(**dict(row))


async def get_panel(conn: Connection, *, user_id: UUID | None, kind: Kind, name: str) -> Panel:
    """Return a user's own panel, else the shared one; raises PanelNotFound."""
    row = await QUERIES.row(conn, "find_panel", user_id=user_id, kind=kind, name=name)
    if row is None:
        raise PanelNotFound(kind, name)
    return Panel(**dict(row))


async def list_panels(
    conn: Connection, *, user_id: UUID | None = None, kind: Kind | None = None
) -> list[Panel]:
    """Return the panels a user may call, or, without one, all there are; PAGE_MAX at most."""
    rows = await QUERIES.rows(conn, "panels_page", user_id=user_id, kind=kind, max_count=PAGE_MAX)
    return [Panel(**dict(row)) for row in rows]


async def remove_panel(conn: Connection, *, user_id: UUID | None, kind: Kind, name: str) -> None:
    """Remove a panel of this owner; raises PanelNotFound."""
    if await QUERIES.row(conn, "delete_panel", user_id=user_id, kind=kind, name=name) is None:
        raise PanelNotFound(kind, name)
