-- The statements of conversations. Rows of a tenant are found by its user id as well as by row-level
-- security; `user_id` NULL is the operator, who sees all.

-- name: create_conversation
-- Make a conversation; nothing when the user has one of that external id. Index: conversations_user_id_external_id_key.
INSERT INTO conversations (user_id, project_id, external_id, title, metadata, session_id)
VALUES (:user_id, :project_id::uuid, :external_id::varchar, :title::varchar, :metadata::jsonb, :session_id::uuid)
ON CONFLICT ON CONSTRAINT conversations_user_id_external_id_key DO NOTHING
RETURNING id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at;

-- name: conversation_by_id
-- Index: conversations_pkey. Locks: none.
SELECT id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at
FROM conversations WHERE id = :id AND (:user_id::uuid IS NULL OR user_id = :user_id);

-- name: hold_conversation_by_id
-- The same, kept from being erased until the end of the transaction. Index: conversations_pkey. Locks: that row, shared.
SELECT id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at
FROM conversations WHERE id = :id AND user_id = :user_id FOR KEY SHARE;

-- name: hold_conversation_by_external_id
-- Index: conversations_user_id_external_id_key. Locks: that row, shared.
SELECT id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at
FROM conversations WHERE user_id = :user_id AND external_id = :external_id FOR KEY SHARE;

-- name: lock_conversation
-- The head, for writers: they queue up here. Index: conversations_pkey. Locks: that row.
SELECT id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at
FROM conversations WHERE id = :id AND (:user_id::uuid IS NULL OR user_id = :user_id) FOR NO KEY UPDATE;

-- name: list_conversations
-- A page, newest first; `before` is the last id of the page before. Index: idx_conversations_user_id. Locks: none.
SELECT id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at
FROM conversations
WHERE (:user_id::uuid IS NULL OR user_id = :user_id) AND (:before::uuid IS NULL OR id < :before)
  AND (:status::varchar IS NULL OR status = :status) AND (:project_id::uuid IS NULL OR project_id = :project_id)
ORDER BY id DESC LIMIT :max_count;

-- name: change_conversation
-- NULL leaves as it is. Index: conversations_pkey. Locks: that row.
UPDATE conversations
SET title = coalesce(:title::varchar, title), metadata = coalesce(:metadata::jsonb, metadata),
    status = coalesce(:status::varchar, status)
WHERE id = :id AND (:user_id::uuid IS NULL OR user_id = :user_id)
RETURNING id, user_id, session_id, project_id, external_id, title, status, last_sequence, last_event_at, metadata, created_at;

-- name: append_events
-- Append events in the order given; the trigger numbers them. Index: conversations_pkey. Locks: the head row.
INSERT INTO conversation_events (id, conversation_id, session_id, user_id, node_id, event_type, timestamp, event_data,
    message_id, entity_count, tokens, response_id, metadata)
SELECT e.id, :conversation_id, :session_id, :user_id, :node_id, e.event_type, clock_timestamp(), e.event_data::jsonb, e.message_id,
    e.entity_count, e.tokens, e.response_id, e.metadata::jsonb
FROM unnest(:ids::uuid[], :event_types::text[], :event_data::text[], :message_ids::text[], :entity_counts::integer[],
            :tokens::integer[], :response_ids::uuid[], :metadata::text[])
     WITH ORDINALITY AS e (id, event_type, event_data, message_id, entity_count, tokens, response_id, metadata, place)
ORDER BY e.place
RETURNING id, sequence_number, timestamp;

-- name: events_between
-- Index: conversation_events_conversation_id_sequence_number_key. Locks: none.
SELECT id, conversation_id, event_type, sequence_number, timestamp, event_data, message_id, tokens, response_id, metadata
FROM get_conversation_events_for_replay(:conversation_id, :from_sequence, :to_sequence)
ORDER BY sequence_number LIMIT :max_count;

-- name: sequence_at
-- The number of the last event at or before a moment; time never goes back within a conversation, so all
-- events up to it are. Index: conversation_events_conversation_id_sequence_number_key, read from the newest down to the moment.
SELECT sequence_number FROM conversation_events
WHERE conversation_id = :conversation_id AND timestamp <= :moment
ORDER BY sequence_number DESC LIMIT 1;

-- name: message_history
-- The events of one message. Index: conversation_events_message_id_idx. Locks: none.
SELECT id, conversation_id, event_type, sequence_number, timestamp, event_data, message_id, tokens, response_id, metadata
FROM conversation_events
WHERE conversation_id = :conversation_id AND message_id = :message_id
  AND event_type IN ('message.added', 'message.updated', 'message.deleted')
ORDER BY sequence_number;

-- name: messages_page
-- Messages as they stand now, oldest first, after a place. Index: conversation_events_conversation_id_sequence_number_key,
-- conversation_events_message_id_idx. Locks: none.
SELECT message_id, sequence_number, message, tokens, created_at, updated_at, response_id
FROM conversation_messages
WHERE conversation_id = :conversation_id AND sequence_number > :after
ORDER BY sequence_number LIMIT :max_count;

-- name: newest_messages
-- The newest messages as they stand now, newest first, for a context. Index: as messages_page. Locks: none.
SELECT message_id, sequence_number, message, tokens
FROM conversation_messages
WHERE conversation_id = :conversation_id AND role NOT IN ('system', 'developer')
ORDER BY sequence_number DESC LIMIT :max_count;

-- name: newest_digests
-- What the newest messages said, newest first, to compare a call with.
-- Index: conversation_events_conversation_id_sequence_number_key. Locks: none.
SELECT metadata ->> 'digest' AS digest, event_data ->> 'role' AS role
FROM conversation_events
WHERE conversation_id = :conversation_id AND event_type = 'message.added'
ORDER BY sequence_number DESC LIMIT :max_count;

-- name: newest_instructions
-- The newest system prompt's digest. Index: conversation_events_conversation_id_sequence_number_key. Locks: none.
SELECT metadata ->> 'digest' AS digest
FROM conversation_events
WHERE conversation_id = :conversation_id AND event_type = 'message.added' AND event_data ->> 'role' IN ('system', 'developer')
ORDER BY sequence_number DESC LIMIT :max_count;

-- name: known_entities
-- Which of these were named before? Index: conversation_events_entity_idx. Locks: none.
SELECT DISTINCT event_data ->> 'key' AS key FROM conversation_events
WHERE conversation_id = :conversation_id AND event_type = 'entity.extracted' AND event_data ->> 'key' = ANY (:keys::text[]);

-- name: nearest_snapshot
-- Where a replay to a point starts. Index: conversation_snapshots_conversation_id_sequence_number_type_key. Locks: none.
SELECT id, sequence_number, messages, entities, context FROM get_latest_snapshot(:conversation_id, :to_sequence);

-- name: snapshot_by_id
-- Index: conversation_snapshots_pkey. Locks: none.
SELECT id, sequence_number, snapshot_type, messages, entities, context FROM conversation_snapshots
WHERE id = :id AND conversation_id = :conversation_id;

-- name: list_snapshots
-- Newest first, without their states. Index: conversation_snapshots_conversation_id_sequence_number_type_key. Locks: none.
SELECT id, conversation_id, sequence_number, snapshot_type, message_count, entity_count, total_tokens, size_bytes, created_at
FROM conversation_snapshots WHERE conversation_id = :conversation_id
ORDER BY sequence_number DESC, id DESC LIMIT :max_count;

-- name: insert_snapshot
-- Nothing when there is one of that kind at that number. Index: conversation_snapshots_conversation_id_sequence_number_type_key.
INSERT INTO conversation_snapshots (id, conversation_id, user_id, session_id, sequence_number, snapshot_type, messages, entities, context,
    message_count, entity_count, total_tokens, size_bytes)
VALUES (:id, :conversation_id, :user_id, :session_id::uuid, :sequence_number, :snapshot_type, :messages, :entities, :context,
    :message_count, :entity_count, :total_tokens, :size_bytes)
ON CONFLICT ON CONSTRAINT conversation_snapshots_conversation_id_sequence_number_type_key DO NOTHING
RETURNING id, conversation_id, sequence_number, snapshot_type, message_count, entity_count, total_tokens, size_bytes, created_at;

-- name: growth
-- How much came since the newest snapshot and the newest compression. Index: as newest_digests, and that of the
-- snapshots and compressions. Locks: none.
SELECT base.sequence AS snapshot_sequence, base.size_bytes AS snapshot_bytes, since.events, since.bytes,
    (SELECT coalesce(sum(e.tokens), 0)::bigint FROM conversation_events AS e
     WHERE e.conversation_id = :conversation_id AND e.event_type = 'message.added' AND e.sequence_number > coalesce(
         (SELECT c.to_sequence FROM conversation_compressions AS c
          WHERE c.conversation_id = :conversation_id ORDER BY c.id DESC LIMIT 1), 0)) AS tokens
FROM (SELECT coalesce(max(s.sequence_number), 0) AS sequence, coalesce(max(s.size_bytes), 0) AS size_bytes
      FROM conversation_snapshots AS s
      WHERE s.conversation_id = :conversation_id AND s.snapshot_type <> 'compression') AS base
CROSS JOIN LATERAL (
    SELECT count(*) AS events, coalesce(sum(octet_length(e.event_data::text)), 0)::bigint AS bytes
    FROM conversation_events AS e
    WHERE e.conversation_id = :conversation_id AND e.sequence_number > base.sequence) AS since;

-- name: insert_compression
INSERT INTO conversation_compressions (id, conversation_id, user_id, session_id, compression_type, from_sequence, to_sequence,
    original_message_count, compressed_message_count, original_tokens, compressed_tokens, quality_score, summary_content,
    preserved_entities, key_topics, llm_model, response_id, compression_duration_ms, context_snapshot)
VALUES (:id, :conversation_id, :user_id, :session_id::uuid, :compression_type, :from_sequence, :to_sequence,
    :original_message_count, :compressed_message_count, :original_tokens, :compressed_tokens, :quality_score::double precision,
    :summary_content, :preserved_entities, :key_topics, :llm_model::varchar, :response_id::uuid, :compression_duration_ms, :context_snapshot)
RETURNING id, conversation_id, compression_type, from_sequence, to_sequence, original_message_count, compressed_message_count,
    original_tokens, compressed_tokens, compression_ratio, quality_score, summary_content, preserved_entities, key_topics, llm_model,
    response_id, compression_duration_ms, context_snapshot, created_at;

-- name: list_compressions
-- Newest first. Index: idx_conversation_compressions_conversation. Locks: none.
SELECT id, conversation_id, compression_type, from_sequence, to_sequence, original_message_count, compressed_message_count,
    original_tokens, compressed_tokens, compression_ratio, quality_score, summary_content, preserved_entities, key_topics, llm_model,
    response_id, compression_duration_ms, context_snapshot, created_at
FROM conversation_compressions
WHERE conversation_id = :conversation_id AND (:to_sequence::bigint IS NULL OR to_sequence <= :to_sequence)
ORDER BY id DESC LIMIT :max_count;

-- name: compression_by_id
-- Index: conversation_compressions_pkey. Locks: none.
SELECT id, to_sequence, summary_content, context_snapshot FROM conversation_compressions
WHERE id = :id AND conversation_id = :conversation_id;

-- name: newest_summary
-- Index: idx_conversation_compressions_conversation. Locks: none.
SELECT id, to_sequence, summary_content FROM conversation_compressions
WHERE conversation_id = :conversation_id AND summary_content <> '' ORDER BY id DESC LIMIT 1;

-- name: compression_stats
-- Index: idx_conversation_compressions_conversation. Locks: none.
SELECT compression_type, compressions, original_messages, compressed_messages, original_tokens, compressed_tokens, tokens_saved,
    compression_ratio, avg_quality_score, avg_duration_ms
FROM get_compression_stats(:conversation_id::uuid, :since::timestamptz);

-- name: conversation_summary
-- Index: conversation_events_conversation_id_sequence_number_key. Locks: none.
SELECT conversation_id, user_id, status, event_count, message_count, user_messages, assistant_messages, entity_count, debate_count,
    compression_count, total_tokens, last_sequence, latest_snapshot_sequence, started_at, last_event_at, duration_ms
FROM get_conversation_summary(:conversation_id);

-- name: insert_replay
INSERT INTO conversation_replay_stats (id, conversation_id, user_id, session_id, replay_type, snapshot_id, to_sequence, events_replayed,
    messages_replayed, replay_duration_ms, cache_hit, compression_applied, error_message)
VALUES (:id, :conversation_id, :user_id, :session_id::uuid, :replay_type, :snapshot_id::uuid, :to_sequence::bigint, :events_replayed,
    :messages_replayed, :replay_duration_ms, :cache_hit, :compression_applied, :error_message::text);

-- name: list_replays
-- Newest first. Index: idx_conversation_replay_stats_conversation. Locks: none.
SELECT id, replay_type, snapshot_id, to_sequence, events_replayed, messages_replayed, replay_duration_ms, cache_hit, compression_applied,
    error_message, created_at
FROM conversation_replay_stats WHERE conversation_id = :conversation_id ORDER BY id DESC LIMIT :max_count;

-- name: read_cache
-- Index: conversation_context_cache_pkey. Locks: none.
SELECT sequence_number, cached_context FROM conversation_context_cache
WHERE conversation_id = :conversation_id AND expires_at > now() AND sequence_number <= :to_sequence;

-- name: write_cache
-- Never an older state over a newer one. Index: conversation_context_cache_pkey. Locks: that row.
INSERT INTO conversation_context_cache AS cache (conversation_id, user_id, session_id, sequence_number, cached_context, message_count,
    entity_count, ttl, expires_at)
VALUES (:conversation_id, :user_id, :session_id::uuid, :sequence_number, :cached_context, :message_count, :entity_count, :ttl_s, now())
ON CONFLICT (conversation_id) DO UPDATE
SET sequence_number = EXCLUDED.sequence_number, cached_context = EXCLUDED.cached_context, message_count = EXCLUDED.message_count,
    entity_count = EXCLUDED.entity_count, ttl = EXCLUDED.ttl, last_accessed_at = now()
WHERE cache.sequence_number < EXCLUDED.sequence_number OR cache.expires_at <= now();

-- name: hold_session_of_user
-- A session of the caller's own that may still be used, kept from being deleted until the end of the transaction.
-- Index: user_sessions_pkey. Locks: that row, shared.
SELECT id FROM user_sessions
WHERE id = :id AND user_id = :user_id AND status = 'active' AND expires_at > now() FOR KEY SHARE;

-- name: open_session
INSERT INTO user_sessions (user_id, context, metadata, expires_at)
VALUES (:user_id, :context::jsonb, :metadata::jsonb, now() + make_interval(secs => :ttl_s))
RETURNING id;

-- name: link_session
-- Index: conversations_pkey. Locks: that row.
UPDATE conversations SET session_id = :session_id WHERE id = :id AND user_id = :user_id;

-- name: use_session
-- Count a call, and say where it went. Index: user_sessions_pkey. Locks: that row.
UPDATE user_sessions
SET request_count = request_count + 1, last_activity = greatest(last_activity, now()), context = context || :context::jsonb,
    memory_id = coalesce((SELECT m.id FROM memories AS m WHERE m.id = :memory_id::uuid), memory_id)
WHERE id = :id AND user_id = :user_id;

-- name: begin_turn
-- Harmless when repeated. Index: conversation_turns_pkey. Locks: none.
INSERT INTO conversation_turns (request_id, conversation_id, user_id, session_id, assembled)
VALUES (:request_id, :conversation_id, :user_id, :session_id, :assembled)
ON CONFLICT (request_id) DO NOTHING;

-- name: injected_into_turn
-- Index: conversation_turns_pkey. Locks: that row.
UPDATE conversation_turns SET injected = :injected, injected_tokens = :injected_tokens, tainted = :tainted
WHERE request_id = :request_id AND user_id = :user_id;

-- name: turn_to_record
-- The turn, for whoever records it; the second waits, and finds it recorded. Index: conversation_turns_pkey. Locks: that row.
SELECT request_id, conversation_id, user_id, session_id, assembled, injected
FROM conversation_turns WHERE request_id = :request_id AND recorded_at IS NULL FOR NO KEY UPDATE;

-- name: turn_is_recorded
-- Index: conversation_turns_pkey. Locks: that row.
UPDATE conversation_turns SET recorded_at = now(), events = :events, error = NULL WHERE request_id = :request_id;

-- name: turn_failed
-- Index: conversation_turns_pkey. Locks: that row.
UPDATE conversation_turns SET attempts = attempts + 1, error = :error WHERE request_id = :request_id AND recorded_at IS NULL;

-- name: turns_of
-- Newest first. Index: idx_conversation_turns_conversation. Locks: none.
SELECT request_id, session_id, assembled, injected, injected_tokens, tainted, events, attempts, error, recorded_at, created_at
FROM conversation_turns WHERE conversation_id = :conversation_id AND (:before::uuid IS NULL OR request_id < :before)
ORDER BY request_id DESC LIMIT :max_count;

-- name: open_turns
-- Turns whose call has ended but that are not recorded: their process died in between.
-- Index: idx_conversation_turns_open, llm_requests_pkey. Locks: none.
SELECT t.request_id, t.user_id FROM conversation_turns AS t JOIN llm_requests AS q ON q.id = t.request_id
WHERE t.recorded_at IS NULL AND t.attempts < :attempts_max AND q.completed_at < now() - make_interval(secs => :settled_s)
ORDER BY t.created_at LIMIT :max_count;

-- name: drop_refused_turns
-- Turns whose call never was: refused, or answered from a record. Index: idx_conversation_turns_open, llm_requests_pkey.
DELETE FROM conversation_turns AS t
WHERE t.recorded_at IS NULL AND t.created_at < now() - interval '1 day'
  AND NOT EXISTS (SELECT FROM llm_requests AS q WHERE q.id = t.request_id);

-- name: call_of
-- A call that has ended, as it was sent, with the answer that counts: the completed one, else the last that told anything.
-- Index: llm_requests_pkey, llm_request_bodies_pkey, idx_responses_request_id. Locks: none.
SELECT q.id, q.request_type, q.status, q.model_name, q.completed_at, b.request_body::text AS request_body, a.response_id, a.status AS answer_status,
    a.provider_name, a.answered_by, a.content, a.raw_response
FROM llm_requests AS q
LEFT JOIN llm_request_bodies AS b ON b.request_id = q.id
LEFT JOIN LATERAL (
    SELECT r.id AS response_id, r.status, r.provider_name, r.model_name AS answered_by, x.content, x.raw_response::text AS raw_response
    FROM llm_responses AS r LEFT JOIN llm_response_bodies AS x ON x.response_id = r.id AND x.request_id = r.request_id
    WHERE r.request_id = q.id AND (r.status = 'completed' OR x.content IS NOT NULL OR x.raw_response IS NOT NULL)
    ORDER BY (r.status = 'completed') DESC, r.attempt DESC, r.id DESC LIMIT 1) AS a ON true
WHERE q.id = :request_id AND q.completed_at IS NOT NULL;

-- name: requests_of_conversation
-- Index: idx_conversation_turns_conversation. Locks: none.
SELECT request_id FROM conversation_turns WHERE conversation_id = :conversation_id;

-- name: bury_texts
-- Texts of archived calls stay away as well: no archive brings them back. Index: archive_tombstones_pkey. Locks: new rows.
INSERT INTO archive_tombstones (request_id, user_id) SELECT r.id, :user_id FROM unnest(:request_ids::uuid[]) AS r (id)
ON CONFLICT (request_id) DO NOTHING;

-- name: conversations_of_user
-- Some of a user's conversations. Index: conversations_user_id_idx or its like. Locks: none.
SELECT id FROM conversations WHERE user_id = :user_id ORDER BY id LIMIT :max_count;

-- name: conversations_behind
-- A user's conversations among some ids, and those in whose calls some answers were given. Index: conversations_pkey,
-- llm_responses_pkey, conversation_turns_pkey. Locks: none.
SELECT c.id FROM conversations AS c WHERE c.id = ANY (:ids::uuid[]) AND c.user_id = :user_id
UNION
SELECT t.conversation_id FROM llm_responses AS r
JOIN conversation_turns AS t ON t.request_id = r.request_id JOIN conversations AS c ON c.id = t.conversation_id
WHERE r.id = ANY (:response_ids::uuid[]) AND c.user_id = :user_id;

-- name: erase_request_texts
-- Index: llm_request_bodies_pkey. Locks: those rows.
DELETE FROM llm_request_bodies WHERE request_id = ANY (:request_ids::uuid[]) AND user_id = :user_id;

-- name: erase_response_texts
-- Index: idx_responses_request_id, llm_response_bodies_pkey. Locks: those rows.
DELETE FROM llm_response_bodies AS b USING llm_responses AS r
WHERE r.request_id = ANY (:request_ids::uuid[]) AND b.response_id = r.id AND b.user_id = :user_id;

-- name: delete_conversation
-- Events, snapshots, compressions, statistics, turns and cache go with it. Index: conversations_pkey. Locks: that row.
DELETE FROM conversations WHERE id = :id AND user_id = :user_id;
