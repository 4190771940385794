"""Trying the targets of a plan: which failure may be tried again, where, and after how long.

An answer of which the client has seen content is never asked for again, whatever happens. Before
that, a call is made again only where the provider cannot have answered it: it was not reached, it
refused (429, 5xx), or it sent an empty answer. Where nobody knows what it did (silence, a broken
connection, an answer that cannot be used) it is not asked twice, but another target may be. What
is the request's own fault is tried nowhere else. Waits are full jitter, or what the provider
asked for if that is within the policy; retries_max counts over all targets.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from helix.core.clock import Clock
from helix.core.errors import HelixError
from helix.gateway.ending import Ending
from helix.gateway.policy import Again, backoff_s, failure_kind, may_try_again
from helix.gateway.timing import Arrivals
from helix.gateway.turn import Attempt, Cut, Turn
from helix.gateway.waits import Wait
from helix.providers import AttemptResult, NoProviderHealthy, Providers, Route

__all__ = ["Attempts"]

Result = TypeVar("Result")
_BREAKER_WAIT_S = 1.0
_OUTSIDE = frozenset({Cut.GONE, Cut.STOPPING})


class Attempts:
    """Makes the tries of calls, one after another. `sample_ratio` of streams keep each arrival."""

    def __init__(
        self, *, providers: Providers, ending: Ending, clock: Clock, sample_ratio: float
    ) -> None:
        self._providers = providers
        self._ending = ending
        self._clock = clock
        self._sample_ratio = sample_ratio
        self._random = Random()  # noqa: S311 - spreads retries, guards nothing

    async def run(self, turn: Turn, once: Callable[[Turn, Attempt], Awaitable[Result]]) -> Result:
        """Return what `once` returns at the first target where it does not fail.

        `once` makes one try and is cut off by the turn's deadline. Each failed try but the last is
        recorded as a row of its own. Raises the error of the last one, which is still to settle.
        """
        ring = _Ring(turn.plan.targets)
        last: HelixError | None = None
        while True:
            route = ring.current
            if not self._providers.permit(route):
                if not ring.drop():
                    raise last or NoProviderHealthy(turn.plan.name, _BREAKER_WAIT_S)
                continue
            attempt = self._begin(turn, route)
            try:
                try:
                    with Wait() as turn.deadline:
                        turn.wake()
                        result = await once(turn, attempt)
                except TimeoutError as exc:
                    raise turn.why_cut() from exc
            except HelixError as exc:
                last = exc
                wait_s = self._again(turn, attempt, ring, exc)
                if wait_s is None:
                    raise
                self._ending.attempt_failed(turn, attempt, exc)
                await self._wait(turn, wait_s)
            except BaseException:
                self._providers.report(route, AttemptResult.abandoned())
                raise
            else:
                self._report_ok(attempt)
                return result
            finally:
                attempt.waiting = False

    def _begin(self, turn: Turn, route: Route) -> Attempt:
        turn.tries += 1
        provider, request = route.provider, turn.request
        native = turn.dialect.native
        by_native = (
            native is not None
            and turn.injected is None
            and (native is request.operation or self._providers.speaks(provider, native))
        )
        now_s = self._clock.monotonic_s()
        arrivals = None
        if request.stream:
            ratio = self._sample_ratio
            sampled = ratio > 0 and self._random.random() < ratio
            arrivals = Arrivals(now_s, sampled=sampled)
        operation = native if by_native and native is not None else request.operation
        attempt = turn.attempt = Attempt(turn.tries, route, operation, now_s, arrivals)
        return attempt

    def _report_ok(self, attempt: Attempt) -> None:
        first_ms = None
        if attempt.first_s is not None:
            first_ms = (attempt.first_s - attempt.sent_s) * 1_000
        latency_ms = (self._clock.monotonic_s() - attempt.sent_s) * 1_000
        self._providers.report(attempt.route, AttemptResult.ok(latency_ms, first_ms))

    def _again(
        self, turn: Turn, attempt: Attempt, ring: "_Ring", error: HelixError
    ) -> float | None:
        """Learn from a failure; return after how long to try at the ring's current target.

        None: not at all.
        """
        if turn.cut in _OUTSIDE:
            self._providers.report(attempt.route, AttemptResult.abandoned())
            return None
        kind = failure_kind(error, attempt.http_status)
        asked_s = error.retry_after_s
        self._providers.report(attempt.route, AttemptResult.failed(kind, asked_s))
        policy = turn.plan.policy
        if attempt.told or turn.cut is not None or turn.tries > policy.retries_max:
            return None
        again = may_try_again(error, kind)
        if again is Again.NO:
            return None
        now_s = self._clock.monotonic_s()
        if again is Again.HERE and (asked_s is None or asked_s <= policy.retry_after_max_s):
            pause_s = backoff_s(turn.tries, self._random.random())
            ring.later(now_s + max(pause_s, asked_s or 0.0))
        elif not ring.drop():
            return None
        wait_s = ring.due_in(now_s)
        return wait_s if now_s + wait_s < turn.ends_at_s else None

    async def _wait(self, turn: Turn, wait_s: float) -> None:
        if wait_s <= 0:
            return
        try:
            with Wait() as turn.deadline:
                turn.wake()
                await asyncio.sleep(wait_s)
        except TimeoutError as exc:
            raise turn.why_cut() from exc


class _Ring:
    """The targets left to try. Those not tried yet come first, at once, in their order."""

    def __init__(self, targets: tuple[Route, ...]) -> None:
        self._left = [(0.0, route) for route in targets]

    @property
    def current(self) -> Route:
        return self._left[0][1]

    def drop(self) -> bool:
        """Never try the current one again; return whether there is another."""
        del self._left[0]
        return bool(self._left)

    def later(self, due_s: float) -> None:
        """Put the current one behind those that are due before it."""
        _, route = self._left.pop(0)
        place = next((n for n, (due, _) in enumerate(self._left) if due > due_s), len(self._left))
        self._left.insert(place, (due_s, route))

    def due_in(self, now_s: float) -> float:
        """Return how long to wait for the current one."""
        return max(0.0, self._left[0][0] - now_s)
