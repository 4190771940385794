"""The one file that wires the domains together into one ASGI application.

`/v1`, `/health`, `/ready` and `/metrics` go straight to the gateway; everything else is FastAPI.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from helix import __version__, accounts, gateway, ledger, operations, providers, tasks
from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Database
from helix.core.errors import BadInput, Conflict, HelixError, NotFound
from helix.core.ids import IdSource
from helix.core.log import get_log

__all__ = ["App", "build", "task_registry"]

_log = get_log(__name__)
_SESSION_PURPOSE = "helix session tokens"


class App:
    """All of Helix behind one HTTP port."""

    def __init__(self, settings: Settings, db: Database, keyring: Keyring, clock: Clock) -> None:
        self._accounts = accounts.build(
            db, settings, signing_keys=keyring.derived(_SESSION_PURPOSE), clock=clock
        )
        self._providers = providers.build(db, settings, keyring=keyring, clock=clock)
        self._ledger = ledger.build(db)
        counters = CollectorRegistry()
        self._gateway = gateway.build(
            db,
            settings,
            accounts=self._accounts,
            providers=self._providers,
            ledger=self._ledger,
            clock=clock,
            counters=counters,
        )
        registry = task_registry(db)
        self._worker = _worker(db, registry, settings, clock, counters)
        self._webhooks = tasks.webhook_sender(keyring, allowed_hosts=settings.webhook_host_list)
        api_tasks = tasks.build_router(
            db,
            registry,
            _task_caller(self._accounts),
            allowed_hosts=settings.webhook_host_list,
            secret_for=tasks.webhook_secrets(keyring),
        )
        self._api = _api([accounts.router(self._accounts), api_tasks], clock)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one HTTP request, or the server's start and stop."""
        if scope["type"] == "http":
            handler = self._gateway if self._gateway.handles(scope["path"]) else self._api
            await handler(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        """Start the domains, lowest floor first; stop them in the opposite order."""
        await receive()
        async with AsyncExitStack() as stack:
            self._accounts.start()
            stack.push_async_callback(self._accounts.stop)
            for part in (self._providers, self._ledger, self._gateway):
                await part.start()
                stack.push_async_callback(part.stop)
            if self._worker is not None:
                work = asyncio.create_task(
                    tasks.run_worker(self._worker, webhooks=self._webhooks), name="helix-worker"
                )
                stack.push_async_callback(self._stop_worker, self._worker, work)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self._gateway.begin_stop()
        await send({"type": "lifespan.shutdown.complete"})

    @staticmethod
    async def _stop_worker(worker: tasks.Worker, work: "asyncio.Task[None]") -> None:
        """Let running tasks end or hand them back; a worker that failed is logged, not raised."""
        worker.stop()
        try:
            await work
        except Exception as exc:  # noqa: BLE001 - the edge of the worker
            _log.error("worker_failed", exc=exc)


def build(settings: Settings, db: Database, keyring: Keyring, clock: Clock) -> App:
    """Return the ASGI application of a server; it starts and stops with its lifespan."""
    return App(settings, db, keyring, clock)


def task_registry(db: Database) -> tasks.TaskRegistry:
    """Return every type of task and every schedule that Helix has."""
    registry = tasks.TaskRegistry()
    tasks.register_jobs(registry, clean=lambda: operations.housekeep(db.url))
    return registry


def _worker(
    db: Database,
    registry: tasks.TaskRegistry,
    settings: Settings,
    clock: Clock,
    counters: CollectorRegistry,
) -> tasks.Worker | None:
    """Return the worker that runs inside the server, if one is wanted."""
    if not settings.worker_concurrency:
        return None
    options = tasks.WorkerOptions(
        queues=settings.worker_queue_list,
        concurrency=settings.worker_concurrency,
        threads=settings.worker_threads,
        lease_s=settings.worker_lease_s,
        drain_s=settings.drain_timeout_s,
    )
    return tasks.build_worker(
        db, registry, options, clock=clock, metrics=tasks.WorkerMetrics(counters)
    )


def _api(routers: Sequence[APIRouter], clock: Clock) -> FastAPI:
    api = FastAPI(
        title="Helix",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
    )
    for router in routers:
        api.include_router(router)
    ids = IdSource()

    def shown(error: HelixError, request_id: str) -> Response:
        headers = {name.decode(): value.decode() for name, value in gateway.error_headers(error)}
        return Response(
            gateway.error_body(error, request_id),
            error.status,
            {**headers, "x-helix-request-id": request_id},
            "application/json",
        )

    def handler(
        translate: Callable[[Any, str], HelixError],
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(request: Request, exc: Exception) -> Response:
            request_id = str(ids.next(clock.now()))
            if translate is _unexpected:
                _log.error("request_failed", exc=exc, request_id=request_id, path=request.url.path)
            return shown(translate(exc, request_id), request_id)

        return handle

    api.add_exception_handler(HelixError, handler(lambda exc, _: exc))
    api.add_exception_handler(RequestValidationError, handler(_invalid))
    api.add_exception_handler(HTTPException, handler(_http))
    api.add_exception_handler(Exception, handler(_unexpected))
    return api


def _task_caller(
    people: accounts.Accounts,
) -> Callable[[Request], Awaitable[tasks.TaskCaller]]:
    async def identify(request: Request) -> tasks.TaskCaller:
        header = request.headers.get("authorization")
        principal = await people.identify(None if header is None else header.encode("latin-1"))
        if not principal.allows(accounts.Scope.TASKS):
            raise accounts.ScopeMissing(accounts.Scope.TASKS.value)
        return tasks.TaskCaller(
            principal.user_id, operator=principal.role is accounts.UserRole.ADMIN
        )

    return identify


def _invalid(exc: RequestValidationError, _: str) -> HelixError:
    """Name the first field at fault, without what was sent: it may be a password."""
    first = exc.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    return BadInput(f"{where}: {first['msg']}", param=where)


def _http(exc: HTTPException, _: str) -> HelixError:
    if exc.status_code == 404:
        return NotFound("there is no such route")
    if exc.status_code == 405:
        return _MethodNotAllowed("this route does not take that method")
    return BadInput(str(exc.detail))


def _unexpected(_: Exception, request_id: str) -> HelixError:
    return gateway.unexpected(request_id)


class _MethodNotAllowed(Conflict):
    code = "method_not_allowed"
    status = 405
