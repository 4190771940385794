"""The nearest vectors of a user with many: by an index of that user's own, or exactly.

One index over all users would lose most hits of small ones and cost every insert; an index of one
user's rows finds only that user's and costs nobody else (docs/adr/0030).
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.db import Connection
from helix.memory.store import QUERIES, vector_text
from helix.retrieval import Vectors

__all__ = ["INDEXED_FROM", "build_indexes", "nearest"]

Array = np.ndarray[Any, np.dtype[Any]]
INDEXED_FROM = 10_000
INDEXED_DIMENSIONS = (384, 768, 1024, 1536, 3072)
EF_SEARCH = 120
"""How many candidates the index keeps while it walks: more finds more and takes longer."""


async def nearest(
    conn: Connection, *, user_id: UUID, model: Vectors, vector: Array, max_count: int
) -> list[UUID]:
    """Return the ids of the user's `max_count` memories nearest to `vector`, nearest first.

    Approximate when the user has an index (see `build_indexes`), else exact. Changes settings of
    the transaction.
    """
    values: dict[str, object] = {
        "user_id": user_id,
        "config_id": model.config_id,
        "vector": vector_text(vector),
        "max_count": max_count,
    }
    if model.dimension in INDEXED_DIMENSIONS:
        await QUERIES.row(conn, "tune_nearest", ef_search=str(EF_SEARCH))
        rows = await QUERIES.rows(conn, f"nearest_{model.dimension}", **values)
    else:
        rows = await QUERIES.rows(conn, "nearest_any", dimension=model.dimension, **values)
    return list(dict.fromkeys(row["memory_id"] for row in rows))


async def build_indexes(
    conn: Connection, *, more_than: int = INDEXED_FROM, tell: Callable[[str], None] | None = None
) -> list[str]:
    """Give every user of more than `more_than` vectors an index, and take away unwanted ones.

    `conn` is the owner's and in no transaction: indexes are built while all goes on. Stopping it
    half-way leaves an index that is not used, and is made anew the next time. Returns the names of
    those built.
    """
    rows = await QUERIES.rows(
        conn, "wanted_indexes", dimensions=list(INDEXED_DIMENSIONS), more_than=more_than
    )
    built = []
    for row in rows:
        if tell is not None:
            tell(row["statement"].partition(" ON ")[0])
        await conn.execute(row["statement"])
        if row["user_id"] is not None:
            built.append(row["name"])
    return built
