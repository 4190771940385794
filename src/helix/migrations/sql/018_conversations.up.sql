-- 018_conversations.up.sql: conversations: their clients' names, turns, and time that never goes back.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.
-- Locks: ACCESS EXCLUSIVE on conversations (a column without default and a unique constraint over nothing but NULLs), SHARE on
-- conversation_events while its two partial indexes are built.

ALTER TABLE conversations ADD COLUMN external_id varchar(255);
ALTER TABLE conversations ADD CONSTRAINT conversations_user_id_external_id_key UNIQUE (user_id, external_id);
COMMENT ON COLUMN conversations.external_id IS 'What its client calls it (helix.session of a call); one of a kind per user. NULL when nobody named it.';

CREATE UNIQUE INDEX conversation_events_message_added_key ON conversation_events (conversation_id, message_id) WHERE event_type = 'message.added';
CREATE INDEX conversation_events_entity_idx ON conversation_events (conversation_id, (event_data ->> 'key')) WHERE event_type = 'entity.extracted';
COMMENT ON COLUMN conversation_events.timestamp IS 'When it was written. Within a conversation time never goes back (trigger), so a moment is a point in it.';

CREATE OR REPLACE FUNCTION conversation_events_number() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    next_number bigint;
    not_before timestamptz;
BEGIN
    INSERT INTO public.conversations AS head (id, user_id, session_id, last_sequence, last_event_at)
    VALUES (NEW.conversation_id, NEW.user_id, NEW.session_id, 1, NEW.timestamp)
    ON CONFLICT (id) DO UPDATE
    SET last_sequence = head.last_sequence + 1,
        last_event_at = greatest(head.last_event_at, EXCLUDED.last_event_at),
        status = CASE NEW.event_type WHEN 'conversation.paused' THEN 'paused' WHEN 'conversation.resumed' THEN 'active' ELSE head.status END
    WHERE head.user_id = EXCLUDED.user_id
    RETURNING last_sequence, last_event_at INTO next_number, not_before;
    IF next_number IS NULL THEN
        RAISE EXCEPTION 'conversation % belongs to another user', NEW.conversation_id
            USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'conversation_events_owner', TABLE = 'conversation_events';
    ELSIF NEW.sequence_number IS NULL THEN
        NEW.sequence_number := next_number;
    ELSIF NEW.sequence_number < next_number THEN
        RAISE EXCEPTION 'event % of conversation % exists already; the next is %', NEW.sequence_number, NEW.conversation_id, next_number
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'conversation_events_conversation_id_sequence_number_key', TABLE = 'conversation_events';
    ELSIF NEW.sequence_number > next_number THEN
        RAISE EXCEPTION 'event % of conversation % would leave a gap; the next is %', NEW.sequence_number, NEW.conversation_id, next_number
            USING ERRCODE = 'check_violation', CONSTRAINT = 'conversation_events_gapless', TABLE = 'conversation_events';
    END IF;
    -- A writer that waited began earlier than those it waited for: without this "as of ten o'clock" could skip numbers.
    NEW.timestamp := not_before;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION conversation_events_number() IS 'Trigger: gives an event the next number of its conversation and refuses any other; its time is never before that of the event before it. Creates the conversation with its first event.';

CREATE OR REPLACE FUNCTION get_latest_snapshot(p_conversation_id uuid, p_to_sequence bigint DEFAULT NULL)
RETURNS SETOF conversation_snapshots LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.conversation_snapshots
    WHERE conversation_id = p_conversation_id AND (p_to_sequence IS NULL OR sequence_number <= p_to_sequence)
      AND snapshot_type <> 'compression'  -- holds a condensed context: no state to fold on from
    ORDER BY sequence_number DESC, id DESC LIMIT 1
$$;
COMMENT ON FUNCTION get_latest_snapshot(uuid, bigint) IS 'The newest snapshot of a conversation at or before p_to_sequence (NULL = the end), from which a replay can start; no row when there is none.';

CREATE TABLE conversation_turns (
    request_id       uuid         PRIMARY KEY,
    conversation_id  uuid         NOT NULL,
    user_id          uuid         NOT NULL,
    session_id       uuid,
    assembled        boolean      NOT NULL DEFAULT false,
    injected         jsonb        NOT NULL DEFAULT '{}',
    injected_tokens  integer      NOT NULL DEFAULT 0,
    tainted          boolean      NOT NULL DEFAULT false,
    events           integer      NOT NULL DEFAULT 0,
    attempts         integer      NOT NULL DEFAULT 0,
    error            text,
    recorded_at      timestamptz,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT conversation_turns_conversation_id_user_id_fkey FOREIGN KEY (conversation_id, user_id)
        REFERENCES conversations (id, user_id) ON DELETE CASCADE,
    CONSTRAINT conversation_turns_injected_check CHECK (jsonb_typeof(injected) = 'object'),
    CONSTRAINT conversation_turns_injected_tokens_check CHECK (injected_tokens >= 0),
    CONSTRAINT conversation_turns_events_check CHECK (events >= 0),
    CONSTRAINT conversation_turns_attempts_check CHECK (attempts >= 0)
);
COMMENT ON TABLE conversation_turns IS 'One call within a conversation: what was put before it, and whether it has become events. The key that makes recording exactly-once.';
COMMENT ON COLUMN conversation_turns.request_id IS 'The call: joins llm_requests.id; no FK because the row is written before the request is, and llm_requests is dropped sooner.';
COMMENT ON COLUMN conversation_turns.assembled IS 'Whether Helix assembled the context (helix.context); the client then sends new messages only.';
COMMENT ON COLUMN conversation_turns.injected IS 'Exactly what was added, without the texts: compression, memories with scores, messages, tokens, a digest. See docs/conversations.md.';
COMMENT ON COLUMN conversation_turns.tainted IS 'Whether looked-up text or a tool''s result was added: what the model then asks for may not be the user''s wish.';
COMMENT ON COLUMN conversation_turns.events IS 'How many events the call became.';
COMMENT ON COLUMN conversation_turns.attempts IS 'How often recording it failed; after 5 it is left to the operator.';
COMMENT ON COLUMN conversation_turns.recorded_at IS 'When its events were written, in the same transaction; NULL = not yet.';
-- Which calls of this conversation were made, newest first?
CREATE INDEX idx_conversation_turns_conversation ON conversation_turns (conversation_id, request_id DESC);
-- Which calls are not recorded yet?
CREATE INDEX idx_conversation_turns_open ON conversation_turns (created_at) WHERE recorded_at IS NULL;
-- Which turns does this user own (erasure)?
CREATE INDEX idx_conversation_turns_user_id ON conversation_turns (user_id);
-- Which turns belong to this session (FK)?
CREATE INDEX idx_conversation_turns_session_id ON conversation_turns (session_id) WHERE session_id IS NOT NULL;
ALTER TABLE conversation_turns ADD CONSTRAINT conversation_turns_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;

ALTER TABLE conversation_turns ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_turns FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_turns_tenant ON conversation_turns TO helix_app USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()) AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversation_turns.session_id)));
CREATE POLICY conversation_turns_operator ON conversation_turns TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_turns_readonly ON conversation_turns FOR SELECT TO helix_readonly USING (true);
GRANT SELECT, INSERT, UPDATE ON conversation_turns TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON conversation_turns TO helix_operator;
GRANT SELECT ON conversation_turns TO helix_readonly;
