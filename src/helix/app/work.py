"""Background work: every type of task and every schedule, and the worker inside the server."""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from uuid import UUID

from prometheus_client import CollectorRegistry

from helix import conversations, knowledge, ledger, memory, operations, providers, retrieval, tasks
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.db import Connection, Database
from helix.core.instance import load_keyring
from helix.operations.backup import register_backups

__all__ = ["build_worker", "enqueue_compression", "fill_registry", "spend_of", "task_registry"]


def task_registry(db: Database, settings: Settings) -> tasks.TaskRegistry:
    """Return what a worker in a process of its own can do.

    It has no gateway: debates, which call models, are held by servers alone, and conversations are
    condensed by extraction.
    """
    return fill_registry(
        db,
        settings,
        talks=conversations.build(db, settings),
        embedder=memory.choose_embedder(settings),
    )


def fill_registry(
    db: Database,
    settings: Settings,
    *,
    talks: conversations.Conversations,
    embedder: retrieval.Embedder | None,
) -> tasks.TaskRegistry:
    """Return every type of task and every schedule that needs no gateway."""
    registry, clock = tasks.TaskRegistry(), SystemClock()
    tasks.register_jobs(registry, clean=lambda: operations.housekeep(db.url))
    providers.register_jobs(
        registry,
        db=db,
        clock=clock,
        opened=lambda: providers.build(db, settings, keyring=load_keyring(settings)).opened(),
        propose_price=ledger.Proposals(),
    )
    register_backups(registry, db, settings, clock=clock)
    conversations.register_jobs(registry, talks)
    memory.register_jobs(registry, db, embedder)
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


def spend_of(
    books: ledger.Ledger,
) -> Callable[[Connection, Sequence[UUID]], Awaitable[dict[UUID, Decimal]]]:
    """Return what tells the queue what its tasks have cost in model calls."""

    async def spend(conn: Connection, task_ids: Sequence[UUID]) -> dict[UUID, Decimal]:
        return await books.spend_of_tasks(conn, task_ids)

    return spend


async def enqueue_compression(conn: Connection, conversation_id: UUID, user_id: UUID) -> None:
    """Have a conversation condensed in the background."""
    await conversations.enqueue_compression(conn, conversation_id, user_id)
