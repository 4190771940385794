"""`helix worker`: run tasks until told to stop.

Which handlers there are is known above this floor only: an option of the command names what gives
them, `--registry module:function`, whose default is the program's.
"""

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from helix.core.config import Settings, load_settings
from helix.core.db import Database, PoolLimits, Role
from helix.core.errors import Misuse
from helix.core.instance import load_keyring, locate
from helix.core.log import configure
from helix.core.seats import Seat
from helix.tasks.registry import TaskRegistry
from helix.tasks.running import WorkerTasks, build_worker, run_worker, webhook_sender
from helix.tasks.worker import WorkerOptions

__all__ = ["DEFAULT_REGISTRY", "main"]

DEFAULT_REGISTRY = "helix.app:worker_tasks"
_OTHERS_MAX = 13
"""Connections of a worker outside its pools: six loops, its seat, two for recording the calls its
tasks make, four for what comes and goes."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main(args: list[str]) -> None:
    """Run `helix worker`."""
    app(args, prog_name="helix worker")


@app.command()
def worker(  # noqa: PLR0917 - options, given by name
    queues: Annotated[
        str | None, typer.Option(help="Comma-separated; default: every queue.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Tasks at a time.")] = 50,
    threads: Annotated[int, typer.Option(min=1, max=1_000, help="Threads for sync handlers.")] = 8,
    lease_s: Annotated[
        float, typer.Option(min=1, max=3_600, help="Silence after which a worker is dead.")
    ] = 30.0,
    drain_s: Annotated[
        float, typer.Option(min=0, max=3_600, help="Time for running tasks to end on SIGTERM.")
    ] = 25.0,
    registry: Annotated[
        str, typer.Option(help="module:function(database) -> TaskRegistry, for one of your own.")
    ] = DEFAULT_REGISTRY,
    home: Annotated[Path | None, typer.Option(help="HELIX_HOME of the instance.")] = None,
) -> None:
    """Run tasks until SIGTERM or Ctrl-C: then finish those that run, or hand them back."""
    settings = load_settings(os.environ, home=home)
    configure(settings.log_level)
    target = locate(settings)
    options = WorkerOptions(
        queues=tuple(queues.split(",")) if queues else None,
        concurrency=concurrency,
        threads=threads,
        lease_s=lease_s,
        drain_s=drain_s,
    )
    limits = {role: PoolLimits(kept=0, maximum=max(4, threads)) for role in Role}

    async def work() -> None:
        db = Database(target.database_url, limits)
        most = sum(one.maximum for one in limits.values()) + _OTHERS_MAX
        seat = Seat(target.database_url, kind="worker", most=most)
        seat.start()
        loop = asyncio.get_running_loop()
        try:
            async with _tasks(registry, db, settings) as found:
                runner = build_worker(db, found.registry, options)
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, runner.stop)
                kinds = len(found.registry.names())
                print(f"worker for {kinds} types of task; Ctrl-C stops it", file=sys.stderr)
                await run_worker(
                    runner,
                    spend=found.spend,
                    webhooks=webhook_sender(
                        load_keyring(settings), allowed_hosts=settings.webhook_host_list
                    ),
                )
        finally:
            await seat.stop()
            await db.close()

    uvloop.run(work())


def _tasks(name: str, db: Database, settings: Settings) -> AbstractAsyncContextManager[WorkerTasks]:
    """Return what the worker can do: the program's own tasks, or those of another registry."""
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
        if name == DEFAULT_REGISTRY:
            own: AbstractAsyncContextManager[WorkerTasks] = make(db, settings)
            return own
        built = make(db)
    except (ImportError, AttributeError, ValueError) as exc:
        raise Misuse(f"--registry {name}: {exc}") from exc
    if not isinstance(built, TaskRegistry):
        raise Misuse(f"--registry {name}: does not return a TaskRegistry")
    return _another(built)


@asynccontextmanager
async def _another(registry: TaskRegistry) -> AsyncIterator[WorkerTasks]:
    yield WorkerTasks(registry)
