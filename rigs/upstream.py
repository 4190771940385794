"""Providers that repeat their ids, and providers whose connections hang half open.

    python -m rigs.upstream [--calls 10000] [--open 1000] [--rounds 3] [--seconds 12] [--short]

- U4: so many calls, half of them streaming, are answered under one and the same id: each is a
  request, an answer and a usage row of its own (rigs/ledger.py);
- U5: so many calls at once to one provider that never finishes a handshake, and to one that takes
  every connection and says nothing. Meanwhile the p99 of calls to a healthy provider is at most
  twice what it was, the gateway holds no more descriptors than two for each call, its breaker opens
  within 10 s and then refuses at once, and the descriptors are given back when the clients leave.

As controls rows are lost, doubled and changed, and a healthy provider made slow; each must be
found. Exit status 1 when something was not as promised, or a control was not found.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import psycopg
from aiohttp import web

from bench.machine import facts
from bench.processes import Helix, start
from rigs.gateways import (
    MODEL,
    add_provider,
    descriptors,
    make_key,
    percentile,
    serving,
    until,
    verdict,
)
from rigs.ledger import Ledger, compare

CLIENTS = 32
HEALTHY_CLIENTS = 8
SLOWER_MOST = 2.0
BREAKER_MOST_S = 10.0
REFUSED_MOST_S = 1.0
OPENED_A_SECOND = 200.0
"""So many calls a second begin to hang: this process is also the healthy ones' client."""

GIVEN_BACK_MOST_S = 10.0
DESCRIPTORS_A_CALL = 2
DESCRIPTORS_BESIDE = 200
"""What a gateway may hold beside those of calls: idle connections, its database, its clients."""

UPSTREAM_ID = "same-id-every-time"
_IDS = """
SELECT count(*), count(DISTINCT r.id), count(DISTINCT r.request_id), count(DISTINCT r.upstream_id)
FROM llm_responses r JOIN llm_requests q ON q.id = r.request_id
WHERE q.model_name = %s AND r.status = 'completed'
"""
_PLANTED = {
    "lost": "DELETE FROM llm_requests WHERE id = %s",
    "doubled": "INSERT INTO llm_responses (id, request_id, provider_name, model_name, status,"
    " latency_ms) SELECT uuidv7_beside(id), id, 'rig', 'echo', 'completed', 1 FROM llm_requests"
    " WHERE id = %s",
    "content": "UPDATE llm_response_bodies SET content = content || '!' WHERE request_id = %s",
}


@dataclass
class Provider:
    """Answers every call under one id, after `delay_s`; keeps a ledger of what it was asked."""

    delay_s: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer /v1/chat/completions, whole or as a stream of words."""
        body = json.loads(await request.read())
        op = body["messages"][-1]["content"]
        self.calls[op] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        words = f"answer to {op} in some words".split(" ")
        usage = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
        head: dict[str, Any] = {"id": UPSTREAM_ID, "created": 1, "model": "echo"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": " ".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(
                {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
        head["object"] = "chat.completion.chunk"
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        choices: list[list[dict[str, Any]]] = [
            [{"index": 0, "delta": {"content": word if not n else f" {word}"}}]
            for n, word in enumerate(words)
        ]
        choices.append([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        events = [{**head, "choices": one} for one in choices]
        events.append({**head, "choices": [], "usage": usage})
        told = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        with contextlib.suppress(ConnectionResetError):
            await answer.write(told.encode() + b"data: [DONE]\n\n")
            await answer.write_eof()
        return answer


@dataclass
class Rig:
    """A gateway, its key, and the provider that answers."""

    helix: Helix
    key: str
    admin_key: str
    provider: Provider
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def headers(self) -> dict[str, str]:
        """Return what a call carries."""
        return {"Authorization": f"Bearer {self.key}"}

    async def call(
        self, session: aiohttp.ClientSession, model: str, content: str, *, stream: bool = False
    ) -> tuple[int, str | None, str]:
        """Make a call; return its status, its request's id and the text that came whole."""
        body = {
            "model": model,
            "stream": stream,
            "messages": [{"role": "user", "content": content}],
        }
        url = f"{self.helix.url}/v1/chat/completions"
        async with session.post(url, json=body, headers=self.headers) as answer:
            told = await answer.read()
            request_id = answer.headers.get("x-helix-request-id")
            if answer.status != 200:
                return answer.status, request_id, ""
            if not stream:
                return 200, request_id, json.loads(told)["choices"][0]["message"]["content"]
            lines = [line for line in told.split(b"\n") if line.startswith(b"data: {")]
            if not told.rstrip().endswith(b"[DONE]"):
                return 0, request_id, ""
            pieces = (choice for line in lines for choice in json.loads(line[6:])["choices"])
            return 200, request_id, "".join(p["delta"].get("content") or "" for p in pieces)

    # ---- U4

    async def repeat_ids(self, calls: int) -> None:
        """Make calls that are all answered under the same id."""
        numbers = iter(range(calls))

        async def client() -> None:
            async with aiohttp.ClientSession() as session:
                for number in numbers:
                    entry = self.ledger.issue(f"op-{number}", stream=number % 2 == 1)
                    status, entry.request_id, entry.content = await self.call(
                        session, MODEL, entry.op, stream=entry.stream
                    )
                    entry.state = "acked" if status == 200 else "refused"

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    def audit_ids(self, calls: int) -> tuple[list[str], list[str]]:
        """Return what is not one row for each call, and the planted faults not found."""
        missed = []
        with psycopg.connect(self.helix.database_url) as conn:
            problems = compare(conn, self.ledger, self.provider.calls, model=MODEL).problems
            told = conn.execute(_IDS, (MODEL,)).fetchone()
            if told != (calls, calls, calls, 1):
                problems.append(f"U4: {told} answers, ids, requests, upstream ids of {calls} calls")
            victim = next(e for e in self.ledger.entries.values() if e.state == "acked")
            for name, statement in _PLANTED.items():
                with conn.transaction(force_rollback=True):
                    conn.execute("SET LOCAL session_replication_role = replica")
                    conn.execute(statement, (victim.request_id,))
                    found = compare(conn, self.ledger, self.provider.calls, model=MODEL).problems
                    if not any(problem.startswith(name) for problem in found):
                        missed.append(name)
        return problems, missed

    # ---- U5

    async def healthy_s(self, seconds: float) -> list[float]:
        """Return how long calls to the healthy provider took, for so many seconds."""
        taken_s: list[float] = []
        over_s = time.monotonic() + seconds

        async def client(number: int) -> None:
            async with aiohttp.ClientSession() as session:
                for turn in itertools.count():
                    began_s = time.monotonic()
                    if began_s > over_s:
                        return
                    status, _, _ = await self.call(session, MODEL, f"healthy-{number}-{turn}")
                    taken_s.append(time.monotonic() - began_s if status == 200 else float("inf"))

        await asyncio.gather(*(client(number) for number in range(HEALTHY_CLIENTS)))
        return taken_s

    async def hang(self, name: str, count: int, seconds: float) -> "Hung":
        """Open so many calls to a provider that hangs, while others call a healthy one."""
        hung = Hung(name, count, descriptors(self.helix.pid))
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began_s = time.monotonic()
            watch = asyncio.create_task(self._watch(session, hung, began_s))
            healthy = asyncio.create_task(self.healthy_s(seconds))
            calls = []
            for number in range(count):
                call = self.call(session, f"{name}/echo", f"hung-{number}")
                calls.append(asyncio.create_task(call))
                await asyncio.sleep(began_s + (number + 1) / OPENED_A_SECOND - time.monotonic())
            hung.healthy_s = await healthy
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
            hung.refusals_s = [await self._refused_s(session, name) for _ in range(20)]
            for one_call in calls:
                one_call.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            hung.told = Counter(
                one[0] if isinstance(one, tuple) else type(one).__name__ for one in ended
            )
        bound = hung.before + DESCRIPTORS_BESIDE
        hung.given_back_s = await until(
            lambda: descriptors(self.helix.pid) <= bound, GIVEN_BACK_MOST_S
        )
        return hung

    async def _watch(self, session: aiohttp.ClientSession, hung: "Hung", began_s: float) -> None:
        while True:
            hung.most = max(hung.most, descriptors(self.helix.pid))
            if hung.opened_s is None:
                url = f"{self.helix.url}/api/providers/{hung.name}"
                headers = {"Authorization": f"Bearer {self.admin_key}"}
                async with session.get(url, headers=headers) as answer:
                    here = (await answer.json())["here"] or {}
                    if here.get("breaker") == "open":
                        hung.opened_s = time.monotonic() - began_s
            await asyncio.sleep(0.05)

    async def _refused_s(self, session: aiohttp.ClientSession, name: str) -> float:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(2 * REFUSED_MOST_S):
                await self.call(session, f"{name}/echo", "once more")
        except TimeoutError:
            return float("inf")
        return time.monotonic() - began_s


@dataclass
class Hung:
    """What was seen while many calls hung."""

    name: str
    count: int
    before: int
    most: int = 0
    opened_s: float | None = None
    given_back_s: float | None = None
    healthy_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    told: Counter[Any] = field(default_factory=Counter)

    def problems(self) -> list[str]:
        """Return what was not as promised of one round, but for the times of healthy calls."""
        found = []
        if self.opened_s is None or self.opened_s > BREAKER_MOST_S:
            found.append(f"U5 {self.name}: breaker open after {self.opened_s} s")
        most = self.before + DESCRIPTORS_A_CALL * self.count + DESCRIPTORS_BESIDE
        if self.most > most:
            found.append(f"U5 {self.name}: {self.most} descriptors, at most {most}")
        if self.given_back_s is None:
            found.append(f"U5 {self.name}: descriptors were not given back")
        if max(self.refusals_s) > REFUSED_MOST_S:
            found.append(f"U5 {self.name}: a refusal took {max(self.refusals_s):.2f} s")
        return found


def slowed(calm_s: list[list[float]], hung_s: list[list[float]]) -> float:
    """Return by which factor the p99 rose: the median of rounds against that of calm ones."""
    return median(percentile(one, 0.99) for one in hung_s) / median(
        percentile(one, 0.99) for one in calm_s
    )


@asynccontextmanager
async def hanging() -> AsyncIterator[dict[str, int]]:
    """Yield the ports of `deaf`, which finishes no handshake, and `silent`, which never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        full = []
        for _ in range(2):  # its queue is full; whoever comes next hears nothing
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
            full.append(one)
        over = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            del reader
            await over.wait()
            writer.transport.abort()

        server = await asyncio.start_server(listen, "127.0.0.1", 0, backlog=2_048)
        try:
            port = server.sockets[0].getsockname()[1]
            yield {"deaf": deaf.getsockname()[1], "silent": port}
        finally:
            over.set()
            server.close()
            for one in full:
                one.close()


async def _half_open(rig: Rig, given: argparse.Namespace) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    calm: list[list[float]] = []
    async with hanging() as ports:
        during: dict[str, list[list[float]]] = {name: [] for name in ports}
        for number in range(given.rounds):
            for name, port in ports.items():
                provider = f"{name}-{number}"  # a new one: the breaker of the last is still open
                await asyncio.to_thread(add_provider, rig.helix, provider, port)
                calm.append(await rig.healthy_s(given.seconds / 2))
                hung = await rig.hang(provider, given.open, given.seconds)
                problems += hung.problems()
                during[name].append(hung.healthy_s)
                print(
                    f"U5 {name}: {given.open} calls, breaker open after {hung.opened_s or -1:.1f}"
                    f" s; descriptors {hung.before} → {hung.most}, given back after"
                    f" {hung.given_back_s or -1:.1f} s; healthy p99"
                    f" {percentile(calm[-1], 0.99) * 1e3:.0f} →"
                    f" {percentile(hung.healthy_s, 0.99) * 1e3:.0f} ms; the hung were told"
                    f" {dict(hung.told)}"
                )
    for name, times in during.items():
        factor = slowed(calm, times)
        print(f"U5 {name}: p99 of the healthy provider {factor:.2f}×")
        if factor > SLOWER_MOST:
            problems.append(f"U5 {name}: p99 of the healthy provider rose {factor:.2f}×")
    rig.provider.delay_s = SLOWER_MOST * median(percentile(one, 0.99) for one in calm)
    slow = await rig.healthy_s(given.seconds / 2)
    return problems, [] if slowed(calm, [slow]) > SLOWER_MOST else ["a slow healthy provider"]


async def _run(given: argparse.Namespace, home: Path) -> int:
    provider = Provider()
    async with serving(provider) as port:
        helix = await asyncio.to_thread(start, home)
        try:
            await asyncio.to_thread(add_provider, helix, "rig", port)
            key = await asyncio.to_thread(make_key, helix)
            rig = Rig(helix, key, await asyncio.to_thread(make_key, helix, "admin"), provider)
            began_s = time.monotonic()
            await rig.repeat_ids(given.calls)
            problems, missed = await asyncio.to_thread(rig.audit_ids, given.calls)
            print(
                f"U4: {rig.ledger.count('acked')} of {given.calls} calls answered under one id in"
                f" {time.monotonic() - began_s:.0f} s, {len(problems)} violations"
            )
            more, unseen = await _half_open(rig, given)
            return verdict(problems + more, missed + unseen)
        finally:
            helix.process.terminate()
            await asyncio.to_thread(helix.process.wait, 60)


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--open", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="a round of U5")
    parser.add_argument("--short", action="store_true", help="400 calls, 300 open, 1 round")
    given = parser.parse_args()
    if given.short:
        given.calls, given.open, given.rounds = 400, 300, 1
    print(facts())
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name) / "home"))
    sys.exit(status)


if __name__ == "__main__":
    main()
