"""Rotation: a new key to the front, every value made anew with it, the old key taken out.

The state of a rotation is the rows themselves: each value names the key that made it. So whoever
is killed leaves nothing to clean up, and whoever starts again goes on with what is left. A row is
replaced only if it still is what was read; what a running Helix writes meanwhile is made with the
new key, since it looks at the key file before it encrypts (core/instance.py).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from helix.core.crypto import Keyring, SecretUnreadable, id_of_key, key_id_of, new_key
from helix.core.db import Connection
from helix.core.instance import BOOTSTRAP_CONTEXT, read_keys, write_keys, write_private
from helix.operations.runner import quoted
from helix.operations.secrets.errors import KeyStillNeeded, SecretsBusy
from helix.operations.secrets.rows import (
    FIRST,
    QUERIES,
    behind,
    context_of,
    count_keys,
    count_table,
    secret_tables,
    write_batch,
)
from helix.operations.secrets.types import KeyCount, Places, Rotation, SecretTable, Unreadable

__all__ = ["BATCH_ROWS", "add_key", "alone", "left_behind", "remove_keys", "renew_file", "rotate"]

BATCH_ROWS = 500
_PASSES_MAX = 20
_LOCK = "LOCK TABLE public.{table} IN SHARE MODE"
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '10s'"

Progress = Callable[[int], None]


@asynccontextmanager
async def alone(conn: Connection) -> AsyncIterator[None]:
    """Hold the lock of rotations while the block runs; raises SecretsBusy."""
    row = await QUERIES.row(conn, "lock_secrets")
    if row is None or not row["locked"]:
        raise SecretsBusy("another rotation of secrets is under way")
    try:
        yield
    finally:
        await conn.execute("SELECT pg_advisory_unlock(hashtext('helix secrets'))")


def add_key(path: Path) -> str:
    """Put a new key before the others of a key file and return its id."""
    key = new_key()
    write_keys(path, [key, *read_keys(path)])
    return id_of_key(key)


async def left_behind(conn: Connection, keyring: Keyring) -> int:
    """Return how many values an older key of the ring made."""
    older = keyring.key_ids[1:]
    return sum(one.rows for one in await count_keys(conn) if one.key_id in older)


async def rotate(
    conn: Connection,
    keyring: Keyring,
    places: Places,
    *,
    batch_rows: int = BATCH_ROWS,
    progress: Progress,
) -> Rotation:
    """Make every value anew that another key than the first made; `progress` hears of rows done.

    Each batch is a transaction of its own. A row that changes meanwhile is looked at again; one
    that does not open is left as it is, and told of.
    """
    key_id, done = keyring.key_id, 0
    unreadable: dict[tuple[str, str, UUID], Unreadable] = {}
    for table in await secret_tables(conn):
        for _ in range(_PASSES_MAX):
            found, changed, bad = await _pass(
                conn, keyring, table, places, key_id, batch_rows, progress
            )
            unreadable.update({(one.table, one.column, one.row_id): one for one in bad})
            done += changed
            if found == len({one.row_id for one in bad}):
                break
    return Rotation(key_id, done, tuple(unreadable.values()))


async def _pass(  # noqa: PLR0917 - its one caller passes on what it was given
    conn: Connection,
    keyring: Keyring,
    table: SecretTable,
    places: Places,
    key_id: str,
    batch_rows: int,
    progress: Progress,
) -> tuple[int, int, list[Unreadable]]:
    """Go through a table once: return rows found behind, rows replaced, values that do not open."""
    found, changed, bad, after = 0, 0, [], FIRST
    while rows := await behind(conn, table, key_id=key_id, after=after, max_count=batch_rows):
        after, found = rows[-1]["id"], found + len(rows)
        contexts = await context_of(conn, table, [row["id"] for row in rows], places)
        old: list[Any] = []
        new: list[dict[str, str | None]] = []
        for row in rows:
            try:
                made = {
                    column: _renewed(keyring, row[column], contexts.get((row["id"], column)))
                    for column in table.columns
                }
            except SecretUnreadable as exc:
                column = next(c for c in table.columns if key_id_of(row[c] or "") != key_id)
                bad.append(Unreadable(table.name, column, row["id"], exc.message))
                continue
            old.append(row)
            new.append(made)
        if old:
            async with conn.transaction():
                count = await write_batch(conn, table, key_id=key_id, old=old, new=new)
            changed += count
            progress(count)
    return found, changed, bad


def _renewed(keyring: Keyring, value: str | None, context: str | None) -> str | None:
    if value is None or key_id_of(value) is None:
        return value
    if context is None:
        raise SecretUnreadable("what the value belongs to is gone")
    return keyring.encrypt(keyring.decrypt(value, context=context), context=context)


def renew_file(path: Path, keyring: Keyring) -> bool:
    """Make the file of the first API key anew if an older key made it; say whether it was."""
    try:
        sealed = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    if key_id_of(sealed) == keyring.key_id:
        return False
    opened = keyring.decrypt(sealed, context=BOOTSTRAP_CONTEXT)
    write_private(path, keyring.encrypt(opened, context=BOOTSTRAP_CONTEXT).encode())
    return True


async def remove_keys(conn: Connection, path: Path, *, key_ids: set[str]) -> list[str]:
    """Take keys out of a key file, unless a row still needs one; return the ids taken out.

    Writers of the tables wait for the moment it takes, so that nothing made with such a key
    can be on its way. Raises KeyStillNeeded, naming the columns.
    """
    async with conn.transaction():
        await conn.execute(_LOCK_TIMEOUT)
        counts: list[KeyCount] = []
        for table in await secret_tables(conn):
            await conn.execute(_LOCK.format(table=quoted(table.name)))
            counts += await count_table(conn, table)
        needed = [one for one in counts if one.key_id in key_ids]
        if needed:
            raise KeyStillNeeded(
                "still needed by "
                + ", ".join(f"{n.rows} rows of {n.table}.{n.column} ({n.key_id})" for n in needed)
                + ": `helix secrets rotate` makes them anew"
            )
        keys = read_keys(path)
        kept = keys[:1]
        kept += [key for key in keys[1:] if id_of_key(key) not in key_ids]
        write_keys(path, kept)
    return [id_of_key(key) for key in keys if key not in kept]
