"""A home with keys, a directory of backups, and a database with rows in every table."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import connect
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE, Keys
from tests.operations.generate import Rows, fill

NOW = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)


@pytest.fixture
def keys() -> Keys:
    return Keyring([new_key()]).derived(BACKUP_PURPOSE)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({}, home=tmp_path / "home")


@pytest.fixture
def directory(tmp_path: Path, keys: Keys) -> BackupDirectory:
    made = BackupDirectory(tmp_path / "backups", keys)
    made.make()
    return made


@pytest.fixture
async def full_url(database_url: str) -> str:
    """A database with three rows in every table."""
    conn = await connect(database_url)
    await fill(conn, Rows(base=datetime.now(UTC), count=3))
    await conn.close()
    return database_url


def quiet(_: str) -> None:
    """Tell nobody."""
