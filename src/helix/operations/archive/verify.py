"""Whether every file of the archive is there, whole, and can be read."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from helix.core.config import Settings
from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Connection
from helix.operations.archive.check import check_file
from helix.operations.archive.errors import ArchiveDamaged
from helix.operations.archive.store import file_key, list_files, path_of, user_keys
from helix.operations.archive.types import ArchiveFile, FileCheck

__all__ = ["glance", "unlisted", "verify"]


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


async def glance(conn: Connection, settings: Settings) -> list[FileCheck]:
    """Say of each file whether it is there, can be opened, and is as long as its row says.

    Reads one byte of each, so it is quick, and does not see what `verify` sees: changed bytes.
    """
    files = [file for file in await list_files(conn) if file.status != "writing"]

    def look() -> list[FileCheck]:
        return [
            FileCheck(file.name, file.month, file.size_bytes, _seen(settings, file))
            for file in files
        ]

    return await asyncio.to_thread(look)


def _seen(settings: Settings, file: ArchiveFile) -> str | None:
    """Return what is wrong with a file as far as one byte tells."""
    path = path_of(settings, file.name)
    try:
        with path.open("rb") as opened:
            opened.read(1)
            size_bytes = os.fstat(opened.fileno()).st_size
    except FileNotFoundError:
        return f"missing from {path.parent}"
    except OSError as exc:
        return f"cannot be read: {exc.strerror or exc}"
    if size_bytes != file.size_bytes:
        return f"has {size_bytes} bytes instead of {file.size_bytes}"
    return None


async def unlisted(conn: Connection, settings: Settings) -> list[Path]:
    """Return files in the directory that no row names: another database's, or nobody's."""
    known = {file.name for file in await list_files(conn)}
    place = settings.archive_path
    found = await asyncio.to_thread(lambda: sorted(place.glob("*/*.hxa")))
    return [path for path in found if str(path.relative_to(place)) not in known]
