"""What OpenAI's Responses API answers, told in its chat format, so that it is recorded alike."""

from typing import Any

import msgspec

from helix.providers.wires.chunks import Chunks, count, decoded, error_body, usage_of
from helix.providers.wires.lines import data_of_event

__all__ = ["ResponsesReader"]

_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}
_TEXTS = {
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "reasoning_content",
    "response.reasoning_text.delta": "reasoning_content",
}
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""


class _Item(msgspec.Struct):
    type: str = ""
    id: str | None = None
    call_id: str | None = None
    name: str = ""
    arguments: str = ""
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str = ""
    model: str = ""
    created_at: float = 0
    status: str | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None
    output: list[_Item] | None = None
    usage: Any = None


class _Event(msgspec.Struct):
    type: str
    response: _Response | None = None
    output_index: int = 0
    item: _Item | None = None
    delta: Any = None
    message: str | None = None
    code: str | None = None
    error: Any = None


_DecodeEvent = msgspec.json.Decoder(_Event)
_DecodeResponse = msgspec.json.Decoder(_Response)


class ResponsesReader:
    """Reads native events and answers of the Responses API, so that a call is recorded.

    Pure. One reader for one stream. ValueError is raised for what is no event or no answer.
    """

    def __init__(self) -> None:
        self.done = False
        self._chunks = Chunks("", "", 0)
        self._calls: dict[int, int] = {}

    def feed(self, event: bytes) -> list[dict[str, Any]]:
        """Return the chunks that one whole event tells; none for what repeats or only announces.

        An `error` event, or a failed response, gives a chunk with `error` alone.
        """
        data = data_of_event(event)
        if not data or data == b"[DONE]":
            return []
        told = decoded(_DecodeEvent, data)
        name = _TEXTS.get(told.type)
        if name is not None:
            if not isinstance(told.delta, str):
                raise ValueError("a delta is no text")
            return [self._chunks.delta({name: told.delta})] if told.delta else []
        if told.type == "response.function_call_arguments.delta":
            return self._arguments(told)
        if told.type == "response.output_item.added":
            return self._begin_item(told)
        if told.type == "response.created":
            _name(self._chunks, told.response or _Response())
            return [self._chunks.delta({"role": "assistant", "content": ""})]
        if told.type in _ENDS:
            return self._end(told.response or _Response())
        if told.type == "error":
            return [_error(told.error or {"message": told.message, "code": told.code})]
        return []

    def _begin_item(self, told: _Event) -> list[dict[str, Any]]:
        item = told.item
        if item is None or item.type != "function_call":
            return []
        number = self._calls[told.output_index] = len(self._calls)
        call = {"index": number, **_call(item)}
        return [self._chunks.delta({"tool_calls": [call]})]

    def _arguments(self, told: _Event) -> list[dict[str, Any]]:
        number = self._calls.get(told.output_index)
        if number is None or not isinstance(told.delta, str):
            raise ValueError("arguments of no call")
        piece = {"index": number, "function": {"arguments": told.delta}}
        return [self._chunks.delta({"tool_calls": [piece]})]

    def _end(self, told: _Response) -> list[dict[str, Any]]:
        _name(self._chunks, told)
        if told.error is not None or told.status == "failed":
            return [_error(told.error)]
        self.done = True
        found = [self._chunks.finish(_reason(told, bool(self._calls)))]
        usage = _usage(told.usage)
        return found if usage is None else [*found, self._chunks.usage(usage)]

    @staticmethod
    def whole(body: bytes) -> dict[str, Any]:
        """Return the chat completion that a whole answer tells, or `{"error": …}`."""
        told = decoded(_DecodeResponse, body)
        if told.error is not None or told.status == "failed":
            return _error(told.error)
        if told.output is None:
            raise ValueError("it has no output")
        parts = [part for item in told.output for part in item.content or []]
        texts = [part.text for part in parts if part.type == "output_text"]
        refusals = [part.refusal for part in parts if part.type == "refusal"]
        thoughts = [part.text for item in told.output for part in item.summary or []]
        calls = [_call(item) for item in told.output if item.type == "function_call"]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(texts) if texts else None,
        }
        if refusals:
            message["refusal"] = "".join(refusals)
        if thoughts:
            message["reasoning_content"] = "".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _reason(told, bool(calls)),
        }
        chunks = Chunks("", "", 0)
        _name(chunks, told)
        return chunks.whole([choice], _usage(told.usage))


def _name(chunks: Chunks, told: _Response) -> None:
    chunks.id = told.id or chunks.id
    chunks.model = told.model or chunks.model
    chunks.created = int(told.created_at) or chunks.created


def _call(item: _Item) -> dict[str, Any]:
    return {
        "id": item.call_id or item.id or "",
        "type": "function",
        "function": {"name": item.name, "arguments": item.arguments},
    }


def _reason(told: _Response, called: bool) -> str:
    if told.status == "incomplete":
        details = told.incomplete_details
        return _REASONS.get((details.reason if details is not None else None) or "", "stop")
    return "tool_calls" if called else "stop"


def _usage(told: Any) -> dict[str, Any] | None:
    if not isinstance(told, dict):
        return None
    of_input, of_output = told.get("input_tokens_details"), told.get("output_tokens_details")
    return usage_of(
        count(told.get("input_tokens")),
        count(told.get("output_tokens")),
        cached=count(of_input.get("cached_tokens")) if isinstance(of_input, dict) else None,
        reasoning=count(of_output.get("reasoning_tokens")) if isinstance(of_output, dict) else None,
    )


def _error(error: Any) -> dict[str, Any]:
    told = error if isinstance(error, dict) else {}
    return error_body(told.get("message"), told.get("type") or "response_failed", told.get("code"))
