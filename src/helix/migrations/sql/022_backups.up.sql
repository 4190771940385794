-- Operations: quarantines of restored copies, and the record of backups and restore tests.
-- Locks: none that anybody waits for; two new tables.
-- ---------------------------------------------------------------------------------------------------------------------
-- quarantines: one row per restore of this database from a backup. While one is open, Helix serves nobody and calls nobody from here:
-- what the backup holds of running tasks and undelivered webhooks would otherwise happen twice. Closed by `helix backup release`; kept.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE quarantines (
    id             uuid        NOT NULL DEFAULT uuidv7(),
    backup_name    varchar(64) NOT NULL,
    reason         text        NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT now(),
    released_at    timestamptz,
    CONSTRAINT quarantines_pkey PRIMARY KEY (id),
    CONSTRAINT quarantines_released_at_check CHECK (released_at >= quarantined_at)
);
COMMENT ON TABLE quarantines IS 'Restores of this database; while one is not released, no request, task, webhook or upstream call happens.';
COMMENT ON COLUMN quarantines.backup_name IS 'The backup it was restored from.';
COMMENT ON COLUMN quarantines.reason IS 'What was restored, to where and to which moment, for the person who releases it.';
COMMENT ON COLUMN quarantines.released_at IS 'When somebody said that this copy may act; NULL while it may not.';
-- Is one open? Asked at every start.
CREATE INDEX quarantines_open_idx ON quarantines (quarantined_at) WHERE released_at IS NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- backup_runs: one row per backup made, tested or restored, and per attempt that failed. Inserted once, by `helix backup` and its tasks.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE backup_runs (
    id            uuid        NOT NULL DEFAULT uuidv7(),
    action        varchar(10) NOT NULL,
    status        varchar(10) NOT NULL,
    backup_name   varchar(64),
    method        varchar(10),
    size_bytes    bigint,
    duration_ms   bigint      NOT NULL,
    error_message text,
    completed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT backup_runs_pkey PRIMARY KEY (id),
    CONSTRAINT backup_runs_action_check CHECK (action IN ('create', 'verify', 'restore')),
    CONSTRAINT backup_runs_status_check CHECK (status IN ('succeeded', 'failed')),
    CONSTRAINT backup_runs_method_check CHECK (method IN ('logical', 'physical')),
    CONSTRAINT backup_runs_size_bytes_check CHECK (size_bytes >= 0),
    CONSTRAINT backup_runs_duration_ms_check CHECK (duration_ms >= 0)
);
COMMENT ON TABLE backup_runs IS 'Backups made and restore tests run, with result and duration: what the doctor looks at.';
COMMENT ON COLUMN backup_runs.action IS 'create: a backup was made. verify: it was restored beside and compared. restore: this database came out of it.';
COMMENT ON COLUMN backup_runs.size_bytes IS 'Bytes of the encrypted files.';
COMMENT ON COLUMN backup_runs.error_message IS 'Why it failed, without data.';
-- When did this last succeed, and what failed since?
CREATE INDEX backup_runs_action_completed_at_idx ON backup_runs (action, completed_at DESC);

INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('quarantines', 'state of the whole installation, no tenant data'),
    ('backup_runs', 'backups of the whole installation, no tenant data; tenants may not read it')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

GRANT SELECT ON quarantines TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE (released_at) ON quarantines TO helix_operator;
GRANT SELECT, INSERT, DELETE ON backup_runs TO helix_operator;
GRANT SELECT ON backup_runs TO helix_readonly;
