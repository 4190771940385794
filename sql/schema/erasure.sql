-- erasure.sql: taking a user's content out of everything, and doing it again to a restored backup.
-- Domain: operations. Runs after every table and foreign key is there.

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
