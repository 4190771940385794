-- functions.sql: the one required extension, and the functions every other file leans on.
--
-- Runs first. Function bodies are either SQL-standard bodies (RETURN ...), whose names are bound when they are created, or
-- plpgsql that calls pg_catalog functions only, so they also work under the empty search_path of pg_dump, pg_restore and
-- autovacuum. Volatility is stated as it truly is, because partition pruning and CHECK constraints depend on it.

-- Embedding columns (memories, knowledge, documents) need the type vector. Every other extension is optional.
CREATE EXTENSION IF NOT EXISTS vector;

-- ---------------------------------------------------------------------------------------------------------------------
-- Time-ordered ids
-- ---------------------------------------------------------------------------------------------------------------------

-- uuidv7(): PostgreSQL 18 brings its own in pg_catalog; older servers get one of the same layout: 48 bits of Unix
-- milliseconds, version 7, 12 bits of sub-millisecond time, variant, 62 random bits.
DO $do$
BEGIN
    IF to_regprocedure('pg_catalog.uuidv7()') IS NULL THEN
        EXECUTE $sql$
            CREATE FUNCTION uuidv7() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE
            RETURN (
                SELECT encode(
                    set_byte(
                        set_byte(
                            overlay(uuid_send(gen_random_uuid())
                                    PLACING substring(int8send(t.us / 1000) FROM 3) FROM 1 FOR 6),
                            6, 112 + (((t.us % 1000) * 4096 / 1000) >> 8)::int),
                        7, (((t.us % 1000) * 4096 / 1000) & 255)::int),
                    'hex')::uuid
                FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS t
            )
        $sql$;
        EXECUTE $sql$
            COMMENT ON FUNCTION uuidv7() IS
            'A new time-ordered UUID (version 7); stands in for the built-in of PostgreSQL 18 on older servers.'
        $sql$;
    END IF;
END
$do$;

-- The bound of a time range as an id: rows of [a, b) are those with id >= uuid_floor(a) AND id < uuid_floor(b), and the
-- planner prunes partitions by it. extract(epoch) is only STABLE in the catalogue because other fields follow the time
-- zone; the epoch does not, so IMMUTABLE is true here.
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN (lpad(to_hex(greatest(0, floor(extract(epoch FROM moment) * 1000)::bigint)), 12, '0') || '70008000000000000000')::uuid;

COMMENT ON FUNCTION uuid_floor(timestamptz) IS
    'The smallest UUIDv7 of the millisecond that holds the moment: turns a time range into an id range. Moments before 1970 give the smallest of all.';

-- NULL for an id that is not version 7, since its first 48 bits are no time.
CREATE FUNCTION uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN substr(id::text, 15, 1) = '7'
        THEN to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision)
    END;

COMMENT ON FUNCTION uuid_time(uuid) IS
    'The moment (to the millisecond) a UUIDv7 was made; NULL for any other kind of UUID.';

-- Looks at the first 48 bits whatever the version says, because that is what partitions are cut by. Never NULL for a
-- non-NULL id, so a CHECK that compares two months cannot pass by being unknown. Inlined by the planner.
CREATE FUNCTION uuid_month(id uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (
        date_part('year', timezone('UTC', to_timestamp(
            ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision))) * 100
        + date_part('month', timezone('UTC', to_timestamp(
            ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision)))
    )::integer;

COMMENT ON FUNCTION uuid_month(uuid) IS
    'The UTC month, as yyyymm, of the first 48 bits of an id: which monthly partition a row with that id lives in.';

-- Children of a request are made beside it, so that they fall into the same monthly partition however late they come.
CREATE FUNCTION uuidv7_beside(id uuid) RETURNS uuid
    LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
    RETURN (left(id::text, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid;

COMMENT ON FUNCTION uuidv7_beside(uuid) IS
    'A new random UUIDv7 carrying the same millisecond as the argument, so both live in the same monthly partition. Not ordered among its siblings.';

-- For statements that write many rows at once, such as a batch of events: the moment is read once for all of them, and the rest comes
-- from random(), which asks the system for a seed once a session. uuidv7() opens the system's source of randomness for each id (1.8 us
-- of processor time against 0.6 [M]). These ids are unique and ordered, not hard to guess: nothing may rest on their being secret.
CREATE FUNCTION uuidv7_head(moment timestamptz) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN int8send(((date_part('epoch', moment) * 1e6)::bigint / 1000 << 16) | 28672
                    | ((date_part('epoch', moment) * 1e6)::bigint % 1000 * 4096 / 1000));

COMMENT ON FUNCTION uuidv7_head(timestamptz) IS
    'The first half of a UUIDv7: 48 bits of Unix milliseconds, version 7, 12 bits of the fraction of the millisecond.';

CREATE FUNCTION uuidv7_under(head bytea) RETURNS uuid
    LANGUAGE sql VOLATILE STRICT PARALLEL RESTRICTED
    RETURN encode(head || int8send((random() * 4503599627370496)::bigint | (-9223372036854775808)), 'hex')::uuid;

COMMENT ON FUNCTION uuidv7_under(bytea) IS
    'A UUIDv7 of the moment of uuidv7_head, with 52 bits of random(): unique, not unguessable. For the rows of one statement.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Tenancy
-- ---------------------------------------------------------------------------------------------------------------------

-- Policies call it as (SELECT helix_tenant()) so that it is evaluated once per statement, not once per row.
CREATE FUNCTION helix_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('helix.tenant', true), '')::uuid;

COMMENT ON FUNCTION helix_tenant() IS
    'The tenant (users.id) of this transaction, from SET LOCAL helix.tenant; NULL when it is not set, and NULL matches no row.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Small helpers
-- ---------------------------------------------------------------------------------------------------------------------

-- convert_to() is not marked IMMUTABLE on every supported server because conversions can be replaced; to UTF-8 from the
-- fixed encoding of one database it is.
CREATE FUNCTION helix_sha256(content text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(convert_to(content, 'UTF8'));

COMMENT ON FUNCTION helix_sha256(text) IS
    'SHA-256 (32 bytes) of a text in UTF-8: used where exact duplicates must be refused by an index.';

-- helix_pack_text: what search reads of a text, as one value: id and group (16 bytes each), time (8, microseconds since 2000), facts,
-- speaker, number of terms (4 each), terms (4 each), all big-endian. Ten thousand rows come over as one value and are read by numpy.
CREATE FUNCTION helix_pack_text(id uuid, text_group uuid, at timestamptz, facts integer, speaker integer, terms integer[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN uuid_send(id) || uuid_send(text_group) || timestamptz_send(at) || int4send(facts) || int4send(speaker) || int4send(cardinality(terms))
        || coalesce((SELECT string_agg(int4send(u.term), '' ORDER BY u.place) FROM unnest(terms) WITH ORDINALITY AS u (term, place)), '');
COMMENT ON FUNCTION helix_pack_text(uuid, uuid, timestamptz, integer, integer, integer[]) IS
    'What search reads of a text, as one binary value; helix.retrieval.packed reads it.';

-- helix_scoped_terms: the terms of a text as numbers that are the tenant's own, each once: an index over them leads to one tenant's rows.
CREATE FUNCTION helix_scoped_terms(user_id uuid, terms integer[]) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (SELECT array_agg(DISTINCT hashint4extended(u.term, uuid_hash_extended(user_id, 0))) FROM unnest(terms) AS u (term));
COMMENT ON FUNCTION helix_scoped_terms(uuid, integer[]) IS
    'Terms hashed with their tenant, distinct; NULL without terms. What memory_search_terms_idx and vector_documents_terms_idx hold.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Trigger functions
-- ---------------------------------------------------------------------------------------------------------------------

CREATE FUNCTION helix_set_updated_at() RETURNS trigger
    LANGUAGE plpgsql AS $body$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$body$;

COMMENT ON FUNCTION helix_set_updated_at() IS
    'BEFORE UPDATE trigger: updated_at is kept by the database, whoever writes the row.';

-- Arguments: (1) comma-separated columns that may be set to NULL at any time, because a foreign key ON DELETE SET NULL does
-- that when a user, key or project goes; (2) optional: content columns that may be set to NULL while helix.erasure = 'on'.
-- Everything else is refused, to everybody. Retention does not delete rows, it drops whole partitions.
CREATE FUNCTION helix_append_only() RETURNS trigger
    LANGUAGE plpgsql AS $body$
DECLARE
    changeable text[] := string_to_array(coalesce(TG_ARGV[0], ''), ',');
    old_row jsonb;
    new_row jsonb;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF current_setting('helix.erasure', true) = 'on' AND TG_NARGS > 1 THEN
            changeable := changeable || string_to_array(TG_ARGV[1], ',');
        END IF;
        old_row := to_jsonb(OLD);
        new_row := to_jsonb(NEW);
        IF old_row - changeable = new_row - changeable
           AND NOT EXISTS (
               SELECT FROM unnest(changeable) AS c(name)
               WHERE new_row -> c.name IS DISTINCT FROM old_row -> c.name
                 AND new_row -> c.name IS DISTINCT FROM 'null'::jsonb)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on % is refused: the table is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation',
              HINT = 'Rows are removed only by dropping whole monthly partitions; references may only be set to NULL.';
END
$body$;

COMMENT ON FUNCTION helix_append_only() IS
    'Trigger of audit and ledger tables: refuses UPDATE, DELETE and TRUNCATE, except setting the named reference columns (and, under helix.erasure = on, the named content columns) to NULL.';

-- ---------------------------------------------------------------------------------------------------------------------
-- Monthly partitions
-- ---------------------------------------------------------------------------------------------------------------------

-- The months of <table>_pYYYYMM that are not there: from months_back ago to months_ahead ahead, and those of rows that fell into
-- <table>_default because their month was missing, up to months_ahead. Oldest first, so that months are dropped in their order.
CREATE FUNCTION helix_missing_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3)
    RETURNS TABLE (table_name text, month date)
    LANGUAGE plpgsql STABLE AS $body$
#variable_conflict use_column
DECLARE
    parent record;
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF months_back < 0 OR months_ahead < 0 OR months_back > 1200 OR months_ahead > 120 THEN
        RAISE EXCEPTION 'months_back must be 0..1200 and months_ahead 0..120' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR parent IN
        SELECT c.relname::text AS name, k.attname AS key_name, p.partdefid
        FROM pg_partitioned_table AS p
        JOIN pg_class AS c ON c.oid = p.partrelid
        JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
        WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype AND c.relnamespace = 'public'::regnamespace
        ORDER BY c.relname
    LOOP
        RETURN QUERY
        SELECT parent.name, m::date
        FROM generate_series(this_month - make_interval(months => months_back), this_month + make_interval(months => months_ahead),
                             interval '1 month') AS m
        WHERE to_regclass(format('public.%I', parent.name || '_p' || to_char(m, 'YYYYMM'))) IS NULL;
        IF parent.partdefid <> 0 THEN
            -- uuid_month() written out: this body must not depend on the search_path.
            RETURN QUERY EXECUTE format(
                $sql$SELECT %L::text, d.month FROM (
                    SELECT DISTINCT date_trunc('month', timezone('UTC', to_timestamp(
                        ('x' || translate(left(%I::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision)))::date AS month
                    FROM %s) AS d
                WHERE d.month < $1 AND d.month >= DATE '2000-01-01'$sql$, parent.name, parent.key_name, parent.partdefid::regclass)
            USING (this_month - make_interval(months => months_back))::date;
        END IF;
    END LOOP;
END
$body$;

COMMENT ON FUNCTION helix_missing_partitions(integer, integer) IS
    'Monthly partitions that are missing: those around now, and those of rows that lie in a default partition.';

-- Makes the partition <table>_pYYYYMM of one table and month; false when it is there. It is built aside and then attached. Attaching takes
-- SHARE ROW EXCLUSIVE on the tables its foreign keys point to until the transaction ends, so: one call a transaction, under a lock_timeout,
-- and try again (helix_create_partitions below keeps every lock to its end: for a database nobody uses yet).
-- Rows that fell into <table>_default because their month was missing are moved into it first:
--   * foreign keys that point at the table are taken off and put back (a DELETE in the default partition would otherwise
--     cascade into the rows that refer to it), which checks them again: slow, right, and rare;
--   * row triggers of the default partition sleep meanwhile (append-only tables refuse DELETE).
-- Must be run by the owner of the tables.
CREATE FUNCTION helix_create_partition(table_name text, month date) RETURNS boolean
    LANGUAGE plpgsql VOLATILE AS $body$
#variable_conflict use_variable
DECLARE
    parent record;
    foreign_key record;
    month_start timestamp := date_trunc('month', month);      -- UTC
    low uuid;
    high uuid;
    part_name text;
    default_name text;
    column_list text;
    has_rows boolean;
    dropped text[] := '{}';     -- statements that put the foreign keys back
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('helix_create_partitions'));
    SELECT c.oid, c.relname, n.nspname, k.attname AS key_name, p.partdefid::regclass AS default_partition, p.partdefid
    INTO parent
    FROM pg_partitioned_table AS p
    JOIN pg_class AS c ON c.oid = p.partrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
    WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype AND n.nspname = 'public' AND c.relname = table_name;
    IF parent.oid IS NULL OR month IS NULL THEN
        RAISE EXCEPTION '% is no table of monthly partitions', table_name USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Names are cut to 63 bytes by the server; ours stay far below.
    part_name := format('%I.%I', parent.nspname, parent.relname || '_p' || to_char(month_start, 'YYYYMM'));
    IF to_regclass(part_name) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- uuid_floor() written out: this body must not depend on the search_path.
    low := (lpad(to_hex((extract(epoch FROM month_start) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;
    high := (lpad(to_hex((extract(epoch FROM month_start + interval '1 month') * 1000)::bigint), 12, '0')
             || '70008000000000000000')::uuid;

    EXECUTE format('CREATE TABLE %s (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)',
                   part_name, parent.nspname, parent.relname);
    IF parent.partdefid <> 0 THEN
        default_name := parent.default_partition::text;
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', default_name);
        EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %I < $2)',
                       default_name, parent.key_name, parent.key_name)
            INTO has_rows USING low, high;
        IF has_rows THEN
            FOR foreign_key IN
                SELECT con.conname, con.conrelid::regclass::text AS table_name, pg_get_constraintdef(con.oid) AS definition
                FROM pg_constraint AS con
                WHERE con.contype = 'f' AND con.confrelid = parent.oid AND con.conparentid = 0
            LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', foreign_key.table_name, foreign_key.conname);
                dropped := dropped || format('ALTER TABLE %s ADD CONSTRAINT %I %s',
                    foreign_key.table_name, foreign_key.conname, foreign_key.definition);
            END LOOP;
            SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO column_list
            FROM pg_attribute AS a
            WHERE a.attrelid = parent.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
            EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', default_name);
            EXECUTE format(
                'WITH moved AS (DELETE FROM %1$s WHERE %2$I >= $1 AND %2$I < $2 RETURNING %3$s) '
                'INSERT INTO %4$s (%3$s) OVERRIDING SYSTEM VALUE SELECT %3$s FROM moved',
                default_name, parent.key_name, column_list, part_name) USING low, high;
            EXECUTE format('ALTER TABLE %s ENABLE TRIGGER USER', default_name);
        END IF;
    END IF;
    EXECUTE format('ALTER TABLE %I.%I ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
                   parent.nspname, parent.relname, part_name, low, high);
    FOR i IN 1 .. coalesce(array_length(dropped, 1), 0) LOOP
        EXECUTE dropped[i];
    END LOOP;
    RETURN true;
END
$body$;

COMMENT ON FUNCTION helix_create_partition(text, date) IS
    'Makes the monthly partition of one table, moving its rows out of the default partition; false when it is there. One a transaction; run by the owner of the tables.';

-- All that are missing, in one transaction: it either did everything or nothing, and keeps its locks to the end.
CREATE FUNCTION helix_create_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    missing record;
    created integer := 0;
    this_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
BEGIN
    FOR missing IN
        SELECT m.table_name, m.month FROM public.helix_missing_partitions(months_back, months_ahead) AS m
        WHERE m.month >= this_month - make_interval(months => months_back)
    LOOP
        created := created + public.helix_create_partition(missing.table_name, missing.month)::integer;
    END LOOP;
    RETURN created;
END
$body$;

COMMENT ON FUNCTION helix_create_partitions(integer, integer) IS
    'Makes the missing monthly partitions of every table RANGE-partitioned by one uuid column, moving rows out of the default partition where needed; returns how many it made. Idempotent; run by the owner of the tables.';

-- Takes a monthly partition off its table and drops it. Detaching takes ACCESS EXCLUSIVE on the table, and SHARE ROW EXCLUSIVE on
-- tables with foreign keys to or from it, until the transaction ends: last in its transaction, under a lock_timeout, and try again.
-- Refused (foreign_key_violation) while rows that stay refer to rows that would go. Where an audit table's rows are sealed (audit_seals), the
-- seals of the month forget the rows and keep their heads, so the chain goes on through it.
CREATE FUNCTION helix_drop_partition(partition_name text) RETURNS TABLE (row_count bigint, byte_count bigint)
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    part record;
BEGIN
    SELECT c.oid, c.relname AS name, t.relname AS parent, c.reltuples INTO part
    FROM pg_class AS c JOIN pg_inherits AS i ON i.inhrelid = c.oid JOIN pg_class AS t ON t.oid = i.inhparent
    WHERE c.relname = partition_name AND c.relnamespace = 'public'::regnamespace AND c.relispartition
      AND c.relname ~ ('^' || t.relname || '_p[0-9]{6}$');
    IF part.oid IS NULL THEN
        RAISE EXCEPTION '% is no monthly partition', partition_name USING ERRCODE = 'undefined_table';
    END IF;
    byte_count := pg_total_relation_size(part.oid);
    row_count := part.reltuples;
    IF part.reltuples < 0 THEN  -- never analyzed: nothing to go by, and hardly large
        EXECUTE format('SELECT count(*) FROM public.%I', part.name) INTO row_count;
    END IF;
    IF to_regclass('public.audit_seals') IS NOT NULL THEN
        EXECUTE 'UPDATE public.audit_seals SET row_ids = NULL, row_digests = NULL WHERE table_name = $1 AND month = $2 AND row_ids IS NOT NULL'
        USING part.parent, right(part.name, 6)::integer;
    END IF;
    EXECUTE format('ALTER TABLE public.%I DETACH PARTITION public.%I', part.parent, part.name);
    EXECUTE format('DROP TABLE public.%I', part.name);
    RETURN NEXT;
END
$body$;

COMMENT ON FUNCTION helix_drop_partition(text) IS
    'Drops one monthly partition; returns its rows (the server''s estimate, where it has one) and bytes. The last step of a short transaction; run by the owner of the tables.';
