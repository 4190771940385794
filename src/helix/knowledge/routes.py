"""The HTTP surface of knowledge: /api/knowledge, its files, its search."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from helix.core.clock import Moment
from helix.knowledge.domain import CHUNKS_PAGE_MAX, TEXT_CHARS_MAX, Knowledge
from helix.knowledge.errors import BadDocument, DocumentTooLarge
from helix.knowledge.policy import HITS_MAX, KEY_CHARS_MAX, NEIGHBOURS_MAX, QUERY_CHARS_MAX
from helix.knowledge.reading import media_type_of
from helix.knowledge.render import shown_added, shown_chunk, shown_document, shown_found
from helix.knowledge.service import PAGE_MAX
from helix.knowledge.types import DocumentId, Filters, MediaType, NewDocument, Patch, Source

__all__ = ["build_router"]

Quality = Annotated[Decimal, Field(ge=0, le=1, max_digits=3, decimal_places=2)]
Kind = Annotated[str, Field(min_length=1, max_length=50)]
Title = Annotated[str, Field(min_length=1, max_length=255)]
Key = Annotated[str, Field(min_length=1, max_length=KEY_CHARS_MAX)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _About(_Body):
    """What is said about a document that is added."""

    media_type: MediaType | None = None
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = Field(
        default=None, description="A file name: its ending tells the type when that is left out."
    )
    title: Title | None = None
    key: Key | None = Field(
        default=None, description="Your name for it; another text under it replaces this one."
    )
    knowledge_type: Kind = "document"
    source: Source = Source.MANUAL
    project_id: UUID | None = None
    tags: list[str] = Field(default_factory=list)
    quality: Quality | None = None
    expires_at: Moment | None = None

    def new(self, content: bytes, fallback: MediaType, metadata: dict[str, Any]) -> NewDocument:
        """Return it as the domain takes it."""
        told = self.media_type or (media_type_of(self.name) if self.name else None) or fallback
        return NewDocument(
            content,
            media_type=told,
            title=self.title,
            key=self.key,
            knowledge_type=self.knowledge_type,
            source=self.source,
            project_id=self.project_id,
            tags=tuple(self.tags),
            metadata=metadata,
            quality=self.quality,
            expires_at=self.expires_at,
        )


class DocumentBody(_About):
    """A document: its text in `content`, or a file in `file`, base64."""

    content: str | None = None
    file: str | None = Field(default=None, description="The bytes of a file in base64.")
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> "DocumentBody":
        if (self.content is None) == (self.file is None):
            raise ValueError("give `content` (text) or `file` (base64), one of them")
        return self

    def document(self) -> NewDocument:
        """Return it as the domain takes it. Raises BadDocument."""
        if self.content is not None:
            try:
                return self.new(self.content.encode(), MediaType.TEXT, self.metadata)
            except UnicodeEncodeError as exc:
                raise BadDocument("content: holds half a surrogate pair", param="content") from exc
        try:
            content = base64.b64decode(self.file or "", validate=True)
        except (binascii.Error, ValueError) as exc:
            raise BadDocument("file: this is not base64", param="file") from exc
        fallback = MediaType.PDF if content.startswith(b"%PDF-") else MediaType.TEXT
        return self.new(content, fallback, self.metadata)


class FileQuery(_About):
    """What is said about a file whose bytes are the body."""


class PatchBody(_Body):
    """A change; what is left out stays. `expires_at` null: it never expires; `quality` null: the

    rule decides again.
    """

    title: Title | None = None
    knowledge_type: Kind | None = None
    source: Source | None = None
    quality: Quality | None = None
    expires_at: Moment | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None

    def patch(self) -> Patch:
        """Return it as the domain takes it."""
        given = self.model_fields_set
        return Patch(
            title=self.title,
            knowledge_type=self.knowledge_type,
            source=self.source,
            quality=self.quality,
            rule_quality="quality" in given and self.quality is None,
            expires_at=self.expires_at,
            forget_expiry="expires_at" in given and self.expires_at is None,
            tags=None if self.tags is None else tuple(self.tags),
            metadata=self.metadata,
        )


class FilterBody(_Body):
    """Which documents to look at."""

    knowledge_type: str | None = None
    source: Source | None = None
    project_id: UUID | None = None
    tags: list[str] = Field(default_factory=list)
    quality_min: Quality | None = None

    def filters(self, document_ids: list[UUID] | None = None) -> Filters:
        """Return them as the domain takes them."""
        return Filters(
            knowledge_type=self.knowledge_type,
            source=self.source,
            project_id=self.project_id,
            tags=tuple(self.tags),
            quality_min=self.quality_min,
            document_ids=None
            if document_ids is None
            else tuple(DocumentId(one) for one in document_ids),
        )


class SearchFilters(FilterBody):
    """Which documents to search."""

    document_ids: list[UUID] | None = None


class ListQuery(FilterBody):
    """Which documents to list, and from where on."""

    expired: bool = False
    after_id: UUID | None = None
    limit: int = Field(default=100, ge=1, le=PAGE_MAX)


class SearchBody(_Body):
    """A question, and which documents to look at."""

    query: str = Field(min_length=1, max_length=QUERY_CHARS_MAX)
    max_count: int = Field(default=10, ge=1, le=HITS_MAX)
    neighbours: int = Field(
        default=0, ge=0, le=NEIGHBOURS_MAX, description="Chunks before and after each hit."
    )
    filters: SearchFilters = SearchFilters()
    explain: bool = True


async def _bytes_of(request: Request, most: int) -> bytes:
    """Return the body, read no further than `most` bytes. Raises DocumentTooLarge."""
    parts: list[bytes] = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise DocumentTooLarge(f"more than {most} bytes", f"knowledge_file_bytes_max ({most})")
        parts.append(part)
    return b"".join(parts)


Identify = Callable[[Request], Awaitable[UUID]]


@dataclass(frozen=True)
class _Door:
    """What every route needs: the documents, and whose they are."""

    knowledge: Knowledge
    identify: Identify


def build_router(knowledge: Knowledge, identify: Identify) -> APIRouter:
    """Return the routes; `identify` tells whose knowledge a request may touch, or refuses it."""
    api = APIRouter(prefix="/api/knowledge", tags=["knowledge"])
    door = _Door(knowledge, identify)
    for add in (_add_documents, _add_search, _add_document):  # names before {document_id}
        add(api, door)
    return api


def _add_documents(api: APIRouter, door: _Door) -> None:
    """Add documents."""
    knowledge = door.knowledge
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type

    async def kept(user_id: UUID, document: NewDocument) -> dict[str, Any]:
        added = await knowledge.add(user_id=user_id, document=document)
        whole = await knowledge.get(user_id=user_id, document_id=added.id)
        return shown_added(added, whole)

    @api.post("", status_code=201)
    async def add(body: DocumentBody, user_id: User) -> dict[str, Any]:
        """Add a document; `duplicate` says that these very bytes were there already."""
        return await kept(user_id, body.document())

    @api.post("/file", status_code=201)
    async def add_file(
        request: Request, user_id: User, about: Annotated[FileQuery, Query()]
    ) -> dict[str, Any]:
        """Add a file: its bytes are the body, `Content-Type` or `name` tells what it is."""
        content = await _bytes_of(request, knowledge.limits.bytes_max)
        header = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        known = {kind.value: kind for kind in MediaType}
        fallback = known.get(header)
        if fallback is None:
            fallback = MediaType.PDF if content.startswith(b"%PDF-") else MediaType.TEXT
        return await kept(user_id, about.new(content, fallback, {}))


def _add_search(api: APIRouter, door: _Door) -> None:
    """Search, list and count them."""
    knowledge = door.knowledge
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type

    @api.post("/search")
    async def search(body: SearchBody, user_id: User) -> dict[str, Any]:
        """Find what answers a question, best first; each hit cites document, chunk and offsets."""
        found = await knowledge.search(
            user_id=user_id,
            query=body.query,
            filters=body.filters.filters(body.filters.document_ids),
            max_count=body.max_count,
            neighbours=body.neighbours,
        )
        return shown_found(found, explain=body.explain)

    @api.get("")
    async def listing(user_id: User, query: Annotated[ListQuery, Query()]) -> dict[str, Any]:
        """List documents, newest first; go on with the last id as `after_id`."""
        found = await knowledge.list(
            user_id=user_id,
            filters=query.filters(),
            expired=query.expired,
            after_id=query.after_id,
            max_count=query.limit,
        )
        return {"data": [shown_document(document) for document in found]}

    @api.get("/stats")
    async def stats(user_id: User) -> dict[str, Any]:
        """Count documents, chunks, vectors and characters."""
        found = await knowledge.stats(user_id=user_id)
        return {name: getattr(found, name) for name in found.__slots__}


def _add_document(api: APIRouter, door: _Door) -> None:
    """Show, read, change and remove one."""
    knowledge = door.knowledge
    User = Annotated[UUID, Depends(door.identify)]  # noqa: N806 - a type

    @api.get("/{document_id}")
    async def get(document_id: UUID, user_id: User) -> dict[str, Any]:
        """Show a document."""
        found = await knowledge.get(user_id=user_id, document_id=DocumentId(document_id))
        return shown_document(found)

    @api.get("/{document_id}/text")
    async def text(
        document_id: UUID,
        user_id: User,
        start: Annotated[int, Query(ge=0, le=2**31 - 2)] = 0,
        length: Annotated[int, Query(ge=0, le=TEXT_CHARS_MAX)] = 100_000,
    ) -> dict[str, Any]:
        """Return a stretch of its text: what a citation's `start` and `end` point into."""
        found = await knowledge.text(
            user_id=user_id, document_id=DocumentId(document_id), start=start, length=length
        )
        return {"document_id": document_id, "start": start, "text": found, "tainted": True}

    @api.get("/{document_id}/chunks")
    async def chunks(
        document_id: UUID,
        user_id: User,
        from_number: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
        limit: Annotated[int, Query(ge=1, le=CHUNKS_PAGE_MAX)] = 100,
    ) -> dict[str, Any]:
        """List its chunks in order."""
        found = await knowledge.chunks(
            user_id=user_id,
            document_id=DocumentId(document_id),
            from_number=from_number,
            max_count=limit,
        )
        return {"data": [shown_chunk(chunk) for chunk in found]}

    @api.patch("/{document_id}")
    async def change(document_id: UUID, body: PatchBody, user_id: User) -> dict[str, Any]:
        """Change what is said about a document: quality, expiry, title, tags …"""
        changed = await knowledge.change(
            user_id=user_id, document_id=DocumentId(document_id), patch=body.patch()
        )
        return shown_document(changed)

    @api.delete("/{document_id}")
    async def remove(document_id: UUID, user_id: User) -> dict[str, Any]:
        """Remove a document for good, with its chunks and vectors."""
        own = DocumentId(document_id)
        await knowledge.get(user_id=user_id, document_id=own)
        return {"removed": await knowledge.remove(user_id=user_id, ids=[own])}
