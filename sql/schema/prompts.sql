-- prompts.sql: versions of the prompts agents work with, the tests they are held to, and how they did.
-- Domain: prompts. Shared catalogue, no tenant data.

-- ---------------------------------------------------------------------------------------------------------------------
-- prompts: one row per version of the prompt of an agent type. Written by prompt authors; activation and rollback only move
-- is_active. Kept for ever: requests name the version they used.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE prompts (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    agent_type   varchar(100) NOT NULL,
    version      varchar(50)  NOT NULL,
    prompt_text  text         NOT NULL,
    is_active    boolean      NOT NULL DEFAULT false,
    activated_at timestamptz,
    created_at   timestamptz  NOT NULL DEFAULT now(),
    created_by   varchar(100),
    notes        text,
    CONSTRAINT prompts_pkey PRIMARY KEY (id),
    CONSTRAINT prompts_agent_type_version_key UNIQUE (agent_type, version),
    CONSTRAINT prompts_version_check CHECK (version ~
        '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$')
);

COMMENT ON TABLE prompts IS 'One row per version of an agent type''s prompt; at most one version is active per agent type.';
COMMENT ON COLUMN prompts.agent_type IS 'orchestrator, backend_dev ... An open set.';
COMMENT ON COLUMN prompts.version IS 'Semantic version, e.g. 1.2.3.';
COMMENT ON COLUMN prompts.activated_at IS 'When this version was last made the active one; NULL if never.';
COMMENT ON COLUMN prompts.created_by IS 'Author, in words: the row outlives accounts.';

-- Which versions does this agent type have?
CREATE INDEX idx_prompts_agent_type ON prompts (agent_type);
-- Which version of this agent type is active, which are not?
CREATE INDEX idx_prompts_active ON prompts (agent_type, is_active);
-- Refuses a second active version of one agent type.
CREATE UNIQUE INDEX prompts_one_active_key ON prompts (agent_type) WHERE is_active;

-- ---------------------------------------------------------------------------------------------------------------------
-- prompt_tests: one row per test every version of an agent type's prompt is held to. Written by prompt authors; kept.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE prompt_tests (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    agent_type  varchar(100) NOT NULL,
    name        varchar(255) NOT NULL,
    description text,
    input       jsonb        NOT NULL DEFAULT '{}',
    expected    jsonb        NOT NULL DEFAULT '{}',
    evaluator   varchar(100) NOT NULL DEFAULT 'contains',
    pass_score  numeric(5,2),
    enabled     boolean      NOT NULL DEFAULT true,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT prompt_tests_pkey PRIMARY KEY (id),
    CONSTRAINT prompt_tests_agent_type_name_key UNIQUE (agent_type, name),
    CONSTRAINT prompt_tests_pass_score_check CHECK (pass_score BETWEEN 0 AND 100)
);

COMMENT ON TABLE prompt_tests IS 'Definitions of the tests that versions of a prompt are held to.';
COMMENT ON COLUMN prompt_tests.input IS 'What the prompt is tried with: variables and messages.';
COMMENT ON COLUMN prompt_tests.expected IS 'What the evaluator compares the output with.';
COMMENT ON COLUMN prompt_tests.evaluator IS 'Which evaluator decides, e.g. exact, contains, regex, json_schema, llm_judge.';
COMMENT ON COLUMN prompt_tests.pass_score IS 'Least score (0 to 100) that passes; NULL when the evaluator says pass or fail itself.';

CREATE TRIGGER prompt_tests_set_updated_at BEFORE UPDATE ON prompt_tests FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- prompt_test_results: one row per run of one test against one prompt version. Written by the test runner; kept for ever.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE prompt_test_results (
    id        uuid         NOT NULL DEFAULT gen_random_uuid(),
    prompt_id uuid         NOT NULL,
    test_id   uuid,
    test_name varchar(255) NOT NULL,
    passed    boolean      NOT NULL,
    score     numeric(5,2),
    output    text,
    evaluator varchar(100),
    tested_at timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT prompt_test_results_pkey PRIMARY KEY (id),
    CONSTRAINT prompt_test_results_prompt_id_fkey FOREIGN KEY (prompt_id) REFERENCES prompts (id) ON DELETE CASCADE,
    CONSTRAINT prompt_test_results_test_id_fkey FOREIGN KEY (test_id) REFERENCES prompt_tests (id) ON DELETE SET NULL,
    CONSTRAINT prompt_test_results_score_check CHECK (score BETWEEN 0 AND 100)
);

COMMENT ON TABLE prompt_test_results IS 'How a prompt version did in a test; every run is kept.';
COMMENT ON COLUMN prompt_test_results.test_id IS 'Definition run; NULL for a test without one or whose definition was deleted.';
COMMENT ON COLUMN prompt_test_results.score IS '0.00 to 100.00.';
COMMENT ON COLUMN prompt_test_results.evaluator IS 'Which evaluator decided.';

-- How did this prompt version do?
CREATE INDEX idx_prompt_tests_prompt ON prompt_test_results (prompt_id);
-- What was tested lately?
CREATE INDEX idx_prompt_tests_date ON prompt_test_results (tested_at);
-- How did versions do in this test? (asked when a definition is deleted)
CREATE INDEX prompt_test_results_test_id_idx ON prompt_test_results (test_id);
