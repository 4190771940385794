"""Search: the scope of a question as one corpus, its signals, the best of them, with reasons.

Up to 10,000 memories a user everything is scored, exactly. Above that the candidates are the
memories that hold a word of the question and those whose vectors are near, with what stands beside
them in their conversations; they are scored by the same signals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations
from typing import Any
from uuid import UUID

import numpy as np

from helix.core.clock import Clock
from helix.core.db import Connection, Database, Role
from helix.memory import store
from helix.memory.errors import BadMemory
from helix.memory.near import nearest
from helix.memory.policy import check_filters, check_text
from helix.memory.types import Filters, Found, Hit, MemoryId, Scored
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
    estimate_found,
    find_model,
    kind_of,
    missing_vectors,
    rank,
    rank_aside,
    scope_of,
    speaker_number,
    to_embed,
)

__all__ = ["EXACT_MAX", "Searcher"]

Array = np.ndarray[Any, np.dtype[Any]]

EXACT_MAX = 10_000
HITS_MAX = 100
QUERY_CHARS_MAX = 4_000
COUNTED_MAX = 100_000
PER_TERM = 600
COMMON_TERMS_MAX = 5
"""Words in more memories than PER_TERM; of these, memories are looked for that hold two."""
PER_PAIR = 300
CANDIDATES_MAX = 600
NEAREST = 100
MIDDLE_MAX = 60
"""Candidates by words, and by vectors, beside which is looked too: two each way."""
HEART_MAX = 10
"""The best of them, whose conversation is looked at further, since it speaks for its texts."""
BESIDE_HEART = 12
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
    """The memories of a large user that hold words of the question, best first; and of all."""

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

    def __init__(
        self,
        db: Database,
        embedder: Embedder | None,
        clock: Clock,
        *,
        without: str,
        exact_max: int = EXACT_MAX,
    ) -> None:
        self._exact_max = exact_max
        self._db = db
        self._embedder = embedder
        self._without = without
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
        gathered = await self._gather(
            user_id=user_id, query=query, filters=filters, now=now, role=role
        )
        model = self._model
        speakers = gathered.speakers()
        question = ask(query, speakers=speakers)
        before = self._clock.monotonic_s()
        named = [word for word in query.replace("’", "'").split() if _names(word) & speakers]
        vector, told = await embed_question(
            self._embedder,
            to_embed(query, [_bare(word) for word in named]),
            model=model,
            user_id=user_id,
            without=self._without,
        )
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
                if missing_vectors(scope.corpus) == len(scope.ids):
                    told = "none: no memory here has a vector yet"
            chosen = kind or kind_of(part.scope.corpus.speaker)
            best = await _ranked(question, part, max_count, chosen)
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
            unembedded=missing_vectors(part.scope.corpus),
            exact=part.exact,
            took_ms=round(took_s * 1000, 3),
            embedding_ms=round(embedding_s * 1000, 3),
        )

    async def _learn_model(self, conn: Connection) -> None:
        """Look for the embedder's model until it is known: nothing may be embedded with it yet."""
        if self._embedder is not None and self._model is None:
            self._model = await find_model(conn, self._embedder)

    async def _gather(
        self,
        *,
        user_id: UUID,
        query: str,
        filters: Filters,
        now: datetime,
        role: Role,
    ) -> "_Part | _Candidates":
        """Return all the user may find, or, of a large user, what holds a word of the question."""
        size = self._sizes.pop(user_id, None)
        if size is None or size <= self._exact_max:
            async with self._db.transaction(role, tenant=user_id) as conn:
                if size is None or size > self._exact_max // 2:
                    size = await store.count_scope(
                        conn, user_id=user_id, most=max(COUNTED_MAX, self._exact_max)
                    )
                self._remember(user_id, size)
                await self._learn_model(conn)
                if size <= self._exact_max:
                    packed = await store.whole_scope(
                        conn, user_id=user_id, filters=filters, now=now
                    )
                    scope = scope_of(packed)
                    self._remember(user_id, max(size, len(scope.ids)))
                    return _Part(scope, exact=True)
        self._remember(user_id, size)
        return await self._candidates(user_id, ask(query).terms, size)

    def _remember(self, user_id: UUID, size: int) -> None:
        self._sizes.pop(user_id, None)
        self._sizes[user_id] = size
        if len(self._sizes) > _SIZES_KEPT:
            del self._sizes[next(iter(self._sizes))]

    async def _candidates(self, user_id: UUID, terms: Sequence[int], total: int) -> _Candidates:
        """Return the memories of a large user that hold words of the question, best first.

        Asked as an operator, of whom an index of terms may be used; only ids leave this, and what
        they lead to is read under the tenant's policy.
        """
        async with self._db.transaction(Role.OPERATOR) as conn:
            by_term, speakers = await store.term_candidates(
                conn, user_id=user_id, terms=terms, per_term=PER_TERM
            )
            cut = [term for term in terms if len(by_term.get(term, ())) >= PER_TERM]
            pairs = list(combinations(cut[:COMMON_TERMS_MAX], 2))
            both: list[UUID] = []
            if pairs:
                both = await store.pair_candidates(
                    conn, user_id=user_id, pairs=pairs, per_pair=PER_PAIR
                )
            await self._learn_model(conn)
        found = {
            term: estimate_found(len(ids), total, most=PER_TERM) for term, ids in by_term.items()
        }
        weight: dict[UUID, float] = {}
        for term, ids in by_term.items():
            rarity = math.log(1 + total / found[term])
            for i in ids:
                weight[i] = weight.get(i, 0.0) + rarity
        common = math.log(1 + total / estimate_found(PER_TERM, total, most=PER_TERM))
        for i in both:
            weight[i] = max(weight.get(i, 0.0), 0.0) + common
        ordered = sorted(weight, key=lambda i: -weight[i])[:CANDIDATES_MAX]
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
            middle=[*gathered.ids[:MIDDLE_MAX], *near[:MIDDLE_MAX]],
            heart=[*gathered.ids[:HEART_MAX], *near[:HEART_MAX]],
            most_beside=BESIDE_HEART,
            filters=filters,
            now=now,
        )
        return _Part(scope_of(packed), exact=False, total=gathered.total, found=gathered.found)


async def _ranked(question: Question, part: _Part, max_count: int, kind: Kind) -> Sequence[Ranked]:
    corpus = replace(part.scope.corpus, total=part.total, found=part.found)
    return await rank_aside(corpus, lambda: rank(question, corpus, max_count=max_count, kind=kind))


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()").removesuffix("'s").removesuffix("'")


def _names(word: str) -> set[int]:
    return {speaker_number(_bare(word))} if _bare(word) else set()
