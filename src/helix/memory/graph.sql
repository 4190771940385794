-- Statements of the graph in a user's memories.

-- name: put_entities
-- Make entities known that are not, by these names in any case. Index: memory_entities_user_id_name_key_idx. Locks: only its own rows.
INSERT INTO memory_entities AS e (user_id, name, type)
SELECT DISTINCT ON (lower(g.name)) :user_id::uuid, g.name, g.type
FROM unnest(:names::text[], :types::text[]) AS g (name, type)
CROSS JOIN LATERAL (SELECT count(*) AS known FROM memory_entities AS k WHERE k.user_id = :user_id AND k.name_key = lower(g.name)) AS k
WHERE k.known = 0
ORDER BY lower(g.name), g.type = 'thing'
ON CONFLICT (user_id, type, name) DO NOTHING;

-- name: entities_by_name
-- Entities by name in any case, with the name each was asked by, most spoken of first. The lower case is PostgreSQL's on both sides:
-- others have another one for some letters. Index: memory_entities_user_id_name_key_idx (OFFSET 0 keeps a plan for the average user from
-- reading all of a large one).
SELECT g.name AS asked, e.id, e.name, e.type, e.aliases, e.mention_count
FROM unnest(:names::text[]) AS g (name) CROSS JOIN LATERAL (
    SELECT k.id, k.name, k.type, k.aliases, k.mention_count FROM memory_entities AS k
    WHERE k.user_id = :user_id AND k.name_key = lower(g.name) OFFSET 0) AS e
ORDER BY e.mention_count DESC, e.id;

-- name: put_mentions
-- Tie memories to the entities they speak of and count the new ties. Locks: the entities' rows.
WITH added AS (
    INSERT INTO memory_entity_mentions (memory_id, entity_id, user_id)
    SELECT DISTINCT g.memory_id, g.entity_id, :user_id::uuid FROM unnest(:memory_ids::uuid[], :entity_ids::uuid[]) AS g (memory_id, entity_id)
    ON CONFLICT DO NOTHING RETURNING entity_id
), counted AS (
    SELECT a.entity_id, count(*) AS times FROM added AS a GROUP BY a.entity_id
), held AS (
    SELECT e.id, c.times FROM memory_entities AS e JOIN counted AS c ON c.entity_id = e.id ORDER BY e.id FOR UPDATE OF e)
UPDATE memory_entities AS e SET mention_count = e.mention_count + h.times FROM held AS h WHERE e.id = h.id;

-- name: put_relations
-- Keep statements drawn from memories. Locks: none but its own rows.
INSERT INTO memory_relations (user_id, subject_id, predicate, object_id, memory_id, strength, valid_from, valid_to)
SELECT :user_id, g.subject_id, g.predicate, g.object_id, g.memory_id, m.confidence, m.valid_from, m.valid_to
FROM unnest(:subject_ids::uuid[], :predicates::text[], :object_ids::uuid[], :memory_ids::uuid[]) AS g (subject_id, predicate, object_id, memory_id)
CROSS JOIN LATERAL (SELECT k.confidence, k.valid_from, k.valid_to FROM memories AS k WHERE k.id = g.memory_id AND k.user_id = :user_id LIMIT 1) AS m
ON CONFLICT DO NOTHING;

-- name: drop_ties
-- Take a memory's mentions away, and count them down. Locks: the entities' rows.
WITH gone AS (
    DELETE FROM memory_entity_mentions WHERE memory_id = :memory_id AND user_id = :user_id RETURNING entity_id)
UPDATE memory_entities AS e SET mention_count = greatest(e.mention_count - 1, 0) FROM gone AS g WHERE e.id = g.entity_id;

-- name: drop_relations
-- Take away what was drawn from a memory. Index: memory_relations_memory_id_idx.
DELETE FROM memory_relations WHERE memory_id = :memory_id AND user_id = :user_id;

-- name: drop_unspoken
-- Take away entities nothing speaks of any more. Index: memory_entities_pkey.
DELETE FROM memory_entities AS e
WHERE e.user_id = :user_id AND e.id = ANY(:ids::uuid[])
  AND NOT EXISTS (SELECT FROM memory_entity_mentions AS n WHERE n.entity_id = e.id)
  AND NOT EXISTS (SELECT FROM memory_relations AS r WHERE e.id IN (r.subject_id, r.object_id));

-- name: entities_of_memory
-- Index: memory_entity_mentions_pkey.
SELECT e.id, e.name, e.type, e.aliases, e.mention_count
FROM memory_entity_mentions AS n JOIN memory_entities AS e ON e.id = n.entity_id
WHERE n.memory_id = :memory_id AND n.user_id = :user_id ORDER BY e.name;

-- name: entities_page
-- Most spoken of first. Index: memory_entities_user_id_type_name_key.
SELECT e.id, e.name, e.type, e.aliases, e.mention_count FROM memory_entities AS e
WHERE e.user_id = :user_id AND (:type::text IS NULL OR e.type = :type) ORDER BY e.mention_count DESC, e.name LIMIT :max_count;

-- name: relations_of
-- What is said of an entity and by it, at a moment or ever. Index: memory_relations_key, memory_relations_object_id_idx.
SELECT s.name AS subject, r.predicate, o.name AS object, r.memory_id, r.strength, r.valid_from, r.valid_to
FROM memory_relations AS r JOIN memory_entities AS s ON s.id = r.subject_id JOIN memory_entities AS o ON o.id = r.object_id
WHERE r.user_id = :user_id AND (r.subject_id = ANY(:ids::uuid[]) OR r.object_id = ANY(:ids::uuid[]))
  AND (:at::timestamptz IS NULL OR (r.valid_from <= :at AND (r.valid_to IS NULL OR r.valid_to > :at)))
  AND NOT EXISTS (SELECT FROM memories AS m WHERE m.id = r.memory_id AND (m.merged_into IS NOT NULL OR m.deleted_at IS NOT NULL))
ORDER BY r.valid_from, s.name, r.predicate, o.name LIMIT :max_count;

-- name: edges_of
-- Relations that touch some entities, strongest first, at a moment or ever. Index: memory_relations_key, memory_relations_object_id_idx.
SELECT r.subject_id, r.object_id, s.name || ' ' || r.predicate || ' ' || o.name AS told
FROM memory_relations AS r JOIN memory_entities AS s ON s.id = r.subject_id JOIN memory_entities AS o ON o.id = r.object_id
WHERE r.user_id = :user_id AND (r.subject_id = ANY(:ids::uuid[]) OR r.object_id = ANY(:ids::uuid[]))
  AND (:at::timestamptz IS NULL OR (r.valid_from <= :at AND (r.valid_to IS NULL OR r.valid_to > :at)))
  AND NOT EXISTS (SELECT FROM memories AS m WHERE m.id = r.memory_id AND (m.merged_into IS NOT NULL OR m.deleted_at IS NOT NULL))
ORDER BY r.strength DESC, told, r.id LIMIT :max_count;

-- name: entities_by_id
-- Index: memory_entities_pkey.
SELECT id, name, type, aliases, mention_count FROM memory_entities WHERE id = ANY(:ids::uuid[]) AND user_id = :user_id;

-- name: audit_candidates
-- Searchable memories of a user with what an audit weighs. Index: memory_search_user_id_idx.
SELECT s.memory_id, s.terms, s.speaker, s.facts, s.valid_from, m.access_count, m.confidence,
       (SELECT count(*) FROM memory_uses AS u WHERE u.memory_id = s.memory_id) AS use_count,
       (SELECT count(*) FROM memory_entity_mentions AS n WHERE n.memory_id = s.memory_id) AS entity_count
FROM memory_search AS s JOIN memories AS m ON m.id = s.memory_id
WHERE s.user_id = :user_id ORDER BY s.memory_id DESC LIMIT :max_count;

-- name: statements
-- What live memories of a user state that has one value at a time. Index: memory_relations_user_id_idx.
SELECT r.memory_id, s.name AS subject, r.predicate, o.name AS object, m.valid_from
FROM memory_relations AS r JOIN memories AS m ON m.id = r.memory_id AND m.merged_into IS NULL AND m.deleted_at IS NULL AND m.valid_to IS NULL
JOIN memory_entities AS s ON s.id = r.subject_id JOIN memory_entities AS o ON o.id = r.object_id
WHERE r.user_id = :user_id AND r.predicate = ANY(:predicates::text[]) ORDER BY m.valid_from LIMIT :max_count;

-- name: merge
-- Let one memory be taken in by another, and record it. Index: memories_pkey. Locks: its row.
WITH done AS (
    UPDATE memories SET merged_into = :into_id
    WHERE id = :memory_id AND user_id = :user_id AND merged_into IS NULL AND deleted_at IS NULL RETURNING id)
INSERT INTO memory_changes (batch_id, user_id, memory_id, change, into_id)
SELECT :batch_id, :user_id, d.id, 'merged', :into_id FROM done AS d RETURNING id;

-- name: end_validity
-- Say until when a memory was true, and record what was said before. Index: memories_pkey. Locks: its row.
WITH before AS (
    SELECT id, valid_to FROM memories WHERE id = :memory_id AND user_id = :user_id AND valid_to IS NULL AND valid_from <= :ends_at FOR UPDATE
), done AS (
    UPDATE memories AS m SET valid_to = :ends_at FROM before AS b WHERE m.id = b.id RETURNING m.id
), told AS (
    UPDATE memory_relations AS r SET valid_to = greatest(r.valid_from, :ends_at) FROM done AS d WHERE r.memory_id = d.id)
INSERT INTO memory_changes (batch_id, user_id, memory_id, change, old_valid_to)
SELECT :batch_id, :user_id, b.id, 'ended', b.valid_to FROM before AS b RETURNING id;

-- name: last_batch
-- The newest batch that is not taken back. Index: memory_changes_user_id_idx.
SELECT batch_id FROM memory_changes WHERE user_id = :user_id AND undone_at IS NULL ORDER BY id DESC LIMIT 1;

-- name: take_back
-- Mark a batch as undone and return its changes. Index: memory_changes_user_id_idx. Locks: its rows.
UPDATE memory_changes SET undone_at = :now
WHERE user_id = :user_id AND batch_id = :batch_id AND undone_at IS NULL
RETURNING memory_id, change, old_valid_to;

-- name: unmerge
-- Index: memories_pkey. Locks: their rows.
UPDATE memories SET merged_into = NULL WHERE id = ANY(:ids::uuid[]) AND user_id = :user_id RETURNING id, content, speaker;

-- name: unend
-- Give a memory its former end back. Index: memories_pkey. Locks: its row.
WITH done AS (UPDATE memories SET valid_to = :valid_to WHERE id = :memory_id AND user_id = :user_id RETURNING id)
UPDATE memory_relations AS r SET valid_to = :valid_to FROM done AS d WHERE r.memory_id = d.id;
