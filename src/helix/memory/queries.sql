-- Statements of memory. They run as helix_app under the tenant's setting, or as helix_operator; every one names the user.

-- name: insert_memories
-- Add memories in the given order; one that a live memory already says exactly is left out. What is over already began when it ended,
-- at the latest.
-- Index: memories_user_id_content_hash_key. Locks: only its own rows; waits for a transaction that adds the same text.
INSERT INTO memories (id, user_id, session_id, project_id, agent_id, content, memory_type, entities, relationships, speaker, confidence,
    importance, source_response_id, conversation_id, valid_from, valid_to, tags, metadata)
SELECT g.id, :user_id, g.session_id, g.project_id, g.agent_id, g.content, g.memory_type, g.entities, g.relationships, g.speaker, g.confidence,
       g.importance, g.source_response_id, g.conversation_id, coalesce(g.valid_from, least(:now::timestamptz, g.valid_to)), g.valid_to, g.tags, g.metadata
FROM ROWS FROM (jsonb_to_recordset(:memories::jsonb) AS (
    id uuid, session_id uuid, project_id uuid, agent_id text, content text, memory_type text, entities jsonb, relationships jsonb, speaker text,
    confidence numeric, importance numeric, source_response_id uuid, conversation_id uuid, valid_from timestamptz, valid_to timestamptz,
    tags text[], metadata jsonb)) WITH ORDINALITY AS g
ORDER BY g.ordinality
ON CONFLICT (user_id, content_hash) WHERE deleted_at IS NULL DO NOTHING
RETURNING id;

-- name: ids_by_content
-- Which live memories say exactly these texts? Index: memories_user_id_content_hash_key.
SELECT c.ordinality AS place, m.id, m.merged_into
FROM unnest(:contents::text[]) WITH ORDINALITY AS c (content, ordinality)
JOIN memories AS m ON m.user_id = :user_id AND m.content_hash = helix_sha256(c.content) AND m.deleted_at IS NULL;

-- name: put_search_rows
-- Write what search knows of memories, from the memories themselves and the analysis of their texts. Index: memories_pkey, as in every
-- LATERAL … LIMIT 1 of this file: joined plainly, a plan made for the average user reads all memories of a large one instead.
-- Locks: only its own rows.
INSERT INTO memory_search AS s (memory_id, user_id, conversation_id, session_id, project_id, agent_id, memory_type, valid_from, valid_to,
    terms, facts, speaker, version)
SELECT m.id, m.user_id, m.conversation_id, m.session_id, m.project_id, m.agent_id, m.memory_type, m.valid_from, m.valid_to,
       ARRAY(SELECT jsonb_array_elements_text(g.terms)::integer), g.facts, g.speaker, :version
FROM jsonb_to_recordset(:rows::jsonb) AS g (id uuid, terms jsonb, facts integer, speaker integer) CROSS JOIN LATERAL (
    SELECT k.id, k.user_id, k.conversation_id, k.session_id, k.project_id, k.agent_id, k.memory_type, k.valid_from, k.valid_to
    FROM memories AS k WHERE k.id = g.id AND k.user_id = :user_id AND k.merged_into IS NULL AND k.deleted_at IS NULL LIMIT 1) AS m
ON CONFLICT (memory_id) DO UPDATE
SET conversation_id = excluded.conversation_id, session_id = excluded.session_id, project_id = excluded.project_id, agent_id = excluded.agent_id,
    memory_type = excluded.memory_type, valid_from = excluded.valid_from, valid_to = excluded.valid_to, terms = excluded.terms,
    facts = excluded.facts, speaker = excluded.speaker, version = excluded.version;

-- name: drop_search_rows
-- Take memories out of search. Index: memory_search_pkey. Locks: those rows.
DELETE FROM memory_search WHERE memory_id = ANY(:ids::uuid[]) AND user_id = :user_id;

-- name: sync_search_ends
-- Bring the ends of validity over to search. Index: memory_search_pkey. Locks: those rows.
UPDATE memory_search AS s SET valid_to = m.valid_to
FROM memories AS m WHERE m.id = s.memory_id AND s.memory_id = ANY(:ids::uuid[]) AND s.user_id = :user_id;

-- name: unsearchable
-- Live memories that search knows nothing of, or by an older analysis. Index: memories_pkey, memory_search_pkey.
SELECT m.id, m.user_id, m.content, m.speaker
FROM memories AS m LEFT JOIN memory_search AS s ON s.memory_id = m.id
WHERE (:user_id::uuid IS NULL OR m.user_id = :user_id) AND m.deleted_at IS NULL AND m.merged_into IS NULL
  AND (s.memory_id IS NULL OR s.version <> :version) AND (:after_id::uuid IS NULL OR m.id > :after_id)
ORDER BY m.id LIMIT :max_count;

-- name: count_scope
-- How many memories may this user find, counted up to a limit? Index: memory_search_user_id_idx.
SELECT count(*) AS count FROM (SELECT FROM memory_search WHERE user_id = :user_id LIMIT :most) AS counted;

-- name: whole_scope
-- Every memory the user may find, packed, and the cosine of every vector the user has of one model to the question's (none without a
-- vector), exact: one row, a value a column; and how many memories that are, filters apart. Nothing but that if they are more than `most`.
-- The question's vector stands in a sub-select so that its text is read once, not for every row.
-- Index: memory_search_user_id_idx, memory_embeddings_user_id_idx.
WITH counted AS MATERIALIZED (
    SELECT count(*) AS size FROM (SELECT FROM memory_search WHERE user_id = :user_id LIMIT :most::bigint + 1) AS c)
SELECT (SELECT size FROM counted) AS size, t.rows, t.lengths, v.ids, v.cosines
FROM (SELECT coalesce(string_agg(s.packed, ''), '') AS rows, coalesce(string_agg(int4send(octet_length(s.packed)), ''), '') AS lengths
      FROM memory_search AS s
      WHERE (SELECT size FROM counted) <= :most AND s.user_id = :user_id
        AND (:session_id::uuid IS NULL OR s.session_id = :session_id)
        AND (:conversation_id::uuid IS NULL OR s.conversation_id = :conversation_id)
        AND (:project_id::uuid IS NULL OR s.project_id = :project_id)
        AND (:agent_id::text IS NULL OR s.agent_id = :agent_id)
        AND (:memory_type::text IS NULL OR s.memory_type = :memory_type)
        AND (s.valid_to IS NULL OR s.valid_to > :at) AND (NOT :past OR s.valid_from <= :at)) AS t
CROSS JOIN
     (SELECT coalesce(string_agg(uuid_send(e.memory_id), ''), '') AS ids,
             coalesce(string_agg(float4send((1 - (e.embedding <=> (SELECT (:vector::text)::halfvec)))::real), ''), '') AS cosines
      FROM memory_embeddings AS e
      WHERE (SELECT size FROM counted) <= :most AND :vector::text IS NOT NULL
        AND e.user_id = :user_id AND e.embedding_config_id = :config_id AND e.dimension = :dimension) AS v;

-- name: part_scope
-- The same for some memories and, of those in the middle, those beside them in their conversations: two each way, more of the heart.
-- They are looked up as sorted arrays: an index is walked once, not entered for each (17 ms of 20 for 1,250 of them).
-- Index: memory_search_pkey, memory_search_conversation_idx, memory_embeddings_pkey.
WITH chosen AS MATERIALIZED (
    SELECT c.memory_id, c.conversation_id, c.valid_from FROM memory_search AS c WHERE c.memory_id = ANY(:ids::uuid[]) AND c.user_id = :user_id
), wider AS MATERIALIZED (
    SELECT memory_id FROM chosen
    UNION
    SELECT b.memory_id FROM (SELECT memory_id, conversation_id, valid_from FROM chosen WHERE conversation_id IS NOT NULL AND memory_id = ANY(:middle::uuid[])) AS c CROSS JOIN LATERAL (
        (SELECT n.memory_id FROM memory_search AS n WHERE n.conversation_id = c.conversation_id AND n.user_id = :user_id
            AND (n.valid_from, n.memory_id) > (c.valid_from, c.memory_id) ORDER BY n.valid_from, n.memory_id LIMIT CASE WHEN c.memory_id = ANY(:heart::uuid[]) THEN :most_beside::integer ELSE 2 END)
        UNION ALL
        (SELECT p.memory_id FROM memory_search AS p WHERE p.conversation_id = c.conversation_id AND p.user_id = :user_id
            AND (p.valid_from, p.memory_id) < (c.valid_from, c.memory_id) ORDER BY p.valid_from DESC, p.memory_id DESC LIMIT CASE WHEN c.memory_id = ANY(:heart::uuid[]) THEN :most_beside::integer ELSE 2 END)) AS b)
SELECT t.rows, t.lengths, v.ids, v.cosines
FROM (SELECT coalesce(string_agg(s.packed, ''), '') AS rows, coalesce(string_agg(int4send(octet_length(s.packed)), ''), '') AS lengths
      FROM memory_search AS s
      WHERE s.memory_id = ANY(ARRAY(SELECT w.memory_id FROM wider AS w)) AND s.user_id = :user_id
        AND (:session_id::uuid IS NULL OR s.session_id = :session_id)
        AND (:conversation_id::uuid IS NULL OR s.conversation_id = :conversation_id)
        AND (:project_id::uuid IS NULL OR s.project_id = :project_id)
        AND (:agent_id::text IS NULL OR s.agent_id = :agent_id)
        AND (:memory_type::text IS NULL OR s.memory_type = :memory_type)
        AND (s.valid_to IS NULL OR s.valid_to > :at) AND (NOT :past OR s.valid_from <= :at)) AS t
CROSS JOIN
     (SELECT coalesce(string_agg(uuid_send(e.memory_id), ''), '') AS ids,
             coalesce(string_agg(float4send((1 - (e.embedding <=> (SELECT (:vector::text)::halfvec)))::real), ''), '') AS cosines
      FROM memory_embeddings AS e
      WHERE e.memory_id = ANY(ARRAY(SELECT w.memory_id FROM wider AS w)) AND :vector::text IS NOT NULL AND e.user_id = :user_id AND e.embedding_config_id = :config_id AND e.dimension = :dimension) AS v;

-- name: filtered_ids
-- Which memories of a large user pass the filters, at most so many? Index: memory_search_user_id_idx.
SELECT s.memory_id FROM memory_search AS s
WHERE s.user_id = :user_id
  AND (:session_id::uuid IS NULL OR s.session_id = :session_id)
  AND (:conversation_id::uuid IS NULL OR s.conversation_id = :conversation_id)
  AND (:project_id::uuid IS NULL OR s.project_id = :project_id)
  AND (:agent_id::text IS NULL OR s.agent_id = :agent_id)
  AND (:memory_type::text IS NULL OR s.memory_type = :memory_type)
  AND (s.valid_to IS NULL OR s.valid_to > :at) AND (NOT :past OR s.valid_from <= :at)
LIMIT :most;

-- name: word_candidates
-- Memories of a large user that hold words of the question, those with the most and rarest of them first, with who speaks in them and in
-- how many memories each word is. Of a word at most so many are looked at; of words in more, memories that hold two. To be run as
-- helix_operator: under a tenant's policy no index of terms may be used (array operators are not leakproof). What it leads to is read
-- under the policy. Index: memory_search_terms_idx; the user is asked so that no second index is combined with it.
WITH asked AS (
    SELECT a.term, a.place, hashint4extended(a.term, uuid_hash_extended(:user_id::uuid, 0)) AS scoped
    FROM unnest(:terms::integer[]) WITH ORDINALITY AS a (term, place)
), held AS MATERIALIZED (
    SELECT a.term, h.memory_id, h.speaker FROM asked AS a CROSS JOIN LATERAL (
        SELECT s.memory_id, s.speaker FROM memory_search AS s
        WHERE helix_scoped_terms(s.user_id, s.terms) @> ARRAY[a.scoped] AND (s.user_id = :user_id) IS TRUE LIMIT :per_term) AS h
), counted AS (
    SELECT h.term, count(*) AS counted,
           CASE WHEN count(*) < :per_term THEN count(*) ELSE greatest(count(*), :total::bigint / 20) END AS found
    FROM held AS h GROUP BY h.term
), common AS MATERIALIZED (
    SELECT a.term, a.place, a.scoped FROM asked AS a JOIN counted AS c ON c.term = a.term
    WHERE c.counted >= :per_term ORDER BY a.place LIMIT :common_max
), pairs AS (
    SELECT p.term AS first, q.term AS second, h.memory_id
    FROM common AS p JOIN common AS q ON q.place > p.place CROSS JOIN LATERAL (
        SELECT s.memory_id FROM memory_search AS s
        WHERE helix_scoped_terms(s.user_id, s.terms) @> ARRAY[p.scoped, q.scoped] AND (s.user_id = :user_id) IS TRUE LIMIT :per_pair) AS h
), known AS (
    SELECT h.term, h.memory_id FROM held AS h
    UNION
    SELECT e.term, p.memory_id FROM pairs AS p CROSS JOIN LATERAL (VALUES (p.first), (p.second)) AS e (term)
), best AS (
    SELECT k.memory_id, sum(ln(1 + :total::float8 / c.found)) AS weight
    FROM known AS k JOIN counted AS c ON c.term = k.term GROUP BY k.memory_id ORDER BY weight DESC, k.memory_id LIMIT :most)
SELECT ARRAY(SELECT b.memory_id FROM best AS b ORDER BY b.weight DESC, b.memory_id) AS ids,
       ARRAY(SELECT DISTINCT h.speaker FROM held AS h) AS speakers,
       ARRAY(SELECT c.term FROM counted AS c ORDER BY c.term) AS terms,
       ARRAY(SELECT c.found FROM counted AS c ORDER BY c.term) AS found;

-- name: cosines
-- The cosine of every vector the user has of one model to the question's, packed. Exact. Index: memory_embeddings_user_id_idx.
SELECT coalesce(string_agg(uuid_send(e.memory_id), ''), '') AS ids,
       coalesce(string_agg(float4send((1 - (e.embedding <=> (SELECT (:vector::text)::halfvec)))::real), ''), '') AS cosines
FROM memory_embeddings AS e
WHERE e.user_id = :user_id AND e.embedding_config_id = :config_id AND e.dimension = :dimension;

-- name: without_vector
-- Searchable memories of a user that have no vector of a model. Index: memory_search_user_id_idx, memory_embeddings_pkey.
SELECT m.id, m.content
FROM memory_search AS s JOIN memories AS m ON m.id = s.memory_id
WHERE s.user_id = :user_id AND (:after_id::uuid IS NULL OR s.memory_id > :after_id)
  AND NOT EXISTS (SELECT FROM memory_embeddings AS e
                  WHERE e.memory_id = s.memory_id AND e.embedding_config_id = :config_id AND e.dimension = :dimension)
ORDER BY s.memory_id LIMIT :max_count;

-- name: count_without_vector
-- How many are they? Index: memory_search_user_id_idx, memory_embeddings_pkey.
SELECT count(*) AS count FROM memory_search AS s
WHERE s.user_id = :user_id
  AND NOT EXISTS (SELECT FROM memory_embeddings AS e
                  WHERE e.memory_id = s.memory_id AND e.embedding_config_id = :config_id AND e.dimension = :dimension);

-- name: users_without_vectors
-- Users, in the order of ids, who have searchable memories without a vector of a model. Reads all of memory_search: for maintenance.
SELECT DISTINCT s.user_id FROM memory_search AS s
WHERE (:after_id::uuid IS NULL OR s.user_id > :after_id)
  AND NOT EXISTS (SELECT FROM memory_embeddings AS e
                  WHERE e.memory_id = s.memory_id AND e.embedding_config_id = :config_id::uuid AND e.dimension = :dimension)
ORDER BY s.user_id LIMIT :max_count;

-- name: put_vectors
-- Keep vectors; a memory forgotten or changed meanwhile gets none. Index: memories_pkey. Locks: its own rows, and the memories for share.
INSERT INTO memory_embeddings AS e (memory_id, embedding_config_id, dimension, user_id, embedding, part)
SELECT m.id, :config_id, :dimension, m.user_id, g.vector::halfvec, g.part
FROM ROWS FROM (unnest(:ids::uuid[]), unnest(:hashes::bytea[]), unnest(:vectors::text[]), unnest(:parts::smallint[])) AS g (id, hash, vector, part)
CROSS JOIN LATERAL (SELECT k.id, k.user_id FROM memories AS k WHERE k.id = g.id AND k.user_id = :user_id AND k.content_hash = g.hash LIMIT 1) AS m
ON CONFLICT (memory_id, embedding_config_id, dimension, part) DO UPDATE SET embedding = excluded.embedding
RETURNING e.part;

-- name: drop_vectors
-- Take the vectors of a memory whose text has changed. Index: memory_embeddings_pkey.
DELETE FROM memory_embeddings WHERE memory_id = :memory_id AND user_id = :user_id;

-- name: memories_by_id
-- Index: memories_pkey.
SELECT m.id, m.user_id, m.content, m.memory_type, m.speaker, m.session_id, m.conversation_id, m.project_id, m.agent_id, m.source_response_id,
       m.confidence, m.importance, m.access_count, m.last_accessed, m.valid_from, m.valid_to, m.merged_into, m.tags, m.entities, m.relationships,
       m.metadata, m.created_at, m.updated_at
FROM unnest(:ids::uuid[]) AS g (id) CROSS JOIN LATERAL (
    SELECT * FROM memories AS k WHERE k.id = g.id AND k.user_id = :user_id AND k.deleted_at IS NULL LIMIT 1) AS m;

-- name: memories_page
-- Newest first, from a keyset mark on. Index: memories_pkey backwards, filtered by user; idx_memories_user_id for small users.
SELECT id, user_id, content, memory_type, speaker, session_id, conversation_id, project_id, agent_id, source_response_id, confidence,
       importance, access_count, last_accessed, valid_from, valid_to, merged_into, tags, entities, relationships, metadata, created_at, updated_at
FROM memories
WHERE user_id = :user_id AND deleted_at IS NULL AND (:merged OR merged_into IS NULL)
  AND (:session_id::uuid IS NULL OR session_id = :session_id)
  AND (:conversation_id::uuid IS NULL OR conversation_id = :conversation_id)
  AND (:project_id::uuid IS NULL OR project_id = :project_id)
  AND (:agent_id::text IS NULL OR agent_id = :agent_id)
  AND (:memory_type::text IS NULL OR memory_type = :memory_type)
  AND (:at::timestamptz IS NULL OR (valid_from <= :at AND (valid_to IS NULL OR valid_to > :at)))
  AND (:after_id::uuid IS NULL OR id < :after_id)
ORDER BY id DESC LIMIT :max_count;

-- name: change_memory
-- Change what is given of a memory. Index: memories_pkey. Locks: its row.
UPDATE memories
SET content = coalesce(:content, content), memory_type = coalesce(:memory_type, memory_type), speaker = coalesce(:speaker, speaker),
    confidence = coalesce(:confidence, confidence), importance = coalesce(:importance, importance),
    valid_from = coalesce(:valid_from, valid_from), valid_to = coalesce(:valid_to, valid_to), tags = coalesce(:tags::text[], tags),
    metadata = coalesce(:metadata::jsonb, metadata), entities = coalesce(:entities::jsonb, entities),
    relationships = coalesce(:relationships::jsonb, relationships)
WHERE id = :memory_id AND user_id = :user_id AND deleted_at IS NULL
RETURNING id;

-- name: count_access
-- Count that memories were handed out. Index: memories_pkey. Locks: their rows, in the order of ids.
UPDATE memories AS m SET access_count = m.access_count + g.times, last_accessed = :now
FROM (SELECT l.id, t.times FROM (SELECT u.id, u.times FROM unnest(:ids::uuid[], :times::integer[]) AS u (id, times) ORDER BY u.id) AS t
      CROSS JOIN LATERAL (SELECT k.id FROM memories AS k WHERE k.id = t.id AND k.user_id = :user_id FOR UPDATE) AS l) AS g
WHERE m.id = g.id AND m.id = ANY(:ids::uuid[]);

-- name: forget
-- Erase memories with all that is derived from them (see forget_memories). Locks: their rows.
SELECT forget_memories AS id FROM forget_memories(:user_id, :ids::uuid[]);

-- name: sources_of
-- From which conversations and answers were memories drawn? Those merged into them count too. Index: memories_pkey, memories_merged_into_idx.
SELECT DISTINCT conversation_id, source_response_id FROM memories
WHERE user_id = :user_id AND (id = ANY(:ids::uuid[]) OR merged_into = ANY(:ids::uuid[]))
  AND (conversation_id IS NOT NULL OR source_response_id IS NOT NULL);

-- name: ids_of_user
-- Every memory of a user, merged ones too, in pages. Index: idx_memories_user_id.
SELECT id FROM memories WHERE user_id = :user_id LIMIT :max_count;

-- name: drop_graph_of_user
-- What is left of a user's graph when no memory is: entities stated without a memory. Index: memory_entities_user_id_name_key_idx.
DELETE FROM memory_entities WHERE user_id = :user_id;

-- name: tombstones_since
-- What was forgotten from a moment on, oldest first. Index: memory_tombstones_forgotten_at_idx.
SELECT memory_id, user_id, forgotten_at FROM memory_tombstones WHERE forgotten_at >= :since ORDER BY forgotten_at, memory_id LIMIT :max_count;

-- name: apply_tombstones
-- Erase again from a restored database (see apply_memory_tombstones).
SELECT apply_memory_tombstones(:tombstones::jsonb) AS erased;

-- name: insert_uses
-- Record which memories a request used; repeating is harmless. Locks: none but its own rows.
INSERT INTO memory_uses (request_id, memory_id, user_id, rank, score, used_at)
SELECT :request_id, g.id, :user_id, g.ordinality, g.score, :now
FROM unnest(:ids::uuid[], :scores::real[]) WITH ORDINALITY AS g (id, score, ordinality)
CROSS JOIN LATERAL (SELECT FROM memories AS k WHERE k.id = g.id AND k.user_id = :user_id LIMIT 1) AS m
ON CONFLICT (request_id, memory_id) DO NOTHING
RETURNING memory_id;

-- name: uses_of_memory
-- Which requests used this memory, newest first? Index: memory_uses_memory_id_idx.
SELECT request_id, rank, score, used_at FROM memory_uses WHERE memory_id = :memory_id AND user_id = :user_id
ORDER BY used_at DESC, request_id LIMIT :max_count;

-- name: uses_of_request
-- Which memories did this request use, in order? Index: memory_uses_pkey.
SELECT memory_id, rank, score, used_at FROM memory_uses WHERE request_id = :request_id AND user_id = :user_id ORDER BY rank;

-- name: tune_nearest
-- Settings of one search by an index, until the transaction ends. A generic plan could not see that the user has an index.
SELECT set_config('hnsw.ef_search', :ef_search, true), set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: nearest_384
-- The nearest of a user's vectors of 384 numbers. Index: the user's own memory_embeddings_hnsw_..., else memory_embeddings_user_id_idx.
SELECT memory_id FROM memory_embeddings
WHERE user_id = :user_id AND embedding_config_id = :config_id AND dimension = 384
ORDER BY embedding::halfvec(384) <=> (SELECT (:vector::text)::halfvec(384)) LIMIT :max_count;

-- name: nearest_768
-- The nearest of a user's vectors of 768 numbers. Index: the user's own memory_embeddings_hnsw_..., else memory_embeddings_user_id_idx.
SELECT memory_id FROM memory_embeddings
WHERE user_id = :user_id AND embedding_config_id = :config_id AND dimension = 768
ORDER BY embedding::halfvec(768) <=> (SELECT (:vector::text)::halfvec(768)) LIMIT :max_count;

-- name: nearest_1024
-- The nearest of a user's vectors of 1024 numbers. Index: the user's own memory_embeddings_hnsw_..., else memory_embeddings_user_id_idx.
SELECT memory_id FROM memory_embeddings
WHERE user_id = :user_id AND embedding_config_id = :config_id AND dimension = 1024
ORDER BY embedding::halfvec(1024) <=> (SELECT (:vector::text)::halfvec(1024)) LIMIT :max_count;

-- name: nearest_1536
-- The nearest of a user's vectors of 1536 numbers. Index: the user's own memory_embeddings_hnsw_..., else memory_embeddings_user_id_idx.
SELECT memory_id FROM memory_embeddings
WHERE user_id = :user_id AND embedding_config_id = :config_id AND dimension = 1536
ORDER BY embedding::halfvec(1536) <=> (SELECT (:vector::text)::halfvec(1536)) LIMIT :max_count;

-- name: nearest_3072
-- The nearest of a user's vectors of 3072 numbers. Index: the user's own memory_embeddings_hnsw_..., else memory_embeddings_user_id_idx.
SELECT memory_id FROM memory_embeddings
WHERE user_id = :user_id AND embedding_config_id = :config_id AND dimension = 3072
ORDER BY embedding::halfvec(3072) <=> (SELECT (:vector::text)::halfvec(3072)) LIMIT :max_count;

-- name: nearest_any
-- The same for any other length, exactly: the + 0 keeps every index away. Index: memory_embeddings_user_id_idx.
SELECT memory_id FROM memory_embeddings
WHERE user_id = :user_id AND embedding_config_id = :config_id AND dimension = :dimension
ORDER BY (embedding <=> (SELECT (:vector::text)::halfvec)) + 0 LIMIT :max_count;

-- name: wanted_indexes
-- Users with many vectors of one model and no index of their own yet, with the statement that makes it; and indexes no longer wanted.
-- Reads all of memory_embeddings: for maintenance, as the owner.
WITH large AS (
    SELECT e.user_id, e.embedding_config_id, e.dimension, count(*) AS vectors,
           format('memory_embeddings_hnsw_%s', left(md5(e.user_id::text || e.embedding_config_id::text), 16)) AS name
    FROM memory_embeddings AS e WHERE e.dimension = ANY(:dimensions::integer[])
    GROUP BY e.user_id, e.embedding_config_id, e.dimension HAVING count(*) > :more_than
), there AS (
    SELECT c.relname AS name, x.indisvalid AS valid FROM pg_class AS c JOIN pg_index AS x ON x.indexrelid = c.oid
    WHERE c.relname LIKE 'memory\_embeddings\_hnsw\_%' AND c.relnamespace = 'public'::regnamespace)
SELECT l.user_id, l.vectors, l.name,
       format('CREATE INDEX CONCURRENTLY %I ON %I USING hnsw ((embedding::halfvec(%s)) halfvec_cosine_ops) WHERE user_id = %L AND embedding_config_id = %L',
              l.name, format('memory_embeddings_%s', l.dimension), l.dimension, l.user_id, l.embedding_config_id) AS statement
FROM large AS l WHERE NOT EXISTS (SELECT FROM there AS t WHERE t.name = l.name AND t.valid)
UNION ALL
SELECT NULL, NULL, t.name, format('DROP INDEX CONCURRENTLY IF EXISTS %I', t.name)
FROM there AS t WHERE NOT t.valid OR NOT EXISTS (SELECT FROM large AS l WHERE l.name = t.name)
ORDER BY user_id NULLS FIRST;

-- name: user_by_name
-- The account of an id, address or user name. Index: users_pkey, users_email_key, users_username_key.
SELECT id FROM users WHERE id = :user_id OR lower(email) = lower(:name) OR username = :name LIMIT 1;
