"""No tenant sees, changes, makes or refers to a row of another: every table, from the catalogue.

Each test first grants helix_app everything on its table, so that what is tried is the policy; that
the grants are narrower still is tested apart.
"""

import contextlib
import json
import re
from typing import Any

import asyncpg
import pytest

from helix.core.db import Connection, Database, PoolLimits, Role, connect
from tests.conftest import SCHEMA
from tests.operations.generate import insert_rows
from tests.schema.helpers import acting_as, refused
from tests.schema.tenants import A, B, Tenants

CREATE_TABLE = re.compile(r"^CREATE (?:UNLOGGED )?TABLE (\w+) \(", re.MULTILINE)
EXEMPTIONS = re.compile(r"^INSERT INTO rls_exempt_tables .*?\n(?=\S)", re.MULTILINE | re.DOTALL)
FILES = re.findall(r"^\\ir (\S+)", (SCHEMA / "all.sql").read_text(), re.MULTILINE)
TEXT = "\n".join((SCHEMA / file).read_text() for file in FILES)
EXEMPT = re.findall(r"^\s+\('(\w+)',", "".join(EXEMPTIONS.findall(TEXT)), re.MULTILINE)
TABLES = sorted(set(CREATE_TABLE.findall(TEXT)) - set(EXEMPT))
every_table = pytest.mark.parametrize("table", TABLES)
RLS = "row-level security"
NOT_SHOWN = {
    ("helix_readonly", "response_cache"),  # its key, a hash of what was asked, is not shown
    ("helix_readonly", "task_unique_keys"),  # machinery of the queue
}


async def grant_all(conn: Connection, table: str) -> None:
    await conn.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO helix_app")


def where(key: dict[str, Any]) -> str:
    """Return a condition that finds one row; keys are ids, dates and names of our own making."""
    return " AND ".join(f"{name}::text = '{value}'" for name, value in key.items())


async def touches_nothing(conn: Connection, statement: str) -> bool:
    """Whether a statement touches no row; being refused (by what a trigger may not do) counts."""
    try:
        async with conn.transaction():
            tag: str = await conn.execute(statement)
    except asyncpg.InsufficientPrivilegeError as exc:
        return "permission denied" in str(exc)
    return tag.endswith(" 0")


async def seen(conn: Connection, table: str, key: dict[str, Any]) -> int:
    found: int = await conn.fetchval(f"SELECT count(*) FROM {table} WHERE {where(key)}")
    return found


def a_column(tenants: Tenants, table: str) -> str:
    """Return a column that is not part of the key, or is when there is no other."""
    names = [column.name for column in tenants.shape.columns[table]]
    return next((name for name in names if name not in tenants.keys[table]), names[0])


async def test_every_table_with_row_level_security_is_tested_here(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relrowsecurity AND NOT relispartition ORDER BY relname"
    )
    assert [row["relname"] for row in rows] == TABLES


# ---- seeing --------------------------------------------------------------------------------------


@every_table
async def test_a_tenant_sees_its_row_and_not_that_of_another(
    both: Connection, tenants: Tenants, table: str
) -> None:
    await grant_all(both, table)
    for me, other in ((A, B), (B, A)):
        async with acting_as(both, "helix_app", tenant=tenants.users[me]):
            assert await seen(both, table, tenants.key(table, me)) == 1
            assert await seen(both, table, tenants.key(table, other)) == 0


@every_table
async def test_nobody_s_tenant_sees_and_changes_nothing(
    both: Connection, tenants: Tenants, table: str
) -> None:
    await grant_all(both, table)
    column = a_column(tenants, table)
    async with acting_as(both, "helix_app"):
        assert await both.fetchval(f"SELECT count(*) FROM {table}") == 0
        assert await touches_nothing(both, f"UPDATE {table} SET {column} = {column}")
        assert await touches_nothing(both, f"DELETE FROM {table}")
        async with refused(both, asyncpg.InsufficientPrivilegeError, match=RLS):
            await insert_rows(both, table, [tenants.spare(table, A)])


@every_table
async def test_operator_and_analytics_see_every_tenant(
    both: Connection, tenants: Tenants, table: str
) -> None:
    for role in ("helix_operator", "helix_readonly"):
        if (role, table) in NOT_SHOWN:
            continue
        async with acting_as(both, role):
            for tenant in (A, B):
                assert await seen(both, table, tenants.key(table, tenant)) == 1, role


@every_table
async def test_the_tenant_is_looked_up_once_a_statement(
    both: Connection, tenants: Tenants, table: str
) -> None:
    await grant_all(both, table)
    async with acting_as(both, "helix_app", tenant=tenants.users[A]):
        plan = json.loads(await both.fetchval(f"EXPLAIN (FORMAT JSON) SELECT * FROM {table}"))
    look_ups: list[str] = []

    def visit(node: dict[str, Any]) -> None:
        own = {name: value for name, value in node.items() if name != "Plans"}
        if "current_setting" in json.dumps(own) or "helix_tenant" in json.dumps(own):
            look_ups.append(node.get("Parent Relationship", ""))
        for child in node.get("Plans", []):
            visit(child)

    visit(plan[0]["Plan"])
    assert "InitPlan" in json.dumps(plan)
    assert set(look_ups) <= {"InitPlan"}, "evaluated per row"


# ---- changing ------------------------------------------------------------------------------------


@every_table
async def test_a_tenant_changes_and_deletes_no_row_of_another(
    both: Connection, tenants: Tenants, table: str
) -> None:
    await grant_all(both, table)
    column = a_column(tenants, table)
    key = where(tenants.key(table, B))
    async with acting_as(both, "helix_app", tenant=tenants.users[A]):
        assert await touches_nothing(both, f"UPDATE {table} SET {column} = {column} WHERE {key}")
        assert await touches_nothing(both, f"DELETE FROM {table} WHERE {key}")
    assert await seen(both, table, tenants.key(table, B)) == 1


@every_table
async def test_a_tenant_gives_no_row_away(both: Connection, tenants: Tenants, table: str) -> None:
    await grant_all(both, table)
    owner = {"users": "id", "debates": "created_by"}.get(table, "user_id")
    change = {owner: tenants.users[B]}
    if owner not in tenants.rows.made[table][A]:  # a tenant's by what it refers to
        _, change = tenants.references(table, B)[0]
    values = ", ".join(f"{name} = '{value}'" for name, value in change.items())
    statement = f"UPDATE {table} SET {values} WHERE " + where(tenants.key(table, A))
    async with (
        acting_as(both, "helix_app", tenant=tenants.users[A]),
        refused(both, (asyncpg.InsufficientPrivilegeError, asyncpg.RestrictViolationError)),
    ):
        await both.execute(statement)


# ---- making --------------------------------------------------------------------------------------


@every_table
async def test_a_tenant_makes_no_row_for_another(
    both: Connection, tenants: Tenants, table: str
) -> None:
    await grant_all(both, table)
    async with (
        acting_as(both, "helix_app", tenant=tenants.users[A]),
        refused(both, asyncpg.InsufficientPrivilegeError, match=RLS),
    ):
        await insert_rows(both, table, [tenants.spare(table, B)])


@every_table
async def test_a_tenant_makes_rows_of_its_own_where_it_may(
    both: Connection, tenants: Tenants, table: str
) -> None:
    row = tenants.spare(table, A)
    if table == "users":
        row["id"] = str(tenants.users[A])
    granted = {
        name: await both.fetchval(
            "SELECT has_column_privilege('helix_app', $1, $2, 'INSERT')", table, name
        )
        for name in row
    }
    mine = {name: value for name, value in row.items() if granted[name]}
    if not mine:
        await grant_all(both, table)
        mine = row
    async with acting_as(both, "helix_app", tenant=tenants.users[A]):
        with contextlib.suppress(asyncpg.UniqueViolationError):  # comes after the policy
            async with both.transaction():
                await insert_rows(both, table, [mine])


@every_table
async def test_a_tenant_refers_to_no_row_of_another(
    both: Connection, tenants: Tenants, table: str
) -> None:
    await grant_all(both, table)
    async with acting_as(both, "helix_app", tenant=tenants.users[A]):
        for parent, foreign in tenants.references(table, B):
            if parent in (*EXEMPT, "users") or "user_id" in foreign:
                continue  # an admin may cancel a project; a key with its owner is tried above
            async with refused(both, asyncpg.InsufficientPrivilegeError, match=RLS):
                await insert_rows(both, table, [tenants.spare(table, A, **foreign)])


async def test_an_event_belongs_to_the_owner_of_what_it_is_about(
    both: Connection, tenants: Tenants
) -> None:
    foreign = tenants.rows.made["distributed_memory"][B]["id"]
    event = tenants.spare("distributed_memory_events", A, memory_id=foreign)
    async with (
        acting_as(both, "helix_app", tenant=tenants.users[A]),
        refused(both, asyncpg.ForeignKeyViolationError),
    ):
        await insert_rows(both, "distributed_memory_events", [event])


# ---- the setting ---------------------------------------------------------------------------------


async def test_the_tenant_is_forgotten_with_its_transaction(
    settled: tuple[str, Tenants],
) -> None:
    url, tenants = settled
    conn = await connect(url, role=Role.APP)
    for ending in ("COMMIT", "ROLLBACK"):
        await conn.execute("BEGIN")
        await conn.execute("SELECT set_config('helix.tenant', $1, true)", str(tenants.users[A]))
        assert await conn.fetchval("SELECT count(*) FROM projects") == 1
        await conn.execute(ending)
        assert await conn.fetchval("SELECT count(*) FROM projects") == 0
    await conn.close()


async def test_a_pooled_connection_brings_no_tenant_along(settled: tuple[str, Tenants]) -> None:
    url, tenants = settled
    database = Database(url, {Role.APP: PoolLimits(kept=1, maximum=1)})
    backends = set()
    counts = []
    for tenant in (tenants.users[A], None, tenants.users[B], None):
        async with database.transaction(Role.APP, tenant=tenant) as conn:
            backends.add(await conn.fetchval("SELECT pg_backend_pid()"))
            counts.append(await conn.fetchval("SELECT count(*) FROM projects"))
    await database.close()
    assert (counts, len(backends)) == ([1, 0, 1, 0], 1)


async def test_no_partition_is_a_way_around_the_policy(both: Connection) -> None:
    partitions = [
        row["relname"]
        for row in await both.fetch(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
        )
    ]
    assert len(partitions) > 80
    for role in ("helix_app", "helix_operator", "helix_readonly", "helix_recorder"):
        reachable = await both.fetch(
            "SELECT name FROM unnest($2::text[]) AS name "
            "WHERE has_table_privilege($1, name, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') "
            "OR has_any_column_privilege($1, name, 'SELECT, INSERT, UPDATE')",
            role,
            partitions,
        )
        assert [row["name"] for row in reachable] == []


async def test_what_is_shared_is_seen_by_every_tenant_and_written_by_none(
    both: Connection, tenants: Tenants
) -> None:
    shared = [
        "conversation_flow_patterns",
        "cross_session_patterns",
        "knowledge_accumulation",
        "learned_insights",
        "learning_statistics",
        "rag_knowledge",
    ]
    for table in shared:
        row = tenants.spare(table, A, user_id=None)
        row.update({"examples": []} if "examples" in row else {}, project_id=None)
        row = {name: value for name, value in row.items() if name in tenants.spare(table, A)}
        await insert_rows(both, table, [row])
        key = {"id": row["id"]}
        async with acting_as(both, "helix_app", tenant=tenants.users[A]):
            assert await seen(both, table, key) == 1
            assert await both.execute(f"DELETE FROM {table} WHERE {where(key)}") == "DELETE 0"
            async with refused(both, asyncpg.InsufficientPrivilegeError, match=RLS):
                await insert_rows(both, table, [{**row, "id": str(tenants.users[A])}])
        async with acting_as(both, "helix_app"):
            assert await seen(both, table, key) == 0
