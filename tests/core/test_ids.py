"""Time-ordered ids."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.core.ids import IdSource, time_of, uuid7, uuid7_beside, uuid_floor

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - Hypothesis adds the zone itself
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(st.integers(min_value=0, max_value=2**48 - 1))
def test_an_id_is_version_7_and_tells_its_millisecond(unix_ms: int) -> None:
    made = uuid7(unix_ms)
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == unix_ms


@given(st.lists(MOMENTS, min_size=2, max_size=50))
def test_ids_of_one_source_strictly_increase_even_when_the_clock_goes_back(
    moments: list[datetime],
) -> None:
    source = IdSource()
    made = [source.next(moment) for moment in moments]
    assert made == sorted(set(made))


def test_five_thousand_ids_of_one_millisecond_differ_and_increase() -> None:
    source, now = IdSource(), datetime(2026, 11, 22, tzinfo=UTC)
    made = [source.next(now) for _ in range(5_000)]
    assert made == sorted(set(made))
    assert time_of(made[-1]) - now <= timedelta(milliseconds=2)


@given(MOMENTS)
def test_an_id_beside_another_shares_its_millisecond(moment: datetime) -> None:
    parent = IdSource().next(moment)
    child = uuid7_beside(parent)
    assert time_of(child) == time_of(parent)
    assert child != parent


@pytest.mark.parametrize("unix_ms", [-1, 2**48])
def test_a_time_out_of_range_is_refused(unix_ms: int) -> None:
    with pytest.raises(ValueError, match="unix_ms"):
        uuid7(unix_ms)


def test_before_1970_lies_the_least_id_of_all() -> None:
    least = uuid_floor(datetime(1970, 1, 1, tzinfo=UTC))
    assert uuid_floor(datetime(1, 1, 1, tzinfo=UTC)) == least
    assert uuid_floor(datetime(1970, 1, 2, tzinfo=UTC)) > least
