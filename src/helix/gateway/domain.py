"""The gateway put together: its parts, its start, and its end."""

import asyncio
import os
import secrets
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from helix import __version__
from helix.accounts import Accounts
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.db import Database
from helix.core.instance import HomePaths
from helix.core.log import get_log
from helix.gateway.admitting import Admitting
from helix.gateway.after import AfterSettling
from helix.gateway.asgi import Surface
from helix.gateway.attempts import Attempts
from helix.gateway.cache import Cache
from helix.gateway.call import CallLimits, Calls
from helix.gateway.caller import Caller
from helix.gateway.ending import Ending
from helix.gateway.errors import NotRecorded
from helix.gateway.exchange import Receive, Scope, Send
from helix.gateway.hooks import AfterHook, AfterWanted, BeforeHook, Injected
from helix.gateway.intake import IntakeLimits
from helix.gateway.kept import KeptResponses
from helix.gateway.metrics import Metrics
from helix.gateway.ownership import Ownership
from helix.gateway.recorder import Recorder
from helix.gateway.replay import Replays
from helix.gateway.settle import given_up
from helix.gateway.spool import Spool
from helix.gateway.store import Store
from helix.gateway.stream import Streams
from helix.gateway.sweep import Sweep, SweepTimes
from helix.gateway.types import Admission, CallRequest, Settlement
from helix.gateway.upstream import Upstream
from helix.gateway.virtual import VirtualModel
from helix.gateway.virtual_run import Virtuals
from helix.gateway.whole import Wholes
from helix.ledger import Ledger
from helix.providers import Providers

__all__ = ["Gateway", "build"]

_log = get_log(__name__)

WRITE_OUT_S = 10.0
INTERRUPTED_WAIT_S = 5.0
_PATHS = frozenset({"/health", "/metrics", "/ready", "/v1"})


class Gateway:
    """The surface of models: an ASGI application. `start` and `stop` it with the server.

    `accounts`, `providers` and `ledger` are started before it and stopped after it. `caller` makes
    calls for whoever is above.
    """

    def __init__(
        self,
        *,
        db: Database,
        settings: Settings,
        accounts: Accounts,
        providers: Providers,
        ledger: Ledger,
        clock: Clock,
        sweep: SweepTimes,
        counters: CollectorRegistry | None,
    ) -> None:
        lease = secrets.randbelow(1 << 52) + 1  # exact also where JSON numbers are doubles
        store, metrics, intake = Store(), Metrics(counters), IntakeLimits.of(settings)
        self._clock = clock
        self._drain_timeout_s = settings.drain_timeout_s
        self._cutting: asyncio.TimerHandle | None = None
        self._recorder = Recorder(
            db.url,
            clock=clock,
            metrics=metrics,
            lease=lease,
            batch_max=settings.record_batch_max,
            wait_s=settings.record_timeout_s,
            spool=Spool(
                HomePaths(settings.home_dir).spool,
                name=f"{os.getpid()}-{lease:013x}",
                bytes_max=settings.spool_bytes_max,
            ),
        )
        self._sweep = Sweep(db, store, self._recorder, clock, lease=lease, times=sweep)
        replays = Replays(db, store, clock)
        kept = KeptResponses(db, store, intake)
        self._cache = Cache(db, store, clock, entries_max=settings.response_cache_entries_max)
        self._after = AfterSettling(db, store, replays=replays, cache=self._cache)
        ending = Ending(
            ledger=ledger,
            recorder=self._recorder,
            metrics=metrics,
            clock=clock,
            settled=self._after.settled,
        )
        upstream = Upstream(providers=providers, clock=clock)
        attempts = Attempts(
            providers=providers,
            ending=ending,
            clock=clock,
            sample_ratio=settings.stream_sample_ratio,
        )
        wholes = Wholes(upstream=upstream, attempts=attempts, ending=ending)
        streams = Streams(upstream=upstream, attempts=attempts, ending=ending, clock=clock)
        admitting = Admitting(
            recorder=self._recorder, ledger=ledger, providers=providers, clock=clock, lease=lease
        )
        self._virtuals = Virtuals(
            providers=providers,
            attempts=attempts,
            wholes=wholes,
            ending=ending,
            recorder=self._recorder,
            clock=clock,
            intake=intake,
            total_timeout_s=settings.total_timeout_s,
        )
        self._calls = Calls(
            accounts=accounts,
            providers=providers,
            admitting=admitting,
            ownership=Ownership(db, store, clock),
            ending=ending,
            wholes=wholes,
            streams=streams,
            virtuals=self._virtuals,
            replays=replays,
            kept=kept,
            cache=self._cache,
            clock=clock,
            intake=intake,
            limits=CallLimits(
                body_bytes_max=settings.body_bytes_max,
                bodies_bytes_max=settings.bodies_bytes_max,
                body_timeout_s=settings.body_timeout_s,
                calls_in_flight_max=settings.calls_in_flight_max,
                idempotency_wait_s=settings.idempotency_wait_s,
                cache_ttl_s=settings.response_cache_ttl_s,
            ),
        )
        self.room = self._calls.room
        self.caller = Caller(
            calls=self._calls,
            admitting=admitting,
            wholes=wholes,
            virtuals=self._virtuals,
            replays=replays,
            clock=clock,
        )
        self._surface = Surface(
            calls=self._calls,
            accounts=accounts,
            providers=providers,
            ledger=ledger,
            recorder=self._recorder,
            virtuals=self._virtuals,
            kept=kept,
            metrics=metrics,
            clock=clock,
            version=__version__,
        )
        metrics.follow(
            in_flight=lambda: self._calls.in_flight,
            waiting=lambda: self._recorder.waiting,
            connected=lambda: self._recorder.connected,
            storage_full=lambda: self._recorder.storage_full,
        )

    @staticmethod
    def handles(path: str) -> bool:
        """Say whether a path is the gateway's: all of /v1, /health, /ready, /metrics."""
        return path.startswith("/v1/") or path in _PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        await self._surface(scope, receive, send)

    def add_virtual(self, prefix: str, handler: VirtualModel) -> None:
        """Let a handler answer the models `prefix/…`; before the start."""
        self._virtuals.add(prefix, handler)

    def add_before(self, hook: BeforeHook) -> None:
        """Call a hook before each call is recorded, in the order they were added."""
        self._calls.before.append(hook)

    def add_after(self, hook: AfterHook, *, wanted: AfterWanted | None = None) -> None:
        """Call a hook after each call is settled that is `wanted`, in the order they were added."""
        self._after.hooks.append((hook, wanted or _every_call))

    def add_problems(self, source: Callable[[], Sequence[str]]) -> None:
        """Tell in /health, which is not "ok" then, what else is wrong: a line each."""
        self._surface.problems.append(source)

    async def start(self) -> None:
        """Begin to record, and to close what dead gateways left open.

        It does not wait for the database: until that is there, calls are refused with 503.
        """
        self._recorder.start(self._given_up)
        self._sweep.start()
        self._cache.start()
        self._calls.start()

    def begin_stop(self) -> None:
        """Take no more calls; those under way may go on for drain_timeout_s, then are cut off.

        The time counts from the first time this is called; further ones change nothing.
        """
        if self._cutting is None:
            self._calls.stopping = True
            loop = asyncio.get_running_loop()
            self._cutting = loop.call_later(self._drain_timeout_s, self._cut_off)

    def _cut_off(self) -> None:
        if self._calls.in_flight:
            _log.warning("calls_cut_off", calls=self._calls.in_flight)
            self._calls.cut_all()

    async def stop(self) -> None:
        """Let calls end within drain_timeout_s, cut off the rest, write out every record."""
        self.begin_stop()
        await self._calls.until_idle(self._drain_timeout_s + INTERRUPTED_WAIT_S)
        if self._cutting is not None:
            self._cutting.cancel()
        self._calls.stop()
        await self._sweep.stop()
        left = await self._recorder.drain(WRITE_OUT_S)
        if left:
            _log.error("records_not_written", rows=left)
        await self._after.drain(INTERRUPTED_WAIT_S)
        await self._cache.stop()
        await self._recorder.stop()

    def _given_up(self, admission: Admission) -> Settlement:
        return given_up(admission, error=NotRecorded(), now=self._clock.now())


def _every_call(_request: CallRequest, _injected: Injected | None) -> bool:
    return True


def build(
    db: Database,
    settings: Settings,
    *,
    accounts: Accounts,
    providers: Providers,
    ledger: Ledger,
    clock: Clock | None = None,
    sweep: SweepTimes | None = None,
    counters: CollectorRegistry | None = None,
) -> Gateway:
    """Put the domain together; /metrics tells what `counters` holds, others' counts included."""
    return Gateway(
        db=db,
        settings=settings,
        accounts=accounts,
        providers=providers,
        ledger=ledger,
        clock=clock or SystemClock(),
        sweep=sweep or SweepTimes(),
        counters=counters,
    )
