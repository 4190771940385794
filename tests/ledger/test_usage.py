"""Usage and budgets over HTTP and on the command line: one's own, exact, up to the last call."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import msgspec
import pytest

from helix import accounts
from helix.app import build
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database, Queries, Role, connect
from helix.gateway.recorder import arguments_of
from helix.gateway.types import Settlement
from helix.ledger.store import Store
from tests.gateway.conftest import make_key, make_user
from tests.gateway.test_recorder import admission, completed

FROM, TO = "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"


async def settle(url: str, ends: list[tuple[Any, Settlement]]) -> None:
    """Record whole calls as the recorder does."""
    queries = Queries("helix.gateway")
    conn = await connect(url, role=Role.RECORDER)
    for name, rows in (
        ("admit_calls", [a for a, _ in ends]),
        ("settle_calls", [e for _, e in ends]),
    ):
        statement = queries[name]
        await conn.fetch(statement.sql, *arguments_of(statement.params, rows))
    await conn.close()


@dataclass
class Told:
    """An answer."""

    status_code: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return msgspec.json.decode(self.text)


@dataclass
class Api:
    """All routes, without a server."""

    app: Any

    async def send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        params: dict[str, str] | None = None,
        json: Any = None,
    ) -> Told:
        sent = b"" if json is None else msgspec.json.encode(json)
        given = {"content-type": "application/json", **headers}
        messages: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": sent, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": urlencode(params or {}).encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
        }
        await self.app(scope, receive, send)
        text = b"".join(message.get("body", b"") for message in messages[1:]).decode()
        told = {k.decode(): v.decode() for k, v in messages[0]["headers"]}
        return Told(messages[0]["status"], told, text)

    async def get(self, path: str, **given: Any) -> Told:
        return await self.send("GET", path, **given)

    async def post(self, path: str, **given: Any) -> Told:
        return await self.send("POST", path, **given)

    async def patch(self, path: str, **given: Any) -> Told:
        return await self.send("PATCH", path, **given)

    async def delete(self, path: str, **given: Any) -> Told:
        return await self.send("DELETE", path, **given)


@pytest.fixture
async def api(db: Database, tmp_path: Path) -> Api:
    settings = load_settings({}, home=tmp_path)
    return Api(build(settings, db, Keyring([new_key()]), SystemClock()))


@pytest.fixture
async def people(owner: Connection, database_url: str) -> dict[str, Any]:
    """Two users and an admin with keys; `ann` made three calls and `bob` one."""
    found: dict[str, Any] = {}
    for name, role in (("ann", "user"), ("bob", "user"), ("root", "admin")):
        user_id = await make_user(owner, accounts.UserRole(role))
        made = await make_key(owner, user_id)
        found[name], found[f"{name}_key"] = user_id, made.key
        found[f"{name}_key_id"] = made.record.id
    ends = []
    for name, model, cost in (
        ("ann", "gpt-4", "0.000000000001"),
        ("ann", "gpt-4", "0.5"),
        ("ann", "o3", "0.25"),
        ("bob", "o3", "1"),
    ):
        row = admission(found[name], api_key_id=found[f"{name}_key_id"])
        ends.append((row, completed(row, model_name=model, cost_usd=Decimal(cost))))
    await settle(database_url, ends)
    return found


def bearer(people: dict[str, Any], name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {people[f'{name}_key']}"}


async def test_user_sees_their_own_usage_and_an_admin_all(api: Api, people: dict[str, Any]) -> None:
    asked = {"from": FROM, "to": TO, "by": "model"}
    own = await api.get("/api/usage", params=asked, headers=bearer(people, "ann"))
    assert [(row["model"], row["call_count"], row["cost_usd"]) for row in own.json()["data"]] == [
        ("gpt-4", 2, "0.500000000001"),
        ("o3", 1, "0.250000000000"),
    ]
    every = await api.get(
        "/api/usage", params={**asked, "by": "month"}, headers=bearer(people, "root")
    )
    (row,) = every.json()["data"]
    assert (row["period"], row["call_count"]) == ("2026-11-01T00:00:00Z", 4)
    assert row["cost_usd"] == "1.750000000001"
    other = {**asked, "user_id": str(people["bob"])}
    assert (
        await api.get("/api/usage", params=other, headers=bearer(people, "ann"))
    ).status_code == 403


async def test_usage_comes_as_csv(api: Api, people: dict[str, Any]) -> None:
    asked = {"from": FROM, "to": TO, "by": "day,provider", "format": "csv"}
    told = await api.get("/api/usage", params=asked, headers=bearer(people, "bob"))
    assert told.headers["content-type"].startswith("text/csv")
    heading, row = told.text.splitlines()
    assert heading.startswith("period,provider,call_count,estimated_count,input_tokens")
    assert row == "2026-11-22T00:00:00+00:00,mock,1,0,3,4,0,0,1.000000000000"


@pytest.mark.parametrize("by", ["colour", "hour,day"])
async def test_grouping_that_is_not_known_is_refused(
    api: Api, people: dict[str, Any], by: str
) -> None:
    told = await api.get(
        "/api/usage", params={"from": FROM, "by": by}, headers=bearer(people, "ann")
    )
    assert told.status_code == 400
    assert told.json()["error"]["code"] == "usage_unreadable"


async def test_budget_made_late_counts_what_was_spent(
    api: Api, people: dict[str, Any], owner: Connection
) -> None:
    await owner.execute("SET session_replication_role = replica")
    await owner.execute("UPDATE llm_token_usage SET timestamp = now()")
    body = {"user_id": str(people["ann"]), "period": "total", "limit_usd": "2"}
    made = await api.post("/api/budgets", json=body, headers=bearer(people, "root"))
    assert made.status_code == 201
    assert made.json()["settled_usd"] == "0.750000000001"
    assert made.json()["left_usd"] == "1.249999999999"
    again = await api.post("/api/budgets", json=body, headers=bearer(people, "root"))
    assert again.json()["error"]["code"] == "budget_taken"
    seen = await api.get("/api/budgets", headers=bearer(people, "ann"))
    assert [one["id"] for one in seen.json()["data"]] == [made.json()["id"]]
    unseen = await api.get("/api/budgets", headers=bearer(people, "bob"))
    assert unseen.json()["data"] == []


async def test_key_cannot_make_or_loosen_budgets(api: Api, people: dict[str, Any]) -> None:
    body = {"period": "day", "limit_usd": "1000"}
    refused = await api.post("/api/budgets", json=body, headers=bearer(people, "ann"))
    assert refused.status_code == 403
    made = await api.post(
        "/api/budgets", json={**body, "user_id": str(people["ann"])}, headers=bearer(people, "root")
    )
    path = f"/api/budgets/{made.json()['id']}"
    change = await api.patch(path, json={"limit_usd": "9"}, headers=bearer(people, "ann"))
    assert change.status_code == 403
    assert (await api.delete(path, headers=bearer(people, "ann"))).status_code == 403
    assert (await api.patch(path, json={"limit_usd": "9"}, headers=bearer(people, "root"))).json()[
        "limit_usd"
    ] == "9.000000000000"
    assert (await api.delete(path, headers=bearer(people, "root"))).status_code == 204


async def test_budget_of_anothers_key_is_refused(api: Api, people: dict[str, Any]) -> None:
    body = {
        "user_id": str(people["ann"]),
        "api_key_id": str(people["bob_key_id"]),
        "period": "day",
        "limit_usd": "1",
    }
    told = await api.post("/api/budgets", json=body, headers=bearer(people, "root"))
    assert told.status_code == 404


async def test_repricing_shows_what_a_price_set_afterwards_would_change(
    owner: Connection, people: dict[str, Any]
) -> None:
    await owner.execute(
        "INSERT INTO llm_pricing (model, input_cost_per_million, output_cost_per_million,"
        " per_request_cost_usd, effective_date) VALUES ('o3', 10, 20, 0.1, '2026-01-01')"
    )
    from_time, to_time = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    found = await Store().reprice_month(owner, from_time=from_time, to_time=to_time, model="o3")
    (row,) = found
    assert (row["call_count"], row["changed_count"]) == (2, 2)
    assert row["cost_usd"] == Decimal("1.25")
    assert row["new_cost_usd"] == 2 * (Decimal(3 * 10 + 4 * 20) / 1_000_000 + Decimal("0.1"))


async def test_spend_of_tasks_is_what_their_calls_cost(
    owner: Connection, database_url: str, people: dict[str, Any]
) -> None:
    task, idle = uuid4(), uuid4()
    rows = [admission(people["ann"], n, task_id=task) for n in range(2)]
    await settle(database_url, [(row, completed(row, cost_usd=Decimal("0.1"))) for row in rows])
    spent: dict[UUID, Decimal] = await Store().spend_of_tasks(owner, [task, idle])
    assert spent == {task: Decimal("0.2")}


async def test_child_key_ends_with_its_parent_and_calls_only_what_both_may(
    api: Api, people: dict[str, Any], db: Database
) -> None:
    parent = bearer(people, "ann")
    made = await api.post(
        "/api/keys",
        json={"name": "child", "allowed_models": ["gpt-*"], "scopes": ["completions", "usage"]},
        headers=parent,
    )
    assert made.json()["parent_key_id"] == str(people["ann_key_id"])
    child = {"x-api-key": made.json()["key"]}
    assert (await api.get("/api/me", headers=child)).status_code == 200
    own = {"Authorization": f"Bearer {made.json()['key']}"}
    grand = await api.post("/api/keys", json={"name": "grand"}, headers=own)
    assert grand.status_code == 201
    excess = await api.post("/api/keys", json={"scopes": ["memories"]}, headers=own)
    assert excess.status_code == 403
    await api.delete(f"/api/keys/{people['ann_key_id']}", headers=bearer(people, "ann"))
    keys = await db_keys(db, people["ann"])
    assert keys == {"revoked"}


async def db_keys(db: Database, user_id: UUID) -> set[str]:
    async with db.connection(Role.OPERATOR) as conn:
        rows = await conn.fetch("SELECT status FROM api_keys WHERE user_id = $1", user_id)
    return {row["status"] for row in rows}


async def test_rotated_key_opens_with_both_secrets_for_a_while(
    api: Api, people: dict[str, Any]
) -> None:
    path = f"/api/keys/{people['bob_key_id']}/rotate"
    made = await api.post(path, json={"overlap_s": 60}, headers=bearer(people, "bob"))
    assert made.json()["id"] == str(people["bob_key_id"])
    assert (await api.get("/api/me", headers=bearer(people, "bob"))).status_code == 200
    new = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await api.get("/api/me", headers=new)).status_code == 200
    assert (await api.post(path, json={}, headers=bearer(people, "ann"))).status_code == 403
    ended = await api.post(path, json={"overlap_s": 0}, headers=new)
    assert ended.status_code == 200
