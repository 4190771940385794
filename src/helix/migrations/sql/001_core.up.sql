-- 001_core.up.sql: Core: users, sessions, providers, projects, prompts, requests, responses, ledger, tools, errors.
-- Plain SQL in one transaction. The same objects, with more said about them, stand in sql/schema.

-- ----------------------------------------------------------------------------------------------------
-- functions
-- ----------------------------------------------------------------------------------------------------

-- Embedding columns (memories, knowledge, documents) need the type vector. Every other extension is optional.
CREATE EXTENSION IF NOT EXISTS vector;

-- uuidv7(): PostgreSQL 18 brings its own in pg_catalog; older servers get one of the same layout: 48 bits of Unix
-- milliseconds, version 7, 12 bits of sub-millisecond time, variant, 62 random bits.
DO $do$
BEGIN
    IF to_regprocedure('pg_catalog.uuidv7()') IS NULL THEN
        EXECUTE $sql$
            CREATE FUNCTION uuidv7() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE
            RETURN (
                SELECT encode(
                    set_byte(
                        set_byte(
                            overlay(uuid_send(gen_random_uuid())
                                    PLACING substring(int8send(t.us / 1000) FROM 3) FROM 1 FOR 6),
                            6, 112 + (((t.us % 1000) * 4096 / 1000) >> 8)::int),
                        7, (((t.us % 1000) * 4096 / 1000) & 255)::int),
                    'hex')::uuid
                FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS t
            )
        $sql$;
        EXECUTE $sql$
            COMMENT ON FUNCTION uuidv7() IS
            'A new time-ordered UUID (version 7); stands in for the built-in of PostgreSQL 18 on older servers.'
        $sql$;
    END IF;
END
$do$;

-- The bound of a time range as an id: rows of [a, b) are those with id >= uuid_floor(a) AND id < uuid_floor(b), and the
-- planner prunes partitions by it. extract(epoch) is only STABLE in the catalogue because other fields follow the time
-- zone; the epoch does not, so IMMUTABLE is true here.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(greatest(0, floor(extract(epoch FROM moment) * 1000)::bigint)), 12, '0') || '70008000000000000000')::uuid;
COMMENT ON FUNCTION uuid_floor(timestamptz) IS
    'The smallest UUIDv7 of the millisecond that holds the moment: turns a time range into an id range. Moments before 1970 give the smallest of all.';

-- NULL for an id that is not version 7, since its first 48 bits are no time.
CREATE FUNCTION uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN substr(id::text, 15, 1) = '7'
        THEN to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision)
    END;
COMMENT ON FUNCTION uuid_time(uuid) IS
    'The moment (to the millisecond) a UUIDv7 was made; NULL for any other kind of UUID.';

-- Looks at the first 48 bits whatever the version says, because that is what partitions are cut by. Never NULL for a
-- non-NULL id, so a CHECK that compares two months cannot pass by being unknown. Inlined by the planner.
CREATE FUNCTION uuid_month(id uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        date_part('year', timezone('UTC', to_timestamp(
            ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision))) * 100
        + date_part('month', timezone('UTC', to_timestamp(
            ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision)))
    )::integer;
COMMENT ON FUNCTION uuid_month(uuid) IS
    'The UTC month, as yyyymm, of the first 48 bits of an id: which monthly partition a row with that id lives in.';

-- Children of a request are made beside it, so that they fall into the same monthly partition however late they come.
CREATE FUNCTION uuidv7_beside(id uuid) RETURNS uuid
    LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN (left(id::text, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid;
COMMENT ON FUNCTION uuidv7_beside(uuid) IS
    'A new random UUIDv7 carrying the same millisecond as the argument, so both live in the same monthly partition. Not ordered among its siblings.';

-- Policies call it as (SELECT helix_tenant()) so that it is evaluated once per statement, not once per row.
CREATE FUNCTION helix_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('helix.tenant', true), '')::uuid;
COMMENT ON FUNCTION helix_tenant() IS
    'The tenant (users.id) of this transaction, from SET LOCAL helix.tenant; NULL when it is not set, and NULL matches no row.';

-- convert_to() is not marked IMMUTABLE on every supported server because conversions can be replaced; to UTF-8 from the
-- fixed encoding of one database it is.
CREATE FUNCTION helix_sha256(content text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(convert_to(content, 'UTF8'));
COMMENT ON FUNCTION helix_sha256(text) IS
    'SHA-256 (32 bytes) of a text in UTF-8: used where exact duplicates must be refused by an index.';

CREATE FUNCTION helix_set_updated_at() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$body$;
COMMENT ON FUNCTION helix_set_updated_at() IS
    'BEFORE UPDATE trigger: updated_at is kept by the database, whoever writes the row.';

-- Arguments: (1) comma-separated columns that may be set to NULL at any time, because a foreign key ON DELETE SET NULL does
-- that when a user, key or project goes; (2) optional: content columns that may be set to NULL while helix.erasure = 'on'.
-- Everything else is refused, to everybody. Retention does not delete rows, it drops whole partitions.
CREATE FUNCTION helix_append_only() RETURNS trigger
    LANGUAGE plpgsql AS $body$
DECLARE
    changeable text[] := string_to_array(coalesce(TG_ARGV[0], ''), ',');
    old_row jsonb;
    new_row jsonb;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF current_setting('helix.erasure', true) = 'on' AND TG_NARGS > 1 THEN
            changeable := changeable || string_to_array(TG_ARGV[1], ',');
        END IF;
        old_row := to_jsonb(OLD);
        new_row := to_jsonb(NEW);
        IF old_row - changeable = new_row - changeable
           AND NOT EXISTS (
               SELECT FROM unnest(changeable) AS c(name)
               WHERE new_row -> c.name IS DISTINCT FROM old_row -> c.name
                 AND new_row -> c.name IS DISTINCT FROM 'null'::jsonb)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on % is refused: the table is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation',
              HINT = 'Rows are removed only by dropping whole monthly partitions; references may only be set to NULL.';
END
$body$;
COMMENT ON FUNCTION helix_append_only() IS
    'Trigger of audit and ledger tables: refuses UPDATE, DELETE and TRUNCATE, except setting the named reference columns (and, under helix.erasure = on, the named content columns) to NULL.';

-- Every table of schema public that is RANGE-partitioned by a single uuid column gets the partition <table>_pYYYYMM for each month from
-- months_back ago to months_ahead ahead. A partition is built aside and then attached. Attaching takes SHARE ROW
-- EXCLUSIVE on the tables its foreign keys point to until the transaction ends, so writers wait for as long as this call takes
-- (a fraction of a second unless rows have to be moved): run it under a lock_timeout and try again. Rows that fell into <table>_default because their month was missing are moved into it first:
--   * foreign keys that point at the table are taken off and put back (a DELETE in the default partition would otherwise
--     cascade into the rows that refer to it), which checks them again: slow, right, and rare;
--   * row triggers of the default partition sleep meanwhile (append-only tables refuse DELETE).
-- The whole call is one transaction: it either did everything or nothing. Must be run by the owner of the tables.
CREATE FUNCTION helix_create_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    parent record;
    foreign_key record;
    month_start timestamp;      -- UTC
    low uuid;
    high uuid;
    part_name text;
    default_name text;
    column_list text;
    has_rows boolean;
    dropped text[];             -- statements that put the foreign keys back
    created integer := 0;
BEGIN
    IF months_back < 0 OR months_ahead < 0 OR months_back > 1200 OR months_ahead > 120 THEN
        RAISE EXCEPTION 'months_back must be 0..1200 and months_ahead 0..120' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('helix_create_partitions'));

    FOR parent IN
        SELECT c.oid, c.relname, n.nspname, k.attname AS key_name, p.partdefid::regclass AS default_partition,
               p.partdefid
        FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
        WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype
          AND n.nspname = 'public'
        ORDER BY c.relname
    LOOP
        FOR month_start IN
            SELECT generate_series(
                date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => months_back),
                date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => months_ahead),
                interval '1 month')
        LOOP
            -- Names are cut to 63 bytes by the server; ours stay far below.
            part_name := format('%I.%I', parent.nspname, parent.relname || '_p' || to_char(month_start, 'YYYYMM'));
            CONTINUE WHEN to_regclass(part_name) IS NOT NULL;
            -- uuid_floor() written out: this body must not depend on the search_path.
            low := (lpad(to_hex((extract(epoch FROM month_start) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;
            high := (lpad(to_hex((extract(epoch FROM month_start + interval '1 month') * 1000)::bigint), 12, '0')
                     || '70008000000000000000')::uuid;

            EXECUTE format('CREATE TABLE %s (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)',
                           part_name, parent.nspname, parent.relname);
            dropped := '{}';
            IF parent.partdefid <> 0 THEN
                default_name := parent.default_partition::text;
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', default_name);
                EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %I < $2)',
                               default_name, parent.key_name, parent.key_name)
                    INTO has_rows USING low, high;
                IF has_rows THEN
                    FOR foreign_key IN
                        SELECT con.conname, con.conrelid::regclass::text AS table_name, pg_get_constraintdef(con.oid) AS definition
                        FROM pg_constraint con
                        WHERE con.contype = 'f' AND con.confrelid = parent.oid AND con.conparentid = 0
                    LOOP
                        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', foreign_key.table_name, foreign_key.conname);
                        dropped := dropped || format('ALTER TABLE %s ADD CONSTRAINT %I %s',
                            foreign_key.table_name, foreign_key.conname, foreign_key.definition);
                    END LOOP;
                    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO column_list
                    FROM pg_attribute a
                    WHERE a.attrelid = parent.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
                    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', default_name);
                    EXECUTE format(
                        'WITH moved AS (DELETE FROM %1$s WHERE %2$I >= $1 AND %2$I < $2 RETURNING %3$s) '
                        'INSERT INTO %4$s (%3$s) OVERRIDING SYSTEM VALUE SELECT %3$s FROM moved',
                        default_name, parent.key_name, column_list, part_name) USING low, high;
                    EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', default_name);
                END IF;
            END IF;
            EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                           parent.nspname, parent.relname, part_name, low, high);
            FOR i IN 1 .. coalesce(array_length(dropped, 1), 0) LOOP
                EXECUTE dropped[i];
            END LOOP;
            created := created + 1;
        END LOOP;
    END LOOP;
    RETURN created;
END
$body$;
COMMENT ON FUNCTION helix_create_partitions(integer, integer) IS
    'Makes the missing monthly partitions of every table RANGE-partitioned by one uuid column, moving rows out of the default partition where needed; returns how many it made. Idempotent; run by the owner of the tables.';

-- ----------------------------------------------------------------------------------------------------
-- users sessions
-- ----------------------------------------------------------------------------------------------------

-- users: one row per account, and at once the tenant: every tenant table carries users.id. Written by registration and the
-- operator. Kept until erased; erasing one removes what is the user's own and unlinks accounting and audit rows.
-- There is no api_key column, whatever a seed prints: keys are rows of api_keys, hashed.
CREATE TABLE users (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    username      varchar(255),
    email         varchar(255) NOT NULL,
    password_hash varchar(255) NOT NULL,
    name          varchar(255),
    role          varchar(50)  NOT NULL DEFAULT 'user',
    status        varchar(50)  NOT NULL DEFAULT 'active',
    is_active     boolean      NOT NULL GENERATED ALWAYS AS (status = 'active') STORED,
    metadata      jsonb        NOT NULL DEFAULT '{}',
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    last_login    timestamptz,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_username_key UNIQUE (username),
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_role_check CHECK (role IN ('user', 'admin', 'service')),
    CONSTRAINT users_status_check CHECK (status IN ('active', 'suspended', 'deleted')),
    CONSTRAINT users_metadata_check CHECK (jsonb_typeof(metadata) = 'object')
);
COMMENT ON TABLE users IS 'One row per account; users.id is the tenant id that row-level security compares with helix_tenant().';
COMMENT ON COLUMN users.username IS 'Optional second name to log in with; unique when present.';
COMMENT ON COLUMN users.password_hash IS 'bcrypt hash, cost 12 or more; ''!'' for an account that has no password (service accounts). Never shown.';
COMMENT ON COLUMN users.name IS 'Display name.';
COMMENT ON COLUMN users.role IS 'user, admin (may use the admin API) or service (a machine account).';
COMMENT ON COLUMN users.status IS 'active; suspended (refused, can come back); deleted (refused, waits for erasure).';
COMMENT ON COLUMN users.is_active IS 'Derived: status = active. The name one seed uses.';
COMMENT ON COLUMN users.last_login IS 'Last successful login with a password; NULL before the first.';

-- Is this address taken, in whatever case it was typed? (log-in and registration; idx_users_email would only repeat users_email_key)
CREATE UNIQUE INDEX users_email_lower_key ON users (lower(email));

-- Which accounts are suspended or wait for erasure?
CREATE INDEX idx_users_status ON users (status);

-- Who are the admins, which accounts are machines?
CREATE INDEX idx_users_role ON users (role);
CREATE TRIGGER users_set_updated_at BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- user_sessions: one row per session: a login (then token_hash is set) or a stateful run of requests opened through an API
-- key (then it is NULL). Written by login and the gateway. Swept after expires_at; goes with its user.
-- There is no session_token column: only the token's hash is stored.
CREATE TABLE user_sessions (
    id            uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid        NOT NULL,
    provider_id   uuid,
    token_hash    bytea,
    context       jsonb       NOT NULL DEFAULT '{}',
    metadata      jsonb       NOT NULL DEFAULT '{}',
    memory_id     uuid,
    status        varchar(50) NOT NULL DEFAULT 'active',
    request_count integer     NOT NULL DEFAULT 0,
    last_activity timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_sessions_pkey PRIMARY KEY (id),
    CONSTRAINT user_sessions_token_hash_key UNIQUE (token_hash),
    CONSTRAINT user_sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_sessions_token_hash_check CHECK (octet_length(token_hash) = 32),
    CONSTRAINT user_sessions_context_check CHECK (jsonb_typeof(context) = 'object'),
    CONSTRAINT user_sessions_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
    CONSTRAINT user_sessions_status_check CHECK (status IN ('active', 'expired', 'revoked')),
    CONSTRAINT user_sessions_request_count_check CHECK (request_count >= 0)
);
COMMENT ON TABLE user_sessions IS 'One row per login or stateful session of a user; the token itself is never stored.';
COMMENT ON COLUMN user_sessions.provider_id IS 'Provider the session prefers; NULL lets the gateway choose.';
COMMENT ON COLUMN user_sessions.token_hash IS 'SHA-256 of the session token, 32 bytes; NULL for a session opened through an API key. Never shown.';
COMMENT ON COLUMN user_sessions.context IS 'State the session carries from request to request: an object.';
COMMENT ON COLUMN user_sessions.memory_id IS 'Memory the session continues from; NULL for none.';
COMMENT ON COLUMN user_sessions.request_count IS 'Requests made in this session.';
COMMENT ON COLUMN user_sessions.last_activity IS 'Time of the last request in this session.';

-- Which sessions does this user have? (idx_sessions_user_id is the name of one seed; another used it for the view sessions)
CREATE INDEX idx_sessions_user_id ON user_sessions (user_id);

-- How many sessions are active?
CREATE INDEX idx_sessions_status ON user_sessions (status);

-- Which sessions are due to be swept?
CREATE INDEX idx_sessions_expires ON user_sessions (expires_at);

-- Which sessions were used last, which lie idle?
CREATE INDEX idx_sessions_last_activity ON user_sessions (last_activity);

-- api_keys: one row per API key of a user. Written when a key is made (the key is shown once, then only its hash is known),
-- revoked or used (last_used_at, at most once a minute). Kept after revocation so that usage still names the key.
CREATE TABLE api_keys (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id      uuid         NOT NULL,
    key_hash     bytea        NOT NULL,
    key_prefix   varchar(32)  NOT NULL,
    name         varchar(100) NOT NULL DEFAULT '',
    scopes       text[]       NOT NULL DEFAULT '{completions}',
    rate_limit   integer      NOT NULL DEFAULT 1000,
    status       varchar(20)  NOT NULL DEFAULT 'active',
    created_at   timestamptz  NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash),
    CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) = 32),
    CONSTRAINT api_keys_scopes_check CHECK (scopes <@ ARRAY[
        'completions', 'embeddings', 'models', 'debates', 'memories', 'knowledge', 'conversations', 'tasks', 'projects',
        'prompts', 'tools', 'usage', 'admin']::text[]),
    CONSTRAINT api_keys_rate_limit_check CHECK (rate_limit >= 0),
    CONSTRAINT api_keys_status_check CHECK (status IN ('active', 'revoked', 'expired')),
    CONSTRAINT api_keys_revoked_check CHECK (status <> 'revoked' OR revoked_at IS NOT NULL)
);
COMMENT ON TABLE api_keys IS 'One row per API key; the key itself is shown once when it is made and never stored.';
COMMENT ON COLUMN api_keys.key_hash IS 'SHA-256 of the whole key, 32 bytes. Never shown.';
COMMENT ON COLUMN api_keys.key_prefix IS 'First characters of the key, shown so that people can tell keys apart.';
COMMENT ON COLUMN api_keys.scopes IS 'What the key may do: completions (chat, completions, responses, messages), embeddings, models, debates, memories, knowledge, conversations, tasks, projects, prompts, tools, usage, admin. Empty: nothing.';
COMMENT ON COLUMN api_keys.rate_limit IS 'Requests per minute; 0 refuses all.';
COMMENT ON COLUMN api_keys.status IS 'active, revoked, or expired (set by the sweeper; an active key past expires_at is refused all the same).';
COMMENT ON COLUMN api_keys.expires_at IS 'Refused from this moment on; NULL never expires.';
COMMENT ON COLUMN api_keys.last_used_at IS 'Last use, to the minute.';

-- A revoked key stays revoked, whoever writes the row: a tenant may update its own keys, but not bring one back.
CREATE FUNCTION helix_refuse_unrevoke() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'the key % was revoked and cannot be used again', OLD.key_prefix
        USING ERRCODE = 'restrict_violation', HINT = 'Make a new key.';
END
$body$;
COMMENT ON FUNCTION helix_refuse_unrevoke() IS 'Trigger of api_keys: revoking a key is for good.';
CREATE TRIGGER api_keys_refuse_unrevoke BEFORE UPDATE OF status, revoked_at, key_hash ON api_keys FOR EACH ROW
    WHEN (OLD.status = 'revoked' AND (NEW.status <> 'revoked' OR NEW.revoked_at IS DISTINCT FROM OLD.revoked_at OR NEW.key_hash <> OLD.key_hash))
    EXECUTE FUNCTION helix_refuse_unrevoke();

-- Which keys does this user have? (idx_api_keys_key_hash would only repeat api_keys_key_hash_key)
CREATE INDEX idx_api_keys_user_id ON api_keys (user_id);

-- Which keys are revoked or expired?
CREATE INDEX idx_api_keys_status ON api_keys (status);

-- github_credentials: one row per user who linked GitHub. Written by the OAuth callback and the refresher. Goes with its user.
CREATE TABLE github_credentials (
    id               uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id          uuid        NOT NULL,
    github_login     varchar(255),
    access_token     text        NOT NULL,
    refresh_token    text,
    key_id           varchar(64) NOT NULL,
    token_expires_at timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT github_credentials_pkey PRIMARY KEY (id),
    CONSTRAINT github_credentials_user_id_key UNIQUE (user_id),
    CONSTRAINT github_credentials_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
);
COMMENT ON TABLE github_credentials IS 'The GitHub account a user linked; tokens are ciphertext.';
COMMENT ON COLUMN github_credentials.access_token IS 'Ciphertext, bound to this row, made with key_id. Never shown.';
COMMENT ON COLUMN github_credentials.refresh_token IS 'Ciphertext, made with key_id; NULL for a personal access token, which cannot be refreshed. Never shown.';
COMMENT ON COLUMN github_credentials.key_id IS 'Which encryption key made the ciphertexts; rotation rewrites rows with an old one.';
COMMENT ON COLUMN github_credentials.token_expires_at IS 'When the access token ends; NULL for a token without end. Refreshed before.';

-- Which tokens must be refreshed soon? (idx_github_creds_user would only repeat github_credentials_user_id_key)
CREATE INDEX github_credentials_token_expires_at_idx ON github_credentials (token_expires_at) WHERE refresh_token IS NOT NULL;
CREATE TRIGGER github_credentials_set_updated_at BEFORE UPDATE ON github_credentials FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ----------------------------------------------------------------------------------------------------
-- llm providers
-- ----------------------------------------------------------------------------------------------------

-- llm_providers: one row per configured upstream. Written by the operator, the health probe, the verifier and the models
-- sync. Kept until removed; responses keep the provider's name. There is no api_key column: provider_configs holds the
-- credentials, encrypted.
CREATE TABLE llm_providers (
    id                    uuid         NOT NULL DEFAULT gen_random_uuid(),
    name                  varchar(255) NOT NULL,
    display_name          varchar(255),
    provider_type         varchar(100) NOT NULL DEFAULT 'api_key',
    type                  varchar(100) NOT NULL GENERATED ALWAYS AS (provider_type) STORED,
    protocol              varchar(50)  NOT NULL DEFAULT 'openai',
    base_url              varchar(500),
    model                 varchar(255),
    enabled               boolean      NOT NULL DEFAULT true,
    is_enabled            boolean      NOT NULL GENERATED ALWAYS AS (enabled) STORED,
    priority              integer      NOT NULL DEFAULT 5,
    weight                numeric(5,2) NOT NULL DEFAULT 1.0,
    capabilities          jsonb        NOT NULL DEFAULT '{}',
    rate_limits           jsonb        NOT NULL DEFAULT '{}',
    config                jsonb        NOT NULL DEFAULT '{}',
    health_status         varchar(50)  NOT NULL DEFAULT 'unknown',
    response_time         bigint       NOT NULL DEFAULT 0,
    last_health_check     timestamptz,
    verification_score    numeric(4,2) NOT NULL DEFAULT 0.0,
    last_verified         timestamptz,
    created_at            timestamptz  NOT NULL DEFAULT now(),
    updated_at            timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT llm_providers_pkey PRIMARY KEY (id),
    CONSTRAINT llm_providers_name_key UNIQUE (name),
    CONSTRAINT llm_providers_provider_type_check CHECK (provider_type IN ('api_key', 'oauth', 'free')),
    CONSTRAINT llm_providers_protocol_check CHECK (protocol IN ('openai', 'anthropic', 'gemini', 'mock')),
    CONSTRAINT llm_providers_priority_check CHECK (priority >= 0),
    CONSTRAINT llm_providers_weight_check CHECK (weight >= 0),
    CONSTRAINT llm_providers_health_status_check CHECK (health_status IN ('healthy', 'degraded', 'unhealthy', 'unknown')),
    CONSTRAINT llm_providers_response_time_check CHECK (response_time >= 0),
    CONSTRAINT llm_providers_verification_score_check CHECK (verification_score BETWEEN 0 AND 10)
);
COMMENT ON TABLE llm_providers IS 'One row per configured LLM provider; credentials are in provider_configs, never here.';
COMMENT ON COLUMN llm_providers.provider_type IS 'How the provider is paid and authenticated: api_key, oauth or free.';
COMMENT ON COLUMN llm_providers.type IS 'Derived: provider_type. The name two seeds use.';
COMMENT ON COLUMN llm_providers.protocol IS 'Wire format spoken: openai (and everything compatible with it), anthropic, gemini, or mock.';
COMMENT ON COLUMN llm_providers.base_url IS 'Root of the API; NULL for the mock provider, which is not called over the network.';
COMMENT ON COLUMN llm_providers.model IS 'Default model when a request names only the provider.';
COMMENT ON COLUMN llm_providers.is_enabled IS 'Derived: enabled. The name one seed uses.';
COMMENT ON COLUMN llm_providers.priority IS 'Order of preference in routing; lower is tried first.';
COMMENT ON COLUMN llm_providers.weight IS 'Weight of this provider''s vote in an ensemble.';
COMMENT ON COLUMN llm_providers.capabilities IS 'What it can do: streaming, tools, vision, embeddings ... An object of booleans.';
COMMENT ON COLUMN llm_providers.rate_limits IS 'What the provider allows us, e.g. {"requests_per_minute": 60, "tokens_per_minute": 100000}.';
COMMENT ON COLUMN llm_providers.config IS 'Settings that are no secret: timeouts, headers, model aliases.';
COMMENT ON COLUMN llm_providers.response_time IS 'Last measured response time in milliseconds.';
COMMENT ON COLUMN llm_providers.verification_score IS 'Measured score from 0 (fails) to 10; the formula is documented with the verifier.';

-- Which providers may be routed to?
CREATE INDEX idx_providers_enabled ON llm_providers (enabled);

-- Which providers are the best measured? (idx_providers_name would only repeat llm_providers_name_key)
CREATE INDEX idx_providers_score ON llm_providers (verification_score DESC);

-- Which providers are free, which need a key?
CREATE INDEX idx_providers_type ON llm_providers (provider_type);
CREATE TRIGGER llm_providers_set_updated_at BEFORE UPDATE ON llm_providers FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- provider_configs: one row per setting of a provider, above all its credentials. Written by the operator and by key
-- rotation. Goes with its provider.
CREATE TABLE provider_configs (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    provider_id uuid         NOT NULL,
    key         varchar(100) NOT NULL,
    value       text         NOT NULL,
    encrypted   boolean      NOT NULL DEFAULT true,
    key_id      varchar(64),
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT provider_configs_pkey PRIMARY KEY (id),
    CONSTRAINT provider_configs_provider_id_key_key UNIQUE (provider_id, key),
    CONSTRAINT provider_configs_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE CASCADE,
    CONSTRAINT provider_configs_key_id_check CHECK (encrypted = (key_id IS NOT NULL)),
    CONSTRAINT provider_configs_secret_check CHECK (encrypted OR key !~* '(key|token|secret|password|credential)')
);
COMMENT ON TABLE provider_configs IS 'Settings of a provider by name; credentials are ciphertext.';
COMMENT ON COLUMN provider_configs.key IS 'Name of the setting, e.g. api_key. A name that sounds like a secret must be encrypted.';
COMMENT ON COLUMN provider_configs.value IS 'Ciphertext bound to this row when encrypted, else the plain value. Never shown.';
COMMENT ON COLUMN provider_configs.key_id IS 'Which encryption key made the ciphertext; NULL exactly when the value is not encrypted.';

-- Which settings does this provider have?
CREATE INDEX idx_provider_configs_provider ON provider_configs (provider_id);

-- Which rows were made with an old encryption key?
CREATE INDEX provider_configs_key_id_idx ON provider_configs (key_id);
CREATE TRIGGER provider_configs_set_updated_at BEFORE UPDATE ON provider_configs FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ----------------------------------------------------------------------------------------------------
-- projects
-- ----------------------------------------------------------------------------------------------------

-- projects: one row per project of a user. Written by the projects API. Goes with its user; usage and audit stay, unlinked.
CREATE TABLE projects (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid         NOT NULL,
    name          varchar(255) NOT NULL,
    description   text,
    language      varchar(50)  NOT NULL,
    status        varchar(50)  NOT NULL DEFAULT 'active',
    current_stage varchar(100),
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    completed_at  timestamptz,
    CONSTRAINT projects_pkey PRIMARY KEY (id),
    CONSTRAINT projects_status_check CHECK (status IN ('active', 'paused', 'completed', 'failed', 'cancelled', 'archived'))
);
COMMENT ON TABLE projects IS 'One row per project of a user.';
COMMENT ON COLUMN projects.language IS 'Main programming language: python, nodejs, java ... An open set.';
COMMENT ON COLUMN projects.current_stage IS 'Name of the stage the project is in; the agents'' own words.';

-- Which projects does this user have?
CREATE INDEX idx_projects_user ON projects (user_id);

-- Which projects are active, which failed?
CREATE INDEX idx_projects_status ON projects (status);

-- Which projects are the newest?
CREATE INDEX idx_projects_created ON projects (created_at);
CREATE TRIGGER projects_set_updated_at BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- project_state: at most one row per project: where to resume after a stop. Written by the agents after each action.
-- Tenant: through the project. Goes with it.
CREATE TABLE project_state (
    id               uuid        NOT NULL DEFAULT gen_random_uuid(),
    project_id       uuid        NOT NULL,
    current_task_id  uuid,
    current_agent_id varchar(100),
    last_action      text,
    status           varchar(50) NOT NULL DEFAULT 'active',
    metadata         jsonb       NOT NULL DEFAULT '{}',
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT project_state_pkey PRIMARY KEY (id),
    CONSTRAINT project_state_project_id_key UNIQUE (project_id),
    CONSTRAINT project_state_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE,
    CONSTRAINT project_state_status_check CHECK (status IN ('active', 'paused', 'completed', 'failed', 'cancelled', 'archived'))
);
COMMENT ON TABLE project_state IS 'Where a project stands: task, agent and last action to resume from.';
COMMENT ON COLUMN project_state.current_task_id IS 'Task to resume; set to NULL before the task''s month is dropped.';
COMMENT ON COLUMN project_state.last_action IS 'What was done last, in words.';

-- Which projects wait to be resumed? (idx_project_state_project would only repeat project_state_project_id_key)
CREATE INDEX idx_project_state_status ON project_state (status);

-- Which projects stand at this task? (asked when a task is deleted)
CREATE INDEX project_state_current_task_id_idx ON project_state (current_task_id) WHERE current_task_id IS NOT NULL;
CREATE TRIGGER project_state_set_updated_at BEFORE UPDATE ON project_state FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- cancelled_projects: one row per cancellation. Written once by the cancellation; kept for ever, also when the project and
-- its user are gone.
CREATE TABLE cancelled_projects (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    project_id   uuid         NOT NULL,
    user_id      uuid,
    project_name varchar(255) NOT NULL,
    stage        varchar(100),
    cancelled_at timestamptz  NOT NULL DEFAULT now(),
    cancelled_by uuid,
    reason       text,
    metadata     jsonb        NOT NULL DEFAULT '{}',
    CONSTRAINT cancelled_projects_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE cancelled_projects IS 'Record of cancelled projects; kept for ever.';
COMMENT ON COLUMN cancelled_projects.project_id IS 'Joins projects; no FK because the record outlives the project.';
COMMENT ON COLUMN cancelled_projects.user_id IS 'Owner of the project (the tenant); NULL after the user is erased.';
COMMENT ON COLUMN cancelled_projects.stage IS 'Stage the project was in.';
COMMENT ON COLUMN cancelled_projects.cancelled_by IS 'User who cancelled it, the owner or an admin.';

-- What did this user cancel?
CREATE INDEX idx_cancelled_projects_user ON cancelled_projects (cancelled_by);

-- What was cancelled lately?
CREATE INDEX idx_cancelled_projects_date ON cancelled_projects (cancelled_at);

-- Which of this tenant's projects were cancelled?
CREATE INDEX cancelled_projects_user_id_idx ON cancelled_projects (user_id);

-- archived_projects: one row per archived project. Written once by the archiver; kept for ever, the files apart.
CREATE TABLE archived_projects (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    project_id   uuid         NOT NULL,
    user_id      uuid,
    project_name varchar(255) NOT NULL,
    description  text,
    language     varchar(50),
    completed_at timestamptz  NOT NULL,
    archived_at  timestamptz  NOT NULL DEFAULT now(),
    archive_path text,
    metadata     jsonb        NOT NULL DEFAULT '{}',
    CONSTRAINT archived_projects_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE archived_projects IS 'Record of archived projects; kept for ever.';
COMMENT ON COLUMN archived_projects.project_id IS 'Joins projects; no FK because the record outlives the project.';
COMMENT ON COLUMN archived_projects.user_id IS 'Owner of the project (the tenant); NULL after the user is erased.';
COMMENT ON COLUMN archived_projects.archive_path IS 'Where the archived files lie; NULL when there are none.';

-- Which projects did this user archive?
CREATE INDEX idx_archived_projects_user ON archived_projects (user_id);

-- What was archived lately?
CREATE INDEX idx_archived_projects_date ON archived_projects (archived_at);

-- ----------------------------------------------------------------------------------------------------
-- prompts
-- ----------------------------------------------------------------------------------------------------

-- prompts: one row per version of the prompt of an agent type. Written by prompt authors; activation and rollback only move
-- is_active. Kept for ever: requests name the version they used.
CREATE TABLE prompts (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    agent_type   varchar(100) NOT NULL,
    version      varchar(50)  NOT NULL,
    prompt_text  text         NOT NULL,
    is_active    boolean      NOT NULL DEFAULT false,
    activated_at timestamptz,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    created_by   varchar(100),
    notes        text,
    CONSTRAINT prompts_pkey PRIMARY KEY (id),
    CONSTRAINT prompts_agent_type_version_key UNIQUE (agent_type, version),
    CONSTRAINT prompts_version_check CHECK (version ~
        '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$')
);
COMMENT ON TABLE prompts IS 'One row per version of an agent type''s prompt; at most one version is active per agent type.';
COMMENT ON COLUMN prompts.agent_type IS 'orchestrator, backend_dev ... An open set.';
COMMENT ON COLUMN prompts.version IS 'Semantic version, e.g. 1.2.3.';
COMMENT ON COLUMN prompts.activated_at IS 'When this version was last made the active one; NULL if never.';
COMMENT ON COLUMN prompts.created_by IS 'Author, in words: the row outlives accounts.';

-- Which versions does this agent type have?
CREATE INDEX idx_prompts_agent_type ON prompts (agent_type);

-- Which version of this agent type is active, which are not?
CREATE INDEX idx_prompts_active ON prompts (agent_type, is_active);

-- Refuses a second active version of one agent type.
CREATE UNIQUE INDEX prompts_one_active_key ON prompts (agent_type) WHERE is_active;

-- prompt_tests: one row per test every version of an agent type's prompt is held to. Written by prompt authors; kept.
CREATE TABLE prompt_tests (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    agent_type  varchar(100) NOT NULL,
    name        varchar(255) NOT NULL,
    description text,
    input       jsonb        NOT NULL DEFAULT '{}',
    expected    jsonb        NOT NULL DEFAULT '{}',
    evaluator   varchar(100) NOT NULL DEFAULT 'contains',
    pass_score  numeric(5,2),
    enabled     boolean      NOT NULL DEFAULT true,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT prompt_tests_pkey PRIMARY KEY (id),
    CONSTRAINT prompt_tests_agent_type_name_key UNIQUE (agent_type, name),
    CONSTRAINT prompt_tests_pass_score_check CHECK (pass_score BETWEEN 0 AND 100)
);
COMMENT ON TABLE prompt_tests IS 'Definitions of the tests that versions of a prompt are held to.';
COMMENT ON COLUMN prompt_tests.input IS 'What the prompt is tried with: variables and messages.';
COMMENT ON COLUMN prompt_tests.expected IS 'What the evaluator compares the output with.';
COMMENT ON COLUMN prompt_tests.evaluator IS 'Which evaluator decides, e.g. exact, contains, regex, json_schema, llm_judge.';
COMMENT ON COLUMN prompt_tests.pass_score IS 'Least score (0 to 100) that passes; NULL when the evaluator says pass or fail itself.';
CREATE TRIGGER prompt_tests_set_updated_at BEFORE UPDATE ON prompt_tests FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- prompt_test_results: one row per run of one test against one prompt version. Written by the test runner; kept for ever.
CREATE TABLE prompt_test_results (
    id        uuid         NOT NULL DEFAULT gen_random_uuid(),
    prompt_id uuid         NOT NULL,
    test_id   uuid,
    test_name varchar(255) NOT NULL,
    passed    boolean      NOT NULL,
    score     numeric(5,2),
    output    text,
    evaluator varchar(100),
    tested_at timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT prompt_test_results_pkey PRIMARY KEY (id),
    CONSTRAINT prompt_test_results_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts (id) ON DELETE CASCADE,
    CONSTRAINT prompt_test_results_test_id_fkey FOREIGN KEY (test_id) REFERENCES prompt_tests (id) ON DELETE SET NULL,
    CONSTRAINT prompt_test_results_score_check CHECK (score BETWEEN 0 AND 100)
);
COMMENT ON TABLE prompt_test_results IS 'How a prompt version did in a test; every run is kept.';
COMMENT ON COLUMN prompt_test_results.test_id IS 'Definition run; NULL for a test without one or whose definition was deleted.';
COMMENT ON COLUMN prompt_test_results.score IS '0.00 to 100.00.';
COMMENT ON COLUMN prompt_test_results.evaluator IS 'Which evaluator decided.';

-- How did this prompt version do?
CREATE INDEX idx_prompt_tests_prompt ON prompt_test_results (prompt_id);

-- What was tested lately?
CREATE INDEX idx_prompt_tests_date ON prompt_test_results (tested_at);

-- How did versions do in this test? (asked when a definition is deleted)
CREATE INDEX prompt_test_results_test_id_idx ON prompt_test_results (test_id);

-- ----------------------------------------------------------------------------------------------------
-- requests responses
-- ----------------------------------------------------------------------------------------------------

-- llm_requests: one row per request of a client, committed before anything is sent to a provider. Written by the gateway;
-- afterwards only status, started_at and completed_at change. Archived after 90 days, the texts earlier if so set.
CREATE TABLE llm_requests (
    id                uuid         NOT NULL DEFAULT uuidv7(),
    user_id           uuid,
    api_key_id        uuid,
    session_id        uuid,
    project_id        uuid,
    agent_id          varchar(100),
    model_name        varchar(255) NOT NULL,
    request_type      varchar(50)  NOT NULL DEFAULT 'chat',
    status            varchar(50)  NOT NULL DEFAULT 'pending',
    stream            boolean      NOT NULL DEFAULT false,
    model_params      jsonb        NOT NULL DEFAULT '{}',
    ensemble_config   jsonb,
    memory_enhanced   boolean      NOT NULL DEFAULT false,
    memory            jsonb,
    prompt_id         uuid,
    idempotency_key   varchar(255),
    client_request_id varchar(255),
    metadata          jsonb,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    started_at        timestamptz,
    completed_at      timestamptz,
    CONSTRAINT llm_requests_pkey PRIMARY KEY (id),
    CONSTRAINT llm_requests_request_type_check CHECK (request_type IN
        ('completion', 'chat', 'embedding', 'vision', 'moderation', 'response', 'message')),
    CONSTRAINT llm_requests_status_check CHECK (status IN ('pending', 'running', 'completed', 'failed'))
) PARTITION BY RANGE (id);

CREATE TABLE llm_requests_default PARTITION OF llm_requests DEFAULT;
COMMENT ON TABLE llm_requests IS 'One row per model request, committed before the provider is called; the text is in llm_request_bodies, the answers are in llm_responses.';
COMMENT ON COLUMN llm_requests.id IS 'UUIDv7 made by Helix, never by the client; also the partition key.';
COMMENT ON COLUMN llm_requests.user_id IS 'Tenant; NULL after the user is erased.';
COMMENT ON COLUMN llm_requests.model_name IS 'Model as the client asked for it, also a virtual one such as ensemble/fast.';
COMMENT ON COLUMN llm_requests.request_type IS 'completion, chat, embedding, vision, moderation, response (OpenAI Responses) or message (Anthropic Messages).';
COMMENT ON COLUMN llm_requests.status IS 'pending (committed, not yet sent), running (sent), completed, failed.';
COMMENT ON COLUMN llm_requests.stream IS 'Whether the client asked for a stream.';
COMMENT ON COLUMN llm_requests.model_params IS 'temperature, top_p, max_tokens ... as sent, without the texts.';
COMMENT ON COLUMN llm_requests.ensemble_config IS 'How several providers were asked and their answers chosen; NULL for a plain request.';
COMMENT ON COLUMN llm_requests.memory_enhanced IS 'Whether memories were added to what the client sent.';
COMMENT ON COLUMN llm_requests.memory IS 'Which memories were added (ids and scores); NULL when none.';
COMMENT ON COLUMN llm_requests.prompt_id IS 'Prompt version used; NULL when none was named.';
COMMENT ON COLUMN llm_requests.idempotency_key IS 'Idempotency-Key of the client; counts within the tenant. Uniqueness is enforced by the gateway, a partitioned table cannot.';
COMMENT ON COLUMN llm_requests.client_request_id IS 'Request id the client sent; only a note, never a key.';
COMMENT ON COLUMN llm_requests.started_at IS 'When the first provider was called.';
COMMENT ON COLUMN llm_requests.completed_at IS 'When the request reached completed or failed.';

-- What did this tenant ask? (idx_requests_user of another seed has the same columns)
CREATE INDEX idx_requests_user_id ON llm_requests (user_id);

-- What was asked in this session?
CREATE INDEX idx_requests_session_id ON llm_requests (session_id) WHERE session_id IS NOT NULL;

-- Which requests are under way, or were cut off by a crash?
CREATE INDEX idx_requests_status ON llm_requests (status) WHERE status IN ('pending', 'running');

-- What was asked between two moments? Rows lie in time order, so block ranges suffice. (idx_requests_created: same column)
CREATE INDEX idx_requests_created_at ON llm_requests USING brin (created_at) WITH (autosummarize = on);

-- What was asked with this key? (forensics of a leaked key; unlinking a deleted one)
CREATE INDEX llm_requests_api_key_id_idx ON llm_requests (api_key_id) WHERE api_key_id IS NOT NULL;

-- What was asked for this project?
CREATE INDEX llm_requests_project_id_idx ON llm_requests (project_id) WHERE project_id IS NOT NULL;

-- What was asked with this prompt version?
CREATE INDEX llm_requests_prompt_id_idx ON llm_requests (prompt_id) WHERE prompt_id IS NOT NULL;

-- Was this request of the tenant seen before?
CREATE INDEX llm_requests_user_id_idempotency_key_idx ON llm_requests (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- llm_request_bodies: at most one row per request: what the client sent. Written with the request, in the same commit.
-- Dropped, redacted or archived without touching the numbers; erased with its user.
CREATE TABLE llm_request_bodies (
    request_id   uuid    NOT NULL,
    user_id      uuid,
    request_body json    NOT NULL,
    body_bytes   integer NOT NULL,
    CONSTRAINT llm_request_bodies_pkey PRIMARY KEY (request_id),
    CONSTRAINT llm_request_bodies_request_id_fkey FOREIGN KEY (request_id) REFERENCES llm_requests (id) ON DELETE CASCADE,
    CONSTRAINT llm_request_bodies_body_bytes_check CHECK (body_bytes >= 0)
) PARTITION BY RANGE (request_id);

CREATE TABLE llm_request_bodies_default PARTITION OF llm_request_bodies DEFAULT;
COMMENT ON TABLE llm_request_bodies IS 'What the client sent, word for word; apart from llm_requests so that texts can go while numbers stay.';
COMMENT ON COLUMN llm_request_bodies.user_id IS 'Tenant; the body is erased with the user.';
COMMENT ON COLUMN llm_request_bodies.request_body IS 'JSON as sent. json, not jsonb: nothing is reordered, merged or refused (jsonb refuses \u0000).';
COMMENT ON COLUMN llm_request_bodies.body_bytes IS 'Length of the body as sent, in bytes.';

-- Which texts are this tenant's? (erasure)
CREATE INDEX llm_request_bodies_user_id_idx ON llm_request_bodies (user_id) WHERE user_id IS NOT NULL;

-- llm_responses: one row per answer of a provider, failures included: an ensemble or a retry gives several to one request.
-- Committed, with usage and cost, before the last byte goes to the client. Inserted once, never changed; kept with its request.
CREATE TABLE llm_responses (
    id                uuid           NOT NULL DEFAULT uuidv7(),
    request_id        uuid           NOT NULL,
    user_id           uuid,
    provider_id       uuid,
    provider_name     varchar(255)   NOT NULL,
    model_name        varchar(255)   NOT NULL,
    upstream_id       varchar(255),
    status            varchar(50)    NOT NULL,
    error_code        varchar(100),
    error             text,
    http_status       smallint,
    tokens_prompt     integer        NOT NULL DEFAULT 0,
    tokens_completion integer        NOT NULL DEFAULT 0,
    tokens_total      integer        NOT NULL DEFAULT 0,
    tokens_cached     integer        NOT NULL DEFAULT 0,
    tokens_reasoning  integer        NOT NULL DEFAULT 0,
    usage_estimated   boolean        NOT NULL DEFAULT false,
    cached            boolean        NOT NULL DEFAULT false,
    confidence        numeric(5,4),
    latency_ms        integer        NOT NULL,
    first_token_ms    integer,
    chunk_count       integer,
    finish_reason     varchar(50),
    selected          boolean        NOT NULL DEFAULT true,
    attempt           smallint       NOT NULL DEFAULT 1,
    cost_usd          numeric(20,12) NOT NULL DEFAULT 0,
    pricing_id        uuid,
    created_at        timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_responses_pkey PRIMARY KEY (id),
    CONSTRAINT llm_responses_request_id_fkey FOREIGN KEY (request_id) REFERENCES llm_requests (id) ON DELETE CASCADE,
    CONSTRAINT llm_responses_month_check CHECK (uuid_month(id) = uuid_month(request_id)),
    CONSTRAINT llm_responses_status_check CHECK (status IN ('completed', 'failed', 'cancelled', 'interrupted')),
    CONSTRAINT llm_responses_tokens_check CHECK (tokens_prompt >= 0 AND tokens_completion >= 0 AND tokens_total >= 0
        AND tokens_cached >= 0 AND tokens_reasoning >= 0),
    CONSTRAINT llm_responses_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT llm_responses_latency_ms_check CHECK (latency_ms >= 0),
    CONSTRAINT llm_responses_first_token_ms_check CHECK (first_token_ms >= 0),
    CONSTRAINT llm_responses_chunk_count_check CHECK (chunk_count >= 0),
    CONSTRAINT llm_responses_attempt_check CHECK (attempt >= 1),
    CONSTRAINT llm_responses_cost_usd_check CHECK (cost_usd >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE llm_responses_default PARTITION OF llm_responses DEFAULT;
COMMENT ON TABLE llm_responses IS 'One row per answer (or failure) of a provider, with its tokens and cost; the text is in llm_response_bodies.';
COMMENT ON COLUMN llm_responses.id IS 'UUIDv7 made with uuidv7_beside(request_id): same month as its request.';
COMMENT ON COLUMN llm_responses.user_id IS 'Tenant; NULL after the user is erased.';
COMMENT ON COLUMN llm_responses.provider_name IS 'Name of the provider at that time; stays when the provider is removed.';
COMMENT ON COLUMN llm_responses.model_name IS 'Model that answered, as the provider named it.';
COMMENT ON COLUMN llm_responses.upstream_id IS 'Id the provider gave its answer; only a note, providers repeat them.';
COMMENT ON COLUMN llm_responses.status IS 'completed; failed (no usable answer); cancelled (the client went away); interrupted (the stream or Helix broke off).';
COMMENT ON COLUMN llm_responses.error_code IS 'Machine-readable reason of a failure; NULL when completed.';
COMMENT ON COLUMN llm_responses.http_status IS 'Status the provider answered with; NULL when it never did.';
COMMENT ON COLUMN llm_responses.tokens_cached IS 'Part of tokens_prompt the provider read from its cache.';
COMMENT ON COLUMN llm_responses.tokens_reasoning IS 'Part of tokens_completion spent on reasoning.';
COMMENT ON COLUMN llm_responses.usage_estimated IS 'True when the provider told no usage and Helix counted the tokens itself.';
COMMENT ON COLUMN llm_responses.cached IS 'True when the answer came out of Helix'' own cache and no provider was called.';
COMMENT ON COLUMN llm_responses.confidence IS '0 to 1; NULL when nothing measured it.';
COMMENT ON COLUMN llm_responses.latency_ms IS 'Milliseconds from sending to the last byte received.';
COMMENT ON COLUMN llm_responses.first_token_ms IS 'Milliseconds from sending to the first content byte; NULL when not streamed.';
COMMENT ON COLUMN llm_responses.chunk_count IS 'Chunks of the stream; NULL when not streamed.';
COMMENT ON COLUMN llm_responses.selected IS 'Whether this answer is the one the client got; one per request in an ensemble.';
COMMENT ON COLUMN llm_responses.attempt IS 'Which try this was, from 1.';
COMMENT ON COLUMN llm_responses.cost_usd IS 'Exact cost in US dollars by the price row pricing_id.';
COMMENT ON COLUMN llm_responses.pricing_id IS 'Price valid at that time; NULL when none was known (cost 0).';

-- Which answers did this request get?
CREATE INDEX idx_responses_request_id ON llm_responses (request_id);

-- What did this provider answer? (idx_completions_provider of another seed has the same columns)
CREATE INDEX idx_responses_provider_id ON llm_responses (provider_id);

-- Which answers were the ones given to clients?
CREATE INDEX idx_responses_selected ON llm_responses (selected) WHERE selected;

-- Which answers came out of the cache?
CREATE INDEX idx_completions_cached ON llm_responses (cached) WHERE cached;

-- What was answered between two moments?
CREATE INDEX idx_completions_created ON llm_responses USING brin (created_at) WITH (autosummarize = on);

-- What did this tenant get? (also unlinking)
CREATE INDEX llm_responses_user_id_idx ON llm_responses (user_id) WHERE user_id IS NOT NULL;

-- llm_response_bodies: at most one row per answer: its text and what the provider sent. Written with the answer, in the same
-- commit. Dropped, redacted or archived without touching the numbers; erased with its user.
CREATE TABLE llm_response_bodies (
    response_id  uuid NOT NULL,
    request_id   uuid NOT NULL,
    user_id      uuid,
    content      text,
    raw_response json,
    CONSTRAINT llm_response_bodies_pkey PRIMARY KEY (response_id),
    CONSTRAINT llm_response_bodies_response_id_fkey FOREIGN KEY (response_id) REFERENCES llm_responses (id) ON DELETE CASCADE,
    CONSTRAINT llm_response_bodies_month_check CHECK (uuid_month(response_id) = uuid_month(request_id))
) PARTITION BY RANGE (response_id);

CREATE TABLE llm_response_bodies_default PARTITION OF llm_response_bodies DEFAULT;
COMMENT ON TABLE llm_response_bodies IS 'Text of an answer; apart from llm_responses so that texts can go while numbers stay.';
COMMENT ON COLUMN llm_response_bodies.request_id IS 'Joins llm_requests; no FK of its own, the one of the response guards it.';
COMMENT ON COLUMN llm_response_bodies.user_id IS 'Tenant; the body is erased with the user.';
COMMENT ON COLUMN llm_response_bodies.content IS 'Text of the answer; NULL when there was none (a failure, only tool calls, embeddings).';
COMMENT ON COLUMN llm_response_bodies.raw_response IS 'What the provider sent, as JSON word for word; of a stream, the answer put together.';

-- Which texts are this tenant's? (erasure)
CREATE INDEX llm_response_bodies_user_id_idx ON llm_response_bodies (user_id) WHERE user_id IS NOT NULL;

-- ----------------------------------------------------------------------------------------------------
-- ledger
-- ----------------------------------------------------------------------------------------------------

-- llm_pricing: one row per model and moment from which its price holds; the row valid at t is the newest with
-- effective_date <= t. Written by the operator and the price sync. A price that already holds is never changed or deleted
-- (trigger): a new price is a new row. Kept for ever, usage refers to it.
CREATE TABLE llm_pricing (
    id                            uuid          NOT NULL DEFAULT gen_random_uuid(),
    model                         varchar(255)  NOT NULL,
    input_cost_per_million        numeric(12,6) NOT NULL,
    output_cost_per_million       numeric(12,6) NOT NULL,
    cached_input_cost_per_million numeric(12,6),
    reasoning_cost_per_million    numeric(12,6),
    per_request_cost_usd          numeric(12,6),
    effective_date                timestamptz   NOT NULL DEFAULT now(),
    source                        varchar(100),
    updated_at                    timestamptz   NOT NULL DEFAULT now(),
    updated_by                    varchar(100),
    notes                         text,
    CONSTRAINT llm_pricing_pkey PRIMARY KEY (id),
    CONSTRAINT llm_pricing_model_effective_date_key UNIQUE (model, effective_date),
    CONSTRAINT llm_pricing_cost_check CHECK (input_cost_per_million >= 0 AND output_cost_per_million >= 0
        AND cached_input_cost_per_million >= 0 AND reasoning_cost_per_million >= 0 AND per_request_cost_usd >= 0)
);
COMMENT ON TABLE llm_pricing IS 'Prices of models over time; a price in force is never changed, a new one is added.';
COMMENT ON COLUMN llm_pricing.input_cost_per_million IS 'US dollars per million input tokens.';
COMMENT ON COLUMN llm_pricing.output_cost_per_million IS 'US dollars per million output tokens.';
COMMENT ON COLUMN llm_pricing.cached_input_cost_per_million IS 'US dollars per million input tokens read from the provider''s cache; NULL: as other input.';
COMMENT ON COLUMN llm_pricing.reasoning_cost_per_million IS 'US dollars per million reasoning tokens; NULL: as other output.';
COMMENT ON COLUMN llm_pricing.per_request_cost_usd IS 'US dollars per request, on top; NULL: none.';
COMMENT ON COLUMN llm_pricing.effective_date IS 'From when the price holds, until the next row of the model.';
COMMENT ON COLUMN llm_pricing.source IS 'Where the price is from: operator, models.dev, seed ...';
COMMENT ON COLUMN llm_pricing.updated_by IS 'Who entered it, in words: the row outlives accounts.';

CREATE FUNCTION helix_refuse_price_change() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    IF OLD.effective_date > now() THEN
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_OP = 'UPDATE'
       AND to_jsonb(NEW) - ARRAY['notes', 'source', 'updated_at', 'updated_by']
         = to_jsonb(OLD) - ARRAY['notes', 'source', 'updated_at', 'updated_by'] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'the price of % from % holds already and cannot be changed', OLD.model, OLD.effective_date
        USING ERRCODE = 'restrict_violation', HINT = 'Insert a new price with a later effective_date.';
END
$body$;
COMMENT ON FUNCTION helix_refuse_price_change() IS
    'Trigger of llm_pricing: a price in force cannot be changed or deleted; only its notes, source and updated_by can be amended.';
CREATE TRIGGER llm_pricing_refuse_change BEFORE UPDATE OR DELETE ON llm_pricing FOR EACH ROW EXECUTE FUNCTION helix_refuse_price_change();
CREATE TRIGGER llm_pricing_set_updated_at BEFORE UPDATE ON llm_pricing FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- llm_token_usage: one row per answer that used tokens: the ledger. Written by the recorder in the commit of the answer;
-- append-only. Partitioned by UTC month on the UUIDv7 id; kept 1 year, then the month is dropped (sums stay in llm_usage_*).
CREATE TABLE llm_token_usage (
    id               uuid           NOT NULL DEFAULT uuidv7(),
    timestamp        timestamptz    NOT NULL DEFAULT now(),
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    request_id       uuid           NOT NULL,
    response_id      uuid           NOT NULL,
    input_tokens     integer        NOT NULL DEFAULT 0,
    output_tokens    integer        NOT NULL DEFAULT 0,
    cached_tokens    integer        NOT NULL DEFAULT 0,
    reasoning_tokens integer        NOT NULL DEFAULT 0,
    cost_usd         numeric(20,12) NOT NULL DEFAULT 0,
    pricing_id       uuid,
    estimated        boolean        NOT NULL DEFAULT false,
    created_at       timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_token_usage_pkey PRIMARY KEY (id),
    CONSTRAINT llm_token_usage_pricing_id_fkey FOREIGN KEY (pricing_id) REFERENCES llm_pricing (id),
    CONSTRAINT llm_token_usage_tokens_check CHECK (input_tokens >= 0 AND output_tokens >= 0 AND cached_tokens >= 0
        AND reasoning_tokens >= 0),
    CONSTRAINT llm_token_usage_cost_usd_check CHECK (cost_usd >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE llm_token_usage_default PARTITION OF llm_token_usage DEFAULT;
COMMENT ON TABLE llm_token_usage IS 'The ledger: tokens and exact cost of every answer. Append-only; users, keys and projects that go are only unlinked.';
COMMENT ON COLUMN llm_token_usage.id IS 'UUIDv7 made with uuidv7_beside(request_id): same month as its request.';
COMMENT ON COLUMN llm_token_usage.timestamp IS 'When the tokens were used: the time the answer ended. Sums go by it.';
COMMENT ON COLUMN llm_token_usage.user_id IS 'Tenant; NULL after the user is erased.';
COMMENT ON COLUMN llm_token_usage.request_id IS 'Joins llm_requests; no FK because requests are dropped sooner.';
COMMENT ON COLUMN llm_token_usage.response_id IS 'Joins llm_responses; no FK because responses are dropped sooner.';
COMMENT ON COLUMN llm_token_usage.cached_tokens IS 'Part of input_tokens read from the provider''s cache.';
COMMENT ON COLUMN llm_token_usage.reasoning_tokens IS 'Part of output_tokens spent on reasoning.';
COMMENT ON COLUMN llm_token_usage.cost_usd IS 'Exact cost in US dollars by the price row pricing_id.';
COMMENT ON COLUMN llm_token_usage.pricing_id IS 'Price valid at that time; NULL when none was known (cost 0).';
COMMENT ON COLUMN llm_token_usage.estimated IS 'True when Helix counted the tokens because the provider told no usage.';
COMMENT ON COLUMN llm_token_usage.created_at IS 'When the row was written.';

-- What was used between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_token_usage_timestamp ON llm_token_usage USING brin (timestamp) WITH (autosummarize = on);

-- What did this project use?
CREATE INDEX idx_token_usage_project ON llm_token_usage (project_id) WHERE project_id IS NOT NULL;

-- What did this agent use?
CREATE INDEX idx_token_usage_agent ON llm_token_usage (agent_id) WHERE agent_id IS NOT NULL;

-- What did this agent use in this project?
CREATE INDEX idx_token_usage_project_agent ON llm_token_usage (project_id, agent_id) WHERE project_id IS NOT NULL;

-- What was used of this model?
CREATE INDEX idx_token_usage_model ON llm_token_usage (model);

-- How many tokens did this project use, by agent and model, in this time? Answered from the index alone.
CREATE INDEX idx_token_usage_project_time_covering ON llm_token_usage (project_id, timestamp)
    INCLUDE (agent_id, model, input_tokens, output_tokens) WHERE project_id IS NOT NULL;

-- What did this tenant use?
CREATE INDEX llm_token_usage_user_id_timestamp_idx ON llm_token_usage (user_id, timestamp) WHERE user_id IS NOT NULL;

-- What was used with this key?
CREATE INDEX llm_token_usage_api_key_id_idx ON llm_token_usage (api_key_id) WHERE api_key_id IS NOT NULL;

-- What did this request use?
CREATE INDEX llm_token_usage_request_id_idx ON llm_token_usage (request_id);
CREATE TRIGGER llm_token_usage_append_only BEFORE UPDATE OR DELETE ON llm_token_usage
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('user_id,api_key_id,project_id');
CREATE TRIGGER llm_token_usage_no_truncate BEFORE TRUNCATE ON llm_token_usage
    FOR EACH STATEMENT EXECUTE FUNCTION helix_append_only();

-- llm_usage_hourly, llm_usage_daily, llm_usage_monthly: one row per UTC hour, day or month and combination of tenant, key,
-- project, agent, provider and model: the sums of llm_token_usage. Written only by helix_refresh_usage_rollups(). Ids are
-- plain uuids without foreign keys: a sum stays as it was when a user, key or project goes. Kept: hours 1 year, days and
-- months for ever.
CREATE TABLE llm_usage_hourly (
    id               uuid           NOT NULL DEFAULT gen_random_uuid(),
    hour             timestamptz    NOT NULL,
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    call_count       bigint         NOT NULL,
    estimated_count  bigint         NOT NULL,
    input_tokens     bigint         NOT NULL,
    output_tokens    bigint         NOT NULL,
    cached_tokens    bigint         NOT NULL,
    reasoning_tokens bigint         NOT NULL,
    cost_usd         numeric(26,12) NOT NULL,
    refreshed_at     timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_usage_hourly_pkey PRIMARY KEY (id),
    CONSTRAINT llm_usage_hourly_key UNIQUE NULLS NOT DISTINCT (hour, user_id, api_key_id, project_id, agent_id, provider_name, model),
    CONSTRAINT llm_usage_hourly_counts_check CHECK (call_count >= 0 AND estimated_count >= 0 AND input_tokens >= 0
        AND output_tokens >= 0 AND cached_tokens >= 0 AND reasoning_tokens >= 0 AND cost_usd >= 0)
);
COMMENT ON TABLE llm_usage_hourly IS 'Sums of llm_token_usage by UTC hour and dimension.';
COMMENT ON COLUMN llm_usage_hourly.hour IS 'Start of the UTC hour.';
COMMENT ON COLUMN llm_usage_hourly.call_count IS 'Answers summed up.';
COMMENT ON COLUMN llm_usage_hourly.estimated_count IS 'Those of them whose tokens Helix counted itself.';

-- What did this tenant spend by the hour?
CREATE INDEX llm_usage_hourly_user_id_hour_idx ON llm_usage_hourly (user_id, hour);

-- What did this project spend by the hour?
CREATE INDEX llm_usage_hourly_project_id_hour_idx ON llm_usage_hourly (project_id, hour) WHERE project_id IS NOT NULL;

CREATE TABLE llm_usage_daily (
    id               uuid           NOT NULL DEFAULT gen_random_uuid(),
    day              date           NOT NULL,
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    call_count       bigint         NOT NULL,
    estimated_count  bigint         NOT NULL,
    input_tokens     bigint         NOT NULL,
    output_tokens    bigint         NOT NULL,
    cached_tokens    bigint         NOT NULL,
    reasoning_tokens bigint         NOT NULL,
    cost_usd         numeric(26,12) NOT NULL,
    refreshed_at     timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_usage_daily_pkey PRIMARY KEY (id),
    CONSTRAINT llm_usage_daily_key UNIQUE NULLS NOT DISTINCT (day, user_id, api_key_id, project_id, agent_id, provider_name, model),
    CONSTRAINT llm_usage_daily_counts_check CHECK (call_count >= 0 AND estimated_count >= 0 AND input_tokens >= 0
        AND output_tokens >= 0 AND cached_tokens >= 0 AND reasoning_tokens >= 0 AND cost_usd >= 0)
);
COMMENT ON TABLE llm_usage_daily IS 'Sums of llm_usage_hourly by UTC day and dimension.';
COMMENT ON COLUMN llm_usage_daily.day IS 'UTC day.';
COMMENT ON COLUMN llm_usage_daily.call_count IS 'Answers summed up.';
COMMENT ON COLUMN llm_usage_daily.estimated_count IS 'Those of them whose tokens Helix counted itself.';

-- What did this tenant spend by the day?
CREATE INDEX llm_usage_daily_user_id_day_idx ON llm_usage_daily (user_id, day);

-- What did this project spend by the day?
CREATE INDEX llm_usage_daily_project_id_day_idx ON llm_usage_daily (project_id, day) WHERE project_id IS NOT NULL;

CREATE TABLE llm_usage_monthly (
    id               uuid           NOT NULL DEFAULT gen_random_uuid(),
    month            date           NOT NULL,
    user_id          uuid,
    api_key_id       uuid,
    project_id       uuid,
    agent_id         varchar(100),
    provider_name    varchar(255),
    model            varchar(255)   NOT NULL,
    call_count       bigint         NOT NULL,
    estimated_count  bigint         NOT NULL,
    input_tokens     bigint         NOT NULL,
    output_tokens    bigint         NOT NULL,
    cached_tokens    bigint         NOT NULL,
    reasoning_tokens bigint         NOT NULL,
    cost_usd         numeric(26,12) NOT NULL,
    refreshed_at     timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT llm_usage_monthly_pkey PRIMARY KEY (id),
    CONSTRAINT llm_usage_monthly_key UNIQUE NULLS NOT DISTINCT (month, user_id, api_key_id, project_id, agent_id, provider_name, model),
    CONSTRAINT llm_usage_monthly_month_check CHECK (extract(day FROM month) = 1),
    CONSTRAINT llm_usage_monthly_counts_check CHECK (call_count >= 0 AND estimated_count >= 0 AND input_tokens >= 0
        AND output_tokens >= 0 AND cached_tokens >= 0 AND reasoning_tokens >= 0 AND cost_usd >= 0)
);
COMMENT ON TABLE llm_usage_monthly IS 'Sums of llm_usage_daily by UTC month and dimension.';
COMMENT ON COLUMN llm_usage_monthly.month IS 'First day of the UTC month.';
COMMENT ON COLUMN llm_usage_monthly.call_count IS 'Answers summed up.';
COMMENT ON COLUMN llm_usage_monthly.estimated_count IS 'Those of them whose tokens Helix counted itself.';

-- What did this tenant spend by the month?
CREATE INDEX llm_usage_monthly_user_id_month_idx ON llm_usage_monthly (user_id, month);

-- What did this project spend by the month?
CREATE INDEX llm_usage_monthly_project_id_month_idx ON llm_usage_monthly (project_id, month) WHERE project_id IS NOT NULL;

-- Sums up again every hour, day and month that [from_time, to_time) touches: buckets are replaced whole, so running it twice,
-- or over windows that overlap, changes nothing. What is already gone from the level below is left alone: hours before the
-- oldest usage row, days before the oldest hour. Run it as a role that sees all tenants (helix_operator); one at a time.
CREATE FUNCTION helix_refresh_usage_rollups(from_time timestamptz, to_time timestamptz) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = public, pg_catalog
    SET timezone = 'UTC' AS $body$
DECLARE
    hour_low timestamptz;
    day_low date;
    month_low date;
    high timestamptz;
    written bigint;
    total bigint := 0;
BEGIN
    IF from_time IS NULL OR to_time IS NULL OR from_time >= to_time THEN
        RAISE EXCEPTION 'from_time must lie before to_time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('helix_refresh_usage_rollups'));

    -- Hours, from the ledger.
    hour_low := greatest(date_trunc('hour', from_time), date_trunc('hour', (SELECT uuid_time(u.id) FROM llm_token_usage u ORDER BY u.id LIMIT 1)));
    high := date_trunc('hour', to_time - interval '1 microsecond') + interval '1 hour';
    IF EXISTS (SELECT FROM llm_token_usage) THEN
        DELETE FROM llm_usage_hourly h WHERE h.hour >= hour_low AND h.hour < high;
        INSERT INTO llm_usage_hourly (hour, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
            estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
        SELECT date_trunc('hour', u.timestamp), u.user_id, u.api_key_id, u.project_id, u.agent_id, u.provider_name, u.model,
            count(*), count(*) FILTER (WHERE u.estimated), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens),
            sum(u.reasoning_tokens), sum(u.cost_usd)
        FROM llm_token_usage u
        WHERE u.timestamp >= hour_low AND u.timestamp < high
        GROUP BY 1, 2, 3, 4, 5, 6, 7;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END IF;

    -- Days, from the hours.
    IF EXISTS (SELECT FROM llm_usage_hourly) THEN
        day_low := greatest(from_time::date, (SELECT min(h.hour)::date FROM llm_usage_hourly h));
        DELETE FROM llm_usage_daily d WHERE d.day >= day_low AND d.day < high;
        INSERT INTO llm_usage_daily (day, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
            estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
        SELECT h.hour::date, h.user_id, h.api_key_id, h.project_id, h.agent_id, h.provider_name, h.model,
            sum(h.call_count), sum(h.estimated_count), sum(h.input_tokens), sum(h.output_tokens), sum(h.cached_tokens),
            sum(h.reasoning_tokens), sum(h.cost_usd)
        FROM llm_usage_hourly h
        WHERE h.hour >= day_low AND h.hour < (high - interval '1 hour')::date + 1
        GROUP BY 1, 2, 3, 4, 5, 6, 7;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END IF;

    -- Months, from the days.
    IF EXISTS (SELECT FROM llm_usage_daily) THEN
        month_low := greatest(date_trunc('month', from_time)::date,
                              (SELECT date_trunc('month', min(d.day))::date FROM llm_usage_daily d));
        DELETE FROM llm_usage_monthly m WHERE m.month >= month_low AND m.month < high;
        INSERT INTO llm_usage_monthly (month, user_id, api_key_id, project_id, agent_id, provider_name, model, call_count,
            estimated_count, input_tokens, output_tokens, cached_tokens, reasoning_tokens, cost_usd)
        SELECT date_trunc('month', d.day)::date, d.user_id, d.api_key_id, d.project_id, d.agent_id, d.provider_name, d.model,
            sum(d.call_count), sum(d.estimated_count), sum(d.input_tokens), sum(d.output_tokens), sum(d.cached_tokens),
            sum(d.reasoning_tokens), sum(d.cost_usd)
        FROM llm_usage_daily d
        WHERE d.day >= month_low AND d.day < date_trunc('month', high - interval '1 hour') + interval '1 month'
        GROUP BY 1, 2, 3, 4, 5, 6, 7;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END IF;
    RETURN total;
END
$body$;
COMMENT ON FUNCTION helix_refresh_usage_rollups(timestamptz, timestamptz) IS
    'Rebuilds llm_usage_hourly, _daily and _monthly for every bucket the window touches; returns how many rows it wrote. Idempotent.';

-- budgets: one row per limit: so much money per UTC day or month for a user, one of their keys or projects, or an agent name.
-- Written by the operator and the user. Goes with what it limits.
CREATE TABLE budgets (
    id         uuid           NOT NULL DEFAULT gen_random_uuid(),
    user_id    uuid           NOT NULL,
    scope      varchar(20)    NOT NULL,
    api_key_id uuid,
    project_id uuid,
    agent_id   varchar(100),
    period     varchar(20)    NOT NULL,
    limit_usd  numeric(20,12) NOT NULL,
    hard       boolean        NOT NULL DEFAULT true,
    enabled    boolean        NOT NULL DEFAULT true,
    created_at timestamptz    NOT NULL DEFAULT now(),
    updated_at timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT budgets_pkey PRIMARY KEY (id),
    CONSTRAINT budgets_key UNIQUE NULLS NOT DISTINCT (user_id, scope, api_key_id, project_id, agent_id, period),
    CONSTRAINT budgets_scope_check CHECK (scope IN ('user', 'api_key', 'project', 'agent')),
    CONSTRAINT budgets_target_check CHECK ((scope = 'api_key') = (api_key_id IS NOT NULL)
        AND (scope = 'project') = (project_id IS NOT NULL) AND (scope = 'agent') = (agent_id IS NOT NULL)),
    CONSTRAINT budgets_period_check CHECK (period IN ('day', 'month')),
    CONSTRAINT budgets_limit_usd_check CHECK (limit_usd >= 0)
);
COMMENT ON TABLE budgets IS 'Spending limits; a call reserves its worst case in every budget that fits and settles afterwards.';
COMMENT ON COLUMN budgets.user_id IS 'Tenant whose spending is limited.';
COMMENT ON COLUMN budgets.scope IS 'What of the tenant is limited: user (everything), api_key, project or agent.';
COMMENT ON COLUMN budgets.limit_usd IS 'US dollars per UTC day or month.';
COMMENT ON COLUMN budgets.hard IS 'True: calls beyond the limit are refused; false: only reported.';

-- Which budgets fit this key?
CREATE INDEX budgets_api_key_id_idx ON budgets (api_key_id) WHERE api_key_id IS NOT NULL;

-- Which budgets fit this project?
CREATE INDEX budgets_project_id_idx ON budgets (project_id) WHERE project_id IS NOT NULL;
CREATE TRIGGER budgets_set_updated_at BEFORE UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- budget_periods: one row per budget and UTC day or month in which something was spent. Written by single conditional
-- statements: reserve adds to reserved_usd only while reserved + settled + amount <= limit; settle moves the true cost over.
-- Tenant: through the budget. Kept 13 months.
CREATE TABLE budget_periods (
    budget_id    uuid           NOT NULL,
    period_start date           NOT NULL,
    reserved_usd numeric(20,12) NOT NULL DEFAULT 0,
    settled_usd  numeric(20,12) NOT NULL DEFAULT 0,
    updated_at   timestamptz    NOT NULL DEFAULT now(),
    CONSTRAINT budget_periods_pkey PRIMARY KEY (budget_id, period_start),
    CONSTRAINT budget_periods_budget_id_fkey FOREIGN KEY (budget_id) REFERENCES budgets (id) ON DELETE CASCADE,
    CONSTRAINT budget_periods_reserved_usd_check CHECK (reserved_usd >= 0),
    CONSTRAINT budget_periods_settled_usd_check CHECK (settled_usd >= 0)
);
COMMENT ON TABLE budget_periods IS 'What is reserved and spent of a budget in one day or month.';
COMMENT ON COLUMN budget_periods.period_start IS 'First UTC day of the period.';
COMMENT ON COLUMN budget_periods.reserved_usd IS 'Worst-case cost of the calls under way.';
COMMENT ON COLUMN budget_periods.settled_usd IS 'True cost of the calls that ended.';
CREATE TRIGGER budget_periods_set_updated_at BEFORE UPDATE ON budget_periods FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- budget_reservations: one row per call under way and budget it reserves in, so that what a dead process reserved can be given
-- back. Written when a call is admitted, deleted when it settles; the sweeper gives back those past expires_at.
CREATE TABLE budget_reservations (
    request_id   uuid           NOT NULL,
    budget_id    uuid           NOT NULL,
    period_start date           NOT NULL,
    amount_usd   numeric(20,12) NOT NULL,
    created_at   timestamptz    NOT NULL DEFAULT now(),
    expires_at   timestamptz    NOT NULL,
    CONSTRAINT budget_reservations_pkey PRIMARY KEY (request_id, budget_id),
    CONSTRAINT budget_reservations_budget_id_period_start_fkey FOREIGN KEY (budget_id, period_start)
        REFERENCES budget_periods (budget_id, period_start) ON DELETE CASCADE,
    CONSTRAINT budget_reservations_amount_usd_check CHECK (amount_usd >= 0)
);
COMMENT ON TABLE budget_reservations IS 'Amounts reserved by calls under way; what remains past expires_at belongs to a process that died.';
COMMENT ON COLUMN budget_reservations.request_id IS 'Joins llm_requests; no FK because the reservation is made before the request row.';

-- Which reservations must be given back?
CREATE INDEX budget_reservations_expires_at_idx ON budget_reservations (expires_at);

-- Which calls hold a part of this budget?
CREATE INDEX budget_reservations_budget_id_period_start_idx ON budget_reservations (budget_id, period_start);

-- ----------------------------------------------------------------------------------------------------
-- tool access
-- ----------------------------------------------------------------------------------------------------

-- agent_permissions: one row per decision about an agent type and a tool; no row means no. Written by the operator. Kept.
-- Shared by all tenants.
CREATE TABLE agent_permissions (
    id         uuid         NOT NULL DEFAULT gen_random_uuid(),
    agent_type varchar(100) NOT NULL,
    tool_name  varchar(255) NOT NULL,
    allowed    boolean      NOT NULL DEFAULT false,
    created_at timestamptz  NOT NULL DEFAULT now(),
    updated_at timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT agent_permissions_pkey PRIMARY KEY (id),
    CONSTRAINT agent_permissions_agent_type_tool_name_key UNIQUE (agent_type, tool_name)
);
COMMENT ON TABLE agent_permissions IS 'Which agent type may call which tool; without a row the call is refused.';
COMMENT ON COLUMN agent_permissions.allowed IS 'False is a recorded no; a missing row is a no as well.';

-- What may this agent type do? (the pair agent_type, tool_name is answered by the UNIQUE)
CREATE INDEX idx_agent_permissions_agent ON agent_permissions (agent_type);
CREATE TRIGGER agent_permissions_set_updated_at BEFORE UPDATE ON agent_permissions FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- tool_audit_log: one row per decision (call allowed or refused, written before the tool runs) and one per outcome (written
-- after it, naming its decision). Written by the tool gate; append-only. Partitioned by UTC month on the UUIDv7 id; kept
-- 1 year, then the month is dropped. Erasing a user sets user_id, and under helix.erasure parameters and result, to NULL.
CREATE TABLE tool_audit_log (
    id          uuid         NOT NULL DEFAULT uuidv7(),
    timestamp   timestamptz  NOT NULL DEFAULT now(),
    user_id     uuid,
    api_key_id  uuid,
    project_id  uuid,
    agent_type  varchar(100),
    agent_id    varchar(100) NOT NULL,
    tool_name   varchar(255) NOT NULL,
    operation   varchar(100) NOT NULL,
    allowed     boolean      NOT NULL,
    reason      text,
    parameters  jsonb,
    result      jsonb,
    decision_id uuid,
    request_id  uuid,
    task_id     uuid,
    duration_ms integer,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT tool_audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT tool_audit_log_duration_ms_check CHECK (duration_ms >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE tool_audit_log_default PARTITION OF tool_audit_log DEFAULT;
COMMENT ON TABLE tool_audit_log IS 'Every tool call, allowed or refused, with its reason and outcome. Append-only.';
COMMENT ON COLUMN tool_audit_log.timestamp IS 'When it was decided or ended.';
COMMENT ON COLUMN tool_audit_log.user_id IS 'Tenant for whom the agent acts; NULL after the user is erased.';
COMMENT ON COLUMN tool_audit_log.agent_type IS 'Type the permission was looked up by.';
COMMENT ON COLUMN tool_audit_log.agent_id IS 'Which agent it was.';
COMMENT ON COLUMN tool_audit_log.operation IS 'What it wanted of the tool, e.g. call, read, write.';
COMMENT ON COLUMN tool_audit_log.reason IS 'Why it was allowed or refused.';
COMMENT ON COLUMN tool_audit_log.parameters IS 'Arguments, with secrets removed.';
COMMENT ON COLUMN tool_audit_log.result IS 'Outcome; NULL in the row of the decision.';
COMMENT ON COLUMN tool_audit_log.decision_id IS 'In the row of an outcome: id of the row of its decision. No FK: both are in one append-only table.';
COMMENT ON COLUMN tool_audit_log.request_id IS 'Joins llm_requests; no FK because requests are dropped sooner.';
COMMENT ON COLUMN tool_audit_log.task_id IS 'Joins background_tasks; no FK because tasks are dropped sooner.';
COMMENT ON COLUMN tool_audit_log.duration_ms IS 'How long the tool ran, in the row of an outcome.';

-- What happened between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_tool_audit_timestamp ON tool_audit_log USING brin (timestamp) WITH (autosummarize = on);

-- What did agents do in this project?
CREATE INDEX idx_tool_audit_project ON tool_audit_log (project_id) WHERE project_id IS NOT NULL;

-- What did this agent do?
CREATE INDEX idx_tool_audit_agent ON tool_audit_log (agent_id);

-- How was this tool used?
CREATE INDEX idx_tool_audit_tool ON tool_audit_log (tool_name);

-- What was done for this tenant?
CREATE INDEX tool_audit_log_user_id_idx ON tool_audit_log (user_id) WHERE user_id IS NOT NULL;

-- What was done with this key? (unlinking a deleted one)
CREATE INDEX tool_audit_log_api_key_id_idx ON tool_audit_log (api_key_id) WHERE api_key_id IS NOT NULL;

-- How did this decision end?
CREATE INDEX tool_audit_log_decision_id_idx ON tool_audit_log (decision_id) WHERE decision_id IS NOT NULL;
CREATE TRIGGER tool_audit_log_append_only BEFORE UPDATE OR DELETE ON tool_audit_log
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('user_id,api_key_id,project_id', 'parameters,result');
CREATE TRIGGER tool_audit_log_no_truncate BEFORE TRUNCATE ON tool_audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION helix_append_only();

-- ----------------------------------------------------------------------------------------------------
-- errors
-- ----------------------------------------------------------------------------------------------------

-- error_log: one row per error worth knowing. Written by every part of Helix, inserted once. Partitioned by UTC month on the
-- UUIDv7 id; kept 90 days: a month is summed up into error_log_summary and dropped in one transaction.
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

-- error_log_summary: one row per UTC day, category and code. Written by retention in the transaction that drops the errors
-- summed up; kept 1 year.
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

-- ----------------------------------------------------------------------------------------------------
-- relationships
-- ----------------------------------------------------------------------------------------------------

-- user_sessions
ALTER TABLE user_sessions ADD CONSTRAINT user_sessions_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL;

-- Which sessions prefer this provider, go on from this memory? (asked when one is deleted)
CREATE INDEX user_sessions_provider_id_idx ON user_sessions (provider_id) WHERE provider_id IS NOT NULL;
CREATE INDEX user_sessions_memory_id_idx ON user_sessions (memory_id) WHERE memory_id IS NOT NULL;

-- projects
ALTER TABLE projects ADD CONSTRAINT projects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE cancelled_projects ADD CONSTRAINT cancelled_projects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE cancelled_projects ADD CONSTRAINT cancelled_projects_cancelled_by_fkey FOREIGN KEY (cancelled_by) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE archived_projects ADD CONSTRAINT archived_projects_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;

-- requests and responses
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_session_id_fkey FOREIGN KEY (session_id) REFERENCES user_sessions (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE llm_requests ADD CONSTRAINT llm_requests_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts (id) ON DELETE SET NULL;
ALTER TABLE llm_request_bodies ADD CONSTRAINT llm_request_bodies_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES llm_providers (id) ON DELETE SET NULL;
ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_pricing_id_fkey FOREIGN KEY (pricing_id) REFERENCES llm_pricing (id);
ALTER TABLE llm_response_bodies ADD CONSTRAINT llm_response_bodies_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;

-- ledger
ALTER TABLE llm_token_usage ADD CONSTRAINT llm_token_usage_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE llm_token_usage ADD CONSTRAINT llm_token_usage_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
ALTER TABLE llm_token_usage ADD CONSTRAINT llm_token_usage_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE budgets ADD CONSTRAINT budgets_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
ALTER TABLE budgets ADD CONSTRAINT budgets_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE CASCADE;
ALTER TABLE budgets ADD CONSTRAINT budgets_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE;

-- tools and errors
ALTER TABLE tool_audit_log ADD CONSTRAINT tool_audit_log_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE tool_audit_log ADD CONSTRAINT tool_audit_log_api_key_id_fkey FOREIGN KEY (api_key_id) REFERENCES api_keys (id) ON DELETE SET NULL;
ALTER TABLE tool_audit_log ADD CONSTRAINT tool_audit_log_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;
ALTER TABLE error_log ADD CONSTRAINT error_log_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE SET NULL;
ALTER TABLE error_log ADD CONSTRAINT error_log_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE SET NULL;

-- ----------------------------------------------------------------------------------------------------
-- indexes views
-- ----------------------------------------------------------------------------------------------------

CREATE VIEW spend_by_day WITH (security_invoker = true) AS
SELECT (u.timestamp AT TIME ZONE 'UTC')::date AS day, u.provider_name, u.model, count(*) AS calls, sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd, count(*) FILTER (WHERE u.estimated) AS estimated_calls
FROM llm_token_usage AS u GROUP BY 1, 2, 3;
COMMENT ON VIEW spend_by_day IS 'What was spent per day (UTC), provider and model, straight from the ledger. SELECT … WHERE day >= current_date - 7 ORDER BY day.';

CREATE VIEW spend_by_project WITH (security_invoker = true) AS
SELECT u.project_id, p.name AS project_name, u.agent_id, u.model, count(*) AS calls, sum(u.input_tokens)::bigint AS input_tokens,
       sum(u.output_tokens)::bigint AS output_tokens, sum(u.cost_usd) AS cost_usd, min(u.timestamp) AS first_call_at, max(u.timestamp) AS last_call_at
FROM llm_token_usage AS u LEFT JOIN projects AS p ON p.id = u.project_id GROUP BY 1, 2, 3, 4;
COMMENT ON VIEW spend_by_project IS 'What each project spent, by agent and model. Calls without a project, or of a deleted one, have project_id NULL.';

CREATE VIEW current_prices WITH (security_invoker = true) AS
SELECT DISTINCT ON (x.model) x.model, x.input_cost_per_million, x.output_cost_per_million, x.cached_input_cost_per_million, x.reasoning_cost_per_million,
       x.per_request_cost_usd, x.effective_date, x.source, x.updated_by, x.notes, x.id AS pricing_id
FROM llm_pricing AS x WHERE x.effective_date <= now() ORDER BY x.model, x.effective_date DESC;
COMMENT ON VIEW current_prices IS 'The price of each model that is valid now, in USD.';

CREATE VIEW slow_requests WITH (security_invoker = true) AS
SELECT r.request_id, r.id AS response_id, r.created_at, r.provider_name, r.model_name, r.status, r.latency_ms, r.first_token_ms, r.tokens_total, r.attempt, r.error_code
FROM llm_responses AS r WHERE r.id >= uuid_floor(now() - interval '24 hours') ORDER BY r.latency_ms DESC;
COMMENT ON VIEW slow_requests IS 'Answers of the last 24 h, the slowest first. Add a LIMIT.';

CREATE VIEW provider_stream_metrics WITH (security_invoker = true) AS
SELECT r.provider_name, r.model_name, date_trunc('hour', r.created_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS hour, count(*) AS streams,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p50_first_token_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p95_first_token_ms,
       round(percentile_cont(0.99) WITHIN GROUP (ORDER BY r.first_token_ms)::numeric, 1) AS p99_first_token_ms,
       round(avg((r.latency_ms - r.first_token_ms)::numeric / NULLIF(r.chunk_count - 1, 0)), 2) AS avg_gap_ms,
       round(sum(r.tokens_completion) * 1000.0 / NULLIF(sum(r.latency_ms - r.first_token_ms), 0), 1) AS tokens_per_s,
       sum(r.cost_usd) AS cost_usd
FROM llm_responses AS r WHERE r.first_token_ms IS NOT NULL GROUP BY 1, 2, 3;
COMMENT ON VIEW provider_stream_metrics IS 'Streamed answers per provider, model and hour (UTC): time to the first token, silence between chunks, speed, cost.';

CREATE VIEW recent_errors WITH (security_invoker = true) AS
SELECT l.created_at, l.category, l.code, l.message, l.agent_id, l.project_id, l.task_id, l.user_id, l.id
FROM error_log AS l WHERE l.id >= uuid_floor(now() - interval '24 hours') ORDER BY l.id DESC;
COMMENT ON VIEW recent_errors IS 'Errors of the last 24 h, newest first.';

CREATE VIEW table_sizes WITH (security_invoker = true) AS
SELECT coalesce(parent.relname, c.relname) AS table_name, count(*) AS partitions, sum(greatest(c.reltuples, 0))::bigint AS estimated_rows,
       sum(pg_relation_size(c.oid))::bigint AS heap_bytes, sum(pg_indexes_size(c.oid))::bigint AS index_bytes, sum(pg_total_relation_size(c.oid))::bigint AS total_bytes,
       pg_size_pretty(sum(pg_total_relation_size(c.oid))) AS total_size
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
LEFT JOIN pg_class AS parent ON parent.oid = i.inhparent
WHERE c.relkind IN ('r', 'm') AND c.relnamespace = 'public'::regnamespace
GROUP BY 1 ORDER BY total_bytes DESC;
COMMENT ON VIEW table_sizes IS 'Tables and materialized views by size, monthly partitions added up (S140). Rows are the planner''s estimate.';

CREATE VIEW unused_indexes WITH (security_invoker = true) AS
SELECT s.relname AS table_name, s.indexrelname AS index_name, s.idx_scan, s.idx_tup_read, pg_relation_size(s.indexrelid) AS index_bytes
FROM pg_stat_user_indexes AS s JOIN pg_index AS x ON x.indexrelid = s.indexrelid
WHERE s.idx_scan = 0 AND NOT x.indisunique AND s.schemaname = 'public' ORDER BY index_bytes DESC;
COMMENT ON VIEW unused_indexes IS 'Indexes no query has used since statistics were reset, the largest first; unique ones guard data and are left out (S140).';

-- ----------------------------------------------------------------------------------------------------
-- compatibility views
-- ----------------------------------------------------------------------------------------------------

-- Bodies are json, not jsonb, because they are kept letter for letter; a body may hold \u0000 or half a surrogate pair, and then every json
-- operator fails on it. One such row must not break a view over all rows, so those two escapes are left out before the text is looked into. The
-- pattern takes every backslash with what it escapes, so that an escaped backslash before "u0000" is not mistaken for one.
CREATE FUNCTION helix_readable_json(document json) RETURNS json
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN document::text ~ '\\u(0000|[dD][89a-fA-F])' THEN
        regexp_replace(document::text, '(\\[^u]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u0000|\\u[dD][89a-fA-F][0-9a-fA-F]{2}', '\1', 'g')::json
    ELSE document END;
COMMENT ON FUNCTION helix_readable_json(json) IS 'The document without \u0000 and lone surrogates, which json operators refuse: for reading, never for storing.';

-- The text of one message: a string, or the text parts of a list of parts.
CREATE FUNCTION helix_content_text(content json) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE json_typeof(content)
        WHEN 'string' THEN content #>> '{}'
        WHEN 'array' THEN (
            SELECT string_agg(CASE json_typeof(part.value) WHEN 'string' THEN part.value #>> '{}' WHEN 'object' THEN part.value ->> 'text' END, E'\n' ORDER BY part.ordinality)
            FROM json_array_elements(CASE json_typeof(content) WHEN 'array' THEN content ELSE '[]' END) WITH ORDINALITY AS part (value, ordinality))
        WHEN 'object' THEN content ->> 'text'
        END;
COMMENT ON FUNCTION helix_content_text(json) IS 'The text of a message''s content: the string itself, or the text parts of a list, one a line.';

-- What was asked: prompt (completions), the last message of the user (chat, messages), or input (responses, embeddings).
CREATE FUNCTION helix_prompt_text(request_body json) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT coalesce(
            helix_content_text(b.body -> 'prompt'),
            (SELECT helix_content_text(m.value -> 'content')
             FROM json_array_elements(CASE json_typeof(b.body -> 'messages') WHEN 'array' THEN b.body -> 'messages'
                                      ELSE CASE json_typeof(b.body -> 'input') WHEN 'array' THEN b.body -> 'input' ELSE '[]' END END) WITH ORDINALITY AS m (value, ordinality)
             WHERE json_typeof(m.value) = 'object' AND m.value ->> 'role' = 'user' ORDER BY m.ordinality DESC LIMIT 1),
            helix_content_text(b.body -> 'input'))
        FROM (SELECT CASE json_typeof(helix_readable_json(request_body)) WHEN 'object' THEN helix_readable_json(request_body) ELSE '{}' END AS body) AS b);
COMMENT ON FUNCTION helix_prompt_text(json) IS 'What a request asked, as one text: prompt, or the last message of the user, or input.';

-- One row per answer with everything around it. The place to begin: SELECT … FROM llm_calls WHERE created_at > now() - interval '1 hour'.
CREATE VIEW llm_calls WITH (security_invoker = true) AS
SELECT r.id,
       r.request_id,
       r.id AS response_id,
       q.user_id,
       u.email AS user_email,
       q.api_key_id,
       k.key_prefix,
       k.name AS key_name,
       q.session_id,
       q.project_id,
       p.name AS project_name,
       q.agent_id,
       r.provider_id,
       r.provider_name,
       q.model_name AS requested_model,
       r.model_name,
       q.request_type,
       q.stream,
       q.model_params,
       q.ensemble_config,
       q.memory_enhanced,
       q.memory,
       q.prompt_id,
       helix_prompt_text(qb.request_body) AS prompt,
       helix_readable_json(qb.request_body) -> 'messages' AS messages,
       qb.request_body,
       rb.content AS response,
       rb.content,
       rb.raw_response AS response_body,
       rb.raw_response,
       r.tokens_prompt AS tokens_in,
       r.tokens_completion AS tokens_out,
       r.tokens_prompt AS prompt_tokens,
       r.tokens_completion AS completion_tokens,
       r.tokens_total AS total_tokens,
       r.tokens_cached AS cached_tokens,
       r.tokens_reasoning AS reasoning_tokens,
       r.usage_estimated,
       r.latency_ms,
       r.latency_ms AS response_time,
       r.first_token_ms,
       r.chunk_count,
       r.cost_usd AS cost,
       r.pricing_id,
       x.input_cost_per_million,
       x.output_cost_per_million,
       x.effective_date AS price_effective_date,
       r.status,
       q.status AS request_status,
       r.error_code,
       r.error,
       r.http_status,
       r.finish_reason,
       r.confidence,
       r.selected,
       r.cached,
       r.attempt,
       r.upstream_id,
       q.idempotency_key,
       q.client_request_id,
       q.metadata,
       q.created_at,
       q.started_at,
       q.completed_at,
       r.created_at AS responded_at
FROM llm_responses AS r
JOIN llm_requests AS q ON q.id = r.request_id
LEFT JOIN llm_request_bodies AS qb ON qb.request_id = r.request_id
LEFT JOIN llm_response_bodies AS rb ON rb.response_id = r.id
LEFT JOIN users AS u ON u.id = q.user_id
LEFT JOIN api_keys AS k ON k.id = q.api_key_id
LEFT JOIN projects AS p ON p.id = q.project_id
LEFT JOIN llm_pricing AS x ON x.id = r.pricing_id;
COMMENT ON VIEW llm_calls IS 'One row per answer with everything around it: request, texts, tokens, price and cost, key, user. Requests without any answer yet are in llm_requests only.';
COMMENT ON COLUMN llm_calls.id IS 'llm_responses.id: several rows share a request_id where an ensemble or a retry asked several times.';
COMMENT ON COLUMN llm_calls.prompt IS 'What was asked, as text (helix_prompt_text); NULL when the texts are gone.';
COMMENT ON COLUMN llm_calls.response IS 'The answer''s text; NULL when it failed or the texts are gone.';
COMMENT ON COLUMN llm_calls.cost IS 'USD, exact.';
COMMENT ON COLUMN llm_calls.input_cost_per_million IS 'USD per million input tokens of the price row that was valid at the time.';
COMMENT ON COLUMN llm_calls.response_time IS 'Milliseconds; the same as latency_ms.';
COMMENT ON COLUMN llm_calls.key_prefix IS 'The shown beginning of the API key, never its hash.';

CREATE VIEW providers WITH (security_invoker = true) AS
SELECT p.id, p.name, p.type, p.enabled, p.priority, p.created_at, p.verification_score, p.last_verified, p.health_status, p.capabilities, p.rate_limits
FROM llm_providers AS p;
COMMENT ON VIEW providers IS 'llm_providers under the name of schema.md v1.0: what routing looks at, without the catalogue columns.';

CREATE VIEW sessions WITH (security_invoker = true) AS
SELECT s.id, s.user_id, s.provider_id, s.created_at, s.expires_at, s.last_activity, s.metadata, s.context
FROM user_sessions AS s;
COMMENT ON VIEW sessions IS 'user_sessions under the name of schema.md v1.0: sessions without anything secret.';

CREATE VIEW completions WITH (security_invoker = true) AS
SELECT r.id, q.session_id, r.provider_id, helix_prompt_text(qb.request_body) AS prompt, rb.content AS response, r.tokens_prompt AS tokens_in, r.tokens_completion AS tokens_out,
       r.latency_ms, r.created_at, r.cached, r.error, coalesce(q.metadata, '{}') AS metadata
FROM llm_responses AS r
JOIN llm_requests AS q ON q.id = r.request_id
LEFT JOIN llm_request_bodies AS qb ON qb.request_id = r.request_id
LEFT JOIN llm_response_bodies AS rb ON rb.response_id = r.id
WHERE r.selected;
COMMENT ON VIEW completions IS 'What was asked and what the client got, one row each (schema.md v1.0): the selected answers of llm_responses with their request. llm_calls shows all answers.';

-- Partitions of last month, this one and the three ahead.
SELECT helix_create_partitions(1, 3);

-- ----------------------------------------------------------------------------------------------------
-- roles policies
-- ----------------------------------------------------------------------------------------------------

-- Roles belong to the whole cluster: another Helix database may have made them already.
DO $body$
DECLARE
    name text;
    found record;
BEGIN
    FOREACH name IN ARRAY '{helix_app,helix_operator,helix_readonly,helix_recorder}'::text[] LOOP
        IF to_regrole(name) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- somebody made it this moment
            END;
        END IF;
        SELECT r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb AS too_strong INTO found FROM pg_roles AS r WHERE r.rolname = name;
        IF found.too_strong THEN
            RAISE EXCEPTION 'role % exists and may bypass row-level security or create objects', name
                USING HINT = 'ALTER ROLE … NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB, then run again.';
        END IF;
        -- The login that runs this must be able to SET ROLE, and (as owner under FORCE) to see the rows policies let helix_operator see.
        IF NOT (SELECT EXISTS (SELECT FROM pg_auth_members AS m WHERE m.roleid = name::regrole AND m.member = current_user::regrole
                               AND NOT (to_jsonb(m) @> '{"inherit_option": false}' OR to_jsonb(m) @> '{"set_option": false}'))) THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER', name);
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'role % exists but % may not become a member of it', name, current_user
                    USING HINT = format('Have a superuser run: GRANT %I TO %I;', name, current_user);
            END;
        END IF;
    END LOOP;
END
$body$;

-- One row per table that has no row-level security, with the reason. Together with the policies it covers every table: rls_gaps is empty.
CREATE TABLE rls_exempt_tables (
    table_name varchar(63) NOT NULL,
    reason     text        NOT NULL,
    CONSTRAINT rls_exempt_tables_pkey PRIMARY KEY (table_name),
    CONSTRAINT rls_exempt_tables_reason_check CHECK (length(reason) > 10)
);
COMMENT ON TABLE rls_exempt_tables IS 'Tables without row-level security, each with its reason. Whatever is neither here nor under a policy shows up in rls_gaps.';

-- Looks a row up with the rights and the tenant of the caller. Policies use it where a table refers to itself: a plain subquery there would be refused as a recursion.
CREATE FUNCTION helix_row_visible(target regclass, id uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public AS $body$
DECLARE
    visible boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.id = $1)', target) INTO visible USING id;
    RETURN visible;
END
$body$;
COMMENT ON FUNCTION helix_row_visible(regclass, uuid) IS 'Whether the caller can see the row of this table with this id.';

-- What nobody has decided about: must be empty. Tables without policy or exemption, tables with policies that are not enforced on the owner,
-- and partitions somebody may reach around their parent.
CREATE VIEW rls_gaps WITH (security_invoker = true) AS
SELECT c.relname AS table_name,
       CASE WHEN e.table_name IS NOT NULL THEN 'is exempt but has row-level security'
            WHEN NOT c.relrowsecurity THEN 'has no row-level security and is not in rls_exempt_tables'
            WHEN NOT c.relforcerowsecurity THEN 'does not FORCE row-level security'
            ELSE 'has no policy for helix_app' END AS gap
FROM pg_class AS c LEFT JOIN rls_exempt_tables AS e ON e.table_name = c.relname
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
  AND ((e.table_name IS NOT NULL) = c.relrowsecurity
       OR (e.table_name IS NULL AND (NOT c.relforcerowsecurity
           OR NOT EXISTS (SELECT FROM pg_policy AS p JOIN pg_roles AS r ON r.oid = ANY (p.polroles) WHERE p.polrelid = c.oid AND r.rolname = 'helix_app'))))
UNION ALL
SELECT c.relname, 'is a partition with its own grants'
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relispartition AND c.relkind IN ('r', 'p')
  AND EXISTS (SELECT FROM aclexplode(c.relacl) AS g WHERE g.grantee <> c.relowner)
UNION ALL
SELECT e.table_name, 'is exempt but does not exist'
FROM rls_exempt_tables AS e WHERE to_regclass(format('public.%I', e.table_name)) IS NULL;
COMMENT ON VIEW rls_gaps IS 'Tables whose tenancy nobody has decided about. Always empty; helix doctor and the tests look.';

-- ----------------------------------------------------------------------------------------------------
-- roles
-- ----------------------------------------------------------------------------------------------------
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO helix_app, helix_operator, helix_readonly, helix_recorder;

-- ----------------------------------------------------------------------------------------------------
-- row-level security
-- ----------------------------------------------------------------------------------------------------

-- Tables without row-level security, each with its reason.
INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('llm_providers',       'shared registry, no tenant data; credentials are in provider_configs'),
    ('provider_configs',    'shared registry; only helix_operator and helix_recorder may read it'),
    ('llm_pricing',         'shared price list, no tenant data'),
    ('prompts',             'shared prompt versions; tenants read them, operators write them'),
    ('prompt_tests',        'shared definitions of prompt tests, no tenant data'),
    ('prompt_test_results', 'results of shared prompt tests, no tenant data'),
    ('agent_permissions',   'shared by all tenants; tenants read them, operators write them'),
    ('error_log_summary',   'counts by day, category and code, no tenant data; tenants may not read it'),
    ('rls_exempt_tables',   'this list itself'),
    ('helix_migrations',    'which revisions are in place; only the migrator writes it');

-- users
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
CREATE POLICY users_tenant ON users TO helix_app
    USING (id = (SELECT helix_tenant()))
    WITH CHECK (id = (SELECT helix_tenant()));
CREATE POLICY users_operator ON users TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY users_readonly ON users FOR SELECT TO helix_readonly USING (true);
CREATE POLICY users_recorder ON users TO helix_recorder USING (true) WITH CHECK (true);

-- user_sessions
ALTER TABLE user_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE user_sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY user_sessions_tenant ON user_sessions TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY user_sessions_operator ON user_sessions TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY user_sessions_readonly ON user_sessions FOR SELECT TO helix_readonly USING (true);
CREATE POLICY user_sessions_recorder ON user_sessions TO helix_recorder USING (true) WITH CHECK (true);

-- api_keys
ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY api_keys_tenant ON api_keys TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY api_keys_operator ON api_keys TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY api_keys_readonly ON api_keys FOR SELECT TO helix_readonly USING (true);
CREATE POLICY api_keys_recorder ON api_keys TO helix_recorder USING (true) WITH CHECK (true);

-- github_credentials
ALTER TABLE github_credentials ENABLE ROW LEVEL SECURITY;
ALTER TABLE github_credentials FORCE ROW LEVEL SECURITY;
CREATE POLICY github_credentials_tenant ON github_credentials TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY github_credentials_operator ON github_credentials TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY github_credentials_readonly ON github_credentials FOR SELECT TO helix_readonly USING (true);

-- projects
ALTER TABLE projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE projects FORCE ROW LEVEL SECURITY;
CREATE POLICY projects_tenant ON projects TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY projects_operator ON projects TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY projects_readonly ON projects FOR SELECT TO helix_readonly USING (true);
CREATE POLICY projects_recorder ON projects TO helix_recorder USING (true) WITH CHECK (true);

-- project_state
ALTER TABLE project_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE project_state FORCE ROW LEVEL SECURITY;
CREATE POLICY project_state_tenant ON project_state TO helix_app
    USING (EXISTS (SELECT FROM projects AS parent WHERE parent.id = project_state.project_id))
    WITH CHECK (EXISTS (SELECT FROM projects AS parent WHERE parent.id = project_state.project_id));
CREATE POLICY project_state_operator ON project_state TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY project_state_readonly ON project_state FOR SELECT TO helix_readonly USING (true);

-- cancelled_projects
ALTER TABLE cancelled_projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE cancelled_projects FORCE ROW LEVEL SECURITY;
CREATE POLICY cancelled_projects_tenant ON cancelled_projects TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY cancelled_projects_operator ON cancelled_projects TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY cancelled_projects_readonly ON cancelled_projects FOR SELECT TO helix_readonly USING (true);

-- archived_projects
ALTER TABLE archived_projects ENABLE ROW LEVEL SECURITY;
ALTER TABLE archived_projects FORCE ROW LEVEL SECURITY;
CREATE POLICY archived_projects_tenant ON archived_projects TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY archived_projects_operator ON archived_projects TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY archived_projects_readonly ON archived_projects FOR SELECT TO helix_readonly USING (true);

-- llm_requests
ALTER TABLE llm_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_requests_tenant ON llm_requests TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (api_key_id IS NULL OR EXISTS (SELECT FROM api_keys AS target WHERE target.id = llm_requests.api_key_id))
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = llm_requests.project_id))
        AND (session_id IS NULL OR EXISTS (SELECT FROM user_sessions AS target WHERE target.id = llm_requests.session_id)));
CREATE POLICY llm_requests_operator ON llm_requests TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_requests_readonly ON llm_requests FOR SELECT TO helix_readonly USING (true);
CREATE POLICY llm_requests_recorder ON llm_requests TO helix_recorder USING (true) WITH CHECK (true);

-- llm_request_bodies
ALTER TABLE llm_request_bodies ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_request_bodies FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_request_bodies_tenant ON llm_request_bodies TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (request_id IS NULL OR EXISTS (SELECT FROM llm_requests AS target WHERE target.id = llm_request_bodies.request_id)));
CREATE POLICY llm_request_bodies_operator ON llm_request_bodies TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_request_bodies_readonly ON llm_request_bodies FOR SELECT TO helix_readonly USING (true);
CREATE POLICY llm_request_bodies_recorder ON llm_request_bodies TO helix_recorder USING (true) WITH CHECK (true);

-- llm_responses
ALTER TABLE llm_responses ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_responses FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_responses_tenant ON llm_responses TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (request_id IS NULL OR EXISTS (SELECT FROM llm_requests AS target WHERE target.id = llm_responses.request_id)));
CREATE POLICY llm_responses_operator ON llm_responses TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_responses_readonly ON llm_responses FOR SELECT TO helix_readonly USING (true);
CREATE POLICY llm_responses_recorder ON llm_responses TO helix_recorder USING (true) WITH CHECK (true);

-- llm_response_bodies
ALTER TABLE llm_response_bodies ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_response_bodies FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_response_bodies_tenant ON llm_response_bodies TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (response_id IS NULL OR EXISTS (SELECT FROM llm_responses AS target WHERE target.id = llm_response_bodies.response_id)));
CREATE POLICY llm_response_bodies_operator ON llm_response_bodies TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_response_bodies_readonly ON llm_response_bodies FOR SELECT TO helix_readonly USING (true);
CREATE POLICY llm_response_bodies_recorder ON llm_response_bodies TO helix_recorder USING (true) WITH CHECK (true);

-- llm_token_usage
ALTER TABLE llm_token_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_token_usage FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_token_usage_tenant ON llm_token_usage TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (api_key_id IS NULL OR EXISTS (SELECT FROM api_keys AS target WHERE target.id = llm_token_usage.api_key_id))
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = llm_token_usage.project_id)));
CREATE POLICY llm_token_usage_operator ON llm_token_usage TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_token_usage_readonly ON llm_token_usage FOR SELECT TO helix_readonly USING (true);
CREATE POLICY llm_token_usage_recorder ON llm_token_usage TO helix_recorder USING (true) WITH CHECK (true);

-- llm_usage_hourly
ALTER TABLE llm_usage_hourly ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_usage_hourly FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_usage_hourly_tenant ON llm_usage_hourly TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY llm_usage_hourly_operator ON llm_usage_hourly TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_usage_hourly_readonly ON llm_usage_hourly FOR SELECT TO helix_readonly USING (true);

-- llm_usage_daily
ALTER TABLE llm_usage_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_usage_daily FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_usage_daily_tenant ON llm_usage_daily TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY llm_usage_daily_operator ON llm_usage_daily TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_usage_daily_readonly ON llm_usage_daily FOR SELECT TO helix_readonly USING (true);

-- llm_usage_monthly
ALTER TABLE llm_usage_monthly ENABLE ROW LEVEL SECURITY;
ALTER TABLE llm_usage_monthly FORCE ROW LEVEL SECURITY;
CREATE POLICY llm_usage_monthly_tenant ON llm_usage_monthly TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY llm_usage_monthly_operator ON llm_usage_monthly TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY llm_usage_monthly_readonly ON llm_usage_monthly FOR SELECT TO helix_readonly USING (true);

-- budgets
ALTER TABLE budgets ENABLE ROW LEVEL SECURITY;
ALTER TABLE budgets FORCE ROW LEVEL SECURITY;
CREATE POLICY budgets_tenant ON budgets TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (api_key_id IS NULL OR EXISTS (SELECT FROM api_keys AS target WHERE target.id = budgets.api_key_id))
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = budgets.project_id)));
CREATE POLICY budgets_operator ON budgets TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY budgets_readonly ON budgets FOR SELECT TO helix_readonly USING (true);
CREATE POLICY budgets_recorder ON budgets TO helix_recorder USING (true) WITH CHECK (true);

-- budget_periods
ALTER TABLE budget_periods ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_periods FORCE ROW LEVEL SECURITY;
CREATE POLICY budget_periods_tenant ON budget_periods TO helix_app
    USING (EXISTS (SELECT FROM budgets AS parent WHERE parent.id = budget_periods.budget_id))
    WITH CHECK (EXISTS (SELECT FROM budgets AS parent WHERE parent.id = budget_periods.budget_id));
CREATE POLICY budget_periods_operator ON budget_periods TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY budget_periods_readonly ON budget_periods FOR SELECT TO helix_readonly USING (true);
CREATE POLICY budget_periods_recorder ON budget_periods TO helix_recorder USING (true) WITH CHECK (true);

-- budget_reservations
ALTER TABLE budget_reservations ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_reservations FORCE ROW LEVEL SECURITY;
CREATE POLICY budget_reservations_tenant ON budget_reservations TO helix_app
    USING (EXISTS (SELECT FROM budgets AS parent WHERE parent.id = budget_reservations.budget_id))
    WITH CHECK (EXISTS (SELECT FROM budgets AS parent WHERE parent.id = budget_reservations.budget_id));
CREATE POLICY budget_reservations_operator ON budget_reservations TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY budget_reservations_readonly ON budget_reservations FOR SELECT TO helix_readonly USING (true);
CREATE POLICY budget_reservations_recorder ON budget_reservations TO helix_recorder USING (true) WITH CHECK (true);

-- tool_audit_log
ALTER TABLE tool_audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_audit_log FORCE ROW LEVEL SECURITY;
CREATE POLICY tool_audit_log_tenant ON tool_audit_log TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (api_key_id IS NULL OR EXISTS (SELECT FROM api_keys AS target WHERE target.id = tool_audit_log.api_key_id))
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = tool_audit_log.project_id)));
CREATE POLICY tool_audit_log_operator ON tool_audit_log TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY tool_audit_log_readonly ON tool_audit_log FOR SELECT TO helix_readonly USING (true);

-- error_log
ALTER TABLE error_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE error_log FORCE ROW LEVEL SECURITY;
CREATE POLICY error_log_tenant ON error_log TO helix_app
    USING (user_id = (SELECT helix_tenant()))
    WITH CHECK (user_id = (SELECT helix_tenant())
        AND (project_id IS NULL OR EXISTS (SELECT FROM projects AS target WHERE target.id = error_log.project_id)));
CREATE POLICY error_log_operator ON error_log TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY error_log_readonly ON error_log FOR SELECT TO helix_readonly USING (true);
CREATE POLICY error_log_recorder ON error_log TO helix_recorder USING (true) WITH CHECK (true);

-- ----------------------------------------------------------------------------------------------------
-- grants
-- ----------------------------------------------------------------------------------------------------

-- accounts. A tenant changes names and sees its keys, never a hash. Passwords, roles and states are the operator's (log-in and registration run as
-- helix_operator, before there is a tenant). A key's scopes and limit are fixed when it is made.
GRANT
    SELECT (id, username, email, name, role, status, is_active, metadata, created_at, updated_at, last_login),
    UPDATE (username, email, name, metadata)
    ON users TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON users TO helix_operator;
GRANT SELECT (id, username, email, name, role, status, is_active, metadata, created_at, updated_at, last_login) ON users TO helix_readonly;
GRANT SELECT (id, email, role, status, is_active) ON users TO helix_recorder;
GRANT
    SELECT (id, user_id, provider_id, context, metadata, memory_id, status, request_count, last_activity, expires_at, revoked_at, created_at),
    INSERT (id, user_id, provider_id, context, metadata, memory_id, expires_at),
    UPDATE (provider_id, context, metadata, memory_id, status, request_count, last_activity, revoked_at), DELETE
    ON user_sessions TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON user_sessions TO helix_operator;
GRANT SELECT (id, user_id, provider_id, context, metadata, memory_id, status, request_count, last_activity, expires_at, revoked_at, created_at)
    ON user_sessions TO helix_readonly;
GRANT SELECT (id, user_id, status, expires_at) ON user_sessions TO helix_recorder;
GRANT
    SELECT (id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at, last_used_at, revoked_at),
    INSERT (id, user_id, key_hash, key_prefix, name, scopes, rate_limit, expires_at), UPDATE (name, status, expires_at, revoked_at)
    ON api_keys TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON api_keys TO helix_operator;
GRANT SELECT (id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at, last_used_at, revoked_at) ON api_keys TO helix_readonly;
GRANT SELECT, UPDATE (last_used_at) ON api_keys TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON github_credentials TO helix_app, helix_operator;
GRANT SELECT (id, user_id, github_login, key_id, token_expires_at, created_at, updated_at) ON github_credentials TO helix_readonly;

-- providers
GRANT SELECT ON llm_providers TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_providers TO helix_operator;
GRANT SELECT ON llm_providers TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON provider_configs TO helix_operator;
GRANT SELECT (id, provider_id, key, encrypted, key_id, created_at, updated_at) ON provider_configs TO helix_readonly;
GRANT SELECT ON provider_configs TO helix_recorder;

-- projects. Records of cancellation and archiving are written once.
GRANT SELECT, INSERT, UPDATE, DELETE ON projects, project_state TO helix_app, helix_operator;
GRANT SELECT ON projects, project_state TO helix_readonly;
GRANT SELECT (id, user_id, status) ON projects TO helix_recorder;
GRANT SELECT, INSERT ON cancelled_projects, archived_projects TO helix_app, helix_operator;
GRANT SELECT ON cancelled_projects, archived_projects TO helix_readonly;

-- prompts. Versions and results are kept for ever.
GRANT SELECT ON prompts, prompt_tests, prompt_test_results TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE ON prompts TO helix_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON prompt_tests TO helix_operator;
GRANT SELECT, INSERT ON prompt_test_results TO helix_operator;

-- requests, responses, ledger: the recorder writes, everybody else reads; the operator may close requests that died, and remove or blank texts.
GRANT SELECT ON llm_requests, llm_request_bodies, llm_responses, llm_response_bodies, llm_token_usage TO helix_app, helix_operator, helix_readonly;
GRANT UPDATE (status, started_at, completed_at) ON llm_requests TO helix_operator, helix_recorder;
GRANT INSERT ON llm_requests, llm_request_bodies, llm_responses, llm_response_bodies, llm_token_usage TO helix_operator, helix_recorder;
GRANT UPDATE, DELETE ON llm_request_bodies, llm_response_bodies TO helix_operator;
GRANT SELECT (id, user_id, status, idempotency_key, created_at, started_at, completed_at) ON llm_requests TO helix_recorder;
GRANT SELECT ON llm_pricing TO helix_app, helix_readonly, helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_pricing TO helix_operator;
GRANT SELECT ON llm_usage_hourly, llm_usage_daily, llm_usage_monthly TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON llm_usage_hourly, llm_usage_daily, llm_usage_monthly TO helix_operator;

-- A tenant may add a tighter budget, never loosen or remove one. Reserving and settling is the recorder's.
GRANT SELECT, INSERT ON budgets TO helix_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON budgets TO helix_operator;
GRANT SELECT ON budgets TO helix_readonly, helix_recorder;
GRANT SELECT ON budget_periods, budget_reservations TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON budget_periods, budget_reservations TO helix_operator;
GRANT SELECT, INSERT, UPDATE ON budget_periods TO helix_recorder;
GRANT SELECT, INSERT, DELETE ON budget_reservations TO helix_recorder;

-- tools and errors. The audit log is written and read, by nobody changed.
GRANT SELECT ON agent_permissions TO helix_app, helix_readonly;
GRANT SELECT, INSERT, UPDATE, DELETE ON agent_permissions TO helix_operator;
GRANT SELECT, INSERT ON tool_audit_log TO helix_app, helix_operator;
GRANT SELECT ON tool_audit_log TO helix_readonly;
GRANT SELECT, INSERT ON error_log TO helix_app, helix_operator;
GRANT SELECT ON error_log TO helix_readonly;
GRANT INSERT ON error_log TO helix_recorder;
GRANT SELECT, INSERT, UPDATE, DELETE ON error_log_summary TO helix_operator;
GRANT SELECT ON error_log_summary TO helix_readonly;
GRANT SELECT ON rls_exempt_tables TO helix_readonly;
GRANT SELECT ON rls_exempt_tables TO helix_operator;

-- Views are security_invoker: what they show is what the reader may see beneath.
GRANT SELECT
    ON 
    llm_calls, providers, sessions, completions, spend_by_day, spend_by_project, current_prices, slow_requests, provider_stream_metrics,
    recent_errors TO helix_app, helix_operator, helix_readonly;
GRANT SELECT ON table_sizes, unused_indexes, rls_gaps TO helix_operator, helix_readonly;

-- Functions. All but one run with the rights of their caller, so what they reach is decided above. The one that does not, and those that only call it, are the operator's;
-- partitions are made by the owner of the tables alone.
REVOKE EXECUTE ON FUNCTION helix_create_partitions(integer, integer), helix_refresh_usage_rollups(timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION helix_refresh_usage_rollups(timestamptz, timestamptz) TO helix_operator;

-- ----------------------------------------------------------------------------------------------------
-- seed data
-- ----------------------------------------------------------------------------------------------------

-- Prices in USD per million tokens. The first four are printed in the design (Decision 79, 2025-11-01) and are examples of their day: enter
-- your contract's prices as new rows with a later effective_date, never by changing these.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, effective_date, source, updated_by, notes) VALUES
    ('gpt-4',             30.000000, 60.000000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79'),
    ('gpt-4-turbo',       10.000000, 30.000000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79'),
    ('gpt-3.5-turbo',      0.500000,  1.500000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79'),
    ('gpt-3.5-turbo-16k',  3.000000,  4.000000, '2025-11-01 00:00:00+00', 'Decision 79', 'helix', 'List price as printed in Decision 79')
ON CONFLICT (model, effective_date) DO NOTHING;

-- The built-in mock provider answers without a network and costs nobody anything. Its prices are invented, so that a trial shows what a cost looks like.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, effective_date, source, updated_by, notes) VALUES
    ('mock/echo',       1.000000,  2.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/small',      0.250000,  1.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/large',      5.000000, 15.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/slow',       2.000000,  4.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent'),
    ('mock/embedding',  0.100000,  0.000000, '2025-01-01 00:00:00+00', 'invented', 'helix', 'Invented price of the built-in mock provider: no money is spent')
ON CONFLICT (model, effective_date) DO NOTHING;

-- Which kind of agent may use which tool. The whole matrix is written out, also what is refused, so that it can be read and edited row by
-- row. An agent type or tool that is not here is refused: deny is what the absence of a row means.
INSERT INTO agent_permissions (agent_type, tool_name, allowed)
SELECT agent.agent_type, tool.tool_name, tool.tool_name = ANY (agent.tools)
FROM (VALUES
    ('orchestrator', '{read_file,list_files,search_code,git_diff,web_search,delegate_task}'::text[]),
    ('planner',      '{read_file,list_files,search_code,git_diff,web_search}'),
    ('researcher',   '{read_file,list_files,search_code,web_search,fetch_url}'),
    ('backend_dev',  '{read_file,list_files,search_code,git_diff,write_file,run_tests,git_commit}'),
    ('frontend_dev', '{read_file,list_files,search_code,git_diff,write_file,run_tests,git_commit}'),
    ('tester',       '{read_file,list_files,search_code,git_diff,write_file,run_tests}'),
    ('reviewer',     '{read_file,list_files,search_code,git_diff,run_tests}'),
    ('documenter',   '{read_file,list_files,search_code,git_diff,write_file,git_commit}'),
    ('devops',       '{read_file,list_files,search_code,git_diff,write_file,run_tests,git_commit,shell}')
    ) AS agent (agent_type, tools)
CROSS JOIN unnest('{read_file,list_files,search_code,git_diff,write_file,delete_file,run_tests,web_search,fetch_url,delegate_task,shell,git_commit,git_push,deploy,db_query}'::text[]) AS tool (tool_name)
ON CONFLICT (agent_type, tool_name) DO NOTHING;
