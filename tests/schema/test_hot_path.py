"""The gateway's recorder can write a whole call, and can do nothing else with it."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from helix.core.db import Connection
from helix.core.ids import uuid7_beside
from tests.factories import (
    id_at,
    make_api_key,
    make_budget,
    make_price,
    make_project,
    make_provider,
    make_provider_config,
    make_request,
    make_request_body,
    make_response,
    make_response_body,
    make_session,
    make_usage,
    make_user,
)
from tests.schema.helpers import acting_as, refused

RECORDER = "helix_recorder"


async def test_the_recorder_writes_a_call_from_admission_to_the_last_byte(
    conn: Connection,
) -> None:
    user = await make_user(conn)
    key = await make_api_key(conn, user_id=user["id"])
    session = await make_session(conn, user_id=user["id"])
    project = await make_project(conn, user_id=user["id"])
    provider = await make_provider(conn)
    await make_provider_config(conn, provider_id=provider["id"])
    price = await make_price(conn)
    budget = await make_budget(conn, user_id=user["id"], limit_usd=Decimal(1))
    now = datetime.now(UTC)
    request_id = id_at(now)
    response_id = uuid7_beside(request_id)
    today = date(2026, 1, 1)
    await conn.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    async with acting_as(conn, RECORDER):
        found = await conn.fetchrow(
            "SELECT k.*, u.status AS user_status FROM api_keys AS k "
            "JOIN users AS u ON u.id = k.user_id WHERE k.key_hash = $1",
            key["key_hash"],
        )
        assert (found["user_id"], found["user_status"]) == (user["id"], "active")
        secret = "SELECT value FROM provider_configs WHERE provider_id = $1"
        assert await conn.fetchval(secret, provider["id"]) == "ciphertext"

        await conn.execute(
            "INSERT INTO budget_periods (budget_id, period_start) VALUES ($1, $2) "
            "ON CONFLICT DO NOTHING",
            budget["id"],
            today,
        )
        reserve = (
            "UPDATE budget_periods AS p SET reserved_usd = reserved_usd + $2 FROM budgets AS b "
            "WHERE b.id = p.budget_id AND p.budget_id = $1 "
            "AND p.reserved_usd + p.settled_usd + $2 <= b.limit_usd"
        )
        assert await conn.execute(reserve, budget["id"], Decimal("0.75")) == "UPDATE 1"
        assert await conn.execute(reserve, budget["id"], Decimal("0.75")) == "UPDATE 0"
        await conn.execute(
            "INSERT INTO budget_reservations (request_id, budget_id, period_start, amount_usd, "
            "expires_at) VALUES ($1, $2, $3, 0.75, now())",
            request_id,
            budget["id"],
            today,
        )
        await conn.execute(
            "INSERT INTO llm_requests (id, user_id, api_key_id, session_id, project_id, model_name)"
            " VALUES ($1, $2, $3, $4, $5, 'mock/echo')",
            request_id,
            user["id"],
            key["id"],
            session["id"],
            project["id"],
        )
        await conn.execute(
            "INSERT INTO llm_request_bodies VALUES ($1, $2, '{}', 2)", request_id, user["id"]
        )
        await conn.execute(
            "UPDATE llm_requests SET status = 'running', started_at = now() WHERE id = $1",
            request_id,
        )
        await conn.execute(
            "INSERT INTO llm_responses (id, request_id, user_id, provider_id, provider_name, "
            "model_name, status, latency_ms, cost_usd, pricing_id) "
            "VALUES ($1, $2, $3, $4, 'mock', 'echo', 'completed', 5, 0.5, $5)",
            response_id,
            request_id,
            user["id"],
            provider["id"],
            price["id"],
        )
        await conn.execute(
            "INSERT INTO llm_response_bodies VALUES ($1, $2, $3, 'Hello', '{}')",
            response_id,
            request_id,
            user["id"],
        )
        await conn.execute(
            "INSERT INTO llm_token_usage (id, user_id, api_key_id, project_id, model, request_id, "
            "response_id, cost_usd, pricing_id) VALUES ($1, $2, $3, $4, 'echo', $5, $6, 0.5, $7)",
            uuid7_beside(request_id),
            user["id"],
            key["id"],
            project["id"],
            request_id,
            response_id,
            price["id"],
        )
        await conn.execute(
            "INSERT INTO streaming_analytics (stream_id, event_type, chunk_number, latency_ms, "
            "user_id) VALUES ($1, 'first_token', 0, 5, $2)",
            str(response_id),
            user["id"],
        )
        await conn.execute(
            "INSERT INTO error_log (code, category, message, user_id) VALUES (1, 'x', 'y', $1)",
            user["id"],
        )
        await conn.execute(
            "WITH gone AS (DELETE FROM budget_reservations WHERE request_id = $1 "
            "RETURNING budget_id, period_start, amount_usd) "
            "UPDATE budget_periods AS p SET reserved_usd = p.reserved_usd - g.amount_usd, "
            "settled_usd = p.settled_usd + 0.5 FROM gone AS g "
            "WHERE p.budget_id = g.budget_id AND p.period_start = g.period_start",
            request_id,
        )
        done = "UPDATE llm_requests SET status = 'completed', completed_at = now() WHERE id = $1"
        assert await conn.execute(done, request_id) == "UPDATE 1"
        await conn.execute("UPDATE api_keys SET last_used_at = now() WHERE id = $1", key["id"])
    period = await conn.fetchrow("SELECT * FROM budget_periods")
    assert (period["reserved_usd"], period["settled_usd"]) == (0, Decimal("0.5"))
    row = await conn.fetchrow("SELECT * FROM llm_calls WHERE request_id = $1", request_id)
    assert (row["response"], row["cost"], row["request_status"]) == (
        "Hello",
        Decimal("0.5"),
        "completed",
    )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT request_body FROM llm_request_bodies",
        "SELECT content FROM llm_response_bodies",
        "SELECT cost_usd FROM llm_responses",
        "SELECT cost_usd FROM llm_token_usage",
        "SELECT metadata FROM llm_requests",
        "SELECT password_hash FROM users",
        "SELECT access_token FROM github_credentials",
        "SELECT token_hash FROM user_sessions",
        "UPDATE llm_requests SET user_id = NULL",
        "UPDATE llm_requests SET model_name = 'x'",
        "UPDATE llm_responses SET cost_usd = 0",
        "UPDATE api_keys SET status = 'active'",
        "UPDATE api_keys SET scopes = '{admin}'",
        "UPDATE budgets SET limit_usd = 1000000",
        "DELETE FROM llm_requests",
        "DELETE FROM llm_request_bodies",
        "DELETE FROM budget_periods",
        "INSERT INTO llm_pricing (model) VALUES ('x')",
        "INSERT INTO users (email, password_hash) VALUES ('x', '!')",
        "SELECT * FROM llm_calls",
    ],
)
async def test_the_recorder_does_nothing_else(conn: Connection, statement: str) -> None:
    response = await make_response(conn)
    await make_usage(conn, response)
    async with (
        acting_as(conn, RECORDER),
        refused(conn, asyncpg.InsufficientPrivilegeError, match="permission denied"),
    ):
        await conn.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO llm_requests (model_name) VALUES ('x')",
        "UPDATE llm_requests SET status = 'failed'",
        "DELETE FROM llm_request_bodies",
        "UPDATE users SET role = 'admin'",
        "UPDATE users SET status = 'active'",
        "UPDATE api_keys SET scopes = '{admin}'",
        "UPDATE api_keys SET rate_limit = 1000000",
        "SELECT key_hash FROM api_keys",
        "SELECT password_hash FROM users",
        "SELECT token_hash FROM user_sessions",
        "SELECT value FROM provider_configs",
        "SELECT credentials FROM mcp_servers",
        "UPDATE budgets SET limit_usd = 1000000",
        "DELETE FROM budgets",
        "UPDATE budget_periods SET settled_usd = 0",
        "INSERT INTO prompts (agent_type, version, prompt_text) VALUES ('a', '1.0.0', 'x')",
    ],
)
async def test_a_tenant_cannot_raise_itself(conn: Connection, statement: str) -> None:
    user = await make_user(conn)
    async with (
        acting_as(conn, "helix_app", tenant=user["id"]),
        refused(conn, asyncpg.InsufficientPrivilegeError, match="permission denied"),
    ):
        await conn.execute(statement)


async def test_a_revoked_key_stays_revoked(conn: Connection) -> None:
    key = await make_api_key(conn, status="revoked", revoked_at=datetime.now(UTC))
    async with (
        acting_as(conn, "helix_app", tenant=key["user_id"]),
        refused(conn, asyncpg.PostgresError),
    ):
        await conn.execute("UPDATE api_keys SET status = 'active', revoked_at = NULL")


async def test_a_tenant_enqueues_watches_and_cancels_a_task(conn: Connection) -> None:
    user, stranger = await make_user(conn), await make_user(conn)
    async with acting_as(conn, "helix_app", tenant=user["id"]):
        task = await conn.fetchval(
            "INSERT INTO background_tasks (task_type, user_id) VALUES ('echo', $1) RETURNING id",
            user["id"],
        )
        cancel = (
            "UPDATE background_tasks SET status = 'cancelled', completed_at = now() WHERE id = $1"
        )
        assert await conn.execute(cancel, task) == "UPDATE 1"
        events = "SELECT event_type FROM task_events WHERE task_id = $1 ORDER BY id"
        seen = [row["event_type"] for row in await conn.fetch(events, task)]
    assert seen == ["task.created", "task.cancelled"]
    async with acting_as(conn, "helix_app", tenant=stranger["id"]):
        assert await conn.fetch(events, task) == []
        assert await conn.execute(cancel, task) == "UPDATE 0"


@pytest.mark.parametrize("table", ["llm_requests", "users", "memories", "llm_pricing"])
async def test_analytics_reads_and_never_writes(conn: Connection, table: str) -> None:
    async with acting_as(conn, "helix_readonly"):
        for statement in (
            f"DELETE FROM {table}",
            f"INSERT INTO {table} DEFAULT VALUES",
            f"TRUNCATE {table}",
        ):
            async with refused(conn, asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)


async def test_a_body_is_kept_letter_for_letter(conn: Connection) -> None:
    text = '{"b": 1,  "a": 1.0, "a": 2, "nul": "\\u0000", "half": "\\ud800"}'
    body = await make_request_body(conn, request_body=text, body_bytes=len(text))
    assert body["request_body"] == text
    answer = await make_response_body(conn, raw_response=text)
    assert answer["raw_response"] == text


async def test_a_response_needs_its_request(conn: Connection) -> None:
    stranger = id_at(datetime.now(UTC))
    async with refused(
        conn, asyncpg.ForeignKeyViolationError, constraint="llm_responses_request_id_fkey"
    ):
        await make_response(conn, request_id=stranger, id=uuid7_beside(stranger))


async def test_a_request_has_one_body_and_an_answer_one_text(conn: Connection) -> None:
    request = await make_request(conn)
    await make_request_body(conn, request)
    async with refused(conn, asyncpg.UniqueViolationError):
        await make_request_body(conn, request)
    response = await make_response(conn, request)
    await make_response_body(conn, response)
    async with refused(conn, asyncpg.UniqueViolationError):
        await make_response_body(conn, response)


async def test_expired_reservations_are_found_by_their_index(conn: Connection) -> None:
    await conn.execute("SET LOCAL enable_seqscan = off")
    plan = await conn.fetch(
        "EXPLAIN SELECT * FROM budget_reservations WHERE expires_at < $1",
        datetime.now(UTC) - timedelta(minutes=5),
    )
    assert "budget_reservations_expires_at_idx" in str(plan)
