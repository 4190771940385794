"""The scenarios of the official `anthropic` client for Python."""

import asyncio
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel

from helix.accounts.types import Scope
from tests.compat.world import Scenario, World

__all__ = ["SCENARIOS"]

HELLO: Any = [{"role": "user", "content": "hello"}]
SAID = "you said hello"
CALL: Any = {"model": "up/chat", "max_tokens": 100, "messages": HELLO}
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}


class Report(BaseModel):
    city: str
    celsius: int


def client(world: World, key: str | None = None, **options: Any) -> AsyncAnthropic:
    given = {"max_retries": 0, "timeout": 20, **options}
    return AsyncAnthropic(base_url=world.root, api_key=key or world.key, **given)


def tool(name: str) -> Any:
    return {"name": name, "description": "d", "input_schema": SCHEMA}


async def messages(world: World) -> None:
    def ask() -> Any:
        with Anthropic(base_url=world.root, api_key=world.key, max_retries=0) as helix:
            return helix.messages.create(**CALL, system="rules")

    message = await asyncio.to_thread(ask)
    assert message.content[0].text == "you said hello under rules"
    assert (message.stop_reason, message.role, message.type) == ("end_turn", "assistant", "message")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (16, 4, 5)
    row = await world.record(message._request_id)
    assert (row["tokens_in"], row["tokens_out"]) == (20, 5)


async def messages_stream(world: World) -> None:
    async with client(world) as helix:
        stream = await helix.messages.create(**{**CALL, "model": "up/thinks"}, stream=True)
        kinds = [event.type async for event in stream]
        async with helix.messages.stream(**CALL) as told:
            texts = [text async for text in told.text_stream]
            message = await told.get_final_message()
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    assert len(texts) == 3
    assert "".join(texts) == message.content[0].text == SAID  # type: ignore[union-attr]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (16, 5)


async def messages_native(world: World) -> None:
    native: Any = {**CALL, "model": "claude/native"}
    system: Any = [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]
    async with client(world) as helix:
        message = await helix.messages.create(**native, system=system)
        async with helix.messages.stream(**native) as stream:
            told = await stream.get_final_message()
    thought: Any = message.content[0]
    assert (thought.thinking, thought.signature) == ("let me see", "sig==")
    assert message.id == "msg_up"
    assert [block.to_dict() for block in told.content] == [b.to_dict() for b in message.content]
    sent = world.calls_of("native")[-2]
    assert (sent["path"], sent["system"]) == ("/v1/messages", system)
    assert message._request_id is not None
    row = await world.record(message._request_id)
    assert (row["content"], row["tokens_in"]) == ("natively: hello", 10)


async def tools(world: World) -> None:
    async with client(world) as helix:
        first = await helix.messages.create(**CALL, tools=[tool("weather")])
        assert first.stop_reason == "tool_use"
        use: Any = first.content[0]
        assert (use.type, use.name, use.input) == ("tool_use", "weather", {"city": "Paris"})
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "21 degrees"}
        talk: Any = [
            *HELLO,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = await helix.messages.create(**{**CALL, "messages": talk}, tools=[tool("weather")])
    assert second.content[0].text == "the tools said 21 degrees"  # type: ignore[union-attr]


async def tools_parallel(world: World) -> None:
    both = [tool("weather"), tool("population")]
    async with client(world) as helix:
        message = await helix.messages.create(**CALL, tools=both)
        alone = await helix.messages.create(
            **CALL, tools=both, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
        )
    assert [block.name for block in message.content] == ["weather", "population"]  # type: ignore[union-attr]
    assert len(alone.content) == 1


async def tools_streamed(world: World) -> None:
    both = [tool("weather"), tool("population")]
    async with client(world) as helix, helix.messages.stream(**CALL, tools=both) as stream:
        message = await stream.get_final_message()
    uses: Any = message.content
    assert [(one.name, one.input) for one in uses] == [
        ("weather", {"city": "Paris"}),
        ("population", {"city": "Oslo"}),
    ]
    assert message.stop_reason == "tool_use"


async def json_schema(world: World) -> None:
    async with client(world) as helix:
        message = await helix.messages.parse(**CALL, output_format=Report)
    assert message.parsed_output == Report(city="Paris", celsius=21)
    assert world.calls_of("chat")[-1]["response_format"]["type"] == "json_schema"


async def vision(world: World) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content: Any = [{"type": "text", "text": "look"}, {"type": "image", "source": source}]
    async with client(world) as helix:
        message = await helix.messages.create(
            **{**CALL, "messages": [{"role": "user", "content": content}]}
        )
    assert message.content[0].text == "you said look with 1 image"  # type: ignore[union-attr]
    url = world.calls_of("chat")[-1]["messages"][0]["content"][1]["image_url"]["url"]
    assert url == "data:image/png;base64,iVBORw0KGgo="


async def reasoning(world: World) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 2048}
    async with client(world) as helix:
        message = await helix.messages.create(**{**CALL, "model": "up/thinks"}, thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "let me see"  # type: ignore[union-attr]
    assert world.calls_of("thinks")[-1]["reasoning_effort"] == "low"


async def length(world: World) -> None:
    async with client(world) as helix:
        message = await helix.messages.create(**{**CALL, "max_tokens": 1})
    assert message.stop_reason == "max_tokens"


async def unknown_fields(world: World) -> None:
    async with client(world) as helix:
        await helix.messages.create(**CALL, extra_body={"a_new_field": [1.5]})
    assert world.calls_of("chat")[-1]["a_new_field"] == [1.5]


async def helix_options(world: World) -> None:
    async with client(world) as helix:
        message = await helix.messages.create(**CALL, extra_body={"helix": {"agent": "scenario"}})
    assert message._request_id is not None
    assert (await world.record(message._request_id))["agent_id"] == "scenario"
    assert "helix" not in world.calls_of("chat")[-1]


async def count_tokens(world: World) -> None:
    async with client(world) as helix:
        few = await helix.messages.count_tokens(model="up/chat", messages=HELLO)
        many = await helix.messages.count_tokens(
            model="up/chat", messages=HELLO, system="rules " * 50
        )
    assert 0 < few.input_tokens < many.input_tokens


async def models(world: World) -> None:
    async with client(world) as helix:
        listed = [model.id async for model in helix.models.list(limit=4)]
        one = await helix.models.retrieve("up/chat")
    assert len(listed) > 4
    assert {"up/chat", "claude/native", "mock/echo"} <= set(listed)
    assert len(set(listed)) == len(listed)
    assert (one.id, one.type) == ("up/chat", "model")


async def auth_token(world: World) -> None:
    async with AsyncAnthropic(
        base_url=world.root, api_key=None, auth_token=world.key, max_retries=0
    ) as helix:
        message = await helix.messages.create(**CALL)
    assert message.content[0].text == SAID  # type: ignore[union-attr]


async def raised(helix: AsyncAnthropic, kind: type[Any], **fields: Any) -> Any:
    """Return the error of a call, which must be of this class, with the id of the request."""
    async with helix:
        with pytest.raises(kind) as caught:
            await helix.messages.create(**{**CALL, **fields})
    told: Any = caught.value
    if isinstance(told, anthropic.APIStatusError):
        assert told.request_id is not None
        assert told.body["request_id"] == told.request_id
        assert told.body["type"] == "error"
    return told


async def error_401(world: World) -> None:
    error = await raised(client(world, "hx_live_wrong"), anthropic.AuthenticationError)
    assert error.body["error"]["type"] == "authentication_error"


async def error_403(world: World) -> None:
    key = await world.another_key(scopes=frozenset({Scope.MODELS}))
    await raised(client(world, key), anthropic.PermissionDeniedError)


async def error_404(world: World) -> None:
    error = await raised(client(world), anthropic.NotFoundError, model="none/such")
    assert error.body["error"]["type"] == "not_found_error"
    await raised(client(world), anthropic.NotFoundError, model="up/missing")


async def error_400(world: World) -> None:
    error = await raised(client(world), anthropic.BadRequestError, messages=[{"role": "user"}])
    assert error.body["error"]["param"] == "messages[0].content"
    error = await raised(
        client(world),
        anthropic.BadRequestError,
        tools=[{"type": "web_search_20250305", "name": "web_search"}],
    )
    assert error.body["error"]["type"] == "invalid_request_error"
    error = await raised(client(world), anthropic.BadRequestError, model="up/refuses")
    assert "no such temperature" in str(error)


async def error_429(world: World) -> None:
    key = await world.another_key(rate_limit=1)
    async with client(world, key) as helix:
        await helix.messages.create(**CALL)
    error = await raised(client(world, key), anthropic.RateLimitError)
    assert int(error.response.headers["retry-after"]) >= 1
    await raised(client(world), anthropic.RateLimitError, model="up/limited")


async def error_5xx(world: World) -> None:
    error = await raised(client(world), anthropic.InternalServerError, model="up/fails")
    assert error.body["error"]["type"] == "api_error"


async def error_413(world: World) -> None:
    huge: Any = [{"role": "user", "content": "x" * 400_000}]
    await raised(client(world), anthropic.RequestTooLargeError, messages=huge)


async def error_in_stream(world: World) -> None:
    async with client(world) as helix:
        stream = await helix.messages.create(
            model="mock/echo",
            max_tokens=100,
            messages=[{"role": "user", "content": "a b c d"}],
            stream=True,
            extra_body={"helix": {"mock": {"break_after": 3}}},
        )
        with pytest.raises(anthropic.APIStatusError, match="break off"):
            async for _ in stream:
                pass


async def request_id(world: World) -> None:
    async with client(world) as helix:
        message = await helix.messages.create(**CALL)
    assert message._request_id is not None
    assert (await world.record(message._request_id))["status"] == "completed"


async def retries(world: World) -> None:
    before = len(world.calls_of("flaky"))
    world.upstream.fail_once()
    async with client(world, max_retries=3) as helix:
        message = await helix.messages.create(**{**CALL, "model": "up/flaky"})
    ids = [one["id"] for one in world.calls_of("flaky")[before:]]
    assert len(set(ids)) == 2
    assert message._request_id == ids[-1]


async def idempotency(world: World) -> None:
    key = {"Idempotency-Key": "scenario-anthropic"}
    before = len(world.calls_of("chat"))
    async with client(world, default_headers=key) as helix:
        first, second = [await helix.messages.create(**CALL) for _ in range(2)]
    assert len(world.calls_of("chat")) == before + 1
    assert first.to_dict() == second.to_dict()
    error = await raised(
        client(world, default_headers=key), anthropic.UnprocessableEntityError, max_tokens=7
    )
    assert error.status_code == 422


async def timeout(world: World) -> None:
    await raised(client(world, timeout=0.3), anthropic.APITimeoutError, model="up/slow")


async def cancel(world: World) -> None:
    world.upstream.cut.clear()
    async with client(world) as helix:
        stream = await helix.messages.create(**{**CALL, "model": "up/endless"}, stream=True)
        request = stream.response.headers["request-id"]
        heard = ""
        async for event in stream:
            if event.type == "content_block_delta":
                heard += event.delta.text  # type: ignore[union-attr]
            if len(heard) > 30:
                break
        await stream.close()
    await world.upstream.cut.wait()
    row = await world.record(request)
    assert row["status"] == "cancelled"
    assert row["content"].startswith(heard)
    assert row["tokens_out"] > 0


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        tools, tools_parallel, tools_streamed, json_schema, vision, reasoning, length,
        unknown_fields, helix_options, models, messages, messages_stream, messages_native,
        count_tokens, auth_token, error_401, error_403, error_404, error_400, error_429, error_5xx,
        error_413, error_in_stream, request_id, retries, idempotency, timeout, cancel,
    )
}  # fmt: skip
