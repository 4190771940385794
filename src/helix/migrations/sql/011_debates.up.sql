-- 011_debates.up.sql: Debates: debates, rounds, arguments, votes, code versions.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- ----------------------------------------------------------------------------------------------------
-- debate system
-- ----------------------------------------------------------------------------------------------------

-- debates: one row per debate. Written by whoever starts it and by the debate engine. Content of its creator: erased with them.
CREATE TABLE debates (
    id                uuid         NOT NULL DEFAULT gen_random_uuid(),
    created_by        uuid,
    project_id        uuid,
    session_id        uuid,
    request_id        uuid,
    topic             text         NOT NULL,
    description       text,
    status            varchar(50)  NOT NULL DEFAULT 'pending',
    strategy          varchar(100),
    topology          varchar(50),
    protocol          varchar(50),
    voting_method     varchar(50)  NOT NULL DEFAULT 'weighted',
    total_rounds      integer      NOT NULL DEFAULT 3,
    max_rounds        integer      NOT NULL GENERATED ALWAYS AS (total_rounds) STORED,
    current_round     integer      NOT NULL DEFAULT 0,
    rounds            integer      NOT NULL GENERATED ALWAYS AS (current_round) STORED,
    positions         jsonb        NOT NULL DEFAULT '[]',
    participants      jsonb        NOT NULL DEFAULT '[]',
    validation_config jsonb        NOT NULL DEFAULT '{}',
    multipass_result  jsonb,
    consensus_reached boolean      NOT NULL DEFAULT false,
    final_conclusion  text,
    consensus         text         GENERATED ALWAYS AS (CASE WHEN consensus_reached THEN final_conclusion END) STORED,
    final_winner      varchar(255),
    confidence        numeric(5,4),
    confidence_score  numeric(5,4) GENERATED ALWAYS AS (confidence) STORED,
    error             text,
    metadata          jsonb        NOT NULL DEFAULT '{}',
    created_at        timestamptz  NOT NULL DEFAULT now(),
    started_at        timestamptz,
    completed_at      timestamptz,
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debates_pkey PRIMARY KEY (id),
    CONSTRAINT debates_status_check CHECK (status IN ('pending', 'running', 'validating', 'completed', 'failed', 'cancelled')),
    CONSTRAINT debates_topology_check CHECK (topology IN ('graph_mesh', 'star', 'chain', 'tree')),
    CONSTRAINT debates_protocol_check CHECK (protocol IN ('cpde', 'dpde', 'adaptive')),
    CONSTRAINT debates_voting_method_check CHECK (voting_method IN
        ('weighted', 'majority', 'borda', 'condorcet', 'plurality', 'unanimous')),
    CONSTRAINT debates_rounds_check CHECK (total_rounds >= 1 AND current_round BETWEEN 0 AND total_rounds),
    CONSTRAINT debates_confidence_check CHECK (confidence BETWEEN 0 AND 1)
);
COMMENT ON TABLE debates IS 'One row per debate: question, participants, course and outcome.';
COMMENT ON COLUMN debates.created_by IS 'Tenant: the user who started it; NULL for a debate of Helix itself.';
COMMENT ON COLUMN debates.request_id IS 'Request (model debate/<name>) it answers; joins llm_requests, no FK because requests are dropped sooner.';
COMMENT ON COLUMN debates.status IS 'pending, running (one seed says active), validating, completed, failed, cancelled.';
COMMENT ON COLUMN debates.total_rounds IS 'Rounds planned at most.';
COMMENT ON COLUMN debates.max_rounds IS 'Derived: total_rounds. The name one seed uses.';
COMMENT ON COLUMN debates.current_round IS 'Rounds begun; 0 before the first.';
COMMENT ON COLUMN debates.rounds IS 'Derived: current_round. The name one seed uses.';
COMMENT ON COLUMN debates.positions IS 'Positions argued for: an array.';
COMMENT ON COLUMN debates.participants IS 'Who argues, with provider, model, position and role: an array.';
COMMENT ON COLUMN debates.validation_config IS 'Which validation passes are made.';
COMMENT ON COLUMN debates.multipass_result IS 'What the validation passes found.';
COMMENT ON COLUMN debates.final_conclusion IS 'Answer of the debate.';
COMMENT ON COLUMN debates.consensus IS 'Derived: final_conclusion when consensus_reached. The name one seed uses.';
COMMENT ON COLUMN debates.final_winner IS 'Position or participant that won the vote.';
COMMENT ON COLUMN debates.confidence IS 'Confidence in the conclusion, 0 to 1.';
COMMENT ON COLUMN debates.confidence_score IS 'Derived: confidence. The name one seed uses.';

-- Which debates are running? (idx_debate_sessions_status of another seed has the same column)
CREATE INDEX idx_debates_status ON debates (status);

-- Which debates are the newest?
CREATE INDEX idx_debates_created ON debates (created_at DESC);

-- Which debates did this user start?
CREATE INDEX idx_debate_sessions_created_by ON debates (created_by);

-- Which debates belong to this project?
CREATE INDEX debates_project_id_idx ON debates (project_id) WHERE project_id IS NOT NULL;

-- Which debates came of this session?
CREATE INDEX debates_session_id_idx ON debates (session_id) WHERE session_id IS NOT NULL;
CREATE TRIGGER debates_set_updated_at BEFORE UPDATE ON debates FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- debate_rounds: one row per round of a debate. Written by the debate engine. Tenant: through the debate. Goes with it.
CREATE TABLE debate_rounds (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    debate_id    uuid         NOT NULL,
    round_number integer      NOT NULL,
    phase        varchar(50)  NOT NULL DEFAULT 'argument',
    status       varchar(50)  NOT NULL DEFAULT 'pending',
    agreement    numeric(5,4),
    summary      text,
    metadata     jsonb        NOT NULL DEFAULT '{}',
    created_at   timestamptz  NOT NULL DEFAULT now(),
    started_at   timestamptz,
    completed_at timestamptz,
    CONSTRAINT debate_rounds_pkey PRIMARY KEY (id),
    CONSTRAINT debate_rounds_debate_id_round_number_key UNIQUE (debate_id, round_number),
    CONSTRAINT debate_rounds_debate_id_fkey FOREIGN KEY (debate_id) REFERENCES debates (id) ON DELETE CASCADE,
    CONSTRAINT debate_rounds_round_number_check CHECK (round_number >= 1),
    CONSTRAINT debate_rounds_status_check CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    CONSTRAINT debate_rounds_agreement_check CHECK (agreement BETWEEN 0 AND 1)
);
COMMENT ON TABLE debate_rounds IS 'Rounds of a debate and how far the participants agreed.';
COMMENT ON COLUMN debate_rounds.round_number IS 'From 1.';
COMMENT ON COLUMN debate_rounds.phase IS 'Phase of the protocol the round belongs to, e.g. dehallucination, proposal, critique, convergence.';
COMMENT ON COLUMN debate_rounds.agreement IS 'How far the participants agreed at the end, 0 to 1.';

-- debate_arguments: one row per turn of a participant. Written by the debate engine when the turn ends; then only the verdict
-- of the validation is added. Tenant: through the debate. Goes with it.
CREATE TABLE debate_arguments (
    id                  uuid         NOT NULL DEFAULT uuidv7(),
    debate_id           uuid         NOT NULL,
    round_number        integer      NOT NULL,
    round               integer      NOT NULL GENERATED ALWAYS AS (round_number) STORED,
    turn_number         integer      NOT NULL DEFAULT 0,
    participant_id      varchar(255),
    provider_id         uuid,
    provider_name       varchar(255) NOT NULL DEFAULT '',
    model_name          varchar(255),
    position            text         NOT NULL,
    role                varchar(50),
    argument_text       text         NOT NULL,
    confidence          numeric(5,4),
    quality_score       numeric(5,4),
    tokens_used         integer      NOT NULL DEFAULT 0,
    latency_ms          bigint       NOT NULL DEFAULT 0,
    response_id         uuid,
    is_primary          boolean      NOT NULL DEFAULT true,
    validation_status   varchar(50),
    validation_feedback text,
    tool_calls          jsonb,
    test_results        jsonb,
    reflections         jsonb,
    created_at          timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debate_arguments_pkey PRIMARY KEY (id),
    CONSTRAINT debate_arguments_debate_id_fkey FOREIGN KEY (debate_id) REFERENCES debates (id) ON DELETE CASCADE,
    CONSTRAINT debate_arguments_round_number_check CHECK (round_number >= 0),
    CONSTRAINT debate_arguments_turn_number_check CHECK (turn_number >= 0),
    CONSTRAINT debate_arguments_role_check CHECK (role IN ('proponent', 'opponent', 'moderator', 'synthesizer')),
    CONSTRAINT debate_arguments_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT debate_arguments_quality_score_check CHECK (quality_score BETWEEN 0 AND 1),
    CONSTRAINT debate_arguments_tokens_used_check CHECK (tokens_used >= 0),
    CONSTRAINT debate_arguments_latency_ms_check CHECK (latency_ms >= 0),
    CONSTRAINT debate_arguments_validation_status_check CHECK (validation_status IN ('pending', 'passed', 'failed'))
);
COMMENT ON TABLE debate_arguments IS 'What each participant said in each round. The raw answer and its cost are with response_id.';
COMMENT ON COLUMN debate_arguments.round IS 'Derived: round_number. The name one seed uses.';
COMMENT ON COLUMN debate_arguments.turn_number IS 'Order within the round.';
COMMENT ON COLUMN debate_arguments.participant_id IS 'Who spoke, as named in debates.participants.';
COMMENT ON COLUMN debate_arguments.provider_name IS 'Name of the provider at that time; stays when the provider is removed.';
COMMENT ON COLUMN debate_arguments.position IS 'Position argued for.';
COMMENT ON COLUMN debate_arguments.role IS 'proponent, opponent, moderator or synthesizer.';
COMMENT ON COLUMN debate_arguments.argument_text IS 'What was said (other seeds: argument, content).';
COMMENT ON COLUMN debate_arguments.confidence IS '0 to 1.';
COMMENT ON COLUMN debate_arguments.latency_ms IS 'Milliseconds the answer took (another seed: response_time).';
COMMENT ON COLUMN debate_arguments.response_id IS 'Joins llm_responses, which holds tokens and cost; no FK because responses are dropped sooner.';
COMMENT ON COLUMN debate_arguments.is_primary IS 'False when a substitute provider spoke for the one bound to the position.';
COMMENT ON COLUMN debate_arguments.validation_status IS 'Verdict of the validation: pending, passed, failed; NULL when none is made.';

-- What was said in this debate? (idx_debate_turns_session_id of another seed has the same column)
CREATE INDEX idx_debate_args_debate ON debate_arguments (debate_id);

-- What was said for this position? Hashed: a position may be a paragraph, longer than a b-tree takes.
CREATE INDEX idx_debate_args_position ON debate_arguments USING hash (position);

-- What was said in first, second ... rounds?
CREATE INDEX idx_debate_args_round ON debate_arguments (round_number);

-- What did this provider say?
CREATE INDEX idx_debate_args_provider ON debate_arguments (provider_id);

-- What was said in this round of this debate?
CREATE INDEX idx_debate_turns_round ON debate_arguments (debate_id, round_number);

-- debate_votes: one row per voter and round. Written by the debate engine. Tenant: through the debate. Goes with it.
CREATE TABLE debate_votes (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    debate_id    uuid         NOT NULL,
    round_number integer      NOT NULL,
    voter        varchar(255) NOT NULL,
    ranking      jsonb        NOT NULL DEFAULT '[]',
    weight       numeric(5,2) NOT NULL DEFAULT 1.0,
    confidence   numeric(5,4),
    reason       text,
    response_id  uuid,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debate_votes_pkey PRIMARY KEY (id),
    CONSTRAINT debate_votes_debate_id_round_number_voter_key UNIQUE (debate_id, round_number, voter),
    CONSTRAINT debate_votes_debate_id_fkey FOREIGN KEY (debate_id) REFERENCES debates (id) ON DELETE CASCADE,
    CONSTRAINT debate_votes_round_number_check CHECK (round_number >= 0),
    CONSTRAINT debate_votes_ranking_check CHECK (jsonb_typeof(ranking) = 'array'),
    CONSTRAINT debate_votes_weight_check CHECK (weight >= 0),
    CONSTRAINT debate_votes_confidence_check CHECK (confidence BETWEEN 0 AND 1)
);
COMMENT ON TABLE debate_votes IS 'How each voter ranked the positions in each round.';
COMMENT ON COLUMN debate_votes.voter IS 'Who voted, as named in debates.participants.';
COMMENT ON COLUMN debate_votes.ranking IS 'Positions or participants, best first: an array; one element for a plain vote.';
COMMENT ON COLUMN debate_votes.weight IS 'How much the vote counts under the weighted method.';
COMMENT ON COLUMN debate_votes.response_id IS 'Joins llm_responses; no FK because responses are dropped sooner.';

-- code_versions: one row per version of the code a debate works on. Written by the debate engine, then by its test runs.
-- Tenant: through the debate. Goes with it.
CREATE TABLE code_versions (
    id                uuid         NOT NULL DEFAULT gen_random_uuid(),
    debate_id         uuid         NOT NULL,
    session_id        uuid         NOT NULL GENERATED ALWAYS AS (debate_id) STORED,
    version_number    integer,
    round_number      integer,
    version_hash      varchar(64)  NOT NULL,
    branch            varchar(255) NOT NULL,
    commit_message    text,
    files_changed     jsonb        NOT NULL DEFAULT '[]',
    diff_summary      text,
    code              text,
    validation_status varchar(50)  NOT NULL DEFAULT 'pending',
    test_results      jsonb        NOT NULL DEFAULT '{}',
    test_pass_rate    numeric(5,4),
    quality_score     numeric(5,4),
    created_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT code_versions_pkey PRIMARY KEY (id),
    CONSTRAINT code_versions_debate_id_fkey FOREIGN KEY (debate_id) REFERENCES debates (id) ON DELETE CASCADE,
    CONSTRAINT code_versions_version_number_check CHECK (version_number >= 1),
    CONSTRAINT code_versions_round_number_check CHECK (round_number >= 0),
    CONSTRAINT code_versions_validation_status_check CHECK (validation_status IN ('pending', 'passed', 'failed')),
    CONSTRAINT code_versions_test_pass_rate_check CHECK (test_pass_rate BETWEEN 0 AND 1),
    CONSTRAINT code_versions_quality_score_check CHECK (quality_score BETWEEN 0 AND 1)
);
COMMENT ON TABLE code_versions IS 'Versions of the code a debate works on, with their tests.';
COMMENT ON COLUMN code_versions.session_id IS 'Derived: debate_id. The name one seed uses for the debate.';
COMMENT ON COLUMN code_versions.version_number IS 'Order within the debate, from 1.';
COMMENT ON COLUMN code_versions.version_hash IS 'Git commit hash.';
COMMENT ON COLUMN code_versions.files_changed IS 'Paths of the files changed: an array.';
COMMENT ON COLUMN code_versions.code IS 'The code itself, when it is one text.';
COMMENT ON COLUMN code_versions.test_pass_rate IS 'Part of the tests that passed, 0 to 1.';
COMMENT ON COLUMN code_versions.quality_score IS '0 to 1.';

-- Which versions came of this debate?
CREATE INDEX code_versions_debate_id_version_number_idx ON code_versions (debate_id, version_number);

-- cleanup_expired_debate_logs: retention of debates. Rounds, arguments, votes and code versions go with them.
CREATE FUNCTION cleanup_expired_debate_logs(p_older_than interval DEFAULT '90 days') RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    WITH gone AS (
        DELETE FROM public.debates
        WHERE status IN ('completed', 'failed', 'cancelled') AND coalesce(completed_at, updated_at) < now() - p_older_than RETURNING 1)
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION cleanup_expired_debate_logs(interval) IS 'Deletes debates that ended longer ago than this (90 days), of those the caller may see; returns how many. Debates under way are left alone.';

-- ----------------------------------------------------------------------------------------------------
-- relationships
-- ----------------------------------------------------------------------------------------------------

-- debates
ALTER TABLE debates ADD CONSTRAINT debates_created_by_fkey FOREIGN KEY (created_by) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE debates ADD CONSTRAINT debates_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE debates ADD CONSTRAINT debates_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE debate_arguments ADD CONSTRAINT debate_arguments_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL;

-- ----------------------------------------------------------------------------------------------------
-- indexes views
-- ----------------------------------------------------------------------------------------------------

CREATE VIEW debate_round_analytics WITH (security_invoker = true) AS
SELECT a.debate_id, a.round_number, a.provider_name, a.model_name, a.position, count(*) AS arguments, round(avg(a.confidence), 4) AS avg_confidence,
       round(avg(a.quality_score), 4) AS avg_quality_score, sum(a.tokens_used)::bigint AS tokens_used, round(avg(a.latency_ms), 1) AS avg_latency_ms,
       count(*) FILTER (WHERE a.is_primary) AS by_primary, count(*) FILTER (WHERE a.validation_status = 'failed') AS failed_validations,
       sum(r.cost_usd) AS cost_usd
FROM debate_arguments AS a LEFT JOIN llm_responses AS r ON r.id = a.response_id
GROUP BY a.debate_id, a.round_number, a.provider_name, a.model_name, a.position;
COMMENT ON VIEW debate_round_analytics IS 'Per debate, round, model and position: arguments, confidence, tokens, time, cost (as long as the answers are kept).';

-- ----------------------------------------------------------------------------------------------------
-- compatibility views
-- ----------------------------------------------------------------------------------------------------

CREATE VIEW debate_logs WITH (security_invoker = true) AS
SELECT d.id, d.topic, CASE d.status WHEN 'running' THEN 'active' ELSE d.status END::varchar(50) AS status, d.strategy, d.total_rounds, d.consensus_reached, d.final_conclusion,
       d.confidence_score, d.created_at, d.completed_at
FROM debates AS d;
COMMENT ON VIEW debate_logs IS 'debates under the name of the schema reference: topic and outcome. A running debate is active here.';

CREATE VIEW debate_sessions WITH (security_invoker = true) AS
SELECT d.id, d.topic, d.description, CASE d.status WHEN 'running' THEN 'active' ELSE d.status END::varchar(50) AS status, d.current_round, d.total_rounds, d.voting_method, d.positions,
       d.participants, d.final_winner, d.metadata, d.created_by, d.created_at, d.started_at, d.completed_at
FROM debates AS d;
COMMENT ON VIEW debate_sessions IS 'debates under the name of the SQL schema documentation: setup and course. A running debate is active here.';

CREATE VIEW debate_turns WITH (security_invoker = true) AS
SELECT a.id, a.debate_id AS session_id, a.round_number, a.turn_number, a.participant_id, a.position, a.argument_text AS content, b.raw_response,
       a.tokens_used, a.latency_ms AS response_time, a.confidence, a.created_at
FROM debate_arguments AS a LEFT JOIN llm_response_bodies AS b ON b.response_id = a.response_id;
COMMENT ON VIEW debate_turns IS 'debate_arguments under the name of the SQL schema documentation, with the provider''s raw answer as long as it is kept.';
COMMENT ON COLUMN debate_turns.session_id IS 'The debate (debates.id).';
COMMENT ON COLUMN debate_turns.response_time IS 'Milliseconds.';

-- ----------------------------------------------------------------------------------------------------
-- row-level security
-- ----------------------------------------------------------------------------------------------------

-- debates
ALTER TABLE debates ENABLE ROW LEVEL SECURITY;
ALTER TABLE debates FORCE ROW LEVEL SECURITY;
CREATE POLICY debates_tenant ON debates TO helix_app
    USING (created_by = (SELECT helix_tenant()))
    WITH CHECK (created_by = (SELECT helix_tenant())
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = debates.project_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = debates.session_id)));
CREATE POLICY debates_operator ON debates TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY debates_readonly ON debates FOR SELECT TO helix_readonly USING (true);

-- debate_rounds
ALTER TABLE debate_rounds ENABLE ROW LEVEL SECURITY;
ALTER TABLE debate_rounds FORCE ROW LEVEL SECURITY;
CREATE POLICY debate_rounds_tenant ON debate_rounds TO helix_app
    USING (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_rounds.debate_id))
    WITH CHECK (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_rounds.debate_id));
CREATE POLICY debate_rounds_operator ON debate_rounds TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY debate_rounds_readonly ON debate_rounds FOR SELECT TO helix_readonly USING (true);

-- debate_arguments
ALTER TABLE debate_arguments ENABLE ROW LEVEL SECURITY;
ALTER TABLE debate_arguments FORCE ROW LEVEL SECURITY;
CREATE POLICY debate_arguments_tenant ON debate_arguments TO helix_app
    USING (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_arguments.debate_id))
    WITH CHECK (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_arguments.debate_id));
CREATE POLICY debate_arguments_operator ON debate_arguments TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY debate_arguments_readonly ON debate_arguments FOR SELECT TO helix_readonly USING (true);

-- debate_votes
ALTER TABLE debate_votes ENABLE ROW LEVEL SECURITY;
ALTER TABLE debate_votes FORCE ROW LEVEL SECURITY;
CREATE POLICY debate_votes_tenant ON debate_votes TO helix_app
    USING (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_votes.debate_id))
    WITH CHECK (EXISTS (SELECT FROM debates AS parent WHERE parent.id = debate_votes.debate_id));
CREATE POLICY debate_votes_operator ON debate_votes TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY debate_votes_readonly ON debate_votes FOR SELECT TO helix_readonly USING (true);

-- code_versions
ALTER TABLE code_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE code_versions FORCE ROW LEVEL SECURITY;
CREATE POLICY code_versions_tenant ON code_versions TO helix_app
    USING (EXISTS (SELECT FROM debates AS parent WHERE parent.id = code_versions.debate_id))
    WITH CHECK (EXISTS (SELECT FROM debates AS parent WHERE parent.id = code_versions.debate_id));
CREATE POLICY code_versions_operator ON code_versions TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY code_versions_readonly ON code_versions FOR SELECT TO helix_readonly USING (true);

-- ----------------------------------------------------------------------------------------------------
-- grants
-- ----------------------------------------------------------------------------------------------------

-- debates. Rounds, arguments, votes and code go with their debate.
GRANT SELECT, INSERT, UPDATE, DELETE ON debates TO helix_app, helix_operator;
GRANT SELECT, INSERT, UPDATE ON debate_rounds, debate_arguments, code_versions TO helix_app, helix_operator;
GRANT SELECT, INSERT ON debate_votes TO helix_app, helix_operator;
GRANT SELECT ON debates, debate_rounds, debate_arguments, debate_votes, code_versions TO helix_readonly;

-- Views are security_invoker: what they show is what the reader may see beneath.
GRANT SELECT ON debate_logs, debate_sessions, debate_turns, debate_round_analytics TO helix_app, helix_operator, helix_readonly;
