"""Search among many memories of users of very unequal size.

    make bench-memory-scale ARGS='--memories 1000000'

Rows are made inside PostgreSQL (sizes of users fall as 1/rank; words are drawn unevenly from
20,000; vectors lie around 2,000 points), then asked through the search verb. `--memories 200000`
takes minutes, a million a good half hour on two cores.
"""

import argparse
import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np

from bench.machine import facts
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Database, PoolLimits, Role, connect
from helix.core.instance import make_home
from helix.memory import Memories, NewMemory, build_indexes, near, search, vectors
from helix.operations import EmbeddedPostgres, upgrade

Array = np.ndarray[Any, np.dtype[Any]]
POINTS = 2_000
WORDS_EACH = 12
OPTIONS = {
    "shared_buffers": "2GB", "maintenance_work_mem": "1GB", "max_wal_size": "8GB",
    "work_mem": "64MB",
}  # fmt: skip

MAKE = (
    """CREATE TABLE bench_points AS
    SELECT i, l2_normalize((SELECT array_agg(random() - 0.5 + 0 * i * j)
                            FROM generate_series(1, 384) AS j)::real[]::vector(384)) AS v
    FROM generate_series(0, $points * 2 - 1) AS i""",
    """CREATE TABLE bench_users AS
    SELECT r AS rank, gen_random_uuid() AS id,
           greatest(1, ($memories / (r * (ln($users) + 0.5772)))::integer) AS size
    FROM generate_series(1, $users) AS r""",
    """INSERT INTO users (id, email, password_hash)
    SELECT id, rank || '@bench.invalid', '!' FROM bench_users""",
    """CREATE TABLE bench_rows AS
    SELECT uuidv7() AS id, u.id AS user_id, row_number() OVER () AS n,
           (SELECT string_agg('w' || (20000 * random() ^ 3 + 0 * s + 0 * w)::integer, ' ')
            FROM generate_series(1, $words) AS w) AS content
    FROM bench_users AS u CROSS JOIN LATERAL generate_series(1, u.size) AS s""",
    """INSERT INTO memories (id, user_id, content, valid_from)
    SELECT id, user_id, content, now() - n * interval '1 second' FROM bench_rows
    ON CONFLICT DO NOTHING""",
    """INSERT INTO memory_search (memory_id, user_id, memory_type, valid_from, terms, version)
    SELECT m.id, m.user_id, m.memory_type, m.valid_from,
           ARRAY(SELECT ((crc32(convert_to(w, 'UTF8')) + 2147483648) % 4294967296
                         - 2147483648)::integer
                 FROM unnest(string_to_array(m.content, ' ')) AS w), 1
    FROM memories AS m""",
    """INSERT INTO memory_embeddings (memory_id, embedding_config_id, dimension, user_id, embedding)
    SELECT r.id, $config, 384, r.user_id, l2_normalize(a.v + b.v)::halfvec
    FROM bench_rows AS r
    JOIN bench_points AS a ON a.i = (r.n * 7919) % $points
    JOIN bench_points AS b ON b.i = $points + (r.n * 104729) % ($points - 1)
    WHERE EXISTS (SELECT FROM memories AS m WHERE m.id = r.id)""",
    "ANALYZE",
)  # fmt: skip


class Given:
    """An embedder that answers with the vector it was given: the question's is not measured."""

    provider, model, dimension = "bench", "points-384", 384

    def __init__(self) -> None:
        self.vector: Array = np.zeros(384, np.float32)

    async def embed(self, texts: Sequence[str]) -> Array:
        """Return the given vector for every text."""
        return np.stack([self.vector] * len(texts))


async def make(url: str, config: UUID, memories: int, users: int) -> None:
    """Fill the database."""
    owner = await connect(url)
    for template in MAKE:
        statement, began = template, time.perf_counter()
        for name, value in (
            ("$memories", str(memories)), ("$users", str(users)), ("$points", str(POINTS)),
            ("$words", str(WORDS_EACH)), ("$config", f"'{config}'::uuid"),
        ):  # fmt: skip
            statement = statement.replace(name, value)
        await owner.execute(statement)
        print(f"{time.perf_counter() - began:7.1f} s  {statement.split('(')[0].split(' AS')[0]}")
    await owner.close()


async def asked(
    memories: Memories, owner: Any, given: Given, users: Sequence[UUID], count: int
) -> list[float]:
    """Ask for rows that are there, of users drawn from `users`; return ms each."""
    took = []
    for _ in range(count):
        user = random.choice(users)
        row = await owner.fetchrow(
            "SELECT m.content, e.embedding::text AS v FROM memories AS m "
            "JOIN memory_embeddings AS e ON e.memory_id = m.id WHERE m.user_id = $1 LIMIT 1", user
        )  # fmt: skip
        given.vector = np.array([float(x) for x in row["v"].strip("[]").split(",")], np.float32)
        words = " ".join(random.sample(row["content"].split(), 4))
        found = await memories.search(user_id=user, query=words, max_count=10)
        took.append(found.took_ms)
    return took


def line(name: str, took: list[float]) -> None:
    """Print one row of the table."""
    ordered = sorted(took)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(f"| {name:<44} | {len(took):>5} | {p50:>7.1f} | {p99:>7.1f} |")


async def run(total: int, users: int, count: int) -> None:
    """Make, index, ask, compare, write."""
    home = Path(tempfile.mkdtemp(prefix="helix-bench-"))
    settings = load_settings({}, home=home)
    make_home(home)
    postgres = EmbeddedPostgres(settings, options=OPTIONS)
    try:
        url = await postgres.start()
        await upgrade(url)
        limits = {
            role: PoolLimits(kept=1, maximum=4, statement_timeout_ms=600_000) for role in Role
        }
        db = Database(url, limits)
        given = Given()
        model = await vectors.model_of(db, given)
        print(facts())
        await make(url, model.config_id, total, users)
        owner = await connect(url)
        began = time.perf_counter()
        built = await build_indexes(owner)
        print(f"{time.perf_counter() - began:7.1f} s  {len(built)} indexes of large users")
        rows = await owner.fetch("SELECT user_id, count(*) AS n FROM memory_search GROUP BY 1")
        sizes = {row["user_id"]: row["n"] for row in rows}
        large = [user for user, n in sizes.items() if n > search.EXACT_MAX]
        middle = [user for user, n in sizes.items() if 1_000 <= n <= search.EXACT_MAX]
        print(f"memories {sum(sizes.values())}, users {len(sizes)}, largest {max(sizes.values())}, "
              f"above {search.EXACT_MAX}: {len(large)}")  # fmt: skip
        memories = Memories(db, given, SystemClock())
        await asked(memories, owner, given, list(sizes), 30)
        print("\n| users drawn                                  | asked | p50 ms  | p99 ms  |")
        print("|---|---|---|---|")
        line("any user alike", await asked(memories, owner, given, list(sizes), count))
        by_size = random.choices(list(sizes), weights=list(sizes.values()), k=count)
        line("by how much they remember", await asked(memories, owner, given, by_size, count))
        if middle:
            line("1,000 to 10,000 memories",
                 await asked(memories, owner, given, middle, count // 3))  # fmt: skip
        if large:
            line("more than 10,000", await asked(memories, owner, given, large, count // 3))
            print(f"\nvector recall@10 above 10,000: {await recall(db, owner, model, large):.4f}")
        exact = [u for u in middle if sizes[u] > 3_000][:5] or middle[:5]
        if exact:
            print(f"vector recall@10 up to 10,000: {await recall(db, owner, model, exact):.4f}")
        await write(memories, random.choice(list(sizes)))
        await owner.close()
        await db.close()
    finally:
        await postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


async def recall(db: Database, owner: Any, model: Any, users: Sequence[UUID]) -> float:
    """Return how many of the ten truly nearest are among the ten that search is given."""
    shares = []
    for _ in range(40):
        user = random.choice(users)
        point = random.randrange(POINTS)
        text = await owner.fetchval("SELECT v::text FROM bench_points WHERE i = $1", point)
        vector = np.array([float(x) for x in text.strip("[]").split(",")], np.float32)
        truth = await owner.fetch(
            "SELECT memory_id FROM memory_embeddings WHERE user_id = $1 AND dimension = 384 "
            "ORDER BY (embedding <=> $2::text::halfvec) + 0 LIMIT 10", user, text,
        )  # fmt: skip
        async with db.transaction(tenant=user) as conn:
            found = await near.nearest(
                conn, user_id=user, model=model, vector=vector, max_count=search.NEAREST
            )
        shares.append(len({r["memory_id"] for r in truth} & set(found[:10])) / 10)
    return statistics.mean(shares)


async def write(memories: Memories, user: UUID) -> None:
    """Print how fast memories are added, and how soon they are found."""
    began = time.perf_counter()
    for n in range(20):
        batch = [NewMemory(f"Batch {n} item {m} {uuid4().hex}", speaker="Ada") for m in range(100)]
        await memories.add(user_id=user, memories=batch)
    print(f"added in batches of 100: {2_000 / (time.perf_counter() - began):,.0f} a second")
    added, found = [], []
    for _ in range(50):
        word = f"word{uuid4().hex}"
        began = time.perf_counter()
        await memories.add(user_id=user, memories=[NewMemory(f"Remember {word} please")])
        added.append((time.perf_counter() - began) * 1000)
        answer = await memories.search(user_id=user, query=word, max_count=1)
        found.append((time.perf_counter() - began) * 1000)
        assert word in answer.hits[0].memory.content
    print(f"one at a time: p50 {statistics.median(added):.1f} ms to add, "
          f"{statistics.median(found):.1f} ms until a search has found it")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=300)
    args = parser.parse_args()
    asyncio.run(run(args.memories, args.users, args.questions))


if __name__ == "__main__":
    main()
