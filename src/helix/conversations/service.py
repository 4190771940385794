"""The verbs of conversations: make, find, append, change, pause, snapshot, erase.

`user_id` is whose conversation it must be; None is the operator. Nothing here commits.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from helix.conversations.errors import (
    ConversationNotActive,
    ConversationNotFound,
    EventRefused,
    ExternalIdTaken,
    MessageExists,
    MessageNotFound,
    ProjectNotFound,
)
from helix.conversations.fold import (
    decode,
    encode,
    fold,
    message_added,
    message_updated,
    state_parts,
)
from helix.conversations.store import (
    QUERIES,
    append,
    compression_from,
    conversation_from,
    event_from,
    one,
    snapshot_from,
    stored_state,
)
from helix.conversations.text import digest_of, entities_in, message_tokens, storable, text_of
from helix.conversations.types import (
    Compression,
    Conversation,
    ConversationPaused,
    ConversationResumed,
    ConversationStatus,
    EntityExtracted,
    Event,
    MessageAdded,
    MessageDeleted,
    MessageUpdated,
    NewEvent,
    RelationshipCreated,
    Snapshot,
    SnapshotCreated,
    SnapshotType,
    State,
)
from helix.core.clock import Clock
from helix.core.db import Connection
from helix.core.ids import IdSource

__all__ = [
    "EVENTS_MAX",
    "PAGE_MAX",
    "SnapshotPolicy",
    "add_message",
    "append_events",
    "change",
    "change_message",
    "compressions_of",
    "create",
    "delete_message",
    "erase",
    "erase_behind",
    "erase_user_content",
    "events_of",
    "get",
    "growth_of",
    "list_conversations",
    "messages_of",
    "named_by",
    "pause",
    "replays_of",
    "resume",
    "snapshots_of",
    "state_at",
    "take_snapshot",
    "turns_of",
]

PAGE_MAX = 200
ERASED_AT_ONCE = 200
EVENTS_MAX = 100
"""Most events in one append."""

RELATIONS_MAX = 10
_READ_AT_ONCE = 2_000
_NAMED = frozenset({"name", "email", "url", "code"})


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """When a snapshot is due: after so many events or bytes, and a tenth more than there is.

    The tenth spaces the snapshots of a long conversation out, so that all of them together stay
    within some ten times the size of the newest, however long it grows.
    """

    events: int = 100
    size_bytes: int = 262_144

    def due(self, *, sequence: int, events: int, size_bytes: int, last_bytes: int) -> bool:
        """Say whether a snapshot is due `events` and `size_bytes` after the newest one."""
        return events >= max(self.events, sequence // 10) or size_bytes >= max(
            self.size_bytes, last_bytes // 10
        )


async def create(
    conn: Connection,
    *,
    user_id: UUID,
    external_id: str | None = None,
    title: str | None = None,
    project_id: UUID | None = None,
    session_id: UUID | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Conversation:
    """Make an empty conversation; raises ExternalIdTaken, ProjectNotFound."""
    try:
        row = await QUERIES.row(
            conn,
            "create_conversation",
            user_id=user_id,
            project_id=project_id,
            external_id=external_id,
            title=title,
            metadata=dict(metadata or {}),
            session_id=session_id,
        )
    except (asyncpg.ForeignKeyViolationError, asyncpg.InsufficientPrivilegeError) as exc:
        raise ProjectNotFound from exc
    if row is None:
        raise ExternalIdTaken(external_id or "")
    return conversation_from(row)


async def get(
    conn: Connection, *, conversation_id: UUID, user_id: UUID | None, lock: bool = False
) -> Conversation:
    """Return a conversation, with `lock` after waiting for its other writers.

    Raises ConversationNotFound for one that is not there or is another's.
    """
    name = "lock_conversation" if lock else "conversation_by_id"
    row = await QUERIES.row(conn, name, id=conversation_id, user_id=user_id)
    if row is None:
        raise ConversationNotFound(conversation_id)
    return conversation_from(row)


async def list_conversations(
    conn: Connection,
    *,
    user_id: UUID | None,
    status: ConversationStatus | None = None,
    project_id: UUID | None = None,
    before: UUID | None = None,
    max_count: int = 50,
) -> list[Conversation]:
    """Return a page of conversations, newest first."""
    rows = await QUERIES.rows(
        conn,
        "list_conversations",
        user_id=user_id,
        status=None if status is None else status.value,
        project_id=project_id,
        before=before,
        max_count=min(max_count, PAGE_MAX),
    )
    return [conversation_from(row) for row in rows]


async def change(
    conn: Connection,
    *,
    conversation_id: UUID,
    user_id: UUID | None,
    title: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    closed: bool | None = None,
) -> Conversation:
    """Change what is said about a conversation, or close or reopen it; None leaves as it is."""
    status = None
    if closed is not None:
        status = (ConversationStatus.CLOSED if closed else ConversationStatus.ACTIVE).value
    row = await QUERIES.row(
        conn,
        "change_conversation",
        id=conversation_id,
        user_id=user_id,
        title=title,
        metadata=None if metadata is None else dict(metadata),
        status=status,
    )
    if row is None:
        raise ConversationNotFound(conversation_id)
    return conversation_from(row)


# ---- reading


async def events_of(
    conn: Connection,
    *,
    conversation: Conversation,
    from_sequence: int = 1,
    to_sequence: int | None = None,
    max_count: int = PAGE_MAX,
) -> list[Event]:
    """Return events in order, both ends included, at most `max_count`."""
    rows = await QUERIES.rows(
        conn,
        "events_between",
        conversation_id=conversation.id,
        from_sequence=from_sequence,
        to_sequence=to_sequence,
        max_count=max_count,
    )
    return [event_from(row) for row in rows]


async def state_at(
    conn: Connection,
    *,
    conversation: Conversation,
    to_sequence: int,
    base: State | None = None,
) -> tuple[State, int]:
    """Return the state after event `to_sequence`, folded on `base`, and how many events it took.

    Events are read in batches, so that a long history does not lie in memory twice.
    """
    state, folded = base or State(), 0
    while state.sequence < to_sequence:
        events = await events_of(
            conn,
            conversation=conversation,
            from_sequence=state.sequence + 1,
            to_sequence=to_sequence,
            max_count=_READ_AT_ONCE,
        )
        if not events:
            break
        state = fold(state, events)
        folded += len(events)
    return state, folded


async def nearest_state(
    conn: Connection, *, conversation: Conversation, to_sequence: int
) -> tuple[State, UUID | None]:
    """Return the newest stored state at or before a point with its snapshot's id, else none."""
    row = await QUERIES.row(
        conn, "nearest_snapshot", conversation_id=conversation.id, to_sequence=to_sequence
    )
    if row is None:
        return State(), None
    return stored_state(row), row["id"]


async def current_state(conn: Connection, *, conversation: Conversation) -> State:
    """Return the state at the end, from the newest snapshot on."""
    base, _ = await nearest_state(
        conn, conversation=conversation, to_sequence=conversation.last_sequence
    )
    state, _ = await state_at(
        conn, conversation=conversation, to_sequence=conversation.last_sequence, base=base
    )
    return state


async def messages_of(
    conn: Connection, *, conversation: Conversation, after: int = 0, max_count: int = PAGE_MAX
) -> list[dict[str, Any]]:
    """Return messages as they stand now, oldest first, after event `after`."""
    rows = await QUERIES.rows(
        conn,
        "messages_page",
        conversation_id=conversation.id,
        after=after,
        max_count=min(max_count, PAGE_MAX),
    )
    return [dict(row) for row in rows]


async def turns_of(
    conn: Connection,
    *,
    conversation: Conversation,
    before: UUID | None = None,
    max_count: int = PAGE_MAX,
) -> list[dict[str, Any]]:
    """Return the calls made within a conversation, newest first, with what was put before each."""
    rows = await QUERIES.rows(
        conn,
        "turns_of",
        conversation_id=conversation.id,
        before=before,
        max_count=min(max_count, PAGE_MAX),
    )
    return [dict(row) for row in rows]


async def snapshots_of(conn: Connection, *, conversation: Conversation) -> list[Snapshot]:
    """Return the newest snapshots, newest first, without their states."""
    rows = await QUERIES.rows(
        conn, "list_snapshots", conversation_id=conversation.id, max_count=PAGE_MAX
    )
    return [snapshot_from(row) for row in rows]


async def compressions_of(
    conn: Connection,
    *,
    conversation: Conversation,
    to_sequence: int | None = None,
    max_count: int = PAGE_MAX,
) -> list[Compression]:
    """Return the newest compressions, of events up to `to_sequence`, newest first."""
    rows = await QUERIES.rows(
        conn,
        "list_compressions",
        conversation_id=conversation.id,
        to_sequence=to_sequence,
        max_count=max_count,
    )
    return [compression_from(row) for row in rows]


async def replays_of(conn: Connection, *, conversation: Conversation) -> list[dict[str, Any]]:
    """Return the statistics of the newest replays, newest first."""
    rows = await QUERIES.rows(
        conn, "list_replays", conversation_id=conversation.id, max_count=PAGE_MAX
    )
    return [dict(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Growth:
    """How much came since the newest snapshot, and tokens since the newest compression."""

    events: int
    size_bytes: int
    last_bytes: int
    tokens: int


async def growth_of(conn: Connection, *, conversation: Conversation) -> Growth:
    """Measure how much came since the newest snapshot and compression."""
    row = await one(conn, "growth", conversation_id=conversation.id)
    return Growth(row["events"], row["bytes"], row["snapshot_bytes"], row["tokens"])


# ---- writing


async def append_events(
    conn: Connection,
    *,
    conversation_id: UUID,
    user_id: UUID | None,
    events: Sequence[tuple[str, Mapping[str, Any], str | None]],
    ids: IdSource,
    clock: Clock,
) -> list[Event]:
    """Append events that a client tells of: (type, data, message id), in one transaction.

    Raises EventRefused for an unknown type or a payload that does not fit, MessageExists,
    MessageNotFound, or ConversationNotActive for new messages to a paused conversation.
    """
    decoded = [(decode(name, data), message_id) for name, data, message_id in events]
    conversation = await get(conn, conversation_id=conversation_id, user_id=user_id, lock=True)
    told: list[Event] = []
    for payload, message_id in decoded:
        if isinstance(payload, MessageAdded):
            told += await add_message(
                conn,
                conversation=conversation,
                body={"role": payload.role.value, **payload.rest},
                message_id=message_id,
                ids=ids,
                clock=clock,
            )
        elif isinstance(payload, MessageUpdated):
            told.append(
                await change_message(
                    conn,
                    conversation=conversation,
                    message_id=message_id or "",
                    changes=payload.changes,
                    ids=ids,
                    clock=clock,
                )
            )
        elif isinstance(payload, MessageDeleted):
            told.append(
                await delete_message(
                    conn,
                    conversation=conversation,
                    message_id=message_id or "",
                    reason=payload.reason,
                    ids=ids,
                    clock=clock,
                )
            )
        else:
            made = NewEvent(payload, message_id)
            told += await append(conn, conversation, [made], ids=_ids(1, ids, clock))
    return told


async def add_message(
    conn: Connection,
    *,
    conversation: Conversation,
    body: Mapping[str, Any],
    ids: IdSource,
    clock: Clock,
    message_id: str | None = None,
) -> list[Event]:
    """Add a message, and what it names for the first time. The conversation is locked.

    With a `message_id` of the client's own a repetition is harmless: it returns the event that
    is there. Raises MessageExists when that one says something else, ConversationNotActive.
    """
    if conversation.status is not ConversationStatus.ACTIVE:
        raise ConversationNotActive(conversation.id, conversation.status.value)
    payload = message_added(storable(body))
    if not payload.rest.get("content") and not payload.rest.get("tool_calls"):
        raise EventRefused("a message needs content", param="content")
    digest = digest_of(body)
    if message_id is not None:
        there = await _history(conn, conversation=conversation, message_id=message_id)
        if there:
            if there[0].metadata.get("digest") != digest:
                raise MessageExists(message_id)
            return [there[0]]
    named = message_id or str(ids.next(clock.now()))
    added = NewEvent(payload, named, message_tokens(body), metadata={"digest": digest})
    events = [added, *await named_by(conn, conversation=conversation, messages=[(named, body)])]
    return await append(conn, conversation, events, ids=_ids(len(events), ids, clock))


async def change_message(
    conn: Connection,
    *,
    conversation: Conversation,
    message_id: str,
    changes: Mapping[str, Any],
    ids: IdSource,
    clock: Clock,
) -> Event:
    """Change fields of a message (not its role). The conversation is locked.

    What is stored are all fields that now differ from how it was added. Raises MessageNotFound.
    """
    if conversation.status is not ConversationStatus.ACTIVE:
        raise ConversationNotActive(conversation.id, conversation.status.value)
    history = await _standing(conn, conversation=conversation, message_id=message_id)
    last = history[-1].payload
    before = dict(last.changes) if isinstance(last, MessageUpdated) else {}
    payload = message_updated({**before, **storable(changes)})
    body = {**encode(history[0].payload), **payload.changes}
    message_added(body)
    event = NewEvent(
        payload, message_id, message_tokens(body), metadata={"digest": digest_of(body)}
    )
    return (await append(conn, conversation, [event], ids=_ids(1, ids, clock)))[0]


async def delete_message(
    conn: Connection,
    *,
    conversation: Conversation,
    message_id: str,
    ids: IdSource,
    clock: Clock,
    reason: str | None = None,
) -> Event:
    """Take a message out of the conversation. The conversation is locked. Raises MessageNotFound.

    Its text stays in the history: erase() is what forgets.
    """
    await _standing(conn, conversation=conversation, message_id=message_id)
    event = NewEvent(MessageDeleted(reason), message_id)
    return (await append(conn, conversation, [event], ids=_ids(1, ids, clock)))[0]


async def named_by(
    conn: Connection,
    *,
    conversation: Conversation,
    messages: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[NewEvent]:
    """Return the events that tell what messages name for the first time in their conversation.

    Relationships are between names that stand in one message, the first of them with the others.
    """
    found = [
        (message_id, named)
        for message_id, body in messages
        if body.get("role") not in {"system", "developer"}
        for named in entities_in(text_of(body))
        if named.entity_type in _NAMED
    ]
    if not found:
        return []
    rows = await QUERIES.rows(
        conn,
        "known_entities",
        conversation_id=conversation.id,
        keys=[named.key for _, named in found],
    )
    known = {row["key"] for row in rows}
    events: list[NewEvent] = []
    leading: dict[str, str] = {}
    related: dict[str, int] = {}
    for message_id, named in found:
        fresh = named.key not in known
        if fresh:
            known.add(named.key)
            payload = EntityExtracted(named.key, named.name, named.entity_type, 0.6, message_id)
            events.append(NewEvent(payload, message_id))
        first = leading.setdefault(message_id, named.key)
        if fresh and first != named.key and related.get(message_id, 0) < RELATIONS_MAX:
            related[message_id] = related.get(message_id, 0) + 1
            pair = RelationshipCreated(first, named.key, "mentioned_with", 0.3, message_id)
            events.append(NewEvent(pair, message_id))
    return events


async def pause(
    conn: Connection,
    *,
    conversation_id: UUID,
    user_id: UUID | None,
    ids: IdSource,
    clock: Clock,
    reason: str | None = None,
) -> Conversation:
    """Take no new messages until resume(); harmless when it is paused already."""
    conversation = await get(conn, conversation_id=conversation_id, user_id=user_id, lock=True)
    if conversation.status is ConversationStatus.CLOSED:
        raise ConversationNotActive(conversation_id, conversation.status.value)
    if conversation.status is ConversationStatus.ACTIVE:
        event = NewEvent(ConversationPaused(reason))
        await append(conn, conversation, [event], ids=_ids(1, ids, clock))
    return await get(conn, conversation_id=conversation_id, user_id=user_id)


async def resume(
    conn: Connection,
    *,
    conversation_id: UUID,
    user_id: UUID | None,
    ids: IdSource,
    clock: Clock,
    reason: str | None = None,
) -> Conversation:
    """Take messages again, also after it was closed; harmless when it is active."""
    conversation = await get(conn, conversation_id=conversation_id, user_id=user_id, lock=True)
    if conversation.status is not ConversationStatus.ACTIVE:
        event = NewEvent(ConversationResumed(reason))
        await append(conn, conversation, [event], ids=_ids(1, ids, clock))
    return await get(conn, conversation_id=conversation_id, user_id=user_id)


async def take_snapshot(
    conn: Connection,
    *,
    conversation_id: UUID,
    user_id: UUID | None,
    kind: SnapshotType,
    ids: IdSource,
    clock: Clock,
) -> Snapshot | None:
    """Store the state at the end and say so in an event; None when nothing came since the last.

    Waits for other writers. A snapshot right after another is that other one.
    """
    conversation = await get(conn, conversation_id=conversation_id, user_id=user_id, lock=True)
    state = await current_state(conn, conversation=conversation)
    if state.sequence == 0 or state.sequence == state.snapshot_sequence + 1:
        return None
    return await store_snapshot(
        conn, conversation=conversation, state=state, kind=kind, ids=ids, clock=clock
    )


async def store_snapshot(
    conn: Connection,
    *,
    conversation: Conversation,
    state: State,
    kind: SnapshotType,
    ids: IdSource,
    clock: Clock,
) -> Snapshot:
    """Store a state as a snapshot and append the event that tells of it."""
    messages, entities, context = state_parts(state)
    row = await one(
        conn,
        "insert_snapshot",
        id=ids.next(clock.now()),
        conversation_id=conversation.id,
        user_id=conversation.user_id,
        session_id=conversation.session_id,
        sequence_number=state.sequence,
        snapshot_type=kind.value,
        messages=messages,
        entities=entities,
        context=context,
        message_count=len(messages),
        entity_count=len(entities),
        total_tokens=state.tokens,
        size_bytes=len(msgspec.json.encode([messages, entities, context])),
    )
    snapshot = snapshot_from(row)
    event = NewEvent(SnapshotCreated(str(snapshot.id), kind, state.sequence))
    await append(conn, conversation, [event], ids=_ids(1, ids, clock))
    return snapshot


async def erase(conn: Connection, *, conversation_id: UUID, user_id: UUID) -> int:
    """Delete a conversation with all it said, and the texts of its calls; the accounts stay.

    Requests, answers, tokens and cost remain as numbers. Runs as helix_operator, which alone may
    remove texts of calls; `user_id` stands in every statement. Returns how many calls lost theirs.
    Raises ConversationNotFound.
    """
    await get(conn, conversation_id=conversation_id, user_id=user_id, lock=True)
    rows = await QUERIES.rows(conn, "requests_of_conversation", conversation_id=conversation_id)
    requests = [row["request_id"] for row in rows]
    await QUERIES.run(conn, "erase_response_texts", request_ids=requests, user_id=user_id)
    await QUERIES.run(conn, "erase_request_texts", request_ids=requests, user_id=user_id)
    await QUERIES.run(conn, "bury_texts", request_ids=requests, user_id=user_id)
    await QUERIES.run(conn, "delete_conversation", id=conversation_id, user_id=user_id)
    return len(requests)


async def erase_behind(
    conn: Connection, *, user_id: UUID, ids: Sequence[UUID], response_ids: Sequence[UUID]
) -> list[UUID]:
    """Erase those of the user's conversations that are named, or in which answers were given.

    As `erase` does, as helix_operator. Returns their ids; what is another's is passed over.
    """
    rows = await QUERIES.rows(
        conn,
        "conversations_behind",
        user_id=user_id,
        ids=list(ids),
        response_ids=list(response_ids),
    )
    found = sorted(row["id"] for row in rows)
    erased: list[UUID] = []
    for conversation_id in found:
        with suppress(ConversationNotFound):  # others erase it at the same time
            await erase(conn, conversation_id=conversation_id, user_id=user_id)
            erased.append(conversation_id)
    return erased


async def erase_user_content(conn: Connection, *, user_id: UUID) -> list[UUID]:
    """Erase every conversation of exactly this user, with the texts of its calls; return their ids.

    In the caller's transaction, as helix_operator; the caller commits. Numbers and cost stay.
    """
    erased: list[UUID] = []
    while rows := await QUERIES.rows(
        conn, "conversations_of_user", user_id=user_id, max_count=ERASED_AT_ONCE
    ):
        for row in rows:
            with suppress(ConversationNotFound):  # others erase it at the same time
                await erase(conn, conversation_id=row["id"], user_id=user_id)
                erased.append(row["id"])
    return erased


async def _history(conn: Connection, *, conversation: Conversation, message_id: str) -> list[Event]:
    rows = await QUERIES.rows(
        conn, "message_history", conversation_id=conversation.id, message_id=message_id
    )
    return [event_from(row) for row in rows]


async def _standing(
    conn: Connection, *, conversation: Conversation, message_id: str
) -> list[Event]:
    history = await _history(conn, conversation=conversation, message_id=message_id)
    if not history or isinstance(history[-1].payload, MessageDeleted):
        raise MessageNotFound(message_id)
    return history


def _ids(count: int, ids: IdSource, clock: Clock) -> list[UUID]:
    now = clock.now()
    return [ids.next(now) for _ in range(count)]
