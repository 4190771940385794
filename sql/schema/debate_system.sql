-- debate_system.sql: questions several models argue about: rounds, arguments, votes and the code they write.
-- Domain: debates. What a debate costs is never kept here: arguments and votes name the response that holds tokens and cost.

-- ---------------------------------------------------------------------------------------------------------------------
-- debates: one row per debate. Written by whoever starts it and by the debate engine. Content of its creator: erased with them.
-- ---------------------------------------------------------------------------------------------------------------------
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
    config            jsonb        NOT NULL DEFAULT '{}',
    expected          text,
    panel             varchar(100),
    task_id           uuid,
    event_count       integer      NOT NULL DEFAULT 0,
    multipass_result  jsonb,
    stop_reason       varchar(50),
    baseline          jsonb,
    changed           boolean,
    consensus_reached boolean      NOT NULL DEFAULT false,
    final_conclusion  text,
    consensus         text         GENERATED ALWAYS AS (CASE WHEN consensus_reached THEN final_conclusion END) STORED,
    minority_opinion  text,
    final_winner      varchar(255),
    confidence        numeric(5,4),
    confidence_score  numeric(5,4) GENERATED ALWAYS AS (confidence) STORED,
    confidence_source varchar(50),
    error             text,
    metadata          jsonb        NOT NULL DEFAULT '{}',
    created_at        timestamptz  NOT NULL DEFAULT now(),
    started_at        timestamptz,
    completed_at      timestamptz,
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debates_pkey PRIMARY KEY (id),
    CONSTRAINT debates_status_check CHECK (status IN ('pending', 'running', 'validating', 'completed', 'failed', 'cancelled')),
    CONSTRAINT debates_topology_check CHECK (topology IN ('graph_mesh', 'star', 'chain', 'tree')),
    CONSTRAINT debates_protocol_check CHECK (protocol IN
        ('cpde', 'dpde', 'adaptive', 'round_robin', 'all_see_all', 'critic_defender', 'judge')),
    CONSTRAINT debates_voting_method_check CHECK (voting_method IN
        ('weighted', 'majority', 'borda', 'condorcet', 'plurality', 'unanimous')),
    CONSTRAINT debates_rounds_check CHECK (total_rounds >= 1 AND current_round BETWEEN 0 AND total_rounds),
    CONSTRAINT debates_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT debates_confidence_source_check CHECK (confidence_source IN ('self_reported', 'vote_share', 'judge')),
    CONSTRAINT debates_stop_reason_check CHECK (stop_reason IN ('rounds', 'agreement', 'convergence', 'budget', 'time', 'calls')),
    CONSTRAINT debates_event_count_check CHECK (event_count >= 0)
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
COMMENT ON COLUMN debates.config IS 'The rest of how it is held: judge, synthesizer, substitutes, when to stop, limits, repository.';
COMMENT ON COLUMN debates.expected IS 'The right answer, when it is known beforehand: one of the positions. No participant is told; debate_value counts who found it.';
COMMENT ON COLUMN debates.panel IS 'Name of the panel it was started from (model debate/<name>).';
COMMENT ON COLUMN debates.task_id IS 'Task that holds it; joins background_tasks, no FK because tasks are cleared away sooner.';
COMMENT ON COLUMN debates.event_count IS 'Events so far; the sequence of the newest one.';
COMMENT ON COLUMN debates.stop_reason IS 'Why there was no further round: all rounds held, agreement, convergence, or a limit (budget, time, calls).';
COMMENT ON COLUMN debates.baseline IS 'Plain majority of the first single answers (round 0 of debate_arguments): answer, share of the answers, how many.';
COMMENT ON COLUMN debates.changed IS 'Whether the debate ended with another answer than the plain majority of the single answers; NULL without that baseline.';
COMMENT ON COLUMN debates.multipass_result IS 'What the validation passes found.';
COMMENT ON COLUMN debates.final_conclusion IS 'Answer of the debate.';
COMMENT ON COLUMN debates.consensus IS 'Derived: final_conclusion when consensus_reached. The name one seed uses.';
COMMENT ON COLUMN debates.minority_opinion IS 'What those held who did not agree; NULL when all did.';
COMMENT ON COLUMN debates.final_winner IS 'Position or participant that won the vote.';
COMMENT ON COLUMN debates.confidence IS 'Confidence in the conclusion, 0 to 1.';
COMMENT ON COLUMN debates.confidence_score IS 'Derived: confidence. The name one seed uses.';
COMMENT ON COLUMN debates.confidence_source IS 'Where the confidence comes from: stated by the model itself, share of the votes, or the judge.';

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

-- Which debate answers this request? (debate/<name> asked again after a crash, with the same request)
CREATE INDEX debates_request_id_idx ON debates (request_id) WHERE request_id IS NOT NULL;

-- debates_hold_status: the states of a debate and the ways between them; what has ended stays as it ended, and an end says how.
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
CREATE TRIGGER debates_set_updated_at BEFORE UPDATE ON debates FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- debate_rounds: one row per round of a debate. Written by the debate engine. Tenant: through the debate. Goes with it.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE debate_rounds (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    debate_id    uuid         NOT NULL,
    round_number integer      NOT NULL,
    phase        varchar(50)  NOT NULL DEFAULT 'argument',
    status       varchar(50)  NOT NULL DEFAULT 'pending',
    agreement    numeric(5,4),
    convergence  numeric(5,4),
    winner       text,
    tally        jsonb,
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
    CONSTRAINT debate_rounds_agreement_check CHECK (agreement BETWEEN 0 AND 1),
    CONSTRAINT debate_rounds_convergence_check CHECK (convergence BETWEEN 0 AND 1)
);

COMMENT ON TABLE debate_rounds IS 'Rounds of a debate and how far the participants agreed.';
COMMENT ON COLUMN debate_rounds.round_number IS 'From 1.';
COMMENT ON COLUMN debate_rounds.phase IS 'Phase of the protocol the round belongs to, e.g. dehallucination, proposal, critique, convergence.';
COMMENT ON COLUMN debate_rounds.agreement IS 'How far the participants agreed at the end, 0 to 1: the share of the votes that put the leader first.';
COMMENT ON COLUMN debate_rounds.convergence IS 'How far the participants repeated themselves, 0 to 1: mean similarity of each one''s argument to the one before; NULL in the first round.';
COMMENT ON COLUMN debate_rounds.winner IS 'Position or participant elected by the votes of this round; NULL when nobody was.';
COMMENT ON COLUMN debate_rounds.tally IS 'The count: scores as exact fractions, the tied, what broke the tie, the completion used.';

-- ---------------------------------------------------------------------------------------------------------------------
-- debate_arguments: one row per turn of a participant. Written by the debate engine when the turn ends; then only the verdict
-- of the validation is added. Tenant: through the debate. Goes with it.
-- ---------------------------------------------------------------------------------------------------------------------
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
    answer              text,
    confidence          numeric(5,4),
    confidence_source   varchar(50),
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
    CONSTRAINT debate_arguments_role_check CHECK (role IN
        ('proponent', 'opponent', 'moderator', 'synthesizer', 'debater', 'critic', 'defender', 'judge', 'researcher')),
    CONSTRAINT debate_arguments_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT debate_arguments_confidence_source_check CHECK (confidence_source IN ('self_reported', 'vote_share', 'judge')),
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
COMMENT ON COLUMN debate_arguments.round_number IS 'From 1; 0 holds the single answers given before and apart from the debate (the baseline).';
COMMENT ON COLUMN debate_arguments.role IS 'proponent, opponent, moderator, synthesizer, debater, critic, defender, judge or researcher.';
COMMENT ON COLUMN debate_arguments.argument_text IS 'What was said (other seeds: argument, content).';
COMMENT ON COLUMN debate_arguments.answer IS 'The answer in short, as the participant put it; one of the positions when there are any.';
COMMENT ON COLUMN debate_arguments.confidence IS '0 to 1.';
COMMENT ON COLUMN debate_arguments.confidence_source IS 'Where the confidence comes from: stated by the model itself, share of the votes, or the judge.';
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
-- Each participant speaks once a round: a turn recorded twice would be counted twice.
CREATE UNIQUE INDEX debate_arguments_debate_id_round_number_participant_key ON debate_arguments (debate_id, round_number, participant_id) WHERE participant_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- debate_votes: one row per voter and round. Written by the debate engine. Tenant: through the debate. Goes with it.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE debate_votes (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    debate_id    uuid         NOT NULL,
    round_number integer      NOT NULL,
    voter        varchar(255) NOT NULL,
    ranking      jsonb        NOT NULL DEFAULT '[]',
    weight       numeric(5,2) NOT NULL DEFAULT 1.0,
    confidence   numeric(5,4),
    reason       text,
    is_valid     boolean      NOT NULL DEFAULT true,
    is_repaired  boolean      NOT NULL DEFAULT false,
    refusal      text,
    response_id  uuid,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debate_votes_pkey PRIMARY KEY (id),
    CONSTRAINT debate_votes_debate_id_round_number_voter_key UNIQUE (debate_id, round_number, voter),
    CONSTRAINT debate_votes_debate_id_fkey FOREIGN KEY (debate_id) REFERENCES debates (id) ON DELETE CASCADE,
    CONSTRAINT debate_votes_round_number_check CHECK (round_number >= 0),
    CONSTRAINT debate_votes_ranking_check CHECK (jsonb_typeof(ranking) = 'array'),
    CONSTRAINT debate_votes_weight_check CHECK (weight >= 0),
    CONSTRAINT debate_votes_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT debate_votes_refusal_check CHECK (is_valid OR (refusal IS NOT NULL AND ranking = '[]'))
);

COMMENT ON TABLE debate_votes IS 'How each voter ranked the positions in each round.';
COMMENT ON COLUMN debate_votes.voter IS 'Who voted, as named in debates.participants.';
COMMENT ON COLUMN debate_votes.ranking IS 'Positions or participants, best first: an array; one element for a plain vote.';
COMMENT ON COLUMN debate_votes.weight IS 'How much the vote counts under the weighted method.';
COMMENT ON COLUMN debate_votes.is_valid IS 'False for a ballot that could not be read: it is kept, with the reason, and counts for nobody.';
COMMENT ON COLUMN debate_votes.is_repaired IS 'Whether the voter had to be asked a second time.';
COMMENT ON COLUMN debate_votes.refusal IS 'Why the (first) ballot was refused.';
COMMENT ON COLUMN debate_votes.response_id IS 'Joins llm_responses; no FK because responses are dropped sooner.';

-- ---------------------------------------------------------------------------------------------------------------------
-- code_versions: one row per version of the code a debate works on. Written by the debate engine, then by its test runs.
-- Tenant: through the debate. Goes with it.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- ---------------------------------------------------------------------------------------------------------------------
-- debate_events: one row per step of a debate, in order: what happened, and the answer of a model that was paid for it.
-- Written by the debate engine in the transaction of what it tells; never changed. Tenant: through the debate. Goes with it.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- ---------------------------------------------------------------------------------------------------------------------
-- panels: named sets of models that answer together, called as ensemble/<name> or debate/<name>. Written by whoever sets
-- them up. Tenant: user_id; NULL = shared, set up by an operator.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- cleanup_expired_debate_logs: retention of debates. Rounds, arguments, votes and code versions go with them.
CREATE FUNCTION cleanup_expired_debate_logs(p_older_than interval DEFAULT '90 days') RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $$
    WITH gone AS (
        DELETE FROM public.debates
        WHERE status IN ('completed', 'failed', 'cancelled') AND coalesce(completed_at, updated_at) < now() - p_older_than RETURNING 1)
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION cleanup_expired_debate_logs(interval) IS 'Deletes debates that ended longer ago than this (90 days), of those the caller may see; returns how many. Debates under way are left alone.';
