"""What is known of providers and their models besides names: facts, limits, health."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["UNKNOWN_MODEL", "UNLIMITED", "Health", "ModelFacts", "RateLimits"]


class Health(StrEnum):
    """How a provider does; the rule is in `health.py`."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model can do and how much it takes; sizes in tokens, None where nobody told.

    `known` says that the catalogue or an operator described the model: only then does a missing
    capability mean that it cannot. `quality` is the mean of its benchmarks, 0 to 100.
    """

    known: bool = False
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = frozenset()
    quality: float | None = None

    def meets(self, needs: frozenset[str], *, context_tokens: int = 0) -> bool:
        """Say whether nothing known speaks against a call with these needs and this size.

        Needs are vision, tools, json_schema, streaming, audio, reasoning; a need that no model
        tells of is not judged.
        """
        if self.context_window is not None and context_tokens > self.context_window:
            return False
        return not self.known or needs & _JUDGED <= self.capabilities


_JUDGED = frozenset({"audio", "json_schema", "reasoning", "streaming", "tools", "vision"})
UNKNOWN_MODEL = ModelFacts()


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What a provider allows us: calls in any minute, calls at a time; None is no limit."""

    requests_per_minute: int | None = None
    concurrent_max: int | None = None


UNLIMITED = RateLimits()
