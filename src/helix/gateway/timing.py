"""When the parts of a stream arrived: gaps between them, kept small however long it is. Pure."""

import math
from dataclasses import dataclass

__all__ = ["GAPS_KEPT_MAX", "SAMPLES_MAX", "Arrivals", "Gaps", "Sample"]

GAPS_KEPT_MAX = 2_048
"""Most gaps kept of one stream; beyond, every second one is dropped, again and again."""

SAMPLES_MAX = 5_000
"""Most arrivals of a sampled stream that become rows of their own."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Silence between two arrivals of a stream, in milliseconds: the median, the 95th percentile
    (both nearest-rank, over the gaps kept) and the longest of all."""

    p50_ms: int
    p95_ms: int
    max_ms: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One arrival: how many chunks there were by then, how many it brought.

    `gap_s` since the arrival before; `at_s` since the call was sent.
    """

    chunk_number: int
    chunks: int
    chars: int
    gap_s: float
    at_s: float


class Arrivals:
    """The arrivals of one stream. What a provider sends in one piece is one arrival.

    A client feels arrivals, not the chunks inside them; so gaps are counted between arrivals that
    brought content. With `sampled`, each is also kept as a `Sample`.
    """

    __slots__ = (
        "_began_s",
        "_chunks",
        "_gaps_s",
        "_last_s",
        "_longest_s",
        "_seen",
        "_stride",
        "samples",
    )

    def __init__(self, began_s: float = 0.0, *, sampled: bool = False) -> None:
        self._began_s = began_s
        self._last_s: float | None = None
        self._gaps_s: list[float] = []
        self._longest_s = 0.0
        self._seen = 0
        self._stride = 1
        self._chunks = 0
        self.samples: list[Sample] | None = [] if sampled else None

    def note(self, now_s: float, *, chunks: int, chars: int = 0) -> None:
        """Note that content arrived at `now_s` (monotonic); `chunks` is how many came by now."""
        last_s, self._last_s = self._last_s, now_s
        brought, self._chunks = chunks - self._chunks, chunks
        gap_s = 0.0 if last_s is None else now_s - last_s
        if self.samples is not None and len(self.samples) < SAMPLES_MAX:
            self.samples.append(Sample(chunks, brought, chars, gap_s, now_s - self._began_s))
        if last_s is None:
            return
        self._longest_s = max(self._longest_s, gap_s)
        self._seen += 1
        if self._seen % self._stride == 0:
            gaps = self._gaps_s
            gaps.append(gap_s)
            if len(gaps) > GAPS_KEPT_MAX:
                del gaps[::2]
                self._stride *= 2

    def gaps(self) -> Gaps | None:
        """Return how long the silences were; None when there were fewer than two arrivals."""
        if not self._gaps_s:
            return None
        ordered = sorted(self._gaps_s)
        return Gaps(_ms(_rank(ordered, 0.5)), _ms(_rank(ordered, 0.95)), _ms(self._longest_s))


def _rank(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile: the least value that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)
