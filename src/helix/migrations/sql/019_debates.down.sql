-- 019_debates.down.sql: takes back what 019_debates.up.sql made. Debates keep their topic and outcome; their events, panels and
-- figures are lost, and what was held under a protocol or role the older schema does not know is set to none.

DROP VIEW debate_value;
DROP TABLE panels;
DROP TABLE debate_events;
DROP TRIGGER debates_hold_status ON debates;
DROP FUNCTION debates_hold_status();
DROP INDEX debates_request_id_idx;
DROP INDEX debate_arguments_debate_id_round_number_participant_key;
UPDATE debates SET protocol = NULL WHERE protocol NOT IN ('cpde', 'dpde', 'adaptive');
UPDATE debate_arguments SET role = NULL WHERE role NOT IN ('proponent', 'opponent', 'moderator', 'synthesizer');
ALTER TABLE debates DROP CONSTRAINT debates_protocol_check;
ALTER TABLE debates ADD CONSTRAINT debates_protocol_check CHECK (protocol IN ('cpde', 'dpde', 'adaptive'));
ALTER TABLE debate_arguments DROP CONSTRAINT debate_arguments_role_check;
ALTER TABLE debate_arguments ADD CONSTRAINT debate_arguments_role_check CHECK (role IN ('proponent', 'opponent', 'moderator', 'synthesizer'));
ALTER TABLE debates
    DROP COLUMN config,
    DROP COLUMN expected,
    DROP COLUMN panel,
    DROP COLUMN task_id,
    DROP COLUMN event_count,
    DROP COLUMN stop_reason,
    DROP COLUMN baseline,
    DROP COLUMN changed,
    DROP COLUMN minority_opinion,
    DROP COLUMN confidence_source;
ALTER TABLE debate_rounds
    DROP COLUMN convergence,
    DROP COLUMN winner,
    DROP COLUMN tally;
ALTER TABLE debate_arguments
    DROP COLUMN answer,
    DROP COLUMN confidence_source;
ALTER TABLE debate_votes
    DROP COLUMN is_valid,
    DROP COLUMN is_repaired,
    DROP COLUMN refusal;
COMMENT ON COLUMN debate_arguments.round_number IS NULL;
COMMENT ON COLUMN debate_rounds.agreement IS 'How far the participants agreed at the end, 0 to 1.';
COMMENT ON COLUMN debate_arguments.role IS 'proponent, opponent, moderator or synthesizer.';
COMMENT ON COLUMN debate_votes.response_id IS 'Joins llm_responses; no FK because responses are dropped sooner.';
