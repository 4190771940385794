-- Entities are found by a stored key of their names: lower() is not leakproof, so under a tenant's policy no index of lower(name) is used,
-- and adding a memory read every entity of its user.
-- Locks: memory_entities exclusively while it is rewritten and one index is built (seconds for a million rows).
ALTER TABLE memory_entities ADD COLUMN name_key text NOT NULL GENERATED ALWAYS AS (lower(name)) STORED;

COMMENT ON COLUMN memory_entities.name_key IS 'Derived: the name in lower case, a column because under a policy no index of lower(name) is used.';

DROP INDEX memory_entities_user_id_lower_name_idx;
-- Which entity is meant by this name?
CREATE INDEX memory_entities_user_id_name_key_idx ON memory_entities (user_id, name_key);
