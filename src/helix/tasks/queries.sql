-- Statements of the task queue. What a change of status brings with it (events, history, dead letters, the place in the queue)
-- is done by the triggers of sql/schema/task_queue.sql, in the same transaction, whoever writes.

-- name: enqueue_tasks
-- Insert tasks in the given order and return their ids in that order.
-- Index: none read. Locks: none but its own rows.
WITH given AS MATERIALIZED (
    SELECT uuidv7() AS id, t.*
    FROM ROWS FROM (jsonb_to_recordset(:tasks::jsonb) AS (
        queue text, task_type text, task_name text, user_id uuid, session_id uuid, project_id uuid, correlation_id text,
        parent_task_id uuid, payload jsonb, tags text[], priority task_priority, max_retries integer, retry_delay_s integer,
        scheduled_at timestamptz, deadline timestamptz, spend_cap_usd numeric, notification jsonb, unique_key text, blocked_by integer,
        given_id uuid)) WITH ORDINALITY AS t
), made AS (
    INSERT INTO background_tasks (id, queue, task_type, task_name, user_id, session_id, project_id, correlation_id, parent_task_id, payload,
        tags, priority, max_retries, retry_delay_seconds, scheduled_at, deadline, spend_cap_usd, notification_config, unique_key, blocked_by)
    SELECT coalesce(given_id, id), coalesce(queue, 'default'), task_type, task_name, coalesce(user_id, (SELECT helix_tenant())), session_id,
        project_id, correlation_id, parent_task_id, coalesce(payload, '{}'), coalesce(tags, '{}'), coalesce(priority, 'normal'),
        coalesce(max_retries, 3), coalesce(retry_delay_s, 60), coalesce(scheduled_at, now()), deadline, spend_cap_usd,
        coalesce(notification, '{}'), unique_key, coalesce(blocked_by, 0)
    FROM given ORDER BY ordinality)
SELECT coalesce(given_id, id) AS id FROM given ORDER BY ordinality;

-- name: new_id
-- A fresh task id and the tenant of the transaction.
SELECT uuidv7() AS id, helix_tenant() AS tenant;

-- name: take_unique_key
-- Hold a unique key for a task unless another holds it. Waits for a transaction that is taking the same key.
-- Index: task_unique_keys_pkey. Locks: the key's row.
INSERT INTO task_unique_keys AS k (key, user_id, task_id, held_while, expires_at)
VALUES (:key, :user_id, :task_id, :held_while, now() + make_interval(secs => :period_s::double precision))
ON CONFLICT (key) DO UPDATE
SET task_id = excluded.task_id, user_id = excluded.user_id, held_while = excluded.held_while, expires_at = excluded.expires_at
WHERE k.expires_at <= now()
RETURNING k.task_id;

-- name: unique_key_holder
-- Which task holds this key? Index: task_unique_keys_pkey.
SELECT task_id FROM task_unique_keys WHERE key = :key;

-- name: lock_dependencies
-- The states of tasks to wait for, held still until the end of the transaction. Index: background_tasks_pkey.
SELECT id, status FROM background_tasks WHERE id = ANY(:ids::uuid[]) ORDER BY id FOR SHARE;

-- name: insert_dependencies
-- Index: task_dependencies_pkey.
INSERT INTO task_dependencies (after_task_id, task_id, user_id)
SELECT a, :task_id, :user_id FROM unnest(:after_ids::uuid[]) AS a;

-- name: task_by_id
-- Index: background_tasks_pkey; the id's month alone is read.
SELECT id, task_type, queue, status, priority, user_id, payload, result, progress, progress_message, attempt, retry_count, max_retries,
       lost_count, blocked_by, worker_id, error_message, parent_task_id, correlation_id, tags, spend_cap_usd, scheduled_at, created_at,
       started_at, completed_at, deadline
FROM background_tasks WHERE id = :id AND deleted_at IS NULL;

-- name: tasks_page
-- Newest first, from a keyset mark on. Index: background_tasks_pkey backwards, or idx_tasks_status when a status is given.
SELECT id, task_type, queue, status, priority, user_id, payload, result, progress, progress_message, attempt, retry_count, max_retries,
       lost_count, blocked_by, worker_id, error_message, parent_task_id, correlation_id, tags, spend_cap_usd, scheduled_at, created_at,
       started_at, completed_at, deadline
FROM background_tasks
WHERE deleted_at IS NULL AND (:before::uuid IS NULL OR id < :before)
  AND (:status::task_status IS NULL OR status = :status)
  AND (:task_type::text IS NULL OR task_type = :task_type) AND (:queue::text IS NULL OR queue = :queue)
  AND (:parent_id::uuid IS NULL OR parent_task_id = :parent_id)
ORDER BY id DESC LIMIT :max_count;

-- name: cancel_task
-- Call a task off; a worker that runs it can write nothing more and is told at its next heartbeat.
-- Index: background_tasks_pkey. Locks: the task.
UPDATE background_tasks SET status = 'cancelled', completed_at = clock_timestamp(), worker_id = NULL, lease_until = NULL,
    error_message = coalesce(:reason, error_message)
WHERE id = :id AND status IN ('pending', 'queued', 'running', 'stuck', 'paused') RETURNING status;

-- name: pause_task
-- Hold a task back. Index: background_tasks_pkey. Locks: the task.
UPDATE background_tasks SET status = 'paused', worker_id = NULL, lease_until = NULL, error_message = coalesce(:reason, error_message)
WHERE id = :id AND status IN ('pending', 'queued', 'running', 'stuck') RETURNING status;

-- name: resume_task
-- Let a paused task go on. Index: background_tasks_pkey. Locks: the task.
UPDATE background_tasks SET status = 'pending', error_message = NULL, spend_cap_usd = coalesce(:spend_cap_usd, spend_cap_usd)
WHERE id = :id AND status = 'paused' RETURNING status;

-- name: retry_task
-- Run a failed or cancelled task once more, with all its retries. Index: background_tasks_pkey. Locks: the task.
UPDATE background_tasks SET status = 'pending', completed_at = NULL, retry_count = 0, lost_count = 0, scheduled_at = now(), deadline = NULL
WHERE id = :id AND status IN ('failed', 'cancelled') RETURNING status;

-- name: status_of
-- Index: background_tasks_pkey.
SELECT status FROM background_tasks WHERE id = :id AND deleted_at IS NULL;

-- name: lock_dead_letter
-- A dead letter, kept from being redriven by others until the end of the transaction. Index: dead_letter_queue_pkey or its unique key.
SELECT id, original_task_id, user_id, project_id, task_type, priority, payload, redriven_task_id
FROM dead_letter_queue WHERE id = :id OR original_task_id = :id FOR UPDATE;

-- name: mark_redriven
-- Index: dead_letter_queue_pkey.
UPDATE dead_letter_queue SET redriven_at = now(), redriven_task_id = :task_id WHERE id = :id AND redriven_at IS NULL RETURNING id;

-- name: queue_of_task
-- Where a dead task ran, if it is still there. Index: background_tasks_pkey.
SELECT queue, max_retries, retry_delay_seconds FROM background_tasks WHERE id = :id;

-- name: dead_letters_page
-- Newest first. Index: dead_letter_queue_moved_at_idx.
SELECT id, original_task_id, task_type, payload, failure_reason, error_message, error_stack, retry_history, moved_at, redriven_at, redriven_task_id
FROM dead_letter_queue
WHERE (:task_type::text IS NULL OR task_type = :task_type) AND (NOT :waiting_only OR redriven_at IS NULL)
ORDER BY moved_at DESC, id LIMIT :max_count;

-- name: dead_letter_counts
-- Dead letters that were not started again, by type, the most first. Index: none, letters are few.
SELECT task_type, count(*) AS letters, min(moved_at) AS oldest_at FROM dead_letter_queue WHERE redriven_at IS NULL
GROUP BY task_type ORDER BY letters DESC, task_type;

-- name: attempts_of_task
-- Index: task_execution_history_task_id_idx.
SELECT attempt, worker_id, event_type, started_at, completed_at, duration_ms, error_message
FROM task_execution_history WHERE task_id = :task_id ORDER BY attempt, id;

-- name: events_of_task
-- Index: idx_task_events_task.
SELECT id, task_id, user_id, event_type, data, created_at FROM task_events
WHERE task_id = :task_id AND (:after::uuid IS NULL OR id > :after) ORDER BY id LIMIT :max_count;

-- name: event_feed
-- What was committed between two snapshots (:high NULL: and now), from a place between them on.
-- Index: task_events_xact_idx.
SELECT coalesce(:high::text, pg_current_snapshot()::text) AS high, e.id, e.task_id, e.user_id, e.event_type, e.data, e.created_at, e.xact::text AS xact
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (
    SELECT * FROM task_events
    WHERE xact >= pg_snapshot_xmin(:low::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xact, :low::text::pg_snapshot)
      AND (:high::text IS NULL OR pg_visible_in_snapshot(xact, :high::text::pg_snapshot))
      AND xact >= :xact::text::xid8 AND (xact > :xact::text::xid8 OR id > :event_id)
    ORDER BY xact, id LIMIT :max_count) AS e ON true
ORDER BY e.xact, e.id;

-- name: event_feed_of_task
-- The same for one task.
-- Index: idx_task_events_task.
SELECT coalesce(:high::text, pg_current_snapshot()::text) AS high, e.id, e.task_id, e.user_id, e.event_type, e.data, e.created_at, e.xact::text AS xact
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (
    SELECT * FROM task_events
    WHERE task_id = :task_id AND xact >= pg_snapshot_xmin(:low::text::pg_snapshot) AND NOT pg_visible_in_snapshot(xact, :low::text::pg_snapshot)
      AND (:high::text IS NULL OR pg_visible_in_snapshot(xact, :high::text::pg_snapshot))
      AND xact >= :xact::text::xid8 AND (xact > :xact::text::xid8 OR id > :event_id)
    ORDER BY xact, id LIMIT :max_count) AS e ON true
ORDER BY e.xact, e.id;

-- name: current_snapshot
SELECT pg_current_snapshot()::text AS snapshot;

-- name: queue_stats
-- What waits and what is held, by type and state. Index: idx_tasks_status; finished tasks are not read.
SELECT queue, task_type, status, count(*) AS tasks, min(scheduled_at) AS oldest_due_at
FROM background_tasks WHERE status IN ('pending', 'queued', 'running', 'stuck', 'paused') AND deleted_at IS NULL
GROUP BY queue, task_type, status ORDER BY queue, task_type, status;

-- name: workers
SELECT id, host, pid, queues, concurrency, started_at, heartbeat_at, lease_until FROM task_workers ORDER BY started_at;

-- name: set_paused
-- Pause or resume a queue or a type. Index: task_controls_pkey.
INSERT INTO task_controls AS c (scope, name, paused_at) VALUES (:scope, :name, CASE WHEN :paused THEN now() END)
ON CONFLICT (scope, name) DO UPDATE SET paused_at = CASE WHEN :paused THEN coalesce(c.paused_at, now()) END
RETURNING c.name;

-- name: set_limits
-- Index: task_controls_pkey.
INSERT INTO task_controls AS c (scope, name, concurrency_max, rate_max, rate_period_s)
VALUES ('type', :name, :concurrency_max, :rate_max, :rate_period_s)
ON CONFLICT (scope, name) DO UPDATE
SET concurrency_max = excluded.concurrency_max, rate_max = excluded.rate_max, rate_period_s = excluded.rate_period_s
WHERE (c.concurrency_max, c.rate_max, c.rate_period_s) IS DISTINCT FROM (excluded.concurrency_max, excluded.rate_max, excluded.rate_period_s);

-- name: wake_workers
-- Tell every worker to look now, unless the queue of notifications is full: then they find out by polling.
SELECT pg_notify('helix_tasks', '') WHERE pg_notification_queue_usage() < 0.9;

-- name: register_worker
-- A new worker, and the database's time, by which deadlines are judged: the worker's own clock may be wrong.
INSERT INTO task_workers (id, host, pid, queues, concurrency, lease_until)
VALUES (:id, :host, :pid, :queues::text[], :concurrency, clock_timestamp() + make_interval(secs => :lease_s::double precision))
RETURNING clock_timestamp() AS now;

-- name: ensure_lanes
-- Make the lanes a worker serves, so that an enqueueing transaction need not. Index: task_lanes_queue_task_type_idx.
INSERT INTO task_lanes (queue, task_type, priority)
SELECT q, t, p FROM unnest(:queues::text[], :types::text[]) AS x (q, t), unnest(enum_range(NULL::task_priority)) AS p
WHERE NOT EXISTS (SELECT FROM task_lanes AS l WHERE l.queue = q AND l.task_type = t AND l.priority = p AND NOT l.suspect)
ORDER BY q, t, p;

-- name: renew_lease
-- A heartbeat: no row means the lease has run out and everything held is lost. Index: task_workers_pkey.
UPDATE task_workers SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => :lease_s::double precision)
WHERE id = :id AND lease_until > clock_timestamp() RETURNING id, clock_timestamp() AS now;

-- name: delete_worker
DELETE FROM task_workers WHERE id = :id;

-- name: claim_tasks
SELECT * FROM helix_tasks_claim(:worker_id, :queues::text[], :types::text[], :max_count, :begin_count, :suspects);

-- name: begin_tasks
-- Index: background_tasks_pkey. Locks: the tasks.
UPDATE background_tasks AS t SET status = 'running', started_at = clock_timestamp(), last_heartbeat = clock_timestamp()
FROM unnest(:ids::uuid[], :tokens::bigint[]) AS x (id, token)
WHERE t.id = x.id AND t.fencing_token = x.token AND t.worker_id IS NOT DISTINCT FROM :worker_id AND t.status IS NOT DISTINCT FROM 'queued'
RETURNING t.id;

-- name: finish_tasks
-- End attempts and say which of them this worker still held: a late worker writes nothing, repeating is harmless.
-- A list that is NULL stands for its usual value: all completed, no result, no error, no delay.
-- Index: background_tasks_pkey (IS NOT DISTINCT FROM keeps the planner off other indexes, which an old snapshot fills with dead entries).
-- Locks: the tasks, and the worker's row against a reclaim.
WITH me AS MATERIALIZED (
    SELECT id FROM task_workers WHERE id = :worker_id AND lease_until > clock_timestamp() FOR KEY SHARE
), given AS MATERIALIZED (
    SELECT x.id, x.token, coalesce(x.status, 'completed') AS status, x.result, x.error, x.stack, coalesce(x.delay_s, 0) AS delay_s,
           coalesce(x.counts, true) AS counts
    FROM unnest(:ids::uuid[], :tokens::bigint[], :statuses::task_status[], :results::text[], :errors::text[], :stacks::text[],
                :delays::double precision[], :counts::boolean[])
        AS x (id, token, status, result, error, stack, delay_s, counts))
UPDATE background_tasks AS t
SET status = x.status, worker_id = NULL, lease_until = NULL,
    completed_at = CASE WHEN x.status NOT IN ('pending', 'paused') THEN clock_timestamp() END,
    result = CASE WHEN x.status = 'completed' THEN x.result::jsonb ELSE t.result END,
    progress = CASE WHEN x.status = 'completed' THEN 100 ELSE t.progress END,
    retry_count = t.retry_count + (x.status = 'pending' AND x.counts)::int,
    lost_count = CASE WHEN x.counts THEN 0 ELSE t.lost_count END,
    scheduled_at = CASE WHEN x.status = 'pending' AND x.delay_s > 0 THEN clock_timestamp() + make_interval(secs => x.delay_s) ELSE t.scheduled_at END,
    error_message = CASE WHEN x.status = 'completed' THEN NULL ELSE coalesce(x.error, t.error_message) END,
    error_history = CASE WHEN x.error IS NULL THEN t.error_history ELSE helix_tasks_errors(t.error_history,
        jsonb_strip_nulls(jsonb_build_object('attempt', t.attempt, 'error', x.error, 'stack', x.stack, 'worker_id', t.worker_id, 'at', clock_timestamp()))) END
FROM given AS x, me
WHERE t.id = ANY(:ids::uuid[]) AND t.id = x.id AND t.fencing_token = x.token AND t.worker_id IS NOT DISTINCT FROM me.id
RETURNING t.id;

-- name: report_progress
-- Write what handlers said of their progress, with an event each; progress ends being stuck.
-- Index: background_tasks_pkey. Locks: the tasks.
WITH moved AS (
    UPDATE background_tasks AS t
    SET progress = x.percent, progress_message = x.message, last_heartbeat = clock_timestamp(), status = 'running'
    FROM unnest(:ids::uuid[], :tokens::bigint[], :percents::double precision[], :messages::text[]) AS x (id, token, percent, message)
    WHERE t.id = x.id AND t.fencing_token = x.token AND t.worker_id IS NOT DISTINCT FROM :worker_id
      AND (t.status IS NOT DISTINCT FROM 'running' OR t.status IS NOT DISTINCT FROM 'stuck')
    RETURNING t.id, t.user_id, t.progress, t.progress_message)
INSERT INTO task_events (task_id, user_id, event_type, data)
SELECT id, user_id, 'task.progress', jsonb_strip_nulls(jsonb_build_object('percent', progress, 'message', progress_message)) FROM moved;

-- name: insert_samples
-- What the worker's process uses while these tasks run; those deleted meanwhile are left out. Index: background_tasks_pkey.
INSERT INTO task_resource_snapshots (task_id, worker_id, cpu_percent, memory_rss_bytes, memory_percent, io_read_bytes, io_write_bytes,
                                     open_fds, thread_count)
SELECT x.id, :worker_id, x.cpu, x.rss, x.memory, x.reads, x.writes, x.fds, x.threads
FROM unnest(:ids::uuid[], :cpu_percents::double precision[], :rss::bigint[], :memory_percents::double precision[], :reads::bigint[],
            :writes::bigint[], :fds::integer[], :threads::integer[]) AS x (id, cpu, rss, memory, reads, writes, fds, threads)
WHERE EXISTS (SELECT FROM background_tasks AS t WHERE t.id = x.id);

-- name: samples_of_task
-- Index: task_resource_snapshots_task_id_sampled_at_idx.
SELECT sampled_at, worker_id, cpu_percent, memory_rss_bytes, memory_percent, io_read_bytes, io_write_bytes, open_fds, thread_count
FROM task_resource_snapshots WHERE task_id = :task_id ORDER BY sampled_at DESC LIMIT :max_count;

-- name: mark_stuck
-- Index: background_tasks_pkey. Locks: the tasks.
UPDATE background_tasks AS t SET status = 'stuck'
FROM unnest(:ids::uuid[], :tokens::bigint[]) AS x (id, token)
WHERE t.id = x.id AND t.fencing_token = x.token AND t.worker_id IS NOT DISTINCT FROM :worker_id AND t.status IS NOT DISTINCT FROM 'running'
RETURNING t.id;

-- name: save_checkpoint
-- Index: background_tasks_pkey. Locks: the task.
UPDATE background_tasks SET checkpoint = :checkpoint, last_heartbeat = clock_timestamp()
WHERE id = :id AND fencing_token = :token AND worker_id IS NOT DISTINCT FROM :worker_id RETURNING id;

-- name: hold_attempt
-- Keep an attempt from being taken away until the end of the transaction; no row means it already was. A process that stands still in
-- between is cut off, so that it cannot keep the task for ever.
-- Index: background_tasks_pkey. Locks: the task.
SELECT id, set_config('idle_in_transaction_session_timeout', :idle_ms, true) FROM background_tasks
WHERE id = :id AND fencing_token = :token AND worker_id IS NOT DISTINCT FROM :worker_id FOR NO KEY UPDATE;

-- name: attempts_not_held
-- Which of these attempts does the worker not hold any more (cancelled, paused, reclaimed)? Index: background_tasks_pkey.
SELECT x.id FROM unnest(:ids::uuid[], :tokens::bigint[]) AS x (id, token)
LEFT JOIN background_tasks AS t ON t.id = x.id AND t.fencing_token = x.token AND t.worker_id IS NOT DISTINCT FROM :worker_id
WHERE t.id IS NULL;

-- name: attempts_held
-- What the database thinks a worker holds, asked once after a lost connection. Index: idx_tasks_status.
SELECT id, fencing_token, attempt FROM background_tasks WHERE worker_id = :worker_id AND status IN ('queued', 'running', 'stuck');

-- name: ripen_timers
SELECT helix_tasks_ripen(:max_count) AS taken, (SELECT min(due_at) FROM task_timers) AS next_due_at, clock_timestamp() AS now;

-- name: reclaim_tasks
SELECT helix_tasks_reclaim() AS taken;

-- name: trim_queue
SELECT helix_tasks_trim(:max_count) AS deleted;

-- name: expire_unique_keys
-- Index: none; the table holds few period keys. Locks: the keys it deletes.
DELETE FROM task_unique_keys WHERE held_while = 'period' AND expires_at < now();

-- name: announce_sleep
-- Say until when this worker may be asleep, so that enqueueing wakes it. Outside transactions; never moves backwards.
SELECT setval('task_sleeping_until', greatest((extract(epoch FROM clock_timestamp()) * 1000)::bigint + :sleep_ms,
              (SELECT last_value FROM task_sleeping_until)));

-- name: upsert_schedule
-- Index: task_schedules_name_key. A changed line starts anew from `next_run_at`; an unchanged one keeps its place.
INSERT INTO task_schedules AS s (name, task_type, queue, priority, payload, cron, time_zone, enabled, next_run_at)
VALUES (:name, :task_type, :queue, :priority, :payload, :cron, :time_zone, :enabled, :next_run_at)
ON CONFLICT (name) DO UPDATE
SET task_type = excluded.task_type, queue = excluded.queue, priority = excluded.priority, payload = excluded.payload, cron = excluded.cron,
    time_zone = excluded.time_zone, next_run_at = CASE WHEN (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) THEN s.next_run_at ELSE excluded.next_run_at END
WHERE (s.task_type, s.queue, s.priority, s.payload, s.cron, s.time_zone)
      IS DISTINCT FROM (excluded.task_type, excluded.queue, excluded.priority, excluded.payload, excluded.cron, excluded.time_zone);

-- name: due_schedules
-- Schedules whose tick has come, each for one caller only. Index: task_schedules_next_run_at_idx. Locks: the rows it takes; skips others'.
SELECT id, name, user_id, task_type, queue, priority, payload, cron, time_zone, next_run_at, greatest(:now::timestamptz, next_run_at) AS now
FROM task_schedules WHERE enabled AND next_run_at <= :now::timestamptz ORDER BY next_run_at LIMIT :max_count FOR UPDATE SKIP LOCKED;

-- name: database_time
SELECT clock_timestamp() AS now;

-- name: move_schedule
-- Index: task_schedules_pkey. Locks: the row.
UPDATE task_schedules SET last_run_at = :ran_at, next_run_at = :next_run_at, last_task_id = :task_id WHERE id = :id;

-- name: disable_schedule
-- Put aside a schedule whose cron line cannot be read. Index: task_schedules_pkey. Locks: the row.
UPDATE task_schedules SET enabled = false WHERE id = :id;

-- name: schedules
SELECT name, task_type, queue, priority, payload, cron, time_zone, enabled, next_run_at, last_run_at, last_task_id FROM task_schedules ORDER BY name;

-- name: take_deliveries
-- Webhook messages that are due, put off by a minute so that others leave them alone meanwhile.
-- Index: webhook_deliveries_next_attempt_at_idx. Locks: the rows it takes; skips others'.
WITH due AS (
    SELECT id FROM webhook_deliveries WHERE status = 'pending' AND next_attempt_at <= now() ORDER BY next_attempt_at LIMIT :max_count
    FOR UPDATE SKIP LOCKED)
UPDATE webhook_deliveries AS d SET attempts = d.attempts + 1, next_attempt_at = now() + interval '60 seconds'
FROM due WHERE d.id = due.id
RETURNING d.id, d.task_id, d.user_id, d.url, d.event_type, d.payload::text AS payload, d.attempts;

-- name: settle_delivery
-- Index: webhook_deliveries_pkey. Locks: the row.
UPDATE webhook_deliveries
SET status = :status::text, response_code = :response_code, last_error = :error,
    delivered_at = CASE WHEN :status::text = 'delivered' THEN now() END,
    next_attempt_at = now() + make_interval(secs => :delay_s::double precision)
WHERE id = :id AND attempts = :attempts AND status = 'pending';
