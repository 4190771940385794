-- 018_conversations.down.sql: takes back what 018_conversations.up.sql made, and nothing else.

DROP TABLE conversation_turns;
CREATE OR REPLACE FUNCTION get_latest_snapshot(p_conversation_id uuid, p_to_sequence bigint DEFAULT NULL)
RETURNS SETOF conversation_snapshots LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.conversation_snapshots
    WHERE conversation_id = p_conversation_id AND (p_to_sequence IS NULL OR sequence_number <= p_to_sequence)
    ORDER BY sequence_number DESC, id DESC LIMIT 1
$$;
COMMENT ON FUNCTION get_latest_snapshot(uuid, bigint) IS 'The newest snapshot of a conversation at or before p_to_sequence (NULL = the end); no row when there is none.';

CREATE OR REPLACE FUNCTION conversation_events_number() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    next_number bigint;
BEGIN
    INSERT INTO public.conversations AS head (id, user_id, session_id, last_sequence, last_event_at)
    VALUES (NEW.conversation_id, NEW.user_id, NEW.session_id, 1, NEW.timestamp)
    ON CONFLICT (id) DO UPDATE
    SET last_sequence = head.last_sequence + 1,
        last_event_at = EXCLUDED.last_event_at,
        status = CASE NEW.event_type WHEN 'conversation.paused' THEN 'paused' WHEN 'conversation.resumed' THEN 'active' ELSE head.status END
    WHERE head.user_id = EXCLUDED.user_id
    RETURNING last_sequence INTO next_number;
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
    RETURN NEW;
END $$;
COMMENT ON FUNCTION conversation_events_number() IS 'Trigger: gives an event the next number of its conversation and refuses any other. Creates the conversation with its first event.';

COMMENT ON COLUMN conversation_events.timestamp IS NULL;
DROP INDEX conversation_events_entity_idx;
DROP INDEX conversation_events_message_added_key;
ALTER TABLE conversations DROP COLUMN external_id;
