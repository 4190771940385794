-- 019_debates.up.sql: debates that are held: their course, their outcome, what they cost, and panels to call by name.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

ALTER TABLE debates
    ADD COLUMN config jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN expected text,
    ADD COLUMN panel varchar(100),
    ADD COLUMN task_id uuid,
    ADD COLUMN event_count integer NOT NULL DEFAULT 0,
    ADD COLUMN stop_reason varchar(50),
    ADD COLUMN baseline jsonb,
    ADD COLUMN changed boolean,
    ADD COLUMN minority_opinion text,
    ADD COLUMN confidence_source varchar(50);
ALTER TABLE debates ADD CONSTRAINT debates_confidence_source_check CHECK (confidence_source IN ('self_reported', 'vote_share', 'judge'));
ALTER TABLE debates ADD CONSTRAINT debates_stop_reason_check CHECK (stop_reason IN ('rounds', 'agreement', 'convergence', 'budget', 'time', 'calls'));
ALTER TABLE debates ADD CONSTRAINT debates_event_count_check CHECK (event_count >= 0);
ALTER TABLE debate_rounds
    ADD COLUMN convergence numeric(5,4),
    ADD COLUMN winner text,
    ADD COLUMN tally jsonb;
ALTER TABLE debate_rounds ADD CONSTRAINT debate_rounds_convergence_check CHECK (convergence BETWEEN 0 AND 1);
ALTER TABLE debate_arguments
    ADD COLUMN answer text,
    ADD COLUMN confidence_source varchar(50);
ALTER TABLE debate_arguments ADD CONSTRAINT debate_arguments_confidence_source_check CHECK (confidence_source IN ('self_reported', 'vote_share', 'judge'));
ALTER TABLE debate_votes
    ADD COLUMN is_valid boolean NOT NULL DEFAULT true,
    ADD COLUMN is_repaired boolean NOT NULL DEFAULT false,
    ADD COLUMN refusal text;
ALTER TABLE debate_votes ADD CONSTRAINT debate_votes_refusal_check CHECK (is_valid OR (refusal IS NOT NULL AND ranking = '[]'));
ALTER TABLE debates DROP CONSTRAINT debates_protocol_check;
ALTER TABLE debates ADD CONSTRAINT debates_protocol_check CHECK (protocol IN
        ('cpde', 'dpde', 'adaptive', 'round_robin', 'all_see_all', 'critic_defender', 'judge'));
ALTER TABLE debate_arguments DROP CONSTRAINT debate_arguments_role_check;
ALTER TABLE debate_arguments ADD CONSTRAINT debate_arguments_role_check CHECK (role IN
        ('proponent', 'opponent', 'moderator', 'synthesizer', 'debater', 'critic', 'defender', 'judge', 'researcher'));

COMMENT ON COLUMN debates.config IS 'The rest of how it is held: judge, synthesizer, substitutes, when to stop, limits, repository.';
COMMENT ON COLUMN debates.expected IS 'The right answer, when it is known beforehand: one of the positions. No participant is told; debate_value counts who found it.';
COMMENT ON COLUMN debates.panel IS 'Name of the panel it was started from (model debate/<name>).';
COMMENT ON COLUMN debates.task_id IS 'Task that holds it; joins background_tasks, no FK because tasks are cleared away sooner.';
COMMENT ON COLUMN debates.event_count IS 'Events so far; the sequence of the newest one.';
COMMENT ON COLUMN debates.stop_reason IS 'Why there was no further round: all rounds held, agreement, convergence, or a limit (budget, time, calls).';
COMMENT ON COLUMN debates.baseline IS 'Plain majority of the first single answers (round 0 of debate_arguments): answer, share of the answers, how many.';
COMMENT ON COLUMN debates.changed IS 'Whether the debate ended with another answer than the plain majority of the single answers; NULL without that baseline.';
COMMENT ON COLUMN debates.minority_opinion IS 'What those held who did not agree; NULL when all did.';
COMMENT ON COLUMN debates.confidence_source IS 'Where the confidence comes from: stated by the model itself, share of the votes, or the judge.';
COMMENT ON COLUMN debate_rounds.agreement IS 'How far the participants agreed at the end, 0 to 1: the share of the votes that put the leader first.';
COMMENT ON COLUMN debate_rounds.convergence IS 'How far the participants repeated themselves, 0 to 1: mean similarity of each one''s argument to the one before; NULL in the first round.';
COMMENT ON COLUMN debate_rounds.winner IS 'Position or participant elected by the votes of this round; NULL when nobody was.';
COMMENT ON COLUMN debate_rounds.tally IS 'The count: scores as exact fractions, the tied, what broke the tie, the completion used.';
COMMENT ON COLUMN debate_arguments.round_number IS 'From 1; 0 holds the single answers given before and apart from the debate (the baseline).';
COMMENT ON COLUMN debate_arguments.role IS 'proponent, opponent, moderator, synthesizer, debater, critic, defender, judge or researcher.';
COMMENT ON COLUMN debate_arguments.answer IS 'The answer in short, as the participant put it; one of the positions when there are any.';
COMMENT ON COLUMN debate_arguments.confidence_source IS 'Where the confidence comes from: stated by the model itself, share of the votes, or the judge.';
COMMENT ON COLUMN debate_votes.is_valid IS 'False for a ballot that could not be read: it is kept, with the reason, and counts for nobody.';
COMMENT ON COLUMN debate_votes.is_repaired IS 'Whether the voter had to be asked a second time.';
COMMENT ON COLUMN debate_votes.refusal IS 'Why the (first) ballot was refused.';
COMMENT ON COLUMN debate_votes.response_id IS 'Joins llm_responses; no FK because responses are dropped sooner.';

CREATE INDEX debates_request_id_idx ON debates (request_id) WHERE request_id IS NOT NULL;
CREATE UNIQUE INDEX debate_arguments_debate_id_round_number_participant_key ON debate_arguments (debate_id, round_number, participant_id) WHERE participant_id IS NOT NULL;

CREATE FUNCTION debates_hold_status() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, public AS $$
BEGIN
    IF OLD.status <> NEW.status AND (OLD.status, NEW.status) NOT IN (
            ('pending', 'running'), ('pending', 'failed'), ('pending', 'cancelled'),
            ('running', 'validating'), ('running', 'completed'), ('running', 'failed'), ('running', 'cancelled'),
            ('validating', 'completed'), ('validating', 'failed'), ('validating', 'cancelled')) THEN
        RAISE EXCEPTION 'debate % cannot go from % to %', OLD.id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'debates_hold_status';
    END IF;
    IF NEW.status = 'completed' AND (NEW.final_conclusion IS NULL OR NEW.completed_at IS NULL)
       OR NEW.status = 'failed' AND (NEW.error IS NULL OR NEW.completed_at IS NULL)
       OR NEW.status = 'cancelled' AND NEW.completed_at IS NULL THEN
        RAISE EXCEPTION 'debate % ends as % without saying how and when', OLD.id, NEW.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'debates_hold_status';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION debates_hold_status() IS 'Refuses a change of debates.status that is not one of its ways, and an end without conclusion, error or time.';

CREATE TRIGGER debates_hold_status BEFORE UPDATE OF status ON debates FOR EACH ROW EXECUTE FUNCTION debates_hold_status();

CREATE TABLE debate_events (
    debate_id      uuid         NOT NULL,
    sequence       integer      NOT NULL,
    event_type     varchar(50)  NOT NULL,
    round_number   integer,
    participant_id varchar(255),
    request_id     uuid,
    response_id    uuid,
    data           jsonb        NOT NULL DEFAULT '{}',
    created_at     timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debate_events_pkey PRIMARY KEY (debate_id, sequence),
    CONSTRAINT debate_events_debate_id_fkey FOREIGN KEY (debate_id) REFERENCES debates (id) ON DELETE CASCADE,
    CONSTRAINT debate_events_sequence_check CHECK (sequence >= 1),
    CONSTRAINT debate_events_event_type_check CHECK (event_type IN
        ('started', 'resumed', 'round_started', 'baseline', 'argued', 'substituted', 'silent', 'voted', 'ballot_refused',
         'round_ended', 'validating', 'validated', 'concluded', 'completed', 'failed', 'cancelled', 'code_recorded')),
    CONSTRAINT debate_events_round_number_check CHECK (round_number >= 0)
);

COMMENT ON TABLE debate_events IS 'The course of a debate, step by step; each model answer that was paid for stands in one of them, so their sum is what it cost.';
COMMENT ON COLUMN debate_events.sequence IS 'From 1 without gaps, in the order of the commits; what /events calls the id.';
COMMENT ON COLUMN debate_events.request_id IS 'Joins llm_requests; no FK because requests are dropped sooner.';
COMMENT ON COLUMN debate_events.response_id IS 'Joins llm_responses, which holds tokens and cost; no FK because responses are dropped sooner.';
COMMENT ON COLUMN debate_events.data IS 'What else there is to tell of this kind of event.';

-- A paid answer is counted once.
CREATE UNIQUE INDEX debate_events_response_id_key ON debate_events (response_id) WHERE response_id IS NOT NULL;

CREATE TABLE panels (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id     uuid,
    kind        varchar(20)  NOT NULL,
    name        varchar(100) NOT NULL,
    config      jsonb        NOT NULL DEFAULT '{}',
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT panels_pkey PRIMARY KEY (id),
    CONSTRAINT panels_user_id_kind_name_key UNIQUE NULLS NOT DISTINCT (user_id, kind, name),
    CONSTRAINT panels_kind_check CHECK (kind IN ('ensemble', 'debate')),
    CONSTRAINT panels_name_check CHECK (name ~ '^[a-z0-9][a-z0-9._-]*$')
);

COMMENT ON TABLE panels IS 'Named sets of models that answer together: as an ensemble (one round, one chosen) or as a debate.';
COMMENT ON COLUMN panels.user_id IS 'Tenant; NULL = for everybody. A user''s own panel goes before a shared one of the same name.';
COMMENT ON COLUMN panels.config IS 'Members, strategy and limits; checked when it is stored and when it is used.';

CREATE TRIGGER panels_set_updated_at BEFORE UPDATE ON panels FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

ALTER TABLE panels ADD CONSTRAINT panels_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;

ALTER TABLE debate_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE debate_events FORCE ROW LEVEL SECURITY;
CREATE POLICY debate_events_tenant ON debate_events TO helix_app USING (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_events.debate_id)) WITH CHECK (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_events.debate_id));
CREATE POLICY debate_events_operator ON debate_events TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY debate_events_readonly ON debate_events FOR SELECT TO helix_readonly USING (true);
ALTER TABLE panels ENABLE ROW LEVEL SECURITY;
ALTER TABLE panels FORCE ROW LEVEL SECURITY;
CREATE POLICY panels_tenant ON panels TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY panels_shared ON panels FOR SELECT TO helix_app USING (user_id IS NULL AND (SELECT helix_tenant()) IS NOT NULL);
CREATE POLICY panels_operator ON panels TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY panels_readonly ON panels FOR SELECT TO helix_readonly USING (true);

GRANT SELECT, INSERT ON debate_events TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON panels TO helix_app, helix_operator;
GRANT SELECT ON debate_events, panels TO helix_readonly;

CREATE VIEW debate_value WITH (security_invoker = true) AS
SELECT d.id AS debate_id, d.created_by, d.created_at, d.topic, d.status, d.protocol, d.voting_method, d.current_round AS rounds_held, d.stop_reason,
       d.baseline ->> 'answer' AS baseline_answer, (d.baseline ->> 'share')::numeric AS baseline_share, s.single_answers,
       d.final_winner, d.consensus_reached, d.confidence, d.confidence_source, d.changed, d.expected,
       s.single_right, CASE WHEN d.expected IS NOT NULL AND d.baseline IS NOT NULL THEN d.baseline ->> 'answer' IS NOT DISTINCT FROM d.expected END AS baseline_right,
       CASE WHEN d.expected IS NOT NULL AND d.status = 'completed' THEN d.final_winner IS NOT DISTINCT FROM d.expected END AS debate_right,
       c.calls, c.tokens, c.cost_usd, c.baseline_cost_usd, c.cost_usd - c.baseline_cost_usd AS debate_cost_usd,
       round((c.cost_usd - c.baseline_cost_usd) / nullif(c.baseline_cost_usd, 0), 2) AS times_the_baseline, c.calls_kept,
       round(extract(epoch FROM d.completed_at - d.started_at), 3) AS wall_s
FROM debates AS d
CROSS JOIN LATERAL (
    SELECT count(*) AS single_answers,
           CASE WHEN d.expected IS NOT NULL THEN count(*) FILTER (WHERE a.answer = d.expected) END AS single_right
    FROM debate_arguments AS a WHERE a.debate_id = d.id AND a.round_number = 0) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS calls, count(r.id) AS calls_kept, coalesce(sum(r.tokens_total), 0) AS tokens, coalesce(sum(r.cost_usd), 0) AS cost_usd,
           coalesce(sum(r.cost_usd) FILTER (WHERE e.event_type = 'baseline'), 0) AS baseline_cost_usd
    FROM debate_events AS e LEFT JOIN llm_responses AS r ON r.id = e.response_id
    WHERE e.debate_id = d.id AND e.response_id IS NOT NULL) AS c;
COMMENT ON VIEW debate_value IS 'Did it pay? Per debate: the single answers and their plain majority with their cost, the outcome of the debate with its cost, and whether the answer changed. Costs come from the ledger: calls_kept < calls says that old answers were dropped since.';
COMMENT ON COLUMN debate_value.single_answers IS 'Single answers given before and apart from the debate.';
COMMENT ON COLUMN debate_value.single_right IS 'How many of them were the expected one; NULL when none was named.';
COMMENT ON COLUMN debate_value.cost_usd IS 'All calls of the debate, the baseline among them. A substitute''s failed predecessor that was charged stands in the ledger under the debate''s task.';
COMMENT ON COLUMN debate_value.times_the_baseline IS 'debate_cost_usd / baseline_cost_usd.';

GRANT SELECT ON debate_value TO helix_app, helix_operator, helix_readonly;
