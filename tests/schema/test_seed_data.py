"""What a fresh installation starts with: the printed prices, and who may use which tool."""

from datetime import UTC, datetime
from decimal import Decimal

import asyncpg
import pytest

from helix.core.db import Connection
from helix.core.sql import split_statements
from tests.conftest import SCHEMA
from tests.schema.helpers import acting_as

TOOLS = """
    read_file list_files search_code git_diff write_file delete_file run_tests web_search fetch_url
    delegate_task shell git_commit git_push deploy db_query
""".split()
ALLOWED = {
    "orchestrator": "read_file list_files search_code git_diff web_search delegate_task",
    "planner": "read_file list_files search_code git_diff web_search",
    "researcher": "read_file list_files search_code web_search fetch_url",
    "backend_dev": "read_file list_files search_code git_diff write_file run_tests git_commit",
    "frontend_dev": "read_file list_files search_code git_diff write_file run_tests git_commit",
    "tester": "read_file list_files search_code git_diff write_file run_tests",
    "reviewer": "read_file list_files search_code git_diff run_tests",
    "documenter": "read_file list_files search_code git_diff write_file git_commit",
    "devops": "read_file list_files search_code git_diff write_file run_tests git_commit shell",
}


async def test_the_four_printed_prices_are_there_to_the_cent(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT model, input_cost_per_million, output_cost_per_million, effective_date "
        "FROM llm_pricing WHERE source = 'Decision 79' ORDER BY model"
    )
    day = datetime(2025, 11, 1, tzinfo=UTC)
    assert [tuple(row) for row in rows] == [
        ("gpt-3.5-turbo", Decimal("0.500000"), Decimal("1.500000"), day),
        ("gpt-3.5-turbo-16k", Decimal("3.000000"), Decimal("4.000000"), day),
        ("gpt-4", Decimal("30.000000"), Decimal("60.000000"), day),
        ("gpt-4-turbo", Decimal("10.000000"), Decimal("30.000000"), day),
    ]


async def test_the_mock_provider_has_prices_that_call_themselves_invented(
    conn: Connection,
) -> None:
    rows = await conn.fetch("SELECT model, source FROM llm_pricing WHERE model LIKE 'mock/%'")
    assert {row["source"] for row in rows} == {"invented"}
    assert "mock/echo" in {row["model"] for row in rows}


async def test_every_seeded_price_can_be_read_by_tenants(conn: Connection) -> None:
    async with acting_as(conn, "helix_app"):
        assert await conn.fetchval("SELECT count(*) FROM current_prices") == 9


@pytest.mark.parametrize("agent_type", ALLOWED)
async def test_an_agent_may_use_these_tools_and_no_others(
    conn: Connection, agent_type: str
) -> None:
    rows = await conn.fetch(
        "SELECT tool_name, allowed FROM agent_permissions WHERE agent_type = $1", agent_type
    )
    assert sorted(row["tool_name"] for row in rows) == sorted(TOOLS)
    allowed = {row["tool_name"] for row in rows if row["allowed"]}
    assert allowed == set(ALLOWED[agent_type].split())


async def test_nobody_may_delete_push_deploy_or_query_out_of_the_box(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT DISTINCT tool_name FROM agent_permissions GROUP BY tool_name "
        "HAVING NOT bool_or(allowed) ORDER BY tool_name"
    )
    assert [row["tool_name"] for row in rows] == ["db_query", "delete_file", "deploy", "git_push"]
    assert await conn.fetchval("SELECT count(DISTINCT agent_type) FROM agent_permissions") == 9


async def test_a_new_permission_is_a_no_unless_it_says_yes(conn: Connection) -> None:
    allowed = await conn.fetchval(
        "INSERT INTO agent_permissions (agent_type, tool_name) VALUES ('planner', 'fly') "
        "RETURNING allowed"
    )
    assert allowed is False


async def test_no_user_and_no_key_is_there_before_anybody_made_one(conn: Connection) -> None:
    for table in ("users", "api_keys", "llm_providers", "provider_configs"):
        assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_seeding_again_leaves_what_was_changed(conn: Connection) -> None:
    await conn.execute(
        "UPDATE agent_permissions SET allowed = true "
        "WHERE agent_type = 'planner' AND tool_name = 'shell'"
    )
    counts = "SELECT (SELECT count(*) FROM llm_pricing), (SELECT count(*) FROM agent_permissions)"
    before = await conn.fetchrow(counts)
    for statement in split_statements((SCHEMA / "seed_data.sql").read_text()):
        await conn.execute(statement)
    assert await conn.fetchrow(counts) == before
    assert await conn.fetchval(
        "SELECT allowed FROM agent_permissions WHERE agent_type = 'planner' AND tool_name = 'shell'"
    )


async def test_tenants_read_permissions_and_do_not_write_them(conn: Connection) -> None:
    async with acting_as(conn, "helix_app"):
        assert await conn.fetchval("SELECT count(*) FROM agent_permissions") == 9 * 15
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.execute("UPDATE agent_permissions SET allowed = true")
