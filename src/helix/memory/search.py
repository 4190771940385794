"""Search: the scope of a question as one corpus, its signals, the best of them, with reasons.

Up to 10,000 memories a user, or as many that pass the filters, everything is scored, exactly. Above
that the candidates are the memories that hold a word of the question and those whose vectors are
near, with what stands beside them in their conversations; they are scored by the same signals.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
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
LOOKED_AT_MAX = 6_000
"""Memories of a large user looked at for all the words of a question together."""
PER_TERM = 600
COMMON_TERMS_MAX = 5
"""Words in more memories than are looked at; of these, memories are looked for that hold two."""
PER_PAIR = 300
CANDIDATES_MAX = 300
NEAREST = 100
MIDDLE_MAX = 100
"""Candidates by words, and by vectors, beside which is looked too: two each way."""
HEART_MAX = 10
"""The nearest vectors, whose conversations are looked at further: they speak for their texts."""
BESIDE_HEART = 40
_KNOWN_MAX = 10_000
_KNOWN_S = 600.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What was seen of a user not long ago: how many memories, and who speaks in them."""

    size: int
    speakers: frozenset[int]
    until_s: float


@dataclass(frozen=True, slots=True)
class _Asked:
    """A search as it was asked."""

    user_id: UUID
    query: str
    filters: Filters
    max_count: int
    kind: Kind | None
    role: Role
    now: datetime


@dataclass(frozen=True, slots=True)
class _Reading:
    """A question as it was embedded, with its vector; `told` says which model, or why without.

    `took_s` is what embedding took.
    """

    text: str
    compared: store.Compared | None
    told: str
    took_s: float


@dataclass(frozen=True, slots=True)
class _Part:
    """The scope of a question, and what is known of the whole where it is only a part."""

    scope: Scope
    exact: bool
    speakers: frozenset[int]
    total: int | None = None
    found: dict[int, int] | None = None


def _part(
    texts: store.Texts, compared: store.Compared | None, words: store.WordCandidates | None = None
) -> _Part:
    scope = scope_of(texts.packed)
    if compared is not None:
        scope = _with_cosines(scope, texts.ids, texts.cosines)
    if words is not None:
        return _Part(scope, False, words.speakers, words.total, words.found)
    return _Part(scope, True, frozenset(np.unique(scope.corpus.speaker).tolist()) - {0})


def _with_cosines(scope: Scope, ids: bytes, cosines: bytes) -> Scope:
    return replace(scope, corpus=replace(scope.corpus, dense=dense_of(scope, ids, cosines)))


class Searcher:
    """Finds memories. Holds no connection while a question is embedded.

    Who speaks decides how a question is embedded. Whoever spoke when the user searched last is
    expected to: all is read in one transaction, and only if others speak by now whom the question
    names, it is embedded again.
    """

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
        self._users: dict[UUID, _Known] = {}  # seen last at the end

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
        ask(query)  # refuses a question without words before anything is read
        started = self._clock.monotonic_s()
        asked = _Asked(user_id, query, filters, max_count, kind, role, self._clock.now())
        if self._embedder is not None and self._model is None:
            async with self._tenant(asked) as conn:
                self._model = await find_model(conn, self._embedder)
        known = self._known(user_id)
        found = await self._among_all(asked, known) if known.size <= self._exact_max else None
        if found is None:
            found = await self._among_many(asked, await self._size(asked, known))
        took_ms = (self._clock.monotonic_s() - started) * 1000 - found.embedding_ms
        return replace(found, took_ms=round(took_ms, 3), embedding_ms=round(found.embedding_ms, 3))

    # What is known of users

    def _known(self, user_id: UUID) -> _Known:
        known = self._users.get(user_id)
        if known is None or known.until_s < self._clock.monotonic_s():
            return _Known(0, frozenset(), 0.0)
        return known

    def _remember(self, user_id: UUID, size: int, speakers: frozenset[int]) -> None:
        self._users.pop(user_id, None)
        self._users[user_id] = _Known(size, speakers, self._clock.monotonic_s() + _KNOWN_S)
        if len(self._users) > _KNOWN_MAX:
            del self._users[next(iter(self._users))]

    async def _size(self, asked: _Asked, known: _Known) -> int:
        """Return how many memories a large user has: as many as were counted not long ago."""
        if known.size > self._exact_max:
            return known.size
        async with self._tenant(asked) as conn:
            most = max(COUNTED_MAX, self._exact_max + 1)
            size = await store.count_scope(conn, user_id=asked.user_id, most=most)
        self._remember(asked.user_id, size, frozenset())
        return size

    # The two ways

    async def _among_all(self, asked: _Asked, known: _Known) -> Found | None:
        """Score everything; None if that is too much."""
        reading = await self._read(asked, known.speakers)
        async with self._tenant(asked) as conn:
            texts, size = await store.whole_scope(
                conn,
                user_id=asked.user_id,
                filters=asked.filters,
                now=asked.now,
                most=self._exact_max,
                compared=reading.compared,
            )
            if size > self._exact_max:
                return None
            part = _part(texts, reading.compared)
            if asked.filters == Filters():
                self._remember(asked.user_id, size, part.speakers)
            if reading.compared is None or reading.text == _as_said(asked.query, part.speakers):
                return await self._found(conn, asked, part, reading)
        again = await self._read(asked, part.speakers)
        async with self._tenant(asked) as conn:
            if again.compared is not None:
                ids, cosines = await store.cosines(
                    conn, user_id=asked.user_id, compared=again.compared
                )
                part = replace(part, scope=_with_cosines(part.scope, ids, cosines))
            again = replace(again, took_s=reading.took_s + again.took_s)
            return await self._found(conn, asked, part, again)

    async def _among_many(self, asked: _Asked, size: int) -> Found:
        """Score what passes the filters if that is not too much, else candidates."""
        if asked.filters != Filters():
            async with self._tenant(asked) as conn:
                ids = await store.filtered_ids(
                    conn,
                    user_id=asked.user_id,
                    filters=asked.filters,
                    now=asked.now,
                    most=self._exact_max + 1,
                )
                if len(ids) <= self._exact_max:
                    part = _part(await self._some(conn, asked, ids, None), None)
            if len(ids) <= self._exact_max:
                reading = await self._read(asked, part.speakers)
                async with self._tenant(asked) as conn:
                    texts = await self._some(conn, asked, ids, reading.compared)
                    part = _part(texts, reading.compared)
                    return await self._found(conn, asked, part, reading)
        words = await self._candidates(asked, size)
        reading = await self._read(asked, words.speakers)
        compared = reading.compared
        async with self._tenant(asked) as conn:
            near: list[UUID] = []
            if compared is not None:
                near = await nearest(
                    conn,
                    user_id=asked.user_id,
                    model=compared.model,
                    vector=compared.vector,
                    max_count=NEAREST,
                )
            texts = await store.part_scope(
                conn,
                user_id=asked.user_id,
                ids=[*words.ids, *near],
                middle=[*words.ids[:MIDDLE_MAX], *near[:MIDDLE_MAX]],
                heart=near[:HEART_MAX],
                most_beside=BESIDE_HEART,
                filters=asked.filters,
                now=asked.now,
                compared=compared,
            )
            return await self._found(conn, asked, _part(texts, compared, words), reading)

    # What they share

    def _tenant(self, asked: _Asked) -> AbstractAsyncContextManager[Connection]:
        return self._db.transaction(asked.role, tenant=asked.user_id)

    async def _read(self, asked: _Asked, speakers: frozenset[int]) -> _Reading:
        """Embed the question as those who speak would say it."""
        before = self._clock.monotonic_s()
        text, model = _as_said(asked.query, speakers), self._model
        vector, told = await embed_question(
            self._embedder, text, model=model, user_id=asked.user_id, without=self._without
        )
        compared = None
        if vector is not None and model is not None:
            compared = store.Compared(model, vector)
        return _Reading(text, compared, told, self._clock.monotonic_s() - before)

    async def _some(
        self,
        conn: Connection,
        asked: _Asked,
        ids: Sequence[UUID],
        compared: store.Compared | None,
    ) -> store.Texts:
        return await store.part_scope(
            conn,
            user_id=asked.user_id,
            ids=ids,
            filters=asked.filters,
            now=asked.now,
            compared=compared,
        )

    async def _candidates(self, asked: _Asked, size: int) -> store.WordCandidates:
        """Return the memories of a large user that hold words of the question, best first.

        Asked as an operator, of whom an index of terms may be used; only ids leave this, and what
        they lead to is read under the tenant's policy.
        """
        terms = ask(asked.query).terms
        async with self._db.connection(Role.OPERATOR) as conn:
            return await store.word_candidates(
                conn,
                user_id=asked.user_id,
                terms=terms,
                total=size,
                per_term=min(PER_TERM, LOOKED_AT_MAX // len(terms)),
                common_max=COMMON_TERMS_MAX,
                per_pair=PER_PAIR,
                most=CANDIDATES_MAX,
            )

    async def _found(
        self, conn: Connection, asked: _Asked, part: _Part, reading: _Reading
    ) -> Found:
        """Rank a part and read the best of it."""
        corpus, told = part.scope.corpus, reading.told
        if reading.compared is not None and missing_vectors(corpus) == len(part.scope.ids):
            told = "none: no memory here has a vector yet"
        kind = asked.kind or kind_of(corpus.speaker)
        question = ask(asked.query, speakers=part.speakers)
        scored = [
            Scored(MemoryId(UUID(bytes=part.scope.id_bytes(r.row))), r.score, r.parts)
            for r in await _ranked(question, part, asked.max_count, kind)
        ]
        whole = await store.memories_by_id(conn, user_id=asked.user_id, ids=[s.id for s in scored])
        return Found(
            hits=[Hit(whole[s.id], s.score, s.parts) for s in scored if s.id in whole],
            vectors=told,
            kind=kind.value,
            considered=len(part.scope.ids),
            unembedded=missing_vectors(corpus),
            exact=part.exact,
            took_ms=0.0,
            embedding_ms=reading.took_s * 1000,
        )


async def _ranked(question: Question, part: _Part, max_count: int, kind: Kind) -> Sequence[Ranked]:
    corpus = replace(part.scope.corpus, total=part.total, found=part.found)
    return await rank_aside(corpus, lambda: rank(question, corpus, max_count=max_count, kind=kind))


def _as_said(query: str, speakers: frozenset[int]) -> str:
    """Return the question as it is embedded where these speak."""
    named = [_bare(word) for word in query.replace("’", "'").split()]
    return to_embed(query, [name for name in named if name and speaker_number(name) in speakers])


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()").removesuffix("'s").removesuffix("'")
