"""Valid rows, one function a table: `user = await make_user(conn, role="admin")`.

Each takes a connection that may insert (as a rule the owner's) and any column by name, makes the
parents it needs and was not given, and returns the whole row. A parent given as None is left out;
values that must be unique are. Use connections of helix.core.db: they take jsonb as Python values.
"""

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from helix.core.ids import uuid7, uuid7_beside

Row = Any  # asyncpg.Record: row["column"]

_LETTERS_OF_A_NAME = set("abcdefghijklmnopqrstuvwxyz_0123456789")


async def insert(conn: Connection, table: str, /, **fields: object) -> Row:
    """Insert one row into any table and return it as it then stands."""
    for name in (table, *fields):
        if not set(name) <= _LETTERS_OF_A_NAME:
            raise ValueError(f"{name!r} is not a name of this schema")
    if not fields:
        return await conn.fetchrow(f"INSERT INTO {table} DEFAULT VALUES RETURNING *")
    names = ", ".join(fields)
    places = ", ".join(f"${n}" for n in range(1, len(fields) + 1))
    return await conn.fetchrow(
        f"INSERT INTO {table} ({names}) VALUES ({places}) RETURNING *", *fields.values()
    )


def a_name(prefix: str) -> str:
    """Return a name nobody else has."""
    return f"{prefix}-{secrets.token_hex(6)}"


def id_at(moment: datetime) -> UUID:
    """Return a fresh UUIDv7 of that moment, which decides the month its row lives in."""
    return uuid7(int(moment.timestamp() * 1000))


def in_an_hour() -> datetime:
    """Return the moment an hour from now."""
    return datetime.now(UTC) + timedelta(hours=1)


async def _with(
    conn: Connection,
    fields: dict[str, object],
    column: str,
    make: Callable[[Connection], Awaitable[Row]],
) -> dict[str, object]:
    """Return the fields with `column` naming a new parent, unless it was given."""
    if column in fields:
        return fields
    return {column: (await make(conn))["id"], **fields}


# ---- accounts ------------------------------------------------------------------------------------


async def make_user(conn: Connection, **fields: object) -> Row:
    """A user, who is a tenant."""
    defaults = {"email": f"{a_name('user')}@example.org", "password_hash": "!"}
    return await insert(conn, "users", **{**defaults, **fields})


async def make_api_key(conn: Connection, **fields: object) -> Row:
    """An API key; `key`, when given, is the key itself: its hash and beginning are stored."""
    key = str(fields.pop("key", a_name("hlx")))
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {"key_hash": hashlib.sha256(key.encode()).digest(), "key_prefix": key[:12]}
    return await insert(conn, "api_keys", **{**defaults, **fields})


async def make_session(conn: Connection, **fields: object) -> Row:
    """A session that lasts an hour."""
    fields = await _with(conn, fields, "user_id", make_user)
    return await insert(conn, "user_sessions", **{"expires_at": in_an_hour(), **fields})


async def make_github_credential(conn: Connection, **fields: object) -> Row:
    """A linked GitHub account; the tokens look like ciphertext and are none."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {"access_token": "ciphertext", "key_id": "k1"}
    return await insert(conn, "github_credentials", **{**defaults, **fields})


# ---- providers, prices, prompts ------------------------------------------------------------------


async def make_provider(conn: Connection, **fields: object) -> Row:
    """An enabled provider of the mock protocol."""
    return await insert(
        conn, "llm_providers", **{"name": a_name("provider"), "protocol": "mock", **fields}
    )


async def make_provider_config(conn: Connection, **fields: object) -> Row:
    """An encrypted setting of a provider."""
    fields = await _with(conn, fields, "provider_id", make_provider)
    defaults = {"key": "api_key", "value": "ciphertext", "encrypted": True, "key_id": "k1"}
    return await insert(conn, "provider_configs", **{**defaults, **fields})


async def make_model(conn: Connection, **fields: object) -> Row:
    """A model of a provider."""
    fields = await _with(conn, fields, "provider_id", make_provider)
    return await insert(conn, "llm_models", **{"model_name": a_name("model"), **fields})


async def make_benchmark(conn: Connection, **fields: object) -> Row:
    """A benchmark result of a model."""
    fields = await _with(conn, fields, "model_id", make_model)
    return await insert(conn, "llm_benchmarks", **{"benchmark_name": "MMLU", "score": 81, **fields})


async def make_price(conn: Connection, **fields: object) -> Row:
    """A price in force since 2025: 3 and 6 US dollars per million tokens."""
    defaults = {
        "model": a_name("model"),
        "input_cost_per_million": Decimal(3),
        "output_cost_per_million": Decimal(6),
        "effective_date": datetime(2025, 1, 1, tzinfo=UTC),
    }
    return await insert(conn, "llm_pricing", **{**defaults, **fields})


async def make_prompt(conn: Connection, **fields: object) -> Row:
    """A version of a prompt, not active."""
    defaults = {"agent_type": a_name("agent"), "version": "1.0.0", "prompt_text": "You are kind."}
    return await insert(conn, "prompts", **{**defaults, **fields})


async def make_prompt_test(conn: Connection, **fields: object) -> Row:
    """A test that versions of a prompt are held to."""
    return await insert(
        conn, "prompt_tests", **{"agent_type": a_name("agent"), "name": "greets", **fields}
    )


async def make_prompt_test_result(conn: Connection, **fields: object) -> Row:
    """A passed run of a test."""
    fields = await _with(conn, fields, "prompt_id", make_prompt)
    return await insert(
        conn, "prompt_test_results", **{"test_name": "greets", "passed": True, **fields}
    )


# ---- projects ------------------------------------------------------------------------------------


async def make_project(conn: Connection, **fields: object) -> Row:
    """An active project."""
    fields = await _with(conn, fields, "user_id", make_user)
    return await insert(conn, "projects", **{"name": "Mill", "language": "python", **fields})


async def make_project_state(conn: Connection, **fields: object) -> Row:
    """Where a project stands."""
    fields = await _with(conn, fields, "project_id", make_project)
    return await insert(conn, "project_state", **fields)


# ---- requests, responses, ledger -----------------------------------------------------------------


async def make_request(conn: Connection, *, at: datetime | None = None, **fields: object) -> Row:
    """A request under way; `at` puts its id and created_at at that moment."""
    fields = await _with(conn, fields, "user_id", make_user)
    if at is not None:
        fields = {"id": id_at(at), "created_at": at, **fields}
    return await insert(conn, "llm_requests", **{"model_name": "mock/echo", **fields})


async def make_request_body(
    conn: Connection, request: Row | None = None, *, body: object = None, **fields: object
) -> Row:
    """What the client sent; `body` is a Python value, `request_body` the JSON text itself."""
    request = request or await make_request(conn)
    sent = {"model": "mock/echo", "messages": [{"role": "user", "content": "Hello"}]}
    text = json.dumps(sent if body is None else body)
    defaults = {
        "request_id": request["id"],
        "user_id": request["user_id"],
        "request_body": text,
        "body_bytes": len(text.encode()),
    }
    return await insert(conn, "llm_request_bodies", **{**defaults, **fields})


async def make_response(conn: Connection, request: Row | None = None, **fields: object) -> Row:
    """A completed answer of 10 tokens to a question of 5, in the month of its request."""
    request = request or await make_request(conn)
    defaults = {
        "id": uuid7_beside(request["id"]),
        "request_id": request["id"],
        "user_id": request["user_id"],
        "provider_name": "mock",
        "model_name": request["model_name"],
        "status": "completed",
        "tokens_prompt": 5,
        "tokens_completion": 10,
        "tokens_total": 15,
        "latency_ms": 100,
        "created_at": request["created_at"],
    }
    return await insert(conn, "llm_responses", **{**defaults, **fields})


async def make_response_body(
    conn: Connection, response: Row | None = None, **fields: object
) -> Row:
    """The text of an answer; `raw_response` is JSON text."""
    response = response or await make_response(conn)
    defaults = {
        "response_id": response["id"],
        "request_id": response["request_id"],
        "user_id": response["user_id"],
        "content": "Hello yourself",
        "raw_response": '{"choices": []}',
    }
    return await insert(conn, "llm_response_bodies", **{**defaults, **fields})


async def make_usage(
    conn: Connection, response: Row | None = None, *, at: datetime | None = None, **fields: object
) -> Row:
    """A line of the ledger, for a response or for none that is kept; `at` is when it was used."""
    moment = at or datetime.now(UTC)
    if response is None:
        request_id = id_at(moment)
        known: dict[str, object] = {
            "request_id": request_id,
            "response_id": uuid7_beside(request_id),
            "provider_name": "mock",
            "model": "mock/echo",
            "input_tokens": 5,
            "output_tokens": 10,
            "cost_usd": Decimal("0.000075"),
        }
        fields = await _with(conn, fields, "user_id", make_user)
    else:
        known = {
            "request_id": response["request_id"],
            "response_id": response["id"],
            "user_id": response["user_id"],
            "provider_name": response["provider_name"],
            "model": response["model_name"],
            "input_tokens": response["tokens_prompt"],
            "output_tokens": response["tokens_completion"],
            "cached_tokens": response["tokens_cached"],
            "reasoning_tokens": response["tokens_reasoning"],
            "cost_usd": response["cost_usd"],
            "pricing_id": response["pricing_id"],
            "estimated": response["usage_estimated"],
        }
    defaults = {"id": uuid7_beside(_uuid(known["request_id"])), "timestamp": moment, **known}
    return await insert(conn, "llm_token_usage", **{**defaults, **fields})


def _uuid(value: object) -> UUID:
    return UUID(str(value))


async def make_budget(conn: Connection, **fields: object) -> Row:
    """A hard budget of ten US dollars a month for all a user does."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {"scope": "user", "period": "month", "limit_usd": Decimal(10)}
    return await insert(conn, "budgets", **{**defaults, **fields})


async def make_budget_period(conn: Connection, **fields: object) -> Row:
    """An untouched month of a budget."""
    fields = await _with(conn, fields, "budget_id", make_budget)
    return await insert(conn, "budget_periods", **{"period_start": date(2026, 1, 1), **fields})


# ---- tools and errors ----------------------------------------------------------------------------


async def make_tool_audit(conn: Connection, **fields: object) -> Row:
    """A refused tool call."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {
        "agent_id": "planner-1",
        "agent_type": "planner",
        "tool_name": "shell",
        "operation": "call",
        "allowed": False,
        "parameters": {"command": "ls"},
    }
    return await insert(conn, "tool_audit_log", **{**defaults, **fields})


async def make_error(conn: Connection, *, at: datetime | None = None, **fields: object) -> Row:
    """An error of a provider; `at` puts its id and created_at at that moment."""
    fields = await _with(conn, fields, "user_id", make_user)
    if at is not None:
        fields = {"id": id_at(at), "created_at": at, **fields}
    defaults = {"code": 504, "category": "provider", "message": "The provider did not answer."}
    return await insert(conn, "error_log", **{**defaults, **fields})


# ---- tasks ---------------------------------------------------------------------------------------


async def make_task(conn: Connection, **fields: object) -> Row:
    """A pending task, due now."""
    fields = await _with(conn, fields, "user_id", make_user)
    return await insert(conn, "background_tasks", **{"task_type": "echo", **fields})


async def make_task_event(conn: Connection, task: Row | None = None, **fields: object) -> Row:
    """The event that a task was created."""
    task = task or await make_task(conn)
    defaults = {
        "id": uuid7_beside(task["id"]),
        "task_id": task["id"],
        "user_id": task["user_id"],
        "event_type": "task.created",
    }
    return await insert(conn, "task_events", **{**defaults, **fields})


async def make_dead_letter(conn: Connection, **fields: object) -> Row:
    """A task that failed for good."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {"task_type": "echo", "payload": {}, "error_message": "It never worked."}
    return await insert(conn, "dead_letter_queue", **{**defaults, **fields})


# ---- debates -------------------------------------------------------------------------------------


async def make_debate(conn: Connection, **fields: object) -> Row:
    """A debate that has not begun."""
    fields = await _with(conn, fields, "created_by", make_user)
    return await insert(conn, "debates", **{"topic": "Tabs or spaces?", **fields})


async def make_argument(conn: Connection, **fields: object) -> Row:
    """What one side said in the first round."""
    fields = await _with(conn, fields, "debate_id", make_debate)
    defaults = {"round_number": 1, "position": "tabs", "argument_text": "One key, one level."}
    return await insert(conn, "debate_arguments", **{**defaults, **fields})


# ---- memory and knowledge ------------------------------------------------------------------------


async def make_memory(conn: Connection, **fields: object) -> Row:
    """A fact remembered for a user."""
    fields = await _with(conn, fields, "user_id", make_user)
    return await insert(conn, "memories", **{"content": a_name("Ada likes tea"), **fields})


async def make_entity(conn: Connection, **fields: object) -> Row:
    """An entity in a user's memories."""
    fields = await _with(conn, fields, "user_id", make_user)
    return await insert(conn, "memory_entities", **{"name": a_name("Ada"), **fields})


async def make_embedding_config(conn: Connection, **fields: object) -> Row:
    """An embedding model of 384 numbers, not the default one."""
    return await insert(
        conn,
        "embedding_config",
        **{"provider": "local", "model": a_name("minilm"), "dimension": 384, **fields},
    )


async def make_knowledge(conn: Connection, **fields: object) -> Row:
    """A pattern a user's agents may look up."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {"knowledge_type": "pattern", "title": "Retry", "content": "Retry with jitter."}
    return await insert(conn, "rag_knowledge", **{**defaults, **fields})


# ---- conversations, distributed memory, learning -------------------------------------------------


async def make_conversation(conn: Connection, **fields: object) -> Row:
    """A conversation without events."""
    fields = await _with(conn, fields, "user_id", make_user)
    return await insert(conn, "conversations", **fields)


async def make_event(conn: Connection, conversation: Row | None = None, **fields: object) -> Row:
    """The next event of a conversation: a message is added."""
    conversation = conversation or await make_conversation(conn)
    defaults = {
        "conversation_id": conversation["id"],
        "user_id": conversation["user_id"],
        "event_type": "message.added",
        "message_id": a_name("m"),
        "event_data": {"role": "user", "content": "Hello"},
    }
    return await insert(conn, "conversation_events", **{**defaults, **fields})


async def make_distributed_memory(conn: Connection, **fields: object) -> Row:
    """A memory kept on several nodes."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {"shard_key": "s1", "content": "Ada likes tea", "node_id": "north"}
    return await insert(conn, "distributed_memory", **{**defaults, **fields})


async def make_memory_event(conn: Connection, memory: Row | None = None, **fields: object) -> Row:
    """The event that created a distributed memory, from the node `north`."""
    memory = memory or await make_distributed_memory(conn)
    defaults = {
        "memory_id": memory["id"],
        "user_id": memory["user_id"],
        "event_type": "created",
        "node_id": "north",
        "content": "Ada likes tea",
        "version": 1,
    }
    return await insert(conn, "distributed_memory_events", **{**defaults, **fields})


async def make_pattern(conn: Connection, **fields: object) -> Row:
    """A pattern seen in one session of a user."""
    fields = await _with(conn, fields, "user_id", make_user)
    defaults = {
        "pattern_type": "user_intent",
        "pattern_key": a_name("asks"),
        "description": "Asks for tests.",
        "confidence": Decimal("0.9"),
    }
    return await insert(conn, "cross_session_patterns", **{**defaults, **fields})


async def make_mcp_server(conn: Connection, **fields: object) -> Row:
    """A remote MCP server."""
    return await insert(
        conn,
        "mcp_servers",
        **{"name": a_name("mcp"), "endpoint": "https://mcp.example.org", **fields},
    )
