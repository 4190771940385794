"""A worker: claims tasks, runs their handlers, records how they end. Any number; none leads.

Four loops on four connections of their own, so that none waits for another:

    claim    takes tasks while there is room; sleeps when there are none, until woken or `poll_s`
    finish   records ended attempts, many in one statement
    heart    renews the lease; tells handlers whose attempts were cancelled or taken away; listens
    keep     (keeper.py) timers, dead workers, schedules, webhooks, tidying

A fifth needs no database: it stops attempts that are over their time.

Every loop outlives the database: it reconnects with growing pauses. When the lease cannot be
renewed in time, everything held is given up before anyone else may take it. When PostgreSQL has
no room left, nothing is claimed until a probe has found some: what is done could not be recorded.
"""

import asyncio
import math
import os
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from helix.core.clock import Clock, SystemClock
from helix.core.db import Connection, Database
from helix.core.log import Log
from helix.core.storage import require_room
from helix.tasks.crew import Attempt, Crew, Held
from helix.tasks.link import TROUBLE, Link
from helix.tasks.metrics import WorkerMetrics
from helix.tasks.registry import TaskRegistry
from helix.tasks.resources import Usage, read_usage, sample_between
from helix.tasks.store import QUERIES, claim, finish, one
from helix.tasks.types import ClaimedTask, Outcome, Progress, Status, WorkerId

__all__ = ["Worker", "WorkerOptions"]

CHANNEL = "helix_tasks"
LEASE_LOST = "HX001"  # SQLSTATE of helix_tasks_claim
_HOT_S = 0.05  # after work, how long to look again by oneself …
_HOT_PAUSE_S = 0.005  # … and how often: enqueueing notifies no oftener
_FINISH_MAX = 1_000
_SAMPLED_MAX = 100  # running tasks whose use of the process is written down at a time
_WATCH_S = 0.25  # how often attempts are looked at that may be over their time
_AHEAD_S = 1.0  # after which what was claimed ahead is handed back, for others to run


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Bounds of one worker; seconds. `queues` None takes from all."""

    queues: tuple[str, ...] | None = None
    concurrency: int = 50
    prefetch: int = 0
    threads: int = 8
    lease_s: float = 30.0
    control_s: float = 1.0
    poll_s: float = 1.0
    sample_s: float = 15.0
    drain_s: float = 25.0
    statement_timeout_ms: int = 60_000


class Worker:
    """Runs tasks until `stop`; `run` returns when everything is finished or handed back."""

    def __init__(
        self,
        db: Database,
        registry: TaskRegistry,
        options: WorkerOptions | None = None,
        *,
        log: Log,
        clock: Clock | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self.options = options or WorkerOptions()
        self.registry = registry
        self.db = db
        self.log = log
        self.clock = clock or SystemClock()
        self.metrics = metrics or WorkerMetrics()
        self.metrics.running.set_function(self._count_running)
        self._now_s = self.clock.monotonic_s
        self._types = registry.names()
        self._threads = ThreadPoolExecutor(self.options.threads, thread_name_prefix="helix-task")
        self._stopping = asyncio.Event()
        self._killed = False
        self._crew = Crew(
            db,
            registry,
            concurrency=self.options.concurrency,
            clock=self.clock,
            metrics=self.metrics,
            threads=self._threads,
            may_start=lambda held: self._state is held and not self._stopping.is_set(),
            stopping=lambda: self._killed,
            ended=self._attempt_ended,
        )
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._finish_wake = asyncio.Event()
        self._state: Held | None = None
        self._unsure = False
        self._full = False
        self._worked_at_s = 0.0
        self._announced = False
        self._usage: Usage | None = None
        self.ready = asyncio.Event()
        """Set once the worker is registered and listens."""

    @property
    def worker_id(self) -> WorkerId | None:
        """The id it holds tasks under; a new one after a lost lease."""
        return self._state.worker_id if self._state else None

    def _count_running(self) -> int:
        return len(self._state.running) if self._state is not None else 0

    def link(self, name: str) -> Link:
        """Return a connection of its own for one loop."""
        return Link(
            self.db.url,
            f"helix worker {name}",
            statement_timeout_ms=self.options.statement_timeout_ms,
            batches=name == "finish",
        )

    def _attempt_ended(self) -> None:
        self._room.set()
        self._finish_wake.set()

    def stop(self) -> None:
        """Take no more tasks; finish those that run within `drain_s`, then hand back the rest."""
        self._stopping.set()
        self._wake.set()
        self._room.set()

    async def stopped(self) -> None:
        """Return when `stop` has been called."""
        await self._stopping.wait()

    def wake(self) -> None:
        """Look for tasks now."""
        self._wake.set()

    def spend_caps(self) -> dict[UUID, Decimal]:
        """Return the caps of the running tasks that have one."""
        running = self._state.running.values() if self._state else ()
        caps = {r.claimed.id: r.claimed.spend_cap_usd for r in running}
        return {task_id: cap for task_id, cap in caps.items() if cap is not None}

    async def run(self) -> None:
        """Work until stopped."""
        links = [self.link(name) for name in ("heart", "claim", "finish")]
        loops: list[asyncio.Task[Any]] = [
            asyncio.create_task(self.forever(link, step, name))
            for link, step, name in zip(
                links,
                (self._beat, self._claim, self._flush),
                ("heart", "claim", "finish"),
                strict=True,
            )
        ]
        loops.append(asyncio.create_task(self._watch()))
        try:
            stopping = asyncio.create_task(self._stopping.wait())
            loops.append(stopping)
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in loops[:-1]:
                if loop.done():
                    loop.result()  # a loop ends by itself only through a bug: crash loudly
            await self._drain()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._leave(links[2])
            for link in links:
                await link.close()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def forever(
        self, link: Link, step: Callable[[Connection], Awaitable[None]], name: str
    ) -> None:
        """Repeat `step`; after trouble with the database reconnect and go on."""
        pause_s = 0.05
        while True:
            try:
                await step(await link.get())
                pause_s = 0.05
            except TROUBLE as exc:
                link.drop()
                # A connection that is closed under a cancelled step raises its own error instead.
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from exc
                self._full = self._full or isinstance(exc, asyncpg.DiskFullError)
                self.log.warning("worker_database_trouble", loop=name, error=str(exc)[:200])
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - spreads load
                pause_s = min(2.0, pause_s * 2)

    # ---- heart ----------------------------------------------------------------------------------

    async def _beat(self, conn: Connection) -> None:
        """Hold the lease for as long as the connection lives."""
        await conn.add_listener(CHANNEL, self._on_notify)
        renew_at_s = 0.0
        while True:
            state = self._state
            if state is None:
                await self._register(conn)
                renew_at_s = self._now_s() + self.options.lease_s / 6
            elif self._now_s() >= renew_at_s:
                asked_at_s = self._now_s()
                renewed = await QUERIES.row(
                    conn, "renew_lease", id=state.worker_id, lease_s=self.options.lease_s
                )
                if renewed is None:
                    self._lose_everything()
                    continue
                state.slow_by = renewed["now"] - self.clock.now()
                state.lease_until_s = asked_at_s + self.options.lease_s
                renew_at_s = asked_at_s + self.options.lease_s / 6
            if self._state is not None:
                await self._report(conn, self._state)
                await self._sample(conn, self._state)
            await asyncio.sleep(self.options.control_s)

    async def _watch(self) -> None:
        """Stop attempts that are over their time, whether the database is there or not."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._state is None:
                continue
            now_s = self._now_s()
            for running in self._state.running.values():
                if now_s >= running.until_s:
                    running.until_s = math.inf
                    running.ctx.overdue = True
                    running.hand.cancel()

    def _on_notify(self, *_: object) -> None:
        self._wake.set()

    async def _register(self, conn: Connection) -> None:
        host = socket.gethostname()[:200]
        worker_id = WorkerId(f"{host}:{os.getpid()}:{uuid4().hex[:12]}")
        asked_at_s = self._now_s()
        pairs = [(d.queue, d.name) for d in self.registry]
        await QUERIES.run(
            conn, "ensure_lanes", queues=[p[0] for p in pairs], types=[p[1] for p in pairs]
        )
        for definition in self.registry:
            rate_max, rate_period_s = definition.rate or (None, None)
            if definition.concurrency_max is not None or rate_max is not None:
                await QUERIES.run(
                    conn,
                    "set_limits",
                    name=definition.name,
                    concurrency_max=definition.concurrency_max,
                    rate_max=rate_max,
                    rate_period_s=rate_period_s,
                )
        registered = await one(
            conn,
            "register_worker",
            id=worker_id,
            host=host,
            pid=os.getpid(),
            queues=list(self.options.queues or ()),
            concurrency=self.options.concurrency,
            lease_s=self.options.lease_s,
        )
        self._state = Held(
            worker_id,
            asked_at_s + self.options.lease_s,
            slow_by=registered["now"] - self.clock.now(),
        )
        self.ready.set()
        self._wake.set()
        self._room.set()
        self.log.info("worker_registered", worker_id=worker_id)

    def _lose_everything(self) -> None:
        """The lease has run out: others may hold the tasks by now, so nothing more is written."""
        state, self._state = self._state, None
        if state is None:
            return
        self.ready.clear()
        self.log.warning("worker_lease_lost", worker_id=state.worker_id, held=len(state.running))
        self.metrics.leases_lost.inc()
        for running in state.running.values():
            running.ctx.lose()
            running.hand.cancel()

    async def _report(self, conn: Connection, state: Held) -> None:
        """Write progress, mark what is stuck, and tell handlers whose attempts are over."""
        if state.ahead and self._now_s() - state.ahead[0][0] > _AHEAD_S:
            self._hand_back_ahead(state)
        if not state.running:
            return
        said: list[tuple[Attempt, Progress]] = [
            (r, r.ctx.unsaid) for r in state.running.values() if r.ctx.unsaid is not None
        ]
        if said:
            for running, _ in said:
                running.ctx.unsaid = None
                running.stuck = False
            await QUERIES.run(
                conn,
                "report_progress",
                worker_id=state.worker_id,
                ids=[r.claimed.id for r, _ in said],
                tokens=[r.claimed.fencing_token for r, _ in said],
                percents=[p.percent for _, p in said],
                messages=[p.message for _, p in said],
            )
        now_s = self._now_s()
        silent = [
            r
            for r in state.running.values()
            if not r.stuck
            and r.definition.stuck_after_s is not None
            and now_s - r.ctx.moved_at_s >= r.definition.stuck_after_s
        ]
        if silent:
            for running in silent:
                running.stuck = True
            await self._by_ids(conn, "mark_stuck", state, silent)
        for row in await self._by_ids(
            conn, "attempts_not_held", state, list(state.running.values())
        ):
            running_now = state.running.get(row["id"])
            if running_now is not None and not running_now.ctx.done_in_transaction:
                running_now.ctx.lose()
                running_now.hand.cancel()

    async def _sample(self, conn: Connection, state: Held) -> None:
        """Write down, every `sample_s`, what the process uses while tasks have run that long."""
        last, now_s = self._usage, self._now_s()
        if last is not None and now_s - last.at_s < self.options.sample_s:
            return
        long = [r for r in state.running.values() if now_s - r.began_s >= self.options.sample_s]
        if not long and last is not None and not state.running:
            return
        usage = self._usage = await asyncio.to_thread(read_usage, now_s)
        for running in state.running.values():
            running.first_usage = running.first_usage or usage
        if last is None or not long:
            return
        chosen = sorted(long, key=lambda r: r.began_s)[:_SAMPLED_MAX]
        samples = [sample_between(r.first_usage or usage, last, usage) for r in chosen]
        await QUERIES.run(
            conn,
            "insert_samples",
            worker_id=state.worker_id,
            ids=[r.claimed.id for r in chosen],
            cpu_percents=[s.cpu_percent for s in samples],
            rss=[s.rss_bytes for s in samples],
            memory_percents=[s.memory_percent for s in samples],
            reads=[s.read_bytes for s in samples],
            writes=[s.write_bytes for s in samples],
            fds=[s.open_fds for s in samples],
            threads=[s.threads for s in samples],
        )

    def _hand_back_ahead(self, state: Held) -> None:
        """Give back what was taken ahead: the attempts before it take longer than those did."""
        state.ended.extend(_released(task) for _, task in state.ahead)
        state.ahead.clear()
        self._finish_wake.set()

    async def _by_ids(
        self, conn: Connection, statement: str, state: Held, which: Sequence[Attempt]
    ) -> list[asyncpg.Record]:
        return await QUERIES.rows(
            conn,
            statement,
            worker_id=state.worker_id,
            ids=[r.claimed.id for r in which],
            tokens=[r.claimed.fencing_token for r in which],
        )

    # ---- claim ----------------------------------------------------------------------------------

    async def _claim(self, conn: Connection) -> None:
        await self._wait_for_room()
        state = self._state
        if state is None or self._stopping.is_set():
            await self._sleep(0.05)
            return
        if self._now_s() >= state.lease_until_s:
            self._lose_everything()
            return
        if self._full:
            await require_room(conn)
            self._full = False
        if self._unsure:
            await self._hand_back_unknown(conn, state)
        room = state.room(self.options.concurrency, self._now_s())
        if state.waiting and room > 0:
            await self._begin(conn, state, room)
            room = state.room(self.options.concurrency, self._now_s())
        most = room + self.options.prefetch - len(state.waiting)
        if most <= 0:
            return
        suspects = 1 - sum(1 for task in state.tasks() if task.lost_count)
        started_s = self._now_s()
        try:
            claimed = await claim(
                conn,
                worker_id=state.worker_id,
                queues=self.options.queues,
                types=self._types,
                max_count=most,
                begin_count=room,
                suspects=max(0, suspects),
            )
        except TROUBLE as exc:
            if getattr(exc, "sqlstate", None) == LEASE_LOST:
                self._lose_everything()
                return
            self._unsure = True
            raise
        self.metrics.claim_seconds.observe(self._now_s() - started_s)
        if not claimed:
            await self._rest(conn)
            return
        self._worked_at_s = self._now_s()
        self._announced = False
        if self._state is not state:
            return  # the lease ran out meanwhile; whoever reclaims gives these to others
        state.waiting.extend(task for task in claimed if not task.begun)
        self._crew.start(state, (task for task in claimed if task.begun))

    async def _wait_for_room(self) -> None:
        """Wait until tasks can be taken; give others a moment to end, so that claims are larger."""
        enough = max(1, self.options.concurrency // 4)
        waited = False
        while (state := self._state) is not None and not self._stopping.is_set():
            room = state.room(self.options.concurrency, self._now_s())
            if len(state.ended) >= max(2 * self.options.concurrency, _FINISH_MAX):
                room = 0
            if room >= enough or (room > 0 and waited):
                return
            self._room.clear()
            if room > 0:
                waited = True
                await asyncio.sleep(0.002)
            else:
                waited = False
                await self._room.wait()

    async def _rest(self, conn: Connection) -> None:
        """Nothing is ready: look again soon, then sleep until woken."""
        if self._now_s() - self._worked_at_s < _HOT_S:
            await self._sleep(_HOT_PAUSE_S)
        elif not self._announced:
            # From here on enqueueing notifies; what came in just before is found by the next claim.
            await QUERIES.run(conn, "announce_sleep", sleep_ms=int(self.options.poll_s * 1200))
            self._announced = True
        else:
            await self._sleep(self.options.poll_s)
            self._announced = False

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _begin(self, conn: Connection, state: Held, room: int) -> None:
        chosen = [state.waiting.popleft() for _ in range(min(room, len(state.waiting)))]
        rows = await QUERIES.rows(
            conn,
            "begin_tasks",
            worker_id=state.worker_id,
            ids=[t.id for t in chosen],
            tokens=[t.fencing_token for t in chosen],
        )
        begun = {row["id"] for row in rows}
        self._crew.start(state, (task for task in chosen if task.id in begun))

    async def _hand_back_unknown(self, conn: Connection, state: Held) -> None:
        """Give back what a claim took whose answer was lost with its connection."""
        rows = await QUERIES.rows(conn, "attempts_held", worker_id=state.worker_id)
        known = {(task.id, task.fencing_token) for task in state.tasks()}
        known |= {(o.id, o.fencing_token) for o in state.ended}
        unknown = [row for row in rows if (row["id"], row["fencing_token"]) not in known]
        if unknown:
            outcomes = [
                Outcome(
                    row["id"],
                    row["fencing_token"],
                    row["attempt"],
                    Status.PENDING,
                    error="never reached its worker",
                    counts=False,
                )
                for row in unknown
            ]
            await finish(conn, worker_id=state.worker_id, outcomes=outcomes)
        self._unsure = False

    # ---- finish ---------------------------------------------------------------------------------

    async def _flush(self, conn: Connection) -> None:
        state = self._state
        if state is None or not state.ended:
            self._finish_wake.clear()
            if state is None or not state.ended:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self._finish_wake.wait()
            return
        batch = list(islice(state.ended, _FINISH_MAX))
        try:
            held = await finish(conn, worker_id=state.worker_id, outcomes=batch)
        except (asyncpg.DataError, asyncpg.CheckViolationError):
            held = await self._finish_singly(conn, state, batch)
        # Only now are they forgotten: a batch whose answer was lost is sent again, harmlessly.
        for _ in batch:
            state.ended.popleft()
        self.metrics.refused.inc(len(batch) - len(held))
        for (task_type, status), count in state.counts.items():
            self.metrics.ended(task_type, status, count)
        state.counts.clear()
        self._room.set()

    async def _finish_singly(
        self, conn: Connection, state: Held, batch: Sequence[Outcome]
    ) -> set[UUID]:
        """Record one by one, so that one that cannot be stored does not hold up the rest."""
        held: set[UUID] = set()
        for outcome in batch:
            try:
                held |= await finish(conn, worker_id=state.worker_id, outcomes=[outcome])
            except (asyncpg.DataError, asyncpg.CheckViolationError) as exc:
                self.log.warning("task_outcome_refused", error=str(exc)[:200], task_id=outcome.id)
                refused = Outcome(
                    outcome.id,
                    outcome.fencing_token,
                    outcome.attempt,
                    Status.FAILED,
                    error=f"its outcome could not be stored: {type(exc).__name__}",
                )
                with suppress(asyncpg.CheckViolationError):
                    held |= await finish(conn, worker_id=state.worker_id, outcomes=[refused])
        return held

    # ---- leave ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let running handlers end, then cancel the rest, and wait until all is recorded."""
        deadline_s = self._now_s() + self.options.drain_s
        while (state := self._state) is not None and (state.running or state.ended):
            if not self._killed and self._now_s() >= deadline_s:
                self._killed = True
                for running in list(state.running.values()):
                    running.hand.cancel()
            if self._now_s() >= deadline_s + 5:
                break
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await self._room.wait()

    async def _leave(self, link: Link) -> None:
        """Strike the worker off; whatever it still held goes back to the queue."""
        state, self._state = self._state, None
        if state is None:
            return
        back = [_released(task) for task in state.tasks()]
        try:
            async with asyncio.timeout(5):
                conn = await link.get()
                if back:
                    await finish(conn, worker_id=state.worker_id, outcomes=back)
                await QUERIES.run(conn, "delete_worker", id=state.worker_id)
        except TROUBLE as exc:
            self.log.warning("worker_left_behind", worker_id=state.worker_id, error=str(exc)[:200])


def _released(task: ClaimedTask) -> Outcome:
    return Outcome(task.id, task.fencing_token, task.attempt, Status.PENDING, counts=False)
