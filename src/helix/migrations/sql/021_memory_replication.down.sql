-- 021_memory_replication.down.sql: takes back what 021_memory_replication.up.sql made, and nothing else.

DROP TRIGGER memories_record_removed ON memories;
DROP TRIGGER memories_record_changed ON memories;
DROP TRIGGER memories_record_added ON memories;
DROP FUNCTION memory_publish_uses;
DROP FUNCTION memory_bury;
DROP FUNCTION memories_record_removed;
DROP FUNCTION memory_record_merged;
DROP FUNCTION memories_record_changed;
DROP FUNCTION memories_record_added;
DROP FUNCTION memory_adopt;
DROP FUNCTION memory_changed_keys;
DROP FUNCTION memory_event_fields;
DROP FUNCTION memory_recording_node;
DROP FUNCTION helix_hlc_now;
DROP TABLE memory_peers;
DELETE FROM rls_exempt_tables WHERE table_name = 'memory_peers';
ALTER TABLE memory_sync_status DROP COLUMN feed;
DROP INDEX memory_nodes_self_key;
ALTER TABLE memory_nodes DROP COLUMN is_self;

CREATE OR REPLACE FUNCTION distributed_memory_events_keep() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
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

CREATE OR REPLACE FUNCTION redact_memory_events(p_memory_id uuid) RETURNS bigint LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    WITH done AS (
        UPDATE public.distributed_memory_events
        SET content = NULL, embedding = NULL, embedding_model = NULL, tags = '[]', entities = '[]', relationships = '[]', removed = '{}', metadata = '{}', redacted_at = now()
        WHERE memory_id = p_memory_id AND redacted_at IS NULL AND event_type <> 'deleted' RETURNING 1)
    SELECT count(*) FROM done
$$;

CREATE OR REPLACE FUNCTION get_memory_event_history(p_memory_id uuid, p_limit integer DEFAULT 1000)
RETURNS SETOF distributed_memory_events LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.distributed_memory_events WHERE memory_id = p_memory_id
    ORDER BY hlc, node_id, id LIMIT least(greatest(p_limit, 0), 10000)
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
    SET content = NULL, embedding = NULL, embedding_config_id = NULL, tags = '[]', entities = '[]', relationships = '[]', metadata = '{}', deleted_at = now()
    WHERE d.id = ANY (doomed) AND d.user_id = p_user_id AND d.deleted_at IS NULL;
    RETURN QUERY SELECT unnest(doomed);
END $$;

ALTER TABLE distributed_memory DROP CONSTRAINT distributed_memory_tombstone_check;
ALTER TABLE distributed_memory_events DROP CONSTRAINT distributed_memory_events_deleted_check;
DROP INDEX distributed_memory_merged_into_idx;
DROP INDEX distributed_memory_same_text_idx;
ALTER TABLE distributed_memory_events DROP COLUMN fields, DROP COLUMN access_total;
ALTER TABLE distributed_memory DROP COLUMN fields, DROP COLUMN hlc_seen;
COMMENT ON COLUMN distributed_memory.access_count IS NULL;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_tombstone_check CHECK ((deleted_at IS NULL AND content IS NOT NULL)
        OR (deleted_at IS NOT NULL AND content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}'));
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_deleted_check CHECK ((event_type <> 'deleted' AND redacted_at IS NULL)
        OR (content IS NULL AND embedding IS NULL AND tags = '[]' AND entities = '[]' AND relationships = '[]' AND metadata = '{}' AND removed = '{}'));
