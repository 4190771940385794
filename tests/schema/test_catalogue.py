"""Rules that hold for every object of the schema, whoever adds the next one.

Each reads the catalogue of a live database, so that it looks at what is there and not at what a
file says. Where a rule has exceptions they are listed with their reason, and a list may not name
what no longer needs it.
"""

import re
from typing import Any

import pytest

from helix.core.db import Connection
from tests.conftest import SCHEMA

ROLES = ["helix_app", "helix_operator", "helix_readonly", "helix_recorder"]

# Relations of the schema: not those of extensions, not the migrator's own list of revisions.
RELATIONS = """
    SELECT c.* FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname <> 'helix_migrations'
      AND NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
FUNCTIONS = """
    SELECT f.* FROM pg_proc AS f
    WHERE f.pronamespace = 'public'::regnamespace
      AND NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
"""

# Rows of these are written once: nobody who works for a tenant or for the operator rewrites them.
RECORDS = [
    "archived_projects",
    "audit_log",
    "cancelled_projects",
    "conversation_events",
    "error_log",
    "llm_responses",
    "llm_token_usage",
    "prompt_test_results",
    "tool_audit_log",
]
# Rows of these go with the task they are about, and are otherwise not touched.
TASK_RECORDS = ["task_events", "task_execution_history"]

SEED_TABLES = """
    users user_sessions api_keys llm_providers provider_configs llm_models llm_benchmarks
    llm_requests llm_responses llm_pricing llm_token_usage prompts prompt_test_results
    agent_permissions tool_audit_log github_credentials error_log error_log_summary projects
    project_state cancelled_projects archived_projects rag_knowledge background_tasks task_events
    task_execution_history dead_letter_queue debates debate_rounds debate_arguments debate_votes
    code_versions memories memory_entities memory_relations distributed_memory mcp_servers
    mcp_tools acp_agents lsp_servers clickhouse_analytics streaming_analytics
""".split()

BIG_DATA_TABLES = """
    conversation_events conversation_compressions conversation_snapshots conversation_replay_stats
    distributed_memory_events memory_snapshots memory_conflicts memory_nodes
    memory_event_checkpoints cross_session_patterns learned_insights user_preferences
    entity_cooccurrences debate_strategy_success conversation_flow_patterns
    knowledge_accumulation learning_statistics
""".split()

MATVIEWS = """
    mv_provider_performance mv_mcp_server_health mv_request_analytics_hourly
    mv_session_stats_daily mv_task_statistics mv_model_capabilities mv_protocol_metrics_agg
    mv_recent_conversation_activity mv_provider_performance_summary mv_daily_stats
""".split()

NAMED_FUNCTIONS = """
    get_latest_snapshot get_conversation_events_for_replay get_compression_stats
    cleanup_expired_cache get_memory_event_history get_events_since rebuild_memory_from_events
    get_conflict_stats get_top_patterns get_user_preferences_summary
    get_entity_cooccurrence_network get_best_debate_strategies get_learning_progress
    refresh_streaming_analytics_views get_conversation_summary refresh_all_materialized_views
    refresh_critical_views get_materialized_view_stats dequeue_background_task get_stale_tasks
    cleanup_expired_debate_logs
""".split()

PARTITIONED_BY_MONTH = """
    audit_log background_tasks clickhouse_analytics distributed_memory_events error_log
    llm_request_bodies llm_requests llm_response_bodies llm_responses llm_token_usage
    protocol_metrics streaming_analytics task_events task_execution_history tool_audit_log
""".split()

# Columns whose name or comment speaks of a secret, and that are none.
NO_SECRETS = {
    "acp_agents.key_id": "names an encryption key, is none",
    "archive_files.sha256": "of a file that is encrypted",
    "background_tasks.fencing_token": "a counter",
    "code_versions.version_hash": "a git commit",
    "error_log.technical_detail": "its comment says that secrets are removed",
    "tool_audit_log.parameters": "its comment says that secrets are removed",
    "distributed_memory.shard_key": "says where a row lives",
    "rag_knowledge.source_hash": "of a document's bytes, to know it again",
    "vector_documents.token_count": "a size",
    "github_credentials.key_id": "names an encryption key, is none",
    "github_credentials.token_expires_at": "a time",
    "llm_models.cost_per_token": "a price",
    "llm_providers.config": "its comment says that it holds none",
    "llm_responses.first_token_ms": "a duration",
    "llm_routes.first_token_ms": "a duration",
    "mcp_servers.config": "its comment says that it holds none",
    "mcp_servers.key_id": "names an encryption key, is none",
    "provider_configs.key": "the name of a setting",
    "memory_peers.key_id": "names an encryption key, is none",
    "provider_configs.key_id": "names an encryption key, is none",
    "task_execution_history.fencing_token": "a counter",
    "users.last_login": "a time",
}

# Foreign keys without an index that begins with their columns.
UNINDEXED_REFERENCES = {
    "conversation_events_conversation_id_user_id_fkey": "found by conversation_id alone",
    "conversation_turns_conversation_id_user_id_fkey": "found by conversation_id alone",
    "distributed_memory_events_memory_id_user_id_fkey": "found by memory_id alone",
    "memory_embeddings_embedding_config_id_dimension_fkey": "found by embedding_config_id alone",
    "llm_responses_pricing_id_fkey": "a price in force is never deleted",
    "llm_token_usage_pricing_id_fkey": "a price in force is never deleted",
}


async def column(conn: Connection, query: str, *values: object) -> list[Any]:
    """Return the first column of a query."""
    return [row[0] for row in await conn.fetch(query, *values)]


# ---- what there is -------------------------------------------------------------------------------


async def test_every_table_of_the_seeds_exists_as_a_table(conn: Connection) -> None:
    found = await column(
        conn,
        f"SELECT relname FROM ({RELATIONS}) AS c "
        "WHERE relkind IN ('r', 'p') AND NOT relispartition",
    )
    assert set(SEED_TABLES) - set(found) == set()
    assert set(BIG_DATA_TABLES) - set(found) == set()
    assert (len(set(SEED_TABLES)), len(set(BIG_DATA_TABLES))) == (42, 17)


async def test_there_are_exactly_the_ten_materialized_views(conn: Connection) -> None:
    found = await column(conn, f"SELECT relname FROM ({RELATIONS}) AS c WHERE relkind = 'm'")
    assert sorted(found) == sorted(MATVIEWS)
    assert len(found) == 10


async def test_there_are_more_than_a_hundred_indexes_without_those_of_partitions(
    conn: Connection,
) -> None:
    found = await column(
        conn,
        f"SELECT relname FROM ({RELATIONS}) AS c "
        "WHERE relkind IN ('i', 'I') AND NOT relispartition",
    )
    assert len(found) > 300


async def test_every_function_the_documents_name_exists(conn: Connection) -> None:
    found = await column(conn, f"SELECT proname FROM ({FUNCTIONS}) AS f")
    assert set(NAMED_FUNCTIONS) - set(found) == set()
    assert len(set(NAMED_FUNCTIONS)) == 21


async def test_the_only_required_extension_is_vector(conn: Connection) -> None:
    assert sorted(await column(conn, "SELECT extname FROM pg_extension")) == ["plpgsql", "vector"]


# ---- comments and names --------------------------------------------------------------------------


async def test_every_table_and_view_has_a_comment(conn: Connection) -> None:
    bare = await column(
        conn,
        f"SELECT relname FROM ({RELATIONS}) AS c WHERE relkind IN ('r', 'p', 'v', 'm') "
        "AND NOT relispartition AND coalesce(obj_description(oid, 'pg_class'), '') = ''",
    )
    assert bare == []


async def test_every_function_and_enum_has_a_comment(conn: Connection) -> None:
    bare = await column(
        conn,
        f"SELECT oid::regprocedure::text FROM ({FUNCTIONS}) AS f "
        "WHERE coalesce(obj_description(oid, 'pg_proc'), '') = '' UNION ALL "
        "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace "
        "AND typtype = 'e' AND coalesce(obj_description(oid, 'pg_type'), '') = ''",
    )
    assert bare == []


def test_no_name_in_the_schema_files_is_longer_than_the_server_keeps() -> None:
    for path in SCHEMA.glob("*.sql"):
        assert re.findall(r"\b[a-z_][a-z0-9_]{63,}\b", path.read_text()) == [], path.name


async def test_every_name_fits_into_63_bytes(conn: Connection) -> None:
    longest = await conn.fetchval(
        f"SELECT max(octet_length(relname)) FROM ({RELATIONS}) AS c WHERE NOT relispartition"
    )
    assert longest <= 63


async def test_times_have_a_time_zone_and_money_is_never_a_float(conn: Connection) -> None:
    wrong = await column(
        conn,
        "SELECT c.relname || '.' || a.attname FROM pg_attribute AS a "
        f"JOIN ({RELATIONS}) AS c ON c.oid = a.attrelid "
        "WHERE a.attnum > 0 AND c.relkind IN ('r', 'p', 'm', 'v') "
        "AND (a.atttypid IN ('timestamp'::regtype, 'timetz'::regtype, 'money'::regtype) "
        "OR a.attname ~ '(cost|usd|price|amount)' "
        "AND a.atttypid IN ('real'::regtype, 'float8'::regtype))",
    )
    assert wrong == []


# ---- indexes -------------------------------------------------------------------------------------


async def test_no_index_is_invalid(conn: Connection) -> None:
    broken = await column(
        conn,
        "SELECT indexrelid::regclass::text FROM pg_index AS x "
        f"JOIN ({RELATIONS}) AS c ON c.oid = x.indexrelid "
        "WHERE NOT (x.indisvalid AND x.indisready AND x.indislive)",
    )
    assert broken == []


async def test_no_two_indexes_of_a_table_are_the_same(conn: Connection) -> None:
    twice = await column(
        conn,
        "SELECT array_agg(x.indexrelid::regclass::text ORDER BY 1) FROM pg_index AS x "
        f"JOIN ({RELATIONS}) AS c ON c.oid = x.indexrelid "
        "JOIN pg_class AS t ON t.oid = x.indrelid WHERE NOT t.relispartition "
        "GROUP BY x.indrelid, c.relam, x.indkey::text, x.indclass::text, x.indcollation::text, "
        "x.indoption::text, x.indnkeyatts, coalesce(pg_get_expr(x.indpred, x.indrelid), ''), "
        "coalesce(pg_get_expr(x.indexprs, x.indrelid), '') HAVING count(*) > 1",
    )
    assert twice == []


async def unindexed_references(conn: Connection) -> set[str]:
    """Return the foreign keys that no index finds the referring rows of."""
    return set(
        await column(
            conn,
            """
            SELECT k.conname FROM pg_constraint AS k
            WHERE k.contype = 'f' AND k.conparentid = 0 AND k.connamespace = 'public'::regnamespace
              AND NOT EXISTS (
                SELECT FROM pg_index AS x
                WHERE x.indrelid = k.conrelid AND x.indisvalid
                  AND k.conkey @> (x.indkey::int2[])[0:cardinality(k.conkey) - 1]
                  AND k.conkey <@ (x.indkey::int2[])[0:cardinality(k.conkey) - 1]
                  AND (x.indpred IS NULL OR pg_get_expr(x.indpred, x.indrelid) IN (
                      SELECT format('(%I IS NOT NULL)', a.attname) FROM pg_attribute AS a
                      WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))))
            """,
        )
    )


async def test_every_foreign_key_is_indexed_where_it_refers_from(conn: Connection) -> None:
    assert await unindexed_references(conn) == set(UNINDEXED_REFERENCES)


async def test_every_table_of_tenants_is_indexed_by_its_tenant(conn: Connection) -> None:
    rows = await conn.fetch(
        f"""
        SELECT c.relname AS name, EXISTS (
            SELECT FROM pg_index AS x WHERE x.indrelid = c.oid AND x.indkey[0] = a.attnum
              AND (x.indpred IS NULL OR pg_get_expr(x.indpred, c.oid)
                   IN (format('(%I IS NOT NULL)', a.attname), '(deleted_at IS NULL)'))) AS indexed
        FROM ({RELATIONS}) AS c JOIN pg_policy AS p ON p.polrelid = c.oid
        JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE p.polname = c.relname || '_tenant'
          AND starts_with(pg_get_expr(p.polqual, c.oid), format('(%s = ( SELECT ', a.attname))
        """
    )
    assert [row["name"] for row in rows if not row["indexed"]] == []
    assert len(rows) > 45


async def test_every_materialized_view_can_be_refreshed_concurrently(conn: Connection) -> None:
    fit = await column(
        conn,
        f"SELECT c.relname FROM ({RELATIONS}) AS c WHERE c.relkind = 'm' AND EXISTS ("
        "SELECT FROM pg_index AS x WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid "
        "AND x.indpred IS NULL AND x.indexprs IS NULL)",
    )
    assert sorted(fit) == sorted(MATVIEWS)


# ---- triggers and partitions ---------------------------------------------------------------------


async def test_every_table_with_updated_at_has_the_trigger_that_keeps_it(conn: Connection) -> None:
    with_column = await column(
        conn,
        f"SELECT c.relname FROM ({RELATIONS}) AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
        "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attname = 'updated_at'",
    )
    with_trigger = await column(
        conn,
        f"SELECT c.relname FROM ({RELATIONS}) AS c JOIN pg_trigger AS g ON g.tgrelid = c.oid "
        "WHERE g.tgfoid = 'helix_set_updated_at()'::regprocedure AND g.tgenabled = 'O' "
        "AND g.tgtype & 19 = 19 AND g.tgname = c.relname || '_set_updated_at'",
    )
    assert len(with_column) > 25
    assert sorted(with_column) == sorted(with_trigger)


async def test_every_big_table_is_cut_by_month_and_never_lacks_a_place_for_a_row(
    conn: Connection,
) -> None:
    rows = await conn.fetch(
        "SELECT c.relname, p.partdefid::regclass::text AS default_partition, "
        "(SELECT count(*) FROM pg_inherits AS i WHERE i.inhparent = c.oid) AS partitions "
        "FROM pg_partitioned_table AS p JOIN pg_class AS c ON c.oid = p.partrelid "
        "WHERE p.partstrat = 'r' ORDER BY c.relname"
    )
    assert [row["relname"] for row in rows] == PARTITIONED_BY_MONTH
    for row in rows:
        assert row["default_partition"] == f"{row['relname']}_default"
        assert row["partitions"] == 6, "the month before, this one, three ahead, and the default"


# ---- who may do what -----------------------------------------------------------------------------


async def test_every_table_has_a_tenant_policy_or_a_reason_not_to(conn: Connection) -> None:
    tables = await conn.fetch(
        f"SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, EXISTS ("
        "SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid "
        "AND 'helix_app'::regrole = ANY (p.polroles) AND p.polcmd = '*' AND p.polpermissive "
        f"AND p.polname = c.relname || '_tenant') AS has_policy FROM ({RELATIONS}) AS c "
        "WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition"
    )
    exempt = set(await column(conn, "SELECT table_name FROM rls_exempt_tables"))
    there = {row["relname"] for row in tables} | {"helix_migrations"}
    assert exempt - there == set(), "exempt, but not there"
    for row in tables:
        expected = row["relname"] not in exempt
        found = (row["relrowsecurity"], row["relforcerowsecurity"], row["has_policy"])
        assert found == (expected,) * 3, row["relname"]
    assert len(tables) - len(exempt) > 55


async def test_no_policy_lets_anyone_but_the_four_roles_in(conn: Connection) -> None:
    named = await column(
        conn,
        "SELECT DISTINCT CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END "
        "FROM pg_policy, unnest(polroles) AS r",
    )
    assert sorted(named) == ROLES


async def test_no_table_lacks_a_decision_about_tenancy(conn: Connection) -> None:
    assert [dict(row) for row in await conn.fetch("SELECT * FROM rls_gaps")] == []


async def test_partitions_are_granted_to_nobody(conn: Connection) -> None:
    open_ones = await column(
        conn,
        "SELECT c.relname FROM pg_class AS c WHERE c.relispartition AND c.relkind IN ('r', 'p') "
        "AND (EXISTS (SELECT FROM aclexplode(c.relacl) AS g WHERE g.grantee <> c.relowner) "
        "OR EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid "
        "AND a.attacl IS NOT NULL))",
    )
    assert open_ones == []
    assert await conn.fetchval("SELECT count(*) FROM pg_class WHERE relispartition") > 80


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_owns_nothing_and_can_create_nothing(conn: Connection, role: str) -> None:
    row = await conn.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", role)
    rights = ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolcanlogin")
    assert [right for right in (*rights, "rolreplication") if row[right]] == []
    owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1::regrole AND deptype = 'o'"
    assert await conn.fetchval(owned, role) == 0
    member = "SELECT count(*) FROM pg_auth_members WHERE member = $1::regrole"
    assert await conn.fetchval(member, role) == 0
    may = "SELECT has_schema_privilege($1, 'public', 'CREATE')"
    assert await conn.fetchval(may, role) is False
    may = "SELECT has_database_privilege($1, current_database(), 'CREATE')"
    assert await conn.fetchval(may, role) is False


async def test_public_holds_no_right_on_any_table_or_view(conn: Connection) -> None:
    granted = await column(
        conn,
        f"SELECT c.relname FROM ({RELATIONS}) AS c, aclexplode(c.relacl) AS g WHERE g.grantee = 0 "
        f"UNION ALL SELECT c.relname FROM ({RELATIONS}) AS c "
        "JOIN pg_attribute AS a ON a.attrelid = c.oid, aclexplode(a.attacl) AS g "
        "WHERE g.grantee = 0",
    )
    assert granted == []


@pytest.mark.parametrize("table", RECORDS)
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_cannot_change_what_was_recorded(
    conn: Connection, role: str, table: str
) -> None:
    for right in ("UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES"):
        held = await conn.fetchval("SELECT has_table_privilege($1, $2, $3)", role, table, right)
        assert held is False, right
    if (role, table) == ("helix_recorder", "llm_responses"):
        return  # it says which candidate was chosen: see what the recorder holds exactly
    for right in ("UPDATE", "REFERENCES"):
        held = await conn.fetchval(
            "SELECT has_any_column_privilege($1, $2, $3)", role, table, right
        )
        assert held is False, right


@pytest.mark.parametrize("table", TASK_RECORDS)
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_cannot_rewrite_the_history_of_a_task(
    conn: Connection, role: str, table: str
) -> None:
    rights = "SELECT has_any_column_privilege($1, $2, 'UPDATE'), has_table_privilege($1, $2, $3)"
    for_all = "TRUNCATE" if role == "helix_operator" else "DELETE, TRUNCATE"
    assert list(await conn.fetchrow(rights, role, table, for_all)) == [False, False]


async def test_the_append_only_tables_are_the_ledger_and_the_audit(conn: Connection) -> None:
    guarded = await column(
        conn,
        "SELECT DISTINCT c.relname FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid "
        "WHERE g.tgfoid = 'helix_append_only()'::regprocedure AND NOT c.relispartition",
    )
    assert sorted(guarded) == ["audit_log", "llm_token_usage", "tool_audit_log"]


SECRETS = f"""
    SELECT c.oid AS table_id, a.attnum, c.relname || '.' || a.attname AS name
    FROM ({RELATIONS}) AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attname ~ '(^|_)(hash|token|password|secret|credentials?|ciphertext)(_|$)'
           OR col_description(c.oid, a.attnum)
              ~* '\\m(hash|sha-256|ciphertexts?|password|credentials?|secrets?|token)\\M'
           OR col_description(c.oid, a.attnum) ~ 'Never shown')
"""


async def test_analytics_can_read_no_hash_token_or_ciphertext(conn: Connection) -> None:
    suspects = await conn.fetch(
        f"SELECT name, has_column_privilege('helix_readonly', table_id, attnum, 'SELECT') AS shown "
        f"FROM ({SECRETS}) AS s"
    )
    assert {row["name"] for row in suspects if row["shown"]} - set(NO_SECRETS) == set()
    assert set(NO_SECRETS) - {row["name"] for row in suspects} == set(), "no longer suspect"
    hidden = sorted(row["name"] for row in suspects if not row["shown"])
    assert hidden == [
        "acp_agents.credentials",
        "api_keys.key_hash",
        "api_keys.previous_hash",
        "archive_files.sealed_key",
        "archive_keys.sealed_key",
        "audit_log.details",
        "audit_seals.head",
        "audit_seals.rows_digest",
        "audit_seals.seal",
        "crdt_versions.content_hash",
        "github_credentials.access_token",
        "github_credentials.refresh_token",
        "idempotency_keys.body_sha256",
        "mcp_servers.credentials",
        "memories.content_hash",
        "memory_peers.credentials",
        "provider_configs.value",
        "response_cache.key",
        "user_sessions.token_hash",
        "users.password_hash",
    ]


async def test_no_view_leads_around_what_its_reader_may_see(conn: Connection) -> None:
    not_invoker = await column(
        conn,
        f"SELECT relname FROM ({RELATIONS}) AS c WHERE relkind = 'v' "
        "AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)",
    )
    assert not_invoker == []
    leaking = await column(
        conn,
        f"SELECT DISTINCT v.relname || ' shows ' || s.name FROM ({SECRETS}) AS s "
        "JOIN pg_depend AS d ON d.refobjid = s.table_id AND d.refobjsubid = s.attnum "
        "AND d.classid = 'pg_rewrite'::regclass "
        "JOIN pg_rewrite AS r ON r.oid = d.objid JOIN pg_class AS v ON v.oid = r.ev_class "
        "WHERE v.relkind = 'm' AND s.name <> ALL ($1::text[])",
        list(NO_SECRETS),
    )
    assert leaking == []


async def test_a_function_with_its_owners_rights_pins_its_path_and_is_closed_to_the_public(
    conn: Connection,
) -> None:
    rows = await conn.fetch(
        "SELECT oid::regprocedure::text AS name, proconfig, "
        "EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) AS g "
        f"WHERE g.grantee = 0) AS public FROM ({FUNCTIONS}) AS f WHERE prosecdef"
    )
    pinned = ["search_path=pg_catalog, public, pg_temp"]
    assert sorted((row["name"], row["proconfig"], row["public"]) for row in rows) == [
        ("helix_apply_erasures(jsonb)", pinned, False),
        ("helix_erase_user(uuid)", pinned, False),
        ("knowledge_record_removed()", pinned, False),
        ("refresh_materialized_views(text[])", pinned, False),
    ]


async def test_the_recorder_holds_exactly_what_the_hot_path_needs(conn: Connection) -> None:
    rows = await conn.fetch(
        f"SELECT c.relname AS name, g.privilege_type AS right FROM ({RELATIONS}) AS c, "
        "aclexplode(c.relacl) AS g WHERE g.grantee = 'helix_recorder'::regrole UNION ALL "
        "SELECT c.relname, g.privilege_type || ' ' || string_agg(a.attname, ' ' "
        f"ORDER BY a.attname) FROM ({RELATIONS}) AS c JOIN pg_attribute AS a "
        "ON a.attrelid = c.oid, aclexplode(a.attacl) AS g "
        "WHERE g.grantee = 'helix_recorder'::regrole GROUP BY c.relname, g.privilege_type"
    )
    held: dict[str, set[str]] = {}
    for row in rows:
        held.setdefault(row["name"], set()).add(row["right"])
    assert held == {
        "api_keys": {"SELECT", "UPDATE last_used_at"},
        "budget_periods": {"SELECT", "INSERT", "UPDATE"},
        "budget_reservations": {"SELECT", "INSERT", "UPDATE", "DELETE"},
        "budgets": {"SELECT"},
        "call_holds": {"SELECT", "INSERT", "UPDATE", "DELETE"},
        "call_refusals": {"SELECT", "INSERT", "UPDATE"},
        "error_log": {"INSERT"},
        "idempotency_keys": {"SELECT", "INSERT", "UPDATE", "DELETE"},
        "llm_models": {"SELECT"},
        "llm_pricing": {"SELECT"},
        "llm_providers": {"SELECT"},
        "llm_request_bodies": {"INSERT"},
        "llm_requests": {
            "INSERT",
            "SELECT completed_at created_at id idempotency_key started_at status user_id",
            "UPDATE completed_at started_at status",
        },
        "llm_response_bodies": {"INSERT"},
        "llm_route_targets": {"SELECT"},
        "llm_routes": {"SELECT"},
        "llm_responses": {
            "INSERT",
            "SELECT confidence error_code id request_id selected",
            "UPDATE confidence selected",
        },
        "llm_token_usage": {"INSERT"},
        "projects": {"SELECT id status user_id"},
        "provider_configs": {"SELECT"},
        "rate_windows": {"SELECT", "INSERT", "UPDATE"},
        "response_cache": {"SELECT", "INSERT", "UPDATE", "DELETE"},
        "streaming_analytics": {"INSERT"},
        "user_sessions": {"SELECT expires_at id status user_id"},
        "users": {
            "SELECT email id is_active parallel_max rate_limit role status tokens_per_minute"
        },
    }
