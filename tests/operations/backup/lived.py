"""A home that has lived: a base backup, then transactions of which each moment is known."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helix.core.config import Settings, load_settings
from helix.core.db import Connection, connect
from helix.core.instance import load_keyring, make_home
from helix.core.sql import split_statements
from helix.operations.backup.archive import WalArchive, system_identifier
from helix.operations.backup.base import create_physical
from helix.operations.backup.keeper import WalKeeper
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.moments import archive_now, mark
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.types import Backup
from helix.operations.backup.wal import parse_lsn
from helix.operations.postgres_server import EmbeddedPostgres
from tests.conftest import SCHEMA

__all__ = ["Lived", "Mark", "live", "make_tables", "state_of"]

STATE = """
SELECT count(*) AS rows, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text AS checksum
FROM lived AS t
"""

AUDIT = """
CREATE TABLE audit_log (
    operation text, outcome text, actor_kind text, actor_id uuid, actor_key_id uuid, origin text,
    subject_type text, subject_id uuid, subject_name text, details jsonb)
"""
"""The columns of it that are written; the real one refers to half of the schema."""


@dataclass(frozen=True)
class Mark:
    """A moment after a commit, named in every way, and what the table held then."""

    at: datetime
    lsn: int
    xid: int
    state: tuple[int, str]


@dataclass(frozen=True)
class Lived:
    settings: Settings
    directory: BackupDirectory
    archive: WalArchive
    base: Backup
    marks: list[Mark]


async def make_tables(conn: Connection) -> None:
    """Make what a restore writes to; the whole schema would take most of the time of a test."""
    for statement in split_statements((SCHEMA / "instance.sql").read_text()):
        if "CREATE TABLE " in statement or "CREATE INDEX " in statement:
            await conn.execute(statement)
    await conn.execute(AUDIT)


async def state_of(conn: Connection) -> tuple[int, str]:
    row = await conn.fetchrow(STATE)
    return row["rows"], row["checksum"]


async def live(home: Path, *, commits: int, rows: int = 20, switch_every: int = 7) -> Lived:
    """Make the home, back it up, and commit; a point `half-way` lies in the middle."""
    settings = load_settings({}, home=home)
    make_home(home)
    keys = load_keyring(settings, create=True).derived(BACKUP_PURPOSE)
    directory = BackupDirectory(settings.backup_path, keys)
    keeper = WalKeeper(settings, report=lambda _: None)
    server = EmbeddedPostgres(settings, durable=False, keeper=keeper)
    await server.start()
    try:
        conn = await connect(server.url)
        await make_tables(conn)
        await conn.execute("CREATE TABLE lived (id integer PRIMARY KEY, body text)")
        await conn.execute(
            "INSERT INTO lived SELECT i, md5(i::text) FROM generate_series(1, 100) i"
        )
        base = await create_physical(
            server.url, settings, directory, now=datetime.now(UTC), report=lambda _: None
        )
        marks: list[Mark] = []
        for number in range(commits):
            marks.append(await _commit(conn, random.Random(number), rows))
            if number % switch_every == 0:
                await conn.execute("SELECT pg_switch_wal()")
            if number == commits // 2:
                await mark(server.url, settings, "half-way")
        await archive_now(server.url, settings)
        await conn.close()
    finally:
        await server.stop()
    archive = WalArchive(directory.path, system_identifier(home / "postgres"), keys)
    return Lived(settings, directory, archive, base, marks)


async def _commit(conn: Connection, chance: random.Random, rows: int) -> Mark:
    async with conn.transaction():
        xid = await conn.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await conn.execute("DELETE FROM lived WHERE id % 17 = $1", chance.randrange(17))
        await conn.execute("UPDATE lived SET body = body || 'x' WHERE id % 5 = 0")
        ids: Any = range(chance.randrange(10**8), 10**9, 1_000_003)
        await conn.executemany(
            "INSERT INTO lived VALUES ($1, $2) ON CONFLICT DO NOTHING",
            [(i, f"row {i}") for i in list(ids)[:rows]],
        )
    row = await conn.fetchrow(
        "SELECT clock_timestamp() AS at, pg_current_wal_insert_lsn()::text AS lsn"
    )
    return Mark(row["at"], parse_lsn(row["lsn"]), xid, await state_of(conn))
