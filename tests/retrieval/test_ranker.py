"""Signals and their weighted sum."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from helix.retrieval import (
    DENSE_SIGNALS,
    SIGNALS,
    Corpus,
    Kind,
    analyse,
    ask,
    kind_of,
    load_weights,
    measure,
    rank,
)


def corpus(
    texts: Sequence[tuple[str, str | None]],
    *,
    groups: Sequence[int] | None = None,
    dense: Sequence[float] | None = None,
    days: Sequence[int] | None = None,
) -> Corpus:
    known = [analyse(text, speaker=speaker) for text, speaker in texts]
    start = datetime(2023, 5, 1, tzinfo=UTC).timestamp()
    return Corpus(
        terms=np.array([n for one in known for n in one.terms], np.uint32),
        lengths=np.array([len(one.terms) for one in known], np.int64),
        group=np.array(groups or [0] * len(texts), np.int64),
        at=np.array([start + 86_400 * d for d in (days or range(len(texts)))], float),
        facts=np.array([int(one.facts) for one in known], np.int64),
        speaker=np.array([one.speaker for one in known], np.int64),
        dense=None if dense is None else np.array(dense, np.float32),
    )


def asked(text: str, known: Corpus) -> list[int]:
    found = rank(ask(text, speakers=known.speaker.tolist()), known, max_count=10)
    return [one.row for one in found]


def test_every_weight_is_of_a_known_signal_and_every_set_is_there() -> None:
    sets = load_weights()
    assert set(sets) == {"people", "people_words", "chat", "chat_words"}
    for name, own in sets.items():
        wanted = SIGNALS.keys() - (DENSE_SIGNALS if name.endswith("_words") else set())
        assert own.keys() == wanted


def test_the_text_with_the_words_comes_first() -> None:
    known = corpus([("I like tea", None), ("The boat is blue", None), ("Rain again", None)],
                   groups=[0, 1, 2])  # fmt: skip
    assert asked("Which colour is the boat?", known)[0] == 1


def test_what_the_named_speaker_said_comes_before_what_the_other_said() -> None:
    known = corpus([("I bought a red bicycle", "Ben"), ("I bought a red bicycle", "Ada")],
                   groups=[0, 1])  # fmt: skip
    assert asked("What did Ada buy?", known)[0] == 1


def test_the_answer_after_a_question_is_found_by_the_question() -> None:
    known = corpus(
        [("What is your sister's favourite food?", "Ben"), ("Definitely sushi!", "Ada"),
         ("Look at the weather.", "Ben"), ("Oh, terrible.", "Ada")],
        groups=[0, 0, 1, 1],
    )  # fmt: skip
    assert asked("What is the favourite food of Ada's sister?", known)[:2] in ([0, 1], [1, 0])


def test_a_date_in_the_question_prefers_texts_of_that_day() -> None:
    known = corpus([("We went out", "Ada"), ("We went out again", "Ada")], groups=[0, 1],
                   days=[2, 40])  # fmt: skip
    assert asked("What did Ada do on 3 May, 2023?", known)[0] == 0


def test_a_vector_finds_what_words_do_not() -> None:
    texts = [("The feline dozed", None), ("Stocks fell", None), ("It snowed", None)]
    known = corpus(texts, groups=[0, 1, 2], dense=[0.1, 0.8, 0.2])
    assert asked("What of the market?", known)[0] == 1


def test_a_text_without_a_vector_is_still_found_by_its_words() -> None:
    texts = [("The market crashed", None), ("It snowed", None), ("It rained", None)]
    known = corpus(texts, groups=[0, 1, 2], dense=[np.nan, 0.3, 0.2])
    assert asked("What of the market?", known)[0] == 0


def test_the_parts_of_a_score_add_up_to_it() -> None:
    known = corpus([("Ada sails in Porto", "Ada"), ("Why?", "Ben"), ("For fun.", "Ada")])
    for one in rank(ask("Where does Ada sail?", speakers=[]), known, max_count=3):
        assert sum(one.parts.values()) == pytest.approx(one.score, abs=5e-3)


def test_user_and_assistant_make_a_chat() -> None:
    assert kind_of(corpus([("Hi", "user"), ("Hello", "assistant")]).speaker) is Kind.CHAT
    assert kind_of(corpus([("Hi", "Ada"), ("Hello", "Ben")]).speaker) is Kind.PEOPLE
    assert kind_of(corpus([("A fact", None)]).speaker) is Kind.PEOPLE


def test_neighbours_are_those_of_the_same_conversation() -> None:
    known = corpus([("alpha", None), ("beta", None), ("gamma", None)], groups=[0, 0, 1])
    signals = measure(ask("alpha"), known)
    assert signals["before"].tolist() == [0, 1, 0]
    assert signals["window"][2] == 0


def test_no_text_gives_no_hit() -> None:
    empty = corpus([])
    assert rank(ask("anything"), empty, max_count=5) == []


def test_statistics_of_the_whole_replace_those_of_a_part() -> None:
    texts = [("common word here", None), ("rare thing here", None)]
    known = corpus(texts, groups=[0, 1])
    question = ask("common rare")
    part = Corpus(
        known.terms, known.lengths, known.group, known.at, known.facts, known.speaker, None,
        total=1_000, found={analyse("common").terms[0]: 900, analyse("rare").terms[0]: 2},
    )  # fmt: skip
    assert measure(question, part)["text"][0] < 0.1
