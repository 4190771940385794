"""What routing hands to whoever makes the call, and what it wants to hear afterwards."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from helix.core.errors import HelixError
from helix.providers.errors import (
    NoProviderHealthy,
    ProviderBusy,
    ProviderUnusable,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamTooLarge,
    UpstreamUnreachable,
)
from helix.providers.types import Route

__all__ = [
    "AttemptResult",
    "FailureKind",
    "Plan",
    "RoutePolicy",
    "Strategy",
    "Target",
    "Virtual",
    "failure_of_error",
    "failure_of_status",
]


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """How often and how long a call may try. Times in seconds.

    `retries_max` counts attempts after the first, over all targets together. A wait that a
    provider asks for beyond `retry_after_max_s` is not sat out: the next target is tried.
    `cache_s`: how long an answer may be given again; None is what the key says.
    """

    retries_max: int = 2
    connect_s: float = 10.0
    first_token_s: float = 120.0
    between_tokens_s: float = 60.0
    total_s: float = 900.0
    retry_after_max_s: float = 10.0
    cache_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a call may go, in the order to try; at least one target.

    `name` is what was asked for: `provider/model`, a model, an alias or `route/<name>`.
    """

    name: str
    targets: tuple[Route, ...]
    policy: RoutePolicy


class Strategy(StrEnum):
    """How the order of a route's targets is found for each call; the rules are in `routing.py`."""

    PRIORITY = "priority"
    WEIGHTED = "weighted"
    LATENCY = "latency"
    ROUND_ROBIN = "round_robin"
    STICKY = "sticky"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True)
class Target:
    """One place a name leads to. Lower `priority` goes first; `weight` shares among equals."""

    route: Route
    priority: int
    weight: float


@dataclass(frozen=True, slots=True)
class Virtual:
    """A name that can be called: its targets in their given order, and how to choose.

    `plan` is what a call gets when there is nothing to choose; None for several targets.
    """

    name: str
    targets: tuple[Target, ...]
    strategy: Strategy
    policy: RoutePolicy
    plan: Plan | None

    @classmethod
    def of(
        cls, name: str, targets: Iterable[Target], strategy: Strategy, policy: RoutePolicy
    ) -> "Virtual":
        """Return the name with these targets."""
        given = tuple(targets)
        plan = Plan(name, (given[0].route,), policy) if len(given) == 1 else None
        return cls(name, given, strategy, policy, plan)


class FailureKind(StrEnum):
    """How an attempt failed. Another target may do better for all but REFUSED."""

    CONNECT = "connect"  # no connection
    TIMEOUT = "timeout"  # silent beyond a limit
    BROKEN = "broken"  # what came cannot be used
    SERVER_ERROR = "server_error"  # 5xx
    OVERLOADED = "overloaded"  # 503, 529
    RATE_LIMITED = "rate_limited"  # 429
    UNAUTHORISED = "unauthorised"  # 401: our key is not taken
    FORBIDDEN = "forbidden"  # 403: not this model, or not from here
    NOT_FOUND = "not_found"  # 404: it has no such model
    BUSY = "busy"  # our own limit for it is reached; it was not called
    REFUSED = "refused"  # any other 4xx: the request's fault

    @property
    def elsewhere(self) -> bool:
        """Whether another target may do better."""
        return self is not FailureKind.REFUSED


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """How an attempt went: `ok`, `failed` or `abandoned` (cut off by us: nothing learned)."""

    failure: FailureKind | None = None
    latency_ms: float | None = None
    first_token_ms: float | None = None
    retry_after_s: float | None = None
    learned: bool = True

    @classmethod
    def ok(cls, latency_ms: float, first_token_ms: float | None = None) -> "AttemptResult":
        """An answer came whole, after so many milliseconds."""
        return cls(None, latency_ms, first_token_ms)

    @classmethod
    def failed(cls, kind: FailureKind, retry_after_s: float | None = None) -> "AttemptResult":
        """It failed; `retry_after_s` is what the provider asked for."""
        return cls(kind, retry_after_s=retry_after_s)

    @classmethod
    def abandoned(cls) -> "AttemptResult":
        """The client left, or Helix stopped: this says nothing about the provider."""
        return cls(learned=False)


_BY_STATUS = {
    401: FailureKind.UNAUTHORISED,
    403: FailureKind.FORBIDDEN,
    404: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    429: FailureKind.RATE_LIMITED,
    503: FailureKind.OVERLOADED,
    504: FailureKind.TIMEOUT,
    529: FailureKind.OVERLOADED,
}
_BY_ERROR: tuple[tuple[type[HelixError], FailureKind], ...] = (
    (UpstreamUnreachable, FailureKind.CONNECT),
    (UpstreamTimeout, FailureKind.TIMEOUT),
    (UpstreamBroken, FailureKind.BROKEN),
    (UpstreamTooLarge, FailureKind.BROKEN),
    (ProviderBusy, FailureKind.BUSY),
    (ProviderUnusable, FailureKind.UNAUTHORISED),
    (NoProviderHealthy, FailureKind.BUSY),
)


def failure_of_status(status: int) -> FailureKind | None:
    """Return how an answer with this HTTP status failed; None for 2xx."""
    if 200 <= status < 300:
        return None
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return kind
    return FailureKind.REFUSED if 400 <= status < 500 else FailureKind.SERVER_ERROR


def failure_of_error(error: HelixError) -> FailureKind:
    """Return how a call failed that raised this: REFUSED for what the request is to blame for."""
    if isinstance(error, UpstreamTimeout) and error.limit == "connect_timeout_s":
        return FailureKind.CONNECT
    for kind, failure in _BY_ERROR:
        if isinstance(error, kind):
            return failure
    return FailureKind.REFUSED
