"""One call under way, and one try of it at one provider."""

import asyncio
from dataclasses import dataclass, field
from enum import Enum, auto
from uuid import UUID

from helix.accounts import Principal
from helix.core.errors import HelixError
from helix.gateway.dialects.types import Dialect
from helix.gateway.errors import Stopping, TotalTimeout
from helix.gateway.exchange import Exchange
from helix.gateway.hooks import Injected
from helix.gateway.relay import Relay
from helix.gateway.sse import Transcript
from helix.gateway.timing import Arrivals
from helix.gateway.types import Admission, CallRequest
from helix.providers import Operation, Plan, Route, UpstreamTimeout

__all__ = ["Attempt", "Cut", "Turn"]


class Cut(Enum):
    """Why the waiting for a provider is ended from outside."""

    GONE = auto()
    STOPPING = auto()
    TOTAL = auto()
    FIRST_TOKEN = auto()
    BETWEEN_TOKENS = auto()


@dataclass(slots=True, eq=False)
class Attempt:
    """One try. `told` says that something of its answer went to the client.

    `waiting` is set while the provider is waited for; `heard_s` is when content last came from
    it, or was last taken by a slow client.
    """

    number: int
    route: Route
    operation: Operation
    sent_s: float
    arrivals: Arrivals
    heard_s: float = 0.0
    first_s: float | None = None
    http_status: int | None = None
    told: bool = False
    waiting: bool = False
    transcript: Transcript = field(default_factory=Transcript)


@dataclass(slots=True, eq=False)
class Turn:
    """One call under way. `exchange` is None when Helix itself is the caller."""

    request_id: UUID
    id_text: str
    principal: Principal
    dialect: Dialect
    request: CallRequest
    plan: Plan
    began_s: float
    total_s: float
    exchange: Exchange | None = None
    injected: Injected | None = None
    admission: Admission = field(init=False)
    cache_key: bytes | None = None
    cache_s: float = 0.0
    attempt: Attempt | None = None
    attempt_number: int | None = None
    virtual: bool = False
    tries: int = 0
    relay: Relay | None = None
    deadline: asyncio.Timeout | None = None
    cut: Cut | None = None

    @property
    def ends_at_s(self) -> float:
        """When the time of the whole call is up, monotonic."""
        return self.began_s + self.total_s

    def cut_off(self, why: Cut) -> None:
        """End the waiting for the provider, now."""
        if self.cut is None:
            self.cut = why
            self.wake()

    def wake(self) -> None:
        """End what is waited for, if a reason to was given."""
        if self.cut is not None and self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time())

    def check_time(self, now_s: float) -> None:
        """Cut the call off if it is late in any of its three ways."""
        if now_s >= self.ends_at_s:
            self.cut_off(Cut.TOTAL)
            return
        attempt = self.attempt
        if attempt is None or not attempt.waiting or not self.request.stream:
            return
        if attempt.first_s is None:
            if now_s - attempt.sent_s >= self.first_token_s:
                self.cut_off(Cut.FIRST_TOKEN)
        elif now_s - attempt.heard_s >= self.plan.policy.between_tokens_s:
            self.cut_off(Cut.BETWEEN_TOKENS)

    @property
    def first_token_s(self) -> float:
        """How long a stream may take to its first content."""
        asked, most = self.request.options.first_token_timeout_s, self.plan.policy.first_token_s
        return most if asked is None else min(asked, most)

    def why_cut(self) -> HelixError:
        """Return the error of a call that was cut off; one try's own limits are forgotten then."""
        cut, attempt = self.cut, self.attempt
        if cut is Cut.STOPPING or cut is Cut.GONE:
            return Stopping()
        if attempt is not None and cut is Cut.FIRST_TOKEN:
            self.cut = None
            return UpstreamTimeout(attempt.route.provider.name, "first_token_s", self.first_token_s)
        if attempt is not None and cut is Cut.BETWEEN_TOKENS:
            self.cut = None
            return UpstreamTimeout(
                attempt.route.provider.name,
                "between_tokens_s",
                self.plan.policy.between_tokens_s,
            )
        return TotalTimeout(self.total_s)
