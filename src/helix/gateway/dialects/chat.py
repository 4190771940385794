"""OpenAI's chat completions: the canonical form, so that nothing is translated."""

from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.gateway.intake import IntakeLimits, read_chat
from helix.gateway.render import error_body, error_event
from helix.gateway.types import CallRequest
from helix.providers import Operation

__all__ = ["DONE_EVENT", "Chat", "data_event"]

DONE_EVENT = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def data_event(value: dict[str, Any]) -> bytes:
    """Return an event without a name, as OpenAI's older APIs send them."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


class Chat:
    """POST /v1/chat/completions."""

    name = "chat"
    path = "/v1/chat/completions"
    operation = Operation.CHAT
    native: Operation | None = Operation.CHAT
    identity = True

    def read(self, body: bytes, limits: IntakeLimits) -> CallRequest:
        """Return the call that a body asks for; see `types.Dialect`."""
        return read_chat(body, limits)

    def whole(self, answer: dict[str, Any], request: CallRequest, request_id: str) -> bytes:
        """Return the answer as it is."""
        return msgspec.json.encode(answer)

    def stream(self, request: CallRequest, request_id: str) -> "ChatRenderer":
        """Return the renderer of a stream that no provider sent: of a virtual model, or kept."""
        return ChatRenderer(include_usage=request.include_usage)

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return an error as OpenAI tells it."""
        return error_body(error, request_id)


class ChatRenderer:
    """Renders chunks as they are; usage by itself only for those who asked for it."""

    def __init__(self, *, include_usage: bool) -> None:
        self._include_usage = include_usage

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the chunk as an event."""
        if not self._include_usage and not chunk.get("choices") and chunk.get("usage") is not None:
            return b""
        return data_event(chunk)

    def end(self) -> bytes:
        """Return the event that ends a stream."""
        return DONE_EVENT

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the event that tells of an error."""
        return error_event(error, request_id)

    def ping(self) -> bytes:
        """Return a comment."""
        return PING
