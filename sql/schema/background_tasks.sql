-- background_tasks.sql: work done later: the tasks, their events and attempts, and those that failed for good.
-- Domain: tasks. The queue enqueues inside the caller's transaction and claims under a lease with a fencing token.

-- Ordered as a task may pass through it; 'queued' means picked up by a worker that has not begun.
CREATE TYPE task_status AS ENUM
    ('pending', 'queued', 'running', 'paused', 'completed', 'failed', 'stuck', 'cancelled', 'dead_letter');

COMMENT ON TYPE task_status IS 'State of a task: pending, queued (picked up by a worker), running, paused, completed, failed, stuck (its worker lives but it makes no progress), cancelled, dead_letter.';

-- Sorts most urgent first: ORDER BY priority takes critical before background.
CREATE TYPE task_priority AS ENUM ('critical', 'high', 'normal', 'low', 'background');

COMMENT ON TYPE task_priority IS 'Urgency of a task; sorts ascending from critical to background, so the smallest goes first.';

-- ---------------------------------------------------------------------------------------------------------------------
-- background_tasks: one row per task. Written by whoever enqueues it and by the worker that holds its lease. Partitioned by
-- UTC month on the UUIDv7 id; finished months are dropped after 90 days. Erased with its user: the payload is theirs.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE background_tasks (
    id                  uuid          NOT NULL DEFAULT uuidv7(),
    queue               varchar(100)  NOT NULL DEFAULT 'default',
    task_type           varchar(100)  NOT NULL,
    task_name           varchar(255),
    user_id             uuid,
    session_id          uuid,
    project_id          uuid,
    correlation_id      varchar(255),
    parent_task_id      uuid,
    payload             jsonb         NOT NULL DEFAULT '{}',
    config              jsonb         NOT NULL DEFAULT '{}',
    tags                text[]        NOT NULL DEFAULT '{}',
    status              task_status   NOT NULL DEFAULT 'pending',
    priority            task_priority NOT NULL DEFAULT 'normal',
    progress            numeric(5,2)  NOT NULL DEFAULT 0,
    progress_message    text,
    checkpoint          jsonb,
    retry_count         integer       NOT NULL DEFAULT 0,
    max_retries         integer       NOT NULL DEFAULT 3,
    retry_delay_seconds integer       NOT NULL DEFAULT 60,
    error_message       text,
    error_history       jsonb         NOT NULL DEFAULT '[]',
    result              jsonb,
    worker_id           varchar(255),
    attempt             integer       NOT NULL DEFAULT 0,
    lease_until         timestamptz,
    fencing_token       bigint        NOT NULL DEFAULT 0,
    lost_count          smallint      NOT NULL DEFAULT 0,
    blocked_by          integer       NOT NULL DEFAULT 0,
    unique_key          varchar(255),
    spend_cap_usd       numeric(20,12),
    last_heartbeat      timestamptz,
    deadline            timestamptz,
    required_cpu_cores  numeric(6,2)  NOT NULL DEFAULT 0,
    required_memory_mb  integer       NOT NULL DEFAULT 0,
    notification_config jsonb         NOT NULL DEFAULT '{}',
    scheduled_at        timestamptz   NOT NULL DEFAULT now(),
    started_at          timestamptz,
    completed_at        timestamptz,
    deleted_at          timestamptz,
    created_at          timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT background_tasks_pkey PRIMARY KEY (id),
    CONSTRAINT background_tasks_progress_check CHECK (progress BETWEEN 0 AND 100),
    CONSTRAINT background_tasks_retry_count_check CHECK (retry_count >= 0),
    CONSTRAINT background_tasks_max_retries_check CHECK (max_retries >= 0),
    CONSTRAINT background_tasks_retry_delay_seconds_check CHECK (retry_delay_seconds >= 0),
    CONSTRAINT background_tasks_attempt_check CHECK (attempt >= 0),
    CONSTRAINT background_tasks_fencing_token_check CHECK (fencing_token >= 0),
    CONSTRAINT background_tasks_lost_count_check CHECK (lost_count >= 0),
    CONSTRAINT background_tasks_blocked_by_check CHECK (blocked_by >= 0),
    CONSTRAINT background_tasks_spend_cap_usd_check CHECK (spend_cap_usd >= 0),
    CONSTRAINT background_tasks_held_check CHECK ((status IN ('queued', 'running', 'stuck')) = (worker_id IS NOT NULL)),
    CONSTRAINT background_tasks_ended_check CHECK ((status IN ('completed', 'failed', 'cancelled', 'dead_letter')) = (completed_at IS NOT NULL)),
    CONSTRAINT background_tasks_required_check CHECK (required_cpu_cores >= 0 AND required_memory_mb >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE background_tasks_default PARTITION OF background_tasks DEFAULT;

COMMENT ON TABLE background_tasks IS 'The task queue: one row per task, from enqueueing to its end.';
COMMENT ON COLUMN background_tasks.task_type IS 'Which handler runs it.';
COMMENT ON COLUMN background_tasks.task_name IS 'Name for people; NULL: the type says it.';
COMMENT ON COLUMN background_tasks.user_id IS 'Tenant; NULL for the work of Helix itself.';
COMMENT ON COLUMN background_tasks.correlation_id IS 'Ties together what belongs to one undertaking.';
COMMENT ON COLUMN background_tasks.parent_task_id IS 'Joins background_tasks; no FK because the parent''s month may be dropped sooner.';
COMMENT ON COLUMN background_tasks.config IS 'How to run it: timeout, backoff, queue.';
COMMENT ON COLUMN background_tasks.progress IS 'Percent done, 0 to 100.';
COMMENT ON COLUMN background_tasks.checkpoint IS 'Where the next attempt goes on.';
COMMENT ON COLUMN background_tasks.retry_count IS 'Failed attempts so far.';
COMMENT ON COLUMN background_tasks.max_retries IS 'Attempts after the first, before the task goes to dead_letter_queue.';
COMMENT ON COLUMN background_tasks.retry_delay_seconds IS 'Base of the wait before the next attempt.';
COMMENT ON COLUMN background_tasks.error_message IS 'Error of the last failed attempt.';
COMMENT ON COLUMN background_tasks.error_history IS 'Errors of all attempts, oldest first.';
COMMENT ON COLUMN background_tasks.attempt IS 'Attempts begun; 0 before the first.';
COMMENT ON COLUMN background_tasks.queue IS 'Which workers take it: they are started for queues.';
COMMENT ON COLUMN background_tasks.worker_id IS 'Who holds it while queued, running or stuck: task_workers.id, or the name a worker of dequeue_background_task() gave; NULL otherwise.';
COMMENT ON COLUMN background_tasks.lease_until IS 'Until when a worker of dequeue_background_task() holds the task. NULL for Helix''s own workers: the lease of task_workers holds for all their tasks.';
COMMENT ON COLUMN background_tasks.lost_count IS 'Attempts that ended with the death of their worker; the third sends the task to dead_letter_queue.';
COMMENT ON COLUMN background_tasks.blocked_by IS 'Tasks it still waits for (task_dependencies).';
COMMENT ON COLUMN background_tasks.unique_key IS 'Key it holds in task_unique_keys; NULL: none.';
COMMENT ON COLUMN background_tasks.spend_cap_usd IS 'Paused when the model calls it caused have cost so much; NULL: no cap.';
COMMENT ON COLUMN background_tasks.fencing_token IS 'Grows with every claim; a worker may write only while it still holds the newest.';
COMMENT ON COLUMN background_tasks.last_heartbeat IS 'Last sign of life of the worker on this task.';
COMMENT ON COLUMN background_tasks.deadline IS 'After this moment the task is not begun any more; NULL: never too late.';
COMMENT ON COLUMN background_tasks.required_cpu_cores IS 'Cores the worker must have to spare.';
COMMENT ON COLUMN background_tasks.required_memory_mb IS 'Memory in MiB the worker must have to spare.';
COMMENT ON COLUMN background_tasks.notification_config IS 'Whom to tell: webhooks and for which events.';
COMMENT ON COLUMN background_tasks.scheduled_at IS 'Not to be begun before this moment.';
COMMENT ON COLUMN background_tasks.deleted_at IS 'When the task was put away; it no longer shows and is not run.';

-- What waits, runs, failed or is stuck? (completed ones are the bulk and are found by time)
CREATE INDEX idx_tasks_status ON background_tasks (status) WHERE status <> 'completed';
-- How many tasks of each urgency wait?
CREATE INDEX idx_tasks_priority ON background_tasks (priority) WHERE status IN ('pending', 'queued');
-- Which task is next: most urgent first, then oldest? (critical sorts first, so ascending)
CREATE INDEX idx_tasks_pending ON background_tasks (priority, created_at) WHERE status = 'pending';
-- Which tasks become due when? (idx_tasks_scheduled of another seed has the same column)
CREATE INDEX idx_tasks_scheduled_at ON background_tasks (scheduled_at) WHERE status = 'pending';
-- Which tasks does this worker hold without running them? Running ones are left out as in idx_tasks_type: those of one worker are few
-- and found by idx_tasks_status, and an entry for each attempt cost 3 us of a claim's 23 and an ending's 23 (ADR 0048).
CREATE INDEX idx_tasks_worker_id ON background_tasks (worker_id) WHERE worker_id IS NOT NULL AND status IN ('queued', 'stuck');
-- Which leases of SQL-only workers have run out?
CREATE INDEX background_tasks_lease_until_idx ON background_tasks (lease_until) WHERE lease_until IS NOT NULL;
-- Which tasks of this type wait, or did not end well? Left out while they run and once they are completed:
-- every change of status writes a row into each index that holds it.
CREATE INDEX idx_tasks_type ON background_tasks (task_type) WHERE status NOT IN ('queued', 'running', 'completed');
-- What was enqueued between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_tasks_created ON background_tasks USING brin (created_at) WITH (autosummarize = on);
-- Which ended tasks were about this (payload @> '{"document_id": ...}' AND completed_at IS NOT NULL)? Those that have not ended
-- are few and found by idx_tasks_status.
CREATE INDEX idx_tasks_payload ON background_tasks USING gin (payload jsonb_path_ops) WHERE completed_at IS NOT NULL;
-- Which tasks are this tenant's?
CREATE INDEX background_tasks_user_id_idx ON background_tasks (user_id) WHERE user_id IS NOT NULL;
-- Which tasks came of this session?
CREATE INDEX background_tasks_session_id_idx ON background_tasks (session_id) WHERE session_id IS NOT NULL;
-- Which tasks belong to this project?
CREATE INDEX background_tasks_project_id_idx ON background_tasks (project_id) WHERE project_id IS NOT NULL;
-- Which tasks are parts of this one?
CREATE INDEX background_tasks_parent_task_id_idx ON background_tasks (parent_task_id) WHERE parent_task_id IS NOT NULL;
-- Which tasks belong to this undertaking?
CREATE INDEX background_tasks_correlation_id_idx ON background_tasks (correlation_id) WHERE correlation_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- task_events: one row per thing that happened to a task, streamed to whoever watches it. Written by the queue and by handlers
-- (progress); inserted once. Partitioned by UTC month on the UUIDv7 id; dropped with the tasks of the month.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_events (
    id         uuid        NOT NULL DEFAULT uuidv7(),
    task_id    uuid        NOT NULL,
    user_id    uuid,
    event_type varchar(50) NOT NULL,
    data       jsonb       NOT NULL DEFAULT '{}',
    xact       xid8        NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT task_events_pkey PRIMARY KEY (id),
    CONSTRAINT task_events_event_type_check CHECK (event_type IN (
        'task.created', 'task.queued', 'task.started', 'task.progress', 'task.paused', 'task.resumed', 'task.completed',
        'task.failed', 'task.retried', 'task.released', 'task.stuck', 'task.cancelled', 'task.dead_letter'))
) PARTITION BY RANGE (id);

CREATE TABLE task_events_default PARTITION OF task_events DEFAULT;

COMMENT ON TABLE task_events IS 'What happened to each task, in order of id.';
COMMENT ON COLUMN task_events.task_id IS 'Joins background_tasks. No FK: it would be checked by a query for every event (ADR 0013); a trigger deletes the events of a deleted task.';
COMMENT ON COLUMN task_events.xact IS 'Transaction that wrote it: a reader that keeps a snapshot misses no late commit (task_events_after).';
COMMENT ON COLUMN task_events.user_id IS 'Tenant of the task, copied; no FK, the row goes with its task.';
COMMENT ON COLUMN task_events.data IS 'What the event tells: progress, error, result.';

-- What happened to this task?
CREATE INDEX idx_task_events_task ON task_events (task_id);
-- Where did this kind of event happen? (the common kinds are the bulk and are found by time)
CREATE INDEX idx_task_events_type ON task_events (event_type)
    WHERE event_type NOT IN ('task.created', 'task.queued', 'task.started', 'task.progress', 'task.completed');
-- What was committed since my snapshot?
CREATE INDEX task_events_xact_idx ON task_events (xact);
-- What happened lately? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_task_events_created ON task_events USING brin (created_at) WITH (autosummarize = on);
-- What happened to this tenant's tasks?
CREATE INDEX task_events_user_id_idx ON task_events (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- task_execution_history: one row per attempt at a task, written when the attempt ends, however it ended; inserted once.
-- Partitioned by UTC month on the UUIDv7 id; dropped with the tasks of the month.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_execution_history (
    id            uuid         NOT NULL DEFAULT uuidv7(),
    task_id       uuid         NOT NULL,
    user_id       uuid,
    attempt       integer      NOT NULL DEFAULT 1,
    worker_id     varchar(255),
    fencing_token bigint       NOT NULL DEFAULT 0,
    event_type    varchar(50)  NOT NULL,
    event_data    jsonb        NOT NULL DEFAULT '{}',
    started_at    timestamptz,
    completed_at  timestamptz,
    duration_ms   bigint,
    error_message text,
    error_stack   text,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT task_execution_history_pkey PRIMARY KEY (id),
    CONSTRAINT task_execution_history_event_type_check CHECK (event_type IN
        ('completed', 'failed', 'cancelled', 'paused', 'stuck', 'lease_lost', 'released', 'dead_letter')),
    CONSTRAINT task_execution_history_attempt_check CHECK (attempt >= 1),
    CONSTRAINT task_execution_history_duration_ms_check CHECK (duration_ms >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE task_execution_history_default PARTITION OF task_execution_history DEFAULT;

COMMENT ON TABLE task_execution_history IS 'One row per attempt at a task and how it ended.';
COMMENT ON COLUMN task_execution_history.user_id IS 'Tenant of the task, copied; no FK, the row goes with its task.';
COMMENT ON COLUMN task_execution_history.task_id IS 'Joins background_tasks. No FK, as in task_events.';
COMMENT ON COLUMN task_execution_history.attempt IS 'Which attempt, from 1.';
COMMENT ON COLUMN task_execution_history.event_type IS 'How the attempt ended: completed, failed, cancelled, paused, stuck, lease_lost (its worker died), released (handed back by a stopping worker), dead_letter.';
COMMENT ON COLUMN task_execution_history.event_data IS 'Result or details.';

-- Which attempts were made at this task?
CREATE INDEX task_execution_history_task_id_idx ON task_execution_history (task_id);
-- Which attempts were made lately? Rows lie in time order, so block ranges suffice.
CREATE INDEX task_execution_history_created_at_idx ON task_execution_history USING brin (created_at) WITH (autosummarize = on);
-- Which attempts were made at this tenant's tasks?
CREATE INDEX task_execution_history_user_id_idx ON task_execution_history (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- dead_letter_queue: one row per task that failed for good, as a copy that outlives the task. Written by the queue after the
-- last attempt; redriven or put away by the operator, and kept until then. Erased with its user: the payload is theirs.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE dead_letter_queue (
    id               uuid          NOT NULL DEFAULT gen_random_uuid(),
    original_task_id uuid,
    task_id          uuid          GENERATED ALWAYS AS (original_task_id) STORED,
    user_id          uuid,
    project_id       uuid,
    task_type        varchar(100)  NOT NULL,
    priority         task_priority NOT NULL DEFAULT 'normal',
    payload          jsonb         NOT NULL,
    failure_reason   text,
    error_message    text          NOT NULL,
    error_stack      text,
    retry_history    jsonb         NOT NULL DEFAULT '[]',
    moved_at         timestamptz   NOT NULL DEFAULT now(),
    redriven_at      timestamptz,
    redriven_task_id uuid,
    CONSTRAINT dead_letter_queue_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letter_queue_original_task_id_key UNIQUE (original_task_id),
    CONSTRAINT dead_letter_queue_redriven_check CHECK ((redriven_at IS NULL) = (redriven_task_id IS NULL))
);

COMMENT ON TABLE dead_letter_queue IS 'Tasks that failed for good, with everything needed to look into them and run them again.';
COMMENT ON COLUMN dead_letter_queue.original_task_id IS 'Joins background_tasks; no FK because tasks are dropped sooner. Unique: a task dies once.';
COMMENT ON COLUMN dead_letter_queue.task_id IS 'Derived: original_task_id. The name one seed uses.';
COMMENT ON COLUMN dead_letter_queue.payload IS 'Copy of the task''s payload.';
COMMENT ON COLUMN dead_letter_queue.failure_reason IS 'Why it was given up, e.g. retries exhausted, deadline passed, poison.';
COMMENT ON COLUMN dead_letter_queue.retry_history IS 'Every attempt with its error, oldest first.';
COMMENT ON COLUMN dead_letter_queue.redriven_at IS 'When it was enqueued again; set once, so pressing twice runs once.';
COMMENT ON COLUMN dead_letter_queue.redriven_task_id IS 'The new task.';

-- What died lately?
CREATE INDEX dead_letter_queue_moved_at_idx ON dead_letter_queue (moved_at);
-- What of this type died?
CREATE INDEX dead_letter_queue_task_type_idx ON dead_letter_queue (task_type);
-- What of this tenant died?
CREATE INDEX dead_letter_queue_user_id_idx ON dead_letter_queue (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- task_resource_snapshots: one row per sample of what a running task uses. Written by the worker every so often for long
-- tasks; goes with its task. Tenant: through the task.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE task_resource_snapshots (
    id                uuid         NOT NULL DEFAULT uuidv7(),
    task_id           uuid         NOT NULL,
    worker_id         varchar(255),
    cpu_percent       numeric(7,2),
    memory_rss_bytes  bigint,
    memory_percent    numeric(5,2),
    io_read_bytes     bigint,
    io_write_bytes    bigint,
    net_bytes_sent    bigint,
    net_bytes_recv    bigint,
    open_fds          integer,
    thread_count      integer,
    sampled_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT task_resource_snapshots_pkey PRIMARY KEY (id),
    CONSTRAINT task_resource_snapshots_task_id_fkey FOREIGN KEY (task_id) REFERENCES background_tasks (id) ON DELETE CASCADE,
    CONSTRAINT task_resource_snapshots_values_check CHECK (cpu_percent >= 0 AND memory_rss_bytes >= 0
        AND memory_percent BETWEEN 0 AND 100 AND io_read_bytes >= 0 AND io_write_bytes >= 0 AND net_bytes_sent >= 0
        AND net_bytes_recv >= 0 AND open_fds >= 0 AND thread_count >= 0)
);

COMMENT ON TABLE task_resource_snapshots IS 'Samples of the processor time, memory and traffic of running tasks.';
COMMENT ON COLUMN task_resource_snapshots.cpu_percent IS 'Percent of one core; above 100 with several.';
COMMENT ON COLUMN task_resource_snapshots.io_read_bytes IS 'Since the task began, as are the other totals.';

-- What did this task use over time?
CREATE INDEX task_resource_snapshots_task_id_sampled_at_idx ON task_resource_snapshots (task_id, sampled_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- webhook_deliveries: one row per message to a webhook. Written with the event it tells of, then by the deliverer. Goes with
-- its task; without one it is kept 30 days.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE webhook_deliveries (
    id              uuid          NOT NULL DEFAULT uuidv7(),
    task_id         uuid,
    user_id         uuid,
    url             varchar(2048) NOT NULL,
    event_type      varchar(100)  NOT NULL,
    payload         jsonb         NOT NULL DEFAULT '{}',
    status          varchar(50)   NOT NULL DEFAULT 'pending',
    attempts        integer       NOT NULL DEFAULT 0,
    response_code   integer,
    last_error      text,
    next_attempt_at timestamptz   NOT NULL DEFAULT now(),
    delivered_at    timestamptz,
    created_at      timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id),
    CONSTRAINT webhook_deliveries_task_id_fkey FOREIGN KEY (task_id) REFERENCES background_tasks (id) ON DELETE CASCADE,
    CONSTRAINT webhook_deliveries_status_check CHECK (status IN ('pending', 'delivered', 'failed')),
    CONSTRAINT webhook_deliveries_attempts_check CHECK (attempts >= 0),
    CONSTRAINT webhook_deliveries_delivered_check CHECK ((status = 'delivered') = (delivered_at IS NOT NULL))
);

COMMENT ON TABLE webhook_deliveries IS 'Messages to webhooks and whether they arrived.';
COMMENT ON COLUMN webhook_deliveries.user_id IS 'Tenant whose webhook it is.';
COMMENT ON COLUMN webhook_deliveries.response_code IS 'HTTP status of the last try; NULL when there was no answer.';
COMMENT ON COLUMN webhook_deliveries.next_attempt_at IS 'When to try next, while pending.';

-- Which messages are due?
CREATE INDEX webhook_deliveries_next_attempt_at_idx ON webhook_deliveries (next_attempt_at) WHERE status = 'pending';
-- Whom was this task told to?
CREATE INDEX webhook_deliveries_task_id_idx ON webhook_deliveries (task_id);
-- Which messages are this tenant's?
CREATE INDEX webhook_deliveries_user_id_idx ON webhook_deliveries (user_id) WHERE user_id IS NOT NULL;
