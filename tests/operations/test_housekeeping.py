"""The daily work on the database."""

from helix.core.db import Connection
from helix.operations import housekeep


async def test_housekeeping_refreshes_every_view_and_makes_missing_months(
    database_url: str, owner: Connection
) -> None:
    last = await owner.fetchval(
        "SELECT max(c.relname::text) FROM pg_class AS c WHERE c.relname LIKE 'llm_token_usage_p%'"
        " AND c.relispartition AND c.relkind = 'r'"
    )
    await owner.execute(f"DROP TABLE {last}")
    assert await housekeep(database_url) == {"views_refreshed": 10, "partitions_made": 1}
    assert await owner.fetchval("SELECT to_regclass($1) IS NOT NULL", last)
    assert (await housekeep(database_url))["partitions_made"] == 0
