"""Errors of retrieval."""

from pathlib import Path

from helix.core.errors import BadInput, Unavailable

__all__ = ["EmbeddingFailed", "QueryEmpty", "WeightsUnusable"]


class WeightsUnusable(Unavailable):
    """A file of the embedding model is not the one that is pinned."""

    code = "retrieval.weights_unusable"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is not the pinned file of the model (its SHA-256 differs): reinstall it with "
            "`make embedder`, or set HELIX_EMBEDDER=none"
        )


class EmbeddingFailed(Unavailable):
    """The embedder gave no usable vectors."""

    code = "retrieval.embedding_failed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the texts could not be embedded: {reason}", retry_after_s=5)


class QueryEmpty(BadInput):
    """The question has no words to search for."""

    code = "retrieval.query_empty"

    def __init__(self) -> None:
        super().__init__("the question has no words: give `query` some text", param="query")
