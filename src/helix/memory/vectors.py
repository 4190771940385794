"""Giving memories their vectors, after they are committed and without holding a connection."""

import hashlib
from uuid import UUID

from helix.core.db import Database, Role
from helix.memory import store
from helix.memory.types import Vectors
from helix.retrieval import Embedder

__all__ = ["embed_missing", "model_of", "users_without_vectors"]

BATCH = 256
EMBEDDED_CHARS_MAX = 4_000  # the offline model reads 256 word pieces
USERS_MAX = 1_000


async def model_of(db: Database, embedder: Embedder) -> Vectors:
    """Return the embedder's model as the database knows it, made known if it is new."""
    async with db.transaction(Role.OPERATOR) as conn:
        found = await store.embedding_model(
            conn,
            provider=embedder.provider,
            model=embedder.model,
            dimension=embedder.dimension,
            make=True,
        )
    if found is None:
        raise RuntimeError("another transaction made the model known and took it away again")
    return found


async def embed_missing(
    db: Database, embedder: Embedder, *, user_id: UUID, role: Role = Role.OPERATOR
) -> int:
    """Embed every searchable memory of a user that has no vector of this model; return how many.

    May be stopped at any moment and run by several at once: a text is at worst embedded twice.
    A vector is kept only if the memory's text is still the one that was embedded.
    """
    model = await model_of(db, embedder)
    total, after_id = 0, None
    while True:
        async with db.transaction(role, tenant=user_id) as conn:
            missing = await store.without_vector(
                conn, user_id=user_id, model=model, after_id=after_id, max_count=BATCH
            )
        if not missing:
            return total
        texts = [content[:EMBEDDED_CHARS_MAX] for _, content in missing]
        vectors = await embedder.embed(texts)
        made = [
            (memory_id, hashlib.sha256(content.encode()).digest(), vector)
            for (memory_id, content), vector in zip(missing, vectors, strict=True)
        ]
        async with db.transaction(role, tenant=user_id) as conn:
            total += await store.put_vectors(conn, user_id=user_id, model=model, vectors=made)
        after_id = missing[-1][0]


async def users_without_vectors(db: Database, embedder: Embedder) -> list[UUID]:
    """Return up to 1,000 users of whose memories some have no vector of this model."""
    model = await model_of(db, embedder)
    async with db.transaction(Role.OPERATOR) as conn:
        return await store.users_without_vectors(conn, model=model, max_count=USERS_MAX)
