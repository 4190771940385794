"""A Helix for the length of a command: the one that runs, or one that this command runs itself."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from helix.accounts import bootstrap_admin
from helix.app import build, started
from helix.core.clock import SystemClock
from helix.core.command import say
from helix.core.config import Settings, load_settings
from helix.core.db import OUTAGES, Database, Role, connect
from helix.core.errors import Misuse, Unavailable
from helix.core.instance import (
    check_home,
    load_keyring,
    locate,
    lock_home,
    make_home,
)
from helix.core.quarantine import Quarantined, quarantine_of
from helix.operations import EmbeddedPostgres, embedded_postgres, upgrade
from helix.tasks import workers

__all__ = ["database", "runs", "throwaway", "worked_on"]

_QUEUE = "default"
_DRAIN_S = 1.0


def runs(settings: Settings) -> bool:
    """Say whether a server runs on the home that is meant."""
    try:
        return locate(settings).url is not None
    except Misuse:
        return False


@asynccontextmanager
async def worked_on(settings: Settings, url: str, *, work_here: bool = True) -> AsyncIterator[bool]:
    """See to it that somebody works on the tasks of a database; say whether this process does.

    Where a worker lives, in a server or by itself, that is all. Else this process is the worker
    while the block runs; with `work_here` False nobody is, and that is told.
    """
    if await _worker_lives(url):
        yield False
    elif not work_here:
        say("no worker runs: it begins when `helix up` or `helix worker` does")
        yield False
    else:
        say("no worker runs: this command is the worker until the end")
        changes = {"worker_concurrency": max(settings.worker_concurrency, 1)}
        own = settings.model_copy(update={**changes, "drain_timeout_s": _DRAIN_S})
        db = Database(url, own.pool_limits())
        try:
            keyring = load_keyring(own, create=True)
            async with started(build(own, db, keyring, SystemClock())):
                yield True
        finally:
            await db.close()


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str]:
    """Give the database these settings mean.

    A home whose PostgreSQL does not run is started for the length of the block, one that is not
    there is made, as `helix up` does; its first key is told. A database of somebody else's is taken
    as it is: its schema is for `helix db upgrade` to change. Raises Misuse when the home is in use
    by another command, Quarantined for a restored copy, Unavailable when it does not answer.
    """
    try:
        found = locate(settings).database_url
    except Misuse:
        found = None
    if found is not None:
        await _require_released(found)
        yield found
        return
    home = settings.home_dir
    check_home(home)
    make_home(home)
    with lock_home(home, "helix debate"):
        say(f"no Helix runs on {home}: starting its database until the end")
        load_keyring(settings, create=True)
        async with embedded_postgres(settings) as server:
            await upgrade(server.url)
            pools = Database(server.url, settings.pool_limits())
            try:
                key = await bootstrap_admin(pools)
            finally:
                await pools.close()
            if key is not None:
                say(f"first API key, shown this once: {key}")
            await _require_released(server.url)
            yield server.url


async def _require_released(url: str) -> None:
    if (reason := await quarantine_of(url)) is not None:
        raise Quarantined(f"this is a restored copy: {reason}; `helix backup release` frees it")


async def _worker_lives(url: str) -> bool:
    try:
        conn = await connect(url, role=Role.OPERATOR, application_name="helix debate")
    except OUTAGES as exc:
        raise Unavailable(
            f"the database does not answer: {str(exc) or type(exc).__name__}"
        ) from exc
    try:
        now = SystemClock().now()
        return any(
            worker["lease_until"] > now and (not worker["queues"] or _QUEUE in worker["queues"])
            for worker in await workers(conn)
        )
    finally:
        await conn.close()


@asynccontextmanager
async def throwaway(settings: Settings) -> AsyncIterator[str]:
    """Give the database of a Helix of its own, on a directory that is gone after the block."""
    place = Path(tempfile.mkdtemp(prefix="helix-demo-"))
    try:
        own = load_settings({"HELIX_LOG_LEVEL": settings.log_level}, home=place / "home")
        make_home(own.home_dir)
        postgres = EmbeddedPostgres(own, durable=False)
        try:
            url = await postgres.start()
            await upgrade(url)
            keyring = load_keyring(own, create=True)
            pools = Database(url, own.pool_limits())
            try:
                await bootstrap_admin(pools)
                async with started(build(own, pools, keyring, SystemClock())):
                    yield url
            finally:
                await pools.close()
        finally:
            await postgres.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)
