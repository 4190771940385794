-- task_queue.sql: the machinery of the task queue: what makes background_tasks fast to claim from, and its transitions right.
-- Domain: tasks. Measurements and reasons: docs/adr/0013. Runs after roles_policies.sql, whose roles and lists it extends.
--
-- background_tasks is the truth: its status is right at any time, and whoever writes it, by whatever way, is held to the transitions
-- below and gets the event and history rows in the same transaction, by triggers. The tables here only say where to look next:
-- an entry too many is harmless (a claim takes only tasks that are still pending), and no claim ever has to search among the dead
-- rows of finished work, which is what slows other queues under an old snapshot.

-- ---------------------------------------------------------------------------------------------------------------------
-- task_transitions: the allowed changes of background_tasks.status and the event each one is. Anything else is refused.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_transitions (
    from_status task_status NOT NULL,
    to_status   task_status NOT NULL,
    event_type  varchar(50) NOT NULL,
    meaning     text        NOT NULL,
    CONSTRAINT task_transitions_pkey PRIMARY KEY (from_status, to_status)
);
COMMENT ON TABLE task_transitions IS 'Which change of status is allowed and which event it is; a trigger refuses all others.';

INSERT INTO task_transitions (from_status, to_status, event_type, meaning) VALUES
    ('pending',     'queued',      'task.queued',      'a worker picked it up and has not begun'),
    ('pending',     'running',     'task.started',     'a worker picked it up and began'),
    ('pending',     'paused',      'task.paused',      'held back'),
    ('pending',     'cancelled',   'task.cancelled',   'called off, or a task it waited for did not complete'),
    ('queued',      'running',     'task.started',     'its worker began'),
    ('queued',      'pending',     'task.released',    'handed back, or its worker died'),
    ('queued',      'paused',      'task.paused',      'held back'),
    ('queued',      'cancelled',   'task.cancelled',   'called off'),
    ('queued',      'failed',      'task.failed',      'its deadline passed before it began'),
    ('queued',      'dead_letter', 'task.dead_letter', 'given up'),
    ('running',     'completed',   'task.completed',   'done'),
    ('running',     'pending',     'task.retried',     'failed, handed back, or its worker died: it will run again'),
    ('running',     'paused',      'task.paused',      'held back, or its spend cap was reached'),
    ('running',     'stuck',       'task.stuck',       'its worker lives, it makes no progress'),
    ('running',     'failed',      'task.failed',      'failed, and trying again is of no use'),
    ('running',     'cancelled',   'task.cancelled',   'called off'),
    ('running',     'dead_letter', 'task.dead_letter', 'failed once too often'),
    ('stuck',       'running',     'task.resumed',     'it makes progress again'),
    ('stuck',       'completed',   'task.completed',   'done after all'),
    ('stuck',       'pending',     'task.retried',     'failed, handed back, or its worker died: it will run again'),
    ('stuck',       'paused',      'task.paused',      'held back'),
    ('stuck',       'failed',      'task.failed',      'failed, and trying again is of no use'),
    ('stuck',       'cancelled',   'task.cancelled',   'called off'),
    ('stuck',       'dead_letter', 'task.dead_letter', 'failed once too often'),
    ('paused',      'pending',     'task.resumed',     'let go'),
    ('paused',      'cancelled',   'task.cancelled',   'called off'),
    ('failed',      'pending',     'task.retried',     'retried by hand'),
    ('cancelled',   'pending',     'task.retried',     'retried by hand');

-- ---------------------------------------------------------------------------------------------------------------------
-- task_lanes: one row per queue, type and priority in use; claims are made lane by lane, so pausing or limiting a type never
-- makes a claim skip over rows. Written by the trigger of background_tasks at first use and by starting workers.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_lanes (
    id          integer       NOT NULL GENERATED ALWAYS AS IDENTITY,
    queue       varchar(100)  NOT NULL,
    task_type   varchar(100)  NOT NULL,
    priority    task_priority NOT NULL,
    suspect     boolean       NOT NULL DEFAULT false,
    trimmed_seq bigint        NOT NULL DEFAULT 0,
    CONSTRAINT task_lanes_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE task_lanes IS 'Lanes of the queue: tasks of one queue, type and priority, first come first served.';
-- Which lane is this task's? Not unique on purpose: a unique index would make the second transaction that enqueues the first task of a type
-- wait for the first to end. Should two make the same lane at once, both are claimed from, and the older one is used from then on.
CREATE INDEX task_lanes_queue_task_type_idx ON task_lanes (queue, task_type, priority, suspect, id);
COMMENT ON COLUMN task_lanes.suspect IS 'Lane of tasks whose worker died once; a worker runs one of them at a time, so that a poison pill takes nobody else along twice.';
COMMENT ON COLUMN task_lanes.trimmed_seq IS 'Up to where used-up rows of task_stream were deleted.';

-- ---------------------------------------------------------------------------------------------------------------------
-- task_stream: one row per task that became ready, in order. Inserted once by the trigger of background_tasks; never updated; deleted
-- in bulk long after it was passed.
-- seq must be given out in order and without caching, and xid must exist before seq is drawn (the trigger runs after the task's own
-- row was written): then a number that shows up late belongs to a transaction that the snapshot of an earlier claim names as running.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_stream (
    lane    integer NOT NULL,
    seq     bigint  NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    task_id uuid    NOT NULL,
    xid     xid8    NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT task_stream_pkey PRIMARY KEY (lane, seq)
);
COMMENT ON TABLE task_stream IS 'Ready tasks in the order they are to be claimed.';
COMMENT ON COLUMN task_stream.xid IS 'Transaction that made it ready: how a number that was committed late is found.';
-- Which numbers did this transaction bring into the lane, having committed after they were passed?
CREATE INDEX task_stream_lane_xid_seq_idx ON task_stream (lane, xid, seq);

-- ---------------------------------------------------------------------------------------------------------------------
-- task_claims: one row per claim. The newest row of a lane says all there is to know about it: every row of task_stream with
-- seq <= last_seq that its snapshot sees has been claimed, except those of the gaps; all others have not. Inserted once.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_claims (
    lane       integer     NOT NULL,
    id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    worker_id  varchar(255) NOT NULL,
    last_seq   bigint      NOT NULL,
    tasks      integer     NOT NULL,
    snapshot   pg_snapshot NOT NULL,
    gap_xids   xid8[]      NOT NULL DEFAULT '{}',
    gap_dones  bigint[]    NOT NULL DEFAULT '{}',
    gap_uptos  bigint[]    NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT task_claims_pkey PRIMARY KEY (lane, id),
    CONSTRAINT task_claims_gaps_check CHECK (cardinality(gap_xids) = cardinality(gap_dones) AND cardinality(gap_xids) = cardinality(gap_uptos))
);
COMMENT ON TABLE task_claims IS 'How far each lane has been claimed; the newest row of a lane counts.';
COMMENT ON COLUMN task_claims.gap_xids IS 'Late transactions whose rows at or before gap_uptos are being claimed; gap_dones says how far.';

-- ---------------------------------------------------------------------------------------------------------------------
-- task_timers: one row per task that becomes ready later (scheduled, or waiting for its next attempt). Deleted when it fires.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_timers (
    id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    due_at  timestamptz NOT NULL,
    task_id uuid        NOT NULL,
    CONSTRAINT task_timers_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE task_timers IS 'Tasks that become ready at a later moment; a fired or outdated entry does no harm.';
-- What has become due?
CREATE INDEX task_timers_due_at_idx ON task_timers (due_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- task_workers: one row per living worker process, made new at each start; its lease covers all its tasks and is renewed by
-- heartbeat. Deleting the row, by whomever, gives its tasks back.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_workers (
    id           varchar(255) NOT NULL,
    host         varchar(255) NOT NULL,
    pid          integer      NOT NULL,
    queues       text[]       NOT NULL DEFAULT '{}',
    concurrency  integer      NOT NULL,
    started_at   timestamptz  NOT NULL DEFAULT now(),
    heartbeat_at timestamptz  NOT NULL DEFAULT now(),
    lease_until  timestamptz  NOT NULL,
    CONSTRAINT task_workers_pkey PRIMARY KEY (id),
    CONSTRAINT task_workers_concurrency_check CHECK (concurrency > 0)
);
COMMENT ON TABLE task_workers IS 'Living workers. A worker whose lease has run out may write nothing more; its tasks are given back.';
COMMENT ON COLUMN task_workers.queues IS 'Queues it takes from; empty: all.';

-- ---------------------------------------------------------------------------------------------------------------------
-- task_controls: one row per queue or task type that is paused or limited. Written by the operator and by starting workers.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_controls (
    scope           varchar(5)   NOT NULL,
    name            varchar(100) NOT NULL,
    paused_at       timestamptz,
    concurrency_max integer,
    rate_max        integer,
    rate_period_s   double precision,
    rate_used_until timestamptz  NOT NULL DEFAULT '-infinity',
    CONSTRAINT task_controls_pkey PRIMARY KEY (scope, name),
    CONSTRAINT task_controls_scope_check CHECK (scope IN ('queue', 'type')),
    CONSTRAINT task_controls_concurrency_max_check CHECK (concurrency_max > 0),
    CONSTRAINT task_controls_rate_check CHECK ((rate_max IS NULL) = (rate_period_s IS NULL) AND rate_max > 0 AND rate_period_s > 0),
    CONSTRAINT task_controls_limits_check CHECK (scope = 'type' OR (concurrency_max IS NULL AND rate_max IS NULL))
);
COMMENT ON TABLE task_controls IS 'Paused queues and types, and limits of types.';
COMMENT ON COLUMN task_controls.concurrency_max IS 'Most tasks of the type held by all workers together.';
COMMENT ON COLUMN task_controls.rate_max IS 'Most tasks of the type begun in any rate_period_s seconds, up to one such burst after a rest.';
COMMENT ON COLUMN task_controls.rate_used_until IS 'Leaky bucket: the moment up to which the rate is used up.';

-- ---------------------------------------------------------------------------------------------------------------------
-- task_unique_keys: one row per key that must not be enqueued again for now. Written with the task, released by its transitions.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_unique_keys (
    key        varchar(255) NOT NULL,
    user_id    uuid,
    task_id    uuid         NOT NULL,
    held_while varchar(10)  NOT NULL,
    expires_at timestamptz,
    CONSTRAINT task_unique_keys_pkey PRIMARY KEY (key),
    CONSTRAINT task_unique_keys_held_while_check CHECK (held_while IN ('waiting', 'unfinished', 'period')),
    CONSTRAINT task_unique_keys_expires_at_check CHECK ((held_while = 'period') = (expires_at IS NOT NULL)),
    CONSTRAINT task_unique_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE task_unique_keys IS 'Keys of tasks that may not be enqueued a second time for now.';
COMMENT ON COLUMN task_unique_keys.key IS 'Tenant, type and key as the program joined them.';
COMMENT ON COLUMN task_unique_keys.held_while IS 'Until the task begins (waiting), ends (unfinished), or expires_at passes (period).';
-- Whose keys go with this user?
CREATE INDEX task_unique_keys_user_id_idx ON task_unique_keys (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- task_dependencies: one row per task that waits for another to complete. Deleted when that one ends.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_dependencies (
    after_task_id uuid NOT NULL,
    task_id       uuid NOT NULL,
    user_id       uuid,
    CONSTRAINT task_dependencies_pkey PRIMARY KEY (after_task_id, task_id),
    CONSTRAINT task_dependencies_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE task_dependencies IS 'task_id waits until after_task_id has completed; is cancelled if that one ends otherwise.';
-- Whose waiting goes with this user?
CREATE INDEX task_dependencies_user_id_idx ON task_dependencies (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- task_schedules: one row per recurring task. Written by the operator and by starting workers; a worker that finds one due enqueues the
-- task and moves next_run_at in one transaction, so each tick is enqueued once however many workers look.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_schedules (
    id          uuid          NOT NULL DEFAULT gen_random_uuid(),
    name        varchar(100)  NOT NULL,
    user_id     uuid,
    task_type   varchar(100)  NOT NULL,
    queue       varchar(100)  NOT NULL DEFAULT 'default',
    priority    task_priority NOT NULL DEFAULT 'normal',
    payload     jsonb         NOT NULL DEFAULT '{}',
    config      jsonb         NOT NULL DEFAULT '{}',
    cron        varchar(255)  NOT NULL,
    time_zone   varchar(100)  NOT NULL DEFAULT 'UTC',
    enabled     boolean       NOT NULL DEFAULT true,
    next_run_at timestamptz   NOT NULL,
    last_run_at timestamptz,
    last_task_id uuid,
    created_at  timestamptz   NOT NULL DEFAULT now(),
    updated_at  timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT task_schedules_pkey PRIMARY KEY (id),
    CONSTRAINT task_schedules_name_key UNIQUE (name),
    CONSTRAINT task_schedules_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE task_schedules IS 'Recurring tasks. Ticks missed while nothing ran are made up for by one run.';
COMMENT ON COLUMN task_schedules.cron IS 'minute hour day month weekday, in time_zone.';
COMMENT ON COLUMN task_schedules.last_task_id IS 'Joins background_tasks; no FK because tasks are dropped sooner.';
-- Which tick is next?
CREATE INDEX task_schedules_next_run_at_idx ON task_schedules (next_run_at) WHERE enabled;
-- Whose schedules go with this user?
CREATE INDEX task_schedules_user_id_idx ON task_schedules (user_id) WHERE user_id IS NOT NULL;
CREATE TRIGGER task_schedules_set_updated_at BEFORE UPDATE ON task_schedules FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- Two numbers outside transactions: until when (Unix ms) some worker sleeps, and when one was last woken. Unlogged: a crash resets
-- them, and a worker that is not woken looks by itself. CACHE 1, so that every session sees the same.
CREATE UNLOGGED SEQUENCE task_sleeping_until MINVALUE 0 START 0 CACHE 1;
CREATE UNLOGGED SEQUENCE task_woken_at MINVALUE 0 START 0 CACHE 1;
COMMENT ON SEQUENCE task_sleeping_until IS 'Not a counter: Unix milliseconds until which some worker may be asleep; enqueueing notifies only until then.';
COMMENT ON SEQUENCE task_woken_at IS 'Not a counter: Unix milliseconds of the last notification; at most one goes out every 5 ms.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Becoming ready
-- ---------------------------------------------------------------------------------------------------------------------

-- helix_tasks_offer: put pending tasks into their lanes, or set their timers. NOTIFY takes a lock that holds up every other commit,
-- so it is sent only while a worker sleeps, and at most every 5 ms; a worker that has just been awake looks again by itself.
CREATE FUNCTION helix_tasks_offer(p_ids uuid[], p_queues text[], p_types text[], p_priorities task_priority[], p_suspects boolean[], p_dues timestamptz[])
RETURNS void LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public SET enable_nestloop = on AS $body$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_ms bigint := (extract(epoch FROM v_now) * 1000)::bigint;
    v_ready integer;
    v_sleeping bigint;
    v_woken bigint;
BEGIN
    INSERT INTO task_lanes (queue, task_type, priority, suspect)
    SELECT DISTINCT o.queue, o.task_type, o.priority, o.suspect
    FROM unnest(p_queues, p_types, p_priorities, p_suspects) AS o (queue, task_type, priority, suspect)
    WHERE NOT EXISTS (SELECT FROM task_lanes AS l WHERE l.queue = o.queue AND l.task_type = o.task_type
                      AND l.priority = o.priority AND l.suspect = o.suspect);

    INSERT INTO task_stream (lane, task_id)
    SELECT l.id, o.id
    FROM unnest(p_ids, p_queues, p_types, p_priorities, p_suspects, p_dues) WITH ORDINALITY
         AS o (id, queue, task_type, priority, suspect, due_at, place)
    JOIN (SELECT min(f.id) AS id, f.queue, f.task_type, f.priority, f.suspect FROM task_lanes AS f
          GROUP BY f.queue, f.task_type, f.priority, f.suspect) AS l
      ON l.queue = o.queue AND l.task_type = o.task_type AND l.priority = o.priority AND l.suspect = o.suspect
    WHERE o.due_at <= v_now
    ORDER BY o.place;
    GET DIAGNOSTICS v_ready = ROW_COUNT;

    IF v_ready < cardinality(p_ids) THEN
        INSERT INTO task_timers (due_at, task_id)
        SELECT o.due_at, o.id FROM unnest(p_ids, p_dues) AS o (id, due_at) WHERE o.due_at > v_now;
    END IF;
    IF v_ready > 0 THEN
        SELECT last_value INTO v_sleeping FROM task_sleeping_until;
        IF v_sleeping >= v_ms THEN
            SELECT last_value INTO v_woken FROM task_woken_at;
            IF v_ms - v_woken NOT BETWEEN 0 AND 4 THEN
                PERFORM setval('task_woken_at', v_ms);
                -- A full queue of notifications would refuse the commit of whoever enqueues; workers poll all the same.
                IF pg_notification_queue_usage() < 0.9 THEN
                    PERFORM pg_notify('helix_tasks', '');
                END IF;
            END IF;
        END IF;
    END IF;
END
$body$;
COMMENT ON FUNCTION helix_tasks_offer(uuid[], text[], text[], task_priority[], boolean[], timestamptz[]) IS 'Puts pending tasks into their lanes or sets their timers, and wakes a sleeping worker.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Transitions: statement triggers, so that a batch of 200 costs little more than one
-- ---------------------------------------------------------------------------------------------------------------------
CREATE FUNCTION helix_tasks_inserted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $body$
DECLARE
    v_head bytea := uuidv7_head(clock_timestamp());
    v_xact xid8 := pg_current_xact_id();
    ready record;
BEGIN
    INSERT INTO task_events (id, xact, task_id, user_id, event_type, data)
    SELECT uuidv7_under(v_head), v_xact, n.id, n.user_id, 'task.created',
           CASE WHEN n.parent_task_id IS NULL THEN '{}'::jsonb ELSE jsonb_build_object('parent_task_id', n.parent_task_id) END
    FROM new_rows AS n;

    SELECT array_agg(n.id) AS ids, array_agg(n.queue::text) AS queues, array_agg(n.task_type::text) AS types,
           array_agg(n.priority) AS priorities, array_agg(n.lost_count > 0) AS suspects, array_agg(n.scheduled_at) AS dues
    INTO ready
    FROM new_rows AS n WHERE n.status = 'pending' AND n.blocked_by = 0 AND n.deleted_at IS NULL;
    IF ready.ids IS NOT NULL THEN
        PERFORM helix_tasks_offer(ready.ids, ready.queues, ready.types, ready.priorities, ready.suspects, ready.dues);
    END IF;
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION helix_tasks_inserted() IS 'Trigger: a new task gets its event and its place in the queue, whoever inserts it.';

-- The plan of its first statement is kept by the session, made for as many rows as the first change had: usually one. With nested loops
-- a batch of 250 then compared each old row with each new one, which doubled the cost of a claim. What it calls reads big tables by
-- index, and sets them on again.
CREATE FUNCTION helix_tasks_updated() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public SET enable_nestloop = off AS $body$
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
        PERFORM helix_tasks_free_keys(array_agg(n.unique_key::text), array_agg(n.id), array_agg(n.status))
        FROM new_rows AS n WHERE n.unique_key IS NOT NULL;
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
COMMENT ON FUNCTION helix_tasks_updated() IS 'Trigger: refuses transitions that are not allowed; writes events, history, dead letters, webhook messages; frees keys and waiting tasks.';

-- helix_tasks_free_keys: give back the keys that these tasks, in these states now, hold no longer. Index: task_unique_keys_pkey.
CREATE FUNCTION helix_tasks_free_keys(p_keys text[], p_ids uuid[], p_statuses task_status[]) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, public SET enable_nestloop = on AS $body$
    DELETE FROM task_unique_keys AS k USING unnest(p_keys, p_ids, p_statuses) AS n (key, id, status)
    WHERE n.key = k.key AND k.task_id = n.id
      AND ((k.held_while = 'waiting' AND n.status NOT IN ('pending', 'paused', 'queued'))
           OR (k.held_while <> 'period' AND n.status IN ('completed', 'failed', 'cancelled', 'dead_letter')))
$body$;
COMMENT ON FUNCTION helix_tasks_free_keys(text[], uuid[], task_status[]) IS 'Frees the unique keys that tasks no longer hold in the states they have reached.';

-- helix_tasks_unblock: tell the tasks that waited for these. A task waiting for one that did not complete is cancelled.
-- Index: task_dependencies_pkey, background_tasks_pkey. Without nested loops, as its caller runs, it would read every task there is.
CREATE FUNCTION helix_tasks_unblock(p_completed uuid[], p_ended uuid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public SET enable_nestloop = on AS $body$
BEGIN
    WITH freed AS (
        DELETE FROM task_dependencies WHERE after_task_id = ANY (p_completed) RETURNING task_id
    ), counted AS (
        SELECT task_id, count(*) AS fewer FROM freed GROUP BY task_id)
    UPDATE background_tasks AS t SET blocked_by = greatest(0, t.blocked_by - c.fewer)
    FROM counted AS c WHERE t.id = c.task_id;

    WITH orphaned AS (
        DELETE FROM task_dependencies WHERE after_task_id = ANY (p_ended) RETURNING task_id, after_task_id
    ), one AS (
        SELECT DISTINCT ON (task_id) task_id, after_task_id FROM orphaned)
    UPDATE background_tasks AS t
    SET status = 'cancelled', completed_at = clock_timestamp(), error_message = format('task %s, which it waited for, did not complete', o.after_task_id)
    FROM one AS o WHERE t.id = o.task_id AND t.status IN ('pending', 'paused');
END
$body$;
COMMENT ON FUNCTION helix_tasks_unblock(uuid[], uuid[]) IS 'Frees the tasks that waited for completed ones and cancels those that waited for others.';

CREATE FUNCTION helix_tasks_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $body$
BEGIN
    DELETE FROM task_events AS e USING old_rows AS o WHERE e.task_id = o.id;
    DELETE FROM task_execution_history AS h USING old_rows AS o WHERE h.task_id = o.id;
    DELETE FROM task_unique_keys AS k USING old_rows AS o WHERE k.key = o.unique_key AND k.task_id = o.id;
    DELETE FROM task_dependencies AS d USING old_rows AS o WHERE d.task_id = o.id;
    IF EXISTS (SELECT FROM task_dependencies) THEN
        PERFORM helix_tasks_unblock('{}', (SELECT array_agg(id) FROM old_rows));
    END IF;
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION helix_tasks_deleted() IS 'Trigger: what belongs to a deleted task goes with it.';

CREATE TRIGGER background_tasks_inserted AFTER INSERT ON background_tasks
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION helix_tasks_inserted();
CREATE TRIGGER background_tasks_updated AFTER UPDATE ON background_tasks
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION helix_tasks_updated();
CREATE TRIGGER background_tasks_deleted AFTER DELETE ON background_tasks
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION helix_tasks_deleted();

-- ---------------------------------------------------------------------------------------------------------------------
-- Claiming
-- ---------------------------------------------------------------------------------------------------------------------

-- helix_tasks_pass: move a lane's mark forward over at most p_max ready tasks and return them, late ones first.
-- Index: task_stream_pkey, task_stream_lane_xid_seq_idx, task_claims_pkey (its newest end). The caller holds the lane's advisory lock.
-- One statement, one snapshot: what it sees is exactly what it writes down as seen.
CREATE FUNCTION helix_tasks_pass(p_lane integer, p_worker_id text, p_max integer) RETURNS uuid[]
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
DECLARE
    prev record;
    v_ids uuid[];
BEGIN
    SELECT c.last_seq, c.snapshot, c.gap_xids, c.gap_dones, c.gap_uptos INTO prev
    FROM task_claims AS c WHERE c.lane = p_lane ORDER BY c.id DESC LIMIT 1;
    IF NOT FOUND THEN
        SELECT 0::bigint AS last_seq, NULL::pg_snapshot AS snapshot, '{}'::xid8[] AS gap_xids, '{}'::bigint[] AS gap_dones, '{}'::bigint[] AS gap_uptos
        INTO prev;
    END IF;

    WITH gap AS MATERIALIZED (
        -- Gaps still being claimed, and transactions that the last claim saw running and that have brought numbers since.
        SELECT g.xid, g.done, g.upto FROM unnest(prev.gap_xids, prev.gap_dones, prev.gap_uptos) AS g (xid, done, upto)
        UNION ALL
        SELECT x, 0, prev.last_seq FROM pg_snapshot_xip(prev.snapshot) AS x
        WHERE EXISTS (SELECT FROM task_stream AS s WHERE s.lane = p_lane AND s.xid = x AND s.seq <= prev.last_seq)
    ), late AS (
        SELECT s.seq, s.task_id, g.xid FROM gap AS g
        CROSS JOIN LATERAL (SELECT s.seq, s.task_id FROM task_stream AS s
                            WHERE s.lane = p_lane AND s.xid = g.xid AND s.seq > g.done AND s.seq <= g.upto ORDER BY s.seq LIMIT p_max) AS s
        ORDER BY s.seq LIMIT p_max
    ), fresh AS (
        SELECT s.seq, s.task_id FROM task_stream AS s WHERE s.lane = p_lane AND s.seq > prev.last_seq ORDER BY s.seq LIMIT p_max
    ), taken AS MATERIALIZED (
        SELECT u.* FROM (SELECT seq, task_id, xid, 0 AS kind FROM late
                         UNION ALL SELECT seq, task_id, NULL, 1 FROM fresh) AS u
        ORDER BY u.kind, u.seq LIMIT p_max
    ), open_gap AS (
        SELECT g.xid, d.done, g.upto FROM gap AS g
        CROSS JOIN LATERAL (SELECT coalesce(max(t.seq), g.done) AS done FROM taken AS t WHERE t.xid = g.xid) AS d
        WHERE EXISTS (SELECT FROM task_stream AS s WHERE s.lane = p_lane AND s.xid = g.xid AND s.seq > d.done AND s.seq <= g.upto)
    ), written AS (
        INSERT INTO task_claims (lane, worker_id, last_seq, tasks, snapshot, gap_xids, gap_dones, gap_uptos)
        SELECT p_lane, p_worker_id, coalesce(max(t.seq) FILTER (WHERE t.kind = 1), prev.last_seq), count(*), pg_current_snapshot(),
               coalesce((SELECT array_agg(o.xid) FROM open_gap AS o), '{}'),
               coalesce((SELECT array_agg(o.done) FROM open_gap AS o), '{}'),
               coalesce((SELECT array_agg(o.upto) FROM open_gap AS o), '{}')
        FROM taken AS t HAVING count(*) > 0)
    SELECT array_agg(t.task_id ORDER BY t.kind, t.seq) INTO v_ids FROM taken AS t;
    RETURN v_ids;
END
$body$;
COMMENT ON FUNCTION helix_tasks_pass(integer, text, integer) IS 'Moves a lane''s mark over ready tasks and returns their ids; under the lane''s advisory lock only.';

-- helix_tasks_claim: lease up to p_max ready tasks to a worker, most urgent first; those beyond p_begin are queued, not begun.
-- Locks: the advisory locks of the lanes it takes from, the tasks it takes (it passes over tasks locked by others and looks again a second later).
CREATE FUNCTION helix_tasks_claim(p_worker_id text, p_queues text[], p_types text[], p_max integer, p_begin integer, p_suspects integer)
RETURNS TABLE (id uuid, task_type varchar, status task_status, payload text, config text, checkpoint text, user_id uuid, fencing_token bigint,
               attempt integer, retry_count integer, max_retries integer, retry_delay_seconds integer, deadline timestamptz, spend_cap_usd numeric,
               created_at timestamptz, correlation_id varchar, parent_task_id uuid, lost_count smallint)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
#variable_conflict use_column
DECLARE
    lane record;
    v_left integer := p_max;
    v_begin integer := p_begin;
    v_suspects integer := p_suspects;
    v_room integer;
    v_ids uuid[];
    v_free uuid[];
    v_order uuid[];       -- the free ones in the order of the queue
    v_waited integer;     -- a lane that another claim holds
    v_round integer;
    v_pass integer;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'tasks are claimed in READ COMMITTED transactions' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- The key-share lock keeps a reclaim, which deletes the worker, from passing between this check and the claim.
    PERFORM FROM task_workers AS w WHERE w.id = p_worker_id AND w.lease_until > clock_timestamp() FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease of worker % has run out', p_worker_id USING ERRCODE = 'HX001';
    END IF;

    FOR v_round IN 1 .. 2 LOOP
        FOR lane IN
            SELECT l.id, l.task_type, l.suspect, head.seq, (k.concurrency_max IS NOT NULL OR k.rate_max IS NOT NULL) AS limited
            FROM task_lanes AS l
            LEFT JOIN LATERAL (SELECT c.last_seq, c.snapshot, c.gap_xids FROM task_claims AS c WHERE c.lane = l.id ORDER BY c.id DESC LIMIT 1) AS c ON true
            LEFT JOIN task_controls AS k ON k.scope = 'type' AND k.name = l.task_type
            LEFT JOIN task_controls AS q ON q.scope = 'queue' AND q.name = l.queue
            LEFT JOIN LATERAL (SELECT s.seq FROM task_stream AS s WHERE s.lane = l.id AND s.seq > coalesce(c.last_seq, 0) ORDER BY s.seq LIMIT 1) AS head ON true
            WHERE (p_queues IS NULL OR l.queue = ANY (p_queues))
              AND l.task_type = ANY (p_types)
              AND k.paused_at IS NULL AND q.paused_at IS NULL
              AND (head.seq IS NOT NULL OR cardinality(c.gap_xids) > 0
                   OR EXISTS (SELECT FROM pg_snapshot_xip(c.snapshot) AS x JOIN task_stream AS s ON s.lane = l.id AND s.xid = x WHERE s.seq <= c.last_seq))
            ORDER BY l.priority, head.seq NULLS FIRST
        LOOP
            EXIT WHEN v_left <= 0;
            v_room := CASE WHEN lane.suspect THEN least(v_left, v_suspects) ELSE v_left END;
            CONTINUE WHEN v_room <= 0;
            -- In the first round lanes held by others are passed over; if nothing was found, the second waits for the first of them.
            IF v_round = 1 THEN
                IF NOT pg_try_advisory_xact_lock(826201, lane.id) THEN
                    v_waited := coalesce(v_waited, lane.id);
                    CONTINUE;
                END IF;
            ELSE
                CONTINUE WHEN lane.id <> v_waited;
                PERFORM pg_advisory_xact_lock(826201, lane.id);
            END IF;
            IF lane.limited THEN
                v_room := least(v_room, helix_tasks_allowance(lane.task_type));
                CONTINUE WHEN v_room <= 0;
            END IF;
            -- Entries of tasks that were cancelled or paused meanwhile are passed over, so one pass may bring fewer than there is room for.
            FOR v_pass IN 1 .. 1000 LOOP
                v_ids := helix_tasks_pass(lane.id, p_worker_id, v_room);
                EXIT WHEN v_ids IS NULL;

                -- IS NOT DISTINCT FROM keeps the planner off the index on status, which is full of dead entries under an old snapshot.
                v_free := ARRAY(SELECT t.id FROM background_tasks AS t
                                WHERE t.id = ANY (v_ids) AND t.status IS NOT DISTINCT FROM 'pending' AND t.blocked_by = 0 AND t.deleted_at IS NULL
                                  AND t.scheduled_at <= clock_timestamp()
                                FOR NO KEY UPDATE SKIP LOCKED);
                IF cardinality(v_free) < cardinality(v_ids) THEN
                    INSERT INTO task_timers (due_at, task_id)
                    SELECT clock_timestamp() + interval '1 second', t.id FROM background_tasks AS t
                    WHERE t.id = ANY (v_ids) AND t.id <> ALL (v_free) AND t.status IS NOT DISTINCT FROM 'pending' AND t.blocked_by = 0
                      AND t.deleted_at IS NULL AND t.scheduled_at <= clock_timestamp();
                END IF;
                CONTINUE WHEN cardinality(v_free) = 0;
                IF lane.limited THEN
                    UPDATE task_controls AS k SET rate_used_until = greatest(k.rate_used_until, clock_timestamp() - make_interval(secs => k.rate_period_s))
                        + make_interval(secs => k.rate_period_s / k.rate_max * cardinality(v_free))
                    WHERE k.scope = 'type' AND k.name = lane.task_type AND k.rate_max IS NOT NULL;
                END IF;
                -- Which of them are begun: usually all. The positions are looked up in an array, for a join of two arrays' worth
                -- of rows is planned for ten rows and compares every id with every other.
                v_order := CASE WHEN cardinality(v_free) <= v_begin THEN v_free
                                ELSE ARRAY(SELECT i.id FROM unnest(v_ids) WITH ORDINALITY AS i (id, place) WHERE i.id = ANY (v_free) ORDER BY i.place) END;
                RETURN QUERY
                    UPDATE background_tasks AS t
                    SET status = CASE WHEN cardinality(v_free) <= v_begin OR array_position(v_order, t.id) <= v_begin
                                      THEN 'running'::task_status ELSE 'queued' END,
                        worker_id = p_worker_id, attempt = t.attempt + 1, fencing_token = t.fencing_token + 1, lease_until = NULL,
                        started_at = CASE WHEN cardinality(v_free) <= v_begin OR array_position(v_order, t.id) <= v_begin
                                          THEN clock_timestamp() END,
                        last_heartbeat = clock_timestamp()
                    WHERE t.id = ANY (v_free)
                    RETURNING t.id, t.task_type, t.status, t.payload::text, t.config::text, t.checkpoint::text, t.user_id, t.fencing_token, t.attempt,
                              t.retry_count, t.max_retries, t.retry_delay_seconds, t.deadline, t.spend_cap_usd, t.created_at, t.correlation_id, t.parent_task_id,
                              t.lost_count;
                v_left := v_left - cardinality(v_free);
                v_begin := greatest(0, v_begin - cardinality(v_free));
                v_suspects := CASE WHEN lane.suspect THEN v_suspects - cardinality(v_free) ELSE v_suspects END;
                v_room := v_room - cardinality(v_free);
                EXIT WHEN v_room <= 0;
            END LOOP;
        END LOOP;
        EXIT WHEN v_left < p_max OR v_waited IS NULL;
    END LOOP;
END
$body$;
COMMENT ON FUNCTION helix_tasks_claim(text, text[], text[], integer, integer, integer) IS 'Leases ready tasks to a worker whose lease is valid; SQLSTATE HX001 when it is not.';

-- helix_tasks_allowance: how many tasks of a limited type may be claimed now. Locks the type's row: limits are exact under concurrency.
CREATE FUNCTION helix_tasks_allowance(p_type text) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
DECLARE
    limits task_controls;
    v_room integer := 2147483647;
    v_now timestamptz;
BEGIN
    SELECT * INTO limits FROM task_controls WHERE scope = 'type' AND name = p_type FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    IF limits.concurrency_max IS NOT NULL THEN
        v_room := limits.concurrency_max - (SELECT count(*) FROM background_tasks AS t
                                            WHERE t.status IN ('queued', 'running', 'stuck') AND t.task_type = p_type);
    END IF;
    IF limits.rate_max IS NOT NULL THEN
        v_room := least(v_room, floor(extract(epoch FROM v_now
            - greatest(limits.rate_used_until, v_now - make_interval(secs => limits.rate_period_s))) * limits.rate_max / limits.rate_period_s + 1e-6)::integer);
    END IF;
    RETURN greatest(0, v_room);
END
$body$;
COMMENT ON FUNCTION helix_tasks_allowance(text) IS 'How many tasks of a limited type may be claimed now; holds the type''s row until the end of the transaction.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Timers, dead workers, tidying
-- ---------------------------------------------------------------------------------------------------------------------

-- helix_tasks_ripen: offer the tasks whose moment has come. Index: task_timers_due_at_idx. Locks: only the timers it takes.
CREATE FUNCTION helix_tasks_ripen(p_max integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
DECLARE
    v_due uuid[];
    ready record;
BEGIN
    WITH due AS (
        SELECT m.id FROM task_timers AS m WHERE m.due_at <= clock_timestamp() ORDER BY m.due_at LIMIT p_max FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM task_timers AS m USING due AS d WHERE m.id = d.id RETURNING m.task_id)
    SELECT array_agg(DISTINCT g.task_id) INTO v_due FROM gone AS g;
    IF v_due IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(t.id) AS ids, array_agg(t.queue::text) AS queues, array_agg(t.task_type::text) AS types,
           array_agg(t.priority) AS priorities, array_agg(t.lost_count > 0) AS suspects, array_agg(t.scheduled_at) AS dues
    INTO ready
    FROM background_tasks AS t
    WHERE t.id = ANY (v_due) AND t.status IS NOT DISTINCT FROM 'pending' AND t.blocked_by = 0 AND t.deleted_at IS NULL
      AND t.scheduled_at <= clock_timestamp();
    IF ready.ids IS NOT NULL THEN
        PERFORM helix_tasks_offer(ready.ids, ready.queues, ready.types, ready.priorities, ready.suspects, ready.dues);
    END IF;
    RETURN cardinality(v_due);
END
$body$;
COMMENT ON FUNCTION helix_tasks_ripen(integer) IS 'Offers tasks whose scheduled moment has come; returns how many timers it took.';

-- Old errors beyond the last 20 attempts are forgotten: the history table keeps them all.
CREATE FUNCTION helix_tasks_errors(history jsonb, entry jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $body$
    SELECT CASE WHEN jsonb_array_length(history) >= 20 THEN history - 0 ELSE history END || jsonb_build_array(entry)
$body$;
COMMENT ON FUNCTION helix_tasks_errors(jsonb, jsonb) IS 'Appends an error to error_history, which keeps the last 20.';

-- helix_tasks_lost: these attempts ended with their worker: back to waiting, or, the third time, to the dead letters. Attempts that a
-- transaction has locked (p_wait false) are left for the next call. Index: idx_tasks_status, which holds what has not completed.
-- Whose workers died twice waits half a minute: it may be what kills them, and three deaths that follow each other faster than a busy
-- machine starts processes would leave nobody to do the rest.
CREATE FUNCTION helix_tasks_lost(p_worker_id text, p_ids uuid[], p_wait boolean) RETURNS integer
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
        scheduled_at = CASE WHEN t.status <> 'queued' AND t.lost_count = 1 THEN clock_timestamp() + interval '30 seconds'
                            ELSE least(t.scheduled_at, clock_timestamp()) END,
        error_message = 'the worker died', error_history = helix_tasks_errors(t.error_history,
            jsonb_build_object('attempt', t.attempt, 'error', 'the worker died', 'worker_id', t.worker_id, 'at', clock_timestamp()))
    WHERE t.id = ANY (v_ids) AND t.worker_id IS NOT DISTINCT FROM p_worker_id;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$body$;
COMMENT ON FUNCTION helix_tasks_lost(text, uuid[], boolean) IS 'Takes tasks back from a dead worker (all, or those given); returns how many.';

CREATE FUNCTION helix_task_workers_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public AS $body$
BEGIN
    PERFORM helix_tasks_lost(OLD.id, NULL, true);
    RETURN NULL;
END
$body$;
COMMENT ON FUNCTION helix_task_workers_deleted() IS 'Trigger: a worker that is struck off gives its tasks back, whoever strikes it off.';
CREATE TRIGGER task_workers_deleted AFTER DELETE ON task_workers FOR EACH ROW EXECUTE FUNCTION helix_task_workers_deleted();

-- helix_tasks_reclaim: strike off the workers whose lease has run out, and take back what SQL-only workers hold too long.
CREATE FUNCTION helix_tasks_reclaim() RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
DECLARE
    dead record;
    v_count integer := 0;
BEGIN
    FOR dead IN SELECT w.id FROM task_workers AS w WHERE w.lease_until < clock_timestamp() FOR UPDATE SKIP LOCKED LOOP
        v_count := v_count + helix_tasks_lost(dead.id, NULL, false);
        -- While a transaction of the dead worker still holds one of its tasks, the worker stays listed and is looked at again.
        DELETE FROM task_workers AS w WHERE w.id = dead.id
            AND NOT EXISTS (SELECT FROM background_tasks AS t WHERE t.worker_id = dead.id AND t.status IN ('queued', 'running', 'stuck'));
    END LOOP;
    FOR dead IN SELECT t.worker_id AS id, array_agg(t.id) AS ids FROM background_tasks AS t
                WHERE t.lease_until < clock_timestamp() AND t.status IN ('queued', 'running', 'stuck') GROUP BY t.worker_id LOOP
        v_count := v_count + helix_tasks_lost(dead.id, dead.ids, false);
    END LOOP;
    RETURN v_count;
END
$body$;
COMMENT ON FUNCTION helix_tasks_reclaim() IS 'Takes tasks back from workers whose lease has run out; any worker may call it at any time.';

-- helix_tasks_trim: delete what the lanes have passed: used-up stream rows and superseded claims.
-- A stream row may go when its lane's mark passed it and it was seen by that claim and is in no gap.
CREATE FUNCTION helix_tasks_trim(p_max integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, public AS $body$
DECLARE
    lane record;
    v_upto bigint;
    v_deleted integer;
    v_count integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(826202, 0) THEN
        RETURN 0;
    END IF;
    FOR lane IN
        -- Now and then from the start, for rows that were committed late, behind the mark.
        SELECT l.id, CASE WHEN random() < 0.02 THEN 0 ELSE l.trimmed_seq END AS trimmed_seq, c.id AS claim_id, c.last_seq, c.snapshot, c.gap_xids FROM task_lanes AS l
        CROSS JOIN LATERAL (SELECT c.* FROM task_claims AS c WHERE c.lane = l.id ORDER BY c.id DESC LIMIT 1) AS c
        WHERE c.last_seq > l.trimmed_seq
    LOOP
        EXIT WHEN v_count >= p_max;
        WITH used AS (
            SELECT s.seq FROM task_stream AS s WHERE s.lane = lane.id AND s.seq > lane.trimmed_seq AND s.seq <= lane.last_seq
              AND pg_visible_in_snapshot(s.xid, lane.snapshot) AND s.xid <> ALL (lane.gap_xids)
            ORDER BY s.seq LIMIT p_max - v_count
        ), gone AS (
            DELETE FROM task_stream AS s USING used AS u WHERE s.lane = lane.id AND s.seq = u.seq RETURNING s.seq)
        SELECT count(*), max(seq) INTO v_deleted, v_upto FROM gone;
        v_count := v_count + v_deleted;
        -- The mark stays before the first row that is left, so that late rows are found by a later trim.
        UPDATE task_lanes AS l SET trimmed_seq = coalesce(
                (SELECT s.seq - 1 FROM task_stream AS s WHERE s.lane = lane.id AND s.seq > lane.trimmed_seq ORDER BY s.seq LIMIT 1), lane.last_seq)
        WHERE l.id = lane.id AND v_deleted > 0;
        DELETE FROM task_claims AS c WHERE c.lane = lane.id AND c.id < lane.claim_id;
    END LOOP;
    RETURN v_count;
END
$body$;
COMMENT ON FUNCTION helix_tasks_trim(integer) IS 'Deletes at most p_max used-up rows of task_stream and the claims they came by; one at a time does it.';

-- ---------------------------------------------------------------------------------------------------------------------
-- For the psql prompt and for workers that speak only SQL
-- ---------------------------------------------------------------------------------------------------------------------

-- task_events_after: what was committed since a snapshot, oldest first; a bare sequence or time would miss late commits.
-- Index: task_events_xact_idx.
CREATE FUNCTION task_events_after(p_snapshot pg_snapshot, p_max integer DEFAULT 1000) RETURNS SETOF task_events
    LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $body$
    SELECT e.* FROM task_events AS e
    WHERE e.xact >= pg_snapshot_xmin(p_snapshot) AND NOT pg_visible_in_snapshot(e.xact, p_snapshot)
    ORDER BY e.xact, e.id LIMIT p_max
$body$;
COMMENT ON FUNCTION task_events_after(pg_snapshot, integer) IS 'Events that the snapshot does not see: read pg_current_snapshot() and then this, and no late commit is missed.';

-- dequeue_background_task: lease the most urgent due task that fits into what the worker has to spare.
-- Index: idx_tasks_pending. Locks: only the row it takes; skips rows held by others. For low rates: many tasks a second are for helix_tasks_claim.
CREATE FUNCTION dequeue_background_task(p_worker_id varchar, p_max_cpu_cores numeric DEFAULT NULL, p_max_memory_mb integer DEFAULT NULL,
                                        p_task_types text[] DEFAULT NULL, p_lease interval DEFAULT '60 seconds')
RETURNS SETOF background_tasks LANGUAGE sql VOLATILE SET search_path = pg_catalog, public AS $body$
    WITH due AS (
        SELECT t.id FROM public.background_tasks AS t
        WHERE t.status = 'pending' AND t.scheduled_at <= now() AND t.blocked_by = 0 AND t.deleted_at IS NULL AND (t.deadline IS NULL OR t.deadline > now())
          AND (p_max_cpu_cores IS NULL OR t.required_cpu_cores <= p_max_cpu_cores)
          AND (p_max_memory_mb IS NULL OR t.required_memory_mb <= p_max_memory_mb)
          AND (p_task_types IS NULL OR t.task_type = ANY (p_task_types))
          AND NOT EXISTS (SELECT FROM public.task_controls AS k WHERE k.paused_at IS NOT NULL
                          AND ((k.scope = 'type' AND k.name = t.task_type) OR (k.scope = 'queue' AND k.name = t.queue)))
        ORDER BY t.priority, t.created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    UPDATE public.background_tasks AS t
    SET status = 'running', worker_id = p_worker_id, attempt = t.attempt + 1, fencing_token = t.fencing_token + 1,
        started_at = clock_timestamp(), last_heartbeat = clock_timestamp(), lease_until = clock_timestamp() + p_lease
    FROM due WHERE t.id = due.id
    RETURNING t.*
$body$;
COMMENT ON FUNCTION dequeue_background_task(varchar, numeric, integer, text[], interval) IS 'Takes the most urgent due task that fits the given cores and MiB (NULL = any), leases it to the worker and returns it; no row when there is none. Write results only while fencing_token is still the one returned, and set worker_id to NULL with the last status.';

-- get_stale_tasks: which tasks have shown no sign of life? Five minutes unless told otherwise.
CREATE FUNCTION get_stale_tasks(p_silent_for interval DEFAULT '5 minutes')
RETURNS TABLE (task_id uuid, task_type varchar, status task_status, worker_id varchar, last_sign_at timestamptz, silent_for interval, lease_until timestamptz, attempt integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $body$
    SELECT t.id, t.task_type, t.status, t.worker_id, sign.at, now() - sign.at, coalesce(t.lease_until, w.lease_until), t.attempt
    FROM public.background_tasks AS t
    LEFT JOIN public.task_workers AS w ON w.id = t.worker_id
    CROSS JOIN LATERAL (SELECT coalesce(t.last_heartbeat, t.started_at, t.created_at) AS at) AS sign
    WHERE t.status IN ('queued', 'running', 'stuck') AND t.deleted_at IS NULL AND sign.at < now() - p_silent_for
    ORDER BY sign.at
$body$;
COMMENT ON FUNCTION get_stale_tasks(interval) IS 'Tasks picked up or running without a sign of life for so long (5 minutes), the longest silent first.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenancy and grants
-- ---------------------------------------------------------------------------------------------------------------------
INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('task_transitions', 'the state diagram, no tenant data'),
    ('task_lanes',       'names of queues and types, no tenant data'),
    ('task_stream',      'ids in order; tenants may only add to it, through the trigger of background_tasks'),
    ('task_claims',      'marks of the claims; only workers (helix_operator) use it'),
    ('task_timers',      'ids and moments; tenants may only add to it, through the trigger of background_tasks'),
    ('task_workers',     'processes of Helix, no tenant data'),
    ('task_controls',    'limits and pauses of queues and types, no tenant data');

DO $do$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['task_unique_keys', 'task_dependencies', 'task_schedules'] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY %I ON public.%I TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()))', t || '_tenant', t);
        EXECUTE format('CREATE POLICY %I ON public.%I TO helix_operator USING (true) WITH CHECK (true)', t || '_operator', t);
        EXECUTE format('CREATE POLICY %I ON public.%I FOR SELECT TO helix_readonly USING (true)', t || '_readonly', t);
    END LOOP;
END
$do$;

GRANT SELECT ON task_transitions, task_lanes, task_workers, task_controls TO helix_app, helix_operator, helix_readonly;
GRANT INSERT (queue, task_type, priority, suspect) ON task_lanes TO helix_app, helix_operator;
GRANT UPDATE (trimmed_seq) ON task_lanes TO helix_operator;
GRANT INSERT (lane, task_id) ON task_stream TO helix_app, helix_operator;
GRANT SELECT, DELETE ON task_stream TO helix_operator;
GRANT SELECT, INSERT, DELETE ON task_claims TO helix_operator;
GRANT INSERT (due_at, task_id) ON task_timers TO helix_app, helix_operator;
GRANT SELECT, UPDATE, DELETE ON task_timers TO helix_operator;
GRANT INSERT, UPDATE, DELETE ON task_workers, task_controls TO helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON task_unique_keys, task_dependencies TO helix_app, helix_operator;
GRANT SELECT ON task_schedules TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON task_schedules TO helix_operator;
GRANT SELECT ON task_schedules, task_dependencies TO helix_readonly;
GRANT SELECT, UPDATE ON SEQUENCE task_sleeping_until, task_woken_at TO helix_app, helix_operator;
GRANT DELETE ON task_events, task_execution_history TO helix_operator;
GRANT SELECT (queue, lost_count, blocked_by, unique_key, spend_cap_usd) ON background_tasks TO helix_readonly;
