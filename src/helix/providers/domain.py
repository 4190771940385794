"""Providers put together: what the server and the gateway hold of this domain."""

import asyncio
import contextlib

from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.providers.errors import ModelNotFound, ProviderUnusable
from helix.providers.http import HttpClient, HttpLimits
from helix.providers.mock import MockAdapter
from helix.providers.openai import OpenAIAdapter
from helix.providers.policy import Registry
from helix.providers.register import named_by_settings, register
from helix.providers.store import Store
from helix.providers.types import Call, Reply, Route, Wire
from helix.providers.watch import Watched

__all__ = ["Providers", "build"]

_log = get_log(__name__)

REGISTER_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 30.0
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)


class Providers:
    """Finds the provider of a model and calls it. `start` and `stop` it with the server."""

    def __init__(self, db: Database, settings: Settings, keyring: Keyring, clock: Clock) -> None:
        named_by_settings(settings)  # raises Misuse now, not in the middle of the start
        self._db = db
        self._settings = settings
        self._store = Store(keyring)
        self._http = HttpClient(HttpLimits.of(settings))
        self._openai = OpenAIAdapter(self._http)
        self._mock = MockAdapter(clock)
        self._lister: asyncio.Task[None] | None = None
        self._registry = Watched(
            db,
            "providers",
            mark=self._store.mark,
            load=self._store.load,
            empty=Registry(),
        )

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
        self._lister = asyncio.create_task(self._list_models(), name="helix-list-models")

    async def stop(self) -> None:
        """Stop following and close every connection."""
        if self._lister is not None:
            self._lister.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._lister
        await self._registry.stop()
        await self._http.stop()

    async def route(self, model: str) -> Route:
        """Return where a model is; raises ModelNotFound, or ProviderUnusable.

        A model that is not there is looked for once more in the database: it may have been added
        just now.
        """
        try:
            return self.registry.route(model)
        except ModelNotFound:
            await self._registry.catch_up()
            return self.registry.route(model)

    async def open(self, call: Call) -> Reply:
        """Call a provider; see `types.Adapter`."""
        wire = call.route.provider.wire
        if wire is Wire.OPENAI:
            return await self._openai.open(call)
        if wire is Wire.MOCK:
            return await self._mock.open(call)
        raise ProviderUnusable(
            call.route.provider.name, f"Helix does not speak {wire.value} yet; use openai"
        )

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
        for provider_id, name in unlisted:
            provider = self.registry.providers.get(name)
            if provider is None or provider.problem is not None:
                continue
            try:
                async with asyncio.timeout(LIST_TIMEOUT_S):
                    models = await self._openai.models(provider)
                async with self._db.transaction(Role.OPERATOR) as conn:
                    await self._store.put_models(conn, provider_id=provider_id, models=models)
                _log.info("models_listed", provider=name, models=len(models))
            except _TROUBLE as exc:
                _log.warning("models_not_listed", provider=name, reason=type(exc).__name__)


def build(
    db: Database, settings: Settings, *, keyring: Keyring, clock: Clock | None = None
) -> Providers:
    """Put the domain together."""
    return Providers(db, settings, keyring, clock or SystemClock())
