"""The files of an embedded PostgreSQL: its directories as it sees them, its log, its settings."""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from helix.core.errors import Misuse
from helix.core.instance import SOCKET_PORT, HomePaths
from helix.operations.postgres_programs import Programs

__all__ = [
    "clear_stale",
    "directory_argument",
    "last_words",
    "open_log",
    "socket_directory",
    "sync_directory",
    "write_owned",
]

_SOCKET_PATH_BYTES_MAX = 107
_LIST_BYTES = frozenset(b",\"\\'\t\n\r ")
_LOG_BYTES_MAX = 10_000_000
_LOGS_KEPT = 5
_STALE_S = 24 * 3_600
_FATAL = re.compile(r"(?:FATAL|PANIC):\s+(.*)")


@contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Open PostgreSQL's log at its end, after moving a long one aside."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_BYTES_MAX:
            _move_aside(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "ab") as file:
        file.seek(0, os.SEEK_END)
        yield file


def _move_aside(path: Path) -> None:
    names = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, _LOGS_KEPT + 1))]
    for older, newer in reversed(list(zip(names[1:], names[:-1], strict=True))):
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)


def last_words(path: Path, offset: int) -> str:
    """Return why PostgreSQL ended, as its log since `offset` tells it, in one line."""
    with path.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode(errors="replace").strip().splitlines()
    fatal = [match.group(1) for line in lines if (match := _FATAL.search(line))]
    said = fatal or [line for line in lines if line.strip()] or ["it said nothing"]
    return f"{said[-1].strip()} (log: {path})"


@contextmanager
def directory_argument(programs: Programs, directory: Path) -> Iterator[tuple[str, list[int]]]:
    """Name `directory` for PostgreSQL, with the descriptors it must inherit for that.

    Another user may not pass through the directories above (a home is 0700), and those must stay
    as they are. It gets the directory itself, open, and names it through /proc.
    """
    if not programs.identity.is_other_user:
        yield str(directory), []
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}", [descriptor]
    finally:
        os.close(descriptor)


def socket_directory(paths: HomePaths, programs: Programs) -> Path:
    """Return a directory only we may enter and whose socket's name PostgreSQL can take.

    HOME/run; or, when that is too long (107 bytes) or has characters that mean something in a list
    of directories, or PostgreSQL runs as another user, one in the temporary directory, with a name
    that follows from the home.
    """
    identity = programs.identity
    if not identity.is_other_user and _fits(paths.run):
        paths.run.chmod(0o700)
        return paths.run
    digest = hashlib.sha256(os.fsencode(paths.home)).hexdigest()[:12]
    name = f"helix-{identity.uid}-{digest}"
    directory = Path(tempfile.gettempdir()) / name
    if not _fits(directory):
        directory = Path("/tmp") / name  # noqa: S108 - checked below
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        os.chown(directory, identity.uid, identity.gid)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != identity.uid or found.st_mode & 0o077:
        raise Misuse(f"{directory} is not ours alone: remove it")
    return directory


def _fits(directory: Path) -> bool:
    socket = directory / f".s.PGSQL.{SOCKET_PORT}"
    name = os.fsencode(socket)
    return len(name) <= _SOCKET_PATH_BYTES_MAX and not _LIST_BYTES.intersection(name)


def write_owned(path: Path, text: str, programs: Programs) -> None:
    """Write a file of the data directory, whole or not at all, for PostgreSQL to own.

    One that says this already is left: a full disk must not hinder a restart.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    # The directory may belong to another user: never write through a link it may have made.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchown(file.fileno(), programs.identity.uid, programs.identity.gid)
    temporary.replace(path)


def clear_stale(directory: Path, pattern: str) -> None:
    """Remove the working files and directories that killed commands left more than a day ago."""
    for left in directory.glob(pattern):
        if time.time() - left.stat().st_mtime <= _STALE_S:
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make what was renamed in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
