"""Bringing a logical backup back: into an empty database, quarantined before anyone can see it.

What names a transaction (xid8 columns: feeds, the task stream) is meaningless in another cluster.
A new home starts its cluster above every number the data names (pg_resetwal --epoch), so that
feeds and queue go on as they were. Elsewhere those columns are set to 0 before any index or
trigger exists, positions in feeds begin anew, and every pending task is offered again.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import Connection, Queries, Role, connect
from helix.core.errors import Misuse
from helix.core.instance import HomePaths
from helix.operations.backup.clients import feed_program, libpq
from helix.operations.backup.create import DUMP_FILE, DUMP_PURPOSE
from helix.operations.backup.errors import BackupFailed, RestoreTargetTaken
from helix.operations.backup.manifest import check_files
from helix.operations.backup.sealed import Keys, unseal
from helix.operations.backup.state import quarantine
from helix.operations.backup.types import Backup, Method
from helix.operations.postgres_files import directory_argument, open_log
from helix.operations.postgres_process import exit_of
from helix.operations.postgres_programs import find_programs
from helix.operations.postgres_server import EmbeddedPostgres
from helix.operations.runner import quoted
from helix.operations.types import Report

__all__ = ["Restored", "cluster_beyond", "fill", "home_is_new", "new_cluster"]

_QUERIES = Queries("helix.operations.backup")
_EPOCH_BITS = 32
# Names are quoted, and come from pg_class.
_FORGET = "UPDATE public.{table} SET {column} = '0' WHERE {column} <> '0'"
_BEGIN_ANEW = "UPDATE public.{table} SET {column} = NULL"
_POSITIONS = {
    "memory_event_checkpoints": "last_processed_event_id",
    "memory_sync_status": "last_event_id",
    "projection_checkpoints": "last_id",
}
"""Tables that say how far a feed was read, and the id beside the transaction's number."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did: `feeds_reset` when numbers of transactions had to be forgotten."""

    rows: int
    feeds_reset: bool
    tasks_offered: int


async def fill(
    url: str,
    settings: Settings,
    backup: Backup,
    keys: Keys,
    *,
    reason: str | None,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Restored:
    """Restore `backup` into the empty database at `url`.

    Every byte is checked before the first goes in. With a `reason` the copy is quarantined; only
    a restore test, whose copy nobody can start on, passes None. Raises RestoreTargetTaken,
    BackupDamaged, BackupFailed.
    """
    if backup.manifest.method is not Method.LOGICAL:
        raise Misuse(f"{backup.name} is a physical backup: restore it into a new home, --into DIR")
    await asyncio.to_thread(check_files, backup, keys)
    conn = await connect(url, application_name="helix restore")
    try:
        if (await _QUERIES.rows(conn, "count_relations"))[0]["found"]:
            raise RestoreTargetTaken("the database to restore into is not empty")
        await _make_roles(conn)
        next_xid = (await _QUERIES.rows(conn, "next_xid"))[0]["next_xid"]
        behind = reason is not None and next_xid < backup.manifest.next_xid
        for section in ("pre-data", "data"):
            report(f"restoring {section}")
            await _restore_section(url, settings, backup, keys, section)
        if behind:
            await _forget_transactions(conn)
        if reason is not None:
            await quarantine(conn, backup=backup.name, reason=reason, actor=actor)
        report("restoring indexes, constraints and policies")
        await _restore_section(url, settings, backup, keys, "post-data")
        offered = await _restart_queue(conn) if behind else 0
        await conn.execute("ANALYZE")
    finally:
        await conn.close()
    return Restored(backup.manifest.rows, behind, offered)


async def _restore_section(
    url: str, settings: Settings, backup: Backup, keys: Keys, section: str
) -> None:
    programs = find_programs(settings)
    dsn, environment = libpq(url)
    command = [str(programs.directory / "pg_restore"), "--exit-on-error", "--no-owner"]
    command += ["--no-password", f"--section={section}", f"--dbname={dsn}"]
    with (backup.path / DUMP_FILE).open("rb") as file:
        name = f"{backup.name}/{DUMP_FILE}"
        await feed_program(
            command, environment, unseal(file, keys, purpose=DUMP_PURPOSE, name=name)
        )


async def _make_roles(conn: Connection) -> None:
    """Make Helix's roles where the cluster has none, and the login a member of them."""
    for role in Role:
        try:
            await conn.execute(f"CREATE ROLE {role.value} NOLOGIN NOINHERIT")
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            continue
        except asyncpg.InsufficientPrivilegeError as exc:
            raise Misuse(f"the login may not make the role {role.value}: {exc}") from exc
        await conn.execute(f"GRANT {role.value} TO CURRENT_USER")


async def _forget_transactions(conn: Connection) -> None:
    """Set every transaction's number to 0; there are no triggers or policies yet."""
    async with conn.transaction():
        for row in await _QUERIES.rows(conn, "list_xid_columns"):
            table, column = row["table_name"], row["column_name"]
            await conn.execute(_FORGET.format(table=quoted(table), column=quoted(column)))
            if table in _POSITIONS:
                await conn.execute(
                    _BEGIN_ANEW.format(table=quoted(table), column=quoted(_POSITIONS[table]))
                )
        await conn.execute("TRUNCATE task_stream, task_claims, task_timers")


async def _restart_queue(conn: Connection) -> int:
    async with conn.transaction():
        found = await _QUERIES.row(conn, "restart_queue")
    return int(found["offered"]) if found is not None else 0


@asynccontextmanager
async def new_cluster(
    settings: Settings, *, beyond: int, report: Report, durable: bool = True
) -> AsyncIterator[EmbeddedPostgres]:
    """Run a fresh cluster in the home of `settings` whose transactions count on above `beyond`.

    Raises RestoreTargetTaken when the home has a database already. The caller holds its lock.
    """
    data = HomePaths(settings.home_dir).data
    if data.exists() and any(data.iterdir()):
        raise RestoreTargetTaken(f"there is a database in {data} already")
    options = {} if durable else {"autovacuum": "off", "max_wal_size": "512MB"}
    server = EmbeddedPostgres(settings, report=report, durable=durable, options=options)
    await server.start()
    try:
        if durable:
            await server.stop()
            await cluster_beyond(settings, beyond)
            await server.start()
        yield server
    finally:
        await server.stop()


async def cluster_beyond(settings: Settings, beyond: int) -> None:
    """Let the stopped cluster of a home number its transactions above `beyond`.

    Sets the epoch, the upper half of a 64-bit transaction id, which nothing on the disk holds:
    PostgreSQL's documentation of pg_resetwal names this use.
    """
    programs = find_programs(settings)
    paths = HomePaths(settings.home_dir)
    epoch = (beyond >> _EPOCH_BITS) + 1
    with (
        open_log(paths.postgres_log) as log,
        directory_argument(programs, paths.data) as (name, kept),
    ):
        process = programs.start(
            "pg_resetwal",
            [f"--epoch={epoch}", "-D", name],
            end_signal=signal.SIGKILL,
            output=log,
            keep_open=kept,
        )
        status = await exit_of(process)
    if status != 0:
        raise BackupFailed(f"pg_resetwal failed ({status}): see {paths.postgres_log}")


def home_is_new(home: Path) -> bool:
    """Whether a home has no database yet."""
    data = HomePaths(home).data
    return not data.exists() or not any(data.iterdir())
