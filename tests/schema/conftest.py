"""Fixtures for a thousand small tests: one connection per worker, a transaction per test.

All tests here run in one event loop, so that the connection, and what the server has read of the
catalogue for it, outlive a test; `conn`, `owner` and `database_url` are as in tests/conftest.py.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from helix.core.db import Connection, connect
from tests.conftest import Server, create_database, drop_database
from tests.schema.tenants import Tenants, settle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every test of this directory run in the loop of the session."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def settled(server: Server) -> tuple[str, Tenants]:
    """The URL of a database with two tenants in it, and who they are; leave nothing behind."""

    async def make() -> tuple[str, Tenants]:
        url = server.url(await create_database(server))
        conn = await connect(url)
        try:
            async with conn.transaction():
                return url, await settle(conn)
        finally:
            await conn.close()

    return asyncio.run(make())


@pytest.fixture
def tenants(settled: tuple[str, Tenants]) -> Tenants:
    """Tenants A and B and the row each has in every table."""
    return settled[1]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lasting(shared_database_url: str) -> AsyncIterator[Connection]:
    """The connection behind `conn`."""
    connection = await connect(shared_database_url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def lasting_both(settled: tuple[str, Tenants]) -> AsyncIterator[Connection]:
    """The connection behind `both`."""
    connection = await connect(settled[0])
    yield connection
    await connection.close()


@pytest_asyncio.fixture(loop_scope="session")
async def conn(lasting: Connection) -> AsyncIterator[Connection]:
    """A connection, as the owner, in a transaction that is rolled back after the test."""
    async for connection in undone(lasting):
        yield connection


@pytest_asyncio.fixture(loop_scope="session")
async def both(lasting_both: Connection) -> AsyncIterator[Connection]:
    """The same, to the database of the two tenants."""
    async for connection in undone(lasting_both):
        yield connection


async def undone(connection: Connection) -> AsyncIterator[Connection]:
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.execute("RESET ALL")


@pytest_asyncio.fixture(loop_scope="session")
async def database_url(server: Server) -> AsyncIterator[str]:
    """A private database with the whole schema; the URL is its owner's."""
    name = await create_database(server)
    yield server.url(name)
    await drop_database(server, name)


@pytest_asyncio.fixture(loop_scope="session")
async def owner(database_url: str) -> AsyncIterator[Connection]:
    """A connection as the owner of the private database."""
    connection = await connect(database_url)
    yield connection
    await connection.close()
