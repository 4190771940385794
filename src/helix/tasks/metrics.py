"""What workers count, for Prometheus."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily

from helix.tasks.types import Status

__all__ = ["WorkerMetrics"]

_CLAIM_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
_RUN_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)


@dataclass(slots=True)
class _Times:
    """Counted by hand: a Histogram takes 1.2 us of the 25 that an attempt costs its worker."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_RUN_S) + 1))
    sum_s: float = 0.0


class WorkerMetrics:
    """Counters of one process; give the registry that its /metrics serves."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        into = registry or CollectorRegistry()
        self.running = Gauge(
            "helix_tasks_running", "Attempts running in this worker", registry=into
        )
        self.claim_seconds = Histogram(
            "helix_tasks_claim_seconds", "Time of a claim", buckets=_CLAIM_S, registry=into
        )
        self.refused = Counter(
            "helix_tasks_late_outcomes", "Outcomes refused: no longer held", registry=into
        )
        self.leases_lost = Counter(
            "helix_tasks_leases_lost", "Times this worker lost its lease", registry=into
        )
        self._ended = Counter(
            "helix_tasks_attempts", "Ended attempts", ["task_type", "status"], registry=into
        )
        self._seconds: dict[str, _Times] = {}
        into.register(self)
        self._waiting = Gauge(
            "helix_tasks_held",
            "Tasks that have not ended, as last counted",
            ["queue", "task_type", "status"],
            registry=into,
        )
        self._overdue = Gauge(
            "helix_tasks_overdue_seconds",
            "Age of the oldest due task that waits, as last counted",
            ["queue"],
            registry=into,
        )

    def ended(self, task_type: str, status: Status, count: int) -> None:
        """Count attempts that ended so; `pending` means they will be made again."""
        self._ended.labels(task_type, status.value).inc(count)

    def queue(self, rows: Iterable[Mapping[str, Any]], *, now: datetime) -> None:
        """Take over the counts of `queue_stats`; what is no longer there disappears."""
        self._waiting.clear()
        self._overdue.clear()
        oldest: dict[str, float] = {}
        for row in rows:
            self._waiting.labels(row["queue"], row["task_type"], row["status"]).set(row["tasks"])
            if row["status"] == Status.PENDING.value:
                age_s = max(0.0, (now - row["oldest_due_at"]).total_seconds())
                oldest[row["queue"]] = max(age_s, oldest.get(row["queue"], 0.0))
        for name, age_s in oldest.items():
            self._overdue.labels(name).set(age_s)

    def took(self, task_type: str, seconds: float) -> None:
        """Note how long an attempt took."""
        times = self._seconds.get(task_type)
        if times is None:
            times = self._seconds[task_type] = _Times()
        times.counts[bisect_left(_RUN_S, seconds)] += 1
        times.sum_s += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the times of attempts; called by the registry."""
        family = HistogramMetricFamily(
            "helix_tasks_attempt_seconds", "Time of an attempt", labels=["task_type"]
        )
        bounds = [*(str(float(s)) for s in _RUN_S), "+Inf"]
        for task_type, times in self._seconds.items():
            buckets = list(zip(bounds, accumulate(times.counts), strict=True))
            family.add_metric([task_type], buckets, times.sum_s)
        yield family
