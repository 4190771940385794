"""Seats: how many connections each process may open, told by the name of one it keeps open.

Pools grow under load, and PostgreSQL refuses whoever comes last: five servers that got on well at
start pass max_connections together. So every process that has pools keeps one connection whose
name says how many it may open at most, `helix seat <kind> <most> <host>:<pid>`. The name goes with
the process, however it ends; the doctor and whoever starts add the seats up.
"""

import asyncio
import contextlib
import os
import re
import socket
from dataclasses import dataclass

import asyncpg

from helix.core.db import OUTAGES, Queries, connect
from helix.core.log import get_log

__all__ = ["Seat", "SeatRow", "Seating", "seat_of", "seating_of"]

_LOG = get_log(__name__)
_QUERIES = Queries("helix.core", "seats.sql")
_NAME = re.compile(r"helix seat (\w+) (\d+) (\S*):(\d+)")
_NAME_CHARS_MAX = 63  # PostgreSQL cuts what is longer
_RETRY_S = 5.0
_LOOK_S = 30.0
_TROUBLE = (*OUTAGES, asyncpg.PostgresError)


@dataclass(frozen=True, slots=True)
class SeatRow:
    """A process as its seat tells: kind, connections at most, host, process id."""

    kind: str
    most: int
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Seating:
    """The connections a server allows, those in use, and what the seated may open at most."""

    allowed: int
    used: int
    seats: tuple[SeatRow, ...]

    @property
    def claimed(self) -> int:
        """The sum of what every seated process may open."""
        return sum(seat.most for seat in self.seats)


def seat_of(application_name: str) -> SeatRow | None:
    """Return the seat that a connection of this name is, or None for any other."""
    found = _NAME.fullmatch(application_name)
    if found is None:
        return None
    return SeatRow(found[1], int(found[2]), found[3], int(found[4]))


async def seating_of(url: str) -> Seating:
    """Return how full the server of `url` is; raises what connecting raises."""
    conn = await connect(url, application_name="helix seats")
    try:
        row = await _QUERIES.row(conn, "read_seating")
    finally:
        await conn.close()
    assert row is not None  # noqa: S101 - a SELECT of one row
    seats = tuple(seat for name in row["names"] if (seat := seat_of(name)) is not None)
    return Seating(row["allowed"], row["used"], seats)


class Seat:
    """This process's seat: taken by `start`, kept through outages, left by `stop`."""

    def __init__(self, url: str, *, kind: str, most: int) -> None:
        self._url = url
        tail = f"{os.getpid()}"
        head = f"helix seat {kind} {most} "
        host = re.sub(r"\s", "-", socket.gethostname())
        self.name = f"{head}{host[: _NAME_CHARS_MAX - len(head) - len(tail) - 1]}:{tail}"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take the seat in the background; a database that is away is asked again."""
        self._task = asyncio.create_task(self._keep(), name="helix-seat")

    async def stop(self) -> None:
        """Leave the seat."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _keep(self) -> None:
        while True:
            conn = None
            try:
                conn = await connect(self._url, application_name=self.name)
                while True:
                    await conn.execute("SELECT 1")
                    await asyncio.sleep(_LOOK_S)
            except _TROUBLE as exc:
                _LOG.info("seat_lost", reason=type(exc).__name__)
            finally:
                if conn is not None:
                    conn.terminate()
            await asyncio.sleep(_RETRY_S)
