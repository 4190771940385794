"""What the commands of operations share: they have a database also when no server runs."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from helix.core.command import say
from helix.core.config import Settings, load_settings
from helix.operations.postgres import running_postgres

__all__ = ["database"]


@asynccontextmanager
async def database(home: Path | None, command: str) -> AsyncIterator[tuple[Settings, str]]:
    """Lend the settings of an instance and the URL of its database, as the login that owns it.

    The embedded database is started for the length of the block if nobody runs it. `command` is
    what others are told who want the home meanwhile, such as `helix retention run`.
    """
    settings = load_settings(os.environ, home=home)
    async with running_postgres(settings, command=command, report=say) as url:
        yield settings, url
