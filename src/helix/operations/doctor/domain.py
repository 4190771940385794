"""The doctor of a server: asked over HTTP, and looking by itself for the metrics."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Database
from helix.core.errors import Unavailable
from helix.core.log import get_log
from helix.operations.doctor.examine import examine
from helix.operations.doctor.metrics import DoctorMetrics
from helix.operations.doctor.routes import build_router
from helix.operations.doctor.scene import Breakers
from helix.operations.doctor.types import Examination

__all__ = ["Doctor"]

_LOG = get_log(__name__)
FIRST_LOOK_S = 3.0


class Doctor:
    """Examines when asked, and every `interval_s`; `start` and `stop` it with the server.

    One examination at a time: who asks meanwhile waits for his turn. It runs in a thread with an
    event loop of its own: listing backups and reading files must not hold up calls.
    """

    def __init__(
        self,
        db: Database,
        settings: Settings,
        keyring: Keyring,
        clock: Clock,
        *,
        counters: CollectorRegistry,
        breakers: Breakers,
    ) -> None:
        self._url = db.url
        self._settings, self._keyring, self._clock = settings, keyring, clock
        self._breakers = breakers
        self._metrics = DoctorMetrics(counters)
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def examine(self, only: frozenset[str] | None = None) -> Examination:
        """Look at everything, or at these codes; raises Unavailable when the database is away."""
        async with self._turn:
            standing = dict(self._breakers())  # read here: they belong to this loop

            def run() -> Examination:
                return asyncio.run(
                    examine(
                        self._url,
                        self._settings,
                        clock=self._clock,
                        keyring=self._keyring,
                        breakers=lambda: standing,
                        only=only,
                    )
                )

            return await asyncio.to_thread(run)

    def router(self, admin: Callable[[Request], Awaitable[object]]) -> APIRouter:
        """Return the routes, for whom `admin` lets pass."""
        return build_router(self.examine, admin)

    async def start(self) -> None:
        """Begin to look by itself, unless the interval is 0."""
        if self._settings.doctor_interval_s:
            self._task = asyncio.create_task(self._look_again_and_again(), name="helix-doctor")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _look_again_and_again(self) -> None:
        await asyncio.sleep(min(FIRST_LOOK_S, self._settings.doctor_interval_s))
        while True:
            try:
                self._metrics.take(await self.examine())
            except Unavailable as exc:
                _LOG.info("doctor_could_not_look", reason=exc.message)
                self._metrics.forget()
            await asyncio.sleep(self._settings.doctor_interval_s)
