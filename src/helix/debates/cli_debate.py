"""`helix debate TOPIC`: the command beside `helix debates`."""

from helix.debates.cli import main_debate as main
from helix.debates.cli import one as app

__all__ = ["app", "main"]
