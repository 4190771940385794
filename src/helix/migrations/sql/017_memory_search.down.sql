-- 017_memory_search.down.sql: takes back what 017_memory_search.up.sql made, and nothing else.

DROP FUNCTION apply_memory_tombstones;
DROP FUNCTION forget_memories;
DROP TABLE memory_tombstones;
DROP TABLE memory_changes;
DROP TABLE memory_uses;
DROP TABLE memory_search;
ALTER TABLE memory_embeddings ALTER COLUMN embedding TYPE vector USING embedding::vector;
COMMENT ON COLUMN memory_embeddings.embedding IS 'Unit length, unless the model says otherwise.';
