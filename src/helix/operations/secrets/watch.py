"""What a running Helix says of secrets that it cannot read: at its start and in /health."""

import asyncio
from collections.abc import Sequence

import asyncpg

from helix.core.crypto import Keyring
from helix.core.db import OUTAGES, Connection, Database, Role
from helix.core.errors import HelixError
from helix.core.log import get_log
from helix.operations.secrets.rows import count_keys
from helix.operations.secrets.types import KeyCount

__all__ = ["SecretsWatch", "unreadable_lines"]

_log = get_log(__name__)
_EVERY_S = 10.0
_AWAY: tuple[type[BaseException], ...] = (HelixError, asyncpg.PostgresError, *OUTAGES)
_WHAT_TO_DO = {
    "provider_configs": "`helix providers key NAME` stores one again",
    "memory_peers": "`helix memory nodes remove` and `add` store one again",
    "github_credentials": "its users link GitHub again",
    "audit_seals": "`helix audit verify` cannot vouch for what they seal",
}


def unreadable_lines(counts: Sequence[KeyCount], known: Sequence[str]) -> list[str]:
    """Return a line for each column with values of keys that are not known, and what to do."""
    lines = []
    for one in counts:
        if one.key_id is not None and one.key_id not in known:
            advice = _WHAT_TO_DO.get(one.table, "store them again")
            lines.append(
                f"{one.table}.{one.column}: {one.rows} values were encrypted with key "
                f"{one.key_id}, which is not configured: put that key into HOME/keys or "
                f"HELIX_SECRET_KEYS, or, if it is lost, {advice}"
            )
    return lines


class SecretsWatch:
    """Counts, every ten seconds, the values whose key this process does not have."""

    def __init__(self, db: Database, keyring: Keyring, *, every_s: float = _EVERY_S) -> None:
        self._db, self._keyring, self._every_s = db, keyring, every_s
        self._task: asyncio.Task[None] | None = None
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        """Return what cannot be read, a line for each column and key; for /health."""
        return list(self._problems)

    async def start(self) -> None:
        """Look once, if the database is there, and go on looking in the background."""
        await self.look()
        self._task = asyncio.create_task(self._for_ever(), name="helix-secrets")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self) -> None:
        """Count now; a database that is away leaves what was known."""
        try:
            async with self._db.connection(Role.OPERATOR) as conn:
                found = await self._lines(conn)
        except _AWAY:
            return
        if found != self._problems:
            for line in found:
                _log.error("secrets_unreadable", what=line)
            self._problems = found

    async def _lines(self, conn: Connection) -> list[str]:
        counts = await count_keys(conn)
        return unreadable_lines(counts, self._keyring.key_ids)

    async def _for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()
