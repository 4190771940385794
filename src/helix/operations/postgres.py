"""The embedded PostgreSQL as others use it: all the way up, or for the length of a command.

Parts: postgres_server (the supervisor), _programs (which, and as whom), _launch (how they start),
_config (what they are told), _files, _process, and _checks (of an outside database).
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from helix.core.config import Settings
from helix.core.db import OUTAGES, connect
from helix.core.errors import Misuse
from helix.core.instance import HomePaths, find_postmaster, lock_home, make_home, socket_url
from helix.operations.backup.keeper import keeper_for
from helix.operations.postgres_server import EmbeddedPostgres
from helix.operations.types import Report

__all__ = ["EmbeddedPostgres", "embedded_postgres", "running_postgres"]

_WAIT_S = 60.0
_POLL_S = 0.05


def _quiet(_: str) -> None:
    pass


@asynccontextmanager
async def embedded_postgres(
    settings: Settings, *, report: Report = _quiet
) -> AsyncIterator[EmbeddedPostgres]:
    """Run the home's PostgreSQL for the length of the block, restarted when it dies.

    Its log is archived if HELIX_WAL_ARCHIVE says so. The caller holds the home's lock.
    """
    server = EmbeddedPostgres(settings, report=report, keeper=keeper_for(settings, report))
    await server.start()
    try:
        server.watch()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def running_postgres(
    settings: Settings, *, command: str = "helix", report: Report = _quiet
) -> AsyncIterator[str]:
    """Give the URL of the database for the length of the block.

    That is the outside database if the settings name one; the home's own if it runs; else the
    home's own, started for as long as the block, and as any other command uses it, lasts.
    """
    if external := settings.external_url():
        yield external
        return
    paths = HomePaths(settings.home_dir)
    make_home(paths.home)
    deadline = time.monotonic() + _WAIT_S
    while True:
        async with _locked(paths.users, fcntl.LOCK_SH):
            if url := await _running_url(paths.data):
                yield url
                return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock_home(paths.home, command))
            except Misuse:  # it is being started or stopped
                if time.monotonic() > deadline:
                    raise
            else:
                keeper = keeper_for(settings, report)
                server = EmbeddedPostgres(settings, report=report, keeper=keeper)
                async with _started_for_all(server, paths):
                    yield server.url
                return
        await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _started_for_all(server: EmbeddedPostgres, paths: HomePaths) -> AsyncIterator[None]:
    """Run the server for the block, and on until no other command uses it.

    A command that is told to stop does not wait for the others.
    """
    await server.start()
    server.watch()
    told_to_stop = False
    try:
        yield
    except asyncio.CancelledError:
        told_to_stop = True
        raise
    finally:
        try:
            if not told_to_stop:
                async with _locked(paths.users, fcntl.LOCK_EX):
                    await server.stop()  # while locked: who comes now waits, and finds no server
        finally:
            await server.stop()


@asynccontextmanager
async def _locked(path: Path, kind: int) -> AsyncIterator[None]:
    """Hold a lock file; users of the server share it, who stops the server holds it alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


async def _running_url(data: Path) -> str | None:
    postmaster = find_postmaster(data)
    if postmaster is None or not postmaster.ready or postmaster.socket_dir is None:
        return None
    url = socket_url(postmaster.socket_dir)
    try:
        conn = await connect(url)
    except (*OUTAGES, asyncpg.InvalidCatalogNameError):
        return None
    await conn.close()
    return url
