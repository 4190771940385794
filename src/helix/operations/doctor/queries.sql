-- Statements of the doctor. All but the samples only read; each can be run at psql as it stands, but for its :parameters.
-- Index: the catalogue's and the statistics' own unless said otherwise. Locks: none unless said otherwise.

-- name: read_versions
SELECT current_setting('server_version') AS server, current_setting('server_version_num')::integer AS server_num,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector;

-- name: read_durability
-- Settings without which an acknowledged commit can be lost, and pages whose checksum was wrong.
SELECT array(SELECT s.name FROM pg_settings AS s
             WHERE s.name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND s.setting = 'off' ORDER BY s.name) AS unsafe,
       current_setting('data_checksums') AS data_checksums,
       (SELECT coalesce(sum(d.checksum_failures), 0)::bigint FROM pg_stat_database AS d) AS checksum_failures;

-- name: list_schema_faults
-- What no revision leaves behind: invalid indexes, constraints never validated, triggers switched off, policies not enforced.
SELECT 'invalid index' AS kind, i.relname AS name
FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE NOT x.indisvalid AND i.relkind = 'i' AND i.relnamespace = 'public'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = x.indrelid)
UNION ALL
SELECT 'constraint not validated', k.conrelid::regclass || '.' || k.conname
FROM pg_constraint AS k WHERE NOT k.convalidated AND k.connamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger switched off', t.tgrelid::regclass || '.' || t.tgname
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE t.tgenabled = 'D' AND c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal
UNION ALL
SELECT 'row-level security not forced', c.relname
FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relrowsecurity <> c.relforcerowsecurity
ORDER BY 1, 2;

-- name: list_present_names
-- Which of these relations are there?
SELECT c.relname AS name FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (:names::text[]);

-- name: list_tenancy_gaps
SELECT to_jsonb(g) AS gap FROM rls_gaps AS g;

-- name: read_connections
-- max_connections is the whole server's: so are these. Seats are connections by whose name a process tells how many it may open.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS allowed,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL) AS used,
       (SELECT jsonb_agg(s.name ORDER BY s.name) FROM (SELECT application_name AS name FROM pg_stat_activity
        WHERE application_name LIKE 'helix seat %') AS s) AS seats;

-- name: count_connections
-- By what they call themselves, the most first.
SELECT application_name, coalesce(state, 'none') AS state, count(*) AS connections
FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 10;

-- name: find_statements
-- In which schema pg_stat_statements is, if it is in this database, and whether the server counts at all; NULL where the login may not know.
SELECT (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_stat_statements') AS schema,
       CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE')
            THEN current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%' END AS loaded;

-- name: slow_statements
-- The ten slowest of one database by their mean (S140); pg_stat_statements must be on the search_path.
SELECT s.queryid, s.calls, round(s.mean_exec_time::numeric, 2)::double precision AS mean_ms, round(s.max_exec_time::numeric, 2)::double precision AS max_ms,
       round(s.total_exec_time::numeric / 1000, 1)::double precision AS total_s, s.rows, left(regexp_replace(s.query, '\s+', ' ', 'g'), 160) AS query
FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid
WHERE d.datname = :database AND s.calls >= 5
ORDER BY s.mean_exec_time DESC LIMIT 10;

-- name: unused_indexes
-- Indexes that nothing has used since statistics were reset, months added up (S140: the view's columns are relname and indexrelname).
SELECT coalesce(t.relname, s.relname) AS table_name, coalesce(i.relname, s.indexrelname) AS index_name,
       sum(pg_relation_size(s.indexrelid))::bigint AS index_bytes, count(*) AS partitions
FROM pg_stat_user_indexes AS s
JOIN pg_index AS x ON x.indexrelid = s.indexrelid
LEFT JOIN pg_class AS i ON i.oid = pg_partition_root(s.indexrelid)
LEFT JOIN pg_class AS t ON t.oid = pg_partition_root(s.relid)
WHERE s.schemaname = 'public' AND NOT x.indisunique
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = s.relid AND d.deptype = 'e')
GROUP BY 1, 2 HAVING sum(s.idx_scan) = 0 ORDER BY index_bytes DESC, 1, 2;

-- name: statistics_since
-- Since when the statistics count; NULL when never reset.
SELECT coalesce(d.stats_reset, pg_postmaster_start_time()) AS since FROM pg_stat_database AS d WHERE d.datname = current_database();

-- name: duplicate_indexes
SELECT table_name, index_name, covered_by, exact, index_bytes FROM duplicate_indexes;

-- name: largest_tables
SELECT s.table_name, s.partitions, s.estimated_rows, s.heap_bytes, s.index_bytes, s.total_bytes, g.bytes_per_day
FROM table_sizes AS s LEFT JOIN table_growth AS g ON g.table_name = s.table_name ORDER BY s.total_bytes DESC LIMIT 10;

-- name: read_size
-- The database, and how it grew over the days that were sampled (30 at most).
SELECT pg_database_size(current_database()) AS bytes, then_.size_bytes AS bytes_then, current_date - then_.sampled_on AS days
FROM (VALUES (1)) AS one (n)
LEFT JOIN LATERAL (SELECT size_bytes, sampled_on FROM size_samples
                   WHERE kind = 'database' AND name = current_database() AND sampled_on >= current_date - 30 AND sampled_on < current_date
                   ORDER BY sampled_on LIMIT 1) AS then_ ON true;

-- name: volume_growth
-- Bytes a day that a volume's use grew by over the days that were sampled (30 at most); no row before there are two.
SELECT (last_.size_bytes - first_.size_bytes)::double precision / (last_.sampled_on - first_.sampled_on) AS bytes_per_day
FROM (SELECT size_bytes, sampled_on FROM size_samples WHERE kind = 'volume' AND name = :name ORDER BY sampled_on DESC LIMIT 1) AS last_,
     LATERAL (SELECT size_bytes, sampled_on FROM size_samples
              WHERE kind = 'volume' AND name = :name AND sampled_on >= last_.sampled_on - 30 AND sampled_on < last_.sampled_on
              ORDER BY sampled_on LIMIT 1) AS first_;

-- name: bloated_tables
SELECT table_name, heap_bytes, live_rows, dead_rows, wasted_bytes FROM table_bloat
WHERE wasted_bytes >= :least_bytes AND wasted_bytes >= heap_bytes * :least_share::double precision ORDER BY wasted_bytes DESC LIMIT 10;

-- name: bloat_total
SELECT coalesce(sum(wasted_bytes), 0)::bigint AS wasted_bytes, coalesce(sum(heap_bytes), 0)::bigint AS heap_bytes, coalesce(sum(dead_rows), 0)::bigint AS dead_rows
FROM table_bloat;

-- name: read_frozen_age
-- How many transactions ago the oldest row of any database was frozen; at about two thousand million PostgreSQL stops writing.
SELECT datname AS database, age(datfrozenxid)::bigint AS transactions FROM pg_database ORDER BY 2 DESC LIMIT 1;

-- name: long_transactions
SELECT pid, application_name, state, age_s, in_state_s, last_query FROM long_transactions ORDER BY age_s DESC LIMIT 10;

-- name: idle_transactions
SELECT pid, application_name, age_s, in_state_s, last_query FROM long_transactions
WHERE state LIKE 'idle in transaction%' ORDER BY in_state_s DESC LIMIT 10;

-- name: replication_slots
SELECT slot_name, slot_type, active, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS kept_bytes, wal_status
FROM pg_replication_slots ORDER BY kept_bytes DESC;

-- name: replicas
SELECT application_name, state, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::bigint AS behind_bytes,
       coalesce(extract(epoch FROM replay_lag), 0)::double precision AS behind_s
FROM pg_stat_replication WHERE application_name <> 'pg_basebackup' ORDER BY behind_bytes DESC;

-- name: read_archive
SELECT current_setting('archive_mode') AS mode, a.archived_count, a.last_archived_wal, a.last_archived_time, a.failed_count, a.last_failed_wal, a.last_failed_time,
       extract(epoch FROM now() - a.last_archived_time)::double precision AS age_s
FROM pg_stat_archiver AS a;

-- name: months_ahead
-- Of each table partitioned by month, how many months after this one are made without a gap; -1: not even this one.
SELECT p.relname AS table_name,
       CASE WHEN to_regclass(format('public.%I', p.relname || '_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMM'))) IS NULL THEN -1
            ELSE (SELECT coalesce(min(m), 25) - 1 FROM generate_series(1, 24) AS m
                  WHERE to_regclass(format('public.%I', p.relname || '_p' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC')
                                                                                      + m * interval '1 month', 'YYYYMM'))) IS NULL) END AS months_ahead
FROM pg_partitioned_table AS t JOIN pg_class AS p ON p.oid = t.partrelid
WHERE p.relnamespace = 'public'::regnamespace AND t.partstrat = 'r' ORDER BY 2, 1;

-- name: default_partitions
-- Default partitions that hold anything. Statistics may lag, so their size is asked: an empty one has no page. A row of a future or
-- forgotten month is here until its month is made.
SELECT p.relname AS table_name, d.relname AS partition_name, greatest(s.n_live_tup, 1)::bigint AS about_rows, pg_relation_size(d.oid) AS heap_bytes
FROM pg_partitioned_table AS t JOIN pg_class AS p ON p.oid = t.partrelid JOIN pg_class AS d ON d.oid = t.partdefid
LEFT JOIN pg_stat_user_tables AS s ON s.relid = d.oid
WHERE p.relnamespace = 'public'::regnamespace AND t.partstrat = 'r' AND pg_relation_size(d.oid) > 0 AND coalesce(s.n_live_tup, 1) > 0
ORDER BY about_rows DESC, 1;

-- name: find_retention
SELECT to_regclass('public.retention_runs') IS NOT NULL AS found;

-- name: last_retention
-- The newest runs: a row for each table of each. Index: retention_runs_pkey.
SELECT r.run_id, max(r.completed_at) AS completed_at, max(r.error_message) AS error_message, count(*) AS tables
FROM (SELECT run_id, completed_at, error_message FROM retention_runs ORDER BY id DESC LIMIT 1000) AS r
GROUP BY r.run_id ORDER BY completed_at DESC;

-- name: last_archiving
-- How the newest run that dealt with requests ended. Index: retention_runs_table_name_completed_at_idx.
SELECT error_message, completed_at FROM retention_runs WHERE table_name = 'llm_requests' ORDER BY completed_at DESC LIMIT 1;

-- name: read_clock
SELECT clock_timestamp() AS now;

-- name: data_directory
-- NULL where the login may not know: only pg_read_all_settings may (pg_monitor has it).
SELECT CASE WHEN pg_has_role('pg_read_all_settings', 'USAGE') THEN current_setting('data_directory') END AS path;

-- name: installed_at
-- When this database got its first revision.
SELECT min(applied_at) AS installed_at FROM helix_migrations;

-- name: open_quarantine
-- Index: quarantines_open_idx.
SELECT reason, quarantined_at FROM quarantines WHERE released_at IS NULL ORDER BY quarantined_at LIMIT 1;

-- name: sealed_tables
-- Tables of which rows are sealed with an encryption key, whose id stands beside: found by catalogue, so that none is forgotten.
SELECT c.relname AS name FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attname = 'key_id' AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN ('varchar'::regtype, 'text'::regtype)
ORDER BY c.relname;

-- name: expiring_keys
-- What stops working within so many days: API keys, and GitHub tokens that nothing refreshes; ten of each, with how many there are.
-- Providers' keys and encryption keys carry no date. Index: none, keys are few.
SELECT x.kind, x.key_prefix, x.name, x.expires_at, x.of_kind
FROM (SELECT k.*, count(*) OVER (PARTITION BY k.kind) AS of_kind, row_number() OVER (PARTITION BY k.kind ORDER BY k.expires_at) AS place
      FROM (SELECT 'API key' AS kind, a.key_prefix, a.name, a.expires_at FROM api_keys AS a WHERE a.status = 'active'
            UNION ALL
            SELECT 'GitHub token', NULL, g.github_login, g.token_expires_at FROM github_credentials AS g WHERE g.refresh_token IS NULL) AS k
      WHERE k.expires_at BETWEEN now() AND now() + make_interval(days => :days)) AS x
WHERE x.place <= 10 ORDER BY x.kind, x.expires_at;

-- name: sample_tables
-- Today's size of every table and of the database; repeated, it writes over. Index: size_samples_pkey. Locks: the rows.
INSERT INTO size_samples (kind, name, sampled_on, size_bytes, row_count)
SELECT 'table', s.table_name, current_date, s.total_bytes, s.estimated_rows FROM table_sizes AS s
UNION ALL SELECT 'database', current_database(), current_date, pg_database_size(current_database()), NULL
ON CONFLICT (kind, name, sampled_on) DO UPDATE SET size_bytes = EXCLUDED.size_bytes, row_count = EXCLUDED.row_count;

-- name: sample_volume
-- Index: size_samples_pkey. Locks: the row.
INSERT INTO size_samples (kind, name, sampled_on, size_bytes, free_bytes) VALUES ('volume', :name, current_date, :used_bytes, :free_bytes)
ON CONFLICT (kind, name, sampled_on) DO UPDATE SET size_bytes = EXCLUDED.size_bytes, free_bytes = EXCLUDED.free_bytes;

-- name: drop_old_samples
-- Index: size_samples_sampled_on_idx. Locks: the rows.
DELETE FROM size_samples WHERE sampled_on < current_date - 400;
