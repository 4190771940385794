"""One number from many signals: a weighted sum, with weights that were learned and are data.

The weights stand in weights.json with where they come from; bench/memory_train.py makes it. There
is one set for people talking with each other and one for chats with an assistant, each with and
without vectors, chosen by who speaks in the texts that are searched.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from typing import Any

import msgspec
import numpy as np

from helix.retrieval.analysis import ASSISTANT_NUMBERS, USER_NUMBERS, Question
from helix.retrieval.signals import Corpus, measure

__all__ = ["Kind", "Ranked", "kind_of", "load_weights", "rank"]

Array = np.ndarray[Any, np.dtype[Any]]


class Kind(StrEnum):
    """What kind of talk the texts are."""

    PEOPLE = "people"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text found: its row in the corpus, its score, and what each signal added to it.

    The parts that are not zero, largest first; their sum is the score.
    """

    row: int
    score: float
    parts: dict[str, float]


class _Weights(msgspec.Struct, frozen=True):
    provenance: dict[str, Any]
    sets: dict[str, dict[str, float]]


@lru_cache(maxsize=1)
def load_weights() -> Mapping[str, Mapping[str, float]]:
    """Return the weights by set (`people`, `people_words`, `chat`, `chat_words`) and signal."""
    text = resources.files("helix.retrieval").joinpath("weights.json").read_bytes()
    return msgspec.json.decode(text, type=_Weights).sets


def kind_of(speaker: Array) -> Kind:
    """Return the kind of talk: a chat when most of those who speak are a user and an assistant."""
    spoken = speaker[speaker != 0]
    roles = np.array(USER_NUMBERS + ASSISTANT_NUMBERS, np.int64)
    in_role = int(np.isin(spoken, roles).sum())
    return Kind.CHAT if in_role * 2 > len(spoken) else Kind.PEOPLE


def rank(
    question: Question,
    corpus: Corpus,
    *,
    max_count: int,
    kind: Kind | None = None,
    weights: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Ranked]:
    """Return the best `max_count` texts, best first; equals stand in the order of the corpus."""
    if len(corpus.lengths) == 0:
        return []
    chosen = kind or kind_of(corpus.speaker)
    sets = load_weights() if weights is None else weights
    has_vectors = corpus.dense is not None and bool(np.isfinite(corpus.dense).any())
    own = sets[chosen.value if has_vectors else f"{chosen.value}_words"]
    signals = measure(question, corpus)
    score = np.zeros(len(corpus.lengths), np.float32)
    for name, weight in own.items():
        score += np.float32(weight) * signals[name]
    best = _best(score, max_count)
    return [
        Ranked(
            int(row),
            round(float(score[row]), 4),
            _parts({name: weight * float(signals[name][row]) for name, weight in own.items()}),
        )
        for row in best
    ]


def _best(score: Array, count: int) -> Array:
    """Return the rows with the highest scores, best first, equals in the order of rows."""
    rows = np.arange(len(score))
    if count < len(score):
        rows = np.flatnonzero(score >= np.partition(score, -count)[-count])
    best: Array = rows[np.argsort(-score[rows], kind="stable")][:count]
    return best


def _parts(parts: dict[str, float]) -> dict[str, float]:
    told = {name: round(part, 4) for name, part in parts.items() if abs(part) >= 5e-5}
    return dict(sorted(told.items(), key=lambda item: -abs(item[1])))
