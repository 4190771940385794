"""Events as a stream that skips none and can be taken up again anywhere.

An event's place in the stream is its transaction and its id, because ids alone come to light out of
order: a long transaction may commit an event older than those already read. What a reader keeps is
therefore a mark of two snapshots: of what one sees and the other does not, it has read as far as
one event. Given back after a break, it brings what was not seen yet, and nothing twice.
"""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from helix.core.db import Connection
from helix.core.errors import BadInput
from helix.tasks.store import QUERIES, event_from, one
from helix.tasks.types import Event, TaskId

__all__ = ["EventFeed", "Mark"]

BATCH_MAX = 500
_MARK_CHARS_MAX = 20_000
_MARK = re.compile(r"(\d+:\d+:[\d,]*)/((?:\d+:\d+:[\d,]*)?)/(\d{1,20})/([0-9a-f-]{36})")
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a reader stands: it has read what `low` sees, and of what `high` sees besides that, the
    events up to (`xact`, `event_id`). Without `high` nothing besides."""

    low: str
    high: str | None = None
    xact: str = "0"
    event_id: UUID = _FIRST

    def __str__(self) -> str:
        return f"{self.low}/{self.high or ''}/{self.xact}/{self.event_id}"

    @classmethod
    def parse(cls, text: str) -> "Mark":
        """Read a mark that a client gives back; raises BadInput."""
        found = _MARK.fullmatch(text[:_MARK_CHARS_MAX])
        if found is None:
            raise BadInput("Last-Event-ID is not one of this stream")
        low, high, xact, event_id = found.groups()
        return cls(low, high or None, xact, UUID(event_id))


BEGINNING = Mark("1:1:")
"""Before every event there is."""


class EventFeed:
    """Reads events from a mark on; `task_id` narrows to one task."""

    def __init__(self, mark: Mark, *, task_id: TaskId | None = None) -> None:
        self._mark = mark
        self._task_id = task_id

    @classmethod
    async def from_now(cls, conn: Connection) -> "EventFeed":
        """Begin with what is committed after this moment."""
        row = await one(conn, "current_snapshot")
        return cls(Mark(row["snapshot"]))

    async def read(self, conn: Connection) -> list[tuple[Mark, Event]]:
        """Return what is new, in the order to be told, each with the mark after it.

        At most BATCH_MAX; fewer means that was all. As `helix_app` only the tenant's events are
        seen. `conn` must be in READ COMMITTED, as everywhere.
        """
        values: dict[str, Any] = {
            "low": self._mark.low,
            "high": self._mark.high,
            "xact": self._mark.xact,
            "event_id": self._mark.event_id,
            "max_count": BATCH_MAX,
        }
        statement = "event_feed"
        if self._task_id is not None:
            statement, values["task_id"] = "event_feed_of_task", self._task_id
        rows = await QUERIES.rows(conn, statement, **values)
        high = rows[0]["high"]
        told = [
            (Mark(self._mark.low, high, row["xact"], row["id"]), event_from(row))
            for row in rows
            if row["id"] is not None
        ]
        if len(told) < BATCH_MAX:
            self._mark = Mark(high)
            if told:
                told[-1] = (self._mark, told[-1][1])
        else:
            self._mark = told[-1][0]
        return told
