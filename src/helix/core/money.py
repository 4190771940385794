"""Money is exact: Decimal dollars, never float.

Prices are dollars per million tokens with at most six decimals, so the cost of a number of tokens
has at most twelve and `numeric(20, 12)` holds it without rounding.
"""

from decimal import Context, Decimal, Inexact

__all__ = ["EXACT", "MILLION", "cost_of_tokens"]

MILLION = Decimal(1_000_000)
EXACT = Context(prec=38, traps=[Inexact])
"""A context in which an operation that would have to round raises instead."""


def cost_of_tokens(tokens: int, usd_per_million: Decimal) -> Decimal:
    """Return the dollars for `tokens` at `usd_per_million`, exactly."""
    return EXACT.divide(EXACT.multiply(Decimal(tokens), usd_per_million), MILLION)
