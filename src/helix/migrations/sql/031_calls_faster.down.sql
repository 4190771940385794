-- 031_calls_faster.down.sql: takes 031_calls_faster.up.sql back.

DROP FUNCTION helix_admit_plain(uuid[], uuid[]);
