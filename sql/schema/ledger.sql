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

-- Sums up again every hour, day and month that [from_time, to_time) touches: buckets are replaced whole, so running it twice,
-- or over windows that overlap, changes nothing. What is already gone from the level below is left alone: hours before the
-- oldest usage row, days before the oldest hour. Run it as a role that sees all tenants (helix_operator); one at a time.
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

-- ---------------------------------------------------------------------------------------------------------------------
-- budgets: one row per limit: so much money per UTC day or month for a user, one of their keys or projects, or an agent name.
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
    CONSTRAINT budgets_period_check CHECK (period IN ('day', 'month')),
    CONSTRAINT budgets_limit_usd_check CHECK (limit_usd >= 0)
);

COMMENT ON TABLE budgets IS 'Spending limits; a call reserves its worst case in every budget that fits and settles afterwards.';
COMMENT ON COLUMN budgets.user_id IS 'Tenant whose spending is limited.';
COMMENT ON COLUMN budgets.scope IS 'What of the tenant is limited: user (everything), api_key, project or agent.';
COMMENT ON COLUMN budgets.limit_usd IS 'US dollars per UTC day or month.';
COMMENT ON COLUMN budgets.hard IS 'True: calls beyond the limit are refused; false: only reported.';

-- Which budgets fit this key?
CREATE INDEX budgets_api_key_id_idx ON budgets (api_key_id) WHERE api_key_id IS NOT NULL;
-- Which budgets fit this project?
CREATE INDEX budgets_project_id_idx ON budgets (project_id) WHERE project_id IS NOT NULL;

CREATE TRIGGER budgets_set_updated_at BEFORE UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- budget_periods: one row per budget and UTC day or month in which something was spent. Written by single conditional
-- statements: reserve adds to reserved_usd only while reserved + settled + amount <= limit; settle moves the true cost over.
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
COMMENT ON COLUMN budget_periods.period_start IS 'First UTC day of the period.';
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
