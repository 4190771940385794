"""Archiving: rows of a month into files, the files read again, and only then the month dropped.

Every step can be killed and is then done again: a file whose row says `writing` is thrown away; one
that says `written` is read again before its rows count as safe; the month is dropped in the
transaction that calls its files `archived`, after the database itself has found the id of each of
its rows among those that were read.
"""

import asyncio
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4

from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection
from helix.core.ids import uuid_floor
from helix.operations.archive.check import check_file
from helix.operations.archive.errors import ArchiveFailed, ArchivePlaceUnusable
from helix.operations.archive.frames import FRAME_BYTES, FrameWriter
from helix.operations.archive.store import (
    QUERIES,
    columns_of,
    file_key,
    list_files,
    make_user_keys,
    new_file_key,
    path_of,
    user_keys,
)
from helix.operations.archive.types import ArchiveFile, Contents, Section
from helix.operations.months import Month, Removed, make_month, month_start, next_month, past
from helix.operations.postgres_files import sync_directory
from helix.operations.runner import quoted
from helix.operations.steps import Steps, count_of

__all__ = ["FAMILY", "archive_due", "archive_months"]

FAMILY = ("llm_response_bodies", "llm_responses", "llm_request_bodies", "llm_requests")
"""Tables whose months go together, in the order in which they can be dropped."""
_VERSION = 1
_ROUNDS = 5
"""How often rows may turn up in a month while it is archived before the run gives up on it."""
_TABLES = (
    Section.REQUESTS,
    Section.REQUEST_BODIES,
    Section.RESPONSES,
    Section.RESPONSE_BODIES,
)
# Names are quoted, and come from pg_class and pg_attribute. Partitions are read directly: ids of
# answers do not lie in the range of their requests' ids, so the planner could not leave out the
# other months. As the owner, who sees every row.
_UNSEEN = (
    "NOT EXISTS (SELECT FROM pg_temp.archive_seen AS s "
    "WHERE s.section = {section} AND s.id = t.{key})"
)
_NEXT = (
    "SELECT min(p.id::text)::uuid AS first_id, max(p.id::text)::uuid AS last_id FROM ("
    "SELECT t.id FROM public.{part} AS t WHERE {unseen} ORDER BY t.id LIMIT $1) AS p"
)
_LEFT = "SELECT EXISTS (SELECT FROM public.{part} AS t WHERE {unseen}) AS found"
_USERS = (
    "SELECT DISTINCT t.user_id FROM public.{part} AS t "
    "WHERE t.{request_key} BETWEEN $1 AND $2 AND t.user_id IS NOT NULL AND {unseen}"
)
_COPY = (
    "SELECT {columns} FROM public.{part} AS t "
    "WHERE t.{request_key} BETWEEN $1 AND $2 AND {unseen} ORDER BY {order}"
)
_LOCK = "LOCK TABLE {parts} IN SHARE ROW EXCLUSIVE MODE"


def _part(table: str, month: date) -> str:
    return f"{table}_p{month:%Y%m}"


def _unseen(section: Section) -> str:
    of = {Section.REQUESTS_PRIVATE: 0, Section.RESPONSES_PRIVATE: 2}.get(section, section.value)
    return _UNSEEN.format(section=of, key=quoted(section.key))


async def archive_due(conn: Connection, months: list[Month], *, now: datetime) -> list[Month]:
    """Return those of these months that are not to stay because somebody brought them back."""
    rows = await QUERIES.rows(conn, "kept_months", now=now)
    kept = {row["month"] for row in rows}
    return [month for month in months if month.start not in kept]


async def archive_months(
    steps: Steps,
    settings: Settings,
    keyring: Keyring,
    months: list[Month],
    *,
    now: datetime,
    cutoff: datetime | None,
) -> Removed:
    """Archive and drop the months of requests that lie wholly before `cutoff`, oldest first.

    `months` are the partitions of llm_requests. Raises ArchiveFailed, ArchivePlaceUnusable,
    ArchiveDamaged, LocksBusy, SecretUnreadable; a month that failed is still in the database.
    """
    going = await archive_due(steps.conn, past(months, cutoff), now=now)
    rows = size = parts = 0
    for month in going:
        one = _Month(steps, settings, keyring, month.start, now)
        removed = await one.archive()
        rows += removed.row_count
        size += removed.byte_count
        parts += removed.partition_count
    return Removed(rows, size, parts)


@dataclass(frozen=True, slots=True)
class _Month:
    """The archiving of one month."""

    steps: Steps
    settings: Settings
    keyring: Keyring
    month: date
    now: datetime

    async def archive(self) -> Removed:
        """Write what is in no file yet, then drop the month; again while rows turn up in it."""
        conn = self.steps.conn
        for table in FAMILY:
            await self.steps.run(
                f"making {self.month:%Y-%m} of {table}",
                make_month,
                table,
                self.month,
            )
        await QUERIES.run(conn, "make_seen")
        await QUERIES.run(conn, "clear_seen")
        for file in await list_files(conn, from_month=self.month, to_month=self.month):
            await self._take_up(file)
        for _ in range(_ROUNDS):
            await QUERIES.run(conn, "analyze_seen")
            await self._write_all()
            removed = await self.steps.run(f"archiving {self.month:%Y-%m}", self._drop)
            if removed is not None:
                return removed
        raise ArchiveFailed(
            f"rows of {self.month:%Y-%m} turn up faster than they are archived; nothing was dropped"
        )

    async def _take_up(self, file: ArchiveFile) -> None:
        """Read a file of an earlier run again; throw away one that was not finished."""
        if file.status == "writing":
            for path in (path_of(self.settings, file.name), self._partial(file.name)):
                path.unlink(missing_ok=True)
            await QUERIES.run(self.steps.conn, "forget_file", id=file.id)
            return
        keys = await user_keys(self.steps.conn, self.keyring, self.month)
        await self._see(file, file_key(self.keyring, file), keys)

    def _partial(self, name: str) -> Path:
        path = path_of(self.settings, name)
        return path.with_name(f".{path.name}.partial")

    async def _see(self, file: ArchiveFile, key: bytes, keys: dict[UUID, bytes]) -> None:
        """Read a whole file and note the ids in it; raises ArchiveDamaged."""
        path = path_of(self.settings, file.name)
        reading = check_file(path, file, key, keys)
        while (found := await asyncio.to_thread(next, reading, None)) is not None:
            await self.steps.conn.copy_records_to_table(
                "archive_seen", records=found, columns=["section", "id"], schema_name="pg_temp"
            )

    async def _write_all(self) -> None:
        """Write files until every row of the month is in one."""
        conn, part = self.steps.conn, quoted(_part("llm_requests", self.month))
        following = _NEXT.format(part=part, unseen=_unseen(Section.REQUESTS))
        while True:
            row = await conn.fetchrow(following, self.settings.archive_file_requests)
            if row["first_id"] is None:
                break
            await self._write_file(row["first_id"], row["last_id"])
        if await self._left():  # answers or texts whose requests are in a file already
            await self._write_file(
                uuid_floor(month_start(self.month)), uuid_floor(month_start(next_month(self.month)))
            )

    async def _left(self) -> bool:
        """Return whether some row of the month is in no file that was read."""
        for section in _TABLES:
            part = quoted(_part(section.table, self.month))
            query = _LEFT.format(part=part, unseen=_unseen(section))
            if await self.steps.conn.fetchval(query):
                return True
        return False

    async def _write_file(self, first: UUID, last: UUID) -> None:
        """Write one file, sync it, read it again, and only then call it written."""
        conn, file_id = self.steps.conn, uuid4()
        name = f"{self.month:%Y-%m}/requests-{self.month:%Y-%m}-{file_id}.hxa"
        key, sealed_key = new_file_key(self.keyring, file_id)
        users: set[UUID] = set()
        for section in _TABLES:
            query = _USERS.format(
                part=quoted(_part(section.table, self.month)),
                request_key=quoted(section.request_key),
                unseen=_unseen(section),
            )
            users.update(row["user_id"] for row in await conn.fetch(query, first, last))
        keys = await make_user_keys(conn, self.keyring, self.month, sorted(users))
        await QUERIES.run(
            conn,
            "begin_file",
            id=file_id,
            month=self.month,
            name=name,
            sealed_key=sealed_key,
            key_id=self.keyring.key_id,
        )
        path, partial = path_of(self.settings, name), self._partial(name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with partial.open("xb") as output:
                written = await self._fill(output, file_id, key, keys, (first, last))
            partial.rename(path)
            sync_directory(path.parent)
            sync_directory(path.parent.parent)
        except OSError as exc:
            raise ArchivePlaceUnusable(
                f"{partial} cannot be written: {exc.strerror or exc}; nothing was dropped. Make "
                "room, or set HELIX_ARCHIVE_DIR"
            ) from exc
        counts = written.row_counts
        file = ArchiveFile(
            file_id,
            self.month,
            name,
            "writing",
            sealed_key,
            first,
            last,
            counts.get(Section.REQUESTS, 0),
            counts.get(Section.REQUEST_BODIES, 0),
            counts.get(Section.RESPONSES, 0),
            counts.get(Section.RESPONSE_BODIES, 0),
            written.plain_bytes,
            written.size_bytes,
            written.sha256,
            self.now,
            None,
        )
        await self._see(file, key, keys)
        await QUERIES.run(
            conn,
            "finish_file",
            id=file_id,
            first_request_id=first,
            last_request_id=last,
            request_count=file.request_count,
            request_body_count=file.request_body_count,
            response_count=file.response_count,
            response_body_count=file.response_body_count,
            plain_bytes=file.plain_bytes,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )

    async def _fill(
        self,
        output: BinaryIO,
        file_id: UUID,
        key: bytes,
        keys: dict[UUID, bytes],
        bounds: tuple[UUID, UUID],
    ) -> FrameWriter:
        """Copy the rows between two requests into a file, all as of one moment."""
        conn = self.steps.conn
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            columns = {section: await columns_of(conn, section) for section in Section}
            contents = Contents(
                _VERSION, self.month, {section.value: names for section, names in columns.items()}
            )
            writer = FrameWriter(output, key, file_id=file_id, contents=contents)
            for section, names in columns.items():
                order = ("user_id", section.key) if section.private else (section.key,)
                query = _COPY.format(
                    columns=", ".join(f"t.{quoted(name)}" for name, _ in names),
                    part=quoted(_part(section.table, self.month)),
                    request_key=quoted(section.request_key),
                    unseen=_unseen(section),
                    order=", ".join(f"t.{quoted(name)}" for name in order),
                )
                frames = _Cutter(section, writer, keys)
                await conn.copy_from_query(query, *bounds, output=frames.take, format="text")
                await frames.end()
        await asyncio.to_thread(writer.finish)
        return writer

    async def _drop(self, conn: Connection) -> Removed | None:
        """Drop the month's four partitions if each of their rows was read out of a file.

        Writers of that month wait from here on; nobody else does until the very end. None when a
        row has turned up meanwhile: nothing is dropped then.
        """
        parts = ", ".join(f"public.{quoted(_part(table, self.month))}" for table in FAMILY)
        await conn.execute(_LOCK.format(parts=parts))
        if await self._left():
            return None
        await QUERIES.run(conn, "close_month", month=self.month, now=self.now)
        rows = size = 0
        for table in FAMILY:
            gone = await QUERIES.row(conn, "drop_month", name=_part(table, self.month))
            size += count_of(gone, "byte_count")
            if table == "llm_requests":
                rows = count_of(gone, "row_count")
        return Removed(rows, size, len(FAMILY))


class _Cutter:
    """Cuts the rows of a section into frames, one user's at a time where they are users' own."""

    def __init__(self, section: Section, writer: FrameWriter, keys: dict[UUID, bytes]) -> None:
        self._section = section
        self._writer = writer
        self._keys = keys
        self._rest = b""
        self._lines: list[bytes] = []
        self._bytes = 0
        self._whose: bytes | None = None

    async def take(self, data: bytes) -> None:
        """Take the next piece of what the server sends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            whose = line.partition(b"\t")[0] if self._section.private else None
            if self._lines and (whose != self._whose or self._bytes >= FRAME_BYTES):
                await self.end()
            self._whose = whose
            self._lines.append(line)
            self._bytes += len(line) + 1

    async def end(self) -> None:
        """Write what was taken as a frame; compressing and encrypting run in a thread."""
        if not self._lines:
            return
        user_id, key = None, None
        if self._whose not in {None, b"\\N"}:
            user_id = UUID((self._whose or b"").decode())
            key = self._keys.get(user_id)
            if key is None:
                raise ArchiveFailed(
                    f"user {user_id} came or went while their requests were archived; nothing was "
                    "dropped, the next run tries again"
                )
        lines, self._lines, self._bytes = self._lines, [], 0
        await asyncio.to_thread(
            self._writer.frame, self._section.value, lines, user_id=user_id, key=key
        )
