"""`helix users` and `helix keys`, run as the shell runs them."""

import io
from pathlib import Path

import pytest

from helix.accounts import cli_keys, cli_users
from tests.fakes.command import Ran, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("HELIX_HOME", str(tmp_path))


def users(capsys: Capture, *args: str) -> Ran:
    return run(cli_users.main, capsys, *args)


def keys(capsys: Capture, *args: str) -> Ran:
    return run(cli_keys.main, capsys, *args)


def test_user_is_added_listed_suspended_and_activated(capsys: Capture) -> None:
    made = users(capsys, "add", "ada@example.org", "--no-password", "--role", "admin", "--json")
    assert made.code == 0
    assert made.json[0]["role"] == "admin"
    assert users(capsys, "add", "bob@example.org", "--no-password").code == 0
    listed = users(capsys, "list", "--json")
    assert [user["email"] for user in listed.json] == ["ada@example.org", "bob@example.org"]
    assert users(capsys, "suspend", "bob@example.org", "--json").json[0]["status"] == "suspended"
    assert users(capsys, "activate", "bob@example.org", "--json").json[0]["status"] == "active"
    last = users(capsys, "suspend", "ada@example.org")
    assert (last.code, "last active admin" in last.out) == (1, True)
    assert users(capsys, "suspend", "nobody@example.org").code == 1


def test_password_comes_from_a_file_or_stdin(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse battery\n")
    made = users(capsys, "add", "ada@example.org", "--password-file", str(file))
    assert made.code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    refused = users(capsys, "set-password", "ada@example.org", "--password-file", "-")
    assert (refused.code, "at least 10" in refused.out) == (1, True)
    missing = users(capsys, "set-password", "ada@example.org", "--password-file", "/nowhere")
    assert missing.code == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert users(capsys, "set-password", "ada@example.org").code == 2


def test_key_is_printed_once_listed_without_it_and_revoked(capsys: Capture) -> None:
    users(capsys, "add", "ada@example.org", "--no-password")
    made = keys(
        capsys, "create", "--user", "ada@example.org", "--name", "ci", "--scope", "completions",
        "--scope", "models", "--rate-limit", "7", "--expires", "30d",
    )  # fmt: skip
    assert made.code == 0
    key = made.out.strip()
    assert key.startswith("hx_live_")
    listed = keys(capsys, "list", "--json")
    assert key not in listed.out
    assert listed.json[0]["scopes"] == ["completions", "models"]
    assert listed.json[0]["rate_limit"] == 7
    assert listed.json[0]["expires_at"] is not None
    assert key not in keys(capsys, "list").out
    assert keys(capsys, "revoke", key[:14], "--json").json[0]["status"] == "revoked"
    assert keys(capsys, "revoke", listed.json[0]["id"]).code == 0
    assert keys(capsys, "revoke", "hx_live_nothing").code == 1
    assert keys(capsys, "revoke", "nothing").code == 2


def test_key_of_a_user_is_no_admin_key(capsys: Capture) -> None:
    users(capsys, "add", "ada@example.org", "--no-password")
    refused = keys(capsys, "create", "--user", "ada@example.org", "--scope", "admin")
    assert refused.code == 1
    assert keys(capsys, "list", "--json").out == ""


@pytest.mark.parametrize(
    "args",
    [
        ["create", "--scope", "everything"],
        ["create", "--rate-limit", "-1"],
        ["create", "--expires", "tomorrow"],
        ["nothing"],
    ],
)
def test_misuse_ends_with_2(capsys: Capture, args: list[str]) -> None:
    assert keys(capsys, *args).code == 2


def test_database_that_is_away_is_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://helix@127.0.0.1:1/x")
    away = users(capsys, "list")
    assert away.code == 1
    assert away.out.count("\n") == 1
