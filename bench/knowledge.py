"""Knowledge: how fast documents are added, and how fast their chunks are found.

    make bench-knowledge [ARGS="--documents 1000 --embedder local"]

Documents of some 2,000 words are made of sentences over 5,000 words of unequal frequency, added
through the verb (read in the confined child, cut, kept), embedded if there is an embedder, and
asked for by words of theirs; all in a PostgreSQL of this run's own.
"""

import argparse
import asyncio
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

from bench.machine import facts
from bench.memory import make_user
from helix.core.clock import SystemClock
from helix.core.config import load_settings
from helix.core.db import Database, PoolLimits, Role
from helix.core.instance import make_home
from helix.knowledge import Knowledge, MediaType, NewDocument, chunking_of
from helix.operations import EmbeddedPostgres, upgrade
from helix.retrieval import choose_embedder

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "io", "ou") for c in
         ("lin", "ter", "mos", "rak", "sun", "vel", "dor", "pin", "gat", "hul", "ner", "kos",
          "bri", "zan", "tik", "rum", "fol", "wes", "yal", "qui")]  # fmt: skip
SENTENCES = 160


def document(draw: random.Random, number: int) -> str:
    """Return a Markdown document of ten sections."""
    lines = [f"# Manual {number}"]
    for at in range(SENTENCES):
        if at % 16 == 0:
            lines.append(f"\n## Section {at // 16} on {draw.choice(WORDS)}\n")
        words = [WORDS[int(len(WORDS) * draw.random() ** 2)] for _ in range(12)]
        lines.append(" ".join(words).capitalize() + ".")
    return "\n".join(lines)


async def run(count: int, questions: int, embedder_name: str) -> None:
    """Add, embed, ask, print."""
    home = Path(tempfile.mkdtemp(prefix="helix-bench-"))
    settings = load_settings({}, home=home, embedder=embedder_name)
    make_home(home)
    postgres = EmbeddedPostgres(settings)
    draw = random.Random(1)
    try:
        url = await postgres.start()
        await upgrade(url)
        limits = {role: PoolLimits(kept=1, maximum=4, acquire_timeout_s=30) for role in Role}
        db = Database(url, limits)
        knowledge = Knowledge(
            db, choose_embedder(settings), SystemClock(), chunking=chunking_of(settings)
        )
        user_id = await make_user(url, "knowledge")
        texts = [document(draw, number) for number in range(count)]
        print(facts())
        await add(knowledge, user_id, texts)
        began = time.perf_counter()
        embedded = await knowledge.embed_missing(user_id=user_id)
        took_s = time.perf_counter() - began
        if embedded:
            print(
                f"embedded {embedded} chunks in {took_s:.1f} s: {embedded / took_s:,.0f} a second"
            )
        await ask(knowledge, user_id, texts, draw, questions)
        await db.close()
    finally:
        await postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


async def add(knowledge: Knowledge, user_id: UUID, texts: list[str]) -> None:
    """Add every document and print the rate."""
    began, chunks = time.perf_counter(), 0
    for number, text in enumerate(texts):
        added = await knowledge.add(
            user_id=user_id,
            document=NewDocument(text.encode(), MediaType.MARKDOWN, key=f"manual/{number}"),
        )
        chunks += added.chunks
    took_s = time.perf_counter() - began
    size = sum(len(text) for text in texts) / 1e6
    print(
        f"added {len(texts)} documents, {chunks} chunks, {size:.1f} MB in {took_s:.1f} s: "
        f"{len(texts) / took_s:.1f} documents, {chunks / took_s:,.0f} chunks a second"
    )


async def ask(
    knowledge: Knowledge, user_id: UUID, texts: list[str], draw: random.Random, questions: int
) -> None:
    """Ask for words of a sentence; print times, and how often its document came first."""
    took, right, considered = [], 0, 0
    for _ in range(questions):
        number = draw.randrange(len(texts))
        sentences = [line for line in texts[number].splitlines() if line.endswith(".")]
        words = draw.choice(sentences).lower().rstrip(".").split()
        query = " ".join(draw.sample(words, 6))
        found = await knowledge.search(user_id=user_id, query=query)
        took.append(found.took_ms)
        considered = found.considered
        right += bool(found.hits) and found.hits[0].document.key == f"manual/{number}"
    took.sort()
    print(
        f"search among {considered} chunks: p50 {statistics.median(took):.1f} ms, "
        f"p99 {took[min(len(took) - 1, len(took) * 99 // 100)]:.1f} ms; "
        f"the right document first in {right} of {questions}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--embedder", choices=["auto", "local", "none"], default="none")
    args = parser.parse_args()
    asyncio.run(run(args.documents, args.questions, args.embedder))


if __name__ == "__main__":
    main()
