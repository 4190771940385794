"""Running a repository's tests for an operator, in the operator's own shell."""

import os
import re
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from helix.debates.types import CodeVersion

__all__ = ["TIMEOUT_S", "run_tests"]

TIMEOUT_S = 3_600.0
_TAIL_CHARS = 4_000
_READ_BYTES_MAX = 1_000_000
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?)\b")


def run_tests(
    version: CodeVersion, path: Path, command: str, *, timeout_s: float = TIMEOUT_S
) -> CodeVersion:
    """Run `command` in the repository and return the version with its result.

    Passed means that it exited with 0. Counts are taken from a summary such as pytest's ("3 passed,
    1 failed") when it prints one. After `timeout_s` it is ended with everything it started that is
    still of its session. Only for commands an operator types: nothing from a request gets here.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        exit_code = _run(command, path, output.fileno(), timeout_s)
        output.seek(max(output.seek(0, os.SEEK_END) - _READ_BYTES_MAX, 0))
        told = output.read().decode(errors="replace")
    if exit_code is None:
        told += f"\ntook longer than {timeout_s:g} s"
    results: dict[str, Any] = {
        "command": command,
        "exit_code": exit_code,
        "seconds": round(time.monotonic() - began, 3),
        "output": told.replace("\x00", "")[-_TAIL_CHARS:],
    }
    counts = {what[:5]: int(number) for number, what in _COUNTS.findall(told)}
    if counts:
        results["passed"] = counts.get("passe", 0)
        results["total"] = sum(counts.values())
    status = "passed" if exit_code == 0 else "failed"
    return replace(version, validation_status=status, test_results=results)


def _run(command: str, path: Path, output: int, timeout_s: float) -> int | None:
    """Run a command line in a session of its own; None when it was ended for its time."""
    process = subprocess.Popen(  # noqa: S602 - the operator's own command line, as make would run it
        command,
        shell=True,
        cwd=path,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
