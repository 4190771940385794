-- 015_calls.down.sql: takes 015 back. What streams' silences were is lost with their columns.
DROP TABLE response_cache;
ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_gaps_check, DROP COLUMN gap_max_ms, DROP COLUMN gap_p95_ms, DROP COLUMN gap_p50_ms;
