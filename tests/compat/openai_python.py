"""The scenarios of the official `openai` client for Python."""

import asyncio
import base64
import struct
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from helix.accounts.types import Scope
from tests.compat.world import Scenario, World

__all__ = ["SCENARIOS"]

HELLO: Any = [{"role": "user", "content": "hello"}]
SAID = "you said hello"


class Report(BaseModel):
    city: str
    celsius: int


def client(world: World, key: str | None = None, **options: Any) -> AsyncOpenAI:
    given = {"max_retries": 0, "timeout": 20, **options}
    return AsyncOpenAI(base_url=f"{world.root}/v1", api_key=key or world.key, **given)


def tool(name: str) -> Any:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


async def chat(world: World) -> None:
    def ask() -> Any:
        options: Any = {"base_url": f"{world.root}/v1", "api_key": world.key}
        with OpenAI(max_retries=0, **options) as plain:
            return plain.chat.completions.create(model="up/chat", messages=HELLO)

    answer = await asyncio.to_thread(ask)
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 25
    assert answer.usage.prompt_tokens_details.cached_tokens == 4


async def chat_async(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.create(model="up/chat", messages=HELLO)
    assert answer.choices[0].message.content == SAID
    assert answer._request_id is not None
    row = await world.record(answer._request_id)
    assert (row["content"], row["tokens_in"], row["tokens_out"]) == (SAID, 20, 5)


async def chat_stream(world: World) -> None:
    async with client(world) as helix:
        stream = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    pieces = [c.choices[0].delta.content for c in chunks if c.choices]
    assert "".join(piece or "" for piece in pieces) == SAID
    assert len([piece for piece in pieces if piece]) == 3
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 25


async def tools(world: World) -> None:
    async with client(world) as helix:
        first = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, tools=[tool("weather")]
        )
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        assert message.tool_calls is not None
        call: Any = message.tool_calls[0]
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        second = await helix.chat.completions.create(
            model="up/chat",
            messages=[*HELLO, message.model_dump(exclude_none=True), result],
            tools=[tool("weather")],
        )
    assert second.choices[0].message.content == "the tools said 21 degrees"


async def tools_parallel(world: World) -> None:
    both = [tool("weather"), tool("population")]
    async with client(world) as helix:
        answer = await helix.chat.completions.create(model="up/chat", messages=HELLO, tools=both)
        alone = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, tools=both, parallel_tool_calls=False
        )
    calls: Any = answer.choices[0].message.tool_calls
    assert [one.function.name for one in calls] == ["weather", "population"]
    assert len(alone.choices[0].message.tool_calls or []) == 1


async def tools_streamed(world: World) -> None:
    async with (
        client(world) as helix,
        helix.chat.completions.stream(
            model="up/chat", messages=HELLO, tools=[tool("weather"), tool("population")]
        ) as stream,
    ):
        async for _ in stream:
            pass
        answer = await stream.get_final_completion()
    calls: Any = answer.choices[0].message.tool_calls
    assert [(one.function.name, one.function.arguments) for one in calls] == [
        ("weather", '{"city": "Paris"}'),
        ("population", '{"city": "Oslo"}'),
    ]


async def json_schema(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.parse(
            model="up/chat", messages=HELLO, response_format=Report
        )
    assert answer.choices[0].message.parsed == Report(city="Paris", celsius=21)
    sent = world.calls_of("chat")[-1]["response_format"]
    assert sent["json_schema"]["schema"]["required"] == ["city", "celsius"]


async def vision(world: World) -> None:
    parts: Any = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]
    async with client(world) as helix:
        answer = await helix.chat.completions.create(
            model="up/chat", messages=[{"role": "user", "content": parts}]
        )
    assert answer.choices[0].message.content == "you said look with 1 image"
    assert world.calls_of("chat")[-1]["messages"][0]["content"] == parts


async def n(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.create(model="up/chat", messages=HELLO, n=3)
        stream = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, n=2, stream=True
        )
        told = ["", ""]
        async for chunk in stream:
            for choice in chunk.choices:
                told[choice.index] += choice.delta.content or ""
    assert [one.message.content for one in answer.choices] == [SAID, f"{SAID} #1", f"{SAID} #2"]
    assert told == [SAID, f"{SAID} #1"]


async def logprobs(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, logprobs=True, top_logprobs=2
        )
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert [one.token for one in found.content] == ["you", " said"]
    assert len(found.content[0].top_logprobs) == 2


async def reasoning(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.create(
            model="up/thinks", messages=HELLO, reasoning_effort="low"
        )
    assert answer.choices[0].message.model_extra == {"reasoning_content": "let me see"}
    assert world.calls_of("thinks")[-1]["reasoning_effort"] == "low"


async def length(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, max_completion_tokens=1
        )
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("length", "you")


async def unknown_fields(world: World) -> None:
    async with client(world) as helix:
        await helix.chat.completions.create(
            model="up/chat", messages=HELLO, extra_body={"a_new_field": {"a": [1.5, None]}}
        )
    assert world.calls_of("chat")[-1]["a_new_field"] == {"a": [1.5, None]}


async def helix_options(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.chat.completions.create(
            model="up/chat", messages=HELLO, extra_body={"helix": {"agent": "scenario"}}
        )
    assert answer._request_id is not None
    assert (await world.record(answer._request_id))["agent_id"] == "scenario"
    assert "helix" not in world.calls_of("chat")[-1]


async def completions(world: World) -> None:
    async with client(world) as helix:
        native = await helix.completions.create(model="up/chat", prompt=["a", "b"])
        told = await helix.completions.create(model="claude/native", prompt="c", echo=True)
        with pytest.raises(openai.BadRequestError) as refused:
            await helix.completions.create(model="claude/native", prompt=["a", "b"])
    assert refused.value.param == "prompt"
    assert [one.text for one in native.choices] == ["after a", "after b"]
    assert told.choices[0].text == "cnatively: c"
    assert told.object == "text_completion"


async def completions_stream(world: World) -> None:
    async with client(world) as helix:
        for model, text in (("up/chat", "after a "), ("claude/native", "natively: a")):
            stream = await helix.completions.create(model=model, prompt="a", stream=True)
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].text for chunk in chunks) == text
            assert chunks[-1].choices[0].finish_reason == "stop"
            assert len(chunks) > 2


async def embeddings(world: World) -> None:
    async with client(world) as helix:
        coded = await helix.embeddings.create(model="up/embedder", input=["ab", "abc"])
        plain = await helix.embeddings.create(
            model="up/embedder", input="abcd", encoding_format="float"
        )
        raw: Any = await helix.embeddings.create(
            model="up/embedder", input="ab", encoding_format="base64"
        )
    assert [one.embedding for one in coded.data] == [[2.0, 0.5, -0.25], [3.0, 0.5, -0.25]]
    assert plain.data[0].embedding == [4.0, 0.5, -0.25]
    assert struct.unpack("<3f", base64.b64decode(raw.data[0].embedding)) == (2.0, 0.5, -0.25)
    assert coded.usage.prompt_tokens == 6


async def moderations(world: World) -> None:
    async with client(world) as helix:
        bad = await helix.moderations.create(input="hate")
        good = await helix.moderations.create(model="up/omni-moderation-latest", input=["love"])
    assert bad.results[0].flagged
    assert bad.results[0].categories.hate
    assert not good.results[0].flagged


async def models(world: World) -> None:
    async with client(world) as helix:
        listed = [model.id async for model in helix.models.list()]
        one = await helix.models.retrieve("up/chat")
    assert {"up/chat", "claude/native", "mock/echo"} <= set(listed)
    assert (one.id, one.object, one.owned_by) == ("up/chat", "model", "up")


async def responses(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.responses.create(model="up/chat", input="hello", instructions="rules")
    assert answer.output_text == "you said hello under rules"
    assert answer.status == "completed"
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 4
    assert answer.usage.total_tokens == 25


async def responses_stream(world: World) -> None:
    async with client(world) as helix:
        stream = await helix.responses.create(model="up/thinks", input="hello", stream=True)
        events = [event async for event in stream]
        async with helix.responses.stream(model="up/thinks", input="hello") as whole:
            async for _ in whole:
                pass
            answer = await whole.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == SAID
    assert len(deltas) == 3
    thought = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert "".join(thought) == "let me see"
    assert answer.output_text == SAID


async def responses_state(world: World) -> None:
    async with client(world) as helix:
        first = await helix.responses.create(model="up/chat", input="one")
        second = await helix.responses.create(
            model="up/chat", input="two", previous_response_id=first.id
        )
        third = await helix.responses.create(
            model="up/chat", input="three", previous_response_id=second.id, store=False
        )
        assert third.output_text == "you said three after one and two"
        assert third.previous_response_id == second.id
        again = await helix.responses.retrieve(second.id)
        assert again.model_dump() == second.model_dump()
        items = [item async for item in helix.responses.input_items.list(first.id)]
        assert items[0].content[0].text == "one"  # type: ignore[union-attr]
        await missing(helix.responses.retrieve(third.id))
        await helix.responses.delete(first.id)
        await missing(helix.responses.retrieve(first.id))
        await missing(
            helix.responses.create(model="up/chat", input="x", previous_response_id=first.id)
        )
    stranger = await world.another_key()
    async with client(world, stranger) as same_user:
        assert (await same_user.responses.retrieve(second.id)).id == second.id


async def missing(call: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        await call


async def responses_tools(world: World) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]
    async with client(world) as helix:
        first = await helix.responses.create(model="up/chat", input="hello", tools=tools)
        call: Any = first.output[0]
        assert (call.type, call.name, call.arguments) == (
            "function_call",
            "weather",
            '{"city": "Paris"}',
        )
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "21"}
        second = await helix.responses.create(
            model="up/chat", input=[output], previous_response_id=first.id, tools=tools
        )
    assert second.output_text == "the tools said 21"


async def responses_parse(world: World) -> None:
    async with client(world) as helix:
        answer = await helix.responses.parse(model="up/chat", input="hello", text_format=Report)
    assert answer.output_parsed == Report(city="Paris", celsius=21)


async def error_401(world: World) -> None:
    error = await raised(client(world, "hx_live_wrong"), openai.AuthenticationError)
    assert error.status_code == 401
    assert error.type == "authentication_error"


async def raised(helix: AsyncOpenAI, kind: type[Any], **fields: Any) -> Any:
    """Return the error of a chat call, which must be of this class, with the id of the request."""
    async with helix:
        with pytest.raises(kind) as caught:
            await helix.chat.completions.create(**{"model": "up/chat", "messages": HELLO, **fields})
    if isinstance(caught.value, openai.APIStatusError):
        assert caught.value.request_id
    return caught.value


async def error_403(world: World) -> None:
    key = await world.another_key(scopes=frozenset({Scope.MODELS}))
    await raised(client(world, key), openai.PermissionDeniedError)


async def error_404(world: World) -> None:
    error = await raised(client(world), openai.NotFoundError, model="none/such")
    assert error.param == "model"
    async with client(world) as helix:
        await missing(helix.post("/nothing/here", cast_to=object, body={}))
    await raised(client(world), openai.NotFoundError, model="up/missing")


async def error_400(world: World) -> None:
    error = await raised(client(world), openai.BadRequestError, messages=[{"content": "x"}])
    assert (error.param, error.code) == ("messages[0].role", "wrong_field")
    error = await raised(client(world), openai.BadRequestError, model="up/refuses")
    assert "no such temperature" in error.message


async def error_429(world: World) -> None:
    key = await world.another_key(rate_limit=1)
    async with client(world, key) as helix:
        await helix.chat.completions.create(model="up/chat", messages=HELLO)
    error = await raised(client(world, key), openai.RateLimitError)
    assert int(error.response.headers["retry-after"]) >= 1
    error = await raised(client(world), openai.RateLimitError, model="up/limited")
    assert "slow down" in error.message


async def error_5xx(world: World) -> None:
    error = await raised(client(world), openai.InternalServerError, model="up/fails")
    assert "out of order" in error.message


async def error_413(world: World) -> None:
    huge: Any = [{"role": "user", "content": "x" * 400_000}]
    error = await raised(client(world), openai.APIStatusError, messages=huge)
    assert error.status_code == 413


async def error_in_stream(world: World) -> None:
    async with client(world) as helix:
        stream = await helix.chat.completions.create(
            model="mock/echo",
            messages=[{"role": "user", "content": "a b c d"}],
            stream=True,
            extra_body={"helix": {"mock": {"break_after": 3}}},
        )
        with pytest.raises(openai.APIError, match="break off"):
            async for _ in stream:
                pass
        stream2 = await helix.responses.create(
            model="mock/echo",
            input="a b c d",
            stream=True,
            extra_body={"helix": {"mock": {"break_after": 3}}},
        )
        last = [event async for event in stream2][-1]
    assert last.type == "response.failed"


async def request_id(world: World) -> None:
    async with client(world) as helix:
        answers: list[Any] = [
            await helix.chat.completions.create(model="up/chat", messages=HELLO),
            await helix.responses.create(model="up/chat", input="hello"),
            await helix.embeddings.create(model="up/embedder", input="a"),
            await helix.completions.create(model="up/chat", prompt="a"),
        ]
    for answer in answers:
        assert (await world.record(answer._request_id))["status"] == "completed"


async def retries(world: World) -> None:
    before = len(world.calls_of("flaky"))
    world.upstream.fail_once()
    async with client(world, max_retries=3) as helix:
        answer = await helix.chat.completions.create(model="up/flaky", messages=HELLO)
    assert answer.choices[0].message.content == SAID
    ids = [one["id"] for one in world.calls_of("flaky")[before:]]
    assert len(set(ids)) == 2
    assert answer._request_id == ids[-1]


async def idempotency(world: World) -> None:
    key = {"Idempotency-Key": "scenario-python"}
    async with client(world) as helix:
        before = len(world.calls_of("chat"))
        first, second = [
            await helix.chat.completions.with_raw_response.create(
                model="up/chat", messages=HELLO, extra_headers=key
            )
            for _ in range(2)
        ]
        assert len(world.calls_of("chat")) == before + 1
        assert first.content == second.content
        assert second.headers["idempotent-replayed"] == "true"
    error = await raised(
        client(world, default_headers=key), openai.UnprocessableEntityError, temperature=1
    )
    assert error.status_code == 422


async def timeout(world: World) -> None:
    await raised(client(world, timeout=0.3), openai.APITimeoutError, model="up/slow")
    error = await raised(
        client(world),
        openai.InternalServerError,
        model="up/slow",
        extra_body={"helix": {"timeout_s": 0.3}},
    )
    assert error.status_code == 504


async def cancel(world: World) -> None:
    world.upstream.cut.clear()
    async with client(world) as helix:
        stream = await helix.chat.completions.create(
            model="up/endless", messages=HELLO, stream=True
        )
        request = stream.response.headers["x-request-id"]
        heard = ""
        async for chunk in stream:
            heard += chunk.choices[0].delta.content or ""
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
        chat, chat_async, chat_stream, tools, tools_parallel, tools_streamed, json_schema, vision,
        n, logprobs, reasoning, length, unknown_fields, helix_options, completions,
        completions_stream, embeddings, moderations, models, responses, responses_stream,
        responses_state, responses_tools, responses_parse, error_401, error_403,
        error_404, error_400, error_429, error_5xx, error_413, error_in_stream, request_id,
        retries, idempotency, timeout, cancel,
    )
}  # fmt: skip
