-- 023_routing.down.sql: takes back what 023_routing.up.sql made, and nothing else.

DELETE FROM rls_exempt_tables WHERE table_name IN ('provider_health_hours', 'provider_verifications', 'llm_routes', 'llm_route_targets');

-- Tables, with their indexes, triggers and grants.
DROP TABLE llm_route_targets;
DROP TABLE llm_routes;
DROP TABLE provider_verifications;
DROP TABLE provider_health_hours;

-- What the release before does not know, it calls in OpenAI's format: Ollama serves that too, below /v1.
UPDATE llm_providers SET protocol = 'openai', base_url = base_url || '/v1' WHERE protocol = 'ollama';
ALTER TABLE llm_providers DROP CONSTRAINT llm_providers_protocol_check;
ALTER TABLE llm_providers ADD CONSTRAINT llm_providers_protocol_check CHECK (protocol IN ('openai', 'anthropic', 'gemini', 'mock'));
ALTER TABLE llm_providers DROP COLUMN health_streak;
COMMENT ON COLUMN llm_providers.protocol IS 'Wire format spoken: openai (and everything compatible with it), anthropic, gemini, or mock.';
COMMENT ON COLUMN llm_providers.weight IS 'Weight of this provider''s vote in an ensemble.';
COMMENT ON COLUMN llm_providers.rate_limits IS 'What the provider allows us, e.g. {"requests_per_minute": 60, "tokens_per_minute": 100000}.';
COMMENT ON COLUMN llm_providers.last_health_check IS NULL;
