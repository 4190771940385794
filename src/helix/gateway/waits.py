"""Waits with an end, looked at ten times a second: beginning and ending one costs no timer."""

import asyncio
from types import TracebackType

from helix.core.clock import Clock

__all__ = ["Wait", "Waits"]


class Wait:
    """What is awaited within it ends with TimeoutError when it `expire`s, as in asyncio.timeout.

    For one task and one use. `until_s` is when Waits.check expires it, monotonic; None: never.
    """

    __slots__ = ("_before", "_task", "expired", "until_s")

    def __init__(self, until_s: float | None = None) -> None:
        self.until_s = until_s
        self.expired = False
        self._task: asyncio.Task[object] | None = None
        self._before = 0

    def __enter__(self) -> "Wait":
        task = self._task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an invariant: only coroutines wait
        self._before = task.cancelling()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if self.expired and task is not None:
            ours = task.uncancel() <= self._before
            if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from exc

    def expire(self) -> None:
        """End what is awaited, now; nothing once the wait is over."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()


class Waits:
    """The waits under way that have an end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: set[Wait] = set()

    def begin(self, most_s: float) -> Wait:
        """Return a wait that ends within a tick of `most_s` from now; `end` it."""
        wait = Wait(self._clock.monotonic_s() + most_s)
        self._open.add(wait)
        return wait

    def end(self, wait: Wait) -> None:
        """Look at a wait no more."""
        self._open.discard(wait)

    def check(self, now_s: float) -> None:
        """Expire those whose time is up."""
        for wait in self._open:
            if wait.until_s is not None and now_s >= wait.until_s:
                wait.expire()
