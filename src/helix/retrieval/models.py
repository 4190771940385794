"""Models of vectors as the database knows them: vectors of two are never compared."""

from dataclasses import dataclass
from uuid import UUID

from helix.core.db import Connection, Database, Queries, Role
from helix.retrieval.embedder import Embedder

__all__ = ["Vectors", "find_model", "make_model"]

_QUERIES = Queries("helix.retrieval")


@dataclass(frozen=True, slots=True)
class Vectors:
    """An embedding model as the database knows it."""

    config_id: UUID
    dimension: int


async def find_model(conn: Connection, embedder: Embedder) -> Vectors | None:
    """Return the embedder's model, or None as long as nothing was embedded with it."""
    row = await _QUERIES.row(
        conn,
        "find_model",
        provider=embedder.provider,
        model=embedder.model,
        dimension=embedder.dimension or None,
    )
    return None if row is None else Vectors(row["id"], row["dimension"])


async def make_model(db: Database, embedder: Embedder, *, user_id: UUID) -> Vectors:
    """Return the embedder's model, made known if it is new.

    Where the length of its vectors is not known, a word is embedded to learn it, on behalf of the
    user. Raises EmbeddingFailed, or what the provider failed with.
    """
    if not embedder.dimension:
        async with db.transaction(Role.OPERATOR) as conn:
            known = await find_model(conn, embedder)
        if known is not None:
            return known
        await embedder.embed(["length"], user_id=user_id)
    async with db.transaction(Role.OPERATOR) as conn:
        row = await _QUERIES.row(
            conn,
            "make_model",
            provider=embedder.provider,
            model=embedder.model,
            dimension=embedder.dimension,
        )
    if row is None:
        raise RuntimeError("another transaction made the model known and took it away again")
    return Vectors(row["id"], row["dimension"])
