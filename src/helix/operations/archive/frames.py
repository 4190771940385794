"""Files of the archive: frames of compressed rows, in the sealed format of backups.

    sealed (sealed.py, ADR 0044):  frame | frame | …
    frame:    length of head, 4 bytes | length of payload, 4 bytes | head, JSON | payload
    payload:  zlib of rows in COPY's text format; a user's own besides AES-256-GCM under their key:
              nonce, 12 bytes | ciphertext, bound to the file and the place of the frame

The first frame says what the file is. A frame is about 1 MiB before compression, so neither writer
nor reader holds more than that and one row.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from helix.operations.archive.errors import ArchiveDamaged
from helix.operations.archive.types import Contents, FrameHead
from helix.operations.backup.errors import BackupDamaged, BackupKeyMissing
from helix.operations.backup.sealed import SealedWriter, unseal

__all__ = ["FRAME_BYTES", "Frame", "FrameWriter", "open_frame", "read_frames"]

FRAME_BYTES = 1 << 20
_LENGTHS = struct.Struct(">II")
_NONCE_BYTES = 12
_PURPOSE = "archive"
_LEVEL = 6
_FRAME_BYTES_MAX = 1 << 30


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"helix archive key id" + key).hexdigest()[:12]


def _place(file_id: UUID, number: int) -> bytes:
    return file_id.bytes + number.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it lies in its file; `number` is its place."""

    file_id: UUID
    number: int
    head: FrameHead
    payload: bytes


class FrameWriter:
    """Writes one file. Nothing of it can be read before `finish`, which syncs it to the disk."""

    def __init__(self, file: BinaryIO, key: bytes, *, file_id: UUID, contents: Contents) -> None:
        self._sealed = SealedWriter(file, [(_key_id(key), key)], purpose=_PURPOSE)
        self._file_id = file_id
        self._number = 0
        self.plain_bytes = 0
        self.row_counts: dict[int, int] = {}
        self._put(msgspec.json.encode(contents), b"")

    @property
    def size_bytes(self) -> int:
        """Bytes of the file so far."""
        return self._sealed.size_bytes

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the file so far."""
        return bytes.fromhex(self._sealed.sha256)

    def frame(
        self, section: int, lines: Sequence[bytes], *, user_id: UUID | None, key: bytes | None
    ) -> None:
        """Write rows of one section; `key` is that of `user_id`, for what is their own."""
        plain = b"\n".join([*lines, b""])
        payload = zlib.compress(plain, _LEVEL)
        if key is not None:
            nonce = os.urandom(_NONCE_BYTES)
            place = _place(self._file_id, self._number)
            payload = nonce + AESGCM(key).encrypt(nonce, payload, place)
        head = FrameHead(section, len(lines), len(plain), user_id if key is not None else None)
        self._put(msgspec.json.encode(head), payload)
        self.plain_bytes += len(plain)
        self.row_counts[section] = self.row_counts.get(section, 0) + len(lines)

    def finish(self) -> None:
        """Write the end, and sync the file to the disk."""
        self._sealed.finish()

    def _put(self, head: bytes, payload: bytes) -> None:
        self._sealed.write(_LENGTHS.pack(len(head), len(payload)))
        self._sealed.write(head)
        self._sealed.write(payload)
        self._number += 1


class _Bytes:
    """Pieces of a stream, taken in the lengths that are wanted."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._waiting = bytearray()

    def take(self, count: int) -> bytes | None:
        """Return the next `count` bytes; None at the end, fewer if the stream ends within."""
        while len(self._waiting) < count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._waiting += piece
        if not self._waiting and count:
            return None
        taken = bytes(self._waiting[:count])
        del self._waiting[:count]
        return taken


def read_frames(path: Path, key: bytes, *, file_id: UUID) -> Iterator[Contents | Frame]:
    """Give what a file is, then its frames. Only the end of the iteration says that it was all.

    Raises ArchiveDamaged for a file that is missing, changed, cut off, or sealed with another key.
    """
    name = path.name
    try:
        with path.open("rb") as file:
            stream = _Bytes(unseal(file, [(_key_id(key), key)], purpose=_PURPOSE, name=name))
            number = 0
            while (lengths := stream.take(_LENGTHS.size)) is not None:
                yield _frame(stream, lengths, file_id=file_id, number=number, name=name)
                number += 1
    except FileNotFoundError as exc:
        raise ArchiveDamaged(f"{name} is missing from {path.parent}") from exc
    except BackupKeyMissing as exc:
        raise ArchiveDamaged(
            f"{name} is not the file its row in archive_files is of, or its beginning is damaged"
        ) from exc
    except BackupDamaged as exc:
        raise ArchiveDamaged(exc.message) from exc


def _frame(
    stream: _Bytes, lengths: bytes, *, file_id: UUID, number: int, name: str
) -> Contents | Frame:
    try:
        head_bytes, payload_bytes = _LENGTHS.unpack(lengths)
        if head_bytes + payload_bytes > _FRAME_BYTES_MAX:
            raise ArchiveDamaged(f"{name} is damaged: frame {number} is impossibly long")
        head = stream.take(head_bytes) or b""
        payload = (stream.take(payload_bytes) or b"") if payload_bytes else b""
        if len(payload) != payload_bytes:
            raise ArchiveDamaged(f"{name} is damaged: it ends within frame {number}")
        if number == 0:
            return msgspec.json.decode(head, type=Contents)
        return Frame(file_id, number, msgspec.json.decode(head, type=FrameHead), payload)
    except (struct.error, msgspec.DecodeError) as exc:
        raise ArchiveDamaged(f"{name} is damaged: frame {number} cannot be read") from exc


def open_frame(frame: Frame, keys: Mapping[UUID, bytes]) -> list[bytes] | None:
    """Return the rows of a frame; None when its user's key is gone: they were erased.

    Raises ArchiveDamaged for a payload that does not open with the user's key.
    """
    payload = frame.payload
    if frame.head.user_id is not None:
        key = keys.get(frame.head.user_id)
        if key is None:
            return None
        place = _place(frame.file_id, frame.number)
        try:
            payload = AESGCM(key).decrypt(payload[:_NONCE_BYTES], payload[_NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as exc:
            raise ArchiveDamaged(
                f"frame {frame.number} does not open with its user's key in archive_keys"
            ) from exc
    try:
        lines = zlib.decompress(payload).split(b"\n")
    except zlib.error as exc:
        raise ArchiveDamaged(f"frame {frame.number} cannot be decompressed") from exc
    lines.pop()
    if len(lines) != frame.head.row_count:
        raise ArchiveDamaged(
            f"frame {frame.number} has {len(lines)} rows instead of {frame.head.row_count}"
        )
    return lines
