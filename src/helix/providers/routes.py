"""The HTTP surface of providers: /api/providers, /api/models, /api/routes. For admins."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from helix.core.audit import Actor
from helix.core.clock import Clock
from helix.core.db import Database, Role
from helix.core.errors import Misuse
from helix.providers.audited import record_change
from helix.providers.domain import Providers
from helix.providers.errors import BadProvider, BadRoute, ModelNotFound
from helix.providers.health_store import HealthStore
from helix.providers.models_store import ModelStore
from helix.providers.modelsdev import ProposePrice, bundled, sync
from helix.providers.plan import Strategy
from helix.providers.policy import check_base_url, check_provider_name, check_route_name
from helix.providers.routes_store import TARGETS_MAX, RouteStore, TargetSpec
from helix.providers.store import Store
from helix.providers.types import Wire

__all__ = ["build_router"]

PAGE_MAX = 1_000
Line = StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")
ModelName = Annotated[str, Line]
Weight = Annotated[Decimal, Field(ge=0, le=999, decimal_places=2)]
Priority = Annotated[int, Field(ge=0, le=1_000_000)]
Ms = Annotated[int, Field(ge=1, le=86_400_000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProviderBody(_Body):
    """A new provider. `private` lets it stand at a loopback or private address."""

    name: str = Field(max_length=63)
    base_url: str = Field(max_length=500)
    wire: Wire = Wire.OPENAI
    api_key: SecretStr | None = Field(default=None, max_length=4_096)
    display_name: Annotated[str, Line] | None = None
    default_model: ModelName | None = None
    models: list[ModelName] = Field(default_factory=list, max_length=5_000)
    priority: Priority = 5
    weight: Weight = Decimal(1)
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrent_max: Annotated[int, Field(ge=1)] | None = None
    private: bool = False
    modelsdev_provider_id: Annotated[str, Line] | None = None


class ProviderChange(_Body):
    """What to change; fields left out stay, null takes a value away.

    A base URL with another host deletes the stored key: send it again beside it.
    """

    base_url: str | None = Field(default=None, max_length=500)
    api_key: SecretStr | None = Field(default=None, max_length=4_096)
    display_name: Annotated[str, Line] | None = None
    default_model: ModelName | None = None
    priority: Priority | None = None
    weight: Weight | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    concurrent_max: Annotated[int, Field(ge=1)] | None = None
    private: bool | None = None
    modelsdev_provider_id: Annotated[str, Line] | None = None
    enabled: bool | None = None


class TargetBody(_Body):
    """A target of a route; without a provider every one that lists the model."""

    provider: str | None = Field(default=None, max_length=63)
    model: ModelName
    priority: Priority = 5
    weight: Weight = Decimal(1)


class RouteChange(_Body):
    """A route, or what to change of it; times in milliseconds, the cache in seconds."""

    description: str | None = Field(default=None, max_length=500)
    strategy: Strategy | None = None
    alias: bool | None = None
    enabled: bool | None = None
    targets: list[TargetBody] | None = Field(default=None, min_length=1, max_length=TARGETS_MAX)
    retries_max: Annotated[int, Field(ge=0, le=20)] | None = None
    connect_ms: Ms | None = None
    first_token_ms: Ms | None = None
    between_tokens_ms: Ms | None = None
    total_ms: Ms | None = None
    retry_after_max_ms: Annotated[int, Field(ge=0, le=3_600_000)] | None = None
    cache_s: Annotated[int, Field(ge=0, le=2_592_000)] | None = None

    def columns(self) -> dict[str, Any]:
        """Return what was given, by column of llm_routes."""
        given = self.model_dump(exclude_unset=True, exclude={"targets", "name"})
        if "alias" in given:
            given["is_alias"] = given.pop("alias")
        unset = [name for name in ("strategy", "is_alias", "enabled") if given.get(name, 1) is None]
        if unset:
            raise BadRoute(f"{unset[0]} cannot be null", param=unset[0])
        return given

    def specs(self) -> list[TargetSpec]:
        """Return the targets."""
        return [TargetSpec(t.provider, t.model, t.priority, t.weight) for t in self.targets or []]


class RouteBody(RouteChange):
    """A new route."""

    name: str = Field(max_length=100)


class ModelChange(_Body):
    """Whether a model is listed."""

    enabled: bool


@dataclass(frozen=True, slots=True)
class _Door:
    """What the routes share: the domain, its database and clock, and who may call."""

    providers: Providers
    store: Store
    db: Database
    clock: Clock
    admin: Callable[[Request], Awaitable[Actor]]
    propose_price: ProposePrice | None


def build_router(
    providers: Providers,
    store: Store,
    db: Database,
    clock: Clock,
    *,
    admin: Callable[[Request], Awaitable[Actor]],
    propose_price: ProposePrice | None = None,
) -> APIRouter:
    """Return the routes; `admin` returns who asks, or raises unless they may see and change all.

    No answer holds a key: `key` says none, encrypted or needed.
    """
    api = APIRouter(prefix="/api", tags=["providers"], dependencies=[Depends(admin)])
    door = _Door(providers, store, db, clock, admin, propose_price)
    for add in (_add_providers, _add_one_provider, _add_checks, _add_models, _add_routes):
        add(api, door)
    return api


def _add_providers(api: APIRouter, door: _Door) -> None:
    """List and add providers."""
    db, store = door.db, door.store
    By = Annotated[Actor, Depends(door.admin)]  # noqa: N806 - a type

    @api.get("/providers")
    async def list_providers() -> dict[str, Any]:
        """All providers, with what is stored of their health."""
        async with db.connection(Role.OPERATOR) as conn:
            return {"data": await store.list_all(conn)}

    @api.post("/providers", status_code=201)
    async def add_provider(body: ProviderBody, by: By) -> dict[str, Any]:
        """Add a provider; its key is encrypted for it and its host."""
        try:
            check_provider_name(body.name)
            url = check_base_url(body.base_url)
        except Misuse as exc:
            raise BadProvider(exc.message) from exc
        limits = {
            name: value
            for name in ("requests_per_minute", "concurrent_max")
            if (value := getattr(body, name)) is not None
        }
        async with db.transaction(Role.OPERATOR) as conn:
            await store.insert(
                conn,
                provider_id=uuid4(),
                name=body.name,
                wire=body.wire,
                base_url=url,
                api_key=_key(body.api_key),
                models=body.models,
                paid="free" if body.api_key is None else "api_key",
                default_model=body.default_model,
                display_name=body.display_name,
                priority=body.priority,
                weight=body.weight,
                rate_limits=limits,
                private=body.private,
                modelsdev_provider_id=body.modelsdev_provider_id,
            )
            await record_change(conn, "provider.added", by, body.name, base_url=url)
            return await store.show(conn, name=body.name)


def _add_one_provider(api: APIRouter, door: _Door) -> None:
    """Show, change and remove one provider."""
    db, store = door.db, door.store
    By = Annotated[Actor, Depends(door.admin)]  # noqa: N806 - a type

    @api.get("/providers/{name}")
    async def show_provider(name: str) -> dict[str, Any]:
        """One provider, and what this server sees of it."""
        async with db.connection(Role.OPERATOR) as conn:
            shown = await store.show(conn, name=name)
        provider = door.providers.registry.providers.get(name)
        if provider is None:
            return {**shown, "here": None}
        here = door.providers.shown(provider)
        return {
            **shown,
            "here": {
                "health": here.health.value,
                "breaker": here.breaker.value,
                "calls_in_flight": here.in_flight,
                "calls_last_minute": here.last_minute,
                "problem": provider.problem,
            },
        }

    @api.patch("/providers/{name}")
    async def change_provider(name: str, body: ProviderChange, by: By) -> dict[str, Any]:
        """Change a provider; see ProviderChange for what becomes of its key."""
        change = body.model_dump(exclude_unset=True, exclude={"api_key", "enabled"})
        if change.get("base_url", "") is None:
            raise BadProvider("base_url cannot be null", param="base_url")
        for field in ("priority", "weight", "private"):
            if change.get(field, 0) is None:
                raise BadProvider(f"{field} cannot be null", param=field)
        if "base_url" in change:
            try:
                change["base_url"] = check_base_url(change["base_url"])
            except Misuse as exc:
                raise BadProvider(exc.message, param="base_url") from exc
            change.setdefault("private", False)
        async with db.transaction(Role.OPERATOR) as conn:
            await store.change(conn, name=name, change=change)
            if "api_key" in body.model_fields_set:
                await store.set_key(conn, name=name, api_key=_key(body.api_key))
            if body.enabled is not None:
                await store.set_enabled(conn, name=name, enabled=body.enabled)
            await record_change(
                conn, "provider.changed", by, name, fields=sorted(body.model_fields_set)
            )
            return await store.show(conn, name=name)

    @api.delete("/providers/{name}", status_code=204)
    async def remove_provider(name: str, by: By) -> None:
        """Remove a provider, its key and its models; recorded calls keep its name."""
        async with db.transaction(Role.OPERATOR) as conn:
            await store.delete(conn, name=name)
            await record_change(conn, "provider.removed", by, name)


def _add_checks(api: APIRouter, door: _Door) -> None:
    """Ask a provider how it does."""
    db, store, providers, health = door.db, door.store, door.providers, HealthStore()

    @api.post("/providers/{name}/test")
    async def ask_provider(name: str) -> dict[str, Any]:
        """Ask it whether it serves, and write down how it went."""
        await providers.refresh()
        probe = await providers.probe_now(name)
        return {
            "serves": probe.healthy,
            "latency_ms": round(probe.latency_ms),
            "status": probe.status,
            "models": probe.models,
            "problem": probe.problem,
        }

    @api.post("/providers/{name}/verify")
    async def verify_provider(name: str, model: ModelName | None = None) -> dict[str, Any]:
        """Run the checks against it; six small calls."""
        await providers.refresh()
        await providers.verify(name, model=model)
        async with db.connection(Role.OPERATOR) as conn:
            return (await health.list_verifications(conn, name=name, max_count=1))[0]

    @api.get("/providers/{name}/verifications")
    async def list_verifications(
        name: str, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100
    ) -> dict[str, Any]:
        """Its verifications, the newest first."""
        async with db.connection(Role.OPERATOR) as conn:
            await store.show(conn, name=name)
            return {"data": await health.list_verifications(conn, name=name, max_count=limit)}


def _add_models(api: APIRouter, door: _Door) -> None:
    """List, fill in and change models."""
    db, models = door.db, ModelStore()

    @api.get("/models")
    async def list_models(
        provider: str | None = None,
        whole: Annotated[bool, Query(alias="all")] = False,
        after: str = "/",
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
    ) -> dict[str, Any]:
        """Models by provider and name; the next page is `after` the last provider/model."""
        begin = after.partition("/")
        async with db.connection(Role.OPERATOR) as conn:
            found = await models.list_models(
                conn,
                provider=provider,
                whole=whole,
                after=(begin[0], begin[2]),
                max_count=limit,
            )
        last = f"{found[-1]['provider']}/{found[-1]['model']}" if len(found) == limit else None
        return {"data": found, "next_after": last}

    @api.post("/models/sync")
    async def sync_models(provider: str | None = None) -> dict[str, Any]:
        """Fill in what the bundled catalogue knows; nothing is fetched."""
        catalog = bundled()
        async with db.transaction(Role.OPERATOR) as conn:
            done = await sync(
                conn,
                models,
                catalog,
                now=door.clock.now(),
                kind="snapshot",
                provider=provider,
                propose_price=door.propose_price,
            )
        found = [{"provider": d.provider, "models": d.models, "prices": d.prices} for d in done]
        return {"source": catalog.source, "dated": catalog.dated, "data": found}

    @api.patch("/models/{provider}/{model:path}")
    async def change_model(provider: str, model: str, body: ModelChange) -> dict[str, Any]:
        """List a model, or no more."""
        async with db.transaction(Role.OPERATOR) as conn:
            await models.set_enabled(conn, provider=provider, model=model, enabled=body.enabled)
            return await _model(models, conn, provider, model)

    @api.get("/models/{provider}/{model:path}")
    async def show_model(provider: str, model: str) -> dict[str, Any]:
        """All that is known of a model."""
        async with db.connection(Role.OPERATOR) as conn:
            return await _model(models, conn, provider, model)


def _add_routes(api: APIRouter, door: _Door) -> None:
    """Routes and aliases."""
    db, routes = door.db, RouteStore()

    @api.get("/routes")
    async def list_routes() -> dict[str, Any]:
        """All routes and aliases."""
        async with db.connection(Role.OPERATOR) as conn:
            return {"data": await routes.list_all(conn)}

    @api.post("/routes", status_code=201)
    async def add_route(body: RouteBody) -> dict[str, Any]:
        """Add a route: called as route/<name>, by its bare name too when it is an alias."""
        try:
            check_route_name(body.name)
        except Misuse as exc:
            raise BadRoute(exc.message, param="name") from exc
        columns = body.columns()
        async with db.transaction(Role.OPERATOR) as conn:
            return await routes.insert(
                conn,
                name=body.name,
                strategy=columns.pop("strategy", Strategy.PRIORITY).value,
                alias=columns.pop("is_alias", False),
                targets=body.specs(),
                description=columns.pop("description", None),
                policy=columns,
            )

    @api.get("/routes/{name}")
    async def show_route(name: str) -> dict[str, Any]:
        """One route."""
        async with db.connection(Role.OPERATOR) as conn:
            return await routes.show(conn, name=name)

    @api.patch("/routes/{name}")
    async def change_route(name: str, body: RouteChange) -> dict[str, Any]:
        """Change a route; targets that are given replace all."""
        change = body.columns()
        if "strategy" in change:
            change["strategy"] = change["strategy"].value
        async with db.transaction(Role.OPERATOR) as conn:
            return await routes.change(
                conn, name=name, change=change, targets=body.specs() if body.targets else None
            )

    @api.delete("/routes/{name}", status_code=204)
    async def remove_route(name: str) -> None:
        """Remove a route."""
        async with db.transaction(Role.OPERATOR) as conn:
            await routes.delete(conn, name=name)


async def _model(store: ModelStore, conn: Any, provider: str, model: str) -> dict[str, Any]:
    found = await store.list_models(conn, provider=provider, model=model, whole=True)
    if not found:
        raise ModelNotFound(f"{provider}/{model}")
    results = await store.list_benchmarks(conn, provider=provider, model=model)
    return {**found[0], "benchmarks": results}


def _key(secret: SecretStr | None) -> str | None:
    if secret is None:
        return None
    key = secret.get_secret_value().strip()
    if not key or not key.isprintable() or not key.isascii() or " " in key:
        raise BadProvider("an API key is one line of printable ASCII", param="api_key")
    return key
