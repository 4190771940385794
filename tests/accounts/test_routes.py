"""The routes of accounts: each with no key, a wrong one, another's, and the right one."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import Message

from helix import accounts
from helix.accounts import service
from helix.accounts.domain import Accounts
from helix.accounts.store import Store
from helix.accounts.types import NewKey, Scope, UserRole
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Connection, Database
from helix.core.errors import HelixError

PASSWORD = "correct horse battery"


@dataclass
class Reply:
    status: int
    json: Any


@dataclass
class Api:
    """The routes without a server."""

    app: FastAPI
    people: Accounts
    owner: Connection

    async def call(
        self, method: str, path: str, token: str | None = None, body: Any = None
    ) -> Reply:
        sent = msgspec.json.encode(body) if body is not None else b""
        headers = [(b"content-type", b"application/json")]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        messages: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": headers,
        }
        await self.app(scope, receive, send)
        data = b"".join(message.get("body", b"") for message in messages[1:])
        return Reply(messages[0]["status"], msgspec.json.decode(data) if data else None)

    async def user(self, role: UserRole = UserRole.USER, password: str | None = None) -> UUID:
        hashed = "!" if password is None else await self.people.passwords.hash(password)
        user = await Store().insert_user(
            self.owner,
            user_id=uuid4(),
            email=f"{uuid4().hex}@example.org",
            username=None,
            name=None,
            role=role,
            password_hash=hashed,
        )
        return user.id

    async def key(self, user_id: UUID, **fields: Any) -> NewKey:
        given: dict[str, Any] = {
            "name": "",
            "scopes": frozenset(Scope),
            "rate_limit": 1_000,
            "expires_at": None,
            **fields,
        }
        return await service.issue_key(
            self.owner,
            Store(),
            user_id=user_id,
            key_id=uuid4(),
            noise=os.urandom(24),
            now=SystemClock().now(),
            **given,
        )

    async def email(self, user_id: UUID) -> str:
        return str(await self.owner.fetchval("SELECT email FROM users WHERE id = $1", user_id))

    async def login(self, user_id: UUID, password: str = PASSWORD) -> str:
        body = {"login": await self.email(user_id), "password": password}
        reply = await self.call("POST", "/api/auth/login", body=body)
        assert reply.status == 200
        return str(reply.json["token"])


@pytest.fixture
def options() -> dict[str, Any]:
    return {}


@pytest.fixture
async def api(db: Database, owner: Connection, options: dict[str, Any]) -> AsyncIterator[Api]:
    people = accounts.build(db, load_settings({}, **options), signing_keys=[("k", b"s" * 32)])
    people.start()
    app = FastAPI()
    app.include_router(accounts.router(people))

    async def told(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HelixError)
        return JSONResponse({"code": exc.code, "param": exc.param}, exc.status)

    app.add_exception_handler(HelixError, told)
    yield Api(app, people, owner)
    await people.stop()


async def test_admin_registers_and_the_user_logs_in_looks_and_logs_out(api: Api) -> None:
    admin = await api.key(await api.user(UserRole.ADMIN))
    made = await api.call(
        "POST",
        "/api/auth/register",
        admin.key,
        {"email": "ada@example.org", "password": PASSWORD, "username": "ada"},
    )
    assert made.status == 201
    assert made.json["role"] == "user"
    assert "password" not in str(made.json)
    for login in ("ada@example.org", "ADA@example.org", "ada"):
        entered = await api.call(
            "POST", "/api/auth/login", body={"login": login, "password": PASSWORD}
        )
        assert entered.status == 200
    token = entered.json["token"]
    me = await api.call("GET", "/api/me", token)
    assert me.json["user"]["email"] == "ada@example.org"
    assert me.json["user"]["last_login"] is not None
    assert "admin" not in me.json["scopes"]
    stored = await api.owner.fetchrow(
        "SELECT token_hash, request_count FROM user_sessions WHERE id = $1",
        UUID(me.json["session_id"]),
    )
    assert len(stored["token_hash"]) == 32
    assert stored["request_count"] == 1
    assert (await api.call("POST", "/api/auth/logout", token)).status == 204
    assert (await api.call("GET", "/api/me", token)).json["code"] == "session_invalid"


@pytest.mark.parametrize("options", [{"open_registration": True}])
async def test_where_registration_is_open_anybody_makes_a_plain_account(api: Api) -> None:
    body = {"email": "eve@example.org", "password": PASSWORD}
    for wrong in ({"role": "admin"}, {"password": None}):
        assert (await api.call("POST", "/api/auth/register", body=body | wrong)).status == 403
    made = await api.call("POST", "/api/auth/register", body=body)
    assert (made.status, made.json["role"]) == (201, "user")
    entered = await api.call(
        "POST", "/api/auth/login", body={"login": "eve@example.org", "password": PASSWORD}
    )
    assert entered.status == 200
    again = await api.call("POST", "/api/auth/register", body=body)
    assert again.status == 409


async def test_stored_hash_is_bcrypt_of_cost_12_or_more(api: Api) -> None:
    user_id = await api.user(password=PASSWORD)
    stored = await api.owner.fetchval("SELECT password_hash FROM users WHERE id = $1", user_id)
    assert stored.startswith("$2b$")
    assert int(stored.split("$")[2]) >= 12


@pytest.mark.parametrize("password", ["x" * 73, "nul\0in the middle", "short"])
async def test_password_that_cannot_be_kept_is_refused_at_registration(
    api: Api, password: str
) -> None:
    admin = await api.key(await api.user(UserRole.ADMIN))
    reply = await api.call(
        "POST", "/api/auth/register", admin.key, {"email": "a@b.org", "password": password}
    )
    assert (reply.status, reply.json["code"]) == (400, "bad_password")


async def test_wrong_password_and_unknown_name_get_the_same_answer(api: Api) -> None:
    user_id = await api.user(password=PASSWORD)
    replies = [
        await api.call("POST", "/api/auth/login", body={"login": login, "password": password})
        for login, password in (
            (await api.email(user_id), PASSWORD + "x"),
            ("nobody@example.org", PASSWORD),
            (await api.email(user_id), PASSWORD + "x" * 80),
            (await api.email(user_id), PASSWORD + "\0"),
            ("nul\0", PASSWORD),
        )
    ]
    assert [reply.status for reply in replies] == [401] * 5
    assert {str(reply.json) for reply in replies} == {str(replies[0].json)}


async def test_unknown_name_takes_as_long_as_a_wrong_password(api: Api) -> None:
    user_id = await api.user(password=PASSWORD)
    known, times = await api.email(user_id), {}
    for login in (known, "nobody@example.org"):
        taken = []
        for _ in range(3):
            began_s = time.process_time()
            await api.call(
                "POST", "/api/auth/login", body={"login": login, "password": "wrong one"}
            )
            taken.append(time.process_time() - began_s)
        times[login] = median(taken)
    assert times["nobody@example.org"] > 0.5 * times[known] > 0.02


@pytest.mark.parametrize("status", ["suspended", "deleted"])
async def test_account_that_is_not_active_is_refused_everywhere(api: Api, status: str) -> None:
    user_id = await api.user(password=PASSWORD)
    token, key = await api.login(user_id), await api.key(user_id)
    await api.owner.execute("UPDATE users SET status = $2 WHERE id = $1", user_id, status)
    body = {"login": await api.email(user_id), "password": PASSWORD}
    refused = [
        await api.call("POST", "/api/auth/login", body=body),
        await api.call("GET", "/api/me", token),
        await api.call("GET", "/api/me", key.key),
    ]
    assert [(reply.status, reply.json["code"]) for reply in refused] == [
        (403, "account_suspended")
    ] * 3


async def test_change_of_password_ends_every_session(api: Api) -> None:
    user_id = await api.user(password=PASSWORD)
    first, second = await api.login(user_id), await api.login(user_id)
    wrong = await api.call(
        "POST", "/api/me/password", first, {"old_password": "x", "new_password": "another long one"}
    )
    assert wrong.json["code"] == "bad_password"
    right = await api.call(
        "POST",
        "/api/me/password",
        first,
        {"old_password": PASSWORD, "new_password": "another long one"},
    )
    assert right.status == 204
    for token in (first, second):
        assert (await api.call("GET", "/api/me", token)).status == 401
    assert await api.login(user_id, "another long one")


async def test_expired_session_is_refused(api: Api) -> None:
    user_id = await api.user(password=PASSWORD)
    token = await api.login(user_id)
    await api.owner.execute("UPDATE user_sessions SET expires_at = now() - interval '1 second'")
    assert (await api.call("GET", "/api/me", token)).status == 401


async def test_key_is_shown_once_and_stored_as_a_hash(api: Api) -> None:
    user_id = await api.user()
    mine = await api.key(user_id)
    made = await api.call("POST", "/api/keys", mine.key, {"name": "ci", "rate_limit": 10})
    assert made.status == 201
    key = made.json["key"]
    assert (await api.call("GET", "/api/me", key)).json["scopes"] == ["completions"]
    listed = await api.call("GET", "/api/keys", mine.key)
    assert [one["name"] for one in listed.json["data"]] == ["ci", ""]
    assert key not in str(listed.json)
    rows = await api.owner.fetch("SELECT k::text AS text FROM api_keys k")
    assert all(key not in row["text"] and key[14:] not in row["text"] for row in rows)


async def test_key_is_renamed_and_revoked_by_its_owner_only(api: Api) -> None:
    mine, other = await api.key(await api.user()), await api.key(await api.user())
    path = f"/api/keys/{mine.record.id}"
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        refused = await api.call(method, path, other.key, body)
        unknown = await api.call(method, f"/api/keys/{uuid4()}", other.key, body)
        assert refused.status == unknown.status == 404
        assert refused.json == unknown.json
    assert (await api.call("PATCH", path, mine.key, {"name": "new"})).json["name"] == "new"
    assert (await api.call("DELETE", path, mine.key)).json["status"] == "revoked"


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"scopes": ["completions", "admin"]}, "scopes"),
        ({"scopes": ["models"], "expires_at": "2026-11-22T00:00:00Z"}, "scopes"),
        ({"rate_limit": 101, "expires_at": "2026-11-22T00:00:00Z"}, "rate_limit"),
        ({"expires_at": None, "rate_limit": 5}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00Z", "rate_limit": 5}, "expires_at"),
    ],
)
async def test_child_key_cannot_exceed_its_parent(
    api: Api, wanted: dict[str, Any], param: str
) -> None:
    parent = await api.key(
        await api.user(UserRole.ADMIN),
        scopes=frozenset({Scope.COMPLETIONS}),
        rate_limit=100,
        expires_at=datetime.now(UTC) + timedelta(days=1),
    )
    reply = await api.call("POST", "/api/keys", parent.key, wanted)
    assert (reply.status, reply.json["code"]) == (403, "key_exceeds_parent")
    assert reply.json["param"] == param


async def test_key_changes_itself_and_its_descendants_only(api: Api) -> None:
    user_id = await api.user()

    async def child_of(key: str) -> tuple[str, str]:
        made = await api.call("POST", "/api/keys", key, {"rate_limit": 5})
        return made.json["key"], made.json["id"]

    root = await api.key(user_id)
    middle, middle_id = await child_of(root.key)
    sibling, sibling_id = await child_of(root.key)
    low, low_id = await child_of(middle)
    for key_id in (root.record.id, sibling_id):
        for method, body in (("PATCH", {"name": "mine"}), ("DELETE", None)):
            reply = await api.call(method, f"/api/keys/{key_id}", middle, body)
            assert (reply.status, reply.json["code"]) == (403, "key_exceeds_parent")
        reply = await api.call("POST", f"/api/keys/{key_id}/rotate", middle, {})
        assert (reply.status, reply.json["code"]) == (403, "key_exceeds_parent")
    for key_id in (low_id, middle_id):
        named = await api.call("PATCH", f"/api/keys/{key_id}", middle, {"name": "mine"})
        assert named.json["name"] == "mine"
    assert (await api.call("DELETE", f"/api/keys/{low_id}", middle)).json["status"] == "revoked"
    rest = {root.key: 200, middle: 200, sibling: 200, low: 401}
    await asyncio.sleep(api.people.keys._cache_s)
    assert {key: (await api.call("GET", "/api/me", key)).status for key in rest} == rest
    for key_id in (root.record.id, sibling_id):
        assert (await api.call("GET", f"/api/keys/{key_id}", root.key)).json["name"] == ""


@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/api/keys/{}"), ("POST", "/api/keys/{}/rotate")]
)
@pytest.mark.parametrize(
    "field",
    ["scopes", "rate_limit", "allowed_models", "expires_at", "parent_key_id", "user_id", "role"],
)
async def test_change_of_a_key_raises_no_right(
    api: Api, method: str, path: str, field: str
) -> None:
    mine = await api.key(await api.user(), scopes=frozenset({Scope.MODELS}), rate_limit=5)
    raised = {"name": "x", field: 1_000_000}
    reply = await api.call(method, path.format(mine.record.id), mine.key, raised)
    assert reply.status == 422
    me = await api.call("GET", "/api/me", mine.key)
    assert (me.json["scopes"], me.json["rate_limit"]) == (["models"], 5)


@pytest.mark.parametrize("field", ["role", "user_id", "tenant_id", "status", "key_hash", "id"])
async def test_fields_nobody_asked_for_are_refused(api: Api, field: str) -> None:
    mine = await api.key(await api.user())
    reply = await api.call("POST", "/api/keys", mine.key, {"name": "x", field: "admin"})
    assert reply.status == 422


ROUTES = [
    ("POST", "/api/auth/register", {"email": "x@example.org"}, True),
    ("POST", "/api/auth/logout", None, False),
    ("GET", "/api/me", None, False),
    ("POST", "/api/me/password", {"old_password": "a", "new_password": "b"}, False),
    ("GET", "/api/keys", None, False),
    ("POST", "/api/keys", {}, False),
    ("GET", "/api/keys/{id}", None, False),
    ("PATCH", "/api/keys/{id}", {"name": "x"}, False),
    ("DELETE", "/api/keys/{id}", None, False),
    ("POST", "/api/keys/{id}/rotate", {}, False),
    ("GET", "/api/users", None, True),
    ("PATCH", "/api/users/{id}", {}, True),
]


def test_table_names_every_route_but_login(api: Api) -> None:
    paths = api.app.openapi()["paths"]
    found = {
        (method.upper(), path.replace("{key_id}", "{id}").replace("{user_id}", "{id}"))
        for path, methods in paths.items()
        for method in methods
    }
    assert found - {("POST", "/api/auth/login")} == {(m, path) for m, path, _, _ in ROUTES}


@pytest.mark.parametrize(("method", "path", "body", "admins_only"), ROUTES)
async def test_routes_are_closed_to_who_may_not(
    api: Api, method: str, path: str, body: Any, admins_only: bool
) -> None:
    path = path.format(id=uuid4())
    user = await api.key(await api.user())
    expired = await api.key(await api.user(), expires_at=datetime.now(UTC) - timedelta(seconds=1))
    tokens = [None, "nonsense", "a.b.c", "hx_live_" + "0" * 40, expired.key]
    assert [(await api.call(method, path, token, body)).status for token in tokens] == [401] * 5
    if admins_only:
        no_scope = await api.key(await api.user(UserRole.ADMIN), scopes=frozenset({Scope.MODELS}))
        assert (await api.call(method, path, user.key, body)).status == 403
        assert (await api.call(method, path, no_scope.key, body)).status == 403


async def test_admin_suspends_and_promotes_but_not_the_last_admin(api: Api) -> None:
    admin_id, user_id = await api.user(UserRole.ADMIN), await api.user()
    admin = await api.key(admin_id)
    listed = await api.call("GET", "/api/users", admin.key)
    assert [user["id"] for user in listed.json["data"]] == [str(admin_id), str(user_id)]
    page = await api.call("GET", f"/api/users?after_id={admin_id}", admin.key)
    assert [user["id"] for user in page.json["data"]] == [str(user_id)]
    for body in ({"status": "suspended"}, {"role": "user"}):
        last = await api.call("PATCH", f"/api/users/{admin_id}", admin.key, body)
        assert (last.status, last.json["code"]) == (409, "last_admin")
    promoted = await api.call("PATCH", f"/api/users/{user_id}", admin.key, {"role": "admin"})
    assert promoted.json["role"] == "admin"
    suspended = await api.call("PATCH", f"/api/users/{user_id}", admin.key, {"status": "suspended"})
    assert suspended.json["status"] == "suspended"
    unknown = await api.call("PATCH", f"/api/users/{uuid4()}", admin.key, {"role": "admin"})
    assert unknown.status == 404


async def test_email_is_taken_whatever_its_case(api: Api) -> None:
    admin = await api.key(await api.user(UserRole.ADMIN))
    for email, status in (("a@example.org", 201), ("A@Example.org", 409)):
        made = await api.call("POST", "/api/auth/register", admin.key, {"email": email})
        assert made.status == status


async def test_first_admin_is_made_once_when_two_start_at_once(
    db: Database, owner: Connection
) -> None:
    made = await asyncio.gather(*(accounts.bootstrap_admin(db) for _ in range(4)))
    keys = [key for key in made if key is not None]
    assert len(keys) == 1
    assert await owner.fetchval("SELECT count(*) FROM users") == 1
    assert await owner.fetchval("SELECT count(*) FROM api_keys") == 1
    assert await accounts.bootstrap_admin(db) is None


async def test_more_logins_than_can_wait_are_told_so(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helix.accounts.passwords.WAITING_MAX", 2)
    body = {"login": "nobody@example.org", "password": "wrong password"}
    replies = await asyncio.gather(
        *(api.call("POST", "/api/auth/login", body=body) for _ in range(5))
    )
    assert sorted(reply.status for reply in replies) == [401, 401, 429, 429, 429]
