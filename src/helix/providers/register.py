"""Providers that nobody had to add: the mock, and those the settings name."""

from dataclasses import dataclass, field
from uuid import uuid4

from helix.core.config import Settings
from helix.core.db import Connection
from helix.providers.mock import MOCK_MODELS
from helix.providers.policy import check_base_url
from helix.providers.store import Store
from helix.providers.types import Wire

__all__ = ["named_by_settings", "register"]

_MOCK_PRIORITY = 100  # a model of the same name elsewhere always goes first


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    display_name: str
    base_url: str
    paid: str
    api_key: str | None = field(default=None, repr=False)


def named_by_settings(settings: Settings) -> list[_Named]:
    """Return the providers that the settings name; raises Misuse for an address that is none."""
    found = []
    if settings.openai_api_key is not None and settings.openai_api_key.get_secret_value():
        found.append(
            _Named(
                "openai",
                "OpenAI",
                check_base_url(settings.openai_base_url),
                "api_key",
                settings.openai_api_key.get_secret_value(),
            )
        )
    if settings.ollama_host:
        host = settings.ollama_host
        url = check_base_url(host if "://" in host else f"http://{host}")
        found.append(_Named("ollama", "Ollama", f"{url}/v1", "free"))
    return found


async def register(conn: Connection, store: Store, settings: Settings) -> list[str]:
    """Make the registry hold the mock and what the settings name; return the names withdrawn.

    A provider of the same name that an operator added is left alone. One that came from settings
    which are gone is set aside and its key deleted; whether it is enabled stays the operator's.
    """
    await store.lock_registration(conn)
    if await store.find_origin(conn, name="mock") is None:
        await store.insert(
            conn,
            provider_id=uuid4(),
            name="mock",
            display_name="Mock (built in, no model behind it)",
            wire=Wire.MOCK,
            base_url=None,
            api_key=None,
            models=[],
            origin="built-in",
            paid="free",
            default_model="echo",
            priority=_MOCK_PRIORITY,
        )
    mock = await store.find_origin(conn, name="mock")
    if mock is not None and mock[1] == "built-in":
        await store.put_models(conn, provider_id=mock[0], models=MOCK_MODELS)
    named = named_by_settings(settings)
    for provider in named:
        known = await store.find_origin(conn, name=provider.name)
        if known is None:
            await store.insert(
                conn,
                provider_id=uuid4(),
                name=provider.name,
                display_name=provider.display_name,
                wire=Wire.OPENAI,
                base_url=provider.base_url,
                api_key=provider.api_key,
                models=[],
                origin="settings",
                paid=provider.paid,
            )
        elif known[1] == "settings":
            await store.update_from_settings(
                conn, provider_id=known[0], base_url=provider.base_url, api_key=provider.api_key
            )
    return await store.withdraw(conn, keep=[provider.name for provider in named])
