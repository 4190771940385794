"""Kill the migrator before every single statement, up and down (EXPERIMENTS M3).

    python -m rigs.kill_migrator [--only REVISION] [--every N] [--short]

For each revision a database is brought to the one before it, and for each statement k the
migrator's backend is terminated before statement k: then every table of the catalogue and of ours
must show the same versions of the same rows as before. After the last, running it again must
finish, and the catalogue must be what an undisturbed run makes. All k by default; --short takes
all of the two newest revisions; tests/operations/test_migrate.py takes six of all, each followed
by a whole run. Control: what
was committed is seen, what was rolled back is not.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection
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
from helix.operations.scripts import revision_ids
from helix.operations.types import Revision, Script

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


_CENSUS = """
SELECT format('SELECT %L AS name, count(*) AS rows, '
              'coalesce(sum(hashtextextended(t.ctid::text || t.xmin::text, 0)), 0) AS hash '
              'FROM %s AS t', c.oid::regclass, c.oid::regclass)
FROM pg_class AS c
WHERE c.relkind IN ('r', 'm')
  AND c.relname NOT LIKE 'pg\\_stat%' AND c.relname NOT IN ('pg_database', 'pg_shdepend')
  AND c.relnamespace IN ('pg_catalog'::regnamespace, 'public'::regnamespace) ORDER BY c.oid
"""
"""A statement for each table of the catalogue and of ours: which versions of rows are seen."""


async def census(url: str) -> list[tuple[str, int, int]]:
    """Return what of every table is visible, down to the version of each row.

    Equal before and after: nothing was committed in between, not even a row written over by itself.
    """
    conn = await connect(url)
    try:
        queries = [row[0] for row in await conn.fetch(_CENSUS)]
        # Sorted: read by several processes, the tables come in any order.
        return sorted(tuple(row) for row in await conn.fetch(" UNION ALL ".join(queries)))
    finally:
        await conn.close()


async def control(url: str) -> list[str]:
    """Plant what must be seen: a row that is committed, and one that is rolled back."""
    faults = []
    async with clone(url, None) as database:
        conn = await connect(database)
        before = await census(database)
        await conn.execute("BEGIN; CREATE TABLE half (n integer); ROLLBACK")
        if await census(database) != before:
            faults.append("control: what was rolled back was seen")
        await conn.execute("UPDATE pg_description SET description = description WHERE objoid = 16")
        await conn.execute("COMMENT ON SCHEMA public IS 'half a state'")
        if await census(database) == before:
            faults.append("control: what was committed was not seen")
        await conn.close()
    return faults


async def check_direction(
    url: str, base: str, revision: Revision, before: str, *, up: bool, every: int
) -> tuple[list[str], int]:
    """Kill before each statement of one direction; return what went wrong, and how many kills.

    A revision of one transaction must leave every row of every table as it was, so all kills go
    into one database, which must then still come to the end. One of several steps rightly leaves
    some of them done: each kill has a database of its own, and is followed by a whole run.
    """
    script, target = (revision.up, revision.id) if up else (revision.down, before)
    numbers = range(0, len(script.statements), every)
    faults: list[str] = []
    async with clone(url, base) as whole:
        start = await catalogue_of(whole)
        await move(whole, target, up=up)
        end = await catalogue_of(whole)
    if len(script.steps) == 1:
        async with clone(url, base) as database:
            untouched = await census(database)
            for number in numbers:
                where = f"{script.file} before statement {number + 1}"
                if not await move(database, target, up=up, kill_before=number):
                    faults.append(f"{where}: nothing was killed")
                if (found := await census(database)) != untouched:
                    changed = sorted({name for name, *_ in set(found) ^ set(untouched)})
                    faults.append(f"{where}: half a state was left in {', '.join(changed[:5])}")
                    untouched = found
                _tell(where, script, faults)
            await move(database, target, up=up)
            if differences(end, await catalogue_of(database), ("a", "b")):
                faults.append(f"{script.file}: after all kills it made another schema")
    else:
        for number in numbers:
            where = f"{script.file} before statement {number + 1}"
            async with clone(url, base) as database:
                if not await move(database, target, up=up, kill_before=number):
                    faults.append(f"{where}: nothing was killed")
                if differences(start, await catalogue_of(database), ("a", "b")):
                    faults.append(f"{where}: half a state was left")
                await move(database, target, up=up)
                if differences(end, await catalogue_of(database), ("a", "b")):
                    faults.append(f"{where}: running it again made another schema")
            _tell(where, script, faults)
    return faults, len(numbers)


def _tell(where: str, script: Script, faults: list[str]) -> None:
    if sys.stderr.isatty():
        total = len(script.statements)
        print(f"\r{where} of {total}: {len(faults)} faults", end="", file=sys.stderr, flush=True)


async def run(wanted: Collection[str], every: int) -> tuple[list[str], int]:
    """Check all revisions in a PostgreSQL of our own; return the faults, and how many kills."""
    place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="helix-rig-", dir=place) as directory:
        settings = load_settings({}, home=Path(directory))
        make_home(settings.home_dir)
        with lock_home(settings.home_dir, "rig"):
            server = EmbeddedPostgres(settings, durable=False, options={"autovacuum": "off"})
            await server.start()
            try:
                return await _sweep(on_database(server.url, "postgres"), wanted, every)
            finally:
                await server.stop()


async def _sweep(url: str, wanted: Collection[str], every: int) -> tuple[list[str], int]:
    faults, kills, before = await control(url), 0, "base"
    admin = await connect(url)
    await admin.execute("CREATE DATABASE walked TEMPLATE template0")
    for revision in load():
        began, faulty = time.monotonic(), len(faults)
        of_this = 0
        for up in (True, False):
            if revision.id in wanted:
                found, count = await check_direction(
                    url, "walked", revision, before, up=up, every=every
                )
                faults, of_this = faults + found, of_this + count
            if up:
                await upgrade(on_database(url, "walked"), target=revision.id)
        if revision.id in wanted:
            print(
                f"{revision.id}: {of_this} kills, {len(faults) - faulty} faults, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        before, kills = revision.id, kills + of_this
    await admin.close()
    return faults, kills


def main() -> None:
    """Run the rig; exits 1 when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one revision")
    parser.add_argument("--every", type=int, default=1, help="every Nth statement")
    parser.add_argument("--short", action="store_true", help="only the two newest revisions")
    options = parser.parse_args()
    wanted = {options.only} if options.only else set(revision_ids())
    if options.short:
        wanted = set(revision_ids()[-2:])
    started = time.monotonic()
    faults, kills = asyncio.run(run(wanted, options.every))
    for fault in faults[:40]:
        print(f"FAULT: {fault}")
    print(f"{kills} kills, {len(faults)} faults; {time.monotonic() - started:.0f} s")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
