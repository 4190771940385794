-- Statements of the archive. They run as the owner of the tables, or, where files are only listed and read, as helix_operator.

-- name: list_files
-- Index: archive_files_month_idx. Locks: none.
SELECT id, month, name, status, sealed_key, first_request_id, last_request_id, request_count, request_body_count, response_count,
    response_body_count, plain_bytes, size_bytes, sha256, created_at, archived_at
FROM archive_files
WHERE (:from_month::date IS NULL OR month >= :from_month) AND (:to_month::date IS NULL OR month <= :to_month)
ORDER BY month, first_request_id, id;

-- name: begin_file
INSERT INTO archive_files (id, month, name, sealed_key, key_id) VALUES (:id, :month, :name, :sealed_key, :key_id);

-- name: finish_file
UPDATE archive_files SET status = 'written', first_request_id = :first_request_id, last_request_id = :last_request_id,
    request_count = :request_count, request_body_count = :request_body_count, response_count = :response_count,
    response_body_count = :response_body_count, plain_bytes = :plain_bytes, size_bytes = :size_bytes, sha256 = :sha256
WHERE id = :id AND status = 'writing';

-- name: forget_file
-- Only of a file whose rows are still in the database.
DELETE FROM archive_files WHERE id = :id AND status <> 'archived';

-- name: close_month
UPDATE archive_files SET status = 'archived', archived_at = :now WHERE month = :month AND status = 'written';

-- name: kept_months
-- Months that were brought back and are to stay for now. Index: archive_restores_month_idx.
SELECT DISTINCT month FROM archive_restores WHERE keep_until > :now;

-- name: record_restore
INSERT INTO archive_restores (month, request_count, response_count, text_count, withheld_count, restored_at, keep_until)
VALUES (:month, :request_count, :response_count, :text_count, :withheld_count, :restored_at, :keep_until);

-- name: list_restores
SELECT month, request_count, response_count, text_count, withheld_count, restored_at, keep_until FROM archive_restores
ORDER BY restored_at DESC LIMIT :max_count;

-- name: make_seen
-- Ids of rows that are in a file that was read again, by section of the file; of this connection alone.
CREATE TEMPORARY TABLE IF NOT EXISTS archive_seen (section integer NOT NULL, id uuid NOT NULL, PRIMARY KEY (section, id));

-- name: clear_seen
TRUNCATE pg_temp.archive_seen;

-- name: analyze_seen
ANALYZE pg_temp.archive_seen;

-- name: list_columns
-- Columns of a table that can be written, in their order, with the value a row without one gets. Locks: none.
SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type, a.attnotnull AS required, pg_get_expr(d.adbin, d.adrelid) AS default_value
FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = to_regclass(format('public.%I', :table_name::text)) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum;

-- name: list_links
-- References that are let go of when what they point to goes (ON DELETE SET NULL). Locks: none.
SELECT a.attname::text AS name, f.relname::text AS target, k.attname::text AS target_column
FROM pg_constraint AS c
JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
JOIN pg_class AS f ON f.oid = c.confrelid
JOIN pg_attribute AS k ON k.attrelid = c.confrelid AND k.attnum = c.confkey[1]
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = to_regclass(format('public.%I', :table_name::text))
  AND c.confdeltype = 'n' AND cardinality(c.conkey) = 1
ORDER BY a.attname;

-- name: make_keys
-- Keys of living users for a month; those that have one keep it. Index: archive_keys_user_id_month_key. Locks: new rows.
INSERT INTO archive_keys (id, user_id, month, sealed_key, key_id)
SELECT n.id, n.user_id, :month, n.sealed_key, :key_id FROM unnest(:ids::uuid[], :user_ids::uuid[], :sealed_keys::text[]) AS n (id, user_id, sealed_key)
WHERE EXISTS (SELECT FROM users AS u WHERE u.id = n.user_id)
ON CONFLICT (user_id, month) DO NOTHING;

-- name: list_keys
-- Keys of a month, of some users or all. Index: archive_keys_user_id_month_key. Locks: none.
SELECT id, user_id, sealed_key FROM archive_keys
WHERE month = :month AND (:user_ids::uuid[] IS NULL OR user_id = ANY (:user_ids));

-- name: living_users
-- Those of these users that are there and not erased. Index: users_pkey. Locks: none.
SELECT id FROM users WHERE id = ANY (:user_ids::uuid[]) AND status <> 'deleted';

-- name: tombstones
-- Requests between two whose texts were deleted. Index: archive_tombstones_pkey. Locks: none.
SELECT request_id, user_id FROM archive_tombstones WHERE request_id >= :first_id AND request_id <= :last_id;

-- name: find_user
-- Index: users_pkey, that of email. Locks: none.
SELECT id FROM users WHERE id::text = :name OR email = :name;

-- name: drop_month
SELECT row_count, byte_count FROM helix_drop_partition(:name);
