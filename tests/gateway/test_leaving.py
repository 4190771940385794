"""A client that leaves before a whole answer, and many streams over few connections."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
import pytest

from helix.core.db import Database, PoolLimits, Role
from tests.gateway.conftest import Stack

HELLO = [{"role": "user", "content": "hello there"}]
POOL_OF_FIVE = {role: PoolLimits(kept=0, maximum=5, acquire_timeout_s=30.0) for role in Role}
STREAMS = 120


@pytest.fixture
async def gateway_db(database_url: str) -> AsyncIterator[Database]:
    """A database of which the gateway may hold five connections for each purpose."""
    database = Database(database_url, POOL_OF_FIVE)
    yield database
    await database.close()


async def leave(stack: Stack, model: str, headers: str = "") -> None:
    """Make a call and close the connection once the provider was called."""
    body = msgspec.json.encode({"model": model, "messages": HELLO})
    _, writer = await asyncio.open_connection("127.0.0.1", stack.port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await stack.upstream.arrived.wait()
    writer.transport.abort()


async def until_settled(stack: Stack) -> UUID:
    async with asyncio.timeout(5):
        while not await stack.count("llm_responses"):  # noqa: ASYNC110 - a row tells nobody
            await asyncio.sleep(0.01)
    return UUID(stack.upstream.calls[0].headers["x-request-id"])


async def test_whole_call_ends_with_its_client_and_is_settled(stack: Stack) -> None:
    await leave(stack, "up/held")
    request_id = await until_settled(stack)
    await asyncio.wait_for(stack.upstream.calls[0].cut.wait(), 5)
    call = await stack.call(request_id)
    assert call["status"] == "cancelled"
    assert call["request_status"] == "failed"
    assert (call["tokens_in"], call["tokens_out"], call["cost"]) == (0, 0, 0)
    assert call["content"] is None


async def test_whole_call_with_an_idempotency_key_goes_on_for_who_comes_back(stack: Stack) -> None:
    await leave(stack, "up/held", "Idempotency-Key: once\r\n")
    stack.upstream.go_on.set()
    call = await stack.call(await until_settled(stack))
    assert call["status"] == "completed"
    body = msgspec.json.encode({"model": "up/held", "messages": HELLO})
    again = await stack.request(
        "POST", "/v1/chat/completions", body, headers={"Idempotency-Key": "once"}
    )
    assert again.status == 200
    assert len(stack.upstream.calls) == 1


async def test_streams_hold_no_connection_of_the_pool(stack: Stack) -> None:
    """D14: far more streams than connections, and a slow query, and all finish."""
    streams = [
        asyncio.create_task(stack.chat(model="up/held", messages=HELLO, stream=True))
        for _ in range(STREAMS)
    ]
    async with asyncio.timeout(30):
        while len(stack.upstream.calls) < STREAMS:  # noqa: ASYNC110 - the fake tells of the first
            await asyncio.sleep(0.01)
    busy = await stack.owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state LIKE 'idle in transaction%'"
    )
    assert busy == 0
    async with stack.db.connection(Role.RECORDER) as slow:
        waiting = asyncio.create_task(slow.execute("SELECT pg_sleep(0.5)"))
        stack.upstream.go_on.set()
        answers = await asyncio.gather(*streams)
        await waiting
    assert {answer.status for answer in answers} == {200}
    assert all(answer.events[-1] == "[DONE]" for answer in answers)
    done = await stack.owner.fetchval(
        "SELECT count(*) FROM llm_responses WHERE status = 'completed'"
    )
    assert done == STREAMS
