-- Tasks as revision 032 had them. Locks: none on tables.
CREATE OR REPLACE FUNCTION helix_tasks_updated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $body$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_head bytea := uuidv7_head(v_now);
    v_xact xid8 := pg_current_xact_id();
    v_refused integer;   -- changes that are not drawn
    v_ended integer;     -- tasks that reached an end
    v_unique integer;
    v_waiting integer;
    v_dead integer;
    v_told integer;      -- with a webhook
    refused record;
    ready record;
BEGIN
    -- What happened, in one pass over the rows: the old and the new ones are wide, and joining them anew for the events, for the
    -- history and for the counts cost a third of this trigger. Most statements are a claim or a batch of endings, and need no more.
    WITH moved AS MATERIALIZED (
        SELECT n.id, n.user_id, n.attempt, n.status, o.status AS was, t.event_type, o.worker_id, o.fencing_token, o.started_at,
               o.worker_id IS NOT NULL AND n.worker_id IS NULL AS parted, n.unique_key IS NOT NULL AS keyed, n.notification_config <> '{}' AS told,
               n.retry_count > o.retry_count AS retried, n.lost_count > o.lost_count AS lost,
               CASE WHEN n.status <> 'completed' THEN n.error_message END AS error,
               CASE WHEN n.status <> 'completed' AND n.error_history <> o.error_history THEN n.error_history -> -1 ->> 'stack' END AS stack,
               CASE WHEN n.status = 'pending' AND n.scheduled_at > o.scheduled_at THEN n.scheduled_at END AS retry_at
        FROM new_rows AS n
        JOIN old_rows AS o ON o.id = n.id
        LEFT JOIN task_transitions AS t ON t.from_status = o.status AND t.to_status = n.status
    ), events AS (
        INSERT INTO task_events (id, task_id, user_id, event_type, data, xact)
        SELECT uuidv7_under(v_head), m.id, m.user_id, m.event_type,
               CASE WHEN m.status IN ('completed', 'running') THEN jsonb_build_object('attempt', m.attempt)
                    ELSE jsonb_strip_nulls(jsonb_build_object('attempt', m.attempt, 'from', m.was, 'error', m.error, 'retry_at', m.retry_at)) END,
               v_xact
        FROM moved AS m WHERE m.status <> m.was AND m.event_type IS NOT NULL
    ), history AS (
        INSERT INTO task_execution_history (id, task_id, user_id, attempt, worker_id, fencing_token, event_type, started_at, completed_at,
                                            duration_ms, error_message, error_stack)
        SELECT uuidv7_under(v_head), m.id, m.user_id, m.attempt, m.worker_id, m.fencing_token,
               CASE WHEN m.status <> 'pending' THEN m.status::text WHEN m.lost THEN 'lease_lost' WHEN m.retried THEN 'failed' ELSE 'released' END,
               m.started_at, v_now, greatest(0, (date_part('epoch', v_now - m.started_at) * 1000)::bigint), m.error, m.stack
        FROM moved AS m WHERE m.parted AND m.attempt > 0)
    SELECT count(*) FILTER (WHERE m.status <> m.was AND m.event_type IS NULL),
           count(*) FILTER (WHERE m.status <> m.was AND m.status IN ('completed', 'failed', 'cancelled', 'dead_letter')),
           count(*) FILTER (WHERE m.status <> m.was AND m.keyed),
           count(*) FILTER (WHERE m.status = 'pending'),
           count(*) FILTER (WHERE m.status = 'dead_letter' AND m.was <> m.status),
           count(*) FILTER (WHERE m.told AND m.status <> m.was)
    INTO v_refused, v_ended, v_unique, v_waiting, v_dead, v_told
    FROM moved AS m;

    IF v_refused > 0 THEN
        SELECT o.status AS from_status, n.status AS to_status INTO refused
        FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
        LEFT JOIN task_transitions AS t ON t.from_status = o.status AND t.to_status = n.status
        WHERE n.status <> o.status AND t.from_status IS NULL LIMIT 1;
        RAISE EXCEPTION 'a task cannot go from % to %', refused.from_status, refused.to_status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'task_transitions', HINT = 'See the table task_transitions.';
    END IF;

    IF v_ended > 0 THEN
        IF v_dead > 0 THEN
            INSERT INTO dead_letter_queue (original_task_id, user_id, project_id, task_type, priority, payload, failure_reason, error_message,
                                           error_stack, retry_history)
            SELECT n.id, n.user_id, n.project_id, n.task_type, n.priority, n.payload,
                   CASE WHEN n.lost_count > o.lost_count THEN 'poison' ELSE 'retries exhausted' END,
                   coalesce(n.error_message, ''), n.error_history -> -1 ->> 'stack', n.error_history
            FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
            WHERE n.status = 'dead_letter' AND o.status <> 'dead_letter'
            ON CONFLICT (original_task_id) DO NOTHING;
        END IF;
        IF EXISTS (SELECT FROM task_dependencies) THEN
            PERFORM helix_tasks_unblock(
                (SELECT array_agg(n.id) FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id WHERE n.status = 'completed' AND o.status <> n.status),
                (SELECT array_agg(n.id) FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
                 WHERE n.status IN ('failed', 'cancelled', 'dead_letter') AND o.status <> n.status));
        END IF;
    END IF;

    IF v_told > 0 THEN
        INSERT INTO webhook_deliveries (task_id, user_id, url, event_type, payload)
        SELECT n.id, n.user_id, n.notification_config ->> 'url', t.event_type,
               jsonb_strip_nulls(jsonb_build_object('task_id', n.id, 'task_type', n.task_type, 'event', t.event_type, 'status', n.status, 'attempt', n.attempt,
                                  'error', n.error_message, 'result', CASE WHEN n.status = 'completed' THEN n.result END))
        FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
        JOIN task_transitions AS t ON t.from_status = o.status AND t.to_status = n.status
        WHERE n.notification_config ? 'url'
          AND (NOT n.notification_config ? 'events' OR n.notification_config -> 'events' ? t.event_type);
    END IF;

    IF v_unique > 0 THEN
        DELETE FROM task_unique_keys AS k USING new_rows AS n
        WHERE n.unique_key = k.key AND k.task_id = n.id
          AND ((k.held_while = 'waiting' AND n.status NOT IN ('pending', 'paused', 'queued'))
               OR (k.held_while <> 'period' AND n.status IN ('completed', 'failed', 'cancelled', 'dead_letter')));
    END IF;

    IF v_waiting > 0 THEN
        SELECT array_agg(n.id) AS ids, array_agg(n.queue::text) AS queues, array_agg(n.task_type::text) AS types,
               array_agg(n.priority) AS priorities, array_agg(n.lost_count > 0) AS suspects, array_agg(n.scheduled_at) AS dues
        INTO ready
        FROM new_rows AS n JOIN old_rows AS o ON o.id = n.id
        WHERE n.status = 'pending' AND n.blocked_by = 0 AND n.deleted_at IS NULL
          AND (o.status <> 'pending' OR o.blocked_by > 0 OR o.deleted_at IS NOT NULL OR o.scheduled_at <> n.scheduled_at
               OR o.priority <> n.priority OR o.queue <> n.queue OR o.task_type <> n.task_type OR o.lost_count <> n.lost_count);
        IF ready.ids IS NOT NULL THEN
            PERFORM helix_tasks_offer(ready.ids, ready.queues, ready.types, ready.priorities, ready.suspects, ready.dues);
        END IF;
    END IF;
    RETURN NULL;
END
$body$;

CREATE OR REPLACE FUNCTION helix_tasks_lost(p_worker_id text, p_ids uuid[], p_wait boolean) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
DECLARE
    v_ids uuid[];
    v_count integer;
BEGIN
    IF p_wait THEN
        v_ids := ARRAY(SELECT t.id FROM background_tasks AS t WHERE t.worker_id = p_worker_id AND t.status IN ('queued', 'running', 'stuck')
                         AND (p_ids IS NULL OR t.id = ANY (p_ids))
                       ORDER BY t.id FOR NO KEY UPDATE);
    ELSE
        v_ids := ARRAY(SELECT t.id FROM background_tasks AS t WHERE t.worker_id = p_worker_id AND t.status IN ('queued', 'running', 'stuck')
                         AND (p_ids IS NULL OR t.id = ANY (p_ids))
                       ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    UPDATE background_tasks AS t
    SET status = CASE WHEN t.status <> 'queued' AND t.lost_count >= 2 THEN 'dead_letter'::task_status ELSE 'pending' END,
        completed_at = CASE WHEN t.status <> 'queued' AND t.lost_count >= 2 THEN clock_timestamp() END,
        lost_count = t.lost_count + (t.status <> 'queued')::int, worker_id = NULL, lease_until = NULL,
        scheduled_at = least(t.scheduled_at, clock_timestamp()),
        error_message = 'the worker died', error_history = helix_tasks_errors(t.error_history,
            jsonb_build_object('attempt', t.attempt, 'error', 'the worker died', 'worker_id', t.worker_id, 'at', clock_timestamp()))
    WHERE t.id = ANY (v_ids) AND t.worker_id IS NOT DISTINCT FROM p_worker_id;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$body$;

ALTER FUNCTION helix_tasks_offer(uuid[], text[], text[], task_priority[], boolean[], timestamptz[]) RESET enable_nestloop;
ALTER FUNCTION helix_tasks_unblock(uuid[], uuid[]) RESET enable_nestloop;
DROP FUNCTION helix_tasks_free_keys(text[], uuid[], task_status[]);
