"""An answer in pieces: passed on as it comes, its last event held back until it is recorded.

Nothing goes to the client before there is content, so that a provider which fails before can be
tried again, or another asked. After the first content a fault is told by an error event.
"""

import asyncio

from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.gateway.attempts import Attempts
from helix.gateway.ending import Ending
from helix.gateway.exchange import Exchange
from helix.gateway.relay import Relay, relay_of
from helix.gateway.sse import EventSplitter
from helix.gateway.turn import Attempt, Cut, Turn
from helix.gateway.types import Outcome, Settlement
from helix.gateway.upstream import Upstream, no_stream
from helix.providers import Reply

__all__ = ["Streams"]

_EVENT_STREAM = "text/event-stream"
_HELD_BYTES_MAX = 65_536


class Streams:
    """Serves calls that want a stream."""

    def __init__(
        self, *, upstream: Upstream, attempts: Attempts, ending: Ending, clock: Clock
    ) -> None:
        self._upstream = upstream
        self._attempts = attempts
        self._ending = ending
        self._clock = clock

    async def serve(self, turn: Turn, exchange: Exchange) -> Settlement | None:
        """Make the call and stream its answer; return what was settled, if it could be.

        Raises the error of a call that told the client nothing yet; it is settled then.
        """
        error: HelixError | None = None
        watch = asyncio.ensure_future(exchange.until_gone())
        watch.add_done_callback(lambda done: None if done.cancelled() else turn.cut_off(Cut.GONE))
        try:
            relay = await self._attempts.run(turn, self._once)
        except HelixError as exc:
            error = exc
        except BaseException:
            self._ending.unheard(turn)
            raise
        finally:
            watch.cancel()
        if turn.cut is Cut.GONE:
            return await self._ending.failed(turn, error, Outcome.CANCELLED)
        if error is not None:
            return await self._broken(turn, exchange, error)
        return await self._whole(turn, exchange, relay)

    async def _once(self, turn: Turn, attempt: Attempt) -> Relay:
        """Pass one try's stream on; return its relay, whose `end` is still to be sent."""
        name = attempt.route.provider.name
        reply = await self._upstream.open(turn, attempt)
        try:
            if reply.content_type != _EVENT_STREAM:
                raise await no_stream(name, reply)
            relay = relay_of(
                turn.dialect,
                turn.request,
                name=name,
                transcript=attempt.transcript,
                operation=attempt.operation,
                request_id=turn.id_text,
            )
            turn.relay = relay
            await self._pass_on(turn, attempt, reply, relay)
        finally:
            reply.close()
        return relay

    async def _pass_on(self, turn: Turn, attempt: Attempt, reply: Reply, relay: Relay) -> None:
        splitter, transcript = EventSplitter(), attempt.transcript
        held: list[bytes] = []
        held_bytes = 0
        while data := await reply.chunk():
            attempt.waiting = False
            before = transcript.content_chunks
            error: HelixError | None = None
            for event in splitter.feed(data):
                try:
                    out = relay.take(event)
                except HelixError as exc:
                    error = exc
                    break
                if out:
                    held.append(out)
                    held_bytes += len(out)
                if relay.end is not None:
                    break
            if transcript.content_chunks != before:
                now_s = self._clock.monotonic_s()
                if attempt.first_s is None:
                    attempt.first_s = now_s
                attempt.heard_s = now_s
                if attempt.arrivals is not None:
                    attempt.arrivals.note(now_s, chunks=transcript.chunks)
            if held and (relay.begun or held_bytes > _HELD_BYTES_MAX):
                await self._tell(turn, attempt, b"".join(held))
                held, held_bytes = [], 0
            if error is not None:
                raise error
            if relay.end is not None:
                return
            attempt.waiting = True
        relay.finish(splitter.rest())
        if held:
            await self._tell(turn, attempt, b"".join(held))

    async def _tell(self, turn: Turn, attempt: Attempt, data: bytes) -> None:
        exchange = turn.exchange
        assert exchange is not None  # noqa: S101 - an invariant: streams have a client
        attempt.told = True
        if not exchange.begun:
            await exchange.begin_stream()
        began_s = self._clock.monotonic_s()
        await exchange.more(data)
        attempt.heard_s += self._clock.monotonic_s() - began_s  # a slow client is no silence

    async def _whole(self, turn: Turn, exchange: Exchange, relay: Relay) -> Settlement | None:
        attempt = turn.attempt
        assert attempt is not None  # noqa: S101 - an invariant: it has just succeeded
        row = self._ending.streamed(turn, attempt, Outcome.COMPLETED, None)
        try:
            await self._ending.settle(turn, row)
        except HelixError as exc:
            if not exchange.begun:
                raise
            await exchange.end(relay.error(exc, exchange.id_text))
            return None
        if not exchange.begun:
            await exchange.begin_stream()
        await exchange.end(relay.end or b"")
        return row

    async def _broken(self, turn: Turn, exchange: Exchange, error: HelixError) -> Settlement | None:
        """Settle and tell the client: by a status if nothing was sent yet, else by an event."""
        attempt = turn.attempt
        chunks = attempt.transcript.chunks if attempt is not None else 0
        outcome = Outcome.INTERRUPTED if chunks else Outcome.FAILED
        row = await self._ending.failed(turn, error, outcome)
        if not exchange.begun or turn.relay is None:
            raise error
        await exchange.end(turn.relay.error(error, exchange.id_text))
        return row
