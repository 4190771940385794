"""POST /api/users/{user_id}/erase, for administrators."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from helix.core.audit import Actor
from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database, Role
from helix.operations.erasure.errors import ErasureNotConfirmed
from helix.operations.erasure.service import erase

__all__ = ["build_router"]

_WAIT_S = 30.0


class EraseBody(BaseModel):
    """`confirm` repeats the id: it cannot be undone."""

    model_config = ConfigDict(extra="forbid")

    confirm: UUID


def build_router(
    db: Database,
    settings: Settings,
    clock: Clock,
    *,
    admin: Callable[[Request], Awaitable[Actor]],
) -> APIRouter:
    """Return the route; `admin` returns who asks, or raises."""
    api = APIRouter(prefix="/api/users", tags=["accounts"])
    By = Annotated[Actor, Depends(admin)]  # noqa: N806 - a type

    @api.post("/{user_id}/erase")
    async def erase_user(user_id: UUID, body: EraseBody, by: By) -> dict[str, Any]:
        """Erase all that a user said, made and was; accounts and audit stay, unlinked."""
        if body.confirm != user_id:
            raise ErasureNotConfirmed("confirm must repeat the user's id", param="confirm")
        async with db.connection(Role.OPERATOR) as conn:
            await conn.execute("SET statement_timeout = '1h'")
            try:
                done = await asyncio.shield(
                    erase(
                        conn,
                        user_id=user_id,
                        backups=settings.backup_path,
                        actor=by,
                        now=clock.now(),
                        wait_s=_WAIT_S,
                    )
                )
            finally:
                await conn.execute("RESET statement_timeout")
        return {"user_id": user_id, "rows": done.rows}

    return api
