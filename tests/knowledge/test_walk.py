"""Finding files: nothing outside what was given is ever read."""

import os
import threading
from pathlib import Path

import pytest

from helix.core.errors import Misuse
from helix.knowledge.walk import find_files, read_file

CANARY = b"canary outside the root"
READINGS = 5_000


def tree(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_bytes(CANARY)
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "a.md").write_bytes(b"# A")
    (root / "sub" / "b.txt").write_bytes(b"B")
    (root / ".hidden.txt").write_bytes(b"H")
    (root / "sub" / "c.bin").write_bytes(b"C")
    return root


def test_known_endings_are_found_below_a_directory(tmp_path: Path) -> None:
    root = tree(tmp_path)
    names = [str(f.path.relative_to(root)) for f in find_files(root, media_type=None)]
    assert names == ["a.md", "sub/b.txt"]
    assert len(find_files(root, media_type=None, hidden=True)) == 3


def test_no_link_below_the_root_is_followed(tmp_path: Path) -> None:
    root = tree(tmp_path)
    secret = tmp_path / "outside" / "secret.txt"
    for n, target in enumerate([secret, Path("../outside/secret.txt"), Path("/etc/passwd")]):
        (root / f"link{n}.txt").symlink_to(target)
    (root / "dir").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.txt")
    found = find_files(root, media_type=None)
    assert [f.parts[-1] for f in found] == ["a.md", "b.txt"]


def test_a_directory_swapped_for_a_link_is_not_read_through(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "sub" / "secret.txt").write_bytes(b"inside")
    files = [f for f in find_files(root, media_type=None) if f.parts[-1] == "secret.txt"]
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            (root / "sub").rename(root / "away")
            (root / "sub").symlink_to(tmp_path / "outside")
            (root / "sub").unlink()
            (root / "away").rename(root / "sub")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        read = {read_file(files[0], bytes_max=1_000) for _ in range(READINGS)}
    finally:
        ended.set()
        swapper.join()
    assert read <= {b"inside", None}


@pytest.mark.parametrize("path", ["nowhere", "a\0b", "x.unknown"])
def test_what_cannot_be_added_is_told(tmp_path: Path, path: str) -> None:
    (tmp_path / "x.unknown").write_bytes(b"x")
    with pytest.raises(Misuse):
        find_files(tmp_path / path, media_type=None)
