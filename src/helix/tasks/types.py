"""The nouns of the task queue: tasks, their states, events and attempts."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

__all__ = [
    "ENDED",
    "HELD",
    "ClaimedTask",
    "DeadLetter",
    "Enqueued",
    "Event",
    "HeldWhile",
    "NewTask",
    "Outcome",
    "Priority",
    "Progress",
    "Schedule",
    "Status",
    "Task",
    "TaskId",
    "Unique",
    "WorkerId",
]

TaskId = NewType("TaskId", UUID)
WorkerId = NewType("WorkerId", str)


class Status(StrEnum):
    """State of a task; the allowed changes are rows of `task_transitions`."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    STUCK = "stuck"
    CANCELLED = "cancelled"
    DEAD_LETTER = "dead_letter"


HELD = frozenset({Status.QUEUED, Status.RUNNING, Status.STUCK})
"""A worker holds the task."""
ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.DEAD_LETTER})
"""Nothing more will happen to the task by itself."""


class Priority(StrEnum):
    """Urgency; the first goes first."""

    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BACKGROUND = "background"


class HeldWhile(StrEnum):
    """How long a unique key keeps a second task with it out."""

    WAITING = "waiting"
    UNFINISHED = "unfinished"
    PERIOD = "period"


@dataclass(frozen=True, slots=True)
class Unique:
    """A key that only one task of a type and tenant may hold.

    `waiting`: until the task begins; `unfinished`: until it ends; `period`: for `period_s` seconds
    from its enqueueing, however it ends.
    """

    key: str
    held_while: HeldWhile = HeldWhile.UNFINISHED
    period_s: float | None = None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be enqueued. What is None is filled in by the database's defaults.

    `user_id` None means the tenant of the transaction, or, without one, Helix itself.
    `after` names tasks that must complete first; if one of them ends otherwise, this is cancelled.
    `webhook_url` is told of the events in `webhook_events` (all if None).
    """

    task_type: str
    payload: Any = field(default_factory=dict)
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    scheduled_at: datetime | None = None
    deadline: datetime | None = None
    max_retries: int = 3
    retry_delay_s: int = 60
    unique: Unique | None = None
    after: tuple[TaskId, ...] = ()
    parent_task_id: TaskId | None = None
    user_id: UUID | None = None
    session_id: UUID | None = None
    project_id: UUID | None = None
    correlation_id: str | None = None
    task_name: str | None = None
    tags: tuple[str, ...] = ()
    spend_cap_usd: Decimal | None = None
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The task that stands for a NewTask: a new one, or the one that holds its unique key."""

    id: TaskId
    created: bool


@dataclass(frozen=True, slots=True)
class Task:
    """A task as people see it."""

    id: TaskId
    task_type: str
    queue: str
    status: Status
    priority: Priority
    user_id: UUID | None
    payload: Any
    result: Any
    progress: Decimal
    progress_message: str | None
    attempt: int
    retry_count: int
    max_retries: int
    lost_count: int
    blocked_by: int
    worker_id: str | None
    error_message: str | None
    parent_task_id: UUID | None
    correlation_id: str | None
    tags: tuple[str, ...]
    spend_cap_usd: Decimal | None
    scheduled_at: datetime
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    deadline: datetime | None


@dataclass(slots=True)
class ClaimedTask:
    """One attempt a worker holds. `fencing_token` grows with every claim of the task."""

    id: TaskId
    task_type: str
    begun: bool
    payload: str
    checkpoint: str | None
    user_id: UUID | None
    fencing_token: int
    attempt: int
    retry_count: int
    max_retries: int
    retry_delay_s: int
    deadline: datetime | None
    spend_cap_usd: Decimal | None
    created_at: datetime
    correlation_id: str | None
    parent_task_id: UUID | None
    lost_count: int


@dataclass(slots=True)
class Outcome:
    """How an attempt ends; `status` pending means it will run again after `delay_s`.

    `counts` is False when the attempt was only handed back, so that it is no failure.
    """

    id: TaskId
    fencing_token: int
    attempt: int
    status: Status
    result: str | None = None
    error: str | None = None
    stack: str | None = None
    delay_s: float = 0.0
    counts: bool = True


@dataclass(slots=True)
class Progress:
    """What a handler last said of its progress; percent 0 to 100."""

    percent: float
    message: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """A row of task_events."""

    id: UUID
    task_id: TaskId
    user_id: UUID | None
    event_type: str
    data: Any
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that failed for good, as dead_letter_queue keeps it."""

    id: UUID
    original_task_id: UUID | None
    task_type: str
    payload: Any
    failure_reason: str | None
    error_message: str
    error_stack: str | None
    retry_history: Any
    moved_at: datetime
    redriven_at: datetime | None
    redriven_task_id: UUID | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A recurring task: a cron line in a time zone."""

    name: str
    task_type: str
    cron: str
    time_zone: str = "UTC"
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    payload: Any = field(default_factory=dict)
    enabled: bool = True
