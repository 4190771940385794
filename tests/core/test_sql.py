"""The SQL scanner: where statements, comments and parameters begin and end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.sql import named_statements, scan, split_statements, strip

PIECES = [
    "select 1",
    ";",
    "'a;b''c'",
    "E'\\';'",
    '"odd;name"',
    "$$ body; $$",
    "$tag$ $$ ; $$ $tag$",
    "-- line ; comment\n",
    "/* block ; /* nested */ */",
    " ",
    "\n",
    ":name",
    "x::text",
    "a = :b",
]


@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_tokens_joined_are_the_text_again(pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert "".join(token.text for token in scan(text)) == text


@given(st.lists(st.sampled_from([p for p in PIECES if p != ";"]), min_size=1, max_size=5))
def test_a_semicolon_inside_a_quotation_does_not_split(pieces: list[str]) -> None:
    text = "select " + " ".join(pieces)
    assert len(split_statements(f"{text};{text};")) == 2


def test_a_function_body_stays_one_statement() -> None:
    script = (
        "CREATE FUNCTION f() RETURNS void AS $fn$ BEGIN a; b; END $fn$ LANGUAGE plpgsql; -- end"
    )
    assert split_statements(script) == [script.partition(";")[0] + "; b; END $fn$ LANGUAGE plpgsql"]


def test_comments_before_a_statement_stay_with_it_and_trailing_ones_go() -> None:
    assert split_statements("-- why\nselect 1; -- after\n") == ["-- why\nselect 1"]


def test_an_empty_script_has_no_statement() -> None:
    assert split_statements(" ;; -- nothing\n;") == []


@pytest.mark.parametrize("text", ["'open", '"open', "$$ open", "/* open /* */", "E'\\'"])
def test_a_quotation_that_does_not_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not end"):
        split_statements(text)


def test_strip_removes_comments_and_folds_space() -> None:
    assert strip("select /* x */ 1,\n   'a  b' -- c") == "select 1, 'a  b'"


def test_named_parameters_become_numbered_in_order_of_first_use() -> None:
    text = "-- name: find_x\n-- :comment is not a parameter\nSELECT :b::text, :a, ':c' WHERE :b > 1"
    statement = named_statements(text)["find_x"]
    assert statement.sql == "SELECT $1::text, $2, ':c' WHERE $1 > 1"
    assert statement.params == ("b", "a")
    assert statement.arguments({"a": 1, "b": 2}) == [2, 1]


@pytest.mark.parametrize("values", [{}, {"a": 1, "b": 2}])
def test_a_wrong_set_of_arguments_is_named(values: dict[str, object]) -> None:
    statement = named_statements("-- name: q\nSELECT :a")["q"]
    with pytest.raises(TypeError, match="statement q: missing"):
        statement.arguments(values)


@pytest.mark.parametrize(
    "text", ["-- name: q\nSELECT 1; SELECT 2", "-- name: q\n", "-- name: q\nS\n-- name: q\nS"]
)
def test_a_name_stands_for_exactly_one_statement(text: str) -> None:
    with pytest.raises(ValueError, match="statement q"):
        named_statements(text)
