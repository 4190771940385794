"""Signals of texts as they come from PostgreSQL, beside the same by the plainest arithmetic."""

import struct
from dataclasses import replace
from itertools import pairwise
from math import log
from random import Random
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.retrieval import Corpus, Packed, ask, measure, rank, scope_of, term_number

WORDS = ["boat", "tea", "snow", "dog", "lamp"]
TERMS = [term_number(word) for word in WORDS]

texts = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.sampled_from(TERMS), max_size=7)),
    min_size=1,
    max_size=14,
)
questions = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5)


def packed(rows: list[tuple[int, list[int]]], seed: int) -> tuple[Packed, list[list[int]]]:
    """Return texts, each with its conversation, as PostgreSQL packs them, and their right order.

    The heads between the terms hold numbers that are terms too.
    """
    made = []
    for at, (group, terms) in enumerate(rows):
        head = struct.pack(">IIII", TERMS[0], TERMS[1], TERMS[2], at)
        head += UUID(int=(TERMS[at % 5] << 96) + group).bytes
        head += struct.pack(">qIII", at, 0, TERMS[at % 3], len(terms))
        made.append((group, at, head + struct.pack(f">{len(terms)}I", *terms)))
    groups: dict[bytes, list[int]] = {}
    for _, at, row in made:
        groups.setdefault(row[16:32], []).append(at)
    order = [at for _, ats in sorted(groups.items(), key=lambda g: g[0][8:] + g[0][:8])
             for at in ats]  # fmt: skip
    Random(seed).shuffle(made)
    return (
        Packed(
            b"".join(row for _, _, row in made),
            b"".join(struct.pack(">i", len(row)) for _, _, row in made),
        ),
        [rows[at][1] for at in order],
    )


def plain(corpus: Corpus, rows: list[list[int]], wanted: list[int]) -> dict[str, list[float]]:
    """Return text, window, before, after and pair of each row, one by one."""
    count = len(rows)

    def beside(at: int, step: int) -> int | None:
        there = at + step
        inside = 0 <= there < count and corpus.group[at] == corpus.group[there]
        return there if inside else None

    def scores(tf: list[dict[int, float]], sizes: list[float], b: float) -> list[float]:
        mean = max(sum(sizes) / count, 1.0)
        out = []
        for at in range(count):
            score = 0.0
            for term in set(wanted):
                held = sum(1 for row in rows if term in row)
                idf = log(1 + max(count - held + 0.5, 0.5) / (held + 0.5))
                times = tf[at].get(term, 0.0)
                score += times * 2.2 / (times + 1.2 * (1 - b + b * sizes[at] / mean)) * idf
            out.append(score)
        best = max(out)
        return [score / best if best > 0 else 0.0 for score in out]

    own = [{term: float(row.count(term)) for term in set(wanted)} for row in rows]
    weights = {0: 1.0, 1: 0.5, -1: 0.5, 2: 0.25, -2: 0.25}
    wide, wide_sizes = [], []
    for at in range(count):
        near = {step: there for step in weights if (there := beside(at, step)) is not None}
        wide.append({
            term: sum(weights[step] * own[there][term] for step, there in near.items())
            for term in set(wanted)
        })  # fmt: skip
        wide_sizes.append(sum(weights[step] * len(rows[there]) for step, there in near.items()))
    text = scores(own, [float(len(row)) for row in rows], 0.4)
    pairs = list(pairwise(wanted))
    return {
        "text": text,
        "window": scores(wide, wide_sizes, 0.5),
        "before": [0.0 if (b := beside(at, -1)) is None else text[b] for at in range(count)],
        "after": [0.0 if (a := beside(at, 1)) is None else text[a] for at in range(count)],
        "pair": [min(2, sum(pair in pairwise(row) for pair in pairs)) / 2 for row in rows],
    }


@given(texts, questions, st.integers(0, 99))
def test_signals_of_words_are_what_plain_arithmetic_gives(
    rows: list[tuple[int, list[int]]], words: list[str], seed: int
) -> None:
    sent, ordered = packed(rows, seed)
    corpus = scope_of(sent).corpus
    assert corpus.lengths.tolist() == [len(row) for row in ordered]
    signals = measure(ask(" ".join(words)), corpus)
    for name, values in plain(corpus, ordered, [term_number(word) for word in words]).items():
        assert signals[name].tolist() == pytest.approx(values, abs=1e-5), name


@given(texts, questions, st.integers(0, 99), st.integers(1, 15))
def test_the_best_are_the_beginning_of_all_in_order(
    rows: list[tuple[int, list[int]]], words: list[str], seed: int, count: int
) -> None:
    corpus = scope_of(packed(rows, seed)[0]).corpus
    question = ask(" ".join(words))
    every = [one.row for one in rank(question, corpus, max_count=len(rows))]
    assert [one.row for one in rank(question, corpus, max_count=count)] == every[:count]


def test_a_text_without_a_vector_yet_is_as_near_as_its_words_fit() -> None:
    sent, ordered = packed([(0, TERMS[:2]), (1, TERMS[2:4]), (2, TERMS[3:])], 0)
    corpus = scope_of(sent).corpus
    dense = np.array([np.nan if row == TERMS[:2] else 0.3 for row in ordered], np.float32)
    signals = measure(ask("boat tea"), replace(corpus, dense=dense))
    at = ordered.index(TERMS[:2])
    assert signals["dense"][at] == pytest.approx(0.3)
    assert signals["dense_lead"][at] == pytest.approx(1.0)
    assert measure(ask("snow"), replace(corpus, dense=dense))["dense"][at] == 0
