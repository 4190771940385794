"""What was recorded stays as it was recorded, for everybody; references may only let go."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from helix.core.db import Connection, connect
from tests.factories import (
    make_api_key,
    make_conversation,
    make_distributed_memory,
    make_event,
    make_memory_event,
    make_project,
    make_session,
    make_tool_audit,
    make_usage,
    make_user,
)
from tests.schema.helpers import refused

Maker = Callable[[Connection], Awaitable[Any]]
GUARDED: dict[str, Maker] = {"llm_token_usage": make_usage, "tool_audit_log": make_tool_audit}
ROLES = ["helix_app", "helix_operator", "helix_recorder", "helix_readonly"]
CHANGES = [
    ("llm_token_usage", "cost_usd", "0"),
    ("llm_token_usage", "input_tokens", "0"),
    ("llm_token_usage", "model", "'another'"),
    ("llm_token_usage", "user_id", "gen_random_uuid()"),
    ("llm_token_usage", "pricing_id", "gen_random_uuid()"),
    ("llm_token_usage", "timestamp", "now() - interval '1 day'"),
    ("tool_audit_log", "allowed", "true"),
    ("tool_audit_log", "reason", "'it was fine'"),
    ("tool_audit_log", "parameters", "NULL"),
    ("tool_audit_log", "result", "'{}'"),
    ("tool_audit_log", "user_id", "gen_random_uuid()"),
]


@pytest.mark.parametrize(("table", "column", "value"), CHANGES)
async def test_no_recorded_value_can_be_rewritten(
    conn: Connection, table: str, column: str, value: str
) -> None:
    row = await GUARDED[table](conn)
    async with refused(conn, asyncpg.RestrictViolationError, match="append-only"):
        await conn.execute(f"UPDATE {table} SET {column} = {value} WHERE id = $1", row["id"])


@pytest.mark.parametrize("table", GUARDED)
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "TRUNCATE {} CASCADE"])
async def test_recorded_rows_are_not_removed_one_by_one_even_by_the_owner(
    conn: Connection, table: str, statement: str
) -> None:
    await GUARDED[table](conn)
    async with refused(conn, asyncpg.RestrictViolationError, match="append-only"):
        await conn.execute(statement.format(table))


@pytest.mark.parametrize("table", GUARDED)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET agent_id = 'x'", "DELETE FROM {}", "TRUNCATE {}"]
)
async def test_no_role_may_even_try(
    conn: Connection, role: str, table: str, statement: str
) -> None:
    await GUARDED[table](conn)
    await conn.execute(f"SET LOCAL ROLE {role}")
    async with refused(conn, asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await conn.execute(statement.format(table))


@pytest.mark.parametrize("table", GUARDED)
async def test_a_row_in_a_month_is_guarded_like_the_table(conn: Connection, table: str) -> None:
    row = await GUARDED[table](conn)
    partition = await conn.fetchval(
        f"SELECT tableoid::regclass::text FROM {table} WHERE id = $1", row["id"]
    )
    assert partition != f"{table}_default"
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(f"DELETE FROM {partition}")
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(f"UPDATE {partition} SET agent_id = 'x'")


@pytest.mark.parametrize("table", GUARDED)
@pytest.mark.parametrize("column", ["user_id", "api_key_id", "project_id"])
async def test_a_reference_may_only_let_go(conn: Connection, table: str, column: str) -> None:
    user = await make_user(conn)
    parents = {
        "user_id": user["id"],
        "api_key_id": (await make_api_key(conn, user_id=user["id"]))["id"],
        "project_id": (await make_project(conn, user_id=user["id"]))["id"],
    }
    row = await GUARDED[table](conn, **parents)  # type: ignore[call-arg]
    await conn.execute(f"UPDATE {table} SET {column} = NULL WHERE id = $1", row["id"])
    left = await conn.fetchrow(f"SELECT * FROM {table} WHERE id = $1", row["id"])
    assert dict(left) == {**dict(row), column: None}
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(
            f"UPDATE {table} SET {column} = $2 WHERE id = $1", row["id"], parents[column]
        )


async def test_erasure_takes_the_content_of_a_tool_call_and_nothing_else(conn: Connection) -> None:
    row = await make_tool_audit(conn, result={"exit": 0})
    await conn.execute("SET LOCAL helix.erasure = 'on'")
    await conn.execute(
        "UPDATE tool_audit_log SET parameters = NULL, result = NULL WHERE id = $1", row["id"]
    )
    left = await conn.fetchrow("SELECT * FROM tool_audit_log WHERE id = $1", row["id"])
    assert dict(left) == {**dict(row), "parameters": None, "result": None}
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute("UPDATE tool_audit_log SET reason = NULL, allowed = true")
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute("UPDATE tool_audit_log SET parameters = '{}'")
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute("DELETE FROM tool_audit_log")


async def test_erasure_does_not_touch_the_ledger(conn: Connection) -> None:
    usage = await make_usage(conn)
    await conn.execute("SET LOCAL helix.erasure = 'on'")
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(
            "UPDATE llm_token_usage SET agent_id = NULL, cost_usd = 0 WHERE id = $1", usage["id"]
        )


# ---- event streams -------------------------------------------------------------------------------


async def test_events_of_a_conversation_are_numbered_without_gaps(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    numbers = [(await make_event(conn, conversation))["sequence_number"] for _ in range(3)]
    assert numbers == [1, 2, 3]
    async with refused(conn, asyncpg.CheckViolationError, constraint="conversation_events_gapless"):
        await make_event(conn, conversation, sequence_number=5)
    async with refused(conn, asyncpg.UniqueViolationError):
        await make_event(conn, conversation, sequence_number=3)
    assert (await make_event(conn, conversation, sequence_number=4))["sequence_number"] == 4


async def test_a_number_that_was_rolled_back_is_given_again(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    undo = conn.transaction()
    await undo.start()
    assert (await make_event(conn, conversation))["sequence_number"] == 1
    await undo.rollback()
    assert (await make_event(conn, conversation))["sequence_number"] == 1


async def test_writers_of_one_conversation_queue_up(owner: Connection, database_url: str) -> None:
    conversation = await make_conversation(owner)

    async def write() -> None:
        conn = await connect(database_url)
        for _ in range(10):
            await make_event(conn, conversation)
        await conn.close()

    await asyncio.gather(*(write() for _ in range(4)))
    numbers = await owner.fetch("SELECT sequence_number FROM conversation_events ORDER BY 1")
    assert [row["sequence_number"] for row in numbers] == list(range(1, 41))
    head = "SELECT last_sequence FROM conversations WHERE id = $1"
    assert await owner.fetchval(head, conversation["id"]) == 40


async def test_the_first_event_makes_its_conversation(conn: Connection) -> None:
    user = await make_user(conn)
    identifier = await conn.fetchval("SELECT uuidv7()")
    await make_event(conn, {"id": identifier, "user_id": user["id"]})
    head = await conn.fetchrow("SELECT * FROM conversations WHERE id = $1", identifier)
    assert (head["user_id"], head["last_sequence"], head["status"]) == (user["id"], 1, "active")


async def test_nobody_adds_to_the_conversation_of_another(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    stranger = await make_user(conn)
    async with refused(conn, asyncpg.InsufficientPrivilegeError, match="another user"):
        await make_event(conn, conversation, user_id=stranger["id"])


@pytest.mark.parametrize(
    "change",
    [
        "event_data = '{}'",
        "sequence_number = 7",
        "event_type = 'message.deleted'",
        "tokens = 1",
        "session_id = NULL, tokens = 1",
    ],
)
async def test_an_event_is_never_rewritten(conn: Connection, change: str) -> None:
    event = await make_event(conn)
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(f"UPDATE conversation_events SET {change} WHERE id = $1", event["id"])


async def test_an_event_leaves_only_with_its_conversation(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    event = await make_event(conn, conversation)
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute("DELETE FROM conversation_events WHERE id = $1", event["id"])
    await conn.execute("DELETE FROM conversations WHERE id = $1", conversation["id"])
    found = "SELECT count(*) FROM conversation_events WHERE id = $1"
    assert await conn.fetchval(found, event["id"]) == 0


async def test_a_session_that_goes_lets_its_events_be(conn: Connection) -> None:
    session = await make_session(conn)
    conversation = await make_conversation(conn, user_id=session["user_id"])
    event = await make_event(conn, conversation, session_id=session["id"])
    await conn.execute("DELETE FROM user_sessions WHERE id = $1", session["id"])
    left = await conn.fetchrow("SELECT * FROM conversation_events WHERE id = $1", event["id"])
    assert dict(left) == {**dict(event), "session_id": None}


@pytest.mark.parametrize("column", ["last_sequence = 7", "user_id = gen_random_uuid()"])
async def test_the_head_of_a_conversation_is_not_edited_by_hand(
    conn: Connection, column: str
) -> None:
    conversation = await make_conversation(conn)
    async with refused(conn, asyncpg.RestrictViolationError):
        await conn.execute(f"UPDATE conversations SET {column} WHERE id = $1", conversation["id"])


async def test_pausing_and_resuming_a_conversation_are_events(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    for event_type, status in [
        ("conversation.paused", "paused"),
        ("message.added", "paused"),
        ("conversation.resumed", "active"),
    ]:
        await make_event(conn, conversation, event_type=event_type)
        found = "SELECT status FROM conversations WHERE id = $1"
        assert await conn.fetchval(found, conversation["id"]) == status


async def test_an_event_of_a_memory_may_be_emptied_and_not_rewritten(conn: Connection) -> None:
    event = await make_memory_event(conn, tags=["tea"])
    for change in ("content = 'Ada likes coffee'", "version = 9", "hlc = 0", "node_id = 'south'"):
        async with refused(conn, asyncpg.RestrictViolationError):
            await conn.execute(
                f"UPDATE distributed_memory_events SET {change} WHERE id = $1", event["id"]
            )
    async with refused(
        conn,
        asyncpg.CheckViolationError,
        constraint="distributed_memory_events_deleted_check",
    ):
        await conn.execute(
            "UPDATE distributed_memory_events SET redacted_at = now() WHERE id = $1", event["id"]
        )
    assert await conn.fetchval("SELECT redact_memory_events($1)", event["memory_id"]) == 1
    left = await conn.fetchrow("SELECT * FROM distributed_memory_events WHERE id = $1", event["id"])
    assert (left["content"], left["tags"], left["version"]) == (None, [], 1)
    assert left["redacted_at"] is not None


async def test_a_forgotten_memory_stays_forgotten(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    await conn.execute(
        "UPDATE distributed_memory SET content = NULL, deleted_at = now() WHERE id = $1",
        memory["id"],
    )
    async with refused(conn, asyncpg.RestrictViolationError, match="stays forgotten"):
        await conn.execute(
            "UPDATE distributed_memory SET content = 'back', deleted_at = NULL WHERE id = $1",
            memory["id"],
        )


async def test_a_tombstone_holds_no_text(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    async with refused(
        conn, asyncpg.CheckViolationError, constraint="distributed_memory_tombstone_check"
    ):
        await conn.execute(
            "UPDATE distributed_memory SET deleted_at = now() WHERE id = $1", memory["id"]
        )
