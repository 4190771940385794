"""The errors of the ledger."""

from decimal import Decimal

from helix.core.errors import BadInput, Conflict, HelixError, NotFound

__all__ = ["BudgetExceeded", "BudgetNotFound", "BudgetTaken", "PriceInForce", "UsageUnreadable"]


class BudgetExceeded(HelixError):
    """The call may cost more than a budget has left; it was not made and uses nothing up."""

    code = "budget_exceeded"
    status = 402
    kind = "insufficient_quota"

    def __init__(self, name: str, *, limit_usd: Decimal, left_usd: Decimal) -> None:
        super().__init__(
            f"the {name} of {limit_usd.normalize():f} USD has {max(left_usd, Decimal(0)):f} USD "
            "left, which is less than this call may cost: lower max_tokens, or raise the budget "
            "with `helix budgets set`"
        )


class BudgetNotFound(NotFound):
    """There is no such budget, or it is another's."""

    code = "budget_not_found"

    def __init__(self) -> None:
        super().__init__("there is no such budget")


class BudgetTaken(Conflict):
    """What is to be limited has a budget of that period already."""

    code = "budget_taken"

    def __init__(self) -> None:
        super().__init__("there is a budget of this scope and period already: change that one")


class UsageUnreadable(BadInput):
    """A question about usage cannot be read."""

    code = "usage_unreadable"


class PriceInForce(Conflict):
    """A price of this model and moment is there already."""

    code = "price_in_force"

    def __init__(self, model: str, effective: str) -> None:
        super().__init__(
            f"there is a price of {model!r} from {effective} already, and prices are not changed: "
            "set a new one with a later --effective"
        )
