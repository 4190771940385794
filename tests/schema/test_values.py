"""Values a column does not take: every CHECK of the schema, by name, with what it refuses.

A new CHECK must be added to one of the lists below. Triggers and foreign keys are off in these
tests, so that nothing else refuses first.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from helix.core.db import Connection
from tests.factories import (
    insert,
    make_api_key,
    make_argument,
    make_debate,
    make_knowledge,
    make_memory,
    make_model,
    make_prompt,
    make_provider,
    make_user,
)
from tests.operations.generate import insert_rows
from tests.schema.helpers import refused
from tests.schema.tenants import A, Tenants

CLOSED_SETS = {
    "streaming_analytics.event_type": "first_token chunk completed failed cancelled",
    "audit_log.outcome": "done refused failed",
    "audit_log.actor_kind": "user command system unknown",
    "archive_files.status": "writing written archived",
    "backup_runs.action": "create verify restore",
    "backup_runs.status": "succeeded failed",
    "backup_runs.method": "logical physical",
    "size_samples.kind": "table database volume",
    "acp_agents.health_status": "healthy degraded unhealthy unknown",
    "acp_agents.type": "local remote",
    "api_keys.status": "active revoked expired",
    "budgets.period": "day month total",
    "call_refusals.reason": "rate_limited budget_exceeded key_reused revoked",
    "budgets.scope": "user api_key project agent",
    "code_versions.validation_status": "pending passed failed",
    "conversation_compressions.compression_type": "window_summary entity_graph full hybrid",
    "conversation_events.event_type": (
        "message.added message.updated message.deleted entity.extracted relationship.created "
        "debate.started debate.completed context.compressed snapshot.created "
        "conversation.paused conversation.resumed"
    ),
    "conversation_flow_patterns.flow_type": "rapid normal thoughtful",
    "conversation_replay_stats.replay_type": "full partial compressed snapshot",
    "conversation_snapshots.snapshot_type": "periodic on_demand compression checkpoint",
    "conversations.status": "active paused closed",
    "crdt_versions.crdt_type": "last_write_wins merge_all custom",
    "cross_session_patterns.pattern_type": (
        "user_intent debate_strategy entity_cooccurrence user_preference conversation_flow "
        "provider_performance"
    ),
    "debate_arguments.confidence_source": "self_reported vote_share judge",
    "debate_arguments.role": (
        "proponent opponent moderator synthesizer debater critic defender judge researcher"
    ),
    "debate_arguments.validation_status": "pending passed failed",
    "debate_rounds.status": "pending running completed failed cancelled",
    "debate_events.event_type": (
        "started resumed round_started baseline argued substituted silent voted ballot_refused "
        "round_ended validating validated concluded completed failed cancelled code_recorded"
    ),
    "debates.confidence_source": "self_reported vote_share judge",
    "debates.protocol": "cpde dpde adaptive round_robin all_see_all critic_defender judge",
    "panels.kind": "ensemble debate",
    "debates.status": "pending running validating completed failed cancelled",
    "debates.stop_reason": "rounds agreement convergence budget time calls",
    "debates.topology": "graph_mesh star chain tree",
    "debates.voting_method": "weighted majority borda condorcet plurality unanimous",
    "distributed_memory_events.event_type": "created updated deleted merged",
    "knowledge_accumulation.knowledge_type": "fact procedure concept",
    "learned_insights.impact": "high medium low",
    "learning_statistics.aggregation_period": "hourly daily weekly all_time",
    "llm_providers.health_status": "healthy degraded unhealthy unknown",
    "llm_providers.protocol": "openai anthropic gemini ollama mock",
    "llm_providers.provider_type": "api_key oauth free",
    "llm_requests.request_type": "completion chat embedding vision moderation response message",
    "llm_requests.status": "pending running completed failed",
    "llm_routes.strategy": "priority weighted latency round_robin sticky quality",
    "llm_responses.status": "completed failed cancelled interrupted",
    "lsp_servers.health_status": "healthy degraded unhealthy unknown",
    "mcp_servers.health_status": "healthy degraded unhealthy unknown",
    "mcp_servers.transport": "stdio sse streamable_http websocket",
    "mcp_servers.type": "local remote",
    "memory_changes.change": "merged ended",
    "memory_conflicts.conflict_type": "version_conflict concurrent_update",
    "memory_conflicts.resolution_strategy": "last_write_wins merge_all custom",
    "memory_nodes.node_type": "primary replica worker",
    "memory_nodes.status": "active lagging inactive failed",
    "memory_snapshots.snapshot_type": "full incremental checkpoint",
    "memory_sync_status.status": "pending syncing synced failed",
    "models_refresh_history.status": "success partial failed",
    "project_state.status": "active paused completed failed cancelled archived",
    "projection_checkpoints.projection": "clickhouse neo4j qdrant",
    "projection_checkpoints.status": "active paused rebuilding failed",
    "projects.status": "active paused completed failed cancelled archived",
    "protocol_cache.protocol": "mcp lsp acp embedding",
    "protocol_metrics.protocol": "mcp lsp acp embedding",
    "protocol_metrics.status": "success error timeout",
    "rag_knowledge.quality_by": "rule manual",
    "rag_knowledge.source": "manual checkpoint agent_learning",
    "task_controls.scope": "queue type",
    "task_events.event_type": (
        "task.created task.queued task.started task.progress task.paused task.resumed "
        "task.completed task.failed task.retried task.released task.stuck task.cancelled "
        "task.dead_letter"
    ),
    "task_execution_history.event_type": (
        "completed failed cancelled paused stuck lease_lost released dead_letter"
    ),
    "task_unique_keys.held_while": "waiting unfinished period",
    "user_preferences.preference_type": (
        "communication_style response_format code_language explanation_depth"
    ),
    "user_sessions.status": "active expired revoked",
    "users.role": "user admin service",
    "users.status": "active suspended deleted",
    "webhook_deliveries.status": "pending delivered failed",
}
ZERO_TO_ONE = """
    code_versions.quality_score code_versions.test_pass_rate
    conversation_compressions.quality_score conversation_flow_patterns.success_rate
    cross_session_patterns.confidence debate_arguments.confidence debate_arguments.quality_score
    debate_rounds.agreement debate_rounds.convergence
    debate_strategy_success.avg_confidence debate_votes.confidence
    debates.confidence distributed_memory.importance distributed_memory_events.importance
    entity_cooccurrences.confidence knowledge_accumulation.confidence
    learned_insights.confidence llm_responses.confidence memories.confidence memories.importance
    memory_entities.importance memory_relations.strength provider_verifications.availability
    provider_verifications.correctness provider_verifications.speed rag_knowledge.quality_score
    user_preferences.confidence
""".split()
ZERO_TO_HUNDRED = """
    background_tasks.progress llm_benchmarks.normalized_score llm_models.benchmark_score
    llm_models.popularity_score llm_models.reliability_score prompt_test_results.score
    prompt_tests.pass_score
""".split()
NOT_NEGATIVE = """
    api_keys.rate_limit background_tasks.attempt background_tasks.blocked_by
    background_tasks.fencing_token background_tasks.lost_count background_tasks.max_retries
    background_tasks.retry_count background_tasks.retry_delay_seconds
    background_tasks.spend_cap_usd backup_runs.duration_ms
    backup_runs.size_bytes budget_periods.reserved_usd budget_periods.settled_usd
    budget_reservations.amount_usd budgets.limit_usd code_versions.round_number
    conversation_compressions.compressed_message_count
    conversation_compressions.compressed_tokens
    conversation_compressions.compression_duration_ms
    conversation_compressions.original_message_count conversation_compressions.original_tokens
    conversation_context_cache.access_count conversation_context_cache.entity_count
    conversation_context_cache.message_count conversation_context_cache.sequence_number
    conversation_events.entity_count conversation_events.tokens
    conversation_flow_patterns.avg_time_per_message_ms conversation_replay_stats.events_replayed
    conversation_replay_stats.messages_replayed conversation_replay_stats.replay_duration_ms
    conversation_snapshots.entity_count conversation_snapshots.message_count
    conversation_snapshots.sequence_number conversation_snapshots.size_bytes
    conversation_snapshots.total_tokens conversation_turns.attempts conversation_turns.events
    conversation_turns.injected_tokens conversations.last_sequence debate_arguments.latency_ms
    debate_events.round_number debates.event_count
    debate_arguments.round_number debate_arguments.tokens_used debate_arguments.turn_number
    debate_strategy_success.avg_response_time_ms debate_strategy_success.success_count
    debate_strategy_success.total_attempts debate_votes.round_number debate_votes.weight
    distributed_memory.access_count distributed_memory.hlc distributed_memory.hlc_seen
    distributed_memory_events.access_total
    distributed_memory_events.access_delta distributed_memory_events.hlc error_log_summary.count
    llm_models.context_window llm_models.max_tokens llm_providers.priority
    llm_route_targets.position llm_route_targets.priority llm_route_targets.weight
    provider_health_hours.first_ms_sum provider_verifications.duration_ms
    provider_verifications.tokens
    llm_providers.response_time llm_providers.total_models llm_providers.weight
    llm_request_bodies.body_bytes llm_responses.chunk_count llm_responses.cost_usd
    llm_responses.first_token_ms llm_responses.latency_ms llm_token_usage.cost_usd
    matview_refresh_state.failure_count matview_refresh_state.refresh_count
    memories.access_count memory_entities.mention_count memory_event_checkpoints.event_count
    memory_event_checkpoints.last_processed_version memory_nodes.conflicts_resolved
    memory_nodes.events_consumed memory_nodes.events_published memory_nodes.sync_lag_ms
    memory_snapshots.entity_count memory_snapshots.memory_count
    memory_snapshots.relationship_count memory_sync_status.pending_events
    memory_sync_status.sync_lag_ms models_refresh_history.duration_ms
    models_refresh_history.models_failed models_refresh_history.models_refreshed
    projection_checkpoints.rows_delivered protocol_metrics.duration_ms
    size_samples.free_bytes size_samples.row_count size_samples.size_bytes
    streaming_analytics.chunk_number streaming_analytics.latency_ms
    streaming_analytics.max_gap_ms streaming_analytics.tokens_delta
    task_execution_history.duration_ms tool_audit_log.duration_ms user_sessions.request_count
    memory_embeddings.part
    vector_documents.analysis_version vector_documents.chunk_number
    vector_documents.token_count webhook_deliveries.attempts
""".split()
AT_LEAST_ONE = """
    code_versions.version_number conversation_compressions.from_sequence
    conversation_events.sequence_number conversation_flow_patterns.frequency
    crdt_versions.version cross_session_patterns.frequency debate_events.sequence
    debate_rounds.round_number
    distributed_memory.version distributed_memory_events.version
    entity_cooccurrences.cooccurrence_count knowledge_accumulation.verification_count
    memory_search.version memory_uses.rank llm_benchmarks.rank llm_responses.attempt
    streaming_analytics.chunks rag_knowledge.version
    task_controls.concurrency_max task_execution_history.attempt task_workers.concurrency
    user_preferences.frequency
""".split()
JSON_ARRAYS = """
    acp_agents.args conversation_compressions.key_topics
    conversation_compressions.preserved_entities conversation_snapshots.entities
    conversation_snapshots.messages cross_session_patterns.examples debate_votes.ranking
    distributed_memory.entities distributed_memory.relationships
    distributed_memory.replicated_to distributed_memory.tags distributed_memory_events.entities
    distributed_memory_events.merged_from distributed_memory_events.relationships
    distributed_memory_events.tags entity_cooccurrences.contexts knowledge_accumulation.sources
    learned_insights.patterns lsp_servers.args lsp_servers.file_patterns mcp_servers.args
    memory_snapshots.entities memory_snapshots.memories memory_snapshots.relationships
    user_preferences.examples
""".split()
JSON_OBJECTS = """
    clickhouse_analytics.event_data conversation_events.event_data conversation_turns.injected
    crdt_versions.vector_clock
    distributed_memory.vector_clock distributed_memory_events.metadata
    distributed_memory.fields distributed_memory_events.fields
    distributed_memory_events.removed distributed_memory_events.vector_clock
    memory_event_checkpoints.vector_clock memory_nodes.vector_clock
    memory_snapshots.vector_clock user_sessions.context user_sessions.metadata users.metadata
""".split()
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(ZERO_TO_ONE, (-0.0001, 1.1)),
    **dict.fromkeys(ZERO_TO_HUNDRED, (-0.01, 100.01)),
    "llm_providers.verification_score": (-0.01, 10.01),
    "provider_verifications.score": (-0.01, 10.01),
    "llm_routes.retries_max": (-1, 21),
    **dict.fromkeys(
        [f"llm_routes.{w}_ms" for w in ("connect", "first_token", "between_tokens", "total")],
        (0, 86_400_001),
    ),
    "llm_routes.retry_after_max_ms": (-1, 3_600_001),
    "llm_routes.cache_s": (-1, 2_592_001),
    "conversation_context_cache.ttl": (0, 86_401),
    "embedding_config.dimension": (0, 16_001),
    "mcp_servers.port": (0, 65_536),
}
# Columns that one CHECK holds together.
TOGETHER = {
    "archive_files_counts_check": (
        "request_count request_body_count response_count response_body_count plain_bytes size_bytes"
    ),
    "archive_restores_counts_check": ("request_count response_count text_count withheld_count"),
    "retention_runs_counts_check": (
        "row_count byte_count partition_count wal_bytes duration_ms table_bytes"
    ),
    "background_tasks_required_check": "required_cpu_cores required_memory_mb",
    "llm_models_pricing_check": "pricing_input pricing_output",
    "llm_pricing_cost_check": (
        "input_cost_per_million output_cost_per_million cached_input_cost_per_million "
        "reasoning_cost_per_million per_request_cost_usd"
    ),
    "llm_responses_tokens_check": (
        "tokens_prompt tokens_completion tokens_total tokens_cached tokens_reasoning"
    ),
    "llm_token_usage_tokens_check": "input_tokens output_tokens cached_tokens reasoning_tokens",
    "task_resource_snapshots_values_check": (
        "cpu_percent memory_rss_bytes memory_percent io_read_bytes io_write_bytes net_bytes_sent "
        "net_bytes_recv open_fds thread_count"
    ),
    **dict.fromkeys(
        [f"llm_usage_{level}_counts_check" for level in ("hourly", "daily", "monthly")],
        "call_count estimated_count input_tokens output_tokens cached_tokens reasoning_tokens "
        "cost_usd",
    ),
}
EARLY, LATE = "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
AN_ID, ANOTHER_ID = "01900000-0000-7000-8000-000000000001", "01a00000-0000-7000-8000-000000000001"
SHORT, LONG = "\\x" + "00" * 31, "\\x" + "00" * 33
# Everything else: the CHECK, and changes to a valid row that it refuses.
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("acp_agents_credentials_check", {"credentials": "ciphertext", "key_id": None}),
    ("acp_agents_credentials_check", {"credentials": None, "key_id": "k1"}),
    ("acp_agents_target_check", {"type": "local", "command": None}),
    ("acp_agents_target_check", {"type": "remote", "endpoint": None}),
    ("api_keys_cache_max_age_s_check", {"cache_max_age_s": -1}),
    ("api_keys_ancestors_check", {"parent_key_id": AN_ID, "ancestor_ids": []}),
    ("api_keys_ancestors_check", {"parent_key_id": None, "ancestor_ids": [AN_ID]}),
    ("api_keys_ancestors_check", {"parent_key_id": AN_ID, "ancestor_ids": [AN_ID] * 9}),
    ("api_keys_limits_check", {"tokens_per_minute": -1}),
    ("api_keys_limits_check", {"parallel_max": -1}),
    ("api_keys_previous_check", {"previous_hash": SHORT}),
    ("api_keys_previous_check", {"previous_hash": None}),
    ("api_keys_previous_check", {"previous_until": None}),
    ("api_keys_key_hash_check", {"key_hash": SHORT}),
    ("api_keys_key_hash_check", {"key_hash": LONG}),
    ("api_keys_revoked_check", {"status": "revoked", "revoked_at": None}),
    ("api_keys_scopes_check", {"scopes": ["completions", "everything"]}),
    ("archive_files_taken_check", {"status": "archived", "archived_at": None}),
    ("archive_files_taken_check", {"status": "written", "archived_at": LATE}),
    ("archive_files_whole_check", {"status": "writing", "archived_at": None}),
    ("archive_files_whole_check", {"status": "archived", "sha256": None}),
    ("archive_files_sha256_check", {"sha256": SHORT}),
    ("archive_files_month_check", {"month": "2026-01-02"}),
    ("archive_keys_month_check", {"month": "2026-01-02"}),
    ("archive_restores_month_check", {"month": "2026-01-02"}),
    ("archive_restores_keep_until_check", {"restored_at": LATE, "keep_until": EARLY}),
    ("background_tasks_ended_check", {"status": "completed", "completed_at": None}),
    ("background_tasks_ended_check", {"status": "pending", "completed_at": LATE}),
    ("background_tasks_held_check", {"status": "completed", "worker_id": "w1"}),
    ("budgets_target_check", {"scope": "api_key", "api_key_id": None}),
    ("budgets_target_check", {"scope": "user", "agent_id": "planner"}),
    ("budgets_target_check", {"scope": "project", "agent_id": "planner"}),
    ("call_holds_counts_check", {"tokens": -1}),
    ("call_holds_counts_check", {"tokens_used": -1}),
    ("call_holds_counts_check", {"parallel": 2}),
    ("call_refusals_refused_count_check", {"refused_count": -1}),
    ("clickhouse_analytics_exported_check", {"exported": True, "exported_at": None}),
    ("clickhouse_analytics_exported_check", {"exported": False, "exported_at": LATE}),
    ("conversation_compressions_sequence_check", {"from_sequence": 3, "to_sequence": 2}),
    ("audit_seals_number_check", {"number": 0}),
    ("audit_seals_row_count_check", {"row_count": 0}),
    ("audit_seals_rows_check", {"row_ids": None}),
    ("audit_seals_rows_check", {"row_digests": None}),
    ("audit_seals_digests_check", {"head": SHORT}),
    ("audit_seals_digests_check", {"rows_digest": LONG}),
    ("conversation_events_message_id_check", {"event_type": "message.added", "message_id": None}),
    ("crdt_versions_content_hash_check", {"content_hash": SHORT}),
    ("cross_session_patterns_global_check", {"user_id": None, "examples": [{"text": "Hello"}]}),
    ("cross_session_patterns_seen_check", {"first_seen": LATE, "last_seen": EARLY}),
    ("dead_letter_queue_redriven_check", {"redriven_at": LATE, "redriven_task_id": None}),
    ("dead_letter_queue_redriven_check", {"redriven_at": None, "redriven_task_id": AN_ID}),
    ("debate_strategy_success_counts_check", {"success_count": 3, "total_attempts": 2}),
    ("debates_rounds_check", {"total_rounds": 0, "current_round": 0}),
    ("debates_rounds_check", {"total_rounds": 3, "current_round": -1}),
    ("debates_rounds_check", {"total_rounds": 3, "current_round": 4}),
    ("distributed_memory_embedding_check", {"embedding": None, "embedding_config_id": AN_ID}),
    ("distributed_memory_tombstone_check", {"deleted_at": None, "content": None}),
    ("distributed_memory_tombstone_check", {"deleted_at": LATE, "content": "still here"}),
    ("distributed_memory_events_content_check", {"event_type": "created", "content": None}),
    ("distributed_memory_events_deleted_check", {"event_type": "deleted", "content": "text"}),
    ("distributed_memory_events_deleted_check", {"redacted_at": LATE, "content": "text"}),
    ("distributed_memory_events_embedding_check", {"embedding": "[1]", "embedding_model": None}),
    ("entity_cooccurrences_order_check", {"entity1_id": ANOTHER_ID, "entity2_id": AN_ID}),
    ("entity_cooccurrences_order_check", {"entity1_id": AN_ID, "entity2_id": AN_ID}),
    ("entity_cooccurrences_seen_check", {"first_seen": LATE, "last_seen": EARLY}),
    ("idempotency_keys_body_sha256_check", {"body_sha256": SHORT}),
    ("learning_statistics_period_check", {"period_start": LATE, "period_end": LATE}),
    ("llm_providers_enabled_models_check", {"enabled_models": -1, "total_models": 2}),
    ("llm_providers_enabled_models_check", {"enabled_models": 3, "total_models": 2}),
    ("llm_response_bodies_month_check", {"response_id": AN_ID, "request_id": ANOTHER_ID}),
    ("llm_responses_gaps_check", {"gap_p50_ms": -1}),
    ("llm_responses_gaps_check", {"gap_p50_ms": 2, "gap_p95_ms": 1}),
    ("llm_responses_gaps_check", {"gap_p95_ms": 2, "gap_max_ms": 1}),
    ("response_cache_key_check", {"key": SHORT}),
    ("response_cache_expires_at_check", {"created_at": LATE, "expires_at": EARLY}),
    ("llm_responses_month_check", {"id": AN_ID, "request_id": ANOTHER_ID}),
    ("llm_usage_monthly_month_check", {"month": "2026-01-02"}),
    ("matview_refresh_state_refresh_every_check", {"refresh_every": "59 seconds"}),
    ("mcp_servers_credentials_check", {"credentials": "ciphertext", "key_id": None}),
    ("mcp_servers_credentials_check", {"credentials": None, "key_id": "k1"}),
    ("mcp_servers_target_check", {"type": "local", "command": None}),
    ("mcp_servers_target_check", {"type": "remote", "endpoint": None}),
    ("memories_merged_into_check", {"id": AN_ID, "merged_into": AN_ID}),
    ("memory_changes_into_check", {"change": "merged", "into_id": None}),
    ("memories_valid_check", {"valid_from": LATE, "valid_to": EARLY}),
    ("memory_conflicts_resolved_check", {"resolved_at": None, "resolution_strategy": "custom"}),
    ("memory_conflicts_resolved_check", {"resolved_at": LATE, "resolution_strategy": None}),
    ("memory_conflicts_resolved_check", {"detected_at": LATE, "resolved_at": EARLY}),
    ("memory_embeddings_dimension_check", {"dimension": 384, "embedding": "[1, 2]"}),
    ("memory_relations_valid_check", {"valid_from": LATE, "valid_to": EARLY}),
    ("memory_sync_status_nodes_check", {"source_node_id": "n", "target_node_id": "n"}),
    ("prompts_version_check", {"version": "1.2"}),
    ("prompts_version_check", {"version": "01.2.3"}),
    ("prompts_version_check", {"version": "v1.2.3"}),
    ("prompts_version_check", {"version": "1.2.3 "}),
    ("prompts_version_check", {"version": "1.2.3-"}),
    ("debate_votes_refusal_check", {"is_valid": False, "refusal": None, "ranking": []}),
    ("debate_votes_refusal_check", {"is_valid": False, "refusal": "why", "ranking": ["a"]}),
    ("panels_name_check", {"name": "with/slash"}),
    ("panels_name_check", {"name": "Upper"}),
    ("panels_name_check", {"name": "fast\n"}),
    ("llm_routes_name_check", {"name": "with/slash"}),
    ("llm_routes_name_check", {"name": ""}),
    ("llm_routes_name_check", {"name": "fast\n"}),
    ("provider_health_hours_probes_failed_check", {"probes": 1, "probes_failed": 2}),
    ("provider_health_hours_probes_failed_check", {"probes": 1, "probes_failed": -1}),
    ("provider_health_hours_calls_failed_check", {"calls": 1, "calls_failed": 2}),
    ("provider_health_hours_calls_failed_check", {"calls": 1, "calls_failed": -1}),
    ("provider_configs_key_id_check", {"encrypted": True, "key_id": None}),
    ("provider_configs_key_id_check", {"encrypted": False, "key_id": "k1", "key": "region"}),
    ("provider_configs_secret_check", {"encrypted": False, "key_id": None, "key": "API_KEY"}),
    ("provider_configs_secret_check", {"encrypted": False, "key_id": None, "key": "authToken"}),
    ("rag_knowledge_chunking_check", {"chunk_tokens": 0, "overlap_tokens": 0}),
    ("rag_knowledge_chunking_check", {"chunk_tokens": 9, "overlap_tokens": -1}),
    ("rag_knowledge_chunking_check", {"chunk_tokens": 9, "overlap_tokens": 9}),
    ("rag_knowledge_embedding_check", {"embedding": None, "embedding_config_id": AN_ID}),
    ("rate_windows_counts_check", {"requests": -1}),
    ("rate_windows_counts_check", {"tokens": -1}),
    ("rate_windows_counts_check", {"parallel": -1}),
    ("rag_knowledge_source_hash_check", {"source_hash": SHORT}),
    ("rag_knowledge_source_hash_check", {"source_hash": LONG}),
    ("quarantines_released_at_check", {"quarantined_at": LATE, "released_at": EARLY}),
    ("rls_exempt_tables_reason_check", {"reason": "because"}),
    ("task_claims_gaps_check", {"gap_xids": ["1"], "gap_dones": [], "gap_uptos": []}),
    ("task_controls_limits_check", {"scope": "queue", "concurrency_max": 1}),
    ("task_controls_rate_check", {"scope": "type", "rate_max": 1, "rate_period_s": None}),
    ("task_controls_rate_check", {"scope": "type", "rate_max": 0, "rate_period_s": 1}),
    ("task_unique_keys_expires_at_check", {"held_while": "period", "expires_at": None}),
    ("user_sessions_token_hash_check", {"token_hash": SHORT}),
    ("users_limits_check", {"rate_limit": -1}),
    ("users_limits_check", {"tokens_per_minute": -1}),
    ("users_limits_check", {"parallel_max": -1}),
    ("vector_documents_embedding_check", {"embedding": None, "embedding_config_id": AN_ID}),
    ("vector_documents_pages_check", {"first_page": 2, "last_page": 1}),
    ("vector_documents_pages_check", {"first_page": 0, "last_page": 1}),
    ("vector_documents_pages_check", {"first_page": 1, "last_page": None}),
    ("vector_documents_place_check", {"start_char": 5, "end_char": 5}),
    ("vector_documents_place_check", {"start_char": -1, "end_char": 5}),
    ("vector_documents_place_check", {"start_char": None, "end_char": 5}),
    ("webhook_deliveries_delivered_check", {"status": "delivered", "delivered_at": None}),
    ("webhook_deliveries_delivered_check", {"status": "pending", "delivered_at": LATE}),
]
# What else must change for a row to break one rule only.
ALONG = {
    "task_controls.scope": {"concurrency_max": None, "rate_max": None, "rate_period_s": None},
    "task_unique_keys.held_while": {"expires_at": None},
    "webhook_deliveries.status": {"delivered_at": None},
}
# Where a CHECK that looks at several columns comes first.
FIRST = {
    "debate_strategy_success.total_attempts": "debate_strategy_success_counts_check",
    "llm_providers.total_models": "llm_providers_enabled_models_check",
}


def named(columns: object) -> list[str]:
    return [f"{name.replace('.', '_')}_check" for name in columns]  # type: ignore[attr-defined]


async def try_row(
    conn: Connection, tenants: Tenants, table: str, changes: dict[str, Any], constraint: str
) -> None:
    """Expect a valid row with these changes to be refused by the constraint."""
    await conn.execute("SET LOCAL session_replication_role = replica")
    row = {**tenants.spare(table, A), **ALONG.get(f"{table}.{next(iter(changes))}", {}), **changes}
    async with refused(conn, asyncpg.CheckViolationError, constraint=constraint):
        await insert_rows(conn, table, [row])


# ---- the CHECKs ----------------------------------------------------------------------------------


async def test_every_check_of_the_schema_is_tried_here(conn: Connection) -> None:
    found = await conn.fetch(
        "SELECT conname FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid "
        "WHERE k.contype = 'c' AND k.connamespace = 'public'::regnamespace "
        "AND NOT c.relispartition AND c.relname <> 'helix_migrations'"
    )
    tried = {*TOGETHER, *(name for name, _ in OTHERS)}
    tried.update(*(named(x) for x in (CLOSED_SETS, RANGES, NOT_NEGATIVE, AT_LEAST_ONE)))
    tried.update(named(JSON_ARRAYS), named(JSON_OBJECTS))
    there = {row["conname"] for row in found}
    assert there - tried == set(), "say in this file what they refuse"
    assert tried - there == set(), "no longer there"


@pytest.mark.parametrize("name", CLOSED_SETS)
async def test_a_closed_set_holds_exactly_these_values(conn: Connection, name: str) -> None:
    table, _, column = name.partition(".")
    definition = await conn.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conname = $1 AND conrelid = $2::text::regclass",
        f"{table}_{column}_check",
        table,
    )
    assert re.findall(r"'([^']+)'", definition) == CLOSED_SETS[name].split()


@pytest.mark.parametrize("name", CLOSED_SETS)
async def test_a_value_outside_a_closed_set_is_refused(
    both: Connection, tenants: Tenants, name: str
) -> None:
    table, _, column = name.partition(".")
    for value in ("zz", "", CLOSED_SETS[name].split()[0].upper()):
        await try_row(both, tenants, table, {column: value}, f"{table}_{column}_check")


@pytest.mark.parametrize("name", RANGES)
async def test_a_value_outside_its_range_is_refused(
    both: Connection, tenants: Tenants, name: str
) -> None:
    table, _, column = name.partition(".")
    for value in RANGES[name]:
        await try_row(both, tenants, table, {column: value}, f"{table}_{column}_check")


@pytest.mark.parametrize(
    ("name", "value"), [*((name, -1) for name in NOT_NEGATIVE), *((n, 0) for n in AT_LEAST_ONE)]
)
async def test_a_count_below_its_least_is_refused(
    both: Connection, tenants: Tenants, name: str, value: int
) -> None:
    table, _, column = name.partition(".")
    constraint = FIRST.get(name, f"{table}_{column}_check")
    await try_row(both, tenants, table, {column: value}, constraint)


@pytest.mark.parametrize("constraint", TOGETHER)
async def test_no_amount_of_many_is_negative(
    both: Connection, tenants: Tenants, constraint: str
) -> None:
    table = next(table for table in tenants.rows.made if constraint.startswith(f"{table}_"))
    for column in TOGETHER[constraint].split():
        await try_row(both, tenants, table, {column: -1}, constraint)


@pytest.mark.parametrize(
    ("name", "value"), [*((n, {}) for n in JSON_ARRAYS), *((n, []) for n in JSON_OBJECTS)]
)
async def test_json_of_the_wrong_shape_is_refused(
    both: Connection, tenants: Tenants, name: str, value: object
) -> None:
    table, _, column = name.partition(".")
    await try_row(both, tenants, table, {column: value}, f"{table}_{column}_check")


@pytest.mark.parametrize(
    ("constraint", "changes"), OTHERS, ids=[f"{n}-{i}" for i, (n, _) in enumerate(OTHERS)]
)
async def test_a_row_that_contradicts_itself_is_refused(
    both: Connection, tenants: Tenants, constraint: str, changes: dict[str, Any]
) -> None:
    table = max(
        (table for table in tenants.rows.made if constraint.startswith(f"{table}_")), key=len
    )
    await try_row(both, tenants, table, changes, constraint)


# ---- enums, generated columns, updated_at --------------------------------------------------------


async def test_priorities_sort_from_critical_to_background(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT p FROM unnest('{low,background,critical,normal,high}'::task_priority[]) AS p "
        "ORDER BY p"
    )
    assert [row["p"] for row in rows] == ["critical", "high", "normal", "low", "background"]


async def test_there_are_nine_states_of_a_task(conn: Connection) -> None:
    states = await conn.fetchval("SELECT enum_range(NULL::task_status)::text[]")
    assert states == [
        "pending",
        "queued",
        "running",
        "paused",
        "completed",
        "failed",
        "stuck",
        "cancelled",
        "dead_letter",
    ]


@pytest.mark.parametrize("column", ["status", "priority"])
async def test_a_task_takes_no_other_state_or_priority(conn: Connection, column: str) -> None:
    async with refused(conn, asyncpg.InvalidTextRepresentationError):
        await conn.execute(
            f"INSERT INTO background_tasks (task_type, {column}) VALUES ('echo', 'urgent')"
        )


async def test_the_other_names_of_a_fact_follow_it(conn: Connection) -> None:
    user = await make_user(conn, status="suspended")
    assert user["is_active"] is False
    provider = await make_provider(conn, provider_type="oauth", enabled=False)
    assert (provider["type"], provider["is_enabled"]) == ("oauth", False)
    debate = await make_debate(
        conn, total_rounds=5, current_round=2, final_conclusion="Both", consensus_reached=True
    )
    assert (debate["max_rounds"], debate["rounds"], debate["consensus"]) == (5, 2, "Both")
    model = await make_model(conn, pricing_input=30, pricing_output=60)
    assert str(model["cost_per_token"]) == "0.00004500"


async def test_the_other_name_of_a_fact_is_not_written(conn: Connection) -> None:
    async with refused(conn, asyncpg.GeneratedAlwaysError):
        await make_user(conn, is_active=False)


async def test_updated_at_is_kept_by_the_database_whoever_writes_it(
    both: Connection, tenants: Tenants
) -> None:
    long_ago = datetime(2001, 1, 1, tzinfo=UTC)
    rows = await both.fetch(
        "SELECT c.relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid "
        "WHERE a.attname = 'updated_at' AND c.relkind IN ('r', 'p') AND NOT c.relispartition "
        "AND c.relnamespace = 'public'::regnamespace AND c.relname <> 'helix_migrations'"
    )
    now = await both.fetchval("SELECT now()")
    for table in [row["relname"] for row in rows]:
        key = tenants.key(table, A) if table != "users" else {"id": tenants.users[A]}
        condition = " AND ".join(f"{name}::text = '{value}'" for name, value in key.items())
        changed = await both.execute(
            f"UPDATE {table} SET updated_at = $1 WHERE {condition}", long_ago
        )
        assert changed == "UPDATE 1", table
        found = await both.fetchval(f"SELECT updated_at FROM {table} WHERE {condition}")
        assert found == now, table
    assert len(rows) > 25


# ---- what there is only one of -------------------------------------------------------------------


async def test_an_agent_type_has_one_active_prompt(conn: Connection) -> None:
    await make_prompt(conn, agent_type="planner", version="1.0.0", is_active=True)
    second = await make_prompt(conn, agent_type="planner", version="1.1.0")
    async with refused(conn, asyncpg.UniqueViolationError, constraint="prompts_one_active_key"):
        await conn.execute("UPDATE prompts SET is_active = true WHERE id = $1", second["id"])
    await conn.execute("UPDATE prompts SET is_active = false WHERE agent_type = 'planner'")
    await conn.execute("UPDATE prompts SET is_active = true WHERE id = $1", second["id"])
    await make_prompt(conn, agent_type="tester", version="1.0.0", is_active=True)


@pytest.mark.parametrize("version", ["0.0.1", "10.20.30", "1.0.0-rc.1", "1.0.0+build.7"])
async def test_semantic_versions_are_taken(conn: Connection, version: str) -> None:
    assert (await make_prompt(conn, version=version))["version"] == version


async def test_an_address_belongs_to_one_user_however_it_is_spelt(conn: Connection) -> None:
    await make_user(conn, email="Ada@example.org")
    async with refused(conn, asyncpg.UniqueViolationError, constraint="users_email_lower_key"):
        await make_user(conn, email="ada@EXAMPLE.org")


async def test_many_users_have_no_username_and_no_two_the_same(conn: Connection) -> None:
    await make_user(conn)
    await make_user(conn, username="ada")
    await make_user(conn)
    async with refused(conn, asyncpg.UniqueViolationError, constraint="users_username_key"):
        await make_user(conn, username="ada")


async def test_a_key_is_known_once(conn: Connection) -> None:
    await make_api_key(conn, key="hlx_the_same")
    async with refused(conn, asyncpg.UniqueViolationError, constraint="api_keys_key_hash_key"):
        await make_api_key(conn, key="hlx_the_same")


async def test_the_same_memory_is_kept_once_while_it_lives(conn: Connection) -> None:
    first = await make_memory(conn, content="Ada likes tea")
    again = {"user_id": first["user_id"], "content": "Ada likes tea"}
    async with refused(
        conn, asyncpg.UniqueViolationError, constraint="memories_user_id_content_hash_key"
    ):
        await make_memory(conn, **again)
    await make_memory(conn, content="Ada likes tea")  # somebody else's
    await conn.execute("UPDATE memories SET deleted_at = now() WHERE id = $1", first["id"])
    await make_memory(conn, **again)


async def test_there_is_one_default_embedding_model(conn: Connection) -> None:
    values = {"provider": "local", "dimension": 384, "is_default": True}
    await insert(conn, "embedding_config", model="one", **values)
    async with refused(
        conn, asyncpg.UniqueViolationError, constraint="embedding_config_one_default_key"
    ):
        await insert(conn, "embedding_config", model="two", **values)


async def test_a_budget_of_one_kind_exists_once(conn: Connection) -> None:
    user = await make_user(conn)
    values = {"user_id": user["id"], "scope": "user", "period": "day", "limit_usd": 1}
    await insert(conn, "budgets", **values)
    async with refused(conn, asyncpg.UniqueViolationError, constraint="budgets_key"):
        await insert(conn, "budgets", **values)


async def test_a_long_fact_can_be_kept_and_found_again(conn: Connection) -> None:
    fact = "word " * 20_000
    values = {"knowledge_type": "fact", "subject": "words", "fact": fact}
    await insert(conn, "knowledge_accumulation", **values)
    async with refused(conn, asyncpg.UniqueViolationError):
        await insert(conn, "knowledge_accumulation", **values)


@pytest.mark.parametrize("text", ["word " * 300_000, "x" * 5_000])
async def test_a_long_text_is_kept(conn: Connection, text: str) -> None:
    memory = await make_memory(conn, content=text)
    assert memory["content"] == text
    assert (await make_knowledge(conn, content=text))["content"] == text


@pytest.mark.parametrize("make", [make_memory, make_knowledge])
async def test_a_book_can_be_kept(conn: Connection, make: Callable[..., Awaitable[Any]]) -> None:
    await make(conn, content=" ".join(f"word{n}" for n in range(150_000)))


async def test_a_position_may_be_a_whole_paragraph(conn: Connection) -> None:
    paragraph = " ".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(100))
    await make_argument(conn, position=paragraph)
