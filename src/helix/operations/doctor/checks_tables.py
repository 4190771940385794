"""Checks of the schema and what is in it: revisions, indexes, sizes, bloat, partitions."""

import re
from datetime import UTC, datetime

from helix.operations.doctor.policy import LIMITS, above, age_text, bytes_text
from helix.operations.doctor.scene import QUERIES, Check, Scene
from helix.operations.doctor.types import Finding, Measure, Severity
from helix.operations.migrate import standing
from helix.operations.runner import read_applied
from helix.operations.schema_files import sql_directory
from helix.operations.scripts import revision_ids

__all__ = ["CHECKS"]

_CREATE = re.compile(
    r"^CREATE (?:UNLOGGED |UNIQUE |MATERIALIZED )?(?:TABLE|INDEX|VIEW) (?:IF NOT EXISTS )?(\w+)",
    re.MULTILINE,
)
_NEW_STATISTICS_S = 7 * 86_400.0


async def _migrations(scene: Scene) -> Finding:
    applied = await read_applied(scene.conn)
    version = standing(applied, revision_ids())  # raises SchemaUnknown: that is the finding then
    measures = (Measure("helix_migrations_pending", len(version.pending)),)
    if version.interrupted or version.pending:
        seen = f"the schema is at {version.revision or 'nothing'}"
        seen += f"; {version.interrupted} is half done" if version.interrupted else ""
        seen += f"; {', '.join(version.pending)} are pending" if version.pending else ""
        return Finding(
            "migrations",
            Severity.CRITICAL,
            seen,
            "helix db upgrade",
            len(version.pending),
            "revisions",
            measures=measures,
        )
    return Finding(
        "migrations",
        Severity.OK,
        f"the schema is at {version.revision}, the newest; {len(applied)} revisions",
        None,
        0,
        "revisions",
        measures=measures,
    )


def _expected_relations() -> list[str]:
    """Return the tables, indexes and views that sql/schema makes; fast, for it is asked often."""
    files = sorted((sql_directory() / "schema").glob("*.sql"))
    return sorted({name for f in files for name in _CREATE.findall(f.read_text(encoding="utf-8"))})


async def _schema(scene: Scene) -> Finding:
    expected = _expected_relations()
    rows = await QUERIES.rows(scene.conn, "list_present_names", names=expected)
    missing = sorted(set(expected) - {row["name"] for row in rows})
    faults = [{"kind": "missing", "name": name} for name in missing]
    faults += [dict(row) for row in await QUERIES.rows(scene.conn, "list_schema_faults")]
    faults += [
        {"kind": row["gap"]["gap"], "name": row["gap"]["table_name"]}
        for row in await QUERIES.rows(scene.conn, "list_tenancy_gaps")
    ]
    if not faults:
        return Finding(
            "schema",
            Severity.OK,
            f"{len(expected)} tables, indexes and views are there; nothing is invalid, switched "
            "off or without a policy",
            None,
            0,
            "faults",
            measures=(Measure("helix_schema_faults", 0),),
        )
    first = faults[0]
    only_indexes = all(fault["kind"] == "invalid index" for fault in faults)
    return Finding(
        "schema",
        Severity.WARNING if only_indexes else Severity.CRITICAL,
        f"{len(faults)} things are not as the schema says, the first: {first['kind']} "
        f"{first['name']}",
        "helix db upgrade" if only_indexes else "helix db check",
        len(faults),
        "faults",
        tuple(faults[:20]),
        (Measure("helix_schema_faults", len(faults)),),
    )


async def _unused_indexes(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "unused_indexes")
    since = await QUERIES.row(scene.conn, "statistics_since")
    large = [row for row in rows if row["index_bytes"] >= LIMITS.index_notice_bytes]
    total = sum(row["index_bytes"] for row in rows)
    assert since is not None  # noqa: S101 - every database has a row
    counted_s = (scene.clock.now() - since["since"].astimezone(UTC)).total_seconds()
    telling = bool(large) and counted_s >= _NEW_STATISTICS_S
    return Finding(
        "unused_indexes",
        Severity.NOTICE if telling else Severity.OK,
        f"{len(rows)} indexes ({bytes_text(total)}) were not used in {age_text(counted_s)}; "
        f"{len(large)} of them are larger than {bytes_text(LIMITS.index_notice_bytes)}",
        f"if reports do not need it either: DROP INDEX CONCURRENTLY {large[0]['index_name']}"
        if telling
        else None,
        total,
        "bytes",
        tuple(dict(row) for row in rows[:10]),
        (Measure("helix_unused_index_bytes", total),),
    )


async def _duplicate_indexes(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "duplicate_indexes")
    exact = [row for row in rows if row["exact"]]
    total = sum(row["index_bytes"] for row in rows)
    return Finding(
        "duplicate_indexes",
        Severity.NOTICE if exact else Severity.OK,
        f"{len(exact)} indexes repeat another, {len(rows) - len(exact)} are the beginning of "
        f"another; together {bytes_text(total)}",
        f"DROP INDEX CONCURRENTLY {exact[0]['index_name']}" if exact else None,
        total,
        "bytes",
        tuple(dict(row) for row in rows[:10]),
        (Measure("helix_duplicate_index_bytes", total),),
    )


async def _sizes(scene: Scene) -> Finding:
    size = await QUERIES.row(scene.conn, "read_size")
    tables = await QUERIES.rows(scene.conn, "largest_tables")
    assert size is not None  # noqa: S101 - a SELECT of one row
    growth = "growth is known from the second day on"
    measures = [Measure("helix_database_bytes", size["bytes"])]
    if size["days"]:
        per_day = (size["bytes"] - size["bytes_then"]) / size["days"]
        growth = f"{bytes_text(per_day)} a day over {size['days']} days"
        measures.append(Measure("helix_database_growth_bytes_per_day", per_day))
    measures += [Measure("helix_table_bytes", r["total_bytes"], r["table_name"]) for r in tables]
    return Finding(
        "sizes",
        Severity.OK,
        f"the database has {bytes_text(size['bytes'])}; {growth}; the largest table is "
        f"{tables[0]['table_name']} with {bytes_text(tables[0]['total_bytes'])}",
        None,
        size["bytes"],
        "bytes",
        tuple(dict(row) for row in tables),
        tuple(measures),
    )


async def _bloat(scene: Scene) -> Finding:
    rows = await QUERIES.rows(
        scene.conn,
        "bloated_tables",
        least_bytes=LIMITS.bloat_bytes,
        least_share=LIMITS.bloat_share,
    )
    total = await QUERIES.row(scene.conn, "bloat_total")
    assert total is not None  # noqa: S101 - a SELECT of one row
    return Finding(
        "bloat",
        Severity.WARNING if rows else Severity.OK,
        f"about {bytes_text(total['wasted_bytes'])} of {bytes_text(total['heap_bytes'])} hold "
        f"nothing; {len(rows)} tables are more than half empty; {total['dead_rows']} dead rows "
        "wait for vacuum",
        f"in a quiet hour: VACUUM (FULL, ANALYZE) {rows[0]['table_name']}; it locks the table"
        if rows
        else None,
        total["wasted_bytes"],
        "bytes",
        tuple(dict(row) for row in rows),
        (
            Measure("helix_bloat_bytes", total["wasted_bytes"]),
            Measure("helix_dead_rows", total["dead_rows"]),
        ),
    )


async def _frozen_age(scene: Scene) -> Finding:
    row = await QUERIES.row(scene.conn, "read_frozen_age")
    assert row is not None  # noqa: S101 - there is always a database
    severity = above(
        row["transactions"],
        warning=LIMITS.frozen_age_warning,
        critical=LIMITS.frozen_age_critical,
    )
    return Finding(
        "frozen_age",
        severity,
        f"{row['transactions']} transactions since all rows of {row['database']} were frozen; "
        "PostgreSQL stops at about 2,100,000,000",
        "end old transactions and slots, then VACUUM (FREEZE)"
        if severity is not Severity.OK
        else None,
        row["transactions"],
        "transactions",
        measures=(Measure("helix_frozen_age_transactions", row["transactions"]),),
    )


async def _partitions_ahead(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "months_ahead")
    least = min((row["months_ahead"] for row in rows), default=0)
    severity = Severity.OK
    if least < 0:
        severity = Severity.CRITICAL
    elif least == 0 or (least == 1 and _month_is_old(scene.clock.now())):
        severity = Severity.WARNING
    return Finding(
        "partitions_ahead",
        severity,
        f"{len(rows)} tables have at least {max(least, 0)} months made ahead"
        if least >= 0
        else f"{rows[0]['table_name']} has no partition for this month: its rows go to the default",
        "helix retention run --yes: it makes the months that are missing"
        if severity is not Severity.OK
        else None,
        least,
        "months",
        tuple(dict(row) for row in rows) if severity is not Severity.OK else (),
        (Measure("helix_partition_months_ahead", least),),
    )


def _month_is_old(now: datetime) -> bool:
    return now.day > 20


async def _default_partitions(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "default_partitions")
    total = sum(row["about_rows"] for row in rows)
    return Finding(
        "default_partitions",
        Severity.WARNING if rows else Severity.OK,
        f"about {total} rows lie in {len(rows)} default partitions: their month was not there"
        if rows
        else "no row lies in a default partition",
        "helix retention run --yes: it makes their months and moves them there" if rows else None,
        total,
        "rows",
        tuple(dict(row) for row in rows),
        (Measure("helix_default_partition_rows", total),),
    )


CHECKS = (
    Check("migrations", _migrations),
    Check("schema", _schema),
    Check("sizes", _sizes),
    Check("bloat", _bloat),
    Check("unused_indexes", _unused_indexes),
    Check("duplicate_indexes", _duplicate_indexes),
    Check("frozen_age", _frozen_age),
    Check("partitions_ahead", _partitions_ahead),
    Check("default_partitions", _default_partitions),
)
