"""Search among many memories of users of very unequal size.

    make bench-memory-scale [ARGS="--short --keep DIR"]

Rows are made inside PostgreSQL (sizes of users fall as 1/rank; conversations of 20; words are drawn
unevenly from 20,000; vectors lie around 2,000 points), then asked through the search verb. With
`--keep DIR` they stay there and the next run of as many begins with the questions. On a busy
machine believe the columns of CPU.
"""

import argparse
import asyncio
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np

from bench.machine import facts
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Database, PoolLimits, Role, connect
from helix.core.instance import lock_home, make_home
from helix.memory import Memories, MemoryId, NewMemory, build_indexes, near, search
from helix.operations import EmbeddedPostgres, upgrade
from helix.retrieval import Vectors, make_model

Array = np.ndarray[Any, np.dtype[Any]]
POINTS = 2_000
WORDS_EACH = 12
TURNS_EACH = 20
OPTIONS = {
    "shared_buffers": "2GB", "maintenance_work_mem": "1GB", "max_wal_size": "8GB",
    "work_mem": "64MB",
}  # fmt: skip

MAKE = (
    "SET session_replication_role = replica",  # no triggers, no foreign keys: they are not measured
    "SET synchronous_commit = off",
    "DROP INDEX memories_content_idx, memory_search_terms_idx, memory_search_conversation_idx",
    """CREATE UNLOGGED TABLE bench_points AS
    SELECT i, l2_normalize((SELECT array_agg(random() - 0.5 + 0 * i * j)
                            FROM generate_series(1, 384) AS j)::real[]::vector(384)) AS v
    FROM generate_series(0, $points * 2 - 1) AS i""",
    """CREATE UNLOGGED TABLE bench_users AS
    SELECT r AS rank, gen_random_uuid() AS id,
           greatest(1, ($memories / (r * (ln($users) + 0.5772)))::integer) AS size
    FROM generate_series(1, $users) AS r""",
    """INSERT INTO users (id, email, password_hash)
    SELECT id, rank || '@bench.invalid', '!' FROM bench_users""",
    """CREATE UNLOGGED TABLE bench_rows AS
    SELECT uuidv7() AS id, u.id AS user_id, row_number() OVER () AS n,
           md5(u.rank || '-' || s / $turns)::uuid AS conversation_id,
           ARRAY(SELECT (20000 * random() ^ 3 + 0 * s + 0 * w)::integer
                 FROM generate_series(1, $words) AS w) AS words
    FROM bench_users AS u CROSS JOIN LATERAL generate_series(1, u.size) AS s""",
    """CREATE UNLOGGED TABLE bench_words AS
    SELECT w, ((crc32(convert_to('w' || w, 'UTF8')) + 2147483648) % 4294967296
               - 2147483648)::integer AS term
    FROM generate_series(0, 20000) AS w""",
    """INSERT INTO memories (id, user_id, conversation_id, content, valid_from)
    SELECT id, user_id, conversation_id, 'w' || array_to_string(words, ' w'),
           now() - interval '400 days' + n * interval '1 second' FROM bench_rows
    ON CONFLICT DO NOTHING""",
    """INSERT INTO memory_search (memory_id, user_id, conversation_id, memory_type, valid_from,
                                   terms, version)
    SELECT r.id, r.user_id, r.conversation_id, 'fact',
           now() - interval '400 days' + r.n * interval '1 second', t.terms, 1
    FROM (SELECT x.id, array_agg(w.term ORDER BY x.place) AS terms
          FROM (SELECT id, word, place
                FROM bench_rows, unnest(words) WITH ORDINALITY AS u (word, place)) AS x
          JOIN bench_words AS w ON w.w = x.word GROUP BY x.id) AS t
    JOIN bench_rows AS r USING (id) ORDER BY r.n""",
    """INSERT INTO memory_embeddings (memory_id, embedding_config_id, dimension, user_id, embedding)
    SELECT r.id, $config, 384, r.user_id, l2_normalize(a.v + b.v)::halfvec
    FROM bench_rows AS r
    JOIN bench_points AS a ON a.i = (r.n * 7919) % $points
    JOIN bench_points AS b ON b.i = $points + (r.n * 104729) % ($points - 1)
    ORDER BY r.n""",
    "$indexes",
    "DROP TABLE bench_rows, bench_words",
    "VACUUM ANALYZE",
    "CHECKPOINT",
)  # fmt: skip


class Given:
    """An embedder whose cost is not measured: of a question the vector it was given, else any."""

    provider, model, dimension = "bench", "points-384", 384

    def __init__(self) -> None:
        self.vector: Array = np.zeros(384, np.float32)

    async def embed(self, texts: Sequence[str], *, user_id: UUID) -> Array:
        """Return the given vector for one text, for several any."""
        if len(texts) == 1:
            return self.vector[None]
        vectors = np.random.default_rng(len(texts)).normal(size=(len(texts), self.dimension))
        return vectors.astype(np.float32)


async def make(url: str, config: UUID, memories: int, users: int) -> None:
    """Fill the database."""
    owner = await connect(url)
    indexes = await owner.fetchval(
        "SELECT string_agg(pg_get_indexdef(i::regclass), '; ') FROM unnest($1::text[]) AS i",
        ["memories_content_idx", "memory_search_terms_idx", "memory_search_conversation_idx"],
    )
    for template in MAKE:
        statement, began = template, time.perf_counter()
        for name, value in (
            ("$memories", str(memories)), ("$users", str(users)), ("$points", str(POINTS)),
            ("$words", str(WORDS_EACH)), ("$turns", str(TURNS_EACH)), ("$indexes", indexes),
            ("$config", f"'{config}'::uuid"),
        ):  # fmt: skip
            statement = statement.replace(name, value)
        await owner.execute(statement)
        print(f"{time.perf_counter() - began:7.1f} s  {statement.split('(')[0].split(' AS')[0]}")
    await owner.close()


@dataclass(frozen=True)
class Asked:
    """What searches took: ms on the clock each, ms of CPU on average, here and in PostgreSQL."""

    took: list[float]
    cpu_here: float
    cpu_postgres: float


async def cpu_of_backends(owner: Any) -> float:
    """Return the CPU seconds that PostgreSQL's connections of Helix have used."""
    rows = await owner.fetch(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'helix %'"
    )
    return sum(cpu_of_process(row["pid"]) for row in rows)


def cpu_of_process(pid: int) -> float:
    """Return the CPU seconds that a process of this machine has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def asked(
    memories: Memories, owner: Any, given: Given, users: Sequence[UUID], count: int
) -> Asked:
    """Ask for rows that are there, of users drawn from `users`."""
    questions = await questions_of(owner, users, count)
    before, here = await cpu_of_backends(owner), time.process_time()
    took = []
    for user, words, vector in questions:
        given.vector = vector
        found = await memories.search(user_id=user, query=words, max_count=10)
        took.append(found.took_ms)
    here = (time.process_time() - here) * 1000 / count
    return Asked(took, here, (await cpu_of_backends(owner) - before) * 1000 / count)


async def questions_of(
    owner: Any, users: Sequence[UUID], count: int
) -> list[tuple[UUID, str, Array]]:
    """Return questions: whose, four words of a memory that is there, and its vector."""
    questions = []
    for _ in range(count):
        user = random.choice(users)
        row = await owner.fetchrow(
            "SELECT m.content, e.embedding::text AS v FROM memories AS m "
            "JOIN memory_embeddings AS e ON e.memory_id = m.id WHERE m.user_id = $1 "
            "OFFSET floor(random() * least(200, (SELECT count(*) FROM memory_search "
            "WHERE user_id = $1))) LIMIT 1", user
        )  # fmt: skip
        vector = np.array([float(x) for x in row["v"].strip("[]").split(",")], np.float32)
        words = " ".join(random.sample(row["content"].split(), 4))
        questions.append((user, words, vector))
    return questions


def line(name: str, asked: Asked) -> None:
    """Print one row of the table."""
    ordered = sorted(asked.took)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(
        f"| {name:<26} | {len(ordered):>5} | {p50:>7.1f} | {p99:>7.1f} "
        f"| {asked.cpu_here:>7.1f} | {asked.cpu_postgres:>10.1f} |"
    )


async def run(total: int, users: int, count: int, keep: Path | None) -> None:
    """Make and index what is not there yet, ask, compare, write."""
    home = keep or Path(tempfile.mkdtemp(prefix="helix-bench-"))
    settings = load_settings({}, home=home)
    make_home(home)
    postgres = EmbeddedPostgres(settings, options=OPTIONS)
    try:
        with lock_home(home, "bench-memory-scale"):
            await measure(await postgres.start(), total, users, count)
    finally:
        await postgres.stop()
        if keep is None:
            shutil.rmtree(home, ignore_errors=True)


async def measure(url: str, total: int, users: int, count: int) -> None:
    """Print every table."""
    await upgrade(url)
    limits = {role: PoolLimits(kept=1, maximum=4, statement_timeout_ms=600_000) for role in Role}
    db, owner, given = Database(url, limits), await connect(url), Given()
    model = await make_model(db, given, user_id=uuid4())
    print(facts())
    await made(url, owner, model, total, users)
    rows = await owner.fetch("SELECT user_id, count(*) AS n FROM memory_search GROUP BY 1")
    sizes = {row["user_id"]: row["n"] for row in rows}
    large = [user for user, n in sizes.items() if n > search.EXACT_MAX]
    middle = [user for user, n in sizes.items() if 1_000 <= n <= search.EXACT_MAX]
    print(f"memories {sum(sizes.values())}, users {len(sizes)}, largest {max(sizes.values())}, "
          f"above {search.EXACT_MAX}: {len(large)}")  # fmt: skip
    memories = Memories(db, given, SystemClock())
    await asked(memories, owner, given, list(sizes), 30)
    print("\n| users drawn | asked | p50 ms | p99 ms | CPU here | CPU PostgreSQL |")
    print("|---|---|---|---|---|---|")
    line("any user alike", await asked(memories, owner, given, list(sizes), count))
    by_size = random.choices(list(sizes), weights=list(sizes.values()), k=count)
    line("by how much they remember", await asked(memories, owner, given, by_size, count))
    if middle:
        line("1,000 to 10,000 memories",
             await asked(memories, owner, given, middle, count // 3))  # fmt: skip
    if large:
        line("more than 10,000", await asked(memories, owner, given, large, count // 3))
        print(f"\nvector recall@10 above 10,000: {await recall(db, owner, model, large):.4f}")
        print(
            f"whole search, the same ten as when all is scored: "
            f"{await agreement(db, owner, given, large[-3:]):.4f}"
        )
    exact = [u for u in middle if sizes[u] > 3_000][:5] or middle[:5]
    if exact:
        print(f"vector recall@10 up to 10,000: {await recall(db, owner, model, exact):.4f}")
    print(
        "\n| written by | in batches, /s | vectors, /s | alone, p50 ms | found, p50 ms | p98 ms |"
    )
    print("|---|---|---|---|---|---|")
    by_rank = sorted(sizes, key=lambda user: -sizes[user])
    await write(memories, "a user of the middle", by_rank[len(by_rank) // 2])
    await write(memories, "the largest user", by_rank[0])
    await owner.close()
    await db.close()


async def made(url: str, owner: Any, model: Vectors, total: int, users: int) -> None:
    """Make what is to be searched, unless an earlier run has."""
    if await owner.fetchval("SELECT to_regclass('bench_made')") is not None:
        there = tuple(await owner.fetchrow("SELECT memories, users FROM bench_made"))
        if there != (total, users):
            raise SystemExit(f"the database kept is of {there[0]} memories, {there[1]} users")
        return
    await make(url, model.config_id, total, users)
    began = time.perf_counter()
    built = await build_indexes(owner)
    print(f"{time.perf_counter() - began:7.1f} s  {len(built)} indexes of large users")
    await owner.execute(f"CREATE TABLE bench_made AS SELECT {total} AS memories, {users} AS users")


async def recall(db: Database, owner: Any, model: Vectors, users: Sequence[UUID]) -> float:
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


async def agreement(db: Database, owner: Any, given: Given, users: Sequence[UUID]) -> float:
    """Return how many of the ten hits of scoring everything are among those of the search."""
    whole = Memories(db, given, SystemClock(), exact_max=10**9)
    part = Memories(db, given, SystemClock())
    shares = []
    for user, words, vector in await questions_of(owner, users, 20):
        given.vector = vector
        truth = await whole.search(user_id=user, query=words, max_count=10)
        found = await part.search(user_id=user, query=words, max_count=10)
        ids = {hit.memory.id for hit in found.hits}
        shares.append(sum(hit.memory.id in ids for hit in truth.hits) / len(truth.hits))
    return statistics.mean(shares)


async def write(memories: Memories, name: str, user: UUID) -> None:
    """Print how fast memories are added, and how soon they are found; leave none of them."""
    ids: list[MemoryId] = []
    began = time.perf_counter()
    for n in range(20):
        batch = [NewMemory(f"Batch {n} item {m} {uuid4().hex}", speaker="Ada") for m in range(100)]
        ids += [one.id for one in await memories.add(user_id=user, memories=batch)]
    rate = len(ids) / (time.perf_counter() - began)
    began = time.perf_counter()
    embedded = await memories.embed_missing(user_id=user)
    vectors = embedded / (time.perf_counter() - began)
    added, found = [], []
    for _ in range(50):
        word = f"word{uuid4().hex}"
        began = time.perf_counter()
        one = await memories.add(user_id=user, memories=[NewMemory(f"Remember {word} please")])
        ids.append(one[0].id)
        added.append((time.perf_counter() - began) * 1000)
        answer = await memories.search(user_id=user, query=word, max_count=1)
        found.append((time.perf_counter() - began) * 1000)
        assert word in answer.hits[0].memory.content, answer
    print(f"| {name:<20} | {rate:>14,.0f} | {vectors:>11,.0f} | {statistics.median(added):>13.1f} "
          f"| {statistics.median(found):>13.1f} | {sorted(found)[-2]:>6.1f} |")  # fmt: skip
    await memories.forget(user_id=user, ids=ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int)
    parser.add_argument("--short", action="store_true", help="100,000 memories and fewer questions")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep it there, or use it again")
    args = parser.parse_args()
    memories = args.memories or (100_000 if args.short else 1_000_000)
    questions = min(args.questions, 60) if args.short else args.questions
    random.seed(1)
    asyncio.run(run(memories, args.users, questions, args.keep))


if __name__ == "__main__":
    main()
