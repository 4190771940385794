"""What the ledger is made of: prices over time, and what an answer used."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

__all__ = ["TOKENS_MAX", "Charge", "Price", "Usage"]

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
