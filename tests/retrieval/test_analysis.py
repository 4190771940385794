"""What search knows of a text and of a question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.retrieval import (
    Fact,
    QueryEmpty,
    analyse,
    ask,
    speaker_number,
    stem,
    term_number,
    to_embed,
)


def number(word: str) -> int:
    return term_number(stem(word))


def test_terms_are_stems_in_order_without_stop_words() -> None:
    assert analyse("The dogs were running home").terms == (
        number("dog"), number("run"), number("home"),
    )  # fmt: skip


def test_facts_say_what_a_text_has() -> None:
    facts = analyse('I will visit Porto in June with 3 friends, because of "Lusiads".').facts
    expected = Fact.PLAN | Fact.PLACE | Fact.TIME | Fact.NUMBER | Fact.REASON | Fact.QUOTE
    assert expected in facts
    assert Fact.QUESTION not in facts
    assert Fact.QUESTION in analyse("Really?").facts


def test_a_speaker_is_known_by_the_first_name() -> None:
    assert analyse("Hi", speaker="Ada Lovelace").speaker == speaker_number("ada")
    assert analyse("Hi").speaker == 0


def test_a_question_names_a_speaker_and_not_a_word() -> None:
    question = ask("When did Ada buy the boat?", speakers=[speaker_number("Ada")])
    assert question.names == (speaker_number("Ada"),)
    assert question.terms == (number("buy"), number("boat"))
    assert question.wanted == Fact.TIME


def test_in_a_chat_i_is_the_user_and_you_told_me_the_assistant() -> None:
    roles = [speaker_number("user"), speaker_number("assistant")]
    assert ask("What is my dog called?", speakers=roles).names == (speaker_number("user"),)
    assert ask("Which book did you recommend?", speakers=roles).names == (
        speaker_number("assistant"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What happened on October 13, 2023?", (2023, 10, 13)),
        ("What happened on 3 May 2022?", (2022, 5, 3)),
        ("What did she do in August?", (None, 8, None)),
        ("What did she do in 2021?", (2021, None, None)),
        ("What may she do with 4 marches?", (None, None, None)),
    ],
)
def test_a_date_in_the_question_is_read(
    text: str, expected: tuple[int | None, int | None, int | None]
) -> None:
    question = ask(text)
    assert (question.year, question.month, question.day) == expected


def test_a_question_without_words_is_refused() -> None:
    with pytest.raises(QueryEmpty):
        ask("?! …")


def test_a_question_of_stop_words_only_keeps_them() -> None:
    assert ask("who are you").terms != ()


def test_a_name_is_embedded_as_i() -> None:
    assert to_embed("When did Ada's dog bite Ada?", ["Ada"]) == "When did my dog bite I?"


@given(st.text(max_size=300))
def test_any_text_can_be_analysed(text: str) -> None:
    known = analyse(text, speaker=text[:10])
    assert all(0 < term < 2**32 for term in known.terms)
    assert analyse(text, speaker=text[:10]) == known
