"""/api/conversations over HTTP: each verb, and for each who may not."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx2 as httpx
import msgspec
import pytest
from fastapi import FastAPI, Request, Response

from helix.conversations.routes import ConversationCaller, build_router
from helix.core.db import Connection, Database
from helix.core.errors import HelixError, Unauthenticated
from tests.conversations.support import domain
from tests.factories import make_user


class Api:
    """The routes in an application of their own; the header says who calls."""

    def __init__(self, db: Database, mine: UUID, theirs: UUID) -> None:
        self.app = FastAPI()
        self.app.add_exception_handler(HelixError, shown)
        self.router = build_router(domain(db), self.identify)
        self.app.include_router(self.router)
        self.callers = {
            "me": ConversationCaller(mine),
            "other": ConversationCaller(theirs),
            "operator": ConversationCaller(theirs, operator=True),
        }

    async def identify(self, request: Request) -> ConversationCaller:
        found = self.callers.get(request.headers.get("x-caller", ""))
        if found is None:
            raise Unauthenticated("no key")
        return found

    async def call(
        self, method: str, path: str = "", body: Any = None, who: str = "me"
    ) -> tuple[int, Any]:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://helix") as client:
            answer = await client.request(
                method, f"/api/conversations{path}", headers={"x-caller": who}, json=body
            )
        return answer.status_code, answer.json()


async def shown(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HelixError)
    return Response(msgspec.json.encode({"code": exc.code}), exc.status)


@pytest.fixture
async def api(db: Database, owner: Connection) -> Api:
    return Api(db, (await make_user(owner))["id"], (await make_user(owner))["id"])


async def made(api: Api, *texts: str, **fields: Any) -> str:
    code, talk = await api.call("POST", body=fields)
    assert code == 201
    if texts:
        added = [{"message": {"role": "user", "content": text}} for text in texts]
        code, _ = await api.call("POST", f"/{talk['id']}/messages", {"messages": added})
        assert code == 201
    identifier: str = talk["id"]
    return identifier


async def test_a_conversation_is_made_found_and_changed(api: Api) -> None:
    talk = await made(api, external_id="support-7", metadata={"a": 1})
    taken = await api.call("POST", body={"external_id": "support-7"})
    assert taken == (409, {"code": "conversations.external_id_taken"})
    code, changed = await api.call("PATCH", f"/{talk}", {"title": "Berlin", "closed": True})
    assert (code, changed["title"], changed["status"]) == (200, "Berlin", "closed")
    body = {"messages": [{"message": {"role": "user", "content": "x"}}]}
    refused = await api.call("POST", f"/{talk}/messages", body)
    assert refused == (409, {"code": "conversations.not_active"})
    code, again = await api.call("POST", f"/{talk}/resume", {"reason": "back"})
    assert (code, again["status"]) == (200, "active")


async def test_a_project_of_nobody_is_not_found(api: Api) -> None:
    told = await api.call("POST", body={"project_id": str(uuid4())})
    assert told == (404, {"code": "conversations.project_not_found"})


async def test_pages_end_to_end_name_each_once(api: Api) -> None:
    ids = [await made(api) for _ in range(5)]
    seen: list[str] = []
    before = ""
    while True:
        code, page = await api.call("GET", f"?limit=2{before}")
        assert code == 200
        seen += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        before = f"&before={seen[-1]}"
    assert seen == ids[::-1]


async def test_a_conversation_is_shown_as_it_was(api: Api) -> None:
    talk = await made(api, "one", "two")
    _, rows = await api.call("GET", f"/{talk}/messages")
    first = rows["data"][0]["message_id"]
    await api.call("PATCH", f"/{talk}/messages/{first}", {"content": "uno"})
    await api.call("DELETE", f"/{talk}/messages/{rows['data'][1]['message_id']}?reason=typo")

    async def texts(at: str) -> list[str]:
        code, told = await api.call("GET", f"/{talk}{at}")
        assert code == 200
        return [one["message"]["content"] for one in told["state"]["messages"]]

    assert await texts("?at=0") == []
    assert await texts("?at=2") == ["one", "two"]
    assert await texts("?at=3") == ["uno", "two"]
    assert await texts("") == await texts("?at=4") == await texts("?at=99") == ["uno"]
    _, events = await api.call("GET", f"/{talk}/events?after=2")
    assert [one["event_type"] for one in events["data"]] == ["message.updated", "message.deleted"]
    assert events["data"][1]["event_data"] == {"reason": "typo"}
    moment = events["data"][0]["timestamp"].replace("+", "%2B")
    assert await texts(f"?at={moment}") == ["uno", "two"]
    assert await texts("?at=2020-01-01T00:00:00Z") == []
    for wrong in ("?at=soon", "?at=-1", "?at=2026-01-01T00:00:00"):
        assert await api.call("GET", f"/{talk}{wrong}") == (
            400, {"code": "conversations.bad_point"},
        )  # fmt: skip


async def test_events_of_clients_are_appended(api: Api) -> None:
    talk = await made(api)
    events = [
        {"event_type": "message.added", "message_id": "m1",
         "event_data": {"role": "user", "content": "hi"}},
        {"event_type": "debate.started", "event_data": {"debate_id": "d1", "topic": "tea"}},
        {"event_type": "debate.completed", "event_data": {"debate_id": "d1", "outcome": "yes"}},
    ]  # fmt: skip
    code, told = await api.call("POST", f"/{talk}/events", {"events": events})
    assert (code, [one["sequence_number"] for one in told["data"]]) == (201, [1, 2, 3])
    code, shown_ = await api.call("GET", f"/{talk}")
    assert shown_["state"]["debates"] == [
        {"debate_id": "d1", "topic": "tea", "completed": True, "outcome": "yes",
         "confidence": None}
    ]  # fmt: skip
    bad = {"events": [{"event_type": "message.shouted"}]}
    refused = await api.call("POST", f"/{talk}/events", bad)
    assert refused == (400, {"code": "conversations.event_refused"})


async def test_replay_snapshot_and_compression(api: Api) -> None:
    talk = await made(api, *[f"Anna ships crate {number} to Berlin today." for number in range(9)])
    code, taken = await api.call("POST", f"/{talk}/snapshots")
    assert (code, taken["snapshot"]["message_count"]) == (201, 9)
    assert await api.call("POST", f"/{talk}/snapshots") == (200, {"snapshot": None})
    code, done = await api.call("POST", f"/{talk}/replay", {"replay_type": "full"})
    assert (code, done["events_replayed"], done["messages_replayed"]) == (200, 11, 9)
    code, kept = await api.call(
        "POST", f"/{talk}/compress", {"strategy": "entity_graph", "target_tokens": 60}
    )
    assert (code, kept["compression_type"], kept["llm_model"]) == (201, "entity_graph", None)
    assert kept["compressed_tokens"] <= 60
    code, short = await api.call("POST", f"/{talk}/replay", {"replay_type": "compressed"})
    assert (short["compression_applied"], short["messages_replayed"]) == (True, 9)
    assert len(short["context"]) < 9
    code, replays = await api.call("GET", f"/{talk}/replays")
    assert [one["replay_type"] for one in replays["data"]] == ["compressed", "full"]
    code, listed = await api.call("GET", f"/{talk}/compressions")
    assert [one["id"] for one in listed["data"]] == [kept["id"]]
    code, snapshots = await api.call("GET", f"/{talk}/snapshots")
    assert {one["snapshot_type"] for one in snapshots["data"]} == {"on_demand", "compression"}
    code, queued = await api.call("POST", f"/{talk}/compress", {"background": True})
    assert code == 202
    again = await api.call("POST", f"/{talk}/compress", {"background": True})
    assert again == (202, queued)


async def test_erasing_is_for_good(api: Api) -> None:
    talk = await made(api, "secret")
    assert await api.call("DELETE", f"/{talk}") == (
        200, {"id": talk, "erased": True, "calls_erased": 0},
    )  # fmt: skip
    for method in ("GET", "DELETE"):
        assert await api.call(method, f"/{talk}") == (404, {"code": "conversations.not_found"})


async def test_nobody_else_reaches_any_verb(api: Api) -> None:
    """Every route with a conversation's id, to another and to nobody; an operator sees it."""
    talk = await made(api, "secret")
    bodies: dict[str, Any] = {
        "messages": {"messages": [{"message": {"role": "user", "content": "x"}}]},
        "events": {"events": [{"event_type": "conversation.paused"}]},
        "replay": {},
        "compress": {},
    }
    tried = 0
    for route in api.router.routes:
        path = getattr(route, "path", "").removeprefix("/api/conversations")
        if "{conversation_id}" not in path:
            continue
        path = path.format(conversation_id=talk, message_id="m")
        for method in getattr(route, "methods", ()):
            body = {} if method == "PATCH" else bodies.get(path.rpartition("/")[2])
            body = body if method in {"POST", "PATCH"} else None
            assert await api.call(method, path, body, "other") == (
                404, {"code": "conversations.not_found"},
            ), (method, path)  # fmt: skip
            assert (await api.call(method, path, body, "nobody"))[0] == 401
            tried += 1
    assert tried == 18
    assert (await api.call("GET", who="other"))[1]["data"] == []
    code, seen = await api.call("GET", f"/{talk}", who="operator")
    assert (code, seen["state"]["messages"][0]["message"]["content"]) == (200, "secret")
    assert (await api.call("GET", f"/{uuid4()}", who="operator"))[0] == 404


async def test_events_are_followed_as_they_happen(api: Api) -> None:
    """From Last-Event-ID on; the third is added while the second is told."""
    talk = await made(api, "one", "two")
    told = b""
    heard = asyncio.Event()

    async def receive() -> Any:
        await heard.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal told
        part = message.get("body", b"")
        told += part
        if b"id: 2\n" in part:
            body = {"messages": [{"message": {"role": "user", "content": "three"}}]}
            await api.call("POST", f"/{talk}/messages", body)
        if b"id: 3\n" in part:
            heard.set()

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/conversations/{talk}/events",
        "query_string": b"follow=true",
        "headers": [(b"x-caller", b"me"), (b"last-event-id", b"1")],
    }
    await asyncio.wait_for(api.app(scope, receive, send), 30)
    assert b"id: 1\n" not in told
    assert b"id: 2\nevent: message.added\ndata: {" in told
    assert b'"content":"three"' in told
