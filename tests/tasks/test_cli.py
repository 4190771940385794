"""`helix tasks` on a real database, as its own process would run it."""

import asyncio
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from helix.core.db import Connection, Role, connect
from helix.core.errors import Misuse
from helix.tasks import Status, TaskNotFound, enqueue
from helix.tasks.cli import main
from tests.tasks.support import end, plain, register, take


def run(*args: str) -> None:
    """Run the command; it ends as a command does."""
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    assert not stopped.value.code


@pytest.fixture
def home(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DATABASE_URL", database_url)
    return database_url


def on(url: str, work: Any) -> Any:
    async def connected() -> Any:
        conn = await connect(url, role=Role.OPERATOR)
        try:
            return await work(conn)
        finally:
            await conn.close()

    return asyncio.run(connected())


async def dead(conn: Connection) -> Any:
    worker_id = await register(conn)
    made = await enqueue(conn, plain("x", payload={"n": 1}))
    [task] = await take(conn, worker_id, "x")
    await end(conn, worker_id, task, Status.DEAD_LETTER, error="broken")
    return made.id


def test_tasks_are_listed_as_json_lines(home: str, capfd: pytest.CaptureFixture[str]) -> None:
    made = on(home, lambda c: enqueue(c, plain("x", payload={"n": 1})))
    run("list", "--status", "pending", "--json")
    out, err = capfd.readouterr()
    [line] = out.splitlines()
    record = msgspec.json.decode(line)
    assert (record["id"], record["payload"]) == (str(made.id), {"n": 1})
    assert err.startswith("1 task, ")


def test_dead_letters_are_redriven_once_and_only_with_yes(
    home: str, capfd: pytest.CaptureFixture[str]
) -> None:
    on(home, dead)
    run("redrive", "--all")
    assert capfd.readouterr().err == "would redrive 1; add --yes to do it\n"
    run("redrive", "--all", "--yes")
    assert len(capfd.readouterr().out.split()) == 1
    run("redrive", "--all", "--yes")
    assert capfd.readouterr().out == ""


def test_task_is_paused_resumed_cancelled_and_shown(
    home: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made = on(home, lambda c: enqueue(c, plain("x")))
    for verb in ("pause", "resume", "cancel", "retry"):
        run(verb, str(made.id))
    run("pause", "--type", "x")
    capfd.readouterr()
    run("show", str(made.id), "--json")
    shown = msgspec.json.decode(capfd.readouterr().out)
    assert [e["event_type"].removeprefix("task.") for e in shown["events"]] == [
        "created", "paused", "resumed", "cancelled", "retried",
    ]  # fmt: skip


def test_watch_ends_with_its_task(home: str, capfd: pytest.CaptureFixture[str]) -> None:
    task_id = on(home, dead)
    run("watch", str(task_id))
    assert capfd.readouterr().out.count("task.") == 3


def test_wrong_use_and_unknown_task_are_told(home: str) -> None:
    with pytest.raises(Misuse):
        main(["pause"])
    with pytest.raises(TaskNotFound):
        main(["cancel", str(uuid4())])
