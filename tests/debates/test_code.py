"""Repositories that are not what they seem, and tests that do not end."""

import subprocess
import time
from pathlib import Path

import pytest

from helix.debates import Repositories, RepositoryRefused
from helix.debates.testing import run_tests
from helix.debates.types import Code, CodeVersion


def git(path: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(
        ["git", *who, "-C", str(path), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(path: Path, text: str = "x = 1\n") -> Path:
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "trunk")
    (path / "a.py").write_text(text)
    git(path, "add", ".")
    git(path, "commit", "-qm", "Begin.")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "open"
    path.mkdir()
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A repository beside the root."""
    return repository(tmp_path / "secret", "PASSWORD = 'hunter2'\n")


def test_a_repository_whose_git_is_elsewhere_is_refused(root: Path, secret: Path) -> None:
    ways = {}
    for way in ("linked", "file", "objects", "common", "bare"):
        ways[way] = root / way
        ways[way].mkdir()
    (ways["linked"] / ".git").symlink_to(secret / ".git")
    (ways["file"] / ".git").write_text(f"gitdir: {secret / '.git'}\n")
    git(ways["objects"], "init", "-q")
    (ways["objects"] / ".git" / "objects").rename(ways["objects"] / ".git" / "own")
    (ways["objects"] / ".git" / "objects").symlink_to(secret / ".git" / "objects")
    git(ways["common"], "init", "-q")
    (ways["common"] / ".git" / "commondir").write_text(f"{secret / '.git'}\n")
    (ways["bare"] / "HEAD").symlink_to(secret / ".git" / "HEAD")
    for way in ways:
        with pytest.raises(RepositoryRefused):
            Repositories((root,)).locate(way)


def test_a_worktree_inside_the_root_is_read(root: Path) -> None:
    main = repository(root / "main")
    git(main, "worktree", "add", "-q", str(root / "side"), "-b", "side")
    assert Repositories((root,)).locate("side") == root / "side"


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "../secret", "/", "/etc", "a" * 900, "loop", "-C/etc", "~", "main/../.."],
)
def test_no_path_leads_out(root: Path, secret: Path, path: str) -> None:
    repository(root / "main")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(RepositoryRefused):
        Repositories((root,)).locate(path)


@pytest.mark.parametrize(
    "revision",
    ["--output=/tmp/x", "-p", "HEAD..HEAD~1", "HEAD:a.py", ":/Begin", "HEAD HEAD", "no-such",
     "HEAD\n--help", "@{-1}", "^HEAD", "HEAD^{tree}", "refs/../../x"],
)  # fmt: skip
async def test_no_revision_is_an_option_or_anything_but_a_commit(root: Path, revision: str) -> None:
    repository(root / "main")
    for code in (Code("main", revision), Code("main", "HEAD", revision)):
        with pytest.raises(RepositoryRefused):
            await Repositories((root,)).read(code)


async def test_nothing_that_a_repository_configures_is_run(root: Path, tmp_path: Path) -> None:
    path, trap = repository(root / "main"), tmp_path / "sprung"
    command = f"touch {trap}"
    keys = (
        "core.fsmonitor core.pager core.sshCommand core.alternateRefsCommand gpg.program"
        " diff.external diff.x.command diff.x.textconv filter.x.smudge filter.x.clean"
        " uploadpack.packObjectsHook alias.rev-parse"
    ).split()
    for key in keys:
        git(path, "config", key, f"!{command}" if key.startswith("alias") else command)
    git(path, "config", "core.hooksPath", str(path / "hooks"))
    (path / "hooks").mkdir()
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (path / "hooks" / hook).write_text(f"#!/bin/sh\n{command}\n")
        (path / "hooks" / hook).chmod(0o755)
    (path / ".git" / "info").mkdir(exist_ok=True)
    (path / ".git" / "info" / "attributes").write_text("* diff=x filter=x\n")
    found = await Repositories((root,)).read(Code("main"))
    assert found.files_changed == ("a.py",)
    assert "+x = 1" in found.diff_summary
    assert not trap.exists()


async def test_a_huge_commit_is_cut(root: Path) -> None:
    path = repository(root / "main", "line\n" * 2_000_000)
    found = await Repositories((root,)).read(Code("main"))
    assert len(found.diff_summary) == 20_000
    assert found.version_hash == git(path, "rev-parse", "HEAD")


VERSION = CodeVersion("0" * 40, "trunk", "Begin.", (), "")


def test_tests_that_hang_are_ended_with_all_they_started(tmp_path: Path) -> None:
    """The grandchild holds the output open and would be waited for."""
    began = time.monotonic()
    command = f"echo begun; (sleep 600; touch {tmp_path}/late) & sleep 600"
    found = run_tests(VERSION, tmp_path, command, timeout_s=0.5)
    assert time.monotonic() - began < 60
    assert found.validation_status == "failed"
    assert found.test_results["exit_code"] is None
    assert found.test_results["output"].startswith("begun\n")
    assert "took longer than 0.5 s" in found.test_results["output"]
    left = subprocess.run(["pgrep", "-f", f"{tmp_path}/late"], capture_output=True, check=False)
    assert left.stdout == b""


def test_tests_that_leave_something_running_are_not_waited_for(tmp_path: Path) -> None:
    found = run_tests(VERSION, tmp_path, "sleep 600 & echo 3 passed", timeout_s=60)
    assert (found.validation_status, found.test_results["passed"]) == ("passed", 3)


def test_endless_output_is_cut_to_its_end(tmp_path: Path) -> None:
    command = "yes | head -c 5000000; printf '\\377\\000'; echo 1 failed; exit 3"
    found = run_tests(VERSION, tmp_path, command)
    assert (found.test_results["exit_code"], found.validation_status) == (3, "failed")
    assert len(found.test_results["output"]) == 4_000
    assert found.test_results["output"].endswith("1 failed\n")
