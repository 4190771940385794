"""Debates put together: what the server holds of this domain."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

from fastapi import APIRouter, Request

from helix.accounts import Principal
from helix.core.clock import Clock
from helix.core.db import Database
from helix.core.errors import HelixError
from helix.debates.asking import OnBehalf
from helix.debates.code import Repositories
from helix.debates.defaults import choose, default_ensemble, places_of
from helix.debates.engine import Engine
from helix.debates.ensembles import Ensembles
from helix.debates.jobs import register
from helix.debates.routes import build_router
from helix.debates.virtual import DebateModels
from helix.debates.watch import Watch
from helix.gateway import Gateway
from helix.ledger import Ledger
from helix.providers import Providers
from helix.tasks import TaskRegistry

__all__ = ["Debates", "build"]


class Debates:
    """Holds debates, answers `debate/…` and `ensemble/…`. `stop` it with the server."""

    def __init__(
        self,
        *,
        db: Database,
        gateway: Gateway,
        providers: Providers,
        ledger: Ledger,
        on_behalf: OnBehalf,
        repositories: Repositories,
        clock: Clock,
    ) -> None:
        self._db = db
        self._providers = providers
        self._ledger = ledger
        self._clock = clock
        self._repositories = repositories
        self._watch = Watch(db)
        self.engine = Engine(
            ask=gateway.caller.ask,
            on_behalf=on_behalf,
            price=self.price,
            repositories=repositories,
            clock=clock,
        )
        ensembles = Ensembles(
            db, weight_of=self.weight_of, default=lambda: default_ensemble(self.choose)
        )
        gateway.add_virtual("ensemble", ensembles)
        gateway.add_virtual("debate", DebateModels(db, self._watch, clock, choose=self.choose))

    def choose(self) -> list[str]:
        """Return who takes part where nobody is named; see defaults.py."""
        return choose(places_of(self._providers))

    def register(self, registry: TaskRegistry) -> None:
        """Register the tasks of debates; before the worker starts."""
        register(registry, engine=self.engine, db=self._db, now=self._clock.now)

    def router(self, identify: Callable[[Request], Awaitable[Principal]]) -> APIRouter:
        """Return the routes; `identify` authenticates and checks the scope `debates`."""
        return build_router(
            self._db,
            identify,
            watch=self._watch,
            repositories=self._repositories,
            choose=self.choose,
            clock=self._clock,
        )

    async def stop(self) -> None:
        """Stop watching."""
        await self._watch.stop()

    async def price(self, model: str, prompt_tokens: int, output_tokens: int) -> Decimal:
        """Return the most that a call may cost: at the dearest of the places it may go to.

        What cannot be called costs nothing.
        """
        try:
            plan = await self._providers.plan(model)
        except HelixError:
            return Decimal(0)
        return max(
            self._ledger.estimate(route, prompt_tokens, output_tokens) for route in plan.targets
        )

    async def weight_of(self, model: str) -> Decimal | None:
        """Return the weight of a model's provider in the registry, or None."""
        try:
            plan = await self._providers.plan(model)
        except HelixError:
            return None
        return Decimal(repr(plan.targets[0].provider.weight))


def build(
    db: Database,
    *,
    gateway: Gateway,
    providers: Providers,
    ledger: Ledger,
    on_behalf: OnBehalf,
    code_roots: tuple[Path, ...] = (),
    clock: Clock,
) -> Debates:
    """Put the domain together; it adds its virtual models to the gateway."""
    return Debates(
        db=db,
        gateway=gateway,
        providers=providers,
        ledger=ledger,
        on_behalf=on_behalf,
        repositories=Repositories(code_roots),
        clock=clock,
    )
