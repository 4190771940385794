"""`helix knowledge`, run as the shell runs it."""

from pathlib import Path

import pytest

from helix.accounts import cli_users
from helix.knowledge import cli
from tests.fakes.command import Ran, run

Capture = pytest.CaptureFixture[str]
ADA = ("--user", "ada@example.org")


@pytest.fixture(autouse=True)
def environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HELIX_EMBEDDER", "none")
    run(cli_users.main, capsys, "add", "ada@example.org", "--no-password")


@pytest.fixture
def handbook(tmp_path: Path) -> Path:
    place = tmp_path / "handbook"
    place.mkdir()
    (place / "pumps.md").write_text("# Pumps\n\nPrime the pump before the first start.")
    (place / "alarms.txt").write_text("Alarm E42 means that the filter is blocked.")
    return place


def knowledge(capsys: Capture, *args: str) -> Ran:
    return run(cli.main, capsys, *args)


def test_a_directory_is_added_once_and_found(capsys: Capture, handbook: Path) -> None:
    first = knowledge(capsys, "add", str(handbook), *ADA, "--tag", "handbook")
    assert (first.code, first.err.splitlines()[-1].startswith("2 added, 0 replaced")) == (0, True)
    again = knowledge(capsys, "add", str(handbook), *ADA)
    assert "0 added, 0 replaced, 2 already there, 0 failed" in again.err
    (handbook / "pumps.md").write_text("# Pumps\n\nPrime the pump with clean water.")
    assert (
        "0 added, 1 replaced, 1 already there" in knowledge(capsys, "add", str(handbook), *ADA).err
    )
    found = knowledge(capsys, "search", "what does E42 mean", *ADA, "--json")
    assert "filter is blocked" in str(found.json[0])
    assert "vectors: none: HELIX_EMBEDDER is none" in found.err
    listed = knowledge(capsys, "list", *ADA, "--json").json
    assert {(one["title"], one["version"]) for one in listed} == {
        ("Pumps", 2),
        ("Alarm E42 means that the filter is blocked.", 1),
    }


def test_a_document_is_shown_and_removed_after_a_plan(capsys: Capture, handbook: Path) -> None:
    knowledge(capsys, "add", str(handbook / "alarms.txt"), *ADA)
    [one] = knowledge(capsys, "list", *ADA, "--json").json
    assert "Alarm E42" in knowledge(capsys, "show", one["id"], *ADA).out
    planned = knowledge(capsys, "remove", one["id"], *ADA)
    assert (planned.code, "add --yes" in planned.err) == (1, True)
    done = knowledge(capsys, "remove", one["id"], *ADA, "--yes")
    assert (done.code, done.err.startswith("1 documents removed")) == (0, True)
    assert knowledge(capsys, "stats", *ADA, "--json").json[0]["documents"] == 0


def test_what_fails_is_told_and_the_rest_is_added(capsys: Capture, handbook: Path) -> None:
    (handbook / "broken.pdf").write_bytes(b"no PDF at all")
    ran = knowledge(capsys, "add", str(handbook), *ADA, "--json")
    assert (ran.code, ran.json[0]["added"], len(ran.json[0]["failed"])) == (1, 2, 1)
    assert "broken.pdf" in ran.json[0]["failed"][0]["path"]


def test_a_user_nobody_knows_is_one_line(capsys: Capture, handbook: Path) -> None:
    ran = knowledge(capsys, "add", str(handbook), "--user", "eve@example.org")
    assert ran.code == 1
    assert "there is no user 'eve@example.org'" in ran.out
