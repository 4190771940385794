"""A backup is made whole or not at all, and comes back equal."""

import asyncio
import contextlib
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
import pytest

from helix.core.config import Settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, connect
from helix.core.errors import Misuse
from helix.operations.backup.clients import libpq
from helix.operations.backup.create import create_logical
from helix.operations.backup.errors import BackupDamaged, BackupFailed
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import backup_health
from helix.operations.backup.types import Backup
from helix.operations.backup.verify import compare, verify
from helix.operations.postgres_programs import find_programs
from tests.factories import make_user
from tests.operations.backup.conftest import NOW, quiet


async def make(url: str, settings: Settings, directory: BackupDirectory) -> Backup:
    return await create_logical(url, settings, directory, now=NOW, report=quiet)


async def audited(url: str, name: str) -> list[tuple[str, str, str]]:
    """Return what audit_log says was done with a backup: operation, outcome, kind of actor."""
    conn = await connect(url)
    try:
        rows = await conn.fetch(
            "SELECT operation, outcome, actor_kind FROM audit_log"
            " WHERE subject_type = 'backup' AND subject_name = $1 ORDER BY id",
            name,
        )
    finally:
        await conn.close()
    return [tuple(row) for row in rows]


def with_pg_dump(settings: Settings, place: Path, script: str) -> Settings:
    """Return settings whose pg_dump is this script, and everything else the real thing."""
    real = find_programs(settings).directory
    place.mkdir()
    for program in real.iterdir():
        if program.name != "pg_dump":
            (place / program.name).symlink_to(program)
    fake = place / "pg_dump"
    fake.write_text(f"#!/bin/sh\nREAL={real}/pg_dump\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return settings.model_copy(update={"postgres_bin": place})


async def test_a_backup_of_every_table_passes_its_restore_test(
    full_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    backup = await make(full_url, settings, directory)
    assert backup.name == "helix_backup_20261122_023000"
    assert backup.manifest.rows > 200
    await verify(full_url, settings, directory, backup, report=quiet)
    health = await backup_health(full_url, directory, now=NOW)
    assert health.last_backup_at == NOW
    assert health.last_restore_test_at is not None
    assert health.alarms == ()
    assert await audited(full_url, backup.name) == [
        ("backup.created", "done", "system"),
        ("backup.verified", "done", "system"),
    ]
    late = await backup_health(
        full_url, directory, now=health.last_restore_test_at + timedelta(days=36)
    )
    assert [alarm.partition(" was ")[0].partition(" is ")[0] for alarm in late.alarms] == [
        "the last backup",
        "the last restore test",
    ]


async def test_every_kind_of_difference_is_named(
    full_url: str, settings: Settings, directory: BackupDirectory, owner: Connection
) -> None:
    backup = await make(full_url, settings, directory)
    made = [line.partition(":")[0] for line in await compare(full_url, backup)]
    assert made == [f"table audit_log_p{datetime.now(UTC):%Y%m}", "table backup_runs"]
    await owner.execute("UPDATE llm_benchmarks SET benchmark_name = 'x' || benchmark_name")
    await make_user(owner)
    await owner.execute("CREATE TABLE stray (id int)")
    await owner.execute("ALTER TABLE projects NO FORCE ROW LEVEL SECURITY")
    await owner.execute("GRANT DELETE ON error_log TO helix_readonly")
    await owner.execute("SELECT nextval('task_timers_id_seq')")
    found = "\n".join(await compare(full_url, backup))
    for words in (
        "table llm_benchmarks: its 3 rows differ",
        "table users: has 4 rows instead of 3",
        "table stray",
        "sequence task_timers_id_seq: stands at",
        "projects",
        "helix_readonly",
    ):
        assert words in found


async def test_a_row_that_comes_while_the_dump_runs_is_in_neither_dump_nor_manifest(
    full_url: str, settings: Settings, directory: BackupDirectory, tmp_path: Path, owner: Connection
) -> None:
    script = f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    slow = with_pg_dump(settings, tmp_path / "bin", f'{script}\nexec "$REAL" "$@"')
    making = asyncio.create_task(make(full_url, slow, directory))
    while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - a program says so by a file
        await asyncio.sleep(0.01)
    await make_user(owner)
    (tmp_path / "go").touch()
    backup = await making
    assert backup.manifest.contents is not None
    assert backup.manifest.contents.tables["users"].rows == 3
    assert await owner.fetchval("SELECT count(*) FROM users") == 4


@pytest.mark.parametrize(
    "script",
    [
        '"$REAL" "$@" | head -c 20000; kill -9 $$',
        '"$REAL" "$@" | head -c 20000; exit 3',
        "exit 0",
        "echo PGDMP",
        "head -c 50000 /dev/zero",
    ],
    ids=["killed half-way", "failed half-way", "empty", "short", "no archive"],
)
async def test_a_dump_that_is_not_whole_is_not_listed_and_costs_no_good_one(
    full_url: str, settings: Settings, directory: BackupDirectory, tmp_path: Path, script: str
) -> None:
    good = await make(full_url, settings, directory)
    broken = with_pg_dump(settings, tmp_path / "bin", script)
    with pytest.raises(BackupFailed):
        await make(full_url, broken, directory)
    assert [backup.name for backup in directory.list()[0]] == [good.name]
    assert sorted(path.name for path in directory.path.iterdir()) == [".lock", good.name]
    health = await backup_health(full_url, directory, now=NOW)
    assert any("backup create` failed" in alarm for alarm in health.alarms)
    conn = await connect(full_url)
    outcomes = await conn.fetch("SELECT outcome FROM audit_log WHERE operation = 'backup.created'")
    await conn.close()
    assert sorted(row["outcome"] for row in outcomes) == ["done", "failed"]


async def test_a_person_who_throws_backups_away_is_in_the_audit(
    database_url: str, settings: Settings, tmp_path: Path
) -> None:
    key = new_key()
    directory = BackupDirectory(tmp_path / "thrown", Keyring([key]).derived(BACKUP_PURPOSE))
    directory.make()
    old, newer = [
        await create_logical(
            database_url, settings, directory, now=NOW - timedelta(days=days), report=quiet
        )
        for days in (400, 390)
    ]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HELIX_", "DB_"))}
    environment = kept | {
        "DATABASE_URL": database_url,
        "HELIX_SECRET_KEYS": key,
        "HELIX_BACKUP_DIR": str(directory.path),
        "HELIX_BACKUP_KEEP_MIN": "1",
    }
    command = [sys.executable, "-m", "helix", "backup", "prune", "--home", str(settings.home_dir)]
    for option, rows in (("--dry-run", []), ("--yes", [("command", [old.name])])):
        done = await asyncio.to_thread(
            subprocess.run, [*command, option], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.split()) == (0, [old.name]), done.stderr
        conn = await connect(database_url)
        found = await conn.fetch(
            "SELECT actor_kind, details FROM audit_log WHERE operation = 'backup.pruned'"
        )
        await conn.close()
        told = [(row["actor_kind"], row["details"]["backups"]) for row in found]
        assert told == rows
    assert [backup.name for backup in directory.list()[0]] == [newer.name]


async def test_nothing_readable_is_in_the_files(
    full_url: str, settings: Settings, directory: BackupDirectory, owner: Connection
) -> None:
    await make_user(owner, username="canary-7f3a9c")
    backup = await make(full_url, settings, directory)
    for path in backup.path.iterdir():
        assert b"canary-7f3a9c" not in path.read_bytes()


async def test_a_damaged_backup_fails_its_test_before_anything_is_restored(
    database_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    backup = await make(database_url, settings, directory)
    path = backup.path / "dump.hxb"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackupDamaged):
        await verify(database_url, settings, directory, backup, report=quiet)


async def test_a_manifest_survives_being_written_and_read(
    full_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    backup = await make(full_url, settings, directory)
    again = directory.get(backup.name)
    assert msgspec.json.encode(again.manifest) == msgspec.json.encode(backup.manifest)


def test_the_password_stays_out_of_the_command_line() -> None:
    plain, environment = libpq("postgresql://helix:p%40ss@db.example:5433/helix?sslmode=require")
    assert plain == "postgresql://helix@db.example:5433/helix?sslmode=require"
    assert environment["PGPASSWORD"] == "p@ss"
    plain, environment = libpq("postgresql://helix@/helix?host=/run/helix&password=secret")
    assert plain == "postgresql://helix@/helix?host=/run/helix"
    assert environment["PGPASSWORD"] == "secret"


async def test_a_login_that_may_not_see_all_rows_is_refused(
    full_url: str, settings: Settings, directory: BackupDirectory
) -> None:
    admin = await connect(full_url)
    try:
        with contextlib.suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            await admin.execute("CREATE ROLE short_sighted LOGIN")
        await admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO short_sighted")
        await admin.execute("GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO short_sighted")
    finally:
        await admin.close()
    url = full_url.replace("helix@", "short_sighted@", 1)
    with pytest.raises(Misuse, match="might not see every row"):
        await make(url, settings, directory)
    assert directory.list() == ([], {})
