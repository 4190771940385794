"""The archive of the write-ahead log: each finished segment once, sealed, never overwritten.

    DIR/wal/7345…/000000010000000000000003.hxw    of the cluster with that system identifier
    DIR/wal/7345…/00000002.history.hxw            where timeline 2 begins

What a file is, is part of its key (see sealed): one under another's name does not open.
"""

import contextlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from helix.core.errors import Misuse
from helix.operations.backup.errors import (
    BackupDamaged,
    BackupKeyMissing,
    WalConflict,
    WalMissing,
)
from helix.operations.backup.sealed import Keys, SealedWriter, unseal
from helix.operations.backup.wal import Segment, Switch, is_wal_name, parse_history, segment_of
from helix.operations.postgres_files import clear_stale, sync_directory

__all__ = ["WAL_DIRECTORY", "WalArchive", "clusters", "system_identifier"]

WAL_DIRECTORY = "wal"
_SUFFIX = ".hxw"
_LEVEL = 1
"""zlib's fastest: a segment closed early is mostly zeros, and whole ones come in bursts."""


def system_identifier(data: Path) -> str:
    """Return the number that PostgreSQL gave the cluster in `data` when it was made."""
    try:
        with (data / "global" / "pg_control").open("rb") as file:
            return str(int.from_bytes(file.read(8), "little"))
    except OSError as exc:
        raise Misuse(f"{data} is not a PostgreSQL data directory: {exc.strerror}") from exc


def clusters(directory: Path, keys: Keys) -> list["WalArchive"]:
    """Return the archive of every cluster in a directory of backups."""
    place = directory / WAL_DIRECTORY
    if not place.is_dir():
        return []
    names = sorted(path.name for path in place.iterdir() if path.name.isdecimal())
    return [WalArchive(directory, name, keys) for name in names]


class WalArchive:
    """The archived log of one cluster."""

    def __init__(self, directory: Path, identifier: str, keys: Keys) -> None:
        self.path = directory / WAL_DIRECTORY / identifier
        self.identifier = identifier
        self._keys = keys

    def _purpose(self, name: str) -> str:
        return f"wal {self.identifier} {name}"

    def file(self, name: str) -> Path:
        """Return the path of what is archived under `name`."""
        return self.path / f"{name}{_SUFFIX}"

    def names(self) -> list[str]:
        """Return what is archived, by name, in order; nothing is opened."""
        try:
            files = [path.name for path in self.path.iterdir() if path.suffix == _SUFFIX]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [name.removesuffix(_SUFFIX) for name in files]
        return sorted(filter(is_wal_name, found))

    def segments(self) -> list[Segment]:
        """Return the whole segments that are archived, in order of timeline and number."""
        return sorted(s for s in map(segment_of, self.names()) if s is not None)

    def history(self, timeline: int) -> tuple[Switch, ...]:
        """Return how a timeline came about; the first has no history. Raises as `get`."""
        if timeline == 1:
            return ()
        return parse_history(self.get(f"{timeline:08X}.history").decode(errors="replace"))

    def put(self, name: str, content: bytes) -> int:
        """Archive `content` under `name`, whole and on the disk, or not at all; return its bytes.

        The same content again is no work. Other content under a name that is taken raises
        WalConflict, and leaves what is there: two clusters that were one share names. A file that
        does not open is moved aside for the whole one.
        """
        final = self.file(name)
        if final.exists() and self._is_same(name, content):
            return final.stat().st_size
        self._make()
        partial = self.path / f".{name}.{os.urandom(4).hex()}.partial"
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                sealed = SealedWriter(file, self._keys, purpose=self._purpose(name))
                sealed.write(zlib.compress(content, _LEVEL))
                sealed.finish()
            try:
                os.link(partial, final)  # unlike a rename it never takes the place of another
            except FileExistsError:
                self._is_same(name, content)
        finally:
            partial.unlink(missing_ok=True)
        sync_directory(self.path)
        return sealed.size_bytes

    def _make(self) -> None:
        if self.path.is_dir():
            return
        for directory in (self.path.parent.parent, self.path.parent, self.path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(directory.parent)

    def _is_same(self, name: str, content: bytes) -> bool:
        try:
            found = self.get(name)
        except BackupDamaged:
            self.file(name).rename(self.path / f".{name}.damaged")
            return False
        if found != content:
            raise WalConflict(
                f"{name} is archived in {self.path} with other content: another Helix writes "
                "there. Give each a HELIX_BACKUP_DIR of its own"
            )
        return True

    def get(self, name: str) -> bytes:
        """Return what was archived under `name`.

        Raises WalMissing, BackupDamaged, BackupKeyMissing, each with the name.
        """
        try:
            with self.file(name).open("rb") as file:
                return self._open(file, name)
        except FileNotFoundError as exc:
            raise WalMissing(f"the segment {name} of the log is not in {self.path}") from exc

    def _open(self, file: BinaryIO, name: str) -> bytes:
        shown = f"{self.path.parent.name}/{self.identifier}/{name}"
        packed = b"".join(unseal(file, self._keys, purpose=self._purpose(name), name=shown))
        try:
            return zlib.decompress(packed)
        except zlib.error as exc:
            raise BackupDamaged(f"{shown} was sealed, but does not unpack: {exc}") from exc

    def fault(self, name: str) -> str | None:
        """Return what is wrong with what is archived under `name`; None when it is whole."""
        try:
            self.get(name)
        except (BackupDamaged, BackupKeyMissing, WalMissing) as exc:
            return exc.message
        return None

    def remove(self, names: Iterable[str]) -> None:
        """Delete these, oldest first, so that what a stop leaves has no gap; and old leftovers."""
        clear_stale(self.path, ".*.partial")
        for name in sorted(names):
            with contextlib.suppress(FileNotFoundError):
                self.file(name).unlink()
