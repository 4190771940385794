"""Finding the user a command speaks of."""

from uuid import UUID

from helix.core.db import Connection
from helix.memory.errors import UserUnknown
from helix.memory.policy import as_uuid
from helix.memory.store import QUERIES

__all__ = ["find_user"]


async def find_user(conn: Connection, who: str) -> UUID:
    """Return the id of the account with this email, user name or id. Raises UserUnknown."""
    row = await QUERIES.row(conn, "user_by_name", user_id=as_uuid(who), name=who)
    if row is None:
        raise UserUnknown(who)
    return UUID(str(row["id"]))
