"""The views: every other name of a fact, the reports, and llm_calls, where to look at a call."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core.db import Connection
from tests.factories import (
    insert,
    make_api_key,
    make_argument,
    make_conversation,
    make_debate,
    make_distributed_memory,
    make_entity,
    make_error,
    make_event,
    make_memory,
    make_memory_event,
    make_pattern,
    make_price,
    make_project,
    make_provider,
    make_request,
    make_request_body,
    make_response,
    make_response_body,
    make_session,
    make_task,
    make_usage,
    make_user,
)
from tests.schema.helpers import acting_as
from tests.schema.tenants import A, B, Tenants

# Views under a name of the founding documents, with the columns those print.
COMPATIBILITY = {
    "providers": (
        "id name type enabled priority created_at verification_score last_verified health_status "
        "capabilities rate_limits"
    ),
    "sessions": "id user_id provider_id created_at expires_at last_activity metadata context",
    "completions": (
        "id session_id provider_id prompt response tokens_in tokens_out latency_ms created_at "
        "cached error metadata"
    ),
    "debate_logs": (
        "id topic status strategy total_rounds consensus_reached final_conclusion "
        "confidence_score created_at completed_at"
    ),
    "debate_sessions": (
        "id topic description status current_round total_rounds voting_method positions "
        "participants final_winner metadata created_by created_at started_at completed_at"
    ),
    "debate_turns": (
        "id session_id round_number turn_number participant_id position content raw_response "
        "tokens_used response_time confidence created_at"
    ),
    "cognee_memories": (
        "id user_id session_id content memory_type entities relationships confidence "
        "access_count last_accessed created_at"
    ),
    "cognee_entities": "id user_id name type importance mention_count created_at",
    "cognee_graphs": "id user_id subject predicate object strength valid_from valid_to",
    "acp_servers": "id name type url command enabled health_status last_sync",
    "memory_events": (
        "event_id event_type node_id memory_id user_id session_id content embedding importance "
        "tags entities relationships version vector_clock merged_from metadata timestamp"
    ),
    "learned_patterns": (
        "id pattern_type description frequency confidence examples metadata first_seen last_seen"
    ),
}
# What llm_calls has under the names of the documents.
CALL_COLUMNS = (
    "id request_id user_id session_id provider_id provider_name model_name prompt messages "
    "model_params ensemble_config memory_enhanced memory status request_type request_body response "
    "response_body content raw_response tokens_in tokens_out prompt_tokens completion_tokens "
    "total_tokens latency_ms response_time cost confidence finish_reason selected cached error "
    "metadata created_at started_at completed_at key_prefix user_email"
).split()
REPORTS = (
    "llm_calls spend_by_day spend_by_project current_prices slow_requests provider_stream_metrics "
    "stream_timing conversation_analytics conversation_messages recent_errors task_queue "
    "debate_round_analytics debate_value"
).split()


async def one(conn: Connection, view: str, **where: object) -> dict[str, Any]:
    """Return the only row of a view that has these values."""
    condition = " AND ".join(f"{name} = ${n}" for n, name in enumerate(where, 1))
    rows = await conn.fetch(f"SELECT * FROM {view} WHERE {condition}", *where.values())
    assert len(rows) == 1
    return dict(rows[0])


def pick(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


# ---- every view ----------------------------------------------------------------------------------


@pytest.mark.parametrize("view", COMPATIBILITY)
async def test_a_name_of_the_documents_is_a_view_with_its_columns(
    both: Connection, tenants: Tenants, view: str
) -> None:
    columns = ", ".join(COMPATIBILITY[view].split())
    async with acting_as(both, "helix_app", tenant=tenants.users[A]):
        rows = await both.fetch(f"SELECT {columns} FROM {view}")
    async with acting_as(both, "helix_operator"):
        all_rows = await both.fetch(f"SELECT {columns} FROM {view}")
    shared = view in {"providers", "acp_servers"}
    assert len(rows) == len(all_rows) if shared else len(rows) < len(all_rows)


@pytest.mark.parametrize("view", REPORTS)
async def test_a_report_shows_its_reader_only_what_the_reader_may_see(
    both: Connection, tenants: Tenants, view: str
) -> None:
    async with acting_as(both, "helix_operator"):
        everything = await both.fetchval(f"SELECT count(*) FROM {view}")
    async with acting_as(both, "helix_readonly"):
        assert await both.fetchval(f"SELECT count(*) FROM {view}") == everything
    async with acting_as(both, "helix_app"):
        unset = await both.fetchval(f"SELECT count(*) FROM {view}")
    assert unset == (everything if view == "current_prices" else 0)
    owner = await both.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass "
        "AND attname = 'user_id'",
        view,
    )
    async with acting_as(both, "helix_app", tenant=tenants.users[A]):
        rows = await both.fetch(f"SELECT * FROM {view}")
    if owner:
        assert {row["user_id"] for row in rows} <= {tenants.users[A]}
        assert tenants.users[B] not in {row["user_id"] for row in rows}


async def test_a_tenant_reads_no_figures_over_all_tenants(conn: Connection) -> None:
    names = [
        row["relname"]
        for row in await conn.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'm' "
            "AND relnamespace = 'public'::regnamespace"
        )
    ]
    for role, may in [
        ("helix_app", False),
        ("helix_recorder", False),
        ("helix_operator", True),
        ("helix_readonly", True),
    ]:
        for name in names:
            right = "SELECT has_table_privilege($1, $2, 'SELECT')"
            assert await conn.fetchval(right, role, name) is may, (role, name)


async def test_table_sizes_add_the_months_up(conn: Connection) -> None:
    row = await one(conn, "table_sizes", table_name="llm_requests")
    assert row["partitions"] == 6
    assert row["total_bytes"] == row["heap_bytes"] + row["index_bytes"] + (
        await conn.fetchval(
            "SELECT sum(pg_total_relation_size(inhrelid) - pg_relation_size(inhrelid) "
            "- pg_indexes_size(inhrelid))::bigint FROM pg_inherits "
            "WHERE inhparent = 'llm_requests'::regclass"
        )
    )


# ---- llm_calls -----------------------------------------------------------------------------------


async def test_llm_calls_has_a_call_and_everything_around_it_under_every_name(
    conn: Connection,
) -> None:
    user = await make_user(conn, email="ada@example.org")
    key = await make_api_key(conn, user_id=user["id"], key="hlx_0123456789abcdef", name="laptop")
    project = await make_project(conn, user_id=user["id"], name="Mill")
    session = await make_session(conn, user_id=user["id"])
    provider = await make_provider(conn, name="acme")
    price = await make_price(conn, model="acme/large")
    request = await make_request(
        conn, user_id=user["id"], api_key_id=key["id"], project_id=project["id"],
        session_id=session["id"], agent_id="planner", model_name="route/best", status="completed",
        model_params={"temperature": 0.5}, metadata={"tag": 1},
    )  # fmt: skip
    body = {"messages": [{"role": "user", "content": "What is tea?"}]}
    await make_request_body(conn, request, body=body)
    response = await make_response(
        conn, request, provider_id=provider["id"], provider_name="acme", model_name="large",
        tokens_prompt=7, tokens_completion=11, tokens_total=18, latency_ms=250,
        cost_usd=Decimal("0.000087"), pricing_id=price["id"], finish_reason="stop",
        confidence=Decimal("0.75"),
    )  # fmt: skip
    await make_response_body(conn, response, content="A leaf.", raw_response='{"id":"x"}')

    async with acting_as(conn, "helix_app", tenant=user["id"]):
        row = await one(conn, "llm_calls", request_id=request["id"])

    assert set(CALL_COLUMNS) - set(row) == set()
    assert pick(row, "id", "response_id") == (response["id"], response["id"])
    assert pick(row, "prompt", "response", "content") == ("What is tea?", "A leaf.", "A leaf.")
    assert json.loads(row["messages"]) == body["messages"]
    assert json.loads(row["request_body"]) == body
    assert row["response_body"] == row["raw_response"] == '{"id":"x"}'
    assert pick(row, "tokens_in", "prompt_tokens") == (7, 7)
    assert pick(row, "tokens_out", "completion_tokens") == (11, 11)
    assert pick(row, "total_tokens", "latency_ms", "response_time") == (18, 250, 250)
    assert pick(row, "cost", "input_cost_per_million", "output_cost_per_million") == (
        Decimal("0.000087000000"),
        Decimal("3.000000"),
        Decimal("6.000000"),
    )
    assert pick(row, "key_prefix", "key_name", "user_email", "project_name") == (
        "hlx_01234567",
        "laptop",
        "ada@example.org",
        "Mill",
    )
    assert pick(row, "requested_model", "model_name", "provider_name", "agent_id") == (
        "route/best",
        "large",
        "acme",
        "planner",
    )
    assert pick(row, "status", "request_status", "error") == ("completed", "completed", None)
    assert pick(row, "model_params", "metadata") == ({"temperature": 0.5}, {"tag": 1})


async def test_llm_calls_shows_every_answer_of_an_ensemble(conn: Connection) -> None:
    request = await make_request(conn)
    for n, selected in enumerate((False, True, False), 1):
        await make_response(conn, request, selected=selected, attempt=n)
    failed = await make_response(conn, request, status="failed", error="too late", selected=False)
    rows = await conn.fetch(
        "SELECT * FROM llm_calls WHERE request_id = $1 ORDER BY attempt, id", request["id"]
    )
    assert sorted(row["selected"] for row in rows) == [False, False, False, True]
    assert [row["error"] for row in rows if row["id"] == failed["id"]] == ["too late"]
    completions = await conn.fetch("SELECT * FROM completions")
    assert len(completions) == 1


async def test_llm_calls_outlives_texts_keys_users_and_prices(conn: Connection) -> None:
    request = await make_request(conn)
    await make_response(conn, request)
    await conn.execute("DELETE FROM users WHERE id = $1", request["user_id"])
    row = await one(conn, "llm_calls", request_id=request["id"])
    assert pick(row, "user_email", "key_prefix", "prompt", "response", "total_tokens") == (
        None,
        None,
        None,
        None,
        15,
    )


PROMPTS: list[tuple[object, str | None]] = [
    ({"prompt": "Once upon a time"}, "Once upon a time"),
    ({"prompt": ["one", "two"]}, "one\ntwo"),
    ({"prompt": [1, 2, 3]}, None),
    ({"input": "embed me"}, "embed me"),
    ({"input": ["a", "b"]}, "a\nb"),
    ({"input": [{"role": "user", "content": "respond"}]}, "respond"),
    ({"messages": [{"role": "system", "content": "s"}]}, None),
    (
        {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"},
                      {"role": "user", "content": "3"}, {"role": "assistant", "content": "4"}]},
        "3",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"},
                                                   {"type": "image_url", "image_url": {}}]}]},
        "What is this?",
    ),
    ({"messages": "not a list"}, None),
    ({"messages": [1, "two", None]}, None),
    ({}, None),
    ([], None),
    ("text", None),
    (None, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "prompt"), PROMPTS)
async def test_what_was_asked_is_found_in_every_kind_of_request(
    conn: Connection, body: object, prompt: str | None
) -> None:
    found = await conn.fetchval("SELECT helix_prompt_text($1::json)", json.dumps(body))
    assert found == prompt


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ('"a\\u0000b"', "ab"),
        ('"a\\ud800b"', "ab"),
        ('"a\\udc00\\ud800b"', "ab"),
        ('"\\ud83c\\udf75"', "🍵"),
        ('"back\\\\u0000slash"', "back\\u0000slash"),
        ('"\\\\\\u0000"', "\\"),
    ],
)
async def test_a_body_that_json_operators_refuse_does_not_break_the_view(
    conn: Connection, content: str, read: str
) -> None:
    request = await make_request(conn)
    text = f'{{"messages": [{{"role": "user", "content": {content}}}]}}'
    await make_request_body(conn, request, request_body=text, body_bytes=len(text))
    await make_response(conn, request)
    row = await one(conn, "llm_calls", request_id=request["id"])
    assert (row["prompt"], row["request_body"]) == (read, text)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(
        st.one_of(
            st.sampled_from('\\"u0\x00dD8\ud800\udfff\udbff\udc00🍵'),
            st.characters(exclude_categories=()),
        ),
        max_size=20,
    )
)
async def test_any_text_python_can_send_is_read_back_without_what_sql_cannot_hold(
    conn: Connection, text: str
) -> None:
    sent = json.dumps({"prompt": text})
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    found = await conn.fetchval("SELECT helix_prompt_text($1::json)", sent)
    assert found == paired.replace("\x00", "")


# ---- the other names -----------------------------------------------------------------------------


async def test_a_running_debate_is_active_under_its_other_names(conn: Connection) -> None:
    debate = await make_debate(conn, status="running", total_rounds=5, confidence=Decimal("0.5"))
    log = await one(conn, "debate_logs", id=debate["id"])
    assert pick(log, "status", "total_rounds", "confidence_score") == (
        "active",
        5,
        Decimal("0.5000"),
    )
    session = await one(conn, "debate_sessions", id=debate["id"])
    assert pick(session, "status", "created_by") == ("active", debate["created_by"])
    finished = await make_debate(conn, status="completed")
    assert (await one(conn, "debate_logs", id=finished["id"]))["status"] == "completed"


async def test_a_turn_shows_the_raw_answer_while_it_is_kept(conn: Connection) -> None:
    response = await make_response(conn)
    await make_response_body(conn, response, raw_response='{"raw": true}')
    turn = await make_argument(conn, response_id=response["id"], latency_ms=42, turn_number=2)
    row = await one(conn, "debate_turns", id=turn["id"])
    assert pick(row, "session_id", "content", "response_time", "turn_number") == (
        turn["debate_id"],
        "One key, one level.",
        42,
        2,
    )
    assert row["raw_response"] == '{"raw": true}'
    await conn.execute("DELETE FROM llm_response_bodies")
    assert (await one(conn, "debate_turns", id=turn["id"]))["raw_response"] is None


async def test_forgotten_and_merged_memories_are_not_remembered(conn: Connection) -> None:
    kept = await make_memory(conn)
    user = kept["user_id"]
    await make_memory(conn, user_id=user, deleted_at=datetime.now(UTC))
    await make_memory(conn, user_id=user, merged_into=kept["id"])
    rows = await conn.fetch("SELECT id FROM cognee_memories WHERE user_id = $1", user)
    assert [row["id"] for row in rows] == [kept["id"]]


async def test_an_edge_of_the_graph_names_both_ends(conn: Connection) -> None:
    user = await make_user(conn)
    ada = await make_entity(conn, user_id=user["id"], name="Ada")
    tea = await make_entity(conn, user_id=user["id"], name="tea")
    await insert(
        conn, "memory_relations", user_id=user["id"], subject_id=ada["id"], predicate="likes",
        object_id=tea["id"],
    )  # fmt: skip
    row = await one(conn, "cognee_graphs", user_id=user["id"])
    assert pick(row, "subject", "predicate", "object") == ("Ada", "likes", "tea")
    node = await one(conn, "cognee_entities", id=tea["id"])
    assert node["name"] == "tea"


async def test_an_event_is_named_by_its_own_id_in_memory_events(conn: Connection) -> None:
    event = await make_memory_event(conn, await make_distributed_memory(conn))
    row = await one(conn, "memory_events", event_id=event["id"])
    assert row["content"] == "Ada likes tea"


async def test_a_pattern_has_its_other_name(conn: Connection) -> None:
    pattern = await make_pattern(conn)
    row = await one(conn, "learned_patterns", id=pattern["id"])
    assert row["description"] == "Asks for tests."


async def test_a_session_shows_nothing_secret_under_its_other_name(conn: Connection) -> None:
    session = await make_session(conn, token_hash=b"x" * 32, context={"a": 1})
    row = await one(conn, "sessions", id=session["id"])
    assert row["context"] == {"a": 1}
    assert "token_hash" not in row


# ---- reports -------------------------------------------------------------------------------------


async def test_messages_stand_as_they_were_changed_last(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    said = [
        ("message.added", "m1", {"role": "user", "content": "Tea?"}),
        ("message.added", "m2", {"role": "assistant", "content": "No."}),
        ("message.added", "m3", {"role": "user", "content": "Oops"}),
        ("message.updated", "m2", {"content": "Yes."}),
        ("message.deleted", "m3", {}),
    ]
    for event_type, message, data in said:
        await make_event(
            conn, conversation, event_type=event_type, message_id=message, event_data=data
        )
    rows = await conn.fetch(
        "SELECT message_id, sequence_number, role, content FROM conversation_messages "
        "WHERE conversation_id = $1 ORDER BY sequence_number",
        conversation["id"],
    )
    assert [tuple(row) for row in rows] == [
        ("m1", 1, "user", "Tea?"),
        ("m2", 2, "assistant", "Yes."),
    ]


async def test_messages_that_were_changed_twice_keep_both_changes(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    for event_type, data in [
        ("message.added", {"role": "user", "content": "Tea?", "tone": "flat"}),
        ("message.updated", {"content": "Tea!", "tone": "flat"}),
        ("message.updated", {"content": "Tea!", "tone": "warm"}),
    ]:
        await make_event(conn, conversation, event_type=event_type, message_id="m", event_data=data)
    row = await one(conn, "conversation_messages", conversation_id=conversation["id"])
    assert row["message"] == {"role": "user", "content": "Tea!", "tone": "warm"}


async def test_what_was_spent_is_told_by_day_and_by_project(conn: Connection) -> None:
    project = await make_project(conn, name="Mill")
    last = datetime(2025, 3, 31, 23, 59, tzinfo=UTC)
    for moment, cost in [(last, "0.1"), (last, "0.2"), (last + timedelta(minutes=1), "0.4")]:
        await make_usage(
            conn, at=moment, user_id=project["user_id"], project_id=project["id"],
            cost_usd=Decimal(cost),
        )  # fmt: skip
    await conn.execute("SET LOCAL timezone = 'America/Los_Angeles'")
    days = await conn.fetch("SELECT day::text, calls, cost_usd FROM spend_by_day ORDER BY day")
    assert [tuple(row) for row in days] == [
        ("2025-03-31", 2, Decimal("0.300000000000")),
        ("2025-04-01", 1, Decimal("0.400000000000")),
    ]
    row = await one(conn, "spend_by_project", project_id=project["id"])
    assert pick(row, "project_name", "calls", "cost_usd") == (
        "Mill",
        3,
        Decimal("0.700000000000"),
    )


async def test_a_stream_is_told_in_one_row(conn: Connection) -> None:
    user = await make_user(conn)
    steps = [
        ("first_token", 0, 300, 0, 1, None),
        ("chunk", 1, 20, 2, 1, None),
        ("chunk", 11, 400, 20, 10, 90),
        ("completed", 11, 720, 0, 1, None),
    ]
    for event_type, number, latency, tokens, chunks, gap in steps:
        await insert(
            conn, "streaming_analytics", stream_id="s1", event_type=event_type,
            chunk_number=number, latency_ms=latency, tokens_delta=tokens, chunks=chunks,
            max_gap_ms=gap, user_id=user["id"],
        )  # fmt: skip
    row = await one(conn, "stream_timing", stream_id="s1")
    assert pick(row, "time_to_first_token_ms", "longest_gap_ms", "chunks", "tokens", "user_id") == (
        300,
        90,
        11,
        22,
        user["id"],
    )
    assert row["avg_gap_ms"] == Decimal("38.18")


async def test_streams_are_told_by_provider_and_hour(conn: Connection) -> None:
    moment = datetime(2026, 1, 15, 12, 34, tzinfo=UTC)
    for first, total in ((100, 1100), (300, 1300)):
        await make_response(
            conn, first_token_ms=first, latency_ms=total, chunk_count=11, tokens_completion=50,
            created_at=moment,
        )  # fmt: skip
    row = await one(conn, "provider_stream_metrics", provider_name="mock")
    assert pick(row, "hour", "streams", "p50_first_token_ms", "avg_gap_ms", "tokens_per_s") == (
        moment.replace(minute=0),
        2,
        Decimal("200.0"),
        Decimal("100.00"),
        Decimal("50.0"),
    )


async def test_recent_errors_are_those_of_a_day_newest_first(conn: Connection) -> None:
    now = datetime.now(UTC)
    await make_error(conn, at=now - timedelta(hours=25))
    first = await make_error(conn, at=now - timedelta(hours=23))
    second = await make_error(conn, at=now)
    rows = await conn.fetch("SELECT id FROM recent_errors")
    assert [row["id"] for row in rows] == [second["id"], first["id"]]


async def test_slow_requests_come_slowest_first(conn: Connection) -> None:
    for latency in (5, 900, 70):
        await make_response(conn, latency_ms=latency)
    rows = await conn.fetch("SELECT latency_ms FROM slow_requests")
    assert [row["latency_ms"] for row in rows] == [900, 70, 5]


async def test_the_queue_is_told_most_urgent_first(conn: Connection) -> None:
    for priority in ("low", "critical", "low"):
        await make_task(conn, priority=priority)
    rows = await conn.fetch("SELECT priority, status, tasks FROM task_queue")
    assert [tuple(row) for row in rows] == [("critical", "pending", 1), ("low", "pending", 2)]


async def test_a_debate_is_told_round_by_round_with_its_cost(conn: Connection) -> None:
    debate = await make_debate(conn)
    for confidence in ("0.4", "0.6"):
        response = await make_response(conn, cost_usd=Decimal("0.25"))
        await make_argument(
            conn, debate_id=debate["id"], response_id=response["id"], tokens_used=10,
            confidence=Decimal(confidence),
        )  # fmt: skip
    row = await one(conn, "debate_round_analytics", debate_id=debate["id"])
    assert pick(row, "arguments", "avg_confidence", "tokens_used", "cost_usd") == (
        2,
        Decimal("0.5000"),
        20,
        Decimal("0.500000000000"),
    )


async def test_a_conversation_is_told_with_its_pace(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    start = datetime(2026, 1, 15, tzinfo=UTC)
    for n in range(3):
        await make_event(conn, conversation, tokens=4, timestamp=start + timedelta(seconds=10 * n))
    row = await one(conn, "conversation_analytics", conversation_id=conversation["id"])
    assert pick(row, "message_count", "total_tokens", "avg_time_per_message_ms") == (
        3,
        12,
        Decimal("10000.0"),
    )
