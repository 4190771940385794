"""Running the steps of a revision, and recording each with what it did.

A step is one transaction together with its row in helix_migrations. Its statements wait for locks
only briefly and the whole step is tried again, so that the queries queueing behind a blocked ALTER
TABLE get through in between.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from helix.core.db import OUTAGES, Connection, Queries
from helix.operations.errors import MigrationBusy, MigrationFailed, SchemaUnknown
from helix.operations.scripts import concurrent_index, created_names, read_script, summary
from helix.operations.types import (
    AppliedRevision,
    MigrationLimits,
    Report,
    Revision,
    Script,
    Step,
    Watch,
)

__all__ = ["Runner", "quoted", "read_applied"]

_QUERIES = Queries("helix.operations")
_REINDEX_COPY_ENDINGS = ("_ccnew", "_ccold")
_WAITED_FOR_LOCK = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


def quoted(name: str) -> str:
    """Return `name` as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


async def read_applied(conn: Connection) -> list[AppliedRevision]:
    """Return the rows of helix_migrations by revision; none when there is no such table."""
    found = await _QUERIES.row(conn, "find_version_table")
    if found is None or not found["found"]:
        return []
    return [
        AppliedRevision(
            id=row["revision"],
            title=row["title"],
            checksum=row["checksum"],
            state=row["state"],
            steps_done=row["steps_done"],
            applied_at=row["applied_at"],
        )
        for row in await _QUERIES.rows(conn, "list_revisions")
    ]


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs revisions on a connection that holds the migrator's lock."""

    conn: Connection
    limits: MigrationLimits
    report: Report
    watch: Watch | None

    async def finish_interrupted(self, revisions: Sequence[Revision]) -> int:
        """Finish what a killed migrator left, in its direction; returns how many are in place.

        `revisions` are all that this Helix knows and include those the database has.
        """
        applied = await read_applied(self.conn)
        left = next((row for row in applied if row.state != "applied"), None)
        if left is None:
            return len(applied)
        revision = next(revision for revision in revisions if revision.id == left.id)
        if left.checksum != revision.up.checksum:
            raise SchemaUnknown(
                f"revision {left.id} was left half done by another release, which has another "
                "text for it: finish it with that release"
            )
        self.report(f"{left.id}: going on after step {left.steps_done} of an interrupted run")
        up = left.state == "applying"
        await self.run(revision, up=up, steps_done=left.steps_done)
        return len(applied) if up else len(applied) - 1

    async def run(self, revision: Revision, *, up: bool, steps_done: int = 0) -> None:
        """Apply a revision or take it back, from step `steps_done` on."""
        script = revision.up if up else revision.down
        started = time.monotonic()
        for number in range(steps_done, len(script.steps)):
            await self._run_step(revision, script, number, up=up)
        done = "applied" if up else "taken back"
        self.report(
            f"{revision.id} {revision.title}: {done}, {len(script.statements)} statements, "
            f"{time.monotonic() - started:.1f} s"
        )

    async def _run_step(self, revision: Revision, script: Script, number: int, *, up: bool) -> None:
        step = script.steps[number]
        state = _state_after(up=up, last=number == len(script.steps) - 1)
        for attempt in range(1, self.limits.attempts + 1):
            try:
                if step.transactional:
                    async with self.conn.transaction():
                        await self._run_statements(revision, script, number, step)
                        await self._record(revision, state, number + 1)
                else:
                    await self._drop_unfinished_index(step.statements[0])
                    await self._run_statements(revision, script, number, step)
                    async with self.conn.transaction():
                        await self._record(revision, state, number + 1)
            except _WAITED_FOR_LOCK as exc:
                if attempt == self.limits.attempts:
                    raise MigrationBusy(
                        f"{script.file}: no lock within {self.limits.lock_timeout_ms} ms in "
                        f"{attempt} tries ({exc}); run it again to go on where it stopped"
                    ) from exc
                if attempt == 1:
                    self.report(f"{script.file}: waiting for a lock ({exc}); others go first")
                await asyncio.sleep(self.limits.pause_s)
            else:
                return

    async def _run_statements(
        self, revision: Revision, script: Script, step_number: int, step: Step
    ) -> None:
        before = sum(len(earlier.statements) for earlier in script.steps[:step_number])
        for number, statement in enumerate(step.statements, start=before):
            if self.watch is not None:
                await self.watch(revision.id, number)
            try:
                await self.conn.execute(statement)
            except (*_WAITED_FOR_LOCK, *OUTAGES):
                raise
            except asyncpg.PostgresError as exc:
                reason = " ".join(str(exc).split())  # with the server's detail and hint
                raise MigrationFailed(script.file, number, summary(statement), reason) from exc

    async def _record(self, revision: Revision, state: str | None, steps_done: int) -> None:
        """Write how far a revision is, in the caller's transaction; `state` None: it is gone."""
        if state is None:
            await _QUERIES.run(self.conn, "forget_revision", revision=revision.id)
            if not await read_applied(self.conn):
                await _QUERIES.run(self.conn, "drop_version_table")
            return
        for name in ("create_version_table", "comment_version_table", "grant_version_table"):
            await _QUERIES.run(self.conn, name)
        await _QUERIES.run(
            self.conn,
            "record_revision",
            revision=revision.id,
            title=revision.title,
            checksum=revision.up.checksum,
            state=state,
            steps_done=steps_done,
        )

    async def _drop_unfinished_index(self, statement: str) -> None:
        """Remove what a killed CREATE INDEX CONCURRENTLY left, so that IF NOT EXISTS builds it."""
        name = concurrent_index(statement)
        if name is None:
            return
        for row in await _QUERIES.rows(self.conn, "list_invalid_indexes"):
            if row["name"] == name:
                await self.conn.execute(f"DROP INDEX CONCURRENTLY {quoted(name)}")

    async def rebuild_invalid_indexes(self, directory: Path) -> None:
        """Rebuild Helix's invalid indexes; a copy that a killed REINDEX left is dropped."""
        invalid = await _QUERIES.rows(self.conn, "list_invalid_indexes")
        if not invalid:
            return
        paths = sorted((directory / "sql").glob("*.up.sql"))
        ours = {name for path in paths for _, name in created_names(read_script(path))}
        for row in invalid:
            name = row["name"]
            if row["table_name"] not in ours:
                continue
            if name.rstrip("0123456789").endswith(_REINDEX_COPY_ENDINGS):
                await self.conn.execute(f"DROP INDEX CONCURRENTLY {quoted(name)}")
                self.report(f"dropped {name}, left by an interrupted REINDEX")
            else:
                await self.conn.execute(f"REINDEX INDEX CONCURRENTLY {quoted(name)}")
                self.report(f"rebuilt the invalid index {name}")


def _state_after(*, up: bool, last: bool) -> str | None:
    if up:
        return "applied" if last else "applying"
    return None if last else "reverting"
