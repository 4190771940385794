"""What is particular to one wire: native calls, older models, keys, addresses, logprobs."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from helix.core.addresses import refusal_of_address
from helix.core.errors import BadInput
from helix.providers.adapters import speaks_natively
from helix.providers.errors import FieldUnsupported
from helix.providers.types import Call, Operation, Route, Wire
from helix.providers.wires.canonical import read_chat
from helix.providers.wires.gemini_answer import chat_of_generated
from helix.providers.wires.ollama_answer import chat_of_ollama
from tests.fakes.wire_upstream import PNG, Fault, Told
from tests.providers.rig import HELLO, Rig, rig_of
from tests.providers.test_conformance import SCHEMA, WEATHER

FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}


@pytest.fixture
async def anthropic() -> AsyncIterator[Rig]:
    async with rig_of(Wire.ANTHROPIC) as made:
        yield made


@pytest.fixture
async def gemini() -> AsyncIterator[Rig]:
    async with rig_of(Wire.GEMINI) as made:
        yield made


@pytest.fixture
async def ollama() -> AsyncIterator[Rig]:
    async with rig_of(Wire.OLLAMA) as made:
        yield made


@pytest.fixture
async def openai() -> AsyncIterator[Rig]:
    async with rig_of(Wire.OPENAI) as made:
        yield made


# ---- Anthropic


@pytest.mark.parametrize("stream", [False, True])
async def test_native_messages_pass_through_byte_for_byte(anthropic: Rig, stream: bool) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [turn], "stream": stream}
    sent = msgspec.json.encode(body) + b" "
    headers = {"anthropic-beta": "files-api-2025-04-14", "x-api-key": "stolen", "Cookie": "a=b"}
    if stream:
        reply = await anthropic.adapter.open(
            native_call(anthropic, sent, Operation.MESSAGES, headers, stream=True)
        )
        data = b""
        while part := await reply.chunk():
            data += part
        reply.close()
        assert data.startswith(b"event: message_start\ndata: ")
        assert b"event: message_stop" in data
    else:
        found = await anthropic.send(sent, operation=Operation.MESSAGES, headers=headers)
        assert found.json["type"] == "message"
    seen = anthropic.upstream.seen[-1]
    assert seen.body == sent
    assert seen.headers["anthropic-beta"] == "files-api-2025-04-14"
    assert seen.headers["x-api-key"] == anthropic.upstream.key
    assert "cookie" not in seen.headers


def native_call(rig: Rig, body: bytes, operation: Operation, headers: Any, *, stream: bool) -> Any:
    route = Route(rig.provider, rig.model)
    return Call(route, body, stream, "req-1", operation=operation, headers=headers)


@pytest.mark.parametrize("value", ["a\r\nx-api-key: stolen", "a\nb", "\u2028"])
async def test_header_of_a_client_cannot_bring_others(anthropic: Rig, value: str) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    sent = msgspec.json.encode({"model": "m", "max_tokens": 9, "messages": [turn]})
    await anthropic.send(sent, operation=Operation.MESSAGES, headers={"anthropic-beta": value})
    assert "anthropic-beta" not in anthropic.upstream.seen[-1].headers


@pytest.mark.parametrize("stream", [False, True])
async def test_older_model_answers_in_json_by_a_tool(anthropic: Rig, stream: bool) -> None:
    anthropic.upstream.tells = Told("", calls=[("t1", "json_answer", {"answer": 42})])
    found = await anthropic.chat(
        stream=stream, model="claude-3-5-haiku-20241022", response_format=FORM
    )
    assert msgspec.json.decode(found.message["content"]) == {"answer": 42}
    assert found.choice["finish_reason"] == "stop"
    assert "tool_calls" not in found.message
    asked = anthropic.upstream.asked[0]
    assert (asked.choice, asked.tools) == ("json_answer", {"json_answer": SCHEMA})


async def test_older_model_refuses_json_beside_tools(anthropic: Rig) -> None:
    with pytest.raises(FieldUnsupported, match="response_format"):
        await anthropic.chat(model="claude-3-opus-20240229", response_format=FORM, tools=[WEATHER])


@pytest.mark.parametrize(
    ("model", "effort", "limit"),
    [
        ("claude-opus-4-7", "high", 32_000),
        ("claude-opus-4-6", "minimal", 32_000),
        ("claude-fable-5", "xhigh", 32_000),
        ("claude-sonnet-4-20250514", "low", 32_000),
        ("claude-3-7-sonnet-20250219", "high", 28_672),
    ],
)
async def test_effort_is_said_as_each_model_knows_it(
    anthropic: Rig, model: str, effort: str, limit: int
) -> None:
    await anthropic.chat(model=model, reasoning_effort=effort)
    expected = {
        "claude-opus-4-7": "high",
        "claude-opus-4-6": "low",
        "claude-fable-5": "xhigh",
        "claude-sonnet-4-20250514": 2_048,
        "claude-3-7-sonnet-20250219": 24_576,
    }
    asked = anthropic.upstream.asked[0]
    assert (asked.effort, asked.max_tokens) == (expected[model], limit)


async def test_model_that_does_not_think_says_so(anthropic: Rig) -> None:
    with pytest.raises(FieldUnsupported, match="reasoning_effort"):
        await anthropic.chat(model="claude-3-5-sonnet-latest", reasoning_effort="low")


@pytest.mark.parametrize(
    ("model", "limit"),
    [("claude-3-haiku-20240307", 4_096), ("claude-3-5-haiku-latest", 8_192), ("new", 32_000)],
)
async def test_length_that_was_not_said_is_what_the_model_can(
    anthropic: Rig, model: str, limit: int
) -> None:
    await anthropic.chat(model=model)
    assert anthropic.upstream.asked[0].max_tokens == limit


async def test_cache_marks_and_documents_arrive(anthropic: Rig) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    pdf = {
        "type": "file",
        "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PNG}"},
    }
    content = [{"type": "text", "text": "read", **mark}, pdf]
    await anthropic.chat(messages=[{"role": "user", "content": content}], user="u-1")
    body = anthropic.upstream.seen[0].json
    assert body["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert body["messages"][0]["content"][1]["title"] == "a.pdf"
    assert body["metadata"] == {"user_id": "u-1"}
    await anthropic.chat(metadata={"user_id": "u-2", "label": "x"})
    assert anthropic.upstream.seen[1].json["metadata"] == {"user_id": "u-2"}


# ---- Gemini


async def test_gemini_says_a_wrong_key_as_400_and_helix_as_401(gemini: Rig) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    body = msgspec.json.encode({"error": {**error, "details": details}})
    gemini.upstream.fault = Fault(400, body=body)
    assert (await gemini.chat()).status == 401


async def test_gemini_says_in_the_body_how_long_to_wait(gemini: Rig) -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
    error = {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED", "details": details}
    gemini.upstream.fault = Fault(429, body=msgspec.json.encode({"error": error}))
    found = await gemini.chat()
    assert (found.status, found.retry_after) == (429, "17.5")


async def test_signature_of_a_thought_goes_back_with_the_call(gemini: Rig) -> None:
    gemini.upstream.tells = Told(calls=[("c1", "weather", {})])
    first = await gemini.chat(tools=[WEATHER])
    gemini.upstream.tells = Told()
    result = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
    await gemini.chat(tools=[WEATHER], messages=[*HELLO, first.message, result])
    call = gemini.upstream.seen[-1].json["contents"][1]["parts"][0]
    assert call["thoughtSignature"] == "dGhvdWdodA=="


@pytest.mark.parametrize("stream", [False, True])
async def test_several_candidates_are_several_choices(gemini: Rig, stream: bool) -> None:
    found = await gemini.chat(stream=stream, n=2)
    assert [choice["index"] for choice in found.json["choices"]] == [0, 1]


@pytest.mark.parametrize("name", ["../../v1/secrets", "a/b", "x?key=1", "x#y", "a b", "ü"])
async def test_name_of_a_model_stays_one_segment(gemini: Rig, name: str) -> None:
    await gemini.chat(model=name)
    path = gemini.upstream.seen[0].path
    assert path.startswith("/v1beta/models/")
    assert path.count("/") == 3
    assert gemini.upstream.asked[0].model == name


@pytest.mark.parametrize(
    ("model", "effort"), [("gemini-3-pro", "low"), ("gemini-3.5-flash", "high")]
)
async def test_newer_gemini_thinks_in_levels(gemini: Rig, model: str, effort: str) -> None:
    await gemini.chat(model=model, reasoning_effort=effort)
    assert gemini.upstream.asked[0].effort == effort


def test_prompt_that_was_blocked_is_a_filtered_answer() -> None:
    body = b'{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":4}}'
    found = chat_of_generated(body, model="m", answer_id="a")
    assert found["choices"][0]["finish_reason"] == "content_filter"
    assert found["choices"][0]["message"]["content"] is None
    assert found["usage"]["prompt_tokens"] == 4


def test_probabilities_of_gemini_are_told() -> None:
    one = {"token": "Hi", "logProbability": -0.1}
    logprobs = {"chosenCandidates": [one], "topCandidates": [{"candidates": [one]}]}
    parts = {"parts": [{"text": "Hi"}]}
    candidate = {"content": parts, "finishReason": "STOP", "logprobsResult": logprobs}
    body = msgspec.json.encode({"candidates": [candidate]})
    found = chat_of_generated(body, model="m", answer_id="a")["choices"][0]["logprobs"]
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105]}
    assert found["content"] == [{**token, "top_logprobs": [token]}]


# ---- Ollama and OpenAI


async def test_options_of_ollama_arrive(ollama: Rig) -> None:
    await ollama.chat(num_ctx=8_192, options={"seed": 3}, keep_alive="5m", seed=2)
    body = ollama.upstream.seen[0].json
    assert body["options"] == {"seed": 3, "num_ctx": 8_192}
    assert body["keep_alive"] == "5m"


def test_probabilities_of_ollama_are_told() -> None:
    told = [{"token": "Hi", "logprob": -0.1, "top_logprobs": []}]
    body = {"model": "m", "message": {"content": "Hi"}, "done": True, "logprobs": told}
    found = chat_of_ollama(msgspec.json.encode(body), model="m", answer_id="a")
    assert found["choices"][0]["logprobs"] == {"content": told, "refusal": None}


@pytest.mark.parametrize(
    "operation", [Operation.COMPLETIONS, Operation.MODERATIONS, Operation.RESPONSES]
)
async def test_siblings_of_chat_pass_through(openai: Rig, operation: Operation) -> None:
    body = {"model": "m", "input": "x", "odd": 1e30}
    found = await openai.send(msgspec.json.encode(body), operation=operation)
    assert found.json == {"path": f"/v1/{operation.value}", "got": body}


async def test_responses_are_native_where_the_host_is_known_for_them(openai: Rig) -> None:
    assert not speaks_natively(openai.adapter, openai.provider, Operation.RESPONSES)
    assert speaks_natively(openai.adapter, openai.provider, Operation.EMBEDDINGS)
    assert not speaks_natively(openai.adapter, openai.provider, Operation.MESSAGES)
    object.__setattr__(openai.provider, "base_url", "https://api.openai.com/v1")
    assert speaks_natively(openai.adapter, openai.provider, Operation.RESPONSES)


# ---- reading requests


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "name": "bob", "content": "x"}]}, "messages[0].name"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop": 7}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"n": 0}, "n"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    body = {"messages": HELLO, **fields}
    with pytest.raises(BadInput) as caught:
        read_chat("p", msgspec.json.encode(body)).parts(0)
    assert caught.value.param == param


async def test_wrong_arguments_of_a_call_are_named(anthropic: Rig) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1]"}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(BadInput) as caught:
        await anthropic.chat(messages=messages)
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"


@pytest.mark.parametrize("url", ["data:image/png,plain", "data:", "data:;base64"])
async def test_data_that_is_no_base64_url_is_named(anthropic: Rig, url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(BadInput) as caught:
        await anthropic.chat(messages=[{"role": "user", "content": content}])
    assert caught.value.param == "messages[0].content[0]"


# ---- addresses


@pytest.mark.parametrize(
    ("address", "home", "abroad"),
    [
        ("127.0.0.1", True, False),
        ("::1", True, False),
        ("10.1.2.3", True, False),
        ("192.168.0.1", True, False),
        ("fd12::1", True, False),
        ("::ffff:127.0.0.1", True, False),
        ("8.8.8.8", True, True),
        ("2606:4700::1111", True, True),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("::169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("64:ff9b::7f00:1", True, False),
        ("2002:a9fe:a9fe::", False, False),
        ("fe80::1%eth0", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("0.0.0.0", False, False),
        ("0.1.2.3", False, False),
        ("::", False, False),
        ("224.0.0.1", False, False),
        ("255.255.255.255", False, False),
        ("ff02::1", False, False),
        ("localhost", False, False),
    ],
)
def test_address_may_be_called(address: str, home: bool, abroad: bool) -> None:
    assert (refusal_of_address(address, private=True) is None) is home
    assert (refusal_of_address(address, private=False) is None) is abroad
