"""How the arrivals of a stream lay apart: kept small, exact for what is kept, rows if asked for."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix.gateway.timing import GAPS_KEPT_MAX, Arrivals, Gaps
from tests.gateway.conftest import Stack


@pytest.fixture
def options() -> dict[str, Any]:
    return {"stream_sample_ratio": 1.0, "drain_timeout_s": 2}


def test_gaps_are_between_arrivals_by_nearest_rank() -> None:
    arrivals = Arrivals()
    now_s = 10.0
    arrivals.note(now_s, chunks=1)
    for number in range(1, 101):
        now_s += number / 1_000
        arrivals.note(now_s, chunks=number + 1)
    assert arrivals.gaps() == Gaps(p50_ms=50, p95_ms=95, max_ms=100)


def test_one_arrival_has_no_gap() -> None:
    arrivals = Arrivals()
    arrivals.note(1.0, chunks=5)
    assert arrivals.gaps() is None


@given(st.lists(st.floats(0, 10), min_size=2, max_size=300))
def test_gaps_are_in_order_and_the_longest_is_never_lost(gaps_s: list[float]) -> None:
    arrivals, now_s = Arrivals(), 0.0
    arrivals.note(now_s, chunks=1)
    for number, gap_s in enumerate(gaps_s):
        now_s += gap_s
        arrivals.note(now_s, chunks=number + 2)
    found = arrivals.gaps()
    assert found is not None
    assert 0 <= found.p50_ms <= found.p95_ms <= found.max_ms
    assert abs(found.max_ms - max(gaps_s) * 1_000) <= 1


def test_a_million_arrivals_stay_small() -> None:
    arrivals = Arrivals()
    for number in range(1_000_000):
        arrivals.note(number * 0.001, chunks=number + 1)
    assert len(arrivals._gaps_s) <= GAPS_KEPT_MAX
    assert arrivals.gaps() == Gaps(1, 1, 1)


async def test_sampled_stream_leaves_rows_and_every_stream_its_totals(stack: Stack) -> None:
    answer = await stack.chat(model="up/gpt-4", stream=True)
    request_id = UUID(answer.headers["x-request-id"])
    await stack.gateway._after.drain(10)
    response = await stack.owner.fetchrow(
        "SELECT * FROM llm_responses WHERE request_id = $1", request_id
    )
    rows = await stack.owner.fetch(
        "SELECT * FROM streaming_analytics WHERE stream_id = $1 ORDER BY id, chunk_number",
        str(response["id"]),
    )
    kinds = sorted(row["event_type"] for row in rows)
    assert kinds[-1] == "first_token"
    assert kinds.count("completed") == 1
    assert {row["user_id"] for row in rows} == {stack.user_id}
    last = next(row for row in rows if row["event_type"] == "completed")
    assert last["chunk_number"] == response["chunk_count"]
    assert last["tokens_delta"] == response["tokens_completion"] == 7
    assert response["gap_p50_ms"] is None or response["gap_p50_ms"] <= response["gap_max_ms"]
