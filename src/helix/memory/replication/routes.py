"""/api/memory/…: what nodes ask of each other, and what operators ask of them. Scope admin."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from helix.core.clock import Clock
from helix.core.db import Database, Role
from helix.core.errors import BadInput, TooLarge
from helix.memory.replication import conflicts
from helix.memory.replication.client import BATCH_BYTES_MAX, pack, unpack
from helix.memory.replication.domain import PULL_BATCH, Replication
from helix.memory.replication.policy import BATCH_MAX
from helix.memory.replication.types import Mark

__all__ = ["build_node_router"]

_NODE = r"^[a-z0-9][a-z0-9._-]{0,62}$"


class ResolveBody(BaseModel):
    """How to settle a conflict; with neither, what the merge made of it is accepted."""

    model_config = ConfigDict(extra="forbid")

    keep: Annotated[str, Field(pattern="^(local|remote)$")] | None = None
    content: str | None = None


async def _body(request: Request) -> bytes:
    """Read a body of at most 64 MB."""
    parts, held = [], 0
    async for part in request.stream():
        held += len(part)
        if held > BATCH_BYTES_MAX:
            raise TooLarge(f"a batch of more than {BATCH_BYTES_MAX} bytes: send fewer events")
        parts.append(part)
    return b"".join(parts)


def build_node_router(
    replication: Replication,
    db: Database,
    clock: Clock,
    identify: Callable[[Request], Awaitable[UUID]],
    *,
    compress: bool,
) -> APIRouter:
    """Return the routes; `identify` lets through who may act for a node, or refuses."""
    api = APIRouter(prefix="/api/memory", tags=["memory nodes"])
    Operator = Annotated[UUID, Depends(identify)]  # noqa: N806 - a type

    @api.get("/replication/events")
    async def read(
        request: Request,
        _: Operator,
        node: Annotated[str, Query(pattern=_NODE)],
        after: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=BATCH_MAX)] = PULL_BATCH,
    ) -> Response:
        """Give the events that `node` has not read yet, from the mark of its last answer on."""
        mark = None if after is None else Mark.parse(after)
        batch = await replication.give_feed(reader=node, after=mark, limit=limit)
        wanted = compress and "gzip" in request.headers.get("accept-encoding", "")
        body, gzipped = pack(batch, compress=wanted)
        headers = {"Content-Encoding": "gzip"} if gzipped else {}
        return Response(body, 200, headers, "application/json")

    @api.post("/replication/events")
    async def take(request: Request, _: Operator) -> dict[str, int]:
        """Take in events of another node; sending them again changes nothing."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding not in {"gzip", "identity"}:
            raise BadInput("content-encoding: only gzip is read", param="content-encoding")
        batch = unpack(await _body(request), gzipped=encoding == "gzip")
        if len(batch.events) > BATCH_MAX:
            raise TooLarge(f"{len(batch.events)} events at once, at most {BATCH_MAX}")
        taken = await replication.take_pushed(batch)
        return {
            "applied": taken.applied,
            "known": taken.known,
            "refused": taken.refused,
            "conflicts": taken.conflicts,
        }

    @api.get("/nodes")
    async def nodes(_: Operator) -> dict[str, Any]:
        """List the nodes, this one first, with status, lag and how far each has read."""
        return {"data": await replication.nodes()}

    @api.get("/conflicts")
    async def listing(
        _: Operator,
        open: bool = False,  # noqa: A002 - a query parameter
        user_id: UUID | None = None,
        after_id: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=conflicts.PAGE_MAX)] = 100,
    ) -> dict[str, Any]:
        """List conflicts, newest first; go on with the last id as `after_id`."""
        async with db.transaction(Role.OPERATOR) as conn:
            found = await conflicts.list_conflicts(
                conn, open_only=open, user_id=user_id, after_id=after_id, max_count=limit
            )
            stats = await conflicts.conflict_stats(conn)
        return {"data": found, "stats": stats}

    @api.get("/conflicts/{conflict_id}")
    async def show(conflict_id: UUID, _: Operator) -> dict[str, Any]:
        """Show a conflict: what each side said, and what holds now."""
        async with db.transaction(Role.OPERATOR) as conn:
            return await conflicts.conflict_shown(conn, conflict_id=conflict_id)

    @api.post("/conflicts/{conflict_id}/resolve")
    async def resolve(conflict_id: UUID, body: ResolveBody, user_id: Operator) -> dict[str, Any]:
        """Settle a conflict by one side, a new text, or as the merge did."""
        async with db.transaction(Role.OPERATOR) as conn:
            settled = await conflicts.resolve_conflict(
                conn,
                conflict_id=conflict_id,
                keep=body.keep,
                content=body.content,
                resolved_by=str(user_id),
                now=clock.now(),
            )
        return {"conflict": settled}

    return api
