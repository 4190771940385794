"""The code a debate is about: one commit of a local git repository, read without running anything.

A repository must lie below one of the operator's roots, by its real path: links out of it are
followed first and refused then. Git is called without a shell and without anything a repository
could make it run: no hooks, no pagers, no external diffs, filters or file-system monitors, no
credentials and no network. What it prints is cut at named limits.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from helix.debates.errors import RepositoryRefused
from helix.debates.types import Code, CodeVersion

__all__ = ["Repositories"]

GIT_TIMEOUT_S = 20.0
DIFF_CHARS_MAX = 20_000
FILES_MAX = 1_000
_OUTPUT_BYTES_MAX = 4_000_000
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/~^@{}-]{0,254}")
_SAFE = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "core.pager=cat",
    "-c", "diff.external=",
    "-c", "protocol.allow=never",
    "-c", "safe.directory=*",
)  # fmt: skip
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's own name of a tree without files


class Repositories:
    """Reads commits of repositories below `roots`; with no roots it refuses all."""

    def __init__(self, roots: Sequence[Path] = ()) -> None:
        self._roots = tuple(root.expanduser().resolve() for root in roots)

    def locate(self, repository: str) -> Path:
        """Return the real path of a repository that is open to debates. Raises RepositoryRefused.

        A relative path is looked for below each root in turn.
        """
        asked = Path(repository)
        tried = [asked] if asked.is_absolute() else [root / asked for root in self._roots]
        for path in tried:
            with suppress(OSError, RuntimeError, ValueError):  # no path, a loop of links
                real = path.resolve()
                is_one = (real / ".git").exists() or (real / "HEAD").is_file()
                if self._inside(real) and is_one and all(map(self._inside, _parts_of(real))):
                    return real
        raise RepositoryRefused(
            "the repository is not below a root that the operator opened to debates "
            "(HELIX_DEBATE_CODE_ROOTS), or is no git repository",
            param="code.repository",
        )

    def _inside(self, real: Path) -> bool:
        return any(real == root or root in real.parents for root in self._roots)

    async def read(self, code: Code) -> CodeVersion:
        """Read a commit and what it changed. Raises RepositoryRefused, also for no such revision.

        Without `base` it is held against its first parent, or against nothing if it has none.
        """
        path = self.locate(code.repository)
        commit = await self._commit(path, code.revision, "code.revision")
        if code.base is not None:
            base = await self._commit(path, code.base, "code.base")
        else:
            base = await self._parent(path, commit)
        branch = (await self._git(path, "rev-parse", "--abbrev-ref", code.revision)).strip()
        message = (await self._git(path, "log", "-1", "--format=%B", commit)).strip()
        changed = await self._git(path, "diff", "--name-only", "-z", *_DIFF, base, commit)
        stat = await self._git(path, "diff", "--stat=100", *_DIFF, base, commit)
        patch = await self._git(path, "diff", "--unified=3", *_DIFF, base, commit)
        return CodeVersion(
            version_hash=commit,
            branch=branch if branch and branch != "HEAD" else code.revision,
            commit_message=_fit(message, 4_000),
            files_changed=tuple(_fit(f, 1_000) for f in changed.split("\0") if f)[:FILES_MAX],
            diff_summary=_fit(f"{stat}\n{patch}".strip(), DIFF_CHARS_MAX),
        )

    async def _commit(self, path: Path, revision: str, field: str) -> str:
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise RepositoryRefused(f"{field} is no name of a commit", param=field)
        try:
            wanted = f"{revision}^{{commit}}"
            return (await self._git(path, "rev-parse", "--verify", "--quiet", wanted)).strip()
        except RepositoryRefused as exc:
            raise RepositoryRefused(f"{field}: there is no such commit", param=field) from exc

    async def _parent(self, path: Path, commit: str) -> str:
        line = (await self._git(path, "rev-list", "--parents", "-n", "1", commit)).split()
        return line[1] if len(line) > 1 else _EMPTY_TREE

    async def _git(self, path: Path, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "git",
            *_SAFE,
            "-C",
            str(path),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={
                "PATH": os.defpath,
                "HOME": "/nonexistent",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_OPTIONAL_LOCKS": "0",
                "LC_ALL": "C.UTF-8",
            },
        )
        try:
            async with asyncio.timeout(GIT_TIMEOUT_S):
                told = await _bounded(process)
        except TimeoutError as exc:
            raise RepositoryRefused(f"git took longer than {GIT_TIMEOUT_S:g} s") from exc
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode not in {0, -9}:
            raise RepositoryRefused("git cannot read the repository", param="code.repository")
        return told.decode(errors="replace")


_DIFF = ("--no-ext-diff", "--no-textconv", "--no-color", "--submodule=short")
_FILE_CHARS_MAX = 4_096
_READ = ("HEAD", "config", "objects", "packed-refs", "refs")


def _parts_of(real: Path) -> list[Path]:
    """Return the real paths of all that git would read a repository from.

    `.git` may be a link, or a file that names a directory; that may name a common one; and what is
    in them may be links, too.
    """
    place = real / ".git" if (real / ".git").exists() else real
    if place.is_file():
        place = real / _named_in(place).removeprefix("gitdir:").strip()
    places = [place.resolve()]
    if (place / "commondir").is_file():
        places.append((place / _named_in(place / "commondir")).resolve())
    parts = [
        p / name for p in places for name in ("HEAD", "config", "objects", "packed-refs", "refs")
    ]
    return [*places, *(part.resolve() for part in parts)]


def _named_in(file: Path) -> str:
    with file.open(errors="replace") as text:
        return text.read(_FILE_CHARS_MAX).strip().replace("\x00", "")


async def _bounded(process: asyncio.subprocess.Process) -> bytes:
    """Return what a process prints, up to a limit; one that prints more is ended there."""
    parts: list[bytes] = []
    size = 0
    while process.stdout is not None and (data := await process.stdout.read(65_536)):
        parts.append(data)
        size += len(data)
        if size > _OUTPUT_BYTES_MAX:
            process.kill()
            break
    await process.wait()
    return b"".join(parts)[:_OUTPUT_BYTES_MAX]


def _fit(text: str, chars_max: int) -> str:
    clean = text.replace("\x00", "")
    return clean if len(clean) <= chars_max else f"{clean[: chars_max - 2]} …"
