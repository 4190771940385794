"""Search: the scope of a question as one corpus, its signals, the best of them, with reasons.

Up to 10,000 memories a user everything is scored, exactly. Above that the candidates are the
memories that hold a word of the question and those whose vectors are near, with what stands beside
them in their conversations; they are scored by the same signals.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.clock import Clock
from helix.core.db import Connection, Database, Role
from helix.core.errors import Unavailable
from helix.core.log import get_log
from helix.memory import store
from helix.memory.errors import BadMemory
from helix.memory.near import nearest
from helix.memory.policy import check_filters, check_text
from helix.memory.types import Filters, Found, Hit, MemoryId, Scored, Vectors
from helix.retrieval import (
    Embedder,
    EmbeddingFailed,
    Kind,
    Question,
    Ranked,
    Scope,
    WeightsUnusable,
    ask,
    dense_of,
    kind_of,
    rank,
    scope_of,
    speaker_number,
    to_embed,
)

__all__ = ["EXACT_MAX", "Searcher"]

Array = np.ndarray[Any, np.dtype[Any]]
_log = get_log(__name__)

EXACT_MAX = 10_000
HITS_MAX = 100
QUERY_CHARS_MAX = 4_000
COUNTED_MAX = 100_000
PER_TERM = 600
CANDIDATES_MAX = 1_000
NEAREST = 200
BESIDE_MAX = 200
_IN_THREAD_FROM = 1_000  # rows; fewer are ranked in less time than a thread takes to wake
_SIZES_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class _Part:
    """The scope of a question, and what is known of the whole where it is only a part."""

    scope: Scope
    exact: bool
    total: int | None = None
    found: dict[int, int] | None = None

    def speakers(self) -> set[int]:
        """Return who speaks in it."""
        return set(np.unique(self.scope.corpus.speaker).tolist()) - {0}


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The memories of a large user that hold words of the question, and what is known of all."""

    ids: list[UUID]
    said_by: set[int]
    total: int
    found: dict[int, int]

    def speakers(self) -> set[int]:
        return self.said_by


async def _with_cosines(
    conn: Connection, user_id: UUID, part: _Part, model: Vectors, vector: Array
) -> Scope:
    """Return the scope with the cosine of every text that has a vector."""
    some = None
    if not part.exact:
        some = [UUID(bytes=part.scope.id_bytes(row)) for row in range(len(part.scope.ids))]
    ids, cosines = await store.cosines(conn, user_id=user_id, model=model, vector=vector, ids=some)
    dense = dense_of(part.scope, ids, cosines)
    return replace(part.scope, corpus=replace(part.scope.corpus, dense=dense))


class Searcher:
    """Finds memories. Holds no connection while a question is embedded."""

    def __init__(self, db: Database, embedder: Embedder | None, clock: Clock) -> None:
        self._db = db
        self._embedder = embedder
        self._clock = clock
        self._model: Vectors | None = None
        self._sizes: dict[UUID, int] = {}  # memories last seen of a user, newest last

    async def search(
        self,
        *,
        user_id: UUID,
        query: str,
        filters: Filters,
        max_count: int = 10,
        kind: Kind | None = None,
        role: Role = Role.APP,
    ) -> Found:
        """Return the user's memories that answer `query`, best first, each with its reasons.

        Works without vectors, and says so. Raises BadMemory, or QueryEmpty without any word.
        """
        if not 1 <= max_count <= HITS_MAX:
            raise BadMemory(f"max_count: 1 to {HITS_MAX}, not {max_count}", param="max_count")
        if len(query) > QUERY_CHARS_MAX:
            raise BadMemory(f"query: {len(query)} characters, at most {QUERY_CHARS_MAX}")
        check_text("query", query)
        check_filters(filters)
        started = self._clock.monotonic_s()
        now = self._clock.now()
        ask(query)  # refuses a question without words before anything is read
        async with self._db.transaction(role, tenant=user_id) as conn:
            gathered = await self._gather(conn, user_id, query, filters, now)
            model = await self._known_model(conn)
        speakers = gathered.speakers()
        question = ask(query, speakers=speakers)
        before = self._clock.monotonic_s()
        vector, told = await self._embed(query, speakers, model)
        embedding_s = self._clock.monotonic_s() - before
        async with self._db.transaction(role, tenant=user_id) as conn:
            near: list[UUID] = []
            if isinstance(gathered, _Candidates) and vector is not None and model is not None:
                near = await nearest(
                    conn, user_id=user_id, model=model, vector=vector, max_count=NEAREST
                )
            part = await self._whole(
                conn,
                user_id=user_id,
                gathered=gathered,
                near=near,
                filters=filters,
                now=now,
            )
            if vector is not None and model is not None:
                scope = await _with_cosines(conn, user_id, part, model, vector)
                part = replace(part, scope=scope)
                if not _has_vectors(scope):
                    told = "none: no memory here has a vector yet"
            chosen = kind or kind_of(part.scope.corpus.speaker)
            best = await self._ranked(question, part, max_count, chosen)
            scored = [
                Scored(MemoryId(UUID(bytes=part.scope.id_bytes(r.row))), r.score, r.parts)
                for r in best
            ]
            whole = await store.memories_by_id(conn, user_id=user_id, ids=[s.id for s in scored])
        took_s = self._clock.monotonic_s() - started - embedding_s
        return Found(
            hits=[Hit(whole[s.id], s.score, s.parts) for s in scored if s.id in whole],
            vectors=told,
            kind=chosen.value,
            considered=len(part.scope.ids),
            exact=part.exact,
            took_ms=round(took_s * 1000, 3),
            embedding_ms=round(embedding_s * 1000, 3),
        )

    async def _known_model(self, conn: Connection) -> Vectors | None:
        """Return the embedder's model if any vector can be of it; asked of the database once."""
        if self._embedder is not None and self._model is None:
            self._model = await store.embedding_model(
                conn,
                provider=self._embedder.provider,
                model=self._embedder.model,
                dimension=self._embedder.dimension,
                make=False,
            )
        return self._model

    async def _embed(
        self, query: str, speakers: set[int], model: Vectors | None
    ) -> tuple[Array | None, str]:
        if self._embedder is None:
            return None, "none: no embedder is set up"
        if model is None:
            return None, "none: no memory has a vector yet"
        named = [word for word in query.replace("’", "'").split() if _names(word) & speakers]
        text = to_embed(query, [_bare(word) for word in named])
        try:
            return (await self._embedder.embed([text]))[0], self._embedder.model
        except (EmbeddingFailed, WeightsUnusable, Unavailable) as exc:
            _log.warning("search_without_vectors", reason=exc.message)
            return None, f"none: {exc.message}"

    async def _gather(
        self, conn: Connection, user_id: UUID, query: str, filters: Filters, now: datetime
    ) -> "_Part | _Candidates":
        """Return all the user may find, or, of a large user, what holds a word of the question."""
        size = self._sizes.pop(user_id, None)
        if size is None or EXACT_MAX // 2 < size <= EXACT_MAX:
            size = await store.count_scope(conn, user_id=user_id, most=COUNTED_MAX)
        self._sizes[user_id] = size
        if len(self._sizes) > _SIZES_KEPT:
            del self._sizes[next(iter(self._sizes))]
        if size > EXACT_MAX:
            return await self._candidates(conn, user_id, query, size)
        packed = await store.whole_scope(conn, user_id=user_id, filters=filters, now=now)
        scope = scope_of(packed)
        self._sizes[user_id] = max(size, len(scope.ids))
        return _Part(scope, exact=True)

    async def _candidates(
        self, conn: Connection, user_id: UUID, query: str, total: int
    ) -> _Candidates:
        """Return the memories of a large user that hold a word of the question, rarest first."""
        by_term = await store.term_candidates(
            conn, user_id=user_id, terms=ask(query).terms, per_term=PER_TERM
        )
        weight: dict[UUID, float] = {}
        for ids in by_term.values():
            for i in ids:
                weight[i] = weight.get(i, 0.0) + 1 / len(ids)
        ordered = sorted(weight, key=lambda i: -weight[i])[:CANDIDATES_MAX]
        speakers = await store.speakers_of_ids(conn, user_id=user_id, ids=ordered)
        found = {term: _estimate(len(ids), total) for term, ids in by_term.items()}
        return _Candidates(ordered, speakers, total, found)

    async def _whole(
        self,
        conn: Connection,
        *,
        user_id: UUID,
        gathered: "_Part | _Candidates",
        near: Sequence[UUID],
        filters: Filters,
        now: datetime,
    ) -> _Part:
        """Return the texts to score: of candidates, those near in meaning and beside them too."""
        if isinstance(gathered, _Part):
            return gathered
        packed = await store.part_scope(
            conn,
            user_id=user_id,
            ids=[*gathered.ids, *near],
            most_beside=BESIDE_MAX,
            filters=filters,
            now=now,
        )
        return _Part(scope_of(packed), exact=False, total=gathered.total, found=gathered.found)

    async def _ranked(
        self, question: Question, part: _Part, max_count: int, kind: Kind
    ) -> Sequence[Ranked]:
        corpus = replace(part.scope.corpus, total=part.total, found=part.found)

        def run() -> list[Ranked]:
            return rank(question, corpus, max_count=max_count, kind=kind)

        if len(part.scope.ids) < _IN_THREAD_FROM:
            return run()
        return await asyncio.to_thread(run)


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()").removesuffix("'s").removesuffix("'")


def _names(word: str) -> set[int]:
    return {speaker_number(_bare(word))} if _bare(word) else set()


def _has_vectors(scope: Scope) -> bool:
    dense = scope.corpus.dense
    return dense is not None and bool(np.isfinite(dense).any())


def _estimate(found: int, total: int) -> int:
    """Return in how many memories a term is; the count was cut off at PER_TERM."""
    return found if found < PER_TERM else max(found, total // 20)
