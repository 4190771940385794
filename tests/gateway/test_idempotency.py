"""Idempotency-Key: one call to the provider, one answer, told as often as it is asked for."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest

from tests.gateway.conftest import Answer, Stack, make_key, make_user, running, serving

HELLO: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def options() -> dict[str, Any]:
    return {"idempotency_wait_s": 20, "drain_timeout_s": 2}


def post(
    stack: Stack, key: str, path: str = "/v1/chat/completions", **fields: Any
) -> "asyncio.Task[Answer]":
    body = msgspec.json.encode({"model": "up/gpt-4", "messages": HELLO, **fields})
    headers = {"Idempotency-Key": key}
    return asyncio.ensure_future(stack.request("POST", path, body, headers))


def last_of(answer: Answer) -> Any:
    """Return what the last event tells; how many came before it depends on how it was cut."""
    told = msgspec.json.decode(answer.body.split(b"data: ")[-1])
    return {name: value for name, value in told.items() if name != "sequence_number"}


def text_of(answer: Answer) -> str:
    told = [msgspec.json.decode(e) for e in answer.events if e != "[DONE]"]
    return "".join(c["delta"].get("content") or "" for t in told for c in t["choices"])


async def test_hundred_at_once_are_one_call_and_a_hundred_equal_bodies(stack: Stack) -> None:
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(post(stack, "k1") for _ in range(100)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(stack.upstream.calls) == 1
    assert await stack.count("llm_requests") == 1
    replayed = [a for a in answers if a.headers.get("idempotent-replayed") == "true"]
    assert len(replayed) == 99


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_repeated_call_is_told_the_same_in_every_api(
    stack: Stack, path: str, stream: bool
) -> None:
    fields: dict[str, Any] = {"stream": stream}
    if path == "/v1/messages":
        fields["max_tokens"] = 100
    if path == "/v1/responses":
        fields |= {"input": "hello there", "messages": None}
    first = await post(stack, "k2", path, **fields)
    again = await post(stack, "k2", path, **fields)
    assert first.status == again.status == 200
    assert again.headers["idempotent-replayed"] == "true"
    assert len(stack.upstream.calls) == 1
    if not stream:
        assert first.body == again.body
    elif path == "/v1/chat/completions":
        assert text_of(first) == text_of(again)
        assert again.events[-1] == "[DONE]"
    else:
        assert last_of(first) == last_of(again)


async def test_other_body_is_refused(stack: Stack) -> None:
    await post(stack, "k3")
    answer = await post(stack, "k3", temperature=0.5)
    assert answer.status == 422
    assert answer.error["code"] == "idempotency_key_reused"
    assert len(stack.upstream.calls) == 1


async def test_same_body_to_another_path_is_another_body(stack: Stack) -> None:
    await post(stack, "k4", max_tokens=50)
    answer = await post(stack, "k4", "/v1/messages", max_tokens=50)
    assert answer.status == 422


async def test_keys_of_two_users_are_independent(stack: Stack) -> None:
    async with stack.owner.transaction():
        other = await make_key(stack.owner, await make_user(stack.owner))
    await post(stack, "k5")
    body = msgspec.json.encode({"model": "up/gpt-4", "messages": HELLO})
    headers = {"Idempotency-Key": "k5", "Authorization": f"Bearer {other.key}"}
    answer = await stack.request("POST", "/v1/chat/completions", body, headers)
    assert answer.status == 200
    assert len(stack.upstream.calls) == 2


async def test_call_still_under_way_is_a_conflict_once_waited_for(
    stack: Stack,
) -> None:
    first = post(stack, "k6", model="up/held")
    await stack.upstream.arrived.wait()
    second = await post(stack, "k6", model="up/held", helix={"timeout_s": 0.3})
    assert second.status == 422  # another body: its time is part of it
    stack.upstream.go_on.set()
    assert (await first).status == 200


async def test_another_process_tells_the_answer_from_the_record(stack: Stack) -> None:
    first = await post(stack, "k7")
    async with (
        running(stack.db, stack.settings, stack.keyring) as (_, _, door),
        serving(door) as (_, port),
    ):
        stack.port = port
        again = await post(stack, "k7")
    assert again.body == first.body
    assert again.headers["idempotent-replayed"] == "true"
    assert len(stack.upstream.calls) == 1


async def test_failure_is_not_taken_for_the_answer(stack: Stack) -> None:
    first = await post(stack, "k8", model="up/400")
    again = await post(stack, "k8", model="up/400")
    assert first.status == again.status == 400
    assert UUID(again.headers["x-request-id"])
