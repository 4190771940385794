"""Reading archived requests without bringing them back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection
from helix.core.ids import time_of
from helix.operations.archive.copytext import values_of
from helix.operations.archive.errors import ArchiveDamaged
from helix.operations.archive.frames import Frame, open_frame, read_frames
from helix.operations.archive.store import QUERIES, file_key, list_files, path_of, user_keys
from helix.operations.archive.types import ArchiveFile, Contents, Filters, Section

__all__ = ["files_of", "query"]

T = TypeVar("T")


async def files_of(conn: Connection, filters: Filters) -> list[ArchiveFile]:
    """Return the files that may hold such requests, oldest first, whole ones only."""
    low = filters.from_time
    high = filters.to_time
    if filters.request_id is not None:
        low = high = time_of(filters.request_id)
    found = await list_files(
        conn,
        from_month=None if low is None else low.date().replace(day=1),
        to_month=None if high is None else high.date().replace(day=1),
    )
    whole = [file for file in found if file.status != "writing"]
    if filters.request_id is None:
        return whole
    return [
        file
        for file in whole
        if file.first_request_id is not None
        and file.last_request_id is not None
        and file.first_request_id <= filters.request_id <= file.last_request_id
    ]


async def query(
    conn: Connection,
    settings: Settings,
    keyring: Keyring,
    filters: Filters,
    *,
    texts: bool = False,
    max_count: int = 100,
) -> AsyncIterator[dict[str, Any]]:
    """Give archived requests with their answers, oldest file first, `max_count` at most.

    With `texts`, also what was asked and answered. Of users who were erased the numbers are given
    without the user, and `withheld` is true: nobody can read the rest. Raises ArchiveDamaged,
    SecretUnreadable.
    """
    left = max_count
    for file in await files_of(conn, filters):
        if left <= 0:
            return
        key = file_key(keyring, file)
        chosen = None if filters.user_id is None else [filters.user_id]
        keys = await user_keys(conn, keyring, file.month, chosen)
        reading = _Reading(path_of(settings, file.name), file, key, keys, filters, texts, left)
        found = await asyncio.to_thread(reading.read)
        living = await _living(conn, {row["user_id"] for row in found if row["user_id"]})
        dead = await _tombstones(conn, file)
        for row in found:
            yield _shown(row, living, dead)
        left -= len(found)


async def _living(conn: Connection, user_ids: set[UUID]) -> set[UUID]:
    rows = await QUERIES.rows(conn, "living_users", user_ids=list(user_ids))
    return {row["id"] for row in rows}


async def _tombstones(conn: Connection, file: ArchiveFile) -> set[tuple[UUID, UUID]]:
    rows = await QUERIES.rows(
        conn, "tombstones", first_id=file.first_request_id, last_id=file.last_request_id
    )
    return {(row["request_id"], row["user_id"]) for row in rows}


def _shown(row: dict[str, Any], living: set[UUID], dead: set[tuple[UUID, UUID]]) -> dict[str, Any]:
    user_id = row["user_id"]
    if user_id is not None and (user_id not in living or (row["id"], user_id) in dead):
        row["withheld"] = True
        row.pop("request_body", None)
        for response in row["responses"]:
            response.pop("content", None)
            response.pop("raw_response", None)
    if user_id is not None and user_id not in living:
        row["user_id"] = None
        for response in row["responses"]:
            response["user_id"] = None
    return row


@dataclass(slots=True)
class _Reading:
    """One pass over one file; holds the requests that are meant, and nothing of the others."""

    path: Path
    file: ArchiveFile
    key: bytes
    keys: dict[UUID, bytes]
    filters: Filters
    texts: bool
    max_count: int
    rows: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    responses: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    columns: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    def read(self) -> list[dict[str, Any]]:
        """Return the requests with their answers, in the order of their ids."""
        take: dict[Section, Callable[[dict[str, Any]], None]] = {
            Section.REQUESTS: self._request,
            Section.RESPONSES: self._response,
            Section.REQUESTS_PRIVATE: self._request_private,
            Section.RESPONSES_PRIVATE: self._response_private,
        }
        if self.texts:
            take[Section.REQUEST_BODIES] = self._request_private
            take[Section.RESPONSE_BODIES] = self._response_body
        for section, line in self._lines(take.__contains__):
            take[section](values_of(line, self.columns[section.value]))
        for response in self.responses.values():
            self.rows[response["request_id"]]["responses"].append(response)
        return [self.rows[key] for key in sorted(self.rows)]

    def _lines(self, wanted: Callable[[Section], bool]) -> Iterator[tuple[Section, bytes]]:
        for frame in read_frames(self.path, self.key, file_id=self.file.id):
            if isinstance(frame, Contents):
                self.columns = frame.columns
            elif wanted(Section(frame.head.section)) and self._may_matter(frame):
                yield from self._opened(frame)

    def _may_matter(self, frame: Frame) -> bool:
        whose = frame.head.user_id
        return whose is None or self.filters.user_id in {None, whose}

    def _opened(self, frame: Frame) -> Iterator[tuple[Section, bytes]]:
        section = Section(frame.head.section)
        try:
            lines = open_frame(frame, self.keys)
        except ArchiveDamaged as exc:
            raise ArchiveDamaged(f"{self.path.name}: {exc.message}") from exc
        for line in lines or ():
            yield section, line

    def _request(self, row: dict[str, Any]) -> None:
        if len(self.rows) < self.max_count and self.filters.takes(row):
            self.rows[row["id"]] = row | {"responses": []}

    def _response(self, row: dict[str, Any]) -> None:
        if row["request_id"] in self.rows:
            self.responses[row["id"]] = row

    def _request_private(self, row: dict[str, Any]) -> None:
        found = self.rows.get(row.get("id") or row["request_id"])
        if found is not None:
            found.update({k: v for k, v in row.items() if k not in {"request_id", "user_id"}})

    def _response_private(self, row: dict[str, Any]) -> None:
        if row["id"] in self.responses:
            self.responses[row["id"]].update(row)

    def _response_body(self, row: dict[str, Any]) -> None:
        found = self.responses.get(row["response_id"])
        if found is not None:
            found["content"], found["raw_response"] = row["content"], row["raw_response"]
