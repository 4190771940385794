"""Migrating a database that is not empty: nothing is lost that a revision keeps."""

from datetime import UTC, datetime

from helix.core.db import connect
from helix.operations.catalogue import differences
from helix.operations.check import catalogue_of
from helix.operations.migrate import downgrade, upgrade
from helix.operations.scripts import revision_ids
from tests.operations.generate import ROWS, Rows, checksums, fill


async def test_rows_outlive_the_way_up_down_to_base_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    rows = Rows(base=datetime.now(UTC))
    conn = await connect(url)
    kept: dict[str, dict[str, tuple[int, str]]] = {}
    shapes = {}
    for revision in revision_ids():
        await upgrade(url, target=revision)
        await conn.reload_schema_state()
        await fill(conn, rows)
        kept[revision] = await checksums(conn)
        shapes[revision] = await catalogue_of(url)
    counts = {name.partition(".")[0]: n for name, (n, _) in kept["014"].items()}
    assert min(counts.values()) >= ROWS, {t: n for t, n in counts.items() if n < ROWS}

    for revision in reversed(revision_ids()):
        await conn.reload_schema_state()
        now = await checksums(conn)
        changed = {name for name, value in kept[revision].items() if now.get(name) != value}
        assert changed == set()
        assert differences(shapes[revision], await catalogue_of(url), ("before", "after")) == []
        await downgrade(url, target="-1", confirmed=True)
    left = [thing for thing in (await catalogue_of(url)).things if not thing.startswith("grant ")]
    assert left == ["extension vector"]

    for revision in revision_ids():
        await upgrade(url, target=revision)
        assert differences(shapes[revision], await catalogue_of(url), ("before", "after")) == []
    await conn.close()
