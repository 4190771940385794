"""Running the `helix` command as its users do: in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND = (sys.executable, "-m", "helix")
TIMEOUT_S = 90.0
FOREIGN = (
    "HELIX_",
    "DB_",
    "DATABASE_",
    "PG",
    "OPENAI_",
    "OLLAMA_",
    "ANTHROPIC_",
    "GEMINI_",
    "GOOGLE_",
    "MISTRAL_",
    "GROQ_",
)


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any setting of Helix, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | more


@pytest.fixture
def helix() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command to its end: `helix("status", "--json", HELIX_HOME=…)`."""

    def run(*args: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, args)],
            env=environment(**environ),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command and do not wait for it; it is killed after the test."""
    running: list[subprocess.Popen[str]] = []

    def begin(*args: str | Path, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, args)],
            env=environment(**environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


@dataclass
class Up:
    """A `helix up --json` that serves; `line` is what it printed."""

    process: subprocess.Popen[str]
    line: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.line["url"])

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        """Send a signal; return the exit status, and what else was said on stdout and stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@pytest.fixture
def start(spawn: Callable[..., subprocess.Popen[str]]) -> Callable[..., Up]:
    """Start Helix on a home and wait until it serves."""

    def up(home: Path, *args: str, **environ: str) -> Up:
        process = spawn("up", "--json", "--port", "0", "--home", home, *args, **environ)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            _, err = process.communicate(timeout=TIMEOUT_S)
            pytest.fail(f"helix up ended with {process.returncode}: {err}")
        return Up(process, json.loads(line))

    return up


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that was started and stopped once; to be copied, not used."""
    home = tmp_path_factory.mktemp("made") / "home"
    command = [*COMMAND, "up", "--json", "--port", "0", "--home", str(home)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert (bool(line), process.returncode) == (True, 0), err
    return home


@pytest.fixture
def used_home(made_home: Path, tmp_path: Path) -> Path:
    """A home of the test's own that was started before: quicker than an empty one."""
    return Path(shutil.copytree(made_home, tmp_path / "home", symlinks=True))
