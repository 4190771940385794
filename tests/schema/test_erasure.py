"""What becomes of every row when its user, or its project, is deleted."""

from typing import Any

import asyncpg
import pytest

from helix.core.db import Connection
from tests.factories import (
    make_api_key,
    make_argument,
    make_memory,
    make_project,
    make_provider,
    make_request,
    make_response,
    make_session,
    make_usage,
    make_user,
)
from tests.schema.helpers import refused
from tests.schema.tenants import A, B, Tenants

# Rows that outlive their user, and the references that are then NULL; all else stays as it was.
UNLINKED = {
    "archived_projects": {"user_id"},
    "cancelled_projects": {"user_id", "cancelled_by"},
    "error_log": {"user_id", "project_id"},
    "llm_requests": {"user_id", "api_key_id", "session_id", "project_id"},
    "llm_responses": {"user_id"},
    "llm_token_usage": {"user_id", "api_key_id", "project_id"},
    "streaming_analytics": {"user_id"},
    "tool_audit_log": {"user_id", "api_key_id", "project_id"},
}
# Sums and tombstones carry the id without a foreign key: they stay as they were made.
UNTOUCHED = {
    "knowledge_tombstones",
    "llm_usage_daily",
    "llm_usage_hourly",
    "llm_usage_monthly",
    "memory_tombstones",
}
# Everything else that is a tenant's own goes with the tenant, texts above all.
GONE = {
    "api_keys",
    "archive_keys",
    "archive_tombstones",
    "background_tasks",
    "budget_periods",
    "budget_reservations",
    "budgets",
    "call_holds",
    "call_refusals",
    "clickhouse_analytics",
    "code_versions",
    "conversation_compressions",
    "conversation_context_cache",
    "conversation_events",
    "conversation_flow_patterns",
    "conversation_replay_stats",
    "conversation_snapshots",
    "conversation_turns",
    "conversations",
    "crdt_versions",
    "cross_session_patterns",
    "dead_letter_queue",
    "debate_arguments",
    "debate_events",
    "debate_rounds",
    "debate_votes",
    "debates",
    "distributed_memory",
    "distributed_memory_events",
    "entity_cooccurrences",
    "github_credentials",
    "idempotency_keys",
    "knowledge_accumulation",
    "learned_insights",
    "learning_statistics",
    "llm_request_bodies",
    "llm_response_bodies",
    "memories",
    "memory_changes",
    "memory_conflicts",
    "memory_embeddings",
    "memory_entities",
    "memory_entity_mentions",
    "memory_event_checkpoints",
    "memory_relations",
    "memory_search",
    "memory_snapshots",
    "memory_uses",
    "panels",
    "project_state",
    "projects",
    "response_cache",
    "rag_knowledge",
    "rate_windows",
    "task_dependencies",
    "task_events",
    "task_execution_history",
    "task_resource_snapshots",
    "task_schedules",
    "task_unique_keys",
    "user_preferences",
    "user_sessions",
    "users",
    "vector_documents",
    "webhook_deliveries",
}
# Rows that outlive their project, and then name none.
WITHOUT_PROJECT = {
    "background_tasks",
    "conversations",
    "dead_letter_queue",
    "debates",
    "error_log",
    "llm_requests",
    "llm_token_usage",
    "memories",
    "rag_knowledge",
    "tool_audit_log",
    "vector_documents",
}


async def row_of(conn: Connection, tenants: Tenants, table: str, tenant: int) -> Any:
    """Return the tenant's row as a mapping, or None when it is gone."""
    condition = " AND ".join(
        f"{name}::text = '{value}'" for name, value in tenants.key(table, tenant).items()
    )
    row = await conn.fetchrow(f"SELECT to_jsonb(t) AS it FROM {table} AS t WHERE {condition}")
    return row and row["it"]


async def tenant_tables(conn: Connection) -> list[str]:
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relrowsecurity AND NOT relispartition"
    )
    return [row["relname"] for row in rows]


async def test_every_tenant_table_has_its_fate_written_down(both: Connection) -> None:
    tables = [
        table for table in await tenant_tables(both) if table not in {*UNLINKED, *UNTOUCHED, *GONE}
    ]
    assert tables == []


@pytest.mark.parametrize("role", [None, "helix_operator"])
async def test_deleting_a_user_erases_what_was_the_users_and_keeps_the_accounts(
    both: Connection, tenants: Tenants, role: str | None
) -> None:
    tables = await tenant_tables(both)
    before = {
        (table, tenant): await row_of(both, tenants, table, tenant)
        for table in tables
        for tenant in (A, B)
        if table != "users"
    }
    if role is not None:
        await both.execute(f"SET LOCAL ROLE {role}")
    assert await both.execute("DELETE FROM users WHERE id = $1", tenants.users[A]) == "DELETE 1"
    await both.execute("RESET ROLE")
    for (table, tenant), was in before.items():
        assert was is not None, table
        found = await row_of(both, tenants, table, tenant)
        if tenant == B or table in UNTOUCHED:
            assert found == was, table
        elif table in GONE:
            assert found is None, table
        else:
            assert found == {**was, **dict.fromkeys(UNLINKED[table])}, table


@pytest.mark.parametrize("role", [None, "helix_operator", "helix_app"])
async def test_deleting_a_project_unlinks_what_is_not_the_projects_own(
    both: Connection, tenants: Tenants, role: str | None
) -> None:
    tables = await tenant_tables(both)
    before = {
        (table, tenant): await row_of(both, tenants, table, tenant)
        for table in tables
        for tenant in (A, B)
    }
    project = tenants.rows.made["projects"][A]["id"]
    if role is not None:
        await both.execute(f"SET LOCAL ROLE {role}")
        await both.execute("SELECT set_config('helix.tenant', $1, true)", str(tenants.users[A]))
    assert await both.execute(f"DELETE FROM projects WHERE id = '{project}'") == "DELETE 1"
    await both.execute("RESET ROLE")
    for (table, tenant), was in before.items():
        found = await row_of(both, tenants, table, tenant)
        if tenant == B:
            assert found == was, table
        elif table in {"projects", "project_state"}:
            assert found is None, table
        elif table in WITHOUT_PROJECT:
            assert was["project_id"] == project
            kept = {name: value for name, value in found.items() if name != "updated_at"}
            assert kept.items() <= {**was, "project_id": None}.items(), table
        else:
            assert found == was, table


async def test_a_budget_of_a_project_goes_with_it(conn: Connection) -> None:
    project = await make_project(conn)
    await conn.execute(
        "INSERT INTO budgets (user_id, scope, project_id, period, limit_usd) "
        "VALUES ($1, 'project', $2, 'day', 1)",
        project["user_id"],
        project["id"],
    )
    await conn.execute("DELETE FROM projects WHERE id = $1", project["id"])
    assert await conn.fetchval("SELECT count(*) FROM budgets") == 0


async def test_what_a_deleted_key_used_is_still_counted(conn: Connection) -> None:
    key = await make_api_key(conn)
    usage = await make_usage(conn, user_id=key["user_id"], api_key_id=key["id"])
    await conn.execute("DELETE FROM api_keys WHERE id = $1", key["id"])
    left = await conn.fetchrow("SELECT * FROM llm_token_usage WHERE id = $1", usage["id"])
    assert dict(left) == {**dict(usage), "api_key_id": None}


async def test_answers_outlive_the_provider_and_still_name_it(conn: Connection) -> None:
    provider = await make_provider(conn, name="acme")
    response = await make_response(conn, provider_id=provider["id"], provider_name="acme")
    argument = await make_argument(conn, provider_id=provider["id"], provider_name="acme")
    await conn.execute("DELETE FROM llm_providers WHERE id = $1", provider["id"])
    for table, row in (("llm_responses", response), ("debate_arguments", argument)):
        left = await conn.fetchrow(f"SELECT * FROM {table} WHERE id = $1", row["id"])
        assert (left["provider_id"], left["provider_name"]) == (None, "acme")


async def test_memories_outlive_the_session_they_came_of(conn: Connection) -> None:
    session = await make_session(conn)
    memory = await make_memory(conn, user_id=session["user_id"], session_id=session["id"])
    await conn.execute("DELETE FROM user_sessions WHERE id = $1", session["id"])
    left = await conn.fetchrow("SELECT * FROM memories WHERE id = $1", memory["id"])
    assert (left["session_id"], left["content"]) == (None, memory["content"])


async def test_texts_go_without_the_numbers(conn: Connection) -> None:
    request = await make_request(conn)
    await conn.execute(
        "INSERT INTO llm_request_bodies (request_id, request_body, body_bytes) "
        "VALUES ($1, '{}', 2)",
        request["id"],
    )
    await conn.execute("SET LOCAL ROLE helix_operator")
    removed = await conn.execute(
        "DELETE FROM llm_request_bodies WHERE request_id = $1", request["id"]
    )
    assert removed == "DELETE 1"
    assert (
        await conn.fetchval("SELECT count(*) FROM llm_requests WHERE id = $1", request["id"]) == 1
    )


@pytest.mark.parametrize("role", ["helix_app", "helix_recorder", "helix_readonly"])
async def test_only_the_operator_deletes_users(conn: Connection, role: str) -> None:
    user = await make_user(conn)
    await conn.execute(f"SET LOCAL ROLE {role}")
    await conn.execute("SELECT set_config('helix.tenant', $1, true)", str(user["id"]))
    async with refused(conn, asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await conn.execute("DELETE FROM users WHERE id = $1", user["id"])
