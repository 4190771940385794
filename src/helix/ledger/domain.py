"""The ledger put together: what the gateway holds of this domain."""

from datetime import datetime

from helix.core.db import Database
from helix.ledger.policy import PriceBook, charge
from helix.ledger.store import Store
from helix.ledger.types import Charge, Usage
from helix.providers import Watched

__all__ = ["Ledger", "build"]


class Ledger:
    """Knows what things cost. `start` and `stop` it with the server."""

    def __init__(self, db: Database) -> None:
        store = Store()
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


def build(db: Database) -> Ledger:
    """Put the domain together."""
    return Ledger(db)
