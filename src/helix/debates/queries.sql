-- Statements of debates and panels. As helix_app they see the tenant's own, as helix_operator all.

-- name: insert_debate
-- insert_debate: a debate that has not begun. Index: none. Locks: none.
INSERT INTO debates (id, created_by, project_id, session_id, request_id, topic, description, strategy, topology, protocol, voting_method,
                     total_rounds, positions, participants, validation_config, config, expected, panel, metadata, created_at)
VALUES (:id, :created_by, :project_id, :session_id, :request_id, :topic, :description, :strategy, :topology, :protocol, :voting_method,
        :total_rounds, :positions, :participants, :validation_config, :config, :expected, :panel, :metadata, :now);

-- name: set_task
-- set_task: note the task that holds a debate. Index: debates_pkey. Locks: the row.
UPDATE debates SET task_id = :task_id WHERE id = :id;

-- name: debate_by_id
-- debate_by_id: one debate. Index: debates_pkey. Locks: none.
SELECT id, created_by, project_id, session_id, request_id, topic, description, status, strategy, protocol, voting_method, total_rounds,
       positions, participants, validation_config, config, expected, panel, task_id, event_count, metadata, stop_reason, baseline, changed,
       consensus_reached, final_conclusion, minority_opinion, final_winner, confidence, confidence_source, multipass_result, error,
       created_at, started_at, completed_at
FROM debates WHERE id = :id;

-- name: debate_for_request
-- debate_for_request: the debate that answers a request. Index: debates_request_id_idx. Locks: none.
SELECT id FROM debates WHERE request_id = :request_id ORDER BY created_at LIMIT 1;

-- name: debates_page
-- debates_page: debates, newest first, those before a mark only. Index: idx_debates_created. Locks: none.
SELECT id, created_by, topic, status, protocol, voting_method, current_round, total_rounds, final_winner, consensus_reached, confidence,
       changed, created_at, completed_at
FROM debates
WHERE (:status::text IS NULL OR status = :status)
  AND (:before::uuid IS NULL OR (created_at, id) < (SELECT d.created_at, d.id FROM debates AS d WHERE d.id = :before))
ORDER BY created_at DESC, id DESC LIMIT :max_count;

-- name: rounds_of_debate
-- rounds_of_debate: its rounds in order. Index: debate_rounds_debate_id_round_number_key. Locks: none.
SELECT round_number, phase, status, agreement, convergence, winner, tally FROM debate_rounds WHERE debate_id = :debate_id ORDER BY round_number;

-- name: arguments_of_debate
-- arguments_of_debate: what was said, in the order of turns. Index: idx_debate_turns_round. Locks: none.
SELECT round_number, turn_number, participant_id, provider_id, provider_name, model_name, position, role, argument_text, answer, confidence,
       confidence_source, tokens_used, latency_ms, response_id, is_primary, validation_status, validation_feedback
FROM debate_arguments WHERE debate_id = :debate_id ORDER BY round_number, turn_number;

-- name: votes_of_debate
-- votes_of_debate: its ballots, round by round. Index: debate_votes_debate_id_round_number_voter_key. Locks: none.
SELECT round_number, voter, ranking, weight, confidence, reason, is_valid, is_repaired, refusal, response_id
FROM debate_votes WHERE debate_id = :debate_id ORDER BY round_number, voter;

-- name: code_of_debate
-- code_of_debate: versions of the code, oldest first. Index: code_versions_debate_id_version_number_idx. Locks: none.
SELECT version_number, round_number, version_hash, branch, commit_message, files_changed, diff_summary, validation_status, test_results
FROM code_versions WHERE debate_id = :debate_id ORDER BY version_number;

-- name: state_events_of_debate
-- state_events_of_debate: the events that the next step follows from and no other table keeps. Index: debate_events_pkey. Locks: none.
SELECT event_type, round_number, participant_id, data FROM debate_events
WHERE debate_id = :debate_id AND event_type IN ('started', 'silent', 'validated', 'concluded') ORDER BY sequence;

-- name: calls_of_debate
-- calls_of_debate: how many answers were paid for. Index: debate_events_pkey. Locks: none.
SELECT count(*) AS calls FROM debate_events WHERE debate_id = :debate_id AND response_id IS NOT NULL;

-- name: events_of_debate
-- events_of_debate: its course after a mark, in order. Index: debate_events_pkey. Locks: none.
SELECT sequence, event_type, round_number, participant_id, response_id, data, created_at FROM debate_events
WHERE debate_id = :debate_id AND sequence > :after ORDER BY sequence LIMIT :max_count;

-- name: positions_of_debates
-- positions_of_debates: how far these debates have come. Index: debates_pkey. Locks: none.
SELECT id, status, event_count FROM debates WHERE id = ANY (:ids);

-- name: append_event
-- append_event: the next event of a debate that has not ended; returns nothing when it has. Index: debates_pkey. Locks: the debate's row,
-- until the transaction ends: so events come to light in their order, without gaps.
WITH place AS (
    UPDATE debates SET event_count = event_count + 1 WHERE id = :debate_id AND status IN ('pending', 'running', 'validating') RETURNING event_count)
INSERT INTO debate_events (debate_id, sequence, event_type, round_number, participant_id, request_id, response_id, data, created_at)
SELECT :debate_id, place.event_count, :event_type, :round_number, :participant_id, :request_id, :response_id, :data, :now FROM place
RETURNING sequence;

-- name: start_debate
-- start_debate: pending becomes running. Index: debates_pkey. Locks: the row.
UPDATE debates SET status = 'running', started_at = :now WHERE id = :id AND status = 'pending' RETURNING id;

-- name: open_round
-- open_round: begin a round. Index: debate_rounds_debate_id_round_number_key. Locks: none.
INSERT INTO debate_rounds (debate_id, round_number, phase, status, started_at, created_at) VALUES (:debate_id, :number, :phase, 'running', :now, :now);

-- name: set_current_round
-- set_current_round: how many rounds have begun. Index: debates_pkey. Locks: the row.
UPDATE debates SET current_round = :number WHERE id = :id;

-- name: close_round
-- close_round: end a round with its count. Index: debate_rounds_debate_id_round_number_key. Locks: the row.
UPDATE debate_rounds SET status = 'completed', agreement = :agreement, convergence = :convergence, winner = :winner, tally = :tally, completed_at = :now
WHERE debate_id = :debate_id AND round_number = :number AND status = 'running';

-- name: break_off_rounds
-- break_off_rounds: rounds that a limit, a failure or a cancellation ended. Index: debate_rounds_debate_id_round_number_key. Locks: the rows.
UPDATE debate_rounds SET status = :status, completed_at = :now WHERE debate_id = :debate_id AND status IN ('pending', 'running');

-- name: set_stop_reason
-- set_stop_reason: no further round. Index: debates_pkey. Locks: the row.
UPDATE debates SET stop_reason = :stop_reason WHERE id = :id AND stop_reason IS NULL;

-- name: insert_argument
-- insert_argument: what a participant said. Index: none. Locks: none; a second one of the same round is refused.
INSERT INTO debate_arguments (debate_id, round_number, turn_number, participant_id, provider_id, provider_name, model_name, position, role,
                              argument_text, answer, confidence, confidence_source, tokens_used, latency_ms, response_id, is_primary,
                              validation_status, created_at)
VALUES (:debate_id, :round_number, :turn_number, :participant_id,
        (SELECT p.id FROM llm_providers AS p WHERE p.id = :provider_id), :provider_name, :model_name, :position, :role,
        :argument_text, :answer, :confidence, :confidence_source, :tokens_used, :latency_ms, :response_id, :is_primary,
        :validation_status, :now);

-- name: insert_vote
-- insert_vote: a ballot, valid or refused. Index: none. Locks: none; a second one of the same round is refused.
INSERT INTO debate_votes (debate_id, round_number, voter, ranking, weight, confidence, reason, is_valid, is_repaired, refusal, response_id, created_at)
VALUES (:debate_id, :round_number, :voter, :ranking, :weight, :confidence, :reason, :is_valid, :is_repaired, :refusal, :response_id, :now);

-- name: begin_validation
-- begin_validation: running becomes validating. Index: debates_pkey. Locks: the row.
UPDATE debates SET status = 'validating' WHERE id = :id AND status = 'running' RETURNING id;

-- name: await_verdicts
-- await_verdicts: the arguments of the last round are to be checked. Index: idx_debate_turns_round. Locks: the rows.
UPDATE debate_arguments SET validation_status = 'pending' WHERE debate_id = :debate_id AND round_number = :round_number;

-- name: set_verdict
-- set_verdict: what a validation pass found of an argument: one failure fails it. Index: idx_debate_turns_round. Locks: the row.
UPDATE debate_arguments
SET validation_status = CASE WHEN :passed::boolean IS NULL OR validation_status = 'failed' THEN validation_status WHEN :passed THEN 'passed' ELSE 'failed' END,
    validation_feedback = concat_ws(E'\n', validation_feedback, :feedback::text)
WHERE debate_id = :debate_id AND round_number = :round_number AND participant_id = :participant_id;

-- name: complete_debate
-- complete_debate: its outcome. Index: debates_pkey. Locks: the row.
UPDATE debates
SET status = 'completed', final_conclusion = :conclusion, minority_opinion = :minority, final_winner = :winner, consensus_reached = :consensus,
    confidence = :confidence, confidence_source = :source, stop_reason = :stop_reason, baseline = :baseline, changed = :changed,
    multipass_result = :multipass, completed_at = :now
WHERE id = :id AND status IN ('running', 'validating') RETURNING id;

-- name: fail_debate
-- fail_debate: it ends without an answer. Index: debates_pkey. Locks: the row.
UPDATE debates SET status = 'failed', error = :error, completed_at = :now WHERE id = :id AND status IN ('pending', 'running', 'validating') RETURNING id;

-- name: cancel_debate
-- cancel_debate: it is called off. Index: debates_pkey. Locks: the row.
UPDATE debates SET status = 'cancelled', completed_at = :now WHERE id = :id AND status IN ('pending', 'running', 'validating') RETURNING id, task_id;

-- name: insert_code_version
-- insert_code_version: the next version of the code. Index: code_versions_debate_id_version_number_idx. Locks: none; the caller holds the debate's row.
INSERT INTO code_versions (debate_id, version_number, round_number, version_hash, branch, commit_message, files_changed, diff_summary,
                           validation_status, test_results, test_pass_rate, created_at)
SELECT :debate_id, 1 + coalesce(max(v.version_number), 0), :round_number, :version_hash, :branch, :commit_message, :files_changed, :diff_summary,
       :validation_status, :test_results, :test_pass_rate, :now
FROM code_versions AS v WHERE v.debate_id = :debate_id RETURNING version_number;

-- name: spent_on_debate
-- spent_on_debate: what its answers have cost so far. Index: debate_events_pkey, llm_responses_pkey. Locks: none.
SELECT coalesce(sum(r.cost_usd), 0) AS cost_usd
FROM debate_events AS e JOIN llm_responses AS r ON r.id = e.response_id WHERE e.debate_id = :debate_id AND e.response_id IS NOT NULL;

-- name: value_of_debates
-- value_of_debates: did it pay? Index: debates_pkey, or idx_debates_created for the newest. Locks: none.
SELECT debate_id, created_at, topic, status, protocol, voting_method, rounds_held, stop_reason, baseline_answer, baseline_share, single_answers,
       final_winner, consensus_reached, confidence, confidence_source, changed, expected, single_right, baseline_right, debate_right, calls, tokens,
       cost_usd, baseline_cost_usd, debate_cost_usd, times_the_baseline, calls_kept, wall_s
FROM debate_value
WHERE debate_id = ANY (CASE WHEN :debate_id::uuid IS NOT NULL THEN ARRAY[:debate_id::uuid]
                            ELSE ARRAY(SELECT d.id FROM debates AS d WHERE d.status = 'completed' ORDER BY d.created_at DESC LIMIT :max_count) END)
ORDER BY created_at DESC;

-- name: learn_success
-- learn_success: one more debate of a strategy, provider, model and role; means are running means. Index: the unique constraint. Locks: the row.
INSERT INTO debate_strategy_success AS s (strategy_name, provider, model, position, success_count, total_attempts, avg_confidence, avg_response_time_ms, last_used_at)
VALUES (:strategy_name, :provider, :model, :position, :success, 1, :confidence, :response_time_ms, :now)
ON CONFLICT ON CONSTRAINT debate_strategy_success_strategy_provider_model_position_key DO UPDATE
SET success_count = s.success_count + EXCLUDED.success_count,
    total_attempts = s.total_attempts + 1,
    avg_confidence = CASE WHEN EXCLUDED.avg_confidence IS NULL THEN s.avg_confidence
                          ELSE (coalesce(s.avg_confidence, EXCLUDED.avg_confidence) * s.total_attempts + EXCLUDED.avg_confidence) / (s.total_attempts + 1) END,
    avg_response_time_ms = (coalesce(s.avg_response_time_ms, EXCLUDED.avg_response_time_ms) * s.total_attempts + EXCLUDED.avg_response_time_ms) / (s.total_attempts + 1),
    last_used_at = greatest(s.last_used_at, EXCLUDED.last_used_at);

-- name: learned_success
-- learned_success: how often models were right, over all strategies and roles, where enough is known. Index: none, the table is small. Locks: none.
SELECT s.provider, s.model, sum(s.success_count)::bigint AS success_count, sum(s.total_attempts)::bigint AS total_attempts
FROM debate_strategy_success AS s
WHERE s.provider || '/' || s.model = ANY (:models) OR s.model = ANY (:models)
GROUP BY s.provider, s.model HAVING sum(s.total_attempts) >= :attempts_min;

-- name: best_strategies
-- best_strategies: what wins, for a role or all. Index: none, the table is small. Locks: none.
SELECT strategy_name, provider, model, position, success_count, total_attempts, success_rate, avg_confidence, avg_response_time_ms
FROM get_best_debate_strategies(:position, :attempts_min, :max_count);

-- name: put_panel
-- put_panel: store a panel, or replace the one of its owner, kind and name. Index: panels_user_id_kind_name_key. Locks: the row.
INSERT INTO panels (user_id, kind, name, config) VALUES (:user_id, :kind, :name, :config)
ON CONFLICT ON CONSTRAINT panels_user_id_kind_name_key DO UPDATE SET config = EXCLUDED.config RETURNING id, user_id, kind, name, config, created_at, updated_at;

-- name: find_panel
-- find_panel: a user's own panel, else the shared one. Index: panels_user_id_kind_name_key. Locks: none.
SELECT id, user_id, kind, name, config, created_at, updated_at FROM panels
WHERE kind = :kind AND name = :name AND (user_id = :user_id OR user_id IS NULL) ORDER BY user_id NULLS LAST LIMIT 1;

-- name: panels_page
-- panels_page: the panels a user may call, or all. Index: none, the table is small. Locks: none.
SELECT id, user_id, kind, name, config, created_at, updated_at FROM panels
WHERE (:kind::text IS NULL OR kind = :kind) AND (:user_id::uuid IS NULL OR user_id = :user_id OR user_id IS NULL)
ORDER BY kind, name, user_id NULLS LAST LIMIT :max_count;

-- name: delete_panel
-- delete_panel: remove a panel. Index: panels_user_id_kind_name_key. Locks: the row.
DELETE FROM panels WHERE kind = :kind AND name = :name AND user_id IS NOT DISTINCT FROM :user_id RETURNING id;

-- name: orphaned_debates
-- orphaned_debates: debates under way whose task has ended or is gone. Index: idx_debates_status, background_tasks_pkey. Locks: their rows;
-- skips those somebody works on.
SELECT d.id, t.status::text AS task_status, t.error_message AS task_error
FROM debates AS d LEFT JOIN background_tasks AS t ON t.id = d.task_id AND t.deleted_at IS NULL
WHERE d.status IN ('pending', 'running', 'validating') AND d.created_at < now() - interval '1 minute'
  AND (t.id IS NULL OR t.status IN ('completed', 'failed', 'cancelled', 'dead_letter'))
ORDER BY d.id LIMIT :max_count FOR UPDATE OF d SKIP LOCKED;
