"""The ledger: dated prices, exact costs."""

from helix.ledger.domain import Ledger, build
from helix.ledger.errors import BudgetExceeded
from helix.ledger.policy import PriceBook, charge, price_book
from helix.ledger.proposals import Proposals
from helix.ledger.routes import router
from helix.ledger.types import TOKENS_MAX, Charge, Price, Usage

__all__ = [
    "TOKENS_MAX",
    "BudgetExceeded",
    "Charge",
    "Ledger",
    "Price",
    "PriceBook",
    "Proposals",
    "Usage",
    "build",
    "charge",
    "price_book",
    "router",
]
