"""Finding the running instance, holding its home, reading its keys."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helix.core.config import Settings, load_settings
from helix.core.crypto import new_key
from helix.core.errors import Misuse
from helix.core.instance import (
    HomePaths,
    Instance,
    check_home,
    find_postmaster,
    load_keyring,
    locate,
    lock_home,
    make_home,
    process_ticks,
    read_instance,
    socket_url,
    write_instance,
    write_private,
)

URL = "postgresql://helix@/helix?host=/run/x&port=5432"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    make_home(place)
    return place


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A live process that is not PostgreSQL."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def settings_of(home: Path, **environ: str) -> Settings:
    return load_settings(environ, home=home)


def instance_of(pid: int, ticks: int | None, database_url: str = URL) -> Instance:
    return Instance(
        pid=pid,
        pid_ticks=ticks,
        url="http://127.0.0.1:1",
        database_url=database_url,
        mode="embedded",
        version="0.1.0",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_living_instance_is_found(home: Path) -> None:
    instance = instance_of(os.getpid(), process_ticks(os.getpid()))
    write_instance(home, instance)
    assert read_instance(home) == instance
    assert HomePaths(home).instance.stat().st_mode & 0o777 == 0o600


def test_instance_whose_process_id_was_reused_is_not_believed(home: Path) -> None:
    write_instance(home, instance_of(os.getpid(), 1))
    assert read_instance(home) is None


def test_instance_of_a_dead_process_is_not_believed(
    home: Path, bystander: subprocess.Popen[bytes]
) -> None:
    write_instance(home, instance_of(bystander.pid, process_ticks(bystander.pid)))
    bystander.kill()
    bystander.wait()
    assert read_instance(home) is None


def test_garbage_for_an_instance_is_no_instance(home: Path) -> None:
    HomePaths(home).instance.write_text('{"pid": ')
    assert read_instance(home) is None


def test_pid_file_naming_an_unrelated_process_is_no_postmaster(
    home: Path, bystander: subprocess.Popen[bytes]
) -> None:
    data = HomePaths(home).data
    data.mkdir()
    (data / "postmaster.pid").write_text(f"{bystander.pid}\n{data}\n")
    assert find_postmaster(data) is None


def test_nothing_running_is_said_in_one_line(home: Path) -> None:
    with pytest.raises(Misuse, match=r"does not run on .*/home: start it with `helix up`"):
        locate(settings_of(home))


def test_running_instance_is_located_with_its_database(home: Path) -> None:
    write_instance(home, instance_of(os.getpid(), process_ticks(os.getpid())))
    found = locate(settings_of(home))
    assert (found.database_url, found.mode, found.url) == (URL, "embedded", "http://127.0.0.1:1")


def test_database_url_wins_over_the_running_instance(home: Path) -> None:
    write_instance(home, instance_of(os.getpid(), process_ticks(os.getpid())))
    found = locate(settings_of(home, DATABASE_URL="postgresql://a@b/c"))
    assert (found.database_url, found.mode, found.url) == ("postgresql://a@b/c", "external", None)


def test_server_in_front_of_the_named_database_is_located(home: Path) -> None:
    write_instance(home, instance_of(os.getpid(), process_ticks(os.getpid()), "postgresql://a@b/c"))
    found = locate(settings_of(home, DATABASE_URL="postgresql://a@b/c"))
    assert found.url == "http://127.0.0.1:1"


def test_socket_url_quotes_the_directory_and_names_the_port() -> None:
    assert socket_url("/tmp/a b&c", "d") == "postgresql://helix@/d?host=/tmp/a%20b%26c&port=5432"


def test_second_holder_of_a_home_is_refused_with_the_first_ones_name(home: Path) -> None:
    with (
        lock_home(home, "helix up"),
        pytest.raises(Misuse, match=rf"`helix up` \(process {os.getpid()}\) is using"),
        lock_home(home, "helix db upgrade"),
    ):
        pass


def test_second_holder_is_told_where_the_first_serves(home: Path) -> None:
    write_instance(home, instance_of(os.getpid(), process_ticks(os.getpid())))
    with (
        lock_home(home, "helix up"),
        pytest.raises(Misuse, match=r"already runs on .*/home: http://127.0.0.1:1, process"),
        lock_home(home, "helix up"),
    ):
        pass


def test_home_is_free_again_once_let_go(home: Path) -> None:
    with lock_home(home, "helix up"):
        pass
    with lock_home(home, "helix up"):
        pass


def test_home_below_a_file_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misuse, match="file is not a directory"):
        check_home(tmp_path / "file" / "home")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_home_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Misuse, match="is not writable"):
        check_home(tmp_path / "home")


def test_directories_of_a_home_are_the_owners_alone(home: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in [home, *home.iterdir()]}
    assert modes == {"home": 0o700, "run": 0o700, "log": 0o700}


def test_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_keys_are_made_once_and_kept(home: Path) -> None:
    first = load_keyring(settings_of(home), create=True)
    again = load_keyring(settings_of(home), create=True)
    assert again.key_id == first.key_id
    assert HomePaths(home).keys.stat().st_mode & 0o777 == 0o600


def test_missing_keys_are_not_made_unasked(home: Path) -> None:
    with pytest.raises(Misuse, match="there are no encryption keys"):
        load_keyring(settings_of(home))


def test_keys_others_can_read_are_refused(home: Path) -> None:
    load_keyring(settings_of(home), create=True)
    HomePaths(home).keys.chmod(0o644)
    with pytest.raises(Misuse, match="chmod 600"):
        load_keyring(settings_of(home))


def test_keys_from_the_environment_win_and_rotate(home: Path) -> None:
    old, new = new_key(), new_key()
    before = load_keyring(settings_of(home, HELIX_SECRET_KEYS=old), create=True)
    sealed = before.encrypt("value", context="here")
    after = load_keyring(settings_of(home, HELIX_SECRET_KEYS=f"{new}, {old}"), create=True)
    assert after.decrypt(sealed, context="here") == "value"
    assert after.key_id != before.key_id
    assert not HomePaths(home).keys.exists()
