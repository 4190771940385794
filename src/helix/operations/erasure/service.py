"""Erasing a user: the account is closed, its calls end, the tombstone is kept, the content goes."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from helix.accounts import Store, UserStatus, change_status
from helix.core import audit
from helix.core.audit import Actor
from helix.core.db import Connection, Queries
from helix.operations.erasure.errors import UserBusy
from helix.operations.erasure.ledger import Erasure, add, file_of
from helix.operations.runner import quoted

__all__ = ["Erased", "close", "count_rows", "erase"]

_QUERIES = Queries("helix.operations.erasure")
_POLL_S = 0.1
# Names are quoted, and come from pg_class and pg_attribute.
_COUNT = "SELECT count(*) FROM public.{table} WHERE {column} = $1"


@dataclass(frozen=True, slots=True)
class Erased:
    """Rows that went or were unlinked, by table."""

    user_id: UUID
    rows: dict[str, int]


async def count_rows(conn: Connection, *, user_id: UUID) -> dict[str, tuple[int, bool]]:
    """Return how many rows of each table are the user's, and whether they would go."""
    found: dict[str, tuple[int, bool]] = {}
    for row in await _QUERIES.rows(conn, "count_user_rows"):
        sql = _COUNT.format(table=quoted(row["table_name"]), column=quoted(row["column_name"]))
        count = await conn.fetchval(sql, user_id)
        if count:
            before = found.get(row["table_name"], (0, False))
            found[row["table_name"]] = (before[0] + count, row["owned"])
    return found


async def close(conn: Connection, *, user_id: UUID, now: datetime) -> None:
    """Refuse the account from now on; raises UserNotFound, LastAdmin."""
    await change_status(conn, Store(), user_id=user_id, status=UserStatus.DELETED, now=now)


async def erase(
    conn: Connection,
    *,
    user_id: UUID,
    backups: Path,
    actor: Actor,
    now: datetime,
    wait_s: float,
) -> Erased:
    """Erase all that a user said, made and was; `conn` is outside a transaction.

    Three transactions. The account is closed; calls under way get `wait_s` seconds to end, else
    UserBusy is raised; then the id is written beside the backups, on the disk, and all is erased
    in one. After an end before its time, of whatever kind, it is simply called again. Raises
    UserNotFound and LastAdmin.
    """
    async with conn.transaction():
        await close(conn, user_id=user_id, now=now)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        row = await _QUERIES.row(conn, "calls_under_way", user_id=user_id)
        calls = 0 if row is None else int(row["found"])
        if not calls:
            break
        if loop.time() > deadline:
            raise UserBusy(user_id, calls)
        await asyncio.sleep(_POLL_S)
    add(file_of(backups), [Erasure("user", user_id, user_id, now)])
    async with conn.transaction():
        row = await _QUERIES.row(conn, "erase_user", user_id=user_id)
        rows: dict[str, int] = {} if row is None else dict(row["done"])
        await audit.record(
            conn,
            "user.erased",
            actor=actor,
            subject="user",
            subject_id=user_id,
            details={"rows": sum(rows.values())},
        )
    return Erased(user_id, rows)
