"""The database away, slow, cut off or silent: quick refusals, nothing lost, nothing doubled."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from helix.accounts.policy import key_from_random
from helix.core.db import Connection, Database
from tests.conftest import LIMITS
from tests.fakes.database_proxy import DatabaseProxy, proxied
from tests.fakes.openai_upstream import TEXT
from tests.gateway.conftest import Answer, Stack

HELLO: Any = [{"role": "user", "content": "hello there"}]
RECORD_TIMEOUT_S = 1.0


@pytest.fixture
def options() -> dict[str, Any]:
    return {"record_timeout_s": RECORD_TIMEOUT_S, "drain_timeout_s": 2}


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[DatabaseProxy]:
    async with proxied(database_url) as between:
        yield between


@pytest.fixture
async def gateway_db(proxy: DatabaseProxy) -> AsyncIterator[Database]:
    database = Database(proxy.url, LIMITS)
    yield database
    await database.close()


async def ready(stack: Stack, status: int) -> None:
    async with asyncio.timeout(10):
        while (await stack.request("GET", "/ready")).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def wait_for_rows(stack: Stack, table: str, count: int) -> None:
    async with asyncio.timeout(10):
        while await stack.count(table) != count:  # noqa: ASYNC110 - a row tells nobody
            await asyncio.sleep(0.01)


def refused(answer: Answer) -> None:
    assert answer.status == 503
    assert answer.error["type"] == "service_unavailable_error"
    assert int(answer.headers["retry-after"]) >= 1


async def test_call_is_refused_quickly_and_nothing_is_asked_of_the_provider(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    await proxy.cut()
    began_s = time.monotonic()
    refused(await stack.chat(model="up/gpt-4"))
    assert time.monotonic() - began_s < RECORD_TIMEOUT_S + 1
    assert stack.upstream.calls == []
    await ready(stack, 503)


async def test_service_comes_back_with_the_database_and_without_a_restart(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    await stack.chat()
    await proxy.cut()
    refused(await stack.chat())
    await asyncio.sleep(RECORD_TIMEOUT_S)
    began_s = time.monotonic()
    refused(await stack.chat())
    assert time.monotonic() - began_s < RECORD_TIMEOUT_S
    await proxy.start()
    await ready(stack, 200)
    assert (await stack.chat()).status == 200
    assert await stack.count("llm_responses") == 2


async def test_right_key_is_not_called_wrong_while_the_database_is_away(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    fresh = await stack.make_key()
    await proxy.cut()
    for key in (fresh.key, key_from_random(os.urandom(24))):
        answer = await stack.request(
            "GET", "/v1/models", headers={"Authorization": f"Bearer {key}"}
        )
        refused(answer)
    mistyped = await stack.request(
        "GET", "/v1/models", headers={"Authorization": f"Bearer {fresh.key[:-2]}zz"}
    )
    assert mistyped.status == 401


async def test_frozen_database_refuses_in_time_and_leaves_no_open_request(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    await stack.chat()
    proxy.freeze()
    began_s = time.monotonic()
    answers = await asyncio.gather(*(stack.chat(model="up/gpt-4") for _ in range(5)))
    assert time.monotonic() - began_s < 2 * RECORD_TIMEOUT_S + 2
    for answer in answers:
        refused(answer)
    assert stack.upstream.calls == []
    await proxy.drop()
    await ready(stack, 200)
    assert (await stack.chat()).status == 200
    open_requests = "SELECT count(*) FROM llm_requests WHERE status IN ('pending', 'running')"
    async with asyncio.timeout(10):
        while await stack.owner.fetchval(open_requests):  # noqa: ASYNC110 - rows tell nobody
            await asyncio.sleep(0.02)


async def test_answer_is_held_back_until_it_is_recorded(stack: Stack, proxy: DatabaseProxy) -> None:
    await ready(stack, 200)
    asking = asyncio.create_task(stack.chat(model="up/held"))
    await stack.upstream.arrived.wait()
    await proxy.cut()
    stack.upstream.go_on.set()
    await asyncio.wait({asking}, timeout=RECORD_TIMEOUT_S / 2)
    assert not asking.done()
    await proxy.start()
    answer = await asyncio.wait_for(asking, 10)
    assert answer.status == 200
    assert (await stack.call(answer.headers["x-helix-request-id"]))["content"] == TEXT


async def test_end_of_a_stream_is_held_back_until_it_is_recorded(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    await ready(stack, 200)
    async with stack.client() as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="up/held", messages=HELLO, stream=True
        )
        stream = raw.parse()
        text = (await anext(stream)).choices[0].delta.content or ""
        await proxy.cut()
        stack.upstream.go_on.set()

        async def rest() -> str:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        ending = asyncio.create_task(rest())
        await asyncio.wait({ending}, timeout=RECORD_TIMEOUT_S / 2)
        assert not ending.done()
        assert await stack.count("llm_responses") == 0
        await proxy.start()
        text += await asyncio.wait_for(ending, 10)
    assert text == TEXT
    assert (await stack.call(raw.headers["x-helix-request-id"]))["content"] == TEXT


async def test_commit_whose_answer_was_lost_is_one_row(stack: Stack, proxy: DatabaseProxy) -> None:
    """The server committed, nobody heard of it, the connection broke: it is written again."""
    await ready(stack, 200)
    asking = asyncio.create_task(stack.chat(model="up/held"))
    await stack.upstream.arrived.wait()
    proxy.lose_answers()
    stack.upstream.go_on.set()
    await wait_for_rows(stack, "llm_responses", 1)
    assert not asking.done()
    await proxy.drop()
    answer = await asyncio.wait_for(asking, 10)
    assert answer.status == 200
    assert (await stack.call(answer.headers["x-helix-request-id"]))["status"] == "completed"
    assert await stack.count("llm_token_usage") == 1


async def test_admission_whose_answer_was_lost_is_one_row(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    await stack.chat()
    proxy.lose_answers()
    asking = asyncio.create_task(stack.chat())
    await wait_for_rows(stack, "llm_requests", 2)
    await proxy.drop()
    assert (await asyncio.wait_for(asking, 10)).status == 200
    assert await stack.count("llm_requests") == 2
    assert await stack.count("llm_responses") == 2


async def test_killed_backends_cost_no_call(stack: Stack, owner: Connection) -> None:
    async def kill() -> None:
        await owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'helix recorder%' AND datname = current_database()"
        )

    statuses = []
    for _ in range(5):
        asking = [asyncio.create_task(stack.chat()) for _ in range(8)]
        await kill()
        statuses += [answer.status for answer in await asyncio.gather(*asking)]
    assert statuses == [200] * 40
    assert await stack.count("llm_responses") == 40
    assert await stack.count("llm_requests") == 40


async def test_answer_is_kept_on_disk_while_the_database_is_away(
    stack: Stack, proxy: DatabaseProxy
) -> None:
    """The client gets its answer, whole, and the record of it follows when the database is back."""
    await ready(stack, 200)
    asking = asyncio.create_task(stack.chat(model="up/held", stream=True))
    await stack.upstream.arrived.wait()
    await proxy.cut()
    stack.upstream.go_on.set()
    answer = await asyncio.wait_for(asking, 10)
    assert answer.events[-1] == "[DONE]"
    assert await stack.count("llm_responses") == 0
    spools = list((stack.settings.home_dir / "spool").iterdir())
    assert [oct(path.stat().st_mode & 0o777) for path in spools] == ["0o600"]
    await proxy.start()
    await wait_for_rows(stack, "llm_responses", 1)
    assert (await stack.call(UUID(answer.headers["x-helix-request-id"])))["content"] == TEXT
    await ready(stack, 200)
    assert spools[0].stat().st_size == 0


async def test_answer_that_cannot_be_kept_in_time_is_recorded_later(
    stack: Stack, proxy: DatabaseProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk the client is told that its answer is not safe; the record still follows."""
    spool = stack.gateway._recorder._spool
    assert spool is not None
    monkeypatch.setattr(spool, "_bytes_max", 0)
    await ready(stack, 200)
    asking = asyncio.create_task(stack.chat(model="up/held", stream=True))
    await stack.upstream.arrived.wait()
    await proxy.cut()
    stack.upstream.go_on.set()
    answer = await asyncio.wait_for(asking, 10)
    assert "[DONE]" not in answer.events
    assert msgspec.json.decode(answer.events[-1])["error"]["code"] == "not_recorded"
    await proxy.start()
    await wait_for_rows(stack, "llm_responses", 1)
    call = await stack.call(UUID(answer.headers["x-helix-request-id"]))
    assert call["content"] == TEXT
