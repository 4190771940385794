"""Upgrades under the worst: rows in every table, many starters, load, and the release before.

    python -m rigs.upgrade [--only m1,m4,m5,m6] [--rows 10000] [--starters 50] [--seconds 600]
                           [--release REF] [--million 1000000] [--from REVISION] [--short]

- M1, M2: rows in every table; from every revision to the head and back: every column that is there
  before and after holds what it held, the schema is that of a fresh install, the way back too;
- M4: four starters at once, so many times: one applies, none fails;
- M5: the release before (--release: a tag or commit; without it the last tag, or else the commit
  before the newest revision came) serves calls while this release migrates its database to the
  head, and after it: no call fails;
- M6: the tables of calls have a million rows each and sessions read and write them while the
  database goes from --from (default: the revision before the newest) to the head: none waits longer
  than 2 s.

M3 is rigs/kill_migrator.py. Exit status 1 when a promise was broken.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import asyncpg

from bench.machine import facts
from bench.processes import clean_environment, free_port
from helix.core.config import load_settings
from helix.core.db import connect
from helix.core.instance import lock_home, make_home
from helix.operations.check import catalogue_of
from helix.operations.migrate import current, upgrade
from helix.operations.postgres import EmbeddedPostgres
from helix.operations.scratch import on_database
from helix.operations.scripts import MIGRATIONS, revision_ids
from tests.operations.generate import Rows, fill
from tests.operations.upgrading import Jump, upgrade_from_every_revision

ROOT = Path(__file__).parent.parent
STALL_MOST_S = 2.0
STARTERS = 4
CALLERS = 8
BIG = {
    "llm_requests": ("id", "idempotency_key"),
    "llm_request_bodies": ("request_id",),
    "llm_responses": ("id", "request_id"),
    "llm_response_bodies": ("response_id", "request_id"),
    "llm_token_usage": ("id", "request_id", "response_id"),
}
"""Tables of which there are a million rows, and their columns that have to differ in each copy."""


@asynccontextmanager
async def postgres(*, durable: bool = False) -> AsyncIterator[str]:
    """Run a PostgreSQL for the block; the URL is that of its database `postgres`."""
    place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hx-", dir=place) as directory:
        settings = load_settings({}, home=Path(directory))
        make_home(settings.home_dir)
        with lock_home(settings.home_dir, "rig"):
            server = EmbeddedPostgres(settings, durable=durable, options={"max_connections": "200"})
            await server.start()
            try:
                yield on_database(server.url, "postgres")
            finally:
                await server.stop()


@asynccontextmanager
async def database(url: str, name: str) -> AsyncIterator[str]:
    """Lend an empty database; it is dropped at the end."""
    admin = await connect(url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    try:
        yield on_database(url, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def jumps(url: str, rows: int) -> list[str]:
    """M1 and M2: from every revision to the head and back; returns what went wrong."""
    async with database(url, "fresh") as fresh_url, database(url, "chain") as chain_url:
        await upgrade(fresh_url)
        fresh = await catalogue_of(fresh_url)

        def report(jump: Jump) -> None:
            print(f"  from {jump.revision}: {jump.columns} columns, {len(jump.faults)} faults")

        done = await upgrade_from_every_revision(
            chain_url, fresh, count=rows, back=True, report=report
        )
    print(f"M1, M2: {len(done)} revisions, {rows} rows in every table")
    return [f"M1 from {jump.revision}: {fault}" for jump in done for fault in jump.faults]


async def starters(url: str, times: int) -> list[str]:
    """M4: four starters at once; returns what went wrong."""
    faults: list[str] = []
    began = time.monotonic()
    for number in range(times):
        async with database(url, f"starters_{number}") as empty:
            lines: list[list[str]] = [[] for _ in range(STARTERS)]
            results = await asyncio.gather(
                *(upgrade(empty, report=said.append) for said in lines), return_exceptions=True
            )
            faults += [f"M4 run {number}: {exc!r}" for exc in results if exc is not None]
            applied = sorted(sum("applied" in line for line in said) for said in lines)
            if applied != [0] * (STARTERS - 1) + [len(revision_ids())]:
                faults.append(f"M4 run {number}: revisions applied by each: {applied}")
            if (await current(empty)).pending:
                faults.append(f"M4 run {number}: not at the head")
    print(f"M4: {times} times {STARTERS} starters at once; {time.monotonic() - began:.0f} s")
    return faults


# ---- the release before


def git(*words: str) -> str:
    """Return what a git command says."""
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def release_before() -> str:
    """Return the last tag; without any, the commit before the newest revision came."""
    tag = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--tags", "--abbrev=0"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    if tag:
        return tag
    newest = max((MIGRATIONS / "sql").glob("*.up.sql"))
    came = git("log", "--diff-filter=A", "--format=%H", "-1", "--", str(newest))
    return git("rev-parse", f"{came}^") if came else git("rev-parse", "HEAD")


@contextmanager
def source_of(release: str) -> Iterator[Path]:
    """Lend the source tree of a release."""
    place = Path(tempfile.mkdtemp(prefix="hx-release-"))
    try:
        git("worktree", "add", "--detach", "--force", str(place / "tree"), release)
        yield place / "tree"
    finally:
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(place / "tree")],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(place, ignore_errors=True)


async def old_code(url: str, release: str, seconds: float) -> list[str]:
    """M5: the release before serves on this release's schema; returns what went wrong."""
    with source_of(release) as tree:
        async with database(url, "before") as shared:
            return await _serve_while_migrating(shared, tree, release, seconds)


async def _serve_while_migrating(url: str, tree: Path, release: str, seconds: float) -> list[str]:
    port, home = free_port(), tree.parent / "home"
    log = (tree.parent / "helix.log").open("w")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "helix", "up", "--json", "--home", str(home), "--port", str(port),
        env=clean_environment({"DATABASE_URL": url, "PYTHONPATH": f"{tree / 'src'}:{tree}"}),
        stdout=asyncio.subprocess.PIPE, stderr=log,
    )  # fmt: skip
    try:
        if process.stdout is None:
            raise RuntimeError("no pipe to the process")
        line = await process.stdout.readline()
        if not line:
            said = (tree.parent / "helix.log").read_text()[-1500:]
            return [f"M5: the release before did not start: {said}"]
        key = str(json.loads(line)["api_key"])
        before = (await _revisions(url))[-1]
        callers = _Callers(port, key)
        load = [asyncio.create_task(callers.call(number)) for number in range(CALLERS)]
        await asyncio.sleep(min(5.0, seconds / 4))
        began = time.monotonic()
        await _migrate(url)
        took = time.monotonic() - began
        await asyncio.sleep(seconds)
        callers.over = True
        await asyncio.gather(*load)
        after = (await _revisions(url))[-1]
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        log.close()
    print(
        f"M5: {release[:12]} served {callers.served} calls on schema {before} and {after}, "
        f"migrated in {took:.1f} s meanwhile; {len(callers.failed)} failed; the slowest took "
        f"{callers.slowest_s:.2f} s"
    )
    if before == after:
        print("  (there was nothing to migrate: the release before has the same revisions)")
    return [f"M5: {each}" for each in callers.failed[:10]]


class _Callers:
    """Clients of the old release: calls, lists, tasks."""

    def __init__(self, port: int, key: str) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._headers = {"Authorization": f"Bearer {key}"}
        self.over = False
        self.served = 0
        self.slowest_s = 0.0
        self.failed: list[str] = []

    async def call(self, number: int) -> None:
        """Call until it is over."""
        asks = [
            ("POST", "/v1/chat/completions", {"model": "mock/echo", "messages": [
                {"role": "user", "content": f"hello from {number}"}]}),
            ("GET", "/api/calls", None),
            ("POST", "/v1/embeddings", {"model": "mock/embed", "input": "a text"}),
            ("GET", "/api/usage?from=2026-01-01T00:00:00Z", None),
            ("GET", "/api/tasks/stats", None),
            ("POST", "/api/memories", {"content": f"caller {number} likes tea"}),
            ("POST", "/api/memories/search", {"query": "who likes tea"}),
        ]  # fmt: skip
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while not self.over:
                for method, path, body in asks:
                    began = time.monotonic()
                    try:
                        async with session.request(method, self._url + path, json=body) as answer:
                            text = await answer.text()
                            if answer.status >= 400:
                                self.failed.append(f"{method} {path}: {answer.status} {text[:160]}")
                    except (aiohttp.ClientError, TimeoutError) as exc:
                        self.failed.append(f"{method} {path}: {exc!r}")
                    self.served += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                await asyncio.sleep(0.05)


async def _migrate(url: str) -> None:
    """Migrate as an operator does, in a process of its own: none of ours may wait for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "helix", "db", "upgrade", "--without-backup",
        env=clean_environment({"DATABASE_URL": url}), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(said.decode())
    print("".join(f"    {line}\n" for line in said.decode().splitlines()), end="")


async def _revisions(url: str) -> list[str]:
    conn = await connect(url)
    try:
        return [
            row[0] for row in await conn.fetch("SELECT revision FROM helix_migrations ORDER BY 1")
        ]
    finally:
        await conn.close()


# ---- a million rows


async def million(url: str, rows: int, before: str) -> list[str]:
    """M6: no session waits longer than 2 s while big tables are migrated; returns the faults."""
    async with database(url, "big") as big:
        await upgrade(big, target=before)
        conn = await connect(big)
        seed = 1_000
        await fill(conn, Rows(base=datetime.now(UTC), count=seed))
        present = [table for table in BIG if await _is_table(conn, table)]
        for table in present:
            await _multiply(conn, table, copies=max(1, rows // seed))
        await conn.execute("ANALYZE")
        counts = {t: await conn.fetchval(f"SELECT count(*) FROM {t}") for t in present}
        waits: dict[str, float] = {}
        over = asyncio.Event()
        probes = [asyncio.create_task(_probe(big, t, over, waits)) for t in present]
        await asyncio.sleep(1.0)
        began = time.monotonic()
        await _migrate(big)
        took = time.monotonic() - began
        over.set()
        await asyncio.gather(*probes)
        await conn.close()
    worst = max(waits, key=lambda name: waits[name])
    print(
        f"M6: {before} to the head in {took:.1f} s over {sum(counts.values())} rows of calls; the "
        f"longest wait {waits[worst]:.2f} s, for {worst}"
    )
    return [
        f"M6: a session waited {wait:.2f} s for {name}"
        for name, wait in waits.items()
        if wait > STALL_MOST_S
    ]


async def _is_table(conn: asyncpg.Connection, table: str) -> bool:
    return bool(await conn.fetchval("SELECT to_regclass($1) IS NOT NULL", table))


async def _multiply(conn: asyncpg.Connection, table: str, *, copies: int) -> None:
    """Copy the rows of a table so many times, with ids that go together across tables."""
    columns = [
        row[0]
        for row in await conn.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = ''",
            table,
        )
    ]
    made = {
        name: (
            f"(left(t.{name}::text, 24) || lpad(to_hex(n), 12, '0'))::uuid"
            if name.endswith("id")
            else f"t.{name} || ' ' || n"
        )
        if name in BIG[table]
        else f"t.{name}"
        for name in columns
    }
    names = ", ".join(f'"{name}"' for name in made)
    async with conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = replica")
        await conn.execute(
            f"INSERT INTO {table} ({names}) SELECT {', '.join(made.values())}"
            f" FROM {table} AS t, generate_series(2, {copies}) AS n"
        )


async def _probe(url: str, table: str, over: asyncio.Event, waits: dict[str, float]) -> None:
    """Read the table, and take the lock of a writer, again and again; note the longest wait."""
    conn = await connect(url)
    try:
        while not over.is_set():
            for name, statement in (
                (f"reading {table}", f"SELECT 1 FROM {table} LIMIT 1"),
                (f"writing {table}", f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE"),
            ):
                began = time.monotonic()
                async with conn.transaction():
                    await conn.execute(statement)
                waits[name] = max(waits.get(name, 0.0), time.monotonic() - began)
            await asyncio.sleep(0.01)
    finally:
        await conn.close()


async def run(given: argparse.Namespace) -> list[str]:
    """Run what was asked for; returns what went wrong."""
    faults: list[str] = []
    async with postgres() as url:
        if "m1" in given.only:
            faults += await jumps(url, given.rows)
        if "m4" in given.only:
            faults += await starters(url, given.starters)
        if "m6" in given.only:
            faults += await million(url, given.million, given.before)
        if "m5" in given.only:
            faults += await old_code(url, given.release or release_before(), given.seconds)
    return faults


def main() -> None:
    """Run the rig; exit 1 when a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="m1,m4,m5,m6")
    parser.add_argument("--rows", type=int, default=10_000, help="of each table (M1)")
    parser.add_argument("--starters", type=int, default=50, help="times (M4)")
    parser.add_argument("--seconds", type=float, default=600.0, help="on the new schema (M5)")
    parser.add_argument("--release", help="a tag or commit (M5)")
    parser.add_argument("--million", type=int, default=1_000_000, help="rows of each table (M6)")
    parser.add_argument("--from", dest="before", default=revision_ids()[-2], help="revision (M6)")
    parser.add_argument("--short", action="store_true", help="100 rows, 2 times, 10 s, 50,000 rows")
    given = parser.parse_args()
    given.only = set(given.only.split(","))
    if given.short:
        given.rows, given.starters, given.seconds, given.million = 100, 2, 10.0, 50_000
    print(facts())
    began = time.monotonic()
    faults = asyncio.run(run(given))
    for fault in faults[:40]:
        print(f"  {fault}")
    print(f"{len(faults)} promises broken; {time.monotonic() - began:.0f} s")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
