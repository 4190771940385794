"""Giving chunks their vectors, after they are committed and without holding a connection."""

from collections.abc import AsyncIterator, Callable
from uuid import UUID

from helix.core.db import Database, Role
from helix.knowledge import store
from helix.retrieval import Embedder, find_model, make_model

__all__ = ["count_missing", "embed_missing", "users_without_vectors"]

BATCH = 128
EMBEDDED_CHARS_MAX = 4_000  # the offline model reads 256 word pieces
USERS_MAX = 1_000


async def count_missing(db: Database, embedder: Embedder, *, user_id: UUID) -> int:
    """Return how many chunks of a user have no vector of this model."""
    model = await make_model(db, embedder, user_id=user_id)
    async with db.transaction(Role.OPERATOR, tenant=user_id) as conn:
        return await store.count_without_vector(conn, user_id=user_id, model=model)


async def embed_missing(
    db: Database,
    embedder: Embedder,
    *,
    user_id: UUID,
    tell: Callable[[int], None] | None = None,
) -> int:
    """Embed every chunk of a user that has no vector of this model; return how many.

    `tell` is given the number after each batch. May be stopped at any moment and run by several at
    once: a text is at worst embedded twice.
    """
    model = await make_model(db, embedder, user_id=user_id)
    total, after_id = 0, None
    while True:
        async with db.transaction(Role.OPERATOR, tenant=user_id) as conn:
            missing = await store.without_vector(
                conn, user_id=user_id, model=model, after_id=after_id, max_count=BATCH
            )
        if not missing:
            return total
        texts = [
            "\n".join([" > ".join(headings), content] if headings else [content])
            for _, headings, content in missing
        ]
        vectors = await embedder.embed(
            [text[:EMBEDDED_CHARS_MAX] for text in texts], user_id=user_id
        )
        made = [(i, vector) for (i, _, _), vector in zip(missing, vectors, strict=True)]
        async with db.transaction(Role.OPERATOR, tenant=user_id) as conn:
            total += await store.put_vectors(conn, user_id=user_id, model=model, vectors=made)
        if tell is not None:
            tell(total)
        after_id = missing[-1][0]


async def users_without_vectors(db: Database, embedder: Embedder) -> AsyncIterator[list[UUID]]:
    """Give, by the thousand, the users of whose chunks some have no vector of this model."""
    after_id = None
    while True:
        async with db.transaction(Role.OPERATOR) as conn:
            model = await find_model(conn, embedder)
            users = await store.users_without_vectors(
                conn, model=model, after_id=after_id, max_count=USERS_MAX
            )
        if users:
            yield users
        if len(users) < USERS_MAX:
            return
        after_id = users[-1]
