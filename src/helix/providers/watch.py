"""Values kept in memory that follow tables which seldom change.

A mark (one cheap query, twice a second) tells whether anything changed; only then the value is
read again. Polling instead of NOTIFY: it also finds changes made while the connection was down,
and costs two small queries a second.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from helix.core.db import OUTAGES, Connection, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log

__all__ = ["Watched"]

_log = get_log(__name__)
T = TypeVar("T")

EVERY_S = 0.5
CATCH_UP_EVERY_S = 0.05
READ_TIMEOUT_S = 5.0
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)


class Watched(Generic[T]):
    """Holds `current`, at most a second behind the database while that answers.

    While the database is away the last value stays; `loaded` says whether there ever was one.
    """

    def __init__(
        self,
        db: Database,
        name: str,
        *,
        mark: Callable[[Connection], Awaitable[str]],
        load: Callable[[Connection], Awaitable[T]],
        empty: T,
    ) -> None:
        self.current = empty
        self.loaded = False
        self._db = db
        self._name = name
        self._mark = mark
        self._load = load
        self._seen: str | None = None
        self._follower: asyncio.Task[None] | None = None
        self._failing = False
        self._catching_up: asyncio.Task[None] | None = None
        self._caught_up_at_s = 0.0

    async def start(self) -> None:
        """Read the value, if the database is there, and go on following it."""
        await self._try()
        self._follower = asyncio.create_task(self._follow(), name=f"helix-watch-{self._name}")

    async def stop(self) -> None:
        """Stop following."""
        for task in (self._follower, self._catching_up):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def refresh(self) -> None:
        """Read the value now if anything changed; raises what stands in the way."""
        async with asyncio.timeout(READ_TIMEOUT_S), self._db.connection(Role.RECORDER) as conn:
            mark = await self._mark(conn)
            if mark != self._seen:
                self.current = await self._load(conn)
                self._seen, self.loaded = mark, True

    async def catch_up(self) -> None:
        """Read the value now, unless that was done a moment ago; trouble is left to the follower.

        For who misses something in `current` that may have been added just now. Many that ask at
        once share one look, and looks keep a distance of CATCH_UP_EVERY_S.
        """
        now_s = asyncio.get_running_loop().time()
        if self._catching_up is None or (
            self._catching_up.done() and now_s - self._caught_up_at_s >= CATCH_UP_EVERY_S
        ):
            self._caught_up_at_s = now_s
            self._catching_up = asyncio.create_task(self._try(), name=f"helix-look-{self._name}")
        await asyncio.shield(self._catching_up)

    async def _try(self) -> None:
        try:
            await self.refresh()
        except _TROUBLE as exc:
            if not self._failing:
                _log.warning("watch_failed", watch=self._name, reason=type(exc).__name__)
            self._failing = True
        else:
            self._failing = False

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._try()
