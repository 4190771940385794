"""What carries the window of recovery stays, with its log; the rest goes."""

import os
from datetime import datetime, timedelta

import pytest

from helix.operations.backup.archive import WalArchive
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.prune import Keeping, expired, prune
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.wal import Segment
from tests.operations.backup.conftest import NOW
from tests.operations.backup.test_directory import make_backup

WEEK = Keeping(days=30, keep_min=1, window_days=7)


def make_base(
    directory: BackupDirectory, at: datetime, *, number: int = 1, identifier: str = "7000"
) -> Backup:
    return make_backup(
        directory,
        at,
        method=Method.PHYSICAL,
        system_identifier=identifier,
        timeline=1,
        start_lsn=f"0/{number:X}000028",
        end_lsn=f"0/{number:X}000100",
        first_wal=Segment(1, number).name,
        ended_at=at,
    )


def ages(backups: list[Backup]) -> list[int]:
    return sorted((NOW - backup.manifest.created_at).days for backup in backups)


@pytest.mark.parametrize(
    ("have", "going"),
    [
        ([], []),
        ([400], []),  # the last one never
        ([3, 10], []),  # the older one carries the days between
        ([3, 10, 17], [17]),
        ([1, 6, 8, 9, 20, 40], [9, 20, 40]),
    ],
)
def test_physical_ones_go_when_the_window_begins_after_a_newer_one(
    directory: BackupDirectory, have: list[int], going: list[int]
) -> None:
    backups = [make_base(directory, NOW - timedelta(days=age)) for age in have]
    assert ages(expired(backups, WEEK, now=NOW)) == going


def test_logical_ones_count_for_themselves(directory: BackupDirectory) -> None:
    backups = [make_base(directory, NOW - timedelta(days=1))]
    backups += [make_backup(directory, NOW - timedelta(days=age)) for age in (40, 50)]
    assert ages(expired(backups, WEEK, now=NOW)) == [50]


def test_those_of_a_cluster_that_is_gone_go_all(directory: BackupDirectory) -> None:
    backups = [make_base(directory, NOW - timedelta(days=40), identifier="6000")]
    assert expired(backups, WEEK, now=NOW) == []  # it is all there is
    backups.append(make_base(directory, NOW - timedelta(days=1)))
    assert ages(expired(backups, WEEK, now=NOW)) == [40]


def test_the_log_goes_with_the_oldest_base_that_needs_it(directory: BackupDirectory) -> None:
    archive = WalArchive(directory.path, "7000", directory.keys)
    for number in range(1, 9):
        archive.put(Segment(1, number).name, b"")
    archive.put(Segment(1, 2).name + ".00000028.backup", b"")
    archive.put("00000002.history", b"")
    make_base(directory, NOW - timedelta(days=20), number=2)
    make_base(directory, NOW - timedelta(days=9), number=4)
    make_base(directory, NOW - timedelta(days=2), number=6)
    shown = prune(directory, WEEK, now=NOW, dry_run=True)
    assert len(archive.names()) == 10
    gone = prune(directory, WEEK, now=NOW)
    assert shown == gone
    assert ages(list(gone.backups)) == [20]
    assert gone.segments == 4  # 1, 2, 3 and the label of 2
    assert archive.segments() == [Segment(1, number) for number in range(4, 9)]
    assert "00000002.history" in archive.names()


def test_no_log_goes_while_a_backup_cannot_be_read(directory: BackupDirectory) -> None:
    archive = WalArchive(directory.path, "7000", directory.keys)
    archive.put(Segment(1, 1).name, b"")
    make_base(directory, NOW, number=5)
    bad = make_base(directory, NOW - timedelta(days=1), number=1)
    (bad.path / "manifest.json").write_bytes(b"{}")
    assert prune(directory, WEEK, now=NOW).segments == 0
    assert archive.names() == [Segment(1, 1).name]


def test_log_without_any_base_waits_for_one_but_not_for_ever(directory: BackupDirectory) -> None:
    archive = WalArchive(directory.path, "7000", directory.keys)
    for number in (1, 2):
        archive.put(Segment(1, number).name, b"")
    os.utime(archive.file(Segment(1, 1).name), (1, 1))
    assert prune(directory, WEEK, now=NOW).segments == 1
    assert archive.segments() == [Segment(1, 2)]
