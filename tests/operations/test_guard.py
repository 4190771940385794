"""No data is destroyed without a tested backup, unless somebody says so."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helix.core.db import Connection, connect
from helix.operations.errors import BackupNeeded
from helix.operations.guard import require_backup
from helix.operations.migrate import current, downgrade, load, upgrade
from helix.operations.scripts import concerned_table
from tests.operations.test_migrate import revision_directory

MAKES = ("CREATE TABLE a (n integer, t text);\n", "DROP TABLE a;\n")
DESTROYS = (
    "-- helix: destructive\nALTER TABLE a DROP COLUMN t;\n",
    "ALTER TABLE a ADD COLUMN t text;\n",
)


async def record(
    owner: Connection, action: str, *, hours: float, status: str = "succeeded"
) -> None:
    await owner.execute(
        "INSERT INTO backup_runs (action, status, backup_name, duration_ms, completed_at)"
        " VALUES ($1, $2, 'helix_backup_20261122_023000', 1, now() - $3 * interval '1 hour')",
        action,
        status,
        hours,
    )


async def test_destructive_revision_waits_for_a_backup_when_rows_are_concerned(
    empty_database_url: str, tmp_path: Path
) -> None:
    directory = revision_directory(tmp_path, MAKES, DESTROYS)
    asked: list[str] = []

    async def guard(_: Connection, what: str) -> None:
        asked.append(what)
        raise BackupNeeded(what, "there is no backup on record")

    await upgrade(empty_database_url, directory=directory, guard=guard)  # a is new, so empty
    assert asked == []
    await downgrade(empty_database_url, directory=directory, confirmed=True)
    conn = await connect(empty_database_url)
    await conn.execute("INSERT INTO a VALUES (1, 'kept')")
    with pytest.raises(BackupNeeded, match=r"revision 002 destroys data \(ALTER TABLE a DROP"):
        await upgrade(empty_database_url, directory=directory, guard=guard)
    assert (await current(empty_database_url, directory=directory)).revision == "001"
    assert await conn.fetchval("SELECT t FROM a") == "kept"
    await upgrade(empty_database_url, directory=directory)
    await conn.close()


async def test_backup_has_to_be_there_tested_and_of_the_last_day(owner: Connection) -> None:
    async def lacking() -> str:
        with pytest.raises(BackupNeeded) as caught:
            await require_backup(owner, "this drops 1 tables or columns with 2 rows")
        return caught.value.message

    assert "there is no backup on record: run `helix backup create` and" in await lacking()
    await record(owner, "create", hours=1, status="failed")
    assert "there is no backup on record" in await lacking()
    await record(owner, "create", hours=30)
    assert "was never restored to test it" in await lacking()
    await record(owner, "verify", hours=1, status="failed")
    assert "was never restored to test it" in await lacking()
    await record(owner, "verify", hours=1)
    assert "is 30 hours old" in await lacking()
    await owner.execute("DELETE FROM backup_runs")
    await record(owner, "create", hours=2)
    await record(owner, "verify", hours=1)
    await require_backup(owner, "anything")


def helix_db(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELIX_", "DB_"))}
    return subprocess.run(
        [sys.executable, "-m", "helix", "db", *arguments],
        env=kept | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_downgrade_that_drops_rows_is_refused_until_told_otherwise(
    database_url: str, owner: Connection
) -> None:
    await owner.execute(
        "INSERT INTO size_samples (kind, name, sampled_on, size_bytes)"
        " VALUES ('table', 'users', '2026-11-22', 1)"
    )
    refused = helix_db(database_url, "downgrade", "024", "--yes")
    assert refused.returncode == 2
    told = r"helix: this drops \d+ tables or columns with 1 rows, and there is no backup on record"
    assert re.match(told, refused.stderr)
    assert await owner.fetchval("SELECT count(*) FROM size_samples") == 1
    done = helix_db(database_url, "downgrade", "024", "--yes", "--without-backup", "--json")
    assert json.loads(done.stdout)["revision"] == "024"
    assert "there is no backup to go back to, as you asked" in done.stderr
    assert "migrated_without_backup" in done.stderr


async def test_downgrade_with_a_tested_backup_goes_ahead(
    database_url: str, owner: Connection
) -> None:
    await owner.execute(
        "INSERT INTO size_samples (kind, name, sampled_on, size_bytes)"
        " VALUES ('table', 'users', '2026-11-22', 1)"
    )
    await record(owner, "create", hours=2)
    await record(owner, "verify", hours=1)
    assert helix_db(database_url, "downgrade", "024", "--yes").returncode == 0


def test_every_revision_that_drops_on_its_way_up_says_that_it_destroys() -> None:
    silent = []
    for revision in load():
        marked = set(revision.up.destructive)
        for statement in revision.up.statements:
            plain = " ".join(statement.upper().split())
            drops = any(
                words in plain and plain.lstrip("- ").find("CREATE") != 0
                for words in ("DROP COLUMN", "DROP TABLE", "TRUNCATE ", " SET DATA TYPE ")
            )
            if drops and concerned_table(statement) and statement not in marked:
                silent.append((revision.id, plain[-100:]))
    assert silent == []
    assert [r.id for r in load() if r.up.destructive] == ["017"]
