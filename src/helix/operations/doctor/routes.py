"""GET /api/doctor, for administrators."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from helix.core.errors import BadInput, Misuse
from helix.operations.doctor.examine import chosen_codes
from helix.operations.doctor.types import Examination, Finding

__all__ = ["build_router", "shown"]

Examine = Callable[[frozenset[str] | None], Awaitable[Examination]]
Codes = Annotated[
    str | None, Query(max_length=1_000, description="Only these checks, by code, with commas.")
]


def shown(finding: Finding) -> dict[str, Any]:
    """Return a finding as programs see it."""
    return {
        "code": finding.code,
        "severity": finding.severity.value,
        "seen": finding.seen,
        "todo": finding.todo,
        "value": finding.value,
        "unit": finding.unit,
        "details": [dict(row) for row in finding.details],
    }


def build_router(examine: Examine, admin: Callable[..., Awaitable[object]]) -> APIRouter:
    """Return the routes; `admin` lets administrators pass."""
    api = APIRouter(prefix="/api", tags=["operations"], dependencies=[Depends(admin)])

    @api.get("/doctor")
    async def doctor(only: Codes = None) -> dict[str, Any]:
        """Look at everything and say what to do, the worst first."""
        try:
            codes = chosen_codes(only)
        except Misuse as exc:
            raise BadInput(exc.message, param="only") from exc
        found = await examine(codes)
        return {
            "at": found.at,
            "duration_s": round(found.duration_s, 3),
            "worst": found.worst.value,
            "findings": [
                shown(one) for one in sorted(found.findings, key=lambda one: -one.severity.rank)
            ],
        }

    return api
