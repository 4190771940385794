"""A run removes what is past its age, exactly; a second run finds nothing to do."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from helix.core.config import Settings, load_settings
from helix.core.db import Connection, connect
from helix.operations.errors import LocksBusy, RetentionBusy
from helix.operations.months import make_months
from helix.operations.retention import roll_up
from tests.factories import (
    id_at,
    insert,
    make_conversation,
    make_debate,
    make_error,
    make_project,
    make_request,
    make_session,
    make_task,
    make_task_event,
    make_tool_audit,
    make_usage,
    make_user,
)
from tests.operations.retention.conftest import House, contents, months_ago, no_pause
from tests.schema.helpers import refused

NOW = datetime.now(UTC)


async def count(conn: Connection, table: str) -> int:
    found: int = await conn.fetchval(f"SELECT count(*) FROM {table}")
    return found


async def sums(conn: Connection) -> dict[str, Any]:
    """Return what the ledger adds up to, by every level."""
    found = {}
    for table in ("llm_usage_daily", "llm_usage_monthly"):
        found[table] = await conn.fetchrow(
            f"SELECT sum(call_count) AS calls, sum(cost_usd) AS cost, sum(input_tokens) AS tokens "
            f"FROM {table}"
        )
    return {table: tuple(row) for table, row in found.items()}


# ---- errors --------------------------------------------------------------------------------------


async def test_errors_past_their_age_are_summed_up_and_gone(
    house: House, owner: Connection
) -> None:
    old = months_ago(6)
    for day, category, code, times in [
        (0, "provider", 1, 3), (0, "provider", 2, 1), (1, "provider", 1, 2), (1, "database", 1, 1),
    ]:  # fmt: skip
        for _ in range(times):
            await make_error(owner, at=old + timedelta(days=day), category=category, code=code)
    await make_error(owner, at=NOW, category="provider", code=1)
    await house.run()
    rows = await owner.fetch(
        "SELECT date, category, code, count FROM error_log_summary ORDER BY 1,2,3"
    )
    first = old.date()
    assert [tuple(row) for row in rows] == [
        (first, "provider", 1, 3),
        (first, "provider", 2, 1),
        (first + timedelta(days=1), "database", 1, 1),
        (first + timedelta(days=1), "provider", 1, 2),
    ]
    assert await count(owner, "error_log") == 1
    run = await owner.fetchrow(
        "SELECT actor_kind, outcome, (details ->> 'rows')::integer >= 7 AS told FROM audit_log "
        "WHERE operation = 'retention.run'"
    )
    assert run is not None
    assert tuple(run) == ("system", "done", True)


async def test_errors_that_come_late_are_added_once(house: House, owner: Connection) -> None:
    old = months_ago(6)
    for times in (2, 3):
        for _ in range(times):
            await make_error(owner, at=old, category="provider", code=7)
        await house.run()
        await house.run()
    assert await owner.fetchval("SELECT count FROM error_log_summary WHERE code = 7") == 5


# ---- the ledger ----------------------------------------------------------------------------------


async def test_sums_of_a_month_that_is_dropped_never_shrink(
    house: House, owner: Connection
) -> None:
    """The first hour of a month holds answers whose requests, and rows, lie in the month before."""
    month = months_ago(14).replace(day=1, hour=0)
    asked = month - timedelta(seconds=5)
    for n in range(4):  # rows of the month before, ended in the first hour of this one
        await make_usage(
            owner, id=id_at(asked), at=month + timedelta(minutes=n), user_id=None,
            cost_usd=Decimal("0.5"),
        )  # fmt: skip
    for n in range(3):
        await make_usage(
            owner, at=month + timedelta(minutes=30 + n), user_id=None, cost_usd=Decimal("0.25")
        )
    await roll_up(house.url, now=NOW)
    before = await sums(owner)
    hours = "SELECT sum(call_count) FROM llm_usage_hourly WHERE hour = $1"
    assert await owner.fetchval(hours, month) == 7
    # A year after the end of the month before: that month goes, this one stays.
    first = month.replace(year=month.year + 1) + timedelta(days=2)
    await house.run(now=first, only="llm_token_usage")
    assert await count(owner, "llm_token_usage") == 3 + 16
    await owner.execute(
        "SELECT helix_refresh_usage_rollups($1, $2)", month - timedelta(days=3), NOW
    )
    assert await owner.fetchval(hours, month) == 7
    assert await sums(owner) == before
    await house.run()
    assert await count(owner, "llm_token_usage") == 16
    assert await sums(owner) == before
    await owner.execute("REFRESH MATERIALIZED VIEW mv_daily_stats")
    daily = "SELECT total_calls, total_cost FROM mv_daily_stats WHERE day = $1"
    assert tuple(await owner.fetchrow(daily, month.date())) == (7, Decimal("2.75"))


async def test_daily_stats_stay_when_nothing_is_left_to_count(
    house: House, owner: Connection
) -> None:
    day = months_ago(20)
    await make_usage(owner, at=day, user_id=None, cost_usd=Decimal(3))
    await owner.execute("DELETE FROM llm_requests")
    await house.run()
    assert await owner.fetchval("SELECT min(timestamp) FROM llm_token_usage") > day
    await owner.execute("REFRESH MATERIALIZED VIEW mv_daily_stats")
    found = await owner.fetchrow("SELECT * FROM mv_daily_stats WHERE day = $1", day.date())
    assert (found["total_calls"], found["total_cost"]) == (1, Decimal(3))


async def test_usage_that_comes_after_its_month_was_dropped_is_added_once(
    house: House, owner: Connection
) -> None:
    at = months_ago(15)
    await make_usage(owner, at=at, user_id=None, cost_usd=Decimal(1))
    await house.run()
    await make_usage(
        owner, at=at, user_id=None, cost_usd=Decimal(2), created_at=NOW + timedelta(hours=1)
    )
    for _ in range(3):
        await house.run()
    for table, column in [("llm_usage_daily", "day"), ("llm_usage_monthly", "month")]:
        row = await owner.fetchrow(
            f"SELECT sum(call_count), sum(cost_usd) FROM {table} WHERE {column} < $1",
            months_ago(14).date(),
        )
        assert tuple(row) == (2, Decimal(3)), table


async def test_hours_go_after_a_year_and_days_stay(house: House, owner: Connection) -> None:
    at = months_ago(14)
    await make_usage(owner, at=at, user_id=None, cost_usd=Decimal(1))
    await roll_up(house.url, now=NOW)
    before = await sums(owner)
    await house.run()
    cutoff = NOW - timedelta(days=366)
    assert (
        await owner.fetchval("SELECT count(*) FROM llm_usage_hourly WHERE hour < $1", cutoff) == 0
    )
    assert await sums(owner) == before
    await owner.execute("SELECT helix_refresh_usage_rollups($1, $2)", at, NOW)
    assert await sums(owner) == before


async def test_sums_are_made_up_for_after_a_pause(house: House, owner: Connection) -> None:
    await roll_up(house.url, now=months_ago(6).replace(day=1))
    assert await owner.fetchval("SELECT sum(call_count) FROM llm_usage_daily") == 12
    await roll_up(house.url, now=NOW + timedelta(minutes=1))
    assert await owner.fetchval("SELECT sum(call_count) FROM llm_usage_daily") == 16


# ---- months that go ------------------------------------------------------------------------------


async def test_audit_goes_after_a_year_and_not_before(house: House, owner: Connection) -> None:
    for months in (14, 11):
        await make_tool_audit(owner, id=id_at(months_ago(months)), timestamp=months_ago(months))
    await house.run()
    left = await owner.fetch("SELECT timestamp FROM tool_audit_log")
    assert [row["timestamp"] for row in left] == [months_ago(11)]


async def test_a_month_goes_only_when_all_of_it_is_past(house: House, owner: Connection) -> None:
    start = months_ago(0).replace(day=1, hour=0)
    await make_error(owner, at=start)
    months = sorted({months_ago(n).date().replace(day=1) for n in range(-3, 1)})
    end = datetime(months[1].year, months[1].month, 1, tzinfo=UTC)
    await house.run(now=end + timedelta(days=90) - timedelta(seconds=1), only="error_log")
    assert await count(owner, "error_log") == 1
    await house.run(now=end + timedelta(days=90), only="error_log")
    assert await count(owner, "error_log") == 0


async def test_ended_tasks_go_with_all_that_belongs_to_them(
    house: House, owner: Connection
) -> None:
    old = months_ago(6)
    task = await make_task(
        owner, id=id_at(old), status="completed", completed_at=old, created_at=old
    )
    await owner.execute("DELETE FROM task_events")  # that of now, of its being made
    await make_task_event(owner, task, id=id_at(old))
    await insert(owner, "task_resource_snapshots", task_id=task["id"], cpu_percent=50)
    await insert(
        owner, "webhook_deliveries", task_id=task["id"], url="https://example.org", event_type="x"
    )
    project = await make_project(owner)
    await insert(owner, "project_state", project_id=project["id"], current_task_id=task["id"])
    await house.run()
    for table in (
        "background_tasks", "task_events", "task_resource_snapshots", "webhook_deliveries",
    ):  # fmt: skip
        assert await count(owner, table) == 0, table
    assert await owner.fetchval("SELECT current_task_id FROM project_state") is None


async def test_a_month_with_work_that_has_not_ended_keeps_it(
    house: House, owner: Connection
) -> None:
    old = months_ago(6)
    await make_task(owner, id=id_at(old), status="completed", completed_at=old, created_at=old)
    waiting = await make_task(owner, id=id_at(old), status="paused", created_at=old)
    done = await house.run()
    left = await owner.fetch("SELECT id FROM background_tasks")
    assert [row["id"] for row in left] == [waiting["id"]]
    (outcome,) = [one for one in done.outcomes if one.table == "background_tasks"]
    assert outcome.held == (f"1 tasks of {old:%Y-%m} have not ended",)
    await owner.execute("UPDATE background_tasks SET status = 'cancelled', completed_at = $1", NOW)
    await house.run()
    assert await count(owner, "background_tasks") == 0


async def test_events_that_no_projection_has_taken_stay(house: House, owner: Connection) -> None:
    old = months_ago(4)
    row = await insert(
        owner, "clickhouse_analytics", id=id_at(old), event_type="x", event_data={}, timestamp=old
    )
    await house.run()
    assert await count(owner, "clickhouse_analytics") == 1
    await owner.execute(
        "UPDATE clickhouse_analytics SET exported = true, exported_at = now() WHERE id = $1",
        row["id"],
    )
    await house.run()
    assert await count(owner, "clickhouse_analytics") == 0


# ---- rows that go --------------------------------------------------------------------------------


async def test_rows_go_by_age_and_no_sooner(house: House, owner: Connection) -> None:
    user = await make_user(owner)
    conversation = await make_conversation(owner, user_id=user["id"])
    for days in (89, 91):
        at = NOW - timedelta(days=days)
        await insert(
            owner, "conversation_replay_stats", conversation_id=conversation["id"],
            user_id=user["id"], replay_type="full", replay_duration_ms=1, created_at=at,
        )  # fmt: skip
    for days in (29, 31):
        await make_session(owner, user_id=user["id"], expires_at=NOW - timedelta(days=days))
        await insert(
            owner, "webhook_deliveries", url="https://example.org", event_type="x",
            status="failed", created_at=NOW - timedelta(days=days),
        )  # fmt: skip
    for days in (1, 3):
        await insert(
            owner, "idempotency_keys", user_id=user["id"], idempotency_key=str(days),
            request_id=house.new, created_at=NOW - timedelta(days=days),
        )  # fmt: skip
    for days in (364, 367):
        await insert(
            owner, "error_log_summary", date=(NOW - timedelta(days=days)).date(),
            category="provider", code=1, count=5,
        )  # fmt: skip
    await house.run()
    for table in (
        "conversation_replay_stats", "user_sessions", "webhook_deliveries", "idempotency_keys",
        "error_log_summary",
    ):  # fmt: skip
        assert await count(owner, table) == 1, table
    assert await owner.fetchval("SELECT idempotency_key FROM idempotency_keys") == "1"


async def test_the_newest_snapshot_of_each_kind_stays(house: House, owner: Connection) -> None:
    user = await make_user(owner)
    conversation = await make_conversation(owner, user_id=user["id"])
    old = NOW - timedelta(days=200)
    for kind, numbers in (("periodic", (1, 2, 3)), ("on_demand", (2,))):
        for number in numbers:
            await insert(
                owner, "conversation_snapshots", conversation_id=conversation["id"],
                user_id=user["id"], sequence_number=number, snapshot_type=kind, created_at=old,
            )  # fmt: skip
    await house.run()
    left = await owner.fetch(
        "SELECT snapshot_type, sequence_number FROM conversation_snapshots ORDER BY 1"
    )
    assert [tuple(row) for row in left] == [("on_demand", 2), ("periodic", 3)]


async def test_debates_stay_unless_an_age_is_set(house: House, owner: Connection) -> None:
    old = NOW - timedelta(days=400)
    await make_debate(owner, status="completed", completed_at=old)
    await house.run()
    assert await count(owner, "debates") == 1
    house.settings = load_settings({"HELIX_DEBATE_DAYS": "90"}, home=house.settings.home)
    await house.run()
    assert await count(owner, "debates") == 0


async def test_zero_days_is_for_ever(house: House, owner: Connection) -> None:
    house.settings = load_settings(
        {"HELIX_REQUEST_DAYS": "0", "HELIX_ERROR_DAYS": "0"}, home=house.settings.home
    )
    await make_error(owner, at=months_ago(30))
    await house.run()
    assert await count(owner, "error_log") == 1
    assert await count(owner, "llm_requests") == 16


async def test_what_is_swept_follows_or_is_kept_is_left_alone(
    house: House, owner: Connection
) -> None:
    row = await insert(
        owner, "cancelled_projects", project_id=id_at(NOW), project_name="x", stage="x",
        cancelled_at=NOW - timedelta(days=4_000),
    )  # fmt: skip
    await house.run()
    assert await owner.fetchval("SELECT id FROM cancelled_projects") == row["id"]


# ---- runs ----------------------------------------------------------------------------------------


async def test_a_second_run_finds_nothing_to_do(house: House, owner: Connection) -> None:
    await make_error(owner, at=months_ago(6))
    first = await house.run()
    assert {one.table for one in first.outcomes if one.partition_count} == {
        "llm_requests", "error_log",
    }  # fmt: skip
    before = await contents(owner), await sums(owner)
    second = await house.run()
    assert [one for one in second.outcomes if one.row_count or one.partition_count] == []
    assert (await contents(owner), await sums(owner)) == before


async def test_each_run_writes_down_what_it_did(house: House, owner: Connection) -> None:
    done = await house.run()
    rows = {
        row["table_name"]: row
        for row in await owner.fetch("SELECT * FROM retention_runs WHERE run_id = $1", done.run_id)
    }
    requests = rows["llm_requests"]
    assert (requests["rule"], requests["row_count"], requests["partition_count"]) == (
        "archived", 15, 8,
    )  # fmt: skip
    assert requests["byte_count"] > 0
    assert requests["wal_bytes"] > 0
    assert requests["table_bytes"] > 0
    assert "users" not in rows  # nothing ever leaves it: its size is in size_samples


async def test_one_table_can_be_run_alone(house: House, owner: Connection) -> None:
    await make_error(owner, at=months_ago(6))
    await house.run(only="error_log")
    assert await count(owner, "error_log") == 0
    assert await count(owner, "llm_requests") == 16


async def test_only_one_run_at_a_time(house: House) -> None:
    other = await connect(house.url)
    await other.execute("SELECT pg_advisory_lock(hashtext('helix_retention'))")
    try:
        with pytest.raises(RetentionBusy):
            await house.run()
    finally:
        await other.close()


async def test_a_step_that_fails_leaves_the_others_done(house: House, owner: Connection) -> None:
    await make_error(owner, at=months_ago(6))
    await owner.execute(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'not today'; END$$"
    )
    await owner.execute(
        "CREATE TRIGGER stop BEFORE INSERT ON archive_files EXECUTE FUNCTION stop()"
    )
    done = await house.run()
    assert done.errors == ("llm_requests: not today",)
    assert await count(owner, "llm_requests") == 16
    assert await count(owner, "error_log") == 0
    await owner.execute("DROP TRIGGER stop ON archive_files")
    assert (await house.run()).errors == ()
    assert await count(owner, "llm_requests") == 1


# ---- locks ---------------------------------------------------------------------------------------


async def test_a_month_in_use_is_tried_again_and_then_left(house: House) -> None:
    reader = await connect(house.url)
    await reader.execute("BEGIN; SELECT count(*) FROM llm_requests")
    try:
        done = await house.run(only="llm_requests")
    finally:
        await reader.close()
    assert len(done.errors) == 1
    assert "others held their locks in 3 tries" in done.errors[0]
    again = await house.run(only="llm_requests")
    assert again.errors == ()
    assert [one.partition_count for one in again.outcomes] == [8]


async def test_months_are_made_while_calls_are_recorded(
    database_url: str, owner: Connection, settings: Settings
) -> None:
    """A month is made in a transaction of its own: what it locked is free before the next."""
    user = await make_user(owner)
    last = await owner.fetch(
        "SELECT relname::text AS name FROM pg_class WHERE relispartition AND relkind = 'r' "
        "AND relname ~ $1 ORDER BY 1",
        f"_p{months_ago(-3):%Y%m}$",
    )
    for row in last:
        await owner.execute("SELECT row_count FROM helix_drop_partition($1)", row["name"])
    await owner.execute("SET lock_timeout = '1ms'")
    recorded = 0

    class Watched:
        """Has a call recorded, by somebody who never waits, before each month is made."""

        def __init__(self, conn: Connection) -> None:
            self._conn = conn

        def __getattr__(self, name: str) -> Any:
            return getattr(self._conn, name)

        async def fetchrow(self, query: str, *args: object) -> Any:
            nonlocal recorded
            if "lock_timeout" in query:
                await make_request(owner, user_id=user["id"])
                recorded += 1
            return await self._conn.fetchrow(query, *args)

    async def watched(url: str) -> Connection:
        return Watched(await connect(url))

    assert await make_months(database_url, settings, opener=watched, pause=no_pause) == 15
    assert recorded == len(last) == 15
    await make_request(owner, user_id=user["id"])


async def test_a_maker_of_months_gives_way(house: House, owner: Connection) -> None:
    month = f"{months_ago(-3):%Y%m}"
    await owner.execute("SELECT helix_drop_partition($1)", f"error_log_p{month}")
    writer = await connect(house.url)
    await writer.execute("BEGIN; LOCK TABLE error_log_default IN ROW EXCLUSIVE MODE")
    try:
        with pytest.raises(LocksBusy, match=r"making .* of error_log"):
            await make_months(house.url, house.settings, pause=no_pause)
    finally:
        await writer.close()
    assert await make_months(house.url, house.settings) == 1


async def test_a_partition_with_rows_others_refer_to_is_not_dropped(
    house: House, owner: Connection
) -> None:
    month = f"llm_requests_p{months_ago(0):%Y%m}"
    async with refused(owner, asyncpg.ForeignKeyViolationError):
        await owner.execute("SELECT helix_drop_partition($1)", month)
    async with refused(owner, asyncpg.UndefinedTableError):
        await owner.execute("SELECT helix_drop_partition('users')")
