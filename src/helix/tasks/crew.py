"""The hands of a worker: they run what it has claimed, and say how it ended.

What a worker holds under one id is `Held`; a `Crew` starts the attempts of it, in as few asyncio
tasks as they need.
"""

import asyncio
import contextvars
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from helix.core.clock import Clock
from helix.core.db import Database
from helix.tasks.attempt import EXACT_TIMEOUT_S_MAX, TaskContext, failure, run_attempt
from helix.tasks.metrics import WorkerMetrics
from helix.tasks.registry import TaskDefinition, TaskRegistry
from helix.tasks.resources import Usage
from helix.tasks.types import ClaimedTask, Outcome, Status, WorkerId

__all__ = ["Attempt", "Crew", "Held"]

_SHORT_S = 0.02  # attempts this short are claimed ahead …
_AHEAD_WORTH_S = 0.015  # … as many as end in this time …
_AHEAD_MAX = 300  # … but no more: a worker that dies takes them all for suspects
_TURN_S = 0.004  # how long one hand goes on without letting the loop do anything else


@dataclass(slots=True)
class Attempt:
    """A handler at work."""

    claimed: ClaimedTask
    definition: TaskDefinition
    ctx: TaskContext
    hand: "asyncio.Task[None]"
    """What to cancel; it may run other attempts afterwards."""
    began_s: float
    until_s: float
    """When it is over its time; infinite when it has none, or a timer of its own."""
    stuck: bool = False
    first_usage: Usage | None = None


@dataclass(slots=True)
class Held:
    """What a worker holds under its present id, and how fast it gets on."""

    worker_id: WorkerId
    lease_until_s: float
    slow_by: timedelta
    """How much the database's clock is ahead of this machine's, when last heard."""
    running: dict[UUID, Attempt] = field(default_factory=dict)
    ended: "deque[Outcome]" = field(default_factory=deque)
    waiting: "deque[ClaimedTask]" = field(default_factory=deque)
    """Picked up and, as the record says, not begun."""
    ahead: "deque[tuple[float, ClaimedTask]]" = field(default_factory=deque)
    """Begun, as far as the record goes, and started as soon as there is a hand; with the moment
    it came."""
    standby: "asyncio.Task[None] | None" = None
    """The hand that has not taken anything yet."""
    attempt_s: float = _SHORT_S
    """How long attempts take, a moving average."""
    done: int = 0
    """Attempts that ended since `pace_since_s`."""
    pace_since_s: float = 0.0
    pace: float = 0.0
    """Attempts that ended in a second, when last looked at."""
    counts: "Counter[tuple[str, Status]]" = field(default_factory=Counter)
    """Ended attempts by type and status that the metrics have not been told of."""

    def tasks(self) -> Iterable[ClaimedTask]:
        """Yield all that is held and has not ended."""
        yield from (a.claimed for a in self.running.values())
        yield from (task for _, task in self.ahead)
        yield from self.waiting

    def room(self, concurrency: int, now_s: float) -> int:
        """Return how many more may be begun.

        While attempts are short that is more than run at once, by what ends in _AHEAD_WORTH_S: so
        the next ones are here when these have ended, and claims are large. Nothing is taken while
        half of that is still there.
        """
        if self.attempt_s >= _SHORT_S:
            return max(0, concurrency - len(self.running) - len(self.ahead))
        if now_s - self.pace_since_s >= _AHEAD_WORTH_S:
            self.pace = self.done / (now_s - self.pace_since_s)
            self.done, self.pace_since_s = 0, now_s
        stock = max(concurrency, min(_AHEAD_MAX, int(self.pace * _AHEAD_WORTH_S)))
        if len(self.ahead) > stock // 2:
            return 0
        return max(0, concurrency + stock - len(self.running) - len(self.ahead))


class Crew:
    """Runs attempts, at most `concurrency` at once.

    A hand is an asyncio task that takes one claimed task after another. Before it calls a handler
    it sees to it that another hand stands by, who goes on with the rest if the handler waits. So
    handlers that wait have a hand each, and a thousand that never wait are run by one: making an
    asyncio task for each cost a third of what a worker does for an attempt. A hand that was
    cancelled, or whose handler left a context variable behind, takes nothing more.

    `ended` is called after every attempt; `may_start` says whether others may begin.
    """

    def __init__(
        self,
        db: Database,
        registry: TaskRegistry,
        *,
        concurrency: int,
        clock: Clock,
        metrics: WorkerMetrics,
        threads: Executor,
        may_start: Callable[[Held], bool],
        stopping: Callable[[], bool],
        ended: Callable[[], None],
    ) -> None:
        self._db = db
        self._registry = registry
        self._most = concurrency
        self._clock = clock
        self._now_s = clock.monotonic_s
        self._metrics = metrics
        self._threads = threads
        self._may_start = may_start
        self._stopping = stopping
        self._ended = ended

    def start(self, held: Held, tasks: Iterable[ClaimedTask]) -> None:
        """Begin these as soon as there is room, in this order, after those that came before."""
        now_s = self._now_s()
        held.ahead.extend((now_s, task) for task in tasks)
        self._stand_by(held)

    def _stand_by(self, held: Held) -> "asyncio.Task[None] | None":
        """Have a hand ready for what can begin and has not; return it."""
        if held.standby is None and held.ahead and len(held.running) < self._most:
            held.standby = asyncio.create_task(self._hand(held))
        return held.standby

    async def _hand(self, held: Held) -> None:
        me, held.standby = held.standby, None
        if me is None:
            raise RuntimeError("a hand was started by nobody")
        context = contextvars.copy_context()
        turn_s = self._now_s()
        while held.ahead and len(held.running) < self._most and self._may_start(held):
            attempt = self._begin(held, held.ahead.popleft()[1], me)
            beside = self._stand_by(held)
            ended_s = await self._run(held, attempt)
            if me.cancelling() or contextvars.copy_context() != context:
                break
            if held.standby is not beside:  # it has begun: the handler waited
                turn_s = ended_s
            elif ended_s - turn_s > _TURN_S:
                break
        if self._may_start(held):
            self._stand_by(held)

    def _begin(self, held: Held, task: ClaimedTask, hand: "asyncio.Task[None]") -> Attempt:
        definition = self._registry.get(task.task_type)
        ctx = TaskContext(task, worker_id=held.worker_id, db=self._db, now=self._now_s)
        began_s, until_s = ctx.moved_at_s, math.inf
        if definition.timeout_s is not None and definition.timeout_s > EXACT_TIMEOUT_S_MAX:
            until_s = began_s + definition.timeout_s
        attempt = Attempt(task, definition, ctx, hand, began_s, until_s)
        held.running[task.id] = attempt
        return attempt

    async def _run(self, held: Held, attempt: Attempt) -> float:
        """Run one attempt, add how it ended to `held.ended`, and return when."""
        task, definition, ctx = attempt.claimed, attempt.definition, attempt.ctx
        try:
            if task.deadline is not None and task.deadline <= self._clock.now() + held.slow_by:
                outcome: Outcome | None = failure(
                    task, definition, "its deadline passed before it began", final=True
                )
            else:
                outcome = await run_attempt(
                    task, definition, ctx, threads=self._threads, stopping=self._stopping
                )
            ended_s = self._now_s()
            took_s = ended_s - attempt.began_s
            self._metrics.took(definition.name, took_s)
            held.attempt_s += (took_s - held.attempt_s) / 16
            held.done += 1
            if outcome is not None:
                held.ended.append(outcome)
                held.counts[definition.name, outcome.status] += 1
            return ended_s
        finally:
            held.running.pop(task.id, None)
            self._ended()
