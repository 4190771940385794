-- cognee_memories.sql: what Helix remembers about and for its users, the entities and relations in it, shared knowledge, and
-- the embeddings of both. Domain: memory and knowledge. (The file keeps the name the seeds give it; no vendor is needed.)

-- ---------------------------------------------------------------------------------------------------------------------
-- memories: one row per thing remembered for a user. Written by the memory API and by extraction from conversations. Kept
-- until forgotten (deleted_at first, then erased with everything derived from it) or its user is erased.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memories (
    id                 uuid         NOT NULL DEFAULT uuidv7(),
    user_id            uuid         NOT NULL,
    session_id         uuid,
    project_id         uuid,
    agent_id           varchar(100),
    content            text         NOT NULL,
    content_hash       bytea        NOT NULL GENERATED ALWAYS AS (helix_sha256(content)) STORED,
    memory_type        varchar(50)  NOT NULL DEFAULT 'fact',
    entities           jsonb        NOT NULL DEFAULT '[]',
    relationships      jsonb        NOT NULL DEFAULT '[]',
    speaker            varchar(255),
    confidence         numeric(5,4) NOT NULL DEFAULT 0.8,
    importance         numeric(5,4) NOT NULL DEFAULT 0.5,
    access_count       integer      NOT NULL DEFAULT 0,
    last_accessed      timestamptz,
    source_response_id uuid,
    conversation_id    uuid,
    valid_from         timestamptz  NOT NULL DEFAULT now(),
    valid_to           timestamptz,
    merged_into        uuid,
    deleted_at         timestamptz,
    tags               text[]       NOT NULL DEFAULT '{}',
    metadata           jsonb        NOT NULL DEFAULT '{}',
    created_at         timestamptz  NOT NULL DEFAULT now(),
    updated_at         timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memories_pkey PRIMARY KEY (id),
    CONSTRAINT memories_merged_into_fkey FOREIGN KEY (merged_into) REFERENCES memories (id) ON DELETE SET NULL,
    CONSTRAINT memories_merged_into_check CHECK (merged_into <> id),
    CONSTRAINT memories_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT memories_importance_check CHECK (importance BETWEEN 0 AND 1),
    CONSTRAINT memories_access_count_check CHECK (access_count >= 0),
    CONSTRAINT memories_valid_check CHECK (valid_to >= valid_from)
);

COMMENT ON TABLE memories IS 'What is remembered for a user; searchable at commit, with or without embeddings.';
COMMENT ON COLUMN memories.session_id IS 'Session it came of; the memory outlives it.';
COMMENT ON COLUMN memories.content_hash IS 'Derived: SHA-256 of content; an exact duplicate of a live memory of the same user is refused.';
COMMENT ON COLUMN memories.memory_type IS 'fact, preference, event ... An open set.';
COMMENT ON COLUMN memories.entities IS 'Entities as they were extracted; memory_entity_mentions holds them resolved.';
COMMENT ON COLUMN memories.relationships IS 'Relations as they were extracted; memory_relations holds them resolved.';
COMMENT ON COLUMN memories.speaker IS 'Who said it.';
COMMENT ON COLUMN memories.confidence IS '0 to 1.';
COMMENT ON COLUMN memories.importance IS '0 to 1.';
COMMENT ON COLUMN memories.access_count IS 'How often a search handed it out.';
COMMENT ON COLUMN memories.source_response_id IS 'Answer it was drawn from; joins llm_responses, no FK because responses are dropped sooner.';
COMMENT ON COLUMN memories.conversation_id IS 'Conversation it was drawn from; joins conversation_events.conversation_id.';
COMMENT ON COLUMN memories.valid_from IS 'From when it is true of the world.';
COMMENT ON COLUMN memories.valid_to IS 'Until when it is true; NULL: still.';
COMMENT ON COLUMN memories.merged_into IS 'Memory that took this near-duplicate in; set back to NULL to undo.';
COMMENT ON COLUMN memories.deleted_at IS 'When it was forgotten: never found again, erased by the next sweep.';

-- What is remembered for this user?
CREATE INDEX idx_memories_user_id ON memories (user_id);
-- What was remembered in this session?
CREATE INDEX idx_memories_session_id ON memories (session_id);
-- What is remembered of this kind?
CREATE INDEX idx_memories_type ON memories (memory_type);
-- Refuses an exact duplicate among the live memories of a user.
CREATE UNIQUE INDEX memories_user_id_content_hash_key ON memories (user_id, content_hash) WHERE deleted_at IS NULL;
-- Which memories hold these words?
CREATE INDEX memories_content_idx ON memories USING gin (to_tsvector('simple', left(content, 250000)));
-- What is remembered for this project?
CREATE INDEX memories_project_id_idx ON memories (project_id) WHERE project_id IS NOT NULL;
-- What was drawn from this answer?
CREATE INDEX memories_source_response_id_idx ON memories (source_response_id) WHERE source_response_id IS NOT NULL;
-- What was merged into this memory?
CREATE INDEX memories_merged_into_idx ON memories (merged_into) WHERE merged_into IS NOT NULL;

CREATE TRIGGER memories_set_updated_at BEFORE UPDATE ON memories FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_entities: one row per person, thing or idea a user's memories speak of. Written by entity extraction. Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_entities (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid         NOT NULL,
    name          varchar(255) NOT NULL,
    type          varchar(100) NOT NULL DEFAULT 'unknown',
    aliases       text[]       NOT NULL DEFAULT '{}',
    importance    numeric(5,4) NOT NULL DEFAULT 0.5,
    mention_count integer      NOT NULL DEFAULT 0,
    properties    jsonb        NOT NULL DEFAULT '{}',
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    name_key      text         NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    CONSTRAINT memory_entities_pkey PRIMARY KEY (id),
    CONSTRAINT memory_entities_user_id_type_name_key UNIQUE (user_id, type, name),
    CONSTRAINT memory_entities_importance_check CHECK (importance BETWEEN 0 AND 1),
    CONSTRAINT memory_entities_mention_count_check CHECK (mention_count >= 0)
);

COMMENT ON TABLE memory_entities IS 'Entities in a user''s memories: the nodes of the user''s graph.';
COMMENT ON COLUMN memory_entities.type IS 'person, place, project ... An open set.';
COMMENT ON COLUMN memory_entities.aliases IS 'Other names of the same entity.';
COMMENT ON COLUMN memory_entities.importance IS '0 to 1.';
COMMENT ON COLUMN memory_entities.name_key IS 'Derived: the name in lower case, a column because under a policy no index of lower(name) is used.';

-- Which entity is meant by this name?
CREATE INDEX memory_entities_user_id_name_key_idx ON memory_entities (user_id, name_key);

CREATE TRIGGER memory_entities_set_updated_at BEFORE UPDATE ON memory_entities FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_entity_mentions: one row per memory and entity it speaks of. Written with the entities; goes with either, so that
-- forgetting a memory reaches the graph.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_entity_mentions (
    memory_id uuid NOT NULL,
    entity_id uuid NOT NULL,
    user_id   uuid NOT NULL,
    CONSTRAINT memory_entity_mentions_pkey PRIMARY KEY (memory_id, entity_id),
    CONSTRAINT memory_entity_mentions_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES memories (id) ON DELETE CASCADE,
    CONSTRAINT memory_entity_mentions_entity_id_fkey FOREIGN KEY (entity_id) REFERENCES memory_entities (id) ON DELETE CASCADE
);

COMMENT ON TABLE memory_entity_mentions IS 'Which memory speaks of which entity.';
COMMENT ON COLUMN memory_entity_mentions.user_id IS 'Tenant of both, copied; no FK, the row goes with its memory.';

-- Which memories speak of this entity?
CREATE INDEX memory_entity_mentions_entity_id_idx ON memory_entity_mentions (entity_id);
-- Which mentions are this tenant's?
CREATE INDEX memory_entity_mentions_user_id_idx ON memory_entity_mentions (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_relations: one row per statement "subject predicate object" drawn from a memory. Written by entity extraction. Goes
-- with its subject, object or memory.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_relations (
    id         uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id    uuid         NOT NULL,
    subject_id uuid         NOT NULL,
    predicate  varchar(255) NOT NULL,
    object_id  uuid         NOT NULL,
    memory_id  uuid,
    strength   numeric(5,4) NOT NULL DEFAULT 0.5,
    properties jsonb        NOT NULL DEFAULT '{}',
    valid_from timestamptz  NOT NULL DEFAULT now(),
    valid_to   timestamptz,
    created_at timestamptz  NOT NULL DEFAULT now(),
    updated_at timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT memory_relations_pkey PRIMARY KEY (id),
    CONSTRAINT memory_relations_key UNIQUE NULLS NOT DISTINCT (subject_id, predicate, object_id, memory_id, valid_from),
    CONSTRAINT memory_relations_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES memory_entities (id) ON DELETE CASCADE,
    CONSTRAINT memory_relations_object_id_fkey FOREIGN KEY (object_id) REFERENCES memory_entities (id) ON DELETE CASCADE,
    CONSTRAINT memory_relations_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES memories (id) ON DELETE CASCADE,
    CONSTRAINT memory_relations_strength_check CHECK (strength BETWEEN 0 AND 1),
    CONSTRAINT memory_relations_valid_check CHECK (valid_to >= valid_from)
);

COMMENT ON TABLE memory_relations IS 'Relations between entities: the edges of the user''s graph.';
COMMENT ON COLUMN memory_relations.predicate IS 'What the subject is or does to the object, e.g. works_at.';
COMMENT ON COLUMN memory_relations.memory_id IS 'Memory it was drawn from; NULL when stated without one.';
COMMENT ON COLUMN memory_relations.strength IS '0 to 1.';
COMMENT ON COLUMN memory_relations.valid_to IS 'Until when it is true; NULL: still.';

-- Which relations does this tenant's graph have?
CREATE INDEX memory_relations_user_id_idx ON memory_relations (user_id);
-- What points at this entity? (what goes out from it is answered by the UNIQUE)
CREATE INDEX memory_relations_object_id_idx ON memory_relations (object_id);
-- What was drawn from this memory?
CREATE INDEX memory_relations_memory_id_idx ON memory_relations (memory_id) WHERE memory_id IS NOT NULL;

CREATE TRIGGER memory_relations_set_updated_at BEFORE UPDATE ON memory_relations FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- memory_embeddings: one row per memory, part of its text and embedding model. Written after the memory is committed; rebuilt, never merged;
-- goes with its memory. Partitioned by dimension: each partition holds vectors of one length (checked), so a new model is a
-- row in embedding_config, and a new length at most a new partition; no code names either. halfvec: half the bytes, and the
-- same order of hits. No vector index by default: inside a tenant the exact scan over memory_embeddings_user_id_idx is right and
-- fast up to 10,000 rows, and a filtered HNSW index loses most hits of small tenants. For a tenant above that, `helix memory
-- index` builds an index of its own, of that tenant's rows only (docs/adr/0030):
--   CREATE INDEX memory_embeddings_hnsw_... ON memory_embeddings_384 USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops)
--   WHERE user_id = '...' AND embedding_config_id = '...';
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE memory_embeddings (
    memory_id           uuid        NOT NULL,
    embedding_config_id uuid        NOT NULL,
    dimension           integer     NOT NULL,
    user_id             uuid        NOT NULL,
    embedding           halfvec     NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    part                smallint    NOT NULL DEFAULT 0,
    CONSTRAINT memory_embeddings_pkey PRIMARY KEY (memory_id, embedding_config_id, dimension, part),
    CONSTRAINT memory_embeddings_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES memories (id) ON DELETE CASCADE,
    CONSTRAINT memory_embeddings_part_check CHECK (part >= 0),
    CONSTRAINT memory_embeddings_dimension_check CHECK (vector_dims(embedding) = dimension)
) PARTITION BY LIST (dimension);

CREATE TABLE memory_embeddings_384 PARTITION OF memory_embeddings FOR VALUES IN (384);
CREATE TABLE memory_embeddings_768 PARTITION OF memory_embeddings FOR VALUES IN (768);
CREATE TABLE memory_embeddings_1024 PARTITION OF memory_embeddings FOR VALUES IN (1024);
CREATE TABLE memory_embeddings_1536 PARTITION OF memory_embeddings FOR VALUES IN (1536);
CREATE TABLE memory_embeddings_3072 PARTITION OF memory_embeddings FOR VALUES IN (3072);
CREATE TABLE memory_embeddings_default PARTITION OF memory_embeddings DEFAULT;

COMMENT ON TABLE memory_embeddings IS 'Embeddings of memories, one partition per vector length; search names dimension, user and model.';
COMMENT ON COLUMN memory_embeddings.embedding_config_id IS 'Model that made it; vectors of different models are never compared.';
COMMENT ON COLUMN memory_embeddings.dimension IS 'Length of the vector; the partition key.';
COMMENT ON COLUMN memory_embeddings.user_id IS 'Tenant of the memory, copied; no FK, the row goes with its memory.';
COMMENT ON COLUMN memory_embeddings.embedding IS 'Unit length, 16 bits a number.';
COMMENT ON COLUMN memory_embeddings.part IS 'Which part of a long text, from 0; the nearest part speaks for the memory.';

-- Which vectors of this model does the tenant have? (exact search inside a tenant)
CREATE INDEX memory_embeddings_user_id_idx ON memory_embeddings (user_id, embedding_config_id);
-- Which vectors did this model make? (rebuilding, removing a model)
CREATE INDEX memory_embeddings_embedding_config_id_idx ON memory_embeddings (embedding_config_id);

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
    packed          bytea        NOT NULL GENERATED ALWAYS AS
        (helix_pack_text(memory_id, coalesce(conversation_id, session_id, memory_id), valid_from, facts, speaker, terms)) STORED,
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
COMMENT ON COLUMN memory_search.packed IS 'Derived: what a search reads of this row, as one value (helix_pack_text).';

-- Which memories may this tenant find? (search inside a tenant; how many are there?)
CREATE INDEX memory_search_user_id_idx ON memory_search (user_id);
-- Which stand just before and after this one in its conversation?
CREATE INDEX memory_search_conversation_idx ON memory_search (conversation_id, valid_from, memory_id) WHERE conversation_id IS NOT NULL;
-- Which of this tenant hold this term? (candidates in a tenant of more than 10,000 memories)
CREATE INDEX memory_search_terms_idx ON memory_search USING gin (helix_scoped_terms(user_id, terms));

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
    SET content = NULL, embedding = NULL, embedding_config_id = NULL, tags = '[]', entities = '[]', relationships = '[]', metadata = '{}', fields = '{}', deleted_at = now()
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

-- ---------------------------------------------------------------------------------------------------------------------
-- rag_knowledge: one row per document or piece of knowledge agents may look up, whole. Written by hand, from checkpoints and by
-- agents that learned something. Not found any more after expires_at, then deleted. With a user it is that tenant's own, without
-- one everybody's. What search finds are its chunks, in vector_documents.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE rag_knowledge (
    id                  uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id             uuid,
    project_id          uuid,
    knowledge_type      varchar(50)  NOT NULL,
    title               varchar(255) NOT NULL,
    content             text         NOT NULL,
    embedding           vector,
    embedding_config_id uuid,
    embedding_id        varchar(255),
    source              varchar(100),
    quality_score       numeric(5,4),
    tags                text[]       NOT NULL DEFAULT '{}',
    metadata            jsonb        NOT NULL DEFAULT '{}',
    created_at          timestamptz  NOT NULL DEFAULT now(),
    updated_at          timestamptz  NOT NULL DEFAULT now(),
    expires_at          timestamptz,
    document_key        text,
    media_type          varchar(100) NOT NULL DEFAULT 'text/plain',
    source_hash         bytea,
    version             integer      NOT NULL DEFAULT 1,
    quality_by          varchar(20)  NOT NULL DEFAULT 'rule',
    page_starts         integer[]    NOT NULL DEFAULT '{}',
    chunk_tokens        integer,
    overlap_tokens      integer,
    CONSTRAINT rag_knowledge_pkey PRIMARY KEY (id),
    CONSTRAINT rag_knowledge_embedding_check CHECK ((embedding IS NULL) = (embedding_config_id IS NULL)),
    CONSTRAINT rag_knowledge_source_check CHECK (source IN ('manual', 'checkpoint', 'agent_learning')),
    CONSTRAINT rag_knowledge_quality_score_check CHECK (quality_score BETWEEN 0 AND 1),
    CONSTRAINT rag_knowledge_quality_by_check CHECK (quality_by IN ('rule', 'manual')),
    CONSTRAINT rag_knowledge_source_hash_check CHECK (octet_length(source_hash) = 32),
    CONSTRAINT rag_knowledge_version_check CHECK (version >= 1),
    CONSTRAINT rag_knowledge_chunking_check CHECK (chunk_tokens >= 1 AND overlap_tokens >= 0 AND overlap_tokens < chunk_tokens)
);

COMMENT ON TABLE rag_knowledge IS 'Knowledge agents look up: patterns, failures, solutions ...';
COMMENT ON COLUMN rag_knowledge.user_id IS 'Tenant whose own it is; NULL: shared with all.';
COMMENT ON COLUMN rag_knowledge.knowledge_type IS 'pattern, failure, solution ... An open set.';
COMMENT ON COLUMN rag_knowledge.embedding IS 'Vector of the content; its length follows from the model. Search compares only vectors of one embedding_config_id.';
COMMENT ON COLUMN rag_knowledge.embedding_config_id IS 'Model that made the vector.';
COMMENT ON COLUMN rag_knowledge.embedding_id IS 'Id of the point in the Qdrant projection, when there is one.';
COMMENT ON COLUMN rag_knowledge.source IS 'manual, checkpoint or agent_learning.';
COMMENT ON COLUMN rag_knowledge.quality_score IS '0 to 1.';
COMMENT ON COLUMN rag_knowledge.expires_at IS 'Not found from this moment on, and deleted soon after; NULL: never.';
COMMENT ON COLUMN rag_knowledge.document_key IS 'What its owner names it by: a file''s or page''s address, or an own name; a new text under it replaces the old one. NULL: none.';
COMMENT ON COLUMN rag_knowledge.media_type IS 'Type of what was added; content is the text read from it.';
COMMENT ON COLUMN rag_knowledge.source_hash IS 'SHA-256 of the bytes that were added.';
COMMENT ON COLUMN rag_knowledge.version IS '1, and one more for each text that replaced an older one.';
COMMENT ON COLUMN rag_knowledge.quality_by IS 'rule: quality_score follows from the text; manual: somebody set it.';
COMMENT ON COLUMN rag_knowledge.page_starts IS 'Offset in content, in characters, at which each page begins; empty without pages.';
COMMENT ON COLUMN rag_knowledge.chunk_tokens IS 'Size of a chunk when it was cut, in tokens; NULL: not cut yet.';
COMMENT ON COLUMN rag_knowledge.overlap_tokens IS 'How much of a chunk the next one repeats, in tokens.';

-- What is known of this kind?
CREATE INDEX idx_rag_knowledge_type ON rag_knowledge (knowledge_type);
-- What was learned lately?
CREATE INDEX idx_rag_knowledge_created ON rag_knowledge (created_at);
-- What has expired?
CREATE INDEX idx_rag_knowledge_expires ON rag_knowledge (expires_at);
-- Which knowledge holds these words?
CREATE INDEX rag_knowledge_content_idx ON rag_knowledge USING gin (to_tsvector('simple', title || ' ' || left(content, 250000)));
-- What does this tenant know?
CREATE INDEX rag_knowledge_user_id_idx ON rag_knowledge (user_id);
-- Has this tenant added these very bytes? Refuses a second document of them.
CREATE UNIQUE INDEX rag_knowledge_user_id_source_hash_key ON rag_knowledge (user_id, source_hash);
-- Which document does this tenant name so? Refuses a second one. By its digest: a key may be longer than an index entry.
CREATE UNIQUE INDEX rag_knowledge_user_id_document_key_key ON rag_knowledge (user_id, helix_sha256(document_key));
-- What is known in this project?
CREATE INDEX rag_knowledge_project_id_idx ON rag_knowledge (project_id) WHERE project_id IS NOT NULL;
-- Which vectors did this model make?
CREATE INDEX rag_knowledge_embedding_config_id_idx ON rag_knowledge (embedding_config_id) WHERE embedding_config_id IS NOT NULL;

CREATE TRIGGER rag_knowledge_set_updated_at BEFORE UPDATE ON rag_knowledge FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- knowledge_tombstones: one row per document that was removed. Written by a trigger with the removal and never removed: a restored backup
-- is cleansed with it, projections read it to erase their copies. Ids only, so it outlives its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE knowledge_tombstones (
    document_id uuid        NOT NULL,
    user_id     uuid,
    removed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT knowledge_tombstones_pkey PRIMARY KEY (document_id)
);

COMMENT ON TABLE knowledge_tombstones IS 'Ids of removed documents: what a restored backup and every projection must not hold.';
COMMENT ON COLUMN knowledge_tombstones.document_id IS 'Joined rag_knowledge; no FK, the document is gone.';
COMMENT ON COLUMN knowledge_tombstones.user_id IS 'Tenant it was of, NULL for everybody''s; no FK, the record outlives the user.';

-- Which documents did this tenant remove?
CREATE INDEX knowledge_tombstones_user_id_idx ON knowledge_tombstones (user_id);
-- What was removed since? (restores, projections)
CREATE INDEX knowledge_tombstones_removed_at_idx ON knowledge_tombstones (removed_at);

-- SECURITY DEFINER because who removes an account or a shared document need not see the tombstones of its tenant.
CREATE FUNCTION knowledge_record_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.knowledge_tombstones (document_id, user_id) SELECT g.id, g.user_id FROM gone AS g ON CONFLICT (document_id) DO NOTHING;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION knowledge_record_removed() IS 'Trigger: documents that go leave tombstones, without text.';
REVOKE EXECUTE ON FUNCTION knowledge_record_removed() FROM PUBLIC;
CREATE TRIGGER knowledge_record_removed AFTER DELETE ON rag_knowledge REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION knowledge_record_removed();
