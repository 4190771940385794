"""Conversations around the gateway's calls: `helix.session` and `helix.context` of a request."""

from uuid import UUID

import msgspec

from helix.accounts import Principal
from helix.conversations.context import read_options
from helix.conversations.domain import Conversations
from helix.gateway import AfterHook, BeforeHook, CallRequest, Injected, SettledCall, WrongField

__all__ = ["after_hook", "before_hook"]


def before_hook(conversations: Conversations) -> BeforeHook:
    """Return the hook that begins a turn, and assembles its context when the call asks for one."""

    async def before(
        request: CallRequest, principal: Principal, request_id: UUID
    ) -> Injected | None:
        asked = request.options
        try:
            options = read_options(asked.context)
        except ValueError as exc:
            raise WrongField("helix.context", str(exc)) from exc
        if asked.session is None:
            if options is not None:
                raise WrongField("helix.context", "it needs helix.session: name a conversation")
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
        )
        return Injected(
            messages=prepared.messages, memory=prepared.memory, session_id=prepared.session_id
        )

    return before


def after_hook(conversations: Conversations) -> AfterHook:
    """Return the hook that records a call within a conversation; the sweep finds what it missed."""

    async def after(call: SettledCall) -> None:
        if call.helix.get("session") is not None:
            await conversations.after(request_id=call.request_id, user_id=call.principal.user_id)

    return after
