"""Pure decisions of the ledger: which price holds, what an answer costs."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

from helix.core.money import EXACT, cost_of_tokens
from helix.ledger.errors import UsageUnreadable
from helix.ledger.types import DIMENSIONS, PERIODS, Charge, Price, Usage

__all__ = ["PriceBook", "charge", "estimate", "price_book", "read_grouping"]

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


def estimate(price: Price | None, *, prompt_tokens: int, completion_tokens: int) -> Decimal:
    """Return the most that these tokens can cost, whichever of them are cached or reasoning."""
    if price is None:
        return _NOTHING
    into = max(price.input_per_million, price.cached_input_per_million or _NOTHING)
    out = max(price.output_per_million, price.reasoning_per_million or _NOTHING)
    cost = EXACT.add(cost_of_tokens(prompt_tokens, into), cost_of_tokens(completion_tokens, out))
    return cost if price.per_request is None else EXACT.add(cost, price.per_request)


def read_grouping(text: str) -> tuple[str, ...]:
    """Return what usage is to be grouped by; raises UsageUnreadable, which names what there is."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = {*PERIODS, *DIMENSIONS}
    for name in names:
        if name not in known:
            raise UsageUnreadable(
                f"usage is not grouped by {name[:40]!r}, only by "
                f"{', '.join([*PERIODS, *DIMENSIONS])}",
                param="by",
            )
    if sum(name in PERIODS for name in names) > 1:
        raise UsageUnreadable("group by one of hour, day and month", param="by")
    return names
