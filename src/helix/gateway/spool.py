"""The spool: settlements kept on disk while PostgreSQL is away, and written to it afterwards.

A provider was called and paid, so its answer must not be lost because the database is. A file in
the home holds it: records appended and fsynced before anybody is told that the call is settled. The
file is replayed as soon as the database is back; what a process leaves behind is replayed by the
next one that starts on the home. Replaying twice writes nothing twice: a request is closed once
(settle_calls), so a crash between the commit and the removal of the file does no harm.

A record is its length and the CRC-32 of its payload, 4 bytes each, big-endian, then the payload: a
settlement in MessagePack. What a crash tore off at the end of a file was never acknowledged;
reading stops there, and at a record whose checksum is wrong. Files hold answers in clear text, as
the database does: they are 0600 in a directory 0700.
"""

import asyncio
import fcntl
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from helix.core.log import get_log
from helix.gateway.types import Settlement

__all__ = ["Spool", "encode_record", "read_records"]

_log = get_log(__name__)
_HEAD = struct.Struct(">II")
_SUFFIX = ".spool"
_FAULTY = ".faulty"


class _Kept(Settlement, frozen=True, array_like=True):
    """A settlement as it is written to a spool: its values in the order of the fields."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Kept)


class Spool:
    """The spool of one process: a locked file of its own in `directory`, made when first needed.

    At most `bytes_max` are kept. Only its owner's event loop may call it.
    """

    def __init__(self, directory: Path, *, name: str, bytes_max: int) -> None:
        self._directory = directory
        self._path = directory / f"{name}{_SUFFIX}"
        self._bytes_max = bytes_max
        self._file: int | None = None
        self._bytes = 0
        self.lock = asyncio.Lock()
        """Hold it from reading this process's file to forgetting it; `append` waits for it."""

    @property
    def held_bytes(self) -> int:
        """How much this process has spooled and not yet replayed."""
        return self._bytes

    async def append(self, rows: Sequence[Settlement]) -> bool:
        """Keep rows; on return with True they are on the disk. False: it is full, or broken."""
        data = b"".join(map(encode_record, rows))
        async with self.lock:
            if self._bytes + len(data) > self._bytes_max:
                _log.error("spool_full", rows=len(rows), held_bytes=self._bytes)
                return False
            try:
                await asyncio.to_thread(self._write, data)
            except OSError as exc:
                _log.error("spool_failed", rows=len(rows), reason=type(exc).__name__)
                return False
        return True

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = _open_locked(self._path, create=True)
            _sync_directory(self._directory)
        before = self._bytes
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, before)  # what is half written would hide what follows
            raise
        self._bytes = before + len(data)

    def files(self) -> list[Path]:
        """Return the spools there are to replay: this process's, and those nobody holds."""
        own = [self._path] if self._bytes else []
        if not self._directory.is_dir():
            return own
        found = sorted(self._directory.glob(f"*{_SUFFIX}"))
        return own + [path for path in found if path != self._path and _is_left(path)]

    def read(self, path: Path) -> list[Settlement]:
        """Return what a file holds, up to the first record that is torn or wrong."""
        data = path.read_bytes()
        rows, read_bytes = read_records(data)
        if read_bytes < len(data):
            _log.warning("spool_torn", file=path.name, rows=len(rows), bytes=len(data) - read_bytes)
        return rows

    def forget(self, path: Path) -> None:
        """Remove a file whose rows are committed; this process's own is emptied."""
        if path == self._path and self._file is not None:
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            self._bytes = 0
        else:
            path.unlink(missing_ok=True)

    def set_aside(self, row: Settlement) -> None:
        """Keep a row that PostgreSQL does not take, for a person to look at."""
        descriptor = os.open(
            self._path.with_suffix(_FAULTY), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        try:
            os.write(descriptor, encode_record(row))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the file; it is removed when there is nothing in it."""
        if self._file is not None:
            if not self._bytes:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def read_records(data: bytes) -> tuple[list[Settlement], int]:
    """Return the settlements in `data`, and how many bytes of it they take up."""
    rows: list[Settlement] = []
    at = 0
    while at + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(payload) < length or not length or zlib.crc32(payload) != checksum:
            break
        try:
            kept = _decoder.decode(payload)
        except msgspec.MsgspecError:
            break
        rows.append(Settlement(**msgspec.structs.asdict(kept)))
        at += _HEAD.size + length
    return rows, at


def encode_record(row: Settlement) -> bytes:
    """Return a settlement as a record of a spool."""
    payload = _encoder.encode(msgspec.structs.astuple(row))
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _open_locked(path: Path, *, create: bool) -> int:
    flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_left(path: Path) -> bool:
    """Say whether no living process holds a file."""
    try:
        os.close(_open_locked(path, create=False))
    except OSError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
