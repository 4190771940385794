-- indexes_views.sql: the ten materialized views, how they are refreshed, and reporting views for the psql prompt (S109, S112).
--
-- Indexes stand beside their tables in the domain files; here are only those of the materialized views. Each materialized view has a unique
-- index, so that it can be refreshed CONCURRENTLY: readers are never blocked. Materialized views hold figures over all tenants: only helix_operator and
-- helix_readonly may read them (roles_policies.sql). Time windows are counted from the moment of the refresh.
--
-- mv_daily_stats is computed from daily totals that outlive the requests they were counted from, so archiving requests (90 days) or usage
-- (1 year) does not change the past.

-- ---------------------------------------------------------------------------------------------------------------------
-- Materialized views
-- ---------------------------------------------------------------------------------------------------------------------

-- How did each provider and model do in the last 24 hours? Refreshed every 5 minutes.
CREATE MATERIALIZED VIEW mv_provider_performance AS
SELECT r.provider_name, r.model_name,
       count(*) AS total_requests,
       count(*) FILTER (WHERE r.status = 'completed') AS successful_requests,
       count(*) FILTER (WHERE r.status <> 'completed') AS failed_requests,
       round(count(*) FILTER (WHERE r.status = 'completed')::numeric / count(*), 4) AS success_rate,
       round(avg(r.latency_ms), 1) AS avg_latency_ms,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p50_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p95_latency_ms,
       round(percentile_cont(0.99) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p99_latency_ms,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p50_first_token_ms,
       sum(r.tokens_prompt)::bigint AS tokens_prompt,
       sum(r.tokens_completion)::bigint AS tokens_completion,
       sum(r.tokens_total)::bigint AS total_tokens,
       sum(r.cost_usd) AS total_cost,
       round(avg(r.confidence), 4) AS avg_confidence,
       max(r.created_at) AS last_request_at
FROM llm_responses AS r
WHERE r.id >= uuid_floor(now() - interval '24 hours')
GROUP BY r.provider_name, r.model_name
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_provider_performance IS 'Per provider and model over the last 24 h: calls, failures, latency percentiles, tokens, cost. Every 5 minutes.';
COMMENT ON COLUMN mv_provider_performance.success_rate IS '0 to 1.';
COMMENT ON COLUMN mv_provider_performance.total_cost IS 'USD.';
CREATE UNIQUE INDEX mv_provider_performance_key ON mv_provider_performance (provider_name, model_name);

-- How are the MCP servers? Counted over the last hour. Refreshed every minute.
CREATE MATERIALIZED VIEW mv_mcp_server_health AS
SELECT s.id AS server_id, s.name, s.type, s.enabled, s.health_status,
       (SELECT count(*) FROM mcp_tools AS t WHERE t.server_id = s.id AND t.enabled) AS enabled_tools,
       count(m.id) AS operations,
       count(m.id) FILTER (WHERE m.status = 'success') AS successes,
       count(m.id) FILTER (WHERE m.status = 'error') AS errors,
       count(m.id) FILTER (WHERE m.status = 'timeout') AS timeouts,
       round(count(m.id) FILTER (WHERE m.status = 'success')::numeric / NULLIF(count(m.id), 0), 4) AS success_rate,
       round(avg(m.duration_ms), 1) AS avg_duration_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY m.duration_ms)::numeric, 1) AS p95_duration_ms,
       max(uuid_time(m.id)) AS last_operation_at
FROM mcp_servers AS s
LEFT JOIN protocol_metrics AS m ON m.protocol = 'mcp' AND m.server_id = s.id AND m.id >= uuid_floor(now() - interval '1 hour')
GROUP BY s.id
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_mcp_server_health IS 'Per MCP server over the last hour: operations, errors, timeouts, durations. Servers nobody used are listed with 0. Every minute.';
CREATE UNIQUE INDEX mv_mcp_server_health_key ON mv_mcp_server_health (server_id);

-- How many requests came in per hour, asked for which model? Over 7 days. Refreshed every 15 minutes.
CREATE MATERIALIZED VIEW mv_request_analytics_hourly AS
SELECT date_trunc('hour', q.created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, q.model_name, q.request_type,
       count(*) AS total_requests,
       count(*) FILTER (WHERE q.status = 'completed') AS completed_requests,
       count(*) FILTER (WHERE q.status = 'failed') AS failed_requests,
       count(*) FILTER (WHERE q.status IN ('pending', 'running')) AS open_requests,
       count(*) FILTER (WHERE q.stream) AS streamed_requests,
       count(*) FILTER (WHERE q.memory_enhanced) AS memory_enhanced_requests,
       count(DISTINCT q.user_id) AS unique_users,
       coalesce(sum(a.answers), 0)::bigint AS responses,
       coalesce(sum(a.tokens_total), 0)::bigint AS total_tokens,
       coalesce(sum(a.cost_usd), 0) AS total_cost,
       round(avg(a.latency_ms), 1) AS avg_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY a.latency_ms)::numeric, 1) AS p95_latency_ms
FROM llm_requests AS q
LEFT JOIN (
    SELECT r.request_id, count(*) AS answers, sum(r.tokens_total) AS tokens_total, sum(r.cost_usd) AS cost_usd, max(r.latency_ms) AS latency_ms
    FROM llm_responses AS r WHERE r.id >= uuid_floor(now() - interval '7 days') GROUP BY r.request_id) AS a ON a.request_id = q.id
WHERE q.id >= uuid_floor(now() - interval '7 days')
GROUP BY 1, 2, 3
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_request_analytics_hourly IS 'Requests per hour (UTC), model asked for and kind, over 7 days, with the tokens and cost of their answers. Every 15 minutes.';
COMMENT ON COLUMN mv_request_analytics_hourly.responses IS 'Answers to these requests: more than the requests where ensembles or retries asked several providers.';
COMMENT ON COLUMN mv_request_analytics_hourly.avg_latency_ms IS 'Of the slowest answer to each request.';
CREATE UNIQUE INDEX mv_request_analytics_hourly_key ON mv_request_analytics_hourly (hour, model_name, request_type);

-- How many sessions were opened per day, and how were they used? Over 30 days. Refreshed every hour.
CREATE MATERIALIZED VIEW mv_session_stats_daily AS
SELECT (s.created_at AT TIME ZONE 'UTC')::date AS day,
       count(*) AS total_sessions,
       count(*) FILTER (WHERE s.status = 'active' AND s.expires_at > now()) AS active_sessions,
       count(*) FILTER (WHERE s.status = 'revoked') AS revoked_sessions,
       count(DISTINCT s.user_id) AS unique_users,
       sum(s.request_count)::bigint AS total_requests,
       round(avg(s.request_count), 2) AS avg_requests_per_session,
       round(avg(extract(epoch FROM s.last_activity - s.created_at)), 1) AS avg_duration_s
FROM user_sessions AS s
WHERE s.created_at >= now() - interval '30 days'
GROUP BY 1
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_session_stats_daily IS 'Sessions by the day (UTC) they were opened, over 30 days. Every hour. Swept sessions are no longer counted.';
CREATE UNIQUE INDEX mv_session_stats_daily_key ON mv_session_stats_daily (day);

-- How does the queue do? Tasks made in the last 24 hours. Refreshed every 5 minutes.
CREATE MATERIALIZED VIEW mv_task_statistics AS
SELECT t.task_type, t.status, t.priority,
       count(*) AS task_count,
       round(avg(t.retry_count), 2) AS avg_retries,
       round(avg(extract(epoch FROM t.started_at - greatest(t.scheduled_at, t.created_at)) * 1000), 1) AS avg_wait_ms,
       round(avg(extract(epoch FROM t.completed_at - t.started_at) * 1000), 1) AS avg_run_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM t.completed_at - t.started_at) * 1000)::numeric, 1) AS p95_run_ms,
       min(t.created_at) AS oldest_at,
       max(t.created_at) AS newest_at
FROM background_tasks AS t
WHERE t.id >= uuid_floor(now() - interval '24 hours')
GROUP BY t.task_type, t.status, t.priority
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_task_statistics IS 'Tasks made in the last 24 h by type, state and priority: how many, waiting and running time. Every 5 minutes.';
CREATE UNIQUE INDEX mv_task_statistics_key ON mv_task_statistics (task_type, status, priority);

-- What can each model do, and how good is it? Refreshed every hour.
CREATE MATERIALIZED VIEW mv_model_capabilities AS
SELECT m.id AS model_id, p.name AS provider_name, p.enabled AS provider_enabled, p.health_status, m.model_name, m.is_active,
       m.context_window, m.max_tokens,
       m.supports_vision, m.supports_function_calling, m.supports_streaming, m.supports_json_mode, m.supports_image_generation, m.supports_audio,
       m.supports_code_generation, m.supports_reasoning,
       m.model_type, m.model_family, m.tags,
       price.input_cost_per_million, price.output_cost_per_million,
       m.benchmark_score, m.reliability_score,
       b.benchmark_count, b.avg_normalized_score, b.benchmarks
FROM llm_models AS m
JOIN llm_providers AS p ON p.id = m.provider_id
LEFT JOIN LATERAL (
    SELECT x.input_cost_per_million, x.output_cost_per_million FROM llm_pricing AS x
    WHERE x.model IN (m.model_name, p.name || '/' || m.model_name) AND x.effective_date <= now()
    ORDER BY (x.model = m.model_name), x.effective_date DESC LIMIT 1) AS price ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS benchmark_count, round(avg(k.normalized_score), 2) AS avg_normalized_score, jsonb_object_agg(k.benchmark_name, k.score) AS benchmarks
    FROM llm_benchmarks AS k WHERE k.model_id = m.id) AS b ON true
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_model_capabilities IS 'What each model can do, what it costs now and how it did in benchmarks. Every hour.';
COMMENT ON COLUMN mv_model_capabilities.model_id IS 'llm_models.id.';
COMMENT ON COLUMN mv_model_capabilities.input_cost_per_million IS 'USD per million input tokens valid at the refresh, from llm_pricing; NULL = no price known.';
CREATE UNIQUE INDEX mv_model_capabilities_key ON mv_model_capabilities (model_id);

-- How do the protocols do? Over the last 24 hours. Refreshed every 5 minutes.
CREATE MATERIALIZED VIEW mv_protocol_metrics_agg AS
SELECT m.protocol, coalesce(m.server_id::text, '') AS server_id, m.operation,
       count(*) AS operations,
       count(*) FILTER (WHERE m.status = 'success') AS successes,
       count(*) FILTER (WHERE m.status = 'error') AS errors,
       count(*) FILTER (WHERE m.status = 'timeout') AS timeouts,
       round(count(*) FILTER (WHERE m.status = 'success')::numeric / count(*), 4) AS success_rate,
       round(avg(m.duration_ms), 1) AS avg_duration_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY m.duration_ms)::numeric, 1) AS p95_duration_ms,
       max(uuid_time(m.id)) AS last_operation_at
FROM protocol_metrics AS m
WHERE m.id >= uuid_floor(now() - interval '24 hours')
GROUP BY 1, 2, 3
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_protocol_metrics_agg IS 'MCP, LSP, ACP and embedding operations over the last 24 h, by server and operation. Every 5 minutes.';
COMMENT ON COLUMN mv_protocol_metrics_agg.server_id IS 'Id of the server as text; empty where an operation had none.';
CREATE UNIQUE INDEX mv_protocol_metrics_agg_key ON mv_protocol_metrics_agg (protocol, server_id, operation);

-- Which conversations are alive? Events of the last 24 hours. Refreshed with refresh_streaming_analytics_views().
CREATE MATERIALIZED VIEW mv_recent_conversation_activity AS
SELECT e.conversation_id, c.user_id, c.status,
       count(*) AS event_count,
       count(*) FILTER (WHERE e.event_type = 'message.added') AS message_count,
       count(*) FILTER (WHERE e.event_type = 'context.compressed') AS compressions,
       count(*) FILTER (WHERE e.event_type = 'debate.started') AS debates_started,
       sum(e.entity_count)::bigint AS entity_count,
       sum(e.tokens)::bigint AS total_tokens,
       min(e.timestamp) AS first_event_at,
       max(e.timestamp) AS last_event_at,
       max(e.sequence_number) AS last_sequence
FROM conversation_events AS e
JOIN conversations AS c ON c.id = e.conversation_id
WHERE e.id >= uuid_floor(now() - interval '24 hours')
GROUP BY e.conversation_id, c.user_id, c.status
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_recent_conversation_activity IS 'Conversations with events in the last 24 h: how many, of what kind, how many tokens.';
CREATE UNIQUE INDEX mv_recent_conversation_activity_key ON mv_recent_conversation_activity (conversation_id);

-- How did each provider do over 7 days, next to its registry entry? Refreshed with refresh_streaming_analytics_views().
CREATE MATERIALIZED VIEW mv_provider_performance_summary AS
SELECT r.provider_name,
       max(p.health_status) AS health_status,
       max(p.verification_score) AS verification_score,
       count(*) AS total_requests,
       count(*) FILTER (WHERE r.status = 'completed') AS successful_requests,
       round(count(*) FILTER (WHERE r.status = 'completed')::numeric / count(*), 4) AS success_rate,
       count(DISTINCT r.model_name) AS models_used,
       round(avg(r.latency_ms), 1) AS avg_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p95_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p95_first_token_ms,
       sum(r.tokens_total)::bigint AS total_tokens,
       sum(r.cost_usd) AS total_cost,
       count(*) FILTER (WHERE r.selected AND r.confidence IS NOT NULL) AS ensemble_wins,
       round(avg(r.confidence), 4) AS avg_confidence,
       count(*) FILTER (WHERE r.cached) AS cached_answers
FROM llm_responses AS r
LEFT JOIN llm_providers AS p ON p.id = r.provider_id
WHERE r.id >= uuid_floor(now() - interval '7 days')
GROUP BY r.provider_name
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_provider_performance_summary IS 'Per provider over 7 days, with its health and measured score.';
COMMENT ON COLUMN mv_provider_performance_summary.ensemble_wins IS 'Selected answers that carried a confidence, so those an ensemble chose.';
CREATE UNIQUE INDEX mv_provider_performance_summary_key ON mv_provider_performance_summary (provider_name);

-- What happened per day, for ever? Refreshed every hour. Days already summed up come from llm_usage_daily (kept for ever), the newest of them and
-- later ones from the ledger itself; errors from the log and from the summary that outlives it. So nothing here changes when old rows are archived.
CREATE MATERIALIZED VIEW mv_daily_stats AS
WITH edge AS (
    -- After the floor of the hours the ledger is whole again: of the day it lies in, and all before, the sums are the truth.
    SELECT greatest(coalesce((SELECT max(d.day) FROM llm_usage_daily AS d), DATE '1970-01-01'),
                    (SELECT (f.sealed_until AT TIME ZONE 'UTC')::date + 1 FROM usage_rollup_floors AS f WHERE f.level = 'hour')) AS day),
usage AS (
    SELECT d.day, d.call_count AS calls, d.user_id, d.model, d.provider_name, d.input_tokens, d.output_tokens, d.cost_usd
    FROM llm_usage_daily AS d WHERE d.day < (SELECT edge.day FROM edge)
    UNION ALL
    SELECT (u.timestamp AT TIME ZONE 'UTC')::date, 1, u.user_id, u.model, u.provider_name, u.input_tokens, u.output_tokens, u.cost_usd
    FROM llm_token_usage AS u WHERE u.timestamp >= (SELECT edge.day FROM edge)::timestamp AT TIME ZONE 'UTC'),
errors AS (
    SELECT x.day, sum(x.n) AS error_count FROM (
        SELECT s.date AS day, s.count AS n FROM error_log_summary AS s
        UNION ALL
        SELECT (l.created_at AT TIME ZONE 'UTC')::date, 1 FROM error_log AS l) AS x
    GROUP BY x.day),
days AS (
    SELECT u.day, sum(u.calls) AS total_calls, count(DISTINCT u.user_id) AS unique_users, count(DISTINCT u.model) AS models_used,
           count(DISTINCT u.provider_name) AS providers_used, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens, sum(u.cost_usd) AS total_cost
    FROM usage AS u GROUP BY u.day)
SELECT coalesce(d.day, e.day) AS day,
       coalesce(d.total_calls, 0)::bigint AS total_calls,
       coalesce(d.unique_users, 0) AS unique_users,
       coalesce(d.models_used, 0) AS models_used,
       coalesce(d.providers_used, 0) AS providers_used,
       coalesce(d.input_tokens, 0)::bigint AS input_tokens,
       coalesce(d.output_tokens, 0)::bigint AS output_tokens,
       coalesce(d.input_tokens + d.output_tokens, 0)::bigint AS total_tokens,
       coalesce(d.total_cost, 0) AS total_cost,
       coalesce(e.error_count, 0)::bigint AS error_count
FROM days AS d FULL JOIN errors AS e ON e.day = d.day
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_daily_stats IS 'Calls, users, tokens, cost and errors per day (UTC), for ever: survives the archiving of requests, usage and errors. Every hour.';
COMMENT ON COLUMN mv_daily_stats.total_calls IS 'Answers of providers, so more than the requests where several were asked.';
COMMENT ON COLUMN mv_daily_stats.unique_users IS 'Users that still exist: erased ones can no longer be told apart.';
COMMENT ON COLUMN mv_daily_stats.total_cost IS 'USD, exact.';
CREATE UNIQUE INDEX mv_daily_stats_key ON mv_daily_stats (day);

-- ---------------------------------------------------------------------------------------------------------------------
-- Refreshing
-- ---------------------------------------------------------------------------------------------------------------------

-- One row per materialized view: how often it should be refreshed and how the last refresh went. Written by the functions below.
CREATE TABLE matview_refresh_state (
    view_name      varchar(63)  NOT NULL,
    refresh_every  interval     NOT NULL,
    is_critical    boolean      NOT NULL DEFAULT false,
    is_streaming   boolean      NOT NULL DEFAULT false,
    refreshed_at   timestamptz,
    duration_ms    numeric(14,3),
    error_message  text,
    refresh_count  bigint       NOT NULL DEFAULT 0,
    failure_count  bigint       NOT NULL DEFAULT 0,
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT matview_refresh_state_pkey PRIMARY KEY (view_name),
    CONSTRAINT matview_refresh_state_refresh_every_check CHECK (refresh_every >= interval '1 minute'),
    CONSTRAINT matview_refresh_state_refresh_count_check CHECK (refresh_count >= 0),
    CONSTRAINT matview_refresh_state_failure_count_check CHECK (failure_count >= 0)
);
COMMENT ON TABLE matview_refresh_state IS 'How often each materialized view is refreshed, and how the last refresh went.';
COMMENT ON COLUMN matview_refresh_state.refresh_every IS 'Longest age the view should reach; the scheduler refreshes what is older.';
COMMENT ON COLUMN matview_refresh_state.is_critical IS 'Refreshed by refresh_critical_views(): what routing and health decisions look at.';
COMMENT ON COLUMN matview_refresh_state.is_streaming IS 'Refreshed by refresh_streaming_analytics_views().';
COMMENT ON COLUMN matview_refresh_state.refreshed_at IS 'Last success; NULL = never since it was made.';
COMMENT ON COLUMN matview_refresh_state.error_message IS 'Why the last try failed; NULL after a success.';
CREATE TRIGGER matview_refresh_state_set_updated_at BEFORE UPDATE ON matview_refresh_state FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

INSERT INTO matview_refresh_state (view_name, refresh_every, is_critical, is_streaming) VALUES
    ('mv_mcp_server_health',            '1 minute',   true,  false),
    ('mv_provider_performance',         '5 minutes',  true,  false),
    ('mv_task_statistics',              '5 minutes',  true,  false),
    ('mv_protocol_metrics_agg',         '5 minutes',  false, false),
    ('mv_recent_conversation_activity', '5 minutes',  false, true),
    ('mv_request_analytics_hourly',     '15 minutes', false, false),
    ('mv_session_stats_daily',          '1 hour',     false, false),
    ('mv_model_capabilities',           '1 hour',     false, false),
    ('mv_provider_performance_summary', '1 hour',     false, true),
    ('mv_daily_stats',                  '1 hour',     false, false)
ON CONFLICT (view_name) DO NOTHING;

-- refresh_materialized_views: the one that does it. SECURITY DEFINER because only the owner may refresh; it takes names from
-- matview_refresh_state and nothing else, so a caller cannot make the owner run anything. A view that fails leaves the others alone.
CREATE FUNCTION refresh_materialized_views(p_view_names text[])
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v record;
    began timestamptz;
BEGIN
    FOR v IN
        SELECT s.view_name AS name, c.relispopulated
        FROM public.matview_refresh_state AS s
        JOIN pg_catalog.pg_class AS c ON c.relname = s.view_name AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'm'
        WHERE s.view_name = ANY (p_view_names) ORDER BY s.refresh_every, s.view_name
    LOOP
        began := clock_timestamp();
        view_name := v.name;
        BEGIN
            -- CONCURRENTLY needs a populated view: only after a restore without data is it not.
            EXECUTE format('REFRESH MATERIALIZED VIEW %s public.%I', CASE WHEN v.relispopulated THEN 'CONCURRENTLY' ELSE '' END, v.name);
            refreshed := true;
            error_message := NULL;
        EXCEPTION WHEN OTHERS THEN
            refreshed := false;
            error_message := SQLERRM;
        END;
        duration_ms := round((extract(epoch FROM clock_timestamp() - began) * 1000)::numeric, 3);
        UPDATE public.matview_refresh_state AS s
        SET refreshed_at = CASE WHEN refresh_materialized_views.refreshed THEN now() ELSE s.refreshed_at END,
            duration_ms = refresh_materialized_views.duration_ms,
            error_message = refresh_materialized_views.error_message,
            refresh_count = s.refresh_count + CASE WHEN refresh_materialized_views.refreshed THEN 1 ELSE 0 END,
            failure_count = s.failure_count + CASE WHEN refresh_materialized_views.refreshed THEN 0 ELSE 1 END
        WHERE s.view_name = v.name;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION refresh_materialized_views(text[]) IS 'Refreshes the named materialized views CONCURRENTLY, one row each: done or why not. Names that are not in matview_refresh_state are ignored.';

CREATE FUNCTION refresh_all_materialized_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s))
$$;
COMMENT ON FUNCTION refresh_all_materialized_views() IS 'Refreshes all materialized views CONCURRENTLY; one row each.';

CREATE FUNCTION refresh_critical_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s WHERE s.is_critical))
$$;
COMMENT ON FUNCTION refresh_critical_views() IS 'Refreshes what routing and health look at: provider performance, MCP health, task statistics.';

CREATE FUNCTION refresh_streaming_analytics_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s WHERE s.is_streaming))
$$;
COMMENT ON FUNCTION refresh_streaming_analytics_views() IS 'Refreshes mv_recent_conversation_activity and mv_provider_performance_summary.';

CREATE FUNCTION refresh_due_materialized_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s
        WHERE s.refreshed_at IS NULL OR s.refreshed_at + s.refresh_every <= now()))
$$;
COMMENT ON FUNCTION refresh_due_materialized_views() IS 'Refreshes what is older than its refresh_every. The scheduler calls it every minute.';

-- get_materialized_view_stats: how big, how old. Rows are counted, not estimated.
CREATE FUNCTION get_materialized_view_stats()
RETURNS TABLE (view_name text, row_count bigint, size_bytes bigint, is_populated boolean, refreshed_at timestamptz, age interval, is_due boolean, last_duration_ms numeric, last_error text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public AS $$
#variable_conflict use_column
DECLARE
    v record;
BEGIN
    FOR v IN
        SELECT c.oid, c.relname, c.relispopulated, s.refreshed_at AS at, s.refresh_every, s.duration_ms AS took, s.error_message AS error
        FROM pg_catalog.pg_class AS c LEFT JOIN public.matview_refresh_state AS s ON s.view_name = c.relname
        WHERE c.relkind = 'm' AND c.relnamespace = 'public'::regnamespace ORDER BY c.relname
    LOOP
        row_count := 0;
        IF v.relispopulated THEN
            EXECUTE format('SELECT count(*) FROM public.%I', v.relname) INTO row_count;
        END IF;
        view_name := v.relname;
        size_bytes := pg_total_relation_size(v.oid);
        is_populated := v.relispopulated;
        refreshed_at := v.at;
        age := now() - v.at;
        is_due := v.at IS NULL OR v.at + v.refresh_every <= now();
        last_duration_ms := v.took;
        last_error := v.error;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION get_materialized_view_stats() IS 'Every materialized view of the schema: exact row count, size, age, whether a refresh is due and how the last one went.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Reporting views: for the psql prompt and the console. All security_invoker: each reader sees the rows he may see.
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW spend_by_day WITH (security_invoker = true) AS
SELECT (u.timestamp AT TIME ZONE 'UTC')::date AS day, u.provider_name, u.model, count(*) AS calls, sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd, count(*) FILTER (WHERE u.estimated) AS estimated_calls
FROM llm_token_usage AS u GROUP BY 1, 2, 3;
COMMENT ON VIEW spend_by_day IS 'What was spent per day (UTC), provider and model, straight from the ledger. SELECT … WHERE day >= current_date - 7 ORDER BY day.';

CREATE VIEW spend_by_project WITH (security_invoker = true) AS
SELECT u.project_id, p.name AS project_name, u.agent_id, u.model, count(*) AS calls, sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd, min(u.timestamp) AS first_call_at, max(u.timestamp) AS last_call_at
FROM llm_token_usage AS u LEFT JOIN projects AS p ON p.id = u.project_id GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW spend_by_project IS 'What each project spent, by agent and model. Calls without a project, or of a deleted one, have project_id NULL.';

CREATE VIEW current_prices WITH (security_invoker = true) AS
SELECT DISTINCT ON (x.model) x.model, x.input_cost_per_million, x.output_cost_per_million, x.cached_input_cost_per_million, x.reasoning_cost_per_million,
       x.per_request_cost_usd, x.effective_date, x.source, x.updated_by, x.notes, x.id AS pricing_id
FROM llm_pricing AS x WHERE x.effective_date <= now() ORDER BY x.model, x.effective_date DESC;
COMMENT ON VIEW current_prices IS 'The price of each model that is valid now, in USD.';

CREATE VIEW slow_requests WITH (security_invoker = true) AS
SELECT r.request_id, r.id AS response_id, r.created_at, r.provider_name, r.model_name, r.status, r.latency_ms, r.first_token_ms, r.tokens_total, r.attempt, r.error_code
FROM llm_responses AS r WHERE r.id >= uuid_floor(now() - interval '24 hours') ORDER BY r.latency_ms DESC;
COMMENT ON VIEW slow_requests IS 'Answers of the last 24 h, the slowest first. Add a LIMIT.';

CREATE VIEW provider_stream_metrics WITH (security_invoker = true) AS
SELECT r.provider_name, r.model_name, date_trunc('hour', r.created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, count(*) AS streams,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p50_first_token_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p95_first_token_ms,
       round(percentile_cont(0.99) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p99_first_token_ms,
       round(avg((r.latency_ms - r.first_token_ms)::numeric / NULLIF(r.chunk_count - 1, 0)), 2) AS avg_gap_ms,
       round(sum(r.tokens_completion) * 1000.0 / NULLIF(sum(r.latency_ms - r.first_token_ms), 0), 1) AS tokens_per_s,
       sum(r.cost_usd) AS cost_usd
FROM llm_responses AS r WHERE r.first_token_ms IS NOT NULL GROUP BY 1, 2, 3;
COMMENT ON VIEW provider_stream_metrics IS 'Streamed answers per provider, model and hour (UTC): time to the first token, silence between chunks, speed, cost.';

CREATE VIEW stream_timing WITH (security_invoker = true) AS
SELECT s.stream_id, max(s.user_id::text)::uuid AS user_id, max(s.request_id::text)::uuid AS request_id, max(s.provider_name) AS provider_name, max(s.model_name) AS model_name, min(s.timestamp) AS started_at,
       max(s.latency_ms) FILTER (WHERE s.event_type = 'first_token') AS time_to_first_token_ms,
       max(coalesce(s.max_gap_ms, s.latency_ms)) FILTER (WHERE s.event_type = 'chunk') AS longest_gap_ms,
       round(sum(s.latency_ms) FILTER (WHERE s.event_type = 'chunk')::numeric / NULLIF(sum(s.chunks) FILTER (WHERE s.event_type = 'chunk'), 0), 2) AS avg_gap_ms,
       max(s.chunk_number) AS chunks, sum(s.tokens_delta)::bigint AS tokens
FROM streaming_analytics AS s GROUP BY s.stream_id;
COMMENT ON VIEW stream_timing IS 'One row per stream: time to the first token, mean and longest silence between chunks, chunks and tokens.';

CREATE VIEW conversation_analytics WITH (security_invoker = true) AS
SELECT c.id AS conversation_id, c.user_id, c.session_id, c.status, c.created_at AS started_at, c.last_event_at,
       count(e.id) AS event_count,
       count(e.id) FILTER (WHERE e.event_type = 'message.added') AS message_count,
       count(e.id) FILTER (WHERE e.event_type = 'entity.extracted') AS entities_extracted,
       count(e.id) FILTER (WHERE e.event_type = 'debate.started') AS debate_rounds,
       count(e.id) FILTER (WHERE e.event_type = 'context.compressed') AS compressions,
       coalesce(sum(e.tokens), 0)::bigint AS total_tokens,
       round((extract(epoch FROM max(e.timestamp) - min(e.timestamp)) * 1000)::numeric / NULLIF(count(e.id) FILTER (WHERE e.event_type = 'message.added') - 1, 0), 1) AS avg_time_per_message_ms
FROM conversations AS c LEFT JOIN conversation_events AS e ON e.conversation_id = c.id GROUP BY c.id;
COMMENT ON VIEW conversation_analytics IS 'One row per conversation: events, messages, tokens, pace.';

CREATE VIEW recent_errors WITH (security_invoker = true) AS
SELECT l.created_at, l.category, l.code, l.message, l.agent_id, l.project_id, l.task_id, l.user_id, l.id
FROM error_log AS l WHERE l.id >= uuid_floor(now() - interval '24 hours') ORDER BY l.id DESC;
COMMENT ON VIEW recent_errors IS 'Errors of the last 24 h, newest first.';

CREATE VIEW task_queue WITH (security_invoker = true) AS
SELECT t.task_type, t.priority, t.status, count(*) AS tasks, min(t.scheduled_at) AS oldest_due_at, max(now() - t.scheduled_at) FILTER (WHERE t.status = 'pending' AND t.scheduled_at <= now()) AS longest_wait
FROM background_tasks AS t WHERE t.status IN ('pending', 'queued', 'running', 'paused', 'stuck') AND t.deleted_at IS NULL
GROUP BY t.task_type, t.priority, t.status ORDER BY t.priority, t.task_type, t.status;
COMMENT ON VIEW task_queue IS 'What waits and what runs, the most urgent first.';

CREATE VIEW debate_round_analytics WITH (security_invoker = true) AS
SELECT a.debate_id, a.round_number, a.provider_name, a.model_name, a.position, count(*) AS arguments, round(avg(a.confidence), 4) AS avg_confidence,
       round(avg(a.quality_score), 4) AS avg_quality_score, sum(a.tokens_used)::bigint AS tokens_used, round(avg(a.latency_ms), 1) AS avg_latency_ms,
       count(*) FILTER (WHERE a.is_primary) AS by_primary, count(*) FILTER (WHERE a.validation_status = 'failed') AS failed_validations,
       sum(r.cost_usd) AS cost_usd
FROM debate_arguments AS a LEFT JOIN llm_responses AS r ON r.id = a.response_id
GROUP BY a.debate_id, a.round_number, a.provider_name, a.model_name, a.position;
COMMENT ON VIEW debate_round_analytics IS 'Per debate, round, model and position: arguments, confidence, tokens, time, cost (as long as the answers are kept).';

-- debate_value: did it pay? One row per debate: what single models and their plain majority answered and cost, what the debate made of it, for how much.
CREATE VIEW debate_value WITH (security_invoker = true) AS
SELECT d.id AS debate_id, d.created_by, d.created_at, d.topic, d.status, d.protocol, d.voting_method, d.current_round AS rounds_held, d.stop_reason,
       d.baseline ->> 'answer' AS baseline_answer, (d.baseline ->> 'share')::numeric AS baseline_share, s.single_answers,
       d.final_winner, d.consensus_reached, d.confidence, d.confidence_source, d.changed, d.expected,
       s.single_right, CASE WHEN d.expected IS NOT NULL AND d.baseline IS NOT NULL THEN d.baseline ->> 'answer' IS NOT DISTINCT FROM d.expected END AS baseline_right,
       CASE WHEN d.expected IS NOT NULL AND d.status = 'completed' THEN d.final_winner IS NOT DISTINCT FROM d.expected END AS debate_right,
       c.calls, c.tokens, c.cost_usd, c.baseline_cost_usd, c.cost_usd - c.baseline_cost_usd AS debate_cost_usd,
       round((c.cost_usd - c.baseline_cost_usd) / nullif(c.baseline_cost_usd, 0), 2) AS times_the_baseline, c.calls_kept,
       round(extract(epoch FROM d.completed_at - d.started_at), 3) AS wall_s
FROM debates AS d
CROSS JOIN LATERAL (
    SELECT count(*) AS single_answers,
           CASE WHEN d.expected IS NOT NULL THEN count(*) FILTER (WHERE a.answer = d.expected) END AS single_right
    FROM debate_arguments AS a WHERE a.debate_id = d.id AND a.round_number = 0) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS calls, count(r.id) AS calls_kept, coalesce(sum(r.tokens_total), 0) AS tokens, coalesce(sum(r.cost_usd), 0) AS cost_usd,
           coalesce(sum(r.cost_usd) FILTER (WHERE e.event_type = 'baseline'), 0) AS baseline_cost_usd
    FROM debate_events AS e LEFT JOIN llm_responses AS r ON r.id = e.response_id
    WHERE e.debate_id = d.id AND e.response_id IS NOT NULL) AS c;
COMMENT ON VIEW debate_value IS 'Did it pay? Per debate: the single answers and their plain majority with their cost, the outcome of the debate with its cost, and whether the answer changed. Costs come from the ledger: calls_kept < calls says that old answers were dropped since.';
COMMENT ON COLUMN debate_value.single_answers IS 'Single answers given before and apart from the debate.';
COMMENT ON COLUMN debate_value.single_right IS 'How many of them were the expected one; NULL when none was named.';
COMMENT ON COLUMN debate_value.cost_usd IS 'All calls of the debate, the baseline among them. A substitute''s failed predecessor that was charged stands in the ledger under the debate''s task.';
COMMENT ON COLUMN debate_value.times_the_baseline IS 'debate_cost_usd / baseline_cost_usd.';

CREATE VIEW table_sizes WITH (security_invoker = true) AS
SELECT coalesce(parent.relname, c.relname) AS table_name, count(*) AS partitions, sum(greatest(c.reltuples, 0))::bigint AS estimated_rows,
       sum(pg_relation_size(c.oid))::bigint AS heap_bytes, sum(pg_indexes_size(c.oid))::bigint AS index_bytes, sum(pg_total_relation_size(c.oid))::bigint AS total_bytes,
       pg_size_pretty(sum(pg_total_relation_size(c.oid))) AS total_size
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
LEFT JOIN pg_class AS parent ON parent.oid = i.inhparent
WHERE c.relkind IN ('r', 'm') AND c.relnamespace = 'public'::regnamespace
GROUP BY 1 ORDER BY total_bytes DESC;
COMMENT ON VIEW table_sizes IS 'Tables and materialized views by size, monthly partitions added up (S140). Rows are the planner''s estimate.';

CREATE VIEW unused_indexes WITH (security_invoker = true) AS
SELECT s.relname AS table_name, s.indexrelname AS index_name, s.idx_scan, s.idx_tup_read, pg_relation_size(s.indexrelid) AS index_bytes
FROM pg_stat_user_indexes AS s JOIN pg_index AS x ON x.indexrelid = s.indexrelid
WHERE s.idx_scan = 0 AND NOT x.indisunique AND s.schemaname = 'public' ORDER BY index_bytes DESC;
COMMENT ON VIEW unused_indexes IS 'Indexes no query has used since statistics were reset, the largest first; unique ones guard data and are left out (S140).';
