"""What goes with a copy of a database: its keys, and what was erased since it was made."""

from pathlib import Path

from helix.core.config import Settings
from helix.core.instance import HomePaths, load_keyring, write_private
from helix.operations.erasure.ledger import file_of
from helix.operations.types import Report

__all__ = ["bring_along"]


def bring_along(source: Settings, home: Path, report: Report) -> None:
    """Copy the key file and the list of erasures of `source` to `home`, unless it has its own.

    Without the keys half of the copy cannot be read, and without the list `release` would let
    live again who was erased. What lies outside of homes stays where it is.

    Raises Misuse when the file can be read by others.
    """
    key_file = HomePaths(home).keys
    if source.secret_keys is None and not key_file.exists():
        load_keyring(source)
        write_private(key_file, HomePaths(source.home_dir).keys.read_bytes())
        report(f"copied the encryption keys to {key_file}")
    erased = file_of(source.backup_path)
    known = file_of(source.model_copy(update={"home": home}).backup_path)
    if erased.exists() and not known.exists():
        write_private(known, erased.read_bytes())
