"""Names and positions of the log, and the way from timeline to timeline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.errors import Misuse
from helix.operations.backup.wal import (
    Segment,
    Switch,
    is_wal_name,
    lsn_text,
    number_of,
    parse_history,
    parse_lsn,
    segment_at,
    segment_of,
)


def test_a_segment_is_named_as_postgresql_names_it() -> None:
    assert segment_at(1, parse_lsn("0/3000060")).name == "000000010000000000000003"
    assert segment_at(2, parse_lsn("5/FF000000")).name == "0000000200000005000000FF"
    assert segment_at(2, parse_lsn("6/0")).name == "000000020000000600000000"
    assert lsn_text(segment_at(1, parse_lsn("0/3000060")).end) == "0/4000000"


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**40 - 1))
def test_names_and_numbers_go_both_ways(timeline: int, number: int) -> None:
    segment = Segment(timeline, number)
    assert segment_of(segment.name) == segment
    assert number_of(segment.name + ".00000028.backup") == number


@given(st.integers(0, 2**64 - 1))
def test_positions_go_both_ways(lsn: int) -> None:
    assert parse_lsn(lsn_text(lsn)) == lsn


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/G", "123456789/0", "0/1 2"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match="not a position"):
        parse_lsn(text)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("000000010000000000000003", True),
        ("00000002.history", True),
        ("000000010000000000000003.00000028.backup", True),
        ("000000010000000000000003.partial", True),
        ("00000001000000000000000", False),
        ("../00000002.history", False),
        ("archive_status", False),
    ],
)
def test_only_files_of_the_log_are_archived(name: str, known: bool) -> None:
    assert is_wal_name(name) is known


def test_a_history_tells_where_which_timeline_was_left() -> None:
    text = "1\t0/6000000\tno recovery target specified\n\n2\t0/A0001C8\tbefore x\n"
    assert parse_history(text) == (Switch(1, 0x6000000), Switch(2, 0xA0001C8))
