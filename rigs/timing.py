"""Whether an answer's time tells which keys and which accounts there are (K6).

    python -m rigs.timing [--keys 100000] [--logins 20000] [--whole 200] [--seed N] [--short]

Two kinds of question are asked in random order, and their times compared by Welch's t-test; of each
comparison the slowest tenth is left out, by one bound for both:

- over HTTP, keys that begin as a real one does (all that is ever shown of it), and keys of chance;
- in this process, on the database and with a cheap hash, logins of accounts that exist with a wrong
  password, and of accounts that do not; what of it is not the hash cannot hide behind the hash;
- over HTTP, the same logins, with the hash as it is.

|t| below 4.5 is no difference that so many questions can tell. As controls keys whose checksum is
wrong, which are refused without the database, and accounts that cost 500 µs more must be told from
the others. Exit status 1 when something was not as promised.
"""

import argparse
import asyncio
import contextlib
import math
import random
import string
import sys
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import fmean, variance

import aiohttp

from bench.machine import facts
from bench.processes import Helix, start
from helix.accounts import Store
from helix.accounts.errors import LoginRefused
from helix.accounts.passwords import Passwords, hash_now
from helix.accounts.policy import key_from_random, key_prefix
from helix.accounts.service import check_login
from helix.core.db import Database, PoolLimits, Role
from rigs.gateways import make_key, verdict

T_MOST = 4.5
KEPT_SHARE = 0.9
EXTRA_S = 500e-6
CHEAP = 4
KNOWN, WRONG = "known@example.org", "not the password at all"
_BASE = string.digits + string.ascii_uppercase + string.ascii_lowercase
Question = Callable[[], Awaitable[None]]


def welch_t(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Welch's t of two samples, the slowest tenth of both together left out.

    B. L. Welch, "The generalization of Student's problem when several different population
    variances are involved", Biometrika 34 (1947).
    """
    ordered = sorted([*first, *second])
    most = ordered[int(len(ordered) * KEPT_SHARE) - 1]
    a, b = [one for one in first if one <= most], [one for one in second if one <= most]
    if len(a) < 2 or len(b) < 2:
        return math.inf
    spread = math.sqrt(variance(a) / len(a) + variance(b) / len(b))
    return (fmean(a) - fmean(b)) / spread if spread else 0.0


async def compared(
    first: Question, second: Question, *, count: int, chance: random.Random
) -> float:
    """Ask each so many times, in random order; return t."""
    order = [0, 1] * count
    chance.shuffle(order)
    times: tuple[list[float], list[float]] = ([], [])
    for which in order:
        began_s = time.perf_counter()
        await (first, second)[which]()
        times[which].append(time.perf_counter() - began_s)
    return welch_t(*times)


class Keys:
    """Presents keys over HTTP, each one once."""

    def __init__(self, session: aiohttp.ClientSession, url: str, real: str, chance: random.Random):
        self._session = session
        self._url = f"{url}/v1/models"
        self._shown = key_prefix(real)
        self._chance = chance

    async def like_a_real_one(self) -> None:
        """Present a key that begins as the real one does, and is well formed."""
        key = self._made()
        body = self._shown + key[len(self._shown) : key.rindex("_")]
        await self._present(_with_checksum(body))

    async def of_chance(self) -> None:
        """Present a well-formed key."""
        key = self._made()
        await self._present(_with_checksum(key[: key.rindex("_")]))

    async def mistyped(self) -> None:
        """Present a key whose checksum is wrong."""
        key = self._made()
        await self._present(key[:-1] + ("A" if key[-1] != "A" else "B"))

    def _made(self) -> str:
        return key_from_random(self._chance.randbytes(24))

    async def _present(self, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        async with self._session.get(self._url, headers=headers) as answer:
            await answer.read()
            if answer.status != 401:
                raise RuntimeError(f"a key of chance was answered with {answer.status}")


def _with_checksum(body: str) -> str:
    """Return a key of this body, well formed: its checksum is that of the body."""
    number, digits = zlib.crc32(body.encode()), ""
    while number:
        number, digit = divmod(number, len(_BASE))
        digits = _BASE[digit] + digits
    return f"{body}_{digits.rjust(6, '0')}"


async def _of_keys(
    helix: Helix, key: str, count: int, chance: random.Random
) -> tuple[float, float]:
    async with aiohttp.ClientSession() as session:
        keys = Keys(session, helix.url, key, chance)
        t = await compared(keys.like_a_real_one, keys.of_chance, count=count // 2, chance=chance)
        seen = await compared(keys.mistyped, keys.of_chance, count=1_000, chance=chance)
    return t, seen


async def _of_logins(helix: Helix, count: int, chance: random.Random) -> tuple[float, float]:
    """Compare logins with a hash of cost 4, in this process."""
    db = Database(helix.database_url, {role: PoolLimits(maximum=2) for role in Role})
    store, passwords = Store(), Passwords(CHEAP)
    async with db.transaction(Role.OPERATOR) as conn:
        await conn.execute(
            "UPDATE users SET password_hash = $1 WHERE email = $2",
            hash_now("the right password", CHEAP),
            KNOWN,
        )

    async def login(name: str) -> None:
        async with db.connection(Role.OPERATOR) as conn:
            facts_ = await store.find_login(conn, login=name)
        with contextlib.suppress(LoginRefused):
            await check_login(passwords, facts_, password=WRONG)

    async def known() -> None:
        await login(KNOWN)

    async def unknown() -> None:
        await login("nobody@example.org")

    async def slower() -> None:
        await login(KNOWN)
        over_s = time.perf_counter() + EXTRA_S
        while time.perf_counter() < over_s:
            pass

    t = await compared(known, unknown, count=count // 2, chance=chance)
    seen = await compared(slower, unknown, count=2_000, chance=chance)
    passwords.close()
    await db.close()
    return t, seen


async def _of_whole_logins(helix: Helix, count: int, chance: random.Random) -> float:
    async with aiohttp.ClientSession() as session:

        async def login(name: str) -> None:
            body = {"login": name, "password": WRONG}
            async with session.post(f"{helix.url}/api/auth/login", json=body) as answer:
                await answer.read()
                if answer.status != 401:
                    raise RuntimeError(f"a wrong login was answered with {answer.status}")

        return await compared(
            lambda: login("other@example.org"),
            lambda: login("nobody@example.org"),
            count=count // 2,
            chance=chance,
        )


async def _run(given: argparse.Namespace, home: Path) -> int:
    chance = random.Random(given.seed)
    password = home.parent / "password"
    password.write_text("the right password", encoding="ascii")
    helix = await asyncio.to_thread(start, home, extra={"HELIX_PROBE_INTERVAL_S": "0"})
    try:
        key = await asyncio.to_thread(make_key, helix)
        for name in (KNOWN, "other@example.org"):
            await asyncio.to_thread(
                helix.run, "users", "add", name, "--password-file", str(password)
            )
        keys_t, keys_seen = await _of_keys(helix, key, given.keys, chance)
        print(f"K6 keys: {given.keys} presented, t {keys_t:.2f}; mistyped ones {keys_seen:.1f}")
        logins_t, logins_seen = await _of_logins(helix, given.logins, chance)
        print(f"K6 logins: {given.logins} tried, t {logins_t:.2f}; slowed ones {logins_seen:.1f}")
        whole_t = await _of_whole_logins(helix, given.whole, chance)
        print(f"K6 logins over HTTP: {given.whole} tried, t {whole_t:.2f}")
    finally:
        helix.process.terminate()
        await asyncio.to_thread(helix.process.wait, 60)
    found = {"keys": keys_t, "logins": logins_t, "logins over HTTP": whole_t}
    problems = [f"K6 {name}: t {t:.2f}" for name, t in found.items() if abs(t) >= T_MOST]
    controls = {"mistyped keys": keys_seen, "slowed logins": logins_seen}
    return verdict(problems, [name for name, t in controls.items() if abs(t) < T_MOST])


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--logins", type=int, default=20_000)
    parser.add_argument("--whole", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="4,000 keys, 2,000 and 40 logins")
    given = parser.parse_args()
    if given.short:
        given.keys, given.logins, given.whole = 4_000, 2_000, 40
    print(f"{facts()}\nseed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name) / "home"))
    sys.exit(status)


if __name__ == "__main__":
    main()
