-- relationships.sql: the foreign keys between domains (those inside a domain stand with their table).
--
-- What happens when something goes:
--   * a user or project is deleted: what is their own goes too (CASCADE: sessions, keys, texts, memories, debates, tasks);
--     accounting and audit stay and are unlinked (SET NULL: requests, responses, usage, tool audit, errors).
--   * a month of a partitioned table is dropped: nothing that is kept longer has a foreign key to it.

-- user_sessions
ALTER TABLE user_sessions ADD CONSTRAINT user_sessions_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL;
ALTER TABLE user_sessions ADD CONSTRAINT user_sessions_memory_id_fkey FOREIGN KEY (memory_id) REFERENCES memories (id) ON DELETE SET NULL;
-- Which sessions prefer this provider, go on from this memory? (asked when one is deleted)
CREATE INDEX user_sessions_provider_id_idx ON user_sessions (provider_id) WHERE provider_id IS NOT NULL;
CREATE INDEX user_sessions_memory_id_idx ON user_sessions (memory_id) WHERE memory_id IS NOT NULL;

-- projects
ALTER TABLE projects ADD CONSTRAINT projects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE project_state ADD CONSTRAINT project_state_current_task_id_fkey FOREIGN KEY (current_task_id) REFERENCES background_tasks (id) ON DELETE SET NULL;
ALTER TABLE cancelled_projects ADD CONSTRAINT cancelled_projects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE cancelled_projects ADD CONSTRAINT cancelled_projects_cancelled_by_fkey FOREIGN KEY (cancelled_by) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE archived_projects ADD CONSTRAINT archived_projects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;

-- requests and responses
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts (id) ON DELETE SET NULL;
ALTER TABLE llm_request_bodies ADD CONSTRAINT llm_request_bodies_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_pricing_id_fkey FOREIGN KEY (pricing_id) REFERENCES llm_pricing (id);
ALTER TABLE llm_response_bodies ADD CONSTRAINT llm_response_bodies_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;

-- ledger
ALTER TABLE llm_token_usage ADD CONSTRAINT llm_token_usage_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE llm_token_usage ADD CONSTRAINT llm_token_usage_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
ALTER TABLE llm_token_usage ADD CONSTRAINT llm_token_usage_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE rate_windows ADD CONSTRAINT rate_windows_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE call_refusals ADD CONSTRAINT call_refusals_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE call_refusals ADD CONSTRAINT call_refusals_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE CASCADE;
-- What was refused of this key? (deleting it)
CREATE INDEX call_refusals_api_key_id_idx ON call_refusals (api_key_id) WHERE api_key_id IS NOT NULL;
ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE budgets ADD CONSTRAINT budgets_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE budgets ADD CONSTRAINT budgets_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE CASCADE;
ALTER TABLE budgets ADD CONSTRAINT budgets_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE;

-- tools and errors
ALTER TABLE tool_audit_log ADD CONSTRAINT tool_audit_log_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE tool_audit_log ADD CONSTRAINT tool_audit_log_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
ALTER TABLE tool_audit_log ADD CONSTRAINT tool_audit_log_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE error_log ADD CONSTRAINT error_log_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE error_log ADD CONSTRAINT error_log_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;

-- tasks
ALTER TABLE background_tasks ADD CONSTRAINT background_tasks_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE background_tasks ADD CONSTRAINT background_tasks_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE background_tasks ADD CONSTRAINT background_tasks_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE dead_letter_queue ADD CONSTRAINT dead_letter_queue_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE dead_letter_queue ADD CONSTRAINT dead_letter_queue_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
-- What of this project died?
CREATE INDEX dead_letter_queue_project_id_idx ON dead_letter_queue (project_id) WHERE project_id IS NOT NULL;
ALTER TABLE webhook_deliveries ADD CONSTRAINT webhook_deliveries_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;

-- debates
ALTER TABLE debates ADD CONSTRAINT debates_created_by_fkey FOREIGN KEY (created_by) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE debates ADD CONSTRAINT debates_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE debates ADD CONSTRAINT debates_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE panels ADD CONSTRAINT panels_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE debate_arguments ADD CONSTRAINT debate_arguments_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL;

-- memory and knowledge
ALTER TABLE memories ADD CONSTRAINT memories_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memories ADD CONSTRAINT memories_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE memories ADD CONSTRAINT memories_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE memory_entities ADD CONSTRAINT memory_entities_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_relations ADD CONSTRAINT memory_relations_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_uses ADD CONSTRAINT memory_uses_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_embeddings ADD CONSTRAINT memory_embeddings_embedding_config_id_dimension_fkey FOREIGN KEY (embedding_config_id, dimension) REFERENCES embedding_config (id, dimension);
ALTER TABLE rag_knowledge ADD CONSTRAINT rag_knowledge_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE rag_knowledge ADD CONSTRAINT rag_knowledge_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE rag_knowledge ADD CONSTRAINT rag_knowledge_embedding_config_id_fkey FOREIGN KEY (embedding_config_id) REFERENCES embedding_config (id);
ALTER TABLE vector_documents ADD CONSTRAINT vector_documents_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE vector_documents ADD CONSTRAINT vector_documents_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE vector_documents ADD CONSTRAINT vector_documents_knowledge_id_fkey FOREIGN KEY (knowledge_id) REFERENCES rag_knowledge (id) ON DELETE CASCADE;

-- -- bigdata -- conversations, distributed memory and learning ---------------------------------------------------------
-- Content goes with its user; a session that ends only lets go; stream timings are figures and only unlinked.
ALTER TABLE conversations ADD CONSTRAINT conversations_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_snapshots ADD CONSTRAINT conversation_snapshots_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_compressions ADD CONSTRAINT conversation_compressions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_replay_stats ADD CONSTRAINT conversation_replay_stats_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_context_cache ADD CONSTRAINT conversation_context_cache_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_snapshots ADD CONSTRAINT memory_snapshots_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_conflicts ADD CONSTRAINT memory_conflicts_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE memory_event_checkpoints ADD CONSTRAINT memory_event_checkpoints_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE crdt_versions ADD CONSTRAINT crdt_versions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE cross_session_patterns ADD CONSTRAINT cross_session_patterns_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE learned_insights ADD CONSTRAINT learned_insights_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE user_preferences ADD CONSTRAINT user_preferences_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE entity_cooccurrences ADD CONSTRAINT entity_cooccurrences_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversation_flow_patterns ADD CONSTRAINT conversation_flow_patterns_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE knowledge_accumulation ADD CONSTRAINT knowledge_accumulation_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE learning_statistics ADD CONSTRAINT learning_statistics_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE conversations ADD CONSTRAINT conversations_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_events ADD CONSTRAINT conversation_events_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_snapshots ADD CONSTRAINT conversation_snapshots_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_compressions ADD CONSTRAINT conversation_compressions_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_replay_stats ADD CONSTRAINT conversation_replay_stats_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_turns ADD CONSTRAINT conversation_turns_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversation_context_cache ADD CONSTRAINT conversation_context_cache_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE distributed_memory_events ADD CONSTRAINT distributed_memory_events_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE conversations ADD CONSTRAINT conversations_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE entity_cooccurrences ADD CONSTRAINT entity_cooccurrences_entity1_id_fkey FOREIGN KEY (entity1_id) REFERENCES memory_entities (id) ON DELETE CASCADE;
ALTER TABLE entity_cooccurrences ADD CONSTRAINT entity_cooccurrences_entity2_id_fkey FOREIGN KEY (entity2_id) REFERENCES memory_entities (id) ON DELETE CASCADE;
ALTER TABLE distributed_memory ADD CONSTRAINT distributed_memory_embedding_config_id_fkey FOREIGN KEY (embedding_config_id) REFERENCES embedding_config (id);
-- Which vectors did this model make (FK)?
CREATE INDEX idx_distributed_memory_embedding_config_id ON distributed_memory (embedding_config_id) WHERE embedding_config_id IS NOT NULL;
ALTER TABLE clickhouse_analytics ADD CONSTRAINT clickhouse_analytics_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE streaming_analytics ADD CONSTRAINT streaming_analytics_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
-- -- end bigdata --
