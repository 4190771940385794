"""The only code that runs the statements of the ledger."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from helix.core.db import Connection, Queries
from helix.ledger.errors import BudgetNotFound, BudgetTaken, PriceInForce
from helix.ledger.policy import PriceBook, price_book
from helix.ledger.types import BudgetTarget, Price, UsageQuestion

__all__ = ["Store"]


LISTED_MAX = 1_000


class Store:
    """Prices, budgets and usage; each method is given a connection and never commits."""

    def __init__(self) -> None:
        self._queries = Queries("helix.ledger")

    async def mark(self, conn: Connection) -> str:
        """Return a value that changes whenever a price does."""
        row = await self._queries.row(conn, "prices_mark")
        return "" if row is None else str(row["mark"])

    async def load(self, conn: Connection) -> PriceBook:
        """Return every price."""
        rows = await self._queries.rows(conn, "load_prices")
        return price_book(
            Price(
                id=row["id"],
                model=row["model"],
                effective_date=row["effective_date"],
                input_per_million=row["input_cost_per_million"],
                output_per_million=row["output_cost_per_million"],
                cached_input_per_million=row["cached_input_cost_per_million"],
                reasoning_per_million=row["reasoning_cost_per_million"],
                per_request=row["per_request_cost_usd"],
            )
            for row in rows
        )

    async def list_prices(
        self, conn: Connection, *, model: str | None, whole_history: bool
    ) -> list[dict[str, Any]]:
        """Return prices as they are shown: in force and to come, or every one there was."""
        rows = await self._queries.rows(
            conn, "list_prices", model=model, whole_history=whole_history
        )
        return [dict(row) for row in rows]

    async def insert_price(
        self,
        conn: Connection,
        *,
        model: str,
        input_usd: Decimal,
        output_usd: Decimal,
        cached_input_usd: Decimal | None,
        reasoning_usd: Decimal | None,
        per_request_usd: Decimal | None,
        effective_date: datetime | None,
        updated_by: str,
        notes: str | None,
    ) -> dict[str, Any]:
        """Add a price, from now or from `effective_date` on; raises PriceInForce."""
        row = await self._queries.row(
            conn,
            "insert_price",
            model=model,
            input=input_usd,
            output=output_usd,
            cached_input=cached_input_usd,
            reasoning=reasoning_usd,
            per_request=per_request_usd,
            effective_date=effective_date,
            updated_by=updated_by,
            notes=notes,
        )
        if row is None:
            raise PriceInForce(model, "now" if effective_date is None else str(effective_date))
        return dict(row)

    async def report_usage(
        self, conn: Connection, question: UsageQuestion, *, user_id: UUID | None
    ) -> list[dict[str, Any]]:
        """Return sums of usage, of one user or with None of all; only the dimensions asked for."""
        rows = await self._queries.rows(
            conn,
            "report_usage",
            by=list(question.by),
            from_time=question.from_time,
            to_time=question.to_time,
            user_id=user_id,
            api_key_id=question.api_key_id,
            project_id=question.project_id,
            agent_id=question.agent_id,
            model=question.model,
            provider=question.provider,
            max_count=question.max_count,
        )
        columns = question.columns()
        return [{name: row[name] for name in columns} for row in rows]

    async def summed_until(self, conn: Connection, question: UsageQuestion) -> datetime | None:
        """Return until when an answer is made of sums by hour and day; None: it is not.

        Of those sums the ones count that begin in the time asked for.
        """
        row = await self._queries.row(conn, "summed_until", from_time=question.from_time)
        return None if row is None else min(row["summed_until"], question.to_time)

    async def spend_of_tasks(
        self, conn: Connection, task_ids: Sequence[UUID]
    ) -> dict[UUID, Decimal]:
        """Return what each of these tasks has spent; those that called nothing are left out."""
        rows = await self._queries.rows(conn, "spend_of_tasks", task_ids=list(task_ids))
        return {row["task_id"]: row["cost_usd"] for row in rows}

    async def list_budgets(
        self,
        conn: Connection,
        *,
        now: datetime,
        user_id: UUID | None = None,
        budget_id: UUID | None = None,
    ) -> list[dict[str, Any]]:
        """Return budgets with what their running period has spent, of one user or all."""
        rows = await self._queries.rows(
            conn, "list_budgets", now=now, user_id=user_id, id=budget_id, max_count=LISTED_MAX
        )
        return [dict(row) for row in rows]

    async def insert_budget(
        self,
        conn: Connection,
        *,
        user_id: UUID,
        target: BudgetTarget,
        period: str,
        limit_usd: Decimal,
        hard: bool,
        now: datetime,
    ) -> UUID:
        """Add a budget; what its period has spent so far counts. Raises BudgetTaken.

        Raises BudgetNotFound when the user, key or project is not there.
        """
        try:
            row = await self._queries.row(
                conn,
                "insert_budget",
                user_id=user_id,
                scope=target.scope,
                api_key_id=target.api_key_id,
                project_id=target.project_id,
                agent_id=target.agent_id,
                period=period,
                limit_usd=limit_usd,
                hard=hard,
                now=now,
            )
        except asyncpg.ForeignKeyViolationError as exc:
            raise BudgetNotFound from exc
        if row is None:
            raise BudgetTaken
        made: UUID = row["id"]
        return made

    async def owns_target(self, conn: Connection, *, user_id: UUID, target: BudgetTarget) -> bool:
        """Say whether a user is there and has the key or project that is to be limited."""
        row = await self._queries.row(
            conn,
            "owns_target",
            user_id=user_id,
            api_key_id=target.api_key_id,
            project_id=target.project_id,
        )
        return row is not None and bool(row["owned"])

    async def change_budget(
        self,
        conn: Connection,
        *,
        budget_id: UUID,
        limit_usd: Decimal | None = None,
        hard: bool | None = None,
        enabled: bool | None = None,
    ) -> None:
        """Change what is given of a budget, from the next call on; raises BudgetNotFound."""
        row = await self._queries.row(
            conn, "change_budget", id=budget_id, limit_usd=limit_usd, hard=hard, enabled=enabled
        )
        if row is None:
            raise BudgetNotFound

    async def delete_budget(self, conn: Connection, *, budget_id: UUID) -> None:
        """Remove a budget and what is known of its periods; raises BudgetNotFound."""
        if await self._queries.row(conn, "delete_budget", id=budget_id) is None:
            raise BudgetNotFound

    async def reprice_month(
        self, conn: Connection, *, from_time: datetime, to_time: datetime, model: str | None
    ) -> list[dict[str, Any]]:
        """Return, by model and provider, what a span of time cost and what it would cost now."""
        rows = await self._queries.rows(
            conn, "reprice_month", from_time=from_time, to_time=to_time, model=model
        )
        return [dict(row) for row in rows]
