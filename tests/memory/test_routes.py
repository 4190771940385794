"""/api/memories over HTTP: every route without a caller, for another tenant, and right."""

from typing import Any
from uuid import UUID, uuid4

import httpx2 as httpx
import msgspec
import pytest
from fastapi import FastAPI, Request, Response

from helix.core.db import Connection, Database
from helix.core.errors import HelixError, Unauthenticated
from helix.memory import build_router
from tests.memory.support import a_user, memories_on


class Api:
    """The routes in an application of their own; `who` says who calls."""

    def __init__(self, db: Database, callers: dict[str, UUID]) -> None:
        self.app = FastAPI()
        self.app.add_exception_handler(HelixError, shown)
        self.router = build_router(memories_on(db), self.identify)
        self.app.include_router(self.router)
        self.callers = callers

    async def identify(self, request: Request) -> UUID:
        found = self.callers.get(request.headers.get("x-caller", ""))
        if found is None:
            raise Unauthenticated("no key")
        return found

    async def call(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://helix") as client:
            answer = await client.request(
                method, f"/api/memories{path}", headers={"x-caller": who}, json=body
            )
        return answer.status_code, answer.json()


async def shown(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HelixError)
    return Response(msgspec.json.encode({"code": exc.code}), exc.status)


@pytest.fixture
async def api(db: Database, owner: Connection) -> Api:
    return Api(db, {"me": await a_user(owner), "other": await a_user(owner)})


async def test_every_route_refuses_who_is_not_known(api: Api) -> None:
    for route in api.router.routes:
        path = route.path.removeprefix("/api/memories")  # type: ignore[attr-defined]
        for method in route.methods:  # type: ignore[attr-defined]
            made = path.replace("{memory_id}", str(uuid4()))
            query = "?entity=a&to=b" if "graph" in made else ""
            status, body = await api.call("nobody", method, made + query, {"content": "x"})
            assert (status, body["code"]) == (401, "unauthenticated"), (method, path)


async def test_a_memory_is_added_found_changed_and_forgotten(api: Api) -> None:
    status, made = await api.call("me", "POST", "", {"content": "Ada sails", "speaker": "Ada"})
    assert (status, made["duplicate"], made["confidence"]) == (201, False, 0.8)
    status, found = await api.call("me", "POST", "/search", {"query": "Who sails?"})
    assert (status, found["vectors"]) == (200, "none: no embedder is set up")
    assert found["data"][0]["memory"]["id"] == made["id"]
    assert found["meanings"].keys() >= found["data"][0]["signals"].keys()
    place = f"/{made['id']}"
    status, changed = await api.call("me", "PATCH", place, {"content": "Ada rows", "tags": ["x"]})
    assert (status, changed["content"], changed["tags"]) == (200, "Ada rows", ["x"])
    request = str(uuid4())
    body = {"request_id": request, "uses": [{"memory_id": made["id"], "score": 1.5}]}
    assert (await api.call("me", "POST", "/uses", body))[1] == {"recorded": [made["id"]]}
    assert (await api.call("me", "GET", place))[1]["used_by"][0]["request_id"] == request
    gone = {"forgotten": [made["id"]], "conversations_erased": [], "conversations_kept": []}
    assert await api.call("me", "DELETE", place) == (200, gone)
    assert (await api.call("me", "GET", place))[0] == 404


async def test_another_tenants_memory_looks_like_a_missing_one(api: Api) -> None:
    _, made = await api.call("me", "POST", "", {"content": "mine alone"})
    for memory_id in (made["id"], str(uuid4())):
        for method, body in (("GET", None), ("PATCH", {"content": "x"}), ("DELETE", None)):
            answer = await api.call("other", method, f"/{memory_id}", body)
            assert answer == (404, {"code": "memory.not_found"})
    assert (await api.call("other", "GET", ""))[1] == {"data": []}
    assert (await api.call("other", "POST", "/search", {"query": "mine alone"}))[1]["data"] == []
    assert (await api.call("me", "GET", f"/{made['id']}"))[0] == 200


async def test_a_batch_is_added_whole_and_listed_in_pages(api: Api) -> None:
    memories = [{"content": f"number {n}", "memory_type": "event"} for n in range(5)]
    status, made = await api.call("me", "POST", "/batch", {"memories": [*memories, memories[0]]})
    assert (status, made["added"], made["data"][5]["duplicate"]) == (201, 5, True)
    _, first = await api.call("me", "GET", "?limit=3&memory_type=event")
    mark = first["data"][-1]["id"]
    _, rest = await api.call("me", "GET", f"?limit=3&after_id={mark}")
    seen = [m["content"] for m in first["data"] + rest["data"]]
    assert seen == [f"number {n}" for n in reversed(range(5))]


async def test_forgetting_everything_must_be_said(api: Api) -> None:
    await api.call("me", "POST", "", {"content": "one"})
    await api.call("other", "POST", "", {"content": "two"})
    assert (await api.call("me", "DELETE", ""))[1]["forgotten"] == 0
    assert (await api.call("me", "DELETE", "?all=true"))[1] == {
        "forgotten": 1,
        "conversations_erased": 0,
        "kept": ["conversations (add &sources=true)", "documents"],
    }
    assert len((await api.call("other", "GET", ""))[1]["data"]) == 1


async def test_the_graph_is_served(api: Api) -> None:
    for text in ("Ben works at Acme", "Ada works at Acme"):
        await api.call("me", "POST", "", {"content": text})
    _, known = await api.call("me", "GET", "/entities?type=organisation")
    assert [(e["name"], e["mention_count"]) for e in known["data"]] == [("Acme", 2)]
    _, told = await api.call("me", "GET", "/graph/relations?entity=ben")
    assert [r["object"] for r in told["data"]] == ["Acme"]
    _, near = await api.call("me", "GET", "/graph/neighbours?entity=Ada&depth=2")
    assert [s["entity"]["name"] for s in near["data"]] == ["Acme", "Ben"]
    _, way = await api.call("me", "GET", "/graph/path?entity=Ada&to=Ben")
    assert way == {"path": ["Ada works_at Acme", "Ben works_at Acme"]}
    missing = await api.call("other", "GET", "/graph/relations?entity=ben")
    assert missing == (404, {"code": "memory.entity_not_found"})


async def test_an_audit_is_applied_and_taken_back(api: Api) -> None:
    for text in ("Rex the dog likes walks", "Rex the dog likes walks!"):
        await api.call("me", "POST", "", {"content": text})
    _, report = await api.call("me", "POST", "/audit?apply=true")
    assert report["merged"] == 1
    _, undone = await api.call("me", "POST", f"/undo?batch_id={report['batch_id']}")
    assert len(undone["restored"]) == 1
    assert await api.call("me", "POST", "/undo") == (409, {"code": "memory.nothing_to_undo"})


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/search", {"query": "?!"}, 400),
        ("/search", {"query": "x", "max_count": 101}, 422),
        ("/search", {"query": "x", "filters": {"user_id": str(uuid4())}}, 422),
        ("", {"content": "x", "user_id": str(uuid4())}, 422),
        ("", {"content": "x", "confidence": 1.5}, 422),
        ("", {"content": "x\0"}, 400),
        ("", {"content": "x", "session_id": str(uuid4())}, 400),
        ("/batch", {"memories": []}, 422),
    ],
)
async def test_bad_input_is_refused(api: Api, path: str, body: dict[str, Any], status: int) -> None:
    assert (await api.call("me", "POST", path, body))[0] == status
