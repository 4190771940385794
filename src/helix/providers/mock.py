"""The built-in provider that needs no network: deterministic, and labelled wherever it answers.

It speaks the true wire format. What it does is chosen by the model's name and may be changed call
by call under `helix.mock` (see `_Options`), so that a client's handling of slow, broken or odd
answers can be tried against a stock SDK.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from helix.core.clock import Clock
from helix.core.errors import BadInput
from helix.providers.errors import ModelNotFound, UpstreamBroken
from helix.providers.policy import estimate_tokens
from helix.providers.types import Call

__all__ = ["MOCK_MODELS", "MockAdapter"]

MOCK_MODELS = ("echo", "small", "large", "slow", "long", "error", "unicode", "tools")
"""echo, small and large give the last user message back (at three prices); slow does so late;
long talks on; error refuses; unicode answers in many scripts; tools calls the first tool."""

_UNICODE = (
    "Grüße, Жизнь, 生命, الحياة, חיים, ชีวิต, 생명; e\u0301 is é; "
    "👩🏽‍🚀 👨‍👩‍👧‍👦 🏴‍☠️; \u202eright to left\u202c; \u2028 \\ \" ' \t end."
)
_FINGERPRINT = "helix-mock"
_WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


class _Message(msgspec.Struct):
    role: str
    content: Any = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Request(msgspec.Struct):
    messages: list[_Message]
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream_options: _StreamOptions | None = None


class _Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What `helix.mock` may hold; times in milliseconds.

    `status`: refuse with this HTTP status. `break_after`: break off after so many chunks.
    `usage`: false leaves the usage out.
    """

    content: str | None = None
    words: int | None = None
    delay_ms: int = 0
    chunk_ms: int = 0
    status: int = 200
    break_after: int | None = None
    usage: bool = True


_BY_MODEL = {
    "slow": _Options(delay_ms=1_000, chunk_ms=50),
    "long": _Options(words=2_000),
    "error": _Options(status=500),
    "unicode": _Options(content=_UNICODE),
}
DELAY_MS_MAX = 600_000
_YIELD_EVERY = 16
WORDS_MAX = 200_000


class MockAdapter:
    """Answers out of itself."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)

    async def open(self, call: Call) -> "MockReply":
        """Answer a call; see `types.Adapter`."""
        model = call.route.model
        if model not in MOCK_MODELS:
            raise ModelNotFound(f"mock/{model}")
        options = _options(model, call)
        try:
            request = msgspec.json.decode(call.body, type=_Request)
        except msgspec.ValidationError as exc:
            raise BadInput(f"mock: {exc}", param="messages") from exc
        if options.delay_ms:
            await asyncio.sleep(options.delay_ms / 1_000)
        if options.status != 200:
            return MockReply(options.status, "application/json", iter([_refusal(options.status)]))
        created = int(self._clock.now().timestamp())
        answer = _Answer(f"chatcmpl-mock-{next(self._numbers)}", created, model, request, options)
        if not call.stream:
            return MockReply(200, "application/json", iter([answer.whole()]))
        return MockReply(
            200,
            "text/event-stream",
            answer.events(),
            pause_s=options.chunk_ms / 1_000,
            break_after=options.break_after,
        )


def _options(model: str, call: Call) -> _Options:
    base = _BY_MODEL.get(model, _Options())
    if call.mock is None:
        return base
    try:
        options = msgspec.convert({**msgspec.structs.asdict(base), **call.mock}, _Options)
    except msgspec.ValidationError as exc:
        raise BadInput(f"helix.mock: {exc}", param="helix.mock") from exc
    if not 0 <= options.delay_ms <= DELAY_MS_MAX or not 0 <= options.chunk_ms <= DELAY_MS_MAX:
        raise BadInput(f"helix.mock: times are 0 to {DELAY_MS_MAX} ms", param="helix.mock")
    if options.words is not None and not 0 <= options.words <= WORDS_MAX:
        raise BadInput(f"helix.mock: words are 0 to {WORDS_MAX}", param="helix.mock")
    if not 200 <= options.status <= 599:
        raise BadInput("helix.mock: status is 200 to 599", param="helix.mock")
    return options


class MockReply:
    """A reply made up here; see `types.Reply`."""

    retry_after: str | None = None

    def __init__(
        self,
        status: int,
        content_type: str,
        parts: Iterator[bytes],
        *,
        pause_s: float = 0.0,
        break_after: int | None = None,
    ) -> None:
        self.status = status
        self.content_type = content_type
        self._parts = _paced(parts, pause_s, break_after)

    async def chunk(self) -> bytes:
        """Return the next bytes, b"" at the end."""
        return await anext(self._parts, b"")

    def close(self) -> None:
        """Nothing is held."""


async def _paced(
    parts: Iterator[bytes], pause_s: float, break_after: int | None
) -> AsyncIterator[bytes]:
    for number, part in enumerate(parts):
        if break_after is not None and number >= break_after:
            raise UpstreamBroken("mock", "it was told to break off")
        if number and (pause_s or number % _YIELD_EVERY == 0):
            await asyncio.sleep(pause_s)  # also without a pause others get their turn
        yield part


def _refusal(status: int) -> bytes:
    error = {"message": f"mock: told to answer {status}", "type": "mock_error", "code": "mock"}
    return msgspec.json.encode({"error": {**error, "param": None}})


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


class _Answer:
    """One answer, whole or in events."""

    def __init__(
        self, answer_id: str, created: int, model: str, request: _Request, options: _Options
    ) -> None:
        self._head = {"id": answer_id, "created": created, "model": f"mock/{model}"}
        self._request = request
        self._options = options
        said = [_text_of(m.content) for m in request.messages if m.role == "user"]
        if options.content is not None:
            self._pieces = _pieces(options.content)
        elif options.words is not None:
            self._pieces = [
                f"{w} " for w in itertools.islice(itertools.cycle(_WORDS), options.words)
            ]
        else:
            self._pieces = _pieces(said[-1] if said else "")
        self._call = _tool_call(request) if model == "tools" else None
        most = request.max_completion_tokens or request.max_tokens
        self._finish = "tool_calls" if self._call else "stop"
        if most is not None and not self._call and len(self._pieces) > most:
            self._pieces, self._finish = self._pieces[:most], "length"

    def _usage(self) -> dict[str, int]:
        asked = sum(estimate_tokens(_text_of(m.content)) for m in self._request.messages)
        told = estimate_tokens("".join(self._pieces)) if self._call is None else 10
        return {
            "prompt_tokens": asked,
            "completion_tokens": told,
            "total_tokens": asked + told,
        }

    def whole(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._pieces)}
        if self._call:
            message |= {"content": None, "tool_calls": [self._call]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        answer = {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "system_fingerprint": _FINGERPRINT,
        }
        if self._options.usage:
            answer["usage"] = self._usage()
        return msgspec.json.encode(answer)

    def events(self) -> Iterator[bytes]:
        asked = self._request.stream_options
        with_usage = asked is not None and asked.include_usage and self._options.usage
        yield self._event({"role": "assistant", "content": ""}, None, with_usage=with_usage)
        if self._call:
            delta = {"tool_calls": [{"index": 0, **self._call}]}
            yield self._event(delta, None, with_usage=with_usage)
        else:
            for piece in self._pieces:
                yield self._event({"content": piece}, None, with_usage=with_usage)
        yield self._event({}, self._finish, with_usage=with_usage)
        if with_usage:
            yield self._line({"choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _event(self, delta: dict[str, Any], finish: str | None, *, with_usage: bool) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._line({"choices": [choice], **({"usage": None} if with_usage else {})})

    def _line(self, rest: dict[str, Any]) -> bytes:
        chunk = {
            **self._head,
            "object": "chat.completion.chunk",
            "system_fingerprint": _FINGERPRINT,
            **rest,
        }
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + ([words[-1]] if words[-1] else [])


def _tool_call(request: _Request) -> dict[str, Any] | None:
    for tool in request.tools or []:
        function = tool.get("function")
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            return {
                "id": "call_mock_1",
                "type": "function",
                "function": {"name": function["name"], "arguments": "{}"},
            }
    return None
