"""One HTTP exchange over ASGI: the request's body within limits, and the answer."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import UUID

from helix.core.room import Room, Share
from helix.gateway.errors import BodyTooLarge, BodyTooSlow, ClientGone, TransportUnsupported
from helix.gateway.render import Headers
from helix.gateway.waits import Waits

__all__ = ["Exchange", "Receive", "Scope", "Send"]

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Exchange:
    """What came in, and what goes out.

    `request_id` is sent back with every answer: as x-request-id, where OpenAI's clients look for
    it, as request-id, where Anthropic's do, and as x-helix-request-id.
    """

    __slots__ = ("_extra", "_receive", "_send", "_share", "begun", "headers", "id_text",
                 "request_id")  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: UUID) -> None:
        self._share: Share | None = None
        self._receive = receive
        self._send = send
        self.request_id = request_id
        self.id_text = str(request_id)
        told = self.id_text.encode()
        self._extra: Headers = [
            (b"x-helix-request-id", told),
            (b"x-request-id", told),
            (b"request-id", told),
        ]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.begun = False

    def check_head(self, body_bytes_max: int) -> None:
        """Refuse, before a byte of it is read, a body that says it is too large, or is packed."""
        encoding = self.headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise TransportUnsupported(encoding.decode("latin-1"))
        length = self.headers.get(b"content-length")
        if length is not None and int(length) > body_bytes_max:
            raise BodyTooLarge(body_bytes_max)

    def note(self, name: bytes, value: bytes) -> None:
        """Send this header too, if the answer has not begun."""
        self._extra.append((name, value))

    def recorded(self) -> None:
        """Say where the record of this call is."""
        self._extra.append((b"x-helix-record", b"/api/calls/" + self.id_text.encode()))

    def replayed(self) -> None:
        """Say that this answer was given before."""
        self._extra.append((b"idempotent-replayed", b"true"))

    async def body(self, body_bytes_max: int, timeout_s: float, waits: Waits, room: Room) -> bytes:
        """Return the whole body; what it said of its length is not believed.

        What comes in several pieces takes of the `room` until `release`.
        Raises BodyTooLarge, BodyTooSlow, NoRoom, ClientGone.
        """
        wait = waits.begin(timeout_s)
        try:
            with wait:
                message = await self._receive()
                if message["type"] == "http.request" and not message.get("more_body", False):
                    return _within(message.get("body", b""), body_bytes_max)
                self._share = room.share()
                return await self._rest_of_body(message, body_bytes_max, self._share)
        except TimeoutError as exc:
            raise BodyTooSlow(timeout_s) from exc
        finally:
            waits.end(wait)

    def release(self) -> None:
        """Give back what the body took of the room: it has been read."""
        if self._share is not None:
            self._share.give_back()

    async def _rest_of_body(self, message: Message, body_bytes_max: int, share: Share) -> bytes:
        parts = bytearray()
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            piece = message.get("body", b"")
            share.take(len(piece))
            parts += piece
            _within(parts, body_bytes_max)
            if not message.get("more_body", False):
                return bytes(parts)
            message = await self._receive()

    async def until_gone(self) -> None:
        """Return when the client has left. Read the body first."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(
        self, status: int, body: bytes, content_type: bytes, more: Headers | None = None
    ) -> None:
        """Send a whole answer."""
        self.begun = True
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            *self._extra,
            *(more or ()),
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        self.begun = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *self._extra,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def more(self, data: bytes) -> None:
        """Send a part of a stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        """Send the last part of a stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


def _within(body: Any, body_bytes_max: int) -> bytes:
    if len(body) > body_bytes_max:
        raise BodyTooLarge(body_bytes_max)
    return body  # type: ignore[no-any-return]
