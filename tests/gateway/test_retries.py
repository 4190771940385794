"""Tries: again only where it is safe, elsewhere where that may help, never after content."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from helix.gateway.errors import UpstreamBusy, UpstreamEmpty, UpstreamFailed, UpstreamRejected
from helix.gateway.policy import Again, backoff_s, failure_kind, may_try_again
from helix.providers import FailureKind, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from tests.fakes.openai_upstream import TEXT
from tests.gateway.conftest import Answer, Stack


@pytest.fixture
def options() -> dict[str, Any]:
    return {
        "connect_timeout_s": 1,
        "first_byte_timeout_s": 1.5,
        "between_bytes_timeout_s": 1.5,
        "total_timeout_s": 15,
        "drain_timeout_s": 2,
    }


async def make_route(stack: Stack, name: str, *models: str, **policy: int) -> None:
    """Make `route/<name>` that tries these models of the fake provider in turn."""
    async with stack.owner.transaction():
        provider = await stack.owner.fetchval("SELECT id FROM llm_providers WHERE name = 'up'")
        route = uuid4()
        await stack.owner.execute("INSERT INTO llm_routes (id, name) VALUES ($1, $2)", route, name)
        for column, value in policy.items():
            await stack.owner.execute(
                f"UPDATE llm_routes SET {column} = $2 WHERE id = $1", route, value
            )
        for place, model in enumerate(models):
            await stack.owner.execute(
                "INSERT INTO llm_route_targets (route_id, provider_id, model_name, priority,"
                " position) VALUES ($1, $2, $3, $4, $4)",
                route,
                provider,
                model,
                place,
            )
    await stack.providers._registry.refresh()


async def tries_of(stack: Stack, answer: Answer) -> list[tuple[str, int, str, bool]]:
    rows = await stack.owner.fetch(
        "SELECT model_name, attempt, coalesce(error_code, 'ok') AS how, selected"
        " FROM llm_responses WHERE request_id = $1 ORDER BY attempt",
        UUID(answer.headers["x-request-id"]),
    )
    return [(r["model_name"], r["attempt"], r["how"], r["selected"]) for r in rows]


def text_of(answer: Answer) -> str:
    if answer.headers["content-type"].startswith("application/json"):
        return str(answer.json["choices"][0]["message"]["content"])
    told = [msgspec.json.decode(e) for e in answer.events if e != "[DONE]"]
    return "".join(c["delta"].get("content") or "" for t in told for c in t.get("choices", []))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "code", "failures"),
    [
        ("500-then-ok", "upstream_failed", 2),
        ("429-then-ok", "upstream_rate_limited", 1),
        ("empty-then-ok", "upstream_broken", 1),
    ],
)
async def test_provider_that_did_not_answer_is_asked_again(
    stack: Stack, model: str, code: str, failures: int, stream: bool
) -> None:
    answer = await stack.chat(model=f"up/{model}", stream=stream)
    assert answer.status == 200
    assert text_of(answer) == TEXT
    tries = await tries_of(stack, answer)
    assert [(number, how, chosen) for _, number, how, chosen in tries] == [
        *((number, code, False) for number in range(1, failures + 1)),
        (failures + 1, "ok", True),
    ]
    assert len(stack.upstream.calls) == failures + 1


async def test_retries_are_counted_over_all_targets(stack: Stack) -> None:
    await make_route(stack, "worn", "500", "502", "503")
    answer = await stack.chat(model="route/worn")
    assert answer.status in {502, 503}
    assert [m for m, *_ in await tries_of(stack, answer)] == ["500", "502", "503"]
    assert len(stack.upstream.calls) == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "first", ["500", "401", "404", "rst", "silent", "503-always", "role-then-rst", "html"]
)
async def test_next_target_answers_where_the_first_did_not(
    stack: Stack, first: str, stream: bool
) -> None:
    if first == "role-then-rst" and not stream:
        pytest.skip("only streams name a role first")
    await make_route(stack, "pair", first, "gpt-4")
    answer = await asyncio.wait_for(stack.chat(model="route/pair", stream=stream), 20)
    assert answer.status == 200
    assert text_of(answer) == TEXT
    tries = await tries_of(stack, answer)
    assert [number for _, number, _, _ in tries] == [1, 2]
    assert [chosen for *_, chosen in tries] == [False, True]
    assert [seen.json["model"] for seen in stack.upstream.calls] == [first, "gpt-4"]


async def test_fault_of_the_request_is_tried_nowhere_else(stack: Stack) -> None:
    await make_route(stack, "pair", "400", "gpt-4")
    answer = await stack.chat(model="route/pair")
    assert answer.status == 400
    assert len(stack.upstream.calls) == 1


@pytest.mark.parametrize("first", ["rst-in-answer", "cut-short", "error-in-stream"])
async def test_stream_that_broke_after_content_is_never_made_again(
    stack: Stack, first: str
) -> None:
    await make_route(stack, "pair", first, "gpt-4")
    answer = await stack.chat(model="route/pair", stream=True)
    assert TEXT.startswith(text_of(answer))
    assert "error" in msgspec.json.decode(answer.events[-1])
    assert [seen.json["model"] for seen in stack.upstream.calls] == [first]


async def test_wait_that_is_too_long_is_not_sat_out(stack: Stack) -> None:
    began_s = time.monotonic()
    answer = await stack.chat(model="up/503-always")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "3600"
    assert time.monotonic() - began_s < 3
    assert len(stack.upstream.calls) == 1


async def test_stream_without_content_in_time_goes_to_the_next_target(stack: Stack) -> None:
    await make_route(stack, "slow", "role-then-silence", "gpt-4", first_token_ms=300)
    answer = await asyncio.wait_for(stack.chat(model="route/slow", stream=True), 20)
    assert text_of(answer) == TEXT
    assert [how for _, _, how, _ in await tries_of(stack, answer)] == ["upstream_timeout", "ok"]


async def test_stream_that_falls_silent_ends_with_an_error_event(stack: Stack) -> None:
    await make_route(stack, "quiet", "content-then-comments", "gpt-4", between_tokens_ms=300)
    answer = await asyncio.wait_for(stack.chat(model="route/quiet", stream=True), 20)
    assert text_of(answer) == "Hello "
    assert msgspec.json.decode(answer.events[-1])["error"]["code"] == "upstream_timeout"
    assert len(stack.upstream.calls) == 1


async def test_time_of_the_whole_call_ends_retries_too(stack: Stack) -> None:
    began_s = time.monotonic()
    answer = await stack.chat(model="up/slow-body", helix={"timeout_s": 0.5})
    assert answer.status == 504
    assert answer.error["code"] == "total_timeout"
    assert time.monotonic() - began_s < 10
    assert len(await tries_of(stack, answer)) == 1


def test_what_may_be_tried_again_is_what_was_not_answered() -> None:
    told = {
        UpstreamUnreachable("p", "refused"): Again.HERE,
        UpstreamTimeout("p", "connect_timeout_s", 1): Again.HERE,
        UpstreamTimeout("p", "first_byte_timeout_s", 1): Again.ELSEWHERE,
        UpstreamBroken("p", "it is not JSON"): Again.ELSEWHERE,
        UpstreamEmpty("p"): Again.HERE,
    }
    for error, again in told.items():
        assert may_try_again(error, failure_kind(error, None)) is again
    by_status = {
        400: Again.NO,
        401: Again.ELSEWHERE,
        404: Again.ELSEWHERE,
        422: Again.NO,
        429: Again.HERE,
        500: Again.HERE,
        503: Again.HERE,
        504: Again.HERE,
        529: Again.HERE,
        200: Again.ELSEWHERE,
    }
    for status, again in by_status.items():
        kind = UpstreamRejected if status in {400, 422} else UpstreamFailed
        error = kind("told so")
        assert may_try_again(error, failure_kind(error, status)) is again
    assert failure_kind(UpstreamBusy("busy"), 429) is FailureKind.RATE_LIMITED


def test_pauses_are_full_jitter_of_a_bounded_doubling() -> None:
    assert backoff_s(1, 1.0) == 0.25
    assert backoff_s(2, 0.5) == 0.25
    assert backoff_s(3, 1.0) == 1.0
    assert backoff_s(40, 1.0) == 8.0
    assert backoff_s(5, 0.0) == 0.0
