-- cross_session_learning.sql: what was learned over many sessions (S104; Big Data tables U10-U17).
--
-- Everything here is derived and can be computed again. user_id says whose talk it was learned from; user_id NULL means global: learned over
-- all users, as counts and names only, never as quoted text. Tenants see their own rows and the global ones, and write only their own.
--
-- Needs: functions.sql, users_sessions.sql, cognee_memories.sql (memory_entities). Foreign keys across domains: relationships.sql.

-- U10. One row per pattern seen in more than one session. Written by the learning job (counted up when seen again); dropped by it when not
-- seen for long.
CREATE TABLE cross_session_patterns (
    id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid,
    pattern_type  varchar(50)  NOT NULL,
    pattern_key   varchar(255) NOT NULL,
    description   text         NOT NULL,
    frequency     integer      NOT NULL DEFAULT 1,
    confidence    numeric(5,4) NOT NULL,
    examples      jsonb        NOT NULL DEFAULT '[]',
    metadata      jsonb        NOT NULL DEFAULT '{}',
    first_seen    timestamptz  NOT NULL DEFAULT now(),
    last_seen     timestamptz  NOT NULL DEFAULT now(),
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT cross_session_patterns_pattern_type_check CHECK (pattern_type IN (
        'user_intent', 'debate_strategy', 'entity_cooccurrence', 'user_preference', 'conversation_flow', 'provider_performance')),
    CONSTRAINT cross_session_patterns_frequency_check CHECK (frequency >= 1),
    CONSTRAINT cross_session_patterns_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT cross_session_patterns_examples_check CHECK (jsonb_typeof(examples) = 'array'),
    CONSTRAINT cross_session_patterns_user_id_pattern_type_pattern_key_key
        UNIQUE NULLS NOT DISTINCT (user_id, pattern_type, pattern_key),
    CONSTRAINT cross_session_patterns_seen_check CHECK (last_seen >= first_seen),
    CONSTRAINT cross_session_patterns_global_check CHECK (user_id IS NOT NULL OR examples = '[]')
);
COMMENT ON TABLE cross_session_patterns IS 'Patterns seen over several sessions: intents, preferences, flows, what goes with what (U10). user_id NULL = learned over all users.';
COMMENT ON COLUMN cross_session_patterns.pattern_key IS 'Short stable name of the pattern within its type and user; seeing it again counts frequency up.';
COMMENT ON COLUMN cross_session_patterns.frequency IS 'Sessions in which it was seen.';
COMMENT ON COLUMN cross_session_patterns.examples IS 'Where it was seen: [{"conversation_id", "sequence_number", "text"}]. Empty in global rows: no user''s text is shared.';
-- Which patterns of this kind are the strongest?
CREATE INDEX idx_cross_session_patterns_type ON cross_session_patterns (pattern_type, frequency DESC, confidence DESC);
-- Which patterns have not been seen for long?
CREATE INDEX idx_cross_session_patterns_last_seen ON cross_session_patterns (last_seen);
CREATE TRIGGER cross_session_patterns_set_updated_at BEFORE UPDATE ON cross_session_patterns FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U11. One row per conclusion drawn from patterns. Written by the learning job; shown to people and, if they agree, to prompts.
CREATE TABLE learned_insights (
    id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id       uuid,
    insight_type  varchar(50)  NOT NULL,
    title         varchar(255) NOT NULL,
    description   text         NOT NULL,
    confidence    numeric(5,4) NOT NULL,
    impact        varchar(20)  NOT NULL DEFAULT 'medium',
    patterns      jsonb        NOT NULL DEFAULT '[]',
    metadata      jsonb        NOT NULL DEFAULT '{}',
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT learned_insights_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT learned_insights_impact_check CHECK (impact IN ('high', 'medium', 'low')),
    CONSTRAINT learned_insights_patterns_check CHECK (jsonb_typeof(patterns) = 'array'),
    CONSTRAINT learned_insights_user_id_insight_type_title_key UNIQUE NULLS NOT DISTINCT (user_id, insight_type, title)
);
COMMENT ON TABLE learned_insights IS 'Conclusions drawn from patterns (U11). user_id NULL = global.';
COMMENT ON COLUMN learned_insights.patterns IS 'Ids of the cross_session_patterns it rests on.';
-- Which insights matter most?
CREATE INDEX idx_learned_insights_impact ON learned_insights (impact, confidence DESC);
CREATE TRIGGER learned_insights_set_updated_at BEFORE UPDATE ON learned_insights FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U12. One row per user and kind of preference: how this user likes answers. Written by the learning job or set by the user (confidence 1).
CREATE TABLE user_preferences (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid         NOT NULL,
    preference_type   varchar(50)  NOT NULL,
    preference_value  text         NOT NULL,
    confidence        numeric(5,4) NOT NULL DEFAULT 0.5,
    frequency         integer      NOT NULL DEFAULT 1,
    examples          jsonb        NOT NULL DEFAULT '[]',
    created_at        timestamptz  NOT NULL DEFAULT now(),
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT user_preferences_preference_type_check CHECK (preference_type IN (
        'communication_style', 'response_format', 'code_language', 'explanation_depth')),
    CONSTRAINT user_preferences_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT user_preferences_frequency_check CHECK (frequency >= 1),
    CONSTRAINT user_preferences_examples_check CHECK (jsonb_typeof(examples) = 'array'),
    CONSTRAINT user_preferences_user_id_preference_type_key UNIQUE (user_id, preference_type)
);
COMMENT ON TABLE user_preferences IS 'How a user likes answers, learned or told (U12).';
COMMENT ON COLUMN user_preferences.confidence IS '0 to 1; 1 = the user said so.';
CREATE TRIGGER user_preferences_set_updated_at BEFORE UPDATE ON user_preferences FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U13. One row per pair of a user's entities that were mentioned together. Written by the learning job; leaves with either entity.
CREATE TABLE entity_cooccurrences (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid         NOT NULL,
    entity1_id          uuid         NOT NULL,
    entity1_name        varchar(255) NOT NULL,
    entity1_type        varchar(100) NOT NULL,
    entity2_id          uuid         NOT NULL,
    entity2_name        varchar(255) NOT NULL,
    entity2_type        varchar(100) NOT NULL,
    cooccurrence_count  integer      NOT NULL DEFAULT 1,
    confidence          numeric(5,4) NOT NULL DEFAULT 0.5,
    contexts            jsonb        NOT NULL DEFAULT '[]',
    first_seen          timestamptz  NOT NULL DEFAULT now(),
    last_seen           timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT entity_cooccurrences_cooccurrence_count_check CHECK (cooccurrence_count >= 1),
    CONSTRAINT entity_cooccurrences_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT entity_cooccurrences_contexts_check CHECK (jsonb_typeof(contexts) = 'array'),
    CONSTRAINT entity_cooccurrences_entity1_id_entity2_id_key UNIQUE (entity1_id, entity2_id),
    CONSTRAINT entity_cooccurrences_order_check CHECK (entity1_id < entity2_id),
    CONSTRAINT entity_cooccurrences_seen_check CHECK (last_seen >= first_seen)
);
COMMENT ON TABLE entity_cooccurrences IS 'Pairs of a user''s entities mentioned together (U13). Each pair once: the smaller id is entity1.';
COMMENT ON COLUMN entity_cooccurrences.entity1_name IS 'Copy of memory_entities.name at the last sighting, as are the types: the table reads without a join.';
COMMENT ON COLUMN entity_cooccurrences.contexts IS 'Where they met: [{"conversation_id" or "memory_id", …}], newest last, at most 10.';
-- What goes with this entity, seen from the other end (the unique constraint serves the first)?
CREATE INDEX idx_entity_cooccurrences_entity2 ON entity_cooccurrences (entity2_id);
-- Which pairs of this user are the strongest?
CREATE INDEX idx_entity_cooccurrences_user_id ON entity_cooccurrences (user_id, cooccurrence_count DESC);

-- U14. One row per strategy, provider, model and position: how often it won debates. Counts only, over all users. Written when a debate
-- ends, by the learning job.
CREATE TABLE debate_strategy_success (
    id                    uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    strategy_name         varchar(100) NOT NULL,
    provider              varchar(255) NOT NULL,
    model                 varchar(255) NOT NULL,
    position              varchar(255) NOT NULL,
    success_count         integer      NOT NULL DEFAULT 0,
    total_attempts        integer      NOT NULL DEFAULT 0,
    success_rate          numeric(5,4) GENERATED ALWAYS AS (round(success_count::numeric / NULLIF(total_attempts, 0), 4)) STORED,
    avg_confidence        numeric(5,4),
    avg_response_time_ms  numeric(12,2),
    last_used_at          timestamptz  NOT NULL DEFAULT now(),
    created_at            timestamptz  NOT NULL DEFAULT now(),
    updated_at            timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT debate_strategy_success_success_count_check CHECK (success_count >= 0),
    CONSTRAINT debate_strategy_success_total_attempts_check CHECK (total_attempts >= 0),
    CONSTRAINT debate_strategy_success_avg_confidence_check CHECK (avg_confidence BETWEEN 0 AND 1),
    CONSTRAINT debate_strategy_success_avg_response_time_ms_check CHECK (avg_response_time_ms >= 0),
    CONSTRAINT debate_strategy_success_strategy_provider_model_position_key UNIQUE (strategy_name, provider, model, position),
    CONSTRAINT debate_strategy_success_counts_check CHECK (success_count <= total_attempts)
);
COMMENT ON TABLE debate_strategy_success IS 'How often a strategy won debates, by provider, model and position (U14). Counts only, over all users.';
COMMENT ON COLUMN debate_strategy_success.position IS 'The role argued: researcher, critic, synthesizer, …';
COMMENT ON COLUMN debate_strategy_success.success_rate IS 'success_count / total_attempts; NULL before the first attempt. Below 3 attempts it says nothing (get_best_debate_strategies).';
CREATE TRIGGER debate_strategy_success_set_updated_at BEFORE UPDATE ON debate_strategy_success FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U15. One row per rhythm of conversation. Written by the learning job.
CREATE TABLE conversation_flow_patterns (
    id                       uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id                  uuid,
    flow_type                varchar(50)   NOT NULL,
    avg_time_per_message_ms  numeric(14,2) NOT NULL,
    message_count_range      int4range     NOT NULL,
    success_rate             numeric(5,4),
    frequency                integer       NOT NULL DEFAULT 1,
    first_seen               timestamptz   NOT NULL DEFAULT now(),
    last_seen                timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT conversation_flow_patterns_flow_type_check CHECK (flow_type IN ('rapid', 'normal', 'thoughtful')),
    CONSTRAINT conversation_flow_patterns_avg_time_per_message_ms_check CHECK (avg_time_per_message_ms >= 0),
    CONSTRAINT conversation_flow_patterns_success_rate_check CHECK (success_rate BETWEEN 0 AND 1),
    CONSTRAINT conversation_flow_patterns_frequency_check CHECK (frequency >= 1),
    CONSTRAINT conversation_flow_patterns_user_id_flow_type_range_key
        UNIQUE NULLS NOT DISTINCT (user_id, flow_type, message_count_range)
);
COMMENT ON TABLE conversation_flow_patterns IS 'Rhythms of conversation, per user or global (U15).';
COMMENT ON COLUMN conversation_flow_patterns.flow_type IS 'By the mean time between messages: rapid < 5 s, normal < 30 s, thoughtful above.';
COMMENT ON COLUMN conversation_flow_patterns.message_count_range IS 'Lengths of the conversations counted here: [1,10), [10,50), …';
COMMENT ON COLUMN conversation_flow_patterns.success_rate IS 'Share of these conversations that ended well, as the learning job measures it; NULL = not measured.';

-- U16. One row per piece of knowledge gathered from conversations. Written by the learning job; seen again = verification_count + 1.
CREATE TABLE knowledge_accumulation (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid,
    knowledge_type      varchar(50)  NOT NULL,
    subject             varchar(500) NOT NULL,
    fact                text         NOT NULL,
    sources             jsonb        NOT NULL DEFAULT '[]',
    confidence          numeric(5,4) NOT NULL DEFAULT 0.5,
    verification_count  integer      NOT NULL DEFAULT 1,
    first_seen          timestamptz  NOT NULL DEFAULT now(),
    last_seen           timestamptz  NOT NULL DEFAULT now(),
    updated_at          timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT knowledge_accumulation_knowledge_type_check CHECK (knowledge_type IN ('fact', 'procedure', 'concept')),
    CONSTRAINT knowledge_accumulation_sources_check CHECK (jsonb_typeof(sources) = 'array'),
    CONSTRAINT knowledge_accumulation_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT knowledge_accumulation_verification_count_check CHECK (verification_count >= 1)
);
COMMENT ON TABLE knowledge_accumulation IS 'Facts, procedures and concepts gathered from conversations (U16). user_id NULL = shared by an operator.';
COMMENT ON COLUMN knowledge_accumulation.sources IS 'Where it was said: [{"conversation_id", "sequence_number"}, …].';
-- Each fact once per owner. By digest, because a fact may be longer than an index entry can be; user, type and subject stay readable.
CREATE UNIQUE INDEX knowledge_accumulation_user_id_type_subject_fact_key ON knowledge_accumulation (user_id, knowledge_type, subject, md5(fact)) NULLS NOT DISTINCT;
-- Which facts speak of these words?
CREATE INDEX idx_knowledge_accumulation_fact ON knowledge_accumulation USING gin (to_tsvector('english'::regconfig, left(fact, 250000)));
CREATE TRIGGER knowledge_accumulation_set_updated_at BEFORE UPDATE ON knowledge_accumulation FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- U17. One row per figure and period: how the learning goes. Written by the learning job at the end of each period.
CREATE TABLE learning_statistics (
    id                  uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id             uuid,
    stat_type           varchar(50)   NOT NULL,
    stat_name           varchar(100)  NOT NULL,
    stat_value          numeric(20,6) NOT NULL,
    aggregation_period  varchar(20)   NOT NULL,
    period_start        timestamptz   NOT NULL,
    period_end          timestamptz   NOT NULL,
    created_at          timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT learning_statistics_aggregation_period_check
        CHECK (aggregation_period IN ('hourly', 'daily', 'weekly', 'all_time')),
    CONSTRAINT learning_statistics_user_type_name_period_start_key
        UNIQUE NULLS NOT DISTINCT (user_id, stat_type, stat_name, aggregation_period, period_start),
    CONSTRAINT learning_statistics_period_check CHECK (period_end > period_start)
);
COMMENT ON TABLE learning_statistics IS 'Figures about the learning itself, by period (U17). user_id NULL = over all users.';
COMMENT ON COLUMN learning_statistics.stat_name IS 'What was counted, with its unit last: patterns_found, avg_confidence, tokens_saved_per_day.';
COMMENT ON COLUMN learning_statistics.period_end IS 'Exclusive.';
-- How did the figures go in this period?
CREATE INDEX idx_learning_statistics_period ON learning_statistics (aggregation_period, period_start DESC);

-- get_top_patterns: the strongest patterns.
CREATE FUNCTION get_top_patterns(p_pattern_type varchar DEFAULT NULL, p_limit integer DEFAULT 20, p_min_confidence numeric DEFAULT 0)
RETURNS SETOF cross_session_patterns LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.cross_session_patterns
    WHERE (p_pattern_type IS NULL OR pattern_type = p_pattern_type) AND confidence >= p_min_confidence
    ORDER BY frequency DESC, confidence DESC, last_seen DESC, id LIMIT least(greatest(p_limit, 0), 1000)
$$;
COMMENT ON FUNCTION get_top_patterns(varchar, integer, numeric) IS 'The most frequent patterns one may see, of one type or all; at most 1,000.';

-- get_user_preferences_summary: all that is known of how a user likes answers, as one object.
CREATE FUNCTION get_user_preferences_summary(p_user_id uuid)
RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT coalesce(jsonb_object_agg(preference_type, jsonb_build_object('value', preference_value, 'confidence', confidence, 'frequency', frequency, 'updated_at', updated_at)), '{}')
    FROM public.user_preferences WHERE user_id = p_user_id
$$;
COMMENT ON FUNCTION get_user_preferences_summary(uuid) IS '{"response_format": {"value", "confidence", "frequency", "updated_at"}, …} of one user; {} when nothing is known.';

-- get_entity_cooccurrence_network: what goes with an entity, and what goes with that.
CREATE FUNCTION get_entity_cooccurrence_network(p_entity_id uuid, p_max_depth integer DEFAULT 1, p_min_count integer DEFAULT 1, p_limit integer DEFAULT 100)
RETURNS TABLE (depth integer, entity_id uuid, entity_name varchar, entity_type varchar, via_entity_id uuid, cooccurrence_count integer, confidence numeric)
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    WITH RECURSIVE edge AS (
        SELECT entity1_id AS a, entity2_id AS b, entity2_name AS b_name, entity2_type AS b_type, c.cooccurrence_count, c.confidence FROM public.entity_cooccurrences AS c WHERE c.cooccurrence_count >= p_min_count
        UNION ALL
        SELECT entity2_id, entity1_id, entity1_name, entity1_type, c.cooccurrence_count, c.confidence FROM public.entity_cooccurrences AS c WHERE c.cooccurrence_count >= p_min_count),
    walk AS (
        SELECT 1 AS depth, e.b, e.b_name, e.b_type, e.a, e.cooccurrence_count, e.confidence FROM edge AS e WHERE e.a = p_entity_id
        UNION
        SELECT w.depth + 1, e.b, e.b_name, e.b_type, e.a, e.cooccurrence_count, e.confidence
        FROM walk AS w JOIN edge AS e ON e.a = w.b WHERE w.depth < least(p_max_depth, 3) AND e.b <> p_entity_id),
    nearest AS (
        SELECT DISTINCT ON (w.b) w.* FROM walk AS w ORDER BY w.b, w.depth, w.cooccurrence_count DESC, w.a)
    SELECT n.depth, n.b, n.b_name, n.b_type, n.a, n.cooccurrence_count, n.confidence
    FROM nearest AS n ORDER BY n.depth, n.cooccurrence_count DESC, n.b LIMIT least(greatest(p_limit, 0), 1000)
$$;
COMMENT ON FUNCTION get_entity_cooccurrence_network(uuid, integer, integer, integer) IS 'Entities met together with one, each once at its nearest, to depth 1 to 3; at most 1,000.';

-- get_best_debate_strategies: what wins, where enough was tried to say so.
CREATE FUNCTION get_best_debate_strategies(p_position varchar DEFAULT NULL, p_min_attempts integer DEFAULT 3, p_limit integer DEFAULT 10)
RETURNS SETOF debate_strategy_success LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, public AS $$
    SELECT * FROM public.debate_strategy_success
    WHERE (p_position IS NULL OR position = p_position) AND total_attempts >= greatest(p_min_attempts, 1)
    ORDER BY success_rate DESC, total_attempts DESC, id LIMIT least(greatest(p_limit, 0), 1000)
$$;
COMMENT ON FUNCTION get_best_debate_strategies(varchar, integer, integer) IS 'Strategies by success rate, for one position or all, with at least p_min_attempts (3) attempts.';

-- get_learning_progress: how much was learned, day by day.
CREATE FUNCTION get_learning_progress(p_days integer DEFAULT 30)
RETURNS TABLE (day date, new_patterns bigint, new_insights bigint, new_knowledge bigint, avg_pattern_confidence numeric, patterns_total bigint)
LANGUAGE sql STABLE SET search_path = pg_catalog, public AS $$
    WITH days AS (
        SELECT d::date AS day FROM generate_series((now() AT TIME ZONE 'UTC')::date - (least(greatest(p_days, 1), 366) - 1), (now() AT TIME ZONE 'UTC')::date, interval '1 day') AS d),
    p AS (
        SELECT (first_seen AT TIME ZONE 'UTC')::date AS day, count(*) AS n, avg(confidence) AS confidence FROM public.cross_session_patterns GROUP BY 1),
    i AS (
        SELECT (created_at AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM public.learned_insights GROUP BY 1),
    k AS (
        SELECT (first_seen AT TIME ZONE 'UTC')::date AS day, count(*) AS n FROM public.knowledge_accumulation GROUP BY 1)
    SELECT days.day, coalesce(p.n, 0), coalesce(i.n, 0), coalesce(k.n, 0), round(p.confidence, 4),
           (SELECT coalesce(sum(q.n), 0) FROM p AS q WHERE q.day <= days.day)::bigint
    FROM days LEFT JOIN p USING (day) LEFT JOIN i USING (day) LEFT JOIN k USING (day) ORDER BY days.day
$$;
COMMENT ON FUNCTION get_learning_progress(integer) IS 'Patterns, insights and knowledge found per day (UTC) over the last p_days, days without any included.';
