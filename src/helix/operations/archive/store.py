"""The statements of the archive, its files' rows, and the keys that open them."""

import os
from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path
from uuid import UUID, uuid4

from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection, Queries
from helix.operations.archive.types import PRIVATE_COLUMNS, ArchiveFile, Section

__all__ = [
    "QUERIES",
    "columns_of",
    "file_key",
    "list_files",
    "make_user_keys",
    "new_file_key",
    "path_of",
    "user_keys",
]

QUERIES = Queries("helix.operations.archive")
_KEY_BYTES = 32


def path_of(settings: Settings, name: str) -> Path:
    """Return where a file of the archive lies."""
    return settings.archive_path / name


async def list_files(
    conn: Connection, *, from_month: date | None = None, to_month: date | None = None
) -> list[ArchiveFile]:
    """Return the files of these months, oldest first; both ends count."""
    rows = await QUERIES.rows(conn, "list_files", from_month=from_month, to_month=to_month)
    return [ArchiveFile(**dict(row)) for row in rows]


def _context(table: str, identifier: UUID) -> str:
    return f"{table}.sealed_key:{identifier}"


def new_file_key(keyring: Keyring, file_id: UUID) -> tuple[bytes, str]:
    """Return a fresh key for a file, and the same encrypted for its row."""
    key = os.urandom(_KEY_BYTES)
    return key, keyring.encrypt(key.hex(), context=_context("archive_files", file_id))


def file_key(keyring: Keyring, file: ArchiveFile) -> bytes:
    """Return the key of a file; raises SecretUnreadable, which names the key that is missing."""
    context = _context("archive_files", file.id)
    return bytes.fromhex(keyring.decrypt(file.sealed_key, context=context))


async def user_keys(
    conn: Connection, keyring: Keyring, month: date, user_ids: Collection[UUID] | None = None
) -> dict[UUID, bytes]:
    """Return the keys of a month, of these users or all; raises SecretUnreadable.

    A user without one was erased, or has nothing in the archive of that month.
    """
    chosen = None if user_ids is None else list(user_ids)
    rows = await QUERIES.rows(conn, "list_keys", month=month, user_ids=chosen)
    return {
        row["user_id"]: bytes.fromhex(
            keyring.decrypt(row["sealed_key"], context=_context("archive_keys", row["id"]))
        )
        for row in rows
    }


async def make_user_keys(
    conn: Connection, keyring: Keyring, month: date, user_ids: Sequence[UUID]
) -> dict[UUID, bytes]:
    """Return the keys of these users for a month, made where there are none, and committed."""
    known = await user_keys(conn, keyring, month, user_ids)
    wanted = [user_id for user_id in user_ids if user_id not in known]
    if not wanted:
        return known
    ids = [uuid4() for _ in wanted]
    sealed = [
        keyring.encrypt(os.urandom(_KEY_BYTES).hex(), context=_context("archive_keys", identifier))
        for identifier in ids
    ]
    await QUERIES.run(
        conn,
        "make_keys",
        ids=ids,
        user_ids=wanted,
        month=month,
        sealed_keys=sealed,
        key_id=keyring.key_id,
    )
    return await user_keys(conn, keyring, month, user_ids)


async def columns_of(conn: Connection, section: Section) -> list[tuple[str, str]]:
    """Return the columns of a section with their types, in the order of its rows.

    A section that is a user's own begins with whose it is; then comes the key of the row.
    """
    rows = await QUERIES.rows(conn, "list_columns", table_name=section.table)
    types: dict[str, str] = {row["name"]: row["type"] for row in rows}
    private = PRIVATE_COLUMNS.get(section.table, ())
    if section in {Section.REQUESTS_PRIVATE, Section.RESPONSES_PRIVATE}:
        names = ["user_id", section.key, *private]
    elif section.private:
        rest = (name for name in types if name not in {"user_id", section.key})
        names = ["user_id", section.key, *rest]
    else:
        rest = (name for name in types if name != section.key and name not in private)
        names = [section.key, *rest]
    return [(name, types[name]) for name in names]
