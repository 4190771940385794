"""GET /api/calls: the record of one's own calls, by id and in pages; for an admin of all."""

from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Request, Response

from helix.accounts import UserRole
from helix.core.errors import HelixError
from helix.gateway import build_router, error_body
from tests.gateway.conftest import Answer, Stack, make_key, make_user, serving


class Api:
    """The routes on a port of their own."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    async def get(self, path: str, key: str | None = None, **query: str) -> Answer:
        headers = {"Authorization": "" if key is None else f"Bearer {key}"}
        told = f"{path}?{urlencode(query)}" if query else path
        return await self._stack.request("GET", told, headers=headers)


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    app = FastAPI()
    app.include_router(build_router(stack.db, stack.accounts))

    @app.exception_handler(HelixError)
    async def shown(_: Request, exc: HelixError) -> Response:
        return Response(error_body(exc, "r"), exc.status, media_type="application/json")

    async with serving(app) as (_, port):
        yield Api(replace(stack, port=port))


async def test_header_of_an_answer_leads_to_its_record(stack: Stack, api: Api) -> None:
    answer = await stack.chat(model="up/gpt-4")
    place = answer.headers["x-helix-record"]
    assert place == f"/api/calls/{answer.headers['x-request-id']}"
    told = (await api.get(place, stack.key)).json
    assert told["request_id"] == answer.headers["x-request-id"]
    assert told["request_body"]["model"] == "up/gpt-4"
    assert [one["selected"] for one in told["responses"]] == [True]
    assert told["responses"][0]["cost_usd"] == "0.000750000000"


async def test_pages_follow_each_other_without_gap_or_repeat(stack: Stack, api: Api) -> None:
    made = [(await stack.chat()).headers["x-request-id"] for _ in range(5)]
    seen: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while True:
        page = (await api.get("/api/calls", stack.key, **query)).json
        seen += [one["request_id"] for one in page["data"]]
        if page["next"] is None:
            break
        query["before"] = page["next"]
    assert seen == made[::-1]


async def test_calls_are_filtered(stack: Stack, api: Api) -> None:
    await stack.chat(model="up/gpt-4")
    await stack.chat(model="up/400")

    async def count(**query: str) -> int:
        page = (await api.get("/api/calls", stack.key, **query)).json
        return len(page["data"])

    assert await count(status="failed") == 1
    assert await count(model="up/gpt-4", status="completed") == 1
    assert await count(until="2020-01-01T00:00:00Z") == 0
    assert await count(since="2020-01-01T00:00:00Z") == 2
    refused = await api.get("/api/calls", stack.key, limit="500")
    assert refused.status == 422


async def test_another_user_sees_nothing_and_an_admin_all(stack: Stack, api: Api) -> None:
    async with stack.owner.transaction():
        other = await make_key(stack.owner, await make_user(stack.owner, UserRole.USER))
    answer = await stack.chat()
    place = f"/api/calls/{answer.headers['x-request-id']}"
    foreign = await api.get(place, other.key)
    nothing = await api.get(f"/api/calls/{other.record.id}", other.key)
    assert foreign.status == nothing.status == 404
    page = await api.get("/api/calls", other.key)
    assert page.json == {"data": [], "next": None}
    assert (await api.get(place, stack.key)).status == 200
    assert (await api.get(place)).status == 401
