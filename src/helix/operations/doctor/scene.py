"""What a check is given: a connection of the login, the settings, and what only a server knows."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from helix.core.clock import Clock
from helix.core.config import Settings
from helix.core.crypto import Keyring
from helix.core.db import Connection, Queries
from helix.core.instance import HomePaths
from helix.operations.doctor.policy import Volume
from helix.operations.doctor.types import Finding

__all__ = ["QUERIES", "Breakers", "Check", "Scene", "data_directory", "volumes_of"]

QUERIES = Queries("helix.operations.doctor")

Breakers: TypeAlias = Callable[[], Mapping[str, str]]
"""Tells the providers whose breaker is not closed in this process, and how it stands."""


def _no_breakers() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The thing examined. `conn` acts as the login, outside a transaction.

    `keyring` is None where its keys cannot be read.
    """

    conn: Connection
    url: str
    settings: Settings
    clock: Clock
    keyring: Keyring | None = None
    breakers: Breakers = field(default=_no_breakers)

    @property
    def embedded(self) -> bool:
        """Whether the database is the home's own."""
        return self.settings.external_url() is None


@dataclass(frozen=True, slots=True)
class Check:
    """A look at one thing; its finding has the same code."""

    code: str
    look: Callable[[Scene], Awaitable[Finding]]


def volumes_of(settings: Settings, data: Path | None) -> dict[str, Volume]:
    """Return the file systems that this process can see, by name: data, wal, backups, archive.

    `data` is PostgreSQL's directory; None, or one that is not here, when its machine is another.
    """
    places = {"backups": settings.backup_path, "archive": settings.archive_path}
    if data is not None and (data / "PG_VERSION").exists():
        places["data"] = data
        places["wal"] = Path(os.path.realpath(data / "pg_wal"))
    found: dict[str, Volume] = {}
    for name, path in places.items():
        place = path
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            counted = os.statvfs(place)
        except OSError:
            continue
        used = (counted.f_blocks - counted.f_bfree) * counted.f_frsize
        found[name] = Volume(name, str(path), used, counted.f_bavail * counted.f_frsize)
    return found


async def data_directory(scene: Scene) -> Path | None:
    """Return PostgreSQL's data directory, if it may be known; it may be another machine's."""
    if scene.embedded:
        return HomePaths(scene.settings.home_dir).data
    row = await QUERIES.row(scene.conn, "data_directory")
    return None if row is None or not row["path"] else Path(row["path"])
