"""The gateway put together: its parts, its start, and its end."""

import secrets

from prometheus_client import CollectorRegistry

from helix import __version__
from helix.accounts import Accounts
from helix.core.clock import Clock, SystemClock
from helix.core.config import Settings
from helix.core.db import Database
from helix.core.log import get_log
from helix.gateway.asgi import Surface
from helix.gateway.call import INTERRUPTED_WAIT_S, CallLimits, Chat
from helix.gateway.errors import NotRecorded
from helix.gateway.exchange import Receive, Scope, Send
from helix.gateway.intake import IntakeLimits
from helix.gateway.metrics import Metrics
from helix.gateway.ownership import Ownership
from helix.gateway.recorder import Recorder
from helix.gateway.settle import given_up
from helix.gateway.store import Store
from helix.gateway.sweep import Sweep, SweepTimes
from helix.gateway.types import Admission, Settlement
from helix.ledger import Ledger
from helix.providers import Providers

__all__ = ["Gateway", "build"]

_log = get_log(__name__)

WRITE_OUT_S = 10.0
_PATHS = frozenset({"/health", "/metrics", "/ready", "/v1"})


class Gateway:
    """The OpenAI-compatible surface: an ASGI application. `start` and `stop` it with the server.

    `accounts`, `providers` and `ledger` are started before it and stopped after it.
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
        store, metrics = Store(), Metrics(counters)
        self._clock = clock
        self._drain_timeout_s = settings.drain_timeout_s
        self._recorder = Recorder(
            db.url,
            clock=clock,
            metrics=metrics,
            lease=lease,
            batch_max=settings.record_batch_max,
            wait_s=settings.record_timeout_s,
        )
        self._sweep = Sweep(db, store, self._recorder, clock, lease=lease, times=sweep)
        self._chat = Chat(
            accounts=accounts,
            providers=providers,
            ledger=ledger,
            recorder=self._recorder,
            ownership=Ownership(db, store, clock),
            metrics=metrics,
            clock=clock,
            intake=IntakeLimits.of(settings),
            limits=CallLimits(
                settings.body_bytes_max, settings.total_timeout_s, settings.calls_in_flight_max
            ),
            lease=lease,
        )
        self._surface = Surface(
            chat=self._chat,
            accounts=accounts,
            providers=providers,
            ledger=ledger,
            recorder=self._recorder,
            metrics=metrics,
            clock=clock,
            version=__version__,
        )
        metrics.follow(
            in_flight=lambda: self._chat.in_flight,
            waiting=lambda: self._recorder.waiting,
            connected=lambda: self._recorder.connected,
        )

    @staticmethod
    def handles(path: str) -> bool:
        """Say whether a path is the gateway's: all of /v1, /health, /ready, /metrics."""
        return path.startswith("/v1/") or path in _PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        await self._surface(scope, receive, send)

    async def start(self) -> None:
        """Begin to record, and to close what dead gateways left open.

        It does not wait for the database: until that is there, calls are refused with 503.
        """
        self._recorder.start(self._given_up)
        self._sweep.start()

    def begin_stop(self) -> None:
        """Take no more calls; those under way go on."""
        self._chat.stopping = True

    async def stop(self) -> None:
        """Let calls end within drain_timeout_s, cut off the rest, write out every record."""
        self.begin_stop()
        if not await self._chat.until_idle(self._drain_timeout_s):
            _log.warning("calls_cut_off", calls=self._chat.in_flight)
            self._chat.cut_all()
            await self._chat.until_idle(INTERRUPTED_WAIT_S)
        await self._sweep.stop()
        left = await self._recorder.drain(WRITE_OUT_S)
        if left:
            _log.error("records_not_written", rows=left)
        await self._recorder.stop()

    def _given_up(self, admission: Admission) -> Settlement:
        return given_up(admission, error=NotRecorded(), now=self._clock.now())


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
