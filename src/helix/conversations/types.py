"""What conversations are made of: events with typed payloads, and the state they fold to.

Pure data: no SQL, no HTTP, no clock. A conversation is the fold of its events (fold.py); every
event has one of eleven types, each with a payload of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias
from uuid import UUID

__all__ = [
    "Compression",
    "CompressionType",
    "ContextCompressed",
    "Conversation",
    "ConversationPaused",
    "ConversationResumed",
    "ConversationStatus",
    "Debate",
    "DebateCompleted",
    "DebateStarted",
    "Entity",
    "EntityExtracted",
    "Event",
    "EventType",
    "Message",
    "MessageAdded",
    "MessageDeleted",
    "MessageRole",
    "MessageUpdated",
    "NewEvent",
    "Payload",
    "Relationship",
    "RelationshipCreated",
    "Replay",
    "ReplayType",
    "Snapshot",
    "SnapshotCreated",
    "SnapshotType",
    "State",
    "Summary",
]


class EventType(StrEnum):
    """What can happen in a conversation; the CHECK of conversation_events.event_type."""

    MESSAGE_ADDED = "message.added"
    MESSAGE_UPDATED = "message.updated"
    MESSAGE_DELETED = "message.deleted"
    ENTITY_EXTRACTED = "entity.extracted"
    RELATIONSHIP_CREATED = "relationship.created"
    DEBATE_STARTED = "debate.started"
    DEBATE_COMPLETED = "debate.completed"
    CONTEXT_COMPRESSED = "context.compressed"
    SNAPSHOT_CREATED = "snapshot.created"
    CONVERSATION_PAUSED = "conversation.paused"
    CONVERSATION_RESUMED = "conversation.resumed"


class ConversationStatus(StrEnum):
    """Whether a conversation takes new messages: only an active one does."""

    ACTIVE = "active"
    PAUSED = "paused"
    CLOSED = "closed"


class MessageRole(StrEnum):
    """Who speaks, in the words of the chat completions API."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    FUNCTION = "function"


class CompressionType(StrEnum):
    """How a context is condensed (docs/conversations.md says what each keeps)."""

    WINDOW_SUMMARY = "window_summary"
    ENTITY_GRAPH = "entity_graph"
    FULL = "full"
    HYBRID = "hybrid"


class SnapshotType(StrEnum):
    """Why a snapshot was taken. One of a compression holds a condensed context, not a state."""

    PERIODIC = "periodic"
    ON_DEMAND = "on_demand"
    COMPRESSION = "compression"
    CHECKPOINT = "checkpoint"


class ReplayType(StrEnum):
    """From where a replay starts, and to what.

    full: from the first event. partial: to a given point, from the nearest snapshot before it.
    snapshot: to the end, from the newest snapshot. compressed: the newest condensed context, with
    what was said since.
    """

    FULL = "full"
    PARTIAL = "partial"
    COMPRESSED = "compressed"
    SNAPSHOT = "snapshot"


# ---- payloads, one for each type


@dataclass(frozen=True, slots=True)
class MessageAdded:
    """A message came in. `rest` is all of it but the role: content, name, tool_calls, …"""

    role: MessageRole
    rest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    """A message was changed. `changes` are all keys that now differ from how it was added."""

    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """A message no longer counts; its text stays in the history until the conversation goes."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class EntityExtracted:
    """A thing was named. `key` is its name folded to compare by; `confidence` is 0 to 1."""

    key: str
    name: str
    entity_type: str
    confidence: float = 1.0
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class RelationshipCreated:
    """Two things belong together; `source` and `target` are keys of entities."""

    source: str
    target: str
    relation_type: str
    confidence: float = 1.0
    message_id: str | None = None


@dataclass(frozen=True, slots=True)
class DebateStarted:
    """A debate of models began within this conversation."""

    debate_id: str
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class DebateCompleted:
    """A debate of models ended."""

    debate_id: str
    outcome: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class ContextCompressed:
    """The context up to `to_sequence` was condensed; the events themselves stay."""

    compression_id: str
    compression_type: CompressionType
    from_sequence: int
    to_sequence: int
    original_tokens: int
    compressed_tokens: int


@dataclass(frozen=True, slots=True)
class SnapshotCreated:
    """The state after event `at_sequence` was stored."""

    snapshot_id: str
    snapshot_type: SnapshotType
    at_sequence: int


@dataclass(frozen=True, slots=True)
class ConversationPaused:
    """The conversation takes no new messages for now."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ConversationResumed:
    """The conversation takes messages again."""

    reason: str | None = None


Payload: TypeAlias = (
    MessageAdded
    | MessageUpdated
    | MessageDeleted
    | EntityExtracted
    | RelationshipCreated
    | DebateStarted
    | DebateCompleted
    | ContextCompressed
    | SnapshotCreated
    | ConversationPaused
    | ConversationResumed
)


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append. `message_id` is required for the three message types.

    `tokens` is the estimate for a message's text as it then stands, 0 for events without text.
    """

    payload: Payload
    message_id: str | None = None
    tokens: int = 0
    response_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it was numbered: 1, 2, 3 … without gaps, and time never goes back."""

    conversation_id: UUID
    sequence: int
    timestamp: datetime
    payload: Payload
    message_id: str | None = None
    tokens: int = 0
    response_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    id: UUID | None = None


# ---- the state events fold to


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it stands. `added` is how it came in, `changes` what was changed since."""

    message_id: str
    sequence: int
    role: MessageRole
    added: Mapping[str, Any]
    changes: Mapping[str, Any]
    tokens: int
    created_at: datetime
    updated_at: datetime | None = None
    response_id: UUID | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The message in the form of the chat completions API."""
        return {"role": self.role.value, **self.added, **self.changes}


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing that was named, how often, and when first."""

    key: str
    name: str
    entity_type: str
    mentions: int
    first_sequence: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Relationship:
    """Two things that belong together, and how often that was found."""

    source: str
    target: str
    relation_type: str
    mentions: int
    first_sequence: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Debate:
    """A debate of models within the conversation."""

    debate_id: str
    topic: str | None
    completed: bool
    outcome: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The newest compression, as its event told of it."""

    compression_id: str
    compression_type: CompressionType
    from_sequence: int
    to_sequence: int
    original_tokens: int
    compressed_tokens: int


@dataclass(frozen=True, slots=True)
class State:
    """A conversation after event `sequence`. Messages stand in the order they were added."""

    sequence: int = 0
    status: ConversationStatus = ConversationStatus.ACTIVE
    messages: tuple[Message, ...] = ()
    entities: tuple[Entity, ...] = ()
    relationships: tuple[Relationship, ...] = ()
    debates: tuple[Debate, ...] = ()
    summary: Summary | None = None
    snapshot_sequence: int = 0
    last_event_at: datetime | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all messages, by the estimate made when each was written."""
        return sum(message.tokens for message in self.messages)


# ---- records


@dataclass(frozen=True, slots=True)
class Conversation:
    """The head of a conversation. `external_id` is the name its client knows it by."""

    id: UUID
    user_id: UUID
    session_id: UUID | None
    project_id: UUID | None
    external_id: str | None
    title: str | None
    status: ConversationStatus
    last_sequence: int
    last_event_at: datetime | None
    metadata: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored state, without the state itself."""

    id: UUID
    conversation_id: UUID
    sequence_number: int
    snapshot_type: SnapshotType
    message_count: int
    entity_count: int
    total_tokens: int
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Compression:
    """A compression: what went in, what came out, what was kept."""

    id: UUID
    conversation_id: UUID
    compression_type: CompressionType
    from_sequence: int
    to_sequence: int
    original_message_count: int
    compressed_message_count: int
    original_tokens: int
    compressed_tokens: int
    compression_ratio: float | None
    quality_score: float | None
    summary_content: str | None
    preserved_entities: tuple[Any, ...]
    key_topics: tuple[Any, ...]
    llm_model: str | None
    response_id: UUID | None
    compression_duration_ms: int
    context_snapshot: UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay and how it went; `context` is set for a compressed one."""

    id: UUID
    replay_type: ReplayType
    state: State
    events_replayed: int
    messages_replayed: int
    replay_duration_ms: int
    snapshot_id: UUID | None
    cache_hit: bool
    compression_applied: bool
    context: tuple[Mapping[str, Any], ...] | None = None
