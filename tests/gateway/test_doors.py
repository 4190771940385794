"""Every route and every kind of caller, against a written table (A1); tricks of paths (A7)."""

import asyncio
import os
import re
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import uvicorn

from helix import app as wiring
from helix import tasks
from helix.accounts.policy import key_from_random
from helix.accounts.types import Scope, UserRole
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.gateway.asgi import Surface
from tests.gateway.conftest import Answer, make_key, make_user, read_answer

EVERYTHING = frozenset(Scope)
OPEN, LOGIN, ADMIN = "open", "any key or login", "admin"


@dataclass
class House:
    """All of Helix on a port, with a user, a stranger and an admin."""

    app: wiring.App
    port: int
    owner: Connection
    people: dict[str, UUID]
    keys: dict[str, str] = field(default_factory=dict)

    async def ask(
        self,
        method: str,
        target: str,
        key: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = b"" if body is None else msgspec.json.encode(body)
        given = {"Host": "helix", "Content-Length": str(len(sent)), "Connection": "close"}
        if body is not None:
            given["Content-Type"] = "application/json"
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        given |= headers or {}
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items()), "", ""]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**26)
        try:
            writer.write("\r\n".join(lines).encode("latin-1") + sent)
            async with asyncio.timeout(20):
                head = await reader.readuntil(b"\r\n\r\n")
                if b"text/event-stream" in head:  # it does not end
                    return Answer(int(head.split(b" ")[1]), {}, b"")
                rest = asyncio.StreamReader(limit=2**26)
                rest.feed_data(head + await reader.read())
                rest.feed_eof()
                return await read_answer(rest)
        finally:
            writer.close()

    async def key(self, person: str, **fields: Any) -> str:
        made = await make_key(self.owner, self.people[person], **fields)
        return made.key

    async def thing(self, kind: str, person: str) -> str:
        """Make something that belongs to a person and return its id."""
        user_id = self.people[person]
        if kind == "key":
            return str((await make_key(self.owner, user_id)).record.id)
        if kind == "user":
            return str(await make_user(self.owner) if person == "user" else user_id)
        if kind == "budget":
            return str(
                await self.owner.fetchval(
                    "INSERT INTO budgets (user_id, scope, period, limit_usd, agent_id)"
                    " VALUES ($1, 'agent', 'day', $2, $3) RETURNING id",
                    user_id,
                    Decimal(5),
                    uuid4().hex,
                )
            )
        if kind == "task":
            made_task = await tasks.enqueue(
                self.owner, tasks.NewTask(task_type="rig.task", payload={}, user_id=user_id)
            )
            return str(made_task.id)
        body = {"model": "mock/echo", "input": "hello", "store": True}
        made = await self.ask("POST", "/v1/responses", self.keys[person], body)
        assert made.status == 200
        if kind == "response":
            return str(made.json["id"])
        return made.headers["x-helix-request-id"]


@pytest.fixture
async def house(db: Database, owner: Connection, tmp_path: Path) -> AsyncIterator[House]:
    warnings.simplefilter("error")
    settings = load_settings(
        {}, home=tmp_path / "home", probe_interval_s=0, worker_concurrency=0, bcrypt_cost=12
    )
    app = wiring.build(settings, db, Keyring([new_key()]), SystemClock())
    config = uvicorn.Config(
        app, port=0, http="httptools", ws="none", lifespan="on", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.005)
    people = {
        "user": await make_user(owner),
        "stranger": await make_user(owner),
        "admin": await make_user(owner, UserRole.ADMIN),
    }
    port = server.servers[0].sockets[0].getsockname()[1]
    made = House(app, port, owner, people)
    for person in people:
        made.keys[person] = await made.key(person)
    async with asyncio.timeout(20):
        while (await made.ask("GET", "/ready")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    yield made
    server.should_exit = True
    await task


@dataclass(frozen=True)
class Row:
    """A route: what it needs, and what its right callers get.

    `kind` is whose id stands in the path; `user` and `admin` are what they get for what is theirs,
    `stranger` what a user gets for what is another's.
    """

    method: str
    path: str
    needs: Scope | tuple[Scope, ...] | str
    user: int
    admin: int
    kind: str = ""
    stranger: int = 404
    body: Any = None


CHAT = {"model": "mock/echo", "messages": [{"role": "user", "content": "hello"}]}
MESSAGE = {**CHAT, "max_tokens": 5}
C, U, T = Scope.COMPLETIONS, Scope.USAGE, Scope.TASKS
V, D, K, M = Scope.CONVERSATIONS, Scope.DEBATES, Scope.KNOWLEDGE, Scope.MEMORIES
NOBODY = uuid4()
TABLE = [
    Row("GET", "/health", OPEN, 200, 200),
    Row("GET", "/ready", OPEN, 200, 200),
    Row("GET", "/metrics", OPEN, 200, 200),
    Row("GET", "/api/openapi.json", OPEN, 200, 200),
    Row("POST", "/api/auth/login", OPEN, 400, 400, body={}),
    Row("GET", "/v1/models", (Scope.MODELS, C), 200, 200),
    Row("GET", "/v1/models/{model}", (Scope.MODELS, C), 200, 200),
    Row("POST", "/v1/chat/completions", C, 200, 200, body=CHAT),
    Row("POST", "/v1/completions", C, 200, 200, body={"model": "mock/echo", "prompt": "hi"}),
    Row(
        "POST",
        "/v1/embeddings",
        (Scope.EMBEDDINGS, C),
        200,
        200,
        body={"model": "mock/echo", "input": "hi"},
    ),
    Row("POST", "/v1/moderations", C, 200, 200, body={"model": "mock/echo", "input": "hi"}),
    Row("POST", "/v1/messages", C, 200, 200, body=MESSAGE),
    Row("POST", "/v1/messages/count_tokens", C, 200, 200, body=CHAT),
    Row("POST", "/v1/responses", C, 200, 200, body={"model": "mock/echo", "input": "hi"}),
    Row("POST", "/v1/responses/input_tokens", C, 200, 200, body={"model": "x", "input": "hi"}),
    Row("GET", "/v1/responses/{id}", C, 200, 200, "response"),
    Row("DELETE", "/v1/responses/{id}", C, 200, 200, "response"),
    Row(
        "POST",
        "/api/auth/register",
        ADMIN,
        403,
        400,
        body={"email": "a@b.org", "password": "short"},
    ),
    Row("POST", "/api/auth/logout", LOGIN, 401, 401),
    Row("GET", "/api/me", LOGIN, 200, 200),
    Row(
        "POST", "/api/me/password", LOGIN, 400, 400, body={"old_password": "a", "new_password": "b"}
    ),
    Row("GET", "/api/keys", LOGIN, 200, 200),
    Row("POST", "/api/keys", LOGIN, 201, 201, body={"rate_limit": 1}),
    Row("GET", "/api/keys/{key_id}", LOGIN, 200, 200, "key"),
    Row("PATCH", "/api/keys/{key_id}", LOGIN, 403, 403, "key", body={"name": "x"}),
    Row("DELETE", "/api/keys/{key_id}", LOGIN, 403, 403, "key"),
    Row("POST", "/api/keys/{key_id}/rotate", LOGIN, 403, 403, "key", 403, body={}),
    Row("GET", "/api/users", ADMIN, 403, 200),
    Row("PATCH", "/api/users/{user_id}", ADMIN, 403, 200, "user", 403, body={}),
    Row(
        "POST", "/api/users/{user_id}/erase", ADMIN, 403, 400, "user", 403, {"confirm": str(NOBODY)}
    ),
    Row("GET", "/api/usage?from=2026-11-01T00:00:00Z", U, 200, 200),
    Row("GET", "/api/budgets", U, 200, 200),
    Row("POST", "/api/budgets", ADMIN, 403, 201, body={"limit_usd": "3", "period": "day"}),
    Row("PATCH", "/api/budgets/{budget_id}", ADMIN, 403, 200, "budget", 403, {"limit_usd": "7"}),
    Row("DELETE", "/api/budgets/{budget_id}", ADMIN, 403, 204, "budget", 403),
    Row("GET", "/api/calls", U, 200, 200),
    Row("GET", "/api/calls/{call_id}", U, 200, 200, "call"),
    Row("GET", "/api/tasks", T, 200, 200),
    Row("POST", "/api/tasks", T, 404, 404, body={"task_type": "nothing.like.it"}),
    Row("GET", "/api/tasks/stats", T, 200, 200),
    Row("GET", "/api/tasks/workers", T, 403, 200),
    Row("GET", "/api/tasks/schedules", T, 403, 200),
    Row("GET", "/api/tasks/webhook-secret", T, 200, 200),
    Row("GET", "/api/tasks/dead", T, 200, 200),
    Row("POST", "/api/tasks/dead/{nobody}/redrive", T, 404, 404),
    Row("GET", "/api/tasks/{task_id}", T, 200, 200, "task"),
    Row("POST", "/api/tasks/{task_id}/cancel", T, 200, 200, "task"),
    Row("POST", "/api/tasks/{task_id}/pause", T, 200, 200, "task"),
    Row("POST", "/api/tasks/{task_id}/resume", T, 409, 409, "task"),
    Row("POST", "/api/tasks/{task_id}/retry", T, 409, 409, "task"),
    Row("GET", "/api/tasks/{task_id}/events", T, 200, 200, "task"),
    Row("GET", "/api/events", T, 200, 200),
    Row("GET", "/api/doctor", ADMIN, 403, 200),
    Row("GET", "/api/providers", ADMIN, 403, 200),
    Row("POST", "/api/providers", ADMIN, 403, 400, body={"name": "no name"}),
    Row("GET", "/api/providers/{name}", ADMIN, 403, 404),
    Row("PATCH", "/api/providers/{name}", ADMIN, 403, 404, body={}),
    Row("DELETE", "/api/providers/{name}", ADMIN, 403, 404),
    Row("POST", "/api/providers/{name}/test", ADMIN, 403, 404),
    Row("POST", "/api/providers/{name}/verify", ADMIN, 403, 404),
    Row("GET", "/api/providers/{name}/verifications", ADMIN, 403, 404),
    Row("GET", "/api/models", ADMIN, 403, 200),
    Row("POST", "/api/models/sync", ADMIN, 403, 200),
    Row("PATCH", "/api/models/{name}/{model}", ADMIN, 403, 404, body={"enabled": True}),
    Row("GET", "/api/models/{name}/{model}", ADMIN, 403, 404),
    Row("GET", "/api/routes", ADMIN, 403, 200),
    Row("POST", "/api/routes", ADMIN, 403, 400, body={}),
    Row("GET", "/api/routes/{name}", ADMIN, 403, 404),
    Row("PATCH", "/api/routes/{name}", ADMIN, 403, 404, body={}),
    Row("DELETE", "/api/routes/{name}", ADMIN, 403, 404),
    Row("GET", "/api/backups", ADMIN, 403, 200),
    Row("POST", "/api/backups", ADMIN, 403, 202, body={}),
    Row("GET", "/api/backups/status", ADMIN, 403, 200),
    Row("POST", "/api/backups/{name}/verify", ADMIN, 403, 404, body={}),
    Row("GET", "/api/conversations", V, 200, 200),
    Row("POST", "/api/conversations", V, 201, 201, body={}),
    Row("DELETE", "/api/conversations/{nobody}", V, 404, 404),
    Row("GET", "/api/conversations/{nobody}", V, 404, 404),
    Row("PATCH", "/api/conversations/{nobody}", V, 404, 404, body={}),
    Row("POST", "/api/conversations/{nobody}/compress", V, 404, 404, body={}),
    Row("GET", "/api/conversations/{nobody}/compressions", V, 404, 404),
    Row("GET", "/api/conversations/{nobody}/events", V, 404, 404),
    Row("POST", "/api/conversations/{nobody}/events", V, 400, 400, body={}),
    Row("GET", "/api/conversations/{nobody}/messages", V, 404, 404),
    Row("POST", "/api/conversations/{nobody}/messages", V, 400, 400, body={}),
    Row("DELETE", "/api/conversations/{nobody}/messages/{nobody}", V, 404, 404),
    Row("PATCH", "/api/conversations/{nobody}/messages/{nobody}", V, 404, 404, body={}),
    Row("POST", "/api/conversations/{nobody}/pause", V, 404, 404, body={}),
    Row("POST", "/api/conversations/{nobody}/replay", V, 404, 404, body={}),
    Row("GET", "/api/conversations/{nobody}/replays", V, 404, 404),
    Row("POST", "/api/conversations/{nobody}/resume", V, 404, 404, body={}),
    Row("GET", "/api/conversations/{nobody}/snapshots", V, 404, 404),
    Row("POST", "/api/conversations/{nobody}/snapshots", V, 404, 404, body={}),
    Row("GET", "/api/conversations/{nobody}/turns", V, 404, 404),
    Row("GET", "/api/debates", D, 200, 200),
    Row("POST", "/api/debates", D, 400, 400, body={}),
    Row("GET", "/api/debates/strategies", D, 200, 200),
    Row("GET", "/api/debates/value", D, 200, 200),
    Row("GET", "/api/debates/{nobody}", D, 404, 404),
    Row("POST", "/api/debates/{nobody}/cancel", D, 404, 404, body={}),
    Row("GET", "/api/debates/{nobody}/events", D, 404, 404),
    Row("GET", "/api/debates/{nobody}/transcript", D, 404, 404),
    Row("GET", "/api/panels", D, 200, 200),
    Row("DELETE", "/api/panels/{nobody}/{nobody}", D, 400, 400),
    Row("PUT", "/api/panels/{nobody}/{nobody}", D, 400, 400, body={}),
    Row("GET", "/api/knowledge", K, 200, 200),
    Row("POST", "/api/knowledge", K, 400, 400, body={}),
    Row("POST", "/api/knowledge/file", K, 201, 201, body={}),
    Row("POST", "/api/knowledge/search", K, 400, 400, body={}),
    Row("GET", "/api/knowledge/stats", K, 200, 200),
    Row("DELETE", "/api/knowledge/{nobody}", K, 404, 404),
    Row("GET", "/api/knowledge/{nobody}", K, 404, 404),
    Row("PATCH", "/api/knowledge/{nobody}", K, 404, 404, body={}),
    Row("GET", "/api/knowledge/{nobody}/chunks", K, 404, 404),
    Row("GET", "/api/knowledge/{nobody}/text", K, 404, 404),
    Row("DELETE", "/api/memories", M, 200, 200),
    Row("GET", "/api/memories", M, 200, 200),
    Row("POST", "/api/memories", M, 400, 400, body={}),
    Row("POST", "/api/memories/audit", M, 200, 200, body={}),
    Row("POST", "/api/memories/batch", M, 400, 400, body={}),
    Row("GET", "/api/memories/entities", M, 200, 200),
    Row("GET", "/api/memories/graph/neighbours", M, 400, 400),
    Row("GET", "/api/memories/graph/path", M, 400, 400),
    Row("GET", "/api/memories/graph/relations", M, 400, 400),
    Row("POST", "/api/memories/search", M, 400, 400, body={}),
    Row("POST", "/api/memories/undo", M, 409, 409, body={}),
    Row("POST", "/api/memories/uses", M, 400, 400, body={}),
    Row("DELETE", "/api/memories/{nobody}", M, 404, 404),
    Row("GET", "/api/memories/{nobody}", M, 404, 404),
    Row("PATCH", "/api/memories/{nobody}", M, 404, 404, body={}),
    Row("GET", "/api/memory/conflicts", ADMIN, 403, 200),
    Row("GET", "/api/memory/conflicts/{nobody}", ADMIN, 403, 404),
    Row("POST", "/api/memory/conflicts/{nobody}/resolve", ADMIN, 403, 404, body={}),
    Row("GET", "/api/memory/nodes", ADMIN, 403, 200),
    Row("GET", "/api/memory/replication/events", ADMIN, 403, 400),
    Row("POST", "/api/memory/replication/events", ADMIN, 403, 400, body={}),
    Row("GET", "/api/retention/plan", ADMIN, 403, 200),
]


def same_path(path: str) -> str:
    """Return a path with its parameters named alike."""
    return re.sub(r"\{[^}]*\}", "{}", path.partition("?")[0])


def listed(house: House) -> set[tuple[str, str]]:
    """Return every route there is: of the OpenAPI document, and of the raw surface."""
    found = {
        (method.upper(), path)
        for path, methods in house.app._api.openapi()["paths"].items()
        for method in methods
    }
    surface = house.app._gateway._surface
    assert isinstance(surface, Surface)
    found |= {("POST", path) for path in (*surface._dialects, *surface._counters)}
    found |= {("GET", path) for path in ("/health", "/ready", "/metrics", "/api/openapi.json")}
    found |= {("GET", "/v1/models"), ("GET", "/v1/models/{model}")}
    return found | {("GET", "/v1/responses/{id}"), ("DELETE", "/v1/responses/{id}")}


async def test_table_has_every_route_and_no_other(house: House) -> None:
    found = {(method, same_path(path)) for method, path in listed(house)}
    assert {(row.method, same_path(row.path)) for row in TABLE} == found


def target(row: Row, thing: str) -> str:
    """Return the path of a row that leads to a thing."""
    path = row.path.replace("{name}", "nobody").replace("{nobody}", str(NOBODY))
    path = path.replace("{model}", "mock/echo" if path.startswith("/v1") else "echo")
    return re.sub(r"\{[^}]*\}", thing, path)


async def narrow(house: House, row: Row) -> str | None:
    """Return a key that lacks what the route needs, of somebody who might have it; or None."""
    if row.needs == ADMIN:
        return await house.key("admin", scopes=EVERYTHING - {Scope.ADMIN})
    if isinstance(row.needs, str):
        return None
    lacking = set(row.needs) if isinstance(row.needs, tuple) else {row.needs}
    return await house.key("user", scopes=EVERYTHING - lacking)


async def test_every_cell_is_as_the_table_says(house: House) -> None:
    expired = await house.key("user", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    revoked = await make_key(house.owner, house.people["user"])
    await house.owner.execute(
        "UPDATE api_keys SET status = 'revoked', revoked_at = now() WHERE id = $1",
        revoked.record.id,
    )
    mistyped = house.keys["user"][:-1] + ("a" if house.keys["user"][-1] != "a" else "b")
    unknown = key_from_random(os.urandom(24))
    shut = {
        "no key": None, "malformed": "a.b.c", "mistyped": mistyped, "unknown": unknown,
        "expired": expired, "revoked": revoked.key,
    }  # fmt: skip
    wrong, cells = [], 0
    for row in TABLE:
        cases: list[tuple[str, str | None, str, int]] = []
        mine = await house.thing(row.kind, "user") if row.kind else ""
        for name, key in shut.items():
            cases.append((name, key, mine, row.user if row.needs == OPEN else 401))
        if (narrower := await narrow(house, row)) is not None:
            cases.append(("wrong scope", narrower, mine, 403))
        if row.kind:
            theirs = await house.thing(row.kind, "stranger")
            cases.append(("another's", house.keys["user"], theirs, row.stranger))
        cases.append(("user", house.keys["user"], mine, row.user))
        own = await house.thing(row.kind, "admin") if row.kind else ""
        cases.append(("admin", house.keys["admin"], own, row.admin))
        for name, key, thing, status in cases:
            answer = await house.ask(row.method, target(row, thing), key, row.body)
            cells += 1
            if answer.status != status:
                told = answer.body[:120]
                wrong.append(f"{row.method} {row.path}, {name}: {answer.status} {told!r}")
    assert not wrong, "\n".join(wrong)
    assert cells > 8 * len(TABLE)


EXTRA = {
    "role": "admin", "tenant_id": str(NOBODY), "user_id": str(NOBODY), "scopes": ["admin"],
    "rate_limit": 10**6, "allowed_routes": ["*"], "allowed_models": ["*"], "encrypted": False,
    "status": "active", "parent_key_id": None, "is_admin": True, "id": str(NOBODY),
}  # fmt: skip


async def test_fields_that_a_route_does_not_know_are_refused_on_every_write(house: House) -> None:
    """Nobody gains a right by asking for it where nobody asks (A5)."""
    document = house.app._api.openapi()
    wrong, tried = [], 0
    for row in TABLE:
        path = row.path.partition("?")[0]
        told = document["paths"].get(path.replace("{name}/{model}", "{provider}/{model}"), {})
        body = told.get(row.method.lower(), {}).get("requestBody")
        if body is None:
            continue
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        known = document["components"]["schemas"][name]["properties"]
        thing = await house.thing(row.kind, "admin") if row.kind else ""
        for field_name, value in EXTRA.items():
            if field_name in known:
                continue
            sent = {**(row.body or {}), field_name: value}
            answer = await house.ask(row.method, target(row, thing), house.keys["admin"], sent)
            tried += 1
            named = row.admin == 400 or answer.error["param"] == field_name  # else it is the first
            if answer.status != 400 or not named:
                wrong.append(f"{row.method} {path} {field_name}: {answer.status}")
    assert not wrong, "\n".join(wrong)
    assert tried >= 12 * 10
    roles = await house.owner.fetch("SELECT role FROM users WHERE role <> 'user'")
    assert [row["role"] for row in roles] == ["admin"]


# ---- paths and headers that mean something else to somebody else (A7)

TRICKS = [
    "//api/users", "/api//users", "/api/users/", "/api/users//", "/api/./users", "/./api/users",
    "/api/%2e/users", "/api/x/../users", "/api/x/%2e%2e/users", "/v1/../api/users", "/api/users;x",
    "/api;x/users", "/api/users%00", "/api/users%2f", "/api%2fusers", "/%61pi/users", "/API/users",
    "/api/users#x", "/api/users%23", "/api/users%3f", "/api/users\\", "\\api\\users",
    "/health/../api/users", "/health/..;/api/users", "/health;/../api/users",
    "/api/users?x=/health",
    "/health?/api/users", "http://helix/api/users", "http://evil/api/users", "//evil/api/users",
    "/api/openapi.json/../users", "/metrics/..%2fapi/users",
]  # fmt: skip
HEADERS = [
    {"Host": host}
    for host in ("a/health", "a?/health", "a#/health", "a//b", "a%2e", "a;x", "a@b", "127.0.0.1:1")
] + [
    {"X-Original-URL": "/health"}, {"X-Rewrite-URL": "/health"}, {"X-Forwarded-Prefix": "/health"},
    {"X-Forwarded-Host": "evil"}, {"X-Forwarded-For": "127.0.0.1"}, {"X-Forwarded-Proto": "https"},
    {"Forwarded": "for=127.0.0.1;host=evil"}, {"X-HTTP-Method-Override": "HEAD"},
    {"X-Forwarded-User": "admin"}, {"X-User-Id": "admin"}, {"X-Real-IP": "127.0.0.1"},
]  # fmt: skip


async def test_tricks_of_path_and_host_open_nothing(house: House) -> None:
    """Without a key and with a user's nothing gets in; an admin gets the same page or none."""
    page = await house.ask("GET", "/api/users", house.keys["admin"])
    assert page.status == 200
    wrong = []
    for trick in TRICKS:
        for who in (None, "user", "admin"):
            answer = await house.ask("GET", trick, None if who is None else house.keys[who])
            served = b"@example.org" in answer.body
            fine = not served if who != "admin" else not served or answer.body == page.body
            if not fine or 300 <= answer.status < 400 or answer.status >= 500:
                wrong.append((trick, who, answer.status))
    for headers in HEADERS:
        for who, status in ((None, 401), ("user", 403), ("admin", 200)):
            key = None if who is None else house.keys[who]
            answer = await house.ask("GET", "/api/users", key, headers=headers)
            if answer.status != status:
                wrong.append((str(headers), who, answer.status))
    assert wrong == []
