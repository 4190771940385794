"""HTTP/1.1 as Helix serves it: uvicorn's protocol, with bounds, and nothing kept of what broke.

Uvicorn reads heads and trailers of any size, and keeps what belongs to a connection that broke,
the headers of its last request too, until the keep-alive timer of that connection has run out.
"""

from typing import Any
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from helix.core.errors import BadInput, HeadTooLarge, HelixError
from helix.gateway import error_body

__all__ = ["HEADERS_MAX", "HEAD_BYTES_MAX", "Http1"]

HEAD_BYTES_MAX = 65_536
"""Most bytes of a request line and its headers."""

HEADERS_MAX = 256
"""Most headers of a request, with its trailer. The official clients send about twenty."""

_LINGER_S = 1.0
_TOO_LARGE = HeadTooLarge(
    f"a request has at most {HEADERS_MAX} headers, and {HEAD_BYTES_MAX} bytes of them"
)


class _Refused(Exception):
    """Ends the parsing of a head."""


class Http1(HttpToolsProtocol):
    """One connection. What cannot be read, or has too large a head or trailer, ends it.

    The parser gathers a header before it tells of it, so what was received since it last told of
    the end of a head, or of some of a body, is counted too: never is more than HEAD_BYTES_MAX and
    one read of the socket held.
    """

    _unread_bytes = 0
    _got_on = False
    _hung_up = False
    _error: HelixError = BadInput("the request cannot be read as HTTP/1.1")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; uvicorn leaves the timer of one that broke, and so all of it."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._hung_up:
            return
        self._got_on = False
        super().data_received(data)
        self._unread_bytes = 0 if self._got_on else self._unread_bytes + len(data)
        if self._unread_bytes > HEAD_BYTES_MAX and not self._hung_up:
            self._error = _TOO_LARGE
            self.send_400_response("")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or one of a trailer."""
        super().on_header(name, value)
        if len(self.headers) > HEADERS_MAX:
            self._refuse()

    def on_headers_complete(self) -> None:
        """Have the request answered, unless its head is too large."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEAD_BYTES_MAX:
            self._refuse()
        self._got_on = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take some of a body."""
        self._got_on = True
        super().on_body(body)

    def _refuse(self) -> None:
        self._error = _TOO_LARGE
        raise _Refused  # out of the parser, which stops, to uvicorn, which then says 400

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be read, in the shape of every other error, and hang up.

        What still comes is thrown away for a moment: closed at once, the connection would be reset
        while the client sends, and the answer lost. A request that is not answered yet is told that
        its client is gone; within an answer nothing else is said.
        """
        self._hung_up = True
        self._unset_keepalive_if_required()
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn declares
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        body = error_body(self._error, str(uuid4()))
        lines = (
            STATUS_LINE[self._error.status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"connection: close\r\n\r\n",
            body,
        )
        self.transport.write(b"".join(lines))
        self.transport.write_eof()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_S, self.transport.close)
