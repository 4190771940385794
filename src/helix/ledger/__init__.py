"""The ledger: dated prices, exact costs."""

from helix.ledger.domain import Ledger, build
from helix.ledger.policy import PriceBook, charge, price_book
from helix.ledger.types import TOKENS_MAX, Charge, Price, Usage

__all__ = [
    "TOKENS_MAX",
    "Charge",
    "Ledger",
    "Price",
    "PriceBook",
    "Usage",
    "build",
    "charge",
    "price_book",
]
