"""A segment is archived whole or not at all, once, and is what its name says."""

import os
import random
from pathlib import Path

import pytest

from helix.core.crypto import Keyring, new_key
from helix.operations.backup.archive import WalArchive, clusters
from helix.operations.backup.errors import (
    BackupDamaged,
    BackupKeyMissing,
    WalConflict,
    WalMissing,
)
from helix.operations.backup.sealed import BACKUP_PURPOSE, Keys

ONE, TWO = "000000010000000000000001", "000000010000000000000002"
CONTENT = random.Random(1).randbytes(100_000) + bytes(100_000)


@pytest.fixture
def archive(tmp_path: Path, keys: Keys) -> WalArchive:
    return WalArchive(tmp_path, "7000", keys)


def test_what_was_put_is_got_and_nothing_of_it_is_readable(archive: WalArchive) -> None:
    size_bytes = archive.put(ONE, CONTENT)
    assert archive.get(ONE) == CONTENT
    assert size_bytes == archive.file(ONE).stat().st_size < 110_000
    assert CONTENT[:20] not in archive.file(ONE).read_bytes()
    assert archive.names() == [ONE]
    assert [path.name for path in archive.path.iterdir()] == [f"{ONE}.hxw"]
    assert archive.path.stat().st_mode & 0o077 == archive.file(ONE).stat().st_mode & 0o077 == 0


def test_the_same_again_is_no_work_and_other_content_never_takes_its_place(
    archive: WalArchive,
) -> None:
    archive.put(ONE, CONTENT)
    before = archive.file(ONE).stat()
    archive.put(ONE, CONTENT)
    with pytest.raises(WalConflict, match=ONE):
        archive.put(ONE, CONTENT[:-1] + b"x")
    after = archive.file(ONE).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert archive.get(ONE) == CONTENT


def test_of_two_who_archive_at_once_the_second_finds_the_first(
    archive: WalArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def later(source: Path, target: Path) -> None:
        monkeypatch.undo()
        archive.put(ONE, b"the other's")
        link(source, target)

    monkeypatch.setattr(os, "link", later)
    with pytest.raises(WalConflict):
        archive.put(ONE, CONTENT)
    assert archive.get(ONE) == b"the other's"


def test_a_damaged_file_is_set_aside_for_the_whole_one(archive: WalArchive) -> None:
    archive.put(ONE, CONTENT)
    archive.file(ONE).write_bytes(b"bit rot")
    archive.put(ONE, CONTENT)
    assert archive.get(ONE) == CONTENT
    assert (archive.path / f".{ONE}.damaged").read_bytes() == b"bit rot"


def test_a_segment_under_the_name_of_another_does_not_open(archive: WalArchive) -> None:
    archive.put(ONE, CONTENT)
    archive.file(TWO).write_bytes(archive.file(ONE).read_bytes())
    with pytest.raises(BackupDamaged, match=TWO):
        archive.get(TWO)
    assert TWO in str(archive.fault(TWO))


def test_nor_does_that_of_another_cluster(archive: WalArchive, tmp_path: Path, keys: Keys) -> None:
    archive.put(ONE, CONTENT)
    other = WalArchive(tmp_path, "7001", keys)
    other.put(TWO, b"")
    other.file(ONE).write_bytes(archive.file(ONE).read_bytes())
    with pytest.raises(BackupDamaged):
        other.get(ONE)
    assert [one.identifier for one in clusters(tmp_path, keys)] == ["7000", "7001"]


def test_every_flipped_byte_is_found_and_the_file_is_named(archive: WalArchive) -> None:
    archive.put(ONE, b"x" * 5_000)
    good = archive.file(ONE).read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0x04
        archive.file(ONE).write_bytes(bad)
        with pytest.raises((BackupDamaged, BackupKeyMissing), match=ONE):
            archive.get(ONE)


def test_what_is_missing_and_what_another_key_sealed_is_named(
    archive: WalArchive, tmp_path: Path
) -> None:
    with pytest.raises(WalMissing, match=ONE):
        archive.get(ONE)
    archive.put(ONE, CONTENT)
    stranger = WalArchive(tmp_path, "7000", Keyring([new_key()]).derived(BACKUP_PURPOSE))
    with pytest.raises(BackupKeyMissing, match=ONE):
        stranger.get(ONE)


def test_what_a_killed_writer_left_is_not_listed(archive: WalArchive) -> None:
    archive.put(TWO, b"")
    (archive.path / f".{ONE}.4711.partial").write_bytes(b"half")
    (archive.path / ONE).write_bytes(b"no seal")
    (archive.path / "notes.hxw").write_bytes(b"")
    assert archive.names() == [TWO]


def test_a_full_disk_leaves_nothing_and_the_next_try_succeeds(
    archive: WalArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    archive.put(TWO, b"")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        archive.put(ONE, CONTENT)
    assert [path.name for path in archive.path.iterdir()] == [f"{TWO}.hxw"]
    monkeypatch.setattr(os, "fsync", sync)
    archive.put(ONE, CONTENT)
    assert archive.names() == [ONE, TWO]
