"""Answers of the Responses API that are fetched, gone on from, or deleted by their id.

Nothing is kept for it beside the record of calls: an id names a request, and its row says whose
it is. A response made with `store: false` is recorded like any call, but not found here.
"""

import msgspec

from helix.accounts import Principal
from helix.core.db import OUTAGES, Database, Role
from helix.core.errors import Unavailable
from helix.gateway.answers import whole_again
from helix.gateway.dialects import Responses
from helix.gateway.dialects.responses import (
    CHAIN_MAX,
    Kept,
    continued,
    deleted_body,
    input_items,
    is_kept,
    request_id_of,
)
from helix.gateway.errors import NotRecorded, ResponseNotFound, WrongField
from helix.gateway.intake import IntakeLimits
from helix.gateway.native import canonical_of
from helix.gateway.replay import body_of
from helix.gateway.store import Store
from helix.gateway.types import CallRequest, Recorded

__all__ = ["KeptResponses"]

_TROUBLE: tuple[type[BaseException], ...] = (Unavailable, *OUTAGES)

_INPUT_ITEMS = "/input_items"


class KeptResponses:
    """Reads responses from the record."""

    def __init__(self, db: Database, store: Store, intake: IntakeLimits) -> None:
        self._db = db
        self._store = store
        self._intake = intake
        self._dialect = Responses()

    async def answer(self, principal: Principal, given: str, *, delete: bool) -> bytes:
        """Return what is asked for by `given`: an id, or an id and /input_items.

        `delete` erases the texts of the call; its numbers stay. Raises ResponseNotFound.
        """
        name = given.removesuffix(_INPUT_ITEMS)
        text, found = await self._find(principal, name)
        told_id = str(found.request_id)
        if given != name:
            return input_items(text, told_id)
        if delete:
            async with self._db.transaction(Role.OPERATOR) as conn:
                await self._store.erase_texts(
                    conn, request_id=found.request_id, user_id=principal.user_id
                )
            return deleted_body(name)
        request = self._dialect.read(text.encode(), self._intake)
        return whole_again(body_of(found), self._dialect, request, told_id)

    async def go_on(self, principal: Principal, request: CallRequest) -> CallRequest:
        """Return a request that names a previous response with all that was said before it.

        Raises ResponseNotFound, or WrongField for a chain that is too long.
        """
        kept: list[Kept] = []
        previous = request.previous
        while previous is not None:
            if len(kept) >= CHAIN_MAX:
                raise WrongField(
                    "previous_response_id", f"more than {CHAIN_MAX} responses go on from another"
                )
            text, found = await self._find(principal, previous)
            raw = body_of(found)
            kept.append(Kept(text, canonical_of(msgspec.json.decode(raw), raw)))
            previous = self._dialect.read(text.encode(), self._intake).previous
        return continued(request, kept[::-1], self._intake)

    async def _find(self, principal: Principal, given: str) -> tuple[str, Recorded]:
        request_id = request_id_of(given)
        if request_id is None:
            raise ResponseNotFound(given)
        try:
            async with self._db.transaction(Role.APP, tenant=principal.user_id) as conn:
                text = await self._store.request_text(
                    conn, request_id=request_id, request_type="response"
                )
                found = await self._store.recorded(conn, request_id=request_id)
        except _TROUBLE as exc:
            raise NotRecorded from exc
        if text is None or found is None or found.raw_response is None or not is_kept(text):
            raise ResponseNotFound(given)
        return text, found
