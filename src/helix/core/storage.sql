-- Statements of core/storage.py.

-- name: probe_room
-- Needs about a megabyte of new pages on the volume of the data, and is gone with its own transaction. Locks: nothing that is shared.
CREATE TEMPORARY TABLE helix_room ON COMMIT DROP AS SELECT n FROM generate_series(1, 30000) AS n;
