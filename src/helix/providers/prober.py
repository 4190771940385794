"""Probes providers, watches for stalls, and writes down what was counted.

However many servers run, each provider is probed about once in probe_interval_s: whoever finds the
probe due takes it up by one conditional update, and only one of any number can.

A stall is when nothing has come from a provider for STALL_S while several calls wait for it. Slow
models look the same, so it is probed at once; only when that fails too, its breaker opens. That
takes STALL_S, TICK_S and CONFIRM_TIMEOUT_S, 7 s at most, however long the calls may wait.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from uuid import UUID

from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.providers.health_store import HealthStore
from helix.providers.policy import Registry
from helix.providers.types import Probe, Provider, Wire
from helix.providers.vitals import Vitals

__all__ = ["Prober"]

_log = get_log(__name__)

TICK_S = 0.5
WRITE_EVERY_S = 10.0
CONFIRM_TIMEOUT_S = 4.0
DROP_EVERY_S = 3_600.0
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)


class Prober:
    """The background work of the domain. `start` and `stop` it with the server."""

    def __init__(
        self,
        db: Database,
        store: HealthStore,
        vitals: Vitals,
        *,
        registry: Callable[[], Registry],
        probe: Callable[[Provider], Awaitable[Probe]],
        interval_s: float,
        timeout_s: float,
    ) -> None:
        self._db = db
        self._store = store
        self._vitals = vitals
        self._registry = registry
        self._probe = probe
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._looked_s: dict[UUID, float] = {}
        self._under_way: dict[tuple[UUID, str], asyncio.Task[None]] = {}
        self._loop_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._loop_task = asyncio.create_task(self._run(), name="helix-probe")

    async def stop(self) -> None:
        """End probes under way and write down what was counted."""
        tasks = [*self._under_way.values(), *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(*_TROUBLE):
            await self.write_counts()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        written_s, dropped_s = loop.time(), loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = loop.time()
            self._look_for_stalls()
            self._begin_due(now_s)
            try:
                if now_s - written_s >= WRITE_EVERY_S:
                    written_s = now_s
                    await self.write_counts()
                if now_s - dropped_s >= DROP_EVERY_S:
                    dropped_s = now_s
                    async with self._db.transaction(Role.OPERATOR) as conn:
                        await self._store.drop_old(conn)
            except _TROUBLE as exc:
                _log.warning("provider_counts_not_written", reason=type(exc).__name__)

    def _begin_due(self, now_s: float) -> None:
        if not self._interval_s:
            return
        known = self._registry().providers.values()
        for provider in known:
            if provider.wire is Wire.MOCK or provider.problem is not None:
                continue
            if now_s - self._looked_s.get(provider.id, -self._interval_s) < self._interval_s / 4:
                continue
            self._looked_s[provider.id] = now_s
            self._begin(provider, "probe", self._take_up(provider))
        for gone in self._looked_s.keys() - {provider.id for provider in known}:
            del self._looked_s[gone]

    def _look_for_stalls(self) -> None:
        by_id = {provider.id: provider for provider in self._registry().providers.values()}
        for provider_id in list(self._vitals.stalled()):
            provider = by_id.get(provider_id)
            if provider is not None:
                self._begin(provider, "stall", self._confirm(provider))

    def _begin(self, provider: Provider, what: str, work: Awaitable[None]) -> None:
        """Run it, unless the same is under way for the provider.

        A probe that hangs does not keep a stall from being looked into.
        """
        key = (provider.id, what)
        if key in self._under_way:
            if asyncio.iscoroutine(work):
                work.close()
            return
        task = asyncio.ensure_future(work)
        self._under_way[key] = task
        task.add_done_callback(lambda _: self._under_way.pop(key, None))

    async def _confirm(self, provider: Provider) -> None:
        probe = await self._ask(provider, CONFIRM_TIMEOUT_S)
        if probe.status is None and self._vitals.trip(provider.id):
            _log.warning("breaker_opened", provider=provider.name, failure="stalled")

    async def _take_up(self, provider: Provider) -> None:
        try:
            async with self._db.transaction(Role.OPERATOR) as conn:
                mine = await self._store.claim_probe(
                    conn, provider_id=provider.id, interval_s=self._interval_s
                )
            if mine:
                await self.probe_and_record(provider)
        except _TROUBLE as exc:
            _log.warning("provider_not_probed", provider=provider.name, reason=type(exc).__name__)

    async def probe_and_record(self, provider: Provider) -> Probe:
        """Probe a provider now and write down how it went; raises what the database does."""
        probe = await self._ask(provider, self._timeout_s)
        async with self._db.transaction(Role.OPERATOR) as conn:
            change = await self._store.record_probe(conn, provider_id=provider.id, probe=probe)
        if change is not None and change[0] is not change[1]:
            _log.info(
                "provider_health",
                provider=provider.name,
                before=change[0].value,
                after=change[1].value,
                problem=probe.problem,
            )
        return probe

    async def _ask(self, provider: Provider, timeout_s: float) -> Probe:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._probe(provider)
        except TimeoutError:
            return Probe(timeout_s * 1_000, problem=f"no answer within {timeout_s:g} s")

    async def write_counts(self) -> None:
        """Add what was counted to the database; kept for the next time when that fails."""
        counts = self._vitals.take_counts()
        if not counts:
            return
        try:
            async with self._db.transaction(Role.OPERATOR) as conn:
                await self._store.record_counts(conn, counts)
        except BaseException:
            self._vitals.put_back(counts)
            raise
