"""Migrating a database that is not empty: nothing is lost that a revision keeps.

Every table gets 1,000 generated rows as soon as its revision has made it; then the way goes down to
base and up again. Whatever a revision leaves standing must hold, column by column, what it held.
"""

from datetime import UTC, datetime

import pytest

from helix.core.db import connect
from helix.operations.catalogue import differences
from helix.operations.check import catalogue_of
from helix.operations.migrate import downgrade, upgrade
from helix.operations.scripts import revision_ids
from tests.operations.generate import FIXED, ROWS, Rows, checksums, fill
from tests.operations.upgrading import LINKS, TOUCHED, upgrade_from_every_revision


@pytest.mark.timeout(400)
async def test_rows_outlive_the_way_up_down_to_base_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    rows = Rows(base=datetime.now(UTC))
    conn = await connect(url)
    kept: dict[str, dict[str, tuple[int, int | None]]] = {}
    shapes = {}
    for revision in revision_ids():
        await upgrade(url, target=revision)
        await conn.reload_schema_state()
        await fill(conn, rows)
        if revision in LINKS:
            await conn.execute(LINKS[revision])
        kept[revision] = await checksums(conn)
        shapes[revision] = await catalogue_of(url)
    counts = {name.partition(".")[0]: n for name, (n, _) in kept[revision_ids()[-1]].items()}
    assert {table for table, count in counts.items() if count < ROWS} == FIXED

    for revision in reversed(revision_ids()):
        await conn.reload_schema_state()
        now = await checksums(conn)
        changed = {name for name, value in kept[revision].items() if now.get(name) != value}
        assert changed - TOUCHED == set()
        assert differences(shapes[revision], await catalogue_of(url), ("before", "after")) == []
        await downgrade(url, target="-1", confirmed=True)
    left = [thing for thing in (await catalogue_of(url)).things if not thing.startswith("grant ")]
    assert left == ["extension vector"]

    await upgrade(url)
    assert (
        differences(shapes[revision_ids()[-1]], await catalogue_of(url), ("before", "after")) == []
    )
    await conn.close()


@pytest.mark.timeout(300)
async def test_rows_outlive_the_upgrade_to_the_head_from_two_revisions_and_the_way_back(
    empty_database_url: str, shared_database_url: str
) -> None:
    fresh = await catalogue_of(shared_database_url)
    two = ["014", revision_ids()[-2]]  # rigs/upgrade.py takes them all
    jumps = await upgrade_from_every_revision(
        empty_database_url, fresh, count=20, only=two, back=True
    )
    assert [jump.revision for jump in jumps] == two
    assert {jump.revision: jump.faults for jump in jumps if jump.faults} == {}
    assert jumps[0].columns > 300
