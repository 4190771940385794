"""Logins under attack (K7): `python -m rigs.logins [--rounds 4] [--short]`.

Against one Helix over loopback: 200 wrong logins at once, again and again, while clients call a
model; beside them, round by round, the same calls without logins. The calls' p99 must stay below
twice what it is in peace, every login gets 401, or 429 when too many wait, and stored hashes are
bcrypt of cost 12 or more. Exits 1 when anything was not so.

What refusals tell by their time: `rigs.timing`.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections import Counter

import aiohttp

from bench.machine import facts
from bench.processes import Helix, helix_process
from helix.core.db import connect

SLOWER_MOST = 2.0
LOGINS = 200
CLIENTS = 4
PAUSE_S = 0.005
PEACE_S = 8.0
_COST_LEAST = 12
_CALL = {"model": "mock/echo", "messages": [{"role": "user", "content": "hello"}]}
_EMAIL = "ada@rig.example"


def p99(times: list[float]) -> float:
    """Return the 99th percentile, in the unit given."""
    return sorted(times)[min(len(times) - 1, round(len(times) * 0.99))]


class Rig:
    """One Helix, and what its clients saw."""

    def __init__(self, helix: Helix, session: aiohttp.ClientSession) -> None:
        self._url, self._key, self._session = helix.url, helix.api_key, session
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    async def call_until(self, over: asyncio.Event) -> list[float]:
        """Call a model from several clients until it is over; return how long each call took."""
        headers, times = {"Authorization": f"Bearer {self._key}"}, list[float]()

        async def client() -> None:
            while not over.is_set():
                began = time.perf_counter()
                async with self._session.post(
                    f"{self._url}/v1/chat/completions", json=_CALL, headers=headers
                ) as answer:
                    await answer.read()
                    if answer.status != 200:
                        self.faults.append(f"a call got {answer.status}")
                times.append(time.perf_counter() - began)
                await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return times

    async def login(self, email: str) -> int:
        """Log in with a wrong password; return the status."""
        body = {"login": email, "password": "not the password"}
        async with self._session.post(f"{self._url}/api/auth/login", json=body) as answer:
            await answer.read()
            return answer.status

    async def storm(self) -> None:
        """Let 200 logins fail at once."""
        told = await asyncio.gather(*(self.login(_EMAIL) for _ in range(LOGINS)))
        self.statuses.update(told)


async def _peace_and_storm(rig: Rig, rounds: int) -> None:
    quiet, loud = list[float](), list[float]()
    for _ in range(rounds):
        for times, stormy in ((quiet, False), (loud, True)):
            over = asyncio.Event()
            calling = asyncio.create_task(rig.call_until(over))
            await (rig.storm() if stormy else asyncio.sleep(PEACE_S))
            over.set()
            times.extend(await calling)
    ratio = p99(loud) / p99(quiet)
    print(
        f"K7: {rounds} times {LOGINS} wrong logins at once: {dict(sorted(rig.statuses.items()))}; "
        f"calls in peace p50 {statistics.median(quiet) * 1e3:.1f} ms, p99 {p99(quiet) * 1e3:.1f} "
        f"ms ({len(quiet)}), meanwhile p50 {statistics.median(loud) * 1e3:.1f} ms, p99 "
        f"{p99(loud) * 1e3:.1f} ms ({len(loud)}): {ratio:.2f} times"
    )
    if ratio > SLOWER_MOST:
        rig.faults.append(f"K7: p99 of calls was {ratio:.2f} times that in peace")
    if set(rig.statuses) - {401, 429} or not rig.statuses[401]:
        rig.faults.append(f"K7: logins were answered {dict(rig.statuses)}")


async def _hashes(rig: Rig, url: str) -> None:
    conn = await connect(url)
    try:
        hashes = [row[0] for row in await conn.fetch("SELECT password_hash FROM users")]
    finally:
        await conn.close()
    stored = [one for one in hashes if one != "!"]
    weak = [one[:7] for one in stored if int(one.split("$")[2]) < _COST_LEAST]
    print(f"K7: {len(stored)} stored hashes, {len(weak)} of a cost below {_COST_LEAST}")
    if weak or not stored:
        rig.faults.append(f"K7: hashes of too low a cost: {weak}")


async def run(rounds: int) -> int:
    """Run all of it; return the exit status."""
    print(facts(), flush=True)
    with helix_process() as helix:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            rig = Rig(helix, session)
            headers = {"Authorization": f"Bearer {helix.api_key}"}
            person = {"email": _EMAIL, "password": "a password that is long"}
            async with session.post(
                f"{helix.url}/api/auth/register", json=person, headers=headers
            ) as answer:
                if answer.status >= 300:
                    raise SystemExit(f"no account was made: {await answer.text()}")
            await _hashes(rig, helix.database_url)
            await _peace_and_storm(rig, rounds)
    for fault in rig.faults[:20]:
        print(f"FAULT: {fault}")
    print("failed" if rig.faults else "logins cost the others little")
    return bool(rig.faults)


def main() -> int:
    """Run the rig; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=4, help="of 200 logins at once")
    parser.add_argument("--short", action="store_true", help="one round")
    given = parser.parse_args()
    return asyncio.run(run(1 if given.short else given.rounds))


if __name__ == "__main__":
    sys.exit(main())
