-- roles_policies.sql: who may do what (S113, S114, S141). Runs after every table and view exists.
--
-- Four roles without login. The program logs in as one user and does SET ROLE for each kind of work:
--   helix_app       a tenant's work: row-level security shows it one tenant, named by SET LOCAL helix.tenant; unset = nothing
--   helix_operator  the operator's CLI, maintenance, the admin API: all rows, but no DDL, and no change to audit and ledger rows
--   helix_readonly  analytics: all rows to read, but no column that holds a hash, a token or ciphertext
--   helix_recorder  the gateway's hot path: insert requests, answers, usage, errors, stream timings, and what key checks need
-- None owns anything, none bypasses row-level security, none may create anything here. Row-level security is the second wall behind the code:
-- it is FORCEd, so that it holds for the owner as well (who sees all rows only because he is a member of helix_operator).
--
-- Grants are spelled out table by table, so that a new table is closed until someone decides. Partitions get none at all: the only way
-- to a row leads through the parent, where the policies are. Deleting a user or project cascades as the owner of the tables and needs no grants.

-- ---------------------------------------------------------------------------------------------------------------------
-- Roles
-- ---------------------------------------------------------------------------------------------------------------------

-- Roles belong to the whole cluster: another Helix database may have made them already.
DO $body$
DECLARE
    name text;
    found record;
BEGIN
    FOREACH name IN ARRAY '{helix_app,helix_operator,helix_readonly,helix_recorder}'::text[] LOOP
        IF to_regrole(name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- somebody made it this moment
            END;
        END IF;
        SELECT r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb AS too_strong INTO found FROM pg_roles AS r WHERE r.rolname = name;
        IF found.too_strong THEN
            RAISE EXCEPTION 'role % exists and may bypass row-level security or create objects', name
                USING HINT = 'ALTER ROLE … NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB, then run again.';
        END IF;
        -- The login that runs this must be able to SET ROLE, and (as owner under FORCE) to see the rows policies let helix_operator see.
        IF NOT (SELECT EXISTS (SELECT FROM pg_auth_members AS m WHERE m.roleid = name::regrole AND m.member = current_user::regrole
                               AND NOT (to_jsonb(m) @> '{"inherit_option": false}' OR to_jsonb(m) @> '{"set_option": false}'))) THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER', name);
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'role % exists but % may not become a member of it', name, current_user
                    USING HINT = format('Have a superuser run: GRANT %I TO %I;', name, current_user);
            END;
        END IF;
    END LOOP;
END
$body$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO helix_app, helix_operator, helix_readonly, helix_recorder;

-- ---------------------------------------------------------------------------------------------------------------------
-- Row-level security
-- ---------------------------------------------------------------------------------------------------------------------

-- One row per table that has no row-level security, with the reason. Together with the policies it covers every table: rls_gaps is empty.
CREATE TABLE rls_exempt_tables (
    table_name varchar(63) NOT NULL,
    reason     text        NOT NULL,
    CONSTRAINT rls_exempt_tables_pkey PRIMARY KEY (table_name),
    CONSTRAINT rls_exempt_tables_reason_check CHECK (length(reason) > 10)
);
COMMENT ON TABLE rls_exempt_tables IS 'Tables without row-level security, each with its reason. Whatever is neither here nor under a policy shows up in rls_gaps.';

INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('llm_providers',          'shared registry, no tenant data; credentials are in provider_configs'),
    ('provider_configs',       'shared registry; only helix_operator and helix_recorder may read it'),
    ('llm_models',             'shared catalogue, no tenant data'),
    ('models_refresh_history', 'record of the catalogue sync, no tenant data'),
    ('llm_benchmarks',         'shared catalogue, no tenant data'),
    ('provider_health_hours',  'counts of probes and calls by provider, no tenant data'),
    ('provider_verifications', 'results of checks on shared providers, no tenant data'),
    ('llm_routes',             'shared registry, no tenant data'),
    ('llm_route_targets',      'shared registry, no tenant data'),
    ('llm_pricing',            'shared price list, no tenant data'),
    ('prompts',                'shared prompt versions; tenants read them, operators write them'),
    ('prompt_tests',           'shared definitions of prompt tests, no tenant data'),
    ('prompt_test_results',    'results of shared prompt tests, no tenant data'),
    ('agent_permissions',      'shared by all tenants; tenants read them, operators write them'),
    ('error_log_summary',      'counts by day, category and code, no tenant data; tenants may not read it'),
    ('mcp_servers',            'shared registry; the credentials column is not granted to tenants'),
    ('mcp_tools',              'shared registry, no tenant data'),
    ('acp_agents',             'shared registry; the credentials column is not granted to tenants'),
    ('lsp_servers',            'shared registry, no tenant data'),
    ('protocol_metrics',       'how calls to shared servers went, nothing of what was said'),
    ('protocol_cache',         'answers of shared registries, the same for all tenants'),
    ('embedding_config',       'shared catalogue of embedding models, no tenant data'),
    ('debate_strategy_success','counts over all tenants; tenants read them, the learning job writes them'),
    ('memory_nodes',           'the nodes of the installation, no tenant data'),
    ('memory_sync_status',     'positions between nodes, no tenant data'),
    ('memory_peers',           'other nodes and their keys; only operators read it'),
    ('projection_checkpoints', 'positions of the projections, no tenant data'),
    ('matview_refresh_state',  'state of the materialized views, no tenant data'),
    ('audit_log',              'what operators and administrators did; tenants may not read it'),
    ('audit_seals',            'seals of the audit tables; tenants may not read it'),
    ('erased_users',           'ids of erased users; tenants may not read it'),
    ('usage_rollup_floors',    'how far the sums of usage stand for themselves, no tenant data'),
    ('rls_exempt_tables',      'this list itself')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

-- Looks a row up with the rights and the tenant of the caller. Policies use it where a table refers to itself: a plain subquery there would be refused as a recursion.
CREATE FUNCTION helix_row_visible(target regclass, id uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public AS $body$
DECLARE
    visible boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.id = $1)', target) INTO visible USING id;
    RETURN visible;
END
$body$;
COMMENT ON FUNCTION helix_row_visible(regclass, uuid) IS 'Whether the caller can see the row of this table with this id.';

-- Policies, the same shape on every tenant table. The tenant's condition is given per table; (SELECT helix_tenant()) is evaluated once
-- a statement. What the tenant writes is checked further: a reference to another tenant table must point at a row the tenant can see, so that
-- neither a foreign row is linked nor its existence probed (foreign-key checks themselves do not look at row-level security). Foreign keys that
-- contain user_id need no such check. A policy sees the rows that were there when its statement began: insert a parent and its children in two statements.
DO $body$
DECLARE
    t record;
    reference record;
    check_condition text;
BEGIN
    FOR t IN SELECT * FROM (VALUES
        ('users',                      'id = (SELECT helix_tenant())', false, true),
        ('user_sessions',              'user_id = (SELECT helix_tenant())', false, true),
        ('api_keys',                   'user_id = (SELECT helix_tenant())', false, true),
        ('github_credentials',         'user_id = (SELECT helix_tenant())', false, false),
        ('projects',                   'user_id = (SELECT helix_tenant())', false, true),
        ('project_state',              'EXISTS (SELECT FROM projects AS parent WHERE parent.id = project_state.project_id)', false, false),
        ('cancelled_projects',         'user_id = (SELECT helix_tenant())', false, false),
        ('archived_projects',          'user_id = (SELECT helix_tenant())', false, false),
        ('llm_requests',               'user_id = (SELECT helix_tenant())', false, true),
        ('llm_request_bodies',         'user_id = (SELECT helix_tenant())', false, true),
        ('llm_responses',              'user_id = (SELECT helix_tenant())', false, true),
        ('llm_response_bodies',        'user_id = (SELECT helix_tenant())', false, true),
        ('llm_token_usage',            'user_id = (SELECT helix_tenant())', false, true),
        ('response_cache',             'user_id = (SELECT helix_tenant())', false, true),
        ('llm_usage_hourly',           'user_id = (SELECT helix_tenant())', false, false),
        ('llm_usage_daily',            'user_id = (SELECT helix_tenant())', false, false),
        ('llm_usage_monthly',          'user_id = (SELECT helix_tenant())', false, false),
        ('budgets',                    'user_id = (SELECT helix_tenant())', false, true),
        ('budget_periods',             'EXISTS (SELECT FROM budgets AS parent WHERE parent.id = budget_periods.budget_id)', false, true),
        ('budget_reservations',        'EXISTS (SELECT FROM budgets AS parent WHERE parent.id = budget_reservations.budget_id)', false, true),
        ('rate_windows',               'user_id = (SELECT helix_tenant())', false, true),
        ('call_holds',                 'EXISTS (SELECT FROM rate_windows AS parent WHERE parent.subject_id = call_holds.subject_id)', false, true),
        ('call_refusals',              'user_id = (SELECT helix_tenant())', false, true),
        ('idempotency_keys',           'user_id = (SELECT helix_tenant())', false, true),
        ('tool_audit_log',             'user_id = (SELECT helix_tenant())', false, false),
        ('error_log',                  'user_id = (SELECT helix_tenant())', false, true),
        ('background_tasks',           'user_id = (SELECT helix_tenant())', false, false),
        ('task_events',                'user_id = (SELECT helix_tenant())', false, false),
        ('task_execution_history',     'user_id = (SELECT helix_tenant())', false, false),
        ('dead_letter_queue',          'user_id = (SELECT helix_tenant())', false, false),
        ('task_resource_snapshots',    'EXISTS (SELECT FROM background_tasks AS parent WHERE parent.id = task_resource_snapshots.task_id)', false, false),
        ('webhook_deliveries',         'user_id = (SELECT helix_tenant())', false, false),
        ('debates',                    'created_by = (SELECT helix_tenant())', false, false),
        ('debate_rounds',              'EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_rounds.debate_id)', false, false),
        ('debate_arguments',           'EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_arguments.debate_id)', false, false),
        ('debate_votes',               'EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_votes.debate_id)', false, false),
        ('code_versions',              'EXISTS (SELECT FROM debates AS parent WHERE parent.id = code_versions.debate_id)', false, false),
        ('debate_events',              'EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_events.debate_id)', false, false),
        ('panels',                     'user_id = (SELECT helix_tenant())', true, false),
        ('memories',                   'user_id = (SELECT helix_tenant())', false, false),
        ('memory_entities',            'user_id = (SELECT helix_tenant())', false, false),
        ('memory_entity_mentions',     'user_id = (SELECT helix_tenant())', false, false),
        ('memory_relations',           'user_id = (SELECT helix_tenant())', false, false),
        ('memory_embeddings',          'user_id = (SELECT helix_tenant())', false, false),
        ('memory_search',              'user_id = (SELECT helix_tenant())', false, false),
        ('memory_uses',                'user_id = (SELECT helix_tenant())', false, false),
        ('memory_changes',             'user_id = (SELECT helix_tenant())', false, false),
        ('memory_tombstones',          'user_id = (SELECT helix_tenant())', false, false),
        ('rag_knowledge',              'user_id = (SELECT helix_tenant())', true, false),
        ('knowledge_tombstones',       'user_id = (SELECT helix_tenant())', false, false),
        ('vector_documents',           'user_id = (SELECT helix_tenant())', false, false),
        ('conversations',              'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_events',        'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_snapshots',     'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_compressions',  'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_replay_stats',  'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_turns',         'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_context_cache', 'user_id = (SELECT helix_tenant())', false, false),
        ('distributed_memory',         'user_id = (SELECT helix_tenant())', false, false),
        ('distributed_memory_events',  'user_id = (SELECT helix_tenant())', false, false),
        ('memory_snapshots',           'user_id = (SELECT helix_tenant())', false, false),
        ('memory_conflicts',           'user_id = (SELECT helix_tenant())', false, false),
        ('memory_event_checkpoints',   'user_id = (SELECT helix_tenant())', false, false),
        ('crdt_versions',              'user_id = (SELECT helix_tenant())', false, false),
        ('cross_session_patterns',     'user_id = (SELECT helix_tenant())', true, false),
        ('learned_insights',           'user_id = (SELECT helix_tenant())', true, false),
        ('user_preferences',           'user_id = (SELECT helix_tenant())', false, false),
        ('entity_cooccurrences',       'user_id = (SELECT helix_tenant())', false, false),
        ('conversation_flow_patterns', 'user_id = (SELECT helix_tenant())', true, false),
        ('knowledge_accumulation',     'user_id = (SELECT helix_tenant())', true, false),
        ('learning_statistics',        'user_id = (SELECT helix_tenant())', true, false),
        ('clickhouse_analytics',       'user_id = (SELECT helix_tenant())', false, false),
        ('streaming_analytics',        'user_id = (SELECT helix_tenant())', false, true)
        ) AS list (table_name, condition, shared, recorder)
    LOOP
        check_condition := t.condition;
        FOR reference IN
            SELECT a.attname AS column_name, f.relname AS target, k.attname AS target_column
            FROM pg_constraint AS c
            JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
            JOIN pg_class AS f ON f.oid = c.confrelid
            JOIN pg_attribute AS k ON k.attrelid = c.confrelid AND k.attnum = c.confkey[1]
            WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = format('public.%I', t.table_name)::regclass AND cardinality(c.conkey) = 1
              AND f.relname <> 'users'
              AND f.relname NOT IN (SELECT e.table_name FROM public.rls_exempt_tables AS e)
              AND t.condition NOT LIKE '%FROM ' || f.relname || ' %'
            ORDER BY a.attname
        LOOP
            check_condition := check_condition || CASE WHEN reference.target = t.table_name
                THEN format(' AND (%1$I IS NULL OR public.helix_row_visible(%2$L, %1$I))', reference.column_name, format('public.%I', t.table_name))
                ELSE format(' AND (%1$I IS NULL OR EXISTS (SELECT FROM public.%2$I AS target WHERE target.%3$I = %4$I.%1$I))',
                            reference.column_name, reference.target, reference.target_column, t.table_name) END;
        END LOOP;
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', t.table_name);
        EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', t.table_name);
        EXECUTE format('CREATE POLICY %I ON public.%I TO helix_app USING (%s) WITH CHECK (%s)', t.table_name || '_tenant', t.table_name, t.condition, check_condition);
        IF t.shared THEN
            EXECUTE format('CREATE POLICY %I ON public.%I FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL)', t.table_name || '_shared', t.table_name);
        END IF;
        EXECUTE format('CREATE POLICY %I ON public.%I TO helix_operator USING (true) WITH CHECK (true)', t.table_name || '_operator', t.table_name);
        EXECUTE format('CREATE POLICY %I ON public.%I FOR SELECT TO helix_readonly USING (true)', t.table_name || '_readonly', t.table_name);
        IF t.recorder THEN
            EXECUTE format('CREATE POLICY %I ON public.%I TO helix_recorder USING (true) WITH CHECK (true)', t.table_name || '_recorder', t.table_name);
        END IF;
    END LOOP;
END
$body$;

-- What nobody has decided about: must be empty. Tables without policy or exemption, tables with policies that are not enforced on the owner,
-- and partitions somebody may reach around their parent.
CREATE VIEW rls_gaps WITH (security_invoker = true) AS
SELECT c.relname AS table_name,
       CASE WHEN e.table_name IS NOT NULL THEN 'is exempt but has row-level security'
            WHEN NOT c.relrowsecurity THEN 'has no row-level security and is not in rls_exempt_tables'
            WHEN NOT c.relforcerowsecurity THEN 'does not FORCE row-level security'
            ELSE 'has no policy for helix_app' END AS gap
FROM pg_class AS c LEFT JOIN rls_exempt_tables AS e ON e.table_name = c.relname
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
  AND ((e.table_name IS NOT NULL) = c.relrowsecurity
       OR (e.table_name IS NULL AND (NOT c.relforcerowsecurity
           OR NOT EXISTS (SELECT FROM pg_policy AS p JOIN pg_roles AS r ON r.oid = ANY (p.polroles) WHERE p.polrelid = c.oid AND r.rolname = 'helix_app'))))
UNION ALL
SELECT c.relname, 'is a partition with its own grants'
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relispartition AND c.relkind IN ('r', 'p')
  AND EXISTS (SELECT FROM aclexplode(c.relacl) AS g WHERE g.grantee <> c.relowner)
UNION ALL
SELECT e.table_name, 'is exempt but does not exist'
FROM rls_exempt_tables AS e WHERE to_regclass(format('public.%I', e.table_name)) IS NULL;
COMMENT ON VIEW rls_gaps IS 'Tables whose tenancy nobody has decided about. Always empty; helix doctor and the tests look.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Grants
-- ---------------------------------------------------------------------------------------------------------------------

-- accounts. A tenant changes names and sees its keys, never a hash. Passwords, roles and states are the operator's (log-in and registration run as
-- helix_operator, before there is a tenant). A key's scopes and limit are fixed when it is made.
GRANT SELECT (id, username, email, name, role, status, is_active, metadata, created_at, updated_at, last_login, rate_limit, tokens_per_minute, parallel_max), UPDATE (username, email, name, metadata) ON users TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON users TO helix_operator;
GRANT SELECT (id, username, email, name, role, status, is_active, metadata, created_at, updated_at, last_login, rate_limit, tokens_per_minute, parallel_max) ON users TO helix_readonly;
GRANT SELECT (id, email, role, status, is_active, rate_limit, tokens_per_minute, parallel_max) ON users TO helix_recorder;

GRANT SELECT (id, user_id, provider_id, context, metadata, memory_id, status, request_count, last_activity, expires_at, revoked_at, created_at),
      INSERT (id, user_id, provider_id, context, metadata, memory_id, expires_at), UPDATE (provider_id, context, metadata, memory_id, status, request_count, last_activity, revoked_at), DELETE
      ON user_sessions TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON user_sessions TO helix_operator;
GRANT SELECT (id, user_id, provider_id, context, metadata, memory_id, status, request_count, last_activity, expires_at, revoked_at, created_at) ON user_sessions TO helix_readonly;
GRANT SELECT (id, user_id, status, expires_at) ON user_sessions TO helix_recorder;

GRANT SELECT (id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at, last_used_at, revoked_at, parent_key_id, ancestor_ids, tokens_per_minute, parallel_max, allowed_models, cache_max_age_s),
      INSERT (id, user_id, key_hash, key_prefix, name, scopes, rate_limit, expires_at), UPDATE (name, status, expires_at, revoked_at)
      ON api_keys TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON api_keys TO helix_operator;
GRANT SELECT (id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at, last_used_at, revoked_at, parent_key_id, ancestor_ids, tokens_per_minute, parallel_max, allowed_models, cache_max_age_s) ON api_keys TO helix_readonly;
GRANT SELECT, UPDATE (last_used_at) ON api_keys TO helix_recorder;

GRANT SELECT, INSERT, UPDATE, DELETE ON github_credentials TO helix_app, helix_operator;
GRANT SELECT (id, user_id, github_login, key_id, token_expires_at, created_at, updated_at) ON github_credentials TO helix_readonly;

-- providers
GRANT SELECT ON llm_providers, llm_models, llm_benchmarks TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_providers, llm_models, llm_benchmarks TO helix_operator;
GRANT SELECT ON llm_providers, llm_models TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_configs TO helix_operator;
GRANT SELECT (id, provider_id, key, encrypted, key_id, created_at, updated_at) ON provider_configs TO helix_readonly;
GRANT SELECT ON provider_configs TO helix_recorder;
GRANT SELECT ON provider_health_hours, provider_verifications TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_health_hours TO helix_operator;
GRANT SELECT, INSERT, DELETE ON provider_verifications TO helix_operator;
GRANT SELECT ON llm_routes, llm_route_targets TO helix_app, helix_readonly, helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_routes, llm_route_targets TO helix_operator;
GRANT SELECT ON models_refresh_history TO helix_readonly;
GRANT SELECT, INSERT, DELETE ON models_refresh_history TO helix_operator;

-- projects. Records of cancellation and archiving are written once.
GRANT SELECT, INSERT, UPDATE, DELETE ON projects, project_state TO helix_app, helix_operator;
GRANT SELECT ON projects, project_state TO helix_readonly;
GRANT SELECT (id, user_id, status) ON projects TO helix_recorder;
GRANT SELECT, INSERT ON cancelled_projects, archived_projects TO helix_app, helix_operator;
GRANT SELECT ON cancelled_projects, archived_projects TO helix_readonly;

-- prompts. Versions and results are kept for ever.
GRANT SELECT ON prompts, prompt_tests, prompt_test_results TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE ON prompts TO helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON prompt_tests TO helix_operator;
GRANT SELECT, INSERT ON prompt_test_results TO helix_operator;

-- requests, responses, ledger: the recorder writes, everybody else reads; the operator may close requests that died, and remove or blank texts.
GRANT SELECT ON llm_requests, llm_request_bodies, llm_responses, llm_response_bodies, llm_token_usage TO helix_app, helix_operator, helix_readonly;
GRANT UPDATE (status, started_at, completed_at) ON llm_requests TO helix_operator, helix_recorder;
GRANT INSERT ON llm_requests, llm_request_bodies, llm_responses, llm_response_bodies, llm_token_usage TO helix_operator, helix_recorder;
GRANT UPDATE, DELETE ON llm_request_bodies, llm_response_bodies TO helix_operator;
GRANT SELECT (id, user_id, status, idempotency_key, created_at, started_at, completed_at) ON llm_requests TO helix_recorder;
-- Which candidate was chosen is the one thing that changes of an answer.
GRANT SELECT (id, request_id, selected, confidence, error_code), UPDATE (selected, confidence) ON llm_responses TO helix_recorder;

GRANT SELECT ON llm_pricing TO helix_app, helix_readonly, helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_pricing TO helix_operator;
GRANT SELECT ON llm_usage_hourly, llm_usage_daily, llm_usage_monthly TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_usage_hourly, llm_usage_daily, llm_usage_monthly TO helix_operator;
GRANT SELECT ON usage_rollup_floors TO helix_app, helix_operator, helix_readonly;
-- A tenant may add a tighter budget, never loosen or remove one. Reserving and settling is the recorder's.
GRANT SELECT, INSERT ON budgets TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON budgets TO helix_operator;
GRANT SELECT ON budgets TO helix_readonly, helix_recorder;
GRANT SELECT ON budget_periods, budget_reservations TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON budget_periods, budget_reservations TO helix_operator;
GRANT SELECT, INSERT, UPDATE ON budget_periods TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON budget_reservations TO helix_recorder;
GRANT SELECT ON rate_windows, call_holds, call_refusals TO helix_app, helix_readonly;
GRANT SELECT (user_id, idempotency_key, request_id, created_at) ON idempotency_keys TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON rate_windows, call_holds, call_refusals, idempotency_keys TO helix_operator;
GRANT SELECT, INSERT, UPDATE ON rate_windows, call_refusals TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON call_holds, idempotency_keys TO helix_recorder;

-- tools and errors. The audit log is written and read, by nobody changed.
GRANT SELECT ON agent_permissions TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON agent_permissions TO helix_operator;
GRANT SELECT, INSERT ON tool_audit_log TO helix_app, helix_operator;
GRANT SELECT ON tool_audit_log TO helix_readonly;
GRANT SELECT, INSERT ON error_log TO helix_app, helix_operator;
GRANT SELECT ON error_log TO helix_readonly;
GRANT INSERT ON error_log TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON error_log_summary TO helix_operator;
GRANT SELECT ON error_log_summary TO helix_readonly;

-- tasks. Workers run as helix_operator; tenants enqueue, cancel and pause their own. Webhook addresses may be secrets: not for analytics.
GRANT SELECT, INSERT, UPDATE ON background_tasks TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON background_tasks TO helix_operator;
GRANT SELECT (id, task_type, task_name, user_id, session_id, project_id, correlation_id, parent_task_id, payload, config, tags, status, priority, progress, progress_message, checkpoint,
              retry_count, max_retries, retry_delay_seconds, error_message, error_history, result, worker_id, attempt, lease_until, fencing_token, last_heartbeat, deadline,
              required_cpu_cores, required_memory_mb, scheduled_at, started_at, completed_at, deleted_at, created_at) ON background_tasks TO helix_readonly;
GRANT SELECT, INSERT ON task_events, task_execution_history TO helix_app, helix_operator;
GRANT SELECT ON task_events, task_execution_history TO helix_readonly;
GRANT SELECT, INSERT, UPDATE (redriven_at, redriven_task_id) ON dead_letter_queue TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON dead_letter_queue TO helix_operator;
GRANT SELECT ON dead_letter_queue TO helix_readonly;
GRANT SELECT ON task_resource_snapshots TO helix_app, helix_readonly;
GRANT SELECT, INSERT, DELETE ON task_resource_snapshots TO helix_operator;
GRANT SELECT, INSERT ON webhook_deliveries TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries TO helix_operator;
GRANT SELECT (id, task_id, user_id, event_type, payload, status, attempts, response_code, last_error, next_attempt_at, delivered_at, created_at) ON webhook_deliveries TO helix_readonly;

-- debates. Rounds, arguments, votes and code go with their debate.
GRANT SELECT, INSERT, UPDATE, DELETE ON debates TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE ON debate_rounds, debate_arguments, code_versions TO helix_app, helix_operator;
GRANT SELECT, INSERT ON debate_votes, debate_events TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON panels TO helix_app, helix_operator;
GRANT SELECT ON debates, debate_rounds, debate_arguments, debate_votes, code_versions, debate_events, panels TO helix_readonly;

-- memory and knowledge
GRANT SELECT, INSERT, UPDATE, DELETE ON memories, memory_entities, memory_entity_mentions, memory_relations, memory_embeddings, rag_knowledge, vector_documents TO helix_app, helix_operator;
GRANT SELECT (id, user_id, session_id, project_id, agent_id, content, memory_type, entities, relationships, speaker, confidence, importance, access_count, last_accessed, source_response_id,
              conversation_id, valid_from, valid_to, merged_into, deleted_at, tags, metadata, created_at, updated_at) ON memories TO helix_readonly;
GRANT SELECT ON memory_entities, memory_entity_mentions, memory_relations, memory_embeddings, rag_knowledge, vector_documents TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_search TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE (undone_at) ON memory_changes TO helix_app, helix_operator;
-- What was used and what was forgotten are records: added, never changed.
GRANT SELECT, INSERT ON memory_uses, memory_tombstones TO helix_app, helix_operator;
GRANT SELECT ON memory_search, memory_uses, memory_changes, memory_tombstones TO helix_readonly;

GRANT SELECT ON knowledge_tombstones TO helix_app, helix_operator, helix_readonly;

-- audit. Added, never changed; seals are made anew with a new key, and emptied when their month is gone.
GRANT SELECT, INSERT ON audit_log TO helix_operator;
GRANT SELECT (id, created_at, operation, outcome, actor_kind, actor_id, actor_key_id, subject_type, subject_id, subject_name) ON audit_log TO helix_readonly;
GRANT SELECT, INSERT, UPDATE (seal, key_id, row_ids, row_digests) ON audit_seals TO helix_operator;
GRANT SELECT (id, table_name, number, month, first_row_id, last_row_id, row_count, key_id, sealed_at) ON audit_seals TO helix_readonly;
GRANT SELECT ON erased_users TO helix_operator, helix_readonly;

-- protocols. Credentials of servers are ciphertext for the operator only.
GRANT SELECT (id, name, type, transport, endpoint, url, port, command, args, capabilities, config, key_id, health_status, last_health_check, enabled, last_sync, created_at, updated_at) ON mcp_servers TO helix_app, helix_readonly;
GRANT SELECT (id, name, type, endpoint, url, command, args, capabilities, config, key_id, health_status, last_health_check, enabled, last_sync, created_at, updated_at) ON acp_agents TO helix_app, helix_readonly;
GRANT SELECT ON mcp_tools, lsp_servers, embedding_config, protocol_cache, protocol_metrics TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON mcp_servers, mcp_tools, acp_agents, lsp_servers, embedding_config, protocol_cache TO helix_operator;
GRANT INSERT ON protocol_metrics TO helix_app, helix_operator;
GRANT SELECT ON protocol_metrics TO helix_operator;

-- conversations. Events are only added; everything goes with its conversation.
GRANT SELECT, INSERT, UPDATE, DELETE ON conversations, conversation_context_cache TO helix_app, helix_operator;
GRANT SELECT, INSERT ON conversation_events, conversation_compressions TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE ON conversation_turns TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON conversation_turns TO helix_operator;
GRANT SELECT, INSERT, DELETE ON conversation_snapshots, conversation_replay_stats TO helix_app, helix_operator;
GRANT SELECT ON conversations, conversation_events, conversation_snapshots, conversation_compressions, conversation_replay_stats, conversation_turns, conversation_context_cache TO helix_readonly;

-- distributed memory. Events are only added, and emptied when their memory is forgotten.
GRANT SELECT, INSERT, UPDATE ON distributed_memory, memory_conflicts, memory_event_checkpoints TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON distributed_memory, memory_conflicts, memory_event_checkpoints TO helix_operator;
GRANT SELECT, INSERT, UPDATE (content, embedding, embedding_model, tags, entities, relationships, removed, metadata, fields, redacted_at) ON distributed_memory_events TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_snapshots, crdt_versions TO helix_app, helix_operator;
GRANT SELECT ON memory_nodes TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_nodes, memory_sync_status, memory_peers TO helix_operator;
GRANT SELECT (id, name, url, key_id, node_id, created_at, updated_at) ON memory_peers TO helix_readonly;
GRANT SELECT ON distributed_memory, distributed_memory_events, memory_snapshots, memory_conflicts, memory_event_checkpoints, memory_nodes, memory_sync_status TO helix_readonly;
GRANT SELECT (id, memory_id, user_id, node_id, version, vector_clock, crdt_type, crdt_state, created_at) ON crdt_versions TO helix_readonly;

-- learning
GRANT SELECT, INSERT, UPDATE, DELETE ON cross_session_patterns, learned_insights, user_preferences, entity_cooccurrences, conversation_flow_patterns, knowledge_accumulation, learning_statistics TO helix_app, helix_operator;
GRANT SELECT ON debate_strategy_success TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON debate_strategy_success TO helix_operator;
GRANT SELECT ON cross_session_patterns, learned_insights, user_preferences, entity_cooccurrences, conversation_flow_patterns, knowledge_accumulation, learning_statistics, debate_strategy_success TO helix_readonly;

-- analytics and projections
GRANT SELECT, INSERT ON clickhouse_analytics TO helix_app;
GRANT SELECT, INSERT, UPDATE (exported, exported_at), DELETE ON clickhouse_analytics TO helix_operator;
-- answers to give again: the recorder writes and forgets, a tenant finds its own.
GRANT SELECT ON response_cache TO helix_app, helix_operator;
GRANT SELECT (user_id, request_id, response_id, created_at, expires_at) ON response_cache TO helix_readonly;
GRANT DELETE ON response_cache TO helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON response_cache TO helix_recorder;
GRANT SELECT ON streaming_analytics TO helix_app;
GRANT SELECT, INSERT, DELETE ON streaming_analytics TO helix_operator;
GRANT INSERT ON streaming_analytics TO helix_recorder;
GRANT SELECT ON clickhouse_analytics, streaming_analytics, projection_checkpoints, matview_refresh_state, rls_exempt_tables TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON projection_checkpoints TO helix_operator;
GRANT SELECT, UPDATE (refresh_every, is_critical) ON matview_refresh_state TO helix_operator;
GRANT SELECT ON rls_exempt_tables TO helix_operator;

-- Materialized views hold all tenants' figures: not for helix_app.
GRANT SELECT ON mv_provider_performance, mv_mcp_server_health, mv_request_analytics_hourly, mv_session_stats_daily, mv_task_statistics, mv_model_capabilities, mv_protocol_metrics_agg,
                mv_recent_conversation_activity, mv_provider_performance_summary, mv_daily_stats TO helix_operator, helix_readonly;

-- Views are security_invoker: what they show is what the reader may see beneath.
GRANT SELECT ON llm_calls, providers, sessions, completions, debate_logs, debate_sessions, debate_turns, cognee_memories, cognee_entities, cognee_graphs, acp_servers, memory_events,
                learned_patterns, conversation_messages, spend_by_day, spend_by_project, current_prices, slow_requests, provider_stream_metrics, stream_timing, conversation_analytics,
                recent_errors, task_queue, debate_round_analytics, debate_value TO helix_app, helix_operator, helix_readonly;
GRANT SELECT ON table_sizes, unused_indexes, rls_gaps TO helix_operator, helix_readonly;

-- Functions. All but one run with the rights of their caller, so what they reach is decided above. The one that does not, and those that only call it, are the operator's;
-- partitions are made by the owner of the tables alone.
REVOKE EXECUTE ON FUNCTION refresh_materialized_views(text[]), refresh_all_materialized_views(), refresh_critical_views(), refresh_streaming_analytics_views(), refresh_due_materialized_views(),
                           helix_create_partitions(integer, integer), helix_refresh_usage_rollups(timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION refresh_materialized_views(text[]), refresh_all_materialized_views(), refresh_critical_views(), refresh_streaming_analytics_views(), refresh_due_materialized_views(),
                          helix_refresh_usage_rollups(timestamptz, timestamptz) TO helix_operator;
