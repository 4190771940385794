"""The errors of the ledger."""

from helix.core.errors import Conflict

__all__ = ["PriceInForce"]


class PriceInForce(Conflict):
    """A price of this model and moment is there already."""

    code = "price_in_force"

    def __init__(self, model: str, effective: str) -> None:
        super().__init__(
            f"there is a price of {model!r} from {effective} already, and prices are not changed: "
            "set a new one with a later --effective"
        )
