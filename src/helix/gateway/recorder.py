"""The recorder: many calls in one commit, and no call told to be recorded before it is.

Two lanes, one for admissions and one for settlements, each with a connection of its own. A lane's
batch is all that queued up while its last commit ran, so a lone call waits for nobody and a
thousand share a commit. A batch is one prepared statement, one implicit transaction, one fsync.

- A row that cannot be written does not take its batch down: the batch is halved until the bad
  row stands alone, and only its call is told.
- When a connection breaks during a commit, nobody knows whether it happened. The batch is written
  again; both statements are harmless when repeated.
- An admission waits record_timeout_s at most. What was given up, but may have been committed, is
  closed by a settlement of its own. A settlement is kept until it is written.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeAlias, TypeVar

import asyncpg

from helix.core.clock import Clock
from helix.core.db import OUTAGES, Connection, Queries, Role, connect
from helix.core.log import get_log
from helix.core.sql import NamedStatement
from helix.gateway.errors import CallInterrupted, NotRecorded
from helix.gateway.metrics import Metrics
from helix.gateway.types import Admission, Settlement

__all__ = ["Recorder", "Unstorable"]

_log = get_log(__name__)
Row = TypeVar("Row", Admission, Settlement)

TICK_S = 0.1
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.5
SETTLE_WAIT_S = 30.0
_STATEMENT_TIMEOUT = "15s"
_UNSTORABLE: tuple[type[BaseException], ...] = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    OverflowError,
    TypeError,
)
_OUTAGES: tuple[type[BaseException], ...] = (
    *OUTAGES,
    asyncpg.PostgresError,
    asyncpg.InternalClientError,
    EOFError,
)
# Batches are small and found by primary key: without these a plan made when a table was empty
# may read it whole. synchronous_commit is what makes a commit a promise, whatever the default is.
SESSION = (
    "SET synchronous_commit = on",
    f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'",
    "SET enable_seqscan = off",
    "SET enable_mergejoin = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET jit = off",
)


class Unstorable(Exception):
    """PostgreSQL does not take this row; the cause says why."""


@dataclass(slots=True, eq=False)
class _Job(Generic[Row]):
    row: Row
    done: "asyncio.Future[None]"
    give_up_at_s: float
    keep: bool
    tried: bool = field(default=False)


_Missing: TypeAlias = Callable[[Connection, Sequence[_Job[Row]]], Awaitable[set[int]]]


class _Lane(Generic[Row]):
    """A queue, a connection and a statement. `on_given_up` is told of rows that may be written."""

    def __init__(
        self,
        name: str,
        url: str,
        statement: NamedStatement,
        *,
        clock: Clock,
        metrics: Metrics,
        batch_max: int,
        wait_s: float,
        bounds: bool,
        connect_s: float,
        prepare: Callable[[Connection], Awaitable[None]],
        missing: "_Missing[Row] | None",
        on_given_up: Callable[[Row], None],
    ) -> None:
        self._name = name
        self._url = url
        self._sql = statement.sql
        self._clock = clock
        self._metrics = metrics
        self._batch_max = batch_max
        self._wait_s = wait_s
        self._bounds = bounds
        self._failures = 0
        self._connect_s = connect_s
        self._prepare = prepare
        self._missing: _Missing[Row] | None = missing
        self._on_given_up: Callable[[Row], None] = on_given_up
        self.empty = asyncio.Event()
        self.empty.set()
        self._queue: deque[_Job[Row]] = deque()
        self._writing: list[_Job[Row]] = []
        self._wake = asyncio.Event()
        self._conn: Any = None
        self._statement: Any = None
        self._wrote_at_s = 0.0
        self._down_since_s: float | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> bool:
        """Whether the last thing tried with the database worked."""
        conn = self._conn
        return conn is not None and not conn.is_closed() and self._down_since_s is None

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return len(self._queue) + len(self._writing)

    def start(self) -> None:
        """Connect and write whatever comes."""
        self._tasks = [
            asyncio.create_task(self._write_forever(), name=f"helix-{self._name}"),
            asyncio.create_task(self._watch_forever(), name=f"helix-{self._name}-watch"),
        ]

    async def stop(self) -> None:
        """Stop at once; what is not written yet is dropped. Drain first."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None

    def put(self, row: Row, *, keep: bool) -> "asyncio.Future[None]":
        """Queue a row; the future is done when its commit is.

        With `keep` it is written however long that takes, else dropped when it waited too long.
        """
        now_s = self._clock.monotonic_s()
        done = asyncio.get_running_loop().create_future()
        down_s = 0.0 if self._down_since_s is None else now_s - self._down_since_s
        if not keep and down_s >= self._wait_s:
            done.set_exception(NotRecorded())
            return done
        self._queue.append(_Job(row, done, now_s + self._wait_s, keep))
        self.empty.clear()
        self._wake.set()
        return done

    async def _write_forever(self) -> None:
        while True:
            await self._connected()
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            jobs = self._take()
            if jobs:
                self._writing = jobs
                self._wrote_at_s = self._clock.monotonic_s()
                try:
                    await self._write(jobs)
                finally:
                    self._writing = []
            if not self._queue:
                self.empty.set()

    def _take(self) -> list[_Job[Row]]:
        jobs: list[_Job[Row]] = []
        queue = self._queue
        while queue and len(jobs) < self._batch_max:
            job = queue.popleft()
            if job.keep or job.tried or not job.done.done():
                jobs.append(job)
        return jobs

    async def _write(self, jobs: list[_Job[Row]]) -> None:
        """Write a batch; on return each job is done, told its fault, or queued again."""
        try:
            rows = [job.row for job in jobs]
            limits = (min(row[0] for row in rows), max(row[0] for row in rows))
            columns = zip(*rows, strict=True)
            returned = await self._statement.fetch(*columns, *(limits if self._bounds else ()))
        except _UNSTORABLE as exc:
            if len(jobs) == 1:
                self._refuse(jobs[0], exc)
                return
            middle = len(jobs) // 2
            await self._write(jobs[:middle])
            await self._write(jobs[middle:])
        except _OUTAGES as exc:
            self._again(jobs, exc)
        else:
            try:
                lost = await self._lost(jobs, returned)
            except _OUTAGES as exc:
                self._again(jobs, exc)
                return
            self._failures, self._down_since_s = 0, None
            self._metrics.batch(self._name, len(jobs))
            self._finish(jobs, lost)

    async def _lost(self, jobs: list[_Job[Row]], returned: list[Any]) -> set[int]:
        if self._missing is None or len(returned) == len(jobs):
            return set()
        written = {row[0] for row in returned}
        doubtful = [job for job in jobs if job.row[0] not in written]
        return await self._missing(self._conn, doubtful)

    def _finish(self, jobs: list[_Job[Row]], lost: set[int]) -> None:
        for job in jobs:
            if id(job) in lost:
                if not job.done.done():
                    job.done.set_exception(CallInterrupted())
            elif not job.done.done():
                job.done.set_result(None)
            else:
                self._on_given_up(job.row)

    def _refuse(self, job: _Job[Row], exc: BaseException) -> None:
        _log.warning("row_unstorable", lane=self._name, reason=type(exc).__name__)
        if not job.done.done():
            refusal = Unstorable()
            refusal.__cause__ = exc
            job.done.set_exception(refusal)

    def _again(self, jobs: list[_Job[Row]], exc: BaseException) -> None:
        """Queue the batch again, in front; what was committed all the same does no harm."""
        self._failures += 1
        if self._failures == 1:
            reason = type(exc).__name__
            _log.warning("record_failed", lane=self._name, rows=len(jobs), reason=reason)
        if self._down_since_s is None:
            self._down_since_s = self._clock.monotonic_s()
        for job in reversed(jobs):
            job.tried = True
            self._queue.appendleft(job)
        if self._conn is not None:
            self._conn.terminate()
            self._conn = None

    async def _connected(self) -> None:
        """Return when there is a connection; tries for as long as it takes.

        The first try after a failure comes at once, the next ones more and more slowly.
        """
        if self._failures > 1:
            await asyncio.sleep(min(RETRY_FIRST_S * 2 ** min(self._failures, 8), RETRY_MOST_S))
        wait_s = RETRY_FIRST_S
        while self._conn is None or self._conn.is_closed():
            try:
                await self._connect()
            except _OUTAGES as exc:
                if self._down_since_s is None:
                    self._down_since_s = self._clock.monotonic_s()
                    _log.warning("recorder_down", lane=self._name, reason=type(exc).__name__)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MOST_S)
            else:
                if self._down_since_s is not None:
                    _log.info("recorder_up", lane=self._name)
                self._down_since_s = None

    async def _connect(self) -> None:
        self._conn = None
        conn = await connect(
            self._url,
            role=Role.RECORDER,
            application_name=f"helix recorder {self._name}",
            timeout_s=self._connect_s,
        )
        try:
            async with asyncio.timeout(self._connect_s):
                await conn.execute("; ".join(SESSION))
                await self._prepare(conn)
                self._statement = await conn.prepare(self._sql)
        except BaseException:
            conn.terminate()
            raise
        self._conn = conn

    async def _watch_forever(self) -> None:
        """Tell those who waited too long; cut a commit that does not come back; reconnect."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._clock.monotonic_s()
            for job in [*self._writing, *self._queue]:
                if job.give_up_at_s <= now_s and not job.done.done():
                    job.done.set_exception(NotRecorded())
            stuck = self._writing and now_s - self._wrote_at_s > self._wait_s
            if stuck and self._conn is not None:
                _log.warning("commit_cut", lane=self._name, rows=len(self._writing))
                self._conn.terminate()
            if self._conn is not None and self._conn.is_closed():
                self._wake.set()


class Recorder:
    """Records calls. `start` it with the server; `drain`, then `stop`."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        metrics: Metrics,
        lease: int,
        batch_max: int,
        wait_s: float,
    ) -> None:
        self._clock = clock
        self._queries = Queries("helix.gateway")
        self._lease = lease
        self._admissions: _Lane[Admission] = _Lane(
            "admit",
            url,
            self._queries["admit_calls"],
            clock=clock,
            metrics=metrics,
            batch_max=batch_max,
            wait_s=wait_s,
            bounds=False,
            connect_s=wait_s,
            prepare=self._hold_lease,
            missing=None,
            on_given_up=self._close_given_up,
        )
        self._settlements: _Lane[Settlement] = _Lane(
            "settle",
            url,
            self._queries["settle_calls"],
            clock=clock,
            metrics=metrics,
            batch_max=batch_max,
            wait_s=max(wait_s, SETTLE_WAIT_S),
            bounds=True,
            connect_s=wait_s,
            prepare=self._hold_lease,
            missing=self._not_ours,
            on_given_up=_ignore,
        )
        self._given_up: Callable[[Admission], Settlement] | None = None

    @property
    def connected(self) -> bool:
        """Whether calls can be recorded now, as far as is known."""
        return self._admissions.connected and self._settlements.connected

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return self._admissions.waiting + self._settlements.waiting

    def start(self, given_up: Callable[[Admission], Settlement]) -> None:
        """Begin; `given_up` makes the settlement of an admission that nobody waits for."""
        self._given_up = given_up
        self._admissions.start()
        self._settlements.start()

    async def drain(self, timeout_s: float) -> int:
        """Wait until everything is written, or so long; return how many rows are not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._admissions.empty.wait()
                await self._settlements.empty.wait()
        return self.waiting

    async def stop(self) -> None:
        """Stop at once."""
        await self._admissions.stop()
        await self._settlements.stop()

    def admit(self, row: Admission) -> "asyncio.Future[None]":
        """Record a request; the future is done when it is committed.

        It fails with NotRecorded (database away), or Unstorable.
        """
        return self._admissions.put(row, keep=False)

    def settle(self, row: Settlement, *, keep: bool = True) -> "asyncio.Future[None]":
        """Record the end of a request; with `keep` also when nobody waits for it any more.

        It fails with NotRecorded (not yet: it is tried on), CallInterrupted, or Unstorable.
        """
        return self._settlements.put(row, keep=keep)

    def _close_given_up(self, row: Admission) -> None:
        if self._given_up is not None:
            self._settlements.put(self._given_up(row), keep=True).add_done_callback(_look_at)

    async def _hold_lease(self, conn: Connection) -> None:
        await self._queries.row(conn, "hold_lease", lease=self._lease)

    async def _not_ours(self, conn: Connection, jobs: Sequence[_Job[Settlement]]) -> set[int]:
        """Return, of settlements that closed nothing, those that somebody else closed.

        The others are ours: written by an earlier try whose commit was not heard of.
        """
        ids = [job.row.request_id for job in jobs]
        rows = await self._queries.rows(conn, "settled_calls", ids=ids)
        ours: dict[Any, datetime] = {row["id"]: row["completed_at"] for row in rows}
        return {
            id(job)
            for job in jobs
            if not (job.tried and ours.get(job.row.request_id) == job.row.completed_at)
        }


def _ignore(_: Settlement) -> None:
    return


def _look_at(done: "asyncio.Future[None]") -> None:
    if not done.cancelled():
        done.exception()  # nobody waits: a given-up admission that never was has nothing to close
