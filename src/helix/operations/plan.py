"""What a migration would do, found out by doing it in a transaction that is rolled back."""

import re
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from helix.core.db import Connection, Queries
from helix.core.sql import strip
from helix.operations.errors import MigrationFailed
from helix.operations.migrate import load, open_migrator, require_free_names, resolve, standing
from helix.operations.runner import read_applied
from helix.operations.scripts import MIGRATIONS, bare, summary
from helix.operations.types import LockTaken, MigrationLimits, PlannedStatement, Revision, Script

__all__ = ["plan", "render_plan", "static_locks"]

_QUERIES = Queries("helix.operations")
_LIMITS = MigrationLimits()
_OUTSIDE_LOCKS = (
    (r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY .*? ON (?:ONLY )?([\w.\"]+)", "ShareUpdateExclusive"),
    (r"DROP INDEX CONCURRENTLY (?:IF EXISTS )?([\w.\"]+)", "ShareUpdateExclusive"),
    (r"REINDEX .*?CONCURRENTLY ([\w.\"]+)", "ShareUpdateExclusive"),
    (r"ALTER TABLE ([\w.\"]+) DETACH PARTITION .* CONCURRENTLY", "ShareUpdateExclusive"),
    (r"VACUUM (?:\(.*?\) |ANALYZE |FREEZE )*([\w.\"]+)", "ShareUpdateExclusive"),
)
_NOT_MEASURED = "not measured"


async def plan(
    url: str, *, target: str = "head", measure: bool = True, directory: Path = MIGRATIONS
) -> list[PlannedStatement]:
    """Return the statements between the database and `target`, up or down, in order.

    With `measure` each is run on the database in one transaction that is rolled back: its locks
    are held until then, and waited for only as long as a migration would. A statement that cannot
    run in a transaction is not tried, nor is anything once a lock cannot be had.
    Raises NamesTaken, SchemaUnknown, RevisionUnknown and MigrationFailed as `upgrade` would.
    """
    async with open_migrator(url) as conn:
        revisions = load(directory)
        applied = await read_applied(conn)
        standing(applied, [revision.id for revision in revisions])
        half = [row for row in applied if row.state != "applied"]
        at = len(applied) - len(half)
        goal = resolve(target, revisions, at)
        up = goal >= at
        if up and not half:
            await require_free_names(conn, revisions[:at], revisions[at:goal])
        going = revisions[at:goal] if up else tuple(reversed(revisions[goal:at]))
        steps_done = half[0].steps_done if half and half[0].state == "applying" else 0
        planned: list[PlannedStatement] = []
        transaction = conn.transaction()
        await transaction.start()
        try:
            here = {row["oid"] for row in await _QUERIES.rows(conn, "list_relation_ids")}
            for revision in going:
                script = revision.up if up else revision.down
                found, measure = await _try_script(
                    conn, revision, script, steps_done, here, measure=measure
                )
                planned += found
                steps_done = 0
        finally:
            await transaction.rollback()
    return planned


async def _try_script(
    conn: Connection,
    revision: Revision,
    script: Script,
    steps_done: int,
    here: set[int],
    *,
    measure: bool,
) -> tuple[list[PlannedStatement], bool]:
    """Return the script's statements as tried, and whether trying goes on after it."""
    planned: list[PlannedStatement] = []
    number = sum(len(step.statements) for step in script.steps[:steps_done])
    held: set[tuple[str, str]] = set()
    for step in script.steps[steps_done:]:
        for statement in step.statements:
            tag, locks = _NOT_MEASURED, static_locks(statement)
            if step.transactional and measure:
                try:
                    async with conn.transaction():
                        tag = await conn.execute(statement)
                except asyncpg.LockNotAvailableError:
                    measure = False
                except asyncpg.PostgresError as exc:
                    what = summary(statement)
                    raise MigrationFailed(script.file, number, what, str(exc)) from exc
                else:
                    now = await _held_locks(conn, here)
                    locks = tuple(LockTaken(*lock) for lock in sorted(now - held))
                    held |= now
            planned.append(
                PlannedStatement(
                    revision.id, number, statement, locks, tag, measured=tag != _NOT_MEASURED
                )
            )
            number += 1
    return planned, measure


async def _held_locks(conn: Connection, here: set[int]) -> set[tuple[str, str]]:
    """Return the locks held now on relations that were there before; asks only if any were."""
    if not here:
        return set()
    return {
        (row["relation"], row["mode"].removesuffix("Lock"))
        for row in await _QUERIES.rows(conn, "list_held_locks")
        if row["relation_id"] in here
    }


def static_locks(statement: str) -> tuple[LockTaken, ...]:
    """Return what the documentation says a statement locks that runs outside transactions."""
    plain = strip(statement)
    for pattern, mode in _OUTSIDE_LOCKS:
        if found := re.match(pattern, plain, re.IGNORECASE):
            return (LockTaken(found.group(1).strip('"').removeprefix("public."), mode),)
    return ()


def render_plan(planned: Sequence[PlannedStatement], revisions: Sequence[Revision]) -> str:
    """Return the plan as a script: what each statement locks and touches, and the statement."""
    titles = {revision.id: revision.title for revision in revisions}
    parts: list[str] = []
    before = ""
    for statement in planned:
        if statement.revision != before:
            before = statement.revision
            parts.append(f"-- {'=' * 97}\n-- {before} {titles[before]}\n-- {'=' * 97}\n")
        locks = ", ".join(f"{lock.mode} on {lock.relation}" for lock in statement.locks)
        parts.append(
            f"-- {statement.revision}.{statement.number + 1}  locks: {locks or 'nothing held'}"
            f"  |  {statement.rows}\n{bare(statement.sql)};\n"
        )
    return "\n".join(parts)
