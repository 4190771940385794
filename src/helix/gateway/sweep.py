"""Closing the calls of gateways that died: a request that nobody works on does not stay open.

Each gateway holds an advisory lock, its lease, for as long as it is connected, and writes the
lease's number with its requests. A request whose lease nobody holds, twice with a pause between,
and not while the database has only just started, is closed as failed, its answer as interrupted.
If its gateway lives after all, the settlement that comes second writes nothing (recorder.py).

What calls hold of budgets and limits is given back with their end. What is held past its time,
a day, is given back here, also when no request on record tells whose it was.
"""

import asyncio
import contextlib

from helix.core.clock import Clock
from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.gateway.recorder import Recorder, Unstorable
from helix.gateway.settle import swept
from helix.gateway.store import Store, Unfinished

__all__ = ["Sweep", "SweepTimes"]

_log = get_log(__name__)
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, Unstorable, *OUTAGES)

BATCH_MAX = 1_000


class SweepTimes:
    """Seconds: after the database's start, between two looks, between two rounds."""

    def __init__(self, grace_s: float = 5.0, pause_s: float = 2.0, every_s: float = 60.0) -> None:
        self.grace_s = grace_s
        self.pause_s = pause_s
        self.every_s = every_s


class Sweep:
    """Looks once at the start, and then every minute, for what dead gateways left open."""

    def __init__(
        self,
        db: Database,
        store: Store,
        recorder: Recorder,
        clock: Clock,
        *,
        lease: int,
        times: SweepTimes,
    ) -> None:
        self._db = db
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._lease = lease
        self._times = times
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._forever(), name="helix-sweep")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def once(self) -> int:
        """Close what dead gateways left open; return how many requests."""
        closed = 0
        while first := await self._dead():
            await asyncio.sleep(self._times.pause_s)
            still = {request.id for request in await self._dead()}
            dead = [request for request in first if request.id in still]
            now = self._clock.now()
            done = [self._recorder.settle(swept(request, now=now), keep=False) for request in dead]
            results = await asyncio.gather(*done, return_exceptions=True)
            settled = sum(result is None for result in results)
            closed += settled
            if not settled:
                break
        return closed

    async def release_expired(self) -> int:
        """Give back what is reserved or held past its time; return how many rows."""
        now = self._clock.now()
        async with self._db.transaction(Role.OPERATOR) as conn:
            return await self._store.release_expired(conn, now=now, max_count=BATCH_MAX)

    async def _dead(self) -> list[Unfinished]:
        async with self._db.connection(Role.OPERATOR) as conn:
            if await self._store.server_uptime_s(conn) < self._times.grace_s:
                raise _TooEarly("the database has only just started")
            open_calls = await self._store.unfinished(conn, lease=self._lease, max_count=BATCH_MAX)
        return [call for call in open_calls if not call.alive]

    async def _forever(self) -> None:
        while True:
            wait_s = self._times.every_s
            try:
                closed = await self.once()
                if closed:
                    _log.warning("calls_of_dead_gateway_closed", calls=closed)
                released = await self.release_expired()
                if released:
                    _log.warning("expired_reservations_released", rows=released)
            except _TooEarly:
                wait_s = self._times.pause_s
            except _TROUBLE as exc:
                wait_s = self._times.pause_s
                _log.warning("sweep_failed", reason=type(exc).__name__)
            await asyncio.sleep(wait_s)


class _TooEarly(HelixError):
    """Live gateways may not have taken their leases again."""
