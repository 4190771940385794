"""The verbs of the task queue for everyone but workers: enqueue, look, cancel, pause, redrive.

Each takes a connection in the caller's transaction and never commits: a task exists if and only if
the data it concerns does. As `helix_app` it sees and touches the tenant's tasks only.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import asyncpg
import msgspec

from helix.core.db import Connection
from helix.tasks.errors import (
    BadPayload,
    BadTask,
    DependencyEnded,
    PayloadTooLarge,
    TaskNotFound,
    WrongState,
)
from helix.tasks.policy import check_webhook_url, unique_key
from helix.tasks.store import QUERIES, dead_letter_from, event_from, one, task_from
from helix.tasks.types import (
    ENDED,
    DeadLetter,
    Enqueued,
    Event,
    HeldWhile,
    NewTask,
    Status,
    Task,
    TaskId,
    Unique,
)

__all__ = [
    "BATCH_MAX",
    "PAGE_MAX",
    "PAYLOAD_BYTES_MAX",
    "attempts_of",
    "cancel",
    "dead_letter_counts",
    "dead_letters",
    "enqueue",
    "enqueue_many",
    "events_of",
    "get_task",
    "list_tasks",
    "pause",
    "pause_scope",
    "redrive",
    "redrive_many",
    "resume",
    "resume_scope",
    "retry",
    "samples_of",
    "schedules",
    "stats",
    "workers",
]

PAYLOAD_BYTES_MAX = 1_000_000
BATCH_MAX = 100_000
SAMPLES_MAX = 20
PAGE_MAX = 1_000
RETRIES_MAX = 1_000
DEPENDENCIES_MAX = 1_000
_DELAY_S_MAX = 604_800


async def enqueue(
    conn: Connection, task: NewTask, *, allowed_hosts: Sequence[str] = ()
) -> Enqueued:
    """Enqueue one task in the caller's transaction.

    With a unique key that another task holds, nothing is made and that task's id is returned; a
    concurrent transaction taking the same key is waited for. Raises TaskNotFound or DependencyEnded
    for `after`, and BadTask, BadPayload, PayloadTooLarge or WebhookRefused.
    """
    record = _record(task, allowed_hosts)
    if task.unique is not None or task.after:
        row = await one(conn, "new_id")
        user_id = task.user_id or row["tenant"]
        record["given_id"] = row["id"]
        if task.unique is not None:
            holder = await _take_key(conn, task, task.unique, user_id=user_id, task_id=row["id"])
            if holder is not None:
                return Enqueued(holder, created=False)
            record["unique_key"] = unique_key(
                user_id=user_id, task_type=task.task_type, key=task.unique.key
            )
        if task.after:
            waiting = await _open_dependencies(conn, task.after)
            record["blocked_by"] = len(waiting)
            await QUERIES.run(
                conn, "insert_dependencies", task_id=row["id"], user_id=user_id, after_ids=waiting
            )
    [task_id] = await _insert(conn, [record])
    return Enqueued(task_id, created=True)


async def enqueue_many(
    conn: Connection, tasks: Sequence[NewTask], *, allowed_hosts: Sequence[str] = ()
) -> list[Enqueued]:
    """Enqueue tasks, in order, in the caller's transaction; at most BATCH_MAX.

    Plain tasks go in by one statement; those with a unique key or `after` one by one. Raises as
    `enqueue` does, and then the caller's transaction must be rolled back.
    """
    if len(tasks) > BATCH_MAX:
        raise BadTask(f"at most {BATCH_MAX} tasks can be enqueued at once, not {len(tasks)}")
    found: list[Enqueued] = []
    plain: list[dict[str, Any]] = []
    for task in tasks:
        if task.unique is None and not task.after:
            plain.append(_record(task, allowed_hosts))
            continue
        found += [Enqueued(task_id, created=True) for task_id in await _insert(conn, plain)]
        plain = []
        found.append(await enqueue(conn, task, allowed_hosts=allowed_hosts))
    found += [Enqueued(task_id, created=True) for task_id in await _insert(conn, plain)]
    return found


def _record(task: NewTask, allowed_hosts: Sequence[str]) -> dict[str, Any]:
    if not 0 <= task.max_retries <= RETRIES_MAX:
        raise BadTask(f"max_retries is 0 to {RETRIES_MAX}", param="max_retries")
    if not 0 <= task.retry_delay_s <= _DELAY_S_MAX:
        raise BadTask(f"retry_delay_s is 0 to {_DELAY_S_MAX}", param="retry_delay_s")
    if len(task.after) > DEPENDENCIES_MAX:
        raise BadTask(f"a task may wait for at most {DEPENDENCIES_MAX} others", param="after")
    payload = msgspec.json.encode(task.payload, enc_hook=str)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"the payload has {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX}", param="payload"
        )
    record: dict[str, Any] = {"task_type": task.task_type, "payload": msgspec.Raw(payload)}
    if task.queue != "default":
        record["queue"] = task.queue
    if task.priority != "normal":
        record["priority"] = task.priority
    if task.max_retries != 3:
        record["max_retries"] = task.max_retries
    if task.retry_delay_s != 60:
        record["retry_delay_s"] = task.retry_delay_s
    for name in ("task_name", "user_id", "session_id", "project_id", "correlation_id",
                 "parent_task_id", "scheduled_at", "deadline", "spend_cap_usd"):  # fmt: skip
        if (value := getattr(task, name)) is not None:
            record[name] = value
    if task.tags:
        record["tags"] = task.tags
    if task.webhook_url is not None:
        check_webhook_url(task.webhook_url, allowed_hosts=allowed_hosts)
        record["notification"] = {"url": task.webhook_url}
        if task.webhook_events is not None:
            record["notification"]["events"] = task.webhook_events
    return record


async def _insert(conn: Connection, records: list[dict[str, Any]]) -> list[TaskId]:
    if not records:
        return []
    try:
        rows = await QUERIES.rows(conn, "enqueue_tasks", tasks=records)
    except asyncpg.UntranslatableCharacterError as exc:
        raise BadPayload(
            "the payload holds a character that PostgreSQL cannot keep (U+0000)", param="payload"
        ) from exc
    return [row["id"] for row in rows]


async def _take_key(
    conn: Connection, task: NewTask, unique: Unique, *, user_id: UUID | None, task_id: TaskId
) -> TaskId | None:
    """Hold the key for `task_id`; return the id of the task that holds it instead, if one does."""
    if (unique.held_while is HeldWhile.PERIOD) != (unique.period_s is not None):
        raise BadTask("period_s goes with held_while=period and only with it", param="unique")
    key = unique_key(user_id=user_id, task_type=task.task_type, key=unique.key)
    while True:
        taken = await QUERIES.row(
            conn,
            "take_unique_key",
            key=key,
            user_id=user_id,
            task_id=task_id,
            held_while=unique.held_while.value,
            period_s=unique.period_s,
        )
        if taken is not None:
            return None
        holder = await QUERIES.row(conn, "unique_key_holder", key=key)
        if holder is not None:
            return TaskId(holder["task_id"])


async def _open_dependencies(conn: Connection, after: Sequence[TaskId]) -> list[UUID]:
    wanted = sorted(set(after))
    rows = await QUERIES.rows(conn, "lock_dependencies", ids=wanted)
    states = {row["id"]: Status(row["status"]) for row in rows}
    for task_id in wanted:
        if task_id not in states:
            raise TaskNotFound(f"there is no task {task_id} to wait for", param="after")
        if states[task_id] in ENDED and states[task_id] is not Status.COMPLETED:
            raise DependencyEnded(f"task {task_id} ended as {states[task_id]}", param="after")
    return [task_id for task_id in wanted if states[task_id] is not Status.COMPLETED]


async def get_task(conn: Connection, *, task_id: TaskId) -> Task:
    """Return a task; raises TaskNotFound."""
    row = await QUERIES.row(conn, "task_by_id", id=task_id)
    if row is None:
        raise TaskNotFound(f"there is no task {task_id}")
    return task_from(row)


async def list_tasks(
    conn: Connection,
    *,
    status: Status | None = None,
    task_type: str | None = None,
    queue: str | None = None,
    parent_id: TaskId | None = None,
    before: TaskId | None = None,
    max_count: int = 50,
) -> list[Task]:
    """Return tasks, newest first; the last one's id is `before` of the next page."""
    rows = await QUERIES.rows(
        conn,
        "tasks_page",
        status=status.value if status else None,
        task_type=task_type,
        queue=queue,
        parent_id=parent_id,
        before=before,
        max_count=min(max_count, PAGE_MAX),
    )
    return [task_from(row) for row in rows]


async def attempts_of(conn: Connection, *, task_id: TaskId) -> list[dict[str, Any]]:
    """Return the finished attempts of a task, oldest first."""
    return [dict(row) for row in await QUERIES.rows(conn, "attempts_of_task", task_id=task_id)]


async def samples_of(
    conn: Connection, *, task_id: TaskId, max_count: int = SAMPLES_MAX
) -> list[dict[str, Any]]:
    """Return the newest samples of what a task's worker used while it ran; see resources.py."""
    rows = await QUERIES.rows(
        conn, "samples_of_task", task_id=task_id, max_count=min(max_count, PAGE_MAX)
    )
    return [dict(row) for row in rows]


async def events_of(
    conn: Connection, *, task_id: TaskId, after: UUID | None = None, max_count: int = PAGE_MAX
) -> list[Event]:
    """Return the events of a task in order, those after event `after` only."""
    rows = await QUERIES.rows(
        conn, "events_of_task", task_id=task_id, after=after, max_count=min(max_count, PAGE_MAX)
    )
    return [event_from(row) for row in rows]


async def _change(conn: Connection, statement: str, task_id: TaskId, **values: Any) -> None:
    """Run a guarded change of state; raises TaskNotFound or WrongState when it changes nothing."""
    if await QUERIES.row(conn, statement, id=task_id, **values) is not None:
        return
    row = await QUERIES.row(conn, "status_of", id=task_id)
    if row is None:
        raise TaskNotFound(f"there is no task {task_id}")
    verb = statement.partition("_")[0]
    raise WrongState(f"task {task_id} is {row['status']}: that cannot be undone by {verb}")


async def cancel(conn: Connection, *, task_id: TaskId, reason: str | None = None) -> None:
    """Call a task off, also while it runs: what its worker does from now on is not recorded.

    The worker is told within a second and cancels the handler. Raises TaskNotFound, WrongState.
    """
    await _change(conn, "cancel_task", task_id, reason=reason)


async def pause(conn: Connection, *, task_id: TaskId, reason: str | None = None) -> None:
    """Hold a task back, also while it runs (its checkpoint is kept). Raises as `cancel`."""
    await _change(conn, "pause_task", task_id, reason=reason)


async def resume(
    conn: Connection, *, task_id: TaskId, spend_cap_usd: Decimal | None = None
) -> None:
    """Let a paused task go on, with a higher spend cap if given. Raises as `cancel`."""
    await _change(conn, "resume_task", task_id, spend_cap_usd=spend_cap_usd)


async def retry(conn: Connection, *, task_id: TaskId) -> TaskId:
    """Run a task that failed, was cancelled or died once more; return the id it runs under.

    A dead letter is redriven as a new task. Raises TaskNotFound, WrongState.
    """
    row = await QUERIES.row(conn, "status_of", id=task_id)
    if row is not None and row["status"] == Status.DEAD_LETTER:
        return (await redrive(conn, dead_letter_id=task_id)).id
    await _change(conn, "retry_task", task_id)
    return task_id


async def redrive(conn: Connection, *, dead_letter_id: UUID) -> Enqueued:
    """Enqueue a dead letter (named by its own or its task's id) anew, once.

    Pressed twice, also at the same time, it returns the same task. Raises TaskNotFound.
    """
    row = await QUERIES.row(conn, "lock_dead_letter", id=dead_letter_id)
    if row is None:
        raise TaskNotFound(f"there is no dead letter {dead_letter_id}")
    if row["redriven_task_id"] is not None:
        return Enqueued(TaskId(row["redriven_task_id"]), created=False)
    new = NewTask(
        task_type=row["task_type"],
        payload=row["payload"],
        priority=row["priority"],
        user_id=row["user_id"],
        project_id=row["project_id"],
        correlation_id=str(row["original_task_id"]),
    )
    before = await QUERIES.row(conn, "queue_of_task", id=row["original_task_id"])
    if before is not None:
        new = replace(
            new,
            queue=before["queue"],
            max_retries=before["max_retries"],
            retry_delay_s=before["retry_delay_seconds"],
        )
    made = await enqueue(conn, new)
    await QUERIES.row(conn, "mark_redriven", id=row["id"], task_id=made.id)
    return made


async def dead_letters(
    conn: Connection,
    *,
    task_type: str | None = None,
    waiting_only: bool = False,
    max_count: int = 50,
) -> list[DeadLetter]:
    """Return dead letters, newest first; `waiting_only` leaves out those already redriven."""
    rows = await QUERIES.rows(
        conn,
        "dead_letters_page",
        task_type=task_type,
        waiting_only=waiting_only,
        max_count=min(max_count, PAGE_MAX),
    )
    return [dead_letter_from(row) for row in rows]


async def redrive_many(
    conn: Connection, *, task_type: str | None = None, max_count: int = PAGE_MAX
) -> list[Enqueued]:
    """Redrive the newest dead letters that have not been; at most PAGE_MAX."""
    found = await dead_letters(conn, task_type=task_type, waiting_only=True, max_count=max_count)
    return [await redrive(conn, dead_letter_id=letter.id) for letter in found]


async def pause_scope(conn: Connection, *, scope: Literal["queue", "type"], name: str) -> None:
    """Stop claiming from a queue or of a type; what runs, runs on. Needs the operator's role."""
    await QUERIES.row(conn, "set_paused", scope=scope, name=name, paused=True)


async def resume_scope(conn: Connection, *, scope: Literal["queue", "type"], name: str) -> None:
    """Claim again, and wake the workers. Needs the operator's role."""
    await QUERIES.row(conn, "set_paused", scope=scope, name=name, paused=False)
    await QUERIES.row(conn, "wake_workers")


async def dead_letter_counts(conn: Connection) -> list[dict[str, Any]]:
    """Return how many dead letters of each type were not redriven. Needs the operator's role."""
    return [dict(row) for row in await QUERIES.rows(conn, "dead_letter_counts")]


async def stats(conn: Connection) -> list[dict[str, Any]]:
    """Return how many tasks are in each state that has not ended, by queue and type."""
    return [dict(row) for row in await QUERIES.rows(conn, "queue_stats")]


async def schedules(conn: Connection) -> list[dict[str, Any]]:
    """Return what runs by the clock, by name. Needs the operator's role."""
    return [dict(row) for row in await QUERIES.rows(conn, "schedules")]


async def workers(conn: Connection) -> list[dict[str, Any]]:
    """Return the living workers. Needs the operator's role to mean anything to a caller."""
    return [dict(row) for row in await QUERIES.rows(conn, "workers")]
