-- retention.sql: what retention did, and the archive of old requests: its files, the keys of what is in them, what was brought back.
-- Domain: operations. Which table is kept how long stands in src/helix/operations/retention/plan.py and docs/retention.md.

-- ---------------------------------------------------------------------------------------------------------------------
-- retention_runs: one row per run and table that has a rule to remove by: what went, what that cost, and how big the table is since. A step that failed is there with
-- its error. Inserted once, by `helix retention run` and the task of every night; kept a year.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE retention_runs (
    id              uuid        NOT NULL DEFAULT uuidv7(),
    run_id          uuid        NOT NULL,
    table_name      varchar(63) NOT NULL,
    rule            varchar(20) NOT NULL,
    row_count       bigint      NOT NULL DEFAULT 0,
    byte_count      bigint      NOT NULL DEFAULT 0,
    partition_count integer     NOT NULL DEFAULT 0,
    wal_bytes       bigint      NOT NULL DEFAULT 0,
    duration_ms     bigint      NOT NULL,
    table_bytes     bigint,
    error_message   text,
    completed_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT retention_runs_pkey PRIMARY KEY (id),
    CONSTRAINT retention_runs_run_id_table_name_key UNIQUE (run_id, table_name),
    CONSTRAINT retention_runs_counts_check CHECK (row_count >= 0 AND byte_count >= 0 AND partition_count >= 0 AND wal_bytes >= 0
        AND duration_ms >= 0 AND table_bytes >= 0)
);
COMMENT ON TABLE retention_runs IS 'What each run of retention did, per table, and how big the table was then. Growth is in size_samples.';
COMMENT ON COLUMN retention_runs.run_id IS 'The same in all rows of one run.';
COMMENT ON COLUMN retention_runs.rule IS 'By which kind of rule: months, age, archive, sums ...';
COMMENT ON COLUMN retention_runs.row_count IS 'Rows that left the table; counted where they were deleted or summed up, else estimated by the server.';
COMMENT ON COLUMN retention_runs.byte_count IS 'Bytes given back to the disk at once: those of dropped partitions.';
COMMENT ON COLUMN retention_runs.partition_count IS 'Monthly partitions dropped.';
COMMENT ON COLUMN retention_runs.wal_bytes IS 'Write-ahead log written meanwhile, by everybody.';
COMMENT ON COLUMN retention_runs.table_bytes IS 'Size of the table with indexes and TOAST afterwards.';
COMMENT ON COLUMN retention_runs.error_message IS 'Why the step failed, without data; the next run tries again.';
-- What was done to this table, and did the last run fail?
CREATE INDEX retention_runs_table_name_completed_at_idx ON retention_runs (table_name, completed_at DESC);
-- Which rows are older than a year?
CREATE INDEX retention_runs_completed_at_idx ON retention_runs (completed_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_files: one row per file of the archive. 'writing': the file is being written and may be thrown away; 'written': it is whole on the
-- disk and was read again, its rows are still in the database; 'archived': its rows have left the database, the file is all there is.
-- Written by retention; kept for ever. Without this row a file cannot be opened: its key is here, encrypted.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_files (
    id                  uuid         NOT NULL DEFAULT uuidv7(),
    month               date         NOT NULL,
    name                varchar(100) NOT NULL,
    status              varchar(10)  NOT NULL DEFAULT 'writing',
    sealed_key          text         NOT NULL,
    key_id              varchar(64)  NOT NULL,
    first_request_id    uuid,
    last_request_id     uuid,
    request_count       bigint,
    request_body_count  bigint,
    response_count      bigint,
    response_body_count bigint,
    plain_bytes         bigint,
    size_bytes          bigint,
    sha256              bytea,
    created_at          timestamptz  NOT NULL DEFAULT now(),
    archived_at         timestamptz,
    CONSTRAINT archive_files_pkey PRIMARY KEY (id),
    CONSTRAINT archive_files_name_key UNIQUE (name),
    CONSTRAINT archive_files_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT archive_files_status_check CHECK (status IN ('writing', 'written', 'archived')),
    CONSTRAINT archive_files_whole_check CHECK ((status = 'writing') = (sha256 IS NULL)),
    CONSTRAINT archive_files_taken_check CHECK ((status = 'archived') = (archived_at IS NOT NULL)),
    CONSTRAINT archive_files_sha256_check CHECK (octet_length(sha256) = 32),
    CONSTRAINT archive_files_counts_check CHECK (request_count >= 0 AND request_body_count >= 0 AND response_count >= 0
        AND response_body_count >= 0 AND plain_bytes >= 0 AND size_bytes >= 0)
);
COMMENT ON TABLE archive_files IS 'Files of archived requests, with their responses and texts: where they lie, what is in them, and the key that opens them.';
COMMENT ON COLUMN archive_files.month IS 'First day of the UTC month the requests are of.';
COMMENT ON COLUMN archive_files.name IS 'Path below HELIX_ARCHIVE_DIR.';
COMMENT ON COLUMN archive_files.sealed_key IS 'Ciphertext, bound to this row, of the key of this file. Never shown.';
COMMENT ON COLUMN archive_files.key_id IS 'Key of the keyring that opens sealed_key.';
COMMENT ON COLUMN archive_files.plain_bytes IS 'Bytes of the rows before compression.';
COMMENT ON COLUMN archive_files.size_bytes IS 'Bytes of the file.';
COMMENT ON COLUMN archive_files.sha256 IS 'SHA-256 of the file, 32 bytes; NULL while it is written.';
COMMENT ON COLUMN archive_files.archived_at IS 'When its rows left the database; NULL before.';
-- Which files hold requests of these months?
CREATE INDEX archive_files_month_idx ON archive_files (month, first_request_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_keys: one row per user and month with requests in the archive: the key of what is theirs in them: texts, parameters, metadata.
-- Erasing the user deletes the row, and nobody can read those again, in whatever copy of the files; the numbers stay readable. Written by
-- retention before the first request of the user; kept as long as the user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_keys (
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id    uuid        NOT NULL,
    month      date        NOT NULL,
    sealed_key text        NOT NULL,
    key_id     varchar(64) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT archive_keys_pkey PRIMARY KEY (id),
    CONSTRAINT archive_keys_user_id_month_key UNIQUE (user_id, month),
    CONSTRAINT archive_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT archive_keys_month_check CHECK (extract(day FROM month) = 1)
);
COMMENT ON TABLE archive_keys IS 'Keys of what is a user''s own in the archive, one per user and month: deleting one is erasing that.';
COMMENT ON COLUMN archive_keys.month IS 'First day of the UTC month.';
COMMENT ON COLUMN archive_keys.sealed_key IS 'Ciphertext, bound to this row, of the key. Never shown.';
COMMENT ON COLUMN archive_keys.key_id IS 'Key of the keyring that opens sealed_key.';

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_tombstones: one row per request whose texts somebody deleted: they are not read out of the archive, and do not come back with the
-- request. Written in the transaction of the deletion, whether the request is archived or not; goes with its user, whose keys go as well.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_tombstones (
    request_id uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    erased_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT archive_tombstones_pkey PRIMARY KEY (request_id),
    CONSTRAINT archive_tombstones_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE archive_tombstones IS 'Requests whose texts were deleted: no archive brings them back.';
COMMENT ON COLUMN archive_tombstones.request_id IS 'Joins llm_requests while it is there; no FK, it outlives it.';
-- Which are this tenant's? (erasure)
CREATE INDEX archive_tombstones_user_id_idx ON archive_tombstones (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- archive_restores: one row per month that was brought back, and until when it stays. Written by `helix archive restore`; kept for ever.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archive_restores (
    id                  uuid        NOT NULL DEFAULT uuidv7(),
    month               date        NOT NULL,
    request_count       bigint      NOT NULL,
    response_count      bigint      NOT NULL,
    text_count          bigint      NOT NULL,
    withheld_count      bigint      NOT NULL DEFAULT 0,
    restored_at         timestamptz NOT NULL DEFAULT now(),
    keep_until          timestamptz NOT NULL,
    CONSTRAINT archive_restores_pkey PRIMARY KEY (id),
    CONSTRAINT archive_restores_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT archive_restores_counts_check CHECK (request_count >= 0 AND response_count >= 0 AND text_count >= 0 AND withheld_count >= 0),
    CONSTRAINT archive_restores_keep_until_check CHECK (keep_until >= restored_at)
);
COMMENT ON TABLE archive_restores IS 'Months of requests that were brought back from the archive; until keep_until retention leaves them.';
COMMENT ON COLUMN archive_restores.text_count IS 'Texts of requests and responses brought back.';
COMMENT ON COLUMN archive_restores.withheld_count IS 'Texts that stay away: their user was erased, or somebody deleted them.';
COMMENT ON COLUMN archive_restores.keep_until IS 'Until when retention leaves the month in the database.';
-- Which months are to stay for now?
CREATE INDEX archive_restores_month_idx ON archive_restores (month, keep_until);

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenancy and grants. Files, runs and restores are of the whole installation. Keys are the operator's; a tenant marks its own deletions.
-- ---------------------------------------------------------------------------------------------------------------------
INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('retention_runs',   'counts of whole tables, no tenant data; tenants may not read it'),
    ('archive_files',    'files of the whole installation with their keys; only operators may read it'),
    ('archive_restores', 'counts of whole months, no tenant data; tenants may not read it')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

ALTER TABLE archive_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE archive_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY archive_keys_tenant ON archive_keys TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY archive_keys_operator ON archive_keys TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY archive_keys_readonly ON archive_keys FOR SELECT TO helix_readonly USING (true);
ALTER TABLE archive_tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE archive_tombstones FORCE ROW LEVEL SECURITY;
CREATE POLICY archive_tombstones_tenant ON archive_tombstones TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY archive_tombstones_operator ON archive_tombstones TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY archive_tombstones_readonly ON archive_tombstones FOR SELECT TO helix_readonly USING (true);

GRANT SELECT, INSERT, DELETE ON retention_runs TO helix_operator;
GRANT SELECT ON retention_runs TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON archive_files, archive_keys TO helix_operator;
GRANT SELECT (id, month, name, status, key_id, first_request_id, last_request_id, request_count, request_body_count, response_count, response_body_count, plain_bytes,
              size_bytes, sha256, created_at, archived_at) ON archive_files TO helix_readonly;
GRANT SELECT (id, user_id, month, key_id, created_at) ON archive_keys TO helix_app, helix_readonly;
GRANT SELECT, INSERT ON archive_tombstones TO helix_app, helix_operator;
GRANT SELECT ON archive_tombstones TO helix_readonly;
GRANT SELECT, INSERT ON archive_restores TO helix_operator;
GRANT SELECT ON archive_restores TO helix_readonly;

-- Partitions are made, sums sealed and months dropped by the owner of the tables alone.
REVOKE EXECUTE ON FUNCTION helix_missing_partitions(integer, integer), helix_create_partition(text, date), helix_drop_partition(text),
                           helix_drop_usage_month(date), helix_drop_usage_hours(date), helix_drop_error_month(date) FROM PUBLIC;
