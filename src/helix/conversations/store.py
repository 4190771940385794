"""Runs the statements of queries.sql; rows in, types out."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from helix.conversations.fold import decode, encode, event_type, state_from
from helix.conversations.types import (
    Compression,
    CompressionType,
    Conversation,
    ConversationStatus,
    EntityExtracted,
    Event,
    NewEvent,
    Snapshot,
    SnapshotType,
    State,
)
from helix.core.db import Connection, Queries

__all__ = [
    "NODE",
    "QUERIES",
    "append",
    "compression_from",
    "conversation_from",
    "event_from",
    "one",
    "snapshot_from",
    "stored_state",
]

QUERIES = Queries("helix.conversations")
NODE = "local"


async def one(conn: Connection, name: str, /, **values: object) -> Any:
    """Return the row of a statement that always has one."""
    row = await QUERIES.row(conn, name, **values)
    if row is None:
        raise RuntimeError(f"statement {name} returned no row")
    return row


def conversation_from(row: Any) -> Conversation:
    """Return the conversation that a row describes."""
    return Conversation(**{**dict(row), "status": ConversationStatus(row["status"])})


def event_from(row: Any) -> Event:
    """Return the event that a row describes; raises EventRefused for one of no known type."""
    return Event(
        conversation_id=row["conversation_id"],
        sequence=row["sequence_number"],
        timestamp=row["timestamp"],
        payload=decode(row["event_type"], row["event_data"]),
        message_id=row["message_id"],
        tokens=row["tokens"],
        response_id=row["response_id"],
        metadata=row["metadata"],
        id=row["id"],
    )


def snapshot_from(row: Any) -> Snapshot:
    """Return the snapshot that a row describes."""
    return Snapshot(**{**dict(row), "snapshot_type": SnapshotType(row["snapshot_type"])})


def stored_state(row: Any) -> State:
    """Return the state that a snapshot's row holds."""
    return state_from(row["messages"], row["entities"], row["context"])


def compression_from(row: Any) -> Compression:
    """Return the compression that a row describes."""
    values = dict(row)
    values["compression_type"] = CompressionType(values["compression_type"])
    for name in ("compression_ratio", "quality_score"):
        values[name] = None if values[name] is None else float(values[name])
    for name in ("preserved_entities", "key_topics"):
        values[name] = tuple(values[name])
    return Compression(**values)


async def append(
    conn: Connection,
    conversation: Conversation,
    events: Sequence[NewEvent],
    *,
    ids: Sequence[UUID],
) -> list[Event]:
    """Append events in order and return them as they were numbered. `ids` has one for each."""
    if not events:
        return []
    data = [encode(event.payload) for event in events]
    rows = await QUERIES.rows(
        conn,
        "append_events",
        conversation_id=conversation.id,
        session_id=conversation.session_id,
        user_id=conversation.user_id,
        node_id=NODE,
        ids=list(ids),
        event_types=[event_type(event.payload).value for event in events],
        event_data=[msgspec.json.encode(value).decode() for value in data],
        message_ids=[event.message_id for event in events],
        entity_counts=[int(isinstance(event.payload, EntityExtracted)) for event in events],
        tokens=[event.tokens for event in events],
        response_ids=[event.response_id for event in events],
        metadata=[msgspec.json.encode(event.metadata).decode() for event in events],
    )
    placed = {row["id"]: row for row in rows}
    return [
        Event(
            conversation_id=conversation.id,
            sequence=placed[identifier]["sequence_number"],
            timestamp=placed[identifier]["timestamp"],
            payload=event.payload,
            message_id=event.message_id,
            tokens=event.tokens,
            response_id=event.response_id,
            metadata=event.metadata,
            id=identifier,
        )
        for identifier, event in zip(ids, events, strict=True)
    ]
