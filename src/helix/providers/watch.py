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

    async def start(self) -> None:
        """Read the value, if the database is there, and go on following it."""
        await self._try()
        self._follower = asyncio.create_task(self._follow(), name=f"helix-watch-{self._name}")

    async def stop(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    async def refresh(self) -> None:
        """Read the value now if anything changed; raises what stands in the way."""
        async with asyncio.timeout(READ_TIMEOUT_S), self._db.connection(Role.RECORDER) as conn:
            mark = await self._mark(conn)
            if mark != self._seen:
                self.current = await self._load(conn)
                self._seen, self.loaded = mark, True

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
