-- 003_memory.down.sql: takes back what 003_memory.up.sql made, and nothing else.

-- Policies as they were before.
ALTER POLICY user_sessions_tenant ON user_sessions USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));

-- What points to a row that goes points to nothing.
UPDATE user_sessions SET memory_id = NULL WHERE memory_id IS NOT NULL;

-- What ties other tables to these.
ALTER TABLE rag_knowledge DROP CONSTRAINT rag_knowledge_embedding_config_id_fkey;
ALTER TABLE memory_embeddings DROP CONSTRAINT memory_embeddings_embedding_config_id_dimension_fkey;
ALTER TABLE user_sessions DROP CONSTRAINT user_sessions_memory_id_fkey;

-- Views.
DROP VIEW cognee_graphs;
DROP VIEW cognee_entities;
DROP VIEW cognee_memories;

-- What stands in tables that stay.
DELETE FROM rls_exempt_tables WHERE table_name IN ('embedding_config');

-- Tables, with their indexes, triggers, policies and grants.
DROP TABLE embedding_config;
DROP TABLE rag_knowledge;
DROP TABLE memory_embeddings;
DROP TABLE memory_relations;
DROP TABLE memory_entity_mentions;
DROP TABLE memory_entities;
DROP TABLE memories;
