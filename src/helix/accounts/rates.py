"""Requests per minute and key: exact within this process, kept in memory.

A window opens with a key's first request and lasts a minute; what it counts is exact, since
nothing awaits between looking and counting. Another process counts for itself, and a restart
begins anew: limits across processes are the database's task and come with budgets.
"""

from uuid import UUID

__all__ = ["RateWindows"]

WINDOW_S = 60.0
_SWEEP_AT = 4_096  # windows; each sweep drops those that ended


class RateWindows:
    """Counts requests by key; a refused one uses up nothing."""

    def __init__(self) -> None:
        self._windows: dict[UUID, tuple[float, int]] = {}
        self._sweep_at = _SWEEP_AT

    def take(self, key_id: UUID, limit: int, now_s: float) -> float | None:
        """Count a request at the monotonic second `now_s`.

        Returns None when it is within `limit`, else the seconds until it could be.
        """
        opened_s, count = self._windows.get(key_id, (now_s, 0))
        if now_s - opened_s >= WINDOW_S:
            opened_s, count = now_s, 0
        if count >= limit:
            return WINDOW_S if limit == 0 else WINDOW_S - (now_s - opened_s)
        self._windows[key_id] = (opened_s, count + 1)
        if len(self._windows) > self._sweep_at:
            self._sweep(now_s)
        return None

    def _sweep(self, now_s: float) -> None:
        live = {k: w for k, w in self._windows.items() if now_s - w[0] < WINDOW_S}
        self._windows = live
        self._sweep_at = max(_SWEEP_AT, 2 * len(live))
