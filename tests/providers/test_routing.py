"""Whom a call goes to: strategies, health, limits, needs."""

import random
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest

from helix.providers import (
    AttemptResult,
    FailureKind,
    ModelFacts,
    ModelNotFound,
    NoProviderHealthy,
    OperationUnsupported,
    Provider,
    ProviderBusy,
    ProviderUnusable,
    RateLimits,
    RoutePolicy,
    Wire,
)
from helix.providers.facts import Health
from helix.providers.plan import Plan, Strategy
from helix.providers.policy import RouteEntry, RouteTarget, registry_of
from helix.providers.routing import Router
from helix.providers.types import Operation
from helix.providers.vitals import Stored, Vitals

TOOLS = frozenset({"tools"})


class World:
    """A registry, a router and a clock that only the test moves."""

    def __init__(self, *providers: Provider, routes: tuple[RouteEntry, ...] = ()) -> None:
        self.now_s = 1_000.0
        chance = random.Random(7).random
        self.vitals = Vitals(clock=lambda: self.now_s, chance=chance, concurrent_max=100)
        self.registry = registry_of(providers, routes)
        self.router = Router(self.vitals, chance=chance, speaks=lambda _, op: op is Operation.CHAT)

    def plan(self, name: str, **options: Any) -> Plan:
        return self.router.plan(self.registry, name, **options)

    def order(self, name: str, **options: Any) -> list[str]:
        return [route.provider.name for route in self.plan(name, **options).targets]

    def firsts(self, name: str, times: int = 4_000) -> Counter[str]:
        return Counter(self.order(name)[0] for _ in range(times))

    def report(self, provider: str, result: AttemptResult, times: int = 1) -> None:
        for _ in range(times):
            self.vitals.report(self.registry.resolve(f"{provider}/m").targets[0].route, result)

    def store(self, provider: str, health: Health, score: float | None = None) -> None:
        found = self.registry.providers[provider]
        self.vitals.stored = {**self.vitals.stored, found.id: Stored(health, 1.0, score)}


def provider(name: str, **fields: Any) -> Provider:
    given: dict[str, Any] = {
        "id": uuid4(),
        "name": name,
        "wire": Wire.OPENAI,
        "base_url": "http://x/v1",
        "priority": 5,
        "default_model": None,
        "models": frozenset({"m"}),
        **fields,
    }
    return Provider(**given)


def route(strategy: Strategy, *targets: tuple[Provider, int, float]) -> RouteEntry:
    entries = tuple(RouteTarget(p.id, "m", priority, weight) for p, priority, weight in targets)
    return RouteEntry("r", strategy, True, RoutePolicy(retries_max=7), entries)


def three(strategy: Strategy, weights: tuple[float, float, float] = (1, 1, 1)) -> World:
    abc = [provider(name) for name in "abc"]
    entry = route(strategy, *[(p, 5, w) for p, w in zip(abc, weights, strict=True)])
    return World(*abc, routes=(entry,))


FAILED = AttemptResult.failed(FailureKind.SERVER_ERROR)
OK = AttemptResult.ok(100.0)


def test_lower_priority_number_goes_first_and_the_rest_follow() -> None:
    world = World(provider("late", priority=9), provider("first", priority=1), provider("mid"))
    assert world.order("m") == ["first", "mid", "late"]


def test_calls_are_shared_out_by_weight_among_equals() -> None:
    counts = World(provider("a", weight=3.0), provider("b", weight=1.0)).firsts("m")
    assert 0.72 < counts["a"] / 4_000 < 0.78


def test_weighted_route_ignores_priority_and_zero_weight_comes_last() -> None:
    a, b, c = provider("a"), provider("b"), provider("c")
    entry = route(Strategy.WEIGHTED, (a, 1, 1.0), (b, 9, 1.0), (c, 1, 0.0))
    world = World(a, b, c, routes=(entry,))
    counts = world.firsts("route/r")
    assert 0.45 < counts["b"] / 4_000 < 0.55
    assert {world.order("route/r")[2] for _ in range(100)} == {"c"}


def test_degraded_and_low_scored_get_less() -> None:
    world = three(Strategy.WEIGHTED)
    world.store("a", Health.DEGRADED)
    world.store("b", Health.HEALTHY, score=5.0)
    world.store("c", Health.HEALTHY, score=10.0)
    counts = world.firsts("r")  # 0.25 : 0.5 : 1
    assert 0.11 < counts["a"] / 4_000 < 0.18
    assert 0.53 < counts["c"] / 4_000 < 0.61


def test_slower_of_equals_gets_less_but_never_nothing() -> None:
    world = World(provider("fast"), provider("slow"))
    world.report("fast", AttemptResult.ok(100))
    world.report("slow", AttemptResult.ok(10_000))
    counts = world.firsts("m")  # 1 : 0.25
    assert 0.77 < counts["fast"] / 4_000 < 0.83


def test_latency_route_takes_the_fastest_and_measures_the_unmeasured_first() -> None:
    world = three(Strategy.LATENCY)
    world.report("a", AttemptResult.ok(900.0, 300.0))
    world.report("b", AttemptResult.ok(5_000.0, 200.0))
    assert world.order("route/r") == ["c", "b", "a"]
    world.report("c", AttemptResult.ok(250.0))
    assert world.order("route/r") == ["b", "c", "a"]


def test_round_robin_takes_each_in_turn() -> None:
    world = three(Strategy.ROUND_ROBIN)
    assert [world.order("route/r")[0] for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_sticky_keeps_a_session_and_moves_only_those_of_a_target_that_is_gone() -> None:
    world = three(Strategy.STICKY)
    before = {f"s{i}": world.order("r", sticky=f"s{i}")[0] for i in range(3_000)}
    assert all(world.order("r", sticky=key)[0] == first for key, first in before.items())
    assert all(900 < count < 1_100 for count in Counter(before.values()).values())
    world.report("b", FAILED, 5)
    after = {key: world.order("r", sticky=key)[0] for key in before}
    assert {before[key] for key in before if after[key] != before[key]} == {"b"}
    assert "b" not in after.values()


def test_sticky_sessions_are_shared_out_by_weight() -> None:
    world = three(Strategy.STICKY, (2, 1, 1))
    counts = Counter(world.order("r", sticky=f"u{i}")[0] for i in range(4_000))
    assert 0.46 < counts["a"] / 4_000 < 0.54


def test_quality_route_takes_the_best_of_the_benchmarks() -> None:
    facts = {"good": 80.0, "best": 91.5, "unknown": None}
    ps = [provider(n, facts={"m": ModelFacts(quality=q)}) for n, q in facts.items()]
    world = World(*ps, routes=(route(Strategy.QUALITY, *[(p, 5, 1.0) for p in ps]),))
    assert world.order("route/r") == ["best", "good", "unknown"]


def test_unhealthy_is_passed_over_until_no_other_is_left() -> None:
    world = World(provider("a", priority=1), provider("b", priority=2))
    world.store("a", Health.UNHEALTHY)
    assert world.order("m") == ["b"]
    world.store("b", Health.UNHEALTHY)
    world.report("b", OK, 3)
    world.report("a", OK)
    world.report("a", FAILED)
    assert world.order("m") == ["b", "a"]  # the one with fewer failures first


def test_open_breaker_is_passed_over_and_one_trial_is_allowed_later() -> None:
    world = World(provider("a", priority=1), provider("b", priority=2))
    world.report("a", FAILED, 5)
    assert world.order("m") == ["b"]
    world.now_s += 6.1
    assert world.order("m") == ["a", "b"]
    target = world.plan("a/m").targets[0]
    assert world.vitals.permit(target)
    assert not world.vitals.permit(target)
    world.report("a", OK)
    assert world.vitals.permit(target)


def test_nobody_left_says_when_to_come_again() -> None:
    world = World(provider("a"), provider("b"))
    world.report("a", AttemptResult.failed(FailureKind.RATE_LIMITED, 30))
    world.report("b", AttemptResult.failed(FailureKind.RATE_LIMITED, 12))
    with pytest.raises(NoProviderHealthy) as caught:
        world.plan("m")
    assert caught.value.retry_after_s == 12
    world.now_s += 12
    assert world.order("m") == ["b"]


def test_refusals_of_a_request_never_open_a_breaker() -> None:
    world = World(provider("a"))
    world.report("a", AttemptResult.failed(FailureKind.REFUSED), 50)
    world.report("a", AttemptResult.abandoned(), 50)
    assert world.order("m") == ["a"]


def test_failures_to_connect_close_off_every_model_of_a_provider() -> None:
    world = World(provider("a", models=frozenset({"m", "n"})))
    world.report("a", AttemptResult.failed(FailureKind.CONNECT), 5)
    with pytest.raises(NoProviderHealthy):
        world.plan("a/n")
    other = World(provider("a", models=frozenset({"m", "n"})))
    other.report("a", FAILED, 5)
    assert other.order("a/n") == ["a"]


def test_limits_of_a_provider_lead_to_the_next() -> None:
    limits = RateLimits(requests_per_minute=2, concurrent_max=1)
    world = World(provider("a", priority=1, limits=limits), provider("b", priority=2))
    a = world.registry.providers["a"]
    ticket = world.vitals.enter(a)
    assert world.order("m") == ["b"]
    with pytest.raises(ProviderBusy):
        world.vitals.enter(a)
    ticket.leave()
    ticket.leave()
    world.vitals.enter(a).leave()
    assert world.order("m") == ["b"]  # two within a minute
    world.now_s += 60
    assert world.order("m") == ["a", "b"]


def test_limits_are_shared_out_among_gateways() -> None:
    world = World(provider("a", limits=RateLimits(requests_per_minute=9)))
    world.vitals.processes = 4
    for _ in range(2):
        world.vitals.enter(world.registry.providers["a"]).leave()
    with pytest.raises(ProviderBusy):
        world.vitals.enter(world.registry.providers["a"])


def test_known_needs_and_size_choose_the_model() -> None:
    able = ModelFacts(known=True, context_window=8_000, capabilities=TOOLS)
    world = World(
        provider("cannot", priority=1, facts={"m": ModelFacts(known=True, context_window=99_000)}),
        provider("can", priority=2, facts={"m": able}),
        provider("untold", priority=3),
    )
    assert world.order("m", needs=TOOLS) == ["can", "untold"]
    assert world.order("m", context_tokens=9_000) == ["cannot", "untold"]
    assert world.order("m", needs=TOOLS, context_tokens=9_000) == ["untold"]


def test_catalogue_alone_refuses_nothing() -> None:
    world = World(provider("only", facts={"m": ModelFacts(known=True)}))
    assert world.order("m", needs=TOOLS) == ["only"]


def test_alias_and_route_lead_to_their_targets_and_carry_their_policy() -> None:
    world = three(Strategy.ROUND_ROBIN)
    assert (world.plan("r").name, world.plan("r").policy.retries_max) == ("r", 7)
    assert world.plan("m").policy.retries_max == 2
    with pytest.raises(ModelNotFound):
        world.plan("route/none")


def test_what_cannot_be_called_says_why() -> None:
    world = World(provider("a", problem="no key"))
    with pytest.raises(ProviderUnusable):
        world.plan("m")
    with pytest.raises(OperationUnsupported):
        World(provider("a")).plan("m", operation=Operation.EMBEDDINGS)


def test_memory_of_names_that_callers_make_up_is_bounded() -> None:
    world = World(provider("a"))
    for i in range(10_050):
        target = world.registry.resolve(f"a/{i}").targets[0].route
        world.vitals.report(target, FAILED)
        world.report("a", OK)
    assert len(world.vitals._models) <= 10_000


def test_stall_is_many_waiting_and_nothing_coming() -> None:
    world = World(provider("a"))
    a = world.registry.providers["a"]
    tickets = [world.vitals.enter(a) for _ in range(8)]
    assert list(world.vitals.stalled()) == []
    world.now_s += 2.5
    assert list(world.vitals.stalled()) == [a.id]
    tickets[0].headed()
    assert list(world.vitals.stalled()) == []
