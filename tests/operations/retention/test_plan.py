"""The plan names every table, its rule and why; nothing grows by oversight."""

from datetime import UTC, datetime

import pytest

from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.db import Connection
from helix.operations.doctor import sample_sizes
from helix.operations.months import make_months
from helix.operations.retention import PLAN, measure
from helix.operations.retention.errors import UnknownTable
from helix.operations.retention.plan import rule_of
from helix.operations.retention.run import chosen
from helix.operations.retention.store import QUERIES
from helix.operations.retention.types import Kind
from tests.operations.retention.conftest import House, months_ago

TABLES = """
SELECT relname::text AS name FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""
PARTITIONED = """
SELECT c.relname::text AS name
FROM pg_partitioned_table AS p JOIN pg_class AS c ON c.oid = p.partrelid
WHERE p.partstrat = 'r'
"""


async def test_every_table_has_a_rule(conn: Connection) -> None:
    tables = {row["name"] for row in await conn.fetch(TABLES)}
    assert sorted(tables - {rule.table for rule in PLAN}) == []


def test_no_table_has_two_rules_and_every_rule_says_why() -> None:
    tables = [rule.table for rule in PLAN]
    assert len(tables) == len(set(tables))
    assert [rule.table for rule in PLAN if len(rule.why) < 10] == []


async def test_a_table_of_months_is_dropped_by_months_or_says_why_not(conn: Connection) -> None:
    kept = {"distributed_memory_events"}  # a node that joins later is told all from the first on
    for row in await conn.fetch(PARTITIONED):
        rule = rule_of(row["name"])
        assert rule is not None
        assert (rule.kind in {Kind.MONTHS, Kind.ARCHIVED}) == (rule.table not in kept), rule.table


async def test_what_follows_another_table_refers_to_it(conn: Connection) -> None:
    lost = []
    for rule in (rule for rule in PLAN if rule.kind is Kind.FOLLOWS):
        refers = await conn.fetchval(
            "WITH RECURSIVE up (oid) AS (SELECT $1::text::regclass::oid UNION "
            "SELECT k.confrelid FROM pg_constraint AS k JOIN up ON k.conrelid = up.oid "
            "WHERE k.contype = 'f' AND k.confdeltype = 'c') "
            "SELECT EXISTS (SELECT FROM up WHERE oid = $2::text::regclass)",
            rule.table,
            rule.by,
        )
        if not refers:
            lost.append(rule.table)
    assert lost == ["task_dependencies"]  # by a trigger: helix_tasks_deleted


def test_every_age_has_its_statements_and_a_setting() -> None:
    settings = load_settings({})
    for rule in PLAN:
        if rule.kind is Kind.AGE:
            assert {f"due_{rule.table}", f"delete_{rule.table}"} <= set(QUERIES.names())
        if rule.kind in {Kind.AGE, Kind.MONTHS, Kind.ARCHIVED}:
            assert (rule.setting is None) == (rule.fixed_days is not None), rule.table
            assert rule.days(settings) >= 0


@pytest.mark.parametrize(
    ("table", "days"),
    [
        ("llm_token_usage", 365),
        ("tool_audit_log", 365),
        ("error_log", 90),
        ("error_log_summary", 365),
        ("llm_requests", 90),
        ("llm_request_bodies", 90),
        ("llm_responses", 90),
        ("llm_response_bodies", 90),
        ("background_tasks", 90),
        ("conversation_replay_stats", 90),
    ],
)
def test_ages_are_those_that_were_asked_for(table: str, days: int) -> None:
    rule = rule_of(table)
    assert rule is not None
    assert rule.days(load_settings({})) == days


@pytest.mark.parametrize(
    "table", ["prompt_test_results", "cancelled_projects", "archived_projects", "llm_usage_daily"]
)
def test_what_is_kept_for_ever_is(table: str) -> None:
    rule = rule_of(table)
    assert rule is not None
    assert rule.kind is Kind.KEPT


async def test_the_plan_changes_nothing_and_tells_what_would_go(
    house: House, owner: Connection
) -> None:
    await make_months(house.url, house.settings)
    await owner.execute("ANALYZE llm_requests")
    before = await owner.fetchval("SELECT count(*) FROM llm_requests")
    lines = {
        line.table: line for line in await measure(owner, house.settings, now=datetime.now(UTC))
    }
    going = lines["llm_requests"]
    assert going.due_months == tuple(months_ago(n).date().replace(day=1) for n in (7, 6))
    assert going.due_rows == 15
    assert going.due_bytes > 15 * 100
    assert going.days == 90
    assert going.oldest_at is not None
    assert going.oldest_at.date() == months_ago(7).date().replace(day=1)
    assert lines["llm_token_usage"].due_months == ()
    assert await owner.fetchval("SELECT count(*) FROM llm_requests") == before
    assert set(lines) == {row["name"] for row in await owner.fetch(TABLES)}


async def test_growth_is_what_the_doctor_sampled(house: House, owner: Connection) -> None:
    now = datetime.now(UTC)
    await sample_sizes(house.url, house.settings, clock=SystemClock())
    (line,) = await measure(owner, house.settings, now=now, only="llm_usage_daily")
    assert line.growth_bytes_per_day is None
    await owner.execute(
        "INSERT INTO size_samples (kind, name, sampled_on, size_bytes)"
        " SELECT kind, name, sampled_on - 2, size_bytes - 8192 FROM size_samples"
        " WHERE kind = 'table' AND name = $1",
        "llm_usage_daily",
    )
    (line,) = await measure(owner, house.settings, now=now, only="llm_usage_daily")
    assert line.growth_bytes_per_day == 4096


async def test_a_table_of_somebody_else_is_shown_and_left_alone(
    owner: Connection, settings: Settings
) -> None:
    await owner.execute("CREATE TABLE guests (id integer)")
    (line,) = await measure(owner, settings, now=datetime.now(UTC), only="guests")
    assert (line.kind, line.due_rows) == (Kind.KEPT, 0)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(UnknownTable, match="no rule names the table 'nonsense'"):
        chosen("nonsense")
