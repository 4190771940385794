"""The schema belongs to an ordinary login as well as to a superuser: FORCEd policies and all."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest_asyncio

from helix.core.db import Connection, Role, connect
from helix.core.instance import LOGIN_NAME
from helix.core.sql import split_statements
from tests.conftest import SCHEMA, Server, drop_database, run_schema_files
from tests.factories import make_request, make_response, make_usage
from tests.schema.helpers import ROLES, acting_as, refused
from tests.schema.tenants import A, settle


@pytest_asyncio.fixture(loop_scope="session")
async def plain(server: Server) -> AsyncIterator[str]:
    """The URL of a database made from the schema files by a login that is no superuser."""
    login = f"plain_{uuid4().hex[:12]}"
    admin = await connect(server.url("postgres"))
    await admin.execute(f"CREATE ROLE {login} LOGIN NOSUPERUSER CREATEROLE")
    for role in ROLES:
        await admin.execute(f"GRANT {role} TO {login}")
    await admin.execute(f"CREATE DATABASE {login} OWNER {login} TEMPLATE template0")
    url = server.url(login).replace(f"//{LOGIN_NAME}@", f"//{login}@", 1)
    try:
        extension = await connect(server.url(login))
        await extension.execute("CREATE EXTENSION vector")
        await extension.close()
        await run_schema_files(url)
        yield url
    finally:
        await drop_database(server, login)
        await admin.execute(f"DROP ROLE {login}")
        await admin.close()


async def test_an_ordinary_login_can_own_the_schema(plain: str) -> None:
    conn = await connect(plain)
    assert (
        await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
    )
    tenants = await settle(conn)

    async with conn.transaction():  # rows of a missing month move, policies or not
        then = datetime.now(UTC) - timedelta(days=100)
        request = await make_request(conn, at=then)
        await make_response(conn, request)
        await make_usage(conn, at=then, user_id=tenants.users[A])
        await conn.execute("SELECT helix_create_partitions(5, 3)")
        for table in ("llm_requests", "llm_responses", "llm_token_usage"):
            assert await conn.fetchval(f"SELECT count(*) FROM {table}_default") == 0
            assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 3

    async with conn.transaction():  # refreshes and sums see every tenant
        async with acting_as(conn, "helix_operator"):
            rows = await conn.fetch("SELECT * FROM refresh_all_materialized_views()")
            assert [row["error_message"] for row in rows if not row["refreshed"]] == []
            calls = "SELECT sum(total_calls)::int FROM mv_daily_stats WHERE day > '2020-01-01'"
            assert await conn.fetchval(calls) == 3
        async with acting_as(conn, "helix_app", tenant=tenants.users[A]):
            assert await conn.fetchval("SELECT count(*) FROM projects") == 1
            async with refused(conn, asyncpg.InsufficientPrivilegeError):
                await conn.execute("TRUNCATE llm_token_usage")

    async with conn.transaction():  # guards hold, and deleting a user goes all the way
        async with refused(conn, asyncpg.RestrictViolationError):
            await conn.execute("DELETE FROM llm_token_usage")
        async with acting_as(conn, "helix_operator"):
            deleted = "DELETE FROM users WHERE id = $1"
            assert await conn.execute(deleted, tenants.users[A]) == "DELETE 1"
        assert await conn.fetchval("SELECT count(*) FROM llm_request_bodies") == 1
        assert await conn.fetchval("SELECT count(*) FROM llm_token_usage") == 3
    await conn.close()


async def test_a_connection_of_an_ordinary_login_can_act_as_every_role(plain: str) -> None:
    for role in Role:
        conn = await connect(plain, role=role)
        assert await conn.fetchval("SELECT current_user") == role.value
        await conn.close()


async def test_roles_that_a_superuser_made_before_are_taken_as_they_are(conn: Connection) -> None:
    login = f"modest_{uuid4().hex[:12]}"
    await conn.execute(f"CREATE ROLE {login} LOGIN NOSUPERUSER NOCREATEROLE")
    await conn.execute(f"GRANT {', '.join(ROLES)} TO {login}")
    statements = split_statements((SCHEMA / "roles_policies.sql").read_text())
    await conn.execute(f"SET LOCAL ROLE {login}")
    await conn.execute(next(text for text in statements if "CREATE ROLE" in text))


async def test_nobody_but_the_owner_creates_anything(owner: Connection) -> None:
    for role in ROLES:
        async with owner.transaction(), acting_as(owner, role):
            async with refused(owner, asyncpg.InsufficientPrivilegeError):
                await owner.execute("CREATE TABLE mine (id int)")
            async with refused(owner, asyncpg.InsufficientPrivilegeError):
                await owner.execute("CREATE FUNCTION public.now() RETURNS int RETURN 1")
            async with refused(owner, asyncpg.InsufficientPrivilegeError):
                await owner.execute("ALTER TABLE users DISABLE ROW LEVEL SECURITY")
            async with refused(owner, asyncpg.InsufficientPrivilegeError):
                await owner.execute("CREATE POLICY all_in ON users USING (true)")
