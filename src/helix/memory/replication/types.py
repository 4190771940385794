"""What nodes exchange and keep of each other: events, marks, peers, conflicts."""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from helix.core.errors import BadInput

__all__ = [
    "Account",
    "Batch",
    "Conflict",
    "Event",
    "Mark",
    "NodeStatus",
    "Peer",
    "Stamp",
    "Taken",
]

Stamp = tuple[int, str, str]
"""Orders writes on every node alike: hybrid logical clock, node, id of the event."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of a memory as it travels. What it does not change is None or empty.

    `removed` names, by kind of set, what the writer took away and had seen. `access_total` is the
    node's own count of uses, 0 where the event does not tell of any.
    """

    id: UUID
    event_type: str
    node_id: str
    memory_id: UUID
    user_id: UUID
    version: int
    vector_clock: dict[str, int]
    hlc: int
    timestamp: datetime
    content: str | None = None
    importance: str | None = None
    tags: list[Any] = []
    entities: list[Any] = []
    relationships: list[Any] = []
    removed: dict[str, list[str]] = {}
    metadata: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    access_delta: int = 0
    access_total: int = 0
    merged_from: list[str] = []
    redacted: bool = False

    @property
    def stamp(self) -> Stamp:
        """Where its writes stand among all others."""
        return (self.hlc, self.node_id, str(self.id))


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose memories are spoken of: the address tells accounts with other ids apart."""

    email: str
    name: str | None = None


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some events of a node's feed, and the mark after them.

    `more` says that further events wait; `lag_ms` is the age of the first event of this batch.
    """

    node_id: str
    mark: str
    events: list[Event] = []
    accounts: dict[str, Account] = {}
    more: bool = False
    lag_ms: int = 0


_MARK = re.compile(r"([0-9a-f.]{1,80})/(\d{1,19})/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the feed of one database: `feed` names it, the transaction and id the event."""

    feed: str
    xact: int
    event_id: UUID

    def __str__(self) -> str:
        return f"{self.feed}/{self.xact}/{self.event_id}"

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Read a mark that a node gives back; raises BadInput."""
        found = _MARK.fullmatch(text)
        if found is None:
            raise BadInput("after: not a mark of this feed", param="after")
        return cls(found[1], int(found[2]), UUID(found[3]))


class NodeStatus(StrEnum):
    """How a node is doing, as another sees it."""

    ACTIVE = "active"
    LAGGING = "lagging"
    INACTIVE = "inactive"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node to exchange memories with; `key` opens it."""

    id: UUID
    name: str
    url: str
    node_id: str | None
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of events that arrived: new, known before, refused; conflicts they brought."""

    applied: int = 0
    known: int = 0
    refused: int = 0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two changes that did not know of each other, and how that was settled."""

    id: UUID
    memory_id: UUID
    user_id: UUID
    conflict_type: str
    local_event_id: UUID
    remote_event_id: UUID
    node1_id: str
    node1_version: int
    node2_id: str
    node2_version: int
    resolution_strategy: str | None
    resolved_version: int | None
    resolved_by: str | None
    detected_at: datetime
    resolved_at: datetime | None
