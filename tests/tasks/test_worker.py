"""Workers end to end: what handlers see, and what is left in the database afterwards."""

import asyncio
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from helix.core.db import Database
from helix.tasks import (
    GiveUp,
    HeldWhile,
    Keeper,
    LeaseLost,
    Priority,
    RetryLater,
    RetryPolicy,
    TaskContext,
    TaskRegistry,
    Unique,
    WorkerMetrics,
    cancel,
    enqueue,
    enqueue_many,
    get_task,
    pause,
    pause_scope,
    resume,
    resume_scope,
    samples_of,
)
from tests.tasks.support import (
    ShiftedClock,
    events,
    kill,
    make_worker,
    operator,
    plain,
    register,
    status_of,
    take,
    working,
)

NOW_AND_AGAIN = RetryPolicy(max_retries=1, delay_s=0, jitter=0)


class Greeting(msgspec.Struct):
    name: str


class Signals:
    """Events that handlers set and tests wait for, by name."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}

    def __getitem__(self, name: str) -> asyncio.Event:
        return self._events.setdefault(name, asyncio.Event())


@pytest.fixture
def signals() -> Signals:
    return Signals()


@pytest.fixture
def registry() -> TaskRegistry:
    return TaskRegistry()


async def put(db: Database, task: Any) -> UUID:
    async with operator(db) as conn:
        return (await enqueue(conn, task)).id


async def seen(db: Database, task_id: Any) -> Any:
    async with operator(db) as conn:
        return await get_task(conn, task_id=task_id)


async def test_typed_payload_goes_in_and_result_comes_out(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("greet")
    async def greet(ctx: TaskContext, payload: Greeting) -> dict[str, str]:
        signals["done"].set()
        return {"said": f"hello {payload.name}"}

    task_id = await put(db, greet.new(Greeting("Ada")))
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    task = await seen(db, task_id)
    assert (task.status, task.result, task.progress) == ("completed", {"said": "hello Ada"}, 100)
    async with operator(db) as conn:
        assert await events(conn, task_id) == ["created", "started", "completed"]


async def test_plain_function_runs_in_a_thread_beside_the_loop(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    loop = asyncio.get_running_loop()

    @registry.task("sync")
    def sync(ctx: TaskContext, payload: dict[str, int]) -> int:
        ctx.progress(40, "forty")
        asyncio.run_coroutine_threadsafe(note(), loop).result()
        return payload["n"] + 1

    async def note() -> None:
        signals["done"].set()

    task_id = await put(db, sync.new({"n": 1}))
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    assert (await seen(db, task_id)).result == 2


async def test_failing_task_is_tried_again_and_then_kept_as_a_dead_letter(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    calls = 0

    @registry.task("bad", retry=NOW_AND_AGAIN)
    async def bad(ctx: TaskContext, payload: dict[str, int]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            signals["done"].set()
        raise ValueError("no \x00 good")

    task_id = await put(db, bad.new({"n": 7}))
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    async with operator(db) as conn:
        assert await events(conn, task_id) == [
            "created", "started", "retried", "started", "dead_letter",
        ]  # fmt: skip
        letter = await conn.fetchrow("SELECT * FROM dead_letter_queue")
        history = await conn.fetch(
            "SELECT attempt, event_type FROM task_execution_history ORDER BY attempt"
        )
    assert letter["error_message"] == "ValueError: no \\0 good"
    assert "raise ValueError" in letter["error_stack"]
    assert [tuple(row) for row in history] == [(1, "failed"), (2, "dead_letter")]


@pytest.mark.parametrize("raised", [GiveUp("no use"), None])
async def test_giving_up_or_a_payload_that_does_not_fit_fails_at_once(
    db: Database, registry: TaskRegistry, signals: Signals, raised: Exception | None
) -> None:
    @registry.task("typed")
    async def typed(ctx: TaskContext, payload: Greeting) -> None:
        if raised is not None:
            raise raised

    @registry.task("last", priority=Priority.LOW)
    async def last(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["done"].set()

    task_id = await put(db, typed.new({"name": "x"} if raised else {"nome": "x"}))
    await put(db, last.new())
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    task = await seen(db, task_id)
    assert (task.status, task.retry_count) == ("failed", 0)


async def test_waiting_for_somebody_else_is_not_counted_as_a_failure(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("polite")
    async def polite(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["done"].set()
        raise RetryLater("the provider said so", delay_s=3_600)

    task_id = await put(db, polite.new())
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    task = await seen(db, task_id)
    assert (task.status, task.retry_count) == ("pending", 0)
    assert task.scheduled_at > datetime.now(UTC) + timedelta(minutes=50)


async def test_cancelled_running_task_is_stopped_and_records_nothing_more(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("long")
    async def long(ctx: TaskContext, payload: dict[str, int]) -> str:
        signals["begun"].set()
        try:
            await asyncio.Event().wait()
        finally:
            signals["stopped"].set()
        return "never"

    task_id = await put(db, long.new())
    async with working(make_worker(db, registry)):
        await signals["begun"].wait()
        async with operator(db) as conn:
            await cancel(conn, task_id=task_id)
        await signals["stopped"].wait()
    assert (await seen(db, task_id)).status == "cancelled"
    async with operator(db) as conn:
        assert await events(conn, task_id) == ["created", "started", "cancelled"]


async def test_paused_running_task_goes_on_from_its_checkpoint_when_resumed(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("steps")
    async def steps(ctx: TaskContext, payload: dict[str, int]) -> Any:
        found = ctx.checkpoint()
        if found is None:
            await ctx.save_checkpoint({"step": 3})
            signals["saved"].set()
            await asyncio.Event().wait()
        signals["done"].set()
        return found

    task_id = await put(db, steps.new())
    async with working(make_worker(db, registry)):
        await signals["saved"].wait()
        async with operator(db) as conn:
            await pause(conn, task_id=task_id)
        async with operator(db) as conn:
            await resume(conn, task_id=task_id)
        await signals["done"].wait()
    assert (await seen(db, task_id)).result == {"step": 3}


async def test_silent_task_is_marked_stuck_and_progress_frees_it(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    clock = ShiftedClock()

    @registry.task("silent", stuck_after_s=100)
    async def silent(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["begun"].set()
        await signals["speak"].wait()
        ctx.progress(50, "alive")
        await signals["end"].wait()

    task_id = await put(db, silent.new())
    worker = make_worker(db, registry, clock=clock, lease_s=3_000.0)
    async with working(worker):
        await signals["begun"].wait()
        clock.ahead_s = 101
        await until_status(db, task_id, "stuck")
        signals["speak"].set()
        await until_status(db, task_id, "running")
        signals["end"].set()
        await until_status(db, task_id, "completed")
    async with operator(db) as conn:
        assert await events(conn, task_id) == [
            "created", "started", "stuck", "progress", "resumed", "completed",
        ]  # fmt: skip


async def until_status(db: Database, task_id: Any, status: str) -> None:
    """Wait until others have brought a task into a state; gives way to them in between."""
    while True:
        async with operator(db) as conn:
            if await status_of(conn, task_id) == status:
                return


async def test_task_over_its_time_is_stopped_and_tried_again(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    calls = 0

    @registry.task("slow", timeout_s=0.01, retry=NOW_AND_AGAIN)
    async def slow(ctx: TaskContext, payload: dict[str, int]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        signals["done"].set()

    task_id = await put(db, slow.new())
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    task = await seen(db, task_id)
    assert (task.status, task.retry_count) == ("completed", 1)


async def test_long_task_over_its_time_is_stopped_by_the_worker(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    clock = ShiftedClock()

    @registry.task("long", timeout_s=600.0)
    async def long(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["begun"].set()
        try:
            await asyncio.Event().wait()
        finally:
            assert ctx.overdue
            signals["stopped"].set()

    task_id = await put(db, long.new(max_retries=0))
    async with working(make_worker(db, registry, clock=clock, lease_s=3_000.0)):
        await signals["begun"].wait()
        clock.ahead_s = 601
        await signals["stopped"].wait()
        await until_status(db, task_id, "dead_letter")
    assert (await seen(db, task_id)).error_message == "took longer than 600 s"


async def test_stopping_worker_hands_back_what_does_not_end_in_time(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("endless")
    async def endless(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["begun"].set()
        await asyncio.Event().wait()

    task_id = await put(db, endless.new())
    async with working(make_worker(db, registry, drain_s=0.01)):
        await signals["begun"].wait()
    task = await seen(db, task_id)
    assert (task.status, task.retry_count, task.lost_count) == ("pending", 0, 0)
    async with operator(db) as conn:
        history = await conn.fetchval("SELECT event_type FROM task_execution_history")
        assert history == "released"
        assert await conn.fetchval("SELECT count(*) FROM task_workers") == 0


async def test_worker_that_lost_its_lease_drops_its_tasks_and_goes_on_under_a_new_id(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("twice", retry=NOW_AND_AGAIN)
    async def twice(ctx: TaskContext, payload: dict[str, int]) -> int:
        if ctx.fencing_token == 1:
            signals["begun"].set()
            await asyncio.Event().wait()
        signals["done"].set()
        return ctx.fencing_token

    task_id = await put(db, twice.new())
    worker = make_worker(db, registry, lease_s=1.0)
    async with working(worker, keep=True):
        await signals["begun"].wait()
        first = worker.worker_id
        assert first is not None
        async with operator(db) as conn:
            await kill(conn, first)
        await signals["done"].wait()
        assert worker.worker_id != first
    assert (await seen(db, task_id)).result == 2


async def test_effects_of_an_attempt_that_was_taken_away_are_not_committed(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("effect")
    async def effect(ctx: TaskContext, payload: dict[str, int]) -> None:
        async with operator(db) as conn:
            await cancel(conn, task_id=ctx.task_id)
        with pytest.raises(LeaseLost):
            async with ctx.transaction() as conn:
                await conn.execute("SELECT 1 / 0")
        signals["done"].set()

    task_id = await put(db, effect.new())
    async with working(make_worker(db, registry, control_s=60.0)):
        await signals["done"].wait()
    assert (await seen(db, task_id)).status == "cancelled"


async def test_effects_and_completion_commit_together_and_cannot_be_held_for_ever(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("whole")
    async def whole(ctx: TaskContext, payload: dict[str, int]) -> str:
        async with ctx.transaction() as conn:
            idle = await conn.fetchval("SHOW idle_in_transaction_session_timeout")
            await ctx.complete(conn, {"idle": idle})
        signals["done"].set()
        return "not looked at"

    task_id = await put(db, whole.new())
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    task = await seen(db, task_id)
    assert (task.status, task.result) == ("completed", {"idle": "10s"})


async def test_worker_survives_the_loss_of_all_its_connections(
    db: Database, owner: Any, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("one")
    async def one(ctx: TaskContext, payload: dict[str, str]) -> None:
        signals[payload["name"]].set()

    await put(db, one.new({"name": "before"}))
    async with working(make_worker(db, registry)):
        await signals["before"].wait()
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'helix worker%' AND datname = current_database()"
        )
        await put(db, one.new({"name": "after"}))
        await signals["after"].wait()


async def test_polling_finds_tasks_when_no_notification_arrives(
    db: Database, owner: Any, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("quiet")
    async def quiet(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["done"].set()

    async with working(make_worker(db, registry)) as worker:
        worker._on_notify = lambda *_: None  # type: ignore[method-assign] # deaf from here on
        await owner.execute("SELECT setval('task_sleeping_until', 0)")
        await put(db, quiet.new())
        await signals["done"].wait()


async def test_urgent_tasks_go_first(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    order: list[str] = []

    @registry.task("any")
    async def any_(ctx: TaskContext, payload: dict[str, str]) -> None:
        order.append(payload["p"])
        if len(order) == 5:
            signals["done"].set()

    for priority in reversed(Priority):
        await put(db, any_.new({"p": priority.value}, priority=priority))
    async with working(make_worker(db, registry, concurrency=1)):
        await signals["done"].wait()
    assert order == ["critical", "high", "normal", "low", "background"]


async def test_paused_type_waits_while_others_run(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    for name in ("held", "free"):

        async def handler(ctx: TaskContext, payload: dict[str, int]) -> None:
            signals[ctx.task_type].set()

        registry.add(name, handler)
    held, free = await put(db, plain("held")), await put(db, plain("free"))
    async with operator(db) as conn:
        await pause_scope(conn, scope="type", name="held")
    async with working(make_worker(db, registry)):
        await signals["free"].wait()
        assert not signals["held"].is_set()
        async with operator(db) as conn:
            assert await status_of(conn, held) == "pending"
            await resume_scope(conn, scope="type", name="held")
        await signals["held"].wait()
    assert (await seen(db, free)).status == "completed"


async def test_no_more_tasks_of_a_limited_type_run_than_its_limit(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    running, most, left = 0, 0, 12

    @registry.task("few", concurrency_max=2)
    async def few(ctx: TaskContext, payload: dict[str, int]) -> None:
        nonlocal running, most, left
        running += 1
        most = max(most, running)
        async with operator(db) as conn:
            await conn.fetchval("SELECT 1")
        running -= 1
        left -= 1
        if left == 0:
            signals["done"].set()

    async with operator(db) as conn:
        await enqueue_many(conn, [few.new()] * 12)
    first, second = make_worker(db, registry), make_worker(db, registry)
    async with working(first), working(second):
        await signals["done"].wait()
    assert most <= 2


async def test_rate_of_a_type_is_not_passed(db: Database) -> None:
    async with operator(db) as conn:
        await conn.execute(
            "INSERT INTO task_controls (scope, name, rate_max, rate_period_s)"
            " VALUES ('type', 'rated', 3, 3600)"
        )
        await enqueue_many(conn, [plain("rated")] * 10)
        worker_id = await register(conn)
        assert len(await take(conn, worker_id, "rated")) == 3
        assert len(await take(conn, worker_id, "rated")) == 0
        await conn.execute(
            "UPDATE task_controls SET rate_used_until = rate_used_until - interval '1201 s'"
        )
        assert len(await take(conn, worker_id, "rated")) == 1


async def test_task_runs_after_those_it_waits_for(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    order: list[int] = []

    @registry.task("part")
    async def part(ctx: TaskContext, payload: dict[str, int]) -> None:
        order.append(payload["n"])
        if payload["n"] == 3:
            signals["done"].set()

    async with operator(db) as conn:
        first = await enqueue(conn, part.new({"n": 1}))
        second = await enqueue(conn, part.new({"n": 2}, after=(first.id,)))
        await enqueue(
            conn,
            part.new({"n": 3}, after=(first.id, second.id), parent_task_id=first.id,
                     priority=Priority.CRITICAL),
        )  # fmt: skip
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    assert order == [1, 2, 3]


async def test_scheduled_task_waits_for_its_moment(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("later")
    async def later(ctx: TaskContext, payload: dict[str, str]) -> None:
        signals[payload["name"]].set()

    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    task_id = await put(db, later.new({"name": "soon"}, scheduled_at=soon))
    await put(db, later.new({"name": "never"}, scheduled_at=soon + timedelta(days=1)))
    async with working(make_worker(db, registry), keep=True):
        await signals["soon"].wait()
        assert datetime.now(UTC) >= soon
        assert not signals["never"].is_set()
    assert (await seen(db, task_id)).status == "completed"


async def test_task_whose_deadline_has_passed_is_not_begun(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("dated")
    async def dated(ctx: TaskContext, payload: dict[str, str]) -> None:
        signals["done"].set()

    late = await put(db, dated.new(deadline=datetime.now(UTC) - timedelta(seconds=1)))
    await put(db, dated.new(priority=Priority.LOW))
    async with working(make_worker(db, registry, concurrency=1)):
        await signals["done"].wait()
    task = await seen(db, late)
    assert (task.status, task.error_message) == ("failed", "its deadline passed before it began")


@pytest.mark.parametrize("wrong", [timedelta(days=1), timedelta(days=-1)])
async def test_deadlines_are_judged_by_the_clock_of_the_database(
    db: Database, registry: TaskRegistry, signals: Signals, wrong: timedelta
) -> None:
    @registry.task("dated")
    async def dated(ctx: TaskContext, payload: dict[str, int]) -> None:
        signals["run"].set()

    now = datetime.now(UTC)
    in_time = await put(db, dated.new(deadline=now + timedelta(hours=1)))
    too_late = await put(db, dated.new(deadline=now - timedelta(hours=1)))
    async with working(make_worker(db, registry, clock=ShiftedClock(wrong))):
        await signals["run"].wait()
        await until_status(db, too_late, "failed")
        await until_status(db, in_time, "completed")


async def test_handlers_that_never_wait_leave_no_context_to_the_next(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    mark: ContextVar[str] = ContextVar("mark", default="none")
    found: list[str] = []

    @registry.task("marking")
    async def marking(ctx: TaskContext, payload: dict[str, int]) -> None:
        found.append(mark.get())
        mark.set(f"task {payload['n']}")
        if len(found) == 20:
            signals["done"].set()

    async with operator(db) as conn:
        await enqueue_many(conn, [marking.new({"n": n}) for n in range(20)])
    async with working(make_worker(db, registry)):
        await signals["done"].wait()
    assert found == ["none"] * 20


async def test_attempt_that_cancels_itself_takes_no_other_along(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("rash", retry=RetryPolicy(max_retries=0))
    async def rash(ctx: TaskContext, payload: dict[str, bool]) -> None:
        if payload["rash"]:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return
        await asyncio.sleep(0)

    async with operator(db) as conn:
        made = await enqueue_many(conn, [rash.new({"rash": n % 2 == 0}) for n in range(10)])
    async with working(make_worker(db, registry)):
        for task in made:
            await until_status(db, task.id, "completed")


async def test_waiting_handlers_run_side_by_side_and_no_more_than_may(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    running: set[UUID] = set()
    most = 0

    @registry.task("waiting")
    async def waiting(ctx: TaskContext, payload: dict[str, bool]) -> None:
        nonlocal most
        if not payload["waits"]:
            return
        running.add(ctx.task_id)
        most = max(most, len(running))
        if len(running) == 4:
            signals["full"].set()
        await signals["go"].wait()
        running.discard(ctx.task_id)

    async with operator(db) as conn:
        made = await enqueue_many(conn, [waiting.new({"waits": n % 3 == 0}) for n in range(60)])
    async with working(make_worker(db, registry, concurrency=4)):
        await signals["full"].wait()
        signals["go"].set()
        for task in made:
            await until_status(db, task.id, "completed")
    assert most == 4


async def test_task_that_costs_too_much_is_paused(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("dear", spend_cap_usd=Decimal("0.50"))
    async def dear(ctx: TaskContext, payload: dict[str, str]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            signals["stopped"].set()

    async def spend(conn: Any, ids: Any) -> dict[UUID, Decimal]:
        return dict.fromkeys(ids, Decimal("0.51"))

    task_id = await put(db, dear.new())
    async with working(make_worker(db, registry), keep=True, spend=spend):
        await signals["stopped"].wait()
    task = await seen(db, task_id)
    assert task.status == "paused"
    assert task.error_message == "its model calls cost 0.51 $, its cap is 0.500000000000 $"


@pytest.mark.parametrize(
    ("unique", "free"),
    [
        (Unique("k", HeldWhile.WAITING), (True, True)),
        (Unique("k", HeldWhile.UNFINISHED), (False, True)),
        (Unique("k", HeldWhile.PERIOD, period_s=3_600), (False, False)),
    ],
)
async def test_unique_key_is_held_as_long_as_it_says(
    db: Database, registry: TaskRegistry, signals: Signals, unique: Unique, free: tuple[bool, bool]
) -> None:
    while_running, afterwards = free

    @registry.task("single")
    async def single(ctx: TaskContext, payload: dict[str, str]) -> None:
        signals["begun"].set()
        await signals["end"].wait()

    async def again() -> bool:
        async with operator(db) as conn:
            made = await enqueue(conn, single.new(unique=unique))
            if made.created:
                await cancel(conn, task_id=made.id)
            return made.created

    await put(db, single.new(unique=unique))
    assert await again() is False
    async with working(make_worker(db, registry)):
        await signals["begun"].wait()
        assert await again() is while_running
        signals["end"].set()
    assert await again() is afterwards


async def test_prefetched_tasks_are_queued_until_there_is_room(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    left = 3

    @registry.task("fetched")
    async def fetched(ctx: TaskContext, payload: dict[str, str]) -> None:
        nonlocal left
        signals["begun"].set()
        await signals["go"].wait()
        left -= 1
        if left == 0:
            signals["done"].set()

    async with operator(db) as conn:
        made = await enqueue_many(conn, [fetched.new()] * 3)
    async with working(make_worker(db, registry, concurrency=1, prefetch=5)):
        await signals["begun"].wait()
        await until_status(db, made[2].id, "queued")
        signals["go"].set()
        await signals["done"].wait()
    async with operator(db) as conn:
        assert await events(conn, made[2].id) == ["created", "queued", "started", "completed"]


async def test_tasks_taken_ahead_are_handed_back_when_those_before_take_long(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    quick = 60
    running = 0

    @registry.task("mixed")
    async def mixed(ctx: TaskContext, payload: dict[str, int]) -> None:
        nonlocal quick, running
        if quick > 0:
            quick -= 1
            if quick == 0:
                signals["quick"].set()
            return
        running += 1
        if running == 2:
            signals["both"].set()
        await signals["go"].wait()

    clock = ShiftedClock()
    async with operator(db) as conn:
        await enqueue_many(conn, [mixed.new()] * 60)
    async with working(make_worker(db, registry, concurrency=2, clock=clock)):
        await signals["quick"].wait()
        async with operator(db) as conn:
            slow = await enqueue_many(conn, [mixed.new()] * 8)
        await signals["both"].wait()
        clock.ahead_s += 2
        for task in slow[2:]:
            await until_status(db, task.id, "pending")
        assert running == 2
        signals["go"].set()
        for task in slow:
            await until_status(db, task.id, "completed")
    async with operator(db) as conn:
        assert (await events(conn, slow[7].id))[-2:] == ["started", "completed"]


async def test_worker_writes_down_what_it_uses_while_a_task_runs_long(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("heavy")
    async def heavy(ctx: TaskContext, payload: dict[str, int]) -> None:
        await signals["go"].wait()

    task_id = await put(db, heavy.new())
    async with working(make_worker(db, registry, sample_s=0.02)):
        found: list[dict[str, Any]] = []
        while not found:
            async with operator(db) as conn:
                found = await samples_of(conn, task_id=task_id)
        signals["go"].set()
    assert found[0]["memory_rss_bytes"] > 10_000_000
    assert found[0]["cpu_percent"] >= 0
    assert found[0]["thread_count"] >= 1


async def test_worker_takes_only_from_the_queues_it_is_told(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("told")
    async def told(ctx: TaskContext, payload: dict[str, str]) -> None:
        signals[payload["name"]].set()

    other = await put(db, told.new({"name": "other"}, queue="other"))
    mine = await put(db, told.new({"name": "mine"}, queue="mine"))
    async with working(make_worker(db, registry, queues=("mine",))):
        await signals["mine"].wait()
    assert (await seen(db, mine)).status == "completed"
    assert (await seen(db, other)).status == "pending"


async def test_metrics_tell_what_waits_and_what_ended(
    db: Database, registry: TaskRegistry, signals: Signals
) -> None:
    @registry.task("counted")
    async def counted(ctx: TaskContext, payload: dict[str, str]) -> None:
        signals["done"].set()

    await put(db, counted.new(queue="later", scheduled_at=datetime.now(UTC) + timedelta(hours=1)))
    await put(db, counted.new())
    counters = CollectorRegistry()
    worker = make_worker(db, registry, metrics=WorkerMetrics(counters))
    held = {"queue": "later", "task_type": "counted", "status": "pending"}
    async with working(worker):
        await signals["done"].wait()
        async with operator(db) as conn:
            await Keeper(worker)._count(conn)
    assert counters.get_sample_value("helix_tasks_held", held) == 1
    ended = {"task_type": "counted", "status": "completed"}
    assert counters.get_sample_value("helix_tasks_attempts_total", ended) == 1
    assert counters.get_sample_value("helix_tasks_running") == 0
    times = {"task_type": "counted"}
    assert counters.get_sample_value("helix_tasks_attempt_seconds_count", times) == 1
    assert (
        counters.get_sample_value("helix_tasks_attempt_seconds_bucket", {**times, "le": "+Inf"})
        == 1
    )
    took_s = counters.get_sample_value("helix_tasks_attempt_seconds_sum", times)
    assert took_s is not None
    assert 0 < took_s < 60
