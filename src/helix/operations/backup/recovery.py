"""Bringing a physical backup back: unpack it, and let PostgreSQL replay the archived log."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tarfile
import zlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from helix.core.config import Settings
from helix.core.db import Queries, connect
from helix.core.errors import Unavailable
from helix.core.instance import HomePaths
from helix.operations.backup.archive import WalArchive
from helix.operations.backup.base import BASE_FILE, BASE_PURPOSE
from helix.operations.backup.clients import run_program
from helix.operations.backup.errors import BackupDamaged, BackupFailed, TargetOutOfRange
from helix.operations.backup.feeder import RESTORE_COMMAND, WalFeeder
from helix.operations.backup.sealed import Keys, unseal
from helix.operations.backup.types import Backup
from helix.operations.backup.wal import Segment
from helix.operations.postgres_files import directory_argument, open_log
from helix.operations.postgres_process import exit_of
from helix.operations.postgres_programs import Programs, find_programs
from helix.operations.postgres_server import EmbeddedPostgres

__all__ = ["last_replayed_at", "recovering", "unpack"]

_QUERIES = Queries("helix.operations.backup")
_READ_BYTES = 1 << 20
_RECOVERY_S_MAX = 7 * 86_400.0
_POLL_S = 0.1
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_ENDED_BEFORE = "recovery ended before configured recovery target was reached"
_LAST = re.compile(r"last completed transaction was at log time ([^\n]+)")
_LEAST = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
"""What a server that answers while it recovers needs as much of as its origin had."""


async def unpack(backup: Backup, keys: Keys, settings: Settings, *, durable: bool) -> None:
    """Unpack a physical backup as the data of the home of `settings`, and check every file.

    The home has none yet. Raises BackupDamaged, BackupFailed.
    """
    programs = find_programs(settings)
    data = HomePaths(settings.home_dir).data
    await asyncio.to_thread(_extract, backup, keys, data, programs)
    verify = [str(programs.directory / "pg_verifybackup"), "--no-parse-wal", "--exit-on-error"]
    try:
        await run_program([*verify, str(data)], _ENVIRONMENT)
    except BackupFailed as exc:
        raise BackupDamaged(f"{backup.name} is not what PostgreSQL wrote: {exc.message}") from exc
    if durable:
        await _sync(settings, programs, data)


def _extract(backup: Backup, keys: Keys, data: Path, programs: Programs) -> None:
    identity = programs.identity
    name = f"{backup.name}/{BASE_FILE}"
    data.mkdir(mode=0o700)
    os.chown(data, identity.uid, identity.gid)
    with (backup.path / BASE_FILE).open("rb") as file:
        stream: Any = _Stream(_inflated(unseal(file, keys, purpose=BASE_PURPOSE, name=name), name))
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_READ_BYTES) as tar:
                for member in tar:
                    _extract_one(tar, member, data, identity.uid, identity.gid)
        except tarfile.TarError as exc:
            raise BackupDamaged(f"{name} was sealed, but is no archive: {exc}") from exc
        while stream.read(_READ_BYTES):
            pass


def _extract_one(
    tar: tarfile.TarFile, member: tarfile.TarInfo, data: Path, uid: int, gid: int
) -> None:
    parts = PurePosixPath(member.name).parts
    if not (member.isfile() or member.isdir()) or ".." in parts or member.name.startswith("/"):
        raise BackupDamaged(f"the backup holds {member.name!r}, which no base backup does")
    path = data.joinpath(*parts)
    if member.isdir():
        path.mkdir(mode=0o700, exist_ok=True)
    else:
        inner = tar.extractfile(member)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            while inner is not None and (block := inner.read(_READ_BYTES)):
                file.write(block)
    if uid != os.geteuid():
        os.chown(path, uid, gid)


def _inflated(sealed: Iterator[bytes], name: str) -> Iterator[bytes]:
    opener = zlib.decompressobj()
    try:
        for chunk in sealed:
            waiting = chunk
            while waiting:
                yield opener.decompress(waiting, _READ_BYTES)
                waiting = opener.unconsumed_tail
        yield opener.flush()
    except zlib.error as exc:
        raise BackupDamaged(f"{name} was sealed, but does not unpack: {exc}") from exc
    if not opener.eof or opener.unused_data:
        raise BackupDamaged(f"{name} was sealed, but ends early")


class _Stream:
    """A file to read from, made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._waiting = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._waiting) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._waiting += piece
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data


async def _sync(settings: Settings, programs: Programs, data: Path) -> None:
    """Have what was unpacked on the disk before it is relied upon."""
    log_path = HomePaths(settings.home_dir).postgres_log
    once = ["--sync-method=syncfs"] if sys.platform == "linux" and programs.major >= 17 else []
    with open_log(log_path) as log, directory_argument(programs, data) as (name, kept):
        process = programs.start(
            "initdb",
            ["--sync-only", *once, "-D", name],
            end_signal=signal.SIGKILL,
            output=log,
            keep_open=kept,
        )
        if await exit_of(process) != 0:
            raise BackupFailed(f"what was unpacked cannot be synced: see {log_path}")


@asynccontextmanager
async def recovering(
    settings: Settings,
    *,
    archive: WalArchive | None,
    segments: Collection[Segment],
    parameters: Mapping[str, str],
    durable: bool,
    pause: bool = False,
) -> AsyncIterator[EmbeddedPostgres]:
    """Recover what was unpacked into the home of `settings`, as `parameters` say, for the block.

    The block begins when the recovery has ended; with `pause` at its target, and read-only. Raises
    TargetOutOfRange when the log ends before, and what opening a segment raises. Main thread only.
    """
    data = HomePaths(settings.home_dir).data
    programs = find_programs(settings)
    feeder = WalFeeder(archive, segments, data=data, programs=programs)
    options = {
        # The new timeline's history and log wait in pg_wal for the keeper of the home they go to.
        "archive_mode": "on" if durable else "off",
        "restore_command": RESTORE_COMMAND,
        "recovery_target_action": "pause" if pause else "promote",
        "hot_standby": "on" if pause else "off",
        **(await asyncio.to_thread(_least, programs, data) if pause else {}),
        **({} if durable else {"autovacuum": "off"}),
        **parameters,
    }
    server = EmbeddedPostgres(
        settings, durable=durable, options=options, ready_timeout_s=_RECOVERY_S_MAX
    )
    feeder.begin()
    feeding = asyncio.create_task(feeder.run(), name="wal feeder")
    try:
        signal_file = data / "recovery.signal"
        signal_file.touch(mode=0o600)
        os.chown(signal_file, programs.identity.uid, programs.identity.gid)
        await _start(server, feeding)
        await _until_settled(server, feeding, pause=pause)
        yield server
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        feeder.end()
        await server.stop()


async def _start(server: EmbeddedPostgres, feeding: "asyncio.Task[None]") -> None:
    starting = asyncio.ensure_future(server.start())
    try:
        await asyncio.wait({starting, feeding}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and not starting.done():
            feeding.result()
        await starting
    except Unavailable as exc:
        if _ENDED_BEFORE in exc.message:
            raise TargetOutOfRange("the archived log ends before that") from exc
        raise
    finally:
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)


async def _until_settled(
    server: EmbeddedPostgres, feeding: "asyncio.Task[None]", *, pause: bool
) -> None:
    """Wait until the recovery is over, or stands still: until then answers are of the past."""
    conn = await connect(server.url, application_name="helix restore")
    try:
        while True:
            row = (await _QUERIES.rows(conn, "recovery_state"))[0]
            if row["pause"] == "paused" if pause else not row["recovering"]:
                return
            if feeding.done():
                feeding.result()
            await asyncio.sleep(_POLL_S)
    finally:
        await conn.close()


def _least(programs: Programs, data: Path) -> dict[str, str]:
    told = subprocess.run(  # noqa: S603 - PostgreSQL's own program
        [str(programs.directory / "pg_controldata"), str(data)],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    return {name: found[label].strip() for name, label in _LEAST.items() if label in found}


def last_replayed_at(settings: Settings) -> str | None:
    """Return the time of the last transaction that a recovery in this home replayed, as it said."""
    with contextlib.suppress(OSError):
        text = HomePaths(settings.home_dir).postgres_log.read_text(errors="replace")
        found = _LAST.findall(text)
        return found[-1].strip() if found else None
    return None
