"""Backups over HTTP: asked for once, made and tested by tasks, shown with what is wrong."""

from typing import Any

import httpx2 as httpx
import msgspec
import pytest
from fastapi import FastAPI, Request, Response
from pydantic import SecretStr

from helix.accounts import ScopeMissing
from helix.core.clock import SystemClock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection, Database
from helix.core.errors import HelixError, Misuse
from helix.core.instance import load_keyring, make_home
from helix.operations.backup.jobs import BACKUP_CREATE, BACKUP_VERIFY, register_backups
from helix.operations.backup.routes import build_router
from helix.tasks import TaskRegistry


async def only_admin(request: Request) -> None:
    if request.headers.get("x-caller") != "admin":
        raise ScopeMissing("admin")


async def shown(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HelixError)
    return Response(msgspec.json.encode({"code": exc.code}), exc.status)


class Api:
    def __init__(self, db: Database, settings: Settings) -> None:
        make_home(settings.home_dir)
        keyring: Keyring = load_keyring(settings, create=True)
        self.registry = TaskRegistry()
        register_backups(self.registry, db, settings, clock=SystemClock())
        self.router = build_router(
            db, settings, keyring, self.registry, SystemClock(), admin=only_admin
        )
        self.app = FastAPI()
        self.app.include_router(self.router)
        self.app.add_exception_handler(HelixError, shown)

    async def call(
        self, method: str, path: str, body: Any = None, who: str = "admin"
    ) -> tuple[int, Any]:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://helix") as client:
            answer = await client.request(
                method, f"/api/backups{path}", json=body, headers={"x-caller": who}
            )
        return answer.status_code, answer.json()

    async def run(self, owner: Connection, task_id: str) -> Any:
        """Do what the worker does with a task that was enqueued."""
        row = await owner.fetchrow(
            "SELECT task_type, payload::text FROM background_tasks WHERE id = $1", task_id
        )
        definition = self.registry.get(row["task_type"])
        return await definition.handler(None, definition.decode(row["payload"]))


@pytest.fixture
def api(db: Database, settings: Settings) -> Api:
    return Api(db, settings)


async def test_only_administrators_pass(api: Api) -> None:
    for route in api.router.routes:
        path = route.path.removeprefix("/api/backups")  # type: ignore[attr-defined]
        for method in route.methods:  # type: ignore[attr-defined]
            status, body = await api.call(method, path, {}, who="somebody")
            assert (status, body["code"]) == (403, ScopeMissing.code), (method, path)


async def test_a_backup_is_asked_for_once_made_and_shown_and_tested(
    api: Api, owner: Connection
) -> None:
    assert await api.call("GET", "") == (200, {"data": [], "unusable": {}})
    status, asked = await api.call("POST", "", {"method": "logical"})
    assert (status, asked["created"]) == (202, True)
    status, again = await api.call("POST", "", {"method": "logical"})
    assert (again["task_id"], again["created"]) == (asked["task_id"], False)
    status, other = await api.call("POST", "", {})
    assert (status, other["created"]) == (202, True)
    done = await api.run(owner, asked["task_id"])
    [made] = done.made
    status, listed = await api.call("GET", "")
    [shown_backup] = listed["data"]
    assert (shown_backup["name"], shown_backup["method"]) == (made.name, "logical")
    assert shown_backup["verified_at"] is None
    status, asked = await api.call("POST", f"/{made.name}/verify", {})
    assert status == 202
    [tested] = await api.run(owner, asked["task_id"])
    assert tested.name == made.name
    status, listed = await api.call("GET", "")
    assert listed["data"][0]["verified_at"] is not None
    status, health = await api.call("GET", "/status")
    assert (status, health["alarms"], health["backups"]) == (200, [], 1)
    assert health["archiving"] is None  # that database is not of this home


async def test_what_is_not_there_or_not_known_is_refused(api: Api) -> None:
    assert (await api.call("POST", "/nobody/verify", {}))[0] == 404
    assert (await api.call("POST", "/helix_backup_20200101_000000/verify", {}))[0] == 404
    assert (await api.call("POST", "", {"method": "magical"}))[0] == 422


async def test_of_an_outside_database_no_physical_backup_is_made(
    db: Database, settings: Settings, database_url: str
) -> None:
    outside = settings.model_copy(update={"database_url": SecretStr(database_url)})
    status, body = await Api(db, outside).call("POST", "", {"method": "physical"})
    assert (status, body["code"]) == (400, Misuse.code)


def test_the_tasks_take_what_a_schedule_gives(api: Api) -> None:
    for name in (BACKUP_CREATE, BACKUP_VERIFY):
        assert msgspec.to_builtins(api.registry.get(name).decode("{}")) in (
            {"method": None},
            {"name": None},
        )
