# ruff: noqa: ASYNC240 - tests poll and look at files as they please
"""`helix up`: one command from an empty directory to a served call, whatever was killed before."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from helix.core.db import connect
from helix.core.instance import HomePaths, find_postmaster

pytestmark = pytest.mark.timeout(240)

Start = Callable[..., Any]
Helix = Callable[..., subprocess.CompletedProcess[str]]
Spawn = Callable[..., subprocess.Popen[str]]
PATIENCE_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def ask(url: str, path: str, key: str | None = None, body: object = None) -> int:
    """Send a request and return the status."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(
            urllib.request.Request(url + path, data, headers), timeout=PATIENCE_S
        ) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return int(exc.code)


def chat(url: str, key: str, model: str = "mock/echo") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return ask(url, "/v1/chat/completions", key, body)


async def value(url: str, statement: str) -> object:
    conn = await connect(url)
    try:
        return await conn.fetchval(statement)
    finally:
        await conn.close()


async def test_empty_directory_becomes_a_served_call(start: Start, home: Path) -> None:
    up = start(home)
    assert set(up.line) == {"url", "api_key", "database_url", "mode", "version"}
    assert up.line["mode"] == "embedded"
    assert chat(up.url, up.line["api_key"]) == 200
    assert await value(up.line["database_url"], "SELECT count(*) FROM users") == 1
    status, out, _ = up.end()
    assert (status, out) == (0, "")
    assert find_postmaster(HomePaths(home).data) is None
    assert not HomePaths(home).instance.exists()
    again = start(home)
    assert again.line["api_key"] == up.line["api_key"]


async def test_next_start_has_the_same_data_and_key(start: Start, used_home: Path) -> None:
    first = start(used_home)
    conn = await connect(first.line["database_url"])
    await conn.execute("CREATE TABLE kept AS SELECT 7 AS n")
    await conn.close()
    assert first.end(signal.SIGTERM)[0] == 0
    second = start(used_home)
    assert second.line["api_key"] == first.line["api_key"]
    assert chat(second.url, second.line["api_key"]) == 200
    assert await value(second.line["database_url"], "SELECT n FROM kept") == 7


async def test_start_after_kill_9_of_everything_keeps_what_was_committed(
    start: Start, used_home: Path
) -> None:
    up = start(used_home)
    conn = await connect(up.line["database_url"])
    await conn.execute("CREATE TABLE kept (n int)")
    await conn.close()
    for number in range(3):
        conn = await connect(up.line["database_url"])
        await conn.execute("INSERT INTO kept VALUES ($1)", number)
        postmaster = find_postmaster(HomePaths(used_home).data)
        assert postmaster is not None
        victims = [[up.process.pid], [postmaster.pid], [up.process.pid, postmaster.pid]][number]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        conn.terminate()
        if up.process.pid not in victims:
            up.end(signal.SIGKILL)
        up.process.communicate()
        up = start(used_home)
    assert await value(up.line["database_url"], "SELECT count(*) FROM kept") == 3
    assert chat(up.url, up.line["api_key"]) == 200


async def test_server_goes_on_when_its_database_is_killed(start: Start, used_home: Path) -> None:
    up = start(used_home)
    before = find_postmaster(HomePaths(used_home).data)
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)

    def another() -> bool:
        now = find_postmaster(HomePaths(used_home).data)
        return now is not None and now.pid != before.pid and now.ready

    await until(another)
    await until(lambda: chat(up.url, up.line["api_key"]) == 200)
    status, _, err = up.end()
    assert status == 0
    assert "PostgreSQL ended by itself (status -9); starting it again" in err


async def test_kill_9_during_the_first_start_leaves_nothing_that_hinders_the_next(
    start: Start, spawn: Spawn, home: Path
) -> None:
    for milestone in ("postgres.new/PG_VERSION", "postgres/postmaster.pid", "keys"):
        process = spawn("up", "--json", "--port", "0", "--home", home)
        await until(lambda milestone=milestone: (home / milestone).exists())
        process.kill()
        process.communicate()
    up = start(home)
    assert ask(up.url, "/ready") == 200


async def test_ctrl_c_during_a_start_is_clean(spawn: Spawn, home: Path) -> None:
    process = spawn("up", "--json", "--port", "0", "--home", home)
    await until((home / "postgres.new").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, "")
    assert err.endswith("helix: stopping\nhelix: stopped\n")
    assert not (home / "postgres.new").exists()


async def test_calls_under_way_are_finished_before_the_end(start: Start, used_home: Path) -> None:
    up = start(used_home)
    slow = asyncio.create_task(asyncio.to_thread(chat, up.url, up.line["api_key"], "mock/slow"))
    await asyncio.to_thread(chat, up.url, up.line["api_key"])
    up.process.send_signal(signal.SIGTERM)
    assert await slow == 200
    assert up.end(signal.SIGCONT)[0] == 0


async def test_stream_that_outlasts_the_drain_is_told_that_it_was_cut_off(
    start: Start, used_home: Path
) -> None:
    up = start(used_home, HELIX_DRAIN_TIMEOUT_S="1")
    body = {
        "model": "mock/long",
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
        "helix": {"mock": {"words": 5_000, "chunk_ms": 50}},
    }
    headers = {"Authorization": f"Bearer {up.line['api_key']}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{up.url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        told = await answer.content.readuntil(b"content")
        up.process.send_signal(signal.SIGTERM)
        told += await answer.read()
    last = told.strip().rpartition(b"\n\n")[2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping"
    assert up.end(signal.SIGCONT)[0] == 0


async def test_two_homes_run_side_by_side(start: Start, used_home: Path, tmp_path: Path) -> None:
    one, two = start(used_home), start(tmp_path / "two")
    assert one.line["database_url"] != two.line["database_url"]
    assert chat(one.url, one.line["api_key"]) == 200
    assert chat(two.url, two.line["api_key"]) == 200
    assert chat(one.url, two.line["api_key"]) == 401


async def test_second_start_on_one_home_is_refused(
    start: Start, helix: Helix, used_home: Path
) -> None:
    up = start(used_home)
    second = helix("up", "--home", used_home, "--port", "0")
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr == (
        f"helix: Helix already runs on {used_home}: {up.url}, process {up.process.pid}\n"
    )
    assert ask(up.url, "/ready") == 200


async def test_other_commands_find_the_running_instance(
    start: Start, helix: Helix, used_home: Path
) -> None:
    up = start(used_home)
    by_option = helix("status", "--json", "--home", used_home)
    by_environment = helix("status", "--json", HELIX_HOME=str(used_home))
    assert by_option.returncode == 0
    assert json.loads(by_option.stdout) == json.loads(by_environment.stdout)
    found = json.loads(by_option.stdout)
    assert (found["running"], found["ready"], found["url"]) == (True, True, up.url)
    assert found["pid"] == up.process.pid


def test_status_of_a_home_where_nothing_runs(helix: Helix, home: Path) -> None:
    found = helix("status", "--json", "--home", home)
    assert found.returncode == 1
    assert json.loads(found.stdout)["running"] is False
    assert not home.exists()


async def test_outside_database_is_used_and_left_running(
    start: Start, helix: Helix, home: Path, empty_database_url: str
) -> None:
    up = start(home, DATABASE_URL=empty_database_url)
    assert up.line["mode"] == "external"
    assert up.line["database_url"] == empty_database_url
    assert chat(up.url, up.line["api_key"]) == 200
    assert not HomePaths(home).data.exists()
    found = json.loads(helix("status", "--json", "--home", home).stdout)
    assert (found["mode"], found["url"]) == ("external", up.url)
    assert up.end()[0] == 0
    assert await value(empty_database_url, "SELECT count(*) FROM users") == 1


def test_port_in_use_is_one_line_and_nothing_is_made(helix: Helix, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = helix("up", "--home", home, "--port", str(port))
    assert done.returncode == 2
    assert done.stderr == (
        f"helix: port {port} of 127.0.0.1 is in use: choose another with --port or HELIX_PORT\n"
    )
    assert not home.exists()


def test_address_of_another_machine_is_one_line(helix: Helix, home: Path) -> None:
    done = helix("up", "--home", home, "--port", "0", "--host", "192.0.2.1")
    assert done.returncode == 2
    assert re.fullmatch(r"helix: cannot listen on port 0 of 192\.0\.2\.1: .*\n", done.stderr)
    assert not home.exists()


def test_home_that_cannot_be_is_one_line(helix: Helix, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = helix("up", "--home", tmp_path / "file" / "home", "--port", "0")
    assert done.returncode == 2
    assert done.stderr == (
        f"helix: the home {tmp_path}/file/home cannot be used: {tmp_path}/file is not a directory\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_home_not_writable_is_one_line(helix: Helix, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = helix("up", "--home", tmp_path / "home", "--port", "0")
    assert done.returncode == 2
    assert "is not writable for this user" in done.stderr


def test_unreachable_database_is_one_line_and_nothing_is_made(
    helix: Helix, home: Path, unused_tcp_port: int
) -> None:
    url = f"postgresql://u:hunter2@127.0.0.1:{unused_tcp_port}/d"
    done = helix("up", "--home", home, "--port", "0", DATABASE_URL=url)
    assert done.returncode == 2
    assert re.fullmatch(r"helix: cannot reach postgresql://u:\*\*\*@127.*\n", done.stderr)
    assert "hunter2" not in done.stderr
    assert not home.exists()


def test_documented_password_is_refused_off_loopback(helix: Helix, home: Path) -> None:
    done = helix("up", "--home", home, "--port", "0", DB_HOST="db.example.org")
    assert done.returncode == 2
    assert "the default database password is refused for db.example.org" in done.stderr


def test_unknown_setting_is_one_line(helix: Helix, home: Path) -> None:
    done = helix("up", "--home", home, HELIX_PROT="1")
    assert done.returncode == 2
    assert done.stderr == (
        "helix: unknown setting HELIX_PROT: `helix settings` lists those that exist\n"
    )
    assert not home.exists()


def test_port_out_of_range_is_refused(helix: Helix, home: Path) -> None:
    done = helix("up", "--home", home, "--port", "65536")
    assert done.returncode == 2
    assert not home.exists()


async def test_what_is_printed_for_people_works_as_pasted(spawn: Spawn, home: Path) -> None:
    process = spawn("up", "--port", "0", "--home", home)
    assert process.stdout is not None
    lines = []
    while not any(line.startswith("  Stop it") for line in lines):
        lines.append(await asyncio.to_thread(process.stdout.readline))
        assert lines[-1], process.communicate()[1]
    text = "".join(lines)
    key = re.search(r"API key +(hx_\S+)", text)
    command = re.search(r"Try it +(curl .*)", text)
    assert key is not None
    assert command is not None
    words = shlex.split(command.group(1))
    assert f"Authorization: Bearer {key.group(1)}" in words
    body = json.loads(words[words.index("-d") + 1])
    url = next(word for word in words if word.startswith("http://"))
    assert ask(url, "", key.group(1), body) == 200
    process.send_signal(signal.SIGINT)
    process.communicate()
    again = spawn("up", "--port", "0", "--home", home)
    assert again.stdout is not None
    lines = []
    while not any(line.startswith("  Stop it") for line in lines):
        lines.append(await asyncio.to_thread(again.stdout.readline))
    assert key.group(1) not in "".join(lines)
    assert "Bearer $HELIX_API_KEY" in "".join(lines)


async def test_revoked_first_key_is_forgotten(start: Start, used_home: Path) -> None:
    up = start(used_home)
    conn = await connect(up.line["database_url"])
    await conn.execute("UPDATE api_keys SET status = 'revoked', revoked_at = now()")
    await conn.close()
    up.end()
    again = start(used_home)
    assert again.line["api_key"] != up.line["api_key"]
    if again.line["api_key"] is not None:
        assert chat(again.url, again.line["api_key"]) == 200


async def test_port_is_free_again_at_once(start: Start, used_home: Path) -> None:
    up = start(used_home)
    port = urlsplit(up.url).port
    ask(up.url, "/ready")
    up.end()
    again = start(used_home, "--port", str(port))
    assert urlsplit(again.url).port == port


async def test_secrets_of_the_environment_do_not_reach_postgresql(
    start: Start, used_home: Path
) -> None:
    start(used_home, OPENAI_API_KEY="sk-canary-canary-canary")
    postmaster = find_postmaster(HomePaths(used_home).data)
    assert postmaster is not None
    environ = Path(f"/proc/{postmaster.pid}/environ").read_bytes()
    assert b"canary" not in environ


async def test_a_start_with_json_names_a_working_key_also_after_the_first_was_revoked(
    start: Start, used_home: Path
) -> None:
    first = start(used_home)
    conn = await connect(first.line["database_url"])
    await conn.execute("UPDATE api_keys SET status = 'revoked', revoked_at = now()")
    await conn.close()
    first.end()
    second = start(used_home)
    assert second.line["api_key"] != first.line["api_key"]
    assert ask(second.url, "/v1/models", first.line["api_key"]) == 401
    assert ask(second.url, "/v1/models", second.line["api_key"]) == 200
