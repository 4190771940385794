-- ledger.sql: money: what models cost, what was used, what may be spent, and the sums.
-- Domain: ledger. Amounts are exact: US dollars as numeric(20,12), because tokens x numeric(12,6) / 1,000,000 has at most
-- twelve decimals.

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_pricing: one row per model and moment from which its price holds; the row valid at t is the newest with
-- effective_date <= t. Written by the operator and the price sync. A price that already holds is never changed or deleted
-- (trigger): a new price is a new row. Kept for ever, usage refers to it.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_pricing (
    id                            uuid          NOT NULL DEFAULT gen_random_uuid(),
    model                         varchar(255)  NOT NULL,
    input_cost_per_million        numeric(12,6) NOT NULL,
    output_cost_per_million       numeric(12,6) NOT NULL,
    cached_input_cost_per_million numeric(12,6),
    reasoning_cost_per_million    numeric(12,6),
    per_request_cost_usd          numeric(12,6),
    effective_date                timestamptz   NOT NULL DEFAULT now(),
    source                        varchar(100),
    updated_at                    timestamptz   NOT NULL DEFAULT now(),
    updated_by                    varchar(100),
    notes                         text,
    CONSTRAINT llm_pricing_pkey PRIMARY KEY (id),
    CONSTRAINT llm_pricing_model_effective_date_key UNIQUE (model, effective_date),
    CONSTRAINT llm_pricing_cost_check CHECK (input_cost_per_million >= 0 AND output_cost_per_million >= 0
        AND cached_input_cost_per_million >= 0 AND reasoning_cost_per_million >= 0 AND per_request_cost_usd >= 0)
);

COMMENT ON TABLE llm_pricing IS 'Prices of models over time; a price in force is never changed, a new one is added.';
COMMENT ON COLUMN llm_pricing.input_cost_per_million IS 'US dollars per million input tokens.';
COMMENT ON COLUMN llm_pricing.output_cost_per_million IS 'US dollars per million output tokens.';
COMMENT ON COLUMN llm_pricing.cached_input_cost_per_million IS 'US dollars per million input tokens read from the provider''s cache; NULL: as other input.';
COMMENT ON COLUMN llm_pricing.reasoning_cost_per_million IS 'US dollars per million reasoning tokens; NULL: as other output.';
COMMENT ON COLUMN llm_pricing.per_request_cost_usd IS 'US dollars per request, on top; NULL: none.';
COMMENT ON COLUMN llm_pricing.effective_date IS 'From when the price holds, until the next row of the model.';
COMMENT ON COLUMN llm_pricing.source IS 'Where the price is from: operator, models.dev, seed ...';
COMMENT ON COLUMN llm_pricing.updated_by IS 'Who entered it, in words: the row outlives accounts.';

CREATE FUNCTION helix_refuse_price_change() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    IF OLD.effective_date > now() THEN
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_OP = 'UPDATE'
       AND to_jsonb(NEW) - ARRAY['notes', 'source', 'updated_at', 'updated_by']
         = to_jsonb(OLD) - ARRAY['notes', 'source', 'updated_at', 'updated_by'] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the price of % from % holds already and cannot be changed', OLD.model, OLD.effective_date
        USING ERRCODE = 'restrict_violation', HINT = 'Insert a new price with a later effective_date.';
END
$body$;

COMMENT ON FUNCTION helix_refuse_price_change() IS
    'Trigger of llm_pricing: a price in force cannot be changed or deleted; only its notes, source and updated_by can be amended.';

CREATE TRIGGER llm_pricing_refuse_change BEFORE UPDATE OR DELETE ON llm_pricing FOR EACH ROW EXECUTE FUNCTION helix_refuse_price_change();
CREATE TRIGGER llm_pricing_set_updated_at BEFORE UPDATE ON llm_pricing FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_token_usage: one row per answer that used tokens: the ledger. Written by the recorder in the commit of the answer;
-- append-only. Partitioned by UTC month on the UUIDv7 id; kept 1 year, then the month is dropped (sums stay in llm_usage_*).
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_token_usage (
    id               uuid           NOT NULL DEFAULT uuidv7(),
    timestamp        timestamptz    NOT NULL DEFAULT now(),
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    request_id       uuid           NOT NULL,
    response_id      uuid           NOT NULL,
    input_tokens     integer        NOT NULL DEFAULT 0,
    output_tokens    integer        NOT NULL DEFAULT 0,
    cached_tokens    integer        NOT NULL DEFAULT 0,
    reasoning_tokens integer        NOT NULL DEFAULT 0,
    cost_usd         numeric(20,12) NOT NULL DEFAULT 0,
    pricing_id       uuid,
    estimated        boolean        NOT NULL DEFAULT false,
    created_at       timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_token_usage_pkey PRIMARY KEY (id),
    CONSTRAINT llm_token_usage_pricing_id_fkey FOREIGN KEY (pricing_id) REFERENCES llm_pricing (id),
    CONSTRAINT llm_token_usage_tokens_check CHECK (input_tokens >= 0 AND output_tokens >= 0 AND cached_tokens >= 0
        AND reasoning_tokens >= 0),
    CONSTRAINT llm_token_usage_cost_usd_check CHECK (cost_usd >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE llm_token_usage_default PARTITION OF llm_token_usage DEFAULT;

COMMENT ON TABLE llm_token_usage IS 'The ledger: tokens and exact cost of every answer. Append-only; users, keys and projects that go are only unlinked.';
COMMENT ON COLUMN llm_token_usage.id IS 'UUIDv7 made with uuidv7_beside(request_id): same month as its request.';
COMMENT ON COLUMN llm_token_usage.timestamp IS 'When the tokens were used: the time the answer ended. Sums go by it.';
COMMENT ON COLUMN llm_token_usage.user_id IS 'Tenant; NULL after the user is erased.';
COMMENT ON COLUMN llm_token_usage.request_id IS 'Joins llm_requests; no FK because requests are dropped sooner.';
COMMENT ON COLUMN llm_token_usage.response_id IS 'Joins llm_responses; no FK because responses are dropped sooner.';
COMMENT ON COLUMN llm_token_usage.cached_tokens IS 'Part of input_tokens read from the provider''s cache.';
COMMENT ON COLUMN llm_token_usage.reasoning_tokens IS 'Part of output_tokens spent on reasoning.';
COMMENT ON COLUMN llm_token_usage.cost_usd IS 'Exact cost in US dollars by the price row pricing_id.';
COMMENT ON COLUMN llm_token_usage.pricing_id IS 'Price valid at that time; NULL when none was known (cost 0).';
COMMENT ON COLUMN llm_token_usage.estimated IS 'True when Helix counted the tokens because the provider told no usage.';
COMMENT ON COLUMN llm_token_usage.created_at IS 'When the row was written.';

-- What was used between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_token_usage_timestamp ON llm_token_usage USING brin (timestamp) WITH (autosummarize = on);
-- What did this project use?
CREATE INDEX idx_token_usage_project ON llm_token_usage (project_id) WHERE project_id IS NOT NULL;
-- What did this agent use?
CREATE INDEX idx_token_usage_agent ON llm_token_usage (agent_id) WHERE agent_id IS NOT NULL;
-- What did this agent use in this project?
CREATE INDEX idx_token_usage_project_agent ON llm_token_usage (project_id, agent_id) WHERE project_id IS NOT NULL;
-- What was used of this model?
CREATE INDEX idx_token_usage_model ON llm_token_usage (model);
-- How many tokens did this project use, by agent and model, in this time? Answered from the index alone.
CREATE INDEX idx_token_usage_project_time_covering ON llm_token_usage (project_id, timestamp)
    INCLUDE (agent_id, model, input_tokens, output_tokens) WHERE project_id IS NOT NULL;
-- What did this tenant use?
CREATE INDEX llm_token_usage_user_id_timestamp_idx ON llm_token_usage (user_id, timestamp) WHERE user_id IS NOT NULL;
-- What was used with this key?
CREATE INDEX llm_token_usage_api_key_id_idx ON llm_token_usage (api_key_id) WHERE api_key_id IS NOT NULL;
-- What did this request use?
CREATE INDEX llm_token_usage_request_id_idx ON llm_token_usage (request_id);

CREATE TRIGGER llm_token_usage_append_only BEFORE UPDATE OR DELETE ON llm_token_usage
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('user_id,api_key_id,project_id');
CREATE TRIGGER llm_token_usage_no_truncate BEFORE TRUNCATE ON llm_token_usage
    FOR EACH STATEMENT EXECUTE FUNCTION helix_append_only();

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_usage_hourly, llm_usage_daily, llm_usage_monthly: one row per UTC hour, day or month and combination of tenant, key,
-- project, agent, provider and model: the sums of llm_token_usage. Written only by helix_refresh_usage_rollups(). Ids are
-- plain uuids without foreign keys: a sum stays as it was when a user, key or project goes. Kept: hours 1 year, days and
-- months for ever.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_usage_hourly (
    id               uuid           NOT NULL DEFAULT gen_random_uuid(),
    hour             timestamptz    NOT NULL,
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    call_count       bigint         NOT NULL,
    estimated_count  bigint         NOT NULL,
    input_tokens     bigint         NOT NULL,
    output_tokens    bigint         NOT NULL,
    cached_tokens    bigint         NOT NULL,
    reasoning_tokens bigint         NOT NULL,
    cost_usd         numeric(26,12) NOT NULL,
    refreshed_at     timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_usage_hourly_pkey PRIMARY KEY (id),
    CONSTRAINT llm_usage_hourly_key UNIQUE NULLS NOT DISTINCT (hour, user_id, api_key_id, project_id, agent_id, provider_name, model),
    CONSTRAINT llm_usage_hourly_counts_check CHECK (call_count >= 0 AND estimated_count >= 0 AND input_tokens >= 0
        AND output_tokens >= 0 AND cached_tokens >= 0 AND reasoning_tokens >= 0 AND cost_usd >= 0)
);

COMMENT ON TABLE llm_usage_hourly IS 'Sums of llm_token_usage by UTC hour and dimension.';
COMMENT ON COLUMN llm_usage_hourly.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN llm_usage_hourly.call_count IS 'Answers summed up.';
COMMENT ON COLUMN llm_usage_hourly.estimated_count IS 'Those of them whose tokens Helix counted itself.';

-- What did this tenant spend by the hour?
CREATE INDEX llm_usage_hourly_user_id_hour_idx ON llm_usage_hourly (user_id, hour);
-- What did this project spend by the hour?
CREATE INDEX llm_usage_hourly_project_id_hour_idx ON llm_usage_hourly (project_id, hour) WHERE project_id IS NOT NULL;

CREATE TABLE llm_usage_daily (
    id               uuid           NOT NULL DEFAULT gen_random_uuid(),
    day              date           NOT NULL,
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    call_count       bigint         NOT NULL,
    estimated_count  bigint         NOT NULL,
    input_tokens     bigint         NOT NULL,
    output_tokens    bigint         NOT NULL,
    cached_tokens    bigint         NOT NULL,
    reasoning_tokens bigint         NOT NULL,
    cost_usd         numeric(26,12) NOT NULL,
    refreshed_at     timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_usage_daily_pkey PRIMARY KEY (id),
    CONSTRAINT llm_usage_daily_key UNIQUE NULLS NOT DISTINCT (day, user_id, api_key_id, project_id, agent_id, provider_name, model),
    CONSTRAINT llm_usage_daily_counts_check CHECK (call_count >= 0 AND estimated_count >= 0 AND input_tokens >= 0
        AND output_tokens >= 0 AND cached_tokens >= 0 AND reasoning_tokens >= 0 AND cost_usd >= 0)
);

COMMENT ON TABLE llm_usage_daily IS 'Sums of llm_usage_hourly by UTC day and dimension.';
COMMENT ON COLUMN llm_usage_daily.day IS 'UTC day.';
COMMENT ON COLUMN llm_usage_daily.call_count IS 'Answers summed up.';
COMMENT ON COLUMN llm_usage_daily.estimated_count IS 'Those of them whose tokens Helix counted itself.';

-- What did this tenant spend by the day?
CREATE INDEX llm_usage_daily_user_id_day_idx ON llm_usage_daily (user_id, day);
-- What did this project spend by the day?
CREATE INDEX llm_usage_daily_project_id_day_idx ON llm_usage_daily (project_id, day) WHERE project_id IS NOT NULL;

CREATE TABLE llm_usage_monthly (
    id               uuid           NOT NULL DEFAULT gen_random_uuid(),
    month            date           NOT NULL,
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    call_count       bigint         NOT NULL,
    estimated_count  bigint         NOT NULL,
    input_tokens     bigint         NOT NULL,
    output_tokens    bigint         NOT NULL,
    cached_tokens    bigint         NOT NULL,
    reasoning_tokens bigint         NOT NULL,
    cost_usd         numeric(26,12) NOT NULL,
    refreshed_at     timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_usage_monthly_pkey PRIMARY KEY (id),
    CONSTRAINT llm_usage_monthly_key UNIQUE NULLS NOT DISTINCT (month, user_id, api_key_id, project_id, agent_id, provider_name, model),
    CONSTRAINT llm_usage_monthly_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT llm_usage_monthly_counts_check CHECK (call_count >= 0 AND estimated_count >= 0 AND input_tokens >= 0
        AND output_tokens >= 0 AND cached_tokens >= 0 AND reasoning_tokens >= 0 AND cost_usd >= 0)
);

COMMENT ON TABLE llm_usage_monthly IS 'Sums of llm_usage_daily by UTC month and dimension.';
COMMENT ON COLUMN llm_usage_monthly.month IS 'First day of the UTC month.';
COMMENT ON COLUMN llm_usage_monthly.call_count IS 'Answers summed up.';
COMMENT ON COLUMN llm_usage_monthly.estimated_count IS 'Those of them whose tokens Helix counted itself.';

-- What did this tenant spend by the month?
CREATE INDEX llm_usage_monthly_user_id_month_idx ON llm_usage_monthly (user_id, month);
-- What did this project spend by the month?
CREATE INDEX llm_usage_monthly_project_id_month_idx ON llm_usage_monthly (project_id, month) WHERE project_id IS NOT NULL;

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
CREATE FUNCTION helix_refresh_usage_rollups(from_time timestamptz, to_time timestamptz) RETURNS bigint
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

-- ---------------------------------------------------------------------------------------------------------------------
-- budgets: one row per limit: so much money per UTC day, month or in total for a user, one of their keys or projects, or an agent name.
-- Written by the operator and the user. Goes with what it limits.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE budgets (
    id         uuid           NOT NULL DEFAULT gen_random_uuid(),
    user_id    uuid           NOT NULL,
    scope      varchar(20)    NOT NULL,
    api_key_id uuid,
    project_id uuid,
    agent_id   varchar(100),
    period     varchar(20)    NOT NULL,
    limit_usd  numeric(20,12) NOT NULL,
    hard       boolean        NOT NULL DEFAULT true,
    enabled    boolean        NOT NULL DEFAULT true,
    created_at timestamptz    NOT NULL DEFAULT now(),
    updated_at timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT budgets_pkey PRIMARY KEY (id),
    CONSTRAINT budgets_key UNIQUE NULLS NOT DISTINCT (user_id, scope, api_key_id, project_id, agent_id, period),
    CONSTRAINT budgets_scope_check CHECK (scope IN ('user', 'api_key', 'project', 'agent')),
    CONSTRAINT budgets_target_check CHECK ((scope = 'api_key') = (api_key_id IS NOT NULL)
        AND (scope = 'project') = (project_id IS NOT NULL) AND (scope = 'agent') = (agent_id IS NOT NULL)),
    CONSTRAINT budgets_period_check CHECK (period IN ('day', 'month', 'total')),
    CONSTRAINT budgets_limit_usd_check CHECK (limit_usd >= 0)
);

COMMENT ON TABLE budgets IS 'Spending limits; a call reserves its worst case in every budget that fits and settles afterwards.';
COMMENT ON COLUMN budgets.user_id IS 'Tenant whose spending is limited.';
COMMENT ON COLUMN budgets.scope IS 'What of the tenant is limited: user (everything), api_key, project or agent.';
COMMENT ON COLUMN budgets.period IS 'day or month (UTC), or total: for ever.';
COMMENT ON COLUMN budgets.limit_usd IS 'US dollars per period.';
COMMENT ON COLUMN budgets.hard IS 'True: calls beyond the limit are refused; false: only reported.';

-- Which budgets fit this key?
CREATE INDEX budgets_api_key_id_idx ON budgets (api_key_id) WHERE api_key_id IS NOT NULL;
-- Which budgets fit this project?
CREATE INDEX budgets_project_id_idx ON budgets (project_id) WHERE project_id IS NOT NULL;

CREATE TRIGGER budgets_set_updated_at BEFORE UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- budget_periods: one row per budget and UTC day or month in which something was spent. Written by helix_admit(), which adds
-- to reserved_usd only while reserved + settled + amount <= limit, and helix_charge(), which moves the true cost over.
-- Tenant: through the budget. Kept 13 months.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE budget_periods (
    budget_id    uuid           NOT NULL,
    period_start date           NOT NULL,
    reserved_usd numeric(20,12) NOT NULL DEFAULT 0,
    settled_usd  numeric(20,12) NOT NULL DEFAULT 0,
    updated_at   timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT budget_periods_pkey PRIMARY KEY (budget_id, period_start),
    CONSTRAINT budget_periods_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets (id) ON DELETE CASCADE,
    CONSTRAINT budget_periods_reserved_usd_check CHECK (reserved_usd >= 0),
    CONSTRAINT budget_periods_settled_usd_check CHECK (settled_usd >= 0)
);

COMMENT ON TABLE budget_periods IS 'What is reserved and spent of a budget in one day or month.';
COMMENT ON COLUMN budget_periods.period_start IS 'First UTC day of the period; 1970-01-01 for a total.';
COMMENT ON COLUMN budget_periods.reserved_usd IS 'Worst-case cost of the calls under way.';
COMMENT ON COLUMN budget_periods.settled_usd IS 'True cost of the calls that ended.';

CREATE TRIGGER budget_periods_set_updated_at BEFORE UPDATE ON budget_periods FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- budget_reservations: one row per call under way and budget it reserves in, so that what a dead process reserved can be given
-- back. Written when a call is admitted, deleted when it settles; the sweeper gives back those past expires_at.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE budget_reservations (
    request_id   uuid           NOT NULL,
    budget_id    uuid           NOT NULL,
    period_start date           NOT NULL,
    amount_usd   numeric(20,12) NOT NULL,
    created_at   timestamptz    NOT NULL DEFAULT now(),
    expires_at   timestamptz    NOT NULL,
    CONSTRAINT budget_reservations_pkey PRIMARY KEY (request_id, budget_id),
    CONSTRAINT budget_reservations_budget_id_period_start_fkey FOREIGN KEY (budget_id, period_start)
        REFERENCES budget_periods (budget_id, period_start) ON DELETE CASCADE,
    CONSTRAINT budget_reservations_amount_usd_check CHECK (amount_usd >= 0)
);

COMMENT ON TABLE budget_reservations IS 'Amounts reserved by calls under way; what remains past expires_at belongs to a process that died.';
COMMENT ON COLUMN budget_reservations.request_id IS 'Joins llm_requests; no FK because the reservation is made before the request row.';

-- Which reservations must be given back?
CREATE INDEX budget_reservations_expires_at_idx ON budget_reservations (expires_at);
-- Which calls hold a part of this budget?
CREATE INDEX budget_reservations_budget_id_period_start_idx ON budget_reservations (budget_id, period_start);

-- ---------------------------------------------------------------------------------------------------------------------
-- rate_windows: one row per API key, and per user with limits of its own: what the running minute has used, and how many
-- calls are under way. Written by helix_admit() and helix_charge() only, under row locks taken in the order of subject_id. A
-- window opens with the first call and lasts a minute. Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE rate_windows (
    subject_id        uuid        NOT NULL,
    user_id           uuid        NOT NULL,
    window_started_at timestamptz NOT NULL DEFAULT '-infinity',
    requests          integer     NOT NULL DEFAULT 0,
    tokens            bigint      NOT NULL DEFAULT 0,
    parallel          integer     NOT NULL DEFAULT 0,
    CONSTRAINT rate_windows_pkey PRIMARY KEY (subject_id),
    CONSTRAINT rate_windows_counts_check CHECK (requests >= 0 AND tokens >= 0 AND parallel >= 0)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE rate_windows IS 'What each key or user has used of its limits in the running minute; decides, under row locks, which calls are admitted.';
COMMENT ON COLUMN rate_windows.subject_id IS 'An id of api_keys or of users; no FK, since it is one or the other.';
COMMENT ON COLUMN rate_windows.user_id IS 'Tenant.';
COMMENT ON COLUMN rate_windows.window_started_at IS 'When the minute began: with its first call.';
COMMENT ON COLUMN rate_windows.requests IS 'Calls admitted in the window.';
COMMENT ON COLUMN rate_windows.tokens IS 'Tokens of the window: what calls under way may use at most, and what ended ones did use.';
COMMENT ON COLUMN rate_windows.parallel IS 'Calls under way, where parallel_max limits them.';

-- Which windows are this tenant's?
CREATE INDEX rate_windows_user_id_idx ON rate_windows (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- call_holds: one row per call under way and subject whose tokens or parallel calls are limited: what the call holds there
-- until it ends. Written by helix_admit(), deleted by helix_charge(), also for calls of a dead process, which the sweep ends.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE call_holds (
    request_id        uuid        NOT NULL,
    subject_id        uuid        NOT NULL,
    window_started_at timestamptz NOT NULL,
    tokens            integer     NOT NULL DEFAULT 0,
    tokens_used       bigint      NOT NULL DEFAULT 0,
    parallel          smallint    NOT NULL DEFAULT 0,
    CONSTRAINT call_holds_pkey PRIMARY KEY (request_id, subject_id),
    CONSTRAINT call_holds_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES rate_windows (subject_id) ON DELETE CASCADE,
    CONSTRAINT call_holds_counts_check CHECK (tokens >= 0 AND tokens_used >= 0 AND parallel BETWEEN 0 AND 1)
);

COMMENT ON TABLE call_holds IS 'What calls under way hold of limits on tokens and parallel calls.';
COMMENT ON COLUMN call_holds.request_id IS 'Joins llm_requests; no FK because the hold is made before the request row.';
COMMENT ON COLUMN call_holds.window_started_at IS 'The window the tokens were counted in; once it is over they are not given back.';
COMMENT ON COLUMN call_holds.tokens IS 'Tokens the call may use at most.';
COMMENT ON COLUMN call_holds.tokens_used IS 'Tokens that attempts of the call used before its end.';

-- Which calls hold something of this subject?
CREATE INDEX call_holds_subject_id_idx ON call_holds (subject_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- call_refusals: one row per UTC hour, user, key and reason: how many calls were refused. A refused call leaves no request,
-- but is not forgotten. Written by helix_admit(). Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE call_refusals (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    hour          timestamptz  NOT NULL,
    user_id       uuid         NOT NULL,
    api_key_id    uuid,
    reason        varchar(50)  NOT NULL,
    limit_name    varchar(100) NOT NULL DEFAULT '',
    refused_count bigint       NOT NULL,
    CONSTRAINT call_refusals_pkey PRIMARY KEY (id),
    CONSTRAINT call_refusals_key UNIQUE NULLS NOT DISTINCT (hour, user_id, api_key_id, reason, limit_name),
    CONSTRAINT call_refusals_reason_check CHECK (reason IN ('rate_limited', 'budget_exceeded', 'key_reused', 'revoked')),
    CONSTRAINT call_refusals_refused_count_check CHECK (refused_count >= 0)
);

COMMENT ON TABLE call_refusals IS 'Calls refused when they asked to be admitted, by hour and reason.';
COMMENT ON COLUMN call_refusals.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN call_refusals.reason IS 'rate_limited, budget_exceeded, key_reused (Idempotency-Key with another body) or revoked.';
COMMENT ON COLUMN call_refusals.limit_name IS 'Which limit it was, such as key requests_per_minute; empty where none was.';

-- How many calls of this tenant were refused?
CREATE INDEX call_refusals_user_id_hour_idx ON call_refusals (user_id, hour);

-- ---------------------------------------------------------------------------------------------------------------------
-- idempotency_keys: one row per user and Idempotency-Key of the last 24 hours: which request holds it. Claimed by
-- helix_admit(); a claim whose request failed, or that is older, is taken over by the next request. Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE idempotency_keys (
    user_id         uuid         NOT NULL,
    idempotency_key varchar(255) NOT NULL,
    request_id      uuid         NOT NULL,
    body_sha256     bytea,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, idempotency_key),
    CONSTRAINT idempotency_keys_body_sha256_check CHECK (octet_length(body_sha256) = 32)
);

COMMENT ON TABLE idempotency_keys IS 'Which request holds an Idempotency-Key, so that a repeated one is answered and not called again.';
COMMENT ON COLUMN idempotency_keys.request_id IS 'Joins llm_requests; no FK because the claim is made before the request row.';
COMMENT ON COLUMN idempotency_keys.body_sha256 IS 'SHA-256 of what was asked, 32 bytes: the same key for something else is refused.';

-- Which claims are over?
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);

-- The first UTC day of the period that holds a moment; of all time it is the first day of 1970.
CREATE FUNCTION helix_period_start(period text, moment timestamptz) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE period WHEN 'day' THEN (moment AT TIME ZONE 'UTC')::date
        WHEN 'month' THEN date_trunc('month', moment AT TIME ZONE 'UTC')::date
        WHEN 'total' THEN DATE '1970-01-01' END;

COMMENT ON FUNCTION helix_period_start(text, timestamptz) IS 'First UTC day of the day or month that holds the moment; 1970-01-01 for total.';

-- When that period ends; NULL for total.
CREATE FUNCTION helix_period_end(period text, moment timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE period WHEN 'day' THEN (date_trunc('day', moment AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC'
        WHEN 'month' THEN (date_trunc('month', moment AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC' END;

COMMENT ON FUNCTION helix_period_end(text, timestamptz) IS 'When the day or month that holds the moment ends; NULL for total.';

-- Decides, for many calls at once, which may be made, and counts them: exactly, over any number of processes. The statement
-- admit_calls calls it and inserts the admitted requests in the same transaction. Locks, always in this order, so that batches
-- cannot wait for each other in a circle: rate_windows by subject_id, budget_periods by (budget_id, period_start), idempotency_keys.
-- Each statement here sees what was committed when it began, so what is read under the locks is the truth until the commit.
-- A batch that fits whole into all its limits is counted in one step; else its calls are judged one by one, in their order, and a
-- refused one uses nothing up. `retried`: the batch may have been committed before; what was is admitted again and not counted.
CREATE FUNCTION helix_admit(
    request_ids uuid[], user_ids uuid[], key_ids uuid[], project_ids uuid[], agent_ids text[], reserves_usd numeric[],
    reserves_tokens integer[], claims text[], body_hashes bytea[], retried boolean)
    RETURNS TABLE (request_id uuid, decision text, limit_name text, limit_value numeric, limit_left numeric,
        retry_after_s double precision, other_request_id uuid)
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog AS $body$
#variable_conflict use_column
DECLARE
    call_count constant integer := cardinality(request_ids);
    moment timestamptz := clock_timestamp();
    decisions text[] := array_fill(NULL::text, ARRAY[call_count]);
    reasons integer[] := array_fill(NULL::integer, ARRAY[call_count]);
    others uuid[] := array_fill(NULL::uuid, ARRAY[call_count]);
    standing text[];
    subjects uuid[];
    found bigint;
    lim_subject uuid[];
    lim_measure text[];
    lim_period date[];
    lim_name text[];
    lim_value numeric[];
    lim_left numeric[];
    lim_wait double precision[];
    link_call integer[];
    link_limit integer[];
    link_amount numeric[];
    one record;
    call integer;
    refused_by integer;
    first integer := 1;
    last integer;
BEGIN
    IF retried THEN
        SELECT array_agg(CASE WHEN q.id IS NOT NULL THEN 'admitted' END ORDER BY c.n) INTO decisions
        FROM unnest(request_ids) WITH ORDINALITY AS c (id, n)
        LEFT JOIN llm_requests AS q ON q.id = c.id AND q.id = ANY (request_ids);
    END IF;

    -- Every key of the batch with those it descends from; users only where they have limits of their own.
    SELECT array_agg(DISTINCT s.id ORDER BY s.id) INTO subjects
    FROM (
        SELECT a.id FROM api_keys AS k CROSS JOIN unnest(k.ancestor_ids || k.id) AS a (id) WHERE k.id = ANY (key_ids)
        UNION ALL
        SELECT u.id FROM users AS u WHERE u.id = ANY (user_ids)
            AND (u.rate_limit IS NOT NULL OR u.tokens_per_minute IS NOT NULL OR u.parallel_max IS NOT NULL)) AS s;
    IF subjects IS NOT NULL THEN
        PERFORM FROM rate_windows AS w WHERE w.subject_id = ANY (subjects) ORDER BY w.subject_id FOR NO KEY UPDATE;
        GET DIAGNOSTICS found = ROW_COUNT;
        IF found < cardinality(subjects) THEN
            INSERT INTO rate_windows (subject_id, user_id)
            SELECT s.id, coalesce(k.user_id, s.id) FROM unnest(subjects) AS s (id) LEFT JOIN api_keys AS k ON k.id = s.id
            ORDER BY s.id ON CONFLICT DO NOTHING;
            PERFORM FROM rate_windows AS w WHERE w.subject_id = ANY (subjects) ORDER BY w.subject_id FOR NO KEY UPDATE;
        END IF;
    END IF;
    moment := clock_timestamp();

    -- Budgets: the period that holds now must have a row to lock.
    IF EXISTS (SELECT FROM budgets AS b WHERE b.user_id = ANY (user_ids) AND b.enabled) THEN
        INSERT INTO budget_periods (budget_id, period_start)
        SELECT b.id, helix_period_start(b.period, moment) FROM budgets AS b
        WHERE b.user_id = ANY (user_ids) AND b.enabled AND NOT EXISTS (
            SELECT FROM budget_periods AS p WHERE p.budget_id = b.id AND p.period_start = helix_period_start(b.period, moment))
        ORDER BY b.id ON CONFLICT DO NOTHING;
        PERFORM FROM budget_periods AS p
        JOIN budgets AS b ON b.id = p.budget_id AND p.period_start = helix_period_start(b.period, moment)
        WHERE b.user_id = ANY (user_ids) AND b.enabled ORDER BY p.budget_id, p.period_start FOR NO KEY UPDATE OF p;
    END IF;

    -- Who is not active any more, as of now: a revoked key is dead the moment its revocation is committed.
    SELECT array_agg(CASE WHEN u.status IS DISTINCT FROM 'active' OR (c.key_id IS NOT NULL AND (k.id IS NULL OR EXISTS (
            SELECT FROM api_keys AS a WHERE a.id = ANY (k.ancestor_ids || k.id)
              AND (a.status <> 'active' OR a.expires_at <= moment)))) THEN 'revoked' END ORDER BY c.n) INTO standing
    FROM unnest(user_ids, key_ids) WITH ORDINALITY AS c (user_id, key_id, n)
    LEFT JOIN users AS u ON u.id = c.user_id AND u.id = ANY (user_ids)
    LEFT JOIN api_keys AS k ON k.id = c.key_id AND k.id = ANY (key_ids);
    FOR call IN 1 .. call_count LOOP
        decisions[call] := coalesce(decisions[call], standing[call]);
    END LOOP;

    -- Idempotency-Keys are claimed first: who loses the claim asks for nothing.
    IF cardinality(array_remove(claims, NULL)) > 0 THEN
        INSERT INTO idempotency_keys (user_id, idempotency_key, request_id, body_sha256, created_at)
        SELECT DISTINCT ON (c.user_id, c.claim) c.user_id, c.claim, c.id, c.body_hash, moment
        FROM unnest(request_ids, user_ids, claims, body_hashes, decisions) WITH ORDINALITY AS c (id, user_id, claim, body_hash, decision, n)
        WHERE c.claim IS NOT NULL AND c.decision IS NULL
        ORDER BY c.user_id, c.claim, c.n ON CONFLICT DO NOTHING;
        PERFORM FROM idempotency_keys AS i
        WHERE (i.user_id, i.idempotency_key) IN (SELECT c.user_id, c.claim FROM unnest(user_ids, claims) AS c (user_id, claim))
        ORDER BY i.user_id, i.idempotency_key FOR UPDATE;
        -- A claim that is over, or whose request came to nothing, passes to the first that asks.
        UPDATE idempotency_keys AS i SET request_id = f.id, body_sha256 = f.body_hash, created_at = moment
        FROM (SELECT DISTINCT ON (c.user_id, c.claim) c.id, c.user_id, c.claim, c.body_hash
              FROM unnest(request_ids, user_ids, claims, body_hashes, decisions) WITH ORDINALITY AS c (id, user_id, claim, body_hash, decision, n)
              WHERE c.claim IS NOT NULL AND c.decision IS NULL ORDER BY c.user_id, c.claim, c.n) AS f
        WHERE i.user_id = f.user_id AND i.idempotency_key = f.claim AND i.request_id <> f.id
          AND (i.created_at < moment - interval '24 hours'
               OR (i.body_sha256 IS NOT DISTINCT FROM f.body_hash AND NOT EXISTS (
                   SELECT FROM llm_requests AS q WHERE q.id = i.request_id AND q.status IN ('pending', 'running', 'completed'))));
        FOR one IN
            SELECT c.n, i.request_id AS holder, i.body_sha256 IS DISTINCT FROM c.body_hash AS other_body, q.status = 'completed' AS ended
            FROM unnest(request_ids, user_ids, claims, body_hashes, decisions) WITH ORDINALITY AS c (id, user_id, claim, body_hash, decision, n)
            JOIN idempotency_keys AS i ON i.user_id = c.user_id AND i.idempotency_key = c.claim
            LEFT JOIN llm_requests AS q ON q.id = i.request_id
            WHERE c.decision IS NULL AND i.request_id <> c.id
        LOOP
            decisions[one.n] := CASE WHEN one.other_body THEN 'key_reused' WHEN one.ended THEN 'replay' ELSE 'in_progress' END;
            others[one.n] := one.holder;
        END LOOP;
    END IF;

    -- Every limit that any call of the batch counts against, with what is left of it.
    SELECT array_agg(l.subject), array_agg(l.measure), array_agg(l.period), array_agg(l.name), array_agg(l.value),
        array_agg(l.value - l.used), array_agg(l.wait)
    INTO lim_subject, lim_measure, lim_period, lim_name, lim_value, lim_left, lim_wait
    FROM (
        SELECT s.id AS subject, m.measure, NULL::date AS period, s.kind || ' ' || m.name AS name, m.value, m.used,
            CASE WHEN m.measure = 'parallel' THEN 1 WHEN o.running
                THEN extract(epoch FROM w.window_started_at + interval '1 minute' - moment)::double precision ELSE 60 END AS wait
        FROM (SELECT k.id, 'key' AS kind, k.rate_limit, k.tokens_per_minute, k.parallel_max FROM api_keys AS k WHERE k.id = ANY (subjects)
              UNION ALL
              SELECT u.id, 'user', u.rate_limit, u.tokens_per_minute, u.parallel_max FROM users AS u WHERE u.id = ANY (subjects)) AS s
        JOIN rate_windows AS w ON w.subject_id = s.id
        CROSS JOIN LATERAL (SELECT w.window_started_at > moment - interval '1 minute' AS running) AS o
        CROSS JOIN LATERAL (VALUES
            ('requests', 'requests_per_minute', s.rate_limit::numeric, CASE WHEN o.running THEN w.requests ELSE 0 END),
            ('tokens', 'tokens_per_minute', s.tokens_per_minute, CASE WHEN o.running THEN w.tokens ELSE 0 END),
            ('parallel', 'parallel_max', s.parallel_max, w.parallel)) AS m (measure, name, value, used)
        WHERE m.value IS NOT NULL
        UNION ALL
        SELECT b.id, 'usd', p.period_start, 'budget ' || b.scope || ' ' || b.period, CASE WHEN b.hard THEN b.limit_usd END,
            p.reserved_usd + p.settled_usd,
            extract(epoch FROM helix_period_end(b.period, moment) - moment)::double precision
        FROM budgets AS b
        JOIN budget_periods AS p ON p.budget_id = b.id AND p.period_start = helix_period_start(b.period, moment)
        WHERE b.user_id = ANY (user_ids) AND b.enabled) AS l;

    -- Which call counts against which limit, and how much.
    IF lim_subject IS NOT NULL THEN
        SELECT array_agg(c.n ORDER BY c.n), array_agg(l.at ORDER BY c.n),
            array_agg(CASE l.measure WHEN 'tokens' THEN c.tokens WHEN 'usd' THEN round(c.usd, 12) ELSE 1 END ORDER BY c.n)
        INTO link_call, link_limit, link_amount
        FROM unnest(user_ids, key_ids, project_ids, agent_ids, reserves_usd, reserves_tokens, decisions) WITH ORDINALITY
            AS c (user_id, key_id, project_id, agent_id, usd, tokens, decision, n)
        LEFT JOIN api_keys AS k ON k.id = c.key_id AND k.id = ANY (key_ids)
        JOIN unnest(lim_subject, lim_measure) WITH ORDINALITY AS l (subject, measure, at) ON true
        LEFT JOIN budgets AS b ON l.measure = 'usd' AND b.id = l.subject
        WHERE c.decision IS NULL AND CASE WHEN l.measure = 'usd'
            THEN b.user_id = c.user_id AND (b.scope = 'user' OR b.api_key_id = ANY (k.ancestor_ids || k.id)
                OR b.project_id = c.project_id OR b.agent_id = c.agent_id)
            ELSE l.subject = c.user_id OR l.subject = ANY (k.ancestor_ids || k.id) END;
    END IF;

    IF EXISTS (SELECT FROM unnest(link_limit, link_amount) AS l (at, amount) GROUP BY l.at HAVING sum(l.amount) > lim_left[l.at]) THEN
        WHILE first <= cardinality(link_call) LOOP
            call := link_call[first];
            last := first;
            refused_by := NULL;
            WHILE last <= cardinality(link_call) AND link_call[last] = call LOOP
                IF refused_by IS NULL AND lim_left[link_limit[last]] < link_amount[last] THEN
                    refused_by := link_limit[last];
                END IF;
                last := last + 1;
            END LOOP;
            IF refused_by IS NULL THEN
                FOR one IN SELECT g.at FROM generate_series(first, last - 1) AS g (at) LOOP
                    lim_left[link_limit[one.at]] := lim_left[link_limit[one.at]] - link_amount[one.at];
                END LOOP;
            ELSE
                decisions[call] := CASE lim_measure[refused_by] WHEN 'usd' THEN 'budget_exceeded' ELSE 'rate_limited' END;
                reasons[call] := refused_by;
            END IF;
            first := last;
        END LOOP;
    END IF;
    -- All that nothing speaks against; from here on 'new' are those to be counted.
    FOR call IN 1 .. call_count LOOP
        decisions[call] := coalesce(decisions[call], 'new');
    END LOOP;

    -- A claim of a refused call is given up, and who asked the same in this batch is refused as it was.
    IF cardinality(array_remove(claims, NULL)) > 0 THEN
        DELETE FROM idempotency_keys AS i
        USING unnest(request_ids, user_ids, claims, decisions) AS c (id, user_id, claim, decision)
        WHERE i.user_id = c.user_id AND i.idempotency_key = c.claim AND i.request_id = c.id
          AND c.decision IN ('rate_limited', 'budget_exceeded');
        FOR call IN 1 .. call_count LOOP
            last := array_position(request_ids, others[call]);
            IF last IS NOT NULL AND decisions[call] = 'in_progress' AND decisions[last] IN ('rate_limited', 'budget_exceeded') THEN
                decisions[call] := decisions[last];
                reasons[call] := reasons[last];
                others[call] := NULL;
            END IF;
        END LOOP;
    END IF;

    IF link_call IS NOT NULL THEN
        UPDATE rate_windows AS w SET
            window_started_at = CASE WHEN w.window_started_at > moment - interval '1 minute' THEN w.window_started_at ELSE moment END,
            requests = CASE WHEN w.window_started_at > moment - interval '1 minute' THEN w.requests ELSE 0 END + g.requests,
            tokens = CASE WHEN w.window_started_at > moment - interval '1 minute' THEN w.tokens ELSE 0 END + g.tokens,
            parallel = w.parallel + g.parallel
        FROM (SELECT lim_subject[l.at] AS subject,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'requests'), 0) AS requests,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'tokens'), 0) AS tokens,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'parallel'), 0) AS parallel
              FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
              WHERE decisions[l.call] = 'new' AND lim_measure[l.at] <> 'usd' GROUP BY 1) AS g
        WHERE w.subject_id = g.subject AND w.subject_id = ANY (subjects);
        IF lim_measure && ARRAY['tokens', 'parallel'] THEN
            INSERT INTO call_holds (request_id, subject_id, window_started_at, tokens, parallel)
            SELECT request_ids[l.call], w.subject_id, w.window_started_at,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'tokens'), 0),
                count(*) FILTER (WHERE lim_measure[l.at] = 'parallel')
            FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
            JOIN rate_windows AS w ON w.subject_id = lim_subject[l.at]
            WHERE decisions[l.call] = 'new' AND lim_measure[l.at] IN ('tokens', 'parallel')
            GROUP BY 1, 2, 3;
        END IF;
        IF 'usd' = ANY (lim_measure) THEN
            UPDATE budget_periods AS p SET reserved_usd = p.reserved_usd + g.amount
            FROM (SELECT l.at, sum(l.amount) AS amount FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
                  WHERE decisions[l.call] = 'new' AND lim_measure[l.at] = 'usd' GROUP BY 1) AS g
            WHERE p.budget_id = lim_subject[g.at] AND p.period_start = lim_period[g.at];
            INSERT INTO budget_reservations (request_id, budget_id, period_start, amount_usd, expires_at)
            SELECT request_ids[l.call], lim_subject[l.at], lim_period[l.at], l.amount, moment + interval '1 day'
            FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
            WHERE decisions[l.call] = 'new' AND lim_measure[l.at] = 'usd';
        END IF;
    END IF;

    IF decisions && ARRAY['rate_limited', 'budget_exceeded', 'key_reused', 'revoked'] THEN
        INSERT INTO call_refusals AS r (hour, user_id, api_key_id, reason, limit_name, refused_count)
        SELECT date_trunc('hour', moment, 'UTC'), u.id, k.id, c.decision, coalesce(lim_name[c.reason], ''), count(*)
        FROM unnest(user_ids, key_ids, decisions, reasons) AS c (user_id, key_id, decision, reason)
        JOIN users AS u ON u.id = c.user_id LEFT JOIN api_keys AS k ON k.id = c.key_id
        WHERE c.decision IN ('rate_limited', 'budget_exceeded', 'key_reused', 'revoked')
        GROUP BY 2, 3, 4, 5 ORDER BY 2, 3, 4, 5
        ON CONFLICT ON CONSTRAINT call_refusals_key DO UPDATE SET refused_count = r.refused_count + EXCLUDED.refused_count;
    END IF;

    RETURN QUERY
    SELECT c.id, CASE c.decision WHEN 'new' THEN 'admitted' ELSE c.decision END, lim_name[c.reason], lim_value[c.reason],
        lim_left[c.reason], lim_wait[c.reason], c.other
    FROM unnest(request_ids, decisions, reasons, others) AS c (id, decision, reason, other);
END
$body$;

COMMENT ON FUNCTION helix_admit(uuid[], uuid[], uuid[], uuid[], text[], numeric[], integer[], text[], bytea[], boolean) IS
    'Decides which calls of a batch may be made and counts them against every limit and budget that fits, exactly and over any number of processes.';

-- The same decision for the batches that nearly all are: nothing claimed, and of every call the key is a plain one, without
-- ancestors, with no limit but requests a minute, of a user without limits or budgets. If all of them fit they are counted
-- and the answer is true; else nothing is counted, and helix_admit() decides. Locks: the rate_windows of the keys, in the
-- order of their ids, as helix_admit() takes them; what is read under them is the truth until the commit.
CREATE FUNCTION helix_admit_plain(user_ids uuid[], key_ids uuid[]) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog AS $body$
#variable_conflict use_column
DECLARE
    moment timestamptz;
    locked bigint;
    all_fit boolean;
BEGIN
    SELECT count(*) INTO locked FROM (
        SELECT FROM rate_windows AS w
        WHERE w.subject_id = ANY (key_ids)
          AND NOT EXISTS (SELECT FROM api_keys AS k WHERE k.id = ANY (key_ids) AND k.ancestor_ids <> '{}')
          AND NOT EXISTS (SELECT FROM users AS u WHERE u.id = ANY (user_ids)
              AND (u.rate_limit IS NOT NULL OR u.tokens_per_minute IS NOT NULL OR u.parallel_max IS NOT NULL))
        ORDER BY w.subject_id FOR NO KEY UPDATE) AS l;
    IF locked = 0 THEN
        RETURN false;
    END IF;
    moment := clock_timestamp();
    WITH judged AS MATERIALIZED (
        SELECT a.key_id, a.calls, k.rate_limit, o.running,
            coalesce(u.status = 'active' AND u.rate_limit IS NULL AND u.tokens_per_minute IS NULL AND u.parallel_max IS NULL
                AND k.status = 'active' AND (k.expires_at IS NULL OR k.expires_at > moment) AND k.ancestor_ids = '{}'
                AND k.tokens_per_minute IS NULL AND k.parallel_max IS NULL
                AND (k.rate_limit IS NULL OR CASE WHEN o.running THEN w.requests ELSE 0 END + a.calls <= k.rate_limit)
                AND NOT EXISTS (SELECT FROM budgets AS b WHERE b.user_id = ANY (user_ids) AND b.enabled), false) AS fits
        FROM (SELECT c.user_id, c.key_id, count(*)::integer AS calls
              FROM unnest(user_ids, key_ids) AS c (user_id, key_id) GROUP BY 1, 2) AS a
        LEFT JOIN users AS u ON u.id = a.user_id AND u.id = ANY (user_ids)
        LEFT JOIN api_keys AS k ON k.id = a.key_id AND k.user_id = a.user_id AND k.id = ANY (key_ids)
        LEFT JOIN rate_windows AS w ON w.subject_id = a.key_id AND w.subject_id = ANY (key_ids)
        CROSS JOIN LATERAL (SELECT w.window_started_at > moment - interval '1 minute' AS running) AS o),
    counted AS (
        UPDATE rate_windows AS w SET
            window_started_at = CASE WHEN j.running THEN w.window_started_at ELSE moment END,
            requests = CASE WHEN j.running THEN w.requests ELSE 0 END + j.calls,
            tokens = CASE WHEN j.running THEN w.tokens ELSE 0 END
        FROM judged AS j
        WHERE w.subject_id = j.key_id AND w.subject_id = ANY (key_ids) AND j.rate_limit IS NOT NULL
          AND (SELECT bool_and(j.fits) FROM judged AS j))
    SELECT bool_and(j.fits) INTO all_fit FROM judged AS j;
    RETURN all_fit;
END
$body$;

COMMENT ON FUNCTION helix_admit_plain(uuid[], uuid[]) IS
    'Counts a batch of calls whose keys have no limit but requests a minute, if all fit; else does nothing and says false.';

-- Charges what calls used, and gives back what they held: called by the settling statement with the answers it has just written.
-- Locks as helix_admit() does: rate_windows, then budget_periods, each in the order of their keys. A call is charged to the period in
-- which it was admitted. `finals`: whether the call has ended; else it keeps what it holds, less what it used.
CREATE FUNCTION helix_charge(
    request_ids uuid[], user_ids uuid[], key_ids uuid[], project_ids uuid[], agent_ids text[], admitted_ats timestamptz[],
    costs_usd numeric[], tokens integer[], finals boolean[]) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog AS $body$
#variable_conflict use_column
DECLARE
    charged integer := 0;
    subjects uuid[];
    budget_ids uuid[];
    periods date[];
    spent numeric[];
    released numeric[];
BEGIN
    IF request_ids IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(DISTINCT h.subject_id ORDER BY h.subject_id) INTO subjects FROM call_holds AS h WHERE h.request_id = ANY (request_ids);
    IF subjects IS NOT NULL THEN
        PERFORM FROM rate_windows AS w WHERE w.subject_id = ANY (subjects) ORDER BY w.subject_id FOR NO KEY UPDATE;
        UPDATE call_holds AS h SET tokens_used = h.tokens_used + c.tokens
        FROM (SELECT u.request_id, sum(u.tokens) AS tokens FROM unnest(request_ids, tokens) AS u (request_id, tokens) GROUP BY 1) AS c
        WHERE h.request_id = c.request_id;
        WITH gone AS (
            DELETE FROM call_holds AS h USING unnest(request_ids, finals) AS c (request_id, final)
            WHERE h.request_id = c.request_id AND c.final
            RETURNING h.subject_id, h.window_started_at, h.tokens, h.tokens_used, h.parallel),
        sums AS (
            SELECT g.subject_id, sum(g.parallel) AS parallel,
                coalesce(sum(g.tokens_used - g.tokens) FILTER (WHERE g.tokens > 0 AND g.window_started_at = w.window_started_at), 0) AS tokens
            FROM gone AS g JOIN rate_windows AS w ON w.subject_id = g.subject_id GROUP BY 1)
        UPDATE rate_windows AS w SET parallel = w.parallel - s.parallel, tokens = greatest(w.tokens + s.tokens, 0)
        FROM sums AS s WHERE w.subject_id = s.subject_id;
    END IF;

    IF EXISTS (SELECT FROM budgets AS b WHERE b.user_id = ANY (user_ids)) THEN
        SELECT array_agg(m.budget_id), array_agg(m.period_start), array_agg(m.cost),
            array_agg(CASE WHEN m.final THEN m.held ELSE least(m.held, m.cost) END)
        INTO budget_ids, periods, spent, released
        FROM (
            SELECT c.request_id, b.id AS budget_id, coalesce(v.period_start, helix_period_start(b.period, c.admitted_at)) AS period_start,
                coalesce(v.amount_usd, 0) AS held, sum(c.cost) AS cost, bool_or(c.final) AS final
            FROM unnest(request_ids, user_ids, key_ids, project_ids, agent_ids, admitted_ats, costs_usd, finals)
                AS c (request_id, user_id, key_id, project_id, agent_id, admitted_at, cost, final)
            LEFT JOIN api_keys AS k ON k.id = c.key_id
            JOIN budgets AS b ON b.user_id = c.user_id AND (b.scope = 'user' OR b.api_key_id = ANY (k.ancestor_ids || k.id)
                OR b.project_id = c.project_id OR b.agent_id = c.agent_id)
            LEFT JOIN budget_reservations AS v ON v.request_id = c.request_id AND v.budget_id = b.id
            GROUP BY 1, 2, 3, 4) AS m;
        PERFORM FROM budget_periods AS p
        JOIN (SELECT DISTINCT m.budget_id, m.period_start FROM unnest(budget_ids, periods) AS m (budget_id, period_start)) AS m USING (budget_id, period_start)
        ORDER BY p.budget_id, p.period_start FOR NO KEY UPDATE OF p;
        UPDATE budget_periods AS p SET reserved_usd = p.reserved_usd - m.released, settled_usd = p.settled_usd + m.spent
        FROM (SELECT m.budget_id, m.period_start, sum(m.released) AS released, sum(m.spent) AS spent
              FROM unnest(budget_ids, periods, released, spent) AS m (budget_id, period_start, released, spent) GROUP BY 1, 2) AS m
        WHERE p.budget_id = m.budget_id AND p.period_start = m.period_start;
        GET DIAGNOSTICS charged = ROW_COUNT;
        DELETE FROM budget_reservations AS v USING unnest(request_ids, finals) AS c (request_id, final)
        WHERE v.request_id = c.request_id AND c.final;
        UPDATE budget_reservations AS v SET amount_usd = greatest(v.amount_usd - c.cost, 0)
        FROM (SELECT u.request_id, sum(u.cost) AS cost FROM unnest(request_ids, costs_usd) AS u (request_id, cost)
              GROUP BY 1) AS c
        WHERE v.request_id = c.request_id;
    END IF;
    RETURN charged;
END
$body$;

COMMENT ON FUNCTION helix_charge(uuid[], uuid[], uuid[], uuid[], text[], timestamptz[], numeric[], integer[], boolean[]) IS
    'Charges answers to the budgets of their calls and gives back what ended calls held; returns how many periods it charged.';
