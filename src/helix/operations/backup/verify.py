"""The restore test: a backup counts once it has come back and is equal."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import connect
from helix.core.errors import HelixError
from helix.core.instance import make_home
from helix.operations.backup.archive import WalArchive
from helix.operations.backup.clients import libpq, read_program
from helix.operations.backup.contents import content_differences, read_contents
from helix.operations.backup.errors import BackupDamaged, BackupDiffers, BackupFailed
from helix.operations.backup.manifest import BackupDirectory, check_files
from helix.operations.backup.ranges import chain_of
from helix.operations.backup.recovery import recovering, unpack
from helix.operations.backup.restore import fill, new_cluster
from helix.operations.backup.state import record_run
from helix.operations.backup.types import Backup, Contents, Method
from helix.operations.postgres_files import clear_stale
from helix.operations.postgres_programs import find_programs
from helix.operations.types import Report

__all__ = ["compare", "verify"]

_SHOWN_MAX = 20


async def verify(
    url: str | None,
    settings: Settings,
    directory: BackupDirectory,
    backup: Backup,
    *,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> float:
    """Restore a backup into a PostgreSQL made for it, compare everything, throw that away.

    A physical one is compared as of its own end; then all the archived log is replayed over it,
    and every row, toast and index of what comes out is read and checked.

    Returns the seconds it took. The result goes into `backup_runs` and `audit_log` at `url`, when
    there is one.
    Raises BackupDamaged, BackupFailed, or BackupDiffers with what differs. Must run in the main
    thread (see EmbeddedPostgres). Needs about as much disk as the database, in the directory of
    backups.
    """
    began = time.monotonic()
    test = _test_physical if backup.manifest.method is Method.PHYSICAL else _restore_and_compare
    try:
        await test(settings, directory, backup, report)
    except HelixError as exc:
        await _record(url, backup, began, exc.message, actor)
        raise
    await _record(url, backup, began, None, actor)
    return time.monotonic() - began


async def _record(
    url: str | None, backup: Backup, began: float, error: str | None, actor: Actor
) -> None:
    if url is not None:
        await record_run(
            url,
            action="verify",
            backup=backup.name,
            method=backup.manifest.method,
            duration_s=time.monotonic() - began,
            size_bytes=backup.manifest.size_bytes,
            error=error,
            actor=actor,
        )


async def _restore_and_compare(
    settings: Settings, directory: BackupDirectory, backup: Backup, report: Report
) -> None:
    with _scratch_home(settings, directory) as scratch:
        async with new_cluster(scratch, beyond=0, report=lambda _: None, durable=False) as server:
            report("checking every byte, then restoring into a scratch PostgreSQL")
            await fill(
                server.url, scratch, backup, directory.keys, reason=None, report=lambda _: None
            )
            report("comparing rows, sequences, roles, grants, policies and extensions")
            lines = await compare(server.url, backup)
    _require_none(backup, lines)


@contextmanager
def _scratch_home(settings: Settings, directory: BackupDirectory) -> Iterator[Settings]:
    clear_stale(directory.path, ".verify-*")
    home = Path(tempfile.mkdtemp(prefix=".verify-", dir=directory.path))
    try:
        make_home(home)
        yield settings.model_copy(update={"home": home, "database_url": None, "db_host": None})
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _require_none(backup: Backup, lines: list[str]) -> None:
    if lines:
        more = f"; and {len(lines) - _SHOWN_MAX} more" if len(lines) > _SHOWN_MAX else ""
        raise BackupDiffers(
            f"{backup.name} came back different: {'; '.join(lines[:_SHOWN_MAX])}{more}"
        )


async def _test_physical(
    settings: Settings, directory: BackupDirectory, backup: Backup, report: Report
) -> None:
    manifest = backup.manifest
    archive = WalArchive(directory.path, manifest.system_identifier or "", directory.keys)
    report("checking every byte of it and of the log that follows")
    await asyncio.to_thread(check_files, backup, directory.keys)
    chain = await asyncio.to_thread(chain_of, backup, archive, check=True)
    timeline = {"recovery_target_timeline": str(manifest.timeline or 1)}
    with _scratch_home(settings, directory) as scratch:
        report("restoring into a scratch PostgreSQL")
        await unpack(backup, directory.keys, scratch, durable=False)
        async with recovering(
            scratch,
            archive=None,
            segments=(),
            parameters=timeline | {"recovery_target": "immediate"},
            durable=False,
            pause=True,
        ) as server:
            report("comparing what did not change while it was made")
            _require_none(backup, await _compare_unchanged(server.url, backup))
        if chain.segments:
            report(f"replaying {len(chain.segments)} segments of the log")
        async with recovering(
            scratch,
            archive=archive,
            segments=chain.segments,
            parameters={"recovery_target_timeline": str(chain.timeline)},
            durable=False,
        ) as server:
            report("checking every table and index")
            await _check_all(server.url, scratch)
    if chain.fault:
        raise BackupDamaged(
            f"{backup.name} came back, but the log after it is broken: {chain.fault}"
        )


async def _compare_unchanged(url: str, backup: Backup) -> list[str]:
    expected = backup.manifest.contents
    if expected is None:
        return []
    found = await _read(url, logged_only=True)
    tables = {name: state for name, state in found.tables.items() if name in expected.tables}
    return content_differences(expected, msgspec.structs.replace(found, tables=tables))


async def _check_all(url: str, settings: Settings) -> None:
    """Let PostgreSQL check every row, toast and index of a copy."""
    programs = find_programs(settings)
    dsn, environment = libpq(url)
    command = [str(programs.directory / "pg_amcheck"), "--install-missing", "--heapallindexed"]
    try:
        await read_program([*command, "--no-password", dsn], environment, lambda _: None)
    except BackupFailed as exc:
        raise BackupDiffers(f"what came back is not sound: {exc.message}") from exc


async def compare(url: str, backup: Backup) -> list[str]:
    """Return what differs between the database at `url` and what the manifest says."""
    expected = backup.manifest.contents
    if expected is None:
        raise BackupDiffers(f"the manifest of {backup.name} says nothing of its contents")
    return content_differences(expected, await _read(url))


async def _read(url: str, *, logged_only: bool = False) -> Contents:
    conn = await connect(url, application_name="helix verify")
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            return await read_contents(conn, logged_only=logged_only)
    finally:
        await conn.close()
