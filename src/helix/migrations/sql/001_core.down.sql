-- 001_core.down.sql: takes back what 001_core.up.sql made, and nothing else.

-- What ties other tables to these.
ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_pricing_id_fkey;
ALTER TABLE user_sessions DROP CONSTRAINT user_sessions_provider_id_fkey;

-- Functions on these tables.
DROP FUNCTION helix_refresh_usage_rollups;

-- Views.
DROP VIEW rls_gaps;
DROP VIEW completions;
DROP VIEW sessions;
DROP VIEW providers;
DROP VIEW llm_calls;
DROP VIEW unused_indexes;
DROP VIEW table_sizes;
DROP VIEW recent_errors;
DROP VIEW provider_stream_metrics;
DROP VIEW slow_requests;
DROP VIEW current_prices;
DROP VIEW spend_by_project;
DROP VIEW spend_by_day;

-- Tables, with their indexes, triggers, policies and grants.
DROP TABLE rls_exempt_tables;
DROP TABLE error_log_summary;
DROP TABLE error_log;
DROP TABLE tool_audit_log;
DROP TABLE agent_permissions;
DROP TABLE budget_reservations;
DROP TABLE budget_periods;
DROP TABLE budgets;
DROP TABLE llm_usage_monthly;
DROP TABLE llm_usage_daily;
DROP TABLE llm_usage_hourly;
DROP TABLE llm_token_usage;
DROP TABLE llm_pricing;
DROP TABLE llm_response_bodies;
DROP TABLE llm_responses;
DROP TABLE llm_request_bodies;
DROP TABLE llm_requests;
DROP TABLE prompt_test_results;
DROP TABLE prompt_tests;
DROP TABLE prompts;
DROP TABLE archived_projects;
DROP TABLE cancelled_projects;
DROP TABLE project_state;
DROP TABLE projects;
DROP TABLE provider_configs;
DROP TABLE llm_providers;
DROP TABLE github_credentials;
DROP TABLE api_keys;
DROP TABLE user_sessions;
DROP TABLE users;

-- Functions the tables used.
DROP FUNCTION helix_row_visible;
DROP FUNCTION helix_prompt_text;
DROP FUNCTION helix_content_text;
DROP FUNCTION helix_readable_json;
DROP FUNCTION helix_refuse_price_change;
DROP FUNCTION helix_refuse_unrevoke;
DROP FUNCTION helix_create_partitions;
DROP FUNCTION helix_append_only;
DROP FUNCTION helix_set_updated_at;
DROP FUNCTION helix_sha256;
DROP FUNCTION helix_tenant;
DROP FUNCTION uuidv7_beside;
DROP FUNCTION uuid_month;
DROP FUNCTION uuid_time;
DROP FUNCTION uuid_floor;
DROP FUNCTION IF EXISTS public.uuidv7();

-- The roles are the whole server's and may serve other databases: they stay, with nothing to reach here. So does the extension vector, which
-- may have been here before.
REVOKE USAGE ON SCHEMA public FROM helix_app, helix_operator, helix_readonly, helix_recorder;
