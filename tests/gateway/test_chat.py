"""Calls with the stock OpenAI client, over real HTTP, and what is recorded of them."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import openai
import pytest
from openai import OpenAI

from tests.fakes.openai_upstream import TEXT
from tests.gateway.conftest import Stack

HELLO: Any = [{"role": "user", "content": "hello there"}]


async def test_stock_client_gets_an_answer_that_is_recorded_whole(stack: Stack) -> None:
    async with stack.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="up/gpt-4", messages=HELLO, temperature=0.5, max_tokens=99
        )
    answer = raw.parse()
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == 18
    call = await stack.call(raw.headers["x-helix-request-id"])
    assert call["status"] == call["request_status"] == "completed"
    assert call["user_id"] == stack.user_id
    assert stack.key.startswith(call["key_prefix"])
    assert call["requested_model"] == "up/gpt-4"
    assert call["model_name"] == "gpt-4-2024"
    assert call["provider_name"] == "up"
    assert call["content"] == TEXT
    assert call["model_params"] == {"temperature": 0.5, "max_tokens": 99}
    assert (call["tokens_in"], call["tokens_out"]) == (11, 7)
    assert (call["input_tokens"], call["output_tokens"]) == (11, 7)
    assert call["finish_reason"] == "stop"
    assert call["http_status"] == 200
    assert call["upstream_id"] == "chatcmpl-up"
    assert not call["usage_estimated"]


async def test_cost_is_that_of_the_price_in_force_to_the_last_decimal(stack: Stack) -> None:
    async with stack.client() as client:
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4", messages=HELLO)
    call = await stack.call(raw.headers["x-helix-request-id"])
    assert call["cost"] == call["usage_cost"] == Decimal("0.00075")  # 11 at 30, 7 at 60 a million
    assert call["input_cost_per_million"] == 30
    assert call["price_effective_date"] == datetime(2025, 11, 1, tzinfo=UTC)


async def test_blocking_client_works_too(stack: Stack) -> None:
    def ask() -> str | None:
        with OpenAI(base_url=stack.url, api_key=stack.key, max_retries=0) as client:
            answer = client.chat.completions.create(model="mock/echo", messages=HELLO)
        return answer.choices[0].message.content

    assert await asyncio.to_thread(ask) == "hello there"


async def test_metrics_tell_how_long_recording_takes(stack: Stack) -> None:
    for _ in range(3):
        assert (await stack.chat()).status == 200
    told = dict(
        line.rsplit(" ", 1)
        for line in (await stack.request("GET", "/metrics")).body.decode().splitlines()
        if line.startswith("helix_record_")
    )
    for lane in ("admit", "settle"):
        of = f'{{lane="{lane}"}}'
        assert float(told[f"helix_record_batch_rows_sum{of}"]) == 3
        for kind in ("wait", "commit"):
            assert float(told[f"helix_record_{kind}_seconds_count{of}"]) == 3
            assert 0 <= float(told[f"helix_record_{kind}_seconds_sum{of}"]) < 30


@pytest.mark.parametrize("model", ["up/gpt-4", "mock/echo", "up/crlf", "up/byte-by-byte"])
async def test_stream_arrives_in_pieces_and_is_recorded_as_it_was_told(
    stack: Stack, model: str
) -> None:
    async with stack.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model=model, messages=HELLO, stream=True
        )
        pieces = [
            chunk.choices[0].delta.content or "" async for chunk in raw.parse() if chunk.choices
        ]
    told = "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 1
    call = await stack.call(raw.headers["x-helix-request-id"])
    assert told == call["content"] == ("hello there" if model == "mock/echo" else TEXT)
    assert call["stream"]
    assert call["status"] == "completed"
    assert call["chunk_count"] >= len(pieces)
    assert call["first_token_ms"] <= call["latency_ms"]
    stored = msgspec.json.decode(call["raw_response"])
    assert stored["choices"][0]["message"] == {"role": "assistant", "content": told}
    assert not call["usage_estimated"]


async def test_usage_chunk_reaches_only_a_client_that_asked_for_it(stack: Stack) -> None:
    async with stack.client() as client:
        asked = await client.chat.completions.create(
            model="up/gpt-4", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        with_usage = [chunk.usage async for chunk in asked if chunk.usage is not None]
        unasked = await client.chat.completions.create(
            model="up/gpt-4", messages=HELLO, stream=True
        )
        without = [chunk.usage async for chunk in unasked if chunk.usage is not None]
    assert [usage.total_tokens for usage in with_usage] == [18]
    assert without == []
    assert [seen.json["stream_options"] for seen in stack.upstream.calls] == [
        {"include_usage": True},
        {"include_usage": True},
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_pass_through_and_are_kept(stack: Stack, stream: bool) -> None:
    answer = await stack.chat(model="up/tools", stream=stream)
    call = await stack.call(answer.headers["x-helix-request-id"])
    message = msgspec.json.decode(call["raw_response"])["choices"][0]["message"]
    assert call["content"] is None
    assert call["finish_reason"] == "tool_calls"
    assert message["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city":"Brno"}',
    }
    assert message["tool_calls"][0]["id"] == "call_1"


async def test_stock_client_gets_a_tool_call_of_the_mock(stack: Stack) -> None:
    tool: Any = {"type": "function", "function": {"name": "clock", "parameters": {}}}
    async with stack.client() as client:
        answer = await client.chat.completions.create(
            model="mock/tools", messages=HELLO, tools=[tool]
        )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls if call.type == "function"] == ["clock"]


async def test_unknown_fields_reach_the_provider_and_helix_does_not(stack: Stack) -> None:
    project = await stack.owner.fetchval(
        "INSERT INTO projects (user_id, name, language) VALUES ($1, 'Mill', 'python') RETURNING id",
        stack.user_id,
    )
    async with stack.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="up/gpt-4",
            messages=HELLO,
            extra_body={
                "top_k": 40,
                "odd": {"number": 1e300},
                "helix": {"project": str(project), "agent": "planner-1"},
            },
            extra_headers={"Idempotency-Key": "once", "X-Client-Request-Id": "mine"},
        )
    sent = stack.upstream.calls[0].json
    assert sent["top_k"] == 40
    assert sent["odd"] == {"number": 1e300}
    assert sent["model"] == "gpt-4"
    assert "helix" not in sent
    call = await stack.call(raw.headers["x-helix-request-id"])
    assert call["project_id"] == project
    assert call["agent_id"] == "planner-1"
    assert call["idempotency_key"] == "once"
    assert call["client_request_id"] == "mine"
    kept = msgspec.json.decode(call["request_body"])
    assert kept["helix"] == {"project": str(project), "agent": "planner-1"}


async def test_provider_gets_its_own_key_and_the_id_of_the_request(stack: Stack) -> None:
    answer = await stack.chat(model="up/gpt-4")
    seen = stack.upstream.calls[0]
    assert seen.headers["authorization"] == "Bearer sk-upstream-secret-123456"
    assert seen.headers["x-request-id"] == answer.headers["x-helix-request-id"]
    assert stack.key not in str(seen.headers)


async def test_request_is_committed_before_the_provider_is_called(stack: Stack) -> None:
    asking = asyncio.create_task(stack.chat(model="up/held"))
    await stack.upstream.arrived.wait()
    request_id = UUID(stack.upstream.calls[0].headers["x-request-id"])
    row = await stack.owner.fetchrow("SELECT status FROM llm_requests WHERE id = $1", request_id)
    body = await stack.owner.fetchval(
        "SELECT request_body::text FROM llm_request_bodies WHERE request_id = $1", request_id
    )
    assert row["status"] == "running"
    assert msgspec.json.decode(body)["model"] == "up/held"
    stack.upstream.go_on.set()
    assert (await asking).status == 200


async def test_ten_answers_with_the_same_upstream_id_are_ten_rows(stack: Stack) -> None:
    answers = await asyncio.gather(*(stack.chat(model="up/gpt-4") for _ in range(10)))
    assert [answer.status for answer in answers] == [200] * 10
    assert await stack.count("llm_responses") == 10
    assert await stack.count("llm_token_usage") == 10


async def test_connection_to_the_provider_is_kept_for_the_next_call(stack: Stack) -> None:
    for _ in range(5):
        assert (await stack.chat(model="up/gpt-4")).status == 200
    assert stack.upstream.connections == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["up/until-close", "up/interim-first", "up/words"])
async def test_other_ways_to_frame_an_answer_are_understood(
    stack: Stack, model: str, stream: bool
) -> None:
    answer = await stack.chat(model=model, stream=stream)
    assert answer.status == 200
    call = await stack.call(answer.headers["x-helix-request-id"])
    assert call["content"] == ("one two three" if model == "up/words" else TEXT)
    assert call["status"] == "completed"


async def test_nul_in_an_answer_is_kept_without_loss(stack: Stack) -> None:
    for stream in (False, True):
        answer = await stack.chat(model="up/nul", stream=stream)
        call = await stack.call(answer.headers["x-helix-request-id"])
        kept = msgspec.json.decode(call["raw_response"])["choices"][0]["message"]["content"]
        assert kept == "before\0after"
        assert call["content"] == "before\u2400after"


@pytest.mark.parametrize("model", ["up/no-usage", "up/usage-huge", "up/usage-negative"])
@pytest.mark.parametrize("stream", [False, True])
async def test_missing_or_impossible_usage_is_estimated_and_says_so(
    stack: Stack, model: str, stream: bool
) -> None:
    answer = await stack.chat(model=model, stream=stream)
    assert answer.status == 200
    call = await stack.call(answer.headers["x-helix-request-id"])
    assert call["usage_estimated"]
    assert (call["tokens_in"], call["tokens_out"]) == (3, 10)  # 11 and 38 bytes, four a token


async def test_models_are_listed_and_found_one_by_one(stack: Stack) -> None:
    async with stack.client() as client:
        names = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("up/gpt-4")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("up/nothing")
    assert {"mock/echo", "mock/unicode", "up/gpt-4", "up/gpt-4-turbo"} <= set(names)
    assert one.owned_by == "up"


async def test_unicode_comes_back_as_it_went(stack: Stack) -> None:
    text = 'Grüße 生命 👩🏽‍🚀 \u2028 \\ " é \u202e'
    message = {"role": "user", "content": text}
    for stream in (False, True):
        answer = await stack.chat(messages=[message], stream=stream)
        call = await stack.call(answer.headers["x-helix-request-id"])
        assert call["content"] == text
