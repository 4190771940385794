"""Kill, pause and restart everything under the task queue, and compare ledgers.

    python -m rigs.tasks_kill [--short] [--kills 200] [--seed N]

Four worker processes run tasks; the effect of each is a row written in the transaction that
completes the task. Meanwhile, at random moments by the seed: kill -9 of a worker, SIGSTOP of one
past its lease, an immediate restart of PostgreSQL. Afterwards, of the tasks whose enqueueing was
acknowledged:

    lost        neither completed with its effect nor given up after
                its worker had been killed under it three times         must be 0
    doubled     with two effects, or two completed attempts             must be 0
    stale       effect of another attempt than the one that completed   must be 0
    reclaim     from the kill of a worker to its tasks' being given back, at most lease + 5 s
                (30 s in the short form, which runs wherever CI does)

The same with workers that write without holding their attempt must show faults (positive control),
or the rig proves nothing.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from bench.machine import facts
from bench.tasks import a_home, make_database
from helix.core.config import load_settings
from helix.core.db import OUTAGES, Database, PoolLimits, Role, connect
from helix.core.errors import Unavailable
from helix.core.instance import make_home
from helix.operations import EmbeddedPostgres
from helix.tasks import NewTask, RetryPolicy, TaskRegistry, enqueue_many
from rigs.tasks_effects import LEASE_S

WORKERS = 4
BATCH = 20
TROUBLE = (*OUTAGES, asyncpg.PostgresError, asyncpg.InternalClientError)
FAULTS = ("kill", "kill", "kill", "kill", "pause")
HELD = "('queued', 'running', 'stuck')"  # lets the index by status find them
TABLE = """
    CREATE TABLE rig_effects (task_id uuid NOT NULL, token bigint NOT NULL);
    GRANT SELECT, INSERT ON rig_effects TO helix_operator
"""
VERDICT = """
    SELECT count(*) FILTER (WHERE NOT (t.status = 'completed' AND coalesce(e.effects, 0) = 1)
                   AND NOT (t.status = 'dead_letter' AND t.lost_count = 3
                            AND e.effects IS NULL)) AS lost,
           count(*) FILTER (WHERE t.status = 'dead_letter') AS given_up,
           count(*) FILTER (WHERE t.status = 'dead_letter'
                              AND t.lost_count <> 3) AS wrongly_given_up,
           count(*) FILTER (WHERE e.effects > 1 OR h.completed > 1) AS doubled,
           count(*) FILTER (WHERE e.token <> t.fencing_token) AS stale,
           count(*) FILTER (WHERE t.attempt > 1) AS taken_over,
           max(t.attempt) AS attempts
    FROM background_tasks AS t
    LEFT JOIN (SELECT task_id, count(*) AS effects, max(token) AS token
               FROM rig_effects GROUP BY 1) AS e ON e.task_id = t.id
    LEFT JOIN (SELECT task_id, count(*) FILTER (WHERE event_type = 'completed') AS completed
               FROM task_execution_history GROUP BY 1) AS h ON h.task_id = t.id
"""


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


@dataclass
class Rig:
    """One run: its processes, and what it has seen."""

    url: str
    postgres: EmbeddedPostgres
    ledger: Path
    chance: random.Random
    control: bool
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    acked: int = 0
    unknown: int = 0
    kills: int = 0
    pauses: int = 0
    restarts: int = 0
    outage_s: float = 0.0
    reclaims_s: list[float] = field(default_factory=list)

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Start one worker process."""
        command = [sys.executable, "-m", "rigs.tasks_effects", self.url, str(self.ledger),
                   str(int(self.control))]  # fmt: skip
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    async def feed(self, stop: asyncio.Event) -> None:
        """Enqueue small batches, each in a transaction of its own, until told to stop."""
        db = Database(
            self.url, {Role.OPERATOR: PoolLimits(kept=0, maximum=2, acquire_timeout_s=5.0)}
        )
        registry = TaskRegistry()
        task = registry.add("effect", _nothing, retry=RetryPolicy(max_retries=100, delay_s=0))
        while not stop.is_set():
            news: list[NewTask] = [
                task.new({"s": self.chance.choice((0.0, 0.01, 0.05, 0.2))}, max_retries=100)
                for _ in range(BATCH)
            ]
            try:
                async with db.transaction(Role.OPERATOR) as conn:
                    await enqueue_many(conn, news)
                self.acked += BATCH
            except TROUBLE:
                self.unknown += BATCH
                await asyncio.sleep(0.2)
            except Unavailable:  # before anything was sent
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.05)
        await db.close()

    async def held_by(self, pid: int) -> str | None:
        """Return the id of the worker that process `pid` is, or None if it holds nothing.

        A process that is still starting is waited for: killing it would prove nothing, and where
        the machine is busy it would be most of those that are killed.
        """
        for _ in range(100):
            found = await self._ask(
                "SELECT w.id FROM task_workers AS w WHERE w.pid = $1"
                " AND EXISTS (SELECT FROM background_tasks AS t WHERE t.worker_id = w.id"
                f" AND t.status IN {HELD})",
                pid,
            )
            if found is not None:
                return str(found)
            await asyncio.sleep(0.1)
        return None

    async def _ask(self, sql: str, *values: Any) -> Any:
        while True:
            try:
                conn = await connect(self.url, timeout_s=5)
                try:
                    return await conn.fetchval(sql, *values)
                finally:
                    conn.terminate()
            except TROUBLE:
                await asyncio.sleep(0.1)

    async def watch_reclaim(self, worker_id: str, since: float) -> None:
        """Measure until no task names the dead worker any more, outages of the database apart."""
        outage_s = self.outage_s
        held = f"SELECT count(*) FROM background_tasks WHERE worker_id = $1 AND status IN {HELD}"
        while await self._ask(held, worker_id):  # noqa: ASYNC110 - another process ends it
            await asyncio.sleep(0.1)
        self.reclaims_s.append(time.monotonic() - since - (self.outage_s - outage_s))

    async def break_things(self, kills: int, restarts: int) -> None:
        """Do the faults, at random moments."""
        watches: list[asyncio.Task[None]] = []
        restart_at = {int((n + 1) * kills / (restarts + 1)) for n in range(restarts)}
        while self.kills + self.pauses < kills:
            await asyncio.sleep(self.chance.uniform(0.1, 0.6))
            at = self.chance.randrange(len(self.workers))
            victim = self.workers[at]
            kill = self.chance.choice(FAULTS) == "kill"
            worker_id = await self.held_by(victim.pid)
            if kill:
                victim.kill()
                victim.wait()
                if worker_id is not None:
                    watches.append(
                        asyncio.create_task(self.watch_reclaim(worker_id, time.monotonic()))
                    )
                self.workers[at] = self.spawn()
                self.kills += 1
            else:
                os.kill(victim.pid, signal.SIGSTOP)
                await asyncio.sleep(LEASE_S + self.chance.uniform(0.2, 2.0))
                os.kill(victim.pid, signal.SIGCONT)
                self.pauses += 1
            if self.kills + self.pauses in restart_at:
                restart_at.discard(self.kills + self.pauses)
                began = time.monotonic()
                await self.postgres.stop()
                await self.postgres.start()
                self.outage_s += time.monotonic() - began
                self.restarts += 1
        await asyncio.gather(*watches)


async def _nothing(ctx: Any, payload: dict[str, Any]) -> None:
    """Stands for the handler where tasks are only enqueued."""


async def drain(rig: Rig, patience_s: float) -> None:
    """Wait until nothing is left to do, or nothing has been done for `patience_s`."""
    least, since = -1, time.monotonic()
    while time.monotonic() - since < patience_s:
        left = await rig._ask(  # noqa: SLF001 - the rig's own
            "SELECT count(*) FROM background_tasks"
            " WHERE status NOT IN ('completed', 'failed', 'cancelled', 'dead_letter')"
        )
        if not left:
            return
        if least < 0 or left < least:
            least, since = left, time.monotonic()
        await asyncio.sleep(0.2)


async def experiment(*, kills: int, restarts: int, seed: int, control: bool) -> dict[str, Any]:
    """Run once and return the verdict."""
    with a_home() as home, tempfile.TemporaryDirectory() as folder:
        make_home(home)
        postgres = EmbeddedPostgres(
            load_settings({}, home=home), options={"max_connections": "300"}
        )
        socket_dir = (await postgres.start()).partition("host=")[2].partition("&")[0]
        url = await make_database(socket_dir, "rig", schema=True)
        owner = await connect(url)
        await owner.execute(TABLE)
        await owner.close()
        rig = Rig(url, postgres, Path(folder) / "ledger", random.Random(seed), control)
        started = time.monotonic()
        try:
            rig.workers = [rig.spawn() for _ in range(WORKERS)]
            stop = asyncio.Event()
            feeding = asyncio.create_task(rig.feed(stop))
            await rig.break_things(kills, restarts)
            stop.set()
            await feeding
            await drain(rig, 60)
            conn = await connect(url)
            verdict = dict(await conn.fetchrow(VERDICT))
            verdict["tasks"] = await conn.fetchval("SELECT count(*) FROM background_tasks")
            verdict["phantom"] = max(0, verdict["tasks"] - rig.acked - rig.unknown)
            verdict["missing"] = max(0, rig.acked - verdict["tasks"])
            await conn.close()
        finally:
            for worker in rig.workers:
                with suppress(OSError):
                    worker.kill()
                worker.wait()
            await postgres.stop()
        slowest = max(rig.reclaims_s, default=0.0)
        say(
            f"{'control' if control else 'run'} seed {seed}: {rig.acked} tasks acknowledged"
            f" ({rig.unknown} unknown), {rig.kills} kill -9, {rig.pauses} pauses past the lease,"
            f" {rig.restarts} restarts of PostgreSQL, {time.monotonic() - started:.0f} s;"
            f" {verdict['given_up']} given up as poison after three kills,"
            f" {verdict['taken_over']} taken over, up to {verdict['attempts']} attempts,"
            f" reclaim at most {slowest:.1f} s (lease {LEASE_S:g} s)"
        )
        verdict["reclaim_s"] = slowest
        return verdict


async def run(*, kills: int, restarts: int, seed: int, slack_s: float) -> bool:
    """Run the experiment and its control; whether both said what they must."""
    say(f"{facts()}")
    control = await experiment(kills=max(8, kills // 10), restarts=0, seed=seed, control=True)
    noticed = control["doubled"] + control["stale"]
    say(f"control: {noticed} faults noticed (must be more than 0)")
    found = await experiment(kills=kills, restarts=restarts, seed=seed, control=False)
    faults = ("lost", "wrongly_given_up", "doubled", "stale", "phantom", "missing")
    say(", ".join(f"{name}={found[name]}" for name in faults))
    return (
        noticed > 0
        and not any(found[name] for name in faults)
        and found["reclaim_s"] <= LEASE_S + slack_s
    )


def main() -> None:
    """Read the command line; exit 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="at most a minute")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=4)
    given = parser.parse_args()
    kills, restarts = (10, 1) if given.short else (given.kills, given.restarts)
    slack_s = 30.0 if given.short else 5.0  # others may load the machine a short form runs on
    good = asyncio.run(run(kills=kills, restarts=restarts, seed=given.seed, slack_s=slack_s))
    say("every invariant holds" if good else "AN INVARIANT DOES NOT HOLD")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
