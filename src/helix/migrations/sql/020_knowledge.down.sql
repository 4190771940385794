-- 020_knowledge.down.sql: takes back what 020_knowledge.up.sql made, and nothing else. Chunks are lost, their documents stay.

ALTER POLICY vector_documents_tenant ON vector_documents
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (parent_id IS NULL OR helix_row_visible('public.vector_documents', parent_id))
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = vector_documents.project_id)));
DELETE FROM vector_documents WHERE knowledge_id IS NOT NULL;
DROP INDEX vector_documents_terms_idx;
ALTER TABLE vector_documents
    DROP CONSTRAINT vector_documents_knowledge_id_fkey,
    DROP CONSTRAINT vector_documents_knowledge_id_chunk_number_key,
    DROP CONSTRAINT vector_documents_place_check,
    DROP CONSTRAINT vector_documents_pages_check,
    DROP COLUMN knowledge_id,
    DROP COLUMN start_char,
    DROP COLUMN end_char,
    DROP COLUMN first_page,
    DROP COLUMN last_page,
    DROP COLUMN headings,
    DROP COLUMN token_count,
    DROP COLUMN terms,
    DROP COLUMN facts,
    DROP COLUMN analysis_version,
    ALTER COLUMN embedding SET STORAGE EXTERNAL;
CREATE INDEX vector_documents_content_idx ON vector_documents USING gin (to_tsvector('simple', title || ' ' || left(content, 250000)));

DROP INDEX rag_knowledge_user_id_document_key_key;
DROP INDEX rag_knowledge_user_id_source_hash_key;
ALTER TABLE rag_knowledge
    DROP CONSTRAINT rag_knowledge_chunking_check,
    DROP COLUMN document_key,
    DROP COLUMN media_type,
    DROP COLUMN source_hash,
    DROP COLUMN version,
    DROP COLUMN quality_by,
    DROP COLUMN page_starts,
    DROP COLUMN chunk_tokens,
    DROP COLUMN overlap_tokens;
COMMENT ON COLUMN rag_knowledge.expires_at IS 'Deleted after this moment; NULL: never.';
