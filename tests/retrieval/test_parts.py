"""Cutting long texts: every sentence is in a part, no part is longer than is read."""

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from helix.core.db import Connection, Database
from helix.retrieval import PARTS_MAX, parts_of
from tests.memory.support import HashEmbedder, a_user, memories_on, said


def test_a_short_text_is_one_part() -> None:
    assert parts_of("I live in Lisbon.") == ["I live in Lisbon."]
    assert parts_of("x" * 1_200) == ["x" * 1_200]


def test_a_long_text_is_cut_between_sentences() -> None:
    sentences = [f"Sentence number {n} of a long answer." for n in range(200)]
    parts = parts_of(" ".join(sentences))
    assert len(parts) > 5
    assert all(len(part) <= 1_000 for part in parts)
    assert " ".join(parts) == " ".join(sentences)


def test_a_text_without_sentences_is_cut_where_a_part_is_full() -> None:
    assert [len(part) for part in parts_of("a" * 2_500)] == [1_000, 1_000, 500]


def test_there_are_at_most_32_parts() -> None:
    assert len(parts_of("word " * 100_000)) == PARTS_MAX == 32


@given(st.text(st.sampled_from("ab .\n!?"), max_size=6_000))
def test_parts_hold_the_text_in_order(text: str) -> None:
    parts = parts_of(text)
    assert parts
    assert all(len(part) <= 1_200 for part in parts)
    joined = "".join("".join(parts).split())
    assert joined == "".join(text.split())


async def test_a_fact_deep_in_a_long_text_is_found_by_its_part(
    db: Database, owner: Connection
) -> None:
    user, embedder = await a_user(owner), HashEmbedder()
    memories = memories_on(db, embedder)
    filler = " ".join(f"General advice of every kind, number {n}." for n in range(120))
    deep = f"{filler} Your locker code is seven four two. {filler}"
    await memories.add(user_id=user, memories=[said(deep), said("A note of no importance")])
    assert await memories.embed_missing(user_id=user) == 2
    rows = await owner.fetch("SELECT memory_id, part FROM memory_embeddings ORDER BY 1, 2")
    assert [row["part"] for row in rows][:3] == [0, 1, 2]
    assert len(rows) == len(parts_of(deep)) + 1
    found = await memories.search(user_id=user, query="locker code")
    assert found.unembedded == 0
    vector = (await embedder.embed(["locker code"], user_id=uuid4()))[0]
    best = max(
        float(vector @ part) for part in await embedder.embed(parts_of(deep), user_id=uuid4())
    )
    told = found.hits[0].parts["dense"]
    others = [hit.parts.get("dense", 0.0) for hit in found.hits[1:]]
    assert best > 0
    assert all(told > other for other in others)
