"""What tests of memory share: a domain on the test's database, an embedder that is a whole one."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database
from helix.memory import Memories, NewMemory
from helix.retrieval import Embedder
from tests.factories import make_user

Array = np.ndarray[Any, np.dtype[Any]]
DIMENSION = 384


class HashEmbedder:
    """A bag of hashed words as a vector: deterministic, and alike for texts that share words."""

    provider = "test"
    dimension = DIMENSION

    def __init__(self, model: str = "hash-384") -> None:
        self.model = model
        self.asked: list[str] = []

    async def embed(self, texts: Sequence[str], *, user_id: UUID) -> Array:
        self.asked += texts
        out = np.zeros((len(texts), DIMENSION), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or ["nothing"]:
                digest = hashlib.sha256(word.encode()).digest()
                out[row, int.from_bytes(digest[:4], "big") % DIMENSION] += 1
        unit: Array = out / np.linalg.norm(out, axis=1, keepdims=True)
        return unit


async def a_user(owner: Connection) -> UUID:
    """Make a user and return the id."""
    return UUID(str((await make_user(owner))["id"]))


def memories_on(db: Database, embedder: Embedder | None = None) -> Memories:
    """Return the domain as a tenant uses it."""
    return Memories(db, embedder, SystemClock())


def said(content: str, speaker: str | None = None, **fields: Any) -> NewMemory:
    """Return something to remember."""
    return NewMemory(content, speaker=speaker, **fields)


def day(text: str) -> datetime:
    """Return midnight, UTC, of a day."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def contents(memories: Memories, user_id: UUID, query: str, **options: Any) -> list[str]:
    """Return what a search finds, best first."""
    found = await memories.search(user_id=user_id, query=query, **options)
    return [hit.memory.content for hit in found.hits]
