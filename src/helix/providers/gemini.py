"""The adapter for Google's Gemini API."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.providers.errors import OperationUnsupported
from helix.providers.http import HttpClient, Target
from helix.providers.listing import count, listed, probed, read_list, target_of
from helix.providers.translated import Refused, Spoken, exchange, in_thread_if_large
from helix.providers.types import Call, ListedModel, Operation, Probe, Provider, Reply
from helix.providers.wires.canonical import read_chat
from helix.providers.wires.embeddings import read_embeddings
from helix.providers.wires.gemini_answer import (
    GeminiTranslator,
    chat_of_generated,
    embeddings_of_gemini,
    refusal_of_gemini,
)
from helix.providers.wires.gemini_request import embed_request, generate_request

__all__ = ["GeminiAdapter"]

TARGETS_MAX = 1_000
_PAGES_MAX = 10
_KINDS = ("models/", "tunedModels/")
_METHODS = {
    "generateContent": Operation.CHAT,
    "embedContent": Operation.EMBEDDINGS,
}
_encode = msgspec.json.Encoder().encode


class _Model(msgspec.Struct, rename="camel"):
    name: str
    display_name: str | None = None
    input_token_limit: object = None
    output_token_limit: object = None
    supported_generation_methods: list[str] = []


class _Models(msgspec.Struct, rename="camel"):
    models: list[_Model] = []
    next_page_token: str | None = None


@dataclass(slots=True)
class _Prepared:
    """The targets of a provider as it is configured now, by model and method."""

    provider: Provider
    targets: dict[str, Target] = field(default_factory=dict)


class GeminiAdapter:
    """Sends calls to `<base_url>/models/<model>:<method>`.

    `/v1beta` is added to a base URL that has no path. The key goes in a header, never in the URL.
    """

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
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        model, answer_id = call.route.model, f"chatcmpl-{call.request_id}"
        created = int(self._clock.now().timestamp())
        translator = None
        if call.stream:
            translator = GeminiTranslator(
                model=model, answer_id=answer_id, created=created, include_usage=include_usage
            )
        spoken = Spoken(
            "text/event-stream",
            translator,
            lambda told: chat_of_generated(told, model=model, answer_id=answer_id, created=created),
            _refused,
        )
        return await exchange(self._http, call, self._target(call, method), body, spoken)

    async def _embed(self, call: Call) -> Reply:
        asked = read_embeddings(call.route.provider.name, call.body)
        body = _encode(embed_request(asked, _resource(call.route.model)))
        method = "embedContent" if asked.single else "batchEmbedContents"
        spoken = Spoken(
            "text/event-stream",
            None,
            lambda told: embeddings_of_gemini(told, asked, call.route.model),
            _refused,
        )
        return await exchange(self._http, call, self._target(call, method), body, spoken)

    async def models(self, provider: Provider) -> list[ListedModel]:
        """Return the models that a provider lists; see `types.Adapter`."""
        found: list[_Model] = []
        after = ""
        for _page in range(_PAGES_MAX):
            path = f"{_prefix(provider)}/models?pageSize=1000{after}"
            target = target_of(provider, "GET", path, _headers(provider))
            page = await read_list(self._http, target, _Models, "GET /models")
            found += page.models
            if not page.next_page_token:
                break
            after = f"&pageToken={quote(page.next_page_token, safe='')}"
        return listed(
            ListedModel(
                model.name.removeprefix("models/"),
                model.display_name,
                count(model.input_token_limit),
                count(model.output_token_limit),
                frozenset(
                    _METHODS[name]
                    for name in model.supported_generation_methods
                    if name in _METHODS
                ),
            )
            for model in found
        )

    async def probe(self, provider: Provider) -> Probe:
        """Ask a provider for its models; see `types.Adapter`."""
        return await probed(self._clock, self.models(provider))

    def _target(self, call: Call, method: str) -> Target:
        provider, model = call.route.provider, call.route.model
        ready = self._prepared.get(provider.id)
        if ready is None or ready.provider is not provider or len(ready.targets) >= TARGETS_MAX:
            ready = self._prepared[provider.id] = _Prepared(provider)
        key = f"{model}\n{method}"
        target = ready.targets.get(key)
        if target is None:
            path = f"{_prefix(provider)}/{_path(model)}:{method}"
            target = ready.targets[key] = target_of(provider, "POST", path, _headers(provider))
        return target


def _request(call: Call) -> tuple[bytes, bool]:
    chat = read_chat(call.route.provider.name, call.body)
    return _encode(generate_request(chat, call.route.model)), chat.include_usage


def _refused(told: Any) -> Refused:
    return Refused(*refusal_of_gemini(told))


def _resource(model: str) -> str:
    """Return a model's full name: models/… unless it says so itself."""
    return model if model.startswith(_KINDS) else f"models/{model}"


def _path(model: str) -> str:
    """Return the path of a model; what a client named stays one segment of it."""
    kind, _, name = _resource(model).partition("/")
    return f"{kind}/{quote(name, safe='')}"


def _prefix(provider: Provider) -> str:
    return "" if urlsplit(provider.base_url).path.strip("/") else "/v1beta"


def _headers(provider: Provider) -> dict[str, str]:
    return {} if provider.api_key is None else {"x-goog-api-key": provider.api_key}
