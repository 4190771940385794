"""The circuit breaker, as a machine and case by case."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helix.providers.breaker import Breaker, BreakerState

CHANCES = st.floats(0, 1, exclude_max=True)


class BreakerMachine(RuleBasedStateMachine):
    """Whatever is reported and whenever: at most one trial, bounded waits, no call while open."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now_s = 1_000.0
        self.trial_s: float | None = None
        self.row = 0
        self.cool_until_s = 0.0

    @rule(by_s=st.floats(0, 200))
    def time_passes(self, by_s: float) -> None:
        self.now_s += by_s

    @rule()
    def ask(self) -> None:
        state, wait_s = self.breaker.state(self.now_s), self.breaker.wait_s(self.now_s)
        allowed = self.breaker.permit(self.now_s)
        assert allowed == (wait_s == 0)
        if state is BreakerState.OPEN:
            assert not allowed
        if self.now_s < self.cool_until_s:
            assert not allowed
        if state is BreakerState.HALF_OPEN and allowed:
            assert self.trial_s is None or self.now_s - self.trial_s >= 120.0
            self.trial_s = self.now_s
            assert not self.breaker.permit(self.now_s)

    @rule()
    def goes_well(self) -> None:
        was = self.breaker.state(self.now_s)
        self.breaker.succeeded(self.now_s)
        self.row = 0
        if was is not BreakerState.OPEN:
            assert self.breaker.state(self.now_s) is BreakerState.CLOSED
            self.trial_s = None

    @rule(chance=CHANCES)
    def fails(self, chance: float) -> None:
        was = self.breaker.state(self.now_s)
        opened = self.breaker.failed(self.now_s, chance=chance)
        self.row = 0 if opened or was is BreakerState.OPEN else self.row + 1
        if was is BreakerState.HALF_OPEN:
            assert opened
        if opened:
            self.trial_s = None
            assert self.breaker.state(self.now_s) is BreakerState.OPEN
            assert self.breaker.wait_s(self.now_s) > 3.99
        assert self.row < 5

    @rule()
    def tells_nothing(self) -> None:
        was = self.breaker.state(self.now_s)
        self.breaker.released()
        self.trial_s = None
        assert self.breaker.state(self.now_s) is was

    @rule(chance=CHANCES)
    def is_tripped(self, chance: float) -> None:
        self.breaker.trip(self.now_s, chance=chance)
        self.trial_s, self.row = None, 0
        assert self.breaker.state(self.now_s) is BreakerState.OPEN

    @rule(asked_s=st.floats(0, 10_000))
    def cools(self, asked_s: float) -> None:
        self.breaker.cool(self.now_s, asked_s)
        self.cool_until_s = max(self.cool_until_s, self.now_s + min(asked_s, 300.0))
        self.trial_s = None

    @invariant()
    def waits_are_bounded(self) -> None:
        """Open 144 s at most, a trial 120 s, a cool-down 300 s."""
        assert 0 <= self.breaker.wait_s(self.now_s) <= 300.001


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_fifth_failure_in_a_row_opens() -> None:
    breaker = Breaker()
    assert [breaker.failed(float(i), chance=0.5) for i in range(5)] == [False] * 4 + [True]
    assert not breaker.permit(8.9)
    assert breaker.permit(9.0)
    assert not breaker.permit(9.0)


def test_half_of_ten_calls_within_the_window_opens() -> None:
    breaker = Breaker()
    for i in range(4):
        breaker.succeeded(i)
        assert not breaker.failed(i, chance=0.5)
    breaker.succeeded(5)
    assert breaker.failed(5, chance=0.5)


def test_failures_that_are_long_past_do_not_count() -> None:
    breaker = Breaker()
    for i in range(4):
        breaker.failed(0, chance=0.5)
        breaker.succeeded(i)
    for _ in range(4):
        assert not breaker.failed(100, chance=0.5)


def test_each_opening_is_twice_as_long_up_to_two_minutes() -> None:
    breaker, now_s, waits = Breaker(), 0.0, []
    breaker.trip(now_s, chance=0.5)
    for _ in range(7):
        waits.append(breaker.wait_s(now_s))
        now_s += waits[-1]
        assert breaker.permit(now_s)
        breaker.failed(now_s, chance=0.5)
    assert waits == [5, 10, 20, 40, 80, 120, 120]


def test_trial_that_is_never_reported_is_given_again() -> None:
    breaker = Breaker()
    breaker.trip(0, chance=0.5)
    assert breaker.permit(5.0)
    assert not breaker.permit(124.9)
    assert breaker.permit(125.0)


def test_wait_that_a_provider_asks_for_is_kept_within_the_cap() -> None:
    breaker = Breaker()
    breaker.cool(0, 7)
    assert (breaker.permit(6.9), breaker.permit(7.0)) == (False, True)
    breaker.cool(10, 99_999)
    assert breaker.wait_s(10) == 300
