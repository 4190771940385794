"""Where the Grafana dashboard and the Prometheus alert rules are."""

from pathlib import Path

import helix
from helix.core.errors import Misuse

__all__ = ["alert_files"]

_FILES = ("grafana/helix.json", "prometheus/helix.rules.yml")


def alert_files() -> tuple[Path, ...]:
    """Return the dashboard and the rules: in the installed package, or else of the source tree.

    Raises Misuse when neither holds them.
    """
    package = Path(helix.__file__).parent
    for place in (package / "ops", package.parent.parent / "ops"):
        if all((place / name).is_file() for name in _FILES):
            return tuple(place / name for name in _FILES)
    raise Misuse(f"the directory ops/ is neither in {package} nor beside the source tree")
