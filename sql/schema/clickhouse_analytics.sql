-- clickhouse_analytics.sql: the outbox to ClickHouse, stream timings, and how far each projection has read (S42, S43, S106, S108).
--
-- PostgreSQL is the truth; ClickHouse, Neo4j and Qdrant are projections: optional, fed from here, rebuildable. The outbox row is written in the
-- transaction that makes the fact, so an event exists exactly when the fact does; the exporter delivers it at least once and the sink drops doubles by id.
--
-- Needs: functions.sql. Foreign keys to users: relationships.sql. session_id and request_id are plain columns: what they name is swept or dropped sooner.

-- One row per analytics event on its way to ClickHouse. Written in the transaction of the fact; marked by the exporter. Exported months are dropped
-- after 30 days, unexported ones never.
CREATE TABLE clickhouse_analytics (
    id            uuid         PRIMARY KEY DEFAULT uuidv7(),
    event_type    varchar(100) NOT NULL,
    event_data    jsonb        NOT NULL,
    user_id       uuid,
    session_id    uuid,
    timestamp     timestamptz  NOT NULL DEFAULT now(),
    exported      boolean      NOT NULL DEFAULT false,
    exported_at   timestamptz,
    recorded_xid  xid8         NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT clickhouse_analytics_event_data_check CHECK (jsonb_typeof(event_data) = 'object'),
    CONSTRAINT clickhouse_analytics_exported_check CHECK (exported = (exported_at IS NOT NULL))
) PARTITION BY RANGE (id);
CREATE TABLE clickhouse_analytics_default PARTITION OF clickhouse_analytics DEFAULT;
COMMENT ON TABLE clickhouse_analytics IS 'Outbox of analytics events for ClickHouse: written with the fact, delivered at least once, dropped by id at the sink. Monthly partitions by id.';
COMMENT ON COLUMN clickhouse_analytics.event_type IS 'Name of the ClickHouse table the event belongs to: debate_metrics, conversation_metrics, provider_performance, llm_response_latency, …';
COMMENT ON COLUMN clickhouse_analytics.event_data IS 'The columns of that table, by name.';
COMMENT ON COLUMN clickhouse_analytics.exported IS 'Delivered and acknowledged. Set once, with exported_at, by the exporter.';
COMMENT ON COLUMN clickhouse_analytics.recorded_xid IS 'Transaction that wrote the row: the exporter takes rows below pg_snapshot_xmin(pg_current_snapshot()), so a late commit is never skipped.';
-- Which events wait for export, in the order they may be sent?
CREATE INDEX idx_clickhouse_analytics_pending ON clickhouse_analytics (recorded_xid, id) WHERE NOT exported;
-- Which events does this user own (erasure)?
CREATE INDEX idx_clickhouse_analytics_user_id ON clickhouse_analytics (user_id) WHERE user_id IS NOT NULL;
-- Which events came between these two times?
CREATE INDEX idx_clickhouse_analytics_timestamp ON clickhouse_analytics USING brin (timestamp);

-- Rows of one streamed answer: the first token, then one row per sampled chunk or per group of chunks, then the end. Written by the gateway's recorder
-- with the answer. Months are dropped after 30 days; the totals live on llm_responses (first_token_ms, chunk_count).
CREATE TABLE streaming_analytics (
    id             uuid         PRIMARY KEY DEFAULT uuidv7(),
    stream_id      varchar(255) NOT NULL,
    event_type     varchar(100) NOT NULL,
    chunk_number   integer      NOT NULL,
    latency_ms     bigint       NOT NULL,
    tokens_delta   integer      NOT NULL DEFAULT 0,
    chunks         integer      NOT NULL DEFAULT 1,
    max_gap_ms     bigint,
    request_id     uuid,
    provider_name  varchar(255),
    model_name     varchar(255),
    user_id        uuid,
    timestamp      timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT streaming_analytics_chunk_number_check CHECK (chunk_number >= 0),
    CONSTRAINT streaming_analytics_latency_ms_check CHECK (latency_ms >= 0),
    CONSTRAINT streaming_analytics_tokens_delta_check CHECK (tokens_delta >= 0),
    CONSTRAINT streaming_analytics_chunks_check CHECK (chunks >= 1),
    CONSTRAINT streaming_analytics_max_gap_ms_check CHECK (max_gap_ms >= 0),
    CONSTRAINT streaming_analytics_event_type_check CHECK (event_type IN ('first_token', 'chunk', 'completed', 'failed', 'cancelled'))
) PARTITION BY RANGE (id);
CREATE TABLE streaming_analytics_default PARTITION OF streaming_analytics DEFAULT;
COMMENT ON TABLE streaming_analytics IS 'Timing of streamed answers: first token, sampled or grouped chunks, end. Monthly partitions by id.';
COMMENT ON COLUMN streaming_analytics.stream_id IS 'Id of the answer (llm_responses.id as text): all rows of one stream share it.';
COMMENT ON COLUMN streaming_analytics.event_type IS 'first_token, chunk, completed, failed, cancelled.';
COMMENT ON COLUMN streaming_analytics.chunk_number IS 'Number of the last chunk this row covers; 0 before the first.';
COMMENT ON COLUMN streaming_analytics.latency_ms IS 'Since the row before it in the stream; for first_token since the request was sent; for the end row the whole stream.';
COMMENT ON COLUMN streaming_analytics.tokens_delta IS 'Tokens the covered chunks brought.';
COMMENT ON COLUMN streaming_analytics.chunks IS 'How many chunks this row covers: 1 = sampled, more = grouped.';
COMMENT ON COLUMN streaming_analytics.max_gap_ms IS 'Longest silence between two of the covered chunks.';
COMMENT ON COLUMN streaming_analytics.request_id IS 'Joins llm_requests; no FK because both are dropped by month.';
-- How did this stream go, chunk by chunk?
CREATE INDEX idx_streaming_analytics_stream_id ON streaming_analytics (stream_id, chunk_number);
-- Which rows does this user own (erasure)?
CREATE INDEX idx_streaming_analytics_user_id ON streaming_analytics (user_id) WHERE user_id IS NOT NULL;
-- Which rows came between these two times?
CREATE INDEX idx_streaming_analytics_timestamp ON streaming_analytics USING brin (timestamp);

-- One row per projection and source: how far it has read the change feed. Written by the projection in the transaction after the sink
-- acknowledged. Deleting a row rebuilds that projection from zero.
CREATE TABLE projection_checkpoints (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    projection        varchar(50)  NOT NULL,
    source_table      varchar(63)  NOT NULL,
    last_xid          xid8         NOT NULL DEFAULT '0',
    last_id           uuid,
    rows_delivered    bigint       NOT NULL DEFAULT 0,
    system_identifier bigint,
    status            varchar(20)  NOT NULL DEFAULT 'active',
    error_message     text,
    delivered_at      timestamptz,
    created_at        timestamptz  NOT NULL DEFAULT now(),
    updated_at        timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT projection_checkpoints_projection_check CHECK (projection IN ('clickhouse', 'neo4j', 'qdrant')),
    CONSTRAINT projection_checkpoints_rows_delivered_check CHECK (rows_delivered >= 0),
    CONSTRAINT projection_checkpoints_status_check CHECK (status IN ('active', 'paused', 'rebuilding', 'failed')),
    CONSTRAINT projection_checkpoints_projection_source_table_key UNIQUE (projection, source_table)
);
COMMENT ON TABLE projection_checkpoints IS 'How far ClickHouse, Neo4j and Qdrant have read each table''s change feed.';
COMMENT ON COLUMN projection_checkpoints.last_xid IS 'recorded_xid of the last row delivered; with last_id the position in the feed.';
COMMENT ON COLUMN projection_checkpoints.system_identifier IS 'Database cluster the position belongs to (pg_control_system()). After a restore elsewhere it differs, and the projection is rebuilt.';
CREATE TRIGGER projection_checkpoints_set_updated_at BEFORE UPDATE ON projection_checkpoints FOR EACH ROW EXECUTE FUNCTION helix_set_updated_at();
