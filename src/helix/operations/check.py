"""Comparing catalogues: the schema files, the migrations, and a live database."""

from dataclasses import dataclass
from pathlib import Path

from helix.core.db import connect
from helix.operations.catalogue import (
    Catalogue,
    Difference,
    differences,
    foreign_heads,
    read_catalogue,
    role_faults,
)
from helix.operations.migrate import current, upgrade
from helix.operations.schema_files import read_schema_files, run_statements
from helix.operations.scratch import scratch_database
from helix.operations.scripts import MIGRATIONS

__all__ = ["CheckResult", "catalogue_of", "check", "migrated_catalogue", "schema_catalogue"]

_FILES, _MIGRATIONS, _LIVE = "sql/schema", "the migrations", "this database"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What `check` found: differences, what is another program's, how many things it compared."""

    differences: tuple[Difference, ...]
    foreign: tuple[str, ...]
    compared: int


async def check(url: str, *, directory: Path = MIGRATIONS) -> CheckResult:
    """Compare the schema files, the migrations and the database at `url`.

    The first two are built in databases of their own on the same server, dropped at the end; the
    third is only read. Raises Misuse when the login may not create databases.
    """
    version = await current(url, directory=directory)
    migrated = await migrated_catalogue(url, directory)
    found = differences(await schema_catalogue(url), migrated, (_FILES, _MIGRATIONS))
    live = await catalogue_of(url)
    if version.revision is None or version.pending or version.interrupted:
        stands = f"half way to {version.interrupted}" if version.interrupted else version.revision
        head = version.pending[-1] if version.pending else version.interrupted
        found.append(Difference("schema version", f"is {stands} in {_LIVE}, {head} at the head"))
    if version.revision is not None:
        found += differences(migrated, live, (_MIGRATIONS, _LIVE), foreign_right=True)
        conn = await connect(url)
        try:
            found += await role_faults(conn)
        finally:
            await conn.close()
    return CheckResult(tuple(found), tuple(foreign_heads(migrated, live)), len(migrated.things))


async def catalogue_of(url: str) -> Catalogue:
    """Return the catalogue of the database at `url`."""
    conn = await connect(url, application_name="helix check")
    try:
        return await read_catalogue(conn)
    finally:
        await conn.close()


async def migrated_catalogue(url: str, directory: Path = MIGRATIONS) -> Catalogue:
    """Return the catalogue that the migrations make on the server of `url`."""
    async with scratch_database(url) as scratch:
        await upgrade(scratch, directory=directory)
        return await catalogue_of(scratch)


async def schema_catalogue(url: str) -> Catalogue:
    """Return the catalogue that the files in sql/schema make on the server of `url`."""
    async with scratch_database(url) as scratch:
        conn = await connect(scratch, application_name="helix check")
        try:
            await run_statements(conn, read_schema_files())
        finally:
            await conn.close()
        return await catalogue_of(scratch)
