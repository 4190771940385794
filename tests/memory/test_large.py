"""A user with more memories than are scored one by one."""

from uuid import UUID, uuid4

import numpy as np

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database, Role
from helix.memory import Filters, Memories, build_indexes, near, store
from helix.retrieval import Vectors, make_model, term_number
from tests.memory.support import HashEmbedder, a_user, day, memories_on, said


async def many(db: Database, owner: Connection) -> tuple[UUID, Vectors]:
    user, embedder = await a_user(owner), HashEmbedder()
    memories = memories_on(db, embedder)
    words = "boat tea snow dog lamp road song map bird coin".split()
    texts = [f"{words[n % 10]} {words[n // 10 % 10]} item{n}" for n in range(300)]
    await memories.add(user_id=user, memories=[said(text) for text in texts])
    await memories.embed_missing(user_id=user)
    return user, await make_model(db, embedder, user_id=user)


async def test_a_part_gives_what_the_whole_gives(db: Database, owner: Connection) -> None:
    user, _ = await many(db, owner)
    memories = memories_on(db, HashEmbedder())
    exact = await memories.search(user_id=user, query="boat item210")
    small = Memories(db, HashEmbedder(), SystemClock(), exact_max=50)
    part = await small.search(user_id=user, query="boat item210")
    assert (exact.exact, part.exact) == (True, False)
    assert part.hits[0].memory.id == exact.hits[0].memory.id
    same = {h.memory.id for h in exact.hits} & {h.memory.id for h in part.hits}
    assert len(same) >= 8
    assert part.considered < exact.considered


async def test_a_large_user_gets_an_index_of_its_own_and_is_found_by_it(
    db: Database, owner: Connection
) -> None:
    user, model = await many(db, owner)
    vector = (await HashEmbedder().embed(["boat item210"], user_id=user))[0]

    async def found() -> list[UUID]:
        async with db.transaction(tenant=user) as conn:
            return await near.nearest(conn, user_id=user, model=model, vector=vector, max_count=10)

    exact = await found()
    built = await build_indexes(owner, more_than=200)
    assert len(built) == 1
    assert await build_indexes(owner, more_than=200) == []
    await owner.execute("ANALYZE memory_embeddings_384")
    await owner.execute("SET enable_sort = off")
    plan = "\n".join(
        row[0]
        for row in await owner.fetch(
            "EXPLAIN SELECT memory_id FROM memory_embeddings WHERE user_id = "
            f"'{user}' AND embedding_config_id = '{model.config_id}' AND dimension = 384 "
            f"ORDER BY embedding::halfvec(384) <=> '{store.vector_text(vector)}'::halfvec(384) "
            "LIMIT 10"
        )
    )
    assert built[0] in plan
    assert len(set(await found()) & set(exact)) >= 9
    await memories_on(db).forget_all(user_id=user)
    await build_indexes(owner, more_than=200)
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'memory_embeddings_hnsw_%'"
    assert await owner.fetchval(left) == 0


async def test_exact_search_finds_what_arithmetic_finds(db: Database, owner: Connection) -> None:
    user, model = await many(db, owner)
    rows = await owner.fetch(
        "SELECT memory_id, embedding::vector::text AS v FROM memory_embeddings"
    )
    kept = np.array([np.fromstring(r["v"].strip("[]"), sep=",") for r in rows])
    for n in range(5):
        vector = (await HashEmbedder().embed([f"tea snow item{n * 37}"], user_id=user))[0]
        order = np.argsort(-(kept @ vector) / np.linalg.norm(kept, axis=1), kind="stable")
        async with db.transaction(tenant=user) as conn:
            found = await near.nearest(conn, user_id=user, model=model, vector=vector, max_count=1)
        assert found == [rows[order[0]]["memory_id"]]


async def test_words_are_looked_up_by_an_index_that_holds_one_tenants_rows(
    db: Database, owner: Connection
) -> None:
    user, _ = await many(db, owner)
    statement = store.QUERIES["word_candidates"]
    values = {
        "terms": [store.signed(term_number("boat"))],
        "user_id": user,
        "per_term": 5,
        "total": 300,
        "common_max": 5,
        "per_pair": 5,
        "most": 5,
    }
    async with db.transaction(Role.OPERATOR) as conn:
        await conn.execute("SET LOCAL enable_seqscan = off")
        rows = await conn.fetch(f"EXPLAIN {statement.sql}", *statement.arguments(values))
    plan = "\n".join(row[0] for row in rows)
    assert "memory_search_terms_idx" in plan
    assert "memory_search_user_id_idx" not in plan


async def test_a_narrow_filter_of_a_large_user_is_searched_whole(
    db: Database, owner: Connection
) -> None:
    user, _ = await many(db, owner)
    talk, small = uuid4(), Memories(db, HashEmbedder(), SystemClock(), exact_max=50)
    memories = memories_on(db, HashEmbedder())
    texts = [f"boat tea snow dog lamp turn{n}" for n in range(20)]
    await memories.add(user_id=user, memories=[said(t, conversation_id=talk) for t in texts])
    await memories.embed_missing(user_id=user)
    only = Filters(conversation_id=talk)
    found = await small.search(user_id=user, query="turn7 boat", filters=only, max_count=30)
    assert (found.exact, found.considered, found.unembedded) == (True, 20, 0)
    assert found.hits[0].memory.content.endswith("turn7")
    before = Filters(at=day("2020-01-01"))
    assert (await small.search(user_id=user, query="boat", filters=before)).hits == []


async def test_a_user_who_grows_large_is_searched_by_candidates_from_then_on(
    db: Database, owner: Connection
) -> None:
    user, memories = await a_user(owner), memories_on(db)
    small = Memories(db, None, SystemClock(), exact_max=50)
    await memories.add(user_id=user, memories=[said(f"boat item{n}") for n in range(40)])
    assert (await small.search(user_id=user, query="boat item7")).exact is True
    await memories.add(user_id=user, memories=[said(f"snow item{n}") for n in range(40)])
    found = await small.search(user_id=user, query="boat item7")
    assert found.exact is False
    assert found.hits[0].memory.content == "boat item7"
