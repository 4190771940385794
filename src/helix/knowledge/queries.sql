-- Statements of knowledge. They run as helix_app under the tenant's setting, or as helix_operator; every one names the user.

-- name: lock_user
-- One addition of a user at a time, so that equal bytes and equal keys meet. Locks: an advisory one of this user, until the end.
SELECT pg_advisory_xact_lock(hashtextextended('helix.knowledge', 0) # hashtextextended(:user_id::uuid::text, 1));

-- name: find_same
-- The user's documents of these bytes and of this key. Index: rag_knowledge_user_id_source_hash_key, rag_knowledge_user_id_document_key_key.
SELECT id, source_hash, document_key, media_type, version, chunk_tokens, overlap_tokens, quality_score, quality_by,
       expires_at <= :now AS expired
FROM rag_knowledge WHERE user_id = :user_id AND source_hash = :source_hash
UNION
SELECT id, source_hash, document_key, media_type, version, chunk_tokens, overlap_tokens, quality_score, quality_by,
       expires_at <= :now AS expired
FROM rag_knowledge WHERE user_id = :user_id AND helix_sha256(document_key) = helix_sha256(:key::text) AND document_key = :key;

-- name: known_hashes
-- Which of these bytes does the user have, cut so and not expired? Index: rag_knowledge_user_id_source_hash_key.
SELECT source_hash FROM rag_knowledge
WHERE user_id = :user_id AND source_hash = ANY(:hashes::bytea[]) AND chunk_tokens = :chunk_tokens AND overlap_tokens = :overlap_tokens
  AND (expires_at IS NULL OR expires_at > :now);

-- name: insert_document
-- A new document. Locks: none but its own row.
INSERT INTO rag_knowledge (id, user_id, project_id, knowledge_type, title, content, source, quality_score, quality_by, tags, metadata,
    expires_at, document_key, media_type, source_hash, page_starts, chunk_tokens, overlap_tokens, created_at, updated_at)
VALUES (:id, :user_id, :project_id, :knowledge_type, :title, :content, :source, :quality, :quality_by, :tags, :metadata,
    :expires_at, :key, :media_type, :source_hash, :page_starts, :chunk_tokens, :overlap_tokens, :now, :now);

-- name: replace_document
-- A new text of a document; what somebody said of its quality stays said. Index: rag_knowledge_pkey. Locks: its row.
UPDATE rag_knowledge
SET project_id = :project_id, knowledge_type = :knowledge_type, title = :title, content = :content, source = :source,
    quality_score = :quality, quality_by = :quality_by, tags = :tags, metadata = :metadata, expires_at = :expires_at,
    document_key = coalesce(:key, document_key), media_type = :media_type, source_hash = :source_hash, page_starts = :page_starts,
    chunk_tokens = :chunk_tokens, overlap_tokens = :overlap_tokens, version = version + 1,
    embedding = NULL, embedding_config_id = NULL
WHERE id = :id AND user_id = :user_id;

-- name: set_chunking
-- Say how a document written by other ways was cut. Index: rag_knowledge_pkey. Locks: its row.
UPDATE rag_knowledge
SET chunk_tokens = :chunk_tokens, overlap_tokens = :overlap_tokens, quality_score = coalesce(quality_score, :quality)
WHERE id = :id AND user_id = :user_id AND chunk_tokens IS NULL AND content = :content
RETURNING id;

-- name: insert_chunks
-- Chunks of a document. Locks: none but their own rows, and the document for share.
INSERT INTO vector_documents (id, user_id, project_id, chunk_number, title, content, knowledge_id, start_char, end_char, first_page, last_page,
    headings, token_count, terms, facts, analysis_version)
SELECT g.id, :user_id, :project_id, g.number, :title, g.content, :document_id, g.start_char, g.end_char, g.first_page, g.last_page,
       ARRAY(SELECT jsonb_array_elements_text(g.headings)), g.tokens, ARRAY(SELECT jsonb_array_elements_text(g.terms)::integer), g.facts, :version
FROM jsonb_to_recordset(:chunks::jsonb) AS g (id uuid, number integer, content text, start_char integer, end_char integer, first_page integer,
    last_page integer, headings jsonb, tokens integer, terms jsonb, facts integer);

-- name: drop_chunks
-- All chunks of a document. Index: vector_documents_knowledge_id_chunk_number_key.
DELETE FROM vector_documents WHERE knowledge_id = :document_id AND user_id = :user_id;

-- name: put_analyses
-- A newer analysis of chunks. Index: vector_documents_pkey. Locks: their rows.
UPDATE vector_documents AS v
SET terms = ARRAY(SELECT jsonb_array_elements_text(g.terms)::integer), facts = g.facts, analysis_version = :version
FROM jsonb_to_recordset(:chunks::jsonb) AS g (id uuid, terms jsonb, facts integer)
WHERE v.id = g.id AND v.user_id = :user_id;

-- name: uncut_documents
-- Documents of users that were written by other ways and never cut. Reads rag_knowledge in the order of ids: for maintenance.
SELECT id, user_id, project_id, title, content, media_type, page_starts, coalesce(source, 'manual') AS source FROM rag_knowledge
WHERE chunk_tokens IS NULL AND user_id IS NOT NULL AND (expires_at IS NULL OR expires_at > :now) AND (:after_id::uuid IS NULL OR id > :after_id)
ORDER BY id LIMIT :max_count;

-- name: old_analyses
-- Chunks of an older analysis, of all users. Reads vector_documents in the order of ids: for maintenance.
SELECT id, user_id, title, headings, content FROM vector_documents
WHERE knowledge_id IS NOT NULL AND analysis_version <> :version AND (:after_id::uuid IS NULL OR id > :after_id)
ORDER BY id LIMIT :max_count;

-- name: documents_by_id
-- Index: rag_knowledge_pkey, vector_documents_knowledge_id_chunk_number_key.
SELECT k.id, k.user_id, k.project_id, k.knowledge_type, k.title, k.document_key, k.media_type, k.source, k.quality_score, k.quality_by, k.tags,
       k.metadata, k.version, length(k.content) AS chars, cardinality(k.page_starts) AS pages, c.chunks, c.embedded, k.created_at, k.updated_at,
       k.expires_at
FROM rag_knowledge AS k CROSS JOIN LATERAL (
    SELECT count(*) AS chunks, count(v.embedding_config_id) AS embedded FROM vector_documents AS v WHERE v.knowledge_id = k.id) AS c
WHERE k.id = ANY(:ids::uuid[]) AND k.user_id = :user_id;

-- name: documents_page
-- Newest first, from a keyset mark on. Index: rag_knowledge_user_id_idx, vector_documents_knowledge_id_chunk_number_key.
SELECT k.id, k.user_id, k.project_id, k.knowledge_type, k.title, k.document_key, k.media_type, k.source, k.quality_score, k.quality_by, k.tags,
       k.metadata, k.version, length(k.content) AS chars, cardinality(k.page_starts) AS pages, c.chunks, c.embedded, k.created_at, k.updated_at,
       k.expires_at
FROM rag_knowledge AS k CROSS JOIN LATERAL (
    SELECT count(*) AS chunks, count(v.embedding_config_id) AS embedded FROM vector_documents AS v WHERE v.knowledge_id = k.id) AS c
WHERE k.user_id = :user_id AND (:after_id::uuid IS NULL OR k.id < :after_id) AND (:expired OR k.expires_at IS NULL OR k.expires_at > :now)
  AND (:knowledge_type::text IS NULL OR k.knowledge_type = :knowledge_type)
  AND (:source::text IS NULL OR k.source = :source)
  AND (:document_ids::uuid[] IS NULL OR k.id = ANY(:document_ids))
  AND (:project_id::uuid IS NULL OR k.project_id = :project_id)
  AND k.tags @> :tags::text[]
  AND (:quality_min::numeric IS NULL OR k.quality_score >= :quality_min)
ORDER BY k.id DESC LIMIT :max_count;

-- name: text_of
-- A stretch of a document's text. Index: rag_knowledge_pkey.
SELECT substr(content, :start::integer + 1, :length::integer) AS text FROM rag_knowledge WHERE id = :document_id AND user_id = :user_id;

-- name: change_document
-- Change what is given of a document. Index: rag_knowledge_pkey. Locks: its row.
UPDATE rag_knowledge
SET title = coalesce(:title, title), knowledge_type = coalesce(:knowledge_type, knowledge_type), source = coalesce(:source, source),
    quality_score = coalesce(:quality::numeric, quality_score), quality_by = coalesce(:quality_by, quality_by),
    expires_at = CASE WHEN :forget_expiry THEN NULL ELSE coalesce(:expires_at::timestamptz, expires_at) END,
    tags = coalesce(:tags::text[], tags), metadata = coalesce(:metadata::jsonb, metadata)
WHERE id = :document_id AND user_id = :user_id;

-- name: remove_documents
-- Documents with their chunks and vectors, for good. Index: rag_knowledge_pkey. Locks: their rows.
DELETE FROM rag_knowledge WHERE id = ANY(:ids::uuid[]) AND user_id = :user_id RETURNING id;

-- name: sweep_expired
-- Some documents, of all users, whose time is over, with their chunks. Index: idx_rag_knowledge_expires. Locks: their rows; skips rows
-- held by others.
WITH over AS (
    SELECT id FROM rag_knowledge WHERE expires_at <= :now ORDER BY expires_at, id LIMIT :max_count FOR UPDATE SKIP LOCKED)
DELETE FROM rag_knowledge AS k USING over WHERE k.id = over.id RETURNING k.id;

-- name: stats
-- What a user has. Index: rag_knowledge_user_id_idx, vector_documents_knowledge_id_chunk_number_key.
SELECT k.knowledge_type, coalesce(k.source, 'none') AS source, count(*) AS documents, count(*) FILTER (WHERE k.expires_at <= :now) AS expired,
       coalesce(sum(c.chunks), 0)::bigint AS chunks, coalesce(sum(c.embedded), 0)::bigint AS embedded, sum(length(k.content))::bigint AS chars
FROM rag_knowledge AS k CROSS JOIN LATERAL (
    SELECT count(*) AS chunks, count(v.embedding_config_id) AS embedded FROM vector_documents AS v WHERE v.knowledge_id = k.id) AS c
WHERE k.user_id = :user_id GROUP BY k.knowledge_type, k.source ORDER BY k.knowledge_type, k.source;

-- name: count_scope
-- How many chunks does this user have, counted up to a limit? Index: vector_documents_user_id_idx.
SELECT count(*) AS count FROM (SELECT FROM vector_documents WHERE user_id = :user_id AND knowledge_id IS NOT NULL LIMIT :most) AS counted;

-- name: whole_scope
-- Every chunk the user may find, packed: one row, a value a column. Index: vector_documents_user_id_idx, rag_knowledge_user_id_idx.
SELECT coalesce(string_agg(v.packed, ''), '') AS rows, coalesce(string_agg(int4send(octet_length(v.packed)), ''), '') AS lengths,
       coalesce(string_agg(timestamptz_send(k.updated_at), ''), '') AS at
FROM vector_documents AS v JOIN rag_knowledge AS k ON k.id = v.knowledge_id
WHERE v.user_id = :user_id AND k.user_id = :user_id AND (k.expires_at IS NULL OR k.expires_at > :now)
  AND (:knowledge_type::text IS NULL OR k.knowledge_type = :knowledge_type)
  AND (:source::text IS NULL OR k.source = :source)
  AND (:document_ids::uuid[] IS NULL OR k.id = ANY(:document_ids))
  AND (:project_id::uuid IS NULL OR k.project_id = :project_id)
  AND k.tags @> :tags::text[]
  AND (:quality_min::numeric IS NULL OR k.quality_score >= :quality_min);

-- name: part_scope
-- The same for some chunks and, of those in the middle, the two before and after each in their documents. Index: vector_documents_pkey,
-- vector_documents_knowledge_id_chunk_number_key, rag_knowledge_pkey. Looked up as a sorted array: the index is walked once.
WITH wider AS MATERIALIZED (
    SELECT unnest(:ids::uuid[]) AS id
    UNION
    SELECT b.id FROM (SELECT DISTINCT c.knowledge_id, c.chunk_number + d.step AS chunk_number
                      FROM vector_documents AS c CROSS JOIN generate_series(-2, 2) AS d (step)
                      WHERE c.id = ANY(:middle::uuid[]) AND c.user_id = :user_id) AS n
    CROSS JOIN LATERAL (SELECT v.id FROM vector_documents AS v
                        WHERE v.knowledge_id = n.knowledge_id AND v.chunk_number = n.chunk_number AND v.user_id = :user_id LIMIT 1) AS b)
SELECT coalesce(string_agg(v.packed, ''), '') AS rows, coalesce(string_agg(int4send(octet_length(v.packed)), ''), '') AS lengths,
       coalesce(string_agg(timestamptz_send(k.updated_at), ''), '') AS at
FROM vector_documents AS v JOIN rag_knowledge AS k ON k.id = v.knowledge_id
WHERE v.id = ANY(ARRAY(SELECT w.id FROM wider AS w)) AND v.user_id = :user_id AND k.user_id = :user_id
  AND (k.expires_at IS NULL OR k.expires_at > :now)
  AND (:knowledge_type::text IS NULL OR k.knowledge_type = :knowledge_type)
  AND (:source::text IS NULL OR k.source = :source)
  AND (:document_ids::uuid[] IS NULL OR k.id = ANY(:document_ids))
  AND (:project_id::uuid IS NULL OR k.project_id = :project_id)
  AND k.tags @> :tags::text[]
  AND (:quality_min::numeric IS NULL OR k.quality_score >= :quality_min);

-- name: word_candidates
-- Chunks of the user that hold words of the question, those with the most and rarest of them first, and in how many chunks each word is.
-- Of a word at most so many are looked at. To be run as helix_operator: under a tenant's policy no index of terms may be used (array
-- operators are not leakproof). What it leads to is read under the policy. Index: vector_documents_terms_idx.
WITH held AS MATERIALIZED (
    SELECT a.term, h.id FROM unnest(:terms::integer[]) AS a (term) CROSS JOIN LATERAL (
        SELECT v.id FROM vector_documents AS v JOIN rag_knowledge AS k ON k.id = v.knowledge_id
        WHERE helix_scoped_terms(v.user_id, v.terms) @> ARRAY[hashint4extended(a.term, uuid_hash_extended(:user_id::uuid, 0))]
          AND (v.user_id = :user_id) IS TRUE AND k.user_id = :user_id AND (k.expires_at IS NULL OR k.expires_at > :now)
          AND (:knowledge_type::text IS NULL OR k.knowledge_type = :knowledge_type)
          AND (:source::text IS NULL OR k.source = :source)
          AND (:document_ids::uuid[] IS NULL OR k.id = ANY(:document_ids))
          AND (:project_id::uuid IS NULL OR k.project_id = :project_id)
          AND k.tags @> :tags::text[]
          AND (:quality_min::numeric IS NULL OR k.quality_score >= :quality_min)
        LIMIT :per_term) AS h
), counted AS (
    SELECT h.term, CASE WHEN count(*) < :per_term THEN count(*) ELSE greatest(count(*), :total::bigint / 20) END AS found
    FROM held AS h GROUP BY h.term
), best AS (
    SELECT h.id, sum(ln(1 + :total::float8 / c.found)) AS weight
    FROM held AS h JOIN counted AS c ON c.term = h.term GROUP BY h.id ORDER BY weight DESC, h.id LIMIT :most)
SELECT ARRAY(SELECT b.id FROM best AS b ORDER BY b.weight DESC, b.id) AS ids,
       ARRAY(SELECT c.term FROM counted AS c ORDER BY c.term) AS terms,
       ARRAY(SELECT c.found FROM counted AS c ORDER BY c.term) AS found;

-- name: nearest
-- The nearest of a user's vectors of one model, exactly: the + 0 keeps every index away. Index: vector_documents_user_id_idx.
SELECT v.id FROM vector_documents AS v JOIN rag_knowledge AS k ON k.id = v.knowledge_id
WHERE v.user_id = :user_id AND k.user_id = :user_id AND v.embedding_config_id = :config_id AND (k.expires_at IS NULL OR k.expires_at > :now)
  AND (:knowledge_type::text IS NULL OR k.knowledge_type = :knowledge_type)
  AND (:source::text IS NULL OR k.source = :source)
  AND (:document_ids::uuid[] IS NULL OR k.id = ANY(:document_ids))
  AND (:project_id::uuid IS NULL OR k.project_id = :project_id)
  AND k.tags @> :tags::text[]
  AND (:quality_min::numeric IS NULL OR k.quality_score >= :quality_min)
ORDER BY (v.embedding <=> (SELECT (:vector::text)::vector)) + 0 LIMIT :max_count;

-- name: cosines
-- The cosine of every vector the user has of one model to the question's, packed. Exact. Index: vector_documents_user_id_idx.
SELECT coalesce(string_agg(uuid_send(v.id), ''), '') AS ids,
       coalesce(string_agg(float4send((1 - (v.embedding <=> (SELECT (:vector::text)::vector)))::real), ''), '') AS cosines
FROM vector_documents AS v WHERE v.user_id = :user_id AND v.embedding_config_id = :config_id AND v.knowledge_id IS NOT NULL;

-- name: cosines_of_ids
-- The same for some chunks. Index: vector_documents_pkey.
SELECT coalesce(string_agg(uuid_send(v.id), ''), '') AS ids,
       coalesce(string_agg(float4send((1 - (v.embedding <=> (SELECT (:vector::text)::vector)))::real), ''), '') AS cosines
FROM vector_documents AS v WHERE v.id = ANY(:ids::uuid[]) AND v.user_id = :user_id AND v.embedding_config_id = :config_id;

-- name: chunks_by_id
-- Index: vector_documents_pkey.
SELECT id, knowledge_id, chunk_number, content, start_char, end_char, first_page, last_page, headings, token_count
FROM vector_documents WHERE id = ANY(:ids::uuid[]) AND user_id = :user_id AND knowledge_id IS NOT NULL;

-- name: chunks_around
-- Chunks of documents by number: what stands beside a hit. Index: vector_documents_knowledge_id_chunk_number_key.
SELECT v.id, v.knowledge_id, v.chunk_number, v.content, v.start_char, v.end_char, v.first_page, v.last_page, v.headings, v.token_count
FROM ROWS FROM (unnest(:document_ids::uuid[]), unnest(:numbers::integer[])) AS g (document_id, number)
JOIN vector_documents AS v ON v.knowledge_id = g.document_id AND v.chunk_number = g.number
WHERE v.user_id = :user_id;

-- name: chunks_page
-- The chunks of a document in order, from a number on. Index: vector_documents_knowledge_id_chunk_number_key.
SELECT id, knowledge_id, chunk_number, content, start_char, end_char, first_page, last_page, headings, token_count
FROM vector_documents WHERE knowledge_id = :document_id AND user_id = :user_id AND chunk_number >= :from_number
ORDER BY chunk_number LIMIT :max_count;

-- name: without_vector
-- Chunks of a user that have no vector of a model. Index: vector_documents_user_id_idx, vector_documents_pkey.
SELECT id, headings, content FROM vector_documents
WHERE user_id = :user_id AND knowledge_id IS NOT NULL AND embedding_config_id IS DISTINCT FROM :config_id AND (:after_id::uuid IS NULL OR id > :after_id)
ORDER BY id LIMIT :max_count;

-- name: count_without_vector
-- How many are they? Index: vector_documents_user_id_idx.
SELECT count(*) AS count FROM vector_documents
WHERE user_id = :user_id AND knowledge_id IS NOT NULL AND embedding_config_id IS DISTINCT FROM :config_id;

-- name: users_without_vectors
-- Users, in the order of ids, who have chunks without a vector of a model. Reads all of vector_documents: for maintenance.
SELECT DISTINCT user_id FROM vector_documents
WHERE knowledge_id IS NOT NULL AND (:config_id::uuid IS NULL OR embedding_config_id IS DISTINCT FROM :config_id) AND (:after_id::uuid IS NULL OR user_id > :after_id)
ORDER BY user_id LIMIT :max_count;

-- name: put_vectors
-- Keep vectors; chunks that are gone meanwhile get none, a chunk's text never changes. Index: vector_documents_pkey. Locks: their rows.
UPDATE vector_documents AS v SET embedding = g.vector::vector, embedding_config_id = :config_id
FROM ROWS FROM (unnest(:ids::uuid[]), unnest(:vectors::text[])) AS g (id, vector)
WHERE v.id = g.id AND v.user_id = :user_id;

-- name: user_by_name
-- The account of an id, address or user name. Index: users_pkey, users_email_key, users_username_key.
SELECT id FROM users WHERE id = :user_id OR lower(email) = lower(:name) OR username = :name LIMIT 1;
