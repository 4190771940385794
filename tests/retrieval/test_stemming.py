"""Forms of one word have one stem."""

import pytest

from helix.retrieval import stem


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("agreed", "agre"),
        ("hopping", "hop"),
        ("filing", "file"),
        ("relational", "relat"),
        ("hopefulness", "hope"),
        ("adjustment", "adjust"),
        ("controlling", "control"),
        ("sky", "sky"),
    ],
)
def test_regular_forms_follow_porter(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_irregular_forms_meet() -> None:
    assert stem("went") == stem("goes") == stem("going") == stem("go")
    assert stem("bought") == stem("buying")
    assert stem("mom") == stem("mothers")


def test_what_is_not_plain_english_is_left_alone() -> None:
    assert [stem(word) for word in ("2023", "café", "日本", "at")] == ["2023", "café", "日本", "at"]
