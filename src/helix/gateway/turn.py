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
from helix.gateway.virtual import Asked
from helix.gateway.waits import Wait
from helix.providers import Operation, Plan, Route, UpstreamTimeout

__all__ = ["Attempt", "Cut", "Turn"]


class Cut(Enum):
    """Why the waiting for a provider is ended from outside."""

    GONE = auto()
    STOPPING = auto()
    TOTAL = auto()
    FIRST_TOKEN = auto()
    BETWEEN_TOKENS = auto()


class Attempt:
    """One try. `told` says that something of its answer went to the client; `arrivals` are those
    of its stream, None for a whole answer.

    `waiting` is set while the provider is waited for; `heard_s` is when content last came from
    it, or was last taken by a slow client.
    """

    __slots__ = (
        "_transcript",
        "arrivals",
        "first_s",
        "heard_s",
        "http_status",
        "number",
        "operation",
        "route",
        "sent_s",
        "told",
        "waiting",
    )

    def __init__(
        self,
        number: int,
        route: Route,
        operation: Operation,
        sent_s: float,
        arrivals: Arrivals | None = None,
    ) -> None:
        self.number = number
        self.route = route
        self.operation = operation
        self.sent_s = sent_s
        self.arrivals = arrivals
        self.heard_s = 0.0
        self.first_s: float | None = None
        self.http_status: int | None = None
        self.told = False
        self.waiting = False
        self._transcript: Transcript | None = None

    @property
    def transcript(self) -> Transcript:
        """What a stream told so far; made when first asked for, since whole answers have none."""
        if self._transcript is None:
            self._transcript = Transcript()
        return self._transcript


@dataclass(slots=True, eq=False)
class Turn:
    """One call under way. `exchange` is None when Helix itself is the caller.

    `asked` belongs to a virtual model: one entry for each target of its plan. `private`: the
    numbers of the call are recorded, its texts are not. `ends_with_client`: its answer is for this
    client alone, told in one piece; a client that sent an Idempotency-Key may come back for it.
    `watch` looks whether the client is still there.
    """

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
    asked: tuple[Asked, ...] = ()
    private: bool = False
    tries: int = 0
    relay: Relay | None = None
    deadline: Wait | None = None
    ends_with_client: bool = False
    watch: asyncio.Task[None] | None = None
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
        if self.cut is not None and self.deadline is not None:
            self.deadline.expire()

    def look_after_client(self, began_before_s: float) -> None:
        """Begin to watch whether the client leaves, of a call that has lasted since then.

        Most calls are over before, and a task for each would cost more than those few save.
        """
        if self.ends_with_client and self.watch is None and self.began_s <= began_before_s:
            exchange = self.exchange
            if exchange is not None:
                self.watch = asyncio.create_task(exchange.until_gone())
                self.watch.add_done_callback(self._client_left)

    def _client_left(self, watch: "asyncio.Task[None]") -> None:
        if not watch.cancelled() and watch.exception() is None:
            self.cut_off(Cut.GONE)

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
