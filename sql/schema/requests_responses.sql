-- requests_responses.sql: every call to a model: what was asked, what every provider answered, and apart from the numbers
-- the texts. Domain: gateway. All four tables are written by the gateway's recorder (role helix_recorder), inserted once,
-- and partitioned by UTC month on the UUIDv7 id; retention drops whole months. A response and all bodies live in the same
-- month as their request (ids made with uuidv7_beside), so a month can be dropped or archived alone:
-- first llm_response_bodies, llm_responses, llm_request_bodies, then llm_requests.

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_requests: one row per request of a client, committed before anything is sent to a provider. Written by the gateway;
-- afterwards only status, started_at and completed_at change. Archived after 90 days, the texts earlier if so set.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_requests (
    id                uuid         NOT NULL DEFAULT uuidv7(),
    user_id           uuid,
    api_key_id        uuid,
    session_id        uuid,
    project_id        uuid,
    agent_id          varchar(100),
    model_name        varchar(255) NOT NULL,
    request_type      varchar(50)  NOT NULL DEFAULT 'chat',
    status            varchar(50)  NOT NULL DEFAULT 'pending',
    stream            boolean      NOT NULL DEFAULT false,
    model_params      jsonb        NOT NULL DEFAULT '{}',
    ensemble_config   jsonb,
    memory_enhanced   boolean      NOT NULL DEFAULT false,
    memory            jsonb,
    prompt_id         uuid,
    idempotency_key   varchar(255),
    client_request_id varchar(255),
    metadata          jsonb,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    started_at        timestamptz,
    completed_at      timestamptz,
    task_id           uuid,
    parent_request_id uuid,
    CONSTRAINT llm_requests_pkey PRIMARY KEY (id),
    CONSTRAINT llm_requests_request_type_check CHECK (request_type IN
        ('completion', 'chat', 'embedding', 'vision', 'moderation', 'response', 'message')),
    CONSTRAINT llm_requests_status_check CHECK (status IN ('pending', 'running', 'completed', 'failed'))
) PARTITION BY RANGE (id);

CREATE TABLE llm_requests_default PARTITION OF llm_requests DEFAULT;

COMMENT ON TABLE llm_requests IS 'One row per model request, committed before the provider is called; the text is in llm_request_bodies, the answers are in llm_responses.';
COMMENT ON COLUMN llm_requests.id IS 'UUIDv7 made by Helix, never by the client; also the partition key.';
COMMENT ON COLUMN llm_requests.user_id IS 'Tenant; NULL after the user is erased.';
COMMENT ON COLUMN llm_requests.model_name IS 'Model as the client asked for it, also a virtual one such as ensemble/fast.';
COMMENT ON COLUMN llm_requests.request_type IS 'completion, chat, embedding, vision, moderation, response (OpenAI Responses) or message (Anthropic Messages).';
COMMENT ON COLUMN llm_requests.status IS 'pending (committed, not yet sent), running (sent), completed, failed.';
COMMENT ON COLUMN llm_requests.stream IS 'Whether the client asked for a stream.';
COMMENT ON COLUMN llm_requests.model_params IS 'temperature, top_p, max_tokens ... as sent, without the texts.';
COMMENT ON COLUMN llm_requests.ensemble_config IS 'How several providers were asked and their answers chosen; NULL for a plain request.';
COMMENT ON COLUMN llm_requests.memory_enhanced IS 'Whether memories were added to what the client sent.';
COMMENT ON COLUMN llm_requests.memory IS 'Which memories were added (ids and scores); NULL when none.';
COMMENT ON COLUMN llm_requests.prompt_id IS 'Prompt version used; NULL when none was named.';
COMMENT ON COLUMN llm_requests.idempotency_key IS 'Idempotency-Key of the client; counts within the tenant. Uniqueness is enforced by the gateway, a partitioned table cannot.';
COMMENT ON COLUMN llm_requests.client_request_id IS 'Request id the client sent; only a note, never a key.';
COMMENT ON COLUMN llm_requests.started_at IS 'When the first provider was called.';
COMMENT ON COLUMN llm_requests.completed_at IS 'When the request reached completed or failed.';
COMMENT ON COLUMN llm_requests.task_id IS 'Task of the queue that made the call; no FK because tasks are dropped sooner. NULL for a client''s call.';
COMMENT ON COLUMN llm_requests.parent_request_id IS 'Request in whose course Helix made this one itself; no FK within a partitioned table. NULL for a client''s call.';

-- What did this tenant ask? (idx_requests_user of another seed has the same columns)
CREATE INDEX idx_requests_user_id ON llm_requests (user_id);
-- What was asked in this session?
CREATE INDEX idx_requests_session_id ON llm_requests (session_id) WHERE session_id IS NOT NULL;
-- Which requests are under way, or were cut off by a crash?
CREATE INDEX idx_requests_status ON llm_requests (status) WHERE status IN ('pending', 'running');
-- What was asked between two moments? Rows lie in time order, so block ranges suffice. (idx_requests_created: same column)
CREATE INDEX idx_requests_created_at ON llm_requests USING brin (created_at) WITH (autosummarize = on);
-- What was asked with this key? (forensics of a leaked key; unlinking a deleted one)
CREATE INDEX llm_requests_api_key_id_idx ON llm_requests (api_key_id) WHERE api_key_id IS NOT NULL;
-- What was asked for this project?
CREATE INDEX llm_requests_project_id_idx ON llm_requests (project_id) WHERE project_id IS NOT NULL;
-- What was asked with this prompt version?
CREATE INDEX llm_requests_prompt_id_idx ON llm_requests (prompt_id) WHERE prompt_id IS NOT NULL;
-- Was this request of the tenant seen before?
CREATE INDEX llm_requests_user_id_idempotency_key_idx ON llm_requests (user_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- What did this task call, and spend?
CREATE INDEX llm_requests_task_id_idx ON llm_requests (task_id) WHERE task_id IS NOT NULL;
-- What did Helix itself call in the course of this request?
CREATE INDEX llm_requests_parent_request_id_idx ON llm_requests (parent_request_id) WHERE parent_request_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_request_bodies: at most one row per request: what the client sent. Written with the request, in the same commit.
-- Dropped, redacted or archived without touching the numbers; erased with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_request_bodies (
    request_id   uuid    NOT NULL,
    user_id      uuid,
    request_body json    NOT NULL,
    body_bytes   integer NOT NULL,
    CONSTRAINT llm_request_bodies_pkey PRIMARY KEY (request_id),
    CONSTRAINT llm_request_bodies_request_id_fkey FOREIGN KEY (request_id) REFERENCES llm_requests (id) ON DELETE CASCADE,
    CONSTRAINT llm_request_bodies_body_bytes_check CHECK (body_bytes >= 0)
) PARTITION BY RANGE (request_id);

CREATE TABLE llm_request_bodies_default PARTITION OF llm_request_bodies DEFAULT;

COMMENT ON TABLE llm_request_bodies IS 'What the client sent, word for word; apart from llm_requests so that texts can go while numbers stay.';
COMMENT ON COLUMN llm_request_bodies.user_id IS 'Tenant; the body is erased with the user.';
COMMENT ON COLUMN llm_request_bodies.request_body IS 'JSON as sent. json, not jsonb: nothing is reordered, merged or refused (jsonb refuses \u0000).';
COMMENT ON COLUMN llm_request_bodies.body_bytes IS 'Length of the body as sent, in bytes.';

-- Which texts are this tenant's? (erasure)
CREATE INDEX llm_request_bodies_user_id_idx ON llm_request_bodies (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_responses: one row per answer of a provider, failures included: an ensemble or a retry gives several to one request.
-- Committed, with usage and cost, before the last byte goes to the client. Inserted once; afterwards only selected and confidence
-- change, when a candidate is chosen. Kept with its request.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_responses (
    id                uuid           NOT NULL DEFAULT uuidv7(),
    request_id        uuid           NOT NULL,
    user_id           uuid,
    provider_id       uuid,
    provider_name     varchar(255)   NOT NULL,
    model_name        varchar(255)   NOT NULL,
    upstream_id       varchar(255),
    status            varchar(50)    NOT NULL,
    error_code        varchar(100),
    error             text,
    http_status       smallint,
    tokens_prompt     integer        NOT NULL DEFAULT 0,
    tokens_completion integer        NOT NULL DEFAULT 0,
    tokens_total      integer        NOT NULL DEFAULT 0,
    tokens_cached     integer        NOT NULL DEFAULT 0,
    tokens_reasoning  integer        NOT NULL DEFAULT 0,
    usage_estimated   boolean        NOT NULL DEFAULT false,
    cached            boolean        NOT NULL DEFAULT false,
    confidence        numeric(5,4),
    latency_ms        integer        NOT NULL,
    first_token_ms    integer,
    chunk_count       integer,
    finish_reason     varchar(50),
    selected          boolean        NOT NULL DEFAULT true,
    attempt           smallint       NOT NULL DEFAULT 1,
    cost_usd          numeric(20,12) NOT NULL DEFAULT 0,
    pricing_id        uuid,
    created_at        timestamptz    NOT NULL DEFAULT now(),
    gap_p50_ms        integer,
    gap_p95_ms        integer,
    gap_max_ms        integer,
    CONSTRAINT llm_responses_pkey PRIMARY KEY (id),
    CONSTRAINT llm_responses_request_id_fkey FOREIGN KEY (request_id) REFERENCES llm_requests (id) ON DELETE CASCADE,
    CONSTRAINT llm_responses_month_check CHECK (substring(uuid_send(id) FROM 1 FOR 6) = substring(uuid_send(request_id) FROM 1 FOR 6)),
    CONSTRAINT llm_responses_status_check CHECK (status IN ('completed', 'failed', 'cancelled', 'interrupted')),
    CONSTRAINT llm_responses_tokens_check CHECK (tokens_prompt >= 0 AND tokens_completion >= 0 AND tokens_total >= 0
        AND tokens_cached >= 0 AND tokens_reasoning >= 0),
    CONSTRAINT llm_responses_confidence_check CHECK (confidence BETWEEN 0 AND 1),
    CONSTRAINT llm_responses_latency_ms_check CHECK (latency_ms >= 0),
    CONSTRAINT llm_responses_first_token_ms_check CHECK (first_token_ms >= 0),
    CONSTRAINT llm_responses_chunk_count_check CHECK (chunk_count >= 0),
    CONSTRAINT llm_responses_gaps_check CHECK (gap_p50_ms >= 0 AND gap_p95_ms >= gap_p50_ms AND gap_max_ms >= gap_p95_ms),
    CONSTRAINT llm_responses_attempt_check CHECK (attempt >= 1),
    CONSTRAINT llm_responses_cost_usd_check CHECK (cost_usd >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE llm_responses_default PARTITION OF llm_responses DEFAULT;

COMMENT ON TABLE llm_responses IS 'One row per answer (or failure) of a provider, with its tokens and cost; the text is in llm_response_bodies.';
COMMENT ON COLUMN llm_responses.id IS 'UUIDv7 made with uuidv7_beside(request_id): same month as its request.';
COMMENT ON COLUMN llm_responses.user_id IS 'Tenant; NULL after the user is erased.';
COMMENT ON COLUMN llm_responses.provider_name IS 'Name of the provider at that time; stays when the provider is removed.';
COMMENT ON COLUMN llm_responses.model_name IS 'Model that answered, as the provider named it.';
COMMENT ON COLUMN llm_responses.upstream_id IS 'Id the provider gave its answer; only a note, providers repeat them.';
COMMENT ON COLUMN llm_responses.status IS 'completed; failed (no usable answer); cancelled (the client went away); interrupted (the stream or Helix broke off).';
COMMENT ON COLUMN llm_responses.error_code IS 'Machine-readable reason of a failure; NULL when completed.';
COMMENT ON COLUMN llm_responses.http_status IS 'Status the provider answered with; NULL when it never did.';
COMMENT ON COLUMN llm_responses.tokens_cached IS 'Part of tokens_prompt the provider read from its cache.';
COMMENT ON COLUMN llm_responses.tokens_reasoning IS 'Part of tokens_completion spent on reasoning.';
COMMENT ON COLUMN llm_responses.usage_estimated IS 'True when the provider told no usage and Helix counted the tokens itself.';
COMMENT ON COLUMN llm_responses.cached IS 'True when the answer came out of Helix'' own cache and no provider was called.';
COMMENT ON COLUMN llm_responses.confidence IS '0 to 1; NULL when nothing measured it.';
COMMENT ON COLUMN llm_responses.latency_ms IS 'Milliseconds from sending to the last byte received.';
COMMENT ON COLUMN llm_responses.first_token_ms IS 'Milliseconds from sending to the first content byte; NULL when not streamed.';
COMMENT ON COLUMN llm_responses.chunk_count IS 'Chunks of the stream; NULL when not streamed.';
COMMENT ON COLUMN llm_responses.gap_p50_ms IS 'Median silence between two arrivals of content; NULL when not streamed, or with fewer than two.';
COMMENT ON COLUMN llm_responses.gap_p95_ms IS 'The 95th percentile (nearest rank) of the silences.';
COMMENT ON COLUMN llm_responses.gap_max_ms IS 'The longest silence.';
COMMENT ON COLUMN llm_responses.selected IS 'Whether this answer is the one the client got; one per request in an ensemble.';
COMMENT ON COLUMN llm_responses.attempt IS 'Which try this was, from 1.';
COMMENT ON COLUMN llm_responses.cost_usd IS 'Exact cost in US dollars by the price row pricing_id.';
COMMENT ON COLUMN llm_responses.pricing_id IS 'Price valid at that time; NULL when none was known (cost 0).';

-- Which answers did this request get?
CREATE INDEX idx_responses_request_id ON llm_responses (request_id);
-- What did this provider answer? (idx_completions_provider of another seed has the same columns)
CREATE INDEX idx_responses_provider_id ON llm_responses (provider_id);
-- Which answers were the ones given to clients?
CREATE INDEX idx_responses_selected ON llm_responses (selected) WHERE selected;
-- Which answers came out of the cache?
CREATE INDEX idx_completions_cached ON llm_responses (cached) WHERE cached;
-- What was answered between two moments?
CREATE INDEX idx_completions_created ON llm_responses USING brin (created_at) WITH (autosummarize = on);
-- What did this tenant get? (also unlinking)
CREATE INDEX llm_responses_user_id_idx ON llm_responses (user_id) WHERE user_id IS NOT NULL;

-- ---------------------------------------------------------------------------------------------------------------------
-- llm_response_bodies: at most one row per answer: its text and what the provider sent. Written with the answer, in the same
-- commit. Dropped, redacted or archived without touching the numbers; erased with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE llm_response_bodies (
    response_id  uuid NOT NULL,
    request_id   uuid NOT NULL,
    user_id      uuid,
    content      text,
    raw_response json,
    CONSTRAINT llm_response_bodies_pkey PRIMARY KEY (response_id),
    CONSTRAINT llm_response_bodies_response_id_fkey FOREIGN KEY (response_id) REFERENCES llm_responses (id) ON DELETE CASCADE,
    CONSTRAINT llm_response_bodies_month_check CHECK (substring(uuid_send(response_id) FROM 1 FOR 6) = substring(uuid_send(request_id) FROM 1 FOR 6))
) PARTITION BY RANGE (response_id);

CREATE TABLE llm_response_bodies_default PARTITION OF llm_response_bodies DEFAULT;

COMMENT ON TABLE llm_response_bodies IS 'Text of an answer; apart from llm_responses so that texts can go while numbers stay.';
COMMENT ON COLUMN llm_response_bodies.request_id IS 'Joins llm_requests; no FK of its own, the one of the response guards it.';
COMMENT ON COLUMN llm_response_bodies.user_id IS 'Tenant; the body is erased with the user.';
COMMENT ON COLUMN llm_response_bodies.content IS 'Text of the answer; NULL when there was none (a failure, only tool calls, embeddings).';
COMMENT ON COLUMN llm_response_bodies.raw_response IS 'What the provider sent, as JSON word for word; of a stream, the answer put together.';

-- Which texts are this tenant's? (erasure)
CREATE INDEX llm_response_bodies_user_id_idx ON llm_response_bodies (user_id) WHERE user_id IS NOT NULL;
