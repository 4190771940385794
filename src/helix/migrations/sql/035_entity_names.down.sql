-- Entities are found by lower(name) again. Locks: memory_entities exclusively while one index is built.
DROP INDEX memory_entities_user_id_name_key_idx;
ALTER TABLE memory_entities DROP COLUMN name_key;
CREATE INDEX memory_entities_user_id_lower_name_idx ON memory_entities (user_id, lower(name));
