"""Background work: every type of task and every schedule, and the worker inside the server."""

from uuid import UUID

from prometheus_client import CollectorRegistry

from helix import conversations, knowledge, ledger, memory, providers, retrieval, tasks
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.db import Connection, Database
from helix.core.instance import load_keyring
from helix.operations.audit import register_audit
from helix.operations.backup.jobs import register_backups
from helix.operations.doctor import register_doctor
from helix.operations.erasure import register_erasures
from helix.operations.retention import nightly, register_retention

__all__ = ["build_worker", "enqueue_compression", "fill_registry"]


def fill_registry(
    db: Database,
    settings: Settings,
    *,
    talks: conversations.Conversations,
    embedder: retrieval.Embedder | None,
    extractor: memory.Extractor | None,
) -> tasks.TaskRegistry:
    """Return every type of task and every schedule but those of debates."""
    registry, clock = tasks.TaskRegistry(), SystemClock()
    tasks.register_jobs(
        registry,
        clean=lambda: nightly(db, settings, clock=clock),
        cron=f"{settings.retention_minute} {settings.retention_hour} * * *",
    )
    register_retention(registry, db, settings, clock=clock)
    providers.register_jobs(
        registry,
        db=db,
        clock=clock,
        opened=lambda: providers.build(db, settings, keyring=load_keyring(settings)).opened(),
        propose_price=ledger.Proposals(),
    )
    register_backups(registry, db, settings, clock=clock)
    register_audit(registry, db, settings, clock=clock)
    register_erasures(registry, db, settings)
    register_doctor(registry, db, settings, clock=clock)
    conversations.register_jobs(registry, talks)
    memory.register_jobs(registry, db, embedder, extractor)
    knowledge.register_jobs(
        registry,
        db,
        embedder,
        clock,
        chunking=knowledge.chunking_of(settings),
        chunks_max=settings.knowledge_chunks_max,
    )
    return registry


def build_worker(
    db: Database,
    registry: tasks.TaskRegistry,
    settings: Settings,
    clock: Clock,
    counters: CollectorRegistry,
) -> tasks.Worker | None:
    """Return the worker that runs inside the server, if one is wanted."""
    if not settings.worker_concurrency:
        return None
    options = tasks.WorkerOptions(
        queues=settings.worker_queue_list,
        concurrency=settings.worker_concurrency,
        threads=settings.worker_threads,
        lease_s=settings.worker_lease_s,
        drain_s=settings.drain_timeout_s,
    )
    return tasks.build_worker(
        db, registry, options, clock=clock, metrics=tasks.WorkerMetrics(counters)
    )


async def enqueue_compression(conn: Connection, conversation_id: UUID, user_id: UUID) -> None:
    """Have a conversation condensed in the background."""
    await conversations.enqueue_compression(conn, conversation_id, user_id)
