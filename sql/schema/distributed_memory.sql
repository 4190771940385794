-- distributed_memory.sql: memories kept on several nodes (S37, S101; Big Data tables U5-U9).
--
-- Nodes exchange events; every node folds the same set of events to the same state, whatever the order of arrival:
--   content, importance, session: last writer wins, by hybrid logical clock (hlc), then node, then event id
--   tags, entities, relationships: observed-remove sets (a removal takes only the additions its writer had seen)
--   metadata: last writer wins per key; use: a sum of increments; embedding: never merged, it belongs to the winning content
--   deletion: wins every merge, for ever; the events of a deleted memory lose their text (redact_memory_events)
-- The events are the truth. distributed_memory is the folded state, memory_snapshots shorten the fold, memory_conflicts keep what
-- was concurrent visible, checkpoints say how far each node has read.
--
-- Needs: functions.sql, users_sessions.sql, extension vector. Foreign keys to users and sessions: relationships.sql.

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
    fields           jsonb        NOT NULL DEFAULT '{}',
    hlc_seen         bigint       NOT NULL DEFAULT 0,
    CONSTRAINT distributed_memory_fields_check CHECK (jsonb_typeof(fields) = 'object'),
    CONSTRAINT distributed_memory_hlc_seen_check CHECK (hlc_seen >= 0),
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
        OR (deleted_at IS NOT NULL AND content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}' AND fields = '{}')),
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
COMMENT ON COLUMN distributed_memory.fields IS 'What else the memory says of itself (memory_type, speaker, confidence, valid_from, valid_to, merged_into ...): last writer wins per key.';
COMMENT ON COLUMN distributed_memory.hlc_seen IS 'Greatest hybrid logical clock of any event in this state; the next local event is later.';
COMMENT ON COLUMN distributed_memory.access_count IS 'Uses that events tell of, summed over the nodes; memories.access_count runs ahead of it by what this node has not published yet.';
COMMENT ON COLUMN distributed_memory.deleted_at IS 'Set = tombstone: forgotten, empty, and never alive again.';
-- Which memories does this user have, newest first?
CREATE INDEX idx_distributed_memory_user_id ON distributed_memory (user_id, id DESC);
-- Which memories live on this shard?
CREATE INDEX idx_distributed_memory_shard_key ON distributed_memory (shard_key);
-- Which memories were last written by this node?
CREATE INDEX idx_distributed_memory_node_id ON distributed_memory (node_id);
-- Which memories came from this session (FK)?
CREATE INDEX idx_distributed_memory_session_id ON distributed_memory (session_id) WHERE session_id IS NOT NULL;
-- Which memories of this user say exactly this, here or elsewhere (twins)?
CREATE INDEX distributed_memory_same_text_idx ON distributed_memory (user_id, helix_sha256(content)) WHERE deleted_at IS NULL;
-- Which memories were merged into this one, by whatever node?
CREATE INDEX distributed_memory_merged_into_idx ON distributed_memory ((fields ->> 'merged_into')) WHERE fields ? 'merged_into';
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
-- one row (INSERT … ON CONFLICT (id) DO NOTHING). Append-only but for redaction, and kept for ever:
-- a node that joins later is told all (ADR 0065). No unique constraint but the key: `event_id` of the upstream schema is this id (view memory_events).
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
    fields         jsonb        NOT NULL DEFAULT '{}',
    access_total   bigint       NOT NULL DEFAULT 0,
    CONSTRAINT distributed_memory_events_fields_check CHECK (jsonb_typeof(fields) = 'object'),
    CONSTRAINT distributed_memory_events_access_total_check CHECK (access_total >= 0),
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
    -- go because a state is thrown away; both go with their user.
    CONSTRAINT distributed_memory_events_memory_id_user_id_fkey FOREIGN KEY (memory_id, user_id)
        REFERENCES distributed_memory (id, user_id),
    CONSTRAINT distributed_memory_events_content_check
        CHECK (event_type <> 'created' OR content IS NOT NULL OR redacted_at IS NOT NULL),
    CONSTRAINT distributed_memory_events_deleted_check CHECK ((event_type <> 'deleted' AND redacted_at IS NULL)
        OR (content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}' AND removed = '{}' AND fields = '{}')),
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
COMMENT ON COLUMN distributed_memory_events.fields IS 'Other fields of the memory this event sets (see distributed_memory.fields); a JSON null empties the field.';
COMMENT ON COLUMN distributed_memory_events.access_total IS 'How often this event''s node had used the memory in all: a counter that only grows, so that adding up the greatest of each node is right whatever arrives twice.';
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
       AND (to_jsonb(NEW) - '{content,embedding,embedding_model,tags,entities,relationships,removed,metadata,fields,redacted_at}'::text[])
         = (to_jsonb(OLD) - '{content,embedding,embedding_model,tags,entities,relationships,removed,metadata,fields,redacted_at}'::text[]) THEN
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
    is_self             boolean      NOT NULL DEFAULT false,
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
COMMENT ON COLUMN memory_nodes.is_self IS 'True for the node this database belongs to. Until a server has said who it is, changes of memories are not recorded as events.';
-- Which node is this? At most one.
CREATE UNIQUE INDEX memory_nodes_self_key ON memory_nodes (is_self) WHERE is_self;
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
    feed               varchar(100),
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
COMMENT ON COLUMN memory_sync_status.feed IS 'Which database of the source the position is of; after a restore into another the source has a new one, and reading begins anew.';
-- Which exchanges read into this node (FK)?
CREATE INDEX idx_memory_sync_status_target ON memory_sync_status (target_node_id);
CREATE TRIGGER memory_sync_status_set_updated_at BEFORE UPDATE ON memory_sync_status FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- memory_peers: one row per other node that this one exchanges memories with. Written by `helix memory nodes add`; read by the
-- sync. Kept until removed. The key is encrypted and bound to its row; no tenant may read the table.
CREATE TABLE memory_peers (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    name        varchar(63)  NOT NULL,
    url         text         NOT NULL,
    credentials text         NOT NULL,
    key_id      varchar(64)  NOT NULL,
    node_id     varchar(255),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_peers_pkey PRIMARY KEY (id),
    CONSTRAINT memory_peers_name_key UNIQUE (name),
    CONSTRAINT memory_peers_node_id_key UNIQUE (node_id)
);
COMMENT ON TABLE memory_peers IS 'Other nodes to exchange memories with: address and key. No user data.';
COMMENT ON COLUMN memory_peers.credentials IS 'Ciphertext, bound to this row, of an API key of scope admin on that node. Never shown.';
COMMENT ON COLUMN memory_peers.key_id IS 'Key of the keyring that opens the credentials.';
COMMENT ON COLUMN memory_peers.node_id IS 'What the node calls itself; NULL until it has answered once.';
CREATE TRIGGER memory_peers_set_updated_at BEFORE UPDATE ON memory_peers FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

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
    ORDER BY hlc, node_id COLLATE "C", id LIMIT least(greatest(p_limit, 0), 10000)
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
        ORDER BY a.kind, a.key, a.hlc DESC, a.node_id COLLATE "C" DESC, a.id DESC),
    meta AS (
        SELECT DISTINCT ON (m.key) m.key, m.value FROM e, jsonb_each(e.metadata) AS m ORDER BY m.key, e.hlc DESC, e.node_id COLLATE "C" DESC, e.id DESC),
    clock AS (
        SELECT c.key, max(c.value::bigint) AS value FROM e, jsonb_each_text(e.vector_clock || jsonb_build_object(e.node_id, e.version)) AS c GROUP BY c.key),
    won AS (
        SELECT * FROM e WHERE e.content IS NOT NULL ORDER BY e.hlc DESC, e.node_id COLLATE "C" DESC, e.id DESC LIMIT 1)
    SELECT p_memory_id, won.user_id,
           (SELECT e.session_id FROM e WHERE e.session_id IS NOT NULL ORDER BY e.hlc DESC, e.node_id COLLATE "C" DESC, e.id DESC LIMIT 1),
           won.content, won.embedding, won.embedding_model,
           coalesce((SELECT e.importance FROM e WHERE e.importance IS NOT NULL ORDER BY e.hlc DESC, e.node_id COLLATE "C" DESC, e.id DESC LIMIT 1), 0.5),
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
        SET content = NULL, embedding = NULL, embedding_model = NULL, tags = '[]', entities = '[]', relationships = '[]', removed = '{}', metadata = '{}', fields = '{}', redacted_at = now()
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

-- ---------------------------------------------------------------------------------------------------------------------
-- Every change of a memory becomes an event, in the transaction of the change. Triggers on memories, so that no way of changing one
-- leads past them; per statement, so that a batch costs two more statements. They do nothing until this database knows which node it
-- is (memory_nodes.is_self), nor for changes that are themselves the merge of events (helix.replicating).
-- ---------------------------------------------------------------------------------------------------------------------

-- helix_hlc_now: this machine's clock as the least hybrid logical clock of a new event.
CREATE FUNCTION helix_hlc_now() RETURNS bigint LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16
$$;
COMMENT ON FUNCTION helix_hlc_now() IS 'Now as a hybrid logical clock: milliseconds since 1970 shifted left by 16.';

-- memory_recording_node: the node to record changes as, or NULL when they are not recorded.
CREATE FUNCTION memory_recording_node() RETURNS varchar LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    SELECT n.node_id FROM public.memory_nodes AS n WHERE n.is_self AND coalesce(current_setting('helix.replicating', true), '') <> 'on'
$$;
COMMENT ON FUNCTION memory_recording_node() IS 'The node whose event a change of a memory becomes; NULL while a merge writes, and before the node is known.';

-- memory_event_fields: the fields of a memory that events carry beside content, importance, tags, entities, relationships and metadata.
CREATE FUNCTION memory_event_fields(m memories) RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'memory_type', m.memory_type, 'speaker', m.speaker, 'confidence', m.confidence::text, 'agent_id', m.agent_id, 'project_id', m.project_id,
        'session_id', m.session_id, 'conversation_id', m.conversation_id, 'source_response_id', m.source_response_id, 'merged_into', m.merged_into,
        'valid_from', to_char(m.valid_from AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'valid_to', to_char(m.valid_to AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'created_at', to_char(m.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))
$$;
COMMENT ON FUNCTION memory_event_fields(memories) IS 'What events say of a memory beside its text and sets, as {"field": "text", ...}; times in UTC.';

-- memory_changed_keys: what one JSON object says otherwise than another did; a key that is gone is there with null.
CREATE FUNCTION memory_changed_keys(was jsonb, now_is jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT coalesce((SELECT jsonb_object_agg(k.key, now_is -> k.key)
                     FROM (SELECT jsonb_object_keys(was || now_is) AS key) AS k WHERE was -> k.key IS DISTINCT FROM now_is -> k.key), '{}')
$$;
COMMENT ON FUNCTION memory_changed_keys(jsonb, jsonb) IS 'Keys whose value changed, with the new value, null for those that are gone.';

-- memory_adopt: the first event and state of memories that have none: new ones, and those from before events were recorded.
CREATE FUNCTION memory_adopt(p_ids uuid[]) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    self varchar := public.memory_recording_node();
    adopted uuid[];
BEGIN
    IF self IS NULL THEN
        RETURN 0;
    END IF;
    WITH made AS (
        INSERT INTO public.distributed_memory (id, shard_key, user_id, session_id, content, importance, tags, entities, relationships, metadata,
            access_count, version, vector_clock, hlc, hlc_seen, node_id, created_at, fields)
        SELECT m.id, left(md5(m.user_id::text), 2), m.user_id, m.session_id, m.content, m.importance, to_jsonb(m.tags), m.entities, m.relationships,
               m.metadata, m.access_count, 1, jsonb_build_object(self, 1), h.hlc, h.hlc, self, m.created_at, public.memory_event_fields(m)
        FROM public.memories AS m CROSS JOIN (SELECT public.helix_hlc_now() AS hlc) AS h
        WHERE m.id = ANY (p_ids) AND m.deleted_at IS NULL
        ORDER BY m.id
        ON CONFLICT (id) DO NOTHING RETURNING id)
    SELECT array_agg(id) INTO adopted FROM made;
    -- In a statement of its own: a policy looks for the state's row as the statement found it.
    INSERT INTO public.distributed_memory_events (event_type, node_id, memory_id, user_id, session_id, content, importance, tags, entities, relationships,
        metadata, access_delta, access_total, version, vector_clock, hlc, fields)
    SELECT 'created', self, d.id, d.user_id, d.session_id, d.content, d.importance, d.tags, d.entities, d.relationships,
           d.metadata, d.access_count, d.access_count, 1, d.vector_clock, d.hlc, d.fields
    FROM public.distributed_memory AS d WHERE d.id = ANY (adopted) ORDER BY d.id;
    RETURN coalesce(cardinality(adopted), 0);
END $$;
COMMENT ON FUNCTION memory_adopt(uuid[]) IS 'Writes the first event and state of memories that have none; returns how many.';

CREATE FUNCTION memories_record_added() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM public.memory_adopt(ARRAY(SELECT f.id FROM fresh AS f));
    RETURN NULL;
END $$;
COMMENT ON FUNCTION memories_record_added() IS 'Trigger: new memories become created events.';
CREATE TRIGGER memories_record_added AFTER INSERT ON memories REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION memories_record_added();

-- What changed is told and nothing else, so that two nodes may change different things of one memory at a time. A count of uses alone
-- is no event (memory_publish_uses sums those up), nor is a session or project that went.
CREATE FUNCTION memories_record_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    self varchar := public.memory_recording_node();
    one record;
    told record;
    set_fields jsonb;
    set_metadata jsonb;
BEGIN
    IF self IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM public.memory_adopt(ARRAY(SELECT f.id FROM fresh AS f WHERE NOT EXISTS (SELECT FROM public.distributed_memory AS d WHERE d.id = f.id)));
    FOR one IN
        SELECT ROW(f.*)::public.memories AS is_now, ROW(w.*)::public.memories AS was FROM fresh AS f JOIN was_before AS w ON w.id = f.id
        WHERE (f.content, f.importance, f.tags, f.entities, f.relationships, f.metadata, f.memory_type, f.speaker, f.confidence, f.agent_id, f.project_id,
               f.session_id, f.conversation_id, f.source_response_id, f.merged_into, f.valid_from, f.valid_to)
            IS DISTINCT FROM
              (w.content, w.importance, w.tags, w.entities, w.relationships, w.metadata, w.memory_type, w.speaker, w.confidence, w.agent_id, w.project_id,
               w.session_id, w.conversation_id, w.source_response_id, w.merged_into, w.valid_from, w.valid_to)
        ORDER BY f.id
    LOOP
        set_fields := public.memory_changed_keys(public.memory_event_fields(one.was), public.memory_event_fields(one.is_now));
        IF set_fields -> 'session_id' = 'null' THEN set_fields := set_fields - 'session_id'; END IF;
        IF set_fields -> 'project_id' = 'null' THEN set_fields := set_fields - 'project_id'; END IF;
        set_metadata := public.memory_changed_keys((one.was).metadata, (one.is_now).metadata);
        CONTINUE WHEN set_fields = '{}' AND set_metadata = '{}'
            AND ((one.was).content, (one.was).importance, (one.was).tags, (one.was).entities, (one.was).relationships)
              = ((one.is_now).content, (one.is_now).importance, (one.is_now).tags, (one.is_now).entities, (one.is_now).relationships);
        UPDATE public.distributed_memory AS d
        SET content = (one.is_now).content, importance = (one.is_now).importance, tags = to_jsonb((one.is_now).tags), entities = (one.is_now).entities,
            relationships = (one.is_now).relationships, metadata = (one.is_now).metadata,
            fields = jsonb_strip_nulls(d.fields || set_fields), session_id = (one.is_now).session_id,
            vector_clock = d.vector_clock || jsonb_build_object(self, coalesce((d.vector_clock ->> self)::bigint, 0) + 1), version = d.version + 1,
            hlc_seen = greatest(d.hlc_seen + 1, public.helix_hlc_now()),
            hlc = CASE WHEN (one.is_now).content <> (one.was).content THEN greatest(d.hlc_seen + 1, public.helix_hlc_now()) ELSE d.hlc END,
            node_id = CASE WHEN (one.is_now).content <> (one.was).content THEN self ELSE d.node_id END,
            embedding = CASE WHEN (one.is_now).content <> (one.was).content THEN NULL ELSE d.embedding END,
            embedding_config_id = CASE WHEN (one.is_now).content <> (one.was).content THEN NULL ELSE d.embedding_config_id END,
            replicated_to = '[]'
        WHERE d.id = (one.is_now).id AND d.deleted_at IS NULL
        RETURNING d.id, d.user_id, d.vector_clock, d.hlc_seen INTO told;
        CONTINUE WHEN told.id IS NULL;
        INSERT INTO public.distributed_memory_events (event_type, node_id, memory_id, user_id, session_id, content, importance, tags, entities, relationships,
            removed, metadata, access_total, version, vector_clock, hlc, fields)
        VALUES ('updated', self, told.id, told.user_id, (one.is_now).session_id,
            CASE WHEN (one.is_now).content <> (one.was).content THEN (one.is_now).content END,
            CASE WHEN (one.is_now).importance <> (one.was).importance THEN (one.is_now).importance END,
            coalesce((SELECT jsonb_agg(t) FROM unnest((one.is_now).tags) AS t WHERE t <> ALL ((one.was).tags)), '[]'),
            coalesce((SELECT jsonb_agg(e) FROM jsonb_array_elements((one.is_now).entities) AS e WHERE NOT (one.was).entities @> jsonb_build_array(e)), '[]'),
            coalesce((SELECT jsonb_agg(r) FROM jsonb_array_elements((one.is_now).relationships) AS r WHERE NOT (one.was).relationships @> jsonb_build_array(r)), '[]'),
            jsonb_strip_nulls(jsonb_build_object(
                'tags', (SELECT jsonb_agg(t) FROM unnest((one.was).tags) AS t WHERE t <> ALL ((one.is_now).tags)),
                'entities', (SELECT jsonb_agg(DISTINCT coalesce(e ->> 'id', e ->> 'name', e #>> '{}')) FROM jsonb_array_elements((one.was).entities) AS e
                             WHERE NOT EXISTS (SELECT FROM jsonb_array_elements((one.is_now).entities) AS n
                                               WHERE coalesce(n ->> 'id', n ->> 'name', n #>> '{}') = coalesce(e ->> 'id', e ->> 'name', e #>> '{}'))),
                'relationships', (SELECT jsonb_agg(DISTINCT coalesce(e ->> 'id', e #>> '{}')) FROM jsonb_array_elements((one.was).relationships) AS e
                                  WHERE NOT (one.is_now).relationships @> jsonb_build_array(e)))),
            set_metadata, 0, (told.vector_clock ->> self)::bigint, told.vector_clock, told.hlc_seen, set_fields);
        IF set_fields ->> 'merged_into' IS NOT NULL THEN
            PERFORM public.memory_record_merged((set_fields ->> 'merged_into')::uuid, told.id);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION memories_record_changed() IS 'Trigger: what changed of a memory becomes an updated event.';
CREATE TRIGGER memories_record_changed AFTER UPDATE ON memories REFERENCING OLD TABLE AS was_before NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION memories_record_changed();

-- memory_record_merged: the event of the memory that took another in.
CREATE FUNCTION memory_record_merged(p_into uuid, p_from uuid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    self varchar := public.memory_recording_node();
BEGIN
    WITH told AS (
        UPDATE public.distributed_memory AS d
        SET vector_clock = d.vector_clock || jsonb_build_object(self, coalesce((d.vector_clock ->> self)::bigint, 0) + 1), version = d.version + 1,
            hlc_seen = greatest(d.hlc_seen + 1, public.helix_hlc_now()), replicated_to = '[]'
        WHERE d.id = p_into AND d.deleted_at IS NULL RETURNING d.id, d.user_id, d.vector_clock, d.hlc_seen)
    INSERT INTO public.distributed_memory_events (event_type, node_id, memory_id, user_id, merged_from, version, vector_clock, hlc)
    SELECT 'merged', self, t.id, t.user_id, jsonb_build_array(p_from), (t.vector_clock ->> self)::bigint, t.vector_clock, t.hlc_seen FROM told AS t;
END $$;
COMMENT ON FUNCTION memory_record_merged(uuid, uuid) IS 'Writes the merged event of the memory that took another in.';

-- A memory that goes leaves a tombstone and a deleted event, and takes its text out of everything below: events, merge states, snapshots,
-- and the memories of the same user that say exactly the same and wait behind it (twins made on different nodes).
CREATE FUNCTION memories_record_removed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    self varchar := public.memory_recording_node();
    doomed uuid[];
BEGIN
    IF self IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(DISTINCT d.id) INTO doomed
    FROM gone AS g JOIN public.users AS u ON u.id = g.user_id  -- with the user everything goes, events too
    JOIN public.distributed_memory AS d ON d.user_id = g.user_id AND d.deleted_at IS NULL
        AND (d.id = g.id OR (helix_sha256(d.content) = g.content_hash AND NOT EXISTS (SELECT FROM public.memories AS m WHERE m.id = d.id)));
    IF doomed IS NOT NULL THEN
        PERFORM public.memory_bury(doomed, self);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION memories_record_removed() IS 'Trigger: memories that go become tombstones and deleted events, without text.';
CREATE TRIGGER memories_record_removed AFTER DELETE ON memories REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION memories_record_removed();

-- memory_bury: turns states into tombstones and takes their text out of events, merge states and snapshots. With a node it is that node's
-- doing and becomes an event; without, it is the merge of another's.
CREATE FUNCTION memory_bury(p_ids uuid[], p_node varchar DEFAULT NULL) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    owners uuid[] := ARRAY(SELECT DISTINCT d.user_id FROM public.distributed_memory AS d WHERE d.id = ANY (p_ids));
BEGIN
    IF p_node IS NOT NULL THEN
        INSERT INTO public.distributed_memory_events (event_type, node_id, memory_id, user_id, version, vector_clock, hlc)
        SELECT 'deleted', p_node, d.id, d.user_id, n.version, d.vector_clock || jsonb_build_object(p_node, n.version), greatest(d.hlc_seen + 1, public.helix_hlc_now())
        FROM public.distributed_memory AS d CROSS JOIN LATERAL (SELECT coalesce((d.vector_clock ->> p_node)::bigint, 0) + 1 AS version) AS n
        WHERE d.id = ANY (p_ids) AND d.deleted_at IS NULL ORDER BY d.id;
    END IF;
    UPDATE public.distributed_memory AS d
    SET content = NULL, embedding = NULL, embedding_config_id = NULL, tags = '[]', entities = '[]', relationships = '[]', metadata = '{}', fields = '{}',
        deleted_at = now(), replicated_to = '[]',
        version = CASE WHEN p_node IS NULL THEN d.version ELSE d.version + 1 END,
        vector_clock = CASE WHEN p_node IS NULL THEN d.vector_clock ELSE d.vector_clock || jsonb_build_object(p_node, coalesce((d.vector_clock ->> p_node)::bigint, 0) + 1) END,
        hlc_seen = CASE WHEN p_node IS NULL THEN d.hlc_seen ELSE greatest(d.hlc_seen + 1, public.helix_hlc_now()) END
    WHERE d.id = ANY (p_ids) AND d.deleted_at IS NULL;
    PERFORM public.redact_memory_events(i) FROM unnest(p_ids) AS i;
    DELETE FROM public.crdt_versions AS c WHERE c.memory_id = ANY (p_ids);
    UPDATE public.memory_snapshots AS s
    SET memories = coalesce((SELECT jsonb_agg(x) FROM jsonb_array_elements(s.memories) AS x WHERE (x ->> 'id')::uuid <> ALL (p_ids)), '[]'),
        memory_count = (SELECT count(*) FROM jsonb_array_elements(s.memories) AS x WHERE (x ->> 'id')::uuid <> ALL (p_ids))
    WHERE s.user_id = ANY (owners) AND EXISTS (SELECT FROM jsonb_array_elements(s.memories) AS x WHERE (x ->> 'id')::uuid = ANY (p_ids));
END $$;
COMMENT ON FUNCTION memory_bury(uuid[], varchar) IS 'Makes tombstones of memories: no text stays in states, events, merge states or snapshots.';

-- memory_publish_uses: sums up the uses of memories since their last event into one event each.
CREATE FUNCTION memory_publish_uses(p_limit integer DEFAULT 1000) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    self varchar := public.memory_recording_node();
    published bigint;
BEGIN
    IF self IS NULL THEN
        RETURN 0;
    END IF;
    WITH used AS (
        SELECT d.id, m.access_count - d.access_count AS delta,
               coalesce((SELECT max(e.access_total) FROM public.distributed_memory_events AS e WHERE e.memory_id = d.id AND e.node_id = self), 0) AS total
        FROM public.memories AS m JOIN public.distributed_memory AS d ON d.id = m.id AND d.deleted_at IS NULL
        WHERE m.access_count > d.access_count ORDER BY m.id LIMIT p_limit
    ), told AS (
        UPDATE public.distributed_memory AS d
        SET access_count = d.access_count + u.delta, version = d.version + 1, hlc_seen = greatest(d.hlc_seen + 1, public.helix_hlc_now()), replicated_to = '[]',
            vector_clock = d.vector_clock || jsonb_build_object(self, coalesce((d.vector_clock ->> self)::bigint, 0) + 1)
        FROM used AS u WHERE d.id = u.id RETURNING d.id, d.user_id, d.vector_clock, d.hlc_seen, u.delta, u.total)
    INSERT INTO public.distributed_memory_events (event_type, node_id, memory_id, user_id, access_delta, access_total, version, vector_clock, hlc)
    SELECT 'updated', self, t.id, t.user_id, t.delta, t.total + t.delta, (t.vector_clock ->> self)::bigint, t.vector_clock, t.hlc_seen FROM told AS t;
    GET DIAGNOSTICS published = ROW_COUNT;
    RETURN published;
END $$;
COMMENT ON FUNCTION memory_publish_uses(integer) IS 'Writes an event for each memory that was used since its last one, at most p_limit; returns how many. For operators, across tenants.';
