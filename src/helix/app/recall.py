"""Memories in the context of calls: found before, written down as used after."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from helix import conversations, gateway, memory, providers

__all__ = ["searcher_of", "uses_hook", "window_of"]


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


def uses_hook(memories: memory.Memories) -> gateway.AfterHook:
    """Return the hook that notes, of a settled call, which memories were put into it."""

    async def after(call: gateway.SettledCall) -> None:
        injected = (call.memory or {}).get("memories") or []
        uses = [
            memory.Use(memory.MemoryId(UUID(item["id"])), score=item.get("score"))
            for item in injected
        ]
        if uses:
            await memories.used(
                user_id=call.principal.user_id, request_id=call.request_id, uses=uses
            )

    return after


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
