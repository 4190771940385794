"""The statements of health and verification."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from helix.core.db import Connection, Queries
from helix.providers.facts import Health
from helix.providers.health import health_of_probe
from helix.providers.types import Probe
from helix.providers.vitals import Counts, Stored

__all__ = ["Availability", "Fleet", "HealthStore", "Kept"]

_NO_COUNTS = Counts()


class Fleet(dict[UUID, Stored]):
    """What is stored of every provider; `gateways` is how many processes hold a lease."""

    gateways: int = 1


class Availability(dict[UUID, tuple[int, int, float | None]]):
    """Of each provider: asked, failed, mean ms to the first content, over the last 7 days."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A verification as it is kept; see sql/schema/llm_providers.sql."""

    model: str
    score: Decimal
    availability: Decimal
    speed: Decimal
    correctness: Decimal
    checks: dict[str, Any]
    tokens: int
    duration_ms: int


class HealthStore:
    """Reads and writes how providers do; each method is given a connection and never commits."""

    def __init__(self) -> None:
        self._queries = Queries("helix.providers")

    async def load(self, conn: Connection) -> Fleet:
        """Return what is stored of every provider."""
        fleet = Fleet()
        for row in await self._queries.rows(conn, "load_health"):
            score = row["score"] if row["last_verified"] is not None else None
            fleet[row["id"]] = Stored(Health(row["health_status"]), row["response_time"], score)
            fleet.gateways = max(1, row["gateways"])
        return fleet

    async def claim_probe(self, conn: Connection, *, provider_id: UUID, interval_s: float) -> bool:
        """Take up a probe; False when some process did within the interval."""
        row = await self._queries.row(conn, "claim_probe", id=provider_id, interval_s=interval_s)
        return row is not None

    async def record_probe(
        self, conn: Connection, *, provider_id: UUID, probe: Probe
    ) -> tuple[Health, Health] | None:
        """Write down a probe; return health before and after, None when the provider is gone."""
        row = await self._queries.row(conn, "lock_health", id=provider_id)
        if row is None:
            return None
        before = Health(row["health_status"])
        after, streak = health_of_probe(
            before, row["health_streak"], ok=probe.healthy, latency_ms=probe.latency_ms
        )
        await self._queries.run(
            conn,
            "put_health",
            id=provider_id,
            health=after.value,
            streak=streak,
            response_ms=round(probe.latency_ms),
        )
        await self._add(conn, provider_id, _NO_COUNTS, probes=1, failed=int(not probe.healthy))
        return before, after

    async def record_counts(self, conn: Connection, counts: dict[UUID, Counts]) -> None:
        """Add to the counts of this hour, in one order, so that two processes cannot deadlock."""
        for provider_id in sorted(counts):
            await self._add(conn, provider_id, counts[provider_id])

    async def _add(
        self,
        conn: Connection,
        provider_id: UUID,
        counts: Counts,
        *,
        probes: int = 0,
        failed: int = 0,
    ) -> None:
        await self._queries.run(
            conn,
            "add_health_hour",
            provider_id=provider_id,
            probes=probes,
            probes_failed=failed,
            calls=counts.calls,
            calls_failed=counts.failed,
            first_ms_sum=round(counts.first_ms_sum),
        )

    async def drop_old(self, conn: Connection) -> None:
        """Delete counts older than 30 days."""
        await self._queries.run(conn, "drop_old_health")

    async def availability(self, conn: Connection) -> Availability:
        """Return how every provider did in the last 7 days."""
        rows = await self._queries.rows(conn, "availability")
        return Availability(
            {row["provider_id"]: (row["asked"], row["failed"], row["first_ms"]) for row in rows}
        )

    async def record_verification(self, conn: Connection, *, provider_id: UUID, kept: Kept) -> None:
        """Write down a verification: its row, and the score of provider and model."""
        await self._queries.run(
            conn,
            "insert_verification",
            provider_id=provider_id,
            model_name=kept.model,
            score=kept.score,
            availability=kept.availability,
            speed=kept.speed,
            correctness=kept.correctness,
            checks=kept.checks,
            tokens=kept.tokens,
            duration_ms=kept.duration_ms,
        )
        await self._queries.run(conn, "put_score", id=provider_id, score=kept.score)
        await self._queries.run(
            conn,
            "put_reliability",
            provider_id=provider_id,
            model_name=kept.model,
            reliability=kept.correctness * 100,
        )

    async def list_verifications(
        self, conn: Connection, *, name: str, max_count: int
    ) -> list[dict[str, Any]]:
        """Return the verifications of a provider, the newest first."""
        rows = await self._queries.rows(conn, "list_verifications", name=name, max_count=max_count)
        return [dict(row) for row in rows]
