"""Evidence recall of memory search on conversations in LoCoMo's format.

    make bench-memory DATA=PATH [EMBEDDER=none]

Every turn is stored through the memory API into a PostgreSQL of this run's own, a user for each
conversation; every question is asked through the search verb with its text alone. What is found
is compared with the turns that answer it. Nothing is downloaded, and DATA is not kept.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from bench.locomo import CATEGORIES, Conversation, read
from bench.machine import facts
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Database, PoolLimits, Role, connect
from helix.core.instance import make_home
from helix.memory import Memories, NewMemory
from helix.operations import EmbeddedPostgres, upgrade
from helix.retrieval import choose_embedder

DEPTHS = (5, 10, 20)
ADVERSARIAL = 5
BATCH = 500


@dataclass(frozen=True)
class Answer:
    """What one question found: recall at each depth, one over the rank of the first hit, ms."""

    category: int
    recall: dict[int, float]
    reciprocal: float
    took_ms: float


async def store_turns(memories: Memories, user_id: UUID, talk: Conversation) -> dict[str, UUID]:
    """Remember every turn; return the memory of each, by its key."""
    sessions = {turn.session: uuid4() for turn in talk.turns}
    found: dict[str, UUID] = {}
    for at in range(0, len(talk.turns), BATCH):
        turns = talk.turns[at : at + BATCH]
        added = await memories.add(
            user_id=user_id,
            memories=[
                NewMemory(
                    turn.text.strip() or "…",
                    memory_type="event",
                    speaker=turn.speaker or None,
                    conversation_id=sessions[turn.session],
                    valid_from=turn.at,
                )
                for turn in turns
            ],
        )
        found.update({t.key: one.id for t, one in zip(turns, added, strict=True)})
    return found


async def ask_all(
    memories: Memories, user_id: UUID, talk: Conversation, place: dict[str, UUID]
) -> list[Answer]:
    """Ask every question and compare."""
    answers = []
    for probe in talk.probes:
        right = {place[key] for key in probe.evidence}
        found = await memories.search(user_id=user_id, query=probe.question, max_count=max(DEPTHS))
        ids = [hit.memory.id for hit in found.hits]
        first = next((n for n, i in enumerate(ids, start=1) if i in right), None)
        answers.append(
            Answer(
                probe.category,
                {k: len(right & set(ids[:k])) / len(right) for k in DEPTHS},
                0.0 if first is None else 1 / first,
                found.took_ms,
            )
        )
    return answers


def report(answers: Sequence[Answer], skipped: int) -> None:
    """Print the table and, last, the figure."""
    print(f"\n{'category':<22}{'questions':>10}", end="")
    print("".join(f"{f'recall@{k}':>11}" for k in DEPTHS), f"{'MRR':>7}")
    honest = [a for a in answers if a.category != ADVERSARIAL]
    rows = [
        (f"{n} {name}", [a for a in answers if a.category == n]) for n, name in CATEGORIES.items()
    ]
    rows += [
        (f"{n} (unnamed)", [a for a in answers if a.category == n])
        for n in sorted({a.category for a in answers} - CATEGORIES.keys())
    ]
    for name, some in [*rows, ("all but adversarial", honest)]:
        if some:
            shown = "".join(f"{statistics.mean(a.recall[k] for a in some):>11.4f}" for k in DEPTHS)
            mrr = statistics.mean(a.reciprocal for a in some)
            print(f"{name:<22}{len(some):>10}{shown} {mrr:>7.4f}")
    times = sorted(a.took_ms for a in answers)
    p50, p99 = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]
    print(f"\nquestions counted {len(answers)}, without a known turn as evidence {skipped}")
    print(f"search without the embedding of the question: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    mean = statistics.mean(a.recall[10] for a in honest) if honest else 0.0
    print(f"recall@10={mean:.4f}")


async def run(data: Path, embedder_name: str) -> None:
    """Start a database, store, embed, ask, report."""
    talks = read(data)
    home = Path(tempfile.mkdtemp(prefix="helix-bench-"))
    settings = load_settings({}, home=home, embedder=embedder_name)
    embedder = choose_embedder(settings)
    make_home(home)
    postgres = EmbeddedPostgres(settings)
    try:
        url = await postgres.start()
        await upgrade(url)
        limits = {role: PoolLimits(kept=1, maximum=4, acquire_timeout_s=30) for role in Role}
        db = Database(url, limits)
        memories = Memories(db, embedder, SystemClock())
        print(facts())
        print(f"embedder: {'none' if embedder is None else embedder.model}")
        print(f"conversations {len(talks)}, turns {sum(len(t.turns) for t in talks)}")
        answers: list[Answer] = []
        stored_s = embedded_s = 0.0
        for talk in talks:
            user_id = await make_user(url, talk.name)
            began = time.perf_counter()
            place = await store_turns(memories, user_id, talk)
            stored_s += time.perf_counter() - began
            began = time.perf_counter()
            await memories.embed_missing(user_id=user_id)
            embedded_s += time.perf_counter() - began
            answers += await ask_all(memories, user_id, talk, place)
        print(f"stored in {stored_s:.1f} s, embedded in {embedded_s:.1f} s")
        await db.close()
        report(answers, sum(talk.skipped for talk in talks))
    finally:
        await postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


async def make_user(url: str, name: str) -> UUID:
    """Make a user to remember for."""
    owner = await connect(url)
    try:
        return UUID(
            str(
                await owner.fetchval(
                    "INSERT INTO users (email, password_hash) VALUES ($1, '!') RETURNING id",
                    f"{uuid4().hex}-{name[:40]}@bench.invalid",
                )
            )
        )
    finally:
        await owner.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a file in LoCoMo's format")
    default = os.environ.get("EMBEDDER") or "auto"
    parser.add_argument("--embedder", choices=["auto", "local", "none"], default=default)
    args = parser.parse_args()
    asyncio.run(run(args.data, args.embedder))


if __name__ == "__main__":
    main()
