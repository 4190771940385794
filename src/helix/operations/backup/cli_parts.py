"""What the commands of `helix backup` share."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from helix.core.config import Settings, load_settings
from helix.core.instance import load_keyring
from helix.operations.backup.manifest import BackupDirectory
from helix.operations.backup.sealed import BACKUP_PURPOSE
from helix.operations.postgres import running_postgres

__all__ = ["AsJson", "Home", "Name", "database_of", "emit", "open_directory", "run", "say"]

Home = Annotated[Path | None, typer.Option(help="Directory of the instance. [HELIX_HOME]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
Name = Annotated[str, typer.Argument(help="The backup; the newest if left out.", metavar="[NAME]")]


def say(line: str) -> None:
    """Tell the person something; programs read stdout and do not see it."""
    print(line, file=sys.stderr)


def emit(value: object) -> None:
    """Print one JSON line."""
    print(msgspec.json.encode(value).decode())


def run(work: Coroutine[Any, Any, None]) -> None:
    """Do a command's work."""
    asyncio.run(work)


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
