-- Statements of accounts. Roles: helix_operator, except check_keys and touch_keys (helix_recorder).

-- name: check_keys
-- All that decides about presented keys, by their hashes; unknown ones are left out. A key that was
-- replaced opens the door until previous_until; a key ends with those it descends from, and may call
-- only models that they all may.
-- Index: api_keys_key_hash_key, api_keys_previous_hash_key, api_keys_pkey, users_pkey. Locks: none.
-- Runs at most once a second and key.
SELECT presented.hash AS key_hash, k.id, k.user_id, k.scopes, k.rate_limit,
    CASE WHEN k.status <> 'active' THEN k.status ELSE coalesce(up.status, 'active') END AS status,
    least(k.expires_at, up.expires_at, presented.until) AS expires_at,
    u.role AS user_role, u.status AS user_status, k.cache_max_age_s,
    CASE WHEN k.allowed_models IS NULL THEN coalesce(up.model_lists, '[]')
         ELSE coalesce(up.model_lists, '[]') || jsonb_build_array(to_jsonb(k.allowed_models)) END AS model_lists
FROM (
    SELECT p.hash, k.id, NULL::timestamptz AS until
    FROM unnest(:hashes::bytea[]) AS p (hash) JOIN api_keys k ON k.key_hash = p.hash
    UNION ALL
    SELECT p.hash, k.id, k.previous_until
    FROM unnest(:hashes::bytea[]) AS p (hash) JOIN api_keys k ON k.previous_hash = p.hash) AS presented
JOIN api_keys k ON k.id = presented.id
JOIN users u ON u.id = k.user_id
LEFT JOIN LATERAL (
    SELECT min(a.expires_at) AS expires_at, min(a.status) FILTER (WHERE a.status <> 'active') AS status,
        jsonb_agg(to_jsonb(a.allowed_models)) FILTER (WHERE a.allowed_models IS NOT NULL) AS model_lists
    FROM api_keys a WHERE a.id = ANY (k.ancestor_ids)) AS up ON cardinality(k.ancestor_ids) > 0;

-- name: touch_keys
-- Note when keys were used, to the minute, many keys at a time; never moves a time back.
-- Index: api_keys_pkey. Locks: the rows it changes.
UPDATE api_keys k SET last_used_at = used.at
FROM unnest(:ids::uuid[], :times::timestamptz[]) AS used (id, at)
WHERE k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < used.at - interval '50 seconds');

-- name: insert_user
-- Index: users_pkey, users_email_lower_key. Locks: none beyond the new row.
INSERT INTO users (id, email, username, name, role, password_hash)
VALUES (:id, :email, :username, :name, :role, :password_hash)
RETURNING id, email, username, name, role, status, created_at, last_login;

-- name: find_login
-- The account that logs in with an address (any case) or a user name.
-- Index: users_email_lower_key, users_username_key. Locks: none.
SELECT id, email, username, name, role, status, created_at, last_login, password_hash
FROM users
WHERE lower(email) = lower(:login) OR username = :login
ORDER BY lower(email) = lower(:login) DESC
LIMIT 1;

-- name: get_user
-- Index: users_pkey. Locks: none.
SELECT id, email, username, name, role, status, created_at, last_login FROM users WHERE id = :id;

-- name: get_password_hash
-- Index: users_pkey. Locks: none.
SELECT password_hash FROM users WHERE id = :id;

-- name: list_users
-- A page of accounts, oldest first. Index: none, the table is small. Locks: none.
SELECT id, email, username, name, role, status, created_at, last_login
FROM users
WHERE :after_id::uuid IS NULL
   OR (created_at, id) > (SELECT a.created_at, a.id FROM users a WHERE a.id = :after_id)
ORDER BY created_at, id
LIMIT :max_count;

-- name: lock_admins
-- The active admins, held, so that two changes at once cannot leave nobody to run Helix.
-- Index: idx_users_role. Locks: those rows until the transaction ends.
SELECT id FROM users WHERE role = 'admin' AND status = 'active' ORDER BY id FOR UPDATE;

-- name: set_user_status
-- Index: users_pkey. Locks: the row.
UPDATE users SET status = :status WHERE id = :id
RETURNING id, email, username, name, role, status, created_at, last_login;

-- name: set_user_role
-- Index: users_pkey. Locks: the row.
UPDATE users SET role = :role WHERE id = :id
RETURNING id, email, username, name, role, status, created_at, last_login;

-- name: set_password
-- Index: users_pkey. Locks: the row.
UPDATE users SET password_hash = :password_hash WHERE id = :id RETURNING id;

-- name: set_last_login
-- Index: users_pkey. Locks: the row.
UPDATE users SET last_login = :now WHERE id = :id;

-- name: lock_bootstrap
-- One at a time makes the first admin. Locks: an advisory lock until the transaction ends.
SELECT pg_advisory_xact_lock(hashtext('helix_bootstrap_admin'));

-- name: count_admins
-- Index: idx_users_role. Locks: none.
SELECT count(*) AS admins FROM users WHERE role = 'admin';

-- name: insert_session
-- Index: user_sessions_pkey. Locks: none beyond the new row.
INSERT INTO user_sessions (id, user_id, token_hash, expires_at, last_activity, created_at)
VALUES (:id, :user_id, :token_hash, :expires_at, :now, :now);

-- name: use_session
-- Check a presented session and count its request in one statement; no row when it is not valid.
-- Index: user_sessions_pkey. Locks: the row.
UPDATE user_sessions s SET request_count = s.request_count + 1, last_activity = :now
FROM users u
WHERE s.id = :id AND s.user_id = :user_id AND s.token_hash = :token_hash AND s.status = 'active'
  AND s.expires_at > :now AND u.id = s.user_id
RETURNING s.id, s.user_id, s.expires_at, u.role AS user_role, u.status AS user_status;

-- name: revoke_session
-- Index: user_sessions_pkey. Locks: the row. Repeating it is harmless.
UPDATE user_sessions SET status = 'revoked', revoked_at = :now
WHERE id = :id AND user_id = :user_id AND status = 'active';

-- name: revoke_sessions
-- Every session of a user, as after a change of password. Index: idx_sessions_user_id.
-- Locks: the rows it changes.
UPDATE user_sessions SET status = 'revoked', revoked_at = :now
WHERE user_id = :user_id AND status = 'active';

-- name: insert_key
-- Index: api_keys_pkey, api_keys_key_hash_key. Locks: key-share on the parent.
INSERT INTO api_keys (id, user_id, key_hash, key_prefix, name, scopes, rate_limit, expires_at, created_at,
    parent_key_id, ancestor_ids, tokens_per_minute, parallel_max, allowed_models, cache_max_age_s)
VALUES (:id, :user_id, :key_hash, :key_prefix, :name, :scopes, :rate_limit, :expires_at, :now,
    :parent_key_id, coalesce((SELECT p.ancestor_ids || p.id FROM api_keys p WHERE p.id = :parent_key_id), '{}'),
    :tokens_per_minute, :parallel_max, :allowed_models, :cache_max_age_s)
RETURNING id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s;

-- name: list_keys
-- The keys of one user, newest first; of everybody when user_id is NULL.
-- Index: idx_api_keys_user_id. Locks: none.
SELECT id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s
FROM api_keys
WHERE :user_id::uuid IS NULL OR user_id = :user_id
ORDER BY created_at DESC, id
LIMIT :max_count;

-- name: get_key
-- Index: api_keys_pkey. Locks: none.
SELECT id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s
FROM api_keys WHERE id = :id AND (:user_id::uuid IS NULL OR user_id = :user_id);

-- name: find_keys_by_prefix
-- The keys whose shown part this is. Index: none, an operator's question. Locks: none.
SELECT id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s
FROM api_keys WHERE key_prefix = :prefix ORDER BY id LIMIT 2;

-- name: key_is_within
-- Whether a user's key is another one, or descends from it. Index: api_keys_pkey. Locks: none.
SELECT id = :within OR ancestor_ids @> ARRAY[:within::uuid] AS within
FROM api_keys WHERE id = :id AND user_id = :user_id;

-- name: rename_key
-- Index: api_keys_pkey. Locks: the row.
UPDATE api_keys SET name = :name
WHERE id = :id AND (:user_id::uuid IS NULL OR user_id = :user_id)
RETURNING id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s;

-- name: revoke_key
-- The key and all that descend from it. Repeating it is harmless and keeps the first moment.
-- Index: api_keys_pkey, api_keys_ancestor_ids_idx. Locks: the rows.
UPDATE api_keys SET status = 'revoked', revoked_at = coalesce(revoked_at, :now)
WHERE (id = :id OR ancestor_ids @> ARRAY[:id::uuid]) AND (:user_id::uuid IS NULL OR user_id = :user_id)
RETURNING id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s;

-- name: rotate_key
-- What opened the key until now does so until previous_until; what was replaced before that, no more.
-- Index: api_keys_pkey. Locks: the row.
UPDATE api_keys SET previous_hash = key_hash, previous_until = :previous_until, key_hash = :key_hash,
    key_prefix = :key_prefix
WHERE id = :id AND (:user_id::uuid IS NULL OR user_id = :user_id) AND status = 'active'
RETURNING id, user_id, key_prefix, name, scopes, rate_limit, status, created_at, expires_at,
    last_used_at, revoked_at, parent_key_id, tokens_per_minute, parallel_max, allowed_models,
    cache_max_age_s;
