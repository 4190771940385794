"""The HTTP surface of the ledger: /api/usage and /api/budgets."""

import csv
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from helix.accounts import Accounts, Principal, Scope, ScopeMissing, UserRole, presented
from helix.core.clock import Clock, Moment
from helix.core.db import Database, Role
from helix.ledger.errors import BudgetNotFound, UsageUnreadable
from helix.ledger.policy import read_grouping
from helix.ledger.store import Store
from helix.ledger.types import BudgetTarget, UsageQuestion

__all__ = ["router"]

Dollars = Annotated[Decimal, Field(ge=0, lt=10**8, decimal_places=12, max_digits=20)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BudgetBody(_Body):
    """A budget for oneself, or by an admin for `user_id`: of one key, project or agent, or all."""

    period: Annotated[str, Field(pattern="^(day|month|total)$")]
    limit_usd: Dollars
    hard: bool = True
    user_id: UUID | None = None
    api_key_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class BudgetChange(_Body):
    """What an admin can change of a budget."""

    limit_usd: Dollars | None = None
    hard: bool | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class _Door:
    """What the routes share: the database, the clock, and the dependencies that say who calls."""

    db: Database
    clock: Clock
    caller: Callable[..., Awaitable[Principal]]
    admin: Callable[..., Principal]
    store: Store = field(default_factory=Store)


def router(accounts: Accounts, db: Database, clock: Clock) -> APIRouter:
    """Return the routes of the ledger. Errors are raised as HelixError for the app to render."""
    api = APIRouter(prefix="/api", tags=["ledger"])

    async def caller(request: Request) -> Principal:
        principal = await accounts.identify(presented(dict(request.headers.raw)))
        if not principal.allows(Scope.USAGE):
            raise ScopeMissing(Scope.USAGE.value)
        return principal

    Caller = Annotated[Principal, Depends(caller)]  # noqa: N806 - a type

    def admin(principal: Caller) -> Principal:
        if not _is_admin(principal):
            raise ScopeMissing(Scope.ADMIN.value)
        return principal

    door = _Door(db, clock, caller, admin)
    for add in (_add_usage, _add_budgets):
        add(api, door)
    return api


def _add_usage(api: APIRouter, door: _Door) -> None:
    """What was used."""
    db, clock, store = door.db, door.clock, door.store
    Caller = Annotated[Principal, Depends(door.caller)]  # noqa: N806 - a type

    @api.get("/usage")
    async def usage(  # noqa: PLR0917 - the parameters of a query
        principal: Caller,
        from_time: Annotated[Moment, Query(alias="from")],
        to_time: Annotated[Moment | None, Query(alias="to")] = None,
        by: Annotated[str, Query(max_length=100)] = "model",
        user_id: UUID | None = None,
        api_key_id: UUID | None = None,
        project_id: UUID | None = None,
        agent_id: Annotated[str | None, Query(max_length=100)] = None,
        model: Annotated[str | None, Query(max_length=255)] = None,
        provider: Annotated[str | None, Query(max_length=255)] = None,
        format: Annotated[str, Query(pattern="^(json|csv)$")] = "json",  # noqa: A002
    ) -> Response:
        """Sum up what was used, by model unless `by` says otherwise; one's own, an admin's all.

        `by` is a list of hour, day or month, and model, provider, key, user, project, agent.
        `summed_until`: before that moment, whole hours and days that begin in the time asked for.
        """
        until = to_time or clock.now()
        if until <= from_time:
            raise UsageUnreadable("from must lie before to", param="from")
        if user_id is not None and user_id != principal.user_id and not _is_admin(principal):
            raise ScopeMissing(Scope.ADMIN.value)
        question = UsageQuestion(
            from_time=from_time,
            to_time=until,
            by=read_grouping(by),
            api_key_id=api_key_id,
            project_id=project_id,
            agent_id=agent_id,
            model=model,
            provider=provider,
        )
        if _is_admin(principal):
            async with db.transaction(Role.OPERATOR) as conn:
                rows = await store.report_usage(conn, question, user_id=user_id)
                summed = await store.summed_until(conn, question)
        else:
            own = principal.user_id
            async with db.transaction(Role.APP, tenant=own) as conn:
                rows = await store.report_usage(conn, question, user_id=own)
                summed = await store.summed_until(conn, question)
        if format == "csv":
            return Response(as_csv(question.columns(), rows), media_type="text/csv")
        return _json({"from": from_time, "to": until, "summed_until": summed, "data": rows})


def _add_budgets(api: APIRouter, door: _Door) -> None:
    """List, make, change and remove budgets."""
    db, clock, store = door.db, door.clock, door.store
    Caller = Annotated[Principal, Depends(door.caller)]  # noqa: N806 - a type
    Admin = Annotated[Principal, Depends(door.admin)]  # noqa: N806 - a type

    @api.get("/budgets")
    async def list_budgets(principal: Caller, user_id: UUID | None = None) -> Response:
        """List one's own budgets with what their running period has spent; an admin's all."""
        if _is_admin(principal):
            async with db.transaction(Role.OPERATOR) as conn:
                found = await store.list_budgets(conn, now=clock.now(), user_id=user_id)
        else:
            own = principal.user_id
            async with db.transaction(Role.APP, tenant=own) as conn:
                found = await store.list_budgets(conn, now=clock.now(), user_id=own)
        return _json({"data": found})

    @api.post("/budgets", status_code=201)
    async def create_budget(body: BudgetBody, principal: Caller) -> Response:
        """Add a budget. Anybody may limit what is their own; a key may not."""
        owner = body.user_id or principal.user_id
        mine = owner == principal.user_id and principal.session_id is not None
        if not mine and not _is_admin(principal):
            raise ScopeMissing(Scope.ADMIN.value)
        target = BudgetTarget(body.api_key_id, body.project_id, body.agent_id)
        async with db.transaction(Role.OPERATOR) as conn:
            if not await store.owns_target(conn, user_id=owner, target=target):
                raise BudgetNotFound
            made = await store.insert_budget(
                conn,
                user_id=owner,
                target=target,
                period=body.period,
                limit_usd=body.limit_usd,
                hard=body.hard,
                now=clock.now(),
            )
            (shown,) = await store.list_budgets(conn, now=clock.now(), budget_id=made)
        return _json(shown, status=201)

    @api.patch("/budgets/{budget_id}")
    async def change_budget(budget_id: UUID, body: BudgetChange, _: Admin) -> Response:
        """Change a budget; the next call is judged by it."""
        async with db.transaction(Role.OPERATOR) as conn:
            await store.change_budget(
                conn,
                budget_id=budget_id,
                limit_usd=body.limit_usd,
                hard=body.hard,
                enabled=body.enabled,
            )
            (shown,) = await store.list_budgets(conn, now=clock.now(), budget_id=budget_id)
        return _json(shown)

    @api.delete("/budgets/{budget_id}", status_code=204)
    async def delete_budget(budget_id: UUID, _: Admin) -> None:
        """Remove a budget."""
        async with db.transaction(Role.OPERATOR) as conn:
            await store.delete_budget(conn, budget_id=budget_id)


def _is_admin(principal: Principal) -> bool:
    return principal.role is UserRole.ADMIN and principal.allows(Scope.ADMIN)


def _json(body: object, status: int = 200) -> Response:
    """Render money as exact text, which a JSON number of a client may not be."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def as_csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV with a heading; text that a spreadsheet would run is quoted with '."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return out.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    text = str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
