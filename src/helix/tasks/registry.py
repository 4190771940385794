"""Which handler runs which type of task, and how: an explicit object, filled at start.

    registry = TaskRegistry()

    @registry.task("memory.extract", queue="memory", timeout_s=60)
    async def extract(ctx: TaskContext, payload: Extract) -> Extracted: ...

    await enqueue(conn, extract.new(Extract(conversation_id=…)))

A handler is a coroutine function, or a plain function, which runs in a thread. Its second
parameter's type is what the payload is decoded to; what it returns is the task's result.
"""

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from helix.tasks.errors import BadPayload, TaskTypeUnknown
from helix.tasks.policy import RetryPolicy, check_schedule
from helix.tasks.types import NewTask, Priority, Schedule

__all__ = ["Handler", "TaskDefinition", "TaskRegistry"]

Handler = Callable[..., Any]

_PARAMETERS = 2


@dataclass(frozen=True, slots=True)
class TaskDefinition:
    """A type of task: its handler and the rules it runs by.

    `concurrency_max` and `rate` (tasks, seconds) hold over all workers together. A running task
    that reports no progress for `stuck_after_s` is marked stuck; None never marks. Tenants may
    enqueue a type over HTTP when it is `public`: the others do Helix's own work.
    """

    name: str
    handler: Handler
    payload_type: Any
    threaded: bool
    queue: str = "default"
    priority: Priority = Priority.NORMAL
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_s: float | None = 3_600.0
    stuck_after_s: float | None = 300.0
    concurrency_max: int | None = None
    rate: tuple[int, float] | None = None
    spend_cap_usd: Decimal | None = None
    dead_letter: bool = True
    public: bool = False
    decoder: "msgspec.json.Decoder[Any]" = field(default_factory=msgspec.json.Decoder, repr=False)

    def decode(self, payload: str) -> Any:
        """Return the payload as the handler takes it; raises BadPayload."""
        try:
            return self.decoder.decode(payload)
        except msgspec.DecodeError as exc:
            raise BadPayload(f"the payload of {self.name} does not fit: {exc}") from exc

    def new(self, payload: Any = None, **options: Any) -> NewTask:
        """Return a task of this type to enqueue; `options` are fields of NewTask."""
        return NewTask(
            task_type=self.name,
            payload={} if payload is None else payload,
            **{
                "queue": self.queue,
                "priority": self.priority,
                "max_retries": self.retry.max_retries,
                "retry_delay_s": self.retry.delay_s,
                "spend_cap_usd": self.spend_cap_usd,
                **options,
            },
        )


class TaskRegistry:
    """The types of task and the schedules a program knows. Fill it before workers start."""

    def __init__(self) -> None:
        self._definitions: dict[str, TaskDefinition] = {}
        self._schedules: dict[str, Schedule] = {}

    def __iter__(self) -> Iterator[TaskDefinition]:
        return iter(self._definitions.values())

    def task(self, name: str, **rules: Any) -> Callable[[Handler], TaskDefinition]:
        """Register the decorated function under `name`; `rules` are fields of TaskDefinition."""

        def register(handler: Handler) -> TaskDefinition:
            return self.add(name, handler, **rules)

        return register

    def add(self, name: str, handler: Handler, **rules: Any) -> TaskDefinition:
        """Register `handler` under `name` and return the definition.

        Raises ValueError for a name used twice or a handler that does not take (ctx, payload).
        """
        if name in self._definitions:
            raise ValueError(f"the task type {name} is registered twice")
        parameters = list(inspect.signature(handler).parameters.values())
        if len(parameters) != _PARAMETERS:
            raise ValueError(f"the handler of {name} must take two parameters: ctx, payload")
        hints = typing.get_type_hints(handler)
        payload_type = hints.get(parameters[1].name, Any)
        definition = TaskDefinition(
            name=name,
            handler=handler,
            payload_type=payload_type,
            threaded=not inspect.iscoroutinefunction(handler),
            decoder=msgspec.json.Decoder(payload_type),
            **rules,
        )
        self._definitions[name] = definition
        return definition

    def get(self, name: str) -> TaskDefinition:
        """Return the definition of a type; raises TaskTypeUnknown."""
        try:
            return self._definitions[name]
        except KeyError as exc:
            raise TaskTypeUnknown(f"no handler is registered for tasks of type {name!r}") from exc

    def names(self) -> list[str]:
        """Return the names of all types, sorted."""
        return sorted(self._definitions)

    def schedule(self, schedule: Schedule) -> None:
        """Have a worker enqueue a task whenever a cron line comes due. Raises BadSchedule."""
        check_schedule(schedule.cron, schedule.time_zone)
        self.get(schedule.task_type)
        self._schedules[schedule.name] = schedule

    def schedules(self) -> list[Schedule]:
        """Return the schedules, by name."""
        return [self._schedules[name] for name in sorted(self._schedules)]
