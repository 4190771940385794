"""/api/tasks and /api/events over HTTP."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2 as httpx
import msgspec
import pytest
from fastapi import FastAPI, Request, Response

from helix.core.db import Database, Role
from helix.core.errors import HelixError, Unauthenticated
from helix.tasks import TaskRegistry, build_router, cancel, enqueue
from helix.tasks.routes import TaskCaller
from tests.factories import make_user
from tests.tasks.support import operator, plain, register, take


class Api:
    """The routes in an application of their own; `as_` says who calls."""

    def __init__(self, db: Database, mine: UUID, theirs: UUID) -> None:
        registry = TaskRegistry()
        registry.add("open", handler, public=True)
        registry.add("inner", handler)
        self.app = FastAPI()
        self.app.add_exception_handler(HelixError, shown)
        self.router = build_router(
            db, registry, self.identify, secret_for=lambda user: [str(user).encode()]
        )
        self.app.include_router(self.router)
        self.callers = {
            "me": TaskCaller(mine),
            "other": TaskCaller(theirs),
            "operator": TaskCaller(mine, operator=True),
        }

    async def identify(self, request: Request) -> TaskCaller:
        found = self.callers.get(request.headers.get("x-caller", ""))
        if found is None:
            raise Unauthenticated("no key")
        return found

    async def call(self, who: str, method: str, path: str, **body: Any) -> tuple[int, Any]:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://helix") as client:
            answer = await client.request(
                method, f"/api{path}", headers={"x-caller": who}, json=body or None
            )
        return answer.status_code, answer.json()


async def handler(ctx: Any, payload: dict[str, int]) -> None:
    """Does nothing."""


async def shown(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HelixError)
    return Response(msgspec.json.encode({"code": exc.code}), exc.status)


@pytest.fixture
async def api(db: Database) -> Api:
    async with operator(db) as conn:
        mine, theirs = (await make_user(conn))["id"], (await make_user(conn))["id"]
    return Api(db, mine, theirs)


async def test_task_is_enqueued_shown_and_steered(api: Api) -> None:
    code, made = await api.call("me", "POST", "/tasks", task_type="open", payload={"n": 1})
    assert (code, made["status"], made["payload"]) == (201, "pending", {"n": 1})
    path = f"/tasks/{made['id']}"
    steps = [("pause", "paused"), ("resume", "pending"), ("cancel", "cancelled"),
             ("retry", "pending")]  # fmt: skip
    for verb, status in steps:
        code, task = await api.call("me", "POST", f"{path}/{verb}")
        assert (code, task["status"]) == (200, status)
    assert await api.call("me", "POST", f"{path}/resume") == (409, {"code": "tasks.wrong_state"})
    code, listed = await api.call("me", "GET", "/tasks?status=pending")
    assert [t["id"] for t in listed["data"]] == [made["id"]]
    code, shown_ = await api.call("me", "GET", path)
    assert (code, shown_["attempts"]) == (200, [])


@pytest.mark.parametrize(
    ("who", "method", "path", "code"),
    [
        ("nobody", "GET", "/tasks", 401),
        ("other", "GET", "/tasks/{id}", 404),
        ("other", "POST", "/tasks/{id}/cancel", 404),
        ("other", "GET", "/tasks/{id}/events", 404),
        ("me", "GET", "/tasks/{id}", 200),
        ("operator", "GET", "/tasks/{id}", 200),
        ("me", "GET", "/tasks/not-an-id", 422),
        ("me", "POST", "/tasks/dead/{id}/redrive", 404),
        ("me", "GET", "/tasks/stats", 200),
        ("me", "GET", "/tasks/dead", 200),
        ("nobody", "GET", "/tasks/webhook-secret", 401),
        ("me", "GET", "/tasks/webhook-secret", 200),
        ("me", "GET", "/tasks/workers", 403),
        ("operator", "GET", "/tasks/workers", 200),
        ("me", "GET", "/tasks/schedules", 403),
        ("operator", "GET", "/tasks/schedules", 200),
    ],
)
async def test_everyone_reaches_only_what_is_theirs(
    api: Api, who: str, method: str, path: str, code: int
) -> None:
    _, made = await api.call("me", "POST", "/tasks", task_type="open")
    assert (await api.call(who, method, path.format(id=made["id"])))[0] == code


async def test_tenant_cannot_enqueue_the_work_of_helix_itself(api: Api) -> None:
    code, error = await api.call("me", "POST", "/tasks", task_type="inner")
    assert (code, error["code"]) == (404, "tasks.type_unknown")
    assert (await api.call("operator", "POST", "/tasks", task_type="inner"))[0] == 201
    code, error = await api.call("me", "POST", "/tasks", task_type="open", payload={"n": "x"})
    assert (code, error["code"]) == (400, "tasks.bad_payload")


async def test_each_tenant_is_told_the_key_of_its_own_webhooks(api: Api) -> None:
    _, mine = await api.call("me", "GET", "/tasks/webhook-secret")
    _, theirs = await api.call("other", "GET", "/tasks/webhook-secret")
    assert mine["secret"] != theirs["secret"]
    assert bytes.fromhex(mine["secret"]).decode() == str(api.callers["me"].user_id)


async def test_unique_key_cap_and_order_are_taken_over_http(api: Api) -> None:
    body = {"task_type": "open", "unique_key": "one", "spend_cap_usd": "1.25"}
    _, first = await api.call("me", "POST", "/tasks", **body)
    _, again = await api.call("me", "POST", "/tasks", **body)
    assert (first["id"], Decimal(first["spend_cap_usd"])) == (again["id"], Decimal("1.25"))
    _, after = await api.call("me", "POST", "/tasks", task_type="open", after=[first["id"]])
    assert after["blocked_by"] == 1


async def read_stream(api: Api, who: str, path: str, last_id: str | None, count: int) -> list[Any]:
    """Read `count` events of a stream as (id, kind), then hang up."""
    told: list[Any] = []
    fields: dict[str, str] = {}
    buffer = ""
    async for chunk in api_stream(api, who, path, last_id):
        buffer += chunk.decode()
        while "\n" in buffer:
            line, _, buffer = buffer.partition("\n")
            if line == "" and "id" in fields:
                told.append((fields["id"], fields["event"]))
                fields = {}
                if len(told) == count:
                    return told
            elif ": " in line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
    return told


async def api_stream(api: Api, who: str, path: str, last_id: str | None) -> AsyncIterator[bytes]:
    """Call the application itself: a client in the same process would wait for the whole body."""
    route = next(r for r in api.router.routes if getattr(r, "path", "") == f"/api{path[0]}")
    response = await route.endpoint(  # type: ignore[attr-defined] # an APIRoute
        **({"task_id": path[1]} if path[1] else {}), caller=api.callers[who], last_event_id=last_id
    )
    async for chunk in response.body_iterator:
        yield chunk


async def test_stream_of_a_task_is_taken_up_where_it_was_left(api: Api, db: Database) -> None:
    _, made = await api.call("me", "POST", "/tasks", task_type="open")
    task_id = UUID(made["id"])
    path: Any = ("/tasks/{task_id}/events", task_id)
    async with operator(db) as conn:
        await take(conn, await register(conn), "open")
    told = await read_stream(api, "me", path, None, 2)
    assert [kind for _, kind in told] == ["task.created", "task.started"]
    async with operator(db) as conn:
        await cancel(conn, task_id=task_id)  # type: ignore[arg-type] # a UUID is a TaskId
    for at, expected in ((0, ["task.started", "task.cancelled"]), (1, ["task.cancelled"])):
        again = await read_stream(api, "me", path, told[at][0], len(expected))
        assert [kind for _, kind in again] == expected


async def test_stream_of_all_tells_a_tenant_nothing_of_others(api: Api, db: Database) -> None:
    path: Any = ("/events", None)
    mine, theirs = api.callers["me"].user_id, api.callers["other"].user_id
    for tenant in (theirs, mine):
        async with db.transaction(Role.APP, tenant=tenant) as conn:
            await enqueue(conn, plain("open"))
    told = await read_stream(api, "me", path, f"1:1://0/{UUID(int=0)}", 1)
    assert len(told) == 1
    async with db.transaction(Role.APP, tenant=mine) as conn:
        await enqueue(conn, plain("open"))
    again = await read_stream(api, "me", path, told[0][0], 1)
    assert again[0][1] == "task.created"
    assert again[0][0] != told[0][0]
