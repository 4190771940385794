"""Bodies and heads that are made to hurt: memory, the loop and other clients hold (I8).

    python -m rigs.hostile [--seconds 6] [--parallel 1] [--short]

While some clients make ordinary calls, others send, for so many seconds each: bodies of a gigabyte,
whole and in chunks; lengths that lie; JSON 100,000 deep; 100,000 messages; a million keys;
boundaries and parts of forms; 10,000 headers and one of a megabyte; lists of ranges; to /v1 and to
routes of /api. Held meanwhile: no answer is a 5xx but a 503; memory grows by 100 MB at most in all;
the loop is never blocked for longer than 100 ms; the p99 of the ordinary calls is at most twice
what it is while as many well-formed requests are made.

How long the loop is blocked is the time from asking /health to its answer, less what the kernel
says the gateway's and the asking thread waited for a processor. The attackers are a process of
their own: what they are busy with is not taken for the gateway's. As controls a signal stops the
gateway for a quarter of a second, and 150 MB are sent in requests that may be: both must be seen.
Exit status 1 when something was not as promised.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import aiohttp

from bench.machine import facts
from bench.processes import Helix, start
from rigs.gateways import make_key, memory_bytes, percentile, verdict

GROWTH_MOST_BYTES = 100_000_000
BLOCKED_MOST_S = 0.1
SLOWER_MOST = 2.0
ORDINARY_CLIENTS = 4
PROBE_EVERY_S = 0.01
PIECE = b"x" * 65_536
WAIT_S = 5.0
Parts = Iterator[bytes]


def _head(path: str, key: str, *lines: str) -> bytes:
    told = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *lines]
    return ("\r\n".join(told) + "\r\n\r\n").encode()


def _json(path: str, key: str, body: bytes) -> Parts:
    yield _head(path, key, "Content-Type: application/json", f"Content-Length: {len(body)}")
    yield body


def _endless(first: bytes, piece: bytes, total: int) -> Parts:
    yield first
    for _ in range(total // len(PIECE)):
        yield piece


CHAT = "/v1/chat/completions"
PATHS = (CHAT, "/v1/responses", "/v1/messages", "/api/memories", "/api/knowledge", "/api/tasks")
_MESSAGE = b'{"role":"user","content":"x"}'
_DEEP = b"[" * 100_000 + b"]" * 100_000
_KEYS = b"{" + b",".join(b'"k%d":1' % number for number in range(1_000_000)) + b"}"
_WORDS = b'"' + b"word " * 3_900_000 + b'"'


def _chat(**fields: bytes) -> bytes:
    told = {"model": b'"mock/small"', "messages": b"[%s]" % _MESSAGE, **fields}
    return b"{" + b",".join(b'"%s":%s' % (k.encode(), v) for k, v in told.items()) + b"}"


WELL_FORMED = "well-formed requests"


def attacks(key: str) -> dict[str, Callable[[], list[Parts]]]:
    """Return each attack by its name: what makes the requests of one round of it.

    WELL_FORMED is none: what the others are compared with.
    """
    giga = 1_000_000_000
    chunk = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
    busy = _chat(messages=b'[{"role":"user","content":"%s"}]' % (b"word " * 2_000))
    return {
        WELL_FORMED: lambda: [_json(CHAT, key, busy)],
        "1 GB": lambda: [
            _endless(_head(path, key, f"Content-Length: {giga}"), PIECE, giga) for path in PATHS
        ],
        "1 GB in chunks": lambda: [
            _endless(_head(path, key, "Transfer-Encoding: chunked"), chunk, giga) for path in PATHS
        ],
        "a length that is too small": lambda: [
            iter([_head(path, key, "Content-Length: 20"), _chat(), PIECE]) for path in PATHS
        ],
        "a length that is too large": lambda: [
            iter([_head(path, key, "Content-Length: 9000000"), b"{" + PIECE]) for path in PATHS * 5
        ],
        "two lengths, and none": lambda: [
            iter([_head(path, key, *lines), _chat()])
            for path in PATHS
            for lines in (
                ("Content-Length: 5", "Content-Length: 500"),
                ("Content-Length: -1",),
                ("Content-Length: 99999999999999999999",),
                ("Content-Length: 5", "Transfer-Encoding: chunked"),
            )
        ],
        "100,000 deep": lambda: [
            _json(path, key, body)
            for path in PATHS
            for body in (_DEEP, _chat(deep=_DEEP), b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
        ],
        "100,000 messages": lambda: [
            _json(path, key, _chat(messages=b"[" + b",".join([_MESSAGE] * 100_000) + b"]"))
            for path in PATHS
        ],
        "a million keys": lambda: [
            _json(path, key, body) for path in PATHS for body in (_KEYS, _chat(metadata=_KEYS))
        ],
        "a boundary of 1 MB": lambda: [
            iter([_head(path, key, f"Content-Type: multipart/form-data; boundary={'b' * 2**20}")])
            for path in ("/api/knowledge/file", CHAT)
        ],
        "100,000 parts": lambda: [_parts(path, key) for path in ("/api/knowledge/file", CHAT)],
        "10,000 headers": lambda: [
            iter([_head(path, key, *(f"X-{n}: {n}" for n in range(10_000)))]) for path in PATHS
        ],
        "a header of 1 MB": lambda: [
            iter([_head(path, key, f"X-Long: {'x' * 2**20}")]) for path in PATHS
        ],
        "10,000 ranges": lambda: [
            iter([_get(path, key, "Range: bytes=" + ",".join(["0-"] * 10_000))])
            for path in ("/v1/models", "/api/openapi.json", "/health", "/api/calls")
        ],
    }


def _parts(path: str, key: str) -> Parts:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'
    body = part * 100_000 + b"--b--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b"
    yield _head(path, key, kind, f"Content-Length: {len(body)}")
    yield body


def _get(path: str, key: str, line: str) -> bytes:
    return _head(path, key, line, "Content-Length: 0").replace(b"POST", b"GET", 1)


class Watch(threading.Thread):
    """Asks /health all the time, and notes how long the loop was blocked, and the memory."""

    def __init__(self, helix: Helix) -> None:
        super().__init__(daemon=True)
        self._address = urlsplit(helix.url)
        self._pid = helix.pid
        self._ended = threading.Event()
        self.blocked_s = 0.0
        self.most_bytes = 0

    def run(self) -> None:
        """Ask until told to end."""
        own = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        theirs = f"/proc/{self._pid}/task/{self._pid}/schedstat"
        sock = socket.create_connection((self._address.hostname, self._address.port or 80))
        while not self._ended.is_set():
            waited = _waited_s(own) + _waited_s(theirs)
            began_s = time.monotonic()
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            told = b""
            while b'"problems"' not in told:
                some = sock.recv(65_536)
                if not some:
                    sock.close()
                    return
                told += some
            took_s = time.monotonic() - began_s
            self.blocked_s = max(
                self.blocked_s, took_s - (_waited_s(own) + _waited_s(theirs) - waited)
            )
            self.most_bytes = max(self.most_bytes, memory_bytes(self._pid))
            self._ended.wait(PROBE_EVERY_S)
        sock.close()

    def end(self) -> None:
        """Stop asking."""
        self._ended.set()
        self.join(60)


def _waited_s(path: str) -> float:
    """Return how long a thread has waited for a processor."""
    return int(Path(path).read_text(encoding="ascii").split()[1]) / 1e9


@dataclass
class Seen:
    """What was seen while an attack ran."""

    statuses: Counter[int] = field(default_factory=Counter)
    ordinary_s: list[float] = field(default_factory=list)
    blocked_s: float = 0.0
    most_bytes: int = 0


class Attackers:
    """Send the requests of one attack, so many at a time; run in a process of their own."""

    def __init__(self, url: str, rounds: Callable[[], list[Parts]], over_s: float) -> None:
        self._url = urlsplit(url)
        self._rounds = rounds
        self._over_s = over_s
        self._queue: list[Parts] = []
        self.statuses: Counter[int] = Counter()

    async def run(self, parallel: int) -> None:
        """Attack until the time is over."""
        await asyncio.gather(*(self._attack() for _ in range(parallel)))

    async def _attack(self) -> None:
        while time.monotonic() < self._over_s:
            if not self._queue:
                self._queue.extend(self._rounds())
            self.statuses[await self.send(self._queue.pop())] += 1

    async def send(self, parts: Parts) -> int:
        """Send a request as far as it is taken; return the status, 0 when there was none."""
        reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        try:
            async with asyncio.timeout(WAIT_S):
                answer = asyncio.create_task(reader.readline())
                with contextlib.suppress(OSError):
                    for part in parts:
                        writer.write(part)
                        await writer.drain()
                        await asyncio.sleep(0)
                        if answer.done():
                            break
                line = await answer
            return int(line.split(b" ")[1]) if line else 0
        except (TimeoutError, OSError, ValueError):
            return 0
        finally:
            writer.transport.abort()


def _attack_as(name: str, url: str, key: str, over_s: float, parallel: int) -> Counter[int]:
    """Be the attackers of this name; return the statuses they were told."""
    attackers = Attackers(url, attacks(key)[name], over_s)
    asyncio.run(attackers.run(parallel))
    return attackers.statuses


class Rig:
    """Ordinary clients, and attackers beside them."""

    def __init__(self, helix: Helix, key: str, given: argparse.Namespace, pool: Executor) -> None:
        self.helix = helix
        self.key = key
        self.given = given
        self._pool = pool

    async def under(self, name: str) -> Seen:
        """Attack for a while."""
        seen, watch = Seen(), Watch(self.helix)
        over_s = time.monotonic() + self.given.seconds
        attacking = asyncio.get_running_loop().run_in_executor(
            self._pool, _attack_as, name, self.helix.url, self.key, over_s, self.given.parallel
        )
        await asyncio.to_thread(watch.start)
        await asyncio.gather(*(self._ordinary(over_s, seen) for _ in range(ORDINARY_CLIENTS)))
        seen.statuses = await attacking
        await asyncio.to_thread(watch.end)
        seen.blocked_s, seen.most_bytes = watch.blocked_s, watch.most_bytes
        return seen

    async def _ordinary(self, over_s: float, seen: Seen) -> None:
        body = {"model": "mock/echo", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"Authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession() as session:
            while (began_s := time.monotonic()) < over_s:
                async with session.post(
                    f"{self.helix.url}{CHAT}", json=body, headers=headers
                ) as answer:
                    await answer.read()
                    seen.ordinary_s.append(
                        time.monotonic() - began_s if answer.status == 200 else float("inf")
                    )

    async def run(self) -> tuple[list[str], list[str]]:
        """Do every attack; return what was not as promised, and the controls not seen."""
        problems: list[str] = []
        await self.under(WELL_FORMED)
        before = memory_bytes(self.helix.pid)
        calm: list[float] = []
        for name in attacks(self.key):
            if name == WELL_FORMED:
                continue
            calm.append(percentile((await self.under(WELL_FORMED)).ordinary_s, 0.99))
            seen = await self.under(name)
            p99_s = percentile(seen.ordinary_s, 0.99)
            wrong = {s: n for s, n in seen.statuses.items() if s >= 500 and s != 503}
            told = dict(sorted(seen.statuses.items()))
            print(
                f"I8 {name}: {seen.statuses.total()} requests, told {told};"
                f" memory +{(seen.most_bytes - before) / 1e6:.0f} MB; loop blocked"
                f" {seen.blocked_s * 1e3:.0f} ms; p99 {calm[-1] * 1e3:.0f} →"
                f" {p99_s * 1e3:.0f} ms",
                flush=True,
            )
            if wrong:
                problems.append(f"I8 {name}: told {wrong}")
            if seen.most_bytes - before > GROWTH_MOST_BYTES:
                problems.append(f"I8 {name}: +{(seen.most_bytes - before) / 1e6:.0f} MB")
            if seen.blocked_s > BLOCKED_MOST_S:
                problems.append(f"I8 {name}: the loop was blocked {seen.blocked_s * 1e3:.0f} ms")
            if p99_s > SLOWER_MOST * median(calm):
                problems.append(f"I8 {name}: p99 {p99_s * 1e3:.0f} ms, {median(calm) * 1e3:.0f}")
        if self.helix.process.poll() is not None:
            problems.append("I8: the gateway ended")
        return problems, await self._controls(before)

    async def _controls(self, before: int) -> list[str]:
        missed = []
        watch = Watch(self.helix)
        await asyncio.to_thread(watch.start)
        await asyncio.sleep(0.2)
        os.kill(self.helix.pid, signal.SIGSTOP)
        await asyncio.sleep(0.25)
        os.kill(self.helix.pid, signal.SIGCONT)
        await asyncio.sleep(0.2)
        await asyncio.to_thread(watch.end)
        if watch.blocked_s < BLOCKED_MOST_S:
            missed.append("a loop blocked for 250 ms")
        held = b'[{"role":"user","content":%s}]' % _WORDS
        watch = Watch(self.helix)
        await asyncio.to_thread(watch.start)
        sender = Attackers(self.helix.url, list, 0.0)
        await asyncio.gather(
            *(sender.send(_json(CHAT, self.key, _chat(messages=held))) for _ in "12345678")
        )
        await asyncio.to_thread(watch.end)
        if watch.most_bytes - before < GROWTH_MOST_BYTES:
            missed.append("160 MB of bodies at once")
        return missed


async def _run(given: argparse.Namespace, home: Path) -> int:
    helix = await asyncio.to_thread(start, home, extra={"HELIX_PROBE_INTERVAL_S": "0"})
    try:
        key = await asyncio.to_thread(
            make_key, helix, "completions", "memories", "knowledge", "tasks", "usage", "models"
        )
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return verdict(*await Rig(helix, key, given, pool).run())
    finally:
        helix.process.terminate()
        await asyncio.to_thread(helix.process.wait, 60)


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="each attack, and each calm")
    parser.add_argument("--parallel", type=int, default=1, help="attackers at a time")
    parser.add_argument("--short", action="store_true", help="2 seconds each")
    given = parser.parse_args()
    if given.short:
        given.seconds = 2.0
    print(facts())
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name) / "home"))
    sys.exit(status)


if __name__ == "__main__":
    main()
