"""The recorder: shared commits, bad rows alone, each row once; and the sweep after a crash."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database, Queries, Role, connect
from helix.core.ids import uuid7
from helix.gateway.errors import CallInterrupted, NotRecorded
from helix.gateway.metrics import Metrics
from helix.gateway.recorder import SESSION, Recorder, Unstorable
from helix.gateway.settle import given_up, settlement
from helix.gateway.store import Store
from helix.gateway.sweep import Sweep, SweepTimes
from helix.gateway.types import Admission, Outcome, Settlement, Verdict
from helix.ledger import Charge, Usage
from tests.gateway.conftest import Stack, make_user

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
LEASE, OTHER_LEASE = 4_711, 4_712


def admission(user_id: UUID, number: int = 0, **fields: Any) -> Admission:
    row = Admission(
        id=uuid7(int(NOW.timestamp() * 1_000)),
        user_id=user_id,
        api_key_id=None,
        session_id=None,
        project_id=None,
        agent_id=None,
        model_name="mock/echo",
        stream=False,
        model_params="{}",
        idempotency_key=None,
        client_request_id=None,
        metadata=f'{{"lease": {LEASE}}}',
        created_at=NOW,
        request_body=f'{{"number": {number}}}',
        body_bytes=20,
    )
    return msgspec.structs.replace(row, **fields)


def completed(row: Admission, **fields: Any) -> Settlement:
    end = settlement(
        row,
        outcome=Outcome.COMPLETED,
        now=NOW,
        provider_id=None,
        provider_name="mock",
        model_name="mock/echo",
        latency_s=0.25,
        usage=Usage(3, 4),
        charge=Charge(Decimal("0.000000000001"), None),
        content="hello",
        raw_response='{"a": 1}',
    )
    return msgspec.structs.replace(end, **fields)


@pytest.fixture
async def recorder(database_url: str) -> AsyncIterator[Recorder]:
    made = Recorder(
        database_url,
        clock=SystemClock(),
        metrics=Metrics(),
        lease=LEASE,
        batch_max=256,
        wait_s=5.0,
    )
    made.start(lambda row: given_up(row, error=NotRecorded(), now=NOW))
    yield made
    await made.drain(10)
    await made.stop()


@pytest.fixture
async def user_id(owner: Connection) -> UUID:
    return await make_user(owner)


async def rows(owner: Connection, table: str) -> int:
    return int(await owner.fetchval(f"SELECT count(*) FROM {table}"))


async def test_an_idle_recorder_holds_no_table(recorder: Recorder, owner: Connection) -> None:
    async with asyncio.timeout(10):
        while not recorder.connected:  # noqa: ASYNC110 - nobody tells that it is
            await asyncio.sleep(0.01)
    held = await owner.fetch(
        "SELECT a.application_name, c.relname FROM pg_locks AS l "
        "JOIN pg_stat_activity AS a USING (pid) JOIN pg_class AS c ON c.oid = l.relation "
        "WHERE a.datname = current_database() AND a.application_name LIKE 'helix recorder%' "
        "AND c.relnamespace = 'public'::regnamespace"  # an idle backend may read its catalogue
    )
    assert held == []


async def test_many_calls_share_a_commit(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    await recorder.admit(admission(user_id))
    await asyncio.gather(*(recorder.admit(admission(user_id, n)) for n in range(200)))
    transactions = await owner.fetchval("SELECT count(DISTINCT xmin::text) FROM llm_requests")
    assert await rows(owner, "llm_requests") == 201
    assert await rows(owner, "llm_request_bodies") == 201
    assert transactions <= 3


async def test_what_is_told_to_be_recorded_is_committed(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id)
    await recorder.admit(row)
    assert (
        await owner.fetchval("SELECT status FROM llm_requests WHERE id = $1", row.id) == "running"
    )
    await recorder.settle(completed(row))
    end = await owner.fetchrow(
        "SELECT q.status, r.cost_usd, r.tokens_total, r.latency_ms, b.content, t.output_tokens"
        " FROM llm_requests q JOIN llm_responses r ON r.request_id = q.id"
        " JOIN llm_response_bodies b ON b.response_id = r.id"
        " JOIN llm_token_usage t ON t.response_id = r.id"
    )
    assert tuple(end) == ("completed", Decimal("0.000000000001"), 7, 250, "hello", 4)


@pytest.mark.parametrize(
    "bad",
    [
        {"request_body": "{not json"},
        {"request_body": '"\ud800"'},
        {"model_params": "{"},
        {"model_name": "x" * 300},
        {"body_bytes": 2**40},
        {"project_id": UUID(int=7)},
        {"agent_id": "nul\0"},
    ],
)
async def test_bad_row_takes_no_other_call_down(
    recorder: Recorder, owner: Connection, user_id: UUID, bad: dict[str, Any]
) -> None:
    good = [admission(user_id, n) for n in range(30)]
    batch = [*good[:17], admission(user_id, **bad), *good[17:]]
    results = await asyncio.gather(*(recorder.admit(row) for row in batch), return_exceptions=True)
    assert isinstance(results[17], Unstorable)
    assert [one for one in results if not isinstance(one, Verdict)] == [results[17]]
    assert await rows(owner, "llm_requests") == 30


async def test_bad_settlement_takes_no_other_call_down(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    requests = [admission(user_id, n) for n in range(10)]
    await asyncio.gather(*(recorder.admit(row) for row in requests))
    ends = [completed(row) for row in requests]
    ends[3] = msgspec.structs.replace(ends[3], raw_response="{")
    results = await asyncio.gather(*(recorder.settle(end) for end in ends), return_exceptions=True)
    assert [type(one) for one in results if one is not None] == [Unstorable]
    assert await rows(owner, "llm_responses") == 9


async def test_request_is_settled_once(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id)
    await recorder.admit(row)
    await recorder.settle(completed(row))
    with pytest.raises(CallInterrupted):
        await recorder.settle(completed(row))
    with pytest.raises(CallInterrupted):
        await recorder.settle(completed(admission(user_id)))
    assert await rows(owner, "llm_responses") == 1
    assert await rows(owner, "llm_token_usage") == 1


async def test_attempts_are_recorded_and_charged_before_the_end(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id)
    await recorder.admit(row)
    failed = completed(row, status="failed", error_code="upstream_failed")
    await recorder.respond(failed)
    assert await owner.fetchval("SELECT status FROM llm_requests") == "running"
    assert await rows(owner, "llm_token_usage") == 1
    await recorder.settle(completed(row, attempt=2))
    answers = await owner.fetch("SELECT attempt, selected FROM llm_responses ORDER BY attempt")
    assert [tuple(answer) for answer in answers] == [(1, False), (2, True)]
    with pytest.raises(CallInterrupted):
        await recorder.respond(completed(row, attempt=3))


async def test_attempt_in_the_batch_of_the_end_is_recorded_too(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id)
    await recorder.admit(row)
    ends = [completed(row, attempt=3), completed(row, attempt=1), completed(row, attempt=2)]
    await asyncio.gather(
        recorder.respond(ends[1]), recorder.respond(ends[2]), recorder.settle(ends[0])
    )
    answers = await owner.fetch("SELECT attempt, selected FROM llm_responses ORDER BY attempt")
    assert [tuple(answer) for answer in answers] == [(1, False), (2, False), (3, True)]


async def test_a_candidate_is_chosen_once(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id)
    await recorder.admit(row)
    first, second = completed(row, attempt=1), completed(row, attempt=2)
    await asyncio.gather(recorder.respond(first), recorder.respond(second))
    await recorder.choose(row, second.id, now=NOW, confidence=Decimal("0.75"))
    with pytest.raises(CallInterrupted):
        await recorder.choose(row, first.id, now=NOW)
    answers = await owner.fetch(
        "SELECT attempt, selected, confidence FROM llm_responses ORDER BY attempt"
    )
    assert [tuple(one) for one in answers] == [(1, False, None), (2, True, Decimal("0.7500"))]
    assert await owner.fetchval("SELECT status FROM llm_requests") == "completed"
    assert await rows(owner, "llm_token_usage") == 2


async def test_candidates_and_their_choice_may_come_at_once(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    """A statement does not see what it inserts: the choice must wait for the batch before it."""
    calls = [admission(user_id, n) for n in range(5)]
    await asyncio.gather(*(recorder.admit(row) for row in calls))
    told = []
    for row in calls:
        first, second = completed(row, attempt=1), completed(row, attempt=2)
        told += [recorder.respond(first), recorder.respond(second)]
        told.append(recorder.choose(row, second.id, now=NOW))
    assert await asyncio.gather(*told) == [None] * 15
    found = await owner.fetch(
        "SELECT q.status, count(*) AS n, array_agg(r.attempt) FILTER (WHERE r.selected) AS chosen"
        " FROM llm_requests q JOIN llm_responses r ON r.request_id = q.id GROUP BY q.id"
    )
    assert [tuple(row) for row in found] == [("completed", 2, [2])] * 5
    assert await rows(owner, "llm_token_usage") == 10


async def test_attempt_and_the_end_of_its_request_may_come_at_once(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    calls = [admission(user_id, n) for n in range(5)]
    await asyncio.gather(*(recorder.admit(row) for row in calls))
    told = []
    for row in calls:
        told.append(recorder.respond(completed(row, attempt=1)))
        told.append(recorder.settle(completed(row, attempt=2)))
    assert await asyncio.gather(*told) == [None] * 10
    found = await owner.fetch(
        "SELECT request_id, array_agg(attempt ORDER BY attempt) AS tries,"
        " array_agg(attempt) FILTER (WHERE selected) AS chosen"
        " FROM llm_responses GROUP BY 1"
    )
    assert [tuple(row)[1:] for row in found] == [([1, 2], [2])] * 5


async def test_only_a_candidate_of_the_request_can_be_chosen(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    mine, other = admission(user_id), admission(user_id)
    await asyncio.gather(recorder.admit(mine), recorder.admit(other))
    candidate = completed(other)
    await recorder.respond(candidate)
    with pytest.raises(CallInterrupted):
        await recorder.choose(mine, candidate.id, now=NOW)
    states = await owner.fetch("SELECT DISTINCT status FROM llm_requests")
    assert [state["status"] for state in states] == ["running"]


async def test_failed_call_without_tokens_uses_nothing(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id)
    await recorder.admit(row)
    await recorder.settle(given_up(row, error=NotRecorded(), now=NOW))
    assert await rows(owner, "llm_token_usage") == 0
    assert await rows(owner, "llm_response_bodies") == 0
    assert await owner.fetchval("SELECT error_code FROM llm_responses") == "not_recorded"


def test_settling_looks_its_requests_up_by_key(shared_database_url: str) -> None:
    """What the plan must not be: a scan of a table, or of all ids between two."""
    statement = Queries("helix.gateway")["settle_calls"]
    with psycopg.connect(shared_database_url) as conn:
        conn.execute(f"SET ROLE {Role.RECORDER}")
        for setting in SESSION:
            conn.execute(setting.encode())
        found = conn.execute(f"EXPLAIN (GENERIC_PLAN, COSTS OFF) {statement.sql}".encode())
        lines = [str(row[0]).strip() for row in found.fetchall()]
    scans = [n for n, line in enumerate(lines) if " Scan " in line and "llm_requests" in line]
    assert scans
    for number in scans:
        assert "Index Scan using llm_requests_" in lines[number]
        assert "_pkey on" in lines[number]
        assert "= ANY" in lines[number + 1] or "= b.request_id" in lines[number + 1]
        assert lines[number + 1].startswith("Index Cond:")
    assert not [line for line in lines if "Seq Scan" in line]


# ---- the sweep


@pytest.fixture
async def sweep(db: Database, recorder: Recorder) -> Sweep:
    times = SweepTimes(grace_s=0, pause_s=0, every_s=60)
    return Sweep(db, Store(), recorder, SystemClock(), lease=LEASE, times=times)


async def test_requests_of_a_dead_gateway_are_closed(
    sweep: Sweep, recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    left = [admission(user_id, n, metadata=f'{{"lease": {OTHER_LEASE}}}') for n in range(3)]
    ours = admission(user_id)
    await asyncio.gather(*(recorder.admit(row) for row in [*left, ours]))
    assert await sweep.once() == 3
    states = await owner.fetch(
        "SELECT q.status, r.status AS answer, r.error_code FROM llm_requests q"
        " LEFT JOIN llm_responses r ON r.request_id = q.id ORDER BY q.status"
    )
    assert [tuple(state) for state in states] == [
        ("failed", "interrupted", "gateway_died"),
        ("failed", "interrupted", "gateway_died"),
        ("failed", "interrupted", "gateway_died"),
        ("running", None, None),
    ]
    assert await sweep.once() == 0


async def test_requests_of_a_living_gateway_are_left_alone(
    sweep: Sweep, recorder: Recorder, owner: Connection, user_id: UUID, database_url: str
) -> None:
    row = admission(user_id, metadata=f'{{"lease": {OTHER_LEASE}}}')
    await recorder.admit(row)
    neighbour = await connect(database_url, role=Role.RECORDER)
    await neighbour.execute("SELECT pg_try_advisory_lock_shared($1)", OTHER_LEASE)
    assert await sweep.once() == 0
    assert (
        await owner.fetchval("SELECT status FROM llm_requests WHERE id = $1", row.id) == "running"
    )
    await neighbour.close()
    async with asyncio.timeout(10):
        while not await sweep.once():  # noqa: ASYNC110 - a lock tells nobody
            await asyncio.sleep(0.01)


async def test_settlement_that_comes_after_the_sweep_writes_nothing(
    sweep: Sweep, recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    row = admission(user_id, metadata=f'{{"lease": {OTHER_LEASE}}}')
    await recorder.admit(row)
    await sweep.once()
    with pytest.raises(CallInterrupted):
        await recorder.settle(completed(row))
    assert await rows(owner, "llm_responses") == 1
    assert await owner.fetchval("SELECT status FROM llm_responses") == "interrupted"


async def test_requests_that_no_gateway_wrote_are_left_alone(
    sweep: Sweep, owner: Connection, user_id: UUID
) -> None:
    await owner.execute(
        "INSERT INTO llm_requests (user_id, model_name, status) VALUES ($1, 'x', 'pending')",
        user_id,
    )
    assert await sweep.once() == 0


async def test_gateway_holds_its_lease_while_it_runs(stack: Stack) -> None:
    await stack.chat()
    held = await stack.owner.fetchval(
        "SELECT count(*) FROM llm_requests q JOIN pg_locks l ON l.locktype = 'advisory'"
        " AND ((l.classid::bigint << 32) | l.objid::bigint) = (q.metadata ->> 'lease')::bigint"
    )
    assert held == 2  # both lanes hold it


async def test_stopping_gateway_cuts_calls_off_and_settles_them(stack: Stack) -> None:
    stack.gateway._drain_timeout_s = 0.1
    streaming = asyncio.create_task(stack.chat(model="up/held", stream=True))
    asking = asyncio.create_task(stack.chat(model="up/silent"))
    async with asyncio.timeout(5):
        while len(stack.upstream.calls) < 2:  # noqa: ASYNC110 - two requests
            await asyncio.sleep(0.005)
    await stack.gateway.stop()
    refused = await asking
    told = await streaming
    assert refused.status == 503
    assert refused.error["code"] == "stopping"
    assert '"code":"stopping"' in told.events[-1]
    assert await rows(stack.owner, "llm_responses") == 2
    open_requests = "SELECT count(*) FROM llm_requests WHERE status = 'running'"
    assert await stack.owner.fetchval(open_requests) == 0
