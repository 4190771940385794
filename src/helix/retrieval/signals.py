"""The signals of search: what is measured of each text for a question, each 0 to 1 or nearly.

Word scores follow BM25 (S. Robertson, H. Zaragoza, "The Probabilistic Relevance Framework: BM25
and Beyond", 2009), of the text itself and of its window: the texts beside it in the same
conversation, at a half and a quarter of the weight. A score is divided by the best of its kind for
the question, so that signals can be added whatever the size of the corpus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from helix.retrieval.analysis import Fact, Question

__all__ = ["DENSE_SIGNALS", "SIGNALS", "Corpus", "Laid", "measure"]

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
    "dense": "cosine of the vectors of text and question; without a vector yet, what its words say",
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

    `terms` uint32 (all texts' terms, those of a text in its order), `lengths` int64 (terms of each
    text), `group` int64 (conversation: 0, 1 … never falling), `at` float64 (Unix seconds), `facts`
    int64 and `speaker` int64 as in `Analysis`; `dense` float32, cosine of text and question, NaN
    where a text has no vector, or None without an embedder. `total` is how many texts the scope
    holds and `found` how many of them hold each term, where this is only a part of them.

    The terms of the rows follow one another, unless `laid` says how they lie.
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
    laid: "Laid | None" = None


@dataclass(frozen=True, slots=True)
class Laid:
    """How the terms of texts lie in one array, in which other numbers may stand between them.

    The n-th text there is the row `row[n]`; its terms are those from `start[n]` (rising) to before
    `end[n]`. All int64.
    """

    row: Array
    start: Array
    end: Array


def measure(question: Question, corpus: Corpus) -> dict[str, Array]:
    """Return every signal by name: float32, one number a text. Needs at least one text."""
    beside = _Beside(corpus.group)
    out = _words(question, corpus, beside)
    out.update(_vectors(corpus, out["text"], beside))
    out.update(_people(question, corpus))
    asking = _has(corpus.facts, Fact.QUESTION)
    out["question"] = asking
    out["after_question"] = beside.shift(asking, -1)
    out["answers"] = beside.shift(asking * out["text"], -1)
    out["length"] = np.minimum(np.log1p(corpus.lengths) / _LONG_LOG, 1.5).astype(np.float32)
    nothing = np.zeros(len(corpus.group), np.float32)
    for name, fact in _WANTED:
        out[name] = _has(corpus.facts, fact) if question.wanted & fact else nothing
    out["date"] = nothing
    if question.month is not None or question.year is not None:
        out["date"] = _nearness(question, corpus.at)
    out["recent"] = _newness(corpus.at) if question.recent else nothing
    out["first_person"] = _has(corpus.facts, Fact.FIRST_PERSON)
    out["own"] = out["first_person"] * (out["speaker"] > 0)
    return out


class _Beside:
    """Which rows stand beside which in their conversations; rows are the last axis of values."""

    def __init__(self, group: Array) -> None:
        self._same = {step: group[step:] == group[:-step] for step in (1, 2)}

    def shift(self, values: Array, step: int) -> Array:
        """Return for each row the value of the row `step` further in its conversation, else 0."""
        out = np.zeros_like(values)
        same = self._same[abs(step)]
        if len(same):
            here, there = out[..., :-step], values[..., step:]
            if step < 0:
                here, there = out[..., -step:], values[..., :step]
            np.multiply(there, same, out=here)
        return out

    def around(self, values: Array) -> Array:
        """Return values with a half of those beside and a quarter of those beyond them."""
        beside = self.shift(values, 1) + self.shift(values, -1)
        beyond = self.shift(values, 2) + self.shift(values, -2)
        out: Array = values + 0.5 * beside + 0.25 * beyond
        return out


@dataclass(frozen=True, slots=True)
class _Places:
    """Where terms stand: in the array of terms, and in which row. `end` is where its text ends."""

    place: Array
    row: Array
    end: Array


def _places(corpus: Corpus, laid: Laid, number: int) -> _Places:
    place = np.flatnonzero(corpus.terms == np.uint32(number))
    text = np.searchsorted(laid.start, place, side="right") - 1
    inside = (text >= 0) & (place < laid.end[text])
    place, text = place[inside], text[inside]
    return _Places(place, laid.row[text], laid.end[text])


def _laid_out(corpus: Corpus) -> Laid:
    if corpus.laid is not None:
        return corpus.laid
    end = np.cumsum(corpus.lengths)
    return Laid(np.arange(len(end)), end - corpus.lengths, end)


def _words(question: Question, corpus: Corpus, beside: _Beside) -> dict[str, Array]:
    rows = len(corpus.lengths)
    lengths = corpus.lengths.astype(np.float32)
    laid, wanted = _laid_out(corpus), sorted(question.terms)
    places = {number: _places(corpus, laid, number) for number in wanted}
    counts = np.zeros((len(wanted), rows), np.float32)
    for at, number in enumerate(wanted):
        counts[at] = np.bincount(places[number].row, minlength=rows)
    idf = _idf(counts, wanted, corpus)
    text = _scaled(_bm25(counts, lengths, idf, B_TEXT))
    window = _scaled(_bm25(beside.around(counts), beside.around(lengths), idf, B_WINDOW))
    told = np.flatnonzero(window > 0)
    lead = np.zeros(rows, np.float32)
    lead[told[np.argsort(-window[told], kind="stable")]] = _LEAD_HALF / (
        _LEAD_HALF + np.arange(len(told), dtype=np.float32)
    )
    return {
        "text": text,
        "window": window,
        "lead": lead,
        "before": beside.shift(text, -1),
        "after": beside.shift(text, 1),
        "pair": _pairs(question, corpus.terms, places, rows),
    }


def _vectors(corpus: Corpus, text: Array, beside: _Beside) -> dict[str, Array]:
    """A text that has no vector yet is taken to be as near as its words are fitting."""
    group = corpus.group
    if corpus.dense is None:
        nothing = np.zeros(len(group), np.float32)
        return dict.fromkeys(DENSE_SIGNALS, nothing)
    missing = np.isnan(corpus.dense)
    dense = np.where(missing, 0, corpus.dense).astype(np.float32)
    top = max(float(dense.max()), 1e-6)
    dense[missing] = top * text[missing]
    before, after = beside.shift(dense, -1), beside.shift(dense, 1)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    best = np.maximum.reduceat(dense, starts)
    return {
        "dense": dense,
        "dense_lead": dense / top,
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
    said = np.isin(corpus.speaker, np.array(question.names, np.int64))
    spoken = corpus.speaker != 0
    laid, named = _laid_out(corpus), np.zeros(rows, np.float32)
    for number in question.names:
        named[_places(corpus, laid, number).row] = 1
    return {"speaker": said.astype(np.float32) - (spoken & ~said), "named": named}


def _has(facts: Array, fact: Fact) -> Array:
    return ((facts & int(fact)) > 0).astype(np.float32)


def _scaled(values: Array) -> Array:
    top = values.max(initial=0.0)
    out: Array = values / top if top > 0 else values
    return out


def _bm25(counts: Array, lengths: Array, idf: Array, b: float) -> Array:
    mean = max(float(lengths.mean()), 1.0)
    norm = K1 * (1 - b + b * lengths / mean)
    out: Array = (counts * (K1 + 1) / (counts + norm) * idf[:, None]).sum(0)
    return out


def _idf(counts: Array, wanted: Sequence[int], corpus: Corpus) -> Array:
    total = counts.shape[1] if corpus.total is None else corpus.total
    found = (counts > 0).sum(1).astype(np.float32)
    if corpus.found is not None:
        found = np.array([corpus.found.get(number, 0) for number in wanted], np.float32)
    rarity: Array = np.log(1 + np.maximum(total - found + 0.5, 0.5) / (found + 0.5))
    return rarity.astype(np.float32)


def _pairs(question: Question, terms: Array, places: Mapping[int, _Places], rows: int) -> Array:
    found = np.zeros(rows, np.float32)
    for first, second in question.pairs:
        at = places[first]
        followed = at.place + 1 < at.end
        row, place = at.row[followed], at.place[followed]
        found[row[terms[place + 1] == np.uint32(second)]] += 1
    capped: Array = np.minimum(found, 2) / 2
    return capped


def _newness(at: Array) -> Array:
    spread = float(np.ptp(at))
    newness = (at - at.min()) / spread if spread > 0 else np.zeros(len(at))
    return newness.astype(np.float32)


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
