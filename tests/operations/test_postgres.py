# ruff: noqa: ASYNC110, ASYNC240 - tests poll and look at files as they please
"""The embedded PostgreSQL: whatever is killed, the next start has every committed row."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from helix.core.config import Settings, load_settings
from helix.core.db import Connection, connect
from helix.core.errors import HelixError, Misuse, Unavailable
from helix.core.instance import HomePaths, find_postmaster, locate, lock_home, make_home
from helix.operations import EmbeddedPostgres, running_postgres
from helix.operations.postgres_programs import find_programs

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = load_settings({}, home=tmp_path / "home")
    make_home(found.home_dir)
    return found


@pytest.fixture
async def postgres(settings: Settings) -> AsyncIterator[EmbeddedPostgres]:
    """A stopped server on a fresh home; it is stopped after the test too."""
    server = EmbeddedPostgres(settings)
    yield server
    await server.stop()


@pytest.fixture
def bystander() -> Iterator[int]:
    """The id of a live process that is not PostgreSQL."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


async def run(url: str, *statements: str) -> object:
    """Run statements on a fresh connection; return the last one's value."""
    conn = await connect(url)
    try:
        for statement in statements[:-1]:
            await conn.execute(statement)
        return await conn.fetchval(statements[-1])
    finally:
        await conn.close()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


async def until_connected(url: str) -> Connection:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await connect(url)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            assert time.monotonic() < deadline, "waited in vain"
            await asyncio.sleep(0.02)


def another_process(settings: Settings, body: str) -> subprocess.Popen[str]:
    """Run Python that has `settings` and `server` in another process."""
    code = textwrap.dedent(
        f"""
        import asyncio, os, signal, sys
        from helix.core.config import load_settings
        from helix.operations import EmbeddedPostgres
        settings = load_settings({{}}, home={str(settings.home_dir)!r})
        server = EmbeddedPostgres(settings)
        """
    ) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


SERVE_UNTIL_KILLED = """
async def main():
    print(await server.start(), server.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_second_start_has_the_rows_of_the_first(postgres: EmbeddedPostgres) -> None:
    url = await postgres.start()
    await run(url, "CREATE TABLE t AS SELECT 7 AS n", "SELECT 1")
    await postgres.stop()
    again = await postgres.start()
    assert again == url
    assert await run(again, "SELECT n FROM t") == 7


async def test_everything_in_the_data_directory_is_private(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    home = postgres._settings.home_dir
    assert {p.name: p.stat().st_mode & 0o777 for p in home.iterdir()} == {
        "postgres": 0o700,
        "run": 0o700,
        "log": 0o700,
    }
    assert (home / "log" / "postgres.log").stat().st_mode & 0o777 == 0o600


async def test_what_makes_commits_durable_cannot_be_switched_off(
    postgres: EmbeddedPostgres,
) -> None:
    url = await postgres.start()
    await run(url, "ALTER SYSTEM SET fsync = off", "SELECT 1")
    (HomePaths(postgres._settings.home_dir).data / "local.conf").write_text(
        "full_page_writes = off\nwork_mem = '9MB'\n"
    )
    await postgres.stop()
    await postgres.start()
    shown = [
        await run(url, f"SHOW {name}")
        for name in ("fsync", "full_page_writes", "synchronous_commit", "work_mem")
    ]
    assert shown == ["on", "on", "on", "9MB"]


async def test_server_is_as_the_documentation_says(postgres: EmbeddedPostgres) -> None:
    url = await postgres.start()
    names = (
        "listen_addresses",
        "server_encoding",
        "max_connections",
        "shared_preload_libraries",
        "data_checksums",
        "log_parameter_max_length_on_error",
    )
    assert [await run(url, f"SHOW {name}") for name in names] == [
        "",
        "UTF8",
        "100",
        "pg_stat_statements",
        "on",
        "0",
    ]
    assert await run(url, "SELECT 'B' < 'a'") is True  # C.UTF-8: by code point, on every machine
    assert await run(url, "SELECT current_user || '@' || current_database()") == "helix@helix"


async def test_connections_grow_with_the_pools(tmp_path: Path) -> None:
    settings = load_settings({"DATABASE_POOL_SIZE": "150"}, home=tmp_path / "home")
    server = EmbeddedPostgres(settings)
    try:
        url = await server.start()
        assert await run(url, "SHOW max_connections") == "198"
    finally:
        await server.stop()


async def test_killed_server_comes_back_with_every_committed_row(
    postgres: EmbeddedPostgres,
) -> None:
    url = await postgres.start()
    postgres.watch()
    await run(url, "CREATE TABLE t (n int)", "SELECT 1")
    for round_ in range(3):
        conn = await until_connected(url)
        before = postgres.pid
        assert before is not None
        await conn.execute("INSERT INTO t VALUES ($1)", round_)
        os.kill(before, signal.SIGKILL)
        await until(lambda before=before: postgres.pid not in {None, before})
        conn.terminate()
    conn = await until_connected(url)
    assert [row["n"] for row in await conn.fetch("SELECT n FROM t ORDER BY n")] == [0, 1, 2]
    await conn.close()


async def test_watcher_tries_until_the_server_can_start(postgres: EmbeddedPostgres) -> None:
    url = await postgres.start()
    postgres.watch()
    pid = postgres.pid
    assert pid is not None
    control = HomePaths(postgres._settings.home_dir).data / "global" / "pg_control"
    control.rename(control.with_name("pg_control.away"))
    os.kill(pid, signal.SIGKILL)
    log = HomePaths(postgres._settings.home_dir).postgres_log
    await until(lambda: "pg_control" in log.read_text())
    control.with_name("pg_control.away").rename(control)
    conn = await until_connected(url)
    await conn.close()


def ended(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_server_ends_when_the_process_that_started_it_is_killed(settings: Settings) -> None:
    process = another_process(settings, SERVE_UNTIL_KILLED)
    with process:
        assert process.stdout is not None
        url, pid = process.stdout.readline().split()
        await run(url, "CREATE TABLE t AS SELECT 7 AS n", "SELECT 1")
        process.kill()
    await until(lambda: find_postmaster(HomePaths(settings.home_dir).data) is None)
    await until(lambda: ended(Path(f"/proc/{pid}/stat")))
    server = EmbeddedPostgres(settings)
    try:
        assert await run(await server.start(), "SELECT n FROM t") == 7
    finally:
        await server.stop()


async def test_server_that_outlived_its_starter_is_taken_over(settings: Settings) -> None:
    process = another_process(
        settings,
        """
        # As if the kernel's signal at the starter's death had been lost.
        import helix.operations.postgres_server as module
        class Harmless(module.Programs):
            def start(self, program, arguments, *, end_signal, **rest):
                return super().start(program, arguments, end_signal=signal.SIGCONT, **rest)
        find = module.find_programs
        def find_harmless(settings, **given):
            found = find(settings, **given)
            return Harmless(found.directory, found.identity, found.major, found.version)
        module.find_programs = find_harmless
        async def main():
            print(await server.start(), server.pid, flush=True)
            os._exit(0)
        asyncio.run(main())
        """,
    )
    with process:
        assert process.stdout is not None
        url, pid = process.stdout.readline().split()
    found = find_postmaster(HomePaths(settings.home_dir).data)
    assert found is not None
    assert found.pid == int(pid)
    await run(url, "CREATE TABLE t AS SELECT 7 AS n", "SELECT 1")
    said: list[str] = []
    server = EmbeddedPostgres(settings, report=said.append)
    try:
        assert await run(await server.start(), "SELECT n FROM t") == 7
        assert server.pid != int(pid)
        assert said == ["waiting for the PostgreSQL of an earlier run to stop"]
    finally:
        await server.stop()


async def test_pid_file_of_a_dead_process_does_not_stop_a_start(
    postgres: EmbeddedPostgres, bystander: int
) -> None:
    url = await postgres.start()
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: postgres.pid is None)
    assert (HomePaths(postgres._settings.home_dir).data / "postmaster.pid").exists()
    assert await postgres.start() == url


async def test_pid_file_naming_an_unrelated_process_does_not_stop_a_start(
    postgres: EmbeddedPostgres, bystander: int
) -> None:
    url = await postgres.start()
    pid = postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: postgres.pid is None)
    pid_file = HomePaths(postgres._settings.home_dir).data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(bystander), *lines[1:]]) + "\n")
    assert await postgres.start() == url
    os.kill(bystander, 0)


async def test_backend_that_outlives_a_killed_server_is_ended_before_the_next(
    postgres: EmbeddedPostgres,
) -> None:
    url = await postgres.start()
    pid = postgres.pid
    assert pid is not None
    busy = await connect(url)
    backend = await busy.fetchval("SELECT pg_backend_pid()")
    loop = asyncio.ensure_future(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
    other = await connect(url)
    while not await other.fetchval(
        "SELECT state = 'active' FROM pg_stat_activity WHERE pid = $1", backend
    ):
        await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: postgres.pid is None)
    other.terminate()
    os.kill(backend, 0)  # it has not noticed
    assert await run(await postgres.start(), "SELECT 1") == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await loop
    busy.terminate()


async def test_start_killed_while_it_makes_the_data_leaves_a_home_that_works(
    settings: Settings,
) -> None:
    fresh = settings.home_dir / "postgres.new"
    process = another_process(settings, SERVE_UNTIL_KILLED)
    with process:
        await until((fresh / "PG_VERSION").exists)
        process.kill()
    assert fresh.exists()
    assert not HomePaths(settings.home_dir).data.exists()
    server = EmbeddedPostgres(settings)
    try:
        assert await run(await server.start(), "SELECT 1") == 1
        assert not fresh.exists()
    finally:
        await server.stop()


async def test_data_of_another_version_is_refused_in_one_line(
    postgres: EmbeddedPostgres,
) -> None:
    await postgres.start()
    await postgres.stop()
    (HomePaths(postgres._settings.home_dir).data / "PG_VERSION").write_text("14\n")
    with pytest.raises(Misuse, match=r"was made by PostgreSQL 14, but these programs are") as info:
        await postgres.start()
    assert "\n" not in info.value.message


async def test_directory_that_is_no_database_is_refused_untouched(
    settings: Settings, postgres: EmbeddedPostgres
) -> None:
    data = HomePaths(settings.home_dir).data
    data.mkdir()
    (data / "diary.txt").write_text("dear")
    with pytest.raises(Misuse, match="is not a PostgreSQL data directory"):
        await postgres.start()
    assert [path.name for path in data.iterdir()] == ["diary.txt"]


async def test_why_it_does_not_start_is_said_in_one_line(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    await postgres.stop()
    data = HomePaths(postgres._settings.home_dir).data
    (data / "local.conf").write_text("shared_preload_libraries = 'no_such_library'\n")
    with pytest.raises(Unavailable, match='could not access file "no_such_library"') as info:
        await postgres.start()
    assert "\n" not in info.value.message
    (data / "local.conf").write_text("")
    await postgres.start()


async def test_directory_without_programs_is_refused(tmp_path: Path) -> None:
    settings = load_settings({}, home=tmp_path / "home", postgres_bin=tmp_path)
    with pytest.raises(Misuse, match=r"there is no PostgreSQL in .*HELIX_POSTGRES_BIN"):
        await EmbeddedPostgres(settings).start()
    assert not HomePaths(tmp_path / "home").data.exists()


@pytest.mark.parametrize("name", ["x" * 100, "a,b", 'it\'s "é" \\ home'])
async def test_home_whose_name_no_socket_can_take_works(tmp_path: Path, name: str) -> None:
    settings = load_settings({}, home=tmp_path / name)
    server = EmbeddedPostgres(settings)
    try:
        url = await server.start()
        socket_dir = Path(url.partition("host=")[2].partition("&")[0])
        assert socket_dir.stat().st_mode & 0o777 == 0o700
        assert locate(settings).database_url == url
        assert await run(url, "SELECT 1") == 1
    finally:
        await server.stop()
    assert not socket_dir.exists()


async def test_socket_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings({}, home=tmp_path / ("x" * 100))
    server = EmbeddedPostgres(settings)
    url = await server.start()
    await server.stop()
    socket_dir = Path(url.partition("host=")[2].partition("&")[0])
    socket_dir.mkdir(mode=0o755)
    try:
        with pytest.raises(Misuse, match="is not ours alone"):
            await server.start()
    finally:
        socket_dir.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to become")
async def test_root_without_user_namespaces_runs_it_as_nobody(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    settings = load_settings({}, home=tmp_path / "home")
    server = EmbeddedPostgres(settings, user_namespaces=False)
    try:
        url = await server.start()
        await run(url, "CREATE TABLE t AS SELECT 7 AS n", "SELECT 1")
        status = Path(f"/proc/{server.pid}/status").read_text()
        uids = next(line for line in status.splitlines() if line.startswith("Uid:"))
        assert "0" not in uids.split()
    finally:
        await server.stop()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    back = EmbeddedPostgres(settings)  # the same data as before, the other way
    try:
        assert await run(await back.start(), "SELECT n FROM t") == 7
    finally:
        await back.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to become")
async def test_programs_out_of_nobodys_reach_are_copied(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    wheel = find_programs(load_settings({})).directory.parent.parent
    for tree in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(tree, tmp_path / tree.name, symlinks=True)
    bin_directory = tmp_path / wheel.name / "pginstall" / "bin"
    settings = load_settings({}, home=tmp_path / "home", postgres_bin=bin_directory)
    copied = find_programs(settings, user_namespaces=False)
    server = EmbeddedPostgres(settings, user_namespaces=False, durable=False)
    try:
        assert copied.directory != bin_directory
        assert find_programs(settings, user_namespaces=False) == copied
        assert await run(await server.start(), "SELECT 1") == 1
        assert (copied.directory / "postgres").stat().st_uid == 0
    finally:
        await server.stop()
        shutil.rmtree(copied.directory.parent.parent.parent)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up being root")
async def test_root_runs_it_without_any_power_outside(postgres: EmbeddedPostgres) -> None:
    await postgres.start()
    status = Path(f"/proc/{postgres.pid}/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    assert int(effective.split()[1], 16) == 0
    assert HomePaths(postgres._settings.home_dir).data.stat().st_uid == 0


async def test_commands_share_a_server_that_ends_with_the_last(settings: Settings) -> None:
    data = HomePaths(settings.home_dir).data
    second_may_end, second_has_it = asyncio.Event(), asyncio.Event()

    async def second() -> object:
        async with running_postgres(settings, command="helix second") as url:
            second_has_it.set()
            await second_may_end.wait()
            return await run(url, "SELECT 2")

    async def first() -> None:
        async with running_postgres(settings, command="helix first") as url:
            assert await run(url, "SELECT 1") == 1
            user = asyncio.create_task(second())
            await second_has_it.wait()
            users.append(user)

    users: list[asyncio.Task[object]] = []
    starter = asyncio.create_task(first())
    await second_has_it.wait()
    done, _ = await asyncio.wait([starter], timeout=0.5)
    assert not done  # it waits for the second
    second_may_end.set()
    await starter
    assert await users[0] == 2
    assert find_postmaster(data) is None


async def test_command_uses_the_running_server_and_leaves_it(postgres: EmbeddedPostgres) -> None:
    settings = postgres._settings
    with lock_home(settings.home_dir, "helix up"):
        started = await postgres.start()
        async with running_postgres(settings) as url:
            assert url == started
        assert await run(started, "SELECT 1") == 1


async def test_four_commands_at_once_all_get_the_database(settings: Settings) -> None:
    async def command(number: int) -> object:
        async with running_postgres(settings, command=f"helix {number}") as url:
            return await run(url, f"SELECT {number}")

    assert await asyncio.gather(*(command(number) for number in range(4))) == [0, 1, 2, 3]
    assert find_postmaster(HomePaths(settings.home_dir).data) is None


async def test_long_log_is_moved_aside_at_a_start(postgres: EmbeddedPostgres) -> None:
    log = HomePaths(postgres._settings.home_dir).postgres_log
    log.write_bytes(b"x" * 10_000_001)
    await postgres.start()
    assert log.with_name("postgres.log.1").stat().st_size == 10_000_001
    assert log.stat().st_size < 100_000


async def test_stopping_twice_and_before_a_start_is_harmless(postgres: EmbeddedPostgres) -> None:
    await postgres.stop()
    await postgres.start()
    await postgres.stop()
    await postgres.stop()
    with pytest.raises(HelixError):
        locate(postgres._settings)
