"""Limits under several gateways: never passed by one call or one micro-dollar, a crash included.

    python -m rigs.limits [--rounds 20] [--gateways 4] [--clients 64] [--short]

Starts real gateway processes on one PostgreSQL and, round after round, sends more calls at once,
through all of them, than a key's limit or a budget lets through (T1, T2):

- exactly `rate_limit` calls of a key are served, the others are told 429 and leave no row;
- what is reserved and settled of a budget never passes it, looked at while the calls run; the
  budget is spent down to less than one call; what is settled is the sum of the ledger, exactly;
- a gateway killed between reserve and settle gives nothing back before it is swept and everything
  after, and nobody overspends in between;
- of 100 calls with one Idempotency-Key one is made, and all get its answer (T3);
- a revoked key is refused by every process within a second (K4).

As a control, a limit one too high must be found. Exit status 1 when an invariant is broken.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp

from bench.machine import facts
from bench.processes import Helix, free_port, start
from helix.accounts import Scope, Store
from helix.accounts.service import issue_key
from helix.accounts.types import NewKey
from helix.core.config import load_settings
from helix.core.db import Connection, connect
from helix.core.instance import lock_home, make_home
from helix.operations import EmbeddedPostgres, upgrade

__all__ = [
    "Fleet",
    "budget_round",
    "crash_round",
    "fleet_of",
    "rate_round",
    "repeat_round",
    "revocation_round",
]

INPUT_USD, OUTPUT_USD = Decimal(3), Decimal(15)
TOKENS_OUT = 100
RESERVED_USD = (256 * INPUT_USD + TOKENS_OUT * OUTPUT_USD) / 1_000_000
"""What the gateway reserves for a call of the rig: its prompt rounded up to 256 tokens."""

SWEEP_MOST_S = 40.0
REVOKED_MOST_S = 1.0
_PRICE = """
INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million, effective_date,
    source, updated_by) VALUES ('mock/echo', $1, $2, now(), 'operator', 'rig')
"""


@dataclass
class Fleet:
    """Several gateways on one database, as their operator and their clients know them."""

    gateways: list[Helix]
    owner: Connection
    user_id: UUID
    sessions: list[aiohttp.ClientSession]

    async def key(self, rate_limit: int = 1_000_000) -> NewKey:
        """Return a new key of the fleet's user."""
        async with self.owner.transaction():
            return await issue_key(
                self.owner,
                Store(),
                user_id=self.user_id,
                key_id=uuid4(),
                noise=os.urandom(24),
                name="rig",
                scopes=frozenset(Scope),
                rate_limit=rate_limit,
                expires_at=None,
                now=datetime.now(UTC),
            )

    async def ask(self, gateway: int, key: str, *, delay_ms: int = 0) -> int:
        """Make one call through a gateway and return its status; 0 when the gateway died."""
        try:
            status, _ = await self.call(gateway, key, delay_ms=delay_ms)
        except aiohttp.ClientError:
            return 0
        return status

    async def call(
        self,
        gateway: int,
        key: str,
        *,
        delay_ms: int = 0,
        content: str = "hello there",
        idempotency_key: str | None = None,
    ) -> tuple[int, bytes]:
        """Make one call through a gateway and return its status and body."""
        body = {
            "model": "mock/echo",
            "max_tokens": TOKENS_OUT,
            "messages": [{"role": "user", "content": content}],
            "helix": {"mock": {"delay_ms": delay_ms, "words": TOKENS_OUT}},
        }
        headers = {"Authorization": f"Bearer {key}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        url = f"{self.gateways[gateway].url}/v1/chat/completions"
        async with self.sessions[gateway].post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.read()

    async def storm(self, key: str, calls: int, *, delay_ms: int = 0) -> Counter[int]:
        """Make calls through all gateways at once; return how many got which status."""
        count = len(self.gateways)
        told = (self.ask(number % count, key, delay_ms=delay_ms) for number in range(calls))
        return Counter(await asyncio.gather(*told))

    async def recorded(self, key: NewKey) -> int:
        """Return how many calls of a key are on record."""
        found = await self.owner.fetchval(
            "SELECT count(*) FROM llm_requests WHERE api_key_id = $1", key.record.id
        )
        return int(found)

    async def budget(self, key: NewKey, limit_usd: Decimal) -> UUID:
        """Return a new budget of a key."""
        made: UUID = await self.owner.fetchval(
            "INSERT INTO budgets (user_id, scope, period, limit_usd, api_key_id)"
            " VALUES ($1, 'api_key', 'day', $2, $3) RETURNING id",
            self.user_id,
            limit_usd,
            key.record.id,
        )
        return made

    async def of_period(self, budget_id: UUID) -> tuple[Decimal, Decimal]:
        """Return what is reserved and what is settled of a budget."""
        row = await self.owner.fetchrow(
            "SELECT coalesce(sum(reserved_usd), 0), coalesce(sum(settled_usd), 0)"
            " FROM budget_periods WHERE budget_id = $1",
            budget_id,
        )
        return row[0], row[1]


def _started(homes: Path, count: int, database_url: str) -> list[Helix]:
    """Start gateways beside each other; each has a home of its own."""
    extra = {"DATABASE_URL": database_url, "HELIX_WORKER_CONCURRENCY": "0"}
    with ThreadPoolExecutor(count) as pool:
        begun = [
            pool.submit(start, homes / f"gateway-{number}", port=free_port(), extra=extra)
            for number in range(count)
        ]
        return [one.result() for one in begun]


@asynccontextmanager
async def fleet_of(
    homes: Path, database_url: str, *, gateways: int, clients: int
) -> AsyncIterator[Fleet]:
    """Run gateways on a migrated database for the length of the block."""
    owner = await connect(database_url)
    sessions: list[aiohttp.ClientSession] = []
    running: list[Helix] = []
    try:
        await owner.execute(_PRICE, INPUT_USD, OUTPUT_USD)
        running += await asyncio.to_thread(_started, homes, gateways, database_url)
        for _ in range(gateways):
            connector = aiohttp.TCPConnector(limit=clients)
            sessions.append(aiohttp.ClientSession(connector=connector))
        user_id = await owner.fetchval("SELECT id FROM users WHERE role = 'admin'")
        yield Fleet(running, owner, user_id, sessions)
    finally:
        for session in sessions:
            await session.close()
        for helix in running:
            helix.process.terminate()
        for helix in running:
            helix.process.wait(60)
        await owner.close()


async def rate_round(fleet: Fleet, *, calls: int, limit: int, expected: int) -> list[str]:
    """Send more calls than a key's limit a minute; return what was not as it must be."""
    key = await fleet.key(limit)
    told = await fleet.storm(key.key, calls)
    wanted = Counter({200: expected, 429: calls - expected})
    problems = []
    if told != wanted:
        problems.append(f"rate: {dict(told)} of {calls} calls at limit {expected}")
    if (recorded := await fleet.recorded(key)) != expected:
        problems.append(f"rate: {recorded} calls on record at limit {expected}")
    used = await fleet.owner.fetchval(
        "SELECT requests FROM rate_windows WHERE subject_id = $1", key.record.id
    )
    if used != expected:
        problems.append(f"rate: {used} of {expected} used: a refused call used quota")
    return problems


async def repeat_round(fleet: Fleet, *, calls: int) -> list[str]:
    """Send one call many times at once under one Idempotency-Key (T3)."""
    key, once = await fleet.key(), uuid4().hex
    count = len(fleet.gateways)

    async def ask(number: int) -> tuple[int, bytes]:
        while True:
            told = await fleet.call(number % count, key.key, delay_ms=500, idempotency_key=once)
            if told[0] != 503:  # a machine too busy to record in time may say so
                return told

    told = await asyncio.gather(*(ask(number) for number in range(calls)))
    problems = []
    if {status for status, _ in told} != {200}:
        problems.append(f"repeat: {dict(Counter(status for status, _ in told))}")
    if (answers := len({body for _, body in told})) != 1:
        problems.append(f"repeat: {answers} different answers")
    if (recorded := await fleet.recorded(key)) != 1:
        problems.append(f"repeat: {recorded} calls on record, not 1")
    other, _ = await fleet.call(0, key.key, content="something else", idempotency_key=once)
    if other != 422:
        problems.append(f"repeat: {other} for another body under the same key, not 422")
    return problems


async def budget_round(fleet: Fleet, *, calls: int, fit: int) -> list[str]:
    """Spend a budget in which `fit` calls can be reserved; return what was not as it must be."""
    limit_usd = RESERVED_USD * (fit + 1) - Decimal("0.000001")  # a micro-dollar short of one more
    key = await fleet.key()
    budget_id = await fleet.budget(key, limit_usd)
    problems: list[str] = []
    watching = asyncio.create_task(_watch(fleet, budget_id, limit_usd, problems))
    served = 0
    first = await fleet.storm(key.key, calls, delay_ms=2_000)  # all reserve before one settles
    if first != Counter({200: fit, 402: calls - fit}):
        problems.append(f"budget: {dict(first)} of {calls} calls where {fit} fit")
    served += first[200]
    while (told := await fleet.storm(key.key, 2 * len(fleet.gateways)))[200]:
        served += told[200]
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    reserved, settled = await fleet.of_period(budget_id)
    ledger = await fleet.owner.fetchval(
        "SELECT sum(cost_usd) FROM llm_token_usage WHERE api_key_id = $1", key.record.id
    )
    if reserved != 0:
        problems.append(f"budget: {reserved} USD are reserved by nobody")
    if settled != ledger:
        problems.append(f"budget: {settled} USD settled, the ledger says {ledger}")
    if not limit_usd - RESERVED_USD < settled <= limit_usd:
        problems.append(f"budget: {settled} USD of {limit_usd} were spent")
    if (recorded := await fleet.recorded(key)) != served:
        problems.append(f"budget: {recorded} calls on record, {served} served")
    return problems


async def _watch(fleet: Fleet, budget_id: UUID, limit_usd: Decimal, problems: list[str]) -> None:
    """Look, on a connection of its own, whether the budget is passed at any moment."""
    conn = await connect(fleet.gateways[0].database_url)
    seen = Fleet(fleet.gateways, conn, fleet.user_id, [])
    try:
        while True:
            reserved, settled = await seen.of_period(budget_id)
            if reserved + settled > limit_usd:
                problems.append(f"budget: {reserved} + {settled} USD of {limit_usd}")
            await asyncio.sleep(0.02)
    finally:
        await conn.close()


async def crash_round(fleet: Fleet, *, fit: int) -> list[str]:
    """Kill the last gateway between reserve and settle; return what was not as it must be."""
    key = await fleet.key()
    budget_id = await fleet.budget(key, RESERVED_USD * fit)
    victim = fleet.gateways[-1]
    held = [
        asyncio.create_task(fleet.ask(len(fleet.gateways) - 1, key.key, delay_ms=600_000))
        for _ in range(fit)
    ]
    problems: list[str] = []
    if not await _until(fleet, budget_id, RESERVED_USD * fit):
        problems.append(f"crash: {fit} calls did not reserve what they may cost")
    before = await fleet.storm(key.key, 4)
    victim.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(victim.process.wait)
    told = Counter(await asyncio.gather(*held))
    after = Counter([await fleet.ask(0, key.key), await fleet.ask(1, key.key)])
    if (set(before), set(after), set(told)) != ({402}, {402}, {0}):
        problems.append(f"crash: {dict(before)} before, {dict(after)} after, {dict(told)} held")
    extra = {
        name: victim.environment[name] for name in ("DATABASE_URL", "HELIX_WORKER_CONCURRENCY")
    }
    again = await asyncio.to_thread(start, victim.home, port=free_port(), extra=extra)
    fleet.gateways[-1] = again
    if not await _until(fleet, budget_id, Decimal(0)):
        problems.append("crash: what a dead gateway had reserved was not given back")
    served = await fleet.storm(key.key, 1)
    if served != Counter({200: 1}):
        problems.append(f"crash: {dict(served)} when the budget was free again")
    _, settled = await fleet.of_period(budget_id)
    ledger = await fleet.owner.fetchval(
        "SELECT sum(cost_usd) FROM llm_token_usage WHERE api_key_id = $1", key.record.id
    )
    if settled != ledger:
        problems.append(f"crash: {settled} USD settled, the ledger says {ledger}")
    if (recorded := await fleet.recorded(key)) != fit + 1:
        problems.append(f"crash: {recorded} calls on record, not {fit + 1}")
    return problems


async def _until(fleet: Fleet, budget_id: UUID, reserved_usd: Decimal) -> bool:
    deadline = time.monotonic() + SWEEP_MOST_S
    while (await fleet.of_period(budget_id))[0] != reserved_usd:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def revocation_round(fleet: Fleet) -> tuple[float, list[str]]:
    """Revoke a key in steady use everywhere; return the longest it was still taken, in seconds."""
    key = await fleet.key()
    last_taken = [0.0] * len(fleet.gateways)

    async def use(gateway: int) -> None:
        while True:
            sent_s = time.monotonic()
            status = await fleet.ask(gateway, key.key)
            if status == 401:
                return
            last_taken[gateway] = sent_s
            await asyncio.sleep(0.01)

    using = [asyncio.create_task(use(number)) for number in range(len(fleet.gateways))]
    while not all(last_taken):  # noqa: ASYNC110 - each gateway has taken it once
        await asyncio.sleep(0.01)
    await Store().revoke_key(fleet.owner, key_id=key.record.id, user_id=None, now=datetime.now(UTC))
    revoked_s = time.monotonic()
    problems = []
    try:
        async with asyncio.timeout(30):
            await asyncio.gather(*using)
    except TimeoutError:
        problems.append("revocation: a gateway took the key for half a minute")
    longest = max(last_taken) - revoked_s
    if longest > REVOKED_MOST_S:
        problems.append(f"revocation: a call sent {longest:.2f} s later was taken")
    return max(longest, 0.0), problems


async def _run(given: argparse.Namespace, home: Path) -> int:
    settings = load_settings({}, home=home / "database")
    make_home(settings.home_dir)
    with lock_home(settings.home_dir, "rig"):
        postgres = EmbeddedPostgres(settings, options={"max_connections": "300"})
        url = await postgres.start()
        try:
            await upgrade(url)
            return await _rounds(given, home, url)
        finally:
            await postgres.stop()


async def _rounds(given: argparse.Namespace, home: Path, url: str) -> int:
    problems: list[str] = []
    async with fleet_of(home, url, gateways=given.gateways, clients=given.clients) as fleet:
        for number in range(given.rounds):
            found = await rate_round(fleet, calls=500, limit=100, expected=100)
            found += await repeat_round(fleet, calls=100)
            found += await budget_round(fleet, calls=128, fit=30)
            longest, more = await revocation_round(fleet)
            found += more
            print(f"round {number + 1}: {len(found)} problems; revoked key {longest:.2f} s")
            problems += found
        for _ in range(given.crashes):
            problems += await crash_round(fleet, fit=8)
        control = await rate_round(fleet, calls=500, limit=101, expected=100)
    for problem in problems[:20]:
        print(f"  {problem}")
    missed = "none" if control else "a limit one too high"
    print(
        f"{given.rounds} rounds and {given.crashes} crashes, {given.gateways} gateways,"
        f" {given.clients} clients each: {len(problems)} problems; planted faults not found:"
        f" {missed}"
    )
    return 1 if problems or not control else 0


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--crashes", type=int, default=5)
    parser.add_argument("--gateways", type=int, default=4)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--short", action="store_true", help="2 rounds and 1 crash")
    given = parser.parse_args()
    if given.short:
        given.rounds, given.crashes = 2, 1
    print(facts())
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        begun = time.monotonic()
        status = asyncio.run(_run(given, Path(name)))
        print(f"{time.monotonic() - begun:.0f} s")
    sys.exit(status)


if __name__ == "__main__":
    main()
