"""A stock OpenAI client, through the gateway, to providers that do not speak OpenAI's format."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from helix.providers.store import Store as ProviderStore
from helix.providers.types import Wire
from tests.fakes.wire_upstream import TEXT, Fault, Tokens, Told, WireUpstream
from tests.gateway.conftest import Stack
from tests.providers.rig import FAKES, HELLO, MODELS

TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(params=[Wire.ANTHROPIC, Wire.GEMINI], ids=str)
async def foreign(
    stack: Stack, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[str, WireUpstream]]:
    """A provider `far` of another wire, and the name of a model there."""
    upstream = FAKES[request.param]()
    await upstream.start()
    async with stack.owner.transaction():
        await ProviderStore(stack.keyring).insert(
            stack.owner,
            provider_id=uuid4(),
            name="far",
            wire=request.param,
            base_url=upstream.url,
            api_key=upstream.key,
            models=[MODELS[request.param]],
        )
    yield f"far/{MODELS[request.param]}", upstream
    assert upstream.problems == []
    await upstream.stop()


async def test_answer_is_told_and_recorded(stack: Stack, foreign: tuple[str, WireUpstream]) -> None:
    model, upstream = foreign
    upstream.tells = Told(usage=Tokens(prompt=100, completion=50, cached=40))
    answer = await stack.client().chat.completions.create(model=model, messages=HELLO)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == TEXT
    row = await stack.owner.fetchrow(
        "SELECT p.finish_reason, p.status, t.input_tokens, t.output_tokens, t.cached_tokens"
        " FROM llm_responses p JOIN llm_token_usage t ON t.response_id = p.id"
        " ORDER BY p.created_at DESC LIMIT 1"
    )
    assert dict(row) == {
        "finish_reason": "stop",
        "status": "completed",
        "input_tokens": 100,
        "output_tokens": 50,
        "cached_tokens": 40,
    }


async def test_stream_calls_a_tool(stack: Stack, foreign: tuple[str, WireUpstream]) -> None:
    model, upstream = foreign
    upstream.tells = Told("Wait.", calls=[("c1", "weather", {"city": "Brno"})])
    stream = await stack.client().chat.completions.create(
        model=model,
        messages=HELLO,
        tools=[TOOL],
        stream=True,  # type: ignore[arg-type]
    )
    text, arguments, finish = "", "", None
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                arguments += (call.function and call.function.arguments) or ""
            finish = choice.finish_reason or finish
    assert (text, arguments, finish) == ("Wait.", '{"city":"Brno"}', "tool_calls")


async def test_what_cannot_be_said_is_a_400_with_the_field(
    stack: Stack, foreign: tuple[str, WireUpstream]
) -> None:
    model, upstream = foreign
    answer = await stack.chat(model=model, messages=HELLO, logit_bias={"1": 5})
    assert (answer.status, answer.error["param"]) == (400, "logit_bias")
    assert answer.error["code"] == "field_unsupported"
    assert upstream.seen == []


async def test_refusal_and_cut_are_told(stack: Stack, foreign: tuple[str, WireUpstream]) -> None:
    model, upstream = foreign
    upstream.cut_after = 4
    cut = await stack.chat(model=model, messages=HELLO, stream=True)
    assert cut.status == 200
    assert "upstream_cut" in cut.events[-1]
    assert "[DONE]" not in cut.events
    upstream.fault = Fault(429, "slow down", {"retry-after": "3600"})
    refused = await stack.chat(model=model, messages=HELLO)
    assert (refused.status, refused.headers["retry-after"]) == (429, "3600")
    assert "slow down" in refused.error["message"]
