"""The adapter for everything that speaks OpenAI's HTTP format, which most providers do.

Bodies and answers pass through byte for byte, whatever their fields.
"""

from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.providers.http import HttpClient, HttpReply, Target
from helix.providers.listing import count, listed, probed, read_list, target_of
from helix.providers.types import Call, ListedModel, Operation, Probe, Provider

__all__ = ["OpenAIAdapter"]

_PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETIONS: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
    Operation.MODERATIONS: "/moderations",
    Operation.RESPONSES: "/responses",
}


class _Model(msgspec.Struct):
    id: str
    context_length: object = None
    context_window: object = None
    max_model_len: object = None


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass(slots=True)
class _Prepared:
    """What is the same for all calls to a provider as it is configured now."""

    provider: Provider
    chat: Target
    others: dict[Operation, Target] = field(default_factory=dict)


class OpenAIAdapter:
    """Sends calls to `<base_url>/chat/completions` and its siblings, with the key as bearer."""

    operations = frozenset(_PATHS)

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._prepared: dict[UUID, _Prepared] = {}

    async def open(self, call: Call) -> HttpReply:
        """Send a call; see `types.Adapter`."""
        provider = call.route.provider
        ready = self._prepared.get(provider.id)
        if ready is None or ready.provider is not provider:
            ready = self._prepared[provider.id] = _Prepared(
                provider, _post_target(provider, Operation.CHAT)
            )
        target = ready.chat
        if call.operation is not Operation.CHAT:
            known = ready.others.get(call.operation)
            if known is None:
                known = ready.others[call.operation] = _post_target(provider, call.operation)
            target = known
        return await self._http.send(
            target, call.body, request_id=call.request_id, timeouts=call.timeouts
        )

    async def models(self, provider: Provider) -> list[ListedModel]:
        """Return the models that a provider lists; see `types.Adapter`."""
        target = target_of(provider, "GET", "/models", _headers(provider))
        found = await read_list(self._http, target, _Models, "GET /models")
        return listed(
            ListedModel(
                model.id,
                context_window=count(model.context_length)
                or count(model.context_window)
                or count(model.max_model_len),
            )
            for model in found.data
        )

    async def probe(self, provider: Provider) -> Probe:
        """Ask a provider for its models; see `types.Adapter`."""
        return await probed(self._clock, self.models(provider))


def _post_target(provider: Provider, operation: Operation) -> Target:
    headers = {**_headers(provider), "Content-Type": "application/json"}
    return target_of(provider, "POST", _PATHS[operation], headers)


def _headers(provider: Provider) -> dict[str, str]:
    headers = {}
    if provider.api_key is not None:
        headers["Authorization"] = f"Bearer {provider.api_key}"
    return headers
