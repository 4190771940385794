"""Making a logical backup: one snapshot, dumped and counted at the same time, then published."""

import asyncio
import time
from datetime import datetime
from pathlib import Path

from helix import __version__
from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Queries, connect
from helix.core.errors import Misuse, Unavailable
from helix.operations.backup.clients import libpq, read_program
from helix.operations.backup.contents import read_contents, read_sequences, with_sequences
from helix.operations.backup.errors import BackupFailed
from helix.operations.backup.making import make_backup, together
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import Keys, SealedWriter
from helix.operations.backup.types import Backup, BackupFile, Contents, Manifest, Method
from helix.operations.migrate import current
from helix.operations.postgres_programs import find_programs
from helix.operations.types import Report

__all__ = ["DUMP_FILE", "DUMP_PURPOSE", "create_logical"]

DUMP_FILE = "dump.hxb"
DUMP_PURPOSE = "dump"
_QUERIES = Queries("helix.operations.backup")
_ARCHIVE_BEGINS = b"PGDMP"
_EMPTY_DUMP_BYTES = 1_000
"""A dump of a database with any table in it is longer."""
_GZIP_LEVEL = 3
"""The bundled pg_dump is built without zstd; beyond 3, gzip costs much time for little space."""


async def create_logical(
    url: str,
    settings: Settings,
    directory: BackupDirectory,
    *,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Backup:
    """Dump the database at `url`, encrypted, and publish it; return the backup.

    Rows, sequences, roles and catalogue are read in the dump's own snapshot while it runs. Until
    all is on the disk nothing is listed; a failure leaves nothing. Either way `backup_runs` and
    `audit_log` tell. Raises BackupFailed, BackupsBusy, Misuse, Unavailable.
    """

    async def make(name: str, partial: Path) -> Manifest:
        return await _dump(url, settings, partial, name=name, now=now, keys=directory.keys)

    return await make_backup(
        url, directory, Method.LOGICAL, make, now=now, report=report, actor=actor
    )


async def _dump(
    url: str, settings: Settings, partial: Path, *, name: str, now: datetime, keys: Keys
) -> Manifest:
    programs = find_programs(settings)
    began = time.monotonic()
    schema = await current(url)
    try:
        conn = await connect(url, application_name="helix backup")
    except OUTAGES as exc:
        raise Unavailable(f"the database cannot be reached: {exc}") from exc
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            snapshot = (await _QUERIES.rows(conn, "export_snapshot"))[0]["snapshot"]
            server = (await _QUERIES.rows(conn, "read_server"))[0]
            arguments = [str(programs.directory / "pg_dump"), "--format=custom"]
            arguments += [f"--snapshot={snapshot}", "--no-password", f"--compress={_GZIP_LEVEL}"]
            if not server["sees_all"]:
                await _require_all_rows(conn, is_operator=server["is_operator"])
                arguments.append("--enable-row-security")
            before = await read_sequences(conn)  # no snapshot holds these: they move meanwhile
            dsn, environment = libpq(url)
            command = [*arguments, f"--dbname={dsn}"]
            file, contents = await together(
                _write_dump(command, environment, partial, keys), read_contents(conn)
            )
            contents = with_sequences(contents, before, await read_sequences(conn))
    finally:
        await conn.close()
    _require_something(contents)
    return Manifest(
        name=name,
        method=Method.LOGICAL,
        created_at=now,
        duration_ms=round((time.monotonic() - began) * 1_000),
        helix_version=__version__,
        schema_version=schema.revision,
        server_version=server["version"],
        database=server["database"],
        database_bytes=server["bytes"],
        next_xid=server["next_xid"],
        files=[file],
        contents=contents,
    )


async def _write_dump(
    command: list[str], environment: dict[str, str], partial: Path, keys: Keys
) -> BackupFile:
    path = partial / DUMP_FILE
    head = bytearray()
    with path.open("xb") as file:
        path.chmod(0o600)
        sealed = SealedWriter(file, keys, purpose=DUMP_PURPOSE)

        def sink(data: bytes) -> None:
            if len(head) < len(_ARCHIVE_BEGINS):
                head.extend(data[: len(_ARCHIVE_BEGINS)])
            sealed.write(data)

        await read_program(command, environment, sink)
        if not head.startswith(_ARCHIVE_BEGINS) or sealed.plain_bytes < _EMPTY_DUMP_BYTES:
            raise BackupFailed(
                f"pg_dump wrote {sealed.plain_bytes} bytes that are no archive: nothing was kept"
            )
        await asyncio.to_thread(sealed.finish)
    return BackupFile(DUMP_FILE, DUMP_PURPOSE, sealed.size_bytes, sealed.sha256)


def _require_something(contents: Contents) -> None:
    if not contents.tables:
        raise BackupFailed("the database has no table: is it the right one? Nothing was kept")


async def _require_all_rows(conn: Connection, *, is_operator: bool) -> None:
    """Refuse a login that row-level security might hide rows from: that backup would be short."""
    hidden = [row["name"] for row in await _QUERIES.rows(conn, "tables_hidden_from_operator")]
    if hidden or not is_operator:
        raise Misuse(
            "this login might not see every row, so its backup could be incomplete"
            + (f" ({', '.join(hidden[:3])})" if hidden else "")
            + ": use the owner that ran the migrations, or ALTER ROLE … BYPASSRLS"
        )
