"""PostgreSQL without room (D7): refused clearly, reads served, and well again by itself."""

import asyncio
from typing import Any

import pytest

from helix.core.db import Connection, Database, Role
from helix.core.errors import StorageFull
from helix.core.storage import require_room
from tests.fakes import full_disk
from tests.gateway.conftest import Stack

TABLES = ["llm_requests"]


@pytest.fixture
def options() -> dict[str, Any]:
    return {"record_timeout_s": 1.0, "drain_timeout_s": 2}


async def ready(stack: Stack, status: int) -> Any:
    async with asyncio.timeout(10):
        while (answer := await stack.request("GET", "/ready")).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer.json


async def test_calls_are_refused_reads_are_served_and_it_heals_alone(
    stack: Stack, owner: Connection
) -> None:
    assert (await stack.chat()).status == 200
    await full_disk.fill(owner, TABLES)
    for _ in range(3):
        refused = await stack.chat(model="up/gpt-4")
        assert (refused.status, refused.error["code"]) == (503, "storage_full")
        assert int(refused.headers["retry-after"]) >= 1
    assert stack.upstream.calls == []
    assert (await ready(stack, 503))["missing"] == ["recorder", "storage"]
    assert (await stack.request("GET", "/v1/models")).status == 200
    assert b"helix_storage_full 1.0" in (await stack.request("GET", "/metrics")).body
    await full_disk.empty(owner, TABLES)
    assert (await ready(stack, 200))["missing"] == []
    assert (await stack.chat()).status == 200
    assert b"helix_storage_full 0.0" in (await stack.request("GET", "/metrics")).body


async def test_writing_that_passes_by_chance_does_not_count_as_room(
    stack: Stack, owner: Connection
) -> None:
    """What fits into an old page proves nothing: calls go on when the probe finds room."""
    await full_disk.fill(owner, TABLES)
    assert (await stack.chat()).error["code"] == "storage_full"
    await owner.execute("DROP TRIGGER rig_no_row ON llm_requests")
    assert (await stack.chat()).error["code"] == "storage_full"
    await owner.execute("DROP EVENT TRIGGER rig_no_new_table")
    await ready(stack, 200)
    assert (await stack.chat()).status == 200


async def test_unit_of_work_says_that_there_is_no_room(db: Database, owner: Connection) -> None:
    await full_disk.fill(owner, ["llm_providers"])

    async def work() -> None:
        async with db.transaction(Role.OPERATOR) as conn:
            await conn.execute("INSERT INTO llm_providers (name, protocol) VALUES ('x', 'mock')")

    with pytest.raises(StorageFull) as caught:
        await work()
    assert (caught.value.status, caught.value.retry_after_s) == (503, 10)


async def test_probe_leaves_nothing_behind(db: Database) -> None:
    for role in Role:
        async with db.connection(role) as conn:
            await require_room(conn)
            await require_room(conn)
            assert await conn.fetchval("SELECT to_regclass('helix_room')") is None
