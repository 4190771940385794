"""The circuit breaker: stops calling what fails, and tries again, one call at a time.

    closed     every call may go. Opens after CONSECUTIVE_MAX failures in a row, or when ERROR_SHARE
               of at least CALLS_MIN calls within WINDOW_S failed.
    open       no call may go, for OPEN_S, twice as long each time it opens again, OPEN_S_MAX at
               most, each time up to JITTER longer or shorter by chance.
    half open  one call may go, the trial. It goes well: closed. It fails: open again. It is not
               reported on within TRIAL_S: another may go.

What calls report that began before it opened changes nothing while it is open. A cool-down beside
it holds for as long as a provider asked for (Retry-After); it is no failure and keeps no trial.

Pure: the time (monotonic, seconds) and chance (in [0, 1)) come in with each call.
"""

from enum import StrEnum

__all__ = ["Breaker", "BreakerState", "Window"]

CONSECUTIVE_MAX = 5
CALLS_MIN = 10
ERROR_SHARE = 0.5
WINDOW_S = 30.0
OPEN_S = 5.0
OPEN_S_MAX = 120.0
JITTER = 0.2
TRIAL_S = 120.0
COOL_S = 1.0
COOL_S_MAX = 300.0

_SLOTS = 6
_FOREVER = -1


class BreakerState(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Window:
    """Counts what went well and what failed over about the last `window_s` seconds.

    In six slots: what is counted is the whole of the last five sixths and part of the sixth before.
    """

    __slots__ = ("_bad", "_good", "_numbers", "_slot_s")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / _SLOTS
        self._good = [0] * _SLOTS
        self._bad = [0] * _SLOTS
        self._numbers = [_FOREVER] * _SLOTS

    def add(self, *, good: bool, now_s: float) -> None:
        """Count one."""
        number = int(now_s / self._slot_s)
        slot = number % _SLOTS
        if self._numbers[slot] != number:
            self._numbers[slot], self._good[slot], self._bad[slot] = number, 0, 0
        counts = self._good if good else self._bad
        counts[slot] += 1

    def counts(self, now_s: float) -> tuple[int, int]:
        """Return how many went well and how many failed."""
        oldest = int(now_s / self._slot_s) - _SLOTS + 1
        good = bad = 0
        for slot, number in enumerate(self._numbers):
            if number >= oldest:
                good += self._good[slot]
                bad += self._bad[slot]
        return good, bad

    def clear(self) -> None:
        """Forget everything."""
        self._numbers = [_FOREVER] * _SLOTS


class Breaker:
    """One breaker; see the module."""

    __slots__ = (
        "_cool_s",
        "_cool_until_s",
        "_failures",
        "_open_until_s",
        "_opened",
        "_opened_times",
        "_trial_until_s",
        "_window",
    )

    def __init__(self) -> None:
        self._window = Window(WINDOW_S)
        self._failures = 0
        self._opened = False
        self._opened_times = 0
        self._open_until_s = 0.0
        self._trial_until_s: float | None = None
        self._cool_s = COOL_S
        self._cool_until_s = 0.0

    def state(self, now_s: float) -> BreakerState:
        """Return where it stands."""
        if not self._opened:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self._open_until_s else BreakerState.HALF_OPEN

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until a call may go, 0 when one may now; changes nothing."""
        until_s = self._cool_until_s
        if not self._opened and until_s <= now_s:
            return 0.0
        if self._opened:
            until_s = max(until_s, self._open_until_s)
            if self._trial_until_s is not None:
                until_s = max(until_s, self._trial_until_s)
        return max(0.0, until_s - now_s)

    def permit(self, now_s: float) -> bool:
        """Say whether a call may go now; half open, the one that may becomes the trial."""
        if self.wait_s(now_s) > 0:
            return False
        if self._opened:
            self._trial_until_s = now_s + TRIAL_S
        return True

    def succeeded(self, now_s: float) -> None:
        """A call went well."""
        self._cool_s = COOL_S
        if self._opened:
            if now_s < self._open_until_s:
                return
            self._close()
        self._failures = 0
        self._window.add(good=True, now_s=now_s)

    def failed(self, now_s: float, *, chance: float) -> bool:
        """A call failed; say whether that opened it."""
        if self._opened:
            if now_s < self._open_until_s:
                return False
            self._open(now_s, chance)
            return True
        self._failures += 1
        self._window.add(good=False, now_s=now_s)
        good, bad = self._window.counts(now_s)
        calls = good + bad
        if self._failures >= CONSECUTIVE_MAX or (calls >= CALLS_MIN and bad >= ERROR_SHARE * calls):
            self._open(now_s, chance)
            return True
        return False

    def released(self) -> None:
        """A call ended that told nothing; a trial, if it was one, may be made again."""
        self._trial_until_s = None

    def trip(self, now_s: float, *, chance: float) -> bool:
        """Open it for a reason from elsewhere; say whether it was not open before."""
        if self._opened and now_s < self._open_until_s:
            return False
        self._open(now_s, chance)
        return True

    def cool(self, now_s: float, asked_s: float | None) -> None:
        """Let no call go for `asked_s` (COOL_S_MAX at most).

        When no time was asked for: COOL_S, and twice as long each time until a call goes well.
        """
        if asked_s is None:
            asked_s = self._cool_s
            self._cool_s = min(self._cool_s * 2, 30.0)
        self._cool_until_s = max(self._cool_until_s, now_s + min(max(asked_s, 0.0), COOL_S_MAX))
        self._trial_until_s = None

    def idle(self, now_s: float) -> bool:
        """Say whether forgetting it would change nothing."""
        return not self._opened and self.wait_s(now_s) == 0 and self._window.counts(now_s)[1] == 0

    def _open(self, now_s: float, chance: float) -> None:
        open_s = min(OPEN_S * 2.0 ** min(self._opened_times, 10), OPEN_S_MAX)
        self._opened = True
        self._opened_times += 1
        self._open_until_s = now_s + open_s * (1 + JITTER * (2 * chance - 1))
        self._trial_until_s = None
        self._failures = 0
        self._window.clear()

    def _close(self) -> None:
        self._opened = False
        self._opened_times = 0
        self._trial_until_s = None
        self._window.clear()
