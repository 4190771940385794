-- Locks: rag_knowledge and tool_audit_log exclusively, for a moment.
DROP FUNCTION helix_apply_erasures(jsonb);
DROP FUNCTION helix_erase_user(uuid);
DROP TRIGGER knowledge_record_removed ON rag_knowledge;
DROP FUNCTION knowledge_record_removed();
DROP TABLE knowledge_tombstones;
DROP TABLE erased_users;
DROP TABLE audit_seals;
DROP TABLE audit_log;
DROP TRIGGER tool_audit_log_append_only ON tool_audit_log;
CREATE TRIGGER tool_audit_log_append_only BEFORE UPDATE OR DELETE ON tool_audit_log
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('user_id,api_key_id,project_id', 'parameters,result');
COMMENT ON COLUMN mcp_servers.credentials IS 'Ciphertext of headers and environment that are secret, made with key_id. Never shown.';
COMMENT ON COLUMN acp_agents.credentials IS 'Ciphertext of headers and environment that are secret, made with key_id. Never shown.';
COMMENT ON COLUMN memory_peers.credentials IS 'API key of scope admin on that node, encrypted and bound to this row (docs/adr/0009).';
COMMENT ON COLUMN github_credentials.refresh_token IS 'Ciphertext, made with key_id; NULL for a personal access token, which cannot be refreshed. Never shown.';
DELETE FROM rls_exempt_tables WHERE table_name IN ('audit_log', 'audit_seals', 'erased_users');
