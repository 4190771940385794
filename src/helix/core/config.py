"""Settings: read once at start, from the environment and from nowhere else.

Every setting carries its unit in its name, a range, and a line of help; docs/settings.md is
generated from here. An unknown HELIX_* variable is refused, so that a typing mistake cannot pass
for a default. Any secret can come from a file instead: NAME_FILE holds a path.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from helix.core.db import PoolLimits, Role, normalise_url
from helix.core.errors import Misuse

__all__ = ["Settings", "load_settings"]

_DEFAULT_PASSWORD = "helixagent123"  # noqa: S105 - the documented default; refused off loopback
_NOT_SETTINGS = frozenset({"HELIX_API_KEY"})  # where people keep the key they call Helix with
_DEFAULT_PASSWORDS = frozenset(
    {_DEFAULT_PASSWORD, "postgres", "password", "changeme", "helix", "helixagent"}
)
"""Passwords that documents and images come with: no secrets."""


def _key(provider: str, *names: str) -> Any:
    """Return the setting that holds the API key of a well-known provider."""
    return Field(
        default=None,
        validation_alias=AliasChoices(*names, *(name.lower() for name in names)),
        description=f"Registers the provider `{provider}`.",
    )


def _base_url(provider: str, name: str, url: str) -> Any:
    """Return the setting that holds the base URL of a well-known provider."""
    return Field(
        default=url,
        validation_alias=AliasChoices(name, name.lower()),
        description=f"Base URL of the provider `{provider}`.",
    )


def _days(default: int, what: str) -> Any:
    """Return the setting that says for how many days rows of a kind are kept."""
    return Field(
        default=default, ge=0, le=36_500, description=f"How many days {what}; 0: for ever."
    )


class Settings(BaseModel):
    """All of Helix's settings; frozen. Made by `load_settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    home: Path = Field(
        default=Path("~/.helix"), description="Directory of the embedded database, keys and logs."
    )
    host: str = Field(default="127.0.0.1", description="Address the server listens on.")
    port: int = Field(default=8484, ge=0, le=65535, description="Port; 0 takes any free one.")
    log_level: str = Field(
        default="warning",
        pattern="^(debug|info|warning|error)$",
        description="Least level that is logged.",
    )
    postgres_bin: Path | None = Field(
        default=None, description="Directory of other PostgreSQL binaries for the embedded mode."
    )
    secret_keys: SecretStr | None = Field(
        default=None,
        description="Encryption keys, comma-separated, newest first; without it HELIX_HOME/keys.",
    )
    session_ttl_s: int = Field(
        default=43_200, ge=60, le=2_592_000, description="How long a login lasts."
    )
    open_registration: bool = Field(
        default=False, description="Whether anybody may make an account of their own."
    )
    bcrypt_cost: int = Field(default=12, ge=12, le=16, description="Cost factor of passwords.")
    body_bytes_max: int = Field(
        default=20_000_000, ge=1_000, le=200_000_000, description="Largest request body."
    )
    bodies_bytes_max: int = Field(
        default=40_000_000,
        ge=1_000_000,
        description="Most of large request bodies that is read at a time; more are refused.",
    )
    body_timeout_s: float = Field(
        default=60.0, gt=0, le=3_600, description="Longest a request body may take to arrive."
    )
    messages_max: int = Field(
        default=4_096, ge=1, le=100_000, description="Most messages in one request."
    )
    json_depth_max: int = Field(default=64, ge=8, le=256, description="Deepest JSON accepted.")
    conversation_snapshot_events: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Events of a conversation after which a snapshot of it is due.",
    )
    conversation_snapshot_bytes: int = Field(
        default=262_144,
        ge=1_024,
        le=1_000_000_000,
        description="Bytes of events after which a snapshot of a conversation is due.",
    )
    conversation_cache_ttl_s: int = Field(
        default=0,
        ge=0,
        le=86_400,
        description="How long a folded conversation is kept to be shown again; 0 keeps none.",
    )
    conversation_session_ttl_s: int = Field(
        default=2_592_000,
        ge=60,
        le=31_536_000,
        description="How long a session that calls opened with `helix.session` lasts.",
    )
    conversation_compress_tokens: int = Field(
        default=32_000,
        ge=0,
        le=100_000_000,
        description="Tokens said since its last compression after which a conversation is"
        " compressed in the background; 0 never.",
    )
    conversation_summary_model: str | None = Field(
        default=None,
        max_length=255,
        description="Model that writes the summaries of conversations; without it extracts.",
    )
    context_budget_tokens: int = Field(
        default=8_000,
        ge=100,
        le=2_000_000,
        description="Budget of an assembled context whose call names none.",
    )
    json_nodes_max: int = Field(
        default=250_000,
        ge=1_000,
        le=10_000_000,
        description="Most strings, arrays and objects in one request body.",
    )
    connect_timeout_s: float = Field(
        default=10.0, gt=0, le=120, description="Longest wait for a connection to a provider."
    )
    first_byte_timeout_s: float = Field(
        default=120.0, gt=0, le=3_600, description="Longest wait for a provider's first byte."
    )
    between_bytes_timeout_s: float = Field(
        default=60.0, gt=0, le=3_600, description="Longest silence within a provider's answer."
    )
    total_timeout_s: float = Field(
        default=900.0, gt=0, le=86_400, description="Longest a call to a provider may take."
    )
    answer_bytes_max: int = Field(
        default=64_000_000, ge=1_000, description="Largest answer taken from a provider."
    )
    calls_in_flight_max: int = Field(
        default=2_000, ge=1, description="Most calls at a time; more are refused with 503."
    )
    retries_max: int = Field(
        default=2, ge=0, le=20, description="Most attempts after a call's first, over all targets."
    )
    retry_after_max_s: float = Field(
        default=10.0,
        ge=0,
        le=3_600,
        description="Longest wait a provider asks for that is sat out.",
    )
    provider_calls_max: int = Field(
        default=1_000,
        ge=1,
        description="Most calls of one provider at a time, when it has no limit of its own.",
    )
    probe_interval_s: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        description="How often each provider is probed, by all servers together; 0: never.",
    )
    probe_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="Longest a probe of a provider may take."
    )
    record_timeout_s: float = Field(
        default=1.8, gt=0, le=60, description="Longest wait for the database before a 503."
    )
    spool_bytes_max: int = Field(
        default=256_000_000,
        ge=1_000_000,
        description="Most that is kept on disk of calls that ended while the database was away.",
    )
    record_batch_max: int = Field(
        default=256, ge=1, le=4_096, description="Most calls recorded in one commit."
    )
    idempotency_wait_s: float = Field(
        default=120.0,
        gt=0,
        le=3_600,
        description="Longest a repeated Idempotency-Key waits for the first call, before a 409.",
    )
    debate_code_roots: str = Field(
        default="",
        description="Directories, colon-separated, below which debates may read git repositories.",
    )
    response_cache_ttl_s: float = Field(
        default=3_600.0,
        gt=0,
        le=2_592_000,
        description="How long an answer is kept that a call asked to cache, without a policy.",
    )
    response_cache_entries_max: int = Field(
        default=100_000, ge=100, le=100_000_000, description="Most answers that may be given again."
    )
    stream_sample_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of streams whose every arrival becomes a row of streaming_analytics.",
    )
    key_cache_s: float = Field(
        default=1.0, gt=0, le=1.0, description="How long a checked key is believed."
    )
    worker_concurrency: int = Field(
        default=50, ge=0, le=10_000, description="Tasks `helix up` runs at a time; 0: none."
    )
    worker_threads: int = Field(
        default=8, ge=1, le=1_000, description="Threads for handlers that are not coroutines."
    )
    worker_queues: str = Field(
        default="", description="Queues `helix up` takes tasks from, with commas; all if empty."
    )
    worker_lease_s: float = Field(
        default=30.0, ge=1, le=3_600, description="Silence after which a worker counts as dead."
    )
    webhook_hosts: str = Field(
        default="",
        description="Private hosts (or host:port) that webhooks may reach, with commas.",
    )
    drain_timeout_s: float = Field(
        default=25.0, gt=0, le=300, description="Longest a stopping server waits for its calls."
    )
    embedder: str = Field(
        default="auto",
        pattern=r"^(auto|local|none|[^/\s]+/\S+)$",
        max_length=255,
        description="What makes vectors for search: local (the offline model), none, auto (local"
        " where installed), or a model of a provider as openai/text-embedding-3-small.",
    )
    embedder_dimension: int = Field(
        default=0,
        ge=0,
        le=16_000,
        description="Length of the vectors of a provider's model; 0: what it gives.",
    )
    memory_extraction_model: str | None = Field(
        default=None,
        max_length=255,
        description="Model that names entities and relations of new memories in the background;"
        " without it rules alone do.",
    )
    node_id: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?$",
        description="What this node calls itself among others; made once and kept if empty.",
    )
    memory_node_hosts: str = Field(
        default="",
        description="Hosts (or host:port) of other nodes that may be private or plain http.",
    )
    memory_sync_s: float = Field(
        default=2.0, ge=0.1, le=3_600, description="How often nodes exchange memories."
    )
    memory_compression: bool = Field(
        default=True, description="Whether what nodes exchange is compressed."
    )
    memory_crdt_strategy: str = Field(
        default="merge_all",
        pattern="^(merge_all|custom)$",
        description="merge_all settles conflicts; custom leaves lost wordings open for a person.",
    )
    memory_snapshot_s: float = Field(
        default=300.0, ge=1, le=86_400, description="How often snapshots of memories are due."
    )
    memory_snapshot_events: int = Field(
        default=1_000, ge=1, description="Least events of a user between two snapshots."
    )
    memory_lag_alert_ms: int = Field(
        default=1_000, ge=1, description="Age of unread events from which a node counts as lagging."
    )
    knowledge_file_bytes_max: int = Field(
        default=20_000_000, ge=1_000, le=200_000_000, description="Largest document added."
    )
    knowledge_chars_max: int = Field(
        default=5_000_000, ge=1_000, le=50_000_000, description="Longest text of a document."
    )
    knowledge_pages_max: int = Field(
        default=2_000, ge=1, le=100_000, description="Most pages of a PDF."
    )
    knowledge_chunks_max: int = Field(
        default=20_000, ge=1, le=200_000, description="Most chunks a document is cut into."
    )
    knowledge_read_s: float = Field(
        default=5.0, ge=0.5, le=300, description="Longest the reading of one document may take."
    )
    knowledge_chunk_tokens: int = Field(
        default=220, ge=32, le=4_000, description="Size of a chunk of knowledge, in tokens."
    )
    knowledge_overlap_tokens: int = Field(
        default=30, ge=0, le=1_000, description="How much of a chunk the next one repeats."
    )

    backup_dir: Path | None = Field(
        default=None, description="Directory of backups; HELIX_HOME/backups if empty."
    )
    backup_days: int = Field(
        default=30, ge=1, le=3_650, description="How many days backups are kept."
    )
    backup_keep_min: int = Field(
        default=7, ge=1, le=1_000, description="Newest backups that are kept however old they are."
    )
    backup_physical_days: int = Field(
        default=7,
        ge=0,
        le=365,
        description="Days between physical backups; 0 makes none by itself.",
    )
    backup_window_days: int = Field(
        default=7, ge=1, le=3_650, description="How many days back any moment can be restored."
    )
    wal_archive: bool = Field(
        default=True,
        description="Whether the log of the embedded PostgreSQL is archived, beside the backups.",
    )
    wal_archive_timeout_s: int = Field(
        default=300, ge=10, le=86_400, description="Longest until what was written is archived."
    )

    retention_hour: int = Field(
        default=2, ge=0, le=23, description="Hour (UTC) at which retention runs every day."
    )
    retention_minute: int = Field(
        default=0, ge=0, le=59, description="Minute of that hour at which it runs."
    )
    request_days: int = _days(
        90, "requests with their responses and texts stay in the database; then they are archived"
    )
    usage_days: int = _days(
        365, "every answer's usage is kept; sums by day and month stay for ever"
    )
    usage_hour_days: int = _days(365, "sums of usage by hour are kept")
    tool_audit_days: int = _days(365, "the audit of tools is kept")
    audit_days: int = _days(365, "the audit of sensitive operations is kept")
    error_days: int = _days(90, "errors are kept one by one; then they are summed up")
    error_summary_days: int = _days(365, "sums of errors are kept")
    task_days: int = _days(90, "ended tasks are kept, with their events and attempts")
    webhook_days: int = _days(30, "told or failed webhook messages are kept")
    stream_days: int = _days(30, "timings of streams are kept")
    protocol_days: int = _days(90, "figures of calls to MCP, ACP and LSP servers are kept")
    export_days: int = _days(30, "analytics events are kept once they are exported")
    replay_days: int = _days(90, "figures of replays of conversations are kept")
    snapshot_days: int = _days(
        90, "snapshots of conversations are kept; the newest of each kind stays"
    )
    session_days: int = _days(30, "sessions are kept after they expired")
    debate_days: int = _days(0, "debates are kept after they ended")
    budget_period_days: int = _days(396, "past periods of budgets are kept")
    refusal_days: int = _days(365, "counts of refused calls are kept")
    sync_history_days: int = _days(365, "runs of the models sync are kept")
    backup_run_days: int = _days(400, "results of backups and restore tests are kept")
    retention_run_days: int = _days(365, "what retention did is kept")
    archive_dir: Path | None = Field(
        default=None, description="Directory of archived requests; HELIX_HOME/archive if empty."
    )
    archive_file_requests: int = Field(
        default=50_000, ge=1, le=10_000_000, description="Most requests in one file of the archive."
    )
    archive_restore_days: int = Field(
        default=30,
        ge=1,
        le=3_650,
        description="How many days restored requests stay in the database.",
    )
    partition_months_ahead: int = Field(
        default=3, ge=1, le=60, description="How many months ahead partitions are made."
    )
    partition_lock_ms: int = Field(
        default=200,
        ge=10,
        le=60_000,
        description="Longest a partition being made or dropped waits for a lock, and so makes"
        " others wait; it tries again.",
    )
    partition_tries: int = Field(
        default=30, ge=1, le=10_000, description="How often it tries before the next night's run."
    )
    views_refresh_minutes: int = Field(
        default=1,
        ge=0,
        le=59,
        description="How often it is looked which materialized views are due; 0: never.",
    )
    maintenance_hour: int = Field(
        default=4,
        ge=0,
        le=23,
        description="Hour (UTC) at which the database is vacuumed and analyzed, and bloated indexes"
        " are made anew.",
    )
    reindex_bloat_ratio: float = Field(
        default=0.5,
        ge=0.1,
        le=1,
        description="Share of an index that must be estimated as empty for it to be made anew;"
        " 1: never.",
    )
    reindex_bytes_min: int = Field(
        default=10_000_000, ge=0, description="Smallest index that is ever made anew."
    )

    allow_unsafe_database: bool = Field(
        default=False,
        description="Whether an outside database off loopback may have fsync, full_page_writes or "
        "synchronous_commit off: it then forgets acknowledged calls when its machine loses power.",
    )
    doctor_interval_s: float = Field(
        default=60.0,
        le=86_400,
        description="How often a server looks at itself for its metrics; 0: never.",
    )

    database_url: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="An outside PostgreSQL 15+; without it and DB_* Helix starts its own.",
    )
    db_host: str | None = Field(
        default=None,
        validation_alias=AliasChoices("DB_HOST", "db_host"),
        description="Host of an outside PostgreSQL, when there is no DATABASE_URL.",
    )
    db_port: int = Field(
        default=15432,
        ge=1,
        le=65535,
        validation_alias=AliasChoices("DB_PORT", "db_port"),
        description="Port beside DB_HOST.",
    )
    db_user: str = Field(
        default="helixagent",
        validation_alias=AliasChoices("DB_USER", "db_user"),
        description="Login beside DB_HOST.",
    )
    db_password: SecretStr = Field(
        default=SecretStr(_DEFAULT_PASSWORD),
        validation_alias=AliasChoices("DB_PASSWORD", "db_password"),
        description="Password beside DB_HOST; the default is refused outside loopback.",
    )
    db_name: str = Field(
        default="helixagent_db",
        validation_alias=AliasChoices("DB_NAME", "db_name"),
        description="Database beside DB_HOST.",
    )
    database_pool_size: int = Field(
        default=20,
        ge=1,
        le=500,
        validation_alias=AliasChoices("DATABASE_POOL_SIZE", "database_pool_size"),
        description="Connections the application pool keeps.",
    )
    database_max_overflow: int = Field(
        default=10,
        ge=0,
        le=500,
        validation_alias=AliasChoices("DATABASE_MAX_OVERFLOW", "database_max_overflow"),
        description="Connections it may open beyond those for a while.",
    )
    database_idle_s: float = Field(
        default=600.0,
        ge=1,
        validation_alias=AliasChoices("DATABASE_IDLE_S", "database_idle_s"),
        description="After how long an idle connection is closed.",
    )

    openai_api_key: SecretStr | None = _key("openai", "OPENAI_API_KEY")
    openai_base_url: str = _base_url("openai", "OPENAI_BASE_URL", "https://api.openai.com/v1")
    anthropic_api_key: SecretStr | None = _key("anthropic", "ANTHROPIC_API_KEY")
    anthropic_base_url: str = _base_url(
        "anthropic", "ANTHROPIC_BASE_URL", "https://api.anthropic.com/v1"
    )
    gemini_api_key: SecretStr | None = _key("gemini", "GEMINI_API_KEY", "GOOGLE_API_KEY")
    gemini_base_url: str = _base_url(
        "gemini", "GEMINI_BASE_URL", "https://generativelanguage.googleapis.com/v1beta"
    )
    openrouter_api_key: SecretStr | None = _key("openrouter", "OPENROUTER_API_KEY")
    openrouter_base_url: str = _base_url(
        "openrouter", "OPENROUTER_BASE_URL", "https://openrouter.ai/api/v1"
    )
    mistral_api_key: SecretStr | None = _key("mistral", "MISTRAL_API_KEY")
    mistral_base_url: str = _base_url("mistral", "MISTRAL_BASE_URL", "https://api.mistral.ai/v1")
    groq_api_key: SecretStr | None = _key("groq", "GROQ_API_KEY")
    groq_base_url: str = _base_url("groq", "GROQ_BASE_URL", "https://api.groq.com/openai/v1")
    deepseek_api_key: SecretStr | None = _key("deepseek", "DEEPSEEK_API_KEY")
    deepseek_base_url: str = _base_url(
        "deepseek", "DEEPSEEK_BASE_URL", "https://api.deepseek.com/v1"
    )
    together_api_key: SecretStr | None = _key("together", "TOGETHER_API_KEY")
    together_base_url: str = _base_url(
        "together", "TOGETHER_BASE_URL", "https://api.together.xyz/v1"
    )
    xai_api_key: SecretStr | None = _key("xai", "XAI_API_KEY")
    xai_base_url: str = _base_url("xai", "XAI_BASE_URL", "https://api.x.ai/v1")
    cerebras_api_key: SecretStr | None = _key("cerebras", "CEREBRAS_API_KEY")
    cerebras_base_url: str = _base_url(
        "cerebras", "CEREBRAS_BASE_URL", "https://api.cerebras.ai/v1"
    )
    fireworks_api_key: SecretStr | None = _key("fireworks", "FIREWORKS_API_KEY")
    fireworks_base_url: str = _base_url(
        "fireworks", "FIREWORKS_BASE_URL", "https://api.fireworks.ai/inference/v1"
    )
    ollama_host: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OLLAMA_HOST", "ollama_host"),
        description="Registers the provider `ollama`; without a port 11434.",
    )

    @property
    def home_dir(self) -> Path:
        """HELIX_HOME as an absolute path."""
        return Path(os.path.abspath(self.home.expanduser()))  # noqa: PTH100 - keeps symlinks

    @property
    def backup_path(self) -> Path:
        """HELIX_BACKUP_DIR as an absolute path, or the home's own directory of backups."""
        if self.backup_dir is None:
            return self.home_dir / "backups"
        return Path(os.path.abspath(self.backup_dir.expanduser()))  # noqa: PTH100 - keeps symlinks

    @property
    def archive_path(self) -> Path:
        """HELIX_ARCHIVE_DIR as an absolute path, or the home's own directory of the archive."""
        if self.archive_dir is None:
            return self.home_dir / "archive"
        return Path(os.path.abspath(self.archive_dir.expanduser()))  # noqa: PTH100 - keeps symlinks

    @property
    def webhook_host_list(self) -> tuple[str, ...]:
        """HELIX_WEBHOOK_HOSTS as its parts."""
        return _parts(self.webhook_hosts)

    @property
    def memory_node_host_list(self) -> tuple[str, ...]:
        """HELIX_MEMORY_NODE_HOSTS as its parts."""
        return _parts(self.memory_node_hosts)

    @property
    def worker_queue_list(self) -> tuple[str, ...] | None:
        """HELIX_WORKER_QUEUES as its parts; None is every queue."""
        return _parts(self.worker_queues) or None

    @property
    def debate_code_root_list(self) -> tuple[Path, ...]:
        """HELIX_DEBATE_CODE_ROOTS as absolute paths."""
        roots = (part for part in self.debate_code_roots.split(os.pathsep) if part)
        return tuple(Path(os.path.abspath(Path(r).expanduser())) for r in roots)  # noqa: PTH100

    def external_url(self) -> str | None:
        """The URL of the outside database, or None in the embedded mode.

        Raises Misuse for a URL that is not PostgreSQL's, and for a well-known default password
        anywhere but between a Helix and a database that nobody off this machine reaches.
        """
        if self.database_url is not None and self.database_url.get_secret_value():
            url = normalise_url(self.database_url.get_secret_value())
        elif self.db_host is not None:
            password = quote(self.db_password.get_secret_value(), safe="")
            user, name = quote(self.db_user, safe=""), quote(self.db_name, safe="")
            url = f"postgresql://{user}:{password}@{self.db_host}:{self.db_port}/{name}"
        else:
            return None
        try:
            parts = urlsplit(url)
            host, password_given = parts.hostname or "", parts.password
        except ValueError as exc:
            raise Misuse("DATABASE_URL cannot be read as a URL") from exc
        if password_given in _DEFAULT_PASSWORDS and not self.is_private(url):
            where = host or "a database that others can reach, or a Helix they can"
            raise Misuse(
                f"the default database password is refused for {where}: set a password of your own"
            )
        return url

    def is_private(self, url: str) -> bool:
        """Whether nobody off this machine reaches the database at `url`, or this Helix."""
        parts = urlsplit(url)
        hosts = [parts.hostname or "", *parse_qs(parts.query).get("host", [])]
        return all(map(_is_loopback, [self.host, *hosts]))

    def pool_limits(self) -> dict[Role, PoolLimits]:
        """The bounds of each pool of the server."""
        most = self.database_pool_size + self.database_max_overflow
        bounds = PoolLimits(
            acquire_timeout_s=self.record_timeout_s, idle_s=self.database_idle_s, maximum=most
        )
        return {
            Role.APP: replace(bounds, kept=1),
            Role.RECORDER: replace(bounds, kept=1, maximum=4),
            Role.OPERATOR: replace(bounds, kept=0, maximum=4),
        }

    def connections_max(self) -> int:
        """The most connections one server opens: its pools, and those outside of them.

        Outside are two for recording, six of a worker, one its seat, and four for what comes and
        goes: the doctor, housekeeping, backups.
        """
        pooled = sum(limits.maximum for limits in self.pool_limits().values())
        return pooled + 2 + 1 + 4 + (6 if self.worker_concurrency else 0)


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine only: a loopback address, its name, a socket, or nothing."""
    if host in {"", "localhost"} or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _known_names() -> set[str]:
    names: set[str] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [f"HELIX_{name}"]
        names.update(str(choice).upper() for choice in choices)
    return names


def _secret_names() -> set[str]:
    return {
        str(field.validation_alias.choices[0])
        if isinstance(field.validation_alias, AliasChoices)
        else f"HELIX_{name}".upper()
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }


def load_settings(environ: Mapping[str, str], **given: Any) -> Settings:
    """Read the settings from `environ`; values in `given` (a command's options) win.

    Raises Misuse, in one line, for an unknown HELIX_* name, a value out of range, or a NAME_FILE
    that cannot be read.
    """
    known, secret = _known_names(), _secret_names()
    values: dict[str, str] = {}
    for name, value in environ.items():
        upper = name.upper()
        if upper.endswith("_FILE") and upper.removesuffix("_FILE") in secret:
            values[upper.removesuffix("_FILE")] = _read_secret_file(upper, value)
        elif upper in known:
            values.setdefault(upper, value)
        elif upper.startswith("HELIX_") and upper not in _NOT_SETTINGS:
            raise Misuse(f"unknown setting {name}: `helix settings` lists those that exist")
    chosen = {_field_of(name): value for name, value in values.items() if value != ""}
    chosen.update({name: value for name, value in given.items() if value is not None})
    try:
        return Settings.model_validate(chosen)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise Misuse(f"{_name_of(name)}: {first['msg']}") from exc


def _name_of(field_name: str) -> str:
    field = Settings.model_fields.get(field_name)
    if field is None:
        return field_name
    alias = field.validation_alias
    return (
        str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"HELIX_{field_name}".upper()
    )


def _field_of(environment_name: str) -> str:
    lowered = environment_name.lower()
    stripped = lowered.removeprefix("helix_")
    return stripped if stripped in Settings.model_fields else lowered


def _read_secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise Misuse(f"{name}: cannot read {path}: {exc.strerror}") from exc
