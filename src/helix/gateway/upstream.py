"""Opening a try at a provider, and reading what it says whole. Refusals become errors here."""

import contextlib

import msgspec

from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.gateway.intake import upstream_body
from helix.gateway.policy import is_refusal, refusal_of
from helix.gateway.turn import Attempt, Turn
from helix.providers import (
    Call,
    Providers,
    Reply,
    RoutePolicy,
    Timeouts,
    UpstreamBroken,
)

__all__ = ["Upstream", "no_stream", "read_all"]

_REFUSAL_BYTES_MAX = 65_536
_OK = 200
_PASSED_HEADERS = {b"anthropic-beta": "anthropic-beta", b"anthropic-version": "anthropic-version"}


class Upstream:
    """Opens tries."""

    def __init__(self, *, providers: Providers, clock: Clock) -> None:
        self._providers = providers
        self._clock = clock
        self._last = Timeouts()

    def _timeouts(self, policy: RoutePolicy, first_s: float | None) -> Timeouts:
        """Return how long a call may wait; the same object while nothing changes."""
        last, connect_s, between_s = self._last, policy.connect_s, policy.between_tokens_s
        if (last.connect_s, last.first_byte_s, last.between_s) != (connect_s, first_s, between_s):
            last = self._last = Timeouts(connect_s, first_s, between_s)
        return last

    async def open(self, turn: Turn, attempt: Attempt) -> Reply:
        """Call the provider; raises UpstreamAnswered when it refuses."""
        request, route, policy = turn.request, attempt.route, turn.plan.policy
        native = attempt.operation is not request.operation
        call = Call(
            route,
            upstream_body(request, route.model, native=native),
            request.stream,
            turn.id_text,
            request.mock,
            attempt.operation,
            self._timeouts(policy, turn.first_token_s if request.stream else None),
            _passed(turn) if native else None,
        )
        attempt.sent_s = self._clock.monotonic_s()
        attempt.waiting = True
        reply = await self._providers.open(call)
        attempt.http_status = reply.status
        if reply.status == _OK:
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


def _passed(turn: Turn) -> dict[str, str] | None:
    if turn.exchange is None:
        return None
    given = turn.exchange.headers
    return {
        name: given[key].decode("latin-1") for key, name in _PASSED_HEADERS.items() if key in given
    }


async def read_all(reply: Reply) -> bytes:
    """Return the whole body of an answer."""
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


async def no_stream(name: str, reply: Reply) -> HelixError:
    """Return the error of an answer that is no stream, though one was asked for."""
    body = await _read_some(reply)
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    if type(told) is dict and is_refusal(told):
        return refusal_of(name, 502, body, None, None)
    return UpstreamBroken(name, f"it is {reply.content_type[:60] or 'untyped'}, not a stream")
