"""What this process has seen of providers: breakers, times, calls under way. No I/O.

One object of the domain; a provider or model it has not met yet is as good as new. Which failure
counts against whom:

    connect, unauthorised           the provider
    timeout                         the provider and the model
    broken, 5xx, overloaded,
    forbidden, not_found            the model; the provider has answered
    rate_limited                    nobody: the model cools down as long as the provider asked
    busy, refused, abandoned        nobody

Names of models come from callers, so those of which nothing is left to remember are forgotten.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from helix.providers.breaker import Breaker, BreakerState, Window
from helix.providers.errors import ProviderBusy
from helix.providers.facts import Health
from helix.providers.health import CALLS_WINDOW_S, health_of_calls, worse
from helix.providers.plan import AttemptResult, FailureKind
from helix.providers.types import Provider, Route

__all__ = ["Counts", "Shown", "Stored", "Ticket", "Vitals"]

MINUTE_S = 60.0
MODELS_MAX = 10_000
JUDGED_S = 0.5
STALL_S = 2.5
STALLED_MIN = 8
_ALPHA = 0.2
_AGAINST_PROVIDER = frozenset({FailureKind.CONNECT, FailureKind.UNAUTHORISED, FailureKind.TIMEOUT})
_AGAINST_MODEL = frozenset(
    {
        FailureKind.TIMEOUT,
        FailureKind.BROKEN,
        FailureKind.SERVER_ERROR,
        FailureKind.OVERLOADED,
        FailureKind.FORBIDDEN,
        FailureKind.NOT_FOUND,
    }
)
_NOBODY = frozenset({FailureKind.BUSY, FailureKind.REFUSED})


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database says of a provider: health, milliseconds of the last probe, score."""

    health: Health = Health.UNKNOWN
    response_ms: float = 0.0
    score: float | None = None


@dataclass(slots=True)
class Counts:
    """Calls since the last time they were written down."""

    calls: int = 0
    failed: int = 0
    first_ms_sum: float = 0.0


@dataclass(frozen=True, slots=True)
class Shown:
    """What this process sees of a provider, for people.

    `score` is that of its newest verification, 0 to 10; None when it never was verified.
    """

    health: Health
    breaker: BreakerState
    in_flight: int
    last_minute: int
    score: float | None = None


class _OfProvider:
    __slots__ = (
        "breaker",
        "calls",
        "headed_s",
        "in_flight",
        "judged",
        "judged_until_s",
        "starts",
        "unwritten",
        "waiting",
    )

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.calls = Window(CALLS_WINDOW_S)
        self.judged = Health.UNKNOWN
        self.judged_until_s = 0.0
        self.in_flight = 0
        self.starts: deque[float] = deque()
        self.waiting: dict[int, float] = {}
        self.headed_s = 0.0
        self.unwritten = Counts()


class _OfModel:
    __slots__ = ("breaker", "first_ms")

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.first_ms: float | None = None


class Ticket:
    """A call under way. `headed` when its answer began; `leave` when it ended, once or more."""

    __slots__ = ("_clock", "_left", "_number", "_of")

    def __init__(self, of: _OfProvider, number: int, clock: Callable[[], float]) -> None:
        self._of = of
        self._number = number
        self._clock = clock
        self._left = False

    def headed(self) -> None:
        """The head of the answer is there."""
        self._of.waiting.pop(self._number, None)
        self._of.headed_s = self._clock()

    def leave(self) -> None:
        """The call has ended."""
        if not self._left:
            self._left = True
            self._of.waiting.pop(self._number, None)
            self._of.in_flight -= 1


class Vitals:
    """Memory of how attempts went. `clock` is monotonic seconds, `chance` gives [0, 1).

    `concurrent_max` holds for providers that have no limit of their own.
    """

    def __init__(
        self, *, clock: Callable[[], float], chance: Callable[[], float], concurrent_max: int
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._concurrent_max = concurrent_max
        self._providers: dict[UUID, _OfProvider] = {}
        self._models: dict[tuple[UUID, str], _OfModel] = {}
        self._number = 0
        self.stored: dict[UUID, Stored] = {}
        self.processes = 1
        """Gateways alive: the limits of a provider are shared out evenly among them."""

    # ---- asked by routing

    def wait_s(self, route: Route) -> float:
        """Return the seconds until a target may be called, 0 when it may be now."""
        now_s = self._clock()
        provider = route.provider
        of = self._providers.get(provider.id)
        wait_s = 0.0
        if of is not None:
            wait_s = max(of.breaker.wait_s(now_s), self._limit_wait_s(provider, of, now_s)[0])
        model = self._models.get((provider.id, route.model))
        return wait_s if model is None else max(wait_s, model.breaker.wait_s(now_s))

    def health(self, provider_id: UUID) -> Health:
        """Return how a provider does, by its probes and by our calls of it."""
        stored = self.stored.get(provider_id)
        of = self._providers.get(provider_id)
        said = Health.UNKNOWN if stored is None else stored.health
        if of is None:
            return said
        now_s = self._clock()
        if now_s >= of.judged_until_s:
            of.judged = health_of_calls(*of.calls.counts(now_s))
            of.judged_until_s = now_s + JUDGED_S
        return worse(said, of.judged)

    def first_ms(self, route: Route) -> float | None:
        """Return about how long the first content takes, in ms; None when never measured."""
        model = self._models.get((route.provider.id, route.model))
        return None if model is None else model.first_ms

    def failing_share(self, provider_id: UUID) -> float:
        """Return the share of the last minute's calls that failed, 1 without any."""
        of = self._providers.get(provider_id)
        good, bad = (0, 0) if of is None else of.calls.counts(self._clock())
        return bad / (good + bad) if good + bad else 1.0

    def score(self, provider_id: UUID) -> float | None:
        """Return the verification score, 0 to 10; None when it was never verified."""
        stored = self.stored.get(provider_id)
        return None if stored is None else stored.score

    # ---- told by who calls

    def permit(self, route: Route) -> bool:
        """Say whether a target may be called now; half open, this takes the one trial."""
        if self.wait_s(route) > 0:
            return False
        now_s = self._clock()
        of = self._providers.get(route.provider.id)
        model = self._models.get((route.provider.id, route.model))
        if of is not None:
            of.breaker.permit(now_s)
        if model is not None:
            model.breaker.permit(now_s)
        return True

    def enter(self, provider: Provider) -> Ticket:
        """Count a call that begins; raises ProviderBusy when it would pass a limit."""
        now_s = self._clock()
        of = self._of(provider.id)
        wait_s, name, most = self._limit_wait_s(provider, of, now_s)
        if wait_s > 0:
            raise ProviderBusy(provider.name, name, most, wait_s)
        if provider.limits.requests_per_minute is not None:
            of.starts.append(now_s)
        of.in_flight += 1
        self._number += 1
        of.waiting[self._number] = now_s
        return Ticket(of, self._number, self._clock)

    def report(self, route: Route, result: AttemptResult) -> bool:
        """Learn from an attempt; say whether a breaker opened."""
        now_s, provider_id = self._clock(), route.provider.id
        of, model = self._of(provider_id), self._of_model(provider_id, route.model)
        kind = result.failure
        if not result.learned or kind in _NOBODY:
            of.breaker.released()
            model.breaker.released()
            return False
        of.unwritten.calls += 1
        if kind is None:
            of.calls.add(good=True, now_s=now_s)
            of.breaker.succeeded(now_s)
            model.breaker.succeeded(now_s)
            took_ms = (
                result.first_token_ms if result.first_token_ms is not None else (result.latency_ms)
            )
            if took_ms is not None:
                before = model.first_ms
                model.first_ms = took_ms if before is None else before + _ALPHA * (took_ms - before)
                of.unwritten.first_ms_sum += took_ms
            return False
        of.unwritten.failed += 1
        if kind is FailureKind.RATE_LIMITED:
            of.breaker.succeeded(now_s)
            model.breaker.cool(now_s, result.retry_after_s)
            return False
        of.calls.add(good=False, now_s=now_s)
        of.judged_until_s = 0.0
        if kind is FailureKind.OVERLOADED and result.retry_after_s is not None:
            model.breaker.cool(now_s, result.retry_after_s)
        opened = False
        if kind in _AGAINST_PROVIDER:
            opened = of.breaker.failed(now_s, chance=self._chance())
        else:
            of.breaker.succeeded(now_s)
        if kind in _AGAINST_MODEL:
            opened = model.breaker.failed(now_s, chance=self._chance()) or opened
        else:
            model.breaker.released()
        return opened

    def trip(self, provider_id: UUID) -> bool:
        """Open a provider's breaker; say whether it was not open before."""
        return self._of(provider_id).breaker.trip(self._clock(), chance=self._chance())

    # ---- asked by the domain

    def stalled(self) -> Iterator[UUID]:
        """Yield providers from which nothing has come for STALL_S while many calls wait for it.

        A slow model looks the same: who asks must make sure with a probe.
        """
        now_s = self._clock()
        for provider_id, of in self._providers.items():
            if len(of.waiting) < STALLED_MIN or now_s - of.headed_s < STALL_S:
                continue
            waited = 0
            for since_s in of.waiting.values():  # in the order they began
                if now_s - since_s < STALL_S:
                    break
                waited += 1
                if waited >= STALLED_MIN:
                    break
            if waited >= STALLED_MIN and of.breaker.state(now_s) is BreakerState.CLOSED:
                yield provider_id

    def take_counts(self) -> dict[UUID, Counts]:
        """Return the counts since the last time, by provider, and begin anew."""
        taken = {}
        for provider_id, of in self._providers.items():
            if of.unwritten.calls:
                taken[provider_id], of.unwritten = of.unwritten, Counts()
        return taken

    def put_back(self, counts: dict[UUID, Counts]) -> None:
        """Take back counts that could not be written."""
        for provider_id, count in counts.items():
            now = self._of(provider_id).unwritten
            now.calls += count.calls
            now.failed += count.failed
            now.first_ms_sum += count.first_ms_sum

    def shown(self, provider: Provider) -> Shown:
        """Return what this process sees of a provider."""
        of, now_s = self._of(provider.id), self._clock()
        good, bad = of.calls.counts(now_s)
        return Shown(
            self.health(provider.id),
            of.breaker.state(now_s),
            of.in_flight,
            good + bad,
            self.score(provider.id),
        )

    def keep(self, provider_ids: set[UUID]) -> None:
        """Forget providers that are gone and have no call under way."""
        gone = [
            i for i, of in self._providers.items() if i not in provider_ids and not of.in_flight
        ]
        for provider_id in gone:
            del self._providers[provider_id]
        for key in [key for key in self._models if key[0] not in provider_ids]:
            del self._models[key]

    def _limit_wait_s(
        self, provider: Provider, of: _OfProvider, now_s: float
    ) -> tuple[float, str, int]:
        """Return how long the provider's limits make a call wait, and which one does."""
        limits = provider.limits
        most = limits.concurrent_max
        most = self._concurrent_max if most is None else max(1, most // self.processes)
        if of.in_flight >= most:
            return 1.0, "concurrent_max", most
        rate = limits.requests_per_minute
        if rate is None:
            return 0.0, "", 0
        rate = max(1, rate // self.processes)
        starts = of.starts
        while starts and starts[0] <= now_s - MINUTE_S:
            starts.popleft()
        if len(starts) < rate:
            return 0.0, "", 0
        return starts[-rate] + MINUTE_S - now_s, "requests_per_minute", rate

    def _of(self, provider_id: UUID) -> _OfProvider:
        of = self._providers.get(provider_id)
        if of is None:
            of = self._providers[provider_id] = _OfProvider()
        return of

    def _of_model(self, provider_id: UUID, model: str) -> _OfModel:
        key = (provider_id, model)
        of = self._models.get(key)
        if of is None:
            if len(self._models) >= MODELS_MAX:
                self._forget()
            of = self._models[key] = _OfModel()
        return of

    def _forget(self) -> None:
        """Drop models of which there is nothing bad to remember, else the half met first."""
        now_s = self._clock()
        idle = [key for key, of in self._models.items() if of.breaker.idle(now_s)]
        for key in idle or list(self._models)[: MODELS_MAX // 2]:
            del self._models[key]
