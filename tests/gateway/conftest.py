"""A whole gateway on a real port, in front of a fake provider, on a private database."""

import asyncio
import os
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import uvicorn
from openai import AsyncOpenAI

from helix import accounts, gateway, ledger, providers
from helix.accounts import service
from helix.accounts.domain import Accounts
from helix.accounts.store import Store as AccountStore
from helix.accounts.types import NewKey, Scope, UserRole
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database
from helix.gateway.domain import Gateway
from helix.gateway.sweep import SweepTimes
from helix.providers.domain import Providers
from helix.providers.store import Store as ProviderStore
from helix.providers.types import Wire
from tests.fakes.openai_upstream import OpenAIUpstream

SIGNING = [("test", b"s" * 32)]


@dataclass
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape; asserts that it has it, and nothing beside."""
        found = self.json
        assert set(found) == {"error"}
        assert set(found["error"]) == {"message", "type", "param", "code", "request_id"}
        assert found["error"]["message"]
        assert found["error"]["request_id"] == self.headers["x-helix-request-id"]
        error: dict[str, Any] = found["error"]
        return error

    @property
    def events(self) -> list[str]:
        """The data of each event of a stream."""
        parts = self.body.decode().replace("\r\n", "\n").split("\n\n")
        return [part.removeprefix("data: ") for part in parts if part.startswith("data: ")]


@dataclass
class Stack:
    """Everything a test of the gateway talks to."""

    settings: Settings
    db: Database
    keyring: Keyring
    accounts: Accounts
    providers: Providers
    gateway: Gateway
    server: uvicorn.Server
    port: int
    key: str
    user_id: UUID
    upstream: OpenAIUpstream
    owner: Connection
    clients: list[AsyncOpenAI] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str | None = None, **options: Any) -> AsyncOpenAI:
        given = {"max_retries": 0, "timeout": 30, **options}
        made = AsyncOpenAI(base_url=self.url, api_key=key or self.key, **given)
        self.clients.append(made)
        return made

    async def make_key(self, **options: Any) -> NewKey:
        async with self.owner.transaction():
            return await make_key(self.owner, self.user_id, **options)

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request over a connection of its own."""
        given = {
            "Host": "helix",
            "Authorization": f"Bearer {self.key}",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **(headers or {}),
        }
        lines = [f"{k}: {v}" for k, v in given.items() if v]
        start = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
        return await self.raw(start.encode("latin-1") + body)

    async def raw(self, data: bytes) -> Answer:
        """Send these very bytes and read the answer to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**26)
        try:
            writer.write(data)
            return await read_answer(reader)
        finally:
            writer.close()

    async def chat(self, body: Any = None, **fields: Any) -> Answer:
        """Send a chat request: these bytes, or an echo with these fields."""
        if not isinstance(body, bytes):
            messages = [{"role": "user", "content": "hello there"}]
            body = msgspec.json.encode({"model": "mock/echo", "messages": messages, **fields})
        return await self.request("POST", "/v1/chat/completions", body)

    async def call(self, request_id: str | UUID) -> Any:
        """Return the one recorded answer of a request, joined with everything around it."""
        (row,) = await self.tries(request_id)
        return row

    async def tries(self, request_id: str | UUID) -> list[Any]:
        """Return every recorded try of a request, joined with everything around it."""
        rows = await self.owner.fetch(
            "SELECT c.*, t.id AS usage_id, t.cost_usd AS usage_cost,"
            " t.input_tokens, t.output_tokens"
            " FROM llm_calls c LEFT JOIN llm_token_usage t USING (response_id)"
            " WHERE c.request_id = $1 ORDER BY c.attempt, c.response_id",
            UUID(str(request_id)),
        )
        return list(rows)

    async def count(self, table: str) -> int:
        found = await self.owner.fetchval(f"SELECT count(*) FROM {table}")
        return int(found)


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)
    }
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
    return Answer(int(head[0].split(" ")[1]), headers, body)


async def make_key(conn: Connection, user_id: UUID, **options: Any) -> NewKey:
    given: dict[str, Any] = {
        "name": "test",
        "scopes": frozenset(Scope),
        "rate_limit": 100_000,
        "expires_at": None,
        **options,
    }
    return await service.issue_key(
        conn,
        AccountStore(),
        user_id=user_id,
        key_id=uuid4(),
        noise=os.urandom(24),
        now=SystemClock().now(),
        **given,
    )


async def make_user(conn: Connection, role: UserRole = UserRole.USER) -> UUID:
    user = await AccountStore().insert_user(
        conn,
        user_id=uuid4(),
        email=f"{uuid4().hex}@example.org",
        username=None,
        name=None,
        role=role,
        password_hash="!",
    )
    return user.id


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """Serve an ASGI application on a free port, in this loop."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.002)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def running(
    db: Database,
    settings: Settings,
    keyring: Keyring,
    *,
    sweep: SweepTimes | None = None,
) -> AsyncIterator[tuple[Accounts, Providers, Gateway]]:
    """Run the domains as app.py does."""
    people = accounts.build(db, settings, signing_keys=SIGNING)
    whom = providers.build(db, settings, keyring=keyring)
    costs = ledger.build(db)
    door = gateway.build(
        db, settings, accounts=people, providers=whom, ledger=costs, sweep=sweep or SweepTimes()
    )
    people.start()
    await whom.start()
    await costs.start()
    await door.start()
    try:
        yield people, whom, door
    finally:
        await door.stop()
        await costs.stop()
        await whom.stop()
        await people.stop()


@pytest.fixture
async def upstream() -> AsyncIterator[OpenAIUpstream]:
    """A fake provider."""
    fake = OpenAIUpstream()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def options() -> dict[str, Any]:
    """Settings of the gateway; override it in a module for others."""
    return {
        "first_byte_timeout_s": 20,
        "between_bytes_timeout_s": 20,
        "answer_bytes_max": 2_000_000,
        "drain_timeout_s": 2,
    }


@pytest.fixture
def gateway_db(db: Database) -> Database:
    """The database as the gateway reaches it; override it to put something between."""
    return db


@pytest.fixture
async def stack(
    gateway_db: Database,
    owner: Connection,
    upstream: OpenAIUpstream,
    options: dict[str, Any],
    tmp_path: Path,
) -> AsyncIterator[Stack]:
    """A gateway in front of the providers `up` (the fake) and `mock`."""
    warnings.simplefilter("error")
    settings = load_settings({}, home=tmp_path / "home", **{"probe_interval_s": 0, **options})
    keyring = Keyring([new_key()])
    async with owner.transaction():
        user_id = await make_user(owner, UserRole.ADMIN)
        made = await make_key(owner, user_id)
        await ProviderStore(keyring).insert(
            owner,
            provider_id=uuid4(),
            name="up",
            wire=Wire.OPENAI,
            base_url=upstream.url,
            api_key="sk-upstream-secret-123456",
            models=["gpt-4", "gpt-4-turbo"],
        )
    async with (
        running(gateway_db, settings, keyring) as (people, whom, door),
        serving(door) as (server, port),
    ):
        whole = Stack(
            settings=settings,
            db=gateway_db,
            keyring=keyring,
            accounts=people,
            providers=whom,
            gateway=door,
            server=server,
            port=port,
            key=made.key,
            user_id=user_id,
            upstream=upstream,
            owner=owner,
        )
        yield whole
        for client in whole.clients:
            await client.close()
