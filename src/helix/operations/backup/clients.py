"""PostgreSQL's client programs, as pipes: what they say goes through us, never onto the disk."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from helix.operations.backup.errors import BackupFailed

__all__ = ["feed_program", "libpq", "read_program", "run_program", "take_program"]

_READ_BYTES = 1 << 20
_SAID_BYTES_MAX = 20_000
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def libpq(url: str) -> tuple[str, dict[str, str]]:
    """Return `url` without its password, for a command line, and the environment that has it."""
    parts = urlsplit(url)
    environment = dict(_ENVIRONMENT)
    password = parts.password
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    for name, value in pairs:
        if name == "password":
            password = value
    if password:
        environment["PGPASSWORD"] = unquote(password)
    user, at, host = parts.netloc.rpartition("@")
    plain = parts._replace(
        netloc=f"{user.partition(':')[0]}{at}{host}",
        query=urlencode([pair for pair in pairs if pair[0] != "password"], safe="/:"),
    )
    return urlunsplit(plain), environment


async def read_program(
    command: Sequence[str], environment: Mapping[str, str], sink: Callable[[bytes], None]
) -> None:
    """Run a program and give `sink`, in a thread, all that it writes; raises BackupFailed.

    When the block is left early the program is killed; when this process is, the program ends at
    its next write.
    """

    def pump(process: "subprocess.Popen[bytes]") -> None:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        while data := process.stdout.read(_READ_BYTES):
            sink(data)

    await _run(command, environment, pump, reads=True)


async def take_program(
    command: Sequence[str], environment: Mapping[str, str], take: Callable[[IO[bytes]], None]
) -> None:
    """Run a program and let `take`, in a thread, read what it writes, to the end; as read_program.

    What `take` raises kills the program and is raised.
    """

    def pump(process: "subprocess.Popen[bytes]") -> None:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        take(process.stdout)

    await _run(command, environment, pump, reads=True)


async def feed_program(
    command: Sequence[str], environment: Mapping[str, str], source: Iterable[bytes]
) -> None:
    """Run a program on what `source` gives; raises BackupFailed, and what `source` raises.

    A program that has enough may close its end early: that alone is no failure.
    """

    def pump(process: "subprocess.Popen[bytes]") -> None:
        if process.stdin is None:
            raise RuntimeError("no pipe")
        try:
            with process.stdin as pipe:
                for data in source:
                    pipe.write(data)
        except BrokenPipeError:
            return

    await _run(command, environment, pump, feeds=True)


async def run_program(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a program that neither reads nor writes us anything; raises BackupFailed."""
    await _run(command, environment, lambda _: None)


async def _run(
    command: Sequence[str],
    environment: Mapping[str, str],
    pump: "Callable[[subprocess.Popen[bytes]], None]",
    *,
    reads: bool = False,
    feeds: bool = False,
) -> None:
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - PostgreSQL's own programs
                list(command),
                stdin=subprocess.PIPE if feeds else subprocess.DEVNULL,
                stdout=subprocess.PIPE if reads else subprocess.DEVNULL,
                stderr=said,
                env=dict(environment),
                cwd="/",
            )
        except OSError as exc:
            raise BackupFailed(f"cannot run {command[0]}: {exc.strerror}") from exc

        def work() -> int:
            try:
                pump(process)
            except BaseException:
                process.kill()
                raise
            finally:
                status = process.wait()
                for pipe in (process.stdin, process.stdout):
                    _close(pipe)
            return status

        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            status = await asyncio.shield(thread)
        except asyncio.CancelledError:
            process.kill()
            await asyncio.gather(thread, return_exceptions=True)
            raise
        if status != 0:
            name = Path(command[0]).name
            raise BackupFailed(f"{name} failed ({_how(status)}): {_reason(said)}")


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None and not pipe.closed:
        try:
            pipe.close()
        except BrokenPipeError:
            return


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _reason(said: IO[bytes]) -> str:
    """Return the program's errors without what they quote of the data."""
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _SAID_BYTES_MAX))
    lines = said.read().decode(errors="replace").splitlines()
    errors = [line.strip() for line in lines if "error:" in line or "ERROR:" in line]
    errors = [line for line in errors if not line.startswith(("DETAIL", "CONTEXT", "Command was"))]
    return "; ".join(errors[:3]) or (lines[-1].strip()[:300] if lines else "it said nothing")
