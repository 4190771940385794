"""The way to PostgreSQL: named statements, pools by role, one unit of work per transaction.

Every connection acts as one of the database's roles (sql/schema/roles_policies.sql), never as the
login it came in with: `app` sees one tenant, `operator` sees all, `recorder` writes what the
gateway records and checks keys.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import msgspec

from helix.core.errors import Misuse, NotFound, StorageFull, Unavailable
from helix.core.sql import NamedStatement, named_statements

__all__ = [
    "OUTAGES",
    "Connection",
    "Database",
    "PoolLimits",
    "Queries",
    "Role",
    "connect",
    "normalise_url",
    "redacted_url",
]

Connection: TypeAlias = Any  # asyncpg.Connection or the pool's proxy of one; asyncpg has no types

OUTAGES: tuple[type[BaseException], ...] = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # a connection that was cut between two calls
)
"""What the driver raises when the database is away, restarting or full."""


class Role(StrEnum):
    """A role of the database that a pooled connection acts as."""

    APP = "helix_app"
    OPERATOR = "helix_operator"
    RECORDER = "helix_recorder"
    READONLY = "helix_readonly"


class Queries:
    """The statements of one `queries.sql`, called by name with named parameters."""

    def __init__(self, package: str, file: str = "queries.sql") -> None:
        text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
        self._statements = named_statements(text)

    def __getitem__(self, name: str) -> NamedStatement:
        return self._statements[name]

    def names(self) -> list[str]:
        """Return the names of all statements, sorted."""
        return sorted(self._statements)

    async def rows(self, conn: Connection, name: str, /, **values: object) -> list[Any]:
        """Run a statement and return its rows."""
        statement = self._statements[name]
        found: list[Any] = await conn.fetch(statement.sql, *statement.arguments(values))
        return found

    async def row(self, conn: Connection, name: str, /, **values: object) -> Any | None:
        """Run a statement and return its first row, or None."""
        statement = self._statements[name]
        return await conn.fetchrow(statement.sql, *statement.arguments(values))

    async def run(self, conn: Connection, name: str, /, **values: object) -> str:
        """Run a statement for its effect and return the command tag, such as `UPDATE 1`."""
        statement = self._statements[name]
        tag: str = await conn.execute(statement.sql, *statement.arguments(values))
        return tag


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of one pool: connections kept, connections at most, seconds."""

    kept: int = 2
    maximum: int = 30
    acquire_timeout_s: float = 2.0
    idle_s: float = 600.0
    statement_timeout_ms: int = 30_000


def normalise_url(url: str) -> str:
    """Return a libpq-style URL; accepts SQLAlchemy's `postgresql+asyncpg://` too.

    Raises Misuse for anything that is not a PostgreSQL URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in {"postgresql", "postgres"} or not rest:
        raise Misuse("DATABASE_URL must look like postgresql://user:password@host:5432/name")
    return f"postgresql://{rest}"


def redacted_url(url: str) -> str:
    """Return `url` with its password (in the address or the query) as `***`, fit for a log."""
    parts = urlsplit(url)
    netloc = parts.netloc
    if parts.password is not None:
        user, host = quote(parts.username or "", safe=""), netloc.rpartition("@")[2]
        netloc = f"{user}:***@{host}"
    pairs = [
        (key, "***" if "password" in key.lower() else value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(pairs, safe="/*:")))


async def _prepare(conn: Connection) -> None:
    await conn.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: msgspec.json.encode(value).decode(),
        decoder=msgspec.json.decode,
    )


def _session(role: Role | None, application_name: str) -> dict[str, str]:
    """Return the settings a connection starts with; they hold for as long as it lives."""
    settings = {"application_name": application_name, "timezone": "UTC"}
    if role is not None:
        settings["role"] = role.value
    if role is Role.RECORDER:
        # Each foreign key to a partitioned table is checked by a query that would be planned anew
        # for every row: 92-121 us a row against 13 us with a generic plan (docs/adr/0007).
        settings["plan_cache_mode"] = "force_generic_plan"
    return settings


async def connect(
    url: str, *, role: Role | None = None, application_name: str = "helix", timeout_s: float = 10.0
) -> Connection:
    """Open one connection of its own; with `role` it acts as that role, else as its login.

    jsonb goes in and out as Python values, json as text. The caller closes it.
    """
    conn = await asyncpg.connect(
        url, server_settings=_session(role, application_name), timeout=timeout_s
    )
    await _prepare(conn)
    return conn


class Database:
    """Pools of connections, one per role in use, to one database.

    Opening does not need the database to be there: a pool connects on first use, so a process can
    start, and answer 503, before its database does.
    """

    def __init__(self, url: str, limits: dict[Role, PoolLimits]) -> None:
        self.url = url
        self._limits = limits
        self._pools: dict[Role, Any] = {}
        self._locks = {role: asyncio.Lock() for role in limits}

    async def close(self) -> None:
        """Close every pool; connections in use are given five seconds to come back."""
        for pool in self._pools.values():
            try:
                await asyncio.wait_for(pool.close(), 5)
            except TimeoutError:
                pool.terminate()
        self._pools.clear()

    async def _pool(self, role: Role) -> Any:
        async with self._locks[role]:
            if role not in self._pools:
                limits = self._limits[role]
                self._pools[role] = await asyncpg.create_pool(
                    self.url,
                    min_size=min(limits.kept, limits.maximum),
                    max_size=limits.maximum,
                    max_inactive_connection_lifetime=limits.idle_s,
                    timeout=limits.acquire_timeout_s,
                    init=_prepare,
                    server_settings={
                        **_session(role, f"helix {role.value}"),
                        "statement_timeout": str(limits.statement_timeout_ms),
                    },
                )
            return self._pools[role]

    @asynccontextmanager
    async def connection(self, role: Role) -> AsyncIterator[Connection]:
        """Lend a connection that acts as `role`.

        Raises Unavailable when none is to be had within the pool's acquire timeout, and
        StorageFull in place of what PostgreSQL says when its disk is full.
        """
        limits = self._limits[role]
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(limits.acquire_timeout_s):
                    pool = await self._pool(role)
                    conn = await stack.enter_async_context(pool.acquire())
            except OUTAGES as exc:
                raise Unavailable(
                    "the database cannot be reached; try again shortly", retry_after_s=1
                ) from exc
            try:
                yield conn
            except asyncpg.DiskFullError as exc:
                raise StorageFull from exc

    @asynccontextmanager
    async def transaction(
        self, role: Role = Role.APP, *, tenant: UUID | None = None
    ) -> AsyncIterator[Connection]:
        """One unit of work: commits when the block ends, rolls back if it raises.

        `tenant` is the user whose rows `app` may see and write; it holds for this transaction
        only. Without it `app` sees no tenant's rows. Hold it across no model or tool call. Raises
        NotFound when the tenant would write a row that refers to one it does not see.
        """
        try:
            async with self.connection(role) as conn, conn.transaction():
                if tenant is not None:
                    await conn.execute("SELECT set_config('helix.tenant', $1, true)", str(tenant))
                yield conn
        except asyncpg.InsufficientPrivilegeError as exc:
            if tenant is None or "row-level security" not in str(exc):
                raise
            raise NotFound("something that this refers to by its id is not there") from exc
