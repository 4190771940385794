"""Time-ordered identifiers: UUID version 7 (RFC 9562, section 5.7).

The first 48 bits are Unix milliseconds, so ids sort by the time they were made, the big tables
are partitioned by month on the id itself, and a time range is an id range.
"""

import os
import threading
from datetime import UTC, datetime
from uuid import UUID

from asyncpg.pgproto import pgproto

__all__ = ["IdSource", "time_of", "uuid7", "uuid7_beside", "uuid_floor"]

_MS_MAX = (1 << 48) - 1
_RAND_B_BITS = 62


def uuid7(unix_ms: int, *, rand_a: int | None = None) -> UUID:
    """Return a UUIDv7 of the millisecond `unix_ms` (0 to 2**48-1).

    `rand_a` (0 to 4095) fills the 12 bits after the version when an order within the millisecond
    is wanted; without it they are random. Raises ValueError for a time out of range.
    """
    if not 0 <= unix_ms <= _MS_MAX:
        raise ValueError(f"unix_ms must be 0 to {_MS_MAX}, not {unix_ms}")
    noise = int.from_bytes(os.urandom(10), "big")
    twelve = (noise >> 64) & 0xFFF if rand_a is None else rand_a & 0xFFF
    low = (0b10 << _RAND_B_BITS) | (noise & ((1 << _RAND_B_BITS) - 1))
    return _made((unix_ms << 80) | (0x7 << 76) | (twelve << 64) | low)


def _made(value: int) -> UUID:
    """Return an id as the driver's own UUID, as ids out of the database are.

    It is a uuid.UUID to everybody, made and written out in a tenth of the time.
    """
    return pgproto.UUID(value.to_bytes(16, "big"))  # type: ignore[no-any-return]


def uuid7_beside(parent: UUID) -> UUID:
    """Return a fresh UUIDv7 with the millisecond of `parent`, itself a UUIDv7.

    The rows that belong to a request get ids beside the request's, so that they live in the same
    monthly partition and leave together with it, also when the answer came after midnight.
    """
    return uuid7(parent.int >> 80)


def uuid_floor(moment: datetime) -> UUID:
    """Return the least UUIDv7 of the millisecond of an aware moment: a time range is an id range.

    The same as the database's uuid_floor(timestamptz). Before 1970 it is the least of all.
    """
    unix_ms = max(0, int(moment.timestamp() * 1_000))
    return UUID(int=(unix_ms << 80) | (0x7 << 76) | (0b10 << _RAND_B_BITS))


def time_of(identifier: UUID) -> datetime:
    """Return the moment a UUIDv7 was made, aware, in UTC, to the millisecond."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, tz=UTC)


class IdSource:
    """Makes UUIDv7s that strictly increase within this process (RFC 9562, section 6.2, method 1).

    Safe for threads. When the clock goes back, ids go on from the last millisecond handed out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._counter = 0

    def next(self, now: datetime) -> UUID:
        """Return the next id for the moment `now`."""
        unix_ms = int(now.timestamp() * 1000)
        with self._lock:
            if unix_ms > self._last_ms:
                self._last_ms = unix_ms
                self._counter = int.from_bytes(os.urandom(1), "big")  # leaves room to count up
            else:
                self._counter += 1
                if self._counter > 0xFFF:
                    self._last_ms += 1
                    self._counter = 0
            return uuid7(self._last_ms, rand_a=self._counter)
