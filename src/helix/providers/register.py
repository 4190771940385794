"""Providers that nobody had to add: the mock, and those the settings name."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

from helix.core.config import Settings
from helix.core.db import Connection
from helix.providers.mock import MOCK_MODELS
from helix.providers.policy import check_base_url
from helix.providers.store import Store
from helix.providers.types import ListedModel, Wire

__all__ = ["WELL_KNOWN", "named_by_settings", "register"]

_MOCK_PRIORITY = 100  # a model of the same name elsewhere always goes first
_OLLAMA_PORT = 11434
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - where Ollama listens, when told so; it is called on loopback


@dataclass(frozen=True, slots=True)
class WellKnown:
    """A provider whose name, wire and place in the catalogue are known; its settings bear the name.

    `catalogue` is its id at models.dev.
    """

    name: str
    display_name: str
    wire: Wire
    catalogue: str


WELL_KNOWN = (
    WellKnown("openai", "OpenAI", Wire.OPENAI, "openai"),
    WellKnown("anthropic", "Anthropic", Wire.ANTHROPIC, "anthropic"),
    WellKnown("gemini", "Google Gemini", Wire.GEMINI, "google"),
    WellKnown("openrouter", "OpenRouter", Wire.OPENAI, "openrouter"),
    WellKnown("mistral", "Mistral", Wire.OPENAI, "mistral"),
    WellKnown("groq", "Groq", Wire.OPENAI, "groq"),
    WellKnown("deepseek", "DeepSeek", Wire.OPENAI, "deepseek"),
    WellKnown("together", "Together AI", Wire.OPENAI, "togetherai"),
    WellKnown("xai", "xAI", Wire.OPENAI, "xai"),
    WellKnown("cerebras", "Cerebras", Wire.OPENAI, "cerebras"),
    WellKnown("fireworks", "Fireworks AI", Wire.OPENAI, "fireworks-ai"),
)


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    display_name: str
    wire: Wire
    base_url: str
    paid: str
    private: bool
    catalogue: str | None
    api_key: str | None = field(default=None, repr=False)


def named_by_settings(settings: Settings) -> list[_Named]:
    """Return the providers that the settings name; raises Misuse for an address that is none.

    An operator who sets a base URL may set a private one; the usual ones are never that.
    """
    found = []
    for known in WELL_KNOWN:
        secret = getattr(settings, f"{known.name}_api_key")
        if secret is None or not secret.get_secret_value():
            continue
        setting = f"{known.name}_base_url"
        url = check_base_url(getattr(settings, setting))
        usual = url == type(settings).model_fields[setting].default
        found.append(
            _Named(
                known.name,
                known.display_name,
                known.wire,
                url,
                "api_key",
                not usual,
                known.catalogue,
                secret.get_secret_value(),
            )
        )
    if settings.ollama_host:
        url = _ollama_url(settings.ollama_host)
        found.append(_Named("ollama", "Ollama", Wire.OLLAMA, url, "free", True, None))
    return found


def _ollama_url(host: str) -> str:
    """Return the base URL that OLLAMA_HOST means, which also says where Ollama itself listens."""
    url = check_base_url(host if "://" in host else f"http://{host}")
    parts = urlsplit(url)
    named = parts.hostname or ""
    named = "127.0.0.1" if named == _ANY_ADDRESS else f"[{named}]" if ":" in named else named
    port = parts.port or (443 if parts.scheme == "https" else _OLLAMA_PORT)
    return f"{parts.scheme}://{named}:{port}{parts.path}"


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
        models = [ListedModel(name) for name in MOCK_MODELS]
        await store.put_models(conn, provider_id=mock[0], models=models)
    named = named_by_settings(settings)
    for provider in named:
        known = await store.find_origin(conn, name=provider.name)
        if known is None:
            await store.insert(
                conn,
                provider_id=uuid4(),
                name=provider.name,
                display_name=provider.display_name,
                wire=provider.wire,
                base_url=provider.base_url,
                api_key=provider.api_key,
                models=[],
                origin="settings",
                paid=provider.paid,
                private=provider.private,
                modelsdev_provider_id=provider.catalogue,
            )
        elif known[1] == "settings":
            await store.update_from_settings(
                conn,
                provider_id=known[0],
                wire=provider.wire,
                base_url=provider.base_url,
                api_key=provider.api_key,
                private=provider.private,
                modelsdev_provider_id=provider.catalogue,
            )
    return await store.withdraw(conn, keep=[provider.name for provider in named])
