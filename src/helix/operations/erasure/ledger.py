"""What was erased, kept outside the database: DIR/erasures.jsonl beside the backups.

A backup made before an erasure holds what was erased. Whoever releases a copy restored from it
erases again what this file names. It holds ids and times, a line each, and is only added to.
"""

import fcntl
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec

from helix.core.db import Connection, Queries
from helix.core.errors import HelixError

__all__ = ["Erasure", "ErasuresUnreadable", "add", "apply", "export", "file_of", "read"]

_QUERIES = Queries("helix.operations.erasure")
_PAGE = 1_000
_OVERLAP = timedelta(minutes=10)
"""A row may become visible after one of a later time."""


class ErasuresUnreadable(HelixError):
    """The file of erasures cannot be read."""

    code = "erasure.unreadable"


class Erasure(msgspec.Struct, frozen=True):
    """A user, memory or document that is erased, and must stay so."""

    kind: Literal["user", "memory", "document"]
    id: UUID
    user_id: UUID | None
    erased_at: datetime


def file_of(backups: Path) -> Path:
    """Return the file of erasures of a directory of backups."""
    return backups / "erasures.jsonl"


def read(path: Path) -> list[Erasure]:
    """Return all that was erased, each once; nothing when there is no file.

    A last line that a crash cut off is passed over. Raises ErasuresUnreadable.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ErasuresUnreadable(f"cannot read {path}: {exc.strerror}") from exc
    found: dict[tuple[str, UUID], Erasure] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            one = msgspec.json.decode(line, type=Erasure)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            if number == len(lines):
                break
            raise ErasuresUnreadable(f"{path} is damaged in line {number}: {exc}") from exc
        found.setdefault((one.kind, one.id), one)
    return list(found.values())


def add(path: Path, erasures: Sequence[Erasure]) -> None:
    """Add lines (the file is made, 0600), on the disk when this returns."""
    if not erasures:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        written = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        os.ftruncate(descriptor, written.rfind(b"\n") + 1)  # a line that a crash cut off
        os.write(descriptor, b"".join(msgspec.json.encode(one) + b"\n" for one in erasures))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def export(conn: Connection, path: Path) -> int:
    """Add what was erased in the database since the last line; return how many were added."""
    known = read(path)
    since = max((one.erased_at for one in known), default=datetime(1970, 1, 1, tzinfo=UTC))
    rows = await _QUERIES.rows(conn, "erasures_since", since=since - _OVERLAP)
    have = {(one.kind, one.id) for one in known}
    fresh = [
        Erasure(row["kind"], row["id"], row["user_id"], row["erased_at"])
        for row in rows
        if (row["kind"], row["id"]) not in have
    ]
    add(path, fresh)
    return len(fresh)


async def apply(conn: Connection, erasures: Sequence[Erasure]) -> dict[str, int]:
    """Erase all of these again; return how many users, memories and documents were there."""
    total = {"users": 0, "memories": 0, "documents": 0}
    for start in range(0, len(erasures), _PAGE):
        page = [msgspec.to_builtins(one) for one in erasures[start : start + _PAGE]]
        row = await _QUERIES.row(conn, "apply_erasures", erasures=page)
        for kind, count in (row["done"] if row is not None else {}).items():
            total[kind] += count
    return total
