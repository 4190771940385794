"""The task queue: durable background work in the same transaction as the data it concerns.

`enqueue` in your transaction; register handlers with a `TaskRegistry`; run a `Worker` with its
`Keeper` (or `run_worker`). Below it lies sql/schema/task_queue.sql.
"""

from helix.tasks.attempt import GiveUp, RetryLater, TaskContext
from helix.tasks.errors import (
    BadPayload,
    BadSchedule,
    BadTask,
    DependencyEnded,
    LeaseLost,
    OperatorOnly,
    PayloadTooLarge,
    TaskNotFound,
    TaskTypeUnknown,
    WebhookRefused,
    WrongState,
)
from helix.tasks.feed import EventFeed
from helix.tasks.jobs import register_jobs
from helix.tasks.keeper import Keeper, SpendReader
from helix.tasks.metrics import WorkerMetrics
from helix.tasks.policy import RetryPolicy
from helix.tasks.registry import TaskDefinition, TaskRegistry
from helix.tasks.routes import TaskCaller, build_router
from helix.tasks.running import build_worker, run_worker, webhook_secrets, webhook_sender
from helix.tasks.service import (
    attempts_of,
    cancel,
    dead_letters,
    enqueue,
    enqueue_many,
    events_of,
    get_task,
    list_tasks,
    pause,
    pause_scope,
    redrive,
    redrive_many,
    resume,
    resume_scope,
    retry,
    samples_of,
    schedules,
    stats,
    workers,
)
from helix.tasks.types import (
    ClaimedTask,
    DeadLetter,
    Enqueued,
    Event,
    HeldWhile,
    NewTask,
    Outcome,
    Priority,
    Schedule,
    Status,
    Task,
    TaskId,
    Unique,
    WorkerId,
)
from helix.tasks.webhooks import WebhookSender
from helix.tasks.worker import Worker, WorkerOptions

__all__ = [
    "BadPayload",
    "BadSchedule",
    "BadTask",
    "ClaimedTask",
    "DeadLetter",
    "DependencyEnded",
    "Enqueued",
    "Event",
    "EventFeed",
    "GiveUp",
    "HeldWhile",
    "Keeper",
    "LeaseLost",
    "NewTask",
    "OperatorOnly",
    "Outcome",
    "PayloadTooLarge",
    "Priority",
    "RetryLater",
    "RetryPolicy",
    "Schedule",
    "SpendReader",
    "Status",
    "Task",
    "TaskCaller",
    "TaskContext",
    "TaskDefinition",
    "TaskId",
    "TaskNotFound",
    "TaskRegistry",
    "TaskTypeUnknown",
    "Unique",
    "WebhookRefused",
    "WebhookSender",
    "Worker",
    "WorkerId",
    "WorkerMetrics",
    "WorkerOptions",
    "WrongState",
    "attempts_of",
    "build_router",
    "build_worker",
    "cancel",
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
    "register_jobs",
    "resume",
    "resume_scope",
    "retry",
    "run_worker",
    "samples_of",
    "schedules",
    "stats",
    "webhook_secrets",
    "webhook_sender",
    "workers",
]
