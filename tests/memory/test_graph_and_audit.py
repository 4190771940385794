"""The graph of what memories speak of, and what an audit mends and takes back."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from helix.core.db import Connection, Database
from helix.memory import (
    EntityNotFound,
    Memories,
    NothingToUndo,
    entities,
    neighbours,
    path_between,
    relations,
)
from helix.memory.extraction import Extracted, FoundEntity, FoundRelation, extract
from helix.memory.jobs import extract_some
from helix.memory.policy import Candidate, junk_score, near_duplicates
from helix.memory.types import MemoryId
from helix.retrieval import Fact, analyse
from tests.memory.support import a_user, contents, day, memories_on, said


def told(text: str, speaker: str | None = None) -> list[tuple[str, str, str]]:
    return [(r.subject, r.predicate, r.object) for r in extract(text, speaker=speaker).relations]


@pytest.mark.parametrize(
    ("text", "speaker", "expected"),
    [
        ("I live in Lisbon.", "Ada", [("Ada", "lives_in", "Lisbon")]),
        ("Ben works at Acme Marine now", None, [("Ben", "works_at", "Acme Marine")]),
        ("Eve loves sailing, but hates rain.", None, [("Eve", "likes", "sailing")]),
        ("I don't like tea", "Ada", [("Ada", "dislikes", "tea")]),
        ("Ben turned 40", None, [("Ben", "has_age", "40")]),
        ("I live in Lisbon.", None, []),
        ("She lives in Lisbon.", "Ada", []),
        ("What is the time?", "Ada", []),
    ],
)
def test_rules_find_what_is_plainly_stated(
    text: str, speaker: str | None, expected: list[tuple[str, str, str]]
) -> None:
    assert told(text, speaker)[: len(expected) or None] == expected


def test_a_capital_that_only_begins_a_sentence_is_no_name() -> None:
    found = extract("Yesterday was fun. Thanks! We met Ben Jones on 3 May 2023.", speaker="Ada")
    assert [(e.name, e.type) for e in found.entities] == [
        ("Ada", "person"), ("Ben Jones", "person"), ("3 May 2023", "date"),
    ]  # fmt: skip


async def graph(db: Database, owner: Connection) -> tuple[Memories, UUID]:
    memories, user = memories_on(db), await a_user(owner)
    await memories.add(
        user_id=user,
        memories=[
            said("Ada works at Acme", valid_from=day("2020-01-01"), valid_to=day("2022-01-01")),
            said("Ben works at Acme", valid_from=day("2021-01-01")),
            said("Ben lives in Rome", valid_from=day("2021-01-01")),
            said("Eve visited Rome", valid_from=day("2023-01-01")),
        ],
    )
    return memories, user


async def test_neighbours_and_paths(db: Database, owner: Connection) -> None:
    memories, user = await graph(db, owner)
    async with memories.unit(user) as conn:
        near = await neighbours(conn, user_id=user, name="acme", depth=2)
        way = await path_between(conn, user_id=user, name="Ada", other="Eve")
        none = await path_between(conn, user_id=user, name="Ada", other="Eve", at=day("2024-01-01"))
        with pytest.raises(EntityNotFound):
            await neighbours(conn, user_id=user, name="Nobody")
    assert [(s.entity.name, s.depth) for s in near] == [("Ada", 1), ("Ben", 1), ("Rome", 2)]
    assert way is not None
    assert way.path == (
        "Ada works_at Acme", "Ben works_at Acme", "Ben lives_in Rome", "Eve visited Rome",
    )  # fmt: skip
    assert none is None


async def test_relations_are_those_of_the_moment(db: Database, owner: Connection) -> None:
    memories, user = await graph(db, owner)

    async def of(at: datetime | None) -> list[str]:
        async with memories.unit(user) as conn:
            found = await relations(conn, user_id=user, name="Acme", at=at)
        return [r.subject for r in found]

    assert await of(day("2020-06-01")) == ["Ada"]
    assert await of(day("2021-06-01")) == ["Ada", "Ben"]
    assert await of(day("2023-06-01")) == ["Ben"]
    assert await of(None) == ["Ada", "Ben"]


async def test_the_graph_of_another_user_is_not_seen(db: Database, owner: Connection) -> None:
    memories, user = await graph(db, owner)
    other = await a_user(owner)
    async with memories.unit(other) as conn:
        assert await entities(conn, user_id=other) == []
        assert await entities(conn, user_id=user) == []  # whatever id is asked for


def candidate(n: int, text: str, **fields: Any) -> Candidate:
    known = analyse(text)
    values: dict[str, Any] = {
        "id": MemoryId(UUID(int=n)), "terms": known.terms, "speaker": 0, "facts": known.facts,
        "valid_from": day(f"2026-01-{n:02d}"), "access_count": 0, "use_count": 0,
        "confidence": 0.8, "entity_count": 0, **fields,
    }  # fmt: skip
    return Candidate(**values)


def test_near_duplicates_keep_the_newer_of_the_same_speaker() -> None:
    texts = ["Ada sails from Porto every summer", "Ada sails from Porto every summer!",
             "Ada sails from Porto every winter morning"]  # fmt: skip
    found = near_duplicates([candidate(n, t) for n, t in enumerate(texts, start=1)])
    assert [(p.keep.int, p.drop.int) for p in found] == [(2, 1)]
    other = [candidate(1, texts[0], speaker=7), candidate(2, texts[1], speaker=8)]
    assert near_duplicates(other) == []


def test_no_memory_is_merged_into_one_that_is_merged_away() -> None:
    same = [candidate(n, "Ada sails from Porto every summer") for n in range(1, 6)]
    found = near_duplicates(same)
    assert {p.drop for p in found} & {p.keep for p in found} == set()


def test_junk_is_short_and_says_nothing() -> None:
    assert junk_score(candidate(1, "ok?")) >= 0.8
    told = candidate(1, "Ada moved to Porto in May 2023 with her two dogs", entity_count=3)
    assert junk_score(told) <= 0.2
    assert Fact.QUESTION in analyse("ok?").facts


async def test_an_audit_reports_and_changes_nothing_by_itself(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db), await a_user(owner)
    await memories.add(
        user_id=user,
        memories=[
            said("Ada lives in Lisbon", valid_from=day("2025-01-01")),
            said("Ada lives in Porto", valid_from=day("2026-01-01")),
            said("Rex the dog likes long walks"),
            said("Rex the dog likes long walks!"),
            said("ok"),
        ],
    )
    before = await memories.list(user_id=user)
    report = await memories.audit(user_id=user)
    assert (len(report.duplicates), len(report.contradictions), len(report.junk)) == (1, 1, 1)
    assert (report.looked_at, report.complete, len(report.never_used)) == (5, True, 5)
    assert report.contradictions[0].ends_at == day("2026-01-01")
    assert await memories.list(user_id=user) == before


async def test_what_an_audit_did_is_taken_back_whole(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    await memories.add(
        user_id=user,
        memories=[
            said("Ada lives in Lisbon", valid_from=day("2025-01-01")),
            said("Ada lives in Porto", valid_from=day("2026-01-01")),
            said("Rex the dog likes long walks"),
            said("Rex the dog likes long walks!"),
        ],
    )

    async def state() -> tuple[Sequence[str], Any, Any]:
        found = sorted(await contents(memories, user, "Ada lives; Rex the dog"))
        ends = await owner.fetch("SELECT id, valid_to, merged_into FROM memories ORDER BY id")
        edges = await owner.fetch("SELECT id, valid_to FROM memory_relations ORDER BY id")
        return found, [tuple(r) for r in ends], [tuple(r) for r in edges]

    before = await state()
    applied = await memories.audit(user_id=user, apply=True)
    assert (applied.merged, applied.ended) == (1, 1)
    assert (await state())[0] == ["Ada lives in Porto", "Rex the dog likes long walks!"]
    assert len(await memories.undo(user_id=user)) == 2
    assert await state() == before
    with pytest.raises(NothingToUndo):
        await memories.undo(user_id=user)
    with pytest.raises(NothingToUndo):
        await memories.undo(user_id=user, batch_id=uuid4())


async def test_a_models_entities_are_laid_beside_those_of_the_rules(
    db: Database, owner: Connection
) -> None:
    memories, user = memories_on(db), await a_user(owner)
    [one] = await memories.add(user_id=user, memories=[said("ada's cat purrs", "Ada")])

    async def model(whose: UUID, text: str) -> Extracted | None:
        assert (whose, text) == (user, "ada's cat purrs")
        return Extracted((FoundEntity("cat", "animal"),), (FoundRelation("Ada", "owns", "cat"),))

    assert await extract_some(db, model, user, [one.id]) == 1
    async with memories.unit(user) as conn:
        found = await relations(conn, user_id=user, name="cat")
    assert [(r.subject, r.predicate, r.memory_id) for r in found] == [("Ada", "owns", one.id)]
    assert found[0].strength == Decimal("0.8000")


async def test_names_in_any_script_and_case_are_one_entity(db: Database, owner: Connection) -> None:
    memories, user = memories_on(db), await a_user(owner)
    for text in (
        "I met \u0130pek in \u0130zmir and \u039f\u0394\u03a5\u03a3 in Athens.",
        "I live in \u0130zmir.",
        "My friend Stra\u1e9ee moved to Athens, \u01c5ungla and ATHENS.",
    ):
        [added] = await memories.add(user_id=user, memories=[said(text, "\u0130pek")])
        assert added.duplicate is False
    rows = await owner.fetch("SELECT name, name_key, mention_count FROM memory_entities")
    assert len({row["name_key"] for row in rows}) == len(rows)
    kept = {row["name"]: row["mention_count"] for row in rows}
    assert (kept["\u0130pek"], kept["Athens"]) == (3, 2)


async def test_an_entity_is_looked_up_by_an_index_under_the_policy(
    db: Database, owner: Connection
) -> None:
    user = await a_user(owner)
    async with db.transaction(tenant=user) as conn:
        await conn.execute("SET LOCAL enable_seqscan = off")
        rows = await conn.fetch(
            "EXPLAIN SELECT id FROM memory_entities WHERE user_id = $1 AND name_key = $2",
            user,
            "ada",
        )
    assert "(name_key = 'ada'::text)" in next(row[0] for row in rows if "Index Cond" in row[0])
