"""What the database needs done every day: partitions ahead, fresh materialized views."""

from helix.core.db import Queries, connect

__all__ = ["housekeep"]

MONTHS_AHEAD = 3
LOCK_TIMEOUT = "2s"


async def housekeep(url: str) -> dict[str, int]:
    """Make the months ahead and refresh every materialized view; return how many of each.

    Works as the login of `url`, which owns the tables. Repeating it is harmless. When writers do
    not make way within two seconds the partitions are left for the next try: rows of a missing
    month go to the default partition meanwhile. Raises asyncpg.LockNotAvailableError then.
    """
    queries = Queries("helix.operations")
    conn = await connect(url, application_name="helix housekeeping")
    try:
        refreshed = await queries.row(conn, "refresh_views")
        async with conn.transaction():
            await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            created = await queries.row(conn, "create_partitions", months_ahead=MONTHS_AHEAD)
    finally:
        await conn.close()
    if refreshed is None or created is None:
        raise RuntimeError("a SELECT of one row returned none")
    return {"views_refreshed": refreshed["refreshed"], "partitions_made": created["created"]}
