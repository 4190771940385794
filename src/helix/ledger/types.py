"""What the ledger is made of: prices over time, and what an answer used."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

__all__ = [
    "DIMENSIONS",
    "PERIODS",
    "SUMS",
    "TOKENS_MAX",
    "BudgetTarget",
    "Charge",
    "Price",
    "Usage",
    "UsageQuestion",
]

PERIODS = ("hour", "day", "month")
DIMENSIONS = {
    "model": "model",
    "provider": "provider",
    "key": "api_key_id",
    "user": "user_id",
    "project": "project_id",
    "agent": "agent_id",
}
"""What usage can be grouped by beside a period, and the column that shows it."""

SUMS = (
    "call_count",
    "estimated_count",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_usd",
)

TOKENS_MAX = 40_000_000
"""More than any model takes or gives in one answer: what a provider tells beyond is not believed.

It also keeps the dearest charge that llm_pricing allows within numeric(20, 12).
"""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs from `effective_date` on, in US dollars; None: as the main price."""

    id: UUID
    model: str
    effective_date: datetime
    input_per_million: Decimal
    output_per_million: Decimal
    cached_input_per_million: Decimal | None = None
    reasoning_per_million: Decimal | None = None
    per_request: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one answer. `cached` is part of `prompt`, `reasoning` part of `completion`.

    `estimated` says that Helix counted because the provider did not.
    """

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Charge:
    """What an answer costs, exactly, and by which price; without a price it costs nothing."""

    cost_usd: Decimal
    pricing_id: UUID | None


@dataclass(frozen=True, slots=True)
class BudgetTarget:
    """What of a user a budget limits: everything, or one key, project or agent."""

    api_key_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None

    @property
    def scope(self) -> str:
        """The word for it in budgets.scope."""
        if self.api_key_id is not None:
            return "api_key"
        if self.project_id is not None:
            return "project"
        return "user" if self.agent_id is None else "agent"


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Which usage, from `from_time` up to but not including `to_time`, summed up by what.

    `by` holds names out of DIMENSIONS and at most one of PERIODS.
    """

    from_time: datetime
    to_time: datetime
    by: tuple[str, ...] = ()
    api_key_id: UUID | None = None
    project_id: UUID | None = None
    agent_id: str | None = None
    model: str | None = None
    provider: str | None = None
    max_count: int = 10_000

    def columns(self) -> list[str]:
        """Return the columns of the answer, in order."""
        period = ["period"] if any(name in PERIODS for name in self.by) else []
        shown = [column for name, column in DIMENSIONS.items() if name in self.by]
        return [*period, *shown, *SUMS]
