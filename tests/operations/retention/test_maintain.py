"""Upkeep: views when they are due, statistics, indexes that are measured to be bloated."""

import asyncio
import contextlib
from datetime import UTC, datetime

import asyncpg

from helix.core.config import Settings, load_settings
from helix.core.db import Connection, connect
from helix.operations.retention.maintain import maintain, refresh_views

BLOATED = "call_refusals_user_id_hour_idx"


async def bloat(conn: Connection) -> int:
    """Fill a small table and empty it but for its last rows; return the size of its index."""
    await conn.execute(
        "INSERT INTO users (id, email, password_hash) "
        "VALUES ('00000000-0000-7000-8000-000000000001', 'a@example.org', '!')"
    )
    await conn.execute(
        "INSERT INTO call_refusals (hour, user_id, reason, limit_name, refused_count) "
        "SELECT timestamptz '2026-01-01' + n * interval '1 hour', "
        "'00000000-0000-7000-8000-000000000001', 'rate_limited', '', 1 "
        "FROM generate_series(1, 20000) AS n"
    )
    await conn.execute("DELETE FROM call_refusals WHERE hour < timestamptz '2028-01-01'")
    found: int = await conn.fetchval("SELECT pg_relation_size($1::text::regclass)", BLOATED)
    return found


async def test_a_bloated_index_is_made_anew_and_others_are_not(
    database_url: str, owner: Connection, settings: Settings
) -> None:
    before = await bloat(owner)
    await owner.execute(
        "CREATE TABLE full_one AS SELECT n AS id FROM generate_series(1, 20000) AS n"
    )
    await owner.execute("CREATE INDEX full_one_idx ON full_one (id)")
    small = settings.model_copy(update={"reindex_bytes_min": 100_000})
    done = await maintain(database_url, small)
    assert BLOATED in [one.index for one in done.reindexed]
    assert "full_one_idx" not in [one.index for one in done.reindexed]
    assert done.failed == ()
    after = await owner.fetchval("SELECT pg_relation_size($1::text::regclass)", BLOATED)
    assert after < before / 2
    again = await maintain(database_url, small)
    assert again.reindexed == ()


async def test_small_indexes_are_left_alone(
    database_url: str, owner: Connection, settings: Settings
) -> None:
    await bloat(owner)
    assert (await maintain(database_url, settings)).reindexed == ()


async def test_a_ratio_of_one_is_never(database_url: str, owner: Connection) -> None:
    await bloat(owner)
    never = load_settings({"HELIX_REINDEX_BLOAT_RATIO": "1", "HELIX_REINDEX_BYTES_MIN": "0"})
    assert (await maintain(database_url, never)).reindexed == ()


async def test_what_a_killed_rebuild_left_is_dropped(
    database_url: str, owner: Connection, settings: Settings
) -> None:
    """REINDEX CONCURRENTLY waits for old transactions, and is cut off while it waits."""
    reader = await connect(database_url)
    await reader.execute(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM call_refusals"
    )
    builder = await connect(database_url)
    building = asyncio.create_task(builder.execute(f"REINDEX INDEX CONCURRENTLY {BLOATED}"))
    left = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    async with asyncio.timeout(30):
        while not await owner.fetchval(left):  # each question lets the builder go on
            continue
    await owner.execute("SELECT pg_terminate_backend($1, 10000)", builder.get_server_pid())
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await building
    await reader.close()
    assert await owner.fetchval(left) == 1
    done = await maintain(database_url, settings)
    assert done.dropped == (f"{BLOATED}_ccnew",)
    assert await owner.fetchval(left) == 0
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = $1::text::regclass"
    assert await owner.fetchval(valid, BLOATED)


async def test_partitioned_tables_get_statistics(
    database_url: str, owner: Connection, settings: Settings
) -> None:
    await maintain(database_url, settings)
    analyzed = await owner.fetchval(
        "SELECT reltuples FROM pg_class WHERE oid = 'llm_requests'::regclass"
    )
    assert analyzed >= 0


async def test_views_are_refreshed_when_they_are_due(database_url: str, owner: Connection) -> None:
    assert await refresh_views(database_url, everything=True) == 10
    assert await refresh_views(database_url, everything=False) == 0
    await owner.execute(
        "UPDATE matview_refresh_state SET refreshed_at = $1 WHERE view_name = 'mv_daily_stats'",
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert await refresh_views(database_url, everything=False) == 1


async def test_a_view_that_fails_leaves_the_others_refreshed(
    database_url: str, owner: Connection
) -> None:
    await owner.execute("DROP INDEX mv_daily_stats_key")  # CONCURRENTLY needs it
    assert await refresh_views(database_url, everything=True) == 9
    failed = await owner.fetchval(
        "SELECT view_name FROM matview_refresh_state WHERE error_message IS NOT NULL"
    )
    assert failed == "mv_daily_stats"
