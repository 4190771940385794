-- tool_access.sql: which agent may use which tool, and what every agent did or tried.
-- Domain: tools.

-- ---------------------------------------------------------------------------------------------------------------------
-- agent_permissions: one row per decision about an agent type and a tool; no row means no. Written by the operator. Kept.
-- Shared by all tenants.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE agent_permissions (
    id         uuid         NOT NULL DEFAULT gen_random_uuid(),
    agent_type varchar(100) NOT NULL,
    tool_name  varchar(255) NOT NULL,
    allowed    boolean      NOT NULL DEFAULT false,
    created_at timestamptz  NOT NULL DEFAULT now(),
    updated_at timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT agent_permissions_pkey PRIMARY KEY (id),
    CONSTRAINT agent_permissions_agent_type_tool_name_key UNIQUE (agent_type, tool_name)
);

COMMENT ON TABLE agent_permissions IS 'Which agent type may call which tool; without a row the call is refused.';
COMMENT ON COLUMN agent_permissions.allowed IS 'False is a recorded no; a missing row is a no as well.';

-- What may this agent type do? (the pair agent_type, tool_name is answered by the UNIQUE)
CREATE INDEX idx_agent_permissions_agent ON agent_permissions (agent_type);

CREATE TRIGGER agent_permissions_set_updated_at BEFORE UPDATE ON agent_permissions FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- tool_audit_log: one row per decision (call allowed or refused, written before the tool runs) and one per outcome (written
-- after it, naming its decision). Written by the tool gate; append-only. Partitioned by UTC month on the UUIDv7 id; kept
-- 1 year, then the month is dropped. Erasing a user sets user_id, and under helix.erasure parameters, result and reason, to NULL.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE tool_audit_log (
    id          uuid         NOT NULL DEFAULT uuidv7(),
    timestamp   timestamptz  NOT NULL DEFAULT now(),
    user_id     uuid,
    api_key_id  uuid,
    project_id  uuid,
    agent_type  varchar(100),
    agent_id    varchar(100) NOT NULL,
    tool_name   varchar(255) NOT NULL,
    operation   varchar(100) NOT NULL,
    allowed     boolean      NOT NULL,
    reason      text,
    parameters  jsonb,
    result      jsonb,
    decision_id uuid,
    request_id  uuid,
    task_id     uuid,
    duration_ms integer,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT tool_audit_log_pkey PRIMARY KEY (id),
    CONSTRAINT tool_audit_log_duration_ms_check CHECK (duration_ms >= 0)
) PARTITION BY RANGE (id);

CREATE TABLE tool_audit_log_default PARTITION OF tool_audit_log DEFAULT;

COMMENT ON TABLE tool_audit_log IS 'Every tool call, allowed or refused, with its reason and outcome. Append-only.';
COMMENT ON COLUMN tool_audit_log.timestamp IS 'When it was decided or ended.';
COMMENT ON COLUMN tool_audit_log.user_id IS 'Tenant for whom the agent acts; NULL after the user is erased.';
COMMENT ON COLUMN tool_audit_log.agent_type IS 'Type the permission was looked up by.';
COMMENT ON COLUMN tool_audit_log.agent_id IS 'Which agent it was.';
COMMENT ON COLUMN tool_audit_log.operation IS 'What it wanted of the tool, e.g. call, read, write.';
COMMENT ON COLUMN tool_audit_log.reason IS 'Why it was allowed or refused.';
COMMENT ON COLUMN tool_audit_log.parameters IS 'Arguments, with secrets removed.';
COMMENT ON COLUMN tool_audit_log.result IS 'Outcome; NULL in the row of the decision.';
COMMENT ON COLUMN tool_audit_log.decision_id IS 'In the row of an outcome: id of the row of its decision. No FK: both are in one append-only table.';
COMMENT ON COLUMN tool_audit_log.request_id IS 'Joins llm_requests; no FK because requests are dropped sooner.';
COMMENT ON COLUMN tool_audit_log.task_id IS 'Joins background_tasks; no FK because tasks are dropped sooner.';
COMMENT ON COLUMN tool_audit_log.duration_ms IS 'How long the tool ran, in the row of an outcome.';

-- What happened between two moments? Rows lie in time order, so block ranges suffice.
CREATE INDEX idx_tool_audit_timestamp ON tool_audit_log USING brin (timestamp) WITH (autosummarize = on);
-- What did agents do in this project?
CREATE INDEX idx_tool_audit_project ON tool_audit_log (project_id) WHERE project_id IS NOT NULL;
-- What did this agent do?
CREATE INDEX idx_tool_audit_agent ON tool_audit_log (agent_id);
-- How was this tool used?
CREATE INDEX idx_tool_audit_tool ON tool_audit_log (tool_name);
-- What was done for this tenant?
CREATE INDEX tool_audit_log_user_id_idx ON tool_audit_log (user_id) WHERE user_id IS NOT NULL;
-- What was done with this key? (unlinking a deleted one)
CREATE INDEX tool_audit_log_api_key_id_idx ON tool_audit_log (api_key_id) WHERE api_key_id IS NOT NULL;
-- How did this decision end?
CREATE INDEX tool_audit_log_decision_id_idx ON tool_audit_log (decision_id) WHERE decision_id IS NOT NULL;

CREATE TRIGGER tool_audit_log_append_only BEFORE UPDATE OR DELETE ON tool_audit_log
    FOR EACH ROW EXECUTE FUNCTION helix_append_only('user_id,api_key_id,project_id', 'parameters,result,reason');
CREATE TRIGGER tool_audit_log_no_truncate BEFORE TRUNCATE ON tool_audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION helix_append_only();
