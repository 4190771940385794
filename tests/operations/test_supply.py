"""What Helix runs on: packages pinned by hash, nothing starts by itself, no known hole (G1)."""

import re
import site
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from helix.core.db import Connection

PLACE = Path(__file__).parents[2] / "requirements"
LOCKS = sorted(PLACE.glob("*.txt"))
PINNED = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.IGNORECASE)
STARTS = re.compile(r"^import[ \t]", re.MULTILINE)
"""A line of a .pth file that Python runs at every start."""
KNOWN_STARTERS = {
    "distutils-precedence.pth": "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; "
    "enabled = os.environ.get(var, 'local') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim();",
}
"""What setuptools installs, to the letter; pip and venv install none."""


def advisories() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((PLACE / "advisories.toml").read_text())["advisory"]
    return found


def entries(lock: Path) -> Iterator[str]:
    """Yield each requirement of a lock file with its hashes, as one line."""
    text = re.sub(r"^\s*#.*$", "", lock.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            yield line


def hit_by(advisory: dict[str, Any], version: str) -> bool:
    """Whether a version has the fault: it is before the fix of its branch, and not too old."""
    found, fixes = Version(version), [Version(text) for text in advisory["fixed"]]
    if "since" in advisory and found < Version(advisory["since"]):
        return False
    of_branch = [fix for fix in fixes if fix.major == found.major] if len(fixes) > 1 else fixes
    return any(found < fix for fix in of_branch) or (not of_branch and found < min(fixes))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_is_pinned_to_a_version_and_its_hashes(lock: Path) -> None:
    lines = list(entries(lock))
    assert lines
    for line in lines:
        assert PINNED.match(line), f"{lock.name}: {line[:80]}"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), f"{lock.name}: {line[:80]}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_no_locked_version_has_a_known_hole(lock: Path) -> None:
    pins = [PINNED.match(line) for line in entries(lock)]
    locked = [(pin[1].lower(), pin[2].rstrip(";")) for pin in pins if pin]
    hits = [
        f"{name} {version}: {', '.join(advisory['ids'])}"
        for name, version in locked
        for advisory in advisories()
        if advisory["package"] == name and hit_by(advisory, version)
    ]
    assert hits == []


async def test_the_embedded_postgresql_has_no_known_hole(conn: Connection) -> None:
    installed = {
        "postgresql": str(await conn.fetchval("SHOW server_version")).split()[0],
        "vector": str(
            await conn.fetchval("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        ),
    }
    hits = [
        f"{advisory['package']} {installed[advisory['package']]}: {', '.join(advisory['ids'])}"
        for advisory in advisories()
        if advisory["package"] in installed and hit_by(advisory, installed[advisory["package"]])
    ]
    assert hits == []


@pytest.mark.parametrize(
    ("version", "hit"),
    [("18.3", True), ("18.4", False), ("18.10", False), ("17.9", True), ("17.10", False),
     ("14.99", True), ("19.0", False)],
)  # fmt: skip
def test_a_version_is_held_against_the_fix_of_its_branch(version: str, hit: bool) -> None:
    advisory = {"fixed": ["15.18", "16.14", "17.10", "18.4"]}
    assert hit_by(advisory, version) is hit


def test_a_version_from_before_the_fault_came_is_none() -> None:
    advisory = {"fixed": ["0.8.2"], "since": "0.6.0"}
    assert [hit_by(advisory, v) for v in ("0.5.1", "0.6.0", "0.8.1", "0.8.2")] == [
        False, True, True, False,
    ]  # fmt: skip


def test_no_file_of_an_unknown_package_runs_when_python_starts() -> None:
    places = sorted({Path(pytest.__file__).parents[1], *map(Path, site.getsitepackages())})
    starters = {
        path.name: path.read_text().strip()
        for place in places
        for path in place.glob("*.pth")
        if STARTS.search(path.read_text())
    }
    assert starters.items() <= KNOWN_STARTERS.items()
    planted = [place / f"{who}customize.py" for place in places for who in ("site", "user")]
    assert [path for path in planted if path.exists()] == []
