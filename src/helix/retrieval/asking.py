"""What every search does with a question, wherever its texts are stored."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.retrieval.embedder import Embedder
from helix.retrieval.models import Vectors
from helix.retrieval.ranker import Ranked
from helix.retrieval.signals import Corpus

__all__ = ["embed_question", "missing_vectors", "rank_aside"]

Array = np.ndarray[Any, np.dtype[Any]]
_log = get_log(__name__)
_ASIDE_FROM = 200_000  # terms; fewer are looked through in about a millisecond


async def embed_question(
    embedder: Embedder | None,
    text: str,
    *,
    model: Vectors | None,
    user_id: UUID,
    without: str = "no embedder is set up",
) -> tuple[Array | None, str]:
    """Return the question's vector and the model's name, or None and why there is none.

    A search goes on without vectors whatever the embedder fails with; it says so. `without` is why
    there is no embedder.
    """
    if embedder is None:
        return None, f"none: {without}"
    if model is None:
        return None, "none: nothing has a vector of this model yet"
    try:
        vector = (await embedder.embed([text], user_id=user_id))[0]
    except HelixError as exc:
        _log.warning("search_without_vectors", code=exc.code, reason=exc.message)
        return None, f"none: {exc.message}"
    if len(vector) != model.dimension:
        return None, f"none: {embedder.model} now gives vectors of another length"
    return vector, embedder.model


def missing_vectors(corpus: Corpus) -> int:
    """Return how many texts of a corpus have no vector."""
    if corpus.dense is None:
        return len(corpus.lengths)
    return int(np.isnan(corpus.dense).sum())


async def rank_aside(corpus: Corpus, run: Callable[[], Sequence[Ranked]]) -> Sequence[Ranked]:
    """Rank, off the event loop where there is much to rank."""
    if len(corpus.terms) < _ASIDE_FROM:
        return run()
    return await asyncio.to_thread(run)
