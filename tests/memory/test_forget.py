"""Forgetting: no trace of a canary, exactly one user, and again after a restore."""

import json
import secrets
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database
from helix.memory import Memories, NewMemory, Patch, Sources, Use, apply_tombstones
from tests.factories import (
    insert,
    make_distributed_memory,
    make_memory_event,
)
from tests.memory.support import HashEmbedder, a_user, contents, memories_on, said


async def tables_with(owner: Connection, word: str) -> list[str]:
    """Return every table of the schema that has the word anywhere in a row, in any case."""
    names = await owner.fetch(
        "SELECT c.relname FROM pg_class AS c WHERE c.relkind IN ('r', 'p', 'm') "
        "AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    found = []
    for row in names:
        query = f'SELECT EXISTS (SELECT FROM "{row["relname"]}" AS t WHERE t::text ILIKE $1)'
        if await owner.fetchval(query, f"%{word}%"):
            found.append(row["relname"])
    return found


async def test_a_forgotten_canary_is_in_no_table(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db, HashEmbedder()), await a_user(owner)
    canary = f"Zq{secrets.token_hex(6)}"
    near = [f"My friend {canary} loves sailing", f"My friend {canary} loves sailing today"]
    added = await memories.add(
        user_id=user,
        memories=[
            said(near[0], canary, tags=(canary,), metadata={"k": canary}),
            said(near[1], canary),
            said("Ben lives in Rome", "Ben"),
        ],
    )
    await memories.embed_missing(user_id=user)
    await memories.used(user_id=user, request_id=uuid4(), uses=[Use(added[0].id, 1.0)])
    await memories.audit(user_id=user, apply=True)  # merges the two
    shared = await make_distributed_memory(
        owner, id=added[1].id, user_id=user, content=canary, tags=[canary]
    )
    await make_memory_event(owner, shared, content=canary, tags=[canary])
    assert len(await tables_with(owner, canary)) >= 4
    erased = list((await memories.forget(user_id=user, ids=[added[1].id])).ids)
    assert sorted(erased) == sorted([added[0].id, added[1].id])
    assert await tables_with(owner, canary) == []
    terms = "SELECT count(*) FROM memory_search WHERE memory_id = ANY($1)"
    assert await owner.fetchval(terms, erased) == 0
    vectors = "SELECT count(*) FROM memory_embeddings WHERE memory_id = ANY($1)"
    assert await owner.fetchval(vectors, erased) == 0
    assert await contents(memories, user, canary) == ["Ben lives in Rome"]


async def test_entities_others_speak_of_stay(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    [first, _] = await memories.add(
        user_id=user, memories=[said("Ada visited Rome"), said("Ben visited Rome")]
    )
    await memories.forget(user_id=user, ids=[first.id])
    rows = await owner.fetch("SELECT name, mention_count FROM memory_entities ORDER BY name")
    assert [(r["name"], r["mention_count"]) for r in rows] == [("Ben", 1), ("Rome", 1)]


async def test_forgetting_all_of_one_user_touches_no_other(db: Database, owner: Connection) -> None:
    memories, ada, ben = memories_on(db), await a_user(owner), await a_user(owner)
    for user in (ada, ben):
        await memories.add(
            user_id=user, memories=[said(f"Fact {n} of Rome", "Eve") for n in range(5)]
        )
    kept = "SELECT count(*) FROM {} WHERE user_id = $1"
    names = ("memories", "memory_search", "memory_entities", "memory_entity_mentions")
    before = [await owner.fetchval(kept.format(name), ben) for name in names]
    assert await memories.forget_all(user_id=ada) == (5, 0)
    assert [await owner.fetchval(kept.format(name), ada) for name in names] == [0, 0, 0, 0]
    assert [await owner.fetchval(kept.format(name), ben) for name in names] == before


async def test_what_was_forgotten_is_erased_again_from_a_restored_backup(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db), await a_user(owner)
    [one, _] = await memories.add(user_id=user, memories=[said("secret"), said("plain")])
    await memories.forget(user_id=user, ids=[one.id])
    since = await owner.fetchval("SELECT now() - interval '1 hour'")
    listed = await memories.tombstones(since=since)
    assert [(m, u) for m, u, _ in listed] == [(one.id, user)]
    # The backup brings the row back, and has not the tombstone.
    await insert(owner, "memories", id=one.id, user_id=user, content="secret")
    await owner.execute("DELETE FROM memory_tombstones")
    pairs = [(m, u) for m, u, _ in listed]
    assert await apply_tombstones(owner, tombstones=pairs) == 1
    assert await apply_tombstones(owner, tombstones=pairs) == 0
    assert [m.content for m in await memories.list(user_id=user)] == ["plain"]
    assert await owner.fetchval("SELECT memory_id FROM memory_tombstones") == one.id


async def test_what_memories_were_drawn_from_is_erased_first_when_asked(
    db: Database, owner: Connection
) -> None:
    user, talk, answer = await a_user(owner), uuid4(), uuid4()
    told: list[tuple[UUID, Sources | None]] = []

    async def erase(of: UUID, sources: Sources | None) -> list[UUID]:
        told.append((of, sources))
        return [talk]

    memories = Memories(db, None, SystemClock(), erase_content=erase)
    texts = [NewMemory(t, conversation_id=talk, source_response_id=answer) for t in ("x", "y")]
    [one, other] = await memories.add(user_id=user, memories=texts)
    kept = await memories.forget(user_id=user, ids=[one.id])
    assert (kept.ids, kept.conversations_kept, told) == ((one.id,), (talk,), [])
    gone = await memories.forget(user_id=user, ids=[other.id], sources=True)
    assert (gone.ids, gone.conversations_erased, gone.conversations_kept) == (
        (other.id,), (talk,), (),
    )  # fmt: skip
    assert told == [(user, Sources((talk,), (answer,)))]
    assert await memories.forget_all(user_id=user, sources=True) == (0, 1)
    assert told[-1] == (user, None)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "change", "audit", "undo", "use"]), st.integers(0, 3)),
        max_size=8,
    )
)
async def test_whatever_was_done_before_forgetting_leaves_no_canary(
    db: Database, owner: Connection, steps: list[tuple[str, int]]
) -> None:
    memories, user = memories_on(db, HashEmbedder()), await a_user(owner)
    canary = f"Zq{secrets.token_hex(6)}"
    texts = [f"{canary} likes tea and toast in Rome number {n}" for n in range(4)]
    await memories.add(user_id=user, memories=[said("Nothing special here")])
    for verb, n in steps:
        own = [m for m in await memories.list(user_id=user, merged=True) if canary in m.content]
        if verb == "add":
            await memories.add(user_id=user, memories=[said(texts[n], canary)])
        elif verb == "audit":
            await memories.audit(user_id=user, apply=True)
        elif verb == "undo":
            batch = await owner.fetchval(
                "SELECT batch_id FROM memory_changes WHERE user_id = $1 AND undone_at IS NULL "
                "ORDER BY id DESC LIMIT 1", user,
            )  # fmt: skip
            if batch is not None:
                await memories.undo(user_id=user, batch_id=batch)
        elif own and verb == "use":
            use = [Use(own[n % len(own)].id)]
            await memories.used(user_id=user, request_id=uuid4(), uses=use)
        elif own and verb == "change":
            one = own[n % len(own)]
            patch = Patch(metadata={"note": canary}, tags=(canary,))
            await memories.change(user_id=user, memory_id=one.id, patch=patch)
        await memories.embed_missing(user_id=user)
    own = [m for m in await memories.list(user_id=user, merged=True) if canary in m.content]
    await memories.forget(user_id=user, ids=[m.id for m in own])
    assert await tables_with(owner, canary) == []
    left = json.dumps(
        [dict(r) for r in await owner.fetch("SELECT memory_id FROM memory_search")], default=str
    )
    assert not any(str(m.id) in left for m in own)
