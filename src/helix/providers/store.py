"""The only code that runs the statements of providers: the registry itself."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Connection, Queries
from helix.core.log import get_log
from helix.providers.errors import ProviderExists, ProviderNotFound
from helix.providers.facts import ModelFacts, RateLimits
from helix.providers.plan import RoutePolicy, Strategy
from helix.providers.policy import (
    Registry,
    RouteEntry,
    RouteTarget,
    origin_of,
    private_host,
    registry_of,
)
from helix.providers.types import ListedModel, Provider, Wire

__all__ = ["Store", "credential_context", "credential_places", "limits_of"]

_log = get_log(__name__)
_QUERIES = Queries("helix.providers")

_CAPABILITIES = {
    "supports_vision": "vision",
    "supports_function_calling": "tools",
    "supports_json_mode": "json_schema",
    "supports_streaming": "streaming",
    "supports_audio": "audio",
    "supports_reasoning": "reasoning",
}
_KEY_NEEDED = "its address changed to another host: store its API key again (helix providers key)"
_UNREADABLE = (
    "its stored API key does not open: it was stored for another address, or by a Helix with "
    "another encryption key; store it again (helix providers key)"
)


def credential_context(provider_id: UUID, base_url: str | None) -> str:
    """Return the place that a provider's API key is encrypted for: the row, and where it is sent.

    A base URL that leads to another host, however it got into the table, makes the key unreadable.
    """
    return f"provider_configs.value:{provider_id}:api_key:{origin_of(base_url or '')}"


async def credential_places(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return what the API key in each of these rows of provider_configs is encrypted for."""
    rows = await _QUERIES.rows(conn, "credential_places", ids=list(ids))
    return {row["id"]: credential_context(row["provider_id"], row["base_url"]) for row in rows}


class Store:
    """Reads and writes the registry; each method is given a connection and never commits.

    `policy` is that of names that are no route, and what a route leaves unsaid.
    """

    def __init__(self, keyring: Keyring, *, policy: RoutePolicy | None = None) -> None:
        self._queries = _QUERIES
        self._keyring = keyring
        self._policy = policy or RoutePolicy()

    async def mark(self, conn: Connection) -> str:
        """Return a value that changes whenever the registry does."""
        row = await self._queries.row(conn, "registry_mark")
        return "" if row is None else str(row["mark"])

    async def load(self, conn: Connection) -> Registry:
        """Return the registry as it stands, credentials opened.

        A credential that does not open makes its provider unusable and says so; the others serve.
        """
        models: dict[UUID, dict[str, ModelFacts]] = defaultdict(dict)
        for row in await self._queries.rows(conn, "load_models"):
            models[row["provider_id"]][row["model_name"]] = _facts(row)
        sealed = {
            row["provider_id"]: row["value"]
            for row in await self._queries.rows(conn, "load_credentials")
        }
        rows = await self._queries.rows(conn, "load_providers")
        routes = await self._routes(conn)
        return registry_of(
            [self._provider(row, models[row["id"]], sealed) for row in rows],
            routes,
            policy=self._policy,
        )

    async def _routes(self, conn: Connection) -> list[RouteEntry]:
        targets: dict[UUID, list[RouteTarget]] = defaultdict(list)
        for row in await self._queries.rows(conn, "load_route_targets"):
            targets[row["route_id"]].append(
                RouteTarget(row["provider_id"], row["model_name"], row["priority"], row["weight"])
            )
        return [
            RouteEntry(
                row["name"],
                Strategy(row["strategy"]),
                row["is_alias"],
                _policy(row, self._policy),
                tuple(targets[row["id"]]),
            )
            for row in await self._queries.rows(conn, "load_routes")
        ]

    def _provider(
        self, row: Any, models: Mapping[str, ModelFacts], sealed: dict[UUID, str]
    ) -> Provider:
        api_key, problem = None, _KEY_NEEDED if row["key_needed"] else None
        if row["id"] in sealed:
            try:
                context = credential_context(row["id"], row["base_url"])
                api_key = self._keyring.decrypt(sealed[row["id"]], context=context)
            except SecretUnreadable as exc:
                problem = _UNREADABLE
                _log.error("credential_unreadable", provider=row["name"], reason=exc.message)
        return Provider(
            id=row["id"],
            name=row["name"],
            wire=Wire(row["protocol"]),
            base_url=row["base_url"],
            priority=row["priority"],
            default_model=row["model"],
            models=frozenset(models),
            api_key=api_key,
            problem=problem,
            weight=row["weight"],
            limits=limits_of(row["rate_limits"]),
            private=row["private"],
            facts=MappingProxyType(dict(models)),
        )

    async def lock_registration(self, conn: Connection) -> None:
        """Wait until no other process registers providers, until the transaction ends."""
        await self._queries.row(conn, "lock_registration")

    async def insert(
        self,
        conn: Connection,
        *,
        provider_id: UUID,
        name: str,
        wire: Wire,
        base_url: str | None,
        api_key: str | None,
        models: Sequence[str],
        origin: str = "operator",
        paid: str = "api_key",
        default_model: str | None = None,
        display_name: str | None = None,
        priority: int = 5,
        weight: Decimal = Decimal(1),
        rate_limits: Mapping[str, int] | None = None,
        private: bool | None = None,
        modelsdev_provider_id: str | None = None,
    ) -> None:
        """Write a provider with its key (encrypted) and models; raises ProviderExists.

        `private` lets it stand at a loopback or private address; None: when its host says so.
        """
        row = await self._queries.row(
            conn,
            "insert_provider",
            id=provider_id,
            name=name,
            display_name=display_name,
            provider_type=paid,
            protocol=wire.value,
            base_url=base_url,
            model=default_model,
            priority=priority,
            weight=weight,
            rate_limits=dict(rate_limits or {}),
            modelsdev_provider_id=modelsdev_provider_id,
            config={
                "origin": origin,
                "private": private_host(base_url or "") if private is None else private,
            },
        )
        if row is None:
            raise ProviderExists(name)
        if api_key is not None:
            await self.put_credential(
                conn, provider_id=provider_id, base_url=base_url, api_key=api_key
            )
        await self.put_models(
            conn, provider_id=provider_id, models=[ListedModel(name) for name in models]
        )

    async def change(
        self, conn: Connection, *, name: str, change: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change a provider and return it as it is shown; raises ProviderNotFound.

        Fields: display_name, base_url, default_model, priority, weight, requests_per_minute,
        concurrent_max, private, modelsdev_provider_id; None takes a value away. A base URL that
        leads to another host deletes the stored key: the provider cannot be used until it is
        stored again.
        """
        row = await self._queries.row(conn, "find_provider", name=name)
        if row is None:
            raise ProviderNotFound(name)
        limits, config = dict(row["rate_limits"]), dict(row["config"])
        for limit in ("requests_per_minute", "concurrent_max"):
            if limit in change:
                limits.pop(limit, None)
                if change[limit] is not None:
                    limits[limit] = change[limit]
        if "private" in change:
            config["private"] = change["private"]
        base_url = change.get("base_url", row["base_url"])
        if origin_of(base_url or "") != origin_of(row["base_url"] or ""):
            if "private" not in change:
                config["private"] = private_host(base_url or "")
            tag = await self._queries.run(conn, "delete_credentials", provider_ids=[row["id"]])
            if tag != "DELETE 0":
                config["key_needed"] = True
        await self._queries.run(
            conn,
            "update_provider",
            id=row["id"],
            display_name=change.get("display_name", row["display_name"]),
            base_url=base_url,
            model=change.get("default_model", row["model"]),
            priority=change.get("priority", row["priority"]),
            weight=change.get("weight", row["weight"]),
            rate_limits=limits,
            modelsdev_provider_id=change.get("modelsdev_provider_id", row["modelsdev_provider_id"]),
            config=config,
        )
        return await self.show(conn, name=name)

    async def find_origin(self, conn: Connection, *, name: str) -> tuple[UUID, str] | None:
        """Return the id of a provider and where it came from, held until the transaction ends."""
        row = await self._queries.row(conn, "find_provider", name=name)
        return None if row is None else (row["id"], row["config"].get("origin", "operator"))

    async def update_from_settings(
        self,
        conn: Connection,
        *,
        provider_id: UUID,
        wire: Wire,
        base_url: str,
        api_key: str | None,
        private: bool,
        modelsdev_provider_id: str | None,
    ) -> None:
        """Make a provider that came from settings as they say now; a no-op when it is."""
        await self._queries.run(
            conn,
            "update_settings_provider",
            id=provider_id,
            protocol=wire.value,
            base_url=base_url,
            private=private,
            modelsdev_provider_id=modelsdev_provider_id,
        )
        if api_key is None:
            await self._queries.run(conn, "delete_credentials", provider_ids=[provider_id])
        elif await self._credential(conn, provider_id, base_url) != api_key:
            await self.put_credential(
                conn, provider_id=provider_id, base_url=base_url, api_key=api_key
            )

    async def _credential(
        self, conn: Connection, provider_id: UUID, base_url: str | None
    ) -> str | None:
        row = await self._queries.row(conn, "get_credential", provider_id=provider_id)
        if row is None:
            return None
        try:
            context = credential_context(provider_id, base_url)
            return self._keyring.decrypt(row["value"], context=context)
        except SecretUnreadable:
            return None

    async def withdraw(self, conn: Connection, *, keep: Sequence[str]) -> list[str]:
        """Set aside providers whose settings are gone, delete their keys, return their names."""
        rows = await self._queries.rows(conn, "withdraw_settings_providers", names=list(keep))
        ids = [row["id"] for row in rows]
        await self._queries.run(conn, "delete_credentials", provider_ids=ids)
        return [row["name"] for row in rows]

    async def put_credential(
        self, conn: Connection, *, provider_id: UUID, base_url: str | None, api_key: str
    ) -> None:
        """Store a provider's API key, encrypted for this very row and the host it is sent to."""
        context = credential_context(provider_id, base_url)
        await self._queries.run(
            conn,
            "put_credential",
            provider_id=provider_id,
            value=self._keyring.encrypt(api_key, context=context),
            key_id=self._keyring.key_id,
        )
        await self._queries.run(conn, "key_stored", id=provider_id)

    async def set_key(self, conn: Connection, *, name: str, api_key: str | None) -> None:
        """Store the key of a provider, or with None delete it; raises ProviderNotFound."""
        row = await self._queries.row(conn, "find_provider", name=name)
        if row is None:
            raise ProviderNotFound(name)
        if api_key is None:
            await self._queries.run(conn, "delete_credentials", provider_ids=[row["id"]])
            await self._queries.run(conn, "key_stored", id=row["id"])
        else:
            await self.put_credential(
                conn, provider_id=row["id"], base_url=row["base_url"], api_key=api_key
            )

    async def put_models(
        self, conn: Connection, *, provider_id: UUID, models: Sequence[ListedModel]
    ) -> None:
        """Add models to those a provider lists; of those known, what was never told is filled."""
        by_name = {model.name: model for model in models}
        await self._queries.run(
            conn,
            "put_models",
            provider_id=provider_id,
            names=list(by_name),
            display_names=[m.display_name for m in by_name.values()],
            context_windows=[m.context_window for m in by_name.values()],
            max_tokens=[m.max_output_tokens for m in by_name.values()],
        )
        await self._queries.run(conn, "count_models", provider_id=provider_id)

    async def models_synced(self, conn: Connection, *, provider_id: UUID) -> None:
        """Say that a provider's own list of models was read."""
        await self._queries.run(conn, "models_synced", provider_id=provider_id)

    async def without_models(self, conn: Connection) -> list[tuple[UUID, str]]:
        """Return the providers whose list of models was never read."""
        rows = await self._queries.rows(conn, "providers_without_models")
        return [(row["id"], row["name"]) for row in rows]

    async def list_all(self, conn: Connection) -> list[dict[str, Any]]:
        """Return what can be shown of every provider; never a credential."""
        return [_shown(row) for row in await self._queries.rows(conn, "list_providers", name=None)]

    async def troubles(self, conn: Connection) -> list[dict[str, str]]:
        """Return the enabled providers that cannot be used or fail, with why, by name."""
        return [dict(row) for row in await self._queries.rows(conn, "list_troubles")]

    async def show(self, conn: Connection, *, name: str) -> dict[str, Any]:
        """Return what can be shown of one provider; raises ProviderNotFound."""
        rows = await self._queries.rows(conn, "list_providers", name=name)
        if not rows:
            raise ProviderNotFound(name)
        return _shown(rows[0])

    async def set_enabled(self, conn: Connection, *, name: str, enabled: bool) -> None:
        """Let a provider be called, or not; raises ProviderNotFound."""
        if await self._queries.row(conn, "set_enabled", name=name, enabled=enabled) is None:
            raise ProviderNotFound(name)

    async def delete(self, conn: Connection, *, name: str) -> None:
        """Remove a provider, its key and its models; raises ProviderNotFound."""
        if await self._queries.row(conn, "delete_provider", name=name) is None:
            raise ProviderNotFound(name)


def _facts(row: Any) -> ModelFacts:
    return ModelFacts(
        known=row["known"],
        context_window=row["context_window"],
        max_output_tokens=row["max_tokens"],
        capabilities=frozenset(name for column, name in _CAPABILITIES.items() if row[column]),
        quality=row["quality"],
    )


def limits_of(kept: Mapping[str, Any]) -> RateLimits:
    """Return the limits kept in llm_providers.rate_limits; what is no positive count is none."""

    def count(name: str) -> int | None:
        value = kept.get(name)
        return value if isinstance(value, int) and value >= 1 else None

    return RateLimits(count("requests_per_minute"), count("concurrent_max"))


def _policy(row: Any, rest: RoutePolicy) -> RoutePolicy:
    def seconds(name: str, otherwise: float) -> float:
        return otherwise if row[name] is None else row[name] / 1_000

    return RoutePolicy(
        retries_max=rest.retries_max if row["retries_max"] is None else row["retries_max"],
        connect_s=seconds("connect_ms", rest.connect_s),
        first_token_s=seconds("first_token_ms", rest.first_token_s),
        between_tokens_s=seconds("between_tokens_ms", rest.between_tokens_s),
        total_s=seconds("total_ms", rest.total_s),
        retry_after_max_s=seconds("retry_after_max_ms", rest.retry_after_max_s),
        cache_s=None if row["cache_s"] is None else float(row["cache_s"]),
    )


def _shown(row: Any) -> dict[str, Any]:
    shown = dict(row)
    sealed = shown.pop("credential_key_id")
    shown["key"] = "needed" if shown["key_needed"] else "encrypted" if sealed else "none"
    return shown
