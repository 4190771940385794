"""The protocol the server speaks: what it refuses, and that it keeps nothing of what broke."""

import asyncio
import gc
import json
import socket
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from helix.cli.http1 import HEAD_BYTES_MAX, HEADERS_MAX, Http1

REQUEST = b"POST /%s HTTP/1.1\r\nHost: x\r\n%s\r\n"
PIECE = b"x" * 65_536


@dataclass
class Server:
    """What runs, and what the application was given."""

    port: int
    connections: set[Any]
    bodies: list[bytes]

    async def told(self, *pieces: bytes) -> tuple[int, Any]:
        """Send pieces for as long as nothing is answered; return the status and the body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                try:
                    writer.write(piece)
                    await writer.drain()
                except ConnectionError:
                    break
                if answer.done():
                    break
            head = await answer
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length))
            return int(head.split(b" ")[1]), json.loads(body)
        finally:
            writer.transport.abort()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        bodies.append(body)
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", b"2")]})
        if scope["path"] == "/slow":
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            await receive()
            await send({"type": "http.response.body", "body": b"}"})
            return
        await send({"type": "http.response.body", "body": b"{}"})

    config = uvicorn.Config(app, http=Http1, port=0, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Server(port, server.server_state.connections, bodies)
    finally:
        server.should_exit = server.force_exit = True
        await server.shutdown()


def headers(count: int, size: int = 1) -> bytes:
    return b"".join(b"X-%d: %s\r\n" % (number, b"v" * size) for number in range(count))


@pytest.mark.parametrize(
    "pieces",
    [
        [REQUEST % (b"", headers(10_000))],
        [REQUEST % (b"", headers(HEADERS_MAX))],
        [REQUEST % (b"", headers(100, HEAD_BYTES_MAX // 100))],
        [REQUEST % (b"u" * HEAD_BYTES_MAX, b"")],
        [b"GET /", *[PIECE] * 1_000],
        [b"GET / HTTP/1.1\r\nX: ", *[PIECE] * 1_000],
        [b"GET / HTTP/1.1\r\n", *[headers(50)] * 1_000],
        [REQUEST % (b"", b"Transfer-Encoding: chunked\r\n"), b"1\r\nx\r\n0\r\n", headers(10_000)],
        [REQUEST % (b"", b"Transfer-Encoding: chunked\r\n"), b"0\r\nX: ", *[PIECE] * 1_000],
        [REQUEST % (b"", b"Transfer-Encoding: chunked\r\n"), b"1;a=", *[PIECE] * 1_000],
    ],
    ids=[
        "10,000 headers",
        "one too many",
        "long headers",
        "long URL",
        "endless URL",
        "endless header",
        "endless headers",
        "trailer of 10,000",
        "endless trailer",
        "endless extension of a chunk",
    ],
)
async def test_a_head_or_trailer_that_is_too_large_is_refused(pieces: list[bytes]) -> None:
    async with serving() as server:
        status, told = await server.told(*pieces)
        assert status == 431
        assert told["error"]["code"] == "head_too_large"
        assert server.bodies == []


async def test_nothing_is_said_within_an_answer() -> None:
    """A client that sends no HTTP after its request while it is answered loses the connection."""
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(REQUEST % (b"slow", b"Content-Length: 0\r\n"))
        begun = await reader.readuntil(b"{")
        writer.write(b"hello\r\n\r\n")
        assert (begun.split(b" ")[1], await reader.read()) == (b"200", b"")
        writer.close()


async def test_what_is_no_http_is_refused_in_the_shape_of_every_error() -> None:
    async with serving() as server:
        status, told = await server.told(b"hello\r\n\r\n")
        assert status == 400
        assert told["error"]["code"] == "bad_input"


@pytest.mark.parametrize("size", [1, 1_000, 300_000], ids=["bytes", "lines", "more than a read"])
async def test_a_body_is_not_counted_as_a_head(size: int) -> None:
    """However it comes: in chunks with all their signs, or after its length, or two at once."""
    chunk = b"%x\r\n%s\r\n" % (size, b"b" * size)
    count = max(3, 200_000 // len(chunk))
    chunked = REQUEST % (b"", headers(HEADERS_MAX - 3) + b"Transfer-Encoding: chunked\r\n")
    length = b"Content-Length: %d\r\n" % (size * count)
    async with serving() as server:
        assert (await server.told(chunked, *[chunk] * count, b"0\r\nX: y\r\n\r\n"))[0] == 200
        assert (await server.told(REQUEST % (b"", length), *[b"b" * size] * count))[0] == 200
        whole = REQUEST % (b"", length) + b"b" * size * count
        assert (await server.told(whole + whole))[0] == 200
        assert {len(body) for body in server.bodies} == {size * count}


async def test_a_connection_that_breaks_is_forgotten_at_once() -> None:
    """Its headers would be held until the keep-alive timer runs out: an attack costs the sender
    nothing."""
    async with serving() as server:
        gc.disable()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(REQUEST % (b"", headers(100) + b"Content-Length: 0\r\n"))
            await reader.readuntil(b"{}")
            (connection,) = server.connections
            kept = weakref.ref(connection)
            del connection
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()  # answered by a reset: the server sees an error
            async with asyncio.timeout(10):
                while server.connections or kept() is not None:  # noqa: ASYNC110 - tells nobody
                    await asyncio.sleep(0.001)
        finally:
            gc.enable()
