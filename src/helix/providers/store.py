"""The only code that runs the statements of providers."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from helix.core.crypto import Keyring, SecretUnreadable
from helix.core.db import Connection, Queries
from helix.core.log import get_log
from helix.providers.errors import ProviderExists, ProviderNotFound
from helix.providers.policy import Registry, registry_of
from helix.providers.types import Provider, Wire

__all__ = ["Store", "credential_context"]

_log = get_log(__name__)


def credential_context(provider_id: UUID) -> str:
    """Return the place that a provider's API key is encrypted for."""
    return f"provider_configs.value:{provider_id}:api_key"


class Store:
    """Reads and writes the registry; each method is given a connection and never commits."""

    def __init__(self, keyring: Keyring) -> None:
        self._queries = Queries("helix.providers")
        self._keyring = keyring

    async def mark(self, conn: Connection) -> str:
        """Return a value that changes whenever the registry does."""
        row = await self._queries.row(conn, "registry_mark")
        return "" if row is None else str(row["mark"])

    async def load(self, conn: Connection) -> Registry:
        """Return the registry as it stands, credentials opened.

        A credential that does not open makes its provider unusable and says so; the others serve.
        """
        models: dict[UUID, set[str]] = defaultdict(set)
        for row in await self._queries.rows(conn, "load_models"):
            models[row["provider_id"]].add(row["model_name"])
        sealed = {
            row["provider_id"]: row["value"]
            for row in await self._queries.rows(conn, "load_credentials")
        }
        rows = await self._queries.rows(conn, "load_providers")
        return registry_of([self._provider(row, models[row["id"]], sealed) for row in rows])

    def _provider(self, row: Any, models: set[str], sealed: dict[UUID, str]) -> Provider:
        api_key, problem = None, None
        if row["id"] in sealed:
            try:
                context = credential_context(row["id"])
                api_key = self._keyring.decrypt(sealed[row["id"]], context=context)
            except SecretUnreadable as exc:
                problem = "its stored API key does not open with the keys of this Helix"
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
    ) -> None:
        """Write a provider with its key (encrypted) and models; raises ProviderExists."""
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
            config={"origin": origin},
        )
        if row is None:
            raise ProviderExists(name)
        if api_key is not None:
            await self.put_credential(conn, provider_id=provider_id, api_key=api_key)
        await self.put_models(conn, provider_id=provider_id, models=models)

    async def find_origin(self, conn: Connection, *, name: str) -> tuple[UUID, str] | None:
        """Return the id of a provider and where it came from, held until the transaction ends."""
        row = await self._queries.row(conn, "find_provider", name=name)
        return None if row is None else (row["id"], row["config"].get("origin", "operator"))

    async def update_from_settings(
        self, conn: Connection, *, provider_id: UUID, base_url: str, api_key: str | None
    ) -> None:
        """Make a provider that came from settings as they say now; a no-op when it is."""
        await self._queries.run(conn, "update_settings_provider", id=provider_id, base_url=base_url)
        if api_key is None:
            await self._queries.run(conn, "delete_credentials", provider_ids=[provider_id])
        elif await self._credential(conn, provider_id) != api_key:
            await self.put_credential(conn, provider_id=provider_id, api_key=api_key)

    async def _credential(self, conn: Connection, provider_id: UUID) -> str | None:
        row = await self._queries.row(conn, "get_credential", provider_id=provider_id)
        if row is None:
            return None
        try:
            return self._keyring.decrypt(row["value"], context=credential_context(provider_id))
        except SecretUnreadable:
            return None

    async def withdraw(self, conn: Connection, *, keep: Sequence[str]) -> list[str]:
        """Set aside providers whose settings are gone, delete their keys, return their names."""
        rows = await self._queries.rows(conn, "withdraw_settings_providers", names=list(keep))
        ids = [row["id"] for row in rows]
        await self._queries.run(conn, "delete_credentials", provider_ids=ids)
        return [row["name"] for row in rows]

    async def put_credential(self, conn: Connection, *, provider_id: UUID, api_key: str) -> None:
        """Store a provider's API key, encrypted for this very row."""
        await self._queries.run(
            conn,
            "put_credential",
            provider_id=provider_id,
            value=self._keyring.encrypt(api_key, context=credential_context(provider_id)),
            key_id=self._keyring.key_id,
        )

    async def put_models(
        self, conn: Connection, *, provider_id: UUID, models: Sequence[str]
    ) -> None:
        """Add models to those a provider lists."""
        await self._queries.run(conn, "put_models", provider_id=provider_id, names=list(models))
        await self._queries.run(conn, "count_models", provider_id=provider_id)

    async def without_models(self, conn: Connection) -> list[tuple[UUID, str]]:
        """Return the providers whose list of models was never read."""
        rows = await self._queries.rows(conn, "providers_without_models")
        return [(row["id"], row["name"]) for row in rows]

    async def list_all(self, conn: Connection) -> list[dict[str, Any]]:
        """Return what can be shown of every provider; never a credential."""
        rows = await self._queries.rows(conn, "list_providers", name=None)
        return [dict(row) for row in rows]

    async def show(self, conn: Connection, *, name: str) -> dict[str, Any]:
        """Return what can be shown of one provider, with its models; raises ProviderNotFound."""
        rows = await self._queries.rows(conn, "list_providers", name=name)
        if not rows:
            raise ProviderNotFound(name)
        models = await self._queries.rows(conn, "list_models", provider_id=rows[0]["id"])
        return {**rows[0], "models": [row["model_name"] for row in models if row["is_active"]]}

    async def set_enabled(self, conn: Connection, *, name: str, enabled: bool) -> None:
        """Let a provider be called, or not; raises ProviderNotFound."""
        if await self._queries.row(conn, "set_enabled", name=name, enabled=enabled) is None:
            raise ProviderNotFound(name)

    async def delete(self, conn: Connection, *, name: str) -> None:
        """Remove a provider, its key and its models; raises ProviderNotFound."""
        if await self._queries.row(conn, "delete_provider", name=name) is None:
            raise ProviderNotFound(name)
