-- errors.sql: what went wrong, and how often.
-- Domain: core (written by every domain).

-- ---------------------------------------------------------------------------------------------------------------------
-- error_log: one row per error worth knowing. Written by every part of Helix, inserted once. Partitioned by UTC month on the
-- UUIDv7 id; kept 90 days: a month is summed up into error_log_summary and dropped in one transaction.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE error_log (
    id               uuid        NOT NULL DEFAULT uuidv7(),
    code             integer     NOT NULL,
    category         varchar(50) NOT NULL,
    message          text        NOT NULL,
    technical_detail text,
    context          jsonb,
    user_id          uuid,
    project_id       uuid,
    agent_id         varchar(100),
    task_id          uuid,
    request_id       uuid,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT error_log_pkey PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE TABLE error_log_default PARTITION OF error_log DEFAULT;

COMMENT ON TABLE error_log IS 'Errors with code, category and context.';
COMMENT ON COLUMN error_log.code IS 'Number of the error in the catalogue of errors.';
COMMENT ON COLUMN error_log.category IS 'Area of the error, e.g. provider, database, auth.';
COMMENT ON COLUMN error_log.message IS 'What the user was told.';
COMMENT ON COLUMN error_log.technical_detail IS 'What developers need: exception and trace, secrets removed.';
COMMENT ON COLUMN error_log.user_id IS 'Tenant it happened to; NULL when nobody''s, or after the user is erased.';
COMMENT ON COLUMN error_log.task_id IS 'Joins background_tasks; no FK, tasks may be dropped sooner.';
COMMENT ON COLUMN error_log.request_id IS 'Joins llm_requests; no FK, requests may be dropped sooner.';

-- How often did this error happen?
CREATE INDEX idx_error_log_code ON error_log (code);
-- What went wrong in this area?
CREATE INDEX idx_error_log_category ON error_log (category);
-- What went wrong in this project?
CREATE INDEX idx_error_log_project ON error_log (project_id) WHERE project_id IS NOT NULL;
-- What went wrong between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_error_log_timestamp ON error_log USING brin (created_at) WITH (autosummarize = on);
-- What went wrong for this tenant?
CREATE INDEX error_log_user_id_idx ON error_log (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- error_log_summary: one row per UTC day, category and code. Written by retention in the transaction that drops the errors
-- summed up; kept 1 year.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE error_log_summary (
    id       uuid        NOT NULL DEFAULT gen_random_uuid(),
    date     date        NOT NULL,
    category varchar(50) NOT NULL,
    code     integer     NOT NULL,
    count    bigint      NOT NULL DEFAULT 0,
    CONSTRAINT error_log_summary_pkey PRIMARY KEY (id),
    CONSTRAINT error_log_summary_date_category_code_key UNIQUE (date, category, code),
    CONSTRAINT error_log_summary_count_check CHECK (count >= 0)
);

COMMENT ON TABLE error_log_summary IS 'How many errors of each code there were on each UTC day; outlives error_log.';
COMMENT ON COLUMN error_log_summary.date IS 'UTC day the errors happened on.';

-- How many errors were there on these days?
CREATE INDEX idx_error_summary_date ON error_log_summary (date);

-- Drops a month of errors after adding them to the summary, in one transaction: an error is in one of the two, never in both or none.
CREATE FUNCTION helix_drop_error_month(month date) RETURNS TABLE (row_count bigint, byte_count bigint)
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog
    SET timezone = 'UTC' AS $body$
#variable_conflict use_variable
DECLARE
    part_name text := 'error_log_p' || to_char(month, 'YYYYMM');
BEGIN
    EXECUTE format('LOCK TABLE public.%I IN SHARE ROW EXCLUSIVE MODE', part_name);
    EXECUTE format($sql$
        WITH summed AS (
            SELECT l.created_at::date AS date, l.category, l.code, count(*) AS count FROM public.%I AS l GROUP BY 1, 2, 3),
        written AS (
            INSERT INTO error_log_summary AS s (date, category, code, count)
            SELECT t.date, t.category, t.code, t.count FROM summed AS t
            ON CONFLICT ON CONSTRAINT error_log_summary_date_category_code_key DO UPDATE SET count = s.count + EXCLUDED.count)
        SELECT coalesce(sum(t.count), 0)::bigint FROM summed AS t$sql$, part_name) INTO row_count;
    SELECT d.byte_count INTO byte_count FROM helix_drop_partition(part_name) AS d;
    RETURN NEXT;
END
$body$;

COMMENT ON FUNCTION helix_drop_error_month(date) IS
    'Adds a month of error_log to error_log_summary and drops it, in one transaction; returns its rows and bytes. Run by the owner of the tables.';
