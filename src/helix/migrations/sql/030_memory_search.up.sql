-- 030_memory_search.up.sql: What search reads of a text as one value, an index by tenant and term, vectors of parts of long texts.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- helix_pack_text: what search reads of a text, as one value: id and group (16 bytes each), time (8, microseconds since 2000), facts,
-- speaker, number of terms (4 each), terms (4 each), all big-endian. Ten thousand rows come over as one value and are read by numpy.
CREATE FUNCTION helix_pack_text(id uuid, text_group uuid, at timestamptz, facts integer, speaker integer, terms integer[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN uuid_send(id) || uuid_send(text_group) || timestamptz_send(at) || int4send(facts) || int4send(speaker) || int4send(cardinality(terms))
        || coalesce((SELECT string_agg(int4send(u.term), '' ORDER BY u.place) FROM unnest(terms) WITH ORDINALITY AS u (term, place)), '');
COMMENT ON FUNCTION helix_pack_text(uuid, uuid, timestamptz, integer, integer, integer[]) IS
    'What search reads of a text, as one binary value; helix.retrieval.packed reads it.';

-- helix_scoped_terms: the terms of a text as numbers that are the tenant's own, each once: an index over them leads to one tenant's rows.
CREATE FUNCTION helix_scoped_terms(user_id uuid, terms integer[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT array_agg(DISTINCT hashint4extended(u.term, uuid_hash_extended(user_id, 0))) FROM unnest(terms) AS u (term));
COMMENT ON FUNCTION helix_scoped_terms(uuid, integer[]) IS
    'Terms hashed with their tenant, distinct; NULL without terms. What memory_search_terms_idx and vector_documents_terms_idx hold.';

-- Rewrites memory_search under its exclusive lock: about ten seconds for a million memories; no search meanwhile.
ALTER TABLE memory_search ADD COLUMN packed bytea NOT NULL GENERATED ALWAYS AS
    (helix_pack_text(memory_id, coalesce(conversation_id, session_id, memory_id), valid_from, facts, speaker, terms)) STORED;
COMMENT ON COLUMN memory_search.packed IS 'Derived: what a search reads of this row, as one value (helix_pack_text).';
DROP INDEX memory_search_terms_idx;
-- Which of this tenant hold this term? (candidates in a tenant of more than 10,000 memories)
CREATE INDEX memory_search_terms_idx ON memory_search USING gin (helix_scoped_terms(user_id, terms));

-- The same for chunks, under the exclusive lock of vector_documents.
ALTER TABLE vector_documents ADD COLUMN packed bytea NOT NULL GENERATED ALWAYS AS
    (helix_pack_text(id, coalesce(knowledge_id, id), created_at, facts, 0, terms)) STORED;
COMMENT ON COLUMN vector_documents.packed IS 'Derived: what a search reads of this row, as one value (helix_pack_text).';
DROP INDEX vector_documents_terms_idx;
-- Which of this tenant hold this term? (candidates in a tenant of more than 10,000 chunks)
CREATE INDEX vector_documents_terms_idx ON vector_documents USING gin (helix_scoped_terms(user_id, terms));

-- Vectors of the parts of a long text. The primary key is built anew under an exclusive lock.
ALTER TABLE memory_embeddings ADD COLUMN part smallint NOT NULL DEFAULT 0 CONSTRAINT memory_embeddings_part_check CHECK (part >= 0);
COMMENT ON COLUMN memory_embeddings.part IS 'Which part of a long text, from 0; the nearest part speaks for the memory.';
ALTER TABLE memory_embeddings DROP CONSTRAINT memory_embeddings_pkey;
ALTER TABLE memory_embeddings ADD CONSTRAINT memory_embeddings_pkey PRIMARY KEY (memory_id, embedding_config_id, dimension, part);
