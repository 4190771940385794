"""/api/conversations: look at conversations, as they are and as they were, and steer them."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from helix.conversations import replay, service
from helix.conversations.domain import Conversations
from helix.conversations.errors import BrokenHistory
from helix.conversations.fold import encode, event_type
from helix.conversations.jobs import Compress, enqueue_compression
from helix.conversations.types import (
    CompressionType,
    Conversation,
    ConversationStatus,
    Event,
    Replay,
    ReplayType,
    SnapshotType,
    State,
)
from helix.core import sse
from helix.core.db import Connection, Role

__all__ = ["ConversationCaller", "build_router", "event_json", "state_json"]

_MESSAGES_MAX = 100
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class ConversationCaller:
    """Who calls: a tenant, who sees its own, or an operator, who sees all."""

    user_id: UUID
    operator: bool = False

    @property
    def owner(self) -> UUID | None:
        """Whose conversations the caller may reach; None for all."""
        return None if self.operator else self.user_id


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewConversation(_Body):
    """A conversation to make."""

    external_id: str | None = Field(default=None, min_length=1, max_length=255)
    title: str | None = Field(default=None, max_length=255)
    project_id: UUID | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class ChangedConversation(_Body):
    """What to change of a conversation; what is left out stays."""

    title: str | None = Field(default=None, max_length=255)
    metadata: dict[str, Any] | None = None
    closed: bool | None = None


class NewMessage(_Body):
    """A message to add. With a `message_id` of one's own a repetition is harmless."""

    message_id: str | None = Field(default=None, min_length=1, max_length=255)
    message: dict[str, Any]


class NewMessages(_Body):
    """Messages to add, in order, all or none."""

    messages: list[NewMessage] = Field(min_length=1, max_length=_MESSAGES_MAX)


class NewEvents(_Body):
    """Events to append, in order, all or none."""

    class One(_Body):
        """An event: its type, its data, and the message it is about."""

        event_type: str = Field(max_length=50)
        event_data: dict[str, Any] = Field(default_factory=dict)
        message_id: str | None = Field(default=None, min_length=1, max_length=255)

    events: list[One] = Field(min_length=1, max_length=service.EVENTS_MAX)


class ReplayBody(_Body):
    """Which replay, and to what point (a sequence number or a time); without one to the end."""

    replay_type: ReplayType = ReplayType.SNAPSHOT
    at: str | None = Field(default=None, max_length=60)


class CompressBody(_Body):
    """How to condense. `background` has it done by a task, there with a model if one is set."""

    strategy: CompressionType = CompressionType.HYBRID
    target_tokens: int | None = Field(default=None, ge=16, le=1_000_000)
    background: bool = False


class Reason(_Body):
    """Why."""

    reason: str | None = Field(default=None, max_length=500)


@dataclass(frozen=True, slots=True)
class _Door:
    """What the routes share: the domain, who calls, and the way to a caller's conversation."""

    conversations: Conversations
    identify: Callable[[Request], Awaitable[ConversationCaller]]

    @property
    def made(self) -> dict[str, Any]:
        """What new events are made with."""
        return {"ids": self.conversations.ids, "clock": self.conversations.clock}

    def work(self, caller: ConversationCaller) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction that sees what the caller may."""
        if caller.operator:
            return self.conversations.db.transaction(Role.OPERATOR)
        return self.conversations.db.transaction(Role.APP, tenant=caller.user_id)

    async def found(
        self,
        conn: Connection,
        caller: ConversationCaller,
        conversation_id: UUID,
        *,
        lock: bool = False,
    ) -> Conversation:
        """Return a conversation of the caller's; raises NotFound for any other."""
        return await service.get(
            conn, conversation_id=conversation_id, user_id=caller.owner, lock=lock
        )

    async def keep_up(self, conversation: Conversation) -> None:
        """Take the snapshot that new events may have made due."""
        await self.conversations.keep_up(
            conversation_id=conversation.id, user_id=conversation.user_id
        )


def build_router(
    conversations: Conversations, identify: Callable[[Request], Awaitable[ConversationCaller]]
) -> APIRouter:
    """Return the routes. `identify` authenticates and checks the scope `conversations`."""
    api = APIRouter(prefix="/api/conversations", tags=["conversations"])
    door = _Door(conversations, identify)
    for add in (_add_conversations, _add_messages, _add_events, _add_steering, _add_history):
        add(api, door)
    return api


def _add_conversations(api: APIRouter, door: _Door) -> None:
    """Make, list, show, change and erase conversations."""
    Caller = Annotated[ConversationCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("", status_code=201)
    async def create(body: NewConversation, caller: Caller) -> Response:
        """Make an empty conversation."""
        async with door.work(caller) as conn:
            conversation = await service.create(conn, user_id=caller.user_id, **body.model_dump())
        return _json(conversation, status=201)

    @api.get("")
    async def list_conversations(
        caller: Caller,
        status: ConversationStatus | None = None,
        project_id: UUID | None = None,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
    ) -> Response:
        """List conversations, newest first; `before` is the last id of the page before."""
        async with door.work(caller) as conn:
            page = await service.list_conversations(
                conn,
                user_id=caller.owner,
                status=status,
                project_id=project_id,
                before=before,
                max_count=limit,
            )
        return _json({"data": page, "has_more": len(page) == limit})

    @api.get("/{conversation_id}")
    async def show(conversation_id: UUID, caller: Caller, at: str | None = None) -> Response:
        """Show a conversation with its state, now or as it was after event `at` or at that time."""
        point = replay.point_of(at)
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            goal = await replay.resolve_point(conn, conversation=conversation, point=point)
            base, _ = await service.nearest_state(conn, conversation=conversation, to_sequence=goal)
            state, _ = await service.state_at(
                conn, conversation=conversation, to_sequence=goal, base=base
            )
        return _json({**msgspec.to_builtins(conversation), "state": state_json(state)})

    @api.patch("/{conversation_id}")
    async def change(conversation_id: UUID, body: ChangedConversation, caller: Caller) -> Response:
        """Change title or metadata, or close or reopen."""
        async with door.work(caller) as conn:
            return _json(
                await service.change(
                    conn,
                    conversation_id=conversation_id,
                    user_id=caller.owner,
                    title=body.title,
                    metadata=body.metadata,
                    closed=body.closed,
                )
            )

    @api.delete("/{conversation_id}")
    async def erase(conversation_id: UUID, caller: Caller) -> Response:
        """Erase what was said, and the texts of its calls; tokens and cost stay as numbers."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
        calls = await door.conversations.erase(
            conversation_id=conversation_id, user_id=conversation.user_id
        )
        return _json({"id": conversation_id, "erased": True, "calls_erased": calls})


def _add_messages(api: APIRouter, door: _Door) -> None:
    """List, add, change and delete messages."""
    Caller = Annotated[ConversationCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/{conversation_id}/messages")
    async def messages(
        conversation_id: UUID,
        caller: Caller,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
    ) -> Response:
        """List messages as they stand, oldest first; `after` is the last sequence number seen."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            page = await service.messages_of(
                conn, conversation=conversation, after=after, max_count=limit
            )
        return _json({"data": page, "has_more": len(page) == limit})

    @api.post("/{conversation_id}/messages", status_code=201)
    async def add(conversation_id: UUID, body: NewMessages, caller: Caller) -> Response:
        """Add messages, in order, all or none."""
        told: list[Event] = []
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id, lock=True)
            for one in body.messages:
                told += await service.add_message(
                    conn,
                    conversation=conversation,
                    body=one.message,
                    message_id=one.message_id,
                    **door.made,
                )
        await door.keep_up(conversation)
        return _json({"data": [event_json(event) for event in told]}, status=201)

    @api.patch("/{conversation_id}/messages/{message_id}")
    async def change_message(
        conversation_id: UUID, message_id: str, body: dict[str, Any], caller: Caller
    ) -> Response:
        """Change fields of a message, such as its content."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id, lock=True)
            event = await service.change_message(
                conn, conversation=conversation, message_id=message_id, changes=body, **door.made
            )
        return _json(event_json(event))

    @api.delete("/{conversation_id}/messages/{message_id}")
    async def delete_message(
        conversation_id: UUID, message_id: str, caller: Caller, reason: str | None = None
    ) -> Response:
        """Take a message out. Its text stays in the history: erase the conversation to forget."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id, lock=True)
            event = await service.delete_message(
                conn,
                conversation=conversation,
                message_id=message_id,
                reason=reason,
                **door.made,
            )
        return _json(event_json(event))


def _add_events(api: APIRouter, door: _Door) -> None:
    """Append, list and follow events; list the calls of a conversation."""
    Caller = Annotated[ConversationCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("/{conversation_id}/events", status_code=201)
    async def append(conversation_id: UUID, body: NewEvents, caller: Caller) -> Response:
        """Append events, in order, all or none."""
        async with door.work(caller) as conn:
            told = await service.append_events(
                conn,
                conversation_id=conversation_id,
                user_id=caller.owner,
                events=[(one.event_type, one.event_data, one.message_id) for one in body.events],
                **door.made,
            )
            conversation = await door.found(conn, caller, conversation_id)
        await door.keep_up(conversation)
        return _json({"data": [event_json(event) for event in told]}, status=201)

    @api.get("/{conversation_id}/events", responses={**sse.DOCUMENTED})
    async def events(  # noqa: PLR0917 - query parameters, given by name
        conversation_id: UUID,
        caller: Caller,
        after: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
        follow: bool = False,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """List events in order after number `after`; with `follow` go on as they happen (SSE)."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            if not follow:
                page = await service.events_of(
                    conn, conversation=conversation, from_sequence=after + 1, max_count=limit
                )
                told = [event_json(event) for event in page]
                return _json({"data": told, "has_more": len(page) == limit})
        number = replay.point_of(last_event_id)
        start = number if isinstance(number, int) else after
        return StreamingResponse(
            _followed(door, caller, conversation, start),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    @api.get("/{conversation_id}/turns")
    async def turns(
        conversation_id: UUID,
        caller: Caller,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
    ) -> Response:
        """List the calls within a conversation, newest first, with what was put before each."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            page = await service.turns_of(
                conn, conversation=conversation, before=before, max_count=limit
            )
        return _json({"data": page, "has_more": len(page) == limit})


def _followed(
    door: _Door, caller: ConversationCaller, conversation: Conversation, after: int
) -> AsyncIterator[bytes]:
    """Tell the events of a conversation after a number, as they happen."""
    at = after

    async def read() -> tuple[list[sse.Told], bool]:
        nonlocal at
        async with door.work(caller) as conn:
            page = await service.events_of(conn, conversation=conversation, from_sequence=at + 1)
        at = page[-1].sequence if page else at
        return [
            sse.Told(
                str(event.sequence),
                event_type(event.payload).value,
                msgspec.json.encode(event_json(event), enc_hook=str),
            )
            for event in page
        ], False

    return sse.follow(read)


def _add_steering(api: APIRouter, door: _Door) -> None:
    """Pause and resume."""
    Caller = Annotated[ConversationCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("/{conversation_id}/pause")
    async def pause(conversation_id: UUID, caller: Caller, body: Reason | None = None) -> Response:
        """Take no new messages until it is resumed; calls that name it are refused."""
        async with door.work(caller) as conn:
            return _json(
                await service.pause(
                    conn,
                    conversation_id=conversation_id,
                    user_id=caller.owner,
                    reason=body.reason if body else None,
                    **door.made,
                )
            )

    @api.post("/{conversation_id}/resume")
    async def resume(conversation_id: UUID, caller: Caller, body: Reason | None = None) -> Response:
        """Take messages again."""
        async with door.work(caller) as conn:
            return _json(
                await service.resume(
                    conn,
                    conversation_id=conversation_id,
                    user_id=caller.owner,
                    reason=body.reason if body else None,
                    **door.made,
                )
            )


def _add_history(api: APIRouter, door: _Door) -> None:
    """Replay, snapshot and condense."""
    Caller = Annotated[ConversationCaller, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("/{conversation_id}/replay")
    async def run_replay(conversation_id: UUID, body: ReplayBody, caller: Caller) -> Response:
        """Fold the conversation and tell how that went; the statistics are kept."""
        point = replay.point_of(body.at)
        began_s = time.perf_counter()
        try:
            async with door.work(caller) as conn:
                conversation = await door.found(conn, caller, conversation_id)
                done = await replay.replay(
                    conn,
                    conversation=conversation,
                    kind=body.replay_type,
                    point=point,
                    cache_ttl_s=door.conversations.cache_ttl_s,
                    **door.made,
                )
        except BrokenHistory as exc:
            async with door.work(caller) as conn:
                await replay.record_failure(
                    conn,
                    conversation=conversation,
                    kind=body.replay_type,
                    error=exc.message,
                    duration_ms=round((time.perf_counter() - began_s) * 1_000),
                    **door.made,
                )
            raise
        return _json(_replay_json(done))

    @api.get("/{conversation_id}/replays")
    async def replays(conversation_id: UUID, caller: Caller) -> Response:
        """List the statistics of the newest replays."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            return _json({"data": await service.replays_of(conn, conversation=conversation)})

    @api.post("/{conversation_id}/snapshots", responses={201: {"description": "Taken."}})
    async def snapshot(conversation_id: UUID, caller: Caller) -> Response:
        """Store the state as it is now; nothing when nothing came since the newest snapshot."""
        async with door.work(caller) as conn:
            taken = await service.take_snapshot(
                conn,
                conversation_id=conversation_id,
                user_id=caller.owner,
                kind=SnapshotType.ON_DEMAND,
                **door.made,
            )
        return _json({"snapshot": taken}, status=200 if taken is None else 201)

    @api.get("/{conversation_id}/snapshots")
    async def snapshots(conversation_id: UUID, caller: Caller) -> Response:
        """List the newest snapshots, without their states."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            return _json({"data": await service.snapshots_of(conn, conversation=conversation)})

    @api.post(
        "/{conversation_id}/compress",
        responses={201: {"description": "Done."}, 202: {"description": "A task will do it."}},
    )
    async def compress(conversation_id: UUID, body: CompressBody, caller: Caller) -> Response:
        """Condense the conversation: at once by extraction, or by a task."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            if body.background:
                wanted = Compress(
                    conversation.id, conversation.user_id, body.strategy, body.target_tokens
                )
                task_id = await enqueue_compression(
                    conn, conversation.id, conversation.user_id, payload=wanted
                )
                return _json({"task_id": task_id}, status=202)
        done = await door.conversations.compress(
            conversation_id=conversation.id,
            user_id=conversation.user_id,
            strategy=body.strategy,
            target_tokens=body.target_tokens,
        )
        return _json(done, status=201)

    @api.get("/{conversation_id}/compressions")
    async def compressions(conversation_id: UUID, caller: Caller) -> Response:
        """List the newest compressions: ratio, tokens, quality, what was kept."""
        async with door.work(caller) as conn:
            conversation = await door.found(conn, caller, conversation_id)
            return _json({"data": await service.compressions_of(conn, conversation=conversation)})


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as it is shown, in the names of its columns."""
    return {
        "id": event.id,
        "conversation_id": event.conversation_id,
        "sequence_number": event.sequence,
        "timestamp": event.timestamp,
        "event_type": event_type(event.payload).value,
        "event_data": encode(event.payload),
        "message_id": event.message_id,
        "tokens": event.tokens,
        "response_id": event.response_id,
        "metadata": event.metadata,
    }


def state_json(state: State) -> dict[str, Any]:
    """Return a state as it is shown: messages whole, as they stand."""
    built = msgspec.to_builtins(state)
    built["messages"] = [
        {
            "message_id": message.message_id,
            "sequence_number": message.sequence,
            "message": message.body,
            "tokens": message.tokens,
            "created_at": message.created_at,
            "updated_at": message.updated_at,
            "response_id": message.response_id,
        }
        for message in state.messages
    ]
    return {**built, "total_tokens": state.tokens}


def _replay_json(done: Replay) -> dict[str, Any]:
    return {
        "id": done.id,
        "replay_type": done.replay_type,
        "events_replayed": done.events_replayed,
        "messages_replayed": done.messages_replayed,
        "replay_duration_ms": done.replay_duration_ms,
        "snapshot_id": done.snapshot_id,
        "cache_hit": done.cache_hit,
        "compression_applied": done.compression_applied,
        "state": state_json(done.state),
        "context": done.context,
    }


def _json(record: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(record, enc_hook=str), status, media_type=_JSON)
