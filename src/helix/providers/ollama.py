"""The adapter for Ollama's own API, which tells more than its layer for OpenAI clients does."""

from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.providers.errors import OperationUnsupported
from helix.providers.http import HttpClient, Target
from helix.providers.listing import listed, probed, read_list, target_of
from helix.providers.translated import Refused, Spoken, exchange, in_thread_if_large
from helix.providers.types import Call, ListedModel, Operation, Probe, Provider, Reply
from helix.providers.wires.canonical import read_chat
from helix.providers.wires.embeddings import read_embeddings
from helix.providers.wires.ollama_answer import (
    OllamaTranslator,
    chat_of_ollama,
    embeddings_of_ollama,
    refusal_of_ollama,
)
from helix.providers.wires.ollama_request import chat_request, embed_request

__all__ = ["OllamaAdapter"]

_STREAM = "application/x-ndjson"
_encode = msgspec.json.Encoder().encode


class _Model(msgspec.Struct):
    name: str
    capabilities: list[str] | None = None


class _Models(msgspec.Struct):
    models: list[_Model]


@dataclass(frozen=True, slots=True)
class _Prepared:
    provider: Provider
    chat: Target
    embed: Target


class OllamaAdapter:
    """Sends calls to `<base_url>/api/chat` and `/api/embed`; `/api` may end the base URL."""

    operations = frozenset({Operation.CHAT, Operation.EMBEDDINGS})

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._prepared: dict[UUID, _Prepared] = {}

    async def open(self, call: Call) -> Reply:
        """Send a call; see `types.Adapter`."""
        if call.operation is Operation.CHAT:
            return await self._chat(call)
        if call.operation is Operation.EMBEDDINGS:
            return await self._embed(call)
        raise OperationUnsupported(call.route.provider.name, call.operation.value)

    async def _chat(self, call: Call) -> Reply:
        body, include_usage = await in_thread_if_large(call.body, lambda: _request(call))
        model, answer_id = call.route.model, f"chatcmpl-{call.request_id}"
        created = int(self._clock.now().timestamp())
        translator = None
        if call.stream:
            translator = OllamaTranslator(
                model=model, answer_id=answer_id, created=created, include_usage=include_usage
            )
        spoken = Spoken(
            _STREAM,
            translator,
            lambda told: chat_of_ollama(told, model=model, answer_id=answer_id, created=created),
            lambda told: Refused(refusal_of_ollama(told)),
        )
        target = self._targets(call.route.provider).chat
        return await exchange(self._http, call, target, body, spoken)

    async def _embed(self, call: Call) -> Reply:
        asked = read_embeddings(call.route.provider.name, call.body)
        spoken = Spoken(
            _STREAM,
            None,
            lambda told: embeddings_of_ollama(told, asked, call.route.model),
            lambda told: Refused(refusal_of_ollama(told)),
        )
        body = _encode(embed_request(asked, call.route.model))
        target = self._targets(call.route.provider).embed
        return await exchange(self._http, call, target, body, spoken)

    async def models(self, provider: Provider) -> list[ListedModel]:
        """Return the models that a provider has; see `types.Adapter`."""
        target = target_of(provider, "GET", f"{_prefix(provider)}/tags", _headers(provider))
        found = await read_list(self._http, target, _Models, "GET /api/tags")
        return listed(
            ListedModel(model.name, capabilities=frozenset(model.capabilities or []))
            for model in found.models
        )

    async def probe(self, provider: Provider) -> Probe:
        """Ask a provider for its models; see `types.Adapter`."""
        return await probed(self._clock, self.models(provider))

    def _targets(self, provider: Provider) -> _Prepared:
        ready = self._prepared.get(provider.id)
        if ready is None or ready.provider is not provider:
            prefix, headers = _prefix(provider), _headers(provider)
            ready = self._prepared[provider.id] = _Prepared(
                provider,
                target_of(provider, "POST", f"{prefix}/chat", headers),
                target_of(provider, "POST", f"{prefix}/embed", headers),
            )
        return ready


def _request(call: Call) -> tuple[bytes, bool]:
    chat = read_chat(call.route.provider.name, call.body)
    return _encode(chat_request(chat, call.route.model)), chat.include_usage


def _prefix(provider: Provider) -> str:
    return "" if urlsplit(provider.base_url).path.rstrip("/").endswith("/api") else "/api"


def _headers(provider: Provider) -> dict[str, str]:
    return {} if provider.api_key is None else {"Authorization": f"Bearer {provider.api_key}"}
