"""The fold: state = fold(state, events). Pure, total over the eleven types, order is the number's.

Folding from any stored state gives what folding from nothing gives; that is what makes a snapshot
a shortcut and nothing else.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from helix.conversations.errors import BrokenHistory, EventRefused
from helix.conversations.types import (
    ContextCompressed,
    ConversationPaused,
    ConversationResumed,
    ConversationStatus,
    Debate,
    DebateCompleted,
    DebateStarted,
    Entity,
    EntityExtracted,
    Event,
    EventType,
    Message,
    MessageAdded,
    MessageDeleted,
    MessageRole,
    MessageUpdated,
    Payload,
    Relationship,
    RelationshipCreated,
    SnapshotCreated,
    State,
    Summary,
)

__all__ = [
    "decode",
    "encode",
    "event_type",
    "fold",
    "message_added",
    "message_updated",
    "state_from",
    "state_parts",
]

_TYPES: dict[type[Any], EventType] = {
    MessageAdded: EventType.MESSAGE_ADDED,
    MessageUpdated: EventType.MESSAGE_UPDATED,
    MessageDeleted: EventType.MESSAGE_DELETED,
    EntityExtracted: EventType.ENTITY_EXTRACTED,
    RelationshipCreated: EventType.RELATIONSHIP_CREATED,
    DebateStarted: EventType.DEBATE_STARTED,
    DebateCompleted: EventType.DEBATE_COMPLETED,
    ContextCompressed: EventType.CONTEXT_COMPRESSED,
    SnapshotCreated: EventType.SNAPSHOT_CREATED,
    ConversationPaused: EventType.CONVERSATION_PAUSED,
    ConversationResumed: EventType.CONVERSATION_RESUMED,
}
_CLASSES: dict[EventType, type[Any]] = {event: made for made, event in _TYPES.items()}


def event_type(payload: Payload) -> EventType:
    """Return the type of event a payload belongs to."""
    return _TYPES[type(payload)]


def encode(payload: Payload) -> dict[str, Any]:
    """Return a payload as it is stored in event_data."""
    if isinstance(payload, MessageAdded):
        return {"role": payload.role.value, **payload.rest}
    if isinstance(payload, MessageUpdated):
        return dict(payload.changes)
    built = msgspec.to_builtins(payload)
    return {name: value for name, value in built.items() if value is not None}


def decode(name: str, data: Mapping[str, Any]) -> Payload:
    """Return the payload in event_data; raises EventRefused for what is no event.

    Unknown types, missing or unknown fields and wrong types of fields are refused.
    """
    try:
        event = EventType(name)
    except ValueError as exc:
        known = ", ".join(sorted(kind.value for kind in EventType))
        raise EventRefused(f"{name[:50]!r} is no type of event; there are {known}") from exc
    if event is EventType.MESSAGE_ADDED:
        return message_added(data)
    if event is EventType.MESSAGE_UPDATED:
        return message_updated(data)
    made = _CLASSES[event]
    if unknown := sorted(set(data) - set(made.__dataclass_fields__)):
        raise EventRefused(f"{name} has no field {unknown[0]!r}", param=unknown[0])
    try:
        payload: Payload = msgspec.convert(dict(data), made)
    except msgspec.ValidationError as exc:
        raise EventRefused(f"{name}: {exc}") from exc
    confidence = getattr(payload, "confidence", None)
    if confidence is not None and not (math.isfinite(confidence) and 0 <= confidence <= 1):
        raise EventRefused(f"{name}: confidence must be 0 to 1", param="confidence")
    return payload


def message_updated(data: Mapping[str, Any]) -> MessageUpdated:
    """Return the payload of message.updated; raises EventRefused."""
    if "role" in data:
        raise EventRefused("a message does not change its role", param="role")
    return MessageUpdated(dict(data))


def message_added(data: Mapping[str, Any]) -> MessageAdded:
    """Return the payload of message.added; raises EventRefused."""
    rest = dict(data)
    try:
        role = MessageRole(rest.pop("role", None))
    except ValueError as exc:
        known = ", ".join(role.value for role in MessageRole)
        raise EventRefused(f"role must be one of {known}", param="role") from exc
    content = rest.get("content")
    if content is not None and not isinstance(content, (str, list)):
        raise EventRefused("content must be a string or a list of parts", param="content")
    calls = rest.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise EventRefused("tool_calls must be a list", param="tool_calls")
    return MessageAdded(role, rest)


class _Draft:
    """A state under construction: what fold() changes in place, and nobody else sees."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.status = state.status
        self.messages = {message.message_id: message for message in state.messages}
        self.entities = {entity.key: entity for entity in state.entities}
        self.relationships = {
            (known.source, known.target, known.relation_type): known
            for known in state.relationships
        }
        self.debates = {debate.debate_id: debate for debate in state.debates}
        self.summary = state.summary
        self.snapshot_sequence = state.snapshot_sequence
        self.sequence = state.sequence
        self.last_event_at = state.last_event_at

    def done(self) -> State:
        return State(
            sequence=self.sequence,
            status=self.status,
            messages=tuple(self.messages.values()),
            entities=tuple(self.entities.values()),
            relationships=tuple(self.relationships.values()),
            debates=tuple(self.debates.values()),
            summary=self.summary,
            snapshot_sequence=self.snapshot_sequence,
            last_event_at=self.last_event_at,
        )

    def apply(self, event: Event) -> None:
        if event.sequence != self.sequence + 1:
            raise BrokenHistory(event.sequence, f"event {self.sequence + 1} comes next")
        _APPLY[type(event.payload)](self, event, event.payload)
        self.sequence = event.sequence
        self.last_event_at = event.timestamp

    def message(self, event: Event) -> Message:
        found = self.messages.get(event.message_id or "")
        if found is None:
            raise BrokenHistory(event.sequence, f"there is no message {event.message_id!r}")
        return found

    def added(self, event: Event, payload: MessageAdded) -> None:
        if event.message_id is None or event.message_id in self.messages:
            raise BrokenHistory(event.sequence, f"message {event.message_id!r} is there already")
        self.messages[event.message_id] = Message(
            message_id=event.message_id,
            sequence=event.sequence,
            role=payload.role,
            added=dict(payload.rest),
            changes={},
            tokens=event.tokens,
            created_at=event.timestamp,
            response_id=event.response_id,
        )

    def updated(self, event: Event, payload: MessageUpdated) -> None:
        found = self.message(event)
        self.messages[found.message_id] = replace(
            found, changes=dict(payload.changes), tokens=event.tokens, updated_at=event.timestamp
        )

    def deleted(self, event: Event, _: MessageDeleted) -> None:
        del self.messages[self.message(event).message_id]

    def extracted(self, event: Event, payload: EntityExtracted) -> None:
        known = self.entities.get(payload.key)
        self.entities[payload.key] = Entity(
            key=payload.key,
            name=known.name if known else payload.name,
            entity_type=known.entity_type if known else payload.entity_type,
            mentions=known.mentions + 1 if known else 1,
            first_sequence=known.first_sequence if known else event.sequence,
            confidence=max(known.confidence, payload.confidence) if known else payload.confidence,
        )

    def related(self, event: Event, payload: RelationshipCreated) -> None:
        key = (payload.source, payload.target, payload.relation_type)
        known = self.relationships.get(key)
        self.relationships[key] = Relationship(
            source=payload.source,
            target=payload.target,
            relation_type=payload.relation_type,
            mentions=known.mentions + 1 if known else 1,
            first_sequence=known.first_sequence if known else event.sequence,
            confidence=max(known.confidence, payload.confidence) if known else payload.confidence,
        )

    def debate_started(self, _: Event, payload: DebateStarted) -> None:
        self.debates[payload.debate_id] = Debate(payload.debate_id, payload.topic, completed=False)

    def debate_completed(self, _: Event, payload: DebateCompleted) -> None:
        known = self.debates.get(payload.debate_id)
        self.debates[payload.debate_id] = Debate(
            debate_id=payload.debate_id,
            topic=known.topic if known else None,
            completed=True,
            outcome=payload.outcome,
            confidence=payload.confidence,
        )

    def compressed(self, _: Event, payload: ContextCompressed) -> None:
        self.summary = Summary(
            compression_id=payload.compression_id,
            compression_type=payload.compression_type,
            from_sequence=payload.from_sequence,
            to_sequence=payload.to_sequence,
            original_tokens=payload.original_tokens,
            compressed_tokens=payload.compressed_tokens,
        )

    def snapshot(self, _: Event, payload: SnapshotCreated) -> None:
        self.snapshot_sequence = payload.at_sequence

    def paused(self, _: Event, __: ConversationPaused) -> None:
        self.status = ConversationStatus.PAUSED

    def resumed(self, _: Event, __: ConversationResumed) -> None:
        self.status = ConversationStatus.ACTIVE


_APPLY: dict[type[Any], Callable[[_Draft, Event, Any], None]] = {
    MessageAdded: _Draft.added,
    MessageUpdated: _Draft.updated,
    MessageDeleted: _Draft.deleted,
    EntityExtracted: _Draft.extracted,
    RelationshipCreated: _Draft.related,
    DebateStarted: _Draft.debate_started,
    DebateCompleted: _Draft.debate_completed,
    ContextCompressed: _Draft.compressed,
    SnapshotCreated: _Draft.snapshot,
    ConversationPaused: _Draft.paused,
    ConversationResumed: _Draft.resumed,
}


def fold(state: State, events: Iterable[Event]) -> State:
    """Return the state after `events`, which follow on `state` without a gap.

    `state` itself stays as it is. Raises BrokenHistory when a number is missing or repeated, a
    message is added twice, or one that is not there is changed.
    """
    draft = _Draft(state)
    for event in events:
        draft.apply(event)
    return draft.done()


def state_parts(state: State) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Return a state as the messages, entities and context of a snapshot's row."""
    built = msgspec.to_builtins(state)
    return built.pop("messages"), built.pop("entities"), built


def state_from(messages: list[Any], entities: list[Any], context: Mapping[str, Any]) -> State:
    """Return the state in a snapshot's row; the inverse of state_parts."""
    return msgspec.convert({**context, "messages": messages, "entities": entities}, State)
