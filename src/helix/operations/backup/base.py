"""Making a physical backup: PostgreSQL's files and the log that makes them one moment, sealed.

`pg_basebackup` writes one tar to a pipe; no plain byte reaches the disk. Tables that are the same
before and after are the same at the moment in between at which the copy is whole, so their rows
and checksums stand in the manifest.
"""

import asyncio
import tarfile
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import msgspec

from helix import __version__
from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Queries, connect
from helix.core.errors import Misuse, Unavailable
from helix.core.instance import HomePaths
from helix.operations.backup.archive import system_identifier
from helix.operations.backup.clients import libpq, take_program
from helix.operations.backup.contents import read_contents
from helix.operations.backup.errors import BackupFailed
from helix.operations.backup.making import make_backup, together
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import Keys, SealedWriter
from helix.operations.backup.types import Backup, BackupFile, Contents, Manifest, Method
from helix.operations.backup.wal import parse_lsn, segment_at
from helix.operations.migrate import current
from helix.operations.postgres_programs import find_programs
from helix.operations.types import Report

__all__ = ["BASE_FILE", "BASE_PURPOSE", "create_physical"]

BASE_FILE = "base.hxb"
BASE_PURPOSE = "base"
_QUERIES = Queries("helix.operations.backup")
_LEVEL = 3
_READ_BYTES = 1 << 20
_LABEL, _INVENTORY, _CONTROL = "backup_label", "backup_manifest", "global/pg_control"


@dataclass(frozen=True, slots=True)
class _Copied:
    """What pg_basebackup told of the copy it made."""

    file: BackupFile
    timeline: int
    start_lsn: str
    end_lsn: str


class _Range(msgspec.Struct):
    timeline: int = msgspec.field(name="Timeline")
    start: str = msgspec.field(name="Start-LSN")
    end: str = msgspec.field(name="End-LSN")


class _Inventory(msgspec.Struct):
    """PostgreSQL's manifest of the files of a base backup, as far as it matters here."""

    ranges: list[_Range] = msgspec.field(name="WAL-Ranges")


async def create_physical(
    url: str,
    settings: Settings,
    directory: BackupDirectory,
    *,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Backup:
    """Copy the cluster of the embedded PostgreSQL at `url`, encrypted, and publish the backup.

    It holds the log written meanwhile, so it comes back without the archive; with it, at any moment
    after. Until all is on the disk nothing is listed; a failure leaves nothing. Either way
    `backup_runs` and `audit_log` tell. Raises BackupFailed, BackupsBusy, Misuse, Unavailable.
    """
    if settings.external_url() is not None:
        raise Misuse(
            "physical backups are made of the embedded PostgreSQL only: for your own use "
            "pgBackRest or WAL-G, set up as docs/backup.md shows; logical ones work for both"
        )

    async def make(name: str, partial: Path) -> Manifest:
        return await _copy(url, settings, partial, name=name, now=now, keys=directory.keys)

    return await make_backup(
        url, directory, Method.PHYSICAL, make, now=now, report=report, actor=actor
    )


async def _copy(
    url: str, settings: Settings, partial: Path, *, name: str, now: datetime, keys: Keys
) -> Manifest:
    began = time.monotonic()
    programs = find_programs(settings)
    schema = await current(url)
    dsn, environment = libpq(url)
    command = [str(programs.directory / "pg_basebackup"), "--pgdata=-", "--format=tar"]
    command += ["--wal-method=fetch", "--checkpoint=fast", "--manifest-checksums=SHA256"]
    command += [f"--label={name}", "--no-password", f"--dbname={dsn}"]
    async with _log_held(url, name) as conn:
        copied, before = await together(
            _write_base(command, environment, partial, keys), _contents(conn)
        )
        end = (await _QUERIES.rows(conn, "read_cluster"))[0]
        after = await _contents(conn)
    return Manifest(
        name=name,
        method=Method.PHYSICAL,
        created_at=now,
        duration_ms=round((time.monotonic() - began) * 1_000),
        helix_version=__version__,
        schema_version=schema.revision,
        server_version=end["version"],
        database=end["database"],
        database_bytes=end["bytes"],
        next_xid=end["next_xid"],
        files=[copied.file],
        contents=_unchanged(before, after),
        system_identifier=system_identifier(HomePaths(settings.home_dir).data),
        start_lsn=copied.start_lsn,
        end_lsn=copied.end_lsn,
        first_wal=segment_at(copied.timeline, parse_lsn(copied.start_lsn)).name,
        timeline=copied.timeline,
        ended_at=end["now"],
    )


@asynccontextmanager
async def _log_held(url: str, name: str) -> AsyncIterator[Connection]:
    """Connect, and keep the server from recycling the log that the copy will need at its end."""
    try:
        conn = await connect(url, application_name="helix backup")
    except OUTAGES as exc:
        raise Unavailable(f"the database cannot be reached: {exc}") from exc
    try:
        await _QUERIES.run(conn, "hold_log", name=name)  # temporary: it goes with the connection
        yield conn
    finally:
        await conn.close()


async def _contents(conn: Connection) -> Contents:
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        return await read_contents(conn, logged_only=True)


def _unchanged(before: Contents, after: Contents) -> Contents | None:
    """Return what is the same in both; None when more than rows has changed."""
    same = {name: state for name, state in after.tables.items() if before.tables.get(name) == state}
    if msgspec.structs.replace(before, tables={}) != msgspec.structs.replace(after, tables={}):
        return None
    return msgspec.structs.replace(after, tables=same)


async def _write_base(
    command: list[str], environment: dict[str, str], partial: Path, keys: Keys
) -> _Copied:
    path, found = partial / BASE_FILE, dict[str, bytes]()
    with path.open("xb") as file:
        path.chmod(0o600)
        sealed = SealedWriter(file, keys, purpose=BASE_PURPOSE)
        packer = zlib.compressobj(_LEVEL)

        def take(pipe: IO[bytes]) -> None:
            source = _Tee(pipe, lambda data: sealed.write(packer.compress(data)))
            _read_tar(source, found)
            while source.read(_READ_BYTES):
                pass

        try:
            await take_program(command, environment, take)
        except tarfile.TarError as exc:
            raise BackupFailed(f"pg_basebackup wrote no whole archive: {exc}") from exc
        if not {_LABEL, _INVENTORY, _CONTROL} <= found.keys():
            raise BackupFailed("pg_basebackup wrote no whole copy: nothing was kept")
        sealed.write(packer.flush())
        await asyncio.to_thread(sealed.finish)
    last = msgspec.json.decode(found[_INVENTORY], type=_Inventory).ranges[-1]
    return _Copied(
        BackupFile(BASE_FILE, BASE_PURPOSE, sealed.size_bytes, sealed.sha256),
        last.timeline,
        last.start,
        last.end,
    )


def _read_tar(source: Any, found: dict[str, bytes]) -> None:
    """Read a tar through and keep the few files that tell what it is."""
    with tarfile.open(fileobj=source, mode="r|", bufsize=_READ_BYTES) as tar:
        for member in tar:
            if member.issym() or member.islnk():
                raise BackupFailed(f"{member.name} is a link: tablespaces cannot be backed up")
            if member.name in {_LABEL, _INVENTORY, _CONTROL}:
                inner = tar.extractfile(member)
                found[member.name] = inner.read() if inner is not None else b""


class _Tee:
    """Reads a pipe and gives all that was read to somebody else as well."""

    def __init__(self, pipe: IO[bytes], also: Callable[[bytes], None]) -> None:
        self._pipe = pipe
        self._also = also

    def read(self, size: int = -1) -> bytes:
        data = self._pipe.read(size)
        self._also(data)
        return data
