"""A provider whose models say what a test has them say, on a real socket, with a ledger.

Speaks OpenAI's chat format, whole. A model that has no line of its own echoes the last message. A
line is a text, an HTTP status to fail with, a function of the body, or HANG: then it never answers,
and `cut[model]` is set when the caller hangs up.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

__all__ = ["HANG", "ScriptedUpstream"]

HANG = object()
Line = str | int | object | Callable[[dict[str, Any]], str]


class ScriptedUpstream:
    """Start it in a test; `asked` is its ledger: every call it took, in order."""

    def __init__(self, **lines: Line) -> None:
        self.lines: dict[str, Line] = dict(lines)
        self.asked: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.cut: dict[str, asyncio.Event] = {}
        self.delay_s = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def models(self) -> list[str]:
        """The models asked, in order."""
        return [body["model"] for body in self.asked]

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**26)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        raw = await reader.readexactly(size)
        if not raw:
            self._reply(writer, 200, {"object": "list", "data": []})
            await writer.drain()
            return True
        body = json.loads(raw)
        self.asked.append(body)
        model = body["model"]
        line = self.lines.get(model, body["messages"][-1]["content"])
        if line is HANG:
            gone = self.cut.setdefault(model, asyncio.Event())
            await reader.read()
            gone.set()
            return False
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if isinstance(line, int):
            self._reply(writer, line, {"error": {"message": "told to", "type": "x", "code": "x"}})
        else:
            text = line(body) if callable(line) else str(line)
            self._reply(writer, 200, _completion(model, text))
            self.answered.append(model)
        await writer.drain()
        return True

    @staticmethod
    def _reply(writer: asyncio.StreamWriter, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        )
        writer.write(f"{head}\r\n\r\n".encode() + data)


def _completion(model: str, text: str) -> dict[str, Any]:
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }
