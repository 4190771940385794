"""One running Helix and the home it lives in: where its files are and how others find it.

    HOME/postgres/           data of the embedded PostgreSQL (0700)
    HOME/run/                its socket, and instance.json while a server runs (0700)
    HOME/log/postgres.log    what PostgreSQL says
    HOME/keys                encryption keys, newest first (0600), unless HELIX_SECRET_KEYS is set
    HOME/bootstrap.key       the first API key, encrypted (0600)
    HOME/lock                held by the one process that runs on this home

A record of a process is believed only while that very process lives: its id and the moment it
started must both agree, since ids are reused.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec

from helix.core.config import Settings
from helix.core.crypto import Keyring, id_of_key, new_key
from helix.core.errors import Misuse
from helix.core.log import get_log

__all__ = [
    "BOOTSTRAP_CONTEXT",
    "DATABASE_NAME",
    "LOGIN_NAME",
    "SOCKET_PORT",
    "HomePaths",
    "Instance",
    "Mode",
    "Postmaster",
    "Target",
    "check_home",
    "find_postmaster",
    "load_keyring",
    "locate",
    "lock_home",
    "make_home",
    "process_ticks",
    "processes_in",
    "read_instance",
    "read_keys",
    "socket_url",
    "write_instance",
    "write_keys",
    "write_private",
]

_log = get_log(__name__)

Mode = Literal["embedded", "external"]

BOOTSTRAP_CONTEXT = "bootstrap.key"
"""The place that the first API key, in HOME/bootstrap.key, is encrypted for."""

DATABASE_NAME = "helix"
LOGIN_NAME = "helix"
SOCKET_PORT = 5432
_PID_FILE_LINES = 8


@dataclass(frozen=True, slots=True)
class HomePaths:
    """Where the things of one home are."""

    home: Path

    @property
    def data(self) -> Path:
        """The data directory of the embedded PostgreSQL."""
        return self.home / "postgres"

    @property
    def run(self) -> Path:
        """What exists only while something runs."""
        return self.home / "run"

    @property
    def instance(self) -> Path:
        """The record of the server that runs on this home."""
        return self.run / "instance.json"

    @property
    def users(self) -> Path:
        """Locked, shared, by the commands that use the embedded PostgreSQL."""
        return self.run / "users.lock"

    @property
    def postgres_log(self) -> Path:
        """What PostgreSQL says."""
        return self.home / "log" / "postgres.log"

    @property
    def lock(self) -> Path:
        """Locked by the one process that runs on this home."""
        return self.home / "lock"

    @property
    def keys(self) -> Path:
        """Encryption keys, one a line, newest first."""
        return self.home / "keys"

    @property
    def spool(self) -> Path:
        """Calls that ended while the database was away, until it has them."""
        return self.home / "spool"

    @property
    def bootstrap_key(self) -> Path:
        """The first API key, encrypted."""
        return self.home / "bootstrap.key"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A server that runs on a home, as it stands in instance.json.

    `pid_ticks` is the moment the process started, in the kernel's ticks since boot; None where
    the system does not tell.
    """

    pid: int
    pid_ticks: int | None
    url: str
    database_url: str
    mode: Mode
    version: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A live PostgreSQL on a data directory; `ready` when it lets connections in."""

    pid: int
    socket_dir: str | None
    ready: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What a command works on: a database, and the server in front of it when one runs."""

    database_url: str
    mode: Mode
    home: Path
    url: str | None = None
    pid: int | None = None


def locate(settings: Settings) -> Target:
    """Find the instance these settings mean.

    DATABASE_URL or DB_* name a database themselves; without them it is the one of the server, or
    else of the embedded PostgreSQL, that runs on HELIX_HOME. Raises Misuse when neither runs.
    """
    home = settings.home_dir
    instance = read_instance(home)
    if external := settings.external_url():
        if instance is not None and instance.database_url == external:
            return Target(external, "external", home, instance.url, instance.pid)
        return Target(external, "external", home)
    if instance is not None:
        return Target(instance.database_url, instance.mode, home, instance.url, instance.pid)
    postmaster = find_postmaster(HomePaths(home).data)
    if postmaster is None or postmaster.socket_dir is None or not postmaster.ready:
        raise Misuse(f"Helix does not run on {home}: start it with `helix up`")
    return Target(socket_url(postmaster.socket_dir), "embedded", home)


def socket_url(directory: str, database: str = DATABASE_NAME) -> str:
    """Return the URL of a database behind the PostgreSQL socket in `directory`.

    The port is named, so that PGPORT of the caller's environment cannot lead elsewhere.
    """
    host = quote(directory, safe="/")
    return f"postgresql://{LOGIN_NAME}@/{database}?host={host}&port={SOCKET_PORT}"


def read_instance(home: Path) -> Instance | None:
    """Return the record of the server that runs on `home`; None when there is none, or a dead one.

    Raises Misuse when the record may not be read.
    """
    path = HomePaths(home).instance
    try:
        instance = msgspec.json.decode(path.read_bytes(), type=Instance)
    except PermissionError as exc:
        raise Misuse(f"{path} belongs to another user: run this command as that user") from exc
    except (OSError, msgspec.DecodeError):
        return None
    ticks = process_ticks(instance.pid)
    return instance if _alive(instance.pid) and ticks == instance.pid_ticks else None


def write_instance(home: Path, instance: Instance) -> None:
    """Record, readable by the owner only, the server that runs on `home`; whole or not at all."""
    write_private(HomePaths(home).instance, msgspec.json.encode(instance))


def write_private(path: Path, content: bytes) -> None:
    """Write a file (0600) so that after any crash it is there whole, or as it was before."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def process_ticks(pid: int) -> int | None:
    """Return when process `pid` started, in ticks since boot; None when dead or not told."""
    fields = _stat_fields(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before it may hold anything


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    fields = _stat_fields(pid)
    return fields is None or fields[0] != "Z"


def find_postmaster(data: Path) -> Postmaster | None:
    """Return the PostgreSQL that runs on the data directory `data`, or None.

    postmaster.pid alone is not believed: it outlives a killed server, and in a container its
    number soon belongs to some other process. The process must stand in this very directory.
    """
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not _serves(pid, data):
        return None
    lines += [""] * (_PID_FILE_LINES - len(lines))
    return Postmaster(
        pid=pid,
        socket_dir=lines[4].strip() or None,
        ready=lines[7].strip() in {"ready", "standby"},  # the latter while a recovery lets one look
    )


def _serves(pid: int, data: Path) -> bool:
    proc = Path(f"/proc/{pid}")
    fields = _stat_fields(pid)
    if fields is None or fields[0] == "Z":
        return False
    try:
        name = (proc / "comm").read_text(encoding="utf-8", errors="replace").strip()
        there, here = (proc / "cwd").stat(), data.stat()
    except OSError:
        return False
    return name.startswith("postgres") and os.path.samestat(there, here)


def processes_in(data: Path) -> list[int]:
    """Return every PostgreSQL process that stands in the data directory `data`."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _serves(pid, data)]


def check_home(home: Path) -> None:
    """Raise Misuse unless `home` is, or can be made, a directory we may write; makes nothing."""
    place = home
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise Misuse(f"the home {home} cannot be used: {place} is not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise Misuse(f"the home {home} cannot be used: {place} is not writable for this user")


def make_home(home: Path) -> None:
    """Make the directories of a home that are not there yet, for the owner only."""
    check_home(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    for directory in (home, HomePaths(home).run, HomePaths(home).postgres_log.parent):
        directory.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def lock_home(home: Path, command: str) -> Iterator[None]:
    """Hold `home` for this process; a second holder is refused with Misuse, naming the first.

    The lock goes with the process, however it ends. It is not inherited by children.
    """
    path = HomePaths(home).lock
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Misuse(_holder(home, os.pread(descriptor, 256, 0))) from exc
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {command}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(home: Path, text: bytes) -> str:
    pid, _, command = text.decode(errors="replace").strip().partition(" ")
    instance = read_instance(home)
    if instance is not None:
        return f"Helix already runs on {home}: {instance.url}, process {instance.pid}"
    return f"`{command or 'helix'}` (process {pid or 'unknown'}) is using {home}: wait or stop it"


def load_keyring(settings: Settings, *, create: bool = False) -> Keyring:
    """Return the encryption keys: those of HELIX_SECRET_KEYS, else of HOME/keys.

    With `create` a missing HOME/keys is made with one fresh key. A change of HOME/keys is taken
    over while the process runs; one that cannot be read then is logged, and the keys stay as they
    were. Raises Misuse when there are none, when the file can be read by others, or when a key is
    malformed.
    """
    if settings.secret_keys is not None:
        given = settings.secret_keys.get_secret_value().replace("\n", ",").split(",")
        return Keyring([key for key in map(str.strip, given) if key])
    path = HomePaths(settings.home_dir).keys
    if create and not path.exists():
        write_private(path, f"{new_key()}\n".encode())
    seen = _mark(path)
    keys = read_keys(path)
    return Keyring(keys, reread=_KeyFile(path, seen).changed)


def read_keys(path: Path) -> list[str]:
    """Return the keys of a key file, newest first; raises Misuse as `load_keyring` does."""
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise Misuse(f"there are no encryption keys: neither HELIX_SECRET_KEYS nor {path}") from exc
    except OSError as exc:
        raise Misuse(f"cannot read {path}: {exc.strerror}") from exc
    if stat.S_IMODE(mode) & 0o077:
        raise Misuse(f"{path} can be read by other users: chmod 600 {path}")
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    for key in keys:
        id_of_key(key)
    return keys


def write_keys(path: Path, keys: Sequence[str]) -> None:
    """Replace a key file (0600) in one step that outlives a crash; running processes see it."""
    write_private(path, "".join(f"{key}\n" for key in keys).encode())


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class _KeyFile:
    """Tells when the key file has changed. One `stat` a question: 2 us."""

    def __init__(self, path: Path, seen: tuple[int, int, int] | None) -> None:
        self._path, self._seen = path, seen

    def changed(self) -> list[str] | None:
        mark = _mark(self._path)
        if mark == self._seen:
            return None
        self._seen = mark
        try:
            keys = read_keys(self._path)
        except Misuse as exc:
            _log.error("keys_not_reread", path=str(self._path), reason=exc.message)
            return None
        _log.info("keys_reread", path=str(self._path), keys=len(keys))
        return keys or None
