-- 002_models_dev.down.sql: takes back what 002_models_dev.up.sql made, and nothing else.

-- What stands in tables that stay.
DELETE FROM rls_exempt_tables WHERE table_name IN ('llm_models', 'models_refresh_history', 'llm_benchmarks');
ALTER TABLE llm_providers
    DROP COLUMN modelsdev_provider_id,
    DROP COLUMN total_models,
    DROP COLUMN enabled_models,
    DROP COLUMN last_models_sync;

-- Tables, with their indexes, triggers, policies and grants.
DROP TABLE llm_benchmarks;
DROP TABLE models_refresh_history;
DROP TABLE llm_models;
