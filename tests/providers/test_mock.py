"""The built-in provider: deterministic, and in the true wire format."""

import math
import time
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from helix.core.clock import SystemClock
from helix.core.errors import BadInput
from helix.providers.errors import ModelNotFound, OperationUnsupported, UpstreamBroken
from helix.providers.mock import MOCK_MODELS, MockAdapter
from helix.providers.types import Call, Operation, Provider, Route, Wire

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


async def call(operation: Operation, body: dict[str, Any], *, stream: bool = False) -> Any:
    adapter = MockAdapter(SystemClock())
    sent = msgspec.json.encode(body)
    made = Call(Route(MOCK, "echo"), sent, stream, "request-1", operation=operation)
    reply = await adapter.open(made)
    data = b""
    while part := await reply.chunk():
        data += part
    assert reply.status == 200
    return data.decode() if stream else msgspec.json.decode(data)


async def test_vectors_are_of_length_one_and_alike_for_like_texts() -> None:
    texts = ["the cat sat on the mat", "a cat sat on a mat", "quarterly revenue forecast", ""]
    found = await call(Operation.EMBEDDINGS, {"input": texts})
    vectors = [one["embedding"] for one in found["data"]]
    assert [len(vector) for vector in vectors] == [256] * 4
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1.0] * 4)

    def likeness(a: int, b: int) -> float:
        return sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True))

    assert likeness(0, 1) > likeness(0, 2) + 0.3
    again = await call(Operation.EMBEDDINGS, {"input": texts[0], "dimensions": 256})
    assert again["data"][0]["embedding"] == vectors[0]
    assert found["usage"] == {"prompt_tokens": 18, "total_tokens": 18}


async def test_prompt_is_completed_whole_and_streamed() -> None:
    body = {"prompt": "one two three", "max_tokens": 2, "logprobs": 1}
    whole_answer = await call(Operation.COMPLETIONS, body)
    assert whole_answer["object"] == "text_completion"
    choice = whole_answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("one two ", "length")
    assert choice["logprobs"]["tokens"] == ["one ", "two "]
    assert choice["logprobs"]["text_offset"] == [0, 4]
    events = (await call(Operation.COMPLETIONS, body, stream=True)).split("\n\n")
    told = [msgspec.json.decode(event.removeprefix("data: ")) for event in events[:-2]]
    assert "".join(one["choices"][0]["text"] for one in told) == "one two "
    assert events[-2] == "data: [DONE]"


async def test_texts_are_moderated_by_the_words_in_them() -> None:
    found = await call(Operation.MODERATIONS, {"input": ["kind words", "pure VIOLENCE"]})
    assert [one["flagged"] for one in found["results"]] == [False, True]
    assert found["results"][1]["categories"]["violence"] is True
    assert found["results"][1]["category_scores"]["hate"] == 0.0


@pytest.mark.parametrize("operation", [Operation.MESSAGES, Operation.RESPONSES])
async def test_native_operations_are_not_offered(operation: Operation) -> None:
    with pytest.raises(OperationUnsupported):
        await call(operation, {})


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_on_request(stream: bool) -> None:
    calls = [{"name": "a", "arguments": '{"x":1}'}, {"name": "b"}]
    _, data = await ask(mock={"tool_calls": calls}, stream=stream)
    if stream:
        deltas = [c.choices[0].delta for c in chunks(data) if c.choices[0].delta.tool_calls]
        told = [(t.index, t.function) for d in deltas for t in d.tool_calls or []]
        found = [(index, f.name, f.arguments) for index, f in told if f is not None]
        assert found == [(0, "a", '{"x":1}'), (1, "b", "{}")]
        return
    choice = whole(data).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert [call.id for call in choice.message.tool_calls or []] == ["call_mock_1", "call_mock_2"]


async def test_several_answers_with_their_probabilities() -> None:
    _, data = await ask(n=2, logprobs=True, top_logprobs=3)
    answer = whole(data)
    assert [choice.index for choice in answer.choices] == [0, 1]
    told = answer.choices[1].logprobs
    assert told is not None
    assert [one.token for one in told.content or []] == ["hello ", "there ", "you"]
    assert all(len(one.top_logprobs) == 3 for one in told.content or [])
    assert all(one.logprob < 0 for one in told.content or [])
    streamed = chunks((await ask(n=2, stream=True))[1])
    text = "".join(c.choices[0].delta.content or "" for c in streamed if c.choices[0].index == 1)
    assert text == "hello there you"


async def test_answer_takes_the_form_asked_for_and_stops_where_told() -> None:
    schema = {
        "type": "object",
        "properties": {
            "who": {"type": "string"},
            "n": {"type": "integer"},
            "kind": {"enum": ["x", "y"]},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    content = whole((await ask(response_format=form))[1]).choices[0].message.content
    said = "hello there you"
    assert msgspec.json.decode(content or "") == {"who": said, "n": 0, "kind": "x", "tags": [said]}
    stopped = whole((await ask(stop=["there"]))[1]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("hello ", "stop")


async def test_thinking_is_told_on_request() -> None:
    _, data = await ask(mock={"reasoning": "Hm."})
    assert msgspec.json.decode(data)["choices"][0]["message"]["reasoning_content"] == "Hm."


@pytest.mark.parametrize(("field", "value"), [("n", 0), ("n", 1_000), ("top_logprobs", 21)])
async def test_numbers_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(BadInput) as caught:
        await ask(logprobs=True, **{field: value})
    assert caught.value.param == field


async def test_models_and_health_are_told() -> None:
    adapter = MockAdapter(SystemClock())
    assert {model.name for model in await adapter.models(MOCK)} == set(MOCK_MODELS)
    assert (await adapter.probe(MOCK)).healthy
