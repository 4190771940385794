"""Whom a call goes to: the order of the targets of a name. No I/O.

First what cannot be called is left out: providers with a problem, of the wrong wire, or that do not
meet a known need; then those whose breaker, cool-down or limits do not let a call go now, and those
that are unhealthy, unless only such are left: then the one with the fewest failures goes first.
Of the rest the strategy makes the order:

    priority     lower first; those of one priority shared out by weight, as below
    weighted     shared out by weight, whatever the priority
    latency      the fastest first, by the moving mean of the time to the first content; one that
                 was never measured goes before all, so that it is
    round_robin  each in turn
    sticky       the same target for the same session or user as long as it is there, and on
                 average as many sessions for each as its weight says (rendezvous hashing)
    quality      the best mean of benchmarks first

Shared out by weight: each target comes first with a chance in proportion to its weight, times
score / 10 when it was verified (0.05 at least), times 0.25 when it is degraded; and by `priority`
times the fastest's time over its own (0.25 at least). The rest follow in the same way. Weight 0
comes last. `quality` multiplies by the score likewise; `latency` counts a degraded one's time
double.

Nothing is refused because the catalogue says that a model cannot do it when no other can either:
catalogues err, and the provider says so itself.
"""

import math
from collections.abc import Callable
from hashlib import blake2b

from helix.providers.errors import (
    ModelNotFound,
    NoProviderHealthy,
    OperationUnsupported,
    ProviderUnusable,
)
from helix.providers.facts import UNKNOWN_MODEL, Health
from helix.providers.plan import Plan, Strategy, Target, Virtual
from helix.providers.policy import Registry
from helix.providers.types import Operation, Provider, Route
from helix.providers.vitals import Vitals

__all__ = ["Router"]

RESOLVED_MAX = 10_000
_DEGRADED_FACTOR = 0.25
_SLOW_FACTOR_MIN = 0.25
_SCORE_FACTOR_MIN = 0.05
_NO_NEEDS: frozenset[str] = frozenset()


class Router:
    """Makes plans out of the registry and the vitals. `chance` gives numbers in [0, 1)."""

    def __init__(
        self,
        vitals: Vitals,
        *,
        chance: Callable[[], float],
        speaks: Callable[[Provider, Operation], bool],
    ) -> None:
        self._vitals = vitals
        self._chance = chance
        self._speaks = speaks
        self._registry: Registry | None = None
        self._resolved: dict[str, Virtual] = {}
        self._turns: dict[str, int] = {}

    def plan(
        self,
        registry: Registry,
        name: str,
        *,
        operation: Operation = Operation.CHAT,
        needs: frozenset[str] = _NO_NEEDS,
        sticky: str | None = None,
        context_tokens: int = 0,
    ) -> Plan:
        """Return where a call may go; see the module and `Providers.plan`."""
        virtual = self._resolve(registry, name)
        if virtual.plan is not None:
            return self._only(virtual, virtual.plan, operation)
        targets = self._callable(virtual, operation)
        if needs or context_tokens:
            targets = _able(targets, needs, context_tokens)
        targets, healthy = self._let(virtual, targets)
        if healthy and len(targets) > 1:
            targets = self._order(virtual, targets, sticky)
        return Plan(virtual.name, tuple([t.route for t in targets]), virtual.policy)

    def _resolve(self, registry: Registry, name: str) -> Virtual:
        if registry is not self._registry:
            self._registry, self._resolved = registry, {}
            self._turns = {n: turn for n, turn in self._turns.items() if n in registry.virtuals}
        found = self._resolved.get(name)
        if found is None:
            found = registry.resolve(name)
            if len(self._resolved) >= RESOLVED_MAX:
                self._resolved.clear()
            self._resolved[name] = found
        return found

    def _only(self, virtual: Virtual, plan: Plan, operation: Operation) -> Plan:
        route = plan.targets[0]
        provider = route.provider
        if provider.problem is not None:
            raise ProviderUnusable(provider.name, provider.problem)
        if not self._speaks(provider, operation):
            raise OperationUnsupported(provider.name, operation.value)
        wait_s = self._vitals.wait_s(route)
        if wait_s > 0:
            raise NoProviderHealthy(virtual.name, wait_s)
        return plan

    def _callable(self, virtual: Virtual, operation: Operation) -> list[Target]:
        targets = [t for t in virtual.targets if t.route.provider.problem is None]
        if not targets:
            if not virtual.targets:
                raise ModelNotFound(virtual.name)
            first = virtual.targets[0].route.provider
            raise ProviderUnusable(first.name, first.problem or "")
        speaking = [t for t in targets if self._speaks(t.route.provider, operation)]
        if not speaking:
            raise OperationUnsupported(targets[0].route.provider.name, operation.value)
        return speaking

    def _let(self, virtual: Virtual, targets: list[Target]) -> tuple[list[Target], bool]:
        """Return the targets that may be called now, and whether they are healthy."""
        waits = [(self._vitals.wait_s(t.route), t) for t in targets]
        free = [t for wait_s, t in waits if wait_s <= 0]
        if not free:
            raise NoProviderHealthy(virtual.name, min(wait_s for wait_s, _ in waits))
        healthy = [t for t in free if self._health(t) is not Health.UNHEALTHY]
        if healthy:
            return healthy, True
        share = self._vitals.failing_share
        return sorted(free, key=lambda t: share(t.route.provider.id)), False

    def _order(self, virtual: Virtual, targets: list[Target], sticky: str | None) -> list[Target]:
        strategy = virtual.strategy
        if strategy is Strategy.PRIORITY:
            return self._by_priority(targets)
        if strategy is Strategy.WEIGHTED:
            return self._by_weight(targets, timed=False)
        if strategy is Strategy.LATENCY:
            return sorted(targets, key=self._expected_ms)
        if strategy is Strategy.ROUND_ROBIN:
            turn = self._turns.get(virtual.name, -1) + 1
            self._turns[virtual.name] = turn
            first = turn % len(targets)
            return targets[first:] + targets[:first]
        if strategy is Strategy.QUALITY:
            return sorted(targets, key=lambda t: -self._quality(t))
        if sticky is None:
            return self._by_weight(targets, timed=False)
        return sorted(targets, key=lambda t: _distance(sticky, t))

    def _by_priority(self, targets: list[Target]) -> list[Target]:
        ordered: list[Target] = []
        by_priority: dict[int, list[Target]] = {}
        for target in targets:
            by_priority.setdefault(target.priority, []).append(target)
        for priority in sorted(by_priority):
            tier = by_priority[priority]
            ordered += tier if len(tier) == 1 else self._by_weight(tier, timed=True)
        return ordered

    def _by_weight(self, targets: list[Target], *, timed: bool) -> list[Target]:
        """Return them in a random order, each first with a chance in proportion to its weight.

        Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): sort by
        -log(u) / weight with u uniform in (0, 1].
        """
        fastest_ms = None
        if timed:
            times = [ms for t in targets if (ms := self._vitals.first_ms(t.route)) is not None]
            fastest_ms = min(times, default=None)
        keyed = []
        for place, target in enumerate(targets):
            weight = target.weight * self._factor(target)
            if fastest_ms is not None:
                took_ms = self._vitals.first_ms(target.route)
                if took_ms:
                    weight *= max(_SLOW_FACTOR_MIN, fastest_ms / took_ms)
            key = -math.log(1.0 - self._chance()) / weight if weight > 0 else math.inf
            keyed.append((key, place, target))
        keyed.sort(key=lambda entry: entry[:2])
        return [target for _, _, target in keyed]

    def _factor(self, target: Target) -> float:
        factor = self._score_factor(target)
        return factor * _DEGRADED_FACTOR if self._health(target) is Health.DEGRADED else factor

    def _score_factor(self, target: Target) -> float:
        score = self._vitals.score(target.route.provider.id)
        return 1.0 if score is None else max(_SCORE_FACTOR_MIN, score / 10.0)

    def _expected_ms(self, target: Target) -> float:
        took_ms = self._vitals.first_ms(target.route)
        if took_ms is None:
            return -1.0
        return took_ms * 2 if self._health(target) is Health.DEGRADED else took_ms

    def _quality(self, target: Target) -> float:
        route = target.route
        quality = route.provider.facts.get(route.model, UNKNOWN_MODEL).quality
        return 0.0 if quality is None else quality * self._score_factor(target)

    def _health(self, target: Target) -> Health:
        return self._vitals.health(target.route.provider.id)


def _able(targets: list[Target], needs: frozenset[str], context_tokens: int) -> list[Target]:
    """Return the targets that meet the needs, those described before the rest; all when none do."""
    met = []
    for target in targets:
        route = target.route
        facts = route.provider.facts.get(route.model, UNKNOWN_MODEL)
        if facts.meets(needs, context_tokens=context_tokens):
            met.append(target)
    return met or targets


def _distance(key: str, target: Target) -> float:
    """Return the place of a target for a key: rendezvous hashing with weights.

    Thaler and Ravishankar (1998); Schindelhauer and Schomaker (2005) for the weights: the least
    -log(u) / weight, where u is a hash of both, wins with a chance in proportion to its weight.
    """
    route: Route = target.route
    text = f"{key}\x1f{route.provider.name}\x1f{route.model}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    u = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -math.log(u) / target.weight if target.weight > 0 else math.inf
