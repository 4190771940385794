-- Statements of the audit: its seals and its list. Those on the audited tables themselves are made in rows.py.

-- name: lock_sealing
-- One sealer at a time, until the transaction ends.
SELECT pg_advisory_xact_lock(hashtext('helix audit seal'));

-- name: trigger_arguments
-- The arguments of an audited table's trigger, each ended by a zero byte: which columns unlinking and erasure may empty. Index: none.
SELECT t.tgargs AS arguments FROM pg_trigger AS t
WHERE t.tgrelid = format('public.%I', :table_name::text)::regclass AND t.tgfoid = 'helix_append_only()'::regprocedure AND t.tgnargs > 0;

-- name: last_seal
-- Index: audit_seals_table_name_number_key.
SELECT number, head FROM audit_seals WHERE table_name = :table_name ORDER BY number DESC LIMIT 1;

-- name: newest_sealed
-- The highest id that was ever sealed. Index: audit_seals_table_name_number_key; a look at every seal of the table.
SELECT last_row_id FROM audit_seals WHERE table_name = :table_name ORDER BY last_row_id DESC LIMIT 1;

-- name: insert_seal
INSERT INTO audit_seals (id, table_name, number, month, first_row_id, last_row_id, row_count, row_ids, row_digests, rows_digest, head, seal, key_id)
VALUES (:id, :table_name, :number, :month, :first_row_id, :last_row_id, :row_count, :row_ids::uuid[], :row_digests, :rows_digest, :head, :seal, :key_id);

-- name: list_seals
-- The chain of a table, a page. Index: audit_seals_table_name_number_key.
SELECT id, number, month, first_row_id, last_row_id, row_count, row_ids, row_digests, rows_digest, head, seal,
       to_regclass(format('public.%I', table_name || '_p' || month)) IS NULL AS month_gone
FROM audit_seals WHERE table_name = :table_name AND number > :after ORDER BY number LIMIT :max_count;

-- name: list_full_seals_of_gone_months
-- Seals whose month has no partition any more, and still list its rows. Index: none; the table is small.
SELECT id, table_name, row_ids FROM audit_seals
WHERE row_ids IS NOT NULL AND to_regclass(format('public.%I', table_name || '_p' || month)) IS NULL AND month < :month
ORDER BY table_name, number LIMIT :max_count;

-- name: empty_seals
UPDATE audit_seals SET row_ids = NULL, row_digests = NULL WHERE id = ANY (:ids::uuid[]);

-- name: list_operations
-- Newest first. Index: audit_log_pkey, from the end; audit_log_operation_idx for one operation.
SELECT id, created_at, operation, outcome, actor_kind, actor_id, actor_key_id, origin, subject_type, subject_id, subject_name, details
FROM audit_log
WHERE (:operation::text IS NULL OR operation LIKE :operation || '%') AND (:since::timestamptz IS NULL OR created_at >= :since)
  AND (:about::uuid IS NULL OR :about IN (actor_id, subject_id))
ORDER BY id DESC LIMIT :max_count;
