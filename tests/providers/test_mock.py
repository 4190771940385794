"""The built-in provider: deterministic, and in the true wire format."""

import time
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from helix.core.clock import SystemClock
from helix.core.errors import BadInput
from helix.providers.errors import ModelNotFound, UpstreamBroken
from helix.providers.mock import MOCK_MODELS, MockAdapter
from helix.providers.types import Call, Provider, Route, Wire

MOCK = Provider(uuid4(), "mock", Wire.MOCK, "", 100, "echo", frozenset(MOCK_MODELS))


async def ask(
    model: str = "echo", *, mock: dict[str, Any] | None = None, stream: bool = False, **fields: Any
) -> tuple[int, bytes]:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first"},
        {"role": "user", "content": "hello there you"},
    ]
    body = msgspec.json.encode({"messages": messages, "stream": stream, **fields})
    adapter = MockAdapter(SystemClock())
    reply = await adapter.open(Call(Route(MOCK, model), body, stream, "request-1", mock))
    data = b""
    while part := await reply.chunk():
        data += part
    return reply.status, data


def whole(data: bytes) -> ChatCompletion:
    return ChatCompletion.model_validate_json(data, strict=False)


def chunks(data: bytes) -> list[ChatCompletionChunk]:
    events = data.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [
        ChatCompletionChunk.model_validate_json(event.removeprefix("data: "))
        for event in events[:-2]
    ]


@pytest.mark.parametrize("model", ["echo", "small", "large"])
async def test_last_message_of_the_user_comes_back(model: str) -> None:
    answer = whole((await ask(model))[1])
    assert answer.choices[0].message.content == "hello there you"
    assert answer.model == f"mock/{model}"
    assert answer.system_fingerprint == "helix-mock"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("model", [name for name in MOCK_MODELS if name not in {"error", "slow"}])
async def test_stream_tells_what_the_whole_answer_says(model: str) -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    answer = whole((await ask(model, tools=[tool]))[1])
    told = chunks((await ask(model, stream=True, tools=[tool]))[1])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in told)
    assert text == (answer.choices[0].message.content or "")
    assert told[-1].choices[0].finish_reason == answer.choices[0].finish_reason


async def test_usage_ends_a_stream_that_asked_for_it() -> None:
    told = chunks((await ask(stream=True, stream_options={"include_usage": True}))[1])
    assert told[-1].choices == []
    assert told[-1].usage is not None
    assert all(chunk.usage is None for chunk in told[:-1])


async def test_error_refuses_in_openais_shape() -> None:
    status, data = await ask("error", mock={"status": 429})
    assert status == 429
    assert set(msgspec.json.decode(data)["error"]) == {"message", "type", "code", "param"}


async def test_long_says_as_much_as_it_is_told() -> None:
    answer = whole((await ask("long", mock={"words": 50}))[1])
    assert len((answer.choices[0].message.content or "").split()) == 50


async def test_most_tokens_cut_the_answer_off() -> None:
    answer = whole((await ask("long", max_tokens=7))[1])
    assert answer.choices[0].finish_reason == "length"


async def test_slow_waits() -> None:
    began_s = time.monotonic()
    await ask("slow", mock={"delay_ms": 50, "chunk_ms": 0})
    assert time.monotonic() - began_s >= 0.05


async def test_stream_breaks_off_where_it_is_told() -> None:
    with pytest.raises(UpstreamBroken):
        await ask(stream=True, mock={"break_after": 2})


async def test_content_is_what_the_options_say() -> None:
    assert whole((await ask(mock={"content": "a\0b"}))[1]).choices[0].message.content == "a\0b"


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": 1},
        {"delay_ms": -1},
        {"delay_ms": 10**9},
        {"words": 10**9},
        {"status": 99},
        {"status": "200"},
    ],
)
async def test_wrong_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        await ask(mock=options)
    assert caught.value.param == "helix.mock"


async def test_model_that_is_none_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        await ask("nothing")
