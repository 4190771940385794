"""`helix tasks`: list, show, watch, cancel, pause, resume, retry, redrive, stats, workers."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
import typer

from helix.core import command
from helix.core.command import Home, Json
from helix.core.config import load_settings
from helix.core.db import Connection
from helix.core.errors import Misuse
from helix.core.instance import load_keyring, locate
from helix.tasks import service
from helix.tasks.feed import BEGINNING, EventFeed, Mark
from helix.tasks.running import webhook_secrets
from helix.tasks.types import Status, TaskId

__all__ = ["main"]

T = TypeVar("T")
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it only the plan is shown.")]
Limit = Annotated[int, typer.Option(min=1, max=service.PAGE_MAX, help="Most rows shown.")]
OneTask = Annotated[UUID | None, typer.Argument(help="A task; or give --type or --queue.")]
OfType = Annotated[str | None, typer.Option("--type", help="All tasks of a type.")]
OfQueue = Annotated[str | None, typer.Option("--queue", help="All tasks of a queue.")]

WATCH_S = 0.3


def main(args: list[str]) -> None:
    """Run `helix tasks …`."""
    app(args, prog_name="helix tasks")


def _with_operator(home: Path | None, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` as helix_operator in one transaction."""

    async def run(conn: Connection) -> T:
        async with conn.transaction():
            return await work(conn)

    return _connected(home, run)


def _connected(home: Path | None, work: Callable[[Connection], Awaitable[T]]) -> T:
    return command.connected(home, lambda conn, _: work(conn), application_name="helix tasks")


def _line(record: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(record, enc_hook=str) + b"\n")
    sys.stdout.buffer.flush()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def _show(columns: Sequence[str], records: Sequence[Any], *, as_json: bool) -> None:
    plain = [r if isinstance(r, dict) else _fields(r) for r in records]
    if as_json:
        for record in plain:
            _line(record)
    else:
        command.show_table(columns, plain)


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


def _counted(count: int, noun: str, started: float) -> None:
    command.say(f"{count} {noun}{'' if count == 1 else 's'}, {time.monotonic() - started:.2f} s")


@app.command("list")
def list_tasks(  # noqa: PLR0917 - options, given by name
    status: Annotated[Status | None, typer.Option(help="Only tasks in this state.")] = None,
    task_type: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    queue: Annotated[str | None, typer.Option(help="Only this queue.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List tasks, newest first."""
    started = time.monotonic()
    found = _with_operator(
        home,
        lambda conn: service.list_tasks(
            conn, status=status, task_type=task_type, queue=queue, max_count=limit
        ),
    )
    columns = ("id", "task_type", "queue", "status", "priority", "attempt", "progress",
               "created_at", "error_message")  # fmt: skip
    _show(columns, found, as_json=as_json)
    _counted(len(found), "task", started)


@app.command()
def show(task_id: UUID, as_json: Json = False, home: Home = None) -> None:
    """Show a task, its attempts, its events and what its worker used."""

    async def work(conn: Connection) -> tuple[Any, Any, Any, Any]:
        task = await service.get_task(conn, task_id=TaskId(task_id))
        return (
            task,
            await service.attempts_of(conn, task_id=TaskId(task_id)),
            await service.events_of(conn, task_id=TaskId(task_id)),
            await service.samples_of(conn, task_id=TaskId(task_id)),
        )

    task, attempts, events, samples = _with_operator(home, work)
    if as_json:
        happened = [_fields(e) for e in events]
        _line({**_fields(task), "attempts": attempts, "events": happened, "resources": samples})
        return
    command.show_table(
        ("field", "value"), [{"field": k, "value": v} for k, v in _fields(task).items()]
    )
    command.show_table(
        ("attempt", "event_type", "duration_ms", "worker_id", "error_message"), attempts
    )
    command.show_table(("created_at", "event_type", "data"), [_fields(e) for e in events])
    if samples:
        command.show_table(
            ("sampled_at", "cpu_percent", "memory_rss_bytes", "open_fds", "thread_count"), samples
        )


@app.command()
def watch(
    task_id: Annotated[UUID | None, typer.Argument(help="One task; without it all.")] = None,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """Print events as they happen; Ctrl-C ends it. A task's watch ends with the task."""

    async def work(conn: Connection) -> None:
        one = TaskId(task_id) if task_id else None
        if one is not None:
            await service.get_task(conn, task_id=one)
        feed = EventFeed(BEGINNING, task_id=one) if one else await EventFeed.from_now(conn)
        while True:
            told: list[tuple[Mark, Any]] = await feed.read(conn)
            for _, event in told:
                if as_json:
                    _line(_fields(event))
                else:
                    print(_cell(event.created_at), event.task_id, event.event_type, event.data)
            if one is not None and not told:
                task = await service.get_task(conn, task_id=one)
                if task.completed_at is not None:
                    return
            await asyncio.sleep(WATCH_S)

    try:
        _connected(home, work)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def cancel(task_id: UUID, home: Home = None) -> None:
    """Call a task off, also while it runs."""
    _with_operator(
        home, lambda c: service.cancel(c, task_id=TaskId(task_id), reason="cancelled by operator")
    )
    command.say(f"cancelled {task_id}")


@app.command()
def pause(
    task_id: OneTask = None, task_type: OfType = None, queue: OfQueue = None, home: Home = None
) -> None:
    """Hold back a task (also while it runs), or stop claiming a type or from a queue."""
    one = partial(service.pause, reason="paused by operator")
    command.say(f"paused {_steered(home, (task_id, task_type, queue), one, service.pause_scope)}")


@app.command()
def resume(
    task_id: OneTask = None, task_type: OfType = None, queue: OfQueue = None, home: Home = None
) -> None:
    """Let a paused task, type or queue go on."""
    which = (task_id, task_type, queue)
    command.say(f"resumed {_steered(home, which, service.resume, service.resume_scope)}")


def _steered(
    home: Path | None,
    which: tuple[UUID | None, str | None, str | None],
    one: Callable[..., Awaitable[object]],
    scope: Callable[..., Awaitable[object]],
) -> str:
    """Do it to a task, a type or a queue, whichever is named; return what it was done to."""

    async def work(conn: Connection) -> str:
        match which:
            case UUID() as task_id, None, None:
                await one(conn, task_id=TaskId(task_id))
                return str(task_id)
            case None, str() as name, None:
                await scope(conn, scope="type", name=name)
                return f"type {name}"
            case None, None, str() as name:
                await scope(conn, scope="queue", name=name)
                return f"queue {name}"
        raise Misuse("give a task id, or --type, or --queue: one of them")

    return _with_operator(home, work)


@app.command()
def retry(task_id: UUID, home: Home = None) -> None:
    """Run a task that failed, was cancelled or died once more."""
    ran = _with_operator(home, lambda c: service.retry(c, task_id=TaskId(task_id)))
    command.say(f"runs again as {ran}")


@app.command()
def dead(
    task_type: Annotated[str | None, typer.Option("--type", help="Only this type.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
    home: Home = None,
) -> None:
    """List dead letters, newest first."""
    found = _with_operator(
        home, lambda c: service.dead_letters(c, task_type=task_type, max_count=limit)
    )
    columns = ("id", "task_type", "failure_reason", "error_message", "moved_at", "redriven_task_id")
    _show(columns, found, as_json=as_json)


@app.command()
def redrive(
    dead_letter_id: Annotated[UUID | None, typer.Argument(help="One; or give --all.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All not yet redriven.")] = False,
    task_type: Annotated[str | None, typer.Option("--type", help="With --all: this type.")] = None,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Enqueue dead letters anew: one, or with --all as many as a page holds; each only once."""
    started = time.monotonic()
    if (dead_letter_id is None) != everything:
        raise Misuse("give a dead letter's id, or --all: one of them")
    if dead_letter_id is not None:
        one = dead_letter_id
        made = [_with_operator(home, lambda c: service.redrive(c, dead_letter_id=one))]
    elif not yes:
        waiting = _with_operator(
            home,
            lambda c: service.dead_letters(
                c, task_type=task_type, waiting_only=True, max_count=service.PAGE_MAX
            ),
        )
        command.say(f"would redrive {len(waiting)}; add --yes to do it")
        return
    else:
        made = _with_operator(home, lambda c: service.redrive_many(c, task_type=task_type))
    for enqueued in made:
        print(enqueued.id)
    _counted(len(made), "task", started)


@app.command()
def stats(as_json: Json = False, home: Home = None) -> None:
    """Count what waits and what is held, by queue, type and state."""
    found = _with_operator(home, service.stats)
    _show(("queue", "task_type", "status", "tasks", "oldest_due_at"), found, as_json=as_json)


@app.command()
def workers(as_json: Json = False, home: Home = None) -> None:
    """List the living workers."""
    found = _with_operator(home, service.workers)
    _show(("id", "queues", "concurrency", "heartbeat_at", "lease_until"), found, as_json=as_json)


@app.command()
def schedules(as_json: Json = False, home: Home = None) -> None:
    """List what runs by the clock, and when next."""
    found = _with_operator(home, service.schedules)
    columns = ("name", "task_type", "cron", "time_zone", "enabled", "next_run_at", "last_run_at")
    _show(columns, found, as_json=as_json)


@app.command("webhook-secret")
def webhook_secret_command(
    user_id: Annotated[
        UUID | None, typer.Option("--user", help="A tenant; without it Helix's own tasks.")
    ] = None,
    home: Home = None,
) -> None:
    """Print the key, in hexadecimal, that webhooks are signed with (HMAC-SHA256)."""
    settings = load_settings(os.environ, home=home)
    locate(settings)
    print(webhook_secrets(load_keyring(settings))(user_id)[0].hex())
