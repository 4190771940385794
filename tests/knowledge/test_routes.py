"""/api/knowledge over HTTP: every route without a caller, for another tenant, and right."""

import base64
from typing import Any
from uuid import UUID, uuid4

import httpx2 as httpx
import msgspec
import pytest
from fastapi import FastAPI, Request, Response

from helix.core.db import Connection, Database
from helix.core.errors import HelixError, Unauthenticated
from helix.knowledge import build_router
from helix.knowledge.reading import ReadLimits
from tests.knowledge.support import a_user, knowledge_on, pdf


class Api:
    """The routes in an application of their own; `who` says who calls."""

    def __init__(self, db: Database, callers: dict[str, UUID]) -> None:
        self.app = FastAPI()
        self.app.add_exception_handler(HelixError, shown)
        limits = ReadLimits(bytes_max=100_000, seconds=60)
        self.router = build_router(knowledge_on(db, limits=limits), self.identify)
        self.app.include_router(self.router)
        self.callers = callers

    async def identify(self, request: Request) -> UUID:
        found = self.callers.get(request.headers.get("x-caller", ""))
        if found is None:
            raise Unauthenticated("no key")
        return found

    async def call(
        self, who: str, method: str, path: str, body: Any = None, content: bytes | None = None
    ) -> tuple[int, Any]:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://helix") as client:
            answer = await client.request(
                method,
                f"/api/knowledge{path}",
                headers={"x-caller": who},
                **({"json": body} if content is None else {"content": content}),  # type: ignore[arg-type]
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
        path = route.path.removeprefix("/api/knowledge")  # type: ignore[attr-defined]
        for method in route.methods:  # type: ignore[attr-defined]
            made = path.replace("{document_id}", str(uuid4()))
            status, body = await api.call("nobody", method, made, {"content": "x"})
            assert (status, body["code"]) == (401, "unauthenticated"), (method, path)


async def test_a_document_is_added_found_changed_and_removed(api: Api) -> None:
    text = "# Pumps\n\nPrime the pump."
    status, made = await api.call("me", "POST", "", {"content": text, "name": "p.md", "key": "p"})
    assert (status, made["title"], made["duplicate"]) == (201, "Pumps", False)
    place = f"/{made['id']}"
    status, found = await api.call("me", "POST", "/search", {"query": "prime"})
    [hit] = found["data"]
    cited = hit["citation"]
    assert (status, cited["document_id"], hit["tainted"]) == (200, made["id"], True)
    query = f"?start={cited['start']}&length={cited['end'] - cited['start']}"
    assert (await api.call("me", "GET", f"{place}/text{query}"))[1]["text"] == hit["content"]
    patch = {"quality": 0.25, "expires_at": "2999-01-01T00:00:00Z"}
    status, changed = await api.call("me", "PATCH", place, patch)
    assert (status, changed["quality"], changed["quality_by"]) == (200, 0.25, "manual")
    status, changed = await api.call("me", "PATCH", place, {"quality": None, "expires_at": None})
    assert (changed["quality_by"], changed["expires_at"]) == ("rule", None)
    assert [c["number"] for c in (await api.call("me", "GET", f"{place}/chunks"))[1]["data"]] == [0]
    assert (await api.call("me", "GET", "/stats"))[1]["documents"] == 1
    assert (await api.call("me", "GET", "?tags=none"))[1] == {"data": []}
    assert await api.call("me", "DELETE", place) == (200, {"removed": [made["id"]]})
    assert (await api.call("me", "GET", place))[0] == 404


async def test_a_file_comes_as_base64_or_as_the_body(api: Api) -> None:
    content = pdf(["Alarm E42 means low pressure."])
    coded = base64.b64encode(content).decode()
    status, made = await api.call("me", "POST", "", {"file": coded, "title": "Manual"})
    assert (status, made["media_type"], made["pages"]) == (201, "application/pdf", 1)
    status, again = await api.call("me", "POST", "/file?title=Other", content=content)
    assert (status, again["id"], again["duplicate"]) == (201, made["id"], True)


async def test_what_passes_a_limit_or_cannot_be_read_is_told(api: Api) -> None:
    assert await api.call("me", "POST", "/file", content=b"x" * 100_001) == (
        413,
        {"code": "knowledge.too_large"},
    )
    broken = await api.call("me", "POST", "/file?name=x.pdf", content=b"no pdf")
    assert broken == (422, {"code": "knowledge.unreadable"})
    assert (await api.call("me", "POST", "", {"file": "?"}))[1]["code"] == "knowledge.bad_document"
    assert (await api.call("me", "POST", "", {"file": "", "content": ""}))[0] == 422
    assert (await api.call("me", "POST", "/search", {"query": "?!"}))[0] == 400


async def test_another_tenants_document_looks_like_a_missing_one(api: Api) -> None:
    made = (await api.call("me", "POST", "", {"content": "Prime the pump."}))[1]
    for method, path in [("GET", ""), ("GET", "/text"), ("GET", "/chunks"), ("DELETE", "")]:
        assert (await api.call("other", method, f"/{made['id']}{path}"))[0] == 404
    assert (await api.call("other", "PATCH", f"/{made['id']}", {"title": "x"}))[0] == 404
    assert (await api.call("other", "POST", "/search", {"query": "pump"}))[1]["data"] == []
