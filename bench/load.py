"""Driving an HTTP target: wrk to saturate it, and a lean client of our own for a fixed rate.

The client writes one prepared request and looks only for the first byte of the body and for the
end of the answer, so that on a small machine the measuring takes little from what is measured: a
general client costs ten times the CPU, which then shows as latency of the target.
"""

import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

__all__ = ["Driven", "Request", "body_of", "pace", "saturate"]

_TIMEOUT_S = 30.0
_WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %%d %%d %%f %%f %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent: always the same."""

    url: str
    body: str
    key: str = "none"

    def wire(self) -> bytes:
        """Return it as bytes of HTTP/1.1."""
        parts = urlsplit(self.url)
        return (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self.body.encode())}\r\n\r\n{self.body}"
        ).encode()


@dataclass(slots=True)
class Driven:
    """What driving gave: calls, calls a second, milliseconds, and errors.

    The milliseconds are those of whole calls under wrk; at a fixed rate, from when a call was due
    to the first byte of its body.
    """

    calls: int = 0
    rate: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    errors: int = 0


def saturate(request: Request, *, seconds: float, connections: int) -> Driven:
    """Drive a target with wrk, as fast as it goes."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK % (request.key, request.body))
        script.flush()
        said = subprocess.run(
            [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds:.0f}s",
                f"--timeout={_TIMEOUT_S:.0f}s",
                f"-s{script.name}",
                request.url,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    line = next(line for line in said.splitlines() if line.startswith("RESULT")).split()
    calls, micros, p50_us, p99_us, errors = (float(part) for part in line[1:])
    rate = calls / micros * 1e6
    return Driven(int(calls), rate, p50_us / 1e3, p99_us / 1e3, int(errors))


def pace(request: Request, *, rate: float, seconds: float) -> Driven:
    """Call at a fixed rate, whatever comes back (open loop); the first tenth only warms up."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Pacer(request).run(rate, seconds))


class _Pacer:
    def __init__(self, request: Request) -> None:
        parts = urlsplit(request.url)
        self._place = (parts.hostname or "", parts.port or 80)
        self._wire = request.wire()
        self._idle: list[_Connection] = []
        self._all: list[_Connection] = []
        self._open = 0
        self._calls = 0
        self._warm = 0
        self._finished = asyncio.Event()
        self.taken_ms: list[float] = []
        self.errors = 0

    async def run(self, rate: float, seconds: float) -> Driven:
        self._calls = self._open = max(int(rate * seconds), 10)
        self._warm = self._calls // 10
        begun_s = time.perf_counter()
        for number in range(self._calls):
            due_s = begun_s + number / rate
            wait_s = due_s - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            while self._idle and self._idle[-1].closed:  # the target let it go meanwhile
                self._idle.pop()
            if self._idle:
                self._idle.pop().send(self._wire, due_s, number >= self._warm)
            else:
                asyncio.create_task(self._connect(due_s, number >= self._warm))  # noqa: RUF006
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._finished.wait()
        except TimeoutError:
            self.errors += self._open
        took_s = time.perf_counter() - begun_s
        for connection in self._all:
            connection.close()
        ordered = sorted(self.taken_ms) or [0.0]
        return Driven(
            self._calls,
            self._calls / took_s,
            statistics.median(ordered),
            ordered[int(len(ordered) * 0.99)],
            self.errors,
        )

    async def _connect(self, due_s: float, counts: bool) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._ended), *self._place
            )
        except OSError:
            self.errors += 1
            self._done()
            return
        self._all.append(connection)
        connection.send(self._wire, due_s, counts)

    def _ended(self, connection: "_Connection", taken_ms: float | None, ok: bool) -> None:
        if taken_ms is not None:
            self.taken_ms.append(taken_ms)
        if ok:
            self._idle.append(connection)
        else:
            self.errors += 1
        self._done()

    def _done(self) -> None:
        self._open -= 1
        if not self._open:
            self._finished.set()


@dataclass(slots=True, eq=False)
class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    ended: Callable[["_Connection", float | None, bool], None]
    transport: Any = None
    busy: bool = False
    closed: bool = False
    got: bytearray = field(default_factory=bytearray)
    due_s: float = 0.0
    counts: bool = True
    body_at: int = -1
    first_ms: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, wire: bytes, due_s: float, counts: bool) -> None:
        self.got.clear()
        self.busy, self.due_s, self.counts = True, due_s, counts
        self.body_at, self.first_ms = -1, None
        self.transport.write(wire)

    def data_received(self, data: bytes) -> None:
        got = self.got
        got += data
        if self.body_at < 0:
            end = got.find(b"\r\n\r\n")
            if end < 0:
                return
            self.body_at = end + 4
        if self.first_ms is None and len(got) > self.body_at:
            self.first_ms = (time.perf_counter() - self.due_s) * 1e3
        if self._is_whole():
            self.busy = False
            ok = got.startswith(b"HTTP/1.1 200")
            self.ended(self, self.first_ms if self.counts else None, ok)

    def _is_whole(self) -> bool:
        head = bytes(self.got[: self.body_at]).lower()
        at = head.find(b"content-length:")
        if at < 0:
            return self.got.endswith(b"0\r\n\r\n")
        length = int(head[at + 15 : head.find(b"\r", at)])
        return len(self.got) - self.body_at >= length

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.busy:
            self.busy = False
            self.ended(self, None, False)

    def close(self) -> None:
        self.busy, self.closed = False, True
        self.transport.abort()


def body_of(model: str, question: dict[str, Any], *, stream: bool) -> str:
    """Return the JSON of a chat request."""
    return json.dumps({"model": model, **({"stream": True} if stream else {}), **question})
