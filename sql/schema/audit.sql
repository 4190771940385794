-- audit.sql: who did what to this installation, and the seals by which a later change of an audit table is found.
-- Domain: core (written by every domain), operations (sealed and verified).

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
