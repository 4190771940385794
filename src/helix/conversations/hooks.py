"""Conversations around the gateway's calls: `helix.session` and `helix.context` of a request."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import msgspec

from helix.accounts import Principal
from helix.conversations.context import ContextOptions, ContextStrategy, read_options
from helix.conversations.domain import Conversations
from helix.gateway import AfterHook, BeforeHook, CallRequest, Injected, SettledCall, WrongField

__all__ = ["after_hook", "before_hook"]


def before_hook(
    conversations: Conversations, *, window_of: Callable[[str], int | None] = lambda _: None
) -> BeforeHook:
    """Return the hook that begins a turn, and assembles its context when the call asks for one.

    `window_of` tells how many tokens a model takes in, question and answer together, or None where
    nobody told: an assembled context stays below that, less what the call's answer may have.
    """

    async def before(
        request: CallRequest, principal: Principal, request_id: UUID
    ) -> Injected | None:
        asked = request.options
        try:
            options = _with_memory(read_options(asked.context), asked.memory)
        except ValueError as exc:
            raise WrongField("helix.context", str(exc)) from exc
        if asked.session is None:
            if options is not None:
                name = "helix.context" if asked.context else "helix.memory"
                raise WrongField(name, "it needs helix.session: name a conversation")
            return None
        raw = request.fields.get("messages")
        if options is not None and raw is None:
            raise WrongField("helix.context", "only calls with messages can have one")
        prepared = await conversations.before(
            request_id=request_id,
            user_id=principal.user_id,
            session=asked.session,
            messages=[] if raw is None or options is None else msgspec.json.decode(raw),
            options=options,
            project_id=asked.project_id,
            window_tokens=_room(window_of(request.model), request.fields),
        )
        return Injected(
            messages=prepared.messages, memory=prepared.memory, session_id=prepared.session_id
        )

    return before


def _room(window: int | None, fields: Mapping[str, Any]) -> int | None:
    """Return what of a window is left beside the longest answer that the call asks for."""
    if window is None:
        return None
    asked = 0
    for name in ("max_completion_tokens", "max_tokens"):
        value = msgspec.json.decode(fields[name]) if name in fields else None
        if type(value) is int and value > asked:
            asked = value
    return max(1, window - asked)


def _with_memory(options: ContextOptions | None, memory: bool | None) -> ContextOptions | None:
    """Return the options with what `helix.memory` says: true recalls memories, false recalls none.

    True without `helix.context` is a context with the defaults. Raises WrongField when the two
    contradict each other.
    """
    if memory is None:
        return options
    if not memory:
        return None if options is None else replace(options, memories=0)
    options = options or ContextOptions()
    if options.strategy is not ContextStrategy.HYBRID or not options.memories:
        raise WrongField("helix.memory", "helix.context asks for no memories: leave one of the two")
    return options


def after_hook(conversations: Conversations) -> AfterHook:
    """Return the hook that records a call within a conversation; the sweep finds what it missed."""

    async def after(call: SettledCall) -> None:
        if call.helix.get("session") is not None:
            await conversations.after(request_id=call.request_id, user_id=call.principal.user_id)

    return after
