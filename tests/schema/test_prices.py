"""A price that holds is history: it cannot be changed, only followed by another."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from helix.core.db import Connection
from tests.factories import make_price, make_usage
from tests.schema.helpers import acting_as, refused

FUTURE = datetime.now(UTC) + timedelta(days=30)

PRICE_COLUMNS: list[tuple[str, object]] = [
    ("model", "another"),
    ("input_cost_per_million", Decimal("3.000001")),
    ("output_cost_per_million", Decimal(0)),
    ("cached_input_cost_per_million", Decimal(1)),
    ("reasoning_cost_per_million", Decimal(1)),
    ("per_request_cost_usd", Decimal(1)),
    ("effective_date", datetime(2024, 1, 1, tzinfo=UTC)),
]


@pytest.mark.parametrize(("column", "value"), PRICE_COLUMNS)
async def test_a_price_in_force_is_not_changed(
    conn: Connection, column: str, value: object
) -> None:
    price = await make_price(conn)
    async with refused(conn, asyncpg.RestrictViolationError, match="holds already"):
        await conn.execute(
            f"UPDATE llm_pricing SET {column} = $2 WHERE id = $1", price["id"], value
        )


@pytest.mark.parametrize("role", ["helix_operator", None])
async def test_a_price_in_force_is_not_deleted_by_anybody(
    conn: Connection, role: str | None
) -> None:
    price = await make_price(conn)
    if role is not None:
        await conn.execute(f"SET LOCAL ROLE {role}")
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute("DELETE FROM llm_pricing WHERE id = $1", price["id"])


async def test_a_price_becomes_fixed_the_moment_it_holds(conn: Connection) -> None:
    price = await make_price(conn, effective_date=await conn.fetchval("SELECT now()"))
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(
            "UPDATE llm_pricing SET input_cost_per_million = 9 WHERE id = $1", price["id"]
        )


async def test_what_was_noted_about_a_price_in_force_can_be_amended(conn: Connection) -> None:
    price = await make_price(conn)
    await conn.execute(
        "UPDATE llm_pricing SET notes = 'list price', source = 'invoice', updated_by = 'ada' "
        "WHERE id = $1",
        price["id"],
    )
    row = await conn.fetchrow("SELECT * FROM llm_pricing WHERE id = $1", price["id"])
    assert (row["notes"], row["source"], row["updated_by"]) == ("list price", "invoice", "ada")


async def test_a_future_price_can_be_changed_and_withdrawn(conn: Connection) -> None:
    price = await make_price(conn, effective_date=FUTURE)
    await conn.execute(
        "UPDATE llm_pricing SET input_cost_per_million = 9 WHERE id = $1", price["id"]
    )
    found = await conn.fetchval(
        "SELECT input_cost_per_million FROM llm_pricing WHERE id = $1", price["id"]
    )
    assert found == Decimal("9.000000")
    assert await conn.execute("DELETE FROM llm_pricing WHERE id = $1", price["id"]) == "DELETE 1"


async def test_a_model_has_one_price_per_moment(conn: Connection) -> None:
    price = await make_price(conn)
    async with refused(
        conn, asyncpg.UniqueViolationError, constraint="llm_pricing_model_effective_date_key"
    ):
        await make_price(conn, model=price["model"])


async def test_a_price_somebody_paid_by_stays_even_if_the_guard_is_off(conn: Connection) -> None:
    price = await make_price(conn)
    await make_usage(conn, pricing_id=price["id"])
    await conn.execute("ALTER TABLE llm_pricing DISABLE TRIGGER llm_pricing_refuse_change")
    async with refused(
        conn, asyncpg.ForeignKeyViolationError, constraint="llm_token_usage_pricing_id_fkey"
    ):
        await conn.execute("DELETE FROM llm_pricing WHERE id = $1", price["id"])


async def test_the_current_price_is_the_newest_that_holds(conn: Connection) -> None:
    model = "gpt-test"
    for effective, cost in [
        (datetime(2025, 1, 1, tzinfo=UTC), 1),
        (datetime(2025, 6, 1, tzinfo=UTC), 2),
        (FUTURE, 3),
    ]:
        await make_price(
            conn, model=model, effective_date=effective, input_cost_per_million=Decimal(cost)
        )
    async with acting_as(conn, "helix_app"):
        rows = await conn.fetch(
            "SELECT input_cost_per_million FROM current_prices WHERE model = $1", model
        )
    assert [row[0] for row in rows] == [Decimal("2.000000")]


@pytest.mark.parametrize(
    ("tokens", "per_million", "exact"),
    [
        (1, "0.000001", "0.000000000001"),
        (333, "0.333333", "0.000110999889"),
        (2_147_483_647, "46566.128752", "99999999.999016518544"),
    ],
)
async def test_tokens_times_a_price_are_exact_in_the_ledger(
    conn: Connection, tokens: int, per_million: str, exact: str
) -> None:
    price = await make_price(conn, input_cost_per_million=Decimal(per_million))
    usage = await make_usage(conn, input_tokens=tokens, pricing_id=price["id"])
    cost = await conn.fetchval(
        "SELECT u.input_tokens * p.input_cost_per_million / 1000000 FROM llm_token_usage AS u "
        "JOIN llm_pricing AS p ON p.id = u.pricing_id WHERE u.id = $1",
        usage["id"],
    )
    kept = await make_usage(conn, cost_usd=cost)
    assert kept["cost_usd"] == Decimal(exact)
