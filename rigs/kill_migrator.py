"""Kill the migrator before every single statement, up and down (EXPERIMENTS M3).

    python -m rigs.kill_migrator [--only REVISION] [--every N] [--short]

For each revision a database is brought to the one before it and cloned for each statement k: the
migrator's backend is terminated before statement k, the catalogue must be what it was, running it
again must finish, and the catalogue must then be what an undisturbed run makes. All k by default;
--short takes every 150th, tests/operations/test_migrate.py six of them.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from helix.core.config import load_settings
from helix.core.db import connect
from helix.core.errors import Unavailable
from helix.core.instance import lock_home, make_home
from helix.operations.catalogue import differences
from helix.operations.check import catalogue_of
from helix.operations.migrate import downgrade, load, upgrade
from helix.operations.postgres import EmbeddedPostgres
from helix.operations.scratch import on_database
from helix.operations.types import Revision

_TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE application_name = 'helix migrate' AND datname = current_database()"
)


@asynccontextmanager
async def clone(url: str, template: str | None) -> AsyncIterator[str]:
    """Lend a database made from `template` (None: empty); it is dropped at the end."""
    name = f"k_{time.monotonic_ns()}"
    admin = await connect(url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
    try:
        yield on_database(url, name)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def move(url: str, target: str, *, up: bool, kill_before: int | None = None) -> bool:
    """Migrate to `target`; returns whether it was killed before statement `kill_before`."""
    killed = False

    async def watch(_: str, number: int) -> None:
        nonlocal killed
        if number == kill_before and not killed:
            conn = await connect(url)
            killed = await conn.fetchval(_TERMINATE) == 1
            await conn.close()

    try:
        if up:
            await upgrade(url, target=target, watch=watch)
        else:
            await downgrade(url, target=target, confirmed=True, watch=watch)
    except Unavailable:
        if not killed:
            raise
    return killed


async def check_direction(
    url: str, base: str, revision: Revision, before: str, *, up: bool, every: int
) -> list[str]:
    """Kill before each statement of one direction; returns what went wrong."""
    faults: list[str] = []
    script, target = (revision.up, revision.id) if up else (revision.down, before)
    async with clone(url, base) as whole:
        start = await catalogue_of(whole)
        await move(whole, target, up=up)
        end = await catalogue_of(whole)
    for number in range(0, len(script.statements), every):
        where = f"{script.file} before statement {number + 1}"
        async with clone(url, base) as database:
            if not await move(database, target, up=up, kill_before=number):
                faults.append(f"{where}: nothing was killed")
            if differences(start, await catalogue_of(database), ("a", "b")):
                faults.append(f"{where}: half a state was left")
            await move(database, target, up=up)
            if differences(end, await catalogue_of(database), ("a", "b")):
                faults.append(f"{where}: running it again made another schema")
        print(f"\r{where} of {len(script.statements)}: {len(faults)} faults", end="", flush=True)
    print()
    return faults


async def run(only: str | None, every: int) -> int:
    """Check all revisions in a PostgreSQL of our own; returns the number of faults."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory(prefix="helix-rig-") as directory:
        settings = load_settings({}, home=Path(directory))
        make_home(settings.home_dir)
        with lock_home(settings.home_dir, "rig"):
            server = EmbeddedPostgres(settings, durable=False)
            await server.start()
            url = on_database(server.url, "postgres")
            before = "base"
            for revision in load():
                if only in {None, revision.id}:
                    for up in (True, False):
                        base = f"base_{revision.id}_{'up' if up else 'down'}"
                        admin = await connect(url)
                        await admin.execute(f"CREATE DATABASE {base} TEMPLATE template0")
                        await admin.close()
                        goal = revision.id if not up else before
                        if goal != "base":
                            await upgrade(on_database(url, base), target=goal)
                        faults += await check_direction(
                            url, base, revision, before, up=up, every=every
                        )
                before = revision.id
            await server.stop()
    for fault in faults:
        print(fault)
    return len(faults)


def main() -> None:
    """Run the rig; exits 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one revision")
    parser.add_argument("--every", type=int, default=1, help="every Nth statement")
    parser.add_argument("--short", action="store_true", help="every 150th statement")
    options = parser.parse_args()
    if options.short:
        options.every = 150
    started = time.monotonic()
    faults = asyncio.run(run(options.only, options.every))
    print(f"{faults} faults; {time.monotonic() - started:.0f} s", file=sys.stderr)
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
