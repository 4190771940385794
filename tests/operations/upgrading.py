"""Upgrading to the head from every revision there ever was, with rows in every table (M1).

Used by test_migrate_rows.py with few rows and by rigs/upgrade.py with many.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from helix.core.db import connect
from helix.operations.catalogue import Catalogue, differences
from helix.operations.check import catalogue_of
from helix.operations.migrate import downgrade, upgrade
from helix.operations.scratch import on_database
from helix.operations.scripts import revision_ids
from tests.operations.generate import FIXED, Rows, checksums, fill

LINKS = {
    "003": "UPDATE user_sessions SET memory_id = (SELECT id FROM memories LIMIT 1)",
    "012": "UPDATE project_state SET current_task_id = (SELECT id FROM background_tasks LIMIT 1)",
}
"""Older tables point to newer ones: a downgrade has to undo that, or the way up fails."""

TOUCHED = {"project_state.updated_at", "rag_knowledge.updated_at"}
"""What taking such a link back changes besides; 020 writes every row of knowledge, too."""

INSTALLED = {"rls_exempt_tables"}
"""Lists that the revisions themselves add to."""


@dataclass(frozen=True)
class Jump:
    """One upgrade: columns it began with, and what was wrong afterwards."""

    revision: str
    columns: int
    faults: tuple[str, ...]


async def upgrade_from_every_revision(
    url: str,
    fresh: Catalogue,
    *,
    count: int,
    only: Collection[str] | None = None,
    back: bool = False,
    report: Callable[[Jump], None] = lambda _: None,
) -> list[Jump]:
    """Fill the empty database revision by revision; from each, upgrade a copy to the head.

    `only` names the revisions to start from; the others are passed through. Every column that is
    there before and after must hold what it held, and the schema must be `fresh`. With `back` the
    copy goes down to the revision again and must be what it was (M2).
    """
    name, admin_url = url.partition("?")[0].rpartition("/")[2], on_database(url, "postgres")
    rows = Rows(base=datetime.now(UTC), count=count)
    admin = await connect(admin_url)
    jumps: list[Jump] = []
    done: set[str] = set()
    try:
        for revision in revision_ids():
            await upgrade(url, target=revision)
            if only is not None and revision not in only:
                continue
            conn = await connect(url)
            await fill(conn, rows)
            for linked in sorted(LINKS.keys() - done):
                if linked <= revision:
                    await conn.execute(LINKS[linked])
                    done.add(linked)
            kept = await checksums(conn)
            await conn.close()
            before = await catalogue_of(url)
            copy = f"{name[:40]}_{revision}"
            await admin.execute(f"CREATE DATABASE {copy} TEMPLATE {name} STRATEGY FILE_COPY")
            try:
                faults = await _jump(on_database(url, copy), kept, fresh)
                if back:
                    faults += await _back(on_database(url, copy), revision, kept, before)
            finally:
                await admin.execute(f"DROP DATABASE {copy} WITH (FORCE)")
            jumps.append(Jump(revision, len(kept), tuple(faults)))
            report(jumps[-1])
        empty = {column.partition(".")[0] for column, (n, _) in kept.items() if n < count}
        assert empty <= FIXED, f"tables without {count} rows: {sorted(empty - FIXED)}"
    finally:
        await admin.close()
    return jumps


async def _jump(url: str, kept: dict[str, tuple[int, int | None]], fresh: Catalogue) -> list[str]:
    await upgrade(url)
    conn = await connect(url)
    now = await checksums(conn)
    await conn.close()
    faults = [f"{column} is gone" for column in kept if column not in now]
    faults += [
        f"{column}: {value[0]} rows became {now[column][0]}, or other values"
        for column, value in kept.items()
        if column in now and now[column] != value
        if column not in TOUCHED and column.partition(".")[0] not in INSTALLED
    ]
    return faults + [str(one) for one in differences(fresh, await catalogue_of(url), ("new", "up"))]


async def _back(
    url: str, revision: str, kept: dict[str, tuple[int, int | None]], before: Catalogue
) -> list[str]:
    await downgrade(url, target=revision, confirmed=True)
    conn = await connect(url)
    now = await checksums(conn)
    await conn.close()
    changed = {column for column, value in kept.items() if now.get(column) != value} - TOUCHED
    faults = [f"{column} changed by the way up and back" for column in sorted(changed)]
    shape = differences(before, await catalogue_of(url), ("before", "after"))
    return faults + [str(one) for one in shape]
