"""Search of knowledge: the chunks a user may find as one corpus, ranked by retrieval's signals.

Up to 10,000 chunks a user everything is scored, exactly. Above that the candidates are the chunks
that hold a word of the question and those whose vectors are nearest (exactly, no index), with what
stands beside them; they are scored by the same signals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.clock import Clock
from helix.core.db import Connection, Database, Role
from helix.knowledge import store
from helix.knowledge.errors import BadDocument
from helix.knowledge.policy import (
    DOCUMENT_WEIGHTS,
    HITS_MAX,
    NEIGHBOURS_MAX,
    QUERY_CHARS_MAX,
    check_filters,
    check_text,
)
from helix.knowledge.types import Chunk, ChunkId, DocumentId, Filters, Found, Hit
from helix.retrieval import (
    Embedder,
    Kind,
    Question,
    Ranked,
    Scope,
    Vectors,
    ask,
    dense_of,
    embed_question,
    find_model,
    missing_vectors,
    rank,
    rank_aside,
    scope_of,
)

__all__ = ["EXACT_MAX", "Searcher"]

Array = np.ndarray[Any, np.dtype[Any]]

EXACT_MAX = 10_000
LOOKED_AT_MAX = 6_000
"""Chunks of a large user looked at for all the words of a question together."""
PER_TERM = 600
CANDIDATES_MAX = 600
NEAREST = 200
MIDDLE_MAX = 100
"""Candidates by words, and by vectors, beside which is looked too: two each way."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The scope of a question, and what is known of the whole where it is only a part."""

    scope: Scope
    exact: bool
    total: int | None = None
    found: dict[int, int] | None = None


class Searcher:
    """Finds chunks. Holds no connection while a question is embedded."""

    def __init__(
        self, db: Database, embedder: Embedder | None, clock: Clock, *, without: str
    ) -> None:
        self._db = db
        self._embedder = embedder
        self._without = without
        self._clock = clock
        self._model: Vectors | None = None

    async def search(
        self,
        *,
        user_id: UUID,
        query: str,
        filters: Filters,
        max_count: int = 10,
        neighbours: int = 0,
        role: Role = Role.APP,
    ) -> Found:
        """Return the user's chunks that answer `query`, best first, each with its reasons.

        A chunk that shares neither a word nor the sense of the question is no hit. Works without
        vectors, and says so. Raises BadDocument, or QueryEmpty without any word.
        """
        _check(query, max_count, neighbours)
        check_filters(filters)
        question = ask(query)
        started = self._clock.monotonic_s()
        now = self._clock.now()
        async with self._db.transaction(role, tenant=user_id) as conn:
            if self._embedder is not None and self._model is None:
                self._model = await find_model(conn, self._embedder)
        model = self._model
        vector, told = await embed_question(
            self._embedder, query, model=model, user_id=user_id, without=self._without
        )
        embedding_s = self._clock.monotonic_s() - started
        async with self._db.transaction(role, tenant=user_id) as conn:
            part = await self._gather(
                conn,
                user_id=user_id,
                question=question,
                filters=filters,
                model=model,
                vector=vector,
                now=now,
            )
            unembedded = missing_vectors(part.scope.corpus)
            if vector is not None and unembedded == len(part.scope.ids):
                told = "none: no chunk here has a vector yet"
            best = await _ranked(question, part, max_count)
            hits = await _whole(conn, user_id, part.scope, best, neighbours)
        took_s = self._clock.monotonic_s() - started - embedding_s
        return Found(
            hits=hits,
            vectors=told,
            considered=len(part.scope.ids),
            unembedded=unembedded,
            exact=part.exact,
            took_ms=round(took_s * 1000, 3),
            embedding_ms=round(embedding_s * 1000, 3),
        )

    async def _gather(
        self,
        conn: Connection,
        *,
        user_id: UUID,
        question: Question,
        filters: Filters,
        model: Vectors | None,
        vector: Array | None,
        now: datetime,
    ) -> _Part:
        size = await store.count_scope(conn, user_id=user_id, most=EXACT_MAX + 1)
        if size <= EXACT_MAX:
            packed = await store.whole_scope(conn, user_id=user_id, filters=filters, now=now)
            part = _Part(scope_of(packed), exact=True)
            if vector is None or model is None or not len(part.scope.ids):
                return part
            ids, cosines = await store.cosines(conn, user_id=user_id, model=model, vector=vector)
            return replace(part, scope=_dense(part.scope, ids, cosines))
        total = await store.count_scope(conn, user_id=user_id, most=10 * EXACT_MAX)
        # Only an operator may use an index of terms; what it leads to is read under the policy.
        async with self._db.connection(Role.OPERATOR) as free:
            words, found = await store.word_candidates(
                free,
                user_id=user_id,
                terms=question.terms,
                total=total,
                per_term=min(PER_TERM, LOOKED_AT_MAX // len(question.terms)),
                most=CANDIDATES_MAX,
                filters=filters,
                now=now,
            )
        near: list[UUID] = []
        if vector is not None and model is not None:
            near = await store.nearest(
                conn,
                user_id=user_id,
                model=model,
                vector=vector,
                max_count=NEAREST,
                filters=filters,
                now=now,
            )
        packed = await store.part_scope(
            conn,
            user_id=user_id,
            ids=[*words, *near],
            middle=[*words[:MIDDLE_MAX], *near[:MIDDLE_MAX]],
            filters=filters,
            now=now,
        )
        scope = scope_of(packed)
        if vector is not None and model is not None:
            every = [UUID(bytes=scope.id_bytes(row)) for row in range(len(scope.ids))]
            ids, cosines = await store.cosines(
                conn, user_id=user_id, model=model, vector=vector, ids=every
            )
            scope = _dense(scope, ids, cosines)
        return _Part(scope, exact=False, total=total, found=found)


def _check(query: str, max_count: int, neighbours: int) -> None:
    if not 1 <= max_count <= HITS_MAX:
        raise BadDocument(f"max_count: 1 to {HITS_MAX}, not {max_count}", param="max_count")
    if not 0 <= neighbours <= NEIGHBOURS_MAX:
        raise BadDocument(f"neighbours: 0 to {NEIGHBOURS_MAX}", param="neighbours")
    if len(query) > QUERY_CHARS_MAX:
        raise BadDocument(f"query: {len(query)} characters, at most {QUERY_CHARS_MAX}")
    check_text("query", query)


async def _ranked(question: Question, part: _Part, max_count: int) -> Sequence[Ranked]:
    corpus = replace(part.scope.corpus, total=part.total, found=part.found)

    def run() -> list[Ranked]:
        found = rank(
            question, corpus, max_count=max_count, kind=Kind.PEOPLE, weights=DOCUMENT_WEIGHTS
        )
        return [r for r in found if _is_hit(r)]

    return await rank_aside(corpus, run)


_SENSE_MIN = 0.25  # cosine of the question; unrelated texts have up to 0.2 with the offline model


def _is_hit(found: Ranked) -> bool:
    """Say whether a chunk shares a word or enough of the sense with the question."""
    if found.parts.get("text", 0.0) > 0:
        return True
    return found.parts.get("dense", 0.0) >= _SENSE_MIN * DOCUMENT_WEIGHTS["people"]["dense"]


async def _whole(
    conn: Connection, user_id: UUID, scope: Scope, best: Sequence[Ranked], neighbours: int
) -> list[Hit]:
    ids = [ChunkId(UUID(bytes=scope.id_bytes(r.row))) for r in best]
    chunks = await store.chunks_by_id(conn, user_id=user_id, ids=ids)
    documents = await store.documents_by_id(
        conn, user_id=user_id, ids=list({c.document_id for c in chunks.values()})
    )
    around: dict[tuple[DocumentId, int], Chunk] = {}
    steps = range(1, neighbours + 1)
    if neighbours:
        around = await store.chunks_around(
            conn,
            user_id=user_id,
            places={
                (c.document_id, c.number + step * side)
                for c in chunks.values()
                for step in steps
                for side in (-1, 1)
            },
        )
    hits = []
    for i, ranked in zip(ids, best, strict=True):
        chunk = chunks.get(i)
        if chunk is None or chunk.document_id not in documents:
            continue
        at = [(chunk.document_id, chunk.number + step) for step in steps]
        behind = [(chunk.document_id, chunk.number - step) for step in reversed(steps)]
        hits.append(
            Hit(
                chunk=chunk,
                document=documents[chunk.document_id],
                score=ranked.score,
                parts=ranked.parts,
                before=tuple(around[place] for place in behind if place in around),
                after=tuple(around[place] for place in at if place in around),
            )
        )
    return hits


def _dense(scope: Scope, ids: bytes, cosines: bytes) -> Scope:
    dense = dense_of(scope, ids, cosines)
    return replace(scope, corpus=replace(scope.corpus, dense=dense))
