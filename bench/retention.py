"""A simulated year of calls with retention running, beside the same year retained by DELETE.

    make bench-retention                    1,000,000 calls in a year, 250,000 for the memory bound
    make bench-retention ARGS=--short       two minutes
    make bench-retention ARGS='--calls 5000000 --month-calls 1000000'

Calls are made inside PostgreSQL, week by week of a year that ends now: request, answer, both texts,
usage, and one error in fifty calls. After each week retention runs as of then: in one database as
Helix does it (months archived into files, then dropped), in the other by DELETE in batches of 5,000
and VACUUM, which archives nothing. Then one month alone is archived, and the memory of the process
that does it is measured.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.machine import facts
from helix.core.config import Settings, load_settings
from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Queries, connect
from helix.core.ids import IdSource, uuid_floor
from helix.core.instance import make_home, socket_url
from helix.operations import EmbeddedPostgres, upgrade
from helix.operations.retention import run

OPTIONS = {"shared_buffers": "512MB", "max_wal_size": "4GB", "maintenance_work_mem": "256MB"}
WEEKS = 52
USERS = 50
TABLES = (
    "llm_requests", "llm_request_bodies", "llm_responses", "llm_response_bodies",
    "llm_token_usage", "error_log",
)  # fmt: skip
CALLS = TABLES[:4]
MAKES = (
    "make_requests", "make_request_bodies", "make_responses", "make_response_bodies",
    "make_usage", "make_errors",
)  # fmt: skip
BATCH = 5_000
QUERIES = Queries("bench", "retention.sql")

DELETES = (
    "llm_response_bodies",
    "llm_responses",
    "llm_request_bodies",
    "llm_requests",
    "error_log",
)


@dataclass
class Week:
    """How one way of retaining did in a week."""

    rows: int = 0
    seconds: float = 0.0
    wal: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    rest_s: float = 0.0
    rest_wal: int = 0

    @property
    def calls_bytes(self) -> int:
        return sum(self.sizes[name] for name in CALLS)


def months(first: date, last: date) -> list[date]:
    found = []
    at = first.replace(day=1)
    while at <= last:
        found.append(at)
        at = (at + timedelta(days=32)).replace(day=1)
    return found


async def prepare(url: str, first: datetime, last: datetime) -> Connection:
    """Migrate a database, give it users and the months of the year; return a quick connection."""
    await upgrade(url)
    conn = await connect(url)
    await conn.execute(
        "INSERT INTO users (email, password_hash) "
        f"SELECT n || '@bench.invalid', '!' FROM generate_series(1, {USERS}) AS n"
    )
    for month in months(first.date(), last.date()):
        for table in TABLES:
            await conn.execute("SELECT helix_create_partition($1, $2)", table, month)
    # Foreign keys hold by the way the rows are made; checking them is not what is measured.
    await conn.execute("SET session_replication_role = replica")
    return conn


async def make(conn: Connection, start: datetime, end: datetime, count: int) -> None:
    """Make `count` calls, evenly from one moment to another."""
    await QUERIES.run(conn, "make_place")
    await QUERIES.run(conn, "make_calls", start=start, end=end, calls=count)
    for name in MAKES:
        await QUERIES.run(conn, name)
    await QUERIES.run(conn, "clear_place")


async def sizes(conn: Connection) -> dict[str, int]:
    rows = await QUERIES.rows(conn, "sizes", tables=list(TABLES))
    return {row["name"]: row["bytes"] for row in rows}


class Way:
    """One way of retaining, on a database of its own."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    async def retain(self, now: datetime) -> int:
        """Remove what is past its age; return how many requests went."""
        raise NotImplementedError

    async def week(self, now: datetime) -> Week:
        before = await self.conn.fetchval("SELECT pg_current_wal_lsn()::text")
        began = time.monotonic()
        rows = await self.retain(now)
        took = time.monotonic() - began
        wal = await self.conn.fetchval(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::bigint", before
        )
        return Week(rows, took, wal, await sizes(self.conn))


class ByMonths(Way):
    """As Helix does."""

    def __init__(self, conn: Connection, url: str, settings: Settings, keyring: Keyring) -> None:
        super().__init__(conn)
        self._own: tuple[float, int] = (0.0, 0)
        self._url, self._settings, self._keyring = url, settings, keyring

    async def retain(self, now: datetime) -> int:
        done = await run(
            self._url, self._settings, self._keyring, now=now, run_id=IdSource().next(now)
        )
        if done.errors:
            raise SystemExit("; ".join(done.errors))
        same = [one for one in done.outcomes if one.table in {"llm_requests", "error_log"}]
        self._own = sum(one.duration_ms for one in same) / 1e3, sum(one.wal_bytes for one in same)
        return sum(one.row_count for one in same if one.table == "llm_requests")

    async def week(self, now: datetime) -> Week:
        """Tell what calls and errors took, as the other way has no more; the rest apart."""
        all_of_it = await super().week(now)
        seconds, wal = self._own
        return Week(
            all_of_it.rows,
            seconds,
            wal,
            all_of_it.sizes,
            all_of_it.seconds - seconds,
            all_of_it.wal - wal,
        )


class ByDelete(Way):
    """Row by row, as of the day, and the space given back to the table by VACUUM."""

    async def retain(self, now: datetime) -> int:
        gone = 0
        floor = uuid_floor(now - timedelta(days=90))
        for table in DELETES:
            while True:
                row = await QUERIES.row(self.conn, f"delete_{table}", floor=floor, batch=BATCH)
                count = row["gone"] if row else 0
                if not count:
                    break
                gone += count if table == "llm_requests" else 0
            await QUERIES.run(self.conn, f"vacuum_{table}")
        return gone


def megabytes(count: float) -> str:
    return f"{count / 1e6:.1f}" if count < 1e8 else f"{count / 1e6:.0f}"


def show(weeks: list[tuple[date, Week, Week]]) -> None:
    """Print a month's last week, and every week in which a month went."""
    print(
        "| week to | Helix: MB | removed | s | MB of WAL | DELETE: MB | removed | s | MB of WAL |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for n, (day, *both) in enumerate(weeks):
        if n % 4 == 3 or both[0].rows:
            cells = [
                f"{megabytes(one.calls_bytes)} | {one.rows} | {one.seconds:.2f} | "
                f"{megabytes(one.wal)}"
                for one in both
            ]
            print(f"| {day} | {cells[0]} | {cells[1]} |")
    for name, at in (("Helix", 1), ("DELETE", 2)):
        marks: list[Any] = [one[at] for one in weeks]
        most = max(mark.calls_bytes for mark in marks)
        print(
            f"\n{name}: {sum(mark.rows for mark in marks)} calls removed in "
            f"{sum(mark.seconds for mark in marks):.1f} s, "
            f"{megabytes(sum(mark.wal for mark in marks))} MB of WAL; tables of calls at most "
            f"{megabytes(most)} MB, at the end {megabytes(marks[-1].calls_bytes)} MB"
        )
    print(
        f"\nHelix besides, in all weeks: sums of usage, every other table, the record of the run: "
        f"{sum(one[1].rest_s for one in weeks):.1f} s, "
        f"{megabytes(sum(one[1].rest_wal for one in weeks))} MB of WAL"
    )
    print()


def resident(what: str) -> int:
    """Return VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1_024
    raise RuntimeError(f"no {what} in /proc/self/status")


def forget_peak() -> int:
    """Let the high-water mark of memory begin anew; return what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


async def year(urls: tuple[str, str], settings: Settings, keyring: Keyring, calls: int) -> None:
    end = datetime.now(UTC).replace(microsecond=0)
    start = end - timedelta(weeks=WEEKS)
    ours, theirs = [await prepare(url, start, end) for url in urls]
    ways: tuple[Way, Way] = (ByMonths(ours, urls[0], settings, keyring), ByDelete(theirs))
    weeks = []
    for number in range(WEEKS):
        low, high = start + timedelta(weeks=number), start + timedelta(weeks=number + 1)
        for way in ways:
            await make(way.conn, low, high, calls // WEEKS)
        weeks.append((high.date(), await ways[0].week(high), await ways[1].week(high)))
    show(weeks)
    files = list(settings.archive_path.glob("*/*.hxa"))
    size = sum(path.stat().st_size for path in files)
    plain = float(await ours.fetchval("SELECT coalesce(sum(plain_bytes), 0) FROM archive_files"))
    kept = await ours.fetchval("SELECT sum(call_count) FROM llm_usage_daily")
    print(
        f"archive: {len(files)} files, {megabytes(size)} MB of {megabytes(plain)} MB of rows; "
        f"sums by day: {kept} of {calls // WEEKS * WEEKS} calls"
    )
    for conn in (ours, theirs):
        await conn.close()


async def month(url: str, settings: Settings, keyring: Keyring, calls: int) -> None:
    """Archive one month, and measure the memory that takes."""
    now = datetime.now(UTC)
    start = (now - timedelta(days=150)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    conn = await prepare(url, start, now)
    await make(conn, start, start + timedelta(days=27), calls)
    await run(url, settings, keyring, now=now, run_id=IdSource().next(now), only="error_log")
    before, began = forget_peak(), time.monotonic()
    done = await run(
        url, settings, keyring, now=now, run_id=IdSource().next(now), only="llm_requests"
    )
    took = time.monotonic() - began
    grown = resident("VmHWM") - before
    (outcome,) = done.outcomes
    print(
        f"one month of {calls} calls ({4 * calls} rows, {megabytes(outcome.byte_count)} MB in the "
        f"database): archived, read again and dropped in {took:.1f} s, {calls / took:.0f} calls/s, "
        f"{megabytes(outcome.wal_bytes)} MB of WAL; resident memory +{grown / 1e6:.1f} MB\n"
    )
    if done.errors or grown > 50e6:
        raise SystemExit(f"FAILED: {done.errors or 'more than 50 MB'}")
    await conn.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--month-calls", type=int, default=250_000)
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    calls, month_calls = (104_000, 50_000) if args.short else (args.calls, args.month_calls)
    home = Path(tempfile.mkdtemp(prefix="helix-bench-"))
    settings = load_settings({}, home=home)
    make_home(home)
    postgres = EmbeddedPostgres(settings, options=OPTIONS)
    try:
        base = await postgres.start()
        socket = base.partition("host=")[2].partition("&")[0]
        print(f"{facts()}\n")
        urls = []
        for name in ("months", "deletes", "one_month"):
            admin = await connect(base)
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            await admin.close()
            urls.append(socket_url(socket, name))
        began = time.monotonic()
        keyring = Keyring([new_key()])
        await month(urls[2], settings, keyring, month_calls)
        await year((urls[0], urls[1]), settings, keyring, calls)
        print(f"{time.monotonic() - began:.0f} s in all")
    finally:
        await postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
