-- 024_limits.down.sql: takes 024_limits.up.sql back.

ALTER POLICY api_keys_tenant ON api_keys USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
REVOKE SELECT (id, request_id, selected, confidence, error_code), UPDATE (selected, confidence) ON llm_responses FROM helix_recorder;
REVOKE UPDATE ON budget_reservations FROM helix_recorder;
DROP FUNCTION helix_charge(uuid[], uuid[], uuid[], uuid[], text[], timestamptz[], numeric[], integer[], boolean[]);
DROP FUNCTION helix_admit(uuid[], uuid[], uuid[], uuid[], text[], numeric[], integer[], text[], bytea[], boolean);
DROP FUNCTION helix_period_end(text, timestamptz);
DROP FUNCTION helix_period_start(text, timestamptz);
DROP TABLE idempotency_keys, call_refusals, call_holds, rate_windows;
-- A total is no period any more.
DELETE FROM budgets WHERE period = 'total';
COMMENT ON COLUMN budget_periods.period_start IS 'First UTC day of the period.';
COMMENT ON COLUMN budgets.limit_usd IS 'US dollars per UTC day or month.';
COMMENT ON COLUMN budgets.period IS NULL;
ALTER TABLE budgets DROP CONSTRAINT budgets_period_check;
ALTER TABLE budgets ADD CONSTRAINT budgets_period_check CHECK (period IN ('day', 'month'));
ALTER TABLE llm_response_bodies DROP CONSTRAINT llm_response_bodies_month_check;
ALTER TABLE llm_response_bodies ADD CONSTRAINT llm_response_bodies_month_check CHECK (uuid_month(response_id) = uuid_month(request_id));
ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_month_check;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_month_check CHECK (uuid_month(id) = uuid_month(request_id));
ALTER TABLE llm_requests DROP COLUMN parent_request_id, DROP COLUMN task_id;
ALTER TABLE api_keys DROP CONSTRAINT api_keys_ancestors_check, DROP COLUMN previous_until, DROP COLUMN previous_hash, DROP COLUMN cache_max_age_s, DROP COLUMN allowed_models, DROP COLUMN parallel_max,
    DROP COLUMN tokens_per_minute, DROP COLUMN ancestor_ids, DROP COLUMN parent_key_id;
ALTER TABLE users DROP COLUMN parallel_max, DROP COLUMN tokens_per_minute, DROP COLUMN rate_limit;
