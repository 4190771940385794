-- Statements of replication. They run as helix_operator, over all tenants, unless they say otherwise.

-- name: own_node
-- Who is this node? Index: memory_nodes_self_key.
SELECT node_id FROM memory_nodes WHERE is_self;

-- name: lock_nodes
-- Two servers that start at once agree on one name. Locks: the table against other writers, until the transaction ends.
LOCK TABLE memory_nodes IN SHARE ROW EXCLUSIVE MODE;

-- name: resign_self
-- The node has another name now; what it was called stays known.
UPDATE memory_nodes SET is_self = false, status = 'inactive' WHERE is_self AND node_id <> :node_id;

-- name: put_self
-- Say who this node is. Index: memory_nodes_node_id_key.
INSERT INTO memory_nodes (node_id, node_type, is_self, last_heartbeat) VALUES (:node_id, 'primary', true, :now)
ON CONFLICT (node_id) DO UPDATE SET is_self = true, status = 'active', last_heartbeat = :now;

-- name: heartbeat
-- This node lives; what it has told and taken over. Index: memory_nodes_self_key.
UPDATE memory_nodes SET last_heartbeat = :now, status = 'active' WHERE is_self;

-- name: count_own
-- Add to this node's counters. Index: memory_nodes_self_key. Locks: its row.
UPDATE memory_nodes SET events_consumed = events_consumed + :consumed, conflicts_resolved = conflicts_resolved + :resolved WHERE is_self;

-- name: put_node
-- What is known of another node after it answered, or asked. Index: memory_nodes_node_id_key.
INSERT INTO memory_nodes AS n (node_id, node_type, status, last_heartbeat, sync_lag_ms, events_published, events_consumed)
VALUES (:node_id, 'replica', :status, :now, :lag_ms, :published, :consumed)
ON CONFLICT (node_id) DO UPDATE
SET status = excluded.status, last_heartbeat = excluded.last_heartbeat, sync_lag_ms = excluded.sync_lag_ms,
    events_published = n.events_published + excluded.events_published, events_consumed = n.events_consumed + excluded.events_consumed
WHERE NOT n.is_self;

-- name: mark_node
-- A node did not answer, or refused. Index: memory_nodes_node_id_key.
UPDATE memory_nodes SET status = :status WHERE node_id = :node_id AND NOT is_self;

-- name: nodes
-- Every node, this one first, with how far each has read from this one and this one from it.
SELECT n.node_id, n.node_type, n.is_self, n.status, n.last_heartbeat, n.sync_lag_ms, n.events_published, n.events_consumed, n.conflicts_resolved,
       p.name, p.url, i.status AS reading, i.sync_lag_ms AS reading_lag_ms, i.last_synced_at, i.error_message, o.pending_events, o.last_synced_at AS read_by_at
FROM memory_nodes AS n LEFT JOIN memory_peers AS p ON p.node_id = n.node_id
LEFT JOIN memory_nodes AS s ON s.is_self
LEFT JOIN memory_sync_status AS i ON i.source_node_id = n.node_id AND i.target_node_id = s.node_id
LEFT JOIN memory_sync_status AS o ON o.source_node_id = s.node_id AND o.target_node_id = n.node_id
ORDER BY NOT n.is_self, n.node_id LIMIT 1000;

-- name: unmet_peers
-- Peers that have never answered.
SELECT name, url, created_at FROM memory_peers WHERE node_id IS NULL ORDER BY name;

-- name: sync_error_of
-- Index: memory_sync_status_source_node_id_target_node_id_key.
SELECT error_message FROM memory_sync_status WHERE source_node_id = :source AND target_node_id = :target;

-- name: insert_peer
-- Index: memory_peers_name_key.
INSERT INTO memory_peers (id, name, url, credentials, key_id) VALUES (:id, :name, :url, :credentials, :key_id)
ON CONFLICT (name) DO NOTHING RETURNING id;

-- name: delete_peer
-- Index: memory_peers_name_key.
DELETE FROM memory_peers WHERE name = :name RETURNING id, node_id;

-- name: peers
SELECT id, name, url, credentials, node_id FROM memory_peers ORDER BY name;

-- name: meet_peer
-- A peer has said who it is. Index: memory_peers_pkey.
UPDATE memory_peers SET node_id = :node_id WHERE id = :id AND node_id IS DISTINCT FROM :node_id;

-- name: feed_name
-- Which database the feed is of, and where it ends now: transaction numbers mean nothing in another, nor after going back in time.
SELECT to_hex(c.system_identifier) || '.' || to_hex(k.timeline_id) || '.' || to_hex((SELECT d.oid::bigint FROM pg_database AS d WHERE d.datname = current_database())) AS feed,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS ends
FROM pg_control_system() AS c CROSS JOIN pg_control_checkpoint() AS k;

-- name: feed
-- Events after a position that nothing can come before any more, but for those of the asking node. Index: idx_distributed_memory_events_feed.
SELECT e.*, e.recorded_xid::text::bigint AS xact, u.email, u.name
FROM get_events_since(:xact::text::xid8, :event_id::uuid, :not_from, NULL, :max_count) AS e JOIN users AS u ON u.id = e.user_id
ORDER BY e.recorded_xid, e.id;

-- name: events_of
-- All events of some memories, in the order of the fold. Index: idx_distributed_memory_events_memory_id.
SELECT e.* FROM distributed_memory_events AS e WHERE e.memory_id = ANY(:ids::uuid[]) ORDER BY e.memory_id, e.hlc, e.node_id COLLATE "C", e.id;

-- name: known_events
-- Which of these events are here? Index: the key.
SELECT id FROM distributed_memory_events WHERE id = ANY(:ids::uuid[]);

-- name: put_position
-- How far one node has read what another wrote. Index: memory_sync_status_source_node_id_target_node_id_key.
INSERT INTO memory_sync_status AS s (source_node_id, target_node_id, status, feed, last_recorded_xid, last_event_id, pending_events, sync_lag_ms, last_synced_at)
VALUES (:source, :target, :status, :feed, :xact::text::xid8, :event_id, :pending, :lag_ms, :now)
ON CONFLICT (source_node_id, target_node_id) DO UPDATE
SET status = excluded.status, feed = excluded.feed, last_recorded_xid = excluded.last_recorded_xid, last_event_id = excluded.last_event_id,
    pending_events = excluded.pending_events, sync_lag_ms = excluded.sync_lag_ms, last_synced_at = excluded.last_synced_at, error_message = NULL;

-- name: put_sync_error
-- Reading from a node failed; the position stays.
INSERT INTO memory_sync_status (source_node_id, target_node_id, status, error_message) VALUES (:source, :target, 'failed', :error)
ON CONFLICT (source_node_id, target_node_id) DO UPDATE SET status = 'failed', error_message = excluded.error_message;

-- name: position
-- Index: memory_sync_status_source_node_id_target_node_id_key.
SELECT feed, last_recorded_xid::text::bigint AS xact, last_event_id FROM memory_sync_status WHERE source_node_id = :source AND target_node_id = :target;

-- name: mark_replicated
-- A node has read up to a position: memories whose newest event lies in the stretch it read are there now as they are here.
-- Index: idx_distributed_memory_events_feed, idx_distributed_memory_events_memory_id. Locks: those memories' states.
WITH stretch AS (
    SELECT DISTINCT e.memory_id FROM distributed_memory_events AS e
    WHERE (e.recorded_xid, e.id) > (:from_xact::text::xid8, :from_id::uuid) AND (e.recorded_xid, e.id) <= (:xact::text::xid8, :event_id::uuid)
), settled AS (
    SELECT d.id FROM distributed_memory AS d JOIN stretch AS s ON s.memory_id = d.id
    WHERE NOT d.replicated_to ? :node_id
      AND NOT EXISTS (SELECT FROM distributed_memory_events AS l WHERE l.memory_id = d.id AND (l.recorded_xid, l.id) > (:xact::text::xid8, :event_id::uuid))
    ORDER BY d.id FOR UPDATE OF d)
UPDATE distributed_memory AS d SET replicated_to = d.replicated_to || to_jsonb(:node_id::text) FROM settled AS s WHERE s.id = d.id;

-- name: pending
-- How many events a node has not read yet, counted up to a limit. Index: idx_distributed_memory_events_feed.
SELECT count(*) AS pending FROM (
    SELECT FROM distributed_memory_events AS e
    WHERE (e.recorded_xid, e.id) > (:xact::text::xid8, :event_id::uuid) AND e.node_id <> :node_id LIMIT 10000) AS counted;

-- name: local_users
-- The accounts here by these ids and addresses. Index: users_pkey, users_email_key.
SELECT id, email, status FROM users WHERE id = ANY(:ids::uuid[]) OR email = ANY(:emails::text[]);

-- name: insert_user
-- An account that so far only another node knows; nobody can log in to it until it gets a password. Index: users_pkey, users_email_key.
INSERT INTO users (id, email, name, password_hash) VALUES (:id, :email, :name, '!') ON CONFLICT DO NOTHING;

-- name: replicating
-- What follows in this transaction is the merge of events and no change of its own.
SELECT set_config('helix.replicating', 'on', true);

-- name: recording
-- What follows is a change of this node again.
SELECT set_config('helix.replicating', 'off', true);

-- name: lock_memories
-- Locks: those memories, in the order of ids, as changes of them do first.
SELECT id FROM memories WHERE id = ANY(:ids::uuid[]) ORDER BY id FOR UPDATE;

-- name: put_states
-- A state for memories of which the first event has just arrived; what it says comes with the merge. Index: the key.
INSERT INTO distributed_memory (id, shard_key, user_id, content, version, node_id)
SELECT g.id, left(md5(g.user_id::text), 2), g.user_id, '', 1, :node_id FROM unnest(:ids::uuid[], :user_ids::uuid[]) AS g (id, user_id) ORDER BY g.id
ON CONFLICT (id) DO NOTHING;

-- name: lock_states
-- The states of memories. Locks: them, in the order of ids.
SELECT id, user_id, content, access_count, deleted_at FROM distributed_memory WHERE id = ANY(:ids::uuid[]) ORDER BY id FOR UPDATE;

-- name: insert_events
-- Keep events that arrived. One that is here already is left alone.
INSERT INTO distributed_memory_events (id, event_type, node_id, memory_id, user_id, content, importance, tags, entities, relationships, removed, metadata,
    fields, access_delta, access_total, version, vector_clock, hlc, merged_from, timestamp, redacted_at)
SELECT g.id, g.event_type, g.node_id, g.memory_id, g.user_id, g.content, g.importance, g.tags, g.entities, g.relationships, g.removed, g.metadata,
       g.fields, g.access_delta, g.access_total, g.version, g.vector_clock, g.hlc, g.merged_from, g.timestamp, CASE WHEN g.redacted THEN :now::timestamptz END
FROM jsonb_to_recordset(:events::jsonb) AS g (
    id uuid, event_type text, node_id text, memory_id uuid, user_id uuid, content text, importance numeric, tags jsonb, entities jsonb, relationships jsonb,
    removed jsonb, metadata jsonb, fields jsonb, access_delta integer, access_total bigint, version bigint, vector_clock jsonb, hlc bigint, merged_from jsonb,
    timestamp timestamptz, redacted boolean)
ON CONFLICT (id) DO NOTHING;

-- name: update_states
-- Write the states that a merge gave. Index: the key. Locks: their rows, held already.
UPDATE distributed_memory AS d
SET content = g.content, embedding = CASE WHEN d.content = g.content THEN d.embedding END,
    embedding_config_id = CASE WHEN d.content = g.content THEN d.embedding_config_id END,
    importance = g.importance, tags = g.tags, entities = g.entities, relationships = g.relationships, metadata = g.metadata, fields = g.fields,
    session_id = (SELECT s.id FROM user_sessions AS s WHERE s.id = (g.fields ->> 'session_id')::uuid AND s.user_id = d.user_id),
    access_count = g.access_count, version = g.version, vector_clock = g.vector_clock, hlc = g.hlc, hlc_seen = g.hlc_seen, node_id = g.node_id, replicated_to = '[]'
FROM jsonb_to_recordset(:states::jsonb) AS g (
    id uuid, content text, importance numeric, tags jsonb, entities jsonb, relationships jsonb, metadata jsonb, fields jsonb, access_count bigint,
    version bigint, vector_clock jsonb, hlc bigint, hlc_seen bigint, node_id text)
WHERE d.id = g.id AND d.deleted_at IS NULL;

-- name: update_clocks
-- What tombstones know of each node. Index: the key.
UPDATE distributed_memory AS d SET vector_clock = g.vector_clock, version = g.version, hlc_seen = g.hlc_seen, replicated_to = '[]'
FROM jsonb_to_recordset(:clocks::jsonb) AS g (id uuid, vector_clock jsonb, version bigint, hlc_seen bigint) WHERE d.id = g.id;

-- name: put_versions
-- Keep the merge states of memories that several nodes wrote, so that the next merge begins there. Index: crdt_versions_memory_id_node_id_version_key.
WITH given AS (
    SELECT g.id, g.version, g.vector_clock, g.state, g.hash FROM jsonb_to_recordset(:states::jsonb) AS g (
        id uuid, version bigint, vector_clock jsonb, state jsonb, hash text)
), gone AS (
    DELETE FROM crdt_versions AS c USING given AS g WHERE c.memory_id = g.id AND c.node_id = :node_id AND c.version <> g.version)
INSERT INTO crdt_versions AS c (memory_id, user_id, node_id, version, vector_clock, crdt_type, crdt_state, content_hash)
SELECT g.id, d.user_id, :node_id, g.version, g.vector_clock, 'merge_all', g.state, decode(g.hash, 'hex') FROM given AS g JOIN distributed_memory AS d ON d.id = g.id
ON CONFLICT (memory_id, node_id, version) DO UPDATE SET vector_clock = excluded.vector_clock, crdt_state = excluded.crdt_state, content_hash = excluded.content_hash;

-- name: versions
-- The merge states kept for memories. Index: crdt_versions_memory_id_node_id_version_key.
SELECT memory_id, crdt_state FROM crdt_versions WHERE memory_id = ANY(:ids::uuid[]) AND node_id = :node_id;

-- name: merged_into_these
-- Living memories here that were merged into these. Index: memories_merged_into_idx.
WITH RECURSIVE family AS (
    SELECT m.id, m.user_id FROM memories AS m WHERE m.merged_into = ANY(:ids::uuid[])
    UNION
    SELECT m.id, m.user_id FROM memories AS m JOIN family AS f ON m.merged_into = f.id)
SELECT f.id FROM family AS f WHERE f.id <> ALL(:ids::uuid[]);

-- name: bury
-- Make tombstones of states (see memory_bury); with a node it is that node's doing.
SELECT memory_bury(:ids::uuid[], :node_id);

-- name: erase
-- Erase memories with all that is derived from them (see forget_memories).
SELECT count(*) FROM forget_memories(:user_id::uuid, :ids::uuid[]);

-- name: put_tombstones
-- Also what never was here stays forgotten. Index: memory_tombstones_pkey.
INSERT INTO memory_tombstones (memory_id, user_id) SELECT d.id, d.user_id FROM distributed_memory AS d WHERE d.id = ANY(:ids::uuid[])
ON CONFLICT (memory_id) DO NOTHING;

-- name: tombstoned
-- Which of these memories were forgotten here before anything of them was told? Index: memory_tombstones_pkey.
SELECT memory_id FROM memory_tombstones WHERE memory_id = ANY(:ids::uuid[]);

-- name: twins
-- Other memories of the same users that are served and say exactly what these say. Index: memories_user_id_content_hash_key.
SELECT g.id, m.id AS twin FROM unnest(:ids::uuid[], :user_ids::uuid[], :contents::text[]) AS g (id, user_id, content)
JOIN memories AS m ON m.user_id = g.user_id AND m.content_hash = helix_sha256(g.content) AND m.deleted_at IS NULL AND m.id <> g.id;

-- name: unserve
-- A memory stands back behind another that says exactly the same, or says it no more; its state and events stay. Index: memories_pkey.
DELETE FROM memories WHERE id = ANY(:ids::uuid[]) RETURNING id, user_id, content;

-- name: serve
-- Bring memories into line with their states; uses counted here and not told yet are kept. Index: memories_pkey.
INSERT INTO memories AS m (id, user_id, session_id, project_id, agent_id, content, memory_type, entities, relationships, speaker, confidence, importance,
    access_count, source_response_id, conversation_id, valid_from, valid_to, tags, metadata, created_at)
SELECT d.id, d.user_id, d.session_id, (SELECT p.id FROM projects AS p WHERE p.id = (d.fields ->> 'project_id')::uuid AND p.user_id = d.user_id),
       d.fields ->> 'agent_id', d.content, coalesce(d.fields ->> 'memory_type', 'fact'), d.entities, d.relationships, d.fields ->> 'speaker',
       coalesce((d.fields ->> 'confidence')::numeric, 0.8), d.importance, least(d.access_count, 2147483647), (d.fields ->> 'source_response_id')::uuid,
       (d.fields ->> 'conversation_id')::uuid, v.valid_from,
       CASE WHEN (d.fields ->> 'valid_to')::timestamptz >= v.valid_from THEN (d.fields ->> 'valid_to')::timestamptz END,
       ARRAY(SELECT jsonb_array_elements_text(d.tags)), d.metadata, coalesce((d.fields ->> 'created_at')::timestamptz, now())
FROM unnest(:ids::uuid[]) AS g (id) JOIN distributed_memory AS d ON d.id = g.id AND d.deleted_at IS NULL
CROSS JOIN LATERAL (SELECT coalesce((d.fields ->> 'valid_from')::timestamptz, d.created_at) AS valid_from) AS v
ORDER BY d.id
ON CONFLICT (id) DO UPDATE
SET session_id = coalesce(excluded.session_id, m.session_id), project_id = coalesce(excluded.project_id, m.project_id), agent_id = excluded.agent_id,
    content = excluded.content, memory_type = excluded.memory_type, entities = excluded.entities, relationships = excluded.relationships,
    speaker = excluded.speaker, confidence = excluded.confidence, importance = excluded.importance, source_response_id = excluded.source_response_id,
    conversation_id = excluded.conversation_id, valid_from = excluded.valid_from, valid_to = excluded.valid_to, tags = excluded.tags, metadata = excluded.metadata;

-- name: add_uses
-- Uses that other nodes told of. Index: memories_pkey.
UPDATE memories AS m SET access_count = least(greatest(m.access_count + g.delta, 0), 2147483647) FROM unnest(:ids::uuid[], :deltas::bigint[]) AS g (id, delta) WHERE m.id = g.id;

-- name: link_merged
-- What was merged into what, once both are here; also for memories that waited for these. Index: memories_pkey, distributed_memory_merged_into_idx.
UPDATE memories AS m SET merged_into = t.id
FROM distributed_memory AS d LEFT JOIN memories AS t ON t.id = (d.fields ->> 'merged_into')::uuid AND t.id <> d.id
WHERE m.id = d.id AND (d.id = ANY(:ids::uuid[]) OR d.fields ->> 'merged_into' = ANY(:ids::uuid[]::text[]))
  AND m.merged_into IS DISTINCT FROM t.id
RETURNING m.id;

-- name: served
-- What memories say now, of those that are served. Index: memories_pkey.
SELECT id, user_id, content, speaker, merged_into, entities, relationships FROM memories WHERE id = ANY(:ids::uuid[]);

-- name: drop_vectors_of
-- Index: memory_embeddings_pkey.
DELETE FROM memory_embeddings WHERE memory_id = ANY(:ids::uuid[]);

-- name: waiting_twins
-- States that no memory serves although none says the same any more. Reads all states: for maintenance.
SELECT d.id, d.user_id FROM distributed_memory AS d
WHERE d.deleted_at IS NULL AND d.content <> '' AND (:after_id::uuid IS NULL OR d.id > :after_id)
  AND NOT EXISTS (SELECT FROM memories AS m WHERE m.id = d.id)
  AND NOT EXISTS (SELECT FROM memories AS m WHERE m.user_id = d.user_id AND m.content_hash = helix_sha256(d.content) AND m.deleted_at IS NULL)
ORDER BY d.id LIMIT :max_count;

-- name: adopt
-- The first events of memories that have none. Index: memories_pkey.
WITH page AS (
    SELECT m.id FROM memories AS m WHERE (:after_id::uuid IS NULL OR m.id > :after_id) ORDER BY m.id LIMIT :max_count
), missing AS (
    SELECT p.id FROM page AS p WHERE NOT EXISTS (SELECT FROM distributed_memory AS d WHERE d.id = p.id))
SELECT memory_adopt(ARRAY(SELECT id FROM missing)) AS adopted, (SELECT max(p.id::text)::uuid FROM page AS p) AS last_id;

-- name: publish_uses
-- Uses since the last events (see memory_publish_uses).
SELECT memory_publish_uses(:max_count) AS published;

-- name: insert_conflict
-- Index: memory_conflicts_local_event_id_remote_event_id_key.
INSERT INTO memory_conflicts (memory_id, user_id, conflict_type, local_event_id, remote_event_id, node1_id, node1_version, node1_timestamp,
    node2_id, node2_version, node2_timestamp, resolution_strategy, resolved_version, resolved_by, detected_at, resolved_at)
VALUES (:memory_id, :user_id, :conflict_type, :local_event_id, :remote_event_id, :node1_id, :node1_version, :node1_timestamp,
    :node2_id, :node2_version, :node2_timestamp, :strategy::text, :resolved_version, :resolved_by, :now, CASE WHEN :strategy::text IS NOT NULL THEN :now::timestamptz END)
ON CONFLICT (local_event_id, remote_event_id) DO NOTHING RETURNING id;

-- name: conflicts
-- Newest first, from a mark on. Index: the key backwards; idx_memory_conflicts_open for open ones.
SELECT id, memory_id, user_id, conflict_type, local_event_id, remote_event_id, node1_id, node1_version, node2_id, node2_version,
       resolution_strategy, resolved_version, resolved_by, detected_at, resolved_at
FROM memory_conflicts
WHERE (NOT :open OR resolved_at IS NULL) AND (:user_id::uuid IS NULL OR user_id = :user_id) AND (:after_id::uuid IS NULL OR id < :after_id)
ORDER BY id DESC LIMIT :max_count;

-- name: conflict
SELECT id, memory_id, user_id, conflict_type, local_event_id, remote_event_id, node1_id, node1_version, node2_id, node2_version,
       resolution_strategy, resolved_version, resolved_by, detected_at, resolved_at
FROM memory_conflicts WHERE id = :id;

-- name: settle_conflict
-- Index: the key.
UPDATE memory_conflicts SET resolution_strategy = :strategy, resolved_by = :resolved_by, resolved_at = greatest(:now, detected_at),
    resolved_version = (SELECT d.version FROM distributed_memory AS d WHERE d.id = memory_id)
WHERE id = :id;

-- name: conflict_stats
-- See get_conflict_stats.
SELECT conflict_type, resolution_strategy, conflicts, resolved, open, avg_resolution_ms, newest_at FROM get_conflict_stats(NULL);

-- name: users_to_snapshot
-- Users with so many events since their last snapshot. Index: idx_distributed_memory_events_feed.
SELECT e.user_id, count(*) AS events FROM distributed_memory_events AS e
LEFT JOIN memory_event_checkpoints AS c ON c.user_id = e.user_id AND c.node_id = :node_id
WHERE e.recorded_xid >= coalesce(c.last_recorded_xid, '0'::xid8)
GROUP BY e.user_id HAVING count(*) >= :at_least ORDER BY e.user_id LIMIT :max_count;

-- name: snapshot_watermark
-- Every transaction below has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS xact;

-- name: memories_of_user
-- Ids of all states of a user, tombstones too, from a mark on. Index: idx_distributed_memory_user_id.
SELECT id FROM distributed_memory WHERE user_id = :user_id AND (:after_id::uuid IS NULL OR id > :after_id) ORDER BY id LIMIT :max_count;

-- name: users_with_memories
SELECT DISTINCT user_id FROM distributed_memory ORDER BY user_id;

-- name: insert_snapshot
INSERT INTO memory_snapshots (node_id, user_id, snapshot_type, memories, vector_clock, memory_count, entity_count, relationship_count, last_event_id)
VALUES (:node_id, :user_id, :snapshot_type, :memories, :vector_clock, :memory_count, :entity_count, :relationship_count, :last_event_id) RETURNING id;

-- name: drop_older_snapshots
-- Index: idx_memory_snapshots_node_user.
DELETE FROM memory_snapshots WHERE node_id = :node_id AND user_id = :user_id AND id <> ALL(:kept::uuid[]);

-- name: snapshots_of
-- The merge states in the snapshots of a user. Index: idx_memory_snapshots_node_user.
SELECT x.value AS state FROM memory_snapshots AS s CROSS JOIN LATERAL jsonb_array_elements(s.memories) AS x
WHERE s.node_id = :node_id AND s.user_id = :user_id AND (x.value ->> 'id')::uuid = ANY(:ids::uuid[]);

-- name: last_event_of
-- The newest event of a user below a transaction. Index: idx_distributed_memory_events_user_id.
SELECT e.id, e.timestamp FROM distributed_memory_events AS e WHERE e.user_id = :user_id AND e.recorded_xid < :xact::text::xid8 ORDER BY e.id DESC LIMIT 1;

-- name: put_checkpoint
-- Index: memory_event_checkpoints_node_id_user_id_key.
INSERT INTO memory_event_checkpoints AS c (node_id, user_id, last_processed_event_id, last_processed_timestamp, last_recorded_xid, vector_clock, event_count)
VALUES (:node_id, :user_id, :event_id, :timestamp, :xact::text::xid8, :vector_clock, :event_count)
ON CONFLICT (node_id, user_id) DO UPDATE
SET last_processed_event_id = excluded.last_processed_event_id, last_processed_timestamp = excluded.last_processed_timestamp,
    last_processed_version = c.last_processed_version + 1, last_recorded_xid = excluded.last_recorded_xid, vector_clock = excluded.vector_clock,
    event_count = c.event_count + excluded.event_count;

-- name: checkpoint
-- Index: memory_event_checkpoints_node_id_user_id_key.
SELECT last_recorded_xid::text::bigint AS xact FROM memory_event_checkpoints WHERE node_id = :node_id AND user_id = :user_id;

-- name: events_since
-- Events of some memories from a transaction on. Index: idx_distributed_memory_events_memory_id.
SELECT e.* FROM distributed_memory_events AS e WHERE e.memory_id = ANY(:ids::uuid[]) AND e.recorded_xid >= :xact::text::xid8
ORDER BY e.memory_id, e.hlc, e.node_id COLLATE "C", e.id;

-- name: states
-- States as they are kept, to compare. Index: the key.
SELECT d.id, d.user_id, d.content, d.importance, d.tags, d.entities, d.relationships, d.metadata, d.fields, d.access_count, d.deleted_at,
       m.content AS served_content, m.id AS served_id
FROM distributed_memory AS d LEFT JOIN memories AS m ON m.id = d.id WHERE d.id = ANY(:ids::uuid[]);
