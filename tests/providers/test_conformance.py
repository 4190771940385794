"""What every wire must do alike: each adapter passes it against its strict fake."""

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from helix.providers.errors import FieldUnsupported, OperationUnsupported, UpstreamBroken
from helix.providers.types import Operation, Wire
from tests.fakes.openai_upstream import Seen
from tests.fakes.wire_upstream import PNG, TEXT, Fault, Tokens, Told, vector
from tests.providers.rig import HELLO, Rig, rig_of

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
BRNO = ("call_1", "weather", {"city": "Brno", "big": 12345678901234567890})
OSLO = ("call_2", "weather", {"city": "Oslo"})
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
OTHERS = {Wire.ANTHROPIC, Wire.GEMINI, Wire.OLLAMA}


@pytest.fixture(params=[Wire.OPENAI, Wire.ANTHROPIC, Wire.GEMINI, Wire.OLLAMA], ids=str)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with rig_of(request.param) as made:
        yield made


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def asked(rig: Rig) -> Any:
    return rig.upstream.asked[-1]


# ---- talking


@both
async def test_text_is_asked_and_told(rig: Rig, stream: bool) -> None:
    found = await rig.chat(stream=stream)
    assert found.status == 200
    assert found.message["content"] == TEXT
    assert found.message["role"] == "assistant"
    assert found.choice["finish_reason"] == "stop"
    assert found.json["model"].startswith(rig.model)
    assert found.json["id"]
    assert asked(rig).turns == [("user", [("text", "hello there")])]
    assert asked(rig).stream is stream
    assert rig.upstream.seen[0].headers["x-request-id"] == "req-1"
    if stream:
        assert found.done
        assert len(found.chunks) > 6
        assert found.content_type == "text/event-stream"


@both
async def test_usage_is_counted_in_the_same_way(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(usage=Tokens(prompt=100, completion=50, cached=40, reasoning=20))
    usage = (await rig.chat(stream=stream)).json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (100, 50)
    assert usage["total_tokens"] == 150
    if rig.wire is not Wire.OLLAMA:  # which tells neither
        assert usage["prompt_tokens_details"]["cached_tokens"] == 40
        assert usage["completion_tokens_details"]["reasoning_tokens"] == 20


@both
async def test_usage_that_was_not_told_is_left_out(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(usage=None)
    found = await rig.chat(stream=stream)
    assert found.message["content"] == TEXT
    assert "usage" not in found.json


async def test_stream_without_wish_for_usage_tells_none(rig: Rig) -> None:
    if rig.wire is Wire.OPENAI:
        pytest.skip("its bytes are passed on")
    body = msgspec.json.encode({"model": "m", "messages": HELLO, "stream": True})
    found = await rig.send(body, stream=True)
    assert found.done
    assert not any("usage" in chunk for chunk in found.chunks)


async def test_system_prompt_and_earlier_turns_arrive_in_order(rig: Rig) -> None:
    await rig.chat(
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "text", "text": "three"}]},
        ]
    )
    assert asked(rig).system == "Be kind."
    assert asked(rig).turns == [
        ("user", [("text", "one")]),
        ("assistant", [("text", "two")]),
        ("user", [("text", "three")]),
    ]


@both
async def test_stop_ends_the_answer(rig: Rig, stream: bool) -> None:
    found = await rig.chat(stream=stream, stop=[","])
    assert asked(rig).stop == [","]
    assert found.message["content"] == "Hello from upstream"
    assert found.choice["finish_reason"] == "stop"


async def test_a_single_stop_may_be_a_text(rig: Rig) -> None:
    await rig.chat(stop="END")
    assert asked(rig).stop == ["END"]


@both
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_length_is_bounded(rig: Rig, stream: bool, name: str) -> None:
    found = await rig.chat(stream=stream, **{name: 2})
    assert asked(rig).max_tokens == 2
    assert found.message["content"] == "Hello from"
    assert found.choice["finish_reason"] == "length"


async def test_numbers_and_unknown_fields_arrive(rig: Rig) -> None:
    await rig.chat(temperature=0.25, top_p=0.5, top_k=7)
    assert asked(rig).temperature == 0.25
    assert asked(rig).top_k == 7


@both
async def test_thinking_is_told_apart_from_the_answer(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(thinking="Let me see now.")
    found = await rig.chat(stream=stream)
    assert found.message["reasoning_content"] == "Let me see now."
    assert found.message["content"] == TEXT


async def test_effort_arrives(rig: Rig) -> None:
    await rig.chat(reasoning_effort="medium")
    expected = {Wire.OPENAI: "medium", Wire.ANTHROPIC: 8_192, Wire.GEMINI: 8_192, Wire.OLLAMA: True}
    assert asked(rig).effort == expected[rig.wire]


@both
async def test_refused_content_ends_as_filtered(rig: Rig, stream: bool) -> None:
    if rig.wire is Wire.OLLAMA:
        pytest.skip("it filters nothing")
    rig.upstream.tells = Told(text="No", finish="content_filter")
    assert (await rig.chat(stream=stream)).choice["finish_reason"] == "content_filter"


@both
async def test_every_script_and_nul_survive(rig: Rig, stream: bool) -> None:
    text = 'Grüße 生命 👩🏽‍🚀 \u2028 \x00 e\u0301 "quoted" \\n'
    rig.upstream.tells = Told(text=text)
    found = await rig.chat(stream=stream, messages=[{"role": "user", "content": text}])
    assert found.message["content"] == text
    assert asked(rig).turns == [("user", [("text", text)])]


# ---- tools


@both
async def test_tool_is_offered_and_called(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(calls=[BRNO])
    found = await rig.chat(stream=stream, tools=[WEATHER], tool_choice="auto")
    assert list(asked(rig).tools) == ["weather"]
    assert asked(rig).tools["weather"] == WEATHER["function"]["parameters"]  # type: ignore[index]
    assert found.calls == [BRNO]
    assert found.choice["finish_reason"] == "tool_calls"
    assert not found.message["content"]


@both
async def test_tools_are_called_in_parallel_after_a_word(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(text="I shall look.", calls=[BRNO, OSLO])
    found = await rig.chat(stream=stream, tools=[WEATHER, CLOCK])
    assert found.message["content"] == "I shall look."
    assert found.calls == [BRNO, OSLO]


async def test_calls_without_an_id_get_different_ones(rig: Rig) -> None:
    if rig.wire not in {Wire.GEMINI, Wire.OLLAMA}:
        pytest.skip("its calls always have ids")
    rig.upstream.tells = Told(calls=[(None, "weather", {}), (None, "clock", {})])  # type: ignore[list-item]
    found = await rig.chat(tools=[WEATHER, CLOCK])
    streamed = await rig.chat(stream=True, tools=[WEATHER, CLOCK])
    for outcome in (found, streamed):
        ids = {call_id for call_id, _, _ in outcome.calls}
        assert len(ids) == 2
        assert all(ids)


@both
async def test_results_of_tools_go_back(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(thinking="Hm.", calls=[BRNO, OSLO])
    first = await rig.chat(stream=stream, tools=[WEATHER])
    rig.upstream.tells = Told()
    results = [
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": '{"sky": "clear"}'},
    ]
    await rig.chat(
        stream=stream,
        tools=[WEATHER],
        messages=[*HELLO, first.message, *results, {"role": "user", "content": "so?"}],
    )
    turns = asked(rig).turns
    assert [role for role, _ in turns] == ["user", "assistant", "user"]
    calls = [item for item in turns[1][1] if item[0] == "call"]
    assert calls == [("call", *BRNO), ("call", *OSLO)]
    assert turns[2][1][0] == ("result", "call_1", "rain")
    assert msgspec.json.decode(turns[2][1][1][2]) == {"sky": "clear"}
    assert turns[2][1][2] == ("text", "so?")


@pytest.mark.parametrize("choice", ["required", "none", "weather"])
async def test_choice_of_tool(rig: Rig, choice: str) -> None:
    given: Any = choice
    if choice == "weather":
        given = {"type": "function", "function": {"name": "weather"}}
    if rig.wire is Wire.OLLAMA and choice != "none":
        with pytest.raises(FieldUnsupported, match="tool_choice") as caught:
            await rig.chat(tools=[WEATHER], tool_choice=given)
        assert caught.value.param == "tool_choice"
        return
    await rig.chat(tools=[WEATHER], tool_choice=given)
    if rig.wire is Wire.OLLAMA:
        assert asked(rig).tools == {}
    else:
        assert asked(rig).choice == choice


async def test_parallel_calls_are_forbidden_where_that_can_be_said(rig: Rig) -> None:
    if rig.wire in {Wire.GEMINI, Wire.OLLAMA}:
        with pytest.raises(FieldUnsupported, match="parallel_tool_calls"):
            await rig.chat(tools=[WEATHER], parallel_tool_calls=False)
        return
    await rig.chat(tools=[WEATHER], parallel_tool_calls=False)
    assert asked(rig).parallel is False


# ---- forms


@both
async def test_answer_has_the_schema_asked_for(rig: Rig, stream: bool) -> None:
    rig.upstream.tells = Told(text='{"answer": 42}')
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    found = await rig.chat(stream=stream, response_format=form)
    assert asked(rig).schema == SCHEMA
    assert msgspec.json.decode(found.message["content"]) == {"answer": 42}


@both
async def test_image_is_shown(rig: Rig, stream: bool) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    content = [{"type": "text", "text": "What is it?"}, image]
    await rig.chat(stream=stream, messages=[{"role": "user", "content": content}])
    items = [("text", "What is it?"), ("image", "image/png", PNG)]
    assert asked(rig).turns == [("user", items)]


async def test_image_at_a_url_is_never_fetched_here(rig: Rig) -> None:
    url = f"{rig.upstream.url}/cat.png"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}]
    if rig.wire is Wire.OLLAMA:
        with pytest.raises(FieldUnsupported, match=r"messages\[0\].content\[0\]"):
            await rig.chat(messages=messages)
        assert rig.upstream.seen == []
        return
    await rig.chat(messages=messages)
    assert asked(rig).turns == [("user", [("link", url)])]
    assert len(rig.upstream.seen) == 1


# ---- embeddings and what else there is


@pytest.mark.parametrize("given", ["one text", ["one", "three"]])
async def test_texts_become_vectors(rig: Rig, given: Any) -> None:
    body = msgspec.json.encode({"model": "m", "input": given})
    if rig.wire is Wire.ANTHROPIC:
        with pytest.raises(OperationUnsupported):
            await rig.send(body, operation=Operation.EMBEDDINGS)
        return
    found = await rig.send(body, operation=Operation.EMBEDDINGS)
    texts = [given] if isinstance(given, str) else given
    assert found.json["object"] == "list"
    assert [one["index"] for one in found.json["data"]] == list(range(len(texts)))
    assert [one["embedding"] for one in found.json["data"]] == [vector(text) for text in texts]


async def test_vectors_have_the_size_and_packing_asked_for(rig: Rig) -> None:
    if rig.wire in {Wire.ANTHROPIC, Wire.OPENAI}:
        pytest.skip("it has none, or its bytes are passed on")
    fields = {"model": "m", "input": "four", "dimensions": 2, "encoding_format": "base64"}
    found = await rig.send(msgspec.json.encode(fields), operation=Operation.EMBEDDINGS)
    packed = base64.b64decode(found.json["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (4.0, 0.5)


async def test_models_are_listed(rig: Rig) -> None:
    found = await rig.adapter.models(rig.provider)
    names = {
        Wire.OPENAI: ["gpt-4", "tiny"],
        Wire.ANTHROPIC: ["claude-haiku-4-5", "claude-sonnet-4-5"],
        Wire.GEMINI: ["embed-1", "gemini-2.5-flash"],
        Wire.OLLAMA: ["llama3.2:latest", "qwen3:8b"],
    }
    assert [model.name for model in found] == names[rig.wire]
    windows = {Wire.OPENAI: 8_192, Wire.ANTHROPIC: 200_000, Wire.GEMINI: 1_048_576}
    assert found[1].context_window == windows.get(rig.wire)


async def test_probe_tells_of_health_and_of_trouble(rig: Rig) -> None:
    well = await rig.adapter.probe(rig.provider)
    assert (well.healthy, well.status, well.models) == (True, 200, 2)
    rig.upstream.fault = Fault(503, "later", {"retry-after": "9"})
    ill = await rig.adapter.probe(rig.provider)
    assert (ill.healthy, ill.status, ill.retry_after) == (False, 503, "9")
    assert rig.upstream.key not in str(ill)
    await rig.upstream.stop()
    gone = await rig.adapter.probe(rig.provider)
    assert (gone.healthy, gone.status) == (False, None)


# ---- trouble


@both
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 529])
async def test_refusal_keeps_its_status_and_says_why(rig: Rig, status: int, stream: bool) -> None:
    rig.upstream.fault = Fault(status, "that went wrong", {"retry-after": "7"})
    found = await rig.chat(stream=stream)
    assert found.status == status
    assert found.retry_after == "7"
    assert found.json["error"]["message"] == "that went wrong"
    assert set(found.json["error"]) == {"message", "type", "param", "code"}


async def test_wrong_key_is_told_as_401(rig: Rig) -> None:
    rig.upstream.key = "another"
    found = await rig.chat()
    assert found.status == 401


@pytest.mark.parametrize("hard", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("events", [1, 3])
async def test_stream_that_is_cut_does_not_look_whole(rig: Rig, events: int, hard: bool) -> None:
    rig.upstream.cut_after, rig.upstream.cut_hard = events, hard
    try:
        found = await rig.chat(stream=True)
    except UpstreamBroken:
        return
    assert not found.done
    assert not any(c.get("finish_reason") for k in found.chunks for c in k["choices"])


async def test_stream_in_single_bytes_is_the_same(rig: Rig) -> None:
    rig.upstream.tells = Told(text="Grüße 生命 one", thinking="hm", calls=[BRNO, OSLO])
    at_once = await rig.chat(stream=True, tools=[WEATHER])
    rig.upstream.write_bytes = 1
    in_bytes = await rig.chat(stream=True, tools=[WEATHER])
    for outcome in (at_once, in_bytes):
        for chunk in outcome.chunks:
            chunk.pop("created")
    assert in_bytes.chunks == at_once.chunks
    assert in_bytes.done


async def test_key_stays_with_its_provider(rig: Rig) -> None:
    async with rig_of(rig.wire) as attacker:
        body = b""
        rig.upstream.fault = Fault(302, headers={"location": attacker.upstream.url}, body=body)
        found = await rig.chat()
        assert found.status == 302
        assert attacker.upstream.seen == []
        assert rig.upstream.key not in found.body.decode()


async def test_request_never_names_the_key_in_its_path(rig: Rig) -> None:
    await rig.chat(stream=True)
    await rig.adapter.models(rig.provider)
    seen: list[Seen] = rig.upstream.seen
    assert not any(rig.upstream.key in one.path for one in seen)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("presence_penalty", 0.5),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("web_search_options", {}),
    ],
)
async def test_what_a_wire_cannot_say_is_refused_by_name(rig: Rig, field: str, value: Any) -> None:
    says = {Wire.GEMINI: {"n", "logprobs", "presence_penalty"}}
    says[Wire.OLLAMA] = {"logprobs", "presence_penalty"}
    if rig.wire is Wire.OPENAI or field in says.get(rig.wire, set()):
        assert (await rig.chat(**{field: value})).status == 200
        assert rig.wire is Wire.OPENAI or len(rig.upstream.asked) == 1
        return
    with pytest.raises(FieldUnsupported) as caught:
        await rig.chat(**{field: value})
    assert caught.value.param == field
    assert caught.value.status == 400
    assert rig.upstream.seen == []


async def test_what_changes_nothing_is_left_out(rig: Rig) -> None:
    found = await rig.chat(
        n=1,
        logprobs=False,
        logit_bias={},
        presence_penalty=0,
        store=False,
        metadata={"a": "b"},
        modalities=["text"],
        prompt_cache_key="k",
        verbosity="medium",
        user="u1",
        temperature=None,
    )
    assert found.status == 200
