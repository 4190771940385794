"""Whether an outside PostgreSQL can hold Helix: asked before anything is made in it."""

import re
from collections.abc import Iterator
from typing import Any

import asyncpg

from helix.core.config import Settings
from helix.core.db import OUTAGES, Connection, Queries, Role, connect, redacted_url
from helix.core.errors import Misuse
from helix.operations.errors import DatabaseUnsuitable
from helix.operations.postgres_config import ALWAYS_ON
from helix.operations.types import Report

__all__ = ["check_external"]

_QUERIES = Queries("helix.operations", "postgres.sql")
_OLDEST_MAJOR = 15
_OLDEST_VECTOR = (0, 7)  # halfvec
_CONNECT_TIMEOUT_S = 10.0
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,  # and the wrong password, derived from it
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ProtocolViolationError,
)


def _quiet(_: str) -> None:
    pass


async def check_external(url: str, settings: Settings, *, report: Report = _quiet) -> str:
    """Return the version of the PostgreSQL at `url` if Helix can live there; changes nothing.

    Raises Misuse, in one line with the password cut out, when it cannot be reached, refuses the
    login, or is too old, not UTF-8, a standby, without pgvector, short of rights or connections.
    One that does not keep what it has acknowledged through a power cut is refused too, unless the
    settings accept that or nobody off this machine reaches it; then it is only reported.
    """
    shown = redacted_url(url)
    try:
        conn = await connect(url, timeout_s=_CONNECT_TIMEOUT_S)
    except asyncpg.InvalidPasswordError as exc:
        raise DatabaseUnsuitable(f"{shown} refuses the password of its user") from exc
    except _REFUSED as exc:
        raise DatabaseUnsuitable(f"{shown} refuses: {_first_line(exc)}") from exc
    except OUTAGES as exc:
        raise DatabaseUnsuitable(f"cannot reach {shown}: {_first_line(exc)}") from exc
    except (asyncpg.ClientConfigurationError, ValueError) as exc:
        raise Misuse(f"cannot read DATABASE_URL {shown}: {_first_line(exc)}") from exc
    try:
        return await _check(conn, url, settings, report)
    finally:
        conn.terminate()


def _first_line(exc: BaseException) -> str:
    text = str(exc).strip().partition("\n")[0]
    return text or type(exc).__name__


async def _check(conn: Connection, url: str, settings: Settings, report: Report) -> str:
    shown = redacted_url(url)
    number: str = conn.get_settings().server_version.split()[0]  # "15.18 (Debian 15.18-0+deb12u1)"
    if conn.get_server_version().major < _OLDEST_MAJOR:
        raise DatabaseUnsuitable(
            f"{shown} is PostgreSQL {number}; Helix needs {_OLDEST_MAJOR} or newer"
        )
    found = await _QUERIES.row(
        conn,
        "read_suitability",
        roles=[role.value for role in Role],
        always_on=list(ALWAYS_ON),
    )
    assert found is not None  # noqa: S101 - this database and this login are in the catalogue
    fault = next(_faults(found, settings), None)
    if fault is not None:
        raise DatabaseUnsuitable(f"{shown} {fault}")
    if found["unsafe"]:
        said = (
            f"{', '.join(found['unsafe'])} is off on this database: recorded calls can be lost "
            "when its machine loses power"
        )
        if not (settings.allow_unsafe_database or settings.is_private(url)):
            raise DatabaseUnsuitable(
                f"{said}. Turn it on, or accept the loss with HELIX_ALLOW_UNSAFE_DATABASE=true"
            )
        report(f"warning: {said}")
    return number


def _faults(found: Any, settings: Settings) -> Iterator[str]:
    """Yield what is wrong with the database and what to do about it, gravest first."""
    database, login = found["database"], found["login"]
    vector = found["vector_installed"] or found["vector_available"]
    needed = sum(limits.maximum for limits in settings.pool_limits().values())
    if found["standby"]:
        yield "is a standby: give Helix the primary"
    if found["read_only"]:
        yield "is read-only (default_transaction_read_only): let Helix write"
    if found["encoding"] != "UTF8":
        yield f"has the encoding {found['encoding']}: make one with ENCODING 'UTF8'"
    if not vector:
        yield "has no pgvector: install the extension `vector` on its server"
    if _too_old(vector):
        yield f"has pgvector {vector}; Helix needs {'.'.join(map(str, _OLDEST_VECTOR))} or newer"
    if not found["may_create"]:
        yield (
            f"does not let {login} create in its schema public: "
            f"ALTER DATABASE {database} OWNER TO {login}"
        )
    if not found["vector_installed"] and not found["may_install_vector"]:
        yield (
            f"does not let {login} install pgvector: let a superuser run CREATE EXTENSION vector "
            "in it"
        )
    if not found["may_have_roles"]:
        yield (f"does not let {login} make the roles Helix works as: ALTER ROLE {login} CREATEROLE")
    if found["connections"] < needed:
        yield (
            f"allows {found['connections']} connections and the pools may take {needed}: raise "
            "max_connections or lower DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW"
        )


def _too_old(version: str | None) -> bool:
    numbers = re.findall(r"\d+", version or "")
    return bool(numbers) and tuple(int(number) for number in numbers[:2]) < _OLDEST_VECTOR
