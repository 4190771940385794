-- Statements of secrets. They read the catalogue; those on the rows themselves are made in rows.py from what is found here.

-- name: list_secret_columns
-- Tables with columns of ciphertext, found by their mark: a comment that begins with Ciphertext. `keyed`: there is a key_id beside them;
-- `named`: the primary key is a single uuid called id. Index: none. Locks: none.
SELECT c.relname AS table_name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
       EXISTS (SELECT FROM pg_attribute AS k WHERE k.attrelid = c.oid AND k.attname = 'key_id' AND NOT k.attisdropped) AS keyed,
       EXISTS (SELECT FROM pg_index AS i JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = i.indkey[0]
               WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnatts = 1 AND k.attname = 'id' AND k.atttypid = 'uuid'::regtype) AS named
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND d.description LIKE 'Ciphertext%'
GROUP BY c.oid, c.relname ORDER BY c.relname;

-- name: list_undecided_columns
-- Columns that sound like a secret, or are of bytes, and say neither that they are ciphertext nor that they are a digest.
-- Index: none. Locks: none.
SELECT c.relname AS table_name, a.attname AS column_name
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_description AS d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid AND d.objsubid = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'helix_migrations'
  AND (t.typname = 'bytea' OR (t.typcategory IN ('S', 'U') AND a.attname ~* '(^|_)(secret|credential|cipher|ciphertext|token|password|passphrase|private_key|api_key|seal)s?(_|$)'))
  AND coalesce(d.description, '') !~ '^(Ciphertext|SHA-256|bcrypt hash|For each row a keyed digest)'
  AND a.attgenerated = '' AND a.atttypid <> 'uuid'::regtype
ORDER BY 1, 2;

-- name: lock_secrets
-- One rotation at a time, for as long as the connection lives.
SELECT pg_try_advisory_lock(hashtext('helix secrets')) AS locked;
