"""/api/providers, /api/models, /api/routes: who may, and that no answer holds a key."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.types import Message

from helix import providers
from helix.core.audit import Actor
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.core.errors import Forbidden, HelixError, Unauthenticated
from helix.providers.store import Store

CANARY = "sk-canary-in-the-api"
Ask = Callable[..., Any]


async def identify(request: Request) -> Actor:
    who = request.headers.get("authorization")
    if who is None:
        raise Unauthenticated("who is it")
    if who != "admin":
        raise Forbidden("not you")
    return Actor("user", origin="127.0.0.1")


@pytest.fixture
async def ask(db: Database) -> AsyncIterator[Ask]:
    keyring = Keyring([new_key()])
    running = providers.build(db, load_settings({}, probe_interval_s=0), keyring=keyring)
    app = FastAPI()
    store, clock = Store(keyring), SystemClock()
    router = providers.build_router(running, store, db, clock, admin=identify)
    app.include_router(router)

    async def refuse(_: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HelixError)
        assert CANARY not in exc.message
        return JSONResponse({"code": exc.code}, exc.status)

    app.add_exception_handler(HelixError, refuse)

    async def call(method: str, path: str, body: Any = None, who: str | None = "admin") -> Any:
        headers = [(b"content-type", b"application/json")]
        if who is not None:
            headers.append((b"authorization", who.encode()))
        sent, messages = b"" if body is None else msgspec.json.encode(body), list[Message]()

        async def receive() -> Message:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Message) -> None:
            messages.append(message)

        path, _, query = path.partition("?")
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await app({**scope, "query_string": query.encode()}, receive, send)
        data = b"".join(m.get("body", b"") for m in messages[1:])
        assert CANARY.encode() not in data
        assert b"hx1:" not in data
        return messages[0]["status"], msgspec.json.decode(data) if data else None

    async with running.opened():
        call.router = router  # type: ignore[attr-defined]
        yield call


NEW = {"name": "here", "base_url": "http://127.0.0.1:1/v1", "models": ["m"], "api_key": CANARY}


async def test_every_route_refuses_who_is_unknown_or_no_admin(ask: Ask) -> None:
    paths = [
        (method, route.path.replace("{model:path}", "m").format(name="x", provider="x"))
        for route in ask.router.routes  # type: ignore[attr-defined]
        for method in route.methods
    ]
    assert len(paths) == 17
    for method, path in paths:
        assert (await ask(method, path, {}, who=None))[0] == 401
        assert (await ask(method, path, {}, who="somebody"))[0] == 403


async def test_provider_is_added_changed_and_removed(ask: Ask, owner: Connection) -> None:
    status, made = await ask("POST", "/api/providers", NEW)
    assert (status, made["key"], made["private"]) == (201, "encrypted", False)
    assert await ask("POST", "/api/providers", NEW) == (409, {"code": "provider_exists"})
    change = {"priority": 1, "requests_per_minute": 60, "display_name": "Here"}
    status, changed = await ask("PATCH", "/api/providers/here", change)
    assert (changed["priority"], changed["requests_per_minute"]) == (1, 60)
    assert changed["key"] == "encrypted"
    assert (await ask("PATCH", "/api/providers/here", {"weight": None}))[0] == 400
    moved = {"base_url": "https://elsewhere.example/v1"}
    assert (await ask("PATCH", "/api/providers/here", moved))[1]["key"] == "needed"
    again = {"api_key": CANARY, "requests_per_minute": None}
    shown = (await ask("PATCH", "/api/providers/here", again))[1]
    assert (shown["key"], shown["requests_per_minute"]) == ("encrypted", None)
    assert (await ask("DELETE", "/api/providers/here"))[0] == 204
    assert await ask("GET", "/api/providers/here") == (404, {"code": "provider_not_found"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "file:///etc/passwd"},
        {"base_url": "http://user:pw@host/v1"},
        {"base_url": "unix:/run/x"},
        {"name": "route"},
        {"name": "A B"},
        {"api_key": "two words"},
    ],
)
async def test_provider_that_cannot_be_is_refused(ask: Ask, wrong: dict[str, Any]) -> None:
    assert await ask("POST", "/api/providers", {**NEW, **wrong}) == (400, {"code": "bad_provider"})


async def test_route_is_added_changed_and_removed(ask: Ask) -> None:
    await ask("POST", "/api/providers", NEW)
    target = {"provider": "here", "model": "m", "weight": 2}
    new = {"name": "fast", "strategy": "latency", "alias": True, "targets": [target]}
    status, made = await ask("POST", "/api/routes", {**new, "total_ms": 5_000})
    assert (status, made["strategy"], made["alias"], made["total_ms"]) == (
        201,
        "latency",
        True,
        5_000,
    )
    assert await ask("POST", "/api/routes", new) == (409, {"code": "route_exists"})
    both = [target, {"model": "m"}]
    changed = (await ask("PATCH", "/api/routes/fast", {"targets": both, "cache_s": 60}))[1]
    assert [t["provider"] for t in changed["targets"]] == ["here", None]
    assert (changed["strategy"], changed["cache_s"]) == ("latency", 60)
    twice = {"targets": [target, target]}
    assert await ask("PATCH", "/api/routes/fast", twice) == (400, {"code": "bad_route"})
    nowhere = {"targets": [{"provider": "nobody", "model": "m"}]}
    assert (await ask("PATCH", "/api/routes/fast", nowhere))[0] == 404
    assert (await ask("GET", "/api/routes"))[1]["data"][0]["name"] == "fast"
    assert (await ask("DELETE", "/api/routes/fast"))[0] == 204
    assert (await ask("GET", "/api/routes/fast"))[0] == 404


async def test_models_are_listed_by_page_and_switched_off(ask: Ask) -> None:
    await ask("POST", "/api/providers", {**NEW, "models": ["a", "b/c", "d"]})
    first = (await ask("GET", "/api/models?provider=here&limit=2"))[1]
    assert [m["model"] for m in first["data"]] == ["a", "b/c"]
    rest = (await ask("GET", f"/api/models?provider=here&limit=2&after={first['next_after']}"))[1]
    assert ([m["model"] for m in rest["data"]], rest["next_after"]) == (["d"], None)
    assert (await ask("PATCH", "/api/models/here/b/c", {"enabled": False}))[1]["enabled"] is False
    assert len((await ask("GET", "/api/models?provider=here"))[1]["data"]) == 2
    assert (await ask("GET", "/api/models/here/none"))[0] == 404
