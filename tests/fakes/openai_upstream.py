"""A provider that speaks OpenAI's chat format on a real socket, misbehaves on demand, and keeps a
ledger of what it saw. What it does is chosen by the model's name: `FAULTS` lists the names.
"""

import asyncio
import contextlib
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
TEXT = "Hello from upstream, in several words."


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    sent: bytes = b""
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Writer = asyncio.StreamWriter
Behaviour = Callable[["OpenAIUpstream", Seen, Writer], Awaitable[None]]


class OpenAIUpstream:
    """Start it in a test; `seen` is its ledger, `arrived` is set with each call."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.listed = ["gpt-4", "tiny"]
        self._server: asyncio.Server | None = None
        self._writers: set[Writer] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def calls(self) -> list[Seen]:
        """The calls among what was seen; the rest are probes and lists of models."""
        return [one for one in self.seen if one.body]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        self.go_on.set()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    await self._request(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        seen = Seen(path, headers, body)
        self.seen.append(seen)
        if method == "GET":
            models = [{"id": name, "object": "model"} for name in self.listed]
            await whole(writer, 200, {"object": "list", "data": models})
            return
        self.arrived.set()
        behaviour = FAULTS.get(seen.json["model"], ok)
        gone = asyncio.ensure_future(_gone(reader, seen))
        try:
            await behaviour(self, seen, writer)
        except ConnectionError:
            seen.cut.set()
            raise
        finally:
            if not gone.done():
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone


async def _gone(reader: asyncio.StreamReader, seen: Seen) -> None:
    """Note that the caller cut the connection while it was answered."""
    waiting: Any = reader
    while not reader.at_eof():
        await waiting._wait_for_data("gone")
    seen.cut.set()


def head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


async def send(writer: Writer, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def whole(
    writer: Writer, status: int, body: Any, headers: dict[str, str] | None = None
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {
        "content-type": "application/json",
        "content-length": str(len(data)),
        **(headers or {}),
    }
    await send(writer, head(status, given) + data)


def answer(seen: Seen, text: str = TEXT, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": seen.json["model"] + "-2024",
        "choices": [choice],
        "usage": USAGE,
        **more,
    }


def chunk(seen: Seen, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    body = {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": seen.json["model"] + "-2024",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def words(text: str = TEXT) -> list[str]:
    parts = text.split(" ")
    return [part + " " for part in parts[:-1]] + [parts[-1]]


def events(seen: Seen, text: str = TEXT) -> list[bytes]:
    told = [chunk(seen, {"role": "assistant", "content": ""})]
    told += [chunk(seen, {"content": word}) for word in words(text)]
    told.append(chunk(seen, {}, "stop"))
    if (seen.json.get("stream_options") or {}).get("include_usage"):
        told.append(chunk(seen, {}, choices=[], usage=USAGE))
    return [*told, b"data: [DONE]\n\n"]


async def begin(writer: Writer, **headers: str) -> None:
    given = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **headers}
    await send(writer, head(200, given))


async def piece(seen: Seen, writer: Writer, data: bytes) -> None:
    seen.sent += data
    await send(writer, b"%x\r\n%s\r\n" % (len(data), data))


async def end(writer: Writer) -> None:
    await send(writer, b"0\r\n\r\n")


async def stream(seen: Seen, writer: Writer, told: list[bytes]) -> None:
    await begin(writer)
    for event in told:
        await piece(seen, writer, event)
    await end(writer)


def reset(writer: Writer) -> None:
    """Cut the connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def streams(seen: Seen) -> bool:
    return bool(seen.json.get("stream"))


# ---- behaviours


async def ok(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    if streams(seen):
        await stream(seen, writer, events(seen))
    else:
        await whole(writer, 200, answer(seen))


async def silent(upstream: OpenAIUpstream, *_: Any) -> None:
    await upstream.go_on.wait()


async def hangs_after_head(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await begin(writer)
    if streams(seen):
        await piece(seen, writer, events(seen)[0])
        await piece(seen, writer, events(seen)[1])
    await upstream.go_on.wait()


async def held(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """Two events, and the rest when the test says so."""
    told = events(seen)
    if not streams(seen):
        await upstream.go_on.wait()
        await ok(upstream, seen, writer)
        return
    await begin(writer)
    for event in told[:2]:
        await piece(seen, writer, event)
    await upstream.go_on.wait()
    for event in told[2:]:
        await piece(seen, writer, event)
    await end(writer)


async def endless(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await begin(writer)
    while not upstream.go_on.is_set() and not seen.cut.is_set():
        await piece(seen, writer, chunk(seen, {"content": "and on "}))
        await asyncio.sleep(0)


async def rst(_: OpenAIUpstream, __: Seen, writer: Writer) -> None:
    reset(writer)


async def rst_in_answer(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await begin(writer)
    await piece(seen, writer, events(seen)[0] + events(seen)[1] if streams(seen) else b'{"id":')
    await asyncio.sleep(0.02)
    reset(writer)


async def fin_in_answer(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await begin(writer)
    await piece(seen, writer, events(seen)[0] + events(seen)[1])
    writer.close()


async def no_done(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """A whole answer without [DONE], as some providers send it."""
    await stream(seen, writer, events(seen)[:-1])


async def cut_short(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """Ends well as HTTP, but in the middle of the answer."""
    await stream(seen, writer, events(seen)[:3])


async def error_in_stream(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    error = b'data: {"error":{"message":"overloaded","type":"server_error","code":"boom"}}\n\n'
    await stream(seen, writer, [*events(seen)[:3], error])


async def malformed_chunk(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await stream(seen, writer, [*events(seen)[:3], b'data: {"choices": [}\n\n', *events(seen)[3:]])


async def crlf(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    told = [b": a comment\r\n\r\n", *(e.replace(b"\n", b"\r\n") for e in events(seen))]
    await stream(seen, writer, told)


async def byte_by_byte(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await begin(writer)
    for byte in b"".join(events(seen)):
        await piece(seen, writer, bytes([byte]))
    await end(writer)


async def tools(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    function = {"name": "weather", "arguments": '{"city":"Brno"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    if not streams(seen):
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        await whole(writer, 200, answer(seen, choices=[choice]))
        return
    first = {"index": 0, **call, "function": {"name": "weather", "arguments": ""}}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [first]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Brno"}'}}]},
    ]
    told = [chunk(seen, delta) for delta in deltas]
    usage = chunk(seen, {}, choices=[], usage=USAGE)
    await stream(seen, writer, [*told, chunk(seen, {}, "tool_calls"), usage, b"data: [DONE]\n\n"])


def refuses(
    status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any
) -> Behaviour:
    async def behave(_: OpenAIUpstream, __: Seen, writer: Writer) -> None:
        error = {"message": message, "type": "upstream_type", "param": None, "code": None, **more}
        await whole(writer, status, {"error": error}, headers)

    return behave


def sends(body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> Behaviour:
    async def behave(_: OpenAIUpstream, __: Seen, writer: Writer) -> None:
        await whole(writer, status, body, headers)

    return behave


def tells(**more: Any) -> Behaviour:
    """An answer that is right but for these fields."""

    async def behave(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
        if not streams(seen):
            await whole(writer, 200, answer(seen, **more))
            return
        told = [e for e in events(seen) if b'"choices": []' not in e]
        last = chunk(seen, {}, choices=[], usage=more.get("usage"))
        await stream(seen, writer, [*told[:-1], last, told[-1]])

    return behave


def says(text: str) -> Behaviour:
    async def behave(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
        if streams(seen):
            await stream(seen, writer, events(seen, text))
        else:
            await whole(writer, 200, answer(seen, text))

    return behave


async def endless_body(upstream: OpenAIUpstream, _: Seen, writer: Writer) -> None:
    """A hundred megabytes of one string."""
    await begin(writer, **{"content-type": "application/json"})
    block = b"x" * 1_000_000
    for _number in range(100):
        await send(writer, b"%x\r\n%s\r\n" % (len(block), block))


async def until_close(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """No length and no chunks: the answer ends with the connection."""
    data = b"".join(events(seen)) if streams(seen) else json.dumps(answer(seen)).encode()
    kind = "text/event-stream" if streams(seen) else "application/json"
    await send(writer, head(200, {"content-type": kind, "connection": "close"}) + data)
    writer.close()


async def interim_first(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    await send(writer, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
    await ok(upstream, seen, writer)


async def drips_head(upstream: OpenAIUpstream, _: Seen, writer: Writer) -> None:
    """A head that never ends, a byte at a time."""
    await send(writer, b"HTTP/1.1 200 OK\r\n")
    while not upstream.go_on.is_set():
        await send(writer, b"x")
        await asyncio.sleep(0.01)


async def long_head(_: OpenAIUpstream, __: Seen, writer: Writer) -> None:
    with contextlib.suppress(ConnectionError):
        await send(writer, b"HTTP/1.1 200 OK\r\nx-pad: " + b"y" * 1_000_000 + b"\r\n\r\n")


def fails_first(times: int, fault: Behaviour) -> Behaviour:
    """A fault for the first calls of the model, then the right answer."""

    async def behave(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
        model = seen.json["model"]
        earlier = sum(one.json["model"] == model for one in upstream.calls) - 1
        await (fault if earlier < times else ok)(upstream, seen, writer)

    return behave


async def bare_done(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """A stream that says it is over and nothing else; a whole answer of no bytes."""
    if streams(seen):
        await stream(seen, writer, [b"data: [DONE]\n\n"])
    else:
        await whole(writer, 200, b"")


async def role_then_rst(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """Breaks off before the first content, after the chunk that names the role."""
    await begin(writer)
    await piece(seen, writer, events(seen)[0])
    writer.transport.abort()


async def role_then_silence(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """Names the role and sends comments, but never any content."""
    await begin(writer)
    await piece(seen, writer, events(seen)[0])
    while not upstream.go_on.is_set():
        await piece(seen, writer, b": thinking\n\n")
        await asyncio.sleep(0.05)


async def content_then_comments(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """One word, then only comments."""
    await begin(writer)
    await piece(seen, writer, events(seen)[0] + events(seen)[1])
    while not upstream.go_on.is_set():
        await piece(seen, writer, b": still here\n\n")
        await asyncio.sleep(0.05)


async def tiny_chunks(_: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """Fifty thousand chunks of a letter."""
    told = events(seen)
    await begin(writer)
    letter = chunk(seen, {"content": "x"})
    await piece(seen, writer, told[0])
    for _number in range(100):
        await piece(seen, writer, letter * 500)
    for event in told[-3:] if b"usage" in told[-2] else told[-2:]:
        await piece(seen, writer, event)
    await end(writer)


async def slow_body(upstream: OpenAIUpstream, seen: Seen, writer: Writer) -> None:
    """A byte now and then: never silent, never done."""
    data = b"".join(events(seen)) if streams(seen) else json.dumps(answer(seen)).encode()
    kind = "text/event-stream" if streams(seen) else "application/json"
    await send(writer, head(200, {"content-type": kind, "content-length": str(len(data))}))
    for number in range(len(data)):
        if upstream.go_on.is_set():
            return
        await send(writer, data[number : number + 1])
        await asyncio.sleep(0.05)


FAULTS: dict[str, Behaviour] = {
    "bare-done": bare_done,
    "content-then-comments": content_then_comments,
    "empty-then-ok": fails_first(1, bare_done),
    "429-then-ok": fails_first(1, refuses(429, "slow down", {"retry-after": "1"})),
    "500-then-ok": fails_first(2, refuses(500, "it is broken")),
    "503-always": refuses(503, headers={"retry-after": "3600"}),
    "role-then-rst": role_then_rst,
    "role-then-silence": role_then_silence,
    "slow-body": slow_body,
    "tiny-chunks": tiny_chunks,
    "400": refuses(400, "bad temperature", param="temperature", code="invalid_value"),
    "401": refuses(401, "Incorrect API key provided: sk-proj-abcdefgh12345678"),
    "404": refuses(404, "no such model"),
    "429": refuses(429, "slow down", {"retry-after": "7"}, code="rate_limit_exceeded"),
    "429-date": refuses(429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429-negative": refuses(429, headers={"retry-after": "-5"}),
    "429-huge": refuses(429, headers={"retry-after": "1000000000"}),
    "429-words": refuses(429, headers={"retry-after": "soon"}),
    "500": refuses(500, "it is broken"),
    "502": sends(b"<html>bad gateway</html>", {"content-type": "text/html"}, 502),
    "503": refuses(503),
    "529": refuses(529),
    "byte-by-byte": byte_by_byte,
    "crlf": crlf,
    "cut-short": cut_short,
    "deep-json": sends(b'{"choices":' + b"[" * 100_000),
    "drips-head": drips_head,
    "empty": sends(b""),
    "endless": endless,
    "endless-body": endless_body,
    "error-as-200": sends(b'{"error":{"message":"quota used up","code":"insufficient_quota"}}'),
    "error-in-stream": error_in_stream,
    "fin-in-answer": fin_in_answer,
    "garbage": sends(b"\x00\xff\x00\xff"),
    "gzip": sends(gzip.compress(b"{}" * 100_000), {"content-encoding": "gzip"}),
    "half-json": sends(b'{"id":"x","choices":[{"index":0,"mess'),
    "hangs-after-head": hangs_after_head,
    "held": held,
    "html": sends(b"<html></html>", {"content-type": "text/html"}),
    "interim-first": interim_first,
    "long-head": long_head,
    "malformed-chunk": malformed_chunk,
    "no-choices": sends(b'{"id":"x"}'),
    "no-done": no_done,
    "no-usage": tells(usage=None),
    "nul": says("before\0after"),
    "redirect": sends(b"", {"location": "http://127.0.0.1:1/secret"}, 302),
    "rst": rst,
    "rst-in-answer": rst_in_answer,
    "silent": silent,
    "surrogate": sends(b'{"choices":[{"message":{"content":"\\ud800"}}]}'),
    "tools": tools,
    "until-close": until_close,
    "usage-huge": tells(usage={"prompt_tokens": 2**62, "completion_tokens": 1, "total_tokens": 1}),
    "usage-negative": tells(usage={"prompt_tokens": -5, "completion_tokens": -1}),
    "usage-words": tells(usage={"prompt_tokens": "many", "completion_tokens": None}),
    "words": says("one two three"),
}
