"""Conversations as the rest of Helix uses them: hooks around calls, upkeep, compression."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from helix.conversations import replay, service, turns
from helix.conversations.compress import parts_of, transcript_of
from helix.conversations.context import ContextOptions, ContextStrategy, Plan, Recalled, plan
from helix.conversations.service import SnapshotPolicy
from helix.conversations.summarise import Summarise
from helix.conversations.text import text_of
from helix.conversations.types import (
    Compression,
    CompressionType,
    SnapshotType,
)
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.db import Connection, Database, Role
from helix.core.errors import HelixError
from helix.core.ids import IdSource
from helix.core.log import get_log

__all__ = ["Conversations", "Prepared", "SearchMemories", "build"]

_log = get_log(__name__)

SearchMemories: TypeAlias = Callable[[UUID, str, int], Awaitable[Sequence[Recalled]]]
"""Given a user, what was said last, and how many are wanted: memories, the best first."""

EnqueueCompression: TypeAlias = Callable[[Connection, UUID, UUID], Awaitable[None]]
"""Given a connection, the conversation and its user: have it compressed in the background."""

SEARCH_TIMEOUT_S = 2.0
SWEEP_MAX = 200
SETTLED_S = 10.0
"""How long the hook of a call that has ended is given before the sweep records it."""

_QUERY_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a call within a conversation becomes. `messages` is None when they stay as sent.

    `memory` says exactly what was added (docs/conversations.md); None when nothing was asked for.
    """

    conversation_id: UUID
    session_id: UUID
    messages: list[dict[str, Any]] | None = None
    memory: Mapping[str, Any] | None = None


class Conversations:
    """The domain put together: one object for the server, one for a worker."""

    def __init__(
        self,
        db: Database,
        *,
        clock: Clock,
        policy: SnapshotPolicy,
        session_ttl_s: int,
        context_budget_tokens: int,
        compress_after_tokens: int,
        cache_ttl_s: int,
        read: turns.ReadMessages,
        read_answer: turns.ReadAnswer,
        note_uses: turns.NoteUses | None,
        search_memories: SearchMemories | None,
        summarise: Summarise | None,
        enqueue_compression: EnqueueCompression | None,
    ) -> None:
        self.db = db
        self.clock = clock
        self.ids = IdSource()
        self.cache_ttl_s = cache_ttl_s
        self._policy = policy
        self._session_ttl_s = session_ttl_s
        self._budget_tokens = context_budget_tokens
        self._compress_after_tokens = compress_after_tokens
        self._read = read
        self._read_answer = read_answer
        self._note_uses = note_uses
        self._search = search_memories
        self._summarise = summarise
        self._enqueue = enqueue_compression

    # ---- around a call

    async def before(
        self,
        *,
        request_id: UUID,
        user_id: UUID,
        session: str,
        messages: Sequence[Mapping[str, Any]],
        options: ContextOptions | None = None,
        project_id: UUID | None = None,
        window_tokens: int | None = None,
    ) -> Prepared:
        """Begin a turn, and with `options` assemble its context.

        `window_tokens` is what the model takes in, where that is known; the budget stays below it.
        No connection is held while memories are searched. Raises ConversationNotActive,
        BudgetTooSmall, or Unavailable when the database is away.
        """
        async with self.db.transaction(Role.APP, tenant=user_id) as conn:
            begun = await turns.begin(
                conn,
                request_id=request_id,
                user_id=user_id,
                name=session,
                project_id=project_id,
                assembled=options is not None,
                session_ttl_s=self._session_ttl_s,
            )
            if options is None:
                return Prepared(begun.conversation.id, begun.session_id)
            past, summary = await turns.past_of(conn, conversation=begun.conversation)
        system, talk = turns.talk_of(messages)
        new, past = turns.new_beside(talk, past)
        budget = options.budget_tokens or self._budget_tokens
        if window_tokens is not None:
            budget = min(budget, window_tokens)
        made = plan(
            budget_tokens=budget,
            system=system,
            new=new,
            history=past,
            summary=summary,
            memories=await self._memories(user_id, new, options),
            strategy=options.strategy,
            fence=hashlib.sha256(request_id.bytes).hexdigest()[:24],
        )
        async with self.db.transaction(Role.APP, tenant=user_id) as conn:
            await turns.injected(conn, request_id=request_id, user_id=user_id, plan=made)
        return _prepared(begun, made)

    async def _memories(
        self, user_id: UUID, new: Sequence[Mapping[str, Any]], options: ContextOptions
    ) -> Sequence[Recalled]:
        """Search for what was said last; a search that fails leaves the call without memories."""
        if (
            self._search is None
            or not options.memories
            or options.strategy is not ContextStrategy.HYBRID
        ):
            return []
        asked = [text_of(body) for body in new if body.get("role") == "user"]
        if not asked or not asked[-1].strip():
            return []
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                found = await self._search(user_id, asked[-1][:_QUERY_CHARS], options.memories)
        except (HelixError, TimeoutError) as exc:
            _log.warning("memories_not_searched", reason=type(exc).__name__)
            return []
        return list(found)[: options.memories]

    async def after(self, *, request_id: UUID, user_id: UUID) -> int:
        """Record a call that has ended as events, and do what is due then.

        Returns how many events it became; 0 when it was recorded before or is no turn.
        """
        async with self.db.transaction(Role.APP, tenant=user_id) as conn:
            done = await turns.record(
                conn,
                request_id=request_id,
                read=self._read,
                read_answer=self._read_answer,
                ids=self.ids,
                clock=self.clock,
                note_uses=self._note_uses,
            )
        if done is None:
            return 0
        await self.keep_up(conversation_id=done.conversation.id, user_id=user_id)
        return len(done.events)

    async def keep_up(self, *, conversation_id: UUID, user_id: UUID) -> None:
        """Take a snapshot and have the conversation compressed, when its policy says so."""
        async with self.db.transaction(Role.APP, tenant=user_id) as conn:
            conversation = await service.get(conn, conversation_id=conversation_id, user_id=user_id)
            grown = await service.growth_of(conn, conversation=conversation)
            if self._policy.due(
                sequence=conversation.last_sequence,
                events=grown.events,
                size_bytes=grown.size_bytes,
                last_bytes=grown.last_bytes,
            ):
                await service.take_snapshot(
                    conn,
                    conversation_id=conversation_id,
                    user_id=user_id,
                    kind=SnapshotType.PERIODIC,
                    ids=self.ids,
                    clock=self.clock,
                )
            due = 0 < self._compress_after_tokens <= grown.tokens
            if due and self._enqueue is not None:
                await self._enqueue(conn, conversation_id, user_id)

    async def sweep(self) -> dict[str, int]:
        """Record the calls whose process died before it could, and drop turns of no call."""
        recorded = failed = 0
        async with self.db.transaction(Role.OPERATOR) as conn:
            left = await turns.open_turns(conn, settled_s=SETTLED_S, max_count=SWEEP_MAX)
            dropped = await turns.drop_refused(conn)
        for request_id in left:
            try:
                async with self.db.transaction(Role.OPERATOR) as conn:
                    done = await turns.record(
                        conn,
                        request_id=request_id,
                        read=self._read,
                        read_answer=self._read_answer,
                        ids=self.ids,
                        clock=self.clock,
                        note_uses=self._note_uses,
                    )
            except Exception as exc:  # noqa: BLE001 - one bad call must not hold up the others
                failed += 1
                _log.warning(
                    "turn_not_recorded", request_id=str(request_id), reason=type(exc).__name__
                )
                async with self.db.transaction(Role.OPERATOR) as conn:
                    await turns.failed(conn, request_id=request_id, error=type(exc).__name__)
            else:
                recorded += done is not None
        return {"recorded": recorded, "failed": failed, "dropped": int(dropped.split()[-1])}

    # ---- compression

    async def compress(
        self,
        *,
        conversation_id: UUID,
        user_id: UUID,
        strategy: CompressionType,
        target_tokens: int | None = None,
        with_model: bool = False,
    ) -> Compression:
        """Condense a conversation; with `with_model` around a summary by the configured model.

        No transaction is open while it is condensed or a model is asked. A model that fails leaves
        the extracted summary. Raises ConversationNotFound, NothingToCompress.
        """
        began_s = time.perf_counter()
        async with self.db.transaction(Role.APP, tenant=user_id) as conn:
            prepared = await replay.prepare_compression(
                conn,
                conversation_id=conversation_id,
                user_id=user_id,
                strategy=strategy,
                target_tokens=target_tokens,
            )
        written = await self._written(prepared, user_id) if with_model else None
        condensed = await replay.condense(prepared, written=written)
        async with self.db.transaction(Role.APP, tenant=user_id) as conn:
            return await replay.store_compression(
                conn,
                plan=prepared,
                condensed=condensed,
                duration_ms=round((time.perf_counter() - began_s) * 1_000),
                ids=self.ids,
                clock=self.clock,
                written=written,
            )

    async def _written(
        self, prepared: replay.CompressionPlan, user_id: UUID
    ) -> replay.Written | None:
        if self._summarise is None:
            return None
        parts = parts_of(
            prepared.messages,
            strategy=prepared.strategy,
            target_tokens=prepared.target_tokens,
            window_messages=replay.WINDOW_MESSAGES,
        )
        if not parts.summary_tokens:
            return None
        try:
            return await self._summarise(
                user_id, transcript_of(parts.condensed), parts.summary_tokens
            )
        except HelixError as exc:
            _log.warning("summary_not_written", reason=exc.code)
            return None

    # ---- erasure

    async def erase(self, *, conversation_id: UUID, user_id: UUID) -> int:
        """Erase a conversation (service.erase) in one transaction; returns its calls."""
        async with self.db.transaction(Role.OPERATOR) as conn:
            return await service.erase(conn, conversation_id=conversation_id, user_id=user_id)

    async def erase_behind(
        self, *, user_id: UUID, ids: Sequence[UUID], response_ids: Sequence[UUID]
    ) -> list[UUID]:
        """Erase what memories were drawn from (service.erase_behind) in one transaction."""
        async with self.db.transaction(Role.OPERATOR) as conn:
            return await service.erase_behind(
                conn, user_id=user_id, ids=ids, response_ids=response_ids
            )

    async def erase_all(self, *, user_id: UUID) -> list[UUID]:
        """Erase every conversation of the user in one transaction; return their ids."""
        async with self.db.transaction(Role.OPERATOR) as conn:
            return await service.erase_user_content(conn, user_id=user_id)


def _prepared(begun: turns.Begun, made: Plan) -> Prepared:
    return Prepared(
        begun.conversation.id,
        begun.session_id,
        [dict(message) for message in made.messages],
        made.added,
    )


def build(
    db: Database,
    settings: Settings,
    *,
    clock: Clock | None = None,
    read: turns.ReadMessages = turns.read_chat_messages,
    read_answer: turns.ReadAnswer = turns.read_chat_answer,
    note_uses: turns.NoteUses | None = None,
    search_memories: SearchMemories | None = None,
    summarise: Summarise | None = None,
    enqueue_compression: EnqueueCompression | None = None,
) -> Conversations:
    """Put the domain together."""
    return Conversations(
        db,
        clock=clock or SystemClock(),
        policy=SnapshotPolicy(
            settings.conversation_snapshot_events, settings.conversation_snapshot_bytes
        ),
        session_ttl_s=settings.conversation_session_ttl_s,
        context_budget_tokens=settings.context_budget_tokens,
        compress_after_tokens=settings.conversation_compress_tokens,
        cache_ttl_s=settings.conversation_cache_ttl_s,
        read=read,
        read_answer=read_answer,
        note_uses=note_uses,
        search_memories=search_memories,
        summarise=summarise,
        enqueue_compression=enqueue_compression,
    )
