-- 026_retention.up.sql: What retention did, the archive of requests, months made and dropped one at a time, sums that never shrink.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.
-- Locks: mv_daily_stats exclusively while it is made anew, which reads a day of usage and the errors; nothing else that anybody waits for.

-- ----------------------------------------------------------------------------------------------------
-- partitions
-- ----------------------------------------------------------------------------------------------------

-- The months of <table>_pYYYYMM that are not there: from months_back ago to months_ahead ahead, and those of rows that fell into
-- <table>_default because their month was missing, up to months_ahead. Oldest first, so that months are dropped in their order.
CREATE FUNCTION helix_missing_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3)
    RETURNS TABLE (table_name text, month date)
    LANGUAGE plpgsql STABLE AS $body$
#variable_conflict use_column
DECLARE
    parent record;
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF months_back < 0 OR months_ahead < 0 OR months_back > 1200 OR months_ahead > 120 THEN
        RAISE EXCEPTION 'months_back must be 0..1200 and months_ahead 0..120' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR parent IN
        SELECT c.relname::text AS name, k.attname AS key_name, p.partdefid
        FROM pg_partitioned_table AS p
        JOIN pg_class AS c ON c.oid = p.partrelid
        JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
        WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype AND c.relnamespace = 'public'::regnamespace
        ORDER BY c.relname
    LOOP
        RETURN QUERY
        SELECT parent.name, m::date
        FROM generate_series(this_month - make_interval(months => months_back), this_month + make_interval(months => months_ahead),
                             interval '1 month') AS m
        WHERE to_regclass(format('public.%I', parent.name || '_p' || to_char(m, 'YYYYMM'))) IS NULL;
        IF parent.partdefid <> 0 THEN
            -- uuid_month() written out: this body must not depend on the search_path.
            RETURN QUERY EXECUTE format(
                $sql$SELECT %L::text, d.month FROM (
                    SELECT DISTINCT date_trunc('month', timezone('UTC', to_timestamp(
                        ('x' || translate(left(%I::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision)))::date AS month
                    FROM %s) AS d
                WHERE d.month < $1 AND d.month >= DATE '2000-01-01'$sql$, parent.name, parent.key_name, parent.partdefid::regclass)
            USING (this_month - make_interval(months => months_back))::date;
        END IF;
    END LOOP;
END
$body$;

COMMENT ON FUNCTION helix_missing_partitions(integer, integer) IS
    'Monthly partitions that are missing: those around now, and those of rows that lie in a default partition.';

-- Makes the partition <table>_pYYYYMM of one table and month; false when it is there. It is built aside and then attached. Attaching takes
-- SHARE ROW EXCLUSIVE on the tables its foreign keys point to until the transaction ends, so: one call a transaction, under a lock_timeout,
-- and try again (helix_create_partitions below keeps every lock to its end: for a database nobody uses yet).
-- Rows that fell into <table>_default because their month was missing are moved into it first:
--   * foreign keys that point at the table are taken off and put back (a DELETE in the default partition would otherwise
--     cascade into the rows that refer to it), which checks them again: slow, right, and rare;
--   * row triggers of the default partition sleep meanwhile (append-only tables refuse DELETE).
-- Must be run by the owner of the tables.
CREATE FUNCTION helix_create_partition(table_name text, month date) RETURNS boolean
    LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
DECLARE
    parent record;
    foreign_key record;
    month_start timestamp := date_trunc('month', month);      -- UTC
    low uuid;
    high uuid;
    part_name text;
    default_name text;
    column_list text;
    has_rows boolean;
    dropped text[] := '{}';     -- statements that put the foreign keys back
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('helix_create_partitions'));
    SELECT c.oid, c.relname, n.nspname, k.attname AS key_name, p.partdefid::regclass AS default_partition, p.partdefid
    INTO parent
    FROM pg_partitioned_table AS p
    JOIN pg_class AS c ON c.oid = p.partrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
    WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype AND n.nspname = 'public' AND c.relname = table_name;
    IF parent.oid IS NULL OR month IS NULL THEN
        RAISE EXCEPTION '% is no table of monthly partitions', table_name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Names are cut to 63 bytes by the server; ours stay far below.
    part_name := format('%I.%I', parent.nspname, parent.relname || '_p' || to_char(month_start, 'YYYYMM'));
    IF to_regclass(part_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- uuid_floor() written out: this body must not depend on the search_path.
    low := (lpad(to_hex((extract(epoch FROM month_start) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;
    high := (lpad(to_hex((extract(epoch FROM month_start + interval '1 month') * 1000)::bigint), 12, '0')
             || '70008000000000000000')::uuid;

    EXECUTE format('CREATE TABLE %s (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)',
                   part_name, parent.nspname, parent.relname);
    IF parent.partdefid <> 0 THEN
        default_name := parent.default_partition::text;
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', default_name);
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %I < $2)',
                       default_name, parent.key_name, parent.key_name)
            INTO has_rows USING low, high;
        IF has_rows THEN
            FOR foreign_key IN
                SELECT con.conname, con.conrelid::regclass::text AS table_name, pg_get_constraintdef(con.oid) AS definition
                FROM pg_constraint AS con
                WHERE con.contype = 'f' AND con.confrelid = parent.oid AND con.conparentid = 0
            LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', foreign_key.table_name, foreign_key.conname);
                dropped := dropped || format('ALTER TABLE %s ADD CONSTRAINT %I %s',
                    foreign_key.table_name, foreign_key.conname, foreign_key.definition);
            END LOOP;
            SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO column_list
            FROM pg_attribute AS a
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
    RETURN true;
END
$body$;

COMMENT ON FUNCTION helix_create_partition(text, date) IS
    'Makes the monthly partition of one table, moving its rows out of the default partition; false when it is there. One a transaction; run by the owner of the tables.';

-- All that are missing, in one transaction: it either did everything or nothing, and keeps its locks to the end.
CREATE OR REPLACE FUNCTION helix_create_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    missing record;
    created integer := 0;
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    FOR missing IN
        SELECT m.table_name, m.month FROM public.helix_missing_partitions(months_back, months_ahead) AS m
        WHERE m.month >= this_month - make_interval(months => months_back)
    LOOP
        created := created + public.helix_create_partition(missing.table_name, missing.month)::integer;
    END LOOP;
    RETURN created;
END
$body$;

COMMENT ON FUNCTION helix_create_partitions(integer, integer) IS
    'Makes the missing monthly partitions of every table RANGE-partitioned by one uuid column, moving rows out of the default partition where needed; returns how many it made. Idempotent; run by the owner of the tables.';

-- Takes a monthly partition off its table and drops it. Detaching takes ACCESS EXCLUSIVE on the table, and SHARE ROW EXCLUSIVE on
-- tables with foreign keys to or from it, until the transaction ends: last in its transaction, under a lock_timeout, and try again.
-- Refused (foreign_key_violation) while rows that stay refer to rows that would go. Where an audit table's rows are sealed (audit_seals), the
-- seals of the month forget the rows and keep their heads, so the chain goes on through it.
CREATE FUNCTION helix_drop_partition(partition_name text) RETURNS TABLE (row_count bigint, byte_count bigint)
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    part record;
BEGIN
    SELECT c.oid, c.relname AS name, t.relname AS parent, c.reltuples INTO part
    FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid JOIN pg_class AS t ON t.oid = i.inhparent
    WHERE c.relname = partition_name AND c.relnamespace = 'public'::regnamespace AND c.relispartition
      AND c.relname ~ ('^' || t.relname || '_p[0-9]{6}$');
    IF part.oid IS NULL THEN
        RAISE EXCEPTION '% is no monthly partition', partition_name USING ERRCODE = 'undefined_table';
    END IF;
    byte_count := pg_total_relation_size(part.oid);
    row_count := part.reltuples;
    IF part.reltuples < 0 THEN  -- never analyzed: nothing to go by, and hardly large
        EXECUTE format('SELECT count(*) FROM public.%I', part.name) INTO row_count;
    END IF;
    IF to_regclass('public.audit_seals') IS NOT NULL THEN
        EXECUTE 'UPDATE public.audit_seals SET row_ids = NULL, row_digests = NULL WHERE table_name = $1 AND month = $2 AND row_ids IS NOT NULL'
        USING part.parent, right(part.name, 6)::integer;
    END IF;
    EXECUTE format('ALTER TABLE public.%I DETACH PARTITION public.%I', part.parent, part.name);
    EXECUTE format('DROP TABLE public.%I', part.name);
    RETURN NEXT;
END
$body$;

COMMENT ON FUNCTION helix_drop_partition(text) IS
    'Drops one monthly partition; returns its rows (the server''s estimate, where it has one) and bytes. The last step of a short transaction; run by the owner of the tables.';

-- ----------------------------------------------------------------------------------------------------
-- ledger and errors
-- ----------------------------------------------------------------------------------------------------

-- ---------------------------------------------------------------------------------------------------------------------
-- usage_rollup_floors: until when the sums of a level stand for themselves, because rows they were made of may be gone: 'hour' is moved when
-- a month of llm_token_usage is dropped, 'day' when hours are deleted. Written by retention, in the transaction that drops or deletes.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE usage_rollup_floors (
    level        varchar(63) NOT NULL,
    sealed_until timestamptz NOT NULL,
    changed_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT usage_rollup_floors_pkey PRIMARY KEY (level)
);

COMMENT ON TABLE usage_rollup_floors IS 'Until when sums of usage are never made again, because what they were made of may be gone.';
COMMENT ON COLUMN usage_rollup_floors.level IS 'hour: llm_usage_hourly, made of llm_token_usage. day: llm_usage_daily, made of llm_usage_hourly.';
COMMENT ON COLUMN usage_rollup_floors.sealed_until IS 'Start of the first hour or day that may still be made again.';
COMMENT ON COLUMN usage_rollup_floors.changed_at IS 'When it was moved last; usage of sealed hours that was written later is added when its month is dropped.';

-- Sums up again every hour, day and month that [from_time, to_time) touches: buckets are replaced whole, so running it twice,
-- or over windows that overlap, changes nothing. What is already gone from the level below is left alone: what lies before the floor
-- of its level (usage_rollup_floors), hours before the oldest usage row, days before the oldest hour. An answer's row lies in the month
-- of its request, so the first hours of a month are made of two partitions: without the floor they would shrink when the first is dropped.
-- Run it as a role that sees all tenants (helix_operator); one at a time.
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
    hour_low := greatest(date_trunc('hour', from_time), date_trunc('hour', (SELECT uuid_time(u.id) FROM llm_token_usage u ORDER BY u.id LIMIT 1)),
                         (SELECT f.sealed_until FROM usage_rollup_floors f WHERE f.level = 'hour'));
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
        day_low := greatest(from_time::date, (SELECT min(h.hour)::date FROM llm_usage_hourly h),
                            (SELECT f.sealed_until::date FROM usage_rollup_floors f WHERE f.level = 'day'));
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

-- Where to read usage of all time, each moment once: days before daily_until, hours from there to hourly_until, the ledger from there on.
-- Where the hours of the day that holds the ledger's floor are gone, that whole day is read as a day.
CREATE FUNCTION helix_usage_bounds(OUT daily_until timestamptz, OUT hourly_until timestamptz)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = public, pg_catalog AS $body$
    SELECT least(f.days_from, x.ledger_from), x.ledger_from
    FROM (SELECT coalesce(max(l.sealed_until) FILTER (WHERE l.level = 'hour'), '-infinity') AS hours_from,
                 coalesce(max(l.sealed_until) FILTER (WHERE l.level = 'day'), '-infinity') AS days_from
          FROM usage_rollup_floors AS l) AS f
    CROSS JOIN LATERAL (
        SELECT CASE WHEN f.days_from > f.hours_from
            THEN date_trunc('day', f.hours_from + interval '1 day' - interval '1 microsecond', 'UTC') ELSE f.hours_from END AS ledger_from) AS x
$body$;

COMMENT ON FUNCTION helix_usage_bounds() IS
    'Until when usage is read from llm_usage_daily, and from there until when from llm_usage_hourly; later usage is in llm_token_usage.';

-- Drops a month of the ledger: sums are made a last time, then sealed, in the same transaction. Usage of hours that were sealed before
-- (written months late, into a month that was dropped already) is added to their sums: it is in none. Returns rows and bytes.
CREATE FUNCTION helix_drop_usage_month(month date) RETURNS TABLE (row_count bigint, byte_count bigint)
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog
    SET timezone = 'UTC' AS $body$
#variable_conflict use_variable
DECLARE
    part_name text := 'llm_token_usage_p' || to_char(month, 'YYYYMM');
    month_end timestamptz := (date_trunc('month', month) + interval '1 month') AT TIME ZONE 'UTC';
    floor_at timestamptz;
    moved_at timestamptz;
    first_at timestamptz;
    last_at timestamptz;
    late bigint;
BEGIN
    EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', part_name);
    SELECT f.sealed_until, f.changed_at INTO floor_at, moved_at FROM usage_rollup_floors AS f WHERE f.level = 'hour';
    EXECUTE format('SELECT count(*), min(u.timestamp), max(u.timestamp), count(*) FILTER (WHERE u.timestamp < $1 AND u.created_at > $2) FROM public.%I AS u', part_name)
        INTO row_count, first_at, last_at, late USING floor_at, moved_at;
    IF last_at >= coalesce(floor_at, '-infinity') THEN
        PERFORM helix_refresh_usage_rollups(greatest(first_at, floor_at), last_at + interval '1 microsecond');
    END IF;
    IF late > 0 THEN
        EXECUTE format($sql$
            WITH late AS MATERIALIZED (
                SELECT date_trunc('hour', u.timestamp) AS hour, u.user_id, u.api_key_id, u.project_id, u.agent_id, u.provider_name, u.model,
                    count(*) AS call_count, count(*) FILTER (WHERE u.estimated) AS estimated_count, sum(u.input_tokens) AS input_tokens,
                    sum(u.output_tokens) AS output_tokens, sum(u.cached_tokens) AS cached_tokens, sum(u.reasoning_tokens) AS reasoning_tokens,
                    sum(u.cost_usd) AS cost_usd
                FROM public.%I AS u WHERE u.timestamp < $1 AND u.created_at > $2 GROUP BY 1, 2, 3, 4, 5, 6, 7),
            hours AS (
                INSERT INTO llm_usage_hourly AS r (hour, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
                    estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
                SELECT * FROM late
                ON CONFLICT ON CONSTRAINT llm_usage_hourly_key DO UPDATE SET call_count = r.call_count + EXCLUDED.call_count,
                    estimated_count = r.estimated_count + EXCLUDED.estimated_count, input_tokens = r.input_tokens + EXCLUDED.input_tokens,
                    output_tokens = r.output_tokens + EXCLUDED.output_tokens, cached_tokens = r.cached_tokens + EXCLUDED.cached_tokens,
                    reasoning_tokens = r.reasoning_tokens + EXCLUDED.reasoning_tokens, cost_usd = r.cost_usd + EXCLUDED.cost_usd),
            days AS (
                INSERT INTO llm_usage_daily AS r (day, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
                    estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
                SELECT l.hour::date, l.user_id, l.api_key_id, l.project_id, l.agent_id, l.provider_name, l.model, sum(l.call_count),
                    sum(l.estimated_count), sum(l.input_tokens), sum(l.output_tokens), sum(l.cached_tokens), sum(l.reasoning_tokens), sum(l.cost_usd)
                FROM late AS l GROUP BY 1, 2, 3, 4, 5, 6, 7
                ON CONFLICT ON CONSTRAINT llm_usage_daily_key DO UPDATE SET call_count = r.call_count + EXCLUDED.call_count,
                    estimated_count = r.estimated_count + EXCLUDED.estimated_count, input_tokens = r.input_tokens + EXCLUDED.input_tokens,
                    output_tokens = r.output_tokens + EXCLUDED.output_tokens, cached_tokens = r.cached_tokens + EXCLUDED.cached_tokens,
                    reasoning_tokens = r.reasoning_tokens + EXCLUDED.reasoning_tokens, cost_usd = r.cost_usd + EXCLUDED.cost_usd)
            INSERT INTO llm_usage_monthly AS r (month, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
                estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
            SELECT date_trunc('month', l.hour)::date, l.user_id, l.api_key_id, l.project_id, l.agent_id, l.provider_name, l.model, sum(l.call_count),
                sum(l.estimated_count), sum(l.input_tokens), sum(l.output_tokens), sum(l.cached_tokens), sum(l.reasoning_tokens), sum(l.cost_usd)
            FROM late AS l GROUP BY 1, 2, 3, 4, 5, 6, 7
            ON CONFLICT ON CONSTRAINT llm_usage_monthly_key DO UPDATE SET call_count = r.call_count + EXCLUDED.call_count,
                estimated_count = r.estimated_count + EXCLUDED.estimated_count, input_tokens = r.input_tokens + EXCLUDED.input_tokens,
                output_tokens = r.output_tokens + EXCLUDED.output_tokens, cached_tokens = r.cached_tokens + EXCLUDED.cached_tokens,
                reasoning_tokens = r.reasoning_tokens + EXCLUDED.reasoning_tokens, cost_usd = r.cost_usd + EXCLUDED.cost_usd
        $sql$, part_name) USING floor_at, moved_at;
    END IF;
    INSERT INTO usage_rollup_floors AS f (level, sealed_until)
    VALUES ('hour', greatest(month_end, date_trunc('hour', last_at) + interval '1 hour'))
    ON CONFLICT ON CONSTRAINT usage_rollup_floors_pkey DO UPDATE SET sealed_until = greatest(f.sealed_until, EXCLUDED.sealed_until), changed_at = now();
    SELECT d.byte_count INTO byte_count FROM helix_drop_partition(part_name) AS d;
    RETURN NEXT;
END
$body$;

COMMENT ON FUNCTION helix_drop_usage_month(date) IS
    'Sums a month of llm_token_usage up a last time, seals the sums and drops the month, in one transaction; returns its rows and bytes. Run by the owner of the tables.';

-- Deletes the hours before a day, in that order: sums of days are made a last time, sealed, then the hours go.
CREATE FUNCTION helix_drop_usage_hours(before_day date) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog
    SET timezone = 'UTC' AS $body$
DECLARE
    low timestamptz;
    gone bigint;
BEGIN
    SELECT min(h.hour) INTO low FROM llm_usage_hourly AS h;
    IF low IS NULL OR low >= before_day THEN
        RETURN 0;
    END IF;
    PERFORM helix_refresh_usage_rollups(low, before_day);
    INSERT INTO usage_rollup_floors AS f (level, sealed_until) VALUES ('day', before_day)
    ON CONFLICT ON CONSTRAINT usage_rollup_floors_pkey DO UPDATE SET sealed_until = greatest(f.sealed_until, EXCLUDED.sealed_until), changed_at = now();
    DELETE FROM llm_usage_hourly AS h WHERE h.hour < before_day;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$body$;

COMMENT ON FUNCTION helix_drop_usage_hours(date) IS
    'Deletes the rows of llm_usage_hourly before a UTC day, after the days'' sums were made a last time and sealed; returns how many. Idempotent.';


INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('usage_rollup_floors', 'how far the sums of usage stand for themselves, no tenant data')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;
GRANT SELECT ON usage_rollup_floors TO helix_app, helix_operator, helix_readonly;

-- Drops a month of errors after adding them to the summary, in one transaction: an error is in one of the two, never in both or none.
CREATE FUNCTION helix_drop_error_month(month date) RETURNS TABLE (row_count bigint, byte_count bigint)
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog
    SET timezone = 'UTC' AS $body$
#variable_conflict use_variable
DECLARE
    part_name text := 'error_log_p' || to_char(month, 'YYYYMM');
BEGIN
    EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', part_name);
    EXECUTE format($sql$
        WITH summed AS (
            SELECT l.created_at::date AS date, l.category, l.code, count(*) AS count FROM public.%I AS l GROUP BY 1, 2, 3),
        written AS (
            INSERT INTO error_log_summary AS s (date, category, code, count)
            SELECT t.date, t.category, t.code, t.count FROM summed AS t
            ON CONFLICT ON CONSTRAINT error_log_summary_date_category_code_key DO UPDATE SET count = s.count + EXCLUDED.count)
        SELECT coalesce(sum(t.count), 0)::bigint FROM summed AS t$sql$, part_name) INTO row_count;
    SELECT d.byte_count INTO byte_count FROM helix_drop_partition(part_name) AS d;
    RETURN NEXT;
END
$body$;

COMMENT ON FUNCTION helix_drop_error_month(date) IS
    'Adds a month of error_log to error_log_summary and drops it, in one transaction; returns its rows and bytes. Run by the owner of the tables.';

DROP MATERIALIZED VIEW mv_daily_stats;
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

GRANT SELECT ON mv_daily_stats TO helix_operator, helix_readonly;

-- ----------------------------------------------------------------------------------------------------
-- retention and archive
-- ----------------------------------------------------------------------------------------------------

-- ---------------------------------------------------------------------------------------------------------------------
-- retention_runs: one row per run and table: what went, what that cost, and how big the table is since. A step that failed is there with
-- its error. Inserted once, by `helix retention run` and the task of every night; kept a year.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE retention_runs (
    id              uuid        NOT NULL DEFAULT uuidv7(),
    run_id          uuid        NOT NULL,
    table_name      varchar(63) NOT NULL,
    rule            varchar(20) NOT NULL,
    row_count       bigint      NOT NULL DEFAULT 0,
    byte_count      bigint      NOT NULL DEFAULT 0,
    partition_count integer     NOT NULL DEFAULT 0,
    wal_bytes       bigint      NOT NULL DEFAULT 0,
    duration_ms     bigint      NOT NULL,
    table_bytes     bigint,
    error_message   text,
    completed_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT retention_runs_pkey PRIMARY KEY (id),
    CONSTRAINT retention_runs_run_id_table_name_key UNIQUE (run_id, table_name),
    CONSTRAINT retention_runs_counts_check CHECK (row_count >= 0 AND byte_count >= 0 AND partition_count >= 0 AND wal_bytes >= 0
        AND duration_ms >= 0 AND table_bytes >= 0)
);
COMMENT ON TABLE retention_runs IS 'What each run of retention did, per table, and how big the table was then: growth is read from it.';
COMMENT ON COLUMN retention_runs.run_id IS 'The same in all rows of one run.';
COMMENT ON COLUMN retention_runs.rule IS 'By which kind of rule: months, age, archive, sums ...';
COMMENT ON COLUMN retention_runs.row_count IS 'Rows that left the table; counted where they were deleted or summed up, else estimated by the server.';
COMMENT ON COLUMN retention_runs.byte_count IS 'Bytes given back to the disk at once: those of dropped partitions.';
COMMENT ON COLUMN retention_runs.partition_count IS 'Monthly partitions dropped.';
COMMENT ON COLUMN retention_runs.wal_bytes IS 'Write-ahead log written meanwhile, by everybody.';
COMMENT ON COLUMN retention_runs.table_bytes IS 'Size of the table with indexes and TOAST afterwards.';
COMMENT ON COLUMN retention_runs.error_message IS 'Why the step failed, without data; the next run tries again.';
-- How did this table grow, and what was done to it?
CREATE INDEX retention_runs_table_name_completed_at_idx ON retention_runs (table_name, completed_at DESC);
-- Which rows are older than a year?
CREATE INDEX retention_runs_completed_at_idx ON retention_runs (completed_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_files: one row per file of the archive. 'writing': the file is being written and may be thrown away; 'written': it is whole on the
-- disk and was read again, its rows are still in the database; 'archived': its rows have left the database, the file is all there is.
-- Written by retention; kept for ever. Without this row a file cannot be opened: its key is here, encrypted.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_files (
    id                  uuid         NOT NULL DEFAULT uuidv7(),
    month               date         NOT NULL,
    name                varchar(100) NOT NULL,
    status              varchar(10)  NOT NULL DEFAULT 'writing',
    sealed_key          text         NOT NULL,
    key_id              varchar(64)  NOT NULL,
    first_request_id    uuid,
    last_request_id     uuid,
    request_count       bigint,
    request_body_count  bigint,
    response_count      bigint,
    response_body_count bigint,
    plain_bytes         bigint,
    size_bytes          bigint,
    sha256              bytea,
    created_at          timestamptz  NOT NULL DEFAULT now(),
    archived_at         timestamptz,
    CONSTRAINT archive_files_pkey PRIMARY KEY (id),
    CONSTRAINT archive_files_name_key UNIQUE (name),
    CONSTRAINT archive_files_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT archive_files_status_check CHECK (status IN ('writing', 'written', 'archived')),
    CONSTRAINT archive_files_whole_check CHECK ((status = 'writing') = (sha256 IS NULL)),
    CONSTRAINT archive_files_taken_check CHECK ((status = 'archived') = (archived_at IS NOT NULL)),
    CONSTRAINT archive_files_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT archive_files_counts_check CHECK (request_count >= 0 AND request_body_count >= 0 AND response_count >= 0
        AND response_body_count >= 0 AND plain_bytes >= 0 AND size_bytes >= 0)
);
COMMENT ON TABLE archive_files IS 'Files of archived requests, with their responses and texts: where they lie, what is in them, and the key that opens them.';
COMMENT ON COLUMN archive_files.month IS 'First day of the UTC month the requests are of.';
COMMENT ON COLUMN archive_files.name IS 'Path below HELIX_ARCHIVE_DIR.';
COMMENT ON COLUMN archive_files.sealed_key IS 'Ciphertext, bound to this row, of the key of this file. Never shown.';
COMMENT ON COLUMN archive_files.key_id IS 'Key of the keyring that opens sealed_key.';
COMMENT ON COLUMN archive_files.plain_bytes IS 'Bytes of the rows before compression.';
COMMENT ON COLUMN archive_files.size_bytes IS 'Bytes of the file.';
COMMENT ON COLUMN archive_files.sha256 IS 'SHA-256 of the file, 32 bytes; NULL while it is written.';
COMMENT ON COLUMN archive_files.archived_at IS 'When its rows left the database; NULL before.';
-- Which files hold requests of these months?
CREATE INDEX archive_files_month_idx ON archive_files (month, first_request_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_keys: one row per user and month with requests in the archive: the key of what is theirs in them: texts, parameters, metadata.
-- Erasing the user deletes the row, and nobody can read those again, in whatever copy of the files; the numbers stay readable. Written by
-- retention before the first request of the user; kept as long as the user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_keys (
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id    uuid        NOT NULL,
    month      date        NOT NULL,
    sealed_key text        NOT NULL,
    key_id     varchar(64) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT archive_keys_pkey PRIMARY KEY (id),
    CONSTRAINT archive_keys_user_id_month_key UNIQUE (user_id, month),
    CONSTRAINT archive_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT archive_keys_month_check CHECK (extract(day FROM month) = 1)
);
COMMENT ON TABLE archive_keys IS 'Keys of what is a user''s own in the archive, one per user and month: deleting one is erasing that.';
COMMENT ON COLUMN archive_keys.month IS 'First day of the UTC month.';
COMMENT ON COLUMN archive_keys.sealed_key IS 'Ciphertext, bound to this row, of the key. Never shown.';
COMMENT ON COLUMN archive_keys.key_id IS 'Key of the keyring that opens sealed_key.';

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_tombstones: one row per request whose texts somebody deleted: they are not read out of the archive, and do not come back with the
-- request. Written in the transaction of the deletion, whether the request is archived or not; goes with its user, whose keys go as well.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_tombstones (
    request_id uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    erased_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT archive_tombstones_pkey PRIMARY KEY (request_id),
    CONSTRAINT archive_tombstones_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE archive_tombstones IS 'Requests whose texts were deleted: no archive brings them back.';
COMMENT ON COLUMN archive_tombstones.request_id IS 'Joins llm_requests while it is there; no FK, it outlives it.';
-- Which are this tenant's? (erasure)
CREATE INDEX archive_tombstones_user_id_idx ON archive_tombstones (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_restores: one row per month that was brought back, and until when it stays. Written by `helix archive restore`; kept for ever.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_restores (
    id                  uuid        NOT NULL DEFAULT uuidv7(),
    month               date        NOT NULL,
    request_count       bigint      NOT NULL,
    response_count      bigint      NOT NULL,
    text_count          bigint      NOT NULL,
    withheld_count      bigint      NOT NULL DEFAULT 0,
    restored_at         timestamptz NOT NULL DEFAULT now(),
    keep_until          timestamptz NOT NULL,
    CONSTRAINT archive_restores_pkey PRIMARY KEY (id),
    CONSTRAINT archive_restores_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT archive_restores_counts_check CHECK (request_count >= 0 AND response_count >= 0 AND text_count >= 0 AND withheld_count >= 0),
    CONSTRAINT archive_restores_keep_until_check CHECK (keep_until >= restored_at)
);
COMMENT ON TABLE archive_restores IS 'Months of requests that were brought back from the archive; until keep_until retention leaves them.';
COMMENT ON COLUMN archive_restores.text_count IS 'Texts of requests and responses brought back.';
COMMENT ON COLUMN archive_restores.withheld_count IS 'Texts that stay away: their user was erased, or somebody deleted them.';
COMMENT ON COLUMN archive_restores.keep_until IS 'Until when retention leaves the month in the database.';
-- Which months are to stay for now?
CREATE INDEX archive_restores_month_idx ON archive_restores (month, keep_until);

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenancy and grants. Files, runs and restores are of the whole installation. Keys are the operator's; a tenant marks its own deletions.
-- ---------------------------------------------------------------------------------------------------------------------
INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('retention_runs',   'counts of whole tables, no tenant data; tenants may not read it'),
    ('archive_files',    'files of the whole installation with their keys; only operators may read it'),
    ('archive_restores', 'counts of whole months, no tenant data; tenants may not read it')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

ALTER TABLE archive_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE archive_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY archive_keys_tenant ON archive_keys TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY archive_keys_operator ON archive_keys TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY archive_keys_readonly ON archive_keys FOR SELECT TO helix_readonly USING (true);
ALTER TABLE archive_tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE archive_tombstones FORCE ROW LEVEL SECURITY;
CREATE POLICY archive_tombstones_tenant ON archive_tombstones TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY archive_tombstones_operator ON archive_tombstones TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY archive_tombstones_readonly ON archive_tombstones FOR SELECT TO helix_readonly USING (true);

GRANT SELECT, INSERT, DELETE ON retention_runs TO helix_operator;
GRANT SELECT ON retention_runs TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON archive_files, archive_keys TO helix_operator;
GRANT SELECT (id, month, name, status, key_id, first_request_id, last_request_id, request_count, request_body_count, response_count, response_body_count, plain_bytes,
              size_bytes, sha256, created_at, archived_at) ON archive_files TO helix_readonly;
GRANT SELECT (id, user_id, month, key_id, created_at) ON archive_keys TO helix_app, helix_readonly;
GRANT SELECT, INSERT ON archive_tombstones TO helix_app, helix_operator;
GRANT SELECT ON archive_tombstones TO helix_readonly;
GRANT SELECT, INSERT ON archive_restores TO helix_operator;
GRANT SELECT ON archive_restores TO helix_readonly;

-- Partitions are made, sums sealed and months dropped by the owner of the tables alone.
REVOKE EXECUTE ON FUNCTION helix_missing_partitions(integer, integer), helix_create_partition(text, date), helix_drop_partition(text),
                           helix_drop_usage_month(date), helix_drop_usage_hours(date), helix_drop_error_month(date) FROM PUBLIC;
