"""The restore test: a backup counts once it has come back and is equal."""

import shutil
import tempfile
import time
from pathlib import Path

from helix.core.config import Settings
from helix.core.db import connect
from helix.core.errors import HelixError
from helix.core.instance import make_home
from helix.operations.backup.contents import content_differences, read_contents
from helix.operations.backup.errors import BackupDiffers
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.restore import fill, new_cluster
from helix.operations.backup.state import record_run
from helix.operations.backup.types import Backup
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
) -> float:
    """Restore a backup into a PostgreSQL made for it, compare everything, throw that away.

    Returns the seconds it took. The result goes into `backup_runs` at `url`, when there is one.
    Raises BackupDamaged, BackupFailed, or BackupDiffers with what differs. Must run in the main
    thread (see EmbeddedPostgres). Needs about as much disk as the database, in the directory of
    backups.
    """
    began = time.monotonic()
    try:
        await _restore_and_compare(settings, directory, backup, report)
    except HelixError as exc:
        await _record(url, backup, began, exc.message)
        raise
    await _record(url, backup, began, None)
    return time.monotonic() - began


async def _record(url: str | None, backup: Backup, began: float, error: str | None) -> None:
    if url is not None:
        await record_run(
            url,
            action="verify",
            backup=backup.name,
            method=backup.manifest.method,
            duration_s=time.monotonic() - began,
            size_bytes=backup.manifest.size_bytes,
            error=error,
        )


async def _restore_and_compare(
    settings: Settings, directory: BackupDirectory, backup: Backup, report: Report
) -> None:
    for left in directory.path.glob(".verify-*"):
        if time.time() - left.stat().st_mtime > 24 * 3_600:  # of a command that was killed
            shutil.rmtree(left, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=".verify-", dir=directory.path))
    try:
        scratch = settings.model_copy(update={"home": home, "database_url": None, "db_host": None})
        make_home(home)
        async with new_cluster(scratch, beyond=0, report=lambda _: None, durable=False) as server:
            report("checking every byte, then restoring into a scratch PostgreSQL")
            await fill(
                server.url, scratch, backup, directory.keys, reason=None, report=lambda _: None
            )
            report("comparing rows, sequences, roles, grants, policies and extensions")
            lines = await compare(server.url, backup)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if lines:
        more = f"; and {len(lines) - _SHOWN_MAX} more" if len(lines) > _SHOWN_MAX else ""
        raise BackupDiffers(
            f"{backup.name} came back different: {'; '.join(lines[:_SHOWN_MAX])}{more}"
        )


async def compare(url: str, backup: Backup) -> list[str]:
    """Return what differs between the database at `url` and what the manifest says."""
    expected = backup.manifest.contents
    if expected is None:
        raise BackupDiffers(f"the manifest of {backup.name} says nothing of its contents")
    conn = await connect(url, application_name="helix verify")
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            found = await read_contents(conn)
    finally:
        await conn.close()
    return content_differences(expected, found)
