"""The adapter for everything that speaks OpenAI's HTTP format, which most providers do."""

from dataclasses import dataclass
from uuid import UUID

import msgspec

from helix.providers.errors import ProviderUnusable, UpstreamBroken
from helix.providers.http import HttpClient, HttpReply, Target
from helix.providers.types import Call, Provider

__all__ = ["OpenAIAdapter"]

LISTED_MAX = 5_000
LIST_BYTES_MAX = 8_000_000
_OK = 200


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is the same for all calls to a provider as it is configured now."""

    provider: Provider
    target: Target


class OpenAIAdapter:
    """Sends calls to `<base_url>/chat/completions` with the provider's key as bearer."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._prepared: dict[UUID, _Prepared] = {}

    async def open(self, call: Call) -> HttpReply:
        """Send a call; see `types.Adapter`."""
        provider = call.route.provider
        ready = self._prepared.get(provider.id)
        if ready is None or ready.provider is not provider:
            headers = {**_headers(provider), "Content-Type": "application/json"}
            target = _target(provider, "POST", "/chat/completions", headers)
            ready = self._prepared[provider.id] = _Prepared(provider, target)
        return await self._http.send(ready.target, call.body, request_id=call.request_id)

    async def models(self, provider: Provider) -> list[str]:
        """Return the names of the models that a provider lists.

        Raises what `open` does, and UpstreamBroken for an answer that is no list.
        """
        target = _target(provider, "GET", "/models", _headers(provider))
        reply = await self._http.send(target, None)
        try:
            if reply.status != _OK:
                raise UpstreamBroken(provider.name, f"GET /models gave status {reply.status}")
            body = b""
            while data := await reply.chunk():
                body += data
                if len(body) > LIST_BYTES_MAX:
                    raise UpstreamBroken(provider.name, "its list of models is too long")
        finally:
            reply.close()
        try:
            listed = msgspec.json.decode(body, type=_Models).data
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise UpstreamBroken(provider.name, "its list of models cannot be read") from exc
        names = sorted({model.id for model in listed if 0 < len(model.id) <= 255})
        return [name for name in names if name.isprintable()][:LISTED_MAX]


def _target(provider: Provider, method: str, path: str, headers: dict[str, str]) -> Target:
    try:
        return Target.of(provider.name, method, provider.base_url + path, headers)
    except ValueError as exc:
        raise ProviderUnusable(provider.name, str(exc)) from exc


def _headers(provider: Provider) -> dict[str, str]:
    headers = {
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "identity",
        "User-Agent": "helix",
    }
    if provider.api_key is not None:
        headers["Authorization"] = f"Bearer {provider.api_key}"
    return headers
