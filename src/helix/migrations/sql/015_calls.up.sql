-- 015_calls.up.sql: Answers that may be given again, and how the arrivals of a stream lay apart.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- Silences of streams: three columns without a default, so no row is rewritten; the check is not
-- validated against old rows, which have none. Locks llm_responses for a moment.
ALTER TABLE llm_responses ADD COLUMN gap_p50_ms integer, ADD COLUMN gap_p95_ms integer, ADD COLUMN gap_max_ms integer,
    ADD CONSTRAINT llm_responses_gaps_check CHECK (gap_p50_ms >= 0 AND gap_p95_ms >= gap_p50_ms AND gap_max_ms >= gap_p95_ms);
COMMENT ON COLUMN llm_responses.gap_p50_ms IS 'Median silence between two arrivals of content; NULL when not streamed, or with fewer than two.';
COMMENT ON COLUMN llm_responses.gap_p95_ms IS 'The 95th percentile (nearest rank) of the silences.';
COMMENT ON COLUMN llm_responses.gap_max_ms IS 'The longest silence.';

-- response_cache: one row per call whose answer may be given again. Written by the recorder role. Unlogged: empty after a crash.
CREATE UNLOGGED TABLE response_cache (
    key         bytea       NOT NULL,
    user_id     uuid        NOT NULL,
    request_id  uuid        NOT NULL,
    response_id uuid        NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT response_cache_pkey PRIMARY KEY (key),
    CONSTRAINT response_cache_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT response_cache_key_check CHECK (octet_length(key) = 32),
    CONSTRAINT response_cache_expires_at_check CHECK (expires_at >= created_at)
);

COMMENT ON TABLE response_cache IS 'Answers that may be given again: a hash of the call, and the id of the answer on record. Unlogged: empty after a crash.';
COMMENT ON COLUMN response_cache.key IS 'SHA-256 of operation, model, user, key and the canonical fields of the call; 32 bytes.';
COMMENT ON COLUMN response_cache.user_id IS 'Tenant; the row goes with the user.';
COMMENT ON COLUMN response_cache.request_id IS 'The call that was answered first; joins llm_requests. No FK: both go by the month.';
COMMENT ON COLUMN response_cache.response_id IS 'Its answer; joins llm_responses and llm_response_bodies.';
COMMENT ON COLUMN response_cache.expires_at IS 'Not given again from this moment on.';

-- Which answers may be forgotten because their time is over?
CREATE INDEX response_cache_expires_at_idx ON response_cache (expires_at);
-- Which are the oldest, when there are too many?
CREATE INDEX response_cache_created_at_idx ON response_cache (created_at);
-- Which are this tenant's? (erasure)
CREATE INDEX response_cache_user_id_idx ON response_cache (user_id);

ALTER TABLE response_cache ENABLE ROW LEVEL SECURITY;
ALTER TABLE response_cache FORCE ROW LEVEL SECURITY;
CREATE POLICY response_cache_tenant ON response_cache TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY response_cache_operator ON response_cache TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY response_cache_readonly ON response_cache FOR SELECT TO helix_readonly USING (true);
CREATE POLICY response_cache_recorder ON response_cache TO helix_recorder USING (true) WITH CHECK (true);
GRANT SELECT ON response_cache TO helix_app, helix_operator;
GRANT SELECT (user_id, request_id, response_id, created_at, expires_at) ON response_cache TO helix_readonly;
GRANT DELETE ON response_cache TO helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON response_cache TO helix_recorder;
