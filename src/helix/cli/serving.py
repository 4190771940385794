"""What `helix up` does once its home and port are sure: database, migrations, first key, server."""

import asyncio
import gc
import math
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvicorn
import uvloop

from helix import __version__
from helix.accounts import KeyGate, Store, bootstrap_admin, issue_admin_key
from helix.app import App, build
from helix.cli.http1 import Http1
from helix.cli.up import BACKLOG
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Database, redacted_url
from helix.core.errors import Forbidden, Misuse, Unauthenticated, Unavailable
from helix.core.instance import (
    BOOTSTRAP_CONTEXT,
    HomePaths,
    Instance,
    Mode,
    load_keyring,
    lock_home,
    make_home,
    process_ticks,
    write_instance,
    write_private,
)
from helix.core.log import get_log
from helix.core.quarantine import quarantine_of
from helix.operations import (
    check_external,
    check_seating,
    embedded_postgres,
    require_backup,
    upgrade,
)
from helix.operations.secrets import connected, count_keys, unreadable_lines

__all__ = ["serve"]

_LOG = get_log(__name__)
_KEEP_ALIVE_S = 75
_TELL_S = 2  # so long after the drain clients are told that their streams were cut off
_READY_TIMEOUT_S = 15.0
_GC_YOUNG, _GC_MIDDLE, _GC_OLD = 20_000, 20, 20
_EXIT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(settings: Settings, listener: socket.socket, *, is_new: bool, as_json: bool) -> None:
    """Serve on `listener` until told to stop; the home is locked unless it `is_new`, not yet made.

    Raises Misuse or Unavailable when it cannot.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_told_to_stop(settings, listener, is_new=is_new, as_json=as_json))


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handlers: those are `_Ending`'s."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Ending:
    """What Ctrl-C, SIGTERM and SIGHUP do.

    Before Helix serves they cancel the start; then they let it drain its calls; a second one drops
    the calls still under way. The database is stopped last in every case.
    """

    def __init__(self) -> None:
        self._server: _Server | None = None
        self._begin_stop: Callable[[], None] = _nothing
        self._start = asyncio.current_task()
        self.begun = False

    def serving(self, server: _Server, begin_stop: Callable[[], None]) -> None:
        self._server = server
        self._begin_stop = begin_stop

    def on_signal(self) -> None:
        if self._server is not None:
            self._server.force_exit = self._server.should_exit
            self._server.should_exit = True
            self._begin_stop()
            _say("dropping the calls under way" if self.begun else "stopping: finishing the calls")
        elif not self.begun and self._start is not None:
            self._start.cancel()
            _say("stopping")
        self.begun = True


def _nothing() -> None:
    pass


def _say(line: str) -> None:
    print(f"helix: {line}", file=sys.stderr, flush=True)


async def _until_told_to_stop(
    settings: Settings, listener: socket.socket, *, is_new: bool, as_json: bool
) -> None:
    ending = _Ending()
    loop = asyncio.get_running_loop()
    for number in _EXIT_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, ending.on_signal)
    try:
        await _run(settings, listener, ending, is_new=is_new, as_json=as_json)
    except asyncio.CancelledError:
        if not ending.begun:
            raise
    if ending.begun:
        _say("stopped")


async def _run(
    settings: Settings,
    listener: socket.socket,
    ending: _Ending,
    *,
    is_new: bool,
    as_json: bool,
) -> None:
    home = settings.home_dir
    async with AsyncExitStack() as stack:
        if external := settings.external_url():
            await check_external(external, settings, report=_say)
        make_home(home)
        if is_new:
            stack.enter_context(lock_home(home, "helix up"))
        database_url, mode = await stack.enter_async_context(_database(settings, external))
        await check_seating(database_url, most=settings.connections_max(), report=_say)
        await upgrade(database_url, report=_say, guard=require_backup)
        if quarantined := await quarantine_of(database_url):
            _say(f"QUARANTINED: {quarantined}; nothing runs until `helix backup release`")
        keyring, clock = await _keys(settings, database_url), SystemClock()
        db = Database(database_url, settings.pool_limits())
        stack.push_async_callback(db.close)
        key = await _first_key(settings, db, keyring, clock, as_json=as_json)
        instance = Instance(
            pid=os.getpid(),
            pid_ticks=process_ticks(os.getpid()),
            url=_url_of(listener),
            database_url=database_url,
            mode=mode,
            version=__version__,
            started_at=clock.now(),
        )

        def announce() -> None:
            write_instance(home, instance)
            print(
                _json_line(instance, key) if as_json else _welcome(instance, key, home), flush=True
            )

        asgi = build(settings, db, keyring, clock)
        try:
            await _serve(asgi, settings, listener, ending, announce, held=bool(quarantined))
        finally:
            HomePaths(home).instance.unlink(missing_ok=True)


async def _keys(settings: Settings, database_url: str) -> Keyring:
    """Return the encryption keys, and say what they do not open.

    A key is made only where nothing was ever encrypted: a fresh one in place of a lost one would
    hide that. Raises Misuse then.
    """
    path = HomePaths(settings.home_dir).keys
    async with connected(database_url) as conn:
        counts = await count_keys(conn)
    if settings.secret_keys is None and not path.exists() and any(one.key_id for one in counts):
        lost = "; ".join(unreadable_lines(counts, ()))
        raise Misuse(
            f"{path} is not there, and {lost}. Put the key file back; if it is lost for good, "
            "`helix secrets begin-anew` makes a fresh key, and what the old one encrypted must be "
            "stored again"
        )
    keyring = load_keyring(settings, create=True)
    for line in unreadable_lines(counts, keyring.key_ids):
        _say(f"CANNOT BE READ: {line}")
    return keyring


@asynccontextmanager
async def _database(settings: Settings, external: str | None) -> AsyncIterator[tuple[str, Mode]]:
    if external is not None:
        _say(f"using {redacted_url(external)}")
        yield external, "external"
        return
    async with embedded_postgres(settings, report=_say) as server:
        _say(f"PostgreSQL {server.version} runs on {HomePaths(settings.home_dir).data}")
        yield server.url, "embedded"


async def _serve(
    asgi: App,
    settings: Settings,
    listener: socket.socket,
    ending: _Ending,
    announce: Callable[[], None],
    *,
    held: bool,
) -> None:
    grace_s = math.ceil(settings.drain_timeout_s) + _TELL_S
    server = _Server(
        uvicorn.Config(
            asgi,
            http=Http1,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s,
        )
    )
    ending.serving(server, asgi.begin_stop)
    serving = asyncio.create_task(_serve_to_the_end(server, listener), name="server")
    while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.005)
    if server.started and not held:
        await _until_ready(_url_of(listener), server)
    if server.started and not server.should_exit:
        _settle_memory()
        announce()
    await serving
    if not server.started and not ending.begun:
        raise Unavailable("the server did not start: see the log above")


def _settle_memory() -> None:
    """Tell the collector of cycles that what is there now stays, and to look less often.

    By default it looks after every 700 new objects, which two calls make, and time and again at
    everything a server has loaded: a twentieth of the CPU of a call. Calls leave no cycles behind.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_YOUNG, _GC_MIDDLE, _GC_OLD)


async def _until_ready(url: str, server: _Server) -> None:
    """Wait, for a while, until the server says that it can take calls."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not server.should_exit:
        if await _is_ready(url):
            return
        if time.monotonic() > deadline:
            _say(f"it serves, but is not ready yet: {url}/ready tells what is missing")
            return
        await asyncio.sleep(0.02)


async def _is_ready(url: str) -> bool:
    parts = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return False
    try:
        writer.write(
            f"GET /ready HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode()
        )
        async with asyncio.timeout(_READY_TIMEOUT_S):
            status_line = await reader.readline()
        return status_line.split()[1:2] == [b"200"]
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


async def _serve_to_the_end(server: _Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # uvicorn's way to say that the application did not start; it has logged why
        _LOG.error("server_not_started")


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True, slots=True)
class _Key:
    """The bootstrap key; `fresh` when this start made it."""

    text: str
    fresh: bool


async def _first_key(
    settings: Settings, db: Database, keyring: Keyring, clock: Clock, *, as_json: bool
) -> _Key | None:
    """Return the key of this home, as long as it opens the door.

    It is made by the very first start and kept encrypted in HOME/bootstrap.key, so that every
    start with --json can name a key that works. Where there is none (another home made the first
    administrator, or the key was revoked), a start with --json makes one.
    """
    path = HomePaths(settings.home_dir).bootstrap_key
    made = await bootstrap_admin(db)
    if made is None and (kept := await _kept_key(path, settings, db, keyring, clock)):
        return _Key(kept, fresh=False)
    if made is None and as_json:
        made = await issue_admin_key(db, name=f"helix up of {settings.home_dir}"[:100])
    if made is None:
        return None
    write_private(path, keyring.encrypt(made, context=BOOTSTRAP_CONTEXT).encode())
    return _Key(made, fresh=True)


async def _kept_key(
    path: Path, settings: Settings, db: Database, keyring: Keyring, clock: Clock
) -> str | None:
    try:
        kept = keyring.decrypt(path.read_text(encoding="ascii"), context=BOOTSTRAP_CONTEXT)
    except FileNotFoundError:
        return None
    except (SecretUnreadable, OSError, UnicodeDecodeError) as exc:
        _say(f"{path} cannot be used: {exc}")
        return None
    gate = KeyGate(db, Store(), clock, cache_s=settings.key_cache_s)
    try:
        await gate.authenticate(f"Bearer {kept}".encode())
    except (Unauthenticated, Forbidden):
        path.unlink()
        return None
    return kept


def _json_line(instance: Instance, key: _Key | None) -> str:
    return msgspec.json.encode(
        {
            "url": instance.url,
            "api_key": None if key is None else key.text,
            "database_url": instance.database_url,
            "mode": instance.mode,
            "version": instance.version,
        }
    ).decode()


def _welcome(instance: Instance, key: _Key | None, home: Path) -> str:
    fresh = key.text if key is not None and key.fresh else None
    at_home = "" if home == Path("~/.helix").expanduser() else f" --home {shlex.quote(str(home))}"
    body = '{"model": "mock/echo", "messages": [{"role": "user", "content": "Hello"}]}'
    curl = (
        f"curl -s {instance.url}/v1/chat/completions "
        f'-H "Authorization: Bearer {fresh or "$HELIX_API_KEY"}" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
    key_line = (
        f"{fresh}   (of the first administrator; shown this once, keep it)"
        if fresh
        else f"yours, in HELIX_API_KEY; `helix keys create{at_home}` makes another"
    )
    return "\n".join(
        [
            "",
            f"Helix {instance.version} serves at {instance.url}",
            "",
            f"  API key   {key_line}",
            f"  Try it    {curl}",
            f"  See it    helix calls tail{at_home}",
            f"  Stop it   Ctrl-C, or kill {instance.pid}",
            "",
        ]
    )
