-- 021_memory_replication.up.sql: memories exchanged between nodes: events from every change, peers, tombstones that reach everything.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

ALTER TABLE distributed_memory ADD COLUMN fields jsonb NOT NULL DEFAULT '{}', ADD COLUMN hlc_seen bigint NOT NULL DEFAULT 0;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_fields_check CHECK (jsonb_typeof(fields) = 'object');
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_hlc_seen_check CHECK (hlc_seen >= 0);
ALTER TABLE distributed_memory_events ADD COLUMN fields jsonb NOT NULL DEFAULT '{}', ADD COLUMN access_total bigint NOT NULL DEFAULT 0;
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_fields_check CHECK (jsonb_typeof(fields) = 'object');
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_access_total_check CHECK (access_total >= 0);
ALTER TABLE distributed_memory DROP CONSTRAINT distributed_memory_tombstone_check;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_tombstone_check CHECK ((deleted_at IS NULL AND content IS NOT NULL)
        OR (deleted_at IS NOT NULL AND content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}' AND fields = '{}'));
ALTER TABLE distributed_memory_events DROP CONSTRAINT distributed_memory_events_deleted_check;
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_deleted_check CHECK ((event_type <> 'deleted' AND redacted_at IS NULL)
        OR (content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}' AND removed = '{}' AND fields = '{}'));
COMMENT ON COLUMN distributed_memory.fields IS 'What else the memory says of itself (memory_type, speaker, confidence, valid_from, valid_to, merged_into ...): last writer wins per key.';
COMMENT ON COLUMN distributed_memory.hlc_seen IS 'Greatest hybrid logical clock of any event in this state; the next local event is later.';
COMMENT ON COLUMN distributed_memory.access_count IS 'Uses that events tell of, summed over the nodes; memories.access_count runs ahead of it by what this node has not published yet.';
COMMENT ON COLUMN distributed_memory_events.fields IS 'Other fields of the memory this event sets (see distributed_memory.fields); a JSON null empties the field.';
COMMENT ON COLUMN distributed_memory_events.access_total IS 'How often this event''s node had used the memory in all: a counter that only grows, so that adding up the greatest of each node is right whatever arrives twice.';
CREATE INDEX distributed_memory_same_text_idx ON distributed_memory (user_id, helix_sha256(content)) WHERE deleted_at IS NULL;
CREATE INDEX distributed_memory_merged_into_idx ON distributed_memory ((fields ->> 'merged_into')) WHERE fields ? 'merged_into';
GRANT UPDATE (fields) ON distributed_memory_events TO helix_app, helix_operator;

CREATE OR REPLACE FUNCTION distributed_memory_events_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
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

CREATE OR REPLACE FUNCTION redact_memory_events(p_memory_id uuid) RETURNS bigint LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    WITH done AS (
        UPDATE public.distributed_memory_events
        SET content = NULL, embedding = NULL, embedding_model = NULL, tags = '[]', entities = '[]', relationships = '[]', removed = '{}', metadata = '{}', fields = '{}', redacted_at = now()
        WHERE memory_id = p_memory_id AND redacted_at IS NULL AND event_type <> 'deleted' RETURNING 1)
    SELECT count(*) FROM done
$$;

CREATE OR REPLACE FUNCTION get_memory_event_history(p_memory_id uuid, p_limit integer DEFAULT 1000)
RETURNS SETOF distributed_memory_events LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.distributed_memory_events WHERE memory_id = p_memory_id
    ORDER BY hlc, node_id COLLATE "C", id LIMIT least(greatest(p_limit, 0), 10000)
$$;

CREATE OR REPLACE FUNCTION rebuild_memory_from_events(p_memory_id uuid)
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

CREATE OR REPLACE FUNCTION forget_memories(p_user_id uuid, p_memory_ids uuid[])
RETURNS SETOF uuid LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    doomed uuid[];
    spoken_of uuid[];
BEGIN
    WITH RECURSIVE family AS (
        SELECT m.id FROM public.memories AS m WHERE m.user_id = p_user_id AND m.id = ANY (p_memory_ids)
        UNION
        SELECT m.id FROM public.memories AS m JOIN family AS f ON m.merged_into = f.id WHERE m.user_id = p_user_id)
    SELECT coalesce(array_agg(f.id), '{}') INTO doomed FROM family AS f;
    SELECT coalesce(array_agg(DISTINCT n.entity_id), '{}') INTO spoken_of FROM public.memory_entity_mentions AS n WHERE n.memory_id = ANY (doomed);
    INSERT INTO public.memory_tombstones (memory_id, user_id) SELECT d, p_user_id FROM unnest(doomed) AS d ON CONFLICT (memory_id) DO NOTHING;
    DELETE FROM public.memories AS m WHERE m.id = ANY (doomed) AND m.user_id = p_user_id;
    DELETE FROM public.memory_entities AS e
    WHERE e.id = ANY (spoken_of) AND e.user_id = p_user_id
      AND NOT EXISTS (SELECT FROM public.memory_entity_mentions AS n WHERE n.entity_id = e.id)
      AND NOT EXISTS (SELECT FROM public.memory_relations AS r WHERE r.memory_id IS NULL AND e.id IN (r.subject_id, r.object_id));
    UPDATE public.memory_entities AS e
    SET mention_count = (SELECT count(*) FROM public.memory_entity_mentions AS n WHERE n.entity_id = e.id)
    WHERE e.id = ANY (spoken_of) AND e.user_id = p_user_id;
    PERFORM public.redact_memory_events(d.id) FROM public.distributed_memory AS d WHERE d.id = ANY (doomed) AND d.user_id = p_user_id;
    UPDATE public.distributed_memory AS d
    SET content = NULL, embedding = NULL, embedding_config_id = NULL, tags = '[]', entities = '[]', relationships = '[]', metadata = '{}', fields = '{}', deleted_at = now()
    WHERE d.id = ANY (doomed) AND d.user_id = p_user_id AND d.deleted_at IS NULL;
    RETURN QUERY SELECT unnest(doomed);
END $$;

ALTER TABLE memory_nodes ADD COLUMN is_self boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN memory_nodes.is_self IS 'True for the node this database belongs to. Until a server has said who it is, changes of memories are not recorded as events.';
CREATE UNIQUE INDEX memory_nodes_self_key ON memory_nodes (is_self) WHERE is_self;
ALTER TABLE memory_sync_status ADD COLUMN feed varchar(100);
COMMENT ON COLUMN memory_sync_status.feed IS 'Which database of the source the position is of; after a restore into another the source has a new one, and reading begins anew.';

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
COMMENT ON COLUMN memory_peers.credentials IS 'API key of scope admin on that node, encrypted and bound to this row (docs/adr/0009).';
COMMENT ON COLUMN memory_peers.key_id IS 'Key of the keyring that opens the credentials.';
COMMENT ON COLUMN memory_peers.node_id IS 'What the node calls itself; NULL until it has answered once.';
CREATE TRIGGER memory_peers_set_updated_at BEFORE UPDATE ON memory_peers FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

GRANT SELECT, INSERT, UPDATE, DELETE ON memory_peers TO helix_operator;
GRANT SELECT (id, name, url, key_id, node_id, created_at, updated_at) ON memory_peers TO helix_readonly;
INSERT INTO rls_exempt_tables (table_name, reason) VALUES ('memory_peers', 'other nodes and their keys; only operators read it');

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
