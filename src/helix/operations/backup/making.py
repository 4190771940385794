"""Making a backup of either kind: whole and listed, or nothing and a line that says why."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from helix.core import audit
from helix.core.audit import Actor
from helix.core.db import OUTAGES
from helix.core.errors import HelixError
from helix.operations.backup.errors import BackupFailed
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.state import record_run
from helix.operations.backup.types import Backup, Manifest, Method
from helix.operations.types import Report

__all__ = ["make_backup", "together"]

T = TypeVar("T")
U = TypeVar("U")


async def make_backup(
    url: str,
    directory: BackupDirectory,
    method: Method,
    make: Callable[[str, Path], Awaitable[Manifest]],
    *,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Backup:
    """Have `make` write a backup of this name into this directory, and publish it.

    Until all is on the disk nothing is listed; a failure leaves nothing. Either way `backup_runs`
    and `audit_log` tell. Raises BackupFailed, BackupsBusy, and what `make` does.
    """
    began = time.monotonic()
    with directory.locked():
        name, partial = directory.begin(now)
        report(f"making {name} in {directory.path}")
        try:
            backup = directory.publish(partial, await make(name, partial))
        except BaseException as exc:
            shutil.rmtree(partial, ignore_errors=True)
            await record_run(
                url,
                action="create",
                backup=name,
                method=method,
                duration_s=time.monotonic() - began,
                error=_said(exc),
                actor=actor,
            )
            if isinstance(exc, OSError) and not isinstance(exc, OUTAGES[1:]):
                raise BackupFailed(f"{name} was not made: {exc.strerror or exc}") from exc
            raise
    await record_run(
        url,
        action="create",
        backup=name,
        method=method,
        duration_s=time.monotonic() - began,
        size_bytes=backup.manifest.size_bytes,
        actor=actor,
    )
    return backup


def _said(exc: BaseException) -> str:
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return exc.message if isinstance(exc, HelixError) else type(exc).__name__


async def together(writing: Coroutine[Any, Any, T], reading: Awaitable[U]) -> tuple[T, U]:
    """Read while a file is written; when either fails, the writing has ended before this raises."""
    task = asyncio.create_task(writing)
    try:
        read = await reading
        return await task, read
    except BaseException:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
