"""Waiting for PostgreSQL's processes to end, and ending them."""

import asyncio
import contextlib
import os
import signal
import subprocess

from helix.core.errors import Misuse
from helix.core.log import get_log
from helix.operations.types import Report

__all__ = ["end", "exit_of", "kill_session", "send_signal"]

_LOG = get_log(__name__)
_FAST_STOP_S = 20.0
_IMMEDIATE_STOP_S = 5.0
_POLL_S = 0.1


async def exit_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child to end and return its status, negative for a signal."""
    try:
        descriptor = os.pidfd_open(process.pid) if process.poll() is None else -1
    except OSError:  # an old kernel, or a sandbox without it
        while process.poll() is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_POLL_S)
        return process.wait()
    if descriptor < 0:
        return process.wait()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


async def end(process: subprocess.Popen[bytes], report: Report) -> None:
    """Stop a server that is our child: fast, then immediate, then by force."""
    for number, patience_s in (
        (signal.SIGINT, _FAST_STOP_S),
        (signal.SIGQUIT, _IMMEDIATE_STOP_S),
        (signal.SIGKILL, _IMMEDIATE_STOP_S),
    ):
        if process.poll() is not None:
            return
        if number is not signal.SIGINT:
            _LOG.warning("postgres_does_not_stop", signal=number.name)
            report("PostgreSQL does not stop in time; stopping it at once (nothing is lost)")
        process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exit_of(process), patience_s)


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that leads, or is just about to lead, a session, with all in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a PostgreSQL process; one that is gone is fine, one of another user is Misuse."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError as exc:
        raise Misuse(f"PostgreSQL process {pid} belongs to another user: stop it first") from exc
