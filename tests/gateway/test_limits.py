"""Limits, budgets and claims: exact, however many recorders decide at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helix.core.clock import SystemClock
from helix.core.db import Connection, Database
from helix.core.ids import uuid7, uuid7_beside
from helix.gateway.errors import KeyReused, NotRecorded
from helix.gateway.metrics import Metrics
from helix.gateway.recorder import Recorder
from helix.gateway.refusals import refused
from helix.gateway.settle import given_up
from helix.gateway.store import Store
from helix.gateway.sweep import Sweep, SweepTimes
from helix.gateway.types import Admission, Decision, Verdict
from tests.gateway.conftest import make_key, make_user
from tests.gateway.test_recorder import LEASE, NOW, OTHER_LEASE, admission, completed, rows

DOLLAR = Decimal(1)


@asynccontextmanager
async def recorders(url: str, count: int) -> AsyncIterator[list[Recorder]]:
    """As many recorders as there would be processes: each has connections of its own."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            one = Recorder(
                url,
                clock=SystemClock(),
                metrics=Metrics(),
                lease=LEASE + number,
                batch_max=64,
                wait_s=20.0,
            )
            one.start(lambda row: given_up(row, error=NotRecorded(), now=NOW))
            stack.push_async_callback(one.stop)
            stack.push_async_callback(one.drain, 10)
            made.append(one)
        yield made


@pytest.fixture
async def recorder(database_url: str) -> AsyncIterator[Recorder]:
    async with recorders(database_url, 1) as (one,):
        yield one


@pytest.fixture
async def user_id(owner: Connection) -> UUID:
    return await make_user(owner)


async def make_limited_key(owner: Connection, user_id: UUID, **limits: Any) -> UUID:
    made = await make_key(owner, user_id, rate_limit=limits.pop("rate_limit", 100_000))
    for column, value in limits.items():
        await owner.execute(
            f"UPDATE api_keys SET {column} = $2 WHERE id = $1", made.record.id, value
        )
    return made.record.id


async def make_budget(owner: Connection, user_id: UUID, limit_usd: Decimal, **of: Any) -> UUID:
    budget_id = uuid4()
    given = {"scope": "user", "period": "day", **of}
    await owner.execute(
        "INSERT INTO budgets (id, user_id, scope, period, limit_usd, api_key_id, project_id,"
        " agent_id, hard) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        budget_id,
        user_id,
        given["scope"],
        given["period"],
        limit_usd,
        given.get("api_key_id"),
        given.get("project_id"),
        given.get("agent_id"),
        given.get("hard", True),
    )
    return budget_id


def count(verdicts: list[Verdict], decision: Decision) -> int:
    return sum(verdict.decision is decision for verdict in verdicts)


async def of_period(owner: Connection, budget_id: UUID) -> tuple[Decimal, Decimal]:
    row = await owner.fetchrow(
        "SELECT reserved_usd, settled_usd FROM budget_periods WHERE budget_id = $1", budget_id
    )
    return row["reserved_usd"], row["settled_usd"]


# ---- requests, tokens and parallel calls


@pytest.mark.parametrize("processes", [1, 4])
async def test_exactly_the_limit_of_many_parallel_calls_is_admitted(
    database_url: str, owner: Connection, user_id: UUID, processes: int
) -> None:
    async with recorders(database_url, processes) as several:
        for _ in range(5):
            key_id = await make_limited_key(owner, user_id, rate_limit=100)
            calls = [admission(user_id, n, api_key_id=key_id) for n in range(500)]
            told = await asyncio.gather(
                *(several[n % processes].admit(row) for n, row in enumerate(calls))
            )
            assert count(told, Decision.ADMITTED) == 100
            assert count(told, Decision.RATE_LIMITED) == 400
            recorded = await owner.fetchval(
                "SELECT count(*) FROM llm_requests WHERE api_key_id = $1", key_id
            )
            assert recorded == 100
    refusals = await owner.fetchrow(
        "SELECT sum(refused_count) AS n, count(DISTINCT limit_name) AS names FROM call_refusals"
    )
    assert tuple(refusals) == (2_000, 1)


async def test_refusal_names_the_limit_and_when_to_come_again(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id, rate_limit=1)
    await recorder.admit(admission(user_id, api_key_id=key_id))
    verdict = await recorder.admit(admission(user_id, api_key_id=key_id))
    assert verdict.limit_name == "key requests_per_minute"
    assert (verdict.limit, verdict.left) == (1, 0)
    assert verdict.retry_after_s is not None
    assert 55 < verdict.retry_after_s <= 60
    error = refused(verdict)
    assert (error.status, error.code) == (429, "rate_limit_exceeded")


async def test_window_ends_after_a_minute(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id, rate_limit=1)
    first = await recorder.admit(admission(user_id, api_key_id=key_id))
    await owner.execute(
        "UPDATE rate_windows SET window_started_at = window_started_at - interval '60 seconds'"
    )
    second = await recorder.admit(admission(user_id, api_key_id=key_id))
    third = await recorder.admit(admission(user_id, api_key_id=key_id))
    assert [first.admitted, second.admitted, third.admitted] == [True, True, False]


async def test_user_limit_holds_for_all_keys_together(
    database_url: str, owner: Connection, user_id: UUID
) -> None:
    await owner.execute("UPDATE users SET rate_limit = 10 WHERE id = $1", user_id)
    keys = [await make_limited_key(owner, user_id) for _ in range(3)]
    async with recorders(database_url, 2) as several:
        told = await asyncio.gather(
            *(
                several[n % 2].admit(admission(user_id, n, api_key_id=keys[n % 3]))
                for n in range(60)
            )
        )
    assert count(told, Decision.ADMITTED) == 10


async def test_child_key_uses_up_what_its_parent_may(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    parent = await make_limited_key(owner, user_id, rate_limit=5)
    child = await make_limited_key(owner, user_id)
    await owner.execute(
        "UPDATE api_keys SET parent_key_id = $2, ancestor_ids = ARRAY[$2::uuid] WHERE id = $1",
        child,
        parent,
    )
    told = await asyncio.gather(
        *(recorder.admit(admission(user_id, n, api_key_id=child)) for n in range(9))
    )
    assert count(told, Decision.ADMITTED) == 5
    assert not (await recorder.admit(admission(user_id, api_key_id=parent))).admitted


async def test_tokens_are_held_at_most_and_counted_as_used(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id, tokens_per_minute=100)
    big = admission(user_id, api_key_id=key_id, reserve_tokens=80)
    assert (await recorder.admit(big)).admitted
    over = await recorder.admit(admission(user_id, api_key_id=key_id, reserve_tokens=21))
    assert over.limit_name == "key tokens_per_minute"
    await recorder.settle(completed(big))  # it used 3 + 4
    assert (await recorder.admit(admission(user_id, api_key_id=key_id, reserve_tokens=93))).admitted
    assert not (
        await recorder.admit(admission(user_id, api_key_id=key_id, reserve_tokens=1))
    ).admitted


async def test_parallel_calls_are_limited_and_given_back(
    database_url: str, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id, parallel_max=7)
    async with recorders(database_url, 3) as several:
        for _ in range(3):
            calls = [admission(user_id, n, api_key_id=key_id) for n in range(40)]
            told = await asyncio.gather(*(several[n % 3].admit(row) for n, row in enumerate(calls)))
            admitted = [row for row, one in zip(calls, told, strict=True) if one.admitted]
            assert len(admitted) == 7
            await asyncio.gather(*(several[0].settle(completed(row)) for row in admitted))
    assert await rows(owner, "call_holds") == 0
    assert await owner.fetchval("SELECT parallel FROM rate_windows") == 0


async def test_revoked_key_and_suspended_user_are_refused_at_once(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id)
    assert (await recorder.admit(admission(user_id, api_key_id=key_id))).admitted
    await owner.execute("UPDATE api_keys SET status = 'revoked', revoked_at = now()")
    assert (
        await recorder.admit(admission(user_id, api_key_id=key_id))
    ).decision is Decision.REVOKED
    assert (await recorder.admit(admission(user_id))).admitted
    await owner.execute("UPDATE users SET status = 'suspended'")
    assert (await recorder.admit(admission(user_id))).decision is Decision.REVOKED
    assert await rows(owner, "llm_requests") == 2


async def test_key_whose_parent_ended_is_refused(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    parent, child = [await make_limited_key(owner, user_id) for _ in range(2)]
    await owner.execute(
        "UPDATE api_keys SET parent_key_id = $2, ancestor_ids = ARRAY[$2::uuid] WHERE id = $1",
        child,
        parent,
    )
    await owner.execute("UPDATE api_keys SET expires_at = now() WHERE id = $1", parent)
    told = await recorder.admit(admission(user_id, api_key_id=child))
    assert told.decision is Decision.REVOKED


# ---- budgets


async def test_budget_is_never_passed_and_refused_calls_use_none_of_it(
    database_url: str, owner: Connection, user_id: UUID
) -> None:
    budget = await make_budget(owner, user_id, DOLLAR)
    price = Decimal("0.030000000001")
    async with recorders(database_url, 4) as several:
        calls = [admission(user_id, n, reserve_usd=price) for n in range(50)]
        told = await asyncio.gather(*(several[n % 4].admit(row) for n, row in enumerate(calls)))
        admitted = [row for row, one in zip(calls, told, strict=True) if one.admitted]
        assert len(admitted) == 33
        assert await of_period(owner, budget) == (33 * price, 0)
        spent = Decimal("0.010000000003")
        await asyncio.gather(
            *(
                several[n % 4].settle(completed(row, cost_usd=spent))
                for n, row in enumerate(admitted)
            )
        )
    assert await of_period(owner, budget) == (0, 33 * spent)
    assert await rows(owner, "budget_reservations") == 0


async def test_reservation_of_a_dead_gateway_is_given_back(
    db: Database, recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    budget = await make_budget(owner, user_id, DOLLAR)
    key_id = await make_limited_key(owner, user_id, parallel_max=1, tokens_per_minute=10)
    lost = admission(
        user_id,
        metadata=f'{{"lease": {OTHER_LEASE}}}',
        reserve_usd=DOLLAR,
        reserve_tokens=10,
        api_key_id=key_id,
    )
    assert (await recorder.admit(lost)).admitted
    again = admission(user_id, reserve_usd=DOLLAR, reserve_tokens=10, api_key_id=key_id)
    assert not (await recorder.admit(again)).admitted
    times = SweepTimes(grace_s=0, pause_s=0, every_s=60)
    assert await Sweep(db, Store(), recorder, SystemClock(), lease=LEASE, times=times).once() == 1
    assert await of_period(owner, budget) == (0, 0)
    assert (await recorder.admit(again)).admitted


async def test_reservation_that_no_request_explains_is_given_back_when_it_expires(
    db: Database, recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    budget = await make_budget(owner, user_id, DOLLAR)
    key_id = await make_limited_key(owner, user_id, parallel_max=2)
    times = SweepTimes(grace_s=0, pause_s=0, every_s=60)
    sweep = Sweep(db, Store(), recorder, SystemClock(), lease=LEASE, times=times)
    held = {"reserve_usd": DOLLAR / 2, "api_key_id": key_id}
    yesterday = uuid7(int(time.time() * 1_000) - 86_400_001)
    lost = admission(user_id, id=yesterday, **held)
    now = admission(user_id, id=uuid7(int(time.time() * 1_000)), **held)
    assert (await recorder.admit(lost)).admitted
    assert (await recorder.admit(now)).admitted
    await owner.execute("DELETE FROM llm_request_bodies WHERE request_id = $1", lost.id)
    await owner.execute("DELETE FROM llm_requests WHERE id = $1", lost.id)
    assert await sweep.once() == 0
    assert await sweep.release_expired() == 1  # the hold; the reservation has a second to go
    await owner.execute(
        "UPDATE budget_reservations SET expires_at = now() WHERE request_id = $1", lost.id
    )
    assert await sweep.release_expired() == 1
    assert await sweep.release_expired() == 0
    assert await of_period(owner, budget) == (DOLLAR / 2, 0)
    assert await owner.fetchval("SELECT parallel FROM rate_windows") == 1
    await recorder.settle(completed(now, cost_usd=DOLLAR / 4))
    assert await of_period(owner, budget) == (0, DOLLAR / 4)


async def test_settlement_after_its_reservation_expired_charges_and_gives_nothing_back_twice(
    db: Database, recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    budget = await make_budget(owner, user_id, DOLLAR)
    call = admission(user_id, reserve_usd=DOLLAR / 2)
    assert (await recorder.admit(call)).admitted
    await owner.execute("UPDATE budget_reservations SET expires_at = now()")
    times = SweepTimes(grace_s=0, pause_s=0, every_s=60)
    sweep = Sweep(db, Store(), recorder, SystemClock(), lease=LEASE, times=times)
    assert await sweep.release_expired() == 1
    await recorder.settle(completed(call, cost_usd=DOLLAR / 4))
    assert await of_period(owner, budget) == (0, DOLLAR / 4)


async def test_every_budget_that_fits_must_have_room(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id)
    await make_budget(owner, user_id, 10 * DOLLAR)
    await make_budget(owner, user_id, 5 * DOLLAR, scope="api_key", api_key_id=key_id)
    await make_budget(owner, user_id, 2 * DOLLAR, scope="agent", agent_id="scout", period="total")
    call = {"api_key_id": key_id, "reserve_usd": 3 * DOLLAR}
    scout = await recorder.admit(admission(user_id, agent_id="scout", **call))
    assert scout.limit_name == "budget agent total"
    assert scout.retry_after_s is None
    assert (refused(scout).status, refused(scout).code) == (402, "budget_exceeded")
    assert (await recorder.admit(admission(user_id, **call))).admitted
    second = await recorder.admit(admission(user_id, **call))
    assert (second.limit_name, second.left) == ("budget api_key day", 2)
    keyless = {"reserve_usd": 7 * DOLLAR}
    assert (await recorder.admit(admission(user_id, **keyless))).admitted
    last = await recorder.admit(admission(user_id, reserve_usd=Decimal("0.000000000001")))
    assert last.limit_name == "budget user day"


async def test_soft_budget_is_counted_and_refuses_nobody(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    budget = await make_budget(owner, user_id, DOLLAR, hard=False)
    call = admission(user_id, reserve_usd=3 * DOLLAR)
    assert (await recorder.admit(call)).admitted
    await recorder.settle(completed(call, cost_usd=2 * DOLLAR))
    assert await of_period(owner, budget) == (0, 2)


async def test_attempts_are_charged_at_once_out_of_what_is_reserved(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    budget = await make_budget(owner, user_id, 10 * DOLLAR)
    call = admission(user_id, reserve_usd=4 * DOLLAR)
    await recorder.admit(call)
    await recorder.respond(completed(call, cost_usd=DOLLAR))
    assert await of_period(owner, budget) == (3, 1)
    await recorder.settle(completed(call, cost_usd=DOLLAR, attempt=2))
    assert await of_period(owner, budget) == (0, 2)


async def test_other_users_are_not_touched(recorder: Recorder, owner: Connection) -> None:
    poor, rich = await make_user(owner), await make_user(owner)
    await make_budget(owner, poor, Decimal(0))
    assert (await recorder.admit(admission(rich, reserve_usd=DOLLAR))).admitted
    assert not (await recorder.admit(admission(poor, reserve_usd=DOLLAR))).admitted
    assert (await recorder.admit(admission(poor))).admitted  # free of charge


# ---- Idempotency-Keys


def claim(user_id: UUID, key: str, body: bytes = b"b" * 32, **fields: Any) -> Admission:
    return admission(user_id, idempotency_key=key, body_sha256=body, **fields)


async def test_one_of_many_calls_with_one_key_is_made(
    database_url: str, owner: Connection, user_id: UUID
) -> None:
    async with recorders(database_url, 4) as several:
        told = await asyncio.gather(
            *(several[n % 4].admit(claim(user_id, "once")) for n in range(100))
        )
    assert count(told, Decision.ADMITTED) == 1
    assert count(told, Decision.IN_PROGRESS) == 99
    made = await owner.fetchval("SELECT id FROM llm_requests")
    assert {one.other_request_id for one in told if not one.admitted} == {made}


async def test_key_of_a_completed_call_is_replayed_and_of_a_failed_one_free(
    recorder: Recorder, user_id: UUID
) -> None:
    first = claim(user_id, "once")
    await recorder.admit(first)
    await recorder.settle(given_up(first, error=NotRecorded(), now=NOW))
    second = claim(user_id, "once")
    assert (await recorder.admit(second)).admitted
    await recorder.settle(completed(second))
    told = await recorder.admit(claim(user_id, "once"))
    assert (told.decision, told.other_request_id) == (Decision.REPLAY, second.id)


async def test_key_with_another_body_is_refused(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    await recorder.admit(claim(user_id, "once"))
    told = await recorder.admit(claim(user_id, "once", b"c" * 32))
    assert told.decision is Decision.KEY_REUSED
    assert isinstance(refused(told), KeyReused)
    assert refused(told).status == 422
    other = await make_user(owner)
    assert (await recorder.admit(claim(other, "once", b"c" * 32))).admitted
    await owner.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    assert (await recorder.admit(claim(user_id, "once", b"c" * 32))).admitted


async def test_refused_call_does_not_keep_its_key(
    recorder: Recorder, owner: Connection, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id, rate_limit=0)
    told = await asyncio.gather(
        *(recorder.admit(claim(user_id, "once", api_key_id=key_id)) for _ in range(5))
    )
    assert count(told, Decision.RATE_LIMITED) == 5
    assert await rows(owner, "idempotency_keys") == 0


async def test_admission_repeated_after_an_unknown_outcome_is_counted_once(
    owner: Connection, database_url: str, user_id: UUID
) -> None:
    key_id = await make_limited_key(owner, user_id, rate_limit=2, parallel_max=1)
    await make_budget(owner, user_id, DOLLAR)
    row = claim(user_id, "once", api_key_id=key_id, reserve_usd=DOLLAR)
    async with recorders(database_url, 1) as (one,):
        assert (await one.admit(row)).admitted
        lane = one._admissions
        lane._conn.terminate()  # the commit was not heard of: the job comes again as tried
        again = lane.put(row, keep=False)
        lane._queue[-1].tried = True
        assert (await again).admitted
    window = await owner.fetchrow("SELECT requests, parallel FROM rate_windows")
    assert tuple(window) == (1, 1)
    assert await owner.fetchval("SELECT reserved_usd FROM budget_periods") == 1


# ---- against a model


@dataclass
class Model:
    """What one key and its user's budget should say, call by call."""

    requests: int
    tokens: int
    parallel: int
    usd: Decimal
    held: dict[int, tuple[int, Decimal]] = field(default_factory=dict)

    def admit(self, number: int, tokens: int, usd: Decimal) -> bool:
        fits = (
            self.requests >= 1 and self.tokens >= tokens and self.parallel >= 1 and self.usd >= usd
        )
        if fits:
            self.requests -= 1
            self.tokens -= tokens
            self.parallel -= 1
            self.usd -= usd
            self.held[number] = (tokens, usd)
        return fits

    def end(self, number: int, tokens: int, usd: Decimal) -> None:
        held_tokens, held_usd = self.held.pop(number)
        self.tokens += held_tokens - tokens
        self.parallel += 1
        self.usd += held_usd - usd


AMOUNTS = st.decimals(0, 3, places=12, allow_nan=False)
CALLS = st.lists(st.tuples(st.integers(0, 60), AMOUNTS), min_size=1, max_size=8)
STEPS = st.lists(st.tuples(CALLS, st.integers(0, 255), st.integers(0, 100)), max_size=8)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_batches_are_judged_as_one_call_after_the_other_would_be(
    shared_database_url: str, steps: list[tuple[list[tuple[int, Decimal]], int, int]]
) -> None:
    model = Model(requests=12, tokens=200, parallel=5, usd=Decimal(6))
    with psycopg.connect(shared_database_url) as conn:
        key, user = _subjects(conn)
        number, ids = 0, {}
        for calls, ending, share in steps:
            told = _admit(conn, user, key, calls)
            for (tokens, usd), (request_id, decision) in zip(calls, told, strict=True):
                assert (decision == "admitted") == model.admit(number, tokens, usd)
                ids[number] = request_id
                number += 1
            ends = [n for n in list(model.held) if ending >> (n % 8) & 1]
            _charge(conn, user, key, [(ids[n], *_used(model.held[n], share)) for n in ends])
            for n in ends:
                model.end(n, *_used(model.held[n], share))
        found = conn.execute(
            "SELECT w.parallel, p.reserved_usd, p.reserved_usd + p.settled_usd"
            " FROM rate_windows w, budget_periods p JOIN budgets b ON b.id = p.budget_id"
            " WHERE w.subject_id = %s AND b.user_id = %s",
            (key, user),
        ).fetchone()
        if found is not None:
            reserved = sum((usd for _, usd in model.held.values()), Decimal(0))
            assert found == (5 - model.parallel, reserved, 6 - model.usd)
        conn.rollback()


def _used(held: tuple[int, Decimal], share: int) -> tuple[int, Decimal]:
    return held[0] * share // 100, (held[1] * share / 100).quantize(Decimal("1e-12"))


def _subjects(conn: "psycopg.Connection[Any]") -> tuple[UUID, UUID]:
    key, user = uuid4(), uuid4()
    conn.execute(
        "INSERT INTO users (id, email, password_hash) VALUES (%s, %s, '!')", (user, f"{user}@x")
    )
    conn.execute(
        "INSERT INTO api_keys (id, user_id, key_hash, key_prefix, rate_limit, tokens_per_minute,"
        " parallel_max) VALUES (%s, %s, sha256(%s), 'p', 12, 200, 5)",
        (key, user, key.bytes),
    )
    conn.execute(
        "INSERT INTO budgets (user_id, scope, period, limit_usd) VALUES (%s, 'user', 'day', 6)",
        (user,),
    )
    return key, user


def _admit(
    conn: "psycopg.Connection[Any]", user: UUID, key: UUID, calls: list[tuple[int, Decimal]]
) -> list[tuple[UUID, str]]:
    ids = [uuid7_beside(uuid4()) for _ in calls]
    nothing = [None] * len(calls)
    rows = conn.execute(
        "SELECT request_id, decision FROM helix_admit(%s::uuid[], %s::uuid[], %s::uuid[],"
        " %s::uuid[], %s::text[], %s::numeric[], %s::integer[], %s::text[], %s::bytea[], false)",
        (
            ids,
            [user] * len(calls),
            [key] * len(calls),
            nothing,
            nothing,
            [usd for _, usd in calls],
            [tokens for tokens, _ in calls],
            nothing,
            nothing,
        ),
    ).fetchall()
    told = dict(rows)
    return [(one, told[one]) for one in ids]


def _charge(
    conn: "psycopg.Connection[Any]", user: UUID, key: UUID, ends: list[tuple[UUID, int, Decimal]]
) -> None:
    if not ends:
        return
    nothing = [None] * len(ends)
    conn.execute(
        "SELECT helix_charge(%s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[],"
        " array_fill(now(), ARRAY[%s]), %s::numeric[], %s::integer[], array_fill(true, ARRAY[%s]))",
        (
            [one[0] for one in ends],
            [user] * len(ends),
            [key] * len(ends),
            nothing,
            nothing,
            len(ends),
            [one[2] for one in ends],
            [one[1] for one in ends],
            len(ends),
        ),
    )
