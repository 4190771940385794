"""The path of a chat call: let in, read, recorded, made, streamed through, recorded, ended.

The order is the promise: the request is committed before a provider is called, and the answer,
its usage and its cost before the client's last byte.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from helix.accounts import Accounts, Principal, Scope
from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.gateway.errors import (
    CallInterrupted,
    NotRecorded,
    RequestUnstorable,
    Stopping,
    TooBusy,
    TotalTimeout,
    UpstreamCut,
    WrongField,
)
from helix.gateway.exchange import Exchange
from helix.gateway.intake import IntakeLimits, read_chat, upstream_body
from helix.gateway.metrics import Metrics
from helix.gateway.ownership import Ownership
from helix.gateway.policy import (
    Answer,
    estimate_prompt,
    is_refusal,
    one_line,
    read_answer,
    read_usage,
    refusal_of,
)
from helix.gateway.recorder import Recorder, Unstorable
from helix.gateway.render import error_event, unexpected
from helix.gateway.settle import NOTHING_USED, settlement
from helix.gateway.sse import DONE, EventSplitter, Transcript, data_of
from helix.gateway.types import Admission, ChatRequest, Outcome, Settlement
from helix.ledger import TOKENS_MAX, Ledger, Usage
from helix.providers import Call, Providers, Reply, Route, UpstreamBroken, estimate_tokens

__all__ = ["CallLimits", "Chat"]

_log = get_log(__name__)
_DONE_EVENT = b"data: [DONE]\n\n"
_EVENT_STREAM = "text/event-stream"
_REFUSAL_BYTES_MAX = 65_536
_NOTE_CHARS_MAX = 255
_READ_HERE_BYTES = 500_000  # reading more takes milliseconds, which others would wait for
INTERRUPTED_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of calls, each by the name of its setting."""

    body_bytes_max: int
    total_timeout_s: float
    calls_in_flight_max: int


class _Cut(Enum):
    """Why a call is cut off from outside."""

    GONE = auto()
    STOPPING = auto()


@dataclass(slots=True, eq=False)
class _Turn:
    """One call under way."""

    exchange: Exchange
    request: ChatRequest
    route: Route
    admission: Admission
    sent_s: float
    first_s: float | None = None
    http_status: int | None = None
    deadline: asyncio.Timeout | None = None
    cut: _Cut | None = None
    transcript: Transcript = field(default_factory=Transcript)

    def cut_off(self, why: _Cut) -> None:
        """End the waiting for the provider, now."""
        if self.deadline is not None and self.cut is None and not self.deadline.expired():
            self.cut = why
            self.deadline.reschedule(asyncio.get_running_loop().time())


class Chat:
    """Makes chat calls. `lease` is written with each request (sweep.py)."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        providers: Providers,
        ledger: Ledger,
        recorder: Recorder,
        ownership: Ownership,
        metrics: Metrics,
        clock: Clock,
        intake: IntakeLimits,
        limits: CallLimits,
        lease: int,
    ) -> None:
        self._accounts = accounts
        self._providers = providers
        self._ledger = ledger
        self._recorder = recorder
        self._ownership = ownership
        self._metrics = metrics
        self._clock = clock
        self._intake = intake
        self._limits = limits
        self._metadata = msgspec.json.encode({"lease": lease}).decode()
        self._turns: set[_Turn] = set()
        self.in_flight = 0
        self.stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, exchange: Exchange) -> None:
        """Serve one `POST /v1/chat/completions`; raises HelixError before the answer began."""
        if self.stopping:
            raise Stopping
        if self.in_flight >= self._limits.calls_in_flight_max:
            most = self._limits.calls_in_flight_max
            raise TooBusy(f"calls_in_flight_max ({most}) calls are under way; try again shortly")
        self.in_flight += 1
        self._idle.clear()
        try:
            await self._handle(exchange)
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def until_idle(self, timeout_s: float) -> bool:
        """Wait until no call is under way, or so long; say whether that is so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return not self.in_flight

    def cut_all(self) -> None:
        """Cut off every call under way; each is settled as interrupted and its client told."""
        for turn in self._turns:
            turn.cut_off(_Cut.STOPPING)

    async def _handle(self, exchange: Exchange) -> None:
        exchange.check_head(self._limits.body_bytes_max)
        principal = await self._accounts.admit(
            exchange.headers.get(b"authorization"), Scope.COMPLETIONS
        )
        body = await exchange.body(self._limits.body_bytes_max)
        if len(body) <= _READ_HERE_BYTES:
            request = read_chat(body, self._intake)
        else:
            request = await asyncio.to_thread(read_chat, body, self._intake)
        route = await self._providers.route(request.model)
        if request.project_id is not None or request.session_id is not None:
            await self._ownership.check(
                principal.user_id, project_id=request.project_id, session_id=request.session_id
            )
        admission = self._admission(exchange, principal, request)
        try:
            await self._recorder.admit(admission)
        except Unstorable as exc:
            raise RequestUnstorable from exc
        turn = _Turn(exchange, request, route, admission, self._clock.monotonic_s())
        self._turns.add(turn)
        try:
            await (self._stream(turn) if request.stream else self._whole(turn))
        finally:
            self._turns.discard(turn)

    def _admission(
        self, exchange: Exchange, principal: Principal, request: ChatRequest
    ) -> Admission:
        headers = exchange.headers
        return Admission(
            id=exchange.request_id,
            user_id=principal.user_id,
            api_key_id=principal.api_key_id,
            session_id=request.session_id or principal.session_id,
            project_id=request.project_id,
            agent_id=request.agent_id,
            model_name=request.model,
            stream=request.stream,
            model_params=request.params,
            idempotency_key=_note(headers, b"idempotency-key"),
            client_request_id=_note(headers, b"x-client-request-id"),
            metadata=self._metadata,
            created_at=self._clock.now(),
            request_body=request.text,
            body_bytes=request.body_bytes,
        )

    # ---- an answer in one piece

    async def _whole(self, turn: _Turn) -> None:
        try:
            body = await self._fetch(turn)
            answer = read_answer(turn.route.provider.name, body)
        except HelixError as exc:
            await self._settle_failed(turn, exc, Outcome.FAILED)
            raise
        except BaseException:
            self._settle_unheard(turn)
            raise
        await self._settle(turn, self._completed(turn, answer))
        await turn.exchange.reply(200, body, b"application/json", [])

    async def _fetch(self, turn: _Turn) -> bytes:
        name = turn.route.provider.name
        try:
            async with asyncio.timeout(self._limits.total_timeout_s) as turn.deadline:
                reply = await self._open(turn)
                try:
                    body = await _read(reply)
                finally:
                    reply.close()
        except TimeoutError as exc:
            raise self._why_cut(turn) from exc
        if not body.strip():
            raise UpstreamBroken(name, "it is empty")
        return body

    async def _open(self, turn: _Turn) -> Reply:
        """Call the provider; raises UpstreamAnswered when it refuses."""
        route = turn.route
        call = Call(
            route,
            upstream_body(turn.request, route.model),
            turn.request.stream,
            turn.exchange.id_text,
            turn.request.mock,
        )
        turn.sent_s = self._clock.monotonic_s()
        reply = await self._providers.open(call)
        turn.http_status = reply.status
        if reply.status == 200:
            return reply
        try:
            body = await _read_some(reply)
        finally:
            reply.close()
        if 200 <= reply.status < 400:
            raise UpstreamBroken(route.provider.name, f"it has the status {reply.status}")
        raise refusal_of(
            route.provider.name, reply.status, body, reply.retry_after, self._clock.now()
        )

    def _why_cut(self, turn: _Turn) -> HelixError:
        if turn.cut is not None:
            return Stopping()
        return TotalTimeout(self._limits.total_timeout_s)

    # ---- an answer in pieces

    async def _stream(self, turn: _Turn) -> None:
        error: HelixError | None = None
        watch = asyncio.ensure_future(turn.exchange.until_gone())
        watch.add_done_callback(lambda done: None if done.cancelled() else turn.cut_off(_Cut.GONE))
        try:
            last = await self._relay(turn)
        except HelixError as exc:
            error = exc
        except BaseException:
            self._settle_unheard(turn)
            raise
        finally:
            watch.cancel()
        if turn.cut is _Cut.GONE:
            await self._settle_failed(turn, error, Outcome.CANCELLED)
        elif error is not None:
            await self._end_broken(turn, error)
        else:
            await self._end_whole(turn, last)

    async def _relay(self, turn: _Turn) -> bytes:
        """Pass the stream on; return the event that ends it, which is still to be sent."""
        name = turn.route.provider.name
        try:
            async with asyncio.timeout(self._limits.total_timeout_s) as turn.deadline:
                reply = await self._open(turn)
                try:
                    if reply.content_type != _EVENT_STREAM:
                        raise await _no_stream(name, reply)
                    return await self._pass_on(turn, reply)
                finally:
                    reply.close()
        except TimeoutError as exc:
            raise self._why_cut(turn) from exc

    async def _pass_on(self, turn: _Turn, reply: Reply) -> bytes:
        splitter, exchange = EventSplitter(), turn.exchange
        while data := await reply.chunk():
            forward: list[bytes] = []
            end: bytes | None = None
            error: HelixError | None = None
            for event in splitter.feed(data):
                told = data_of(event)
                if told == DONE:
                    end = event
                    break
                try:
                    if told and not self._take(turn, told):
                        continue
                except HelixError as exc:
                    error = exc
                    break
                forward.append(event)
            if forward:
                if not exchange.begun:
                    await exchange.begin_stream()
                await exchange.more(b"".join(forward))
            if error is not None:
                raise error
            if end is not None:
                return end
        if told := data_of(splitter.rest()):
            if told == DONE:
                return _DONE_EVENT
            raise UpstreamCut(turn.route.provider.name)
        if turn.transcript.finished:
            return _DONE_EVENT
        raise UpstreamCut(turn.route.provider.name)

    def _take(self, turn: _Turn, told: bytes) -> bool:
        """Note a chunk; return whether the client is to see it. Raises what it tells of."""
        name = turn.route.provider.name
        try:
            chunk = msgspec.json.decode(told)
            if type(chunk) is not dict:
                raise UpstreamBroken(name, "a chunk of its stream is no object")
            if is_refusal(chunk):
                raise refusal_of(name, 502, told, None, None)
            if turn.transcript.take(chunk) and turn.first_s is None:
                turn.first_s = self._clock.monotonic_s()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
            raise UpstreamBroken(name, "a chunk of its stream is not what it should be") from exc
        only_usage = not chunk.get("choices") and chunk.get("usage") is not None
        return turn.request.include_usage or not only_usage

    async def _end_whole(self, turn: _Turn, last: bytes) -> None:
        exchange = turn.exchange
        try:
            await self._settle(turn, self._streamed(turn, Outcome.COMPLETED, None))
        except HelixError as exc:
            if not exchange.begun:
                raise
            await exchange.end(error_event(exc, exchange.id_text))
            return
        if not exchange.begun:
            await exchange.begin_stream()
        await exchange.end(last)

    async def _end_broken(self, turn: _Turn, error: HelixError) -> None:
        """Settle and tell the client: by a status if nothing was sent yet, else by an event."""
        begun = turn.exchange.begun
        outcome = Outcome.INTERRUPTED if turn.transcript.chunks else Outcome.FAILED
        await self._settle_failed(turn, error, outcome)
        if not begun:
            raise error
        await turn.exchange.end(error_event(error, turn.exchange.id_text))

    # ---- the record of the end

    def _completed(self, turn: _Turn, answer: Answer) -> Settlement:
        usage = read_usage(answer.usage) or Usage(
            estimate_prompt(turn.request),
            min(estimate_tokens(answer.content or ""), TOKENS_MAX),
            estimated=True,
        )
        return self._settlement(
            turn,
            Outcome.COMPLETED,
            None,
            usage,
            model=answer.model,
            upstream_id=answer.upstream_id,
            finish_reason=answer.finish_reason,
            content=answer.content,
            raw_response=answer.text,
        )

    def _streamed(self, turn: _Turn, outcome: Outcome, error: HelixError | None) -> Settlement:
        transcript = turn.transcript
        usage = read_usage(transcript.usage)
        if usage is None and transcript.chunks:
            told = min(estimate_tokens(transcript.told_text()), TOKENS_MAX)
            usage = Usage(estimate_prompt(turn.request), told, estimated=True)
        return self._settlement(
            turn,
            outcome,
            error,
            usage or NOTHING_USED,
            model=_short(transcript.model),
            upstream_id=_short(transcript.upstream_id),
            finish_reason=_short(transcript.finish_reason, 50),
            content=transcript.content,
            raw_response=transcript.as_json(),
        )

    def _settlement(
        self,
        turn: _Turn,
        outcome: Outcome,
        error: HelixError | None,
        usage: Usage,
        *,
        model: str | None,
        upstream_id: str | None,
        finish_reason: str | None,
        content: str | None,
        raw_response: str | None,
    ) -> Settlement:
        provider, called = turn.route.provider, turn.route.model
        latency_s = self._clock.monotonic_s() - turn.sent_s
        first_s = None if turn.first_s is None else turn.first_s - turn.sent_s
        answered = model or called
        self._metrics.call(
            provider.name,
            outcome.value,
            seconds=latency_s,
            first_s=first_s,
            prompt=usage.prompt,
            completion=usage.completion,
        )
        return settlement(
            turn.admission,
            outcome=outcome,
            now=self._clock.now(),
            provider_id=provider.id,
            provider_name=provider.name,
            model_name=answered,
            latency_s=latency_s,
            usage=usage,
            charge=self._ledger.charge(
                usage,
                provider=provider.name,
                models=(called, answered),
                at=turn.admission.created_at,
            ),
            error=error,
            http_status=turn.http_status,
            upstream_id=upstream_id,
            first_token_s=first_s,
            chunk_count=turn.transcript.chunks if turn.request.stream else None,
            finish_reason=finish_reason,
            content=content,
            raw_response=raw_response,
        )

    async def _settle(self, turn: _Turn, row: Settlement) -> None:
        """Record the end of a call; on return it is committed.

        An answer that PostgreSQL does not take is recorded as a failure and raised as one.
        """
        try:
            await self._recorder.settle(row)
        except Unstorable as exc:
            error = UpstreamBroken(turn.route.provider.name, "it cannot be recorded")
            bare = row._replace(
                request_status="failed",
                status=Outcome.FAILED.value,
                error_code=error.code,
                error=error.message,
                upstream_id=None,
                finish_reason=None,
                model_name=turn.route.model,
                provider_id=None,
                content=None,
                raw_response=None,
            )
            with contextlib.suppress(Unstorable):
                await self._recorder.settle(bare)
            raise error from exc

    async def _settle_failed(self, turn: _Turn, error: HelixError | None, outcome: Outcome) -> None:
        """Record a call that did not come to its end. The client is told of that, not of this."""
        try:
            await self._settle(turn, self._streamed(turn, outcome, error))
        except (NotRecorded, CallInterrupted, UpstreamBroken) as exc:
            _log.warning("settle_late", request_id=turn.exchange.id_text, reason=exc.code)

    def _settle_unheard(self, turn: _Turn) -> None:
        """Record, without waiting, a call that a fault of ours or the end of the process broke."""
        error = unexpected(turn.exchange.id_text)
        row = self._streamed(turn, Outcome.INTERRUPTED, error)
        self._recorder.settle(row).add_done_callback(_look_at)


def _look_at(done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and done.exception() is not None:
        _log.warning("settle_unheard", reason=type(done.exception()).__name__)


def _note(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    if value is None:
        return None
    text = value.decode("latin-1")
    if not 0 < len(text) <= _NOTE_CHARS_MAX or not text.isprintable():
        raise WrongField(
            name.decode(), f"the header must be 1 to {_NOTE_CHARS_MAX} printable characters"
        )
    return text


def _short(text: str | None, chars_max: int = 255) -> str | None:
    return None if text is None else one_line(text, chars_max)


async def _read(reply: Reply) -> bytes:
    first = await reply.chunk()
    parts = [first]
    while first and (data := await reply.chunk()):
        parts.append(data)
    return b"".join(parts) if len(parts) > 1 else first


async def _read_some(reply: Reply) -> bytes:
    """Return the beginning of a refusal; that it is long or breaks off makes it no less one."""
    body = b""
    with contextlib.suppress(HelixError):
        while len(body) < _REFUSAL_BYTES_MAX and (data := await reply.chunk()):
            body += data
    return body[:_REFUSAL_BYTES_MAX]


async def _no_stream(name: str, reply: Reply) -> HelixError:
    """Return the error of an answer that is no stream, though one was asked for."""
    body = await _read_some(reply)
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    if type(told) is dict and is_refusal(told):
        return refusal_of(name, 502, body, None, None)
    return UpstreamBroken(name, f"it is {reply.content_type[:60] or 'untyped'}, not a stream")
