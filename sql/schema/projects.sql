-- projects.sql: what users work on, where each project stands, and what became of those that ended.
-- Domain: projects. A project is an optional dimension of requests, usage, audit, errors, tasks and debates.

-- ---------------------------------------------------------------------------------------------------------------------
-- projects: one row per project of a user. Written by the projects API. Goes with its user; usage and audit stay, unlinked.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE projects (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid         NOT NULL,
    name          varchar(255) NOT NULL,
    description   text,
    language      varchar(50)  NOT NULL,
    status        varchar(50)  NOT NULL DEFAULT 'active',
    current_stage varchar(100),
    created_at    timestamptz  NOT NULL DEFAULT now(),
    updated_at    timestamptz  NOT NULL DEFAULT now(),
    completed_at  timestamptz,
    CONSTRAINT projects_pkey PRIMARY KEY (id),
    CONSTRAINT projects_status_check CHECK (status IN ('active', 'paused', 'completed', 'failed', 'cancelled', 'archived'))
);

COMMENT ON TABLE projects IS 'One row per project of a user.';
COMMENT ON COLUMN projects.language IS 'Main programming language: python, nodejs, java ... An open set.';
COMMENT ON COLUMN projects.current_stage IS 'Name of the stage the project is in; the agents'' own words.';

-- Which projects does this user have?
CREATE INDEX idx_projects_user ON projects (user_id);
-- Which projects are active, which failed?
CREATE INDEX idx_projects_status ON projects (status);
-- Which projects are the newest?
CREATE INDEX idx_projects_created ON projects (created_at);

CREATE TRIGGER projects_set_updated_at BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- project_state: at most one row per project: where to resume after a stop. Written by the agents after each action.
-- Tenant: through the project. Goes with it.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE project_state (
    id               uuid        NOT NULL DEFAULT gen_random_uuid(),
    project_id       uuid        NOT NULL,
    current_task_id  uuid,
    current_agent_id varchar(100),
    last_action      text,
    status           varchar(50) NOT NULL DEFAULT 'active',
    metadata         jsonb       NOT NULL DEFAULT '{}',
    updated_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT project_state_pkey PRIMARY KEY (id),
    CONSTRAINT project_state_project_id_key UNIQUE (project_id),
    CONSTRAINT project_state_project_id_fkey FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE,
    CONSTRAINT project_state_status_check CHECK (status IN ('active', 'paused', 'completed', 'failed', 'cancelled', 'archived'))
);

COMMENT ON TABLE project_state IS 'Where a project stands: task, agent and last action to resume from.';
COMMENT ON COLUMN project_state.current_task_id IS 'Task to resume; set to NULL before the task''s month is dropped.';
COMMENT ON COLUMN project_state.last_action IS 'What was done last, in words.';

-- Which projects wait to be resumed? (idx_project_state_project would only repeat project_state_project_id_key)
CREATE INDEX idx_project_state_status ON project_state (status);
-- Which projects stand at this task? (asked when a task is deleted)
CREATE INDEX project_state_current_task_id_idx ON project_state (current_task_id) WHERE current_task_id IS NOT NULL;

CREATE TRIGGER project_state_set_updated_at BEFORE UPDATE ON project_state FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();

-- ---------------------------------------------------------------------------------------------------------------------
-- cancelled_projects: one row per cancellation. Written once by the cancellation; kept for ever, also when the project and
-- its user are gone.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE cancelled_projects (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    project_id   uuid         NOT NULL,
    user_id      uuid,
    project_name varchar(255) NOT NULL,
    stage        varchar(100),
    cancelled_at timestamptz  NOT NULL DEFAULT now(),
    cancelled_by uuid,
    reason       text,
    metadata     jsonb        NOT NULL DEFAULT '{}',
    CONSTRAINT cancelled_projects_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE cancelled_projects IS 'Record of cancelled projects; kept for ever.';
COMMENT ON COLUMN cancelled_projects.project_id IS 'Joins projects; no FK because the record outlives the project.';
COMMENT ON COLUMN cancelled_projects.user_id IS 'Owner of the project (the tenant); NULL after the user is erased.';
COMMENT ON COLUMN cancelled_projects.stage IS 'Stage the project was in.';
COMMENT ON COLUMN cancelled_projects.cancelled_by IS 'User who cancelled it, the owner or an admin.';

-- What did this user cancel?
CREATE INDEX idx_cancelled_projects_user ON cancelled_projects (cancelled_by);
-- What was cancelled lately?
CREATE INDEX idx_cancelled_projects_date ON cancelled_projects (cancelled_at);
-- Which of this tenant's projects were cancelled?
CREATE INDEX cancelled_projects_user_id_idx ON cancelled_projects (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- archived_projects: one row per archived project. Written once by the archiver; kept for ever, the files apart.
-- ---------------------------------------------------------------------------------------------------------------------
CREATE TABLE archived_projects (
    id           uuid         NOT NULL DEFAULT gen_random_uuid(),
    project_id   uuid         NOT NULL,
    user_id      uuid,
    project_name varchar(255) NOT NULL,
    description  text,
    language     varchar(50),
    completed_at timestamptz  NOT NULL,
    archived_at  timestamptz  NOT NULL DEFAULT now(),
    archive_path text,
    metadata     jsonb        NOT NULL DEFAULT '{}',
    CONSTRAINT archived_projects_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE archived_projects IS 'Record of archived projects; kept for ever.';
COMMENT ON COLUMN archived_projects.project_id IS 'Joins projects; no FK because the record outlives the project.';
COMMENT ON COLUMN archived_projects.user_id IS 'Owner of the project (the tenant); NULL after the user is erased.';
COMMENT ON COLUMN archived_projects.archive_path IS 'Where the archived files lie; NULL when there are none.';

-- Which projects did this user archive?
CREATE INDEX idx_archived_projects_user ON archived_projects (user_id);
-- What was archived lately?
CREATE INDEX idx_archived_projects_date ON archived_projects (archived_at);
