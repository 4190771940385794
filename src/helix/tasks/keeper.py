"""What the queue needs done now and then; every worker does it, none leads.

Each step is safe to run by many at once: it takes rows that others have not locked, in one
transaction with what follows from them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from helix.core.db import Connection
from helix.tasks import service
from helix.tasks.errors import BadSchedule
from helix.tasks.policy import next_tick, webhook_delay_s
from helix.tasks.registry import TaskRegistry
from helix.tasks.store import QUERIES, one
from helix.tasks.types import NewTask, Priority, TaskId
from helix.tasks.webhooks import Delivered, WebhookSender
from helix.tasks.worker import Worker

__all__ = [
    "Keeper",
    "SpendReader",
    "deliver_due",
    "fire_schedules",
    "pause_overspent",
    "sync_schedules",
]

SpendReader = Callable[[Connection, Sequence[UUID]], Awaitable[dict[UUID, Decimal]]]
"""Returns what each of these tasks has cost in model calls so far, in dollars."""

_RIPEN_MAX = 1_000
_TRIM_MAX = 20_000
_SCHEDULES_MAX = 100
_DELIVERIES_MAX = 20
_COUNT_S = 15.0
_COUNT_SHARE = 100  # counting a long queue takes time: it waits a hundred times as long after


async def sync_schedules(conn: Connection, registry: TaskRegistry, *, now: datetime) -> None:
    """Write the registry's schedules down; those already there keep their place in time."""
    for schedule in registry.schedules():
        await QUERIES.run(
            conn,
            "upsert_schedule",
            name=schedule.name,
            task_type=schedule.task_type,
            queue=schedule.queue,
            priority=schedule.priority.value,
            payload=schedule.payload,
            cron=schedule.cron,
            time_zone=schedule.time_zone,
            enabled=schedule.enabled,
            next_run_at=next_tick(schedule.cron, schedule.time_zone, now),
        )


async def fire_schedules(conn: Connection, *, now: datetime) -> list[TaskId]:
    """Enqueue one task for every schedule whose tick has come by `now`, in one transaction.

    `now` is the database's time, so that workers with wrong clocks agree. The row is locked and
    moved on with the task, so a tick is enqueued once; ticks that were missed are made up for by
    this one run. A schedule whose line cannot be read is disabled.
    """
    made: list[TaskId] = []
    for row in await QUERIES.rows(conn, "due_schedules", now=now, max_count=_SCHEDULES_MAX):
        try:
            next_run_at = next_tick(row["cron"], row["time_zone"], row["now"])
        except BadSchedule:  # written by hand: one bad line must not stop the others
            await QUERIES.run(conn, "disable_schedule", id=row["id"])
            continue
        task = NewTask(
            task_type=row["task_type"],
            payload=row["payload"],
            queue=row["queue"],
            priority=Priority(row["priority"]),
            user_id=row["user_id"],
            correlation_id=f"schedule:{row['name']}",
        )
        enqueued = await service.enqueue(conn, task)
        await QUERIES.run(
            conn,
            "move_schedule",
            id=row["id"],
            ran_at=row["next_run_at"],
            next_run_at=next_run_at,
            task_id=enqueued.id,
        )
        made.append(enqueued.id)
    return made


async def pause_overspent(
    conn: Connection, caps: dict[UUID, Decimal], spend: SpendReader
) -> list[UUID]:
    """Pause those of the given running tasks whose model calls have cost their cap or more."""
    paused: list[UUID] = []
    for task_id, cost in (await spend(conn, list(caps))).items():
        if cost >= caps[task_id]:
            reason = f"its model calls cost {cost:f} $, its cap is {caps[task_id]:f} $"
            if await QUERIES.row(conn, "pause_task", id=task_id, reason=reason):
                paused.append(task_id)
    return paused


class Keeper:
    """Runs the steps beside a worker until cancelled."""

    def __init__(
        self,
        worker: Worker,
        *,
        spend: SpendReader | None = None,
        webhooks: WebhookSender | None = None,
    ) -> None:
        self._worker = worker
        self._spend = spend
        self._webhooks = webhooks
        self._rounds = 0
        self._count_at_s = 0.0

    async def run(self) -> None:
        """Keep the queue in order until cancelled."""
        links = [self._worker.link("keep"), self._worker.link("trim")]
        loops = [self._worker.forever(links[0], self._round, "keep"),
                 self._worker.forever(links[1], self._tidy, "trim")]  # fmt: skip
        if self._webhooks is not None:
            sender = self._webhooks
            links.append(self._worker.link("webhooks"))
            loops.append(
                self._worker.forever(links[2], lambda c: deliver_due(c, sender), "webhooks")
            )
        try:
            await asyncio.gather(*loops)
        finally:
            for link in links:
                await link.close()
            if self._webhooks is not None:
                await self._webhooks.close()

    async def _round(self, conn: Connection) -> None:
        """Timers at their moment or twice a second; the rest once in a while."""
        async with conn.transaction():
            row = await one(conn, "ripen_timers", max_count=_RIPEN_MAX)
        if row["taken"]:
            self._worker.wake()
        if self._rounds == 0:
            async with conn.transaction():
                await sync_schedules(conn, self._worker.registry, now=row["now"])
        if self._rounds % 2 == 0:
            async with conn.transaction():
                if await fire_schedules(conn, now=row["now"]):
                    self._worker.wake()
        if self._rounds % 4 == 0:
            async with conn.transaction():
                reclaimed = await QUERIES.row(conn, "reclaim_tasks")
            if reclaimed is not None and reclaimed["taken"]:
                self._worker.log.warning("tasks_reclaimed", tasks=reclaimed["taken"])
                self._worker.wake()
        if self._rounds % 6 == 0 and self._spend is not None:
            caps = self._worker.spend_caps()
            if caps:
                async with conn.transaction():
                    await pause_overspent(conn, caps, self._spend)
        self._rounds += 1
        wait_s = 0.5
        if row["taken"] >= _RIPEN_MAX:
            wait_s = 0.0
        elif row["next_due_at"] is not None:
            wait_s = (row["next_due_at"] - row["now"]).total_seconds()
        await asyncio.sleep(min(0.5, max(0.005, wait_s)))

    async def _tidy(self, conn: Connection) -> None:
        async with conn.transaction():
            row = await QUERIES.row(conn, "trim_queue", max_count=_TRIM_MAX)
            await QUERIES.run(conn, "expire_unique_keys")
        await self._count(conn)
        busy = row is not None and row["deleted"] >= _TRIM_MAX
        await asyncio.sleep(1.0 if busy else 10.0)

    async def _count(self, conn: Connection) -> None:
        """Tell the metrics what waits."""
        started_s = self._worker.clock.monotonic_s()
        if started_s < self._count_at_s:
            return
        rows = await QUERIES.rows(conn, "queue_stats")
        now = await one(conn, "database_time")
        self._worker.metrics.queue(rows, now=now["now"])
        took_s = self._worker.clock.monotonic_s() - started_s
        self._count_at_s = started_s + max(_COUNT_S, _COUNT_SHARE * took_s)


async def deliver_due(conn: Connection, sender: WebhookSender) -> None:
    """Send the webhook messages that are due and record how it went; then rest for a while.

    Not for use inside a transaction: none is held while messages are on their way.
    """
    async with conn.transaction():
        messages = await QUERIES.rows(conn, "take_deliveries", max_count=_DELIVERIES_MAX)
    results = await asyncio.gather(*(sender.send(m) for m in messages))
    for message, result in zip(messages, results, strict=True):
        await settle(conn, message_id=message["id"], attempts=message["attempts"], result=result)
    await asyncio.sleep(0.0 if len(messages) == _DELIVERIES_MAX else 1.0)


async def settle(conn: Connection, *, message_id: UUID, attempts: int, result: Delivered) -> None:
    """Record how delivery number `attempts` of a message went, and when to try again."""
    delay_s = webhook_delay_s(attempts)
    status = "delivered" if result.ok else "failed" if delay_s is None else "pending"
    await QUERIES.run(
        conn,
        "settle_delivery",
        id=message_id,
        attempts=attempts,
        status=status,
        response_code=result.code,
        error=result.error,
        delay_s=delay_s or 0.0,
    )
