"""The SQL helpers for ids say the same as helix.core.ids, for every moment there can be."""

import re
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core.db import Connection
from helix.core.ids import time_of, uuid7, uuid7_beside
from tests.conftest import SCHEMA

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999  # the last millisecond of the year 9999, where Python's calendar ends
YEAR_2200_MS = 7_258_118_400_000  # later moments are right to a few microseconds only
PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

milliseconds = st.integers(0, LAST_MS)
moments = st.timedeltas(timedelta(0), timedelta(days=2_900_000)).map(lambda age: EPOCH + age)


@PROPERTY
@given(unix_ms=st.integers(0, YEAR_2200_MS))
async def test_uuid_time_is_the_moment_the_id_was_made_for(conn: Connection, unix_ms: int) -> None:
    identifier = uuid7(unix_ms)
    moment = EPOCH + timedelta(milliseconds=unix_ms)
    assert await conn.fetchval("SELECT uuid_time($1)", identifier) == moment
    assert time_of(identifier) == moment


@PROPERTY
@given(unix_us=st.integers(0, YEAR_2200_MS * 1_000))
async def test_ids_of_one_statement_carry_its_moment_and_differ(
    conn: Connection, unix_us: int
) -> None:
    moment = EPOCH + timedelta(microseconds=unix_us)
    rows = await conn.fetch(
        "SELECT uuidv7_under(uuidv7_head($1)) AS id FROM generate_series(1, 50)", moment
    )
    ids = {UUID(str(row["id"])) for row in rows}
    assert len(ids) == 50
    assert {identifier.version for identifier in ids} == {7}
    assert {identifier.variant for identifier in ids} == {RFC_4122}
    for identifier in ids:
        assert abs(time_of(identifier) - moment) <= timedelta(milliseconds=1)
    assert len({str(identifier)[:18] for identifier in ids}) == 1


@PROPERTY
@given(unix_ms=milliseconds)
async def test_uuid_month_is_the_utc_month_of_the_moment(conn: Connection, unix_ms: int) -> None:
    moment = EPOCH + timedelta(milliseconds=unix_ms)
    found = await conn.fetchval("SELECT uuid_month($1)", uuid7(unix_ms))
    assert found == moment.year * 100 + moment.month


@PROPERTY
@given(moment=moments)
async def test_uuid_floor_is_the_least_id_of_the_millisecond(
    conn: Connection, moment: datetime
) -> None:
    unix_ms = (moment - EPOCH) // timedelta(milliseconds=1)
    floor, next_floor = await conn.fetchrow(
        "SELECT uuid_floor($1), uuid_floor($1::timestamptz + interval '1 millisecond')", moment
    )
    assert floor == UUID(int=(unix_ms << 80) | (0x7 << 76) | (0b10 << 62))
    assert floor <= uuid7(unix_ms) < next_floor


@PROPERTY
@given(first=milliseconds, second=milliseconds)
async def test_the_server_sorts_ids_by_the_time_they_were_made(
    conn: Connection, first: int, second: int
) -> None:
    a, b = uuid7(first), uuid7(second)
    assert await conn.fetchval("SELECT $1::uuid < $2::uuid", a, b) is (a < b)
    if first != second:
        assert (a < b) is (first < second)


@PROPERTY
@given(unix_ms=milliseconds)
async def test_an_id_made_beside_another_shares_its_millisecond_and_nothing_else(
    conn: Connection, unix_ms: int
) -> None:
    parent = uuid7(unix_ms)
    child = await conn.fetchval("SELECT uuidv7_beside($1)", parent)
    assert child.int >> 80 == parent.int >> 80 == uuid7_beside(parent).int >> 80
    assert (child.version, child.variant) == (7, "specified in RFC 4122")
    assert child != parent


@PROPERTY
@given(identifier=st.uuids())
async def test_uuid_month_looks_at_48_bits_whatever_the_version(
    conn: Connection, identifier: UUID
) -> None:
    month = await conn.fetchval("SELECT uuid_month($1)", identifier)
    assert month == await conn.fetchval(
        "SELECT to_char(to_timestamp($1 / 1000.0) AT TIME ZONE 'UTC', 'FMYYYYMM')::int",
        float(identifier.int >> 80),
    )


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
async def test_no_helper_follows_the_time_zone_of_the_session(conn: Connection, zone: str) -> None:
    await conn.execute(f"SET LOCAL timezone = '{zone}'")
    last_of_january = uuid7(1_769_903_999_999)  # 2026-01-31 23:59:59.999 UTC
    first_of_february = uuid7(1_769_904_000_000)
    assert await conn.fetchval("SELECT uuid_month($1)", last_of_january) == 202601
    assert await conn.fetchval("SELECT uuid_month($1)", first_of_february) == 202602
    floor = await conn.fetchval("SELECT uuid_floor('2026-02-01 00:00:00+00')")
    assert floor == UUID("019c167f-cc00-7000-8000-000000000000")


async def test_an_id_of_another_version_has_no_time(conn: Connection) -> None:
    version_4 = UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")
    assert await conn.fetchval("SELECT uuid_time($1)", version_4) is None


async def test_nothing_comes_of_nothing(conn: Connection) -> None:
    row = await conn.fetchrow(
        "SELECT uuid_floor(NULL), uuid_time(NULL), uuid_month(NULL), uuidv7_beside(NULL)"
    )
    assert list(row) == [None, None, None, None]


async def test_the_server_makes_ids_of_now(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT uuidv7() AS id, clock_timestamp() AS now FROM generate_series(1, 1000)"
    )
    assert len({row["id"] for row in rows}) == 1000
    assert {(row["id"].version, row["id"].variant) for row in rows} == {
        (7, "specified in RFC 4122")
    }
    for row in rows:
        assert abs(time_of(row["id"]) - row["now"]) < timedelta(seconds=1)


async def test_servers_before_18_make_ids_of_the_same_kind(conn: Connection) -> None:
    text = (SCHEMA / "functions.sql").read_text()
    stand_in = re.search(r"CREATE FUNCTION (uuidv7)\(\) RETURNS.*?(?=\$sql\$)", text, re.DOTALL)
    assert stand_in is not None
    await conn.execute(stand_in[0].replace("uuidv7", "stand_in_for_uuidv7", 1))
    rows = await conn.fetch(
        "SELECT stand_in_for_uuidv7() AS id, clock_timestamp() AS now FROM generate_series(1, 1000)"
    )
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == 1000
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    ordered = [i.int >> 64 for i in ids]  # milliseconds, version and 12 bits below them
    assert ordered == sorted(ordered)
    for row in rows:
        assert abs(time_of(row["id"]) - row["now"]) < timedelta(seconds=1)


async def test_a_moment_before_1970_is_before_every_id(conn: Connection) -> None:
    before, first = await conn.fetchrow(
        "SELECT uuid_floor('1969-12-31 00:00:00+00'), uuid_floor('1970-01-01 00:00:00+00')"
    )
    assert before <= first


async def test_the_tenant_is_null_until_it_is_set(conn: Connection) -> None:
    assert await conn.fetchval("SELECT helix_tenant()") is None
    await conn.execute("SELECT set_config('helix.tenant', '', true)")
    assert await conn.fetchval("SELECT helix_tenant()") is None
    tenant = UUID("3b241101-e2bb-4255-8caf-4136c566a962")
    await conn.execute("SELECT set_config('helix.tenant', $1, true)", str(tenant))
    assert await conn.fetchval("SELECT helix_tenant()") == tenant


async def test_a_tenant_that_is_no_id_is_refused(conn: Connection) -> None:
    await conn.execute("SELECT set_config('helix.tenant', 'everybody', true)")
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await conn.fetchval("SELECT helix_tenant()")


async def test_sha256_of_a_text_is_that_of_its_utf8(conn: Connection) -> None:
    found = await conn.fetchval("SELECT helix_sha256('Grüße')")
    assert found.hex() == "f83e039796c6453a10f5519e39fd113901572316a1a8ea07cb525d2801dfd074"
