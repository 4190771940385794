-- name: open_quarantine
-- Why may nothing run in this database? The newest reason; there is rarely more than one. Index: quarantines_open_idx.
SELECT reason FROM quarantines WHERE released_at IS NULL ORDER BY quarantined_at DESC LIMIT 1;
