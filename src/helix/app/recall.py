"""Memories in the context of calls: found before, written down as used with the turn."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from helix import conversations, memory, providers
from helix.core.clock import Clock
from helix.core.db import Connection

__all__ = ["searcher_of", "uses_noter", "window_of"]


def searcher_of(
    memories: memory.Memories,
) -> Callable[[UUID, str, int], Awaitable[Sequence[conversations.Recalled]]]:
    """Return what finds the memories that a context is given."""

    async def search(user_id: UUID, query: str, count: int) -> Sequence[conversations.Recalled]:
        found = await memories.search(user_id=user_id, query=query, max_count=count)
        return [
            conversations.Recalled(str(hit.memory.id), hit.memory.content, hit.score)
            for hit in found.hits
        ]

    return search


def uses_noter(clock: Clock) -> conversations.NoteUses:
    """Return what notes which memories were put into a call, where its turn is recorded."""

    async def note(
        conn: Connection, user_id: UUID, request_id: UUID, memories: Sequence[Mapping[str, Any]]
    ) -> None:
        uses = [
            memory.Use(memory.MemoryId(UUID(item["id"])), score=item.get("score"))
            for item in memories
        ]
        await memory.record_uses(
            conn, user_id=user_id, request_id=request_id, uses=uses, now=clock.now()
        )

    return note


def window_of(known: providers.Providers) -> Callable[[str], int | None]:
    """Return what tells how many tokens a model takes in, by the name a client uses.

    Of a name that several providers have, the smallest window is told: any of them may answer.
    None where nobody told, and for names of routes and virtual models.
    """

    def window(name: str) -> int | None:
        registry = known.registry
        provider, slash, model = name.partition("/")
        if slash and provider in registry.providers:
            pairs = [(provider, model)]
        else:
            pairs = [(owner, own) for owner, own in registry.names() if own == name]
        facts = [
            known.model_facts(registry.providers[owner], own)
            for owner, own in pairs
            if owner in registry.providers
        ]
        told = [one.context_window for one in facts if one.context_window is not None]
        return min(told, default=None)

    return window
