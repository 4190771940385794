"""Giving memories their vectors, after they are committed and without holding a connection."""

import hashlib
from collections.abc import AsyncIterator, Callable
from uuid import UUID

from helix.core.db import Database, Role
from helix.memory import store
from helix.retrieval import Embedder, find_model, make_model, parts_of

__all__ = ["embed_missing", "users_without_vectors"]

BATCH = 128
USERS_MAX = 1_000


async def embed_missing(
    db: Database,
    embedder: Embedder,
    *,
    user_id: UUID,
    role: Role = Role.OPERATOR,
    tell: Callable[[int, int], None] | None = None,
) -> int:
    """Embed every searchable memory of a user that has no vector of this model; return how many.

    `tell` is given, after each batch, how many are done and how many there were. May be stopped at
    any moment, goes on where it was, and may be run by several at once: a text is at worst embedded
    twice. A vector is kept only if the memory's text is still the one that was embedded.
    """
    model = await make_model(db, embedder, user_id=user_id)
    async with db.transaction(role, tenant=user_id) as conn:
        wanted = await store.count_without_vector(conn, user_id=user_id, model=model)
    total, after_id = 0, None
    while True:
        async with db.transaction(role, tenant=user_id) as conn:
            missing = await store.without_vector(
                conn, user_id=user_id, model=model, after_id=after_id, max_count=BATCH
            )
        if not missing:
            return total
        parts = [
            (memory_id, hashlib.sha256(content.encode()).digest(), place, part)
            for memory_id, content in missing
            for place, part in enumerate(parts_of(content))
        ]
        vectors = await embedder.embed([part for _, _, _, part in parts], user_id=user_id)
        made = [
            (memory_id, digest, place, vector)
            for (memory_id, digest, place, _), vector in zip(parts, vectors, strict=True)
        ]
        async with db.transaction(role, tenant=user_id) as conn:
            total += await store.put_vectors(conn, user_id=user_id, model=model, vectors=made)
        if tell is not None:
            tell(total, max(wanted, total))
        after_id = missing[-1][0]


async def users_without_vectors(db: Database, embedder: Embedder) -> AsyncIterator[list[UUID]]:
    """Give, by the thousand, the users of whose memories some have no vector of this model."""
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
