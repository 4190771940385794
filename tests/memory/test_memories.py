"""Remembering and finding, through the domain on a real database, as a tenant."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID, uuid4

import pytest

from helix.core.db import Connection, Database, PoolLimits, Role
from helix.memory import (
    BadMemory,
    DuplicateMemory,
    Filters,
    MemoryId,
    MemoryNotFound,
    NewMemory,
    Patch,
    Use,
)
from tests.memory.support import HashEmbedder, a_user, contents, day, memories_on, said


async def test_a_memory_is_found_as_soon_as_it_is_added(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    await memories.add(user_id=user, memories=[said("The boat is blue"), said("Tea is warm")])
    assert (await contents(memories, user, "Which colour has the boat?"))[0] == "The boat is blue"


async def test_the_same_text_is_remembered_once(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    [first] = await memories.add(user_id=user, memories=[said("Ada likes tea")])
    again = await memories.add(
        user_id=user, memories=[said("Ada likes tea"), said("New"), said("New")]
    )
    assert [one.duplicate for one in again] == [True, False, True]
    assert again[0].id == first.id
    assert again[1].id == again[2].id
    assert len(await memories.list(user_id=user)) == 2


async def test_two_writers_of_the_same_text_make_one_memory(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db), await a_user(owner)
    results = await asyncio.gather(
        *(memories.add(user_id=user, memories=[said("Said at once")]) for _ in range(6))
    )
    assert sorted(r[0].duplicate for r in results) == [False, True, True, True, True, True]
    assert len({r[0].id for r in results}) == 1


async def test_nobody_finds_what_another_remembers(db: Database, owner: Connection) -> None:
    memories, ada, ben = memories_on(db), await a_user(owner), await a_user(owner)
    poison = "Ben's password is swordfish"
    [own] = await memories.add(user_id=ada, memories=[said(poison)])
    assert await contents(memories, ben, "What is Ben's password?") == []
    assert await memories.list(user_id=ben) == []
    with pytest.raises(MemoryNotFound):
        await memories.get(user_id=ben, memory_id=own.id)
    with pytest.raises(MemoryNotFound):
        await memories.change(user_id=ben, memory_id=own.id, patch=Patch(content="x"))
    assert (await memories.forget(user_id=ben, ids=[own.id])).ids == ()
    request = uuid4()
    assert await memories.used(user_id=ben, request_id=request, uses=[Use(own.id)]) == []
    assert (await memories.get(user_id=ada, memory_id=own.id)).content == poison


async def test_every_id_that_is_returned_exists(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    added = await memories.add(user_id=user, memories=[said(f"Number {n % 7}") for n in range(20)])
    for one in added:
        assert (await memories.get(user_id=user, memory_id=one.id)).id == one.id


async def test_a_bad_one_in_a_batch_adds_nothing(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    with pytest.raises(BadMemory):
        await memories.add(user_id=user, memories=[said("fine"), said("   ")])
    with pytest.raises(BadMemory):
        await memories.add(
            user_id=user, memories=[said("fine"), said("not mine", session_id=uuid4())]
        )
    assert await memories.list(user_id=user) == []


@pytest.mark.parametrize(
    "bad",
    [
        NewMemory("a\0b"),
        NewMemory("x", metadata={"deep": [{"\0": 1}]}),
        NewMemory("x", tags=("\ud800",)),
        NewMemory("x" * 100_001),
        NewMemory("x", valid_from=day("2026-02-01"), valid_to=day("2026-01-01")),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    db: Database, owner: Connection, bad: NewMemory
) -> None:
    memories, user = memories_on(db), await a_user(owner)
    with pytest.raises(BadMemory):
        await memories.add(user_id=user, memories=[bad])


async def test_what_is_over_needs_no_beginning(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    await memories.add(user_id=user, memories=[said("tea", valid_to=day("2021-01-01"))])
    (kept,) = await memories.list(user_id=user)
    assert (kept.valid_from, kept.valid_to) == (day("2021-01-01"), day("2021-01-01"))


async def test_filters_narrow_a_search(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    talk = uuid4()
    await memories.add(
        user_id=user,
        memories=[
            said("tea in London", agent_id="planner"),
            said("tea in Porto", memory_type="preference"),
            said("tea in Rome", conversation_id=talk),
            said("tea in Oslo", valid_from=day("2020-01-01"), valid_to=day("2021-01-01")),
        ],
    )

    async def found(filters: Filters) -> list[str]:
        return sorted(await contents(memories, user, "tea", filters=filters))

    assert await found(Filters(agent_id="planner")) == ["tea in London"]
    assert await found(Filters(memory_type="preference")) == ["tea in Porto"]
    assert await found(Filters(conversation_id=talk)) == ["tea in Rome"]
    assert await found(Filters(at=day("2020-06-01"))) == ["tea in Oslo"]
    assert await found(Filters()) == ["tea in London", "tea in Porto", "tea in Rome"]


async def test_every_hit_explains_its_score(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db, HashEmbedder()), await a_user(owner)
    await memories.add(user_id=user, memories=[said("Ada sails", "Ada"), said("Rain", "Ben")])
    await memories.embed_missing(user_id=user)
    found = await memories.search(user_id=user, query="Does Ada sail?")
    assert found.vectors == "hash-384"
    for hit in found.hits:
        assert sum(hit.parts.values()) == pytest.approx(hit.score, abs=5e-3)
    assert found.hits[0].parts["speaker"] > 0


async def test_search_works_and_says_so_without_vectors(db: Database, owner: Connection) -> None:
    user = await a_user(owner)
    plain, embedding = memories_on(db), memories_on(db, HashEmbedder())
    await plain.add(user_id=user, memories=[said("The boat is blue")])
    without = await plain.search(user_id=user, query="boat")
    before = await embedding.search(user_id=user, query="boat")
    assert await embedding.embed_missing(user_id=user) == 1
    after = await embedding.search(user_id=user, query="boat")
    assert without.vectors == "none: no embedder is set up"
    assert before.vectors == "none: nothing has a vector of this model yet"
    assert after.vectors == "hash-384"
    assert (before.unembedded, after.unembedded) == (1, 0)
    assert all(len(found.hits) == 1 for found in (without, before, after))


async def test_a_question_is_embedded_as_the_named_speaker_would_say_it(
    db: Database, owner: Connection
) -> None:
    embedder, user = HashEmbedder(), await a_user(owner)
    memories = memories_on(db, embedder)
    await memories.add(user_id=user, memories=[said("I sail", "Ada")])
    await memories.embed_missing(user_id=user)
    await memories.search(user_id=user, query="What does Ada's dog think of Ada?")
    assert embedder.asked[-1] == "What does my dog think of I?"


async def test_a_new_model_takes_over_while_search_goes_on(db: Database, owner: Connection) -> None:
    user = await a_user(owner)
    old, new = memories_on(db, HashEmbedder("old")), memories_on(db, HashEmbedder("new"))
    await old.add(user_id=user, memories=[said("The boat is blue"), said("Tea is warm")])
    await old.embed_missing(user_id=user)
    await new.add(user_id=user, memories=[said("Snow is cold")])
    assert (await contents(new, user, "the boat"))[0] == "The boat is blue"
    assert await new.embed_missing(user_id=user) == 3
    assert await new.embed_missing(user_id=user) == 0
    assert (await contents(new, user, "the boat"))[0] == "The boat is blue"
    assert (await contents(old, user, "the boat"))[0] == "The boat is blue"


async def test_a_changed_text_is_found_by_the_new_words_alone(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db, HashEmbedder()), await a_user(owner)
    added = await memories.add(
        user_id=user, memories=[said("Ada lives in Lisbon", "Ada"), said("Other")]
    )
    await memories.embed_missing(user_id=user)
    changed = await memories.change(
        user_id=user, memory_id=added[0].id, patch=Patch(content="Ada lives in Porto")
    )
    assert [e["name"] for e in changed.entities] == ["Ada", "Porto"]
    found = await memories.search(user_id=user, query="Porto Lisbon")
    assert "text" in found.hits[0].parts
    assert await owner.fetchval("SELECT count(*) FROM memory_embeddings") == 1
    left = "SELECT count(*) FROM memory_entities WHERE name = 'Lisbon'"
    assert await owner.fetchval(left) == 0
    with pytest.raises(DuplicateMemory):
        await memories.change(user_id=user, memory_id=added[0].id, patch=Patch(content="Other"))


async def test_uses_are_recorded_once_and_counted(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    a, b = await memories.add(user_id=user, memories=[said("alpha"), said("beta")])
    request, uses = uuid4(), [Use(b.id, 2.5), Use(a.id), Use(MemoryId(uuid4()))]
    assert await memories.used(user_id=user, request_id=request, uses=uses) == [b.id, a.id]
    assert await memories.used(user_id=user, request_id=request, uses=uses) == []
    by = await memories.uses_by(user_id=user, request_id=request)
    assert [(u["memory_id"], u["rank"], u["score"]) for u in by] == [
        (b.id, 1, 2.5),
        (a.id, 2, None),
    ]
    of = await memories.uses_of(user_id=user, memory_id=a.id)
    assert [u["request_id"] for u in of] == [request]
    assert (await memories.get(user_id=user, memory_id=a.id)).access_count == 1


async def test_what_a_search_hands_out_is_counted(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    [one] = await memories.add(user_id=user, memories=[said("alpha")])
    await memories.search(user_id=user, query="alpha")
    await memories.search(user_id=user, query="alpha")
    await memories.flush()
    kept = await memories.get(user_id=user, memory_id=one.id)
    assert (kept.access_count, kept.last_accessed is not None) == (2, True)


async def test_a_text_forgotten_while_it_is_embedded_gets_no_vector(
    db: Database, owner: Connection
) -> None:
    user = await a_user(owner)

    class Slow(HashEmbedder):
        async def embed(self, texts, *, user_id):  # type: ignore[no-untyped-def]
            await plain.forget(user_id=user, ids=[one.id])
            return await super().embed(texts, user_id=user_id)

    plain = memories_on(db)
    [one] = await plain.add(user_id=user, memories=[said("secret")])
    assert await memories_on(db, Slow()).embed_missing(user_id=user) == 0
    assert await owner.fetchval("SELECT count(*) FROM memory_embeddings") == 0


class Counted(Database):
    """A database that counts the transactions that were asked of it."""

    asked_for = 0

    @asynccontextmanager
    async def transaction(
        self, role: Role = Role.APP, *, tenant: UUID | None = None
    ) -> AsyncIterator[Connection]:
        self.asked_for += 1
        async with super().transaction(role, tenant=tenant) as conn:
            yield conn


async def test_only_a_search_that_learns_something_takes_a_second_transaction(
    database_url: str, owner: Connection
) -> None:
    db = Counted(database_url, {role: PoolLimits(kept=1, maximum=2) for role in Role})
    memories, user = memories_on(db, HashEmbedder()), await a_user(owner)
    await memories.add(user_id=user, memories=[said("I live in Porto", "Ada"), said("Hm", "Ben")])
    await memories.embed_missing(user_id=user)
    taken = []
    questions = ["Who lives in Porto?", "Who lives in Porto?", "Where does Ada live?"]
    for query in questions:
        before = db.asked_for
        found = await memories.search(user_id=user, query=query)
        assert found.hits[0].memory.content == "I live in Porto"
        taken.append(db.asked_for - before)
    await db.close()
    assert taken == [2, 1, 1]  # at first it looks for the model of the vectors


async def test_a_question_is_embedded_as_the_newest_speaker_would_say_it(
    db: Database, owner: Connection
) -> None:
    embedder, user = HashEmbedder(), await a_user(owner)
    memories = memories_on(db, embedder)
    await memories.add(user_id=user, memories=[said("I live in Porto", "Ada")])
    await memories.embed_missing(user_id=user)
    await memories.search(user_id=user, query="Where does Cleo live?")
    await memories.add(user_id=user, memories=[said("I live in Lyon", "Cleo")])
    await memories.embed_missing(user_id=user)
    embedder.asked.clear()
    later = await memories.search(user_id=user, query="Where does Cleo live?")
    assert embedder.asked == ["Where does Cleo live?", "Where does I live?"]
    fresh = await memories_on(db, embedder).search(user_id=user, query="Where does Cleo live?")
    assert [(h.memory.id, h.score, h.parts) for h in later.hits] == [
        (h.memory.id, h.score, h.parts) for h in fresh.hits
    ]
    assert later.hits[0].memory.content == "I live in Lyon"


async def test_what_was_just_written_is_not_behind_what_has_a_vector(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db, HashEmbedder()), await a_user(owner)
    told = [said(f"The locker of the gym has shelf {n}") for n in range(30)]
    await memories.add(user_id=user, memories=told)
    await memories.embed_missing(user_id=user)
    await memories.add(user_id=user, memories=[said("My locker code is seven four two")])
    found = await memories.search(user_id=user, query="What is the code of the gym locker?")
    assert found.unembedded == 1
    assert found.hits[0].memory.content == "My locker code is seven four two"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_a_time_that_could_not_be_read_again_is_refused(
    db: Database, owner: Connection, text: str
) -> None:
    memories, user, moment = memories_on(db), await a_user(owner), datetime.fromisoformat(text)
    for memory in (said("Long ago", valid_from=moment), said("Long ago", valid_to=moment)):
        with pytest.raises(BadMemory, match="years 1 to 9999"):
            await memories.add(user_id=user, memories=[memory])
    with pytest.raises(BadMemory, match="years 1 to 9999"):
        await memories.search(user_id=user, query="ago", filters=Filters(at=moment))
