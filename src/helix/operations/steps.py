"""Work on the tables themselves: as their owner, one at a time, in short steps that give way."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg

from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Queries, connect
from helix.core.errors import Unavailable
from helix.operations.errors import LocksBusy, RetentionBusy

__all__ = ["Opener", "Pause", "Steps", "connected", "count_of", "locked", "opened"]

T = TypeVar("T")
P = ParamSpec("P")
Opener = Callable[[str], Awaitable[Connection]]
"""Opens a connection as the owner of the tables at a URL; the caller closes it."""
Pause = Callable[[float], Awaitable[None]]
"""Waits so many seconds before a step is tried again."""
_QUERIES = Queries("helix.operations")
_GIVES_WAY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_PAUSE_S = 0.05
_PAUSE_MAX_S = 5.0


async def opened(url: str) -> Connection:
    """Open a connection as the login of `url`, which owns the tables."""
    return await connect(url, application_name="helix retention")


@asynccontextmanager
async def connected(url: str, opener: Opener) -> AsyncIterator[Connection]:
    """Lend a connection as the owner of the tables; raises Unavailable."""
    try:
        conn = await opener(url)
    except OUTAGES as exc:
        raise Unavailable(f"the database cannot be reached: {exc}", retry_after_s=1) from exc
    try:
        yield conn
    finally:
        if not conn.is_closed():
            await conn.close()


async def locked(conn: Connection) -> None:
    """Make this connection the only one that retains, archives or restores.

    Raises RetentionBusy. The lock goes with the connection.
    """
    row = await _QUERIES.row(conn, "lock_run")
    if row is None or not row["taken"]:
        raise RetentionBusy


class Steps:
    """Runs steps that need exclusive locks: in short transactions, again when in the way.

    A step waits at most `partition_lock_ms` for a lock, so nobody waits longer for it; between
    tries it stays away for twice as long each time, up to five seconds.
    """

    def __init__(self, conn: Connection, settings: Settings, pause: Pause = asyncio.sleep) -> None:
        self.conn = conn
        self._lock_ms = settings.partition_lock_ms
        self._tries = settings.partition_tries
        self._pause = pause

    async def run(
        self,
        what: str,
        step: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        """Run `step` in one transaction, again until it finds its locks free; raises LocksBusy.

        `what` is being done, for people; the step gets the connection and the other arguments.
        """
        pause_s = _PAUSE_S
        for attempt in range(1, self._tries + 1):
            try:
                async with self.conn.transaction():
                    await _QUERIES.row(self.conn, "set_lock_timeout", lock_timeout_ms=self._lock_ms)
                    return await step(self.conn, *args, **named)
            except _GIVES_WAY as exc:
                if attempt == self._tries:
                    raise LocksBusy(what, self._tries) from exc
            await self._pause(pause_s * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)
        raise LocksBusy(what, self._tries)


def count_of(row: Any, name: str) -> int:
    """Return a count out of a row that an aggregate always gives."""
    return 0 if row is None or row[name] is None else int(row[name])
