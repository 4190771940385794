"""Answers given again: the same call, by the same user, within the time its policy allows.

A row of response_cache is a pointer: a hash of the call, and the id of the answer in the record.
The text is not kept twice, and when it is erased from the record the cache knows it no more. What
is hashed is all that can change an answer, and nothing else (ADR 0022).
"""

import asyncio
import hashlib
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.core.db import OUTAGES, Connection, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.gateway.errors import WrongField
from helix.gateway.store import CacheEntry, Store
from helix.gateway.types import Recorded

__all__ = ["CACHE_HEADER", "Cache", "CacheUse", "cache_key", "read_use"]

_log = get_log(__name__)
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)

CACHE_HEADER = b"x-helix-cache"
WRITE_EVERY_S = 0.05
PENDING_MAX = 10_000
_VOLATILE = frozenset({"helix", "metadata", "store", "stream", "stream_options", "user"})


class CacheUse(StrEnum):
    """What a client asks of the cache by `x-helix-cache`."""

    AUTO = "auto"
    BYPASS = "bypass"
    ONLY = "only"
    REFRESH = "refresh"


def read_use(header: bytes | None) -> CacheUse:
    """Return what the header asks for; raises WrongField."""
    if header is None:
        return CacheUse.AUTO
    try:
        return CacheUse(header.decode("latin-1").strip().lower())
    except ValueError:
        known = ", ".join(CacheUse)
        raise WrongField(CACHE_HEADER.decode(), f"the header must be one of {known}") from None


def cache_key(
    fields: dict[str, Any], *, operation: str, model: str, user_id: UUID, scope: str
) -> bytes:
    """Return the 32 bytes under which an answer to these canonical fields is found again.

    Fields are sorted and their JSON is normalised, so that blanks and the order of keys do not
    matter. Left out is what changes no answer: `user`, `metadata`, `store`, whether it is streamed.
    `scope` parts what must not be shared within one user: by default the API key.
    """
    told = {
        name: msgspec.json.decode(fields[name])
        for name in fields
        if name not in _VOLATILE and name != "model"
    }
    parts = [operation, model, str(user_id), scope, told]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).digest()


class Cache:
    """Finds answers to give again, and remembers those that may be. `start` and `stop` it.

    It never fails a call: what goes wrong here is a miss.
    """

    def __init__(self, db: Database, store: Store, clock: Clock, *, entries_max: int) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._entries_max = entries_max
        self._pending: dict[bytes, CacheEntry] = {}
        self._due = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._written = 0

    def start(self) -> None:
        """Begin to write down what is put."""
        self._writer = asyncio.create_task(self._write_forever(), name="helix-response-cache")

    async def stop(self) -> None:
        """Write what is left, and end."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            await self._write()

    async def find(self, user_id: UUID, key: bytes) -> Recorded | None:
        """Return the answer remembered under a key, or None."""
        try:
            async with self._db.transaction(Role.APP, tenant=user_id) as conn:
                found = await self._store.cached_answer(conn, key=key, now=self._clock.now())
        except _TROUBLE as exc:
            _log.warning("cache_not_read", reason=type(exc).__name__)
            return None
        return found if found is not None and found.raw_response is not None else None

    def put(
        self, key: bytes, *, user_id: UUID, request_id: UUID, response_id: UUID, keep_s: float
    ) -> None:
        """Remember an answer for so long; written down a moment later."""
        if len(self._pending) >= PENDING_MAX:
            return
        now = self._clock.now()
        self._pending[key] = CacheEntry(
            key, user_id, request_id, response_id, now, now + timedelta(seconds=keep_s)
        )
        self._due.set()

    async def _write_forever(self) -> None:
        while True:
            await self._due.wait()
            await asyncio.sleep(WRITE_EVERY_S)  # others share the commit
            await self._write()

    async def _write(self) -> None:
        self._due.clear()
        entries, self._pending = list(self._pending.values()), {}
        if not entries:
            return
        try:
            async with self._db.transaction(Role.RECORDER) as conn:
                await self._store.remember_answers(conn, entries)
                await self._bound(conn, len(entries))
        except _TROUBLE as exc:
            _log.warning("cache_not_written", entries=len(entries), reason=type(exc).__name__)

    async def _bound(self, conn: Connection, written: int) -> None:
        """Drop what has expired and what is too much, once in a while."""
        before, self._written = self._written, self._written + written
        step = max(self._entries_max // 20, 1)
        if before // step != self._written // step or before == 0:
            await self._store.trim_cache(conn, now=self._clock.now(), entries_max=self._entries_max)
