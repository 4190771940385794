"""SQL in every place where a text can stand: nothing but Helix's own statements runs (I4).

    python -m rigs.injection [--payloads 300] [--requests 0] [--seed N] [--short]

Some 300 texts that would end a literal, a name, a comment, a cast, a jsonb path or a vector, and go
on with a statement, are put into every path, query and body field, JSON key and header of every
route, one at a time. Then pg_stat_statements is read: each fingerprint must be that of a statement
in the tree's own SQL, of the driver, or of the same requests made with harmless words before. No
table has come or gone, nothing slept, and what an injected statement would have computed is in no
answer.

As a control the rig itself runs one statement made by putting a payload into a text, which must
stand out. Exit status 1 when something was not as promised.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psycopg

from bench.machine import facts
from bench.processes import Helix, start
from rigs.gateways import make_key, verdict
from rigs.openapi import RAW_ROUTES, Asked, Document, Place, put

CLIENTS = 8
SLEEP_S = 4
_ALONE_MAX = 50
TIMEOUT_S = 30.0
SOURCES = Path(__file__).resolve().parent.parent / "src" / "helix"
COMPUTED = "hx61646d696e"
"""What `'hx' || encode('admin', 'hex')` gives: it stands in no request."""

_ENDS = ["'", "''", "\"", "')", "'))", "\\'", "%27", "\u02bc", "\uff07", "$$", "$1", "1", "", "`",
         "]", "}'", "'::uuid", "'::jsonb", "00000000-0000-0000-0000-000000000000'", "{a,b}'",
         "[1,2,3]'", "a' COLLATE \"C\"", "';", "1;", "*/"]  # fmt: skip
_BODIES = [
    " OR 1=1 --",
    " UNION SELECT 'hx' || encode('admin', 'hex') --",
    "; SELECT pg_sleep(4) --",
    " AND (SELECT pg_sleep(4)) IS NULL --",
    "; CREATE TABLE pwned (a int) --",
    "; DROP TABLE users CASCADE; --",
    "; COPY (SELECT 1) TO PROGRAM 'true' --",
    " || (SELECT 'hx' || encode('admin', 'hex')) || '",
    ", (SELECT 'hx' || encode('admin', 'hex')) --",
    " ORDER BY (SELECT 'hx' || encode('admin', 'hex')) --",
    "; SET ROLE postgres; --",
    " -> 'a' #> '{b}' IS NULL; --",
]
_STRUCTURE = """
SELECT md5(string_agg(c.relname || c.relkind::text, ',' ORDER BY c.relname))
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
"""
_NEVER = {("POST", "/api/auth/logout")}
_COSTLY = ("/api/auth/", "/api/me/password", "/api/backups", "/api/users", "/api/keys/{")
"""Routes that hash passwords, dump the database, or take the rig's own key away: few payloads."""


def payloads() -> list[str]:
    """Return the texts, each an end of something and what would come after."""
    return [end + body for body in _BODIES for end in _ENDS]


# ---- fingerprints

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_TOKEN = re.compile(
    r"[eE]?'(?:[^']|'')*'|\$\d+|(?<![:\w]):[a-z_]+\b|\b\d+(?:\.\d+)?\b|%s|\s+"
    r"|\b(?:true|false|null)\b",
    re.IGNORECASE,
)


def fingerprint(statement: str) -> str:
    """Return a statement without comments, parameters, constants and white space."""
    bare = _COMMENT.sub(" ", statement)
    bare = _TOKEN.sub(lambda found: " " if found[0].isspace() else " ? ", bare)
    return re.sub(r"\s+", "", bare).lower().rstrip(";")


def own_fingerprints() -> set[str]:
    """Return those of every statement in the tree: in .sql files and in texts of the program."""
    found = set()
    for path in SOURCES.rglob("*.sql"):
        found |= {fingerprint(part) for part in path.read_text().split(";")}
    for path in SOURCES.rglob("*.py"):
        for text in re.findall(r'"""(.*?)"""|"((?:[^"\\\n]|\\.)+)"', path.read_text(), re.DOTALL):
            found.add(fingerprint(text[0] or text[1]))
    return found


@dataclass
class Rig:
    """A gateway under a client that tries SQL."""

    helix: Helix
    key: str
    statuses: Counter[int] = field(default_factory=Counter)
    slow: list[Asked] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    async def send(self, session: aiohttp.ClientSession, asked: Asked) -> None:
        """Send a request, and look at its answer."""
        headers = {"Authorization": f"Bearer {self.key}"}
        for name, value in asked.headers:
            headers[name] = "".join(one for one in value if " " <= one <= "~")
        began_s = time.monotonic()
        try:
            async with session.request(
                asked.method,
                f"{self.helix.url}{asked.path}",
                params=list(asked.query),
                json=asked.body,
                headers=headers,
            ) as answer:
                told = b""
                if "event-stream" not in answer.headers.get("content-type", ""):
                    told = await answer.read()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            self.statuses[0] += 1
            return
        self.statuses[answer.status] += 1
        what = f"{asked.method} {asked.path} {asked.query} {json.dumps(asked.body)}"[:300]
        if time.monotonic() - began_s > SLEEP_S * 0.95:
            self.slow.append(asked)
        if COMPUTED.encode() in told:
            self.computed.append(what)
        if answer.status >= 500 and answer.status != 503:
            self.failed.setdefault(f"{asked.method} {asked.route} {answer.status}", what)

    async def all(self, requests: Iterator[Asked]) -> int:
        """Send all, some at a time; return how many."""
        count = 0

        async def client(session: aiohttp.ClientSession) -> None:
            nonlocal count
            for asked in requests:
                count += 1
                await self.send(session, asked)

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        return count

    async def sleepers(self) -> list[str]:
        """Return the slow requests that are slow by themselves, too; forget those before."""
        asked, self.slow = self.slow, []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            for one in asked[:_ALONE_MAX]:
                await self.send(session, one)
        return [f"{one.method} {one.path} {one.query} {one.body}"[:300] for one in self.slow]

    def run(self) -> set[str]:
        """Return the fingerprints of what has run since the counts were reset."""
        with psycopg.connect(self.helix.database_url, autocommit=True) as conn:
            rows = conn.execute(
                "SELECT query FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
                " WHERE d.datname = current_database()"
            ).fetchall()
        return {fingerprint(row[0]) for row in rows}

    def do(self, statement: str) -> None:
        """Run a statement of the rig's own."""
        with psycopg.connect(self.helix.database_url, autocommit=True) as conn:
            conn.execute(statement.encode())

    def structure(self) -> str:
        """Return a digest of the names of all relations."""
        return str(self.helix.sql(_STRUCTURE))


def requests(
    places: Sequence[tuple[Place, Asked]], texts: Sequence[str], most: int, chance: random.Random
) -> Iterator[Asked]:
    """Yield each place with each text, costly routes with few; `most` of them, 0: all."""
    pairs = [
        (place, asked, text)
        for place, asked in places
        if (place.method, place.route) not in _NEVER
        for text in (texts[:2] if place.route.startswith(_COSTLY) else texts)
        if place.route not in {"/api/events", "/api/tasks/{task_id}/events"}
    ]
    chance.shuffle(pairs)
    for place, asked, text in itertools.islice(pairs, most or None):
        yield put(asked, place, text)


def _outside(ran: set[str], allowed: set[str]) -> list[str]:
    """Return the fingerprints that are not allowed: neither whole, nor as a part of a text."""
    return sorted(one for one in ran - allowed if not any(one in text for text in allowed))


async def _run(given: argparse.Namespace, home: Path) -> int:
    helix = await asyncio.to_thread(start, home, extra={"HELIX_PROBE_INTERVAL_S": "0"})
    try:
        scopes = (
            "completions", "embeddings", "models", "debates", "memories", "knowledge",
            "conversations", "tasks", "projects", "prompts", "tools", "usage", "admin",
        )  # fmt: skip
        rig = Rig(helix, await asyncio.to_thread(make_key, helix, *scopes))
        await asyncio.to_thread(rig.do, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{helix.url}/api/openapi.json") as answer,
        ):
            document = Document(await answer.json(), RAW_ROUTES)
        places, chance = list(document.places()), random.Random(given.seed)
        harmless = ["word", "", "00000000-0000-4000-8000-000000000000", "7", "a b", "O\u2019Neil"]
        await rig.all(requests(places, harmless, 0 if not given.short else 3_000, chance))
        before = rig.structure()
        await asyncio.to_thread(rig.run)  # whose own statement is in the list then
        allowed = await asyncio.to_thread(rig.run) | own_fingerprints()
        rig.statuses.clear()
        rig.slow.clear()
        texts = payloads()[: given.payloads]
        chance.shuffle(texts)
        began_s = time.monotonic()
        count = await rig.all(requests(places, texts, given.requests, chance))
        outside = _outside(await asyncio.to_thread(rig.run), allowed)
        print(
            f"I4: {len(texts)} payloads in {len(places)} places, {count} requests in"
            f" {time.monotonic() - began_s:.0f} s: {dict(sorted(rig.statuses.items()))};"
            f" {len(outside)} fingerprints outside the list"
        )
        problems = [f"I4: not in the list: {one[:160]}" for one in outside]
        problems += [f"I4: it slept: {one}" for one in (await rig.sleepers())[:5]]
        problems += [f"I4: it computed: {one}" for one in rig.computed[:5]]
        problems += [f"I4: {name}: {one}" for name, one in rig.failed.items()]
        if rig.structure() != before:
            problems.append("I4: tables came or went")
        name = "word' UNION SELECT 'hx' || encode('admin', 'hex') --"
        planted = f"SELECT email::text FROM users WHERE name = '{name}"
        await asyncio.to_thread(rig.do, planted)
        found = _outside(await asyncio.to_thread(rig.run), allowed)
        return verdict(problems, [] if len(found) > len(outside) else ["an injected statement"])
    finally:
        helix.process.terminate()
        await asyncio.to_thread(helix.process.wait, 60)


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--payloads", type=int, default=300)
    parser.add_argument("--requests", type=int, default=0, help="by chance; 0: all there are")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="4,000 requests")
    given = parser.parse_args()
    if given.short:
        given.requests = 4_000
    print(f"{facts()}\nseed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = asyncio.run(_run(given, Path(name) / "home"))
    sys.exit(status)


if __name__ == "__main__":
    main()
