"""`helix debate`, `debates` and `panels` against a running database; `helix demo debate`."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helix import tasks
from helix.accounts import bootstrap_admin
from helix.app import worker_tasks
from helix.cli import debate as cli_debate
from helix.core.config import load_settings
from helix.core.db import Connection, Database
from helix.core.errors import HelixError, Misuse
from helix.core.instance import load_keyring
from helix.debates import cli, cli_panels
from tests.debates.support import FakeModels, agreeable, engine_of, see, until_ended, working

Run = Callable[..., Any]


@pytest.fixture
async def run(
    db: Database,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> Run:
    """Run a command as its program does; returns what it printed and its exit status."""
    await bootstrap_admin(db)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path / "home"))

    async def go(main: Callable[[list[str]], None], *args: str) -> tuple[int, str]:
        def call() -> int:
            try:
                main(list(args))
            except SystemExit as exc:
                return exc.code if isinstance(exc.code, int) else 0
            except Misuse:
                return 2
            except HelixError:
                return 1
            return 0

        code = await asyncio.to_thread(call)
        return code, capsysbinary.readouterr().out.decode()

    return go


ASK = ("Tabs or spaces?", "--position", "tabs", "--position", "spaces", "--model", "mock/ada",
       "--model", "mock/bob")  # fmt: skip


async def test_a_debate_is_started_watched_shown_and_valued(
    run: Run, db: Database, owner: Connection
) -> None:
    models = FakeModels(owner, agreeable("tabs", "spaces"))
    async with working(db, engine_of(models)), asyncio.timeout(60):
        code, told = await run(cli_debate.main, *ASK)
    assert code == 0
    assert "Round 1: proposal" in told
    assert "votes      ada: tabs > spaces" in told
    assert "Answer: tabs (consensus, 100 % by vote_share)" in told
    assert "Did it pay? It confirmed the plain majority, 'tabs'" in told

    code, listed = await run(cli.main, "list", "--json")
    [row] = [json.loads(text) for text in listed.splitlines()]
    assert (code, row["status"], row["final_winner"]) == (0, "completed", "tabs")
    which = row["id"]
    assert "tabs it is" in (await run(cli.main, "transcript", which))[1]
    assert "agreement" in (await run(cli.main, "show", which))[1]
    shown = json.loads((await run(cli.main, "show", which, "--json"))[1])
    assert shown["value"]["calls"] == 7
    assert (await run(cli.main, "value", which))[1].startswith("It confirmed the plain majority")
    events = (await run(cli.main, "watch", which, "--json"))[1].splitlines()
    assert json.loads(events[-1])["event_type"] == "completed"
    assert (await run(cli.main, "cancel", which, "--yes"))[0] == 1
    assert (await run(cli.main, "strategies", "--attempts", "1", "--json"))[0] == 0
    assert (await run(cli.main, "show", "no-id"))[0] == 2
    assert (await run(cli.main, "show", "00000000-0000-4000-8000-000000000000"))[0] == 1


async def test_cancelling_shows_the_plan_first(run: Run, db: Database) -> None:
    _, told = await run(cli_debate.main, *ASK, "--detach")
    which = told.strip()
    assert (await run(cli.main, "cancel", which))[0] == 0
    assert (await run(cli.main, "list", "--status", "pending", "--json"))[1].count("\n") == 1
    assert (await run(cli.main, "cancel", which, "--yes"))[0] == 0
    assert (await run(cli.main, "list", "--status", "cancelled", "--json"))[1].count("\n") == 1


async def test_what_cannot_be_debated_is_refused(run: Run) -> None:
    assert (await run(cli_debate.main, "Why?", "--model", "mock/ada"))[0] == 2
    assert (await run(cli_debate.main, *ASK, "--expected", "neither"))[0] == 1
    assert (await run(cli_debate.main, *ASK, "--user", "nobody@example.org"))[0] == 2
    assert (await run(cli_debate.main, *ASK, "--repository", "/etc"))[0] == 1


async def test_with_nobody_named_and_no_worker_the_command_holds_a_rehearsal_itself(
    run: Run, owner: Connection
) -> None:
    """A fresh install: the mock is the only provider, and nothing runs beside the database."""
    code, told = await run(
        cli_debate.main, "Tabs or spaces?", "--position", "tabs", "--position", "spaces"
    )
    assert code == 0
    assert "Ada (mock/large), Bob (mock/small), Cyd (mock/echo)" in told
    assert "votes      Cyd: tabs > spaces" in told
    assert "Answer: tabs (consensus, 100 % by vote_share)" in told
    assert "A rehearsal: mock models read lines" in told
    assert await owner.fetchval("SELECT count(*) FROM task_workers") == 0  # it is gone again


async def test_a_worker_of_its_own_holds_debates(
    run: Run, db: Database, database_url: str, tmp_path: Path
) -> None:
    settings = load_settings({"DATABASE_URL": database_url}, home=tmp_path / "home")
    load_keyring(settings, create=True)
    async with worker_tasks(db, settings) as found, asyncio.timeout(60):
        worker = tasks.build_worker(db, found.registry)
        running = asyncio.create_task(tasks.run_worker(worker, spend=found.spend))
        await worker.ready.wait()
        code, told = await run(cli_debate.main, "Which?", "--rounds", "1")
        worker.stop()
        await running
    assert (code, "A rehearsal" in told) == (0, True)


async def test_a_panel_is_stored_shown_used_and_removed(
    run: Run, db: Database, owner: Connection, tmp_path: Path
) -> None:
    file = tmp_path / "panel.json"
    members = [{"name": n, "model": f"mock/{n}"} for n in ("ada", "bob")]
    file.write_text(json.dumps({"positions": ["tabs", "spaces"], "participants": members}))
    assert (await run(cli_panels.main, "set", "debate/two", str(file)))[0] == 0
    assert (await run(cli_panels.main, "set", "ensemble/two", str(file)))[0] == 1
    assert (await run(cli_panels.main, "set", "two", str(file)))[0] == 2
    assert json.loads((await run(cli_panels.main, "show", "debate/two"))[1])["participants"]
    assert "debate/two" in (await run(cli_panels.main, "list"))[1]
    models = FakeModels(owner, agreeable("tabs"))
    async with working(db, engine_of(models)), asyncio.timeout(60):
        _, told = await run(cli_debate.main, "Which?", "--panel", "two", "--detach")
        debate = await until_ended(db, cli.a_debate(told.strip()))
    assert ((await see(db, debate.id)).panel, debate.final_winner) == ("two", "tabs")
    assert (await run(cli_panels.main, "remove", "debate/two"))[0] == 0
    assert (await run(cli_panels.main, "remove", "debate/two", "--yes"))[0] == 0
    assert (await run(cli_panels.main, "show", "debate/two"))[0] == 1


async def test_tests_of_a_commit_are_tied_to_a_debate(
    run: Run, owner: Connection, tmp_path: Path
) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, "-C", str(tmp_path), *arguments], check=True)

    git("init", "-q", "-b", "trunk")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-qm", "Begin.")
    which = (await run(cli_debate.main, *ASK, "--detach"))[1].strip()
    where = ("code", which, "--repository", str(tmp_path))
    assert (await run(cli.main, *where, "--test", "echo 3 passed, 1 failed; exit 1"))[0] == 0
    assert (await run(cli.main, *where))[0] == 0
    rows = await owner.fetch(
        "SELECT branch, files_changed, validation_status, test_pass_rate FROM code_versions"
        " ORDER BY version_number"
    )
    assert [(r["validation_status"], r["test_pass_rate"] and str(r["test_pass_rate"]))
            for r in rows] == [("failed", "0.7500"), ("pending", None)]  # fmt: skip
    assert (rows[0]["branch"], list(rows[0]["files_changed"])) == ("trunk", ["a.py"])


def test_the_demo_needs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(Path(tempfile.gettempdir()).glob("helix-demo-*"))
    done = subprocess.run(
        [sys.executable, "-m", "helix", "demo", "debate"],
        env={"PATH": os.environ["PATH"], "HELIX_HOME": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Round 2: convergence" in done.stdout
    assert "It changed the answer from 'a Redis list' to 'a table in PostgreSQL'" in done.stdout
    assert "Minority:" in done.stdout
    assert not (tmp_path / "none").exists()
    left = set(Path(tempfile.gettempdir()).glob("helix-demo-*")) - before
    assert left == set()
