-- Statements of erasure. The erasing itself is helix_erase_user, sql/schema/erasure.sql.

-- name: calls_under_way
-- Index: idx_requests_status.
SELECT count(*) AS found FROM llm_requests WHERE user_id = :user_id AND status IN ('pending', 'running');

-- name: count_user_rows
-- What erasing would take, by table: one row for each table whose rows are the user's own. Index: each table's on its user.
SELECT c.relname AS table_name, a.attname AS column_name, k.confdeltype = 'c' AS owned
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_attribute AS r ON r.attrelid = k.confrelid AND r.attname = 'id'
JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[array_position(k.confkey, r.attnum)]
WHERE k.contype = 'f' AND k.confrelid = 'public.users'::regclass AND k.conparentid = 0 ORDER BY c.relname, a.attname;

-- name: erase_user
SELECT helix_erase_user(:user_id) AS done;

-- name: erasures_since
-- What was erased after a moment: users, memories, documents. Index: the three on the moment.
SELECT 'user' AS kind, e.user_id AS id, e.user_id, e.erased_at FROM erased_users AS e WHERE e.erased_at > :since
UNION ALL
SELECT 'memory', t.memory_id, t.user_id, t.forgotten_at FROM memory_tombstones AS t WHERE t.forgotten_at > :since
UNION ALL
SELECT 'document', t.document_id, t.user_id, t.removed_at FROM knowledge_tombstones AS t WHERE t.removed_at > :since
ORDER BY erased_at;

-- name: apply_erasures
SELECT helix_apply_erasures(:erasures::jsonb) AS done;
