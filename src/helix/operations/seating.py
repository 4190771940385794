"""Whether one more process fits onto a PostgreSQL server, asked when it starts (S126)."""

import asyncpg

from helix.core.db import OUTAGES
from helix.core.errors import Unavailable
from helix.core.log import get_log
from helix.core.seats import seating_of
from helix.operations.errors import ConnectionsShort
from helix.operations.types import Report

__all__ = ["NEEDED_AT_ONCE", "check_seating"]

_LOG = get_log(__name__)
NEEDED_AT_ONCE = 12
"""Connections a server holds from its first call on: recorder, pools, worker, seat."""


async def check_seating(url: str, *, most: int, report: Report) -> None:
    """Look whether a process that may open `most` connections fits beside those there are.

    Raises ConnectionsShort when those in use leave fewer than it needs to serve a first call.
    Warns when the processes, this one counted, could open more than the server allows: then the
    pools of all get on until load comes. Raises Unavailable when the server cannot be asked.
    """
    try:
        seating = await seating_of(url)
    except asyncpg.TooManyConnectionsError as exc:
        raise ConnectionsShort(f"the server takes no more connections: {exc}") from exc
    except (*OUTAGES, asyncpg.PostgresError) as exc:
        raise Unavailable(f"the database cannot be reached: {exc}") from exc
    claimed = seating.claimed + most
    left = seating.allowed - seating.used
    advice = (
        "lower DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW, run fewer processes, or raise "
        "max_connections"
    )
    if left < min(NEEDED_AT_ONCE, most):
        raise ConnectionsShort(
            f"{seating.used} of the {seating.allowed} connections of the server are in use, and "
            f"a server needs {min(NEEDED_AT_ONCE, most)}: {advice}"
        )
    if claimed > seating.allowed:
        _LOG.warning(
            "connections_overclaimed",
            allowed=seating.allowed,
            claimed=claimed,
            processes=len(seating.seats) + 1,
        )
        report(
            f"warning: {len(seating.seats) + 1} processes may open {claimed} connections and the "
            f"server allows {seating.allowed}: under load calls will wait and be refused; {advice}"
        )
