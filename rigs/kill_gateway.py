"""kill -9 of the gateway under load: what a client saw whole is exactly one row.

    python -m rigs.kill_gateway [--calls 10000] [--kills 20] [--clients 32] [--seed N] [--short]

Starts a Helix with an embedded database, a provider that keeps its own ledger and, when called,
checks that the request's row is committed; runs clients (half of them streaming) against it;
kills the whole of Helix with SIGKILL at random moments and starts it again; then holds the
ledgers against the rows (rigs/ledger.py). At the end it plants three faults (a row lost, doubled,
changed) in a transaction that is rolled back and requires each to be found. Exit status 1 when an
invariant is broken or a planted fault is not found.

kill -9 proves nothing about fsync: the page cache survives the process.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import aiohttp
import asyncpg
import psycopg
from aiohttp import web

from bench.machine import facts
from bench.processes import Helix, free_port, start
from rigs.ledger import Entry, Ledger, compare

_MODEL = "rig/echo"
SWEEP_MOST_S = 30.0


class Provider:
    """A provider that answers by repeating, and notes for each call whether its row was there."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.uncommitted: list[str] = []
        self.database_url = ""
        self._conn: asyncpg.Connection | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer /v1/chat/completions, whole or as a stream of words."""
        body = json.loads(await request.read())
        op = body["messages"][-1]["content"]
        self.calls[op] += 1
        request_id = request.headers.get("x-request-id", "")
        if not await asyncio.shield(asyncio.create_task(self._is_committed(request_id))):
            self.uncommitted.append(op)
        text = " ".join([f"answer to {op}:", *(f"word{n}" for n in range(len(op) * 7 % 40))])
        usage = {"prompt_tokens": len(op), "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        head: dict[str, object] = {"id": "same-id-every-time", "created": 1, "model": "echo"}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return web.json_response(whole)
        head["object"] = "chat.completion.chunk"
        with contextlib.suppress(ConnectionResetError):  # the caller was killed
            return await self._stream(request, head, text, usage)
        return web.Response()

    async def _stream(
        self, request: web.Request, head: dict[str, object], text: str, usage: dict[str, int]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        words = text.split(" ")
        for number, word in enumerate(words):
            piece = word if number == 0 else f" {word}"
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            await answer.write(f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode())
            if number % 5 == 4:
                await self.pause(number)
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await answer.write(f"data: {json.dumps({**head, 'choices': [last]})}\n\n".encode())
        await answer.write(
            f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n".encode()
        )
        await answer.write(b"data: [DONE]\n\n")
        await answer.write_eof()
        return answer

    async def pause(self, number: int) -> None:
        """Wait after word `number`: a provider takes its time, and kills find a middle."""
        await asyncio.sleep(0.002)

    async def _is_committed(self, request_id: str) -> bool:
        """Look for the request's row; when the database is dying, wait for the next one."""
        for _ in range(600):
            try:
                async with self._lock:
                    if self._conn is None or self._conn.is_closed():
                        self._conn = await asyncpg.connect(self.database_url, timeout=2)
                    return bool(
                        await self._conn.fetchval(
                            "SELECT count(*) FROM llm_requests WHERE id = $1::text::uuid",
                            request_id,
                        )
                    )
            except asyncpg.DataError:
                return False
            except (
                OSError,
                TimeoutError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ):
                self._conn = None
                await asyncio.sleep(0.05)
        return False


class Rig:
    """One run: clients, the killer, and the Helix that is killed."""

    def __init__(
        self, given: argparse.Namespace, home: Path, extra: Mapping[str, str] | None = None
    ) -> None:
        self.given = given
        self.home = home
        self.extra = extra
        self.port = free_port()
        self.provider = self.make_provider()
        self.ledger = Ledger()
        self.helix: Helix | None = None
        self.key = ""
        self.up = asyncio.Event()
        self.left = self.numbers()
        self.rng = random.Random(given.seed)
        self.restart_s: list[float] = []
        self.refusals: Counter[str] = Counter()

    @staticmethod
    def make_provider() -> Provider:
        """Return the provider that answers."""
        return Provider()

    def numbers(self) -> Iterator[int]:
        """Yield a number for each call that is to be made."""
        yield from range(self.given.calls)

    async def run(self) -> None:
        """Drive until every call is made and every kill done."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.provider)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        upstream = runner.addresses[0][1]
        await self._start()
        await asyncio.to_thread(self._register, upstream)
        clients = [asyncio.create_task(self._client()) for _ in range(self.given.clients)]
        killer = asyncio.create_task(self.disturb(clients))
        await asyncio.gather(*clients)
        await killer
        await asyncio.to_thread(self._wait_for_the_sweep)
        await runner.cleanup()

    def _wait_for_the_sweep(self) -> None:
        """What a killed gateway left open is closed by the next one, within half a minute."""
        deadline = time.monotonic() + SWEEP_MOST_S
        open_calls = "SELECT count(*) FROM llm_requests WHERE status IN ('pending', 'running')"
        while self.running().sql(open_calls) and time.monotonic() < deadline:
            time.sleep(0.2)

    def _register(self, upstream: int) -> None:
        helix = self.running()
        base_url = f"http://127.0.0.1:{upstream}/v1"
        helix.run("providers", "add", "rig", "--base-url", base_url, "--model", "echo")
        helix.run(
            "prices", "set", _MODEL, "--input", "3", "--output", "15", "--by", "rig",
            "--notes", "an invented price",
        )  # fmt: skip
        made = helix.run("keys", "create", "--name", "rig", "--rate-limit", "100000000", "--json")
        self.key = json.loads(made)["key"]

    def running(self) -> Helix:
        """Return the Helix that runs."""
        if self.helix is None:
            raise RuntimeError("Helix is not running")
        return self.helix

    async def _start(self) -> None:
        begun = time.monotonic()
        self.helix = await asyncio.to_thread(start, self.home, port=self.port, extra=self.extra)
        self.provider.database_url = self.helix.database_url
        self.restart_s.append(time.monotonic() - begun)
        self.up.set()

    async def disturb(self, clients: list[asyncio.Task[None]]) -> None:
        """Do the faults while the clients call."""
        for number in range(self.given.kills):
            target = (number + self.rng.random()) * self.given.calls / (self.given.kills + 1)
            while len(self.ledger.entries) < target and not all(each.done() for each in clients):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(self.rng.random() * 0.05)
            helix = self.running()
            self.up.clear()
            helix.process.send_signal(signal.SIGKILL)
            helix.process.wait()
            await self._start()

    async def _client(self) -> None:
        async with aiohttp.ClientSession(read_bufsize=2**20) as session:
            for number in self.left:
                await self.up.wait()
                op = f"op-{number}-{self.rng.getrandbits(40):x}"
                entry = self.ledger.issue(op, stream=number % 2 == 1)
                try:
                    await self.call(session, entry)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    entry.state = "unknown"
                    await asyncio.sleep(0.01)

    async def call(self, session: aiohttp.ClientSession, entry: Entry) -> None:
        """Make one call and note what its client saw."""
        body = {
            "model": _MODEL,
            "stream": entry.stream,
            "messages": [{"role": "user", "content": entry.op}],
        }
        headers = {"Authorization": f"Bearer {self.key}", **self.headers(entry)}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        timeout, began_s = aiohttp.ClientTimeout(total=60), time.monotonic()
        async with session.post(url, json=body, headers=headers, timeout=timeout) as answer:
            if answer.status != 200:
                self.refused(answer, time.monotonic() - began_s)
                self.refusals[f"{answer.status} {(await answer.text())[:200]}"] += 1
                entry.state = "refused"
                return
            entry.request_id = answer.headers.get("x-helix-request-id")
            if not entry.stream:
                whole = json.loads(await answer.read())
                entry.content = whole["choices"][0]["message"]["content"]
                entry.state = "acked"
                return
            async for line in answer.content:
                if line.strip() == b"data: [DONE]":
                    entry.state = "acked"
                elif line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        entry.state = "cut"
                    for choice in event.get("choices", []):
                        entry.content += choice.get("delta", {}).get("content") or ""

    def refused(self, answer: aiohttp.ClientResponse, after_s: float) -> None:
        """Take note of a refusal, and of how long it took."""

    def headers(self, _: Entry) -> dict[str, str]:
        """Return what a call carries beside its key."""
        return {}


_PLANTED = {
    "lost": "DELETE FROM llm_requests WHERE id = %s",
    "doubled": "INSERT INTO llm_responses (id, request_id, provider_name, model_name, status,"
    " latency_ms) SELECT uuidv7_beside(id), id, 'rig', 'echo', 'completed', 1 FROM llm_requests"
    " WHERE id = %s",
    "content": "UPDATE llm_response_bodies SET content = content || '!' WHERE request_id = %s",
}


def _controls(conn: psycopg.Connection[object], rig: Rig) -> list[str]:
    """Plant each fault, look for it, take it back; return the names of those not found."""
    missed = []
    victim = next(e for e in rig.ledger.entries.values() if e.state == "acked" and e.request_id)
    for name, statement in _PLANTED.items():
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL session_replication_role = replica")
            conn.execute(statement, (victim.request_id,))
            found = compare(conn, rig.ledger, rig.provider.calls, model=_MODEL)
            if not any(problem.startswith(name) for problem in found.problems):
                missed.append(name)
    return missed


def audit(rig: Rig) -> tuple[list[str], list[str]]:
    """Return the invariants that the ledgers show broken, and the planted faults not found."""
    with psycopg.connect(rig.running().database_url) as conn:
        found = compare(conn, rig.ledger, rig.provider.calls, model=_MODEL)
        problems = [
            *found.problems,
            *(f"too early: {op} reached the provider first" for op in rig.provider.uncommitted),
        ]
        missed = _controls(conn, rig) if rig.ledger.count("acked") else sorted(_PLANTED)
    return problems, missed


def _report(rig: Rig, seconds: float) -> int:
    problems, missed = audit(rig)
    restarts = sorted(rig.restart_s[1:]) or [0.0]
    print(
        f"{len(rig.ledger.entries)} calls in {seconds:.0f} s, {rig.given.kills} kills:"
        f" {rig.ledger.count('acked')} acknowledged, {rig.ledger.count('refused')} refused,"
        f" {rig.ledger.count('unknown')} unknown; serving again after"
        f" {restarts[len(restarts) // 2]:.1f} s (median), {restarts[-1]:.1f} s (longest)"
    )
    for refusal, times in rig.refusals.most_common(5):
        print(f"  refused {times} times: {refusal}")
    for problem in problems[:20]:
        print(f"  {problem}")
    print(f"violations: {len(problems)}; planted faults not found: {missed or 'none'}")
    return 1 if problems or missed or not rig.ledger.count("acked") else 0


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="600 calls and 3 kills")
    given = parser.parse_args()
    if given.short:
        given.calls, given.kills = 600, 3
    print(f"{facts()}\nseed {given.seed}, {given.clients} clients, half of the calls stream")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        rig = Rig(given, Path(name) / "home")
        begun = time.monotonic()
        try:
            asyncio.run(rig.run())
            status = _report(rig, time.monotonic() - begun)
        finally:
            if rig.helix is not None:
                rig.helix.process.terminate()
                rig.helix.process.wait(60)
    sys.exit(status)


if __name__ == "__main__":
    main()
