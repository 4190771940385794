"""Turning texts into vectors, off the event loop: the offline model, or any provider's."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from uuid import UUID

import numpy as np

from helix.core.config import Settings
from helix.core.errors import Misuse
from helix.retrieval.errors import EmbeddingFailed
from helix.retrieval.minilm import DIMENSION, MODEL_NAME, MiniLM, find_weights

__all__ = [
    "EmbedCall",
    "Embedder",
    "LocalEmbedder",
    "RemoteEmbedder",
    "choose_embedder",
    "local_embedder",
    "why_no_embedder",
]

Array = np.ndarray[Any, np.dtype[Any]]
LOCAL_PROVIDER = "local"
BATCH_MAX = 64


class Embedder(Protocol):
    """Makes vectors of one model. `provider` and `model` name it in embedding_config."""

    @property
    def provider(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def dimension(self) -> int:
        """The length of its vectors; 0 as long as that is not known."""
        ...

    async def embed(self, texts: Sequence[str], *, user_id: UUID) -> Array:
        """Return unit vectors, float32, (len(texts), dimension).

        What it costs is the user's. Raises EmbeddingFailed, or what a provider fails with.
        """
        ...


class LocalEmbedder:
    """The offline model in one worker thread; texts that wait together run as one batch.

    The weights (90 MB) are read and checked at the first use.
    """

    provider = LOCAL_PROVIDER
    model = MODEL_NAME
    dimension = DIMENSION

    def __init__(self, load: Callable[[], MiniLM]) -> None:
        self._load = load
        self._encoder: MiniLM | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="helix-embed")

    async def embed(self, texts: Sequence[str], *, user_id: UUID) -> Array:
        """Return unit vectors; a long list gives way to others between batches of 64."""
        if not texts:
            return np.empty((0, DIMENSION), np.float32)
        loop = asyncio.get_running_loop()
        parts = [
            await loop.run_in_executor(self._thread, self._run, texts[at : at + BATCH_MAX])
            for at in range(0, len(texts), BATCH_MAX)
        ]
        return np.concatenate(parts)

    def _run(self, texts: Sequence[str]) -> Array:
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder.embed(texts)

    def close(self) -> None:
        """End the worker thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


EmbedCall = Callable[[Sequence[str], UUID], Awaitable[Sequence[Sequence[float]]]]
"""Makes vectors of at most 64 texts, on behalf of a user."""


class RemoteEmbedder:
    """A model behind a callable, such as a provider's /v1/embeddings.

    `dimension` 0: what its first vectors have.
    """

    def __init__(self, provider: str, model: str, dimension: int, call: EmbedCall) -> None:
        self.provider = provider
        self.model = model
        self.dimension = dimension
        self._call = call

    async def embed(self, texts: Sequence[str], *, user_id: UUID) -> Array:
        """Return what the callable gives, checked and brought to unit length."""
        parts = [
            self._checked(await self._call(part, user_id), len(part))
            for at in range(0, len(texts), BATCH_MAX)
            if (part := texts[at : at + BATCH_MAX])
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.dimension), np.float32)

    def _checked(self, given: Sequence[Sequence[float]], count: int) -> Array:
        try:
            vectors = np.array(given, np.float32)
        except ValueError as exc:
            raise EmbeddingFailed(f"{self.model} gave vectors of different lengths") from exc
        if not self.dimension and vectors.ndim == 2:
            self.dimension = vectors.shape[1]
        if vectors.shape != (count, self.dimension) or not self.dimension:
            raise EmbeddingFailed(
                f"{self.model} gave {vectors.shape}, expected ({count}, {self.dimension})"
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise EmbeddingFailed(f"{self.model} gave a vector that has no direction")
        unit: Array = vectors / norms
        return unit


def local_embedder() -> LocalEmbedder | None:
    """Return the offline model, or None when its weights are not installed."""
    found = find_weights()
    if found is None:
        return None
    return LocalEmbedder(lambda: MiniLM(*found))


def choose_embedder(settings: Settings, *, call: EmbedCall | None = None) -> Embedder | None:
    """Return the embedder that HELIX_EMBEDDER names, or None; `why_no_embedder` says why.

    A model of a provider, PROVIDER/MODEL, is asked through `call`, which the server has. `auto` is
    the offline model when it is installed. Raises Misuse when `local` is not installed.
    """
    provider, slash, model = settings.embedder.partition("/")
    if slash:
        if call is None:
            return None
        return RemoteEmbedder(provider, model, settings.embedder_dimension, call)
    if provider == "none":
        return None
    found = local_embedder()
    if found is None and provider == "local":
        raise Misuse("HELIX_EMBEDDER=local, but its weights are not installed: make embedder")
    return found


def why_no_embedder(settings: Settings) -> str:
    """Return why there is no embedder, where `choose_embedder` gave none."""
    if settings.embedder == "none":
        return "HELIX_EMBEDDER is none"
    if "/" in settings.embedder:
        return f"only the server asks {settings.embedder} for vectors"
    return "the offline model is not installed (make embedder)"
