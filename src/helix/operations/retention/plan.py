"""The plan of retention: every table, what becomes of its rows, and why.

A table that is not here fails a test, so nothing grows without somebody having decided that it may.
The order is the order of work: a month of the ledger makes its hours anew when it goes, so hours go
after it.
"""

from helix.operations.retention.types import Kind, Rule

__all__ = ["PLAN", "rule_of"]


def _kept(table: str, why: str) -> Rule:
    return Rule(table, Kind.KEPT, why)


def _months(table: str, setting: str, why: str) -> Rule:
    return Rule(table, Kind.MONTHS, why, setting=setting)


def _archived(table: str) -> Rule:
    why = "what was asked and answered: read often when new, hardly ever later"
    return Rule(table, Kind.ARCHIVED, why, setting="request_days")


def _aged(table: str, setting: str, why: str) -> Rule:
    return Rule(table, Kind.AGE, why, setting=setting)


def _over(table: str, fixed_days: int, why: str) -> Rule:
    return Rule(table, Kind.AGE, why, fixed_days=fixed_days)


def _follows(table: str, parent: str, why: str = "belongs to it") -> Rule:
    return Rule(table, Kind.FOLLOWS, why, by=parent)


def _swept(table: str, task: str, why: str) -> Rule:
    return Rule(table, Kind.SWEPT, why, by=task)


_USER = "the user's own: stays until the user removes it or is erased"
_REGISTRY = "a registry: stays until the operator removes it"
_STATE = "one row per thing, rewritten in place: does not grow with time"

PLAN: tuple[Rule, ...] = (
    # The ledger and what it sums up to.
    _months("llm_token_usage", "usage_days", "sums by hour, day and month answer for it then"),
    _aged("llm_usage_hourly", "usage_hour_days", "sums by day answer for older hours"),
    _kept("llm_usage_daily", "accounting for ever, a few rows a day and user"),
    _kept("llm_usage_monthly", "accounting for ever"),
    _kept("usage_rollup_floors", _STATE),
    _kept("llm_pricing", "every charge names the price it was made with"),
    _kept("budgets", _USER),
    _aged("budget_periods", "budget_period_days", "what a period spent is in the sums of usage"),
    _swept("budget_reservations", "gateway", "given back when the call ends, or after a day"),
    _swept("call_holds", "gateway", "given back when the call ends, or after a day"),
    _kept("rate_windows", "one row per key and user with a limit; goes with it"),
    _aged("call_refusals", "refusal_days", "counts by the hour, of use while limits are discussed"),
    _over("idempotency_keys", 2, "a key counts for 24 hours"),
    # Calls.
    _archived("llm_response_bodies"),
    _archived("llm_responses"),
    _archived("llm_request_bodies"),
    _archived("llm_requests"),
    _kept("archive_files", "without its row a file of the archive cannot be opened"),
    _kept("archive_keys", "kept as long as their user: deleting one erases what it opens"),
    _kept("archive_tombstones", "as long as an archive may hold what was deleted"),
    _kept("archive_restores", "what was brought back, and when"),
    _swept("response_cache", "gateway", "expires_at, and a most of entries"),
    _months("streaming_analytics", "stream_days", "the totals stand with the answer"),
    # Audit and errors.
    _months("tool_audit_log", "tool_audit_days", "a year of who used which tool"),
    _months("audit_log", "audit_days", "a year of sensitive operations; the seals' heads stay"),
    _kept("audit_seals", "the chain goes on through dropped months"),
    _kept("erased_users", "a restored backup is cleansed with it"),
    _months("error_log", "error_days", "added to error_log_summary in the same transaction"),
    _aged("error_log_summary", "error_summary_days", "how often, by day and code"),
    # Tasks.
    _months("task_events", "task_days", "goes with the tasks of its time"),
    _months("task_execution_history", "task_days", "goes with the tasks of its time"),
    _months("background_tasks", "task_days", "ended work; a month with work not ended stays"),
    _follows("task_resource_snapshots", "background_tasks"),
    _aged("webhook_deliveries", "webhook_days", "told or given up; also goes with its task"),
    _kept("dead_letter_queue", "until somebody redrives it or puts it away"),
    _swept("task_stream", "keeper", "trimmed once claimed"),
    _swept("task_claims", "keeper", "trimmed once worked off"),
    _swept("task_timers", "keeper", "deleted when they fire"),
    _swept("task_unique_keys", "keeper", "released with the task, or at expires_at"),
    _swept("task_workers", "keeper", "goes when its lease ends"),
    _follows("task_dependencies", "background_tasks", "released when what is waited for ends"),
    _kept("task_lanes", "one row per queue, type and priority"),
    _kept("task_controls", _STATE),
    _kept("task_schedules", _STATE),
    _kept("task_transitions", "the rules of states, installed with the schema"),
    # Conversations.
    _kept("conversations", _USER),
    _follows("conversation_events", "conversations", "a fold needs every event from the first"),
    _follows("conversation_turns", "conversations"),
    _follows("conversation_compressions", "conversations"),
    _aged(
        "conversation_snapshots", "snapshot_days", "older than the newest: made again from events"
    ),
    _aged("conversation_replay_stats", "replay_days", "figures, of use for a while"),
    _swept("conversation_context_cache", "conversations.sweep", "expires_at"),
    # Memory and knowledge.
    _kept("memories", _USER),
    _kept("memory_entities", _USER),
    _follows("memory_entity_mentions", "memories"),
    _follows("memory_relations", "memories"),
    _follows("memory_embeddings", "memories"),
    _follows("memory_search", "memories"),
    _follows("memory_changes", "memories"),
    _kept("memory_uses", "which memory went into which request: numbers, asked by audits"),
    _kept("memory_tombstones", "what was forgotten stays forgotten"),
    _swept("rag_knowledge", "knowledge.sweep", "expires_at, every hour"),
    _follows("vector_documents", "rag_knowledge"),
    _kept("knowledge_tombstones", "what was removed stays removed"),
    _kept("embedding_config", _REGISTRY),
    _kept("distributed_memory", "states and tombstones, which win over late changes"),
    _kept(
        "distributed_memory_events",
        "a node that joins later is told all from the first change (ADR 0065)",
    ),
    _kept("crdt_versions", "one merge state per memory and node"),
    _swept("memory_snapshots", "memory", "the newest few of each node and user stay"),
    _kept("memory_conflicts", "so that a lost wording can be seen; ids and versions only"),
    _kept("memory_nodes", _REGISTRY),
    _kept("memory_peers", _REGISTRY),
    _kept("memory_sync_status", _STATE),
    _kept("memory_event_checkpoints", _STATE),
    # Debates and learning.
    _aged("debates", "debate_days", "the user's own; kept unless an age is set"),
    _follows("debate_rounds", "debates"),
    _follows("debate_arguments", "debates"),
    _follows("debate_votes", "debates"),
    _follows("debate_events", "debates"),
    _follows("code_versions", "debates"),
    _kept("panels", _USER),
    _kept("debate_strategy_success", "counts per strategy"),
    _kept("cross_session_patterns", _USER),
    _kept("learned_insights", _USER),
    _kept("user_preferences", _USER),
    _kept("entity_cooccurrences", _USER),
    _kept("conversation_flow_patterns", _USER),
    _kept("knowledge_accumulation", _USER),
    _kept("learning_statistics", "a few rows per period"),
    # People and projects.
    _kept("users", "until erased"),
    _kept("api_keys", "usage names the key, also a revoked one"),
    _kept("github_credentials", _USER),
    _aged("user_sessions", "session_days", "expired logins and runs of calls"),
    _kept("projects", _USER),
    _follows("project_state", "projects"),
    _kept("cancelled_projects", "the record of a cancellation, for ever"),
    _kept("archived_projects", "the record of an archived project, for ever"),
    _kept("prompts", "requests name the version they used"),
    _kept("prompt_tests", _REGISTRY),
    _kept("prompt_test_results", "how each version did, for ever"),
    _kept("agent_permissions", _REGISTRY),
    # Providers and protocols.
    _kept("llm_providers", _REGISTRY),
    _kept("provider_configs", _REGISTRY),
    _kept("llm_models", _REGISTRY),
    _kept("llm_benchmarks", _REGISTRY),
    _kept("llm_routes", _REGISTRY),
    _kept("llm_route_targets", _REGISTRY),
    _swept("provider_health_hours", "providers", "30 days, after each round of probes"),
    _kept("provider_verifications", "one row per verification, weekly; goes with its provider"),
    _aged("models_refresh_history", "sync_history_days", "one row per run"),
    _kept("mcp_servers", _REGISTRY),
    _kept("mcp_tools", _REGISTRY),
    _kept("acp_agents", _REGISTRY),
    _kept("lsp_servers", _REGISTRY),
    _months("protocol_metrics", "protocol_days", "figures of calls, of use for a while"),
    _over("protocol_cache", 0, "over at expires_at"),
    # The installation itself.
    _months("clickhouse_analytics", "export_days", "a projection has it; what has not gone stays"),
    _kept("projection_checkpoints", _STATE),
    _kept("matview_refresh_state", _STATE),
    _kept("rls_exempt_tables", "installed with the schema"),
    _kept("quarantines", "one row per restore of this database"),
    _aged("backup_runs", "backup_run_days", "longer than a year of restore tests"),
    _aged("retention_runs", "retention_run_days", "what went, when, and what it cost"),
    _swept("size_samples", "doctor", "400 days of sizes, one row a day and table"),
    _kept("helix_migrations", "the migrator's own"),
)
"""Every table's rule. A rule whose table a database does not have is passed over."""


def rule_of(table: str) -> Rule | None:
    """Return the rule of a table, or None."""
    return next((rule for rule in PLAN if rule.table == table), None)
