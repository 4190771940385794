"""The nouns of knowledge: documents, the blocks a reader finds in them, chunks, hits."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NewType
from uuid import UUID

__all__ = [
    "Added",
    "Block",
    "BlockKind",
    "Chunk",
    "ChunkId",
    "Chunking",
    "Document",
    "DocumentId",
    "Filters",
    "Found",
    "Hit",
    "MediaType",
    "NewDocument",
    "Patch",
    "Piece",
    "Reading",
    "Source",
    "Stats",
]

DocumentId = NewType("DocumentId", UUID)
ChunkId = NewType("ChunkId", UUID)


class MediaType(StrEnum):
    """What can be read."""

    TEXT = "text/plain"
    MARKDOWN = "text/markdown"
    HTML = "text/html"
    PDF = "application/pdf"


class Source(StrEnum):
    """Where knowledge comes from. The same list stands in the CHECK of rag_knowledge.source."""

    MANUAL = "manual"
    CHECKPOINT = "checkpoint"
    AGENT_LEARNING = "agent_learning"


class BlockKind(StrEnum):
    """What a stretch of text is, as far as cutting it goes."""

    TEXT = "text"
    HEADING = "heading"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a document's text: characters `start` up to `end`; `level` 1-6 of a heading."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader found: the text, its blocks in order, where pages begin (empty: no pages)."""

    text: str
    blocks: tuple[Block, ...] = ()
    page_starts: tuple[int, ...] = ()
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a text is cut: at most `tokens` a chunk, of which up to `overlap` repeat the last one."""

    tokens: int = 220
    overlap: int = 30


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk before it is kept: characters `start` up to `end` of the text."""

    start: int
    end: int
    headings: tuple[str, ...]
    tokens: int
    first_page: int | None = None
    last_page: int | None = None


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to add. `key` names it for its owner: a new text under it replaces the old.

    `quality` 0 to 1 is somebody's word; without it a rule decides. `content` are the bytes as they
    came; the text is read from them.
    """

    content: bytes
    media_type: MediaType = MediaType.TEXT
    title: str | None = None
    key: str | None = None
    knowledge_type: str = "document"
    source: Source = Source.MANUAL
    project_id: UUID | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    quality: Decimal | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a document.

    `duplicate`: the user has these very bytes, nothing was added. `replaced`: an older text under
    its key is gone.
    """

    id: DocumentId
    version: int
    chunks: int
    duplicate: bool = False
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is kept, without its text; `chars` is how long that is."""

    id: DocumentId
    user_id: UUID
    project_id: UUID | None
    knowledge_type: str
    title: str
    key: str | None
    media_type: str
    source: str | None
    quality: Decimal | None
    quality_by: str
    tags: tuple[str, ...]
    metadata: dict[str, Any]
    version: int
    chars: int
    pages: int
    chunks: int
    embedded: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document; `content` is its text from `start` up to `end`, to the letter."""

    id: ChunkId
    document_id: DocumentId
    number: int
    content: str
    start: int
    end: int
    first_page: int | None
    last_page: int | None
    headings: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Filters:
    """Which documents to look at; what is None does not matter. `tags`: those that have all."""

    knowledge_type: str | None = None
    source: Source | None = None
    document_ids: tuple[DocumentId, ...] | None = None
    project_id: UUID | None = None
    tags: tuple[str, ...] = ()
    quality_min: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of a document; what is None stays.

    `forget_expiry` takes the end away, `rule_quality` gives the quality back to the rule.
    """

    title: str | None = None
    knowledge_type: str | None = None
    source: Source | None = None
    quality: Decimal | None = None
    rule_quality: bool = False
    expires_at: datetime | None = None
    forget_expiry: bool = False
    tags: tuple[str, ...] | None = None
    metadata: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk found, with its document, its score, and what each signal added.

    `before` and `after` are the chunks beside it, in the order of the document. Its text came from
    outside: it is data for a model and never an instruction (`tainted` is always True).
    """

    chunk: Chunk
    document: Document
    score: float
    parts: dict[str, float]
    before: tuple[Chunk, ...] = ()
    after: tuple[Chunk, ...] = ()
    tainted: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """The answer of a search. `vectors` names the model that was used, or says why none was;

    `unembedded` is how many of the chunks looked at had no vector.
    """

    hits: list[Hit]
    vectors: str
    considered: int
    unembedded: int
    exact: bool
    took_ms: float
    embedding_ms: float


@dataclass(frozen=True, slots=True)
class Stats:
    """What a user has: counts, and how many chunks wait for a vector of the model in use."""

    documents: int
    expired: int
    chunks: int
    embedded: int
    chars: int
    by_type: dict[str, int]
    by_source: dict[str, int]
