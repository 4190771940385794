"""The only code that runs the statements of the gateway, but for the recorder's two."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from helix.core.db import Connection, Queries
from helix.gateway.errors import CallNotFound

__all__ = ["Store", "Unfinished"]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A request that is still open, and whether its gateway lives."""

    id: UUID
    user_id: UUID | None
    api_key_id: UUID | None
    project_id: UUID | None
    agent_id: str | None
    model_name: str
    created_at: datetime
    alive: bool


class Store:
    """Reads recorded calls; each method is given a connection."""

    def __init__(self) -> None:
        self._queries = Queries("helix.gateway")

    async def owns_project(self, conn: Connection, *, project_id: UUID, user_id: UUID) -> bool:
        """Say whether a project is this user's."""
        row = await self._queries.row(conn, "find_project", id=project_id, user_id=user_id)
        return row is not None

    async def owns_session(self, conn: Connection, *, session_id: UUID, user_id: UUID) -> bool:
        """Say whether a session is this user's, and live."""
        row = await self._queries.row(conn, "find_session", id=session_id, user_id=user_id)
        return row is not None

    async def unfinished(self, conn: Connection, *, lease: int, max_count: int) -> list[Unfinished]:
        """Return open requests of other gateways than the one of `lease`, the oldest first."""
        rows = await self._queries.rows(
            conn, "unfinished_calls", lease=str(lease), max_count=max_count
        )
        return [Unfinished(**dict(row)) for row in rows]

    async def server_uptime_s(self, conn: Connection) -> float:
        """Return how long the database server runs."""
        row = await self._queries.row(conn, "server_uptime")
        return 0.0 if row is None else float(row["uptime_s"])

    async def tail(
        self,
        conn: Connection,
        *,
        max_count: int,
        since: datetime | None = None,
        floor: UUID | None = None,
    ) -> list[dict[str, Any]]:
        """Return the calls that ended last, or after `since`; the oldest first.

        `floor` bounds how far back their ids are looked for.
        """
        rows = await self._queries.rows(
            conn, "tail_calls", max_count=max_count, since=since, floor=floor
        )
        return [dict(row) for row in rows]

    async def show(self, conn: Connection, *, call_id: UUID) -> dict[str, Any]:
        """Return all that is recorded of a call, by the id of its request or of an answer.

        Raises CallNotFound.
        """
        row = await self._queries.row(conn, "show_request", id=call_id)
        if row is None:
            raise CallNotFound(str(call_id))
        answers = await self._queries.rows(conn, "show_responses", request_id=row["request_id"])
        return {
            **row,
            "request_body": _json(row["request_body"]),
            "responses": [
                {**answer, "raw_response": _json(answer["raw_response"])} for answer in answers
            ],
        }


def _json(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
