"""Upkeep of what stays: statistics, bloated indexes, materialized views."""

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from helix.core.config import Settings
from helix.core.log import get_log
from helix.operations.retention.store import QUERIES
from helix.operations.steps import Opener, connected, opened

__all__ = ["Maintained", "Reindexed", "maintain", "refresh_views"]

_LOG = get_log(__name__)
_REINDEX_TIMEOUT_S = timedelta(hours=2).total_seconds()
_VACUUM_TIMEOUT_S = timedelta(hours=6).total_seconds()


@dataclass(frozen=True, slots=True)
class Reindexed:
    """An index that was made anew, how empty it was estimated to be, and its sizes."""

    index: str
    bloat_ratio: float
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True)
class Maintained:
    """What the upkeep did; `failed` are indexes that could not be made anew, with the reason."""

    reindexed: tuple[Reindexed, ...]
    dropped: tuple[str, ...]
    failed: tuple[str, ...]


async def refresh_views(url: str, *, everything: bool, opener: Opener = opened) -> int:
    """Refresh the materialized views that are due, or all, CONCURRENTLY; return how many were.

    Each in a transaction of its own, so none holds another's locks. One that fails says why in
    `matview_refresh_state`; the others are refreshed all the same.
    """
    refreshed = 0
    async with connected(url, opener) as conn:
        for row in await QUERIES.rows(conn, "due_views", everything=everything):
            done = await QUERIES.row(conn, "refresh_view", name=row["name"])
            if done is not None and done["refreshed"]:
                refreshed += 1
            elif done is not None:
                _LOG.error("view_not_refreshed", view=row["name"], reason=done["error_message"])
    return refreshed


async def maintain(url: str, settings: Settings, *, opener: Opener = opened) -> Maintained:
    """Vacuum and analyze every table, then make indexes anew that are estimated to be bloated.

    Indexes are rebuilt CONCURRENTLY, so readers and writers go on; what an earlier rebuild left
    invalid, because it was killed, is dropped first. Repeating it is harmless.
    """
    async with connected(url, opener) as conn:
        dropped = []
        for row in await QUERIES.rows(conn, "list_left_indexes"):
            await conn.execute(row["drop_statement"], timeout=_REINDEX_TIMEOUT_S)
            dropped.append(row["index_name"])
        await conn.execute(QUERIES["vacuum"].sql, timeout=_VACUUM_TIMEOUT_S)
        reindexed, failed = [], []
        bloated = await QUERIES.rows(
            conn, "list_bloated_indexes", bytes_min=settings.reindex_bytes_min
        )
        for row in bloated:
            if (
                row["bloat_ratio"] < settings.reindex_bloat_ratio
                or settings.reindex_bloat_ratio >= 1
            ):
                continue
            name = row["index_name"]
            try:
                await conn.execute(row["reindex_statement"], timeout=_REINDEX_TIMEOUT_S)
            except asyncpg.PostgresError as exc:
                failed.append(f"{name}: {exc}")
                _LOG.error("index_not_rebuilt", index=name, reason=str(exc)[:200])
                continue
            size = await QUERIES.row(conn, "index_size", name=name)
            after = size["bytes"] if size is not None else 0
            reindexed.append(Reindexed(name, row["bloat_ratio"], row["byte_count"], after))
        return Maintained(tuple(reindexed), tuple(dropped), tuple(failed))
