-- llm_providers.sql: whom Helix may call: providers, their encrypted settings, their models and how good those are.
-- Domain: providers. Shared catalogues, no tenant data.

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_providers: one row per configured upstream. Written by the operator, the health probe, the verifier and the models
-- sync. Kept until removed; responses keep the provider's name. There is no api_key column: provider_configs holds the
-- credentials, encrypted.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_providers (
    id                    uuid         NOT NULL DEFAULT gen_random_uuid(),
    name                  varchar(255) NOT NULL,
    display_name          varchar(255),
    provider_type         varchar(100) NOT NULL DEFAULT 'api_key',
    type                  varchar(100) NOT NULL GENERATED ALWAYS AS (provider_type) STORED,
    protocol              varchar(50)  NOT NULL DEFAULT 'openai',
    base_url              varchar(500),
    model                 varchar(255),
    enabled               boolean      NOT NULL DEFAULT true,
    is_enabled            boolean      NOT NULL GENERATED ALWAYS AS (enabled) STORED,
    priority              integer      NOT NULL DEFAULT 5,
    weight                numeric(5,2) NOT NULL DEFAULT 1.0,
    capabilities          jsonb        NOT NULL DEFAULT '{}',
    rate_limits           jsonb        NOT NULL DEFAULT '{}',
    config                jsonb        NOT NULL DEFAULT '{}',
    health_status         varchar(50)  NOT NULL DEFAULT 'unknown',
    health_streak         integer      NOT NULL DEFAULT 0,
    response_time         bigint       NOT NULL DEFAULT 0,
    last_health_check     timestamptz,
    verification_score    numeric(4,2) NOT NULL DEFAULT 0.0,
    last_verified         timestamptz,
    modelsdev_provider_id varchar(255),
    total_models          integer      NOT NULL DEFAULT 0,
    enabled_models        integer      NOT NULL DEFAULT 0,
    last_models_sync      timestamptz,
    created_at            timestamptz  NOT NULL DEFAULT now(),
    updated_at            timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT llm_providers_pkey PRIMARY KEY (id),
    CONSTRAINT llm_providers_name_key UNIQUE (name),
    CONSTRAINT llm_providers_provider_type_check CHECK (provider_type IN ('api_key', 'oauth', 'free')),
    CONSTRAINT llm_providers_protocol_check CHECK (protocol IN ('openai', 'anthropic', 'gemini', 'ollama', 'mock')),
    CONSTRAINT llm_providers_priority_check CHECK (priority >= 0),
    CONSTRAINT llm_providers_weight_check CHECK (weight >= 0),
    CONSTRAINT llm_providers_health_status_check CHECK (health_status IN ('healthy', 'degraded', 'unhealthy', 'unknown')),
    CONSTRAINT llm_providers_response_time_check CHECK (response_time >= 0),
    CONSTRAINT llm_providers_verification_score_check CHECK (verification_score BETWEEN 0 AND 10),
    CONSTRAINT llm_providers_total_models_check CHECK (total_models >= 0),
    CONSTRAINT llm_providers_enabled_models_check CHECK (enabled_models BETWEEN 0 AND total_models)
);

COMMENT ON TABLE llm_providers IS 'One row per configured LLM provider; credentials are in provider_configs, never here.';
COMMENT ON COLUMN llm_providers.provider_type IS 'How the provider is paid and authenticated: api_key, oauth or free.';
COMMENT ON COLUMN llm_providers.type IS 'Derived: provider_type. The name two seeds use.';
COMMENT ON COLUMN llm_providers.protocol IS 'Wire format spoken: openai (and everything compatible with it), anthropic, gemini, ollama, or mock.';
COMMENT ON COLUMN llm_providers.base_url IS 'Root of the API; NULL for the mock provider, which is not called over the network.';
COMMENT ON COLUMN llm_providers.model IS 'Default model when a request names only the provider.';
COMMENT ON COLUMN llm_providers.is_enabled IS 'Derived: enabled. The name one seed uses.';
COMMENT ON COLUMN llm_providers.priority IS 'Order of preference in routing; lower is tried first.';
COMMENT ON COLUMN llm_providers.weight IS 'Share of the calls among providers of one priority; weight of its vote in an ensemble.';
COMMENT ON COLUMN llm_providers.capabilities IS 'What it can do: streaming, tools, vision, embeddings ... An object of booleans.';
COMMENT ON COLUMN llm_providers.rate_limits IS 'What the provider allows us, e.g. {"requests_per_minute": 60, "concurrent_max": 20}.';
COMMENT ON COLUMN llm_providers.config IS 'Settings that are no secret: timeouts, headers, model aliases.';
COMMENT ON COLUMN llm_providers.health_streak IS 'Probes in a row that went well (positive) or failed (negative); 0 before the first.';
COMMENT ON COLUMN llm_providers.last_health_check IS 'When a process last took up the probe; taking it up by a conditional update is what keeps others from probing too.';
COMMENT ON COLUMN llm_providers.response_time IS 'Last measured response time in milliseconds.';
COMMENT ON COLUMN llm_providers.verification_score IS 'Measured score from 0 (fails) to 10; the formula is documented with the verifier.';
COMMENT ON COLUMN llm_providers.modelsdev_provider_id IS 'Id of this provider in the models.dev catalogue.';

-- Which providers may be routed to?
CREATE INDEX idx_providers_enabled ON llm_providers (enabled);
-- Which providers are the best measured? (idx_providers_name would only repeat llm_providers_name_key)
CREATE INDEX idx_providers_score ON llm_providers (verification_score DESC);
-- Which providers are free, which need a key?
CREATE INDEX idx_providers_type ON llm_providers (provider_type);

CREATE TRIGGER llm_providers_set_updated_at BEFORE UPDATE ON llm_providers FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- provider_configs: one row per setting of a provider, above all its credentials. Written by the operator and by key
-- rotation. Goes with its provider.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE provider_configs (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    provider_id uuid         NOT NULL,
    key         varchar(100) NOT NULL,
    value       text         NOT NULL,
    encrypted   boolean      NOT NULL DEFAULT true,
    key_id      varchar(64),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT provider_configs_pkey PRIMARY KEY (id),
    CONSTRAINT provider_configs_provider_id_key_key UNIQUE (provider_id, key),
    CONSTRAINT provider_configs_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE CASCADE,
    CONSTRAINT provider_configs_key_id_check CHECK (encrypted = (key_id IS NOT NULL)),
    CONSTRAINT provider_configs_secret_check CHECK (encrypted OR key !~* '(key|token|secret|password|credential)')
);

COMMENT ON TABLE provider_configs IS 'Settings of a provider by name; credentials are ciphertext.';
COMMENT ON COLUMN provider_configs.key IS 'Name of the setting, e.g. api_key. A name that sounds like a secret must be encrypted.';
COMMENT ON COLUMN provider_configs.value IS 'Ciphertext bound to this row when encrypted, else the plain value. Never shown.';
COMMENT ON COLUMN provider_configs.key_id IS 'Which encryption key made the ciphertext; NULL exactly when the value is not encrypted.';

-- Which settings does this provider have?
CREATE INDEX idx_provider_configs_provider ON provider_configs (provider_id);
-- Which rows were made with an old encryption key?
CREATE INDEX provider_configs_key_id_idx ON provider_configs (key_id);

CREATE TRIGGER provider_configs_set_updated_at BEFORE UPDATE ON provider_configs FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_models: one row per model of a provider, as the models sync (models.dev or its bundled snapshot) and the provider's
-- own list tell it. Kept while the provider exists. What a call costs is decided by llm_pricing, not by the prices here.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_models (
    id                        uuid          NOT NULL DEFAULT gen_random_uuid(),
    provider_id               uuid          NOT NULL,
    model_name                varchar(255)  NOT NULL,
    model_id                  varchar(255),
    display_name              varchar(255),
    description               text,
    is_active                 boolean       NOT NULL DEFAULT true,
    capabilities              jsonb         NOT NULL DEFAULT '{}',
    context_window            integer,
    max_tokens                integer,
    pricing_input             numeric(12,6),
    pricing_output            numeric(12,6),
    pricing_currency          varchar(3)    NOT NULL DEFAULT 'USD',
    cost_per_token            numeric(10,8) GENERATED ALWAYS AS ((pricing_input + pricing_output) / 2000000) STORED,
    supports_vision           boolean       NOT NULL DEFAULT false,
    supports_function_calling boolean       NOT NULL DEFAULT false,
    supports_streaming        boolean       NOT NULL DEFAULT false,
    supports_json_mode        boolean       NOT NULL DEFAULT false,
    supports_image_generation boolean       NOT NULL DEFAULT false,
    supports_audio            boolean       NOT NULL DEFAULT false,
    supports_code_generation  boolean       NOT NULL DEFAULT false,
    supports_reasoning        boolean       NOT NULL DEFAULT false,
    benchmark_score           numeric(5,2),
    popularity_score          numeric(5,2),
    reliability_score         numeric(5,2),
    model_type                varchar(100),
    model_family              varchar(100),
    version                   varchar(50),
    tags                      text[]        NOT NULL DEFAULT '{}',
    modelsdev_url             text,
    modelsdev_id              varchar(255),
    modelsdev_api_version     varchar(50),
    raw_metadata              jsonb,
    last_refreshed_at         timestamptz,
    created_at                timestamptz   NOT NULL DEFAULT now(),
    updated_at                timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT llm_models_pkey PRIMARY KEY (id),
    CONSTRAINT llm_models_provider_id_model_name_key UNIQUE (provider_id, model_name),
    CONSTRAINT llm_models_model_id_key UNIQUE (model_id),
    CONSTRAINT llm_models_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE CASCADE,
    CONSTRAINT llm_models_context_window_check CHECK (context_window >= 0),
    CONSTRAINT llm_models_max_tokens_check CHECK (max_tokens >= 0),
    CONSTRAINT llm_models_pricing_check CHECK (pricing_input >= 0 AND pricing_output >= 0),
    CONSTRAINT llm_models_benchmark_score_check CHECK (benchmark_score BETWEEN 0 AND 100),
    CONSTRAINT llm_models_popularity_score_check CHECK (popularity_score BETWEEN 0 AND 100),
    CONSTRAINT llm_models_reliability_score_check CHECK (reliability_score BETWEEN 0 AND 100)
);

COMMENT ON TABLE llm_models IS 'Catalogue of the models each provider offers; refreshed by the models sync.';
COMMENT ON COLUMN llm_models.model_name IS 'The name the provider is called with.';
COMMENT ON COLUMN llm_models.model_id IS 'Global id, e.g. openai/gpt-4; NULL for a model the catalogue does not know.';
COMMENT ON COLUMN llm_models.context_window IS 'Tokens the model can see at once.';
COMMENT ON COLUMN llm_models.max_tokens IS 'Most tokens the model can answer with.';
COMMENT ON COLUMN llm_models.pricing_input IS 'Advertised price per million input tokens in pricing_currency. Information only: llm_pricing is what calls are billed by.';
COMMENT ON COLUMN llm_models.pricing_output IS 'Advertised price per million output tokens in pricing_currency. Information only.';
COMMENT ON COLUMN llm_models.cost_per_token IS 'Derived: mean of the two advertised prices, per token. Never billed by.';
COMMENT ON COLUMN llm_models.benchmark_score IS '0 to 100: mean of the model''s normalized benchmark scores.';
COMMENT ON COLUMN llm_models.popularity_score IS '0 to 100.';
COMMENT ON COLUMN llm_models.reliability_score IS '0 to 100.';
COMMENT ON COLUMN llm_models.raw_metadata IS 'The catalogue entry as it was received.';

-- Which providers offer this model?
CREATE INDEX llm_models_model_name_idx ON llm_models (model_name);

CREATE TRIGGER llm_models_set_updated_at BEFORE UPDATE ON llm_models FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- models_refresh_history: one row per run of the models sync. Written by it; kept for a year.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE models_refresh_history (
    id               uuid        NOT NULL DEFAULT uuidv7(),
    provider_id      uuid,
    refresh_type     varchar(50) NOT NULL,
    status           varchar(50) NOT NULL,
    models_refreshed integer     NOT NULL DEFAULT 0,
    models_failed    integer     NOT NULL DEFAULT 0,
    error_message    text,
    started_at       timestamptz NOT NULL DEFAULT now(),
    completed_at     timestamptz,
    duration_ms      integer,
    metadata         jsonb       NOT NULL DEFAULT '{}',
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT models_refresh_history_pkey PRIMARY KEY (id),
    CONSTRAINT models_refresh_history_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL,
    CONSTRAINT models_refresh_history_status_check CHECK (status IN ('success', 'partial', 'failed')),
    CONSTRAINT models_refresh_history_models_refreshed_check CHECK (models_refreshed >= 0),
    CONSTRAINT models_refresh_history_models_failed_check CHECK (models_failed >= 0),
    CONSTRAINT models_refresh_history_duration_ms_check CHECK (duration_ms >= 0)
);

COMMENT ON TABLE models_refresh_history IS 'One row per run of the models sync and how it ended.';
COMMENT ON COLUMN models_refresh_history.provider_id IS 'The provider refreshed; NULL for a run over all.';
COMMENT ON COLUMN models_refresh_history.refresh_type IS 'What was refreshed and from where, e.g. full, provider, snapshot.';

-- When was this provider refreshed last?
CREATE INDEX models_refresh_history_provider_id_started_at_idx ON models_refresh_history (provider_id, started_at DESC);

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_benchmarks: one row per model and benchmark: its newest result. Written by the models sync and by own measurement.
-- Goes with its model.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_benchmarks (
    id               uuid          NOT NULL DEFAULT gen_random_uuid(),
    model_id         uuid          NOT NULL,
    benchmark_name   varchar(255)  NOT NULL,
    benchmark_type   varchar(100),
    score            numeric(10,4) NOT NULL,
    rank             integer,
    normalized_score numeric(5,2),
    benchmark_date   date,
    source           varchar(255),
    metadata         jsonb         NOT NULL DEFAULT '{}',
    created_at       timestamptz   NOT NULL DEFAULT now(),
    updated_at       timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT llm_benchmarks_pkey PRIMARY KEY (id),
    CONSTRAINT llm_benchmarks_model_id_benchmark_name_key UNIQUE (model_id, benchmark_name),
    CONSTRAINT llm_benchmarks_model_id_fkey FOREIGN KEY (model_id) REFERENCES llm_models (id) ON DELETE CASCADE,
    CONSTRAINT llm_benchmarks_rank_check CHECK (rank >= 1),
    CONSTRAINT llm_benchmarks_normalized_score_check CHECK (normalized_score BETWEEN 0 AND 100)
);

COMMENT ON TABLE llm_benchmarks IS 'How each model did in each benchmark; used to choose models.';
COMMENT ON COLUMN llm_benchmarks.model_id IS 'llm_models.id (not the global text id llm_models.model_id).';
COMMENT ON COLUMN llm_benchmarks.benchmark_name IS 'MMLU, HumanEval ...';
COMMENT ON COLUMN llm_benchmarks.score IS 'In the benchmark''s own unit.';
COMMENT ON COLUMN llm_benchmarks.rank IS 'Place among all models in this benchmark, 1 is best.';
COMMENT ON COLUMN llm_benchmarks.normalized_score IS '0 to 100, comparable across benchmarks.';

-- Which models are best at this benchmark?
CREATE INDEX llm_benchmarks_benchmark_name_normalized_score_idx ON llm_benchmarks (benchmark_name, normalized_score DESC NULLS LAST);

CREATE TRIGGER llm_benchmarks_set_updated_at BEFORE UPDATE ON llm_benchmarks FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- provider_health_hours: one row per provider and UTC hour: how its probes and the calls made of it went. Added to by every
-- gateway process. Kept for 30 days; availability in the verification score is read from it.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- ---------------------------------------------------------------------------------------------------------------------
-- provider_verifications: one row per verification of a provider by one of its models: the score and what it is made of.
-- Written by `helix providers verify` and the weekly task. Kept while the provider exists.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_routes: one row per virtual model: a name, how to choose among its targets, and how long to try. Called as
-- route/<name>, and by its bare name when it is an alias. Written by the operator.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_route_targets: one row per place a route may send a call to. Goes with its route, and with its provider.
-- ---------------------------------------------------------------------------------------------------------------------
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
