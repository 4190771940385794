-- Statements of bench/retention.py. Ids follow from the moment and the number, so that all rows of a call agree.

-- name: make_place
CREATE TEMPORARY TABLE made (n bigint, at timestamptz, user_id uuid, id uuid, response_id uuid);

-- name: make_calls
INSERT INTO made (n, at, user_id, id, response_id)
SELECT m.n, m.at, u.id,
    (left(uuid_floor(m.at)::text, 15) || substr(m.asked, 1, 3) || '-8' || substr(m.asked, 4, 3) || '-' || substr(m.asked, 7, 12))::uuid,
    (left(uuid_floor(m.at)::text, 15) || substr(m.told, 1, 3) || '-8' || substr(m.told, 4, 3) || '-' || substr(m.told, 7, 12))::uuid
FROM (SELECT n, at, md5(n || 'asked' || at) AS asked, md5(n || 'told' || at) AS told
      FROM (SELECT n, :start::timestamptz + (:end::timestamptz - :start::timestamptz) * (n::double precision / :calls::bigint) AS at
            FROM generate_series(0, :calls::bigint - 1) AS n) AS x) AS m
JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS k FROM users) AS u ON u.k = m.n % (SELECT count(*) FROM users);

-- name: make_requests
INSERT INTO llm_requests (id, user_id, model_name, status, created_at, started_at, completed_at, metadata)
SELECT id, user_id, 'mock/echo', 'completed', at, at, at + interval '1 second', jsonb_build_object('run', n) FROM made;

-- name: make_request_bodies
INSERT INTO llm_request_bodies (request_id, user_id, request_body, body_bytes)
SELECT id, user_id, json_build_object('model', 'mock/echo', 'messages', json_build_array(json_build_object('role', 'user', 'content',
    'question ' || n || ' ' || md5(n::text) || repeat(' and what comes after that', 8)))), 380 FROM made;

-- name: make_responses
INSERT INTO llm_responses (id, request_id, user_id, provider_name, model_name, upstream_id, status, tokens_prompt, tokens_completion,
    tokens_total, latency_ms, cost_usd, created_at)
SELECT response_id, id, user_id, 'mock', 'mock/echo', 'up-' || n, 'completed', 60, 40, 100, 700, 0.000123, at + interval '1 second' FROM made;

-- name: make_response_bodies
INSERT INTO llm_response_bodies (response_id, request_id, user_id, content)
SELECT response_id, id, user_id, 'answer ' || n || ' ' || md5('a' || n) || repeat(' and so it goes on', 12) FROM made;

-- name: make_usage
INSERT INTO llm_token_usage (id, timestamp, user_id, provider_name, model, request_id, response_id, input_tokens, output_tokens, cost_usd)
SELECT response_id, at + interval '1 second', user_id, 'mock', 'mock/echo', id, response_id, 60, 40, 0.000123 FROM made;

-- name: make_errors
INSERT INTO error_log (id, code, category, message, user_id, created_at)
SELECT id, (n % 7)::integer, 'provider', 'it went wrong', user_id, at FROM made WHERE n % 50 = 0;

-- name: clear_place
DROP TABLE made;

-- name: sizes
SELECT p.relname::text AS name, sum(pg_total_relation_size(i.inhrelid))::bigint AS bytes
FROM pg_class AS p JOIN pg_inherits AS i ON i.inhparent = p.oid WHERE p.relname = ANY (:tables::text[]) GROUP BY 1;

-- name: delete_llm_response_bodies
WITH gone AS (DELETE FROM llm_response_bodies WHERE response_id = ANY (ARRAY(
    SELECT response_id FROM llm_response_bodies WHERE response_id < :floor ORDER BY response_id LIMIT :batch)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: vacuum_llm_response_bodies
VACUUM llm_response_bodies;

-- name: delete_llm_responses
WITH gone AS (DELETE FROM llm_responses WHERE id = ANY (ARRAY(
    SELECT id FROM llm_responses WHERE id < :floor ORDER BY id LIMIT :batch)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: vacuum_llm_responses
VACUUM llm_responses;

-- name: delete_llm_request_bodies
WITH gone AS (DELETE FROM llm_request_bodies WHERE request_id = ANY (ARRAY(
    SELECT request_id FROM llm_request_bodies WHERE request_id < :floor ORDER BY request_id LIMIT :batch)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: vacuum_llm_request_bodies
VACUUM llm_request_bodies;

-- name: delete_llm_requests
WITH gone AS (DELETE FROM llm_requests WHERE id = ANY (ARRAY(
    SELECT id FROM llm_requests WHERE id < :floor ORDER BY id LIMIT :batch)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: vacuum_llm_requests
VACUUM llm_requests;

-- name: delete_error_log
WITH gone AS (DELETE FROM error_log WHERE id = ANY (ARRAY(
    SELECT id FROM error_log WHERE id < :floor ORDER BY id LIMIT :batch)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: vacuum_error_log
VACUUM error_log;

