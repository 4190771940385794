"""How request and answer texts are best kept, and what a month on the id is worth.

    python -m bench.storage --database-url URL [--rows 20000]

Works in a schema of its own (`bench_storage`), which it drops. Prints bytes and microseconds of
server time a row, and the WAL, for each way to keep the same JSON texts and for each kind of key.
"""

import argparse
import asyncio
import json
import random
import time
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from bench.machine import facts
from helix.core.ids import uuid7

_WORDS = """
the model answers a question about weather money code and memory with a list of steps that follow
from what was said before so that nobody has to guess which part is new and which is known already
while tables rows indexes queues prompts tools agents budgets are recorded
""".split()

_BODIES = {
    "json": "body json",
    "jsonb": "body jsonb",
    "json, inline compressed": "body json STORAGE MAIN",
    "json, target 128": "body json",
}


def _texts(count: int, seed: int) -> list[str]:
    """Return chat request bodies of 200 bytes to 16 kB, median about 2 kB, as clients send them."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        messages = [
            {
                "role": rng.choice(("user", "assistant", "system")),
                "content": " ".join(rng.choices(_WORDS, k=rng.randint(10, 200))),
            }
            for _ in range(rng.randint(1, 8))
        ]
        found.append(json.dumps({"model": "gpt-4", "temperature": 0.2, "messages": messages}))
    return found


async def _wal(conn: Any) -> int:
    return int(await conn.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


async def _bytes_of(conn: Any, table: str) -> int:
    """Return the bytes of a table with its indexes, its TOAST table and its partitions."""
    return int(
        await conn.fetchval(
            "SELECT coalesce((SELECT sum(pg_total_relation_size(relid)) FROM"
            " pg_partition_tree($1::regclass) WHERE isleaf), pg_total_relation_size($1::regclass))",
            table,
        )
    )


async def _insert(conn: Any, table: str, column: str, ids: list[UUID], texts: list[str]) -> str:
    """Insert in batches of 100 in one statement each; return a table row of what it cost."""
    await conn.execute("CHECKPOINT")
    before, begun = await _wal(conn), time.perf_counter()
    for at in range(0, len(ids), 100):
        await conn.execute(
            f"INSERT INTO {table} SELECT * FROM unnest($1::uuid[], $2::{column}[])",
            ids[at : at + 100],
            texts[at : at + 100],
        )
    spent = time.perf_counter() - begun
    wal = await _wal(conn) - before
    size = await _bytes_of(conn, table)
    rows = len(ids)
    return f"{size / rows:9.0f} {wal / rows:9.0f} {spent / rows * 1e6:9.1f}"


async def _bodies(conn: Any, rows: int, texts: list[str]) -> None:
    sent = sum(map(len, texts)) / rows
    print(f"\ntexts as sent: {sent:.0f} bytes a row; {rows} rows, 100 a statement")
    print(f"{'kept as':28} {'bytes/row':>9} {'WAL/row':>9} {'us/row':>9}")
    ids = [uuid7(1_700_000_000_000 + n) for n in range(rows)]
    for label, column in _BODIES.items():
        await conn.execute(f"CREATE TABLE bodies (id uuid PRIMARY KEY, {column})")
        if "128" in label:
            await conn.execute("ALTER TABLE bodies SET (toast_tuple_target = 128)")
        kind = "jsonb" if label == "jsonb" else "json"
        print(f"{label:28} {await _insert(conn, 'bodies', kind, ids, texts)}", flush=True)
        await conn.execute("DROP TABLE bodies")


async def _keys(conn: Any, rows: int) -> None:
    count = rows * 20
    print(f"\nkeys: {count} rows of 200 bytes with two more indexes")
    print(f"{'key':28} {'bytes/row':>9} {'WAL/row':>9} {'us/row':>9}")
    note = ["x" * 200] * count
    step_ms = 86_400_000 * 90 // count
    kinds = {
        "uuid v4": [uuid4() for _ in range(count)],
        "uuid v7": [uuid7(1_700_000_000_000 + n * step_ms) for n in range(count)],
        "uuid v7, month partitions": [uuid7(1_700_000_000_000 + n * step_ms) for n in range(count)],
    }
    for label, ids in kinds.items():
        months = "partitions" in label
        await conn.execute(
            "CREATE TABLE facts (id uuid PRIMARY KEY, note text,"
            " owner uuid DEFAULT '00000000-0000-4000-8000-000000000001', at timestamptz DEFAULT"
            f" now()) {'PARTITION BY RANGE (id)' if months else ''}"
        )
        if months:
            for month in range(-1, 5):
                low, high = (
                    uuid7_floor(1_700_000_000_000 + (month + n) * 2_592_000_000) for n in (0, 1)
                )
                await conn.execute(
                    f"CREATE TABLE facts_{month + 1} PARTITION OF facts"
                    f" FOR VALUES FROM ('{low}') TO ('{high}')"
                )
        await conn.execute("CREATE INDEX ON facts (owner); CREATE INDEX ON facts USING brin (at)")
        print(f"{label:28} {await _keyed(conn, ids, note)}", flush=True)
        await conn.execute("DROP TABLE facts")


async def _keyed(conn: Any, ids: list[UUID], note: list[str]) -> str:
    await conn.execute("ALTER TABLE facts ALTER note SET STORAGE PLAIN")
    before, begun = await _wal(conn), time.perf_counter()
    for at in range(0, len(ids), 100):
        await conn.execute(
            "INSERT INTO facts (id, note) SELECT * FROM unnest($1::uuid[], $2::text[])",
            ids[at : at + 100],
            note[at : at + 100],
        )
    spent = time.perf_counter() - begun
    wal = await _wal(conn) - before
    size = await _bytes_of(conn, "facts")
    return f"{size / len(ids):9.0f} {wal / len(ids):9.0f} {spent / len(ids) * 1e6:9.1f}"


def uuid7_floor(unix_ms: int) -> UUID:
    """Return the smallest UUID of a millisecond, a partition's bound."""
    return UUID(int=unix_ms << 80)


async def _main(url: str, rows: int, seed: int) -> None:
    conn = await asyncpg.connect(url)
    print(facts(), "|", await conn.fetchval("SELECT version()"), "| seed", seed)
    await conn.execute("DROP SCHEMA IF EXISTS bench_storage CASCADE; CREATE SCHEMA bench_storage")
    await conn.execute("SET search_path = bench_storage")
    try:
        await _bodies(conn, rows, _texts(rows, seed))
        await _keys(conn, rows)
    finally:
        await conn.execute("DROP SCHEMA bench_storage CASCADE")
        await conn.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    asyncio.run(_main(given.database_url, given.rows, given.seed))
