# ruff: noqa: ASYNC110 - tests poll and look at files as they please
"""An outside PostgreSQL that does not fit is refused in one line, and nothing is made in it."""

import asyncio
import shutil
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from helix.core.config import load_settings
from helix.core.db import Connection, connect
from helix.core.errors import Misuse
from helix.core.instance import HomePaths
from helix.operations import EmbeddedPostgres, check_external
from helix.operations.postgres_programs import find_programs

SETTINGS = load_settings({})


async def refusal(url: str, **environ: str) -> str:
    """Return why `url` is refused; it must be one line."""
    with pytest.raises(Misuse) as info:
        await check_external(url, load_settings(environ))
    assert "\n" not in info.value.message
    return info.value.message


@pytest.fixture
async def admin(empty_database_url: str) -> AsyncIterator[Connection]:
    """The owner of an empty database."""
    connection = await connect(empty_database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def login(admin: Connection) -> AsyncIterator[str]:
    """A login without any right of its own."""
    name = f"l_{uuid4().hex}"
    await admin.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    await admin.execute(f"DROP OWNED BY {name} CASCADE")
    await admin.execute(f"DROP ROLE {name}")


def url_of(url: str, *, login: str = "helix", database: str | None = None) -> str:
    head, _, query = url.partition("?")
    return f"postgresql://{login}@/{database or head.rpartition('/')[2]}?{query}"


async def test_fitting_database_is_accepted(empty_database_url: str) -> None:
    said: list[str] = []
    version = await check_external(empty_database_url, SETTINGS, report=said.append)
    assert int(version.partition(".")[0]) >= 15
    assert len(said) == 1
    assert said[0].startswith("warning: fsync, full_page_writes, synchronous_commit is off on")


async def test_unreachable_server_is_named_without_its_password(unused_tcp_port: int) -> None:
    message = await refusal(f"postgresql://u:secret@127.0.0.1:{unused_tcp_port}/d")
    assert message.startswith(f"cannot reach postgresql://u:***@127.0.0.1:{unused_tcp_port}/d: ")
    assert "secret" not in message


async def test_unknown_host_is_refused() -> None:
    message = await refusal("postgresql://u:secret@no-such-host.invalid/d")
    assert message.startswith("cannot reach postgresql://u:***@no-such-host.invalid/d: ")


async def test_missing_database_is_refused(empty_database_url: str) -> None:
    message = await refusal(url_of(empty_database_url, database="nowhere"))
    assert 'database "nowhere" does not exist' in message


async def test_missing_login_is_refused(empty_database_url: str) -> None:
    message = await refusal(url_of(empty_database_url, login="nobody_here"))
    assert 'role "nobody_here" does not exist' in message


async def test_url_that_cannot_be_read_is_refused() -> None:
    message = await refusal("postgresql://u:secret@host:notaport/d")
    assert "secret" not in message


async def test_other_encoding_is_refused(admin: Connection, empty_database_url: str) -> None:
    name = f"t_{uuid4().hex}"
    await admin.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc "
        "LOCALE 'C'"
    )
    try:
        message = await refusal(url_of(empty_database_url, database=name))
        assert "has the encoding LATIN1: make one with ENCODING 'UTF8'" in message
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_login_without_the_right_to_create_is_refused(
    login: str, empty_database_url: str
) -> None:
    message = await refusal(url_of(empty_database_url, login=login))
    assert f"does not let {login} create in its schema public" in message


async def test_login_that_cannot_install_pgvector_is_refused(
    admin: Connection, login: str, empty_database_url: str
) -> None:
    await admin.execute(f"GRANT CREATE ON SCHEMA public TO {login}")
    message = await refusal(url_of(empty_database_url, login=login))
    assert f"does not let {login} install pgvector" in message
    await admin.execute("CREATE EXTENSION vector")
    message = await refusal(url_of(empty_database_url, login=login))
    assert f"ALTER ROLE {login} CREATEROLE" in message


async def test_owner_with_createrole_is_accepted(
    admin: Connection, login: str, empty_database_url: str
) -> None:
    await admin.execute(f"GRANT CREATE ON SCHEMA public TO {login}")
    await admin.execute(f"ALTER ROLE {login} CREATEROLE")
    await admin.execute("CREATE EXTENSION vector")
    await check_external(url_of(empty_database_url, login=login), SETTINGS)


async def test_read_only_database_is_refused(admin: Connection, empty_database_url: str) -> None:
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "is read-only" in await refusal(empty_database_url)
    await admin.execute("SET default_transaction_read_only = off")
    await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


async def test_too_few_connections_are_refused(empty_database_url: str) -> None:
    message = await refusal(empty_database_url, DATABASE_POOL_SIZE="400")
    assert "connections and the pools may take 418: raise max_connections or lower" in message


async def test_old_server_is_refused() -> None:
    spoken = asyncio.Event()

    async def speak_as_postgresql_14(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Let anyone in as an old PostgreSQL would; answer nothing else."""
        (length,) = struct.unpack("!i", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        writer.write(message_of(b"R", struct.pack("!i", 0)))
        for name, value in (
            ("server_version", "14.19 (Debian 14.19-1)"),
            ("client_encoding", "UTF8"),
        ):
            writer.write(message_of(b"S", f"{name}\0{value}\0".encode()))
        writer.write(message_of(b"K", struct.pack("!ii", 1, 2)) + message_of(b"Z", b"I"))
        await reader.read()
        writer.close()
        await writer.wait_closed()
        spoken.set()

    async with await asyncio.start_server(speak_as_postgresql_14, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        message = await refusal(f"postgresql://u:secret@127.0.0.1:{port}/d?sslmode=disable")
        await spoken.wait()
    assert message.endswith("is PostgreSQL 14.19; Helix needs 15 or newer")


def message_of(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


async def test_wrong_password_is_refused_without_showing_it(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path / "home")
    server = EmbeddedPostgres(settings, durable=False)
    try:
        url = await server.start()
        conn = await connect(url)
        await conn.execute("ALTER ROLE helix PASSWORD 'right'")
        (HomePaths(settings.home_dir).data / "pg_hba.conf").write_text(
            "local all all scram-sha-256\n"
        )
        await conn.execute("SELECT pg_reload_conf()")
        while await accepts_without_password(url):
            await asyncio.sleep(0.01)
        await conn.close()
        await check_external(url.replace("helix@", "helix:right@"), SETTINGS)
        message = await refusal(url.replace("helix@", "helix:wrong@"))
        shown = url.replace("helix@", "helix:***@")
        assert message == f"{shown} refuses the password of its user"
    finally:
        await server.stop()


async def accepts_without_password(url: str) -> bool:
    try:
        await (await connect(url)).close()
    except (asyncpg.InvalidPasswordError, asyncpg.InterfaceError):
        return False
    return True


async def test_programs_without_pgvector_are_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    bundled = find_programs(SETTINGS).directory.parent
    bare = tmp_path / "bare"
    shutil.copytree(bundled, bare, symlinks=True, copy_function=shutil.copy)
    (bare / "lib" / "vector.so").unlink()
    settings = load_settings({}, home=tmp_path / "home", postgres_bin=bare / "bin")
    with pytest.raises(Misuse, match="has no pgvector"):
        await EmbeddedPostgres(settings).start()
    assert not (tmp_path / "home").exists()


async def test_a_database_that_forgets_is_refused_where_others_come(
    empty_database_url: str,
) -> None:
    message = await refusal(empty_database_url, HELIX_HOST="0.0.0.0")
    assert "fsync, full_page_writes, synchronous_commit is off on this database" in message
    assert "HELIX_ALLOW_UNSAFE_DATABASE=true" in message


async def test_a_database_that_forgets_is_used_when_that_is_accepted(
    empty_database_url: str,
) -> None:
    said: list[str] = []
    settings = load_settings({"HELIX_HOST": "0.0.0.0", "HELIX_ALLOW_UNSAFE_DATABASE": "true"})
    await check_external(empty_database_url, settings, report=said.append)
    assert said[0].startswith("warning: fsync, full_page_writes, synchronous_commit is off")
