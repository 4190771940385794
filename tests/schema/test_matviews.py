"""The materialized views: what each says of rows whose answer is known."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from helix.core.db import Connection
from tests.factories import (
    id_at,
    insert,
    make_benchmark,
    make_conversation,
    make_error,
    make_event,
    make_mcp_server,
    make_model,
    make_price,
    make_provider,
    make_request,
    make_response,
    make_session,
    make_task,
    make_usage,
    make_user,
)

MATVIEWS = """
    mv_daily_stats mv_mcp_server_health mv_model_capabilities mv_protocol_metrics_agg
    mv_provider_performance mv_provider_performance_summary mv_recent_conversation_activity
    mv_request_analytics_hourly mv_session_stats_daily mv_task_statistics
""".split()


async def refreshed(conn: Connection, view: str, *columns: str) -> list[tuple[Any, ...]]:
    """Refresh a view without blocking its readers and return these columns, sorted."""
    await conn.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
    rows = await conn.fetch(f"SELECT {', '.join(columns)} FROM {view}")
    return sorted((tuple(row) for row in rows), key=str)


@pytest.mark.parametrize("view", MATVIEWS)
async def test_a_view_is_refreshed_twice_over_every_kind_of_row(
    both: Connection, view: str
) -> None:
    for _ in range(2):
        await both.execute(f"REFRESH MATERIALIZED VIEW CONCURRENTLY {view}")
    assert await both.fetchval(f"SELECT count(*) FROM {view}") > 0


async def test_daily_stats_sum_up_a_day(conn: Connection) -> None:
    day = datetime(2025, 3, 31, 1, tzinfo=UTC)
    ada, bob = await make_user(conn), await make_user(conn)
    for user, model, cost in [(ada, "a", "0.1"), (ada, "b", "0.2"), (bob, "b", "0.000000000001")]:
        await make_usage(
            conn, at=day, user_id=user["id"], model=model, input_tokens=5, output_tokens=10,
            cost_usd=Decimal(cost),
        )  # fmt: skip
    await make_error(conn, at=day)
    await make_error(conn, at=day + timedelta(days=1))
    found = await refreshed(
        conn, "mv_daily_stats", "day", "total_calls", "unique_users", "models_used",
        "providers_used", "input_tokens", "output_tokens", "total_tokens", "total_cost",
        "error_count",
    )  # fmt: skip
    assert found == [
        (date(2025, 3, 31), 3, 2, 2, 1, 15, 30, 45, Decimal("0.300000000001"), 1),
        (date(2025, 4, 1), 0, 0, 0, 0, 0, 0, 0, Decimal(0), 1),
    ]


async def test_daily_stats_stay_when_usage_and_errors_are_archived(conn: Connection) -> None:
    first = datetime(2025, 3, 30, 23, 30, tzinfo=UTC)
    for n in range(5):
        await make_usage(conn, at=first + timedelta(hours=12 * n), cost_usd=Decimal("0.1"))
    await make_error(conn, at=first)
    columns = ("day", "total_calls", "unique_users", "total_cost", "error_count")
    before = await refreshed(conn, "mv_daily_stats", *columns)
    assert [row[1] for row in before] == [1, 2, 2]

    await conn.execute(
        "SELECT helix_refresh_usage_rollups($1, $2)", first, first + timedelta(days=3)
    )
    assert await refreshed(conn, "mv_daily_stats", *columns) == before
    await conn.execute("ALTER TABLE llm_token_usage DISABLE TRIGGER USER")
    await conn.execute("DELETE FROM llm_token_usage WHERE timestamp < '2025-04-01'")
    await conn.execute(
        "WITH gone AS (DELETE FROM error_log RETURNING created_at, category, code) "
        "INSERT INTO error_log_summary (date, category, code, count) "
        "SELECT (created_at AT TIME ZONE 'UTC')::date, category, code, count(*) FROM gone "
        "GROUP BY 1, 2, 3"
    )
    assert await refreshed(conn, "mv_daily_stats", *columns) == before


async def test_performance_of_a_provider_is_of_the_last_day(conn: Connection) -> None:
    now = datetime.now(UTC)
    for latency, status in [(100, "completed"), (200, "completed"), (300, "failed")]:
        request = await make_request(conn, at=now - timedelta(hours=1))
        await make_response(
            conn, request, latency_ms=latency, status=status, cost_usd=Decimal("0.5"),
            first_token_ms=latency // 10,
        )  # fmt: skip
    await make_response(conn, await make_request(conn, at=now - timedelta(hours=25)))
    columns = (
        "provider_name", "model_name", "total_requests", "successful_requests", "failed_requests",
        "success_rate", "avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p50_first_token_ms",
        "total_tokens", "total_cost",
    )  # fmt: skip
    assert await refreshed(conn, "mv_provider_performance", *columns) == [
        (
            "mock", "mock/echo", 3, 2, 1, Decimal("0.6667"), Decimal("200.0"), Decimal("200.0"),
            Decimal("290.0"), Decimal("20.0"), 45, Decimal("1.500000000000"),
        )
    ]  # fmt: skip


async def test_performance_over_a_week_stands_beside_the_registry(conn: Connection) -> None:
    provider = await make_provider(
        conn, name="acme", health_status="degraded", verification_score=Decimal("7.5")
    )
    for days, confidence in [(1, "0.9"), (6, None), (8, None)]:
        request = await make_request(conn, at=datetime.now(UTC) - timedelta(days=days))
        await make_response(
            conn, request, provider_id=provider["id"], provider_name="acme",
            confidence=confidence and Decimal(confidence), cached=days == 6,
        )  # fmt: skip
    columns = (
        "provider_name", "health_status", "verification_score", "total_requests", "ensemble_wins",
        "cached_answers",
    )  # fmt: skip
    assert await refreshed(conn, "mv_provider_performance_summary", *columns) == [
        ("acme", "degraded", Decimal("7.50"), 2, 1, 1)
    ]


async def test_requests_are_counted_by_the_hour_with_all_their_answers(conn: Connection) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    answered = await make_request(conn, at=hour + timedelta(minutes=1), status="completed")
    for latency in (100, 300):
        await make_response(conn, answered, latency_ms=latency, cost_usd=Decimal("0.1"))
    await make_request(conn, at=hour + timedelta(minutes=59), stream=True)
    await make_request(conn, at=hour - timedelta(days=8))
    columns = (
        "hour", "model_name", "request_type", "total_requests", "completed_requests",
        "open_requests", "streamed_requests", "unique_users", "responses", "total_tokens",
        "total_cost", "avg_latency_ms",
    )  # fmt: skip
    assert await refreshed(conn, "mv_request_analytics_hourly", *columns) == [
        (
            hour, "mock/echo", "chat", 2, 1, 1, 1, 2, 2, 30, Decimal("0.200000000000"),
            Decimal("300.0"),
        )
    ]  # fmt: skip


async def test_sessions_are_counted_by_the_day_they_were_opened(conn: Connection) -> None:
    now = datetime.now(UTC)
    user = await make_user(conn)
    for status, requests in [("active", 3), ("revoked", 1)]:
        await make_session(
            conn, user_id=user["id"], status=status, request_count=requests, created_at=now,
            last_activity=now + timedelta(seconds=60),
        )  # fmt: skip
    await make_session(conn, created_at=now - timedelta(days=31))
    columns = (
        "day", "total_sessions", "active_sessions", "revoked_sessions", "unique_users",
        "total_requests", "avg_requests_per_session", "avg_duration_s",
    )  # fmt: skip
    assert await refreshed(conn, "mv_session_stats_daily", *columns) == [
        (now.date(), 2, 1, 1, 1, 4, Decimal("2.00"), Decimal("60.0"))
    ]


async def test_tasks_are_counted_by_type_state_and_priority(conn: Connection) -> None:
    now = datetime.now(UTC)
    for ran in (2, 4):
        await make_task(
            conn, status="completed", priority="high", scheduled_at=now, created_at=now,
            started_at=now + timedelta(seconds=1),
            completed_at=now + timedelta(seconds=1 + ran), retry_count=1,
        )  # fmt: skip
    await make_task(conn)
    await make_task(conn, id=id_at(now - timedelta(hours=25)))
    columns = ("task_type", "status", "priority", "task_count", "avg_retries", "avg_wait_ms",
               "avg_run_ms")  # fmt: skip
    assert await refreshed(conn, "mv_task_statistics", *columns) == [
        ("echo", "completed", "high", 2, Decimal("1.00"), Decimal("1000.0"), Decimal("3000.0")),
        ("echo", "pending", "normal", 1, Decimal("0.00"), None, None),
    ]


async def test_a_model_shows_its_price_now_and_its_benchmarks(conn: Connection) -> None:
    provider = await make_provider(conn, name="acme")
    model = await make_model(
        conn, provider_id=provider["id"], model_name="large", supports_vision=True
    )
    await make_model(conn, provider_id=provider["id"], model_name="unknown")
    for name, score in [("MMLU", 80), ("HumanEval", 90)]:
        await make_benchmark(
            conn, model_id=model["id"], benchmark_name=name, score=score, normalized_score=score
        )
    await make_price(conn, model="large", input_cost_per_million=Decimal(9))
    await make_price(conn, model="acme/large", input_cost_per_million=Decimal(1))
    await make_price(
        conn, model="acme/large", input_cost_per_million=Decimal(2),
        effective_date=datetime(2025, 6, 1, tzinfo=UTC),
    )  # fmt: skip
    await make_price(
        conn, model="acme/large", input_cost_per_million=Decimal(3),
        effective_date=datetime.now(UTC) + timedelta(days=9),
    )  # fmt: skip
    columns = (
        "model_name", "supports_vision", "input_cost_per_million", "benchmark_count",
        "avg_normalized_score",
    )  # fmt: skip
    assert await refreshed(conn, "mv_model_capabilities", *columns) == [
        ("large", True, Decimal("2.000000"), 2, Decimal("85.00")),
        ("unknown", False, None, 0, None),
    ]


async def test_an_mcp_server_nobody_used_is_listed_with_nothing(conn: Connection) -> None:
    used = await make_mcp_server(conn, name="a-used")
    await make_mcp_server(conn, name="b-idle")
    await insert(conn, "mcp_tools", server_id=used["id"], name="on")
    await insert(conn, "mcp_tools", server_id=used["id"], name="off", enabled=False)
    now = datetime.now(UTC)
    for status, took, age in [
        ("success", 10, 1),
        ("timeout", 30, 59),
        ("error", 500, 61),
    ]:
        await insert(
            conn, "protocol_metrics", id=id_at(now - timedelta(minutes=age)), protocol="mcp",
            server_id=used["id"], operation="call", status=status, duration_ms=took,
        )  # fmt: skip
    columns = ("name", "enabled_tools", "operations", "successes", "errors", "timeouts",
               "success_rate", "avg_duration_ms")  # fmt: skip
    assert await refreshed(conn, "mv_mcp_server_health", *columns) == [
        ("a-used", 1, 2, 1, 0, 1, Decimal("0.5000"), Decimal("20.0")),
        ("b-idle", 0, 0, 0, 0, 0, None, None),
    ]
    columns = ("protocol", "operation", "operations", "successes", "errors", "timeouts")
    assert await refreshed(conn, "mv_protocol_metrics_agg", *columns) == [
        ("mcp", "call", 3, 1, 1, 1)
    ]


async def test_a_conversation_is_alive_for_a_day(conn: Connection) -> None:
    conversation = await make_conversation(conn)
    await make_event(conn, conversation, tokens=4)
    await make_event(conn, conversation, event_type="debate.started", entity_count=2)
    silent = await make_conversation(conn)
    await make_event(conn, silent, id=id_at(datetime.now(UTC) - timedelta(hours=25)))
    columns = ("conversation_id", "event_count", "message_count", "debates_started",
               "entity_count", "total_tokens", "last_sequence")  # fmt: skip
    assert await refreshed(conn, "mv_recent_conversation_activity", *columns) == [
        (conversation["id"], 2, 1, 1, 2, 4, 2)
    ]
