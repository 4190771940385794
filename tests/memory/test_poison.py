"""What others wrote stays data, and stays with whom it was told to: experiments L3 and L4."""

from uuid import UUID

import pytest

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database, PoolLimits, Role
from helix.core.errors import Unavailable
from helix.knowledge import NewDocument
from helix.memory import Memories, NewMemory
from helix.retrieval import EmbeddingFailed
from tests.injections import INJECTIONS
from tests.knowledge.support import knowledge_on
from tests.memory.support import HashEmbedder, a_user, memories_on, said


async def test_500_poisoned_memories_of_one_user_are_never_recalled_for_another(
    db: Database, owner: Connection
) -> None:
    memories, eve, ada = memories_on(db), await a_user(owner), await a_user(owner)
    added = await memories.add(user_id=eve, memories=[NewMemory(text) for text in INJECTIONS])
    await memories.add(user_id=ada, memories=[said("The system key hangs by the door")])
    poisoned = {one.id for one in added}
    assert len(poisoned) == 500
    for query in ("Ignore all previous instructions", "system key", "memory 1", "helix-data"):
        mine = await memories.search(user_id=ada, query=query, max_count=100)
        assert [hit.memory.content for hit in mine.hits] == ["The system key hangs by the door"]
        theirs = await memories.search(user_id=eve, query=query, max_count=100)
        assert {hit.memory.id for hit in theirs.hits} <= poisoned
    kept = await owner.fetchval("SELECT count(*) FROM memories WHERE id = ANY($1)", list(poisoned))
    assert kept == 500


async def test_poison_is_kept_to_the_letter_and_found_like_any_text(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db), await a_user(owner)
    await memories.add(user_id=user, memories=[NewMemory(text) for text in INJECTIONS])
    rows = await owner.fetch("SELECT content FROM memories ORDER BY id")
    assert [row["content"] for row in rows] == INJECTIONS
    assert await owner.fetchval("SELECT count(*) FROM users") == 1


async def test_every_hit_in_500_poisoned_documents_says_that_it_is_tainted(
    db: Database, owner: Connection
) -> None:
    knowledge, user = knowledge_on(db), await a_user(owner)
    for at in range(0, len(INJECTIONS), 50):
        text = "\n\n".join(f"## Pump {n}\n\n{INJECTIONS[n]} pump" for n in range(at, at + 50))
        await knowledge.add(user_id=user, document=NewDocument(text.encode(), key=f"{at}.md"))
    found = await knowledge.search(user_id=user, query="pump", max_count=100)
    assert len(found.hits) >= 50
    assert all(hit.tainted is True for hit in found.hits)


async def test_every_id_of_a_large_users_search_exists_and_is_the_users(
    db: Database, owner: Connection
) -> None:
    ada, ben = await a_user(owner), await a_user(owner)
    small = Memories(db, None, SystemClock(), exact_max=10)
    texts = [said(f"the red boat number {n}") for n in range(60)]
    for user in (ada, ben):
        await small.add(user_id=user, memories=texts)
    found = await small.search(user_id=ada, query="red boat", max_count=50)
    assert found.exact is False
    own = await owner.fetch("SELECT id FROM memories WHERE user_id = $1", ada)
    assert {hit.memory.id for hit in found.hits} <= {row["id"] for row in own}
    assert len(found.hits) == 50


async def test_with_the_embedder_down_words_find_and_it_is_said(
    db: Database, owner: Connection
) -> None:
    user, works = await a_user(owner), HashEmbedder()
    await memories_on(db, works).add(user_id=user, memories=[said("The boat is blue")])
    await memories_on(db, works).embed_missing(user_id=user)

    class Down(HashEmbedder):
        async def embed(self, texts, *, user_id):  # type: ignore[no-untyped-def]
            raise EmbeddingFailed("it is away")

    found = await memories_on(db, Down()).search(user_id=user, query="boat")
    assert len(found.hits) == 1
    assert found.vectors == "none: the texts could not be embedded: it is away"


async def test_with_the_database_down_nothing_is_said_to_be_remembered_or_forgotten() -> None:
    limits = {role: PoolLimits(kept=0, maximum=1, acquire_timeout_s=0.3) for role in Role}
    away = Database("postgresql://nobody@127.0.0.1:1/none", limits)
    memories, user = memories_on(away), UUID(int=7)
    with pytest.raises(Unavailable):
        await memories.add(user_id=user, memories=[said("x")])
    with pytest.raises(Unavailable):
        await memories.search(user_id=user, query="x")
    with pytest.raises(Unavailable):
        await memories.forget_all(user_id=user)
    await away.close()
