"""The statements of models, of what the catalogue says of them, and of benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from helix.core.db import Connection, Queries
from helix.providers.errors import ModelNotFound, ProviderNotFound

__all__ = ["BenchmarkResult", "ModelStore", "Source", "Synced"]


@dataclass(frozen=True, slots=True)
class Synced:
    """How a sync went for a provider: models filled, those the catalogue does not know, prices."""

    provider: str
    models: int
    unknown: int
    prices: int


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What a model reached in a benchmark; `normalized` is 0 to 100."""

    provider: str
    model: str
    benchmark: str
    score: Decimal
    normalized: Decimal
    benchmark_type: str | None = None
    rank: int | None = None
    dated: date | None = None
    source: str | None = None


class Source(Protocol):
    """Where facts are from, and as of when."""

    @property
    def source(self) -> str:
        """Its name."""
        ...

    @property
    def dated(self) -> str:
        """Its date."""
        ...


class ModelStore:
    """Reads and writes models; each method is given a connection and never commits."""

    def __init__(self) -> None:
        self._queries = Queries("helix.providers")

    async def list_models(
        self,
        conn: Connection,
        *,
        provider: str | None = None,
        model: str | None = None,
        whole: bool = False,
        after: tuple[str, str] = ("", ""),
        max_count: int = 10_000,
    ) -> list[dict[str, Any]]:
        """Return models as they are shown, by provider and name; with `whole` disabled ones too."""
        rows = await self._queries.rows(
            conn,
            "list_models",
            provider=provider,
            model=model,
            whole=whole,
            after_provider=after[0],
            after_model=after[1],
            max_count=max_count,
        )
        return [dict(row) for row in rows]

    async def set_enabled(
        self, conn: Connection, *, provider: str, model: str, enabled: bool
    ) -> None:
        """List a model, or no more; raises ModelNotFound."""
        row = await self._queries.row(
            conn, "set_model_enabled", provider=provider, model=model, enabled=enabled
        )
        if row is None:
            raise ModelNotFound(f"{provider}/{model}")
        await self._queries.run(conn, "count_models", provider_id=row["provider_id"])

    async def begin_sync(self, conn: Connection, *, name: str | None) -> list[dict[str, Any]]:
        """Return the providers to sync, held to the transaction's end; raises ProviderNotFound."""
        rows = await self._queries.rows(conn, "begin_sync", name=name)
        if name is not None and not rows:
            raise ProviderNotFound(name)
        return [dict(row) for row in rows]

    async def models_of(self, conn: Connection, *, provider_id: UUID) -> set[str]:
        """Return the names of a provider's models."""
        rows = await self._queries.rows(conn, "models_of", provider_id=provider_id)
        return {row["model_name"] for row in rows}

    async def put_facts(
        self,
        conn: Connection,
        *,
        provider_id: UUID,
        facts: Sequence[dict[str, Any]],
        catalog: Source,
    ) -> None:
        """Fill what the catalogue says of models, and keep the provider's counts true."""
        await self._queries.run(
            conn,
            "put_facts",
            provider_id=provider_id,
            source=catalog.source,
            dated=catalog.dated,
            facts=list(facts),
        )
        await self._queries.run(conn, "count_models", provider_id=provider_id)

    async def end_sync(
        self,
        conn: Connection,
        *,
        provider_id: UUID | None,
        kind: str,
        synced: Synced,
        catalog: Source,
        started_at: datetime,
    ) -> None:
        """Write down that a sync went well."""
        if provider_id is not None and synced.models:
            await self._queries.run(conn, "models_synced", provider_id=provider_id)
        await self._queries.run(
            conn,
            "end_sync",
            provider_id=provider_id,
            refresh_type=kind,
            status="success" if synced.models else "partial",
            models_refreshed=synced.models,
            models_failed=synced.unknown,
            error_message=None if synced.models else "the catalogue knows none of its models",
            started_at=started_at,
            metadata={"source": catalog.source, "dated": catalog.dated, "prices": synced.prices},
        )

    async def sync_failed(
        self, conn: Connection, *, kind: str, error: str, started_at: datetime
    ) -> None:
        """Write down that a sync failed before it touched anything."""
        await self._queries.run(
            conn,
            "end_sync",
            provider_id=None,
            refresh_type=kind,
            status="failed",
            models_refreshed=0,
            models_failed=0,
            error_message=error[:1_000],
            started_at=started_at,
            metadata={},
        )

    async def list_syncs(self, conn: Connection, *, max_count: int) -> list[dict[str, Any]]:
        """Return the runs of the sync, the newest first."""
        return [dict(r) for r in await self._queries.rows(conn, "list_syncs", max_count=max_count)]

    async def put_benchmarks(
        self, conn: Connection, results: Sequence[BenchmarkResult]
    ) -> list[BenchmarkResult]:
        """Keep the newest result of each model and benchmark; return those of unknown models."""
        unknown, touched = [], set()
        for result in results:
            row = await self._queries.row(
                conn,
                "put_benchmark",
                provider=result.provider,
                model=result.model,
                benchmark=result.benchmark,
                benchmark_type=result.benchmark_type,
                score=result.score,
                normalized=result.normalized,
                rank=result.rank,
                dated=result.dated,
                source=result.source,
            )
            if row is None:
                unknown.append(result)
            else:
                touched.add(row["model_id"])
        await self._queries.run(conn, "put_quality", model_ids=list(touched))
        return unknown

    async def list_benchmarks(
        self,
        conn: Connection,
        *,
        benchmark: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        max_count: int = 1_000,
    ) -> list[dict[str, Any]]:
        """Return results, the best first within each benchmark."""
        rows = await self._queries.rows(
            conn,
            "list_benchmarks",
            benchmark=benchmark,
            provider=provider,
            model=model,
            max_count=max_count,
        )
        return [dict(row) for row in rows]
