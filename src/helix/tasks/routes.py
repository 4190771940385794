"""/api/tasks and /api/events: look at tasks, steer them, and watch what happens as it happens."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from helix.core import sse
from helix.core.clock import Moment
from helix.core.db import Connection, Database, Role
from helix.tasks import service
from helix.tasks.errors import OperatorOnly, TaskTypeUnknown
from helix.tasks.feed import BEGINNING, EventFeed, Mark
from helix.tasks.registry import TaskRegistry
from helix.tasks.types import NewTask, Priority, Status, TaskId, Unique

__all__ = ["TaskCaller", "build_router"]

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class TaskCaller:
    """Who calls: a tenant, or an operator, who sees all."""

    user_id: UUID
    operator: bool = False


class TaskBody(BaseModel):
    """A task to enqueue."""

    model_config = ConfigDict(extra="forbid")

    task_type: str = Field(max_length=100)
    payload: dict[str, Any] = Field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    scheduled_at: Moment | None = None
    deadline: Moment | None = None
    tags: list[str] = Field(default_factory=list, max_length=50)
    unique_key: str | None = Field(default=None, min_length=1, max_length=255)
    after: list[UUID] = Field(default_factory=list, max_length=100)
    spend_cap_usd: Decimal | None = Field(default=None, gt=0, max_digits=18, decimal_places=9)
    webhook_url: str | None = Field(default=None, max_length=2_048)
    webhook_events: list[str] | None = Field(default=None, max_length=20)


@dataclass(frozen=True, slots=True)
class _Door:
    """What the routes share: the database, the types of tasks, who calls, and for webhooks."""

    db: Database
    registry: TaskRegistry
    identify: Callable[[Request], Awaitable[TaskCaller]]
    allowed_hosts: Sequence[str]
    secret_for: Callable[[UUID | None], Sequence[bytes]]

    def work(self, caller: TaskCaller) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction that sees what the caller may."""
        if caller.operator:
            return self.db.transaction(Role.OPERATOR)
        return self.db.transaction(Role.APP, tenant=caller.user_id)

    def work_of_operator(self, caller: TaskCaller) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction that sees all; raises OperatorOnly for a tenant."""
        if not caller.operator:
            raise OperatorOnly
        return self.work(caller)


def build_router(
    db: Database,
    registry: TaskRegistry,
    identify: Callable[[Request], Awaitable[TaskCaller]],
    *,
    allowed_hosts: Sequence[str] = (),
    secret_for: Callable[[UUID | None], Sequence[bytes]],
) -> APIRouter:
    """Return the routes. `identify` authenticates a request and checks the scope `tasks`.

    Tenants may enqueue the registry's public types only. `secret_for` gives the key that a
    tenant's webhooks are signed with.
    """
    api = APIRouter(prefix="/api", tags=["tasks"])
    door = _Door(db, registry, identify, allowed_hosts, secret_for)
    for add in (_add_tasks, _add_overviews, _add_dead_letters, _add_one_task, _add_events):
        add(api, door)
    return api


def _add_tasks(api: APIRouter, door: _Door) -> None:
    """List and enqueue tasks."""
    Caller = Annotated[TaskCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/tasks")
    async def list_tasks(  # noqa: PLR0917 - query parameters, given by name
        caller: Caller,
        status: Status | None = None,
        task_type: str | None = None,
        queue: str | None = None,
        parent_id: UUID | None = None,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
    ) -> Response:
        """List tasks, newest first; `before` is the last id of the page before."""
        async with door.work(caller) as conn:
            tasks = await service.list_tasks(
                conn,
                status=status,
                task_type=task_type,
                queue=queue,
                parent_id=TaskId(parent_id) if parent_id else None,
                before=TaskId(before) if before else None,
                max_count=limit,
            )
        return _json({"data": tasks, "has_more": len(tasks) == limit})

    @api.post("/tasks", status_code=201)
    async def enqueue(body: TaskBody, caller: Caller) -> Response:
        """Enqueue a task of a type that is open to tenants."""
        definition = door.registry.get(body.task_type)
        if not (caller.operator or definition.public):
            raise TaskTypeUnknown(f"tasks of type {body.task_type!r} cannot be enqueued here")
        definition.decode(msgspec.json.encode(body.payload).decode())
        new: NewTask = definition.new(
            body.payload,
            priority=body.priority,
            scheduled_at=body.scheduled_at,
            deadline=body.deadline,
            tags=tuple(body.tags),
            unique=Unique(body.unique_key) if body.unique_key is not None else None,
            after=tuple(TaskId(task_id) for task_id in body.after),
            **({} if body.spend_cap_usd is None else {"spend_cap_usd": body.spend_cap_usd}),
            webhook_url=body.webhook_url,
            webhook_events=tuple(body.webhook_events) if body.webhook_events else None,
            user_id=caller.user_id,
        )
        async with door.work(caller) as conn:
            made = await service.enqueue(conn, new, allowed_hosts=door.allowed_hosts)
            task = await service.get_task(conn, task_id=made.id)
        return _json(task, status=201)


def _add_overviews(api: APIRouter, door: _Door) -> None:
    """What the queue holds, who works on it and when."""
    Caller = Annotated[TaskCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/tasks/stats")
    async def stats(caller: Caller) -> Response:
        """Count the tasks that have not ended, by queue, type and state."""
        async with door.work(caller) as conn:
            return _json({"data": await service.stats(conn)})

    @api.get("/tasks/workers")
    async def workers(caller: Caller) -> Response:
        """List the living workers; for operators."""
        async with door.work_of_operator(caller) as conn:
            return _json({"data": await service.workers(conn)})

    @api.get("/tasks/schedules")
    async def schedules(caller: Caller) -> Response:
        """List what runs by the clock, and when next; for operators."""
        async with door.work_of_operator(caller) as conn:
            return _json({"data": await service.schedules(conn)})

    @api.get("/tasks/webhook-secret")
    async def webhook_secret(caller: Caller) -> Response:
        """Return the key, in hexadecimal, that the caller's webhooks are signed with."""
        return _json(
            {"algorithm": "hmac-sha256", "secret": door.secret_for(caller.user_id)[0].hex()}
        )


def _add_dead_letters(api: APIRouter, door: _Door) -> None:
    """List dead letters and redrive them."""
    Caller = Annotated[TaskCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/tasks/dead")
    async def dead(
        caller: Caller,
        task_type: str | None = None,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
    ) -> Response:
        """List dead letters, newest first."""
        async with door.work(caller) as conn:
            found = await service.dead_letters(conn, task_type=task_type, max_count=limit)
        return _json({"data": found})

    @api.post("/tasks/dead/{dead_letter_id}/redrive")
    async def redrive(dead_letter_id: UUID, caller: Caller) -> Response:
        """Enqueue a dead letter anew; pressed twice it runs once."""
        async with door.work(caller) as conn:
            made = await service.redrive(conn, dead_letter_id=dead_letter_id)
        return _json(made)


def _add_one_task(api: APIRouter, door: _Door) -> None:
    """Show and steer one task."""
    Caller = Annotated[TaskCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/tasks/{task_id}")
    async def show(task_id: UUID, caller: Caller) -> Response:
        """Show a task with its finished attempts and the newest samples of what it used."""
        async with door.work(caller) as conn:
            task = await service.get_task(conn, task_id=TaskId(task_id))
            attempts = await service.attempts_of(conn, task_id=TaskId(task_id))
            samples = await service.samples_of(conn, task_id=TaskId(task_id))
        shown = msgspec.to_builtins(task, str_keys=True)
        return _json({**shown, "attempts": attempts, "resources": samples})

    @api.post("/tasks/{task_id}/cancel")
    async def cancel(task_id: UUID, caller: Caller) -> Response:
        """Call a task off, also while it runs."""
        async with door.work(caller) as conn:
            await service.cancel(conn, task_id=TaskId(task_id), reason="cancelled by request")
            return await _acted(conn, TaskId(task_id))

    @api.post("/tasks/{task_id}/pause")
    async def pause(task_id: UUID, caller: Caller) -> Response:
        """Hold a task back, also while it runs."""
        async with door.work(caller) as conn:
            await service.pause(conn, task_id=TaskId(task_id), reason="paused by request")
            return await _acted(conn, TaskId(task_id))

    @api.post("/tasks/{task_id}/resume")
    async def resume(task_id: UUID, caller: Caller) -> Response:
        """Let a paused task go on."""
        async with door.work(caller) as conn:
            await service.resume(conn, task_id=TaskId(task_id))
            return await _acted(conn, TaskId(task_id))

    @api.post("/tasks/{task_id}/retry")
    async def retry(task_id: UUID, caller: Caller) -> Response:
        """Run a task that failed, was cancelled or died once more."""
        async with door.work(caller) as conn:
            return await _acted(conn, await service.retry(conn, task_id=TaskId(task_id)))


def _add_events(api: APIRouter, door: _Door) -> None:
    """Watch one task, or all of one's own."""
    Caller = Annotated[TaskCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/tasks/{task_id}/events", responses={**sse.DOCUMENTED})
    async def task_events(
        task_id: UUID, caller: Caller, last_event_id: Annotated[str | None, Header()] = None
    ) -> StreamingResponse:
        """Watch one task from its beginning, or from Last-Event-ID on (server-sent events)."""
        async with door.work(caller) as conn:
            await service.get_task(conn, task_id=TaskId(task_id))
        return await _stream(door, caller, last_event_id, TaskId(task_id))

    @api.get("/events", responses={**sse.DOCUMENTED})
    async def events(
        caller: Caller, last_event_id: Annotated[str | None, Header()] = None
    ) -> StreamingResponse:
        """Watch all of one's tasks from now, or from Last-Event-ID on (server-sent events)."""
        return await _stream(door, caller, last_event_id, None)


async def _stream(
    door: _Door, caller: TaskCaller, last_event_id: str | None, task_id: TaskId | None
) -> StreamingResponse:
    begin = Mark.parse(last_event_id) if last_event_id else None
    if task_id is not None:
        feed = EventFeed(begin or BEGINNING, task_id=task_id)
    elif begin is not None:
        feed = EventFeed(begin)
    else:
        async with door.work(caller) as conn:
            feed = await EventFeed.from_now(conn)

    async def read() -> tuple[list[sse.Told], bool]:
        async with door.work(caller) as conn:
            found = await feed.read(conn)
        return [
            sse.Told(str(mark), event.event_type, msgspec.json.encode(event))
            for mark, event in found
        ], False

    return StreamingResponse(
        sse.follow(read),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def _acted(conn: Connection, task_id: TaskId) -> Response:
    return _json(await service.get_task(conn, task_id=task_id))


def _json(record: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(record, enc_hook=str), status, media_type=_JSON)
