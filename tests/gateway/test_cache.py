"""The response cache: the same call is answered from the record, and says so."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from helix.accounts.types import KeyLimits
from helix.gateway.cache import cache_key
from tests.fakes.openai_upstream import TEXT
from tests.gateway.conftest import Answer, Stack, make_key, make_user
from tests.gateway.test_retries import make_route

HELLO: Any = [{"role": "user", "content": "hello there"}]


async def ask(
    stack: Stack, *, use: str | None = None, key: str | None = None, **fields: Any
) -> Answer:
    given = {"model": "up/gpt-4", "messages": HELLO, "helix": {"cache": True}, **fields}
    headers = {"Authorization": f"Bearer {key or stack.key}"}
    if use is not None:
        headers["x-helix-cache"] = use
    return await stack.request("POST", "/v1/chat/completions", msgspec.json.encode(given), headers)


async def remembered(stack: Stack, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while await stack.count("response_cache") < count:  # noqa: ASYNC110 - a row tells nobody
            await asyncio.sleep(0.01)


async def test_second_call_is_a_hit_that_costs_nothing(stack: Stack) -> None:
    first = await ask(stack)
    assert first.headers["x-helix-cache"] == "miss"
    await remembered(stack)
    again = await ask(stack, temperature=None, user="someone else", metadata={"run": "7"})
    assert again.headers["x-helix-cache"] == "miss"  # temperature: null is a field
    again = await ask(stack, user="someone else", metadata={"run": "7"})
    assert again.headers["x-helix-cache"] == "hit"
    assert again.body == first.body
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    call = await stack.call(again.headers["x-request-id"])
    assert call["cached"]
    assert call["cost"] == 0
    assert call["content"] == TEXT
    assert call["request_status"] == "completed"
    assert len(stack.upstream.calls) == 2


@pytest.mark.parametrize(("first_stream", "then_stream"), [(True, False), (False, True)])
async def test_hit_is_told_whole_or_as_a_stream_whichever_is_asked(
    stack: Stack, first_stream: bool, then_stream: bool
) -> None:
    await ask(stack, stream=first_stream)
    await remembered(stack)
    hit = await ask(stack, stream=then_stream)
    assert hit.headers["x-helix-cache"] == "hit"
    if then_stream:
        told = [msgspec.json.decode(e) for e in hit.events[:-1]]
        text = "".join(c["delta"].get("content") or "" for t in told for c in t["choices"])
        assert hit.events[-1] == "[DONE]"
        assert told[-1]["choices"][0]["finish_reason"] == "stop"
    else:
        text = hit.json["choices"][0]["message"]["content"]
    assert text == TEXT
    assert len(stack.upstream.calls) == 1


async def test_header_bypasses_refreshes_or_asks_for_a_hit_only(stack: Stack) -> None:
    nothing = await ask(stack, use="only")
    assert nothing.status == 404
    assert nothing.error["code"] == "not_cached"
    await ask(stack)
    await remembered(stack)
    assert (await ask(stack, use="only")).headers["x-helix-cache"] == "hit"
    bypassed = await ask(stack, use="bypass")
    assert "x-helix-cache" not in bypassed.headers
    assert (await ask(stack, use="refresh")).headers["x-helix-cache"] == "miss"
    assert len(stack.upstream.calls) == 3
    assert (await ask(stack, use="sometimes")).status == 400


async def test_nothing_is_cached_unless_asked(stack: Stack) -> None:
    first = await ask(stack, helix=None)
    again = await ask(stack, helix=None)
    assert "x-helix-cache" not in {**first.headers, **again.headers}
    assert len(stack.upstream.calls) == 2
    assert await stack.count("response_cache") == 0


async def test_answers_are_shared_with_no_other_user_and_no_other_key(stack: Stack) -> None:
    await ask(stack)
    await remembered(stack)
    second = await stack.make_key()
    async with stack.owner.transaction():
        other = await make_key(stack.owner, await make_user(stack.owner))
    for key in (second.key, other.key):
        assert (await ask(stack, key=key)).headers["x-helix-cache"] == "miss"


async def test_failure_is_not_remembered(stack: Stack) -> None:
    await ask(stack, model="up/400")
    await ask(stack, model="up/gpt-4")
    await remembered(stack)
    assert await stack.count("response_cache") == 1


async def test_answer_whose_time_is_over_or_whose_text_is_gone_is_a_miss(stack: Stack) -> None:
    first = await ask(stack)
    await remembered(stack)
    await stack.owner.execute(
        "UPDATE response_cache SET created_at = now() - interval '2 h',"
        " expires_at = now() - interval '1 h'"
    )
    assert (await ask(stack)).headers["x-helix-cache"] == "miss"
    await stack.owner.execute("DELETE FROM llm_response_bodies")
    await stack.owner.execute("UPDATE response_cache SET expires_at = now() + interval '1 h'")
    assert (await ask(stack)).headers["x-helix-cache"] == "miss"
    assert UUID(first.headers["x-request-id"])


@pytest.mark.parametrize(
    ("most_s", "route_s", "wanted", "kept_s"),
    [
        (None, None, None, None),
        (None, None, True, 3_600),
        (None, 60, None, 60),
        (20, None, None, 20),
        (20, 60, None, 20),
        (90, 60, None, 60),
        (0, 60, True, None),
        (0, None, True, None),
        (20, 60, False, None),
    ],
)
async def test_answers_are_kept_as_long_as_route_and_key_both_allow(
    stack: Stack, most_s: int | None, route_s: int | None, wanted: bool | None, kept_s: int | None
) -> None:
    policy = {} if route_s is None else {"cache_s": route_s}
    await make_route(stack, "kept", "gpt-4", **policy)
    made = await stack.make_key(limits=KeyLimits(cache_max_age_s=most_s))
    helix = {} if wanted is None else {"cache": wanted}
    told = await ask(stack, key=made.key, model="route/kept", helix=helix)
    assert told.status == 200
    if kept_s is None:
        assert "x-helix-cache" not in told.headers
        assert await stack.count("response_cache") == 0
        return
    await remembered(stack)
    seconds = await stack.owner.fetchval(
        "SELECT extract(epoch FROM expires_at - created_at) FROM response_cache"
    )
    assert round(float(seconds)) == kept_s


def test_key_is_of_what_can_change_the_answer() -> None:
    user = uuid4()

    def key(fields: dict[str, Any], **more: Any) -> bytes:
        raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
        given = {"operation": "chat", "model": "m", "user_id": user, "scope": "k", **more}
        return cache_key(raw, **given)

    told = {"messages": HELLO, "temperature": 0.5}
    assert key(told) == key({"temperature": 0.5, "messages": HELLO, "stream": True, "user": "u"})
    assert (
        len(
            {
                key(told),
                key({**told, "temperature": 0.6}),
                key({**told, "seed": 1}),
                key(told, model="n"),
                key(told, scope="other"),
                key(told, user_id=uuid4()),
                key(told, operation="embeddings"),
            }
        )
        == 7
    )
