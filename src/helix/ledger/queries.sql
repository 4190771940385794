-- Statements of the ledger. Usage rows are written by the gateway's recorder with the answer.

-- name: prices_mark
-- One value that changes whenever any price does. Index: none, the table is small. Locks: none.
SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0) AS mark
FROM llm_pricing;

-- name: load_prices
-- Every price, past and to come. Index: none. Locks: none.
SELECT id, model, effective_date, input_cost_per_million, output_cost_per_million,
    cached_input_cost_per_million, reasoning_cost_per_million, per_request_cost_usd
FROM llm_pricing;

-- name: list_prices
-- Prices as people read them: those in force, or with whole_history every one; of one model or all.
-- Index: llm_pricing_model_effective_date_key. Locks: none.
SELECT p.id, p.model, p.input_cost_per_million, p.output_cost_per_million, p.cached_input_cost_per_million,
    p.reasoning_cost_per_million, p.per_request_cost_usd, p.effective_date, p.source, p.updated_by, p.notes
FROM llm_pricing p
WHERE (:model::text IS NULL OR p.model = :model)
  AND (:whole_history::boolean OR p.effective_date > now() OR p.effective_date = (
        SELECT max(i.effective_date) FROM llm_pricing i WHERE i.model = p.model AND i.effective_date <= now()))
ORDER BY p.model, p.effective_date;

-- name: insert_price
-- Index: llm_pricing_model_effective_date_key. Locks: none beyond the new row.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, cached_input_cost_per_million,
    reasoning_cost_per_million, per_request_cost_usd, effective_date, source, updated_by, notes)
VALUES (:model, :input, :output, :cached_input, :reasoning, :per_request, coalesce(:effective_date, now()),
    'operator', :updated_by, :notes)
ON CONFLICT (model, effective_date) DO NOTHING
RETURNING id, model, input_cost_per_million, output_cost_per_million, cached_input_cost_per_million,
    reasoning_cost_per_million, per_request_cost_usd, effective_date, source, updated_by, notes;

-- name: report_usage
-- What was used from one moment to another, summed up by the dimensions in :by. It reads the ledger itself, so it is exact, and as fresh as
-- the last commit; before the ledger's first month it reads the sums of hours and days, of which those count that begin in the time asked
-- for. Usage rows carry ids as old as their request and times as late as its end: a day apart at most.
-- Index: llm_token_usage_user_id_timestamp_idx for one user, else the partitions of the months; llm_usage_daily_user_id_day_idx. Locks: none.
WITH bounds AS MATERIALIZED (SELECT * FROM helix_usage_bounds()),
used AS (
    SELECT u.timestamp AS used_at, u.user_id, u.api_key_id, u.project_id, u.agent_id, u.provider_name, u.model, 1::bigint AS call_count,
        u.estimated::integer::bigint AS estimated_count, u.input_tokens::bigint, u.output_tokens::bigint, u.cached_tokens::bigint,
        u.reasoning_tokens::bigint, u.cost_usd
    FROM llm_token_usage u
    WHERE u.timestamp >= :from_time AND u.timestamp < :to_time AND u.timestamp >= (SELECT b.hourly_until FROM bounds b)
      AND u.id >= uuid_floor(:from_time - interval '1 day') AND u.id < uuid_floor(:to_time)
    UNION ALL
    SELECT h.hour, h.user_id, h.api_key_id, h.project_id, h.agent_id, h.provider_name, h.model, h.call_count, h.estimated_count,
        h.input_tokens, h.output_tokens, h.cached_tokens, h.reasoning_tokens, h.cost_usd
    FROM llm_usage_hourly h
    WHERE h.hour >= :from_time AND h.hour < :to_time AND h.hour >= (SELECT b.daily_until FROM bounds b)
      AND h.hour < (SELECT b.hourly_until FROM bounds b)
    UNION ALL
    SELECT d.day::timestamp AT TIME ZONE 'UTC', d.user_id, d.api_key_id, d.project_id, d.agent_id, d.provider_name, d.model, d.call_count,
        d.estimated_count, d.input_tokens, d.output_tokens, d.cached_tokens, d.reasoning_tokens, d.cost_usd
    FROM llm_usage_daily d
    WHERE d.day >= ((:from_time AT TIME ZONE 'UTC') + interval '1 day' - interval '1 microsecond')::date
      AND d.day < ((least(:to_time, (SELECT b.daily_until FROM bounds b)) AT TIME ZONE 'UTC') + interval '1 day' - interval '1 microsecond')::date)
SELECT CASE WHEN 'hour' = ANY (:by::text[]) THEN date_trunc('hour', u.used_at, 'UTC')
            WHEN 'day' = ANY (:by) THEN date_trunc('day', u.used_at, 'UTC')
            WHEN 'month' = ANY (:by) THEN date_trunc('month', u.used_at, 'UTC') END AS period,
    CASE WHEN 'model' = ANY (:by) THEN u.model END AS model,
    CASE WHEN 'provider' = ANY (:by) THEN u.provider_name END AS provider,
    CASE WHEN 'key' = ANY (:by) THEN u.api_key_id END AS api_key_id,
    CASE WHEN 'user' = ANY (:by) THEN u.user_id END AS user_id,
    CASE WHEN 'project' = ANY (:by) THEN u.project_id END AS project_id,
    CASE WHEN 'agent' = ANY (:by) THEN u.agent_id END AS agent_id,
    coalesce(sum(u.call_count), 0)::bigint AS call_count, coalesce(sum(u.estimated_count), 0)::bigint AS estimated_count,
    coalesce(sum(u.input_tokens), 0)::bigint AS input_tokens, coalesce(sum(u.output_tokens), 0)::bigint AS output_tokens,
    coalesce(sum(u.cached_tokens), 0)::bigint AS cached_tokens,
    coalesce(sum(u.reasoning_tokens), 0)::bigint AS reasoning_tokens, coalesce(sum(u.cost_usd), 0) AS cost_usd
FROM used u
WHERE (:user_id::uuid IS NULL OR u.user_id = :user_id)
  AND (:api_key_id::uuid IS NULL OR u.api_key_id = :api_key_id)
  AND (:project_id::uuid IS NULL OR u.project_id = :project_id)
  AND (:agent_id::text IS NULL OR u.agent_id = :agent_id)
  AND (:model::text IS NULL OR u.model = :model)
  AND (:provider::text IS NULL OR u.provider_name = :provider)
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 1, cost_usd DESC, 2, 3, 4, 5, 6, 7
LIMIT :max_count;

-- name: summed_until
-- Until when usage asked for from a moment on is read from sums; no row: none of it is. Index: none, the table has two rows. Locks: none.
SELECT b.hourly_until AS summed_until FROM helix_usage_bounds() AS b WHERE b.hourly_until > :from_time;

-- name: spend_of_tasks
-- What tasks of the queue have spent. Index: llm_requests_task_id_idx, llm_token_usage_request_id_idx. Locks: none.
SELECT q.task_id, sum(u.cost_usd) AS cost_usd
FROM llm_requests q JOIN llm_token_usage u ON u.request_id = q.id
WHERE q.task_id = ANY (:task_ids::uuid[])
GROUP BY q.task_id;

-- name: list_budgets
-- Budgets with what their running period has spent; of one user or all. Index: budgets_key. Locks: none.
SELECT b.id, b.user_id, b.scope, b.api_key_id, b.project_id, b.agent_id, b.period, b.limit_usd, b.hard,
    b.enabled, b.created_at, helix_period_start(b.period, :now) AS period_start,
    coalesce(p.reserved_usd, 0) AS reserved_usd, coalesce(p.settled_usd, 0) AS settled_usd,
    b.limit_usd - coalesce(p.reserved_usd + p.settled_usd, 0) AS left_usd
FROM budgets b
LEFT JOIN budget_periods p ON p.budget_id = b.id AND p.period_start = helix_period_start(b.period, :now)
WHERE (:user_id::uuid IS NULL OR b.user_id = :user_id) AND (:id::uuid IS NULL OR b.id = :id)
ORDER BY b.user_id, b.created_at, b.id
LIMIT :max_count;

-- name: insert_budget
-- A budget whose running period begins with what was spent in it before, after the ledger and, before that, its sums.
-- Index: budgets_key, llm_token_usage_user_id_timestamp_idx. Locks: none beyond the new rows.
WITH made AS (
    INSERT INTO budgets (user_id, scope, api_key_id, project_id, agent_id, period, limit_usd, hard)
    VALUES (:user_id, :scope, :api_key_id, :project_id, :agent_id, :period, :limit_usd, :hard)
    ON CONFLICT DO NOTHING
    RETURNING *),
period AS (
    INSERT INTO budget_periods (budget_id, period_start, settled_usd)
    SELECT m.id, helix_period_start(m.period, :now), coalesce((
        SELECT sum(u.cost_usd) FROM (
            SELECT l.cost_usd, l.project_id, l.agent_id, l.api_key_id FROM llm_token_usage l
            WHERE l.user_id = m.user_id AND l.id >= uuid_floor(helix_period_start(m.period, :now)::timestamp AT TIME ZONE 'UTC')
              AND l.timestamp >= b.hourly_until
            UNION ALL
            SELECT h.cost_usd, h.project_id, h.agent_id, h.api_key_id FROM llm_usage_hourly h
            WHERE m.period = 'total' AND h.user_id = m.user_id AND h.hour >= b.daily_until AND h.hour < b.hourly_until
            UNION ALL
            SELECT d.cost_usd, d.project_id, d.agent_id, d.api_key_id FROM llm_usage_daily d
            WHERE m.period = 'total' AND d.user_id = m.user_id AND d.day < (b.daily_until AT TIME ZONE 'UTC')::date) u
        WHERE m.scope = 'user' OR u.project_id = m.project_id OR u.agent_id = m.agent_id
           OR u.api_key_id IN (SELECT k.id FROM api_keys k
               WHERE k.id = m.api_key_id OR k.ancestor_ids @> ARRAY[m.api_key_id])), 0)
    FROM made m CROSS JOIN helix_usage_bounds() AS b)
SELECT id FROM made;

-- name: owns_target
-- Whether what a budget is to limit is that user's. Index: api_keys_pkey, projects_pkey. Locks: none.
SELECT (:api_key_id::uuid IS NULL OR EXISTS (SELECT FROM api_keys k WHERE k.id = :api_key_id AND k.user_id = :user_id))
   AND (:project_id::uuid IS NULL OR EXISTS (SELECT FROM projects p WHERE p.id = :project_id AND p.user_id = :user_id))
   AND EXISTS (SELECT FROM users u WHERE u.id = :user_id) AS owned;

-- name: change_budget
-- Index: budgets_pkey. Locks: the row.
UPDATE budgets SET limit_usd = coalesce(:limit_usd, limit_usd), hard = coalesce(:hard, hard),
    enabled = coalesce(:enabled, enabled)
WHERE id = :id
RETURNING id;

-- name: delete_budget
-- Index: budgets_pkey. Locks: the row, its periods and reservations.
DELETE FROM budgets WHERE id = :id RETURNING id;

-- name: reprice_month
-- What a month would cost by the prices that are in the book now: each answer by the newest price of the
-- name it was charged under (else provider/model, else model) that held when it ended.
-- Index: the month's partition, llm_pricing_model_effective_date_key. Locks: none.
SELECT u.model, u.provider_name AS provider, count(*) AS call_count,
    count(*) FILTER (WHERE x.id IS DISTINCT FROM u.pricing_id) AS changed_count,
    sum(u.cost_usd) AS cost_usd, sum(coalesce(n.cost_usd, 0)) AS new_cost_usd,
    sum(coalesce(n.cost_usd, 0) - u.cost_usd) AS difference_usd
FROM llm_token_usage u
LEFT JOIN llm_pricing old ON old.id = u.pricing_id
LEFT JOIN LATERAL (
    SELECT p.* FROM llm_pricing p
    WHERE p.model IN (coalesce(old.model, u.provider_name || '/' || u.model), coalesce(old.model, u.model))
      AND p.effective_date <= u.timestamp
    ORDER BY length(p.model) DESC, p.effective_date DESC LIMIT 1) AS x ON true
LEFT JOIN LATERAL (
    SELECT ((u.input_tokens - c.cached) * x.input_cost_per_million
          + (u.output_tokens - c.reasoning) * x.output_cost_per_million
          + c.cached * coalesce(x.cached_input_cost_per_million, 0)
          + c.reasoning * coalesce(x.reasoning_cost_per_million, 0)) / 1000000
          + coalesce(x.per_request_cost_usd, 0) AS cost_usd
    FROM (SELECT CASE WHEN x.cached_input_cost_per_million IS NULL THEN 0 ELSE u.cached_tokens END AS cached,
                 CASE WHEN x.reasoning_cost_per_million IS NULL THEN 0 ELSE u.reasoning_tokens END AS reasoning) AS c
    WHERE x.id IS NOT NULL) AS n ON true
WHERE u.timestamp >= :from_time AND u.timestamp < :to_time
  AND u.id >= uuid_floor(:from_time - interval '1 day') AND u.id < uuid_floor(:to_time)
  AND (:model::text IS NULL OR u.model = :model)
GROUP BY u.model, u.provider_name
ORDER BY abs(sum(coalesce(n.cost_usd, 0) - u.cost_usd)) DESC, u.model, u.provider_name;
