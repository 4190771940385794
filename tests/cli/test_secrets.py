"""Keys, audit and erasure as whoever runs Helix meets them: by command, on a running server."""

import json
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Up

Helix = Callable[..., subprocess.CompletedProcess[str]]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def health(up: Up) -> dict[str, Any]:
    with urllib.request.urlopen(f"{up.url}/health", timeout=60) as answer:
        return dict(json.load(answer))


@pytest.mark.timeout(300)
def test_keys_are_rotated_lost_and_begun_anew(
    start: Callable[..., Up], helix: Helix, used_home: Path, tmp_path: Path
) -> None:
    home, key_file = used_home, tmp_path / "key"
    key_file.write_text("sk-of-acme")
    up = start(home)
    added = helix("providers", "add", "acme", "--base-url", "http://127.0.0.1:9/v1", "--model", "m",
                  "--api-key-file", key_file, "--home", home)  # fmt: skip
    assert added.returncode == 0, added.stderr
    rotated = helix("keys", "rotate", "--home", home)
    assert (rotated.returncode, "1 rows are encrypted with" in rotated.stderr) == (0, True)
    refused = helix("secrets", "retire", "--yes", "--home", home)
    assert (refused.returncode, "files need it" in refused.stderr) == (2, True)  # the sealed log
    retired = helix("secrets", "retire", "--yes", "--abandon-backups", "--home", home)
    assert (retired.returncode, "1 keys retired" in retired.stderr) == (0, True)
    status = lines(helix("secrets", "status", "--json", "--home", home).stdout)
    told = {(s["where"], s["standing"]): s["rows"] for s in status}
    assert told["provider_configs.value", "current"] == 1
    assert told.keys() - {("provider_configs.value", "current")} == {
        ("backups and archives", "NOT CONFIGURED")  # the log that was sealed before
    }
    audited = lines(helix("audit", "list", "--json", "--home", home).stdout)
    assert {"provider.added", "secrets.key_added", "secrets.rotated", "secrets.key_retired"} <= {
        row["operation"] for row in audited
    }
    assert all(row["actor_kind"] == "command" and "@" in row["origin"] for row in audited)
    assert helix("audit", "verify", "--home", home).returncode == 0
    up.end()

    (home / "keys").unlink()
    refused = helix("up", "--port", "0", "--home", home)
    assert refused.returncode == 2
    assert "provider_configs.value: 1 values were encrypted with key" in refused.stderr
    assert not (home / "keys").exists()
    assert helix("secrets", "begin-anew", "--yes", "--home", home).returncode == 0
    up = start(home)
    told = health(up)
    assert told["status"] == "degraded"
    assert any(p.startswith("provider_configs.value: 1 values") for p in told["problems"])
    assert helix("secrets", "check", "--home", home).returncode == 1
    stored = helix("providers", "key", "acme", "--api-key-file", key_file, "--home", home)
    assert stored.returncode == 0, stored.stderr
    checked = helix("secrets", "check", "--home", home)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "CANNOT BE READ: provider_configs.value" in up.end()[2]


@pytest.mark.timeout(300)
def test_a_user_is_erased_by_command_after_it_was_said_twice(
    start: Callable[..., Up], helix: Helix, used_home: Path
) -> None:
    home = used_home
    up = start(home)
    helix("users", "add", "ada@example.org", "--no-password", "--home", home)
    helix("keys", "create", "--user", "ada@example.org", "--home", home)
    plan = helix("users", "erase", "ada@example.org", "--json", "--home", home)
    assert plan.returncode == 2
    assert "add --yes" in plan.stderr
    assert {row["table"]: row["rows"] for row in lines(plan.stdout)} == {"api_keys": 1}
    done = helix("users", "erase", "ada@example.org", "--yes", "--home", home)
    assert (done.returncode, "erased: 1 rows of 1 tables" in done.stderr) == (0, True)
    assert helix("users", "erase", "ada@example.org", "--home", home).returncode == 1
    [line] = (home / "backups" / "erasures.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == "user"
    [row] = lines(
        helix("audit", "list", "--operation", "user.erased", "--json", "--home", home).stdout
    )
    assert row["subject_id"] == json.loads(line)["id"]
    assert helix("users", "erase", "admin@localhost", "--yes", "--home", home).returncode == 1
    up.end()
