"""Health: the rule, one probe for all processes, counts that add up, stalls."""

import asyncio
from uuid import UUID, uuid4

import pytest

from helix.core.crypto import Keyring, new_key
from helix.core.db import Connection, Database, Role
from helix.providers import AttemptResult, FailureKind, Probe, Provider, Route
from helix.providers.facts import Health
from helix.providers.health import health_of_calls, health_of_probe, worse
from helix.providers.health_store import HealthStore
from helix.providers.policy import Registry
from helix.providers.prober import Prober
from helix.providers.store import Store
from helix.providers.types import Wire
from helix.providers.vitals import Counts, Vitals

GOOD, BAD, SLOW = Probe(20.0, 200, 3), Probe(5_000.0, problem="no answer"), Probe(5_001.0, 200, 3)


async def make(owner: Connection, name: str = "p") -> UUID:
    provider_id = uuid4()
    await Store(Keyring([new_key()])).insert(
        owner,
        provider_id=provider_id,
        name=name,
        wire=Wire.OPENAI,
        base_url="http://127.0.0.1:1/v1",
        api_key=None,
        models=["m"],
    )
    return provider_id


@pytest.mark.parametrize(
    ("probes", "health"),
    [
        ([GOOD], "healthy"),
        ([SLOW], "degraded"),
        ([GOOD, BAD], "degraded"),
        ([GOOD, BAD, BAD, BAD], "unhealthy"),
        ([BAD, BAD, BAD, GOOD], "degraded"),
        ([BAD, BAD, BAD, GOOD, GOOD], "healthy"),
        ([BAD, BAD, GOOD, BAD, BAD], "degraded"),
    ],
)
async def test_probes_make_health(owner: Connection, probes: list[Probe], health: str) -> None:
    provider_id, store = await make(owner), HealthStore()
    for probe in probes:
        await store.record_probe(owner, provider_id=provider_id, probe=probe)
    row = await owner.fetchrow("SELECT health_status, response_time FROM llm_providers")
    assert (row["health_status"], row["response_time"]) == (health, round(probes[-1].latency_ms))
    counted = await owner.fetchrow(
        "SELECT sum(probes) n, sum(probes_failed) f FROM provider_health_hours"
    )
    assert (counted["n"], counted["f"]) == (len(probes), sum(not p.healthy for p in probes))


def test_calls_make_health_and_the_worse_holds() -> None:
    assert [health_of_calls(*c).value for c in [(9, 0), (10, 0), (89, 11), (4, 6)]] == [
        "unknown",
        "healthy",
        "degraded",
        "unhealthy",
    ]
    assert worse(Health.HEALTHY, Health.DEGRADED) is Health.DEGRADED
    assert worse(Health.UNHEALTHY, Health.UNKNOWN) is Health.UNHEALTHY
    assert worse(Health.UNKNOWN, Health.HEALTHY) is Health.HEALTHY


def test_streak_stays_small() -> None:
    assert health_of_probe(Health.HEALTHY, 1_000, ok=True, latency_ms=1)[1] == 1_000


async def test_one_of_many_processes_takes_up_a_probe(db: Database, owner: Connection) -> None:
    provider_id, store = await make(owner), HealthStore()

    async def claim() -> bool:
        async with db.transaction(Role.OPERATOR) as conn:
            return await store.claim_probe(conn, provider_id=provider_id, interval_s=30.0)

    assert sum(await asyncio.gather(*[claim() for _ in range(16)])) == 1
    await owner.execute("UPDATE llm_providers SET last_health_check = now() - interval '31 s'")
    assert sum(await asyncio.gather(*[claim() for _ in range(16)])) == 1


async def test_counts_of_processes_add_up(db: Database, owner: Connection) -> None:
    ids = [await make(owner, "a"), await make(owner, "b")]
    store = HealthStore()

    async def write() -> None:
        async with db.transaction(Role.OPERATOR) as conn:
            await store.record_counts(conn, {i: Counts(3, 1, 100.0) for i in ids})

    await asyncio.gather(*[write() for _ in range(8)])
    async with db.connection(Role.OPERATOR) as conn:
        found = await store.availability(conn)
    assert found == dict.fromkeys(ids, (24, 8, 50.0))


async def test_gateways_alive_are_counted_by_their_leases(db: Database, owner: Connection) -> None:
    await make(owner)
    await owner.execute("SELECT pg_try_advisory_lock_shared(7000000001)")
    await owner.execute("SELECT pg_try_advisory_lock_shared(7000000002)")
    async with db.connection(Role.RECORDER) as conn:
        assert (await HealthStore().load(conn)).gateways == 2


def prober(db: Database, provider: Provider, probe: Probe) -> tuple[Prober, Vitals]:
    now_s = [0.0]

    def clock() -> float:
        now_s[0] += 1.0
        return now_s[0]

    vitals = Vitals(clock=clock, chance=lambda: 0.5, concurrent_max=100)

    async def ask(_: Provider) -> Probe:
        return probe

    made = Prober(
        db,
        HealthStore(),
        vitals,
        registry=lambda: Registry({provider.name: provider}),
        probe=ask,
        interval_s=30.0,
        timeout_s=5.0,
    )
    return made, vitals


@pytest.mark.parametrize(("probe", "closed"), [(GOOD, True), (BAD, False)])
async def test_stall_opens_the_breaker_only_when_a_probe_fails_too(
    db: Database, probe: Probe, closed: bool
) -> None:
    """Experiment U5: calls that hang need not run into their own limits first."""
    provider = Provider(uuid4(), "p", Wire.OPENAI, "http://x", 5, None, frozenset({"m"}))
    made, vitals = prober(db, provider, probe)
    for _ in range(20):
        vitals.enter(provider)
    made._look_for_stalls()
    await asyncio.gather(*made._under_way.values())
    assert (vitals.wait_s(Route(provider, "m")) == 0) is closed


async def test_counts_are_kept_until_the_database_takes_them(
    db: Database, owner: Connection
) -> None:
    provider_id = await make(owner)
    provider = Provider(provider_id, "p", Wire.OPENAI, "http://x", 5, None, frozenset({"m"}))
    made, vitals = prober(db, provider, GOOD)
    vitals.report(Route(provider, "m"), AttemptResult.ok(40.0))
    vitals.report(Route(provider, "m"), AttemptResult.failed(FailureKind.BROKEN))
    vitals.report(Route(provider, "m"), AttemptResult.abandoned())
    await owner.execute("ALTER TABLE provider_health_hours RENAME TO away")
    with pytest.raises(Exception, match="does not exist"):
        await made.write_counts()
    await owner.execute("ALTER TABLE away RENAME TO provider_health_hours")
    await made.write_counts()
    await made.write_counts()
    row = await owner.fetchrow(
        "SELECT calls, calls_failed, first_ms_sum FROM provider_health_hours"
    )
    assert tuple(row) == (2, 1, 40)


async def test_probe_that_hangs_does_not_keep_a_stall_from_being_looked_into(
    db: Database, owner: Connection
) -> None:
    provider_id, hanging = await make(owner), asyncio.Event()
    provider = Provider(provider_id, "p", Wire.OPENAI, "http://x", 5, None, frozenset({"m"}))
    made, vitals = prober(db, provider, BAD)
    ask, asked = made._probe, asyncio.Event()

    async def first_hangs(whom: Provider) -> Probe:
        if not asked.is_set():
            asked.set()
            await hanging.wait()
        return await ask(whom)

    made._probe = first_hangs
    made._begin_due(1_000.0)
    await asked.wait()
    for _ in range(20):
        vitals.enter(provider)
    made._look_for_stalls()
    await made._under_way[provider_id, "stall"]
    assert vitals.wait_s(Route(provider, "m")) > 0
    hanging.set()
    await asyncio.gather(*made._under_way.values())
