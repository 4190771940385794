-- Audit of sensitive operations with seals, erasure of users, tombstones of documents, one mark for every column of ciphertext.
-- Locks: rag_knowledge and tool_audit_log, for a moment, while their triggers are made; new tables otherwise.
-- ---------------------------------------------------------------------------------------------------------------------
-- audit_log: one row per sensitive operation, done or refused: keys made and revoked, roles changed, failed logins, secrets stored and
-- rotated, users erased, copies released. Written in the transaction of what it tells of; append-only. Partitioned by UTC month on the
-- UUIDv7 id; kept 1 year, then the month is dropped. Erasing a user unlinks actor_id and empties origin and details.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE audit_log (
    id           uuid         NOT NULL DEFAULT uuidv7(),
    created_at   timestamptz  NOT NULL DEFAULT now(),
    operation    varchar(64)  NOT NULL,
    outcome      varchar(10)  NOT NULL DEFAULT 'done',
    actor_kind   varchar(10)  NOT NULL,
    actor_id     uuid,
    actor_key_id uuid,
    origin       varchar(255),
    subject_type varchar(40),
    subject_id   uuid,
    subject_name varchar(255),
    details      jsonb,
    CONSTRAINT audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT audit_log_outcome_check CHECK (outcome IN ('done', 'refused', 'failed')),
    CONSTRAINT audit_log_actor_kind_check CHECK (actor_kind IN ('user', 'command', 'system', 'unknown')),
    CONSTRAINT audit_log_actor_id_fkey FOREIGN KEY (actor_id) REFERENCES users (id) ON DELETE SET NULL,
    CONSTRAINT audit_log_actor_key_id_fkey FOREIGN KEY (actor_key_id) REFERENCES api_keys (id) ON DELETE SET NULL
) PARTITION BY RANGE (id);

CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;

COMMENT ON TABLE audit_log IS 'Sensitive operations: who did or tried what, to what, when, from where. Append-only and sealed (audit_seals).';
COMMENT ON COLUMN audit_log.operation IS 'Noun and past tense, e.g. api_key.created, user.role_changed, login.failed.';
COMMENT ON COLUMN audit_log.outcome IS 'done, refused (not allowed) or failed (allowed, and went wrong).';
COMMENT ON COLUMN audit_log.actor_kind IS 'user (over HTTP), command (on a machine of the installation), system (by itself), unknown (nobody we know).';
COMMENT ON COLUMN audit_log.actor_id IS 'User who did it; NULL when nobody''s, or after that user is erased.';
COMMENT ON COLUMN audit_log.actor_key_id IS 'API key it was done with; NULL for a login or a command.';
COMMENT ON COLUMN audit_log.origin IS 'Address it came from, or login name and machine of a command; NULL after the actor is erased.';
COMMENT ON COLUMN audit_log.subject_type IS 'What it was done to: user, api_key, provider, backup ...';
COMMENT ON COLUMN audit_log.subject_id IS 'Its id; no FK, the record outlives it.';
COMMENT ON COLUMN audit_log.subject_name IS 'Its name, where it has one that is not a person''s.';
COMMENT ON COLUMN audit_log.details IS 'What changed, without secrets or texts; NULL after a user it is about is erased.';

-- What was done between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX audit_log_created_at_idx ON audit_log USING brin (created_at) WITH (autosummarize = on);
-- How often was this done?
CREATE INDEX audit_log_operation_idx ON audit_log (operation);
-- What did this user do? (unlinking an erased one)
CREATE INDEX audit_log_actor_id_idx ON audit_log (actor_id) WHERE actor_id IS NOT NULL;
-- What was done with this key? (unlinking a deleted one)
CREATE INDEX audit_log_actor_key_id_idx ON audit_log (actor_key_id) WHERE actor_key_id IS NOT NULL;
-- What was done to this?
CREATE INDEX audit_log_subject_id_idx ON audit_log (subject_id) WHERE subject_id IS NOT NULL;

CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('actor_id,actor_key_id', 'origin,details');
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION helix_append_only();

-- ---------------------------------------------------------------------------------------------------------------------
-- audit_seals: one row per sealed batch of an append-only audit table: which rows it had, a keyed digest of each, and a head that chains it
-- to the batch before. Written every five minutes by the task helix.audit.seal. A seal never spans two months. Kept for ever; the ids and
-- digests of a month that retention dropped are emptied, its heads stay, so that the chain goes on through it (docs/adr/0053).
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE audit_seals (
    id            uuid        NOT NULL DEFAULT uuidv7(),
    table_name    varchar(63) NOT NULL,
    number        bigint      NOT NULL,
    month         integer     NOT NULL,
    first_row_id  uuid        NOT NULL,
    last_row_id   uuid        NOT NULL,
    row_count     integer     NOT NULL,
    row_ids       uuid[],
    row_digests   bytea,
    rows_digest   bytea       NOT NULL,
    head          bytea       NOT NULL,
    seal          text        NOT NULL,
    key_id        varchar(64) NOT NULL,
    sealed_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_seals_pkey PRIMARY KEY (id),
    CONSTRAINT audit_seals_table_name_number_key UNIQUE (table_name, number),
    CONSTRAINT audit_seals_number_check CHECK (number >= 1),
    CONSTRAINT audit_seals_row_count_check CHECK (row_count >= 1),
    CONSTRAINT audit_seals_rows_check CHECK ((row_ids IS NULL) = (row_digests IS NULL)),
    CONSTRAINT audit_seals_digests_check CHECK (octet_length(rows_digest) = 32 AND octet_length(head) = 32)
);

COMMENT ON TABLE audit_seals IS 'Sealed batches of the audit tables, chained by their heads: what `helix audit verify` compares the rows with.';
COMMENT ON COLUMN audit_seals.table_name IS 'The audit table.';
COMMENT ON COLUMN audit_seals.number IS 'Place of the batch in the chain of its table: 1, 2, 3 … without gaps.';
COMMENT ON COLUMN audit_seals.month IS 'UTC month of the ids of its rows, as yyyymm: the partition they lie in.';
COMMENT ON COLUMN audit_seals.row_ids IS 'Ids of its rows in ascending order; NULL once their month was dropped.';
COMMENT ON COLUMN audit_seals.row_digests IS 'For each row a keyed digest of 16 bytes of what never changes, then one of each column that erasure may empty.';
COMMENT ON COLUMN audit_seals.rows_digest IS 'SHA-256 of row_ids and row_digests: goes into head.';
COMMENT ON COLUMN audit_seals.head IS 'SHA-256 of the head before, the place, the ids and rows_digest: any change further back changes it.';
COMMENT ON COLUMN audit_seals.seal IS 'Ciphertext, bound to this row, of the head and of the key of the digests: nobody without the encryption key makes one. Never shown.';
COMMENT ON COLUMN audit_seals.key_id IS 'Which encryption key made the seal.';

-- ---------------------------------------------------------------------------------------------------------------------
-- erased_users: one row per user whose content was erased. Written by helix_erase_user and never removed: a restored backup is cleansed
-- with it, archives are read past it. Ids only.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE erased_users (
    user_id   uuid        NOT NULL,
    erased_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT erased_users_pkey PRIMARY KEY (user_id)
);

COMMENT ON TABLE erased_users IS 'Ids of erased users: what a restored backup, an archive and every projection must not hold.';
COMMENT ON COLUMN erased_users.user_id IS 'Joined users, of which a shell without name and address may stay; no FK, the record outlives it.';

-- Who was erased since? (restores, projections)
CREATE INDEX erased_users_erased_at_idx ON erased_users (erased_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- knowledge_tombstones: one row per document that was removed. Written by a trigger with the removal and never removed: a restored backup
-- is cleansed with it, projections read it to erase their copies. Ids only, so it outlives its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE knowledge_tombstones (
    document_id uuid        NOT NULL,
    user_id     uuid,
    removed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT knowledge_tombstones_pkey PRIMARY KEY (document_id)
);

COMMENT ON TABLE knowledge_tombstones IS 'Ids of removed documents: what a restored backup and every projection must not hold.';
COMMENT ON COLUMN knowledge_tombstones.document_id IS 'Joined rag_knowledge; no FK, the document is gone.';
COMMENT ON COLUMN knowledge_tombstones.user_id IS 'Tenant it was of, NULL for everybody''s; no FK, the record outlives the user.';

-- Which documents did this tenant remove?
CREATE INDEX knowledge_tombstones_user_id_idx ON knowledge_tombstones (user_id);
-- What was removed since? (restores, projections)
CREATE INDEX knowledge_tombstones_removed_at_idx ON knowledge_tombstones (removed_at);

-- SECURITY DEFINER because who removes an account or a shared document need not see the tombstones of its tenant.
CREATE FUNCTION knowledge_record_removed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO public.knowledge_tombstones (document_id, user_id) SELECT g.id, g.user_id FROM gone AS g ON CONFLICT (document_id) DO NOTHING;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION knowledge_record_removed() IS 'Trigger: documents that go leave tombstones, without text.';
REVOKE EXECUTE ON FUNCTION knowledge_record_removed() FROM PUBLIC;
CREATE TRIGGER knowledge_record_removed AFTER DELETE ON rag_knowledge REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION knowledge_record_removed();

DROP TRIGGER tool_audit_log_append_only ON tool_audit_log;
CREATE TRIGGER tool_audit_log_append_only BEFORE UPDATE OR DELETE ON tool_audit_log
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('user_id,api_key_id,project_id', 'parameters,result,reason');

COMMENT ON COLUMN mcp_servers.credentials IS 'Ciphertext, bound to this row, of headers and environment that are secret, made with key_id. Never shown.';
COMMENT ON COLUMN acp_agents.credentials IS 'Ciphertext, bound to this row, of headers and environment that are secret, made with key_id. Never shown.';
COMMENT ON COLUMN memory_peers.credentials IS 'Ciphertext, bound to this row, of an API key of scope admin on that node. Never shown.';
COMMENT ON COLUMN github_credentials.refresh_token IS 'Ciphertext, bound to this row, made with key_id; NULL for a personal access token, which cannot be refreshed. Never shown.';

-- helix_erase_user: erases, in this transaction, what a user said, made and was, in every table. What is the user's own goes: every table
-- whose foreign key to users cascades, found in the catalogue. Accounts and audit stay, unlinked (foreign keys that SET NULL), with the texts
-- in them emptied. Memories and documents leave tombstones; memories shared with other nodes leave events that make those forget too. Of
-- the account a shell stays, without name, address, password or rights: its id is what tombstones and sums refer to. Repeating it is
-- harmless. SECURITY DEFINER because accounts and audit rows are nobody else's to empty; takes nothing but an id.
CREATE FUNCTION helix_erase_user(p_user_id uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    one record;
    touched bigint;
    done jsonb := '{}';
    self varchar := public.memory_recording_node();
BEGIN
    INSERT INTO public.erased_users (user_id) VALUES (p_user_id) ON CONFLICT (user_id) DO NOTHING;
    IF NOT EXISTS (SELECT FROM public.users AS u WHERE u.id = p_user_id) THEN
        RETURN done;
    END IF;
    PERFORM set_config('helix.erasure', 'on', true);

    -- The shell comes first: whoever would add something meanwhile waits for this row, and then finds an account that is deleted.
    UPDATE public.users AS u
    SET email = 'erased-' || p_user_id || '@invalid', username = NULL, name = NULL, password_hash = '!', role = 'user', status = 'deleted',
        metadata = '{}', last_login = NULL, rate_limit = NULL, tokens_per_minute = NULL, parallel_max = NULL
    WHERE u.id = p_user_id;

    -- Texts in rows that stay.
    UPDATE public.llm_requests AS r
    SET model_params = '{}', ensemble_config = NULL, memory = NULL, metadata = NULL, idempotency_key = NULL, client_request_id = NULL, agent_id = NULL
    WHERE r.user_id = p_user_id;
    UPDATE public.llm_responses AS r SET error = NULL, upstream_id = NULL WHERE r.user_id = p_user_id;
    UPDATE public.error_log AS e SET message = '[erased]', technical_detail = NULL, context = NULL, agent_id = NULL WHERE e.user_id = p_user_id;
    UPDATE public.tool_audit_log AS a SET parameters = NULL, result = NULL, reason = NULL WHERE a.user_id = p_user_id;
    UPDATE public.cancelled_projects AS p SET project_name = '[erased]', stage = NULL, reason = NULL, metadata = '{}' WHERE p.user_id = p_user_id;
    UPDATE public.archived_projects AS p
    SET project_name = '[erased]', description = NULL, language = NULL, archive_path = NULL, metadata = '{}' WHERE p.user_id = p_user_id;
    UPDATE public.audit_log AS a SET origin = NULL, details = NULL WHERE p_user_id IN (a.actor_id, a.subject_id);

    -- Memories, with what is derived from them and what other nodes must hear.
    PERFORM public.forget_memories(p_user_id, ARRAY(SELECT m.id FROM public.memories AS m WHERE m.user_id = p_user_id));
    PERFORM public.memory_bury(ARRAY(SELECT d.id FROM public.distributed_memory AS d WHERE d.user_id = p_user_id AND d.deleted_at IS NULL), self);

    FOR one IN
        SELECT c.relname AS table_name, a.attname AS column_name, k.confdeltype = 'c' AS owned
        FROM pg_constraint AS k
        JOIN pg_class AS c ON c.oid = k.conrelid
        JOIN pg_attribute AS r ON r.attrelid = k.confrelid AND r.attname = 'id'
        JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[array_position(k.confkey, r.attnum)]
        WHERE k.contype = 'f' AND k.confrelid = 'public.users'::regclass AND k.conparentid = 0
          -- What is left of these is empty by now, and tells other nodes where there are any.
          AND (self IS NULL OR c.relname NOT IN ('distributed_memory', 'distributed_memory_events'))
        ORDER BY k.confdeltype = 'c', c.relname DESC  -- details are named after what they belong to, and go before it
    LOOP
        EXECUTE CASE WHEN one.owned THEN format('DELETE FROM public.%I WHERE %I = $1', one.table_name, one.column_name)
                     ELSE format('UPDATE public.%I SET %2$I = NULL WHERE %2$I = $1', one.table_name, one.column_name) END
        USING p_user_id;
        GET DIAGNOSTICS touched = ROW_COUNT;
        IF touched > 0 THEN
            done := done || jsonb_build_object(one.table_name, coalesce((done ->> one.table_name)::bigint, 0) + touched);
        END IF;
    END LOOP;
    RETURN done;
END $$;
COMMENT ON FUNCTION helix_erase_user(uuid) IS 'Erases the content of a user everywhere, unlinks accounts and audit, leaves tombstones and a nameless shell; returns how many rows of each table went or were unlinked.';

-- helix_apply_erasures: what a restored copy must run before it serves: erases again what was erased since its backup was made.
CREATE FUNCTION helix_apply_erasures(p_erasures jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    one record;
    users_erased bigint := 0;
    memories_erased bigint;
    documents_erased bigint;
BEGIN
    FOR one IN SELECT DISTINCT e.id FROM jsonb_to_recordset(p_erasures) AS e (kind text, id uuid) WHERE e.kind = 'user' LOOP
        IF EXISTS (SELECT FROM public.users AS u WHERE u.id = one.id AND u.email <> 'erased-' || one.id || '@invalid') THEN
            users_erased := users_erased + 1;
        END IF;
        PERFORM public.helix_erase_user(one.id);
    END LOOP;
    SELECT public.apply_memory_tombstones(coalesce(jsonb_agg(jsonb_build_object('memory_id', e.id, 'user_id', e.user_id)), '[]')) INTO memories_erased
    FROM jsonb_to_recordset(p_erasures) AS e (kind text, id uuid, user_id uuid) WHERE e.kind = 'memory' AND e.user_id IS NOT NULL;
    DELETE FROM public.rag_knowledge AS k
    USING jsonb_to_recordset(p_erasures) AS e (kind text, id uuid) WHERE e.kind = 'document' AND k.id = e.id;
    GET DIAGNOSTICS documents_erased = ROW_COUNT;
    INSERT INTO public.knowledge_tombstones (document_id, user_id)
    SELECT DISTINCT ON (e.id) e.id, e.user_id FROM jsonb_to_recordset(p_erasures) AS e (kind text, id uuid, user_id uuid) WHERE e.kind = 'document'
    ON CONFLICT (document_id) DO NOTHING;
    RETURN jsonb_build_object('users', users_erased, 'memories', memories_erased, 'documents', documents_erased);
END $$;
COMMENT ON FUNCTION helix_apply_erasures(jsonb) IS 'Erases from a restored database what a list [{"kind": "user", "memory" or "document", "id", "user_id"}, ...] names; returns how many of each there were.';

REVOKE EXECUTE ON FUNCTION helix_erase_user(uuid), helix_apply_erasures(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION helix_erase_user(uuid), helix_apply_erasures(jsonb) TO helix_operator;

SELECT helix_create_partitions(1, 3);

INSERT INTO rls_exempt_tables (table_name, reason) VALUES
    ('audit_log',    'what operators and administrators did; tenants may not read it'),
    ('audit_seals',  'seals of the audit tables; tenants may not read it'),
    ('erased_users', 'ids of erased users; tenants may not read it')
ON CONFLICT (table_name) DO UPDATE SET reason = EXCLUDED.reason;

ALTER TABLE knowledge_tombstones ENABLE ROW LEVEL SECURITY;
ALTER TABLE knowledge_tombstones FORCE ROW LEVEL SECURITY;
CREATE POLICY knowledge_tombstones_tenant ON knowledge_tombstones TO helix_app
    USING (user_id = (SELECT helix_tenant())) WITH CHECK (user_id = (SELECT helix_tenant()));
CREATE POLICY knowledge_tombstones_operator ON knowledge_tombstones TO helix_operator USING (true) WITH CHECK (true);
CREATE POLICY knowledge_tombstones_readonly ON knowledge_tombstones FOR SELECT TO helix_readonly USING (true);

GRANT SELECT ON knowledge_tombstones TO helix_app, helix_operator, helix_readonly;
GRANT SELECT, INSERT ON audit_log TO helix_operator;
GRANT SELECT (id, created_at, operation, outcome, actor_kind, actor_id, actor_key_id, subject_type, subject_id, subject_name) ON audit_log TO helix_readonly;
GRANT SELECT, INSERT, UPDATE (seal, key_id, row_ids, row_digests) ON audit_seals TO helix_operator;
GRANT SELECT (id, table_name, number, month, first_row_id, last_row_id, row_count, key_id, sealed_at) ON audit_seals TO helix_readonly;
GRANT SELECT ON erased_users TO helix_operator, helix_readonly;
