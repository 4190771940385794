"""Whether this database is a restored copy that nobody has released yet.

A backup holds running tasks, undelivered webhooks and live keys. Were a copy of it simply started,
all of them would act a second time, beside the original. So a restore leaves a row in
`quarantines`, and whoever would act (the server's domains, workers) asks here first and waits.
"""

import asyncio
from collections.abc import Callable

import asyncpg

from helix.core.db import OUTAGES, Queries, Role, connect
from helix.core.errors import Unavailable
from helix.core.log import get_log

__all__ = ["Quarantined", "quarantine_of", "until_released"]

_LOG = get_log(__name__)
_POLL_S = 1.0
_QUERIES = Queries("helix.core", "quarantine.sql")


class Quarantined(Unavailable):
    """This is a restored copy that nobody has released: it serves nobody and calls nobody."""

    code = "quarantined"


async def quarantine_of(url: str) -> str | None:
    """Return why the database at `url` is quarantined, or None when it is not.

    A schema from before there were quarantines has none. Raises Unavailable when it cannot be
    asked: then nobody knows, and nobody may act.
    """
    try:
        conn = await connect(url, role=Role.OPERATOR, application_name="helix quarantine")
        try:
            row = await _QUERIES.row(conn, "open_quarantine")
        finally:
            await conn.close()
    except asyncpg.UndefinedTableError:
        return None
    except (*OUTAGES, asyncpg.PostgresError) as exc:
        raise Unavailable(f"the database cannot be reached: {exc}", retry_after_s=1) from exc
    return None if row is None else str(row["reason"])


async def until_released(
    url: str, *, poll_s: float = _POLL_S, told: Callable[[str], None] | None = None
) -> None:
    """Wait until the database at `url` can be asked and is not quarantined; `told` hears why."""
    said: str | None = None
    while True:
        try:
            reason = await quarantine_of(url)
        except Unavailable as exc:
            reason = exc.message
        if reason is None:
            return
        if reason != said:
            _LOG.warning("held_back", reason=reason)
            said = reason
            if told is not None:
                told(reason)
        await asyncio.sleep(poll_s)
