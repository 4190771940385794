"""Conversations through the gateway itself: the official client, a real port, a real database."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from helix import conversations, gateway
from helix.conversations import service
from helix.core.config import Settings
from helix.core.db import Role
from tests.gateway.conftest import Stack, options, stack, upstream  # noqa: F401 - fixtures

PATIENCE_S = 20.0


@pytest.fixture
def gateway_db(db: Any) -> Any:
    return db


class Talk:
    """A client that names its conversation."""

    def __init__(self, stack_: Stack, domain: conversations.Conversations) -> None:
        self.stack, self.domain = stack_, domain

    async def say(self, text: str, **helix: Any) -> tuple[str, UUID]:
        """Send one message and wait until its events are written; returns answer and call."""
        async with self.stack.client() as client:
            answer = await client.chat.completions.with_raw_response.create(
                model="mock/echo",
                messages=[{"role": "user", "content": text}],
                extra_body={"helix": {"session": "support-7", **helix}},
            )
        request_id = UUID(answer.headers["x-helix-request-id"])
        async with asyncio.timeout(PATIENCE_S):
            while not await self.stack.owner.fetchval(  # noqa: ASYNC110 - the hook tells nobody
                "SELECT recorded_at FROM conversation_turns WHERE request_id = $1", request_id
            ):
                await asyncio.sleep(0.01)
        return answer.parse().choices[0].message.content or "", request_id

    async def held(self) -> list[tuple[str, str]]:
        async with self.stack.db.transaction(Role.OPERATOR) as conn:
            [talk] = await service.list_conversations(conn, user_id=self.stack.user_id)
            rows = await service.messages_of(conn, conversation=talk)
        return [(row["message"]["role"], row["message"]["content"]) for row in rows]


@pytest.fixture
async def talk(stack: Stack) -> Talk:  # noqa: F811
    domain = conversations.build(
        stack.db,
        Settings(),
        read=gateway.request_messages,
        read_answer=gateway.answer_message,
    )
    stack.gateway.add_before(conversations.before_hook(domain))
    stack.gateway.add_after(conversations.after_hook(domain))
    return Talk(stack, domain)


async def test_calls_of_a_session_become_its_conversation(talk: Talk) -> None:
    first, request_id = await talk.say("My name is Anna")
    second, _ = await talk.say("Where do I live?")
    assert await talk.held() == [
        ("user", "My name is Anna"), ("assistant", first),
        ("user", "Where do I live?"), ("assistant", second),
    ]  # fmt: skip
    row = await talk.stack.owner.fetchrow(
        "SELECT q.session_id, q.memory_enhanced, s.request_count FROM llm_requests AS q"
        " JOIN user_sessions AS s ON s.id = q.session_id WHERE q.id = $1",
        request_id,
    )
    assert (row["memory_enhanced"], row["request_count"]) == (False, 2)


async def test_a_context_reaches_the_provider_and_is_recorded(talk: Talk) -> None:
    await talk.say("My name is Anna", context=True)
    _, request_id = await talk.say("Who am I?", context={"budget_tokens": 200})
    row = await talk.stack.owner.fetchrow(
        "SELECT memory_enhanced, memory, t.injected, b.request_body::jsonb AS body"
        " FROM llm_requests AS q JOIN conversation_turns AS t ON t.request_id = q.id"
        " JOIN llm_request_bodies AS b ON b.request_id = q.id WHERE q.id = $1",
        request_id,
    )
    assert row["memory_enhanced"] is True
    assert row["memory"] == row["injected"]
    assert row["injected"]["history"]["messages"] == 2
    assert row["injected"]["tokens"] <= 200
    assert row["body"]["messages"] == [{"role": "user", "content": "Who am I?"}]
    assert len(await talk.held()) == 4


@pytest.mark.parametrize(
    ("helix", "param"),
    [
        ({"session": ""}, "helix.session"),
        ({"session": "x", "context": {"budget": 1}}, "helix.context"),
        ({"context": True}, "helix.context"),
        ({"memory": True}, "helix.memory"),
        ({"session": "x", "memory": True, "context": {"memories": 0}}, "helix.memory"),
        ({"session": "x", "memory": True, "context": {"strategy": "recent"}}, "helix.memory"),
        ({"session": "x", "memory": "yes"}, "helix.memory"),
        ({"session": "x", "context": {"budget_tokens": 2}}, "helix.context.budget_tokens"),
    ],
)
async def test_options_that_make_no_sense_are_refused(
    talk: Talk, helix: dict[str, Any], param: str
) -> None:
    refused = await talk.stack.chat(helix=helix)
    assert (refused.status, refused.error["param"]) == (400, param)
    assert await talk.stack.count("llm_requests") == 0


async def test_memory_is_asked_for_or_left_out_by_one_word(stack: Stack) -> None:  # noqa: F811
    asked: list[int] = []

    async def search(_user_id: UUID, _query: str, count: int) -> list[conversations.Recalled]:
        asked.append(count)
        return [conversations.Recalled(str(uuid4()), "Ada lives in Turin.", 0.9)]

    domain = conversations.build(
        stack.db,
        Settings(),
        read=gateway.request_messages,
        read_answer=gateway.answer_message,
        search_memories=search,
    )
    stack.gateway.add_before(conversations.before_hook(domain))
    given = await stack.chat(helix={"session": "a", "memory": True})
    assert given.status == 200
    assert asked == [5]
    assert await stack.owner.fetchval("SELECT memory_enhanced FROM llm_requests") is True
    left = await stack.chat(helix={"session": "a", "memory": False, "context": True})
    assert left.status == 200
    plain = await stack.chat(helix={"session": "a", "memory": False})
    assert plain.status == 200
    assert asked == [5]
