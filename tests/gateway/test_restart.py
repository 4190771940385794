"""A real PostgreSQL stopped and started under a running gateway."""

import asyncio
from pathlib import Path
from uuid import uuid4

from helix.core.config import load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Database, connect
from helix.core.instance import make_home
from helix.operations import EmbeddedPostgres, upgrade
from helix.providers.store import Store as ProviderStore
from helix.providers.types import Wire
from tests.conftest import LIMITS
from tests.fakes.openai_upstream import TEXT, OpenAIUpstream
from tests.gateway.conftest import make_key, make_user, read_answer, running, serving


async def chat(port: int, key: str, model: str) -> tuple[int, str]:
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]}}'
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer = await read_answer(reader)
    writer.close()
    return answer.status, answer.body.decode()


async def test_database_restarted_under_calls_loses_none(
    tmp_path: Path, upstream: OpenAIUpstream
) -> None:
    settings = load_settings({}, home=tmp_path / "h", record_timeout_s=1.0)
    make_home(settings.home_dir)
    postgres = EmbeddedPostgres(settings, durable=False)
    url = await postgres.start()
    keyring = Keyring([new_key()])
    await upgrade(url)
    owner = await connect(url)
    made = await make_key(owner, await make_user(owner))
    await ProviderStore(keyring).insert(
        owner,
        provider_id=uuid4(),
        name="up",
        wire=Wire.OPENAI,
        base_url=upstream.url,
        api_key=None,
        models=["held"],
    )
    await owner.close()
    db = Database(url, LIMITS)
    async with running(db, settings, keyring) as (_, _, door), serving(door) as (_, port):
        under_way = asyncio.create_task(chat(port, made.key, "up/held"))
        await upstream.arrived.wait()
        await postgres.stop()
        status, text = await asyncio.wait_for(chat(port, made.key, "mock/echo"), 5)
        assert status == 503, text
        upstream.go_on.set()  # the answer is kept in the spool, and so may be given
        assert await postgres.start() == url
        status, text = await asyncio.wait_for(under_way, 15)
        assert status == 200
        assert TEXT in text
        async with asyncio.timeout(10):
            while (await chat(port, made.key, "mock/echo"))[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        owner = await connect(url)
        counts = await owner.fetchrow(
            "SELECT count(*) AS requests, count(r.id) AS answers,"
            " count(*) FILTER (WHERE q.status = 'running') AS running"
            " FROM llm_requests q LEFT JOIN llm_responses r ON r.request_id = q.id"
        )
        await owner.close()
    assert tuple(counts)[:2] == (2, 2)
    assert counts["running"] == 0
    await db.close()
    await postgres.stop()
