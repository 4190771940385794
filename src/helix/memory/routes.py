"""The HTTP surface of memory: /api/memories, its search, its graph, its audits."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from helix.core.clock import Moment
from helix.memory import graph
from helix.memory.domain import Memories
from helix.memory.render import shown_found, shown_memory, shown_report
from helix.memory.search import HITS_MAX, QUERY_CHARS_MAX
from helix.memory.service import PAGE_MAX, USES_MAX
from helix.memory.types import Filters, MemoryId, NewMemory, Patch, Use
from helix.retrieval import Kind

__all__ = ["build_router"]

_BATCH_MAX = 1_000
Share = Annotated[Decimal, Field(ge=0, le=1, max_digits=5, decimal_places=4)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MemoryBody(_Body):
    """Something to remember."""

    content: str
    memory_type: Annotated[str, Field(min_length=1, max_length=50)] = "fact"
    speaker: Name | None = None
    session_id: UUID | None = None
    conversation_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    source_response_id: UUID | None = None
    confidence: Share = Decimal("0.8")
    importance: Share = Decimal("0.5")
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)

    def new(self) -> NewMemory:
        """Return it as the domain takes it."""
        return NewMemory(**{**self.model_dump(), "tags": tuple(self.tags)})


class BatchBody(_Body):
    """Up to 1,000 things to remember, all or none."""

    memories: list[MemoryBody] = Field(min_length=1, max_length=_BATCH_MAX)


class PatchBody(_Body):
    """A change; what is left out stays."""

    content: str | None = None
    memory_type: Annotated[str, Field(min_length=1, max_length=50)] | None = None
    speaker: Name | None = None
    confidence: Share | None = None
    importance: Share | None = None
    valid_from: Moment | None = None
    valid_to: Moment | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None

    def patch(self) -> Patch:
        """Return it as the domain takes it."""
        tags = None if self.tags is None else tuple(self.tags)
        return Patch(**{**self.model_dump(), "tags": tags})


class FilterBody(_Body):
    """Which memories to look at."""

    session_id: UUID | None = None
    conversation_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None
    memory_type: str | None = None
    at: Moment | None = None


class ListQuery(FilterBody):
    """Which memories to list, and from where on."""

    after_id: UUID | None = None
    merged: bool = False
    limit: int = Field(default=100, ge=1, le=PAGE_MAX)

    def filters(self) -> Filters:
        """Return the filters among them."""
        return Filters(**self.model_dump(include=set(FilterBody.model_fields)))


class SearchBody(_Body):
    """A question, and which memories to look at."""

    query: str = Field(min_length=1, max_length=QUERY_CHARS_MAX)
    max_count: int = Field(default=10, ge=1, le=HITS_MAX)
    filters: FilterBody = FilterBody()
    kind: Kind | None = Field(default=None, description="Weights; without it by who speaks.")
    explain: bool = True


class UsesBody(_Body):
    """The memories a request used, first come first."""

    request_id: UUID
    uses: list["UseBody"] = Field(min_length=1, max_length=USES_MAX)


class UseBody(_Body):
    """One of them."""

    memory_id: UUID
    score: float | None = Field(default=None, allow_inf_nan=False)


Identify = Callable[[Request], Awaitable[UUID]]


@dataclass(frozen=True)
class _Door:
    """What every route needs: the memories, whose they are, and who may erase their sources."""

    memories: Memories
    identify: Identify
    may_erase: Identify


def build_router(
    memories: Memories, identify: Identify, *, may_erase: Identify | None = None
) -> APIRouter:
    """Return the routes; `identify` tells whose memories a request may touch, or refuses it.

    `may_erase` refuses requests that would erase conversations and may not; None: as `identify`.
    """
    api = APIRouter(prefix="/api/memories", tags=["memory"])
    door = _Door(memories, identify, may_erase or identify)
    for add in (_add_memories, _add_upkeep, _add_graph, _add_memory):  # names before {memory_id}
        add(api, door)
    return api


def _add_memories(api: APIRouter, door: _Door) -> None:
    """Add, find, list and forget them."""
    memories = door.memories
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("", status_code=201)
    async def add(body: MemoryBody, user_id: User) -> dict[str, Any]:
        """Remember one thing; `duplicate` says that it was remembered already."""
        [one] = await memories.add(user_id=user_id, memories=[body.new()])
        memory = await memories.get(user_id=user_id, memory_id=one.id)
        return {**shown_memory(memory), "duplicate": one.duplicate}

    @api.post("/batch", status_code=201)
    async def add_many(body: BatchBody, user_id: User) -> dict[str, Any]:
        """Remember up to 1,000 things, all or none."""
        added = await memories.add(user_id=user_id, memories=[one.new() for one in body.memories])
        return {
            "data": [{"id": one.id, "duplicate": one.duplicate} for one in added],
            "added": sum(1 for one in added if not one.duplicate),
        }

    @api.post("/search")
    async def search(body: SearchBody, user_id: User) -> dict[str, Any]:
        """Find what answers a question, best first, with what each signal added."""
        found = await memories.search(
            user_id=user_id,
            query=body.query,
            filters=Filters(**body.filters.model_dump()),
            max_count=body.max_count,
            kind=body.kind,
        )
        return shown_found(found, explain=body.explain)

    @api.get("")
    async def listing(user_id: User, query: Annotated[ListQuery, Query()]) -> dict[str, Any]:
        """List memories, newest first; go on with the last id as `after_id`."""
        found = await memories.list(
            user_id=user_id,
            filters=query.filters(),
            merged=query.merged,
            after_id=query.after_id,
            max_count=query.limit,
        )
        return {"data": [shown_memory(memory) for memory in found]}

    @api.delete("")
    async def forget_all(
        request: Request,
        user_id: User,
        all: bool = False,  # noqa: A002
        sources: bool = False,
    ) -> dict[str, Any]:
        """Erase every memory of the caller, for good; needs `?all=true`.

        With `&sources=true` every conversation too, for which a key needs its scope as well.
        """
        if not all:
            return {"forgotten": 0, "hint": "add ?all=true to erase every memory for good"}
        if sources:
            await door.may_erase(request)
        count, talks = await memories.forget_all(user_id=user_id, sources=sources)
        kept = ["documents"] if sources else ["conversations (add &sources=true)", "documents"]
        return {"forgotten": count, "conversations_erased": talks, "kept": kept}


def _add_upkeep(api: APIRouter, door: _Door) -> None:
    """Say which were used; audit them, and take that back."""
    memories = door.memories
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("/uses", status_code=201)
    async def used(body: UsesBody, user_id: User) -> dict[str, Any]:
        """Record which memories a request used."""
        uses = [Use(MemoryId(use.memory_id), use.score) for use in body.uses]
        recorded = await memories.used(user_id=user_id, request_id=body.request_id, uses=uses)
        return {"recorded": recorded}

    @api.post("/audit")
    async def audit(user_id: User, apply: bool = False) -> dict[str, Any]:
        """Look for duplicates, contradictions, what was never used, junk; `apply` mends."""
        return shown_report(await memories.audit(user_id=user_id, apply=apply))

    @api.post("/undo")
    async def undo(user_id: User, batch_id: UUID | None = None) -> dict[str, Any]:
        """Take an audit's changes back, the newest batch without `batch_id`."""
        return {"restored": await memories.undo(user_id=user_id, batch_id=batch_id)}


def _add_graph(api: APIRouter, door: _Door) -> None:
    """What the memories speak of, and how that is related."""
    memories = door.memories
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type
    At = Annotated[Moment | None, Query()]  # noqa: N806 - a type

    @api.get("/entities")
    async def entities(
        user_id: User,
        type: str | None = None,  # noqa: A002 - a query parameter
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    ) -> dict[str, Any]:
        """List what the memories speak of, most spoken of first."""
        async with memories.unit(user_id) as conn:
            found = await graph.entities(conn, user_id=user_id, kind=type, max_count=limit)
        return {"data": found}

    @api.get("/graph/relations")
    async def relations(
        user_id: User,
        entity: str,
        at: At = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    ) -> dict[str, Any]:
        """Tell what is said of an entity, at a moment or ever."""
        async with memories.unit(user_id) as conn:
            found = await graph.relations(
                conn, user_id=user_id, name=entity, at=at, max_count=limit
            )
        return {"data": found}

    @api.get("/graph/neighbours")
    async def neighbours(
        user_id: User,
        entity: str,
        depth: Annotated[int, Query(ge=1, le=graph.DEPTH_MAX)] = 1,
        at: At = None,
    ) -> dict[str, Any]:
        """List entities within some relations, nearest first, with the way there."""
        async with memories.unit(user_id) as conn:
            found = await graph.neighbours(conn, user_id=user_id, name=entity, depth=depth, at=at)
        return {"data": found}

    @api.get("/graph/path")
    async def path(user_id: User, entity: str, to: str, at: At = None) -> dict[str, Any]:
        """Return the shortest way from one entity to another, or null."""
        async with memories.unit(user_id) as conn:
            found = await graph.path_between(conn, user_id=user_id, name=entity, other=to, at=at)
        return {"path": None if found is None else found.path}


def _add_memory(api: APIRouter, door: _Door) -> None:
    """Show, change and forget one."""
    memories = door.memories
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/{memory_id}")
    async def get(memory_id: UUID, user_id: User) -> dict[str, Any]:
        """Show a memory, and by which requests it was used."""
        own = MemoryId(memory_id)
        memory = await memories.get(user_id=user_id, memory_id=own)
        uses = await memories.uses_of(user_id=user_id, memory_id=own)
        return {**shown_memory(memory), "used_by": uses}

    @api.patch("/{memory_id}")
    async def change(memory_id: UUID, body: PatchBody, user_id: User) -> dict[str, Any]:
        """Change a memory."""
        changed = await memories.change(
            user_id=user_id, memory_id=MemoryId(memory_id), patch=body.patch()
        )
        return shown_memory(changed)

    @api.delete("/{memory_id}")
    async def forget(
        request: Request, memory_id: UUID, user_id: User, sources: bool = False
    ) -> dict[str, Any]:
        """Erase a memory for good, with everything derived from it.

        With `?sources=true` the conversation it was drawn from too, whole; a key needs the scope
        of conversations as well. Without, `conversations_kept` says which still have the words.
        """
        own = MemoryId(memory_id)
        await memories.get(user_id=user_id, memory_id=own)
        if sources:
            await door.may_erase(request)
        gone = await memories.forget(user_id=user_id, ids=[own], sources=sources)
        return {
            "forgotten": gone.ids,
            "conversations_erased": gone.conversations_erased,
            "conversations_kept": gone.conversations_kept,
        }
