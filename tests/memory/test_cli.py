"""`helix memory`, run as the shell runs it."""

import json
from pathlib import Path

import pytest

from helix.accounts import cli_users
from helix.memory import cli
from tests.fakes.command import Ran, run

Capture = pytest.CaptureFixture[str]
ADA = ("--user", "ada@example.org")


@pytest.fixture(autouse=True)
def environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path))
    monkeypatch.setenv("HELIX_EMBEDDER", "none")
    run(cli_users.main, capsys, "add", "ada@example.org", "--no-password")


def memory(capsys: Capture, *args: str) -> Ran:
    return run(cli.main, capsys, *args)


def test_a_memory_is_added_found_shown_and_forgotten(capsys: Capture) -> None:
    made = memory(capsys, "add", "Ada sails in Porto", *ADA, "--speaker", "Ada", "--json").json[0]
    again = memory(capsys, "add", "Ada sails in Porto", *ADA, "--json").json[0]
    assert (again["id"], again["duplicate"]) == (made["id"], True)
    found = memory(capsys, "search", "Where does Ada sail?", *ADA, "--json")
    assert found.json[0]["id"] == made["id"]
    assert "vectors: none: HELIX_EMBEDDER is none" in found.err
    assert "pair" in memory(capsys, "search", "sails in Porto", *ADA, "--explain").err
    assert memory(capsys, "show", made["id"], *ADA, "--json").json[0]["speaker"] == "Ada"
    planned = memory(capsys, "forget", made["id"], *ADA)
    assert (planned.code, "add --yes" in planned.err) == (1, True)
    assert memory(capsys, "forget", made["id"], *ADA, "--yes").code == 0
    assert memory(capsys, "show", made["id"], *ADA).code == 1
    assert memory(capsys, "list", *ADA, "--json").json == []


def test_a_file_is_imported_once(capsys: Capture, tmp_path: Path) -> None:
    lines = tmp_path / "memories.jsonl"
    lines.write_text("\n".join(json.dumps({"content": f"fact {n}"}) for n in range(3)))
    assert "3 added" in memory(capsys, "import", str(lines), *ADA).err
    assert "0 added" in memory(capsys, "import", str(lines), *ADA).err
    lines.write_text('{"content": "good"}\n{"text": "bad"}\n')
    refused = memory(capsys, "import", str(lines), *ADA)
    assert (refused.code, ":2:" in refused.out) == (2, True)
    assert len(memory(capsys, "list", *ADA, "--json").json) == 3


def test_an_audit_is_undone_by_one_command(capsys: Capture) -> None:
    for text in ("Rex the dog likes walks", "Rex the dog likes walks!"):
        memory(capsys, "add", text, *ADA)
    assert memory(capsys, "audit", *ADA, "--json").json[0]["merged"] == 0
    assert memory(capsys, "audit", *ADA, "--apply", "--json").json[0]["merged"] == 1
    assert len(memory(capsys, "list", *ADA, "--json").json) == 1
    assert memory(capsys, "undo", *ADA).code == 0
    assert len(memory(capsys, "list", *ADA, "--json").json) == 2
    assert memory(capsys, "undo", *ADA).code == 1


def test_the_graph_is_printed(capsys: Capture) -> None:
    for text in ("Ben works at Acme", "Ada works at Acme"):
        memory(capsys, "add", text, *ADA)
    rows = memory(capsys, "graph", "Ada", "--to", "Ben", *ADA, "--json").json
    assert [row["told"] for row in rows] == ["Ada works_at Acme", "Ben works_at Acme"]
    assert memory(capsys, "graph", "Nobody", *ADA).code == 1
    names = [row["name"] for row in memory(capsys, "graph", *ADA, "--json").json]
    assert names[0] == "Acme"


def test_misuse_is_one_line(capsys: Capture) -> None:
    assert memory(capsys, "forget", *ADA, "--yes").code == 2
    assert memory(capsys, "list", "--user", "nobody@example.org").code == 1
    assert memory(capsys, "import", "/nowhere.jsonl", *ADA).code == 2
    assert memory(capsys, "index").code == 0
    assert memory(capsys, "reindex").code == 0
