"""Which adapter speaks which wire."""

from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from helix.core.clock import Clock
from helix.providers.anthropic import AnthropicAdapter
from helix.providers.gemini import GeminiAdapter
from helix.providers.http import HttpClient
from helix.providers.mock import MockAdapter
from helix.providers.ollama import OllamaAdapter
from helix.providers.openai import OpenAIAdapter
from helix.providers.types import Adapter, Operation, Provider, Wire

__all__ = ["adapters", "speaks_natively"]

_OWN_RESPONSES = ("api.openai.com", "openrouter.ai")


def adapters(http: HttpClient, clock: Clock) -> Mapping[Wire, Adapter]:
    """Return an adapter for every wire there is."""
    return MappingProxyType(
        {
            Wire.OPENAI: OpenAIAdapter(http, clock),
            Wire.ANTHROPIC: AnthropicAdapter(http, clock),
            Wire.GEMINI: GeminiAdapter(http, clock),
            Wire.OLLAMA: OllamaAdapter(http, clock),
            Wire.MOCK: MockAdapter(clock),
        }
    )


def speaks_natively(adapter: Adapter, provider: Provider, operation: Operation) -> bool:
    """Say whether a provider can be asked for an operation without translation by the gateway.

    Few of those that speak OpenAI's chat format speak its Responses format too; which do is known
    by their host.
    """
    if operation not in adapter.operations:
        return False
    if provider.wire is Wire.OPENAI and operation is Operation.RESPONSES:
        return (urlsplit(provider.base_url).hostname or "") in _OWN_RESPONSES
    return True
