"""Times as callers give them."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from helix.core.clock import Moment, as_utc


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        as_utc(datetime.fromisoformat(text))
    with pytest.raises(ValidationError, match="years 1 to 9999"):
        TypeAdapter(Moment).validate_python(text)


def test_a_time_of_another_zone_is_taken_to_utc() -> None:
    given = TypeAdapter(Moment).validate_python("2026-05-01T01:30:00+02:00")
    assert given == datetime(2026, 4, 30, 23, 30, tzinfo=UTC)
    assert given.tzinfo is UTC
