"""Reading a whole file of the archive: every byte, every frame, every row's id."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID

from helix.operations.archive.errors import ArchiveDamaged
from helix.operations.archive.frames import open_frame, read_frames
from helix.operations.archive.types import ArchiveFile, Contents, Section

__all__ = ["check_file"]

_READ_BYTES = 1 << 20
_TABLES = (
    Section.REQUESTS,
    Section.REQUEST_BODIES,
    Section.RESPONSES,
    Section.RESPONSE_BODIES,
)


def check_file(
    path: Path, file: ArchiveFile, key: bytes, keys: Mapping[UUID, bytes]
) -> Iterator[list[tuple[int, UUID]]]:
    """Read a file whole and give the (section, id) of its rows, a frame at a time.

    What lies on the disk must be what its row says: length, SHA-256, its own authentication, and
    how many rows of each table. Frames of erased users are counted but cannot be opened, so they
    give no ids. Raises ArchiveDamaged, at the latest at the end.
    """
    _check_bytes(path, file)
    counts = dict.fromkeys(_TABLES, 0)
    for frame in read_frames(path, key, file_id=file.id):
        if isinstance(frame, Contents):
            if frame.month != file.month:
                raise ArchiveDamaged(f"{path.name} is of {frame.month:%Y-%m}, its row is not")
            continue
        section = Section(frame.head.section)
        if section in counts:
            counts[section] += frame.head.row_count
        try:
            lines = open_frame(frame, keys)
        except ArchiveDamaged as exc:
            raise ArchiveDamaged(f"{path.name}: {exc.message}") from exc
        if lines is None or section not in counts:
            continue
        place = 1 if section.private else 0
        yield [(section.value, UUID(line.split(b"\t", 2)[place].decode())) for line in lines]
    if tuple(counts.values()) != file.counts:
        raise ArchiveDamaged(
            f"{path.name} holds {tuple(counts.values())} rows instead of {file.counts}"
        )


def _check_bytes(path: Path, file: ArchiveFile) -> None:
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
            size_bytes = opened.tell()
    except FileNotFoundError as exc:
        raise ArchiveDamaged(f"{path.name} is missing from {path.parent}") from exc
    if size_bytes != file.size_bytes:
        raise ArchiveDamaged(f"{path.name} has {size_bytes} bytes instead of {file.size_bytes}")
    if digest != file.sha256:
        raise ArchiveDamaged(f"{path.name} has changed: its SHA-256 is {digest.hex()}")
