-- 002_models_dev.up.sql: Models.dev: the catalogue of models, benchmarks, and the provider columns that follow it.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- ----------------------------------------------------------------------------------------------------
-- llm providers
-- ----------------------------------------------------------------------------------------------------

-- Providers follow models.dev: which entry there is theirs, how many models it lists, when it was last read.
ALTER TABLE llm_providers
    ADD COLUMN modelsdev_provider_id varchar(255),
    ADD COLUMN total_models integer NOT NULL DEFAULT 0,
    ADD COLUMN enabled_models integer NOT NULL DEFAULT 0,
    ADD COLUMN last_models_sync timestamptz,
    ADD CONSTRAINT llm_providers_total_models_check CHECK (total_models >= 0),
    ADD CONSTRAINT llm_providers_enabled_models_check CHECK (enabled_models BETWEEN 0 AND total_models);
COMMENT ON COLUMN llm_providers.modelsdev_provider_id IS 'Id of this provider in the models.dev catalogue.';

-- llm_models: one row per model of a provider, as the models sync (models.dev or its bundled snapshot) and the provider's
-- own list tell it. Kept while the provider exists. What a call costs is decided by llm_pricing, not by the prices here.
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

-- models_refresh_history: one row per run of the models sync. Written by it; kept for a year.
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

-- llm_benchmarks: one row per model and benchmark: its newest result. Written by the models sync and by own measurement.
-- Goes with its model.
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

-- ----------------------------------------------------------------------------------------------------
-- row-level security
-- ----------------------------------------------------------------------------------------------------

-- Tables without row-level security, each with its reason.
INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('llm_models',             'shared catalogue, no tenant data'),
    ('models_refresh_history', 'record of the catalogue sync, no tenant data'),
    ('llm_benchmarks',         'shared catalogue, no tenant data');

-- ----------------------------------------------------------------------------------------------------
-- grants
-- ----------------------------------------------------------------------------------------------------

-- providers
GRANT SELECT ON llm_models, llm_benchmarks TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_models, llm_benchmarks TO helix_operator;
GRANT SELECT ON llm_models TO helix_recorder;
GRANT SELECT ON models_refresh_history TO helix_readonly;
GRANT SELECT, INSERT, DELETE ON models_refresh_history TO helix_operator;
