"""/api/backups: list, make and test backups; for administrators. Restoring has no route."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Database, Role
from helix.core.errors import Misuse
from helix.operations.backup.jobs import BACKUP_CREATE, BACKUP_VERIFY, BackupOrder, VerifyOrder
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import backup_health, verified_at
from helix.operations.backup.types import Backup, Method
from helix.tasks import TaskRegistry, Unique, enqueue

__all__ = ["build_router"]


class BackupBody(BaseModel):
    """A backup to make; without a method a logical one, and a physical one when that is due."""

    model_config = ConfigDict(extra="forbid")

    method: Method | None = None


class VerifyBody(BaseModel):
    """Nothing: which backup is tested stands in the path."""

    model_config = ConfigDict(extra="forbid")


def build_router(
    db: Database,
    settings: Settings,
    keyring: Keyring,
    registry: TaskRegistry,
    clock: Clock,
    *,
    admin: Callable[[Request], Awaitable[object]],
) -> APIRouter:
    """Return the routes; `admin` lets only administrators pass.

    Making and testing are tasks of the queue `system`, one of a kind at a time: asking again while
    one waits or runs answers with that one.
    """
    api = APIRouter(prefix="/api/backups", tags=["backups"], dependencies=[Depends(admin)])
    directory = BackupDirectory(settings.backup_path, keyring.derived(BACKUP_PURPOSE))

    @api.get("")
    async def list_backups() -> Response:
        """List the backups, newest first, and those that cannot be used, with the reason."""
        backups, unusable = directory.list()
        tested = await verified_at(db.url)
        return _json(
            {
                "data": [_told(backup, tested.get(backup.name)) for backup in backups],
                "unusable": unusable,
            }
        )

    @api.get("/status")
    async def status() -> Response:
        """Say how old backups and restore tests are, what is recoverable, and what is wrong."""
        return _json(await backup_health(db.url, directory, now=clock.now(), settings=settings))

    @api.post("", status_code=202)
    async def create(body: BackupBody) -> Response:
        """Make a backup in the background; the answer names the task."""
        method = body.method
        if method is Method.PHYSICAL and settings.external_url() is not None:
            raise Misuse("physical backups are made of the embedded PostgreSQL only")
        return await begin(BACKUP_CREATE, BackupOrder(method), key=f"{method or 'all'}")

    @api.post("/{name}/verify", status_code=202)
    async def verify(name: str, _: VerifyBody) -> Response:
        """Restore a backup beside and compare, in the background; the answer names the task."""
        backup = directory.get(name)
        return await begin(BACKUP_VERIFY, VerifyOrder(backup.name), key=backup.name)

    async def begin(task_type: str, order: msgspec.Struct, *, key: str) -> Response:
        task = registry.get(task_type).new(order, unique=Unique(key))
        async with db.transaction(Role.OPERATOR) as conn:
            made = await enqueue(conn, task)
        return _json({"task_id": made.id, "created": made.created}, status=202)

    return api


def _told(backup: Backup, tested: Any) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "name": backup.name,
        "method": manifest.method,
        "created_at": manifest.created_at,
        "ended_at": manifest.ended_at,
        "duration_ms": manifest.duration_ms,
        "size_bytes": manifest.size_bytes,
        "database_bytes": manifest.database_bytes,
        "schema_version": manifest.schema_version,
        "server_version": manifest.server_version,
        "verified_at": tested,
    }


def _json(value: Any, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
