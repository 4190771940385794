"""The database of any moment comes back exactly; what cannot is refused before anything moves."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from helix.core.config import Settings, load_settings
from helix.core.db import connect
from helix.core.errors import Misuse
from helix.core.instance import HomePaths
from helix.operations import postgres_programs
from helix.operations.backup.archive import WalArchive, clusters
from helix.operations.backup.errors import (
    BackupDamaged,
    RestoreTargetTaken,
    TargetOutOfRange,
    WalMissing,
)
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.moments import Moment, Recovered, restore_moment
from helix.operations.backup.ranges import chain_of, last_commit_at, recoverable
from helix.operations.backup.verify import verify
from helix.operations.backup.wal import Segment
from helix.operations.postgres_programs import find_programs
from helix.operations.postgres_server import EmbeddedPostgres
from tests.conftest import HOME_PREFIX, roomy_place
from tests.operations.backup.conftest import quiet
from tests.operations.backup.lived import Lived, Mark, live, state_of


@pytest.fixture(scope="module")
def origin() -> Iterator[Lived]:
    place = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=roomy_place()))
    yield asyncio.run(live(place / "home", commits=15))
    shutil.rmtree(place)


@pytest.fixture
def lived(origin: Lived) -> Iterator[Lived]:
    """A copy of the backups and the archive, to be damaged at will."""
    place = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=roomy_place()))
    settings = load_settings({}, home=place / "home")
    shutil.copytree(origin.settings.home_dir, place / "home", ignore=lambda *_: ["run", "log"])
    directory = BackupDirectory(settings.backup_path, origin.directory.keys)
    archive = WalArchive(directory.path, origin.archive.identifier, directory.keys)
    base = directory.get(origin.base.name)
    yield replace(origin, settings=settings, directory=directory, archive=archive, base=base)
    shutil.rmtree(place)


async def recover(
    lived: Lived, moment: Moment, *, into: Path | None = None, confirmed: bool = False
) -> Recovered:
    return await restore_moment(
        lived.settings,
        lived.directory,
        moment,
        into=into,
        base=None,
        confirmed=confirmed,
        now=datetime.now(UTC),
        report=quiet,
    )


async def found_in(settings: Settings) -> tuple[int, str]:
    server = EmbeddedPostgres(settings, durable=False)
    await server.start()
    try:
        conn = await connect(server.url)
        [reason] = await conn.fetch("SELECT reason FROM quarantines WHERE released_at IS NULL")
        assert reason["reason"].startswith("restored from helix_backup_")
        restored = "SELECT count(*) FROM audit_log WHERE operation = 'backup.restored'"
        assert await conn.fetchval(restored) == 1
        state = await state_of(conn)
        await conn.close()
    finally:
        await server.stop()
    return state


def new_home(lived: Lived, name: str) -> Path:
    return lived.settings.home_dir.with_name(name)


@pytest.mark.parametrize("kind", ["time", "position", "transaction"])
async def test_a_commit_comes_back_exactly_however_it_is_named(lived: Lived, kind: str) -> None:
    number = {"time": 3, "position": 9, "transaction": 12}[kind]
    mark: Mark = lived.marks[number]
    moment = {
        "time": Moment(at=mark.at),
        "position": Moment(lsn=mark.lsn),
        "transaction": Moment(xid=mark.xid),
    }[kind]
    home = new_home(lived, "copy")
    done = await recover(lived, moment, into=home)
    assert done.base == lived.base.name
    copy = load_settings({}, home=home)
    assert HomePaths(home).keys.read_bytes() == HomePaths(lived.settings.home_dir).keys.read_bytes()
    assert await found_in(copy) == mark.state
    with pytest.raises(RestoreTargetTaken):
        await recover(lived, moment, into=home)


async def test_a_destroyed_home_comes_back_to_a_named_point_and_then_to_the_end(
    lived: Lived,
) -> None:
    home = lived.settings.home_dir
    shutil.rmtree(home / "postgres")
    await recover(lived, Moment(name="half-way"))
    assert await found_in(lived.settings) == lived.marks[7].state
    with pytest.raises(Misuse, match="repeat it with --yes"):
        await recover(lived, Moment())
    done = await recover(lived, Moment(timeline=1), confirmed=True)
    assert done.kept is not None
    assert (Path(done.kept) / "PG_VERSION").exists()
    assert await found_in(lived.settings) == lived.marks[-1].state
    assert not list(home.glob(".restore-*"))


async def test_the_last_commit_of_the_archive_can_be_named_by_its_time(lived: Lived) -> None:
    until = last_commit_at(lived.archive, lived.archive.segments(), find_programs(lived.settings))
    assert until is not None
    assert until > lived.marks[-1].at
    home = new_home(lived, "copy")
    await recover(lived, Moment(at=until), into=home)
    assert await found_in(load_settings({}, home=home)) == lived.marks[-1].state


async def test_a_moment_outside_is_refused_with_the_range_there_is(lived: Lived) -> None:
    home = new_home(lived, "copy")
    [stretch] = recoverable(
        [lived.base], clusters(lived.directory.path, lived.directory.keys),
        find_programs(lived.settings),
    )  # fmt: skip
    assert stretch.since == lived.base.manifest.ended_at
    words = (
        f"recoverable: {stretch.since:%Y-%m-%d %H:%M:%S.%f} to {stretch.until:%Y-%m-%d %H:%M:%S}"
    )
    for at in (stretch.since - timedelta(seconds=1), stretch.until + timedelta(seconds=1)):
        with pytest.raises(TargetOutOfRange, match=words):
            await recover(lived, Moment(at=at), into=home)
    with pytest.raises(TargetOutOfRange, match=f"ends at position {stretch.until_lsn}"):
        await recover(lived, Moment(lsn=1 << 40), into=home)
    with pytest.raises(TargetOutOfRange, match="before the end of every physical backup"):
        await recover(lived, Moment(lsn=1), into=home)
    with pytest.raises(TargetOutOfRange, match="nowhere is not in the log that follows"):
        await recover(lived, Moment(name="nowhere"), into=home)
    with pytest.raises(WalMissing, match="no timeline 9"):
        await recover(lived, Moment(timeline=9), into=home)
    assert not (home / "postgres").exists()


@pytest.mark.parametrize("fault", ["dropped", "doubled", "flipped"])
async def test_a_broken_segment_is_named_before_anything_is_replaced(
    lived: Lived, fault: str
) -> None:
    segments = chain_of(lived.base, lived.archive).segments
    broken, before = segments[3], segments[2]
    file = lived.archive.file(broken.name)
    if fault == "dropped":
        file.unlink()
    elif fault == "doubled":
        file.write_bytes(lived.archive.file(before.name).read_bytes())
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
    (HomePaths(lived.settings.home_dir).data / "mark").touch()
    for moment in (Moment(), Moment(at=lived.marks[-1].at), Moment(lsn=lived.marks[-1].lsn)):
        with pytest.raises(TargetOutOfRange, match=broken.name):
            await recover(lived, moment, confirmed=True)
    assert (HomePaths(lived.settings.home_dir).data / "mark").exists()
    if fault != "dropped":
        return
    # What lies before the fault comes back all the same.
    last = [mark for mark in lived.marks if mark.lsn < before.end][-2]
    home = new_home(lived, "copy")
    await recover(lived, Moment(at=last.at), into=home)
    assert await found_in(load_settings({}, home=home)) == last.state


async def test_a_damaged_base_is_found_before_anything_is_replaced(lived: Lived) -> None:
    path = lived.base.path / "base.hxb"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    (HomePaths(lived.settings.home_dir).data / "mark").touch()
    with pytest.raises(BackupDamaged, match=r"base\.hxb"):
        await recover(lived, Moment(), confirmed=True)
    assert (HomePaths(lived.settings.home_dir).data / "mark").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run PostgreSQL as another user")
async def test_a_server_of_another_user_is_archived_and_recovered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may enter neither the home nor the archive, and read no key."""
    identities = postgres_programs._identities
    monkeypatch.setattr(
        postgres_programs, "_identities", lambda **_: identities(user_namespaces=False)
    )
    place = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=roomy_place()))
    try:
        lived = await live(place / "home", commits=4)
        await recover(lived, Moment(at=lived.marks[2].at), into=place / "copy")
        copy = load_settings({}, home=place / "copy")
        assert await found_in(copy) == lived.marks[2].state
        owners = {HomePaths(home).data.stat().st_uid for home in (place / "home", place / "copy")}
        assert os.geteuid() not in owners
    finally:
        shutil.rmtree(place)


async def test_segments_that_a_crashed_server_left_are_archived_first(lived: Lived) -> None:
    last = chain_of(lived.base, lived.archive).segments[-1]
    wal = HomePaths(lived.settings.home_dir).data / "pg_wal"
    (wal / last.name).write_bytes(lived.archive.get(last.name))
    (wal / "archive_status" / f"{last.name}.ready").touch()
    lived.archive.file(last.name).unlink()
    done = await recover(lived, Moment(at=lived.marks[-1].at), confirmed=True)
    assert lived.archive.fault(last.name) is None
    assert done.segments >= 3
    assert await found_in(lived.settings) == lived.marks[-1].state


async def test_a_physical_backup_passes_its_restore_test_and_a_broken_log_fails_it(
    lived: Lived,
) -> None:
    contents = lived.base.manifest.contents
    assert contents is not None
    assert contents.tables["lived"].rows == 100
    await verify(None, lived.settings, lived.directory, lived.base, report=quiet)
    broken = chain_of(lived.base, lived.archive).segments[2]
    lived.archive.file(broken.name).unlink()
    with pytest.raises(BackupDamaged, match=broken.name):
        await verify(None, lived.settings, lived.directory, lived.base, report=quiet)


def test_the_way_follows_the_newest_timeline_from_the_base(lived: Lived) -> None:
    last = lived.archive.segments()[-1]
    switch = f"1\t{last.number - 1 >> 8:X}/{(last.number - 1 & 0xFF) << 24 | 0x1C8:X}\twhy\n"
    lived.archive.put("00000002.history", switch.encode())
    for number in (last.number - 1, last.number, last.number + 1):
        lived.archive.put(Segment(2, number).name, b"")
    newest = chain_of(lived.base, lived.archive)
    assert newest.timeline == 2
    assert newest.segments[-4].timeline == 1
    assert newest.segments[-3:] == tuple(Segment(2, last.number + i) for i in (-1, 0, 1))
    old = chain_of(lived.base, lived.archive, timeline=1)
    assert old.segments[-1] == last
