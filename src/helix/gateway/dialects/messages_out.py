"""Anthropic's Messages API, the way out: messages, the events of a stream, errors."""

from typing import Any

import msgspec

from helix.core.errors import HelixError
from helix.gateway.dialects.sequence import Block, Kind, Sequence, Step, Told
from helix.gateway.errors import UpstreamAnswered
from helix.gateway.types import CallRequest

__all__ = ["MessagesRenderer", "error_body", "message_of"]

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOPS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_of(answer: dict[str, Any], request: CallRequest, request_id: str) -> dict[str, Any]:
    """Return a canonical answer as a message. Of several choices it is the first."""
    told = Sequence()
    told.take(answer)
    told.end()
    return {
        **_head(told, request, request_id),
        "content": [_block(block) for block in told.blocks],
        "stop_reason": _stop_reason(told),
        "stop_sequence": told.stop_sequence,
        "usage": _usage(told.usage),
    }


def error_body(error: HelixError, request_id: str) -> bytes:
    """Return `{"type": "error", "error": {"type", "message", …}, "request_id"}`.

    Beside Anthropic's fields stand the code and the field at fault that Helix tells everywhere.
    """
    return msgspec.json.encode(_error(error, request_id))


class MessagesRenderer:
    """Renders canonical chunks as message_start, blocks one after the other, message_stop."""

    def __init__(self, request: CallRequest, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._told = Sequence()
        self._begun = False

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        """Return the events that a chunk gives."""
        steps = self._told.take(chunk)
        return self._start() + b"".join(_events(step) for step in steps)

    def end(self) -> bytes:
        """Return the events that close the last block and the message."""
        steps = self._told.end()
        delta = {
            "stop_reason": _stop_reason(self._told),
            "stop_sequence": self._told.stop_sequence,
        }
        return b"".join(
            (
                self._start(),
                *(_events(step) for step in steps),
                _event("message_delta", delta=delta, usage=_usage(self._told.usage)),
                _event("message_stop"),
            )
        )

    def error(self, error: HelixError, request_id: str) -> bytes:
        """Return the event that tells of an error."""
        return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"

    def ping(self) -> bytes:
        """Return a ping."""
        return _event("ping")

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message = {
            **_head(self._told, self._request, self._request_id),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**_usage(self._told.usage), "output_tokens": 0},
        }
        return _event("message_start", message=message) + _event("ping")


def _event(kind: str, **values: Any) -> bytes:
    return (
        b"event: "
        + kind.encode()
        + b"\ndata: "
        + msgspec.json.encode({"type": kind, **values})
        + b"\n\n"
    )


def _events(step: Step) -> bytes:
    block = step.block
    at = block.number
    if step.told is Told.BEGUN:
        return _event("content_block_start", index=at, content_block=_empty(block))
    if step.told is Told.ENDED:
        signed = b""
        if block.signature:
            delta = {"type": "signature_delta", "signature": block.signature}
            signed = _event("content_block_delta", index=at, delta=delta)
        return signed + _event("content_block_stop", index=at)
    if block.kind is Kind.TOOL:
        delta = {"type": "input_json_delta", "partial_json": step.text}
    elif block.kind is Kind.REASONING:
        delta = {"type": "thinking_delta", "thinking": step.text}
    else:
        delta = {"type": "text_delta", "text": step.text}
    return _event("content_block_delta", index=at, delta=delta)


def _empty(block: Block) -> dict[str, Any]:
    if block.kind is Kind.TOOL:
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}}
    if block.kind is Kind.REASONING:
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _block(block: Block) -> dict[str, Any]:
    if block.kind is Kind.TOOL:
        given = block.arguments
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": given}
    if block.kind is Kind.REASONING:
        return {"type": "thinking", "thinking": block.text, "signature": block.signature}
    return {"type": "text", "text": block.text}


def _head(told: Sequence, request: CallRequest, request_id: str) -> dict[str, Any]:
    return {
        "id": "msg_" + request_id.replace("-", ""),
        "type": "message",
        "role": "assistant",
        "model": told.head.get("model") or request.model,
    }


def _stop_reason(told: Sequence) -> str:
    kinds = {block.kind for block in told.blocks}
    if Kind.REFUSAL in kinds:
        return "refusal"
    reason = _STOPS.get(told.finish_reason or "stop", "end_turn")
    if reason == "end_turn":
        if Kind.TOOL in kinds:
            return "tool_use"
        if told.stop_sequence is not None:
            return "stop_sequence"
    return reason


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Return usage as Anthropic counts: input_tokens leave out what a cache read or wrote."""
    asked = usage.get("prompt_tokens_details")
    asked = asked if type(asked) is dict else {}
    read = _count(asked.get("cached_tokens"))
    written = _count(asked.get("cache_write_tokens") or asked.get("cache_creation_tokens"))
    told = usage.get("completion_tokens_details")
    thought = _count(told.get("reasoning_tokens")) if type(told) is dict else 0
    return {
        "input_tokens": max(0, _count(usage.get("prompt_tokens")) - read - written),
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": _count(usage.get("completion_tokens")),
        **({"output_tokens_details": {"thinking_tokens": thought}} if thought else {}),
    }


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _error(error: HelixError, request_id: str) -> dict[str, Any]:
    kind = _KINDS.get(error.status)
    if kind is None:
        kind = "api_error" if error.status >= 500 else "invalid_request_error"
    code = error.code
    if isinstance(error, UpstreamAnswered):
        code = error.provider_code or code
    return {
        "type": "error",
        "error": {
            "type": kind,
            "message": error.message,
            "code": code,
            "param": error.param,
        },
        "request_id": request_id,
    }
