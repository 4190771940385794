-- Locks: the two tables exclusively, for a moment.
DROP TABLE backup_runs;
DROP TABLE quarantines;
DELETE FROM rls_exempt_tables WHERE table_name IN ('quarantines', 'backup_runs');
