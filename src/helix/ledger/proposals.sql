-- Prices that a catalogue proposes.

-- name: propose_price
-- Add a price that a catalogue tells, unless somebody set one: for this very name, or for the bare
-- name of the model, which it would otherwise stand before; or unless it is the price that holds.
-- Index: llm_pricing_model_effective_date_key. Locks: none beyond the new row.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, cached_input_cost_per_million,
    reasoning_cost_per_million, source, updated_by, notes)
SELECT :model::text, :input::numeric, :output::numeric, :cached_input::numeric, :reasoning::numeric, :source::text,
    'models sync', 'as of ' || :dated::text
WHERE NOT EXISTS (
        SELECT FROM llm_pricing p
        WHERE p.model IN (:model::text, :bare::text) AND p.updated_by IS DISTINCT FROM 'models sync')
  AND NOT EXISTS (
        SELECT FROM (SELECT DISTINCT ON (l.model) l.* FROM llm_pricing l
                     WHERE l.model = :model::text AND l.effective_date <= now()
                     ORDER BY l.model, l.effective_date DESC) AS last
        WHERE (last.input_cost_per_million, last.output_cost_per_million) = (:input::numeric, :output::numeric)
          AND last.cached_input_cost_per_million IS NOT DISTINCT FROM :cached_input::numeric
          AND last.reasoning_cost_per_million IS NOT DISTINCT FROM :reasoning::numeric)
ON CONFLICT (model, effective_date) DO NOTHING
RETURNING id;
