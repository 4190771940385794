"""The disk full under load: refused clearly, nothing acknowledged lost, and well again by itself.

    python -m rigs.disk_full [--cycles 3] [--hold 30] [--clients 12] [--seed N] [--only d7|d8|d9]
                             [--short]

A Helix with its embedded PostgreSQL, whose data directory and pg_wal lie on small file systems in
memory, with the provider, the clients and the ledgers of rigs/kill_gateway.py. Clients repeat a
refused call under its Idempotency-Key until it is served. Needs root, for mount.

- D7, the volume of the data full: `helix doctor` warns at 80 %; then every call is refused with 503
  and Retry-After, /ready is 503, models and recorded calls are read, no task is claimed, PostgreSQL
  keeps running; when space returns calls are served and the tasks run, and nobody did anything.
- D8, the volume of the WAL full: the doctor warns at 80 %; PostgreSQL stops with PANIC, calls are
  refused; when space returns the supervisor brings it back.
- D9, the volume of the log full: calls are served, also after PostgreSQL was killed and started
  anew. (The volumes of backups and of the archived log are filled by rigs/recovery.py.)

At the end of each the ledgers are held against the rows, and planted faults must be found. Exit
status 1 when an invariant is broken or a planted fault is not found, 2 when nothing can be mounted.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psycopg

from bench.machine import facts
from bench.processes import clean_environment, start
from helix.core.config import load_settings
from helix.core.db import Role, connect
from helix.core.instance import HomePaths, lock_home, make_home
from helix.operations import EmbeddedPostgres, upgrade
from helix.tasks import NewTask, enqueue
from rigs.kill_gateway import Rig, audit
from rigs.ledger import Entry

DATA_MB, WAL_MB = 220, 160
REPEAT_MOST_S = 180.0
BACK_MOST_S = {"d7": 5.0, "d8": 15.0}  # the supervisor looks every 5 s
CALM_S = 0.5
TASKS = 20
LOG_CALLS = 50
CALL_MOST_S = 8.0
SAMPLE = "helix.doctor.sample"


class Full(Rig):
    """Clients that repeat what is refused, and a volume that fills and empties."""

    def __init__(self, given: argparse.Namespace, home: Path, kind: str) -> None:
        super().__init__(given, home, {"HELIX_DOCTOR_INTERVAL_S": "2"})
        self.kind = kind
        self.volume = home / "postgres" if kind == "d7" else home / "postgres" / "pg_wal"
        self.filler = self.volume / "filler"
        self.over = False
        self.problems: list[str] = []
        self.back_s: list[float] = []
        self.served_at_s: list[float] = []
        self.refused_s: list[float] = []

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
        if after_s > CALL_MOST_S:
            self.problems.append(f"a refusal took {after_s:.1f} s")

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
            await asyncio.sleep(0.2)

    # ---- the faults

    async def disturb(self, clients: list[asyncio.Task[None]]) -> None:
        """Fill the volume and empty it again, so many times."""
        try:
            for _ in range(self.given.cycles):
                await self._calm()
                await self._cycle()
            await self._calm()
        finally:
            self.over = True

    async def _calm(self) -> None:
        since_s = time.monotonic()
        while not self.served_at_s or self.served_at_s[-1] < since_s + CALM_S:
            if time.monotonic() > since_s + REPEAT_MOST_S:
                raise RuntimeError("no call is served")
            await asyncio.sleep(0.02)

    async def _cycle(self) -> None:
        helix = self.running()
        postmaster = helix.postgres_pid
        self._leave(0.15)
        await self._doctor_warns()
        due_s = time.time() + 1.0
        ids = await self._enqueue(due_s) if self.kind == "d7" else []
        filled_s = time.monotonic()
        self._leave_bytes(0 if self.kind == "d7" else 8 << 20)
        load = None if self.kind == "d7" else asyncio.create_task(self._write_wal())
        await self._refusing(filled_s)
        full_s = time.monotonic()
        started = await self._started(ids) if ids else 0
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < full_s + self.given.hold:
                await self._expect(session, "/ready", 503)
                if self.kind == "d7":
                    await self._expect(session, "/v1/models", 200)
                    await self._expect(session, "/api/calls", 200)
                await asyncio.sleep(0.5)
        if any(at_s > full_s for at_s in self.served_at_s):
            self.problems.append("a call was served while the volume was full")
        if ids and await self._started(ids) > started:
            self.problems.append("a task was claimed while the volume was full")
        alive = helix.postgres_pid
        if self.kind == "d7" and alive != postmaster:
            self.problems.append("PostgreSQL ended, though only the volume of the data was full")
        if load is not None:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        self.filler.unlink()
        freed_s = time.monotonic()
        while not self.served_at_s or self.served_at_s[-1] < freed_s:
            if time.monotonic() > freed_s + REPEAT_MOST_S:
                raise RuntimeError("nothing is served, though there is room again")
            await asyncio.sleep(0.005)
        back_s = next(at_s for at_s in self.served_at_s if at_s >= freed_s) - freed_s
        self.back_s.append(back_s)
        if back_s > BACK_MOST_S[self.kind]:
            self.problems.append(f"calls were served only {back_s:.1f} s after there was room")
        await self._ready_again(freed_s)
        if ids:
            await self._all_done(ids)
        print(
            f"  {self.kind}: refused {full_s - filled_s:.1f} s after the volume was full, held"
            f" {freed_s - full_s:.0f} s, served {back_s:.2f} s after there was room"
            f"; PostgreSQL was {'the same' if alive == postmaster else 'started anew'}"
        )

    def _leave(self, share: float) -> None:
        """Fill the volume so that this share of it is free."""
        found = os.statvfs(self.volume)
        self._leave_bytes(int(found.f_blocks * found.f_frsize * share))

    def _leave_bytes(self, left: int) -> None:
        """Fill the volume until so many bytes are free; as far as there are more."""
        with self.filler.open("ab") as file:
            while (more := _free(self.volume) - left) > 0:
                try:
                    file.write(b"\0" * min(more, 1 << 20))
                    file.flush()
                except OSError:
                    return

    async def _doctor_warns(self) -> None:
        code = "disk_data" if self.kind == "d7" else "disk_wal"
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "helix", "doctor", "--json", "--only", code, "--home",
             str(self.home)],
            env=clean_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 1 or json.loads(done.stdout)["severity"] != "warning":
            self.problems.append(f"the doctor did not warn: {done.stdout} {done.stderr}")

    async def _enqueue(self, due_s: float) -> list[str]:
        """Make tasks that are due when the volume is full."""
        conn = await connect(self.running().database_url, role=Role.OPERATOR)
        try:
            moment = await conn.fetchval("SELECT to_timestamp($1::float8)", due_s + 3.0)
            made = [
                await enqueue(conn, NewTask(SAMPLE, queue="system", scheduled_at=moment))
                for _ in range(TASKS)
            ]
        finally:
            await conn.close()
        return [str(each.id) for each in made]

    async def _write_wal(self) -> None:
        """Write WAL until there is no room for it: clients alone would take minutes."""
        with contextlib.suppress(psycopg.Error):
            async with await psycopg.AsyncConnection.connect(
                self.running().database_url, autocommit=True
            ) as conn:
                while True:
                    await conn.execute(
                        "SELECT pg_logical_emit_message(false, 'rig', repeat('x', 1000000))"
                    )

    async def _refusing(self, since_s: float) -> None:
        """Wait until nothing has been served for a while and something was refused."""
        seen = len(self.refused_s)
        while True:
            await asyncio.sleep(0.1)
            last = self.served_at_s[-1]
            if len(self.refused_s) >= seen + 5 and time.monotonic() > last + 3.0:
                return
            if time.monotonic() > since_s + REPEAT_MOST_S:
                raise RuntimeError("calls are still served, though the volume is full")

    async def _started(self, ids: list[str]) -> int:
        conn = await connect(self.running().database_url)
        try:
            found = await conn.fetchval(
                "SELECT count(*) FROM background_tasks WHERE id = ANY ($1::text[]::uuid[])"
                " AND status <> 'pending'",
                ids,
            )
        finally:
            await conn.close()
        return int(found)

    async def _all_done(self, ids: list[str]) -> None:
        deadline = time.monotonic() + 90
        conn = await connect(self.running().database_url)
        try:
            while await conn.fetchval(
                "SELECT count(*) FROM background_tasks WHERE id = ANY ($1::text[]::uuid[])"
                " AND status <> 'completed'",
                ids,
            ):
                if time.monotonic() > deadline:
                    self.problems.append("tasks did not run after there was room again")
                    return
                await asyncio.sleep(0.2)
        finally:
            await conn.close()

    async def _expect(self, session: aiohttp.ClientSession, path: str, status: int) -> None:
        headers = {"Authorization": f"Bearer {self.running().api_key}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        async with session.get(url, headers=headers) as answer:
            if answer.status != status:
                body = (await answer.text())[:120]
                self.problems.append(f"{path} answered {answer.status} while full: {body}")

    async def _ready_again(self, since_s: float) -> None:
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < since_s + REPEAT_MOST_S:
                async with session.get(f"http://127.0.0.1:{self.port}/ready") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.05)
        self.problems.append("/ready stayed 503, though there is room again")


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _mount(path: Path, megabytes: int) -> None:
    """Put a file system in memory at `path`, with what the directory holds; raises OSError."""
    aside, owner = path.with_name(f"{path.name}.aside"), path.stat()
    path.rename(aside)
    path.mkdir(mode=0o700)
    options = f"size={megabytes}m,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "helix-rig", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(done.stderr.strip())
    subprocess.run(["cp", "-a", f"{aside}/.", str(path)], check=True)
    shutil.rmtree(aside)


def _unmount(paths: list[Path]) -> None:
    for path in reversed(paths):
        subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


async def _make(home: Path) -> None:
    """Make a home whose database is at the head, and stop it again."""
    settings = load_settings({}, home=home)
    make_home(home)
    with lock_home(home, "rig"):
        server = EmbeddedPostgres(settings)
        await server.start()
        await upgrade(server.url)
        await server.stop()


async def _run(given: argparse.Namespace, place: Path, kind: str) -> int:
    home = place / "home"
    await _make(home)
    data = home / "postgres"
    mounted: list[Path] = []
    rig = Full(given, home, kind)
    begun = time.monotonic()
    try:
        try:
            # WAL first to the side: only one of the two is to be full.
            _mount(data, DATA_MB + (0 if kind == "d7" else 2_000))
            mounted.append(data)
            _mount(data / "pg_wal", WAL_MB if kind == "d8" else 3_000)
            mounted.append(data / "pg_wal")
        except OSError as exc:
            print(f"nothing can be mounted here ({exc}): run it as root", file=sys.stderr)
            return 2
        await rig.run()
        return await asyncio.to_thread(_report, rig, kind, time.monotonic() - begun)
    finally:
        if rig.helix is not None:
            rig.helix.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(rig.helix.process.wait, 60)
        _unmount(mounted)


async def _log_full(place: Path) -> int:
    """D9: no word can be logged; calls are served all the same, PostgreSQL killed or not."""
    home = place / "home"
    make_home(home)
    log = HomePaths(home).postgres_log.parent
    log.mkdir(mode=0o700, exist_ok=True)
    try:
        _mount(log, 1)
    except OSError as exc:
        print(f"nothing can be mounted here ({exc}): run it as root", file=sys.stderr)
        return 2
    helix, problems, served = None, list[str](), 0
    try:
        helix = await asyncio.to_thread(start, home)
        with contextlib.suppress(OSError):
            (log / "filler").write_bytes(b"\0" * (2 << 20))
        if _free(log):
            problems.append(f"{_free(log)} bytes of the volume of the log stayed free")
        headers = {"Authorization": f"Bearer {helix.api_key}"}
        body = {"model": "mock/echo", "messages": [{"role": "user", "content": "hello"}]}
        async with aiohttp.ClientSession(headers=headers) as session:
            for killed in (False, True):
                if killed:
                    os.kill(helix.postgres_pid or 0, signal.SIGKILL)
                deadline, wanted = time.monotonic() + REPEAT_MOST_S, served + LOG_CALLS
                while served < wanted and time.monotonic() < deadline:
                    async with session.post(
                        f"{helix.url}/v1/chat/completions", json=body
                    ) as answer:
                        await answer.read()
                        served += answer.status == 200
                        if answer.status != 200 and not killed:
                            problems.append(f"a call got {answer.status}")
                        if answer.status != 200:
                            await asyncio.sleep(0.1)
                if served < wanted:
                    problems.append(f"{served} of {wanted} calls served; killed: {killed}")
    finally:
        if helix is not None:
            helix.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(helix.process.wait, 60)
        _unmount([log])
    print(f"d9: {served} calls served with no room for the log, half of them after a kill -9")
    for problem in problems[:20]:
        print(f"  {problem}")
    print(f"violations: {len(problems)}")
    return 1 if problems else 0


def _report(rig: Full, kind: str, seconds: float) -> int:
    problems, missed = audit(rig)
    problems = rig.problems + problems
    back = sorted(rig.back_s) or [0.0]
    print(
        f"{kind}: {len(rig.ledger.entries)} calls in {seconds:.0f} s:"
        f" {rig.ledger.count('acked')} acknowledged; {len(rig.refused_s)} refusals, the slowest"
        f" after {max(rig.refused_s, default=0.0):.2f} s; served again {back[len(back) // 2]:.2f} s"
        f" (median), {back[-1]:.2f} s (longest) after there was room"
    )
    for refusal, times in rig.refusals.most_common(4):
        print(f"  refused {times} times: {refusal[:160]}")
    for problem in problems[:20]:
        print(f"  {problem}")
    print(f"violations: {len(problems)}; planted faults not found: {missed or 'none'}")
    return 1 if problems or missed or not rig.ledger.count("acked") else 0


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--hold", type=float, default=30.0, help="seconds that a volume stays full")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", choices=("d7", "d8", "d9"))
    parser.add_argument("--short", action="store_true", help="one cycle each, full for 5 s")
    given = parser.parse_args()
    given.calls = 0
    if given.short:
        given.cycles, given.hold = 1, 5.0
    print(f"{facts()}\nseed {given.seed}, {given.clients} clients, half of the calls stream")
    status = 0
    for kind in ("d7", "d8"):
        if given.only in {None, kind}:
            with tempfile.TemporaryDirectory(prefix="hx-", ignore_cleanup_errors=True) as name:
                status = max(status, asyncio.run(_run(given, Path(name), kind)))
    if given.only in {None, "d9"}:
        with tempfile.TemporaryDirectory(prefix="hx-", ignore_cleanup_errors=True) as name:
            status = max(status, asyncio.run(_log_full(Path(name))))
    sys.exit(status)


if __name__ == "__main__":
    main()
