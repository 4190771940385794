"""A worker's own connections, made anew after they broke."""

from contextlib import suppress

import asyncpg

from helix.core.db import OUTAGES, Connection, Role, connect

__all__ = ["TROUBLE", "Link"]

TROUBLE = (*OUTAGES, asyncpg.PostgresError, asyncpg.InternalClientError)
"""What a loop reconnects after.

InternalClientError: asyncpg raises it on a connection whose server has just said farewell.
"""


class Link:
    """A connection of its own that is made anew after it broke.

    With `batches` its statements join arrays of hundreds of ids to tables. PostgreSQL takes an
    array for ten rows and would compare every id with every row: without nested loops it hashes.
    """

    def __init__(
        self, url: str, name: str, *, statement_timeout_ms: int, batches: bool = False
    ) -> None:
        self._url = url
        self._batches = batches
        self._name = name
        self._statement_timeout_ms = statement_timeout_ms
        self._conn: Connection | None = None

    async def get(self) -> Connection:
        """Return the connection, opening it if need be."""
        if self._conn is None or self._conn.is_closed():
            conn = await connect(self._url, role=Role.OPERATOR, application_name=self._name)
            await conn.execute(
                "SELECT set_config('statement_timeout', $1, false),"
                " set_config('enable_nestloop', $2, false)",
                str(self._statement_timeout_ms),
                "off" if self._batches else "on",
            )
            self._conn = conn
        return self._conn

    def drop(self) -> None:
        """Forget the connection, so that the next use opens another."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.terminate()

    async def close(self) -> None:
        """Close the connection, giving it a second."""
        conn, self._conn = self._conn, None
        if conn is not None and not conn.is_closed():
            with suppress(*TROUBLE):
                await conn.close(timeout=1)
