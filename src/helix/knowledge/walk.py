"""Finding the files under a directory, without ever leaving it.

No symbolic link below a given path is followed, whether it leads out or back in; directories and
files are opened by name within their open parent and refused when they turn out to be links, so
that one swapped in while the walk goes on is not followed either.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helix.core.errors import Misuse
from helix.knowledge.reading import media_type_of
from helix.knowledge.types import MediaType

__all__ = ["FoundFile", "find_files", "read_file"]

FILES_MAX = 100_000
DEPTH_MAX = 64
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _NO_LINK


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to add: `root` was given and is trusted, `parts` lead from there to the file."""

    root: Path
    parts: tuple[str, ...]
    media_type: MediaType

    @property
    def path(self) -> Path:
        """Where it stands."""
        return self.root.joinpath(*self.parts)

    @property
    def key(self) -> str:
        """What the document is named by: the address of the file."""
        return self.path.as_uri()


def find_files(
    path: Path, *, media_type: MediaType | None, hidden: bool = False
) -> list[FoundFile]:
    """Return the files at or below `path`, in order of their names.

    A directory gives those whose ending is known, or all with `media_type`; names that begin with
    a dot only with `hidden`. The path itself may be a link. Raises Misuse for what is not there,
    not a file or directory, of unknown type, or more than 100,000 files.
    """
    try:
        root = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as exc:
        raise Misuse(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    if root.is_file():
        kind = media_type or media_type_of(root.name)
        if kind is None:
            raise Misuse(f"{path}: what is in it? say so with --media-type")
        return [FoundFile(root.parent, (root.name,), kind)]
    if not root.is_dir():
        raise Misuse(f"{path} is neither a file nor a directory")
    found = []
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for parts in _walk(handle, (), hidden=hidden):
            kind = media_type or media_type_of(parts[-1])
            if kind is not None:
                found.append(FoundFile(root, parts, kind))
            if len(found) > FILES_MAX:
                raise Misuse(f"{path}: more than {FILES_MAX} files; add parts of it")
    finally:
        os.close(handle)
    return found


def _walk(handle: int, parts: tuple[str, ...], *, hidden: bool) -> Iterator[tuple[str, ...]]:
    with os.scandir(handle) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.name.startswith(".") and not hidden:
            continue
        if entry.is_file(follow_symlinks=False):
            yield (*parts, entry.name)
        elif entry.is_dir(follow_symlinks=False) and len(parts) < DEPTH_MAX:
            try:
                inner = os.open(entry.name, _DIRECTORY, dir_fd=handle)
            except OSError:
                continue  # unreadable, or no directory any more
            try:
                yield from _walk(inner, (*parts, entry.name), hidden=hidden)
            finally:
                os.close(inner)


def read_file(file: FoundFile, *, bytes_max: int) -> bytes | None:
    """Return the bytes of a file found, at most one more than `bytes_max`.

    None when it is gone, unreadable, or not a plain file reached without links any more.
    """
    handles: list[int] = []
    try:
        handles.append(os.open(file.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for name in file.parts[:-1]:
            handles.append(os.open(name, _DIRECTORY, dir_fd=handles[-1]))
        flags = os.O_RDONLY | os.O_NONBLOCK | _NO_LINK
        handles.append(os.open(file.parts[-1], flags, dir_fd=handles[-1]))
        if not stat.S_ISREG(os.fstat(handles[-1]).st_mode):
            return None
        with os.fdopen(os.dup(handles[-1]), "rb") as stream:
            return stream.read(bytes_max + 1)
    except OSError:
        return None
    finally:
        for handle in handles:
            os.close(handle)
