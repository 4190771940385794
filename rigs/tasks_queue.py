"""Claims, clocks, poison and silence: what a queue must survive beside kills and restarts.

    python -m rigs.tasks_queue [--short] [--seed N] [EXPERIMENT …]

    claimers   64 connections claim 100,000 tasks: each is claimed once (and a planted second claim
               is noticed)
    ticks      two schedulers over 10,000 minutes: every minute's task once
    clocks     five workers whose calendars are right, an hour and a day fast and slow: no task runs
               twice or is taken for late, every tick is made once, no lease is lost
    poison     a task that kills its worker: at most three deliveries, then a dead letter with its
               history; meanwhile the others keep 90 % of their throughput
    silence    one task that says nothing is marked stuck; one that is slow but reports is not
    deaf       no notification ever arrives: tasks begin within 5 s all the same
    flood      a queue of notifications that is full: enqueueing refuses nothing
    feed       10,000 overlapping transactions draw the ids of their events early and commit late: a
               reader of the stream skips none (one that goes by ids does: the control)

`--short` makes the numbers small: under a minute in all.
"""

import argparse
import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from bench.machine import facts
from bench.tasks import a_home, make_database
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Connection, Database, PoolLimits, Role, connect
from helix.core.instance import make_home
from helix.core.log import configure, get_log
from helix.operations import EmbeddedPostgres
from helix.tasks import (
    NewTask,
    TaskContext,
    TaskRegistry,
    Worker,
    WorkerOptions,
    build_worker,
    enqueue_many,
    run_worker,
)
from helix.tasks.feed import EventFeed
from helix.tasks.keeper import fire_schedules, sync_schedules
from helix.tasks.store import QUERIES, claim
from helix.tasks.types import Schedule, WorkerId

CLAIMERS = 64
DYING = """
    SELECT date_part('epoch', d.until_at - d.from_at) AS seconds,
           count(*) / date_part('epoch', d.until_at - d.from_at) AS rate
    FROM (SELECT min(started_at) AS from_at, max(completed_at) AS until_at
          FROM task_execution_history WHERE task_id = $1) AS d
    JOIN task_execution_history AS h
      ON h.event_type = 'completed' AND h.completed_at BETWEEN d.from_at AND d.until_at
    GROUP BY d.from_at, d.until_at
"""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bed:
    """Where an experiment runs, and how large it is."""

    url: str
    db: Database
    short: bool
    chance: random.Random

    def size(self, whole: int, short: int) -> int:
        return short if self.short else whole

    async def put(self, tasks: list[NewTask]) -> list[UUID]:
        made: list[UUID] = []
        for start in range(0, len(tasks), 1_000):
            async with self.db.transaction(Role.OPERATOR) as conn:
                found = await enqueue_many(conn, tasks[start : start + 1_000])
            made += [enqueued.id for enqueued in found]
        return made


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


async def claimers(bed: Bed) -> bool:
    """Q1: nothing is claimed twice."""
    tasks = bed.size(100_000, 5_000)
    await bed.put([NewTask("claimed", {"n": n}) for n in range(tasks)])
    taken: list[tuple[UUID, int]] = []

    async def one() -> None:
        conn = await connect(bed.url, role=Role.OPERATOR)
        worker_id = await register(conn)
        while True:
            found = await claim(
                conn, worker_id=worker_id, queues=None, types=["claimed"],
                max_count=bed.chance.randint(1, 60), begin_count=60, suspects=1,
            )  # fmt: skip
            if not found and len(taken) >= tasks:
                break
            taken.extend((task.id, task.fencing_token) for task in found)
        await conn.close()

    started = time.monotonic()
    await asyncio.gather(*(one() for _ in range(CLAIMERS)))
    doubled = len(taken) - len({task_id for task_id, _ in taken})
    planted = [*taken, taken[0]]
    noticed = len(planted) - len({task_id for task_id, _ in planted})
    say(f"claimers: {tasks:,} tasks, {CLAIMERS} claimers, {time.monotonic() - started:.1f} s; "
        f"claimed twice: {doubled}; planted second claim noticed: {noticed}")  # fmt: skip
    return doubled == 0 and noticed == 1


async def register(conn: Connection) -> WorkerId:
    """Register a worker that exists only as a row."""
    worker_id = WorkerId(f"rig-{uuid4().hex}")
    await QUERIES.run(
        conn, "register_worker", id=worker_id, host="rig", pid=1, queues=[], concurrency=60,
        lease_s=3_600.0,
    )  # fmt: skip
    return worker_id


async def ticks(bed: Bed) -> bool:
    """Q7: two schedulers make one task of every tick."""
    registry = TaskRegistry()
    registry.add("ticked", _nothing)
    registry.schedule(Schedule("rig", "ticked", cron="* * * * *"))
    minutes = bed.size(10_000, 300)
    conns = [await connect(bed.url, role=Role.OPERATOR) for _ in range(2)]
    await sync_schedules(conns[0], registry, now=BEGIN)

    async def fire(conn: Connection, now: datetime) -> int:
        async with conn.transaction():
            return len(await fire_schedules(conn, now=now))

    wrong = 0
    for minute in range(1, minutes + 1):
        now = BEGIN + timedelta(minutes=minute)
        wrong += sum(await asyncio.gather(*(fire(conn, now) for conn in conns))) != 1
    made = await conns[0].fetchval("SELECT count(*) FROM background_tasks WHERE task_type='ticked'")
    for conn in conns:
        await conn.close()
    say(f"ticks: {minutes:,} ticks, 2 schedulers: {made:,} tasks; ticks not made once: {wrong}")
    return wrong == 0 and made == minutes


class WrongClock(SystemClock):
    """A machine's clock whose calendar is wrong; what it measures is not."""

    def __init__(self, wrong: timedelta) -> None:
        self._wrong = wrong

    def now(self) -> datetime:
        return super().now() + self._wrong


async def clocks(bed: Bed) -> bool:
    """D15: workers may disagree about the time of day; the database's clock alone counts."""
    tasks, rounds = bed.size(50_000, 3_000), bed.size(30, 3)
    runs: Counter[UUID] = Counter()
    registry = TaskRegistry()

    async def dated(ctx: TaskContext, payload: dict[str, int]) -> None:
        runs[ctx.task_id] += 1
        await asyncio.sleep(0.001)

    registry.add("dated", dated)
    registry.add("ticked", _nothing)
    registry.schedule(Schedule("rig", "ticked", cron="* * * * *"))
    options = WorkerOptions(lease_s=2.0, control_s=0.1, poll_s=0.1)
    workers = [
        build_worker(bed.db, registry, options, clock=WrongClock(timedelta(hours=hours)))
        for hours in (0, 1, -1, 24, -24)
    ]
    work = [asyncio.create_task(run_worker(worker)) for worker in workers]
    for worker in workers:
        await worker.ready.wait()
    ids = {worker.worker_id for worker in workers}
    deadline = datetime.now(UTC) + timedelta(minutes=30)
    made = await bed.put([NewTask("dated", {"n": n}, deadline=deadline) for n in range(tasks)])
    for _ in range(rounds):
        async with bed.db.transaction(Role.OPERATOR) as conn:
            await conn.execute("UPDATE task_schedules SET next_run_at = now() - interval '1 s'")
        await _until(bed, "SELECT next_run_at > now() FROM task_schedules")
    await _until(bed, "SELECT count(*) = 0 FROM background_tasks"
                      " WHERE status IN ('pending', 'queued', 'running', 'stuck')")  # fmt: skip
    kept = {worker.worker_id for worker in workers} == ids
    for worker in workers:
        worker.stop()
    await asyncio.gather(*work)
    async with bed.db.transaction(Role.OPERATOR) as conn:
        late = await conn.fetchval("SELECT count(*) FROM background_tasks WHERE status = 'failed'")
        ticked = await conn.fetchval(
            "SELECT count(*) FROM background_tasks WHERE task_type = 'ticked'"
        )
    once = sum(1 for task_id in made if runs[task_id] == 1)
    say(f"clocks: five workers up to a day apart: {once:,} of {tasks:,} tasks ran once, {late} "
        f"taken for late; {rounds} ticks made {ticked} tasks; leases kept: {kept}")  # fmt: skip
    return once == tasks and late == 0 and ticked == rounds and kept


async def poison(bed: Bed) -> bool:
    """Q5: a task that kills its worker is given up after three; the others go on.

    The others come at a steady pace that two of the three workers can keep: what is asked is
    whether they are held up, not how fast this machine starts Python while it has no core to spare.
    Their throughput from the first delivery to the last death is compared with what it was before.
    """
    keeping, feeding = asyncio.Event(), asyncio.Event()
    keep = [asyncio.create_task(_kept_alive(bed.url, keeping)) for _ in range(3)]
    await _until(bed, "SELECT count(*) = 3 FROM task_workers")
    feeder = asyncio.create_task(_fed(bed, feeding))
    await asyncio.sleep(2)
    seconds = bed.size(30, 6)
    before = await _completed(bed)
    await asyncio.sleep(seconds)
    usual = (await _completed(bed) - before) / seconds
    [poisoned] = await bed.put([NewTask("poison", {})])
    await _until(bed, "SELECT count(*) = 1 FROM dead_letter_queue")
    feeding.set()
    await feeder
    await _until(bed, "SELECT count(*) = 0 FROM background_tasks WHERE task_type = 'plain'"
                      " AND status <> 'completed'")  # fmt: skip
    keeping.set()
    await asyncio.gather(*keep)
    async with bed.db.transaction(Role.OPERATOR) as conn:
        row = await conn.fetchrow(
            "SELECT t.status, t.attempt, (SELECT count(*) FROM task_execution_history AS h"
            " WHERE h.task_id = t.id) AS kept FROM background_tasks AS t WHERE t.id = $1",
            poisoned,
        )
        dying = await conn.fetchrow(DYING, poisoned)
    share = dying["rate"] / usual
    say(f"poison: {row['status']} after {row['attempt']} deliveries, {row['kept']} kept; in the "
        f"{dying['seconds']:.0f} s of them the others at {100 * share:.0f} % of "
        f"{usual:,.0f} tasks/s")  # fmt: skip
    return bool(
        row["status"] == "dead_letter" and row["attempt"] <= 3 and row["kept"] == 3 and share >= 0.9
    )


async def _fed(bed: Bed, stop: asyncio.Event) -> None:
    """Enqueue 20 tasks of 50 ms twenty times a second."""
    started, batches = time.monotonic(), 0
    while not stop.is_set():
        await bed.put([NewTask("plain", {"s": 0.05}) for _ in range(20)])
        batches += 1
        await asyncio.sleep(max(0.0, started + batches * 0.05 - time.monotonic()))


async def _completed(bed: Bed) -> int:
    async with bed.db.transaction(Role.OPERATOR) as conn:
        found: int = await conn.fetchval(
            "SELECT count(*) FROM task_execution_history WHERE event_type = 'completed'"
        )
        return found


async def _kept_alive(url: str, stop: asyncio.Event) -> None:
    """Run a worker process and start another when it dies, as a supervisor does."""
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rigs.tasks_poison", url, stderr=subprocess.DEVNULL
        )
        ended = asyncio.create_task(process.wait())
        told = asyncio.create_task(stop.wait())
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if stop.is_set() and process.returncode is None:
            process.terminate()
        await ended


async def _until(bed: Bed, sql: str) -> None:
    async with asyncio.timeout(300):
        while True:
            async with bed.db.transaction(Role.OPERATOR) as conn:
                if await conn.fetchval(sql):
                    return
            await asyncio.sleep(0.1)


async def silence(bed: Bed) -> bool:
    """Q6: alive without progress is stuck; slow with progress is not."""
    registry = TaskRegistry()
    over = asyncio.Event()

    async def silent(ctx: TaskContext, payload: dict[str, int]) -> None:
        await over.wait()

    async def slow(ctx: TaskContext, payload: dict[str, int]) -> None:
        for percent in range(100):
            ctx.progress(percent)
            await asyncio.sleep(0.1)
            if over.is_set():
                return

    for name, handler in (("silent", silent), ("slow", slow)):
        registry.add(name, handler, stuck_after_s=1.0)
    made = await bed.put([NewTask("silent", {}), NewTask("slow", {})])
    worker = Worker(bed.db, registry, WorkerOptions(control_s=0.1), log=get_log("rig"))
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(bed.size(30, 4))
    async with bed.db.transaction(Role.OPERATOR) as conn:
        rows = await conn.fetch(
            "SELECT id, status::text FROM background_tasks WHERE id = ANY ($1::uuid[])", made
        )
    over.set()
    worker.stop()
    await run
    states = {row["id"]: row["status"] for row in rows}
    say(f"silence: the silent one is {states[made[0]]}, the slow one {states[made[1]]}")
    return states[made[0]] == "stuck" and states[made[1]] in {"running", "completed"}


async def deaf(bed: Bed) -> bool:
    """Q7: without notifications polling finds tasks."""
    registry = TaskRegistry()
    begun = asyncio.Event()

    async def late(ctx: TaskContext, payload: dict[str, int]) -> None:
        begun.set()

    registry.add("late", late)
    worker = Worker(bed.db, registry, WorkerOptions(), log=get_log("rig"))
    worker._on_notify = lambda *_: None  # type: ignore[method-assign] # noqa: SLF001 - deaf
    run = asyncio.create_task(worker.run())
    await worker.ready.wait()
    waits: list[float] = []
    for _ in range(bed.size(20, 3)):
        await asyncio.sleep(2.5)
        begun.clear()
        started = time.monotonic()
        await bed.put([NewTask("late", {})])
        await begun.wait()
        waits.append(time.monotonic() - started)
    worker.stop()
    await run
    say(f"deaf: without notifications a task begins after {max(waits):.1f} s at most")
    return max(waits) <= 5.0


async def flood(bed: Bed) -> bool:
    """Q7: enqueueing does not depend on the notification queue having room."""
    listener = await connect(bed.url, role=Role.OPERATOR)
    await listener.add_listener("helix_tasks", lambda *_: None)
    await listener.execute("BEGIN")  # a listener in a transaction holds the whole queue up
    await listener.fetchval("SELECT pg_current_xact_id()")
    owner = await connect(bed.url)
    used, noise = 0.0, 0
    while used < 0.9:
        noise += 1
        await owner.execute(
            "SELECT pg_notify('helix_rig_noise', $1 || $2)", "x" * 7_900, str(noise)
        )
        used = await owner.fetchval("SELECT pg_notification_queue_usage()")
    asleep = (
        "SELECT setval('task_sleeping_until', (extract(epoch FROM now()) * 1000)::bigint + 60000)"
    )
    await owner.execute(asleep)  # so that every enqueueing wants to notify
    made = [await bed.put([NewTask("flooded", {"n": n})]) for n in range(200)]
    refused = False
    try:
        while not refused:
            await owner.execute("SELECT pg_notify('helix_tasks', $1)", "x" * 7_900)
    except asyncpg.PostgresError:
        refused = True  # the control: without looking first, the queue does refuse
    await listener.execute("COMMIT")
    await listener.close()
    await owner.close()
    say(f"flood: notification queue {100 * used:.0f} % full: {len(made)} of 200 transactions "
        f"committed; one that notifies all the same is refused: {refused}")  # fmt: skip
    return len(made) == 200 and refused


async def feed(bed: Bed) -> bool:
    """D17: what is committed late is told late, but told."""
    late = bed.size(10_000, 400)
    writers = [await connect(bed.url, role=Role.OPERATOR) for _ in range(8)]
    reader = await connect(bed.url, role=Role.OPERATOR)
    told: Counter[UUID] = Counter()
    by_id: set[UUID] = set()
    stream = await EventFeed.from_now(reader)
    last, over = UUID(int=0), asyncio.Event()

    async def write(conn: Connection, share: int) -> None:
        for _ in range(share):
            async with conn.transaction():
                await enqueue_many(conn, [NewTask("fed", {})])
                await asyncio.sleep(bed.chance.random() * 0.004)

    async def read() -> None:
        nonlocal last
        while True:
            final = over.is_set()
            found = await stream.read(reader)
            told.update(event.id for _, event in found)
            rows = await reader.fetch("SELECT id FROM task_events WHERE id > $1 ORDER BY id", last)
            by_id.update(row["id"] for row in rows)
            last = rows[-1]["id"] if rows else last
            if final and not found:
                return

    reading = asyncio.create_task(read())
    await asyncio.gather(*(write(conn, late // len(writers)) for conn in writers))
    over.set()
    await reading
    kept = {row["id"] for row in await reader.fetch("SELECT id FROM task_events")}
    for conn in (*writers, reader):
        await conn.close()
    skipped, twice = len(kept - told.keys()), sum(1 for count in told.values() if count > 1)
    say(f"feed: {len(kept):,} events of overlapping transactions: {skipped} skipped, {twice} told "
        f"twice; a reader that goes by ids skips {len(kept - by_id):,}")  # fmt: skip
    return skipped == 0 and twice == 0 and len(kept - by_id) > 0


async def _nothing(ctx: TaskContext, payload: dict[str, int]) -> None:
    """Does nothing."""


EXPERIMENTS: dict[str, Callable[[Bed], Awaitable[bool]]] = {
    "claimers": claimers,
    "ticks": ticks,
    "clocks": clocks,
    "poison": poison,
    "silence": silence,
    "deaf": deaf,
    "flood": flood,
    "feed": feed,
}


async def run(names: list[str], *, short: bool, seed: int) -> bool:
    """Run the experiments, each in a database of its own; whether all held."""
    say(facts())
    configure("error")
    held = True
    with a_home() as home:
        make_home(home)
        postgres = EmbeddedPostgres(
            load_settings({}, home=home),
            options={"max_connections": "200", "max_notify_queue_pages": "64"},
        )
        socket_dir = (await postgres.start()).partition("host=")[2].partition("&")[0]
        try:
            for name in names:
                url = await make_database(socket_dir, f"rig_{name}", schema=True)
                db = Database(url, {role: PoolLimits(kept=0, maximum=20) for role in Role})
                try:
                    held &= await EXPERIMENTS[name](Bed(url, db, short, random.Random(seed)))
                finally:
                    await db.close()
        finally:
            await postgres.stop()
    say("every invariant holds" if held else "AN INVARIANT DOES NOT HOLD")
    return held


def main() -> None:
    """Read the command line; exit 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("experiments", nargs="*", choices=[*EXPERIMENTS, []], default=[])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=20261122)
    given = parser.parse_args()
    names = given.experiments or list(EXPERIMENTS)
    if not asyncio.run(run(names, short=given.short, seed=given.seed)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
