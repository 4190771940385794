-- instance.sql: what this database knows about itself: whether it is a copy nobody has released, its backups and restore tests, its sizes.
-- Domain: operations. Asked by everything that starts.

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

-- ---------------------------------------------------------------------------------------------------------------------
-- size_samples: one row per thing and UTC day: how large each table, the database and each volume was. Written once a day by the
-- doctor's task, written over when it runs again; kept for 400 days. Growth and days to full are read from it.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE size_samples (
    kind       varchar(10)  NOT NULL,
    name       varchar(255) NOT NULL,
    sampled_on date         NOT NULL,
    size_bytes bigint       NOT NULL,
    free_bytes bigint,
    row_count  bigint,
    CONSTRAINT size_samples_pkey PRIMARY KEY (kind, name, sampled_on),
    CONSTRAINT size_samples_kind_check CHECK (kind IN ('table', 'database', 'volume')),
    CONSTRAINT size_samples_size_bytes_check CHECK (size_bytes >= 0),
    CONSTRAINT size_samples_free_bytes_check CHECK (free_bytes >= 0),
    CONSTRAINT size_samples_row_count_check CHECK (row_count >= 0)
);
COMMENT ON TABLE size_samples IS 'How large tables, the database and volumes were, by UTC day: what growth is reckoned from.';
COMMENT ON COLUMN size_samples.name IS 'Of a table (monthly partitions added up), the database, or a volume: data, wal, backups, archive.';
COMMENT ON COLUMN size_samples.size_bytes IS 'Bytes with indexes and TOAST; of a volume, bytes used.';
COMMENT ON COLUMN size_samples.free_bytes IS 'Of a volume, what PostgreSQL may still write; NULL otherwise.';
COMMENT ON COLUMN size_samples.row_count IS 'Of a table, the planner''s estimate; NULL otherwise.';
-- Which samples are too old?
CREATE INDEX size_samples_sampled_on_idx ON size_samples (sampled_on);

CREATE VIEW table_growth WITH (security_invoker = true) AS
SELECT now_.name AS table_name, then_.sampled_on AS since, now_.sampled_on AS until, then_.size_bytes AS bytes_then, now_.size_bytes AS bytes_now,
       now_.size_bytes - then_.size_bytes AS grown_bytes,
       round((now_.size_bytes - then_.size_bytes)::numeric / (now_.sampled_on - then_.sampled_on))::bigint AS bytes_per_day
FROM (SELECT DISTINCT ON (name) name, sampled_on, size_bytes FROM size_samples WHERE kind = 'table' ORDER BY name, sampled_on DESC) AS now_
JOIN LATERAL (SELECT s.sampled_on, s.size_bytes FROM size_samples AS s
              WHERE s.kind = 'table' AND s.name = now_.name AND s.sampled_on >= now_.sampled_on - 30 AND s.sampled_on < now_.sampled_on
              ORDER BY s.sampled_on LIMIT 1) AS then_ ON true
ORDER BY bytes_per_day DESC;
COMMENT ON VIEW table_growth IS 'How much each table grew over the last 30 days that were sampled, the fastest first. Empty until there are samples of two days.';

CREATE VIEW duplicate_indexes WITH (security_invoker = true) AS
WITH shapes AS (
    SELECT x.indexrelid, x.indrelid, i.relname AS index_name, t.relname AS table_name, x.indisunique, x.indnkeyatts, i.relam,
           x.indkey::int2[] AS columns, x.indclass::oid[] AS classes, x.indcollation::oid[] AS collations, x.indoption::int2[] AS options,
           coalesce(pg_get_expr(x.indexprs, x.indrelid), '') AS expressions, coalesce(pg_get_expr(x.indpred, x.indrelid), '') AS predicate,
           EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = x.indexrelid) AS guards,
           (SELECT coalesce(sum(pg_relation_size(l.relid)), 0)::bigint FROM pg_partition_tree(x.indexrelid) AS l WHERE l.isleaf) AS index_bytes
    FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid JOIN pg_class AS t ON t.oid = x.indrelid
    WHERE t.relnamespace = 'public'::regnamespace AND NOT t.relispartition AND x.indisvalid AND x.indnkeyatts = x.indnatts)
SELECT a.table_name, a.index_name, b.index_name AS covered_by, a.indnkeyatts = b.indnkeyatts AS exact, a.index_bytes
FROM shapes AS a JOIN shapes AS b ON a.indrelid = b.indrelid AND a.indexrelid <> b.indexrelid AND a.relam = b.relam
    AND a.expressions = b.expressions AND a.predicate = b.predicate AND a.indnkeyatts <= b.indnkeyatts
    AND a.columns[0:a.indnkeyatts - 1] = b.columns[0:a.indnkeyatts - 1]
    AND a.classes[0:a.indnkeyatts - 1] = b.classes[0:a.indnkeyatts - 1]
    AND a.collations[0:a.indnkeyatts - 1] = b.collations[0:a.indnkeyatts - 1]
    AND a.options[0:a.indnkeyatts - 1] = b.options[0:a.indnkeyatts - 1]
    AND (a.indnkeyatts = b.indnkeyatts OR (a.relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND a.expressions = ''))
WHERE NOT a.guards AND NOT (a.indisunique AND (NOT b.indisunique OR a.indnkeyatts < b.indnkeyatts))
    AND (a.indnkeyatts < b.indnkeyatts OR b.guards OR (b.indisunique AND NOT a.indisunique) OR a.index_name > b.index_name)
ORDER BY a.index_bytes DESC, a.table_name, a.index_name;
COMMENT ON VIEW duplicate_indexes IS 'Indexes that another one answers for: the same columns (exact), or its first ones. Indexes behind constraints are never listed as the one to drop.';

CREATE VIEW table_bloat WITH (security_invoker = true) AS
WITH widths AS (
    SELECT c.oid, c.relname, c.relpages, c.reltuples, coalesce(s.n_dead_tup, 0) AS dead_rows, coalesce(s.n_live_tup, 0) AS live_rows,
           pg_relation_size(c.oid) AS heap_bytes,
           (SELECT coalesce(sum((1 - w.stanullfrac) * w.stawidth), 0)
            FROM (SELECT t.null_frac AS stanullfrac, t.avg_width AS stawidth FROM pg_stats AS t
                  WHERE t.schemaname = 'public' AND t.tablename = c.relname AND NOT t.inherited) AS w) AS row_width
    FROM pg_class AS c LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace)
SELECT relname AS table_name, heap_bytes, live_rows, dead_rows,
       CASE WHEN row_width > 0 AND reltuples > 0 THEN
           greatest(0, heap_bytes - ceil(reltuples::numeric * (ceil(row_width::numeric / 8) * 8 + 28) / 8144) * 8192)::bigint END AS wasted_bytes
FROM widths ORDER BY wasted_bytes DESC NULLS LAST;
COMMENT ON VIEW table_bloat IS 'About how many bytes of each table hold nothing, reckoned from the statistics of ANALYZE with 28 bytes of header a row. An estimate: NULL before ANALYZE.';

CREATE VIEW long_transactions WITH (security_invoker = true) AS
SELECT a.pid, a.application_name, a.usename AS login, a.state, a.xact_start AS began_at, extract(epoch FROM now() - a.xact_start)::double precision AS age_s,
       extract(epoch FROM now() - a.state_change)::double precision AS in_state_s, left(a.query, 200) AS last_query
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
ORDER BY a.xact_start;
COMMENT ON VIEW long_transactions IS 'Open transactions of this database, the oldest first: they hold back vacuum, and idle ones hold locks for nothing.';

INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('quarantines', 'state of the whole installation, no tenant data'),
    ('backup_runs', 'backups of the whole installation, no tenant data; tenants may not read it'),
    ('size_samples', 'sizes of the whole installation, no tenant data; tenants may not read it')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

GRANT SELECT ON quarantines TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE (released_at) ON quarantines TO helix_operator;
GRANT SELECT, INSERT, DELETE ON backup_runs TO helix_operator;
GRANT SELECT ON backup_runs TO helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON size_samples TO helix_operator;
GRANT SELECT ON size_samples TO helix_readonly;
GRANT SELECT ON table_growth, duplicate_indexes, table_bloat, long_transactions TO helix_operator, helix_readonly;
