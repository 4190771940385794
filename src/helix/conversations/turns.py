"""A call within a conversation: begun before it is made, recorded as events once it has ended.

The turn's row is what makes recording exactly-once: it is written before the call, found by the
request's id, and marked in the transaction that writes the events. Whoever comes second, be it the
hook that is called again or the job that looks for what a dead process left, finds it marked.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from helix.conversations import service
from helix.conversations.align import Said, first_new
from helix.conversations.context import Past, Plan, SummaryText
from helix.conversations.errors import ConversationNotActive
from helix.conversations.store import QUERIES, append, conversation_from, one
from helix.conversations.text import digest_of, message_tokens, storable
from helix.conversations.types import (
    Conversation,
    ConversationStatus,
    Event,
    MessageAdded,
    MessageRole,
    NewEvent,
)
from helix.core.clock import Clock
from helix.core.db import Connection
from helix.core.ids import IdSource

__all__ = [
    "ATTEMPTS_MAX",
    "HISTORY_MAX",
    "Begun",
    "NoteUses",
    "ReadAnswer",
    "ReadMessages",
    "Recorded",
    "begin",
    "drop_refused",
    "injected",
    "open_turns",
    "past_of",
    "read_chat_answer",
    "read_chat_messages",
    "record",
    "talk_of",
]

ATTEMPTS_MAX = 5
COMPARED_MAX = 1_000
"""How many of the newest messages a call's history is compared with."""

HISTORY_MAX = 500
"""Most messages of the history that a context can hold."""

_INSTRUCTIONS_MAX = 20
_INSTRUCTING = frozenset({"system", "developer"})

ReadMessages = Callable[[str, str], Sequence[Mapping[str, Any]]]
"""Given the type and the body of a recorded request, its messages in the form of the chat API."""

ReadAnswer = Callable[[str], Mapping[str, Any] | None]
"""Given a recorded answer as the provider sent it, its message in the form of the chat API."""


NoteUses = Callable[[Connection, UUID, UUID, Sequence[Mapping[str, Any]]], Awaitable[None]]
"""Given a user, a request's id and the memories put into it: notes that it used them, once."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that has begun, with what a context can be made of."""

    conversation: Conversation
    session_id: UUID


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call that has become events."""

    conversation: Conversation
    events: tuple[Event, ...]


async def begin(
    conn: Connection,
    *,
    request_id: UUID,
    user_id: UUID,
    name: str,
    project_id: UUID | None,
    assembled: bool,
    session_ttl_s: int,
) -> Begun:
    """Find or make the conversation that a call names, and note the call as one of its turns.

    `name` is the id of a conversation or of a session of the caller's own, or any word of the
    client's, which is then the conversation's external id. Names of others' conversations and
    sessions are words like any other: whether they exist is not told. The conversation has a
    session that may be used; when the old one has run out a new one is opened.
    What is found is held: whoever erases it waits for the end of the transaction, and takes the
    turn along. Raises ConversationNotActive.
    """
    conversation: Conversation | None = None
    while conversation is None:  # again only when it was made and erased by others in between
        conversation, own_session = await _named(conn, user_id=user_id, name=name)
        if conversation is None:
            conversation = await _made(
                conn, user_id=user_id, name=name, project_id=project_id, session_id=own_session
            )
    if conversation.status is not ConversationStatus.ACTIVE:
        raise ConversationNotActive(conversation.id, conversation.status.value)
    session_id = await _session(conn, conversation=conversation, ttl_s=session_ttl_s)
    await QUERIES.run(
        conn,
        "begin_turn",
        request_id=request_id,
        conversation_id=conversation.id,
        user_id=user_id,
        session_id=session_id,
        assembled=assembled,
    )
    return Begun(conversation, session_id)


async def _named(
    conn: Connection, *, user_id: UUID, name: str
) -> tuple[Conversation | None, UUID | None]:
    """Return the conversation of that name, else the caller's session of that id."""
    identifier = _uuid(name)
    if identifier is not None:
        row = await QUERIES.row(conn, "hold_conversation_by_id", id=identifier, user_id=user_id)
        if row is not None:
            return conversation_from(row), None
    row = await QUERIES.row(
        conn, "hold_conversation_by_external_id", user_id=user_id, external_id=name
    )
    if row is not None:
        return conversation_from(row), None
    if identifier is not None:
        own = await QUERIES.row(conn, "hold_session_of_user", id=identifier, user_id=user_id)
        return None, None if own is None else own["id"]
    return None, None


async def _made(
    conn: Connection, *, user_id: UUID, name: str, project_id: UUID | None, session_id: UUID | None
) -> Conversation | None:
    """Make the conversation; None when another call made it this moment."""
    row = await QUERIES.row(
        conn,
        "create_conversation",
        user_id=user_id,
        project_id=project_id,
        external_id=name,
        title=None,
        metadata={},
        session_id=session_id,
    )
    return None if row is None else conversation_from(row)


async def _session(conn: Connection, *, conversation: Conversation, ttl_s: int) -> UUID:
    user_id = conversation.user_id
    if conversation.session_id is not None:
        row = await QUERIES.row(
            conn, "hold_session_of_user", id=conversation.session_id, user_id=user_id
        )
        if row is not None:
            return conversation.session_id
    row = await one(
        conn,
        "open_session",
        user_id=user_id,
        context={"conversation_id": str(conversation.id)},
        metadata={"kind": "conversation"},
        ttl_s=ttl_s,
    )
    opened: UUID = row["id"]
    await QUERIES.run(conn, "link_session", id=conversation.id, user_id=user_id, session_id=opened)
    return opened


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# ---- the context


async def past_of(
    conn: Connection, *, conversation: Conversation
) -> tuple[list[Past], SummaryText | None]:
    """Return the newest messages in order, without system prompts, and the newest summary."""
    rows = await QUERIES.rows(
        conn, "newest_messages", conversation_id=conversation.id, max_count=HISTORY_MAX
    )
    past = [
        Past(row["message_id"], row["sequence_number"], row["message"], row["tokens"])
        for row in reversed(rows)
    ]
    row = await QUERIES.row(conn, "newest_summary", conversation_id=conversation.id)
    if row is None:
        return past, None
    return past, SummaryText(str(row["id"]), row["summary_content"], row["to_sequence"])


def talk_of(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Divide messages into system prompts and talk."""
    system = [message for message in messages if message.get("role") in _INSTRUCTING]
    talk = [message for message in messages if message.get("role") not in _INSTRUCTING]
    return system, talk


def new_beside(
    talk: Sequence[Mapping[str, Any]], past: Sequence[Past]
) -> tuple[list[Mapping[str, Any]], list[Past]]:
    """Return what of a call is new, and the history that goes before it, for a context.

    A question asked again, that ends the history unanswered, is sent once.
    """
    known = [_said(message.body) for message in past]
    sent = [_said(body) for body in talk]
    whole = len(past) < HISTORY_MAX
    new_at = first_new(sent, known, whole=whole, assembled=True)
    if new_at < len(sent):
        return list(talk[new_at:]), list(past)
    return list(talk), list(past[: len(past) - len(talk)]) if _ends_with(known, sent) else []


def _ends_with(known: Sequence[Said], sent: Sequence[Said]) -> bool:
    return bool(sent) and list(known[-len(sent) :]) == list(sent)


def _said(body: Mapping[str, Any]) -> Said:
    return Said(digest_of(body), str(body.get("role")))


async def injected(conn: Connection, *, request_id: UUID, user_id: UUID, plan: Plan) -> None:
    """Record exactly what was put before a call."""
    await QUERIES.run(
        conn,
        "injected_into_turn",
        request_id=request_id,
        user_id=user_id,
        injected=dict(plan.added),
        injected_tokens=plan.tokens,
        tainted=plan.tainted,
    )


# ---- recording


async def record(
    conn: Connection,
    *,
    request_id: UUID,
    read: ReadMessages,
    read_answer: ReadAnswer,
    ids: IdSource,
    clock: Clock,
    with_entities: bool = True,
    note_uses: NoteUses | None = None,
) -> Recorded | None:
    """Write the events of a call that has ended: what was new in it, its answer, what they name.

    `note_uses` is told, in the same transaction, which memories had been put into it.

    Exactly once, however often it is called; None when there is nothing to do (not a turn, not
    ended, recorded before). An answer that broke off is recorded as far as it came, and marked.
    The conversation's session counts the call. Waits for the conversation's other writers.
    """
    turn = await QUERIES.row(conn, "turn_to_record", request_id=request_id)
    if turn is None:
        return None
    call = await QUERIES.row(conn, "call_of", request_id=request_id)
    if call is None:
        return None
    conversation = await service.get(
        conn, conversation_id=turn["conversation_id"], user_id=turn["user_id"], lock=True
    )
    body = call["request_body"]
    messages = [] if body is None else read(call["request_type"], body)
    told = await _new_messages(
        conn,
        conversation=conversation,
        request_id=request_id,
        messages=messages,
        assembled=turn["assembled"],
        about={"request_id": str(request_id)},
    )
    if answer := _answer(call, read_answer):
        about = {
            "request_id": str(request_id),
            "model": call["answered_by"],
            "provider": call["provider_name"],
        }
        if call["answer_status"] != "completed":
            about["partial"] = True
        told.append(_added(f"{request_id}:answer", answer, about, response_id=call["response_id"]))
    if with_entities:
        said = [(event.message_id or "", _body(event)) for event in told]
        told += await service.named_by(conn, conversation=conversation, messages=said)
    now = clock.now()
    events = await append(conn, conversation, told, ids=[ids.next(now) for _ in told])
    await _count_call(conn, turn=turn, call=call)
    if note_uses is not None and (memories := turn["injected"].get("memories")):
        await note_uses(conn, turn["user_id"], request_id, memories)
    await QUERIES.run(conn, "turn_is_recorded", request_id=request_id, events=len(events))
    return Recorded(conversation, tuple(events))


async def _count_call(conn: Connection, *, turn: Any, call: Any) -> None:
    if turn["session_id"] is None:
        return
    memories = turn["injected"].get("memories") or []
    await QUERIES.run(
        conn,
        "use_session",
        id=turn["session_id"],
        user_id=turn["user_id"],
        memory_id=_uuid(str(memories[0]["id"])) if memories else None,
        context={
            "conversation_id": str(turn["conversation_id"]),
            "last_request_id": str(turn["request_id"]),
            "model": call["model_name"],
        },
    )


async def _new_messages(
    conn: Connection,
    *,
    conversation: Conversation,
    request_id: UUID,
    messages: Sequence[Mapping[str, Any]],
    assembled: bool,
    about: Mapping[str, Any],
) -> list[NewEvent]:
    known = await QUERIES.rows(
        conn, "newest_digests", conversation_id=conversation.id, max_count=COMPARED_MAX
    )
    held = [
        Said(row["digest"] or "", row["role"])
        for row in reversed(known)
        if row["role"] not in _INSTRUCTING
    ]
    prompts = await QUERIES.rows(
        conn,
        "newest_instructions",
        conversation_id=conversation.id,
        max_count=_INSTRUCTIONS_MAX,
    )
    instructed = {row["digest"] for row in prompts}
    talk = [i for i, body in enumerate(messages) if body.get("role") not in _INSTRUCTING]
    at = first_new(
        [_said(messages[i]) for i in talk],
        held,
        whole=len(known) < COMPARED_MAX,
        assembled=assembled,
    )
    new = set(talk[at:])
    return [
        _added(f"{request_id}:{i}", body, about)
        for i, body in enumerate(messages)
        if i in new or (i not in talk and digest_of(body) not in instructed)
    ]


def _added(
    message_id: str,
    body: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    response_id: UUID | None = None,
) -> NewEvent:
    """Return the event of a message that a provider took, whatever its shape."""
    kept = storable(body)
    role = kept.pop("role", None)
    try:
        speaker = MessageRole(role)
    except ValueError:
        speaker = MessageRole.USER
        kept["spoken_as"] = role
    if kept.get("content") is not None and not isinstance(kept["content"], (str, list)):
        kept["content"] = msgspec.json.encode(kept["content"]).decode()
    if not isinstance(kept.get("tool_calls"), list):
        kept.pop("tool_calls", None)
    metadata = {**about, "digest": digest_of(body)}
    return NewEvent(
        MessageAdded(speaker, kept), message_id, message_tokens(body), response_id, metadata
    )


def _body(event: NewEvent) -> dict[str, Any]:
    payload = event.payload
    if isinstance(payload, MessageAdded):
        return {"role": payload.role.value, **payload.rest}
    return {}


def _answer(call: Any, read_answer: ReadAnswer) -> dict[str, Any] | None:
    """Return the message of an answer: the first choice as it was sent, else its text alone."""
    raw, content = call["raw_response"], call["content"]
    message = None if raw is None else read_answer(raw)
    if message is not None:
        return {**message, "role": "assistant"}
    return None if content is None else {"role": "assistant", "content": content}


def read_chat_answer(raw: str) -> Mapping[str, Any] | None:
    """Return the first choice's message of a chat completion; None when there is none."""
    try:
        message = msgspec.json.decode(raw)["choices"][0]["message"]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        return None
    return message if isinstance(message, dict) else None


def read_chat_messages(request_type: str, body: str) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a chat request, or of a text completion; none of other types."""
    sent = msgspec.json.decode(body)
    if request_type == "completion":
        prompt = sent.get("prompt")
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else []
    messages = sent.get("messages")
    if not isinstance(messages, list):
        return []
    return [message for message in messages if isinstance(message, dict)]


# ---- what was left behind


async def open_turns(conn: Connection, *, settled_s: float, max_count: int) -> list[UUID]:
    """Return calls that ended `settled_s` ago or longer and are not recorded, oldest first."""
    rows = await QUERIES.rows(
        conn,
        "open_turns",
        attempts_max=ATTEMPTS_MAX,
        settled_s=settled_s,
        max_count=max_count,
    )
    return [row["request_id"] for row in rows]


async def failed(conn: Connection, *, request_id: UUID, error: str) -> None:
    """Note that recording failed; after ATTEMPTS_MAX times it is left to the operator."""
    await QUERIES.run(conn, "turn_failed", request_id=request_id, error=error[:500])


async def drop_refused(conn: Connection) -> str:
    """Delete day-old turns whose call never was."""
    return await QUERIES.run(conn, "drop_refused_turns")
