"""Our own PostgreSQL: made at first start, watched, and stopped with the process that started it.

What is made sure of, and tested by killing things at the wrong moment (tests/operations):

- An interrupted initdb leaves nothing: it works in a directory beside and is renamed when whole.
- The server ends with the process that started it, also when that is killed: fast shutdown.
- A pid file is believed only when that process is a PostgreSQL in this very directory.
- PostgreSQL's own interlock against two servers on one directory is never removed: a pid file
  that names an unrelated process is not deleted but declared harmless (PG_GRANDPARENT_PID).
- fsync, full_page_writes and synchronous_commit are on.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import asyncpg

from helix.core.config import Settings
from helix.core.db import OUTAGES, Queries, connect
from helix.core.errors import Misuse, Unavailable
from helix.core.instance import (
    DATABASE_NAME,
    LOGIN_NAME,
    SOCKET_PORT,
    HomePaths,
    find_postmaster,
    make_home,
    processes_in,
    socket_url,
)
from helix.core.log import get_log
from helix.operations.postgres_config import ALWAYS_ON, INCLUDES, LOCAL_CONFIG, config_text
from helix.operations.postgres_files import (
    directory_argument,
    last_words,
    open_log,
    socket_directory,
    sync_directory,
    write_owned,
)
from helix.operations.postgres_process import end, exit_of, kill_session, send_signal
from helix.operations.postgres_programs import Programs, find_programs
from helix.operations.types import Report

__all__ = ["EmbeddedPostgres", "LogKeeper"]

_LOG = get_log(__name__)
_QUERIES = Queries("helix.operations", "postgres.sql")

_READY_TIMEOUT_S = 600.0
_SAY_SO_AFTER_S = 5.0
_IMMEDIATE_STOP_S = 5.0
_PREDECESSOR_STOP_S = 60.0
_BLOCKED_RETRY_S = 60.0
_ORPHAN_PATIENCE_S = 2.0
_BACKOFF_MAX_S = 5.0
_MOMENT_S = 1.0
_POLL_S = 0.05
_REMOVE_TRIES = 50
_BLOCKED = ("pre-existing shared memory block", "already exists")


class _NotStarted(Unavailable):
    """PostgreSQL ended before it was ready; `blocked` when what blocked it will pass."""

    code = "postgres_not_started"

    def __init__(self, message: str, *, blocked: bool) -> None:
        super().__init__(message)
        self.blocked = blocked


def _quiet(_: str) -> None:
    pass


class LogKeeper(Protocol):
    """What archives the write-ahead log of a server for as long as that runs."""

    @property
    def parameters(self) -> Mapping[str, str]:
        """Server parameters, spelt as in a configuration file."""

    def start(self, programs: Programs) -> None:
        """Begin, before the server does."""

    async def stop(self) -> None:
        """End, after the server has."""


class EmbeddedPostgres:
    """The PostgreSQL of one home. The caller holds the home's lock (`lock_home`).

    `start`, and the watcher's restarts, must run in the main thread: the kernel ends the server
    with the thread that started it. `durable=False` (tests only) gives up safety for speed;
    `options` are further server parameters; `user_namespaces=False` skips that way of not being
    root; `keeper` archives the log; `ready_timeout_s` is how long a recovery may take.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        report: Report = _quiet,
        durable: bool = True,
        options: Mapping[str, str] | None = None,
        user_namespaces: bool = True,
        keeper: LogKeeper | None = None,
        ready_timeout_s: float = _READY_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._paths = HomePaths(settings.home_dir)
        self._report = report
        self._durable = durable
        self._options = dict(options or {})
        self._user_namespaces = user_namespaces
        self._keeper = keeper
        self._ready_timeout_s = ready_timeout_s
        self._programs: Programs | None = None
        self._socket_dir: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The URL of the database `helix`, for the login that owns it."""
        if self._socket_dir is None:
            raise RuntimeError("start it first")
        return socket_url(str(self._socket_dir))

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    @property
    def version(self) -> str:
        """PostgreSQL's version, such as `18.6`."""
        if self._programs is None:
            raise RuntimeError("start it first")
        return self._programs.version

    async def start(self) -> str:
        """Start the server, making its data first if there are none; return the database's URL.

        Waits for crash recovery for up to ten minutes. Raises Misuse when the home or the
        programs do not fit, Unavailable when PostgreSQL does not come up.
        """
        self._programs = await asyncio.to_thread(
            find_programs, self._settings, user_namespaces=self._user_namespaces
        )
        programs = self._programs
        make_home(self._paths.home)
        self._socket_dir = socket_directory(self._paths, programs)
        await self._make_data(programs)
        self._check_version(programs)
        await self._wait_out_predecessor()
        self._take_ownership(programs)
        try:
            if self._keeper is not None:
                self._keeper.start(programs)
            await self._serve(programs)
            await self._make_database()
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def stop(self) -> None:
        """Stop the server: fast shutdown, after a while an immediate one. Harmless when stopped."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        if self._process is not None:
            await end(self._process, self._report)
            self._process = None
        if self._keeper is not None:
            await self._keeper.stop()
        if self._socket_dir is not None and self._socket_dir != self._paths.run:
            shutil.rmtree(self._socket_dir, ignore_errors=True)

    def watch(self) -> asyncio.Task[None]:
        """Restart the server whenever it dies, until `stop`; returns the task that does it."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name="postgres watcher")
            self._watcher.add_done_callback(_complain_if_failed)
        return self._watcher

    async def _watch(self) -> None:
        attempts = 0  # starts that failed, or lasted no longer than a moment, in a row
        while self._process is not None and self._programs is not None:
            since = time.monotonic()
            status = await exit_of(self._process)
            if time.monotonic() - since > _MOMENT_S:
                attempts = 0
            _LOG.error("postgres_died", status=status, attempts=attempts)
            if attempts == 0:
                self._report(f"PostgreSQL ended by itself (status {status}); starting it again")
            await asyncio.sleep(min(_BACKOFF_MAX_S, 0.1 * 2**attempts) if attempts else 0)
            attempts += 1
            try:
                await self._serve(self._programs)
            except (Unavailable, Misuse, OSError) as exc:
                _LOG.error("postgres_not_restarted", reason=str(exc), attempts=attempts)
                self._report(f"{exc}; trying again")
            else:
                _LOG.warning("postgres_restarted", pid=self._process.pid)
                self._report("PostgreSQL serves again")

    # Making the data

    async def _make_data(self, programs: Programs) -> None:
        data, fresh = self._paths.data, self._paths.home / "postgres.new"
        if fresh.exists():
            _LOG.warning("postgres_initdb_was_interrupted", directory=str(fresh))
            await _remove(fresh)
        if data.exists() and any(data.iterdir()):
            return
        self._report("making the database")
        fresh.mkdir(mode=0o700)
        os.chown(fresh, programs.identity.uid, programs.identity.gid)
        await self._initdb(programs, fresh)
        write_owned(fresh / "local.conf", LOCAL_CONFIG, programs)
        with (fresh / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(INCLUDES)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(data)
        sync_directory(self._paths.home)

    async def _initdb(self, programs: Programs, fresh: Path) -> None:
        arguments = ["--username", LOGIN_NAME, "--encoding", "UTF8", "--data-checksums"]
        arguments += ["--auth-local", "trust", "--auth-host", "scram-sha-256"]
        if programs.major >= 17:  # the same order of texts on every machine
            arguments += ["--locale", "C", "--locale-provider", "builtin"]
            arguments += ["--builtin-locale", "C.UTF-8"]
        else:
            arguments += ["--locale", "C.UTF-8"]
        if not self._durable:
            arguments.append("--no-sync")
        with (
            open_log(self._paths.postgres_log) as log,
            directory_argument(programs, fresh) as (name, kept),
        ):
            offset = log.tell()
            process = programs.start(
                "initdb",
                ["-D", name, *arguments],
                end_signal=signal.SIGKILL,
                output=log,
                keep_open=kept,
            )
            try:
                status = await exit_of(process)
            except asyncio.CancelledError:
                kill_session(process)
                shutil.rmtree(fresh, ignore_errors=True)
                raise
        if status != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise _NotStarted(
                f"the database cannot be made: {last_words(self._paths.postgres_log, offset)}",
                blocked=False,
            )

    def _check_version(self, programs: Programs) -> None:
        data = self._paths.data
        try:
            made_by = (data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError as exc:
            raise Misuse(f"{data} is not a PostgreSQL data directory: move it away") from exc
        except OSError as exc:
            raise Misuse(f"cannot read {data}: {exc.strerror}") from exc
        if made_by != str(programs.major):
            raise Misuse(
                f"{data} was made by PostgreSQL {made_by}, but these programs are "
                f"{programs.version}: dump it and restore it into a new home, or set "
                f"HELIX_POSTGRES_BIN to programs of {made_by}"
            )

    def _take_ownership(self, programs: Programs) -> None:
        """Give the data to whom PostgreSQL runs as here: that may have changed for root."""
        data, identity = self._paths.data, programs.identity
        owner = data.stat().st_uid
        if owner == identity.uid:
            return
        if os.geteuid() != 0:
            raise Misuse(f"{data} belongs to user {owner}: start Helix as that user")
        _LOG.warning("postgres_data_changes_owner", before=owner, after=identity.uid)
        for path in [data, *data.rglob("*")]:
            os.chown(path, identity.uid, identity.gid, follow_symlinks=False)

    # Starting

    async def _wait_out_predecessor(self) -> None:
        """End a server that outlived the process that started it.

        Killing that process makes the kernel stop its server, so mostly it is on its way out.
        """
        data = self._paths.data
        predecessor = find_postmaster(data)
        if predecessor is None:
            return
        self._report("waiting for the PostgreSQL of an earlier run to stop")
        for number, patience_s in (
            (signal.SIGINT, _PREDECESSOR_STOP_S),
            (signal.SIGQUIT, _IMMEDIATE_STOP_S),
            (signal.SIGKILL, _IMMEDIATE_STOP_S),
        ):
            _LOG.warning("postgres_predecessor", pid=predecessor.pid, signal=number.name)
            send_signal(predecessor.pid, number)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                now = find_postmaster(data)
                if now is None or now.pid != predecessor.pid:
                    return
                await asyncio.sleep(_POLL_S)
        raise Unavailable(f"PostgreSQL process {predecessor.pid} on {data} does not end")

    async def _serve(self, programs: Programs) -> None:
        """Start the server and wait until it answers, again while a dead one's remains block it."""
        deadline = time.monotonic() + _BLOCKED_RETRY_S
        while True:
            await self._clear_orphans()
            try:
                await self._serve_once(programs)
            except _NotStarted as exc:
                if not exc.blocked or time.monotonic() > deadline:
                    raise
                _LOG.warning("postgres_start_is_blocked", reason=str(exc))
                await asyncio.sleep(4 * _POLL_S)
            else:
                return

    async def _clear_orphans(self) -> None:
        """Wait for the backends of a killed server to notice; help those that do not."""
        if not (self._paths.data / "postmaster.pid").exists():
            return
        for number in (None, signal.SIGQUIT, signal.SIGKILL):
            orphans = processes_in(self._paths.data)
            if number is not None and orphans:
                _LOG.warning("postgres_orphans", pids=orphans, signal=number.name)
                for pid in orphans:
                    send_signal(pid, number)
            deadline = time.monotonic() + _ORPHAN_PATIENCE_S
            while orphans and time.monotonic() < deadline:
                await asyncio.sleep(_POLL_S)
                orphans = processes_in(self._paths.data)
            if not orphans:
                return

    async def _serve_once(self, programs: Programs) -> None:
        if self._socket_dir is None:
            raise RuntimeError("no socket directory")
        data = self._paths.data
        further = self._keeper.parameters if self._keeper is not None else {}
        write_owned(data / "helix.conf", config_text(self._settings, programs, further), programs)
        for leftover in self._socket_dir.glob(f".s.PGSQL.{SOCKET_PORT}*"):
            leftover.unlink()  # the lock is ours and no server runs here
        options = dict.fromkeys(ALWAYS_ON, "on" if self._durable else "off") | self._options
        with (
            open_log(self._paths.postgres_log) as log,
            directory_argument(programs, data) as (name, kept),
        ):
            offset = log.tell()
            arguments = ["-D", name, "-k", str(self._socket_dir), "-p", str(SOCKET_PORT)]
            for key, value in options.items():
                arguments += ["-c", f"{key}={value}"]
            self._process = programs.start(
                "postgres",
                arguments,
                end_signal=signal.SIGINT,
                output=log,
                keep_open=kept,
                grandparent_pid=_recorded_pid(data),
            )
        await self._until_ready(self._process, offset)

    async def _until_ready(self, process: subprocess.Popen[bytes], offset: int) -> None:
        url = socket_url(str(self._socket_dir), "postgres")
        began, said, pause_s = time.monotonic(), False, 0.01
        while process.poll() is None:
            # Only then: each attempt during a recovery would put a line into PostgreSQL's log.
            if _says_ready(self._paths.data, process.pid):
                with contextlib.suppress(*OUTAGES):
                    await (await connect(url, timeout_s=_SAY_SO_AFTER_S)).close()
                    return
            waited_s = time.monotonic() - began
            if waited_s > self._ready_timeout_s:
                raise _NotStarted(
                    f"PostgreSQL is not ready after {waited_s:.0f} s: see "
                    f"{self._paths.postgres_log}",
                    blocked=False,
                )
            if waited_s > _SAY_SO_AFTER_S and not said:
                self._report(f"PostgreSQL is recovering; its log is {self._paths.postgres_log}")
                said = True
            await asyncio.sleep(pause_s)
            pause_s = min(0.2, pause_s * 1.5)
        words = last_words(self._paths.postgres_log, offset)
        raise _NotStarted(
            f"PostgreSQL does not start: {words}", blocked=any(part in words for part in _BLOCKED)
        )

    async def _make_database(self) -> None:
        """Make the database `helix`, and what counts statements: in `postgres`, out of its way.

        An extension in `helix` would go into every backup, and stop a restore where it is not.
        """
        conn = await connect(socket_url(str(self._socket_dir), "postgres"))
        try:
            if self._programs is not None and self._programs.has_library("pg_stat_statements"):
                with contextlib.suppress(asyncpg.PostgresError):  # never worth a start
                    await conn.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            found = await _QUERIES.row(conn, "find_database", name=DATABASE_NAME)
            if found is None or not found["found"]:
                await conn.execute("CREATE DATABASE helix TEMPLATE template0")
        finally:
            await conn.close()


def _complain_if_failed(watcher: asyncio.Task[None]) -> None:
    if not watcher.cancelled() and (exc := watcher.exception()) is not None:
        _LOG.error("postgres_watcher_failed", exc=exc)


def _says_ready(data: Path, pid: int) -> bool:
    postmaster = find_postmaster(data)
    return postmaster is not None and postmaster.pid == pid and postmaster.ready


def _recorded_pid(data: Path) -> int | None:
    """Return the process id in postmaster.pid; no server runs, so it is dead or some other's."""
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


async def _remove(directory: Path) -> None:
    """Remove a directory in which a killed initdb's server may still be tidying up."""
    for _ in range(_REMOVE_TRIES):
        try:
            shutil.rmtree(directory)
        except OSError as exc:
            if exc.errno not in {errno.ENOENT, errno.ENOTEMPTY}:
                raise
        if not directory.exists():  # noqa: ASYNC240 - one look at a local directory
            return
        await asyncio.sleep(0.1)
    raise Misuse(f"{directory} is left of an interrupted start and cannot be removed: remove it")
