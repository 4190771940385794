"""fdatasync fails with EIO under load: PostgreSQL stops rather than lie, and nothing is lost (D6).

    python -m rigs.fsync_error [--faults 50] [--clients 8] [--seed N] [--short]

One Helix with its embedded PostgreSQL, and the provider, clients and ledgers of
rigs/kill_gateway.py. strace is put onto a process of PostgreSQL that commits what the gateway
records, and lets its next fdatasync fail: PostgreSQL must stop with PANIC and recover; the client
that got an error repeats its call under its Idempotency-Key. Whether the commit that failed was
kept is not for us to say: afterwards there must be exactly one row, and one call of the provider.

At the end the ledgers are held against the rows, and planted faults must be found. Exit status 1
when an invariant is broken or a planted fault is not found, 2 where strace may not trace.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg

from bench.machine import facts
from helix.core.db import connect
from rigs.kill_gateway import Rig, audit
from rigs.ledger import Entry

REPEAT_MOST_S = 90.0
CALM_S = 0.3
BACK_MOST_S = 15.0
_WRITER = """
SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND backend_type = 'client backend'
"""
_TROUBLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


class Faults(Rig):
    """Clients that repeat what fails, and an fdatasync that fails now and then."""

    def __init__(self, given: argparse.Namespace, home: Path) -> None:
        super().__init__(given, home)
        self.over = False
        self.problems: list[str] = []
        self.served_at_s: list[float] = []
        self.back_s: list[float] = []
        self.panics = 0

    def numbers(self) -> Iterator[int]:
        """Yield numbers until the faults are over."""
        yield from itertools.takewhile(lambda _: not self.over, itertools.count())

    def headers(self, entry: Entry) -> dict[str, str]:
        """Return the key under which a call may be repeated."""
        return {"Idempotency-Key": entry.op}

    async def call(self, session: aiohttp.ClientSession, entry: Entry) -> None:
        """Make a call, again and again until it is served, as a patient client does."""
        deadline = time.monotonic() + REPEAT_MOST_S
        for attempt in itertools.count():
            entry.state, entry.content = "unknown", ""
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await super().call(session, entry)
            if attempt:
                entry.repeated, entry.request_id = True, None
            if entry.state == "acked":
                self.served_at_s.append(time.monotonic())
                return
            if time.monotonic() > deadline:
                self.problems.append(f"{entry.op} was not served in {REPEAT_MOST_S:.0f} s")
                return
            await asyncio.sleep(0.05)

    async def disturb(self, clients: list[asyncio.Task[None]]) -> None:
        """Let fdatasync fail, so many times."""
        try:
            for number in range(self.given.faults):
                await self._calm()
                await asyncio.sleep(self.rng.random() * 0.2)
                await self._fault(("admit", "settle")[number % 2])
            await self._calm()
        finally:
            self.over = True

    async def _calm(self) -> None:
        since_s = time.monotonic()
        while not self.served_at_s or self.served_at_s[-1] < since_s + CALM_S:
            if time.monotonic() > since_s + REPEAT_MOST_S:
                raise RuntimeError("no call is served")
            await asyncio.sleep(0.01)

    async def _fault(self, lane: str) -> None:
        """Let the next fdatasync of a recorder's backend fail, and wait until all is well."""
        pid = await self._backend(f"helix recorder {lane}")
        tracer = await asyncio.create_subprocess_exec(
            "strace", "-qq", "-p", str(pid), "-e", "trace=fdatasync", "-e",
            "inject=fdatasync:error=EIO:when=1", "-o", str(self.home.parent / "strace.log"),
        )  # fmt: skip
        try:
            async with asyncio.timeout(REPEAT_MOST_S):
                await tracer.wait()  # it ends with the process that stops with PANIC
        except TimeoutError:
            tracer.terminate()
            await tracer.wait()
            self.problems.append("no fdatasync was seen")
            return
        stopped_s = time.monotonic()
        if "INJECTED" not in (self.home.parent / "strace.log").read_text():
            self.problems.append("the process ended before an fdatasync failed")
        while self.served_at_s[-1] < stopped_s:
            if time.monotonic() > stopped_s + REPEAT_MOST_S:
                raise RuntimeError("nothing is served after the fault")
            await asyncio.sleep(0.005)
        back = next(at_s for at_s in self.served_at_s if at_s >= stopped_s) - stopped_s
        self.back_s.append(back)
        if back > BACK_MOST_S:
            self.problems.append(f"calls were served only {back:.1f} s after the fault")

    async def _backend(self, name: str) -> int:
        deadline = time.monotonic() + REPEAT_MOST_S
        while time.monotonic() < deadline:
            with contextlib.suppress(*_TROUBLE):
                conn = await connect(self.running().database_url)
                try:
                    if (pid := await conn.fetchval(_WRITER, name)) is not None:
                        return int(pid)
                finally:
                    await conn.close()
            await asyncio.sleep(0.05)
        raise RuntimeError(f"there is no connection {name}")


def _may_trace() -> str | None:
    """Return why strace cannot be used here, or None."""
    if shutil.which("strace") is None:
        return "there is no strace"
    done = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else f"strace may not trace: {done.stderr.strip()}"


def _panics(rig: Faults) -> int:
    log = rig.home / "log" / "postgres.log"
    return log.read_text(errors="replace").count("PANIC:  could not fsync") + log.read_text(
        errors="replace"
    ).count("PANIC:  could not fdatasync")


def _report(rig: Faults, seconds: float) -> int:
    problems, missed = audit(rig)
    problems = rig.problems + problems
    panics, back = _panics(rig), sorted(rig.back_s) or [0.0]
    if panics < rig.given.faults:
        problems.append(f"PostgreSQL stopped {panics} times for {rig.given.faults} faults")
    repeated = sum(entry.repeated for entry in rig.ledger.entries.values())
    print(
        f"{len(rig.ledger.entries)} calls in {seconds:.0f} s, {rig.given.faults} faults, {panics}"
        f" PANICs: {rig.ledger.count('acked')} acknowledged, {repeated} of them repeated under"
        f" their key; served again {back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s"
        " (longest) after the fault"
    )
    for refusal, times in rig.refusals.most_common(3):
        print(f"  refused {times} times: {refusal[:120]}")
    for problem in problems[:20]:
        print(f"  {problem}")
    print(f"violations: {len(problems)}; planted faults not found: {missed or 'none'}")
    return 1 if problems or missed or not rig.ledger.count("acked") else 0


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="4 faults")
    given = parser.parse_args()
    given.calls = 0
    if given.short:
        given.faults = 4
    if (why := _may_trace()) is not None:
        print(why, file=sys.stderr)
        raise SystemExit(2)
    print(f"{facts()}\nseed {given.seed}, {given.clients} clients, half of the calls stream")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        rig = Faults(given, Path(name) / "home")
        begun = time.monotonic()
        try:
            asyncio.run(rig.run())
            status = _report(rig, time.monotonic() - begun)
        finally:
            if rig.helix is not None:
                rig.helix.process.terminate()
                rig.helix.process.wait(60)
    sys.exit(status)


if __name__ == "__main__":
    main()
