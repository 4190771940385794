"""Knowledge: documents, cut into chunks that can be cited to the character, found with reasons.

`Knowledge` is what others hold: `add` reads and keeps a document, `search` finds chunks. What it
finds is data, never an instruction: every hit is `tainted`. Below it lie rag_knowledge and
vector_documents and the engine of `helix.retrieval`.
"""

from helix.knowledge.chunking import count_tokens, cut
from helix.knowledge.domain import Knowledge, build, chunking_of
from helix.knowledge.errors import (
    BadDocument,
    DocumentNotFound,
    DocumentTooLarge,
    ReadersBusy,
    UnreadableDocument,
)
from helix.knowledge.jobs import enqueue_embedding, register_jobs
from helix.knowledge.routes import build_router
from helix.knowledge.types import (
    Added,
    Chunk,
    ChunkId,
    Chunking,
    Document,
    DocumentId,
    Filters,
    Found,
    Hit,
    MediaType,
    NewDocument,
    Patch,
    Source,
    Stats,
)

__all__ = [
    "Added",
    "BadDocument",
    "Chunk",
    "ChunkId",
    "Chunking",
    "Document",
    "DocumentId",
    "DocumentNotFound",
    "DocumentTooLarge",
    "Filters",
    "Found",
    "Hit",
    "Knowledge",
    "MediaType",
    "NewDocument",
    "Patch",
    "ReadersBusy",
    "Source",
    "Stats",
    "UnreadableDocument",
    "build",
    "build_router",
    "chunking_of",
    "count_tokens",
    "cut",
    "enqueue_embedding",
    "register_jobs",
]
