-- Statements of retrieval: which models of vectors there are. Run as any role; the catalogue is shared and holds no tenant data.

-- name: make_model
-- The model by this name and length, made known if it is new. Locks: its row when it is new.
WITH made AS (
    INSERT INTO embedding_config (provider, model, dimension) VALUES (:provider, :model, :dimension)
    ON CONFLICT (provider, model, dimension) DO NOTHING RETURNING id, dimension)
SELECT id, dimension FROM made
UNION ALL
SELECT id, dimension FROM embedding_config WHERE provider = :provider AND model = :model AND dimension = :dimension
LIMIT 1;

-- name: find_model
-- The model by this name, if it is known; without a length the one made known last. Index: embedding_config_provider_model_dimension_key.
SELECT id, dimension FROM embedding_config
WHERE provider = :provider AND model = :model AND (:dimension::integer IS NULL OR dimension = :dimension)
ORDER BY created_at DESC, id LIMIT 1;
