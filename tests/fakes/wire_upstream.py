"""What the fake providers of all wire formats share: the server, the ledger, and what they say.

A test sets `tells` (what the model answers) or `fault`, and reads `asked`: each chat request in
one neutral form, whatever the wire. A request that the true service would refuse, or that has a
field it does not know, is answered with 400 and kept in `problems`, which must be empty at the end.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.fakes.openai_upstream import Seen, Writer, begin, end, head, piece, reset, send, whole

TEXT = "Hello from upstream, in several words."
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 16).decode()


@dataclass
class Tokens:
    """Usage: `cached` is part of `prompt`, `reasoning` part of `completion`."""

    prompt: int = 11
    completion: int = 7
    cached: int = 0
    reasoning: int = 0


@dataclass
class Told:
    """What the model answers; `calls` are (id, name, arguments)."""

    text: str = TEXT
    thinking: str = ""
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    finish: str | None = None
    usage: Tokens | None = field(default_factory=Tokens)


@dataclass
class Asked:
    """A chat request in neutral form.

    A turn is (role, items); an item is ("text", text), ("image", mime, base64), ("link", url),
    ("call", id, name, arguments), ("result", id, text), or ("thought", text).
    """

    model: str
    stream: bool
    system: str = ""
    turns: list[tuple[str, list[tuple[Any, ...]]]] = field(default_factory=list)
    tools: dict[str, Any] = field(default_factory=dict)
    choice: str | None = None
    parallel: bool = True
    schema: Any = None
    stop: list[str] = field(default_factory=list)
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    effort: Any = None
    n: int = 1


@dataclass
class Fault:
    """What goes wrong: a refusal in the wire's own form, or these very bytes."""

    status: int = 200
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    repeat: int = 1


class WrongRequest(Exception):
    """The true service would refuse it."""


class WireUpstream:
    """A provider on a real socket; the wires derive from it."""

    base_path = ""
    stream_type = "text/event-stream"

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.asked: list[Asked] = []
        self.problems: list[str] = []
        self.tells = Told()
        self.fault: Fault | None = None
        self.cut_after: int | None = None
        self.cut_hard = False
        self.write_bytes: int | None = None
        self.key = "sk-wire-secret-0123456789"
        self._server: asyncio.Server | None = None
        self._writers: set[Writer] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self.base_path}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
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
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        pairs = (line.split(": ", 1) for line in lines[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        seen = Seen(path, headers, body)
        self.seen.append(seen)
        if self.fault is not None:
            await self._fail(self.fault, writer)
            return
        if not self.authorised(headers):
            await whole(writer, 401, self.refusal(401, "the key is wrong"))
            return
        try:
            await self.serve(method, path, seen, writer)
        except (WrongRequest, msgspec.DecodeError, KeyError) as exc:
            self.problems.append(f"{method} {path}: {exc!r} in {body[:2000]!r}")
            await whole(writer, 400, self.refusal(400, str(exc)))

    async def _fail(self, fault: Fault, writer: Writer) -> None:
        if fault.body is not None:
            length = str(len(fault.body) * fault.repeat)
            await send(writer, head(fault.status, {"content-length": length, **fault.headers}))
            for _number in range(fault.repeat):
                await send(writer, fault.body)
            return
        await whole(writer, fault.status, self.refusal(fault.status, fault.message), fault.headers)

    async def stream(self, seen: Seen, writer: Writer, events: list[bytes]) -> None:
        """Send events in pieces as told, cut off where told."""
        cut = self.cut_after is not None
        data = b"".join(events[: self.cut_after])
        size = self.write_bytes or max(1, len(data))
        await begin(writer, **{"content-type": self.stream_type})
        for at in range(0, len(data), size):
            await piece(seen, writer, data[at : at + size])
        if cut and self.cut_hard:
            await asyncio.sleep(0.01)
            reset(writer)
        else:
            await end(writer)

    def hears(self, asked: Asked) -> Told:
        """Note a request and return what is told, within its stops and its length."""
        self.asked.append(asked)
        told = self.tells
        text, finish = told.text, told.finish
        for stop in asked.stop:
            if stop in text:
                text = text[: text.index(stop)]
                finish = finish or "stop"
        if asked.max_tokens is not None and len(text.split(" ")) > asked.max_tokens:
            text = " ".join(text.split(" ")[: asked.max_tokens])
            finish = finish or "length"
        if told.calls:
            text, finish = told.text if told.text != TEXT else "", finish or "tool_calls"
        return Told(text, told.thinking, told.calls, finish or "stop", told.usage)

    # ---- what a wire says

    def authorised(self, headers: dict[str, str]) -> bool:
        raise NotImplementedError

    def refusal(self, status: int, message: str) -> dict[str, Any]:
        raise NotImplementedError

    async def serve(self, method: str, path: str, seen: Seen, writer: Writer) -> None:
        raise NotImplementedError

    def stream_events(self, told: Told, asked: Asked) -> list[bytes]:
        raise NotImplementedError


Route = Callable[[Seen, Writer], Awaitable[None]]


def words(text: str) -> list[str]:
    parts = text.split(" ")
    return [f"{part} " for part in parts[:-1]] + [part for part in parts[-1:] if part]


def halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]]


def vector(text: str) -> list[float]:
    return [float(len(text)), 0.5, -0.25]


def must(condition: object, problem: str) -> None:
    if not condition:
        raise WrongRequest(problem)


def check_base64(data: str) -> None:
    try:
        base64.b64decode(data, validate=True)
    except ValueError as exc:
        raise WrongRequest("it is no base64") from exc


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
