"""Whether the project or session that a request names is the caller's."""

import asyncio
from uuid import UUID

from helix.core.clock import Clock
from helix.core.db import OUTAGES, Database, Role
from helix.gateway.errors import NotRecorded, ProjectNotFound, SessionNotFound
from helix.gateway.store import Store

__all__ = ["Ownership"]

BELIEVED_S = 5.0
KNOWN_MAX = 10_000
ASK_TIMEOUT_S = 2.0


class Ownership:
    """Asks the database, and believes a yes for five seconds."""

    def __init__(self, db: Database, store: Store, clock: Clock) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._known: dict[tuple[UUID, UUID], float] = {}

    async def check(
        self, user_id: UUID, *, project_id: UUID | None, session_id: UUID | None
    ) -> None:
        """Raise ProjectNotFound or SessionNotFound for what is not the user's own."""
        if project_id is not None and not await self._owns(user_id, project_id, "project"):
            raise ProjectNotFound
        if session_id is not None and not await self._owns(user_id, session_id, "session"):
            raise SessionNotFound

    async def session(self, user_id: UUID, given: str) -> UUID:
        """Return the session that a request names by its id; raises SessionNotFound."""
        try:
            session_id = UUID(given)
        except ValueError as exc:
            raise SessionNotFound from exc
        await self.check(user_id, project_id=None, session_id=session_id)
        return session_id

    async def _owns(self, user_id: UUID, thing_id: UUID, kind: str) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s - self._known.get((user_id, thing_id), -BELIEVED_S) < BELIEVED_S:
            return True
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), self._db.connection(Role.RECORDER) as conn:
                if kind == "project":
                    owned = await self._store.owns_project(
                        conn, project_id=thing_id, user_id=user_id
                    )
                else:
                    owned = await self._store.owns_session(
                        conn, session_id=thing_id, user_id=user_id
                    )
        except OUTAGES as exc:
            raise NotRecorded from exc
        if owned:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[user_id, thing_id] = now_s
        return owned
