"""What the archive is made of: sections of a file, its row in the database, what a restore did."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import IntEnum
from typing import Any
from uuid import UUID

import msgspec

__all__ = [
    "PRIVATE_COLUMNS",
    "ArchiveFile",
    "Contents",
    "FileCheck",
    "Filters",
    "FrameHead",
    "Restored",
    "Section",
]


class Section(IntEnum):
    """What a frame of a file holds: rows, or the columns of them that are a user's own."""

    REQUESTS = 0
    REQUEST_BODIES = 1
    RESPONSES = 2
    RESPONSE_BODIES = 3
    REQUESTS_PRIVATE = 4
    RESPONSES_PRIVATE = 5

    @property
    def table(self) -> str:
        """The table its rows are of."""
        return _TABLES[self]

    @property
    def key(self) -> str:
        """The column that tells the rows of the table apart."""
        return _KEYS[self]

    @property
    def request_key(self) -> str:
        """The column that names the request."""
        return "id" if self in _OF_REQUESTS else "request_id"

    @property
    def private(self) -> bool:
        """Whether it is sealed with its user's own key besides."""
        return self not in {Section.REQUESTS, Section.RESPONSES}


_TABLES = {
    Section.REQUESTS: "llm_requests",
    Section.REQUESTS_PRIVATE: "llm_requests",
    Section.REQUEST_BODIES: "llm_request_bodies",
    Section.RESPONSES: "llm_responses",
    Section.RESPONSES_PRIVATE: "llm_responses",
    Section.RESPONSE_BODIES: "llm_response_bodies",
}
_KEYS = {
    Section.REQUESTS: "id",
    Section.REQUESTS_PRIVATE: "id",
    Section.REQUEST_BODIES: "request_id",
    Section.RESPONSES: "id",
    Section.RESPONSES_PRIVATE: "id",
    Section.RESPONSE_BODIES: "response_id",
}
_OF_REQUESTS = {Section.REQUESTS, Section.REQUESTS_PRIVATE}

PRIVATE_COLUMNS: dict[str, tuple[str, ...]] = {
    "llm_requests": (
        "agent_id",
        "model_params",
        "ensemble_config",
        "memory",
        "metadata",
        "idempotency_key",
        "client_request_id",
    ),
    "llm_responses": ("error", "upstream_id"),
}
"""Columns a user may have written into, which erasing the user empties; the rest are numbers."""


class Contents(msgspec.Struct, frozen=True):
    """The first frame: what the file is, and the columns of each section with their types."""

    version: int
    month: date
    columns: dict[int, list[tuple[str, str]]]


class FrameHead(msgspec.Struct, frozen=True):
    """What a frame says of itself; `user_id` is whose key seals it, None: nobody's."""

    section: int
    row_count: int
    plain_bytes: int
    user_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A row of `archive_files`."""

    id: UUID
    month: date
    name: str
    status: str
    sealed_key: str
    first_request_id: UUID | None
    last_request_id: UUID | None
    request_count: int | None
    request_body_count: int | None
    response_count: int | None
    response_body_count: int | None
    plain_bytes: int | None
    size_bytes: int | None
    sha256: bytes | None
    created_at: datetime
    archived_at: datetime | None

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Rows of the four tables."""
        return (
            self.request_count or 0,
            self.request_body_count or 0,
            self.response_count or 0,
            self.response_body_count or 0,
        )


@dataclass(frozen=True, slots=True)
class Filters:
    """Which archived requests are meant; None is all. Times are of the request."""

    from_time: datetime | None = None
    to_time: datetime | None = None
    user_id: UUID | None = None
    model: str | None = None
    request_id: UUID | None = None

    def takes(self, row: dict[str, Any]) -> bool:
        """Return whether a request is meant."""
        created_at: datetime = row["created_at"]
        return (
            (self.from_time is None or created_at >= self.from_time)
            and (self.to_time is None or created_at < self.to_time)
            and (self.user_id is None or row["user_id"] == self.user_id)
            and (self.model is None or row["model_name"] == self.model)
            and (self.request_id is None or row["id"] == self.request_id)
        )


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought back; `withheld_count` texts stay away because they were erased."""

    month: date
    request_count: int
    response_count: int
    text_count: int
    withheld_count: int
    keep_until: datetime


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file as it was found: `fault` says what is wrong with it."""

    name: str
    month: date
    size_bytes: int | None
    fault: str | None = None
