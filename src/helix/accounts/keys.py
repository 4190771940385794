"""Checking presented keys on the hot path: believed for at most a second, then asked anew.

What was read is believed for `cache_s` from before the question was put, so a revoked key is
dead that long after the revocation committed, on every process, without any message between them.
Questions of many callers are put together; a key in steady use is asked about before it goes
stale, so that no call waits.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from helix.accounts.errors import (
    AccountSuspended,
    InvalidKey,
    KeyExpired,
    KeyRevoked,
    MissingKey,
)
from helix.accounts.policy import key_hash, require_key_shape
from helix.accounts.store import KeyFacts, Store
from helix.accounts.types import KeyStatus, Principal, UserStatus
from helix.core.clock import Clock
from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import HelixError, Unavailable
from helix.core.log import get_log

__all__ = ["KeyGate", "bearer", "presented"]

_log = get_log(__name__)
V = TypeVar("V")
_TROUBLE: tuple[type[BaseException], ...] = (HelixError, *OUTAGES)

KNOWN_MAX = 20_000
UNKNOWN_MAX = 5_000
ASKED_MAX = 500
ASK_TIMEOUT_S = 1.5
USED_EVERY_S = 15.0
_KEY_CHARS_MAX = 256
_BEARER = b"bearer "
_REFRESH_AT = 0.5  # of cache_s: from then on a key in use is asked about ahead of time


@dataclass(frozen=True, slots=True)
class _Known:
    read_at_s: float
    principal: Principal
    refusal: Callable[[], HelixError] | None


class KeyGate:
    """Tells who presents a key. Start it before use; `stop` writes what is left to write."""

    def __init__(self, db: Database, store: Store, clock: Clock, *, cache_s: float) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._cache_s = cache_s
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        self._asker: asyncio.Task[None] | None = None
        self._used: set[UUID] = set()
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write, now and then, when keys were last used."""
        self._writer = asyncio.create_task(self._write_used_forever(), name="helix-keys-used")

    async def stop(self) -> None:
        """Write when keys were last used, once more; the database may be away."""
        for task in (self._writer, self._asker):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._write_used()

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """Return who sends the header `Authorization: Bearer <key>`.

        Raises MissingKey, InvalidKey, KeyRevoked, KeyExpired, AccountSuspended; Unavailable when
        the database would have to be asked and is away: never a false refusal.
        """
        key = bearer(authorization)
        digest = key_hash(key)
        known = self._known.get(digest)
        age_s = self._cache_s if known is None else self._clock.monotonic_s() - known.read_at_s
        if age_s >= self._cache_s:
            require_key_shape(key)
            known = await self._ask(digest)
        elif age_s >= self._cache_s * _REFRESH_AT and digest not in self._asked:
            self._ask_soon(digest)
        return self._decide(known)

    def _decide(self, known: _Known | None) -> Principal:
        if known is None:
            raise InvalidKey
        if known.refusal is not None:
            raise known.refusal()
        principal = known.principal
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise KeyExpired
        if principal.api_key_id is not None:
            self._used.add(principal.api_key_id)
        return principal

    async def _ask(self, digest: bytes) -> _Known | None:
        missed_at_s = self._unknown.get(digest)
        if missed_at_s is not None and self._clock.monotonic_s() - missed_at_s < self._cache_s:
            return None
        await asyncio.shield(self._ask_soon(digest))
        return self._known.get(digest)

    def _ask_soon(self, digest: bytes) -> asyncio.Future[None]:
        answer = self._asked.get(digest)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_look_at)
            self._asked[digest] = answer
            if self._asker is None or self._asker.done():
                self._asker = asyncio.create_task(self._answer_all(), name="helix-keys-check")
        return answer

    async def _answer_all(self) -> None:
        while self._asked:
            asked = dict(list(self._asked.items())[:ASKED_MAX])
            error: BaseException | None = None
            try:
                await self._read(list(asked))
            except _TROUBLE as exc:
                error = exc
            except BaseException as exc:
                self._finish(asked, exc)
                raise
            self._finish(asked, error)

    def _finish(
        self, asked: dict[bytes, asyncio.Future[None]], error: BaseException | None
    ) -> None:
        for digest, answer in asked.items():
            self._asked.pop(digest, None)
            if answer.done():
                continue
            if error is None:
                answer.set_result(None)
            else:
                answer.set_exception(_away(error))

    async def _read(self, digests: list[bytes]) -> None:
        read_at_s = self._clock.monotonic_s()
        async with asyncio.timeout(ASK_TIMEOUT_S), self._db.connection(Role.RECORDER) as conn:
            found = await self._store.check_keys(conn, hashes=digests)
        facts = {fact.key_hash: fact for fact in found}
        for digest in digests:
            fact = facts.get(digest)
            if fact is None:
                self._known.pop(digest, None)
                _remember(self._unknown, digest, read_at_s, UNKNOWN_MAX)
            else:
                _remember(self._known, digest, _judge(fact, read_at_s), KNOWN_MAX)

    async def _write_used_forever(self) -> None:
        while True:
            await asyncio.sleep(USED_EVERY_S)
            await self._write_used()

    async def _write_used(self) -> None:
        now = self._clock.now()
        used, self._used = dict.fromkeys(self._used, now), set()
        if not used:
            return
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), self._db.connection(Role.RECORDER) as conn:
                await self._store.touch_keys(conn, used=used)
        except _TROUBLE as exc:
            self._used.update(used)
            _log.warning("keys_used_not_written", keys=len(used), reason=type(exc).__name__)


def presented(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the Authorization header, or, as Anthropic's clients send it, the key in x-api-key.

    An Authorization header goes first: what it holds is judged even when it is wrong.
    """
    authorization = headers.get(b"authorization")
    if authorization is not None:
        return authorization
    key = headers.get(b"x-api-key")
    return None if key is None else b"Bearer " + key


def bearer(authorization: bytes | None, *, chars_max: int = _KEY_CHARS_MAX) -> str:
    """Return the credential of an Authorization header; raises MissingKey or InvalidKey."""
    if not authorization:
        raise MissingKey
    if authorization[: len(_BEARER)].lower() != _BEARER:
        raise MissingKey
    credential = authorization[len(_BEARER) :].strip()
    if not credential:
        raise MissingKey
    if len(credential) > chars_max or not credential.isascii():
        raise InvalidKey
    return credential.decode("ascii")


def _judge(fact: KeyFacts, read_at_s: float) -> _Known:
    refusal: Callable[[], HelixError] | None = None
    if fact.status is KeyStatus.REVOKED:
        refusal = KeyRevoked
    elif fact.status is KeyStatus.EXPIRED:
        refusal = KeyExpired
    elif fact.user_status is not UserStatus.ACTIVE:
        refusal = AccountSuspended
    principal = Principal(
        user_id=fact.user_id,
        role=fact.user_role,
        scopes=fact.scopes,
        api_key_id=fact.id,
        rate_limit=fact.rate_limit,
        expires_at=fact.expires_at,
        model_lists=fact.model_lists,
        cache_max_age_s=fact.cache_max_age_s,
    )
    return _Known(read_at_s, principal, refusal)


def _remember(cache: OrderedDict[bytes, V], digest: bytes, value: V, most: int) -> None:
    cache[digest] = value
    cache.move_to_end(digest)
    while len(cache) > most:
        cache.popitem(last=False)


def _away(error: BaseException) -> BaseException:
    if isinstance(error, HelixError) or not isinstance(error, (asyncio.CancelledError, *OUTAGES)):
        return error
    return Unavailable("the database cannot be reached; try again shortly", retry_after_s=1)


def _look_at(answer: asyncio.Future[None]) -> None:
    if not answer.cancelled():
        answer.exception()  # a refresh ahead of time may fail unseen: the next call asks again
