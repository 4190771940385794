"""Gateways that are told to stop under load, and clients that leave at any byte.

    python -m rigs.leaving [--terms 100] [--calls 10000] [--leave 2000] [--clients 32] [--seed N]
                           [--short]

- D11: SIGTERM under load, so many times, with streams that end in time and streams that do not:
  nothing acknowledged is lost; a stream is finished, or its client told that it broke off and its
  row marked interrupted, with what the client saw and the tokens of that; the process exits with 0
  within 30 s and leaves no call open;
- D12: so many clients disconnect at a random byte of the request or the answer, or a random moment
  before it: each call that was recorded has one terminal row, with the text that was passed on
  (what the client saw is its beginning) and the tokens and cost of exactly that; connections,
  descriptors and transactions are back where they were within 10 s.

The clients, the provider and the ledger are those of rigs/kill_gateway.py. As controls a gateway is
killed with SIGKILL, rows are lost, doubled, left open or changed, and a transaction is left idle;
each must be found. Exit status 1 when something was not as promised.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
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
    postgres_in,
    serving,
    until,
    verdict,
)
from rigs.kill_gateway import Provider, Rig, audit
from rigs.ledger import Entry

EXIT_MOST_S = 30.0
DRAIN_S = 2.0
BACK_MOST_S = 10.0
SLOW_SHARE = 0.05
SLOW_S = 6.0
"""So long a slow stream pauses: longer than DRAIN_S, so that it is cut off."""

BESIDE, SESSIONS_BESIDE = 12, 2
"""How many descriptors and sessions more than before still count as given back."""

_OPEN = "SELECT count(*) FROM llm_requests WHERE status IN ('pending', 'running')"
_CUT = """
SELECT r.status, rb.content, r.tokens_completion, r.usage_estimated,
       (SELECT count(*) FROM llm_token_usage u WHERE u.response_id = r.id)
FROM llm_responses r LEFT JOIN llm_response_bodies rb ON rb.response_id = r.id
WHERE r.request_id = %s::uuid
"""
_SESSIONS = """
SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%%')
FROM pg_stat_activity WHERE application_name LIKE 'helix%%' AND pid <> pg_backend_pid()
"""


# ---- D11


class Slow(Provider):
    """A provider some of whose streams take longer than a stopping gateway waits."""

    chance = random.Random(11)

    async def pause(self, number: int) -> None:
        """Wait after word `number`, now and then for long."""
        await asyncio.sleep(SLOW_S if self.chance.random() < SLOW_SHARE / 4 else 0.002)


class Stops(Rig):
    """Clients, and a gateway that is told to stop and started again."""

    def __init__(self, given: argparse.Namespace, home: Path, database_url: str) -> None:
        extra = {"DATABASE_URL": database_url, "HELIX_DRAIN_TIMEOUT_S": str(DRAIN_S)}
        super().__init__(given, home, extra)
        self.database_url = database_url
        self.exits_s: list[float] = []
        self.problems: list[str] = []
        self.found_after_kill = 0

    @staticmethod
    def make_provider() -> Provider:
        """Return a provider with slow streams."""
        return Slow()

    async def disturb(self, clients: list[asyncio.Task[None]]) -> None:
        """Tell it to stop, again and again; at last kill it, which must be seen."""
        for number in range(self.given.terms):
            await self._under_load(number + self.rng.random(), clients)
            began_s = time.monotonic()
            status = await self._end(signal.SIGTERM)
            self.exits_s.append(time.monotonic() - began_s)
            if status != 0:
                self.problems.append(f"D11: exit status {status}")
            if left := await asyncio.to_thread(self._open_calls):
                self.problems.append(f"D11: {left} calls left open by a gateway told to stop")
            await self._start()
        await self._under_load(self.given.terms + 0.5, clients)
        await self._end(signal.SIGKILL)
        self.found_after_kill = await asyncio.to_thread(self._open_calls)
        await self._start()

    async def _under_load(self, place: float, clients: list[asyncio.Task[None]]) -> None:
        target = place * self.given.calls / (self.given.terms + 1)
        while len(self.ledger.entries) < target and not all(each.done() for each in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await asyncio.sleep(self.rng.random() * 0.05)

    async def _end(self, number: signal.Signals) -> int:
        helix = self.running()
        self.up.clear()
        helix.process.send_signal(number)
        try:
            return await asyncio.to_thread(helix.process.wait, EXIT_MOST_S)
        except TimeoutError:
            helix.process.kill()
            return await asyncio.to_thread(helix.process.wait)

    def _open_calls(self) -> int:
        with psycopg.connect(self.database_url) as conn:
            row = conn.execute(_OPEN).fetchone()
            return 0 if row is None else int(row[0])


def cut_problems(conn: psycopg.Connection[Any], entries: list[Entry]) -> list[str]:
    """Return what is not as promised of streams whose clients were told that they broke off."""
    found = []
    for entry in entries:
        rows = conn.execute(_CUT, (entry.request_id,)).fetchall()
        if len(rows) != 1:
            found.append(f"D11: {len(rows)} answers on record for {entry.op}, which was cut")
            continue
        status, content, tokens, estimated, usage = rows[0]
        if status != "interrupted":
            found.append(f"D11: {entry.op} was cut and is {status}")
        if not (content or "").startswith(entry.content):
            found.append(f"D11: of {entry.op} more was seen than is on record")
        if (tokens, estimated, usage) != (_tokens(content or ""), True, 1):
            found.append(f"D11: {entry.op} has {tokens} tokens, {usage} usage rows")
    return found


def _tokens(text: str) -> int:
    """Return the tokens of a text whose provider told none: one for four bytes, rounded up."""
    return -(-len(text.encode()) // 4)


async def stops(given: argparse.Namespace, place: Path) -> tuple[list[str], list[str]]:
    """Do D11; return what was not as promised, and the controls not found."""
    async with postgres_in(place / "database") as postgres:
        rig = Stops(given, place / "home", postgres.url)
        began_s = time.monotonic()
        try:
            await rig.run()
            return await asyncio.to_thread(_audit_stops, rig, time.monotonic() - began_s)
        finally:
            if rig.helix is not None:
                rig.helix.process.terminate()
                await asyncio.to_thread(rig.helix.process.wait, 60)


def _audit_stops(rig: Stops, seconds: float) -> tuple[list[str], list[str]]:
    problems, missed = audit(rig)
    problems = rig.problems + problems
    entries = list(rig.ledger.entries.values())
    cut = [entry for entry in entries if entry.state == "cut"]
    with psycopg.connect(rig.database_url) as conn:
        problems += cut_problems(conn, cut)
        told = conn.execute(
            "SELECT count(*) FROM llm_responses WHERE error_code = 'gateway_died'"
        ).fetchone()
    died = 0 if told is None else told[0]
    if died > rig.found_after_kill:
        problems.append(f"D11: {died} calls ended by nobody, {rig.found_after_kill} by the control")
    if not rig.found_after_kill:
        missed.append("a gateway killed")
    if (longest := max(rig.exits_s, default=0.0)) > EXIT_MOST_S:
        problems.append(f"D11: an exit took {longest:.1f} s")
    print(
        f"D11: {len(entries)} calls, {len(rig.exits_s)} SIGTERM in {seconds:.0f} s:"
        f" {rig.ledger.count('acked')} acknowledged, {rig.ledger.count('refused')} refused,"
        f" {len(cut)} streams cut off and told so, {rig.ledger.count('unknown')} unknown;"
        f" exit after {percentile(rig.exits_s, 0.5):.1f} s (median), {longest:.1f} s (longest)"
    )
    if rig.given.terms > 10 and not cut:
        problems.append("D11: no stream was cut off, so nothing was shown of those")
    return problems, missed


# ---- D12

_WORDS = 40
_LEFT = """
SELECT b.request_body -> 'messages' -> -1 ->> 'content' AS op, q.id::text, q.status, r.status,
       rb.content, r.tokens_prompt, r.tokens_completion, r.usage_estimated, r.cost_usd,
       (SELECT count(*) FROM llm_token_usage u WHERE u.response_id = r.id),
       (SELECT sum(cost_usd) FROM llm_token_usage u WHERE u.response_id = r.id)
FROM llm_requests q JOIN llm_request_bodies b ON b.request_id = q.id
LEFT JOIN llm_responses r ON r.request_id = q.id
LEFT JOIN llm_response_bodies rb ON rb.response_id = r.id
WHERE q.model_name = %s
"""


@dataclass
class Left:
    """One call as the client knows it that left it."""

    op: str
    stream: bool
    sent: bool = False
    status: int = 0
    seen: str = ""
    whole: bool = False


@dataclass
class Talker:
    """Answers in words, and notes how far it came."""

    written: dict[str, str] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    usage: dict[str, tuple[int, int]] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(12))

    def text(self, op: str) -> str:
        """Return the whole answer to a call."""
        return " ".join(f"{op}-w{number}" for number in range(_WORDS))

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer /v1/chat/completions, whole or as a stream of words, at its leisure."""
        body = json.loads(await request.read())
        op = body["messages"][-1]["content"]
        self.calls[op] += 1
        text = self.text(op)
        self.usage[op] = (len(op), _WORDS)
        usage = {"prompt_tokens": len(op), "completion_tokens": _WORDS}
        usage["total_tokens"] = sum(usage.values())
        head: dict[str, Any] = {"id": "x", "created": 1, "model": "echo"}
        if not body.get("stream"):
            await asyncio.sleep(self.chance.random() * 0.04)
            self.written[op] = text
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response(
                {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
        head["object"] = "chat.completion.chunk"
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        with contextlib.suppress(ConnectionResetError):
            await answer.prepare(request)
            told = ""
            for number, word in enumerate(text.split(" ")):
                piece = word if not number else f" {word}"
                told += piece
                self.written[op] = told
                choices = [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]
                await answer.write(_event({**head, "choices": choices}))
                if number % 4 == 3:
                    await asyncio.sleep(0.002)
            last = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
            await answer.write(_event({**head, "choices": last}))
            await answer.write(_event({**head, "choices": [], "usage": usage}))
            await answer.write(b"data: [DONE]\n\n")
            await answer.write_eof()
        return answer


def _event(told: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(told)}\n\n".encode()


class Leavers:
    """Clients that leave."""

    def __init__(self, helix: Helix, key: str, chance: random.Random) -> None:
        self.helix = helix
        self.key = key
        self.chance = chance
        self.left: dict[str, Left] = {}
        host, _, port = helix.url.partition("://")[2].partition(":")
        self.address = (host, int(port))
        self.answer_bytes = {True: 12_000, False: 2_500}

    async def one(self, op: str) -> None:
        """Make a call and leave it at a random byte."""
        chance = self.chance
        call = self.left[op] = Left(op, chance.random() < 0.6)
        messages = [{"role": "user", "content": op}]
        body = json.dumps({"model": MODEL, "stream": call.stream, "messages": messages}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        data = head.encode() + body
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            if chance.random() < 0.1:
                writer.write(data[: chance.randrange(len(data))])
                return
            writer.write(data)
            call.sent = True
            most = chance.randrange(self.answer_bytes[call.stream])
            wait_s = chance.random() * 0.05 if chance.random() < 0.3 else 30.0
            told = b""
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(wait_s):
                    while len(told) < most and (some := await reader.read(most - len(told))):
                        told += some
                        if told.endswith((b"0\r\n\r\n", b"}")) and _ended(told):
                            call.whole = True
                            break
            _note(call, told)
        finally:
            writer.transport.abort()

    async def many(self, count: int, clients: int, name: str = "op") -> None:
        """Leave so many calls, so many at a time."""
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                await self.one(f"{name}-{number}")

        await asyncio.gather(*(client() for _ in range(clients)))


def _ended(told: bytes) -> bool:
    head, _, rest = told.partition(b"\r\n\r\n")
    if b"chunked" in head.lower():
        return rest.endswith(b"0\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"),
        -1,
    )
    return len(rest) == length


def _note(call: Left, told: bytes) -> None:
    """Note what a client saw of an answer: the status, and the text in what came whole."""
    head, _, rest = told.partition(b"\r\n\r\n")
    if b"\r\n" not in head and not rest:
        return
    call.status = int(head.split(b" ")[1])
    if call.status != 200:
        return
    if not call.stream:
        if call.whole:
            call.seen = json.loads(rest)["choices"][0]["message"]["content"]
        return
    for line in rest.split(b"\n")[:-1]:
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                call.seen += choice["delta"].get("content") or ""


def left_problems(
    conn: psycopg.Connection[Any], left: dict[str, Left], provider: Talker
) -> tuple[list[str], Counter[str]]:
    """Return what is not as promised of calls that were left, and how many ended how."""
    found, ends, rows = [], Counter[str](), Counter[str]()
    for row in conn.execute(_LEFT, (MODEL,)).fetchall():
        op, _, asked, status, content, prompt, completion, estimated, cost, usages, used = row
        rows[op] += 1
        ends[f"{status}{'' if content is None else ' with text'}"] += 1
        call = left.get(op)
        if call is None or not call.sent:
            found.append(f"phantom: {op} has a row")
            continue
        if asked not in {"completed", "failed"} or status is None:
            found.append(f"open: {op} is {asked}")
            continue
        text, whole = content or "", provider.text(op)
        if not whole.startswith(text) or not provider.written.get(op, "").startswith(text):
            found.append(f"content: {op} holds what was never written")
        if not text.startswith(call.seen):
            found.append(f"content: of {op} more was seen than is on record")
        if status == "completed":
            right = (*provider.usage[op], False, 1)
            if text != whole:
                found.append(f"content: {op} is completed and not whole")
        elif status == "cancelled":
            right = (prompt if text else 0, _tokens(text), bool(text), 1 if text else 0)
        else:
            found.append(f"wrong state: {op} is {status}")
            continue
        if (prompt, completion, estimated, usages) != right or (text and not prompt):
            found.append(f"tokens: {op} has {prompt}, {completion}, {estimated}, {usages}")
        exact = (Decimal(3) * prompt + Decimal(15) * completion) / 1_000_000
        if cost != exact or (used or 0) != exact:
            found.append(f"cost: {op} cost {cost}, usage says {used}, exactly {exact}")
    for op, call in left.items():
        if call.status == 200 and rows[op] != 1:
            found.append(f"lost: {op} was answered and has {rows[op]} rows")
        if rows[op] > 1:
            found.append(f"doubled: {rows[op]} rows for {op}")
    found += [f"unrecorded: {op} has no row" for op in provider.calls if not rows[op]]
    found += [f"repeated: {op}" for op, times in provider.calls.items() if times > 1]
    return found, ends


_LEFT_PLANTED = {
    "lost": "DELETE FROM llm_requests WHERE id = %s",
    "open": "UPDATE llm_requests SET status = 'running', completed_at = NULL WHERE id = %s",
    "tokens": "UPDATE llm_responses SET tokens_completion = tokens_completion + 1"
    " WHERE request_id = %s",
    "content": "UPDATE llm_response_bodies SET content = content || '!' WHERE request_id = %s",
}


def _controls(conn: psycopg.Connection[Any], leavers: Leavers, provider: Talker) -> list[str]:
    missed = []
    seen = {call.op for call in leavers.left.values() if call.seen and not call.whole}
    victim = next(
        row[1]
        for row in conn.execute(_LEFT, (MODEL,)).fetchall()
        if row[0] in seen and row[3] == "cancelled"
    )
    for name, statement in _LEFT_PLANTED.items():
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL session_replication_role = replica")
            conn.execute(statement, (victim,))
            found, _ = left_problems(conn, leavers.left, provider)
            if not any(problem.startswith(name) for problem in found):
                missed.append(name)
    return missed


@dataclass
class Baseline:
    """What a calm gateway holds; `back` says whether it holds no more again."""

    helix: Helix
    conn: psycopg.Connection[Any]
    sessions: int = 0
    descriptors: int = 0

    def take(self) -> None:
        """Look; the most that was ever seen counts, since a server also works by itself."""
        self.sessions = max(self.sessions, self.counts()[0])
        self.descriptors = max(self.descriptors, descriptors(self.helix.pid))

    def counts(self) -> tuple[int, int]:
        """Return the sessions in the database, and how many of them idle in a transaction."""
        row = self.conn.execute(_SESSIONS).fetchone()
        return (0, 0) if row is None else (int(row[0]), int(row[1]))

    def back(self) -> bool:
        """Say whether all is as it was, and no call under way."""
        sessions, idle = self.counts()
        row = self.conn.execute(_OPEN).fetchone()
        return (
            idle == 0
            and sessions <= self.sessions + SESSIONS_BESIDE
            and row is not None
            and row[0] == 0
            and descriptors(self.helix.pid) <= self.descriptors + BESIDE
        )


async def leaves(given: argparse.Namespace, place: Path) -> tuple[list[str], list[str]]:
    """Do D12; return what was not as promised, and the controls not found."""
    provider, problems = Talker(), []
    async with serving(provider) as port:
        helix = await asyncio.to_thread(start, place / "home")
        try:
            await asyncio.to_thread(add_provider, helix, "rig", port)
            key = await asyncio.to_thread(make_key, helix)
            leavers = Leavers(helix, key, random.Random(given.seed))
            with psycopg.connect(helix.database_url, autocommit=True) as conn:
                calm = Baseline(helix, conn)
                await _warm(helix, key, given.clients)
                for _ in range(int(BACK_MOST_S)):
                    await asyncio.sleep(1)
                    calm.take()
                began_s = time.monotonic()
                await leavers.many(given.leave, given.clients)
                seconds = time.monotonic() - began_s
                back_s = await until(calm.back, BACK_MOST_S)
                if back_s is None:
                    problems.append(
                        f"D12: {calm.counts()} sessions and idle transactions,"
                        f" {descriptors(helix.pid)} descriptors after {BACK_MOST_S:.0f} s;"
                        f" {calm.sessions} and {calm.descriptors} before"
                    )
                found, ends = left_problems(conn, leavers.left, provider)
                missed = _controls(conn, leavers, provider)
                idle = await asyncpg.connect(
                    helix.database_url, server_settings={"application_name": "helix rig"}
                )
                await idle.execute("BEGIN")
                if calm.back():
                    missed.append("a transaction left idle")
                await idle.close()
            print(
                f"D12: {len(leavers.left)} clients left in {seconds:.0f} s,"
                f" {sum(call.sent for call in leavers.left.values())} after their request:"
                f" {dict(ends)}; back after {-1 if back_s is None else back_s:.1f} s"
            )
            return problems + [f"D12: {one}" for one in found], missed
        finally:
            helix.process.terminate()
            await asyncio.to_thread(helix.process.wait, 60)


async def _warm(helix: Helix, key: str, clients: int) -> None:
    """Make calls of the mock provider, so that what a gateway keeps open is open."""
    body = {"model": "mock/echo", "messages": [{"role": "user", "content": "warm"}]}
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            for _ in itertools.repeat(None, 10):
                url = f"{helix.url}/v1/chat/completions"
                async with session.post(url, json=body, headers=headers) as answer:
                    await answer.read()

        await asyncio.gather(*(client() for _ in range(clients)))


async def _run(given: argparse.Namespace, place: Path) -> int:
    problems, missed = [], []
    for name, part in (("d11", stops), ("d12", leaves)):
        (place / name).mkdir()
        found, unseen = await part(given, place / name)
        problems += found
        missed += unseen
    return verdict(problems, missed)


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--terms", type=int, default=100)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--leave", type=int, default=2_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="4 stops, 600 calls, 200 leave")
    given = parser.parse_args()
    if given.short:
        given.terms, given.calls, given.leave = 4, 600, 200
    print(f"{facts()}\nseed {given.seed}, {given.clients} clients")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name)))
    sys.exit(status)


if __name__ == "__main__":
    main()
