"""Pure decisions of the ledger: which price holds, what an answer costs."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

from helix.core.money import EXACT, cost_of_tokens
from helix.ledger.types import Charge, Price, Usage

__all__ = ["PriceBook", "charge", "price_book"]

_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All prices; of each model sorted by the time from which they hold."""

    by_model: Mapping[str, Sequence[Price]] = field(default_factory=lambda: MappingProxyType({}))

    def price_at(self, names: Iterable[str], at: datetime) -> Price | None:
        """Return the price that held at the moment `at`, of the first of `names` that has one."""
        for name in names:
            prices = self.by_model.get(name)
            if prices:
                number = bisect_right(prices, at, key=lambda price: price.effective_date)
                if number:
                    return prices[number - 1]
        return None


def price_book(prices: Iterable[Price]) -> PriceBook:
    """Return the book of these prices."""
    by_model: dict[str, list[Price]] = defaultdict(list)
    for price in sorted(prices, key=lambda price: price.effective_date):
        by_model[price.model].append(price)
    return PriceBook(MappingProxyType({model: tuple(own) for model, own in by_model.items()}))


def charge(usage: Usage, price: Price | None) -> Charge:
    """Return what `usage` costs at `price`, to the last of twelve decimals.

    Cached input and reasoning tokens cost their own price where there is one.
    """
    if price is None:
        return Charge(_NOTHING, None)
    cached_price = price.cached_input_per_million
    reasoning_price = price.reasoning_per_million
    cached = usage.cached if cached_price is not None else 0
    reasoning = usage.reasoning if reasoning_price is not None else 0
    cost = EXACT.add(
        cost_of_tokens(usage.prompt - cached, price.input_per_million),
        cost_of_tokens(usage.completion - reasoning, price.output_per_million),
    )
    if cached and cached_price is not None:
        cost = EXACT.add(cost, cost_of_tokens(cached, cached_price))
    if reasoning and reasoning_price is not None:
        cost = EXACT.add(cost, cost_of_tokens(reasoning, reasoning_price))
    if price.per_request is not None:
        cost = EXACT.add(cost, price.per_request)
    return Charge(cost, price.id)
