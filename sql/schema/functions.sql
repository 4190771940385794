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

-- Every table of schema public that is RANGE-partitioned by a single uuid column gets the partition <table>_pYYYYMM for each month from
-- months_back ago to months_ahead ahead. A partition is built aside and then attached. Attaching takes SHARE ROW
-- EXCLUSIVE on the tables its foreign keys point to until the transaction ends, so writers wait for as long as this call takes
-- (a fraction of a second unless rows have to be moved): run it under a lock_timeout and try again. Rows that fell into <table>_default because their month was missing are moved into it first:
--   * foreign keys that point at the table are taken off and put back (a DELETE in the default partition would otherwise
--     cascade into the rows that refer to it), which checks them again: slow, right, and rare;
--   * row triggers of the default partition sleep meanwhile (append-only tables refuse DELETE).
-- The whole call is one transaction: it either did everything or nothing. Must be run by the owner of the tables.
CREATE FUNCTION helix_create_partitions(months_back integer DEFAULT 1, months_ahead integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE AS $body$
DECLARE
    parent record;
    foreign_key record;
    month_start timestamp;      -- UTC
    low uuid;
    high uuid;
    part_name text;
    default_name text;
    column_list text;
    has_rows boolean;
    dropped text[];             -- statements that put the foreign keys back
    created integer := 0;
BEGIN
    IF months_back < 0 OR months_ahead < 0 OR months_back > 1200 OR months_ahead > 120 THEN
        RAISE EXCEPTION 'months_back must be 0..1200 and months_ahead 0..120' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('helix_create_partitions'));

    FOR parent IN
        SELECT c.oid, c.relname, n.nspname, k.attname AS key_name, p.partdefid::regclass AS default_partition,
               p.partdefid
        FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
        WHERE p.partstrat = 'r' AND p.partnatts = 1 AND k.atttypid = 'uuid'::regtype
          AND n.nspname = 'public'
        ORDER BY c.relname
    LOOP
        FOR month_start IN
            SELECT generate_series(
                date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => months_back),
                date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => months_ahead),
                interval '1 month')
        LOOP
            -- Names are cut to 63 bytes by the server; ours stay far below.
            part_name := format('%I.%I', parent.nspname, parent.relname || '_p' || to_char(month_start, 'YYYYMM'));
            CONTINUE WHEN to_regclass(part_name) IS NOT NULL;
            -- uuid_floor() written out: this body must not depend on the search_path.
            low := (lpad(to_hex((extract(epoch FROM month_start) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;
            high := (lpad(to_hex((extract(epoch FROM month_start + interval '1 month') * 1000)::bigint), 12, '0')
                     || '70008000000000000000')::uuid;

            EXECUTE format('CREATE TABLE %s (LIKE %I.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)',
                           part_name, parent.nspname, parent.relname);
            dropped := '{}';
            IF parent.partdefid <> 0 THEN
                default_name := parent.default_partition::text;
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', default_name);
                EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %I < $2)',
                               default_name, parent.key_name, parent.key_name)
                    INTO has_rows USING low, high;
                IF has_rows THEN
                    FOR foreign_key IN
                        SELECT con.conname, con.conrelid::regclass::text AS table_name, pg_get_constraintdef(con.oid) AS definition
                        FROM pg_constraint con
                        WHERE con.contype = 'f' AND con.confrelid = parent.oid AND con.conparentid = 0
                    LOOP
                        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', foreign_key.table_name, foreign_key.conname);
                        dropped := dropped || format('ALTER TABLE %s ADD CONSTRAINT %I %s',
                            foreign_key.table_name, foreign_key.conname, foreign_key.definition);
                    END LOOP;
                    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO column_list
                    FROM pg_attribute a
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
            created := created + 1;
        END LOOP;
    END LOOP;
    RETURN created;
END
$body$;

COMMENT ON FUNCTION helix_create_partitions(integer, integer) IS
    'Makes the missing monthly partitions of every table RANGE-partitioned by one uuid column, moving rows out of the default partition where needed; returns how many it made. Idempotent; run by the owner of the tables.';
