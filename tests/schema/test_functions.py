"""The functions for the psql prompt, each with data and what it must answer."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core.db import Connection, connect
from tests.factories import (
    a_name,
    insert,
    make_conversation,
    make_debate,
    make_distributed_memory,
    make_entity,
    make_event,
    make_memory_event,
    make_pattern,
    make_task,
    make_user,
)
from tests.schema.helpers import acting_as

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


def ids(rows: list[Any]) -> list[UUID]:
    return [row["id"] for row in rows]


# ---- conversations -------------------------------------------------------------------------------


async def a_conversation(conn: Connection) -> Any:
    """Make a conversation: question, answer, an entity, a second question, a pause."""
    conversation = await make_conversation(conn)
    said = [
        ("message.added", {"role": "user", "content": "Tea?"}, 3, 0),
        ("message.added", {"role": "assistant", "content": "Yes."}, 5, 0),
        ("entity.extracted", {"name": "tea"}, 0, 2),
        ("message.added", {"role": "user", "content": "Milk?"}, 4, 0),
        ("conversation.paused", {}, 0, 0),
    ]
    for n, (event_type, data, tokens, entities) in enumerate(said):
        await make_event(
            conn,
            conversation,
            event_type=event_type,
            event_data=data,
            tokens=tokens,
            entity_count=entities,
            timestamp=NOON + timedelta(seconds=n),
        )
    return conversation


async def a_snapshot(conn: Connection, conversation: Any, sequence: int, **fields: object) -> Any:
    return await insert(
        conn,
        "conversation_snapshots",
        conversation_id=conversation["id"],
        user_id=conversation["user_id"],
        sequence_number=sequence,
        **fields,
    )


async def test_the_latest_snapshot_is_the_nearest_at_or_before_the_goal(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    at_5 = await a_snapshot(conn, conversation, 5)
    at_10 = await a_snapshot(conn, conversation, 10)
    await a_snapshot(conn, await make_conversation(conn), 7)
    call = "SELECT * FROM get_latest_snapshot($1, $2)"
    found = [ids(await conn.fetch(call, conversation["id"], goal)) for goal in (None, 10, 9, 5, 4)]
    assert found == [[at_10["id"]], [at_10["id"]], [at_5["id"]], [at_5["id"]], []]


async def test_events_for_replay_come_in_order_and_within_bounds(conn: Connection) -> None:
    conversation = await a_conversation(conn)
    call = "SELECT sequence_number FROM get_conversation_events_for_replay($1, $2, $3)"
    found = [
        [row[0] for row in await conn.fetch(call, conversation["id"], low, high)]
        for low, high in ((1, None), (2, 4), (5, 5), (6, None))
    ]
    assert found == [[1, 2, 3, 4, 5], [2, 3, 4], [5], []]


async def test_compression_stats_are_of_the_sums(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    for kind, before, after, quality, took in [
        ("full", 1000, 100, Decimal("0.9"), 10),
        ("full", 100, 100, None, 20),
        ("hybrid", 0, 0, None, 0),
    ]:
        await insert(
            conn,
            "conversation_compressions",
            conversation_id=conversation["id"],
            user_id=conversation["user_id"],
            compression_type=kind,
            from_sequence=1,
            to_sequence=9,
            original_message_count=9,
            compressed_message_count=2,
            original_tokens=before,
            compressed_tokens=after,
            quality_score=quality,
            compression_duration_ms=took,
        )
    rows = await conn.fetch("SELECT * FROM get_compression_stats($1)", conversation["id"])
    assert [tuple(row) for row in rows] == [
        ("full", 2, 18, 4, 1100, 200, 900, Decimal("0.1818"), Decimal("0.9000"), Decimal("15.0")),
        ("hybrid", 1, 9, 2, 0, 0, 0, None, None, Decimal("0.0")),
    ]
    nothing = "SELECT * FROM get_compression_stats($1, now() + interval '1 hour')"
    assert await conn.fetch(nothing, conversation["id"]) == []


async def test_a_conversation_in_one_row(conn: Connection) -> None:
    conversation = await a_conversation(conn)
    await a_snapshot(conn, conversation, 3)
    row = await conn.fetchrow("SELECT * FROM get_conversation_summary($1)", conversation["id"])
    assert dict(row) == {
        "conversation_id": conversation["id"],
        "user_id": conversation["user_id"],
        "status": "paused",
        "event_count": 5,
        "message_count": 3,
        "user_messages": 2,
        "assistant_messages": 1,
        "entity_count": 2,
        "debate_count": 0,
        "compression_count": 0,
        "total_tokens": 12,
        "last_sequence": 5,
        "latest_snapshot_sequence": 3,
        "started_at": NOON,
        "last_event_at": NOON + timedelta(seconds=4),
        "duration_ms": 4000,
    }


async def test_an_empty_conversation_has_a_summary_and_a_missing_one_none(conn: Connection) -> None:
    empty = await make_conversation(conn)
    row = await conn.fetchrow("SELECT * FROM get_conversation_summary($1)", empty["id"])
    assert (row["event_count"], row["total_tokens"], row["started_at"]) == (0, 0, None)
    missing = await conn.fetchval("SELECT uuidv7()")
    assert await conn.fetch("SELECT * FROM get_conversation_summary($1)", missing) == []


@pytest.mark.parametrize(
    "call",
    [
        "SELECT * FROM get_conversation_summary($1)",
        "SELECT * FROM get_conversation_events_for_replay($1)",
        "SELECT * FROM get_latest_snapshot($1)",
        "SELECT * FROM get_compression_stats($1)",
    ],
)
async def test_nobody_reads_the_conversation_of_another(conn: Connection, call: str) -> None:
    conversation = await a_conversation(conn)
    await a_snapshot(conn, conversation, 3)
    stranger = await make_user(conn)
    async with acting_as(conn, "helix_app", tenant=stranger["id"]):
        assert await conn.fetch(call, conversation["id"]) == []
    if "compression" not in call:
        async with acting_as(conn, "helix_app", tenant=conversation["user_id"]):
            assert await conn.fetch(call, conversation["id"]) != []


async def test_only_expired_contexts_leave_the_cache(conn: Connection) -> None:
    for ttl in (1800, 60):
        conversation = await make_conversation(conn)
        row = await insert(
            conn,
            "conversation_context_cache",
            conversation_id=conversation["id"],
            user_id=conversation["user_id"],
            sequence_number=1,
            cached_context={},
            ttl=ttl,
        )
        assert row["expires_at"] - await conn.fetchval("SELECT now()") == timedelta(seconds=ttl)
    await conn.execute("UPDATE conversation_context_cache SET expires_at = now() WHERE ttl = 60")
    async with acting_as(conn, "helix_operator"):
        assert await conn.fetchval("SELECT cleanup_expired_cache()") == 1
        assert await conn.fetchval("SELECT cleanup_expired_cache()") == 0
    assert await conn.fetchval("SELECT array_agg(ttl) FROM conversation_context_cache") == [1800]


# ---- distributed memory --------------------------------------------------------------------------


async def rebuilt(conn: Connection, memory_id: UUID) -> dict[str, Any] | None:
    row = await conn.fetchrow("SELECT * FROM rebuild_memory_from_events($1)", memory_id)
    return dict(row) if row else None


async def test_a_memory_is_the_fold_of_its_events(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    await make_memory_event(
        conn, memory, tags=["tea", "home"], entities=[{"name": "Ada"}], metadata={"a": 1, "b": 2},
        hlc=1, vector_clock={"north": 1}, access_delta=1,
    )  # fmt: skip
    await make_memory_event(
        conn, memory, event_type="updated", node_id="south", version=1, content="Ada likes coffee",
        tags=["coffee"], removed={"tags": ["tea"]}, metadata={"b": None}, importance=Decimal("0.9"),
        hlc=2, vector_clock={"north": 1, "south": 1}, access_delta=2,
    )  # fmt: skip
    found = await rebuilt(conn, memory["id"])
    assert found is not None
    assert (found["content"], found["node_id"], found["hlc"]) == ("Ada likes coffee", "south", 2)
    assert (found["tags"], found["entities"]) == (["coffee", "home"], [{"name": "Ada"}])
    assert (found["metadata"], found["importance"]) == ({"a": 1}, Decimal("0.9000"))
    assert (found["access_count"], found["event_count"]) == (3, 2)
    assert (found["version"], found["vector_clock"]) == (2, {"north": 1, "south": 1})


async def test_a_removal_takes_only_what_its_writer_had_seen(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    await make_memory_event(conn, memory, tags=["tea"], hlc=1, vector_clock={"north": 1})
    await make_memory_event(
        conn, memory, event_type="updated", node_id="south", content=None, version=1, hlc=2,
        removed={"tags": ["tea"]}, vector_clock={"north": 1, "south": 1},
    )  # fmt: skip
    await make_memory_event(
        conn, memory, event_type="updated", version=2, content=None, tags=["tea"], hlc=3,
        vector_clock={"north": 2},
    )  # fmt: skip
    found = await rebuilt(conn, memory["id"])
    assert found is not None
    assert found["tags"] == ["tea"], "added again without knowing of the removal"


@pytest.mark.parametrize("late", [1, 9])
async def test_deletion_wins_whenever_it_came(conn: Connection, late: int) -> None:
    memory = await make_distributed_memory(conn)
    await make_memory_event(conn, memory, hlc=5)
    await make_memory_event(
        conn, memory, event_type="deleted", node_id="south", content=None, hlc=late
    )
    assert await rebuilt(conn, memory["id"]) is None


async def test_a_memory_without_events_is_none(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    assert await rebuilt(conn, memory["id"]) is None


events = st.lists(
    st.tuples(
        st.sampled_from(["north", "south", "east"]),
        st.integers(0, 4),
        st.sampled_from([None, "tea", "coffee", "milk"]),
        st.lists(st.sampled_from("abc"), unique=True, max_size=2),
        st.lists(st.sampled_from("abc"), unique=True, max_size=2),
        st.dictionaries(st.sampled_from("xy"), st.integers(0, 1) | st.none(), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=events, seed=st.integers(0, 1000))
async def test_the_order_of_arrival_never_matters(
    conn: Connection, history: list[Any], seed: int
) -> None:
    memory = await make_distributed_memory(conn)
    counters: dict[str, int] = {}
    rows = []
    for node, hlc, content, added, removed, metadata in history:
        counters[node] = counters.get(node, 0) + 1
        rows.append(
            {
                "id": await conn.fetchval("SELECT uuidv7()"),
                "event_type": "updated",
                "node_id": node,
                "version": counters[node],
                "hlc": hlc,
                "content": content,
                "tags": added,
                "removed": {"tags": removed},
                "metadata": metadata,
                "vector_clock": dict(counters),
            }
        )
    shuffled = random.Random(seed).sample(rows, len(rows))
    states = []
    for order in (rows, shuffled):
        undo = conn.transaction()
        await undo.start()
        for row in order:
            await make_memory_event(conn, memory, **row)
        states.append(await rebuilt(conn, memory["id"]))
        await undo.rollback()
    assert states[0] == states[1]


async def test_the_history_of_a_memory_is_in_the_order_of_the_fold(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    late = await make_memory_event(conn, memory, hlc=9)
    early = await make_memory_event(conn, memory, hlc=1, node_id="south")
    tie = await make_memory_event(conn, memory, hlc=1, node_id="east")
    await make_memory_event(conn)
    call = "SELECT * FROM get_memory_event_history($1, $2)"
    assert ids(await conn.fetch(call, memory["id"], 1000)) == [
        tie["id"],
        early["id"],
        late["id"],
    ]
    assert ids(await conn.fetch(call, memory["id"], 1)) == [tie["id"]]
    assert await conn.fetch(call, memory["id"], -1) == []


async def visible_everywhere(conn: Connection, xid: int) -> None:
    """Wait until no transaction that began before this one is under way on the server."""
    while (
        await conn.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint") <= xid
    ):
        await conn.fetchval("SELECT pg_sleep(0.01)")


async def test_the_feed_of_events_is_read_from_a_position_on(owner: Connection) -> None:
    memory = await make_distributed_memory(owner)
    rows = [
        await make_memory_event(owner, memory, node_id=node, version=n, event_type="updated")
        for n, node in enumerate(("north", "south", "north"), 1)
    ]
    await visible_everywhere(owner, int(rows[-1]["recorded_xid"]))
    call = "SELECT * FROM get_events_since($1, $2, $3, $4, $5)"
    start: tuple[Any, ...] = (0, None, None, None, 1000)
    assert ids(await owner.fetch(call, *start)) == ids(rows)
    after = (rows[0]["recorded_xid"], rows[0]["id"], None, None, 1000)
    assert ids(await owner.fetch(call, *after)) == ids(rows[1:])
    assert ids(await owner.fetch(call, 0, None, "north", None, 1000)) == [rows[1]["id"]]
    assert ids(await owner.fetch(call, 0, None, None, memory["user_id"], 2)) == ids(rows[:2])
    stranger = await make_user(owner)
    assert await owner.fetch(call, 0, None, None, stranger["id"], 1000) == []


async def test_the_feed_skips_no_commit_that_comes_late(
    owner: Connection, database_url: str
) -> None:
    memory = await make_distributed_memory(owner)
    slow = await connect(database_url)
    undecided = slow.transaction()
    await undecided.start()
    first = await make_memory_event(slow, memory)
    second = await make_memory_event(owner, memory, node_id="south")
    feed = "SELECT * FROM get_events_since()"
    assert await owner.fetch(feed) == [], "the second must wait for the first"
    await undecided.commit()
    await slow.close()
    await visible_everywhere(owner, int(second["recorded_xid"]))
    assert ids(await owner.fetch(feed)) == ids([first, second])


async def test_conflicts_are_counted_by_kind_and_outcome(conn: Connection) -> None:
    memory = await make_distributed_memory(conn)
    for strategy, took in [("merge_all", 2), ("merge_all", 4), (None, None)]:
        await insert(
            conn,
            "memory_conflicts",
            memory_id=memory["id"],
            user_id=memory["user_id"],
            conflict_type="concurrent_update",
            local_event_id=await conn.fetchval("SELECT uuidv7()"),
            remote_event_id=await conn.fetchval("SELECT uuidv7()"),
            node1_id="north",
            node1_version=1,
            node1_timestamp=NOON,
            node2_id="south",
            node2_version=1,
            node2_timestamp=NOON,
            resolution_strategy=strategy,
            detected_at=NOON,
            resolved_at=NOON + timedelta(seconds=took) if took else None,
        )
    rows = await conn.fetch("SELECT * FROM get_conflict_stats()")
    assert [tuple(row) for row in rows] == [
        ("concurrent_update", None, 1, 0, 1, None, NOON),
        ("concurrent_update", "merge_all", 2, 2, 0, Decimal("3000.0"), NOON),
    ]
    later = await conn.fetch("SELECT * FROM get_conflict_stats($1)", NOON + timedelta(seconds=1))
    assert later == []


# ---- learning ------------------------------------------------------------------------------------


async def test_the_top_patterns_are_the_most_frequent(conn: Connection) -> None:
    often = await make_pattern(conn, frequency=9, confidence=Decimal("0.5"))
    surer = await make_pattern(conn, frequency=3, confidence=Decimal("0.9"))
    rarer = await make_pattern(conn, frequency=3, confidence=Decimal("0.8"))
    other = await make_pattern(conn, pattern_type="debate_strategy", frequency=5)
    call = "SELECT * FROM get_top_patterns($1, $2, $3)"
    assert ids(await conn.fetch(call, None, 20, 0)) == ids([often, other, surer, rarer])
    assert ids(await conn.fetch(call, "user_intent", 2, 0)) == ids([often, surer])
    assert ids(await conn.fetch(call, None, 20, Decimal("0.85"))) == ids([other, surer])


async def test_what_a_user_prefers_is_one_object(conn: Connection) -> None:
    user = await make_user(conn)
    for kind, value, confidence in [
        ("response_format", "tables", Decimal(1)),
        ("code_language", "python", Decimal("0.7")),
    ]:
        await insert(
            conn,
            "user_preferences",
            user_id=user["id"],
            preference_type=kind,
            preference_value=value,
            confidence=confidence,
        )
    call = "SELECT get_user_preferences_summary($1)"
    found = await conn.fetchval(call, user["id"])
    for preference in found.values():
        assert preference.pop("updated_at")
    assert found == {
        "response_format": {"value": "tables", "confidence": 1.0, "frequency": 1},
        "code_language": {"value": "python", "confidence": 0.7, "frequency": 1},
    }
    stranger = await make_user(conn)
    assert await conn.fetchval(call, stranger["id"]) == {}
    async with acting_as(conn, "helix_app", tenant=stranger["id"]):
        assert await conn.fetchval(call, user["id"]) == {}


async def test_what_goes_with_an_entity_is_found_to_a_depth(conn: Connection) -> None:
    user = await make_user(conn)
    names = ("ada", "tea", "milk", "cow")
    entities = {name: await make_entity(conn, user_id=user["id"], name=name) for name in names}
    for one, two, count in [("ada", "tea", 5), ("tea", "milk", 3), ("milk", "cow", 2)]:
        first, second = sorted((entities[one], entities[two]), key=lambda row: row["id"])
        await insert(
            conn,
            "entity_cooccurrences",
            user_id=user["id"],
            cooccurrence_count=count,
            **{
                f"entity{n}_{key}": row[key]
                for n, row in ((1, first), (2, second))
                for key in ("id", "name", "type")
            },
        )
    call = (
        "SELECT depth, entity_name, cooccurrence_count "
        "FROM get_entity_cooccurrence_network($1, $2, $3)"
    )
    ada = entities["ada"]["id"]

    async def network(depth: int, least: int) -> list[tuple[int, str, int]]:
        return [tuple(row) for row in await conn.fetch(call, ada, depth, least)]

    assert await network(1, 1) == [(1, "tea", 5)]
    assert await network(3, 1) == [(1, "tea", 5), (2, "milk", 3), (3, "cow", 2)]
    assert await network(9, 1) == [(1, "tea", 5), (2, "milk", 3), (3, "cow", 2)]
    assert await network(3, 3) == [(1, "tea", 5), (2, "milk", 3)]


async def test_the_best_strategies_have_been_tried_often_enough(conn: Connection) -> None:
    tried = [
        ("steelman", "critic", 3, 4),
        ("lucky", "critic", 2, 2),
        ("socratic", "critic", 1, 2),
        ("devil", "researcher", 5, 5),
    ]
    for strategy, position, won, attempts in tried:
        await insert(
            conn,
            "debate_strategy_success",
            strategy_name=strategy,
            provider="mock",
            model="echo",
            position=position,
            success_count=won,
            total_attempts=attempts,
        )
    call = "SELECT strategy_name, success_rate FROM get_best_debate_strategies($1, $2)"
    rows = await conn.fetch(call, None, 3)
    assert [tuple(row) for row in rows] == [
        ("devil", Decimal("1.0000")),
        ("steelman", Decimal("0.7500")),
    ]
    assert [row[0] for row in await conn.fetch(call, "critic", 1)] == [
        "lucky",
        "steelman",
        "socratic",
    ]


async def test_learning_is_counted_day_by_day_without_gaps(conn: Connection) -> None:
    now = await conn.fetchval("SELECT now()")
    two_days_ago = now - timedelta(days=2)
    for confidence in ("0.4", "0.6"):
        await make_pattern(
            conn, first_seen=two_days_ago, last_seen=now, confidence=Decimal(confidence)
        )
    await make_pattern(conn, first_seen=now - timedelta(days=40))
    await insert(
        conn, "learned_insights", insight_type="habit", title="Tea", description="Tea at five.",
        confidence=Decimal("0.9"),
    )  # fmt: skip
    await insert(
        conn, "knowledge_accumulation", knowledge_type="fact", subject="tea", fact="Tea is hot."
    )
    rows = await conn.fetch("SELECT * FROM get_learning_progress(3)")
    today = now.astimezone(UTC).date()
    assert [tuple(row) for row in rows] == [
        (today - timedelta(days=2), 2, 0, 0, Decimal("0.5000"), 3),
        (today - timedelta(days=1), 0, 0, 0, None, 3),
        (today, 0, 1, 1, None, 3),
    ]


# ---- tasks and debates ---------------------------------------------------------------------------


async def test_the_most_urgent_task_that_fits_is_taken(conn: Connection) -> None:
    await make_task(conn, priority="background", created_at=NOON - timedelta(hours=2))
    low = await make_task(conn, priority="low", created_at=NOON - timedelta(hours=1))
    big = await make_task(conn, priority="critical", required_memory_mb=4096)
    cores = await make_task(conn, priority="critical", required_cpu_cores=8)
    await make_task(conn, priority="critical", scheduled_at=NOON + timedelta(days=9_000))
    await make_task(conn, priority="critical", deadline=NOON - timedelta(days=900))
    await make_task(conn, priority="critical", deleted_at=NOON)
    high = await make_task(conn, priority="high", created_at=NOON)
    high_later = await make_task(conn, priority="high", created_at=NOON + timedelta(hours=1))

    async def take(*wants: object) -> list[UUID]:
        places = ", ".join(f"${n}" for n in range(1, len(wants) + 1))
        return ids(await conn.fetch(f"SELECT * FROM dequeue_background_task({places})", *wants))

    async with acting_as(conn, "helix_operator"):
        assert await take("w1", 2, 1024) == [high["id"]]
        assert await take("w1", 2, 1024) == [high_later["id"]]
        assert await take("w1", 2, 1024) == [low["id"]]
        assert await take("w1", 2, 4096) == [big["id"]]
        assert await take("w1", 8, 1024, ["other"]) == []
        assert await take("w1", 8, 1024, ["echo"]) == [cores["id"]]


async def test_a_task_that_is_taken_is_leased_to_its_worker(conn: Connection) -> None:
    task = await make_task(conn)
    call = "SELECT * FROM dequeue_background_task('w1', p_lease => '90 seconds')"
    row = await conn.fetchrow(call)
    assert (row["id"], row["status"], row["worker_id"]) == (task["id"], "running", "w1")
    assert (row["attempt"], row["fencing_token"]) == (1, 1)
    lease = row["lease_until"] - row["started_at"]
    assert timedelta(seconds=89) < lease < timedelta(seconds=91)
    assert await conn.fetch(call) == []


async def test_two_workers_never_take_one_task(owner: Connection, database_url: str) -> None:
    tasks = {(await make_task(owner))["id"] for _ in range(2)}
    other = await connect(database_url)
    call = "SELECT id FROM dequeue_background_task($1)"
    async with owner.transaction(), other.transaction():
        taken = [await owner.fetchval(call, "w1"), await other.fetchval(call, "w2")]
        assert await other.fetchval(call, "w2") is None
    await other.close()
    assert set(taken) == tasks


async def test_a_task_without_a_sign_of_life_for_five_minutes_is_stale(conn: Connection) -> None:
    now = await conn.fetchval("SELECT now()")

    async def running(silent_for: timedelta) -> Any:
        return await make_task(
            conn, status="running", worker_id="w1", last_heartbeat=now - silent_for
        )

    silent = await running(timedelta(minutes=6))
    gone = await running(timedelta(hours=2))
    await running(timedelta(minutes=4))
    await make_task(conn, created_at=now - timedelta(days=1))
    rows = await conn.fetch("SELECT * FROM get_stale_tasks()")
    assert [row["task_id"] for row in rows] == [gone["id"], silent["id"]]
    assert (rows[1]["worker_id"], rows[1]["silent_for"]) == ("w1", timedelta(minutes=6))
    rows = await conn.fetch("SELECT * FROM get_stale_tasks(interval '1 hour')")
    assert [row["task_id"] for row in rows] == [gone["id"]]


async def test_only_debates_that_ended_long_ago_are_cleaned_up(conn: Connection) -> None:
    old = datetime.now(UTC) - timedelta(days=91)
    for status in ("completed", "failed", "cancelled"):
        await make_debate(conn, status=status, completed_at=old)
    kept = [
        await make_debate(conn, status="running", started_at=old),
        await make_debate(conn, status="completed", completed_at=old + timedelta(days=2)),
    ]
    async with acting_as(conn, "helix_operator"):
        assert await conn.fetchval("SELECT cleanup_expired_debate_logs()") == 3
        assert await conn.fetchval("SELECT cleanup_expired_debate_logs()") == 0
    rows = await conn.fetch("SELECT id FROM debates")
    assert set(ids(rows)) == set(ids(kept))


async def test_a_tenant_cleans_up_nobody_elses_debates(conn: Connection) -> None:
    old = datetime.now(UTC) - timedelta(days=91)
    mine = await make_debate(conn, status="failed", completed_at=old)
    theirs = await make_debate(conn, status="failed", completed_at=old)
    async with acting_as(conn, "helix_app", tenant=mine["created_by"]):
        assert await conn.fetchval("SELECT cleanup_expired_debate_logs()") == 1
    assert ids(await conn.fetch("SELECT id FROM debates")) == [theirs["id"]]


# ---- materialized views --------------------------------------------------------------------------

ALL_VIEWS = 10


@pytest.mark.parametrize(
    ("function", "views"),
    [
        (
            "refresh_critical_views",
            {"mv_mcp_server_health", "mv_provider_performance", "mv_task_statistics"},
        ),
        (
            "refresh_streaming_analytics_views",
            {"mv_provider_performance_summary", "mv_recent_conversation_activity"},
        ),
    ],
)
async def test_a_refresh_function_refreshes_its_views(
    conn: Connection, function: str, views: set[str]
) -> None:
    async with acting_as(conn, "helix_operator"):
        rows = await conn.fetch(f"SELECT * FROM {function}()")
    assert {row["view_name"] for row in rows} == views
    assert {(row["refreshed"], row["error_message"]) for row in rows} == {(True, None)}


async def test_all_views_are_refreshed_and_it_is_remembered(conn: Connection) -> None:
    async with acting_as(conn, "helix_operator"):
        for _ in range(2):
            rows = await conn.fetch("SELECT * FROM refresh_all_materialized_views()")
            assert len(rows) == ALL_VIEWS
            assert [row["error_message"] for row in rows if not row["refreshed"]] == []
    rows = await conn.fetch("SELECT * FROM matview_refresh_state")
    assert len(rows) == ALL_VIEWS
    now = await conn.fetchval("SELECT now()")
    assert {(row["refreshed_at"], row["refresh_count"], row["failure_count"]) for row in rows} == {
        (now, 2, 0)
    }


async def test_only_what_is_due_is_refreshed(conn: Connection) -> None:
    await conn.execute(
        "UPDATE matview_refresh_state SET refreshed_at = now() - interval '10 minutes'"
    )
    rows = await conn.fetch("SELECT view_name FROM refresh_due_materialized_views()")
    assert {row["view_name"] for row in rows} == {
        "mv_mcp_server_health",
        "mv_protocol_metrics_agg",
        "mv_provider_performance",
        "mv_recent_conversation_activity",
        "mv_task_statistics",
    }
    assert await conn.fetch("SELECT * FROM refresh_due_materialized_views()") == []


async def test_a_view_that_fails_leaves_the_others_alone(conn: Connection) -> None:
    await conn.execute("DROP INDEX mv_task_statistics_key")
    rows = await conn.fetch("SELECT * FROM refresh_critical_views()")
    failed = [row for row in rows if not row["refreshed"]]
    assert [row["view_name"] for row in failed] == ["mv_task_statistics"]
    assert "concurrently" in failed[0]["error_message"]
    state = await conn.fetchrow(
        "SELECT * FROM matview_refresh_state WHERE view_name = 'mv_task_statistics'"
    )
    assert (state["failure_count"], state["refresh_count"]) == (1, 0)


async def test_a_caller_cannot_make_the_owner_run_anything_else(conn: Connection) -> None:
    names = ["users; DROP TABLE users", 'x" ; DROP TABLE users; --', "llm_calls", "mv_daily_stats"]
    async with acting_as(conn, "helix_operator"):
        rows = await conn.fetch("SELECT * FROM refresh_materialized_views($1)", names)
    assert [row["view_name"] for row in rows] == ["mv_daily_stats"]


@pytest.mark.parametrize("role", ["helix_app", "helix_recorder", "helix_readonly"])
async def test_only_the_operator_refreshes(conn: Connection, role: str) -> None:
    async with acting_as(conn, role):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with conn.transaction():
                await conn.fetch("SELECT * FROM refresh_all_materialized_views()")


async def test_the_state_of_every_view_is_told_exactly(conn: Connection) -> None:
    for n in range(5):
        await insert(conn, "mcp_servers", name=a_name("mcp"), endpoint=f"https://{n}.example.org")
    await conn.execute("SELECT refresh_critical_views()")
    rows = {
        row["view_name"]: row
        for row in await conn.fetch("SELECT * FROM get_materialized_view_stats()")
    }
    assert len(rows) == ALL_VIEWS
    health = rows["mv_mcp_server_health"]
    assert (health["row_count"], health["is_populated"], health["is_due"]) == (5, True, False)
    assert health["size_bytes"] > 0
    assert rows["mv_daily_stats"]["is_due"] is True
    async with acting_as(conn, "helix_readonly"):
        assert len(await conn.fetch("SELECT * FROM get_materialized_view_stats()")) == ALL_VIEWS
