"""Bringing archived requests back into the database: same ids, into their own months."""

import asyncio
import io
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from uuid import UUID

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection
from helix.operations.archive.errors import ArchiveNotFound
from helix.operations.archive.frames import Frame, open_frame, read_frames
from helix.operations.archive.store import QUERIES, file_key, list_files, path_of, user_keys
from helix.operations.archive.types import ArchiveFile, Contents, Restored, Section
from helix.operations.archive.write import FAMILY
from helix.operations.months import make_month
from helix.operations.runner import quoted
from helix.operations.steps import Opener, Steps, connected, locked, opened

__all__ = ["restore", "restore_plan"]

# Names are quoted, and come from pg_attribute or a file that opened with its key; types are looked
# up in the catalogue first.
_MAKE = "CREATE TEMPORARY TABLE {name} ({columns}) ON COMMIT DROP"
_INDEX = "CREATE INDEX ON {name} ({key})"
_UNLINK = (
    "UPDATE pg_temp.{name} AS t SET {column} = NULL WHERE t.{column} IS NOT NULL "
    "AND NOT EXISTS (SELECT FROM public.{target} AS p WHERE p.{target_column} = t.{column}{alive})"
)
_ALIVE = " AND p.status <> 'deleted'"
_DELETE_ERASED = (
    "DELETE FROM pg_temp.{name} AS t WHERE "
    "(t.user_id IS NOT NULL AND NOT EXISTS (SELECT FROM public.users AS u WHERE u.id = t.user_id "
    "AND u.status <> 'deleted')) OR EXISTS (SELECT FROM public.archive_tombstones AS d "
    "WHERE d.request_id = t.request_id AND d.user_id = t.user_id)"
)
_INSERT = (
    "INSERT INTO public.{table} ({names}) SELECT {values} FROM pg_temp.{name} AS t{private} "
    "ON CONFLICT DO NOTHING"
)
_ORDER = (
    (Section.REQUESTS, Section.REQUESTS_PRIVATE),
    (Section.REQUEST_BODIES, None),
    (Section.RESPONSES, Section.RESPONSES_PRIVATE),
    (Section.RESPONSE_BODIES, None),
)
_BODIES = {Section.REQUEST_BODIES, Section.RESPONSE_BODIES}


async def restore_plan(conn: Connection, *, from_month: date, to_month: date) -> list[ArchiveFile]:
    """Return the files a restore of these months would read; raises ArchiveNotFound."""
    found = await list_files(conn, from_month=from_month, to_month=to_month)
    files = [file for file in found if file.status == "archived"]
    if not files:
        raise ArchiveNotFound(
            f"nothing of {from_month:%Y-%m} to {to_month:%Y-%m} is in the archive; see `helix "
            "archive list`"
        )
    return files


async def restore(
    url: str,
    settings: Settings,
    keyring: Keyring,
    *,
    from_month: date,
    to_month: date,
    now: datetime,
    actor: Actor = audit.SYSTEM,
    opener: Opener = opened,
) -> list[Restored]:
    """Bring these months back, one file a transaction; return what came back, per month.

    Rows get the ids they had. What they point to that is gone is let go of; texts of erased users
    and texts that somebody deleted stay away. Retention leaves the months for
    `archive_restore_days`. Killed and repeated, nothing is doubled. Raises RetentionBusy,
    ArchiveNotFound, ArchiveDamaged, SecretUnreadable.
    """
    async with connected(url, opener) as conn:
        await locked(conn)
        files = await restore_plan(conn, from_month=from_month, to_month=to_month)
        steps = Steps(conn, settings)
        done = []
        for month in sorted({file.month for file in files}):
            for table in FAMILY:
                await steps.run(
                    f"making {month:%Y-%m} of {table}",
                    make_month,
                    table,
                    month,
                )
            keys = await user_keys(conn, keyring, month)
            counts = _Counts()
            for file in (file for file in files if file.month == month):
                incoming = _Incoming(conn, path_of(settings, file.name), file, counts)
                await incoming.bring(file_key(keyring, file), keys)
            keep_until = now + timedelta(days=settings.archive_restore_days)
            one = Restored(
                month, counts.requests, counts.responses, counts.texts, counts.withheld, keep_until
            )
            async with conn.transaction():
                await QUERIES.run(
                    conn,
                    "record_restore",
                    month=month,
                    request_count=one.request_count,
                    response_count=one.response_count,
                    text_count=one.text_count,
                    withheld_count=one.withheld_count,
                    restored_at=now,
                    keep_until=keep_until,
                )
                await audit.record(
                    conn,
                    "archive.restored",
                    actor=actor,
                    subject="month",
                    subject_name=f"{month:%Y-%m}",
                    details={"requests": one.request_count, "texts": one.text_count},
                )
            done.append(one)
        return done


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    responses: int = 0
    texts: int = 0
    withheld: int = 0


def _temporary(section: Section) -> str:
    return quoted(f"archive_in_{section.value}")


def _affected(tag: str) -> int:
    return int(tag.rpartition(" ")[2])


@dataclass(slots=True)
class _Incoming:
    """The rows of one file on their way back."""

    conn: Connection
    path: Path
    file: ArchiveFile
    counts: _Counts
    columns: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    async def bring(self, key: bytes, keys: dict[UUID, bytes]) -> None:
        """Insert the rows of the file that are not there, in one transaction."""
        frames = read_frames(self.path, key, file_id=self.file.id)
        async with self.conn.transaction():
            while (frame := await asyncio.to_thread(next, frames, None)) is not None:
                if isinstance(frame, Contents):
                    await self._make(frame)
                else:
                    await self._take(frame, keys)
            for section, private in _ORDER:
                await self._insert(section, private)

    async def _make(self, contents: Contents) -> None:
        """Make a place for each section; a column that is no more is read, and left there."""
        self.columns = contents.columns
        for section in Section:
            known = await self._known(section)
            columns = [
                f"{quoted(name)} {known.get(name, 'text')}"
                for name, _ in self.columns[section.value]
            ]
            name = _temporary(section)
            await self.conn.execute(_MAKE.format(name=name, columns=", ".join(columns)))
            await self.conn.execute(_INDEX.format(name=name, key=quoted(section.key)))

    async def _known(self, section: Section) -> dict[str, str]:
        rows = await QUERIES.rows(self.conn, "list_columns", table_name=section.table)
        return {row["name"]: row["type"] for row in rows}

    async def _take(self, frame: Frame, keys: dict[UUID, bytes]) -> None:
        section = Section(frame.head.section)
        lines = await asyncio.to_thread(open_frame, frame, keys)
        if lines is None:
            self.counts.withheld += frame.head.row_count if section in _BODIES else 0
            return
        await self.conn.copy_to_table(
            f"archive_in_{section.value}",
            source=io.BytesIO(b"\n".join([*lines, b""])),
            columns=[name for name, _ in self.columns[section.value]],
            schema_name="pg_temp",
            format="text",
        )

    async def _insert(self, section: Section, private: Section | None) -> None:
        name = _temporary(section)
        if section in _BODIES:
            gone = await self.conn.execute(_DELETE_ERASED.format(name=name))
            self.counts.withheld += _affected(gone)
        rows = await QUERIES.rows(self.conn, "list_links", table_name=section.table)
        there = {column for column, _ in self.columns[section.value]}
        for row in rows:
            if row["name"] in there:
                unlink = _UNLINK.format(
                    name=name,
                    column=quoted(row["name"]),
                    target=quoted(row["target"]),
                    target_column=quoted(row["target_column"]),
                    alive=_ALIVE if row["target"] == "users" else "",
                )
                await self.conn.execute(unlink)
        tag = await self.conn.execute(await self._statement(section, private))
        inserted = _affected(tag)
        if section is Section.REQUESTS:
            self.counts.requests += inserted
        elif section is Section.RESPONSES:
            self.counts.responses += inserted
        else:
            self.counts.texts += inserted

    async def _statement(self, section: Section, private: Section | None) -> str:
        """Return the INSERT of a section's rows with what is their users' own, where it opens."""
        known = await QUERIES.rows(self.conn, "list_columns", table_name=section.table)
        own = [name for name, _ in self.columns[section.value]]
        theirs = [] if private is None else [n for n, _ in self.columns[private.value][2:]]
        names, values = [], []
        for row in known:
            column = quoted(row["name"])
            if row["name"] in own:
                names.append(column)
                values.append(f"t.{column}")
            elif row["name"] in theirs:
                # A NULL of a column that must not be one is a text that was erased.
                default = row["default_value"]
                names.append(column)
                values.append(
                    f"coalesce(x.{column}, {default})"
                    if row["required"] and default
                    else f"x.{column}"
                )
        join = ""
        if private is not None:
            # Of a user who is no more, t.user_id is NULL by now: what was theirs stays away.
            key = quoted(section.key)
            join = (
                f" LEFT JOIN pg_temp.{_temporary(private)} AS x ON x.{key} = t.{key} "
                "AND x.user_id IS NOT DISTINCT FROM t.user_id"
            )
        return _INSERT.format(
            table=quoted(section.table),
            names=", ".join(names),
            values=", ".join(values),
            name=_temporary(section),
            private=join,
        )
