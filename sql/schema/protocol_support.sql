-- protocol_support.sql: the servers and agents Helix can work with (MCP, ACP, LSP), what they offer, how they do, and which
-- embedding models there are. Domain: tools (registries) and knowledge (documents). Registries are shared by all tenants.

-- ---------------------------------------------------------------------------------------------------------------------
-- mcp_servers: one row per MCP server. Written by the operator, the health probe and the sync of tools. Kept until removed.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE mcp_servers (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    name          varchar(255) NOT NULL,
    type          varchar(100) NOT NULL DEFAULT 'remote',
    transport     varchar(50)  NOT NULL DEFAULT 'streamable_http',
    endpoint      varchar(500),
    url           varchar(500) GENERATED ALWAYS AS (endpoint) STORED,
    port          integer,
    command       varchar(500),
    args          jsonb        NOT NULL DEFAULT '[]',
    capabilities  jsonb        NOT NULL DEFAULT '[]',
    config        jsonb        NOT NULL DEFAULT '{}',
    credentials   text,
    key_id        varchar(64),
    health_status varchar(50)  NOT NULL DEFAULT 'unknown',
    last_health_check timestamptz,
    enabled       boolean      NOT NULL DEFAULT true,
    last_sync     timestamptz,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT mcp_servers_pkey PRIMARY KEY (id),
    CONSTRAINT mcp_servers_name_key UNIQUE (name),
    CONSTRAINT mcp_servers_type_check CHECK (type IN ('local', 'remote')),
    CONSTRAINT mcp_servers_transport_check CHECK (transport IN ('stdio', 'sse', 'streamable_http', 'websocket')),
    CONSTRAINT mcp_servers_target_check CHECK (CASE type WHEN 'local' THEN command IS NOT NULL ELSE endpoint IS NOT NULL END),
    CONSTRAINT mcp_servers_port_check CHECK (port BETWEEN 1 AND 65535),
    CONSTRAINT mcp_servers_args_check CHECK (jsonb_typeof(args) = 'array'),
    CONSTRAINT mcp_servers_credentials_check CHECK ((credentials IS NULL) = (key_id IS NULL)),
    CONSTRAINT mcp_servers_health_status_check CHECK (health_status IN ('healthy', 'degraded', 'unhealthy', 'unknown'))
);

COMMENT ON TABLE mcp_servers IS 'Registry of MCP servers; their tools are in mcp_tools.';
COMMENT ON COLUMN mcp_servers.type IS 'local: started by Helix with command; remote: reached at endpoint.';
COMMENT ON COLUMN mcp_servers.url IS 'Derived: endpoint.';
COMMENT ON COLUMN mcp_servers.port IS 'Port where it is not part of the endpoint; a stdio server has none.';
COMMENT ON COLUMN mcp_servers.args IS 'Arguments of command: an array of texts.';
COMMENT ON COLUMN mcp_servers.config IS 'Settings that are no secret.';
COMMENT ON COLUMN mcp_servers.credentials IS 'Ciphertext, bound to this row, of headers and environment that are secret, made with key_id. Never shown.';
COMMENT ON COLUMN mcp_servers.key_id IS 'Which encryption key made the ciphertext.';
COMMENT ON COLUMN mcp_servers.last_sync IS 'When its tools were listed last.';

CREATE TRIGGER mcp_servers_set_updated_at BEFORE UPDATE ON mcp_servers FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- mcp_tools: one row per tool of an MCP server. Written by the sync of tools; enabled by the operator. Goes with its server.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE mcp_tools (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    server_id     uuid         NOT NULL,
    name          varchar(255) NOT NULL,
    description   text,
    input_schema  jsonb        NOT NULL DEFAULT '{}',
    output_schema jsonb,
    enabled       boolean      NOT NULL DEFAULT true,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT mcp_tools_pkey PRIMARY KEY (id),
    CONSTRAINT mcp_tools_server_id_name_key UNIQUE (server_id, name),
    CONSTRAINT mcp_tools_server_id_fkey FOREIGN KEY (server_id) REFERENCES mcp_servers (id) ON DELETE CASCADE
);

COMMENT ON TABLE mcp_tools IS 'Tools the MCP servers offer.';
COMMENT ON COLUMN mcp_tools.input_schema IS 'JSON Schema of the arguments.';
COMMENT ON COLUMN mcp_tools.enabled IS 'False: nobody may call it, whatever agent_permissions says.';

CREATE TRIGGER mcp_tools_set_updated_at BEFORE UPDATE ON mcp_tools FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- acp_agents: one row per agent reached over the Agent Client Protocol. Written by the operator and the health probe.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE acp_agents (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    name          varchar(255) NOT NULL,
    type          varchar(100) NOT NULL DEFAULT 'local',
    endpoint      varchar(500),
    url           varchar(500) GENERATED ALWAYS AS (endpoint) STORED,
    command       varchar(500),
    args          jsonb        NOT NULL DEFAULT '[]',
    capabilities  jsonb        NOT NULL DEFAULT '[]',
    config        jsonb        NOT NULL DEFAULT '{}',
    credentials   text,
    key_id        varchar(64),
    health_status varchar(50)  NOT NULL DEFAULT 'unknown',
    last_health_check timestamptz,
    enabled       boolean      NOT NULL DEFAULT true,
    last_sync     timestamptz,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT acp_agents_pkey PRIMARY KEY (id),
    CONSTRAINT acp_agents_name_key UNIQUE (name),
    CONSTRAINT acp_agents_type_check CHECK (type IN ('local', 'remote')),
    CONSTRAINT acp_agents_target_check CHECK (CASE type WHEN 'local' THEN command IS NOT NULL ELSE endpoint IS NOT NULL END),
    CONSTRAINT acp_agents_args_check CHECK (jsonb_typeof(args) = 'array'),
    CONSTRAINT acp_agents_credentials_check CHECK ((credentials IS NULL) = (key_id IS NULL)),
    CONSTRAINT acp_agents_health_status_check CHECK (health_status IN ('healthy', 'degraded', 'unhealthy', 'unknown'))
);

COMMENT ON TABLE acp_agents IS 'Registry of agents reached over the Agent Client Protocol.';
COMMENT ON COLUMN acp_agents.type IS 'local: started by Helix with command; remote: reached at endpoint.';
COMMENT ON COLUMN acp_agents.url IS 'Derived: endpoint.';
COMMENT ON COLUMN acp_agents.credentials IS 'Ciphertext, bound to this row, of headers and environment that are secret, made with key_id. Never shown.';
COMMENT ON COLUMN acp_agents.key_id IS 'Which encryption key made the ciphertext.';
COMMENT ON COLUMN acp_agents.last_sync IS 'When its abilities were asked for last.';

CREATE TRIGGER acp_agents_set_updated_at BEFORE UPDATE ON acp_agents FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- lsp_servers: one row per language server. Written by the operator and the health probe.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE lsp_servers (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    name          varchar(255) NOT NULL,
    language      varchar(100) NOT NULL,
    command       varchar(500) NOT NULL,
    args          jsonb        NOT NULL DEFAULT '[]',
    file_patterns jsonb        NOT NULL DEFAULT '[]',
    workspace     varchar(1000),
    capabilities  jsonb        NOT NULL DEFAULT '[]',
    config        jsonb        NOT NULL DEFAULT '{}',
    health_status varchar(50)  NOT NULL DEFAULT 'unknown',
    last_health_check timestamptz,
    enabled       boolean      NOT NULL DEFAULT true,
    last_sync     timestamptz,
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT lsp_servers_pkey PRIMARY KEY (id),
    CONSTRAINT lsp_servers_name_key UNIQUE (name),
    CONSTRAINT lsp_servers_args_check CHECK (jsonb_typeof(args) = 'array'),
    CONSTRAINT lsp_servers_file_patterns_check CHECK (jsonb_typeof(file_patterns) = 'array'),
    CONSTRAINT lsp_servers_health_status_check CHECK (health_status IN ('healthy', 'degraded', 'unhealthy', 'unknown'))
);

COMMENT ON TABLE lsp_servers IS 'Registry of language servers.';
COMMENT ON COLUMN lsp_servers.file_patterns IS 'Files it serves, e.g. ["*.py"].';
COMMENT ON COLUMN lsp_servers.workspace IS 'Directory it works in.';
COMMENT ON COLUMN lsp_servers.last_sync IS 'When its abilities were asked for last.';

-- Which servers serve this language?
CREATE INDEX lsp_servers_language_idx ON lsp_servers (language);

CREATE TRIGGER lsp_servers_set_updated_at BEFORE UPDATE ON lsp_servers FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- protocol_metrics: one row per call to a server or agent; how it went, nothing of what was said. Written by the protocol
-- clients; inserted once. Partitioned by UTC month on the UUIDv7 id; kept 90 days, then the month is dropped.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE protocol_metrics (
    id            uuid         NOT NULL DEFAULT uuidv7(),
    protocol      varchar(20)  NOT NULL,
    server_id     uuid,
    server_name   varchar(255),
    operation     varchar(100) NOT NULL,
    status        varchar(20)  NOT NULL,
    duration_ms   integer      NOT NULL,
    error_message text,
    metadata      jsonb        NOT NULL DEFAULT '{}',
    created_at    timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT protocol_metrics_pkey PRIMARY KEY (id),
    CONSTRAINT protocol_metrics_protocol_check CHECK (protocol IN ('mcp', 'lsp', 'acp', 'embedding')),
    CONSTRAINT protocol_metrics_status_check CHECK (status IN ('success', 'error', 'timeout')),
    CONSTRAINT protocol_metrics_duration_ms_check CHECK (duration_ms >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE protocol_metrics_default PARTITION OF protocol_metrics DEFAULT;

COMMENT ON TABLE protocol_metrics IS 'How calls to MCP servers, ACP agents, language servers and embedding models went. Holds no tenant data.';
COMMENT ON COLUMN protocol_metrics.server_id IS 'Joins mcp_servers, acp_agents, lsp_servers or embedding_config, as protocol says; no FK.';
COMMENT ON COLUMN protocol_metrics.server_name IS 'Name at that time; stays when the server is removed.';

-- How does this server do?
CREATE INDEX protocol_metrics_server_id_idx ON protocol_metrics (server_id) WHERE server_id IS NOT NULL;
-- How did calls go between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX protocol_metrics_created_at_idx ON protocol_metrics USING brin (created_at) WITH (autosummarize = on);

-- ---------------------------------------------------------------------------------------------------------------------
-- protocol_cache: one row per cached answer of a registry (lists of tools, abilities). Written by the protocol clients; swept
-- after expires_at. Only for what is the same for all tenants.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE protocol_cache (
    id         uuid         NOT NULL DEFAULT gen_random_uuid(),
    key        varchar(255) NOT NULL,
    protocol   varchar(20),
    data       jsonb        NOT NULL,
    expires_at timestamptz  NOT NULL,
    created_at timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT protocol_cache_pkey PRIMARY KEY (id),
    CONSTRAINT protocol_cache_key_key UNIQUE (key),
    CONSTRAINT protocol_cache_protocol_check CHECK (protocol IN ('mcp', 'lsp', 'acp', 'embedding'))
);

COMMENT ON TABLE protocol_cache IS 'Cached answers of registries. Never anything of a tenant.';

-- What has expired?
CREATE INDEX protocol_cache_expires_at_idx ON protocol_cache (expires_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- embedding_config: one row per embedding model in use. Written by the operator. Kept while vectors of it exist.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE embedding_config (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    provider    varchar(255) NOT NULL,
    model       varchar(255) NOT NULL,
    dimension   integer      NOT NULL,
    is_default  boolean      NOT NULL DEFAULT false,
    enabled     boolean      NOT NULL DEFAULT true,
    config      jsonb        NOT NULL DEFAULT '{}',
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT embedding_config_pkey PRIMARY KEY (id),
    CONSTRAINT embedding_config_provider_model_dimension_key UNIQUE (provider, model, dimension),
    CONSTRAINT embedding_config_id_dimension_key UNIQUE (id, dimension),
    CONSTRAINT embedding_config_dimension_check CHECK (dimension BETWEEN 1 AND 16000)
);

COMMENT ON TABLE embedding_config IS 'Embedding models and the length of their vectors; every stored vector names its model here.';
COMMENT ON COLUMN embedding_config.provider IS 'Name in llm_providers, or local for the model that runs inside Helix.';
COMMENT ON COLUMN embedding_config.dimension IS 'Numbers in each vector.';

-- Refuses a second default model.
CREATE UNIQUE INDEX embedding_config_one_default_key ON embedding_config (is_default) WHERE is_default;

CREATE TRIGGER embedding_config_set_updated_at BEFORE UPDATE ON embedding_config FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- vector_documents: one row per document (or piece of one) of a user, for search. The chunks of rag_knowledge stand here: written
-- by the knowledge API in the transaction of their document, never changed but for their vector and analysis, gone with the
-- document; content is the document's, from start_char to end_char, to the letter. What search reads of every row (vector, terms)
-- is kept in the row itself, the text out of line. Kept until deleted; erased with its user.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE vector_documents (
    id                  uuid        NOT NULL DEFAULT uuidv7(),
    user_id             uuid        NOT NULL,
    project_id          uuid,
    parent_id           uuid,
    chunk_number        integer     NOT NULL DEFAULT 0,
    title               text        NOT NULL,
    content             text        NOT NULL,
    metadata            jsonb       NOT NULL DEFAULT '{}',
    embedding           vector,
    embedding_config_id uuid,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    knowledge_id        uuid,
    start_char          integer,
    end_char            integer,
    first_page          integer,
    last_page           integer,
    headings            text[]      NOT NULL DEFAULT '{}',
    token_count         integer     NOT NULL DEFAULT 0,
    terms               integer[]   NOT NULL DEFAULT '{}',
    facts               integer     NOT NULL DEFAULT 0,
    analysis_version    smallint    NOT NULL DEFAULT 0,
    packed              bytea       NOT NULL GENERATED ALWAYS AS
        (helix_pack_text(id, coalesce(knowledge_id, id), created_at, facts, 0, terms)) STORED,
    CONSTRAINT vector_documents_pkey PRIMARY KEY (id),
    CONSTRAINT vector_documents_knowledge_id_chunk_number_key UNIQUE (knowledge_id, chunk_number),
    CONSTRAINT vector_documents_parent_id_fkey FOREIGN KEY (parent_id) REFERENCES vector_documents (id) ON DELETE CASCADE,
    CONSTRAINT vector_documents_embedding_config_id_fkey FOREIGN KEY (embedding_config_id) REFERENCES embedding_config (id),
    CONSTRAINT vector_documents_embedding_check CHECK ((embedding IS NULL) = (embedding_config_id IS NULL)),
    CONSTRAINT vector_documents_chunk_number_check CHECK (chunk_number >= 0),
    CONSTRAINT vector_documents_place_check CHECK ((knowledge_id IS NULL) = (start_char IS NULL) AND (start_char IS NULL) = (end_char IS NULL)
        AND start_char >= 0 AND end_char > start_char),
    CONSTRAINT vector_documents_pages_check CHECK ((first_page IS NULL) = (last_page IS NULL) AND first_page >= 1 AND last_page >= first_page),
    CONSTRAINT vector_documents_token_count_check CHECK (token_count >= 0),
    CONSTRAINT vector_documents_analysis_version_check CHECK (analysis_version >= 0)
);
-- Kept in the row: a search reads them of every chunk of a tenant.
ALTER TABLE vector_documents ALTER COLUMN embedding SET STORAGE MAIN;
ALTER TABLE vector_documents ALTER COLUMN terms SET STORAGE MAIN;

COMMENT ON TABLE vector_documents IS 'Documents of a user, whole or in pieces, with their vectors.';
COMMENT ON COLUMN vector_documents.parent_id IS 'Document this is a piece of; NULL for a whole one.';
COMMENT ON COLUMN vector_documents.chunk_number IS 'Order of the piece in its document, from 0.';
COMMENT ON COLUMN vector_documents.embedding IS 'Vector of the content; its length follows from the model. Search compares only vectors of one embedding_config_id.';
COMMENT ON COLUMN vector_documents.embedding_config_id IS 'Model that made the vector.';
COMMENT ON COLUMN vector_documents.knowledge_id IS 'Document in rag_knowledge this is a chunk of; NULL: of none.';
COMMENT ON COLUMN vector_documents.start_char IS 'Where it begins in rag_knowledge.content, in characters from 0.';
COMMENT ON COLUMN vector_documents.end_char IS 'Where it ends there: the character after its last.';
COMMENT ON COLUMN vector_documents.first_page IS 'Page it begins on, from 1; NULL: the document has no pages.';
COMMENT ON COLUMN vector_documents.last_page IS 'Page it ends on.';
COMMENT ON COLUMN vector_documents.headings IS 'Headings it stands under, outermost first.';
COMMENT ON COLUMN vector_documents.token_count IS 'Its length in tokens, as helix.knowledge counts them.';
COMMENT ON COLUMN vector_documents.terms IS 'CRC-32 of each stem of headings and text, in their order, without stop words.';
COMMENT ON COLUMN vector_documents.facts IS 'Bits of what the text has, as in memory_search.facts.';
COMMENT ON COLUMN vector_documents.analysis_version IS 'Version of the analysis; 0: none. Older ones are made anew every night.';
COMMENT ON COLUMN vector_documents.packed IS 'Derived: what a search reads of this row, as one value (helix_pack_text).';

-- Which documents does this tenant have?
CREATE INDEX vector_documents_user_id_idx ON vector_documents (user_id, embedding_config_id);
-- Which documents belong to this project?
CREATE INDEX vector_documents_project_id_idx ON vector_documents (project_id) WHERE project_id IS NOT NULL;
-- Which pieces does this document have?
CREATE INDEX vector_documents_parent_id_idx ON vector_documents (parent_id, chunk_number) WHERE parent_id IS NOT NULL;
-- Which vectors did this model make?
CREATE INDEX vector_documents_embedding_config_id_idx ON vector_documents (embedding_config_id) WHERE embedding_config_id IS NOT NULL;
-- Which of this tenant hold this term? (candidates in a tenant of more than 10,000 chunks)
CREATE INDEX vector_documents_terms_idx ON vector_documents USING gin (helix_scoped_terms(user_id, terms));

CREATE TRIGGER vector_documents_set_updated_at BEFORE UPDATE ON vector_documents FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();
