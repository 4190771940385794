-- Statements of retention. They run as the owner of the tables, outside the pools. Batches: each in a transaction of its own, oldest first
-- where an index allows it, so a killed run leaves nothing half done and the next goes on. `due_<table>` counts what `delete_<table>` takes.

-- name: list_tables
-- Every table of Helix, partitioned ones as one: rows (the server's estimate), bytes with indexes and TOAST, and how it grew over the
-- days the doctor sampled (30 at most). Index: size_samples_pkey. Locks: none.
WITH leaves AS (
    SELECT coalesce(p.relname, c.relname)::text AS table_name, greatest(c.reltuples, 0)::bigint AS row_count,
        pg_total_relation_size(c.oid) AS byte_count
    FROM pg_class AS c
    LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid AND c.relispartition
    LEFT JOIN pg_class AS p ON p.oid = i.inhparent
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
      AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
SELECT l.table_name, sum(l.row_count)::bigint AS row_count, sum(l.byte_count)::bigint AS byte_count, g.bytes_per_day
FROM leaves AS l
LEFT JOIN table_growth AS g ON g.table_name = l.table_name
GROUP BY l.table_name, g.bytes_per_day
ORDER BY l.table_name;

-- name: drop_month
-- Locks: ACCESS EXCLUSIVE on the table, until the transaction ends.
SELECT row_count, byte_count FROM helix_drop_partition(:name);

-- name: drop_usage_month
SELECT row_count, byte_count FROM helix_drop_usage_month(:month);

-- name: drop_error_month
SELECT row_count, byte_count FROM helix_drop_error_month(:month);

-- name: wal_position
SELECT pg_current_wal_lsn()::text AS position;

-- name: wal_since
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), :position::text::pg_lsn)::bigint AS bytes;

-- name: record_outcomes
-- What was done to each table, and how big it is now. Locks: new rows.
INSERT INTO retention_runs (run_id, table_name, rule, row_count, byte_count, partition_count, wal_bytes, duration_ms, table_bytes, error_message,
    completed_at)
SELECT :run_id, o.table_name, o.rule, o.row_count, o.byte_count, o.partition_count, o.wal_bytes, o.duration_ms, o.table_bytes, o.error_message,
    :completed_at
FROM unnest(:table_name::text[], :rule::text[], :row_count::bigint[], :byte_count::bigint[], :partition_count::integer[], :wal_bytes::bigint[],
    :duration_ms::bigint[], :table_bytes::bigint[], :error_message::text[])
    AS o (table_name, rule, row_count, byte_count, partition_count, wal_bytes, duration_ms, table_bytes, error_message);

-- name: list_runs
-- Index: retention_runs_completed_at_idx.
SELECT run_id, table_name, rule, row_count, byte_count, partition_count, wal_bytes, duration_ms, table_bytes, error_message, completed_at
FROM retention_runs
WHERE completed_at > :since AND (row_count > 0 OR partition_count > 0 OR error_message IS NOT NULL)
ORDER BY completed_at DESC, table_name LIMIT :max_count;

-- name: held_background_tasks
-- Tasks of a month that have not ended: their month stays. Index: idx_tasks_status. Locks: none.
SELECT count(*) AS found FROM background_tasks
WHERE id >= uuid_floor(:from_time::timestamptz) AND id < uuid_floor(:to_time::timestamptz) AND completed_at IS NULL;

-- name: held_clickhouse_analytics
-- Events of a month that no projection has taken yet. Index: idx_clickhouse_analytics_pending. Locks: none.
SELECT count(*) AS found FROM clickhouse_analytics
WHERE id >= uuid_floor(:from_time::timestamptz) AND id < uuid_floor(:to_time::timestamptz) AND NOT exported;

-- name: lock_month_background_tasks
-- What refers to a month of tasks goes first, with it: no task of it may end or begin meanwhile.
-- Index: webhook_deliveries_task_id_idx, task_resource_snapshots_task_id_sampled_at_idx. Locks: those rows.
WITH messages AS (
    DELETE FROM webhook_deliveries WHERE task_id >= uuid_floor(:from_time::timestamptz) AND task_id < uuid_floor(:to_time::timestamptz)),
samples AS (
    DELETE FROM task_resource_snapshots WHERE task_id >= uuid_floor(:from_time::timestamptz) AND task_id < uuid_floor(:to_time::timestamptz))
UPDATE project_state SET current_task_id = NULL
WHERE current_task_id >= uuid_floor(:from_time::timestamptz) AND current_task_id < uuid_floor(:to_time::timestamptz);

-- name: delete_background_tasks
-- Ended tasks of a month that stays because of others. Index: the month's. Locks: those rows.
WITH gone AS (
    DELETE FROM background_tasks WHERE id = ANY (ARRAY(
        SELECT id FROM background_tasks
        WHERE id >= uuid_floor(:from_time::timestamptz) AND id < uuid_floor(:to_time::timestamptz) AND completed_at < :cutoff
        LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_llm_usage_hourly
SELECT count(*) AS found, min(hour) AS oldest_at FROM llm_usage_hourly WHERE hour < date_trunc('day', :cutoff::timestamptz, 'UTC');

-- name: delete_llm_usage_hourly
-- All at once: the days' sums are made a last time and sealed in the same transaction.
SELECT helix_drop_usage_hours(((:cutoff::timestamptz) AT TIME ZONE 'UTC')::date) AS gone, :max_count::bigint AS max_count;

-- name: due_budget_periods
-- Periods of all time are never past.
SELECT count(*) AS found, min(p.period_start)::timestamptz AS oldest_at FROM budget_periods AS p JOIN budgets AS b ON b.id = p.budget_id
WHERE p.period_start < :cutoff::timestamptz AND b.period <> 'total'
  AND NOT EXISTS (SELECT FROM budget_reservations AS r WHERE r.budget_id = p.budget_id AND r.period_start = p.period_start);

-- name: delete_budget_periods
WITH gone AS (
    DELETE FROM budget_periods WHERE ctid = ANY (ARRAY(
        SELECT p.ctid FROM budget_periods AS p JOIN budgets AS b ON b.id = p.budget_id
        WHERE p.period_start < :cutoff::timestamptz AND b.period <> 'total'
          AND NOT EXISTS (SELECT FROM budget_reservations AS r WHERE r.budget_id = p.budget_id AND r.period_start = p.period_start)
        LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_call_refusals
SELECT count(*) AS found, min(hour) AS oldest_at FROM call_refusals WHERE hour < :cutoff;

-- name: delete_call_refusals
WITH gone AS (
    DELETE FROM call_refusals WHERE ctid = ANY (ARRAY(SELECT ctid FROM call_refusals WHERE hour < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_idempotency_keys
-- Index: idempotency_keys_created_at_idx.
SELECT count(*) AS found, min(created_at) AS oldest_at FROM idempotency_keys WHERE created_at < :cutoff;

-- name: delete_idempotency_keys
-- Index: idempotency_keys_created_at_idx. Locks: those rows.
WITH gone AS (
    DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_keys WHERE created_at < :cutoff LIMIT :max_count FOR UPDATE SKIP LOCKED)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_error_log_summary
-- Index: idx_error_summary_date.
SELECT count(*) AS found, min(date)::timestamptz AS oldest_at FROM error_log_summary WHERE date < ((:cutoff::timestamptz) AT TIME ZONE 'UTC')::date;

-- name: delete_error_log_summary
WITH gone AS (
    DELETE FROM error_log_summary WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM error_log_summary WHERE date < ((:cutoff::timestamptz) AT TIME ZONE 'UTC')::date LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_webhook_deliveries
SELECT count(*) AS found, min(created_at) AS oldest_at FROM webhook_deliveries WHERE created_at < :cutoff AND status <> 'pending';

-- name: delete_webhook_deliveries
WITH gone AS (
    DELETE FROM webhook_deliveries WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM webhook_deliveries WHERE created_at < :cutoff AND status <> 'pending' LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_conversation_snapshots
-- Never the newest of its kind. Index: that of the unique key.
SELECT count(*) AS found, min(s.created_at) AS oldest_at FROM conversation_snapshots AS s
WHERE s.created_at < :cutoff AND EXISTS (
    SELECT FROM conversation_snapshots AS n
    WHERE n.conversation_id = s.conversation_id AND n.snapshot_type = s.snapshot_type AND n.sequence_number > s.sequence_number);

-- name: delete_conversation_snapshots
WITH gone AS (
    DELETE FROM conversation_snapshots WHERE ctid = ANY (ARRAY(
        SELECT s.ctid FROM conversation_snapshots AS s
        WHERE s.created_at < :cutoff AND EXISTS (
            SELECT FROM conversation_snapshots AS n
            WHERE n.conversation_id = s.conversation_id AND n.snapshot_type = s.snapshot_type AND n.sequence_number > s.sequence_number)
        LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_conversation_replay_stats
SELECT count(*) AS found, min(created_at) AS oldest_at FROM conversation_replay_stats WHERE created_at < :cutoff;

-- name: delete_conversation_replay_stats
WITH gone AS (
    DELETE FROM conversation_replay_stats WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM conversation_replay_stats WHERE created_at < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_debates
SELECT count(*) AS found, min(coalesce(completed_at, updated_at)) AS oldest_at FROM debates
WHERE status IN ('completed', 'failed', 'cancelled') AND coalesce(completed_at, updated_at) < :cutoff;

-- name: delete_debates
-- Rounds, arguments, votes, events and code versions go with them.
WITH gone AS (
    DELETE FROM debates WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM debates
        WHERE status IN ('completed', 'failed', 'cancelled') AND coalesce(completed_at, updated_at) < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_user_sessions
-- Index: that of expires_at.
SELECT count(*) AS found, min(expires_at) AS oldest_at FROM user_sessions WHERE expires_at < :cutoff;

-- name: delete_user_sessions
-- What was called in them stays and lets go of them.
WITH gone AS (
    DELETE FROM user_sessions WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM user_sessions WHERE expires_at < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_models_refresh_history
SELECT count(*) AS found, min(created_at) AS oldest_at FROM models_refresh_history WHERE created_at < :cutoff;

-- name: delete_models_refresh_history
WITH gone AS (
    DELETE FROM models_refresh_history WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM models_refresh_history WHERE created_at < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_protocol_cache
SELECT count(*) AS found, min(expires_at) AS oldest_at FROM protocol_cache WHERE expires_at < :cutoff;

-- name: delete_protocol_cache
WITH gone AS (
    DELETE FROM protocol_cache WHERE ctid = ANY (ARRAY(SELECT ctid FROM protocol_cache WHERE expires_at < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_backup_runs
-- Never the last success of its kind: the doctor counts from it.
SELECT count(*) AS found, min(r.completed_at) AS oldest_at FROM backup_runs AS r
WHERE r.completed_at < :cutoff AND EXISTS (
    SELECT FROM backup_runs AS n WHERE n.action = r.action AND n.status = 'succeeded' AND n.completed_at > r.completed_at);

-- name: delete_backup_runs
WITH gone AS (
    DELETE FROM backup_runs WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM backup_runs AS r
        WHERE r.completed_at < :cutoff AND EXISTS (
            SELECT FROM backup_runs AS n WHERE n.action = r.action AND n.status = 'succeeded' AND n.completed_at > r.completed_at)
        LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: due_retention_runs
-- Index: retention_runs_completed_at_idx.
SELECT count(*) AS found, min(completed_at) AS oldest_at FROM retention_runs WHERE completed_at < :cutoff;

-- name: delete_retention_runs
WITH gone AS (
    DELETE FROM retention_runs WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM retention_runs WHERE completed_at < :cutoff LIMIT :max_count)) RETURNING 1)
SELECT count(*) AS gone FROM gone;

-- name: rollup_from
-- Where the sums of usage have come to: the newest hour there is, or the first usage, and three hours more for what came late.
SELECT coalesce((SELECT max(h.hour) FROM llm_usage_hourly AS h),
                (SELECT uuid_time(u.id) FROM llm_token_usage AS u ORDER BY u.id LIMIT 1)) - interval '3 hours' AS from_time;

-- name: roll_up
-- Locks: one at a time, by an advisory lock; the rows of the hours, days and months.
SELECT helix_refresh_usage_rollups(:from_time, :to_time) AS written;

-- name: due_views
-- Materialized views older than they should become, or, with everything, all. Locks: none.
SELECT s.view_name::text AS name FROM matview_refresh_state AS s
WHERE :everything::boolean OR s.refreshed_at IS NULL OR s.refreshed_at + s.refresh_every <= now()
ORDER BY s.refresh_every, s.view_name;

-- name: refresh_view
-- CONCURRENTLY: readers go on. Locks: EXCLUSIVE on the view.
SELECT v.refreshed, v.error_message FROM refresh_materialized_views(ARRAY[:name::text]) AS v;

-- name: vacuum
-- Every table: dead rows, the visibility map, and statistics, those of partitioned tables too, which autovacuum never gathers.
VACUUM (ANALYZE, SKIP_LOCKED);

-- name: list_bloated_indexes
-- B-tree indexes by how much of them is estimated to be empty: their size beside what their rows need, by the server's own statistics (rows,
-- average widths; 16 bytes of an entry's and pointer's overhead; pages filled to 90 %). Entries that share a key are stored once, so the
-- estimate errs to the small side. Locks: none.
SELECT x.table_name, x.index_name, x.byte_count, greatest(0, 1 - x.needed_bytes / x.byte_count)::double precision AS bloat_ratio,
    format('REINDEX INDEX CONCURRENTLY %I.%I', 'public', x.index_name) AS reindex_statement
FROM (
    SELECT t.relname::text AS table_name, i.relname::text AS index_name, pg_relation_size(i.oid) AS byte_count,
        current_setting('block_size')::numeric + ceil(greatest(i.reltuples, 0)::numeric * (16 + ((coalesce(w.width, 8) + 7) / 8) * 8)
            / (current_setting('block_size')::numeric * 0.9)) * current_setting('block_size')::numeric AS needed_bytes
    FROM pg_index AS k JOIN pg_class AS i ON i.oid = k.indexrelid JOIN pg_class AS t ON t.oid = k.indrelid
    JOIN pg_am AS m ON m.oid = i.relam
    CROSS JOIN LATERAL (
        SELECT sum(coalesce(s.avg_width, 16)) AS width FROM unnest(k.indkey) AS c (number)
        LEFT JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = c.number
        LEFT JOIN pg_stats AS s ON s.schemaname = 'public' AND s.tablename = t.relname AND s.attname = a.attname AND NOT s.inherited) AS w
    WHERE i.relnamespace = 'public'::regnamespace AND i.relkind = 'i' AND m.amname = 'btree' AND k.indisvalid AND i.reltuples >= 0
      AND pg_relation_size(i.oid) >= :bytes_min::bigint AND pg_relation_size(i.oid) > 0) AS x
ORDER BY 4 DESC, x.byte_count DESC;

-- name: list_left_indexes
-- What a killed REINDEX CONCURRENTLY left: invalid, named as it names them, and nobody builds them now. Locks: none.
SELECT t.relname::text AS table_name, i.relname::text AS index_name, format('DROP INDEX CONCURRENTLY IF EXISTS %I.%I', 'public', i.relname) AS drop_statement
FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid
WHERE NOT x.indisvalid AND i.relkind = 'i' AND i.relnamespace = 'public'::regnamespace AND i.relname ~ '_cc(new|old)[0-9]*$'
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = x.indrelid)
ORDER BY i.relname;

-- name: index_size
SELECT pg_relation_size(to_regclass(format('public.%I', :name::text))) AS bytes;
