-- response_cache.sql: answers that may be given again. Domain: gateway.

-- ---------------------------------------------------------------------------------------------------------------------
-- response_cache: one row per call whose answer may be given again: a hash of all that can change the answer, and where
-- the answer is on record. No text is kept here; when it is erased there, this row finds nothing. UNLOGGED: losing it
-- costs a call to a provider, so it costs no WAL, is empty after a crash, and is in no backup. Written by the recorder
-- role a moment after the answer was recorded; bounded by response_cache_entries_max.
-- ---------------------------------------------------------------------------------------------------------------------
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
