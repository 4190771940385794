"""The recorder: many calls in one commit, and no call told to be recorded before it is.

Two lanes, one for admissions and one for settlements, each with a connection of its own. A lane's
batch is all that queued up while its last commit ran, so a lone call waits for nobody and a
thousand share a commit. A batch is one prepared statement, one implicit transaction, one fsync.

Nearly every batch is plain: nothing in it claims, was written before, or chooses. Those go as one
JSON document to a statement that does only what they need (ADR 0058); the rest go as arrays.

- A row that cannot be written does not take its batch down: the batch is halved until the bad
  row stands alone, and only its call is told.
- When a connection breaks during a commit, nobody knows whether it happened. The batch is written
  again; both statements are harmless when repeated.
- When PostgreSQL has no room left, calls are refused at once, and a lane goes on only when a probe
  has found room: what fits into an old page proves nothing (core/storage.py).
- An admission waits record_timeout_s at most. What was given up, but may have been committed, is
  closed by a settlement of its own. A settlement is kept until it is written.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from helix.core.clock import Clock
from helix.core.db import OUTAGES, Connection, Queries, Role, connect
from helix.core.errors import StorageFull
from helix.core.log import get_log
from helix.core.sql import NamedStatement
from helix.core.storage import require_room
from helix.gateway.errors import CallInterrupted, NotRecorded
from helix.gateway.metrics import Metrics
from helix.gateway.settle import chosen
from helix.gateway.spool import Spool
from helix.gateway.types import Admission, Decision, Settlement, Verdict

__all__ = ["Recorder", "Unstorable"]

_log = get_log(__name__)
Row = TypeVar("Row", Admission, Settlement)
_Encoder = msgspec.json.Encoder()
_ADMITTED = Verdict(Decision.ADMITTED)

TICK_S = 0.1
RETRY_FIRST_S = 0.05
RETRY_MOST_S = 0.25
SETTLE_WAIT_S = 30.0
KEPT_WAIT_S = 6.0
SPOOL_AFTER_S = 1.0
REPLAY_ROWS = 200
FETCH_BACK_S = 60.0
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


# Columns that most rows leave empty. A batch in which all do sends NULL for the whole array, which
# unnest() fills up to the others' length: encoding one NULL a row costs as much as a value.
SPARSE = frozenset(
    {
        "chunk_count",
        "client_request_id",
        "confidence",
        "ensemble_config",
        "error",
        "error_code",
        "first_token_ms",
        "gap_max_ms",
        "gap_p50_ms",
        "gap_p95_ms",
        "memory",
        "parent_request_id",
        "prompt_id",
        "session_id",
        "task_id",
    }
)


class Unstorable(Exception):
    """PostgreSQL does not take this row; the cause says why."""


@dataclass(slots=True, eq=False)
class _Job(Generic[Row]):
    row: Row
    done: "asyncio.Future[Any]"
    give_up_at_s: float
    keep: bool
    tried: bool = field(default=False)


_Results: TypeAlias = Callable[[Connection, Sequence[_Job[Row]], list[Any]], Awaitable[list[Any]]]
"""Reads what the statement returned: for each job its result, or the exception to fail with."""


class _Lane(Generic[Row]):
    """A queue, a connection and a statement. `on_given_up` is told of rows that may be written.

    `plain` is the statement for batches that `is_plain` says yes to. `apart` says of a row that it
    needs what stands before it in the batch to be written first.
    """

    def __init__(
        self,
        name: str,
        url: str,
        statement: NamedStatement,
        *,
        plain: NamedStatement,
        is_plain: "Callable[[Sequence[_Job[Row]]], bool]",
        clock: Clock,
        metrics: Metrics,
        batch_max: int,
        wait_s: float,
        connect_s: float,
        prepare: Callable[[Connection], Awaitable[None]],
        results: "_Results[Row]",
        on_given_up: Callable[[Row, Any], None],
        on_connected: Callable[[Connection], Awaitable[None]] | None = None,
        keep_elsewhere: Callable[[Sequence[Row]], Awaitable[bool]] | None = None,
        apart: "Callable[[Row, Sequence[_Job[Row]]], bool] | None" = None,
    ) -> None:
        self._name = name
        self._url = url
        self._sql = statement.sql
        self._params = statement.params
        self._plain_sql = plain.sql
        self._plain_params = plain.params
        self._is_plain: Callable[[Sequence[_Job[Row]]], bool] = is_plain
        self._clock = clock
        self._metrics = metrics
        self._batch_max = batch_max
        self._wait_s = wait_s
        self._failures = 0
        self._connect_s = connect_s
        self._prepare = prepare
        self._results: _Results[Row] = results
        self._on_given_up: Callable[[Row, Any], None] = on_given_up
        self._on_connected = on_connected
        self._keep_elsewhere: Callable[[Sequence[Row]], Awaitable[bool]] | None = keep_elsewhere
        self._apart: Callable[[Row, Sequence[_Job[Row]]], bool] = apart or _together
        self._moving: list[_Job[Row]] = []
        self._elsewhere = False
        self._fetching = False
        self.empty = asyncio.Event()
        self.empty.set()
        self._queue: deque[_Job[Row]] = deque()
        self._writing: list[_Job[Row]] = []
        self._wake = asyncio.Event()
        self._conn: Any = None
        self._statement: Any = None
        self._plain_statement: Any = None
        self._wrote_at_s = 0.0
        self._down_since_s: float | None = None
        self.full = False
        """Whether PostgreSQL said that it has no room, and no probe has found any since."""
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> bool:
        """Whether the last thing tried with the database worked."""
        conn = self._conn
        return conn is not None and not conn.is_closed() and self._down_since_s is None

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return len(self._queue) + len(self._writing) + len(self._moving)

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

    def put(self, row: Row, *, keep: bool) -> "asyncio.Future[Any]":
        """Queue a row; the future is done when its commit is.

        With `keep` it is written however long that takes, else dropped when it waited too long.
        """
        now_s = self._clock.monotonic_s()
        done = asyncio.get_running_loop().create_future()
        down_s = 0.0 if self._down_since_s is None else now_s - self._down_since_s
        if not keep and (self.full or down_s >= self._wait_s):
            done.set_exception(self._refusal())
            return done
        self._queue.append(_Job(row, done, now_s + self._wait_s, keep))
        self.empty.clear()
        self._wake.set()
        return done

    def _refusal(self) -> StorageFull | NotRecorded:
        return StorageFull() if self.full else NotRecorded()

    async def _write_forever(self) -> None:
        while True:
            await self._connected()
            if self._elsewhere:
                try:
                    await self._fetch_back(self._conn)
                except _OUTAGES as exc:
                    self._again([], exc)
                continue
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
            self._note_empty()

    def _note_empty(self) -> None:
        if not self.waiting:
            self.empty.set()

    def _take(self) -> list[_Job[Row]]:
        jobs: list[_Job[Row]] = []
        queue = self._queue
        while queue and len(jobs) < self._batch_max:
            if jobs and self._apart(queue[0].row, jobs):
                break
            job = queue.popleft()
            if job.keep or job.tried or not job.done.done():
                jobs.append(job)
        return jobs

    async def _write(self, jobs: list[_Job[Row]]) -> None:
        """Write a batch; on return each job is done, told its fault, or queued again."""
        try:
            if self._is_plain(jobs):
                rows = [job.row for job in jobs]
                arguments = document_of(self._plain_params, rows)
                returned = await self._plain_statement.fetch(*arguments)
            else:
                returned = await self._statement.fetch(*self._arguments(jobs))
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
                results = await self._results(self._conn, jobs, returned)
            except _OUTAGES as exc:
                self._again(jobs, exc)
                return
            self._failures, self._down_since_s = 0, None
            began_s = self._wrote_at_s
            self._metrics.batch(
                self._name,
                len(jobs),
                waited_s=max(0.0, began_s - (jobs[0].give_up_at_s - self._wait_s)),
                commit_s=self._clock.monotonic_s() - began_s,
            )
            self._finish(jobs, results)

    def _arguments(self, jobs: list[_Job[Row]]) -> list[object]:
        retried = any(job.tried for job in jobs)
        return arguments_of(self._params, [job.row for job in jobs], retried=retried)

    def _finish(self, jobs: list[_Job[Row]], results: list[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            if job.done.done():
                self._on_given_up(job.row, result)
            elif isinstance(result, BaseException):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)

    def _refuse(self, job: _Job[Row], exc: BaseException) -> None:
        _log.warning("row_unstorable", lane=self._name, reason=type(exc).__name__)
        if not job.done.done():
            refusal = Unstorable()
            refusal.__cause__ = exc
            job.done.set_exception(refusal)

    def _again(self, jobs: list[_Job[Row]], exc: BaseException) -> None:
        """Queue the batch again, in front; what was committed all the same does no harm."""
        self._failures += 1
        self.full = self.full or isinstance(exc, asyncpg.DiskFullError)
        if self._failures == 1:
            reason = type(exc).__name__
            state = getattr(exc, "sqlstate", None)  # tells an outage from a mistake of ours
            _log.warning(
                "record_failed", lane=self._name, rows=len(jobs), reason=reason, sqlstate=state
            )
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
                self.full = self.full or isinstance(exc, asyncpg.DiskFullError)
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
                if self.full:
                    await require_room(conn)
                await self._prepare(conn)
                self._statement = await conn.prepare(self._sql)
                self._plain_statement = await conn.prepare(self._plain_sql)
                # The driver ends preparing with no Sync: until the next command the tables stay
                # locked against changes of schema, and an idle lane sends none for hours.
                await conn.execute("SELECT 1")
            await self._fetch_back(conn)
        except BaseException:
            conn.terminate()
            raise
        self.full = False
        self._conn = conn

    async def _fetch_back(self, conn: Connection) -> None:
        """Write what was put elsewhere, before anything newer."""
        if self._on_connected is not None:
            self._fetching = True
            try:
                async with asyncio.timeout(FETCH_BACK_S):
                    await self._on_connected(conn)
                self._elsewhere = False
            finally:
                self._fetching = False

    async def _watch_forever(self) -> None:
        """Tell those who waited too long; cut a commit that does not come back; reconnect."""
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._clock.monotonic_s()
            for job in [*self._writing, *self._queue]:
                if job.give_up_at_s <= now_s and not job.done.done():
                    job.done.set_exception(self._refusal())
            await self._keep_what_waits(now_s)
            stuck = self._writing and now_s - self._wrote_at_s > self._connect_s
            if stuck and self._conn is not None:
                _log.warning("commit_cut", lane=self._name, rows=len(self._writing))
                self._conn.terminate()
            if self._conn is not None and self._conn.is_closed():
                self._wake.set()

    async def _keep_what_waits(self, now_s: float) -> None:
        """While the database is away, put what must not be lost elsewhere; then it is recorded."""
        down_s = 0.0 if self._down_since_s is None else now_s - self._down_since_s
        if self._keep_elsewhere is None or down_s < SPOOL_AFTER_S or self._fetching:
            return
        self._moving = [job for job in self._queue if job.keep]
        if not self._moving:
            return
        self._queue = deque(job for job in self._queue if not job.keep)
        kept = await self._keep_elsewhere([job.row for job in self._moving])
        self._elsewhere = self._elsewhere or kept
        for job in self._moving:
            if not kept:
                self._queue.append(job)
            elif not job.done.done():
                job.done.set_result(None)
        self._moving = []
        self._wake.set()
        self._note_empty()


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
        spool: Spool | None = None,
    ) -> None:
        self._clock = clock
        self._spool = spool
        self._queries = Queries("helix.gateway")
        self._lease = lease
        self._admissions: _Lane[Admission] = _Lane(
            "admit",
            url,
            self._queries["admit_calls"],
            plain=self._queries["admit_new_calls"],
            is_plain=_is_new,
            clock=clock,
            metrics=metrics,
            batch_max=batch_max,
            wait_s=wait_s,
            connect_s=wait_s,
            prepare=self._hold_lease,
            results=_verdicts,
            on_given_up=self._close_given_up,
        )
        self._settlements: _Lane[Settlement] = _Lane(
            "settle",
            url,
            self._queries["settle_calls"],
            plain=self._queries["settle_final_calls"],
            is_plain=_is_final,
            clock=clock,
            metrics=metrics,
            batch_max=batch_max,
            wait_s=max(wait_s, SETTLE_WAIT_S if spool is None else KEPT_WAIT_S),
            connect_s=wait_s,
            prepare=self._hold_lease,
            results=self._settled,
            on_given_up=_ignore,
            on_connected=None if spool is None else self._replay,
            keep_elsewhere=None if spool is None else spool.append,
            apart=_needs_earlier,
        )
        self._given_up: Callable[[Admission], Settlement] | None = None

    @property
    def connected(self) -> bool:
        """Whether calls can be recorded now, as far as is known."""
        return self._admissions.connected and self._settlements.connected

    @property
    def storage_full(self) -> bool:
        """Whether PostgreSQL has no room left, as far as is known."""
        return self._admissions.full or self._settlements.full

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
        if self._spool is not None:
            self._spool.close()

    def admit(self, row: Admission) -> "asyncio.Future[Verdict]":
        """Record a request if it may be made; the verdict is there when that is committed.

        It fails with NotRecorded (database away), or Unstorable.
        """
        return self._admissions.put(row, keep=False)

    def settle(self, row: Settlement, *, keep: bool = True) -> "asyncio.Future[None]":
        """Record the end of a request; with `keep` also when nobody waits for it any more.

        It fails with NotRecorded (not yet: it is tried on), CallInterrupted, or Unstorable.
        """
        if not row.final:
            row = msgspec.structs.replace(row, final=True)
        return self._settlements.put(row, keep=keep)

    def respond(self, row: Settlement) -> "asyncio.Future[None]":
        """Record, and charge, an attempt or a candidate that does not end its request.

        Give it an `attempt` of its own; it is not the selected answer until it is chosen. Fails as
        `settle` does.
        """
        row = msgspec.structs.replace(row, final=False, selected=False)
        return self._settlements.put(row, keep=True)

    def choose(
        self,
        request: Admission,
        response_id: UUID,
        *,
        now: datetime,
        confidence: Decimal | None = None,
    ) -> "asyncio.Future[None]":
        """End a request as completed; its answer is the candidate `response_id`, on record already.

        Fails as `settle` does; CallInterrupted also when the candidate is not of that request.
        """
        row = chosen(request, response_id, now=now, confidence=confidence)
        return self._settlements.put(row, keep=True)

    def _close_given_up(self, row: Admission, verdict: Verdict) -> None:
        if self._given_up is not None and verdict.admitted:
            self._settlements.put(self._given_up(row), keep=True).add_done_callback(_look_at)

    async def _hold_lease(self, conn: Connection) -> None:
        await self._queries.row(conn, "hold_lease", lease=self._lease)

    async def _replay(self, conn: Connection) -> None:
        """Write what was spooled, by this process or by one of the home that is gone."""
        if self._spool is None:
            return
        async with self._spool.lock:
            for path in await asyncio.to_thread(self._spool.files):
                rows = await asyncio.to_thread(self._spool.read, path)
                for batch in _replay_batches(rows):
                    await self._replay_batch(conn, batch)
                self._spool.forget(path)
                _log.warning("spool_replayed", file=path.name, rows=len(rows))

    async def _replay_batch(self, conn: Connection, batch: list[Settlement]) -> None:
        statement = self._queries["settle_calls"]
        try:
            async with conn.transaction():
                ids = [row.request_id for row in batch]
                await self._queries.run(conn, "reopen_calls", request_ids=ids)
                await conn.fetch(statement.sql, *arguments_of(statement.params, batch))
        except _UNSTORABLE as exc:
            if len(batch) > 1:
                for row in batch:
                    await self._replay_batch(conn, [row])
            elif self._spool is not None:
                reason, text_id = type(exc).__name__, str(batch[0].request_id)
                _log.error("spooled_row_unstorable", request_id=text_id, reason=reason)
                self._spool.set_aside(batch[0])

    async def _settled(
        self, conn: Connection, jobs: Sequence[_Job[Settlement]], returned: list[Any]
    ) -> list[Any]:
        """Tell of settlements that wrote nothing whether they were written before.

        One that is on record as it was asked for is ours: its commit was not heard of. Any other
        request was closed by somebody else.
        """
        if returned and "unwritten" in returned[0]:
            unwritten = set(returned[0]["unwritten"] or ())
            written = {job.row.id for job in jobs if job.row.id not in unwritten}
        else:
            written = {row["response_id"] for row in returned}
        doubtful = [job.row for job in jobs if job.row.id not in written]
        if not doubtful:
            return [None] * len(jobs)
        rows = await self._queries.rows(
            conn,
            "settled_calls",
            request_ids=[row.request_id for row in doubtful],
            response_ids=[row.id for row in doubtful],
        )
        on_record = {row["response_id"]: row for row in rows}
        return [
            None
            if job.row.id in written or (job.tried and _is_ours(job.row, on_record.get(job.row.id)))
            else CallInterrupted()
            for job in jobs
        ]


def arguments_of(
    params: Sequence[str], rows: Sequence[Admission | Settlement], *, retried: bool = False
) -> list[object]:
    """Return a batch as the arguments of its statement, in the order of the parameters."""
    values: dict[str, object] = _bounds_of(rows)
    values["retried"] = retried
    for name in rows[0].__struct_fields__:
        column = [getattr(row, name) for row in rows]
        empty = name in SPARSE and column.count(None) == len(column)
        values[name] = None if empty else column
    return [values[name] for name in params]


def document_of(
    params: Sequence[str], rows: Sequence[Admission] | Sequence[Settlement]
) -> list[object]:
    """Return a batch as the arguments of its plain statement; raises ValueError for no text.

    An array would be looked into value by value by the driver: a document costs it a fifth.
    """
    values = _bounds_of(rows)
    values["rows"] = _Encoder.encode(rows).decode()
    return [values[name] for name in params]


def _bounds_of(rows: Sequence[Admission | Settlement]) -> dict[str, object]:
    ids = [row.id if isinstance(row, Admission) else row.request_id for row in rows]
    return {"lowest": min(ids), "highest": max(ids)}


def _replay_batches(rows: Sequence[Settlement]) -> list[list[Settlement]]:
    """Cut rows into batches; a choice comes after the batch of its candidates."""
    batches: list[list[Settlement]] = []
    for row in rows:
        if not batches or row.chosen or len(batches[-1]) >= REPLAY_ROWS:
            batches.append([])
        batches[-1].append(row)
    return batches


def _is_ours(row: Settlement, found: Any) -> bool:
    """Say whether an answer on record is what this settlement asked for."""
    if found is None:
        return False
    return not row.chosen or bool(found["selected"] and found["completed_at"] == row.completed_at)


def _ignore(_row: Settlement, _result: Any) -> None:
    return


def _together(_row: Any, _jobs: Sequence[Any]) -> bool:
    return False


def _is_new(jobs: Sequence[_Job[Admission]]) -> bool:
    """Say whether no row claims a key, or may have been written before."""
    return not any(job.tried or job.row.idempotency_key is not None for job in jobs)


def _is_final(jobs: Sequence[_Job[Settlement]]) -> bool:
    """Say whether every row ends its request with an answer of its own."""
    return not any(job.row.chosen or not job.row.final for job in jobs)


def _needs_earlier(row: Settlement, jobs: Sequence[_Job[Settlement]]) -> bool:
    """Say whether a row chooses a candidate that may stand in this batch.

    A statement does not see the rows it inserts itself: chosen in the same one, it is not there.
    """
    return row.chosen and any(job.row.request_id == row.request_id for job in jobs)


async def _verdicts(
    _conn: Connection, jobs: Sequence[_Job[Admission]], returned: list[Any]
) -> list[Any]:
    """Return the verdict of each admission, in their order. A row without a request is for all."""
    if len(returned) == 1 and returned[0]["request_id"] is None:
        return [_ADMITTED] * len(jobs)
    told = {
        row["request_id"]: Verdict(
            Decision(row["decision"]),
            row["limit_name"],
            row["limit_value"],
            row["limit_left"],
            row["retry_after_s"],
            row["other_request_id"],
        )
        for row in returned
    }
    return [told[job.row.id] for job in jobs]


def _look_at(done: "asyncio.Future[None]") -> None:
    if not done.cancelled():
        done.exception()  # nobody waits: a given-up admission that never was has nothing to close
