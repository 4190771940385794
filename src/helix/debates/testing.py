"""Running a repository's tests for an operator, in the operator's own shell."""

import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from helix.debates.types import CodeVersion

__all__ = ["run_tests"]

TIMEOUT_S = 3_600.0
_TAIL_CHARS = 4_000
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?)\b")


def run_tests(version: CodeVersion, path: Path, command: str) -> CodeVersion:
    """Run `command` in the repository and return the version with its result.

    Passed means that it exited with 0. Counts are taken from a summary such as pytest's ("3 passed,
    1 failed") when it prints one. Only for commands an operator types: nothing from a request gets
    here.
    """
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S602 - the operator's own command line, as make would run it
            command,
            shell=True,
            cwd=path,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
        exit_code, told = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        exit_code, told = None, f"took longer than {TIMEOUT_S:g} s"
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
