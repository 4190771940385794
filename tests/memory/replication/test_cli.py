"""`helix memory nodes` and `rebuild`, run as the shell runs them."""

from pathlib import Path

import pytest

from helix.accounts import cli_users
from helix.core.crypto import new_key
from helix.memory import cli
from tests.fakes.command import Ran, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HELIX_EMBEDDER", "none")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HELIX_NODE_ID", "north")
    monkeypatch.setenv("HELIX_SECRET_KEYS", new_key())
    (tmp_path / "south.key").write_text("hx_live_secretsecret\n")


def nodes(capsys: Capture, *args: str) -> Ran:
    return run(cli.main, capsys, "nodes", *args)


def test_a_node_is_added_listed_and_removed_after_a_plan(capsys: Capture, tmp_path: Path) -> None:
    key = ("--key-file", str(tmp_path / "south.key"))
    added = nodes(capsys, "add", "south", "https://south.example.org:8484", *key)
    assert added.code == 0, added
    assert added.err.startswith("1 node added: south at https://south.example.org:8484")
    assert "hx_live_secretsecret" not in added.out + added.err
    listed = nodes(capsys, "list", "--json")
    assert "https://south.example.org:8484" in {one.get("url") for one in listed.json}
    assert "hx_live_secretsecret" not in listed.out + listed.err
    planned = nodes(capsys, "remove", "south")
    assert (planned.code, "add --yes" in planned.err) == (0, True)
    assert nodes(capsys, "remove", "south", "--yes").err.startswith("1 node removed: south")


def test_an_address_that_is_none_is_refused(capsys: Capture, tmp_path: Path) -> None:
    ran = nodes(capsys, "add", "south", "ftp://x", "--key-file", str(tmp_path / "south.key"))
    assert ran.code != 0
    assert "must look like https://host:port" in ran.out


def test_memories_rebuilt_from_their_events_are_those_that_are_kept(capsys: Capture) -> None:
    run(cli_users.main, capsys, "add", "ada@example.org", "--no-password")
    nodes(capsys, "list")
    ada = ("--user", "ada@example.org")
    for text in ("Ada sails", "Ben rows"):
        run(cli.main, capsys, "add", text, *ada)
    ran = run(cli.main, capsys, "rebuild", "--check", "--from-start")
    assert ran.code == 0, ran
    assert "0 differ" in ran.err
