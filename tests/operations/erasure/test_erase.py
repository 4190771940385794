"""An erased user is found in no column of any table, nor in a copy that is restored later (B8).

The columns are those of the catalogue: a new table or column is covered when it appears.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from helix.accounts.errors import LastAdmin
from helix.core.audit import SYSTEM
from helix.core.db import Connection, Database, Role, connect
from helix.operations import erasure
from helix.operations.erasure.errors import UserBusy
from helix.operations.erasure.ledger import (
    Erasure,
    ErasuresUnreadable,
    add,
    apply,
    export,
    file_of,
    read,
)
from tests.conftest import Server, drop_database
from tests.factories import insert, make_knowledge, make_memory, make_request, make_user
from tests.schema.canary import CANARY, plant, traces
from tests.schema.tenants import A, B, settle

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
# What stays of a user, linked to nobody: programs, models and states in accounts and audit.
KEPT = {
    "llm_requests.model_name": "the model that was asked for",
    "llm_responses.model_name": "the model that answered",
    "llm_responses.provider_name": "the provider that answered",
    "llm_responses.error_code": "a code of ours",
    "llm_responses.finish_reason": "a word of the provider's API",
    "llm_token_usage.agent_id": "which program used it, for the accounts",
    "llm_token_usage.model": "the model, for the accounts",
    "llm_token_usage.provider_name": "the provider, for the accounts",
    "llm_usage_daily.agent_id": "a sum by program",
    "llm_usage_daily.model": "a sum by model",
    "llm_usage_daily.provider_name": "a sum by provider",
    "llm_usage_hourly.agent_id": "a sum by program",
    "llm_usage_hourly.model": "a sum by model",
    "llm_usage_hourly.provider_name": "a sum by provider",
    "llm_usage_monthly.agent_id": "a sum by program",
    "llm_usage_monthly.model": "a sum by model",
    "llm_usage_monthly.provider_name": "a sum by provider",
    "error_log.category": "an area of ours",
    "streaming_analytics.model_name": "the model, for the timing",
    "streaming_analytics.provider_name": "the provider, for the timing",
    "streaming_analytics.stream_id": "an id of ours",
    "tool_audit_log.agent_id": "which program acted",
    "tool_audit_log.agent_type": "what kind of program acted",
    "tool_audit_log.operation": "what it did",
    "tool_audit_log.tool_name": "by which tool",
}


async def erase_user(conn: Connection, user_id: UUID) -> dict[str, int]:
    done: dict[str, int] = await conn.fetchval("SELECT helix_erase_user($1)", user_id)
    return done


async def test_no_trace_of_an_erased_user_is_left_in_any_column(owner: Connection) -> None:
    tenants = await settle(owner)
    planted = await plant(owner, tenants, A)
    assert len(planted) > 180
    assert await traces(owner) == planted
    await erase_user(owner, tenants.users[A])
    await owner.execute("SELECT refresh_all_materialized_views()")
    left = await traces(owner)
    assert left - set(KEPT) == set()
    assert set(KEPT) - left == set(), "said to stay, and does not: the list is stale"


async def test_another_user_loses_nothing(owner: Connection) -> None:
    tenants = await settle(owner)
    planted = await plant(owner, tenants, B)
    await erase_user(owner, tenants.users[A])
    assert await traces(owner) == planted


async def test_a_shell_without_name_address_or_rights_is_left(owner: Connection) -> None:
    tenants = await settle(owner)
    user_id = tenants.users[A]
    await plant(owner, tenants, A)
    await erase_user(owner, user_id)
    shell = await owner.fetchrow(
        "SELECT email, username, name, password_hash, role, status, metadata, is_active "
        "FROM users WHERE id = $1",
        user_id,
    )
    assert dict(shell) == {
        "email": f"erased-{user_id}@invalid",
        "username": None,
        "name": None,
        "password_hash": "!",
        "role": "user",
        "status": "deleted",
        "metadata": {},
        "is_active": False,
    }


async def test_accounts_stay_and_name_nobody(owner: Connection) -> None:
    tenants = await settle(owner)
    tables = ("llm_requests", "llm_responses", "llm_token_usage", "tool_audit_log", "error_log")
    before = {table: await owner.fetchval(f"SELECT count(*) FROM {table}") for table in tables}
    cost = "SELECT sum(cost_usd) FROM llm_token_usage"
    spent = await owner.fetchval(cost)
    await erase_user(owner, tenants.users[A])
    for table in tables:
        assert await owner.fetchval(f"SELECT count(*) FROM {table}") == before[table], table
        mine = f"SELECT count(*) FROM {table} WHERE user_id = $1"
        assert await owner.fetchval(mine, tenants.users[A]) == 0, table
    assert await owner.fetchval(cost) == spent


async def test_erasing_twice_is_erasing_once(owner: Connection) -> None:
    tenants = await settle(owner)
    first = await erase_user(owner, tenants.users[A])
    assert sum(first.values()) > 40
    again = await erase_user(owner, tenants.users[A])
    assert again == {}
    assert await owner.fetchval("SELECT count(*) FROM erased_users") >= 1


async def test_a_restored_copy_is_cleansed_of_what_was_erased_since(
    owner: Connection, server: Server, database_url: str
) -> None:
    tenants = await settle(owner)
    await plant(owner, tenants, A)
    await owner.close()
    name = database_url.partition("?")[0].rpartition("/")[2]
    copy = f"{name}_copy"
    admin = await connect(server.url("postgres"))
    await admin.execute(f"CREATE DATABASE {copy} TEMPLATE {name} STRATEGY FILE_COPY")
    await admin.close()
    conn = await connect(server.url(copy))
    try:
        done = await apply(conn, [Erasure("user", tenants.users[A], tenants.users[A], NOW)])
        assert done == {"users": 1, "memories": 0, "documents": 0}
        assert await traces(conn) - set(KEPT) - {"mv_recent_conversation_activity"} == set()
        assert await apply(conn, [Erasure("user", tenants.users[A], None, NOW)]) == {
            "users": 0,
            "memories": 0,
            "documents": 0,
        }
    finally:
        await conn.close()
        await drop_database(server, copy)


async def test_what_was_forgotten_and_removed_is_erased_from_a_copy_too(
    owner: Connection, tmp_path: Path
) -> None:
    memory = await make_memory(owner)
    document = await make_knowledge(owner)
    await owner.execute(
        "SELECT forget_memories($1, ARRAY[$2::uuid])", memory["user_id"], memory["id"]
    )
    await owner.execute("DELETE FROM rag_knowledge WHERE id = $1", document["id"])
    path = file_of(tmp_path / "backups")
    assert await export(owner, path) == 2
    assert await export(owner, path) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    known = {(one.kind, one.id) for one in read(path)}
    assert known == {("memory", memory["id"]), ("document", document["id"])}
    # The copy: both are back, their tombstones are not.
    await owner.execute("TRUNCATE memory_tombstones, knowledge_tombstones")
    await insert(owner, "memories", **_plain(memory, "content_hash"))
    await insert(owner, "rag_knowledge", **_plain(document))
    done = await apply(owner, read(path))
    assert done == {"users": 0, "memories": 1, "documents": 1}
    assert await owner.fetchval("SELECT count(*) FROM memories") == 0
    assert await owner.fetchval("SELECT count(*) FROM rag_knowledge") == 0
    assert await owner.fetchval("SELECT count(*) FROM knowledge_tombstones") == 1


def _plain(row: Any, *without: str) -> dict[str, Any]:
    return {name: value for name, value in dict(row).items() if name not in without}


async def test_nodes_that_exchange_memories_are_told(owner: Connection) -> None:
    await owner.execute(
        "INSERT INTO memory_nodes (node_id, is_self, status) VALUES ('north', true, 'active')"
    )
    memory = await make_memory(owner, content=CANARY)
    told = "SELECT event_type, content FROM distributed_memory_events ORDER BY id"
    assert [row["event_type"] for row in await owner.fetch(told)] == ["created"]
    await erase_user(owner, memory["user_id"])
    events = await owner.fetch(told)
    assert [(e["event_type"], e["content"]) for e in events] == [
        ("created", None),
        ("deleted", None),
    ]
    assert await traces(owner) == set()


# ---- the verb ------------------------------------------------------------------------------------


async def test_the_account_is_closed_and_its_calls_end_before_it_is_erased(
    db: Database, owner: Connection, tmp_path: Path
) -> None:
    user = await make_user(owner)
    request = await make_request(owner, user_id=user["id"], status="running")

    async def erase(wait_s: float) -> erasure.Erased:
        async with db.connection(Role.OPERATOR) as conn:
            return await erasure.erase(
                conn, user_id=user["id"], backups=tmp_path, actor=SYSTEM, now=NOW, wait_s=wait_s
            )

    with pytest.raises(UserBusy, match="1 calls of"):
        await erase(0)
    status = "SELECT status FROM users WHERE id = $1"
    assert await owner.fetchval(status, user["id"]) == "deleted"
    assert read(file_of(tmp_path)) == []
    await owner.execute("UPDATE llm_requests SET status = 'failed' WHERE id = $1", request["id"])
    done = await erase(5)
    assert done.rows["llm_requests"] == 1
    assert [one.id for one in read(file_of(tmp_path))] == [user["id"]]
    audited = await owner.fetchrow("SELECT operation, subject_id, details FROM audit_log")
    assert (audited["operation"], audited["subject_id"]) == ("user.erased", user["id"])


async def test_the_last_administrator_is_not_erased(
    db: Database, owner: Connection, tmp_path: Path
) -> None:
    admin = await make_user(owner, role="admin")
    async with db.connection(Role.OPERATOR) as conn:
        with pytest.raises(LastAdmin):
            await erasure.erase(
                conn, user_id=admin["id"], backups=tmp_path, actor=SYSTEM, now=NOW, wait_s=0
            )
    assert await owner.fetchval("SELECT status FROM users WHERE id = $1", admin["id"]) == "active"


@pytest.mark.parametrize("role", ["helix_app", "helix_recorder", "helix_readonly"])
async def test_only_the_operator_erases(conn: Connection, role: str) -> None:
    await conn.execute(f"SET LOCAL ROLE {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await conn.execute("SELECT helix_erase_user($1)", uuid4())


# ---- the file beside the backups -----------------------------------------------------------------


def test_a_line_that_a_crash_cut_off_costs_itself_only(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    first, second = (Erasure("user", uuid4(), None, NOW) for _ in range(2))
    add(path, [first])
    with path.open("ab") as file:
        file.write(b'{"kind":"user","id":"01')
    assert read(path) == [first]
    add(path, [second])
    assert read(path) == [first, second]


def test_a_damaged_file_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    add(path, [Erasure("user", uuid4(), None, NOW) for _ in range(3)])
    text = path.read_bytes()
    path.write_bytes(text.replace(b'"user"', b'"us\xffr"', 1))
    with pytest.raises(ErasuresUnreadable, match="line 1"):
        read(path)
