"""Plain batches go another way than the rest: to the same rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from helix.core.db import Connection, Queries, Role, connect
from helix.core.ids import uuid7_beside
from helix.gateway.recorder import SESSION, arguments_of, document_of
from helix.gateway.types import Admission, Settlement
from tests.gateway.conftest import make_key, make_user
from tests.gateway.test_recorder import admission, completed

NOW = datetime(2026, 11, 22, 12, 0, 1, 654321, tzinfo=UTC)
TABLES = (
    ("llm_requests", "id"),
    ("llm_request_bodies", "request_id"),
    ("llm_responses", "request_id"),
    ("llm_response_bodies", "request_id"),
    ("llm_token_usage", "request_id"),
)
OWN = {"id", "request_id", "response_id", "created_at"}
ALL_ADMITTED = [None]


@pytest.fixture
async def recorder_conn(database_url: str) -> Any:
    conn = await connect(database_url, role=Role.RECORDER)
    await conn.execute("; ".join(SESSION))
    yield conn
    await conn.close()


async def run(conn: Connection, name: str, rows: Sequence[Admission] | Sequence[Settlement]) -> Any:
    statement = Queries("helix.gateway")[name]
    make = document_of if "rows" in statement.params else arguments_of
    return await conn.fetch(statement.sql, *make(statement.params, rows))


async def told(owner: Connection, request_id: UUID) -> dict[str, Any]:
    """Return every row of a request, without what is its own."""
    found = {}
    for table, column in TABLES:
        rows = await owner.fetch(f"SELECT * FROM {table} WHERE {column} = $1", request_id)
        found[table] = [{k: v for k, v in row.items() if k not in OWN} for row in rows]
    return found


def full_call(user_id: UUID, key_id: UUID) -> tuple[Admission, Settlement]:
    """Return a call in which every column that may be filled without other rows is."""
    row = admission(
        user_id,
        api_key_id=key_id,
        agent_id="crawler",
        stream=True,
        model_params='{"temperature":0.2}',
        client_request_id='theirs "1"\\',
        request_type="message",
        request_body='{"text": "\\u0000 é 🙂"}',
        task_id=user_id,
        parent_request_id=user_id,
        memory='{"memories": []}',
        ensemble_config='{"asks": []}',
        reserve_usd=Decimal("0.000000000001"),
        reserve_tokens=7,
        created_at=NOW,
    )
    end = completed(
        row,
        request_status="failed",
        completed_at=NOW,
        status="interrupted",
        error_code="upstream_cut",
        error="it broke",
        http_status=503,
        upstream_id="theirs",
        tokens_cached=2,
        tokens_reasoning=1,
        usage_estimated=True,
        latency_ms=12,
        first_token_ms=3,
        chunk_count=5,
        finish_reason="length",
        cost_usd=Decimal("12345678.123456789012"),
        content='new\nline "quoted" é 🙂',
        raw_response='{"a": "\\u0000"}',
        attempt=3,
        cached=True,
        confidence=Decimal("0.25"),
        gap_p50_ms=1,
        gap_p95_ms=2,
        gap_max_ms=3,
    )
    return row, end


async def plain_call(owner: Connection) -> tuple[Admission, Settlement]:
    user_id = await make_user(owner)
    row = admission(user_id)
    return row, completed(row, usage_id=None, content=None, raw_response=None)


def again(row: Admission, end: Settlement) -> tuple[Admission, Settlement]:
    """Return the same call under ids of its own."""
    other = msgspec.structs.replace(row, id=uuid7_beside(row.id))
    return other, msgspec.structs.replace(
        end,
        request_id=other.id,
        id=uuid7_beside(row.id),
        usage_id=None if end.usage_id is None else uuid7_beside(row.id),
    )


@pytest.mark.parametrize("kind", ["full", "bare"])
async def test_both_ways_write_the_same(
    owner: Connection, recorder_conn: Connection, kind: str
) -> None:
    if kind == "full":
        user_id = await make_user(owner)
        key = await make_key(owner, user_id)
        one = full_call(user_id, key.record.id)
        # The window of a key is made by its first call, which goes the long way.
        await run(recorder_conn, "admit_new_calls", [again(*one)[0]])
    else:
        one = await plain_call(owner)
    two = again(*one)
    long_way = await run(recorder_conn, "admit_calls", [one[0]])
    assert [row["decision"] for row in long_way] == ["admitted"]
    plain = await run(recorder_conn, "admit_new_calls", [two[0]])
    assert [row["decision"] for row in plain] == ["admitted"]
    if kind == "full":
        assert [row["request_id"] for row in plain] == ALL_ADMITTED
    assert len(await run(recorder_conn, "settle_calls", [one[1]])) == 1
    assert (await run(recorder_conn, "settle_final_calls", [two[1]]))[0]["unwritten"] is None
    rows = await told(owner, one[0].id)
    assert rows == await told(owner, two[0].id)
    assert len(rows["llm_requests"]) == len(rows["llm_responses"]) == 1
    assert len(rows["llm_token_usage"]) == (1 if kind == "full" else 0)


async def test_repeated_settlement_writes_nothing_and_says_so(
    owner: Connection, recorder_conn: Connection
) -> None:
    row, end = await plain_call(owner)
    await run(recorder_conn, "admit_new_calls", [row])
    assert (await run(recorder_conn, "settle_final_calls", [end]))[0]["unwritten"] is None
    other = msgspec.structs.replace(end, id=uuid7_beside(row.id))
    (told_of,) = await run(recorder_conn, "settle_final_calls", [other])
    assert told_of["unwritten"] == [other.id]
    assert await owner.fetchval("SELECT count(*) FROM llm_responses") == 1


async def test_plain_batch_counts_all_or_nothing(
    owner: Connection, recorder_conn: Connection
) -> None:
    user_id = await make_user(owner)
    key = await make_key(owner, user_id, rate_limit=10)
    keys = [key.record.id]

    async def fits(calls: int) -> bool:
        return bool(
            await recorder_conn.fetchval(
                "SELECT helix_admit_plain($1::uuid[], $2::uuid[])", [user_id] * calls, keys * calls
            )
        )

    assert not await fits(1)  # no window yet: helix_admit() makes it
    await run(recorder_conn, "admit_new_calls", [admission(user_id, api_key_id=keys[0])])
    assert await fits(6)
    assert not await fits(4)
    assert await fits(3)
    assert await owner.fetchval("SELECT requests FROM rate_windows") == 10
    await owner.execute("UPDATE api_keys SET rate_limit = 100")
    for change in (
        "UPDATE api_keys SET tokens_per_minute = 5",
        "UPDATE api_keys SET tokens_per_minute = NULL, parallel_max = 5",
        "UPDATE api_keys SET parallel_max = NULL, expires_at = now() - interval '1 second'",
    ):
        await owner.execute(change)
        assert not await fits(1), change
    await owner.execute("UPDATE api_keys SET expires_at = NULL")
    assert await fits(1)
    await owner.execute("UPDATE users SET parallel_max = 3 WHERE id = $1", user_id)
    assert not await fits(1)
    await owner.execute("UPDATE users SET parallel_max = NULL WHERE id = $1", user_id)
    await owner.execute(
        "INSERT INTO budgets (user_id, scope, period, limit_usd) VALUES ($1, 'user', 'day', 1)",
        user_id,
    )
    assert not await fits(1)
    await owner.execute("DELETE FROM budgets")
    assert await fits(1)
    await owner.execute("UPDATE api_keys SET status = 'revoked', revoked_at = now()")
    assert not await fits(1)


async def test_cost_is_charged_to_budgets_on_the_plain_way_too(
    owner: Connection, recorder_conn: Connection
) -> None:
    user_id = await make_user(owner)
    await owner.execute(
        "INSERT INTO budgets (user_id, scope, period, limit_usd) VALUES ($1, 'user', 'total', 1)",
        user_id,
    )
    row = admission(user_id, reserve_usd=Decimal("0.5"))
    end = completed(row, cost_usd=Decimal("0.125"))
    (verdict,) = await run(recorder_conn, "admit_new_calls", [row])
    assert (verdict["request_id"], verdict["decision"]) == (row.id, "admitted")
    await run(recorder_conn, "settle_final_calls", [end])
    period = await owner.fetchrow("SELECT reserved_usd, settled_usd FROM budget_periods")
    assert (period["reserved_usd"], period["settled_usd"]) == (0, Decimal("0.125"))
