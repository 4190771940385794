"""Whether PostgreSQL has room to write, asked after it said that it has none.

A full volume refuses what needs a new page and takes what fits into an old one, so a statement
that passes proves nothing. The probe makes about a megabyte of a temporary table: only that has
to find new room, and it leaves nothing behind.
"""

import asyncpg

from helix.core.db import Connection, Queries

__all__ = ["require_room"]

_QUERIES = Queries("helix.core", "storage.sql")


async def require_room(conn: Connection) -> None:
    """Return when the database can grow; raises asyncpg.DiskFullError while it cannot.

    A login without the right to make temporary tables cannot ask: it is taken for yes.
    """
    try:
        await _QUERIES.run(conn, "probe_room")
    except asyncpg.InsufficientPrivilegeError:
        return
