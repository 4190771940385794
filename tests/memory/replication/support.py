"""Whole nodes: a database, a server on a real port and a key each, which know each other."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import uvicorn

from helix.accounts import service as accounts_service
from helix.accounts.store import Store as AccountStore
from helix.accounts.types import Scope, UserRole
from helix.app import App, build
from helix.core.clock import SystemClock
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database, Role, connect
from helix.memory import Memories
from helix.memory.replication.domain import Exchanged, Replication
from helix.memory.replication.peers import add_peer, list_peers
from helix.memory.replication.snapshots import Rebuilt
from tests.conftest import LIMITS, Server, create_database, drop_database


@dataclass
class Node:
    """One node as its people and its operator use it."""

    name: str
    settings: Settings
    db: Database
    owner: Connection
    keyring: Keyring
    app: App
    url: str
    key: str
    memories: Memories
    replication: Replication

    async def knows(self, other: "Node") -> None:
        """Add another node as an operator does."""
        async with self.db.transaction(Role.OPERATOR) as conn:
            await add_peer(
                conn, name=other.name, url=other.url, key=other.key, keyring=self.keyring,
                new_id=uuid4,
            )  # fmt: skip

    async def exchange(self, other: "Node") -> Exchanged:
        """Pull from and push to another node over HTTP."""
        async with self.db.transaction(Role.OPERATOR) as conn:
            found = await list_peers(conn, keyring=self.keyring)
        [peer] = [one for one in found if one.name == other.name]
        await self.told()
        await other.told()
        return await self.replication.exchange(peer)

    async def told(self) -> None:
        """Wait until no transaction of the server holds this node's feed back."""
        held = (
            "SELECT count(*) FROM distributed_memory_events "
            "WHERE recorded_xid >= pg_snapshot_xmin(pg_current_snapshot())"
        )
        while await self.owner.fetchval(held):
            await self.owner.fetchval("SELECT pg_sleep(0.005)")

    async def rebuilt(self) -> Rebuilt:
        """Replay all events of all users and return the sum of what was found."""
        parts = await self.replication.rebuild()
        return Rebuilt(
            sum(part.memories for part in parts),
            sum(part.events for part in parts),
            [one for part in parts for one in part.differences],
        )

    async def seen(self) -> list[dict[str, Any]]:
        """Return what this node serves and what it remembers of forgotten memories."""
        rows = await self.owner.fetch(
            "SELECT d.id::text, m.content, m.importance::text, m.memory_type, m.speaker, "
            "m.confidence::text, ARRAY(SELECT unnest(m.tags) ORDER BY 1) AS tags, m.metadata, "
            "m.valid_from, m.valid_to, m.merged_into::text, d.vector_clock, "
            "d.deleted_at IS NOT NULL AS deleted "
            "FROM distributed_memory AS d LEFT JOIN memories AS m ON m.id = d.id ORDER BY d.id"
        )
        return [dict(row) for row in rows]


async def make_key(db: Database, role: UserRole, scopes: set[Scope]) -> str:
    """Return a fresh key of a fresh account."""
    store = AccountStore()
    clock = SystemClock()
    async with db.transaction(Role.OPERATOR) as conn:
        user = await store.insert_user(
            conn, user_id=uuid4(), email=f"{uuid4().hex}@example.org", username=None, name=None,
            role=role, password_hash="!",
        )  # fmt: skip
        made = await accounts_service.issue_key(
            conn, store, user_id=user.id, key_id=uuid4(), noise=os.urandom(24), name="test",
            scopes=frozenset(scopes), rate_limit=100_000, expires_at=None, now=clock.now(),
        )  # fmt: skip
    return made.key


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an application, with its lifespan, on a free port; yield its URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", ws="none", lifespan="on",
        log_config=None, access_log=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def a_node(server: Server, name: str, **more: Any) -> AsyncIterator[Node]:
    """A whole node on a database of its own."""
    database = await create_database(server)
    url = server.url(database)
    settings = load_settings(
        {},
        node_id=name,
        worker_concurrency=0,
        memory_sync_s=3_600,
        memory_node_hosts="127.0.0.1",
        embedder="none",
        **more,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(drop_database, server, database)
        db = Database(url, LIMITS)
        stack.push_async_callback(db.close)
        owner = await connect(url)
        stack.push_async_callback(owner.close)
        keyring, clock = Keyring([new_key()]), SystemClock()
        replication = Replication(db, settings, keyring, clock, embed=False)
        stack.push_async_callback(replication.stop)
        assert await replication.node_id() == name
        app = build(settings, db, keyring, clock)
        beat = "SELECT last_heartbeat FROM memory_nodes WHERE is_self"
        named_at = await owner.fetchval(beat)
        base = await stack.enter_async_context(serving(app))
        while await owner.fetchval(beat) == named_at:  # the server's own first round, without peers
            await owner.fetchval("SELECT pg_sleep(0.005)")
        key = await make_key(db, UserRole.ADMIN, {Scope.ADMIN})
        yield Node(
            name, settings, db, owner, keyring, app, base, key,
            Memories(db, None, clock), replication,
        )  # fmt: skip


@asynccontextmanager
async def nodes(server: Server, *names: str, **more: Any) -> AsyncIterator[list[Node]]:
    """Some nodes that all know each other."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(a_node(server, n, **more)) for n in names]
        for one in made:
            for other in made:
                if other is not one:
                    await one.knows(other)
        yield made


async def settled(made: list[Node]) -> None:
    """Let every node exchange with every other until nothing is new."""
    for _ in range(10):
        moved = 0
        for one in made:
            for other in made:
                if other is not one:
                    told = await one.exchange(other)
                    moved += told.pulled
        if not moved:
            return
    raise AssertionError("the nodes never came to rest")


async def a_person(owner: Connection, email: str) -> UUID:
    """Make an account and return its id."""
    row = await owner.fetchrow(
        "INSERT INTO users (email, password_hash) VALUES ($1, '!') RETURNING id", email
    )
    return UUID(str(row["id"]))
