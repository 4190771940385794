"""What is listed is whole; what is old goes, but never the last good ones."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helix.operations.backup.errors import (
    BackupDamaged,
    BackupKeyMissing,
    BackupNotFound,
    BackupsBusy,
)
from helix.operations.backup.manifest import BackupDirectory, check_files
from helix.operations.backup.prune import Keeping, prune
from helix.operations.backup.sealed import Keys, SealedWriter
from helix.operations.backup.types import Backup, BackupFile, Manifest, Method
from tests.operations.backup.conftest import NOW


def make_backup(
    directory: BackupDirectory, at: datetime, data: bytes = b"data", **fields: Any
) -> Backup:
    name, partial = directory.begin(at)
    with (partial / "dump.hxb").open("xb") as file:
        sealed = SealedWriter(file, directory.keys, purpose="dump")
        sealed.write(data)
        sealed.finish()
    manifest = Manifest(
        name=name,
        created_at=at,
        duration_ms=1,
        helix_version="0",
        schema_version="022",
        server_version="18.6",
        database="helix",
        database_bytes=1,
        next_xid=1,
        files=[BackupFile("dump.hxb", "dump", sealed.size_bytes, sealed.sha256)],
        **{"method": Method.LOGICAL, **fields},
    )
    return directory.publish(partial, manifest)


def names(directory: BackupDirectory) -> list[str]:
    return [backup.name for backup in directory.list()[0]]


def test_a_backup_is_named_after_its_moment_and_listed_newest_first(
    directory: BackupDirectory,
) -> None:
    make_backup(directory, NOW)
    make_backup(directory, NOW + timedelta(days=1))
    make_backup(directory, NOW)  # the name is taken: the next second
    assert names(directory) == [
        "helix_backup_20261123_023000",
        "helix_backup_20261122_023001",
        "helix_backup_20261122_023000",
    ]


def test_what_is_not_finished_is_not_listed_and_goes_with_the_next(
    directory: BackupDirectory,
) -> None:
    _, left = directory.begin(NOW)
    (left / "dump.hxb").write_bytes(b"half")
    assert directory.list() == ([], {})
    directory.begin(NOW + timedelta(days=1))
    assert not left.exists()


def test_every_flipped_byte_of_a_whole_backup_is_found(directory: BackupDirectory) -> None:
    backup = make_backup(directory, NOW, b"x" * 40)
    assert check_files(backup, directory.keys) == backup.manifest.size_bytes
    found = total = 0
    for path in sorted(backup.path.iterdir()):
        good = path.read_bytes()
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 0x20
            path.write_bytes(bad)
            total += 1
            try:
                check_files(directory.get(backup.name), directory.keys)
            except (BackupDamaged, BackupKeyMissing):
                found += 1
        path.write_bytes(good)
    assert total > 500
    assert found == total


def test_a_damaged_manifest_is_shown_as_unusable_and_not_listed(
    directory: BackupDirectory,
) -> None:
    backup = make_backup(directory, NOW)
    path = backup.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"database_bytes":1', b'"database_bytes":2'))
    backups, unusable = directory.list()
    assert backups == []
    assert "has changed" in unusable[backup.name]


def test_a_backup_under_another_name_is_refused(directory: BackupDirectory) -> None:
    backup = make_backup(directory, NOW)
    backup.path.rename(backup.path.with_name("helix_backup_20300101_000000"))
    with pytest.raises(BackupDamaged, match="under another name"):
        directory.get("helix_backup_20300101_000000")


@pytest.mark.parametrize("name", ["", "../../etc", "helix_backup_1", ".helix_backup_x.partial"])
def test_no_path_passes_for_a_name(directory: BackupDirectory, name: str) -> None:
    with pytest.raises(BackupNotFound):
        directory.get(name)


def test_old_backups_go_but_never_the_newest_ones(directory: BackupDirectory) -> None:
    for age in (100, 90, 31, 29, 1):
        make_backup(directory, NOW - timedelta(days=age))
    gone = prune(directory, Keeping(30, 1, 7), now=NOW)
    assert len(gone.backups) == 3
    assert len(names(directory)) == 2
    later = NOW + timedelta(days=400)
    assert prune(directory, Keeping(30, 2, 7), now=later).backups == ()


def test_a_damaged_backup_does_not_count_among_those_that_are_kept(
    directory: BackupDirectory,
) -> None:
    good = make_backup(directory, NOW - timedelta(days=50))
    bad = make_backup(directory, NOW)
    (bad.path / "manifest.json").write_bytes(b"{}")
    assert prune(directory, Keeping(30, 1, 7), now=NOW).backups == ()
    assert names(directory) == [good.name]


def test_a_dry_run_deletes_nothing(directory: BackupDirectory) -> None:
    make_backup(directory, NOW - timedelta(days=50))
    make_backup(directory, NOW)
    assert len(prune(directory, Keeping(30, 1, 7), now=NOW, dry_run=True).backups) == 1
    assert len(names(directory)) == 2


def test_two_writers_do_not_work_in_one_directory(directory: BackupDirectory, keys: Keys) -> None:
    other = BackupDirectory(directory.path, keys)
    with directory.locked(), pytest.raises(BackupsBusy), other.locked():
        pass
    with other.locked():
        pass


def test_only_the_owner_may_read(directory: BackupDirectory) -> None:
    backup = make_backup(directory, NOW)
    modes = {p.name: p.stat().st_mode & 0o077 for p in [directory.path, backup.path]}
    assert set(modes.values()) == {0}
    assert Path(backup.path / "manifest.json").stat().st_mode & 0o077 == 0
