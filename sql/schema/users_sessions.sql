-- users_sessions.sql: who may use Helix: accounts, their sessions, their API keys, their GitHub link.
-- Domain: accounts (lowest floor). Secrets are hashed (what clients present) or encrypted (what Helix presents to others).

-- ---------------------------------------------------------------------------------------------------------------------
-- users: one row per account, and at once the tenant: every tenant table carries users.id. Written by registration and the
-- operator. Kept until erased; erasing one removes what is the user's own and unlinks accounting and audit rows.
-- There is no api_key column, whatever a seed prints: keys are rows of api_keys, hashed.
-- ---------------------------------------------------------------------------------------------------------------------
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
    rate_limit        integer,
    tokens_per_minute integer,
    parallel_max      integer,
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_username_key UNIQUE (username),
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_role_check CHECK (role IN ('user', 'admin', 'service')),
    CONSTRAINT users_status_check CHECK (status IN ('active', 'suspended', 'deleted')),
    CONSTRAINT users_limits_check CHECK (rate_limit >= 0 AND tokens_per_minute >= 0 AND parallel_max >= 0),
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
COMMENT ON COLUMN users.rate_limit IS 'Requests per minute of all the user''s keys and logins together; NULL: only each key''s own limit.';
COMMENT ON COLUMN users.tokens_per_minute IS 'Tokens per minute, all together; NULL: no limit.';
COMMENT ON COLUMN users.parallel_max IS 'Calls under way at once, all together; NULL: no limit.';

-- Is this address taken, in whatever case it was typed? (log-in and registration; idx_users_email would only repeat users_email_key)
CREATE UNIQUE INDEX users_email_lower_key ON users (lower(email));
-- Which accounts are suspended or wait for erasure?
CREATE INDEX idx_users_status ON users (status);
-- Who are the admins, which accounts are machines?
CREATE INDEX idx_users_role ON users (role);

CREATE TRIGGER users_set_updated_at BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- user_sessions: one row per session: a login (then token_hash is set) or a stateful run of requests opened through an API
-- key (then it is NULL). Written by login and the gateway. Swept after expires_at; goes with its user.
-- There is no session_token column: only the token's hash is stored.
-- ---------------------------------------------------------------------------------------------------------------------
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

-- ---------------------------------------------------------------------------------------------------------------------
-- api_keys: one row per API key of a user. Written when a key is made (the key is shown once, then only its hash is known),
-- revoked or used (last_used_at, at most once a minute). Kept after revocation so that usage still names the key.
-- ---------------------------------------------------------------------------------------------------------------------
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
    parent_key_id     uuid,
    ancestor_ids      uuid[]  NOT NULL DEFAULT '{}',
    tokens_per_minute integer,
    parallel_max      integer,
    allowed_models    text[],
    cache_max_age_s   integer,
    previous_hash     bytea,
    previous_until    timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash),
    CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) = 32),
    CONSTRAINT api_keys_scopes_check CHECK (scopes <@ ARRAY[
        'completions', 'embeddings', 'models', 'debates', 'memories', 'knowledge', 'conversations', 'tasks', 'projects',
        'prompts', 'tools', 'usage', 'admin']::text[]),
    CONSTRAINT api_keys_rate_limit_check CHECK (rate_limit >= 0),
    CONSTRAINT api_keys_limits_check CHECK (tokens_per_minute >= 0 AND parallel_max >= 0),
    CONSTRAINT api_keys_previous_hash_key UNIQUE (previous_hash),
    CONSTRAINT api_keys_previous_check CHECK (octet_length(previous_hash) = 32 AND (previous_hash IS NULL) = (previous_until IS NULL)),
    CONSTRAINT api_keys_cache_max_age_s_check CHECK (cache_max_age_s >= 0),
    CONSTRAINT api_keys_parent_key_id_fkey FOREIGN KEY (parent_key_id) REFERENCES api_keys (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_ancestors_check CHECK (cardinality(ancestor_ids) <= 8
        AND ancestor_ids[cardinality(ancestor_ids)] IS NOT DISTINCT FROM parent_key_id),
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
COMMENT ON COLUMN api_keys.parent_key_id IS 'The key this one was made with; it can do no more than that one, and ends with it. NULL: made with a login or a command.';
COMMENT ON COLUMN api_keys.ancestor_ids IS 'All keys it descends from, the oldest first; calls count against the limits and budgets of each of them.';
COMMENT ON COLUMN api_keys.tokens_per_minute IS 'Tokens per minute; NULL: no limit.';
COMMENT ON COLUMN api_keys.parallel_max IS 'Calls under way at once; NULL: no limit.';
COMMENT ON COLUMN api_keys.allowed_models IS 'Patterns of the models the key may call (* stands for any characters); NULL: every model.';
COMMENT ON COLUMN api_keys.cache_max_age_s IS 'How old an answer out of the response cache may be; 0: never from the cache; NULL: as the route says.';
COMMENT ON COLUMN api_keys.previous_hash IS 'SHA-256 of the key that was replaced by the last rotation. Never shown.';
COMMENT ON COLUMN api_keys.previous_until IS 'Until when the replaced key still opens the door.';

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
-- Which keys were made with this one, directly or not?
CREATE INDEX api_keys_ancestor_ids_idx ON api_keys USING gin (ancestor_ids);
-- Which keys were made with this one? (deleting it)
CREATE INDEX api_keys_parent_key_id_idx ON api_keys (parent_key_id) WHERE parent_key_id IS NOT NULL;
-- Which keys are revoked or expired?
CREATE INDEX idx_api_keys_status ON api_keys (status);

-- ---------------------------------------------------------------------------------------------------------------------
-- github_credentials: one row per user who linked GitHub. Written by the OAuth callback and the refresher. Goes with its user.
-- ---------------------------------------------------------------------------------------------------------------------
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
COMMENT ON COLUMN github_credentials.refresh_token IS 'Ciphertext, bound to this row, made with key_id; NULL for a personal access token, which cannot be refreshed. Never shown.';
COMMENT ON COLUMN github_credentials.key_id IS 'Which encryption key made the ciphertexts; rotation rewrites rows with an old one.';
COMMENT ON COLUMN github_credentials.token_expires_at IS 'When the access token ends; NULL for a token without end. Refreshed before.';

-- Which tokens must be refreshed soon? (idx_github_creds_user would only repeat github_credentials_user_id_key)
CREATE INDEX github_credentials_token_expires_at_idx ON github_credentials (token_expires_at) WHERE refresh_token IS NOT NULL;

CREATE TRIGGER github_credentials_set_updated_at BEFORE UPDATE ON github_credentials FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();
