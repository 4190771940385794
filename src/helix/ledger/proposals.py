"""Prices that the catalogue of models proposes; what people set always stands."""

from typing import Any

from helix.core.db import Connection, Queries

__all__ = ["Proposals"]


class Proposals:
    """Takes prices from the models sync; given a connection, and never commits."""

    def __init__(self) -> None:
        self._queries = Queries("helix.ledger", "proposals.sql")

    async def __call__(
        self, conn: Connection, *, provider: str, model: str, price: Any, source: str, dated: str
    ) -> bool:
        """Add a price from now on for `provider/model`; say whether it was taken.

        It is not when somebody set a price for that name or for the bare model, or when it is the
        price that holds already. `source` and `dated` are kept with it.
        """
        row = await self._queries.row(
            conn,
            "propose_price",
            model=f"{provider}/{model}"[:255],
            bare=model,
            input=price.input_usd,
            output=price.output_usd,
            cached_input=price.cached_input_usd,
            reasoning=price.reasoning_usd,
            source=source,
            dated=dated,
        )
        return row is not None
