-- 024_limits.up.sql: Limits, budgets and claims that one statement decides.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- ----------------------------------------------------------------------------------------------------
-- accounts
-- ----------------------------------------------------------------------------------------------------

ALTER TABLE users ADD COLUMN rate_limit integer, ADD COLUMN tokens_per_minute integer, ADD COLUMN parallel_max integer;
ALTER TABLE users ADD CONSTRAINT users_limits_check CHECK (rate_limit >= 0 AND tokens_per_minute >= 0 AND parallel_max >= 0);
COMMENT ON COLUMN users.rate_limit IS 'Requests per minute of all the user''s keys and logins together; NULL: only each key''s own limit.';
COMMENT ON COLUMN users.tokens_per_minute IS 'Tokens per minute, all together; NULL: no limit.';
COMMENT ON COLUMN users.parallel_max IS 'Calls under way at once, all together; NULL: no limit.';

ALTER TABLE api_keys ADD COLUMN parent_key_id uuid, ADD COLUMN ancestor_ids uuid[] NOT NULL DEFAULT '{}', ADD COLUMN tokens_per_minute integer,
    ADD COLUMN parallel_max integer, ADD COLUMN allowed_models text[], ADD COLUMN cache_max_age_s integer,
    ADD COLUMN previous_hash bytea, ADD COLUMN previous_until timestamptz;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_limits_check CHECK (tokens_per_minute >= 0 AND parallel_max >= 0);
ALTER TABLE api_keys ADD CONSTRAINT api_keys_previous_hash_key UNIQUE (previous_hash);
ALTER TABLE api_keys ADD CONSTRAINT api_keys_previous_check CHECK (octet_length(previous_hash) = 32 AND (previous_hash IS NULL) = (previous_until IS NULL));
ALTER TABLE api_keys ADD CONSTRAINT api_keys_cache_max_age_s_check CHECK (cache_max_age_s >= 0);
ALTER TABLE api_keys ADD CONSTRAINT api_keys_parent_key_id_fkey FOREIGN KEY (parent_key_id) REFERENCES api_keys (id) ON DELETE CASCADE;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_ancestors_check CHECK (cardinality(ancestor_ids) <= 8
    AND ancestor_ids[cardinality(ancestor_ids)] IS NOT DISTINCT FROM parent_key_id);
COMMENT ON COLUMN api_keys.parent_key_id IS 'The key this one was made with; it can do no more than that one, and ends with it. NULL: made with a login or a command.';
COMMENT ON COLUMN api_keys.ancestor_ids IS 'All keys it descends from, the oldest first; calls count against the limits and budgets of each of them.';
COMMENT ON COLUMN api_keys.tokens_per_minute IS 'Tokens per minute; NULL: no limit.';
COMMENT ON COLUMN api_keys.parallel_max IS 'Calls under way at once; NULL: no limit.';
COMMENT ON COLUMN api_keys.allowed_models IS 'Patterns of the models the key may call (* stands for any characters); NULL: every model.';
COMMENT ON COLUMN api_keys.cache_max_age_s IS 'How old an answer out of the response cache may be; 0: never from the cache; NULL: as the route says.';
COMMENT ON COLUMN api_keys.previous_hash IS 'SHA-256 of the key that was replaced by the last rotation. Never shown.';
COMMENT ON COLUMN api_keys.previous_until IS 'Until when the replaced key still opens the door.';
CREATE INDEX api_keys_ancestor_ids_idx ON api_keys USING gin (ancestor_ids);
CREATE INDEX api_keys_parent_key_id_idx ON api_keys (parent_key_id) WHERE parent_key_id IS NOT NULL;

-- ----------------------------------------------------------------------------------------------------
-- requests and responses
-- ----------------------------------------------------------------------------------------------------

ALTER TABLE llm_requests ADD COLUMN task_id uuid, ADD COLUMN parent_request_id uuid;
COMMENT ON COLUMN llm_requests.task_id IS 'Task of the queue that made the call; no FK because tasks are dropped sooner. NULL for a client''s call.';
COMMENT ON COLUMN llm_requests.parent_request_id IS 'Request in whose course Helix made this one itself; no FK within a partitioned table. NULL for a client''s call.';
CREATE INDEX llm_requests_task_id_idx ON llm_requests (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX llm_requests_parent_request_id_idx ON llm_requests (parent_request_id) WHERE parent_request_id IS NOT NULL;

-- The first 48 bits of the ids must agree: stricter than the month they fall into, and a fifth of the time to check.
ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_month_check;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_month_check
    CHECK (substring(uuid_send(id) FROM 1 FOR 6) = substring(uuid_send(request_id) FROM 1 FOR 6));
ALTER TABLE llm_response_bodies DROP CONSTRAINT llm_response_bodies_month_check;
ALTER TABLE llm_response_bodies ADD CONSTRAINT llm_response_bodies_month_check
    CHECK (substring(uuid_send(response_id) FROM 1 FOR 6) = substring(uuid_send(request_id) FROM 1 FOR 6));

-- ----------------------------------------------------------------------------------------------------
-- ledger
-- ----------------------------------------------------------------------------------------------------

ALTER TABLE budgets DROP CONSTRAINT budgets_period_check;
ALTER TABLE budgets ADD CONSTRAINT budgets_period_check CHECK (period IN ('day', 'month', 'total'));
COMMENT ON COLUMN budgets.period IS 'day or month (UTC), or total: for ever.';
COMMENT ON COLUMN budgets.limit_usd IS 'US dollars per period.';
COMMENT ON COLUMN budget_periods.period_start IS 'First UTC day of the period; 1970-01-01 for a total.';

-- ---------------------------------------------------------------------------------------------------------------------
-- rate_windows: one row per API key, and per user with limits of its own: what the running minute has used, and how many
-- calls are under way. Written by helix_admit() and helix_charge() only, under row locks taken in the order of subject_id. A
-- window opens with the first call and lasts a minute. Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE rate_windows (
    subject_id        uuid        NOT NULL,
    user_id           uuid        NOT NULL,
    window_started_at timestamptz NOT NULL DEFAULT '-infinity',
    requests          integer     NOT NULL DEFAULT 0,
    tokens            bigint      NOT NULL DEFAULT 0,
    parallel          integer     NOT NULL DEFAULT 0,
    CONSTRAINT rate_windows_pkey PRIMARY KEY (subject_id),
    CONSTRAINT rate_windows_counts_check CHECK (requests >= 0 AND tokens >= 0 AND parallel >= 0)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE rate_windows IS 'What each key or user has used of its limits in the running minute; decides, under row locks, which calls are admitted.';
COMMENT ON COLUMN rate_windows.subject_id IS 'An id of api_keys or of users; no FK, since it is one or the other.';
COMMENT ON COLUMN rate_windows.user_id IS 'Tenant.';
COMMENT ON COLUMN rate_windows.window_started_at IS 'When the minute began: with its first call.';
COMMENT ON COLUMN rate_windows.requests IS 'Calls admitted in the window.';
COMMENT ON COLUMN rate_windows.tokens IS 'Tokens of the window: what calls under way may use at most, and what ended ones did use.';
COMMENT ON COLUMN rate_windows.parallel IS 'Calls under way, where parallel_max limits them.';

-- Which windows are this tenant's?
CREATE INDEX rate_windows_user_id_idx ON rate_windows (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- call_holds: one row per call under way and subject whose tokens or parallel calls are limited: what the call holds there
-- until it ends. Written by helix_admit(), deleted by helix_charge(), also for calls of a dead process, which the sweep ends.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE call_holds (
    request_id        uuid        NOT NULL,
    subject_id        uuid        NOT NULL,
    window_started_at timestamptz NOT NULL,
    tokens            integer     NOT NULL DEFAULT 0,
    tokens_used       bigint      NOT NULL DEFAULT 0,
    parallel          smallint    NOT NULL DEFAULT 0,
    CONSTRAINT call_holds_pkey PRIMARY KEY (request_id, subject_id),
    CONSTRAINT call_holds_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES rate_windows (subject_id) ON DELETE CASCADE,
    CONSTRAINT call_holds_counts_check CHECK (tokens >= 0 AND tokens_used >= 0 AND parallel BETWEEN 0 AND 1)
);

COMMENT ON TABLE call_holds IS 'What calls under way hold of limits on tokens and parallel calls.';
COMMENT ON COLUMN call_holds.request_id IS 'Joins llm_requests; no FK because the hold is made before the request row.';
COMMENT ON COLUMN call_holds.window_started_at IS 'The window the tokens were counted in; once it is over they are not given back.';
COMMENT ON COLUMN call_holds.tokens IS 'Tokens the call may use at most.';
COMMENT ON COLUMN call_holds.tokens_used IS 'Tokens that attempts of the call used before its end.';

-- Which calls hold something of this subject?
CREATE INDEX call_holds_subject_id_idx ON call_holds (subject_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- call_refusals: one row per UTC hour, user, key and reason: how many calls were refused. A refused call leaves no request,
-- but is not forgotten. Written by helix_admit(). Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE call_refusals (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    hour          timestamptz  NOT NULL,
    user_id       uuid         NOT NULL,
    api_key_id    uuid,
    reason        varchar(50)  NOT NULL,
    limit_name    varchar(100) NOT NULL DEFAULT '',
    refused_count bigint       NOT NULL,
    CONSTRAINT call_refusals_pkey PRIMARY KEY (id),
    CONSTRAINT call_refusals_key UNIQUE NULLS NOT DISTINCT (hour, user_id, api_key_id, reason, limit_name),
    CONSTRAINT call_refusals_reason_check CHECK (reason IN ('rate_limited', 'budget_exceeded', 'key_reused', 'revoked')),
    CONSTRAINT call_refusals_refused_count_check CHECK (refused_count >= 0)
);

COMMENT ON TABLE call_refusals IS 'Calls refused when they asked to be admitted, by hour and reason.';
COMMENT ON COLUMN call_refusals.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN call_refusals.reason IS 'rate_limited, budget_exceeded, key_reused (Idempotency-Key with another body) or revoked.';
COMMENT ON COLUMN call_refusals.limit_name IS 'Which limit it was, such as key requests_per_minute; empty where none was.';

-- How many calls of this tenant were refused?
CREATE INDEX call_refusals_user_id_hour_idx ON call_refusals (user_id, hour);

-- ---------------------------------------------------------------------------------------------------------------------
-- idempotency_keys: one row per user and Idempotency-Key of the last 24 hours: which request holds it. Claimed by
-- helix_admit(); a claim whose request failed, or that is older, is taken over by the next request. Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE idempotency_keys (
    user_id         uuid         NOT NULL,
    idempotency_key varchar(255) NOT NULL,
    request_id      uuid         NOT NULL,
    body_sha256     bytea,
    created_at      timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (user_id, idempotency_key),
    CONSTRAINT idempotency_keys_body_sha256_check CHECK (octet_length(body_sha256) = 32)
);

COMMENT ON TABLE idempotency_keys IS 'Which request holds an Idempotency-Key, so that a repeated one is answered and not called again.';
COMMENT ON COLUMN idempotency_keys.request_id IS 'Joins llm_requests; no FK because the claim is made before the request row.';
COMMENT ON COLUMN idempotency_keys.body_sha256 IS 'SHA-256 of what was asked, 32 bytes: the same key for something else is refused.';

-- Which claims are over?
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);

-- The first UTC day of the period that holds a moment; of all time it is the first day of 1970.
CREATE FUNCTION helix_period_start(period text, moment timestamptz) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE period WHEN 'day' THEN (moment AT TIME ZONE 'UTC')::date
        WHEN 'month' THEN date_trunc('month', moment AT TIME ZONE 'UTC')::date
        WHEN 'total' THEN DATE '1970-01-01' END;

COMMENT ON FUNCTION helix_period_start(text, timestamptz) IS 'First UTC day of the day or month that holds the moment; 1970-01-01 for total.';

-- When that period ends; NULL for total.
CREATE FUNCTION helix_period_end(period text, moment timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE period WHEN 'day' THEN (date_trunc('day', moment AT TIME ZONE 'UTC') + interval '1 day') AT TIME ZONE 'UTC'
        WHEN 'month' THEN (date_trunc('month', moment AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC' END;

COMMENT ON FUNCTION helix_period_end(text, timestamptz) IS 'When the day or month that holds the moment ends; NULL for total.';

-- Decides, for many calls at once, which may be made, and counts them: exactly, over any number of processes. The statement
-- admit_calls calls it and inserts the admitted requests in the same transaction. Locks, always in this order, so that batches
-- cannot wait for each other in a circle: rate_windows by subject_id, budget_periods by (budget_id, period_start), idempotency_keys.
-- Each statement here sees what was committed when it began, so what is read under the locks is the truth until the commit.
-- A batch that fits whole into all its limits is counted in one step; else its calls are judged one by one, in their order, and a
-- refused one uses nothing up. `retried`: the batch may have been committed before; what was is admitted again and not counted.
CREATE FUNCTION helix_admit(
    request_ids uuid[], user_ids uuid[], key_ids uuid[], project_ids uuid[], agent_ids text[], reserves_usd numeric[],
    reserves_tokens integer[], claims text[], body_hashes bytea[], retried boolean)
    RETURNS TABLE (request_id uuid, decision text, limit_name text, limit_value numeric, limit_left numeric,
        retry_after_s double precision, other_request_id uuid)
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog AS $body$
#variable_conflict use_column
DECLARE
    call_count constant integer := cardinality(request_ids);
    moment timestamptz := clock_timestamp();
    decisions text[] := array_fill(NULL::text, ARRAY[call_count]);
    reasons integer[] := array_fill(NULL::integer, ARRAY[call_count]);
    others uuid[] := array_fill(NULL::uuid, ARRAY[call_count]);
    standing text[];
    subjects uuid[];
    found bigint;
    lim_subject uuid[];
    lim_measure text[];
    lim_period date[];
    lim_name text[];
    lim_value numeric[];
    lim_left numeric[];
    lim_wait double precision[];
    link_call integer[];
    link_limit integer[];
    link_amount numeric[];
    one record;
    call integer;
    refused_by integer;
    first integer := 1;
    last integer;
BEGIN
    IF retried THEN
        SELECT array_agg(CASE WHEN q.id IS NOT NULL THEN 'admitted' END ORDER BY c.n) INTO decisions
        FROM unnest(request_ids) WITH ORDINALITY AS c (id, n)
        LEFT JOIN llm_requests AS q ON q.id = c.id AND q.id = ANY (request_ids);
    END IF;

    -- Every key of the batch with those it descends from; users only where they have limits of their own.
    SELECT array_agg(DISTINCT s.id ORDER BY s.id) INTO subjects
    FROM (
        SELECT a.id FROM api_keys AS k CROSS JOIN unnest(k.ancestor_ids || k.id) AS a (id) WHERE k.id = ANY (key_ids)
        UNION ALL
        SELECT u.id FROM users AS u WHERE u.id = ANY (user_ids)
            AND (u.rate_limit IS NOT NULL OR u.tokens_per_minute IS NOT NULL OR u.parallel_max IS NOT NULL)) AS s;
    IF subjects IS NOT NULL THEN
        PERFORM FROM rate_windows AS w WHERE w.subject_id = ANY (subjects) ORDER BY w.subject_id FOR NO KEY UPDATE;
        GET DIAGNOSTICS found = ROW_COUNT;
        IF found < cardinality(subjects) THEN
            INSERT INTO rate_windows (subject_id, user_id)
            SELECT s.id, coalesce(k.user_id, s.id) FROM unnest(subjects) AS s (id) LEFT JOIN api_keys AS k ON k.id = s.id
            ORDER BY s.id ON CONFLICT DO NOTHING;
            PERFORM FROM rate_windows AS w WHERE w.subject_id = ANY (subjects) ORDER BY w.subject_id FOR NO KEY UPDATE;
        END IF;
    END IF;
    moment := clock_timestamp();

    -- Budgets: the period that holds now must have a row to lock.
    IF EXISTS (SELECT FROM budgets AS b WHERE b.user_id = ANY (user_ids) AND b.enabled) THEN
        INSERT INTO budget_periods (budget_id, period_start)
        SELECT b.id, helix_period_start(b.period, moment) FROM budgets AS b
        WHERE b.user_id = ANY (user_ids) AND b.enabled AND NOT EXISTS (
            SELECT FROM budget_periods AS p WHERE p.budget_id = b.id AND p.period_start = helix_period_start(b.period, moment))
        ORDER BY b.id ON CONFLICT DO NOTHING;
        PERFORM FROM budget_periods AS p
        JOIN budgets AS b ON b.id = p.budget_id AND p.period_start = helix_period_start(b.period, moment)
        WHERE b.user_id = ANY (user_ids) AND b.enabled ORDER BY p.budget_id, p.period_start FOR NO KEY UPDATE OF p;
    END IF;

    -- Who is not active any more, as of now: a revoked key is dead the moment its revocation is committed.
    SELECT array_agg(CASE WHEN u.status IS DISTINCT FROM 'active' OR (c.key_id IS NOT NULL AND (k.id IS NULL OR EXISTS (
            SELECT FROM api_keys AS a WHERE a.id = ANY (k.ancestor_ids || k.id)
              AND (a.status <> 'active' OR a.expires_at <= moment)))) THEN 'revoked' END ORDER BY c.n) INTO standing
    FROM unnest(user_ids, key_ids) WITH ORDINALITY AS c (user_id, key_id, n)
    LEFT JOIN users AS u ON u.id = c.user_id AND u.id = ANY (user_ids)
    LEFT JOIN api_keys AS k ON k.id = c.key_id AND k.id = ANY (key_ids);
    FOR call IN 1 .. call_count LOOP
        decisions[call] := coalesce(decisions[call], standing[call]);
    END LOOP;

    -- Idempotency-Keys are claimed first: who loses the claim asks for nothing.
    IF cardinality(array_remove(claims, NULL)) > 0 THEN
        INSERT INTO idempotency_keys (user_id, idempotency_key, request_id, body_sha256, created_at)
        SELECT DISTINCT ON (c.user_id, c.claim) c.user_id, c.claim, c.id, c.body_hash, moment
        FROM unnest(request_ids, user_ids, claims, body_hashes, decisions) WITH ORDINALITY AS c (id, user_id, claim, body_hash, decision, n)
        WHERE c.claim IS NOT NULL AND c.decision IS NULL
        ORDER BY c.user_id, c.claim, c.n ON CONFLICT DO NOTHING;
        PERFORM FROM idempotency_keys AS i
        WHERE (i.user_id, i.idempotency_key) IN (SELECT c.user_id, c.claim FROM unnest(user_ids, claims) AS c (user_id, claim))
        ORDER BY i.user_id, i.idempotency_key FOR UPDATE;
        -- A claim that is over, or whose request came to nothing, passes to the first that asks.
        UPDATE idempotency_keys AS i SET request_id = f.id, body_sha256 = f.body_hash, created_at = moment
        FROM (SELECT DISTINCT ON (c.user_id, c.claim) c.id, c.user_id, c.claim, c.body_hash
              FROM unnest(request_ids, user_ids, claims, body_hashes, decisions) WITH ORDINALITY AS c (id, user_id, claim, body_hash, decision, n)
              WHERE c.claim IS NOT NULL AND c.decision IS NULL ORDER BY c.user_id, c.claim, c.n) AS f
        WHERE i.user_id = f.user_id AND i.idempotency_key = f.claim AND i.request_id <> f.id
          AND (i.created_at < moment - interval '24 hours'
               OR (i.body_sha256 IS NOT DISTINCT FROM f.body_hash AND NOT EXISTS (
                   SELECT FROM llm_requests AS q WHERE q.id = i.request_id AND q.status IN ('pending', 'running', 'completed'))));
        FOR one IN
            SELECT c.n, i.request_id AS holder, i.body_sha256 IS DISTINCT FROM c.body_hash AS other_body, q.status = 'completed' AS ended
            FROM unnest(request_ids, user_ids, claims, body_hashes, decisions) WITH ORDINALITY AS c (id, user_id, claim, body_hash, decision, n)
            JOIN idempotency_keys AS i ON i.user_id = c.user_id AND i.idempotency_key = c.claim
            LEFT JOIN llm_requests AS q ON q.id = i.request_id
            WHERE c.decision IS NULL AND i.request_id <> c.id
        LOOP
            decisions[one.n] := CASE WHEN one.other_body THEN 'key_reused' WHEN one.ended THEN 'replay' ELSE 'in_progress' END;
            others[one.n] := one.holder;
        END LOOP;
    END IF;

    -- Every limit that any call of the batch counts against, with what is left of it.
    SELECT array_agg(l.subject), array_agg(l.measure), array_agg(l.period), array_agg(l.name), array_agg(l.value),
        array_agg(l.value - l.used), array_agg(l.wait)
    INTO lim_subject, lim_measure, lim_period, lim_name, lim_value, lim_left, lim_wait
    FROM (
        SELECT s.id AS subject, m.measure, NULL::date AS period, s.kind || ' ' || m.name AS name, m.value, m.used,
            CASE WHEN m.measure = 'parallel' THEN 1 WHEN o.running
                THEN extract(epoch FROM w.window_started_at + interval '1 minute' - moment)::double precision ELSE 60 END AS wait
        FROM (SELECT k.id, 'key' AS kind, k.rate_limit, k.tokens_per_minute, k.parallel_max FROM api_keys AS k WHERE k.id = ANY (subjects)
              UNION ALL
              SELECT u.id, 'user', u.rate_limit, u.tokens_per_minute, u.parallel_max FROM users AS u WHERE u.id = ANY (subjects)) AS s
        JOIN rate_windows AS w ON w.subject_id = s.id
        CROSS JOIN LATERAL (SELECT w.window_started_at > moment - interval '1 minute' AS running) AS o
        CROSS JOIN LATERAL (VALUES
            ('requests', 'requests_per_minute', s.rate_limit::numeric, CASE WHEN o.running THEN w.requests ELSE 0 END),
            ('tokens', 'tokens_per_minute', s.tokens_per_minute, CASE WHEN o.running THEN w.tokens ELSE 0 END),
            ('parallel', 'parallel_max', s.parallel_max, w.parallel)) AS m (measure, name, value, used)
        WHERE m.value IS NOT NULL
        UNION ALL
        SELECT b.id, 'usd', p.period_start, 'budget ' || b.scope || ' ' || b.period, CASE WHEN b.hard THEN b.limit_usd END,
            p.reserved_usd + p.settled_usd,
            extract(epoch FROM helix_period_end(b.period, moment) - moment)::double precision
        FROM budgets AS b
        JOIN budget_periods AS p ON p.budget_id = b.id AND p.period_start = helix_period_start(b.period, moment)
        WHERE b.user_id = ANY (user_ids) AND b.enabled) AS l;

    -- Which call counts against which limit, and how much.
    IF lim_subject IS NOT NULL THEN
        SELECT array_agg(c.n ORDER BY c.n), array_agg(l.at ORDER BY c.n),
            array_agg(CASE l.measure WHEN 'tokens' THEN c.tokens WHEN 'usd' THEN round(c.usd, 12) ELSE 1 END ORDER BY c.n)
        INTO link_call, link_limit, link_amount
        FROM unnest(user_ids, key_ids, project_ids, agent_ids, reserves_usd, reserves_tokens, decisions) WITH ORDINALITY
            AS c (user_id, key_id, project_id, agent_id, usd, tokens, decision, n)
        LEFT JOIN api_keys AS k ON k.id = c.key_id AND k.id = ANY (key_ids)
        JOIN unnest(lim_subject, lim_measure) WITH ORDINALITY AS l (subject, measure, at) ON true
        LEFT JOIN budgets AS b ON l.measure = 'usd' AND b.id = l.subject
        WHERE c.decision IS NULL AND CASE WHEN l.measure = 'usd'
            THEN b.user_id = c.user_id AND (b.scope = 'user' OR b.api_key_id = ANY (k.ancestor_ids || k.id)
                OR b.project_id = c.project_id OR b.agent_id = c.agent_id)
            ELSE l.subject = c.user_id OR l.subject = ANY (k.ancestor_ids || k.id) END;
    END IF;

    IF EXISTS (SELECT FROM unnest(link_limit, link_amount) AS l (at, amount) GROUP BY l.at HAVING sum(l.amount) > lim_left[l.at]) THEN
        WHILE first <= cardinality(link_call) LOOP
            call := link_call[first];
            last := first;
            refused_by := NULL;
            WHILE last <= cardinality(link_call) AND link_call[last] = call LOOP
                IF refused_by IS NULL AND lim_left[link_limit[last]] < link_amount[last] THEN
                    refused_by := link_limit[last];
                END IF;
                last := last + 1;
            END LOOP;
            IF refused_by IS NULL THEN
                FOR one IN SELECT g.at FROM generate_series(first, last - 1) AS g (at) LOOP
                    lim_left[link_limit[one.at]] := lim_left[link_limit[one.at]] - link_amount[one.at];
                END LOOP;
            ELSE
                decisions[call] := CASE lim_measure[refused_by] WHEN 'usd' THEN 'budget_exceeded' ELSE 'rate_limited' END;
                reasons[call] := refused_by;
            END IF;
            first := last;
        END LOOP;
    END IF;
    -- All that nothing speaks against; from here on 'new' are those to be counted.
    FOR call IN 1 .. call_count LOOP
        decisions[call] := coalesce(decisions[call], 'new');
    END LOOP;

    -- A claim of a refused call is given up, and who asked the same in this batch is refused as it was.
    IF cardinality(array_remove(claims, NULL)) > 0 THEN
        DELETE FROM idempotency_keys AS i
        USING unnest(request_ids, user_ids, claims, decisions) AS c (id, user_id, claim, decision)
        WHERE i.user_id = c.user_id AND i.idempotency_key = c.claim AND i.request_id = c.id
          AND c.decision IN ('rate_limited', 'budget_exceeded');
        FOR call IN 1 .. call_count LOOP
            last := array_position(request_ids, others[call]);
            IF last IS NOT NULL AND decisions[call] = 'in_progress' AND decisions[last] IN ('rate_limited', 'budget_exceeded') THEN
                decisions[call] := decisions[last];
                reasons[call] := reasons[last];
                others[call] := NULL;
            END IF;
        END LOOP;
    END IF;

    IF link_call IS NOT NULL THEN
        UPDATE rate_windows AS w SET
            window_started_at = CASE WHEN w.window_started_at > moment - interval '1 minute' THEN w.window_started_at ELSE moment END,
            requests = CASE WHEN w.window_started_at > moment - interval '1 minute' THEN w.requests ELSE 0 END + g.requests,
            tokens = CASE WHEN w.window_started_at > moment - interval '1 minute' THEN w.tokens ELSE 0 END + g.tokens,
            parallel = w.parallel + g.parallel
        FROM (SELECT lim_subject[l.at] AS subject,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'requests'), 0) AS requests,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'tokens'), 0) AS tokens,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'parallel'), 0) AS parallel
              FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
              WHERE decisions[l.call] = 'new' AND lim_measure[l.at] <> 'usd' GROUP BY 1) AS g
        WHERE w.subject_id = g.subject AND w.subject_id = ANY (subjects);
        IF lim_measure && ARRAY['tokens', 'parallel'] THEN
            INSERT INTO call_holds (request_id, subject_id, window_started_at, tokens, parallel)
            SELECT request_ids[l.call], w.subject_id, w.window_started_at,
                coalesce(sum(l.amount) FILTER (WHERE lim_measure[l.at] = 'tokens'), 0),
                count(*) FILTER (WHERE lim_measure[l.at] = 'parallel')
            FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
            JOIN rate_windows AS w ON w.subject_id = lim_subject[l.at]
            WHERE decisions[l.call] = 'new' AND lim_measure[l.at] IN ('tokens', 'parallel')
            GROUP BY 1, 2, 3;
        END IF;
        IF 'usd' = ANY (lim_measure) THEN
            UPDATE budget_periods AS p SET reserved_usd = p.reserved_usd + g.amount
            FROM (SELECT l.at, sum(l.amount) AS amount FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
                  WHERE decisions[l.call] = 'new' AND lim_measure[l.at] = 'usd' GROUP BY 1) AS g
            WHERE p.budget_id = lim_subject[g.at] AND p.period_start = lim_period[g.at];
            INSERT INTO budget_reservations (request_id, budget_id, period_start, amount_usd, expires_at)
            SELECT request_ids[l.call], lim_subject[l.at], lim_period[l.at], l.amount, moment + interval '1 day'
            FROM unnest(link_call, link_limit, link_amount) AS l (call, at, amount)
            WHERE decisions[l.call] = 'new' AND lim_measure[l.at] = 'usd';
        END IF;
    END IF;

    IF decisions && ARRAY['rate_limited', 'budget_exceeded', 'key_reused', 'revoked'] THEN
        INSERT INTO call_refusals AS r (hour, user_id, api_key_id, reason, limit_name, refused_count)
        SELECT date_trunc('hour', moment, 'UTC'), u.id, k.id, c.decision, coalesce(lim_name[c.reason], ''), count(*)
        FROM unnest(user_ids, key_ids, decisions, reasons) AS c (user_id, key_id, decision, reason)
        JOIN users AS u ON u.id = c.user_id LEFT JOIN api_keys AS k ON k.id = c.key_id
        WHERE c.decision IN ('rate_limited', 'budget_exceeded', 'key_reused', 'revoked')
        GROUP BY 2, 3, 4, 5 ORDER BY 2, 3, 4, 5
        ON CONFLICT ON CONSTRAINT call_refusals_key DO UPDATE SET refused_count = r.refused_count + EXCLUDED.refused_count;
    END IF;

    RETURN QUERY
    SELECT c.id, CASE c.decision WHEN 'new' THEN 'admitted' ELSE c.decision END, lim_name[c.reason], lim_value[c.reason],
        lim_left[c.reason], lim_wait[c.reason], c.other
    FROM unnest(request_ids, decisions, reasons, others) AS c (id, decision, reason, other);
END
$body$;

COMMENT ON FUNCTION helix_admit(uuid[], uuid[], uuid[], uuid[], text[], numeric[], integer[], text[], bytea[], boolean) IS
    'Decides which calls of a batch may be made and counts them against every limit and budget that fits, exactly and over any number of processes.';

-- Charges what calls used, and gives back what they held: called by the settling statement with the answers it has just written.
-- Locks as helix_admit() does: rate_windows, then budget_periods, each in the order of their keys. A call is charged to the period in
-- which it was admitted. `finals`: whether the call has ended; else it keeps what it holds, less what it used.
CREATE FUNCTION helix_charge(
    request_ids uuid[], user_ids uuid[], key_ids uuid[], project_ids uuid[], agent_ids text[], admitted_ats timestamptz[],
    costs_usd numeric[], tokens integer[], finals boolean[]) RETURNS integer
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog AS $body$
#variable_conflict use_column
DECLARE
    charged integer := 0;
    subjects uuid[];
    budget_ids uuid[];
    periods date[];
    spent numeric[];
    released numeric[];
BEGIN
    IF request_ids IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(DISTINCT h.subject_id ORDER BY h.subject_id) INTO subjects FROM call_holds AS h WHERE h.request_id = ANY (request_ids);
    IF subjects IS NOT NULL THEN
        PERFORM FROM rate_windows AS w WHERE w.subject_id = ANY (subjects) ORDER BY w.subject_id FOR NO KEY UPDATE;
        UPDATE call_holds AS h SET tokens_used = h.tokens_used + c.tokens
        FROM (SELECT u.request_id, sum(u.tokens) AS tokens FROM unnest(request_ids, tokens) AS u (request_id, tokens) GROUP BY 1) AS c
        WHERE h.request_id = c.request_id;
        WITH gone AS (
            DELETE FROM call_holds AS h USING unnest(request_ids, finals) AS c (request_id, final)
            WHERE h.request_id = c.request_id AND c.final
            RETURNING h.subject_id, h.window_started_at, h.tokens, h.tokens_used, h.parallel),
        sums AS (
            SELECT g.subject_id, sum(g.parallel) AS parallel,
                coalesce(sum(g.tokens_used - g.tokens) FILTER (WHERE g.tokens > 0 AND g.window_started_at = w.window_started_at), 0) AS tokens
            FROM gone AS g JOIN rate_windows AS w ON w.subject_id = g.subject_id GROUP BY 1)
        UPDATE rate_windows AS w SET parallel = w.parallel - s.parallel, tokens = greatest(w.tokens + s.tokens, 0)
        FROM sums AS s WHERE w.subject_id = s.subject_id;
    END IF;

    IF EXISTS (SELECT FROM budgets AS b WHERE b.user_id = ANY (user_ids)) THEN
        SELECT array_agg(m.budget_id), array_agg(m.period_start), array_agg(m.cost),
            array_agg(CASE WHEN m.final THEN m.held ELSE least(m.held, m.cost) END)
        INTO budget_ids, periods, spent, released
        FROM (
            SELECT c.request_id, b.id AS budget_id, coalesce(v.period_start, helix_period_start(b.period, c.admitted_at)) AS period_start,
                coalesce(v.amount_usd, 0) AS held, sum(c.cost) AS cost, bool_or(c.final) AS final
            FROM unnest(request_ids, user_ids, key_ids, project_ids, agent_ids, admitted_ats, costs_usd, finals)
                AS c (request_id, user_id, key_id, project_id, agent_id, admitted_at, cost, final)
            LEFT JOIN api_keys AS k ON k.id = c.key_id
            JOIN budgets AS b ON b.user_id = c.user_id AND (b.scope = 'user' OR b.api_key_id = ANY (k.ancestor_ids || k.id)
                OR b.project_id = c.project_id OR b.agent_id = c.agent_id)
            LEFT JOIN budget_reservations AS v ON v.request_id = c.request_id AND v.budget_id = b.id
            GROUP BY 1, 2, 3, 4) AS m;
        PERFORM FROM budget_periods AS p
        JOIN (SELECT DISTINCT m.budget_id, m.period_start FROM unnest(budget_ids, periods) AS m (budget_id, period_start)) AS m USING (budget_id, period_start)
        ORDER BY p.budget_id, p.period_start FOR NO KEY UPDATE OF p;
        UPDATE budget_periods AS p SET reserved_usd = p.reserved_usd - m.released, settled_usd = p.settled_usd + m.spent
        FROM (SELECT m.budget_id, m.period_start, sum(m.released) AS released, sum(m.spent) AS spent
              FROM unnest(budget_ids, periods, released, spent) AS m (budget_id, period_start, released, spent) GROUP BY 1, 2) AS m
        WHERE p.budget_id = m.budget_id AND p.period_start = m.period_start;
        GET DIAGNOSTICS charged = ROW_COUNT;
        DELETE FROM budget_reservations AS v USING unnest(request_ids, finals) AS c (request_id, final)
        WHERE v.request_id = c.request_id AND c.final;
        UPDATE budget_reservations AS v SET amount_usd = greatest(v.amount_usd - c.cost, 0)
        FROM (SELECT u.request_id, sum(u.cost) AS cost FROM unnest(request_ids, costs_usd) AS u (request_id, cost)
              GROUP BY 1) AS c
        WHERE v.request_id = c.request_id;
    END IF;
    RETURN charged;
END
$body$;

COMMENT ON FUNCTION helix_charge(uuid[], uuid[], uuid[], uuid[], text[], timestamptz[], numeric[], integer[], boolean[]) IS
    'Charges answers to the budgets of their calls and gives back what ended calls held; returns how many periods it charged.';

-- ----------------------------------------------------------------------------------------------------
-- relationships
-- ----------------------------------------------------------------------------------------------------

ALTER TABLE rate_windows ADD CONSTRAINT rate_windows_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE call_refusals ADD CONSTRAINT call_refusals_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE call_refusals ADD CONSTRAINT call_refusals_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE CASCADE;
CREATE INDEX call_refusals_api_key_id_idx ON call_refusals (api_key_id) WHERE api_key_id IS NOT NULL;
ALTER TABLE idempotency_keys ADD CONSTRAINT idempotency_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;

-- ----------------------------------------------------------------------------------------------------
-- row-level security
-- ----------------------------------------------------------------------------------------------------

ALTER TABLE rate_windows ENABLE ROW LEVEL SECURITY;
ALTER TABLE rate_windows FORCE ROW LEVEL SECURITY;
CREATE POLICY rate_windows_tenant ON rate_windows TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY rate_windows_operator ON rate_windows TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY rate_windows_readonly ON rate_windows FOR SELECT TO helix_readonly USING (true);
CREATE POLICY rate_windows_recorder ON rate_windows TO helix_recorder USING (true) WITH CHECK (true);

ALTER TABLE call_holds ENABLE ROW LEVEL SECURITY;
ALTER TABLE call_holds FORCE ROW LEVEL SECURITY;
CREATE POLICY call_holds_tenant ON call_holds TO helix_app USING (EXISTS (SELECT FROM rate_windows AS parent WHERE parent.subject_id = call_holds.subject_id)) WITH CHECK (EXISTS (SELECT FROM rate_windows AS parent WHERE parent.subject_id = call_holds.subject_id));
CREATE POLICY call_holds_operator ON call_holds TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY call_holds_readonly ON call_holds FOR SELECT TO helix_readonly USING (true);
CREATE POLICY call_holds_recorder ON call_holds TO helix_recorder USING (true) WITH CHECK (true);

ALTER TABLE call_refusals ENABLE ROW LEVEL SECURITY;
ALTER TABLE call_refusals FORCE ROW LEVEL SECURITY;
CREATE POLICY call_refusals_tenant ON call_refusals TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()) AND (api_key_id IS NULL OR EXISTS (SELECT FROM public.api_keys AS target WHERE target.id = call_refusals.api_key_id)));
CREATE POLICY call_refusals_operator ON call_refusals TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY call_refusals_readonly ON call_refusals FOR SELECT TO helix_readonly USING (true);
CREATE POLICY call_refusals_recorder ON call_refusals TO helix_recorder USING (true) WITH CHECK (true);

ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY idempotency_keys_tenant ON idempotency_keys TO helix_app USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY idempotency_keys_operator ON idempotency_keys TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY idempotency_keys_readonly ON idempotency_keys FOR SELECT TO helix_readonly USING (true);
CREATE POLICY idempotency_keys_recorder ON idempotency_keys TO helix_recorder USING (true) WITH CHECK (true);

-- A key's parent must be one of the tenant's own.
ALTER POLICY api_keys_tenant ON api_keys USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()) AND (parent_key_id IS NULL OR public.helix_row_visible('public.api_keys', parent_key_id)));

-- ----------------------------------------------------------------------------------------------------
-- grants
-- ----------------------------------------------------------------------------------------------------

GRANT SELECT (rate_limit, tokens_per_minute, parallel_max) ON users TO helix_app, helix_readonly, helix_recorder;
GRANT SELECT (parent_key_id, ancestor_ids, tokens_per_minute, parallel_max, allowed_models, cache_max_age_s) ON api_keys TO helix_app, helix_readonly;
GRANT SELECT (id, request_id, selected, confidence, error_code), UPDATE (selected, confidence) ON llm_responses TO helix_recorder;
GRANT UPDATE ON budget_reservations TO helix_recorder;
GRANT SELECT ON rate_windows, call_holds, call_refusals TO helix_app, helix_readonly;
GRANT SELECT (user_id, idempotency_key, request_id, created_at) ON idempotency_keys TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON rate_windows, call_holds, call_refusals, idempotency_keys TO helix_operator;
GRANT SELECT, INSERT, UPDATE ON rate_windows, call_refusals TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON call_holds, idempotency_keys TO helix_recorder;
