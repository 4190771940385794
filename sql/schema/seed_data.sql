-- seed_data.sql: what a fresh installation starts with (S11, S84, S116). Runs last. Every statement may run again: rows that exist, also
-- changed ones, stay as they are.

-- Prices in USD per million tokens. The first four are printed in the design (Decision 79, 2025-11-01) and are examples of their day: enter
-- your contract's prices as new rows with a later effective_date, never by changing these.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, effective_date, source, updated_by, notes) VALUES
    ('gpt-4',             30.000000, 60.000000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79'),
    ('gpt-4-turbo',       10.000000, 30.000000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79'),
    ('gpt-3.5-turbo',      0.500000,  1.500000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79'),
    ('gpt-3.5-turbo-16k',  3.000000,  4.000000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79')
ON CONFLICT (model, effective_date) DO NOTHING;

-- The built-in mock provider answers without a network and costs nobody anything. Its prices are invented, so that a trial shows what a cost looks like.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, effective_date, source, updated_by, notes) VALUES
    ('mock/echo',       1.000000,  2.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/small',      0.250000,  1.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/large',      5.000000, 15.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/slow',       2.000000,  4.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/embedding',  0.100000,  0.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent')
ON CONFLICT (model, effective_date) DO NOTHING;

-- Which kind of agent may use which tool. The whole matrix is written out, also what is refused, so that it can be read and edited row by
-- row. An agent type or tool that is not here is refused: deny is what the absence of a row means.
INSERT INTO agent_permissions (agent_type, tool_name, allowed)
SELECT agent.agent_type, tool.tool_name, tool.tool_name = ANY (agent.tools)
FROM (VALUES
    ('orchestrator', '{read_file,list_files,search_code,git_diff,web_search,delegate_task}'::text[]),
    ('planner',      '{read_file,list_files,search_code,git_diff,web_search}'),
    ('researcher',   '{read_file,list_files,search_code,web_search,fetch_url}'),
    ('backend_dev',  '{read_file,list_files,search_code,git_diff,write_file,run_tests,git_commit}'),
    ('frontend_dev', '{read_file,list_files,search_code,git_diff,write_file,run_tests,git_commit}'),
    ('tester',       '{read_file,list_files,search_code,git_diff,write_file,run_tests}'),
    ('reviewer',     '{read_file,list_files,search_code,git_diff,run_tests}'),
    ('documenter',   '{read_file,list_files,search_code,git_diff,write_file,git_commit}'),
    ('devops',       '{read_file,list_files,search_code,git_diff,write_file,run_tests,git_commit,shell}')
    ) AS agent (agent_type, tools)
CROSS JOIN unnest('{read_file,list_files,search_code,git_diff,write_file,delete_file,run_tests,web_search,fetch_url,delegate_task,shell,git_commit,git_push,deploy,db_query}'::text[]) AS tool (tool_name)
ON CONFLICT (agent_type, tool_name) DO NOTHING;
