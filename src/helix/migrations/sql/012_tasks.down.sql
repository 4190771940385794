-- 012_tasks.down.sql: takes back what 012_tasks.up.sql made, and nothing else.

-- Policies as they were before.
ALTER POLICY project_state_tenant ON project_state USING (EXISTS (SELECT FROM projects AS parent WHERE parent.id = project_state.project_id))
    WITH CHECK (EXISTS (SELECT FROM projects AS parent WHERE parent.id = project_state.project_id));

-- What points to a row that goes points to nothing.
UPDATE project_state SET current_task_id = NULL WHERE current_task_id IS NOT NULL;

-- What ties other tables to these.
ALTER TABLE project_state DROP CONSTRAINT project_state_current_task_id_fkey;

-- Functions on these tables.
DROP FUNCTION get_stale_tasks;
DROP FUNCTION dequeue_background_task;
DROP FUNCTION task_events_after;
DROP FUNCTION helix_tasks_trim;
DROP FUNCTION helix_tasks_reclaim;
DROP FUNCTION helix_tasks_lost;
DROP FUNCTION helix_tasks_ripen;
DROP FUNCTION helix_tasks_allowance;
DROP FUNCTION helix_tasks_claim;
DROP FUNCTION helix_tasks_pass;
DROP FUNCTION helix_tasks_unblock;
DROP FUNCTION helix_tasks_offer;

-- Views.
DROP VIEW task_queue;

-- What stands in tables that stay.
DELETE FROM rls_exempt_tables WHERE table_name IN (
    'task_transitions', 'task_lanes', 'task_stream', 'task_claims', 'task_timers', 'task_workers', 'task_controls');

-- Tables, with their indexes, triggers, policies and grants.
DROP SEQUENCE task_woken_at;
DROP SEQUENCE task_sleeping_until;
DROP TABLE task_schedules;
DROP TABLE task_dependencies;
DROP TABLE task_unique_keys;
DROP TABLE task_controls;
DROP TABLE task_workers;
DROP TABLE task_timers;
DROP TABLE task_claims;
DROP TABLE task_stream;
DROP TABLE task_lanes;
DROP TABLE task_transitions;
DROP TABLE webhook_deliveries;
DROP TABLE task_resource_snapshots;
DROP TABLE dead_letter_queue;
DROP TABLE task_execution_history;
DROP TABLE task_events;
DROP TABLE background_tasks;

-- Functions the tables used.
DROP FUNCTION helix_task_workers_deleted;
DROP FUNCTION helix_tasks_errors;
DROP FUNCTION helix_tasks_deleted;
DROP FUNCTION helix_tasks_updated;
DROP FUNCTION helix_tasks_inserted;

-- Types.
DROP TYPE task_priority;
DROP TYPE task_status;
