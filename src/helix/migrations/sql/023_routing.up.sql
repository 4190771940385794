-- 023_routing.up.sql: Routing: health by the hour, verifications, routes and their targets.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

ALTER TABLE llm_providers ADD COLUMN health_streak integer NOT NULL DEFAULT 0;
ALTER TABLE llm_providers DROP CONSTRAINT llm_providers_protocol_check;
ALTER TABLE llm_providers ADD CONSTRAINT llm_providers_protocol_check CHECK (protocol IN ('openai', 'anthropic', 'gemini', 'ollama', 'mock'));

COMMENT ON COLUMN llm_providers.protocol IS 'Wire format spoken: openai (and everything compatible with it), anthropic, gemini, ollama, or mock.';
COMMENT ON COLUMN llm_providers.weight IS 'Share of the calls among providers of one priority; weight of its vote in an ensemble.';
COMMENT ON COLUMN llm_providers.rate_limits IS 'What the provider allows us, e.g. {"requests_per_minute": 60, "concurrent_max": 20}.';
COMMENT ON COLUMN llm_providers.health_streak IS 'Probes in a row that went well (positive) or failed (negative); 0 before the first.';
COMMENT ON COLUMN llm_providers.last_health_check IS 'When a process last took up the probe; taking it up by a conditional update is what keeps others from probing too.';

-- provider_health_hours: one row per provider and UTC hour: how its probes and the calls made of it went. Added to by every
-- gateway process. Kept for 30 days; availability in the verification score is read from it.
CREATE TABLE provider_health_hours (
    provider_id   uuid        NOT NULL,
    hour          timestamptz NOT NULL,
    probes        integer     NOT NULL DEFAULT 0,
    probes_failed integer     NOT NULL DEFAULT 0,
    calls         bigint      NOT NULL DEFAULT 0,
    calls_failed  bigint      NOT NULL DEFAULT 0,
    first_ms_sum  bigint      NOT NULL DEFAULT 0,
    CONSTRAINT provider_health_hours_pkey PRIMARY KEY (provider_id, hour),
    CONSTRAINT provider_health_hours_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE CASCADE,
    CONSTRAINT provider_health_hours_probes_failed_check CHECK (probes_failed BETWEEN 0 AND probes),
    CONSTRAINT provider_health_hours_calls_failed_check CHECK (calls_failed BETWEEN 0 AND calls),
    CONSTRAINT provider_health_hours_first_ms_sum_check CHECK (first_ms_sum >= 0)
);

COMMENT ON TABLE provider_health_hours IS 'How the probes and calls of each provider went, by UTC hour.';
COMMENT ON COLUMN provider_health_hours.calls IS 'Attempts that told something about the provider; what a client cut off is not counted.';
COMMENT ON COLUMN provider_health_hours.calls_failed IS 'Those it is to blame for: no connection, silence, 5xx, 429, 401, 403, answers that cannot be used.';
COMMENT ON COLUMN provider_health_hours.first_ms_sum IS 'Milliseconds to the first content, summed over the calls that went well.';

-- Which hours are older than 30 days?
CREATE INDEX provider_health_hours_hour_idx ON provider_health_hours (hour);

-- provider_verifications: one row per verification of a provider by one of its models: the score and what it is made of.
-- Written by `helix providers verify` and the weekly task. Kept while the provider exists.
CREATE TABLE provider_verifications (
    id           uuid         NOT NULL DEFAULT uuidv7(),
    provider_id  uuid         NOT NULL,
    model_name   varchar(255) NOT NULL,
    score        numeric(4,2) NOT NULL,
    availability numeric(5,4) NOT NULL,
    speed        numeric(5,4) NOT NULL,
    correctness  numeric(5,4) NOT NULL,
    checks       jsonb        NOT NULL DEFAULT '{}',
    tokens       integer      NOT NULL DEFAULT 0,
    duration_ms  integer      NOT NULL,
    verified_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT provider_verifications_pkey PRIMARY KEY (id),
    CONSTRAINT provider_verifications_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE CASCADE,
    CONSTRAINT provider_verifications_score_check CHECK (score BETWEEN 0 AND 10),
    CONSTRAINT provider_verifications_availability_check CHECK (availability BETWEEN 0 AND 1),
    CONSTRAINT provider_verifications_speed_check CHECK (speed BETWEEN 0 AND 1),
    CONSTRAINT provider_verifications_correctness_check CHECK (correctness BETWEEN 0 AND 1),
    CONSTRAINT provider_verifications_tokens_check CHECK (tokens >= 0),
    CONSTRAINT provider_verifications_duration_ms_check CHECK (duration_ms >= 0)
);

COMMENT ON TABLE provider_verifications IS 'Every verification of a provider, with the parts of its score.';
COMMENT ON COLUMN provider_verifications.score IS '10 x (0.5 correctness + 0.3 availability + 0.2 speed).';
COMMENT ON COLUMN provider_verifications.availability IS 'Share of probes and calls of the last 7 days that went well.';
COMMENT ON COLUMN provider_verifications.speed IS 'Median time to first content of the fleet over that of this provider, at most 1.';
COMMENT ON COLUMN provider_verifications.correctness IS 'Weighted share of the checks it passed, of those that apply to the model.';
COMMENT ON COLUMN provider_verifications.checks IS 'Each check by name: passed, failed, skipped, and why.';
COMMENT ON COLUMN provider_verifications.tokens IS 'Tokens that the checks used, as the provider told.';

-- How did this provider do over time?
CREATE INDEX provider_verifications_provider_id_verified_at_idx ON provider_verifications (provider_id, verified_at DESC);

-- llm_routes: one row per virtual model: a name, how to choose among its targets, and how long to try. Called as
-- route/<name>, and by its bare name when it is an alias. Written by the operator.
CREATE TABLE llm_routes (
    id                 uuid         NOT NULL DEFAULT gen_random_uuid(),
    name               varchar(100) NOT NULL,
    description        varchar(500),
    strategy           varchar(50)  NOT NULL DEFAULT 'priority',
    is_alias           boolean      NOT NULL DEFAULT false,
    enabled            boolean      NOT NULL DEFAULT true,
    retries_max        integer,
    connect_ms         integer,
    first_token_ms     integer,
    between_tokens_ms  integer,
    total_ms           integer,
    retry_after_max_ms integer,
    cache_s            integer,
    created_at         timestamptz  NOT NULL DEFAULT now(),
    updated_at         timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT llm_routes_pkey PRIMARY KEY (id),
    CONSTRAINT llm_routes_name_key UNIQUE (name),
    CONSTRAINT llm_routes_name_check CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._:-]*$'),
    CONSTRAINT llm_routes_strategy_check CHECK (strategy IN ('priority', 'weighted', 'latency', 'round_robin', 'sticky', 'quality')),
    CONSTRAINT llm_routes_retries_max_check CHECK (retries_max BETWEEN 0 AND 20),
    CONSTRAINT llm_routes_connect_ms_check CHECK (connect_ms BETWEEN 1 AND 86400000),
    CONSTRAINT llm_routes_first_token_ms_check CHECK (first_token_ms BETWEEN 1 AND 86400000),
    CONSTRAINT llm_routes_between_tokens_ms_check CHECK (between_tokens_ms BETWEEN 1 AND 86400000),
    CONSTRAINT llm_routes_total_ms_check CHECK (total_ms BETWEEN 1 AND 86400000),
    CONSTRAINT llm_routes_retry_after_max_ms_check CHECK (retry_after_max_ms BETWEEN 0 AND 3600000),
    CONSTRAINT llm_routes_cache_s_check CHECK (cache_s BETWEEN 0 AND 2592000)
);

COMMENT ON TABLE llm_routes IS 'Virtual models: route/<name>, and aliases.';
COMMENT ON COLUMN llm_routes.strategy IS 'How the order of its targets is found for each call.';
COMMENT ON COLUMN llm_routes.is_alias IS 'Also called by its bare name, which then goes before models of that name.';
COMMENT ON COLUMN llm_routes.retries_max IS 'Attempts after the first, over all targets; NULL: as the settings say. So for the waits below.';
COMMENT ON COLUMN llm_routes.retry_after_max_ms IS 'Longest wait asked for by a provider that is sat out.';
COMMENT ON COLUMN llm_routes.cache_s IS 'How long an answer may be given again; NULL: as the key says, 0: never.';

CREATE TRIGGER llm_routes_set_updated_at BEFORE UPDATE ON llm_routes FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- llm_route_targets: one row per place a route may send a call to. Goes with its route, and with its provider.
CREATE TABLE llm_route_targets (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    route_id    uuid         NOT NULL,
    provider_id uuid,
    model_name  varchar(255) NOT NULL,
    priority    integer      NOT NULL DEFAULT 5,
    weight      numeric(5,2) NOT NULL DEFAULT 1.0,
    position    integer      NOT NULL DEFAULT 0,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT llm_route_targets_pkey PRIMARY KEY (id),
    CONSTRAINT llm_route_targets_route_id_target_key UNIQUE NULLS NOT DISTINCT (route_id, provider_id, model_name),
    CONSTRAINT llm_route_targets_route_id_fkey FOREIGN KEY (route_id) REFERENCES llm_routes (id) ON DELETE CASCADE,
    CONSTRAINT llm_route_targets_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE CASCADE,
    CONSTRAINT llm_route_targets_priority_check CHECK (priority >= 0),
    CONSTRAINT llm_route_targets_weight_check CHECK (weight >= 0),
    CONSTRAINT llm_route_targets_position_check CHECK (position >= 0)
);

COMMENT ON TABLE llm_route_targets IS 'Where each route may send a call.';
COMMENT ON COLUMN llm_route_targets.provider_id IS 'NULL: every provider that lists the model.';
COMMENT ON COLUMN llm_route_targets.priority IS 'Lower is tried first by the strategy priority.';
COMMENT ON COLUMN llm_route_targets.weight IS 'Share of the calls among targets that stand equal; 0: only when no other is left.';
COMMENT ON COLUMN llm_route_targets.position IS 'Place in the list as it was given; orders what is otherwise equal.';

-- Which routes lead to this provider?
CREATE INDEX llm_route_targets_provider_id_idx ON llm_route_targets (provider_id) WHERE provider_id IS NOT NULL;

INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('provider_health_hours',  'counts of probes and calls by provider, no tenant data'),
    ('provider_verifications', 'results of checks on shared providers, no tenant data'),
    ('llm_routes',             'shared registry, no tenant data'),
    ('llm_route_targets',      'shared registry, no tenant data')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

GRANT SELECT ON provider_health_hours, provider_verifications TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_health_hours TO helix_operator;
GRANT SELECT, INSERT, DELETE ON provider_verifications TO helix_operator;
GRANT SELECT ON llm_routes, llm_route_targets TO helix_app, helix_readonly, helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_routes, llm_route_targets TO helix_operator;
