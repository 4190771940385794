"""What becomes of a provider's events on their way to the client. Pure.

Three ways: as they came (the client speaks the provider's format), as they came but read on the
way (a native API), or told anew in the client's own API.
"""

from typing import Any, Protocol

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.responses_out import readdressed
from helix.gateway.dialects.types import Dialect, Renderer
from helix.gateway.errors import UpstreamCut, UpstreamEmpty
from helix.gateway.native import NativeReader, reader_of
from helix.gateway.policy import is_refusal, refusal_of
from helix.gateway.render import error_event
from helix.gateway.sse import DONE, DONE_EVENT, Transcript, data_of
from helix.gateway.types import CallRequest
from helix.providers import Operation, UpstreamBroken

__all__ = ["AsSent", "Native", "Relay", "Told", "relay_of"]


_PLAIN_TRIES = 8  # chunks that turned out not to be plain, after which no more is taken for one


class Relay(Protocol):
    """The way of one stream. `begun`: content was seen, or the end of an answer without any.

    `end` is what is still to be sent once the answer is recorded; None until it has ended.
    """

    begun: bool
    end: bytes | None

    def take(self, event: bytes) -> bytes:
        """Return what of an event goes to the client now; raises what the event tells of."""
        ...

    def finish(self, rest: bytes) -> bytes:
        """The provider's stream is over; return `end`, or raise UpstreamCut or UpstreamEmpty."""
        ...

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the events that tell the client that the stream broke."""
        ...


class _Chunks:
    """What the ways have in common: chunks in OpenAI's format are noted as they pass."""

    def __init__(self, name: str, transcript: Transcript) -> None:
        self.begun = False
        self.end: bytes | None = None
        self._name = name
        self._transcript = transcript

    def _note(self, told: bytes) -> dict[str, Any]:
        """Decode a chunk and add it to the transcript; raises UpstreamBroken, or a refusal."""
        try:
            chunk = msgspec.json.decode(told)
            if type(chunk) is not dict:
                raise UpstreamBroken(self._name, "a chunk of its stream is no object")
            if is_refusal(chunk):
                raise refusal_of(self._name, 502, told, None, None)
            if self._transcript.take(chunk):
                self.begun = True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
            raise UpstreamBroken(
                self._name, "a chunk of its stream is not what it should be"
            ) from exc
        return chunk

    def _whole(self) -> None:
        """Return if the answer may end here; raises UpstreamEmpty when there is none."""
        if not self.begun and not self._transcript.finished:
            raise UpstreamEmpty(self._name)
        self.begun = True

    def _cut(self) -> HelixError:
        if not self._transcript.chunks:
            return UpstreamEmpty(self._name)
        return UpstreamCut(self._name)


class AsSent(_Chunks):
    """Events go on as they came, but for a usage that the client did not ask for."""

    def __init__(self, name: str, transcript: Transcript, request: CallRequest) -> None:
        super().__init__(name, transcript)
        self._include_usage = request.include_usage
        self._plain_left = _PLAIN_TRIES

    def take(self, event: bytes) -> bytes:
        """Note an event and pass it on."""
        told = data_of(event)
        if not told:
            return event
        if told == DONE:
            self._whole()
            self.end = event
            return b""
        if self.begun and self._plain_left:
            if self._transcript.take_plain(told):
                return event
            self._plain_left -= 1
        chunk = self._note(told)
        if not self._include_usage and not chunk.get("choices") and chunk.get("usage") is not None:
            return b""
        return event

    def finish(self, rest: bytes) -> bytes:
        """Take a last event whose blank line never came, and a stream that never said [DONE]."""
        told = data_of(rest)
        if (told and told != DONE) or not (told or self._transcript.finished):
            raise self._cut()
        self._whole()
        self.end = DONE_EVENT
        return DONE_EVENT

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return OpenAI's error event."""
        return error_event(error, request_id)


class Told(_Chunks):
    """Chunks are told anew by the renderer of the client's API."""

    def __init__(self, name: str, transcript: Transcript, renderer: Renderer) -> None:
        super().__init__(name, transcript)
        self._renderer = renderer

    def take(self, event: bytes) -> bytes:
        """Note an event and render it."""
        told = data_of(event)
        if not told:
            return self._renderer.ping() if self.begun else b""
        if told == DONE:
            self._whole()
            self.end = self._renderer.end()
            return b""
        return self._renderer.chunk(self._note(told))

    def finish(self, rest: bytes) -> bytes:
        """As AsSent does."""
        told = data_of(rest)
        if (told and told != DONE) or not (told or self._transcript.finished):
            raise self._cut()
        self._whole()
        self.end = self._renderer.end()
        return self.end

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the error events of the client's API."""
        return self._renderer.error(error, request_id)


class Native(_Chunks):
    """Events of a native API go on as they came; a reader tells what they mean."""

    def __init__(
        self,
        name: str,
        transcript: Transcript,
        reader: NativeReader,
        renderer: Renderer,
        *,
        readdress: str | None = None,
    ) -> None:
        super().__init__(name, transcript)
        self._reader = reader
        self._renderer = renderer
        self._readdress = readdress

    def take(self, event: bytes) -> bytes:
        """Note an event and pass it on; the one that ends the answer is held back.

        An answer that can be fetched again goes under our id, not the provider's.
        """
        try:
            chunks = self._reader.feed(event)
            for chunk in chunks:
                if is_refusal(chunk):
                    raise refusal_of(self._name, 502, msgspec.json.encode(chunk), None, None)
                if self._transcript.take(chunk):
                    self.begun = True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as exc:
            raise UpstreamBroken(
                self._name, "an event of its stream is not what it should be"
            ) from exc
        if self._readdress is not None:
            event = readdressed(event, self._transcript.upstream_id or "", self._readdress)
        if self._reader.done:
            self._whole()
            self.end = event
            return b""
        return event

    def finish(self, rest: bytes) -> bytes:
        """A native stream says when it ends; one that does not was cut."""
        if rest.strip():
            self.take(rest.rstrip() + b"\n\n")
        if self.end is None:
            raise self._cut()
        return self.end

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the error events of the client's API."""
        return self._renderer.error(error, request_id)


def relay_of(
    dialect: Dialect,
    request: CallRequest,
    *,
    name: str,
    transcript: Transcript,
    operation: Operation,
    request_id: str,
) -> Relay:
    """Return the way of a stream of the provider `name`, which was asked for `operation`."""
    reader = reader_of(operation)
    if reader is not None:
        readdress = request_id if operation is Operation.RESPONSES else None
        renderer = dialect.stream(request, request_id)
        return Native(name, transcript, reader, renderer, readdress=readdress)
    if dialect.identity or operation is not request.operation:
        return AsSent(name, transcript, request)
    return Told(name, transcript, dialect.stream(request, request_id))
