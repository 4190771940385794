-- Statements of the gateway. admit_calls, settle_calls and settled_calls run as helix_recorder on
-- connections of their own; the rest as helix_operator.

-- name: admit_calls
-- Decide of many calls whether they may be made, and record those that may, with their bodies: one
-- statement, one commit. Written before a provider is called. Limits, budgets, Idempotency-Keys and
-- revocation are judged by helix_admit(), under row locks that last until this commits; a refused
-- call leaves no row. `retried`: the batch may be on record already, which changes nothing.
-- Index: the primary keys. Locks: rate_windows, budget_periods, idempotency_keys (helix_admit);
-- key-share on the users, keys, sessions and projects referred to.
WITH verdicts AS MATERIALIZED (
    SELECT * FROM helix_admit(:id::uuid[], :user_id::uuid[], :api_key_id::uuid[], :project_id::uuid[],
        :agent_id::text[], :reserve_usd::numeric[], :reserve_tokens::integer[],
        :idempotency_key::text[], :body_sha256::bytea[], :retried::boolean)),
batch AS MATERIALIZED (
    SELECT t.* FROM unnest(
        :id::uuid[], :user_id::uuid[], :api_key_id::uuid[], :session_id::uuid[], :project_id::uuid[],
        :agent_id::text[], :model_name::text[], :stream::boolean[], :model_params::text[],
        :idempotency_key::text[], :client_request_id::text[], :metadata::text[],
        :created_at::timestamptz[], :request_body::text[], :body_bytes::integer[],
        :request_type::text[], :task_id::uuid[], :parent_request_id::uuid[], :memory::text[],
        :prompt_id::uuid[], :ensemble_config::text[])
    AS t (id, user_id, api_key_id, session_id, project_id, agent_id, model_name, stream, model_params,
        idempotency_key, client_request_id, metadata, created_at, request_body, body_bytes,
        request_type, task_id, parent_request_id, memory, prompt_id, ensemble_config)
    JOIN verdicts v ON v.request_id = t.id AND v.decision = 'admitted'),
requests AS (
    INSERT INTO llm_requests (id, user_id, api_key_id, session_id, project_id, agent_id, model_name,
        request_type, status, stream, model_params, idempotency_key, client_request_id, metadata,
        created_at, started_at, task_id, parent_request_id, memory, memory_enhanced, prompt_id,
        ensemble_config)
    SELECT id, user_id, api_key_id, session_id, project_id, agent_id, model_name,
        request_type, 'running', stream, model_params::jsonb, idempotency_key, client_request_id,
        metadata::jsonb, created_at, created_at, task_id, parent_request_id, memory::jsonb, memory IS NOT NULL, prompt_id,
        ensemble_config::jsonb
    FROM batch
    ON CONFLICT DO NOTHING),
bodies AS (
    INSERT INTO llm_request_bodies (request_id, user_id, request_body, body_bytes)
    SELECT id, user_id, request_body::json, body_bytes FROM batch
    ON CONFLICT DO NOTHING)
SELECT request_id, decision, limit_name, limit_value, limit_left, retry_after_s, other_request_id
FROM verdicts;

-- name: settle_calls
-- Record answers with texts, usage and cost, charge them, and end the requests they are final for:
-- one statement, one commit. Only a request that still runs is written to: who closes it first, its
-- gateway or the sweep after a crash, wins, and the other writes nothing. `chosen` rows end a request
-- whose answer is on record. Returns the answers written or chosen.
-- Index: llm_requests_pkey. The ids stand in it twice: as a list, so that a plan can only look these
-- rows up, and as bounds, which leave the partitions of other months alone. Locks: those rows, then
-- what helix_charge() locks.
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        :request_id::uuid[], :request_status::text[], :completed_at::timestamptz[], :id::uuid[],
        :user_id::uuid[], :provider_id::uuid[], :provider_name::text[], :model_name::text[],
        :upstream_id::text[], :status::text[], :error_code::text[], :error::text[],
        :http_status::smallint[], :tokens_prompt::integer[], :tokens_completion::integer[],
        :tokens_cached::integer[], :tokens_reasoning::integer[], :usage_estimated::boolean[],
        :latency_ms::integer[], :first_token_ms::integer[], :chunk_count::integer[],
        :finish_reason::text[], :cost_usd::numeric[], :pricing_id::uuid[], :content::text[],
        :raw_response::text[], :usage_id::uuid[], :api_key_id::uuid[], :project_id::uuid[],
        :agent_id::text[], :attempt::smallint[], :selected::boolean[], :cached::boolean[],
        :confidence::numeric[], :final::boolean[], :chosen::boolean[], :gap_p50_ms::integer[],
        :gap_p95_ms::integer[], :gap_max_ms::integer[])
    AS t (request_id, request_status, completed_at, id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_cached, tokens_reasoning, usage_estimated, latency_ms, first_token_ms, chunk_count,
        finish_reason, cost_usd, pricing_id, content, raw_response, usage_id, api_key_id, project_id,
        agent_id, attempt, selected, cached, confidence, final, chosen, gap_p50_ms,
        gap_p95_ms, gap_max_ms)),
closed AS (
    UPDATE llm_requests r SET status = b.request_status, completed_at = b.completed_at
    FROM batch b
    WHERE r.id = b.request_id AND b.final AND r.completed_at IS NULL
      AND r.id = ANY (:request_id) AND r.id BETWEEN :lowest AND :highest
      AND (NOT b.chosen OR EXISTS (
          SELECT FROM llm_responses p WHERE p.id = b.id AND p.request_id = b.request_id AND NOT p.selected))
    RETURNING b.*, r.created_at AS admitted_at),
chosen AS (
    UPDATE llm_responses p SET selected = true, confidence = coalesce(c.confidence, p.confidence)
    FROM closed c WHERE c.chosen AND p.id = c.id),
still_open AS MATERIALIZED (
    SELECT b.*, r.created_at AS admitted_at FROM batch b JOIN llm_requests r ON r.id = b.request_id
    WHERE NOT b.final AND r.completed_at IS NULL
      AND NOT EXISTS (SELECT FROM batch o WHERE o.request_id = b.request_id AND o.final)
      AND r.id = ANY (:request_id) AND r.id BETWEEN :lowest AND :highest
    FOR NO KEY UPDATE OF r),
ended AS (
    SELECT * FROM closed
    UNION ALL SELECT * FROM still_open
    UNION ALL SELECT b.*, c.admitted_at FROM batch b JOIN closed c ON c.request_id = b.request_id WHERE NOT b.final),
responses AS (
    INSERT INTO llm_responses (id, request_id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_total, tokens_cached, tokens_reasoning, usage_estimated, latency_ms, first_token_ms,
        chunk_count, finish_reason, cost_usd, pricing_id, created_at, attempt, selected, cached, confidence,
        gap_p50_ms, gap_p95_ms, gap_max_ms)
    SELECT id, request_id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_prompt + tokens_completion, tokens_cached, tokens_reasoning, usage_estimated, latency_ms,
        first_token_ms, chunk_count, finish_reason, cost_usd, pricing_id, completed_at, attempt, selected,
        cached, confidence, gap_p50_ms, gap_p95_ms, gap_max_ms
    FROM ended WHERE NOT chosen
    ON CONFLICT DO NOTHING
    RETURNING id),
written AS MATERIALIZED (SELECT * FROM ended WHERE chosen OR id IN (SELECT id FROM responses)),
bodies AS (
    INSERT INTO llm_response_bodies (response_id, request_id, user_id, content, raw_response)
    SELECT id, request_id, user_id, content, raw_response::json FROM written
    WHERE NOT chosen AND (content IS NOT NULL OR raw_response IS NOT NULL)),
usage AS (
    INSERT INTO llm_token_usage (id, timestamp, user_id, api_key_id, project_id, agent_id, provider_name,
        model, request_id, response_id, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        cost_usd, pricing_id, estimated, created_at)
    SELECT usage_id, completed_at, user_id, api_key_id, project_id, agent_id, provider_name,
        model_name, request_id, id, tokens_prompt, tokens_completion, tokens_cached, tokens_reasoning,
        cost_usd, pricing_id, usage_estimated, completed_at
    FROM written WHERE usage_id IS NOT NULL),
charge AS MATERIALIZED (
    SELECT helix_charge(array_agg(request_id), array_agg(user_id), array_agg(api_key_id),
        array_agg(project_id), array_agg(agent_id), array_agg(admitted_at), array_agg(cost_usd),
        array_agg(tokens_prompt + tokens_completion), array_agg(final)) AS charged
    FROM written)
SELECT w.id AS response_id FROM written w CROSS JOIN charge c;

-- name: admit_new_calls
-- As admit_calls, for a batch that was not written before and claims nothing: in fewer steps, and as one JSON
-- document, in which what is not told is as nearly always. What helix_admit_plain() can decide is not asked of
-- helix_admit(). Returns one row without a request when all are admitted, else a row for each.
-- Index and locks: as admit_calls.
WITH batch AS MATERIALIZED (
    SELECT * FROM json_to_recordset(:rows::json)
    AS t (id uuid, user_id uuid, api_key_id uuid, session_id uuid, project_id uuid, agent_id text, model_name text,
        stream boolean, model_params text, client_request_id text, metadata text, created_at timestamptz,
        request_body text, body_bytes integer, request_type text, task_id uuid, parent_request_id uuid, memory text,
        prompt_id uuid, ensemble_config text, reserve_usd numeric, reserve_tokens integer)),
plain AS MATERIALIZED (
    SELECT helix_admit_plain(array_agg(user_id), array_agg(api_key_id)) AS fits FROM batch),
verdicts AS MATERIALIZED (
    SELECT NULL::uuid AS request_id, 'admitted' AS decision, NULL::text AS limit_name, NULL::numeric AS limit_value,
        NULL::numeric AS limit_left, NULL::double precision AS retry_after_s, NULL::uuid AS other_request_id
    FROM plain WHERE plain.fits
    UNION ALL
    SELECT a.* FROM plain
    CROSS JOIN LATERAL (SELECT array_agg(id) AS ids, array_agg(user_id) AS user_ids, array_agg(api_key_id) AS key_ids,
        array_agg(project_id) AS project_ids, array_agg(agent_id) AS agent_ids,
        array_agg(coalesce(reserve_usd, 0)) AS usd, array_agg(coalesce(reserve_tokens, 0)) AS tokens FROM batch) AS b
    CROSS JOIN LATERAL helix_admit(b.ids, b.user_ids, b.key_ids, b.project_ids, b.agent_ids, b.usd, b.tokens,
        NULL, NULL, false) AS a
    WHERE NOT plain.fits),
admitted AS MATERIALIZED (
    SELECT t.* FROM batch AS t
    WHERE (SELECT p.fits FROM plain AS p)
       OR t.id IN (SELECT v.request_id FROM verdicts AS v WHERE v.decision = 'admitted')),
requests AS (
    INSERT INTO llm_requests (id, user_id, api_key_id, session_id, project_id, agent_id, model_name,
        request_type, status, stream, model_params, client_request_id, metadata, created_at, started_at, task_id,
        parent_request_id, memory, memory_enhanced, prompt_id, ensemble_config)
    SELECT id, user_id, api_key_id, session_id, project_id, agent_id, model_name,
        coalesce(request_type, 'chat'), 'running', coalesce(stream, false), model_params::jsonb, client_request_id,
        metadata::jsonb, created_at, created_at, task_id, parent_request_id, memory::jsonb, memory IS NOT NULL, prompt_id,
        ensemble_config::jsonb
    FROM admitted),
bodies AS (
    INSERT INTO llm_request_bodies (request_id, user_id, request_body, body_bytes)
    SELECT id, user_id, request_body::json, body_bytes FROM admitted)
SELECT request_id, decision, limit_name, limit_value, limit_left, retry_after_s, other_request_id
FROM verdicts;

-- name: settle_final_calls
-- As settle_calls, for a batch in which every answer ends its request and none is a choice: no candidates, nothing
-- to look for in other partitions; and as one JSON document, in which what is not told is as nearly always.
-- Returns one row: the ids of the answers that were not written, or NULL. Index and locks: as settle_calls.
WITH batch AS MATERIALIZED (
    SELECT * FROM json_to_recordset(:rows::json)
    AS t (request_id uuid, request_status text, completed_at timestamptz, id uuid, user_id uuid, provider_id uuid,
        provider_name text, model_name text, upstream_id text, status text, error_code text, error text,
        http_status smallint, tokens_prompt integer, tokens_completion integer, tokens_cached integer,
        tokens_reasoning integer, usage_estimated boolean, latency_ms integer, first_token_ms integer,
        chunk_count integer, finish_reason text, cost_usd numeric, pricing_id uuid, content text, raw_response text,
        usage_id uuid, api_key_id uuid, project_id uuid, agent_id text, attempt smallint, selected boolean,
        cached boolean, confidence numeric, gap_p50_ms integer, gap_p95_ms integer, gap_max_ms integer)),
closed AS (
    UPDATE llm_requests r SET status = coalesce(b.request_status, 'completed'), completed_at = b.completed_at
    FROM batch b
    WHERE r.id = b.request_id AND r.completed_at IS NULL
      AND r.id = ANY (ARRAY(SELECT k.request_id FROM batch k)) AND r.id BETWEEN :lowest AND :highest
    RETURNING b.id AS response_id, r.created_at AS admitted_at),
written AS MATERIALIZED (
    SELECT b.*, c.admitted_at FROM closed c JOIN batch b ON b.id = c.response_id),
responses AS (
    INSERT INTO llm_responses (id, request_id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_total, tokens_cached, tokens_reasoning, usage_estimated, latency_ms, first_token_ms,
        chunk_count, finish_reason, cost_usd, pricing_id, created_at, attempt, selected, cached, confidence,
        gap_p50_ms, gap_p95_ms, gap_max_ms)
    SELECT id, request_id, user_id, provider_id, provider_name, model_name,
        upstream_id, coalesce(status, 'completed'), error_code, error, http_status, coalesce(tokens_prompt, 0),
        coalesce(tokens_completion, 0), coalesce(tokens_prompt, 0) + coalesce(tokens_completion, 0),
        coalesce(tokens_cached, 0), coalesce(tokens_reasoning, 0), coalesce(usage_estimated, false), latency_ms,
        first_token_ms, chunk_count, finish_reason, coalesce(cost_usd, 0), pricing_id, completed_at,
        coalesce(attempt, 1), coalesce(selected, true), coalesce(cached, false), confidence,
        gap_p50_ms, gap_p95_ms, gap_max_ms
    FROM written),
bodies AS (
    INSERT INTO llm_response_bodies (response_id, request_id, user_id, content, raw_response)
    SELECT id, request_id, user_id, content, raw_response::json FROM written
    WHERE content IS NOT NULL OR raw_response IS NOT NULL),
usage AS (
    INSERT INTO llm_token_usage (id, timestamp, user_id, api_key_id, project_id, agent_id, provider_name,
        model, request_id, response_id, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        cost_usd, pricing_id, estimated, created_at)
    SELECT usage_id, completed_at, user_id, api_key_id, project_id, agent_id, provider_name,
        model_name, request_id, id, coalesce(tokens_prompt, 0), coalesce(tokens_completion, 0),
        coalesce(tokens_cached, 0), coalesce(tokens_reasoning, 0), coalesce(cost_usd, 0), pricing_id,
        coalesce(usage_estimated, false), completed_at
    FROM written WHERE usage_id IS NOT NULL),
charge AS MATERIALIZED (
    SELECT CASE WHEN EXISTS (SELECT FROM call_holds h WHERE h.request_id = ANY (ARRAY(SELECT k.request_id FROM batch k)))
          OR EXISTS (SELECT FROM budgets b WHERE b.user_id = ANY (ARRAY(SELECT k.user_id FROM batch k)))
        THEN (SELECT helix_charge(array_agg(request_id), array_agg(user_id), array_agg(api_key_id),
            array_agg(project_id), array_agg(agent_id), array_agg(admitted_at), array_agg(coalesce(cost_usd, 0)),
            array_agg(coalesce(tokens_prompt, 0) + coalesce(tokens_completion, 0)), array_agg(true)) FROM written)
        END AS charged)
SELECT c.charged, (SELECT array_agg(b.id) FROM batch b WHERE b.id NOT IN (SELECT w.id FROM written w)) AS unwritten
FROM charge c;

-- name: reopen_calls
-- Before a spool is replayed: open again what a sweep closed in the meantime, because the truth about
-- these calls is here. The sweep's own answers stay, not selected any more. Repeating it is harmless.
-- Index: idx_responses_request_id, llm_requests_pkey. Locks: those rows.
WITH presumed AS (
    UPDATE llm_responses p SET selected = false
    WHERE p.request_id = ANY (:request_ids::uuid[]) AND p.error_code = 'gateway_died' AND p.selected
    RETURNING p.request_id)
UPDATE llm_requests q SET status = 'running', completed_at = NULL
FROM presumed WHERE q.id = presumed.request_id AND q.id = ANY (:request_ids::uuid[]);

-- name: settled_calls
-- Which of these answers are on record, to learn what a broken commit did.
-- Index: llm_responses_pkey, llm_requests_pkey. Locks: none.
SELECT r.id AS response_id, r.selected, q.completed_at
FROM llm_responses r JOIN llm_requests q ON q.id = r.request_id
WHERE r.id = ANY (:response_ids::uuid[]) AND q.id = ANY (:request_ids::uuid[]);

-- name: hold_lease
-- Say that this process lives, for as long as this connection does. Shared, so that a process can
-- hold it on a second connection before the server noticed that the first is gone.
-- Locks: an advisory lock until the connection ends.
SELECT pg_try_advisory_lock_shared(:lease::bigint) AS held;

-- name: find_project
-- Index: projects_pkey. Locks: none.
SELECT true AS found FROM projects WHERE id = :id AND user_id = :user_id;

-- name: find_session
-- Index: user_sessions_pkey. Locks: none.
SELECT true AS found FROM user_sessions
WHERE id = :id AND user_id = :user_id AND status = 'active' AND expires_at > now();

-- name: unfinished_calls
-- Requests still open whose gateway is not this one, the oldest first; with the lease of that gateway
-- and whether anybody holds it now. Index: idx_requests_status. Locks: none.
SELECT q.id, q.user_id, q.api_key_id, q.project_id, q.agent_id, q.model_name, q.created_at,
    EXISTS (SELECT FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND ((l.classid::bigint << 32) | l.objid::bigint) = (q.metadata ->> 'lease')::bigint) AS alive
FROM llm_requests q
WHERE q.status IN ('pending', 'running') AND q.metadata ->> 'lease' <> :lease::text
ORDER BY q.id
LIMIT :max_count;

-- name: release_expired_reservations
-- Give back what is reserved past its time, whatever became of the call: a sweep knows only calls on record.
-- A settlement that comes after all charges what was used and gives back nothing.
-- Index: budget_reservations_expires_at_idx, the primary keys. Locks: the periods, in the order of their
-- keys as helix_admit() and helix_charge() take them, then the reservations.
WITH expired AS MATERIALIZED (
    SELECT v.request_id, v.budget_id, v.period_start FROM budget_reservations v
    WHERE v.expires_at <= :now::timestamptz ORDER BY v.expires_at LIMIT :max_count),
held AS MATERIALIZED (
    SELECT p.budget_id, p.period_start FROM budget_periods p
    WHERE (p.budget_id, p.period_start) IN (SELECT e.budget_id, e.period_start FROM expired e)
    ORDER BY p.budget_id, p.period_start FOR NO KEY UPDATE),
gone AS (
    DELETE FROM budget_reservations v USING expired e
    WHERE v.request_id = e.request_id AND v.budget_id = e.budget_id AND (SELECT count(*) FROM held) > 0
    RETURNING v.budget_id, v.period_start, v.amount_usd),
sums AS (
    SELECT g.budget_id, g.period_start, sum(g.amount_usd) AS amount_usd, count(*) AS calls
    FROM gone g GROUP BY 1, 2),
released AS (
    UPDATE budget_periods p SET reserved_usd = p.reserved_usd - s.amount_usd
    FROM sums s WHERE p.budget_id = s.budget_id AND p.period_start = s.period_start)
SELECT coalesce(sum(calls), 0)::bigint AS released FROM sums;

-- name: release_expired_holds
-- The same for tokens and parallel calls held by requests older than a day; their minute is long over.
-- Index: call_holds_pkey, rate_windows_pkey. Locks: the windows, in the order of their keys, then the holds.
WITH expired AS MATERIALIZED (
    SELECT h.request_id, h.subject_id FROM call_holds h
    WHERE h.request_id < uuid_floor(:now::timestamptz - interval '1 day') ORDER BY h.request_id LIMIT :max_count),
held AS MATERIALIZED (
    SELECT w.subject_id FROM rate_windows w WHERE w.subject_id IN (SELECT e.subject_id FROM expired e)
    ORDER BY w.subject_id FOR NO KEY UPDATE),
gone AS (
    DELETE FROM call_holds h USING expired e
    WHERE h.request_id = e.request_id AND h.subject_id = e.subject_id AND (SELECT count(*) FROM held) > 0
    RETURNING h.subject_id, h.parallel),
sums AS (
    SELECT g.subject_id, sum(g.parallel) AS parallel, count(*) AS calls FROM gone g GROUP BY 1),
released AS (
    UPDATE rate_windows w SET parallel = w.parallel - s.parallel
    FROM sums s WHERE w.subject_id = s.subject_id)
SELECT coalesce(sum(calls), 0)::bigint AS released FROM sums;

-- name: server_uptime
-- Seconds since the database server started. Locks: none.
SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::double precision AS uptime_s;

-- name: tail_calls
-- The newest calls, or with `since` those that ended after it, the oldest first.
-- Index: idx_completions_created, the primary keys. Locks: none.
SELECT * FROM (
    SELECT r.created_at AS ended_at, r.request_id, r.id AS response_id, q.created_at, u.email AS user_email,
        k.key_prefix, q.model_name AS requested_model, r.provider_name, r.model_name, q.stream, r.status,
        r.error_code, r.tokens_prompt, r.tokens_completion, r.usage_estimated, r.cost_usd, r.latency_ms,
        r.first_token_ms
    FROM llm_responses r
    JOIN llm_requests q ON q.id = r.request_id
    LEFT JOIN users u ON u.id = q.user_id
    LEFT JOIN api_keys k ON k.id = q.api_key_id
    WHERE (:since::timestamptz IS NULL OR r.created_at > :since)
      AND (:floor::uuid IS NULL OR r.id >= :floor)
    ORDER BY r.created_at DESC, r.id DESC
    LIMIT :max_count) AS newest
ORDER BY ended_at, response_id;

-- name: show_request
-- A request by its id, or by that of one of its answers. Index: the primary keys. Locks: none.
SELECT q.id AS request_id, q.status AS request_status, q.request_type, q.model_name AS requested_model,
    q.stream, q.model_params, q.idempotency_key, q.client_request_id, q.metadata, q.created_at, q.started_at,
    q.completed_at, q.agent_id, q.session_id, q.task_id, q.parent_request_id, q.memory_enhanced, q.memory,
    q.prompt_id, q.ensemble_config, q.user_id, u.email AS user_email, q.api_key_id, k.key_prefix,
    k.name AS key_name, q.project_id, p.name AS project_name, b.request_body::text AS request_body, b.body_bytes
FROM llm_requests q
LEFT JOIN llm_request_bodies b ON b.request_id = q.id
LEFT JOIN users u ON u.id = q.user_id
LEFT JOIN api_keys k ON k.id = q.api_key_id
LEFT JOIN projects p ON p.id = q.project_id
WHERE q.id = :id OR q.id = (SELECT r.request_id FROM llm_responses r WHERE r.id = :id);

-- name: show_responses
-- The answers of a request, with texts, usage and the price they were charged by.
-- Index: idx_responses_request_id, llm_token_usage_request_id_idx. Locks: none.
SELECT r.id AS response_id, r.attempt, r.status, r.provider_name, r.model_name, r.upstream_id, r.http_status,
    r.error_code, r.error, r.finish_reason, r.selected, r.cached, r.confidence, r.tokens_prompt,
    r.tokens_completion, r.tokens_total, r.tokens_cached, r.tokens_reasoning, r.usage_estimated,
    r.latency_ms, r.first_token_ms, r.chunk_count, r.gap_p50_ms, r.gap_p95_ms, r.gap_max_ms,
    r.cost_usd, r.created_at, t.id AS usage_id, r.pricing_id, x.model AS price_model,
    x.input_cost_per_million, x.output_cost_per_million, x.effective_date AS price_effective_date,
    b.content, b.raw_response::text AS raw_response
FROM llm_responses r
LEFT JOIN llm_response_bodies b ON b.response_id = r.id
LEFT JOIN llm_token_usage t ON t.request_id = r.request_id AND t.response_id = r.id
LEFT JOIN llm_pricing x ON x.id = r.pricing_id
WHERE r.request_id = :request_id
ORDER BY r.attempt, r.id;

-- name: recorded_answer
-- A request of the tenant that has ended, with the answer the client got, or the last failure.
-- Index: llm_requests_pkey, idx_responses_request_id, llm_response_bodies_pkey. Locks: none.
SELECT q.id AS request_id, q.status, r.id AS response_id, r.provider_id,
    coalesce(r.provider_name, 'unknown') AS provider_name, coalesce(r.model_name, q.model_name) AS model_name,
    r.upstream_id, r.finish_reason, r.error_code, r.error, r.http_status,
    coalesce(r.tokens_prompt, 0) AS tokens_prompt, coalesce(r.tokens_completion, 0) AS tokens_completion,
    coalesce(r.tokens_cached, 0) AS tokens_cached, coalesce(r.tokens_reasoning, 0) AS tokens_reasoning,
    coalesce(r.usage_estimated, false) AS usage_estimated, coalesce(r.cost_usd, 0) AS cost_usd,
    coalesce(r.latency_ms, 0) AS latency_ms, coalesce(r.cached, false) AS cached,
    b.content, b.raw_response::text AS raw_response
FROM llm_requests q
LEFT JOIN LATERAL (
    SELECT * FROM llm_responses a WHERE a.request_id = q.id
    ORDER BY a.selected DESC, a.attempt DESC, a.id DESC LIMIT 1) r ON true
LEFT JOIN llm_response_bodies b ON b.response_id = r.id
WHERE q.id = :request_id AND q.completed_at IS NOT NULL;

-- name: cached_answer
-- The answer remembered under a key of the tenant, while its time lasts and its text is there.
-- Index: response_cache_pkey, the primary keys of the answer. Locks: none.
SELECT c.request_id, 'completed' AS status, r.id AS response_id, r.provider_id, r.provider_name, r.model_name,
    r.upstream_id, r.finish_reason, r.error_code, r.error, r.http_status, r.tokens_prompt,
    r.tokens_completion, r.tokens_cached, r.tokens_reasoning, r.usage_estimated, r.cost_usd, r.latency_ms,
    r.cached, b.content, b.raw_response::text AS raw_response
FROM response_cache c
JOIN llm_responses r ON r.id = c.response_id AND r.status = 'completed'
JOIN llm_response_bodies b ON b.response_id = c.response_id
WHERE c.key = :key AND c.expires_at > :now;

-- name: remember_answers
-- Point keys at answers on record; the newest answer of a key stays. Runs as helix_recorder.
-- Index: response_cache_pkey. Locks: those rows.
INSERT INTO response_cache (key, user_id, request_id, response_id, created_at, expires_at)
SELECT DISTINCT ON (t.key) t.key, t.user_id, t.request_id, t.response_id, t.created_at, t.expires_at
FROM unnest(:key::bytea[], :user_id::uuid[], :request_id::uuid[], :response_id::uuid[],
    :created_at::timestamptz[], :expires_at::timestamptz[])
AS t (key, user_id, request_id, response_id, created_at, expires_at)
ORDER BY t.key, t.response_id DESC
ON CONFLICT (key) DO UPDATE SET user_id = excluded.user_id, request_id = excluded.request_id,
    response_id = excluded.response_id, created_at = excluded.created_at, expires_at = excluded.expires_at;

-- name: forget_expired_answers
-- Index: response_cache_expires_at_idx. Locks: those rows; skips what others forget.
DELETE FROM response_cache WHERE key IN (
    SELECT key FROM response_cache WHERE expires_at <= :now
    ORDER BY expires_at LIMIT 10000 FOR UPDATE SKIP LOCKED);

-- name: forget_oldest_answers
-- The oldest answers beyond so many. Reads the whole table, which is that bounded, by index only.
-- Index: response_cache_created_at_idx. Locks: those rows; skips what others forget.
DELETE FROM response_cache WHERE key IN (
    SELECT key FROM response_cache
    WHERE created_at < (SELECT created_at FROM response_cache ORDER BY created_at DESC
                        OFFSET :entries_max LIMIT 1)
    ORDER BY created_at LIMIT 10000 FOR UPDATE SKIP LOCKED);

-- name: write_stream_samples
-- The arrivals of sampled streams, and their ends. Runs as helix_recorder. Index: none. Locks: none.
INSERT INTO streaming_analytics (id, stream_id, event_type, chunk_number, latency_ms, tokens_delta, chunks,
    max_gap_ms, request_id, provider_name, model_name, user_id, timestamp)
SELECT * FROM unnest(
    :id::uuid[], :stream_id::text[], :event_type::text[], :chunk_number::integer[], :latency_ms::bigint[],
    :tokens_delta::integer[], :chunks::integer[], :max_gap_ms::bigint[], :request_id::uuid[],
    :provider_name::text[], :model_name::text[], :user_id::uuid[], :timestamp::timestamptz[]);

-- name: request_text
-- What a client of this tenant sent. Index: llm_requests_pkey, llm_request_bodies_pkey. Locks: none.
SELECT b.request_body::text AS request_body
FROM llm_requests q JOIN llm_request_bodies b ON b.request_id = q.id
WHERE q.id = :request_id AND q.request_type = :request_type;

-- name: erase_response_texts
-- Erase the answers of a user's call. Index: idx_responses_request_id. Locks: those rows.
DELETE FROM llm_response_bodies
WHERE response_id IN (SELECT id FROM llm_responses WHERE request_id = :request_id) AND user_id = :user_id;

-- name: erase_request_text
-- Erase what was asked in a user's call. Index: llm_request_bodies_pkey. Locks: that row.
DELETE FROM llm_request_bodies WHERE request_id = :request_id AND user_id = :user_id;

-- name: bury_texts
-- If the call is archived, its texts stay away as well. Index: archive_tombstones_pkey. Locks: that row.
INSERT INTO archive_tombstones (request_id, user_id) VALUES (:request_id, :user_id) ON CONFLICT (request_id) DO NOTHING;

-- name: list_calls
-- A page of calls, the newest first, each with the answer the client got and all its tries' cost.
-- Keyset by id: ids lie in time order. Index: llm_requests_pkey, idx_requests_user_id,
-- idx_responses_request_id. Locks: none.
SELECT q.id AS request_id, q.created_at, q.completed_at, q.status, q.request_type, q.model_name, q.stream,
    q.user_id, q.api_key_id, q.session_id, q.project_id, q.agent_id, q.task_id, q.parent_request_id,
    q.memory_enhanced, r.id AS response_id, r.provider_name, r.model_name AS answered_model, r.error_code,
    r.finish_reason, r.cached, r.tokens_prompt, r.tokens_completion, r.usage_estimated, r.latency_ms,
    r.first_token_ms, r.gap_p50_ms, r.gap_p95_ms, r.gap_max_ms, r.chunk_count, t.tries, t.cost_usd
FROM (
    SELECT * FROM llm_requests a
    WHERE (:before::uuid IS NULL OR a.id < :before) AND (:floor::uuid IS NULL OR a.id >= :floor)
      AND (:ceiling::uuid IS NULL OR a.id < :ceiling) AND (:status::text IS NULL OR a.status = :status)
      AND (:model_name::text IS NULL OR a.model_name = :model_name)
      AND (:session_id::uuid IS NULL OR a.session_id = :session_id)
      AND (:project_id::uuid IS NULL OR a.project_id = :project_id)
    ORDER BY a.id DESC LIMIT :max_count) q
LEFT JOIN LATERAL (
    SELECT * FROM llm_responses b WHERE b.request_id = q.id
    ORDER BY b.selected DESC, b.attempt DESC, b.id DESC LIMIT 1) r ON true
CROSS JOIN LATERAL (
    SELECT count(*) AS tries, coalesce(sum(c.cost_usd), 0) AS cost_usd
    FROM llm_responses c WHERE c.request_id = q.id) t
ORDER BY q.id DESC;
