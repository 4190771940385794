"""The path of a call: let in, read, recorded, made, streamed through, recorded, ended.

The order is the promise: the request is committed before a provider is called, and the answer,
its usage and its cost before the client's last byte. Here is the order; each step is a file:
attempts.py (trying), whole.py and stream.py (answers), ending.py (records), replay.py (answers
that are recorded already), cache.py, virtual_run.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import UUID

import msgspec

from helix.accounts import Accounts, Principal, Scope, presented
from helix.core.clock import Clock
from helix.core.log import get_log
from helix.core.room import Room
from helix.gateway.admitting import Admitting, Notes
from helix.gateway.answers import stream_again, whole_again
from helix.gateway.cache import CACHE_HEADER, Cache, CacheUse, cache_key, read_use
from helix.gateway.dialects.types import Dialect
from helix.gateway.ending import Ending
from helix.gateway.errors import ModelNotAllowed, NotCached, Stopping, TooBusy, WrongField
from helix.gateway.exchange import Exchange
from helix.gateway.hooks import BeforeHook, Injected
from helix.gateway.intake import IntakeLimits
from helix.gateway.kept import KeptResponses
from helix.gateway.ownership import Ownership
from helix.gateway.policy import may_call
from helix.gateway.replay import Replays, body_of
from helix.gateway.settle import cached_settlement
from helix.gateway.stream import Streams
from helix.gateway.turn import Cut, Turn
from helix.gateway.types import CallRequest, Recorded
from helix.gateway.virtual import Asked
from helix.gateway.virtual_run import Virtuals
from helix.gateway.waits import Waits
from helix.gateway.whole import Wholes, client_body
from helix.providers import Operation, OperationUnsupported, Plan, Providers

__all__ = ["CallLimits", "Calls"]

_log = get_log(__name__)
_JSON = b"application/json"
_READ_HERE_BYTES = 500_000  # reading more takes milliseconds, which others would wait for
TICK_S = 0.1
_SCOPES = {Operation.EMBEDDINGS: (Scope.EMBEDDINGS, Scope.COMPLETIONS)}
_NUMBERS = frozenset({Operation.EMBEDDINGS, Operation.MODERATIONS})


class Reads(Protocol):
    """Reads requests: a dialect, or one that only counts."""

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for."""
        ...


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of calls, each by the name of its setting."""

    body_bytes_max: int
    bodies_bytes_max: int
    body_timeout_s: float
    calls_in_flight_max: int
    idempotency_wait_s: float
    cache_ttl_s: float


class Calls:
    """Makes calls. `start` it in the loop it works in."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        providers: Providers,
        admitting: Admitting,
        ownership: Ownership,
        ending: Ending,
        wholes: Wholes,
        streams: Streams,
        virtuals: Virtuals,
        replays: Replays,
        kept: KeptResponses,
        cache: Cache,
        clock: Clock,
        intake: IntakeLimits,
        limits: CallLimits,
    ) -> None:
        self._accounts = accounts
        self._providers = providers
        self._admitting = admitting
        self._ownership = ownership
        self._ending = ending
        self._wholes = wholes
        self._streams = streams
        self._virtuals = virtuals
        self._replays = replays
        self._kept = kept
        self._cache = cache
        self._clock = clock
        self._intake = intake
        self._limits = limits
        self._turns: set[Turn] = set()
        self._waits = Waits(clock)
        self._ticker: asyncio.TimerHandle | None = None
        self.before: list[BeforeHook] = []
        self.room = Room(max(limits.bodies_bytes_max, limits.body_bytes_max))
        self.in_flight = 0
        self.stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    # ---- life

    def start(self) -> None:
        """Begin to watch the time of calls."""
        self._tick()

    def stop(self) -> None:
        """End the watching."""
        if self._ticker is not None:
            self._ticker.cancel()

    def _tick(self) -> None:
        now_s = self._clock.monotonic_s()
        for turn in self._turns:
            turn.check_time(now_s)
            turn.look_after_client(now_s - TICK_S)
        self._waits.check(now_s)
        self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def until_idle(self, timeout_s: float) -> bool:
        """Wait until no call is under way, or so long; say whether that is so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return not self.in_flight

    def cut_all(self) -> None:
        """Cut off every call under way; each is settled as interrupted and its client told."""
        for turn in self._turns:
            turn.cut_off(Cut.STOPPING)

    def enter(self) -> None:
        """Count a call in; raises Stopping or TooBusy. `leave` when it is over."""
        if self.stopping:
            raise Stopping
        if self.in_flight >= self._limits.calls_in_flight_max:
            most = self._limits.calls_in_flight_max
            raise TooBusy(f"calls_in_flight_max ({most}) calls are under way; try again shortly")
        self.in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """Count a call out."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    # ---- a client's call

    async def handle(self, exchange: Exchange, dialect: Dialect) -> None:
        """Serve one call of a client; raises HelixError before the answer began."""
        self.enter()
        try:
            await self._handle(exchange, dialect)
        finally:
            self.leave()

    async def _handle(self, exchange: Exchange, dialect: Dialect) -> None:
        self.check_head(exchange)
        scopes = _SCOPES.get(dialect.operation, (Scope.COMPLETIONS,))
        principal = await self._accounts.admit(presented(exchange.headers), *scopes)
        body = await self.body(exchange)
        request = await self.read(dialect, body)
        exchange.release()
        if request.previous is not None:
            request = await self._kept.go_on(principal, request)
        use = read_use(exchange.headers.get(CACHE_HEADER))
        notes = Notes.of(exchange.headers, dialect.path, body)
        turn = await self.prepare(
            principal, dialect, request, request_id=exchange.request_id, exchange=exchange
        )
        found = await self._look(turn, use)
        verdict = await self._admitting.admit(turn, notes, free=found is not None)
        if verdict is not None:
            exchange.replayed()
            again = await self._replays.wait(
                principal.user_id,
                verdict,
                timeout_s=min(self._limits.idempotency_wait_s, turn.total_s),
            )
            await self._tell_again(exchange, turn, again)
            return
        exchange.recorded()
        async with self.under_way(turn):
            if found is not None:
                await self._settle_found(turn, found)
                await self._tell_again(exchange, turn, found)
            elif turn.virtual:
                await self._virtuals.serve(turn, exchange)
            elif request.stream:
                await self._streams.serve(turn, exchange)
            else:
                turn.ends_with_client = notes.idempotency_key is None
                fetched = await self._wholes.fetch(turn)
                await exchange.reply(200, client_body(turn, fetched), _JSON)

    def check_head(self, exchange: Exchange) -> None:
        """Refuse a body that says it is too large."""
        exchange.check_head(self._limits.body_bytes_max)

    async def body(self, exchange: Exchange) -> bytes:
        """Return the body of a request, within limits."""
        limits = self._limits
        return await exchange.body(
            limits.body_bytes_max, limits.body_timeout_s, self._waits, self.room
        )

    async def read(self, dialect: Reads, body: bytes) -> CallRequest:
        """Return the request in a body, read beside other calls when that takes long."""
        if len(body) <= _READ_HERE_BYTES:
            return dialect.read(body, self._intake)
        return await asyncio.to_thread(dialect.read, body, self._intake)

    # ---- what every call goes through

    async def prepare(
        self,
        principal: Principal,
        dialect: Dialect,
        request: CallRequest,
        *,
        request_id: UUID,
        exchange: Exchange | None,
    ) -> Turn:
        """Return a call that may be admitted: owned, planned, with what hooks added to it."""
        options = request.options
        if options.project_id is not None or options.session_id is not None:
            await self._ownership.check(
                principal.user_id, project_id=options.project_id, session_id=options.session_id
            )
        injected: Injected | None = None
        if self.before and exchange is not None and request.operation not in _NUMBERS:
            request, injected = await self._inject(request, principal, request_id)
        if options.session is not None:
            session_id = None if injected is None else injected.session_id
            if session_id is None:
                session_id = await self._ownership.session(principal.user_id, options.session)
            request = replace(request, options=replace(options, session_id=session_id))
        virtual = self._virtuals.takes(request)
        asked: tuple[Asked, ...] = ()
        if virtual:
            plan, asked = await self._virtuals.plan(principal, request)
        else:
            plan = await self._plan(request, dialect)
        if principal.model_lists and not may_call(principal, request, plan):
            raise ModelNotAllowed(request.model)
        total_s = plan.policy.total_s
        if options.timeout_s is not None:
            total_s = min(total_s, options.timeout_s)
        return Turn(
            request_id=request_id,
            id_text=str(request_id),
            principal=principal,
            dialect=dialect,
            request=request,
            plan=plan,
            began_s=self._clock.monotonic_s(),
            total_s=total_s,
            exchange=exchange,
            injected=injected,
            virtual=virtual,
            asked=asked,
        )

    async def _plan(self, request: CallRequest, dialect: Dialect) -> Plan:
        operation = request.operation
        if request.native_only is not None and dialect.native is not None:
            operation = dialect.native
        try:
            return await self._providers.plan(
                request.model,
                operation=operation,
                needs=request.needs,
                sticky=request.options.sticky,
            )
        except OperationUnsupported as exc:
            if request.native_only is None:
                raise
            raise WrongField(*request.native_only) from exc

    async def _inject(
        self, request: CallRequest, principal: Principal, request_id: UUID
    ) -> tuple[CallRequest, Injected | None]:
        """Return the request with what the hooks added, and what that was, all told together."""
        added: Injected | None = None
        for hook in self.before:
            one = await hook(request, principal, request_id)
            if one is None:
                continue
            added = one if added is None else _both(added, one)
            if one.messages is not None:
                messages = msgspec.Raw(msgspec.json.encode(one.messages))
                request = replace(request, fields={**request.fields, "messages": messages})
        return request, added

    @asynccontextmanager
    async def under_way(self, turn: Turn) -> AsyncIterator[None]:
        """Watch the time of an admitted call, and let it be cut off."""
        self._turns.add(turn)
        try:
            yield
        finally:
            self._turns.discard(turn)
            if turn.watch is not None:
                turn.watch.cancel()

    # ---- answers that are there already

    async def _look(self, turn: Turn, use: CacheUse) -> Recorded | None:
        """Return an answer to give again, and note under what to remember a new one."""
        keep_s = self._keep_s(turn)
        exchange = turn.exchange
        if keep_s <= 0 or use is CacheUse.BYPASS or turn.virtual:
            if use is CacheUse.ONLY:
                raise NotCached
            return None
        principal, request = turn.principal, turn.request
        turn.cache_key = cache_key(
            request.fields,
            operation=request.operation.value,
            model=request.model,
            user_id=principal.user_id,
            scope=str(principal.api_key_id or ""),
        )
        turn.cache_s = keep_s
        found = None
        if use is not CacheUse.REFRESH:
            found = await self._cache.find(principal.user_id, turn.cache_key)
        if found is None and use is CacheUse.ONLY:
            raise NotCached
        if exchange is not None:
            exchange.note(CACHE_HEADER, b"miss" if found is None else b"hit")
        if found is not None:
            turn.cache_key = None
        return found

    def _keep_s(self, turn: Turn) -> float:
        """Return how long the answer to a call may be given again; 0 not at all.

        The key's policy is the most there is: no route makes an answer older than it allows. A
        call may ask, or ask not, by `helix.cache`.
        """
        wanted = turn.request.options.cache
        if wanted is False or turn.injected is not None:
            return 0.0
        most_s, keep_s = turn.principal.cache_max_age_s, turn.plan.policy.cache_s
        if keep_s is None:
            if most_s is not None:
                return float(most_s)
            return self._limits.cache_ttl_s if wanted else 0.0
        return keep_s if most_s is None else min(keep_s, float(most_s))

    async def _settle_found(self, turn: Turn, found: Recorded) -> None:
        row = cached_settlement(
            turn.admission,
            found,
            now=self._clock.now(),
            latency_s=self._clock.monotonic_s() - turn.began_s,
        )
        await self._ending.settle(turn, row)

    async def _tell_again(self, exchange: Exchange, turn: Turn, found: Recorded) -> None:
        """Give a recorded answer to a client, as its API tells it; raises its error."""
        raw = body_of(found)
        dialect, request, told_id = turn.dialect, turn.request, str(found.request_id)
        if not request.stream:
            body = whole_again(raw, dialect, request, told_id)
            await exchange.reply(200, body, _JSON)
            return
        await exchange.begin_stream()
        for part in stream_again(raw, dialect, request, told_id):
            await exchange.more(part)
        await exchange.end(b"")


def _both(first: Injected, then: Injected) -> Injected:
    memory: Mapping[str, object] | None = first.memory
    if then.memory is not None:
        memory = {**(first.memory or {}), **then.memory}
    return Injected(
        messages=then.messages or first.messages,
        memory=memory,
        prompt_id=then.prompt_id or first.prompt_id,
        session_id=then.session_id or first.session_id,
    )
