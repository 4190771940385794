-- conversation_context.sql: conversations as event streams (S102, S103; Big Data tables U1-U4).
--
-- A conversation is the fold of its events. `conversation_events` holds what happened, in a gapless order per conversation;
-- snapshots shorten the fold, compressions say what was condensed and how well, replay stats say how fast a fold was.
--
-- Why conversation_events is one plain table and not partitioned by month like the other streams:
-- * U1 asks for UNIQUE (conversation_id, sequence_number). On a table partitioned by id that constraint cannot exist (a unique
--   constraint must contain the partition key), and a unique index on each partition says nothing about two partitions: a
--   conversation that lives over New Year could hold number 17 twice. Hash partitions by conversation_id would allow it, but
--   then `id` could be neither the primary key nor the target of a foreign key.
-- * Retention by month would be wrong here anyway: it cuts the head off every stream that is still being folded. The unit of
--   deletion of an event-sourced conversation is the conversation: delete its row in `conversations` and the rest cascades.
-- So: PRIMARY KEY (id) in time order (UUIDv7, the b-tree only grows at its end), UNIQUE (conversation_id, sequence_number) for
-- uniqueness, and the head row in `conversations`, locked and counted up by the insert itself, for gaplessness: a transaction that
-- rolls back gives its number back, and two writers of one conversation wait for each other. The two guards are independent.
--
-- Needs: functions.sql, users_sessions.sql. Foreign keys to users, user_sessions and projects: relationships.sql.

-- One row per conversation: its owner and the number of its last event. Written by the first and every following event (trigger
-- below), so nobody has to create it first. Deleting the row deletes the whole conversation. Kept until its owner deletes it.
CREATE TABLE conversations (
    id             uuid         PRIMARY KEY DEFAULT uuidv7(),
    user_id        uuid         NOT NULL,
    session_id     uuid,
    project_id     uuid,
    title          varchar(255),
    status         varchar(20)  NOT NULL DEFAULT 'active',
    last_sequence  bigint       NOT NULL DEFAULT 0,
    last_event_at  timestamptz,
    metadata       jsonb        NOT NULL DEFAULT '{}',
    created_at     timestamptz  NOT NULL DEFAULT now(),
    external_id    varchar(255),
    CONSTRAINT conversations_status_check CHECK (status IN ('active', 'paused', 'closed')),
    CONSTRAINT conversations_last_sequence_check CHECK (last_sequence >= 0),
    CONSTRAINT conversations_id_user_id_key UNIQUE (id, user_id),
    CONSTRAINT conversations_user_id_external_id_key UNIQUE (user_id, external_id)
) WITH (fillfactor = 70);  -- the head row is rewritten once an event: leave room for HOT updates, and index nothing that changes
COMMENT ON TABLE conversations IS 'One conversation: its owner, and the sequence number its last event got. The head of the event stream in conversation_events.';
COMMENT ON COLUMN conversations.external_id IS 'What its client calls it (helix.session of a call); one of a kind per user. NULL when nobody named it.';
COMMENT ON COLUMN conversations.last_sequence IS 'Sequence number of the newest event; 0 before the first. Only the insert trigger of conversation_events may move it, by exactly one.';
COMMENT ON COLUMN conversations.status IS 'active, paused, closed. Set from conversation.paused and conversation.resumed events; closed by its owner.';
COMMENT ON COLUMN conversations.last_event_at IS 'Time of the newest event. Not indexed on purpose (it changes with every event); mv_recent_conversation_activity answers "what is going on".';
-- Which conversations does this user have, newest first?
CREATE INDEX idx_conversations_user_id ON conversations (user_id, id DESC);
-- Which conversations belong to this session (FK)?
CREATE INDEX idx_conversations_session_id ON conversations (session_id) WHERE session_id IS NOT NULL;
-- Which conversations belong to this project (FK)?
CREATE INDEX idx_conversations_project_id ON conversations (project_id) WHERE project_id IS NOT NULL;

-- U1. One row per thing that happened in a conversation. Written once by the conversations domain, never changed (trigger), and
-- deleted only together with its conversation.
CREATE TABLE conversation_events (
    id               uuid         PRIMARY KEY DEFAULT uuidv7(),
    conversation_id  uuid         NOT NULL,
    session_id       uuid,
    user_id          uuid         NOT NULL,
    node_id          varchar(255) NOT NULL DEFAULT 'local',
    event_type       varchar(50)  NOT NULL,
    sequence_number  bigint       NOT NULL,
    timestamp        timestamptz  NOT NULL DEFAULT now(),
    event_data       jsonb        NOT NULL DEFAULT '{}',
    message_id       varchar(255),
    entity_count     integer      NOT NULL DEFAULT 0,
    tokens           integer      NOT NULL DEFAULT 0,
    response_id      uuid,
    metadata         jsonb        NOT NULL DEFAULT '{}',
    recorded_xid     xid8         NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT conversation_events_event_type_check CHECK (event_type IN (
        'message.added', 'message.updated', 'message.deleted', 'entity.extracted', 'relationship.created',
        'debate.started', 'debate.completed', 'context.compressed', 'snapshot.created',
        'conversation.paused', 'conversation.resumed')),
    CONSTRAINT conversation_events_sequence_number_check CHECK (sequence_number >= 1),
    CONSTRAINT conversation_events_event_data_check CHECK (jsonb_typeof(event_data) = 'object'),
    CONSTRAINT conversation_events_entity_count_check CHECK (entity_count >= 0),
    CONSTRAINT conversation_events_tokens_check CHECK (tokens >= 0),
    -- With the user: an event belongs to the owner of its conversation. No second foreign key to users: a cascade along it could come before the
    -- one through conversations, and events refuse to go before their conversation.
    CONSTRAINT conversation_events_conversation_id_user_id_fkey FOREIGN KEY (conversation_id, user_id)
        REFERENCES conversations (id, user_id) ON DELETE CASCADE,
    CONSTRAINT conversation_events_conversation_id_sequence_number_key UNIQUE (conversation_id, sequence_number),
    CONSTRAINT conversation_events_message_id_check CHECK (event_type NOT LIKE 'message.%' OR message_id IS NOT NULL)
);
COMMENT ON TABLE conversation_events IS 'What happened in a conversation, in a gapless order per conversation (U1). The state at any point is the fold of the events up to it.';
COMMENT ON COLUMN conversation_events.sequence_number IS '1, 2, 3 … within the conversation, without gaps. Leave it NULL on insert to get the next number; give it to append only if nothing came between (optimistic concurrency).';
COMMENT ON COLUMN conversation_events.timestamp IS 'When it was written. Within a conversation time never goes back (trigger), so a moment is a point in it.';
COMMENT ON COLUMN conversation_events.event_data IS 'The event itself. message.added: {"role", "content", …}; message.updated: the keys that now differ from the message as it was added; the other types as documented in docs/conversations.md.';
COMMENT ON COLUMN conversation_events.message_id IS 'The message this event is about; required for message.* events. Unique within its conversation by convention of the writer.';
COMMENT ON COLUMN conversation_events.tokens IS 'Tokens of the message this event carries; 0 for events without text.';
COMMENT ON COLUMN conversation_events.response_id IS 'The model answer this message came from: joins llm_responses; no FK because llm_responses is dropped sooner.';
COMMENT ON COLUMN conversation_events.recorded_xid IS 'Transaction that wrote the row: the position of the change feed. A reader takes rows below pg_snapshot_xmin(pg_current_snapshot()), so a late commit is never skipped. Meaningless after a restore into another cluster: rebuild the projections then.';
-- A: which events carry this key or value (containment search in event_data)?
CREATE INDEX idx_events_data ON conversation_events USING gin (event_data jsonb_path_ops);
-- Which events of this type happened since then (ids are in time order)?
CREATE INDEX idx_conversation_events_type ON conversation_events (event_type, id);
-- Which events does this user own (erasure, exports)?
CREATE INDEX idx_conversation_events_user_id ON conversation_events (user_id, id);
-- A message is added once: what a call brought cannot be written twice, whoever tries (the second wall behind conversation_turns).
CREATE UNIQUE INDEX conversation_events_message_added_key ON conversation_events (conversation_id, message_id) WHERE event_type = 'message.added';
-- Was this entity named in the conversation before?
CREATE INDEX conversation_events_entity_idx ON conversation_events (conversation_id, (event_data ->> 'key')) WHERE event_type = 'entity.extracted';
-- How does this message stand after its updates?
CREATE INDEX conversation_events_message_id_idx ON conversation_events (conversation_id, message_id, sequence_number) WHERE message_id IS NOT NULL;
-- Which events belong to this session (FK)?
CREATE INDEX idx_conversation_events_session_id ON conversation_events (session_id) WHERE session_id IS NOT NULL;
-- Which events came between these two times?
CREATE INDEX idx_conversation_events_timestamp ON conversation_events USING brin (timestamp);
-- Which events has the change feed not delivered yet?
CREATE INDEX idx_conversation_events_feed ON conversation_events (recorded_xid, id);

-- Numbers an event. Locks the head row, so writers of one conversation queue up and a rolled-back number is given again.
CREATE FUNCTION conversation_events_number() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
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
CREATE TRIGGER conversation_events_number BEFORE INSERT ON conversation_events FOR EACH ROW EXECUTE FUNCTION conversation_events_number();

-- Keeps what was numbered: events do not change, and leave only with their conversation.
CREATE FUNCTION conversation_events_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT FROM public.conversations WHERE id = OLD.conversation_id) THEN
            RAISE EXCEPTION 'events are deleted with their conversation, not one by one'
                USING ERRCODE = 'restrict_violation', TABLE = 'conversation_events';
        END IF;
        RETURN OLD;
    END IF;
    -- The one change allowed: the foreign key of a deleted session lets go of the event.
    IF NEW.session_id IS NULL AND (to_jsonb(NEW) - 'session_id') = (to_jsonb(OLD) - 'session_id') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'conversation_events is append-only: write a message.updated or message.deleted event instead'
        USING ERRCODE = 'restrict_violation', TABLE = 'conversation_events';
END $$;
COMMENT ON FUNCTION conversation_events_keep() IS 'Trigger: refuses to change an event, or to delete one whose conversation still exists.';
CREATE TRIGGER conversation_events_keep BEFORE UPDATE OR DELETE ON conversation_events FOR EACH ROW EXECUTE FUNCTION conversation_events_keep();

-- The head only moves with its events: nobody sets the number by hand, and a conversation never changes hands.
CREATE FUNCTION conversations_keep_head() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    IF NEW.user_id IS DISTINCT FROM OLD.user_id THEN
        RAISE EXCEPTION 'a conversation does not change its owner' USING ERRCODE = 'restrict_violation', TABLE = 'conversations';
    END IF;
    -- Depth 1 is a statement on conversations itself; the numbering trigger arrives here at depth 2.
    IF NEW.last_sequence IS DISTINCT FROM OLD.last_sequence AND pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'last_sequence is moved by conversation_events only' USING ERRCODE = 'restrict_violation', TABLE = 'conversations';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION conversations_keep_head() IS 'Trigger: owner and last_sequence of a conversation are not edited by hand.';
CREATE TRIGGER conversations_keep_head BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION conversations_keep_head();

-- U3. One row per stored state of a conversation: the fold of its events up to sequence_number, so that a replay starts here.
-- Written by the conversations domain (every N events, on demand, at a compression). The newest of each kind is kept, older ones
-- may be dropped by the retention job: they can be rebuilt from the events.
CREATE TABLE conversation_snapshots (
    id               uuid         PRIMARY KEY DEFAULT uuidv7(),
    conversation_id  uuid         NOT NULL,
    user_id          uuid         NOT NULL,
    session_id       uuid,
    sequence_number  bigint       NOT NULL,
    snapshot_type    varchar(50)  NOT NULL DEFAULT 'periodic',
    messages         jsonb        NOT NULL DEFAULT '[]',
    entities         jsonb        NOT NULL DEFAULT '[]',
    context          jsonb        NOT NULL DEFAULT '{}',
    message_count    integer      NOT NULL DEFAULT 0,
    entity_count     integer      NOT NULL DEFAULT 0,
    total_tokens     bigint       NOT NULL DEFAULT 0,
    size_bytes       bigint       NOT NULL DEFAULT 0,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT conversation_snapshots_conversation_id_fkey FOREIGN KEY (conversation_id)
        REFERENCES conversations (id) ON DELETE CASCADE,
    CONSTRAINT conversation_snapshots_sequence_number_check CHECK (sequence_number >= 0),
    CONSTRAINT conversation_snapshots_snapshot_type_check
        CHECK (snapshot_type IN ('periodic', 'on_demand', 'compression', 'checkpoint')),
    CONSTRAINT conversation_snapshots_messages_check CHECK (jsonb_typeof(messages) = 'array'),
    CONSTRAINT conversation_snapshots_entities_check CHECK (jsonb_typeof(entities) = 'array'),
    CONSTRAINT conversation_snapshots_message_count_check CHECK (message_count >= 0),
    CONSTRAINT conversation_snapshots_entity_count_check CHECK (entity_count >= 0),
    CONSTRAINT conversation_snapshots_total_tokens_check CHECK (total_tokens >= 0),
    CONSTRAINT conversation_snapshots_size_bytes_check CHECK (size_bytes >= 0),
    CONSTRAINT conversation_snapshots_conversation_id_sequence_number_type_key
        UNIQUE (conversation_id, sequence_number, snapshot_type)
);
COMMENT ON TABLE conversation_snapshots IS 'The state of a conversation after event sequence_number (U3). A replay starts from the nearest one at or before its goal.';
COMMENT ON COLUMN conversation_snapshots.sequence_number IS 'The last event that is contained; 0 = the empty conversation.';
COMMENT ON COLUMN conversation_snapshots.messages IS 'Messages as they stood then, in order: [{"message_id", "role", "content", …}]. A compression snapshot holds the condensed list.';
COMMENT ON COLUMN conversation_snapshots.size_bytes IS 'Bytes of messages, entities and context as JSON text.';
-- Which snapshots does this user own (erasure)?
CREATE INDEX idx_conversation_snapshots_user_id ON conversation_snapshots (user_id);
-- Which snapshots belong to this session (FK)?
CREATE INDEX idx_conversation_snapshots_session_id ON conversation_snapshots (session_id) WHERE session_id IS NOT NULL;

-- U2. One row per compression of a conversation's context: what went in, what came out, what was kept and what it cost.
-- Written by the conversations domain, never changed; leaves with its conversation.
CREATE TABLE conversation_compressions (
    id                        uuid         PRIMARY KEY DEFAULT uuidv7(),
    conversation_id           uuid         NOT NULL,
    user_id                   uuid         NOT NULL,
    session_id                uuid,
    compression_type          varchar(50)  NOT NULL,
    from_sequence             bigint       NOT NULL,
    to_sequence               bigint       NOT NULL,
    original_message_count    integer      NOT NULL,
    compressed_message_count  integer      NOT NULL,
    original_tokens           integer      NOT NULL,
    compressed_tokens         integer      NOT NULL,
    compression_ratio         numeric(9,4) GENERATED ALWAYS AS (round(compressed_tokens::numeric / NULLIF(original_tokens, 0), 4)) STORED,
    quality_score             numeric(5,4),
    summary_content           text,
    preserved_entities        jsonb        NOT NULL DEFAULT '[]',
    key_topics                jsonb        NOT NULL DEFAULT '[]',
    llm_model                 varchar(255),
    response_id               uuid,
    compression_duration_ms   integer      NOT NULL DEFAULT 0,
    context_snapshot          uuid,
    created_at                timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT conversation_compressions_conversation_id_fkey FOREIGN KEY (conversation_id)
        REFERENCES conversations (id) ON DELETE CASCADE,
    CONSTRAINT conversation_compressions_compression_type_check
        CHECK (compression_type IN ('window_summary', 'entity_graph', 'full', 'hybrid')),
    CONSTRAINT conversation_compressions_from_sequence_check CHECK (from_sequence >= 1),
    CONSTRAINT conversation_compressions_original_message_count_check CHECK (original_message_count >= 0),
    CONSTRAINT conversation_compressions_compressed_message_count_check CHECK (compressed_message_count >= 0),
    CONSTRAINT conversation_compressions_original_tokens_check CHECK (original_tokens >= 0),
    CONSTRAINT conversation_compressions_compressed_tokens_check CHECK (compressed_tokens >= 0),
    CONSTRAINT conversation_compressions_quality_score_check CHECK (quality_score BETWEEN 0 AND 1),
    CONSTRAINT conversation_compressions_preserved_entities_check CHECK (jsonb_typeof(preserved_entities) = 'array'),
    CONSTRAINT conversation_compressions_key_topics_check CHECK (jsonb_typeof(key_topics) = 'array'),
    CONSTRAINT conversation_compressions_compression_duration_ms_check CHECK (compression_duration_ms >= 0),
    CONSTRAINT conversation_compressions_context_snapshot_fkey FOREIGN KEY (context_snapshot)
        REFERENCES conversation_snapshots (id) ON DELETE SET NULL,
    CONSTRAINT conversation_compressions_sequence_check CHECK (to_sequence >= from_sequence)
);
COMMENT ON TABLE conversation_compressions IS 'One compression of a conversation''s context: what went in, what came out, what was kept (U2).';
COMMENT ON COLUMN conversation_compressions.from_sequence IS 'First event that was condensed; to_sequence is the last.';
COMMENT ON COLUMN conversation_compressions.compression_ratio IS 'compressed_tokens / original_tokens: 0.25 means a quarter is left. NULL when nothing went in.';
COMMENT ON COLUMN conversation_compressions.quality_score IS '0 to 1: the share of the original''s entities and facts still found in the result. NULL = not measured.';
COMMENT ON COLUMN conversation_compressions.llm_model IS 'Model that wrote the summary; NULL = extractive, no model asked.';
COMMENT ON COLUMN conversation_compressions.response_id IS 'The answer that is the summary: joins llm_responses (cost); no FK because llm_responses is dropped sooner.';
COMMENT ON COLUMN conversation_compressions.context_snapshot IS 'The snapshot that holds the condensed context.';
-- How was this conversation compressed, newest first?
CREATE INDEX idx_conversation_compressions_conversation ON conversation_compressions (conversation_id, id DESC);
-- Which compressions does this user own (erasure)?
CREATE INDEX idx_conversation_compressions_user_id ON conversation_compressions (user_id);
-- Which compressions belong to this session (FK)?
CREATE INDEX idx_conversation_compressions_session_id ON conversation_compressions (session_id) WHERE session_id IS NOT NULL;
-- Which compression made this snapshot (FK)?
CREATE INDEX idx_conversation_compressions_snapshot ON conversation_compressions (context_snapshot) WHERE context_snapshot IS NOT NULL;

-- U4. One row per replay of a conversation: from where, how much, how fast. Written by the conversations domain, never changed;
-- leaves with its conversation, or after 90 days with the retention job.
CREATE TABLE conversation_replay_stats (
    id                   uuid         PRIMARY KEY DEFAULT uuidv7(),
    conversation_id      uuid         NOT NULL,
    user_id              uuid         NOT NULL,
    session_id           uuid,
    replay_type          varchar(50)  NOT NULL,
    snapshot_id          uuid,
    to_sequence          bigint,
    events_replayed      integer      NOT NULL DEFAULT 0,
    messages_replayed    integer      NOT NULL DEFAULT 0,
    replay_duration_ms   integer      NOT NULL,
    cache_hit            boolean      NOT NULL DEFAULT false,
    compression_applied  boolean      NOT NULL DEFAULT false,
    error_message        text,
    created_at           timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT conversation_replay_stats_conversation_id_fkey FOREIGN KEY (conversation_id)
        REFERENCES conversations (id) ON DELETE CASCADE,
    CONSTRAINT conversation_replay_stats_replay_type_check CHECK (replay_type IN ('full', 'partial', 'compressed', 'snapshot')),
    CONSTRAINT conversation_replay_stats_snapshot_id_fkey FOREIGN KEY (snapshot_id)
        REFERENCES conversation_snapshots (id) ON DELETE SET NULL,
    CONSTRAINT conversation_replay_stats_events_replayed_check CHECK (events_replayed >= 0),
    CONSTRAINT conversation_replay_stats_messages_replayed_check CHECK (messages_replayed >= 0),
    CONSTRAINT conversation_replay_stats_replay_duration_ms_check CHECK (replay_duration_ms >= 0)
);
COMMENT ON TABLE conversation_replay_stats IS 'One replay of a conversation: from where, how many events, how long, and whether it failed (U4).';
COMMENT ON COLUMN conversation_replay_stats.to_sequence IS 'The point that was asked for; NULL = the end.';
-- How did replays of this conversation go, newest first?
CREATE INDEX idx_conversation_replay_stats_conversation ON conversation_replay_stats (conversation_id, id DESC);
-- Which replays does this user own (erasure)?
CREATE INDEX idx_conversation_replay_stats_user_id ON conversation_replay_stats (user_id);
-- Which replays belong to this session (FK)?
CREATE INDEX idx_conversation_replay_stats_session_id ON conversation_replay_stats (session_id) WHERE session_id IS NOT NULL;
-- Which replays started from this snapshot (FK)?
CREATE INDEX idx_conversation_replay_stats_snapshot_id ON conversation_replay_stats (snapshot_id) WHERE snapshot_id IS NOT NULL;

-- One row per call made within a conversation: what Helix put before it, and whether its messages have become events. Written before the
-- call is made, so that a crash at any moment leaves something to go on from; recorded in the transaction that writes the events, so that
-- they are written exactly once. Rows of calls that were refused leave after a day; the others go with their conversation.
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

-- The folded context of conversations in use. A cache and nothing else: UNLOGGED, so it is empty after a crash and never on a
-- replica or in a restored copy; each row can be folded again from the events. Rows leave with cleanup_expired_cache().
CREATE UNLOGGED TABLE conversation_context_cache (
    conversation_id   uuid         PRIMARY KEY,
    user_id           uuid         NOT NULL,
    session_id        uuid,
    sequence_number   bigint       NOT NULL,
    cached_context    jsonb        NOT NULL,
    message_count     integer      NOT NULL DEFAULT 0,
    entity_count      integer      NOT NULL DEFAULT 0,
    ttl               integer      NOT NULL DEFAULT 1800,
    access_count      bigint       NOT NULL DEFAULT 0,
    last_accessed_at  timestamptz  NOT NULL DEFAULT now(),
    expires_at        timestamptz  NOT NULL,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT conversation_context_cache_conversation_id_fkey FOREIGN KEY (conversation_id)
        REFERENCES conversations (id) ON DELETE CASCADE,
    CONSTRAINT conversation_context_cache_sequence_number_check CHECK (sequence_number >= 0),
    CONSTRAINT conversation_context_cache_message_count_check CHECK (message_count >= 0),
    CONSTRAINT conversation_context_cache_entity_count_check CHECK (entity_count >= 0),
    CONSTRAINT conversation_context_cache_ttl_check CHECK (ttl BETWEEN 1 AND 86400),
    CONSTRAINT conversation_context_cache_access_count_check CHECK (access_count >= 0)
) WITH (fillfactor = 70);
COMMENT ON TABLE conversation_context_cache IS 'Folded context of conversations in use. A cache: unlogged, empty after a crash, always rebuildable from conversation_events.';
COMMENT ON COLUMN conversation_context_cache.sequence_number IS 'The last event contained. Stale when conversations.last_sequence is greater.';
COMMENT ON COLUMN conversation_context_cache.ttl IS 'Seconds from writing the context until it expires; reading does not prolong it.';
COMMENT ON COLUMN conversation_context_cache.expires_at IS 'Set by trigger from ttl whenever cached_context is written.';
-- Which cached contexts have expired?
CREATE INDEX idx_conversation_context_cache_expires_at ON conversation_context_cache (expires_at);
-- Which cached contexts does this user own (erasure)?
CREATE INDEX idx_conversation_context_cache_user_id ON conversation_context_cache (user_id);
-- Which cached contexts belong to this session (FK)?
CREATE INDEX idx_conversation_context_cache_session_id ON conversation_context_cache (session_id) WHERE session_id IS NOT NULL;

CREATE FUNCTION conversation_context_cache_expiry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    NEW.expires_at := now() + make_interval(secs => NEW.ttl);
    RETURN NEW;
END $$;
COMMENT ON FUNCTION conversation_context_cache_expiry() IS 'Trigger: a cached context expires ttl seconds after it was written.';
CREATE TRIGGER conversation_context_cache_expiry BEFORE INSERT OR UPDATE OF cached_context, ttl ON conversation_context_cache FOR EACH ROW EXECUTE FUNCTION conversation_context_cache_expiry();

-- The messages of every conversation as they stand now: added, with later updates laid over, without the deleted ones.
CREATE VIEW conversation_messages WITH (security_invoker = true) AS
SELECT first.conversation_id, first.user_id, first.message_id, first.sequence_number,
       last.event_data ->> 'role' AS role,
       last.event_data ->> 'content' AS content,
       last.event_data AS message,
       last.tokens,
       first.timestamp AS created_at,
       CASE WHEN last.sequence_number > first.sequence_number THEN last.timestamp END AS updated_at,
       first.response_id
FROM conversation_events AS first
CROSS JOIN LATERAL (
    SELECT e.event_type, first.event_data || e.event_data AS event_data, e.tokens, e.timestamp, e.sequence_number
    FROM conversation_events AS e
    WHERE e.conversation_id = first.conversation_id AND e.message_id = first.message_id
      AND e.sequence_number >= first.sequence_number
      AND e.event_type IN ('message.added', 'message.updated', 'message.deleted')
    ORDER BY e.sequence_number DESC LIMIT 1) AS last
WHERE first.event_type = 'message.added' AND last.event_type <> 'message.deleted';
COMMENT ON VIEW conversation_messages IS 'Messages of every conversation as they stand now. Order by sequence_number.';
COMMENT ON COLUMN conversation_messages.sequence_number IS 'Number of the event that added the message: its place in the conversation.';

-- get_latest_snapshot: where a replay to p_to_sequence starts.
CREATE FUNCTION get_latest_snapshot(p_conversation_id uuid, p_to_sequence bigint DEFAULT NULL)
RETURNS SETOF conversation_snapshots LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.conversation_snapshots
    WHERE conversation_id = p_conversation_id AND (p_to_sequence IS NULL OR sequence_number <= p_to_sequence)
      AND snapshot_type <> 'compression'  -- holds a condensed context: no state to fold on from
    ORDER BY sequence_number DESC, id DESC LIMIT 1
$$;
COMMENT ON FUNCTION get_latest_snapshot(uuid, bigint) IS 'The newest snapshot of a conversation at or before p_to_sequence (NULL = the end), from which a replay can start; no row when there is none.';

-- get_conversation_events_for_replay: the events between two points, in order.
CREATE FUNCTION get_conversation_events_for_replay(p_conversation_id uuid, p_from_sequence bigint DEFAULT 1, p_to_sequence bigint DEFAULT NULL)
RETURNS SETOF conversation_events LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.conversation_events
    WHERE conversation_id = p_conversation_id AND sequence_number >= p_from_sequence
      AND sequence_number <= coalesce(p_to_sequence, 9223372036854775807)
    ORDER BY sequence_number
$$;
COMMENT ON FUNCTION get_conversation_events_for_replay(uuid, bigint, bigint) IS 'Events p_from_sequence to p_to_sequence of a conversation, both included, in order (NULL = to the end).';

-- get_compression_stats: how well compression worked, by kind.
CREATE FUNCTION get_compression_stats(p_conversation_id uuid DEFAULT NULL, p_since timestamptz DEFAULT NULL)
RETURNS TABLE (compression_type varchar, compressions bigint, original_messages bigint, compressed_messages bigint, original_tokens bigint,
               compressed_tokens bigint, tokens_saved bigint, compression_ratio numeric, avg_quality_score numeric, avg_duration_ms numeric)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT c.compression_type, count(*), sum(c.original_message_count), sum(c.compressed_message_count), sum(c.original_tokens),
           sum(c.compressed_tokens), sum(c.original_tokens - c.compressed_tokens),
           round(sum(c.compressed_tokens)::numeric / NULLIF(sum(c.original_tokens), 0), 4),
           round(avg(c.quality_score), 4), round(avg(c.compression_duration_ms), 1)
    FROM public.conversation_compressions AS c
    WHERE (p_conversation_id IS NULL OR c.conversation_id = p_conversation_id)
      AND (p_since IS NULL OR c.created_at >= p_since)
    GROUP BY c.compression_type ORDER BY c.compression_type
$$;
COMMENT ON FUNCTION get_compression_stats(uuid, timestamptz) IS 'Compression by kind, of one conversation or of all one may see, since a time or ever. The ratio is of the sums, not a mean of ratios.';

-- cleanup_expired_cache: empty the cache of what has expired.
CREATE FUNCTION cleanup_expired_cache() RETURNS bigint LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    WITH gone AS (DELETE FROM public.conversation_context_cache WHERE expires_at <= now() RETURNING 1)
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION cleanup_expired_cache() IS 'Deletes expired rows of conversation_context_cache that the caller may see; returns how many. The daily job runs it as helix_operator.';

-- get_conversation_summary: one conversation in one row.
CREATE FUNCTION get_conversation_summary(p_conversation_id uuid)
RETURNS TABLE (conversation_id uuid, user_id uuid, status varchar, event_count bigint, message_count bigint, user_messages bigint, assistant_messages bigint,
               entity_count bigint, debate_count bigint, compression_count bigint, total_tokens bigint, last_sequence bigint, latest_snapshot_sequence bigint,
               started_at timestamptz, last_event_at timestamptz, duration_ms bigint)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT c.id, c.user_id, c.status, count(e.id),
           count(e.id) FILTER (WHERE e.event_type = 'message.added'),
           count(e.id) FILTER (WHERE e.event_type = 'message.added' AND e.event_data ->> 'role' = 'user'),
           count(e.id) FILTER (WHERE e.event_type = 'message.added' AND e.event_data ->> 'role' = 'assistant'),
           coalesce(sum(e.entity_count), 0)::bigint,
           count(e.id) FILTER (WHERE e.event_type = 'debate.started'),
           count(e.id) FILTER (WHERE e.event_type = 'context.compressed'),
           coalesce(sum(e.tokens), 0)::bigint, c.last_sequence,
           (SELECT max(s.sequence_number) FROM public.conversation_snapshots AS s WHERE s.conversation_id = c.id),
           min(e.timestamp), max(e.timestamp), (extract(epoch FROM max(e.timestamp) - min(e.timestamp)) * 1000)::bigint
    FROM public.conversations AS c LEFT JOIN public.conversation_events AS e ON e.conversation_id = c.id
    WHERE c.id = p_conversation_id GROUP BY c.id
$$;
COMMENT ON FUNCTION get_conversation_summary(uuid) IS 'One row about one conversation: events, messages by role, entities, tokens, span. No row when it does not exist or is not the caller''s.';
