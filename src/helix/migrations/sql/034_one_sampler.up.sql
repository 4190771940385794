-- Growth is read from size_samples alone; the archive's volume is sampled too. Comments. Locks: none that anybody waits for.
COMMENT ON TABLE retention_runs IS 'What each run of retention did, per table, and how big the table was then. Growth is in size_samples.';
COMMENT ON COLUMN size_samples.name IS 'Of a table (monthly partitions added up), the database, or a volume: data, wal, backups, archive.';
