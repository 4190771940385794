"""Databases made for the length of a block, beside the one they are compared with."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from helix.core.db import OUTAGES, connect
from helix.core.errors import Misuse, Unavailable

__all__ = ["on_database", "scratch_database"]


def on_database(url: str, name: str) -> str:
    """Return `url` with the database `name` in place of its own."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] not in {"dbname", "database"}]
    return urlunsplit(parts._replace(path=f"/{name}", query=urlencode(query, safe="/:")))


@asynccontextmanager
async def scratch_database(url: str) -> AsyncIterator[str]:
    """Make an empty database on the server of `url`, give its URL, and drop it at the end.

    A superuser's is wholly empty; another login's is as template1, where a superuser may have put
    the extension that it must not create. Raises Misuse when the login may not create databases.
    """
    name = f"helix_scratch_{os.getpid()}_{os.urandom(4).hex()}"
    await _administer(url, "CREATE DATABASE {name} TEMPLATE {template}", name)
    try:
        yield on_database(url, name)
    finally:
        await _administer(url, "DROP DATABASE IF EXISTS {name} WITH (FORCE)", name)


async def _administer(url: str, statement: str, name: str) -> None:
    try:
        conn = await connect(url, application_name="helix scratch")
    except OUTAGES as exc:
        raise Unavailable(f"the database cannot be reached: {exc}") from exc
    try:
        superuser = await conn.fetchval("SELECT current_setting('is_superuser') = 'on'")
        template = "template0" if superuser else "template1"
        await conn.execute(statement.format(name=name, template=template))
    except asyncpg.InsufficientPrivilegeError as exc:
        raise Misuse(
            f"this compares with databases made for the purpose, which the login may not: {exc}; "
            "ALTER ROLE … CREATEDB"
        ) from exc
    finally:
        await conn.close()
