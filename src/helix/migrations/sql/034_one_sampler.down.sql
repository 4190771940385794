-- The comments as revisions 026 and 028 had them. Locks: none that anybody waits for.
COMMENT ON TABLE retention_runs IS 'What each run of retention did, per table, and how big the table was then: growth is read from it.';
COMMENT ON COLUMN size_samples.name IS 'Of a table (monthly partitions added up), the database, or a volume: data, wal, backups.';
