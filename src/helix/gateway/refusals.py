"""What a verdict that refuses a call is told as."""

from decimal import Decimal

from helix.accounts import KeyRevoked, RateLimited
from helix.core.errors import HelixError
from helix.gateway.errors import KeyReused
from helix.gateway.types import Decision, Verdict
from helix.ledger import BudgetExceeded

__all__ = ["refused"]


def refused(verdict: Verdict) -> HelixError:
    """Return RateLimited, BudgetExceeded, KeyReused or KeyRevoked: why a call was refused.

    REPLAY and IN_PROGRESS are no refusals: the other request's answer is given.
    """
    match verdict.decision:
        case Decision.RATE_LIMITED:
            return RateLimited(
                verdict.limit_name or "", int(verdict.limit or 0), verdict.retry_after_s or 1.0
            )
        case Decision.BUDGET_EXCEEDED:
            return BudgetExceeded(
                verdict.limit_name or "budget",
                limit_usd=verdict.limit or Decimal(0),
                left_usd=verdict.left or Decimal(0),
            )
        case Decision.KEY_REUSED:
            return KeyReused()
        case Decision.REVOKED:
            return KeyRevoked()
        case Decision.ADMITTED | Decision.REPLAY | Decision.IN_PROGRESS:
            raise ValueError(f"{verdict.decision} is no refusal")
