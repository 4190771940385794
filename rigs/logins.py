"""Logins under attack: `python -m rigs.logins [--rounds 4] [--samples 20000] [--short]`.

Against one Helix over loopback:

- K7: 200 wrong logins at once, again and again, while clients call a model; beside them, round by
  round, the same calls without logins. The calls' p99 must stay below twice what it is in peace,
  every login gets 401, or 429 when too many wait, and stored hashes are bcrypt of cost 12 or more.
- K6: how long a refusal takes says nothing: keys that begin like a real one against keys that do
  not, logins of an e-mail that exists against one that does not, in random order; Welch's |t| over
  the fastest nine tenths of each must stay below 4.5.

Control: a key that is let in against one that is not must be told apart by its time. Exits 1 when
anything was not so.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp

from bench.machine import facts
from bench.processes import Helix, helix_process
from helix.accounts.policy import RANDOM_BYTES, key_from_random
from helix.core.db import connect

T_MOST = 4.5
SLOWER_MOST = 2.0
LOGINS = 200
CLIENTS = 4
PAUSE_S = 0.005
PEACE_S = 8.0
_COST_LEAST = 12
_KEPT = 0.9
_CALL = {"model": "mock/echo", "messages": [{"role": "user", "content": "hello"}]}
_EMAIL = "ada@rig.example"


def welch(first: list[float], second: list[float]) -> float:
    """Return Welch's t of two samples; 0 when neither varies."""
    spread = statistics.variance(first) / len(first) + statistics.variance(second) / len(second)
    if not spread:
        return 0.0
    return float((statistics.fmean(first) - statistics.fmean(second)) / spread**0.5)


def fastest(times: list[float]) -> list[float]:
    """Return the fastest nine tenths: what is slower is the machine's doing."""
    return sorted(times)[: round(len(times) * _KEPT)]


def p99(times: list[float]) -> float:
    """Return the 99th percentile, in the unit given."""
    return sorted(times)[min(len(times) - 1, round(len(times) * 0.99))]


def noise_of(key: str) -> bytes:
    """Return the random bytes that a key was made of: `key_from_random` backwards."""
    digits = [_body(key_from_random(n.to_bytes(RANDOM_BYTES, "big")))[-1] for n in range(62)]
    number = 0
    for character in _body(key):
        number = number * len(digits) + digits.index(character)
    return number.to_bytes(RANDOM_BYTES, "big")


def _body(key: str) -> str:
    return key.rpartition("_")[0].rpartition("_")[2]


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

    async def refusal(self, key: str) -> None:
        """Ask for the models with this key."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.get(f"{self._url}/v1/models", headers=headers) as answer:
            await answer.read()

    async def compare(
        self, first: Callable[[], Awaitable[object]], second: Callable[[], Awaitable[object]],
        count: int, chance: random.Random,
    ) -> float:  # fmt: skip
        """Time both so often each, in random order; return Welch's t."""
        times: tuple[list[float], list[float]] = ([], [])
        order = [0, 1] * count
        chance.shuffle(order)
        for which in order:
            began = time.perf_counter()
            await (first if which == 0 else second)()
            times[which].append(time.perf_counter() - began)
        return welch(fastest(times[0]), fastest(times[1]))


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


async def _timing(rig: Rig, key: str, samples: int) -> None:
    chance = random.Random(6)

    first = noise_of(key)[: RANDOM_BYTES // 2]

    def alike() -> str:
        return key_from_random(first + chance.randbytes(RANDOM_BYTES - len(first)))

    def unlike() -> str:
        return key_from_random(chance.randbytes(RANDOM_BYTES))

    t = await rig.compare(
        lambda: rig.refusal(alike()), lambda: rig.refusal(unlike()), samples, chance
    )
    print(f"K6: keys that begin like a real one, {samples} each: t = {t:+.2f}")
    logins = max(20, samples // 400)
    u = await rig.compare(
        lambda: rig.login(_EMAIL), lambda: rig.login("nobody@rig.example"), logins, chance
    )
    print(f"K6: an e-mail that exists, {logins} logins each: t = {u:+.2f}")
    for what, found in (("keys", t), ("e-mails", u)):
        if abs(found) >= T_MOST:
            rig.faults.append(f"K6: {what} are told apart by time: t = {found:+.2f}")
    planted = await rig.compare(
        lambda: rig.refusal(key), lambda: rig.refusal(unlike()), min(samples, 2_000), chance
    )
    print(f"control: a key that is let in: t = {planted:+.2f}")
    if abs(planted) < T_MOST:
        rig.faults.append("control: a key that is let in was not told apart")


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


async def run(rounds: int, samples: int) -> int:
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
            await _timing(rig, helix.api_key, samples)
    for fault in rig.faults[:20]:
        print(f"FAULT: {fault}")
    print("failed" if rig.faults else "refusals say nothing, and cost the others little")
    return bool(rig.faults)


def main() -> int:
    """Run the rig; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=4, help="of 200 logins at once")
    parser.add_argument("--samples", type=int, default=20_000, help="keys of each kind")
    parser.add_argument("--short", action="store_true", help="1 round, 2,000 samples")
    given = parser.parse_args()
    rounds, samples = (1, 2_000) if given.short else (given.rounds, given.samples)
    return asyncio.run(run(rounds, samples))


if __name__ == "__main__":
    sys.exit(main())
