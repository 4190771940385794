"""The fold of events: what each type does, and that any snapshot is only a shortcut."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix.conversations.errors import BrokenHistory, EventRefused
from helix.conversations.fold import decode, encode, event_type, fold, state_from, state_parts
from helix.conversations.types import (
    CompressionType,
    ContextCompressed,
    ConversationPaused,
    ConversationResumed,
    DebateCompleted,
    DebateStarted,
    EntityExtracted,
    Event,
    EventType,
    MessageAdded,
    MessageDeleted,
    MessageRole,
    MessageUpdated,
    RelationshipCreated,
    SnapshotCreated,
    SnapshotType,
    State,
)
from tests.conversations.support import added, numbered

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
WORD = st.sampled_from(["anna", "berlin", "acme", "router-7"])


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Any history that Helix could have written: changes are only of messages that stand."""
    standing: list[str] = []
    made: list[tuple[Any, str | None, int]] = []
    for number in range(draw(st.integers(0, 40))):
        kind = draw(st.sampled_from(list(EventType)))
        about_message = kind in {EventType.MESSAGE_UPDATED, EventType.MESSAGE_DELETED}
        if kind is EventType.MESSAGE_ADDED or (about_message and not standing):
            role = draw(st.sampled_from(list(MessageRole)))
            rest: dict[str, Any] = {"content": draw(TEXT | st.none())}
            if draw(st.booleans()):
                rest["name"] = draw(TEXT)
            standing.append(f"m{number}")
            made.append((MessageAdded(role, rest), f"m{number}", draw(st.integers(0, 99))))
        elif kind is EventType.MESSAGE_UPDATED:
            changes = {"content": draw(TEXT)}
            chosen = draw(st.sampled_from(standing))
            made.append((MessageUpdated(changes), chosen, draw(st.integers(0, 99))))
        elif kind is EventType.MESSAGE_DELETED:
            chosen = draw(st.sampled_from(standing))
            standing.remove(chosen)
            made.append((MessageDeleted(draw(TEXT | st.none())), chosen, 0))
        else:
            made.append((draw(_OTHER[kind]), None, 0))
    return numbered(*made)


_OTHER: dict[EventType, st.SearchStrategy[Any]] = {
    EventType.ENTITY_EXTRACTED: st.builds(
        EntityExtracted, WORD, WORD, st.just("name"), st.floats(0, 1), st.none()
    ),
    EventType.RELATIONSHIP_CREATED: st.builds(
        RelationshipCreated, WORD, WORD, st.just("knows"), st.floats(0, 1), st.none()
    ),
    EventType.DEBATE_STARTED: st.builds(DebateStarted, WORD, TEXT | st.none()),
    EventType.DEBATE_COMPLETED: st.builds(DebateCompleted, WORD, TEXT | st.none(), st.floats(0, 1)),
    EventType.CONTEXT_COMPRESSED: st.builds(
        ContextCompressed, WORD, st.sampled_from(CompressionType), *[st.integers(0, 99)] * 4
    ),
    EventType.SNAPSHOT_CREATED: st.builds(
        SnapshotCreated, WORD, st.sampled_from(SnapshotType), st.integers(0, 99)
    ),
    EventType.CONVERSATION_PAUSED: st.builds(ConversationPaused, TEXT | st.none()),
    EventType.CONVERSATION_RESUMED: st.builds(ConversationResumed, TEXT | st.none()),
}


@settings(max_examples=300, deadline=None)
@given(events=histories(), data=st.data())
def test_replay_from_any_snapshot_is_replay_from_zero(events: list[Event], data: Any) -> None:
    at = data.draw(st.integers(0, len(events)), label="at")
    taken = data.draw(st.integers(0, at), label="snapshot")
    snapshot = fold(State(), events[:taken])
    stored = json.loads(msgspec.json.encode(state_parts(snapshot)))
    again = fold(state_from(*stored), events[taken:at])
    assert again == fold(State(), events[:at])
    assert again.sequence == at


@settings(max_examples=200, deadline=None)
@given(events=histories())
def test_every_payload_survives_being_stored(events: list[Event]) -> None:
    for event in events:
        stored = json.loads(msgspec.json.encode(encode(event.payload)))
        assert decode(event_type(event.payload).value, stored) == event.payload


def test_there_are_eleven_types() -> None:
    assert len(EventType) == 11


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("message.shouted", {}, "is no type of event"),
        ("message.added", {"role": "king", "content": "x"}, "role must be one of"),
        ("message.added", {"role": "user", "content": 7}, "content must be"),
        ("message.added", {"role": "user", "content": "x", "tool_calls": {}}, "tool_calls"),
        ("message.updated", {"role": "user"}, "does not change its role"),
        ("entity.extracted", {"key": "a", "name": "A"}, "entity_type"),
        ("entity.extracted", {"key": "a", "name": "A", "entity_type": "x", "z": 1}, "no field 'z'"),
        ("debate.completed", {"debate_id": "d", "confidence": 1.5}, "confidence must be 0 to 1"),
        ("context.compressed", {"compression_id": "c"}, "compression_type"),
    ],
)
def test_what_is_no_event_is_refused(name: str, data: dict[str, Any], reason: str) -> None:
    with pytest.raises(EventRefused, match=reason):
        decode(name, data)


def test_an_update_says_all_that_differs_from_how_it_was_added() -> None:
    events = numbered(
        (MessageAdded(MessageRole.USER, {"content": "a", "name": "ann"}), "m", 5),
        (MessageUpdated({"content": "b", "name": "bob"}), "m", 6),
        (MessageUpdated({"content": "c"}), "m", 7),
    )
    message = fold(State(), events).messages[0]
    assert message.body == {"role": "user", "content": "c", "name": "ann"}
    assert (message.tokens, message.updated_at) == (7, events[2].timestamp)


def test_a_deleted_message_is_gone_and_its_place_stays_empty() -> None:
    events = numbered(
        (added("user", "one"), "m1", 3), (added("assistant", "two"), "m2", 4),
        (MessageDeleted("typo"), "m1", 0),
    )  # fmt: skip
    state = fold(State(), events)
    assert [message.message_id for message in state.messages] == ["m2"]
    assert (state.sequence, state.tokens) == (3, 4)


def test_mentions_are_counted() -> None:
    seen = EntityExtracted("anna", "Anna", "name", 0.5)
    again = EntityExtracted("anna", "ANNA", "name", 0.9)
    state = fold(State(), numbered((seen, None, 0), (again, None, 0)))
    entity = state.entities[0]
    assert (entity.name, entity.mentions, entity.first_sequence, entity.confidence) == (
        "Anna", 2, 1, 0.9,
    )  # fmt: skip


@pytest.mark.parametrize(
    "events",
    [
        numbered((added("user", "a"), "m", 1), (added("user", "b"), "m", 1)),
        numbered((MessageUpdated({"content": "b"}), "m", 1)),
        numbered((MessageDeleted(), "m", 0)),
        numbered((added("user", "a"), "m", 1), (added("user", "b"), "n", 1))[1:],
    ],
)
def test_a_history_that_contradicts_itself_is_not_folded(events: list[Event]) -> None:
    with pytest.raises(BrokenHistory):
        fold(State(), events)


def test_folding_leaves_the_state_it_began_from_alone() -> None:
    events = numbered((added("user", "a"), "m", 1), (MessageDeleted(), "m", 0))
    first = fold(State(), events[:1])
    fold(first, events[1:])
    assert [message.message_id for message in first.messages] == ["m"]
