"""Secrets of twelve kinds, through success and error, and then looked for everywhere (K5).

A server runs as its users run it, at log level debug. Each secret is used as it is meant, and
wrongly: refused keys, refused logins, bodies that do not parse, a provider that echoes the key it
was called with in its error. Afterwards none may stand, plain or in base64 or hex, in any log, any
answer but the one that hands it out, any column of any table, the metrics, what commands print,
PostgreSQL's own log and statistics, or a dump.
"""

import asyncio
import base64
import contextlib
import http.client
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from helix.__main__ import main
from helix.core.config import load_settings
from helix.core.crypto import Keyring
from helix.core.db import connect
from helix.core.instance import HomePaths, load_keyring
from helix.operations.postgres_programs import find_programs
from helix.tasks import webhook_secrets
from tests.cli.conftest import Up, spawn, start
from tests.conftest import Server
from tests.factories import make_user

__all__ = ["spawn", "start"]  # fixtures

COLUMNS = """
SELECT c.relname AS table_name, a.attname AS name
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'm')
  AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
"""


WORDS = [
    ("providers", "list"), ("providers", "test", "acme"), ("keys", "list"), ("users", "list"),
    ("settings",), ("status",), ("secrets", "status"), ("secrets", "check"), ("audit", "list"),
    ("memory", "nodes", "list"), ("backup", "key"), ("nonsense",),
    ("keys", "revoke", "hx_live_wrong"),
]  # fmt: skip


class Echo(BaseHTTPRequestHandler):
    """A provider that refuses, and says with which key it was called."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        told = {"error": {"message": f"bad key {self.headers.get('Authorization')}", "code": "no"}}
        body = json.dumps(told).encode()
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 - the name that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def echoing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


class Search:
    """Looks for secrets, in the forms they might have been written in."""

    def __init__(self) -> None:
        self.forms: dict[str, list[str]] = {}

    def add(self, kind: str, secret: str | bytes) -> None:
        raw = secret.encode() if isinstance(secret, str) else secret
        forms = [base64.b64encode(raw).decode().rstrip("="), raw.hex()]
        forms += [base64.urlsafe_b64encode(raw).decode().rstrip("=")]
        self.forms[kind] = [secret, *forms] if isinstance(secret, str) else forms

    def hits(self, place: str, text: str) -> list[str]:
        return [
            f"{kind} in {place}"
            for kind, forms in self.forms.items()
            if any(form in text for form in forms)
        ]


class Client:
    """Asks a server, and keeps every answer."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self.answers: list[str] = []

    def ask(
        self,
        method: str,
        path: str,
        key: str | None = None,
        body: Any = None,
        *,
        raw: bytes | None = None,
        hands_out: bool = False,
    ) -> Any:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        connection.request(method, path, sent, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if not hands_out:
            self.answers.append(f"{method} {path}: {answer.headers} {text}")
        return json.loads(text) if text.startswith("{") else text


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.timeout(300)
def test_no_secret_is_written_anywhere(  # noqa: PLR0917 - fixtures
    database_url: str,
    server: Server,
    start: Callable[..., Up],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    search, home, printed = Search(), tmp_path / "home", []
    files = {name: tmp_path / name for name in ("provider", "node", "password")}
    secrets = {
        "provider key": "sk-canary-acme-0123456789abcdef",
        "provider key from settings": "sk-canary-mistral-0123456789ab",
        "node token": "hx_live_canarynode0123456789abcdefghij",
        "password": "canary horse battery staple",
        "DSN password": "canarydsn0123456789",
        "GitHub token": "gho_canary0123456789abcdefghijklmn",
        "MCP credentials": "canary-mcp-bearer-0123456789",
    }
    files["provider"].write_text(secrets["provider key"])
    files["node"].write_text(secrets["node token"])
    files["password"].write_text(secrets["password"])
    for kind, secret in secrets.items():
        search.add(kind, secret)
    head, _, query = database_url.partition("://")[2].partition("?")
    login, _, rest = head.partition("@")
    url = f"postgresql://{login}:{secrets['DSN password']}@{rest}?{query}"
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("HELIX_HOME", str(home))
    with echoing() as upstream:
        up = start(
            home,
            HELIX_LOG_LEVEL="debug",
            MISTRAL_API_KEY=secrets["provider key from settings"],
            MISTRAL_BASE_URL=upstream,
            DATABASE_URL=url,
        )
        api_key = up.line["api_key"]
        search.add("API key", api_key)
        client = Client(up.url)

        def command(*words: str | Path) -> None:
            with contextlib.suppress(SystemExit):
                main([str(word) for word in words])
            said = capsys.readouterr()
            printed.append(f"helix {words}: {said.out} {said.err}")

        # Commands.
        command("providers", "add", "acme", "--base-url", upstream, "--api-key-file",
                files["provider"], "--model", "m")  # fmt: skip
        command("providers", "add", "acme", "--base-url", upstream, "--api-key-file",
                files["provider"])  # fmt: skip
        command(
            "memory", "nodes", "add", "north", "http://127.0.0.1:9", "--key-file", files["node"]
        )
        command("users", "add", "ada@example.org", "--password-file", files["password"])
        command("users", "add", "ada@example.org", "--password-file", files["password"])
        for words in WORDS:
            command(*words, *(["--json"] if words[-1] == "list" else []))

        # Logins, right and wrong.
        login_body = {"login": "ada@example.org", "password": secrets["password"]}
        token = client.ask("POST", "/api/auth/login", None, login_body, hands_out=True)["token"]
        search.add("session token", token)
        client.ask("GET", "/api/me", token)
        client.ask("POST", "/api/auth/login", None, {**login_body, "password": "wrong" * 3})
        client.ask("POST", "/api/auth/login", None, {**login_body, "login": "nobody@example.org"})
        client.ask("POST", "/api/auth/login", None, {**login_body, "surplus": 1})
        client.ask("POST", "/api/auth/login", None, {"password": secrets["password"], "login": 7})
        client.ask("POST", "/api/auth/login", raw=json.dumps(login_body).encode()[:-1])
        client.ask("POST", "/api/me/password", token,
                   {"old_password": secrets["password"], "new_password": "short"})  # fmt: skip
        client.ask("POST", "/api/auth/register", api_key,
                   {"email": "no address", "password": secrets["password"]})  # fmt: skip

        # Keys: another, replaced, used wrongly.
        made = client.ask("POST", "/api/keys", token, {"name": "x"}, hands_out=True)
        again = client.ask("POST", f"/api/keys/{made['id']}/rotate", token, {}, hands_out=True)
        search.add("replaced API key", made["key"])
        search.add("replacing API key", again["key"])
        for wrong in (api_key + "x", api_key[:-1], f"{api_key} {token}", token[:-4] + "AAAA"):
            client.ask("GET", "/api/me", wrong)
            client.ask("POST", "/v1/chat/completions", wrong, chat("mock/echo"))
        client.ask("DELETE", f"/api/keys/{made['id']}", token)
        client.ask("GET", "/v1/models", again["key"])

        # Calls: one that works, one whose provider echoes its key, one with a body that is none.
        client.ask("POST", "/v1/chat/completions", api_key, chat("mock/echo"))
        for model in ("acme/m", "mistral/small", "nobody/nothing"):
            client.ask("POST", "/v1/chat/completions", api_key, chat(model))
        client.ask("POST", "/v1/chat/completions", api_key, raw=b'{"model": ')
        wrong_body = {"name": "a b", "base_url": "x", "api_key": secrets["provider key"]}
        client.ask("POST", "/api/providers", api_key, wrong_body)
        client.ask("PATCH", "/api/providers/acme", api_key,
                   {"api_key": secrets["provider key"], "surplus": 1})  # fmt: skip
        broken = {"api_key": secrets["provider key"] + "\n\x07"}
        client.ask("PATCH", "/api/providers/acme", api_key, broken)
        for path in ("/health", "/ready", "/metrics", "/api/providers", "/api/keys", "/api/users",
                     "/api/calls", "/api/memory/nodes",
                     "/api/openapi.json", "/v1/models"):  # fmt: skip
            client.ask("GET", path, api_key)
        client.ask("GET", "/api/tasks/webhook-secret", api_key, hands_out=True)

        # Secrets with no code that presents them yet: stored as they will be.
        keyring = load_keyring(load_settings({}, home=home))
        asyncio.run(_store_others(database_url, keyring, secrets))
        command("secrets", "rotate")
        command("secrets", "check")
        command("audit", "verify")
        client.ask("POST", "/v1/chat/completions", api_key, chat("acme/m"))
        status, out, err = up.end()
        assert status == 0
    for number, key in enumerate(HomePaths(home).keys.read_text().split()):
        search.add(f"encryption key {number}", key)
        search.add(f"encryption key {number} raw", base64.urlsafe_b64decode(key))
    for number, (_, derived) in enumerate(keyring.derived("helix session tokens")):
        search.add(f"signing key {number}", derived)
    for number, secret in enumerate(webhook_secrets(keyring)(None)):
        search.add(f"webhook secret {number}", secret)
    assert len(search.forms) >= 12 + 6

    places = {"the log": err, "stdout": out, "PostgreSQL's log": _server_log(server)}
    places |= {f"the answer to {text[:60]!r}": text for text in client.answers}
    places |= {f"what was printed by {text[:60]!r}": text for text in printed}
    places |= asyncio.run(_everything_stored(database_url))
    places["the dump"] = _dump(database_url)
    for name in sorted(os.listdir(home)):  # noqa: PTH208 - names, of everything
        path = home / name
        if path.is_file() and name != "keys":
            places[f"HOME/{name}"] = path.read_bytes().decode(errors="replace")
    assert len(places) > 700
    found = [hit for place, text in places.items() for hit in search.hits(place, text)]
    assert found == []

    # The search finds what is there.
    asyncio.run(_log_error(database_url, f"called with {secrets['GitHub token']}"))
    assert search.hits("dump", _dump(database_url)) == ["GitHub token in dump"]
    assert search.hits("log", base64.b64encode(api_key.encode()).decode()) == ["API key in log"]


async def _log_error(url: str, message: str) -> None:
    owner = await connect(url)
    await owner.execute(
        "INSERT INTO error_log (code, category, message) VALUES (1, 'test', $1)", message
    )
    await owner.close()


async def _everything_stored(url: str) -> dict[str, str]:
    owner, places = await connect(url), {}
    for row in await owner.fetch(COLUMNS):
        table, name = row["table_name"], row["name"]
        sql = f"SELECT string_agg(\"{name}\"::text, E'\\n') FROM {table}"
        places[f"{table}.{name}"] = await owner.fetchval(sql) or ""
    sql = "SELECT string_agg(query, E'\\n') FROM pg_stat_activity"
    places["pg_stat_activity"] = await owner.fetchval(sql) or ""
    if await owner.fetchval(
        "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') "
        "AND current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%'"
    ):
        await owner.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        sql = "SELECT string_agg(query, E'\\n') FROM pg_stat_statements"
        places["pg_stat_statements"] = await owner.fetchval(sql) or ""
    await owner.close()
    return places


async def _store_others(url: str, keyring: Keyring, secrets: dict[str, str]) -> None:
    owner = await connect(url)
    user = await make_user(owner)
    github, mcp = uuid4(), uuid4()
    sealed = keyring.encrypt(
        secrets["GitHub token"], context=f"github_credentials.access_token:{github}"
    )
    await owner.execute(
        "INSERT INTO github_credentials (id, user_id, access_token, key_id) "
        "VALUES ($1, $2, $3, $4)",
        github, user["id"], sealed, keyring.key_id,
    )  # fmt: skip
    sealed = keyring.encrypt(secrets["MCP credentials"], context=f"mcp_servers.credentials:{mcp}")
    await owner.execute(
        "INSERT INTO mcp_servers (id, name, type, endpoint, credentials, key_id) "
        "VALUES ($1, 'm', 'remote', 'http://m', $2, $3)",
        mcp, sealed, keyring.key_id,
    )  # fmt: skip
    await owner.close()


def _server_log(server: Server) -> str:
    return (Path(server.socket_dir).parent / "log" / "postgres.log").read_text(errors="replace")


def _dump(url: str) -> str:
    pg_dump = find_programs(load_settings({})).directory / "pg_dump"
    done = subprocess.run([pg_dump, url], capture_output=True, text=True, check=True)
    return done.stdout
