"""What every test may use: one PostgreSQL per run, and databases cloned from a migrated template.

    database_url   a private database; may be committed to, is dropped after the test
    db             helix.core.db.Database on it            owner   a connection on it, as its owner
    conn           a connection in a transaction that is rolled back; cheaper than the above

The server is started by the process that outlives all workers: pytest's own, or xdist's controller,
which hands its place down. It dies with that process, however that ends.
"""

import asyncio
import hashlib
import os
import shutil
import tempfile
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from helix.core.config import load_settings
from helix.core.db import Connection, Database, PoolLimits, Role, connect
from helix.core.instance import make_home, socket_url
from helix.core.sql import split_statements
from helix.operations import EmbeddedPostgres, upgrade

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "sql" / "schema"
MIGRATIONS = ROOT / "src" / "helix" / "migrations"
HOME_PREFIX = "helix-test-"
OPTIONS = {
    "max_connections": "300",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "max_wal_size": "256MB",
    "min_wal_size": "64MB",
}
LIMITS = {role: PoolLimits(kept=0, maximum=8, acquire_timeout_s=30.0) for role in Role}


@dataclass(frozen=True)
class Server:
    """A throwaway PostgreSQL and the name of the database that tests clone."""

    socket_dir: str
    template: str

    def url(self, database: str) -> str:
        return socket_url(self.socket_dir, database)


class ServerOfRun:
    """Starts the run's server when first asked and stops it at the end of the run."""

    def __init__(self) -> None:
        self._home: Path | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._server: Server | None = None
        self._failure: str | None = None

    def get(self) -> Server | str:
        """Return the server, or, to everyone who asks, why there is none."""
        if self._server is None and self._failure is None:
            try:
                self._server = asyncio.run(self._start())
            except Exception as exc:  # noqa: BLE001 - told to every test that needs the server
                self._failure = "".join(traceback.format_exception_only(exc)).strip()
        return self._server or self._failure or ""

    async def _start(self) -> Server:
        place = roomy_place()
        sweep(place)
        self._home = Path(tempfile.mkdtemp(prefix=f"{HOME_PREFIX}{os.getpid()}-", dir=place))
        settings = load_settings({}, home=self._home)
        make_home(self._home)
        self._postgres = EmbeddedPostgres(settings, durable=False, options=OPTIONS)
        socket_dir = (await self._postgres.start()).partition("host=")[2].partition("&")[0]
        server = Server(socket_dir, f"helix_template_{digest_of_schema()}")
        await make_template(server)
        return server

    def stop(self) -> None:
        if self._postgres is not None:
            asyncio.run(self._postgres.stop())
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
        self._postgres = self._home = None


def roomy_place() -> Path:
    """Return a directory in memory if there is plenty: cloning is steadier there than on a disk."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30:
        return memory
    return Path(tempfile.gettempdir())


def sweep(place: Path) -> None:
    """Remove what killed runs left behind."""
    for left in place.glob(f"{HOME_PREFIX}*"):
        pid = left.name.removeprefix(HOME_PREFIX).partition("-")[0]
        if left.stat().st_uid == os.geteuid() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)


def digest_of_schema() -> str:
    digest = hashlib.sha256()
    for path in sorted([*SCHEMA.glob("*.sql"), *MIGRATIONS.rglob("*.sql")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


async def make_template(server: Server) -> None:
    admin = await connect(server.url("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {server.template} TEMPLATE template0")
        url = server.url(server.template)
        if any(MIGRATIONS.glob("sql/*.sql")) or any(MIGRATIONS.glob("versions/[!_]*.py")):
            await upgrade(url)
        else:
            await run_schema_files(url)
        await admin.execute(
            f"ALTER DATABASE {server.template} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false"
        )
    finally:
        await admin.close()


async def run_schema_files(url: str) -> None:
    owner = await connect(url)
    try:
        for line in (SCHEMA / "all.sql").read_text().splitlines():
            if line.startswith("\\ir "):
                for statement in split_statements((SCHEMA / line.split()[1]).read_text()):
                    try:
                        await owner.execute(statement)
                    except Exception as exc:
                        exc.args = (f"{line.split()[1]}: {exc}: {statement[-500:]}",)
                        raise
    finally:
        await owner.close()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVER_OF_RUN] = ServerOfRun()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVER_OF_RUN].stop()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In xdist's controller, before each worker starts."""
    server = node.config.stash[SERVER_OF_RUN].get()
    node.workerinput["helix_server"] = (
        server if isinstance(server, str) else [server.socket_dir, server.template]
    )


SERVER_OF_RUN = pytest.StashKey[ServerOfRun]()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The PostgreSQL of this run."""
    handed_down = getattr(request.config, "workerinput", {}).get("helix_server")
    found = handed_down or request.config.stash[SERVER_OF_RUN].get()
    if isinstance(found, str):
        pytest.fail(f"there is no database for the tests: {found}", pytrace=False)
    return found if isinstance(found, Server) else Server(*found)


async def create_database(server: Server) -> str:
    name = f"t_{uuid4().hex}"
    admin = await connect(server.url("postgres"))
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {server.template} STRATEGY FILE_COPY")
    finally:
        await admin.close()
    return name


async def drop_database(server: Server, name: str) -> None:
    admin = await connect(server.url("postgres"))
    try:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


@pytest.fixture
async def database_url(server: Server) -> AsyncIterator[str]:
    """A private database with the whole schema; the URL is its owner's."""
    name = await create_database(server)
    yield server.url(name)
    await drop_database(server, name)


@pytest.fixture
async def empty_database_url(server: Server) -> AsyncIterator[str]:
    """A private database with nothing in it."""
    name = f"t_{uuid4().hex}"
    admin = await connect(server.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await admin.close()
    yield server.url(name)
    await drop_database(server, name)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """Pools of every role on a private database."""
    database = Database(database_url, LIMITS)
    yield database
    await database.close()


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[Connection]:
    """A connection as the owner of the private database; row security does not hold for it."""
    connection = await connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def shared_database_url(server: Server) -> str:
    """One database per worker, for tests that leave nothing behind."""
    return server.url(asyncio.run(create_database(server)))


@pytest.fixture
async def conn(shared_database_url: str) -> AsyncIterator[Connection]:
    """A connection, as the owner, in a transaction that is rolled back after the test."""
    connection = await connect(shared_database_url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()
