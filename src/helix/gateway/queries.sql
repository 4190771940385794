-- Statements of the gateway. admit_calls, settle_calls and settled_calls run as helix_recorder on
-- connections of their own; the rest as helix_operator.

-- name: admit_calls
-- Record many requests and their bodies: one statement, one commit. Written before a provider is
-- called. Repeating it after an unknown outcome changes nothing.
-- Index: the primary keys. Locks: key-share on the users, keys, sessions and projects referred to.
WITH batch AS MATERIALIZED (
    SELECT * FROM unnest(
        :id::uuid[], :user_id::uuid[], :api_key_id::uuid[], :session_id::uuid[], :project_id::uuid[],
        :agent_id::text[], :model_name::text[], :stream::boolean[], :model_params::text[],
        :idempotency_key::text[], :client_request_id::text[], :metadata::text[],
        :created_at::timestamptz[], :request_body::text[], :body_bytes::integer[])
    AS t (id, user_id, api_key_id, session_id, project_id, agent_id, model_name, stream, model_params,
        idempotency_key, client_request_id, metadata, created_at, request_body, body_bytes)),
requests AS (
    INSERT INTO llm_requests (id, user_id, api_key_id, session_id, project_id, agent_id, model_name,
        request_type, status, stream, model_params, idempotency_key, client_request_id, metadata,
        created_at, started_at)
    SELECT id, user_id, api_key_id, session_id, project_id, agent_id, model_name,
        'chat', 'running', stream, model_params::jsonb, idempotency_key, client_request_id, metadata::jsonb,
        created_at, created_at
    FROM batch
    ON CONFLICT DO NOTHING)
INSERT INTO llm_request_bodies (request_id, user_id, request_body, body_bytes)
SELECT id, user_id, request_body::json, body_bytes FROM batch
ON CONFLICT DO NOTHING;

-- name: settle_calls
-- Record the end of many requests, with answer, texts, usage and cost: one statement, one commit.
-- Only a request that still runs is settled: who closes it first, its gateway or the sweep after a
-- crash, wins, and the other writes nothing. Returns the requests settled.
-- Index: llm_requests_pkey. The ids stand in it twice: as a list, so that a plan can only look these
-- rows up, and as bounds, which leave the partitions of other months alone. Locks: those rows.
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
        :agent_id::text[])
    AS t (request_id, request_status, completed_at, id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_cached, tokens_reasoning, usage_estimated, latency_ms, first_token_ms, chunk_count,
        finish_reason, cost_usd, pricing_id, content, raw_response, usage_id, api_key_id, project_id,
        agent_id)),
closed AS (
    UPDATE llm_requests r SET status = b.request_status, completed_at = b.completed_at
    FROM batch b
    WHERE r.id = b.request_id AND r.completed_at IS NULL
      AND r.id = ANY (:request_id) AND r.id BETWEEN :lowest AND :highest
    RETURNING b.*),
responses AS (
    INSERT INTO llm_responses (id, request_id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_total, tokens_cached, tokens_reasoning, usage_estimated, latency_ms, first_token_ms,
        chunk_count, finish_reason, cost_usd, pricing_id, created_at)
    SELECT id, request_id, user_id, provider_id, provider_name, model_name,
        upstream_id, status, error_code, error, http_status, tokens_prompt, tokens_completion,
        tokens_prompt + tokens_completion, tokens_cached, tokens_reasoning, usage_estimated, latency_ms,
        first_token_ms, chunk_count, finish_reason, cost_usd, pricing_id, completed_at
    FROM closed),
bodies AS (
    INSERT INTO llm_response_bodies (response_id, request_id, user_id, content, raw_response)
    SELECT id, request_id, user_id, content, raw_response::json FROM closed
    WHERE content IS NOT NULL OR raw_response IS NOT NULL),
usage AS (
    INSERT INTO llm_token_usage (id, timestamp, user_id, api_key_id, project_id, agent_id, provider_name,
        model, request_id, response_id, input_tokens, output_tokens, cached_tokens, reasoning_tokens,
        cost_usd, pricing_id, estimated, created_at)
    SELECT usage_id, completed_at, user_id, api_key_id, project_id, agent_id, provider_name,
        model_name, request_id, id, tokens_prompt, tokens_completion, tokens_cached, tokens_reasoning,
        cost_usd, pricing_id, usage_estimated, completed_at
    FROM closed WHERE usage_id IS NOT NULL)
SELECT request_id FROM closed;

-- name: settled_calls
-- How these requests stand, to learn what a broken commit did. Index: llm_requests_pkey. Locks: none.
SELECT id, status, completed_at FROM llm_requests WHERE id = ANY (:ids::uuid[]);

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
    q.completed_at, q.agent_id, q.session_id, q.user_id, u.email AS user_email, q.api_key_id, k.key_prefix,
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
    r.error_code, r.error, r.finish_reason, r.tokens_prompt, r.tokens_completion, r.tokens_total,
    r.tokens_cached, r.tokens_reasoning, r.usage_estimated, r.latency_ms, r.first_token_ms, r.chunk_count,
    r.cost_usd, r.created_at, t.id AS usage_id, r.pricing_id, x.model AS price_model,
    x.input_cost_per_million, x.output_cost_per_million, x.effective_date AS price_effective_date,
    b.content, b.raw_response::text AS raw_response
FROM llm_responses r
LEFT JOIN llm_response_bodies b ON b.response_id = r.id
LEFT JOIN llm_token_usage t ON t.request_id = r.request_id AND t.response_id = r.id
LEFT JOIN llm_pricing x ON x.id = r.pricing_id
WHERE r.request_id = :request_id
ORDER BY r.attempt, r.id;
