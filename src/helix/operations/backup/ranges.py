"""From where to where a cluster can be recovered: base backups, and the log that follows each.

A physical backup comes back as of its own end, and with the archived log at any moment after, as
far as no segment is missing. After a recovery the log forks: the copy goes on on a timeline of its
own, and its history says where it left which other.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from helix.operations.backup.archive import WalArchive
from helix.operations.backup.errors import BackupDamaged, BackupKeyMissing, WalMissing
from helix.operations.backup.types import Backup, Method
from helix.operations.backup.wal import SEGMENT_BYTES, Segment, lsn_text, parse_lsn, segment_of
from helix.operations.postgres_programs import Programs

__all__ = [
    "Chain",
    "Recoverable",
    "bases_of",
    "chain_of",
    "last_commit_at",
    "needed_from",
    "recoverable",
]

_COMMIT = re.compile(r"desc: COMMIT(?:_PREPARED)? (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")
_LOOKED_AT_MAX = 64
"""Segments that are searched for a commit, from the end: one without any is a long operation's."""
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Chain:
    """The log that follows a base, segment on segment; `fault` says why it ends before others.

    `segments` are those from the base's last one on; `timeline` is the one they lead to.
    """

    base: Backup
    timeline: int
    segments: tuple[Segment, ...]
    fault: str | None = None
    beyond: int = 0
    """Archived segments after the fault."""

    @property
    def end_lsn(self) -> int:
        """Where it ends: the base's own end when nothing follows."""
        own = parse_lsn(self.base.manifest.end_lsn or "0/0")
        return self.segments[-1].end if self.segments else own


@dataclass(frozen=True, slots=True)
class Recoverable:
    """A stretch of time that can be recovered, from `since`, the end of its oldest base.

    `until` is the last commit in the archive. `fault` says why it goes no further, although there
    is log that does.
    """

    identifier: str
    timeline: int
    since: datetime
    until: datetime
    until_lsn: str
    bases: tuple[str, ...]
    fault: str | None = field(default=None)


def bases_of(backups: Sequence[Backup], identifier: str) -> list[Backup]:
    """Return the physical backups of a cluster, newest first."""
    found = [
        backup
        for backup in backups
        if backup.manifest.method is Method.PHYSICAL
        and backup.manifest.system_identifier == identifier
    ]
    return sorted(found, key=_ended, reverse=True)


def _ended(backup: Backup) -> datetime:
    return backup.manifest.ended_at or backup.manifest.created_at


def chain_of(
    base: Backup, archive: WalArchive, *, timeline: int | None = None, check: bool = False
) -> Chain:
    """Return the log that follows `base` on the way to `timeline`, the newest if None.

    With `check` every byte is opened; without, only names are looked at. A segment that is missing
    or damaged ends the chain, and is named in its fault. Raises WalMissing when no way leads from
    the base to that timeline.
    """
    path = _path(base, archive, timeline)
    names = set(archive.names())
    number = _last_segment(base)
    newest = max((s.number for s in archive.segments() if _lies_on(s, path)), default=-1)
    segments: list[Segment] = []
    fault = None
    while number <= newest:
        segment = Segment(_timeline_at(path, number), number)
        if segment.name not in names:
            fault = f"the segment {segment.name} of the log is not in {archive.path}"
        elif check:
            fault = archive.fault(segment.name)
        if fault is not None:
            break
        segments.append(segment)
        number += 1
    return Chain(base, path[-1][0], tuple(segments), fault, max(0, newest - number))


def _last_segment(base: Backup) -> int:
    """Return the number of the segment in which a base ends; it holds those before itself."""
    return max(0, parse_lsn(base.manifest.end_lsn or "0/0") - 1) // SEGMENT_BYTES


def _path(base: Backup, archive: WalArchive, timeline: int | None) -> list[tuple[int, int]]:
    """Return the timelines that lead from a base on, each with the position where it begins."""
    own = base.manifest.timeline or 1
    histories = [int(n[:8], 16) for n in archive.names() if n.endswith(".history")]
    wanted = [timeline] if timeline is not None else sorted(histories, reverse=True)
    for number in wanted:
        if number == own or number not in histories:
            break
        switches = archive.history(number)
        left = next((switch for switch in switches if switch.timeline == own), None)
        if left is None or left.lsn < parse_lsn(base.manifest.end_lsn or "0/0"):
            continue
        after = [switch for switch in switches if switch.timeline >= own]
        later = [switch.timeline for switch in after[1:]] + [number]
        return [(own, 0), *zip(later, (switch.lsn for switch in after), strict=True)]
    if timeline not in {None, own}:
        raise WalMissing(f"no timeline {timeline} goes out from {base.name}")
    return [(own, 0)]


def _timeline_at(path: Sequence[tuple[int, int]], number: int) -> int:
    return [timeline for timeline, begin in path if begin // SEGMENT_BYTES <= number][-1]


def _lies_on(segment: Segment, path: Sequence[tuple[int, int]]) -> bool:
    return segment.timeline == _timeline_at(path, segment.number)


def last_commit_at(
    archive: WalArchive, segments: Sequence[Segment], programs: Programs
) -> datetime | None:
    """Return when the last transaction of these segments was committed; None if there is none.

    PostgreSQL's pg_waldump reads them. Raises as `WalArchive.get`.
    """
    for segment in reversed(segments[-_LOOKED_AT_MAX:]):
        with _readable(segment.name, archive.get(segment.name)) as path:
            told = subprocess.run(  # noqa: S603 - PostgreSQL's own program
                [str(programs.directory / "pg_waldump"), "--rmgr=Transaction", str(path)],
                env=_ENVIRONMENT,
                capture_output=True,
                text=True,
                check=False,  # a record that goes on in the next segment makes it fail at its end
            )
        if found := _COMMIT.findall(told.stdout):
            return max(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in found)
    return None


@contextmanager
def _readable(name: str, content: bytes) -> Iterator[Path]:
    """Give the path of a file of that name and content; where possible it is in memory only."""
    with tempfile.TemporaryDirectory(prefix="helix-wal-") as place:
        path = Path(place) / name
        if not hasattr(os, "memfd_create"):
            path.write_bytes(content)
            yield path
            return
        with os.fdopen(os.memfd_create("helix wal", os.MFD_CLOEXEC), "wb") as file:
            file.write(content)
            file.flush()
            path.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
            yield path


def recoverable(
    backups: Sequence[Backup], archives: Sequence[WalArchive], programs: Programs
) -> list[Recoverable]:
    """Return what can be recovered, newest last; by names, and the last commit by a look inside."""
    found: list[Recoverable] = []
    for archive in archives:
        ends: dict[tuple[int, int], list[Chain]] = {}
        for base in reversed(bases_of(backups, archive.identifier)):
            chain = chain_of(base, archive)
            ends.setdefault((chain.timeline, chain.end_lsn), []).append(chain)
        found += [_stretch(archive, chains, programs) for chains in ends.values()]
    return sorted(found, key=lambda stretch: stretch.until)


def _stretch(archive: WalArchive, chains: list[Chain], programs: Programs) -> Recoverable:
    oldest, last = chains[0], chains[-1]
    fault = oldest.fault
    try:
        until = last_commit_at(archive, oldest.segments, programs)
    except (BackupDamaged, BackupKeyMissing, WalMissing) as exc:
        until, fault = None, exc.message
    ended = _ended(last.base)
    return Recoverable(
        identifier=archive.identifier,
        timeline=oldest.timeline,
        since=_ended(oldest.base),
        until=ended if until is None else max(until, ended),
        until_lsn=lsn_text(oldest.end_lsn),
        bases=tuple(chain.base.name for chain in chains),
        fault=fault,
    )


def needed_from(bases: Sequence[Backup]) -> int | None:
    """Return the number of the first segment that any of these bases needs; None without any."""
    firsts = [segment_of(base.manifest.first_wal or "") for base in bases]
    return min((first.number for first in firsts if first is not None), default=None)
