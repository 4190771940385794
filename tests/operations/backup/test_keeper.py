"""The log is archived before PostgreSQL may forget it, and trouble is seen and passes."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helix.core.config import Settings, load_settings
from helix.core.crypto import new_key
from helix.core.db import OUTAGES, connect
from helix.core.instance import HomePaths, load_keyring, make_home, write_private
from helix.operations.backup.archive import WalArchive, system_identifier
from helix.operations.backup.keeper import WalKeeper, read_trouble
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.moments import archive_now
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.state import backup_health
from helix.operations.backup.wal import Segment
from helix.operations.postgres_programs import Identity, Programs
from helix.operations.postgres_server import EmbeddedPostgres
from tests.conftest import HOME_PREFIX, roomy_place
from tests.operations.backup.conftest import quiet
from tests.operations.backup.lived import make_tables

ONE, TWO = "000000010000000000000001", "000000010000000000000002"


async def until(done: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            found = done()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


class Cluster:
    """A data directory as an archiver sees it, with nobody in it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = HomePaths(settings.home_dir).data
        self.status = self.data / "pg_wal" / "archive_status"
        self.status.mkdir(parents=True)
        (self.data / "global").mkdir()
        (self.data / "global" / "pg_control").write_bytes((7000).to_bytes(8, "little") + bytes(88))
        keys = load_keyring(settings).derived(BACKUP_PURPOSE)
        self.archive = WalArchive(settings.backup_path, "7000", keys)

    def finish(self, name: str, content: bytes = b"log") -> None:
        (self.data / "pg_wal" / name).write_bytes(content)
        (self.status / f"{name}.ready").touch()

    def confirm(self, name: str) -> None:
        (self.status / f"{name}.ready").rename(self.status / f"{name}.done")

    def ask(self, name: str) -> int:
        """Run what PostgreSQL would run for a segment; return its exit status."""
        parameter = WalKeeper(self.settings, report=quiet).parameters["archive_command"]
        command = parameter.strip("'").replace("%f", name)
        return subprocess.run(["/bin/sh", "-c", command], cwd=self.data, check=False).returncode


@pytest.fixture
def cluster(settings: Settings) -> Cluster:
    make_home(settings.home_dir)
    write_private(HomePaths(settings.home_dir).keys, f"{new_key()}\n".encode())
    return Cluster(settings)


@contextlib.asynccontextmanager
async def keeping(cluster: Cluster, said: list[str] | None = None) -> AsyncIterator[None]:
    keeper = WalKeeper(cluster.settings, report=quiet if said is None else said.append)
    us = Identity("plain", os.geteuid(), os.getegid())
    keeper.start(Programs(Path("/"), us, 18, "18"))
    try:
        yield
    finally:
        await keeper.stop()


async def test_a_segment_is_confirmed_only_when_the_archive_has_it(cluster: Cluster) -> None:
    cluster.finish(ONE, b"first")
    assert cluster.ask(ONE) == 1  # nobody is there to archive it
    async with keeping(cluster):
        assert await asyncio.to_thread(cluster.ask, ONE) == 0
        assert cluster.archive.get(ONE) == b"first"
        cluster.finish(TWO, b"second")
        cluster.finish("00000002.history", b"1\t0/1\tx\n")
        assert await asyncio.to_thread(cluster.ask, "00000002.history") == 0
        assert await asyncio.to_thread(cluster.ask, TWO) == 0
    assert cluster.archive.names() == [ONE, TWO, "00000002.history"]


async def test_a_receipt_is_of_one_run_and_goes_when_it_was_read(cluster: Cluster) -> None:
    receipts = cluster.data / "helix_receipts"
    async with keeping(cluster):
        cluster.finish(ONE)
        await until((receipts / ONE).exists)
        cluster.confirm(ONE)
        await until(lambda: not (receipts / ONE).exists())
        cluster.finish(TWO)
        await until((receipts / TWO).exists)
    assert [path.name for path in receipts.iterdir()] == [TWO]
    cluster.archive.file(TWO).unlink()
    async with keeping(cluster):
        await until(cluster.archive.file(TWO).exists)  # asked again, archived again


async def test_trouble_is_told_once_and_kept_until_it_is_over(cluster: Cluster) -> None:
    said: list[str] = []
    cluster.archive.path.parent.mkdir(parents=True)
    cluster.archive.path.write_bytes(b"in the way")
    cluster.finish(ONE)
    async with keeping(cluster, said):
        await until(lambda: read_trouble(cluster.settings.home_dir) is not None)
        assert await asyncio.to_thread(cluster.ask, ONE) == 1
        trouble = read_trouble(cluster.settings.home_dir)
        assert trouble is not None
        assert trouble.wal == ONE
        assert trouble.since <= datetime.now(UTC)
        cluster.archive.path.unlink()
    async with keeping(cluster, said):
        await until(lambda: read_trouble(cluster.settings.home_dir) is None)
    assert cluster.archive.get(ONE) == b"log"
    assert len(said) == 1
    assert "stays in pg_wal" in said[0]


def test_segments_that_vanish_from_the_middle_are_missed_but_not_pruned_ones(
    cluster: Cluster,
) -> None:
    (cluster.data / "PG_VERSION").write_text("18\n")
    for number in range(1, 6):
        cluster.archive.put(Segment(1, number).name, b"")
    said: list[str] = []
    keeper = WalKeeper(cluster.settings, report=said.append)
    keeper._watch()
    cluster.archive.remove([Segment(1, 1).name])
    keeper._watch()
    assert said == []
    cluster.archive.file(Segment(1, 4).name).unlink()
    keeper._watch()
    keeper._watch()
    [told] = said
    assert told.startswith("1 segments, such as 000000010000000000000004, are gone")


async def test_without_keys_nothing_is_archived_and_nothing_is_confirmed(cluster: Cluster) -> None:
    HomePaths(cluster.settings.home_dir).keys.unlink()
    cluster.finish(ONE)
    async with keeping(cluster):
        await until((cluster.data / "helix_receipts" / f"{ONE}.no").exists)
        assert await asyncio.to_thread(cluster.ask, ONE) == 1
    assert cluster.archive.names() == []


async def test_nothing_is_written_through_a_link_in_the_data_directory(
    cluster: Cluster, tmp_path: Path
) -> None:
    receipts = cluster.data / "helix_receipts"
    receipts.mkdir()
    async with keeping(cluster):
        (receipts / ONE).symlink_to(tmp_path / "elsewhere")
        cluster.finish(ONE)
        cluster.finish(TWO)
        await until((receipts / TWO).exists)
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def home() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=roomy_place()))
    yield place
    shutil.rmtree(place)


async def test_postgresql_keeps_what_is_not_archived_and_gives_it_when_it_can_be(
    home: Path,
) -> None:
    settings = load_settings({}, home=home)
    make_home(home)
    keys = load_keyring(settings, create=True).derived(BACKUP_PURPOSE)
    directory = BackupDirectory(settings.backup_path, keys)
    keeper = WalKeeper(settings, report=quiet)
    server = EmbeddedPostgres(settings, durable=False, keeper=keeper)
    await server.start()
    try:
        conn = await connect(server.url)
        await make_tables(conn)
        await conn.close()
        await archive_now(server.url, settings)
        archive = WalArchive(directory.path, system_identifier(home / "postgres"), keys)
        before = archive.segments()
        aside = archive.path.with_name("aside")
        archive.path.rename(aside)
        archive.path.write_bytes(b"in the way")
        conn = await connect(server.url)
        for _ in range(3):
            await conn.execute("CREATE TABLE t AS SELECT 1; DROP TABLE t; SELECT pg_switch_wal()")
        await until(lambda: read_trouble(home) is not None)
        killed = await conn.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'"
        )
        await conn.close()  # before the server, which ends all its sessions over that
        os.kill(killed, signal.SIGKILL)
        await until(lambda: answers(server.url))
        now = datetime.now(UTC)
        health = await backup_health(server.url, directory, now=now, settings=settings)
        assert health.archiving is not None
        assert health.archiving.waiting >= 3
        assert health.archiving.trouble is not None
        assert any("cannot be archived" in alarm for alarm in health.alarms)
        archive.path.unlink()
        aside.rename(archive.path)
        async with asyncio.timeout(30):
            while read_trouble(home) is not None:  # noqa: ASYNC110 - another thread's file
                await asyncio.sleep(0.05)
        await archive_now(server.url, settings)
        numbers = [segment.number for segment in archive.segments()]
        assert numbers == list(range(before[0].number, numbers[-1] + 1))
        assert len(numbers) >= len(before) + 3
        health = await backup_health(server.url, directory, now=now, settings=settings)
        assert not any("archived" in alarm for alarm in health.alarms)
        later = now + timedelta(days=2)
        health = await backup_health(server.url, directory, now=later, settings=settings)
        assert any("no physical backup" in alarm for alarm in health.alarms)
    finally:
        await server.stop()


async def answers(url: str) -> bool:
    try:
        await (await connect(url)).close()
    except OUTAGES:
        return False
    return True
