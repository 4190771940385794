-- 030_memory_search.down.sql: takes 030 back. Vectors of parts after the first are deleted; they can be made again.
DELETE FROM memory_embeddings WHERE part > 0;
ALTER TABLE memory_embeddings DROP CONSTRAINT memory_embeddings_pkey;
ALTER TABLE memory_embeddings DROP COLUMN part;
ALTER TABLE memory_embeddings ADD CONSTRAINT memory_embeddings_pkey PRIMARY KEY (memory_id, embedding_config_id, dimension);

DROP INDEX vector_documents_terms_idx;
ALTER TABLE vector_documents DROP COLUMN packed;
CREATE INDEX vector_documents_terms_idx ON vector_documents USING gin (terms);

DROP INDEX memory_search_terms_idx;
ALTER TABLE memory_search DROP COLUMN packed;
CREATE INDEX memory_search_terms_idx ON memory_search USING gin (terms);

DROP FUNCTION helix_scoped_terms(uuid, integer[]);
DROP FUNCTION helix_pack_text(uuid, uuid, timestamptz, integer, integer, integer[]);
