"""Time comes in from the edge: nothing below a route, command or worker reads a clock."""

import time
from datetime import UTC, datetime
from typing import Annotated, Protocol

from pydantic import AfterValidator, AwareDatetime

__all__ = ["Clock", "Moment", "SystemClock", "as_utc"]


def as_utc(moment: datetime) -> datetime:
    """Return an aware moment in UTC.

    Raises ValueError where that is outside of the years 1 to 9999: PostgreSQL would keep it, and
    nothing here could read the row again.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"{moment.isoformat()} is not in the years 1 to 9999 of UTC") from exc


Moment = Annotated[AwareDatetime, AfterValidator(as_utc)]
"""A time as callers of HTTP give it: with its offset; taken to UTC, where it must exist."""


class Clock(Protocol):
    """Tells the time. Tests pass one whose time they set."""

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """Return the present moment, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds on the machine's monotonic clock."""
        return time.monotonic()
