"""Pure decisions of memory: what is a duplicate, what contradicts, what looks like junk."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from helix.core.clock import as_utc
from helix.memory.errors import BadMemory
from helix.memory.types import Contradiction, Filters, MemoryId, NearDuplicate, NewMemory
from helix.retrieval import Fact

__all__ = [
    "BATCH_MAX",
    "CONTENT_CHARS_MAX",
    "Candidate",
    "Statement",
    "as_uuid",
    "check_filters",
    "check_memory",
    "check_moment",
    "check_text",
    "contradictions",
    "junk_score",
    "near_duplicates",
]

CONTENT_CHARS_MAX = 100_000
BATCH_MAX = 1_000
TAGS_MAX = 64
SIMILAR_FROM = 0.8
_SHORTEST_COMPARED = 3
_COMMON_IN_MAX = 200  # a term in more memories than this does not bring candidates together
SINGLE_VALUED = frozenset({"lives_in", "works_at", "has_age", "is_named", "married_to"})
"""Predicates of which one is true at a time: a newer one ends an older one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory as an audit sees it; `terms` in the order of the text."""

    id: MemoryId
    terms: tuple[int, ...]
    speaker: int
    facts: Fact
    valid_from: datetime
    access_count: int
    use_count: int
    confidence: float
    entity_count: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A relation a memory states, for finding contradictions."""

    memory_id: MemoryId
    subject: str
    predicate: str
    object: str
    valid_from: datetime


def check_memory(memory: NewMemory) -> None:
    """Refuse what cannot be kept. Raises BadMemory with the field at fault."""
    if not memory.content.strip():
        raise BadMemory("content: a memory needs some text", param="content")
    if len(memory.content) > CONTENT_CHARS_MAX:
        raise BadMemory(
            f"content: {len(memory.content)} characters, at most {CONTENT_CHARS_MAX}; "
            "cut it into several memories",
            param="content",
        )
    for name in ("content", "speaker", "agent_id", "memory_type", "tags", "metadata"):
        check_text(name, getattr(memory, name))
    if len(memory.tags) > TAGS_MAX:
        raise BadMemory(f"tags: {len(memory.tags)}, at most {TAGS_MAX}", param="tags")
    for name in ("valid_from", "valid_to"):
        check_moment(name, getattr(memory, name))
    start, end = memory.valid_from, memory.valid_to
    if start is not None and end is not None and end < start:
        raise BadMemory("valid_to: lies before valid_from", param="valid_to")


def check_text(name: str, value: object) -> None:
    """Refuse text, or JSON with text in it, that PostgreSQL cannot keep. Raises BadMemory."""
    if isinstance(value, dict):
        for key, inner in value.items():
            check_text(name, key)
            check_text(name, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_text(name, inner)
    elif isinstance(value, str) and ("\0" in value or (not value.isprintable() and _lone(value))):
        raise BadMemory(
            f"{name}: PostgreSQL cannot keep the character U+0000 or half a surrogate pair",
            param=name,
        )


def check_moment(name: str, moment: datetime | None) -> None:
    """Refuse a time that could be kept and never read again. Raises BadMemory."""
    try:
        if moment is not None:
            as_utc(moment)
    except ValueError as exc:
        raise BadMemory(f"{name}: {exc}", param=name) from exc


def _lone(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def check_filters(filters: Filters) -> None:
    """Refuse filters that cannot be asked. Raises BadMemory."""
    check_text("agent_id", filters.agent_id)
    check_text("memory_type", filters.memory_type)
    check_moment("at", filters.at)


def near_duplicates(candidates: Sequence[Candidate]) -> list[NearDuplicate]:
    """Return pairs by the same speaker whose sets of terms overlap (Jaccard) from 0.8 on.

    Only texts that share a rare term are compared, so the work grows with the number of texts and
    not its square. The newer of two is kept. A memory is dropped at most once, and never one that
    another is merged into.
    """
    by_term: dict[int, list[int]] = defaultdict(list)
    sets = [frozenset(c.terms) for c in candidates]
    for at, terms in enumerate(sets):
        for term in terms:
            by_term[term].append(at)
    pairs: dict[tuple[int, int], float] = {}
    for places in by_term.values():
        if not 2 <= len(places) <= _COMMON_IN_MAX:
            continue
        for n, a in enumerate(places):
            for b in places[n + 1 :]:
                if (a, b) not in pairs:
                    pairs[a, b] = _similarity(candidates[a], candidates[b], sets[a], sets[b])
    found: list[NearDuplicate] = []
    dropped: set[MemoryId] = set()
    kept: set[MemoryId] = set()
    for (a, b), similarity in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        if similarity < SIMILAR_FROM:
            break
        older, newer = sorted(
            (candidates[a], candidates[b]), key=lambda c: (c.valid_from, c.id.int)
        )
        if older.id in dropped | kept or newer.id in dropped:
            continue
        dropped.add(older.id)
        kept.add(newer.id)
        found.append(NearDuplicate(newer.id, older.id, round(similarity, 4)))
    return found


def _similarity(a: Candidate, b: Candidate, one: frozenset[int], other: frozenset[int]) -> float:
    if a.speaker != b.speaker or min(len(one), len(other)) < _SHORTEST_COMPARED:
        return 0.0
    return len(one & other) / len(one | other)


def contradictions(statements: Iterable[Statement]) -> list[Contradiction]:
    """Return, for each property that has one value at a time, what a newer memory replaced."""
    by_property: dict[tuple[str, str], list[Statement]] = defaultdict(list)
    for statement in statements:
        if statement.predicate in SINGLE_VALUED:
            by_property[statement.subject.lower(), statement.predicate].append(statement)
    found = []
    for told in by_property.values():
        told.sort(key=lambda s: (s.valid_from, s.memory_id.int))
        for older, newer in pairwise(told):
            if older.object.lower() != newer.object.lower() and older.memory_id != newer.memory_id:
                found.append(
                    Contradiction(
                        older.memory_id,
                        newer.memory_id,
                        older.subject,
                        older.predicate,
                        newer.valid_from,
                    )
                )
    return found


def junk_score(candidate: Candidate) -> float:
    """Return how little there is to remember: 0 (much) to 1 (nothing).

    A half for having no more than two words, less for up to eight; a fifth for asking and not
    telling; a tenth each for naming nothing, no time or number, low confidence, and never used.
    """
    words = len(set(candidate.terms))
    score = 0.5 if words <= 2 else 0.5 * max(0.0, (8 - words) / 8)
    if Fact.QUESTION in candidate.facts and Fact.FIRST_PERSON not in candidate.facts:
        score += 0.2
    if candidate.entity_count == 0:
        score += 0.1
    if not candidate.facts & (Fact.TIME | Fact.NUMBER | Fact.PLACE):
        score += 0.1
    if candidate.confidence < 0.5:
        score += 0.1
    if candidate.access_count + candidate.use_count == 0:
        score += 0.1
    return round(min(score, 1.0), 3)


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def as_uuid(text: str) -> UUID | None:
    """Return the id in `text`, or None when it is a name."""
    return UUID(text) if _UUID.fullmatch(text) else None
