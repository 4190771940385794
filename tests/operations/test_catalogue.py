"""`helix db check`: whatever is changed by hand in a database is found, and named."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from helix.core.db import Connection, connect
from helix.core.errors import Misuse
from helix.operations.catalogue import (
    Catalogue,
    differences,
    foreign_heads,
    read_catalogue,
    role_faults,
)
from helix.operations.check import catalogue_of, check, migrated_catalogue, schema_catalogue
from tests.conftest import Server, create_database, drop_database

CHANGES = {
    "column added": (
        "ALTER TABLE users ADD COLUMN shoe_size integer",
        "column users.shoe_size: is in this database, not in the migrations",
    ),
    "column dropped": (
        "ALTER TABLE projects DROP COLUMN current_stage CASCADE",
        "column projects.current_stage: is in the migrations, not in this database",
    ),
    "column type": (
        "ALTER TABLE prompt_test_results ALTER COLUMN evaluator TYPE text",
        (
            "column prompt_test_results.evaluator: type is `character varying(100)` in the "
            "migrations, `text`"
        ),
    ),
    "not null dropped": (
        "ALTER TABLE users ALTER COLUMN role DROP NOT NULL",
        "column users.role: null is `not null` in the migrations, `nullable` in this database",
    ),
    "default changed": (
        "ALTER TABLE api_keys ALTER COLUMN rate_limit SET DEFAULT 7",
        "column api_keys.rate_limit: default is `1000` in the migrations, `7` in this database",
    ),
    "default dropped": (
        "ALTER TABLE llm_requests ALTER COLUMN status DROP DEFAULT",
        "column llm_requests.status: default is",
    ),
    "generated column replaced by a plain one": (
        "ALTER TABLE users ALTER COLUMN is_active DROP EXPRESSION",
        "column users.is_active: generated is",
    ),
    "storage": (
        "ALTER TABLE llm_request_bodies ALTER COLUMN request_body SET STORAGE EXTERNAL",
        (
            "column llm_request_bodies.request_body: storage is `extended` in the "
            "migrations, `external`"
        ),
    ),
    "compression": (
        "ALTER TABLE rag_knowledge ALTER COLUMN content SET COMPRESSION pglz",
        "column rag_knowledge.content: compression is unset in the migrations, `pglz`",
    ),
    "statistics target": (
        "ALTER TABLE users ALTER COLUMN email SET STATISTICS 500",
        "column users.email: statistics target is unset in the migrations, `500`",
    ),
    "collation": (
        'ALTER TABLE prompt_test_results ALTER COLUMN evaluator TYPE varchar(100) COLLATE "C"',
        'column prompt_test_results.evaluator: collation is unset in the migrations, `"C"`',
    ),
    "column comment": (
        "COMMENT ON COLUMN users.status IS 'x'",
        "column users.status: comment is",
    ),
    "table comment": ("COMMENT ON TABLE users IS NULL", "table users: comment is"),
    "storage parameter": (
        "ALTER TABLE llm_providers SET (fillfactor = 50)",
        "table llm_providers: options is",
    ),
    "unlogged": (
        "ALTER TABLE agent_permissions SET UNLOGGED",
        "table agent_permissions: persistence is `permanent` in the migrations, `unlogged`",
    ),
    "replica identity": (
        "ALTER TABLE agent_permissions REPLICA IDENTITY FULL",
        "table agent_permissions: replica identity is `d` in the migrations, `f`",
    ),
    "check dropped": (
        "ALTER TABLE users DROP CONSTRAINT users_status_check",
        "CHECK users_status_check on users: is in the migrations, not in this database",
    ),
    "check changed": (
        (
            "ALTER TABLE api_keys DROP CONSTRAINT api_keys_key_hash_check,"
            " ADD CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) > 0)"
        ),
        "CHECK api_keys_key_hash_check on api_keys: definition is",
    ),
    "check not validated": (
        (
            "ALTER TABLE api_keys DROP CONSTRAINT api_keys_key_hash_check,"
            " ADD CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) = 32) NOT VALID"
        ),
        "CHECK api_keys_key_hash_check on api_keys: validated is yes in the migrations, no",
    ),
    "foreign key action": (
        (
            "ALTER TABLE llm_requests DROP CONSTRAINT llm_requests_user_id_fkey,"
            " ADD CONSTRAINT llm_requests_user_id_fkey FOREIGN KEY (user_id) REFERENCES "
            "users (id) ON DELETE CASCADE"
        ),
        "foreign key llm_requests_user_id_fkey on llm_requests: definition is",
    ),
    "foreign key switched off": (
        "ALTER TABLE api_keys DISABLE TRIGGER ALL",
        (
            "foreign key api_keys_user_id_fkey on api_keys: triggers is `enabled` in the "
            "migrations, `disabled`"
        ),
    ),
    "unique dropped": (
        "ALTER TABLE llm_pricing DROP CONSTRAINT llm_pricing_model_effective_date_key",
        (
            "unique constraint llm_pricing_model_effective_date_key on llm_pricing: is in "
            "the migrations"
        ),
    ),
    "index dropped": (
        "DROP INDEX idx_events_data",
        "index idx_events_data on conversation_events: is in the migrations, not in this database",
    ),
    "index columns": (
        "DROP INDEX idx_users_role; CREATE INDEX idx_users_role ON users (role, status)",
        "index idx_users_role on users: definition is",
    ),
    "index predicate": (
        (
            "DROP INDEX prompts_one_active_key;"
            " CREATE UNIQUE INDEX prompts_one_active_key ON prompts (agent_type) WHERE "
            "NOT is_active"
        ),
        "index prompts_one_active_key on prompts: predicate is `is_active` in the migrations,",
    ),
    "index invalid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_users_role'::regclass",
        "index idx_users_role on users: valid is yes in the migrations, no in this database",
    ),
    "enum value": (
        "ALTER TYPE task_status ADD VALUE 'lost'",
        "type task_status: values is",
    ),
    "enum value renamed": (
        "ALTER TYPE task_priority RENAME VALUE 'normal' TO 'usual'",
        "type task_priority: values is",
    ),
    "policy dropped": (
        "DROP POLICY users_tenant ON users",
        "policy users_tenant on users: is in the migrations, not in this database",
    ),
    "policy opened": (
        "ALTER POLICY memories_tenant ON memories USING (true)",
        "policy memories_tenant on memories: using is",
    ),
    "policy for another role": (
        "ALTER POLICY memories_operator ON memories TO helix_app",
        (
            "policy memories_operator on memories: roles is `helix_operator` in the "
            "migrations, `helix_app`"
        ),
    ),
    "row-level security off": (
        "ALTER TABLE memories DISABLE ROW LEVEL SECURITY",
        "table memories: row-level security is `on` in the migrations, `off` in this database",
    ),
    "row-level security not forced": (
        "ALTER TABLE memories NO FORCE ROW LEVEL SECURITY",
        (
            "table memories: row-level security for the owner is `forced` in the migrations, "
            "`not forced`"
        ),
    ),
    "function body": (
        (
            "CREATE OR REPLACE FUNCTION helix_tenant() RETURNS uuid LANGUAGE sql STABLE "
            "PARALLEL SAFE RETURN NULL::uuid"
        ),
        "function helix_tenant(): body is",
    ),
    "function volatility": (
        "ALTER FUNCTION uuid_month(uuid) VOLATILE",
        "function uuid_month(uuid): volatility is `immutable` in the migrations, `volatile`",
    ),
    "function security": (
        "ALTER FUNCTION helix_append_only() SECURITY DEFINER",
        "function helix_append_only(): security is `invoker` in the migrations, `definer`",
    ),
    "function settings": (
        "ALTER FUNCTION helix_append_only() SET search_path = public",
        "function helix_append_only(): settings is",
    ),
    "view": (
        "CREATE OR REPLACE VIEW cognee_entities AS SELECT e.* FROM cognee_entities_of() AS e",
        "view cognee_entities: definition is",
    ),
    "view without security_invoker": (
        "ALTER VIEW llm_calls RESET (security_invoker)",
        "view llm_calls: options is `security_invoker=true` in the migrations, unset",
    ),
    "view dropped": (
        "DROP VIEW acp_servers",
        "view acp_servers: is in the migrations, not in this database",
    ),
    "materialized view": (
        (
            "DROP MATERIALIZED VIEW mv_task_statistics;"
            " CREATE MATERIALIZED VIEW mv_task_statistics AS SELECT 1 AS one"
        ),
        "materialized view mv_task_statistics: definition is",
    ),
    "materialized view dropped": (
        "DROP MATERIALIZED VIEW mv_daily_stats",
        "materialized view mv_daily_stats: is in the migrations, not in this database",
    ),
    "trigger disabled": (
        "ALTER TABLE llm_pricing DISABLE TRIGGER llm_pricing_refuse_change",
        (
            "trigger llm_pricing_refuse_change on llm_pricing: state is `enabled` in the "
            "migrations, `disabled`"
        ),
    ),
    "trigger dropped": (
        "DROP TRIGGER users_set_updated_at ON users",
        "trigger users_set_updated_at on users: is in the migrations, not in this database",
    ),
    "rule": (
        "CREATE RULE quiet AS ON DELETE TO prompts DO INSTEAD NOTHING",
        "rule quiet on prompts: is in this database, not in the migrations",
    ),
    "table grant": (
        "GRANT DELETE ON tool_audit_log TO helix_app",
        "grant DELETE on tool_audit_log to helix_app: is in this database, not in the migrations",
    ),
    "table grant revoked": (
        "REVOKE SELECT ON llm_calls FROM helix_readonly",
        "grant SELECT on llm_calls to helix_readonly: is in the migrations, not in this database",
    ),
    "column grant": (
        "GRANT SELECT (password_hash) ON users TO helix_readonly",
        (
            "grant SELECT on users.password_hash to helix_readonly: is in this database, not "
            "in the migrations"
        ),
    ),
    "grant to everybody": (
        "GRANT SELECT ON users TO PUBLIC",
        "grant SELECT on users to public: is in this database, not in the migrations",
    ),
    "grant option": (
        "GRANT SELECT ON prompts TO helix_app WITH GRANT OPTION",
        "grant SELECT on prompts to helix_app: grant option is no in the migrations, yes",
    ),
    "function grant": (
        "GRANT EXECUTE ON FUNCTION helix_create_partitions(integer, integer) TO helix_app",
        (
            "grant EXECUTE on function helix_create_partitions(integer,integer) to "
            "helix_app: is in this"
        ),
    ),
    "schema grant": (
        "GRANT CREATE ON SCHEMA public TO helix_app",
        "grant CREATE on schema public to helix_app: is in this database, not in the migrations",
    ),
    "default grant": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO helix_app",
        "grant SELECT on future tables to helix_app: is in this database, not in the migrations",
    ),
    "default partition gone": (
        "DROP TABLE streaming_analytics_default",
        "table streaming_analytics_default: is in the migrations, not in this database",
    ),
    "partition grants": (
        "GRANT SELECT ON llm_token_usage_default TO helix_app",
        "grant SELECT on llm_token_usage_default to helix_app: is in this database",
    ),
    "owner": (
        "ALTER TABLE budgets OWNER TO helix_app",
        "table budgets: owner is `the owner` in the migrations, `helix_app` in this database",
    ),
    "statistics object": (
        "CREATE STATISTICS s_users ON role, status FROM users",
        "statistics s_users on users: is in this database, not in the migrations",
    ),
}


@pytest.fixture(scope="module")
def reference(server: Server) -> Catalogue:
    """The catalogue that the migrations make."""

    async def read() -> Catalogue:
        name = await create_database(server)
        try:
            return await catalogue_of(server.url(name))
        finally:
            await drop_database(server, name)

    return asyncio.run(read())


@pytest.fixture
async def changed(database_url: str) -> AsyncIterator[Connection]:
    conn = await connect(database_url)
    yield conn
    await conn.close()


@pytest.mark.parametrize("change", CHANGES)
async def test_change_by_hand_is_named(
    reference: Catalogue, changed: Connection, change: str
) -> None:
    statements, line = CHANGES[change]
    if change == "view":
        await changed.execute(
            "CREATE FUNCTION cognee_entities_of() RETURNS SETOF cognee_entities LANGUAGE sql "
            "AS 'SELECT NULL::cognee_entities LIMIT 0'"
        )
    await changed.execute(statements)
    found = differences(
        reference,
        await read_catalogue(changed),
        ("the migrations", "this database"),
        foreign_right=True,
    )
    assert any(str(difference).startswith(line) for difference in found), [*map(str, found)]


async def test_what_nobody_changed_is_equal(reference: Catalogue, changed: Connection) -> None:
    assert differences(reference, await read_catalogue(changed), ("a", "b")) == []


async def test_order_of_columns_and_partitions_of_months_do_not_count(
    reference: Catalogue, changed: Connection
) -> None:
    await changed.execute("ALTER TABLE error_log_summary ADD COLUMN extra integer")
    await changed.execute("ALTER TABLE error_log_summary DROP COLUMN extra")
    await changed.execute("SELECT helix_create_partitions(3, 6)")
    assert differences(reference, await read_catalogue(changed), ("a", "b")) == []


async def test_tables_of_another_program_are_listed_and_do_not_count(
    reference: Catalogue, changed: Connection
) -> None:
    await changed.execute(
        "CREATE TABLE guest (id serial PRIMARY KEY, user_id uuid REFERENCES users (id))"
    )
    await changed.execute("CREATE FUNCTION guess() RETURNS int LANGUAGE sql RETURN 1")
    live = await read_catalogue(changed)
    assert foreign_heads(reference, live) == [
        "function guess()",
        "sequence guest_id_seq",
        "table guest",
    ]
    assert differences(reference, live, ("a", "b"), foreign_right=True) == []


async def test_schema_files_and_migrations_make_the_same_catalogue(
    server: Server, reference: Catalogue
) -> None:
    files = await schema_catalogue(server.url("postgres"))
    found = differences(files, reference, ("sql/schema", "the migrations"))
    assert [str(difference) for difference in found] == []


async def test_check_is_clean_after_the_migrations_and_drops_its_databases(
    database_url: str, changed: Connection
) -> None:
    result = await check(database_url)
    assert (result.differences, result.foreign) == ((), ())
    assert result.compared > 5_000
    mine = f"helix_scratch_{os.getpid()}_%"
    left = await changed.fetch("SELECT FROM pg_database WHERE datname LIKE $1", mine)
    assert left == []


async def test_check_needs_the_right_to_create_databases(server: Server, database_url: str) -> None:
    admin = await connect(server.url("postgres"))
    await admin.execute("CREATE ROLE nobody_special LOGIN")
    try:
        with pytest.raises(Misuse, match="ALTER ROLE … CREATEDB"):
            await migrated_catalogue(database_url.replace("helix@", "nobody_special@", 1))
    finally:
        await admin.execute("DROP ROLE nobody_special")
        await admin.close()


async def test_roles_that_became_too_strong_are_named(conn: Connection) -> None:
    assert await role_faults(conn) == []
    await conn.execute("ALTER ROLE helix_readonly BYPASSRLS")
    assert [str(fault) for fault in await role_faults(conn)] == [
        "role helix_readonly: has BYPASSRLS"
    ]
