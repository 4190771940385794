-- compatibility_views.sql: the other names the seed documents use for the same facts, and llm_calls, the one view to look at a call with.
--
-- Each view shows a canonical table under the column names of the document that used that name. All are security_invoker: a reader sees
-- through them exactly what he may see in the tables beneath. They are for reading; write to the tables.

-- ---------------------------------------------------------------------------------------------------------------------
-- Reading JSON that was stored as it was sent
-- ---------------------------------------------------------------------------------------------------------------------

-- Bodies are json, not jsonb, because they are kept letter for letter; a body may hold \u0000 or half a surrogate pair, and then every json
-- operator fails on it. One such row must not break a view over all rows, so those two escapes are left out before the text is looked into. The
-- pattern takes every backslash with what it escapes, so that an escaped backslash before "u0000" is not mistaken for one.
CREATE FUNCTION helix_readable_json(document json) RETURNS json
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN document::text ~ '\\u(0000|[dD][89a-fA-F])' THEN
        regexp_replace(document::text, '(\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2}', '\1', 'g')::json
    ELSE document END;
COMMENT ON FUNCTION helix_readable_json(json) IS 'The document without \u0000 and lone surrogates, which json operators refuse: for reading, never for storing.';

-- The text of one message: a string, or the text parts of a list of parts.
CREATE FUNCTION helix_content_text(content json) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE json_typeof(content)
        WHEN 'string' THEN content #>> '{}'
        WHEN 'array' THEN (
            SELECT string_agg(CASE json_typeof(part.value) WHEN 'string' THEN part.value #>> '{}' WHEN 'object' THEN part.value ->> 'text' END, E'\n' ORDER BY part.ordinality)
            FROM json_array_elements(CASE json_typeof(content) WHEN 'array' THEN content ELSE '[]' END) WITH ORDINALITY AS part (value, ordinality))
        WHEN 'object' THEN content ->> 'text'
        END;
COMMENT ON FUNCTION helix_content_text(json) IS 'The text of a message''s content: the string itself, or the text parts of a list, one a line.';

-- What was asked: prompt (completions), the last message of the user (chat, messages), or input (responses, embeddings).
CREATE FUNCTION helix_prompt_text(request_body json) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT coalesce(
            helix_content_text(b.body -> 'prompt'),
            (SELECT helix_content_text(m.value -> 'content')
             FROM json_array_elements(CASE json_typeof(b.body -> 'messages') WHEN 'array' THEN b.body -> 'messages'
                                      ELSE CASE json_typeof(b.body -> 'input') WHEN 'array' THEN b.body -> 'input' ELSE '[]' END END) WITH ORDINALITY AS m (value, ordinality)
             WHERE json_typeof(m.value) = 'object' AND m.value ->> 'role' = 'user' ORDER BY m.ordinality DESC LIMIT 1),
            helix_content_text(b.body -> 'input'))
        FROM (SELECT CASE json_typeof(helix_readable_json(request_body)) WHEN 'object' THEN helix_readable_json(request_body) ELSE '{}' END AS body) AS b);
COMMENT ON FUNCTION helix_prompt_text(json) IS 'What a request asked, as one text: prompt, or the last message of the user, or input.';

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_calls
-- ---------------------------------------------------------------------------------------------------------------------

-- One row per answer with everything around it. The place to begin: SELECT … FROM llm_calls WHERE created_at > now() - interval '1 hour'.
CREATE VIEW llm_calls WITH (security_invoker = true) AS
SELECT r.id,
       r.request_id,
       r.id AS response_id,
       q.user_id,
       u.email AS user_email,
       q.api_key_id,
       k.key_prefix,
       k.name AS key_name,
       q.session_id,
       q.project_id,
       p.name AS project_name,
       q.agent_id,
       r.provider_id,
       r.provider_name,
       q.model_name AS requested_model,
       r.model_name,
       q.request_type,
       q.stream,
       q.model_params,
       q.ensemble_config,
       q.memory_enhanced,
       q.memory,
       q.prompt_id,
       helix_prompt_text(qb.request_body) AS prompt,
       helix_readable_json(qb.request_body) -> 'messages' AS messages,
       qb.request_body,
       rb.content AS response,
       rb.content,
       rb.raw_response AS response_body,
       rb.raw_response,
       r.tokens_prompt AS tokens_in,
       r.tokens_completion AS tokens_out,
       r.tokens_prompt AS prompt_tokens,
       r.tokens_completion AS completion_tokens,
       r.tokens_total AS total_tokens,
       r.tokens_cached AS cached_tokens,
       r.tokens_reasoning AS reasoning_tokens,
       r.usage_estimated,
       r.latency_ms,
       r.latency_ms AS response_time,
       r.first_token_ms,
       r.chunk_count,
       r.cost_usd AS cost,
       r.pricing_id,
       x.input_cost_per_million,
       x.output_cost_per_million,
       x.effective_date AS price_effective_date,
       r.status,
       q.status AS request_status,
       r.error_code,
       r.error,
       r.http_status,
       r.finish_reason,
       r.confidence,
       r.selected,
       r.cached,
       r.attempt,
       r.upstream_id,
       q.idempotency_key,
       q.client_request_id,
       q.metadata,
       q.created_at,
       q.started_at,
       q.completed_at,
       r.created_at AS responded_at
FROM llm_responses AS r
JOIN llm_requests AS q ON q.id = r.request_id
LEFT JOIN llm_request_bodies AS qb ON qb.request_id = r.request_id
LEFT JOIN llm_response_bodies AS rb ON rb.response_id = r.id
LEFT JOIN users AS u ON u.id = q.user_id
LEFT JOIN api_keys AS k ON k.id = q.api_key_id
LEFT JOIN projects AS p ON p.id = q.project_id
LEFT JOIN llm_pricing AS x ON x.id = r.pricing_id;
COMMENT ON VIEW llm_calls IS 'One row per answer with everything around it: request, texts, tokens, price and cost, key, user. Requests without any answer yet are in llm_requests only.';
COMMENT ON COLUMN llm_calls.id IS 'llm_responses.id: several rows share a request_id where an ensemble or a retry asked several times.';
COMMENT ON COLUMN llm_calls.prompt IS 'What was asked, as text (helix_prompt_text); NULL when the texts are gone.';
COMMENT ON COLUMN llm_calls.response IS 'The answer''s text; NULL when it failed or the texts are gone.';
COMMENT ON COLUMN llm_calls.cost IS 'USD, exact.';
COMMENT ON COLUMN llm_calls.input_cost_per_million IS 'USD per million input tokens of the price row that was valid at the time.';
COMMENT ON COLUMN llm_calls.response_time IS 'Milliseconds; the same as latency_ms.';
COMMENT ON COLUMN llm_calls.key_prefix IS 'The shown beginning of the API key, never its hash.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The other names
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW providers WITH (security_invoker = true) AS
SELECT p.id, p.name, p.type, p.enabled, p.priority, p.created_at, p.verification_score, p.last_verified, p.health_status, p.capabilities, p.rate_limits
FROM llm_providers AS p;
COMMENT ON VIEW providers IS 'llm_providers under the name of schema.md v1.0: what routing looks at, without the catalogue columns.';

CREATE VIEW sessions WITH (security_invoker = true) AS
SELECT s.id, s.user_id, s.provider_id, s.created_at, s.expires_at, s.last_activity, s.metadata, s.context
FROM user_sessions AS s;
COMMENT ON VIEW sessions IS 'user_sessions under the name of schema.md v1.0: sessions without anything secret.';

CREATE VIEW completions WITH (security_invoker = true) AS
SELECT r.id, q.session_id, r.provider_id, helix_prompt_text(qb.request_body) AS prompt, rb.content AS response, r.tokens_prompt AS tokens_in, r.tokens_completion AS tokens_out,
       r.latency_ms, r.created_at, r.cached, r.error, coalesce(q.metadata, '{}') AS metadata
FROM llm_responses AS r
JOIN llm_requests AS q ON q.id = r.request_id
LEFT JOIN llm_request_bodies AS qb ON qb.request_id = r.request_id
LEFT JOIN llm_response_bodies AS rb ON rb.response_id = r.id
WHERE r.selected;
COMMENT ON VIEW completions IS 'What was asked and what the client got, one row each (schema.md v1.0): the selected answers of llm_responses with their request. llm_calls shows all answers.';

CREATE VIEW debate_logs WITH (security_invoker = true) AS
SELECT d.id, d.topic, CASE d.status WHEN 'running' THEN 'active' ELSE d.status END::varchar(50) AS status, d.strategy, d.total_rounds, d.consensus_reached, d.final_conclusion,
       d.confidence_score, d.created_at, d.completed_at
FROM debates AS d;
COMMENT ON VIEW debate_logs IS 'debates under the name of the schema reference: topic and outcome. A running debate is active here.';

CREATE VIEW debate_sessions WITH (security_invoker = true) AS
SELECT d.id, d.topic, d.description, CASE d.status WHEN 'running' THEN 'active' ELSE d.status END::varchar(50) AS status, d.current_round, d.total_rounds, d.voting_method, d.positions,
       d.participants, d.final_winner, d.metadata, d.created_by, d.created_at, d.started_at, d.completed_at
FROM debates AS d;
COMMENT ON VIEW debate_sessions IS 'debates under the name of the SQL schema documentation: setup and course. A running debate is active here.';

CREATE VIEW debate_turns WITH (security_invoker = true) AS
SELECT a.id, a.debate_id AS session_id, a.round_number, a.turn_number, a.participant_id, a.position, a.argument_text AS content, b.raw_response,
       a.tokens_used, a.latency_ms AS response_time, a.confidence, a.created_at
FROM debate_arguments AS a LEFT JOIN llm_response_bodies AS b ON b.response_id = a.response_id;
COMMENT ON VIEW debate_turns IS 'debate_arguments under the name of the SQL schema documentation, with the provider''s raw answer as long as it is kept.';
COMMENT ON COLUMN debate_turns.session_id IS 'The debate (debates.id).';
COMMENT ON COLUMN debate_turns.response_time IS 'Milliseconds.';

CREATE VIEW cognee_memories WITH (security_invoker = true) AS
SELECT m.id, m.user_id, m.session_id, m.content, m.memory_type, m.entities, m.relationships, m.confidence, m.access_count, m.last_accessed, m.created_at
FROM memories AS m WHERE m.deleted_at IS NULL AND m.merged_into IS NULL;
COMMENT ON VIEW cognee_memories IS 'memories under the name of the SQL schema documentation: what is remembered now, without the forgotten and the merged.';

CREATE VIEW cognee_entities WITH (security_invoker = true) AS
SELECT e.id, e.user_id, e.name, e.type, e.importance, e.mention_count, e.properties, e.created_at, e.updated_at
FROM memory_entities AS e;
COMMENT ON VIEW cognee_entities IS 'memory_entities under the name of the schema reference: the nodes of the graph.';

CREATE VIEW cognee_graphs WITH (security_invoker = true) AS
SELECT g.id, g.user_id, g.subject_id, s.name AS subject, g.predicate, g.object_id, o.name AS object, g.strength, g.memory_id, g.valid_from, g.valid_to, g.created_at
FROM memory_relations AS g JOIN memory_entities AS s ON s.id = g.subject_id JOIN memory_entities AS o ON o.id = g.object_id;
COMMENT ON VIEW cognee_graphs IS 'memory_relations under the name of the schema reference: the edges of the graph, with the names of both ends.';

CREATE VIEW acp_servers WITH (security_invoker = true) AS
SELECT a.id, a.name, a.type, a.url, a.endpoint, a.command, a.args, a.capabilities, a.health_status, a.enabled, a.last_sync, a.created_at
FROM acp_agents AS a;
COMMENT ON VIEW acp_servers IS 'acp_agents under the name of the upstream schema, without credentials.';

CREATE VIEW memory_events WITH (security_invoker = true) AS
SELECT e.id, e.id AS event_id, e.event_type, e.node_id, e.memory_id, e.user_id, e.session_id, e.content, e.embedding, e.embedding_model, e.importance, e.tags, e.entities,
       e.relationships, e.version, e.vector_clock, e.hlc, e.merged_from, e.metadata, e.timestamp, e.redacted_at
FROM distributed_memory_events AS e;
COMMENT ON VIEW memory_events IS 'distributed_memory_events under the name of the Big Data documentation; event_id is the event''s own id.';

CREATE VIEW learned_patterns WITH (security_invoker = true) AS
SELECT c.id, c.user_id, c.pattern_type, c.pattern_key, c.description, c.frequency, c.confidence, c.examples, c.metadata, c.first_seen, c.last_seen
FROM cross_session_patterns AS c;
COMMENT ON VIEW learned_patterns IS 'cross_session_patterns under the name of the Big Data documentation.';
