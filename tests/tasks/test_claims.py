"""Nothing is skipped and nothing is claimed twice, in whatever order transactions commit."""

import asyncio
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core.db import Connection, Database, Role, connect
from helix.tasks import HeldWhile, Status, Unique, enqueue, enqueue_many
from helix.tasks.store import QUERIES
from tests.tasks.support import end, kill, new_type, operator, plain, register, status_of, take

READ_IN_FULL = """
    SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables
    WHERE relname LIKE 'background_tasks%' OR relname LIKE 'task_unique_keys%'
"""


class Schedule:
    """Runs steps of several transactions in a given order, on a lane of its own."""

    def __init__(self, conns: dict[str, Connection], claimer: Connection, worker_id: Any) -> None:
        self.conns = conns
        self.claimer = claimer
        self.worker_id = worker_id
        self.task_type = new_type()
        self.made: dict[str, list[UUID]] = {name: [] for name in conns}
        self.open: dict[str, Any] = {}
        self.committed: list[UUID] = []
        self.claimed: list[UUID] = []

    async def step(self, name: str, verb: str, count: int = 2) -> None:
        if verb == "claim":
            await self.claim(count)
        elif verb == "insert":
            if name not in self.open:
                self.open[name] = self.conns[name].transaction()
                await self.open[name].start()
            tasks = [plain(self.task_type) for _ in range(count)]
            self.made[name] += [e.id for e in await enqueue_many(self.conns[name], tasks)]
        elif name in self.open:
            transaction = self.open.pop(name)
            if verb == "commit":
                await transaction.commit()
                self.committed += self.made[name]
            else:
                await transaction.rollback()
            self.made[name] = []

    async def claim(self, count: int) -> int:
        found = await take(self.claimer, self.worker_id, self.task_type, count=count)
        self.claimed += [task.id for task in found]
        return len(found)

    async def finish(self) -> None:
        """Commit what is open and claim until nothing is left; then all must have been claimed."""
        for name in list(self.open):
            await self.step(name, "commit")
        while await self.claim(3):
            pass
        assert sorted(self.claimed) == sorted(self.committed)


@pytest.fixture
async def machinery(database_url: str) -> Any:
    conns = {n: await connect(database_url, role=Role.OPERATOR) for n in ("a", "b", "c")}
    claimer = await connect(database_url, role=Role.OPERATOR)
    yield conns, claimer, await register(claimer)
    for conn in [*conns.values(), claimer]:
        await conn.close()


def interleavings(*threads: list[tuple[str, str]]) -> set[tuple[tuple[str, str], ...]]:
    """Return every order of all steps that keeps the order within each thread."""
    labels = [n for n, thread in enumerate(threads) for _ in thread]
    found = set()
    for order in set(permutations(labels)):
        rest = [list(thread) for thread in threads]
        found.add(tuple(rest[n].pop(0) for n in order))
    return found


async def test_every_interleaving_of_two_enqueuers_and_two_claims(machinery: Any) -> None:
    conns, claimer, worker_id = machinery
    orders = set()
    for last in ("commit", "rollback"):
        orders |= interleavings(
            [("a", "insert"), ("a", "commit")],
            [("b", "insert"), ("b", last)],
            [("", "claim"), ("", "claim")],
        )
    assert len(orders) == 180
    for order in sorted(orders):
        schedule = Schedule(conns, claimer, worker_id)
        for name, verb in order:
            await schedule.step(name, verb, count=1 if verb == "claim" else 2)
        await schedule.finish()


STEP = st.tuples(
    st.sampled_from(["a", "b", "c", ""]),
    st.sampled_from(["insert", "insert", "commit", "rollback"]),
    st.integers(1, 4),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEP, min_size=5, max_size=40))
async def test_random_schedules_claim_each_committed_task_once(
    machinery: Any, steps: list[tuple[str, str, int]]
) -> None:
    schedule = Schedule(*machinery)
    for name, verb, count in steps:
        await schedule.step(name, verb if name else "claim", count)
    await schedule.finish()


async def test_late_commit_of_a_big_transaction_is_claimed_bit_by_bit(machinery: Any) -> None:
    conns, claimer, worker_id = machinery
    schedule = Schedule(conns, claimer, worker_id)
    await schedule.step("a", "insert", 500)
    await schedule.step("b", "insert", 10)
    await schedule.step("b", "commit")
    assert await schedule.claim(100) == 10
    await schedule.step("a", "commit")
    sizes = []
    while size := await schedule.claim(120):
        sizes.append(size)
    assert sizes == [120, 120, 120, 120, 20]
    await schedule.finish()


async def test_trimming_never_takes_a_task_that_is_still_to_be_claimed(machinery: Any) -> None:
    conns, claimer, worker_id = machinery
    schedule = Schedule(conns, claimer, worker_id)
    await schedule.step("a", "insert", 5)
    await schedule.step("b", "insert", 5)
    await schedule.step("b", "commit")
    await schedule.claim(10)
    await QUERIES.run(claimer, "trim_queue", max_count=1000)
    await schedule.step("a", "commit")
    await QUERIES.run(claimer, "trim_queue", max_count=1000)
    await schedule.claim(2)
    await QUERIES.run(claimer, "trim_queue", max_count=1000)
    await schedule.finish()
    await QUERIES.run(claimer, "trim_queue", max_count=1000)
    assert await claimer.fetchval("SELECT count(*) FROM task_stream") <= 5


async def test_savepoints_of_an_enqueuer_hide_nothing(machinery: Any) -> None:
    conns, claimer, worker_id = machinery
    schedule = Schedule(conns, claimer, worker_id)
    await schedule.step("a", "insert", 1)
    async with conns["a"].transaction():
        await schedule.step("a", "insert", 1)
    await schedule.step("b", "insert", 1)
    await schedule.step("b", "commit")
    await schedule.claim(5)
    await schedule.finish()


async def test_claims_go_on_past_a_task_locked_by_somebody(machinery: Any) -> None:
    conns, claimer, worker_id = machinery
    task_type = new_type()
    first, second = await enqueue_many(conns["a"], [plain(task_type)] * 2)
    async with conns["b"].transaction():
        await conns["b"].execute("SELECT FROM background_tasks WHERE id = $1 FOR UPDATE", first.id)
        assert [t.id for t in await take(claimer, worker_id, task_type)] == [second.id]
    await claimer.execute("UPDATE task_timers SET due_at = now() WHERE task_id = $1", first.id)
    await QUERIES.run(claimer, "ripen_timers", max_count=10)
    assert [t.id for t in await take(claimer, worker_id, task_type)] == [first.id]


async def test_two_claimers_at_once_never_share_a_task(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        worker_id = await register(conn)
        await enqueue_many(conn, [plain(task_type)] * 10)
    async with operator(db) as first, operator(db) as second:
        taken = await take(first, worker_id, task_type, count=4)
        await first.execute("SELECT 1")
        other = second.fetch("SELECT pg_try_advisory_xact_lock(826201, id) FROM task_lanes")
        assert all(row[0] is False for row in await other)
    async with operator(db) as conn:
        rest = await take(conn, worker_id, task_type)
    assert len({t.id for t in taken} | {t.id for t in rest}) == 10


async def test_late_worker_writes_nothing(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        late, quick = await register(conn), await register(conn)
        await enqueue(conn, plain(task_type))
    async with operator(db) as conn:
        [old] = await take(conn, late, task_type)
    async with operator(db) as conn:
        await kill(conn, late)
    async with operator(db) as conn:
        assert not await end(conn, late, old, Status.COMPLETED, result='"late"')
        [new] = await take(conn, quick, task_type)
        assert (new.id, new.fencing_token) == (old.id, 2)
        assert not await end(conn, quick, old, Status.COMPLETED, result='"old token"')
        assert not await end(conn, late, new, Status.COMPLETED, result='"stolen token"')
        assert await end(conn, quick, new, Status.COMPLETED, result='"right"')
        assert not await end(conn, quick, new, Status.COMPLETED, result='"twice"')
        row = await conn.fetchrow(
            "SELECT status, result FROM background_tasks WHERE id = $1", new.id
        )
    assert dict(row) == {"status": "completed", "result": "right"}


async def test_worker_whose_lease_has_run_out_writes_nothing_even_before_it_is_reclaimed(
    db: Database,
) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        worker_id = await register(conn)
        await enqueue(conn, plain(task_type))
        [task] = await take(conn, worker_id, task_type)
        await conn.execute("UPDATE task_workers SET lease_until = now() - interval '1 ms'")
        assert not await end(conn, worker_id, task, Status.COMPLETED)
        with pytest.raises(asyncpg.PostgresError, match="lease of worker"):
            async with conn.transaction():
                await take(conn, worker_id, task_type)


async def test_striking_a_worker_off_by_hand_gives_its_tasks_back(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        worker_id = await register(conn)
        made = await enqueue(conn, plain(task_type))
        await take(conn, worker_id, task_type)
        await conn.execute("DELETE FROM task_workers WHERE id = $1", worker_id)
        assert await status_of(conn, made.id) == "pending"


async def test_worker_that_comes_back_under_its_old_id_cannot_end_what_it_held_before(
    db: Database,
) -> None:
    task_type = new_type()
    again = {"host": "test", "pid": 1, "queues": [], "concurrency": 10, "lease_s": 3600.0}
    async with operator(db) as conn:
        worker_id = await register(conn)
        made = await enqueue(conn, plain(task_type))
        [before] = await take(conn, worker_id, task_type)
        await kill(conn, worker_id)
        await QUERIES.run(conn, "register_worker", id=worker_id, **again)
        [after] = await take(conn, worker_id, task_type)
        assert (before.id, after.id) == (made.id, made.id)
        assert not await end(conn, worker_id, before, Status.COMPLETED)
        assert await status_of(conn, made.id) == "running"
        assert await end(conn, worker_id, after, Status.COMPLETED)


async def test_third_death_of_its_worker_makes_a_dead_letter_with_its_history(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        made = await enqueue(conn, plain(task_type, payload={"n": 1}))
        for _ in range(3):
            worker_id = await register(conn)
            assert [t.id for t in await take(conn, worker_id, task_type)] == [made.id]
            await kill(conn, worker_id)
        assert await status_of(conn, made.id) == "dead_letter"
        letter = await conn.fetchrow("SELECT * FROM dead_letter_queue")
        assert (letter["failure_reason"], letter["payload"]) == ("poison", {"n": 1})
        assert [e["error"] for e in letter["retry_history"]] == ["the worker died"] * 3
        assert await take(conn, await register(conn), task_type) == []


async def test_task_whose_workers_died_twice_waits_before_it_meets_a_third(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        made = await enqueue(conn, plain(task_type))
        for _ in range(2):
            worker_id = await register(conn)
            assert [t.id for t in await take(conn, worker_id, task_type)] == [made.id]
            await conn.execute("DELETE FROM task_workers WHERE id = $1", worker_id)
        assert await take(conn, await register(conn), task_type) == []
        waits = await conn.fetchrow(
            "SELECT t.status, t.scheduled_at - clock_timestamp() AS wait, m.due_at - t.scheduled_at"
            " AS apart FROM background_tasks AS t JOIN task_timers AS m ON m.task_id = t.id"
            " WHERE t.id = $1",
            made.id,
        )
    assert waits["status"] == "pending"
    assert timedelta(seconds=20) < waits["wait"] <= timedelta(seconds=30)
    assert waits["apart"] == timedelta(0)


async def test_innocent_tasks_of_a_dead_worker_run_apart_from_each_other(db: Database) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        await enqueue_many(conn, [plain(task_type)] * 3)
        worker_id = await register(conn)
        assert len(await take(conn, worker_id, task_type)) == 3
        await kill(conn, worker_id)
        survivor = await register(conn)
        assert len(await take(conn, survivor, task_type, suspects=1)) == 1
        assert await take(conn, survivor, task_type, suspects=0) == []


async def test_hot_statements_read_no_index_of_finished_work(machinery: Any) -> None:
    conns, claimer, worker_id = machinery
    await enqueue_many(conns["a"], [plain("plan")] * 3000)
    await claimer.execute("SET ROLE NONE; ANALYZE; SET ROLE helix_operator")
    await claimer.execute("SET enable_seqscan = off")
    statement = QUERIES["finish_tasks"]
    tasks = await take(claimer, worker_id, "plan", count=200)
    values = {
        "worker_id": worker_id, "ids": [t.id for t in tasks], "tokens": [1] * 200,
        "statuses": ["completed"] * 200, "results": [None] * 200, "errors": [None] * 200,
        "stacks": [None] * 200, "delays": [0.0] * 200, "counts": [True] * 200,
    }  # fmt: skip
    rows = await claimer.fetch("EXPLAIN " + statement.sql, *statement.arguments(values))
    plan = "\n".join(row[0] for row in rows)
    assert "pkey" in plan
    assert "idx_tasks" not in plan


async def test_batch_is_planned_as_one_whatever_the_session_claimed_first(
    machinery: Any,
) -> None:
    conns, claimer, worker_id = machinery
    await enqueue_many(conns["a"], [plain("first"), *[plain("rest")] * 50])
    plans: list[str] = []
    claimer.add_log_listener(lambda _, message: plans.append(message.message))
    await claimer.execute("SET ROLE NONE")
    await claimer.execute("LOAD 'auto_explain'")
    await claimer.execute(
        "SET auto_explain.log_nested_statements = on; SET auto_explain.log_min_duration = 0;"
        " SET auto_explain.log_level = 'notice'; SET ROLE helix_operator"
    )
    assert len(await take(claimer, worker_id, "first")) == 1
    plans.clear()
    assert len(await take(claimer, worker_id, "rest")) == 50
    [joined] = [plan for plan in plans if "Query Text: WITH moved" in plan]
    assert "Hash Join" in joined
    assert "Nested Loop" not in joined


async def test_ending_a_task_reads_none_but_those_that_wait_for_it(
    db: Database, owner: Connection
) -> None:
    task_type = new_type()
    async with operator(db) as conn:
        unique = Unique("the one", held_while=HeldWhile.UNFINISHED)
        first = await enqueue(conn, plain(task_type, unique=unique))
        await enqueue_many(conn, [plain(task_type)] * 3_000)
        await enqueue(conn, plain(task_type, after=(first.id,)))
    await owner.execute("ANALYZE background_tasks")
    async with operator(db) as conn:
        await conn.execute("SET LOCAL enable_nestloop = off")  # as on the link that ends attempts
        worker_id = await register(conn)
        [task] = await take(conn, worker_id, task_type, count=1)
        assert task.id == first.id
        before = await conn.fetchval(READ_IN_FULL)
        assert await end(conn, worker_id, task, Status.COMPLETED)
        assert await conn.fetchval(READ_IN_FULL) == before
        assert (
            await conn.fetchval("SELECT count(*) FROM background_tasks WHERE blocked_by > 0") == 0
        )


async def test_many_claimers_at_once_take_every_task_once(database_url: str) -> None:
    conns = [await connect(database_url, role=Role.OPERATOR) for _ in range(12)]
    task_type = new_type()
    await enqueue_many(conns[0], [plain(task_type)] * 600)

    async def claimer(conn: Connection) -> list[UUID]:
        worker_id = await register(conn)
        taken: list[UUID] = []
        while found := await take(conn, worker_id, task_type, count=7):
            taken += [task.id for task in found]
        return taken

    parts = await asyncio.gather(*(claimer(conn) for conn in conns))
    taken = [task_id for part in parts for task_id in part]
    assert (len(taken), len(set(taken))) == (600, 600)
    for conn in conns:
        await conn.close()
