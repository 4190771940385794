"""Runs the statements of queries.sql; rows in, types out."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from helix.core.db import Connection, Queries
from helix.tasks.types import (
    ClaimedTask,
    DeadLetter,
    Event,
    Outcome,
    Priority,
    Status,
    Task,
    TaskId,
    WorkerId,
)

__all__ = ["QUERIES", "claim", "dead_letter_from", "event_from", "finish", "one", "task_from"]

QUERIES = Queries("helix.tasks")


async def one(conn: Connection, name: str, /, **values: object) -> Any:
    """Return the row of a statement that always has one."""
    row = await QUERIES.row(conn, name, **values)
    if row is None:
        raise RuntimeError(f"statement {name} returned no row")
    return row


def task_from(row: Any) -> Task:
    """Return the task that a row of `task_by_id` or `tasks_page` describes."""
    values = dict(row)
    values["status"] = Status(values["status"])
    values["priority"] = Priority(values["priority"])
    values["tags"] = tuple(values["tags"])
    return Task(**values)


def event_from(row: Any) -> Event:
    """Return the event that a row describes."""
    return Event(
        id=row["id"],
        task_id=TaskId(row["task_id"]),
        user_id=row["user_id"],
        event_type=row["event_type"],
        data=row["data"],
        created_at=row["created_at"],
    )


def dead_letter_from(row: Any) -> DeadLetter:
    """Return the dead letter that a row describes."""
    return DeadLetter(**dict(row))


async def claim(
    conn: Connection,
    *,
    worker_id: WorkerId,
    queues: Sequence[str] | None,
    types: Sequence[str],
    max_count: int,
    begin_count: int,
    suspects: int,
) -> list[ClaimedTask]:
    """Lease up to `max_count` ready tasks, most urgent first; see helix_tasks_claim."""
    rows = await QUERIES.rows(
        conn,
        "claim_tasks",
        worker_id=worker_id,
        queues=queues,
        types=types,
        max_count=max_count,
        begin_count=begin_count,
        suspects=suspects,
    )
    return [
        ClaimedTask(
            id=row[0],
            task_type=row[1],
            begun=row[2] == "running",
            payload=row[3],
            checkpoint=row[5],
            user_id=row[6],
            fencing_token=row[7],
            attempt=row[8],
            retry_count=row[9],
            max_retries=row[10],
            retry_delay_s=row[11],
            deadline=row[12],
            spend_cap_usd=row[13],
            created_at=row[14],
            correlation_id=row[15],
            parent_task_id=row[16],
            lost_count=row[17],
        )
        for row in rows
    ]


async def finish(
    conn: Connection, *, worker_id: WorkerId, outcomes: Sequence[Outcome]
) -> set[UUID]:
    """End attempts in one statement; return the ids of those the worker still held."""
    rows = await QUERIES.rows(
        conn,
        "finish_tasks",
        worker_id=worker_id,
        ids=[o.id for o in outcomes],
        tokens=[o.fencing_token for o in outcomes],
        statuses=_unless([o.status.value for o in outcomes], Status.COMPLETED.value),
        results=_unless([o.result for o in outcomes], None),
        errors=_unless([o.error for o in outcomes], None),
        stacks=_unless([o.stack for o in outcomes], None),
        delays=_unless([o.delay_s for o in outcomes], 0.0),
        counts=_unless([o.counts for o in outcomes], True),
    )
    return {row[0] for row in rows}


def _unless(values: list[Any], usual: object) -> list[Any] | None:
    """Return the list, or None when all of it is `usual`: encoding it costs more than looking."""
    return values if values.count(usual) < len(values) else None
