"""Calling providers over HTTP/1.1: pooled connections, every wait and every size bounded.

A name is resolved once for a connection, every address that came is looked at (addresses.py), and
the connection is made to one of those very addresses: there is no second resolution that could
answer otherwise. A key goes to the host of its own provider alone, since no redirect is followed.

A small client of our own on httptools, the parser that uvicorn runs on: a call costs a fifth of the
CPU of aiohttp's (ADR 0014). It does what calling providers needs and no more. No redirect is
followed and nothing is unpacked: a provider that compresses although it was told not to is refused,
so that no small answer can grow in memory. A call is sent once, never again: whether it may be
repeated is not for this layer to know.

Waiting costs nothing by itself: a connection carries the moment until which it may be silent, and
one timer looks at all of them ten times a second.
"""

import asyncio
import socket
import ssl
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

from helix.core.addresses import refusal_of_address
from helix.core.config import Settings
from helix.core.errors import HelixError
from helix.providers.errors import (
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from helix.providers.types import AS_SET, Timeouts

__all__ = ["HttpClient", "HttpLimits", "HttpReply", "Target"]

HEADER_BYTES_MAX = 65_536
BUFFERED_BYTES_MAX = 262_144
IDLE_PLAIN_S = 4.0  # servers on a developer's machine close after five
IDLE_TLS_S = 30.0
IDLE_PER_TARGET_MAX = 100
TICK_S = 0.1
_LINGER_S = 1.0  # less than the peer's own time, so that it does not close while we send


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long and how much, each by the name of its setting."""

    connect_timeout_s: float
    first_byte_timeout_s: float
    between_bytes_timeout_s: float
    answer_bytes_max: int

    @classmethod
    def of(cls, settings: Settings) -> "HttpLimits":
        """Return the limits that the settings name."""
        return cls(
            settings.connect_timeout_s,
            settings.first_byte_timeout_s,
            settings.between_bytes_timeout_s,
            settings.answer_bytes_max,
        )

    def within(self, timeouts: Timeouts) -> "HttpLimits":
        """Return these limits with what a call says instead; None leaves a limit as it is."""
        connect_s, first_s, between_s = (
            timeouts.connect_s,
            timeouts.first_byte_s,
            timeouts.between_s,
        )
        return HttpLimits(
            self.connect_timeout_s if connect_s is None else connect_s,
            self.first_byte_timeout_s if first_s is None else first_s,
            self.between_bytes_timeout_s if between_s is None else between_s,
            self.answer_bytes_max,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests of one kind go: `head` is all of the request's head but the length."""

    name: str
    host: str
    port: int
    tls: bool
    head: bytes = field(repr=False)
    private: bool = True

    @classmethod
    def of(
        cls, name: str, method: str, url: str, headers: Mapping[str, str], *, private: bool = True
    ) -> "Target":
        """Return the target of requests to `url` of the provider `name`.

        `private` lets it stand at a loopback or private address.
        Raises ValueError for a URL or a header that cannot be sent.
        """
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not parts.hostname or not url.isascii():
            raise ValueError("no such URL can be called")
        host = parts.hostname
        port = parts.port or (443 if tls else 80)
        named = f"[{host}]" if ":" in host else host
        if port != (443 if tls else 80):
            named = f"{named}:{port}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"{method} {path} HTTP/1.1", f"Host: {named}"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        if any(not line.isprintable() for line in lines):
            raise ValueError("a header holds what cannot be sent")
        return cls(name, host, port, tls, ("\r\n".join(lines) + "\r\n").encode("latin-1"), private)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, client: "HttpClient", key: "_Key") -> None:
        self.client = client
        self.key = key
        self.reply: HttpReply | None = None
        self.idle_until_s = 0.0
        self.transport: Any = None
        self._parser: Any = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, reply: "HttpReply", data: bytes) -> None:
        self.reply = reply
        self._parser = httptools.HttpResponseParser(reply)
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None or reply.ended():
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            reply.fail_broken("it changed the protocol")
        except httptools.HttpParserError as exc:
            if not reply.failed:
                reason = exc.__context__
                reply.fail_broken(str(reason) if isinstance(reason, _Refused) else "it is not HTTP")
        if reply.failed:
            self.close()
        elif reply.buffered > BUFFERED_BYTES_MAX and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def head_of(self) -> tuple[int, bool]:
        """Return status and whether the connection stays; the parser forgets it at the end."""
        return int(self._parser.get_status_code()), bool(self._parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.forget(self)
        if self.reply is not None:
            self.reply.cut(clean=exc is None)

    def usable(self) -> bool:
        return not self.transport.is_closing()

    def close(self) -> None:
        self.transport.abort()


_Key = tuple[str, int, bool, bool]


class _Refused(Exception):
    """What came is HTTP, but not to be taken."""


class HttpReply:
    """An answer as it arrives; see `types.Reply`. The parser calls its `on_…` methods."""

    def __init__(self, name: str, limits: HttpLimits, connection: _Connection) -> None:
        self.status = 0
        self.content_type = ""
        self.retry_after: str | None = None
        self._ended = False
        self.buffered = 0
        self.silent_until_s: float | None = None
        self.idle_s: float | None = None
        self.stays = False
        self._name = name
        self._limits = limits
        self._connection: _Connection | None = connection
        self._parts: deque[bytes] = deque()
        self._error: HelixError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._headers = 0
        self._headed = False
        self._sized = False
        self._left = limits.answer_bytes_max
        self._waits_for = ""

    @property
    def failed(self) -> bool:
        """Whether the answer cannot come to its end."""
        return self._error is not None

    def ended(self) -> bool:
        """Whether the answer has come to its end; it may still be to be read."""
        return self._ended

    # ---- called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take what matters of a header."""
        self._headers += len(name) + len(value)
        if self._headers > HEADER_BYTES_MAX:
            raise _Refused("its headers are too long")
        key = name.lower()
        if key == b"content-type":
            self.content_type = value.decode("latin-1").partition(";")[0].strip().lower()
        elif key in {b"content-length", b"transfer-encoding"}:
            self._sized = True
        elif key == b"retry-after":
            self.retry_after = value.decode("latin-1")
        elif key == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise _Refused("it is compressed, which was not asked for")
        elif key == b"keep-alive":
            self.idle_s = _idle_told(value)

    def on_headers_complete(self) -> None:
        """The head is there; that of an interim answer (1xx) is passed over."""
        if self._connection is None:
            return
        status, stays = self._connection.head_of()
        if status >= 200:  # 101 cannot come: the parser raises for a change of protocol
            self.status, self.stays = status, stays
            self._headed = True
            self._wake()

    def on_body(self, body: bytes) -> None:
        """Keep a piece until it is asked for."""
        self._left -= len(body)
        if self._left < 0:
            self._fail(UpstreamTooLarge(self._name, self._limits.answer_bytes_max))
            raise _Refused("it is too large")
        self.buffered += len(body)
        self._parts.append(body)
        self._wake()

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._headed:
            self._ended = True
            self._wake()

    # ---- called by the connection and the client

    def cut(self, *, clean: bool) -> None:
        """The connection is gone: the end of an answer that told no length, else a fault."""
        if not self._ended and self._error is None:
            if self._headed and clean and not self._sized:
                self._ended = True
            elif self._headed:
                self.fail_broken("it broke off in the middle")
            else:
                self.fail_broken("it closed the connection without an answer")
        self._wake()

    def expire(self) -> None:
        """The provider was silent for too long."""
        limit = self._waits_for
        self._fail(UpstreamTimeout(self._name, limit, getattr(self._limits, limit)))

    def fail_broken(self, reason: str) -> None:
        """The answer cannot be used."""
        self._fail(UpstreamBroken(self._name, reason))

    def _fail(self, error: HelixError) -> None:
        if self._error is None:
            self._error = error
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # ---- called by who reads

    async def _wait(self, limit: str, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._waits_for = limit
        self.silent_until_s = loop.time() + limit_s
        self._waiter = loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self.silent_until_s = None

    async def head(self) -> None:
        """Return when status and headers are there; raises UpstreamTimeout, UpstreamBroken."""
        while not self._headed and self._error is None:
            await self._wait("first_byte_timeout_s", self._limits.first_byte_timeout_s)
        if self._error is not None:
            raise self._error

    async def chunk(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        while not self._parts and not self._ended and self._error is None:
            await self._wait("between_bytes_timeout_s", self._limits.between_bytes_timeout_s)
        if self._parts:
            data = self._parts.popleft() if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self.buffered = 0
            if self._connection is not None:
                self._connection.resume()
            return data
        if self._error is not None:
            raise self._error
        return b""

    def close(self) -> None:
        """Give the connection back, or cut it when the answer was not read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.client.give_back(connection, self)


class HttpClient:
    """The connections to all providers. `start` it in the loop it works in.

    `tls` is what certificates are checked by; without it, the machine's authorities are trusted.
    """

    def __init__(self, limits: HttpLimits, *, tls: ssl.SSLContext | None = None) -> None:
        self._limits = self._within = limits
        self._asked = AS_SET  # `_within` are the limits of these: most calls ask for the same
        self._idle: defaultdict[_Key, list[_Connection]] = defaultdict(list)
        self._busy: set[_Connection] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._tls = tls

    def start(self) -> None:
        """Begin to watch; connections are opened when they are needed."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        self._tick()

    async def stop(self) -> None:
        """Close every connection."""
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in [*self._busy, *(c for idle in self._idle.values() for c in idle)]:
            connection.close()
        await asyncio.sleep(0)

    async def send(
        self,
        target: Target,
        body: bytes | None,
        *,
        request_id: str | None = None,
        timeouts: Timeouts = AS_SET,
        headers: str = "",
    ) -> HttpReply:
        """Send a request and return when the head of its answer is there.

        `request_id` goes along as X-Request-Id; `headers` are whole lines, each with its CRLF.
        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBroken.
        """
        limits = self._limits
        if timeouts is not AS_SET:
            if timeouts is not self._asked:
                self._asked, self._within = timeouts, limits.within(timeouts)
            limits = self._within
        connection = self._take(target) or await self._connect(target, limits.connect_timeout_s)
        reply = HttpReply(target.name, limits, connection)
        self._busy.add(connection)
        tail = headers if request_id is None else f"{headers}X-Request-Id: {request_id}\r\n"
        tail += "\r\n" if body is None else f"Content-Length: {len(body)}\r\n\r\n"
        connection.send(reply, target.head + tail.encode("ascii") + (body or b""))
        try:
            await reply.head()
        except BaseException:
            reply.close()
            raise
        return reply

    def _take(self, target: Target) -> _Connection | None:
        idle = self._idle.get((target.host, target.port, target.tls, target.private))
        while idle:
            connection = idle.pop()
            if connection.usable():
                return connection
        return None

    async def _connect(self, target: Target, wait_s: float) -> _Connection:
        try:
            async with asyncio.timeout(wait_s):
                return await self._connect_to_one(target)
        except TimeoutError as exc:
            raise UpstreamTimeout(target.name, "connect_timeout_s", wait_s) from exc
        except (OSError, UnicodeError) as exc:
            raise UpstreamUnreachable(target.name, _reason(exc)) from exc

    async def _connect_to_one(self, target: Target) -> _Connection:
        """Connect to the first address that answers; none is called that may not be."""
        loop = asyncio.get_running_loop()
        key = (target.host, target.port, target.tls, target.private)
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            refusal = refusal_of_address(address, private=target.private)
            if refusal is not None:
                raise UpstreamUnreachable(target.name, refusal)
        for number, address in enumerate(addresses, start=1):
            try:
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, key),
                    address,
                    target.port,
                    ssl=self._tls if target.tls else None,
                    server_hostname=target.host if target.tls else None,
                )
            except OSError:
                if number == len(addresses):
                    raise
            else:
                return connection
        raise UpstreamUnreachable(target.name, "its name has no address")

    def give_back(self, connection: _Connection, reply: HttpReply) -> None:
        """Keep a connection whose answer came to its end for the next call; else close it."""
        self._busy.discard(connection)
        idle = self._idle[connection.key]
        kept_s = IDLE_TLS_S if connection.key[2] else IDLE_PLAIN_S
        if reply.idle_s is not None:
            kept_s = min(kept_s, reply.idle_s - _LINGER_S)
        whole = reply.ended() and reply.stays and not reply.failed and connection.usable()
        if whole and kept_s > 0 and len(idle) < IDLE_PER_TARGET_MAX:
            connection.reply = None
            connection.resume()
            connection.idle_until_s = asyncio.get_running_loop().time() + kept_s
            idle.append(connection)
        else:
            connection.close()

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self._busy.discard(connection)
        idle = self._idle.get(connection.key)
        if idle is not None:
            if connection in idle:
                idle.remove(connection)
            if not idle:
                del self._idle[connection.key]

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in list(self._busy):
            reply = connection.reply
            if reply is not None and (reply.silent_until_s or now_s) < now_s:
                reply.expire()
        for idle in list(self._idle.values()):
            for connection in [c for c in idle if c.idle_until_s < now_s]:
                connection.close()
        self._ticker = loop.call_later(TICK_S, self._tick)


def _idle_told(value: bytes) -> float | None:
    for part in value.lower().split(b","):
        key, _, number = part.strip().partition(b"=")
        if key == b"timeout" and number.isdigit() and len(number) < 6:
            return float(number)
    return None


def _reason(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLError):
        return "its TLS certificate or handshake failed"
    if isinstance(exc, OSError) and type(exc).__name__ == "gaierror":
        return "its name cannot be resolved"
    if isinstance(exc, ConnectionRefusedError):
        return "it refuses connections"
    return type(exc).__name__
