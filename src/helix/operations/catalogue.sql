-- The whole catalogue of schema public as comparable values, one query a kind of thing.
-- Each returns root (the relation, function, type … that a row belongs to), thing (how a person
-- names it) and facts (what is to be equal, as JSON). Owners are compared as "is the owner of the
-- schema's tables", not by name: the same schema has different owners in different databases.
-- All read pg_catalog only; they take no lock that anything waits for.

-- name: list_relations
-- Relations that are compared: not those of extensions, not helix_migrations (the migrator's own), not month partitions
-- (they depend on the date; the default partitions are compared).
SELECT c.oid AS id
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  AND c.relname <> 'helix_migrations'
  AND NOT (c.relispartition AND c.relname ~ '_p[0-9]{6}$')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.oid;

-- name: find_owner
-- The role that owns most of the relations.
SELECT relowner AS owner FROM pg_class WHERE oid = ANY (:relations::oid[]) GROUP BY relowner ORDER BY count(*) DESC, relowner LIMIT 1;

-- name: read_tables
SELECT c.relname AS root,
       CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'S' THEN 'sequence ' WHEN 'f' THEN 'foreign table '
                      WHEN 'c' THEN 'type ' ELSE 'table ' END || c.relname AS thing,
       jsonb_build_object(
           'persistence', CASE c.relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' ELSE 'permanent' END,
           'owner', CASE WHEN c.relowner = :owner::oid THEN 'the owner' ELSE c.relowner::regrole::text END,
           'options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(c.reloptions) AS o),
           'toast options', (SELECT string_agg(o, ', ' ORDER BY o) FROM pg_class AS t, unnest(t.reloptions) AS o WHERE t.oid = c.reltoastrelid),
           'access method', (SELECT amname FROM pg_am WHERE oid = c.relam),
           'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace),
           'replica identity', c.relreplident::text,
           'row-level security', CASE WHEN c.relrowsecurity THEN 'on' ELSE 'off' END,
           'row-level security for the owner', CASE WHEN c.relforcerowsecurity THEN 'forced' ELSE 'not forced' END,
           'partition key', pg_get_partkeydef(c.oid),
           'partition', CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END,
           'parents', (SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = c.oid),
           'definition', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
           'sequence', (SELECT format('%s start %s increment %s min %s max %s cache %s cycle %s', s.seqtypid::regtype, s.seqstart, s.seqincrement,
                                      s.seqmin, s.seqmax, s.seqcache, s.seqcycle) FROM pg_sequence AS s WHERE s.seqrelid = c.oid),
           'owned by', (SELECT format('%s.%s', d.refobjid::regclass, a.attname) FROM pg_depend AS d
                        JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                        WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')),
           'comment', obj_description(c.oid, 'pg_class')) AS facts
FROM pg_class AS c
WHERE c.oid = ANY (:relations::oid[])
ORDER BY c.relname;

-- name: read_columns
-- Not the order of columns: a column added later stands last, and nothing may depend on that.
SELECT c.relname AS root, format('column %s.%s', c.relname, a.attname) AS thing,
       jsonb_build_object(
           'type', format_type(a.atttypid, a.atttypmod),
           'null', CASE WHEN a.attnotnull THEN 'not null' ELSE 'nullable' END,
           'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
           'generated', CASE a.attgenerated WHEN 's' THEN 'stored ' WHEN 'v' THEN 'virtual ' END || pg_get_expr(d.adbin, d.adrelid),
           'identity', CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END,
           'collation', CASE WHEN a.attcollation <> t.typcollation THEN a.attcollation::regcollation::text END,
           'storage', CASE a.attstorage WHEN 'p' THEN 'plain' WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' ELSE 'extended' END,
           'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
           'statistics target', nullif(a.attstattarget::integer, -1),
           'options', (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(a.attoptions) AS o),
           'comment', col_description(c.oid, a.attnum)) AS facts
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.oid = ANY (:relations::oid[]) AND c.relkind <> 'S'
ORDER BY c.relname, a.attname;

-- name: read_constraints
-- What a default partition has from its parent is the parent's. Whether a foreign key is enforced shows in its triggers,
-- which ALTER TABLE … DISABLE TRIGGER ALL switches off. NOT NULL is a fact of the column, unless it is not validated.
SELECT c.relname AS root,
       CASE k.contype WHEN 'c' THEN 'CHECK ' WHEN 'f' THEN 'foreign key ' WHEN 'p' THEN 'primary key ' WHEN 'u' THEN 'unique constraint '
                      ELSE 'constraint ' END || format('%s on %s', k.conname, c.relname) AS thing,
       jsonb_build_object(
           'definition', pg_get_constraintdef(k.oid),
           'validated', k.convalidated,
           'triggers', (SELECT string_agg(DISTINCT CASE g.tgenabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'A' THEN 'always' ELSE 'replica' END, ', ')
                        FROM pg_trigger AS g WHERE g.tgconstraint = k.oid AND g.tgisinternal AND g.tgrelid = k.conrelid),
           'comment', obj_description(k.oid, 'pg_constraint')) AS facts
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
WHERE c.oid = ANY (:relations::oid[]) AND k.conparentid = 0
  AND NOT (c.relispartition AND k.coninhcount > 0)
  AND (k.contype <> 'n' OR NOT k.convalidated)
ORDER BY c.relname, k.conname;

-- name: read_indexes
SELECT c.relname AS root, format('index %s on %s', i.relname, c.relname) AS thing,
       jsonb_build_object(
           'definition', regexp_replace(pg_get_indexdef(x.indexrelid), ' WHERE .*$', ''),
           'predicate', pg_get_expr(x.indpred, x.indrelid),
           'valid', x.indisvalid AND x.indisready,
           'clustered', x.indisclustered,
           'replica identity', x.indisreplident,
           'tablespace', (SELECT spcname FROM pg_tablespace WHERE oid = i.reltablespace),
           'comment', obj_description(i.oid, 'pg_class')) AS facts
FROM pg_index AS x
JOIN pg_class AS i ON i.oid = x.indexrelid
JOIN pg_class AS c ON c.oid = x.indrelid
WHERE c.oid = ANY (:relations::oid[])
  AND NOT EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhrelid = x.indexrelid)
  AND i.relname NOT LIKE 'memory\_embeddings\_hnsw\_%'  -- one user's own, made by `helix memory index`
ORDER BY c.relname, i.relname;

-- name: read_triggers
SELECT c.relname AS root, format('trigger %s on %s', g.tgname, c.relname) AS thing,
       jsonb_build_object(
           'definition', pg_get_triggerdef(g.oid),
           'state', CASE g.tgenabled WHEN 'O' THEN 'enabled' WHEN 'D' THEN 'disabled' WHEN 'A' THEN 'always' ELSE 'replica' END,
           'comment', obj_description(g.oid, 'pg_trigger')) AS facts
FROM pg_trigger AS g
JOIN pg_class AS c ON c.oid = g.tgrelid
WHERE c.oid = ANY (:relations::oid[]) AND NOT g.tgisinternal
ORDER BY c.relname, g.tgname;

-- name: read_rules
SELECT c.relname AS root, format('rule %s on %s', r.rulename, c.relname) AS thing,
       jsonb_build_object('definition', pg_get_ruledef(r.oid), 'state', r.ev_enabled::text, 'comment', obj_description(r.oid, 'pg_rewrite')) AS facts
FROM pg_rewrite AS r
JOIN pg_class AS c ON c.oid = r.ev_class
WHERE c.oid = ANY (:relations::oid[]) AND r.rulename <> '_RETURN'
ORDER BY c.relname, r.rulename;

-- name: read_policies
SELECT c.relname AS root, format('policy %s on %s', p.polname, c.relname) AS thing,
       jsonb_build_object(
           'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
           'kind', CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
           'roles', (SELECT string_agg(CASE WHEN r = 0 THEN 'public' WHEN r = :owner::oid THEN 'the owner' ELSE r::regrole::text END, ', '
                                       ORDER BY CASE WHEN r = 0 THEN '' ELSE r::regrole::text END) FROM unnest(p.polroles) AS r),
           'using', pg_get_expr(p.polqual, p.polrelid),
           'with check', pg_get_expr(p.polwithcheck, p.polrelid),
           'comment', obj_description(p.oid, 'pg_policy')) AS facts
FROM pg_policy AS p
JOIN pg_class AS c ON c.oid = p.polrelid
WHERE c.oid = ANY (:relations::oid[])
ORDER BY c.relname, p.polname;

-- name: read_statistics
SELECT c.relname AS root, format('statistics %s on %s', s.stxname, c.relname) AS thing,
       jsonb_build_object('definition', pg_get_statisticsobjdef(s.oid), 'comment', obj_description(s.oid, 'pg_statistic_ext')) AS facts
FROM pg_statistic_ext AS s
JOIN pg_class AS c ON c.oid = s.stxrelid
WHERE c.oid = ANY (:relations::oid[])
ORDER BY c.relname, s.stxname;

-- name: read_functions
SELECT f.oid::regprocedure::text AS root, 'function ' || f.oid::regprocedure::text AS thing,
       jsonb_build_object(
           'kind', CASE f.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' WHEN 'w' THEN 'window' ELSE 'function' END,
           'owner', CASE WHEN f.proowner = :owner::oid THEN 'the owner' ELSE f.proowner::regrole::text END,
           'arguments', pg_get_function_arguments(f.oid),
           'returns', pg_get_function_result(f.oid),
           'language', l.lanname,
           'body', coalesce(pg_get_function_sqlbody(f.oid), f.prosrc),
           'volatility', CASE f.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
           'parallel', CASE f.proparallel WHEN 's' THEN 'safe' WHEN 'r' THEN 'restricted' ELSE 'unsafe' END,
           'security', CASE WHEN f.prosecdef THEN 'definer' ELSE 'invoker' END,
           'strict', f.proisstrict,
           'leakproof', f.proleakproof,
           'cost', f.procost,
           'rows', f.prorows,
           'settings', (SELECT string_agg(s, '; ' ORDER BY s) FROM unnest(f.proconfig) AS s),
           'comment', obj_description(f.oid, 'pg_proc')) AS facts
FROM pg_proc AS f
JOIN pg_language AS l ON l.oid = f.prolang
WHERE f.pronamespace = 'public'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
ORDER BY 1;

-- name: read_types
-- Enums, domains and ranges; a table's row type is the table's.
SELECT t.typname AS root, 'type ' || t.typname AS thing,
       jsonb_build_object(
           'kind', CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'r' THEN 'range' ELSE t.typtype::text END,
           'owner', CASE WHEN t.typowner = :owner::oid THEN 'the owner' ELSE t.typowner::regrole::text END,
           'values', (SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid),
           'base', CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END,
           'default', t.typdefault,
           'null', CASE WHEN t.typnotnull THEN 'not null' ELSE 'nullable' END,
           'checks', (SELECT string_agg(pg_get_constraintdef(k.oid), '; ' ORDER BY k.conname) FROM pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c'),
           'comment', obj_description(t.oid, 'pg_type')) AS facts
FROM pg_type AS t
WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('e', 'd', 'r')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
ORDER BY t.typname;

-- name: read_extensions
-- Not the version: that is the server's, and ALTER EXTENSION UPDATE is the operator's.
SELECT 'extension ' || e.extname AS root, 'extension ' || e.extname AS thing, '{}'::jsonb AS facts
FROM pg_extension AS e WHERE e.extname <> 'plpgsql' ORDER BY e.extname;

-- name: read_grants
-- One row a privilege, with those an owner has by default: so a revoked default shows, and a written-down default does not.
WITH privileges AS (
    SELECT c.relname AS root,
           format('%s%s', CASE c.relkind WHEN 'S' THEN 'sequence ' ELSE '' END, c.relname) AS object,
           c.relowner AS owner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) AS acl
    WHERE c.oid = ANY (:relations::oid[]) AND c.relkind <> 'c'
    UNION ALL
    SELECT c.relname, format('%s.%s', c.relname, a.attname), c.relowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped,
         aclexplode(a.attacl) AS acl
    WHERE c.oid = ANY (:relations::oid[])
    UNION ALL
    SELECT f.oid::regprocedure::text, 'function ' || f.oid::regprocedure::text, f.proowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_proc AS f, aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) AS acl
    WHERE f.pronamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
    UNION ALL
    SELECT t.typname, 'type ' || t.typname, t.typowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_type AS t, aclexplode(coalesce(t.typacl, acldefault('T', t.typowner))) AS acl
    WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('e', 'd', 'r')
      AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
    UNION ALL
    SELECT 'schema public', 'schema public', n.nspowner, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS acl
    WHERE n.nspname = 'public'
    UNION ALL
    SELECT 'schema public', 'future ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' ELSE 'objects' END,
           d.defaclrole, acl.grantee, acl.privilege_type, acl.is_grantable
    FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS acl
    WHERE d.defaclnamespace IN (0, 'public'::regnamespace) AND d.defaclrole = :owner::oid)
SELECT root,
       format('grant %s on %s to %s', privilege_type, object,
              CASE WHEN grantee = 0 THEN 'public' WHEN grantee = owner THEN 'the owner' ELSE grantee::regrole::text END) AS thing,
       jsonb_build_object('grant option', bool_or(is_grantable)) AS facts
FROM privileges
GROUP BY root, object, privilege_type, grantee, owner
ORDER BY 1, 2;

-- name: read_roles
-- Helix's roles are the whole server's: what they may not be is fixed, not compared.
SELECT rolname AS role, rolsuper AS superuser, rolbypassrls AS bypassrls, rolcreaterole AS createrole, rolcreatedb AS createdb,
       rolcanlogin AS login, rolreplication AS replication
FROM pg_roles WHERE rolname = ANY (:roles::text[]) ORDER BY rolname;

-- name: list_relation_names
-- Every relation in public but those of extensions and partitions.
SELECT c.relname AS name
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND NOT c.relispartition
  AND c.relname <> 'helix_migrations'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'i'))
ORDER BY c.relname;

-- name: list_filled_views
-- Materialized views that hold rows or at least have been refreshed once, in the order they were made.
SELECT c.relname AS name FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'm' AND c.relispopulated ORDER BY c.oid;

-- name: list_drawn_columns
-- Columns of tables as a diagram shows them; partitions are their parent.
SELECT c.relname AS table_name, a.attname AS column_name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
       EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attnum = ANY (k.conkey)) AS primary_key,
       EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype = 'f' AND a.attnum = ANY (k.conkey)) AS foreign_key,
       EXISTS (SELECT FROM pg_constraint AS k WHERE k.conrelid = c.oid AND k.contype = 'u' AND k.conkey = ARRAY[a.attnum]) AS unique_key
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname, a.attnum;

-- name: list_drawn_references
-- Foreign keys: `optional` when the child may have none, `single` when it is unique in the child.
SELECT c.relname AS child, p.relname AS parent,
       (SELECT string_agg(a.attname, ', ' ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, n)
        JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns,
       EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) AND NOT a.attnotnull) AS optional,
       EXISTS (SELECT FROM pg_constraint AS u WHERE u.conrelid = k.conrelid AND u.contype IN ('p', 'u') AND u.conkey <@ k.conkey) AS single
FROM pg_constraint AS k
JOIN pg_class AS c ON c.oid = k.conrelid
JOIN pg_class AS p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
ORDER BY c.relname, columns, p.relname;
