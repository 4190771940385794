-- Statements of providers. Reading runs as helix_recorder, writing as helix_operator.

-- name: registry_mark
-- One value that changes whenever any row of the registry does. A sum of all times, not the newest:
-- a transaction that commits late must not slip by.
-- Index: none, the tables are small. Locks: none. Runs twice a second and process.
SELECT (SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0)
        FROM llm_providers) || ' '
    || (SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0)
        FROM provider_configs) || ' '
    || (SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0)
        FROM llm_models) AS mark;

-- name: load_providers
-- The providers that may be called. Index: none. Locks: none.
SELECT id, name, protocol, coalesce(base_url, '') AS base_url, priority, model
FROM llm_providers
WHERE enabled AND NOT coalesce((config ->> 'withdrawn')::boolean, false)
ORDER BY priority, name;

-- name: load_models
-- The models they list. Index: none. Locks: none.
SELECT m.provider_id, m.model_name
FROM llm_models m JOIN llm_providers p ON p.id = m.provider_id
WHERE m.is_active AND p.enabled;

-- name: load_credentials
-- Their credentials, as ciphertext. Index: none. Locks: none.
SELECT c.provider_id, c.value
FROM provider_configs c JOIN llm_providers p ON p.id = c.provider_id
WHERE c.key = 'api_key' AND c.encrypted AND p.enabled;

-- name: lock_registration
-- One process at a time registers what its settings name. Locks: advisory, to the transaction's end.
SELECT pg_advisory_xact_lock(hashtext('helix_register_providers'));

-- name: insert_provider
-- Index: llm_providers_name_key. Locks: none beyond the new row.
INSERT INTO llm_providers (id, name, display_name, provider_type, protocol, base_url, model, priority, config)
VALUES (:id, :name, :display_name, :provider_type, :protocol, :base_url, :model, :priority, :config)
ON CONFLICT (name) DO NOTHING
RETURNING id;

-- name: find_provider
-- Index: llm_providers_name_key. Locks: the row, to the transaction's end.
SELECT id, name, base_url, config FROM llm_providers WHERE name = :name FOR UPDATE;

-- name: update_settings_provider
-- What the settings say of a provider they registered; whether it is enabled is the operator's.
-- Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET base_url = :base_url, config = config - 'withdrawn'
WHERE id = :id AND (base_url IS DISTINCT FROM :base_url OR config ? 'withdrawn');

-- name: withdraw_settings_providers
-- Providers that came from settings which are not set any more. Index: none. Locks: the rows.
UPDATE llm_providers SET config = config || '{"withdrawn": true}'
WHERE config ->> 'origin' = 'settings' AND NOT config ? 'withdrawn' AND name <> ALL (:names::text[])
RETURNING id, name;

-- name: delete_credentials
-- Index: provider_configs_provider_id_key_key. Locks: the rows.
DELETE FROM provider_configs WHERE provider_id = ANY (:provider_ids::uuid[]) AND encrypted;

-- name: get_credential
-- Index: provider_configs_provider_id_key_key. Locks: none.
SELECT value FROM provider_configs WHERE provider_id = :provider_id AND key = 'api_key' AND encrypted;

-- name: put_credential
-- Index: provider_configs_provider_id_key_key. Locks: the row.
INSERT INTO provider_configs (provider_id, key, value, encrypted, key_id)
VALUES (:provider_id, 'api_key', :value, true, :key_id)
ON CONFLICT (provider_id, key) DO UPDATE SET value = excluded.value, encrypted = true, key_id = excluded.key_id;

-- name: put_models
-- Models a provider lists; those known stay as they are. Index: llm_models_provider_id_model_name_key.
-- Locks: none beyond the new rows.
INSERT INTO llm_models (provider_id, model_name, supports_streaming, last_refreshed_at)
SELECT :provider_id, name, true, now() FROM unnest(:names::text[]) AS listed (name)
ON CONFLICT (provider_id, model_name) DO NOTHING;

-- name: count_models
-- Keep the provider's counts true. Index: llm_models_provider_id_model_name_key. Locks: the row.
UPDATE llm_providers p SET total_models = m.total, enabled_models = m.active, last_models_sync = now()
FROM (SELECT count(*) AS total, count(*) FILTER (WHERE is_active) AS active
      FROM llm_models WHERE provider_id = :provider_id) AS m
WHERE p.id = :provider_id AND (p.total_models, p.enabled_models) IS DISTINCT FROM (m.total, m.active);

-- name: providers_without_models
-- Those whose list of models was never read. Index: none. Locks: none.
SELECT id, name FROM llm_providers p
WHERE p.enabled AND p.protocol = 'openai'
  AND NOT EXISTS (SELECT FROM llm_models m WHERE m.provider_id = p.id);

-- name: list_providers
-- All that can be shown of providers; of one when name is given. Index: none. Locks: none.
SELECT p.id, p.name, p.display_name, p.provider_type, p.protocol, p.base_url, p.enabled, p.priority, p.model,
    p.health_status, p.total_models, p.enabled_models, p.created_at, p.updated_at,
    coalesce(p.config ->> 'origin', 'operator') AS origin,
    coalesce((p.config ->> 'withdrawn')::boolean, false) AS withdrawn,
    (SELECT c.key_id FROM provider_configs c WHERE c.provider_id = p.id AND c.key = 'api_key') AS credential_key_id
FROM llm_providers p
WHERE :name::text IS NULL OR p.name = :name
ORDER BY p.priority, p.name;

-- name: list_models
-- Index: llm_models_provider_id_model_name_key. Locks: none.
SELECT model_name, is_active FROM llm_models WHERE provider_id = :provider_id ORDER BY model_name;

-- name: set_enabled
-- Index: llm_providers_name_key. Locks: the row.
UPDATE llm_providers SET enabled = :enabled WHERE name = :name RETURNING id;

-- name: delete_provider
-- Its credentials and models go with it; recorded calls keep its name. Locks: the rows.
DELETE FROM llm_providers WHERE name = :name RETURNING id;
