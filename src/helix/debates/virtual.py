"""`debate/<name>`: a debate called like a model. The panel says how, the conversation on what.

The debate's calls are requests of their own, each with its reservation and its row, whose parent is
the request that is answered here; that request itself costs nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

from helix.accounts import Principal, Scope, ScopeMissing
from helix.core.clock import Clock
from helix.core.db import Database, Role
from helix.core.errors import BadInput
from helix.debates.defaults import DEFAULT, Choose, fill
from helix.debates.ensembles.virtual import pieces_of
from helix.debates.errors import DebateEnded, DebateFailed, PanelNotFound
from helix.debates.policy import read_spec
from helix.debates.service import cancel, find_for_request, get, get_panel, list_panels, start
from helix.debates.types import ENDED, Debate, DebateId, DebateSpec, Status
from helix.debates.watch import Watch
from helix.gateway import Asked, VirtualCall
from helix.providers import ModelNotFound

__all__ = ["DebateModels"]

PREFIX = "debate"
_LOOK_AGAIN_S = 5.0
_TOPIC_CHARS_MAX = 20_000
_DESCRIPTION_CHARS_MAX = 100_000


class DebateModels:
    """Answers the models `debate/…`; see gateway.VirtualModel."""

    def __init__(
        self,
        db: Database,
        watch: Watch,
        clock: Clock,
        *,
        choose: Choose,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._db = db
        self._watch = watch
        self._clock = clock
        self._choose = choose
        self._new_id = new_id

    async def names(self, principal: Principal) -> list[str]:
        """Return the debates this caller may call."""
        if not principal.allows(Scope.DEBATES):
            return []
        async with self._db.transaction(Role.APP, tenant=principal.user_id) as conn:
            panels = await list_panels(conn, user_id=principal.user_id, kind="debate")
        names = [DEFAULT] if self._choose() else []
        names += [panel.name for panel in panels]
        return list(dict.fromkeys(f"{PREFIX}/{name}" for name in names))

    async def asks(
        self, principal: Principal, name: str, fields: Mapping[str, Any]
    ) -> Sequence[Asked]:
        """Return nothing: each call of the debate reserves for itself. Checks that it may be."""
        await self._spec(principal, name, fields)
        return []

    async def answer(self, call: VirtualCall) -> AsyncIterator[dict[str, Any]]:
        """Hold the debate and tell its conclusion; who leaves meanwhile calls it off."""
        spec = await self._spec(call.principal, call.name, call.fields)
        user_id = call.principal.user_id
        async with self._db.transaction(Role.APP, tenant=user_id) as conn:
            debate_id = await find_for_request(conn, request_id=call.request_id)
            if debate_id is None:
                debate_id = DebateId(self._new_id())
                await start(
                    conn,
                    spec=spec,
                    debate_id=debate_id,
                    created_by=user_id,
                    now=self._clock.now(),
                    request_id=call.request_id,
                    panel=call.name,
                )
        try:
            debate = await self._ended(user_id, debate_id)
        except asyncio.CancelledError:
            await asyncio.shield(self._call_off(user_id, debate_id))
            raise
        if debate.status is not Status.COMPLETED or debate.final_conclusion is None:
            why = debate.error or f"it was {debate.status.value}"
            raise DebateFailed(f"debate {debate_id}: {why}")
        call.answered(
            debate.final_conclusion,
            confidence=None if debate.confidence is None else float(debate.confidence),
        )
        for chunk in pieces_of(debate.final_conclusion, None):
            yield chunk

    async def _ended(self, user_id: UUID, debate_id: DebateId) -> Debate:
        while True:
            async with self._db.transaction(Role.APP, tenant=user_id) as conn:
                debate = await get(conn, debate_id=debate_id)
            if debate.status in ENDED:
                return debate
            await self._watch.wait(debate_id, after=debate.event_count, timeout_s=_LOOK_AGAIN_S)

    async def _call_off(self, user_id: UUID, debate_id: DebateId) -> None:
        with suppress(DebateEnded):
            async with self._db.transaction(Role.APP, tenant=user_id) as conn:
                await cancel(conn, debate_id=debate_id, now=self._clock.now())

    async def _spec(self, principal: Principal, name: str, fields: Mapping[str, Any]) -> DebateSpec:
        if not principal.allows(Scope.DEBATES):
            raise ScopeMissing(Scope.DEBATES.value)
        config: Mapping[str, Any] = {}
        async with self._db.transaction(Role.APP, tenant=principal.user_id) as conn:
            try:
                panel = await get_panel(conn, user_id=principal.user_id, kind="debate", name=name)
                config = panel.config
            except PanelNotFound as exc:
                if name != DEFAULT:
                    raise ModelNotFound(f"{PREFIX}/{name}") from exc
        topic, before = _asked(fields.get("messages"))
        description = "\n\n".join(t for t in (config.get("description"), before) if t)
        told = {**config, "topic": topic, "description": description or None}
        return read_spec(fill(told, self._choose))


def _asked(messages: Any) -> tuple[str, str]:
    """Return the last message of the user, and what was said before it, as text."""
    told = [
        (m.get("role", "user"), _text(m.get("content")))
        for m in (messages if isinstance(messages, list) else [])
        if isinstance(m, Mapping)
    ]
    at = max((n for n, (role, text) in enumerate(told) if role == "user" and text), default=None)
    if at is None:
        raise BadInput("a debate needs a message of the user with text", param="messages")
    # Lines after the first are set in, so that no text can begin a turn of somebody else's.
    before = "\n\n".join(
        f"{role}: {text}".replace("\n", "\n  ") for role, text in told[:at] if text
    )
    return told[at][1][:_TOPIC_CHARS_MAX], before[-_DESCRIPTION_CHARS_MAX // 2 :]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return ""
