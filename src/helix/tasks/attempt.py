"""One attempt at a task: what its handler is given, and how its end becomes an outcome."""

import asyncio
import contextvars
import random
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection, Database, Role
from helix.core.errors import HelixError
from helix.tasks.errors import BadPayload, LeaseLost
from helix.tasks.policy import retry_delay_s
from helix.tasks.registry import TaskDefinition
from helix.tasks.store import QUERIES, finish
from helix.tasks.types import ClaimedTask, Outcome, Progress, Status, TaskId, WorkerId

__all__ = ["EXACT_TIMEOUT_S_MAX", "GiveUp", "RetryLater", "TaskContext", "run_attempt"]

RESULT_BYTES_MAX = 1_000_000
HOLD_IDLE_MS_MAX = 10_000
_ERROR_CHARS_MAX = 2_000
_STACK_CHARS_MAX = 16_000
EXACT_TIMEOUT_S_MAX = 5.0
"""Up to here an attempt has a timer of its own; above, the worker looks who is over the time."""


class GiveUp(Exception):
    """A handler raises it when trying again is of no use: the task fails at once."""


class RetryLater(Exception):
    """A handler raises it to be run again after `delay_s` seconds; it is not counted as a failure.

    For waits that are nobody's fault, such as a provider's Retry-After.
    """

    def __init__(self, reason: str, *, delay_s: float) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class TaskContext:
    """What a handler may know and do.

    `fencing_token` grows with every attempt of every worker at this task: hand it to systems
    outside the database so that they can refuse a worker that comes late.
    """

    def __init__(
        self, claimed: ClaimedTask, *, worker_id: WorkerId, db: Database, now: Callable[[], float]
    ) -> None:
        self.db = db
        self._claimed = claimed
        self._worker_id = worker_id
        self._now = now
        self._gone = False  # one flag, set once: safe to read from a thread
        self.done_in_transaction = False
        self.overdue = False
        self.moved_at_s = now()
        self.unsaid: Progress | None = None

    @property
    def task_id(self) -> TaskId:
        """The task's id."""
        return self._claimed.id

    @property
    def task_type(self) -> str:
        """The type it was enqueued as."""
        return self._claimed.task_type

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._claimed.attempt

    @property
    def fencing_token(self) -> int:
        """Grows with every attempt of every worker."""
        return self._claimed.fencing_token

    @property
    def user_id(self) -> UUID | None:
        """Whose task it is; None: of Helix itself."""
        return self._claimed.user_id

    @property
    def correlation_id(self) -> str | None:
        """The undertaking it belongs to."""
        return self._claimed.correlation_id

    @property
    def parent_task_id(self) -> UUID | None:
        """The task it is a part of."""
        return self._claimed.parent_task_id

    @property
    def lost(self) -> bool:
        """Whether the attempt was cancelled, paused or taken away; a threaded handler should look.

        Nothing an attempt that is lost still does through `transaction` is committed.
        """
        return self._gone

    def lose(self) -> None:
        """Tell the handler that its attempt is over; called by the worker."""
        self._gone = True

    def progress(self, percent: float, message: str | None = None) -> None:
        """Say how far the task is (0 to 100); recorded within a second, and shown as an event.

        Also a sign of life: a task that gives none for its type's `stuck_after_s` is marked stuck.
        May be called from a thread, as often as one likes.
        """
        self.moved_at_s = self._now()
        text = message.replace("\x00", "")[:_ERROR_CHARS_MAX] if message is not None else None
        self.unsaid = Progress(min(100.0, max(0.0, percent)), text)

    def checkpoint(self) -> Any:
        """Return what an earlier attempt saved last, or None."""
        saved = self._claimed.checkpoint
        return None if saved is None else msgspec.json.decode(saved)

    async def save_checkpoint(self, value: Any) -> None:
        """Keep `value` for the next attempt. Raises LeaseLost."""
        async with self.db.transaction(Role.OPERATOR) as conn:
            row = await QUERIES.row(
                conn,
                "save_checkpoint",
                id=self.task_id,
                token=self.fencing_token,
                worker_id=self._worker_id,
                checkpoint=value,
            )
            if row is None:
                raise self._lease_lost()
        self.moved_at_s = self._now()

    @asynccontextmanager
    async def transaction(self, role: Role | None = None) -> AsyncIterator[Connection]:
        """One unit of work that commits only while this attempt still holds the task.

        It acts as the task's tenant, or as the operator for a task of Helix itself. Raises
        LeaseLost. Keep it short: the task cannot be cancelled or taken over meanwhile, and the
        database ends a transaction that is idle for HOLD_IDLE_MS_MAX.
        """
        chosen = role or (Role.OPERATOR if self.user_id is None else Role.APP)
        async with self.db.transaction(chosen, tenant=self.user_id) as conn:
            if await self._hold(conn) is None:
                raise self._lease_lost()
            yield conn

    async def _hold(self, conn: Connection) -> Any:
        return await QUERIES.row(
            conn,
            "hold_attempt",
            idle_ms=str(HOLD_IDLE_MS_MAX),
            id=self.task_id,
            token=self.fencing_token,
            worker_id=self._worker_id,
        )

    async def complete(self, conn: Connection, result: Any = None) -> None:
        """Complete the task in the transaction that holds its effects: both commit, or neither.

        `conn` is a transaction of the operator's role (`transaction(Role.OPERATOR)`); afterwards
        the handler's return value is not looked at. Raises LeaseLost.
        """
        encoded = encode_result(result)
        outcome = Outcome(
            self.task_id, self.fencing_token, self.attempt, Status.COMPLETED, result=encoded
        )
        if not await finish(conn, worker_id=self._worker_id, outcomes=[outcome]):
            raise self._lease_lost()
        self.done_in_transaction = True

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(f"attempt {self.attempt} at task {self.task_id} is over")


def encode_result(result: Any) -> str | None:
    """Return a handler's result as JSON that PostgreSQL can keep; raises BadPayload."""
    if result is None:
        return None
    encoded = msgspec.json.encode(result, enc_hook=str)
    if len(encoded) > RESULT_BYTES_MAX:
        raise BadPayload(f"the result has {len(encoded)} bytes; at most {RESULT_BYTES_MAX}")
    text = encoded.decode()
    if "\\u0000" in text:
        raise BadPayload("the result holds U+0000, which PostgreSQL cannot keep")
    return text


async def run_attempt(
    claimed: ClaimedTask,
    definition: TaskDefinition,
    ctx: TaskContext,
    *,
    threads: Executor,
    stopping: Callable[[], bool],
) -> Outcome | None:
    """Run the handler to its end and return what is to be recorded, or None if nothing is.

    Nothing is recorded for an attempt that was lost or that completed in its own transaction.
    An attempt that may take longer than EXACT_TIMEOUT_S_MAX has no timer: the worker sets
    `ctx.overdue` and cancels it. This is one of the three edges where any exception is caught: a
    handler's becomes an outcome.
    """
    limit: asyncio.Timeout | None = None
    try:
        payload = definition.decode(claimed.payload)
        if definition.threaded:
            call = contextvars.copy_context().run
            handling = asyncio.get_running_loop().run_in_executor(
                threads, call, definition.handler, ctx, payload
            )
        else:
            handling = definition.handler(ctx, payload)
        if definition.timeout_s is None or definition.timeout_s > EXACT_TIMEOUT_S_MAX:
            result = await handling
        else:
            async with asyncio.timeout(definition.timeout_s) as limit:
                result = await handling
        if ctx.done_in_transaction:
            return None
        return Outcome(
            claimed.id,
            claimed.fencing_token,
            claimed.attempt,
            Status.COMPLETED,
            result=encode_result(result),
        )
    except asyncio.CancelledError:
        lost = ctx.lost or ctx.done_in_transaction
        back = stopping() and not ctx.lost
        ctx.lose()
        if lost:
            return None
        if ctx.overdue:
            return failure(claimed, definition, _too_long(definition))
        if back:
            return _again(claimed, "handed back by a stopping worker", delay_s=0.0)
        return failure(claimed, definition, "the handler cancelled itself")
    except TimeoutError as exc:
        if limit is None or not limit.expired():
            return failure(claimed, definition, exc)
        ctx.lose()
        return failure(claimed, definition, _too_long(definition))
    except LeaseLost:
        return None
    except RetryLater as exc:
        return _again(claimed, str(exc), delay_s=max(0.0, exc.delay_s))
    except (GiveUp, BadPayload) as exc:
        return failure(claimed, definition, exc, final=True)
    except Exception as exc:  # noqa: BLE001 - the worker's edge: whatever a handler raises
        return failure(claimed, definition, exc)


def _too_long(definition: TaskDefinition) -> str:
    return f"took longer than {definition.timeout_s:g} s"


def _again(claimed: ClaimedTask, reason: str, *, delay_s: float) -> Outcome:
    return Outcome(
        claimed.id,
        claimed.fencing_token,
        claimed.attempt,
        Status.PENDING,
        error=_fit(reason, _ERROR_CHARS_MAX),
        delay_s=delay_s,
        counts=False,
    )


def failure(
    claimed: ClaimedTask,
    definition: TaskDefinition,
    why: BaseException | str,
    *,
    final: bool = False,
) -> Outcome:
    """Return the outcome of a failed attempt: again later, dead letter, or failed for good."""
    retry = claimed.retry_count + 1
    status, delay_s = Status.PENDING, 0.0
    if final or (retry > claimed.max_retries and not definition.dead_letter):
        status = Status.FAILED
    elif retry > claimed.max_retries:
        status = Status.DEAD_LETTER
    else:
        delay_s = retry_delay_s(
            definition.retry,
            retry=retry,
            delay_s=claimed.retry_delay_s,
            chance=random.random(),  # noqa: S311 - spreads retries, keeps no secret
        )
    stack = None if isinstance(why, str) else "".join(traceback.format_exception(why))
    return Outcome(
        claimed.id,
        claimed.fencing_token,
        claimed.attempt,
        status,
        error=_fit(_message(why), _ERROR_CHARS_MAX),
        stack=None if stack is None else _fit(stack, _STACK_CHARS_MAX),
        delay_s=delay_s,
    )


def _message(why: BaseException | str) -> str:
    if isinstance(why, str):
        return why
    if isinstance(why, HelixError):
        return why.message
    return f"{type(why).__name__}: {why}" if str(why) else type(why).__name__


def _fit(text: str, chars_max: int) -> str:
    return text.replace("\x00", "\\0").encode(errors="replace").decode()[-chars_max:]
