"""The HTTP surface of retention: GET /api/retention/plan, for administrators."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.db import Database, Role
from helix.core.instance import HomePaths
from helix.operations.retention.measure import Forecast, forecast, measure

__all__ = ["build_router", "forecast_for"]


def forecast_for(settings: Settings, lines: list[Any]) -> Forecast:
    """Return the forecast of the disk the embedded database lies on; of no outside one's."""
    embedded = settings.external_url() is None
    return forecast(lines, HomePaths(settings.home_dir).data if embedded else None)


def build_router(
    db: Database, settings: Settings, clock: Clock, admin: Callable[[Request], Awaitable[object]]
) -> APIRouter:
    """Return the routes of retention; `admin` lets administrators pass and refuses others."""
    api = APIRouter(prefix="/api/retention", tags=["retention"], dependencies=[Depends(admin)])

    @api.get("/plan")
    async def plan() -> Response:
        """Every table's rule, size and growth, and what would go now; changes nothing."""
        async with db.connection(Role.OPERATOR) as conn:
            lines = await measure(conn, settings, now=clock.now())
        shown = {"tables": lines, "disk": forecast_for(settings, lines)}
        return Response(msgspec.json.encode(shown), media_type="application/json")

    return api
