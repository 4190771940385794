-- 013_protocols.down.sql: takes back what 013_protocols.up.sql made, and nothing else.

-- Views.
DROP VIEW acp_servers;

-- What stands in tables that stay.
DELETE FROM rls_exempt_tables WHERE table_name IN ('mcp_servers', 'mcp_tools', 'acp_agents', 'lsp_servers', 'protocol_metrics', 'protocol_cache');

-- Tables, with their indexes, triggers, policies and grants.
DROP TABLE vector_documents;
DROP TABLE protocol_cache;
DROP TABLE protocol_metrics;
DROP TABLE lsp_servers;
DROP TABLE acp_agents;
DROP TABLE mcp_tools;
DROP TABLE mcp_servers;
