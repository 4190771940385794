"""Checks of the server: its version, connections, statements, transactions, WAL, clock, disks."""

from datetime import UTC, datetime

import asyncpg

from helix import __version__
from helix.core.db import connect
from helix.core.seats import seat_of
from helix.operations.doctor.policy import (
    LIMITS,
    above,
    age_text,
    bytes_text,
    examine_volume,
    worst,
)
from helix.operations.doctor.scene import QUERIES, Check, Scene, data_directory, volumes_of
from helix.operations.doctor.types import Finding, Measure, Severity
from helix.operations.scratch import on_database

__all__ = ["CHECKS"]

_OLDEST_SERVER = 150_000
_HOW_TO_COUNT = (
    "put pg_stat_statements into shared_preload_libraries, restart PostgreSQL, then run "
    "CREATE EXTENSION pg_stat_statements"
)


async def _database(scene: Scene) -> Finding:
    began_s = scene.clock.monotonic_s()
    await QUERIES.row(scene.conn, "read_clock")
    took_s = scene.clock.monotonic_s() - began_s
    return Finding(
        "database",
        Severity.OK,
        f"the database answers in {took_s * 1_000:.1f} ms",
        None,
        round(took_s, 4),
        "s",
    )


async def _versions(scene: Scene) -> Finding:
    row = await QUERIES.row(scene.conn, "read_versions")
    assert row is not None  # noqa: S101 - a SELECT of one row
    seen = f"Helix {__version__}, PostgreSQL {row['server']}, pgvector {row['vector'] or 'missing'}"
    if row["server_num"] < _OLDEST_SERVER:
        return Finding("versions", Severity.CRITICAL, seen, "move to PostgreSQL 15 or newer")
    if row["vector"] is None:
        return Finding("versions", Severity.CRITICAL, seen, "CREATE EXTENSION vector")
    return Finding("versions", Severity.OK, seen)


async def _durability(scene: Scene) -> Finding:
    row = await QUERIES.row(scene.conn, "read_durability")
    assert row is not None  # noqa: S101 - a SELECT of one row
    failures = row["checksum_failures"]
    measures = (Measure("helix_page_checksum_failures", failures),)
    if failures:
        return Finding(
            "durability",
            Severity.CRITICAL,
            f"{failures} pages had a wrong checksum: the disk returned other bytes than it was "
            "given",
            "restore to another disk: helix backup list, then helix backup restore",
            failures,
            "pages",
            measures=measures,
        )
    if row["unsafe"]:
        names = ", ".join(row["unsafe"])
        return Finding(
            "durability",
            Severity.CRITICAL,
            f"{names} is off: acknowledged calls are lost when the machine loses power",
            "; ".join(f"ALTER SYSTEM SET {name} = on" for name in row["unsafe"])
            + "; SELECT pg_reload_conf()",
            measures=measures,
        )
    checksums = f"page checksums {row['data_checksums']}"
    return Finding(
        "durability",
        Severity.OK,
        f"fsync, full_page_writes and synchronous_commit are on; {checksums}, none wrong",
        measures=measures,
    )


async def _connections(scene: Scene) -> Finding:
    row = await QUERIES.row(scene.conn, "read_connections")
    assert row is not None  # noqa: S101 - a SELECT of one row
    used, allowed = row["used"], row["allowed"]
    seats = [seat for name in row["seats"] or () if (seat := seat_of(name)) is not None]
    claimed = sum(seat.most for seat in seats)
    share = used / max(1, allowed)
    severity = above(
        share, warning=LIMITS.connections_warning, critical=LIMITS.connections_critical
    )
    todo = None
    if claimed > allowed:
        severity = worst((severity, Severity.WARNING))
    if severity is not Severity.OK:
        todo = (
            "lower DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW of each process, run fewer, or "
            f"raise max_connections (ALTER SYSTEM SET max_connections = {max(claimed, used) + 30}, "
            "then restart PostgreSQL)"
        )
    rows = await QUERIES.rows(scene.conn, "count_connections")
    return Finding(
        "connections",
        severity,
        f"{used} of {allowed} connections in use ({share:.0%}); {len(seats)} processes may open "
        f"{claimed} between them",
        todo,
        used,
        "connections",
        tuple(dict(row) for row in rows),
        (
            Measure("helix_connections_used", used),
            Measure("helix_connections_limit", allowed),
            Measure("helix_connections_claimed", claimed),
        ),
    )


async def _slow_statements(scene: Scene) -> Finding:
    found = await QUERIES.row(scene.conn, "find_statements")
    assert found is not None  # noqa: S101 - a SELECT of one row
    database = await scene.conn.fetchval("SELECT current_database()")
    if not found["loaded"] and (found["loaded"] is not None or found["schema"] is None):
        return Finding(
            "slow_statements",
            Severity.NOTICE,
            "PostgreSQL does not count statements: pg_stat_statements is not loaded",
            _HOW_TO_COUNT,
        )
    conn, own = scene.conn, None
    if found["schema"] is None:  # the embedded server has it in the database `postgres`
        conn = own = await connect(
            on_database(scene.url, "postgres"), application_name="helix doctor"
        )
    try:
        rows = await QUERIES.rows(conn, "slow_statements", database=database)
    except (asyncpg.UndefinedTableError, asyncpg.ObjectNotInPrerequisiteStateError):
        return Finding(
            "slow_statements",
            Severity.NOTICE,
            "statements are counted, but this database cannot show them",
            "CREATE EXTENSION pg_stat_statements",
        )
    finally:
        if own is not None:
            await own.close()
    slowest = rows[0]["mean_ms"] if rows else 0.0
    slow = [row for row in rows if row["mean_ms"] >= LIMITS.statement_notice_ms]
    return Finding(
        "slow_statements",
        Severity.NOTICE if slow else Severity.OK,
        f"the slowest statement takes {slowest:.1f} ms on average; {len(slow)} take "
        f"{LIMITS.statement_notice_ms:.0f} ms or more",
        "run EXPLAIN (ANALYZE, BUFFERS) of those in the details" if slow else None,
        slowest,
        "ms",
        tuple(dict(row) for row in rows),
        (Measure("helix_statement_slowest_seconds", slowest / 1_000),),
    )


async def _long_transactions(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "long_transactions")
    oldest = rows[0]["age_s"] if rows else 0.0
    severity = above(
        oldest, warning=LIMITS.transaction_warning_s, critical=LIMITS.transaction_critical_s
    )
    todo = None
    if severity is not Severity.OK:
        todo = f"SELECT pg_terminate_backend({rows[0]['pid']})"
    return Finding(
        "long_transactions",
        severity,
        f"the oldest open transaction is {age_text(oldest)} old"
        if rows
        else "no transaction is open",
        todo,
        oldest,
        "s",
        tuple(dict(row) for row in rows) if todo else (),
        (Measure("helix_transaction_oldest_seconds", oldest),),
    )


async def _idle_transactions(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "idle_transactions")
    longest = rows[0]["in_state_s"] if rows else 0.0
    severity = above(longest, warning=LIMITS.idle_warning_s, critical=LIMITS.idle_critical_s)
    todo = None
    if severity is not Severity.OK:
        todo = f"SELECT pg_terminate_backend({rows[0]['pid']}), or set "
        todo += "idle_in_transaction_session_timeout for that program"
    return Finding(
        "idle_transactions",
        severity,
        f"{len(rows)} sessions are idle in a transaction, the longest for {age_text(longest)}"
        if rows
        else "no session is idle in a transaction",
        todo,
        longest,
        "s",
        tuple(dict(row) for row in rows) if todo else (),
        (Measure("helix_transaction_idle_seconds", longest),),
    )


async def _replication_slots(scene: Scene) -> Finding:
    slots = await QUERIES.rows(scene.conn, "replication_slots")
    kept = max((row["kept_bytes"] for row in slots), default=0)
    away = [row for row in slots if not row["active"]]
    severity = above(kept, warning=LIMITS.slot_warning_bytes, critical=LIMITS.slot_critical_bytes)
    if away:
        severity = worst((severity, Severity.NOTICE))
    todo = None
    if severity is not Severity.OK:
        name = slots[0]["slot_name"]
        todo = f"start its reader, or drop it: SELECT pg_drop_replication_slot('{name}')"
    return Finding(
        "replication_slots",
        severity,
        f"{len(slots)} slots, {len(away)} of them without a reader, keep up to {bytes_text(kept)} "
        "of WAL"
        if slots
        else "there are no replication slots",
        todo,
        kept,
        "bytes",
        tuple(dict(row) for row in slots),
        (Measure("helix_replication_slot_kept_bytes", kept),),
    )


async def _replicas(scene: Scene) -> Finding:
    rows = await QUERIES.rows(scene.conn, "replicas")
    behind = max((row["behind_s"] for row in rows), default=0.0)
    late = behind >= LIMITS.replica_warning_s
    return Finding(
        "replicas",
        Severity.WARNING if late else Severity.OK,
        f"{len(rows)} replicas, the last one {age_text(behind)} behind"
        if rows
        else "there are no replicas",
        "look at the replica's load and its network; it replays too slowly" if late else None,
        behind,
        "s",
        tuple(dict(row) for row in rows),
        (Measure("helix_replica_behind_seconds", behind),),
    )


async def _wal_archive(scene: Scene) -> Finding:
    row = await QUERIES.row(scene.conn, "read_archive")
    assert row is not None  # noqa: S101 - a view of one row
    if row["mode"] == "off":
        return Finding(
            "wal_archive",
            Severity.OK,
            "WAL is not archived: a backup restores to its own moment, not to any other",
            measures=(Measure("helix_wal_archive_failing", 0),),
        )
    failed, archived = row["last_failed_time"], row["last_archived_time"]
    failing = failed is not None and (archived is None or failed > archived)
    return Finding(
        "wal_archive",
        Severity.CRITICAL if failing else Severity.OK,
        f"archiving of WAL fails: {row['last_failed_wal']} since {failed:%Y-%m-%d %H:%M} UTC; "
        f"{row['failed_count']} failures"
        if failing
        else f"{row['archived_count']} WAL files archived, none failed since",
        "read PostgreSQL's log for what archive_command said; WAL piles up until it works"
        if failing
        else None,
        row["age_s"],
        "s",
        measures=(
            Measure("helix_wal_archive_failing", float(failing)),
            *((Measure("helix_wal_archive_age_seconds", row["age_s"]),) if row["age_s"] else ()),
        ),
    )


async def _clock(scene: Scene) -> Finding:
    before, began_s = scene.clock.now(), scene.clock.monotonic_s()
    row = await QUERIES.row(scene.conn, "read_clock")
    took_s = scene.clock.monotonic_s() - began_s
    assert row is not None  # noqa: S101 - a SELECT of one row
    there: datetime = row["now"].astimezone(UTC)
    skew = (there - before).total_seconds() - took_s / 2
    off = max(0.0, abs(skew) - took_s / 2)  # what the way to and fro cannot explain
    severity = above(off, warning=LIMITS.clock_warning_s, critical=LIMITS.clock_critical_s)
    return Finding(
        "clock",
        severity,
        f"this process and the database differ by {skew * 1_000:+.0f} ms (± {took_s * 500:.0f} ms)",
        "set both clocks by NTP: chronyc tracking" if severity is not Severity.OK else None,
        round(skew, 4),
        "s",
        measures=(Measure("helix_clock_skew_seconds", skew),),
    )


def _disk(name: str) -> Check:
    async def look(scene: Scene) -> Finding:
        directory = await data_directory(scene)
        volume = volumes_of(scene.settings, directory).get(name)
        if volume is None:
            return Finding(
                f"disk_{name}",
                Severity.OK,
                "PostgreSQL runs on another machine, or may not tell where: watch its disks there",
            )
        row = await QUERIES.row(scene.conn, "volume_growth", name=name)
        per_day = None if row is None else row["bytes_per_day"]
        return examine_volume(volume, bytes_per_day=per_day)

    return Check(f"disk_{name}", look)


CHECKS = (
    Check("database", _database),
    Check("versions", _versions),
    Check("durability", _durability),
    Check("connections", _connections),
    Check("slow_statements", _slow_statements),
    Check("long_transactions", _long_transactions),
    Check("idle_transactions", _idle_transactions),
    Check("replication_slots", _replication_slots),
    Check("replicas", _replicas),
    Check("wal_archive", _wal_archive),
    Check("clock", _clock),
    _disk("data"),
    _disk("wal"),
    _disk("backups"),
    _disk("archive"),
)
