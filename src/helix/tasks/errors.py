"""What the task queue refuses, and why."""

from helix.core.errors import BadInput, Conflict, Forbidden, Misuse, NotFound, TooLarge

__all__ = [
    "BadPayload",
    "BadSchedule",
    "BadTask",
    "DependencyEnded",
    "LeaseLost",
    "OperatorOnly",
    "PayloadTooLarge",
    "TaskNotFound",
    "TaskTypeUnknown",
    "WebhookRefused",
    "WrongState",
]


class TaskNotFound(NotFound):
    """There is no such task, or it is not the caller's."""

    code = "tasks.not_found"


class TaskTypeUnknown(NotFound):
    """No handler is registered under this name."""

    code = "tasks.type_unknown"


class OperatorOnly(Forbidden):
    """Only an admin may see this: it tells of all tenants."""

    code = "tasks.operator_only"

    def __init__(self) -> None:
        super().__init__("this tells of all tenants: it needs an admin's key")


class WrongState(Conflict):
    """The task is not in a state that allows this."""

    code = "tasks.wrong_state"


class LeaseLost(Conflict):
    """The attempt is over: its lease passed on, or the task was cancelled or paused."""

    code = "tasks.lease_lost"


class DependencyEnded(Conflict):
    """A task to wait for has already ended without completing."""

    code = "tasks.dependency_ended"


class BadPayload(BadInput):
    """The payload does not fit the task type, or cannot be stored."""

    code = "tasks.bad_payload"


class PayloadTooLarge(TooLarge):
    """The payload passes PAYLOAD_BYTES_MAX."""

    code = "tasks.payload_too_large"


class BadTask(BadInput):
    """An option of the new task is out of range."""

    code = "tasks.bad_task"


class WebhookRefused(BadInput):
    """The webhook's address may not be called."""

    code = "tasks.webhook_refused"


class BadSchedule(Misuse):
    """The cron line or its time zone cannot be read."""

    code = "tasks.bad_schedule"
