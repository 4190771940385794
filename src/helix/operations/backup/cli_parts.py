"""What the commands of `helix backup` share."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from helix.core.command import say
from helix.core.config import Settings, load_settings
from helix.core.instance import load_keyring
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.postgres import running_postgres

__all__ = ["Name", "database_of", "open_directory"]

Name = Annotated[str, typer.Argument(help="The backup; the newest if left out.", metavar="[NAME]")]


def open_directory(home: Path | None) -> tuple[Settings, BackupDirectory]:
    """Return the settings and the directory of backups. Raises Misuse when there are no keys."""
    settings = load_settings(os.environ, home=home)
    keys = load_keyring(settings).derived(BACKUP_PURPOSE)
    return settings, BackupDirectory(settings.backup_path, keys)


@asynccontextmanager
async def database_of(settings: Settings, command: str) -> AsyncIterator[str]:
    """Give the URL of the database for the length of the block."""
    async with running_postgres(settings, command=f"helix backup {command}", report=say) as url:
        yield url
