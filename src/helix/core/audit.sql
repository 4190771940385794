-- name: record
-- One sensitive operation, in the transaction of what it tells of. Index: none. Locks: the new row.
INSERT INTO audit_log (operation, outcome, actor_kind, actor_id, actor_key_id, origin, subject_type, subject_id, subject_name, details)
VALUES (:operation, :outcome, :actor_kind, :actor_id, :actor_key_id, :origin, :subject_type, :subject_id, :subject_name, :details::jsonb);
