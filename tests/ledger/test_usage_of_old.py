"""Usage older than the ledger is answered from its sums, and the answer says so."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from helix.core.db import Connection
from helix.ledger.store import Store
from helix.ledger.types import BudgetTarget, UsageQuestion
from tests.factories import make_usage, make_user

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 10, 12, tzinfo=UTC)


async def test_the_same_is_told_before_and_after_a_month_is_dropped(owner: Connection) -> None:
    user = await make_user(owner)
    for hours in (5, 6, 30, 500):
        await make_usage(
            owner, at=FIRST + timedelta(hours=hours), user_id=user["id"], cost_usd=Decimal("0.25")
        )
    await make_usage(owner, at=LATER, user_id=user["id"], cost_usd=Decimal(1))
    question = UsageQuestion(FIRST, LATER + timedelta(days=1), by=("day", "model"))
    store = Store()
    before = await store.report_usage(owner, question, user_id=user["id"])
    assert [row["call_count"] for row in before] == [2, 1, 1, 1]
    assert await store.summed_until(owner, question) is None
    await owner.execute("SELECT helix_create_partition('llm_token_usage', '2024-03-01')")
    await owner.execute("SELECT helix_drop_usage_month('2024-03-01')")
    assert await owner.fetchval("SELECT count(*) FROM llm_token_usage") == 1
    assert await store.report_usage(owner, question, user_id=user["id"]) == before
    assert await store.summed_until(owner, question) == datetime(2024, 4, 1, tzinfo=UTC)
    hours = UsageQuestion(FIRST, LATER, by=("hour",))
    found = await store.report_usage(owner, hours, user_id=None)
    assert [row["call_count"] for row in found] == [1, 1, 1, 1]

    await owner.execute("SELECT helix_drop_usage_hours('2025-01-01')")
    assert await store.report_usage(owner, question, user_id=user["id"]) == before
    found = await store.report_usage(owner, hours, user_id=None)
    assert [row["call_count"] for row in found] == [2, 1, 1]  # of days, at their beginning

    bounded = UsageQuestion(FIRST, LATER, by=(), model="mock/echo")
    (row,) = await store.report_usage(owner, bounded, user_id=user["id"])
    assert (row["call_count"], row["cost_usd"]) == (4, Decimal(1))
    assert await store.report_usage(owner, bounded, user_id=(await make_user(owner))["id"]) == []


async def test_each_moment_is_counted_once_where_the_floor_lies_within_a_day(
    owner: Connection,
) -> None:
    """An answer that ended after midnight moves the floor into the first day of the next month."""
    april = datetime(2024, 4, 1, tzinfo=UTC)
    await owner.execute("SELECT helix_create_partition('llm_token_usage', '2024-03-01')")
    asked = april - timedelta(seconds=1)
    first = await make_usage(owner, at=asked, user_id=None)
    await make_usage(owner, id=UUID(int=first["id"].int + 1),
                     at=april + timedelta(minutes=5), user_id=None)  # fmt: skip
    for hours in (2, 20):
        await make_usage(owner, at=april + timedelta(hours=hours), user_id=None)
    question = UsageQuestion(april - timedelta(days=1), april + timedelta(days=2), by=("day",))
    store = Store()
    before = await store.report_usage(owner, question, user_id=None)
    assert [row["call_count"] for row in before] == [1, 3]
    await owner.execute(
        "SELECT helix_refresh_usage_rollups($1, $2)", april, april + timedelta(days=1)
    )
    await owner.execute("SELECT helix_drop_usage_month('2024-03-01')")
    assert await store.report_usage(owner, question, user_id=None) == before
    await owner.execute("SELECT helix_drop_usage_hours('2024-06-01')")
    assert await store.report_usage(owner, question, user_id=None) == before


async def test_a_budget_of_all_time_begins_with_what_was_spent_before_the_ledger(
    owner: Connection,
) -> None:
    user = await make_user(owner)
    for at in (FIRST, LATER):
        await make_usage(owner, at=at, user_id=user["id"], cost_usd=Decimal("1.5"))
    await owner.execute("SELECT helix_create_partition('llm_token_usage', '2024-03-01')")
    await owner.execute("SELECT helix_drop_usage_month('2024-03-01')")
    made = await Store().insert_budget(
        owner, user_id=user["id"], target=BudgetTarget(), period="total",
        limit_usd=Decimal(10), hard=True, now=LATER,
    )  # fmt: skip
    spent = "SELECT settled_usd FROM budget_periods WHERE budget_id = $1"
    assert await owner.fetchval(spent, made) == 3
