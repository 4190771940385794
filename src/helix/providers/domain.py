"""Providers put together: what the server and the gateway hold of this domain."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.providers.adapters import adapters, speaks_natively
from helix.providers.errors import (
    ModelNotFound,
    ProviderNotFound,
    ProviderUnusable,
    UpstreamTimeout,
)
from helix.providers.facts import UNKNOWN_MODEL, ModelFacts
from helix.providers.fetching import read_url
from helix.providers.health_store import Fleet, HealthStore, Kept
from helix.providers.held import HeldReply
from helix.providers.http import HttpClient, HttpLimits
from helix.providers.modelsdev import CATALOG_BYTES_MAX, Catalog, read_catalog
from helix.providers.plan import AttemptResult, Plan, RoutePolicy
from helix.providers.policy import Registry, check_base_url
from helix.providers.prober import Prober
from helix.providers.register import named_by_settings, register
from helix.providers.routing import Router
from helix.providers.store import Store
from helix.providers.types import Call, Operation, Probe, Provider, Reply, Route
from helix.providers.verify import run_checks, score_of
from helix.providers.vitals import Shown, Vitals
from helix.providers.watch import Watched

__all__ = ["Providers", "build"]

_log = get_log(__name__)

REGISTER_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 30.0
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)
_NO_NEEDS: frozenset[str] = frozenset()


class Providers:
    """Finds whom to call for a model, calls them, and remembers how that went.

    `start` and `stop` it with the server. `chance` gives numbers in [0, 1).
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        keyring: Keyring,
        clock: Clock,
        *,
        chance: Callable[[], float],
    ) -> None:
        named_by_settings(settings)  # raises Misuse now, not in the middle of the start
        self._db = db
        self._settings = settings
        self._clock = clock
        self._store = Store(keyring, policy=policy_of(settings))
        self._http = HttpClient(HttpLimits.of(settings))
        self._adapters = adapters(self._http, clock)
        self._lister: asyncio.Task[None] | None = None
        self._registry = Watched(
            db,
            "providers",
            mark=self._store.mark,
            load=self._store.load,
            empty=Registry(),
        )
        health = HealthStore()
        self._vitals = Vitals(
            clock=clock.monotonic_s, chance=chance, concurrent_max=settings.provider_calls_max
        )
        self._router = Router(self._vitals, chance=chance, speaks=self.speaks)
        self._prober = Prober(
            db,
            health,
            self._vitals,
            registry=lambda: self.registry,
            probe=self.probe,
            interval_s=settings.probe_interval_s,
            timeout_s=settings.probe_timeout_s,
        )
        self._health = Watched(
            db, "provider_health", mark=self._health_mark, load=self._take_health, empty=Fleet()
        )
        self._health_store = health
        self._read: Fleet = Fleet()

    @property
    def registry(self) -> Registry:
        """The enabled providers, at most a second old while the database answers."""
        return self._registry.current

    @property
    def loaded(self) -> bool:
        """Whether the registry was ever read."""
        return self._registry.loaded

    def problems(self) -> list[str]:
        """Return what is wrong with providers that cannot be used, a line each."""
        known = self.registry.providers.values()
        return [f"{p.name}: {p.problem}" for p in known if p.problem is not None]

    async def start(self) -> None:
        """Register what the settings name and begin to follow the registry.

        A database that is away does not stop it: the registry is read when it is back.
        """
        self._http.start()
        await self._register()
        await self._registry.start()
        await self._health.start()
        self._lister = asyncio.create_task(self._list_models(), name="helix-list-models")
        self._prober.start()

    async def stop(self) -> None:
        """Stop following, write down what was counted, and close every connection."""
        if self._lister is not None:
            self._lister.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._lister
        await self._prober.stop()
        await self._health.stop()
        await self._registry.stop()
        await self._http.stop()

    async def refresh(self) -> None:
        """Read the registry and the health now, if anything changed; raises what hinders it."""
        await self._registry.refresh()
        await self._health.refresh()

    async def route(self, model: str) -> Route:
        """Return the first place of a model; raises ModelNotFound, or ProviderUnusable.

        A model that is not there is looked for once more in the database: it may have been added
        just now.
        """
        try:
            return self.registry.route(model)
        except ModelNotFound:
            await self._registry.catch_up()
            return self.registry.route(model)

    async def plan(
        self,
        model: str,
        *,
        operation: Operation = Operation.CHAT,
        needs: frozenset[str] = _NO_NEEDS,
        sticky: str | None = None,
        context_tokens: int = 0,
    ) -> Plan:
        """Return where a call of `model` may go, in the order to try; see `routing.py`.

        `needs` are vision, tools, json_schema, streaming, audio, reasoning; `context_tokens` is
        about what prompt and answer take together; `sticky` is the session or user that a sticky
        route keeps together. No I/O, but for a name that is not known: that is looked for once
        more in the database.

        Raises ModelNotFound, ProviderUnusable, OperationUnsupported, or NoProviderHealthy.
        """
        try:
            return self._router.plan(
                self._registry.current,
                model,
                operation=operation,
                needs=needs,
                sticky=sticky,
                context_tokens=context_tokens,
            )
        except ModelNotFound:
            await self._registry.catch_up()
        return self._router.plan(
            self._registry.current,
            model,
            operation=operation,
            needs=needs,
            sticky=sticky,
            context_tokens=context_tokens,
        )

    def permit(self, route: Route) -> bool:
        """Say whether a target may be called now: ask before each attempt, report after it.

        Where a breaker is half open this takes its one trial.
        """
        return route.provider.problem is None and self._vitals.permit(route)

    def wait_s(self, route: Route) -> float:
        """Return the seconds until a target may be called, 0 when it may be now."""
        return self._vitals.wait_s(route)

    def report(self, route: Route, result: AttemptResult) -> None:
        """Learn from an attempt. Once for each that `permit` allowed; without I/O."""
        if self._vitals.report(route, result):
            _log.warning(
                "breaker_opened",
                provider=route.provider.name,
                model=route.model[:200],
                failure=None if result.failure is None else result.failure.value,
            )

    def speaks(self, provider: Provider, operation: Operation) -> bool:
        """Say whether a provider can be asked for an operation."""
        adapter = self._adapters[provider.wire]
        return provider.problem is None and speaks_natively(adapter, provider, operation)

    def model_facts(self, provider: Provider, model: str) -> ModelFacts:
        """Return what is known of a model; never raises."""
        return provider.facts.get(model, UNKNOWN_MODEL)

    def shown(self, provider: Provider) -> Shown:
        """Return what this process sees of a provider, for people."""
        return self._vitals.shown(provider)

    async def open(self, call: Call) -> Reply:
        """Call a provider; see `types.Adapter`.

        The call counts against the provider's limits until its reply is closed.
        Raises ProviderBusy when it would pass one; then nothing was sent.
        """
        provider = call.route.provider
        ticket = self._vitals.enter(provider)
        try:
            reply = await self._adapters[provider.wire].open(call)
        except BaseException:
            ticket.leave()
            raise
        ticket.headed()
        return HeldReply(reply, ticket)

    async def probe(self, provider: Provider) -> Probe:
        """Ask a provider whether it serves; its trouble is told, not raised."""
        return await self._adapters[provider.wire].probe(provider)

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator["Providers"]:
        """Read the registry and be ready to call, without any background work: for commands."""
        self._http.start()
        try:
            await self.refresh()
            yield self
        finally:
            await self._http.stop()

    def provider(self, name: str) -> Provider:
        """Return an enabled provider; raises ProviderNotFound, or ProviderUnusable."""
        provider = self.registry.providers.get(name)
        if provider is None:
            raise ProviderNotFound(name)
        if provider.problem is not None:
            raise ProviderUnusable(name, provider.problem)
        return provider

    async def probe_now(self, name: str) -> Probe:
        """Probe a provider and write it down; raises ProviderNotFound, ProviderUnusable."""
        return await self._prober.probe_and_record(self.provider(name))

    async def read_models(self, name: str) -> int:
        """Ask a provider for its models and add those that are new; return how many it lists.

        Raises ProviderNotFound, ProviderUnusable, and what `types.Adapter.models` does.
        """
        provider = self.provider(name)
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                models = await self._adapters[provider.wire].models(provider)
        except TimeoutError as exc:
            raise UpstreamTimeout(name, "the time to list its models", LIST_TIMEOUT_S) from exc
        async with self._db.transaction(Role.OPERATOR) as conn:
            await self._store.put_models(conn, provider_id=provider.id, models=models)
            await self._store.models_synced(conn, provider_id=provider.id)
        return len(models)

    async def verify(self, name: str, *, model: str | None = None) -> Kept:
        """Run the checks of `verify.py` against a provider, write the score down and return it.

        Without `model` its default model, else the first it lists by name.
        Raises ProviderNotFound, ProviderUnusable, or ModelNotFound when it has none.
        """
        provider = self.provider(name)
        model = model or provider.default_model or min(provider.models, default=None)
        if model is None:
            raise ModelNotFound(f"{name}/")
        route = Route(provider, model)
        outcome = await run_checks(self.open, route, self.model_facts(provider, model))
        async with self._db.transaction(Role.OPERATOR) as conn:
            fleet = await self._health_store.availability(conn)
            asked, failed, own_ms = fleet.pop(provider.id, (0, 0, None))
            kept = score_of(
                model,
                outcome,
                asked=asked,
                failed=failed,
                own_ms=own_ms,
                fleet_ms=[ms for _, _, ms in fleet.values() if ms is not None],
            )
            await self._health_store.record_verification(conn, provider_id=provider.id, kept=kept)
        _log.info("provider_verified", provider=name, model=model, score=str(kept.score))
        return kept

    async def fetch_catalog(self, url: str) -> Catalog:
        """Read the catalogue from an address on the public network, such as models.dev's.

        Raises CatalogUnreadable, and what calling a provider raises.
        """
        data = await read_url(self._http, check_base_url(url), CATALOG_BYTES_MAX)
        host = urlsplit(url).hostname or ""
        return read_catalog(data, source=host, dated=f"{self._clock.now():%Y-%m-%d}")

    async def _health_mark(self, conn: object) -> str:
        self._read = await self._health_store.load(conn)
        return repr((self._read.gateways, sorted(self._read.items())))

    async def _take_health(self, _: object) -> Fleet:
        self._vitals.stored = self._read
        self._vitals.processes = self._read.gateways
        self._vitals.keep(set(self._read))
        return self._read

    async def _register(self) -> None:
        try:
            async with (
                asyncio.timeout(REGISTER_TIMEOUT_S),
                self._db.transaction(Role.OPERATOR) as conn,
            ):
                gone = await register(conn, self._store, self._settings)
        except _TROUBLE as exc:
            _log.warning("providers_not_registered", reason=type(exc).__name__)
        else:
            for name in gone:
                _log.info("provider_withdrawn", provider=name)

    async def _list_models(self) -> None:
        try:
            async with self._db.connection(Role.OPERATOR) as conn:
                unlisted = await self._store.without_models(conn)
        except _TROUBLE:
            return
        for _, name in unlisted:
            provider = self.registry.providers.get(name)
            if provider is None or provider.problem is not None:
                continue
            try:
                models = await self.read_models(name)
                _log.info("models_listed", provider=name, models=models)
            except _TROUBLE as exc:
                _log.warning("models_not_listed", provider=name, reason=type(exc).__name__)


def policy_of(settings: Settings) -> RoutePolicy:
    """Return the policy that the settings name."""
    return RoutePolicy(
        retries_max=settings.retries_max,
        connect_s=settings.connect_timeout_s,
        first_token_s=settings.first_byte_timeout_s,
        between_tokens_s=settings.between_bytes_timeout_s,
        total_s=settings.total_timeout_s,
        retry_after_max_s=settings.retry_after_max_s,
    )


def build(
    db: Database,
    settings: Settings,
    *,
    keyring: Keyring,
    clock: Clock | None = None,
    chance: Callable[[], float] = random.random,
) -> Providers:
    """Put the domain together."""
    return Providers(db, settings, keyring, clock or SystemClock(), chance=chance)
