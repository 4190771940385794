"""Keys at the door: dead a second after they end, limited, and noted when used."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from helix.accounts.policy import key_from_random
from helix.accounts.store import Store
from helix.accounts.types import KeyLimits, Scope, UserStatus
from tests.gateway.conftest import Stack
from tests.gateway.test_retries import make_route

ECHO = b'{"model": "mock/echo", "messages": [{"role": "user", "content": "hello"}]}'


async def until_refused(stack: Stack, key: str) -> tuple[float, str]:
    """Call until it is refused; return after how many seconds, and the code."""
    began_s = time.monotonic()
    while True:
        answer = await stack.request(
            "GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}
        )
        if answer.status != 200:
            return time.monotonic() - began_s, answer.error["code"]
        assert time.monotonic() - began_s < 5
        await asyncio.sleep(0.01)


async def test_revoked_key_is_dead_within_a_second(stack: Stack) -> None:
    made = await stack.make_key()
    first = await stack.request(
        "GET", "/v1/models", headers={"Authorization": f"Bearer {made.key}"}
    )
    assert first.status == 200
    await Store().revoke_key(
        stack.owner, key_id=made.record.id, user_id=None, now=datetime.now(UTC)
    )
    after_s, code = await until_refused(stack, made.key)
    assert code == "key_revoked"
    assert after_s <= 1.2  # a second, and the call that finds out


async def test_key_of_a_suspended_user_is_dead_within_a_second(stack: Stack) -> None:
    made = await stack.make_key()
    await Store().set_status(stack.owner, user_id=stack.user_id, status=UserStatus.SUSPENDED)
    after_s, code = await until_refused(stack, made.key)
    assert code == "account_suspended"
    assert after_s <= 1.2


async def test_expired_key_is_refused_at_its_moment(stack: Stack) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    made = await stack.make_key(expires_at=soon)
    _, code = await until_refused(stack, made.key)
    assert code == "key_expired"
    assert datetime.now(UTC) >= soon


async def test_new_key_opens_at_once(stack: Stack) -> None:
    made = await stack.make_key()
    answer = await stack.request(
        "GET", "/v1/models", headers={"Authorization": f"Bearer {made.key}"}
    )
    assert answer.status == 200


async def test_limit_is_exact_when_many_call_at_once(stack: Stack) -> None:
    made = await stack.make_key(rate_limit=20)
    answers = await asyncio.gather(
        *(
            stack.request(
                "POST", "/v1/chat/completions", ECHO, {"X-Api-Key": made.key, "Authorization": ""}
            )
            for _ in range(50)
        )
    )
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200] * 20 + [429] * 30
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.error["type"] == "rate_limit_error"
    assert refused.error["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_limit_of_zero_refuses_all(stack: Stack) -> None:
    made = await stack.make_key(rate_limit=0)
    answer = await stack.request(
        "POST", "/v1/chat/completions", ECHO, {"Authorization": f"Bearer {made.key}"}
    )
    assert answer.status == 429


@pytest.mark.parametrize(
    ("scopes", "models", "chat"),
    [
        (frozenset({Scope.COMPLETIONS}), 200, 200),
        (frozenset({Scope.MODELS}), 200, 403),
        (frozenset({Scope.ADMIN}), 403, 403),
        (frozenset[Scope](), 403, 403),
    ],
)
async def test_scopes_open_their_routes_and_no_others(
    stack: Stack, scopes: frozenset[Scope], models: int, chat: int
) -> None:
    made = await stack.make_key(scopes=scopes)
    header = {"Authorization": f"Bearer {made.key}"}
    body = b'{"model":"mock/echo","messages":[{"role":"user","content":"x"}]}'
    assert (await stack.request("GET", "/v1/models", headers=header)).status == models
    asked = await stack.request("POST", "/v1/chat/completions", body, header)
    assert asked.status == chat


async def test_use_of_a_key_is_noted(stack: Stack) -> None:
    await stack.chat()
    await stack.accounts.keys._write_used()
    noted = await stack.owner.fetchval("SELECT last_used_at FROM api_keys LIMIT 1")
    assert datetime.now(UTC) - noted < timedelta(seconds=60)


async def test_unknown_keys_are_remembered_in_a_bounded_number(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helix.accounts.keys.UNKNOWN_MAX", 10)
    for number in range(30):
        header = {"Authorization": f"Bearer {key_from_random(bytes([number]) * 24)}"}
        assert (await stack.request("GET", "/v1/models", headers=header)).status == 401
    assert len(stack.accounts.keys._unknown) == 10


@pytest.mark.parametrize(
    ("pattern", "may", "may_not"),
    [
        ("mock/*", ["mock/echo", "mock/small"], ["up/gpt-4", "route/best"]),
        ("gpt-4", ["up/gpt-4", "route/best"], ["up/gpt-4-turbo", "route/any", "mock/echo"]),
        ("route/any", ["route/any"], ["up/gpt-4", "up/gpt-4-turbo", "route/best"]),
    ],
)
async def test_key_calls_only_models_that_it_may(
    stack: Stack, pattern: str, may: list[str], may_not: list[str]
) -> None:
    """By the name that is asked for, or else by everything that stands behind it."""
    await make_route(stack, "best", "gpt-4")
    await make_route(stack, "any", "gpt-4", "gpt-4-turbo")
    made = await stack.make_key(limits=KeyLimits(allowed_models=(pattern,)))
    header = {"Authorization": f"Bearer {made.key}"}
    for model in [*may, *may_not]:
        body = msgspec.json.encode(
            {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        )
        answer = await stack.request("POST", "/v1/chat/completions", body, header)
        if model in may:
            assert answer.status == 200
        else:
            assert (answer.status, answer.error["code"]) == (403, "model_not_allowed")
            assert answer.error["param"] == "model"
            assert model in answer.error["message"]
    recorded = await stack.owner.fetch("SELECT DISTINCT model_name FROM llm_requests ORDER BY 1")
    assert [row["model_name"] for row in recorded] == sorted(may)
    listed = await stack.request("GET", "/v1/models", headers=header)
    assert {one["id"] for one in listed.json["data"]}.isdisjoint(may_not)
