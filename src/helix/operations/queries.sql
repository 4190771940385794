-- name: take_lock
-- The lock of the one migrator of this database. Asked again and again rather than waited for: a
-- session that waits inside a statement holds a snapshot, and an index built concurrently by the
-- migrator would wait for that snapshot for ever.
SELECT pg_try_advisory_lock(:key::bigint) AS taken;

-- name: read_server
-- What decides whether Helix can live here.
SELECT current_setting('server_version_num')::integer AS version_num,
       current_setting('server_version') AS version,
       current_database() AS database,
       current_user AS login,
       (SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
        WHERE e.extname = 'vector') AS vector_schema,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') AS vector_available,
       r.rolsuper OR EXISTS (SELECT FROM pg_available_extension_versions WHERE name = 'vector' AND (trusted OR NOT superuser)) AS vector_allowed,
       has_schema_privilege('public', 'CREATE') AS may_create,
       r.rolsuper OR r.rolcreaterole
           OR (SELECT count(*) FROM pg_roles WHERE rolname = ANY (:roles::text[])) = cardinality(:roles::text[])
           AS may_have_roles
FROM pg_roles AS r WHERE r.rolname = current_user;

-- name: find_version_table
SELECT to_regclass('public.helix_migrations') IS NOT NULL AS found;

-- name: find_table
SELECT to_regclass('public.' || quote_ident(:name)) IS NOT NULL AS found;

-- name: tested_backup
-- The newest backup that was restored and compared, when it was made and when it was tested. Index: backup_runs_action_completed_at_idx.
SELECT c.backup_name, c.completed_at AS made_at,
       (SELECT max(v.completed_at) FROM backup_runs AS v
        WHERE v.action = 'verify' AND v.status = 'succeeded' AND v.backup_name = c.backup_name) AS tested_at,
       extract(epoch FROM now() - c.completed_at)::double precision AS age_s
FROM backup_runs AS c
WHERE c.action = 'create' AND c.status = 'succeeded' ORDER BY c.completed_at DESC LIMIT 20;

-- name: create_version_table
CREATE TABLE IF NOT EXISTS helix_migrations (
    revision    varchar(32) PRIMARY KEY,
    title       text        NOT NULL,
    checksum    varchar(64) NOT NULL,
    state       varchar(20) NOT NULL CONSTRAINT helix_migrations_state_check CHECK (state IN ('applying', 'applied', 'reverting')),
    steps_done  integer     NOT NULL DEFAULT 0 CONSTRAINT helix_migrations_steps_done_check CHECK (steps_done >= 0),
    applied_at  timestamptz
);

-- name: comment_version_table
COMMENT ON TABLE helix_migrations IS 'Revisions of the schema that are in this database. Written by helix db upgrade and downgrade, and by nothing else.';

-- name: grant_version_table
-- Any role may ask which schema it works on; the table holds nothing else.
GRANT SELECT ON helix_migrations TO PUBLIC;

-- name: drop_version_table
DROP TABLE helix_migrations;

-- name: list_revisions
SELECT revision, title, checksum, state, steps_done, applied_at FROM helix_migrations ORDER BY revision;

-- name: record_revision
INSERT INTO helix_migrations (revision, title, checksum, state, steps_done, applied_at)
VALUES (:revision, :title, :checksum, :state::text, :steps_done, CASE WHEN :state::text = 'applied' THEN now() END)
ON CONFLICT (revision) DO UPDATE
SET title = EXCLUDED.title, checksum = EXCLUDED.checksum, state = EXCLUDED.state,
    steps_done = EXCLUDED.steps_done, applied_at = coalesce(EXCLUDED.applied_at, helix_migrations.applied_at);

-- name: forget_revision
DELETE FROM helix_migrations WHERE revision = :revision;

-- name: find_taken_names
-- Which of these names has something that is not Helix's? Asked before a revision makes them.
SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                      WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' ELSE 'relation' END AS kind,
       c.relname AS name
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (:relations::text[])
UNION
SELECT 'type', t.typname FROM pg_type AS t
WHERE t.typnamespace = 'public'::regnamespace AND t.typname = ANY (:types::text[])
UNION
SELECT 'function', p.proname FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY (:functions::text[])
ORDER BY 1, 2;

-- name: list_invalid_indexes
-- Indexes that a concurrent build left unfinished and that nobody builds right now, foreign ones too.
SELECT i.relname AS name, t.relname AS table_name
FROM pg_index AS x
JOIN pg_class AS i ON i.oid = x.indexrelid
JOIN pg_class AS t ON t.oid = x.indrelid
WHERE NOT x.indisvalid AND i.relkind = 'i' AND i.relnamespace = 'public'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.relid = x.indrelid)
ORDER BY i.relname;

-- name: list_held_locks
-- Locks on relations that this transaction holds now; catalogues are left out.
SELECT c.oid AS relation_id, c.relname AS relation, l.mode
FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'i', 'I', 'S')
ORDER BY c.relname, l.mode;

-- name: list_relation_ids
SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace;

-- name: list_databases
SELECT datname FROM pg_database ORDER BY datname;

-- name: read_encoding
SELECT pg_encoding_to_char(encoding) AS encoding FROM pg_database WHERE datname = current_database();

-- name: lock_run
-- One run at a time, archive and restore included; goes with the connection.
SELECT pg_try_advisory_lock(hashtext('helix_retention')) AS taken;

-- name: list_months
-- Monthly partitions, oldest first; rows NULL where the server has no estimate. Locks: none.
SELECT p.relname::text AS table_name, c.relname::text AS name, to_date(right(c.relname, 6), 'YYYYMM') AS start,
    CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END AS row_count, pg_total_relation_size(c.oid) AS byte_count,
    pg_relation_size(c.oid) AS heap_bytes
FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid JOIN pg_class AS p ON p.oid = i.inhparent
WHERE c.relnamespace = 'public'::regnamespace AND c.relispartition AND c.relname ~ ('^' || p.relname || '_p[0-9]{6}$')
ORDER BY c.relname;

-- name: missing_months
-- Partitions to be made: around now, and of rows that fell into a default partition. Locks: none.
SELECT m.table_name, m.month FROM helix_missing_partitions(1, :months_ahead) AS m ORDER BY m.month, m.table_name;

-- name: make_month
-- Locks: SHARE ROW EXCLUSIVE on the table and on what its foreign keys point to, until the transaction ends.
SELECT helix_create_partition(:table_name, :month) AS made;

-- name: set_lock_timeout
-- For this transaction.
SELECT set_config('lock_timeout', :lock_timeout_ms::integer || 'ms', true);
