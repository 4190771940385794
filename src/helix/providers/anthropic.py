"""The adapter for Anthropic's Messages API, translated or native."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit
from uuid import UUID

import msgspec

from helix.core.clock import Clock
from helix.providers.errors import OperationUnsupported
from helix.providers.http import HttpClient, Target
from helix.providers.listing import count, listed, probed, read_list, target_of
from helix.providers.translated import Refused, Spoken, exchange, in_thread_if_large
from helix.providers.types import Call, ListedModel, Operation, Probe, Provider, Reply
from helix.providers.wires.anthropic_answer import (
    MessagesTranslator,
    chat_of_message,
    refusal_of_messages,
)
from helix.providers.wires.anthropic_request import messages_request
from helix.providers.wires.canonical import read_chat

__all__ = ["AnthropicAdapter"]

VERSION = "2023-06-01"
_PAGES_MAX = 10
_NATIVE_HEADERS = ("anthropic-beta",)
_encode = msgspec.json.Encoder().encode


class _Model(msgspec.Struct):
    id: str
    display_name: str | None = None
    max_input_tokens: object = None
    max_tokens: object = None


class _Models(msgspec.Struct):
    data: list[_Model]
    has_more: bool = False
    last_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    provider: Provider
    target: Target


class AnthropicAdapter:
    """Sends calls to `<base_url>/messages`; `/v1` is added to a base URL that has no path."""

    operations = frozenset({Operation.CHAT, Operation.MESSAGES})

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._prepared: dict[UUID, _Prepared] = {}

    async def open(self, call: Call) -> Reply:
        """Send a call; see `types.Adapter`."""
        target = self._target(call.route.provider)
        if call.operation is Operation.MESSAGES:
            return await self._http.send(
                target,
                call.body,
                request_id=call.request_id,
                timeouts=call.timeouts,
                headers=_native_headers(call),
            )
        if call.operation is not Operation.CHAT:
            raise OperationUnsupported(call.route.provider.name, call.operation.value)
        body, json_tool, include_usage = await in_thread_if_large(call.body, lambda: _request(call))
        created = int(self._clock.now().timestamp())
        spoken = Spoken(
            "text/event-stream",
            MessagesTranslator(created=created, include_usage=include_usage, json_tool=json_tool)
            if call.stream
            else None,
            lambda told: chat_of_message(told, created=created, json_tool=json_tool),
            lambda told: Refused(refusal_of_messages(told)),
        )
        return await exchange(self._http, call, target, body, spoken)

    async def models(self, provider: Provider) -> list[ListedModel]:
        """Return the models that a provider lists; see `types.Adapter`."""
        found: list[_Model] = []
        after = ""
        for _page in range(_PAGES_MAX):
            path = f"{_prefix(provider)}/models?limit=1000{after}"
            target = target_of(provider, "GET", path, _headers(provider))
            page = await read_list(self._http, target, _Models, "GET /models")
            found += page.data
            if not page.has_more or not page.last_id:
                break
            after = f"&after_id={quote(page.last_id, safe='')}"
        return listed(
            ListedModel(
                model.id,
                model.display_name,
                context_window=count(model.max_input_tokens),
                max_output_tokens=count(model.max_tokens),
                operations=self.operations,
            )
            for model in found
        )

    async def probe(self, provider: Provider) -> Probe:
        """Ask a provider for its models; see `types.Adapter`."""
        return await probed(self._clock, self.models(provider))

    def _target(self, provider: Provider) -> Target:
        ready = self._prepared.get(provider.id)
        if ready is None or ready.provider is not provider:
            target = target_of(
                provider, "POST", f"{_prefix(provider)}/messages", _headers(provider)
            )
            ready = self._prepared[provider.id] = _Prepared(provider, target)
        return ready.target


def _request(call: Call) -> tuple[bytes, str | None, bool]:
    chat = read_chat(call.route.provider.name, call.body)
    body, json_tool = messages_request(chat, call.route.model)
    return _encode(body), json_tool, chat.include_usage


def _prefix(provider: Provider) -> str:
    return "" if urlsplit(provider.base_url).path.strip("/") else "/v1"


def _headers(provider: Provider) -> dict[str, str]:
    headers = {"anthropic-version": VERSION}
    if provider.api_key is not None:
        headers["x-api-key"] = provider.api_key
    return headers


def _native_headers(call: Call) -> str:
    """Return what a client of the native API may say by header, as whole lines."""
    lines = ""
    for name, value in (call.headers or {}).items():
        if name.lower() in _NATIVE_HEADERS and value.isascii() and value.isprintable():
            lines += f"{name.lower()}: {value}\r\n"
    return lines
