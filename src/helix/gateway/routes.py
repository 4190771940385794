"""GET /api/calls and /api/calls/{id}: from a request id to the record of the call."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from helix.accounts import Accounts, Principal, Scope, ScopeMissing, UserRole
from helix.core.clock import Moment
from helix.core.db import Database, Role
from helix.core.errors import BadInput
from helix.core.ids import uuid_floor
from helix.gateway.store import CallFilter, Store

__all__ = ["build_router"]

PAGE_MAX = 200


def build_router(db: Database, accounts: Accounts) -> APIRouter:
    """Return the routes of recorded calls: a caller's own, for an admin everybody's.

    They need the scope usage: a record holds the texts of all the caller's keys.
    """
    api = APIRouter(prefix="/api/calls", tags=["calls"])
    store = Store()

    async def caller(request: Request) -> Principal:
        header = request.headers.get("authorization")
        principal = await accounts.identify(None if header is None else header.encode("latin-1"))
        if not principal.allows(Scope.USAGE):
            raise ScopeMissing(Scope.USAGE.value)
        return principal

    Caller = Annotated[Principal, Depends(caller)]  # noqa: N806 - a type

    @api.get("")
    async def list_calls(
        principal: Caller,
        *,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
        before: Annotated[
            UUID | None, Query(description="The `next` of the page before this one.")
        ] = None,
        status: Literal["pending", "running", "completed", "failed"] | None = None,
        model: Annotated[str | None, Query(max_length=255)] = None,
        session: UUID | None = None,
        project: UUID | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
    ) -> Response:
        """List calls, the newest first; without texts."""
        if since is not None and until is not None and since > until:
            raise BadInput("since: it is later than until", param="since")
        wanted = CallFilter(
            status=status,
            model_name=model,
            session_id=session,
            project_id=project,
            floor=_floor(since),
            ceiling=_floor(until),
        )
        role, tenant = _as(principal)
        async with db.transaction(role, tenant=tenant) as conn:
            calls = await store.page(conn, wanted=wanted, before=before, max_count=limit + 1)
        shown = calls[:limit]
        more = str(shown[-1]["request_id"]) if len(calls) > limit else None
        return _json({"data": shown, "next": more})

    @api.get("/{call_id}")
    async def show_call(principal: Caller, call_id: UUID) -> Response:
        """Show all that is recorded of a call: texts, every try, tokens, price, cost, times.

        Its id is that of the request, as x-request-id tells it, or of one of its answers.
        """
        role, tenant = _as(principal)
        async with db.transaction(role, tenant=tenant) as conn:
            return _json(await store.show(conn, call_id=call_id))

    return api


def _as(principal: Principal) -> tuple[Role, UUID | None]:
    """Return the role that sees what a caller may see; the tenant's own rows for all but admins."""
    if principal.role is UserRole.ADMIN and principal.allows(Scope.ADMIN):
        return Role.OPERATOR, None
    return Role.APP, principal.user_id


def _floor(moment: datetime | None) -> UUID | None:
    return None if moment is None else uuid_floor(moment)


def _json(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
