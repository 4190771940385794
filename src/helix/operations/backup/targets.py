"""Where a backup is restored to: a new home, a new database, or in place of the present one."""

import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg

from helix.core import audit
from helix.core.audit import Actor
from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Queries, connect
from helix.core.errors import Misuse, Unavailable
from helix.core.instance import lock_home, make_home
from helix.operations.backup.along import bring_along
from helix.operations.backup.errors import RestoreTargetTaken
from helix.operations.backup.restore import Restored, fill, home_is_new, new_cluster
from helix.operations.backup.sealed import Keys
from helix.operations.backup.types import Backup
from helix.operations.postgres import embedded_postgres
from helix.operations.runner import quoted
from helix.operations.scratch import on_database
from helix.operations.types import Report

__all__ = ["into_database", "into_home", "replace_database"]

_QUERIES = Queries("helix.operations.backup")
_DATABASE_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_CREATE = "CREATE DATABASE {} TEMPLATE {}"
_DROP = "DROP DATABASE IF EXISTS {} WITH (FORCE)"
_RENAME = "ALTER DATABASE {} RENAME TO {}"


def _reason(backup: Backup, where: str, now: datetime) -> str:
    return f"restored from {backup.name} into {where} at {now:%Y-%m-%d %H:%M:%S} UTC"


async def into_home(
    source: Settings,
    target: Settings,
    backup: Backup,
    keys: Keys,
    *,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Restored:
    """Restore into a home that has no database; the keys of `source` go with it.

    The new cluster numbers its transactions above all that the data names. A failure leaves no
    database behind. Raises RestoreTargetTaken.
    """
    home = target.home_dir
    if not home_is_new(home):
        raise RestoreTargetTaken(f"there is a database in {home} already: name a new directory")
    make_home(home)
    with lock_home(home, "helix backup restore"):
        bring_along(source, home, report)
        async with new_cluster(target, beyond=backup.manifest.next_xid, report=report) as server:
            reason = _reason(backup, str(home), now)
            return await fill(
                server.url, target, backup, keys, reason=reason, report=report, actor=actor
            )


async def into_database(
    url: str,
    settings: Settings,
    name: str,
    backup: Backup,
    keys: Keys,
    *,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Restored:
    """Make the database `name` on the server of `url` and restore into it; dropped on failure.

    Raises Misuse when the login may not make databases, RestoreTargetTaken when there is one.
    """
    if not _DATABASE_NAME.fullmatch(name):
        raise Misuse(f"{name[:80]!r} cannot be a database's name: a-z, 0-9 and _, at most 63")
    async with _administrator(url) as conn:
        if (await _QUERIES.rows(conn, "database_exists", name=name))[0]["found"]:
            raise RestoreTargetTaken(f"there is a database {name} already: name another")
        await _create_database(conn, name)
        try:
            reason = _reason(backup, f"database {name}", now)
            return await fill(
                on_database(url, name),
                settings,
                backup,
                keys,
                reason=reason,
                report=report,
                actor=actor,
            )
        except BaseException:
            await conn.execute(_DROP.format(quoted(name)))
            raise


async def _create_database(conn: Connection, name: str) -> None:
    superuser = (await _QUERIES.rows(conn, "may_create_databases"))[0]["superuser"]
    template = "template0" if superuser else "template1"  # see scratch_database
    try:
        await conn.execute(_CREATE.format(quoted(name), template))
    except asyncpg.InsufficientPrivilegeError as exc:
        raise Misuse(f"the login may not make databases: {exc}; ALTER ROLE … CREATEDB") from exc


async def replace_database(
    settings: Settings,
    backup: Backup,
    keys: Keys,
    *,
    confirmed: bool,
    now: datetime,
    report: Report,
    actor: Actor = audit.SYSTEM,
) -> Restored:
    """Restore in place of the database these settings mean.

    The backup is brought back beside it and takes its name only when whole; the present one is
    renamed to NAME_before_YYYYMMDD_HHMMSS, not dropped. Nobody may be connected. Raises Misuse
    without `confirmed` when there is a database with anything in it, or somebody is connected.
    """
    external = settings.external_url()
    if external is not None:
        return await _swap(external, settings, backup, keys, confirmed, now, report, actor)
    home = settings.home_dir
    if home_is_new(home):
        return await into_home(
            settings, settings, backup, keys, now=now, report=report, actor=actor
        )
    make_home(home)
    with lock_home(home, "helix backup restore"):
        async with embedded_postgres(settings, report=report) as server:
            return await _swap(server.url, settings, backup, keys, confirmed, now, report, actor)


async def _swap(  # noqa: PLR0917 - the one caller passes on what it was given
    url: str,
    settings: Settings,
    backup: Backup,
    keys: Keys,
    confirmed: bool,
    now: datetime,
    report: Report,
    actor: Actor,
) -> Restored:
    conn = await _connect(url)
    try:
        name = await conn.fetchval("SELECT current_database()")
        empty = not (await _QUERIES.rows(conn, "count_relations"))[0]["found"]
    finally:
        await conn.close()
    if not empty and not confirmed:
        raise Misuse(
            f"the database {name} is not empty: repeat it with --yes to replace it (it is renamed, "
            "not dropped), or restore elsewhere with --into DIR or --database NAME"
        )
    fresh, kept = f"{name[:40]}_restoring", f"{name[:38]}_before_{now:%Y%m%d_%H%M%S}"
    async with _administrator(url) as conn:
        await _require_nobody(conn, name)
        await conn.execute(_DROP.format(quoted(fresh)))
    done = await into_database(
        url, settings, fresh, backup, keys, now=now, report=report, actor=actor
    )
    async with _administrator(url) as conn:
        await _require_nobody(conn, name)
        await conn.execute(_RENAME.format(quoted(name), quoted(kept)))
        await conn.execute(_RENAME.format(quoted(fresh), quoted(name)))
    report(f"what was there is now the database {kept}: drop it when you are sure")
    return done


async def _require_nobody(conn: Connection, name: str) -> None:
    row = (await _QUERIES.rows(conn, "list_sessions", name=name))[0]
    if row["found"]:
        raise Misuse(
            f"{row['found']} sessions use the database {name} ({row['names']}): stop Helix and "
            "whatever else works with it first"
        )


async def _connect(url: str) -> Connection:
    try:
        return await connect(url, application_name="helix restore")
    except OUTAGES as exc:
        raise Unavailable(f"the database cannot be reached: {exc}") from exc


@asynccontextmanager
async def _administrator(url: str) -> AsyncIterator[Connection]:
    """Connect beside the database itself, so that it can be made, renamed and dropped."""
    conn: Connection | None = None
    for database in ("postgres", "template1"):
        with contextlib.suppress(*OUTAGES, asyncpg.PostgresError):
            conn = await connect(on_database(url, database), application_name="helix restore")
            break
    if conn is None:
        raise Misuse("the login may connect to neither `postgres` nor `template1` on that server")
    try:
        yield conn
    finally:
        await conn.close()
