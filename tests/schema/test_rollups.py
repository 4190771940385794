"""The sums of the ledger by hour, day and month: exact, and the same however often made."""

import random
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from helix.core.db import Connection
from tests.factories import make_api_key, make_project, make_usage, make_user
from tests.schema.helpers import refused

START = datetime(2025, 3, 30, 22, 0, tzinfo=UTC)
SUMS = (
    "call_count",
    "estimated_count",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_usd",
)
KEYS = ("user_id", "api_key_id", "project_id", "agent_id", "provider_name", "model")
LEVELS = {"llm_usage_hourly": "hour", "llm_usage_daily": "day", "llm_usage_monthly": "month"}


async def refresh(conn: Connection, start: datetime, end: datetime) -> int:
    found: int = await conn.fetchval("SELECT helix_refresh_usage_rollups($1, $2)", start, end)
    return found


async def sums(conn: Connection, table: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return the sums of a level by bucket and dimensions."""
    rows = await conn.fetch(f"SELECT * FROM {table}")
    return {
        (row[LEVELS[table]], *(row[key] for key in KEYS)): tuple(row[name] for name in SUMS)
        for row in rows
    }


def bucket(table: str, moment: datetime) -> datetime | date:
    if table == "llm_usage_hourly":
        return moment.replace(minute=0, second=0, microsecond=0)
    return moment.date() if table == "llm_usage_daily" else moment.date().replace(day=1)


async def fill_ledger(conn: Connection, count: int = 120) -> list[Any]:
    """Write usage of two users over three days and a change of month; a fixed seed."""
    dice = random.Random(79)
    users = [await make_user(conn) for _ in range(2)]
    keys = [await make_api_key(conn, user_id=user["id"]) for user in users]
    projects = [await make_project(conn, user_id=user["id"]) for user in users]
    rows = []
    for _ in range(count):
        who = dice.randrange(2)
        rows.append(
            await make_usage(
                conn,
                at=START + timedelta(seconds=dice.randrange(3 * 86_400)),
                user_id=users[who]["id"],
                api_key_id=dice.choice([keys[who]["id"], None]),
                project_id=dice.choice([projects[who]["id"], None]),
                agent_id=dice.choice(["planner", None]),
                provider_name=dice.choice(["mock", None]),
                model=dice.choice(["mock/echo", "mock/large"]),
                input_tokens=dice.randrange(5_000),
                output_tokens=dice.randrange(5_000),
                cached_tokens=dice.randrange(100),
                reasoning_tokens=dice.randrange(100),
                cost_usd=Decimal(dice.randrange(10**14)) / 10**12,
                estimated=dice.random() < 0.3,
            )
        )
    return rows


@pytest.mark.parametrize("table", LEVELS)
async def test_sums_equal_the_raw_ledger_to_the_last_digit(conn: Connection, table: str) -> None:
    ledger = await fill_ledger(conn)
    await refresh(conn, START, START + timedelta(days=3))
    expected: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0, Decimal(0)])
    for row in ledger:
        total = expected[(bucket(table, row["timestamp"]), *(row[key] for key in KEYS))]
        for n, name in enumerate(SUMS):
            if name == "call_count":
                total[n] += 1
            elif name == "estimated_count":
                total[n] += row["estimated"]
            else:
                total[n] += row[name]
    found = await sums(conn, table)
    assert found == {key: tuple(total) for key, total in expected.items()}
    assert sum(total[6] for total in found.values()) == sum(row["cost_usd"] for row in ledger)


async def test_making_the_sums_again_changes_nothing(conn: Connection) -> None:
    await fill_ledger(conn)
    written = await refresh(conn, START, START + timedelta(days=3))
    first = [await sums(conn, table) for table in LEVELS]
    assert written == sum(len(level) for level in first)
    assert await refresh(conn, START, START + timedelta(days=3)) == written
    assert [await sums(conn, table) for table in LEVELS] == first


async def test_windows_that_overlap_or_cut_an_hour_change_nothing(conn: Connection) -> None:
    await fill_ledger(conn)
    await refresh(conn, START, START + timedelta(days=3))
    first = [await sums(conn, table) for table in LEVELS]
    for start, length in [(0, 90), (17, 1), (60, 60), (1439, 2), (2000, 4000)]:
        begin = START + timedelta(minutes=start)
        await refresh(conn, begin, begin + timedelta(minutes=length))
        assert [await sums(conn, table) for table in LEVELS] == first


async def test_sums_made_hour_by_hour_equal_those_made_at_once(conn: Connection) -> None:
    await fill_ledger(conn, 40)
    for hour in range(72):
        begin = START + timedelta(hours=hour)
        await refresh(conn, begin, begin + timedelta(hours=1))
    piecewise = [await sums(conn, table) for table in LEVELS]
    await refresh(conn, START, START + timedelta(days=3))
    assert [await sums(conn, table) for table in LEVELS] == piecewise


async def test_calls_without_user_key_or_project_are_one_sum(conn: Connection) -> None:
    for cost in ("0.000000000001", "0.000000000002"):
        await make_usage(conn, at=START, user_id=None, provider_name=None, cost_usd=Decimal(cost))
    for _ in range(2):
        await refresh(conn, START, START + timedelta(hours=1))
        found = await sums(conn, "llm_usage_hourly")
        assert found == {
            (START, None, None, None, None, None, "mock/echo"): (
                2, 0, 10, 20, 0, 0, Decimal("0.000000000003"),
            )
        }  # fmt: skip


async def test_a_second_sum_without_user_is_refused(conn: Connection) -> None:
    await make_usage(conn, at=START, user_id=None)
    await refresh(conn, START, START + timedelta(hours=1))
    async with refused(conn, asyncpg.UniqueViolationError, constraint="llm_usage_monthly_key"):
        await conn.execute(
            "INSERT INTO llm_usage_monthly SELECT (jsonb_populate_record(NULL::llm_usage_monthly, "
            "to_jsonb(m) || jsonb_build_object('id', gen_random_uuid()))).* "
            "FROM llm_usage_monthly AS m"
        )


async def test_days_and_months_begin_at_midnight_utc(conn: Connection) -> None:
    await conn.execute("SET LOCAL timezone = 'Pacific/Auckland'")
    last = datetime(2025, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    first = datetime(2025, 4, 1, tzinfo=UTC)
    for moment in (last, first):
        await make_usage(conn, at=moment, user_id=None)
    await refresh(conn, last, first + timedelta(seconds=1))
    days = await conn.fetch("SELECT day, call_count FROM llm_usage_daily ORDER BY day")
    months = await conn.fetch("SELECT month, call_count FROM llm_usage_monthly ORDER BY month")
    assert [tuple(row) for row in days] == [(date(2025, 3, 31), 1), (date(2025, 4, 1), 1)]
    assert [tuple(row) for row in months] == [(date(2025, 3, 1), 1), (date(2025, 4, 1), 1)]


async def test_the_end_of_the_window_is_not_in_it(conn: Connection) -> None:
    await make_usage(conn, at=START, user_id=None)
    await make_usage(conn, at=START + timedelta(hours=1), user_id=None)
    await refresh(conn, START, START + timedelta(hours=1))
    hours = await conn.fetch("SELECT hour, call_count FROM llm_usage_hourly")
    assert [tuple(row) for row in hours] == [(START, 1)]


async def test_sums_outlive_the_ledger_they_were_made_of(conn: Connection) -> None:
    await fill_ledger(conn, 20)
    await refresh(conn, START, START + timedelta(days=3))
    await make_usage(conn, at=START + timedelta(days=40), user_id=None)
    first = [await sums(conn, table) for table in LEVELS]
    await conn.execute("ALTER TABLE llm_token_usage DISABLE TRIGGER USER")
    await conn.execute(
        "DELETE FROM llm_token_usage WHERE timestamp < $1", START + timedelta(days=4)
    )
    await refresh(conn, START, START + timedelta(days=3))
    assert [await sums(conn, table) for table in LEVELS] == first


async def test_sums_stay_as_they_were_when_a_user_goes(conn: Connection) -> None:
    usage = await make_usage(conn, at=START)
    await refresh(conn, START, START + timedelta(hours=1))
    before = [await sums(conn, table) for table in LEVELS]
    await conn.execute("DELETE FROM users WHERE id = $1", usage["user_id"])
    assert [await sums(conn, table) for table in LEVELS] == before
    assert {key[1] for key in before[0]} == {usage["user_id"]}


async def test_nothing_to_sum_is_no_error(conn: Connection) -> None:
    assert await refresh(conn, START, START + timedelta(days=1)) == 0


@pytest.mark.parametrize(
    ("start", "end"), [(START, START), (START, START - timedelta(1)), (None, START), (START, None)]
)
async def test_a_window_without_length_is_refused(
    conn: Connection, start: datetime | None, end: datetime | None
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await conn.fetchval("SELECT helix_refresh_usage_rollups($1, $2)", start, end)


async def test_the_operator_makes_the_sums_over_all_tenants(conn: Connection) -> None:
    tenants: set[UUID] = set()
    for _ in range(2):
        tenants.add((await make_usage(conn, at=START))["user_id"])
    await conn.execute("SET LOCAL ROLE helix_operator")
    assert await refresh(conn, START, START + timedelta(hours=1)) == 6
    rows = await conn.fetch("SELECT DISTINCT user_id FROM llm_usage_daily")
    assert {row["user_id"] for row in rows} == tenants


@pytest.mark.parametrize("role", ["helix_app", "helix_recorder", "helix_readonly"])
async def test_nobody_else_makes_the_sums(conn: Connection, role: str) -> None:
    await conn.execute(f"SET LOCAL ROLE {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await refresh(conn, START, START + timedelta(hours=1))


async def test_a_month_begins_on_its_first_day(conn: Connection) -> None:
    async with refused(
        conn, asyncpg.CheckViolationError, constraint="llm_usage_monthly_month_check"
    ):
        await conn.execute(
            "INSERT INTO llm_usage_monthly (month, user_id, model, call_count, estimated_count, "
            "input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd) "
            "VALUES ('2025-03-02', $1, 'm', 0, 0, 0, 0, 0, 0, 0)",
            uuid4(),
        )
