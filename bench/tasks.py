"""The task queue beside procrastinate, pgqueuer, DBOS and graphile-worker, on one PostgreSQL.

    python -m bench.tasks [--short] [--rounds 2] [--peers DIR]     (make bench-tasks, BENCH=short)

Starts a throwaway PostgreSQL with Helix's own settings; every queue gets a database of its own on
it, and they take turns. The peers are installed into DIR, which is no part of the project; one that
cannot be installed or fails is reported as such. Tasks a second are counted from the first handler
to the last. Helix keeps a history row and three event rows per task; of the peers DBOS and
procrastinate keep their jobs, pgqueuer a line of log, graphile-worker nothing. It runs twice: as it
comes, and with its local queue of 500 and batched completion.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import tasks_backlog
from bench.machine import cpu_s_of, facts
from helix.core.config import load_settings
from helix.core.db import connect
from helix.core.instance import make_home, socket_url
from helix.core.sql import split_statements
from helix.operations import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "sql" / "schema"
SCRIPTS = ROOT / "bench" / "peers"
PYTHON_PEERS = ("procrastinate", "pgqueuer", "asyncpg", "dbos", "psycopg[binary,pool]", "uvloop")
NODE_PEERS = ("graphile-worker@0.17", "pg@8")
TIMEOUT_S = 240
# jobs, 5 ms jobs, single enqueues: enough for a second or more of work each, also of a short run
SIZES = {
    "helix": (100_000, 4_000, 300),
    "graphile-worker": (12_000, 2_000, 300),
    "graphile-worker, local queue": (100_000, 4_000, 300),
    "pgqueuer": (60_000, 2_000, 300),
    "dbos": (1_000, 0, 0),
    "procrastinate": (1_000, 300, 100),
}
CONCURRENCY = 250
COLUMNS = ("noop_per_s", "slow_per_s", "pickup_ms", "enqueue_one_us", "enqueue_many_us",
           "wal_bytes", "cpu_us")  # fmt: skip


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def install(peers: Path) -> None:
    """Install the peers once; what fails is left out and shows in the table."""
    python = peers / "venv" / "bin" / "python"
    if not (peers / "python.done").exists():
        say("installing the Python peers …")
        subprocess.run([sys.executable, "-m", "venv", peers / "venv"], check=False)
        command = [str(python), "-m", "pip", "install", "--quiet", *PYTHON_PEERS]
        if subprocess.run(command, check=False).returncode == 0:
            (peers / "python.done").touch()
    if shutil.which("npm") and not (peers / "node.done").exists():
        say("installing the Node peer …")
        node = peers / "node"
        node.mkdir(parents=True, exist_ok=True)
        (node / "package.json").write_text('{"private": true}')
        command = ["npm", "install", "--silent", "--no-fund", "--no-audit", *NODE_PEERS]
        if subprocess.run(command, cwd=node, check=False).returncode == 0:
            (peers / "node.done").touch()


def command_of(name: str, url: str, sizes: tuple[int, int, int], peers: Path) -> list[str]:
    """Return how one queue's script is run."""
    numbers = [str(n) for n in sizes]
    python = str(peers / "venv" / "bin" / "python")
    match name:
        case "helix":
            return [sys.executable, "-m", "bench.peers.drain_helix", url, *numbers,
                    str(CONCURRENCY)]  # fmt: skip
        case "graphile-worker" | "graphile-worker, local queue":
            script = str(SCRIPTS / "drain_graphile.cjs")
            return ["node", script, url, *numbers, str(int("local" in name))]
        case _:
            return [python, str(SCRIPTS / f"drain_{name}.py"), url, *numbers]


async def make_database(socket_dir: str, name: str, *, schema: bool) -> str:
    """Create a database, with Helix's schema if wanted; return its URL."""
    admin = await connect(socket_url(socket_dir, "postgres"))
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await admin.execute("CHECKPOINT")
    await admin.close()
    url = socket_url(socket_dir, name)
    if schema:
        owner = await connect(url)
        for line in (SCHEMA / "all.sql").read_text().splitlines():
            if line.startswith("\\ir "):
                for statement in split_statements((SCHEMA / line.split()[1]).read_text()):
                    await owner.execute(statement)
        await owner.close()
    return url


async def wal_of(socket_dir: str) -> int:
    """Return the server's WAL position in bytes."""
    admin = await connect(socket_url(socket_dir, "postgres"))
    at = await admin.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    await admin.close()
    return int(at)


def measure(command: list[str], peers: Path) -> dict[str, float]:
    """Run one script; raises RuntimeError with its last words."""
    environment = {**os.environ, "NODE_PATH": str(peers / "node" / "node_modules")}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise RuntimeError(str(exc)[:200]) from exc
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1][:200])
    found: dict[str, float] = json.loads(lines[-1])
    return found


async def one(name: str, socket_dir: str, pid: int, peers: Path, part: int) -> dict[str, float]:
    """Measure one queue once: its own figures, and the server's WAL and CPU for all it did."""
    sizes = tuple(max(min(n, 1_000), n // part) for n in SIZES[name])
    database = "bench_" + "".join(c for c in name if c.isalpha())
    url = await make_database(socket_dir, database, schema=name == "helix")
    wal, cpu = await wal_of(socket_dir), cpu_s_of(pid, with_children=True)
    command = command_of(name, url, (sizes[0], sizes[1], sizes[2]), peers)
    found = await asyncio.to_thread(measure, command, peers)
    jobs = sum(sizes)
    found["cpu_us"] = (cpu_s_of(pid, with_children=True) - cpu) / jobs * 1e6
    found["wal_bytes"] = (await wal_of(socket_dir) - wal) / jobs
    return found


def table(results: dict[str, dict[str, float]], faults: dict[str, str]) -> None:
    """Print the figures; the WAL and server CPU are per job, enqueueing included."""
    say("| queue | " + " | ".join(COLUMNS) + " |")
    say("|---" * (len(COLUMNS) + 1) + "|")
    for name in SIZES:
        if name in results:
            found = results[name]
            cells = [f"{found[c]:,.1f}" if c in found else "–" for c in COLUMNS]
            say(f"| {name} | " + " | ".join(cells) + " |")
        else:
            say(f"| {name} | not measured: {faults.get(name, '')} |")


@contextmanager
def a_home() -> Iterator[Path]:
    """Yield a directory that is removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="helix-bench-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def pid_of(home: Path) -> int:
    """Return the postmaster's process id."""
    return int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])


async def run(*, short: bool, rounds: int, peers: Path) -> None:
    """Measure everything, in turns, and print the table and the ratios."""
    say(facts())
    install(peers)
    results: dict[str, dict[str, float]] = {}
    faults: dict[str, str] = {}
    with a_home() as home:
        make_home(home)
        postgres = EmbeddedPostgres(
            load_settings({}, home=home), options={"max_connections": "200"}
        )
        socket_dir = (await postgres.start()).partition("host=")[2].partition("&")[0]
        try:
            for turn in range(rounds):
                for name in SIZES:
                    started = time.monotonic()
                    try:
                        found = await one(name, socket_dir, pid_of(home), peers, 4 if short else 1)
                    except RuntimeError as exc:
                        faults[name] = str(exc)
                        continue
                    best = results.get(name)
                    if best is None or found["noop_per_s"] > best["noop_per_s"]:
                        results[name] = found
                    say(f"round {turn + 1}: {name}: {found['noop_per_s']:,.0f} jobs/s "
                        f"({time.monotonic() - started:.0f} s)")  # fmt: skip
            url = await make_database(socket_dir, "bench_backlog", schema=True)
            await tasks_backlog.run(
                url, backlog=50_000 if short else 1_000_000, claims=200 if short else 1_000,
                finished=0,
            )  # fmt: skip
        finally:
            await postgres.stop()
    table(results, faults)
    say(ratios(results))


def ratios(results: dict[str, dict[str, Any]]) -> str:
    """Return the lines at the end: Helix's no-op drain over the peers', best round each.

    The rates come first: a ratio rises as well when the peer has a bad moment.
    """
    own = results["helix"]["noop_per_s"]
    shown = {
        "ratio_pgqueuer": "pgqueuer",
        "ratio_dbos": "dbos",
        "ratio_graphile_local_queue": "graphile-worker, local queue",
        "ratio_procrastinate": "procrastinate",
        "ratio_graphile": "graphile-worker",
    }
    rates = ", ".join(f"{name} {results[name]['noop_per_s']:,.0f}" for name in results)
    lines = (
        f"{label}={own / results[name]['noop_per_s']:.2f}" if name in results else f"{label}=nan"
        for label, name in shown.items()
    )
    return "\n".join((f"no-ops a second: {rates}", *lines))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", default=os.environ.get("BENCH") == "short")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--peers", type=Path, default=Path(tempfile.gettempdir()) / "helix-bench-peers"
    )
    given = parser.parse_args()
    asyncio.run(run(short=given.short, rounds=given.rounds, peers=given.peers))


if __name__ == "__main__":
    main()
