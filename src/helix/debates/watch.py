"""Waiting for debates to move on: one statement at a time for all who wait, however many."""

import asyncio
from contextlib import suppress
from uuid import UUID

import asyncpg

from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import Unavailable
from helix.debates.service import positions_of
from helix.debates.types import ENDED, DebateId, Status

__all__ = ["Watch"]

POLL_S = 0.1
_TROUBLE = (*OUTAGES, asyncpg.PostgresError, Unavailable)


class Watch:
    """Tells waiters when a debate has new events or has ended.

    It looks only while somebody waits, with one connection, and outlives outages of the database.
    Who may see a debate is for the caller to have decided.
    """

    def __init__(self, db: Database, *, poll_s: float = POLL_S) -> None:
        self._db = db
        self._poll_s = poll_s
        self._waiting: dict[UUID, set[tuple[int, asyncio.Future[None]]]] = {}
        self._look: asyncio.Task[None] | None = None

    async def wait(self, debate_id: DebateId, *, after: int, timeout_s: float) -> bool:
        """Wait until the debate has an event after `after` or has ended or is gone.

        Returns False when `timeout_s` passed first.
        """
        done = asyncio.get_running_loop().create_future()
        entry = (after, done)
        self._waiting.setdefault(debate_id, set()).add(entry)
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_on(), name="helix-debates-watch")
        try:
            async with asyncio.timeout(timeout_s):
                await done
        except TimeoutError:
            return False
        finally:
            left = self._waiting.get(debate_id, set())
            left.discard(entry)
            if not left:
                self._waiting.pop(debate_id, None)
        return True

    async def stop(self) -> None:
        """Stop looking; who still waits waits for its timeout."""
        if self._look is not None:
            self._look.cancel()
            with suppress(asyncio.CancelledError):
                await self._look

    async def _look_on(self) -> None:
        while self._waiting:
            with suppress(*_TROUBLE):
                async with self._db.transaction(Role.OPERATOR) as conn:
                    found = await positions_of(conn, debate_ids=list(self._waiting))
                self._tell(found)
            await asyncio.sleep(self._poll_s)

    def _tell(self, found: dict[UUID, tuple[Status, int]]) -> None:
        for debate_id, waiters in self._waiting.items():
            status, newest = found.get(debate_id, (Status.FAILED, 0))
            for after, done in waiters:
                if not done.done() and (newest > after or status in ENDED):
                    done.set_result(None)
