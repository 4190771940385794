"""Conversations on a real database: numbering, replay, ownership, erasure."""

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.conversations import replay, service
from helix.conversations.errors import (
    ConversationNotActive,
    ConversationNotFound,
    EventRefused,
    MessageExists,
    MessageNotFound,
    NothingToCompress,
)
from helix.conversations.fold import fold
from helix.conversations.types import (
    CompressionType,
    Conversation,
    ReplayType,
    SnapshotType,
    State,
)
from helix.core.db import Connection, Database, Role
from tests.conversations.support import CLOCK, IDS, domain, fresh_name, recorded_call, said
from tests.factories import make_user

MADE: dict[str, Any] = {"ids": IDS, "clock": CLOCK}


@pytest.fixture
async def user_id(owner: Connection) -> UUID:
    found: UUID = (await make_user(owner))["id"]
    return found


@pytest.fixture
async def talk(db: Database, user_id: UUID) -> Conversation:
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        return await service.create(conn, user_id=user_id, external_id=fresh_name())


async def add(db: Database, talk: Conversation, *texts: str, role: str = "user") -> list[str]:
    """Add messages, each in a transaction of its own; returns their ids."""
    ids = []
    for text in texts:
        async with db.transaction(Role.APP, tenant=talk.user_id) as conn:
            fresh = await service.get(
                conn, conversation_id=talk.id, user_id=talk.user_id, lock=True
            )
            told = await service.add_message(
                conn, conversation=fresh, body=said(role, text), **MADE
            )
            ids.append(told[0].message_id or "")
    return ids


async def test_32_writers_leave_no_gap(db: Database, talk: Conversation, user_id: UUID) -> None:
    """A third of them roll back; every number is given once, and none is lost."""

    async def write(number: int) -> None:
        for turn in range(4):
            undone = (number + turn) % 3 == 0
            with contextlib.suppress(LookupError):
                async with db.transaction(Role.APP, tenant=user_id) as conn:
                    await service.append_events(
                        conn,
                        conversation_id=talk.id,
                        user_id=user_id,
                        events=[
                            ("message.added", said("user", f"no name {number} {turn} {part}"), None)
                            for part in range(3)
                        ],
                        **MADE,
                    )
                    if undone:
                        raise LookupError

    await asyncio.gather(*(write(number) for number in range(32)))
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        head = await service.get(conn, conversation_id=talk.id, user_id=user_id)
        events = []
        while page := await service.events_of(
            conn, conversation=head, from_sequence=len(events) + 1
        ):
            events += page
    kept = 3 * sum((number + turn) % 3 != 0 for number in range(32) for turn in range(4))
    assert [event.sequence for event in events] == list(range(1, kept + 1))
    assert head.last_sequence == kept
    times = [event.timestamp for event in events]
    assert times == sorted(times)
    assert len(fold(State(), events).messages) == kept


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    verbs=st.lists(
        st.sampled_from(["add", "change", "delete", "pause", "snapshot", "name"]), max_size=20
    ),
    data=st.data(),
)
async def test_any_point_replayed_is_the_fold_from_zero(
    db: Database, user_id: UUID, verbs: list[str], data: Any
) -> None:
    """Whatever was done, and wherever snapshots lie: through SQL, view, replay and cache alike."""
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        made = await service.create(conn, user_id=user_id)
        standing: list[str] = []
        for number, verb in enumerate(verbs):
            talk = await service.get(conn, conversation_id=made.id, user_id=user_id, lock=True)
            if verb == "add" or (verb in {"change", "delete"} and not standing):
                body = said("user", f"Anna told me about Berlin {number}")
                told = await service.add_message(conn, conversation=talk, body=body, **MADE)
                standing.append(told[0].message_id or "")
            elif verb == "change":
                await service.change_message(
                    conn, conversation=talk, message_id=standing[number % len(standing)],
                    changes={"content": f"changed {number}"}, **MADE,
                )  # fmt: skip
            elif verb == "delete":
                await service.delete_message(
                    conn, conversation=talk, message_id=standing.pop(number % len(standing)), **MADE
                )
            elif verb == "pause":
                for verb_ in (service.pause, service.resume):
                    await verb_(conn, conversation_id=made.id, user_id=user_id, **MADE)
            elif verb == "snapshot":
                await service.take_snapshot(
                    conn, conversation_id=made.id, user_id=user_id,
                    kind=SnapshotType.PERIODIC, **MADE,
                )  # fmt: skip
            else:
                event = ("debate.started", {"debate_id": str(number)}, None)
                await service.append_events(
                    conn, conversation_id=made.id, user_id=user_id, events=[event], **MADE
                )
        talk = await service.get(conn, conversation_id=made.id, user_id=user_id)
        events = await service.events_of(conn, conversation=talk)
        at = data.draw(st.integers(0, talk.last_sequence), label="at")
        expected = fold(State(), events[:at])
        for kind in (ReplayType.FULL, ReplayType.PARTIAL, ReplayType.SNAPSHOT):
            done = await replay.replay(
                conn, conversation=talk, kind=kind, point=at, cache_ttl_s=60, **MADE
            )
            assert done.state == expected
        if at:
            moment = events[at - 1].timestamp
            goal = await replay.resolve_point(conn, conversation=talk, point=moment)
            assert at <= goal
            assert fold(State(), events[:goal]).last_event_at == moment
        end = fold(State(), events)
        rows = await service.messages_of(conn, conversation=talk)
        assert [(row["message_id"], row["message"], row["tokens"]) for row in rows] == [
            (message.message_id, message.body, message.tokens) for message in end.messages
        ]


async def test_a_replay_says_how_it_went(db: Database, talk: Conversation, user_id: UUID) -> None:
    await add(db, talk, *[f"no {number}" for number in range(60)])
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        talk = await service.get(conn, conversation_id=talk.id, user_id=user_id)
        runs = [
            await replay.replay(conn, conversation=talk, kind=kind, cache_ttl_s=60, **MADE)
            for kind in (ReplayType.FULL, ReplayType.SNAPSHOT)
        ]
        assert [(run.events_replayed, run.cache_hit) for run in runs] == [(60, False), (0, True)]
        assert runs[0].state == runs[1].state
        await service.take_snapshot(
            conn, conversation_id=talk.id, user_id=user_id, kind=SnapshotType.ON_DEMAND, **MADE
        )
        talk = await service.get(conn, conversation_id=talk.id, user_id=user_id)
        third = await replay.replay(conn, conversation=talk, kind=ReplayType.SNAPSHOT, **MADE)
        assert (third.events_replayed, third.snapshot_id is not None) == (1, True)
        kept = await service.replays_of(conn, conversation=talk)
    assert [(row["replay_type"], row["events_replayed"]) for row in kept] == [
        ("snapshot", 1), ("snapshot", 0), ("full", 60),
    ]  # fmt: skip


async def test_a_compression_says_what_was_kept_and_keeps_the_original(
    db: Database, talk: Conversation, user_id: UUID
) -> None:
    await add(db, talk, "You are terse.", role="system")
    for number in range(12):
        await add(db, talk, f"Acme GmbH ships {number} crates to Anna Schmidt in Berlin. Hm. Ok.")
    conversations = domain(db)
    done = await conversations.compress(
        conversation_id=talk.id, user_id=user_id, strategy=CompressionType.HYBRID
    )
    assert done.compression_ratio is not None
    assert done.compressed_tokens < done.original_tokens
    assert done.compression_ratio == pytest.approx(
        done.compressed_tokens / done.original_tokens, abs=1e-4
    )
    assert {"Acme GmbH", "Anna Schmidt"} <= {one["name"] for one in done.preserved_entities}
    assert (done.original_message_count, done.llm_model) == (12, None)
    await add(db, talk, "And now?")
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        talk = await service.get(conn, conversation_id=talk.id, user_id=user_id)
        full = await replay.replay(conn, conversation=talk, kind=ReplayType.FULL, **MADE)
        short = await replay.replay(conn, conversation=talk, kind=ReplayType.COMPRESSED, **MADE)
        stats = await conn.fetchrow("SELECT * FROM get_compression_stats($1)", talk.id)
    assert len(full.state.messages) == 14
    assert full.state == short.state
    assert short.compression_applied
    assert short.context is not None
    assert short.context[0]["content"] == "You are terse."
    assert short.context[1]["content"] == done.summary_content
    assert short.context[-1]["content"] == "And now?"
    assert len(short.context) < 14
    assert (stats["compression_type"], stats["compressions"]) == ("hybrid", 1)


async def test_nothing_is_not_compressed(db: Database, talk: Conversation, user_id: UUID) -> None:
    with pytest.raises(NothingToCompress):
        await domain(db).compress(
            conversation_id=talk.id, user_id=user_id, strategy=CompressionType.FULL
        )


async def test_snapshots_come_by_policy(db: Database, talk: Conversation, user_id: UUID) -> None:
    conversations = domain(db, conversation_snapshot_events=10)
    for number in range(25):
        await add(db, talk, f"no {number}")
        await conversations.keep_up(conversation_id=talk.id, user_id=user_id)
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        taken = await service.snapshots_of(conn, conversation=talk)
    assert [one.sequence_number for one in taken] == [20, 10]
    assert {one.snapshot_type for one in taken} == {SnapshotType.PERIODIC}


def test_snapshots_of_long_conversations_lie_further_apart() -> None:
    policy = service.SnapshotPolicy(events=100, size_bytes=1_000)
    assert policy.due(sequence=500, events=100, size_bytes=0, last_bytes=0)
    assert not policy.due(sequence=5_000, events=499, size_bytes=0, last_bytes=0)
    assert policy.due(sequence=5_000, events=500, size_bytes=0, last_bytes=0)
    assert policy.due(sequence=9, events=1, size_bytes=1_000, last_bytes=0)
    assert not policy.due(sequence=9, events=1, size_bytes=1_999, last_bytes=20_000)


async def test_a_message_of_ones_own_id_is_added_once(
    db: Database, talk: Conversation, user_id: UUID
) -> None:
    for text, outcome in (("a", 1), ("a", 1), ("b", MessageExists)):
        async with db.transaction(Role.APP, tenant=user_id) as conn:
            fresh = await service.get(conn, conversation_id=talk.id, user_id=user_id, lock=True)
            adding = service.add_message(
                conn, conversation=fresh, body=said("user", text), message_id="mine", **MADE
            )
            if isinstance(outcome, int):
                assert (await adding)[0].sequence == outcome
            else:
                with pytest.raises(outcome):
                    await adding


async def test_a_paused_conversation_takes_no_messages(
    db: Database, talk: Conversation, user_id: UUID
) -> None:
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        paused = await service.pause(conn, conversation_id=talk.id, user_id=user_id, **MADE)
        assert paused.status == "paused"
        with pytest.raises(ConversationNotActive, match="is paused"):
            await service.add_message(conn, conversation=paused, body=said("user", "x"), **MADE)
        again = await service.resume(conn, conversation_id=talk.id, user_id=user_id, **MADE)
        assert (again.status, again.last_sequence) == ("active", 2)


async def test_events_are_taken_all_or_none(
    db: Database, talk: Conversation, user_id: UUID
) -> None:
    good = ("message.added", said("user", "x"), "m")
    for bad, error in (
        (("message.shouted", {}, None), EventRefused),
        (("message.deleted", {}, "other"), MessageNotFound),
        (("message.added", {"role": "user", "content": ""}, None), EventRefused),
    ):
        with pytest.raises(error):
            async with db.transaction(Role.APP, tenant=user_id) as conn:
                await service.append_events(
                    conn, conversation_id=talk.id, user_id=user_id, events=[good, bad], **MADE
                )
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        head = await service.get(conn, conversation_id=talk.id, user_id=user_id)
    assert head.last_sequence == 0


async def test_nobody_reaches_anothers_conversation(
    db: Database, owner: Connection, talk: Conversation
) -> None:
    """By the code's own condition, and by row security where the code would forget it."""
    other: UUID = (await make_user(owner))["id"]
    for asks, tenant in ((other, other), (None, other), (other, talk.user_id)):
        async with db.transaction(Role.APP, tenant=tenant) as conn:
            with pytest.raises(ConversationNotFound):
                await service.get(conn, conversation_id=talk.id, user_id=asks)
    with pytest.raises(ConversationNotFound):
        await domain(db).erase(conversation_id=talk.id, user_id=other)


async def test_erasing_leaves_no_word_and_all_figures(
    db: Database, owner: Connection, user_id: UUID
) -> None:
    """A canary said in a call, an answer, a name, a summary: gone from every table but numbers."""
    canary = "Zanzibarcanary"
    conversations = domain(db, conversation_snapshot_events=1)
    request_id = IDS.next(CLOCK.now())
    text = f"{canary} likes figs and plums. {canary} lives in Rome."
    messages = [said("user", text)]
    prepared = await conversations.before(
        request_id=request_id, user_id=user_id, session=fresh_name(), messages=messages
    )
    await recorded_call(owner, user_id, messages, f"I see, {canary}.", request_id=request_id)
    assert await conversations.after(request_id=request_id, user_id=user_id) > 1
    await conversations.compress(
        conversation_id=prepared.conversation_id, user_id=user_id, strategy=CompressionType.FULL
    )
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        head = await service.get(conn, conversation_id=prepared.conversation_id, user_id=user_id)
        await replay.replay(conn, conversation=head, kind=ReplayType.FULL, cache_ttl_s=60, **MADE)
    before = await tables_with(owner, canary)
    assert {"conversation_events", "conversation_snapshots", "conversation_compressions"} <= before
    erased = await conversations.erase(conversation_id=prepared.conversation_id, user_id=user_id)
    assert erased == 1
    assert await tables_with(owner, canary) == set()
    assert await owner.fetchval("SELECT count(*) FROM llm_requests WHERE id = $1", request_id) == 1
    assert await owner.fetchval("SELECT count(*) FROM conversation_turns") == 0
    buried = "SELECT user_id FROM archive_tombstones WHERE request_id = $1"
    assert await owner.fetchval(buried, request_id) == user_id, "no archive brings it back"


async def tables_with(owner: Connection, text: str) -> set[str]:
    names = await owner.fetch(
        "SELECT c.relname FROM pg_class AS c WHERE c.relkind IN ('r', 'm')"
        " AND c.relnamespace = 'public'::regnamespace"
    )
    found = set()
    for row in names:
        name = row["relname"]
        query = f'SELECT EXISTS (SELECT FROM "{name}" AS t WHERE t::text ILIKE $1)'
        if await owner.fetchval(query, f"%{text}%"):
            found.add(name)
    return found


async def test_a_name_is_extracted_once(db: Database, talk: Conversation, user_id: UUID) -> None:
    await add(db, talk, "I met Anna Schmidt and Karl Marx.", "Anna Schmidt was early.")
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        talk = await service.get(conn, conversation_id=talk.id, user_id=user_id)
        state = await service.current_state(conn, conversation=talk)
    assert [(one.name, one.first_sequence) for one in state.entities] == [
        ("Anna Schmidt", 2), ("Karl Marx", 3),
    ]  # fmt: skip
    assert [(one.source, one.target) for one in state.relationships] == [
        ("anna schmidt", "karl marx")
    ]


async def test_an_event_the_database_numbered_is_found_by_sql(
    db: Database, talk: Conversation, user_id: UUID
) -> None:
    await add(db, talk, "Anna, are you there?", str(uuid4()))
    async with db.transaction(Role.APP, tenant=user_id) as conn:
        row = await conn.fetchrow("SELECT * FROM get_conversation_summary($1)", talk.id)
        events = await conn.fetch("SELECT * FROM get_conversation_events_for_replay($1)", talk.id)
    assert (row["message_count"], row["user_messages"], row["last_sequence"]) == (2, 2, 2)
    assert [event["sequence_number"] for event in events] == [1, 2]
