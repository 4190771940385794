"""Which keys the encrypted files of an installation need: its backups and archives."""

from collections import defaultdict
from pathlib import Path

from helix.core.config import Settings
from helix.operations.backup.sealed import key_id_of_file

__all__ = ["keys_of_files"]

_NOT_OURS = frozenset({"postgres", "run", "log"})


def keys_of_files(settings: Settings) -> dict[str, list[Path]]:
    """Return the encrypted files below the backups' directory and the home, by the key they need.

    A file that cannot be read, or that Helix did not encrypt, is passed over.
    """
    home = settings.home_dir
    places = {settings.backup_path}
    if home.is_dir():
        places |= {p for p in home.iterdir() if p.is_dir() and p.name not in _NOT_OURS}
    found: dict[str, list[Path]] = defaultdict(list)
    seen: set[Path] = set()
    for place in sorted(places):
        for path in sorted(place.rglob("*")):
            if path in seen or not path.is_file():
                continue
            seen.add(path)
            key_id = key_id_of_file(path)
            if key_id is not None:
                found[key_id].append(path)
    return dict(found)
