-- Statements of providers. Reading runs as helix_recorder, writing as helix_operator.

-- name: registry_mark
-- One value that changes whenever the registry does; what probes and verifications write does not count.
-- Of big tables a sum of all times, not the newest: a transaction that commits late must not slip by.
-- Index: none, the tables are small. Locks: none. Runs twice a second and process.
SELECT (SELECT count(*) || '/' || coalesce(sum(hashtextextended(concat_ws('|', id, name, protocol, base_url, model,
                enabled, priority, weight, rate_limits, config), 0)), 0)
        FROM llm_providers) || ' '
    || (SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0)
        FROM provider_configs) || ' '
    || (SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0)
        FROM llm_models) || ' '
    || (SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0)
        FROM llm_routes) || ' '
    || (SELECT count(*) || '/' || coalesce(sum(hashtextextended(concat_ws('|', id, provider_id, model_name, priority,
                weight, position), 0)), 0)
        FROM llm_route_targets) AS mark;

-- name: load_providers
-- The providers that may be called. Index: none. Locks: none.
SELECT id, name, protocol, coalesce(base_url, '') AS base_url, priority, weight::double precision AS weight, model,
    rate_limits, coalesce((config ->> 'private')::boolean, true) AS private,
    coalesce((config ->> 'key_needed')::boolean, false) AS key_needed
FROM llm_providers
WHERE enabled AND NOT coalesce((config ->> 'withdrawn')::boolean, false)
ORDER BY priority, name;

-- name: load_models
-- The models they list, and what is known of them. Index: none. Locks: none.
SELECT m.provider_id, m.model_name, m.capabilities ? 'known_from' AS known, m.context_window, m.max_tokens,
    m.supports_vision, m.supports_function_calling, m.supports_streaming, m.supports_json_mode, m.supports_audio,
    m.supports_reasoning, m.benchmark_score::double precision AS quality
FROM llm_models m JOIN llm_providers p ON p.id = m.provider_id
WHERE m.is_active AND p.enabled;

-- name: load_routes
-- The routes that may be called. Index: none. Locks: none.
SELECT id, name, strategy, is_alias, retries_max, connect_ms, first_token_ms, between_tokens_ms, total_ms,
    retry_after_max_ms, cache_s
FROM llm_routes WHERE enabled ORDER BY name;

-- name: load_route_targets
-- Where they lead. Index: none. Locks: none.
SELECT route_id, provider_id, model_name, priority, weight::double precision AS weight
FROM llm_route_targets ORDER BY route_id, position, model_name;

-- name: load_health
-- How every provider does, and how many gateways live: each holds one shared advisory lock, its lease
-- (gateway: hold_lease). Index: none. Locks: none. Runs twice a second and process.
SELECT p.id, p.health_status, p.response_time, p.verification_score::double precision AS score, p.last_verified,
    (SELECT count(DISTINCT (l.classid, l.objid)) FROM pg_locks l
     WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.mode = 'ShareLock'
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS gateways
FROM llm_providers p ORDER BY p.id;

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
INSERT INTO llm_providers (id, name, display_name, provider_type, protocol, base_url, model, priority, weight,
    rate_limits, modelsdev_provider_id, config)
VALUES (:id, :name, :display_name, :provider_type, :protocol, :base_url, :model, :priority, :weight, :rate_limits,
    :modelsdev_provider_id, :config)
ON CONFLICT (name) DO NOTHING
RETURNING id;

-- name: find_provider
-- Index: llm_providers_name_key. Locks: the row, to the transaction's end.
SELECT id, name, display_name, protocol, base_url, model, priority, weight, rate_limits, modelsdev_provider_id, config
FROM llm_providers WHERE name = :name FOR UPDATE;

-- name: update_provider
-- What an operator changed. Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET display_name = :display_name, base_url = :base_url, model = :model, priority = :priority,
    weight = :weight, rate_limits = :rate_limits, modelsdev_provider_id = :modelsdev_provider_id, config = :config
WHERE id = :id;

-- name: update_settings_provider
-- What the settings say of a provider they registered; whether it is enabled is the operator's.
-- Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET protocol = :protocol, base_url = :base_url, modelsdev_provider_id = :modelsdev_provider_id,
    config = config - 'withdrawn' - 'key_needed' || jsonb_build_object('private', :private::boolean)
WHERE id = :id AND (base_url IS DISTINCT FROM :base_url OR protocol <> :protocol OR config ?| '{withdrawn,key_needed}'
    OR modelsdev_provider_id IS DISTINCT FROM :modelsdev_provider_id
    OR (config ->> 'private')::boolean IS DISTINCT FROM :private::boolean);

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

-- name: credential_places
-- What each stored credential is bound to. Index: provider_configs_pkey, llm_providers_pkey. Locks: none.
SELECT c.id, c.provider_id, p.base_url FROM provider_configs AS c JOIN llm_providers AS p ON p.id = c.provider_id
WHERE c.id = ANY (:ids::uuid[]);

-- name: put_credential
-- Index: provider_configs_provider_id_key_key. Locks: the row.
INSERT INTO provider_configs (provider_id, key, value, encrypted, key_id)
VALUES (:provider_id, 'api_key', :value, true, :key_id)
ON CONFLICT (provider_id, key) DO UPDATE SET value = excluded.value, encrypted = true, key_id = excluded.key_id;

-- name: key_stored
-- Its key was stored again. Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET config = config - 'key_needed' WHERE id = :id AND config ? 'key_needed';

-- name: put_models
-- Models a provider lists; of those known only what was never told is filled in.
-- Index: llm_models_provider_id_model_name_key. Locks: the rows.
INSERT INTO llm_models (provider_id, model_name, display_name, context_window, max_tokens, supports_streaming,
    last_refreshed_at)
SELECT :provider_id, listed.name, listed.display_name, listed.context_window, listed.max_tokens, true, now()
FROM unnest(:names::text[], :display_names::text[], :context_windows::integer[], :max_tokens::integer[])
    AS listed (name, display_name, context_window, max_tokens)
ON CONFLICT (provider_id, model_name) DO UPDATE SET
    display_name = coalesce(llm_models.display_name, excluded.display_name),
    context_window = coalesce(llm_models.context_window, excluded.context_window),
    max_tokens = coalesce(llm_models.max_tokens, excluded.max_tokens)
WHERE (llm_models.display_name IS NULL AND excluded.display_name IS NOT NULL)
   OR (llm_models.context_window IS NULL AND excluded.context_window IS NOT NULL)
   OR (llm_models.max_tokens IS NULL AND excluded.max_tokens IS NOT NULL);

-- name: count_models
-- Keep the provider's counts true. Index: llm_models_provider_id_model_name_key. Locks: the row.
UPDATE llm_providers p SET total_models = m.total, enabled_models = m.active
FROM (SELECT count(*) AS total, count(*) FILTER (WHERE is_active) AS active
      FROM llm_models WHERE provider_id = :provider_id) AS m
WHERE p.id = :provider_id AND (p.total_models, p.enabled_models) IS DISTINCT FROM (m.total, m.active);

-- name: models_synced
-- Its list of models was read to the end. Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET last_models_sync = now() WHERE id = :provider_id;

-- name: providers_without_models
-- Those whose list of models was never read. Index: none. Locks: none.
SELECT id, name FROM llm_providers p
WHERE p.enabled AND p.protocol <> 'mock'
  AND NOT EXISTS (SELECT FROM llm_models m WHERE m.provider_id = p.id);

-- name: list_providers
-- All that can be shown of providers; of one when name is given. Index: none. Locks: none.
SELECT p.id, p.name, p.display_name, p.provider_type, p.protocol, p.base_url, p.enabled, p.priority, p.weight,
    p.model AS default_model, (p.rate_limits ->> 'requests_per_minute')::integer AS requests_per_minute,
    (p.rate_limits ->> 'concurrent_max')::integer AS concurrent_max,
    p.health_status, p.response_time AS response_ms, p.last_health_check, p.verification_score, p.last_verified,
    p.total_models, p.enabled_models, p.last_models_sync, p.modelsdev_provider_id, p.created_at, p.updated_at,
    coalesce(p.config ->> 'origin', 'operator') AS origin,
    coalesce((p.config ->> 'private')::boolean, true) AS private,
    coalesce((p.config ->> 'withdrawn')::boolean, false) AS withdrawn,
    coalesce((p.config ->> 'key_needed')::boolean, false) AS key_needed,
    (SELECT c.key_id FROM provider_configs c WHERE c.provider_id = p.id AND c.key = 'api_key') AS credential_key_id
FROM llm_providers p
WHERE :name::text IS NULL OR p.name = :name
ORDER BY p.priority, p.name;

-- name: list_troubles
-- Enabled providers that cannot be called, or that fail when they are. Index: none, providers are few. Locks: none.
SELECT p.name AS provider,
    CASE WHEN (p.config ->> 'key_needed')::boolean THEN 'its address changed to another host: its API key has to be stored again'
         WHEN (p.config ->> 'withdrawn')::boolean THEN 'the setting that registered it is gone'
         WHEN p.provider_type = 'api_key' AND p.protocol NOT IN ('mock', 'ollama') AND NOT coalesce((p.config ->> 'private')::boolean, true)
              AND NOT EXISTS (SELECT FROM provider_configs c WHERE c.provider_id = p.id AND c.key = 'api_key') THEN 'it has no API key'
         ELSE 'its probes fail' END AS trouble
FROM llm_providers p
WHERE p.enabled AND (p.health_status = 'unhealthy' OR (p.config ->> 'key_needed')::boolean OR (p.config ->> 'withdrawn')::boolean
    OR (p.provider_type = 'api_key' AND p.protocol NOT IN ('mock', 'ollama') AND NOT coalesce((p.config ->> 'private')::boolean, true)
        AND NOT EXISTS (SELECT FROM provider_configs c WHERE c.provider_id = p.id AND c.key = 'api_key')))
ORDER BY p.name;

-- name: list_models
-- Models as they are shown, of one provider or all, by name. Keyset: those after (after_provider, after_model).
-- Index: llm_models_provider_id_model_name_key. Locks: none.
SELECT m.id, p.name AS provider, m.model_name AS model, m.display_name, m.is_active AS enabled, m.context_window,
    m.max_tokens AS max_output_tokens, m.supports_vision AS vision, m.supports_function_calling AS tools,
    m.supports_json_mode AS json_schema, m.supports_reasoning AS reasoning, m.supports_audio AS audio,
    m.supports_streaming AS streaming, m.pricing_input, m.pricing_output, m.benchmark_score, m.reliability_score,
    m.model_family AS family, m.version AS released, m.modelsdev_id, m.capabilities ->> 'known_from' AS known_from,
    m.last_refreshed_at
FROM llm_models m JOIN llm_providers p ON p.id = m.provider_id
WHERE (:provider::text IS NULL OR p.name = :provider) AND (:model::text IS NULL OR m.model_name = :model)
  AND (:whole::boolean OR m.is_active)
  AND (p.name, m.model_name) > (:after_provider::text, :after_model::text)
ORDER BY p.name, m.model_name LIMIT :max_count;

-- name: set_model_enabled
-- Index: llm_models_provider_id_model_name_key. Locks: the row.
UPDATE llm_models m SET is_active = :enabled FROM llm_providers p
WHERE p.id = m.provider_id AND p.name = :provider AND m.model_name = :model RETURNING m.provider_id;

-- name: set_enabled
-- Index: llm_providers_name_key. Locks: the row.
UPDATE llm_providers SET enabled = :enabled WHERE name = :name RETURNING id;

-- name: delete_provider
-- Its credentials and models go with it; recorded calls keep its name. Locks: the rows.
DELETE FROM llm_providers WHERE name = :name RETURNING id;

-- name: claim_probe
-- Take up the probe of a provider, unless some process did within the interval. Exactly one of any
-- number of processes gets the row. Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET last_health_check = now()
WHERE id = :id AND enabled
  AND (last_health_check IS NULL OR last_health_check <= now() - make_interval(secs => :interval_s::double precision))
RETURNING id;

-- name: lock_health
-- Index: llm_providers_pkey. Locks: the row.
SELECT health_status, health_streak FROM llm_providers WHERE id = :id FOR UPDATE;

-- name: put_health
-- Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET health_status = :health, health_streak = :streak, response_time = :response_ms
WHERE id = :id;

-- name: add_health_hour
-- Add to the counts of this hour; sums, so that any number of processes may. Index:
-- provider_health_hours_pkey. Locks: the row. A provider that is gone is passed over.
INSERT INTO provider_health_hours (provider_id, hour, probes, probes_failed, calls, calls_failed, first_ms_sum)
SELECT p.id, date_trunc('hour', now()), :probes, :probes_failed, :calls, :calls_failed, :first_ms_sum
FROM llm_providers p WHERE p.id = :provider_id
ON CONFLICT (provider_id, hour) DO UPDATE SET probes = provider_health_hours.probes + excluded.probes,
    probes_failed = provider_health_hours.probes_failed + excluded.probes_failed,
    calls = provider_health_hours.calls + excluded.calls,
    calls_failed = provider_health_hours.calls_failed + excluded.calls_failed,
    first_ms_sum = provider_health_hours.first_ms_sum + excluded.first_ms_sum;

-- name: drop_old_health
-- Index: provider_health_hours_hour_idx. Locks: the rows.
DELETE FROM provider_health_hours WHERE hour < now() - interval '30 days';

-- name: availability
-- How the probes and calls of the last days went, and the mean time to the first content, by provider.
-- Index: provider_health_hours_hour_idx. Locks: none.
SELECT provider_id, sum(probes + calls)::bigint AS asked, sum(probes_failed + calls_failed)::bigint AS failed,
    (sum(first_ms_sum) / nullif(sum(calls - calls_failed), 0))::double precision AS first_ms
FROM provider_health_hours WHERE hour > now() - interval '7 days'
GROUP BY provider_id;

-- name: insert_verification
-- Index: none. Locks: none beyond the new row.
INSERT INTO provider_verifications (provider_id, model_name, score, availability, speed, correctness, checks, tokens,
    duration_ms)
VALUES (:provider_id, :model_name, :score, :availability, :speed, :correctness, :checks, :tokens, :duration_ms);

-- name: put_score
-- Index: llm_providers_pkey. Locks: the row.
UPDATE llm_providers SET verification_score = :score, last_verified = now() WHERE id = :id;

-- name: put_reliability
-- The model that was checked, from 0 to 100. Index: llm_models_provider_id_model_name_key. Locks: the row.
UPDATE llm_models SET reliability_score = :reliability WHERE provider_id = :provider_id AND model_name = :model_name;

-- name: list_verifications
-- The newest first. Index: provider_verifications_provider_id_verified_at_idx. Locks: none.
SELECT v.verified_at, p.name AS provider, v.model_name AS model, v.score, v.availability, v.speed, v.correctness,
    v.checks, v.tokens, v.duration_ms
FROM provider_verifications v JOIN llm_providers p ON p.id = v.provider_id
WHERE p.name = :name ORDER BY v.verified_at DESC LIMIT :max_count;

-- name: insert_route
-- Index: llm_routes_name_key. Locks: none beyond the new row.
INSERT INTO llm_routes (name, description, strategy, is_alias, retries_max, connect_ms, first_token_ms,
    between_tokens_ms, total_ms, retry_after_max_ms, cache_s)
VALUES (:name, :description, :strategy, :is_alias, :retries_max, :connect_ms, :first_token_ms, :between_tokens_ms,
    :total_ms, :retry_after_max_ms, :cache_s)
ON CONFLICT (name) DO NOTHING RETURNING id;

-- name: find_route
-- Index: llm_routes_name_key. Locks: the row.
SELECT id, name, description, strategy, is_alias, enabled, retries_max, connect_ms, first_token_ms, between_tokens_ms,
    total_ms, retry_after_max_ms, cache_s
FROM llm_routes WHERE name = :name FOR UPDATE;

-- name: update_route
-- Its targets are written anew beside it, so that it is touched in any case. Index: llm_routes_pkey. Locks: the row.
UPDATE llm_routes SET description = :description, strategy = :strategy, is_alias = :is_alias, enabled = :enabled,
    retries_max = :retries_max, connect_ms = :connect_ms, first_token_ms = :first_token_ms,
    between_tokens_ms = :between_tokens_ms, total_ms = :total_ms, retry_after_max_ms = :retry_after_max_ms,
    cache_s = :cache_s
WHERE id = :id;

-- name: delete_route
-- Its targets go with it. Index: llm_routes_name_key. Locks: the rows.
DELETE FROM llm_routes WHERE name = :name RETURNING id;

-- name: delete_route_targets
-- Index: llm_route_targets_route_id_target_key. Locks: the rows.
DELETE FROM llm_route_targets WHERE route_id = :route_id;

-- name: insert_route_target
-- Without a provider's name: every one that lists the model. Index: llm_route_targets_route_id_target_key.
-- Locks: none beyond the new row.
INSERT INTO llm_route_targets (route_id, provider_id, model_name, priority, weight, position)
SELECT :route_id, p.id, :model_name, :priority, :weight, :position
FROM (SELECT :provider::text AS name) AS wanted LEFT JOIN llm_providers p ON p.name = wanted.name
WHERE wanted.name IS NULL OR p.id IS NOT NULL
ON CONFLICT DO NOTHING RETURNING id;

-- name: list_routes
-- All routes, or the one named. Index: llm_routes_name_key. Locks: none.
SELECT id, name, description, strategy, is_alias AS alias, enabled, retries_max, connect_ms, first_token_ms,
    between_tokens_ms, total_ms, retry_after_max_ms, cache_s, created_at, updated_at
FROM llm_routes WHERE :name::text IS NULL OR name = :name ORDER BY name;

-- name: list_route_targets
-- Index: llm_route_targets_route_id_target_key. Locks: none.
SELECT t.route_id, p.name AS provider, t.model_name AS model, t.priority, t.weight
FROM llm_route_targets t LEFT JOIN llm_providers p ON p.id = t.provider_id
WHERE t.route_id = ANY (:route_ids::uuid[]) ORDER BY t.route_id, t.position, t.model_name;

-- name: begin_sync
-- Providers that the catalogue may know, in one order so that two syncs cannot stand in each other's way.
-- Index: none. Locks: the rows.
SELECT id, name, protocol, base_url, modelsdev_provider_id FROM llm_providers
WHERE protocol <> 'mock' AND (:name::text IS NULL OR name = :name) ORDER BY id FOR UPDATE;

-- name: models_of
-- Index: llm_models_provider_id_model_name_key. Locks: none.
SELECT model_name, capabilities ->> 'known_from' AS known_from FROM llm_models WHERE provider_id = :provider_id;

-- name: put_facts
-- What the catalogue says of models: new ones are added (active when add_active), what an operator said stays.
-- Index: llm_models_provider_id_model_name_key. Locks: the rows.
INSERT INTO llm_models (provider_id, model_name, display_name, is_active, capabilities, context_window, max_tokens,
    pricing_input, pricing_output, supports_vision, supports_function_calling, supports_streaming, supports_json_mode,
    supports_audio, supports_reasoning, supports_image_generation, model_type, model_family, version, modelsdev_id,
    modelsdev_url, modelsdev_api_version, raw_metadata, last_refreshed_at)
SELECT :provider_id, f.model_name, f.display_name, true, jsonb_build_object('known_from', :source::text),
    f.context_window, f.max_tokens, f.pricing_input, f.pricing_output, f.vision, f.tools, true, f.json_schema,
    f.audio, f.reasoning, f.image_generation, f.model_type, f.family, f.released, f.modelsdev_id,
    'https://models.dev', :dated::text, f.raw, now()
FROM jsonb_to_recordset(:facts::jsonb) AS f (model_name text, display_name text, context_window integer,
    max_tokens integer, pricing_input numeric(12,6), pricing_output numeric(12,6), vision boolean, tools boolean,
    json_schema boolean, audio boolean, reasoning boolean, image_generation boolean, model_type text, family text,
    released text, modelsdev_id text, raw jsonb)
ON CONFLICT (provider_id, model_name) DO UPDATE SET
    display_name = coalesce(excluded.display_name, llm_models.display_name),
    capabilities = llm_models.capabilities || excluded.capabilities,
    context_window = coalesce(excluded.context_window, llm_models.context_window),
    max_tokens = coalesce(excluded.max_tokens, llm_models.max_tokens),
    pricing_input = excluded.pricing_input, pricing_output = excluded.pricing_output,
    supports_vision = excluded.supports_vision, supports_function_calling = excluded.supports_function_calling,
    supports_json_mode = excluded.supports_json_mode, supports_audio = excluded.supports_audio,
    supports_reasoning = excluded.supports_reasoning,
    supports_image_generation = excluded.supports_image_generation, model_type = excluded.model_type,
    model_family = excluded.model_family, version = excluded.version, modelsdev_id = excluded.modelsdev_id,
    modelsdev_url = excluded.modelsdev_url, modelsdev_api_version = excluded.modelsdev_api_version,
    raw_metadata = excluded.raw_metadata, last_refreshed_at = excluded.last_refreshed_at
WHERE llm_models.capabilities ->> 'known_from' IS DISTINCT FROM 'operator';

-- name: end_sync
-- Index: none. Locks: none beyond the new row.
INSERT INTO models_refresh_history (provider_id, refresh_type, status, models_refreshed, models_failed, error_message,
    started_at, completed_at, duration_ms, metadata)
VALUES (:provider_id, :refresh_type, :status, :models_refreshed, :models_failed, :error_message, :started_at, now(),
    greatest(0, extract(epoch FROM now() - :started_at) * 1000)::integer, :metadata);

-- name: list_syncs
-- The newest first. Index: models_refresh_history_provider_id_started_at_idx. Locks: none.
SELECT h.started_at, p.name AS provider, h.refresh_type, h.status, h.models_refreshed, h.models_failed, h.error_message,
    h.duration_ms, h.metadata
FROM models_refresh_history h LEFT JOIN llm_providers p ON p.id = h.provider_id
ORDER BY h.started_at DESC LIMIT :max_count;

-- name: put_benchmark
-- The newest result of a model in a benchmark. Index: llm_benchmarks_model_id_benchmark_name_key. Locks: the row.
INSERT INTO llm_benchmarks (model_id, benchmark_name, benchmark_type, score, normalized_score, rank, benchmark_date,
    source)
SELECT m.id, :benchmark, :benchmark_type, :score, :normalized, :rank, :dated, :source
FROM llm_models m JOIN llm_providers p ON p.id = m.provider_id
WHERE p.name = :provider AND m.model_name = :model
ON CONFLICT (model_id, benchmark_name) DO UPDATE SET benchmark_type = excluded.benchmark_type, score = excluded.score,
    normalized_score = excluded.normalized_score, rank = excluded.rank, benchmark_date = excluded.benchmark_date,
    source = excluded.source
RETURNING model_id;

-- name: put_quality
-- The mean of each model's normalized scores. Index: llm_benchmarks_model_id_benchmark_name_key. Locks: the rows.
UPDATE llm_models m SET benchmark_score = b.mean
FROM (SELECT model_id, round(avg(normalized_score), 2) AS mean FROM llm_benchmarks
      WHERE model_id = ANY (:model_ids::uuid[]) GROUP BY model_id) AS b
WHERE m.id = b.model_id AND m.benchmark_score IS DISTINCT FROM b.mean;

-- name: list_benchmarks
-- Index: llm_benchmarks_benchmark_name_normalized_score_idx. Locks: none.
SELECT p.name AS provider, m.model_name AS model, b.benchmark_name AS benchmark, b.benchmark_type, b.score,
    b.normalized_score AS normalized, b.rank, b.benchmark_date AS dated, b.source
FROM llm_benchmarks b JOIN llm_models m ON m.id = b.model_id JOIN llm_providers p ON p.id = m.provider_id
WHERE (:benchmark::text IS NULL OR b.benchmark_name = :benchmark) AND (:provider::text IS NULL OR p.name = :provider)
  AND (:model::text IS NULL OR m.model_name = :model)
ORDER BY b.benchmark_name, b.normalized_score DESC NULLS LAST, p.name, m.model_name LIMIT :max_count;
