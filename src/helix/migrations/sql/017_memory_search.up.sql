-- 017_memory_search.up.sql: What search knows of memories, which request used them, what audits changed, what was forgotten.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- Vectors of half the size. Rewrites memory_embeddings under its exclusive lock: no search with vectors meanwhile.
-- helix: destructive
ALTER TABLE memory_embeddings ALTER COLUMN embedding TYPE halfvec USING embedding::halfvec;
COMMENT ON COLUMN memory_embeddings.embedding IS 'Unit length, 16 bits a number.';

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_search: one narrow row per memory that search may find: what it knows of the text, and what it filters by. Derived from
-- memories, written in the same transaction; gone when the memory is forgotten or merged away. Rebuilt by `helix memory reindex`.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_search (
    memory_id       uuid         NOT NULL,
    user_id         uuid         NOT NULL,
    conversation_id uuid,
    session_id      uuid,
    project_id      uuid,
    agent_id        varchar(100),
    memory_type     varchar(50)  NOT NULL,
    valid_from      timestamptz  NOT NULL,
    valid_to        timestamptz,
    terms           integer[]    NOT NULL,
    facts           integer      NOT NULL DEFAULT 0,
    speaker         integer      NOT NULL DEFAULT 0,
    version         smallint     NOT NULL,
    CONSTRAINT memory_search_pkey PRIMARY KEY (memory_id),
    CONSTRAINT memory_search_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES memories (id) ON DELETE CASCADE,
    CONSTRAINT memory_search_version_check CHECK (version >= 1)
);

COMMENT ON TABLE memory_search IS 'What search knows of each memory it may find; derived from memories, rebuilt at any time.';
COMMENT ON COLUMN memory_search.user_id IS 'Tenant of the memory, copied; no FK, the row goes with its memory.';
COMMENT ON COLUMN memory_search.conversation_id IS 'Copied from the memory, as are the next columns up to valid_to: what a search filters and orders by.';
COMMENT ON COLUMN memory_search.terms IS 'CRC-32 of each stem, in the order of the text, without stop words.';
COMMENT ON COLUMN memory_search.facts IS 'Bits of what the text has: 1 question, 2 number, 4 time, 8 place, 16 name, 32 reason, 64 plan, 128 picture, 256 first person, 512 feeling, 1024 quotation.';
COMMENT ON COLUMN memory_search.speaker IS 'CRC-32 of the first word of the speaker''s name, 0: nobody.';
COMMENT ON COLUMN memory_search.version IS 'Version of the analysis; older ones are made anew by `helix memory reindex`.';

-- Which memories may this tenant find? (search inside a tenant; how many are there?)
CREATE INDEX memory_search_user_id_idx ON memory_search (user_id);
-- Which stand just before and after this one in its conversation?
CREATE INDEX memory_search_conversation_idx ON memory_search (conversation_id, valid_from, memory_id) WHERE conversation_id IS NOT NULL;
-- Which hold this term? (candidates in a tenant of more than 10,000 memories)
CREATE INDEX memory_search_terms_idx ON memory_search USING gin (terms);

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_uses: one row per memory that was put into a request. Written by whoever assembled the request, with it. Numbers
-- only, kept when the memory is forgotten; goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_uses (
    request_id uuid         NOT NULL,
    memory_id  uuid         NOT NULL,
    user_id    uuid         NOT NULL,
    rank       smallint     NOT NULL,
    score      real,
    used_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_uses_pkey PRIMARY KEY (request_id, memory_id),
    CONSTRAINT memory_uses_rank_check CHECK (rank >= 1)
);

COMMENT ON TABLE memory_uses IS 'Which memories were used by which request; what a memory was made by stands in memories.source_response_id.';
COMMENT ON COLUMN memory_uses.request_id IS 'Joins llm_requests; no FK, requests are dropped sooner.';
COMMENT ON COLUMN memory_uses.memory_id IS 'Joins memories; no FK, the record outlives a forgotten memory.';
COMMENT ON COLUMN memory_uses.rank IS '1 for the memory put in first.';
COMMENT ON COLUMN memory_uses.score IS 'What search gave it; NULL when it was named, not found.';

-- Which requests used this memory?
CREATE INDEX memory_uses_memory_id_idx ON memory_uses (memory_id);
-- Which uses are this tenant's?
CREATE INDEX memory_uses_user_id_idx ON memory_uses (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_changes: one row per memory that was merged away or given an end by an audit, so that it can be undone. Written in
-- the transaction of the change; goes with its memory.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_changes (
    id           uuid        NOT NULL DEFAULT uuidv7(),
    batch_id     uuid        NOT NULL,
    user_id      uuid        NOT NULL,
    memory_id    uuid        NOT NULL,
    change       varchar(20) NOT NULL,
    into_id      uuid,
    old_valid_to timestamptz,
    made_at      timestamptz NOT NULL DEFAULT now(),
    undone_at    timestamptz,
    CONSTRAINT memory_changes_pkey PRIMARY KEY (id),
    CONSTRAINT memory_changes_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES memories (id) ON DELETE CASCADE,
    CONSTRAINT memory_changes_change_check CHECK (change IN ('merged', 'ended')),
    CONSTRAINT memory_changes_into_check CHECK (change <> 'merged' OR into_id IS NOT NULL)
);

COMMENT ON TABLE memory_changes IS 'What audits changed, by batch, with what undoing it needs. Holds no text.';
COMMENT ON COLUMN memory_changes.batch_id IS 'All changes of one command; `helix memory undo` takes a batch back.';
COMMENT ON COLUMN memory_changes.user_id IS 'Tenant of the memory, copied; no FK, the row goes with its memory.';
COMMENT ON COLUMN memory_changes.change IS 'merged: taken in by into_id as a near-duplicate; ended: given a valid_to because a newer memory contradicts it.';
COMMENT ON COLUMN memory_changes.into_id IS 'Memory that took it in; joins memories, no FK: undoing needs only memory_id.';

-- Which changes can this tenant take back, newest first?
CREATE INDEX memory_changes_user_id_idx ON memory_changes (user_id, id DESC);
-- What was done to this memory?
CREATE INDEX memory_changes_memory_id_idx ON memory_changes (memory_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_tombstones: one row per memory that was forgotten for good. Written with the erasure and never removed: a restored backup
-- is cleansed with it, projections read it to erase their copies. Ids only, so it outlives its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_tombstones (
    memory_id    uuid        NOT NULL,
    user_id      uuid        NOT NULL,
    forgotten_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memory_tombstones_pkey PRIMARY KEY (memory_id)
);

COMMENT ON TABLE memory_tombstones IS 'Ids of forgotten memories: what a restored backup and every projection must not hold.';
COMMENT ON COLUMN memory_tombstones.memory_id IS 'Joined memories; no FK, the memory is gone.';
COMMENT ON COLUMN memory_tombstones.user_id IS 'Tenant it was of; no FK, the record outlives the user.';

-- What has this tenant forgotten?
CREATE INDEX memory_tombstones_user_id_idx ON memory_tombstones (user_id);
-- What was forgotten since? (restores, projections)
CREATE INDEX memory_tombstones_forgotten_at_idx ON memory_tombstones (forgotten_at);

-- forget_memories: erases memories for good, with all that is derived from them in this database: vectors, search rows, mentions,
-- relations drawn from them, what was merged into them, entities nothing else speaks of, and the texts of their distributed
-- events. Leaves tombstones. Takes the rights of its caller: a tenant erases its own.
CREATE FUNCTION forget_memories(p_user_id uuid, p_memory_ids uuid[])
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
COMMENT ON FUNCTION forget_memories(uuid, uuid[]) IS 'Erases memories of a user with everything derived from them, leaves tombstones, returns the ids erased (those merged into them too).';

-- apply_memory_tombstones: what a restored backup must run before it serves: erases again what was forgotten since it was taken.
CREATE FUNCTION apply_memory_tombstones(p_tombstones jsonb)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
DECLARE
    erased bigint := 0;
    one record;
BEGIN
    FOR one IN
        SELECT t.user_id, array_agg(t.memory_id) AS ids FROM jsonb_to_recordset(p_tombstones) AS t (memory_id uuid, user_id uuid) GROUP BY t.user_id
    LOOP
        erased := erased + (SELECT count(*) FROM public.forget_memories(one.user_id, one.ids));
        INSERT INTO public.memory_tombstones (memory_id, user_id) SELECT i, one.user_id FROM unnest(one.ids) AS i ON CONFLICT (memory_id) DO NOTHING;
    END LOOP;
    RETURN erased;
END $$;
COMMENT ON FUNCTION apply_memory_tombstones(jsonb) IS 'Erases from a restored database the memories of a list [{"memory_id", "user_id"}, ...], as memory_tombstones held it later; returns how many there were.';

-- Ties to other domains.
ALTER TABLE memory_uses ADD CONSTRAINT memory_uses_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;

-- Tenancy.
ALTER TABLE memory_search ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_search FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_search_tenant ON memory_search TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()) AND (memory_id IS NULL OR EXISTS (SELECT FROM memories AS target WHERE target.id = memory_search.memory_id)));
CREATE POLICY memory_search_operator ON memory_search TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_search_readonly ON memory_search FOR SELECT TO helix_readonly USING (true);

ALTER TABLE memory_uses ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_uses FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_uses_tenant ON memory_uses TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY memory_uses_operator ON memory_uses TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_uses_readonly ON memory_uses FOR SELECT TO helix_readonly USING (true);

ALTER TABLE memory_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_changes_tenant ON memory_changes TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()) AND (memory_id IS NULL OR EXISTS (SELECT FROM memories AS target WHERE target.id = memory_changes.memory_id)));
CREATE POLICY memory_changes_operator ON memory_changes TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_changes_readonly ON memory_changes FOR SELECT TO helix_readonly USING (true);

ALTER TABLE memory_tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE memory_tombstones FORCE ROW LEVEL SECURITY;
CREATE POLICY memory_tombstones_tenant ON memory_tombstones TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY memory_tombstones_operator ON memory_tombstones TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY memory_tombstones_readonly ON memory_tombstones FOR SELECT TO helix_readonly USING (true);

GRANT SELECT, INSERT, UPDATE, DELETE ON memory_search TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE (undone_at) ON memory_changes TO helix_app, helix_operator;
GRANT SELECT, INSERT ON memory_uses, memory_tombstones TO helix_app, helix_operator;
GRANT SELECT ON memory_search, memory_uses, memory_changes, memory_tombstones TO helix_readonly;
