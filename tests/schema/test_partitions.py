"""Months: a row is found by its id in one of them, and none is ever without a place."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from helix.core.db import Connection, connect
from helix.core.ids import uuid7_beside
from tests.factories import (
    id_at,
    insert,
    make_request,
    make_request_body,
    make_response,
    make_response_body,
    make_task,
    make_task_event,
    make_tool_audit,
    make_usage,
    make_user,
)
from tests.operations.generate import Rows, checksums, fill
from tests.schema.helpers import refused

BIG_TABLES = 15


def months_ago(count: int) -> datetime:
    """Return noon of the 15th of the month that was `count` months before this one, in UTC."""
    now = datetime.now(UTC)
    year, month = divmod(now.year * 12 + now.month - 1 - count, 12)
    return datetime(year, month + 1, 15, 12, tzinfo=UTC)


def partition_of(table: str, moment: datetime) -> str:
    return f"{table}_p{moment:%Y%m}"


async def place(conn: Connection, table: str, key: str, identifier: UUID) -> str:
    """Return the partition that holds a row."""
    found: str = await conn.fetchval(
        f"SELECT tableoid::regclass::text FROM {table} WHERE {key} = $1", identifier
    )
    return found


async def scanned(conn: Connection, query: str, *values: object) -> list[str]:
    """Return the relations a query reads, from its plan."""
    plan = json.loads(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *values))
    relations: list[str] = []

    def visit(node: dict[str, Any]) -> None:
        if "Relation Name" in node:
            relations.append(node["Relation Name"])
        for child in node.get("Plans", []):
            visit(child)

    visit(plan[0]["Plan"])
    return sorted(relations)


# ---- making months -------------------------------------------------------------------------------


async def test_making_months_again_makes_none(conn: Connection) -> None:
    assert await conn.fetchval("SELECT helix_create_partitions(1, 3)") == 0
    assert await conn.fetchval("SELECT helix_create_partitions()") == 0


async def test_one_more_month_makes_one_partition_of_every_big_table(conn: Connection) -> None:
    assert await conn.fetchval("SELECT helix_create_partitions(1, 4)") == BIG_TABLES
    assert await conn.fetchval("SELECT helix_create_partitions(2, 4)") == BIG_TABLES
    assert await conn.fetchval("SELECT helix_create_partitions(2, 4)") == 0


async def test_a_new_month_is_granted_to_nobody(conn: Connection) -> None:
    await conn.execute("SELECT helix_create_partitions(1, 4)")
    granted = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relispartition AND relacl IS NOT NULL"
    )
    assert [row["relname"] for row in granted] == []


@pytest.mark.parametrize("months", [(-1, 3), (1, -1), (1201, 0), (0, 121)])
async def test_months_out_of_reach_are_refused(conn: Connection, months: tuple[int, int]) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await conn.fetchval("SELECT helix_create_partitions($1, $2)", *months)


@pytest.mark.parametrize("role", ["helix_app", "helix_operator", "helix_recorder"])
async def test_only_the_owner_makes_months(conn: Connection, role: str) -> None:
    await conn.execute(f"SET LOCAL ROLE {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await conn.fetchval("SELECT helix_create_partitions()")


async def test_a_row_lands_in_the_month_of_its_id(conn: Connection) -> None:
    now = datetime.now(UTC)
    request = await make_request(conn, at=now)
    assert await place(conn, "llm_requests", "id", request["id"]) == partition_of(
        "llm_requests", now
    )
    earlier = await make_request(conn, at=months_ago(1))
    assert await place(conn, "llm_requests", "id", earlier["id"]) == partition_of(
        "llm_requests", months_ago(1)
    )


@pytest.mark.parametrize(
    ("moment", "month"),
    [
        ("2026-01-01 00:00:00+00", 202601),
        ("2026-01-31 23:59:59.999+00", 202601),
        ("2026-02-01 00:00:00+00", 202602),
        ("2026-02-01 00:00:00+05", 202601),
    ],
)
async def test_months_change_at_midnight_utc(conn: Connection, moment: str, month: int) -> None:
    identifier = id_at(datetime.fromisoformat(moment))
    assert await conn.fetchval("SELECT uuid_month($1)", identifier) == month


# ---- a month that was missing --------------------------------------------------------------------


async def test_a_call_of_a_missing_month_lands_in_default_and_moves_with_all_that_belongs_to_it(
    conn: Connection,
) -> None:
    then = months_ago(3)
    request = await make_request(conn, at=then)
    response = await make_response(conn, request)
    rows = {
        ("llm_requests", "id"): request["id"],
        ("llm_request_bodies", "request_id"): request["id"],
        ("llm_responses", "id"): response["id"],
        ("llm_response_bodies", "response_id"): response["id"],
    }
    await make_request_body(conn, request)
    await make_response_body(conn, response)
    usage = await make_usage(conn, response, at=then)
    rows[("llm_token_usage", "id")] = usage["id"]
    audit = await make_tool_audit(conn, id=id_at(then))
    rows[("tool_audit_log", "id")] = audit["id"]
    older = await make_request(conn, at=months_ago(5))
    for (table, key), identifier in rows.items():
        assert await place(conn, table, key, identifier) == f"{table}_default"
    before = await conn.fetch("SELECT * FROM llm_calls WHERE request_id = $1", request["id"])

    await conn.execute("SELECT helix_create_partitions(3, 3)")

    for (table, key), identifier in rows.items():
        assert await place(conn, table, key, identifier) == partition_of(table, then)
    assert (
        await conn.fetch("SELECT * FROM llm_calls WHERE request_id = $1", request["id"]) == before
    )
    assert len(before) == 1
    assert await place(conn, "llm_requests", "id", older["id"]) == "llm_requests_default"
    kept = await conn.fetchrow("SELECT * FROM llm_token_usage WHERE id = $1", usage["id"])
    assert dict(kept) == dict(usage)


async def test_a_task_of_a_missing_month_moves_with_its_events_and_what_points_at_it(
    conn: Connection,
) -> None:
    then = months_ago(2)
    task = await make_task(conn, id=id_at(then))
    event = await make_task_event(conn, task)
    sample = await insert(conn, "task_resource_snapshots", task_id=task["id"], cpu_percent=50)
    await conn.execute("SELECT helix_create_partitions(2, 3)")
    assert await place(conn, "background_tasks", "id", task["id"]) == partition_of(
        "background_tasks", then
    )
    assert await place(conn, "task_events", "id", event["id"]) == partition_of("task_events", then)
    found = "SELECT count(*) FROM task_resource_snapshots WHERE id = $1"
    assert await conn.fetchval(found, sample["id"]) == 1


async def test_every_row_of_every_big_table_moves_unchanged(conn: Connection) -> None:
    await fill(conn, Rows(base=months_ago(4), count=6))
    big = [row["relname"] for row in await conn.fetch(
        "SELECT c.relname FROM pg_partitioned_table AS p JOIN pg_class AS c ON c.oid = p.partrelid "
        "WHERE p.partstrat = 'r'"
    )]  # fmt: skip
    in_default = [
        table for table in big if await conn.fetchval(f"SELECT count(*) FROM {table}_default")
    ]
    assert in_default == big
    before = await checksums(conn)
    await conn.execute("SELECT helix_create_partitions(6, 3)")
    assert await checksums(conn) == before
    for table in big:
        assert await conn.fetchval(f"SELECT count(*) FROM {table}_default") == 0, table


async def test_after_a_move_foreign_keys_and_guards_hold_as_before(conn: Connection) -> None:
    then = months_ago(3)
    request = await make_request(conn, at=then)
    response = await make_response(conn, request)
    usage = await make_usage(conn, response, at=then)
    constraints = (
        "SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid), convalidated "
        "FROM pg_constraint WHERE contype = 'f' AND conparentid = 0 ORDER BY 1, 2"
    )
    triggers = (
        "SELECT tgname, tgrelid::regclass::text AS t, tgenabled FROM pg_trigger "
        "WHERE NOT tgisinternal AND tgrelid::regclass::text !~ '_p[0-9]{6}$' ORDER BY 2, 1"
    )
    before = (await conn.fetch(constraints), await conn.fetch(triggers))
    await conn.execute("SELECT helix_create_partitions(3, 3)")
    assert (await conn.fetch(constraints), await conn.fetch(triggers)) == before

    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute("DELETE FROM llm_token_usage WHERE id = $1", usage["id"])
    stranger = id_at(then)
    async with refused(conn, asyncpg.ForeignKeyViolationError):
        await make_response(conn, request, id=uuid7_beside(stranger), request_id=stranger)
    await conn.execute("DELETE FROM llm_requests WHERE id = $1", request["id"])
    assert (
        await conn.fetchval("SELECT count(*) FROM llm_responses WHERE id = $1", response["id"]) == 0
    )


async def test_a_month_can_be_dropped_in_the_order_that_is_written_down(conn: Connection) -> None:
    last_month = months_ago(1)
    old, new = await make_request(conn, at=last_month), await make_request(conn)
    for request in (old, new):
        response = await make_response(conn, request)
        await make_request_body(conn, request)
        await make_response_body(conn, response)
        await make_usage(conn, response)
    texts_and_answers = (
        "llm_response_bodies", "llm_responses", "llm_request_bodies", "llm_requests",
    )  # fmt: skip
    for table in texts_and_answers:
        month = partition_of(table, last_month)
        await conn.execute(f"ALTER TABLE {table} DETACH PARTITION {month}")
        await conn.execute(f"DROP TABLE {month}")
    for table in texts_and_answers:
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 1
    assert await conn.fetchval("SELECT count(*) FROM llm_token_usage") == 2, "kept longer"
    assert await conn.fetchval("SELECT request_id FROM llm_calls") == new["id"]


async def test_calls_are_recorded_between_two_months_that_are_made(
    owner: Connection, database_url: str
) -> None:
    user = await make_user(owner)
    gateway = await connect(database_url)
    await gateway.execute("SET lock_timeout = '100ms'")
    missing = await owner.fetch("SELECT table_name, month FROM helix_missing_partitions(1, 4)")
    try:
        for row in missing:
            made = await owner.fetchval("SELECT helix_create_partition($1, $2)", *row)
            assert made
            await make_request(gateway, user_id=user["id"])
    finally:
        await gateway.close()
    assert len(missing) == BIG_TABLES
    again = await owner.fetchval("SELECT helix_create_partition('llm_requests', $1)", row["month"])
    assert again is False


# ---- a month is what belongs together ------------------------------------------------------------


async def test_an_answer_lives_in_the_month_of_its_request(conn: Connection) -> None:
    request = await make_request(conn, at=months_ago(1))
    async with refused(conn, asyncpg.CheckViolationError, constraint="llm_responses_month_check"):
        await make_response(conn, request, id=id_at(datetime.now(UTC)))


async def test_the_text_of_an_answer_lives_in_the_month_of_its_request(conn: Connection) -> None:
    response = await make_response(conn)
    async with refused(
        conn, asyncpg.CheckViolationError, constraint="llm_response_bodies_month_check"
    ):
        await make_response_body(conn, response, request_id=id_at(months_ago(1)))


async def test_an_answer_after_midnight_still_lives_with_its_request(conn: Connection) -> None:
    midnight = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    asked = midnight - timedelta(milliseconds=1)
    request = await make_request(conn, at=asked)
    response = await make_response(conn, request, created_at=midnight + timedelta(seconds=1))
    assert await place(conn, "llm_responses", "id", response["id"]) == partition_of(
        "llm_responses", asked
    )


# ---- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("llm_requests", "id"),
        ("llm_request_bodies", "request_id"),
        ("llm_responses", "id"),
        ("llm_response_bodies", "response_id"),
        ("background_tasks", "id"),
    ],
)
async def test_a_look_up_by_id_reads_one_month(conn: Connection, table: str, key: str) -> None:
    now = datetime.now(UTC)
    query = f"SELECT * FROM {table} WHERE {key} = '{id_at(now)}'"
    assert await scanned(conn, query) == [partition_of(table, now)]


async def test_a_range_of_time_reads_only_its_months(conn: Connection) -> None:
    start = months_ago(1).replace(day=1, hour=0)
    end = months_ago(0).replace(day=1, hour=0)
    query = (
        "SELECT count(*) FROM llm_responses "
        f"WHERE id >= uuid_floor('{start}') AND id < uuid_floor('{end}')"
    )
    assert await scanned(conn, query) == [partition_of("llm_responses", start)]


async def test_the_last_day_leaves_the_months_before_unread(conn: Connection) -> None:
    await conn.execute("SELECT helix_create_partitions(6, 3)")
    query = "SELECT count(*) FROM llm_responses WHERE id >= uuid_floor(now() - interval '24 hours')"
    plan = json.loads(await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}"))
    assert "Subplans Removed" in json.dumps(plan)
    unread = partition_of("llm_responses", months_ago(2))
    assert unread not in json.dumps(plan)


async def test_a_plan_that_knows_no_value_yet_still_reads_one_month(conn: Connection) -> None:
    await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    await conn.execute("PREPARE find (uuid) AS SELECT status FROM llm_requests WHERE id = $1")
    now = datetime.now(UTC)
    plan = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE find ('{id_at(now)}')")
    assert partition_of("llm_requests", now) in plan
    assert partition_of("llm_requests", months_ago(1)) not in plan
