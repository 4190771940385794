"""The only code that runs the statements of the ledger."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from helix.core.db import Connection, Queries
from helix.ledger.errors import PriceInForce
from helix.ledger.policy import PriceBook, price_book
from helix.ledger.types import Price

__all__ = ["Store"]


class Store:
    """Reads and writes prices; each method is given a connection and never commits."""

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
