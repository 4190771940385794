"""The only code that runs the statements of the gateway, but for the recorder's two."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from helix.core.db import Connection, Queries
from helix.gateway.errors import CallNotFound
from helix.gateway.types import Recorded

__all__ = ["CacheEntry", "CallFilter", "Store", "StreamSample", "Unfinished"]


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


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A row of response_cache: where the answer to a call is on record."""

    key: bytes
    user_id: UUID
    request_id: UUID
    response_id: UUID
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls are listed; `floor` and `ceiling` bound their ids, and so their time."""

    status: str | None = None
    model_name: str | None = None
    session_id: UUID | None = None
    project_id: UUID | None = None
    floor: UUID | None = None
    ceiling: UUID | None = None


class StreamSample(NamedTuple):
    """A row of streaming_analytics; field order is that of the statement."""

    id: UUID
    stream_id: str
    event_type: str
    chunk_number: int
    latency_ms: int
    tokens_delta: int
    chunks: int
    max_gap_ms: int | None
    request_id: UUID
    provider_name: str
    model_name: str
    user_id: UUID
    timestamp: datetime


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

    async def recorded(self, conn: Connection, *, request_id: UUID) -> Recorded | None:
        """Return a request that has ended, with its answer, or its last failure."""
        row = await self._queries.row(conn, "recorded_answer", request_id=request_id)
        return None if row is None else _recorded(row)

    async def cached_answer(
        self, conn: Connection, *, key: bytes, now: datetime
    ) -> Recorded | None:
        """Return the answer remembered under a key, unless its time is over or its text gone."""
        row = await self._queries.row(conn, "cached_answer", key=key, now=now)
        return None if row is None else _recorded(row)

    async def remember_answers(self, conn: Connection, entries: Sequence[CacheEntry]) -> None:
        """Remember answers; a key remembered before points at the new answer."""
        await self._queries.run(
            conn,
            "remember_answers",
            key=[entry.key for entry in entries],
            user_id=[entry.user_id for entry in entries],
            request_id=[entry.request_id for entry in entries],
            response_id=[entry.response_id for entry in entries],
            created_at=[entry.created_at for entry in entries],
            expires_at=[entry.expires_at for entry in entries],
        )

    async def trim_cache(self, conn: Connection, *, now: datetime, entries_max: int) -> None:
        """Forget answers whose time is over, and the oldest beyond `entries_max`."""
        await self._queries.run(conn, "forget_expired_answers", now=now)
        await self._queries.run(conn, "forget_oldest_answers", entries_max=entries_max)

    async def request_text(
        self, conn: Connection, *, request_id: UUID, request_type: str
    ) -> str | None:
        """Return the body of a request of this type as it was sent; None when it is not there."""
        row = await self._queries.row(
            conn, "request_text", request_id=request_id, request_type=request_type
        )
        return None if row is None else str(row["request_body"])

    async def erase_texts(self, conn: Connection, *, request_id: UUID, user_id: UUID) -> None:
        """Erase what was asked and answered in a user's call; the numbers stay."""
        await self._queries.run(
            conn, "erase_response_texts", request_id=request_id, user_id=user_id
        )
        await self._queries.run(conn, "erase_request_text", request_id=request_id, user_id=user_id)
        await self._queries.run(conn, "bury_texts", request_id=request_id, user_id=user_id)

    async def write_samples(self, conn: Connection, samples: Sequence[StreamSample]) -> None:
        """Write the arrivals of a stream, and its end."""
        columns = dict(
            zip(StreamSample._fields, map(list, zip(*samples, strict=True)), strict=True)
        )
        await self._queries.run(conn, "write_stream_samples", **columns)

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

    async def release_expired(self, conn: Connection, *, now: datetime, max_count: int) -> int:
        """Give back what calls reserve or hold past its time; return how many rows, at most twice
        `max_count`.
        """
        released = 0
        for name in ("release_expired_reservations", "release_expired_holds"):
            row = await self._queries.row(conn, name, now=now, max_count=max_count)
            released += 0 if row is None else int(row["released"])
        return released

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

    async def page(
        self,
        conn: Connection,
        *,
        wanted: CallFilter,
        before: UUID | None,
        max_count: int,
    ) -> list[dict[str, Any]]:
        """Return the calls before `before` that the role may see, the newest first."""
        rows = await self._queries.rows(
            conn,
            "list_calls",
            before=before,
            status=wanted.status,
            model_name=wanted.model_name,
            session_id=wanted.session_id,
            project_id=wanted.project_id,
            floor=wanted.floor,
            ceiling=wanted.ceiling,
            max_count=max_count,
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


def _recorded(row: Any) -> Recorded:
    values = dict(row)
    raw = values.pop("raw_response")
    return Recorded(**values, raw_response=None if raw is None else raw.encode())


def _json(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())
