"""PostgreSQL killed, restarted, cut and away under load: nothing lost, nobody kept waiting.

    python -m rigs.outage [--kills 20] [--restarts 10] [--cuts 60] [--away 600] [--clients 16]
                          [--seed N] [--short]

One Helix on a PostgreSQL that this rig holds and mistreats, with the provider, the clients and the
ledgers of rigs/kill_gateway.py. Clients repeat a refused call under its Idempotency-Key until it
is served.

- D3: kill -9 of the postmaster and of every backend, so many times;
- D5: so many fast and so many immediate restarts; then a random backend of Helix terminated every
  second, for so many seconds;
- D13: away for so many seconds, in which 1,500 calls are sent: each is refused with 503 and
  Retry-After within 2 s, none is served, memory grows by 20 MB at most; the first call is served
  within a second of PostgreSQL's return.

At the end the ledgers are held against the rows, and planted faults must be found. Exit status 1
when an invariant is broken or a planted fault is not found.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from bench.machine import facts
from helix.core.config import load_settings
from helix.core.db import connect
from helix.core.instance import lock_home, make_home
from helix.operations import EmbeddedPostgres
from rigs.kill_gateway import Rig, audit
from rigs.ledger import Entry

REFUSED_MOST_S = 2.0
BACK_MOST_S = 1.0
GROWTH_MOST_BYTES = 20_000_000
AWAY_CALLS = 1_500
AWAY_CLIENTS = 32
REPEAT_MOST_S = 90.0
CALM_S = 0.5
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name LIKE 'helix%' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1
"""


class Outages(Rig):
    """Clients that repeat what is refused, and the PostgreSQL that comes and goes."""

    def __init__(self, given: argparse.Namespace, home: Path, postgres: EmbeddedPostgres) -> None:
        super().__init__(given, home, {"DATABASE_URL": postgres.url})
        self.postgres = postgres
        self.over = False
        self.problems: list[str] = []
        self.refused_s: list[float] = []
        self.served_at_s: list[float] = []
        self.back_s: list[float] = []
        self.under_way = 0

    def numbers(self) -> Iterator[int]:
        """Yield numbers until the faults are over."""
        yield from itertools.takewhile(lambda _: not self.over, itertools.count())

    def headers(self, entry: Entry) -> dict[str, str]:
        """Return the key under which a call may be repeated."""
        return {"Idempotency-Key": entry.op}

    def refused(self, answer: aiohttp.ClientResponse, after_s: float) -> None:
        """Hold a refusal to what is promised of one."""
        self.refused_s.append(after_s)
        if answer.status != 503 or not answer.headers.get("retry-after", "").isdecimal():
            after = answer.headers.get("retry-after")
            self.problems.append(f"refused: {answer.status}, Retry-After {after}")

    async def call(self, session: aiohttp.ClientSession, entry: Entry) -> None:
        """Make a call, again and again until it is served, as a patient client does."""
        self.under_way += 1
        deadline = time.monotonic() + REPEAT_MOST_S
        try:
            for attempt in itertools.count():
                entry.state, entry.content = "unknown", ""
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await super().call(session, entry)
                if attempt:
                    entry.repeated, entry.request_id = True, None  # each try has an id of its own
                if entry.state == "acked":
                    self.served_at_s.append(time.monotonic())
                    return
                if time.monotonic() > deadline:
                    self.problems.append(f"{entry.op} was not served in {REPEAT_MOST_S:.0f} s")
                    return
                await asyncio.sleep(0.05)
        finally:
            self.under_way -= 1

    # ---- the faults

    async def disturb(self, clients: list[asyncio.Task[None]]) -> None:
        """Do every fault in turn, each under load and from calm."""
        try:
            for _ in range(self.given.kills):
                await self._restart(signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGQUIT):
                for _ in range(self.given.restarts):
                    await self._restart(number)
            await self._cut_backends()
            await self._away()
            await asyncio.sleep(CALM_S)
        finally:
            self.over = True
            self.up.set()

    async def _restart(self, number: signal.Signals) -> None:
        await self._calm()
        await asyncio.sleep(self.rng.random() * CALM_S)
        await self._stop(number)
        await self.postgres.start()
        await self._served_after(time.monotonic())

    async def _stop(self, number: signal.Signals) -> None:
        """End PostgreSQL: with SIGKILL the postmaster and every backend, without a word."""
        pid = self.postgres.pid
        if pid is None:
            raise RuntimeError("PostgreSQL does not run")
        if number is signal.SIGKILL:
            for each in [pid, *_descendants(pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, number)
        else:
            os.kill(pid, number)
        while self.postgres.pid is not None:  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.01)
        await self.postgres.stop()

    async def _calm(self) -> None:
        """Wait until calls are served again, so that each fault finds load."""
        since_s = time.monotonic()
        while not self.served_at_s or self.served_at_s[-1] < since_s + CALM_S / 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _served_after(self, ready_s: float) -> None:
        """Wait for the first call served since PostgreSQL was ready, and note how long it took."""
        deadline = ready_s + REPEAT_MOST_S
        while not self.served_at_s or self.served_at_s[-1] < ready_s:
            if time.monotonic() > deadline:
                self.problems.append("back: nothing was served after PostgreSQL was back")
                return
            await asyncio.sleep(0.005)
        first_s = next(at_s for at_s in self.served_at_s if at_s >= ready_s)
        self.back_s.append(first_s - ready_s)

    async def _cut_backends(self) -> None:
        """Terminate a random backend of Helix every second."""
        conn = await connect(self.postgres.url)
        for _ in range(self.given.cuts):
            await asyncio.sleep(1)
            await conn.execute(_TERMINATE)
        await conn.close()

    async def _away(self) -> None:
        """Stop PostgreSQL for a while and call all the same (D13)."""
        await self._calm()
        self.up.clear()
        while self.under_way:  # noqa: ASYNC110 - clients end their calls
            await asyncio.sleep(0.01)
        self.refused_s.clear()
        before = _memory_bytes(self.running().pid)
        gone_s = time.monotonic()
        await self._stop(signal.SIGINT)
        most, served = before, []
        numbers = iter(range(AWAY_CALLS))

        async def ask() -> None:
            nonlocal most
            async with aiohttp.ClientSession() as session:
                for number in numbers:
                    entry = self.ledger.issue(f"away-{number}", stream=number % 2 == 1)
                    await Rig.call(self, session, entry)
                    if entry.state != "refused":
                        served.append(entry.op)
                    most = max(most, _memory_bytes(self.running().pid))

        await asyncio.gather(*(ask() for _ in range(AWAY_CLIENTS)))
        told = f"{len(self.refused_s)} refused, {len(served)} served"
        if served or len(self.refused_s) != AWAY_CALLS:
            self.problems.append(f"away: {told} of {AWAY_CALLS}")
        longest = max(self.refused_s)
        if longest > REFUSED_MOST_S:
            self.problems.append(f"away: a refusal took {longest:.2f} s")
        while time.monotonic() < gone_s + self.given.away:  # noqa: ASYNC110 - it is away so long
            await asyncio.sleep(0.1)
        growth = max(most, _memory_bytes(self.running().pid)) - before
        if growth > GROWTH_MOST_BYTES:
            self.problems.append(f"away: memory grew by {growth / 1e6:.0f} MB")
        self.up.set()
        await asyncio.sleep(CALM_S)  # the clients are refused, too
        await self.postgres.start()
        await self._served_after(time.monotonic())
        print(
            f"away {time.monotonic() - gone_s:.0f} s: {told} of {AWAY_CALLS} calls, the slowest"
            f" after {longest:.2f} s; memory +{growth / 1e6:.1f} MB; first call served"
            f" {self.back_s[-1]:.2f} s after PostgreSQL was back"
        )


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [each for child in children for each in (int(child), *_descendants(int(child)))]


def _memory_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1_024


async def _run(given: argparse.Namespace, place: Path) -> int:
    settings = load_settings({}, home=place / "database")
    make_home(settings.home_dir)
    with lock_home(settings.home_dir, "rig"):
        postgres = EmbeddedPostgres(settings)
        await postgres.start()
        rig = Outages(given, place / "home", postgres)
        begun = time.monotonic()
        try:
            await rig.run()
            return await asyncio.to_thread(_report, rig, time.monotonic() - begun)
        finally:
            if rig.helix is not None:
                rig.helix.process.terminate()
                await asyncio.to_thread(rig.helix.process.wait, 60)
            await postgres.stop()


def _report(rig: Outages, seconds: float) -> int:
    problems, missed = audit(rig)
    problems = rig.problems + problems
    if rig.running().process.poll() is not None:
        problems.append("the gateway ended")
    back, refused = sorted(rig.back_s), sorted(rig.refused_s) or [0.0]
    problems += [f"back: {one:.2f} s after PostgreSQL was" for one in back if one > BACK_MOST_S]
    print(
        f"{len(rig.ledger.entries)} calls in {seconds:.0f} s: {rig.ledger.count('acked')}"
        f" acknowledged, {rig.ledger.count('refused')} refused; {len(rig.refused_s)} refusals, the"
        f" slowest after {refused[-1]:.2f} s; {len(back)} outages, served again"
        f" {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (longest) after PostgreSQL"
    )
    for refusal, times in rig.refusals.most_common(3):
        print(f"  refused {times} times: {refusal}")
    for problem in problems[:20]:
        print(f"  {problem}")
    print(f"violations: {len(problems)}; planted faults not found: {missed or 'none'}")
    return 1 if problems or missed or not rig.ledger.count("acked") else 0


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=10, help="fast, and as many immediate")
    parser.add_argument("--cuts", type=int, default=60, help="seconds, a backend each")
    parser.add_argument("--away", type=float, default=600.0, help="seconds")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="2 kills, 2 restarts, 3 cuts, 5 s")
    given = parser.parse_args()
    given.calls = 0
    if given.short:
        given.kills, given.restarts, given.cuts, given.away = 2, 1, 3, 5.0
    print(f"{facts()}\nseed {given.seed}, {given.clients} clients, half of the calls stream")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name)))
    sys.exit(status)


if __name__ == "__main__":
    main()
