-- 026_retention.down.sql: As before. Files of the archive can then no longer be opened: restore what is needed first.
-- Locks: the tables exclusively, for a moment.
DROP MATERIALIZED VIEW mv_daily_stats;
CREATE MATERIALIZED VIEW mv_daily_stats AS
WITH edge AS (
    SELECT coalesce(max(d.day), DATE '1970-01-01') AS day FROM llm_usage_daily AS d),
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

GRANT SELECT ON mv_daily_stats TO helix_operator, helix_readonly;

DROP FUNCTION helix_drop_error_month(date);
DROP FUNCTION helix_drop_usage_hours(date);
DROP FUNCTION helix_drop_usage_month(date);
DROP FUNCTION helix_usage_bounds();
CREATE OR REPLACE FUNCTION helix_refresh_usage_rollups(from_time timestamptz, to_time timestamptz) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog
    SET timezone = 'UTC' AS $body$
DECLARE
    hour_low timestamptz;
    day_low date;
    month_low date;
    high timestamptz;
    written bigint;
    total bigint := 0;
BEGIN
    IF from_time IS NULL OR to_time IS NULL OR from_time >= to_time THEN
        RAISE EXCEPTION 'from_time must lie before to_time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('helix_refresh_usage_rollups'));

    -- Hours, from the ledger.
    hour_low := greatest(date_trunc('hour', from_time), date_trunc('hour', (SELECT uuid_time(u.id) FROM llm_token_usage u ORDER BY u.id LIMIT 1)));
    high := date_trunc('hour', to_time - interval '1 microsecond') + interval '1 hour';
    IF EXISTS (SELECT FROM llm_token_usage) THEN
        DELETE FROM llm_usage_hourly h WHERE h.hour >= hour_low AND h.hour < high;
        INSERT INTO llm_usage_hourly (hour, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
            estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
        SELECT date_trunc('hour', u.timestamp), u.user_id, u.api_key_id, u.project_id, u.agent_id, u.provider_name, u.model,
            count(*), count(*) FILTER (WHERE u.estimated), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens),
            sum(u.reasoning_tokens), sum(u.cost_usd)
        FROM llm_token_usage u
        WHERE u.timestamp >= hour_low AND u.timestamp < high
        GROUP BY 1, 2, 3, 4, 5, 6, 7;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END IF;

    -- Days, from the hours.
    IF EXISTS (SELECT FROM llm_usage_hourly) THEN
        day_low := greatest(from_time::date, (SELECT min(h.hour)::date FROM llm_usage_hourly h));
        DELETE FROM llm_usage_daily d WHERE d.day >= day_low AND d.day < high;
        INSERT INTO llm_usage_daily (day, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
            estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
        SELECT h.hour::date, h.user_id, h.api_key_id, h.project_id, h.agent_id, h.provider_name, h.model,
            sum(h.call_count), sum(h.estimated_count), sum(h.input_tokens), sum(h.output_tokens), sum(h.cached_tokens),
            sum(h.reasoning_tokens), sum(h.cost_usd)
        FROM llm_usage_hourly h
        WHERE h.hour >= day_low AND h.hour < (high - interval '1 hour')::date + 1
        GROUP BY 1, 2, 3, 4, 5, 6, 7;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END IF;

    -- Months, from the days.
    IF EXISTS (SELECT FROM llm_usage_daily) THEN
        month_low := greatest(date_trunc('month', from_time)::date,
                              (SELECT date_trunc('month', min(d.day))::date FROM llm_usage_daily d));
        DELETE FROM llm_usage_monthly m WHERE m.month >= month_low AND m.month < high;
        INSERT INTO llm_usage_monthly (month, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
            estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
        SELECT date_trunc('month', d.day)::date, d.user_id, d.api_key_id, d.project_id, d.agent_id, d.provider_name, d.model,
            sum(d.call_count), sum(d.estimated_count), sum(d.input_tokens), sum(d.output_tokens), sum(d.cached_tokens),
            sum(d.reasoning_tokens), sum(d.cost_usd)
        FROM llm_usage_daily d
        WHERE d.day >= month_low AND d.day < date_trunc('month', high - interval '1 hour') + interval '1 month'
        GROUP BY 1, 2, 3, 4, 5, 6, 7;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END IF;
    RETURN total;
END
$body$;

COMMENT ON FUNCTION helix_refresh_usage_rollups(timestamptz, timestamptz) IS
    'Rebuilds llm_usage_hourly, _daily and _monthly for every bucket the window touches; returns how many rows it wrote. Idempotent.';


DROP TABLE usage_rollup_floors;
DROP TABLE archive_restores;
DROP TABLE archive_tombstones;
DROP TABLE archive_keys;
DROP TABLE archive_files;
DROP TABLE retention_runs;
DELETE FROM rls_exempt_tables
WHERE table_name IN ('usage_rollup_floors', 'retention_runs', 'archive_files', 'archive_restores');

DROP FUNCTION helix_drop_partition(text);
CREATE OR REPLACE FUNCTION helix_create_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    parent record;
    foreign_key record;
    month_start timestamp;      -- UTC
    low uuid;
    high uuid;
    part_name text;
    default_name text;
    column_list text;
    has_rows boolean;
    dropped text[];             -- statements that put the foreign keys back
    created integer := 0;
BEGIN
    IF months_back < 0 OR months_ahead < 0 OR months_back > 1200 OR months_ahead > 120 THEN
        RAISE EXCEPTION 'months_back must be 0..1200 and months_ahead 0..120' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('helix_create_partitions'));

    FOR parent IN
        SELECT c.oid, c.relname, n.nspname, k.attname AS key_name, p.partdefid::regclass AS default_partition,
               p.partdefid
        FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
        WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype
          AND n.nspname = 'public'
        ORDER BY c.relname
    LOOP
        FOR month_start IN
            SELECT generate_series(
                date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => months_back),
                date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => months_ahead),
                interval '1 month')
        LOOP
            -- Names are cut to 63 bytes by the server; ours stay far below.
            part_name := format('%I.%I', parent.nspname, parent.relname || '_p' || to_char(month_start, 'YYYYMM'));
            CONTINUE WHEN to_regclass(part_name) IS NOT NULL;
            -- uuid_floor() written out: this body must not depend on the search_path.
            low := (lpad(to_hex((extract(epoch FROM month_start) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;
            high := (lpad(to_hex((extract(epoch FROM month_start + interval '1 month') * 1000)::bigint), 12, '0')
                     || '70008000000000000000')::uuid;

            EXECUTE format('CREATE TABLE %s (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)',
                           part_name, parent.nspname, parent.relname);
            dropped := '{}';
            IF parent.partdefid <> 0 THEN
                default_name := parent.default_partition::text;
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', default_name);
                EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %I < $2)',
                               default_name, parent.key_name, parent.key_name)
                    INTO has_rows USING low, high;
                IF has_rows THEN
                    FOR foreign_key IN
                        SELECT con.conname, con.conrelid::regclass::text AS table_name, pg_get_constraintdef(con.oid) AS definition
                        FROM pg_constraint con
                        WHERE con.contype = 'f' AND con.confrelid = parent.oid AND con.conparentid = 0
                    LOOP
                        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', foreign_key.table_name, foreign_key.conname);
                        dropped := dropped || format('ALTER TABLE %s ADD CONSTRAINT %I %s',
                            foreign_key.table_name, foreign_key.conname, foreign_key.definition);
                    END LOOP;
                    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO column_list
                    FROM pg_attribute a
                    WHERE a.attrelid = parent.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
                    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', default_name);
                    EXECUTE format(
                        'WITH moved AS (DELETE FROM %1$s WHERE %2$I >= $1 AND %2$I < $2 RETURNING %3$s) '
                        'INSERT INTO %4$s (%3$s) OVERRIDING SYSTEM VALUE SELECT %3$s FROM moved',
                        default_name, parent.key_name, column_list, part_name) USING low, high;
                    EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', default_name);
                END IF;
            END IF;
            EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                           parent.nspname, parent.relname, part_name, low, high);
            FOR i IN 1 .. coalesce(array_length(dropped, 1), 0) LOOP
                EXECUTE dropped[i];
            END LOOP;
            created := created + 1;
        END LOOP;
    END LOOP;
    RETURN created;
END
$body$;

COMMENT ON FUNCTION helix_create_partitions(integer, integer) IS
    'Makes the missing monthly partitions of every table RANGE-partitioned by one uuid column, moving rows out of the default partition where needed; returns how many it made. Idempotent; run by the owner of the tables.';

DROP FUNCTION helix_create_partition(text, date);
DROP FUNCTION helix_missing_partitions(integer, integer);
