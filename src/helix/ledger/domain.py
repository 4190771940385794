"""The ledger put together: what the gateway holds of this domain."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from helix.core.clock import Clock, SystemClock
from helix.core.db import Connection, Database
from helix.ledger.policy import PriceBook, charge, estimate
from helix.ledger.store import Store
from helix.ledger.types import TOKENS_MAX, Charge, Usage
from helix.providers import Route, Watched

__all__ = ["Ledger", "build"]


class Ledger:
    """Knows what things cost. `start` and `stop` it with the server."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._store = store = Store()
        self._clock = clock
        self._book = Watched(db, "prices", mark=store.mark, load=store.load, empty=PriceBook())

    async def start(self) -> None:
        """Read the prices and begin to follow them."""
        await self._book.start()

    async def stop(self) -> None:
        """Stop following."""
        await self._book.stop()

    @property
    def loaded(self) -> bool:
        """Whether the prices were ever read."""
        return self._book.loaded

    def charge(
        self, usage: Usage, *, provider: str, models: tuple[str, ...], at: datetime
    ) -> Charge:
        """Return what an answer costs by the price that held at the moment `at`.

        Looked up as `provider/model`, then as the bare name, for each of `models` in turn: the
        name that was called, then the one that answered.
        """
        names = [name for model in models for name in (f"{provider}/{model}", model)]
        return charge(usage, self._book.current.price_at(names, at))

    def estimate(self, route: Route, prompt_tokens: int, max_output_tokens: int) -> Decimal:
        """Return the most, in US dollars, that a call by this route may cost by today's price.

        It is an upper bound as long as the counts are; a model without a price costs nothing.
        """
        names = [f"{route.provider.name}/{route.model}", route.model]
        return estimate(
            self._book.current.price_at(names, self._clock.now()),
            prompt_tokens=min(prompt_tokens, TOKENS_MAX),
            completion_tokens=min(max_output_tokens, TOKENS_MAX),
        )

    async def spend_of_tasks(
        self, conn: Connection, task_ids: Sequence[UUID]
    ) -> dict[UUID, Decimal]:
        """Return what each of these tasks has spent; those that called nothing are left out."""
        return await self._store.spend_of_tasks(conn, task_ids)


def build(db: Database, *, clock: Clock | None = None) -> Ledger:
    """Put the domain together."""
    return Ledger(db, clock or SystemClock())
