"""Answers that are recorded already: found, waited for, and told again.

A repeated Idempotency-Key, a hit of the cache and GET /v1/responses/{id} all tell from the record.
Reading is the caller's own: the database shows a tenant nothing but its rows.
"""

import asyncio
import contextlib
from collections import defaultdict
from typing import Any
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError, Unavailable
from helix.gateway.errors import (
    AnswerErased,
    CallFailed,
    KeyInProgress,
    NotRecorded,
    UpstreamAnswered,
)
from helix.gateway.native import canonical_of
from helix.gateway.store import Store
from helix.gateway.types import Recorded

__all__ = ["Replays", "body_of", "error_again", "message_of"]

_TROUBLE: tuple[type[BaseException], ...] = (Unavailable, *OUTAGES)

POLL_FIRST_S = 0.05
POLL_MOST_S = 0.5


class Replays:
    """Finds recorded answers, and waits for those that are being made."""

    def __init__(self, db: Database, store: Store, clock: Clock) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._here: defaultdict[UUID, asyncio.Event] = defaultdict(asyncio.Event)

    async def find(self, user_id: UUID, request_id: UUID) -> Recorded | None:
        """Return a caller's request that has ended; None while it has not, or is not theirs.

        Raises NotRecorded when the database is away.
        """
        try:
            async with self._db.transaction(Role.APP, tenant=user_id) as conn:
                return await self._store.recorded(conn, request_id=request_id)
        except _TROUBLE as exc:
            raise NotRecorded from exc

    async def wait(self, user_id: UUID, request_id: UUID, *, timeout_s: float) -> Recorded:
        """Return a request once it has ended, in whichever process.

        Raises KeyInProgress when it has not by then.
        """
        event = self._here[request_id]
        until_s = self._clock.monotonic_s() + timeout_s
        pause_s = POLL_FIRST_S
        try:
            while True:
                found = await self.find(user_id, request_id)
                if found is not None:
                    return found
                left_s = until_s - self._clock.monotonic_s()
                if left_s <= 0:
                    raise KeyInProgress(timeout_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause_s, left_s)):
                        await event.wait()
                        event.clear()
                pause_s = min(pause_s * 1.5, POLL_MOST_S)
        finally:
            self._here.pop(request_id, None)

    def ended(self, request_id: UUID) -> None:
        """Tell who waits here that a request has ended, so that nobody sleeps longer."""
        if self._here and (event := self._here.get(request_id)) is not None:
            event.set()


def body_of(found: Recorded) -> bytes:
    """Return a recorded answer as it was sent; raises the error of a call that got none."""
    if found.status != "completed":
        raise error_again(found.error_code, found.error)
    if found.raw_response is None:
        raise AnswerErased
    return found.raw_response


def message_of(found: Recorded) -> dict[str, Any]:
    """Return the first choice's message; {} when there is none. Raises what body_of does."""
    raw = body_of(found)
    choices = canonical_of(msgspec.json.decode(raw), raw).get("choices") or [{}]
    message = choices[0].get("message")
    return message if type(message) is dict else {}


def error_again(code: str | None, message: str | None) -> HelixError:
    """Return the error that a recorded code stands for, with the message it had."""
    told = message or "the call failed"
    pending: list[type[HelixError]] = [HelixError]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            error = kind.__new__(kind)
            HelixError.__init__(error, told)
            if isinstance(error, UpstreamAnswered):
                error.provider_code = error.provider_kind = None
            return error
        pending.extend(kind.__subclasses__())
    return CallFailed(told)
