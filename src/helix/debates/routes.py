"""/api/debates and /api/panels: start debates, read them, watch them live, call them off."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from helix.accounts import Principal, UserRole
from helix.core import sse
from helix.core.clock import Clock
from helix.core.db import Connection, Database, Role
from helix.core.errors import BadInput, Forbidden
from helix.debates import service
from helix.debates.code import Repositories
from helix.debates.defaults import Choose, fill_json
from helix.debates.panels import read_panel
from helix.debates.policy import read_spec
from helix.debates.transcript import as_json, as_markdown
from helix.debates.types import DebateId, EventType, Status
from helix.debates.watch import Watch

__all__ = ["build_router"]

BODY_BYTES_MAX = 1_000_000
_LAST = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED})
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class _Door:
    """What the routes share: the database, who calls, and what debates are made with."""

    db: Database
    identify: Callable[[Request], Awaitable[Principal]]
    watch: Watch
    repositories: Repositories
    choose: Choose
    clock: Clock

    def work(self, caller: Principal) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction that sees what the caller may."""
        return self.db.transaction(Role.APP, tenant=caller.user_id)

    def owned(self, caller: Principal, *, shared: bool) -> AbstractAsyncContextManager[Connection]:
        """Return a transaction that may change the caller's panels, or an admin's shared ones."""
        if not shared:
            return self.work(caller)
        if caller.role is not UserRole.ADMIN:
            raise Forbidden("shared panels are an admin's to change")
        return self.db.transaction(Role.OPERATOR)


def build_router(
    db: Database,
    identify: Callable[[Request], Awaitable[Principal]],
    *,
    watch: Watch,
    repositories: Repositories,
    choose: Choose,
    clock: Clock,
) -> APIRouter:
    """Return the routes. `identify` authenticates a request and checks the scope `debates`."""
    api = APIRouter(prefix="/api", tags=["debates"])
    door = _Door(db, identify, watch, repositories, choose, clock)
    for add in (_add_debates, _add_lessons, _add_one_debate, _add_panels):
        add(api, door)
    return api


def _add_debates(api: APIRouter, door: _Door) -> None:
    """Start and list debates."""
    Caller = Annotated[Principal, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("/debates", status_code=201)
    async def begin(request: Request, caller: Caller) -> Response:
        """Start a debate; it runs in the background. The body is a DebateSpec.

        Without participants the best models there are take part.
        """
        spec = read_spec(fill_json(await _body(request), door.choose))
        if spec.code is not None:
            door.repositories.locate(spec.code.repository)
        async with door.work(caller) as conn:
            debate = await service.start(
                conn,
                spec=spec,
                debate_id=DebateId(uuid4()),
                created_by=caller.user_id,
                now=door.clock.now(),
            )
        return _json(as_json(debate), status=201)

    @api.get("/debates")
    async def list_debates(
        caller: Caller,
        status: Status | None = None,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50,
    ) -> Response:
        """List debates, newest first; `before` is the last id of the page before."""
        async with door.work(caller) as conn:
            found = await service.list_debates(
                conn,
                status=status,
                before=DebateId(before) if before else None,
                max_count=limit,
            )
        return _json({"data": found, "has_more": len(found) == limit})


def _add_lessons(api: APIRouter, door: _Door) -> None:
    """What debates taught, and whether they paid."""
    Caller = Annotated[Principal, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/debates/value")
    async def value(
        caller: Caller, limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 50
    ) -> Response:
        """Say what debates changed and cost, the newest completed ones first."""
        async with door.work(caller) as conn:
            return _json({"data": await service.value(conn, max_count=limit)})

    @api.get("/debates/strategies")
    async def strategies(
        caller: Caller,
        role: str | None = None,
        attempts_min: Annotated[int, Query(ge=1)] = 3,
        limit: Annotated[int, Query(ge=1, le=service.PAGE_MAX)] = 20,
    ) -> Response:
        """Say what wins debates, by strategy, model and role, where enough is known."""
        async with door.work(caller) as conn:
            found = await service.best_strategies(
                conn, position=role, attempts_min=attempts_min, max_count=limit
            )
        return _json({"data": found})


def _add_one_debate(api: APIRouter, door: _Door) -> None:
    """Show, tell, watch and cancel one debate."""
    Caller = Annotated[Principal, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/debates/{debate_id}")
    async def show(debate_id: UUID, caller: Caller) -> Response:
        """Show a debate with all that was said, voted and found so far, and what it cost."""
        async with door.work(caller) as conn:
            debate = await service.get(conn, debate_id=DebateId(debate_id))
            paid = await service.value(conn, debate_id=DebateId(debate_id))
        return _json({**as_json(debate), "value": paid[0] if paid else None})

    @api.get("/debates/{debate_id}/transcript")
    async def transcript(
        debate_id: UUID,
        caller: Caller,
        form: Annotated[Literal["markdown", "json"], Query(alias="format")] = "markdown",
    ) -> Response:
        """Tell a debate as a readable page, or as JSON, at any time."""
        async with door.work(caller) as conn:
            debate = await service.get(conn, debate_id=DebateId(debate_id))
            if form == "json":
                told = await service.events_of(conn, debate_id=DebateId(debate_id))
                return _json({**as_json(debate), "events": told})
            paid = await service.value(conn, debate_id=DebateId(debate_id))
        page = as_markdown(debate, paid[0] if paid else None)
        return Response(page, media_type="text/markdown; charset=utf-8")

    @api.post("/debates/{debate_id}/cancel")
    async def cancel(debate_id: UUID, caller: Caller) -> Response:
        """Call a debate off, also while it runs."""
        async with door.work(caller) as conn:
            debate = await service.cancel(conn, debate_id=DebateId(debate_id), now=door.clock.now())
        return _json(as_json(debate))

    @api.get("/debates/{debate_id}/events")
    async def events(
        debate_id: UUID, caller: Caller, last_event_id: Annotated[str | None, Header()] = None
    ) -> StreamingResponse:
        """Watch a debate from its beginning, or from Last-Event-ID on (server-sent events).

        The stream ends with the debate.
        """
        after = _mark(last_event_id)
        async with door.work(caller) as conn:
            await service.get(conn, debate_id=DebateId(debate_id))
        return _followed(door, caller, DebateId(debate_id), after)


def _add_panels(api: APIRouter, door: _Door) -> None:
    """List, store and remove panels."""
    Caller = Annotated[Principal, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/panels")
    async def panels(caller: Caller) -> Response:
        """List the panels one may call as ensemble/<name> or debate/<name>."""
        async with door.work(caller) as conn:
            found = await service.list_panels(conn, user_id=caller.user_id)
        return _json({"data": found})

    @api.put("/panels/{kind}/{name}")
    async def put_panel(
        kind: service.Kind, name: str, request: Request, caller: Caller, *, shared: bool = False
    ) -> Response:
        """Store a panel of one's own, or with `shared=true`, as an admin, for everybody."""
        config = read_panel(kind, name, await _body(request))
        async with door.owned(caller, shared=shared) as conn:
            panel = await service.put_panel(
                conn,
                user_id=None if shared else caller.user_id,
                kind=kind,
                name=name,
                config=config,
            )
        return _json(panel)

    @api.delete("/panels/{kind}/{name}", status_code=204)
    async def remove_panel(
        kind: service.Kind, name: str, caller: Caller, *, shared: bool = False
    ) -> Response:
        """Remove a panel of one's own, or with `shared=true`, as an admin, a shared one."""
        async with door.owned(caller, shared=shared) as conn:
            await service.remove_panel(
                conn, user_id=None if shared else caller.user_id, kind=kind, name=name
            )
        return Response(status_code=204)


def _followed(door: _Door, caller: Principal, debate_id: DebateId, after: int) -> StreamingResponse:
    """Tell the events of a debate after a number, as they happen, to its end."""
    at = after

    async def read() -> tuple[list[sse.Told], bool]:
        nonlocal at
        async with door.work(caller) as conn:
            found = await service.events_of(conn, debate_id=debate_id, after=at)
            if not found:
                debate = await service.get(conn, debate_id=debate_id)
                return [], debate.completed_at is not None
        at = found[-1].sequence
        told = [
            sse.Told(str(e.sequence), e.event_type.value, msgspec.json.encode(e)) for e in found
        ]
        return told, found[-1].event_type in _LAST

    async def wait(timeout_s: float) -> None:
        await door.watch.wait(debate_id, after=at, timeout_s=timeout_s)

    return StreamingResponse(
        sse.follow(read, wait=wait),
        media_type="text/event-stream",
        headers={"cache-control": "no-store"},
    )


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise BadInput(f"the body has more than {BODY_BYTES_MAX} bytes")
        parts.append(part)
    return b"".join(parts)


def _mark(last_event_id: str | None) -> int:
    if last_event_id is None:
        return 0
    if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10):
        raise BadInput("Last-Event-ID is not one of this stream")
    return int(last_event_id)


def _json(record: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(record, enc_hook=str), status, media_type=_JSON)
