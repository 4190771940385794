"""Virtual models, calls from inside, and hooks: the same path, one request, one selected answer."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from helix.accounts import Principal, Scope, ScopeMissing, UserRole
from helix.gateway import CallOptions, Injected, SettledCall
from helix.gateway.types import CallRequest
from helix.providers import ModelNotFound
from tests.fakes.openai_upstream import TEXT
from tests.gateway.conftest import Stack
from tests.gateway.virtuals import Longest

HELLO: Any = [{"role": "user", "content": "hello there"}]


@pytest.fixture
def longest(stack: Stack) -> Longest:
    handler = Longest(["up/gpt-4", "mock/echo"])
    stack.gateway.add_virtual("longest", handler)
    return handler


def principal(stack: Stack) -> Principal:
    return Principal(stack.user_id, UserRole.ADMIN, frozenset(Scope))


async def rows_of(stack: Stack, request_id: str | UUID) -> list[Any]:
    found = await stack.owner.fetch(
        "SELECT r.*, q.status AS request_status, q.ensemble_config, b.content"
        " FROM llm_responses r JOIN llm_requests q ON q.id = r.request_id"
        " LEFT JOIN llm_response_bodies b ON b.response_id = r.id"
        " WHERE r.request_id = $1 ORDER BY r.attempt, r.id",
        UUID(str(request_id)),
    )
    return list(found)


@pytest.mark.parametrize("stream", [False, True])
async def test_chosen_candidate_is_the_one_selected_answer(
    stack: Stack, longest: Longest, stream: bool
) -> None:
    answer = await stack.chat(model="longest/best", stream=stream)
    assert answer.status == 200
    if stream:
        told = [msgspec.json.decode(e) for e in answer.events[:-1]]
        text = "".join(c["delta"].get("content") or "" for t in told for c in t["choices"])
        assert answer.events[-1] == "[DONE]"
    else:
        text = answer.json["choices"][0]["message"]["content"]
        assert answer.json["usage"]["total_tokens"] == 18 + 6
    assert text == max(TEXT, "hello there", key=len)
    rows = await rows_of(stack, answer.headers["x-request-id"])
    assert [(r["attempt"], r["status"], r["selected"]) for r in rows] == [
        (1, "completed", True),
        (2, "completed", False),
    ]
    assert rows[0]["confidence"] == Decimal("0.75")
    assert rows[0]["cost_usd"] == Decimal("0.00075")
    assert rows[0]["request_status"] == "completed"
    asked = rows[0]["ensemble_config"]
    assert asked == {"model": "longest/best", "asks": ["up/gpt-4", "mock/echo"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_new_answer_is_a_row_of_its_own_at_no_cost(
    stack: Stack, longest: Longest, stream: bool
) -> None:
    answer = await stack.chat(model="longest/both", stream=stream)
    rows = await rows_of(stack, answer.headers["x-request-id"])
    assert [(r["provider_name"], r["selected"]) for r in rows] == [
        ("up", False),
        ("mock", False),
        ("helix", True),
    ]
    assert rows[2]["cost_usd"] == 0
    assert rows[2]["content"] == f"{TEXT} | hello there "


async def test_virtual_model_answers_in_every_dialect(stack: Stack, longest: Longest) -> None:
    body = {"model": "longest/best", "max_tokens": 50, "messages": HELLO}
    answer = await stack.request("POST", "/v1/messages", msgspec.json.encode(body))
    assert answer.json["content"][0]["text"] == TEXT
    body = {"model": "longest/best", "input": "hello there"}
    answer = await stack.request("POST", "/v1/responses", msgspec.json.encode(body))
    assert answer.json["output"][0]["content"][0]["text"] == TEXT


async def test_virtual_models_are_listed(stack: Stack, longest: Longest) -> None:
    async with stack.client() as client:
        names = {model.id async for model in client.models.list()}
        assert {"longest/best", "longest/both", "mock/echo"} <= names
        assert (await client.models.retrieve("longest/best")).owned_by == "helix"


async def test_unknown_virtual_model_leaves_no_request(stack: Stack, longest: Longest) -> None:
    answer = await stack.chat(model="longest/unknown")
    assert answer.status == 404
    assert await stack.count("llm_requests") == 0


async def test_handler_without_a_decision_fails_and_keeps_its_candidates(
    stack: Stack, longest: Longest
) -> None:
    answer = await stack.chat(model="longest/silent")
    assert answer.status == 500
    assert answer.error["code"] == "virtual_undecided"
    rows = await rows_of(stack, answer.headers["x-request-id"])
    assert {r["request_status"] for r in rows} == {"failed"}
    assert sum(r["status"] == "completed" for r in rows) == 2
    assert not any(r["selected"] for r in rows if r["status"] == "completed")


async def test_failing_candidate_fails_the_call_with_its_error(stack: Stack) -> None:
    stack.gateway.add_virtual("pair", Longest(["up/gpt-4", "up/400"]))
    answer = await stack.chat(model="pair/best")
    assert answer.status == 400
    rows = await rows_of(stack, answer.headers["x-request-id"])
    assert {r["request_status"] for r in rows} == {"failed"}
    assert [r["status"] for r in rows if r["http_status"] == 400] == ["failed"]


async def test_ask_returns_a_committed_answer(stack: Stack) -> None:
    task_id = uuid4()
    told = await stack.gateway.caller.ask(
        principal(stack),
        {"model": "up/gpt-4", "messages": HELLO},
        options=CallOptions(agent_id="judge", task_id=task_id, metadata={"round": 2}),
    )
    assert (told.text, told.tokens_prompt, told.tokens_completion) == (TEXT, 11, 7)
    assert told.cost_usd == Decimal("0.00075")
    assert told.message == {"role": "assistant", "content": TEXT}
    row = await stack.owner.fetchrow("SELECT * FROM llm_requests WHERE id = $1", told.request_id)
    assert row["agent_id"] == "judge"
    assert row["task_id"] == task_id
    assert row["status"] == "completed"
    assert row["metadata"]["round"] == 2


async def test_ask_with_a_used_key_calls_nobody(stack: Stack) -> None:
    who, fields = principal(stack), {"model": "up/gpt-4", "messages": HELLO}
    options = CallOptions(idempotency_key="step-1")
    first = await stack.gateway.caller.ask(who, fields, options=options)
    again = await asyncio.gather(
        *(stack.gateway.caller.ask(who, fields, options=options) for _ in range(5))
    )
    assert {one.response_id for one in again} == {first.response_id}
    assert {one.text for one in again} == {TEXT}
    assert {one.cost_usd for one in again} == {Decimal("0.00075")}
    assert len(stack.upstream.calls) == 1


async def test_ask_of_a_virtual_model(stack: Stack, longest: Longest) -> None:
    told = await stack.gateway.caller.ask(
        principal(stack), {"model": "longest/best", "messages": HELLO}
    )
    assert told.text == TEXT
    rows = await rows_of(stack, told.request_id)
    assert [r["id"] for r in rows if r["selected"]] == [told.response_id]


async def test_ask_needs_the_scope(stack: Stack) -> None:
    nobody = Principal(stack.user_id, UserRole.USER, frozenset({Scope.MODELS}))
    with pytest.raises(ScopeMissing):
        await stack.gateway.caller.ask(nobody, {"model": "mock/echo", "messages": HELLO})
    with pytest.raises(ModelNotFound):
        await stack.gateway.caller.ask(principal(stack), {"model": "no/such", "messages": HELLO})


async def test_what_a_hook_adds_is_sent_and_recorded(stack: Stack) -> None:
    async def remember(request: CallRequest, _: Principal, __: UUID) -> Injected:
        own = msgspec.json.decode(request.fields["messages"])
        memory = {"role": "system", "content": "She likes tea."}
        return Injected(messages=[memory, *own], memory={"memories": [{"id": "m1", "score": 0.9}]})

    stack.gateway.add_before(remember)
    answer = await stack.chat(model="up/gpt-4")
    sent = stack.upstream.calls[0].json["messages"]
    assert [m["role"] for m in sent] == ["system", "user"]
    row = await stack.owner.fetchrow(
        "SELECT q.*, b.request_body FROM llm_requests q"
        " JOIN llm_request_bodies b ON b.request_id = q.id WHERE q.id = $1",
        UUID(answer.headers["x-request-id"]),
    )
    assert row["memory_enhanced"]
    assert row["memory"] == {"memories": [{"id": "m1", "score": 0.9}]}
    assert [m["role"] for m in msgspec.json.decode(row["request_body"])["messages"]] == ["user"]


@pytest.mark.parametrize(("model", "status"), [("up/gpt-4", "completed"), ("up/400", "failed")])
@pytest.mark.parametrize("stream", [False, True])
async def test_after_hook_is_told_of_each_end_once(
    stack: Stack, model: str, status: str, stream: bool
) -> None:
    told: asyncio.Queue[SettledCall] = asyncio.Queue()
    stack.gateway.add_after(told.put)
    answer = await stack.chat(model=model, stream=stream, helix={"agent": "bot"})
    async with asyncio.timeout(10):
        call = await told.get()
    assert str(call.request_id) == answer.headers["x-request-id"]
    assert (call.status, call.agent_id, call.helix) == (status, "bot", {"agent": "bot"})
    assert msgspec.json.decode(call.messages) == HELLO
    if status == "completed":
        assert call.answer is not None
        assert call.answer["content"] == call.text == TEXT
    else:
        assert call.answer is None
    assert told.empty()
