"""What memory is made of: memories, what a search asks and finds, entities, relations, findings."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

__all__ = [
    "Added",
    "AuditReport",
    "Change",
    "Contradiction",
    "Entity",
    "Filters",
    "Forgotten",
    "Found",
    "Hit",
    "Memory",
    "MemoryId",
    "NearDuplicate",
    "NewMemory",
    "Patch",
    "Relation",
    "Scored",
    "Sources",
    "Step",
    "Use",
]

MemoryId = NewType("MemoryId", UUID)


@dataclass(frozen=True, slots=True)
class NewMemory:
    """Something to remember.

    `valid_from` is when it was said or became true; None: now, or `valid_to` where that is past.
    """

    content: str
    memory_type: str = "fact"
    speaker: str | None = None
    session_id: UUID | None = None
    conversation_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None
    source_response_id: UUID | None = None
    confidence: Decimal = Decimal("0.8")
    importance: Decimal = Decimal("0.5")
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as it is kept."""

    id: MemoryId
    user_id: UUID
    content: str
    memory_type: str
    speaker: str | None
    session_id: UUID | None
    conversation_id: UUID | None
    project_id: UUID | None
    agent_id: str | None
    source_response_id: UUID | None
    confidence: Decimal
    importance: Decimal
    access_count: int
    last_accessed: datetime | None
    valid_from: datetime
    valid_to: datetime | None
    merged_into: UUID | None
    tags: tuple[str, ...]
    entities: list[Any]
    relationships: list[Any]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Added:
    """What became of one memory of a batch: its id, and whether it was already there."""

    id: MemoryId
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of a memory; None leaves a field as it is. An end that is set stays set."""

    content: str | None = None
    memory_type: str | None = None
    speaker: str | None = None
    confidence: Decimal | None = None
    importance: Decimal | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    tags: tuple[str, ...] | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which memories a list or a search looks at; None means any.

    `at` keeps those that were true at that moment; without it a search keeps those still true.
    """

    session_id: UUID | None = None
    conversation_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None
    memory_type: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A memory found: its score, and what each signal added to it, largest first."""

    id: MemoryId
    score: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory found, whole."""

    memory: Memory
    score: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of a search.

    `vectors` says which vectors took part: the model's name, or why none did; `unembedded` how many
    of those looked at had none, and could be found by words alone. `kind` is the set of weights,
    `considered` how many memories were scored, `exact` whether that was all there are; `took_ms`
    is without the embedding of the question, which is `embedding_ms`.
    """

    hits: list[Hit]
    vectors: str
    kind: str
    considered: int
    unembedded: int
    exact: bool
    took_ms: float
    embedding_ms: float


@dataclass(frozen=True, slots=True)
class Sources:
    """What memories were drawn from: conversations and answers, by id."""

    conversation_ids: tuple[UUID, ...]
    response_ids: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased: memories, and conversations they were drawn from.

    `conversations_kept` are conversations they were drawn from which still have the words.
    """

    ids: tuple[MemoryId, ...]
    conversations_erased: tuple[UUID, ...] = ()
    conversations_kept: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """A memory that was put into a request, first come first."""

    memory_id: MemoryId
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Entity:
    """A person, place, date or thing that memories of a user speak of."""

    id: UUID
    name: str
    type: str
    aliases: tuple[str, ...]
    mention_count: int


@dataclass(frozen=True, slots=True)
class Relation:
    """`subject` `predicate` `object`, true from `valid_from` to `valid_to`, told by a memory."""

    subject: str
    predicate: str
    object: str
    memory_id: UUID | None
    strength: Decimal
    valid_from: datetime
    valid_to: datetime | None


@dataclass(frozen=True, slots=True)
class Step:
    """An entity reached from another: how far, and the relations on the way there."""

    entity: Entity
    depth: int
    path: tuple[str, ...]


class Change(StrEnum):
    """What an audit can do to a memory."""

    MERGED = "merged"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two memories that say the same in nearly the same words; `keep` is the one to keep."""

    keep: MemoryId
    drop: MemoryId
    similarity: float


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two memories that say different things of one property; `older` is the one to end."""

    older: MemoryId
    newer: MemoryId
    subject: str
    predicate: str
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found. `junk` is a score 0 to 1 by memory, those of a half and more."""

    looked_at: int
    complete: bool
    duplicates: list[NearDuplicate]
    contradictions: list[Contradiction]
    never_used: list[MemoryId]
    junk: list[tuple[MemoryId, float]]
    batch_id: UUID | None = None
    merged: int = 0
    ended: int = 0
