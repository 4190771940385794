"""Whether every file of the archive is there, whole, and can be read."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from helix.core.config import Settings
from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Connection
from helix.operations.archive.check import check_file
from helix.operations.archive.errors import ArchiveDamaged
from helix.operations.archive.store import file_key, list_files, path_of, user_keys
from helix.operations.archive.types import ArchiveFile, FileCheck

__all__ = ["unlisted", "verify"]


async def verify(
    conn: Connection, settings: Settings, keyring: Keyring
) -> AsyncIterator[FileCheck]:
    """Read every byte of every file, and say of each what is wrong with it, if anything is."""
    for file in await list_files(conn):
        if file.status == "writing":
            continue
        fault = None
        try:
            await _read(conn, settings, keyring, file)
        except (ArchiveDamaged, SecretUnreadable) as exc:
            fault = exc.message
        except OSError as exc:
            fault = f"{path_of(settings, file.name)} cannot be read: {exc.strerror or exc}"
        yield FileCheck(file.name, file.month, file.size_bytes, fault)


async def _read(conn: Connection, settings: Settings, keyring: Keyring, file: ArchiveFile) -> None:
    keys = await user_keys(conn, keyring, file.month)
    reading = check_file(path_of(settings, file.name), file, file_key(keyring, file), keys)
    while await asyncio.to_thread(next, reading, None) is not None:
        pass


async def unlisted(conn: Connection, settings: Settings) -> list[Path]:
    """Return files in the directory that no row names: another database's, or nobody's."""
    known = {file.name for file in await list_files(conn)}
    place = settings.archive_path
    found = await asyncio.to_thread(lambda: sorted(place.glob("*/*.hxa")))
    return [path for path in found if str(path.relative_to(place)) not in known]
