"""Real processes for measurements and fault rigs: a Helix with a home of its own, ports, waits."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

__all__ = ["Helix", "clean_environment", "free_port", "helix_process", "start", "wait_for_port"]

_HELIX = [str(Path(sys.executable).parent / "helix")]
_START_TIMEOUT_S = 120.0


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[Any], timeout_s: float = 20.0) -> None:
    """Wait until something listens on `port`; raises RuntimeError if `process` ends before."""
    deadline = time.monotonic() + timeout_s
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port}")
        time.sleep(0.02)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment without what would lead a Helix elsewhere."""
    drop = ("HELIX_", "DATABASE_", "DB_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "OLLAMA_", "PG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    return {**kept, **(extra or {})}


@dataclass
class Helix:
    """A running `helix up` and the line it printed."""

    process: subprocess.Popen[str]
    home: Path
    url: str
    api_key: str
    database_url: str
    environment: dict[str, str]

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self.process.pid

    @property
    def postgres_pid(self) -> int | None:
        """The postmaster of the embedded database, if it is embedded."""
        file = self.home / "postgres" / "postmaster.pid"
        return int(file.read_text().split()[0]) if file.exists() else None

    def run(self, *args: str) -> str:
        """Run a `helix` command on this instance and return what it printed."""
        done = subprocess.run(
            [*_HELIX, *args, "--home", str(self.home)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"helix {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def sql(self, statement: str) -> Any:
        """Return the first value that a statement yields, as the database's owner."""
        with psycopg.connect(self.database_url, autocommit=True) as conn:
            row = conn.execute(statement).fetchone()
            return row[0] if row else None


def start(home: Path, *, port: int = 0, extra: Mapping[str, str] | None = None) -> Helix:
    """Start `helix up --json` on `home` and return it once it serves.

    Raises RuntimeError with what it said when it does not within two minutes.
    """
    environment = clean_environment(extra)
    path = home.parent / f"{home.name}.log"
    with path.open("a") as log:
        process = subprocess.Popen(
            [*_HELIX, "up", "--json", "--home", str(home), "--port", str(port or free_port())],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    if process.stdout is None:
        raise RuntimeError("no pipe to the process")
    with process.stdout as out:
        line = out.readline()
    if not line:
        process.wait(_START_TIMEOUT_S)
        said_last = path.read_text()[-2000:]
        raise RuntimeError(f"helix up ended with {process.returncode}: {said_last}")
    said = json.loads(line)
    return Helix(process, home, said["url"], said["api_key"], said["database_url"], environment)


@contextmanager
def helix_process(extra: Mapping[str, str] | None = None) -> Iterator[Helix]:
    """Run a Helix with an embedded database in a throwaway home, and stop it at the end."""
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        helix = start(Path(name) / "home", extra=extra)
        try:
            yield helix
        finally:
            helix.process.terminate()
            helix.process.wait(60)
