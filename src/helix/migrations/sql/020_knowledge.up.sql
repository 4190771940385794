-- 020_knowledge.up.sql: knowledge is added as documents and found as chunks of them (S24, S90).
-- Two tables get columns, constraints that nobody's rows can break (they are empty of such rows), and indexes. Heaviest lock:
-- ACCESS EXCLUSIVE on rag_knowledge and vector_documents, for the reading of each once.

ALTER TABLE rag_knowledge
    ADD COLUMN document_key   text,
    ADD COLUMN media_type     varchar(100) NOT NULL DEFAULT 'text/plain',
    ADD COLUMN source_hash    bytea,
    ADD COLUMN version        integer      NOT NULL DEFAULT 1,
    ADD COLUMN quality_by     varchar(20)  NOT NULL DEFAULT 'rule',
    ADD COLUMN page_starts    integer[]    NOT NULL DEFAULT '{}',
    ADD COLUMN chunk_tokens   integer,
    ADD COLUMN overlap_tokens integer,
    ADD CONSTRAINT rag_knowledge_quality_by_check CHECK (quality_by IN ('rule', 'manual')),
    ADD CONSTRAINT rag_knowledge_source_hash_check CHECK (octet_length(source_hash) = 32),
    ADD CONSTRAINT rag_knowledge_version_check CHECK (version >= 1),
    ADD CONSTRAINT rag_knowledge_chunking_check CHECK (chunk_tokens >= 1 AND overlap_tokens >= 0 AND overlap_tokens < chunk_tokens);

COMMENT ON COLUMN rag_knowledge.expires_at IS 'Not found from this moment on, and deleted soon after; NULL: never.';
COMMENT ON COLUMN rag_knowledge.document_key IS 'What its owner names it by: a file''s or page''s address, or an own name; a new text under it replaces the old one. NULL: none.';
COMMENT ON COLUMN rag_knowledge.media_type IS 'Type of what was added; content is the text read from it.';
COMMENT ON COLUMN rag_knowledge.source_hash IS 'SHA-256 of the bytes that were added.';
COMMENT ON COLUMN rag_knowledge.version IS '1, and one more for each text that replaced an older one.';
COMMENT ON COLUMN rag_knowledge.quality_by IS 'rule: quality_score follows from the text; manual: somebody set it.';
COMMENT ON COLUMN rag_knowledge.page_starts IS 'Offset in content, in characters, at which each page begins; empty without pages.';
COMMENT ON COLUMN rag_knowledge.chunk_tokens IS 'Size of a chunk when it was cut, in tokens; NULL: not cut yet.';
COMMENT ON COLUMN rag_knowledge.overlap_tokens IS 'How much of a chunk the next one repeats, in tokens.';

-- What somebody wrote before is his word.
UPDATE rag_knowledge SET quality_by = 'manual' WHERE quality_score IS NOT NULL;

-- Has this tenant added these very bytes? Refuses a second document of them.
CREATE UNIQUE INDEX rag_knowledge_user_id_source_hash_key ON rag_knowledge (user_id, source_hash);
-- Which document does this tenant name so? Refuses a second one. By its digest: a key may be longer than an index entry.
CREATE UNIQUE INDEX rag_knowledge_user_id_document_key_key ON rag_knowledge (user_id, helix_sha256(document_key));

ALTER TABLE vector_documents
    ADD COLUMN knowledge_id     uuid,
    ADD COLUMN start_char       integer,
    ADD COLUMN end_char         integer,
    ADD COLUMN first_page       integer,
    ADD COLUMN last_page        integer,
    ADD COLUMN headings         text[]    NOT NULL DEFAULT '{}',
    ADD COLUMN token_count      integer   NOT NULL DEFAULT 0,
    ADD COLUMN terms            integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN facts            integer   NOT NULL DEFAULT 0,
    ADD COLUMN analysis_version smallint  NOT NULL DEFAULT 0,
    ALTER COLUMN embedding SET STORAGE MAIN,
    ALTER COLUMN terms SET STORAGE MAIN,
    ADD CONSTRAINT vector_documents_knowledge_id_chunk_number_key UNIQUE (knowledge_id, chunk_number),
    ADD CONSTRAINT vector_documents_place_check CHECK ((knowledge_id IS NULL) = (start_char IS NULL) AND (start_char IS NULL) = (end_char IS NULL)
        AND start_char >= 0 AND end_char > start_char),
    ADD CONSTRAINT vector_documents_pages_check CHECK ((first_page IS NULL) = (last_page IS NULL) AND first_page >= 1 AND last_page >= first_page),
    ADD CONSTRAINT vector_documents_token_count_check CHECK (token_count >= 0),
    ADD CONSTRAINT vector_documents_analysis_version_check CHECK (analysis_version >= 0);
ALTER TABLE vector_documents ADD CONSTRAINT vector_documents_knowledge_id_fkey FOREIGN KEY (knowledge_id) REFERENCES rag_knowledge (id) ON DELETE CASCADE;

COMMENT ON COLUMN vector_documents.knowledge_id IS 'Document in rag_knowledge this is a chunk of; NULL: of none.';
COMMENT ON COLUMN vector_documents.start_char IS 'Where it begins in rag_knowledge.content, in characters from 0.';
COMMENT ON COLUMN vector_documents.end_char IS 'Where it ends there: the character after its last.';
COMMENT ON COLUMN vector_documents.first_page IS 'Page it begins on, from 1; NULL: the document has no pages.';
COMMENT ON COLUMN vector_documents.last_page IS 'Page it ends on.';
COMMENT ON COLUMN vector_documents.headings IS 'Headings it stands under, outermost first.';
COMMENT ON COLUMN vector_documents.token_count IS 'Its length in tokens, as helix.knowledge counts them.';
COMMENT ON COLUMN vector_documents.terms IS 'CRC-32 of each stem of headings and text, in their order, without stop words.';
COMMENT ON COLUMN vector_documents.facts IS 'Bits of what the text has, as in memory_search.facts.';
COMMENT ON COLUMN vector_documents.analysis_version IS 'Version of the analysis; 0: none. Older ones are made anew every night.';

-- Search goes over terms; this one made every insert read its text once more.
DROP INDEX vector_documents_content_idx;
-- Which hold this term? (candidates in a tenant of more than 10,000 chunks)
CREATE INDEX vector_documents_terms_idx ON vector_documents USING gin (terms);

-- A chunk stands under a document its tenant can see.
ALTER POLICY vector_documents_tenant ON vector_documents
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (knowledge_id IS NULL OR EXISTS (SELECT FROM rag_knowledge AS target WHERE target.id = vector_documents.knowledge_id))
        AND (parent_id IS NULL OR helix_row_visible('public.vector_documents', parent_id))
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = vector_documents.project_id)));
