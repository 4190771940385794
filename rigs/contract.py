"""Every route with whatever its document allows, and with what it does not (I1).

    python -m rigs.contract [--examples 50000] [--seconds 0] [--seed N] [--short]

Requests are drawn by Hypothesis from the OpenAPI document and from examples of /v1: texts of every
kind, ids that earlier answers told (so that what was made is changed, found and deleted), and
values of other kinds than the document allows. No answer is a 5xx, but for a 503 that says when to
come again; each status is in the document, and each body is as the document says, errors included.

An administrator asks, and a user. As controls a 500, a status that the document does not know and a
body without a field are shown to the judge, which must refuse each. Exit status 1 otherwise.
"""

import argparse
import http.client
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from bench.machine import facts
from bench.processes import Helix, start
from rigs.gateways import make_key, verdict
from rigs.openapi import RAW_ROUTES, Asked, Document, Schema

TIMEOUT_S = 30.0
EXAMPLES_AT_ONCE = 500
_SETTINGS = settings(
    max_examples=EXAMPLES_AT_ONCE,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.quiet,
)
_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SLOW = ("/api/auth/", "/api/me/password", "/api/backups")
"""Routes that hash passwords or dump the database: asked now and then only."""

_USER = "rig@example.org"
_NEVER = {("POST", "/api/auth/logout")}
_ERROR_FIELDS = {"message", "type", "param", "code", "request_id"}
_WORDS = ["mock/echo", "mock", "route/x", "ensemble/x", "a b", "..", "%00", "0", "-1", "null", "*"]


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    by_route: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)
    ids: deque[str] = field(default_factory=lambda: deque(maxlen=2_000))

    def note(self, asked: Asked, problem: str) -> None:
        """Keep the first of each kind of problem of a route."""
        sent = f"{asked.path} {dict(asked.query)} {json.dumps(asked.body)}"
        self.problems.setdefault(f"{asked.method} {asked.route}: {problem}"[:300], sent[:600])


def judged(
    document: Document, asked: Asked, status: int, headers: Mapping[str, str], body: bytes
) -> str | None:
    """Return what of an answer is not as promised; None when all is."""
    if status >= 500 and not (status == 503 and headers.get("retry-after", "").isdecimal()):
        return f"{status} {body[:200]!r}"
    kind = headers.get("content-type", "").partition(";")[0]
    if status >= 400 and status != 405:
        try:
            error = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            return f"{status} without an error: {body[:100]!r}"
        if asked.route.startswith("/v1/messages"):
            return None  # Anthropic's shape; tests/gateway hold it
        if set(error) != _ERROR_FIELDS or not error["message"] or not error["code"]:
            return f"{status} with an error of another shape: {sorted(error)}"
    return document.violation(asked, status, kind, body)


class Asker:
    """Asks over one connection, and again over a fresh one when the server closed it."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self._host = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
        self.keys = keys

    def ask(self, asked: Asked, key: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body; of a stream its beginning."""
        body = None
        headers = {"Authorization": f"Bearer {key}"}
        if asked.body is not None:
            body = json.dumps(asked.body).encode()
            headers["Content-Type"] = "application/json"
        for name, value in asked.headers:
            headers[name] = "".join(one for one in value if " " <= one <= "~")
        target = asked.path
        if asked.query:
            target += "?" + urlencode(asked.query, errors="replace")
        try:
            return self._once(asked.method, target, body, headers)
        except (ConnectionError, http.client.RemoteDisconnected):
            self._connection.close()
            return self._once(asked.method, target, body, headers)

    def _once(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        self._connection.request(method, target, body, headers)
        answer = self._connection.getresponse()
        told = {name.lower(): value for name, value in answer.headers.items()}
        if told.get("content-type", "").startswith("text/event-stream"):
            self._connection.close()  # it need not end
            return answer.status, told, b""
        return answer.status, told, answer.read()


def _texts(data: st.DataObject, tally: Tally) -> Any:
    """Return what makes a text for a schema: one that fits, one of ours, or the id of something.

    Everything is drawn each time: what Hypothesis draws must not depend on earlier answers.
    """

    def text(schema: Schema) -> str:
        which = data.draw(st.integers(0, 65_535))
        least, most = schema.get("minLength", 0), min(schema.get("maxLength", 40), 40)
        drawn = data.draw(st.text(min_size=min(least, most), max_size=most))
        if schema.get("format") == "date-time":
            drawn = data.draw(st.datetimes()).isoformat() + "Z"
        elif schema.get("format") == "uuid":
            drawn = str(data.draw(st.uuids()))
        elif "pattern" in schema:
            drawn = data.draw(st.from_regex(str(schema["pattern"]), fullmatch=True))
        turn, rest = which % 8, which // 8
        if turn < 3 and tally.ids:
            return tally.ids[rest % len(tally.ids)]
        return _WORDS[rest % len(_WORDS)] if turn == 3 else drawn

    return text


def explore(
    helix: Helix,
    keys: list[str],
    given_: argparse.Namespace,
    tally: Tally,
    own: frozenset[str],
) -> tuple[Document, int]:
    """Ask until the examples, or the seconds, are over; return the document and how many.

    `own` are ids not to be asked about: with them the rig would take its own keys away.
    """
    asker = Asker(helix.url, keys)
    start_at = Asked("GET", "/api/openapi.json", "/api/openapi.json")
    _, _, told = asker.ask(start_at, keys[0])
    document = Document(json.loads(told), RAW_ROUTES)
    routes = [one for one in document.routes if (one[0], one[1]) not in _NEVER]
    quick = [one for one in routes if not one[1].startswith(_SLOW)]
    over_s = time.monotonic() + (given_.seconds or float("inf"))
    asked_count = 0

    @_SETTINGS
    @given(st.data())
    def one(data: st.DataObject) -> None:
        nonlocal asked_count
        asked_count += 1
        pool = routes if data.draw(st.integers(0, 199)) == 0 else quick
        route = pool[data.draw(st.integers(0, 2**32)) % len(pool)]
        chance = random.Random(data.draw(st.integers(0, 2**32)))
        odd = (0.0, 0.0, 0.0, 0.1, 0.5)[data.draw(st.integers(0, 4))]
        asked = document.request(route, _texts(data, tally), chance, odd=odd)
        status, headers, body = asker.ask(asked, keys[data.draw(st.integers(0, 1))])
        tally.statuses[status] += 1
        tally.by_route[f"{asked.method} {asked.route}"] += 1
        if status < 300:
            found = (one.decode() for one in _ID.findall(body)[:5])
            tally.ids.extend(one for one in found if one not in own)
        if problem := judged(document, asked, status, headers, body):
            tally.note(asked, problem)

    for number in range(-(-given_.examples // EXAMPLES_AT_ONCE)):
        if time.monotonic() > over_s:
            break
        seed(given_.seed + number)(one)()
    return document, asked_count


def _controls(document: Document) -> list[str]:
    """Show the judge what it must refuse; return what it did not."""
    route = next(one for one in document.routes if one[1] == "/api/me" and one[0] == "GET")
    asked = Asked("GET", "/api/me", "/api/me", told=route[2])
    kind = {"content-type": "application/json"}
    error = {"message": "x", "type": "x", "param": None, "code": "x", "request_id": "x"}
    planted = {
        "a 500": (500, kind, json.dumps({"error": error}).encode()),
        "a 503 without Retry-After": (503, kind, json.dumps({"error": error}).encode()),
        "an undeclared status": (299, kind, b"{}"),
        "a list for an object": (200, kind, b"[]"),
        "an error without a code": (404, kind, json.dumps({"error": {"message": "x"}}).encode()),
        "HTML": (200, {"content-type": "text/html"}, b"<p>"),
    }
    right = judged(document, asked, 404, kind, json.dumps({"error": error}).encode())
    missed = [name for name, told in planted.items() if judged(document, asked, *told) is None]
    return missed if right is None else [*missed, f"a right answer was refused: {right}"]


def _run(given_: argparse.Namespace, home: Path) -> int:
    helix = start(home, extra={"HELIX_PROBE_INTERVAL_S": "0"})
    try:
        helix.run("users", "add", _USER, "--no-password")
        scopes = [
            "completions", "embeddings", "models", "debates", "memories", "knowledge",
            "conversations", "tasks", "projects", "prompts", "tools", "usage",
        ]  # fmt: skip
        keys = [make_key(helix, *scopes, "admin"), make_key(helix, *scopes, user=_USER)]
        tally, began_s = Tally(), time.monotonic()
        with psycopg.connect(helix.database_url) as conn:
            found = conn.execute("SELECT id::text FROM users UNION SELECT id::text FROM api_keys")
            own = frozenset(row[0] for row in found.fetchall())
        document, count = explore(helix, keys, given_, tally, own)
        seconds = time.monotonic() - began_s
        print(
            f"I1: {count} requests of {len(tally.by_route)} routes in {seconds:.0f} s;"
            f" {dict(sorted(tally.statuses.items()))}"
        )
        for problem, sent in list(tally.problems.items())[:20]:
            print(f"  {problem}\n    {sent}")
        if helix.process.poll() is not None:
            tally.problems["the server ended"] = ""
        asked = {f"{method} {path}" for method, path, _ in document.routes}
        unasked = sorted(asked - tally.by_route.keys() - {" ".join(one) for one in _NEVER})
        if unasked and not given_.short and not given_.seconds:
            tally.problems[f"never asked: {unasked}"] = ""
        return verdict(list(tally.problems), _controls(document))
    finally:
        helix.process.terminate()
        helix.process.wait(60)


def main() -> None:
    """Run the rig; exit 1 when it found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="0: until all are done")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--short", action="store_true", help="1,500 examples")
    given_ = parser.parse_args()
    if given_.short:
        given_.examples = 1_500
    print(f"{facts()}\nseed {given_.seed}")
    with tempfile.TemporaryDirectory(prefix="hx-") as name:
        status = _run(given_, Path(name) / "home")
    sys.exit(status)


if __name__ == "__main__":
    main()
