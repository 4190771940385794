"""Archiving the write-ahead log while the embedded PostgreSQL runs.

PostgreSQL's archiver gets no program of ours, no key and no way into the archive: it may run as
another user, who can read none of these. It waits for a receipt. Helix looks for finished segments
(pg_wal/archive_status/*.ready), seals them, ahead of the archiver if need be, syncs them, and then
leaves the receipt, an empty file in the data directory:

    DATA/helix_receipts/keeper                        leads to us; gone when we are
    DATA/helix_receipts/000000010000000000000003      this one is archived
    DATA/helix_receipts/000000010000000000000004.no   not now: it is asked for again

So PostgreSQL keeps every segment until the archive has it, and says in pg_stat_archiver what it
waits for. Without Helix there is no PostgreSQL: nothing is archived by nobody.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from helix.core.config import Settings
from helix.core.errors import HelixError
from helix.core.instance import HomePaths, load_keyring, write_private
from helix.core.log import get_log
from helix.operations.backup.archive import WalArchive, system_identifier
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.backup.wal import is_wal_name, number_of, segment_of
from helix.operations.postgres_programs import Programs
from helix.operations.types import Report

__all__ = [
    "ArchiveTrouble",
    "WalKeeper",
    "archive_waiting",
    "keeper_for",
    "read_trouble",
    "waiting",
]

_LOG = get_log(__name__)
_RECEIPTS = "helix_receipts"
_LOOK_S = 0.25
_RETRY_S = 5.0
_SAY_AGAIN_S = 300.0
_WATCH_S = 60.0
_AT_A_TIME = 32
_COMMAND = (
    f"n=0; until [ -e {_RECEIPTS}/%f ]; do "
    f"if [ -e {_RECEIPTS}/%f.no ] || [ ! -e {_RECEIPTS}/keeper ] || [ $n -ge 100 ]; "
    "then exit 1; fi; n=$((n+1)); sleep 0.1; done"
)
"""Run by a shell in the data directory; 1 makes PostgreSQL keep the segment and ask again."""


class ArchiveTrouble(msgspec.Struct, frozen=True):
    """Why the log cannot be archived now, and since when."""

    since: datetime
    wal: str
    reason: str


def _trouble_file(home: Path) -> Path:
    return HomePaths(home).run / "archiving.json"


def read_trouble(home: Path) -> ArchiveTrouble | None:
    """Return what keeps a home's log from being archived, as its Helix last said; or None."""
    try:
        return msgspec.json.decode(_trouble_file(home).read_bytes(), type=ArchiveTrouble)
    except (OSError, msgspec.DecodeError):
        return None


def waiting(data: Path) -> list[str]:
    """Return the files that PostgreSQL wants archived: timelines' histories, then in order."""
    found = (data / "pg_wal" / "archive_status").glob("*.ready")
    names = [path.name.removesuffix(".ready") for path in found]
    return sorted(filter(is_wal_name, names), key=lambda name: (not name.endswith("y"), name))


def archive_waiting(settings: Settings, data: Path, names: Iterable[str]) -> int:
    """Seal these files of the stopped or running cluster in `data`; return how many.

    Raises what `WalArchive.put` does, OSError, and Misuse when there are no keys.
    """
    archive: WalArchive | None = None
    count = 0
    for name in names:
        if archive is None:
            keys = load_keyring(settings).derived(BACKUP_PURPOSE)
            archive = WalArchive(settings.backup_path, system_identifier(data), keys)
        archive.put(name, (data / "pg_wal" / name).read_bytes())
        count += 1
    return count


def keeper_for(settings: Settings, report: Report) -> "WalKeeper | None":
    """Return what archives the log of the home of `settings`, if HELIX_WAL_ARCHIVE wants it."""
    return WalKeeper(settings, report=report) if settings.wal_archive else None


class WalKeeper:
    """Archives what the PostgreSQL of one home has finished, from `start` to `stop`."""

    def __init__(self, settings: Settings, *, report: Report) -> None:
        self._settings = settings
        self._data = HomePaths(settings.home_dir).data
        self._receipts = self._data / _RECEIPTS
        self._report = report
        self._programs: Programs | None = None
        self._ending = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._trouble: ArchiveTrouble | None = None
        self._said_at = 0.0
        self._done_for: tuple[str, ...] = ()
        self._known: frozenset[str] = frozenset()
        self._watched_at = -_WATCH_S

    @property
    def parameters(self) -> dict[str, str]:
        """What PostgreSQL is told."""
        return {
            "archive_mode": "on",
            "archive_command": f"'{_COMMAND}'",
            "archive_timeout": f"{self._settings.wal_archive_timeout_s}s",
        }

    def start(self, programs: Programs) -> None:
        """Begin, before PostgreSQL does: receipts of an earlier run are void."""
        self._programs = programs
        self._ending.clear()
        with contextlib.suppress(OSError):  # a full disk must not hinder a start
            self._make_receipts()
            for left in self._receipts.iterdir():
                if left.name != "keeper":
                    left.unlink()
        if self._work is None:
            self._work = asyncio.create_task(self._keep(), name="wal keeper")

    async def stop(self) -> None:
        """End, after PostgreSQL has: its last segment is archived while it shuts down."""
        if self._work is None:
            return
        self._ending.set()
        work, self._work = self._work, None
        await asyncio.gather(work, return_exceptions=True)
        with contextlib.suppress(OSError):
            (self._receipts / "keeper").unlink()

    async def _keep(self) -> None:
        pause_s = 0.0
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause_s)
            pause_s = _LOOK_S
            try:
                if time.monotonic() - self._watched_at > _WATCH_S:
                    self._watched_at = time.monotonic()
                    await asyncio.to_thread(self._watch)
                names = waiting(self._data)
                if tuple(names) != self._done_for:
                    await asyncio.to_thread(self._archive, names)
            except (HelixError, OSError) as exc:
                self._note(names[0] if names else "", exc)
                pause_s = _RETRY_S
            except Exception as exc:  # noqa: BLE001 - the edge of a worker: it must go on
                _LOG.error("wal_keeper_failed", exc=exc)
                pause_s = _RETRY_S

    def _archive(self, names: list[str]) -> None:
        """Seal what waits, leave receipts, and take away those that were read."""
        self._make_receipts()
        held = {path.name for path in self._receipts.iterdir()} - {"keeper"}
        for name in held - set(names):
            with contextlib.suppress(FileNotFoundError):
                (self._receipts / name).unlink()
        done = [name for name in names if name in held]
        for name in [name for name in names if name not in held][:_AT_A_TIME]:
            if self._ending.is_set():
                return
            try:
                if self._has_no_keys():  # they are made by the first `helix up`, in a moment
                    self._touch(f"{name}.no")
                    return
                archive_waiting(self._settings, self._data, [name])
            except (HelixError, OSError):
                self._touch(f"{name}.no")
                raise
            self._touch(name)
            done.append(name)
        self._clear_trouble()
        self._done_for = tuple(sorted(done)) if len(done) == len(names) else ()

    def _watch(self) -> None:
        """Say when something took segments out of the middle of the archive: a gap is for ever."""
        if not (self._data / "PG_VERSION").exists():
            return
        identifier = system_identifier(self._data)
        names = frozenset(WalArchive(self._settings.backup_path, identifier, []).names())
        left = [number_of(name) for name in names & self._known if segment_of(name)]
        lost = sorted(name for name in self._known - names if segment_of(name))
        lost = [name for name in lost if left and number_of(name) > min(left)]  # prune: from below
        self._known = names
        if lost:
            _LOG.error("wal_lost", segments=lost[:10], count=len(lost))
            self._report(
                f"{len(lost)} segments, such as {lost[0]}, are gone from the archive of the log: "
                "make a new base, `helix backup create --physical`"
            )

    def _has_no_keys(self) -> bool:
        paths = HomePaths(self._settings.home_dir)
        return self._settings.secret_keys is None and not paths.keys.exists()

    def _make_receipts(self) -> None:
        if self._programs is None:
            raise RuntimeError("start it first")
        identity = self._programs.identity
        if not self._receipts.is_dir():
            self._receipts.mkdir(mode=0o700)
            os.chown(self._receipts, identity.uid, identity.gid)
        us = f"/proc/{os.getpid()}" if sys.platform == "linux" else "/"
        link = self._receipts / "keeper"
        if not link.is_symlink() or link.readlink() != Path(us):
            link.unlink(missing_ok=True)
            link.symlink_to(us)

    def _touch(self, name: str) -> None:
        # The directory may belong to another user: never write through a link it may have made.
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            os.close(os.open(self._receipts / name, flags, 0o600))

    def _note(self, name: str, exc: HelixError | OSError) -> None:
        reason = exc.message if isinstance(exc, HelixError) else (exc.strerror or str(exc))
        first = self._trouble is None
        since = datetime.now(UTC) if self._trouble is None else self._trouble.since
        self._trouble = ArchiveTrouble(since, name, reason)
        if first or time.monotonic() - self._said_at > _SAY_AGAIN_S:
            self._said_at = time.monotonic()
            _LOG.error("wal_not_archived", wal=name, reason=reason, since=since.isoformat())
            self._report(f"the log cannot be archived, and stays in pg_wal: {reason}")
        with contextlib.suppress(OSError):
            place = _trouble_file(self._settings.home_dir)
            write_private(place, msgspec.json.encode(self._trouble))

    def _clear_trouble(self) -> None:
        if self._trouble is not None:
            _LOG.warning("wal_archived_again", since=self._trouble.since.isoformat())
            self._report("the log is archived again")
        self._trouble = None
        with contextlib.suppress(OSError):
            _trouble_file(self._settings.home_dir).unlink(missing_ok=True)
