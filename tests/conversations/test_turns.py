"""Calls within a conversation: begun before, recorded once, with exactly what was added."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from helix.conversations import service, turns
from helix.conversations.context import ContextOptions, ContextStrategy, Recalled
from helix.conversations.domain import Conversations, Prepared, build
from helix.conversations.errors import ConversationNotActive
from helix.conversations.types import CompressionType, EntityExtracted, Event, MessageAdded
from helix.core.config import Settings
from helix.core.db import Connection, Database, Role
from helix.core.errors import Unavailable
from tests.conversations.support import CLOCK, IDS, domain, fresh_name, recorded_call, said
from tests.factories import make_memory, make_session, make_user

Messages = list[dict[str, Any]]


class Caller:
    """Someone who makes calls within one conversation, as the gateway makes them."""

    def __init__(self, db: Database, owner: Connection, user_id: UUID, **settings: Any) -> None:
        self.db, self.owner, self.user_id = db, owner, user_id
        self.conversations: Conversations = domain(db, **settings)
        self.name = fresh_name()

    async def begin(
        self, messages: Messages, context: ContextOptions | None = None, name: str | None = None
    ) -> tuple[UUID, Prepared]:
        request_id = IDS.next(CLOCK.now())
        prepared = await self.conversations.before(
            request_id=request_id,
            user_id=self.user_id,
            session=name or self.name,
            messages=messages,
            options=context,
        )
        return request_id, prepared

    async def call(
        self,
        messages: Messages,
        answer: dict[str, Any] | str | None = "sure",
        context: ContextOptions | None = None,
        **options: Any,
    ) -> tuple[UUID, Prepared]:
        request_id, prepared = await self.begin(messages, context)
        await recorded_call(
            self.owner, self.user_id, messages, answer, request_id=request_id, **options
        )
        await self.conversations.after(request_id=request_id, user_id=self.user_id)
        return request_id, prepared

    async def events(self, prepared: Prepared) -> list[Event]:
        async with self.db.transaction(Role.APP, tenant=self.user_id) as conn:
            talk = await service.get(
                conn, conversation_id=prepared.conversation_id, user_id=self.user_id
            )
            return await service.events_of(conn, conversation=talk)

    async def said(self, prepared: Prepared) -> list[str]:
        """What the conversation holds, one `role: text` a message."""
        async with self.db.transaction(Role.APP, tenant=self.user_id) as conn:
            talk = await service.get(
                conn, conversation_id=prepared.conversation_id, user_id=self.user_id
            )
            rows = await service.messages_of(conn, conversation=talk)
        return [f"{row['message']['role']}: {row['message'].get('content')}" for row in rows]


@pytest.fixture
async def caller(db: Database, owner: Connection) -> Caller:
    return Caller(db, owner, (await make_user(owner))["id"])


async def test_a_call_becomes_events(caller: Caller) -> None:
    prompt = said("system", "be brief")
    request_id, prepared = await caller.call([prompt, said("user", "Where is Anna?")], "In Rome.")
    events = await caller.events(prepared)
    assert [(event.sequence, event.message_id) for event in events] == [
        (1, f"{request_id}:0"), (2, f"{request_id}:1"), (3, f"{request_id}:answer"),
        (4, f"{request_id}:1"), (5, f"{request_id}:answer"),
    ]  # fmt: skip
    named = [event.payload for event in events[3:]]
    assert [one.name for one in named if isinstance(one, EntityExtracted)] == ["Anna", "Rome"]
    answer = events[2]
    assert isinstance(answer.payload, MessageAdded)
    assert answer.payload.rest == {"content": "In Rome."}
    assert answer.response_id is not None
    assert answer.metadata["request_id"] == str(request_id)
    assert (answer.metadata["model"], answer.metadata["provider"]) == ("echo", "mock")
    assert answer.tokens == 6  # 4 around it, 8 bytes


async def test_a_client_that_sends_its_history_is_held_once(caller: Caller) -> None:
    history: Messages = [said("system", "be brief")]
    for number in range(4):
        history.append(said("user", f"question {number}"))
        _, prepared = await caller.call(history, f"answer {number}")
        history.append(said("assistant", f"answer {number}"))
    assert await caller.said(prepared) == [f"{body['role']}: {body['content']}" for body in history]


async def test_a_call_of_tools_is_held_whole(caller: Caller) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    question = said("user", "look")
    await caller.call([question], asked)
    result = {"role": "tool", "tool_call_id": "c1", "content": "42"}
    _, prepared = await caller.call([question, asked, result], "it is 42")
    assert await caller.said(prepared) == [
        "user: look", "assistant: None", "tool: 42", "assistant: it is 42",
    ]  # fmt: skip


async def test_a_call_is_recorded_once_however_often_it_is_told(
    caller: Caller, db: Database
) -> None:
    """Twelve at a time, from the hook and from the sweep of three processes."""
    messages = [said("user", "hello")]
    request_id, prepared = await caller.begin(messages)
    await recorded_call(caller.owner, caller.user_id, messages, request_id=request_id)
    others = [domain(db) for _ in range(3)]
    told = await asyncio.gather(
        *(caller.conversations.after(request_id=request_id, user_id=caller.user_id)
          for _ in range(9)),
        *(other.sweep() for other in others),
    )  # fmt: skip
    counts = [one if isinstance(one, int) else 2 * one["recorded"] for one in told]
    assert sorted(counts) == [0] * 11 + [2]
    assert len(await caller.events(prepared)) == 2


async def test_32_calls_at_once_are_32_turns_without_gap(caller: Caller) -> None:
    names = [f"say {number}" for number in range(32)]
    done = await asyncio.gather(
        *(caller.begin([said("user", name)]) for name in names)
    )  # the first of them makes the conversation
    assert len({prepared.conversation_id for _, prepared in done}) == 1
    for (request_id, _), name in zip(done, names, strict=True):
        await recorded_call(
            caller.owner, caller.user_id, [said("user", name)], f"re {name}", request_id=request_id
        )
    await asyncio.gather(
        *(caller.conversations.after(request_id=one, user_id=caller.user_id) for one, _ in done)
    )
    prepared = done[0][1]
    events = await caller.events(prepared)
    assert [event.sequence for event in events] == list(range(1, 65))
    held = await caller.said(prepared)
    assert sorted(held[0::2]) == sorted(f"user: {name}" for name in names)
    assert [one.removeprefix("user: ") for one in held[0::2]] == [
        one.removeprefix("assistant: re ") for one in held[1::2]
    ]


async def test_what_a_dead_process_left_is_found(caller: Caller) -> None:
    messages = [said("user", "hello")]
    request_id, prepared = await caller.begin(messages)
    assert await caller.conversations.sweep() == {"recorded": 0, "failed": 0, "dropped": 0}
    await recorded_call(caller.owner, caller.user_id, messages, request_id=request_id)
    assert await caller.conversations.sweep() == {"recorded": 1, "failed": 0, "dropped": 0}
    assert await caller.said(prepared) == ["user: hello", "assistant: sure"]


async def test_a_call_that_cannot_be_recorded_is_left_after_five_tries(
    caller: Caller, db: Database
) -> None:
    def broken(_: str, __: str) -> Messages:
        raise ValueError("secret text")

    sound, other = await caller.begin([said("user", "a")]), await caller.begin([said("user", "b")])
    for request_id, _ in (sound, other):
        await recorded_call(caller.owner, caller.user_id, [], request_id=request_id)
    conversations = build(db, Settings(), read=broken)
    swept = [await conversations.sweep() for _ in range(6)]
    assert [one["failed"] for one in swept] == [2, 2, 2, 2, 2, 0]
    rows = await caller.owner.fetch("SELECT attempts, error FROM conversation_turns")
    assert [tuple(row) for row in rows] == [(5, "ValueError")] * 2


async def test_a_refused_call_leaves_no_trace_after_a_day(caller: Caller) -> None:
    _, prepared = await caller.begin([said("user", "hello")])
    await caller.owner.execute(
        "UPDATE conversation_turns SET created_at = now() - interval '25 hours'"
    )
    assert (await caller.conversations.sweep())["dropped"] == 1
    assert await caller.events(prepared) == []


async def test_an_answer_that_broke_off_is_held_and_marked(caller: Caller) -> None:
    _, prepared = await caller.call([said("user", "go on")], "It was a dark", status="interrupted")
    events = await caller.events(prepared)
    assert events[-1].metadata["partial"] is True
    assert await caller.said(prepared) == ["user: go on", "assistant: It was a dark"]


async def test_a_question_asked_again_after_a_failure_is_held_once(caller: Caller) -> None:
    await caller.call([said("user", "hello")], None, status="failed")
    _, prepared = await caller.call([said("user", "hello")], "hi")
    assert await caller.said(prepared) == ["user: hello", "assistant: hi"]


async def test_a_session_counts_its_calls(caller: Caller) -> None:
    _, first = await caller.call([said("user", "a")])
    request_id, second = await caller.call([said("user", "b")])
    assert second == first
    row = await caller.owner.fetchrow(
        "SELECT request_count, context, token_hash, status, last_activity > created_at AS moved"
        " FROM user_sessions WHERE id = $1",
        first.session_id,
    )
    assert row["request_count"] == 2
    assert row["context"] == {
        "conversation_id": str(first.conversation_id),
        "last_request_id": str(request_id),
        "model": "mock/echo",
    }
    assert (row["token_hash"], row["status"], row["moved"]) == (None, "active", True)


async def test_a_conversation_outlives_its_session(caller: Caller) -> None:
    _, first = await caller.call([said("user", "a")])
    await caller.owner.execute("UPDATE user_sessions SET expires_at = now()")
    _, second = await caller.call([said("user", "b")])
    assert second.conversation_id == first.conversation_id
    assert second.session_id != first.session_id


async def test_the_name_of_a_call_finds_its_conversation(caller: Caller) -> None:
    """The id of a conversation or a session of one's own, or any word; others' are but words."""
    hello = [said("user", "hello")]
    _, worded = await caller.begin(hello)
    _, by_id = await caller.begin(hello, name=str(worded.conversation_id))
    assert by_id == worded
    session = await make_session(caller.owner, user_id=caller.user_id)
    _, within = await caller.begin(hello, name=str(session["id"]))
    assert within.session_id == session["id"]
    assert (await caller.begin(hello, name=str(session["id"])))[1] == within
    foreign = await make_session(caller.owner)
    _, word = await caller.begin(hello, name=str(foreign["id"]))
    assert word.session_id not in {foreign["id"], session["id"]}
    other = Caller(caller.db, caller.owner, (await make_user(caller.owner))["id"])
    _, theirs = await other.begin(hello, name=str(worded.conversation_id))
    assert theirs.conversation_id != worded.conversation_id
    _, same_word = await other.begin(hello, name=caller.name)
    assert same_word.conversation_id != worded.conversation_id


class Interrupted:
    """A connection that does something else before a statement that contains a text."""

    def __init__(self, conn: Connection, text: str, otherwise: Callable[[], Awaitable[None]]):
        self._conn, self._text, self._otherwise = conn, text, otherwise

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._conn, name)

        async def call(statement: str, *values: object) -> Any:
            if self._text in statement:
                await self._otherwise()
            return await method(statement, *values)

        return call if name in {"fetch", "fetchrow", "fetchval", "execute"} else method


async def begin_turn(caller: Caller, conn: Any) -> turns.Begun:
    return await turns.begin(
        conn,
        request_id=IDS.next(CLOCK.now()),
        user_id=caller.user_id,
        name=caller.name,
        project_id=None,
        assembled=False,
        session_ttl_s=60,
    )


async def test_who_erases_a_conversation_waits_for_a_turn_that_begins_in_it(caller: Caller) -> None:
    _, prepared = await caller.begin([said("user", "hello")])
    waited: list[str] = []

    async def erase() -> None:
        try:
            async with caller.owner.transaction():
                await caller.owner.execute("SET LOCAL lock_timeout = '50ms'")
                await service.erase(
                    caller.owner,
                    conversation_id=prepared.conversation_id,
                    user_id=caller.user_id,
                )
        except asyncpg.LockNotAvailableError:
            waited.append("for the turn")

    async with caller.db.transaction(Role.APP, tenant=caller.user_id) as conn:
        begun = await begin_turn(caller, Interrupted(conn, "FROM user_sessions", erase))
    assert begun.conversation.id == prepared.conversation_id
    assert waited == ["for the turn"]


async def test_a_turn_begins_though_its_conversation_was_made_and_erased_at_once(
    caller: Caller,
) -> None:
    """Another call makes it before this one can, and it is erased before this one finds it."""
    made: list[UUID] = []

    async def make() -> None:
        if not made:
            made.append((await caller.begin([said("user", "hello")]))[1].conversation_id)

    async def erase() -> None:
        if len(made) == 1:  # once it is there
            made.append(made[0])
            await service.erase(caller.owner, conversation_id=made[0], user_id=caller.user_id)

    async with caller.db.transaction(Role.APP, tenant=caller.user_id) as conn:
        making: Any = Interrupted(conn, "INSERT INTO conversations", make)
        erasing = Interrupted(making, "external_id = ", erase)
        begun = await begin_turn(caller, erasing)
    assert made[0] == made[1] != begun.conversation.id


async def test_a_paused_conversation_refuses_calls_but_records_those_under_way(
    caller: Caller,
) -> None:
    messages = [said("user", "hello")]
    request_id, prepared = await caller.begin(messages)
    async with caller.db.transaction(Role.APP, tenant=caller.user_id) as conn:
        await service.pause(
            conn, conversation_id=prepared.conversation_id, user_id=caller.user_id,
            ids=IDS, clock=CLOCK,
        )  # fmt: skip
    with pytest.raises(ConversationNotActive):
        await caller.begin(messages)
    await recorded_call(caller.owner, caller.user_id, messages, request_id=request_id)
    assert await caller.conversations.after(request_id=request_id, user_id=caller.user_id) == 2


async def test_a_context_is_assembled_and_recorded_exactly(caller: Caller, db: Database) -> None:
    for number in range(3):
        await caller.call(
            [said("user", f"question {number}")], f"answer {number}", ContextOptions()
        )
    memory = await make_memory(caller.owner, user_id=caller.user_id)
    found = [Recalled(str(memory["id"]), "Anna likes tea", 0.9), Recalled("x", "y", 0.1)]
    asked: list[Any] = []

    async def search(user_id: UUID, text: str, limit: int) -> Sequence[Recalled]:
        asked.append((user_id, text, limit))
        return found

    caller.conversations = build(db, Settings(), search_memories=search)
    new = [said("system", "be brief"), said("user", "and Anna?")]
    options = ContextOptions(500, ContextStrategy.HYBRID, 1)
    request_id, prepared = await caller.call(new, "tea", options)
    assert asked == [(caller.user_id, "and Anna?", 1)]
    assert prepared.messages is not None
    roles = [body["role"] for body in prepared.messages]
    assert roles == ["system", "system", "user", *["user", "assistant"] * 3, "user"]
    assert "Anna likes tea" in prepared.messages[2]["content"]
    row = await caller.owner.fetchrow(
        "SELECT * FROM conversation_turns WHERE request_id = $1", request_id
    )
    assert row["injected"] == prepared.memory
    assert (row["assembled"], row["tainted"]) == (True, True)
    assert row["injected_tokens"] == row["injected"]["tokens"] <= 500
    assert [one["id"] for one in row["injected"]["memories"]] == [str(memory["id"])]
    assert row["injected"]["history"]["messages"] == 6
    assert "Anna likes tea" not in str(row["injected"])
    session = await caller.owner.fetchrow(
        "SELECT memory_id FROM user_sessions WHERE id = $1", prepared.session_id
    )
    assert session["memory_id"] == memory["id"]
    assert (await caller.said(prepared))[-2:] == ["user: and Anna?", "assistant: tea"]


async def test_a_context_begins_with_the_summary_of_what_it_leaves_out(caller: Caller) -> None:
    recent = ContextOptions(600, ContextStrategy.SUMMARY)
    for number in range(12):
        text = f"Acme ships crate {number} to Berlin. " + "and so on " * 20
        _, prepared = await caller.call([said("user", text)], "noted", recent)
    await caller.conversations.compress(
        conversation_id=prepared.conversation_id,
        user_id=caller.user_id,
        strategy=CompressionType.FULL,
        target_tokens=100,
    )
    _, last = await caller.begin([said("user", "what was first?")], recent)
    assert last.memory is not None
    assert last.memory["summary"]["tainted"] is True
    assert last.memory["history"]["left_out"] > 0
    assert last.memory["tokens"] <= 600
    assert last.messages is not None
    assert "Acme" in last.messages[1]["content"]


async def test_a_search_that_fails_leaves_the_call_without_memories(
    caller: Caller, db: Database
) -> None:
    async def search(_: UUID, __: str, ___: int) -> Sequence[Recalled]:
        raise Unavailable("no index")

    caller.conversations = build(db, Settings(), search_memories=search)
    _, prepared = await caller.begin([said("user", "hello")], ContextOptions())
    assert prepared.memory is not None
    assert prepared.memory["memories"] == []


async def test_no_connection_is_held_while_memories_are_searched(
    caller: Caller, owner: Connection, db: Database
) -> None:
    async def search(_: UUID, __: str, ___: int) -> Sequence[Recalled]:
        busy = await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%'"
        )
        return [Recalled(str(uuid4()), f"busy {busy}", 1.0)]

    caller.conversations = build(db, Settings(), search_memories=search)
    _, prepared = await caller.begin([said("user", "hello")], ContextOptions())
    assert prepared.messages is not None
    assert "busy 0" in prepared.messages[1]["content"]


async def test_a_long_conversation_asks_to_be_compressed(caller: Caller, db: Database) -> None:
    asked: list[UUID] = []

    async def enqueue(_: Connection, conversation_id: UUID, __: UUID) -> None:
        asked.append(conversation_id)

    caller.conversations = build(
        db, Settings(conversation_compress_tokens=100), enqueue_compression=enqueue
    )
    _, prepared = await caller.call([said("user", "short")])
    assert asked == []
    await caller.call([said("user", "word " * 100)])
    assert asked == [prepared.conversation_id]
