"""All of Helix behind one HTTP port.

`/v1`, `/health`, `/ready` and `/metrics` go straight to the gateway; everything else is FastAPI.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from helix import (
    accounts,
    conversations,
    debates,
    gateway,
    knowledge,
    ledger,
    memory,
    providers,
    tasks,
)
from helix.app import callers, recall, work
from helix.app.api import build_api
from helix.app.asking import Asking
from helix.app.bodies import Bodies
from helix.app.holding import hold, quarantined, why_held
from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection, Database
from helix.core.errors import HelixError
from helix.core.ids import IdSource
from helix.core.log import get_log
from helix.core.quarantine import Quarantined, until_released
from helix.core.seats import Seat
from helix.operations import erasure, retention
from helix.operations.backup import routes as backup_routes
from helix.operations.doctor import Doctor
from helix.operations.secrets import SecretsWatch

__all__ = ["App", "build", "started"]

_log = get_log(__name__)
_SESSION_PURPOSE = "helix session tokens"


class App:
    """The ASGI application, and what it is made of. `registry` is all that its worker can do."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        keyring: Keyring,
        clock: Clock,
        *,
        seated: bool,
    ) -> None:
        self._db, self._clock, self._ids = db, clock, IdSource()
        self._held: HelixError | None = None
        counters = CollectorRegistry()
        self._accounts = accounts.build(
            db, settings, signing_keys=lambda: keyring.derived(_SESSION_PURPOSE), clock=clock
        )
        self._providers = providers.build(db, settings, keyring=keyring, clock=clock)
        self._ledger = ledger.build(db, clock=clock)
        self._gateway = gateway.build(
            db,
            settings,
            accounts=self._accounts,
            providers=self._providers,
            ledger=self._ledger,
            clock=clock,
            counters=counters,
        )
        asking = Asking(settings, self._accounts, self._gateway)
        self._memories = memory.build(
            db, settings, clock, embedder=asking.embedder(), erase_content=self._erase_talks
        )
        self._knowledge = knowledge.build(db, settings, clock, embedder=self._memories.embedder)
        self._nodes = memory.build_replication(
            db, settings, keyring, clock, embed=self._memories.embedder is not None
        )
        self._secrets = SecretsWatch(db, keyring)
        self._gateway.add_problems(self._secrets.problems)
        self._talks = self._build_talks(settings, asking)
        self._debates = debates.build(
            db,
            gateway=self._gateway,
            providers=self._providers,
            ledger=self._ledger,
            on_behalf=self._accounts.on_behalf,
            code_roots=settings.debate_code_root_list,
            clock=clock,
        )
        registry = work.fill_registry(
            db,
            settings,
            talks=self._talks,
            embedder=self._memories.embedder,
            extractor=asking.extractor(),
        )
        self._debates.register(registry)
        self.registry = registry
        self._worker = work.build_worker(db, registry, settings, clock, counters)
        self._doctor = Doctor(
            db, settings, keyring, clock, counters=counters, breakers=self._open_breakers
        )
        self._seat: Seat | None = None
        if seated:
            self._seat = Seat(db.url, kind="server", most=settings.connections_max())
        self._webhooks = tasks.webhook_sender(keyring, allowed_hosts=settings.webhook_host_list)
        self._api = build_api(self._routers(settings, keyring, registry), clock)
        self._bodies = Bodies(settings, self._gateway.room)

    def _build_talks(self, settings: Settings, asking: Asking) -> conversations.Conversations:
        """Put conversations together with the calls they are made of."""
        talks = conversations.build(
            self._db,
            settings,
            clock=self._clock,
            read=gateway.request_messages,
            read_answer=gateway.answer_message,
            search_memories=recall.searcher_of(self._memories),
            note_uses=recall.uses_noter(self._clock),
            summarise=asking.summariser(),
            enqueue_compression=work.enqueue_compression,
        )
        self._gateway.add_before(
            conversations.before_hook(talks, window_of=recall.window_of(self._providers))
        )
        self._gateway.add_after(
            conversations.after_hook(talks),
            wanted=lambda request, _: request.options.session is not None,
        )
        return talks

    async def _erase_talks(self, user_id: UUID, sources: memory.Sources | None) -> Sequence[UUID]:
        """Erase the conversations that memories were drawn from; with None all of the user's."""
        if sources is None:
            return await self._talks.erase_all(user_id=user_id)
        return await self._talks.erase_behind(
            user_id=user_id, ids=sources.conversation_ids, response_ids=sources.response_ids
        )

    def _routers(
        self, settings: Settings, keyring: Keyring, registry: tasks.TaskRegistry
    ) -> Sequence[APIRouter]:
        """Return the routes of every domain, each with who may call it."""
        people, scope = self._accounts, accounts.Scope
        return [
            accounts.router(people),
            erasure.build_router(self._db, settings, self._clock, admin=callers.admin_of(people)),
            ledger.router(people, self._db, self._clock),
            providers.build_router(
                self._providers,
                providers.Store(keyring),
                self._db,
                self._clock,
                admin=callers.admin_of(people),
                propose_price=ledger.Proposals(),
            ),
            gateway.build_router(self._db, people),
            tasks.build_router(
                self._db,
                registry,
                callers.task_caller_of(people),
                allowed_hosts=settings.webhook_host_list,
                secret_for=tasks.webhook_secrets(keyring),
            ),
            conversations.build_router(self._talks, callers.conversation_caller_of(people)),
            memory.build_router(
                self._memories,
                callers.user_of(people, scope.MEMORIES),
                may_erase=callers.user_of(people, scope.CONVERSATIONS),
            ),
            knowledge.build_router(self._knowledge, callers.user_of(people, scope.KNOWLEDGE)),
            memory.build_node_router(
                self._nodes,
                self._db,
                self._clock,
                callers.admin_user_of(people),
                compress=settings.memory_compression,
            ),
            self._debates.router(callers.principal_of(people, scope.DEBATES)),
            backup_routes.build_router(
                self._db,
                settings,
                keyring,
                registry,
                self._clock,
                admin=callers.admin_of(people),
            ),
            retention.build_router(self._db, settings, self._clock, callers.admin_of(people)),
            self._doctor.router(callers.admin_of(people)),
        ]

    def _open_breakers(self) -> Mapping[str, str]:
        """Return the providers whose breaker is not closed in this process."""
        states = {
            provider.name: self._providers.shown(provider).breaker.value
            for provider in self._providers.registry.providers.values()
        }
        return {name: state for name, state in states.items() if state != "closed"}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one HTTP request, or the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] != "http":
            return
        elif self._held is not None:
            request_id = str(self._ids.next(self._clock.now()))
            await hold(scope, receive, send, why=self._held, request_id=request_id)
        elif self._gateway.handles(scope["path"]):
            await self._gateway(scope, receive, send)
        else:
            with self._bodies.of(scope, receive) as receive_body:
                await self._api(scope, receive_body, send)

    async def _live(self, receive: Any, send: Any) -> None:
        """Start the domains, lowest floor first; stop them in the opposite order.

        In a restored copy none starts, so nothing in it can act, until it is released.
        """
        await receive()
        async with AsyncExitStack() as stack:
            self._held = await why_held(self._db.url)
            opening: asyncio.Task[None] | None = None
            if self._held is None:
                await self._start(stack)
            else:
                opening = asyncio.create_task(self._open(stack), name="helix-release")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if opening is not None:
                opening.cancel()
                await asyncio.gather(opening, return_exceptions=True)
            self.begin_stop()
        await send({"type": "lifespan.shutdown.complete"})

    def begin_stop(self) -> None:
        """Take no more calls and tasks; those under way may end, or are cut off when time is up.

        A server calls it when it is told to stop: it waits for its clients' streams before it ends
        the application, and their time counts from here.
        """
        self._gateway.begin_stop()
        if self._worker is not None:
            self._worker.stop()

    async def _open(self, stack: AsyncExitStack) -> None:
        """Start as soon as the copy is released."""

        def told(reason: str) -> None:
            if isinstance(self._held, Quarantined):
                self._held = quarantined(reason)

        await until_released(self._db.url, told=told)
        await self._start(stack)
        self._held = None
        _log.warning("released")

    async def spend(self, conn: Connection, task_ids: Sequence[UUID]) -> dict[UUID, Decimal]:
        """Return what tasks have cost in model calls; what the keeper of a worker asks."""
        return await self._ledger.spend_of_tasks(conn, task_ids)

    async def _start(self, stack: AsyncExitStack) -> None:
        """Start every domain; whatever acts by itself must be started here."""
        if self._seat is not None:
            self._seat.start()
            stack.push_async_callback(self._seat.stop)
        self._accounts.start()
        stack.push_async_callback(self._accounts.stop)
        parts = (
            self._secrets,
            self._providers,
            self._ledger,
            self._gateway,
            self._memories,
            self._nodes,
            self._doctor,
        )
        for part in parts:
            await part.start()
            stack.push_async_callback(part.stop)
        stack.push_async_callback(self._debates.stop)
        if self._worker is not None:
            running = asyncio.create_task(
                tasks.run_worker(self._worker, spend=self.spend, webhooks=self._webhooks),
                name="helix-worker",
            )
            stack.push_async_callback(self._stop_worker, self._worker, running)

    @staticmethod
    async def _stop_worker(worker: tasks.Worker, running: "asyncio.Task[None]") -> None:
        """Let running tasks end or hand them back; a worker that failed is logged, not raised."""
        worker.stop()
        try:
            await running
        except Exception as exc:  # noqa: BLE001 - the edge of the worker
            _log.error("worker_failed", exc=exc)


def build(
    settings: Settings, db: Database, keyring: Keyring, clock: Clock, *, seated: bool = True
) -> App:
    """Return the ASGI application of a server; it starts and stops with its lifespan.

    `seated`: it says itself how many connections it may open; a worker does so for all of it.
    """
    return App(settings, db, keyring, clock, seated=seated)


@asynccontextmanager
async def started(application: App) -> AsyncIterator[None]:
    """Keep an application started, without a port, while the block runs."""
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    heard: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, told.get, heard.put))
    await told.put({"type": "lifespan.startup"})
    await heard.get()
    try:
        yield
    finally:
        await told.put({"type": "lifespan.shutdown"})
        await life
