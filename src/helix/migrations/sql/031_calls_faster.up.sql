-- 031_calls_faster.up.sql: Count the batches of plain calls in two steps.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- The same decision for the batches that nearly all are: nothing claimed, and of every call the key is a plain one, without
-- ancestors, with no limit but requests a minute, of a user without limits or budgets. If all of them fit they are counted
-- and the answer is true; else nothing is counted, and helix_admit() decides. Locks: the rate_windows of the keys, in the
-- order of their ids, as helix_admit() takes them; what is read under them is the truth until the commit.
CREATE FUNCTION helix_admit_plain(user_ids uuid[], key_ids uuid[]) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog AS $body$
#variable_conflict use_column
DECLARE
    moment timestamptz;
    locked bigint;
    all_fit boolean;
BEGIN
    SELECT count(*) INTO locked FROM (
        SELECT FROM rate_windows AS w
        WHERE w.subject_id = ANY (key_ids)
          AND NOT EXISTS (SELECT FROM api_keys AS k WHERE k.id = ANY (key_ids) AND k.ancestor_ids <> '{}')
          AND NOT EXISTS (SELECT FROM users AS u WHERE u.id = ANY (user_ids)
              AND (u.rate_limit IS NOT NULL OR u.tokens_per_minute IS NOT NULL OR u.parallel_max IS NOT NULL))
        ORDER BY w.subject_id FOR NO KEY UPDATE) AS l;
    IF locked = 0 THEN
        RETURN false;
    END IF;
    moment := clock_timestamp();
    WITH judged AS MATERIALIZED (
        SELECT a.key_id, a.calls, k.rate_limit, o.running,
            coalesce(u.status = 'active' AND u.rate_limit IS NULL AND u.tokens_per_minute IS NULL AND u.parallel_max IS NULL
                AND k.status = 'active' AND (k.expires_at IS NULL OR k.expires_at > moment) AND k.ancestor_ids = '{}'
                AND k.tokens_per_minute IS NULL AND k.parallel_max IS NULL
                AND (k.rate_limit IS NULL OR CASE WHEN o.running THEN w.requests ELSE 0 END + a.calls <= k.rate_limit)
                AND NOT EXISTS (SELECT FROM budgets AS b WHERE b.user_id = ANY (user_ids) AND b.enabled), false) AS fits
        FROM (SELECT c.user_id, c.key_id, count(*)::integer AS calls
              FROM unnest(user_ids, key_ids) AS c (user_id, key_id) GROUP BY 1, 2) AS a
        LEFT JOIN users AS u ON u.id = a.user_id AND u.id = ANY (user_ids)
        LEFT JOIN api_keys AS k ON k.id = a.key_id AND k.user_id = a.user_id AND k.id = ANY (key_ids)
        LEFT JOIN rate_windows AS w ON w.subject_id = a.key_id AND w.subject_id = ANY (key_ids)
        CROSS JOIN LATERAL (SELECT w.window_started_at > moment - interval '1 minute' AS running) AS o),
    counted AS (
        UPDATE rate_windows AS w SET
            window_started_at = CASE WHEN j.running THEN w.window_started_at ELSE moment END,
            requests = CASE WHEN j.running THEN w.requests ELSE 0 END + j.calls,
            tokens = CASE WHEN j.running THEN w.tokens ELSE 0 END
        FROM judged AS j
        WHERE w.subject_id = j.key_id AND w.subject_id = ANY (key_ids) AND j.rate_limit IS NOT NULL
          AND (SELECT bool_and(j.fits) FROM judged AS j))
    SELECT bool_and(j.fits) INTO all_fit FROM judged AS j;
    RETURN all_fit;
END
$body$;

COMMENT ON FUNCTION helix_admit_plain(uuid[], uuid[]) IS
    'Counts a batch of calls whose keys have no limit but requests a minute, if all fit; else does nothing and says false.';
