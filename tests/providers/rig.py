"""One adapter of each wire in front of its fake provider, over real loopback HTTP."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import uuid4

import msgspec

from helix.core.clock import SystemClock
from helix.gateway.sse import DONE, EventSplitter, Transcript, data_of
from helix.providers.adapters import adapters
from helix.providers.http import HttpClient, HttpLimits
from helix.providers.types import AS_SET, Adapter, Call, Operation, Provider, Route, Timeouts, Wire
from tests.fakes.anthropic_upstream import AnthropicUpstream
from tests.fakes.gemini_upstream import GeminiUpstream
from tests.fakes.ollama_upstream import OllamaUpstream
from tests.fakes.openai_wire_upstream import OpenAIWireUpstream
from tests.fakes.wire_upstream import WireUpstream

FAKES: dict[Wire, type[WireUpstream]] = {
    Wire.OPENAI: OpenAIWireUpstream,
    Wire.ANTHROPIC: AnthropicUpstream,
    Wire.GEMINI: GeminiUpstream,
    Wire.OLLAMA: OllamaUpstream,
}
MODELS = {
    Wire.OPENAI: "gpt-4",
    Wire.ANTHROPIC: "claude-sonnet-4-5",
    Wire.GEMINI: "gemini-2.5-flash",
    Wire.OLLAMA: "llama3.2:latest",
}
LIMITS = HttpLimits(5.0, 20.0, 20.0, 2_000_000)
HELLO = [{"role": "user", "content": "hello there"}]


@dataclass
class Outcome:
    """What an adapter gave: a whole answer, or the chunks of a stream put together."""

    status: int
    body: bytes
    retry_after: str | None
    content_type: str
    done: bool = False
    chunks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def choice(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["choices"][0]
        return found

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = self.choice["message"]
        return found

    @property
    def calls(self) -> list[tuple[str, str, Any]]:
        """The calls of tools as (id, name, arguments)."""
        return [
            (
                call["id"],
                call["function"]["name"],
                msgspec.json.decode(call["function"]["arguments"]),
            )
            for call in self.message.get("tool_calls") or []
        ]


@dataclass
class Rig:
    wire: Wire
    adapter: Adapter
    upstream: WireUpstream
    provider: Provider

    @property
    def model(self) -> str:
        return MODELS[self.wire]

    async def send(
        self,
        body: bytes,
        *,
        stream: bool = False,
        model: str | None = None,
        operation: Operation = Operation.CHAT,
        timeouts: Timeouts = AS_SET,
        headers: dict[str, str] | None = None,
    ) -> Outcome:
        route = Route(self.provider, model or self.model)
        call = Call(
            route,
            body,
            stream,
            "req-1",
            operation=operation,
            timeouts=timeouts,
            headers=headers,
        )
        reply = await self.adapter.open(call)
        try:
            data = bytearray()
            while part := await reply.chunk():
                data += part
        finally:
            reply.close()
        outcome = Outcome(reply.status, bytes(data), reply.retry_after, reply.content_type)
        if reply.status == 200 and reply.content_type == "text/event-stream":
            read_stream(outcome)
        return outcome

    async def chat(
        self,
        *,
        stream: bool = False,
        model: str | None = None,
        timeouts: Timeouts = AS_SET,
        **fields: Any,
    ) -> Outcome:
        body: dict[str, Any] = {"model": model or self.model, "messages": HELLO, **fields}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        encoded = msgspec.json.encode(body)
        return await self.send(encoded, stream=stream, model=model, timeouts=timeouts)


def read_stream(outcome: Outcome) -> None:
    """Put the chunks together as the gateway does."""
    transcript, splitter = Transcript(), EventSplitter()
    for event in splitter.feed(outcome.body):
        told = data_of(event)
        if told == DONE:
            outcome.done = True
        elif told:
            chunk = msgspec.json.decode(told)
            outcome.chunks.append(chunk)
            transcript.take(chunk)
    assert splitter.rest() == b""
    outcome.body = (transcript.as_json() or "null").encode()


@cache
def no_authorities() -> ssl.SSLContext:
    """A context that trusts nobody; reading the machine's authorities takes 20 ms each time."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@asynccontextmanager
async def rig_of(wire: Wire, limits: HttpLimits = LIMITS) -> AsyncIterator[Rig]:
    """Start the fake of a wire and an adapter for it; at the end no request was wrong."""
    upstream = FAKES[wire]()
    await upstream.start()
    http = HttpClient(limits, tls=no_authorities())
    http.start()
    provider = Provider(
        id=uuid4(),
        name="up",
        wire=wire,
        base_url=upstream.url,
        priority=1,
        default_model=None,
        models=frozenset(),
        api_key=upstream.key,
    )
    try:
        yield Rig(wire, adapters(http, SystemClock())[wire], upstream, provider)
        assert upstream.problems == []
    finally:
        await http.stop()
        await upstream.stop()
