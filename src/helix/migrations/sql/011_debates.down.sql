-- 011_debates.down.sql: takes back what 011_debates.up.sql made, and nothing else.

-- Functions on these tables.
DROP FUNCTION cleanup_expired_debate_logs;

-- Views.
DROP VIEW debate_turns;
DROP VIEW debate_sessions;
DROP VIEW debate_logs;
DROP VIEW debate_round_analytics;

-- Tables, with their indexes, triggers, policies and grants.
DROP TABLE code_versions;
DROP TABLE debate_votes;
DROP TABLE debate_arguments;
DROP TABLE debate_rounds;
DROP TABLE debates;
