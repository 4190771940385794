"""The signals of search: what is measured of each text for a question, each 0 to 1 or nearly.

Word scores follow BM25 (S. Robertson, H. Zaragoza, "The Probabilistic Relevance Framework: BM25
and Beyond", 2009), of the text itself and of its window: the texts beside it in the same
conversation, at a half and a quarter of the weight. A score is divided by the best of its kind for
the question, so that signals can be added whatever the size of the corpus.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from helix.retrieval.analysis import Fact, Question

__all__ = ["DENSE_SIGNALS", "SIGNALS", "Corpus", "measure"]

Array = np.ndarray[Any, np.dtype[Any]]

K1, B_TEXT, B_WINDOW = 1.2, 0.4, 0.5
_LEAD_HALF = 5  # the rank at which a lead has fallen to a half
_LONG_LOG = 4.0  # ln of some 55 terms

SIGNALS: dict[str, str] = {
    "text": "BM25 of the text",
    "window": "BM25 of the text with the two before and after it in its conversation",
    "lead": "how far in front its window stands: 1 for the best, a half for the sixth",
    "before": "BM25 of the text just before it",
    "after": "BM25 of the text just after it",
    "pair": "words that stand beside each other in the question and in the text",
    "dense": "cosine of the vectors of text and question",
    "dense_lead": "that cosine against the best one",
    "dense_before": "cosine of the text just before it",
    "dense_after": "cosine of the text just after it",
    "dense_beside": "the better of those two",
    "dense_session": "the best cosine of its conversation",
    "speaker": "1 when said by whom the question names, -1 when by another",
    "named": "the text names whom the question names",
    "question": "the text asks something",
    "after_question": "the text before it asks something",
    "answers": "BM25 of the text before it, where that asks something",
    "length": "logarithm of its length",
    "time": "a time or date, where one is asked for",
    "number": "a number, where one is asked for",
    "place": "a place, where one is asked for",
    "name": "a name, where one is asked for",
    "reason": "a reason, where one is asked for",
    "plan": "an intention, where one is asked for",
    "media": "a picture, where one is asked for",
    "feeling": "a feeling, where one is asked for",
    "date": "nearness to the date the question names",
    "recent": "newness, where the newest is asked for",
    "first_person": "said of oneself",
    "own": "said of oneself by whom the question asks about",
}
"""Every signal and what it says; the weights file and the explanations use these names."""

DENSE_SIGNALS = frozenset(name for name in SIGNALS if name.startswith("dense"))

_WANTED = (
    ("time", Fact.TIME),
    ("number", Fact.NUMBER),
    ("place", Fact.PLACE),
    ("name", Fact.NAME | Fact.QUOTE),
    ("reason", Fact.REASON),
    ("plan", Fact.PLAN),
    ("media", Fact.MEDIA),
    ("feeling", Fact.FEELING),
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """The texts of one search, sorted by conversation and time; every array has one row a text.

    `terms` uint32 (all texts' terms, one after another), `lengths` int64 (terms of each text),
    `group` int64 (conversation: 0, 1 … never falling), `at` float64 (Unix seconds), `facts` int64
    and `speaker` int64 as in `Analysis`; `dense` float32, cosine of text and question, NaN where a
    text has no vector, or None without an embedder. `total` is how many texts the scope holds and
    `found` how many of them hold each term, where this is only a part of them.
    """

    terms: Array
    lengths: Array
    group: Array
    at: Array
    facts: Array
    speaker: Array
    dense: Array | None
    total: int | None = None
    found: dict[int, int] | None = None


def measure(question: Question, corpus: Corpus) -> dict[str, Array]:
    """Return every signal by name: float32, one number a text. Needs at least one text."""
    out = _words(question, corpus)
    out.update(_vectors(corpus))
    out.update(_people(question, corpus))
    group = corpus.group
    asking = _has(corpus.facts, Fact.QUESTION)
    out["question"] = asking
    out["after_question"] = _shift(asking, group, -1)
    out["answers"] = _shift(asking * out["text"], group, -1)
    out["length"] = np.minimum(np.log1p(corpus.lengths) / _LONG_LOG, 1.5).astype(np.float32)
    nothing = np.zeros(len(group), np.float32)
    for name, fact in _WANTED:
        out[name] = _has(corpus.facts, fact) if question.wanted & fact else nothing
    out["date"] = _nearness(question, corpus.at)
    spread = float(np.ptp(corpus.at))
    newness = (corpus.at - corpus.at.min()) / spread if question.recent and spread > 0 else nothing
    out["recent"] = newness.astype(np.float32)
    out["first_person"] = _has(corpus.facts, Fact.FIRST_PERSON)
    out["own"] = out["first_person"] * (out["speaker"] > 0)
    return out


def _words(question: Question, corpus: Corpus) -> dict[str, Array]:
    rows, group = len(corpus.lengths), corpus.group
    lengths = corpus.lengths.astype(np.float32)
    owner = np.repeat(np.arange(rows), corpus.lengths)
    wanted = np.array(sorted(question.terms), np.uint32)
    counts = _counts(corpus.terms, owner, wanted, rows)
    idf = _idf(counts, wanted, corpus)
    text = _scaled(_bm25(counts, lengths, idf, B_TEXT))
    window = _scaled(_bm25(_around(counts, group), _around(lengths, group), idf, B_WINDOW))
    order = np.argsort(-window, kind="stable")
    lead = np.empty(rows, np.float32)
    lead[order] = _LEAD_HALF / (_LEAD_HALF + np.arange(rows, dtype=np.float32))
    return {
        "text": text,
        "window": window,
        "lead": lead * (window > 0),
        "before": _shift(text, group, -1),
        "after": _shift(text, group, 1),
        "pair": _pairs(question, corpus.terms, owner, rows),
    }


def _vectors(corpus: Corpus) -> dict[str, Array]:
    group = corpus.group
    if corpus.dense is None:
        nothing = np.zeros(len(group), np.float32)
        return dict.fromkeys(DENSE_SIGNALS, nothing)
    dense = np.nan_to_num(corpus.dense, nan=0.0).astype(np.float32)
    before, after = _shift(dense, group, -1), _shift(dense, group, 1)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    best = np.maximum.reduceat(dense, starts)
    return {
        "dense": dense,
        "dense_lead": dense / max(float(dense.max()), 1e-6),
        "dense_before": before,
        "dense_after": after,
        "dense_beside": np.maximum(before, after),
        "dense_session": np.repeat(best, np.diff(np.r_[starts, len(group)])),
    }


def _people(question: Question, corpus: Corpus) -> dict[str, Array]:
    rows = len(corpus.lengths)
    if not question.names:
        nothing = np.zeros(rows, np.float32)
        return {"speaker": nothing, "named": nothing}
    names = np.array(sorted(question.names), np.int64)
    said = np.isin(corpus.speaker, names)
    spoken = corpus.speaker != 0
    owner = np.repeat(np.arange(rows), corpus.lengths)
    named = _counts(corpus.terms, owner, names.astype(np.uint32), rows).sum(1) > 0
    return {
        "speaker": said.astype(np.float32) - (spoken & ~said),
        "named": named.astype(np.float32),
    }


def _has(facts: Array, fact: Fact) -> Array:
    return ((facts & int(fact)) > 0).astype(np.float32)


def _shift(values: Array, group: Array, step: int) -> Array:
    """Return for each row the value of the row `step` further in its conversation, else 0."""
    out = np.zeros_like(values)
    if abs(step) >= len(values):
        return out
    here, there = (slice(None, -step), slice(step, None))
    if step < 0:
        here, there = (slice(-step, None), slice(None, step))
    same = group[here] == group[there]
    out[here][same] = values[there][same]
    return out


def _around(values: Array, group: Array) -> Array:
    beside = _shift(values, group, 1) + _shift(values, group, -1)
    beyond = _shift(values, group, 2) + _shift(values, group, -2)
    out: Array = values + 0.5 * beside + 0.25 * beyond
    return out


def _scaled(values: Array) -> Array:
    top = values.max(initial=0.0)
    out: Array = values / top if top > 0 else values
    return out


def _bm25(counts: Array, lengths: Array, idf: Array, b: float) -> Array:
    mean = max(float(lengths.mean()), 1.0)
    norm = K1 * (1 - b + b * lengths / mean)
    out: Array = (counts * (K1 + 1) / (counts + norm[:, None]) * idf).sum(1)
    return out


def _counts(terms: Array, owner: Array, wanted: Array, rows: int) -> Array:
    """Return how often each of `wanted` (sorted) stands in each text: float32, (rows, wanted)."""
    if len(wanted) == 0 or len(terms) == 0:
        return np.zeros((rows, len(wanted)), np.float32)
    at = np.searchsorted(wanted, terms)
    at[at == len(wanted)] = 0
    hit = wanted[at] == terms
    flat = np.bincount(owner[hit] * len(wanted) + at[hit], minlength=rows * len(wanted))
    return flat.reshape(rows, len(wanted)).astype(np.float32)


def _idf(counts: Array, wanted: Array, corpus: Corpus) -> Array:
    total = len(counts) if corpus.total is None else corpus.total
    found = (counts > 0).sum(0).astype(np.float32)
    if corpus.found is not None:
        found = np.array([corpus.found.get(int(term), 0) for term in wanted], np.float32)
    rarity: Array = np.log(1 + np.maximum(total - found + 0.5, 0.5) / (found + 0.5))
    return rarity.astype(np.float32)


def _pairs(question: Question, terms: Array, owner: Array, rows: int) -> Array:
    found = np.zeros(rows, np.float32)
    if len(terms) > 1:
        together = owner[1:] == owner[:-1]
        for first, second in question.pairs:
            hit = (terms[:-1] == first) & (terms[1:] == second) & together
            found[owner[:-1][hit]] += 1
    capped: Array = np.minimum(found, 2) / 2
    return capped


def _nearness(question: Question, at: Array) -> Array:
    """Return how near each text is to the date in the question, 0 to 1.

    A text that tells of something is as a rule a little later than it.
    """
    year, month, day = question.year, question.month, question.day
    moments = at.astype("int64").astype("datetime64[s]")
    months = moments.astype("datetime64[M]").astype(np.int64)  # since 1970
    near = np.zeros(len(at))
    if month is None and year is not None:
        near = 0.3 * (months // 12 + 1970 == year)
    elif month is not None and year is None:
        near = 0.6 * (months % 12 + 1 == month)
    elif month is not None and year is not None:
        gap = months - ((year - 1970) * 12 + month - 1)
        near = np.where(gap == 0, 0.7, np.where(gap == 1, 0.3, 0.0))
        if day is not None and day <= _days_of(year, month):
            target = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "D")
            days = (moments.astype("datetime64[D]") - target).astype(np.int64)
            near = np.exp(-np.abs(days) / 3.0) * np.where(days >= -1, 1.0, 0.3)
    return near.astype(np.float32)


def _days_of(year: int, month: int) -> int:
    first = np.datetime64(f"{year:04d}-{month:02d}", "M")
    return int(((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(int))
