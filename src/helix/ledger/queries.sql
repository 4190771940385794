-- Statements of the ledger. Usage rows are written by the gateway's recorder with the answer.

-- name: prices_mark
-- One value that changes whenever any price does. Index: none, the table is small. Locks: none.
SELECT count(*) || '/' || coalesce(sum((extract(epoch FROM updated_at) * 1000000)::bigint), 0) AS mark
FROM llm_pricing;

-- name: load_prices
-- Every price, past and to come. Index: none. Locks: none.
SELECT id, model, effective_date, input_cost_per_million, output_cost_per_million,
    cached_input_cost_per_million, reasoning_cost_per_million, per_request_cost_usd
FROM llm_pricing;

-- name: list_prices
-- Prices as people read them: those in force, or with whole_history every one; of one model or all.
-- Index: llm_pricing_model_effective_date_key. Locks: none.
SELECT p.id, p.model, p.input_cost_per_million, p.output_cost_per_million, p.cached_input_cost_per_million,
    p.reasoning_cost_per_million, p.per_request_cost_usd, p.effective_date, p.source, p.updated_by, p.notes
FROM llm_pricing p
WHERE (:model::text IS NULL OR p.model = :model)
  AND (:whole_history::boolean OR p.effective_date > now() OR p.effective_date = (
        SELECT max(i.effective_date) FROM llm_pricing i WHERE i.model = p.model AND i.effective_date <= now()))
ORDER BY p.model, p.effective_date;

-- name: insert_price
-- Index: llm_pricing_model_effective_date_key. Locks: none beyond the new row.
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, cached_input_cost_per_million,
    reasoning_cost_per_million, per_request_cost_usd, effective_date, source, updated_by, notes)
VALUES (:model, :input, :output, :cached_input, :reasoning, :per_request, coalesce(:effective_date, now()),
    'operator', :updated_by, :notes)
ON CONFLICT (model, effective_date) DO NOTHING
RETURNING id, model, input_cost_per_million, output_cost_per_million, cached_input_cost_per_million,
    reasoning_cost_per_million, per_request_cost_usd, effective_date, source, updated_by, notes;
