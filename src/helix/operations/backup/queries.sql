-- Statements of backups. All but the last few read the catalogue or whole tables, as of one snapshot.

-- name: export_snapshot
-- A name under which pg_dump sees what this transaction sees.
SELECT pg_export_snapshot() AS snapshot, pg_current_snapshot() AS seen;

-- name: read_server
-- next_xid lies above every transaction that the snapshot sees.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer AS version_num,
       current_database() AS database, pg_database_size(current_database()) AS bytes,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid,
       r.rolsuper OR r.rolbypassrls AS sees_all, pg_has_role(current_user, 'helix_operator', 'USAGE') AS is_operator
FROM pg_roles AS r WHERE r.rolname = current_user;

-- name: tables_hidden_from_operator
-- Tables under row-level security of which a member of helix_operator might not see every row.
SELECT c.relname AS name
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relrowsecurity AND c.relforcerowsecurity
  AND (NOT EXISTS (SELECT FROM pg_policy AS p
                   WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r') AND pg_get_expr(p.polqual, p.polrelid) = 'true'
                     AND p.polroles @> ARRAY['helix_operator'::regrole::oid])
       OR EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive))
ORDER BY c.relname;

-- name: list_tables
-- Tables that hold rows: leaves of partitioned ones, not those of extensions.
SELECT c.relname AS name, c.relpersistence <> 'u' AS logged
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname;

-- name: list_sequences
SELECT c.relname AS name FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'S'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname;

-- name: read_backup_roles
-- Helix's roles with what they may do, and which of each other they are members of.
SELECT r.rolname AS name,
       jsonb_build_object('superuser', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb,
                          'login', r.rolcanlogin, 'replication', r.rolreplication, 'bypassrls', r.rolbypassrls,
                          'connections', r.rolconnlimit,
                          'settings', (SELECT jsonb_agg(c ORDER BY c) FROM unnest(r.rolconfig) AS c),
                          'member of', (SELECT jsonb_agg(g.rolname ORDER BY g.rolname) FROM pg_auth_members AS m
                                        JOIN pg_roles AS g ON g.oid = m.roleid WHERE m.member = r.oid)) AS facts
FROM pg_roles AS r WHERE r.rolname = ANY (:roles::text[]) ORDER BY r.rolname;

-- name: list_extensions
SELECT e.extname AS name, e.extversion AS version FROM pg_extension AS e ORDER BY e.extname;

-- name: list_xid_columns
-- Columns of tables that hold a transaction's number: meaningless in another cluster.
SELECT c.relname AS table_name, a.attname AS column_name
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid = 'xid8'::regtype
ORDER BY c.relname, a.attname;

-- name: count_relations
-- What stands in the way of a restore: relations in public that no extension owns.
SELECT count(*) AS found FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');

-- name: next_xid
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid;

-- name: list_sessions
-- Who else is connected to this database?
SELECT count(*) AS found, coalesce(string_agg(DISTINCT application_name, ', '), '') AS names
FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid() AND backend_type = 'client backend';

-- name: database_exists
SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name) AS found;

-- name: may_create_databases
SELECT rolsuper OR rolcreatedb AS allowed, rolsuper AS superuser FROM pg_roles WHERE rolname = current_user;

-- name: restart_queue
-- Offer every pending task anew, after task_stream, task_claims and task_timers were emptied: their marks name transactions
-- of the cluster they come from. Index: background_tasks' for pending ones. Locks: new rows only.
SELECT helix_tasks_offer(array_agg(t.id ORDER BY t.scheduled_at, t.id), array_agg(t.queue::text ORDER BY t.scheduled_at, t.id),
                         array_agg(t.task_type::text ORDER BY t.scheduled_at, t.id), array_agg(t.priority ORDER BY t.scheduled_at, t.id),
                         array_agg(t.lost_count > 0 ORDER BY t.scheduled_at, t.id), array_agg(t.scheduled_at ORDER BY t.scheduled_at, t.id)),
       count(*) AS offered
FROM background_tasks AS t WHERE t.status = 'pending' AND t.blocked_by = 0 AND t.deleted_at IS NULL HAVING count(*) > 0;

-- name: record_run
INSERT INTO backup_runs (action, status, backup_name, method, size_bytes, duration_ms, error_message)
VALUES (:action, :status, :backup_name, :method, :size_bytes, :duration_ms, :error_message);

-- name: last_runs
-- The last success of each action, and the last failure after it. Index: backup_runs_action_completed_at_idx.
SELECT a.action,
       (SELECT max(r.completed_at) FROM backup_runs AS r WHERE r.action = a.action AND r.status = 'succeeded') AS succeeded_at,
       f.completed_at AS failed_at, f.error_message
FROM unnest(ARRAY['create', 'verify']) AS a (action)
LEFT JOIN LATERAL (SELECT r.completed_at, r.error_message FROM backup_runs AS r
                   WHERE r.action = a.action AND r.status = 'failed' ORDER BY r.completed_at DESC LIMIT 1) AS f ON true;

-- name: list_runs
-- Index: backup_runs_action_completed_at_idx.
SELECT backup_name, max(completed_at) FILTER (WHERE status = 'succeeded') AS verified_at,
       max(duration_ms) FILTER (WHERE status = 'succeeded') AS duration_ms
FROM backup_runs WHERE action = 'verify' GROUP BY backup_name;

-- name: find_audit
-- Databases older than revision 027 have none.
SELECT to_regclass('public.audit_log') IS NOT NULL AS found;

-- name: quarantine
INSERT INTO quarantines (backup_name, reason) VALUES (:backup_name, :reason);

-- name: release
-- Index: quarantines_open_idx.
UPDATE quarantines SET released_at = now() WHERE released_at IS NULL RETURNING reason;

-- name: hold_log
-- A slot that holds the log from here on, until this connection ends.
SELECT pg_create_physical_replication_slot(:name::text, true, true);

-- name: read_cluster
-- The cluster as it stands now: all that was committed before `now` lies before `lsn`.
SELECT current_setting('server_version') AS version, current_database() AS database, clock_timestamp() AS now, pg_current_wal_lsn()::text AS lsn,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_xid,
       (SELECT sum(pg_database_size(d.oid))::bigint FROM pg_database AS d) AS bytes;

-- name: mark_log
-- A named place to recover to.
SELECT pg_create_restore_point(:name::text)::text AS lsn;

-- name: take_xid
-- Its commit is a record with a time: until it is archived, nothing tells that no other came before.
SELECT pg_current_xact_id();

-- name: close_segment
-- The segment that is finished by this, or was the last to be.
SELECT pg_walfile_name(pg_switch_wal()) AS name;

-- name: recovery_state
SELECT pg_is_in_recovery() AS recovering, CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END AS pause;

-- name: read_archiver
-- What PostgreSQL says of its archiver, and what waits for it; an archiver that is killed is not counted as having failed.
SELECT current_setting('archive_mode') AS archive_mode, a.last_archived_wal, a.failed_count, w.waiting, w.lag_s
FROM pg_stat_archiver AS a,
     (SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(modification)), 0)::float8 AS lag_s
      FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') AS w;
