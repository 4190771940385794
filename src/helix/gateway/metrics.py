"""What the gateway counts, and the page that tells it.

Labels never hold what a client can choose.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1_024)


class Metrics:
    """Counters and histograms of one gateway."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = CollectorRegistry() if registry is None else registry
        registry = self._registry
        self._calls = Counter(
            "helix_calls", "Calls ended.", ("provider", "outcome"), registry=registry
        )
        self._refused = Counter(
            "helix_refused",
            "Requests answered with an error, by its code.",
            ("code",),
            registry=registry,
        )
        self._tokens = Counter(
            "helix_tokens", "Tokens used.", ("provider", "kind"), registry=registry
        )
        self._seconds = Histogram(
            "helix_call_seconds",
            "From sending a call to its last byte.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "helix_first_token_seconds",
            "From sending a call to its first content.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "helix_record_batch_rows",
            "Rows in one commit of the recorder.",
            ("lane",),
            buckets=_ROWS,
            registry=registry,
        )
        self._record_waits = Histogram(
            "helix_record_wait_seconds",
            "How long the first row of a batch waited for the commit before.",
            ("lane",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._commits = Histogram(
            "helix_record_commit_seconds",
            "From sending a batch to hearing that it is committed.",
            ("lane",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge("helix_calls_in_flight", "Calls under way.", registry=registry)
        self._waiting = Gauge(
            "helix_record_waiting_rows", "Rows not committed yet.", registry=registry
        )
        self._connected = Gauge(
            "helix_recorder_connected", "1 while calls can be recorded.", registry=registry
        )
        self._full = Gauge(
            "helix_storage_full", "1 while PostgreSQL has no room left to write.", registry=registry
        )
        self._ended: dict[tuple[str, str], Counter] = {}
        self._lanes: dict[str, tuple[Histogram, ...]] = {}
        self._kinds: dict[tuple[str, str], Counter] = {}

    def follow(
        self,
        *,
        in_flight: Callable[[], int],
        waiting: Callable[[], int],
        connected: Callable[[], bool],
        storage_full: Callable[[], bool],
    ) -> None:
        """Read these values whenever the metrics are asked for."""
        self._in_flight.set_function(in_flight)
        self._waiting.set_function(waiting)
        self._connected.set_function(lambda: float(connected()))
        self._full.set_function(lambda: float(storage_full()))

    def call(
        self,
        provider: str,
        outcome: str,
        *,
        seconds: float,
        first_s: float | None,
        prompt: int,
        completion: int,
    ) -> None:
        """Count a call that ended."""
        ended = self._ended.get((provider, outcome))
        if ended is None:
            ended = self._ended[provider, outcome] = self._calls.labels(provider, outcome)
        ended.inc()
        self._seconds.observe(seconds)
        if first_s is not None:
            self._first.observe(first_s)
        self._count_tokens(provider, "prompt", prompt)
        self._count_tokens(provider, "completion", completion)

    def _count_tokens(self, provider: str, kind: str, tokens: int) -> None:
        counter = self._kinds.get((provider, kind))
        if counter is None:
            counter = self._kinds[provider, kind] = self._tokens.labels(provider, kind)
        counter.inc(tokens)

    def refused(self, code: str) -> None:
        """Count a request that was answered with an error."""
        self._refused.labels(code).inc()

    def batch(self, lane: str, rows: int, *, waited_s: float, commit_s: float) -> None:
        """Count a commit, and how long it took after its first row had waited so long."""
        told = self._lanes.get(lane)
        if told is None:
            kinds = (self._batches, self._record_waits, self._commits)
            told = self._lanes[lane] = tuple(kind.labels(lane) for kind in kinds)
        for histogram, value in zip(told, (rows, waited_s, commit_s), strict=True):
            histogram.observe(value)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
