"""The statements of routes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from helix.core.db import Connection, Queries
from helix.providers.errors import BadRoute, ProviderNotFound, RouteExists, RouteNotFound

__all__ = ["RouteStore", "TargetSpec"]

TARGETS_MAX = 100
_POLICY = (
    "retries_max",
    "connect_ms",
    "first_token_ms",
    "between_tokens_ms",
    "total_ms",
    "retry_after_max_ms",
    "cache_s",
)


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A target as it is given: a provider's name, or None for every one that lists the model."""

    provider: str | None
    model: str
    priority: int = 5
    weight: Decimal = Decimal(1)


class RouteStore:
    """Reads and writes routes; each method is given a connection and never commits."""

    def __init__(self) -> None:
        self._queries = Queries("helix.providers")

    async def insert(
        self,
        conn: Connection,
        *,
        name: str,
        strategy: str,
        alias: bool,
        targets: Sequence[TargetSpec],
        description: str | None = None,
        policy: Mapping[str, int | None] | None = None,
    ) -> dict[str, Any]:
        """Add a route and return it as it is shown.

        `policy` holds columns of llm_routes from retries_max to cache_s. Raises RouteExists,
        BadRoute, ProviderNotFound.
        """
        row = await self._queries.row(
            conn,
            "insert_route",
            name=name,
            description=description,
            strategy=strategy,
            is_alias=alias,
            **{column: (policy or {}).get(column) for column in _POLICY},
        )
        if row is None:
            raise RouteExists(name)
        await self._put_targets(conn, row["id"], targets)
        return await self.show(conn, name=name)

    async def change(
        self,
        conn: Connection,
        *,
        name: str,
        change: Mapping[str, Any],
        targets: Sequence[TargetSpec] | None,
    ) -> dict[str, Any]:
        """Change a route: columns of llm_routes that are in `change`, and its targets if given.

        Raises RouteNotFound, BadRoute, ProviderNotFound.
        """
        row = await self._queries.row(conn, "find_route", name=name)
        if row is None:
            raise RouteNotFound(name)
        columns = ("description", "strategy", "is_alias", "enabled", *_POLICY)
        await self._queries.run(
            conn,
            "update_route",
            id=row["id"],
            **{column: change.get(column, row[column]) for column in columns},
        )
        if targets is not None:
            await self._queries.run(conn, "delete_route_targets", route_id=row["id"])
            await self._put_targets(conn, row["id"], targets)
        return await self.show(conn, name=name)

    async def _put_targets(
        self, conn: Connection, route_id: UUID, targets: Sequence[TargetSpec]
    ) -> None:
        if not 1 <= len(targets) <= TARGETS_MAX:
            raise BadRoute(f"a route has 1 to {TARGETS_MAX} targets, not {len(targets)}")
        if len({(t.provider, t.model) for t in targets}) < len(targets):
            raise BadRoute("a target is named twice: give it once, with the weight it shall have")
        for position, target in enumerate(targets):
            row = await self._queries.row(
                conn,
                "insert_route_target",
                route_id=route_id,
                provider=target.provider,
                model_name=target.model,
                priority=target.priority,
                weight=target.weight,
                position=position,
            )
            if row is None:
                raise ProviderNotFound(target.provider or "")

    async def delete(self, conn: Connection, *, name: str) -> None:
        """Remove a route; raises RouteNotFound."""
        if await self._queries.row(conn, "delete_route", name=name) is None:
            raise RouteNotFound(name)

    async def show(self, conn: Connection, *, name: str) -> dict[str, Any]:
        """Return one route with its targets; raises RouteNotFound."""
        found = await self.list_all(conn, name=name)
        if not found:
            raise RouteNotFound(name)
        return found[0]

    async def list_all(self, conn: Connection, *, name: str | None = None) -> list[dict[str, Any]]:
        """Return all routes with their targets, by name; or the one named."""
        routes = [dict(row) for row in await self._queries.rows(conn, "list_routes", name=name)]
        rows = await self._queries.rows(
            conn, "list_route_targets", route_ids=[route["id"] for route in routes]
        )
        targets: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            target = dict(row)
            targets[target.pop("route_id")].append(target)
        return [{**route, "targets": targets[route["id"]]} for route in routes]
