-- 014_distributed_memory.up.sql: Distributed memory and Big Data: conversations, nodes, learning, analytics, materialized views.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- ----------------------------------------------------------------------------------------------------
-- conversation context
-- ----------------------------------------------------------------------------------------------------

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
    CONSTRAINT conversations_status_check CHECK (status IN ('active', 'paused', 'closed')),
    CONSTRAINT conversations_last_sequence_check CHECK (last_sequence >= 0),
    CONSTRAINT conversations_id_user_id_key UNIQUE (id, user_id)
) WITH (fillfactor = 70);

-- the head row is rewritten once an event: leave room for HOT updates, and index nothing that changes
COMMENT ON TABLE conversations IS 'One conversation: its owner, and the sequence number its last event got. The head of the event stream in conversation_events.';
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
    ORDER BY sequence_number DESC, id DESC LIMIT 1
$$;
COMMENT ON FUNCTION get_latest_snapshot(uuid, bigint) IS 'The newest snapshot of a conversation at or before p_to_sequence (NULL = the end); no row when there is none.';

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

-- ----------------------------------------------------------------------------------------------------
-- distributed memory
-- ----------------------------------------------------------------------------------------------------

-- One row per memory: the state after folding its events. Written by the memory domain in the transaction that writes the event.
-- Kept until forgotten; a forgotten memory stays as a tombstone without content, so that a late event cannot bring it back.
CREATE TABLE distributed_memory (
    id               uuid         PRIMARY KEY DEFAULT uuidv7(),
    shard_key        varchar(64)  NOT NULL,
    user_id          uuid         NOT NULL,
    session_id       uuid,
    content          text,
    embedding        vector,
    embedding_config_id uuid,
    importance       numeric(5,4) NOT NULL DEFAULT 0.5,
    tags             jsonb        NOT NULL DEFAULT '[]',
    entities         jsonb        NOT NULL DEFAULT '[]',
    relationships    jsonb        NOT NULL DEFAULT '[]',
    metadata         jsonb        NOT NULL DEFAULT '{}',
    access_count     bigint       NOT NULL DEFAULT 0,
    version          bigint       NOT NULL DEFAULT 1,
    vector_clock     jsonb        NOT NULL DEFAULT '{}',
    hlc              bigint       NOT NULL DEFAULT 0,
    node_id          varchar(255) NOT NULL,
    replicated_to    jsonb        NOT NULL DEFAULT '[]',
    deleted_at       timestamptz,
    created_at       timestamptz  NOT NULL DEFAULT now(),
    updated_at       timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT distributed_memory_importance_check CHECK (importance BETWEEN 0 AND 1),
    CONSTRAINT distributed_memory_tags_check CHECK (jsonb_typeof(tags) = 'array'),
    CONSTRAINT distributed_memory_entities_check CHECK (jsonb_typeof(entities) = 'array'),
    CONSTRAINT distributed_memory_relationships_check CHECK (jsonb_typeof(relationships) = 'array'),
    CONSTRAINT distributed_memory_access_count_check CHECK (access_count >= 0),
    CONSTRAINT distributed_memory_version_check CHECK (version >= 1),
    CONSTRAINT distributed_memory_vector_clock_check CHECK (jsonb_typeof(vector_clock) = 'object'),
    CONSTRAINT distributed_memory_hlc_check CHECK (hlc >= 0),
    CONSTRAINT distributed_memory_replicated_to_check CHECK (jsonb_typeof(replicated_to) = 'array'),
    CONSTRAINT distributed_memory_id_user_id_key UNIQUE (id, user_id),
    CONSTRAINT distributed_memory_tombstone_check CHECK ((deleted_at IS NULL AND content IS NOT NULL)
        OR (deleted_at IS NOT NULL AND content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}')),
    CONSTRAINT distributed_memory_embedding_check CHECK ((embedding IS NULL) = (embedding_config_id IS NULL))
);
COMMENT ON TABLE distributed_memory IS 'Memories kept on several nodes: the state after folding distributed_memory_events. A deleted memory stays as an empty tombstone.';
COMMENT ON COLUMN distributed_memory.shard_key IS 'Where the memory lives: a hash of the user, so that all memories of one user share a shard.';
COMMENT ON COLUMN distributed_memory.embedding IS 'Vector of the content; its length follows from the model. Never merged between nodes, only recomputed.';
COMMENT ON COLUMN distributed_memory.embedding_config_id IS 'Model that made the vector.';
COMMENT ON COLUMN distributed_memory.importance IS '0 (trifle) to 1 (vital).';
COMMENT ON COLUMN distributed_memory.vector_clock IS '{"node": counter, …}: for each node, its last event contained in this state.';
COMMENT ON COLUMN distributed_memory.hlc IS 'Hybrid logical clock of the winning content: milliseconds since 1970 shifted left by 16, plus a counter.';
COMMENT ON COLUMN distributed_memory.node_id IS 'The node that wrote the winning content.';
COMMENT ON COLUMN distributed_memory.replicated_to IS 'Node ids known to have this version: ["node-2", …].';
COMMENT ON COLUMN distributed_memory.deleted_at IS 'Set = tombstone: forgotten, empty, and never alive again.';

-- Which memories does this user have, newest first?
CREATE INDEX idx_distributed_memory_user_id ON distributed_memory (user_id, id DESC);

-- Which memories live on this shard?
CREATE INDEX idx_distributed_memory_shard_key ON distributed_memory (shard_key);

-- Which memories were last written by this node?
CREATE INDEX idx_distributed_memory_node_id ON distributed_memory (node_id);

-- Which memories came from this session (FK)?
CREATE INDEX idx_distributed_memory_session_id ON distributed_memory (session_id) WHERE session_id IS NOT NULL;
CREATE TRIGGER distributed_memory_set_updated_at BEFORE UPDATE ON distributed_memory FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- Deletion wins every merge: a tombstone stays one.
CREATE FUNCTION distributed_memory_keep_tombstone() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    IF NEW.deleted_at IS NULL THEN
        RAISE EXCEPTION 'memory % was forgotten and stays forgotten', OLD.id USING ERRCODE = 'restrict_violation', TABLE = 'distributed_memory';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION distributed_memory_keep_tombstone() IS 'Trigger: a forgotten memory is not brought back by a late merge.';
CREATE TRIGGER distributed_memory_keep_tombstone BEFORE UPDATE ON distributed_memory FOR EACH ROW WHEN (OLD.deleted_at IS NOT NULL) EXECUTE FUNCTION distributed_memory_keep_tombstone();

-- U5. One row per change to a memory, on whichever node it happened. The id is made by that node, so the same event arriving twice is
-- one row (INSERT … ON CONFLICT (id) DO NOTHING). Append-only but for redaction; months are dropped once every node has
-- a newer snapshot. No unique constraint but the key: `event_id` of the upstream schema is this id (view memory_events).
CREATE TABLE distributed_memory_events (
    id             uuid         PRIMARY KEY DEFAULT uuidv7(),
    event_type     varchar(50)  NOT NULL,
    node_id        varchar(255) NOT NULL DEFAULT 'local',
    memory_id      uuid         NOT NULL,
    user_id        uuid         NOT NULL,
    session_id     uuid,
    content        text,
    embedding      vector,
    embedding_model varchar(255),
    importance     numeric(5,4),
    tags           jsonb        NOT NULL DEFAULT '[]',
    entities       jsonb        NOT NULL DEFAULT '[]',
    relationships  jsonb        NOT NULL DEFAULT '[]',
    removed        jsonb        NOT NULL DEFAULT '{}',
    access_delta   integer      NOT NULL DEFAULT 0,
    version        bigint       NOT NULL,
    vector_clock   jsonb        NOT NULL DEFAULT '{}',
    hlc            bigint       NOT NULL DEFAULT ((extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16),
    merged_from    jsonb        NOT NULL DEFAULT '[]',
    metadata       jsonb        NOT NULL DEFAULT '{}',
    timestamp      timestamptz  NOT NULL DEFAULT now(),
    redacted_at    timestamptz,
    recorded_xid   xid8         NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT distributed_memory_events_event_type_check CHECK (event_type IN ('created', 'updated', 'deleted', 'merged')),
    CONSTRAINT distributed_memory_events_importance_check CHECK (importance BETWEEN 0 AND 1),
    CONSTRAINT distributed_memory_events_tags_check CHECK (jsonb_typeof(tags) = 'array'),
    CONSTRAINT distributed_memory_events_entities_check CHECK (jsonb_typeof(entities) = 'array'),
    CONSTRAINT distributed_memory_events_relationships_check CHECK (jsonb_typeof(relationships) = 'array'),
    CONSTRAINT distributed_memory_events_removed_check CHECK (jsonb_typeof(removed) = 'object'),
    CONSTRAINT distributed_memory_events_access_delta_check CHECK (access_delta >= 0),
    CONSTRAINT distributed_memory_events_version_check CHECK (version >= 1),
    CONSTRAINT distributed_memory_events_vector_clock_check CHECK (jsonb_typeof(vector_clock) = 'object'),
    CONSTRAINT distributed_memory_events_hlc_check CHECK (hlc >= 0),
    CONSTRAINT distributed_memory_events_merged_from_check CHECK (jsonb_typeof(merged_from) = 'array'),
    CONSTRAINT distributed_memory_events_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
    -- With the user: an event never reaches into another tenant's memory, and a guessed id looks like a missing one. NO ACTION: the truth does not
    -- go because a state is thrown away; both go with their user. Retention drops the events' months, never the state.
    CONSTRAINT distributed_memory_events_memory_id_user_id_fkey FOREIGN KEY (memory_id, user_id)
        REFERENCES distributed_memory (id, user_id),
    CONSTRAINT distributed_memory_events_content_check
        CHECK (event_type <> 'created' OR content IS NOT NULL OR redacted_at IS NOT NULL),
    CONSTRAINT distributed_memory_events_deleted_check CHECK ((event_type <> 'deleted' AND redacted_at IS NULL)
        OR (content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}' AND removed = '{}')),
    CONSTRAINT distributed_memory_events_embedding_check CHECK (embedding IS NULL OR embedding_model IS NOT NULL)
) PARTITION BY RANGE (id);

CREATE TABLE distributed_memory_events_default PARTITION OF distributed_memory_events DEFAULT;
COMMENT ON TABLE distributed_memory_events IS 'Changes to memories, exchanged between nodes (U5). Folding all events of a memory gives its state on every node (rebuild_memory_from_events). Monthly partitions by id.';
COMMENT ON COLUMN distributed_memory_events.id IS 'Made by the node where the change happened (UUIDv7); the same event arriving twice is one row.';
COMMENT ON COLUMN distributed_memory_events.event_type IS 'created, updated, deleted (wins every merge), merged (this memory took over those in merged_from).';
COMMENT ON COLUMN distributed_memory_events.memory_id IS 'The memory; its state row is written first, in the same transaction.';
COMMENT ON COLUMN distributed_memory_events.content IS 'New text; NULL = unchanged by this event.';
COMMENT ON COLUMN distributed_memory_events.embedding_model IS 'Model that made the vector, by name (provider/model): ids of embedding_config differ between nodes.';
COMMENT ON COLUMN distributed_memory_events.tags IS 'Tags this event adds: ["travel", …].';
COMMENT ON COLUMN distributed_memory_events.entities IS 'Entities this event adds: [{"id" or "name", …}].';
COMMENT ON COLUMN distributed_memory_events.relationships IS 'Relationships this event adds.';
COMMENT ON COLUMN distributed_memory_events.removed IS 'What this event takes away, and had seen: {"tags": ["travel"], "entities": ["<id or name>"], "relationships": ["<id or the object''s text>"]}.';
COMMENT ON COLUMN distributed_memory_events.access_delta IS 'How often the memory was used since the node''s last event.';
COMMENT ON COLUMN distributed_memory_events.version IS 'The node''s own counter for this memory: 1, 2, 3 …; equals vector_clock[node_id].';
COMMENT ON COLUMN distributed_memory_events.vector_clock IS 'What the writer had seen, this event included: {"node": counter, …}.';
COMMENT ON COLUMN distributed_memory_events.hlc IS 'Hybrid logical clock: milliseconds since 1970 shifted left by 16, plus a counter. Orders concurrent writes of content.';
COMMENT ON COLUMN distributed_memory_events.merged_from IS 'Ids of the memories this one took over.';
COMMENT ON COLUMN distributed_memory_events.metadata IS 'Keys this event sets; a JSON null removes the key.';
COMMENT ON COLUMN distributed_memory_events.redacted_at IS 'When the texts of this event were erased because the memory was forgotten.';
COMMENT ON COLUMN distributed_memory_events.recorded_xid IS 'Transaction that wrote the row here: the position for get_events_since. Node-local; meaningless after a restore into another cluster.';

-- What happened to this memory?
CREATE INDEX idx_distributed_memory_events_memory_id ON distributed_memory_events (memory_id, hlc);

-- Which events does this user own (erasure)?
CREATE INDEX idx_distributed_memory_events_user_id ON distributed_memory_events (user_id, id);

-- Which events were written here after this position?
CREATE INDEX idx_distributed_memory_events_feed ON distributed_memory_events (recorded_xid, id);

-- Which events came from this node, in order?
CREATE INDEX idx_distributed_memory_events_node_id ON distributed_memory_events (node_id, id);

-- Which events came from this session (FK)?
CREATE INDEX idx_distributed_memory_events_session_id ON distributed_memory_events (session_id) WHERE session_id IS NOT NULL;

-- Append-only but for two changes: a deleted session lets go, and a forgotten memory's texts are erased.
CREATE FUNCTION distributed_memory_events_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    IF (to_jsonb(NEW) - 'session_id') = (to_jsonb(OLD) - 'session_id') AND NEW.session_id IS NULL THEN
        RETURN NEW;
    END IF;
    -- The table's own check makes sure that a redacted row is an empty one.
    IF NEW.redacted_at IS NOT NULL
       AND (to_jsonb(NEW) - '{content,embedding,embedding_model,tags,entities,relationships,removed,metadata,redacted_at}'::text[])
         = (to_jsonb(OLD) - '{content,embedding,embedding_model,tags,entities,relationships,removed,metadata,redacted_at}'::text[]) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'distributed_memory_events is append-only: write another event instead'
        USING ERRCODE = 'restrict_violation', TABLE = 'distributed_memory_events';
END $$;
COMMENT ON FUNCTION distributed_memory_events_keep() IS 'Trigger: an event may only be redacted (emptied), never rewritten.';
CREATE TRIGGER distributed_memory_events_keep BEFORE UPDATE ON distributed_memory_events FOR EACH ROW EXECUTE FUNCTION distributed_memory_events_keep();

-- U6. One row per stored state of one user's memories on one node, so that a new or lagging node need not fold from the beginning.
-- Written by the memory domain; the newest of each node and user is kept. Rewritten without a memory when it is forgotten.
CREATE TABLE memory_snapshots (
    id                  uuid         PRIMARY KEY DEFAULT uuidv7(),
    node_id             varchar(255) NOT NULL,
    user_id             uuid         NOT NULL,
    snapshot_type       varchar(50)  NOT NULL DEFAULT 'full',
    memories            jsonb        NOT NULL DEFAULT '[]',
    entities            jsonb        NOT NULL DEFAULT '[]',
    relationships       jsonb        NOT NULL DEFAULT '[]',
    vector_clock        jsonb        NOT NULL DEFAULT '{}',
    memory_count        integer      NOT NULL DEFAULT 0,
    entity_count        integer      NOT NULL DEFAULT 0,
    relationship_count  integer      NOT NULL DEFAULT 0,
    last_event_id       uuid,
    created_at          timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_snapshots_snapshot_type_check CHECK (snapshot_type IN ('full', 'incremental', 'checkpoint')),
    CONSTRAINT memory_snapshots_memories_check CHECK (jsonb_typeof(memories) = 'array'),
    CONSTRAINT memory_snapshots_entities_check CHECK (jsonb_typeof(entities) = 'array'),
    CONSTRAINT memory_snapshots_relationships_check CHECK (jsonb_typeof(relationships) = 'array'),
    CONSTRAINT memory_snapshots_vector_clock_check CHECK (jsonb_typeof(vector_clock) = 'object'),
    CONSTRAINT memory_snapshots_memory_count_check CHECK (memory_count >= 0),
    CONSTRAINT memory_snapshots_entity_count_check CHECK (entity_count >= 0),
    CONSTRAINT memory_snapshots_relationship_count_check CHECK (relationship_count >= 0)
);
COMMENT ON TABLE memory_snapshots IS 'The memories of one user as one node held them after last_event_id (U6).';
COMMENT ON COLUMN memory_snapshots.last_event_id IS 'Newest event contained: joins distributed_memory_events; no FK because its months are dropped sooner.';

-- What is the newest snapshot of this node and user?
CREATE INDEX idx_memory_snapshots_node_user ON memory_snapshots (node_id, user_id, id DESC);

-- Which snapshots does this user own (erasure)?
CREATE INDEX idx_memory_snapshots_user_id ON memory_snapshots (user_id);

-- U7. One row per pair of changes that happened without knowing of each other. Written by the merge, resolved by it or by a person;
-- kept so that a lost wording can still be seen. Holds ids and versions, no text.
CREATE TABLE memory_conflicts (
    id                   uuid         PRIMARY KEY DEFAULT uuidv7(),
    memory_id            uuid         NOT NULL,
    user_id              uuid         NOT NULL,
    conflict_type        varchar(50)  NOT NULL,
    local_event_id       uuid         NOT NULL,
    remote_event_id      uuid         NOT NULL,
    node1_id             varchar(255) NOT NULL,
    node1_version        bigint       NOT NULL,
    node1_timestamp      timestamptz  NOT NULL,
    node2_id             varchar(255) NOT NULL,
    node2_version        bigint       NOT NULL,
    node2_timestamp      timestamptz  NOT NULL,
    resolution_strategy  varchar(50),
    resolved_version     bigint,
    resolved_by          varchar(255),
    detected_at          timestamptz  NOT NULL DEFAULT now(),
    resolved_at          timestamptz,
    CONSTRAINT memory_conflicts_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES distributed_memory (id) ON DELETE CASCADE,
    CONSTRAINT memory_conflicts_conflict_type_check CHECK (conflict_type IN ('version_conflict', 'concurrent_update')),
    CONSTRAINT memory_conflicts_resolution_strategy_check
        CHECK (resolution_strategy IN ('last_write_wins', 'merge_all', 'custom')),
    CONSTRAINT memory_conflicts_local_event_id_remote_event_id_key UNIQUE (local_event_id, remote_event_id),
    CONSTRAINT memory_conflicts_resolved_check
        CHECK ((resolved_at IS NULL) = (resolution_strategy IS NULL) AND resolved_at >= detected_at)
);
COMMENT ON TABLE memory_conflicts IS 'Two changes to one memory that did not know of each other, and how that was settled (U7).';
COMMENT ON COLUMN memory_conflicts.local_event_id IS 'Joins distributed_memory_events, as does remote_event_id; no FK because its months are dropped sooner.';
COMMENT ON COLUMN memory_conflicts.node1_id IS 'Node of the local event; node2 is the remote one.';
COMMENT ON COLUMN memory_conflicts.resolved_by IS 'Node id of the automatic merge, or the user who decided.';

-- Which conflicts has this memory had?
CREATE INDEX idx_memory_conflicts_memory_id ON memory_conflicts (memory_id);

-- Which conflicts are open?
CREATE INDEX idx_memory_conflicts_open ON memory_conflicts (detected_at) WHERE resolved_at IS NULL;

-- Which conflicts does this user own (erasure)?
CREATE INDEX idx_memory_conflicts_user_id ON memory_conflicts (user_id);

-- U8. One row per node that takes part. Written by the node itself (heartbeat) and by the one that watches it. Holds no user data.
CREATE TABLE memory_nodes (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    node_id             varchar(255) NOT NULL,
    node_type           varchar(50)  NOT NULL DEFAULT 'primary',
    status              varchar(50)  NOT NULL DEFAULT 'active',
    last_heartbeat      timestamptz  NOT NULL DEFAULT now(),
    vector_clock        jsonb        NOT NULL DEFAULT '{}',
    events_published    bigint       NOT NULL DEFAULT 0,
    events_consumed     bigint       NOT NULL DEFAULT 0,
    conflicts_resolved  bigint       NOT NULL DEFAULT 0,
    sync_lag_ms         bigint       NOT NULL DEFAULT 0,
    created_at          timestamptz  NOT NULL DEFAULT now(),
    updated_at          timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_nodes_node_id_key UNIQUE (node_id),
    CONSTRAINT memory_nodes_node_type_check CHECK (node_type IN ('primary', 'replica', 'worker')),
    CONSTRAINT memory_nodes_status_check CHECK (status IN ('active', 'lagging', 'inactive', 'failed')),
    CONSTRAINT memory_nodes_vector_clock_check CHECK (jsonb_typeof(vector_clock) = 'object'),
    CONSTRAINT memory_nodes_events_published_check CHECK (events_published >= 0),
    CONSTRAINT memory_nodes_events_consumed_check CHECK (events_consumed >= 0),
    CONSTRAINT memory_nodes_conflicts_resolved_check CHECK (conflicts_resolved >= 0),
    CONSTRAINT memory_nodes_sync_lag_ms_check CHECK (sync_lag_ms >= 0)
);
COMMENT ON TABLE memory_nodes IS 'Nodes that keep and exchange memories, with heartbeat and lag (U8).';
COMMENT ON COLUMN memory_nodes.sync_lag_ms IS 'Age in ms of the oldest event this node has not consumed yet.';
CREATE TRIGGER memory_nodes_set_updated_at BEFORE UPDATE ON memory_nodes FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- One row per direction between two nodes: how far the target has taken over what the source wrote. Written by the target.
CREATE TABLE memory_sync_status (
    id                 uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    source_node_id     varchar(255) NOT NULL,
    target_node_id     varchar(255) NOT NULL,
    status             varchar(50)  NOT NULL DEFAULT 'pending',
    last_event_id      uuid,
    last_recorded_xid  xid8         NOT NULL DEFAULT '0',
    pending_events     bigint       NOT NULL DEFAULT 0,
    sync_lag_ms        bigint       NOT NULL DEFAULT 0,
    error_message      text,
    last_synced_at     timestamptz,
    updated_at         timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_sync_status_source_node_id_fkey FOREIGN KEY (source_node_id)
        REFERENCES memory_nodes (node_id) ON DELETE CASCADE,
    CONSTRAINT memory_sync_status_target_node_id_fkey FOREIGN KEY (target_node_id)
        REFERENCES memory_nodes (node_id) ON DELETE CASCADE,
    CONSTRAINT memory_sync_status_status_check CHECK (status IN ('pending', 'syncing', 'synced', 'failed')),
    CONSTRAINT memory_sync_status_pending_events_check CHECK (pending_events >= 0),
    CONSTRAINT memory_sync_status_sync_lag_ms_check CHECK (sync_lag_ms >= 0),
    CONSTRAINT memory_sync_status_source_node_id_target_node_id_key UNIQUE (source_node_id, target_node_id),
    CONSTRAINT memory_sync_status_nodes_check CHECK (source_node_id <> target_node_id)
);
COMMENT ON TABLE memory_sync_status IS 'How far one node has taken over what another wrote (with memory_nodes: U8).';
COMMENT ON COLUMN memory_sync_status.last_recorded_xid IS 'Position in the source''s feed: pass it and last_event_id to get_events_since there.';

-- Which exchanges read into this node (FK)?
CREATE INDEX idx_memory_sync_status_target ON memory_sync_status (target_node_id);
CREATE TRIGGER memory_sync_status_set_updated_at BEFORE UPDATE ON memory_sync_status FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U9. One row per node and user: the last event folded into that node's state. Written in the transaction that folds.
CREATE TABLE memory_event_checkpoints (
    id                        uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    node_id                   varchar(255) NOT NULL,
    user_id                   uuid,
    last_processed_event_id   uuid,
    last_processed_timestamp  timestamptz,
    last_processed_version    bigint       NOT NULL DEFAULT 0,
    last_recorded_xid         xid8         NOT NULL DEFAULT '0',
    vector_clock              jsonb        NOT NULL DEFAULT '{}',
    event_count               bigint       NOT NULL DEFAULT 0,
    created_at                timestamptz  NOT NULL DEFAULT now(),
    updated_at                timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_event_checkpoints_last_processed_version_check CHECK (last_processed_version >= 0),
    CONSTRAINT memory_event_checkpoints_vector_clock_check CHECK (jsonb_typeof(vector_clock) = 'object'),
    CONSTRAINT memory_event_checkpoints_event_count_check CHECK (event_count >= 0),
    CONSTRAINT memory_event_checkpoints_node_id_user_id_key UNIQUE NULLS NOT DISTINCT (node_id, user_id)
);
COMMENT ON TABLE memory_event_checkpoints IS 'How far a node has folded the events of one user, or of all (U9).';
COMMENT ON COLUMN memory_event_checkpoints.user_id IS 'NULL = the checkpoint of the whole stream.';

-- Which checkpoints does this user own (erasure)?
CREATE INDEX idx_memory_event_checkpoints_user_id ON memory_event_checkpoints (user_id) WHERE user_id IS NOT NULL;
CREATE TRIGGER memory_event_checkpoints_set_updated_at BEFORE UPDATE ON memory_event_checkpoints FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- One row per memory, node and version: the merge library's own document, so that a merge needs no full fold. Written with the event;
-- only the newest per memory and node is needed. Emptied when the memory is forgotten.
CREATE TABLE crdt_versions (
    id            uuid         PRIMARY KEY DEFAULT uuidv7(),
    memory_id     uuid         NOT NULL,
    user_id       uuid         NOT NULL,
    node_id       varchar(255) NOT NULL,
    version       bigint       NOT NULL,
    vector_clock  jsonb        NOT NULL DEFAULT '{}',
    crdt_type     varchar(50)  NOT NULL DEFAULT 'merge_all',
    crdt_state    jsonb        NOT NULL DEFAULT '{}',
    content_hash  bytea,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT crdt_versions_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES distributed_memory (id) ON DELETE CASCADE,
    CONSTRAINT crdt_versions_version_check CHECK (version >= 1),
    CONSTRAINT crdt_versions_vector_clock_check CHECK (jsonb_typeof(vector_clock) = 'object'),
    CONSTRAINT crdt_versions_crdt_type_check CHECK (crdt_type IN ('last_write_wins', 'merge_all', 'custom')),
    CONSTRAINT crdt_versions_content_hash_check CHECK (octet_length(content_hash) = 32),
    CONSTRAINT crdt_versions_memory_id_node_id_version_key UNIQUE (memory_id, node_id, version)
);
COMMENT ON TABLE crdt_versions IS 'The merge state of a memory at one version of one node (with memory_event_checkpoints: U9).';
COMMENT ON COLUMN crdt_versions.crdt_state IS 'The merge library''s own document of the memory.';
COMMENT ON COLUMN crdt_versions.content_hash IS 'SHA-256 of the folded state: two nodes that agree have equal hashes.';

-- Which versions does this user own (erasure)?
CREATE INDEX idx_crdt_versions_user_id ON crdt_versions (user_id);

-- get_memory_event_history: what happened to a memory, oldest first.
CREATE FUNCTION get_memory_event_history(p_memory_id uuid, p_limit integer DEFAULT 1000)
RETURNS SETOF distributed_memory_events LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.distributed_memory_events WHERE memory_id = p_memory_id
    ORDER BY hlc, node_id, id LIMIT least(greatest(p_limit, 0), 10000)
$$;
COMMENT ON FUNCTION get_memory_event_history(uuid, integer) IS 'Events of one memory in the order of the fold (hlc, node, id), oldest first; at most 10,000.';

-- get_events_since: the feed for other nodes. Only transactions that can have no more late company are shown, so nothing is skipped.
CREATE FUNCTION get_events_since(p_after_xid xid8 DEFAULT '0', p_after_id uuid DEFAULT NULL, p_not_from_node varchar DEFAULT NULL, p_user_id uuid DEFAULT NULL, p_limit integer DEFAULT 1000)
RETURNS SETOF distributed_memory_events LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.distributed_memory_events
    WHERE (recorded_xid, id) > (p_after_xid, coalesce(p_after_id, '00000000-0000-0000-0000-000000000000'::uuid))
      AND recorded_xid < pg_snapshot_xmin(pg_current_snapshot())
      AND (p_not_from_node IS NULL OR node_id <> p_not_from_node)
      AND (p_user_id IS NULL OR user_id = p_user_id)
    ORDER BY recorded_xid, id LIMIT least(greatest(p_limit, 0), 10000)
$$;
COMMENT ON FUNCTION get_events_since(xid8, uuid, varchar, uuid, integer) IS 'Events written here after a position, in order; at most 10,000. Remember recorded_xid and id of the last row as the next position. Holds back rows of transactions that may still get company, so a late commit is never skipped.';

-- rebuild_memory_from_events: the fold itself. A memory with a deleted event gives no row, whatever else came before or after.
CREATE FUNCTION rebuild_memory_from_events(p_memory_id uuid)
RETURNS TABLE (memory_id uuid, user_id uuid, session_id uuid, content text, embedding vector, embedding_model varchar, importance numeric, tags jsonb,
               entities jsonb, relationships jsonb, metadata jsonb, access_count bigint, version bigint, vector_clock jsonb, hlc bigint,
               node_id varchar, event_count bigint, created_at timestamptz, updated_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    WITH e AS MATERIALIZED (
        SELECT * FROM public.distributed_memory_events AS d WHERE d.memory_id = p_memory_id),
    added AS (  -- every element added, with the dot (node, counter) of its addition
        SELECT 'tags' AS kind, x.value #>> '{}' AS key, x.value, e.node_id, e.version, e.hlc, e.id FROM e, jsonb_array_elements(e.tags) AS x
        UNION ALL
        SELECT 'entities', coalesce(x.value ->> 'id', x.value ->> 'name', x.value #>> '{}'), x.value, e.node_id, e.version, e.hlc, e.id FROM e, jsonb_array_elements(e.entities) AS x
        UNION ALL
        SELECT 'relationships', coalesce(x.value ->> 'id', x.value #>> '{}'), x.value, e.node_id, e.version, e.hlc, e.id FROM e, jsonb_array_elements(e.relationships) AS x),
    removed AS (
        SELECT k.key AS kind, x.value AS key, e.vector_clock FROM e, jsonb_each(e.removed) AS k, jsonb_array_elements_text(k.value) AS x
        WHERE jsonb_typeof(k.value) = 'array'),
    present AS (  -- an addition stays unless a removal had seen it; of equal keys the newest wins
        SELECT DISTINCT ON (a.kind, a.key) a.kind, a.key, a.value FROM added AS a
        WHERE NOT EXISTS (SELECT FROM removed AS r WHERE r.kind = a.kind AND r.key = a.key AND coalesce((r.vector_clock ->> a.node_id)::bigint, 0) >= a.version)
        ORDER BY a.kind, a.key, a.hlc DESC, a.node_id DESC, a.id DESC),
    meta AS (
        SELECT DISTINCT ON (m.key) m.key, m.value FROM e, jsonb_each(e.metadata) AS m ORDER BY m.key, e.hlc DESC, e.node_id DESC, e.id DESC),
    clock AS (
        SELECT c.key, max(c.value::bigint) AS value FROM e, jsonb_each_text(e.vector_clock || jsonb_build_object(e.node_id, e.version)) AS c GROUP BY c.key),
    won AS (
        SELECT * FROM e WHERE e.content IS NOT NULL ORDER BY e.hlc DESC, e.node_id DESC, e.id DESC LIMIT 1)
    SELECT p_memory_id, won.user_id,
           (SELECT e.session_id FROM e WHERE e.session_id IS NOT NULL ORDER BY e.hlc DESC, e.node_id DESC, e.id DESC LIMIT 1),
           won.content, won.embedding, won.embedding_model,
           coalesce((SELECT e.importance FROM e WHERE e.importance IS NOT NULL ORDER BY e.hlc DESC, e.node_id DESC, e.id DESC LIMIT 1), 0.5),
           coalesce((SELECT jsonb_agg(p.value ORDER BY p.key) FROM present AS p WHERE p.kind = 'tags'), '[]'),
           coalesce((SELECT jsonb_agg(p.value ORDER BY p.key) FROM present AS p WHERE p.kind = 'entities'), '[]'),
           coalesce((SELECT jsonb_agg(p.value ORDER BY p.key) FROM present AS p WHERE p.kind = 'relationships'), '[]'),
           coalesce((SELECT jsonb_object_agg(m.key, m.value) FROM meta AS m WHERE jsonb_typeof(m.value) <> 'null'), '{}'),
           (SELECT coalesce(sum(e.access_delta), 0) FROM e)::bigint,
           (SELECT sum(c.value) FROM clock AS c)::bigint,
           (SELECT jsonb_object_agg(c.key, c.value) FROM clock AS c),
           won.hlc, won.node_id,
           (SELECT count(*) FROM e),
           (SELECT min(e.timestamp) FROM e), (SELECT max(e.timestamp) FROM e)
    FROM won
    WHERE NOT EXISTS (SELECT FROM e WHERE e.event_type = 'deleted')
      AND NOT EXISTS (SELECT FROM public.distributed_memory AS t WHERE t.id = p_memory_id AND t.deleted_at IS NOT NULL)
$$;
COMMENT ON FUNCTION rebuild_memory_from_events(uuid) IS 'Folds the events of a memory to its state: one row, or none when it was deleted (deletion wins) or never had content. The order of arrival does not matter.';

-- redact_memory_events: erase the texts of a forgotten memory from its history. Call it with the event that deletes.
CREATE FUNCTION redact_memory_events(p_memory_id uuid) RETURNS bigint LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    WITH done AS (
        UPDATE public.distributed_memory_events
        SET content = NULL, embedding = NULL, embedding_model = NULL, tags = '[]', entities = '[]', relationships = '[]', removed = '{}', metadata = '{}', redacted_at = now()
        WHERE memory_id = p_memory_id AND redacted_at IS NULL AND event_type <> 'deleted' RETURNING 1)
    SELECT count(*) FROM done
$$;
COMMENT ON FUNCTION redact_memory_events(uuid) IS 'Erases text, vectors, tags, entities and metadata from all events of a memory; returns how many events. The events stay, so the deletion still travels.';

-- get_conflict_stats: how often nodes disagreed, and how it ended.
CREATE FUNCTION get_conflict_stats(p_since timestamptz DEFAULT NULL)
RETURNS TABLE (conflict_type varchar, resolution_strategy varchar, conflicts bigint, resolved bigint, open bigint, avg_resolution_ms numeric, newest_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT c.conflict_type, c.resolution_strategy, count(*), count(c.resolved_at), count(*) - count(c.resolved_at),
           round(avg(extract(epoch FROM c.resolved_at - c.detected_at) * 1000), 1), max(c.detected_at)
    FROM public.memory_conflicts AS c WHERE p_since IS NULL OR c.detected_at >= p_since
    GROUP BY c.conflict_type, c.resolution_strategy ORDER BY c.conflict_type, c.resolution_strategy NULLS FIRST
$$;
COMMENT ON FUNCTION get_conflict_stats(timestamptz) IS 'Memory conflicts by kind and by how they were settled (NULL = still open), since a time or ever.';

-- ----------------------------------------------------------------------------------------------------
-- cross session learning
-- ----------------------------------------------------------------------------------------------------

-- U10. One row per pattern seen in more than one session. Written by the learning job (counted up when seen again); dropped by it when not
-- seen for long.
CREATE TABLE cross_session_patterns (
    id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid,
    pattern_type  varchar(50)  NOT NULL,
    pattern_key   varchar(255) NOT NULL,
    description   text         NOT NULL,
    frequency     integer      NOT NULL DEFAULT 1,
    confidence    numeric(5,4) NOT NULL,
    examples      jsonb        NOT NULL DEFAULT '[]',
    metadata      jsonb        NOT NULL DEFAULT '{}',
    first_seen    timestamptz  NOT NULL DEFAULT now(),
    last_seen     timestamptz  NOT NULL DEFAULT now(),
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT cross_session_patterns_pattern_type_check CHECK (pattern_type IN (
        'user_intent', 'debate_strategy', 'entity_cooccurrence', 'user_preference', 'conversation_flow', 'provider_performance')),
    CONSTRAINT cross_session_patterns_frequency_check CHECK (frequency >= 1),
    CONSTRAINT cross_session_patterns_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT cross_session_patterns_examples_check CHECK (jsonb_typeof(examples) = 'array'),
    CONSTRAINT cross_session_patterns_user_id_pattern_type_pattern_key_key
        UNIQUE NULLS NOT DISTINCT (user_id, pattern_type, pattern_key),
    CONSTRAINT cross_session_patterns_seen_check CHECK (last_seen >= first_seen),
    CONSTRAINT cross_session_patterns_global_check CHECK (user_id IS NOT NULL OR examples = '[]')
);
COMMENT ON TABLE cross_session_patterns IS 'Patterns seen over several sessions: intents, preferences, flows, what goes with what (U10). user_id NULL = learned over all users.';
COMMENT ON COLUMN cross_session_patterns.pattern_key IS 'Short stable name of the pattern within its type and user; seeing it again counts frequency up.';
COMMENT ON COLUMN cross_session_patterns.frequency IS 'Sessions in which it was seen.';
COMMENT ON COLUMN cross_session_patterns.examples IS 'Where it was seen: [{"conversation_id", "sequence_number", "text"}]. Empty in global rows: no user''s text is shared.';

-- Which patterns of this kind are the strongest?
CREATE INDEX idx_cross_session_patterns_type ON cross_session_patterns (pattern_type, frequency DESC, confidence DESC);

-- Which patterns have not been seen for long?
CREATE INDEX idx_cross_session_patterns_last_seen ON cross_session_patterns (last_seen);
CREATE TRIGGER cross_session_patterns_set_updated_at BEFORE UPDATE ON cross_session_patterns FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U11. One row per conclusion drawn from patterns. Written by the learning job; shown to people and, if they agree, to prompts.
CREATE TABLE learned_insights (
    id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid,
    insight_type  varchar(50)  NOT NULL,
    title         varchar(255) NOT NULL,
    description   text         NOT NULL,
    confidence    numeric(5,4) NOT NULL,
    impact        varchar(20)  NOT NULL DEFAULT 'medium',
    patterns      jsonb        NOT NULL DEFAULT '[]',
    metadata      jsonb        NOT NULL DEFAULT '{}',
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT learned_insights_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT learned_insights_impact_check CHECK (impact IN ('high', 'medium', 'low')),
    CONSTRAINT learned_insights_patterns_check CHECK (jsonb_typeof(patterns) = 'array'),
    CONSTRAINT learned_insights_user_id_insight_type_title_key UNIQUE NULLS NOT DISTINCT (user_id, insight_type, title)
);
COMMENT ON TABLE learned_insights IS 'Conclusions drawn from patterns (U11). user_id NULL = global.';
COMMENT ON COLUMN learned_insights.patterns IS 'Ids of the cross_session_patterns it rests on.';

-- Which insights matter most?
CREATE INDEX idx_learned_insights_impact ON learned_insights (impact, confidence DESC);
CREATE TRIGGER learned_insights_set_updated_at BEFORE UPDATE ON learned_insights FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U12. One row per user and kind of preference: how this user likes answers. Written by the learning job or set by the user (confidence 1).
CREATE TABLE user_preferences (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid         NOT NULL,
    preference_type   varchar(50)  NOT NULL,
    preference_value  text         NOT NULL,
    confidence        numeric(5,4) NOT NULL DEFAULT 0.5,
    frequency         integer      NOT NULL DEFAULT 1,
    examples          jsonb        NOT NULL DEFAULT '[]',
    created_at        timestamptz  NOT NULL DEFAULT now(),
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT user_preferences_preference_type_check CHECK (preference_type IN (
        'communication_style', 'response_format', 'code_language', 'explanation_depth')),
    CONSTRAINT user_preferences_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT user_preferences_frequency_check CHECK (frequency >= 1),
    CONSTRAINT user_preferences_examples_check CHECK (jsonb_typeof(examples) = 'array'),
    CONSTRAINT user_preferences_user_id_preference_type_key UNIQUE (user_id, preference_type)
);
COMMENT ON TABLE user_preferences IS 'How a user likes answers, learned or told (U12).';
COMMENT ON COLUMN user_preferences.confidence IS '0 to 1; 1 = the user said so.';
CREATE TRIGGER user_preferences_set_updated_at BEFORE UPDATE ON user_preferences FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U13. One row per pair of a user's entities that were mentioned together. Written by the learning job; leaves with either entity.
CREATE TABLE entity_cooccurrences (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid         NOT NULL,
    entity1_id          uuid         NOT NULL,
    entity1_name        varchar(255) NOT NULL,
    entity1_type        varchar(100) NOT NULL,
    entity2_id          uuid         NOT NULL,
    entity2_name        varchar(255) NOT NULL,
    entity2_type        varchar(100) NOT NULL,
    cooccurrence_count  integer      NOT NULL DEFAULT 1,
    confidence          numeric(5,4) NOT NULL DEFAULT 0.5,
    contexts            jsonb        NOT NULL DEFAULT '[]',
    first_seen          timestamptz  NOT NULL DEFAULT now(),
    last_seen           timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT entity_cooccurrences_cooccurrence_count_check CHECK (cooccurrence_count >= 1),
    CONSTRAINT entity_cooccurrences_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT entity_cooccurrences_contexts_check CHECK (jsonb_typeof(contexts) = 'array'),
    CONSTRAINT entity_cooccurrences_entity1_id_entity2_id_key UNIQUE (entity1_id, entity2_id),
    CONSTRAINT entity_cooccurrences_order_check CHECK (entity1_id < entity2_id),
    CONSTRAINT entity_cooccurrences_seen_check CHECK (last_seen >= first_seen)
);
COMMENT ON TABLE entity_cooccurrences IS 'Pairs of a user''s entities mentioned together (U13). Each pair once: the smaller id is entity1.';
COMMENT ON COLUMN entity_cooccurrences.entity1_name IS 'Copy of memory_entities.name at the last sighting, as are the types: the table reads without a join.';
COMMENT ON COLUMN entity_cooccurrences.contexts IS 'Where they met: [{"conversation_id" or "memory_id", …}], newest last, at most 10.';

-- What goes with this entity, seen from the other end (the unique constraint serves the first)?
CREATE INDEX idx_entity_cooccurrences_entity2 ON entity_cooccurrences (entity2_id);

-- Which pairs of this user are the strongest?
CREATE INDEX idx_entity_cooccurrences_user_id ON entity_cooccurrences (user_id, cooccurrence_count DESC);

-- U14. One row per strategy, provider, model and position: how often it won debates. Counts only, over all users. Written when a debate
-- ends, by the learning job.
CREATE TABLE debate_strategy_success (
    id                    uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    strategy_name         varchar(100) NOT NULL,
    provider              varchar(255) NOT NULL,
    model                 varchar(255) NOT NULL,
    position              varchar(255) NOT NULL,
    success_count         integer      NOT NULL DEFAULT 0,
    total_attempts        integer      NOT NULL DEFAULT 0,
    success_rate          numeric(5,4) GENERATED ALWAYS AS (round(success_count::numeric / NULLIF(total_attempts, 0), 4)) STORED,
    avg_confidence        numeric(5,4),
    avg_response_time_ms  numeric(12,2),
    last_used_at          timestamptz  NOT NULL DEFAULT now(),
    created_at            timestamptz  NOT NULL DEFAULT now(),
    updated_at            timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debate_strategy_success_success_count_check CHECK (success_count >= 0),
    CONSTRAINT debate_strategy_success_total_attempts_check CHECK (total_attempts >= 0),
    CONSTRAINT debate_strategy_success_avg_confidence_check CHECK (avg_confidence BETWEEN 0 AND 1),
    CONSTRAINT debate_strategy_success_avg_response_time_ms_check CHECK (avg_response_time_ms >= 0),
    CONSTRAINT debate_strategy_success_strategy_provider_model_position_key UNIQUE (strategy_name, provider, model, position),
    CONSTRAINT debate_strategy_success_counts_check CHECK (success_count <= total_attempts)
);
COMMENT ON TABLE debate_strategy_success IS 'How often a strategy won debates, by provider, model and position (U14). Counts only, over all users.';
COMMENT ON COLUMN debate_strategy_success.position IS 'The role argued: researcher, critic, synthesizer, …';
COMMENT ON COLUMN debate_strategy_success.success_rate IS 'success_count / total_attempts; NULL before the first attempt. Below 3 attempts it says nothing (get_best_debate_strategies).';
CREATE TRIGGER debate_strategy_success_set_updated_at BEFORE UPDATE ON debate_strategy_success FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U15. One row per rhythm of conversation. Written by the learning job.
CREATE TABLE conversation_flow_patterns (
    id                       uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id                  uuid,
    flow_type                varchar(50)   NOT NULL,
    avg_time_per_message_ms  numeric(14,2) NOT NULL,
    message_count_range      int4range     NOT NULL,
    success_rate             numeric(5,4),
    frequency                integer       NOT NULL DEFAULT 1,
    first_seen               timestamptz   NOT NULL DEFAULT now(),
    last_seen                timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT conversation_flow_patterns_flow_type_check CHECK (flow_type IN ('rapid', 'normal', 'thoughtful')),
    CONSTRAINT conversation_flow_patterns_avg_time_per_message_ms_check CHECK (avg_time_per_message_ms >= 0),
    CONSTRAINT conversation_flow_patterns_success_rate_check CHECK (success_rate BETWEEN 0 AND 1),
    CONSTRAINT conversation_flow_patterns_frequency_check CHECK (frequency >= 1),
    CONSTRAINT conversation_flow_patterns_user_id_flow_type_range_key
        UNIQUE NULLS NOT DISTINCT (user_id, flow_type, message_count_range)
);
COMMENT ON TABLE conversation_flow_patterns IS 'Rhythms of conversation, per user or global (U15).';
COMMENT ON COLUMN conversation_flow_patterns.flow_type IS 'By the mean time between messages: rapid < 5 s, normal < 30 s, thoughtful above.';
COMMENT ON COLUMN conversation_flow_patterns.message_count_range IS 'Lengths of the conversations counted here: [1,10), [10,50), …';
COMMENT ON COLUMN conversation_flow_patterns.success_rate IS 'Share of these conversations that ended well, as the learning job measures it; NULL = not measured.';

-- U16. One row per piece of knowledge gathered from conversations. Written by the learning job; seen again = verification_count + 1.
CREATE TABLE knowledge_accumulation (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid,
    knowledge_type      varchar(50)  NOT NULL,
    subject             varchar(500) NOT NULL,
    fact                text         NOT NULL,
    sources             jsonb        NOT NULL DEFAULT '[]',
    confidence          numeric(5,4) NOT NULL DEFAULT 0.5,
    verification_count  integer      NOT NULL DEFAULT 1,
    first_seen          timestamptz  NOT NULL DEFAULT now(),
    last_seen           timestamptz  NOT NULL DEFAULT now(),
    updated_at          timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT knowledge_accumulation_knowledge_type_check CHECK (knowledge_type IN ('fact', 'procedure', 'concept')),
    CONSTRAINT knowledge_accumulation_sources_check CHECK (jsonb_typeof(sources) = 'array'),
    CONSTRAINT knowledge_accumulation_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT knowledge_accumulation_verification_count_check CHECK (verification_count >= 1)
);
COMMENT ON TABLE knowledge_accumulation IS 'Facts, procedures and concepts gathered from conversations (U16). user_id NULL = shared by an operator.';
COMMENT ON COLUMN knowledge_accumulation.sources IS 'Where it was said: [{"conversation_id", "sequence_number"}, …].';

-- Each fact once per owner. By digest, because a fact may be longer than an index entry can be; user, type and subject stay readable.
CREATE UNIQUE INDEX knowledge_accumulation_user_id_type_subject_fact_key ON knowledge_accumulation (user_id, knowledge_type, subject, md5(fact)) NULLS NOT DISTINCT;

-- Which facts speak of these words?
CREATE INDEX idx_knowledge_accumulation_fact ON knowledge_accumulation USING gin (to_tsvector('english'::regconfig, left(fact, 250000)));
CREATE TRIGGER knowledge_accumulation_set_updated_at BEFORE UPDATE ON knowledge_accumulation FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U17. One row per figure and period: how the learning goes. Written by the learning job at the end of each period.
CREATE TABLE learning_statistics (
    id                  uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid,
    stat_type           varchar(50)   NOT NULL,
    stat_name           varchar(100)  NOT NULL,
    stat_value          numeric(20,6) NOT NULL,
    aggregation_period  varchar(20)   NOT NULL,
    period_start        timestamptz   NOT NULL,
    period_end          timestamptz   NOT NULL,
    created_at          timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT learning_statistics_aggregation_period_check
        CHECK (aggregation_period IN ('hourly', 'daily', 'weekly', 'all_time')),
    CONSTRAINT learning_statistics_user_type_name_period_start_key
        UNIQUE NULLS NOT DISTINCT (user_id, stat_type, stat_name, aggregation_period, period_start),
    CONSTRAINT learning_statistics_period_check CHECK (period_end > period_start)
);
COMMENT ON TABLE learning_statistics IS 'Figures about the learning itself, by period (U17). user_id NULL = over all users.';
COMMENT ON COLUMN learning_statistics.stat_name IS 'What was counted, with its unit last: patterns_found, avg_confidence, tokens_saved_per_day.';
COMMENT ON COLUMN learning_statistics.period_end IS 'Exclusive.';

-- How did the figures go in this period?
CREATE INDEX idx_learning_statistics_period ON learning_statistics (aggregation_period, period_start DESC);

-- get_top_patterns: the strongest patterns.
CREATE FUNCTION get_top_patterns(p_pattern_type varchar DEFAULT NULL, p_limit integer DEFAULT 20, p_min_confidence numeric DEFAULT 0)
RETURNS SETOF cross_session_patterns LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.cross_session_patterns
    WHERE (p_pattern_type IS NULL OR pattern_type = p_pattern_type) AND confidence >= p_min_confidence
    ORDER BY frequency DESC, confidence DESC, last_seen DESC, id LIMIT least(greatest(p_limit, 0), 1000)
$$;
COMMENT ON FUNCTION get_top_patterns(varchar, integer, numeric) IS 'The most frequent patterns one may see, of one type or all; at most 1,000.';

-- get_user_preferences_summary: all that is known of how a user likes answers, as one object.
CREATE FUNCTION get_user_preferences_summary(p_user_id uuid)
RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT coalesce(jsonb_object_agg(preference_type, jsonb_build_object('value', preference_value, 'confidence', confidence, 'frequency', frequency, 'updated_at', updated_at)), '{}')
    FROM public.user_preferences WHERE user_id = p_user_id
$$;
COMMENT ON FUNCTION get_user_preferences_summary(uuid) IS '{"response_format": {"value", "confidence", "frequency", "updated_at"}, …} of one user; {} when nothing is known.';

-- get_entity_cooccurrence_network: what goes with an entity, and what goes with that.
CREATE FUNCTION get_entity_cooccurrence_network(p_entity_id uuid, p_max_depth integer DEFAULT 1, p_min_count integer DEFAULT 1, p_limit integer DEFAULT 100)
RETURNS TABLE (depth integer, entity_id uuid, entity_name varchar, entity_type varchar, via_entity_id uuid, cooccurrence_count integer, confidence numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    WITH RECURSIVE edge AS (
        SELECT entity1_id AS a, entity2_id AS b, entity2_name AS b_name, entity2_type AS b_type, c.cooccurrence_count, c.confidence FROM public.entity_cooccurrences AS c WHERE c.cooccurrence_count >= p_min_count
        UNION ALL
        SELECT entity2_id, entity1_id, entity1_name, entity1_type, c.cooccurrence_count, c.confidence FROM public.entity_cooccurrences AS c WHERE c.cooccurrence_count >= p_min_count),
    walk AS (
        SELECT 1 AS depth, e.b, e.b_name, e.b_type, e.a, e.cooccurrence_count, e.confidence FROM edge AS e WHERE e.a = p_entity_id
        UNION
        SELECT w.depth + 1, e.b, e.b_name, e.b_type, e.a, e.cooccurrence_count, e.confidence
        FROM walk AS w JOIN edge AS e ON e.a = w.b WHERE w.depth < least(p_max_depth, 3) AND e.b <> p_entity_id),
    nearest AS (
        SELECT DISTINCT ON (w.b) w.* FROM walk AS w ORDER BY w.b, w.depth, w.cooccurrence_count DESC, w.a)
    SELECT n.depth, n.b, n.b_name, n.b_type, n.a, n.cooccurrence_count, n.confidence
    FROM nearest AS n ORDER BY n.depth, n.cooccurrence_count DESC, n.b LIMIT least(greatest(p_limit, 0), 1000)
$$;
COMMENT ON FUNCTION get_entity_cooccurrence_network(uuid, integer, integer, integer) IS 'Entities met together with one, each once at its nearest, to depth 1 to 3; at most 1,000.';

-- get_best_debate_strategies: what wins, where enough was tried to say so.
CREATE FUNCTION get_best_debate_strategies(p_position varchar DEFAULT NULL, p_min_attempts integer DEFAULT 3, p_limit integer DEFAULT 10)
RETURNS SETOF debate_strategy_success LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.debate_strategy_success
    WHERE (p_position IS NULL OR position = p_position) AND total_attempts >= greatest(p_min_attempts, 1)
    ORDER BY success_rate DESC, total_attempts DESC, id LIMIT least(greatest(p_limit, 0), 1000)
$$;
COMMENT ON FUNCTION get_best_debate_strategies(varchar, integer, integer) IS 'Strategies by success rate, for one position or all, with at least p_min_attempts (3) attempts.';

-- get_learning_progress: how much was learned, day by day.
CREATE FUNCTION get_learning_progress(p_days integer DEFAULT 30)
RETURNS TABLE (day date, new_patterns bigint, new_insights bigint, new_knowledge bigint, avg_pattern_confidence numeric, patterns_total bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    WITH days AS (
        SELECT d::date AS day FROM generate_series((now() AT TIME ZONE 'UTC')::date - (least(greatest(p_days, 1), 366) - 1), (now() AT TIME ZONE 'UTC')::date, interval '1 day') AS d),
    p AS (
        SELECT (first_seen AT TIME ZONE 'UTC')::date AS day, count(*) AS n, avg(confidence) AS confidence FROM public.cross_session_patterns GROUP BY 1),
    i AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM public.learned_insights GROUP BY 1),
    k AS (
        SELECT (first_seen AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM public.knowledge_accumulation GROUP BY 1)
    SELECT days.day, coalesce(p.n, 0), coalesce(i.n, 0), coalesce(k.n, 0), round(p.confidence, 4),
           (SELECT coalesce(sum(q.n), 0) FROM p AS q WHERE q.day <= days.day)::bigint
    FROM days LEFT JOIN p USING (day) LEFT JOIN i USING (day) LEFT JOIN k USING (day) ORDER BY days.day
$$;
COMMENT ON FUNCTION get_learning_progress(integer) IS 'Patterns, insights and knowledge found per day (UTC) over the last p_days, days without any included.';

-- ----------------------------------------------------------------------------------------------------
-- clickhouse analytics
-- ----------------------------------------------------------------------------------------------------

-- One row per analytics event on its way to ClickHouse. Written in the transaction of the fact; marked by the exporter. Exported months are dropped
-- after 30 days, unexported ones never.
CREATE TABLE clickhouse_analytics (
    id            uuid         PRIMARY KEY DEFAULT uuidv7(),
    event_type    varchar(100) NOT NULL,
    event_data    jsonb        NOT NULL,
    user_id       uuid,
    session_id    uuid,
    timestamp     timestamptz  NOT NULL DEFAULT now(),
    exported      boolean      NOT NULL DEFAULT false,
    exported_at   timestamptz,
    recorded_xid  xid8         NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT clickhouse_analytics_event_data_check CHECK (jsonb_typeof(event_data) = 'object'),
    CONSTRAINT clickhouse_analytics_exported_check CHECK (exported = (exported_at IS NOT NULL))
) PARTITION BY RANGE (id);

CREATE TABLE clickhouse_analytics_default PARTITION OF clickhouse_analytics DEFAULT;
COMMENT ON TABLE clickhouse_analytics IS 'Outbox of analytics events for ClickHouse: written with the fact, delivered at least once, dropped by id at the sink. Monthly partitions by id.';
COMMENT ON COLUMN clickhouse_analytics.event_type IS 'Name of the ClickHouse table the event belongs to: debate_metrics, conversation_metrics, provider_performance, llm_response_latency, …';
COMMENT ON COLUMN clickhouse_analytics.event_data IS 'The columns of that table, by name.';
COMMENT ON COLUMN clickhouse_analytics.exported IS 'Delivered and acknowledged. Set once, with exported_at, by the exporter.';
COMMENT ON COLUMN clickhouse_analytics.recorded_xid IS 'Transaction that wrote the row: the exporter takes rows below pg_snapshot_xmin(pg_current_snapshot()), so a late commit is never skipped.';

-- Which events wait for export, in the order they may be sent?
CREATE INDEX idx_clickhouse_analytics_pending ON clickhouse_analytics (recorded_xid, id) WHERE NOT exported;

-- Which events does this user own (erasure)?
CREATE INDEX idx_clickhouse_analytics_user_id ON clickhouse_analytics (user_id) WHERE user_id IS NOT NULL;

-- Which events came between these two times?
CREATE INDEX idx_clickhouse_analytics_timestamp ON clickhouse_analytics USING brin (timestamp);

-- Rows of one streamed answer: the first token, then one row per sampled chunk or per group of chunks, then the end. Written by the gateway's recorder
-- with the answer. Months are dropped after 30 days; the totals live on llm_responses (first_token_ms, chunk_count).
CREATE TABLE streaming_analytics (
    id             uuid         PRIMARY KEY DEFAULT uuidv7(),
    stream_id      varchar(255) NOT NULL,
    event_type     varchar(100) NOT NULL,
    chunk_number   integer      NOT NULL,
    latency_ms     bigint       NOT NULL,
    tokens_delta   integer      NOT NULL DEFAULT 0,
    chunks         integer      NOT NULL DEFAULT 1,
    max_gap_ms     bigint,
    request_id     uuid,
    provider_name  varchar(255),
    model_name     varchar(255),
    user_id        uuid,
    timestamp      timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT streaming_analytics_chunk_number_check CHECK (chunk_number >= 0),
    CONSTRAINT streaming_analytics_latency_ms_check CHECK (latency_ms >= 0),
    CONSTRAINT streaming_analytics_tokens_delta_check CHECK (tokens_delta >= 0),
    CONSTRAINT streaming_analytics_chunks_check CHECK (chunks >= 1),
    CONSTRAINT streaming_analytics_max_gap_ms_check CHECK (max_gap_ms >= 0),
    CONSTRAINT streaming_analytics_event_type_check CHECK (event_type IN ('first_token', 'chunk', 'completed', 'failed', 'cancelled'))
) PARTITION BY RANGE (id);

CREATE TABLE streaming_analytics_default PARTITION OF streaming_analytics DEFAULT;
COMMENT ON TABLE streaming_analytics IS 'Timing of streamed answers: first token, sampled or grouped chunks, end. Monthly partitions by id.';
COMMENT ON COLUMN streaming_analytics.stream_id IS 'Id of the answer (llm_responses.id as text): all rows of one stream share it.';
COMMENT ON COLUMN streaming_analytics.event_type IS 'first_token, chunk, completed, failed, cancelled.';
COMMENT ON COLUMN streaming_analytics.chunk_number IS 'Number of the last chunk this row covers; 0 before the first.';
COMMENT ON COLUMN streaming_analytics.latency_ms IS 'Since the row before it in the stream; for first_token since the request was sent; for the end row the whole stream.';
COMMENT ON COLUMN streaming_analytics.tokens_delta IS 'Tokens the covered chunks brought.';
COMMENT ON COLUMN streaming_analytics.chunks IS 'How many chunks this row covers: 1 = sampled, more = grouped.';
COMMENT ON COLUMN streaming_analytics.max_gap_ms IS 'Longest silence between two of the covered chunks.';
COMMENT ON COLUMN streaming_analytics.request_id IS 'Joins llm_requests; no FK because both are dropped by month.';

-- How did this stream go, chunk by chunk?
CREATE INDEX idx_streaming_analytics_stream_id ON streaming_analytics (stream_id, chunk_number);

-- Which rows does this user own (erasure)?
CREATE INDEX idx_streaming_analytics_user_id ON streaming_analytics (user_id) WHERE user_id IS NOT NULL;

-- Which rows came between these two times?
CREATE INDEX idx_streaming_analytics_timestamp ON streaming_analytics USING brin (timestamp);

-- One row per projection and source: how far it has read the change feed. Written by the projection in the transaction after the sink
-- acknowledged. Deleting a row rebuilds that projection from zero.
CREATE TABLE projection_checkpoints (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    projection        varchar(50)  NOT NULL,
    source_table      varchar(63)  NOT NULL,
    last_xid          xid8         NOT NULL DEFAULT '0',
    last_id           uuid,
    rows_delivered    bigint       NOT NULL DEFAULT 0,
    system_identifier bigint,
    status            varchar(20)  NOT NULL DEFAULT 'active',
    error_message     text,
    delivered_at      timestamptz,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT projection_checkpoints_projection_check CHECK (projection IN ('clickhouse', 'neo4j', 'qdrant')),
    CONSTRAINT projection_checkpoints_rows_delivered_check CHECK (rows_delivered >= 0),
    CONSTRAINT projection_checkpoints_status_check CHECK (status IN ('active', 'paused', 'rebuilding', 'failed')),
    CONSTRAINT projection_checkpoints_projection_source_table_key UNIQUE (projection, source_table)
);
COMMENT ON TABLE projection_checkpoints IS 'How far ClickHouse, Neo4j and Qdrant have read each table''s change feed.';
COMMENT ON COLUMN projection_checkpoints.last_xid IS 'recorded_xid of the last row delivered; with last_id the position in the feed.';
COMMENT ON COLUMN projection_checkpoints.system_identifier IS 'Database cluster the position belongs to (pg_control_system()). After a restore elsewhere it differs, and the projection is rebuilt.';
CREATE TRIGGER projection_checkpoints_set_updated_at BEFORE UPDATE ON projection_checkpoints FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ----------------------------------------------------------------------------------------------------
-- relationships
-- ----------------------------------------------------------------------------------------------------

-- -- bigdata -- conversations, distributed memory and learning ---------------------------------------------------------
-- Content goes with its user; a session that ends only lets go; stream timings are figures and only unlinked.
ALTER TABLE conversations ADD CONSTRAINT conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_snapshots ADD CONSTRAINT conversation_snapshots_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_compressions ADD CONSTRAINT conversation_compressions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_replay_stats ADD CONSTRAINT conversation_replay_stats_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_context_cache ADD CONSTRAINT conversation_context_cache_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_snapshots ADD CONSTRAINT memory_snapshots_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_conflicts ADD CONSTRAINT memory_conflicts_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_event_checkpoints ADD CONSTRAINT memory_event_checkpoints_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE crdt_versions ADD CONSTRAINT crdt_versions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE cross_session_patterns ADD CONSTRAINT cross_session_patterns_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE learned_insights ADD CONSTRAINT learned_insights_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE user_preferences ADD CONSTRAINT user_preferences_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE entity_cooccurrences ADD CONSTRAINT entity_cooccurrences_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_flow_patterns ADD CONSTRAINT conversation_flow_patterns_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE knowledge_accumulation ADD CONSTRAINT knowledge_accumulation_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE learning_statistics ADD CONSTRAINT learning_statistics_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversations ADD CONSTRAINT conversations_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_events ADD CONSTRAINT conversation_events_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_snapshots ADD CONSTRAINT conversation_snapshots_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_compressions ADD CONSTRAINT conversation_compressions_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_replay_stats ADD CONSTRAINT conversation_replay_stats_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_context_cache ADD CONSTRAINT conversation_context_cache_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversations ADD CONSTRAINT conversations_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE entity_cooccurrences ADD CONSTRAINT entity_cooccurrences_entity1_id_fkey FOREIGN KEY (entity1_id) REFERENCES memory_entities (id) ON DELETE CASCADE;
ALTER TABLE entity_cooccurrences ADD CONSTRAINT entity_cooccurrences_entity2_id_fkey FOREIGN KEY (entity2_id) REFERENCES memory_entities (id) ON DELETE CASCADE;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_embedding_config_id_fkey FOREIGN KEY (embedding_config_id) REFERENCES embedding_config (id);

-- Which vectors did this model make (FK)?
CREATE INDEX idx_distributed_memory_embedding_config_id ON distributed_memory (embedding_config_id) WHERE embedding_config_id IS NOT NULL;
ALTER TABLE clickhouse_analytics ADD CONSTRAINT clickhouse_analytics_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE streaming_analytics ADD CONSTRAINT streaming_analytics_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;

-- ----------------------------------------------------------------------------------------------------
-- indexes views
-- ----------------------------------------------------------------------------------------------------

-- How did each provider and model do in the last 24 hours? Refreshed every 5 minutes.
CREATE MATERIALIZED VIEW mv_provider_performance AS
SELECT r.provider_name, r.model_name,
       count(*) AS total_requests,
       count(*) FILTER (WHERE r.status = 'completed') AS successful_requests,
       count(*) FILTER (WHERE r.status <> 'completed') AS failed_requests,
       round(count(*) FILTER (WHERE r.status = 'completed')::numeric / count(*), 4) AS success_rate,
       round(avg(r.latency_ms), 1) AS avg_latency_ms,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p50_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p95_latency_ms,
       round(percentile_cont(0.99) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p99_latency_ms,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p50_first_token_ms,
       sum(r.tokens_prompt)::bigint AS tokens_prompt,
       sum(r.tokens_completion)::bigint AS tokens_completion,
       sum(r.tokens_total)::bigint AS total_tokens,
       sum(r.cost_usd) AS total_cost,
       round(avg(r.confidence), 4) AS avg_confidence,
       max(r.created_at) AS last_request_at
FROM llm_responses AS r
WHERE r.id >= uuid_floor(now() - interval '24 hours')
GROUP BY r.provider_name, r.model_name
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_provider_performance IS 'Per provider and model over the last 24 h: calls, failures, latency percentiles, tokens, cost. Every 5 minutes.';
COMMENT ON COLUMN mv_provider_performance.success_rate IS '0 to 1.';
COMMENT ON COLUMN mv_provider_performance.total_cost IS 'USD.';
CREATE UNIQUE INDEX mv_provider_performance_key ON mv_provider_performance (provider_name, model_name);

-- How are the MCP servers? Counted over the last hour. Refreshed every minute.
CREATE MATERIALIZED VIEW mv_mcp_server_health AS
SELECT s.id AS server_id, s.name, s.type, s.enabled, s.health_status,
       (SELECT count(*) FROM mcp_tools AS t WHERE t.server_id = s.id AND t.enabled) AS enabled_tools,
       count(m.id) AS operations,
       count(m.id) FILTER (WHERE m.status = 'success') AS successes,
       count(m.id) FILTER (WHERE m.status = 'error') AS errors,
       count(m.id) FILTER (WHERE m.status = 'timeout') AS timeouts,
       round(count(m.id) FILTER (WHERE m.status = 'success')::numeric / NULLIF(count(m.id), 0), 4) AS success_rate,
       round(avg(m.duration_ms), 1) AS avg_duration_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY m.duration_ms)::numeric, 1) AS p95_duration_ms,
       max(uuid_time(m.id)) AS last_operation_at
FROM mcp_servers AS s
LEFT JOIN protocol_metrics AS m ON m.protocol = 'mcp' AND m.server_id = s.id AND m.id >= uuid_floor(now() - interval '1 hour')
GROUP BY s.id
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_mcp_server_health IS 'Per MCP server over the last hour: operations, errors, timeouts, durations. Servers nobody used are listed with 0. Every minute.';
CREATE UNIQUE INDEX mv_mcp_server_health_key ON mv_mcp_server_health (server_id);

-- How many requests came in per hour, asked for which model? Over 7 days. Refreshed every 15 minutes.
CREATE MATERIALIZED VIEW mv_request_analytics_hourly AS
SELECT date_trunc('hour', q.created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, q.model_name, q.request_type,
       count(*) AS total_requests,
       count(*) FILTER (WHERE q.status = 'completed') AS completed_requests,
       count(*) FILTER (WHERE q.status = 'failed') AS failed_requests,
       count(*) FILTER (WHERE q.status IN ('pending', 'running')) AS open_requests,
       count(*) FILTER (WHERE q.stream) AS streamed_requests,
       count(*) FILTER (WHERE q.memory_enhanced) AS memory_enhanced_requests,
       count(DISTINCT q.user_id) AS unique_users,
       coalesce(sum(a.answers), 0)::bigint AS responses,
       coalesce(sum(a.tokens_total), 0)::bigint AS total_tokens,
       coalesce(sum(a.cost_usd), 0) AS total_cost,
       round(avg(a.latency_ms), 1) AS avg_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY a.latency_ms)::numeric, 1) AS p95_latency_ms
FROM llm_requests AS q
LEFT JOIN (
    SELECT r.request_id, count(*) AS answers, sum(r.tokens_total) AS tokens_total, sum(r.cost_usd) AS cost_usd, max(r.latency_ms) AS latency_ms
    FROM llm_responses AS r WHERE r.id >= uuid_floor(now() - interval '7 days') GROUP BY r.request_id) AS a ON a.request_id = q.id
WHERE q.id >= uuid_floor(now() - interval '7 days')
GROUP BY 1, 2, 3
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_request_analytics_hourly IS 'Requests per hour (UTC), model asked for and kind, over 7 days, with the tokens and cost of their answers. Every 15 minutes.';
COMMENT ON COLUMN mv_request_analytics_hourly.responses IS 'Answers to these requests: more than the requests where ensembles or retries asked several providers.';
COMMENT ON COLUMN mv_request_analytics_hourly.avg_latency_ms IS 'Of the slowest answer to each request.';
CREATE UNIQUE INDEX mv_request_analytics_hourly_key ON mv_request_analytics_hourly (hour, model_name, request_type);

-- How many sessions were opened per day, and how were they used? Over 30 days. Refreshed every hour.
CREATE MATERIALIZED VIEW mv_session_stats_daily AS
SELECT (s.created_at AT TIME ZONE 'UTC')::date AS day,
       count(*) AS total_sessions,
       count(*) FILTER (WHERE s.status = 'active' AND s.expires_at > now()) AS active_sessions,
       count(*) FILTER (WHERE s.status = 'revoked') AS revoked_sessions,
       count(DISTINCT s.user_id) AS unique_users,
       sum(s.request_count)::bigint AS total_requests,
       round(avg(s.request_count), 2) AS avg_requests_per_session,
       round(avg(extract(epoch FROM s.last_activity - s.created_at)), 1) AS avg_duration_s
FROM user_sessions AS s
WHERE s.created_at >= now() - interval '30 days'
GROUP BY 1
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_session_stats_daily IS 'Sessions by the day (UTC) they were opened, over 30 days. Every hour. Swept sessions are no longer counted.';
CREATE UNIQUE INDEX mv_session_stats_daily_key ON mv_session_stats_daily (day);

-- How does the queue do? Tasks made in the last 24 hours. Refreshed every 5 minutes.
CREATE MATERIALIZED VIEW mv_task_statistics AS
SELECT t.task_type, t.status, t.priority,
       count(*) AS task_count,
       round(avg(t.retry_count), 2) AS avg_retries,
       round(avg(extract(epoch FROM t.started_at - greatest(t.scheduled_at, t.created_at)) * 1000), 1) AS avg_wait_ms,
       round(avg(extract(epoch FROM t.completed_at - t.started_at) * 1000), 1) AS avg_run_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM t.completed_at - t.started_at) * 1000)::numeric, 1) AS p95_run_ms,
       min(t.created_at) AS oldest_at,
       max(t.created_at) AS newest_at
FROM background_tasks AS t
WHERE t.id >= uuid_floor(now() - interval '24 hours')
GROUP BY t.task_type, t.status, t.priority
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_task_statistics IS 'Tasks made in the last 24 h by type, state and priority: how many, waiting and running time. Every 5 minutes.';
CREATE UNIQUE INDEX mv_task_statistics_key ON mv_task_statistics (task_type, status, priority);

-- What can each model do, and how good is it? Refreshed every hour.
CREATE MATERIALIZED VIEW mv_model_capabilities AS
SELECT m.id AS model_id, p.name AS provider_name, p.enabled AS provider_enabled, p.health_status, m.model_name, m.is_active,
       m.context_window, m.max_tokens,
       m.supports_vision, m.supports_function_calling, m.supports_streaming, m.supports_json_mode, m.supports_image_generation, m.supports_audio,
       m.supports_code_generation, m.supports_reasoning,
       m.model_type, m.model_family, m.tags,
       price.input_cost_per_million, price.output_cost_per_million,
       m.benchmark_score, m.reliability_score,
       b.benchmark_count, b.avg_normalized_score, b.benchmarks
FROM llm_models AS m
JOIN llm_providers AS p ON p.id = m.provider_id
LEFT JOIN LATERAL (
    SELECT x.input_cost_per_million, x.output_cost_per_million FROM llm_pricing AS x
    WHERE x.model IN (m.model_name, p.name || '/' || m.model_name) AND x.effective_date <= now()
    ORDER BY (x.model = m.model_name), x.effective_date DESC LIMIT 1) AS price ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS benchmark_count, round(avg(k.normalized_score), 2) AS avg_normalized_score, jsonb_object_agg(k.benchmark_name, k.score) AS benchmarks
    FROM llm_benchmarks AS k WHERE k.model_id = m.id) AS b ON true
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_model_capabilities IS 'What each model can do, what it costs now and how it did in benchmarks. Every hour.';
COMMENT ON COLUMN mv_model_capabilities.model_id IS 'llm_models.id.';
COMMENT ON COLUMN mv_model_capabilities.input_cost_per_million IS 'USD per million input tokens valid at the refresh, from llm_pricing; NULL = no price known.';
CREATE UNIQUE INDEX mv_model_capabilities_key ON mv_model_capabilities (model_id);

-- How do the protocols do? Over the last 24 hours. Refreshed every 5 minutes.
CREATE MATERIALIZED VIEW mv_protocol_metrics_agg AS
SELECT m.protocol, coalesce(m.server_id::text, '') AS server_id, m.operation,
       count(*) AS operations,
       count(*) FILTER (WHERE m.status = 'success') AS successes,
       count(*) FILTER (WHERE m.status = 'error') AS errors,
       count(*) FILTER (WHERE m.status = 'timeout') AS timeouts,
       round(count(*) FILTER (WHERE m.status = 'success')::numeric / count(*), 4) AS success_rate,
       round(avg(m.duration_ms), 1) AS avg_duration_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY m.duration_ms)::numeric, 1) AS p95_duration_ms,
       max(uuid_time(m.id)) AS last_operation_at
FROM protocol_metrics AS m
WHERE m.id >= uuid_floor(now() - interval '24 hours')
GROUP BY 1, 2, 3
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_protocol_metrics_agg IS 'MCP, LSP, ACP and embedding operations over the last 24 h, by server and operation. Every 5 minutes.';
COMMENT ON COLUMN mv_protocol_metrics_agg.server_id IS 'Id of the server as text; empty where an operation had none.';
CREATE UNIQUE INDEX mv_protocol_metrics_agg_key ON mv_protocol_metrics_agg (protocol, server_id, operation);

-- Which conversations are alive? Events of the last 24 hours. Refreshed with refresh_streaming_analytics_views().
CREATE MATERIALIZED VIEW mv_recent_conversation_activity AS
SELECT e.conversation_id, c.user_id, c.status,
       count(*) AS event_count,
       count(*) FILTER (WHERE e.event_type = 'message.added') AS message_count,
       count(*) FILTER (WHERE e.event_type = 'context.compressed') AS compressions,
       count(*) FILTER (WHERE e.event_type = 'debate.started') AS debates_started,
       sum(e.entity_count)::bigint AS entity_count,
       sum(e.tokens)::bigint AS total_tokens,
       min(e.timestamp) AS first_event_at,
       max(e.timestamp) AS last_event_at,
       max(e.sequence_number) AS last_sequence
FROM conversation_events AS e
JOIN conversations AS c ON c.id = e.conversation_id
WHERE e.id >= uuid_floor(now() - interval '24 hours')
GROUP BY e.conversation_id, c.user_id, c.status
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_recent_conversation_activity IS 'Conversations with events in the last 24 h: how many, of what kind, how many tokens.';
CREATE UNIQUE INDEX mv_recent_conversation_activity_key ON mv_recent_conversation_activity (conversation_id);

-- How did each provider do over 7 days, next to its registry entry? Refreshed with refresh_streaming_analytics_views().
CREATE MATERIALIZED VIEW mv_provider_performance_summary AS
SELECT r.provider_name,
       max(p.health_status) AS health_status,
       max(p.verification_score) AS verification_score,
       count(*) AS total_requests,
       count(*) FILTER (WHERE r.status = 'completed') AS successful_requests,
       round(count(*) FILTER (WHERE r.status = 'completed')::numeric / count(*), 4) AS success_rate,
       count(DISTINCT r.model_name) AS models_used,
       round(avg(r.latency_ms), 1) AS avg_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.latency_ms)::numeric, 1) AS p95_latency_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p95_first_token_ms,
       sum(r.tokens_total)::bigint AS total_tokens,
       sum(r.cost_usd) AS total_cost,
       count(*) FILTER (WHERE r.selected AND r.confidence IS NOT NULL) AS ensemble_wins,
       round(avg(r.confidence), 4) AS avg_confidence,
       count(*) FILTER (WHERE r.cached) AS cached_answers
FROM llm_responses AS r
LEFT JOIN llm_providers AS p ON p.id = r.provider_id
WHERE r.id >= uuid_floor(now() - interval '7 days')
GROUP BY r.provider_name
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_provider_performance_summary IS 'Per provider over 7 days, with its health and measured score.';
COMMENT ON COLUMN mv_provider_performance_summary.ensemble_wins IS 'Selected answers that carried a confidence, so those an ensemble chose.';
CREATE UNIQUE INDEX mv_provider_performance_summary_key ON mv_provider_performance_summary (provider_name);

-- What happened per day, for ever? Refreshed every hour. Days already summed up come from llm_usage_daily (kept for ever), the newest of them and
-- later ones from the ledger itself; errors from the log and from the summary that outlives it. So nothing here changes when old rows are archived.
CREATE MATERIALIZED VIEW mv_daily_stats AS
WITH edge AS (
    SELECT coalesce(max(d.day), DATE '1970-01-01') AS day FROM llm_usage_daily AS d),
usage AS (
    SELECT d.day, d.call_count AS calls, d.user_id, d.model, d.provider_name, d.input_tokens, d.output_tokens, d.cost_usd
    FROM llm_usage_daily AS d WHERE d.day < (SELECT edge.day FROM edge)
    UNION ALL
    SELECT (u.timestamp AT TIME ZONE 'UTC')::date, 1, u.user_id, u.model, u.provider_name, u.input_tokens, u.output_tokens, u.cost_usd
    FROM llm_token_usage AS u WHERE u.timestamp >= (SELECT edge.day FROM edge)::timestamp AT TIME ZONE 'UTC'),
errors AS (
    SELECT x.day, sum(x.n) AS error_count FROM (
        SELECT s.date AS day, s.count AS n FROM error_log_summary AS s
        UNION ALL
        SELECT (l.created_at AT TIME ZONE 'UTC')::date, 1 FROM error_log AS l) AS x
    GROUP BY x.day),
days AS (
    SELECT u.day, sum(u.calls) AS total_calls, count(DISTINCT u.user_id) AS unique_users, count(DISTINCT u.model) AS models_used,
           count(DISTINCT u.provider_name) AS providers_used, sum(u.input_tokens) AS input_tokens, sum(u.output_tokens) AS output_tokens, sum(u.cost_usd) AS total_cost
    FROM usage AS u GROUP BY u.day)
SELECT coalesce(d.day, e.day) AS day,
       coalesce(d.total_calls, 0)::bigint AS total_calls,
       coalesce(d.unique_users, 0) AS unique_users,
       coalesce(d.models_used, 0) AS models_used,
       coalesce(d.providers_used, 0) AS providers_used,
       coalesce(d.input_tokens, 0)::bigint AS input_tokens,
       coalesce(d.output_tokens, 0)::bigint AS output_tokens,
       coalesce(d.input_tokens + d.output_tokens, 0)::bigint AS total_tokens,
       coalesce(d.total_cost, 0) AS total_cost,
       coalesce(e.error_count, 0)::bigint AS error_count
FROM days AS d FULL JOIN errors AS e ON e.day = d.day
WITH DATA;
COMMENT ON MATERIALIZED VIEW mv_daily_stats IS 'Calls, users, tokens, cost and errors per day (UTC), for ever: survives the archiving of requests, usage and errors. Every hour.';
COMMENT ON COLUMN mv_daily_stats.total_calls IS 'Answers of providers, so more than the requests where several were asked.';
COMMENT ON COLUMN mv_daily_stats.unique_users IS 'Users that still exist: erased ones can no longer be told apart.';
COMMENT ON COLUMN mv_daily_stats.total_cost IS 'USD, exact.';
CREATE UNIQUE INDEX mv_daily_stats_key ON mv_daily_stats (day);

-- One row per materialized view: how often it should be refreshed and how the last refresh went. Written by the functions below.
CREATE TABLE matview_refresh_state (
    view_name      varchar(63)  NOT NULL,
    refresh_every  interval     NOT NULL,
    is_critical    boolean      NOT NULL DEFAULT false,
    is_streaming   boolean      NOT NULL DEFAULT false,
    refreshed_at   timestamptz,
    duration_ms    numeric(14,3),
    error_message  text,
    refresh_count  bigint       NOT NULL DEFAULT 0,
    failure_count  bigint       NOT NULL DEFAULT 0,
    updated_at     timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT matview_refresh_state_pkey PRIMARY KEY (view_name),
    CONSTRAINT matview_refresh_state_refresh_every_check CHECK (refresh_every >= interval '1 minute'),
    CONSTRAINT matview_refresh_state_refresh_count_check CHECK (refresh_count >= 0),
    CONSTRAINT matview_refresh_state_failure_count_check CHECK (failure_count >= 0)
);
COMMENT ON TABLE matview_refresh_state IS 'How often each materialized view is refreshed, and how the last refresh went.';
COMMENT ON COLUMN matview_refresh_state.refresh_every IS 'Longest age the view should reach; the scheduler refreshes what is older.';
COMMENT ON COLUMN matview_refresh_state.is_critical IS 'Refreshed by refresh_critical_views(): what routing and health decisions look at.';
COMMENT ON COLUMN matview_refresh_state.is_streaming IS 'Refreshed by refresh_streaming_analytics_views().';
COMMENT ON COLUMN matview_refresh_state.refreshed_at IS 'Last success; NULL = never since it was made.';
COMMENT ON COLUMN matview_refresh_state.error_message IS 'Why the last try failed; NULL after a success.';
CREATE TRIGGER matview_refresh_state_set_updated_at BEFORE UPDATE ON matview_refresh_state FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();
INSERT INTO matview_refresh_state (view_name, refresh_every, is_critical, is_streaming) VALUES
    ('mv_mcp_server_health',            '1 minute',   true,  false),
    ('mv_provider_performance',         '5 minutes',  true,  false),
    ('mv_task_statistics',              '5 minutes',  true,  false),
    ('mv_protocol_metrics_agg',         '5 minutes',  false, false),
    ('mv_recent_conversation_activity', '5 minutes',  false, true),
    ('mv_request_analytics_hourly',     '15 minutes', false, false),
    ('mv_session_stats_daily',          '1 hour',     false, false),
    ('mv_model_capabilities',           '1 hour',     false, false),
    ('mv_provider_performance_summary', '1 hour',     false, true),
    ('mv_daily_stats',                  '1 hour',     false, false)
ON CONFLICT (view_name) DO NOTHING;

-- refresh_materialized_views: the one that does it. SECURITY DEFINER because only the owner may refresh; it takes names from
-- matview_refresh_state and nothing else, so a caller cannot make the owner run anything. A view that fails leaves the others alone.
CREATE FUNCTION refresh_materialized_views(p_view_names text[])
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v record;
    began timestamptz;
BEGIN
    FOR v IN
        SELECT s.view_name AS name, c.relispopulated
        FROM public.matview_refresh_state AS s
        JOIN pg_catalog.pg_class AS c ON c.relname = s.view_name AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'm'
        WHERE s.view_name = ANY (p_view_names) ORDER BY s.refresh_every, s.view_name
    LOOP
        began := clock_timestamp();
        view_name := v.name;
        BEGIN
            -- CONCURRENTLY needs a populated view: only after a restore without data is it not.
            EXECUTE format('REFRESH MATERIALIZED VIEW %s public.%I', CASE WHEN v.relispopulated THEN 'CONCURRENTLY' ELSE '' END, v.name);
            refreshed := true;
            error_message := NULL;
        EXCEPTION WHEN OTHERS THEN
            refreshed := false;
            error_message := SQLERRM;
        END;
        duration_ms := round((extract(epoch FROM clock_timestamp() - began) * 1000)::numeric, 3);
        UPDATE public.matview_refresh_state AS s
        SET refreshed_at = CASE WHEN refresh_materialized_views.refreshed THEN now() ELSE s.refreshed_at END,
            duration_ms = refresh_materialized_views.duration_ms,
            error_message = refresh_materialized_views.error_message,
            refresh_count = s.refresh_count + CASE WHEN refresh_materialized_views.refreshed THEN 1 ELSE 0 END,
            failure_count = s.failure_count + CASE WHEN refresh_materialized_views.refreshed THEN 0 ELSE 1 END
        WHERE s.view_name = v.name;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION refresh_materialized_views(text[]) IS 'Refreshes the named materialized views CONCURRENTLY, one row each: done or why not. Names that are not in matview_refresh_state are ignored.';

CREATE FUNCTION refresh_all_materialized_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s))
$$;
COMMENT ON FUNCTION refresh_all_materialized_views() IS 'Refreshes all materialized views CONCURRENTLY; one row each.';

CREATE FUNCTION refresh_critical_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s WHERE s.is_critical))
$$;
COMMENT ON FUNCTION refresh_critical_views() IS 'Refreshes what routing and health look at: provider performance, MCP health, task statistics.';

CREATE FUNCTION refresh_streaming_analytics_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s WHERE s.is_streaming))
$$;
COMMENT ON FUNCTION refresh_streaming_analytics_views() IS 'Refreshes mv_recent_conversation_activity and mv_provider_performance_summary.';

CREATE FUNCTION refresh_due_materialized_views()
RETURNS TABLE (view_name text, refreshed boolean, duration_ms numeric, error_message text)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.refresh_materialized_views((SELECT array_agg(s.view_name::text) FROM public.matview_refresh_state AS s
        WHERE s.refreshed_at IS NULL OR s.refreshed_at + s.refresh_every <= now()))
$$;
COMMENT ON FUNCTION refresh_due_materialized_views() IS 'Refreshes what is older than its refresh_every. The scheduler calls it every minute.';

-- get_materialized_view_stats: how big, how old. Rows are counted, not estimated.
CREATE FUNCTION get_materialized_view_stats()
RETURNS TABLE (view_name text, row_count bigint, size_bytes bigint, is_populated boolean, refreshed_at timestamptz, age interval, is_due boolean, last_duration_ms numeric, last_error text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public AS $$
#variable_conflict use_column
DECLARE
    v record;
BEGIN
    FOR v IN
        SELECT c.oid, c.relname, c.relispopulated, s.refreshed_at AS at, s.refresh_every, s.duration_ms AS took, s.error_message AS error
        FROM pg_catalog.pg_class AS c LEFT JOIN public.matview_refresh_state AS s ON s.view_name = c.relname
        WHERE c.relkind = 'm' AND c.relnamespace = 'public'::regnamespace ORDER BY c.relname
    LOOP
        row_count := 0;
        IF v.relispopulated THEN
            EXECUTE format('SELECT count(*) FROM public.%I', v.relname) INTO row_count;
        END IF;
        view_name := v.relname;
        size_bytes := pg_total_relation_size(v.oid);
        is_populated := v.relispopulated;
        refreshed_at := v.at;
        age := now() - v.at;
        is_due := v.at IS NULL OR v.at + v.refresh_every <= now();
        last_duration_ms := v.took;
        last_error := v.error;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION get_materialized_view_stats() IS 'Every materialized view of the schema: exact row count, size, age, whether a refresh is due and how the last one went.';

CREATE VIEW stream_timing WITH (security_invoker = true) AS
SELECT s.stream_id, max(s.user_id::text)::uuid AS user_id, max(s.request_id::text)::uuid AS request_id, max(s.provider_name) AS provider_name, max(s.model_name) AS model_name, min(s.timestamp) AS started_at,
       max(s.latency_ms) FILTER (WHERE s.event_type = 'first_token') AS time_to_first_token_ms,
       max(coalesce(s.max_gap_ms, s.latency_ms)) FILTER (WHERE s.event_type = 'chunk') AS longest_gap_ms,
       round(sum(s.latency_ms) FILTER (WHERE s.event_type = 'chunk')::numeric / NULLIF(sum(s.chunks) FILTER (WHERE s.event_type = 'chunk'), 0), 2) AS avg_gap_ms,
       max(s.chunk_number) AS chunks, sum(s.tokens_delta)::bigint AS tokens
FROM streaming_analytics AS s GROUP BY s.stream_id;
COMMENT ON VIEW stream_timing IS 'One row per stream: time to the first token, mean and longest silence between chunks, chunks and tokens.';

CREATE VIEW conversation_analytics WITH (security_invoker = true) AS
SELECT c.id AS conversation_id, c.user_id, c.session_id, c.status, c.created_at AS started_at, c.last_event_at,
       count(e.id) AS event_count,
       count(e.id) FILTER (WHERE e.event_type = 'message.added') AS message_count,
       count(e.id) FILTER (WHERE e.event_type = 'entity.extracted') AS entities_extracted,
       count(e.id) FILTER (WHERE e.event_type = 'debate.started') AS debate_rounds,
       count(e.id) FILTER (WHERE e.event_type = 'context.compressed') AS compressions,
       coalesce(sum(e.tokens), 0)::bigint AS total_tokens,
       round((extract(epoch FROM max(e.timestamp) - min(e.timestamp)) * 1000)::numeric / NULLIF(count(e.id) FILTER (WHERE e.event_type = 'message.added') - 1, 0), 1) AS avg_time_per_message_ms
FROM conversations AS c LEFT JOIN conversation_events AS e ON e.conversation_id = c.id GROUP BY c.id;
COMMENT ON VIEW conversation_analytics IS 'One row per conversation: events, messages, tokens, pace.';

-- ----------------------------------------------------------------------------------------------------
-- compatibility views
-- ----------------------------------------------------------------------------------------------------

CREATE VIEW memory_events WITH (security_invoker = true) AS
SELECT e.id, e.id AS event_id, e.event_type, e.node_id, e.memory_id, e.user_id, e.session_id, e.content, e.embedding, e.embedding_model, e.importance, e.tags, e.entities,
       e.relationships, e.version, e.vector_clock, e.hlc, e.merged_from, e.metadata, e.timestamp, e.redacted_at
FROM distributed_memory_events AS e;
COMMENT ON VIEW memory_events IS 'distributed_memory_events under the name of the Big Data documentation; event_id is the event''s own id.';

CREATE VIEW learned_patterns WITH (security_invoker = true) AS
SELECT c.id, c.user_id, c.pattern_type, c.pattern_key, c.description, c.frequency, c.confidence, c.examples, c.metadata, c.first_seen, c.last_seen
FROM cross_session_patterns AS c;
COMMENT ON VIEW learned_patterns IS 'cross_session_patterns under the name of the Big Data documentation.';

-- Partitions of last month, this one and the three ahead.
SELECT helix_create_partitions(1, 3);

-- ----------------------------------------------------------------------------------------------------
-- row-level security
-- ----------------------------------------------------------------------------------------------------

-- Tables without row-level security, each with its reason.
INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('debate_strategy_success', 'counts over all tenants; tenants read them, the learning job writes them'),
    ('memory_nodes',            'the nodes of the installation, no tenant data'),
    ('memory_sync_status',      'positions between nodes, no tenant data'),
    ('projection_checkpoints',  'positions of the projections, no tenant data'),
    ('matview_refresh_state',   'state of the materialized views, no tenant data');

-- conversations
ALTER TABLE conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversations FORCE ROW LEVEL SECURITY;
CREATE POLICY conversations_tenant ON conversations TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = conversations.project_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversations.session_id)));
CREATE POLICY conversations_operator ON conversations TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversations_readonly ON conversations FOR SELECT TO helix_readonly USING (true);

-- conversation_events
ALTER TABLE conversation_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_events FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_events_tenant ON conversation_events TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversation_events.session_id)));
CREATE POLICY conversation_events_operator ON conversation_events TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_events_readonly ON conversation_events FOR SELECT TO helix_readonly USING (true);

-- conversation_snapshots
ALTER TABLE conversation_snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_snapshots FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_snapshots_tenant ON conversation_snapshots TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (conversation_id IS NULL OR EXISTS (SELECT FROM conversations AS target WHERE target.id = conversation_snapshots.conversation_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversation_snapshots.session_id)));
CREATE POLICY conversation_snapshots_operator ON conversation_snapshots TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_snapshots_readonly ON conversation_snapshots FOR SELECT TO helix_readonly USING (true);

-- conversation_compressions
ALTER TABLE conversation_compressions ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_compressions FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_compressions_tenant ON conversation_compressions TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (context_snapshot IS NULL OR EXISTS (SELECT FROM conversation_snapshots AS target WHERE target.id = conversation_compressions.context_snapshot))
        AND (conversation_id IS NULL OR EXISTS (SELECT FROM conversations AS target WHERE target.id = conversation_compressions.conversation_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversation_compressions.session_id)));
CREATE POLICY conversation_compressions_operator ON conversation_compressions TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_compressions_readonly ON conversation_compressions FOR SELECT TO helix_readonly USING (true);

-- conversation_replay_stats
ALTER TABLE conversation_replay_stats ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_replay_stats FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_replay_stats_tenant ON conversation_replay_stats TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (conversation_id IS NULL OR EXISTS (SELECT FROM conversations AS target WHERE target.id = conversation_replay_stats.conversation_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversation_replay_stats.session_id))
        AND (snapshot_id IS NULL OR EXISTS (SELECT FROM conversation_snapshots AS target WHERE target.id = conversation_replay_stats.snapshot_id)));
CREATE POLICY conversation_replay_stats_operator ON conversation_replay_stats TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_replay_stats_readonly ON conversation_replay_stats FOR SELECT TO helix_readonly USING (true);

-- conversation_context_cache
ALTER TABLE conversation_context_cache ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_context_cache FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_context_cache_tenant ON conversation_context_cache TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (conversation_id IS NULL OR EXISTS (SELECT FROM conversations AS target WHERE target.id = conversation_context_cache.conversation_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = conversation_context_cache.session_id)));
CREATE POLICY conversation_context_cache_operator ON conversation_context_cache TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_context_cache_readonly ON conversation_context_cache FOR SELECT TO helix_readonly USING (true);

-- distributed_memory
ALTER TABLE distributed_memory ENABLE ROW LEVEL SECURITY;
ALTER TABLE distributed_memory FORCE ROW LEVEL SECURITY;
CREATE POLICY distributed_memory_tenant ON distributed_memory TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = distributed_memory.session_id)));
CREATE POLICY distributed_memory_operator ON distributed_memory TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY distributed_memory_readonly ON distributed_memory FOR SELECT TO helix_readonly USING (true);

-- distributed_memory_events
ALTER TABLE distributed_memory_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE distributed_memory_events FORCE ROW LEVEL SECURITY;
CREATE POLICY distributed_memory_events_tenant ON distributed_memory_events TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = distributed_memory_events.session_id)));
CREATE POLICY distributed_memory_events_operator ON distributed_memory_events TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY distributed_memory_events_readonly ON distributed_memory_events FOR SELECT TO helix_readonly USING (true);

-- memory_snapshots
ALTER TABLE memory_snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_snapshots FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_snapshots_tenant ON memory_snapshots TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY memory_snapshots_operator ON memory_snapshots TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_snapshots_readonly ON memory_snapshots FOR SELECT TO helix_readonly USING (true);

-- memory_conflicts
ALTER TABLE memory_conflicts ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_conflicts FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_conflicts_tenant ON memory_conflicts TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (memory_id IS NULL OR EXISTS (SELECT FROM distributed_memory AS target WHERE target.id = memory_conflicts.memory_id)));
CREATE POLICY memory_conflicts_operator ON memory_conflicts TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_conflicts_readonly ON memory_conflicts FOR SELECT TO helix_readonly USING (true);

-- memory_event_checkpoints
ALTER TABLE memory_event_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_event_checkpoints FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_event_checkpoints_tenant ON memory_event_checkpoints TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY memory_event_checkpoints_operator ON memory_event_checkpoints TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_event_checkpoints_readonly ON memory_event_checkpoints FOR SELECT TO helix_readonly USING (true);

-- crdt_versions
ALTER TABLE crdt_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE crdt_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY crdt_versions_tenant ON crdt_versions TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (memory_id IS NULL OR EXISTS (SELECT FROM distributed_memory AS target WHERE target.id = crdt_versions.memory_id)));
CREATE POLICY crdt_versions_operator ON crdt_versions TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY crdt_versions_readonly ON crdt_versions FOR SELECT TO helix_readonly USING (true);

-- cross_session_patterns
ALTER TABLE cross_session_patterns ENABLE ROW LEVEL SECURITY;
ALTER TABLE cross_session_patterns FORCE ROW LEVEL SECURITY;
CREATE POLICY cross_session_patterns_tenant ON cross_session_patterns TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY cross_session_patterns_shared ON cross_session_patterns FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL);
CREATE POLICY cross_session_patterns_operator ON cross_session_patterns TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY cross_session_patterns_readonly ON cross_session_patterns FOR SELECT TO helix_readonly USING (true);

-- learned_insights
ALTER TABLE learned_insights ENABLE ROW LEVEL SECURITY;
ALTER TABLE learned_insights FORCE ROW LEVEL SECURITY;
CREATE POLICY learned_insights_tenant ON learned_insights TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY learned_insights_shared ON learned_insights FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL);
CREATE POLICY learned_insights_operator ON learned_insights TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY learned_insights_readonly ON learned_insights FOR SELECT TO helix_readonly USING (true);

-- user_preferences
ALTER TABLE user_preferences ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_preferences FORCE ROW LEVEL SECURITY;
CREATE POLICY user_preferences_tenant ON user_preferences TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY user_preferences_operator ON user_preferences TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY user_preferences_readonly ON user_preferences FOR SELECT TO helix_readonly USING (true);

-- entity_cooccurrences
ALTER TABLE entity_cooccurrences ENABLE ROW LEVEL SECURITY;
ALTER TABLE entity_cooccurrences FORCE ROW LEVEL SECURITY;
CREATE POLICY entity_cooccurrences_tenant ON entity_cooccurrences TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (entity1_id IS NULL OR EXISTS (SELECT FROM memory_entities AS target WHERE target.id = entity_cooccurrences.entity1_id))
        AND (entity2_id IS NULL OR EXISTS (SELECT FROM memory_entities AS target WHERE target.id = entity_cooccurrences.entity2_id)));
CREATE POLICY entity_cooccurrences_operator ON entity_cooccurrences TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY entity_cooccurrences_readonly ON entity_cooccurrences FOR SELECT TO helix_readonly USING (true);

-- conversation_flow_patterns
ALTER TABLE conversation_flow_patterns ENABLE ROW LEVEL SECURITY;
ALTER TABLE conversation_flow_patterns FORCE ROW LEVEL SECURITY;
CREATE POLICY conversation_flow_patterns_tenant ON conversation_flow_patterns TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY conversation_flow_patterns_shared ON conversation_flow_patterns FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL);
CREATE POLICY conversation_flow_patterns_operator ON conversation_flow_patterns TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY conversation_flow_patterns_readonly ON conversation_flow_patterns FOR SELECT TO helix_readonly USING (true);

-- knowledge_accumulation
ALTER TABLE knowledge_accumulation ENABLE ROW LEVEL SECURITY;
ALTER TABLE knowledge_accumulation FORCE ROW LEVEL SECURITY;
CREATE POLICY knowledge_accumulation_tenant ON knowledge_accumulation TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY knowledge_accumulation_shared ON knowledge_accumulation FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL);
CREATE POLICY knowledge_accumulation_operator ON knowledge_accumulation TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY knowledge_accumulation_readonly ON knowledge_accumulation FOR SELECT TO helix_readonly USING (true);

-- learning_statistics
ALTER TABLE learning_statistics ENABLE ROW LEVEL SECURITY;
ALTER TABLE learning_statistics FORCE ROW LEVEL SECURITY;
CREATE POLICY learning_statistics_tenant ON learning_statistics TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY learning_statistics_shared ON learning_statistics FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL);
CREATE POLICY learning_statistics_operator ON learning_statistics TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY learning_statistics_readonly ON learning_statistics FOR SELECT TO helix_readonly USING (true);

-- clickhouse_analytics
ALTER TABLE clickhouse_analytics ENABLE ROW LEVEL SECURITY;
ALTER TABLE clickhouse_analytics FORCE ROW LEVEL SECURITY;
CREATE POLICY clickhouse_analytics_tenant ON clickhouse_analytics TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY clickhouse_analytics_operator ON clickhouse_analytics TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY clickhouse_analytics_readonly ON clickhouse_analytics FOR SELECT TO helix_readonly USING (true);

-- streaming_analytics
ALTER TABLE streaming_analytics ENABLE ROW LEVEL SECURITY;
ALTER TABLE streaming_analytics FORCE ROW LEVEL SECURITY;
CREATE POLICY streaming_analytics_tenant ON streaming_analytics TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY streaming_analytics_operator ON streaming_analytics TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY streaming_analytics_readonly ON streaming_analytics FOR SELECT TO helix_readonly USING (true);
CREATE POLICY streaming_analytics_recorder ON streaming_analytics TO helix_recorder USING (true) WITH CHECK (true);

-- ----------------------------------------------------------------------------------------------------
-- grants
-- ----------------------------------------------------------------------------------------------------

-- conversations. Events are only added; everything goes with its conversation.
GRANT SELECT, INSERT, UPDATE, DELETE ON conversations, conversation_context_cache TO helix_app, helix_operator;
GRANT SELECT, INSERT ON conversation_events, conversation_compressions TO helix_app, helix_operator;
GRANT SELECT, INSERT, DELETE ON conversation_snapshots, conversation_replay_stats TO helix_app, helix_operator;
GRANT SELECT
    ON 
    conversations, conversation_events, conversation_snapshots, conversation_compressions, conversation_replay_stats, conversation_context_cache TO helix_readonly;

-- distributed memory. Events are only added, and emptied when their memory is forgotten.
GRANT SELECT, INSERT, UPDATE ON distributed_memory, memory_conflicts, memory_event_checkpoints TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON distributed_memory, memory_conflicts, memory_event_checkpoints TO helix_operator;
GRANT SELECT, INSERT, UPDATE (content, embedding, embedding_model, tags, entities, relationships, removed, metadata, redacted_at)
    ON distributed_memory_events TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_snapshots, crdt_versions TO helix_app, helix_operator;
GRANT SELECT ON memory_nodes TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_nodes, memory_sync_status TO helix_operator;
GRANT SELECT
    ON 
    distributed_memory, distributed_memory_events, memory_snapshots, memory_conflicts, memory_event_checkpoints, memory_nodes,
    memory_sync_status TO helix_readonly;
GRANT SELECT (id, memory_id, user_id, node_id, version, vector_clock, crdt_type, crdt_state, created_at) ON crdt_versions TO helix_readonly;

-- learning
GRANT SELECT, INSERT, UPDATE, DELETE
    ON 
    cross_session_patterns, learned_insights, user_preferences, entity_cooccurrences, conversation_flow_patterns, knowledge_accumulation,
    learning_statistics TO helix_app, helix_operator;
GRANT SELECT ON debate_strategy_success TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON debate_strategy_success TO helix_operator;
GRANT SELECT
    ON 
    cross_session_patterns, learned_insights, user_preferences, entity_cooccurrences, conversation_flow_patterns, knowledge_accumulation,
    learning_statistics, debate_strategy_success TO helix_readonly;

-- analytics and projections
GRANT SELECT, INSERT ON clickhouse_analytics TO helix_app;
GRANT SELECT, INSERT, UPDATE (exported, exported_at), DELETE ON clickhouse_analytics TO helix_operator;
GRANT SELECT ON streaming_analytics TO helix_app;
GRANT SELECT, INSERT, DELETE ON streaming_analytics TO helix_operator;
GRANT INSERT ON streaming_analytics TO helix_recorder;
GRANT SELECT ON clickhouse_analytics, streaming_analytics, projection_checkpoints, matview_refresh_state TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON projection_checkpoints TO helix_operator;
GRANT SELECT, UPDATE (refresh_every, is_critical) ON matview_refresh_state TO helix_operator;

-- Materialized views hold all tenants' figures: not for helix_app.
GRANT SELECT
    ON 
    mv_provider_performance, mv_mcp_server_health, mv_request_analytics_hourly, mv_session_stats_daily, mv_task_statistics,
    mv_model_capabilities, mv_protocol_metrics_agg, mv_recent_conversation_activity, mv_provider_performance_summary, mv_daily_stats TO helix_operator, helix_readonly;

-- Views are security_invoker: what they show is what the reader may see beneath.
GRANT SELECT ON memory_events, learned_patterns, conversation_messages, stream_timing, conversation_analytics TO helix_app, helix_operator, helix_readonly;

-- Functions. All but one run with the rights of their caller, so what they reach is decided above. The one that does not, and those that only call it, are the operator's;
-- partitions are made by the owner of the tables alone.
REVOKE EXECUTE
    ON FUNCTION
    refresh_materialized_views(text[]), refresh_all_materialized_views(), refresh_critical_views(), refresh_streaming_analytics_views(),
    refresh_due_materialized_views() FROM PUBLIC;
GRANT EXECUTE
    ON FUNCTION
    refresh_materialized_views(text[]), refresh_all_materialized_views(), refresh_critical_views(), refresh_streaming_analytics_views(),
    refresh_due_materialized_views() TO helix_operator;
