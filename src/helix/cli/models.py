"""`helix models`, with the ledger that takes the catalogue's prices."""

from helix.ledger import Proposals
from helix.providers.cli_models import app
from helix.providers.cli_models import main as run

__all__ = ["app", "main"]


def main(args: list[str]) -> None:
    """Run `helix models` with these arguments."""
    run(args, propose_price=Proposals())
