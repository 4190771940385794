"""Looking at a conversation as it was, and condensing it: what folds, stores and measures."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from helix.conversations import service
from helix.conversations.compress import Condensed, compress, condensable, facts_of
from helix.conversations.errors import BadPoint, NothingToCompress
from helix.conversations.fold import state_from, state_parts
from helix.conversations.store import QUERIES, append, compression_from, one
from helix.conversations.text import message_tokens
from helix.conversations.types import (
    Compression,
    CompressionType,
    ContextCompressed,
    Conversation,
    Message,
    NewEvent,
    Replay,
    ReplayType,
    SnapshotType,
    State,
)
from helix.core.clock import Clock, as_utc
from helix.core.db import Connection
from helix.core.ids import IdSource

__all__ = [
    "CACHE_AFTER_EVENTS",
    "WINDOW_MESSAGES",
    "CompressionPlan",
    "Written",
    "compressed_context",
    "condense",
    "point_of",
    "prepare_compression",
    "record_failure",
    "replay",
    "resolve_point",
    "store_compression",
]

TARGET_SHARE = 0.25
TARGET_TOKENS_MIN = 64
WINDOW_MESSAGES = 6
"""Most messages that stay word for word."""

CACHE_AFTER_EVENTS = 50
"""A state that took fewer events to fold than this is not worth a row in the cache."""

_INTEGER_MAX = 9_223_372_036_854_775_807


def point_of(given: str | None) -> int | datetime | None:
    """Return the point that `at` names: a sequence number, or a moment; None for the end.

    Raises BadPoint.
    """
    if given is None:
        return None
    if given.isascii() and given.isdigit():
        number = int(given[:20])
        if number > _INTEGER_MAX:
            raise BadPoint(given)
        return number
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None:
            raise BadPoint(given)
        return as_utc(moment)
    except ValueError as exc:
        raise BadPoint(given) from exc


async def resolve_point(
    conn: Connection, *, conversation: Conversation, point: int | datetime | None
) -> int:
    """Return the number of the last event at or before a point; 0 before the first."""
    if point is None:
        return conversation.last_sequence
    if isinstance(point, int):
        return min(point, conversation.last_sequence)
    row = await QUERIES.row(conn, "sequence_at", conversation_id=conversation.id, moment=point)
    return 0 if row is None else min(row["sequence_number"], conversation.last_sequence)


async def replay(
    conn: Connection,
    *,
    conversation: Conversation,
    kind: ReplayType,
    ids: IdSource,
    clock: Clock,
    point: int | datetime | None = None,
    cache_ttl_s: int = 0,
) -> Replay:
    """Fold a conversation and record how that went.

    What the four kinds do stands with ReplayType. With `cache_ttl_s` the state at the end is kept
    that long, and a replay may start from it; full never does. Raises BrokenHistory.
    """
    began_s = time.perf_counter()
    goal = await resolve_point(conn, conversation=conversation, point=point)
    base, snapshot_id, cached = State(), None, False
    if kind is not ReplayType.FULL:
        base, snapshot_id = await service.nearest_state(
            conn, conversation=conversation, to_sequence=goal
        )
        if cache_ttl_s:
            kept = await _cached_state(conn, conversation=conversation, to_sequence=goal)
            if kept is not None and kept.sequence > base.sequence:
                base, snapshot_id, cached = kept, None, True
    state, folded = await service.state_at(
        conn, conversation=conversation, to_sequence=goal, base=base
    )
    context = None
    if kind is ReplayType.COMPRESSED:
        context = await compressed_context(conn, conversation=conversation, state=state)
    at_end = state.sequence == conversation.last_sequence
    if cache_ttl_s and at_end and folded >= CACHE_AFTER_EVENTS:
        await _keep_state(conn, conversation=conversation, state=state, ttl_s=cache_ttl_s)
    result = Replay(
        id=ids.next(clock.now()),
        replay_type=kind,
        state=state,
        events_replayed=folded,
        messages_replayed=len(state.messages),
        replay_duration_ms=round((time.perf_counter() - began_s) * 1_000),
        snapshot_id=snapshot_id,
        cache_hit=cached,
        compression_applied=context is not None,
        context=context,
    )
    await QUERIES.run(
        conn,
        "insert_replay",
        id=result.id,
        conversation_id=conversation.id,
        user_id=conversation.user_id,
        session_id=conversation.session_id,
        replay_type=kind.value,
        snapshot_id=snapshot_id,
        to_sequence=None if point is None else goal,
        events_replayed=folded,
        messages_replayed=len(state.messages),
        replay_duration_ms=result.replay_duration_ms,
        cache_hit=cached,
        compression_applied=result.compression_applied,
        error_message=None,
    )
    return result


async def record_failure(
    conn: Connection,
    *,
    conversation: Conversation,
    kind: ReplayType,
    error: str,
    duration_ms: int,
    ids: IdSource,
    clock: Clock,
) -> None:
    """Record that a replay failed."""
    await QUERIES.run(
        conn,
        "insert_replay",
        id=ids.next(clock.now()),
        conversation_id=conversation.id,
        user_id=conversation.user_id,
        session_id=conversation.session_id,
        replay_type=kind.value,
        snapshot_id=None,
        to_sequence=None,
        events_replayed=0,
        messages_replayed=0,
        replay_duration_ms=duration_ms,
        cache_hit=False,
        compression_applied=False,
        error_message=error[:2_000],
    )


async def compressed_context(
    conn: Connection, *, conversation: Conversation, state: State
) -> tuple[Mapping[str, Any], ...] | None:
    """Return the condensed context at a state: summary, kept messages, and what was said since.

    System prompts come first, as they stand. None when nothing had been compressed by then.
    """
    if state.summary is None:
        return None
    row = await QUERIES.row(
        conn,
        "compression_by_id",
        id=UUID(state.summary.compression_id),
        conversation_id=conversation.id,
    )
    if row is None or row["context_snapshot"] is None:
        return None
    held = await one(
        conn,
        "snapshot_by_id",
        id=row["context_snapshot"],
        conversation_id=conversation.id,
    )
    until = state.summary.to_sequence
    talked = {message.message_id for message in condensable(state.messages)}
    prompts = [m.body for m in state.messages if m.message_id not in talked]
    said = {message.message_id: message.body for message in state.messages}
    kept = [
        said.get(entry["message_id"], entry["message"])
        for entry in held["messages"]
        if entry["message_id"] is None or entry["message_id"] in said
    ]
    since = [m.body for m in condensable(state.messages) if m.sequence > until]
    return (*prompts, *kept, *since)


async def _cached_state(
    conn: Connection, *, conversation: Conversation, to_sequence: int
) -> State | None:
    row = await QUERIES.row(
        conn, "read_cache", conversation_id=conversation.id, to_sequence=to_sequence
    )
    if row is None:
        return None
    held = row["cached_context"]
    return state_from(held["messages"], held["entities"], held["context"])


async def _keep_state(
    conn: Connection, *, conversation: Conversation, state: State, ttl_s: int
) -> None:
    messages, entities, context = state_parts(state)
    await QUERIES.run(
        conn,
        "write_cache",
        conversation_id=conversation.id,
        user_id=conversation.user_id,
        session_id=conversation.session_id,
        sequence_number=state.sequence,
        cached_context={"messages": messages, "entities": entities, "context": context},
        message_count=len(messages),
        entity_count=len(entities),
        ttl_s=ttl_s,
    )


# ---- compression: read (a transaction), condense (none), store (a transaction)


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """What is to be condensed, and how far."""

    conversation: Conversation
    messages: tuple[Message, ...]
    strategy: CompressionType
    target_tokens: int
    to_sequence: int


@dataclass(frozen=True, slots=True)
class Written:
    """A summary that a model wrote, and what it cost."""

    text: str
    model: str
    response_id: UUID | None = None


async def prepare_compression(
    conn: Connection,
    *,
    conversation_id: UUID,
    user_id: UUID | None,
    strategy: CompressionType,
    target_tokens: int | None = None,
) -> CompressionPlan:
    """Return what a compression works on: all messages at the end but system prompts.

    The originals are condensed each time, never a summary of a summary, so nothing fades.
    `target_tokens` defaults to a quarter of what there is. Raises NothingToCompress.
    """
    conversation = await service.get(conn, conversation_id=conversation_id, user_id=user_id)
    state = await service.current_state(conn, conversation=conversation)
    messages = tuple(condensable(state.messages))
    if not messages:
        raise NothingToCompress(conversation_id)
    tokens = sum(message.tokens for message in messages)
    target = target_tokens or max(int(tokens * TARGET_SHARE), TARGET_TOKENS_MIN)
    return CompressionPlan(conversation, messages, strategy, target, state.sequence)


async def condense(plan: CompressionPlan, *, written: Written | None = None) -> Condensed:
    """Condense, in a thread: a long conversation takes a second."""
    return await asyncio.to_thread(
        compress,
        plan.messages,
        strategy=plan.strategy,
        target_tokens=plan.target_tokens,
        window_messages=WINDOW_MESSAGES,
        written=None if written is None else written.text,
    )


async def store_compression(
    conn: Connection,
    *,
    plan: CompressionPlan,
    condensed: Condensed,
    duration_ms: int,
    ids: IdSource,
    clock: Clock,
    written: Written | None = None,
) -> Compression:
    """Store a condensed context, as a row, a snapshot of its own kind, and an event.

    The events it came from stay as they are. What was said meanwhile is not part of it.
    """
    conversation = await service.get(
        conn,
        conversation_id=plan.conversation.id,
        user_id=plan.conversation.user_id,
        lock=True,
    )
    now = clock.now()
    messages: list[dict[str, Any]] = []
    if condensed.summary:
        message = {"role": "user", "content": condensed.summary}
        messages.append({"message_id": None, "message": message, "tokens": message_tokens(message)})
    messages += [
        {"message_id": kept.message_id, "message": kept.body, "tokens": kept.tokens}
        for kept in condensed.kept
    ]
    entities, topics = facts_of(condensed)
    context = {
        "compression_type": plan.strategy.value,
        "to_sequence": plan.to_sequence,
        "target_tokens": plan.target_tokens,
        "topics": topics,
        "tainted": True,
    }
    compression_id = ids.next(now)
    snapshot = await QUERIES.row(
        conn,
        "insert_snapshot",
        id=ids.next(now),
        conversation_id=conversation.id,
        user_id=conversation.user_id,
        session_id=conversation.session_id,
        # The event's own number: unique, and at once the point from which the context is known.
        sequence_number=conversation.last_sequence + 1,
        snapshot_type=SnapshotType.COMPRESSION.value,
        messages=messages,
        entities=entities,
        context=context,
        message_count=len(messages),
        entity_count=len(entities),
        total_tokens=condensed.compressed_tokens,
        size_bytes=len(msgspec.json.encode([messages, entities, context])),
    )
    row = await one(
        conn,
        "insert_compression",
        id=compression_id,
        conversation_id=conversation.id,
        user_id=conversation.user_id,
        session_id=conversation.session_id,
        compression_type=plan.strategy.value,
        from_sequence=min(message.sequence for message in plan.messages),
        to_sequence=plan.to_sequence,
        original_message_count=condensed.original_messages,
        compressed_message_count=condensed.compressed_messages,
        original_tokens=condensed.original_tokens,
        compressed_tokens=condensed.compressed_tokens,
        quality_score=condensed.quality,
        summary_content=condensed.summary,
        preserved_entities=entities,
        key_topics=topics,
        llm_model=None if written is None else written.model,
        response_id=None if written is None else written.response_id,
        compression_duration_ms=duration_ms,
        context_snapshot=None if snapshot is None else snapshot["id"],
    )
    compression = compression_from(row)
    event = NewEvent(
        ContextCompressed(
            compression_id=str(compression_id),
            compression_type=plan.strategy,
            from_sequence=compression.from_sequence,
            to_sequence=compression.to_sequence,
            original_tokens=compression.original_tokens,
            compressed_tokens=compression.compressed_tokens,
        ),
        response_id=compression.response_id,
    )
    await append(conn, conversation, [event], ids=[ids.next(now)])
    return compression
